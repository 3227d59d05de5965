"""`vlp evaluate`: how well a model's answers agree with labels it never saw, with intervals over patients."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from kgkit.interface import (
    Finding,
    InputError,
    load_findings,
    partial_folder,
    progress,
    publish_folder,
    write_json_atomically,
    write_text_atomically,
)
from vlp.artifact import VlpModel, load_model
from vlp.data.prepared import LABEL_PREFIX, PreparedData, load_data
from vlp.knowledge import NORMAL
from vlp.metrics import FloatArray, auroc, average_precision, estimate, patient_resamples
from vlp.predict import probabilities
from vlp.queries import ResolvedQueries, resolve_queries
from vlp.report import evaluation_page

RESAMPLES = 1000
MIN_POSITIVES = 20


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """One evaluation.

    Attributes:
        model_dir: MODEL folder.
        data_dir: DATA folder with labels.
        split: Split to evaluate on.
        out_dir: Folder for metrics.json, predictions.csv and report.html.
        encoder_dir: ENCODER for findings the model was not trained on; by default where it stood at training.
        seed: Of the bootstrap.
    """

    model_dir: Path
    data_dir: Path
    split: str
    out_dir: Path
    encoder_dir: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class StudyScores:
    """Predictions of a split, films of a study averaged.

    Attributes:
        study_ids: [n].
        patient_ids: [n].
        scores: float64 [n, F], probability of each finding.
        failed: (film, reason) of films that could not be read.
        without_film: Studies left out for want of a readable film.
    """

    study_ids: list[str]
    patient_ids: list[str]
    scores: FloatArray
    failed: list[tuple[str, str]]
    without_film: int


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model on a split; returns the content of metrics.json.

    AUROC is null where a finding has no positive or no negative study. `macro_auroc` is the mean over the
    findings with 20 or more positives, `normal` apart; where none has, over all that are defined, and `rule`
    says so. Intervals are 2.5th to 97.5th percentiles over 1,000 resamples of patients.

    Raises:
        InputError: if model or data are not what they should be, or the data hold no label that is a known
            finding.
    """
    model = load_model(config.model_dir)
    data = load_data(config.data_dir)
    findings = _labelled_findings(data)
    asked = [f"finding:{finding.key}" for finding in findings.values()]
    resolved = resolve_queries(model, _ids_known_to(model, findings, asked), config.encoder_dir)
    predicted = _score_studies(model, data, config.split, resolved)
    labels = _label_matrix(data, predicted.study_ids, list(findings))
    metrics = measure(list(findings), labels, predicted, config.seed)
    for (label, finding), query in zip(findings.items(), resolved.queries, strict=True):
        row = metrics["normal"] if label == NORMAL else metrics["per_finding"][label]
        row |= {
            "concept": query.concept,
            "name": finding.name,
            "seen_in_training": query.is_seen,
            "is_text_encoded": query.is_text_encoded,
        }
    metrics |= {
        "split": config.split,
        "studies": len(predicted.study_ids),
        "patients": len(set(predicted.patient_ids)),
        "studies_without_film": predicted.without_film,
        "seed": config.seed,
        "resamples": RESAMPLES,
        "unreadable_films": [{"film": film, "reason": reason} for film, reason in predicted.failed],
        "model_dir": str(config.model_dir),
        "data_digest": data.digest,
        "labels_digest": data.manifest["labels_digest"],
        "encoder_digest": model.manifest["encoder_digest"],
    }
    partial = partial_folder(config.out_dir)
    _write_predictions(partial / "predictions.csv", predicted, labels, list(findings))
    page = evaluation_page(metrics, labels, predicted.scores, list(findings))
    write_text_atomically(partial / "report.html", page)
    write_json_atomically(partial / "metrics.json", metrics)
    publish_folder(partial, config.out_dir)
    return metrics


def measure(names: list[str], labels: FloatArray, predicted: StudyScores, seed: int) -> dict[str, Any]:
    """Metrics per finding, their macro mean, and `normal` apart.

    Args:
        names: Finding of each column, [F].
        labels: float64 [n, F], 1, 0 or NaN where unknown.
        predicted: Scores of the same studies and findings.
        seed: Of the bootstrap.
    """
    weights = patient_resamples(predicted.patient_ids, RESAMPLES, seed)
    rows: dict[str, dict[str, Any]] = {}
    resampled: dict[str, FloatArray] = {}
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        truth, scores = labels[known, column] == 1, predicted.scores[known, column]
        resampled[name] = auroc(truth, scores, weights[:, known])
        area = estimate(float(auroc(truth, scores)), resampled[name])
        rows[name] = {
            "auroc": _or_null(area.value),
            "low": _or_null(area.low),
            "high": _or_null(area.high),
            "average_precision": _or_null(average_precision(truth, scores)),
            "positives": int(truth.sum()),
            "n": int(known.sum()),
            "resamples_defined": area.resamples,
        }
    normal = rows.pop(NORMAL, None)
    counted, rule = _macro_findings(rows)
    macro: dict[str, Any] = {"value": None, "low": None, "high": None, "findings": counted, "rule": rule}
    if counted:
        value = float(np.mean([rows[name]["auroc"] for name in counted]))
        # A resample in which one finding is undefined has no macro mean over the same findings, and is left
        # out.
        area = estimate(value, np.mean([resampled[name] for name in counted], axis=0))
        macro |= {"value": area.value, "low": _or_null(area.low), "high": _or_null(area.high)}
    return {"macro_auroc": macro, "per_finding": rows, "normal": normal}


def _macro_findings(rows: dict[str, dict[str, Any]]) -> tuple[list[str], str]:
    defined = [name for name, row in rows.items() if row["auroc"] is not None]
    frequent = [name for name in defined if rows[name]["positives"] >= MIN_POSITIVES]
    if frequent:
        return frequent, f"findings with {MIN_POSITIVES} or more positive studies"
    return defined, f"no finding has {MIN_POSITIVES} positive studies: all findings with a defined AUROC"


def _labelled_findings(data: PreparedData) -> dict[str, Finding]:
    """Label column -> finding, for the labels the table of findings knows."""
    label_set = str(data.manifest["label_set"])
    by_label = {f.labels[label_set]: f for f in load_findings().values() if label_set in f.labels}
    found = {label: by_label[label] for label in data.labels if label in by_label}
    if not found:
        columns = ", ".join(data.labels) or "none"
        raise InputError(
            f"no label to evaluate on: label columns are {columns}; known: {', '.join(by_label)}",
            data.folder / "studies.parquet",
        )
    return found


def _ids_known_to(model: VlpModel, findings: dict[str, Finding], asked: list[str]) -> list[str]:
    """Ask by finding; by a concept of it where the model holds one, so that no encoder is needed."""
    trained = {query.concept for query in model.queries}
    chosen = []
    for identifier, finding in zip(asked, findings.values(), strict=True):
        known = [concept for concept in finding.concepts if concept in trained]
        chosen.append(identifier if identifier in trained or not known else known[0])
    return chosen


def _score_studies(model: VlpModel, data: PreparedData, split: str, resolved: ResolvedQueries) -> StudyScores:
    study_ids = data.study_ids(split)
    films = data.films(study_ids, frontal_only=model.recipe.frontal_only)
    if films.is_empty():
        raise InputError(f"no film in split {split!r}", data.folder)
    of_study: dict[str, list[list[float]]] = {}
    failed: list[tuple[str, str]] = []
    paths = [Path(file) for file in films["file"]]
    with progress("evaluate", len(paths), "films") as bar:
        outcomes = probabilities(model, paths, resolved)
        for study_id, (path, outcome) in zip(films["study_id"], outcomes, strict=True):
            bar.advance()
            if isinstance(outcome, InputError):
                failed.append((str(path), str(outcome).removeprefix(f"{path}: ")))
            else:
                of_study.setdefault(study_id, []).append(outcome)
    if not of_study:
        raise InputError(f"no film of split {split!r} can be read; first: {failed[0][1]}", failed[0][0])
    scored = sorted(of_study)
    patient_of = dict(data.splits.select("study_id", "patient_id").iter_rows())
    scores = np.array([np.mean(of_study[study_id], axis=0) for study_id in scored])
    patients = [patient_of[study_id] for study_id in scored]
    return StudyScores(scored, patients, scores, failed, len(study_ids) - len(scored))


def _label_matrix(data: PreparedData, study_ids: list[str], names: list[str]) -> FloatArray:
    order = pl.DataFrame({"study_id": study_ids}, schema={"study_id": pl.String})
    table = order.join(data.studies, on="study_id", how="left", maintain_order="left")
    values = [pl.col(LABEL_PREFIX + name).cast(pl.Float64).fill_null(float("nan")) for name in names]
    columns = table.select(values)
    matrix: npt.NDArray[np.float64] = columns.to_numpy()
    return matrix


def _write_predictions(path: Path, predicted: StudyScores, labels: FloatArray, names: list[str]) -> None:
    table: dict[str, Any] = {"study_id": predicted.study_ids, "patient_id": predicted.patient_ids}
    for column, name in enumerate(names):
        table[f"probability:{name}"] = predicted.scores[:, column]
        table[LABEL_PREFIX + name] = pl.Series(labels[:, column]).fill_nan(None).cast(pl.Int8)
    write_text_atomically(path, pl.DataFrame(table).write_csv())


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_metrics(out_dir: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation."""
    content: dict[str, Any] = json.loads((out_dir / "metrics.json").read_text(encoding="utf-8"))
    return content
