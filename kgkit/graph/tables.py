"""A source's columns on disk, kept so that views can be rebuilt without parsing RDF."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.sources.base import TABLES, NamedGraph, SourceTables


def save_tables(tables: SourceTables, folder: Path) -> None:
    """Write a source's columns (reports are in its RDF alone); the file `complete` is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tables.ids.to_frame().write_parquet(folder / "ids.parquet")
    tables.relations.to_frame().write_parquet(folder / "relations.parquet")
    for table in TABLES:
        getattr(tables, table).write_parquet(folder / f"{table}.parquet")
    (folder / "complete").touch()


def load_tables(folder: Path, source: dict[str, Any]) -> SourceTables:
    """Read back what `save_tables` wrote; `source` is the source's entry in the graph's manifest."""
    frames = {table: pl.read_parquet(folder / f"{table}.parquet") for table in TABLES}
    graphs = tuple(NamedGraph(**graph) for graph in source["graphs"])
    ids = pl.read_parquet(folder / "ids.parquet").to_series()
    relations = pl.read_parquet(folder / "relations.parquet").to_series()
    return SourceTables(source["name"], source["release"], graphs, ids=ids, relations=relations, reports=(), **frames)
