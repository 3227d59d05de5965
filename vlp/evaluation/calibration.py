"""Probabilities that mean what they say: Platt scaling and thresholds per finding, fitted on validation studies alone.

Platt (1999) with his smoothed targets. A finding with too few positive or negative validation studies to fit a
slope gets the slope of all findings together (a temperature, Guo et al., ICML 2017) and an intercept of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize

from kgkit.interface import BoolArray, DoubleArray, InputError, write_json_atomically
from vlp.evaluation.operating import best_threshold, threshold_at_specificity

CALIBRATION_FILE = "calibration.json"
MIN_FOR_SLOPE = 10
_EDGE = 1e-6
_MIN_SLOPE, _MAX_SLOPE = 0.05, 20.0
"""A slope of zero or below would turn the ranking round."""


@dataclass(frozen=True, slots=True)
class FindingCalibration:
    """How the answers to one query are read.

    Attributes:
        slope: Of the logit of the probability, above 0.
        intercept: Added to it.
        method: `platt`, or `shared-slope` where the finding has too few cases.
        threshold: Probability (as it comes from the model) at which Matthews correlation was highest; None if
            undefined.
        threshold_at_specificity: The lowest one with the wanted specificity; None if undefined.
        positives: Positive validation studies.
        n: Validation studies with a known label.
    """

    slope: float
    intercept: float
    method: str
    threshold: float | None
    threshold_at_specificity: float | None
    positives: int
    n: int

    def apply(self, probabilities: npt.ArrayLike) -> DoubleArray:
        """Calibrated probabilities, in the same order of size."""
        return _sigmoid(self.slope * logit(probabilities) + self.intercept)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of a model.

    Attributes:
        source: Whose labels it rests on.
        specificity: The one that `threshold_at_specificity` was chosen for.
        findings: Query key (see `query_key`) -> calibration.
    """

    source: str
    specificity: float
    findings: Mapping[str, FindingCalibration]


def query_key(concept: str | None, text: str) -> str:
    """Under which key a query stands in a calibration: its concept, else `text:` and its words."""
    return concept or f"text:{text.strip().casefold()}"


def fit_calibration(
    keys: Sequence[str], labels: DoubleArray, scores: DoubleArray, source: str, specificity: float = 0.9
) -> Calibration:
    """Fit on validation studies.

    Args:
        keys: Query key of each column.
        labels: float64 [n, F], 1, 0 or NaN where unknown.
        scores: float64 [n, F], probabilities.
        source: Whose labels these are.
        specificity: Wanted specificity, 0..1.

    Returns:
        One entry for each column with any known label.
    """
    columns = [(column, ~np.isnan(labels[:, column])) for column in range(len(keys))]
    cases = [
        (labels[known, column] == 1, scores[known, column], keys[column]) for column, known in columns if known.any()
    ]
    frequent = [(truth, values) for truth, values, _ in cases if _has_enough(truth)]
    slope = _shared_slope(frequent)
    findings = {}
    for truth, values, key in cases:
        pair, method = _fit([(truth, values)]), "platt"
        if not _has_enough(truth):
            pair, method = (slope, _intercept(truth, values, slope)), "shared-slope"
        threshold = best_threshold(truth, values)
        specific = threshold_at_specificity(truth, values, specificity)
        findings[key] = FindingCalibration(
            *pair, method, _or_none(threshold), _or_none(specific), int(truth.sum()), len(truth)
        )
    return Calibration(source, specificity, findings)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write it as JSON."""
    write_json_atomically(path, asdict(calibration))


def load_calibration(path: Path) -> Calibration:
    """Read what `save_calibration` wrote.

    Raises:
        InputError: if it is missing or not a calibration.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Calibration).validate_python(content)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    except (ValueError, ValidationError) as error:
        raise InputError(f"not a calibration ({str(error).splitlines()[0]})", path) from error


def logit(probabilities: npt.ArrayLike) -> DoubleArray:
    """Log odds, kept finite."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), _EDGE, 1 - _EDGE)
    odds: DoubleArray = np.log(clipped) - np.log1p(-clipped)
    return odds


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> DoubleArray:
    """Mean probability, observed frequency and cases in bins of equal size, lowest first: float64 [bins, 3]."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    groups = [group for group in np.array_split(np.argsort(values, kind="stable"), bins) if len(group)]
    rows = [(values[group].mean(), truth[group].mean(), len(group)) for group in groups]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def expected_calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> float:
    """Mean distance of probability and frequency over the bins of `reliability`, by size; NaN without cases."""
    table = reliability(labels, probabilities, bins)
    if len(table) == 0:
        return float("nan")
    return float((np.abs(table[:, 0] - table[:, 1]) * table[:, 2]).sum() / table[:, 2].sum())


def _has_enough(truth: BoolArray) -> bool:
    return min(int(truth.sum()), int((~truth).sum())) >= MIN_FOR_SLOPE


def _targets(truth: BoolArray) -> DoubleArray:
    """Platt's: a finding with few positives is never quite certain."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    return np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _fit(cases: list[tuple[BoolArray, DoubleArray]]) -> tuple[float, float]:
    """Slope shared by all cases and the intercept of the first."""
    odds, targets = [logit(values) for _, values in cases], [_targets(truth) for truth, _ in cases]

    def loss(weights: DoubleArray) -> tuple[float, DoubleArray]:
        value, gradient = 0.0, np.zeros(len(weights))
        for row, (x, target) in enumerate(zip(odds, targets, strict=True)):
            z = weights[0] * x + weights[1 + row]
            error = _sigmoid(z) - target
            value += float((np.logaddexp(0, z) - target * z).sum())
            gradient[0] += float((error * x).sum())
            gradient[1 + row] = float(error.sum())
        return value, gradient

    start = np.array([1.0] + [0.0] * len(cases))
    bounds = [(_MIN_SLOPE, _MAX_SLOPE)] + [(None, None)] * len(cases)
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def _shared_slope(cases: list[tuple[BoolArray, DoubleArray]]) -> float:
    return _fit(cases)[0] if cases else 1.0


def _intercept(truth: BoolArray, values: DoubleArray, slope: float) -> float:
    """The intercept at which the mean probability is the mean of the targets; found by bisection."""
    x, wanted = slope * logit(values), float(_targets(truth).mean())
    low, high = -60.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_sigmoid(x + middle).mean()) < wanted else (low, middle)
    return (low + high) / 2


def _sigmoid(x: DoubleArray) -> DoubleArray:
    found: DoubleArray = 0.5 * (1 + np.tanh(0.5 * x))
    return found


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
