"""The numbers of a graph, beside slow counts of the same."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import polars as pl
import pytest
from graphs import ROOT
from tiny_union import report_tables

from kgkit.graph.info import graph_info, info_text
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.sources.base import IngestLog
from kgkit.views.triples import open_triples


def test_the_numbers_of_a_small_graph(union_kg_dir: Path) -> None:
    graph = KnowledgeGraph(union_kg_dir)
    info = graph_info(graph)
    assert info.graph_digest == graph.digest
    assert info.counts == {
        "statements": len(graph.store),
        "named graphs": 5 + 2,  # vocabularies, corpus and the UMLS's own; preferred names, relations
        "concepts": 8,
        "names": 14,
        "triples": 6,
        "relations": 3,
        "retired ids": 4,
    }
    assert info.relations == (("isa", 4), ("cause_of", 1), ("has_finding_site", 1))
    assert info.concepts_by_vocabulary == {"TST": 6, "HP": 2, "HPO": 2}
    assert info.concepts_by_prefix == {"umls": 7, "HP": 2}
    assert (info.components.count, info.components.largest, info.components.by_size) == (2, 7, ((7, 1), (1, 1)))
    assert info.components.largest_share == 7 / 8
    assert info.components.largest_share_by_prefix == {"umls": 6 / 7, "HP": 1.0}
    assert info.merged.by_size == ((2, 1),)
    assert (info.merged.with_two_cuis, info.merged.with_placeholders) == (0, 0)
    source = info.sources["umls@2026AA"]
    assert source.licence_level == 3
    assert source.rows_read == {"TABLE": 10}
    assert source.skipped == {"TABLE: another language": 3, "TABLE: no such concept": 2}
    assert source.first_defect == {"TABLE: no such concept": "TABLE.RRF, line 7: 'C0'"}
    assert source.checks == ("TABLE: row count verified",)
    assert ("TST@1", "Test vocabulary", 3) in source.graphs


def test_the_numbers_of_the_bundled_graph_are_those_of_slow_counts(thorax_kg_dir: Path) -> None:
    graph = KnowledgeGraph(thorax_kg_dir)
    view, info = open_triples(graph.views), graph_info(graph)
    network = nx.Graph()
    network.add_nodes_from(range(view.num_concepts))
    network.add_edges_from(view.triples[:, [0, 2]].tolist())
    sizes = [len(component) for component in nx.connected_components(network)]
    assert info.components.count == len(sizes)
    assert dict(info.components.by_size) == Counter(sizes)
    assert info.components.largest_share == max(sizes) / view.num_concepts
    assert dict(info.relations) == Counter(view.relations[row] for row in view.triples[:, 1])
    assert [count for _, count in info.relations] == sorted(dict(info.relations).values(), reverse=True)
    names = pl.read_parquet(graph.views / "names.parquet")
    users = {(source, concept) for concept, source in names.select("concept", "source").iter_rows()}
    assert info.concepts_by_vocabulary == Counter(source for source, _ in users)


@pytest.mark.parametrize(
    ("members", "two", "with_placeholders"),
    [
        (["HP:1", "umls:C0000001"], 0, 0),
        (["umls:C0000001", "umls:C0000002"], 1, 1),
        (["umls:C0000001", "umls:C9000002"], 0, 1),
    ],
)
def test_classes_with_two_cuis_are_counted(
    union_kg_dir: Path, tmp_path: Path, members: list[str], two: int, with_placeholders: int
) -> None:
    kg = shutil.copytree(union_kg_dir, tmp_path / "kg")
    path = KnowledgeGraph(kg).views / "concepts.parquet"
    concepts = pl.read_parquet(path)
    other = pl.Series([members] + [[concept] for concept in concepts["concept"][1:]])
    concepts.with_columns(members=other).write_parquet(path)
    merged = graph_info(KnowledgeGraph(kg)).merged
    assert (merged.by_size, merged.with_two_cuis, merged.with_placeholders) == (((2, 1),), two, with_placeholders)


def test_a_graph_of_reports_alone_has_numbers_too(tmp_path: Path) -> None:
    ingest(tmp_path / "kg", report_tables(), IngestLog())
    info = graph_info(KnowledgeGraph(tmp_path / "kg"))
    assert (info.counts["concepts"], info.components.count, info.merged.by_size) == (0, 0, ())
    assert "merged classes (number of ids): none" in info_text(info)


def test_the_command_prints_what_people_ask(union_kg_dir: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("kgkit", "info", union_kg_dir)
    assert code == 0
    for line in (
        "           8  concepts", f"digest {KnowledgeGraph(union_kg_dir).digest}", "  read: TABLE 10",
        "umls@2026AA: 77 statements, licence level 3", "  skipped 3: TABLE: another language",
        "  skipped 2: TABLE: no such concept; first: TABLE.RRF, line 7: 'C0'", "  checked: TABLE: row count verified",
        "components: 2; the largest holds 7 concepts (87.5%)", "  sizes: 7, 1",
        "  in the largest, by prefix: umls 85.7%, HP 100.0%", "merged classes (number of ids): 1 of 2",
        "  with two CUIs: 0; placeholders counted too: 0", "relations (3)", "           4  isa",
    ):  # fmt: skip
        assert line in out.splitlines(), line
    _, out, _ = command("kgkit", "info", union_kg_dir, "--json")
    info = json.loads(out)
    assert set(info["sources"]) == {"hpo@2026", "notes@1", "umls@2026AA"}
    assert info["components"]["by_size"] == [[7, 1], [1, 1]]
    assert "... and 2 more" in info_text(graph_info(KnowledgeGraph(union_kg_dir)), limit=1)


def test_the_demos_report_reads_the_answer(
    thorax_kg_dir: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from demo_report import _graph

    _, answer, _ = command("kgkit", "info", thorax_kg_dir, "--json")
    (tmp_path / "relations.tsv").write_text("relation\tn\nrela:isa\t10\n", encoding="utf-8")
    page = _graph(json.loads(answer), tmp_path / "relations.tsv")
    assert "umls unversioned" in page
    assert "MRREL 33,596" in page
