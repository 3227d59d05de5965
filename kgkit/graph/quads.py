"""Tables to N-Quads: the RDF of one source, as distinct lines without blank nodes, made and written in batches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
import zstandard

from kgkit import namespaces as ns
from kgkit.graph.mention_quads import literal, mention_lines
from kgkit.progress import progress
from kgkit.sources.base import NamedGraph, SourceTables, gathered

_DIGEST_MODULUS = 1 << 256
_NOT_IN_IRI = r'[^\x21-\x7e]|[<>"{}|^`\\%#?\[\]]'
_BATCH = 100_000
"""Rows turned into text at a time: some 15 MB."""
_BLOCK = 1 << 26


def source_lines(tables: SourceTables) -> Iterator[pl.Series]:
    """All quads of a source in batches of N-Quads lines (without line end); every line is distinct."""
    yield pl.Series("line", list(_graph_descriptions(tables)), dtype=pl.String)
    yield from _Writer(tables).lines()
    mentions = mention_lines(tables)
    while lines := list(islice(mentions, _BATCH)):
        yield pl.Series("line", lines, dtype=pl.String)


class QuadsDigest:
    """Order-independent digest of distinct lines: the sum modulo 2^256 of the SHA-256 of each.

    Attributes:
        count: Lines seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take some lines, joined by line ends."""
        sha256 = hashlib.sha256
        hashes = b"".join([sha256(line).digest() for line in data.split(b"\n")])
        # Summed as eight 32-bit limbs: Python's own big numbers would take as long as the hashing.
        limbs = np.frombuffer(hashes, dtype=">u4").reshape(-1, 8)
        self.count += len(limbs)
        sums = limbs.sum(axis=0, dtype=np.uint64)
        self._total += sum(int(limb) << (32 * (7 - place)) for place, limb in enumerate(sums))

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._total % _DIGEST_MODULUS:064x}"


def write_quads(
    batches: Iterable[pl.Series], path: Path, also: Callable[[bytes], None] | None = None
) -> tuple[int, str]:
    """Write lines as zstd-compressed N-Quads.

    Args:
        batches: Distinct lines, without line ends.
        path: The file.
        also: Is given every batch too, its lines joined by line ends.

    Returns:
        Number of lines, and their digest (QuadsDigest).
    """
    digest = QuadsDigest()
    fast = zstandard.ZstdCompressor(level=1)
    with zstandard.open(path, "wb", cctx=fast) as stream, progress("quads", None, "statements") as reporter:
        for batch in batches:
            if batch.is_empty():
                continue
            data = str(batch.str.join("\n").item()).encode()
            stream.write(data)
            stream.write(b"\n")
            digest.add(data)
            if also is not None:
                also(data)
            reporter.advance(len(batch))
    return digest.count, digest.hexdigest()


def read_quads(path: Path) -> io.BufferedReader:
    """The N-Quads text of a quads file, decompressed as it is read."""
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), 1 << 20)


def read_line_batches(path: Path) -> Iterator[pl.Series]:
    """The lines of a quads file, some 64 MB at a time."""
    rest = b""
    with read_quads(path) as stream:
        while block := stream.read(_BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield pl.Series("line", whole.decode().split("\n"), dtype=pl.String)
    if rest:
        yield pl.Series("line", rest.decode().split("\n"), dtype=pl.String)


def preferred_label_lines(preferred: pl.DataFrame) -> Iterator[pl.Series]:
    """The derived graph: one `skos:prefLabel` per concept and language.

    Args:
        preferred: Columns id (CURIE), name, language.
    """
    graph = pl.lit(f" <{ns.LABEL_GRAPH}> .")
    for rows in preferred.iter_slices(_BATCH):
        parts = (iri_terms(pl.col("id")), pl.lit(f" <{ns.PREF_LABEL}> "), _literal("name"), pl.lit("@"), "language")
        yield rows.select(line=pl.concat_str(*parts, graph))["line"]


def iri_terms(ids: pl.Expr) -> pl.Expr:
    """`<IRI>` of a column of CURIEs; characters that no IRI may hold are percent-encoded, whole IRIs stay."""
    prefix, local = ids.str.extract(r"^([^:]*):", 1), ids.str.replace(r"^[^:]*:", "")
    safe = (
        pl.when(local.str.contains(_NOT_IN_IRI))
        .then(local.map_elements(_quoted, return_dtype=pl.String, skip_nulls=True))
        .otherwise(local)
    )
    space = prefix.replace_strict(dict(ns.PREFIXES), default=None, return_dtype=pl.String)
    curie = space.fill_null(pl.lit(ns.OBO) + prefix + "_") + safe
    return "<" + pl.when(local.str.starts_with("//")).then(ids).otherwise(curie) + ">"


class _Writer:
    """Turns the tables of one source into lines; ids, relations and graphs are spelled out once and gathered."""

    def __init__(self, tables: SourceTables) -> None:
        self._tables = tables
        self._ids = tables.ids.to_frame("id").select(iri_terms(pl.col("id"))).to_series()
        self._relations = pl.Series("relation", [relation_term(name) for name in tables.relations], dtype=pl.String)
        names = [graph.name for graph in tables.graphs]
        self._graphs = pl.Series("graph", [f" <{ns.GRAPH}{name}> ." for name in names], dtype=pl.String)
        vocabularies = [f"^^<{ns.BASE}vocabulary/{name.partition('@')[0]}>" for name in names]
        self._notation_types = pl.Series("type", vocabularies, dtype=pl.String)

    def lines(self) -> Iterator[pl.Series]:
        tables = self._tables
        yield from self._concepts()
        yield from self._names()
        text = _literal("definition") + "@" + pl.col("language")
        yield from self._statements(tables.definitions, "concept", ns.DEFINITION, text)
        yield from self._statements(tables.types, "concept", ns.SEMANTIC_TYPE, iri_terms("STY:" + pl.col("tui")))
        yield from self._statements(tables.codes, "concept", ns.SOURCE_CODE, iri_terms(pl.col("code")))
        notation = _literal("code") + gathered(self._notation_types, "graph")
        yield from self._statements(tables.codes, "concept", ns.SKOS + "notation", notation)
        relation = " " + gathered(self._relations, "relation") + " "
        yield from self._statements(tables.edges, "head", relation, gathered(self._ids, "tail"))
        match = f" <{ns.SKOS}" + pl.col("predicate") + "Match> "
        yield from self._statements(tables.matches, "subject", match, gathered(self._ids, "object"))
        yield from self._retired()
        attribute = " " + iri_terms("kgkit:attribute/" + pl.col("attribute")) + " "
        yield from self._statements(tables.attributes, "concept", attribute, _literal("value"))

    def _concepts(self) -> Iterator[pl.Series]:
        concepts = self._tables.concepts
        yield from self._statements(concepts, "concept", ns.RDF_TYPE, pl.lit(f"<{ns.CONCEPT}>"))
        true = pl.lit(f'"true"^^<{ns.XSD}boolean>')
        yield from self._statements(concepts.filter("is_placeholder"), "concept", ns.PLACEHOLDER, true)

    def _names(self) -> Iterator[pl.Series]:
        names, text = self._tables.names, _literal("name") + "@" + pl.col("language")
        best = names.filter("is_best")
        yield from self._statements(best, "concept", ns.SOURCE_LABEL, text)
        predicate = f" <{ns.SOURCE_LABEL_RANK}/" + pl.col("language") + "> "
        rank = '"' + pl.col("rank").cast(pl.String) + f'"^^<{ns.XSD}integer>'
        yield from self._statements(best, "concept", predicate, rank)
        yield from self._statements(names.filter(~pl.col("is_best")), "concept", ns.ALT_LABEL, text)
        yield from self._statements(names.filter("is_abbreviation"), "concept", ns.ABBREVIATION, text)

    def _retired(self) -> Iterator[pl.Series]:
        retired = self._tables.retired
        reasons = retired.select("graph", "retired", "reason").unique(maintain_order=True)
        yield from self._statements(reasons, "retired", ns.RETIRED_REASON, _literal("reason"))
        replaced = retired.filter(pl.col("target").is_not_null()).select("graph", "retired", "target")
        target = gathered(self._ids, "target")
        yield from self._statements(replaced.unique(maintain_order=True), "retired", ns.REPLACED_BY, target)
        # Of an id that was split for several reasons, each successor has its own.
        reasons_of_id = pl.col("reason").n_unique().over("graph", "retired")
        several = retired.filter(pl.col("target").is_not_null(), reasons_of_id > 1)
        each = " " + iri_terms("kgkit:replacedBy/" + pl.col("reason")) + " "
        yield from self._statements(several, "retired", each, target)

    def _statements(
        self, frame: pl.DataFrame, subject: str, predicate: str | pl.Expr, value: pl.Expr
    ) -> Iterator[pl.Series]:
        """Lines of one kind of statement; `subject` is an id column, a predicate given as a string is an IRI."""
        middle = pl.lit(f" <{predicate}> ") if isinstance(predicate, str) else predicate
        parts = (gathered(self._ids, subject), middle, value, gathered(self._graphs, "graph"))
        for rows in frame.iter_slices(_BATCH):
            yield rows.select(line=pl.concat_str(*parts))["line"]


def relation_term(relation: str) -> str:
    """`<IRI>` of a relation: a name becomes a term of ours, a CURIE or an IRI stays what it is."""
    return f"<{ns.expand(relation)}>" if ":" in relation else f"<{ns.RELATION}{_quoted(relation)}>"


def _quoted(local: str) -> str:
    return quote(local, safe=ns.SAFE_IN_IRI)


def _literal(column: str) -> pl.Expr:
    escaped = pl.col(column).str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    return '"' + escaped.str.replace_all("\n", "\\n", literal=True).str.replace_all("\r", "\\r", literal=True) + '"'


def _graph_descriptions(tables: SourceTables) -> Iterator[str]:
    """Who each named graph is (PROV-O, licence level), kept inside it; and, in a graph apart, the relations used."""
    for graph in tables.graphs:
        iri = f"<{ns.GRAPH}{graph.name}>"
        for predicate, value in _description(graph, tables):
            yield f"{iri} <{predicate}> {value} {iri} ."
    for relation in tables.relations:
        yield from _relation_declaration(str(relation), f"<{ns.RELATION_GRAPH}>")


def _description(graph: NamedGraph, tables: SourceTables) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{ns.PROV}Entity>"
    yield ns.DCTERMS + "title", literal(graph.title)
    yield ns.DCTERMS + "hasVersion", literal(graph.name.partition("@")[2])
    yield ns.LICENCE_LEVEL, f'"{graph.licence_level}"^^<{ns.XSD}integer>'
    yield ns.PROV + "wasDerivedFrom", f"<{ns.BASE}source/{quote(tables.name)}@{quote(tables.release)}>"


def _relation_declaration(relation: str, graph: str) -> Iterator[str]:
    iri = relation_term(relation)
    yield f"{iri} <{ns.RDF_TYPE}> <{ns.OWL_OBJECT_PROPERTY}> {graph} ."
    yield f"{iri} <{ns.RDFS_LABEL}> {literal(relation.replace('_', ' '))}@en {graph} ."
    if relation == "isa":
        yield f"{iri} <{ns.RDFS_SUBPROPERTY}> <{ns.BROADER}> {graph} ."
