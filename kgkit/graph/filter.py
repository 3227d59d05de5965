"""What remains of a graph below a licence level: no string and no edge of a higher vocabulary.

The filter works on the columns: a named graph above the level goes, and with it every statement in another graph
about an id whose last name it held. Preferred labels and views are made anew from what remains.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.errors import InputError
from kgkit.graph.quads import preferred_label_lines, source_lines
from kgkit.graph.store import KnowledgeGraph
from kgkit.sources.base import ID_COLUMNS, TABLES, NamedGraph, SourceTables, gathered
from kgkit.views.build import build_views


@dataclass(frozen=True)
class FilteredGraph:
    """A part of a graph, with views of its own.

    Attributes:
        views: Folder of its views; it lives as long as the context that made it.
        sources: Key of a source in the graph -> columns of what remains of it.
        labels: Preferred names of what remains: columns id, language, name.
        kept_graphs: Named graphs that remain.
        graph: The whole.
    """

    views: Path
    sources: Mapping[str, SourceTables]
    labels: pl.DataFrame
    kept_graphs: frozenset[str]
    graph: KnowledgeGraph

    def lines(self) -> Iterator[str]:
        """Every statement that remains as an N-Quads line, with the preferred labels made from what remains."""
        for key, tables in self.sources.items():
            if len(tables.graphs) == len(self.graph.manifest["sources"][key]["graphs"]):
                yield from self.graph.source_lines(key)  # untouched: reports and foreign statements too
            else:
                for batch in source_lines(tables):
                    yield from batch
        for batch in preferred_label_lines(self.labels):
            yield from batch


@contextmanager
def filtered(graph: KnowledgeGraph, max_licence_level: int) -> Iterator[FilteredGraph]:
    """The part of a graph whose vocabularies have at most this licence level.

    Raises:
        InputError: if nothing remains.
    """
    sources = {key: without_high_levels(tables, max_licence_level) for key, tables in graph.source_tables()}
    levels = {level for source in graph.manifest["sources"].values() for level in _levels(source)}
    higher = ", ".join(str(level) for level in sorted(levels) if level > max_licence_level)
    sources = {key: part for key, part in sources.items() if part.graphs}
    if not sources:
        problem = f"no vocabulary has licence level {max_licence_level} or less; they have {higher}"
        raise InputError(problem, graph.folder)
    scratch = Path(tempfile.mkdtemp(prefix="kgkit-filter-"))
    try:
        labels = build_views(list(sources.values()), scratch / "views")
        kept = frozenset(named.name for part in sources.values() for named in part.graphs)
        yield FilteredGraph(scratch / "views", sources, labels, kept, graph)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def without_high_levels(tables: SourceTables, max_licence_level: int) -> SourceTables:
    """A source without the named graphs above a level, and without what only they gave a name to."""
    return without_graphs(tables, [named for named in tables.graphs if named.licence_level > max_licence_level])


def without_graphs(tables: SourceTables, removed: list[NamedGraph]) -> SourceTables:
    """A source without some named graphs, and without statements about ids that lose their last name with them."""
    if not removed:
        return tables
    kept = [place for place, named in enumerate(tables.graphs) if named not in removed]
    frames = {table: getattr(tables, table).filter(pl.col("graph").is_in(kept)) for table in TABLES}
    if frames["names"].is_empty() and len(tables.names):
        return SourceTables(tables.name, tables.release, ())
    lost = np.zeros(len(tables.ids), dtype=np.bool_)
    lost[tables.names["concept"].to_numpy()] = True
    lost[frames["names"]["concept"].to_numpy()] = False
    gone = pl.Series(np.flatnonzero(lost), dtype=pl.UInt32).implode()
    for table, frame in frames.items():
        ids = [pl.col(column) for column in frame.columns if column in ID_COLUMNS]
        named = pl.all_horizontal(~column.is_in(gone).fill_null(value=False) for column in ids)
        frames[table] = frame.filter(named)
    return _renumbered(replace(tables, **frames), kept)


def _levels(source: dict[str, Any]) -> list[int]:
    return [int(named["licence_level"]) for named in source["graphs"]]


def _renumbered(tables: SourceTables, kept: list[int]) -> SourceTables:
    """The same source with nothing in its lists that no row speaks of."""
    graphs = pl.Series("graph", np.searchsorted(kept, np.arange(len(tables.graphs) + 1)), dtype=pl.UInt16)
    used = np.zeros(len(tables.ids), dtype=np.bool_)
    for table in TABLES:
        frame = getattr(tables, table)
        for column in ID_COLUMNS & set(frame.columns):
            used[frame[column].drop_nulls().to_numpy()] = True
    ids = pl.Series("id", np.cumsum(used) - 1, dtype=pl.Int64)
    relations = tables.edges["relation"].unique().sort()
    place = pl.Series("relation", np.searchsorted(relations, np.arange(len(tables.relations) + 1)), dtype=pl.UInt16)
    frames = {}
    for table, columns in TABLES.items():
        frame = getattr(tables, table)
        lists = {"graph": graphs, "relation": place} | dict.fromkeys(ID_COLUMNS, ids)
        moved = [gathered(lists[column], column) for column in frame.columns if column in lists]
        frames[table] = frame.with_columns(moved).select(pl.col(name).cast(kind) for name, kind in columns.items())
    return replace(
        tables,
        graphs=tuple(tables.graphs[place] for place in kept),
        ids=tables.ids.filter(pl.Series(used)),
        relations=tables.relations.gather(relations),
        reports=(),
        **frames,
    )
