"""A sound graph passes; whatever breaks a law is found, under that law and no other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyoxigraph as ox
import pyshacl
import pytest
import rdflib
import zstandard
from graphs import ROOT
from rdflib.namespace import OWL, RDF, RDFS
from tiny_union import frame, report_tables

from kgkit import namespaces as ns
from kgkit import types
from kgkit.graph import laws
from kgkit.graph.quads import read_quads
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.graph.validate import Validation, validate, validation_text
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables, encode_tables

RECORDED = "the quads files are as the manifest records them"
STORE = "the store holds the statements of the quads files"
SHAPES = "nodes have the shapes of ontologies/shapes.ttl"
ONE_NAME, A_NAME, NO_LOOP, NOT_RETIRED, LEVEL, WORDS = laws.SPARQL_LAWS
EXTRA = "X@1"


def broken(validation: Validation) -> set[str]:
    return {finding.law for finding in validation.findings if finding.breaches and not finding.is_note}


def first(validation: Validation, law: str) -> tuple[str, ...]:
    return next(finding.first for finding in validation.findings if finding.law == law)


def extra(
    columns: str = "", table: str = "", rows: list[tuple[object, ...]] | None = None, level: int = 0
) -> SourceTables:
    """A further source with one table."""
    written = {table: frame(f"graph {columns}", [(EXTRA, *row) for row in rows or []])} if table else {}
    return encode_tables("extra", "1", (NamedGraph(EXTRA, "Extra", level),), written)


@pytest.fixture
def kg(union_kg_dir: Path, tmp_path: Path) -> Path:
    """A copy of the union graph that a test may spoil."""
    return shutil.copytree(union_kg_dir, tmp_path / "kg")


def change_store(kg: Path, update: str) -> KnowledgeGraph:
    graph = KnowledgeGraph(kg)
    store = ox.Store(str(kg / f"store.{graph.digest[:16]}"))
    before = sorted(map(str, store))
    store.update(update, prefixes=dict(ns.PREFIXES))
    assert sorted(map(str, store)) != before
    store.flush()
    return graph


def change_quads(kg: Path, change: Callable[[str], str]) -> KnowledgeGraph:
    path = kg / "quads" / "hpo@2026.nq.zst"
    with read_quads(path) as stream:
        text = stream.read().decode()
    path.write_bytes(zstandard.compress(change(text).encode()))
    return KnowledgeGraph(kg)


@pytest.mark.parametrize("fixture", ["union_kg_dir", "tiny_kg_dir"])
def test_a_graph_as_the_readers_make_it_is_sound(fixture: str, request: pytest.FixtureRequest) -> None:
    found = validate(KnowledgeGraph(request.getfixturevalue(fixture)), deep=True)
    assert broken(found) == set()
    assert found.is_sound
    assert all(seen == count for seen, count in found.covered.values())
    assert {kind for kind, (_, count) in found.covered.items() if count} >= {"concepts", "mentions", "reports"}
    assert validation_text(found).endswith("the graph is sound")


def test_the_bundled_graph_is_sound_and_what_was_sampled_is_said(thorax_kg_dir: Path) -> None:
    found = validate(KnowledgeGraph(thorax_kg_dir), sample=30)
    assert broken(found) == set()
    assert found.covered["concepts"] == (30, 8077)
    assert "30 of 8,077 concepts" in validation_text(found)


@pytest.mark.parametrize("fixture", ["union_kg_dir", "tiny_kg_dir"])
@pytest.mark.parametrize("sample", [1, 2])
def test_reports_outside_the_sample_are_not_called_unsound(
    fixture: str, sample: int, request: pytest.FixtureRequest
) -> None:
    """Sampled mentions point to reports that were not sampled, whose types alone are known to the shapes."""
    found = validate(KnowledgeGraph(request.getfixturevalue(fixture)), sample=sample)
    assert broken(found) == set()


def mention(text: str, start: int, end: int) -> SourceTables:
    (report, *_) = report_tables().reports
    wrong = replace(report.mentions[0], text=text, start=start, end=end)
    graphs = (NamedGraph(EXTRA, "Extra"),)
    return SourceTables("extra", "1", graphs, reports=(replace(report, report_id="é x", mentions=(wrong,)),))


@pytest.mark.parametrize(
    ("source", "expected", "breach"),
    [
        (extra("head relation tail", "edges", [("HP:0002103", "isa", "HP:0002103")]), {NO_LOOP}, "HP:0002103 rela:isa"),
        (
            extra(
                "head relation tail",
                "edges",
                [("umls:C0032225", "adjacent_to", "umls:C0013687"), ("umls:C0013687", "adjacent_to", "umls:C0032225")],
            ),
            {laws.SYMMETRIC},
            "umls:C0013687 umls:C0032225 adjacent_to",
        ),
        (
            extra(
                "head relation tail",
                "edges",
                [
                    ("umls:C0032225", "finding_site_of", "umls:C0032227"),
                    ("umls:C0032227", "has_finding_site", "umls:C0032225"),
                ],
            ),
            {laws.INVERSE},
            "umls:C0032225 umls:C0032227 finding_site_of and has_finding_site",
        ),
        (
            extra("concept tui", "types", [("umls:C0032225", "T999")]),
            {"semantic types are those of the UMLS"},
            "STY:T999",
        ),
        (extra("retired reason target", "retired", [("HP:0002103", "obsolete", None)]), {NOT_RETIRED}, "HP:0002103"),
        (extra(level=12), {LEVEL, SHAPES}, "graph:X@1 12 1"),
        (mention("Small effusion", 0, 14), {WORDS}, "kgkit:report/extra/%C3%A9%20x#mention0 Small effusion 0"),
        (mention("", 0, 0), set(), ""),
    ],
    ids=["loop", "symmetric", "inverse", "type", "retired", "licence", "words", "no span"],
)
def test_a_source_that_breaks_a_law_is_found(kg: Path, source: SourceTables, expected: set[str], breach: str) -> None:
    ingest(kg, source, IngestLog())
    found = validate(KnowledgeGraph(kg))
    assert broken(found) == expected
    for law in expected - {SHAPES}:
        assert first(found, law) == (breach,)
    if SHAPES in expected:
        assert first(found, SHAPES) == (
            "graph:X@1 kgkit:licenceLevel: a named graph has one licence level, 0 to 9; found '12'",
        )


def test_ends_that_no_source_declares_are_noted(kg: Path) -> None:
    source = extra("head relation tail", "edges", [("HP:0002103", "isa", "HP:0000118"), ("HP:7", "isa", "HP:0002103")])
    ingest(kg, source, IngestLog())
    found = validate(KnowledgeGraph(kg))
    assert found.is_sound
    (note,) = [finding for finding in found.findings if finding.breaches]
    assert (note.is_note, note.breaches, set(note.first)) == (True, 2, {"HP:0000118", "HP:7"})
    assert "note  both ends of every relation are declared by some source: 2" in validation_text(found)


LABELS = f"<{ns.LABEL_GRAPH}>"
TST = f"<{ns.GRAPH}TST@1>"


@pytest.mark.parametrize(
    ("update", "expected", "breach"),
    [
        (f'INSERT DATA {{ GRAPH {LABELS} {{ umls:C0032227 skos:prefLabel "Another"@en }} }}', {ONE_NAME},
            "umls:C0032227 en 2"),
        (f"DELETE WHERE {{ GRAPH {LABELS} {{ umls:C0013687 skos:prefLabel ?name }} }}", {A_NAME}, "umls:C0013687 en"),
        (f"INSERT DATA {{ GRAPH {TST} {{ umls:C0013687 rela:new umls:C0032225 }} }}",
            {"every relation in use is declared", STORE}, "rela:new"),
        (f"DELETE WHERE {{ GRAPH {TST} {{ umls:C0032227 kgkit:sourceCode ?code }} }}", {STORE},
            "graph:TST@1: 37 in the store, 38 in the quads files"),
    ],
)  # fmt: skip
def test_a_store_that_breaks_a_law_is_found(kg: Path, update: str, expected: set[str], breach: str) -> None:
    found = validate(change_store(kg, update))
    assert broken(found) == expected
    assert breach in {said for law in expected for said in first(found, law)}


LINE = f'<{ns.expand("HP:0002103")}> <{ns.ALT_LABEL}> "x"@en <{ns.GRAPH}HP@2026> .\n'


@pytest.mark.parametrize(
    ("line", "law", "breach"),
    [
        (LINE, None, ""),
        (LINE.replace("@en", "@abcdefghi"), "language tags are well formed (BCP 47)", "abcdefghi"),
        (LINE.replace("@en", "@en-"), "language tags are well formed (BCP 47)", "en-"),
        ("_:b" + LINE[LINE.index(" ") :], "there are no blank nodes", "_:b"),
        (LINE.replace('"x"@en', "_:b"), "there are no blank nodes", "_:b"),
        (
            LINE.replace(f"<{ns.GRAPH}HP@2026> ", ""),
            "every line of the quads files is a statement in a named graph",
            "x",
        ),
        ("\n", "every line of the quads files is a statement in a named graph", ""),
    ],
)
def test_quads_that_break_a_law_are_found(kg: Path, line: str, law: str | None, breach: str) -> None:
    found = validate(change_quads(kg, lambda text: text + line))
    assert broken(found) - {STORE} == {RECORDED} | ({law} if law else set())
    assert re.match(
        r"hpo@2026\.nq\.zst: 20 statements with digest .*, the manifest says 19 with", first(found, RECORDED)[0]
    )
    if law:
        assert breach in first(found, law)[0]
        assert len(first(found, law)) == 1


def test_a_statement_that_was_changed_or_repeated_is_found(kg: Path) -> None:
    found = validate(change_quads(kg, lambda text: text.replace("Pleural fluid", "Pleural fluff")))
    assert broken(found) == {RECORDED}
    found = validate(change_quads(kg, lambda text: text.replace("Pleural fluff", "Pleural fluid")))
    assert broken(found) == set()
    found = validate(change_quads(kg, lambda text: text + text.splitlines(keepends=True)[-1]))
    assert broken(found) == {RECORDED}


def test_a_quads_file_that_cannot_be_read_is_found(kg: Path) -> None:
    path = kg / "quads" / "hpo@2026.nq.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"nonsense" * 9)
    (kg / "quads" / "notes@1.nq.zst").unlink()
    found = validate(KnowledgeGraph(kg), deep=True)
    assert {RECORDED, STORE} <= broken(found)
    assert [breach.partition(": not readable")[0] for breach in first(found, RECORDED)] == [
        "hpo@2026.nq.zst", "notes@1.nq.zst",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("view", "change", "law", "breach"),
    [
        (
            "concepts",
            lambda rows: rows.with_columns(members=pl.concat_list("members", pl.lit("umls:C1"))).head(8),
            "no merged class holds two CUIs",
            "umls:C",
        ),
        (
            "triples",
            lambda rows: rows.reverse(),
            "the views are sorted, distinct and in range",
            "triples.parquet: not sorted and distinct",
        ),
        (
            "triples",
            lambda rows: pl.concat([rows, rows.tail(1)]),
            "the views are sorted, distinct and in range",
            "triples.parquet: not sorted and distinct",
        ),
        (
            "triples",
            lambda rows: rows.with_columns(tail=pl.col("tail") + 4),
            "the views are sorted, distinct and in range",
            "triples.parquet: 3 rows with tail outside 0 to 7",
        ),
        (
            "concepts",
            lambda rows: rows.reverse(),
            "the views are sorted, distinct and in range",
            "concepts.parquet: not sorted and distinct",
        ),
    ],
)
def test_views_that_break_a_law_are_found(
    kg: Path, view: str, change: Callable[[pl.DataFrame], pl.DataFrame], law: str, breach: str
) -> None:
    path = KnowledgeGraph(kg).views / f"{view}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    found = validate(KnowledgeGraph(kg))
    assert broken(found) == {law}
    assert breach in first(found, law)[0]


def test_views_that_are_not_those_of_the_rdf_are_found_if_asked_for(kg: Path) -> None:
    path = KnowledgeGraph(kg).views / "names.parquet"
    pl.read_parquet(path).with_columns(name=pl.col("name").str.replace("Pleura$", "Lung")).write_parquet(path)
    assert validate(KnowledgeGraph(kg)).is_sound
    found = validate(KnowledgeGraph(kg), deep=True)
    law = "the views are what the RDF alone gives"
    assert broken(found) == {law}
    assert first(found, law) == ("names.parquet: 14 rows, other values in name",)


UMLS, HP = f"<{ns.GRAPH}UMLS@2026AA>", f"<{ns.GRAPH}HP@2026>"
NOTES = f"<{ns.GRAPH}notes@1>"
MENTION = f"<{ns.BASE}report/notes/a#mention0>"
OTHER = f"<{ns.BASE}report/notes/b#mention0>"


def swapped(graph: str, node: str, predicate: str, value: str) -> str:
    """An update that gives a node one other value."""
    old, new = (f"{{ GRAPH {graph} {{ {node} {predicate} {term} }} }}" for term in ("?old", value))
    return f"DELETE {old} INSERT {new} WHERE {old}"


@pytest.mark.parametrize(
    ("update", "breach"),
    [
        (
            swapped(NOTES, MENTION, "kgkit:certainty", "kgkit:perhaps"),
            "a mention is present, uncertain or absent; found 'kgkit:perhaps'",
        ),
        (
            swapped(NOTES, MENTION, "kgkit:temporality", '"recent"'),
            "a mention is recent, historical or hypothetical; found 'recent'",
        ),
        (swapped(NOTES, MENTION, "kgkit:denotes", '"effusion"'), "a mention denotes one concept; found 'effusion'"),
        (
            swapped(NOTES, OTHER, "kgkit:located_at", "umls:C0032225"),
            "a mention is located at a mention; found 'umls:C0032225'",
        ),
        (
            swapped(NOTES, MENTION, "kgkit:spanStart", "30"),
            "a span starts at 0 or later and does not end before it starts",
        ),
        (
            swapped(TST, "umls:C0032225", "kgkit:sourceLabel", '"Pleura"'),
            "a vocabulary's best name is a text with a language; found 'Pleura'",
        ),
        (
            swapped(UMLS, "umls:C0032225", "kgkit:semanticType", "STY:anatomy"),
            "a semantic type is a TUI (STY:T047); found 'STY:anatomy'",
        ),
        (swapped(HP, "HP:0002202", "skos:exactMatch", '"C0032227"'), "a match is an IRI; found 'C0032227'"),
        (swapped(TST, TST, "dcterms:title", "5"), "a named graph has a title; found '5'"),
        (
            swapped(UMLS, "umls:C0000001", "kgkit:replacedBy", '"C0000002"'),
            "what stands for a retired id is an IRI; found 'C0000002'",
        ),
        (
            f"DELETE WHERE {{ GRAPH {UMLS} {{ umls:C0000001 kgkit:retiredReason ?reason }} }}",
            "a retired id has a reason",
        ),
        (f"DELETE WHERE {{ GRAPH <{ns.RELATION_GRAPH}> {{ rela:isa rdfs:label ?label }} }}", "a relation has a label"),
        (
            f"DELETE WHERE {{ GRAPH {NOTES} {{ <{ns.BASE}report/notes/a> dcterms:identifier ?id }} }}",
            "a report has one id",
        ),
    ],
    ids=lambda value: "" if "{" in value else value.partition(";")[0].replace(" ", "-"),
)
def test_a_node_of_another_shape_is_found(kg: Path, update: str, breach: str) -> None:
    found = validate(change_store(kg, update))
    assert SHAPES in broken(found)
    assert len(first(found, SHAPES)) == 1
    assert first(found, SHAPES)[0].endswith(f": {breach}") or f": {breach}; found" in first(found, SHAPES)[0]


def test_the_shapes_are_shacl() -> None:
    shapes = rdflib.Graph().parse(ROOT / "ontologies" / "shapes.ttl")
    conforms, _, text = pyshacl.validate(rdflib.Graph(), shacl_graph=shapes, meta_shacl=True)
    assert conforms, text


def test_every_term_of_ours_is_explained(union_kg_dir: Path) -> None:
    """Classes, properties and values: those of the code, and those that a graph holds."""
    vocabulary = rdflib.Graph().parse(ROOT / "ontologies" / "kgkit.ttl")
    used = {value for name, value in vars(ns).items() if name.isupper() and str(value).startswith(ns.BASE)}
    used |= {ns.BASE + str(value) for kind in (types.MentionKind, types.Certainty, types.Temporality, types.Experiencer,
             types.Change, types.MentionRelation) for value in kind}  # fmt: skip
    for quad in KnowledgeGraph(union_kg_dir).store:
        used |= {term.value for term in (quad.predicate, quad.object) if isinstance(term, ox.NamedNode)}
    families = tuple(ns.BASE + name for name in ("rela/", "graph/", "finding/", "report/", "source/", "vocabulary/"))
    ours = {iri for iri in used if iri.startswith(ns.BASE) and not iri.startswith(families)}
    ours = {re.sub("(attribute|sourceLabelRank)/.*", r"\1", iri) for iri in ours} - {ns.BASE}
    source = (ROOT / "kgkit" / "graph" / "mention_quads.py").read_text(encoding="utf-8")
    ours |= {ns.BASE + name for name in re.findall(r'ns\.BASE \+ "(\w+)"', source)}
    assert len(ours) >= 50
    for iri in ours:
        term = rdflib.URIRef(iri)
        assert vocabulary.value(term, RDFS.label), iri
        assert vocabulary.value(term, RDFS.comment), iri
    properties = {
        *vocabulary.subjects(RDF.type, OWL.ObjectProperty),
        *vocabulary.subjects(RDF.type, OWL.DatatypeProperty),
    }
    of_any_node = {ns.REPLACED_BY, ns.RETIRED_REASON}
    assert {str(term) for term in properties if (term, RDFS.domain, None) not in vocabulary} == of_any_node


@pytest.mark.parametrize(
    ("tag", "well_formed"),
    [("en", True), ("pt-BR", True), ("zh-Hans", True), ("sr-Latn-RS", True), ("de-1996", True), ("x-mine", True),
     ("es-419", True), ("en-x-a", True), ("nds", True), ("en_US", False), ("", False), ("e", False), ("en-", False),
     ("english-languages", False), ("abcdefghi", False), ("de-419-DE", False), ("a-DE", False)],
)  # fmt: skip
def test_language_tags_of_rfc_5646(kg: Path, tag: str, well_formed: bool) -> None:
    scan = laws.scan_quads(change_quads(kg, lambda text: text + LINE.replace("@en", f"@{tag}")))
    assert scan.tags == (set() if well_formed else {tag})


def test_the_command_ends_with_1_where_a_law_is_broken(kg: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("kgkit", "validate", kg)
    assert code == 0
    assert out.splitlines()[0] == f"ok    {RECORDED}"
    change_store(kg, f'INSERT DATA {{ GRAPH {LABELS} {{ umls:C0032227 skos:prefLabel "Another"@en }} }}')
    code, out, _ = command("kgkit", "validate", kg)
    assert code == 1
    assert f"FAIL  {ONE_NAME}: 1\n        umls:C0032227 en 2\n" in out
    assert out.endswith("1 law is broken\n")
    code, out, _ = command("kgkit", "validate", kg, "--json")
    assert (code, json.loads(out)["is_sound"]) == (1, False)
