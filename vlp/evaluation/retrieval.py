"""Film to report and report to film: where in the ranking does the first right one stand.

A report is right for a film if its text is that of the film's own report: "no acute disease" was written a hundred
times, and each of them is the answer. Candidates with the very same similarity share their places (the mean of
them), so that a constant model gets chance and not luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kgkit.interface import DoubleArray
from vlp.artifact import VlpModel
from vlp.data.dataset import read_texts
from vlp.data.prepared import PreparedData
from vlp.data.report_text import report_sentences
from vlp.evaluation.measure import with_interval
from vlp.evaluation.scoring import StudyScores
from vlp.knowledge import Knowledge
from vlp.metrics import patient_resamples

_CUTOFFS = (1, 5, 10)
_NEAR = 1e-6


def measure_retrieval(
    model: VlpModel, data: PreparedData, predicted: StudyScores, knowledge: Knowledge, settings: tuple[int, int]
) -> dict[str, Any]:
    """Retrieval among the studies of a split that have a report.

    Args:
        model: The model.
        data: The data.
        predicted: Scores of the split, with embeddings.
        knowledge: Reads the reports.
        settings: Resamples and seed.
    """
    if model.recipe.method != "clip" and model.recipe.loss.contrast_weight == 0:
        return {"skipped": "the model was trained without the film-report contrast (loss.contrast_weight=0)"}
    sentences = report_sentences(data, predicted.study_ids)
    sides = read_texts(sentences, [query.concept for query in model.queries], knowledge, model.recipe).reports
    rows = np.flatnonzero(sides.norm(dim=1).numpy() > 0)
    if len(rows) < 2:
        return {"skipped": "fewer than two studies of this split have a report"}
    with torch.no_grad():
        reports = model.network.embed_reports(sides[rows]).float().numpy()
    similarity = (predicted.embeddings[rows] @ reports.T).astype(np.float64)
    text_of = dict(data.studies.select("study_id", "text").iter_rows())
    texts = [normal_text(text_of.get(predicted.study_ids[row]) or "") for row in rows]
    patients = [predicted.patient_ids[row] for row in rows]
    found = {
        "film_to_report": rank_metrics(first_right_ranks(similarity, texts), patients, settings),
        "report_to_film": rank_metrics(first_right_ranks(similarity.T, texts), patients, settings),
    }
    return {
        "studies": len(rows),
        "without_report": len(predicted.study_ids) - len(rows),
        "distinct_reports": len(set(texts)),
        **found,
        "chance": chance(texts),
    }


def normal_text(text: str) -> str:
    """A report for comparison: case and white space do not matter."""
    return " ".join(text.casefold().split())


def first_right_ranks(similarity: DoubleArray, texts: Sequence[str]) -> DoubleArray:
    """Rank, from 1, of the best right candidate of each row; ties share their mean place.

    Args:
        similarity: float64 [n, n]; row i asks, column j is a candidate.
        texts: Report of each study, [n]; candidate j is right for i if their texts are the same.

    Returns:
        float64 [n].
    """
    _, kind = np.unique(np.asarray(texts), return_inverse=True)
    ranks = np.empty(len(texts))
    for row, values in enumerate(similarity):
        is_right = kind == kind[row]
        best = values[is_right].max()
        better = int((values[~is_right] > best + _NEAR).sum())
        equal_wrong = int((np.abs(values[~is_right] - best) <= _NEAR).sum())
        equal_right = int((np.abs(values[is_right] - best) <= _NEAR).sum())
        # The first of r right ones among w wrong ones stands, on average over all orders, w / (r + 1) places behind.
        ranks[row] = 1 + better + equal_wrong / (equal_right + 1)
    return ranks


def chance(texts: Sequence[str]) -> dict[str, float]:
    """Recall at 1, 5 and 10 of a random order: mean of 1 - C(n - r, k) / C(n, k), r right ones among n."""
    _, kind, sizes = np.unique(np.asarray(texts), return_inverse=True, return_counts=True)
    n, right = len(texts), sizes[kind].astype(np.float64)
    found = {}
    for k in _CUTOFFS:
        drawn = np.arange(min(k, n))[:, None]
        missed = np.prod(np.clip((n - right - drawn) / (n - drawn), 0, 1), axis=0)
        found[f"recall_at_{k}"] = float((1 - missed).mean())
    return found


def rank_metrics(
    ranks: DoubleArray, patients: Sequence[str], settings: tuple[int, int]
) -> dict[str, dict[str, float | None]]:
    """Recall at 1, 5 and 10 and the mean reciprocal rank with intervals over patients, and the median rank.

    Args:
        ranks: float64 [n], from 1.
        patients: Patient of each study, [n].
        settings: Resamples and seed.
    """
    values: dict[str, DoubleArray] = {f"recall_at_{k}": (ranks <= k).astype(float) for k in _CUTOFFS}
    values["mean_reciprocal_rank"] = 1 / ranks
    weights = patient_resamples(patients, *settings)
    shares = weights / weights.sum(axis=1, keepdims=True)
    found = {name: with_interval(float(value.mean()), shares @ value) for name, value in values.items()}
    return found | {"median_rank": {"value": float(np.median(ranks)), "low": None, "high": None}}
