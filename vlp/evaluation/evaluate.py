"""`vlp evaluate`: how well a model's answers agree with labels it never saw, with intervals over patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgkit.interface import (
    DoubleArray,
    InputError,
    partial_folder,
    publish_folder,
    require_replaceable,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)
from vlp.artifact import VlpModel, load_model
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData, load_data
from vlp.evaluation.asked import Asked, AskedQueries, ask
from vlp.evaluation.calibration import (
    CALIBRATION_FILE,
    Calibration,
    FindingCalibration,
    fit_calibration,
    load_calibration,
    save_calibration,
)
from vlp.evaluation.measure import MIN_POSITIVES, MeasureSettings, measure
from vlp.evaluation.readers import read_readers
from vlp.evaluation.retrieval import measure_retrieval
from vlp.evaluation.scoring import ALL_SPLITS, StudyScores, label_matrix, score_studies, write_scores
from vlp.evaluation.subgroups import MIN_GROUP_POSITIVES, measure_subgroups, study_groups
from vlp.evaluation.tables import published_tables
from vlp.evaluation.training_mentions import seen_flags, studies_learnt_from, trained_counts, training_mentions
from vlp.knowledge import NORMAL
from vlp.queries import open_knowledge
from vlp.report import PageContent, evaluation_page

RESAMPLES = 1000
_VALIDATION = "val"


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """One evaluation.

    Attributes:
        model_dir: MODEL folder.
        data_dir: DATA folder with labels.
        split: Split to evaluate on; `all` for every study of data that the model was not trained on.
        out_dir: Folder for metrics.json, predictions.csv, calibration.json and report.html.
        encoder_dir: ENCODER for findings the model was not trained on; by default where it stood at training.
        seed: Of the bootstrap.
        queries: Names, concept ids, words or LABEL=WORDS; empty for every label that is a known finding.
        average_synonyms: Ask with the mean vector of all names of a concept.
        min_positives: Positive studies a finding needs to count in the macro mean.
        resamples: Resamples of patients.
        specificity: At which sensitivity is asked.
        validation_split: Whose labels give thresholds and calibration; None: `val`, if there is such a split; "": none.
        calibration: calibration.json of another evaluation, to be used in their place.
        readers: CSV of readers' operating points or reads; see `vlp.evaluation.readers`.
    """

    model_dir: Path
    data_dir: Path
    split: str
    out_dir: Path
    encoder_dir: Path | None = None
    seed: int = 0
    queries: tuple[str, ...] = ()
    average_synonyms: bool = False
    min_positives: int = MIN_POSITIVES
    resamples: int = RESAMPLES
    specificity: float = 0.9
    validation_split: str | None = None
    calibration: Path | None = None
    readers: Path | None = None


@dataclass(frozen=True)
class Evaluated:
    """What was asked of a split and what came back.

    Attributes:
        asked: The columns.
        labels: float64 [n, F], 1, 0 or NaN.
        predicted: Scores of the same studies.
        calibration: From validation studies; None if there are none.
    """

    asked: AskedQueries
    labels: DoubleArray
    predicted: StudyScores
    calibration: Calibration | None

    @property
    def read_by(self) -> dict[str, FindingCalibration]:
        """Column name -> its calibration, where it has one."""
        known = self.calibration.findings if self.calibration is not None else {}
        return {column.name: known[column.key] for column in self.asked.columns if column.key in known}


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model on a split; returns the content of metrics.json.

    AUROC is null where a finding has no positive or no negative study. `macro_auroc` is the mean over the findings with
    20 or more positives (`min_positives`), `normal` apart; where none has, over all that are defined, and `rule`
    says so. Intervals are 2.5th to 97.5th percentiles over resamples of patients. Thresholds and calibration come
    from the labels of the validation split alone, or from a file.

    Raises:
        InputError: if model, data, queries or files are not what they should be, or nothing can be measured.
    """
    if config.min_positives < 1 or config.resamples < 2:
        raise InputError(f"{config.min_positives=} and {config.resamples=}: expected 1 or more and 2 or more")
    require_replaceable(config.out_dir, "evaluation")
    model, data = load_model(config.model_dir), load_data(config.data_dir)
    evaluated = answer_split(model, data, config)
    metrics = _all_metrics(model, data, evaluated, config)
    partial = partial_folder(config.out_dir, "evaluation")
    write_scores(
        partial / "predictions.csv", evaluated.asked.names, evaluated.labels, evaluated.predicted, evaluated.read_by
    )
    if evaluated.calibration is not None:
        save_calibration(evaluated.calibration, partial / CALIBRATION_FILE)
    text_of = dict(data.studies.select("study_id", "text").iter_rows())
    content = PageContent(
        evaluated.asked.names,
        evaluated.labels,
        evaluated.predicted,
        evaluated.read_by,
        text_of,
        FilmReader(data).film,
    )
    write_text_atomically(partial / "report.html", evaluation_page(metrics, content))
    write_json_atomically(partial / "metrics.json", metrics)
    write_manifest(partial, "evaluation", {"data_digest": data.digest})
    publish_folder(partial, config.out_dir)
    return metrics


def answer_split(model: VlpModel, data: PreparedData, config: EvaluateConfig) -> Evaluated:
    """Ask every film of the split, and of the validation split for thresholds and calibration."""
    asked = ask(model, data, config.queries, config.encoder_dir, average_synonyms=config.average_synonyms)
    columns = [column.label for column in asked.columns]
    predicted = score_studies(model, data, config.split, asked.resolved)
    labels = label_matrix(data, predicted.study_ids, columns)
    if config.calibration is not None:
        return Evaluated(asked, labels, predicted, load_calibration(config.calibration))
    calibration = _fit_on_validation(model, data, asked, config) or _kept_with(model)
    return Evaluated(asked, labels, predicted, calibration)


def _fit_on_validation(
    model: VlpModel, data: PreparedData, asked: AskedQueries, config: EvaluateConfig
) -> Calibration | None:
    """From the labels of the validation split; None if there are none."""
    split, known = config.validation_split, set(data.splits["split"].to_list())
    if split == "" or config.split == ALL_SPLITS:  # in all, the validation studies are among those evaluated
        return None
    if split is None:
        if _VALIDATION not in known:
            return None
        split = _VALIDATION
    columns = [column.label for column in asked.columns]
    films = data.films(data.study_ids(split), frontal_only=model.recipe.frontal_only)
    if films.is_empty() or not any(columns):
        return None
    scored = score_studies(model, data, split, asked.resolved)
    labels = label_matrix(data, scored.study_ids, columns)
    keys = [column.key for column in asked.columns]
    return fit_calibration(keys, labels, scored.scores, _source(data, split), config.specificity)


def _source(data: PreparedData, split: str) -> str:
    """What a calibration by the labels of a split calls itself."""
    return f"labels of split {split} of {data.manifest['dataset']} ({data.digest[:12]})"


def _kept_with(model: VlpModel) -> Calibration | None:
    path = model.folder / CALIBRATION_FILE
    return load_calibration(path) if path.is_file() else None


def _all_metrics(model: VlpModel, data: PreparedData, evaluated: Evaluated, config: EvaluateConfig) -> dict[str, Any]:
    asked, labels, predicted = evaluated.asked, evaluated.labels, evaluated.predicted
    columns = {column.name: column for column in asked.columns}
    normal = next((name for name, c in columns.items() if c.finding is not None and c.finding.key == NORMAL), NORMAL)
    again = _asked_again(asked.columns, normal)
    settings = MeasureSettings(config.seed, config.resamples, config.min_positives, config.specificity, normal, again)
    metrics = measure(asked.names, labels, predicted, settings, evaluated.read_by)
    mentions, counts = training_mentions(model, data), trained_counts(model)
    for name, column in columns.items():
        row = metrics["normal"] if name == normal else metrics["per_finding"][name]
        row |= {
            "column": name,
            "label": column.label,
            "concept": column.query.concept,
            "query": column.query.text,
            "name": column.finding.name if column.finding is not None else column.name,
            "is_text_encoded": column.query.is_text_encoded,
            "synonyms": column.synonyms,
        }
        row |= seen_flags(column, mentions, counts)
    findings = {name: column.finding for name, column in columns.items()}
    kept = [row for row, name in enumerate(asked.names) if name not in {normal, *again}]
    names = [asked.names[row] for row in kept]
    readers = None
    if config.readers is not None:
        readers = read_readers(config.readers, asked.names, predicted.study_ids, labels)
    metrics |= {
        "asked_again": sorted(again),
        "by_training": _by_training(metrics["per_finding"]),
        "tables": published_tables(findings, metrics["per_finding"], str(data.manifest["label_set"])),
        "subgroups": measure_subgroups(
            names,
            labels[:, kept],
            _columns(predicted, kept),
            study_groups(data, predicted.study_ids),
            (config.resamples, config.seed, min(config.min_positives, MIN_GROUP_POSITIVES)),
        ),
        "retrieval": _retrieval(model, data, predicted, config),
        "readers": readers,
        "undefined": sorted(name for name, row in metrics["per_finding"].items() if row["auroc"] is None),
    }
    return metrics | _provenance(model, data, evaluated, config)


def _asked_again(columns: Sequence[Asked], normal: str) -> frozenset[str]:
    """Columns that the macro mean leaves out: `normal` in other words, and labels that were measured already."""
    seen: set[str] = set()
    again = set()
    for column in columns:
        denies = column.finding is not None and column.finding.key == NORMAL and column.name != normal
        if denies or column.label in seen:
            again.add(column.name)
        if column.label is not None:
            seen.add(column.label)
    return frozenset(again)


def _provenance(model: VlpModel, data: PreparedData, evaluated: Evaluated, config: EvaluateConfig) -> dict[str, Any]:
    predicted, calibration = evaluated.predicted, evaluated.calibration
    note = None
    if calibration is not None and calibration.source == _source(data, config.split):
        note = "thresholds and calibration were fitted on the evaluated split itself: they look better than they are"
    learnt = studies_learnt_from(model, data) & set(predicted.study_ids)
    return {
        "split": config.split,
        "trained_on": len(learnt),
        "studies": len(predicted.study_ids),
        "patients": len(set(predicted.patient_ids)),
        "studies_without_film": predicted.without_film,
        "seed": config.seed,
        "resamples": config.resamples,
        "min_positives": config.min_positives,
        "calibration_source": calibration.source if calibration is not None else None,
        "calibration_note": note,
        "average_synonyms": config.average_synonyms,
        "left_out_before": data.manifest["skipped_by_reason"],
        "unreadable_films": [{"film": film, "reason": reason} for film, reason in predicted.failed],
        "model_dir": str(config.model_dir),
        "dataset": data.manifest["dataset"],
        "data_digest": data.digest,
        "labels_digest": data.manifest["labels_digest"],
        "films_digest": predicted.films_digest,
        "encoder_digest": model.manifest["encoder_digest"],
    }


def _by_training(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean AUROC over the findings seen often, seen rarely and not seen in training, all that are defined."""
    groups: dict[str, list[str]] = {"seen": [], "rare": [], "unseen": [], "unknown": []}
    for name, row in rows.items():
        if row["auroc"] is not None:
            groups[row["training"] or "unknown"].append(name)
    return {
        group: {"findings": names, "mean_auroc": sum(rows[name]["auroc"] for name in names) / len(names)}
        for group, names in groups.items()
        if names
    }


def _columns(predicted: StudyScores, kept: list[int]) -> StudyScores:
    return StudyScores(predicted.study_ids, predicted.patient_ids, predicted.scores[:, kept])


def _retrieval(model: VlpModel, data: PreparedData, predicted: StudyScores, config: EvaluateConfig) -> dict[str, Any]:
    if data.mentions.is_empty():
        return {"skipped": "these data have no reports"}
    try:
        knowledge = open_knowledge(model, config.encoder_dir, wanted="retrieval")
    except InputError as error:
        return {"skipped": f"no encoder to read the mentions with ({error})"}
    return measure_retrieval(model, data, predicted, knowledge, (config.resamples, config.seed))


def read_metrics(out_dir: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation.

    Raises:
        InputError: if the folder holds none.
    """
    path = out_dir / "metrics.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"no evaluation here ({error})", path) from error
    if not isinstance(content, dict):
        raise InputError("not the figures of an evaluation", path)
    return content
