"""Below a licence level nothing of a higher vocabulary remains; removing a source leaves a graph that never had it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from graphs import RADGRAPH, ingest_radgraph, ingest_umls
from hypothesis import given, settings
from hypothesis import strategies as st
from rrf import Rrf

from kgkit.errors import InputError
from kgkit.graph.filter import filtered, without_graphs
from kgkit.graph.store import KnowledgeGraph, remove
from kgkit.sources.base import TABLES, IngestLog, SourceTables, decode_table
from kgkit.sources.umls import UmlsOptions, read_umls

SABS = ("LOW", "MID", "TOP")
WHAT = st.sampled_from(["name", "rel", "def", "type"])
ROWS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from(SABS), WHAT), min_size=1, max_size=40)


def layout(folder: Path) -> list[str]:
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return sorted(path for path in paths if "store." not in path)


def release(rows: list[tuple[int, int, str, str]], levels: dict[str, int]) -> Rrf:
    """Every string tells its vocabulary: `LOW name 3`."""
    rrf = Rrf()
    for sab in SABS:
        rrf.atom("C0000007", f"{sab} name 7", sab, code=f"{sab}-7", values={"SRL": str(levels[sab])})
    for one, two, sab, what in rows:
        cui, other = f"C000000{one}", f"C000000{two}"
        if what == "name":
            rrf.atom(cui, f"{sab} name {one}", sab, code=f"{sab}-{one}", values={"SRL": str(levels[sab])})
        elif what == "def":
            rrf.definition(cui, f"{sab} definition {one}", {"SAB": sab})
        elif what == "rel":
            rrf.relation(cui, "RO", other, f"{sab}_relation_of", {"SAB": sab})
        else:
            rrf.semantic_type(cui, "T047")
    return rrf


def spelled(tables: SourceTables) -> dict[str, Any]:
    frames = {name: sorted(map(str, decode_table(tables, name).rows())) for name in TABLES}
    return frames | {"graphs": tables.graphs, "ids": tables.ids.to_list(), "relations": tables.relations.to_list()}


@settings(max_examples=40)
@given(ROWS, st.sets(st.sampled_from(SABS), max_size=2))
def test_leaving_a_vocabulary_out_later_is_leaving_it_out_at_once(
    rows: list[tuple[int, int, str, str]], out: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = release(rows, dict.fromkeys(SABS, 0)).write(Path(name))
        whole = read_umls(folder, IngestLog())
        at_once = read_umls(folder, IngestLog(), options=UmlsOptions(without=tuple(sorted(out))))
    later = without_graphs(whole, [graph for graph in whole.graphs if graph.name.partition("@")[0] in out])
    assert spelled(later) == spelled(at_once)


@settings(max_examples=15)
@given(ROWS, st.fixed_dictionaries({sab: st.integers(0, 4) for sab in SABS}), st.integers(0, 4))
def test_no_string_and_no_edge_of_a_higher_vocabulary_gets_out(
    rows: list[tuple[int, int, str, str]], levels: dict[str, int], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        ingest_umls(release(rows, levels).write(Path(name) / "META"), Path(name) / "kg")
        graph = KnowledgeGraph(Path(name) / "kg")
        if min(levels.values()) > limit:
            with (
                pytest.raises(InputError, match=f"no vocabulary has licence level {limit} or less"),
                filtered(graph, limit),
            ):
                pass
            return
        with filtered(graph, limit) as part:
            text = "\n".join(part.lines())
            views = [pl.read_parquet(path).write_json() for path in sorted(part.views.glob("*.parquet"))]
    for sab in SABS:
        said = [sab in text, any(sab in view for view in views)]
        assert said == [levels[sab] <= limit] * 2, sab


def test_what_the_limit_does_not_touch_stays_to_the_letter(tiny_kg_dir: Path) -> None:
    graph = KnowledgeGraph(tiny_kg_dir)
    with filtered(graph, 9) as part:
        assert sorted(part.lines()) == sorted(graph.lines())
    with filtered(graph, 0) as part:
        lines = list(part.lines())
        assert part.kept_graphs == {"HPO@2025-01-16", "TST@2026-01", "UMLS@unversioned"}
    assert not [line for line in lines if "/report/" in line]  # reports are licensed as a rule
    assert not part.views.exists()


def test_removing_a_source_leaves_a_graph_that_never_had_it(
    tiny_rrf_dir: Path, tiny_kg_dir: Path, tmp_path: Path
) -> None:
    kg, alone = tmp_path / "kg", tmp_path / "alone"
    ingest_umls(tiny_rrf_dir, alone)
    ingest_umls(tiny_rrf_dir, kg)
    ingest_radgraph(RADGRAPH, kg)
    assert KnowledgeGraph(kg).digest == KnowledgeGraph(tiny_kg_dir).digest
    digest = remove(kg, "RadGraph")
    assert digest == KnowledgeGraph(alone).digest
    graphs = [KnowledgeGraph(folder) for folder in (kg, alone)]
    assert graphs[0].manifest == graphs[1].manifest
    assert layout(kg) == layout(alone)
    assert sorted(map(str, graphs[0].store)) == sorted(map(str, graphs[1].store))


def test_the_last_source_can_go_and_an_unknown_one_is_named(tiny_rrf_dir: Path, tmp_path: Path) -> None:
    kg = tmp_path / "kg"
    ingest_umls(tiny_rrf_dir, kg)
    ingest_umls(tiny_rrf_dir, kg, release="2026AA")
    with pytest.raises(InputError, match="no source 'HPO' in this graph; choices: umls@2026AA, umls@unversioned"):
        remove(kg, "HPO")
    with pytest.raises(InputError, match="source 'umls' is there in several releases: umls@2026AA, umls@unversioned"):
        remove(kg, "umls")
    remove(kg, "umls@2026AA")
    remove(kg, "UMLS")
    assert KnowledgeGraph(kg).counts()["concepts"] == 0
    with pytest.raises(InputError, match="not a knowledge graph"):
        remove(tmp_path, "umls")
