"""The graph through rdflib: its Dataset on the same Oxigraph store, for code that speaks rdflib."""

from __future__ import annotations

from oxrdflib import OxigraphStore
from rdflib import Dataset

from kgkit import namespaces as ns
from kgkit.graph.store import KnowledgeGraph


def rdflib_dataset(graph: KnowledgeGraph) -> Dataset:
    """A graph as an rdflib Dataset, read-only, whose default graph is the union of all named graphs.

    Queries are answered by Oxigraph, not by rdflib's own engine; the known prefixes are bound. Patterns
    (`triples`, `objects`, ...) give a statement once for each named graph that holds it; `len` counts it once.
    Adding or removing raises RuntimeError: a graph is changed by `kgkit ingest` and `kgkit remove` only.
    """
    dataset = Dataset(store=OxigraphStore(store=graph.store), default_union=True)
    for prefix, space in ns.PREFIXES.items():
        dataset.bind(prefix, space, override=True, replace=True)
    return dataset
