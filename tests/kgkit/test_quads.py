"""RDF: valid N-Quads without blank nodes, a digest that is the content's own, text that comes back unchanged."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

import polars as pl
import pyoxigraph as ox
import pytest
import rdflib
from graphs import RADGRAPH
from hypothesis import example, given
from hypothesis import strategies as st

from kgkit import namespaces as ns
from kgkit.graph.derive import tables_from_quads
from kgkit.graph.mention_quads import literal
from kgkit.graph.quads import read_quads, source_lines, write_quads
from kgkit.graph.tables import FRAMES, load_tables, save_tables
from kgkit.sources.base import CONCEPTS, DEFINITIONS, NAMES, IngestLog, NamedGraph, SourceTables
from kgkit.sources.radgraph import read_radgraph
from kgkit.sources.umls import read_umls
from kgkit.types import Certainty, Mention, MentionKind, ReportMentions
from kgkit.views.preferred import preferred_names

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
HOSTILE = '"\\"\n\r\t\x00\x07\x7f\x85\u2028\ufffe\\u0041 \' <> ✓ 😀 🫁'


@pytest.fixture(scope="module")
def sources(tiny_rrf_dir: Path) -> dict[str, SourceTables]:
    return {
        "umls": read_umls(tiny_rrf_dir, IngestLog(), languages=("ENG", "SPA")),
        "radgraph": read_radgraph(RADGRAPH, IngestLog()),
    }


def table(rows: list[tuple[object, ...]], schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def one_concept(name: str, definition: str) -> SourceTables:
    return SourceTables(
        "test",
        "1",
        (NamedGraph("TST@1", name),),
        concepts=table([("TST@1", "umls:C0000001", False)], CONCEPTS),
        names=table([("TST@1", "umls:C0000001", name, "en", 0, True, False)], NAMES),
        definitions=table([("TST@1", "umls:C0000001", definition, "en")], DEFINITIONS),
    )


@pytest.mark.parametrize("source", ["umls", "radgraph"])
def test_every_line_is_one_distinct_quad_without_blank_nodes(sources: dict[str, SourceTables], source: str) -> None:
    lines = list(source_lines(sources[source]))
    quads = set()
    for line in lines:
        (quad,) = ox.parse(line.encode(), format=ox.RdfFormat.N_QUADS)
        assert not any(isinstance(term, ox.BlankNode) for term in quad)
        assert isinstance(quad.graph_name, ox.NamedNode)
        quads.add(quad)
    assert len(quads) == len(set(lines)) == len(lines) > 100


@pytest.mark.parametrize("source", ["umls", "radgraph"])
def test_rdflib_reads_the_same_number_of_statements(
    sources: dict[str, SourceTables], source: str, tmp_path: Path
) -> None:
    count, _ = write_quads(source_lines(sources[source]), tmp_path / "quads.nq.zst")
    dataset = rdflib.Dataset()
    with read_quads(tmp_path / "quads.nq.zst") as stream:
        dataset.parse(data=stream.read().decode(), format="nquads")
    assert len(list(dataset.quads())) == count


@given(st.lists(TEXT, unique=True), st.integers(0, 2**32))
def test_the_digest_is_the_sum_of_the_lines_in_any_order(texts: list[str], seed: int) -> None:
    lines = [f"<s:s> <p:p> {literal(text)} <g:g> ." for text in texts]
    shuffled = random.Random(seed).sample(lines, len(lines))
    total = sum(int(hashlib.sha256(line.encode()).hexdigest(), 16) for line in lines) % 2**256
    with tempfile.TemporaryDirectory() as folder:
        written = [write_quads(order, Path(folder) / "q") for order in (lines, shuffled)]
        assert written == [(len(lines), f"{total:064x}")] * 2
        with read_quads(Path(folder) / "q") as stream:
            assert stream.read() == "".join(f"{line}\n" for line in shuffled).encode()


@given(TEXT, TEXT)
@example(HOSTILE, HOSTILE[::-1])
def test_any_text_comes_back_from_the_store(name: str, definition: str) -> None:
    data = "\n".join(source_lines(one_concept(name, definition))).encode()
    store = ox.Store()
    store.bulk_load(data, format=ox.RdfFormat.N_QUADS)
    for predicate, text in ((ns.SOURCE_LABEL, name), (ns.DEFINITION, definition), (ns.DCTERMS + "title", name)):
        (quad,) = store.quads_for_pattern(None, ox.NamedNode(predicate), None)
        assert isinstance(quad.object, ox.Literal)
        assert quad.object.value == text


@given(TEXT, TEXT)
@example(HOSTILE, "a/b c#1?%20")
def test_any_report_comes_back_from_the_store(text: str, report_id: str) -> None:
    mention = Mention(text, 0, len(text), MentionKind.OBSERVATION, Certainty.ABSENT, section=text)
    report = ReportMentions(report_id, text, (mention,))
    tables = SourceTables("corpus", "1", (NamedGraph("corpus@1", "t"),), reports=(report,))
    store = ox.Store()
    store.bulk_load("\n".join(source_lines(tables)).encode(), format=ox.RdfFormat.N_QUADS)
    expected = {"kgkit/reportText": text, "kgkit/mentionText": text, "terms/identifier": report_id}
    if text:
        expected["kgkit/section"] = text
    found = {q.predicate.value[-len(end) :]: q.object.value for q in store for end in expected
             if q.predicate.value.endswith(end)}  # fmt: skip
    assert found == expected


def test_a_mention_says_all_it_knows(sources: dict[str, SourceTables]) -> None:
    store = ox.Store()
    store.bulk_load("\n".join(source_lines(sources["radgraph"])).encode(), format=ox.RdfFormat.N_QUADS)
    rows = store.query(
        """SELECT ?text ?start ?end ?kind ?certainty ?target { GRAPH ?g {
            ?m kgkit:mentionedIn/dcterms:identifier "openi_example" ; kgkit:mentionText ?text ;
               kgkit:spanStart ?start ; kgkit:spanEnd ?end ; kgkit:mentionKind ?kind ; kgkit:certainty ?certainty .
            OPTIONAL { ?m kgkit:located_at|kgkit:modify|kgkit:suggestive_of [ kgkit:mentionText ?target ] } } }""",
        prefixes=dict(ns.PREFIXES),
    )
    found = {tuple(ns.compress(value.value) if value else "" for value in row) for row in rows}
    (report,) = [r for r in sources["radgraph"].reports if r.report_id == "openi_example"]
    assert found == {
        (m.text, str(m.start), str(m.end), f"kgkit:{m.kind}", f"kgkit:{m.certainty}", target)
        for m in report.mentions
        for target in ([report.mentions[index].text for _, index in m.relations] or [""])
    }


def test_the_columns_of_a_source_come_back_from_its_rdf_and_from_disk(
    sources: dict[str, SourceTables], tmp_path: Path
) -> None:
    for tables in sources.values():
        write_quads(source_lines(tables), tmp_path / "quads.nq.zst")
        entry = {"name": tables.name, "release": tables.release, "graphs": [vars(graph) for graph in tables.graphs]}
        derived = tables_from_quads(tmp_path / "quads.nq.zst", entry)
        save_tables(tables, tmp_path / "tables")
        assert load_tables(tmp_path / "tables", entry).reports == tables.reports
        for name in FRAMES:
            written, read, saved = (
                getattr(t, name) for t in (tables, derived, load_tables(tmp_path / "tables", entry))
            )
            assert saved.equals(written)
            if name == "names":  # the rank of a name that is not the best is not in the RDF
                written = written.with_columns(rank=pl.when("is_best").then("rank").otherwise(0))
            assert read.schema == written.schema
            assert sorted(read.rows()) == sorted(written.rows()), name


def test_the_preferred_name_does_not_depend_on_the_order_of_rows() -> None:
    rows = [
        ("A@1", "umls:C1", "short but high", "en", 9, True, True),
        ("A@1", "umls:C1", "lower", "en", 1, True, False),
        ("C@1", "umls:C1", "tie, later graph", "en", 5, True, False),
        ("B@1", "umls:C1", "tie, earlier graph", "en", 5, True, False),
        ("B@1", "umls:C1", "never best", "en", 99, False, False),
        ("B@1", "umls:C1", "otra lengua", "es", 0, True, False),
    ]
    for seed in range(10):
        best = preferred_names(table(random.Random(seed).sample(rows, len(rows)), NAMES))
        assert best.select("language", "name").rows() == [("en", "tie, earlier graph"), ("es", "otra lengua")]
