"""Parts of a data set: the source's own, a list given by hand, or by patient and seed. No patient is in two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kgkit.interface import InputError
from vlp.data.prepared import SPLIT_COLUMNS
from vlp.data.source import SPLITS, Skipped, read_rows
from vlp.types import Study

DEVELOPMENT = "train+val"
"""A part that official lists leave undivided: validation patients are drawn from it."""
_LIST_WORDS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test",
               DEVELOPMENT: DEVELOPMENT}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How studies are divided.

    Attributes:
        seed: Of the draw by patient, where the source fixes no part.
        val_fraction: Part of the patients for validation.
        test_fraction: Part of the patients for the test.
        split_file: CSV with `split` and `study_id` or `patient_id`, which replaces the source's own parts; studies it
            does not name are left out.
        test_only: Everything is the test part.
    """

    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_file: Path | None = None
    test_only: bool = False


def split_patients(studies: Iterable[Study], options: SplitOptions, source: Path) -> tuple[pl.DataFrame, list[Skipped]]:
    """Give every study its part.

    Where nothing is fixed, the hash of (seed, patient) decides: stable when studies come or go.

    Returns:
        SPLIT_COLUMNS, studies in the order given; and the studies that a given list does not name.

    Raises:
        InputError: if a patient is in two parts, a study id stands twice, or the fractions leave no training part.
    """
    fractions = (options.val_fraction, options.test_fraction, _held_out(options))
    if not all(0 <= fraction < 1 for fraction in fractions):  # NaN is none of these either
        raise InputError(f"validation and test take {_held_out(options):g} of the patients, expected less than 1")
    studies = list(studies)
    named = {} if options.split_file is None else _given_parts(options.split_file)
    # a study whose part the source leaves open goes where its patient is
    by_patient = {study.patient_id: study.split for study in studies if study.split}
    rows, skipped = [], []
    of_patient: dict[str, str] = {}
    of_study: set[str] = set()
    for study in studies:
        if study.study_id in of_study:
            raise InputError(f"study id {study.study_id!r} stands twice", source)
        of_study.add(study.study_id)
        fixed = study.split or by_patient.get(study.patient_id)
        if options.split_file is not None:
            fixed = named.get(study.study_id) or named.get(study.patient_id)
            if fixed is None:
                skipped.append((f"study {study.study_id}", f"not in {options.split_file.name}"))
                continue
        split = "test" if options.test_only else _part(study.patient_id, fixed, options)
        if of_patient.setdefault(study.patient_id, split) != split:
            both = f"{of_patient[study.patient_id]!r} and {split!r}"
            raise InputError(f"patient {study.patient_id!r} is in two splits, {both}", options.split_file or source)
        rows.append((study.study_id, study.patient_id, split))
    return pl.DataFrame(rows, schema=SPLIT_COLUMNS, orient="row"), skipped


def position_of(words: str) -> float:
    """A place in 0..1 that depends on some words alone: what is drawn by it stays drawn, whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") / 2**64


def _held_out(options: SplitOptions) -> float:
    return options.val_fraction + options.test_fraction


def _part(patient_id: str, fixed: str | None, options: SplitOptions) -> str:
    if fixed is not None and fixed != DEVELOPMENT:
        return fixed
    position = position_of(f"{options.seed}:{patient_id}")
    if fixed == DEVELOPMENT:
        return "val" if position < options.val_fraction else "train"
    if position < options.test_fraction:
        return "test"
    return "val" if position < _held_out(options) else "train"


def _given_parts(path: Path) -> dict[str, str]:
    """Study or patient id -> part."""
    found: dict[str, str] = {}
    column = ""
    for row in read_rows(path, ("split",)):
        column = column or next((name for name in ("study_id", "patient_id", "uid") if name in row.values), "")
        if not column:
            raise InputError(f"no column study_id or patient_id; found {', '.join(row.values)}", path)
        split = _LIST_WORDS.get(row.get("split").lower())
        if split is None:
            raise row.wrong("split", ", ".join(SPLITS))
        key = row.need(column)
        if found.setdefault(key, split) != split:
            raise InputError(f"{key!r} is in two splits, {found[key]!r} and {split!r}", path, row.line)
    return found
