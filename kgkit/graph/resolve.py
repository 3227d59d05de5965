"""From whatever id a user types to the concepts it stands for: classes, source codes, retired ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

import polars as pl

from kgkit import namespaces as ns
from kgkit.errors import UnknownConceptError
from kgkit.graph.query_worker import solutions
from kgkit.graph.store import KnowledgeGraph
from kgkit.resources import resource
from kgkit.views.read import read_view, view_errors

CUI = r"^umls:C\d+$"
"""Ids of the UMLS, placeholders of file makers among them."""
_NEAR = 3


@dataclass(frozen=True)
class Resolved:
    """What an id stands for.

    Attributes:
        asked: The id as it was given.
        steps: How it leads to the concepts, one sentence per step; empty where it is a concept itself.
        concepts: Rows of the concepts view it leads to, as CURIEs; empty for a retired id that nothing stands for.
    """

    asked: str
    steps: tuple[str, ...]
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What is shown of a concept that is not the subject.

    Attributes:
        concept: CURIE of its row in the concepts view; the id itself where the graph only points to it.
        name: Preferred name, None where the graph has none.
        semantic_types: TUIs.
        is_concept: False where the graph only points to it.
    """

    concept: str
    name: str | None = None
    semantic_types: tuple[str, ...] = ()
    is_concept: bool = False


def resolve(graph: KnowledgeGraph, given: str) -> Resolved:
    """Find the concepts that an id stands for.

    An id may be a concept, another member of a concept's class (`HP:0002202`), a retired id, which is followed to all
    that stands for it today, or a source code.

    Raises:
        UnknownConceptError: if it is none of these; the message names near ids, or concepts of that name.
    """
    found = classes_of(graph, [given])[given]
    if found.is_concept:
        step = (f"{given} is one of the ids of {found.concept}",) if found.concept != given else ()
        return Resolved(given, step, (found.concept,))
    if ":" not in given:
        raise UnknownConceptError(f"{graph.folder}: {given!r} is no id; {_hint(graph, given)}")
    steps, ends = _follow(graph, given)
    if not steps:
        ends = sorted(set(_objects(graph, f"?found kgkit:sourceCode <{ns.iri_of(given)}>")))
        if not ends:
            raise UnknownConceptError(f"{graph.folder}: no concept {given!r} in this graph; {_hint(graph, given)}")
        steps = [f"{given} is a code of {', '.join(ends)}"]
    known = classes_of(graph, ends)
    return Resolved(given, tuple(steps), tuple(dict.fromkeys(known[end].concept for end in ends)))


def classes_of(graph: KnowledgeGraph, ids: Collection[str]) -> dict[str, Known]:
    """The concept that each id belongs to.

    Args:
        graph: An open graph.
        ids: CURIEs; one that no concept of the graph has is its own concept, without a name.
    """
    wanted = pl.Series("member", sorted(set(ids)), dtype=pl.String)
    rows = pl.scan_parquet(graph.views / "concepts.parquet").select("concept", "name", "semantic_types", "members")
    one = rows.filter(pl.col("concept").is_in(wanted.implode())).with_columns(member="concept")
    many = rows.filter(pl.col("members").list.len() > 1).with_columns(member="members").explode("member")
    many = many.filter(pl.col("member").is_in(wanted.implode()))
    with view_errors(graph.views):
        found = pl.concat([one, many]).select("member", "concept", "name", "semantic_types").collect()
    known = {
        member: Known(concept, name, tuple(types), is_concept=True)
        for member, concept, name, types in found.iter_rows()
    }
    return {given: known.get(given, Known(given)) for given in ids}


@cache
def semantic_type_names() -> dict[str, tuple[str, str]]:
    """TUI -> its name, and the name of its semantic group (`ontologies/semantic_groups.txt`)."""
    table = pl.read_csv(resource("ontologies/semantic_groups.txt"), separator="\t", quote_char=None)
    return {tui: (name, group) for tui, name, group in table.select("TUI", "name", "group_name").iter_rows()}


def _follow(graph: KnowledgeGraph, given: str) -> tuple[list[str], list[str]]:
    """A retired id to what stands for it today, over any number of releases; no steps if it is not retired."""
    steps: list[str] = []
    ends: list[str] = []
    waiting, seen = [given], {given}
    while waiting:
        retired = waiting.pop(0)
        reasons = sorted(_objects(graph, f"<{ns.iri_of(retired)}> kgkit:retiredReason ?found"))
        if not reasons:
            ends += [retired] if steps else []
            continue
        targets = sorted(set(_objects(graph, f"<{ns.iri_of(retired)}> kgkit:replacedBy ?found")))
        successor = f"now {' and '.join(targets)}" if targets else "nothing stands for it"
        steps.append(f"{retired} is retired ({', '.join(reasons)}): {successor}")
        waiting += [target for target in targets if target not in seen]
        seen.update(targets)
    return steps, ends


def _objects(graph: KnowledgeGraph, pattern: str) -> Iterator[str]:
    """Values of ?found, as CURIEs or plain text."""
    for row in solutions(graph.store, f"SELECT DISTINCT ?found {{ {pattern} }}"):
        yield ns.curie_of(row["found"].value)


def _hint(graph: KnowledgeGraph, given: str) -> str:
    """Near ids, or concepts of that name."""
    views = graph.views
    ids = read_view(views, "concepts", ["concept"])["concept"]
    bare = ids.filter(ids.str.ends_with(f":{given}")).to_list()
    if not bare:
        names = read_view(views, "names", ["concept"], where=pl.col("name").str.to_lowercase() == given.lower())
        bare = names["concept"].unique().sort().to_list()
    if bare:
        return f"did you mean {' or '.join(bare[:_NEAR])}?"
    prefix = given.partition(":")[0]
    alike = ids.filter(ids.str.starts_with(f"{prefix}:"))
    if alike.is_empty():
        prefixes = ids.str.extract(r"^([^:]*):", 1).drop_nulls().unique().sort().to_list()
        return f"ids look like {ids[0]}, with the prefixes {', '.join(prefixes[:12])}" if len(ids) else "it has none"
    place = alike.search_sorted(given)
    return f"near ids: {', '.join(alike[max(place - 1, 0) : place + _NEAR - 1].to_list())}"
