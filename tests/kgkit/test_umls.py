"""UMLS tables: every row used or counted, one direction, one preferred name."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from graphs import ROOT, THORAX
from hypothesis import given, settings
from hypothesis import strategies as st
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.graph.quads import source_lines, write_quads
from kgkit.graph.store import KnowledgeGraph
from kgkit.sources.base import IngestLog, SourceTables, decode_table
from kgkit.sources.umls import UmlsOptions, read_umls
from kgkit.views.build import build_views

FALL, VIADUCT, EFFUSION = "C0000921", "C0417093", "C0013687"


def read(rrf: Rrf, folder: Path, languages: tuple[str, ...] = ("ENG",)) -> tuple[SourceTables, IngestLog]:
    log = IngestLog()
    return read_umls(rrf.write(folder), log, options=UmlsOptions(languages=languages)), log


def edges(tables: SourceTables) -> set[tuple[str, str, str]]:
    return {(head[5:], relation, tail[5:]) for _, head, relation, tail in decode_table(tables, "edges").rows()}


def three_names() -> Rrf:
    return Rrf().atom(FALL, "Accidental Falls").atom(VIADUCT, "Fall from viaduct").atom(EFFUSION, "Effusion")


def test_a_row_of_mrrel_reads_from_its_second_concept_to_its_first(tmp_path: Path) -> None:
    """The example of the UMLS documentation: CUI1 accidental fall, CHD isa, CUI2 fall from viaduct."""
    tables, _ = read(three_names().relation(FALL, "CHD", VIADUCT, "isa"), tmp_path)
    assert edges(tables) == {(VIADUCT, "isa", FALL)}


@pytest.mark.parametrize(
    ("rel", "rela", "edge"),
    [
        ("CHD", "", (VIADUCT, "isa", FALL)),
        ("PAR", "", (FALL, "isa", VIADUCT)),
        ("PAR", "inverse_isa", (FALL, "isa", VIADUCT)),
        ("RN", "", (VIADUCT, "narrower_than", FALL)),
        ("RB", "", (FALL, "narrower_than", VIADUCT)),
        ("RO", "has_part", (FALL, "part_of", VIADUCT)),
        ("RO", "part_of", (VIADUCT, "part_of", FALL)),
        ("RO", "", (FALL, "related_to", VIADUCT)),
        ("RO", "some_new_relation", (VIADUCT, "some_new_relation", FALL)),
    ],
)
def test_rel_speaks_where_rela_is_silent(tmp_path: Path, rel: str, rela: str, edge: tuple[str, str, str]) -> None:
    tables, _ = read(three_names().relation(FALL, rel, VIADUCT, rela), tmp_path)
    assert edges(tables) == {edge}


def test_the_documented_inverse_and_the_asserted_side_decide(tmp_path: Path) -> None:
    rrf = three_names().inverse("alpha_of", "has_alpha").inverse("beta_of", "has_beta")
    rrf.relation(FALL, "RO", VIADUCT, "alpha_of").relation(VIADUCT, "RO", FALL, "has_alpha", {"DIR": "Y"})
    rrf.relation(FALL, "RO", VIADUCT, "beta_of").relation(VIADUCT, "RO", FALL, "has_beta", {"DIR": "N"})
    tables, log = read(rrf, tmp_path)
    assert edges(tables) == {(FALL, "has_alpha", VIADUCT), (VIADUCT, "beta_of", FALL)}
    assert log.skipped == {"MRREL: same fact from its other side, or twice": 2}


def test_rows_that_are_not_used_are_counted_under_a_reason(tmp_path: Path) -> None:
    rrf = three_names()
    for column, value in (("LAT", "SPA"), ("SUPPRESS", "O"), ("SUPPRESS", "E"), ("SUPPRESS", "Y"), ("SAB", "SRC")):
        rrf.atom("C7777777", f"{column} {value}", values={column: value})
    rrf.atom(FALL, "  ").semantic_type(FALL, "T037").semantic_type(FALL, "T037").semantic_type("C7777777", "T047")
    rrf.definition(FALL, "A fall.").definition(FALL, "A fall.").definition(FALL, " ").definition("C7777777", "Lost.")
    rrf.definition(FALL, "Old.", {"SUPPRESS": "O"}).definition(FALL, "Elsewhere.", {"SAB": "NONE"})
    rrf.relation(FALL, "CHD", VIADUCT, "isa").relation(VIADUCT, "PAR", FALL, "inverse_isa")
    rrf.relation(FALL, "SIB", VIADUCT).relation(FALL, "AQ", VIADUCT).relation(FALL, "RO", FALL, "part_of")
    rrf.relation(FALL, "CHD", "C7777777", "isa").relation("C7777777", "CHD", FALL, "isa")
    rrf.relation(FALL, "SY", VIADUCT).relation(FALL, "XX", VIADUCT).relation(
        FALL, "CHD", EFFUSION, "isa", {"SUPPRESS": "Y"}
    )
    rrf.relation(FALL, "CHD", EFFUSION, "isa", {"SAB": "NONE"})
    tables, log = read(rrf, tmp_path)
    assert log.skipped == {
        "MRCONSO: language not chosen": 1,
        "MRCONSO: suppressed": 3,
        "MRCONSO: source metadata (SAB=SRC)": 1,
        "MRCONSO: empty name": 1,
        "MRSTY: same type twice": 1,
        "MRSTY: concept not kept": 1,
        "MRDEF: same definition twice": 1,
        "MRDEF: empty definition": 1,
        "MRDEF: concept not kept": 1,
        "MRDEF: suppressed": 1,
        "MRDEF: vocabulary not kept": 1,
        "MRREL: same fact from its other side, or twice": 1,
        "MRREL: REL=SIB: sibling clique, follows from isa": 1,
        "MRREL: REL=AQ: allowed qualifier": 1,
        "MRREL: both ends are one concept": 1,
        "MRREL: an end is not kept": 2,
        "MRREL: REL=SY without RELA: synonymy of a source": 1,
        "MRREL: no RELA and no rule for REL": 1,
        "MRREL: suppressed": 1,
        "MRREL: vocabulary not kept": 1,
    }
    used = {"MRCONSO": tables.names, "MRSTY": tables.types, "MRDEF": tables.definitions, "MRREL": tables.edges}
    assert log.rows_read == {name: len(rows) for name, rows in rrf.tables.items()}
    for name, frame in used.items():
        skipped = sum(count for reason, count in log.skipped.items() if reason.startswith(f"{name}:"))
        assert log.rows_read[name] == len(frame) + skipped, name


def test_there_is_one_best_name_per_concept_vocabulary_and_language(tiny_rrf_dir: Path) -> None:
    tables = read_umls(tiny_rrf_dir, IngestLog(), options=UmlsOptions(languages=("ENG", "SPA")))
    best = tables.names.group_by("graph", "concept", "language").agg(pl.col("is_best").sum())
    assert best["is_best"].unique().to_list() == [1]
    spanish = decode_table(tables, "names").filter(pl.col("language") == "es").select("graph", "concept", "name").rows()
    assert spanish == [("TST@2026-01", "umls:C0032227", "derrame pleural")]


def test_the_best_name_is_the_one_that_the_flags_mark(tmp_path: Path) -> None:
    rrf = Rrf().atom(FALL, "a", values={"TS": "S"}).atom(FALL, "b", values={"STT": "VO"}).atom(FALL, "c")
    rrf.atom(FALL, "d", values={"ISPREF": "N"}).atom(FALL, "A", tty="AB")
    tables, _ = read(rrf, tmp_path)
    assert tables.names.filter("is_best")["name"].to_list() == ["c"]


def test_mrrank_goes_before_the_flags_and_an_abbreviation_comes_last(tmp_path: Path) -> None:
    rrf = Rrf().atom(FALL, "by rank", tty="PN", values={"TS": "S"}).atom(FALL, "by flags").atom(FALL, "ABB", tty="AB")
    for rank, tty, suppress in (("0400", "AB", "N"), ("0300", "PN", "N"), ("0090", "PT", "N"), ("0999", "PT", "Y")):
        rrf.row("MRRANK", {"RANK": rank, "SAB": "TST", "TTY": tty, "SUPPRESS": suppress})
    tables, _ = read(rrf, tmp_path)
    assert tables.names.filter("is_best")["name"].to_list() == ["by rank"]
    assert tables.names.filter("is_abbreviation")["name"].to_list() == ["ABB"]


def test_a_concept_with_only_an_abbreviation_is_called_by_it(tmp_path: Path) -> None:
    tables, _ = read(Rrf().atom(FALL, "AF", tty="AB"), tmp_path)
    assert tables.names.select("name", "is_best", "is_abbreviation").rows() == [("AF", True, True)]


@pytest.mark.parametrize(("cui", "placeholder"), [("C8999999", False), ("C9000000", True), ("C9999999", True)])
def test_a_minted_cui_is_flagged(tmp_path: Path, cui: str, placeholder: bool) -> None:
    tables, _ = read(Rrf().atom(cui, "a name"), tmp_path)
    assert decode_table(tables, "concepts").select("concept", "is_placeholder").rows() == [(f"umls:{cui}", placeholder)]


def test_the_licence_level_is_the_highest_of_the_rows(tmp_path: Path) -> None:
    rrf = Rrf().atom(FALL, "a", "ONE").atom(FALL, "b", "TWO", values={"SRL": "3"}).atom(FALL, "c", "TWO")
    tables, _ = read(rrf, tmp_path)
    assert {graph.name: graph.licence_level for graph in tables.graphs} == {
        "UMLS@unversioned": 0,
        "ONE@unversioned": 0,
        "TWO@unversioned": 3,
    }


def test_versions_come_from_mrsab_and_the_release_from_the_path(tmp_path: Path) -> None:
    rrf = tiny_rrf().row("MRSAB", {"RSAB": "NEW", "SVER": "May <2026>/b", "CURVER": "Y"}).atom(FALL, "x", "NEW")
    tables, _ = read(rrf, tmp_path / "umls-2026AA-metathesaurus" / "META")
    assert tables.release == "2026AA"
    names = [graph.name for graph in tables.graphs]
    assert names == ["HPO@2025-01-16", "NEW@May__2026__b", "TST@2026-01", "UMLS@2026AA"]


def outcome(folder: Path) -> tuple[str, list[list[tuple[object, ...]]]]:
    """Digest and views of a META folder, without the store, which takes most of the time of an ingest."""
    tables = read_umls(folder, IngestLog(), release="1")
    with tempfile.TemporaryDirectory() as name:
        _, digest = write_quads(source_lines(tables), Path(name) / "quads")
        build_views([tables], Path(name) / "views")
        return digest, [pl.read_parquet(path).rows() for path in sorted((Path(name) / "views").glob("*.parquet"))]


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_the_order_of_rows_changes_nothing(tiny_rrf_dir: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert outcome(tiny_rrf().write(Path(folder), shuffle=seed)) == outcome(tiny_rrf_dir)


def test_gzip_and_line_ends_change_nothing(tmp_path: Path) -> None:
    kinds = [("\n", False), ("\r\n", False), ("\n", True), ("\r\n", True)]
    folders = [tiny_rrf().write(tmp_path / f"rrf{index}", *kind) for index, kind in enumerate(kinds)]
    assert [outcome(folder) for folder in folders[1:]] == [outcome(folders[0])] * 3


def test_a_cui_of_another_form_is_counted_or_named_by_line(tmp_path: Path) -> None:
    rrf = Rrf().atom(FALL, "a").atom("HP:0002202", "b").relation(FALL, "CHD", "C1").relation("C0000009", "CHD", FALL)
    _, log = read(rrf, tmp_path)
    assert log.skipped == {
        "MRCONSO: CUI is not C and seven digits": 1,
        "MRREL: CUI2 is not C and seven digits": 1,
        "MRREL: CUI1 is not in MRCONSO": 1,
    }
    assert log.first_defect["MRCONSO: CUI is not C and seven digits"].endswith("MRCONSO.RRF, line 2: 'HP:0002202'")
    with pytest.raises(InputError, match=r"MRCONSO\.RRF, line 2: MRCONSO: CUI is not C and seven digits: 'HP:0002202'"):
        read_umls(tmp_path, IngestLog(strict=True))


def test_an_unknown_language_and_an_empty_choice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown language 'EN'; choices: ENG, SPA, "):
        read(three_names(), tmp_path, ("EN",))
    with pytest.raises(InputError, match="no name is left of MRCONSO in GER, not suppressed"):
        read(three_names(), tmp_path, ("GER",))


def rows_of(table: str) -> list[list[str]]:
    text = gzip.decompress((THORAX / f"{table}.RRF.gz").read_bytes()).decode()
    return [line.split("|") for line in text.removesuffix("\n").split("\n")]


def facts_of_thorax() -> tuple[Counter[str], set[tuple[str, str, str, str]]]:
    """MRREL once more, slowly: what its rows say, with every inverse of this file known by name."""
    skipped: Counter[str] = Counter()
    facts = set()
    kept_side = {"has_part": "part_of", "location_of": "located_in", "surrounded_by": "surrounds"}
    for row in rows_of("MRREL"):
        head, relation, tail = row[4], row[7], row[0]
        if head == tail:
            skipped["MRREL: both ends are one concept"] += 1
            continue
        if relation.startswith("inverse_"):
            head, relation, tail = tail, relation[len("inverse_") :], head
        if relation in kept_side:
            head, relation, tail = tail, kept_side[relation], head
        if relation in ("adjacent_to", "connected_to", "continuous_with"):
            head, tail = sorted((head, tail))
        if (row[10], head, relation, tail) in facts:
            skipped["MRREL: same fact from its other side, or twice"] += 1
        facts.add((row[10], head, relation, tail))
    return skipped, facts


def test_the_counts_of_the_bundled_graph_are_those_of_a_slow_reader(thorax_kg_dir: Path) -> None:
    command = [sys.executable, "-c", "import cli; cli.kgkit_main()", "info", str(thorax_kg_dir), "--json"]
    info = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=ROOT).stdout)
    source = info["sources"]["umls@unversioned"]
    tables = {table: rows_of(table) for table in ("MRCONSO", "MRREL", "MRDEF", "MRSTY", "MRSAB")}
    assert source["rows_read"] == {table: len(rows) for table, rows in tables.items()}
    skipped, facts = facts_of_thorax()
    assert source["skipped"] == skipped
    assert len(tables["MRREL"]) == len(facts) + sum(skipped.values())
    positive = {(head, name, tail) for _, head, name, tail in facts if "_excludes_" not in name}
    names = {(row[0], row[11], row[14]) for row in tables["MRCONSO"]}
    assert (
        info["counts"].items()
        >= {
            "named graphs": 4 + 3,  # vocabularies; release with its types, preferred names, relations
            "concepts": len({row[0] for row in tables["MRCONSO"]}),
            "names": len(names),
            "triples": len(positive),
            "relations": len({name for _, name, _ in positive}),
        }.items()
    )
    graph = KnowledgeGraph(thorax_kg_dir)
    ids = [pl.read_parquet(graph.views / f"{view}.parquet").to_series().to_list() for view in ("concepts", "relations")]
    triples = pl.read_parquet(graph.views / "triples.parquet").rows()
    assert {(ids[0][h][5:], ids[1][r], ids[0][t][5:]) for h, r, t in triples} == positive
    for predicate, expected in {
        "kgkit:semanticType": {(row[0], row[1]) for row in tables["MRSTY"]},
        "skos:definition": {(row[0], row[4], row[5]) for row in tables["MRDEF"]},
        "kgkit:sourceLabel|skos:altLabel": names,
        "skos:prefLabel": {row[0] for row in tables["MRCONSO"]},
    }.items():
        (row,) = graph.query(f"SELECT (COUNT(*) AS ?n) {{ GRAPH ?g {{ ?s {predicate} ?o }} }}")
        assert int(row["n"].value) == len(expected), predicate


def test_a_denied_finding_is_in_the_rdf_and_never_in_the_triples(thorax_kg_dir: Path) -> None:
    graph = KnowledgeGraph(thorax_kg_dir)
    relations = pl.read_parquet(graph.views / "relations.parquet").to_series().to_list()
    assert not [name for name in relations if "_excludes_" in name]
    denied = {row for row in facts_of_thorax()[1] if "_excludes_" in row[2]}
    found = graph.query("SELECT ?s ?p ?o { GRAPH ?g { ?s ?p ?o } FILTER CONTAINS(STR(?p), '_excludes_') "
                        "FILTER STRSTARTS(STR(?s), STR(umls:)) }")  # fmt: skip
    assert len(list(found)) == len(denied) > 200
