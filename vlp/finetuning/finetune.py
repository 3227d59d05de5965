"""`vlp finetune`: what a model learns from few or many labels, beside what it says without any.

Supervised by the label columns of DATA, which never touch `vlp train`. For each part of the training patients and each
seed a probe or a whole tower is fitted; validation labels choose its strength or its epoch; test labels only measure.
The folder it makes:

metrics.json                            means, deviations and spreads over seeds, beside the zero-shot row
zero-shot/                              the model as it is, in the layout of `vlp evaluate`
fraction-<f>/seed-<s>/metrics.json      one fit, likewise: `vlp compare` takes any two of these
                      predictions.csv   without the columns of findings that could not be fitted
                      training_log.jsonl  of mode `full`: a line per epoch, the probe as epoch 0
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import (
    DoubleArray,
    InputError,
    choices,
    draw_curve,
    publish_folder,
    sha256_file,
    write_json_atomically,
    write_manifest,
)
from vlp.artifact import VlpModel, load_model
from vlp.data.film_reader import FilmReader
from vlp.data.labels import findings_of_labels
from vlp.data.prepared import PreparedData, load_data
from vlp.evaluation.asked import ask
from vlp.evaluation.evaluate import read_metrics
from vlp.evaluation.measure import MIN_POSITIVES, MeasureSettings, measure
from vlp.evaluation.scoring import StudyScores, label_matrix, score_studies, write_scores
from vlp.finetuning.films import FEATURES, TRAIN, VAL, Films, choose_parts, draw_patients, look
from vlp.finetuning.probe import Probe, fit_probe
from vlp.finetuning.summary import summarise
from vlp.finetuning.tower import Finetuner, FullConfig
from vlp.knowledge import NORMAL
from vlp.loop import CHECKPOINT, EPOCH
from vlp.run_folder import RUN_FILE, open_run

MODES = ("probe", "full")
_KEPT = "features"


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """One table of fits.

    Attributes:
        model_dir: MODEL folder.
        data_dir: DATA folder with labels.
        out_dir: Folder to make.
        mode: `probe`: a logistic regression on what the frozen model gives; `full`: tower and head are trained.
        fractions: Parts of the training patients, each above 0 and at most 1.
        seeds: How many subsets, and orders of training, of each fraction: seeds 0, 1, ...
        split: Split to test on.
        features: What a probe reads; `full` always starts from `patches`. See `vlp.finetuning.films.look`.
        train_list: Official list of films for training and validation, in place of the splits of DATA.
        test_list: Official list of films for the test.
        full: How tower and head are trained.
        encoder_dir: ENCODER for the zero-shot row, for findings the model was not trained on.
        min_positives: Positive test studies a finding needs to count in the macro mean.
        resamples: Resamples of patients for the intervals of each fit.
        resume: Continue a stopped run found in `<out_dir>.partial`.
    """

    model_dir: Path
    data_dir: Path
    out_dir: Path
    mode: str = "probe"
    fractions: tuple[float, ...] = (1.0,)
    seeds: int = 3
    split: str = "test"
    features: str = "both"
    train_list: Path | None = None
    test_list: Path | None = None
    full: FullConfig = field(default_factory=FullConfig)
    encoder_dir: Path | None = None
    min_positives: int = MIN_POSITIVES
    resamples: int = 1000
    resume: bool = False

    @property
    def kind(self) -> str:
        """Features that are computed once."""
        return "patches" if self.mode == "full" else self.features


@dataclass(frozen=True)
class _Run:
    """What all fits of a run share."""

    config: FinetuneConfig
    model: VlpModel
    data: PreparedData
    folder: Path
    train: Films
    val: Films
    test: Films
    train_patients: frozenset[str]


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fit every fraction with every seed; returns the content of metrics.json.

    A finding without a positive or a negative among the drawn studies is undefined there (None), not .5. Validation
    studies are used whole, whatever the fraction.

    Raises:
        InputError: if model, data, lists or settings are not what they should be, no film can be read, or a resumed run
            was begun with other inputs.
    """
    _check(config)
    model, data = load_model(config.model_dir), load_data(config.data_dir)
    if not data.labels:
        raise InputError("no label column to learn from", data.folder / "studies.parquet")
    data = choose_parts(model, data, config.split, (config.train_list, config.test_list))
    finetuner = Finetuner(model, FilmReader(data), config.full) if config.mode == "full" else None
    folder = _open_folder(config, data)
    run = _prepare(config, model, data, folder)
    zero_shot = _zero_shot(run)
    fits: dict[float, list[dict[str, Any]]] = {}
    for fraction in sorted(set(config.fractions)):
        for seed in range(config.seeds):
            fits.setdefault(fraction, []).append(_fit(run, finetuner, fraction, seed))
    metrics = summarise(zero_shot, fits, config.min_positives) | _provenance(run)
    for leftover in (RUN_FILE, *(f"{_KEPT}-{part}.safetensors" for part in (TRAIN, VAL, "test"))):
        (folder / leftover).unlink(missing_ok=True)
    write_json_atomically(folder / "metrics.json", metrics)
    write_manifest(folder, "finetuning", {"data_digest": data.digest})
    publish_folder(folder, config.out_dir)
    return metrics


def _check(config: FinetuneConfig) -> None:
    for name, given, known in (("mode", config.mode, MODES), ("features", config.features, FEATURES)):
        if given not in known:
            raise InputError(f"{name} {given!r}; {choices(given, known)}")
    for fraction in config.fractions:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction {fraction:g}; expected above 0 and at most 1")
    if not config.fractions or config.seeds < 1:
        raise InputError(f"{len(config.fractions)} fractions and {config.seeds} seeds; expected 1 or more of each")
    if config.full.epochs < 1 or config.full.batch_size < 1 or config.full.views < 1:
        raise InputError(f"{config.full}: expected 1 or more epochs, films per batch and views")
    full = config.full
    if not (0 < full.learning_rate < math.inf and 0 < full.tower_rate < math.inf and 0 <= full.weight_decay < math.inf):
        raise InputError(f"{full}: expected rates above 0 and a weight decay of 0 or more")
    if config.min_positives < 1 or config.resamples < 2:
        raise InputError(f"{config.min_positives=} and {config.resamples=}: expected 1 or more and 2 or more")


def _open_folder(config: FinetuneConfig, data: PreparedData) -> Path:
    """The folder the run works in, checked against the run that began it."""
    run = {
        "mode": config.mode,
        "features": config.kind,
        "full": asdict(config.full) if config.mode == "full" else None,
        "split": config.split,
        "studies": sorted(data.splits.select("study_id", "split").rows()),
        "model": sha256_file(config.model_dir / "model.safetensors"),
        "data_digest": data.digest,
        "labels_digest": data.manifest["labels_digest"],
        "measured": [config.min_positives, config.resamples],
        "fractions": sorted(set(config.fractions)),
        "seeds": config.seeds,
    }
    return open_run(config.out_dir, "finetuning", run, resume=config.resume)


def _prepare(config: FinetuneConfig, model: VlpModel, data: PreparedData, folder: Path) -> _Run:
    """Features of all films that any fit will need."""
    frontal_only = model.recipe.frontal_only
    has_val = VAL in set(data.splits["split"].to_list())
    films = {
        TRAIN: data.films(data.study_ids(TRAIN), frontal_only=frontal_only),
        VAL: data.films(data.study_ids(VAL) if has_val else [], frontal_only=frontal_only),
        "test": data.films(data.study_ids(config.split), frontal_only=frontal_only),
    }
    patient_of = dict(data.splits.select("study_id", "patient_id").iter_rows())
    patients = [patient_of[study] for study in films[TRAIN]["study_id"]]
    drawn: set[str] = set()
    for seed in range(config.seeds):
        drawn |= draw_patients(patients, max(config.fractions), seed)
    films[TRAIN] = films[TRAIN].filter(pl.Series([patient in drawn for patient in patients], dtype=pl.Boolean))
    for part in (TRAIN, "test"):
        if films[part].is_empty():
            raise InputError(f"no film in split {config.split if part == 'test' else part!r}", data.folder)
    looked = {
        part: look(model, data, rows, config.kind, folder / f"{_KEPT}-{part}.safetensors")
        for part, rows in films.items()
    }
    return _Run(config, model, data, folder, looked[TRAIN], looked[VAL], looked["test"], frozenset(patients))


def _zero_shot(run: _Run) -> dict[str, Any]:
    """Metrics of the model as it is; only `skipped`, with the reason, where it cannot be asked."""
    config, folder = run.config, run.folder / "zero-shot"
    if (done := _read_done(folder)) is not None:
        return done
    try:
        asked = ask(run.model, run.data, (), config.encoder_dir)
    except InputError as error:
        return {"skipped": str(error)}
    predicted = score_studies(run.model, run.data, config.split, asked.resolved)
    columns = [column.label for column in asked.columns]
    labels = label_matrix(run.data, predicted.study_ids, columns)
    return _write_evaluation(run, folder, asked.names, (labels, predicted), {"zero_shot": True})


def _fit(run: _Run, finetuner: Finetuner | None, fraction: float, seed: int) -> dict[str, Any]:
    """Fit, answer the test films, measure; or read what a stopped run already has."""
    folder = run.folder / f"fraction-{fraction:g}" / f"seed-{seed}"
    if (done := _read_done(folder)) is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    train = run.train.of_patients(draw_patients(run.train_patients, fraction, seed))
    probe = fit_probe(train.features, train.labels, run.val.features, run.val.labels)
    about = _about_fit(run, train, probe) | {"fraction": fraction, "fit_seed": seed}
    scores = probe.scores(run.test.features)
    if finetuner is not None and probe.is_fitted.any():
        tuned = finetuner.fit((train, run.val), probe, seed, folder)
        draw_curve(folder, EPOCH)
        scores = finetuner.scores(tuned.network, run.test)
        about |= {"best_epoch": tuned.best_epoch, "epochs": tuned.epochs, "val_loss": tuned.val_loss}
    predicted = run.test.by_study(scores)
    labels = label_matrix(run.data, predicted.study_ids, list(run.data.labels))
    metrics = _write_evaluation(run, folder, list(run.data.labels), (labels, predicted), about)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def _read_done(folder: Path) -> dict[str, Any] | None:
    """What a stopped run has finished here; metrics.json is the last file written."""
    return read_metrics(folder) if (folder / "metrics.json").is_file() else None


def _about_fit(run: _Run, train: Films, probe: Probe) -> dict[str, Any]:
    return {
        "mode": run.config.mode,
        "features": run.config.kind,
        "train_patients": len(set(train.patients)),
        "train_studies": train.rows["study_id"].n_unique(),
        "train_films": len(train.rows),
        "train_positives": {
            name: int((train.labels[:, column] == 1).sum()) for column, name in enumerate(run.data.labels)
        },
        "strength": probe.strength,
    }


def _write_evaluation(
    run: _Run, folder: Path, names: list[str], result: tuple[DoubleArray, StudyScores], about: dict[str, Any]
) -> dict[str, Any]:
    """predictions.csv and metrics.json, the latter last; findings without scores are undefined in it."""
    labels, predicted = result
    answered = [column for column in range(len(names)) if not np.isnan(predicted.scores[:, column]).any()]
    kept = StudyScores(predicted.study_ids, predicted.patient_ids, predicted.scores[:, answered])
    normal = _normal_label(run.data)
    settings = MeasureSettings(0, run.config.resamples, run.config.min_positives, normal=normal)
    known = [names[column] for column in answered]
    metrics = measure(known, labels[:, answered], kept, settings)
    for column, name in enumerate(names):
        if column not in answered and name != normal:
            truth = labels[:, column]
            empty = {"auroc": None, "positives": int((truth == 1).sum()), "n": int((~np.isnan(truth)).sum())}
            metrics["per_finding"][name] = empty | {"undefined": "no positive or no negative among the drawn studies"}
    if metrics["normal"] is not None:
        metrics["normal"]["column"] = normal
    metrics |= {
        "split": run.config.split,
        "studies": len(predicted.study_ids),
        "patients": len(set(predicted.patient_ids)),
        "films_digest": predicted.films_digest,
        "unreadable_films": [{"film": film, "reason": reason} for film, reason in predicted.failed],
        "undefined": sorted(name for name, row in metrics["per_finding"].items() if row["auroc"] is None),
    }
    metrics |= about
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / "predictions.csv", known, labels[:, answered], kept)
    write_json_atomically(folder / "metrics.json", metrics)
    return metrics


def _normal_label(data: PreparedData) -> str:
    """The label column that denies all findings."""
    findings = findings_of_labels(data.labels, str(data.manifest["label_set"]))
    return next((label for label, key in findings.items() if key == NORMAL), NORMAL)


def _provenance(run: _Run) -> dict[str, Any]:
    config = run.config
    return {
        "mode": config.mode,
        "features": config.kind,
        "full": asdict(config.full) if config.mode == "full" else None,
        "seeds": config.seeds,
        "split": config.split,
        "patients": {"train": len(run.train_patients), "val": len(set(run.val.patients))},
        "unreadable_films": {
            name: [{"film": film, "reason": reason} for film, reason in films.failed]
            for name, films in ((TRAIN, run.train), (VAL, run.val), ("test", run.test))
        },
        "model_dir": str(config.model_dir),
        "dataset": run.data.manifest["dataset"],
        "data_digest": run.data.digest,
        "labels_digest": run.data.manifest["labels_digest"],
        "films_digest": run.test.digest,
        "encoder_digest": run.model.manifest.get("encoder_digest"),
    }
