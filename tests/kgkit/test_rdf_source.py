"""Any RDF as a source: statements stay as they are, an exported graph comes back, blank nodes get lasting names."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pyoxigraph as ox
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph, ingest_rdf
from kgkit.sources.base import IngestLog
from kgkit.sources.rdf import RdfSource, read_rdf
from kgkit.views.triples import open_triples

SKOS_FILE = """
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix ex: <http://example.org/> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
ex:lung a skos:Concept ; skos:prefLabel "Lung"@en, "Lunge"@de ; skos:altLabel "pulmo"@la .
ex:lobe a skos:Concept ; skos:prefLabel "Lobe" ; skos:broader ex:organPart ; ex:partOf ex:lung ; ex:seenIn ex:nowhere .
ex:organPart a owl:Class ; rdfs:label "Organ part" ; skos:narrower ex:lung ; skos:definition "A part of an organ."@en .
ex:lung skos:exactMatch <https://uts.nlm.nih.gov/uts/umls/concept/C0024109> .
ex:lung skos:note [ ex:author [ ex:name "somebody" ] ] .
"""


def write(folder: Path, text: str, name: str = "thing.ttl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(source: RdfSource) -> list[str]:
    return [line for batch in source.lines for line in batch]


def view(kg: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(KnowledgeGraph(kg).views / f"{name}.parquet")


def test_a_skos_file_becomes_concepts_names_and_facts(tmp_path: Path) -> None:
    log = IngestLog()
    ingest_rdf(tmp_path / "kg", read_rdf(write(tmp_path, SKOS_FILE), log), log)
    concepts = view(tmp_path / "kg", "concepts")
    lung, lobe, part = "http://example.org/lung", "http://example.org/lobe", "http://example.org/organPart"
    # The CUI that the lung is said to be stands for it; its own id stays a member.
    assert dict(concepts.select("concept", "name").rows()) == {
        lobe: "Lobe", part: "Organ part", "umls:C0024109": "Lung",
    }  # fmt: skip
    assert concepts["members"].to_list()[-1] == [lung, "umls:C0024109"]
    assert concepts["codes"].to_list()[-1] == [lung]
    triples = open_triples(KnowledgeGraph(tmp_path / "kg").views)
    facts = {(triples.concepts[h], triples.relations[r], triples.concepts[t]) for h, r, t in triples.triples}
    assert facts == {
        (lobe, "isa", part), ("umls:C0024109", "isa", part), (lobe, "http://example.org/partOf", "umls:C0024109"),
    }  # fmt: skip
    assert KnowledgeGraph(tmp_path / "kg").query('ASK { ?s <http://example.org/name> "somebody" }')


def test_an_exported_graph_comes_back(tiny_kg_dir: Path, tmp_path: Path) -> None:
    whole = KnowledgeGraph(tiny_kg_dir)
    exported = write(tmp_path, "\n".join(whole.lines()) + "\n", "all.nq")
    log = IngestLog()
    ingest_rdf(tmp_path / "kg", read_rdf(exported, log), log)
    again = KnowledgeGraph(tmp_path / "kg")
    for name in ("concepts", "names", "relations", "triples", "retired"):
        assert_frame_equal(view(tiny_kg_dir, name), view(tmp_path / "kg", name))
    assert sorted(map(str, again.store)) == sorted(map(str, whole.store))
    (source,) = again.manifest["sources"].values()
    graphs = {graph["name"]: graph for entry in whole.manifest["sources"].values() for graph in entry["graphs"]}
    assert {graph["name"]: graph for graph in source["graphs"]} == graphs


@given(st.permutations(range(7)), st.integers(0, 9))
def test_blank_nodes_are_named_by_what_is_said_of_them(order: list[int], suffix: int) -> None:
    graph = "<http://e.x/g>"
    rows = [f'_:a{suffix} <http://e.x/p> _:b{suffix} {graph} .', f'_:b{suffix} <http://e.x/p> "x" {graph} .',
            f'_:c{suffix} <http://e.x/p> "y" {graph} .', f'<http://e.x/s> <http://e.x/q> _:a{suffix} {graph} .',
            f'<http://e.x/s> <http://e.x/q> _:c{suffix} {graph} .', f'<http://e.x/s> <http://e.x/r> "z" {graph} .',
            f'<http://e.x/s> <http://e.x/r> "z" {graph} .']  # fmt: skip
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        log = IngestLog()
        found = lines(read_rdf(write(Path(name), "\n".join(rows[i] for i in order), "g.nq"), log))
        expected = lines(read_rdf(write(Path(name), "\n".join(rows), "g.nq"), IngestLog()))
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found)) == 6
    assert not any("_:" in line for line in found)
    assert log.skipped == {"statements: same statement twice": 1}


def test_every_format_and_packing_says_the_same(tmp_path: Path) -> None:
    turtle = SKOS_FILE.split("ex:lung skos:note")[0]
    quads = [ox.Triple(q.subject, q.predicate, q.object) for q in ox.parse(turtle, format=ox.RdfFormat.TURTLE)]
    expected = sorted(lines(read_rdf(write(tmp_path, turtle, "a.ttl"), IngestLog(), "a")))
    for ending, kind in (
        (".nt", ox.RdfFormat.N_TRIPLES),
        (".rdf", ox.RdfFormat.RDF_XML),
        (".jsonld", ox.RdfFormat.JSON_LD),
    ):
        data = ox.serialize(quads, format=kind) or b""
        (tmp_path / f"a{ending}").write_bytes(data)
        (tmp_path / f"a{ending}.gz").write_bytes(gzip.compress(data))
        (tmp_path / f"a{ending}.zst").write_bytes(zstandard.compress(data))
        for packing in ("", ".gz", ".zst"):
            found = lines(read_rdf(tmp_path / f"a{ending}{packing}", IngestLog(), "a"))
            assert sorted(found) == expected, ending + packing


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.ttl", b"<a> <b>", r"x\.ttl, line 1: not readable as"),
        ("x.ttl", b"", "no statement in this file"),
        ("x.nt", b"\xff\xfe\x00", "not readable as|damaged file"),
        ("x.pdf", b"%PDF", r"unknown RDF ending '\.pdf'; choices: \.ttl"),
        ("x.nt.gz", b"not gzip", "damaged file"),
        (
            "x.nt.gz",
            gzip.compress(b"<http://a.b/c> <http://a.b/c> <http://a.b/c> .\n" * 50, mtime=0)[:-9],
            "damaged file",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_rdf(tmp_path / name, IngestLog())
    with pytest.raises(InputError, match="no such file; expected RDF"):
        read_rdf(tmp_path / "none.ttl", IngestLog())


@pytest.mark.parametrize("iri", ["http://purl.obolibrary.org/obo/HP_0002202", "http://x.org/a%20b#c", ns.STY + "T047"])
def test_ids_and_iris_name_each_other(iri: str) -> None:
    assert ns.expand(ns.compress(iri)) == iri
