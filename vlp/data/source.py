"""What every reader of a data set gives: studies, with what could not be read counted by reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kgkit.interface import InputError
from vlp.types import Study


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
    """

    name: str
    layout: str
    label_set: str
    licence: str
    image_root: Path
    studies: tuple[Study, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def read_csv_table(path: Path, required: tuple[str, ...]) -> pl.DataFrame:
    """A CSV as strings (empty cells are null), with its columns checked.

    Raises:
        InputError: if it is missing, damaged, empty or without a column that is needed.
    """
    if not path.is_file():
        raise InputError("no such file", path)
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as CSV ({str(error).splitlines()[0]})", path) from error
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise InputError(f"no column {missing[0]!r}; found {', '.join(table.columns)}", path)
    if table.is_empty():
        raise InputError("no rows", path)
    return table
