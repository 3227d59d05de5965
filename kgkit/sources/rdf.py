"""Any RDF file as a source: its statements are kept as they are, and the columns are read back from them.

Statements in graphs of ours (`https://w3id.org/kgkit/graph/...`) stay in them, so that an exported graph can be read
again; all others join the named graph of the source. Blank nodes get IRIs that depend on the statements about them
alone (RDF dataset canonicalisation), so the same file gives the same digest.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, cast

import polars as pl
import pyoxigraph as ox
import zstandard

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, NamedGraph

_GENID = ns.BASE + ".well-known/genid/"
_BATCH = 100_000
_FORMATS = {
    ".ttl": ox.RdfFormat.TURTLE,
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".nq": ox.RdfFormat.N_QUADS,
    ".trig": ox.RdfFormat.TRIG,
    ".rdf": ox.RdfFormat.RDF_XML,
    ".owl": ox.RdfFormat.RDF_XML,
    ".xml": ox.RdfFormat.RDF_XML,
    ".jsonld": ox.RdfFormat.JSON_LD,
    ".n3": ox.RdfFormat.N3,
}


@dataclass(frozen=True)
class RdfSource:
    """Statements ready for the graph.

    Attributes:
        name: Source name.
        release: Release of the source.
        graphs: Named graphs of the statements.
        lines: Batches of distinct N-Quads lines without blank nodes.
    """

    name: str
    release: str
    graphs: tuple[NamedGraph, ...]
    lines: tuple[pl.Series, ...]


def read_rdf(
    path: Path, log: IngestLog, name: str | None = None, release: str = "unversioned", licence_level: int = 0
) -> RdfSource:
    """Read an RDF file (Turtle, N-Triples, N-Quads, TriG, RDF/XML, JSON-LD, N3; plain, .gz or .zst).

    Args:
        path: The file; its ending tells the format.
        log: Where statements are counted.
        name: Source name; the file's if not given.
        release: Release of the source.
        licence_level: Of the statements outside graphs of ours.

    Raises:
        InputError: if the format is unknown, or naming the line that cannot be read.
    """
    if not path.is_file():
        raise InputError("no such file; expected RDF", path)
    log.files.append(path)
    stem, kind = _format(path)
    name = name or ns.plain(stem).lstrip("._+-") or "rdf"
    own = NamedGraph(f"{ns.plain(name)}@{ns.plain(release)}", f"{name} {release}", licence_level)
    reader = _Reader(own, log)
    with closing(_opened(path)) as stream:
        try:
            lines = tuple(reader.lines(cast(Iterable[ox.Quad], ox.parse(stream, format=kind, base_iri=ns.BASE))))
        except SyntaxError as error:
            raise InputError(f"not readable as {kind.name} ({error.msg})", path, error.lineno) from error
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, ValueError) as error:
            raise InputError(f"damaged file ({error})", path) from error
    if not lines:
        raise InputError("no statement in this file", path)
    return RdfSource(name, release, reader.graphs(), lines)


class _Reader:
    def __init__(self, own: NamedGraph, log: IngestLog) -> None:
        self._own, self._log = own, log
        self._own_node = ox.NamedNode(ns.GRAPH + own.name)
        self._names: set[str] = set()
        self._described: dict[str, dict[str, str]] = {}
        self._seen: set[bytes] = set()

    def lines(self, quads: Iterable[ox.Quad]) -> Iterator[pl.Series]:
        anonymous: list[ox.Quad] = []
        placed = self._placed(quads, anonymous)
        while batch := list(islice(placed, _BATCH)):
            yield from self._distinct(batch)
        yield from self._distinct(list(_with_iris(anonymous)))

    def graphs(self) -> tuple[NamedGraph, ...]:
        names = {name for name in self._names if name != self._own.name}
        theirs = [NamedGraph(name, described.get(ns.DCTERMS + "title", name), int(described.get(ns.LICENCE_LEVEL, 0)))
                  for name in sorted(names) for described in [self._described.get(name, {})]]  # fmt: skip
        return (self._own, *theirs) if self._own.name in self._names else tuple(theirs)

    def _placed(self, quads: Iterable[ox.Quad], anonymous: list[ox.Quad]) -> Iterator[ox.Quad]:
        """Every statement in the graph where it belongs; those with blank nodes are put aside."""
        for quad in quads:
            self._log.rows_read["statements"] += 1
            graph = quad.graph_name
            if isinstance(graph, ox.NamedNode) and graph.value == ns.LABEL_GRAPH:
                self._log.skip("statements", "derived preferred label, made anew", 1)
                continue
            if isinstance(graph, ox.NamedNode) and graph.value.startswith(ns.GRAPH):
                self._note_description(quad, graph)
            else:
                quad = ox.Quad(quad.subject, quad.predicate, quad.object, self._own_node)
                self._names.add(self._own.name)
            if isinstance(quad.subject, ox.BlankNode) or isinstance(quad.object, ox.BlankNode):
                anonymous.append(quad)
            else:
                yield quad

    def _note_description(self, quad: ox.Quad, graph: ox.NamedNode) -> None:
        if graph.value == ns.RELATION_GRAPH:
            return
        name = graph.value.removeprefix(ns.GRAPH)
        self._names.add(name)
        if quad.subject == graph and isinstance(quad.object, ox.Literal):
            self._described.setdefault(name, {})[quad.predicate.value] = quad.object.value

    def _distinct(self, quads: list[ox.Quad]) -> Iterator[pl.Series]:
        text = ox.serialize(quads, format=ox.RdfFormat.N_QUADS) or b""
        fresh = []
        for line in text.split(b"\n"):
            key = hashlib.blake2b(line, digest_size=16).digest()
            if line and key not in self._seen:
                self._seen.add(key)
                fresh.append(line.decode())
        self._log.skip("statements", "same statement twice", len(quads) - len(fresh))
        if fresh:
            yield pl.Series("line", fresh, dtype=pl.String)


def _with_iris(quads: list[ox.Quad]) -> Iterator[ox.Quad]:
    """The statements with an IRI for every blank node, the same for the same statements."""
    if not quads:
        return
    dataset = ox.Dataset(quads)
    dataset.canonicalize(ox.CanonicalizationAlgorithm.RDFC_1_0)
    text = ox.serialize(dataset, format=ox.RdfFormat.N_QUADS) or b""
    salt = hashlib.blake2b(b"\n".join(sorted(text.split(b"\n"))), digest_size=8).hexdigest()

    def named(term: ox.NamedNode | ox.BlankNode | ox.Literal | ox.Triple) -> ox.NamedNode | ox.Literal:
        return (
            ox.NamedNode(f"{_GENID}{salt}-{term.value}") if isinstance(term, ox.BlankNode) else cast(ox.NamedNode, term)
        )

    for quad in dataset:
        yield ox.Quad(cast(ox.NamedNode, named(quad.subject)), quad.predicate, named(quad.object), quad.graph_name)


def _format(path: Path) -> tuple[str, ox.RdfFormat]:
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    kind = _FORMATS.get(plain.suffix.lower())
    if kind is None:
        raise InputError(
            f"unknown RDF ending {plain.suffix!r}; choices: {', '.join(_FORMATS)} (plain, .gz or .zst)", path
        )
    return plain.stem, kind


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(IO[bytes], zstandard.open(path, "rb"))
    return path.open("rb")
