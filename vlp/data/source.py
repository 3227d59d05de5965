"""What every reader of a data set takes and gives, and the tables they read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from kgkit.interface import InputError, choices
from vlp.images import IMAGE_SUFFIXES
from vlp.types import Study, View

SPLITS = ("train", "val", "test")
Skipped = tuple[str, str]
"""(thing, reason) of what was left out."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a data set is read.

    Attributes:
        where: (column, value) pairs: only rows of the main table with all these values are read.
        reports: Folder or .zip with report texts, where they are not in the data set's folder (MIMIC-CXR).
        images: Folder with the films, where they are not in the data set's folder.
        labels: Which label table to take, where there are several (MIMIC-CXR: chexpert, negbio).
    """

    where: tuple[tuple[str, str], ...] = ()
    reports: Path | None = None
    images: Path | None = None
    labels: str | None = None


DEFAULTS = ReadOptions()


def conditions(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(column, value) pairs from `COLUMN=VALUE`.

    Raises:
        InputError: if there is no equals sign or no column.
    """
    pairs = []
    for word in words:
        column, equals, value = word.partition("=")
        if not (column.strip() and equals):
            raise InputError(f"--where {word!r}: expected COLUMN=VALUE")
        pairs.append((column.strip(), value.strip()))
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class SourceData:
    """A data set as read from its own layout.

    Attributes:
        name: Name of the reader, such as `openi`.
        layout: Which of its layouts was met.
        label_set: Key of `Finding.labels` that names the columns in `Study.labels`.
        licence: Terms of the data, for the model card.
        image_root: Folder that holds every film.
        studies: In the order of their ids.
        skipped: (thing, reason) of what is not in `studies`.
        notes: Assumptions the reader had to make.
        language: Of the reports, BCP 47; "" if there are none. Only English ones are linked.
    """

    name: str
    layout: str
    label_set: str
    licence: str
    image_root: Path
    studies: tuple[Study, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    language: str = "en"


class Reader(Protocol):
    """A function that reads one data set in its own layouts."""

    def __call__(self, source: Path, options: ReadOptions) -> SourceData:
        """Read it.

        Raises:
            InputError: if the folder is missing or not that data set, or its tables contradict each other.
        """


@dataclass(frozen=True)
class Row:
    """A row of a table, which names its place when something in it is wrong.

    Attributes:
        values: Column -> text; empty cells are None.
        path: The table.
        line: 1-based, the header being 1.
    """

    values: dict[str, str | None]
    path: Path
    line: int

    def get(self, column: str) -> str:
        """The cell without spaces around it, "" if it is empty or there is no such column."""
        return (self.values.get(column) or "").strip()

    def need(self, column: str) -> str:
        """The cell, which has to say something.

        Raises:
            InputError: if it is empty.
        """
        value = self.get(column)
        if not value:
            raise InputError(f"empty {column}", self.path, self.line)
        return value

    def wrong(self, column: str, expected: str) -> InputError:
        """The error that names this cell."""
        return InputError(f"{column} is {self.get(column)!r}, expected {expected}", self.path, self.line)

    def label(self, column: str) -> int | None:
        """A label of 1, 0, -1 (uncertain) or nothing, written as `1` or `1.0`.

        Raises:
            InputError: if it is anything else.
        """
        value = self.get(column)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number not in (1.0, 0.0, -1.0):
            raise self.wrong(column, "1, 0, -1 or nothing")
        return int(number)


def require_folder(source: Path) -> None:
    """Refuse what is no folder.

    Raises:
        InputError: saying what it is.
    """
    if not source.is_dir():
        raise InputError("no such folder" if not source.exists() else "this is a file, expected a folder", source)


def read_text(path: Path) -> str:
    """A text file as UTF-8, with or without a byte order mark.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})", path) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error


def read_csv_table(path: Path, required: tuple[str, ...]) -> pl.DataFrame:
    """A CSV, gzipped or not, as strings (empty cells are null), with its columns checked.

    Raises:
        InputError: if it is missing, damaged, empty or without a column that is needed.
    """
    if not path.is_file():
        raise InputError("no such file", path)
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.NoDataError as error:
        raise InputError("empty file, expected a CSV table", path) from error
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not readable as CSV ({str(error).splitlines()[0]})", path) from error
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise InputError(f"no column {missing[0]!r}; found {', '.join(table.columns)}", path)
    if table.is_empty():
        raise InputError("no rows", path)
    return table


def read_rows(path: Path, required: tuple[str, ...], where: Iterable[tuple[str, str]] = ()) -> Iterator[Row]:
    """The rows of a CSV that have the values asked for.

    Raises:
        InputError: as `read_csv_table`; or if a column of `where` is not there, or no row is left.
    """
    table = read_csv_table(path, required).with_row_index("line number", offset=2)
    table = choose_rows(table, path, where)
    columns = table.columns[1:]
    for line, *cells in table.iter_rows():
        yield Row(dict(zip(columns, cells, strict=True)), path, line)


def choose_rows(table: pl.DataFrame, path: Path, where: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """The rows that have every value asked for.

    Raises:
        InputError: if a column is not there, or no row is left.
    """
    for column, value in where:
        if column not in table.columns:
            raise InputError(f"no column {column!r} to choose rows by; {choices(column, table.columns)}", path)
        found = table.filter(pl.col(column).str.strip_chars() == value)
        if found.is_empty():
            known = table[column].drop_nulls().unique().sort().to_list()
            raise InputError(f"no row left with {column} {value!r}; {choices(value, known)}", path)
        table = found
    return table


def first_file(source: Path, *patterns: str) -> Path | None:
    """The first file in a folder that fits one of the patterns, the patterns in order of preference."""
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                return path
    return None


def existing_file(candidates: Iterable[Path]) -> Path | None:
    """The first of some paths that is a file; a name that no file can have is none."""
    for path in candidates:
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # too long, or holds a zero byte
            continue
    return None


def image_files(folder: Path) -> dict[str, Path]:
    """Every image under a folder, at any depth: by file name, and by stem where a name does not decide."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    by_stem: dict[str, Path] = {}
    for path in files:
        by_stem.setdefault(path.stem, path)
    return by_stem | {path.name: path for path in files}


def view_of(projection: str) -> View:
    """Frontal, lateral or unknown, from DICOM's and the data sets' words for how a film was taken.

    >>> view_of("AP_horizontal"), view_of("LL"), view_of("COSTAL")
    (<View.FRONTAL: 'frontal'>, <View.LATERAL: 'lateral'>, <View.UNKNOWN: 'unknown'>)
    """
    words = projection.upper().replace("_", " ").split()
    if not words:
        return View.UNKNOWN
    if {"LATERAL", "LL", "RL", "L", "LAT"} & set(words):
        return View.LATERAL
    return View.FRONTAL if words[0] in ("PA", "AP", "FRONTAL") else View.UNKNOWN


def sex_of(word: str) -> str:
    """`F`, `M`, or "" for anything that says neither.

    >>> sex_of("Female"), sex_of("M"), sex_of("O")
    ('F', 'M', '')
    """
    letter = word.strip().upper()[:1]
    return letter if letter in ("F", "M") and word.strip().upper() in ("F", "M", "FEMALE", "MALE") else ""


def age_of(text: str) -> float | None:
    """Years, from a number or DICOM's `058Y`, `006M`, `010D`; None where it is empty, zero or beyond 120.

    >>> age_of("058Y"), age_of("006M"), age_of("411"), age_of("")
    (58.0, 0.5, None, None)
    """
    words = text.strip().upper()
    per_year = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}.get(words[-1:], 0.0)
    try:
        years = float(words[:-1]) / per_year if per_year else float(words)
    except ValueError:
        return None
    return years if 0 < years <= 120 else None


def skip_counts(skipped: Iterable[Skipped]) -> dict[str, Any]:
    """Reason -> count and the first thing it befell, most frequent first."""
    found: dict[str, dict[str, Any]] = {}
    for name, reason in skipped:
        entry = found.setdefault(reason, {"count": 0, "first": name})
        entry["count"] += 1
    return dict(sorted(found.items(), key=lambda item: (-item[1]["count"], item[0])))
