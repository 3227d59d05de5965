"""What every source hands to the graph: columnar tables, and counts of what was read and skipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from kgkit.types import ReportMentions

NAMES = {
    "graph": pl.String,
    "concept": pl.String,
    "name": pl.String,
    "language": pl.String,
    "rank": pl.Int64,
    "is_best": pl.Boolean,
    "is_abbreviation": pl.Boolean,
}
EDGES = {"graph": pl.String, "head": pl.String, "relation": pl.String, "tail": pl.String}
TYPES = {"graph": pl.String, "concept": pl.String, "tui": pl.String}
DEFINITIONS = {"graph": pl.String, "concept": pl.String, "definition": pl.String, "language": pl.String}
CODES = {"graph": pl.String, "concept": pl.String, "code": pl.String}
CONCEPTS = {"graph": pl.String, "concept": pl.String, "is_placeholder": pl.Boolean}


@dataclass(frozen=True)
class NamedGraph:
    """One named graph: a vocabulary in a release, or a corpus of reports.

    Attributes:
        name: `<vocabulary>@<release>`, the local part of its IRI.
        title: For people.
        licence_level: UMLS source restriction level (SRL), 0 to 9.
    """

    name: str
    title: str
    licence_level: int = 0


@dataclass(frozen=True)
class SourceTables:
    """One source, ready to be written as RDF and as views. Concepts are CURIEs; rows are distinct.

    Attributes:
        name: Source name (`umls`); with `release` it identifies the source in the graph.
        release: Release of the source.
        graphs: The named graphs it fills.
        concepts: Columns of CONCEPTS.
        names: Columns of NAMES; exactly one `is_best` row per (graph, concept, language).
        types: Columns of TYPES.
        definitions: Columns of DEFINITIONS.
        codes: Columns of CODES.
        edges: Columns of EDGES; a row reads head relation tail.
        reports: Reports with their mentions.
    """

    name: str
    release: str
    graphs: tuple[NamedGraph, ...]
    concepts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CONCEPTS))
    names: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=NAMES))
    types: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TYPES))
    definitions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DEFINITIONS))
    codes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CODES))
    edges: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EDGES))
    reports: tuple[ReportMentions, ...] = ()


@dataclass
class IngestLog:
    """Counts of a reading; every row that is read is used or counted under a reason.

    Attributes:
        rows_read: Rows per input table.
        skipped: Rows per `table: reason`.
        files: Input files read.
    """

    rows_read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)

    def skip(self, table: str, reason: str, count: int) -> None:
        """Count rows that were read but not used."""
        if count:
            self.skipped[f"{table}: {reason}"] += count
