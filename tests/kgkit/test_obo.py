"""OBO files: what is read, and that other files are refused by name and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_ontology
from hypothesis import given
from hypothesis import strategies as st
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.obo import read_obo

HEADER = "format-version: 1.4\nontology: tst\n\n"


def read(folder: Path, text: str, log: IngestLog | None = None) -> SourceTables:
    path = folder / "tst.obo"
    path.write_text(text, encoding="utf-8")
    return read_obo(path, log or IngestLog())


def test_plain_gzipped_and_windows_files_are_read_alike(tmp_path: Path) -> None:
    expected = content(read(tmp_path, tiny_ontology.OBO))
    zipped = tmp_path / "other.obo.gz"
    zipped.write_bytes(gzip.compress(tiny_ontology.OBO.encode()))
    assert content(read_obo(zipped, IngestLog())) == expected
    (tmp_path / "windows.obo").write_bytes(tiny_ontology.OBO.replace("\n", "\r\n").encode())
    assert content(read_obo(tmp_path / "windows.obo", IngestLog())) == expected


def test_the_options_name_the_source(tmp_path: Path) -> None:
    (tmp_path / "tst.obo").write_text(tiny_ontology.OBO)
    tables = read_obo(tmp_path / "tst.obo", IngestLog(), "My own", "1 (draft)", 3)
    assert (tables.name, tables.release) == ("My_own", "1__draft_")
    assert [(graph.name, graph.licence_level) for graph in tables.graphs] == [("My_own@1__draft_", 3)]


def test_ids_without_a_prefix_belong_to_their_ontology_and_declared_spaces_hold(tmp_path: Path) -> None:
    text = (
        "format-version: 1.4\nontology: sty\nidspace: sty https://uts.nlm.nih.gov/uts/umls/semantic-network/\n"
        'idspace: omim https://omim.org/entry/ "OMIM"\n\n'
        "[Term]\nid: LIVB\nname: Living Beings\n\n[Term]\nid: sty:T001\nname: Organism\nis_a: LIVB\n\n"
        "[Term]\nid: omim:1\nname: A disease\nis_a: MP:1\n"
    )
    livb = "http://purl.obolibrary.org/obo/sty#LIVB"
    expected = {("STY:T001", "isa", livb), ("https://omim.org/entry/1", "isa", "MP:1")}
    assert rows(read(tmp_path, text), "edges") == expected


def test_relations_are_named_by_the_file_or_by_what_their_id_is_known_as(tmp_path: Path) -> None:
    terms = "[Term]\nid: TST:1\nname: one\n\n[Term]\nid: TST:2\nname: two\n" + "".join(
        f"relationship: {relation} TST:1\n" for relation in ("RO:0002202", "inheres_in", "RO:0009999", "BFO:0000050")
    )
    text = f"{HEADER}{terms}\n[Typedef]\nid: BFO:0000050\nname: Part of (core)\n"
    assert read(tmp_path, text).relations.to_list() == ["0009999", "develops_from", "inheres_in", "part_of_core"]


def test_unused_statements_are_counted(tmp_path: Path) -> None:
    log = IngestLog()
    text = (
        f"{HEADER}[Term]\nid: TST:1\nname: one\nname: uno\nequivalent_to: TST:2\nunion_of: TST:3\nunion_of: TST:4\n"
        "disjoint_from: TST:5\n\n[Instance]\nid: x\nname: x\n"
    )
    tables = read(tmp_path, text, log)
    assert {row[1] for row in rows(tables, "names")} == {"one", "uno"}
    assert log.skipped == {
        "axioms: equivalent class (not an edge)": 1,
        "axioms: union (not an edge)": 2,
        "axioms: disjointness (not an edge)": 1,
        "frames: instance (no term)": 1,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty; expected an ontology in OBO format"),
        (b"<?xml version='1.0'?>", "line 1: not readable as OBO .*<.xml"),
        (b"\x00\x01\xff\xfe", "not readable as OBO .*UTF-8"),
        (HEADER.encode() + b"[Term]\nid: TST:1\nname: \xff\n", "not readable as OBO .*UTF-8"),
        (HEADER.encode() + b"[Term]\nid: TST:1\nname: one\nis_a: ", "line 7: not readable as OBO"),
        (HEADER.encode() + b"[Term]\nname: one\n", "line 5: not readable as OBO"),
        (HEADER.encode() + b"[Term]\nid: TST:1\nsynonym: \"x\" WIDE []\n", "line 6: not readable as OBO"),
        (HEADER.encode(), "no term with an id and a name"),
        (gzip.compress(tiny_ontology.OBO.encode(), mtime=0)[:-40], "damaged gzip stream"),
        (gzip.compress(b"", mtime=0)[:8] + b"\x07" * 30, "damaged gzip stream"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.obo"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"x.obo.*{message}"):
        read_obo(path, IngestLog())


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_obo(tmp_path / "none.obo", IngestLog())
    with pytest.raises(InputError, match="this is a folder"):
        read_obo(tmp_path, IngestLog())


@given(position=st.integers(0, len(tiny_ontology.OBO)), put=st.binary(max_size=4), cut=st.integers(0, 30))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, position: int, put: bytes,
                                           cut: int) -> None:  # fmt: skip
    data = tiny_ontology.OBO.encode()
    path = tmp_path_factory.mktemp("obo") / "x.obo"
    path.write_bytes(data[:position] + put + data[position + cut :])
    try:
        tables = read_obo(path, IngestLog())
    except InputError:
        return
    assert len(tables.concepts)


def test_the_command_adds_the_ontology(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    path = tmp_path / "tst.obo"
    path.write_text(tiny_ontology.OBO)
    code, printed, _ = command("kgkit", "ingest", "obo", path, "--out", tmp_path / "kg", "--name", "TINY")
    assert code == 0
    assert printed.startswith("TINY@2026-01-31: ")
    code, printed, errors = command("kgkit", "ingest", "obo", tmp_path / "none.obo", "--out", tmp_path / "kg2")
    assert (code, printed) == (1, "")
    assert "no such file" in errors
    assert not (tmp_path / "kg2").exists()
