"""A source's columns read back from its RDF: the proof that the quads are the whole truth."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.graph.quads import read_quads
from kgkit.sources.base import CODES, CONCEPTS, DEFINITIONS, EDGES, NAMES, TYPES, NamedGraph, SourceTables

_NameKey = tuple[str, str, str, str]


def tables_from_quads(path: Path, source: dict[str, Any]) -> SourceTables:
    """Columns of the concepts, names and relations in a quads file.

    The rank of a name that is not its vocabulary's best is not in the RDF (nothing needs it) and comes back as 0.

    Args:
        path: A `.nq.zst` file written by kgkit.
        source: The source's entry in the graph's manifest.
    """
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    names: dict[_NameKey, dict[str, bool]] = defaultdict(dict)
    ranks: dict[tuple[str, str, str], int] = {}
    placeholders: set[str] = set()
    with read_quads(path) as stream:
        for quad in ox.parse(stream, format=ox.RdfFormat.N_QUADS):
            graph = quad.graph_name.value.removeprefix(ns.GRAPH)
            subject, predicate = _curie(quad.subject.value), quad.predicate.value
            _sort_in(rows, names, ranks, placeholders, (graph, subject, predicate, quad.object))
    listed = [(g, c, n, lang, ranks.get((g, c, lang), 0) if "best" in kinds else 0, "best" in kinds, "short" in kinds)
              for (g, c, n, lang), kinds in names.items()]  # fmt: skip
    concepts = [(graph, concept, concept in placeholders) for graph, concept in rows["concepts"]]

    def frame(content: list[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
        return pl.DataFrame(content, schema=schema, orient="row")

    return SourceTables(
        source["name"],
        source["release"],
        tuple(NamedGraph(**graph) for graph in source["graphs"]),
        concepts=frame(concepts, CONCEPTS),
        names=frame(listed, NAMES),
        types=frame(rows["types"], TYPES),
        definitions=frame(rows["definitions"], DEFINITIONS),
        codes=frame(rows["codes"], CODES),
        edges=frame(rows["edges"], EDGES),
    )


def _curie(iri: str) -> str:
    return unquote(ns.compress(iri))


def _sort_in(
    rows: dict[str, list[tuple[Any, ...]]],
    names: dict[_NameKey, dict[str, bool]],
    ranks: dict[tuple[str, str, str], int],
    placeholders: set[str],
    quad: tuple[str, str, str, Any],
) -> None:
    graph, subject, predicate, value = quad
    if predicate == ns.RDF_TYPE and value.value == ns.CONCEPT:
        rows["concepts"].append((graph, subject))
    elif predicate in (ns.SOURCE_LABEL, ns.ALT_LABEL, ns.ABBREVIATION):
        kind = {ns.SOURCE_LABEL: "best", ns.ABBREVIATION: "short"}.get(predicate, "other")
        names[graph, subject, value.value, value.language][kind] = True
    elif predicate.startswith(ns.SOURCE_LABEL_RANK + "/"):
        ranks[graph, subject, predicate.removeprefix(ns.SOURCE_LABEL_RANK + "/")] = int(value.value)
    elif predicate == ns.DEFINITION:
        rows["definitions"].append((graph, subject, value.value, value.language))
    elif predicate == ns.SEMANTIC_TYPE:
        rows["types"].append((graph, subject, value.value.removeprefix(ns.STY)))
    elif predicate == ns.SOURCE_CODE:
        rows["codes"].append((graph, subject, _curie(value.value)))
    elif predicate == ns.PLACEHOLDER:
        placeholders.add(subject)
    elif predicate.startswith(ns.RELATION):
        rows["edges"].append((graph, subject, unquote(predicate.removeprefix(ns.RELATION)), _curie(value.value)))
