"""What of a release is kept: every option leaves out what it says, counts it, and drags nothing else along."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables, decode_table
from kgkit.sources.umls import UmlsOptions, read_umls
from kgkit.sources.umls_relations import RelationPolicy

A, B, C, D, E = (f"C000000{n}" for n in range(1, 6))


def read(rrf: Rrf, folder: Path, **choice: object) -> tuple[SourceTables, IngestLog]:
    log = IngestLog()
    return read_umls(rrf.write(folder), log, options=replace(UmlsOptions(), **choice)), log  # type: ignore[arg-type]


def edges(tables: SourceTables) -> set[tuple[str, str, str]]:
    return {(head[5:], relation, tail[5:]) for _, head, relation, tail in decode_table(tables, "edges").rows()}


def concepts(tables: SourceTables) -> set[str]:
    return {concept[5:] for concept in decode_table(tables, "concepts")["concept"]}


def five() -> Rrf:
    rrf = Rrf().atom(A, "a").atom(B, "b").atom(C, "c").atom(D, "d").atom(E, "e", "OTHER")
    for child, parent in ((B, A), (C, B), (A, C), (E, D)):  # a, b, c in a ring
        rrf.relation(parent, "CHD", child, "isa")
    return rrf


def test_a_root_keeps_what_lies_below_it_even_in_a_ring(tmp_path: Path) -> None:
    tables, log = read(five(), tmp_path, root=f"umls:{B}")
    assert concepts(tables) == {A, B, C}
    assert edges(tables) == {(B, "isa", A), (C, "isa", B), (A, "isa", C)}
    assert log.skipped == {"MRCONSO: concept not chosen": 2, "MRREL: an end is not kept": 1}
    assert log.rows_read == {"MRCONSO": 5, "MRREL": 4}
    assert concepts(read(five(), tmp_path, root=E)[0]) == {E}
    assert concepts(read(five(), tmp_path, root=D)[0]) == {D, E}
    for wrong in ("C0000009", "HP:0000118", "umls:"):
        with pytest.raises(InputError, match=f"root {wrong!r} is no concept with an is-a relation; expected a CUI"):
            read(five(), tmp_path, root=wrong)


def test_types_and_groups_choose_concepts(tmp_path: Path) -> None:
    rrf = five().semantic_type(A, "T047").semantic_type(A, "T023").semantic_type(B, "T023").semantic_type(D, "T116")
    assert concepts(read(rrf, tmp_path, semantic_types=("T047",))[0]) == {A}
    assert concepts(read(rrf, tmp_path, semantic_groups=("ANAT",))[0]) == {A, B}
    tables, _ = read(rrf, tmp_path, semantic_groups=("ANAT",), semantic_types=("T116",))
    assert concepts(tables) == {A, B, D}
    assert decode_table(tables, "types").filter(pl.col("concept") == f"umls:{A}")["tui"].to_list() == ["T023", "T047"]
    assert concepts(read(rrf, tmp_path, semantic_groups=("ANAT",), root=B)[0]) == {A, B}
    with pytest.raises(InputError, match="unknown semantic group 'ANATOMY'; choices: ACTI, ANAT, "):
        read(rrf, tmp_path, semantic_groups=("ANATOMY",))
    with pytest.raises(InputError, match="unknown semantic type 'T999'"):
        read(rrf, tmp_path, semantic_types=("T999",))
    with pytest.raises(InputError, match="there is no MRSTY"):
        read(five(), tmp_path / "other", semantic_types=("T047",))


def test_a_vocabulary_that_is_left_out_takes_its_names_and_facts_with_it(tmp_path: Path) -> None:
    rrf = five().atom(A, "other a", "OTHER").relation(A, "RO", D, "part_of", {"SAB": "OTHER"})
    rrf.definition(A, "Defined elsewhere.", {"SAB": "OTHER"})
    without, log = read(rrf, tmp_path, without=("OTHER",))
    assert "part_of" not in {relation for _, relation, _ in edges(without)}
    assert concepts(without) == {A, B, C, D}
    assert log.skipped["MRCONSO: vocabulary not chosen"] == 2
    assert log.skipped["MRDEF: vocabulary not kept"] == log.skipped["MRREL: vocabulary not kept"] == 1
    only, _ = read(rrf, tmp_path, vocabularies=("TST",))
    for name in ("names", "edges", "definitions"):
        assert decode_table(only, name).equals(decode_table(without, name))
    assert concepts(read(rrf, tmp_path, vocabularies=("OTHER",))[0]) == {A, E}
    rrf.row("MRSAB", {"RSAB": "TST", "SVER": "1", "SRL": "0", "CURVER": "Y"})
    with pytest.raises(InputError, match=r"no vocabulary 'TSTX' in MRSAB; did you mean 'TST'\?"):
        read(rrf, tmp_path, vocabularies=("TSTX",))


@pytest.mark.parametrize("documented", [False, True])
def test_a_licence_level_leaves_out_vocabularies_above_it(tmp_path: Path, documented: bool) -> None:
    rrf = five().atom(A, "licensed", "BIG", values={"SRL": "0" if documented else "3"})
    rrf.relation(A, "RO", D, "part_of", {"SAB": "BIG"})
    if documented:
        rrf.row("MRSAB", {"RSAB": "BIG", "SVER": "1", "SRL": "3", "CURVER": "Y"})
        rrf.row("MRSAB", {"RSAB": "TST", "SVER": "1", "SRL": "0", "CURVER": "Y"})
    tables, log = read(rrf, tmp_path, max_licence_level=2)
    assert "licensed" not in decode_table(tables, "names")["name"]
    assert "part_of" not in tables.relations
    assert log.skipped["MRCONSO: licence level too high"] == 1
    assert {graph.licence_level for graph in tables.graphs} == {0}
    assert "licensed" in decode_table(read(rrf, tmp_path, max_licence_level=3)[0], "names")["name"]


def test_suppressed_rows_stay_if_asked_for(tmp_path: Path) -> None:
    rrf = five().atom(A, "old name", values={"SUPPRESS": "O"}).relation(A, "RO", D, "part_of", {"SUPPRESS": "Y"})
    rrf.definition(A, "Old.", {"SUPPRESS": "E"})
    kept, log = read(rrf, tmp_path, suppressed=True, relations=RelationPolicy(suppressed=True))
    assert "old name" in kept.names["name"]
    assert (A, "part_of", D) not in edges(read(rrf, tmp_path)[0])
    assert (D, "part_of", A) in edges(kept)
    assert kept.definitions["definition"].to_list() == ["Old."]
    assert not [reason for reason in log.skipped if "suppressed" in reason]


@pytest.mark.parametrize(
    ("kinds", "relations"),
    [
        ("typed", {"isa", "part_of", "treats"}),
        ("hierarchy", {"isa", "part_of"}),
        ("all", {"isa", "part_of", "treats", "sibling_of", "qualified_by"}),
        ("none", set()),
    ],
)
def test_the_relation_policy_says_which_rows_become_edges(tmp_path: Path, kinds: str, relations: set[str]) -> None:
    rrf = five().relation(A, "SIB", D).relation(D, "SIB", A).relation(A, "QB", D).relation(A, "RO", D, "has_part")
    tables, _ = read(rrf.relation(A, "RO", D, "treats"), tmp_path, relations=RelationPolicy(kinds))
    assert {relation for _, relation, _ in edges(tables)} == relations
    assert (D, "part_of", A) not in edges(tables)
    with pytest.raises(InputError, match="unknown relation policy 'some'; choices: all, hierarchy, none, typed"):
        RelationPolicy("some")


def test_mrhier_adds_each_atoms_parent_in_its_vocabulary(tmp_path: Path) -> None:
    rrf = Rrf().atom(A, "a").atom(B, "b").atom(B, "another b").atom(C, "c")
    for aui, parent, rela in (("A0000001", "", ""), ("A0000002", "A0000001", ""), ("A0000003", "A0000002", "isa"),
                              ("A0000004", "A0000003", "part_of"), ("A0000009", "A0000001", "")):  # fmt: skip
        rrf.row("MRHIER", {"AUI": aui, "PAUI": parent, "SAB": "TST", "RELA": rela})
    tables, log = read(rrf, tmp_path, relations=RelationPolicy(hierarchies=True))
    assert edges(tables) == {(B, "isa", A), (C, "part_of", B)}
    assert log.skipped == {
        "MRHIER: root of its vocabulary": 1, "MRHIER: both ends are one concept": 1, "MRHIER: an atom is not kept": 1,
    }  # fmt: skip
    assert edges(read(rrf, tmp_path)[0]) == set()


def test_mrcui_says_what_became_of_retired_cuis(tmp_path: Path) -> None:
    rrf = five()
    rows = (("C0000011", "SY", A), ("C0000012", "DEL", ""), ("C0000013", "RB", A), ("C0000013", "RN", B),
            ("C0000014", "SY", "C0000011"), ("C0000011", "SY", A), (A, "SY", B), ("C0000015", "SY", "nonsense"),
            ("C0000016", "SY", "C0000016"))  # fmt: skip
    for retired, rel, target in rows:
        rrf.row("MRCUI", {"CUI1": retired, "VER": "2020AA", "REL": rel, "CUI2": target, "MAPIN": "Y"})
    tables, log = read(rrf, tmp_path)
    found = [(one[5:], reason, other and other[5:]) for _, one, reason, other in decode_table(tables, "retired").rows()]
    assert set(found) == {
        ("C0000011", "SY", A), ("C0000012", "DEL", None), ("C0000013", "RB", A), ("C0000013", "RN", B),
        ("C0000014", "SY", "C0000011"),
    }  # fmt: skip
    assert log.skipped == {
        "MRCUI: CUI1 is in use": 1, "MRCUI: CUI2 is not C and seven digits": 1, "MRCUI: both ends are one concept": 1,
    }  # fmt: skip


def test_attributes_are_kept_by_name(tmp_path: Path) -> None:
    rrf = five()
    for cui, name, value in ((A, "ICD9_CODE", "511.9"), (A, "OTHER", "x"), ("C0000099", "ICD9_CODE", "y")):
        rrf.row("MRSAT", {"CUI": cui, "ATN": name, "SAB": "TST", "ATV": value, "SUPPRESS": "N"})
    tables, _ = read(rrf, tmp_path, attributes=("ICD9_CODE",))
    assert decode_table(tables, "attributes").rows() == [("TST@unversioned", f"umls:{A}", "ICD9_CODE", "511.9")]
    assert read(rrf, tmp_path)[0].attributes.is_empty()


def test_definitions_in_a_language_that_is_not_wanted_are_left_out(tmp_path: Path) -> None:
    rrf = five().definition(A, "Eine Lunge.", {"SAB": "GERMAN"}).definition(A, "A lung.")
    for sab, language in (("GERMAN", "GER"), ("TST", "ENG"), ("OTHER", "ENG")):
        rrf.row("MRSAB", {"RSAB": sab, "SVER": "1", "LAT": language, "CURVER": "Y"})
    assert read(rrf, tmp_path)[0].definitions["definition"].to_list() == ["A lung."]
    both = read(rrf, tmp_path, languages=("ENG", "GER"))[0].definitions
    assert sorted(both.select("definition", "language").rows()) == [("A lung.", "en"), ("Eine Lunge.", "de")]


RELAS = st.sampled_from(["isa", "inverse_isa", "part_of", "has_part", "adjacent_to", "x_excludes_y"])
NUMBERS = st.integers(1, 9)


@settings(max_examples=25)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, RELAS, st.sampled_from(["TST", "ABC"])), max_size=40))
def test_edges_are_the_facts_of_a_slow_reader(rows: list[tuple[int, int, str, str]]) -> None:
    import tempfile

    rrf = Rrf()
    for number in range(1, 10):
        rrf.atom(f"C000000{number}", str(number)).atom(f"C000000{number}", f"{number} too", "ABC")
    expected = set()
    for one, two, rela, sab in rows:
        rrf.relation(f"C000000{one}", "RO", f"C000000{two}", rela, {"SAB": sab})
        head, tail, name = two, one, rela
        if rela in ("inverse_isa", "has_part"):
            head, tail, name = one, two, {"inverse_isa": "isa", "has_part": "part_of"}[rela]
        if rela == "adjacent_to":
            head, tail = sorted((one, two))
        if head != tail:
            expected.add((sab, f"C000000{head}", name, f"C000000{tail}"))
    with tempfile.TemporaryDirectory() as folder:
        tables, log = read(rrf, Path(folder))
    found = decode_table(tables, "edges").rows()
    assert {(graph.partition("@")[0], head[5:], name, tail[5:]) for graph, head, name, tail in found} == expected
    assert len(found) == len(expected)
    assert log.rows_read["MRREL"] == len(rows) == len(found) + sum(
        count for reason, count in log.skipped.items() if reason.startswith("MRREL"))  # fmt: skip


def test_nothing_refers_to_what_is_not_kept(tmp_path: Path) -> None:
    tables, _ = read(tiny_rrf(), tmp_path, semantic_types=("T047",))
    kept = set(decode_table(tables, "concepts")["concept"])
    for table, columns in {"names": ["concept"], "types": ["concept"], "definitions": ["concept"], "codes": ["concept"],
                           "edges": ["head", "tail"]}.items():  # fmt: skip
        for column in columns:
            assert set(decode_table(tables, table)[column]) <= kept
    assert tables.ids.to_list() == sorted(kept)
