"""Ranking and resampling, defined once: filtered, realistic ties, percentile bootstrap. Sees scores only.

Definitions follow PyKEEN (Berrendorf et al. 2020, "On the Ambiguity of Rank-Based Evaluation"); a test holds that the
figures equal its evaluator's on the same scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.arrays import BoolArray, DoubleArray, IntArray
from kgkit.errors import KgkitError

NUM_RESAMPLES = 1000
"""Bootstrap resamples behind every interval."""


@dataclass(frozen=True)
class RankingMetrics:
    """Figures of a set of ranking queries.

    Attributes:
        mrr: Mean reciprocal rank, 0..1, higher is better.
        hits_at_1: Share of queries with rank 1 (at most 1.0).
        hits_at_3: Share with rank 3 or better.
        hits_at_5: Share with rank 5 or better.
        hits_at_10: Share with rank 10 or better.
        mean_rank: 1-based, lower is better.
        num_queries: Number of queries.
        num_candidates: Candidates ranked per query, before filtering.
    """

    mrr: float
    hits_at_1: float
    hits_at_3: float
    hits_at_5: float
    hits_at_10: float
    mean_rank: float
    num_queries: int
    num_candidates: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {}


def realistic_ranks(scores: npt.NDArray[np.floating[Any]], positive: IntArray, known: BoolArray) -> DoubleArray:
    """Rank of the right candidate in each row; ties share the mean of the ranks they cover.

    The right candidate's score is taken from the scored row itself.

    Args:
        scores: float [Q, N], higher is better.
        positive: int64 [Q], column of the right candidate.
        known: bool [Q, N], other candidates known to be right: they do not count ("filtered").

    Returns:
        float64 [Q], 1-based.

    Raises:
        KgkitError: if a score is NaN, which would compare as beaten by nothing and rank first.

    >>> realistic_ranks(np.array([[3.0, 1.0, 3.0]]), np.array([0]), np.zeros((1, 3), dtype=bool))
    array([1.5])
    """
    _refuse_nan(scores)
    own = np.take_along_axis(scores, positive[:, None], axis=1)
    counted = ~known
    np.put_along_axis(counted, positive[:, None], values=False, axis=1)
    better = ((scores > own) & counted).sum(axis=1)
    equal = ((scores == own) & counted).sum(axis=1)
    ranks: DoubleArray = 1.0 + better + equal / 2
    return ranks


def filtered_ranks(
    scores: npt.NDArray[np.floating[Any]], positive: IntArray, starts: IntArray, columns: IntArray
) -> DoubleArray:
    """What `realistic_ranks` gives, with the known candidates as lists instead of a mask.

    Args:
        scores: float [Q, N], higher is better.
        positive: int64 [Q], column of the right candidate.
        starts: int64 [Q + 1], where each row's known columns begin in `columns`.
        columns: int64 [K], distinct within a row; the right candidate may be among them.

    Returns:
        float64 [Q], 1-based.

    Raises:
        KgkitError: if a score is NaN.

    >>> filtered_ranks(np.array([[3.0, 4.0, 3.0]]), np.array([0]), np.array([0, 1]), np.array([1]))
    array([1.5])
    """
    _refuse_nan(scores)
    own = scores[np.arange(len(scores)), positive]
    better = np.count_nonzero(scores > own[:, None], axis=1)
    equal = np.count_nonzero(scores == own[:, None], axis=1) - 1  # not itself
    rows = np.repeat(np.arange(len(scores)), np.diff(starts))
    is_other = columns != positive[rows]
    rows, known = rows[is_other], scores[rows[is_other], columns[is_other]]
    better = better - np.bincount(rows[known > own[rows]], minlength=len(scores))
    equal = equal - np.bincount(rows[known == own[rows]], minlength=len(scores))
    ranks: DoubleArray = 1.0 + better + equal / 2
    return ranks


def summarise_ranks(ranks: DoubleArray, num_candidates: int) -> RankingMetrics:
    """Figures of some ranks."""
    return RankingMetrics(
        mrr=float((1 / ranks).mean()),
        hits_at_1=float((ranks <= 1).mean()),
        hits_at_3=float((ranks <= 3).mean()),
        hits_at_5=float((ranks <= 5).mean()),
        hits_at_10=float((ranks <= 10).mean()),
        mean_rank=float(ranks.mean()),
        num_queries=len(ranks),
        num_candidates=num_candidates,
    )


def resample(num_units: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Iterator[IntArray]:
    """Bootstrap resamples of some units (queries, triples, documents), the same for the same number and seed.

    Equal draws for everything measured on the same units are what makes differences between methods paired.

    Yields:
        int64 [num_units]: numbers of the units drawn, with repeats.
    """
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):  # one at a time: all at once would take num_resamples times the memory
        yield generator.integers(0, num_units, size=num_units)


def percentile_interval(replicates: DoubleArray) -> tuple[float, float]:
    """95% percentile interval of a figure from its values on the resamples (Efron and Tibshirani 1993, chapter 13).

    Args:
        replicates: float64 [num_resamples]; NaN where a resample left the figure undefined, which is passed over.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_interval(values: DoubleArray, seed: int, num_resamples: int = NUM_RESAMPLES) -> tuple[float, float]:
    """95% percentile interval of a mean; the resampled unit is one value."""
    draws = resample(len(values), seed, num_resamples)
    return percentile_interval(np.array([values[drawn].mean() for drawn in draws]))


def _refuse_nan(scores: npt.NDArray[np.floating[Any]]) -> None:
    if np.isnan(scores).any():
        raise KgkitError("some scores are not a number, so nothing can be ranked; the vectors have diverged")
