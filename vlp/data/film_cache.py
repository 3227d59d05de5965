"""What films look like to a frozen tower, or the squares a trained one sees: made once, kept in DATA and mapped.

DATA/looks/<digest>.bin    float16 [views, films, Hp, Wp, D], or uint8 [1, films, S, S]; made again where it is gone
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from kgkit.interface import progress
from vlp.config import TowerConfig
from vlp.data.film_reader import FilmLoader, FilmReader, LoaderConfig
from vlp.data.prepared import PreparedData
from vlp.features import cache_features
from vlp.towers import ImageTower
from vlp.views import View, training_views

_FOLDER = "looks"
_FILMS_AT_ONCE = 64


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

    def parts(self, rows: Tensor, view: int = 0) -> Iterator[Tensor]:
        """Films in one view, 64 at a time, as `look` gives them: all at once may be more than memory holds.

        Args:
            rows: int64 [N]; N may be 0.
            view: The view.
        """
        for part in torch.split(rows, _FILMS_AT_ONCE) if len(rows) else ():
            yield self.look(torch.full_like(part, view), part)

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
    path = _cache_path(tower, data, films, config)
    if config.trained_blocks:
        side = config.input_size

        def write_squares(kept: npt.NDArray[Any]) -> None:
            loader = FilmLoader(FilmReader(data), films, LoaderConfig(side))
            with progress("read films", len(films), "films") as bar:
                for batch in loader.epoch():
                    kept[0, batch.rows] = (batch.squares * 255).round().astype(np.uint8)
                    bar.advance(len(batch.rows))

        return FilmCache(_made_once(path, np.uint8, (1, len(films), side, side), write_squares), views, row_of)
    grid = tower.geometry(config.input_size)

    def write_features(kept: npt.NDArray[Any]) -> None:
        cache_features(tower, data, films, config, views=views, device=device, into=torch.from_numpy(kept))

    shape = (config.views, len(films), grid.rows, grid.columns, grid.dim)
    return FilmCache(_made_once(path, np.float16, shape, write_features), views, row_of)


def _made_once(
    path: Path, kind: type[np.generic], shape: tuple[int, ...], write: Callable[[npt.NDArray[Any]], None]
) -> Tensor:
    """A file of numbers of one kind, mapped; written first where it is not there whole."""
    wanted = np.dtype(kind).itemsize * math.prod(shape)
    if not wanted:
        return torch.from_numpy(np.empty(shape, dtype=kind))
    if not path.is_file() or path.stat().st_size != wanted:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            kept = np.memmap(partial, kind, "w+", shape=shape)
            write(kept)
            kept.flush()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return torch.from_numpy(np.memmap(path, kind, "c", shape=shape))  # copy on write: nobody can change the file


def _cache_path(tower: ImageTower, data: PreparedData, films: pl.DataFrame, config: TowerConfig) -> Path:
    """Named by all that decides what is in it: weights, size, arithmetic, views, films in their order."""
    parts: list[object] = ["squares", config.input_size]
    if not config.trained_blocks:
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
