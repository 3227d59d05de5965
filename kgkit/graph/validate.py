"""Is a graph sound? Laws on all of it, and SHACL shapes on as many nodes as pyshacl takes in reasonable time."""

from __future__ import annotations

import heapq
import io
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import pyoxigraph as ox
import pyshacl
from rdflib import Graph
from rdflib.namespace import RDF, SH

from kgkit import namespaces as ns
from kgkit.graph import laws
from kgkit.graph.query_worker import answer, solutions
from kgkit.graph.store import KnowledgeGraph
from kgkit.progress import progress
from kgkit.resources import resource

SAMPLE = 500
"""Nodes of each kind that pyshacl looks at, unless asked otherwise."""
_FIRST = 5
_VALUES = 200
"""Nodes described by one query."""

_TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "concepts": "?node a skos:Concept",
        "named graphs": "?node a prov:Entity",
        "relations": "GRAPH graph:relations { ?node a owl:ObjectProperty }",
        "retired ids": "?node kgkit:retiredReason|kgkit:replacedBy ?value",
        "reports": "?node a kgkit:Report",
        "mentions": "?node a kgkit:Mention",
    }
)
"""What the shapes of `ontologies/shapes.ttl` are about -> pattern of its nodes."""


@dataclass(frozen=True)
class Finding:
    """Whether one law holds.

    Attributes:
        law: The law, in words.
        breaches: Number of things that break it.
        first: The first of them.
        is_note: What breaks it is worth knowing, but no fault.
    """

    law: str
    breaches: int
    first: tuple[str, ...]
    is_note: bool = False


@dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Attributes:
        findings: One per law, in the order in which they were checked.
        covered: Kind of node -> (nodes that SHACL looked at, all nodes).
    """

    findings: tuple[Finding, ...]
    covered: dict[str, tuple[int, int]]

    @property
    def is_sound(self) -> bool:
        """No law is broken; notes do not count."""
        return all(finding.is_note or not finding.breaches for finding in self.findings)


def validate(graph: KnowledgeGraph, sample: int = SAMPLE, *, deep: bool = False) -> Validation:
    """Check a graph.

    Args:
        graph: An open graph.
        sample: Nodes of each kind to check against the SHACL shapes; where there are no more, all of them.
        deep: Derive the views again from the RDF alone, and compare.
    """
    findings = _quads_laws(graph)  # shows its own progress
    with progress("validate", len(laws.SPARQL_LAWS) + 4, "checks") as bar:
        for found in _graph_laws(graph):
            findings += found
            bar.advance(note=found[-1].law)
        shapes, covered = _shapes(graph, sample)
        findings.append(shapes)
        bar.advance(note=shapes.law)
    if deep:
        with tempfile.TemporaryDirectory() as folder:
            derived = list(laws.derived_breaches(graph, Path(folder) / "views"))
        findings.append(_finding("the views are what the RDF alone gives", derived))
    return Validation(tuple(findings), covered)


def validation_text(validation: Validation) -> str:
    """One line per law, with the first things that break it."""
    lines = []
    for finding in validation.findings:
        state = "ok  " if not finding.breaches else "note" if finding.is_note else "FAIL"
        count = f": {finding.breaches:,}" if finding.breaches else ""
        lines.append(f"{state}  {finding.law}{count}")
        lines += [f"        {breach}" for breach in finding.first]
        rest = finding.breaches - len(finding.first)
        lines += [f"        ... and {rest:,} more"] if rest and finding.first else []
    covered = ", ".join(f"{seen:,} of {count:,} {kind}" for kind, (seen, count) in validation.covered.items() if count)
    lines.append(f"shapes looked at {covered or 'nothing'}")
    failed = sum(1 for finding in validation.findings if finding.breaches and not finding.is_note)
    verdict = "the graph is sound", "1 law is broken", f"{failed} laws are broken"
    lines.append(verdict[min(failed, 2)])
    return "\n".join(lines)


def _quads_laws(graph: KnowledgeGraph) -> list[Finding]:
    scan = laws.scan_quads(graph)
    return [
        _finding("the quads files are as the manifest records them", scan.not_as_recorded),
        _finding("every line of the quads files is a statement in a named graph", scan.no_quads),
        _finding("there are no blank nodes", scan.blank_nodes),
        _finding("language tags are well formed (BCP 47)", sorted(scan.tags)),
        _finding("the store holds the statements of the quads files", laws.store_breaches(graph, scan)),
    ]


def _graph_laws(graph: KnowledgeGraph) -> Iterator[list[Finding]]:
    for law, query in laws.SPARQL_LAWS.items():
        yield [_finding(law, laws.sparql_breaches(graph, query))]
    twice = list(laws.relation_breaches(graph))
    yield [
        _finding(law, [breach for kind, breach in twice if kind == law]) for law in (laws.SYMMETRIC, laws.INVERSE)
    ] + [_finding("every relation in use is declared", laws.undeclared_relations(graph))]
    yield [
        _finding("semantic types are those of the UMLS", laws.unknown_types(graph)),
        _finding("no merged class holds two CUIs", laws.classes_with_two_cuis(graph)),
        _finding("the views are sorted, distinct and in range", laws.view_breaches(graph)),
    ]
    dangling = laws.sparql_breaches(graph, laws.DANGLING)
    yield [_finding("both ends of every relation are declared by some source", dangling, is_note=True)]


def _finding(law: str, breaches: Iterable[str], *, is_note: bool = False) -> Finding:
    every = iter(breaches)
    first = tuple(islice(every, _FIRST))
    return Finding(law, len(first) + sum(1 for _ in every), first, is_note)


def _shapes(graph: KnowledgeGraph, sample: int) -> tuple[Finding, dict[str, tuple[int, int]]]:
    """SHACL on the nodes of each kind whose IRIs have the smallest checksums: a fixed sample without any order."""
    data, covered = Graph(), {}
    chosen: set[str] = set()
    for kind, pattern in _TARGETS.items():
        found = solutions(graph.store, f"SELECT DISTINCT ?node {{ {pattern} }}")
        counted = _Counted(row["node"].value for row in found)
        nodes = heapq.nsmallest(sample, counted, key=lambda iri: (zlib.crc32(iri.encode()), iri))
        for start in range(0, len(nodes), _VALUES):
            _describe(graph, nodes[start : start + _VALUES], data)
        chosen.update(nodes)
        covered[kind] = (len(nodes), counted.count)
    shapes = Graph().parse(resource("ontologies/shapes.ttl"), format="turtle")
    _, report, _ = pyshacl.validate(data, shacl_graph=shapes, inference="none")
    assert isinstance(report, Graph)
    breaches = []
    for result in report.subjects(RDF.type, SH.ValidationResult):
        node, path, value = (report.value(result, part) for part in (SH.focusNode, SH.resultPath, SH.value))
        if str(node) not in chosen:
            continue  # it is there for its type alone, which others point to
        message = report.value(result, SH.resultMessage)
        about = f"{ns.curie_of(str(node))} {ns.curie_of(str(path)) if path else ''}".strip()
        breaches.append(f"{about}: {message}" + (f"; found {ns.curie_of(str(value))!r}" if value is not None else ""))
    return _finding("nodes have the shapes of ontologies/shapes.ttl", sorted(breaches)), covered


class _Counted:
    """Items of an iterator, counted as they pass."""

    def __init__(self, items: Iterable[str]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            self.count += 1
            yield item


def _describe(graph: KnowledgeGraph, nodes: list[str], data: Graph) -> None:
    """Add what the graph says of some nodes, and the types of what they point to within reports."""
    values = f"VALUES ?node {{ {' '.join(str(ox.NamedNode(node)) for node in nodes)} }}"
    for query in (
        f"CONSTRUCT {{ ?node ?predicate ?value }} WHERE {{ {values} ?node ?predicate ?value }}",
        f"""CONSTRUCT {{ ?other a ?type }} WHERE {{ {values}
            ?node kgkit:mentionedIn|kgkit:modify|kgkit:located_at|kgkit:suggestive_of ?other . ?other a ?type }}""",
    ):
        result = answer(graph.store, query)
        assert isinstance(result, ox.QueryTriples)
        data.parse(io.BytesIO(result.serialize(format=ox.RdfFormat.N_TRIPLES) or b""), format="nt")
