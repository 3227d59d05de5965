"""Reading the tab-separated files that test sets come in."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from kgkit.errors import InputError


def find_file(folder: Path, pattern: str, what: str) -> Path:
    """The one file of a test set.

    Args:
        folder: What the user gave.
        pattern: Glob; the first match in sorted order is taken.
        what: The test set, for the message.

    Raises:
        InputError: if the folder or the file is missing.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder; expected {what} with {pattern}", folder)
    found = sorted(folder.glob(pattern))
    if not found:
        raise InputError(f"expected {what} with {pattern}; it is not here", folder)
    return found[0]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header and without quoting.

    Args:
        path: The file.
        columns: The columns that are needed; others are kept too.

    Raises:
        InputError: if it is not UTF-8, a column is missing, a row is short, or there is no row.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not readable as a table ({error})", path) from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"no column {missing[0]!r}; expected {', '.join(columns)}, tab-separated", path, 1)
    for number, row in enumerate(rows, start=2):
        short = [name for name in columns if row[name] is None]
        if short:
            raise InputError(f"no value for {short[0]!r}", path, number)
    if not rows:
        raise InputError("no row below the header", path)
    return rows


def one_of(value: str, known: Collection[str], column: str, path: Path, line: int) -> str:
    """A value that has to be one of a few.

    Raises:
        InputError: naming the place and the choices.
    """
    if value not in known:
        raise InputError(f"{column} is {value!r}, expected {', '.join(sorted(known))}", path, line)
    return value


def number(value: str, column: str, path: Path, line: int) -> float:
    """A finite number.

    Raises:
        InputError: naming the place.
    """
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not abs(found) < float("inf"):
        raise InputError(f"{column} is {value!r}, expected a number", path, line)
    return found
