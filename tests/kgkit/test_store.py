"""The graph folder: the same content gives the same graph, and a kill at any moment leaves a whole one."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from graphs import RADGRAPH, ROOT, THORAX, ingest_radgraph, ingest_umls
from polars.testing import assert_frame_equal
from rrf import Rrf, tiny_rrf

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.files import write_manifest
from kgkit.graph.quads import read_quads
from kgkit.graph.store import KnowledgeGraph, ingest, remove
from kgkit.sources.base import IngestLog, SourceTables

VIEWS = ("concepts", "names", "relations", "triples", "retired")


def digest_of(quads: Path) -> str:
    with read_quads(quads) as stream:
        total = sum(int(hashlib.sha256(line.rstrip(b"\n")).hexdigest(), 16) for line in stream)
    return f"{total % 2**256:064x}"


def content(folder: Path) -> dict[str, Any]:
    """All that a reader of a graph can see: digest, every quad, every view. The truth of every source must be there."""
    graph = KnowledgeGraph(folder)
    truths = {digest_of(path) for path in (folder / "quads").iterdir() if path.suffix != ".writing"}
    assert {source["digest"] for source in graph.manifest["sources"].values()} <= truths
    views = {view: pl.read_parquet(graph.views / f"{view}.parquet").rows() for view in VIEWS}
    return {"digest": graph.digest, "quads": sorted(map(str, graph.store)), **views}


def layout(folder: Path) -> list[str]:
    """Names of all that the folder holds, the inside of the store left out."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    return sorted(str(path) for path in paths if not path.parts[0].startswith("store.") or len(path.parts) == 1)


def test_the_store_holds_the_statements_of_the_sources_and_the_preferred_names(tiny_kg_dir: Path) -> None:
    graph = KnowledgeGraph(tiny_kg_dir)
    (labels,) = graph.query("SELECT (COUNT(*) AS ?n) { GRAPH graph:preferred-labels { ?s ?p ?o } }")
    statements = [source["statements"] for source in graph.manifest["sources"].values()]
    assert len(statements) == 2
    assert graph.counts()["statements"] == len(graph.store) == sum(statements) + int(labels["n"].value)


def test_there_is_one_preferred_name_per_concept_and_language(tmp_path: Path) -> None:
    ingest_umls(tiny_rrf().write(tmp_path / "META"), tmp_path / "kg", languages=("ENG", "SPA"))
    graph = KnowledgeGraph(tmp_path / "kg")
    query = "SELECT ?c ?tag (COUNT(?name) AS ?n) { ?c skos:prefLabel ?name } GROUP BY ?c (LANG(?name) AS ?tag)"
    rows = [tuple(term.value for term in row) for row in graph.query(query)]
    assert {count for *_, count in rows} == {"1"}
    assert [language for concept, language, _ in rows if concept.endswith("C0032227")] in (["en", "es"], ["es", "en"])
    concepts = pl.read_parquet(graph.views / "concepts.parquet")["concept"].to_list()
    assert {ns.compress(concept) for concept, language, _ in rows if language == "en"} == set(concepts)


def test_ingesting_twice_changes_nothing(tiny_rrf_dir: Path, tmp_path: Path) -> None:
    first = ingest_umls(tiny_rrf_dir, tmp_path / "kg")
    before, files = content(tmp_path / "kg"), layout(tmp_path / "kg")
    assert ingest_umls(tiny_rrf_dir, tmp_path / "kg") == first
    assert content(tmp_path / "kg") == before
    assert layout(tmp_path / "kg") == files


def test_the_order_of_sources_changes_nothing(tiny_rrf_dir: Path, tiny_kg_dir: Path, tmp_path: Path) -> None:
    ingest_radgraph(RADGRAPH, tmp_path / "kg")
    ingest_umls(tiny_rrf_dir, tmp_path / "kg")
    assert content(tmp_path / "kg") == content(tiny_kg_dir)
    assert layout(tmp_path / "kg") == layout(tiny_kg_dir)


def test_a_source_is_replaced_and_another_release_stands_beside_it(tiny_rrf_dir: Path, tmp_path: Path) -> None:
    small = Rrf().atom("C0000001", "Only one").write(tmp_path / "META")
    kg = tmp_path / "kg"
    ingest_umls(tiny_rrf_dir, kg)
    ingest_umls(small, kg)
    assert [row[1] for row in content(kg)["names"]] == ["Only one"]
    alone = content(kg)
    ingest_umls(tiny_rrf_dir, kg, release="2026AA")
    assert set(KnowledgeGraph(kg).manifest["sources"]) == {"umls@unversioned", "umls@2026AA"}
    assert "Only one" in [row[1] for row in content(kg)["names"]]
    ingest_umls(small, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == alone


def test_views_come_from_the_rdf_alone(tiny_kg_dir: Path, tmp_path: Path) -> None:
    kg = shutil.copytree(tiny_kg_dir, tmp_path / "kg")
    shutil.rmtree(kg / "tables")
    shutil.rmtree(kg / "views")
    with pytest.raises(FileNotFoundError):
        content(kg)
    ingest_radgraph(RADGRAPH, kg)
    graphs = [KnowledgeGraph(folder) for folder in (tiny_kg_dir, kg)]
    assert graphs[0].digest == graphs[1].digest
    for view in VIEWS:
        assert_frame_equal(*[pl.read_parquet(graph.views / f"{view}.parquet") for graph in graphs])


def test_a_missing_store_is_rebuilt_from_the_quads(tiny_kg_dir: Path, tmp_path: Path) -> None:
    kg = shutil.copytree(tiny_kg_dir, tmp_path / "kg")
    (store,) = kg.glob("store.*")
    shutil.rmtree(store)
    with pytest.raises(InputError, match="the store is missing; ingest any source again to rebuild it"):
        KnowledgeGraph(kg).query("ASK {}")
    ingest_radgraph(RADGRAPH, kg)
    assert content(kg) == content(tiny_kg_dir)


def test_the_manifest_says_where_everything_came_from(tiny_kg_dir: Path, tiny_rrf_dir: Path) -> None:
    source = KnowledgeGraph(tiny_kg_dir).manifest["sources"]["umls@unversioned"]
    files = {entry["name"]: entry["sha256"] for entry in source["files"]}
    assert files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_rrf_dir.iterdir()}
    assert source["rows_read"] == {table: len(rows) for table, rows in tiny_rrf().tables.items()}


@pytest.mark.parametrize("kind", ["other", "encoder", "file", "broken"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tiny_rrf_dir: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    if kind == "file":
        folder.write_text("precious")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("precious")
    if kind == "encoder":
        write_manifest(folder, "encoder", {})
    elif kind == "broken":
        (folder / "manifest.json").write_text("{")
    before = layout(tmp_path)
    with pytest.raises(InputError) as error:
        ingest_umls(tiny_rrf_dir, folder)
    assert {
        "other": "this folder holds something else; give a new folder or a graph made by kgkit",
        "file": "this is a file; give a new folder or a graph made by kgkit",
        "encoder": "this is a concept encoder, expected a knowledge graph",
        "broken": "manifest.json: not readable as JSON",
    }[kind] in str(error.value)
    assert layout(tmp_path) == before


@pytest.mark.parametrize(("name", "release"), [("a/b", "1"), (".a", "1"), ("", "1"), ("a", "2026 AA"), ("a", "é")])
def test_a_source_name_that_no_file_may_have_is_refused(tmp_path: Path, name: str, release: str) -> None:
    with pytest.raises(InputError, match=r"source (name|release) '.*': letters, digits and \. _ \+ - only"):
        ingest(tmp_path / "kg", SourceTables(name, release, ()), IngestLog())
    assert not (tmp_path / "kg").exists()


def test_an_unfinished_graph_does_not_open(tiny_kg_dir: Path, tmp_path: Path) -> None:
    kg = shutil.copytree(tiny_kg_dir, tmp_path / "kg")
    (kg / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"kg: not a knowledge graph: it has no manifest\.json"):
        KnowledgeGraph(kg)


class Killed(BaseException):
    """Stands for a kill: no code catches it."""


def killed_before(step: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> bool:
    """Run until just before the `step`-th renaming of a file or folder; False if the run ended earlier."""
    done = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                raise Killed
            return change(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            run()
        except Killed:
            gc.collect()  # an open store keeps its folder locked
            return True
    return False


@pytest.mark.parametrize("start", ["nothing", "another graph", "the same graph"])
def test_a_kill_before_any_rename_leaves_a_whole_graph(
    tiny_rrf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    if start != "nothing":
        other = Rrf().atom("C0000001", "Only one").write(tmp_path / "META")
        ingest_umls(tiny_rrf_dir if start == "the same graph" else other, before)
        shutil.copytree(before, after)
    ingest_umls(tiny_rrf_dir, after)
    old, new = content(before) if before.exists() else None, content(after)
    seen = []
    for step in range(1, 100):
        kg = tmp_path / f"kg{step}"
        if before.exists():
            shutil.copytree(before, kg)
        if not killed_before(step, monkeypatch, partial(ingest_umls, tiny_rrf_dir, kg)):
            break
        if old is None and not (kg / "manifest.json").exists():
            with pytest.raises(InputError):
                KnowledgeGraph(kg)
            seen.append(False)
        else:
            found = content(kg)
            assert found in (old, new)
            seen.append(found == new)
        ingest_umls(tiny_rrf_dir, kg)
        assert content(kg) == new
        assert layout(kg) == layout(after)
    assert len(seen) >= 3
    assert seen == sorted(seen)  # once the new graph is there, it stays


def killed_ingest(kg: Path, moment: str) -> int:
    """`kgkit ingest` of the thorax graph in its own process, killed when `moment` appears in the folder."""
    call = [
        sys.executable,
        "-c",
        "import cli; cli.kgkit_main()",
        "ingest",
        "umls",
        "ontologies/thorax",
        "--out",
        str(kg),
    ]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(kg.glob(moment)) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.parametrize(
    "moment",
    [
        "store.partial/*",
        *(pytest.param(glob, marks=pytest.mark.slow) for glob in ("quads/.*.writing", "quads/.*.pending",
          "tables/*/names.parquet", "views/*.partial", "views/*.partial/names.parquet", "store.partial/*.sst")),
    ],
)  # fmt: skip
def test_kill_9_leaves_the_old_graph_and_the_next_run_completes(
    tmp_path: Path, thorax_kg_dir: Path, moment: str
) -> None:
    small = Rrf().atom("C0000001", "Only one").write(tmp_path / "META")
    for attempt in range(5):  # a busy machine may let the moment pass
        kg = tmp_path / f"kg{attempt}"
        ingest_umls(small, kg)
        old = content(kg)
        if killed_ingest(kg, moment) == -signal.SIGKILL:
            break
    else:
        pytest.fail(f"{moment} was never seen")
    assert content(kg) == old
    ingest_umls(THORAX, kg)
    assert KnowledgeGraph(kg).digest == KnowledgeGraph(thorax_kg_dir).digest
    assert layout(kg) == layout(thorax_kg_dir)
    assert KnowledgeGraph(kg).counts() == KnowledgeGraph(thorax_kg_dir).counts()


def test_a_kill_before_any_rename_of_a_removal_leaves_a_whole_graph(
    tiny_kg_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = shutil.copytree(tiny_kg_dir, tmp_path / "after")
    remove(after, "radgraph")
    old, new = content(tiny_kg_dir), content(after)
    seen = []
    for step in range(1, 100):
        kg = shutil.copytree(tiny_kg_dir, tmp_path / f"kg{step}")
        if not killed_before(step, monkeypatch, partial(remove, kg, "radgraph")):
            break
        found = content(kg)
        assert found in (old, new)
        seen.append(found == new)
        if found == old:
            remove(kg, "radgraph")
        else:
            ingest_umls(tiny_rrf().write(tmp_path / "META"), kg)  # any later change finishes the clean-up
        assert content(kg) == new
        assert layout(kg) == layout(after)
    assert len(seen) >= 2
    assert seen == sorted(seen)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ingest", "second ingest", "removal"])
def test_kill_9_at_random_moments(tmp_path: Path, thorax_kg_dir: Path, what: str) -> None:
    small = Rrf().atom("C0000001", "Only one").write(tmp_path / "META")
    start, end = tmp_path / "start", tmp_path / "end"
    ingest_umls(small, start, release="1")
    if what != "ingest":
        ingest_umls(THORAX, start)
    commands = {
        "ingest": ["ingest", "umls", str(THORAX), "--out"],
        "second ingest": ["ingest", "umls", str(small), "--out"],
        "removal": ["remove", "--source", "umls@unversioned"],
    }
    call = [sys.executable, "-c", "import cli; cli.kgkit_main()", *commands[what]]
    shutil.copytree(start, end)
    began = time.monotonic()
    subprocess.run([*call, str(end)], cwd=ROOT, check=True, capture_output=True)
    whole = time.monotonic() - began
    old, new = content(start), content(end)
    killed = 0
    for attempt in range(12):
        kg = shutil.copytree(start, tmp_path / f"kg{attempt}")
        process = subprocess.Popen([*call, str(kg)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.Random(attempt).uniform(0.3, 1) * whole)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert content(kg) in (old, new)
        done = subprocess.run([*call, str(kg)], cwd=ROOT, capture_output=True, check=False, text=True)
        assert done.returncode == 0 or (what == "removal" and "no source 'umls@unversioned'" in done.stderr)
        assert content(kg) == new
    assert killed >= 4
