"""Tables to N-Quads: the RDF of one source, as sorted distinct lines without blank nodes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import polars as pl
import zstandard

from kgkit import namespaces as ns
from kgkit.graph.mention_quads import literal, mention_lines
from kgkit.sources.base import NamedGraph, SourceTables
from kgkit.views.preferred import preferred_names

_DIGEST_MODULUS = 1 << 256
_NOT_IN_IRI = r'[^\x21-\x7e]|[<>"{}|^`\\%#?\[\]]'


def source_lines(tables: SourceTables) -> Iterator[str]:
    """All quads of a source, one N-Quads line (without line end) each; every line is distinct."""
    yield from _graph_descriptions(tables)
    frames = (
        _concept_lines(tables.concepts),
        _name_lines(tables.names),
        _literal_lines(tables.definitions, ns.DEFINITION, "definition", pl.col("language")),
        _object_lines(tables.types, ns.SEMANTIC_TYPE, "STY:" + pl.col("tui")),
        _object_lines(tables.codes, ns.SOURCE_CODE, pl.col("code")),
        _notation_lines(tables.codes),
        _edge_lines(tables.edges),
    )
    for frame in frames:
        yield from frame
    yield from mention_lines(tables)


def write_quads(lines: Iterable[str], path: Path) -> tuple[int, str]:
    """Write lines as zstd-compressed N-Quads.

    Returns:
        Number of lines, and the order-independent digest: the sum modulo 2^256 of the SHA-256 of each line, in hex.
    """
    count, total = 0, 0
    with zstandard.open(path, "wb") as stream:
        for line in lines:
            data = line.encode()
            stream.write(data + b"\n")
            total += int.from_bytes(hashlib.sha256(data).digest(), "big")
            count += 1
    return count, f"{total % _DIGEST_MODULUS:064x}"


def read_quads(path: Path) -> io.BufferedReader:
    """The N-Quads text of a quads file, decompressed as it is read."""
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), 1 << 20)


def preferred_label_lines(names: pl.DataFrame) -> Iterator[str]:
    """The derived graph: one `skos:prefLabel` per concept and language, from the best names of all vocabularies."""
    best = preferred_names(names).with_columns(graph=pl.lit(ns.LABEL_GRAPH.removeprefix(ns.GRAPH)))
    yield from _literal_lines(best, ns.PREF_LABEL, "name", pl.col("language"))


def _iri(curie: pl.Expr) -> pl.Expr:
    """`<IRI>` of a CURIE column; characters that no IRI may hold are percent-encoded."""
    prefix, local = curie.str.extract(r"^([^:]*):", 1), curie.str.replace(r"^[^:]*:", "")
    safe = (
        pl.when(local.str.contains(_NOT_IN_IRI))
        .then(local.map_elements(_quoted, return_dtype=pl.String))
        .otherwise(local)
    )
    return "<" + prefix.replace_strict(dict(ns.PREFIXES), return_dtype=pl.String) + safe + ">"


def _quoted(local: str) -> str:
    return quote(local, safe="/:@!$&'()*+,;=-._~")


def _literal(text: pl.Expr) -> pl.Expr:
    escaped = text.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    return '"' + escaped.str.replace_all("\n", "\\n", literal=True).str.replace_all("\r", "\\r", literal=True) + '"'


def _graph() -> pl.Expr:
    return f" <{ns.GRAPH}" + pl.col("graph") + "> ."


def _lines(frame: pl.DataFrame, *parts: pl.Expr) -> Iterator[str]:
    if not frame.is_empty():
        yield from frame.select(pl.concat_str(*parts).alias("line"))["line"]


def _concept_lines(concepts: pl.DataFrame) -> Iterator[str]:
    subject = _iri(pl.col("concept"))
    yield from _lines(concepts, subject, pl.lit(f" <{ns.RDF_TYPE}> <{ns.CONCEPT}>"), _graph())
    minted = concepts.filter("is_placeholder")
    yield from _lines(minted, subject, pl.lit(f' <{ns.PLACEHOLDER}> "true"^^<{ns.XSD}boolean>'), _graph())


def _name_lines(names: pl.DataFrame) -> Iterator[str]:
    subject, language = _iri(pl.col("concept")), pl.col("language")
    best = names.filter("is_best")
    rank = f'"^^<{ns.XSD}integer>'
    yield from _literal_lines(best, ns.SOURCE_LABEL, "name", language)
    yield from _lines(best, subject, pl.lit(f" <{ns.SOURCE_LABEL_RANK}/"), language, pl.lit('> "'),
                      pl.col("rank").cast(pl.String), pl.lit(rank), _graph())  # fmt: skip
    yield from _literal_lines(names.filter(~pl.col("is_best")), ns.ALT_LABEL, "name", language)
    yield from _literal_lines(names.filter("is_abbreviation"), ns.ABBREVIATION, "name", language)


def _literal_lines(frame: pl.DataFrame, predicate: str, column: str, language: pl.Expr) -> Iterator[str]:
    text = _literal(pl.col(column))
    yield from _lines(frame, _iri(pl.col("concept")), pl.lit(f" <{predicate}> "), text, pl.lit("@"), language, _graph())


def _object_lines(frame: pl.DataFrame, predicate: str, target: pl.Expr) -> Iterator[str]:
    yield from _lines(frame, _iri(pl.col("concept")), pl.lit(f" <{predicate}> "), _iri(target), _graph())


def _notation_lines(codes: pl.DataFrame) -> Iterator[str]:
    vocabulary = pl.col("graph").str.replace(r"@.*$", "")
    datatype = pl.lit(f"^^<{ns.BASE}vocabulary/") + vocabulary + ">"
    text = _literal(pl.col("code"))
    yield from _lines(codes, _iri(pl.col("concept")), pl.lit(f" <{ns.SKOS}notation> "), text, datatype, _graph())


def _edge_lines(edges: pl.DataFrame) -> Iterator[str]:
    relation = _iri("rela:" + pl.col("relation"))
    yield from _lines(edges, _iri(pl.col("head")), pl.lit(" "), relation, pl.lit(" "), _iri(pl.col("tail")), _graph())


def _graph_descriptions(tables: SourceTables) -> Iterator[str]:
    """Who each named graph is (PROV-O, licence level), kept inside it; and, in a graph apart, the relations used."""
    for graph in tables.graphs:
        iri = f"<{ns.GRAPH}{graph.name}>"
        for predicate, value in _description(graph, tables):
            yield f"{iri} <{predicate}> {value} {iri} ."
    for relation in tables.edges["relation"].unique().sort():
        yield from _relation_declaration(relation, f"<{ns.RELATION_GRAPH}>")


def _description(graph: NamedGraph, tables: SourceTables) -> Iterator[tuple[str, str]]:
    yield ns.RDF_TYPE, f"<{ns.PROV}Entity>"
    yield ns.DCTERMS + "title", literal(graph.title)
    yield ns.DCTERMS + "hasVersion", literal(graph.name.partition("@")[2])
    yield ns.LICENCE_LEVEL, f'"{graph.licence_level}"^^<{ns.XSD}integer>'
    yield ns.PROV + "wasDerivedFrom", f"<{ns.BASE}source/{quote(tables.name)}@{quote(tables.release)}>"


def _relation_declaration(relation: str, graph: str) -> Iterator[str]:
    iri = f"<{ns.RELATION}{_quoted(relation)}>"
    yield f"{iri} <{ns.RDF_TYPE}> <{ns.OWL_OBJECT_PROPERTY}> {graph} ."
    yield f"{iri} <{ns.RDFS_LABEL}> {literal(relation.replace('_', ' '))}@en {graph} ."
    if relation == "isa":
        yield f"{iri} <{ns.RDFS_SUBPROPERTY}> <{ns.BROADER}> {graph} ."
