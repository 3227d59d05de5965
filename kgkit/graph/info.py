"""What a graph holds, in numbers: sources, counts, components, merged classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kgkit.graph.resolve import CUI
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.read import read_view, view_errors

_MINTED = r"^umls:C9\d{6}$"
"""CUIs that file makers mint for ids without one."""


@dataclass(frozen=True)
class SourceInfo:
    """One source as its ingest left it.

    Attributes:
        statements: Distinct quads.
        licence_level: Highest of its vocabularies (UMLS SRL).
        digest: Source digest.
        rows_read: Rows per input table.
        skipped: Rows per `table: reason`.
        first_defect: Place of the first row of each reason that is a defect of the input.
        checks: What was verified of the input.
        files: Input file -> its SHA-256.
        graphs: (named graph, title, licence level).
    """

    statements: int
    licence_level: int
    digest: str
    rows_read: dict[str, int]
    skipped: dict[str, int]
    first_defect: dict[str, str]
    checks: tuple[str, ...]
    files: dict[str, str]
    graphs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Components:
    """Weakly connected components of the triples view.

    Attributes:
        count: Number of components, lone concepts among them.
        largest: Concepts in the largest.
        largest_share: Of all concepts.
        largest_share_by_prefix: Id prefix -> share of the concepts with such a member id that are in the largest.
        by_size: (size, number of components of that size), largest first.
    """

    count: int
    largest: int
    largest_share: float
    largest_share_by_prefix: dict[str, float]
    by_size: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MergedClasses:
    """Concepts of several ids.

    Attributes:
        by_size: (number of ids, number of classes of that size), smallest first; classes of one id are left out.
        with_two_cuis: Classes with more than one CUI of the UMLS; a sound graph has none.
        with_placeholders: Classes with more than one CUI, placeholders of file makers (C9000000 and up) counted too.
    """

    by_size: tuple[tuple[int, int], ...]
    with_two_cuis: int
    with_placeholders: int


@dataclass(frozen=True)
class GraphInfo:
    """What a graph holds.

    Attributes:
        graph_digest: Digest of the whole graph.
        counts: Statements, named graphs, concepts, names, triples of the learning view, relations, retired ids.
        sources: `<name>@<release>` -> what its ingest left.
        components: Of the triples view.
        merged: Classes of several ids.
        relations: (relation, triples), most frequent first.
        concepts_by_vocabulary: Vocabulary -> concepts that it names.
        concepts_by_prefix: Id prefix -> concepts with such a member id.
    """

    graph_digest: str
    counts: dict[str, int]
    sources: dict[str, SourceInfo]
    components: Components
    merged: MergedClasses
    relations: tuple[tuple[str, int], ...]
    concepts_by_vocabulary: dict[str, int]
    concepts_by_prefix: dict[str, int]


def graph_info(graph: KnowledgeGraph) -> GraphInfo:
    """Count what a graph holds; a look at its views and its manifest, never at single statements."""
    views = graph.views
    members = read_view(views, "concepts", ["members"])["members"]
    triples = read_view(views, "triples")
    retired = read_view(views, "retired", ["retired"])["retired"].n_unique()
    ids = members.to_frame().with_row_index("row").explode("members").drop_nulls()
    ids = ids.select("row", "members", prefix=pl.col("members").str.extract(r"^([^:]*):", 1).fill_null("(none)"))
    per_prefix = ids.group_by("prefix").agg(pl.col("row").n_unique()).sort("row", "prefix", descending=[True, False])
    return GraphInfo(
        graph.digest,
        graph.counts() | {"retired ids": retired},
        {name: _source(entry) for name, entry in graph.manifest["sources"].items()},
        _components(triples, len(members), ids.select("row", "prefix").unique()),
        _merged(ids),
        _relations(triples, read_view(views, "relations")["relation"]),
        _by_vocabulary(views),
        dict(per_prefix.iter_rows()),
    )


def _source(entry: dict[str, Any]) -> SourceInfo:
    return SourceInfo(
        entry["statements"],
        entry["licence_level"],
        entry["digest"],
        entry["rows_read"],
        entry["skipped"],
        entry["first_defect"],
        tuple(entry["checks"]),
        {file["name"]: file["sha256"] for file in entry["files"]},
        tuple((graph["name"], graph["title"], graph["licence_level"]) for graph in entry["graphs"]),
    )


def _components(triples: pl.DataFrame, concepts: int, prefixes: pl.DataFrame) -> Components:
    if not concepts:
        return Components(0, 0, 0.0, {}, ())
    head, tail = triples["head"].to_numpy(), triples["tail"].to_numpy()
    edges = coo_array((np.ones(len(head), dtype=np.int8), (head, tail)), shape=(concepts, concepts))
    count, label = connected_components(edges, directed=False)
    sizes = np.bincount(label)
    largest = int(sizes.argmax())
    members = int(sizes[largest])
    size, number = np.unique(sizes, return_counts=True)
    inside = prefixes.with_columns(inside=pl.Series(label == largest).gather(prefixes["row"]))
    shares = inside.group_by("prefix").agg(pl.len(), pl.col("inside").mean())
    shares = shares.sort("len", "prefix", descending=[True, False]).select("prefix", "inside")
    by_size = tuple((int(one), int(many)) for one, many in zip(size[::-1], number[::-1], strict=True))
    return Components(int(count), members, members / concepts, dict(shares.iter_rows()), by_size)


def _merged(ids: pl.DataFrame) -> MergedClasses:
    """Classes by size, from one row per (concept row, member id)."""
    cui = pl.col("members").str.contains(CUI)
    minted = pl.col("members").str.contains(_MINTED)
    classes = ids.group_by("row").agg(size=pl.len(), cuis=cui.sum(), real=(cui & ~minted).sum())
    classes = classes.filter(pl.col("size") > 1)
    sizes = classes.group_by("size").len().sort("size")
    return MergedClasses(
        tuple((int(size), int(number)) for size, number in sizes.iter_rows()),
        classes.filter(pl.col("real") > 1).height,
        classes.filter(pl.col("cuis") > 1).height,
    )


def _relations(triples: pl.DataFrame, names: pl.Series) -> tuple[tuple[str, int], ...]:
    counts = triples.group_by("relation").len().sort("len", "relation", descending=[True, False])
    return tuple((names[relation], int(count)) for relation, count in counts.iter_rows())


def _by_vocabulary(views: Path) -> dict[str, int]:
    counts = pl.scan_parquet(views / "names.parquet").group_by("source").agg(count=pl.col("concept").n_unique())
    with view_errors(views):
        return dict(counts.sort("count", "source", descending=[True, False]).collect().iter_rows())


def info_text(info: GraphInfo, limit: int = 10) -> str:
    """The numbers as lines of text, lists cut after `limit` lines."""
    lines = [f"{count:>12,}  {name}" for name, count in info.counts.items()]
    lines.append(f"digest {info.graph_digest}")
    for name, source in info.sources.items():
        rows = ", ".join(f"{table} {count:,}" for table, count in source.rows_read.items())
        lines += ["", f"{name}: {source.statements:,} statements, licence level {source.licence_level}"]
        lines += [f"  read: {rows}"] if rows else []
        for reason, count in source.skipped.items():
            first = source.first_defect.get(reason)
            lines.append(f"  skipped {count:,}: {reason}" + (f"; first: {first}" if first else ""))
        lines += [f"  checked: {check}" for check in source.checks]
    parts = info.components
    sizes = [f"{size:,}{f' x {number:,}' if number > 1 else ''}" for size, number in parts.by_size]
    share = f"{parts.largest:,} concepts ({parts.largest_share:.1%})"
    lines += ["", f"components: {parts.count:,}; the largest holds {share}"]
    lines.append(f"  sizes: {_list(sizes, limit)}")
    shares = [f"{prefix} {share:.1%}" for prefix, share in parts.largest_share_by_prefix.items()]
    lines.append(f"  in the largest, by prefix: {_list(shares, limit)}")
    merged = info.merged
    sizes = [f"{number:,} of {size}" for size, number in merged.by_size]
    lines.append(f"merged classes (number of ids): {_list(sizes, limit) or 'none'}")
    lines.append(f"  with two CUIs: {merged.with_two_cuis:,}; placeholders counted too: {merged.with_placeholders:,}")
    for title, pairs in (
        ("relations", info.relations),
        ("concepts by vocabulary", tuple(info.concepts_by_vocabulary.items())),
        ("concepts by id prefix", tuple(info.concepts_by_prefix.items())),
    ):
        lines += ["", f"{title} ({len(pairs):,})"]
        lines += [f"{count:>12,}  {name}" for name, count in pairs[:limit]]
        lines += [f"  ... and {len(pairs) - limit:,} more"] if len(pairs) > limit else []
    return "\n".join(lines)


def _list(items: list[str], limit: int) -> str:
    more = f", ... and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
