"""What an ENCODER folder says was held out of its training: ENCODER/evaluation, written by the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.arrays import IntArray
from kgkit.errors import InputError

TRIPLE_COLUMNS = {"head": pl.Int32, "relation": pl.Int32, "tail": pl.Int32, "part": pl.String}
NAME_COLUMNS = {"name": pl.String, "concepts": pl.List(pl.Int32), "part": pl.String}
DEFINITION_COLUMNS = {"concept": pl.Int32, "definition": pl.String, "part": pl.String}


def read_relations(folder: Path) -> list[str]:
    """Relation names of an encoder; the position is the relation's id."""
    return [str(name) for name in _read(folder, "relations", {"relation": pl.String})["relation"].to_list()]


def read_facts(folder: Path) -> dict[str, IntArray]:
    """All facts of an encoder's graph by part: int64 [n, 3] each.

    Parts are `train`, `valid`, `test`, and of concepts that training never saw `inductive` (asked for) and `support`
    (passed messages to them afterwards).
    """
    table = _read(folder, "triples", TRIPLE_COLUMNS)
    return {
        part: table.filter(pl.col("part") == part).select("head", "relation", "tail").to_numpy().astype(np.int64)
        for part in ("train", "valid", "test", "inductive", "support")
    }


def read_held_out_names(folder: Path) -> pl.DataFrame:
    """Held-out names: name, concepts (rows), part (`valid`, `test`, `inductive`)."""
    return _read(folder, "names", NAME_COLUMNS)


def read_held_out_definitions(folder: Path) -> pl.DataFrame:
    """Held-out definitions: concept (row), definition, part (`valid`, `test`, `inductive`)."""
    return _read(folder, "definitions", DEFINITION_COLUMNS)


def _read(folder: Path, name: str, columns: dict[str, Any]) -> pl.DataFrame:
    path = folder / "evaluation" / f"{name}.parquet"
    if not path.is_file():
        problem = "missing, so it is not known what this encoder never saw; only encoders made by train-encoder have it"
        raise InputError(problem, path)
    try:
        return pl.read_parquet(path, columns=list(columns)).cast(columns)  # type: ignore[arg-type]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged ({str(error).splitlines()[0]})", path) from error
