"""RDF formats, streamed from N-Quads lines: one batch of statements is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO

import pyoxigraph as ox

from kgkit import namespaces as ns
from kgkit.graph.exportable import Exportable, WriterOptions

_BATCH = 10_000


def write_nquads(source: Exportable, _: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write every statement with its named graph, one a line."""
    count = 0
    for batch in _batches(source.lines()):
        stream.write("".join(f"{line}\n" for line in batch).encode())
        count += len(batch)
    return {"statements": count}


def write_trig(source: Exportable, _: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write every statement with its named graph; the known prefixes shorten the IRIs."""
    return _serialize(_quads(source), stream, ox.RdfFormat.TRIG)


def write_turtle(source: Exportable, _: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write every statement without its named graph; what two vocabularies say is there twice."""
    return _serialize((quad.triple for quad in _quads(source)), stream, ox.RdfFormat.TURTLE)


def write_ntriples(source: Exportable, _: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write every statement without its named graph, one a line; what two vocabularies say is there twice."""
    return _serialize((quad.triple for quad in _quads(source)), stream, ox.RdfFormat.N_TRIPLES)


def _serialize(
    statements: Iterable[ox.Quad] | Iterable[ox.Triple], stream: IO[bytes], written: ox.RdfFormat
) -> dict[str, int]:
    tally: Counter[str] = Counter(statements=0)

    def counted() -> Iterator[ox.Quad | ox.Triple]:
        for statement in statements:
            tally["statements"] += 1
            yield statement

    ox.serialize(counted(), stream, written, prefixes=dict(ns.PREFIXES))  # type: ignore[arg-type]
    return dict(tally)


def _quads(source: Exportable) -> Iterator[ox.Quad]:
    """The statements parsed; without blank nodes every line stands for itself, so batches may be parsed apart."""
    for batch in _batches(source.lines()):
        yield from ox.parse("\n".join(batch), format=ox.RdfFormat.N_QUADS)


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(lines, _BATCH)):
        yield batch
