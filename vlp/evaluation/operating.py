"""Answers as yes or no: thresholds, and what follows from them.

A film is called positive where its probability is at or above the threshold. Values are undefined (NaN) where the
labels lack the class a value speaks of; resamples go along the leading axes, as in `vlp.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kgkit.interface import DoubleArray


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of the four outcomes, float64 [...] each."""

    true_positives: DoubleArray
    false_positives: DoubleArray
    false_negatives: DoubleArray
    true_negatives: DoubleArray

    @property
    def sensitivity(self) -> DoubleArray:
        """Part of the positives that is called so; NaN without positives."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives, np.nan)

    @property
    def specificity(self) -> DoubleArray:
        """Part of the negatives that is called so; NaN without negatives."""
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives, np.nan)

    @property
    def f1(self) -> DoubleArray:
        """Harmonic mean of precision and sensitivity; NaN without positives, 0 if none is found."""
        positives = self.true_positives + self.false_negatives
        twice = 2 * self.true_positives
        found = _ratio(twice, twice + self.false_positives + self.false_negatives, 0.0)
        return np.where(positives > 0, found, np.nan)

    @property
    def mcc(self) -> DoubleArray:
        """Matthews correlation, -1..1; NaN if the labels are all of one class, 0 if the answers are."""
        positives = self.true_positives + self.false_negatives
        negatives = self.true_negatives + self.false_positives
        called = self.true_positives + self.false_positives
        spared = self.true_negatives + self.false_negatives
        top = self.true_positives * self.true_negatives - self.false_positives * self.false_negatives
        found = _ratio(top, np.sqrt(positives * negatives * called * spared), 0.0)
        return np.where(positives * negatives > 0, found, np.nan)


def confusion(labels: npt.ArrayLike, called: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Confusion:
    """Count outcomes.

    Args:
        labels: 0/1 [n].
        called: 0/1 [n], the answers.
        weights: float [..., n], how often each case counts; all once if not given.
    """
    truth, answers = np.asarray(labels, dtype=bool), np.asarray(called, dtype=bool)
    cells = np.stack([truth & answers, ~truth & answers, truth & ~answers, ~truth & ~answers], axis=1)
    if weights is None:
        counts = cells.sum(axis=0).astype(np.float64)
    else:
        kept = np.asarray(weights)
        counts = (kept @ cells.astype(kept.dtype)).astype(np.float64)  # whole numbers below 2^24: float32 is exact
    return Confusion(counts[..., 0], counts[..., 1], counts[..., 2], counts[..., 3])


def best_threshold(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The threshold with the highest Matthews correlation; of equally good ones the lowest.

    It lies half way between two scores, so that it belongs to no case. NaN if the labels are all of one class or the
    scores all the same.
    """
    thresholds, outcomes = _all_thresholds(labels, scores)
    values = outcomes.mcc
    if len(thresholds) == 0 or np.isnan(values).all():
        return float("nan")
    return float(thresholds[int(np.argmax(values))])


def threshold_at_specificity(labels: npt.ArrayLike, scores: npt.ArrayLike, specificity: float) -> float:
    """The lowest threshold at which this part of the negatives or more is called so; NaN without both classes."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.all() or not truth.any():
        return float("nan")
    thresholds, outcomes = _all_thresholds(truth, values)
    enough = np.flatnonzero(outcomes.specificity >= specificity)
    # Above every score nothing is called: specificity 1.
    return float(thresholds[enough[0]]) if len(enough) else float(np.nextafter(values.max(), np.inf))


def sensitivity_on_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, specificity: float) -> float:
    """The highest sensitivity that the ROC curve of these very cases reaches at this specificity or above."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    threshold = threshold_at_specificity(truth, values, specificity)
    return float("nan") if np.isnan(threshold) else float((values[truth] >= threshold).mean())


def _all_thresholds(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[DoubleArray, Confusion]:
    """Every threshold between two scores, ascending, and its outcomes."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    last_below = np.flatnonzero(np.diff(values[order]) > 0)
    ordered = values[order]
    thresholds = (ordered[last_below] + ordered[last_below + 1]) / 2
    missed = np.cumsum(truth[order])[last_below].astype(np.float64)
    spared = np.cumsum(~truth[order])[last_below].astype(np.float64)
    return thresholds, Confusion(truth.sum() - missed, (~truth).sum() - spared, missed, spared)


def _ratio(top: DoubleArray, bottom: DoubleArray, otherwise: float) -> DoubleArray:
    found: DoubleArray = np.divide(top, bottom, out=np.full(np.shape(bottom), otherwise), where=bottom > 0)
    return found
