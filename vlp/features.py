"""Patch features of films through a frozen tower: a few fixed views of each film, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from kgkit.interface import progress
from vlp.config import TowerConfig
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData
from vlp.images import ResizePad, load_image
from vlp.towers import ImageTower
from vlp.views import View


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
    views: Sequence[View],
    device: torch.device,
    into: Tensor | None = None,
) -> Tensor:
    """Patch features of every view of every film.

    Args:
        tower: Frozen.
        data: Where the films are kept.
        films: Rows of `PreparedData.images`.
        config: Of the tower.
        views: Each film is seen in all of them.
        device: Where the tower is.
        into: Where to put them, if not into main memory.

    Returns:
        float16 [len(views), len(films), Hp, Wp, D].

    Raises:
        InputError: if a film cannot be read.
    """
    reader = FilmReader(data)
    grid = tower.geometry(config.input_size)
    shape = (len(views), len(films), grid.rows, grid.columns, grid.dim)
    kept = torch.empty(shape, dtype=torch.float16) if into is None else into
    with progress("look at films", len(views) * len(films), "images") as bar:
        for start in range(0, len(films), config.batch_size):
            batch = slice(start, start + config.batch_size)
            squares = torch.from_numpy(reader.squares(films[batch], config.input_size)).to(device)
            for position, look in enumerate(views):
                kept[position, batch] = patch_features(tower, look.apply(squares), config).cpu()
                bar.advance(len(squares))
    return kept
