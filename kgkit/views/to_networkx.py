"""Border to networkx: a directed multigraph for analysis, and back."""

from __future__ import annotations

import re
from typing import IO, Any

import networkx as nx
import polars as pl

from kgkit.views.encode import encode_facts
from kgkit.views.triples import TripleView

_NOT_XML = re.compile("[^\\t\\n\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def to_networkx(view: TripleView, concepts: pl.DataFrame) -> nx.MultiDiGraph[str]:
    """Concepts as nodes, facts as edges keyed by their relation.

    Every concept is a node, with the attributes `name` (a string or None) and `semantic_types` (a list of TUIs).
    networkx takes about half a kilobyte per fact: for graphs of millions of facts take the views themselves.

    Args:
        view: The facts.
        concepts: The concepts view of the same graph: columns concept, name, semantic_types.
    """
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(relations=list(view.relations))
    rows = concepts.select("concept", "name", "semantic_types").iter_rows()
    attributes = {concept: {"name": name, "semantic_types": types} for concept, name, types in rows}
    graph.add_nodes_from((concept, attributes[concept]) for concept in view.concepts)
    graph.add_edges_from(
        (view.concepts[head], view.concepts[tail], view.relations[relation])
        for head, relation, tail in view.triples.tolist()
    )
    return graph


def from_networkx(graph: nx.MultiDiGraph[Any]) -> TripleView:
    """The view of a graph whose nodes are concept ids and whose edge keys are relations.

    Relations are those the graph lists in `graph.graph["relations"]` (as `to_networkx` does) and those of its edges.
    """
    facts = ((head, key, tail) for head, tail, key in graph.edges(keys=True))
    view, _ = encode_facts([facts], concepts=graph.nodes, relations=graph.graph.get("relations", ()))
    return view


def write_graphml(view: TripleView, concepts: pl.DataFrame, stream: IO[bytes]) -> None:
    """Write facts as GraphML: node attributes `name` and `semantic_types` (`;` between), edge attribute `relation`.

    Edges are numbered, since GraphML wants a distinct id for each. A character that XML 1.0 cannot hold (a control
    character in a name, say) becomes U+FFFD. The whole graph is held in memory, two to three kilobytes a fact.

    Args:
        view: The facts.
        concepts: The concepts view of the same graph: columns concept, name, semantic_types.
        stream: Open for writing bytes.
    """
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for concept, name, types in concepts.select("concept", "name", "semantic_types").iter_rows():
        given = {"name": name, "semantic_types": ";".join(types or [])}
        graph.add_node(_xml(concept), **{key: _xml(value) for key, value in given.items() if value})
    nodes, relations = list(map(_xml, view.concepts)), list(map(_xml, view.relations))
    for number, (head, relation, tail) in enumerate(view.triples.tolist()):
        graph.add_edge(nodes[head], nodes[tail], key=number, relation=relations[relation])
    nx.write_graphml_xml(graph, stream)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
