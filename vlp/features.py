"""Patch features of films through a frozen tower: a few fixed views of each film, computed once and kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from kgkit.interface import progress
from vlp.config import TowerConfig
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData
from vlp.images import ResizePad, load_image
from vlp.towers import ImageTower

_MAX_ZOOM, _MAX_SHIFT, _MAX_ROTATION_RAD = 0.10, 0.08, 0.12
_VIEW_SEED = 20_000


@dataclass(frozen=True, slots=True)
class FixedView:
    """One way of looking at a film, as an affine map of the square.

    Attributes:
        zoom: 1 is as it is, above 1 is closer.
        shift: (x, y), in half sides of the square.
        rotation: Radians.
    """

    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0

    def apply(self, images: Tensor) -> Tensor:
        """Films as seen so; float [B, S, S] to [B, S, S]."""
        if self == FixedView():
            return images
        cos, sin = math.cos(self.rotation) / self.zoom, math.sin(self.rotation) / self.zoom
        matrix = torch.tensor([[cos, -sin, self.shift[0]], [sin, cos, self.shift[1]]], dtype=images.dtype)
        size = [len(images), 1, *images.shape[1:]]
        grid = F.affine_grid(matrix.expand(len(images), 2, 3), size, align_corners=False).to(images.device)
        return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def fixed_views(count: int) -> tuple[FixedView, ...]:
    """The film itself, then `count - 1` small moves, the same in every run."""
    generator = torch.Generator().manual_seed(_VIEW_SEED)
    views = [FixedView()]
    while len(views) < count:
        zoom, x, y, rotation = (torch.rand(4, generator=generator) * 2 - 1).tolist()
        views.append(FixedView(1 + _MAX_ZOOM * zoom, (_MAX_SHIFT * x, _MAX_SHIFT * y), _MAX_ROTATION_RAD * rotation))
    return tuple(views)


def load_squares(paths: Sequence[Path], input_size: int) -> Tensor:
    """Films fitted into squares: float32 [B, S, S], grey 0..1."""
    squares = []
    for path in paths:
        image = load_image(path)
        height, width = image.shape
        squares.append(torch.from_numpy(ResizePad((height, width), input_size).apply(image)))
    return torch.stack(squares)


def tower_arithmetic(config: TowerConfig, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic in which the frozen tower runs, in training and in use alike."""
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


def patch_features(tower: ImageTower, squares: Tensor, config: TowerConfig) -> Tensor:
    """Features of some films: float [B, S, S] to float16 [B, Hp, Wp, D]."""
    with torch.inference_mode(), tower_arithmetic(config, squares.device):
        features: Tensor = tower(squares)
    # inference tensors cannot take part in a later backward pass; a copy can
    return features.to(torch.float16).clone()


def cache_features(
    tower: ImageTower,
    data: PreparedData,
    films: pl.DataFrame,
    config: TowerConfig,
    *,
    views: int,
    device: torch.device,
    into: Tensor | None = None,
) -> Tensor:
    """Patch features of every view of every film.

    Args:
        tower: Frozen.
        data: Where the films are kept.
        films: Rows of `PreparedData.images`.
        config: Of the tower.
        views: Fixed views of each film.
        device: Where the tower is.
        into: Where to put them, if not into main memory.

    Returns:
        float16 [views, len(films), Hp, Wp, D].

    Raises:
        InputError: if a film cannot be read.
    """
    reader = FilmReader(data)
    grid = tower.geometry(config.input_size)
    shape = (views, len(films), grid.rows, grid.columns, grid.dim)
    kept = torch.empty(shape, dtype=torch.float16) if into is None else into
    looks = fixed_views(views)
    with progress("look at films", views * len(films), "images") as bar:
        for start in range(0, len(films), config.batch_size):
            batch = slice(start, start + config.batch_size)
            squares = torch.from_numpy(reader.squares(films[batch], config.input_size)).to(device)
            for position, look in enumerate(looks):
                kept[position, batch] = patch_features(tower, look.apply(squares), config).cpu()
                bar.advance(len(squares))
    return kept
