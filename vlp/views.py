"""The ways a film is looked at in training: small moves, or KAD's augmentation. Drawn once, the same in every run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vlp.config import TowerConfig

_MAX_ZOOM, _MAX_SHIFT, _MAX_ROTATION_RAD = 0.10, 0.08, 0.12
_VIEW_SEED = 20_000

# KAD's numbers: RandomResizedCrop's area and aspect ratio; RandAugment with two operations of magnitude 7 out of 10.
_AREA, _LOG_RATIO = (0.2, 1.0), (math.log(3 / 4), math.log(4 / 3))
_MAGNITUDE, _OPERATIONS, _CHANCE = 0.7, 2, 0.5
_FACTOR = 0.1 + 1.8 * _MAGNITUDE  # of brightness and sharpness
_SHEAR, _PIXELS, _DEGREES = 0.3 * _MAGNITUDE, 10 * _MAGNITUDE, 30 * _MAGNITUDE
_GREY = 128
_KINDS = ("identity", "autocontrast", "equalize", "brightness", "sharpness", "shear x", "shear y", "translate x",
          "translate y", "rotate")  # fmt: skip


class View(Protocol):
    """One way of looking at a film."""

    def apply(self, images: Tensor) -> Tensor:
        """Films as seen so; float [B, S, S], grey 0..1, to the same."""
        ...


@dataclass(frozen=True, slots=True)
class FixedView:
    """An affine map of the square.

    Attributes:
        zoom: 1 is as it is, above 1 is closer.
        shift: (x, y), in half sides of the square.
        rotation: Radians.
    """

    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0

    def apply(self, images: Tensor) -> Tensor:
        """See `View`."""
        if self == FixedView():
            return images
        cos, sin = math.cos(self.rotation) / self.zoom, math.sin(self.rotation) / self.zoom
        matrix = torch.tensor([[cos, -sin, self.shift[0]], [sin, cos, self.shift[1]]], dtype=images.dtype)
        size = [len(images), 1, *images.shape[1:]]
        grid = F.affine_grid(matrix.expand(len(images), 2, 3), size, align_corners=False).to(images.device)
        return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


@dataclass(frozen=True, slots=True)
class KadView:
    """One draw of KAD's augmentation: a crop, perhaps mirrored, then up to two operations of RandAugment.

    It mirrors films, so that left and right are lost; that is KAD's choice, `FixedView` never does.

    Attributes:
        corner: (left, top) of the crop, in sides of the square.
        size: (width, height) of the crop, likewise.
        is_mirrored: Left for right.
        operations: Names, and for a move its direction, -1 or 1.
    """

    corner: tuple[float, float]
    size: tuple[float, float]
    is_mirrored: bool
    operations: tuple[tuple[str, int], ...]

    @classmethod
    def draw(cls, generator: np.random.Generator) -> KadView:
        """As RandomResizedCrop, RandomHorizontalFlip and RandAugment draw: a crop that does not fit is drawn anew."""
        while True:
            area, ratio = generator.uniform(*_AREA), math.exp(generator.uniform(*_LOG_RATIO))
            width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if width <= 1 and height <= 1:
                break
        corner = (generator.uniform(0, 1 - width), generator.uniform(0, 1 - height))
        is_mirrored = bool(generator.random() < 0.5)
        drawn = [(str(generator.choice(_KINDS)), int(generator.choice([-1, 1]))) for _ in range(_OPERATIONS)]
        kept = tuple(operation for operation in drawn if generator.random() < _CHANCE)
        return cls(corner, (width, height), is_mirrored, kept)

    def apply(self, images: Tensor) -> Tensor:
        """See `View`; on 8 bits, as KAD does it."""
        squares = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        seen = np.stack([np.asarray(self._look(Image.fromarray(square))) for square in squares])
        return torch.from_numpy(seen).to(images.device, images.dtype) / 255

    def _look(self, film: Image.Image) -> Image.Image:
        side = film.width
        left, top = (side * part for part in self.corner)
        width, height = (side * part for part in self.size)
        box = (left, top, left + width, top + height)
        seen = film.resize((side, side), Image.Resampling.BICUBIC, box=box)
        if self.is_mirrored:
            seen = ImageOps.mirror(seen)
        for kind, sign in self.operations:
            seen = _operate(seen, kind, sign)
        return seen


def training_views(config: TowerConfig) -> tuple[View, ...]:
    """`config.views` ways to look at a film, the first of which is the film itself."""
    if config.augmentation == "moves":
        return fixed_views(config.views)
    generator = np.random.default_rng(_VIEW_SEED)
    return (FixedView(), *(KadView.draw(generator) for _ in range(config.views - 1)))


def fixed_views(count: int) -> tuple[FixedView, ...]:
    """The film itself, then `count - 1` small moves, the same in every run."""
    generator = torch.Generator().manual_seed(_VIEW_SEED)
    views = [FixedView()]
    while len(views) < count:
        zoom, x, y, rotation = (torch.rand(4, generator=generator) * 2 - 1).tolist()
        views.append(FixedView(1 + _MAX_ZOOM * zoom, (_MAX_SHIFT * x, _MAX_SHIFT * y), _MAX_ROTATION_RAD * rotation))
    return tuple(views)


def _operate(film: Image.Image, kind: str, sign: int) -> Image.Image:
    """One operation of RandAugment; what comes into sight from outside is grey."""
    if kind == "autocontrast":
        return ImageOps.autocontrast(film)
    if kind == "equalize":
        return ImageOps.equalize(film)
    if kind == "brightness":
        return ImageEnhance.Brightness(film).enhance(_FACTOR)
    if kind == "sharpness":
        return ImageEnhance.Sharpness(film).enhance(_FACTOR)
    if kind == "rotate":
        return film.rotate(sign * _DEGREES, Image.Resampling.BILINEAR, fillcolor=_GREY)
    moved = {
        "shear x": (1, sign * _SHEAR, 0, 0, 1, 0),
        "shear y": (1, 0, 0, sign * _SHEAR, 1, 0),
        "translate x": (1, 0, sign * _PIXELS, 0, 1, 0),
        "translate y": (1, 0, 0, 0, 1, sign * _PIXELS),
    }
    if kind not in moved:
        return film
    how = Image.Resampling.BILINEAR
    return film.transform(film.size, Image.Transform.AFFINE, moved[kind], how, fillcolor=_GREY)
