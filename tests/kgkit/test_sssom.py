"""SSSOM mappings: which become matches, and that nothing is lost in silence."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.sssom import read_sssom

HEAD = """# curie_map:
#   MONDO: http://purl.obolibrary.org/obo/MONDO_
#   UMLS: http://linkedlifedata.com/resource/umls/id/
#   ORDO: http://www.orpha.net/ORDO/Orphanet_
#   myskos: http://www.w3.org/2004/02/skos/core#
# mapping_set_id: http://example.org/mappings/mondo_some.sssom.tsv
# mapping_set_version: http://example.org/releases/2026-08-04/mondo_some.sssom.tsv
# mapping_set_title: Some mappings
"""
COLUMNS = "subject_id\tsubject_label\tpredicate_id\tpredicate_modifier\tobject_id\tconfidence\n"


def read(folder: Path, text: str, log: IngestLog | None = None, name: str = "x.sssom.tsv") -> SourceTables:
    (folder / name).write_text(text, encoding="utf-8")
    return read_sssom(folder / name, log or IngestLog())


def row(subject: str, predicate: str, other: str, modifier: str = "", label: str = "x", confidence: str = "") -> str:
    return f"{subject}\t{label}\t{predicate}\t{modifier}\t{other}\t{confidence}\n"


def test_every_kind_of_match(tmp_path: Path) -> None:
    log = IngestLog()
    text = HEAD + COLUMNS
    for number, (predicate, other) in enumerate(
        [
            ("skos:exactMatch", "UMLS:C0000001"),
            ("myskos:closeMatch", "NCIT:C1"),
            ("skos:broadMatch", "mesh:D000001"),
            ("skos:narrowMatch", "ORDO:7"),
            ("skos:relatedMatch", "http://example.org/x"),
            ("owl:equivalentClass", "DOID:4"),
        ]
    ):
        text += row(f"MONDO:{number}", predicate, other, label='"Quoted, ""label"""')
    tables = read(tmp_path, text, log)
    assert rows(tables, "matches") == {
        ("MONDO:0", "exact", "umls:C0000001"),
        ("MONDO:1", "close", "NCIT:C1"),
        ("MONDO:2", "broad", "MESH:D000001"),
        ("MONDO:3", "narrow", "http://www.orpha.net/ORDO/Orphanet_7"),
        ("MONDO:4", "related", "http://example.org/x"),
        ("MONDO:5", "exact", "DOID:4"),
    }
    assert (tables.name, tables.release, tables.graphs[0].title) == ("mondo_some", "2026-08-04", "Some mappings")
    assert log.rows_read["mappings"] == 6
    assert not log.skipped
    assert tables.concepts.is_empty()


def test_rows_that_state_no_match_are_counted(tmp_path: Path) -> None:
    log = IngestLog()
    text = HEAD + COLUMNS + row("MONDO:1", "skos:exactMatch", "UMLS:C0000001", confidence="0.1")
    text += row("MONDO:1", "skos:exactMatch", "UMLS:C0000001", confidence="0.2")
    text += row("MONDO:1", "skos:exactMatch", "UMLS:C0000002", "Not") + row("MONDO:1", "oio:hasDbXref", "OMIM:1")
    text += row("MONDO:1", "skos:exactMatch", "sssom:NoTermFound") + row("MONDO:1", "skos:closeMatch", "MONDO:1")
    text += row("MONDO:1", "skos:exactMatch", "UMLS:1") + row("", "skos:exactMatch", "UMLS:C0000003") + "MONDO:1\tx\n"
    assert rows(read(tmp_path, text, log), "matches") == {("MONDO:1", "exact", "umls:C0000001")}
    assert log.skipped == {
        "mappings: same mapping twice": 1,
        "mappings: negated predicate (predicate_modifier)": 1,
        "mappings: predicate states no match: oio:hasDbXref": 1,
        "mappings: states that there is no such term": 1,
        "mappings: both ends are one id": 1,
        "mappings: id is neither a CURIE nor an IRI, or no CUI": 2,
        "mappings: row with another number of columns than the header": 1,
    }
    assert log.first_defect["mappings: id is neither a CURIE nor an IRI, or no CUI"] == (
        f"{tmp_path}/x.sssom.tsv, line 16: 'umls:1'"
    )
    with pytest.raises(InputError, match="line 16"):
        read(tmp_path, text, IngestLog(strict=True))


def test_a_lone_quote_is_a_character(tmp_path: Path) -> None:
    log = IngestLog()
    good = row("MONDO:1", "skos:exactMatch", "UMLS:C0000001")
    lone = row("MONDO:2", "skos:exactMatch", "UMLS:C0000002", label='"x') + row("MONDO:3", "skos:closeMatch", "HP:1")
    assert len(read(tmp_path, HEAD + COLUMNS + good + lone, log).matches) == log.rows_read["mappings"] == 3
    assert not log.skipped


def test_the_name_and_release_come_from_the_file_where_the_set_has_none(tmp_path: Path) -> None:
    body = COLUMNS + row("MONDO:1", "skos:exactMatch", "UMLS:C0000001")
    bare = read(tmp_path, body, name="my set.sssom.tsv")
    assert (bare.name, bare.release) == ("my_set", "unversioned")
    dated = "# mapping_set_id: https://w3id.org/sssom/mappings/4f1c\n# mapping_date: 2020-05-30\n" + body
    found = read(tmp_path, dated)
    assert (found.name, found.release) == ("x", "2020-05-30")
    assert rows(found, "matches") == rows(bare, "matches") == {("MONDO:1", "exact", "umls:C0000001")}


def test_gzip_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    text = HEAD + COLUMNS + row("MONDO:1", "skos:exactMatch", "UMLS:C0000001")
    expected = content(read(tmp_path, text))
    (tmp_path / "z.tsv.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    assert content(read_sssom(tmp_path / "z.tsv.gz", IngestLog())) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("format-version: 1.2\n", "line 1: no column 'subject_id' in the header; expected SSSOM/TSV"),
        ("# only: comments\n", "line 2: no column 'subject_id'"),
        ("# only: comments", "no column 'subject_id'"),
        ("# curie_map: [\n" + COLUMNS, "the comment block is not YAML"),
        ("# a list\n" + COLUMNS, "the comment block is no map"),
        ("# curie_map: x\n" + COLUMNS, "curie_map is not a map"),
        (HEAD + COLUMNS, "no mapping of a kind that states a match"),
        ("\x00\x01", "no column 'subject_id'|not readable"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"x.sssom.tsv.*({message})"):
        read(tmp_path, text)


@given(position=st.integers(0, 600), put=st.binary(max_size=4), cut=st.integers(0, 30))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, position: int, put: bytes,
                                           cut: int) -> None:  # fmt: skip
    data = (HEAD + COLUMNS + row("MONDO:1", "skos:exactMatch", "UMLS:C0000001") * 3).encode()
    path = tmp_path_factory.mktemp("sssom") / "x.tsv"
    path.write_bytes(data[:position] + put + data[position + cut :])
    try:
        tables = read_sssom(path, IngestLog())
    except InputError:
        return
    assert len(tables.matches)


def test_the_command_adds_the_mappings(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "x.tsv").write_text(HEAD + COLUMNS + row("MONDO:1", "skos:exactMatch", "UMLS:C0000001"))
    code, printed, _ = command("kgkit", "ingest", "sssom", tmp_path / "x.tsv", "--out", tmp_path / "kg")
    assert code == 0
    assert printed.startswith("mondo_some@2026-08-04: ")


@pytest.mark.data
@pytest.mark.parametrize(("target", "prefix", "count"), [("umls", "umls", 21_660), ("ncit", "NCIT", 7_304),
                                                         ("mesh", "MESH", 8_181)])  # fmt: skip
def test_the_mappings_of_mondo(target: str, prefix: str, count: int) -> None:
    folder = os.environ.get("KGKIT_DATA")
    if not folder:
        pytest.skip("KGKIT_DATA is not set")
    log = IngestLog()
    path = Path(folder) / "ontologies" / "mondo" / f"mondo_exactmatch_{target}.sssom.tsv.gz"
    tables = read_sssom(path, log)
    assert (tables.name, tables.release) == (f"mondo_exactmatch_{target}", "2026-08-04")
    kinds = Counter((subject.partition(":")[0], kind, other.partition(":")[0])
                    for subject, kind, other in rows(tables, "matches"))  # fmt: skip
    assert kinds == {("MONDO", "exact", prefix): count}
    assert not log.skipped
