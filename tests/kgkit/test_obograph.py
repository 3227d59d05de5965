"""OBO graph JSON: what is read, and that other JSON is refused by place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_ontology
from hypothesis import given
from hypothesis import strategies as st
from tables import content, rows

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.obograph import read_obograph
from kgkit.sources.term_tables import read_terms


def read(folder: Path, value: Any, log: IngestLog | None = None) -> SourceTables:
    path = folder / "tst.json"
    path.write_text(json.dumps(value))
    return read_obograph(path, log or IngestLog())


def graph(nodes: list[Any], edges: Sequence[Any] = ()) -> dict[str, Any]:
    return {"graphs": [{"nodes": nodes, "edges": list(edges)}]}


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(tiny_ontology.obograph())
    (tmp_path / "b").write_bytes(gzip.compress(tiny_ontology.obograph().encode()))
    found = [content(read_obograph(tmp_path / name, IngestLog())) for name in ("a.json", "b")]
    assert found[0] == found[1]


def test_graphs_of_one_file_are_read_as_one(tmp_path: Path) -> None:
    nodes = [{"id": "TST:1", "lbl": "one", "type": "CLASS"}, {"id": "TST:2", "lbl": "two", "type": "CLASS"}]
    edges = [{"sub": "TST:2", "pred": "is_a", "obj": "TST:1"}]
    parts = {"graphs": [graph(nodes[:1])["graphs"][0], graph(nodes, edges)["graphs"][0]]}
    log = IngestLog()
    assert rows(read(tmp_path, parts, log), "edges") == {("TST:2", "isa", "TST:1")}
    assert log.rows_read["terms declared again (joined)"] == 1


def test_nodes_that_are_no_classes_are_counted(tmp_path: Path) -> None:
    nodes = [
        {"id": "TST:1", "lbl": "one", "type": "CLASS"},
        {"id": "TST:2", "lbl": "two"},
        {"id": "TST:3"},
        {"id": "TST:i", "lbl": "an individual", "type": "INDIVIDUAL"},
    ]
    edges = [{"sub": "TST:i", "pred": "type", "obj": "TST:1"}]
    log = IngestLog()
    tables = read(tmp_path, graph(nodes, edges), log)
    assert rows(tables, "concepts") == {("TST:1", False), ("TST:2", False)}
    assert log.skipped == {
        "nodes: no class (of no type)": 1,
        "nodes: no class (INDIVIDUAL)": 1,
        "relations: between properties or individuals": 1,
    }


def test_the_json_of_terms_is_read_by_the_same_command(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"MONDO:1": {"label": "one", "ancestors": {}, "deprecated": False}}))
    assert content(read_obograph(path, IngestLog())) == content(read_terms(path, IngestLog()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("format-version: 1.2", "line 1: not readable as JSON"),
        ('{"graphs": [\n{"nodes"', "line 2: not readable as JSON"),
        ("[1, 2]", "no list of graphs in this JSON"),
        ('{"graphs": [3]}', "no list of graphs in this JSON"),
        ('{"graphs": [{"nodes": [{"lbl": "x"}]}]}', "node 1 is malformed .KeyError"),
        ('{"graphs": [{"nodes": [], "edges": [{"sub": "A:1"}]}]}', "edge 1 is malformed"),
        ('{"graphs": [{"nodes": [{"id": "A:1", "lbl": 4, "type": "CLASS"}]}]}', "node 1 is malformed"),
        ('{"graphs": [{"nodes": [{"id": "A:1", "lbl": "\\ud800", "type": "CLASS"}]}]}', "half a character"),
        ('{"graphs": []}', "no term with an id and a name"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"graphs": ' + "9" * 5000 + "}", "not readable as JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"x.json.*{message}"):
        read_obograph(path, IngestLog())


@given(st.data())
def test_a_value_of_another_kind_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    value = json.loads(tiny_ontology.obograph())
    inner = value
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(st.sampled_from([None, 1, "", "x y", [], [1], {}, {"a": None}, True]))
    path = tmp_path_factory.mktemp("graph") / "x.json"
    path.write_text(json.dumps(value))
    try:
        tables = read_obograph(path, IngestLog())
    except InputError:
        return
    assert len(tables.concepts)
