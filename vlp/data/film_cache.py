"""What films look like to a frozen tower, computed once, kept in DATA and mapped from there; or the films themselves.

DATA/looks/<digest>.bin    float16 [views, films, Hp, Wp, D]; may be deleted, it will be made again
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vlp.config import TowerConfig
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData
from vlp.features import cache_features
from vlp.towers import ImageTower
from vlp.views import View, training_views

_FOLDER = "looks"


@dataclass(frozen=True)
class FilmCache:
    """Films, ready for a training step.

    Attributes:
        kept: float16 [V, M, Hp, Wp, D], patch features of V views; or uint8 [1, M, S, S], squares, where the tower is
            trained and has to see them itself.
        views: The views.
        row_of: (study id, path) -> row.
    """

    kept: Tensor
    views: tuple[View, ...]
    row_of: dict[tuple[str, str], int]

    @property
    def holds_features(self) -> bool:
        """Whether the films went through the tower already."""
        return self.kept.ndim == 5

    def look(self, views: Tensor, rows: Tensor) -> Tensor:
        """Some films, each in a view.

        Args:
            views: int64 [B].
            rows: int64 [B].

        Returns:
            float16 [B, Hp, Wp, D], features; or float32 [B, S, S], grey 0..1.
        """
        if self.holds_features:
            return self.kept[views, rows]
        squares = self.kept[0, rows].float() / 255
        for view in sorted(set(views.tolist())):
            squares[views == view] = self.views[view].apply(squares[views == view])
        return squares

    def rows_of(self, films: pl.DataFrame) -> Tensor:
        """int64 [len(films)], where the films of a table are."""
        pairs = films.select("study_id", "path").iter_rows()
        return torch.tensor([self.row_of[study, path] for study, path in pairs], dtype=torch.int64)


def cache_films(
    tower: ImageTower, data: PreparedData, films: pl.DataFrame, config: TowerConfig, device: torch.device
) -> FilmCache:
    """The films of a table: features in all views of a frozen tower, squares for one that is trained.

    Raises:
        InputError: if a film cannot be read.
    """
    row_of = {pair: row for row, pair in enumerate(films.select("study_id", "path").iter_rows())}
    views = training_views(config)
    if config.trained_blocks:
        squares = (FilmReader(data).squares(films, config.input_size) * 255).round().astype(np.uint8)
        return FilmCache(torch.from_numpy(squares)[None], views, row_of)
    grid = tower.geometry(config.input_size)
    shape = (config.views, len(films), grid.rows, grid.columns, grid.dim)
    path = _cache_path(tower, data, films, config)
    if not math.prod(shape):
        return FilmCache(torch.empty(shape, dtype=torch.float16), views, row_of)
    if not path.is_file() or path.stat().st_size != 2 * math.prod(shape):
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            kept = np.memmap(partial, np.float16, "w+", shape=shape)
            into = torch.from_numpy(kept)
            cache_features(tower, data, films, config, views=views, device=device, into=into)
            kept.flush()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    mapped = np.memmap(path, np.float16, "c", shape=shape)  # copy on write: nobody can change the file through it
    return FilmCache(torch.from_numpy(mapped), views, row_of)


def _cache_path(tower: ImageTower, data: PreparedData, films: pl.DataFrame, config: TowerConfig) -> Path:
    """Named by all that decides the features: weights, size, arithmetic, views, films in their order."""
    parts = [
        tower.spec.weights_sha256,
        config.input_size,
        config.stride,
        config.precision,
        config.views,
        config.augmentation,
    ]
    digest = hashlib.sha256(json.dumps([*parts, films["sha256"].to_list(), films["path"].to_list()]).encode())
    return data.folder / _FOLDER / f"{digest.hexdigest()[:32]}.bin"
