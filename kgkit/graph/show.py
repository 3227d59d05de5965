"""One concept on one page: names, definitions, relations, matches, and who says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kgkit import namespaces as ns
from kgkit.graph.query_worker import solutions
from kgkit.graph.resolve import Known, classes_of, resolve, semantic_type_names
from kgkit.graph.store import KnowledgeGraph
from kgkit.languages import is_english
from kgkit.views.read import read_view

_MATCHES = ("exact", "close", "broad", "narrow", "related")
_OUT = "GRAPH ?graph { ?member ?predicate ?other } BIND(true AS ?out)"
_IN = "GRAPH ?graph { ?other ?predicate ?member } BIND(false AS ?out)"
_ISA = {"skos:broader": "isa", "rdfs:subClassOf": "isa"}
"""What foreign RDF says for `isa`."""


@dataclass(frozen=True)
class ShownName:
    """A name with the vocabularies that use it.

    Attributes:
        name: The words.
        language: BCP 47 tag.
        kind: `best` (some vocabulary's own best name), `other` or `abbreviation`.
        vocabularies: Named graphs, sorted.
    """

    name: str
    language: str
    kind: str
    vocabularies: tuple[str, ...]


@dataclass(frozen=True)
class ShownDefinition:
    """A definition and the vocabulary that gives it."""

    text: str
    language: str
    vocabulary: str


@dataclass(frozen=True)
class ShownRelation:
    """A fact with the vocabularies that state it.

    Attributes:
        relation: Its name (`isa`, `has_finding_site`).
        outgoing: The concept shown is the head, the other one the tail; else the other way round.
        other: The other concept.
        vocabularies: Named graphs, sorted.
    """

    relation: str
    outgoing: bool
    other: Known
    vocabularies: tuple[str, ...]


@dataclass(frozen=True)
class ShownMatch:
    """A mapping to or from another id; `kind` reads from the concept shown to `other`."""

    kind: str
    other: Known
    vocabulary: str


@dataclass(frozen=True)
class ConceptPage:
    """All that the graph says of a concept.

    Attributes:
        concept: CURIE.
        name: Preferred name; None if it has none.
        members: All ids of its class.
        codes: Source codes.
        semantic_types: (TUI, name, semantic group).
        is_placeholder: Its CUI was minted by a file maker.
        names: By language and kind.
        definitions: All of them.
        relations: In both directions, parents (outgoing isa) and children (incoming isa) among them.
        matches: Those that do not merely join the members.
        attributes: (name, value, vocabulary).
        mentions: Corpus -> certainty -> number of mentions in its reports.
        sources: (named graph, title, licence level) of all that is said here.
    """

    concept: str
    name: str | None
    members: tuple[str, ...]
    codes: tuple[str, ...]
    semantic_types: tuple[tuple[str, str, str], ...]
    is_placeholder: bool
    names: tuple[ShownName, ...]
    definitions: tuple[ShownDefinition, ...]
    relations: tuple[ShownRelation, ...]
    matches: tuple[ShownMatch, ...]
    attributes: tuple[tuple[str, str, str], ...]
    mentions: dict[str, dict[str, int]]
    sources: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Shown:
    """Answer to `show`: how the id was read, and the concepts it stands for."""

    asked: str
    steps: tuple[str, ...]
    concepts: tuple[ConceptPage, ...]


def show(graph: KnowledgeGraph, given: str) -> Shown:
    """Everything about the concepts that an id stands for.

    Raises:
        UnknownConceptError: if it stands for none.
    """
    found = resolve(graph, given)
    return Shown(given, found.steps, tuple(_page(graph, concept) for concept in found.concepts))


def _page(graph: KnowledgeGraph, concept: str) -> ConceptPage:
    row = _view_row(graph, concept)
    statements = _Statements(graph, row["members"])
    names, said = semantic_type_names(), statements.said
    types = tuple((tui, *names.get(tui, ("unknown type", "unknown group"))) for tui in row["semantic_types"])
    relations, matches, mentions = statements.relations(), statements.matches(), statements.mentions()
    graphs = statements.graphs() | {name for fact in relations for name in fact.vocabularies}
    graphs |= {match.vocabulary for match in matches} | set(mentions)
    codes = tuple(code for code in row["codes"] if code not in row["members"])
    return ConceptPage(
        concept, row["name"], tuple(row["members"]), codes, types, row["is_placeholder"],
        names=statements.names(),
        definitions=tuple(sorted(
            (ShownDefinition(value.value, value.language or "", graph_name) for predicate, value, graph_name in said
             if predicate == ns.DEFINITION), key=lambda row: (row.vocabulary, row.text))),
        relations=relations,
        matches=matches,
        attributes=tuple(sorted({(predicate.removeprefix(ns.ATTRIBUTE), value.value, graph_name)
                                 for predicate, value, graph_name in said if predicate.startswith(ns.ATTRIBUTE)})),
        mentions=mentions,
        sources=_sources(graph, graphs),
    )  # fmt: skip


def _view_row(graph: KnowledgeGraph, concept: str) -> dict[str, Any]:
    import polars as pl

    return read_view(graph.views, "concepts", where=pl.col("concept") == concept).row(0, named=True)


def _sources(graph: KnowledgeGraph, graphs: set[str]) -> tuple[tuple[str, str, int], ...]:
    described = [entry for source in graph.manifest["sources"].values() for entry in source["graphs"]]
    known = {entry["name"]: entry for entry in described}
    return tuple((name, known[name]["title"], known[name]["licence_level"]) for name in sorted(graphs & set(known)))


class _Statements:
    """The statements about the ids of one class."""

    def __init__(self, graph: KnowledgeGraph, members: list[str]) -> None:
        self._graph = graph
        self._members = set(members)
        self._values = "VALUES ?member { " + " ".join(f"<{ns.iri_of(member)}>" for member in members) + " }"
        literals = "GRAPH ?graph { ?member ?predicate ?value } FILTER(isLiteral(?value))"
        self.said = [(row["predicate"].value, row["value"], _graph(row)) for row in self._rows(literals)]
        """Literals: (predicate, value, named graph)."""

    def _rows(self, pattern: str) -> Iterator[Any]:
        return solutions(self._graph.store, f"SELECT * {{ {self._values} {pattern} }}")

    def graphs(self) -> set[str]:
        """Named graphs with a statement whose subject is a member."""
        query = f"SELECT DISTINCT ?graph {{ {self._values} GRAPH ?graph {{ ?member ?predicate ?value }} }}"
        return {_graph(row) for row in solutions(self._graph.store, query)}

    def names(self) -> tuple[ShownName, ...]:
        kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
        users: dict[tuple[str, str], set[str]] = defaultdict(set)
        labels = {ns.SOURCE_LABEL: "best", ns.ALT_LABEL: "other", ns.ABBREVIATION: "abbreviation"}
        for predicate, value, graph in self.said:
            if predicate in labels:
                kinds[value.language or "", value.value].add(labels[predicate])
                users[value.language or "", value.value].add(graph)
        order = ("abbreviation", "best", "other")
        found = [ShownName(name, language, next(kind for kind in order if kind in kinds[language, name]),
                           tuple(sorted(graphs))) for (language, name), graphs in users.items()]  # fmt: skip
        rank = {"best": 0, "other": 1, "abbreviation": 2}
        return tuple(
            sorted(found, key=lambda row: (not is_english(row.language), row.language, rank[row.kind], row.name))
        )

    def relations(self) -> tuple[ShownRelation, ...]:
        declared = "GRAPH graph:relations { ?predicate a owl:ObjectProperty }"
        foreign = f"VALUES ?predicate {{ {' '.join(_ISA)} }}"
        pattern = " UNION ".join(f"{{ {kind} {way} }}" for kind in (declared, foreign) for way in (_OUT, _IN))
        facts: dict[tuple[str, bool, str], set[str]] = defaultdict(set)
        for row in self._rows(pattern):
            relation = ns.curie_of(row["predicate"].value)
            name = _ISA.get(relation, relation.removeprefix("rela:"))
            facts[name, row["out"].value == "true", ns.curie_of(row["other"].value)].add(_graph(row))
        known = classes_of(self._graph, {other for _, _, other in facts})
        merged: dict[tuple[str, bool, Known], set[str]] = defaultdict(set)
        for (name, out, other), graphs in facts.items():
            merged[name, out, known[other]] |= graphs
        found = [ShownRelation(*fact, tuple(sorted(graphs))) for fact, graphs in merged.items()]
        return tuple(sorted(found, key=lambda fact: (fact.relation != "isa", fact.relation, not fact.outgoing,
                                                     (fact.other.name or fact.other.concept).lower())))  # fmt: skip

    def matches(self) -> tuple[ShownMatch, ...]:
        converse = {"broad": "narrow", "narrow": "broad"}
        predicates = " ".join(f"skos:{kind}Match" for kind in _MATCHES)
        pattern = f"VALUES ?predicate {{ {predicates} }} {{ {_OUT} }} UNION {{ {_IN} }}"
        found: set[tuple[str, str, str]] = set()
        for row in self._rows(pattern):
            kind = row["predicate"].value.removeprefix(ns.SKOS).removesuffix("Match")
            other = ns.curie_of(row["other"].value)
            if other not in self._members:
                found.add((kind if row["out"].value == "true" else converse.get(kind, kind), other, _graph(row)))
        known = classes_of(self._graph, {other for _, other, _ in found})
        rows = [ShownMatch(kind, known[other], graph) for kind, other, graph in found]
        order = {kind: place for place, kind in enumerate(_MATCHES)}
        return tuple(sorted(rows, key=lambda match: (order[match.kind], match.other.concept, match.vocabulary)))

    def mentions(self) -> dict[str, dict[str, int]]:
        query = f"""SELECT ?graph ?certainty (COUNT(DISTINCT ?mention) AS ?count) {{ {self._values}
            GRAPH ?graph {{ ?mention kgkit:denotes ?member ; kgkit:certainty ?certainty }} }}
            GROUP BY ?graph ?certainty ORDER BY ?graph ?certainty"""
        corpora: dict[str, dict[str, int]] = defaultdict(dict)
        for row in solutions(self._graph.store, query):
            corpora[_graph(row)][row["certainty"].value.removeprefix(ns.BASE)] = int(row["count"].value)
        return dict(corpora)


def _graph(row: Any) -> str:
    return str(row["graph"].value).removeprefix(ns.GRAPH)
