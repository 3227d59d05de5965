"""OWL in RDF syntaxes: the same ontology gives the same tables; other syntaxes are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyoxigraph as ox
import pytest
import tiny_ontology
from hypothesis import given
from hypothesis import strategies as st
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.owl import read_owl

PREFIXES = """@prefix : <http://purl.obolibrary.org/obo/TST_> . @prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix oio: <http://www.geneontology.org/formats/oboInOwl#> .
"""


def read(folder: Path, turtle: str, log: IngestLog | None = None) -> SourceTables:
    path = folder / "tst.ttl"
    path.write_text(PREFIXES + turtle, encoding="utf-8")
    return read_owl(path, log or IngestLog())


@pytest.mark.parametrize(
    ("form", "end"),
    [
        (ox.RdfFormat.N_TRIPLES, "nt"),
        (ox.RdfFormat.N_QUADS, "nq"),
        (ox.RdfFormat.TRIG, "trig"),
        (ox.RdfFormat.JSON_LD, "jsonld"),
        (ox.RdfFormat.RDF_XML, "owl"),
    ],
)
def test_every_syntax_and_order_gives_the_same_tables(tmp_path: Path, form: ox.RdfFormat, end: str) -> None:
    (tmp_path / "tst.ttl").write_text(tiny_ontology.TURTLE)
    triples = [quad.triple for quad in ox.parse(tiny_ontology.TURTLE, ox.RdfFormat.TURTLE)]
    path = tmp_path / f"tst.{end}.gz"
    path.write_bytes(gzip.compress(ox.serialize(reversed(triples), format=form) or b""))
    assert content(read_owl(path, IngestLog())) == content(read_owl(tmp_path / "tst.ttl", IngestLog()))


def test_language_tags_are_kept_and_the_english_label_is_the_name(tmp_path: Path) -> None:
    turtle = """:1 a owl:Class ; rdfs:label "Lunge"@de , "lung"@en-GB ; skos:prefLabel "poumon"@fr , "organ of breath" ;
      skos:altLabel "Pulmo"@la ; skos:definition "Ein Organ."@de ."""
    tables = read(tmp_path, turtle)
    assert {row[1:5] for row in rows(tables, "names")} == {
        ("organ of breath", "en", 7, True),
        ("lung", "en-gb", 7, True),
        ("Lunge", "de", 7, True),
        ("poumon", "fr", 7, True),
        ("Pulmo", "la", 5, True),
    }
    assert rows(tables, "definitions") == {("TST:1", "Ein Organ.", "de")}


def test_axioms_that_are_no_edges_are_counted(tmp_path: Path) -> None:
    turtle = """:1 a owl:Class ; rdfs:label "one" ; owl:equivalentClass :2 ; owl:disjointWith :3 ;
      rdfs:subClassOf [ owl:onProperty :p ; owl:allValuesFrom :2 ] , [ owl:unionOf ( :2 :3 ) ] ,
        [ owl:onProperty [ owl:inverseOf :p ] ; owl:someValuesFrom :2 ] ,
        [ owl:onProperty :p ; owl:someValuesFrom [ owl:unionOf ( :2 :3 ) ] ] .
      [ owl:intersectionOf ( :2 :3 ) ] rdfs:subClassOf :1 .
      :2 a owl:Class ; rdfs:label "two" . :3 a owl:Class ; rdfs:label "three" .
      <http://x.org/o> a owl:Ontology ; owl:imports <http://x.org/p> ."""
    log = IngestLog()
    assert rows(read(tmp_path, turtle, log), "edges") == set()
    assert log.skipped == {
        "axioms: equivalent class (not an edge)": 1,
        "axioms: disjointness (not an edge)": 1,
        "axioms: superclass is a class expression (not an edge)": 4,
        "axioms: subclass axiom of a class expression (not an edge)": 1,
        "axioms: owl:imports is not followed": 1,
    }


def test_ontologies_outside_obo_keep_their_iris(tmp_path: Path) -> None:
    turtle = """@prefix x: <http://example.org/onto#> . x:Lung a owl:Class ;
      rdfs:label "lung" ; rdfs:subClassOf x:Organ .
      x:Organ a owl:Class ; rdfs:label "organ" . <http://example.org/onto> a owl:Ontology ; owl:versionInfo "1.4" ."""
    tables = read(tmp_path, turtle)
    assert (tables.name, tables.release) == ("TST", "1.4")
    assert rows(tables, "edges") == {("http://example.org/onto#Lung", "isa", "http://example.org/onto#Organ")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("Prefix(:=<http://x.org/>)\nOntology(<http://x.org/o>)", "this is OWL functional syntax; .*robot convert"),
        ("# note\n\nPrefix: : <http://x.org/>\nOntology: <http://x.org/o>", "this is Manchester syntax; .*robot"),
        ('<?xml version="1.0"?>\n<Ontology xmlns="http://www.w3.org/2002/07/owl#">', "this is OWL/XML; .*robot"),
        ("format-version: 1.2\n", "this is OBO format; use `kgkit ingest obo`"),
        ('{"graphs": []}', "this is OBO graph JSON; use `kgkit ingest obograph`"),
        ('<?xml version="1.0"?><html></html>', "not readable as RDF/XML|no term with an id"),
        ('<?xml version="1.0"?><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Des', "RDF/XML"),
        ("@prefix : <http://x.org/> .\n:a :b", "not readable as Turtle .*line 2"),
        ("\x00\x01\x02", "not readable as Turtle"),
        ("@prefix : <http://x.org/> . :a :b :c .", "no term with an id and a name"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.owl"
    path.write_text(text)
    with pytest.raises(InputError, match=f"x.owl.*({message})"):
        read_owl(path, IngestLog())


def test_a_damaged_gzip_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ttl.gz"
    path.write_bytes(gzip.compress(tiny_ontology.TURTLE.encode() * 200)[:-30])
    with pytest.raises(InputError, match="damaged gzip stream"):
        read_owl(path, IngestLog())


@given(position=st.integers(0, len(tiny_ontology.RDF_XML)), put=st.binary(max_size=4), cut=st.integers(0, 30))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, position: int, put: bytes,
                                           cut: int) -> None:  # fmt: skip
    for text in (tiny_ontology.RDF_XML, tiny_ontology.TURTLE):
        data = text.encode()
        path = tmp_path_factory.mktemp("owl") / "x.owl"
        path.write_bytes(data[:position] + put + data[position + cut :])
        try:
            tables = read_owl(path, IngestLog())
        except InputError:
            continue
        assert len(tables.concepts)
