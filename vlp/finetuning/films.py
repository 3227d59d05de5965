"""Who is in which part when a model is finetuned: official lists, subsets of patients, and the features of films."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgkit.interface import DoubleArray, FloatArray, InputError, IntArray, choices
from vlp.artifact import VlpModel
from vlp.data.prepared import SPLIT_COLUMNS, PreparedData
from vlp.data.splits import position_of
from vlp.evaluation.calibration import logit
from vlp.evaluation.scoring import StudyScores, film_answers, label_matrix
from vlp.evaluation.training_mentions import studies_learnt_from
from vlp.queries import resolve_queries

TRAIN, VAL = "train", "val"
FEATURES = ("answers", "patches", "both")
_VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Films:
    """Films of a part, those that can be read.

    Attributes:
        rows: Rows of `PreparedData.images`, sorted by study and path.
        features: float32 [n, K].
        labels: float64 [n, F], 1, 0 or NaN, those of the film's study.
        patients: [n].
        failed: (film, reason) of those that could not be read.
    """

    rows: pl.DataFrame
    features: FloatArray
    labels: DoubleArray
    patients: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    def of_patients(self, chosen: Iterable[str]) -> Films:
        """The films of some patients."""
        wanted = set(chosen)
        kept = np.array([patient in wanted for patient in self.patients], dtype=bool)
        patients = tuple(patient for patient in self.patients if patient in wanted)
        return replace(
            self,
            rows=self.rows.filter(pl.Series(kept)),
            features=self.features[kept],
            labels=self.labels[kept],
            patients=patients,
        )

    def by_study(self, scores: DoubleArray) -> StudyScores:
        """Scores of films, float64 [n, F], averaged over the films of a study."""
        studies = self.rows["study_id"].to_list()
        names, study_of = np.unique(np.array(studies, dtype=str), return_inverse=True)
        patient_of = dict(zip(studies, self.patients, strict=True))
        means = np.stack([scores[study_of == study].mean(0) for study in range(len(names))])
        study_ids = [str(name) for name in names]
        return StudyScores(
            study_ids, [patient_of[study] for study in study_ids], means, list(self.failed),
            films_digest=self.digest,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Of all films, as `vlp evaluate` makes it."""
        digest = hashlib.sha256()
        for study, film in self.rows.select("study_id", "sha256").iter_rows():
            digest.update(f"{study}\t{film}\n".encode())
        return digest.hexdigest()


def draw_patients(patients: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Some of the patients; with the same seed a smaller fraction is a part of a larger one, and one is left at least.

    Args:
        patients: Ids; repeats count once.
        fraction: Above 0, at most 1.
        seed: Of the order in which they are drawn.
    """
    ordered = sorted(set(patients), key=lambda patient: (position_of(f"finetune:{seed}:{patient}"), patient))
    return set(ordered[: max(1, round(fraction * len(ordered)))])


def choose_parts(
    model: VlpModel, data: PreparedData, test_split: str, lists: tuple[Path | None, Path | None] = (None, None)
) -> PreparedData:
    """DATA with the parts `train`, `val` and `test_split`, as they stand or as official lists give them.

    Args:
        model: Whose training studies may not be tested on.
        data: As opened.
        test_split: Its split to test on; with lists, what the test list becomes.
        lists: File names of films for training and validation, and for the test, one per line; a tenth of the patients
            of the first is for validation, whatever DATA says.

    Raises:
        InputError: if a list is missing, empty, contradicts the other or divides a patient; if the part to test on
            chose something, or the model was trained on it.
    """
    if test_split in (TRAIN, VAL):
        raise InputError(f"split {test_split!r} is fitted on; expected another one to test on")
    if lists != (None, None):
        parts = _parts_of_lists(data, lists, test_split)
        data = replace(data, splits=parts)
    seen = studies_learnt_from(model, data) & set(data.splits.filter(pl.col("split") == test_split)["study_id"])
    if seen:
        problem = f"the model was trained on {len(seen)} of the test studies, for instance {min(seen)}"
        raise InputError(problem, lists[1] or data.folder)
    known = set(data.splits["split"].to_list())
    for split in (TRAIN, test_split):
        if split not in known:
            raise InputError(f"no split {split!r}; {choices(split, known)}", data.folder / "splits.csv")
    return data


def look(model: VlpModel, data: PreparedData, films: pl.DataFrame, kind: str, kept: Path | None = None) -> Films:
    """Features of films through the frozen model; films that cannot be read are listed and the rest go on.

    Args:
        model: Frozen.
        data: Whose films and labels these are.
        films: Rows of `data.images`.
        kind: `patches`: the patch features of the image tower, averaged over the film; `answers`: the logits of all
            queries the model was trained on; `both`: one after the other.
        kept: Where the features are kept for a resumed run, if anywhere.

    Raises:
        InputError: if there are films and none can be read.
    """
    if kept is not None and kept.is_file():
        return _read_kept(data, films, kept)
    if films.is_empty():
        return _films(data, films, np.empty((0, 0), np.float32), ())
    features: list[FloatArray] = []
    readable: list[int] = []
    failed: list[tuple[str, str]] = []
    looked = film_answers(model, data, films, resolve_queries(model, ()), "look at films")
    for position, (row, answer) in enumerate(looked):
        if isinstance(answer, str):
            failed.append((row["path"], answer))
            continue
        readable.append(position)
        pooled = answer.features.astype(np.float32).mean((0, 1))
        said = logit(answer.probabilities).astype(np.float32)
        features.append({"patches": pooled, "answers": said, "both": np.concatenate([pooled, said])}[kind])
    if not readable:
        raise InputError(f"none of {len(films)} films can be read; first: {failed[0][0]}, {failed[0][1]}", data.folder)
    found = _films(data, films[readable], np.stack(features), tuple(failed))
    if kept is not None:
        _keep(found, np.array(readable, dtype=np.int64), kept)
    return found


def _keep(films: Films, readable: IntArray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    tensors: dict[str, npt.NDArray[Any]] = {"features": films.features, "readable": readable}
    save_file(tensors, temporary, metadata={"failed": json.dumps(films.failed)})
    temporary.replace(path)


def _read_kept(data: PreparedData, films: pl.DataFrame, path: Path) -> Films:
    try:
        with safe_open(path, framework="numpy") as stream:
            features, readable = stream.get_tensor("features"), stream.get_tensor("readable")
            failed = json.loads(stream.metadata()["failed"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"damaged ({error}); start again without --resume", path) from error
    return _films(data, films[readable], features, tuple((film, reason) for film, reason in failed))


def _films(data: PreparedData, rows: pl.DataFrame, features: FloatArray, failed: tuple[tuple[str, str], ...]) -> Films:
    studies = rows["study_id"].to_list()
    patient_of = dict(data.splits.select("study_id", "patient_id").iter_rows())
    labels = label_matrix(data, studies, list(data.labels))
    return Films(rows, features, labels, tuple(patient_of[study] for study in studies), failed)


def _parts_of_lists(data: PreparedData, lists: tuple[Path | None, Path | None], test_split: str) -> pl.DataFrame:
    """SPLIT_COLUMNS of the studies whose films the lists name; others are left out."""
    train_list, test_list = lists
    if train_list is None or test_list is None:
        raise InputError("one list alone; expected --train-list and --test-list together")
    # by stem: copies of ChestX-ray14 as JPEG keep the names of the lists but for their ending
    listed = {Path(name).stem: TRAIN for name in _read_list(train_list)}
    for name in _read_list(test_list):
        if listed.setdefault(Path(name).stem, test_split) != test_split:
            raise InputError(f"film {name!r} stands in {train_list.name} too", test_list)
    patient_of = dict(data.splits.select("study_id", "patient_id").iter_rows())
    rows: dict[str, str] = {}
    part_of: dict[str, str] = {}
    for study, path in data.images.select("study_id", "path").iter_rows():
        part = listed.get(Path(path).stem)
        if part is None:
            continue
        patient = patient_of[study]
        if part_of.setdefault(patient, part) != part or rows.setdefault(study, part) != part:
            raise InputError(f"patient {patient!r} of film {Path(path).name!r} stands in both lists", test_list)
    for path_of_list, part in ((train_list, TRAIN), (test_list, test_split)):
        if part not in rows.values():
            example = Path(data.images["path"][0]).name if len(data.images) else "none"
            raise InputError(f"names no film of {data.folder}, whose films are called like {example!r}", path_of_list)
    # as `vlp prepare nih` draws them
    split = {
        study: VAL if part == TRAIN and position_of(f"0:{patient_of[study]}") < _VAL_FRACTION else part
        for study, part in sorted(rows.items())
    }
    table = [(study, patient_of[study], part) for study, part in split.items()]
    return pl.DataFrame(table, schema=SPLIT_COLUMNS, orient="row")


def _read_list(path: Path) -> Sequence[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", path) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError("empty; expected the file name of one film per line", path)
    return names
