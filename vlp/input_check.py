"""Is this a frontal chest film at all? A one-class check, so that a model abstains instead of answering about a cat.

Three rules on the pixels (blank, coloured, tiny), then a distance: patch features averaged over a 4 x 4 grid,
standardised, split into principal directions of the training films and the rest. The distance is the mean squared
principal component (Mahalanobis, its variances shrunk towards their mean) plus the mean squared rest, relative to
that of the training films. Laterals, natural pictures and crops lie outside because the rest is large: they hold
what no training film holds. The limit is the 98th percentile of validation films times a margin, since films of
another hospital lie further out too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kgkit.interface import InputError

INPUT_CHECK_FILE = "input_check.safetensors"
MIN_FILMS = 30
KEPT_PART = 0.98
MARGIN = 1.25
_GRID, _MAX_DIRECTIONS, _MAX_FILMS = 4, 64, 3000
_FILMS_PER_DIRECTION = 5
_SHRINKAGE = 0.1
_MIN_VALIDATION = 50
_BLANK_RANGE, _MIN_SIDE, _MAX_COLOUR = 0.02, 64, 0.06

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class InputCheck:
    """What the training films of a model look like to its tower.

    Attributes:
        mean: float64 [K], K = 16 x channels.
        scale: float64 [K], standard deviations.
        directions: float64 [P, K], orthonormal rows.
        variances: float64 [P], along the directions, shrunk.
        rest: float64 [1], mean squared rest of the training films.
        limit: float64 [1], the largest distance that passes.
    """

    mean: FloatArray
    scale: FloatArray
    directions: FloatArray
    variances: FloatArray
    rest: FloatArray
    limit: FloatArray

    def distances(self, features: Features) -> FloatArray:
        """Distance of films as a part of the limit: float [n, Hp, Wp, D] to float64 [n]; above 1 is refused."""
        found: FloatArray = self._raw(_grid(features)) / self.limit[0]
        return found

    def _raw(self, cells: FloatArray) -> FloatArray:
        x = (cells - self.mean) / self.scale
        along = x @ self.directions.T
        rest = ((x - along @ self.directions) ** 2).mean(axis=1)
        found: FloatArray = (along**2 / self.variances).mean(axis=1) + rest / self.rest[0]
        return found


def fit_input_check(train_features: Features, val_features: Features) -> InputCheck | None:
    """Fit on the training films, limit by the validation films.

    Args:
        train_features: float [n, Hp, Wp, D], patch features of training films, seen as they are (view 0).
        val_features: float [m, Hp, Wp, D]; with fewer than 50, every fifth training film is held out for the limit.

    Returns:
        None if there are fewer than 30 films to fit on.
    """
    train, val = _grid(train_features[:: max(1, len(train_features) // _MAX_FILMS)]), _grid(val_features)
    if len(val) < _MIN_VALIDATION:
        held_out = np.arange(len(train)) % 5 == 4
        train, val = train[~held_out], train[held_out]
    if len(train) < MIN_FILMS:
        return None
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-3
    x = (train - mean) / scale
    _, _, directions = np.linalg.svd(x, full_matrices=False)
    directions = directions[: min(_MAX_DIRECTIONS, max(1, len(train) // _FILMS_PER_DIRECTION))]
    along = x @ directions.T
    variances = along.var(axis=0)
    variances = (1 - _SHRINKAGE) * variances + _SHRINKAGE * variances.mean()
    rest = ((x - along @ directions) ** 2).mean()
    check = InputCheck(mean, scale, directions, variances, np.array([rest]), np.ones(1))
    limit = MARGIN * np.quantile(check._raw(val), KEPT_PART, method="higher")
    return InputCheck(mean, scale, directions, variances, np.array([rest]), np.array([limit]))


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
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"damaged ({error})", path) from error


def refused_by_pixels(path: Path, grey: npt.NDArray[np.float32]) -> str | None:
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


def _grid(features: Features) -> FloatArray:
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
