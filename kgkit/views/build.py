"""Columnar views of a graph: pure functions of its sources, in sorted order, whatever the order of ingestion.

concepts.parquet   one row per concept, columns of kgkit.encoder.artifact.CONCEPT_COLUMNS, is_placeholder, members
names.parquet      one row per (concept, name, language, source)
relations.parquet  relation names, sorted; the row is the id
triples.parquet    head, relation, tail: int64 ids of concepts and relations, sorted and distinct
retired.parquet    ids that are no concepts any more: retired, reason, target
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray, IntArray
from kgkit.files import partial_folder, publish_folder
from kgkit.languages import english
from kgkit.sources.base import SourceTables, gathered, merge_tables
from kgkit.sources.relations import RelationNames, is_negative
from kgkit.views.identity import representatives
from kgkit.views.preferred import preferred_names
from kgkit.views.read import are_whole, write_view_digests


def build_views(sources: Sequence[SourceTables], folder: Path) -> pl.DataFrame:
    """Write the views of the union of some sources; views that are there already are those of the same graph and stay.

    Returns:
        The preferred name of each id and language: columns id, language, name.
    """
    graph = _Graph(sources)
    preferred = preferred_names(graph.tables.names)
    declared = pl.Series(graph.declared).implode()
    labels = preferred.filter(pl.col("concept").is_in(declared)).select(
        id=gathered(graph.tables.ids, "concept"), language="language", name="name"
    )
    if are_whole(folder):
        return labels
    partial = partial_folder(folder, None)
    by_class = preferred_names(graph.in_rows(graph.tables.names)) if graph.merged else graph.in_rows(preferred)
    _concepts(graph, by_class).write_parquet(partial / "concepts.parquet")
    _names(graph, by_class).write_parquet(partial / "names.parquet")
    relations, triples = _triples(graph)
    relations.to_frame("relation").write_parquet(partial / "relations.parquet")
    triples.write_parquet(partial / "triples.parquet")
    retired = graph.tables.retired
    retired = retired.select(gathered(graph.tables.ids, "retired"), "reason", gathered(graph.tables.ids, "target"))
    retired.unique().sort("retired", "target", "reason").write_parquet(partial / "retired.parquet")
    write_view_digests(partial)
    publish_folder(partial, folder)
    return labels


class _Graph:
    """All sources as one, with the rows that concepts have in the views.

    Attributes:
        tables: All sources as one.
        merged: Some class of ids has several members.
        declared: Positions in `tables.ids` that some source declares as a concept, sorted.
        concepts: Positions in `tables.ids` that stand for a concept, sorted: the rows of the concepts view.
        row: int64 [len(ids)], the row of each id's class, -1 where no source declares a concept of it.
        curies: CURIE of each row.
    """

    def __init__(self, sources: Sequence[SourceTables]) -> None:
        self.tables = sources[0] if len(sources) == 1 else merge_tables("graph", "", sources)
        ids = self.tables.ids
        stands_for = representatives(ids, self.tables.matches.filter(pl.col("predicate") == "exact"))
        self.merged = bool((stands_for != np.arange(len(ids))).any())
        self.declared = np.unique(self.tables.concepts["concept"].to_numpy())
        self.concepts = np.unique(stands_for[self.declared]).astype(np.int64)
        rows = np.full(len(ids), -1, dtype=np.int64)
        rows[self.concepts] = np.arange(len(self.concepts))
        self.row: IntArray = rows[stands_for]
        self.curies = ids.gather(self.concepts)

    def edges(self) -> pl.DataFrame:
        """Columns head, relation, tail: rows of the concepts view (-1: none), positions in `tables.relations`."""
        rows = pl.Series("row", self.row, dtype=pl.Int64)
        edges: pl.DataFrame = self.tables.edges.select(
            gathered(rows, "head"), pl.col("relation").cast(pl.Int64), gathered(rows, "tail")
        )
        return edges

    def in_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with `concept` as rows of the concepts view; rows about anything else are left out."""
        rows = pl.Series("concept", self.row, dtype=pl.Int64)
        return frame.with_columns(gathered(rows, "concept")).filter(pl.col("concept") >= 0)

    def members(self) -> pl.DataFrame:
        """Columns concept (row) and members: the ids of its class that are declared, and the one that stands for it."""
        known = np.flatnonzero(self.row >= 0)
        known = known[np.isin(known, self.declared) | (self.concepts[self.row[known]] == known)]
        frame = pl.DataFrame({"concept": self.row[known], "members": self.tables.ids.gather(known)})
        return _listed(frame)


def _concepts(graph: _Graph, preferred: pl.DataFrame) -> pl.DataFrame:
    rows = pl.int_range(len(graph.concepts), eager=True).alias("concept")
    concepts = rows.to_frame().with_columns(curie=graph.curies)
    placeholders = graph.in_rows(graph.tables.concepts.filter("is_placeholder"))["concept"]
    best = preferred.with_columns(foreign=~english()).sort("concept", "foreign", "language")
    definitions = graph.in_rows(graph.tables.definitions)
    definitions = definitions.sort("concept", "graph", "definition")
    columns = (
        best.unique("concept", keep="first", maintain_order=True).select("concept", "name"),
        _listed(graph.in_rows(graph.tables.types).select("concept", semantic_types="tui")),
        definitions.unique("concept", keep="first", maintain_order=True).select("concept", "definition"),
        _listed(graph.in_rows(graph.tables.codes).select("concept", codes="code")),
        _parents(graph),
        graph.members(),
    )
    for column in columns:
        concepts = concepts.join(column, on="concept", how="left", maintain_order="left")
    concepts = concepts.with_columns(
        pl.col(name).fill_null([]) for name in ("semantic_types", "codes", "parents", "members")
    )
    # Members answer to their own ids wherever codes do.
    others = pl.col("members").list.set_difference(pl.concat_list("curie"))
    codes = pl.when(pl.col("members").list.len() > 1).then(pl.col("codes").list.set_union(others).list.sort())
    minted = pl.col("concept").is_in(placeholders.implode())
    own = {"concept": pl.col("curie"), "codes": codes.otherwise("codes"), "is_placeholder": minted}
    order = ("concept", "name", "semantic_types", "definition", "codes", "parents", "is_placeholder", "members")
    return concepts.with_columns(**own).select(order)


def _parents(graph: _Graph) -> pl.DataFrame:
    isa = graph.tables.relations.index_of("isa")
    edges = graph.edges().filter(pl.col("relation") == (-1 if isa is None else isa))
    edges = edges.filter(pl.col("head") >= 0, pl.col("tail") >= 0, pl.col("head") != pl.col("tail"))
    return _listed(edges.select(concept="head", parents=gathered(graph.curies, "tail")))


def _listed(rows: pl.DataFrame) -> pl.DataFrame:
    """Second column gathered into a sorted list of distinct values per concept."""
    column = rows.columns[1]
    return rows.unique().sort("concept", column).group_by("concept", maintain_order=True).agg(column)


def _names(graph: _Graph, preferred: pl.DataFrame) -> pl.DataFrame:
    vocabularies = pl.Series("source", [named.name.partition("@")[0] for named in graph.tables.graphs], dtype=pl.String)
    rows = graph.in_rows(graph.tables.names).select(
        "concept", "name", "language", "is_abbreviation", source=gathered(vocabularies, "graph")
    )
    rows = rows.group_by("concept", "name", "language", "source").agg(pl.col("is_abbreviation").all())
    marked = preferred.with_columns(is_preferred=pl.lit(value=True))
    rows = rows.join(marked, on=["concept", "language", "name"], how="left")
    rows = rows.sort("concept", "language", "name", "source")
    return rows.select(
        gathered(graph.curies, "concept"), "name", "language", "source", "is_abbreviation",
        pl.col("is_preferred").fill_null(value=False),
    )  # fmt: skip


def _triples(graph: _Graph) -> tuple[pl.Series, pl.DataFrame]:
    """Relations in use, and their facts between two different concepts; what a fact excludes is no fact."""
    edges = graph.edges().filter(pl.col("head") >= 0, pl.col("tail") >= 0, pl.col("head") != pl.col("tail"))
    sides = _sides(graph.tables.relations)
    head, number, tail = (edges[column].to_numpy() for column in ("head", "relation", "tail"))
    swap = np.where(sides.symmetric[number], head > tail, sides.flipped[number])
    head, tail, number = np.where(swap, tail, head), np.where(swap, head, tail), sides.number[number]
    positive = sides.positive[number]
    used = np.unique(number[positive])
    # One integer per fact sorts several times faster than three columns; concepts^2 x relations stays below 2^63.
    count, kinds = max(len(graph.concepts), 1), max(len(used), 1)
    relation = np.searchsorted(used, number[positive])
    keys = np.unique((head[positive] * kinds + relation) * count + tail[positive])
    pairs, tails = np.divmod(keys, count)
    heads, relation = np.divmod(pairs, kinds)
    return graph.tables.relations.gather(used), pl.DataFrame({"head": heads, "relation": relation, "tail": tails})


@dataclass(frozen=True)
class _Sides:
    """How the facts of each relation stand in the view; all arrays are [number of relations].

    Attributes:
        number: int64, the relation it becomes.
        flipped: bool, head and tail change places.
        symmetric: bool, the smaller id is the head.
        positive: bool, its facts are facts.
    """

    number: IntArray
    flipped: BoolArray
    symmetric: BoolArray
    positive: BoolArray


def _sides(relations: pl.Series) -> _Sides:
    """One side for each pair of inverse relations, where two sources chose different ones.

    A source has one side already; of a symmetric relation the smaller id is the head, which joining ids may change.
    """
    place = {name: number for number, name in enumerate(relations)}
    names = RelationNames({}, {})
    forms = [names.canonical(name) for name in relations]
    turned = [form.name if form.name in place else name for name, form in zip(relations, forms, strict=True)]
    return _Sides(
        np.array([place[name] for name in turned], dtype=np.int64),
        np.array([form.flipped and form.name in place for form in forms], dtype=np.bool_),
        np.array([form.symmetric for form in forms], dtype=np.bool_),
        np.array([not is_negative(name) for name in relations], dtype=np.bool_),
    )
