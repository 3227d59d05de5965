"""Image towers: a square grey film in, patch features out; frozen, or with the last blocks trained.

`efficientnet-lite0` is built in; any other name is a transformers backbone, by folder or hub id (ResNet,
ConvNeXt, Swin, ViT, DINOv2, ...). A hub id is the only thing here that may use the network.

A pyramid (ResNet, ConvNeXt, Swin) is read at the wanted stride, and the stages behind that map are left out. KAD's
geometries: a ResNet-50 at 224 with stride 16 gives 14x14 patches of 1024, at 512 and 1024 with stride 32 16x16 and
32x32 of 2048; a ViT-B/16 at 224 gives 14x14 of 768.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kgkit.interface import InputError
from vlp.efficientnet import EfficientNetLite0, load_efficientnet_lite0

T = TypeVar("T")
EFFICIENTNET_LITE0 = "efficientnet-lite0"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_STRIDE = 16
_PROBE_SIDE = 64
_STAGE_LISTS, _BLOCK_LISTS = ("stages", "layers", "layer", "blocks"), ("layers", "blocks")
"""What transformers calls the list of stages or encoder layers, and the list of blocks within a stage."""


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """What is needed to rebuild a tower; its weights are kept apart.

    Attributes:
        name: `efficientnet-lite0`, or the transformers id or folder it was read from.
        architecture: The transformers configuration as a dict; None for `efficientnet-lite0`.
        mean: Per-channel mean that is subtracted, in units of 0..1 grey.
        std: Per-channel divisor, in units of 0..1 grey.
        weights_sha256: Digest over the tensors of the pretrained weights, in the order of their names.
        stride: Pixels per patch of the map that is read, where the network is a pyramid; a vision transformer has the
            stride of its patches.
    """

    name: str
    architecture: dict[str, Any] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str
    stride: int = DEFAULT_STRIDE


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
    """A backbone with its input normalisation; frozen until `unfreeze` is called, and always in evaluation mode.

    Attributes:
        spec: How to rebuild it.
        backbone: The network, without what lies behind the features.

    Raises:
        InputError: if the network is a pyramid without a map of the wanted stride.
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
        if isinstance(backbone, EfficientNetLite0):
            if spec.stride != DEFAULT_STRIDE:
                raise _no_such_stride(spec, [DEFAULT_STRIDE])
            self._blocks = tuple(backbone._blocks)
        else:
            self._blocks = _cut_behind(backbone, spec)

    def forward(self, images: Tensor) -> Tensor:
        """Patch features; differentiable in the weights that `unfreeze` chose, and no others are in the graph.

        Args:
            images: float [B, S, S], grey 0..1.

        Returns:
            float [B, Hp, Wp, D].
        """
        x = (images.unsqueeze(1) - self.mean) / self.std
        if isinstance(self.backbone, EfficientNetLite0):
            x = x.contiguous(memory_format=torch.channels_last)
            return self.backbone.feature_map(x).permute(0, 2, 3, 1)
        return _transformers_features(self.backbone, x, self.spec.stride)

    def train(self, mode: bool = True) -> ImageTower:
        """Evaluation mode whatever is asked, for a trained tower too.

        The statistics of a batch of eight or sixteen films are noise beside those of the pretraining, and dropped paths
        would make the features of a step other than those that are used.
        """
        super().train(False)
        return self

    @property
    def num_blocks(self) -> int:
        """Blocks between the input and the features, as `unfreeze` counts them; 0 where none can be told apart.

        A block is a residual block of a convolutional network or a layer of a transformer.
        """
        return len(self._blocks)

    def unfreeze(self, last_blocks: int) -> None:
        """Choose the weights that training may change.

        Args:
            last_blocks: 0 freezes the tower; n leaves the last n blocks and what follows them to training; -1 all.

        Raises:
            InputError: if there are not so many blocks.
        """
        blocks = self._blocks
        if not -1 <= last_blocks <= len(blocks):
            raise InputError(
                f"image tower {self.spec.name!r} has {len(blocks)} blocks that can be trained apart; expected 0 to "
                f"{len(blocks)}, or -1 for everything, not {last_blocks}"
            )
        self.requires_grad_(False)
        if last_blocks == 0:
            return
        # parameters stand in the order in which a film meets them
        ordered = list(self.backbone.parameters())
        first = 0
        if last_blocks > 0:
            start = next(blocks[-last_blocks].parameters())
            first = next(row for row, parameter in enumerate(ordered) if parameter is start)
        for parameter in self._that_matter(ordered[first:]):
            parameter.requires_grad_(True)

    def trained_parameters(self) -> list[nn.Parameter]:
        """The weights that training may change, in the order in which a film meets them; empty if frozen."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]

    def _that_matter(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        """Those that the features depend on: not a pooling layer's, or a token that only pretraining uses."""
        for parameter in parameters:
            parameter.requires_grad_(True)
        device = self.mean.device
        with torch.enable_grad():
            features = _at_some_size(self.backbone, lambda side: self(torch.rand(1, side, side, device=device)))
            gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        for parameter in parameters:
            parameter.requires_grad_(False)
        return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]

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


def load_tower(name: str, stride: int = DEFAULT_STRIDE) -> ImageTower:
    """A pretrained tower by name, folder or hub id; frozen.

    Args:
        name: `efficientnet-lite0`, or a transformers folder or hub id.
        stride: Wanted pixels per patch, where the network is a pyramid.

    Raises:
        InputError: if there is no such tower, its weights are not installed, or it is a pyramid without that stride.
    """
    if name == EFFICIENTNET_LITE0:
        network = _fast_on_cpu(load_efficientnet_lite0())
        spec = TowerSpec(name, None, (127 / 255,) * 3, (128 / 255,) * 3, weights_digest(network), stride)
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
    spec = TowerSpec(name, backbone.config.to_dict(), mean, std, weights_digest(backbone), stride)
    return ImageTower(backbone, spec)


def build_tower(spec: TowerSpec) -> ImageTower:
    """An empty tower of a known architecture, to be filled from a saved state; needs no weights package."""
    if spec.architecture is None:
        return ImageTower(_fast_on_cpu(EfficientNetLite0()), spec)
    from transformers import AutoConfig, AutoModel

    settings = dict(spec.architecture)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return ImageTower(AutoModel.from_config(config), spec)


def _transformers_features(backbone: nn.Module, x: Tensor, stride: int) -> Tensor:
    outputs = _run(backbone, x)
    wanted = (math.ceil(x.shape[-2] / stride), math.ceil(x.shape[-1] / stride))
    for features in reversed(_maps(outputs)):  # the deepest one; a cut pyramid ends with it
        if tuple(features.shape[-2:]) == wanted:
            return features.permute(0, 2, 3, 1)
    last: Tensor = outputs.last_hidden_state
    if last.ndim == 4:
        return last.permute(0, 2, 3, 1)
    rows, columns = _token_grid(backbone, x, last.shape[1])
    patches = last[:, last.shape[1] - rows * columns :]  # class and register tokens stand in front
    return patches.reshape(len(last), rows, columns, last.shape[2])


def _run(backbone: nn.Module, x: Tensor) -> Any:
    """All hidden states; learned positions are stretched where the film is not of the size of pretraining."""
    options: dict[str, bool] = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters:
        options["interpolate_pos_encoding"] = getattr(backbone.config, "image_size", None) != x.shape[-1]
    return backbone(x, **options)


def _maps(outputs: Any) -> list[Tensor]:
    """Feature maps [B, D, H, W] of a pyramid, the stem's first; none of a vision transformer."""
    states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states or ()
    return [state for state in states if state.ndim == 4]


def _cut_behind(backbone: nn.Module, spec: TowerSpec) -> tuple[nn.Module, ...]:
    """Leave out the stages behind the map that is read, and the norms that only the whole network has a use for.

    Returns:
        The blocks that are left; none where it is not clear which map is whose.
    """
    with torch.no_grad():
        outputs, side = _at_some_size(backbone, lambda side: (_run(backbone, torch.zeros(1, 3, side, side)), side))
    maps, stages = _maps(outputs), _stage_list(backbone)
    if not maps:
        return _blocks_of(stages)
    strides = [round(side / features.shape[-1]) for features in maps]
    if not _has_stages(stages) or len(maps) != len(stages) + 1:
        if spec.stride not in strides:
            raise _no_such_stride(spec, strides)
        return ()
    # Swin halves the map at the end of a stage, the others at its beginning
    ends_halved = [getattr(stage, "downsample", None) is not None for stage in stages]
    works_at = [strides[row] if halves else strides[row + 1] for row, halves in enumerate(ends_halved)]
    if spec.stride not in works_at:
        raise _no_such_stride(spec, works_at)
    depth = len(works_at) - works_at[::-1].index(spec.stride)
    del stages[depth:]
    if ends_halved[depth - 1]:
        stages[depth - 1].register_module("downsample", None)
    for name, child in list(backbone.named_children()):
        if isinstance(child, nn.LayerNorm):
            setattr(backbone, name, nn.Identity())
    return _blocks_of(stages)


def _no_such_stride(spec: TowerSpec, strides: Iterable[int]) -> InputError:
    known = ", ".join(str(stride) for stride in sorted(set(strides)))
    return InputError(f"image tower {spec.name!r} has no feature map of stride {spec.stride}; expected {known}")


def _at_some_size(backbone: nn.Module, ask: Callable[[int], T]) -> T:
    """Ask with a small square; some networks take only the size of their pretraining."""
    try:
        return ask(_PROBE_SIDE)
    except (RuntimeError, ValueError):
        side = getattr(getattr(backbone, "config", None), "image_size", None)
        if not isinstance(side, int):
            raise
        return ask(side)


def _stage_list(backbone: nn.Module) -> nn.ModuleList:
    """Stages of a pyramid or layers of a transformer; empty if the network keeps them elsewhere."""
    for parent in (backbone, getattr(backbone, "encoder", None), getattr(backbone, "model", None)):
        for name in _STAGE_LISTS:
            found = getattr(parent, name, None)
            if isinstance(found, nn.ModuleList):
                return found
    return nn.ModuleList()


def _within(stage: nn.Module) -> list[nn.Module]:
    """Blocks of a stage; empty if it is a block itself."""
    lists = (getattr(stage, name, None) for name in _BLOCK_LISTS)
    return next((list(found) for found in lists if isinstance(found, nn.ModuleList | nn.Sequential)), [])


def _has_stages(stages: nn.ModuleList) -> bool:
    return any(_within(stage) for stage in stages)


def _blocks_of(stages: nn.ModuleList) -> tuple[nn.Module, ...]:
    """What `ImageTower.unfreeze` counts."""
    blocks = (block for stage in stages for block in (_within(stage) or [stage]))
    return tuple(block for block in blocks if any(True for _ in block.parameters()))


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


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
