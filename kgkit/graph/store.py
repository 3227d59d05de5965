"""The KG folder: ingest a source, open the graph, query it.

KG/manifest.json                    what is in the graph; replacing it is the moment a change becomes true
KG/quads/<source>@<release>.nq.zst  the truth, one file per source
KG/store.<digest>/                  Oxigraph, bulk-loaded from the quads; store.partial while it is made
KG/views/<digest>/                  columnar views
KG/tables/<digest>/                 each source's columns, from which views are made (derived, may be deleted)
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl
import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.errors import InputError, choices
from kgkit.files import read_manifest, sha256_file, write_manifest
from kgkit.graph.quads import read_quads, source_lines, write_quads
from kgkit.graph.query_worker import Answer, answer
from kgkit.graph.store_builder import StoreBuilder
from kgkit.graph.tables import load_tables, save_tables
from kgkit.sources.base import TABLES, IngestLog, NamedGraph, SourceTables
from kgkit.sources.rdf import RdfSource
from kgkit.views.build import build_views
from kgkit.views.read import view_errors

_SHORT = 16


@dataclass(frozen=True)
class IngestSummary:
    """What one ingest did.

    Attributes:
        source: `<name>@<release>`.
        rows_read: Rows per input table.
        skipped: Rows per `table: reason`.
        first_defect: Place of the first row of each reason that is a defect of the input.
        checks: What was verified of the input.
        statements: Distinct quads of the source.
        digest: Source digest.
        graph_digest: Digest of the whole graph after the ingest.
    """

    source: str
    rows_read: dict[str, int]
    skipped: dict[str, int]
    first_defect: dict[str, str]
    checks: tuple[str, ...]
    statements: int
    digest: str
    graph_digest: str


def ingest(folder: Path, tables: SourceTables, log: IngestLog) -> IngestSummary:
    """Add a source to a graph folder, or replace the same source and release.

    The old graph stays whole until the new manifest is in place; a killed ingest changes nothing.

    Raises:
        InputError: if the folder is not a graph, or cannot be written.
    """
    rows = sum(len(getattr(tables, table)) for table in TABLES)
    with _Change(folder, tables.name, tables.release, 2 * rows) as change:
        digest = change.write(source_lines(tables))
        save_tables(tables, folder / "tables" / digest[:_SHORT])
        graphs, kind = tables.graphs, "reports" if tables.ids.is_empty() else "concepts"
        del tables  # read again, one source after another, when views are built; a release is large
        return change.publish(graphs, kind, log)


def ingest_rdf(folder: Path, source: RdfSource, log: IngestLog) -> IngestSummary:
    """Add statements as they are; their columns are read back from them.

    Raises:
        InputError: if the folder is not a graph, or cannot be written.
    """
    with _Change(folder, source.name, source.release, sum(map(len, source.lines))) as change:
        change.write(source.lines)
        return change.publish(source.graphs, "concepts", log)


def remove(folder: Path, source: str) -> str:
    """Remove a source; what is left equals a graph that never had it.

    Args:
        folder: A graph folder.
        source: Name of a source (in any case), or `<name>@<release>` where it is there in several releases.

    Returns:
        The graph digest after the removal.

    Raises:
        InputError: if there is no such source, or several releases of it.
    """
    read_manifest(folder, "kg")
    sources = _recovered_sources(folder)
    found = [key for key in sources if source.casefold() in (key.casefold(), key.partition("@")[0].casefold())]
    if not found:
        raise InputError(f"no source {source!r} in this graph; {choices(source, sources)}", folder)
    if len(found) > 1:
        raise InputError(
            f"source {source!r} is there in several releases: {', '.join(sorted(found))}; name one", folder
        )
    del sources[found[0]]
    with _store_builder(folder, sources) as store:
        return _publish(folder, sources, store)


class _Change:
    """A source on its way into a graph folder."""

    def __init__(self, folder: Path, name: str, release: str, expected: int) -> None:
        self._folder, self._name, self._release = folder, name, release
        self._key = _key(name, release)
        _require_graph_or_new(folder)
        self._sources = _recovered_sources(folder)
        self._statements, self._digest = 0, ""
        others = {key: source for key, source in self._sources.items() if key != self._key}
        (folder / "quads").mkdir(parents=True, exist_ok=True)
        self._store = _store_builder(folder, others, expected)

    def __enter__(self) -> Self:
        self._store.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._store.__exit__(*exception)

    def write(self, lines: Iterable[pl.Series]) -> str:
        """Write the source's quads beside the graph, and load them; returns their digest."""
        pending = self._folder / "quads" / f".{self._key}.writing"
        self._statements, self._digest = write_quads(lines, pending, self._store.feed)
        pending.rename(_pending(self._folder, self._key, self._digest))
        return self._digest

    def publish(self, graphs: tuple[NamedGraph, ...], kind: str, log: IngestLog) -> IngestSummary:
        """Make the source part of the graph; `kind` is `reports` if it speaks of nothing else."""
        self._sources[self._key] = {
            "name": self._name,
            "release": self._release,
            "graphs": [vars(graph) for graph in graphs],
            "kind": kind,
            "licence_level": max((graph.licence_level for graph in graphs), default=0),
            "files": [{"name": path.name, "sha256": sha256_file(path)} for path in log.files],
            "checks": log.checks,
            "rows_read": dict(sorted(log.rows_read.items())),
            "skipped": dict(sorted(log.skipped.items())),
            "first_defect": dict(sorted(log.first_defect.items())),
            "statements": self._statements,
            "digest": self._digest,
        }
        return IngestSummary(
            source=self._key,
            rows_read=dict(log.rows_read),
            skipped=dict(log.skipped),
            first_defect=dict(log.first_defect),
            checks=tuple(log.checks),
            statements=self._statements,
            digest=self._digest,
            graph_digest=_publish(self._folder, self._sources, self._store),
        )


def _key(name: str, release: str) -> str:
    """`<name>@<release>`, which also names the source's quads file."""
    for what, text in (("name", name), ("release", release)):
        if not text[:1].isalnum() or text != ns.plain(text):
            raise InputError(f"source {what} {text!r}: letters, digits and . _ + - only, the first a letter or digit")
    return f"{name}@{release}"


def _require_graph_or_new(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError("this is a file; give a new folder or a graph made by kgkit", folder)
    known = any((folder / name).exists() for name in ("manifest.json", "quads"))
    if folder.exists() and not known and any(folder.iterdir()):
        raise InputError("this folder holds something else; give a new folder or a graph made by kgkit", folder)


class KnowledgeGraph:
    """A graph folder, opened for reading.

    Raises:
        InputError: if the folder is not a complete graph.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_manifest(folder, "kg")
        self.digest: str = self.manifest["graph_digest"]
        self._store: ox.Store | None = None

    @property
    def store(self) -> ox.Store:
        """The Oxigraph store, read-only."""
        if self._store is None:
            if not self.store_folder.is_dir():
                raise InputError("the store is missing; ingest any source again to rebuild it", self.store_folder)
            self._store = ox.Store.read_only(str(self.store_folder))
        return self._store

    @property
    def store_folder(self) -> Path:
        """Folder of the Oxigraph store of this very graph."""
        return self.folder / f"store.{self.digest[:_SHORT]}"

    @property
    def views(self) -> Path:
        """Folder of the columnar views of this very graph."""
        return self.folder / "views" / self.digest[:_SHORT]

    @property
    def licence_level(self) -> int:
        """The highest UMLS source restriction level of any vocabulary; reports do not count, no encoder reads them."""
        vocabularies = [source for source in self.manifest["sources"].values() if source["kind"] != "reports"]
        return max((int(source["licence_level"]) for source in vocabularies), default=0)

    def lines(self) -> Iterator[str]:
        """Every statement as an N-Quads line: the quads of all sources, then the derived preferred labels."""
        for key in self.manifest["sources"]:
            yield from self.source_lines(key)
        for quad in self.store.quads_for_pattern(None, None, None, ox.NamedNode(ns.LABEL_GRAPH)):
            yield f"{quad} ."

    def source_lines(self, key: str) -> Iterator[str]:
        """The quads of one source, given by its key in the manifest."""
        with read_quads(_quads(self.folder, key, self.manifest["sources"][key]["digest"])) as stream:
            for line in stream:
                yield line.decode().removesuffix("\n")

    def source_tables(self) -> Iterator[tuple[str, SourceTables]]:
        """Key and columns of each source."""
        for key, source in sorted(self.manifest["sources"].items()):
            yield key, _source_tables(self.folder, key, source)

    def query(self, sparql: str) -> Answer:
        """Answer a SPARQL 1.1 query over all named graphs as one; the known prefixes need no declaration.

        Raises:
            InputError: if the query is not valid SPARQL.
        """
        return answer(self.store, sparql)

    def counts(self) -> dict[str, int]:
        """Statements, named graphs, concepts, names, triples of the learning view."""

        def rows(view: str) -> int:
            with view_errors(self.views):
                return int(pl.scan_parquet(self.views / f"{view}.parquet").select(pl.len()).collect().item())

        return {
            "statements": len(self.store),
            "named graphs": sum(1 for _ in self.store.named_graphs()),
            "concepts": rows("concepts"),
            "names": rows("names"),
            "triples": rows("triples"),
            "relations": rows("relations"),
        }


def _store_builder(folder: Path, sources: dict[str, Any], more: int = 0) -> StoreBuilder:
    """Loads the quads of some sources; about `more` statements are fed to it."""
    files = [_quads(folder, key, source["digest"]) for key, source in sorted(sources.items())]
    expected = sum(int(source["statements"]) for source in sources.values()) + more
    return StoreBuilder(folder / "store.partial", files, expected)


def _publish(folder: Path, sources: dict[str, Any], store: StoreBuilder) -> str:
    """Finish the store and build the views of these sources, make them current, then remove what is old."""
    joined = "\n".join(sorted(source["digest"] for source in sources.values()))
    graph_digest = hashlib.sha256(joined.encode()).hexdigest()
    labels = _build_views(folder, sources, graph_digest)  # while the store loads
    store.finish(labels, folder / f"store.{graph_digest[:_SHORT]}")
    write_manifest(folder, "kg", {"graph_digest": graph_digest, "sources": dict(sorted(sources.items()))})
    _adopt_pending(folder, sources)
    keep = {source["digest"][:_SHORT] for source in sources.values()} | {graph_digest[:_SHORT]}
    stale = [path for path in folder.glob("store.*") if path.name != f"store.{graph_digest[:_SHORT]}"]
    stale += [path for kind in ("views", "tables") for path in (folder / kind).glob("*") if path.name not in keep]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return graph_digest


def _build_views(folder: Path, sources: dict[str, Any], graph_digest: str) -> pl.DataFrame:
    tables = [_source_tables(folder, key, source) for key, source in sorted(sources.items())]
    return build_views(tables, folder / "views" / graph_digest[:_SHORT])


def _source_tables(folder: Path, key: str, source: dict[str, Any]) -> SourceTables:
    """A source's columns: as the ingest left them, or read back from its quads."""
    saved = folder / "tables" / source["digest"][:_SHORT]
    if (saved / "complete").exists():
        return load_tables(saved, source)
    from kgkit.graph.derive import tables_from_quads

    tables = tables_from_quads(_quads(folder, key, source["digest"]), source)
    save_tables(tables, saved)
    return tables


def _recovered_sources(folder: Path) -> dict[str, Any]:
    """Sources of the current graph, after finishing what a killed run left between two renames."""
    if not (folder / "manifest.json").exists():
        sources: dict[str, Any] = {}
    else:
        sources = dict(read_manifest(folder, "kg")["sources"])
        _adopt_pending(folder, sources)
    for leftover in (*folder.glob("quads/.*"), *folder.glob(".manifest.json.*.tmp")):
        leftover.unlink()
    return sources


def _adopt_pending(folder: Path, sources: dict[str, Any]) -> None:
    for key, source in sources.items():
        pending = _pending(folder, key, source["digest"])
        if pending.exists():
            pending.replace(_final(folder, key))
    wanted = {_final(folder, key) for key in sources}
    for path in folder.glob("quads/*.nq.zst"):
        if path not in wanted:
            path.unlink()


def _quads(folder: Path, key: str, digest: str) -> Path:
    pending = _pending(folder, key, digest)
    return pending if pending.exists() else _final(folder, key)


def _pending(folder: Path, key: str, digest: str) -> Path:
    return folder / "quads" / f".{key}.{digest[:_SHORT]}.pending"


def _final(folder: Path, key: str) -> Path:
    return folder / "quads" / f"{key}.nq.zst"
