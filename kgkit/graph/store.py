"""The KG folder: ingest a source, open the graph, query it.

KG/manifest.json                    what is in the graph; replacing it is the moment a change becomes true
KG/quads/<source>@<release>.nq.zst  the truth, one file per source
KG/store.<digest>/                  Oxigraph, bulk-loaded from the quads
KG/views/<digest>/                  columnar views
KG/tables/<digest>/                 each source's columns, from which views are made (derived, may be deleted)
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.files import read_manifest, sha256_file, write_manifest
from kgkit.graph.quads import preferred_label_lines, read_quads, source_lines, write_quads
from kgkit.graph.tables import load_tables, save_tables
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.views.build import build_views

_SHORT = 16


@dataclass(frozen=True)
class IngestSummary:
    """What one ingest did.

    Attributes:
        source: `<name>@<release>`.
        rows_read: Rows per input table.
        skipped: Rows per `table: reason`.
        statements: Distinct quads of the source.
        digest: Source digest.
        graph_digest: Digest of the whole graph after the ingest.
    """

    source: str
    rows_read: dict[str, int]
    skipped: dict[str, int]
    statements: int
    digest: str
    graph_digest: str


def ingest(folder: Path, tables: SourceTables, log: IngestLog) -> IngestSummary:
    """Add a source to a graph folder, or replace the same source and release.

    The old graph stays whole until the new manifest is in place; a killed ingest changes nothing.

    Raises:
        InputError: if the folder is not a graph, or cannot be written.
    """
    key = _key(tables)
    _require_graph_or_new(folder)
    sources = _recovered_sources(folder)
    (folder / "quads").mkdir(parents=True, exist_ok=True)
    pending = folder / "quads" / f".{key}.writing"
    statements, digest = write_quads(source_lines(tables), pending)
    pending = pending.rename(_pending(folder, key, digest))
    save_tables(tables, folder / "tables" / digest[:_SHORT])
    sources[key] = {
        "name": tables.name,
        "release": tables.release,
        "graphs": [vars(graph) for graph in tables.graphs],
        "licence_level": max((graph.licence_level for graph in tables.graphs), default=0),
        "files": [{"name": path.name, "sha256": sha256_file(path)} for path in log.files],
        "rows_read": dict(sorted(log.rows_read.items())),
        "skipped": dict(sorted(log.skipped.items())),
        "statements": statements,
        "digest": digest,
    }
    graph_digest = _publish(folder, sources)
    return IngestSummary(key, dict(log.rows_read), dict(log.skipped), statements, digest, graph_digest)


def _key(tables: SourceTables) -> str:
    """`<name>@<release>`, which also names the source's quads file."""
    for what, text in (("name", tables.name), ("release", tables.release)):
        if not text[:1].isalnum() or text != ns.plain(text):
            raise InputError(f"source {what} {text!r}: letters, digits and . _ + - only, the first a letter or digit")
    return f"{tables.name}@{tables.release}"


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
            path = self.folder / f"store.{self.digest[:_SHORT]}"
            if not path.is_dir():
                raise InputError("the store is missing; ingest any source again to rebuild it", path)
            self._store = ox.Store.read_only(str(path))
        return self._store

    @property
    def views(self) -> Path:
        """Folder of the columnar views of this very graph."""
        return self.folder / "views" / self.digest[:_SHORT]

    @property
    def licence_level(self) -> int:
        """The highest UMLS source restriction level of anything in the graph."""
        return max((int(source["licence_level"]) for source in self.manifest["sources"].values()), default=0)

    def query(self, sparql: str) -> ox.QuerySolutions | ox.QueryBoolean | ox.QueryTriples:
        """Answer a SPARQL 1.1 query over all named graphs as one; the known prefixes need no declaration.

        Raises:
            InputError: if the query is not valid SPARQL.
        """
        try:
            return self.store.query(sparql, use_default_graph_as_union=True, prefixes=dict(ns.PREFIXES))
        except SyntaxError as error:
            raise InputError(f"not a valid SPARQL query: {' '.join(str(error).split())}") from error

    def counts(self) -> dict[str, int]:
        """Statements, named graphs, concepts, names, triples of the learning view."""
        import polars as pl

        def rows(view: str) -> int:
            return int(pl.scan_parquet(self.views / f"{view}.parquet").select(pl.len()).collect().item())

        return {
            "statements": len(self.store),
            "named graphs": sum(1 for _ in self.store.named_graphs()),
            "concepts": rows("concepts"),
            "names": rows("names"),
            "triples": rows("triples"),
            "relations": rows("relations"),
        }


def _publish(folder: Path, sources: dict[str, Any]) -> str:
    """Build store and views of these sources, make them current, then remove what is old."""
    joined = "\n".join(sorted(source["digest"] for source in sources.values()))
    graph_digest = hashlib.sha256(joined.encode()).hexdigest()
    tables = [_source_tables(folder, key, source) for key, source in sorted(sources.items())]
    names = build_views(tables, folder / "views" / graph_digest[:_SHORT])
    _build_store(folder, sources, preferred_label_lines(names), graph_digest)
    write_manifest(folder, "kg", {"graph_digest": graph_digest, "sources": dict(sorted(sources.items()))})
    _adopt_pending(folder, sources)
    keep = {source["digest"][:_SHORT] for source in sources.values()} | {graph_digest[:_SHORT]}
    stale = [path for path in folder.glob("store.*") if path.name != f"store.{graph_digest[:_SHORT]}"]
    stale += [path for kind in ("views", "tables") for path in (folder / kind).glob("*") if path.name not in keep]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return graph_digest


def _build_store(folder: Path, sources: dict[str, Any], labels: Iterable[str], graph_digest: str) -> None:
    final = folder / f"store.{graph_digest[:_SHORT]}"
    if final.exists():
        return
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    store = ox.Store(str(partial))
    for key, source in sorted(sources.items()):
        with read_quads(_quads(folder, key, source["digest"])) as stream:
            store.bulk_load(stream, format=ox.RdfFormat.N_QUADS)
    store.bulk_load(_as_stream(labels), format=ox.RdfFormat.N_QUADS)
    store.flush()
    del store  # the store keeps its folder locked while it lives
    partial.rename(final)


def _as_stream(lines: Iterable[str]) -> io.BytesIO:
    return io.BytesIO("\n".join(lines).encode())


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


def results_table(result: ox.QuerySolutions | ox.QueryBoolean | ox.QueryTriples) -> Iterator[list[str]]:
    """Rows of an answer as strings, the variables' names first: CURIEs for IRIs, plain text for literals."""
    if isinstance(result, ox.QuerySolutions):
        yield [variable.value for variable in result.variables]
        for row in result:
            yield [_shown(row[variable]) for variable in result.variables]
    elif isinstance(result, ox.QueryTriples):
        for triple in result:
            yield [_shown(triple.subject), _shown(triple.predicate), _shown(triple.object)]
    else:
        yield [str(bool(result)).lower()]


def results_json(result: ox.QuerySolutions | ox.QueryBoolean | ox.QueryTriples) -> str:
    """An answer in the W3C's SPARQL 1.1 Query Results JSON Format; N-Triples for CONSTRUCT and DESCRIBE."""
    if isinstance(result, ox.QueryTriples):
        return (result.serialize(format=ox.RdfFormat.N_TRIPLES) or b"").decode()
    return (result.serialize(format=ox.QueryResultsFormat.JSON) or b"").decode()


def _shown(term: Any) -> str:
    if term is None:
        return ""
    return ns.compress(term.value) if isinstance(term, ox.NamedNode) else str(term.value)
