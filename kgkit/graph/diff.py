"""What changed between two graphs: ids, classes of ids, names, facts, sources.

Ids are compared, not only the concepts that stand for them, so that two ids which a mapping joins are not mistaken
for a loss. An id that is gone is explained by the new graph's records of retired ids (UMLS's MRCUI, an ontology's
obsolete terms and alternative ids), followed along chains to ids in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.arrays import IntArray
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.encode import are_in_sorted
from kgkit.views.read import read_view

_NOT_THE_SAME = ("RB", "RN", "RO")
"""Reasons (MRCUI's REL) of a successor that is only broader, narrower or related."""

_SOURCE_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "name": pl.String,
    "old": pl.List(pl.String),
    "new": pl.List(pl.String),
    "old_statements": pl.Int64,
    "new_statements": pl.Int64,
}


@dataclass(frozen=True)
class GraphDiff:
    """Changes from an old graph to a new one; all frames are sorted.

    Attributes:
        added: Ids in the new graph only: columns id, concept (that stands for it there), name (of that concept).
        removed: Ids in the old graph only, with the same columns, from there; it includes the next three.
        merged: Removed ids that one id stands for now: id, name, into, into_name.
        split: Removed ids that several ids stand for now, or one that is only broader, narrower or related: id, name,
            into, into_name, reason; one row per successor.
        deleted: Removed ids recorded as retired, with nothing in use that stands for them: id, name, reason.
        regrouped: Ids in both graphs that another concept stands for now: id, old, new.
        renamed: Concepts in both with another preferred name: concept, old, new.
        facts: Facts gained and lost by relation: relation, added, removed. Facts are compared as they are written
            in the views, so those of a regrouped id count as lost and gained.
        names_added: (concept, name, language) in the new graph only.
        names_removed: In the old graph only.
        sources: Sources that differ: name, old and new (releases), old_statements, new_statements.
    """

    added: pl.DataFrame
    removed: pl.DataFrame
    merged: pl.DataFrame
    split: pl.DataFrame
    deleted: pl.DataFrame
    regrouped: pl.DataFrame
    renamed: pl.DataFrame
    facts: pl.DataFrame
    names_added: int
    names_removed: int
    sources: pl.DataFrame

    def is_empty(self) -> bool:
        """Whether nothing differs."""
        values = vars(self).values()
        return all(value.is_empty() if isinstance(value, pl.DataFrame) else value == 0 for value in values)

    def to_json(self) -> dict[str, Any]:
        """Frames as lists of rows."""
        return {
            key: value.to_dicts() if isinstance(value, pl.DataFrame) else value for key, value in vars(self).items()
        }


def diff(old: Path, new: Path) -> GraphDiff:
    """Compare two graph folders.

    Raises:
        InputError: if one of them is no complete graph.
    """
    before, after = KnowledgeGraph(old), KnowledgeGraph(new)
    one, other = _ids(before.views), _ids(after.views)
    added, removed = _only_in(other, one), _only_in(one, other)
    both = one.join(other, on="id", suffix="_new")
    same = both.filter(pl.col("id") == pl.col("concept"), pl.col("concept") == pl.col("concept_new"))
    renamed = same.filter(pl.col("name").ne_missing(pl.col("name_new")))
    regrouped = both.filter(pl.col("concept") != pl.col("concept_new"))
    merged, split, deleted = _explained(removed, other, read_view(after.views, "retired"))
    old_names, new_names = _names(before.views), _names(after.views)
    return GraphDiff(
        added=added,
        removed=removed,
        merged=merged,
        split=split,
        deleted=deleted,
        regrouped=regrouped.select("id", old="concept", new="concept_new").sort("id"),
        renamed=renamed.select("concept", old="name", new="name_new").sort("concept"),
        facts=_facts(before.views, after.views),
        names_added=new_names.join(old_names, on=new_names.columns, how="anti").height,
        names_removed=old_names.join(new_names, on=old_names.columns, how="anti").height,
        sources=_sources(before.manifest["sources"], after.manifest["sources"]),
    )


def diff_lines(found: GraphDiff, limit: int) -> Iterator[str]:
    """The changes for people.

    Args:
        found: The changes.
        limit: Rows shown of each kind.
    """
    if found.is_empty():
        yield "no difference"
        return
    for row in found.sources.iter_rows(named=True):
        yield (f"source {row['name']}: {', '.join(row['old']) or 'none'} -> {', '.join(row['new']) or 'none'}, "
               f"{row['old_statements']:,} -> {row['new_statements']:,} statements")  # fmt: skip
    unexplained = found.removed.height - found.merged.height - found.split["id"].n_unique() - found.deleted.height
    yield (f"ids: {found.added.height:,} added, {found.removed.height:,} removed ({found.merged.height:,} merged, "
           f"{found.split['id'].n_unique():,} split, {found.deleted.height:,} deleted, {unexplained:,} without a "
           f"record); {found.regrouped.height:,} in another class, {found.renamed.height:,} renamed")  # fmt: skip
    yield f"names: {found.names_added:,} added, {found.names_removed:,} removed"
    yield f"facts: {found.facts['added'].sum():,} added, {found.facts['removed'].sum():,} removed"
    for row in found.facts.iter_rows(named=True):
        yield f"  {row['relation']}: {row['added']:,} added, {row['removed']:,} removed"
    for kind in ("added", "removed", "merged", "split", "deleted", "regrouped", "renamed"):
        frame: pl.DataFrame = getattr(found, kind)
        for values in frame.head(limit).iter_rows():
            yield f"{kind}: " + "  ".join("-" if value is None else str(value) for value in values)
        if frame.height > limit:
            yield f"{kind}: ... {frame.height - limit:,} more"


def _ids(views: Path) -> pl.DataFrame:
    """Columns id, concept, name: one row per member of a class, sorted."""
    concepts = read_view(views, "concepts").select("concept", "name", id="members")
    return concepts.explode("id").select("id", "concept", "name").sort("id")


def _names(views: Path) -> pl.DataFrame:
    return read_view(views, "names").select("concept", "name", "language").unique()


def _only_in(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    return one.join(other, on="id", how="anti", maintain_order="left")


def _explained(
    removed: pl.DataFrame, live: pl.DataFrame, retired: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Removed ids that were merged, split, deleted, according to the records of the new graph."""
    found = _successors(removed["id"], live["id"], retired)
    found = found.join(removed.select("id", "name"), on="id").join(
        live.select(into="id", into_name="name"), on="into", how="left"
    )
    is_merge = (pl.len().over("id") == 1) & ~pl.col("reason").is_in(_NOT_THE_SAME)
    found = found.select("id", "name", "into", "into_name", "reason", is_merge=is_merge).sort("id", "into")
    ended = retired.filter(~pl.col("retired").is_in(found["id"].implode())).group_by(id="retired")
    deleted = removed.select("id", "name").join(ended.agg(pl.col("reason").min()), on="id").sort("id")
    return (
        found.filter("is_merge").drop("is_merge", "reason"),
        found.filter(~pl.col("is_merge")).drop("is_merge"),
        deleted,
    )


def _successors(origins: pl.Series, live: pl.Series, retired: pl.DataFrame) -> pl.DataFrame:
    """Ids in use at the ends of the chains from some ids: columns id, into, reason.

    The reason is that of the first step that is no identity, else that of the first step. A circle of retired ids
    leads nowhere.
    """
    steps = retired.drop_nulls("target")
    reached = origins.rename("id").to_frame().with_columns(at="id", reason=pl.lit(None, dtype=pl.String))
    seen = reached
    ends = reached.clear()
    while not reached.is_empty():
        step = reached.join(steps.rename({"reason": "why"}), left_on="at", right_on="retired")
        loose = pl.col("why").is_in(_NOT_THE_SAME) & ~pl.col("reason").is_in(_NOT_THE_SAME)
        reason = pl.when(pl.col("reason").is_null() | loose).then("why").otherwise("reason")
        step = step.select("id", at="target", reason=reason).unique()
        step = step.join(seen, on=["id", "at", "reason"], how="anti")
        seen = pl.concat([seen, step])
        in_use = pl.col("at").is_in(live.implode())
        ends = pl.concat([ends, step.filter(in_use)])
        reached = step.filter(~in_use)
    loosest_last = ends.sort("id", "at", pl.col("reason").is_in(_NOT_THE_SAME), "reason")
    return loosest_last.unique(["id", "at"], keep="first", maintain_order=True).rename({"at": "into"})


def _facts(old: Path, new: Path) -> pl.DataFrame:
    """Facts by relation in one graph only: relation, added, removed."""
    concepts, relations = (
        pl.concat([read_view(views, name)[column].unique() for views in (old, new)]).unique().sort()
        for name, column in (("concepts", "concept"), ("relations", "relation"))
    )
    before, after = (_keys(views, concepts, relations) for views in (old, new))
    counts = []
    for one, other in ((after, before), (before, after)):
        alone = one[~are_in_sorted(other, one)] // max(len(concepts), 1) % max(len(relations), 1)
        counts.append(np.bincount(alone, minlength=len(relations)))
    frame = pl.DataFrame({"relation": relations, "added": counts[0], "removed": counts[1]})
    return frame.filter(pl.col("added") + pl.col("removed") > 0)


def _keys(views: Path, concepts: pl.Series, relations: pl.Series) -> IntArray:
    """One integer per fact, the same in both graphs; sorted, since rows of the views follow sorted CURIEs."""

    def places(name: str, column: str, known: pl.Series) -> IntArray:
        rows = known.rename(column).to_frame().with_row_index("place")
        own = read_view(views, name).select(column).join(rows, on=column, how="left", maintain_order="left")
        return own["place"].to_numpy().astype(np.int64)

    concept, relation = places("concepts", "concept", concepts), places("relations", "relation", relations)
    head, kind, tail = (read_view(views, "triples")[column].to_numpy() for column in ("head", "relation", "tail"))
    keys: IntArray = (concept[head] * len(relations) + relation[kind]) * len(concepts) + concept[tail]
    return keys


def _sources(old: dict[str, Any], new: dict[str, Any]) -> pl.DataFrame:
    rows = []
    for name in sorted({source["name"] for source in (*old.values(), *new.values())}):
        parts = [[source for source in side.values() if source["name"] == name] for side in (old, new)]
        digests = [sorted((source["release"], source["digest"]) for source in part) for part in parts]
        if digests[0] != digests[1]:
            releases = [[release for release, _ in part] for part in digests]
            rows.append((name, *releases, *(sum(source["statements"] for source in part) for part in parts)))
    return pl.DataFrame(rows, schema=_SOURCE_COLUMNS, orient="row")
