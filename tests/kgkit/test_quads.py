"""RDF: valid N-Quads without blank nodes, a digest that is the content's own, text that comes back unchanged."""

from __future__ import annotations

import hashlib
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyoxigraph as ox
import pytest
import rdflib
from graphs import RADGRAPH
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kgkit import namespaces as ns
from kgkit.graph.derive import tables_from_quads
from kgkit.graph.mention_quads import literal
from kgkit.graph.quads import read_quads, source_lines, write_quads
from kgkit.graph.tables import load_tables, save_tables
from kgkit.sources.base import (
    ID_COLUMNS,
    TABLES,
    IngestLog,
    NamedGraph,
    SourceTables,
    decode_table,
    encode_tables,
    merge_tables,
)
from kgkit.sources.radgraph import read_radgraph
from kgkit.sources.umls import UmlsOptions, read_umls
from kgkit.types import Certainty, Mention, MentionKind, ReportMentions
from kgkit.views.preferred import preferred_names

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAME_COLUMNS = "graph concept name language rank is_abbreviation"
HOSTILE = '"\\"\n\r\t\x00\x07\x7f\x85\u2028\ufffe\\u0041 \' <> ✓ 😀 🫁'


@pytest.fixture(scope="module")
def sources(tiny_rrf_dir: Path) -> dict[str, SourceTables]:
    radgraph = read_radgraph(RADGRAPH, IngestLog())
    return {
        "umls": read_umls(tiny_rrf_dir, IngestLog(), options=UmlsOptions(languages=("ENG", "SPA"))),
        "radgraph": replace(radgraph, reports=tuple(radgraph.reports)),  # a reader's own are read once
    }


def table(rows: list[tuple[object, ...]], columns: str) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns.split(), orient="row")


def one_concept(name: str, definition: str) -> SourceTables:
    written = {
        "concepts": table([("TST@1", "umls:C0000001", False)], "graph concept is_placeholder"),
        "names": table([("TST@1", "umls:C0000001", name, "en", 0, False)], NAME_COLUMNS),
        "definitions": table([("TST@1", "umls:C0000001", definition, "en")], "graph concept definition language"),
    }
    return encode_tables("test", "1", (NamedGraph("TST@1", name),), written)


def lines_of(tables: SourceTables) -> list[str]:
    return [line for batch in source_lines(tables) for line in batch]


@pytest.mark.parametrize("source", ["umls", "radgraph"])
def test_every_line_is_one_distinct_quad_without_blank_nodes(sources: dict[str, SourceTables], source: str) -> None:
    lines = lines_of(sources[source])
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
        batches = [
            [pl.Series(order[:3], dtype=pl.String), pl.Series(order[3:], dtype=pl.String)]
            for order in (lines, shuffled)
        ]
        written = [write_quads(order, Path(folder) / "q") for order in batches]
        assert written == [(len(lines), f"{total:064x}")] * 2
        with read_quads(Path(folder) / "q") as stream:
            assert stream.read() == "".join(f"{line}\n" for line in shuffled).encode()


@given(TEXT, TEXT)
@example(HOSTILE, HOSTILE[::-1])
def test_any_text_comes_back_from_the_store(name: str, definition: str) -> None:
    data = "\n".join(lines_of(one_concept(name, definition))).encode()
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
    store.bulk_load("\n".join(lines_of(tables)).encode(), format=ox.RdfFormat.N_QUADS)
    expected = {"kgkit/reportText": text, "kgkit/mentionText": text, "terms/identifier": report_id}
    if text:
        expected["kgkit/section"] = text
    found = {q.predicate.value[-len(end) :]: q.object.value for q in store for end in expected
             if q.predicate.value.endswith(end)}  # fmt: skip
    assert found == expected


def test_a_mention_says_all_it_knows(sources: dict[str, SourceTables]) -> None:
    store = ox.Store()
    store.bulk_load("\n".join(lines_of(sources["radgraph"])).encode(), format=ox.RdfFormat.N_QUADS)
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
        loaded = load_tables(tmp_path / "tables", entry)
        assert (loaded.ids.to_list(), loaded.relations.to_list()) == (tables.ids.to_list(), tables.relations.to_list())
        for name in TABLES:
            assert getattr(loaded, name).equals(getattr(tables, name))
            written, read = decode_table(tables, name), decode_table(derived, name)
            if name == "names":  # the rank of a name that is not the best is not in the RDF
                written = written.with_columns(rank=pl.when("is_best").then("rank").otherwise(-1))
            assert read.columns == written.columns
            assert sorted(map(str, read.rows())) == sorted(map(str, written.rows())), name


def test_decoded_tables_encode_to_the_same(sources: dict[str, SourceTables]) -> None:
    tables = sources["umls"]
    again = encode_tables(
        tables.name, tables.release, tables.graphs, {name: decode_table(tables, name) for name in TABLES}
    )
    assert again.ids.equals(tables.ids)
    assert again.graphs == tables.graphs
    for name in TABLES:
        kept = [column for column in TABLES[name] if column != "is_best"]  # ties may fall another way
        assert_frame_equal(getattr(again, name).select(kept), getattr(tables, name).select(kept), check_row_order=False)


def test_merging_keeps_every_row_of_every_source() -> None:
    one = one_concept("first", "a")
    other = encode_tables("x", "1", (NamedGraph("ABC@1", "t"), NamedGraph("ZZZ@1", "t")), {
        "edges": table([("ZZZ@1", "HP:1", "isa", "umls:C0000001"), ("ABC@1", "HP:1", "part_of", "HP:2")],
                       "graph head relation tail")})  # fmt: skip
    whole = merge_tables("whole", "", [one, other])
    assert [graph.name for graph in whole.graphs] == ["ABC@1", "TST@1", "ZZZ@1"]
    for name in TABLES:
        rows = [row for source in (one, other) for row in decode_table(source, name).rows()]
        assert decode_table(whole, name).rows() == rows


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
        shuffled = table(
            random.Random(seed).sample(rows, len(rows)), "graph concept name language rank is_best is_abbreviation"
        )
        best = preferred_names(shuffled)
        assert best.select("language", "name").rows() == [("en", "tie, earlier graph"), ("es", "otra lengua")]


IDS = st.sampled_from(["umls:C0000001", "umls:C0000002", "HP:1", "DOID:2", "http://x.org/a%20b", "STY:T047"])
GRAPHS = st.sampled_from(["AAA@1", "BBB@2"])
WORDS = st.sampled_from(["a", 'b "quoted"', "c\\d", "é\n\u2028", "SY", "RB", "x y"])
TABLE_ROWS = {
    "concepts": st.tuples(GRAPHS, IDS, st.just(False)),
    "names": st.tuples(GRAPHS, IDS, WORDS, st.sampled_from(["en", "de"]), st.integers(0, 9), st.booleans()),
    "types": st.tuples(GRAPHS, IDS, st.sampled_from(["T047", "T033"])),
    "definitions": st.tuples(GRAPHS, IDS, WORDS, st.sampled_from(["en", "zh-Hant"])),
    "codes": st.tuples(GRAPHS, IDS, st.sampled_from(["HP:1", "bioportal:X/a b%", "SCTID:123"])),
    "edges": st.tuples(GRAPHS, IDS, st.sampled_from(["isa", "part of/x", "é%20"]), IDS),
    "matches": st.tuples(GRAPHS, IDS, st.sampled_from(["exact", "close", "broad", "narrow", "related"]), IDS),
    "retired": st.tuples(GRAPHS, IDS, WORDS, st.none() | IDS),
    "attributes": st.tuples(GRAPHS, IDS, st.sampled_from(["ICD9 CODE", "x"]), WORDS),
}


@settings(max_examples=30)
@given(st.fixed_dictionaries({table: st.lists(row, max_size=8) for table, row in TABLE_ROWS.items()}))
def test_any_tables_come_back_from_their_rdf(rows: dict[str, list[tuple[object, ...]]]) -> None:
    replaced = {row[:3] for row in rows["retired"] if row[3] is not None}  # no id is gone and replaced for one reason
    rows["retired"] = [row for row in rows["retired"] if row[3] is not None or row[:3] not in replaced]
    frames = {
        name: pl.DataFrame(
            listed,
            schema={
                column: pl.String if column in ("graph", "relation") or column in ID_COLUMNS else kind
                for column, kind in TABLES[name].items()
                if column != "is_best"
            },
            orient="row",
        )
        for name, listed in rows.items()
    }
    tables = encode_tables("test", "1", (NamedGraph("AAA@1", "a"), NamedGraph("BBB@2", "b")), frames)
    assert len(set(lines_of(tables))) == len(lines_of(tables))
    with tempfile.TemporaryDirectory() as folder:
        write_quads(source_lines(tables), Path(folder) / "quads")
        entry = {"name": "test", "release": "1", "graphs": [vars(graph) for graph in tables.graphs]}
        derived = tables_from_quads(Path(folder) / "quads", entry)
    for name in TABLES:
        written, read = decode_table(tables, name), decode_table(derived, name)
        if name == "names":
            written = written.with_columns(rank=pl.when("is_best").then("rank").otherwise(-1))
        assert sorted(map(str, read.rows())) == sorted(map(str, written.rows())), name
