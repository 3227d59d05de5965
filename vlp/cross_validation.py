"""`vlp cross-validate`: every study is asked by a model that has not seen its patient.

Patients are dealt into folds once and for all, so that recipes and seeds meet the same films and can be compared in
pairs. In each fold a tenth of the other patients chooses the epoch. Patch features are computed once for all folds.
With findings left out, each of them is asked of models whose training reports never spoke of it (`leave_out`): what
they know of it comes from its vector alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from kgkit.interface import (
    DoubleArray,
    InputError,
    choices,
    load_findings,
    load_verified_encoder,
    publish_folder,
    recipe_to_dict,
    write_json_atomically,
    write_manifest,
)
from vlp.config import TrainConfig, VlpRecipe
from vlp.data.dataset import Questions, choose_questions, film_set
from vlp.data.film_cache import FilmCache, cache_films
from vlp.data.left_out import leave_out, mask_what_changed
from vlp.data.prepared import PreparedData, load_data
from vlp.denial import resolve_denial
from vlp.evaluation.asked import Asked, labelled_findings
from vlp.evaluation.measure import MIN_POSITIVES, MeasureSettings, measure
from vlp.evaluation.scoring import StudyScores, label_matrix, write_scores
from vlp.finetuning.probe import probe_scores
from vlp.knowledge import NORMAL, Knowledge
from vlp.loop import make_accelerator
from vlp.model import film_logits
from vlp.queries import vector_of_unseen
from vlp.run_folder import open_run
from vlp.towers import ImageTower, load_tower
from vlp.training import fit, learn_denial
from vlp.types import Query

_POOL = ("train", "val")
_KIND = "cross-validation"
_VALIDATION_PART = 0.1
_DEAL_SEED = 0
EVERY_FINDING = "all"


@dataclass(frozen=True, slots=True)
class CrossValidateConfig:
    """One cross-validation.

    Attributes:
        data_dir: DATA folder with labels; its splits `train` and `val` are dealt anew, any other is left alone.
        encoder_dir: ENCODER folder.
        out_dir: Folder for `seed-<n>/`, each in the layout of `vlp evaluate`, and `summary.json`.
        recipe: Trained in each fold; its tower must be frozen.
        folds: Number of folds, 2 or more.
        seeds: Of training; one cross-validation each.
        left_out: Labels that are asked of models which never heard of them; `all` for every one that counts.
        probe: Fit a supervised linear probe in place of the recipe: the reference that labels give.
        min_positives: Positive studies a finding needs to count in the macro mean.
        resume: Keep the folds that a stopped run had finished.
    """

    data_dir: Path
    encoder_dir: Path
    out_dir: Path
    recipe: VlpRecipe
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    left_out: tuple[str, ...] = ()
    probe: bool = False
    min_positives: int = MIN_POSITIVES
    resume: bool = False


@dataclass(frozen=True)
class _Task:
    """What all folds share."""

    config: CrossValidateConfig
    data: PreparedData
    films: pl.DataFrame
    tower: ImageTower
    cache: FilmCache
    folds: dict[str, int]
    knowledge: Knowledge
    asked: tuple[Asked, ...]
    partial: Path


def cross_validate(config: CrossValidateConfig) -> dict[str, Any]:
    """Run it; returns the content of summary.json.

    Raises:
        InputError: if data, encoder or recipe are not what they should be, a label is unknown, or a resumed run was
            started with other inputs.
    """
    task = _prepare(config)
    left_out = _left_out(task)
    per_seed = {}
    for seed in config.seeds:
        folder = task.partial / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        scores = _pooled(task, seed, left_out, folder)
        per_seed[str(seed)] = _write_seed(task, scores, left_out, folder)
    summary = _summary(config, per_seed)
    write_json_atomically(task.partial / "summary.json", summary)
    write_manifest(task.partial, _KIND, {"data_digest": task.data.digest})
    publish_folder(task.partial, config.out_dir)
    return summary


def deal_patients(data: PreparedData, study_ids: Sequence[str], folds: int) -> dict[str, int]:
    """Fold of each study; all studies of a patient are in one. A function of the patients and `folds` alone."""
    wanted = pl.DataFrame({"study_id": list(study_ids)}, schema={"study_id": pl.String})
    pairs = data.splits.join(wanted, on="study_id", how="semi").select("study_id", "patient_id")
    patients = pairs["patient_id"].unique().sort().to_list()
    order = np.random.default_rng(_DEAL_SEED).permutation(len(patients))
    fold_of = {patients[row]: place % folds for place, row in enumerate(order)}
    return {study_id: fold_of[patient_id] for study_id, patient_id in pairs.iter_rows()}


def _prepare(config: CrossValidateConfig) -> _Task:
    if config.folds < 2 or not config.seeds:
        raise InputError(f"{config.folds} folds and {len(config.seeds)} seeds: expected 2 or more and 1 or more")
    if config.probe and config.left_out:
        raise InputError(
            "a probe learns from labels: there is nothing to leave out of the reports; drop one of the two"
        )
    if config.left_out and (config.recipe.targets.queries == "kad" or config.recipe.loss.uncertain_weight > 0):
        problem = "what is left out is masked as uncertain, which this recipe teaches as absent, or asks all the same"
        raise InputError(f"{problem}: set loss.uncertain_weight=0 and targets.queries=frequent to leave a finding out")
    if config.recipe.tower.trained_blocks:
        raise InputError("cross-validation shares the features of a frozen tower: set tower.trained_blocks=0")
    data = load_data(config.data_dir)
    encoder = load_verified_encoder(config.encoder_dir)
    there = set(data.splits["split"].to_list())
    study_ids = [study_id for split in _POOL if split in there for study_id in data.study_ids(split)]
    films = data.films(study_ids, frontal_only=config.recipe.frontal_only)
    if films.is_empty():
        raise InputError("no film in the splits train and val", config.data_dir)
    folds = deal_patients(data, films["study_id"].unique().to_list(), config.folds)
    if len(set(folds.values())) < config.folds:
        raise InputError(f"too few patients for {config.folds} folds", config.data_dir)
    knowledge = Knowledge(encoder, load_findings(), config.recipe.targets.vectors)
    asked = _asked(data, knowledge)
    _check_left_out(config, asked)
    partial = open_run(config.out_dir, _KIND, _run(config, data, encoder.digest), resume=config.resume)
    device = make_accelerator(config.recipe.optimizer).device
    tower = load_tower(config.recipe.tower.name, config.recipe.tower.stride).to(device)
    cache = cache_films(tower, data, films, config.recipe.tower, device)
    return _Task(config, data, films, tower, cache, folds, knowledge, asked, partial)


def _check_left_out(config: CrossValidateConfig, asked: Sequence[Asked]) -> None:
    known = [column.name for column in asked]
    for label in config.left_out:
        if label not in known and config.left_out != (EVERY_FINDING,):
            raise InputError(f"no label {label!r}; {choices(label, known)}")


def _run(config: CrossValidateConfig, data: PreparedData, encoder_digest: str) -> dict[str, Any]:
    return {
        "recipe": recipe_to_dict(config.recipe),
        "data_digest": data.digest,
        "encoder_digest": encoder_digest,
        "folds": config.folds,
        "probe": config.probe,
    }


def _asked(data: PreparedData, knowledge: Knowledge) -> tuple[Asked, ...]:
    """Every label that is a known finding."""
    found = []
    for label, finding in labelled_findings(data).items():
        query = knowledge.ask(knowledge.concept_of_finding(finding))
        found.append(Asked(label, label, finding, Query(query.text, query.concept, query.is_text_encoded, True)))
    if not found:
        raise InputError("no label column is a known finding", data.folder / "studies.parquet")
    return tuple(found)


def _left_out(task: _Task) -> tuple[str, ...]:
    wanted, known = task.config.left_out, [column.name for column in task.asked]
    if wanted == (EVERY_FINDING,):
        labels = label_matrix(task.data, list(task.folds), known)
        counts = dict(zip(known, np.nansum(labels, axis=0), strict=True))
        normal = {column.name for column in task.asked if column.finding and column.finding.key == NORMAL}
        return tuple(name for name in known if counts[name] >= task.config.min_positives and name not in normal)
    return wanted


def _pooled(task: _Task, seed: int, left_out: tuple[str, ...], folder: Path) -> dict[str, DoubleArray]:
    """Study -> score of each finding, float64 [F], from the fold that did not train on it.

    A probability; of a finding left out the rank among the fold's studies, in (0, 1). What was never taught has no
    level of its own: each fold's model answers it higher or lower as a whole, and only the order means something.
    """
    scores: dict[str, DoubleArray] = {}
    for fold in range(task.config.folds):
        for label in left_out or ("",):
            path = folder / f"fold-{fold}{'-' + label if label else ''}.json"
            if not path.is_file():
                write_json_atomically(path, _run_fold(task, fold, seed, label, path.with_suffix(".run")))
            columns = [row for row, column in enumerate(task.asked) if not left_out or column.name == label]
            said = json.loads(path.read_text(encoding="utf-8"))
            table = np.array(list(said.values()))
            table = rankdata(table, axis=0) / (len(table) + 1) if left_out else table
            for study_id, values in zip(said, table, strict=True):
                row = scores.setdefault(study_id, np.full(len(task.asked), np.nan))
                row[columns] = values[columns]
    return scores


def _run_fold(task: _Task, fold: int, seed: int, label: str, folder: Path) -> dict[str, list[float]]:
    """Train in one fold; study id -> probabilities of the studies that were kept apart."""
    config, parts = task.config, _parts(task, fold)
    test = task.films.filter(pl.col("study_id").is_in([s for s, part in parts.items() if part == "test"]))
    if config.probe:
        scores = _probe(task, parts, test)
    else:
        recipe = replace(config.recipe, seed=seed)
        scores = _train_and_ask(task, replace(config, recipe=recipe), parts, label, test, folder)
    of_study: dict[str, list[DoubleArray]] = {}
    for study_id, row in zip(test["study_id"], scores, strict=True):
        of_study.setdefault(study_id, []).append(row)
    shutil.rmtree(folder, ignore_errors=True)
    return {study_id: np.mean(rows, axis=0).tolist() for study_id, rows in sorted(of_study.items())}


def _parts(task: _Task, fold: int) -> dict[str, str]:
    """Study -> train, val or test."""
    patient_of = dict(task.data.splits.select("study_id", "patient_id").iter_rows())
    others = sorted({patient_of[study_id] for study_id, own in task.folds.items() if own != fold})
    count = max(1, round(_VALIDATION_PART * len(others)))
    chosen = np.random.default_rng((_DEAL_SEED, fold)).permutation(len(others))[:count]
    val = {others[row] for row in chosen}
    return {
        study_id: "test" if own == fold else "val" if patient_of[study_id] in val else "train"
        for study_id, own in task.folds.items()
    }


def _train_and_ask(
    task: _Task, config: CrossValidateConfig, parts: dict[str, str], label: str, test: pl.DataFrame, folder: Path
) -> DoubleArray:
    """Probabilities of the test films: float64 [n, F]."""
    recipe = config.recipe
    knowledge = task.knowledge
    rows = list(parts.items())
    splits = pl.DataFrame(rows, schema=["study_id", "split"], orient="row")
    patients = task.data.splits.select("study_id", "patient_id")
    data = replace(task.data, splits=splits.join(patients, on="study_id", maintain_order="left"))
    run = TrainConfig(config.data_dir, config.encoder_dir, config.out_dir, recipe)
    if label:
        concept = next(column.query.concept for column in task.asked if column.name == label)
        questions = choose_questions(leave_out(data, concept or "", knowledge), run, knowledge)
        questions = mask_what_changed(questions, data, knowledge, closure=recipe.targets.closure)
    else:
        questions = choose_questions(data, run, knowledge)
    sets = []
    for split in ("train", "val"):
        films = task.films.filter(pl.col("study_id").is_in(list(questions.targets[split])))
        sets.append(film_set(questions, split, task.cache, films))
    accelerator = make_accelerator(recipe.optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    model, _ = fit((sets[0], sets[1]), questions, task.tower, recipe, accelerator, folder)
    denial = learn_denial(model, (sets[0], sets[1]), questions, recipe)
    own = _vectors(task.asked, questions, knowledge, recipe)
    asked = [column.query for column in task.asked]
    resolved = resolve_denial(asked, own, (questions.queries, questions.vectors), denial)
    logits = resolved.read(film_logits(model, task.cache.parts(task.cache.rows_of(test)), resolved.vectors))
    found: DoubleArray = logits.double().sigmoid().numpy()
    return found


def _vectors(asked: Sequence[Asked], questions: Questions, knowledge: Knowledge, recipe: VlpRecipe) -> Tensor:
    """What the findings are asked with: as in training where they were, float32 [F, E]."""
    taught = {query.concept: vector for query, vector in zip(questions.queries, questions.vectors, strict=True)}
    helping = taught if recipe.targets.ask_broader else {}
    vectors = []
    for column in asked:
        concept = column.query.concept or ""
        own = taught.get(concept)
        vectors.append(vector_of_unseen(knowledge.ask(concept), knowledge, helping) if own is None else own)
    return torch.stack(vectors)


def _probe(task: _Task, parts: dict[str, str], test: pl.DataFrame) -> DoubleArray:
    """The supervised reference: logistic regression on patch features averaged over the quarters of the film."""
    names = [column.name for column in task.asked]
    inputs: dict[str, DoubleArray] = {}
    truth: dict[str, DoubleArray] = {}
    for part in ("train", "val", "test"):
        films = test if part == "test" else task.films.filter(
            pl.col("study_id").is_in([study_id for study_id, own in parts.items() if own == part])
        )  # fmt: skip
        looks = task.cache.parts(task.cache.rows_of(films))
        quarters = torch.cat([F.adaptive_avg_pool2d(look.float().permute(0, 3, 1, 2), 2) for look in looks])
        inputs[part] = quarters.flatten(1).double().numpy()
        truth[part] = label_matrix(task.data, films["study_id"].to_list(), names)
    return probe_scores(inputs["train"], truth["train"], inputs["val"], truth["val"], inputs["test"])


def _write_seed(task: _Task, scores: dict[str, DoubleArray], left_out: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """predictions.csv and metrics.json as of `vlp evaluate`; returns the metrics."""
    columns = [row for row, column in enumerate(task.asked) if not left_out or column.name in left_out]
    asked = tuple(task.asked[row] for row in columns)
    study_ids = sorted(scores)
    patient_of = dict(task.data.splits.select("study_id", "patient_id").iter_rows())
    predicted = StudyScores(
        study_ids,
        [patient_of[study_id] for study_id in study_ids],
        np.array([scores[study_id][columns] for study_id in study_ids]),
        films_digest=hashlib.sha256(json.dumps(task.films["sha256"].to_list()).encode()).hexdigest(),
    )
    names = [column.name for column in asked]
    labels = label_matrix(task.data, study_ids, names)
    normal = next((c.name for c in asked if c.finding is not None and c.finding.key == NORMAL), NORMAL)
    metrics = measure(names, labels, predicted, MeasureSettings(min_positives=task.config.min_positives, normal=normal))
    if metrics["normal"] is not None:
        metrics["normal"]["column"] = normal
    metrics |= {"films_digest": predicted.films_digest, "studies": len(study_ids), "left_out": list(left_out)}
    write_scores(folder / "predictions.csv", names, labels, predicted)
    write_json_atomically(folder / "metrics.json", metrics)
    return metrics


def _summary(config: CrossValidateConfig, per_seed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    values = [metrics["macro_auroc"]["value"] for metrics in per_seed.values()]
    defined = [value for value in values if value is not None]
    return {
        "macro_auroc": {
            "mean": float(np.mean(defined)) if defined else None,
            "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        },
        "seeds": {seed: metrics["macro_auroc"] for seed, metrics in per_seed.items()},
        "folds": config.folds,
        "method": "probe" if config.probe else config.recipe.method,
    }
