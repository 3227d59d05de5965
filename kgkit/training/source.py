"""What an encoder can be trained on: a graph folder, or a published benchmark with its own split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.errors import InputError
from kgkit.files import sha256_file
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.benchmarks import find_part, read_benchmark, read_lines
from kgkit.views.read import read_view, require_unchanged_views
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView, open_triples


@dataclass(frozen=True)
class TrainingSource:
    """A graph as the trainer sees it.

    Attributes:
        path: Where it was read from.
        view: Concepts, relations, facts.
        published: The split that belongs to the data; None where we draw our own.
        concepts: Columns of CONCEPT_COLUMNS, one row per concept of the view, in its order.
        names: Columns of NAME_COLUMNS but `vector`.
        digest: Hex digest of the graph.
        licence_level: Highest licence level of any text or fact; None if nobody has said.
        sources: name (`HPO@2025-01-16`), title and licence_level of every vocabulary that went in.
    """

    path: Path
    view: TripleView
    published: TripleSplit | None
    concepts: pl.DataFrame
    names: pl.DataFrame
    digest: str
    licence_level: int | None
    sources: tuple[dict[str, Any], ...]


def read_source(path: Path) -> TrainingSource:
    """Read a graph folder, or a benchmark folder (train.txt, valid.txt, test.txt, entity2text.txt if there is one).

    Raises:
        InputError: if it is neither, or damaged; if there is nothing to train on; if a concept has no name.
    """
    source = _read_benchmark(path) if _is_benchmark(path) else _read_graph(path)
    if not len(source.concepts):
        raise InputError("the graph has no concepts, nothing to train on", path)
    nameless = source.concepts.filter(pl.col("name").is_null())
    if len(nameless):
        raise InputError(f"{len(nameless)} concepts have no name, the first is {nameless['concept'][0]}", path)
    return source


def source_digest(path: Path) -> str:
    """The digest of what `read_source` reads, without reading it: of a graph what its manifest says."""
    if not _is_benchmark(path):
        return KnowledgeGraph(path).digest
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.txt*")):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _is_benchmark(path: Path) -> bool:
    return find_part(path, "train") is not None


def _read_graph(path: Path) -> TrainingSource:
    graph = KnowledgeGraph(path)
    require_unchanged_views(graph.views)
    return TrainingSource(
        path=path,
        view=open_triples(graph.views),
        published=None,
        concepts=read_view(graph.views, "concepts", list(CONCEPT_COLUMNS)),
        names=read_view(graph.views, "names", [column for column in NAME_COLUMNS if column != "vector"]),
        digest=graph.digest,
        licence_level=graph.licence_level,
        sources=tuple(
            vocabulary
            for source in graph.manifest["sources"].values()
            if source["kind"] != "reports"
            for vocabulary in source["graphs"]
        ),
    )


def _read_benchmark(path: Path) -> TrainingSource:
    view, split = read_benchmark(path)
    texts = _texts(path)
    names = [texts.get(entity) or entity for entity in view.concepts]
    none: list[list[str]] = [[] for _ in names]
    concepts = pl.DataFrame(
        {"concept": view.concepts, "name": names, "semantic_types": none, "definition": [None] * len(names),
         "codes": none, "parents": none}, schema=CONCEPT_COLUMNS,
    )  # fmt: skip
    table = concepts.select(
        "concept", "name", source=pl.lit(path.name), is_abbreviation=pl.lit(value=False), language=pl.lit("en"),
        is_preferred=pl.lit(value=True),
    )  # fmt: skip
    about = {"name": path.name, "title": "benchmark"}
    return TrainingSource(path, view, split, concepts, table, source_digest(path), None, (about,))


def _texts(path: Path) -> dict[str, str]:
    """Entity -> its text; empty without a file of texts."""
    file = find_part(path, "entity2text")
    if file is None:
        return {}
    lines = read_lines(file)
    pairs = [line.split("\t") for line in lines]
    wrong = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if wrong is not None:
        raise InputError(f"row {wrong}: {lines[wrong - 1]!r}, expected an entity, a tab and its text", file)
    return {entity: text.strip() for entity, text in pairs}


def without_concepts(view: TripleView, unseen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> TripleView:
    """The same vocabulary with only the facts whose two ends are seen."""
    kept = ~(unseen[view.triples[:, 0]] | unseen[view.triples[:, 2]])
    return TripleView(view.concepts, view.relations, view.triples[kept])
