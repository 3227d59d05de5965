"""Exports: what is in the graph is in the file, and nothing of a vocabulary above the licence level is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import polars as pl
import pyoxigraph as ox
import pytest
import zstandard
from graphs import ingest_umls
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pykeen.triples import TriplesFactory
from rrf import Rrf

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.files import output_file
from kgkit.graph.export import FORMATS, ExportOptions, export
from kgkit.graph.exportable import WriterOptions
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.sources.base import IngestLog
from kgkit.sources.umls import UmlsOptions, read_umls
from kgkit.views.to_pyg import from_pyg, load_pyg, to_pyg
from kgkit.views.triples import TripleView, open_triples

Fact = tuple[str, str, str]
RDF_FORMATS = {
    "nquads": ox.RdfFormat.N_QUADS,
    "ntriples": ox.RdfFormat.N_TRIPLES,
    "turtle": ox.RdfFormat.TURTLE,
    "trig": ox.RdfFormat.TRIG,
}


def exported(kg: Path, out: Path, format_name: str, level: int | None = None, **changes: object) -> Path:
    export(kg, ExportOptions(format_name, out, level, replace(WriterOptions(), **changes)))  # type: ignore[arg-type]
    return out


def facts_of(view: TripleView) -> set[Fact]:
    return {(view.concepts[head], view.relations[relation], view.concepts[tail])
            for head, relation, tail in view.triples.tolist()}  # fmt: skip


def read_csv(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter=delimiter))


def statements_in(path: Path, format_name: str) -> set[ox.Quad]:
    return set(ox.parse(path.read_bytes(), format=RDF_FORMATS[format_name]))


def read_facts(format_name: str, path: Path) -> set[Fact]:
    """The facts in an export, read as its users read it."""
    if format_name == "tsv":
        return {(row[0], row[1], row[2]) for row in read_csv(path, "\t")[1:]}
    if format_name == "pykeen":
        return {(row[0], row[1], row[2]) for part in ("train", "valid", "test")
                for row in read_csv(path / f"{part}.tsv", "\t")}  # fmt: skip
    if format_name == "neo4j":
        return {(row[0], row[1], row[2]) for row in read_csv(path / "relationships.csv")[1:]}
    if format_name == "graphml":
        return {(head, relation, tail) for head, tail, relation in nx.read_graphml(path).edges(data="relation")}
    if format_name == "pyg":
        return facts_of(from_pyg(*load_pyg(path)))
    found = [(item.subject, item.predicate.value, item.object) for item in statements_in(path, format_name)]
    return {(ns.compress(subject.value), relation.removeprefix(ns.RELATION), ns.compress(target.value))
            for subject, relation, target in found if relation.startswith(ns.RELATION)}  # fmt: skip


def text_of(path: Path) -> str:
    """Everything legible in a file or folder."""
    if path.is_dir():
        return "\n".join(text_of(inner) for inner in sorted(path.iterdir()))
    if path.suffix == ".parquet":
        return pl.read_parquet(path).write_ndjson()
    return path.read_bytes().decode("utf-8", errors="replace")


@pytest.mark.parametrize("format_name", sorted(FORMATS))
def test_every_format_holds_the_facts_of_the_graph(tiny_kg_dir: Path, tmp_path: Path, format_name: str) -> None:
    out = exported(tiny_kg_dir, tmp_path / "out", format_name)
    facts = facts_of(open_triples(KnowledgeGraph(tiny_kg_dir).views))
    assert facts
    found = read_facts(format_name, out)
    if format_name in RDF_FORMATS:  # the graph also holds what the views leave out: negative facts, those of reports
        assert facts <= found
    else:
        assert found == facts
    again = exported(tiny_kg_dir, tmp_path / "again", format_name)
    if format_name != "pyg" and out.is_file():
        assert out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("format_name", sorted(RDF_FORMATS))
def test_rdf_formats_hold_every_statement(tiny_kg_dir: Path, tmp_path: Path, format_name: str) -> None:
    out = exported(tiny_kg_dir, tmp_path / "out", format_name)
    statements = statements_in(out, format_name)
    store = set(KnowledgeGraph(tiny_kg_dir).store)
    assert {item.predicate.value for item in store} >= {ns.PREF_LABEL, ns.ALT_LABEL, ns.LICENCE_LEVEL}
    if format_name in ("nquads", "trig"):
        assert statements == store
    else:
        assert {item.triple for item in statements} == {item.triple for item in store}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("format_name", sorted({*RDF_FORMATS, "tsv", "graphml"}))
def test_a_suffix_compresses(tiny_kg_dir: Path, tmp_path: Path, format_name: str, suffix: str) -> None:
    plain = exported(tiny_kg_dir, tmp_path / "out", format_name).read_bytes()
    packed = exported(tiny_kg_dir, tmp_path / f"out{suffix}", format_name).read_bytes()
    assert len(packed) < len(plain)
    if suffix == ".gz":
        assert gzip.decompress(packed) == plain
    else:
        assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read() == plain


def test_tsv_gives_names_when_asked(tiny_kg_dir: Path, tmp_path: Path) -> None:
    concepts = pl.read_parquet(KnowledgeGraph(tiny_kg_dir).views / "concepts.parquet")
    name_of = {concept: name or "" for concept, name in concepts.select("concept", "name").iter_rows()}
    plain = read_csv(exported(tiny_kg_dir, tmp_path / "plain", "tsv"), "\t")
    named = read_csv(exported(tiny_kg_dir, tmp_path / "named", "tsv", with_names=True), "\t")
    assert plain[0] == ["head", "relation", "tail"]
    assert named[0] == ["head", "head_name", "relation", "tail", "tail_name"]
    assert named[1:] == [[head, name_of[head], relation, tail, name_of[tail]] for head, relation, tail in plain[1:]]


def test_pykeen_reads_its_folder_with_our_ids(thorax_kg_dir: Path, tmp_path: Path) -> None:
    out = exported(thorax_kg_dir, tmp_path / "out", "pykeen", seed=3)
    view = open_triples(KnowledgeGraph(thorax_kg_dir).views)
    ids = {name: {label: int(row) for label, row in read_csv(out / f"{name}.tsv", "\t")[1:]}
           for name in ("entity_to_id", "relation_to_id")}  # fmt: skip
    assert list(ids["entity_to_id"]) == list(view.concepts)
    parts = {part: TriplesFactory.from_path(out / f"{part}.tsv", **ids) for part in ("train", "valid", "test")}
    assert parts["train"].entity_to_id == {concept: row for row, concept in enumerate(view.concepts)}
    assert parts["test"].relation_to_id == {relation: row for row, relation in enumerate(view.relations)}
    rows = [tuple(row) for part in parts.values() for row in part.mapped_triples.tolist()]
    assert sorted(rows) == [tuple(row) for row in view.triples.tolist()]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == {"concepts": view.num_concepts} | {
        name: part.num_triples for name, part in parts.items()
    }
    other = exported(thorax_kg_dir, tmp_path / "other", "pykeen", seed=4)
    same = exported(thorax_kg_dir, tmp_path / "same", "pykeen", seed=3)
    assert (out / "test.tsv").read_bytes() == (same / "test.tsv").read_bytes() != (other / "test.tsv").read_bytes()


def test_pyg_comes_back_without_pickle(tiny_kg_dir: Path, tmp_path: Path) -> None:
    out = exported(tiny_kg_dir, tmp_path / "out", "pyg")
    views = KnowledgeGraph(tiny_kg_dir).views
    view = open_triples(views)
    expected = to_pyg(view, pl.read_parquet(views / "concepts.parquet"))
    data, concepts, relations = load_pyg(out)
    assert (concepts, relations) == (view.concepts, view.relations)
    assert data.metadata() == expected.metadata()
    for kind in data.node_types:
        assert data[kind].concept_id.tolist() == expected[kind].concept_id.tolist()
    for edge in data.edge_types:
        assert data[edge].edge_index.tolist() == expected[edge].edge_index.tolist()
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".json", ".parquet", ".safetensors"]
    (out / "graph.safetensors").unlink()
    with pytest.raises(InputError, match="not an export of format pyg"):
        load_pyg(out)


AWKWARD = st.text(st.sampled_from("a;,\"'\\|\t é🫁"), min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@settings(max_examples=10)
@given(st.lists(st.lists(AWKWARD.filter(lambda text: "|" not in text), min_size=1, max_size=3, unique=True), min_size=1,
                max_size=3), AWKWARD.filter(lambda text: "|" not in text))  # fmt: skip
def test_neo4j_files_are_read_back_by_csv(names: list[list[str]], definition: str) -> None:
    rrf = Rrf()
    for number, own in enumerate(names):
        for name in own:
            rrf.atom(f"C000000{number}", name)
    rrf.definition("C0000000", definition).semantic_type("C0000000", "T047").semantic_type("C0000000", "T023")
    with tempfile.TemporaryDirectory() as scratch:
        ingest_umls(rrf.write(Path(scratch) / "META"), Path(scratch) / "kg")
        views = KnowledgeGraph(Path(scratch) / "kg").views
        rows = read_csv(exported(Path(scratch) / "kg", Path(scratch) / "out", "neo4j") / "nodes.csv")
        preferred = dict(pl.read_parquet(views / "concepts.parquet").select("concept", "name").iter_rows())
    assert rows[0] == ["concept:ID", "name", "definition", "synonyms:string[]", "semantic_types:string[]",
                       "codes:string[]", ":LABEL"]  # fmt: skip
    for number, row in enumerate(rows[1:]):
        best = preferred[f"umls:C000000{number}"]
        assert row[:2] == [f"umls:C000000{number}", best]
        synonyms = sorted(set(names[number]) - {best})
        assert row[3] == ";".join(name.replace(";", ",") for name in synonyms)
        assert row[2] == (definition if number == 0 else "")
        assert row[4] == ("T023;T047" if number == 0 else "")
        assert row[6] == ("Concept;ANAT" if number == 0 else "Concept;NONE")
    assert len(rows) == len(names) + 1


def test_graphml_survives_what_xml_cannot_hold(tmp_path: Path) -> None:
    rrf = (
        Rrf().atom("C0000001", "bell \x07 & <tag>").atom("C0000002", "b").relation("C0000001", "CHD", "C0000002", "isa")
    )
    rrf.relation("C0000001", "RO", "C0000002", "adjacent_to")
    ingest_umls(rrf.write(tmp_path / "META"), tmp_path / "kg")
    graph = nx.read_graphml(exported(tmp_path / "kg", tmp_path / "out.graphml", "graphml"), force_multigraph=True)
    assert graph.nodes["umls:C0000001"] == {"name": "bell \N{REPLACEMENT CHARACTER} & <tag>"}
    assert sorted(relation for _, _, relation in graph.edges(data="relation")) == ["adjacent_to", "isa"]


LEVELS = (0, 1, 3, 9)


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[Rrf, dict[str, int]]:
    """A release of several vocabularies at random licence levels, whose texts, codes and relations are their own.

    Every text holds the name of its vocabulary, so a leak shows; a few names and facts are shared.
    """
    rrf = Rrf()
    levels = {f"Zvoc{number}z": draw(st.sampled_from(LEVELS)) for number in range(draw(st.integers(2, 3)))}
    for sab, level in levels.items():
        rrf.row("MRSAB", {"RSAB": sab, "SVER": "1", "SON": f"Title of {sab}", "SRL": str(level), "CURVER": "Y"})
    cuis = [f"C000000{number}" for number in range(1, 6)]
    rows = st.tuples(st.sampled_from(sorted(levels)), st.sampled_from(cuis), st.sampled_from(cuis))
    for number, (sab, cui, _) in enumerate(draw(st.lists(rows, min_size=3, max_size=10))):
        name = draw(st.sampled_from((f"name {number} of {sab}", "shared name", "another shared name")))
        rrf.atom(cui, name, sab, draw(st.sampled_from(("PT", "SY", "AB"))), f"{sab}{number}",
                 {"SRL": str(levels[sab]), "ISPREF": draw(st.sampled_from("YN"))})  # fmt: skip
    for number, (sab, cui, _) in enumerate(draw(st.lists(rows, max_size=5))):
        rrf.definition(cui, f"definition {number} of {sab}", {"SAB": sab})
        rrf.row(
            "MRSAT", {"CUI": cui, "ATN": f"ATN_{sab}", "ATV": f"value {number} of {sab}", "SAB": sab, "SUPPRESS": "N"}
        )
    for sab, one, other in draw(st.lists(rows, max_size=8)):
        rrf.relation(one, "CHD", other, "isa", {"SAB": sab}).relation(other, "RO", one, f"rela_of_{sab}", {"SAB": sab})
    for cui in draw(st.sets(st.sampled_from(cuis))):
        rrf.semantic_type(cui, draw(st.sampled_from(("T047", "T023"))))
    rrf.row("MRCUI", {"CUI1": "C0000009", "VER": "1", "REL": "SY", "CUI2": draw(st.sampled_from(cuis))})
    return rrf, levels


def ingest_levels(meta: Path, folder: Path, levels: dict[str, int], limit: int | None) -> Path | None:
    """The graph of a release, read without vocabularies above a level; None if nothing is left to read."""
    attributes = tuple(f"ATN_{sab}" for sab in levels)
    log = IngestLog()
    try:
        tables = read_umls(meta, log, "2026AA", UmlsOptions(attributes=attributes, max_licence_level=limit))
    except InputError:
        return None
    ingest(folder, tables, log)
    return folder


@settings(max_examples=10, phases=[Phase.generate])  # shrinking a dozen ingests takes minutes
@given(vocabularies(), st.sampled_from((0, 1, 3)))
def test_nothing_above_the_licence_level_gets_out(release: tuple[Rrf, dict[str, int]], level: int) -> None:
    rrf, levels = release
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        meta = rrf.write(folder / "META")
        kg = ingest_levels(meta, folder / "kg", levels, None)
        low = ingest_levels(meta, folder / "low", levels, level)  # what may get out: the graph of the rest alone
        assert kg
        facts = facts_of(open_triples(KnowledgeGraph(low).views)) if low else set()
        statements = set(KnowledgeGraph(low).store) if low else set()
        for format_name in FORMATS:
            if not low:
                with pytest.raises(InputError, match=f"no vocabulary has licence level {level} or less; they have "):
                    exported(kg, folder / "out" / format_name, format_name, level)
                continue
            out = exported(kg, folder / "out" / format_name, format_name, level)
            assert [sab for sab, own in levels.items() if own > level and sab in text_of(out)] == [], format_name
            if format_name not in RDF_FORMATS:
                assert read_facts(format_name, out) == facts, format_name
            elif low and format_name in ("nquads", "trig"):
                assert statements_in(out, format_name) == statements, format_name
            elif low:
                found = {quad.triple for quad in statements_in(out, format_name)}
                assert found == {quad.triple for quad in statements}, format_name


def test_a_level_that_leaves_nothing_changes_nothing(
    tiny_kg_dir: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out.tsv"
    status, _, error = command(
        "kgkit", "export", tiny_kg_dir, "--format", "tsv", "--out", out, "--max-licence-level", -1
    )
    assert status == 1
    assert "no vocabulary has licence level -1 or less" in error
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_what_it_wrote(
    tiny_kg_dir: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "new" / "out.ttl"
    status, printed, _ = command("kgkit", "export", tiny_kg_dir, "--format", "turtle", "--out", out)
    assert status == 0
    count = len(KnowledgeGraph(tiny_kg_dir).store)
    assert printed.splitlines()[0] == f"{count:,} statements; written to {out}"
    assert printed.splitlines()[1].startswith("note: named graphs are lost")
    status, printed, _ = command("kgkit", "export", tiny_kg_dir, "--format", "tsv", "--out", out.parent / "x", "--json")
    assert status == 0
    assert json.loads(printed)["counts"] == {"facts": len(open_triples(KnowledgeGraph(tiny_kg_dir).views).triples)}


@pytest.mark.parametrize(
    ("format_name", "there", "message"),
    [
        ("tsv", "folder", r"out: this is a folder; format tsv is a file"),
        ("tsv", "notes.md", r"notes\.md: this file exists and is no \*\.tsv; name another, or remove it first"),
        ("tsv", "notes.md.gz", r"notes\.md\.gz: this file exists and is no \*\.tsv"),
        ("neo4j", "notes.md", r"notes\.md: this is a file; expected a folder to write the graph export to"),
        (
            "neo4j",
            "folder",
            r"out: this folder holds something else; name another for the graph export, or remove it first",
        ),
        ("neo4j", "pykeen", r"out: this folder is an export of format pykeen; name another"),
        ("neo4j", "kg", r"out: this folder is a knowledge graph; name another for the graph export"),
        ("tvs", "nothing", r"unknown format 'tvs'; did you mean 'tsv'\?"),
    ],
)
def test_what_is_something_else_stays(
    tiny_kg_dir: Path, tmp_path: Path, format_name: str, there: str, message: str
) -> None:
    out = tmp_path / (there if "." in there else "out")
    if there == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif there == "pykeen":
        exported(tiny_kg_dir, out, "pykeen")
    elif there == "kg":
        shutil.copytree(tiny_kg_dir, out)
    elif "." in there:
        out.write_text("mine")
    before = text_of(out) if out.exists() else None
    with pytest.raises(InputError, match=message):
        exported(tiny_kg_dir, out, format_name)
    assert (text_of(out) if out.exists() else None) == before


@pytest.mark.parametrize(("format_name", "name"), [("tsv", "out.tsv"), ("nquads", "out.nq.zst"), ("neo4j", "out")])
def test_an_export_of_the_same_format_is_replaced(
    tiny_kg_dir: Path, thorax_kg_dir: Path, tmp_path: Path, format_name: str, name: str
) -> None:
    out = exported(thorax_kg_dir, tmp_path / name, format_name)
    old = text_of(out)
    exported(tiny_kg_dir, out, format_name)
    assert text_of(out) != old
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    path.write_text("old")

    def fail() -> None:
        with output_file(path) as stream:
            stream.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [inner.name for inner in tmp_path.iterdir()] == ["out.tsv"]
    assert path.read_text() == "old"
    with pytest.raises(InputError, match="inner: cannot create the file"), output_file(path / "inner"):
        pass
