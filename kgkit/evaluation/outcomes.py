"""What came out, query by query: figures, bootstrap intervals and paired differences are all made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kgkit.arrays import BoolArray, DoubleArray, IntArray
from kgkit.errors import InputError
from kgkit.ranking import percentile_interval, resample

Columns = Mapping[str, DoubleArray]
Statistic = Callable[[Columns, IntArray], dict[str, float]]
"""Figures of some queries, each counted as often as its weight (int64 [Q]) says."""


@dataclass(frozen=True)
class Outcomes:
    """What one method achieved on some queries.

    Attributes:
        queries: What was asked and what was right, one string per query; tells whether two methods can be paired.
        columns: Name -> float64 [Q], such as the reciprocal rank of each query.
        units: int64 [Q], number of the unit that is resampled (0..U-1): the query itself, its document, its report.
    """

    queries: Sequence[str]
    columns: Columns
    units: IntArray

    def part(self, chosen: BoolArray) -> Outcomes:
        """The chosen queries alone; units are numbered anew."""
        rows = np.flatnonzero(chosen)
        units = np.unique(self.units[rows], return_inverse=True)[1].reshape(-1)
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Outcomes([self.queries[row] for row in rows.tolist()], columns, units)


@dataclass(frozen=True)
class Measured:
    """Figures with their values on every bootstrap resample.

    Attributes:
        figures: Name -> value.
        replicates: Name -> float64 [num_resamples].
        num_queries: Queries behind them.
        num_units: Units that were resampled.
    """

    figures: dict[str, float]
    replicates: dict[str, DoubleArray]
    num_queries: int
    num_units: int

    def to_json(self) -> dict[str, Any]:
        """Each figure and, as `<figure>_interval`, its 95% interval; None where it is not defined."""
        return _with_intervals(self.figures, self.replicates) | {"num_queries": self.num_queries}

    def minus(self, other: Measured) -> dict[str, Any]:
        """Paired differences of the figures both have, in the layout of `to_json`; both on the same queries."""
        shared = [name for name in self.figures if name in other.figures]
        values = {name: self.figures[name] - other.figures[name] for name in shared}
        replicates = {name: self.replicates[name] - other.replicates[name] for name in shared}
        return _with_intervals(values, replicates) | {"num_queries": self.num_queries}


@dataclass(frozen=True)
class Answer:
    """What one method has to say to one task.

    Attributes:
        parts: Stratum -> outcomes; the first one is the headline. Empty if the method cannot do the task.
        about: Further facts for the reader (number of candidates, file).
        notes: Sentences that have to stand beside the figures.
        candidates: What was ranked; None where nothing is ranked.
        cannot: Why the method cannot do the task.
        statistics: Stratum -> what makes its figures, where that is not `means`.
    """

    parts: Mapping[str, Outcomes] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    cannot: str | None = None
    statistics: Mapping[str, Statistic] = field(default_factory=dict)


def rank_outcomes(queries: Sequence[str], ranks: DoubleArray, hits: Sequence[int], units: IntArray) -> Outcomes:
    """Outcomes of ranked queries: `mrr` and `hits_at_<k>`.

    Args:
        queries: What was asked.
        ranks: float64 [Q], 1-based; infinite where the right answer is no candidate.
        hits: The k to count.
        units: int64 [Q], as in `Outcomes`.
    """
    columns = {"mrr": 1 / ranks} | {f"hits_at_{k}": (ranks <= k).astype(np.float64) for k in hits}
    return Outcomes(queries, columns, units)


def means(columns: Columns, weights: IntArray) -> dict[str, float]:
    """The statistic that most tasks have: the mean of every column."""
    total = float(weights.sum())
    return {name: float(weights @ values) / total for name, values in columns.items()}


def figures_of(outcomes: Outcomes, statistic: Statistic = means) -> dict[str, float]:
    """The figures of some outcomes alone, without resamples."""
    return statistic(outcomes.columns, np.ones(len(outcomes.units), dtype=np.int64))


def measure(outcomes: Outcomes, seed: int, statistic: Statistic = means) -> Measured:
    """Figures of some outcomes, with their values on 1,000 resamples of the units.

    Args:
        outcomes: At least one query.
        seed: Of the resamples; equal seeds and units give equal draws.
        statistic: Makes the figures.
    """
    count = int(outcomes.units.max()) + 1
    figures = figures_of(outcomes, statistic)
    drawn = [statistic(outcomes.columns, np.bincount(units, minlength=count)[outcomes.units])
             for units in resample(count, seed)]  # fmt: skip
    replicates = {name: np.array([figure[name] for figure in drawn]) for name in figures}
    return Measured(figures, replicates, len(outcomes.units), count)


def refuse_unpaired(ours: Answer, theirs: Answer, where: str) -> None:
    """Paired differences need the same queries with the same right answers among the same candidates.

    Args:
        ours: Of the encoder that is measured.
        theirs: Of the one it is compared with.
        where: Name and folder of the latter, for the message.

    Raises:
        InputError: naming the first query that only one of them was asked.
    """
    if ours.candidates is not None and theirs.candidates is not None and ours.candidates != theirs.candidates:
        counts = f"{len(theirs.candidates):,} against {len(ours.candidates):,}"
        raise InputError(
            f"ranks other concepts ({counts}), so the two cannot be compared; train both on one graph", where
        )
    if not (ours.parts and theirs.parts):  # one of them cannot do the task, which is no other question
        return
    for part in {**ours.parts, **theirs.parts}:
        asked, others = (list(side.parts[part].queries) if part in side.parts else [] for side in (ours, theirs))
        if asked == others:
            continue
        alone = sorted(set(asked) ^ set(others)) or ["the order"]
        problem = f"the {part} queries differ, the first difference is {alone[0]!r} ({len(alone):,} in all)"
        raise InputError(f"{problem}; train both on one graph with one seed and one [held_out]", where)


def _with_intervals(figures: Mapping[str, float], replicates: Mapping[str, DoubleArray]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in figures.items():
        interval = [_defined(bound) for bound in percentile_interval(replicates[name])]
        row |= {name: _defined(value), f"{name}_interval": interval}
    return row


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
