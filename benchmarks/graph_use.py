"""How fast are look-ups, beside rdflib's memory store, and how fast do the views open and come back from the RDF?

    python benchmarks/graph_use.py KG [--with-rdflib]

Prints the median milliseconds of some SPARQL queries on random concepts, on the graph's store and, for a graph that
fits into rdflib's memory (about 1.4 KB a statement), on that; the seconds to open the triples view; and the rate at
which the columns of the largest source are read back from its RDF alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import rdflib

from kgkit import namespaces as ns
from kgkit.graph.derive import tables_from_quads
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.triples import open_triples

QUERIES = {
    "name of a concept": "SELECT ?name { %(concept)s skos:prefLabel ?name }",
    "concepts of a name": "SELECT ?c { ?c skos:prefLabel %(name)s }",
    "one hop with names": "SELECT ?o ?name { %(concept)s ?p ?o . ?o skos:prefLabel ?name }",
    "two hops": "SELECT DISTINCT ?o { %(concept)s rela:isa ?m . ?m rela:isa ?o }",
    "neighbours of a type": "SELECT ?o { %(concept)s ?p ?o . ?o kgkit:semanticType %(type)s }",
    "a hundred of a type": "SELECT ?c ?name { ?c kgkit:semanticType %(type)s ; skos:prefLabel ?name } LIMIT 100",
}  # fmt: skip
RUNS = 200


def milliseconds(ask: Callable[[str], Iterable[object]], queries: list[str]) -> float:
    """Median time of an answer, all rows fetched."""
    times = []
    for query in queries:
        begin = time.perf_counter()
        list(ask(query))
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def main(kg: Path, with_rdflib: bool) -> None:
    """Measure and print."""
    graph = KnowledgeGraph(kg)
    begin = time.perf_counter()
    view = open_triples(graph.views)
    took = time.perf_counter() - begin
    print(f"triples view: {len(view.triples):,} facts of {view.num_concepts:,} concepts open in {took:.2f} s")
    concepts = pl.read_parquet(graph.views / "concepts.parquet", columns=["concept", "name", "semantic_types"])
    picked = concepts.filter(pl.col("semantic_types").list.len() > 0, pl.col("name").is_not_null())
    picked = picked.sample(min(RUNS, len(picked)), seed=0)
    values = [{"concept": f"<{ns.expand(concept)}>", "type": f"<{ns.STY}{types[0]}>",
               "name": '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"@en'}
              for concept, name, types in picked.iter_rows()]  # fmt: skip
    memory, prefixes = None, {prefix: rdflib.Namespace(space) for prefix, space in ns.PREFIXES.items()}
    if with_rdflib:
        memory = rdflib.Dataset(default_union=True)
        memory.parse(data="\n".join(graph.lines()), format="nquads")
    random.seed(0)
    for what, text in QUERIES.items():
        queries = [text % value for value in values]
        row = f"{what:<30} {milliseconds(graph.query, queries):8.2f} ms"
        if memory is not None:
            asked = random.sample(queries, min(5, len(queries)))
            row += f", rdflib {milliseconds(lambda query: memory.query(query, initNs=prefixes), asked):10.2f} ms"
        print(row)
    key, source = max(graph.manifest["sources"].items(), key=lambda item: item[1]["statements"])
    begin = time.perf_counter()
    tables_from_quads(kg / "quads" / f"{key}.nq.zst", source)
    took = time.perf_counter() - begin
    print(f"read back from the RDF alone: {source['statements'] / took:,.0f} statements a second, 80,000 is the goal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kg", type=Path)
    parser.add_argument("--with-rdflib", action="store_true")
    options = parser.parse_args()
    main(options.kg, options.with_rdflib)
