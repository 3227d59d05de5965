"""Ranking, defined once: filtered, both sides, realistic ties. Sees scores only.

Definitions follow PyKEEN (Berrendorf et al. 2020, "On the Ambiguity of Rank-Based Evaluation"); a test holds that the
figures equal its evaluator's on the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.errors import KgkitError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankingMetrics:
    """Figures of a set of ranking queries.

    Attributes:
        mrr: Mean reciprocal rank, 0..1, higher is better.
        hits_at_1: Share of queries with rank 1 (at most 1.0).
        hits_at_10: Share with rank 10 or better.
        mean_rank: 1-based, lower is better.
        num_queries: Number of queries.
        num_candidates: Candidates ranked per query, before filtering.
    """

    mrr: float
    hits_at_1: float
    hits_at_10: float
    mean_rank: float
    num_queries: int
    num_candidates: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {}


def realistic_ranks(
    scores: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]
) -> FloatArray:
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
    if np.isnan(scores).any():
        raise KgkitError("some scores are not a number, so nothing can be ranked; the vectors have diverged")
    own = np.take_along_axis(scores, positive[:, None], axis=1)
    counted = ~known
    np.put_along_axis(counted, positive[:, None], values=False, axis=1)
    better = ((scores > own) & counted).sum(axis=1)
    equal = ((scores == own) & counted).sum(axis=1)
    ranks: FloatArray = 1.0 + better + equal / 2
    return ranks


def summarise_ranks(ranks: FloatArray, num_candidates: int) -> RankingMetrics:
    """Figures of some ranks."""
    return RankingMetrics(
        mrr=float((1 / ranks).mean()),
        hits_at_1=float((ranks <= 1).mean()),
        hits_at_10=float((ranks <= 10).mean()),
        mean_rank=float(ranks.mean()),
        num_queries=len(ranks),
        num_candidates=num_candidates,
    )


def bootstrap_interval(values: FloatArray, seed: int, num_resamples: int = 1000) -> tuple[float, float]:
    """95% percentile interval of a mean; the resampled unit is one value."""
    generator = np.random.default_rng(seed)
    # One resample at a time: all at once would take num_resamples times the memory of the values.
    means = [values[generator.integers(0, len(values), size=len(values))].mean() for _ in range(num_resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
