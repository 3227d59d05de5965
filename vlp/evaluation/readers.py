"""Readers beside the model: operating points of people from a CSV, on the axes of the ROC figure.

Two layouts. Points: `reader,finding,sensitivity,specificity`. Reads: `reader,study_id` and one column of 0/1 per
finding (empty where the reader did not say); sensitivity and specificity are then measured on the evaluated
studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import DoubleArray, InputError, choices
from vlp.evaluation.measure import or_none
from vlp.evaluation.operating import confusion

_POINTS = ("reader", "finding", "sensitivity", "specificity")


def read_readers(
    path: Path, names: Sequence[str], study_ids: Sequence[str], labels: DoubleArray
) -> dict[str, list[dict[str, Any]]]:
    """Operating points of readers.

    Args:
        path: The CSV.
        names: Findings that were evaluated.
        study_ids: Studies that were evaluated, [n].
        labels: float64 [n, F], 1, 0 or NaN.

    Returns:
        Finding -> points, each `reader`, `sensitivity`, `specificity` and, for reads, `mcc`, `f1`, `n`.

    Raises:
        InputError: naming the row and value that is wrong.
    """
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"not readable as CSV ({str(error).splitlines()[0]})", path) from error
    if set(_POINTS) <= set(table.columns):
        return _given_points(table, path, names)
    if {"reader", "study_id"} <= set(table.columns):
        return _measured_reads(table, path, names, study_ids, labels)
    raise InputError(
        f"columns are {', '.join(table.columns)}; expected {', '.join(_POINTS)}, or reader, study_id and findings", path
    )


def _given_points(table: pl.DataFrame, path: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        finding = row["finding"]
        if finding not in names:
            raise InputError(f"no finding {finding!r} was evaluated; {choices(str(finding), names)}", path, line)
        point: dict[str, Any] = {"reader": row["reader"]}
        for column in _POINTS[2:]:
            point[column] = _fraction(row[column], column, path, line)
        found.setdefault(finding, []).append(point)
    return found


def _fraction(value: str | None, column: str, path: Path, line: int) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise InputError(f"{column} is {value!r}, expected a number from 0 to 1", path, line)
    return number


def _measured_reads(
    table: pl.DataFrame, path: Path, names: Sequence[str], study_ids: Sequence[str], labels: DoubleArray
) -> dict[str, list[dict[str, Any]]]:
    row_of = {study_id: row for row, study_id in enumerate(study_ids)}
    read = [column for column in table.columns if column not in ("reader", "study_id")]
    unknown = [column for column in read if column not in names]
    if unknown:
        raise InputError(f"no finding {unknown[0]!r} was evaluated; {choices(unknown[0], names)}", path, 1)
    called: dict[tuple[str, str], DoubleArray] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        if row["study_id"] not in row_of:
            raise InputError(f"study {row['study_id']!r} was not evaluated", path, line)
        for finding in read:
            if row[finding] not in ("0", "1", None):
                raise InputError(f"{finding} is {row[finding]!r}, expected 0, 1 or nothing", path, line)
            if row[finding] is not None:
                answers = called.setdefault((finding, row["reader"]), np.full(len(study_ids), np.nan))
                if not np.isnan(answers[row_of[row["study_id"]]]):
                    raise InputError(f"reader {row['reader']!r} read study {row['study_id']!r} already", path, line)
                answers[row_of[row["study_id"]]] = float(row[finding])
    found: dict[str, list[dict[str, Any]]] = {}
    for (finding, reader), answers in called.items():
        truth = labels[:, list(names).index(finding)]
        both = ~np.isnan(answers) & ~np.isnan(truth)
        counts = confusion(truth[both] == 1, answers[both] == 1)
        values = {m: or_none(float(getattr(counts, m))) for m in ("sensitivity", "specificity", "mcc", "f1")}
        found.setdefault(finding, []).append({"reader": reader, **values, "n": int(both.sum())})
    return found
