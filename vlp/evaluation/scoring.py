"""Answers for all studies of a split, and the labels beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import torch

from kgkit.interface import DoubleArray, FloatArray, InputError, progress, write_text_atomically
from vlp.artifact import VlpModel
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import LABEL_PREFIX, PreparedData
from vlp.denial import ResolvedQueries
from vlp.evaluation.calibration import FindingCalibration
from vlp.evaluation.training_mentions import studies_learnt_from
from vlp.predict import FilmAnswer, answers

ALL_SPLITS = "all"


@dataclass(frozen=True)
class StudyScores:
    """Predictions of a split, films of a study averaged.

    Attributes:
        study_ids: [n].
        patient_ids: [n].
        scores: float64 [n, F], probability of each finding.
        failed: (film, reason) of films that could not be read.
        without_film: Studies left out for want of a readable film.
        films: Row of `PreparedData.images` of the first film of each study, [n]; empty where it is not known.
        embeddings: float32 [n, J], the films in the joint space, averaged; [0, 0] where not known.
        films_digest: Hex digest of all films that were read.
    """

    study_ids: list[str]
    patient_ids: list[str]
    scores: DoubleArray
    failed: list[tuple[str, str]] = field(default_factory=list)
    without_film: int = 0
    films: list[dict[str, Any]] = field(default_factory=list)
    embeddings: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    films_digest: str = ""


def score_studies(model: VlpModel, data: PreparedData, split: str, resolved: ResolvedQueries) -> StudyScores:
    """Ask every film of a split; a film that cannot be read is listed and the rest go on.

    Raises:
        InputError: if there is no such split, it has no film, or none can be read.
    """
    study_ids = studies_of(model, data, split)
    films = data.films(study_ids, frontal_only=model.recipe.frontal_only)
    if films.is_empty():
        raise InputError(f"no film in split {split!r}", data.folder)
    of_study: dict[str, list[FilmAnswer]] = {}
    first_film: dict[str, dict[str, Any]] = {}
    failed: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for row, answer in film_answers(model, data, films, resolved, f"evaluate {split}"):
        study_id = row["study_id"]
        if isinstance(answer, str):
            failed.append((row["path"], answer))
            continue
        of_study.setdefault(study_id, []).append(answer)
        first_film.setdefault(study_id, row)
        digest.update(f"{study_id}\t{row['sha256']}\n".encode())
    if not of_study:
        raise InputError(f"no film of split {split!r} can be read; first: {failed[0][0]}, {failed[0][1]}", data.folder)
    scored = sorted(of_study)
    patient_of = dict(data.splits.select("study_id", "patient_id").iter_rows())
    return StudyScores(
        scored,
        [patient_of[study_id] for study_id in scored],
        np.array([np.mean([film.probabilities for film in of_study[study_id]], axis=0) for study_id in scored]),
        failed,
        len(study_ids) - len(scored),
        [first_film[study_id] for study_id in scored],
        np.stack([np.mean([film.embedding for film in of_study[study_id]], axis=0) for study_id in scored]),
        digest.hexdigest(),
    )


def film_answers(
    model: VlpModel, data: PreparedData, films: pl.DataFrame, resolved: ResolvedQueries, what: str
) -> Iterator[tuple[dict[str, Any], FilmAnswer | str]]:
    """What the model says of films of DATA, one after the other; of a film that cannot be read, why.

    Args:
        model: Asked.
        data: Where the films are.
        films: Rows of `data.images`.
        resolved: The queries.
        what: For the progress bar.

    Yields:
        The row, with the answer or the reason; the latter does not name the film.
    """
    reader = FilmReader(data)

    def square(row: dict[str, Any], size: int) -> torch.Tensor:
        return torch.from_numpy(reader.square(row, size))

    with progress(what, len(films), "films") as bar:
        for row, answer in answers(model, films.rows(named=True), square, resolved):
            bar.advance()
            if isinstance(answer, InputError):
                yield row, str(answer).split(f"{row['path']}: ", 1)[-1]
            else:
                yield row, answer


def studies_of(model: VlpModel, data: PreparedData, split: str) -> list[str]:
    """Ids of the studies of a split, sorted; `all` is every study of data the model was not trained on.

    Raises:
        InputError: if there is no such split, or all are asked for of the data it was trained on.
    """
    if split != ALL_SPLITS or ALL_SPLITS in set(data.splits["split"].to_list()):
        return data.study_ids(split)
    if data.digest == model.manifest["data_digest"] or studies_learnt_from(model, data, ("train", "val")):
        raise InputError("the model was trained on a part of these data: name a split it was not", data.folder)
    return sorted(data.splits["study_id"].to_list())


def label_matrix(data: PreparedData, study_ids: Sequence[str], labels: Sequence[str | None]) -> DoubleArray:
    """Labels of studies: float64 [n, F], 1 or 0; NaN where unknown, uncertain, or without a label column."""
    order = pl.DataFrame({"study_id": list(study_ids)}, schema={"study_id": pl.String})
    table = order.join(data.studies, on="study_id", how="left", maintain_order="left")
    matrix = np.full((len(study_ids), len(labels)), np.nan)
    for column, label in enumerate(labels):
        if label is None:
            continue
        values = table[LABEL_PREFIX + label].cast(pl.Float64)
        matrix[:, column] = values.set(~values.is_in([0.0, 1.0]).fill_null(False), None).fill_null(np.nan).to_numpy()
    return matrix


def write_scores(
    path: Path,
    names: Sequence[str],
    labels: DoubleArray,
    predicted: StudyScores,
    read_by: Mapping[str, FindingCalibration] = MappingProxyType({}),
) -> None:
    """Write `predictions.csv`: per study its probabilities, calibrated ones where there are, and labels.

    Args:
        path: The file.
        names: Of the columns, [F].
        labels: float64 [n, F], 1, 0 or NaN.
        predicted: Scores of the same studies and columns.
        read_by: Name -> calibration.
    """
    table: dict[str, Any] = {"study_id": predicted.study_ids, "patient_id": predicted.patient_ids}
    for column, name in enumerate(names):
        table[f"probability:{name}"] = predicted.scores[:, column]
        if name in read_by:
            table[f"calibrated:{name}"] = read_by[name].apply(predicted.scores[:, column])
        table[LABEL_PREFIX + name] = pl.Series(labels[:, column]).fill_nan(None).cast(pl.Int8)
    write_text_atomically(path, pl.DataFrame(table).write_csv())
