"""Metrics of findings and their macro mean, each with a 95 % interval over resamples of patients.

Pure: arrays in, plain dicts out. A value that is undefined is None, never a number that looks like chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgkit.interface import BoolArray, DoubleArray, FloatArray
from vlp.evaluation.calibration import FindingCalibration, expected_calibration_error, reliability
from vlp.evaluation.operating import confusion, sensitivity_on_curve
from vlp.evaluation.scoring import StudyScores
from vlp.knowledge import NORMAL
from vlp.metrics import auroc, average_precision, estimate, patient_resamples

MIN_POSITIVES = 20


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How to measure.

    Attributes:
        seed: Of the bootstrap.
        resamples: Resamples of patients.
        min_positives: Positive studies a finding needs to count in the macro mean.
        specificity: At which sensitivity is asked.
        normal: Column that denies all findings; it is kept apart from the macro mean.
        again: Further columns of it, and of labels that an earlier column was measured by; apart, too.
    """

    seed: int = 0
    resamples: int = 1000
    min_positives: int = MIN_POSITIVES
    specificity: float = 0.9
    normal: str = NORMAL
    again: frozenset[str] = frozenset()


def measure(
    names: Sequence[str],
    labels: DoubleArray,
    predicted: StudyScores,
    settings: MeasureSettings,
    calibration: Mapping[str, FindingCalibration] | None = None,
) -> dict[str, Any]:
    """Metrics per finding, their macro mean, and `normal` apart.

    Args:
        names: Finding of each column, [F].
        labels: float64 [n, F], 1, 0 or NaN where unknown.
        predicted: Scores of the same studies and findings.
        settings: Of the bootstrap and the macro mean.
        calibration: Name -> calibration from other studies; findings without one have no operating point.

    Returns:
        `macro_auroc`, `macro_average_precision`, `per_finding` and `normal` (None if it was not asked).
    """
    weights = patient_resamples(predicted.patient_ids, settings.resamples, settings.seed)
    rows: dict[str, dict[str, Any]] = {}
    resampled: dict[str, dict[str, DoubleArray]] = {"auroc": {}, "average_precision": {}}
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        truth, scores, counts = labels[known, column] == 1, predicted.scores[known, column], weights[:, known]
        resampled["auroc"][name] = auroc(truth, scores, counts)
        resampled["average_precision"][name] = average_precision(truth, scores, counts)
        rows[name] = _areas(truth, scores, {metric: values[name] for metric, values in resampled.items()})
        read = (calibration or {}).get(name)
        rows[name] |= _operating_points(truth, scores, counts, read, settings.specificity)
        rows[name] |= _calibration_error(truth, scores, read)
    normal = rows.pop(settings.normal, None)
    counted, rule = macro_findings(_without(rows, settings.again), settings.min_positives)
    macro = {metric: _macro(rows, metric, counted, resampled[metric]) for metric in resampled}
    macro["auroc"] |= {"findings": counted, "rule": rule}
    return {
        "macro_auroc": macro["auroc"],
        "macro_average_precision": macro["average_precision"],
        "per_finding": rows,
        "normal": normal,
    }


def _without(rows: Mapping[str, dict[str, Any]], names: frozenset[str]) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in rows.items() if name not in names}


def macro_findings(rows: Mapping[str, Mapping[str, Any]], min_positives: int) -> tuple[list[str], str]:
    """The findings of the macro mean, and the rule that chose them."""
    defined = [name for name, row in rows.items() if row["auroc"] is not None]
    frequent = [name for name in defined if rows[name]["positives"] >= min_positives]
    if frequent:
        return frequent, f"findings with {min_positives} or more positive studies"
    return defined, f"no finding has {min_positives} positive studies: all findings with a defined AUROC"


def with_interval(value: float, resampled: DoubleArray) -> dict[str, float | None]:
    """`value`, `low` and `high`, None where undefined."""
    found = estimate(value, resampled)
    return {"value": or_none(found.value), "low": or_none(found.low), "high": or_none(found.high)}


def or_none(value: float) -> float | None:
    """A float, or None for NaN."""
    return None if math.isnan(value) else float(value)


def _areas(truth: BoolArray, scores: DoubleArray, resampled: Mapping[str, DoubleArray]) -> dict[str, Any]:
    area = estimate(float(auroc(truth, scores)), resampled["auroc"])
    precision = with_interval(float(average_precision(truth, scores)), resampled["average_precision"])
    return {
        "auroc": or_none(area.value),
        "low": or_none(area.low),
        "high": or_none(area.high),
        "average_precision": precision["value"],
        "average_precision_low": precision["low"],
        "average_precision_high": precision["high"],
        "positives": int(truth.sum()),
        "n": len(truth),
        "resamples_defined": area.resamples,
    }


def _operating_points(
    truth: BoolArray,
    scores: DoubleArray,
    weights: FloatArray,
    read: FindingCalibration | None,
    specificity: float,
) -> dict[str, Any]:
    """What follows from thresholds that other studies gave; and what this curve itself would allow."""
    found: dict[str, Any] = {"threshold": None, "mcc": None, "f1": None, "sensitivity": None, "specificity": None}
    fixed: dict[str, Any] = {"wanted": specificity, "threshold": None, "sensitivity": None, "specificity": None}
    fixed["sensitivity_on_this_curve"] = or_none(sensitivity_on_curve(truth, scores, specificity))
    if read is not None and read.threshold is not None:
        called = scores >= read.threshold
        once, often = confusion(truth, called), confusion(truth, called, weights)
        found["threshold"] = read.threshold
        for metric in ("mcc", "f1", "sensitivity", "specificity"):
            found[metric] = with_interval(float(getattr(once, metric)), getattr(often, metric))
    if read is not None and read.threshold_at_specificity is not None:
        called = scores >= read.threshold_at_specificity
        once, often = confusion(truth, called), confusion(truth, called, weights)
        fixed["threshold"] = read.threshold_at_specificity
        for metric in ("sensitivity", "specificity"):
            fixed[metric] = with_interval(float(getattr(once, metric)), getattr(often, metric))
    return found | {"at_specificity": fixed}


def _calibration_error(truth: BoolArray, scores: DoubleArray, read: FindingCalibration | None) -> dict[str, Any]:
    """Expected calibration error of the probabilities as they come, and calibrated."""
    row: dict[str, Any] = {"ece_uncalibrated": or_none(expected_calibration_error(truth, scores)), "ece": None}
    if read is not None and len(truth):
        calibrated = read.apply(scores)
        row |= {
            "ece": or_none(expected_calibration_error(truth, calibrated)),
            "reliability": reliability(truth, calibrated).round(5).tolist(),
            "calibration": {"method": read.method, "slope": read.slope, "intercept": read.intercept},
        }
    return row


def _macro(
    rows: Mapping[str, Mapping[str, Any]], metric: str, counted: list[str], resampled: Mapping[str, DoubleArray]
) -> dict[str, Any]:
    """Mean over findings; a resample in which one of them is undefined has none over the same findings."""
    if not counted:
        return {"value": None, "low": None, "high": None, "resamples_defined": 0}
    value = float(np.mean([rows[name][metric] for name in counted]))
    found = estimate(value, np.mean([resampled[name] for name in counted], axis=0))
    return {
        "value": found.value,
        "low": or_none(found.low),
        "high": or_none(found.high),
        "resamples_defined": found.resamples,
    }
