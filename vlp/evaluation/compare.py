"""`vlp compare`: two models on the same studies, the difference with an interval over resampled patients.

Paired: both models are measured on the same resample, so that what films are easy or hard drops out of the difference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import DoubleArray, InputError, read_manifest, write_json_atomically
from vlp.data.prepared import LABEL_PREFIX
from vlp.evaluation.evaluate import EvaluateConfig, evaluate, read_metrics
from vlp.evaluation.measure import MIN_POSITIVES, or_none
from vlp.knowledge import NORMAL
from vlp.metrics import auroc, average_precision, estimate, patient_resamples

_PROBABILITY = "probability:"


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """One comparison.

    Attributes:
        first: MODEL folder, or folder of an evaluation.
        second: Likewise; the difference is first minus second.
        data_dir: DATA folder, needed where a MODEL is given.
        split: Its split, likewise.
        out_path: JSON to write, or None.
        encoder_dir: ENCODER for MODELs, for findings they were not trained on.
        seed: Of the bootstrap.
        resamples: Resamples of patients.
        min_positives: Positive studies a finding needs to count in the macro mean.
    """

    first: Path
    second: Path
    data_dir: Path | None = None
    split: str | None = None
    out_path: Path | None = None
    encoder_dir: Path | None = None
    seed: int = 0
    resamples: int = 1000
    min_positives: int = MIN_POSITIVES


@dataclass(frozen=True)
class EvaluatedScores:
    """What one evaluation says, study by study.

    Attributes:
        folder: Where it was read from.
        study_ids: [n].
        patient_ids: [n].
        names: Findings that were answered of every study, [F].
        scores: float64 [n, F].
        labels: float64 [n, F], 1, 0 or NaN.
        films_digest: Of the films that were read.
        apart: Columns that count in no macro mean: that which denies all findings, and what was asked twice.
    """

    folder: Path
    study_ids: list[str]
    patient_ids: list[str]
    names: list[str]
    scores: DoubleArray
    labels: DoubleArray
    films_digest: str
    apart: frozenset[str]


def compare(config: CompareConfig) -> dict[str, Any]:
    """Compare two models; returns the differences, first minus second, and writes them if asked.

    Raises:
        InputError: if a folder is neither a model nor an evaluation, DATA is missing, or the two saw different films or
            labels.
    """
    if config.min_positives < 1 or config.resamples < 2:
        raise InputError(f"{config.min_positives=} and {config.resamples=}: expected 1 or more and 2 or more")
    with TemporaryDirectory(prefix="vlp-compare-") as scratch:
        first, second = (
            read_scores(_evaluation(folder, config, Path(scratch) / str(number)), folder)
            for number, folder in enumerate((config.first, config.second))
        )
    names = _check_same(first, second)
    columns = [(first.names.index(name), second.names.index(name)) for name in names]
    scores = (first.scores[:, [a for a, _ in columns]], second.scores[:, [b for _, b in columns]])
    settings = (config.resamples, config.seed, config.min_positives)
    labels = first.labels[:, [a for a, _ in columns]]
    found = paired_differences(names, labels, scores, first.patient_ids, settings, first.apart)
    found |= {
        "first": str(config.first),
        "second": str(config.second),
        "studies": len(first.study_ids),
        "patients": len(set(first.patient_ids)),
        "resamples": config.resamples,
        "seed": config.seed,
        "not_in_both": sorted(set(first.names) ^ set(second.names)),
    }
    if config.out_path is not None:
        write_json_atomically(config.out_path, found)
    return found


def paired_differences(
    names: Sequence[str],
    labels: DoubleArray,
    scores: tuple[DoubleArray, DoubleArray],
    patient_ids: Sequence[str],
    settings: tuple[int, int, int],
    apart: Collection[str] = (NORMAL,),
) -> dict[str, Any]:
    """Differences of AUROC and average precision per finding and of their macro means, both on the same resamples.

    Args:
        names: Finding of each column, [F].
        labels: float64 [n, F], 1, 0 or NaN where unknown.
        scores: Two float64 [n, F]; the difference is the first minus the second.
        patient_ids: [n].
        settings: Resamples, seed, positive studies a finding needs to count in the macro mean.
        apart: Columns kept out of the macro mean.

    Returns:
        `macro_auroc`, `macro_average_precision` and per finding `auroc`, `average_precision`: each with `first`,
        `second`, `difference`, `low`, `high` and `above_zero`, the part of the resamples in which the first is
        better.
    """
    resamples, seed, min_positives = settings
    weights = patient_resamples(patient_ids, resamples, seed)
    per_finding: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, tuple[DoubleArray, DoubleArray]]] = {}
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        truth = labels[known, column] == 1
        row: dict[str, Any] = {"positives": int(truth.sum()), "n": int(known.sum())}
        kept[name] = {}
        for metric, function in (("auroc", auroc), ("average_precision", average_precision)):
            values = [float(function(truth, side[known, column])) for side in scores]
            resampled = [function(truth, side[known, column], weights[:, known]) for side in scores]
            row[metric] = _difference(values, resampled[0], resampled[1])
            kept[name][metric] = (resampled[0], resampled[1])
        per_finding[name] = row
    counted = _counted(per_finding, min_positives, apart)
    found: dict[str, Any] = {"findings": counted, "per_finding": per_finding}
    for metric in ("auroc", "average_precision"):
        found[f"macro_{metric}"] = None
        if counted:
            values = [float(np.mean([per_finding[n][metric][side] for n in counted])) for side in ("first", "second")]
            means = [np.mean([kept[n][metric][side] for n in counted], axis=0) for side in (0, 1)]
            found[f"macro_{metric}"] = _difference(values, means[0], means[1])
    return found


def read_scores(folder: Path, named: Path | None = None) -> EvaluatedScores:
    """The predictions and labels of an evaluation folder.

    Args:
        folder: Made by `vlp evaluate`.
        named: What errors call it.

    Raises:
        InputError: if it is not one, or damaged.
    """
    metrics = read_metrics(folder)
    path = folder / "predictions.csv"
    try:
        table = pl.read_csv(path, infer_schema=False)
        asked = [column.removeprefix(_PROBABILITY) for column in table.columns if column.startswith(_PROBABILITY)]
        answers = table.select(pl.col(_PROBABILITY + name).cast(pl.Float64).fill_nan(None) for name in asked)
        names = [name for name, column in zip(asked, answers, strict=True) if not column.null_count()]
        scores = answers.select(_PROBABILITY + name for name in names).to_numpy()
        labels = table.select(
            pl.col(LABEL_PREFIX + name).cast(pl.Float64).fill_null(np.nan) for name in names
        ).to_numpy()
        ids = [table[column].to_list() for column in ("study_id", "patient_id")]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error
    about, again = metrics.get("normal"), metrics.get("asked_again")
    normal = (about.get("column") if isinstance(about, dict) else None) or NORMAL
    apart = frozenset([normal, *(again if isinstance(again, list) else ())])
    return EvaluatedScores(
        named or folder, ids[0], ids[1], names, scores, labels, str(metrics.get("films_digest")), apart
    )


def _evaluation(folder: Path, config: CompareConfig, scratch: Path) -> Path:
    """An evaluation folder as it is; a MODEL evaluated for the purpose."""
    if (folder / "metrics.json").is_file() and (folder / "predictions.csv").is_file():
        return folder
    if not (folder / "manifest.json").is_file():
        raise InputError("neither a model nor an evaluation (no manifest.json, no predictions.csv)", folder)
    if inside := sorted(path.parent.name for path in folder.glob("*/predictions.csv")):
        raise InputError(f"this folder holds evaluations and is none: give one of them ({', '.join(inside)})", folder)
    read_manifest(folder, "model")
    if config.data_dir is None or config.split is None:
        raise InputError(
            "this is a model: give DATA and --split to measure it on, or the folder of an evaluation", folder
        )
    evaluate(
        EvaluateConfig(
            folder, config.data_dir, config.split, scratch, config.encoder_dir, config.seed,
            min_positives=config.min_positives, resamples=2, validation_split="",
        )
    )  # fmt: skip
    return scratch


def _check_same(first: EvaluatedScores, second: EvaluatedScores) -> list[str]:
    """The findings both were asked, after a check that they were asked about the same films with the same labels."""
    if first.study_ids != second.study_ids or first.films_digest != second.films_digest:
        only = sorted(set(first.study_ids) ^ set(second.study_ids))
        example = f", for instance study {only[0]}" if only else ", the same studies with other films"
        raise InputError(
            f"{first.folder} and {second.folder} saw different films ({len(first.study_ids)} and "
            f"{len(second.study_ids)} studies{example}): evaluate both on the same split"
        )
    names = [name for name in first.names if name in second.names]
    if not names:
        raise InputError(f"{first.folder} and {second.folder} were asked nothing in common")
    for name in names:
        labels = first.labels[:, first.names.index(name)], second.labels[:, second.names.index(name)]
        if not np.array_equal(*labels, equal_nan=True):
            raise InputError(f"{first.folder} and {second.folder} were measured by different labels of {name!r}")
    return names


def _counted(rows: dict[str, dict[str, Any]], min_positives: int, apart: Collection[str]) -> list[str]:
    defined = [name for name, row in rows.items() if name not in apart and row["auroc"]["difference"] is not None]
    return [name for name in defined if rows[name]["positives"] >= min_positives] or defined


def _difference(values: Sequence[float], first: DoubleArray, second: DoubleArray) -> dict[str, Any]:
    differences = first - second
    found = estimate(values[0] - values[1], differences)
    defined = differences[~np.isnan(differences)]
    return {
        "first": or_none(values[0]),
        "second": or_none(values[1]),
        "difference": or_none(found.value),
        "low": or_none(found.low),
        "high": or_none(found.high),
        "above_zero": float((defined > 0).mean()) if len(defined) and or_none(found.value) is not None else None,
    }
