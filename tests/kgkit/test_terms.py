"""The rules that hold for the terms of every format, and the plain tables of terms."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
import tiny_ontology
from hypothesis import given
from hypothesis import strategies as st
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.obo import read_obo
from kgkit.sources.obograph import read_obograph
from kgkit.sources.owl import read_owl
from kgkit.sources.term_ids import canonical_id, is_usable_id
from kgkit.sources.term_tables import read_terms
from kgkit.sources.terms import Ontology, Synonym, Term, identity_matches, term_tables

PLACE = Path("tst.x")


def tables_of(*terms: Term, log: IngestLog | None = None) -> SourceTables:
    return term_tables(Ontology(PLACE, terms), log or IngestLog())


def read(folder: Path, text: str, log: IngestLog | None = None, name: str = "x.tsv") -> SourceTables:
    (folder / name).write_text(text, encoding="utf-8")
    return read_terms(folder / name, log or IngestLog())


# One ontology, four formats


def test_every_format_gives_the_same_tables(tmp_path: Path) -> None:
    written = {
        "tst.obo": (read_obo, tiny_ontology.OBO),
        "tst.json": (read_obograph, tiny_ontology.obograph()),
        "tst.ttl": (read_owl, tiny_ontology.TURTLE),
        "tst.owl": (read_owl, tiny_ontology.RDF_XML),
    }
    found = {}
    for name, (reader, text) in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found[name] = content(reader(tmp_path / name, IngestLog()))
    expected = found["tst.obo"]
    assert [name for name in found if found[name] != expected] == []
    assert (expected["name"], expected["release"]) == ("TST", "2026-01-31")
    assert expected["graphs"][0].title == "A tiny ontology"
    assert expected["concepts"] == {(f"TST:000{number}", False) for number in (1, 2, 3, 4)}
    assert expected["definitions"] == {("TST:0002", 'Fluid "around" the lung, é ✓.', "en")}
    assert {row for row in expected["names"] if row[0] == "TST:0002"} == {
        ("TST:0002", "Pleural effusion", "en", 7, True, False),
        ("TST:0002", "pleural fluid", "en", 5, False, False),
        ("TST:0002", "PLEFF", "en", 5, False, True),
        ("TST:0002", "hydrothorax", "en", 3, False, False),
        ("TST:0002", "fluid in the chest", "en", 2, False, False),
        ("TST:0002", "lung finding", "en", 1, False, False),
    }
    assert expected["edges"] == {
        ("TST:0002", "isa", "TST:0001"),
        ("TST:0003", "isa", "TST:0001"),
        ("TST:0002", "part_of", "UBERON:0000977"),
        ("TST:0002", "located_near", "TST:0003"),
        ("TST:0004", "part_of", "TST:0003"),  # stated as: 0003 has part 0004
    }
    assert expected["matches"] == {
        ("TST:0002", "exact", "umls:C0032227"),
        ("TST:0002", "close", "MESH:D010996"),
        ("TST:0003", "close", "umls:C0024109"),
        ("TST:0003", "close", "umls:C0024115"),
        ("TST:0003", "close", "NCIT:C12468"),
    }
    assert expected["retired"] == {
        ("TST:0005", "obsolete", "TST:0002"),
        ("TST:0006", "obsolete", None),
        ("TST:0099", "merged", "TST:0002"),
    }


# Identity


@pytest.mark.parametrize(
    ("xrefs", "exact"),
    [
        ({"HP:1": ["umls:C0000001"]}, {("HP:1", "umls:C0000001")}),
        ({"HP:1": ["umls:C0000001", "umls:C0000002"]}, set()),
        ({"HP:1": ["umls:C0000001"], "HP:2": ["umls:C0000001"]}, set()),
        ({"HP:1": ["umls:C0000001"], "HP:2": ["umls:C0000001", "umls:C0000002"]}, set()),
        ({"HP:1": ["umls:C0000001", "umls:C0000001"]}, {("HP:1", "umls:C0000001")}),
        ({"HP:1": ["umls:C0000001", "MESH:D000001"]}, {("HP:1", "umls:C0000001")}),
        ({"HP:1": ["MESH:D000001"]}, set()),
    ],
)
def test_a_cui_is_an_exact_match_if_it_is_unique_both_ways(
    xrefs: dict[str, list[str]], exact: set[tuple[str, str]]
) -> None:
    found = rows(tables_of(*(Term(term, "x", xrefs=tuple(others)) for term, others in xrefs.items())), "matches")
    assert {(subject, other) for subject, kind, other in found if kind == "exact"} == exact
    assert {(subject, other) for subject, _, other in found} == {(t, other) for t, others in xrefs.items()
                                                                  for other in others}  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=14, unique=True))
def test_identity_equals_a_slow_reference(pairs: Sequence[tuple[int, int, bool]]) -> None:
    stated = {(f"HP:{term}", f"umls:C000000{cui}" if is_cui else f"MESH:D{cui}") for term, cui, is_cui in pairs}
    expected = {}
    for term, other in stated:
        others = [o for t, o in stated if t == term and o.startswith("umls:")]
        holders = [t for t, o in stated if o == other]
        unique = other.startswith("umls:") and len(others) == 1 and len(holders) == 1
        expected[term, other] = "exact" if unique else "close"
    frame = pl.DataFrame(sorted(stated), schema={"subject": pl.String, "object": pl.String}, orient="row")
    found = {(term, other): kind for term, other, kind in identity_matches(frame).iter_rows()}
    assert found == expected
    exact = [pair for pair, kind in found.items() if kind == "exact"]
    assert len({term for term, _ in exact}) == len({cui for _, cui in exact}) == len(exact)


def test_an_obsolete_or_nameless_term_does_not_count_for_identity() -> None:
    log = IngestLog()
    terms = (
        Term("HP:1", "one", xrefs=("umls:C0000001",)),
        Term("HP:2", "obsolete one", xrefs=("umls:C0000001",), is_obsolete=True),
        Term("HP:3", " ", xrefs=("umls:C0000001",)),
    )
    assert rows(tables_of(*terms, log=log), "matches") == {("HP:1", "exact", "umls:C0000001")}
    assert log.skipped["cross references: of an obsolete term, or one without an id or a name"] == 2


def test_a_stated_match_goes_before_a_cross_reference() -> None:
    term = Term("HP:1", "one", xrefs=("umls:C0000001",), matches=(("broad", "umls:C0000001"),))
    assert rows(tables_of(term), "matches") == {("HP:1", "broad", "umls:C0000001")}


def test_cross_references_that_are_no_match_are_counted() -> None:
    log = IngestLog()
    term = Term("HP:1", "one", xrefs=("Fyler:1", "ICD-10:Z03.1", "umls:0189573", "SCTID:1 2", "HP:1", "Foo"))
    assert rows(tables_of(term, log=log), "matches") == set()
    assert log.skipped == {
        "cross references: cross reference to an unknown prefix": 3,
        "cross references: malformed id of a known prefix": 2,
        "cross references: reference of a term to itself": 1,
    }
    with pytest.raises(
        InputError, match=r"tst\.x: cross references: malformed id of a known prefix: 'HP:1 umls:0189573'"
    ):
        tables_of(term, log=IngestLog(strict=True))


@pytest.mark.parametrize(
    ("written", "curie"),
    [
        ("UMLS:C0032227", "umls:C0032227"),
        ("UMLS_CUI:C0032227", "umls:C0032227"),
        ("http://linkedlifedata.com/resource/umls/id/C0032227", "umls:C0032227"),
        ("https://uts.nlm.nih.gov/uts/umls/concept/C0032227", "umls:C0032227"),
        ("MSH:D010996", "MESH:D010996"),
        ("http://id.nlm.nih.gov/mesh/D010996", "MESH:D010996"),
        ("SNOMEDCT_US:60046008", "SCTID:60046008"),
        ("http://snomed.info/id/60046008", "SCTID:60046008"),
        ("ncit:C3331", "NCIT:C3331"),
        ("DOID:4", "DOID:4"),
        ("http://example.org/x#y", "http://example.org/x#y"),
    ],
)
def test_an_id_is_written_in_one_way(written: str, curie: str) -> None:
    assert canonical_id(written) == curie
    assert canonical_id(curie) == curie
    assert is_usable_id(curie)


# Relations


def test_ends_of_relations() -> None:
    log = IngestLog()
    terms = (
        Term("HP:1", "one", parents=("HP:1", "HP:2", "HP:2", "HP:9", "HP:8", "GO:1", "GO:2", "http://x.org/a b")),
        Term("HP:2", "two"),
        Term("HP:8", "old", is_obsolete=True),
        Term("GO:1", "a process"),
        Term("HP:3", "three", relations=(("BFO:0000051", "HP:2"),)),
        Term("HP:4", "", parents=("HP:1",)),
    )
    edges = rows(tables_of(*terms, log=log), "edges")
    assert edges == {
        ("HP:1", "isa", "HP:2"),
        ("HP:1", "isa", "GO:1"),
        ("HP:1", "isa", "GO:2"),  # another vocabulary's: it may be a concept of another source
        ("HP:2", "part_of", "HP:3"),
    }
    assert log.rows_read["relations to terms of other sources"] == 1
    assert log.skipped == {
        "is_a: both ends are one term": 1,
        "is_a: dangling: the other end is no term, obsolete or without a name": 2,
        "is_a: other end is neither a CURIE nor an IRI": 1,
        "is_a: of an obsolete term, or one without an id or a name": 1,
        "relations: same row twice": 1,
        "terms: term without a name": 1,
    }
    assert log.first_defect["is_a: dangling: the other end is no term, obsolete or without a name"].endswith(
        "'HP:1 isa HP:9'"
    )


def test_a_fact_stated_from_both_sides_is_one() -> None:
    log = IngestLog()
    one = Term("HP:1", "one", relations=(("BFO:0000050", "HP:2"),))
    two = Term("HP:2", "two", relations=(("BFO:0000051", "HP:1"),))
    assert rows(tables_of(one, two, log=log), "edges") == {("HP:1", "part_of", "HP:2")}
    assert log.skipped == {"relations: same fact from its other side": 1}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_cycles_are_kept_as_they_are_and_hang_nothing(pairs: list[tuple[int, int]]) -> None:
    terms = [
        Term(f"HP:{child}", f"{child}", parents=tuple(f"HP:{parent}" for c, parent in pairs if c == child))
        for child in range(6)
    ]
    expected = {(f"HP:{child}", "isa", f"HP:{parent}") for child, parent in pairs if child != parent}
    assert rows(tables_of(*terms), "edges") == expected


# Terms, names, retired ids


def test_the_commonest_prefix_names_the_source() -> None:
    assert tables_of(Term("HP:1", "one"), Term("HP:2", "two"), Term("GO:1", "three")).name == "HPO"
    assert tables_of(Term("Abc:1", "one")).name == "ABC"
    assert tables_of(Term("HP:1", "one")).graphs[0].name == "HPO@unversioned"


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(InputError, match=r"tst\.x: no term with an id and a name"):
        tables_of(Term("HP:1", "old", is_obsolete=True), Term("HP 2", "bad id"), Term("HP:3"))


def test_a_term_declared_twice_is_one_term() -> None:
    log = IngestLog()
    one = Term("HP:1", "one", xrefs=("umls:C0000001",))
    again = Term("HP:1", "uno", synonyms=(Synonym("eins", language="de"),), xrefs=("umls:C0000001",))
    tables = tables_of(one, again, log=log)
    assert {(row[1], row[2], row[4]) for row in rows(tables, "names")} == {
        ("one", "en", True),
        ("uno", "en", False),
        ("eins", "de", True),
    }
    assert rows(tables, "matches") == {("HP:1", "exact", "umls:C0000001")}
    assert log.skipped == {"cross references: same row twice": 1}


def test_a_name_that_is_an_abbreviation_is_never_the_best_beside_a_full_one() -> None:
    term = Term("HP:1", "congestive heart failure", synonyms=(Synonym("CHF", kind="OMO:0003000"), Synonym(" ")))
    log = IngestLog()
    found = rows(tables_of(term, log=log), "names")
    assert ("HP:1", "CHF", "en", 5, False, True) in found
    assert log.skipped == {"synonyms: empty": 1}


@pytest.mark.parametrize("kind", ["abbreviation", "http://purl.obolibrary.org/obo/mondo#ABBREVIATION", "OMO:0003012",
                                  "http://purl.obolibrary.org/obo/OMO_0003000", "hp#acronym"])  # fmt: skip
def test_kinds_of_abbreviations(kind: str) -> None:
    assert Synonym("x", kind=kind).is_abbreviation
    assert not Synonym("x", kind="layperson").is_abbreviation


def test_retired_ids() -> None:
    log = IngestLog()
    terms = (
        Term("HP:1", "one", alt_ids=("HP:11", "HP:12", "HP:2", "HP:13")),
        Term("HP:2", "two", alt_ids=("HP:11",)),
        Term("HP:12", "old one", is_obsolete=True, replaced_by=("HP:1",)),
        Term("HP:13", "", is_obsolete=True, replaced_by=("HP:1",)),
        Term("HP:14", "split", is_obsolete=True, replaced_by=("HP:1", "MONDO:2", "HP:14", "HP:1")),
        Term("HP:15", "gone", is_obsolete=True),
    )
    assert rows(tables_of(*terms, log=log), "retired") == {
        ("HP:11", "merged", "HP:1"),
        ("HP:11", "merged", "HP:2"),
        ("HP:12", "obsolete", "HP:1"),
        ("HP:13", "merged", "HP:1"),
        ("HP:14", "obsolete", "HP:1"),
        ("HP:14", "obsolete", "MONDO:2"),
        ("HP:15", "obsolete", None),
    }
    assert log.skipped["alternative ids: it is a term itself, or malformed"] == 1
    assert log.skipped["replacements: malformed, or of a term by itself"] == 1


# Plain tables


MESH = (
    "D000001\tAnatomy things\t\tA01|Z09\t\nD000002\tLung\tLungs|Pulmo\tA01.100|Z09.001\t\n"
    "D000003\tLobe\tLobes\tA01.100.200\t7\nD000004\tFemale\t\t\t\nD000005\tLost\t\tB01.050\t\n"
)


def test_mesh_parents_follow_from_tree_numbers(tmp_path: Path) -> None:
    log = IngestLog()
    tables = read(tmp_path, MESH, log)
    assert tables.name == "MESH"
    assert rows(tables, "edges") == {("MESH:D000002", "isa", "MESH:D000001"), ("MESH:D000003", "isa", "MESH:D000002")}
    assert {row[1] for row in rows(tables, "names")} >= {"Lung", "Lungs", "Pulmo", "Female"}
    assert log.first_defect == {
        "is_a: no descriptor has the tree number above": f"{tmp_path}/x.tsv, line 5: 'D000005 B01'"
    }


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_table_with_a_header(tmp_path: Path, delimiter: str, line_end: str) -> None:
    lines = [
        ["parents", "ID", "Label", "synonyms", "definition", "xrefs", "note"],
        ["", "TST:1", "one", "uno| eins |", '"first, or\u2028""one"""', "UMLS:C0000001", "x"],
        ["TST:1|GO:1", "TST:2", "two", "", "", "", ""],
    ]
    text = line_end.join(delimiter.join(line) for line in lines) + line_end
    log = IngestLog()
    tables = read(tmp_path, "\ufeff" + text, log)
    assert rows(tables, "edges") == {("TST:2", "isa", "TST:1"), ("TST:2", "isa", "GO:1")}
    assert {row[1] for row in rows(tables, "names")} == {"one", "uno", "eins", "two"}
    assert rows(tables, "definitions") == {("TST:1", 'first, or\u2028"one"', "en")}
    assert rows(tables, "matches") == {("TST:1", "exact", "umls:C0000001")}
    assert log.skipped == {"columns: not read (read are: id, name, synonyms, definition, parents, xrefs)": 1}


def test_malformed_rows_are_counted_with_the_place_of_the_first(tmp_path: Path) -> None:
    log = IngestLog()
    tables = read(tmp_path, 'id\tname\nTST:1\tone\nTST:2\n\nTST:3\t\nTST 4\tfour\nTST:5\t"five\nTST:6\tsix\n', log)
    assert log.first_defect == {
        "terms: row with another number of columns than the header": f"{tmp_path}/x.tsv, line 3: 'TST:2'",
        "terms: term without a name": f"{tmp_path}/x.tsv, line 5: 'TST:3'",
        "terms: id is neither a CURIE nor an IRI": f"{tmp_path}/x.tsv, line 6: 'TST 4'",
    }
    assert {row[1] for row in rows(tables, "names")} == {"one", '"five', "six"}
    with pytest.raises(InputError, match=r"x\.tsv, line 3: .*another number of columns"):
        read(tmp_path, "id\tname\nTST:1\tone\nTST:2\n", IngestLog(strict=True))


def test_the_json_of_cellxgene(tmp_path: Path) -> None:
    log = IngestLog()
    value = {
        "MONDO:1": {"label": "disease", "ancestors": {}, "description": "A disposition.", "synonyms": ["disorder"]},
        "MONDO:2": {"label": "pneumonia", "ancestors": {"MONDO:1": 2, "MONDO:3": 1}, "deprecated": False},
        "MONDO:3": {"label": "lung disease", "ancestors": {"MONDO:1": 1}},
        "MONDO:4": {"label": "", "ancestors": {}, "deprecated": True, "replaced_by": "MONDO:3", "consider": ["x"]},
    }
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(value).encode()))
    tables = read_terms(tmp_path / "x.json.gz", log)
    assert rows(tables, "edges") == {("MONDO:2", "isa", "MONDO:3"), ("MONDO:3", "isa", "MONDO:1")}
    assert rows(tables, "retired") == {("MONDO:4", "obsolete", "MONDO:3")}
    assert ("MONDO:1", "disorder", "en", 5, False, False) in rows(tables, "names")
    assert log.skipped == {"terms: suggested instead of an obsolete term (consider)": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("hello\nworld\n", "line 1: not a table of terms: it begins 'hello'; expected one of: JSON of id"),
        ("id\tlabel\tname\nTST:1\tone\tuno\n", "line 1: two columns of the header mean the same"),
        ("id\tname\n", "no term with an id and a name"),
        ('{"a": 1}', "not a JSON of terms; expected one of"),
        ('{"graphs": []}', "not a JSON of terms; OBO graph JSON is read by `kgkit ingest obograph`"),
        ('{"A:1": {"label": "x", "ancestors": {}}, "A:2": 3}', "term 'A:2' is malformed"),
        ('{"A:1": {"label": "x", "ancestors": {}, "synonyms": [1]}}', "term 'A:1' is malformed"),
        ('{"A:1": ', "not readable as JSON"),
        ("\x00\x01", "not a table of terms"),
        ('id,name\nTST:1,one\nTST:2,"two\nTST:3,three\n', "line 3: not readable as CSV"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"x.tsv.*{re.escape(message)}"):
        read(tmp_path, text)


def test_bytes_that_are_no_utf8_are_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"id\tname\nTST:1\tone\nTST:2\t\xe9t\xe9\n")
    with pytest.raises(InputError, match=r"x.tsv, line 3: not UTF-8 .*0xe9"):
        read_terms(tmp_path / "x.tsv", IngestLog())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("terms") / "x.tsv"
    for start in (b"", b"id\tname\n", b"id,name,parents\nTST:1,one,\n", b"\x1f\x8b", MESH.encode()):
        path.write_bytes(start + data)
        try:
            tables = read_terms(path, IngestLog())
        except InputError:
            continue
        assert len(tables.concepts)


def test_the_command_adds_the_table(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "x.csv").write_text("id,name,parents\nTST:1,one,\nTST:2,two,TST:1|TST:7\n")
    code, printed, _ = command("kgkit", "ingest", "terms", tmp_path / "x.csv", "--out", tmp_path / "kg", "--json",
                               "--release", "3")  # fmt: skip
    assert code == 0
    assert json.loads(printed)["source"] == "TST@3"
    code, _, errors = command("kgkit", "ingest", "terms", tmp_path / "x.csv", "--out", tmp_path / "kg2", "--strict")
    assert code == 1
    assert "x.csv, line 3: is_a: dangling" in errors


# The files of the data folder, beside what their README says


def data_folder() -> Path:
    folder = os.environ.get("KGKIT_DATA")
    if not folder:
        pytest.skip("KGKIT_DATA is not set")
    return Path(folder) / "ontologies"


@pytest.mark.data
def test_hpo_equals_a_line_by_line_reading() -> None:
    path = data_folder() / "hpo" / "hp.obo.gz"
    log = IngestLog()
    tables = read_obo(path, log)
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        frames = [frame for frame in stream.read().split("\n\n") if frame.startswith("[Term]")]
    live = [frame for frame in frames if "\nis_obsolete: true" not in frame]
    assert (tables.name, tables.release) == ("HPO", "2025-01-16")
    assert (len(tables.concepts), log.rows_read["obsolete terms"]) == (len(live), len(frames) - len(live))
    assert (len(live), len(frames) - len(live)) == (19_034, 450)
    assert log.rows_read["cross references"] == sum(frame.count("\nxref: ") for frame in frames)
    ids = {frame: re.search(r"\nid: (\S+)", frame)[1] for frame in live}  # type: ignore[index]
    edges = {(ids[frame], "isa", parent) for frame in live for parent in re.findall(r"\nis_a: (\S+)", frame)}
    assert rows(tables, "edges") == edges
    cuis = {ids[frame]: set(re.findall(r"\nxref: UMLS:(C\d{7})", frame)) for frame in live}
    holders = Counter(cui for found in cuis.values() for cui in found)
    exact = {(term, f"umls:{cui}") for term, found in cuis.items() for cui in found
             if len(found) == 1 and holders[cui] == 1}  # fmt: skip
    matches = rows(tables, "matches")
    assert {(subject, other) for subject, kind, other in matches if kind == "exact"} == exact
    assert sum(other.startswith("umls:") for _, _, other in matches) == sum(map(len, cuis.values()))


@pytest.mark.data
@pytest.mark.parametrize(
    ("reader", "name", "expected"),
    [
        (read_terms, "mondo/mondo_terms.json.gz",
         {"concepts": 27_990, "retired": 3_968, "synonyms": 72_116, "definitions": 19_909, "is_a": 41_908}),
        (read_obograph, "ncit/ncit_disease_obograph.json.gz",
         {"concepts": 20_324, "synonyms": 61_741, "definitions": 17_180, "is_a": 29_060, "relations": 21_144}),
        (read_obo, "uberon/uberon_import.obo.gz",
         {"concepts": 7_576, "definitions": 5_181, "is_a": 12_728, "relations": 11_593}),  # one term has no name
        (read_terms, "uberon/uberon_terms.json.gz",
         {"concepts": 14_971, "retired": 1_387, "synonyms": 26_232, "definitions": 12_551, "is_a": 31_692}),
        (read_terms, "mesh/mesh_descriptors.tsv.gz", {"concepts": 30_764, "synonyms": 137_409}),
    ],
)  # fmt: skip
def test_counts_are_those_of_the_readme(
    reader: Callable[[Path, IngestLog], SourceTables], name: str, expected: dict[str, int]
) -> None:
    log = IngestLog()
    tables = reader(data_folder() / name, log)
    found = {"concepts": len(tables.concepts), "retired": len(tables.retired)} | log.rows_read
    assert {key: found[key] for key in expected} == expected
