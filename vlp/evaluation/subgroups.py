"""The same metrics for groups of patients: by sex, by age band, by how the film was taken, where the data know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import BoolArray, DoubleArray
from vlp.data.prepared import PreparedData
from vlp.evaluation.measure import or_none
from vlp.evaluation.scoring import StudyScores
from vlp.metrics import auroc, estimate, patient_resamples

AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
"""Years, half-open."""
_MIN_STUDIES, _MIN_COMPARED = 10, 30
"""Studies a group needs to be listed, and to have a say in which findings are compared."""
MIN_GROUP_POSITIVES = 5


def study_groups(data: PreparedData, study_ids: Sequence[str]) -> dict[str, list[str | None]]:
    """Kind of group -> group of each study, None where it is not known; kinds that nothing is known of are left out.

    A study whose films were taken in several ways is in no group by view.
    """
    order = pl.DataFrame({"study_id": list(study_ids)}, schema={"study_id": pl.String})
    studies = order.join(data.studies, on="study_id", how="left", maintain_order="left")
    found: dict[str, list[str | None]] = {}
    if "sex" in studies.columns:
        found["sex"] = [str(value) if value else None for value in studies["sex"]]
    if "age" in studies.columns:
        found["age"] = [age_band(value) for value in studies["age"].cast(pl.Float64, strict=False)]
    if "projection" in data.images.columns:
        found["view"] = _views(data.images, study_ids)
    return {kind: groups for kind, groups in found.items() if any(group is not None for group in groups)}


def age_band(years: float | None) -> str | None:
    """The band of an age, such as `40-59`; None if it is not known.

    >>> age_band(59.5), age_band(80), age_band(None)
    ('40-59', '80+', None)
    """
    for low, high in AGE_BANDS:
        if years is not None and low <= years < high:
            return f"{low}+" if (low, high) == AGE_BANDS[-1] else f"{low}-{high - 1}"
    return None


def measure_subgroups(
    names: Sequence[str],
    labels: DoubleArray,
    predicted: StudyScores,
    groups: Mapping[str, Sequence[str | None]],
    settings: tuple[int, int, int],
) -> dict[str, dict[str, Any]]:
    """AUROC per group: the macro mean and each finding.

    Args:
        names: Finding of each column; without `normal`.
        labels: float64 [n, F], 1, 0 or NaN.
        predicted: Scores of the same studies and findings.
        groups: Kind -> group of each study, as from `study_groups`.
        settings: Resamples, seed, and the positive studies a finding needs within every group of 30 studies or more to
            be in the macro mean, so that groups are compared over the same findings.

    Returns:
        Kind -> `findings` of the macro mean and `groups`: group -> n, patients, auroc, low, high, per_finding.
    """
    resamples, seed, min_positives = settings
    found: dict[str, dict[str, Any]] = {}
    for kind, group_of in groups.items():
        members = {group: np.array([own == group for own in group_of]) for group in sorted({g for g in group_of if g})}
        members = {group: rows for group, rows in members.items() if rows.sum() >= _MIN_STUDIES}
        compared = [rows for rows in members.values() if rows.sum() >= _MIN_COMPARED] or list(members.values())
        counted = [
            column
            for column in range(len(names))
            if members and all(_is_counted(labels[rows, column], min_positives) for rows in compared)
        ]
        found[kind] = {
            "findings": [names[column] for column in counted],
            "groups": {
                group: _one_group(names, labels[rows], predicted, rows, counted, resamples, seed)
                for group, rows in members.items()
            },
        }
    return found


def _is_counted(labels: DoubleArray, min_positives: int) -> bool:
    return bool((labels == 1).sum() >= min_positives and (labels == 0).any())


def _one_group(
    names: Sequence[str],
    labels: DoubleArray,
    predicted: StudyScores,
    rows: BoolArray,
    counted: list[int],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    patients = [patient for patient, is_in in zip(predicted.patient_ids, rows, strict=True) if is_in]
    scores = predicted.scores[rows]
    weights = patient_resamples(patients, resamples, seed)
    per_finding, areas, resampled = {}, [], []
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        truth = labels[known, column] == 1
        area = float(auroc(truth, scores[known, column]))
        per_finding[name] = {"auroc": or_none(area), "positives": int(truth.sum()), "n": int(known.sum())}
        if column in counted:
            areas.append(area)
            resampled.append(auroc(truth, scores[known, column], weights[:, known]))
    macro: dict[str, float | None] = {"auroc": None, "low": None, "high": None}
    if counted:
        found = estimate(float(np.mean(areas)), np.mean(resampled, axis=0))
        macro = {"auroc": or_none(found.value), "low": or_none(found.low), "high": or_none(found.high)}
    return {"n": int(rows.sum()), "patients": len(set(patients)), **macro, "per_finding": per_finding}


def _views(images: pl.DataFrame, study_ids: Sequence[str]) -> list[str | None]:
    taken: dict[str, set[str]] = {}
    frontal = images.filter(pl.col("view") == "frontal") if "view" in images.columns else images
    for study_id, projection in frontal.select("study_id", "projection").iter_rows():
        if projection:
            taken.setdefault(study_id, set()).add(str(projection))
    return [next(iter(views)) if len(views := taken.get(study_id, set())) == 1 else None for study_id in study_ids]
