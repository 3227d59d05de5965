"""What every source hands to the graph: columnar tables of integers and strings, and counts of what was read.

Ids, relations and named graphs are written once, in sorted lists; every table refers to them by position. So a full
UMLS release (3.4 million concepts, 45 million facts) fits into memory as 12 bytes a fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from kgkit.errors import InputError
from kgkit.types import ReportMentions

CONCEPTS = {"graph": pl.UInt16, "concept": pl.UInt32, "is_placeholder": pl.Boolean}
NAMES = {
    "graph": pl.UInt16,
    "concept": pl.UInt32,
    "name": pl.String,
    "language": pl.String,
    "rank": pl.Int32,
    "is_best": pl.Boolean,
    "is_abbreviation": pl.Boolean,
}
TYPES = {"graph": pl.UInt16, "concept": pl.UInt32, "tui": pl.String}
DEFINITIONS = {"graph": pl.UInt16, "concept": pl.UInt32, "definition": pl.String, "language": pl.String}
CODES = {"graph": pl.UInt16, "concept": pl.UInt32, "code": pl.String}
EDGES = {"graph": pl.UInt16, "head": pl.UInt32, "relation": pl.UInt16, "tail": pl.UInt32}
MATCHES = {"graph": pl.UInt16, "subject": pl.UInt32, "predicate": pl.String, "object": pl.UInt32}
RETIRED = {"graph": pl.UInt16, "retired": pl.UInt32, "reason": pl.String, "target": pl.UInt32}
ATTRIBUTES = {"graph": pl.UInt16, "concept": pl.UInt32, "attribute": pl.String, "value": pl.String}

TABLES: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    "concepts": CONCEPTS,
    "names": NAMES,
    "types": TYPES,
    "definitions": DEFINITIONS,
    "codes": CODES,
    "edges": EDGES,
    "matches": MATCHES,
    "retired": RETIRED,
    "attributes": ATTRIBUTES,
}
"""Columns of each table of a source."""

ID_COLUMNS = frozenset({"concept", "head", "tail", "subject", "object", "retired", "target"})
"""Columns that hold positions in `SourceTables.ids`."""

MATCH_PREDICATES = ("exact", "close", "broad", "narrow", "related")
"""Kinds of `matches`; each is written as skos:<kind>Match. Only an exact match joins two ids."""


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
    """One source, ready to be written as RDF and as views. Rows are distinct.

    Attributes:
        name: Source name (`umls`); with `release` it identifies the source in the graph.
        release: Release of the source.
        graphs: The named graphs it fills, sorted by name; `graph` columns are positions in it.
        ids: CURIEs (or IRIs), sorted and distinct; all id columns are positions in it.
        relations: Relation names, sorted and distinct; `relation` columns are positions in it.
        concepts: Ids that this source declares as concepts.
        names: Exactly one `is_best` row per (graph, concept, language).
        types: Semantic types (TUIs).
        definitions: One row per text.
        codes: CURIEs of the codes that a vocabulary uses for a concept; they never merge concepts.
        edges: A row reads head relation tail; an end may be a concept of another source.
        matches: Mappings to ids of other sources; `predicate` is one of MATCH_PREDICATES.
        retired: Ids that are no concepts any more, with the reason and what stands for them (null: nothing).
        attributes: Literal attributes (of MRSAT, say).
        reports: Reports with their mentions, read once, while the RDF is written.
    """

    name: str
    release: str
    graphs: tuple[NamedGraph, ...]
    ids: pl.Series = field(default_factory=lambda: pl.Series("id", [], dtype=pl.String))
    relations: pl.Series = field(default_factory=lambda: pl.Series("relation", [], dtype=pl.String))
    concepts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CONCEPTS))
    names: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=NAMES))
    types: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TYPES))
    definitions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DEFINITIONS))
    codes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CODES))
    edges: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EDGES))
    matches: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=MATCHES))
    retired: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=RETIRED))
    attributes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ATTRIBUTES))
    reports: Iterable[ReportMentions] = ()


def encode_tables(
    name: str, release: str, graphs: tuple[NamedGraph, ...], written: Mapping[str, pl.DataFrame]
) -> SourceTables:
    """Tables of a source from frames that spell out ids, relations and graphs as strings.

    Args:
        name: Source name.
        release: Release of the source.
        graphs: All named graphs that the frames name, in any order.
        written: Table name -> columns of TABLES[table] with strings for graphs, ids and relations; `names` need no
            `is_best`. Rows may repeat; frames may be left out.
    """
    mentioned = [frame[column] for frame in written.values() for column in frame.columns if column in ID_COLUMNS]
    ids = _sorted_distinct("id", mentioned)
    relations = _sorted_distinct("relation", [written["edges"]["relation"]] if "edges" in written else [])
    graphs = tuple(sorted(graphs, key=_graph_name))
    graph_names = pl.Series("graph", [graph.name for graph in graphs], dtype=pl.String)
    frames = {}
    for table, frame in written.items():
        columns = TABLES[table]
        codes = [
            position_of(pl.col(column).cast(pl.String), values).cast(columns[column])
            for column in frame.columns
            for values in [ids if column in ID_COLUMNS else {"graph": graph_names, "relation": relations}.get(column)]
            if values is not None
        ]
        frame = frame.with_columns(codes)
        if table == "names":
            frame = with_best_names(frame)
        frames[table] = frame.select(pl.col(column).cast(kind) for column, kind in columns.items()).unique().sort(
            list(columns), nulls_last=True
        )  # fmt: skip
    return SourceTables(name, release, graphs, ids=ids, relations=relations, reports=(), **frames)


def decode_table(tables: SourceTables, table: str) -> pl.DataFrame:
    """One table of a source with its ids, relations and graphs spelled out: the inverse of `encode_tables`."""
    graphs = pl.Series("graph", [graph.name for graph in tables.graphs], dtype=pl.String)
    lists = {"graph": graphs, "relation": tables.relations} | dict.fromkeys(ID_COLUMNS, tables.ids)
    frame: pl.DataFrame = getattr(tables, table)
    return frame.with_columns(gathered(lists[column], column) for column in frame.columns if column in lists)


def merge_tables(name: str, release: str, sources: Sequence[SourceTables]) -> SourceTables:
    """Several sources as one: ids, relations and named graphs in one sorted list each. Rows may then repeat.

    Args:
        name: Name of the whole.
        release: Release of the whole.
        sources: In any order; reports are left out.
    """
    ids = _sorted_distinct("id", [source.ids for source in sources])
    relations = _sorted_distinct("relation", [source.relations for source in sources])
    graphs = sorted({graph.name: graph for source in sources for graph in source.graphs}.values(), key=_graph_name)
    names = pl.Series("graph", [graph.name for graph in graphs], dtype=pl.String)
    parts: dict[str, list[pl.DataFrame]] = {table: [] for table in TABLES}
    for source in sources:
        own = pl.Series("graph", [graph.name for graph in source.graphs], dtype=pl.String)
        lists = {"graph": _positions(own, names), "relation": _positions(source.relations, relations)}
        lists |= dict.fromkeys(ID_COLUMNS, _positions(source.ids, ids))
        for table, columns in TABLES.items():
            frame: pl.DataFrame = getattr(source, table)
            moved = [gathered(lists[column], column).cast(columns[column]) for column in columns if column in lists]
            parts[table].append(frame.with_columns(moved))
    frames = {table: pl.concat(frames, rechunk=False) for table, frames in parts.items() if frames}
    return SourceTables(name, release, tuple(graphs), ids=ids, relations=relations, reports=(), **frames)


def gathered(values: pl.Series, column: str) -> pl.Expr:
    """The value at each position that an integer column holds; null stays null."""
    return pl.col(column).map_batches(lambda rows: values.gather(rows), return_dtype=values.dtype)


def position_of(values: pl.Expr, known: pl.Series) -> pl.Expr:
    """Position of each string in a list of distinct strings; null stays null, an unknown string is an error."""
    return values.replace_strict(known, pl.int_range(len(known), dtype=pl.UInt32, eager=True), return_dtype=pl.UInt32)


def with_best_names(names: pl.DataFrame) -> pl.DataFrame:
    """Fold equal names of a (graph, concept, language), and mark the best of each.

    A full name is better than an abbreviation (which stands for a concept only where no full name does), then the
    higher rank, then the lower `tie`, then alphabetical order.

    Args:
        names: Columns of NAMES without `is_best`, and perhaps `tie` (the number of the atom, say).
    """
    keys = ["graph", "concept", "language"]
    tie = pl.col("tie").min() if "tie" in names.columns else pl.lit(0).alias("tie")
    names = names.group_by([*keys, "name"]).agg(pl.col("rank").max(), tie, pl.col("is_abbreviation").all())
    order = [*keys, "is_abbreviation", "rank", "tie", "name"]
    names = names.sort(order, descending=[column == "rank" for column in order])
    first = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in keys).fill_null(value=True)
    return names.with_columns(is_best=first).select(list(NAMES))


def _graph_name(graph: NamedGraph) -> str:
    return graph.name


def _positions(values: pl.Series, known: pl.Series) -> pl.Series:
    if len(values) == len(known) and values.is_sorted():  # distinct too: a subset as long as the whole is the whole
        return pl.int_range(len(known), dtype=pl.UInt32, eager=True)
    return values.to_frame("value").select(position_of(pl.col("value"), known)).to_series()


def _sorted_distinct(name: str, columns: list[pl.Series]) -> pl.Series:
    if not columns:
        return pl.Series(name, [], dtype=pl.String)
    return pl.concat([column.rename(name) for column in columns]).drop_nulls().unique().sort()


@dataclass
class IngestLog:
    """Counts of a reading; every row that is read is used or counted under a reason.

    Attributes:
        strict: A defective row is an error, not a count.
        rows_read: Rows per input table.
        skipped: Rows per `table: reason`.
        first_defect: Place of the first row of each reason that is a defect of the input.
        checks: What was verified of the input, one line each.
        files: Input files read.
    """

    strict: bool = False
    rows_read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    first_defect: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def skip(self, table: str, reason: str, count: int) -> None:
        """Count rows that were read but not used, by choice or rule (suppressed, another language, a duplicate)."""
        if count:
            self.skipped[f"{table}: {reason}"] += count

    def defect(self, table: str, reason: str, place: tuple[object, int | None], value: str, count: int = 1) -> None:
        """Count rows that are wrong in themselves (malformed, pointing nowhere) and are not used.

        Args:
            table: Table or kind of record.
            reason: What is wrong, the same words for every such row.
            place: File, and 1-based line or row number of the first of these rows (None where it has none).
            value: The offending value of the first of these rows.
            count: Number of rows.

        Raises:
            InputError: in strict mode.
        """
        if not count:
            return
        if self.strict:
            raise InputError(f"{table}: {reason}: {value!r}", *place)
        key = f"{table}: {reason}"
        file, line = place
        self.first_defect.setdefault(key, f"{file}{'' if line is None else f', line {line}'}: {value!r}")
        self.skipped[key] += count
