"""A source's columns on disk, kept so that views can be rebuilt without parsing RDF."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.sources.base import NamedGraph, SourceTables
from kgkit.types import ReportMentions

FRAMES = ("concepts", "names", "types", "definitions", "codes", "edges")


def save_tables(tables: SourceTables, folder: Path) -> None:
    """Write a source's columns; the file `complete` is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for frame in FRAMES:
        getattr(tables, frame).write_parquet(folder / f"{frame}.parquet")
    with (folder / "reports.jsonl").open("w", encoding="utf-8") as stream:
        for report in tables.reports:
            stream.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
    (folder / "complete").touch()


def load_tables(folder: Path, source: dict[str, Any]) -> SourceTables:
    """Read back what `save_tables` wrote; `source` is the source's entry in the graph's manifest."""
    frames = {frame: pl.read_parquet(folder / f"{frame}.parquet") for frame in FRAMES}
    with (folder / "reports.jsonl").open(encoding="utf-8") as stream:
        reports = tuple(ReportMentions.from_json(json.loads(line)) for line in stream)
    graphs = tuple(NamedGraph(**graph) for graph in source["graphs"])
    return SourceTables(source["name"], source["release"], graphs, reports=reports, **frames)
