"""A source's columns read back from its RDF: the proof that the quads are the whole truth.

Reads our own terms, and of foreign RDF what SKOS, RDFS and OBO say of concepts (labels, definitions, broader terms,
matches, replaced terms, relations between declared concepts).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import polars as pl

from kgkit import namespaces as ns
from kgkit.graph.quads import read_line_batches
from kgkit.sources.base import MATCH_PREDICATES, NamedGraph, SourceTables, encode_tables

_QUAD = r'^<([^>]*)> <([^>]*)> (?:<([^>]*)>|"(.*)"(?:@([A-Za-z0-9-]+)|\^\^<[^>]*>)?) <([^>]*)> \.$'
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_OBO_IN_OWL = "http://www.geneontology.org/formats/oboInOwl#"
_OWL_CLASS = "http://www.w3.org/2002/07/owl#Class"
_BEST = (1 << 31) - 1

_NAMES: Mapping[str, int] = MappingProxyType(
    {
        ns.SOURCE_LABEL: _BEST,
        ns.PREF_LABEL: 7,
        ns.RDFS_LABEL: 6,
        _OBO_IN_OWL + "hasExactSynonym": 5,
        ns.ALT_LABEL: 0,
    }
)
"""Predicates that give a name -> how good a name it is, where no rank is stated."""
_MATCHES = {f"{ns.SKOS}{kind}Match": kind for kind in MATCH_PREDICATES}
_MATCHES["http://www.w3.org/2002/07/owl#equivalentClass"] = "exact"
_ISA = ("http://www.w3.org/2000/01/rdf-schema#subClassOf", ns.BROADER)
_DEFINITIONS = (ns.DEFINITION, ns.OBO + "IAO_0000115")
_REPLACED = (ns.REPLACED_BY, ns.OBO + "IAO_0100001")
_NO_EDGE = {ns.RDF_TYPE, ns.SEMANTIC_TYPE, ns.SOURCE_CODE, ns.SKOS + "narrower", *_MATCHES, *_ISA, *_REPLACED}


def tables_from_quads(path: Path, source: dict[str, Any]) -> SourceTables:
    """Columns of the concepts, names and relations in a quads file, read as a stream.

    The rank of a name that is not its vocabulary's best is not in the RDF (nothing needs it) and comes back as 0.

    Args:
        path: A `.nq.zst` file written by kgkit.
        source: The source's entry in the graph's manifest.
    """
    parts: dict[str, list[pl.DataFrame]] = defaultdict(list)
    for lines in read_line_batches(path):
        for table, rows in _sorted_into_tables(_quads(lines)):
            if len(rows):
                parts[table].append(rows)
    written = {table: pl.concat(frames) for table, frames in parts.items()}
    _join_parts(written)
    graphs = tuple(NamedGraph(**graph) for graph in source["graphs"])
    return encode_tables(source["name"], source["release"], graphs, written)


def _quads(lines: pl.Series) -> pl.DataFrame:
    """Columns s, p, o (IRI), text (literal), language, graph (local name), of statements in source graphs."""
    fields = lines.str.extract_groups(_QUAD).struct.rename_fields(["s", "p", "o", "text", "language", "graph"])
    ours = pl.col("graph").str.starts_with(ns.GRAPH) & ~pl.col("graph").is_in([ns.RELATION_GRAPH, ns.LABEL_GRAPH])
    quads = fields.struct.unnest().filter(ours).with_columns(pl.col("graph").str.slice(len(ns.GRAPH)))
    escaped = quads["text"].str.contains("\\", literal=True).fill_null(value=False)
    if escaped.any():
        quads = quads.with_columns(
            pl.when(escaped).then(pl.col("text").map_elements(_unescaped, pl.String)).otherwise("text").alias("text")
        )
    return quads


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[3])

    return _ESCAPE.sub(character, text) if "\\" in text else text


def _sorted_into_tables(quads: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    iris = pl.concat([quads["s"], quads["o"].rename("s")]).drop_nulls().unique()
    known = pl.Series("curie", [ns.curie_of(iri) for iri in iris], dtype=pl.String)
    curies = [pl.col(column).replace_strict(iris, known, return_dtype=pl.String) for column in ("s", "o")]
    quads = quads.with_columns(curies)
    p, language = pl.col("p"), pl.col("language").fill_null("en")

    def rows(wanted: pl.Expr, columns: Mapping[str, Any]) -> pl.DataFrame:
        return quads.filter(wanted).select("graph", **columns)

    classes = (p == ns.RDF_TYPE) & pl.col("o").is_in(["skos:Concept", ns.compress(_OWL_CLASS)])
    yield "concepts", rows(classes, {"concept": "s"})
    yield "placeholders", rows(p == ns.PLACEHOLDER, {"concept": "s"})
    named = {"concept": "s", "name": "text", "language": language}
    grade = p.replace_strict(dict(_NAMES), default=0, return_dtype=pl.Int32)
    yield "names", rows(p.is_in(list(_NAMES)), named | {"rank": grade})
    yield "abbreviations", rows(p == ns.ABBREVIATION, named)
    of_language = p.str.slice(len(ns.SOURCE_LABEL_RANK) + 1)
    stated = {"concept": "s", "language": of_language, "stated": pl.col("text").cast(pl.Int32)}
    yield "ranks", rows(p.str.starts_with(ns.SOURCE_LABEL_RANK + "/"), stated)
    yield "definitions", rows(p.is_in(_DEFINITIONS), {"concept": "s", "definition": "text", "language": language})
    yield "types", rows(p == ns.SEMANTIC_TYPE, {"concept": "s", "tui": pl.col("o").str.strip_prefix("STY:")})
    yield "codes", rows(p == ns.SOURCE_CODE, {"concept": "s", "code": "o"})
    match = {"subject": "s", "predicate": p.replace(_MATCHES), "object": "o"}
    yield "matches", rows(p.is_in(list(_MATCHES)), match)
    yield "reasons", rows(p == ns.RETIRED_REASON, {"retired": "s", "reason": "text"})
    yield "replaced", rows(p.is_in(_REPLACED), {"retired": "s", "target": "o"})
    each = p.str.slice(len(ns.REPLACED_BY) + 1).map_elements(unquote, pl.String)
    pairs = {"retired": "s", "reason": each, "target": "o"}
    yield "successors", rows(p.str.starts_with(ns.REPLACED_BY + "/"), pairs)
    attribute = p.str.slice(len(ns.ATTRIBUTE)).map_elements(unquote, pl.String)
    described = {"concept": "s", "attribute": attribute, "value": "text"}
    yield "attributes", rows(p.str.starts_with(ns.ATTRIBUTE), described)
    yield from _edges(quads)


def _edges(quads: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    p = pl.col("p")
    ours = quads.filter(p.str.starts_with(ns.RELATION))
    yield "edges", _edge_rows(ours, p.str.slice(len(ns.RELATION)).map_elements(unquote, pl.String))
    yield "edges", _edge_rows(quads.filter(p.is_in(_ISA) & pl.col("o").is_not_null()), pl.lit("isa"))
    narrower = quads.filter(p == ns.SKOS + "narrower").rename({"s": "o", "o": "s"})
    yield "edges", _edge_rows(narrower, pl.lit("isa"))
    foreign = quads.filter(
        pl.col("o").is_not_null() & ~p.is_in(list(_NO_EDGE)) & ~p.str.starts_with(ns.RELATION)
        & ~p.str.starts_with(ns.BASE) & ~p.str.starts_with(ns.RDF_TYPE.rpartition("#")[0])
    )  # fmt: skip
    yield "foreign", _edge_rows(foreign, p.map_elements(ns.curie_of, pl.String))


def _edge_rows(quads: pl.DataFrame, relation: pl.Expr) -> pl.DataFrame:
    return quads.select("graph", head="s", relation=relation, tail="o")


def _join_parts(written: dict[str, pl.DataFrame]) -> None:
    """Put together what RDF says in several statements: placeholders, abbreviations, ranks, retired ids."""
    placeholders = written.pop("placeholders", pl.DataFrame(schema={"graph": pl.String, "concept": pl.String}))
    if "concepts" in written:
        minted = pl.col("concept").is_in(placeholders["concept"].implode())
        written["concepts"] = written["concepts"].with_columns(is_placeholder=minted)
    _join_names(written)
    _join_retired(written)
    foreign = written.pop("foreign", None)
    if foreign is not None and "concepts" in written:
        declared = written["concepts"]["concept"].implode()
        kept = foreign.filter(pl.col("head").is_in(declared) & pl.col("tail").is_in(declared))
        written["edges"] = pl.concat([written["edges"], kept]) if "edges" in written else kept


def _join_retired(written: dict[str, pl.DataFrame]) -> None:
    """(retired, reason, target) of ids with one reason, and of those whose successors have a reason each."""
    key = {"graph": pl.String, "retired": pl.String}
    reasons = written.pop("reasons", pl.DataFrame(schema=key | {"reason": pl.String}))
    replaced = written.pop("replaced", pl.DataFrame(schema=key | {"target": pl.String}))
    pairs = written.pop("successors", pl.DataFrame(schema=key | {"reason": pl.String, "target": pl.String}))
    if reasons.is_empty() and replaced.is_empty():
        return
    ids, split = list(key), pairs.select("graph", "retired").unique()
    one = reasons.join(replaced, on=ids, how="full", coalesce=True).join(split, on=ids, how="anti")
    gone = reasons.join(split, on=ids, how="semi").join(pairs, on=[*ids, "reason"], how="anti")
    rows = pl.concat([one, pairs, gone.with_columns(target=pl.lit(None, dtype=pl.String))], how="diagonal")
    written["retired"] = rows.with_columns(pl.col("reason").fill_null("obsolete"))


def _join_names(written: dict[str, pl.DataFrame]) -> None:
    keys = ["graph", "concept", "language"]
    names, short, ranks = (written.pop(table, None) for table in ("names", "abbreviations", "ranks"))
    if names is None:
        return
    names = names.with_columns(is_abbreviation=pl.lit(value=False))
    if short is not None:
        marked = short.unique().with_columns(short=pl.lit(value=True))
        names = names.join(marked, on=[*keys, "name"], how="left").with_columns(
            is_abbreviation=pl.col("short").fill_null(value=False)
        )
    if ranks is not None:
        names = names.join(ranks.unique(keys), on=keys, how="left").with_columns(
            rank=pl.when(pl.col("rank") == _BEST).then(pl.col("stated").fill_null(0)).otherwise(pl.lit(-1))
        )
    written["names"] = names.select(*keys, "name", "rank", "is_abbreviation")
