"""The Semantic Network: types by tree number, statements by name."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog
from kgkit.sources.semantic_network import read_semantic_network

SRDEF = """STY|T071|Entity|A|A broad type for grouping entities.||NULL||enty||
STY|T072|Physical Object|A1|An object.||||phob||
STY|T001|Organism|A1.1|Generally, a living individual.||Few concepts.|Y|orgm||
STY|T005|Virus|A1.1.4|An organism of a single nucleic acid.||NULL||virs||
STY|T051|Event|B|||NULL||evnt||
STY|T047|Disease or Syndrome|B2.2.1.2.1|A condition.||NULL||dsyn||
RL|T147|causes|R3.2.2|Brings about a condition or an effect.||||CA|caused_by|
RL|T133|part_of|R1.1|Composes.||||PT|has_part|
RL|T132|physically_related_to|R1|Related.||||PR|physically_related_to|
"""
SRSTR = """Entity|isa||D|
Organism|isa|Physical Object|D|
Virus|causes|Disease or Syndrome|D|
Virus|part_of|Virus|DNI|
Disease or Syndrome|causes|Virus|B|
Organism|has_part|Virus|DNI|
part_of|isa|physically_related_to|D|
Virus|causes|Nonsense|D|
"""
TREE = {("STY:T072", "isa", "STY:T071"), ("STY:T001", "isa", "STY:T072"), ("STY:T005", "isa", "STY:T001")}


def test_types_are_concepts_and_tree_numbers_their_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "SRDEF").write_text(SRDEF)
    log = IngestLog()
    tables = read_semantic_network(tmp_path, log)
    assert content(read_semantic_network(tmp_path / "SRDEF", IngestLog())) == content(tables)
    assert tables.graphs[0].name == "SEMNET@unversioned"
    assert ("STY:T001", "Organism", "en", 1, True, False) in rows(tables, "names")
    assert len(tables.concepts) == len(tables.names) == 6
    assert ("STY:T005", "An organism of a single nucleic acid.", "en") in rows(tables, "definitions")
    assert len(tables.definitions) == 5
    assert rows(tables, "edges") == TREE
    assert {row for row in rows(tables, "attributes") if row[0] == "STY:T001"} == {
        ("STY:T001", "STN", "A1.1"),
        ("STY:T001", "ABR", "orgm"),
        ("STY:T001", "UN", "Few concepts."),
    }
    assert not [row for row in rows(tables, "attributes") if row[2] == "NULL"]
    assert log.skipped == {"SRDEF: a relation, no type": 3, "SRDEF: no type has the tree number above": 1}


@pytest.mark.parametrize("inside", ["", "NET"])
def test_statements_are_edges(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (folder / "SRDEF.gz").write_bytes(gzip.compress(SRDEF.replace("\n", "\r\n").encode()))
    (folder / "SRSTR").write_text(SRSTR)
    log = IngestLog()
    tables = read_semantic_network(tmp_path, log, release="2026AA")
    assert rows(tables, "edges") == TREE | {
        ("STY:T005", "causes", "STY:T047"),
        ("STY:T005", "part_of", "STY:T001"),  # stated from its other side
    }
    assert {reason: count for reason, count in log.skipped.items() if reason.startswith("SRSTR")} == {
        "SRSTR: blocked (LS=B)": 1,
        "SRSTR: a root: it has no other end": 1,
        "SRSTR: between relations": 1,
        "SRSTR: both ends are one type": 1,
        "SRSTR: an end is no type of SRDEF": 1,
        "SRSTR: same statement twice, or isa that the tree numbers give": 1,
    }
    assert tables.release == "2026AA"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SRDEF in this folder"):
        read_semantic_network(tmp_path, IngestLog())
    with pytest.raises(InputError, match="no such file"):
        read_semantic_network(tmp_path / "none", IngestLog())
    path = tmp_path / "SRDEF"
    for data, message in (
        (b"", "the file is empty"),
        (b"id\tname\n", "no semantic type"),
        (b"\x00\xff", "line 1: not UTF-8"),
        (SRDEF.splitlines()[-1].encode(), "no semantic type"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"SRDEF.*{message}"):
            read_semantic_network(path, IngestLog())
    path.write_text(SRDEF[:-20])
    log = IngestLog()
    read_semantic_network(path, log)
    assert f"{path}, line 9: " in log.first_defect["SRDEF: row with a wrong number of columns"]
    with pytest.raises(InputError, match="SRDEF, line 9: SRDEF: row with a wrong number of columns"):
        read_semantic_network(path, IngestLog(strict=True))


def test_the_command_adds_the_network(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "SRDEF").write_text(SRDEF)
    code, printed, _ = command("kgkit", "ingest", "semantic-network", tmp_path, "--out", tmp_path / "kg")
    assert code == 0
    assert printed.startswith("SEMNET@unversioned: ")


@pytest.mark.data
def test_the_network_of_the_data_folder() -> None:
    folder = os.environ.get("KGKIT_DATA")
    if not folder:
        pytest.skip("KGKIT_DATA is not set")
    log = IngestLog()
    tables = read_semantic_network(Path(folder) / "ontologies" / "semantic_network", log)
    assert (len(tables.concepts), len(tables.definitions), len(tables.edges)) == (133, 133, 131)
    assert log.skipped == {"SRDEF: a relation, no type": 54}
