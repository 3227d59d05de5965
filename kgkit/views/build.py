"""Columnar views of a graph: pure functions of its sources, in sorted order, whatever the order of ingestion.

concepts.parquet   one row per concept, columns of kgkit.encoder.artifact.CONCEPT_COLUMNS and is_placeholder
names.parquet      one row per (concept, name, language, source)
relations.parquet  relation names, sorted; the row is the id
triples.parquet    head, relation, tail: int64 ids of concepts and relations, sorted and distinct
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from kgkit.sources.base import SourceTables
from kgkit.sources.relations import is_negative
from kgkit.views.preferred import preferred_names


def build_views(sources: Sequence[SourceTables], folder: Path) -> pl.DataFrame:
    """Write the views of the union of some sources; views that are there already are those of the same graph and stay.

    Returns:
        All names of all sources: columns of kgkit.sources.base.NAMES.
    """
    names = pl.concat([source.names for source in sources])
    if folder.exists():
        return names
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    edges = pl.concat([source.edges for source in sources])
    concepts = _concepts(sources, names, edges)
    relations, triples = _triples(concepts["concept"], edges)
    concepts.write_parquet(partial / "concepts.parquet")
    _names(names).write_parquet(partial / "names.parquet")
    relations.write_parquet(partial / "relations.parquet")
    triples.write_parquet(partial / "triples.parquet")
    partial.rename(folder)
    return names


def _concepts(sources: Sequence[SourceTables], names: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    all_rows = pl.concat([source.concepts for source in sources])
    concepts = all_rows.group_by("concept").agg(pl.col("is_placeholder").any()).sort("concept")
    best = preferred_names(names).with_columns(foreign=pl.col("language") != "en")
    best = best.sort("concept", "foreign", "language").unique("concept", keep="first", maintain_order=True)
    types = pl.concat([source.types for source in sources])
    codes = pl.concat([source.codes for source in sources])
    definitions = pl.concat([source.definitions for source in sources]).sort("concept", "graph", "definition")
    parents = edges.filter(pl.col("relation") == "isa").select(concept="head", parents="tail")
    columns = (
        best.select("concept", "name"),
        _listed(types.select("concept", semantic_types="tui")),
        definitions.unique("concept", keep="first", maintain_order=True).select("concept", "definition"),
        _listed(codes.select("concept", codes="code")),
        _listed(parents),
    )
    for column in columns:
        concepts = concepts.join(column, on="concept", how="left", maintain_order="left")
    lists = [pl.col(name).fill_null([]) for name in ("semantic_types", "codes", "parents")]
    return concepts.with_columns(lists).select(
        "concept", "name", "semantic_types", "definition", "codes", "parents", "is_placeholder"
    )


def _listed(rows: pl.DataFrame) -> pl.DataFrame:
    """Second column gathered into a sorted list of distinct values per concept."""
    column = rows.columns[1]
    return rows.group_by("concept").agg(pl.col(column).unique().sort())


def _names(names: pl.DataFrame) -> pl.DataFrame:
    preferred = preferred_names(names).select("concept", "language", "name", is_preferred=pl.lit(value=True))
    rows = names.with_columns(source=pl.col("graph").str.replace(r"@.*$", ""))
    rows = rows.group_by("concept", "name", "language", "source").agg(pl.col("is_abbreviation").all())
    rows = rows.join(preferred, on=["concept", "language", "name"], how="left").with_columns(
        pl.col("is_preferred").fill_null(value=False)
    )
    return rows.sort("concept", "language", "name", "source")


def _triples(concepts: pl.Series, edges: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    negative = [name for name in edges["relation"].unique().to_list() if is_negative(name)]
    positive = edges.filter(~pl.col("relation").is_in(negative), pl.col("head") != pl.col("tail"))
    relations = positive.select("relation").unique().sort("relation")
    concept_ids = pl.DataFrame({"concept": concepts}).with_row_index("id").with_columns(pl.col("id").cast(pl.Int64))
    relation_ids = relations.with_row_index("relation_id").with_columns(pl.col("relation_id").cast(pl.Int64))
    triples = (
        positive.join(concept_ids.rename({"concept": "head", "id": "head_id"}), on="head")
        .join(concept_ids.rename({"concept": "tail", "id": "tail_id"}), on="tail")
        .join(relation_ids, on="relation")
        .select(head="head_id", relation="relation_id", tail="tail_id")
        .unique()
        .sort("head", "relation", "tail")
    )
    return relations, triples
