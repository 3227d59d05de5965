"""Laws that every graph keeps, checked on all of it: by SPARQL on the store, by line on the quads files.

Each law yields what breaks it; a law that nothing breaks holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

from kgkit import namespaces as ns
from kgkit.graph.quads import QuadsDigest, read_line_batches, relation_term
from kgkit.graph.query_worker import results_table, solutions
from kgkit.graph.resolve import CUI, semantic_type_names
from kgkit.graph.store import KnowledgeGraph
from kgkit.sources.relations import RelationNames
from kgkit.views.read import read_view

_NOT_READABLE = (OSError, zstandard.ZstdError, UnicodeDecodeError)
_TAG = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})(?:-[a-z]{4})?(?:-(?:[a-z]{2}|\d{3}))?(?:-(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*"
    r"(?:-[a-wyz\d](?:-[a-z\d]{2,8})+)*(?:-x(?:-[a-z\d]{1,8})+)?|x(?:-[a-z\d]{1,8})+",
    re.IGNORECASE,
)
"""A well-formed language tag: RFC 5646, section 2.1, without the grandfathered ones."""

SPARQL_LAWS: Mapping[str, str] = {
    "a concept has at most one preferred name in a language": """
        SELECT ?concept ?language (COUNT(*) AS ?names) {
          GRAPH graph:preferred-labels { ?concept skos:prefLabel ?name } BIND(LANG(?name) AS ?language)
        } GROUP BY ?concept ?language HAVING (COUNT(*) > 1)""",
    "a concept has a preferred name in every language in which a vocabulary names it": """
        SELECT DISTINCT ?concept ?language {
          { SELECT DISTINCT ?concept ?language { ?concept kgkit:sourceLabel ?label BIND(LANG(?label) AS ?language) } }
          ?concept a skos:Concept
          MINUS {
            SELECT ?concept ?language {
              GRAPH graph:preferred-labels { ?concept skos:prefLabel ?name } BIND(LANG(?name) AS ?language)
            }
          }
        }""",
    "a concept is not related to itself": """
        SELECT DISTINCT ?concept ?relation {
          GRAPH graph:relations { ?relation a owl:ObjectProperty } ?concept ?relation ?concept
        }""",
    "a retired id is no concept": """
        SELECT DISTINCT ?retired {
          { SELECT DISTINCT ?retired { ?retired kgkit:retiredReason ?reason } }
          ?retired a skos:Concept
        }""",
    "a licence level is a whole number from 0 to 9, one for each named graph": """
        SELECT ?graph ?level (COUNT(DISTINCT ?other) AS ?levels) {
          ?graph kgkit:licenceLevel ?level, ?other
        } GROUP BY ?graph ?level
        HAVING (COUNT(DISTINCT ?other) > 1 || DATATYPE(?level) != xsd:integer || ?level < 0 || ?level > 9)""",
    "a mention's words stand in its report at its span": """
        SELECT ?mention ?words ?start {
          ?mention kgkit:mentionedIn ?report ; kgkit:mentionText ?words ; kgkit:spanStart ?start ; kgkit:spanEnd ?end .
          ?report kgkit:reportText ?text
          FILTER(SUBSTR(?text, ?start + 1, ?end - ?start) != ?words)
        }""",
}
"""Law -> query for what breaks it. MINUS, and not FILTER NOT EXISTS, which Oxigraph answers thirty times slower."""

DANGLING = """
    SELECT ?id {
      { SELECT DISTINCT ?id {
          GRAPH graph:relations { ?relation a owl:ObjectProperty }
          { ?other ?relation ?id } UNION { ?id ?relation ?other }
      } }
      MINUS { ?id a ?type }
    }"""
"""Ends of relations that no source declares: allowed, since a source may point to concepts of another one."""


def sparql_breaches(graph: KnowledgeGraph, query: str) -> Iterator[str]:
    """Rows of a query as text."""
    rows = results_table(solutions(graph.store, query))
    next(rows)
    for row in rows:
        yield " ".join(row)


SYMMETRIC = "a symmetric relation is stated from one end only"
INVERSE = "a fact is stated by a relation or by its inverse, not by both"


def relation_breaches(graph: KnowledgeGraph) -> Iterator[tuple[str, str]]:
    """(law, breach) for facts that stand twice: a symmetric one from both ends, one under a relation and its inverse.

    Which relations are symmetric or inverse to each other is told by `ontologies/inverses.tsv`.
    """
    declared = set(sparql_breaches(graph, "SELECT ?r { GRAPH graph:relations { ?r a owl:ObjectProperty } }"))
    names = RelationNames({}, {})
    for name in sorted(relation.removeprefix("rela:") for relation in declared if relation.startswith("rela:")):
        form = names.canonical(name)
        term, canonical = relation_term(name), relation_term(form.name)
        if form.symmetric:
            pattern = f"?a {term} ?b . ?b {term} ?a FILTER(STR(?a) < STR(?b))"
            law = SYMMETRIC
        elif form.flipped and f"rela:{form.name}" in declared:
            pattern = f"?a {term} ?b . ?b {canonical} ?a"
            law = INVERSE
        else:
            continue
        # Two vocabularies may say it from two sides; the views then take one.
        for ends in sparql_breaches(graph, f"SELECT DISTINCT ?a ?b {{ GRAPH ?vocabulary {{ {pattern} }} }}"):
            yield law, f"{ends} {name}" + ("" if form.symmetric else f" and {form.name}")


def undeclared_relations(graph: KnowledgeGraph) -> Iterator[str]:
    """Relations of ours that are used but not declared in graph:relations."""
    declared = set(sparql_breaches(graph, "SELECT ?r { GRAPH graph:relations { ?r a owl:ObjectProperty } }"))
    for predicate in sparql_breaches(graph, "SELECT DISTINCT ?p { ?s ?p ?o }"):
        if predicate.startswith("rela:") and predicate not in declared:
            yield predicate


def unknown_types(graph: KnowledgeGraph) -> Iterator[str]:
    """Semantic types that the UMLS does not have."""
    known = {f"STY:{tui}" for tui in semantic_type_names()}
    for given in sparql_breaches(graph, "SELECT DISTINCT ?type { ?concept kgkit:semanticType ?type }"):
        if given not in known:
            yield given


def classes_with_two_cuis(graph: KnowledgeGraph) -> Iterator[str]:
    """Rows of the concepts view whose ids hold several CUIs."""
    rows = read_view(graph.views, "concepts", ["members"])
    cuis = pl.col("members").list.eval(pl.element().str.contains(CUI)).list.sum()
    for (members,) in rows.filter(pl.col("members").list.len() > 1).filter(cuis > 1).iter_rows():
        yield ", ".join(members)


def view_breaches(graph: KnowledgeGraph) -> Iterator[str]:
    """What is not in order in the views: concepts and relations sorted, triples sorted, distinct and in range."""
    concepts = read_view(graph.views, "concepts", ["concept"])["concept"]
    relations = read_view(graph.views, "relations")["relation"]
    triples = read_view(graph.views, "triples")
    for name, values in (("concepts", concepts), ("relations", relations)):
        if not values.is_sorted() or values.n_unique() != len(values):
            yield f"{name}.parquet: not sorted and distinct"
    limits = {"head": len(concepts), "relation": len(relations), "tail": len(concepts)}
    for column, limit in limits.items():
        outside = triples.filter((pl.col(column) < 0) | (pl.col(column) >= limit)).height
        if outside:
            yield f"triples.parquet: {outside:,} rows with {column} outside 0 to {limit - 1:,}"
    if not triples.equals(triples.unique().sort("head", "relation", "tail")):
        yield "triples.parquet: not sorted and distinct"


@dataclass
class QuadsScan:
    """One pass over all quads files.

    Attributes:
        not_as_recorded: Files that differ from the manifest, in count or digest.
        no_quads: Lines that are not a statement in a named graph.
        blank_nodes: Statements with a blank node.
        tags: Language tags that are not well formed.
        statements: Named graph (IRI) -> number of distinct statements.
    """

    not_as_recorded: list[str] = field(default_factory=list)
    no_quads: list[str] = field(default_factory=list)
    blank_nodes: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    statements: dict[str, int] = field(default_factory=dict)


def scan_quads(graph: KnowledgeGraph) -> QuadsScan:
    """Read every line of every quads file once."""
    scan, seen = QuadsScan(), []
    for key, source in graph.manifest["sources"].items():
        path = graph.folder / "quads" / f"{key}.nq.zst"
        blocks: list[pl.DataFrame] = []
        try:
            found = QuadsDigest()
            for lines in read_line_batches(path):
                _inspect(lines, scan, blocks)
                found.add(str(lines.str.join("\n").item()).encode())
        except _NOT_READABLE as error:
            scan.not_as_recorded.append(f"{path.name}: not readable ({error})")
            continue
        seen += blocks
        count, digest = found.count, found.hexdigest()
        if (count, digest) != (source["statements"], source["digest"]):
            recorded = f"the manifest says {source['statements']:,} with digest {source['digest'][:12]}"
            scan.not_as_recorded.append(f"{path.name}: {count:,} statements with digest {digest[:12]}, {recorded}")
    if seen:
        counts = pl.concat(seen).unique().group_by("graph").len()
        scan.statements = {str(name): int(number) for name, number in counts.iter_rows()}
    return scan


def store_breaches(graph: KnowledgeGraph, scan: QuadsScan) -> Iterator[str]:
    """Named graphs in which the store and the quads files have another number of statements."""
    query = "SELECT ?graph (COUNT(*) AS ?n) { GRAPH ?graph { ?s ?p ?o } } GROUP BY ?graph"
    stored = {row["graph"].value: int(row["n"].value) for row in solutions(graph.store, query)}
    stored.pop(ns.LABEL_GRAPH, None)
    for name in sorted(stored.keys() | scan.statements.keys()):
        here, there = stored.get(name, 0), scan.statements.get(name, 0)
        if here != there:
            yield f"{ns.compress(name)}: {here:,} in the store, {there:,} in the quads files"


def _inspect(lines: pl.Series, scan: QuadsScan, blocks: list[pl.DataFrame]) -> None:
    """Look at some lines of a file."""
    graphs = lines.str.extract(r"^<[^>]*> <[^>]*> .* <([^<> ]+)> \.$")
    scan.no_quads += lines.filter(graphs.is_null() & ~lines.str.contains("^_:")).to_list()
    scan.blank_nodes += lines.filter(lines.str.contains(r"^_:|^[^ ]+ <[^>]*> _:| _:[^ \"]+ \.$")).to_list()
    tags = lines.str.extract(r'"@([^ "]*) <[^<> ]+> \.$').drop_nulls().unique()
    scan.tags |= {tag for tag in tags if not _TAG.fullmatch(tag)}
    blocks.append(pl.DataFrame({"graph": graphs.cast(pl.Categorical), "line": lines.hash()}).drop_nulls())


def derived_breaches(graph: KnowledgeGraph, folder: Path) -> Iterator[str]:
    """Views that differ from those derived from the quads files alone, which are written to `folder`."""
    from kgkit.graph.derive import tables_from_quads
    from kgkit.views.build import build_views

    sources: list[tuple[str, dict[str, Any]]] = sorted(graph.manifest["sources"].items())
    try:
        tables = [tables_from_quads(graph.folder / "quads" / f"{key}.nq.zst", source) for key, source in sources]
    except _NOT_READABLE as error:
        yield f"not compared: {error}"
        return
    build_views(tables, folder)
    for path in sorted(folder.glob("*.parquet")):
        derived = pl.read_parquet(path)
        kept = read_view(graph.views, path.stem)
        if not derived.equals(kept):
            same = len(kept) == len(derived) and kept.columns == derived.columns
            other = [name for name in kept.columns if not kept[name].equals(derived[name])] if same else []
            what = f"other values in {', '.join(other)}" if other else f"{len(derived):,} derived from the RDF"
            yield f"{path.name}: {len(kept):,} rows, {what}"
