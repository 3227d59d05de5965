"""A graph in the formats of other tools, whole or without what stands above a licence level.

Files (`.gz` or `.zst` at the end of the name compresses): nquads, ntriples, turtle, trig, tsv, graphml.
Folders: pykeen, pyg, neo4j; each is complete if and only if it holds manifest.json.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, cast

import zstandard

from kgkit.errors import InputError, choices
from kgkit.files import output_file, partial_folder, publish_folder, read_manifest, require_replaceable, write_manifest
from kgkit.graph import export_rdf, export_tables
from kgkit.graph.exportable import Exportable, WriterOptions
from kgkit.graph.filter import filtered
from kgkit.graph.store import KnowledgeGraph
from kgkit.progress import progress

_Counts = dict[str, int]
_STEP = 10_000
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class _File:
    """A format that is one file."""

    suffix: str
    write: Callable[[Exportable, WriterOptions, IO[bytes]], _Counts]
    note: str = ""


@dataclass(frozen=True)
class _Folder:
    """A format that is a folder."""

    write: Callable[[Exportable, WriterOptions, Path], _Counts]


_NO_GRAPHS = "named graphs are lost in this format: which vocabulary says what is no longer in the file"
FORMATS: dict[str, _File | _Folder] = {
    "nquads": _File(".nq", export_rdf.write_nquads),
    "ntriples": _File(".nt", export_rdf.write_ntriples, _NO_GRAPHS),
    "turtle": _File(".ttl", export_rdf.write_turtle, _NO_GRAPHS),
    "trig": _File(".trig", export_rdf.write_trig),
    "tsv": _File(".tsv", export_tables.write_tsv),
    "graphml": _File(".graphml", export_tables.write_graphml),
    "pykeen": _Folder(export_tables.write_pykeen),
    "pyg": _Folder(export_tables.write_pyg),
    "neo4j": _Folder(export_tables.write_neo4j),
}
"""Name -> how it is written."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and where to.

    Attributes:
        format: Key of FORMATS.
        out: File or folder to write. One that exists is replaced if it is an export of the same format.
        max_licence_level: Leave out every vocabulary above this UMLS source restriction level; None keeps all.
        writer: Options of some formats.
    """

    format: str
    out: Path
    max_licence_level: int | None = None
    writer: WriterOptions = field(default_factory=WriterOptions)


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    Attributes:
        counts: Statements, or concepts and facts.
        note: What the format cannot hold; empty if nothing.
    """

    counts: dict[str, int]
    note: str = ""


def export(kg: Path, options: ExportOptions) -> ExportSummary:
    """Write a graph in another format; a killed run leaves nothing that looks complete.

    Raises:
        InputError: if the graph is none, the format is unknown, nothing is left below the licence level, or `out`
            is something else already.
    """
    kind = FORMATS.get(options.format)
    if kind is None:
        raise InputError(f"unknown format {options.format!r}; {choices(options.format, FORMATS)}")
    graph = KnowledgeGraph(kg)
    statements = sum(int(part["statements"]) for part in graph.manifest["sources"].values())
    _require_replaceable(options, kind)
    level = options.max_licence_level
    with nullcontext(graph) if level is None else filtered(graph, level) as remaining:
        source = _Watched(remaining.views, remaining, statements)
        if isinstance(kind, _File):
            with output_file(options.out) as stream, _compressed(stream, options.out) as text:
                return ExportSummary(kind.write(source, options.writer, text), kind.note)
        partial = partial_folder(options.out, "export")
        counts = kind.write(source, options.writer, partial)
        described = {"format": options.format, "graph_digest": graph.digest, "max_licence_level": level}
        write_manifest(partial, "export", described | {"counts": counts, "options": vars(options.writer)})
        publish_folder(partial, options.out)
    return ExportSummary(counts)


@dataclass(frozen=True)
class _Watched:
    """A graph whose statements are counted on the terminal as they pass.

    Attributes:
        views: Its views.
        graph: The graph.
        total: Statements to expect, at most.
    """

    views: Path
    graph: Exportable
    total: int

    def lines(self) -> Iterator[str]:
        """The graph's."""
        lines = self.graph.lines()
        with progress("export", self.total, "statements") as reporter:
            while batch := list(islice(lines, _STEP)):
                reporter.advance(len(batch))
                yield from batch


def _require_replaceable(options: ExportOptions, kind: _File | _Folder) -> None:
    """Nothing that a user may miss is overwritten: a file of another name, a folder that is no such export."""
    out = options.out
    if isinstance(kind, _File):
        if out.is_dir():
            raise InputError(f"this is a folder; format {options.format} is a file", out)
        plain = out.with_suffix("") if out.suffix in _COMPRESSED else out
        if out.exists() and plain.suffix != kind.suffix:
            raise InputError(f"this file exists and is no *{kind.suffix}; name another, or remove it first", out)
        return
    require_replaceable(out, "export")
    if out.exists() and any(out.iterdir()):
        found = read_manifest(out, "export").get("format")
        if found != options.format:
            raise InputError(f"this folder is an export of format {found}; name another, or remove it first", out)


@contextmanager
def _compressed(stream: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif path.suffix == ".zst":
        with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as packed:
            yield packed
    else:
        yield stream
