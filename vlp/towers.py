"""Image towers: a square grey film in, patch features out.

`efficientnet-lite0` is built in; any other name is a transformers backbone, by folder or hub id (ResNet,
ConvNeXt, Swin, ViT, DINOv2, ...). A hub id is the only thing here that may use the network.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kgkit.interface import InputError
from vlp.efficientnet import EfficientNetLite0, load_efficientnet_lite0

EFFICIENTNET_LITE0 = "efficientnet-lite0"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WANTED_STRIDE = 16


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """What is needed to rebuild a tower; its weights are kept apart.

    Attributes:
        name: `efficientnet-lite0`, or the transformers id or folder it was read from.
        architecture: The transformers configuration as a dict; None for `efficientnet-lite0`.
        mean: Per-channel mean that is subtracted, in units of 0..1 grey.
        std: Per-channel divisor, in units of 0..1 grey.
        weights_sha256: Digest over the tensors of the weights, in the order of their names.
    """

    name: str
    architecture: dict[str, Any] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class PatchGeometry:
    """The grid of patches over the square.

    Attributes:
        rows: Hp.
        columns: Wp.
        dim: D, channels of a patch.
        first_centre: (y, x) of the centre of patch (0, 0) in input pixels, continuous; the next is one stride
            on.
    """

    rows: int
    columns: int
    dim: int
    first_centre: tuple[float, float]


class ImageTower(nn.Module):
    """A backbone with its input normalisation; always in evaluation mode.

    Attributes:
        spec: How to rebuild it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: TowerSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Patch features.

        Args:
            images: float [B, S, S], grey 0..1.

        Returns:
            float [B, Hp, Wp, D].
        """
        x = (images.unsqueeze(1) - self.mean) / self.std
        if isinstance(self.backbone, EfficientNetLite0):
            x = x.contiguous(memory_format=torch.channels_last)
            return self.backbone.feature_map(x).permute(0, 2, 3, 1)
        return _transformers_features(self.backbone, x)

    def train(self, mode: bool = True) -> ImageTower:
        """A frozen tower stays in evaluation mode: batch statistics and dropout never change its features."""
        super().train(False)
        return self

    def geometry(self, input_size: int) -> PatchGeometry:
        """Where the patches of a square of `input_size` pixels are and how many channels they have.

        Patch i is not always centred on its share of the square: padding moves it, by up to half a patch
        (measured on EfficientNet-Lite0: 7.5 of 16 pixels). The centre is found by asking which pixels move
        the middle patch.

        Raises:
            InputError: if the tower cannot take that size.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(0)
        films = torch.rand(4, input_size, input_size, generator=generator).to(device).requires_grad_()
        try:
            features = self(films)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"image tower {self.spec.name!r} cannot take {input_size} pixels ({reason})") from error
        _, rows, columns, dim = features.shape
        middle = features[:, rows // 2, columns // 2]
        (gradient,) = torch.autograd.grad((middle * torch.randn(dim, generator=generator).to(device)).sum(), films)
        weight = gradient.double().square().sum(0).cpu()
        pixels = torch.arange(input_size, dtype=torch.float64) + 0.5
        centre_y, centre_x = ((weight.sum(axis) * pixels).sum() / weight.sum() for axis in (1, 0))
        first_y = float(centre_y) - rows // 2 * input_size / rows
        first_x = float(centre_x) - columns // 2 * input_size / columns
        return PatchGeometry(rows, columns, dim, (round(first_y, 1), round(first_x, 1)))


def load_tower(name: str) -> ImageTower:
    """A pretrained tower by name, folder or hub id.

    Raises:
        InputError: if there is no such tower, or its weights are not installed.
    """
    if name == EFFICIENTNET_LITE0:
        network = _fast_on_cpu(load_efficientnet_lite0())
        spec = TowerSpec(name, None, (127 / 255,) * 3, (128 / 255,) * 3, _weights_digest(network))
        return ImageTower(network, spec)
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        backbone = AutoModel.from_pretrained(name, local_files_only=Path(name).exists())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no image tower {name!r}: not {EFFICIENTNET_LITE0!r}, no folder and no hub id ({reason})"
        ) from error
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name, local_files_only=Path(name).exists())
    except (OSError, ValueError):
        processor = {}
    mean = tuple(processor.get("image_mean", _IMAGENET_MEAN))
    std = tuple(processor.get("image_std", _IMAGENET_STD))
    spec = TowerSpec(name, backbone.config.to_dict(), mean, std, _weights_digest(backbone))
    return ImageTower(backbone, spec)


def build_tower(spec: TowerSpec) -> ImageTower:
    """An empty tower of a known architecture, to be filled from a saved state; needs no weights package."""
    if spec.architecture is None:
        return ImageTower(_fast_on_cpu(EfficientNetLite0()), spec)
    from transformers import AutoConfig, AutoModel

    settings = dict(spec.architecture)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return ImageTower(AutoModel.from_config(config), spec)


def _transformers_features(backbone: nn.Module, x: Tensor) -> Tensor:
    outputs = backbone(x, output_hidden_states=True)
    maps = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states or ()
    wanted = (math.ceil(x.shape[-2] / _WANTED_STRIDE), math.ceil(x.shape[-1] / _WANTED_STRIDE))
    for features in reversed(maps):  # the deepest feature map at stride 16, where the network is a pyramid
        if features.ndim == 4 and tuple(features.shape[-2:]) == wanted:
            found: Tensor = features.permute(0, 2, 3, 1)
            return found
    last: Tensor = outputs.last_hidden_state
    if last.ndim == 4:
        return last.permute(0, 2, 3, 1)
    rows, columns = _token_grid(backbone, x, last.shape[1])
    patches = last[:, last.shape[1] - rows * columns :]  # class and register tokens stand in front
    return patches.reshape(len(last), rows, columns, last.shape[2])


def _token_grid(backbone: nn.Module, x: Tensor, num_tokens: int) -> tuple[int, int]:
    patch = getattr(backbone.config, "patch_size", None)
    if isinstance(patch, int):
        rows, columns = x.shape[-2] // patch, x.shape[-1] // patch
        if rows * columns <= num_tokens:
            return rows, columns
    side = math.isqrt(num_tokens)
    return side, side


def _fast_on_cpu(network: nn.Module) -> nn.Module:
    """Channels last: up to twice as fast, same numbers."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _weights_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
