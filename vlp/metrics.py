"""Metrics of a finding, as pure functions; and their patient-level bootstrap.

AUROC and average precision lie in 0..1, higher is better; where a class is empty they are undefined (NaN),
never 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kgkit.interface import BoolArray, DoubleArray, FloatArray

_BLOCK_CELLS = 1 << 18
"""Resamples x cases held at a time: 2 MB of float64 each."""


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> DoubleArray:
    """Area under the ROC curve by the rank statistic (Hanley and McNeil, 1982); ties count one half.

    Args:
        labels: 0/1 [n].
        scores: float [n].
        weights: float [..., n], how often each case counts; all once if not given. Leading axes are
            resamples.

    Returns:
        float64 [...]; NaN where positives or negatives have no weight, or a score is NaN.

    >>> float(auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    return _in_blocks(_auroc_block, labels, scores, weights)


def average_precision(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> DoubleArray:
    """Mean of the precision at each positive, ties taken together; NaN without positives.

    Args:
        labels: 0/1 [n].
        scores: float [n].
        weights: As in `auroc`.

    Returns:
        float64 [...].

    >>> round(float(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])), 4)
    0.8333
    """
    return _in_blocks(_precision_block, labels, scores, weights)


def _in_blocks(
    metric: Callable[[BoolArray, DoubleArray, DoubleArray], DoubleArray],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None,
) -> DoubleArray:
    """A metric over resamples, some at a time, so that memory stays flat and the columns in cache."""
    is_positive, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights)
    if len(values) == 0 or np.isnan(values).any():  # a score that is no number has no rank
        return np.full(counts.shape[:-1], np.nan)
    order = np.argsort(values, kind="stable")
    is_positive, values = is_positive[order], values[order]
    rows = counts.reshape(-1, len(values))
    step = max(1, _BLOCK_CELLS // len(values))
    parts = [
        metric(is_positive, values, rows[at : at + step][:, order].astype(np.float64))
        for at in range(0, len(rows), step)
    ]
    found = np.concatenate(parts) if parts else np.empty(0)
    return found.reshape(counts.shape[:-1])


def _auroc_block(is_positive: BoolArray, values: DoubleArray, counts: DoubleArray) -> DoubleArray:
    """Values ascending [n], counts [R, n]: float64 [R]."""
    first_of_tie = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    positives, negatives = (counts * side for side in (is_positive, ~is_positive))
    if len(first_of_tie) < len(values):
        positives, negatives = (np.add.reduceat(side, first_of_tie, axis=-1) for side in (positives, negatives))
    below = np.cumsum(negatives, axis=-1)
    won = np.einsum("rn,rn->r", positives, below - negatives / 2)
    pairs = positives.sum(axis=-1) * below[:, -1]
    area: DoubleArray = np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
    return area


def _precision_block(is_positive: BoolArray, values: DoubleArray, counts: DoubleArray) -> DoubleArray:
    first_of_tie = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    positives = counts * is_positive
    at_or_above = np.cumsum(counts[:, ::-1], axis=-1)[:, ::-1][:, first_of_tie]
    hits = np.cumsum(positives[:, ::-1], axis=-1)[:, ::-1][:, first_of_tie]
    gained = hits - np.concatenate([hits[:, 1:], np.zeros((len(hits), 1))], axis=1)
    precision = np.divide(hits, at_or_above, out=np.zeros_like(hits), where=at_or_above > 0)
    total = hits[:, 0]
    sums = np.einsum("rn,rn->r", gained, precision)
    found: DoubleArray = np.divide(sums, total, out=np.full(len(counts), np.nan), where=total > 0)
    return found


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[DoubleArray, DoubleArray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); both classes must be there."""
    is_positive = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(values[order], append=np.nan) != 0)
    hits = np.cumsum(is_positive[order])[last_of_tie] / is_positive.sum()
    alarms = np.cumsum(~is_positive[order])[last_of_tie] / (~is_positive).sum()
    return np.concatenate([[0.0], alarms]), np.concatenate([[0.0], hits])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        value: The metric on all cases; NaN if undefined.
        low: 2.5th percentile over the resamples; NaN if undefined.
        high: 97.5th percentile.
        resamples: Resamples in which it was defined.
    """

    value: float
    low: float
    high: float
    resamples: int


def estimate(value: float, resampled: DoubleArray) -> Estimate:
    """A value and the 2.5th and 97.5th percentiles of its resamples; undefined ones (NaN) are left out."""
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value) or len(defined) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), len(defined))


def patient_resamples(patients: Sequence[str], count: int, seed: int) -> FloatArray:
    """Bootstrap weights: patients are drawn with replacement, and a patient brings all of his studies.

    Args:
        patients: Patient of each study, [n].
        count: Number of resamples.
        seed: One generator makes them all, so that none repeats another but by chance.

    Returns:
        float32 [count, n], how often each study counts.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return drawn[:, patient_of].astype(np.float32)
