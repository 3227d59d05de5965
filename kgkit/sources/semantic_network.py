"""The UMLS Semantic Network (SRDEF, SRSTR) to tables: its types as concepts, and what it states between them.

Columns: UMLS Reference Manual, Semantic Network: `|` ends each column, there is no header.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from kgkit.errors import InputError
from kgkit.namespaces import plain
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables, encode_tables
from kgkit.sources.relations import RelationNames, canonical_edges
from kgkit.sources.rrf import COLUMNS
from kgkit.sources.term_files import read_text

_TABLES = ("SRDEF", "SRSTR")
NAME = "SEMNET"
_EXPECTED = "SRDEF of the UMLS Semantic Network, or the folder NET with SRDEF and SRSTR"
_NULL = "NULL"
"""Some copies write this in an empty field."""
_RANK = 1


def read_semantic_network(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read SRDEF, and SRSTR if it stands beside it.

    Args:
        path: The folder of the two files, or SRDEF itself.
        log: Where rows are counted.
        name: Source name; SEMNET if not given.
        release: Release; `unversioned` if not given, for the files do not state it.
        licence_level: UMLS source restriction level.

    Raises:
        InputError: if there is no SRDEF, or it holds no semantic type.
    """
    folder = path if path.is_dir() else path.parent
    files = {table: _file_of(folder, table) for table in _TABLES}
    definitions = files["SRDEF"] if path.is_dir() else path
    if definitions is None:
        raise InputError(f"no SRDEF in this folder; expected {_EXPECTED}", path)
    rows = _read(definitions, "SRDEF", log)
    statements = None if files["SRSTR"] is None else _read(files["SRSTR"], "SRSTR", log)
    name, release = plain(name or NAME), plain(release or "unversioned")
    graph = NamedGraph(f"{name}@{release}", "UMLS Semantic Network", licence_level)
    written = network_frames(rows, statements, graph.name, log, definitions)
    if written["concepts"].is_empty():
        raise InputError(f"no semantic type (STY row) in this file; expected {_EXPECTED}", definitions)
    return encode_tables(name, release, (graph,), written)


def network_frames(
    definitions: pl.DataFrame, statements: pl.DataFrame | None, graph: str, log: IngestLog, path: Path
) -> dict[str, pl.DataFrame]:
    """Frames for `encode_tables`; a reader of a release that carries NET/ joins them to its own.

    Args:
        definitions: Columns of SRDEF, strings.
        statements: Columns of SRSTR, strings; None if there is none.
        graph: Named graph that the rows go to.
        log: Where rows are counted.
        path: The file, for messages.
    """
    rows = definitions.with_columns(pl.when(pl.col(pl.String) != _NULL).then(pl.col(pl.String)).otherwise(pl.lit("")))
    types = rows.filter(pl.col("RT") == "STY").with_columns(concept="STY:" + pl.col("UI"), graph=pl.lit(graph))
    log.skip("SRDEF", "a relation, no type", int((rows["RT"] == "RL").sum()))
    log.skip("SRDEF", "neither a type nor a relation", int((~rows["RT"].is_in(["STY", "RL"])).sum()))
    named = types.filter(pl.col("STY_RL").str.strip_chars() != "")
    if len(named) < len(types):
        log.defect("SRDEF", "type without a name", (path, None), types["UI"][0], len(types) - len(named))
    edges = _tree_edges(named, path, log)
    if statements is not None:
        edges = pl.concat([edges, _stated_edges(statements, rows, log)])
    distinct = edges.unique()
    log.skip("SRSTR", "same statement twice, or isa that the tree numbers give", len(edges) - len(distinct))
    return {
        "concepts": named.select("graph", "concept", is_placeholder=pl.lit(value=False)),
        "names": named.select(
            "graph", "concept", name="STY_RL", language=pl.lit("en"), rank=pl.lit(_RANK),
            is_abbreviation=pl.lit(value=False),
        ),
        "definitions": named.filter(pl.col("DEF") != "").select(
            "graph", "concept", definition="DEF", language=pl.lit("en")
        ),
        "edges": canonical_edges(distinct, RelationNames({}, {})).with_columns(graph=pl.lit(graph)),
        "attributes": pl.concat(
            named.filter(pl.col(column) != "").select("graph", "concept", attribute=pl.lit(attribute), value=column)
            for attribute, column in (("STN", "STN_RTN"), ("ABR", "ABR"), ("UN", "UN"))
        ),
    }  # fmt: skip


def _tree_edges(types: pl.DataFrame, path: Path, log: IngestLog) -> pl.DataFrame:
    """The parent of A1.1.3.2 holds A1.1.3, that of A1 holds A."""
    holder = dict(types.select("STN_RTN", "concept").iter_rows())
    rows = []
    for concept, number in types.select("concept", "STN_RTN").iter_rows():
        above = number.rpartition(".")[0] if "." in number else number[:1]
        if above in ("", number):
            continue
        if above in holder:
            rows.append((concept, "isa", holder[above]))
        else:
            log.defect("SRDEF", "no type has the tree number above", (path, None), f"{concept} {number}")
    return pl.DataFrame(rows, schema=dict.fromkeys(("head", "relation", "tail"), pl.String), orient="row")


def _stated_edges(statements: pl.DataFrame, rows: pl.DataFrame, log: IngestLog) -> pl.DataFrame:
    """Statements between types; SRSTR names both by name."""
    ids = rows.filter(pl.col("RT") == "STY").select("STY_RL", concept="STY:" + pl.col("UI")).unique("STY_RL")
    found = statements.join(ids.rename({"STY_RL": "ARG1", "concept": "head"}), on="ARG1", how="left")
    found = found.join(ids.rename({"STY_RL": "ARG2", "concept": "tail"}), on="ARG2", how="left")
    relations = rows.filter(pl.col("RT") == "RL")["STY_RL"].implode()
    reasons = (
        ("blocked (LS=B)", pl.col("LS") == "B"),
        ("a root: it has no other end", pl.col("ARG2") == ""),
        ("between relations", pl.col("ARG1").is_in(relations) & pl.col("ARG2").is_in(relations)),
        ("both ends are one type", pl.col("head") == pl.col("tail")),
        ("an end is no type of SRDEF", pl.col("head").is_null() | pl.col("tail").is_null()),
    )
    for reason, condition in reasons:
        drop = found.select(condition.fill_null(value=False).alias("drop"))["drop"]
        log.skip("SRSTR", reason, int(drop.sum()))
        found = found.filter(~drop)
    return found.select("head", relation="RL", tail="tail")


def _file_of(folder: Path, table: str) -> Path | None:
    """The table in a folder: plain or gzipped, with or without the ending .RRF, also inside NET."""
    names = [f"{inside}{table}{end}" for inside in ("", "NET/") for end in ("", ".RRF", ".gz", ".RRF.gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(path: Path, table: str, log: IngestLog) -> pl.DataFrame:
    columns = COLUMNS[table].split()
    log.files.append(path)
    rows = []
    for number, line in enumerate(read_text(path, _EXPECTED).replace("\r\n", "\n").split("\n"), start=1):
        if not line:
            continue
        log.rows_read[table] += 1
        fields = line.split("|")
        if len(fields) == len(columns) + 1 and not fields[-1]:
            rows.append(fields[:-1])
        else:
            problem = f"row with {len(fields) - 1} column ends, expected {len(columns)}"
            log.defect(table, "row with a wrong number of columns", (path, number), f"{problem}: {line[:60]}")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
