"""Is this a frontal chest film at all? A check, so that a model abstains instead of answering about a cat.

Three rules on the pixels (blank, coloured, tiny), then two opinions on the patch features, averaged over a 4 x 4 grid
and standardised:

- a distance that knows good films alone. It splits a film into principal directions of the training films and the
  rest, and is the mean squared principal component (Mahalanobis, variances shrunk towards their mean) plus the mean
  squared rest, relative to that of the training films. Laterals, natural pictures and crops lie far out: they hold
  what no training film holds;
- a linear score that tells training films from broken copies of them (turned, upside down, half a film, a piece of
  one, and inverted films where their features are given).

Both see moved, zoomed and turned copies of the training films as good ones, and so do the validation films that set
the limit: the films of another hospital are less tidy (portable, off centre, tilted, with a border). The opinions
are added, each in units of its spread over the validation films; either alone is fooled more often (a lateral is no
broken frontal, a turned film is made of the same parts as a good one).

Copies are made by moving the patch features, which costs no look through the tower. Grey values cannot be inverted
there, so inverted films have to be looked at: `inverted_features`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.linalg import eigh, solve
from torch.nn import functional as F

from kgkit.interface import DoubleArray, FloatArray, InputError
from vlp.config import TowerConfig
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData
from vlp.features import patch_features
from vlp.towers import ImageTower

INPUT_CHECK_FILE = "input_check.safetensors"
MIN_FILMS = 30
MAX_FILMS, MAX_INVERTED = 1500, 500
_GRID, _MAX_DIRECTIONS = 4, 256
_FILMS_PER_DIRECTION = 5
_SHRINKAGE = 0.1
_LEAST_SCALE = 0.1
_TAIL = 2.5
"""The limit lies so many times as far above the median as the 90th percentile of the validation films does. A high
percentile itself would not do: one upside-down film among 72 (Open-i has such) set it so high that laterals passed."""
_RIDGE = 0.005
"""Of the linear score, times the number of features."""
_MIN_VALIDATION, _VALIDATION_COPIES = 50, 2
_SEED = 17
_CHUNK = 256
_BLANK_RANGE, _MIN_SIDE, _MAX_COLOUR = 0.02, 64, 0.06

Features = npt.NDArray[np.floating]
Motion = Callable[[np.random.Generator], list[list[float]]]


@dataclass(frozen=True, slots=True)
class InputCheck:
    """What the training films of a model look like to its tower.

    Attributes:
        mean: float64 [K], K = 16 x channels.
        scale: float64 [K], standard deviations.
        directions: float64 [P, K], orthonormal rows.
        variances: float64 [P], along the directions, shrunk.
        rest: float64 [1], mean squared rest of the training films.
        weights: float64 [K], of the linear score.
        spreads: float64 [2], of distance and score over the validation films, from the lowest tenth to the highest.
        typical: float64 [1], distance / spread - score / spread of the median validation film.
        limit: float64 [1], the largest one that passes.
    """

    mean: DoubleArray
    scale: DoubleArray
    directions: DoubleArray
    variances: DoubleArray
    rest: DoubleArray
    weights: DoubleArray
    spreads: DoubleArray
    typical: DoubleArray
    limit: DoubleArray

    def distances(self, features: Features) -> DoubleArray:
        """How strange films are: float [n, Hp, Wp, D] to float64 [n].

        The typical film of the validation set has 0, and above 1 is refused; films more typical than that have less
        than 0.
        """
        found: DoubleArray = (self._raw(_grid(features)) - self.typical[0]) / (self.limit[0] - self.typical[0])
        return found

    def _raw(self, cells: DoubleArray) -> DoubleArray:
        distance, score = self._opinions(cells)
        raw: DoubleArray = distance / self.spreads[0] - score / self.spreads[1]
        return raw

    def _opinions(self, cells: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        """Distance and score, float64 [n] each."""
        x = (cells - self.mean) / self.scale
        along = x @ self.directions.T
        rest = ((x - along @ self.directions) ** 2).mean(axis=1)
        return (along**2 / self.variances).mean(axis=1) + rest / self.rest[0], x @ self.weights


def fit_input_check(
    train_features: Features, val_features: Features, inverted: Features | None = None
) -> InputCheck | None:
    """Fit on the training films, limit by the validation films; the same input gives the same check.

    Args:
        train_features: float [n, Hp, Wp, D], patch features of training films, seen as they are (view 0).
        val_features: float [m, Hp, Wp, D]; with fewer than 50, every fifth training film is held out for the limit.
        inverted: float [k, Hp, Wp, D], features of training films with black and white exchanged; without them, or
            with k = 0, an inverted film is likely to pass.

    Returns:
        None if there are fewer than 30 films to fit on.
    """
    train, val = train_features, val_features
    if len(val) < _MIN_VALIDATION:
        held_out = np.arange(len(train)) % 5 == 4
        train, val = train[~held_out], train[held_out]
    train, val = (part[:: math.ceil(len(part) / MAX_FILMS) or 1] for part in (train, val))
    if len(train) < MIN_FILMS:
        return None
    generator = np.random.default_rng(_SEED)
    good = np.concatenate([_grid(train), _moved(train, [_nudge], generator)])
    bad = [_moved(train, _BREAKS, generator)] + ([] if inverted is None or not len(inverted) else [_grid(inverted)])
    tried = np.concatenate([_grid(val)] + [_moved(val, [_nudge], generator) for _ in range(_VALIDATION_COPIES)])
    mean, scale = good.mean(axis=0), good.std(axis=0)
    scale += _LEAST_SCALE * scale.mean() + 1e-6  # a channel that is nearly always 0 must not decide alone
    x = (good - mean) / scale
    directions = _principal(x, min(_MAX_DIRECTIONS, max(1, len(train) // _FILMS_PER_DIRECTION)))
    along = x @ directions.T
    variances = along.var(axis=0)
    variances = (1 - _SHRINKAGE) * variances + _SHRINKAGE * variances.mean()
    rest = np.array([((x - along @ directions) ** 2).mean()])
    weights = _separate(x, [(part - mean) / scale for part in bad])
    one = np.ones(1)
    check = InputCheck(mean, scale, directions, variances, rest, weights, np.ones(2), 0 * one, one)
    spreads = np.array([np.subtract(*np.quantile(each, [0.9, 0.1])) for each in check._opinions(tried)]) + 1e-9
    check = InputCheck(mean, scale, directions, variances, rest, weights, spreads, 0 * one, one)
    raw = check._raw(tried)
    typical = np.array([np.median(raw[: len(val)])])
    middle, upper = np.quantile(raw, [0.5, 0.9])
    limit = np.array([middle + _TAIL * (upper - middle)])
    return InputCheck(mean, scale, directions, variances, rest, weights, spreads, typical, limit)


def inverted_features(
    tower: ImageTower, data: PreparedData, films: pl.DataFrame, config: TowerConfig, device: torch.device
) -> npt.NDArray[np.float16]:
    """Features of up to 500 films with black and white exchanged, for `fit_input_check`: float16 [k, Hp, Wp, D].

    Args:
        tower: Frozen.
        data: Where the films are kept.
        films: Training films, rows of `PreparedData.images`.
        config: Of the tower.
        device: Where the tower is.

    Raises:
        InputError: if a film cannot be read.
    """
    chosen = films.gather_every(math.ceil(len(films) / MAX_INVERTED) or 1)
    reader, grid = FilmReader(data), tower.geometry(config.input_size)
    found = [np.empty((0, grid.rows, grid.columns, grid.dim), dtype=np.float16)]
    for batch in chosen.iter_slices(config.batch_size):
        squares = torch.from_numpy(1 - reader.squares(batch, config.input_size)).to(device)
        found.append(patch_features(tower, squares, config).cpu().numpy())
    return np.concatenate(found)


def write_input_check(folder: Path, check: InputCheck | None) -> None:
    """Put it into a MODEL folder; None writes nothing."""
    if check is None:
        return
    tensors = {
        field.name: np.ascontiguousarray(getattr(check, field.name), dtype=np.float32) for field in fields(check)
    }
    temporary = folder / f".{INPUT_CHECK_FILE}.{os.getpid()}.tmp"
    temporary.write_bytes(save(tensors))  # save_file would make it readable by its owner alone
    temporary.replace(folder / INPUT_CHECK_FILE)


def load_input_check(folder: Path) -> InputCheck:
    """Read it from a MODEL folder.

    Raises:
        InputError: if the model has none, or it is damaged.
    """
    path = folder / INPUT_CHECK_FILE
    if not path.is_file():
        raise InputError(
            f"this model has no input check (trained by an older version, or on fewer than {MIN_FILMS} films)", path
        )
    try:
        tensors = load_file(path)
        return InputCheck(**{field.name: tensors[field.name].astype(np.float64) for field in fields(InputCheck)})
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged ({error})", path) from error
    except KeyError as error:
        raise InputError(f"has no {error}: made by another version, train again", path) from error


def refused_by_pixels(path: Path, grey: FloatArray) -> str | None:
    """Why a picture cannot be a film, by its pixels alone; None if nothing speaks against it.

    Args:
        path: The file, for its colours.
        grey: float32 [H, W], 0..1, as read.
    """
    height, width = grey.shape
    if min(height, width) < _MIN_SIDE:
        return f"too small: {width} x {height} pixels, expected {_MIN_SIDE} or more a side"
    low, high = np.quantile(grey, [0.01, 0.99])
    if high - low < _BLANK_RANGE:
        return "blank: no contrast"
    colour = _colour(path)
    return f"a coloured picture (mean saturation {colour:.2f})" if colour > _MAX_COLOUR else None


def refused_by_distance(distance: float) -> str | None:
    """Why a film is too far from those the model was trained on; None if it is not."""
    if distance <= 1:
        return None
    return f"not like the frontal chest films it was trained on ({distance:.2f} times the largest accepted distance)"


def _grid(features: Features) -> DoubleArray:
    """Patch features averaged over a 4 x 4 grid: float [n, Hp, Wp, D] to float64 [n, 16 D]."""
    count, rows, columns, dim = features.shape
    cells = np.empty((count, _GRID, _GRID, dim))
    edges = [np.linspace(0, size, _GRID + 1).round().astype(int) for size in (rows, columns)]
    for i in range(_GRID):
        for j in range(_GRID):
            top, left = edges[0][i], edges[1][j]
            bottom, right = max(edges[0][i + 1], top + 1), max(edges[1][j + 1], left + 1)
            cells[:, i, j] = features[:, top:bottom, left:right].astype(np.float64).mean(axis=(1, 2))
    return cells.reshape(count, _GRID * _GRID * dim)


def _colour(path: Path) -> float:
    """Mean distance between the strongest and the weakest colour of a pixel, 0..1; 0 for a grey picture."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                return 0.0
            image.thumbnail((128, 128))
            pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    except (OSError, ValueError, SyntaxError):
        return 0.0  # DICOM and others that Pillow does not read
    return float((pixels.max(axis=-1) - pixels.min(axis=-1)).mean())


def _principal(x: DoubleArray, count: int) -> DoubleArray:
    """The `count` directions of the greatest variance: float64 [n, K] to orthonormal rows [P, K]."""
    rows, columns = x.shape
    smaller = min(rows, columns)
    matrix = x.T @ x if columns <= rows else x @ x.T
    values, vectors = eigh(matrix, subset_by_index=[max(0, smaller - count), smaller - 1])
    found: DoubleArray = vectors.T if columns <= rows else vectors.T @ x / np.sqrt(np.maximum(values, 1e-9))[:, None]
    return np.ascontiguousarray(found[::-1])


def _separate(good: DoubleArray, bad: list[DoubleArray]) -> DoubleArray:
    """Ridge regression of 1 for good and -1 for bad: weights [K]. Every kind of bad, and good as a whole, counts alike.

    Solved over features or over films, whichever are fewer. A constant would not change which film is stranger.
    """
    x = np.concatenate([good, *bad])
    y = np.concatenate([np.ones(len(good)), -np.ones(len(x) - len(good))])
    share = [np.full(len(good), 0.5 / len(good))] + [np.full(len(part), 0.5 / len(part) / len(bad)) for part in bad]
    root = np.sqrt(np.concatenate(share))[:, None]
    middle = (root**2 * x).sum(axis=0)
    x, y = (x - middle) * root, y * root[:, 0]
    ridge = _RIDGE * x.shape[1]
    if x.shape[1] <= len(x):
        weights: DoubleArray = solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y, assume_a="pos")
    else:
        weights = x.T @ solve(x @ x.T + ridge * np.eye(len(x)), y, assume_a="pos")
    return weights


def _moved(features: Features, motions: list[Motion], generator: np.random.Generator) -> DoubleArray:
    """The grids of moved copies, one a film, by each motion in turn: float [n, Hp, Wp, D] to float64 [n, K]."""
    matrices = [motions[row % len(motions)](generator) for row in range(len(features))]
    found = []
    for start in range(0, len(features), _CHUNK):
        part = torch.from_numpy(np.asarray(features[start : start + _CHUNK], dtype=np.float32)).permute(0, 3, 1, 2)
        matrix = torch.tensor(matrices[start : start + _CHUNK], dtype=torch.float32)
        where = F.affine_grid(matrix, list(part.shape), align_corners=False)
        copies = F.grid_sample(part, where, padding_mode="border", align_corners=False)
        found.append(_grid(copies.permute(0, 2, 3, 1).numpy()))
    return np.concatenate(found)


def _affine(zoom: tuple[float, float], turn: float, shift: tuple[float, float]) -> list[list[float]]:
    """Where a copy takes its patches from: sides zoomed (x, y), turned by radians, shifted in half sides."""
    cos, sin = math.cos(turn), math.sin(turn)
    return [[zoom[0] * cos, -zoom[0] * sin, shift[0]], [zoom[1] * sin, zoom[1] * cos, shift[1]]]


def _nudge(generator: np.random.Generator) -> list[list[float]]:
    """As a good film may be: closer or farther, a little squeezed, turned up to 7 degrees, off centre."""
    zoom, squeeze = math.exp(generator.uniform(-0.2, 0.2)), math.exp(generator.uniform(-0.1, 0.1))
    x, y = generator.uniform(-0.15, 0.15, 2)
    return _affine((zoom * squeeze, zoom), generator.uniform(-0.12, 0.12), (x, y))


def _turn(generator: np.random.Generator) -> list[list[float]]:
    return _affine((1, 1), generator.uniform(math.pi / 3, 5 * math.pi / 3), (0, 0))


def _upside_down(generator: np.random.Generator) -> list[list[float]]:
    return _affine((1, -1), generator.uniform(-0.3, 0.3), (0, 0))


def _half(generator: np.random.Generator) -> list[list[float]]:
    """The left or the right half, as wide as a film."""
    side = float(generator.choice([-0.5, 0.5])) * generator.uniform(0.8, 1.1)
    return _affine((0.5, 1), 0, (side, generator.uniform(-0.1, 0.1)))


def _piece(generator: np.random.Generator) -> list[list[float]]:
    size = generator.uniform(0.25, 0.45)
    x, y = generator.uniform(-0.5, 0.5, 2)
    return _affine((size, size), generator.uniform(-0.2, 0.2), (x, y))


_BREAKS: list[Motion] = [_turn, _upside_down, _half, _piece]
