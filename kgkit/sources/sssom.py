"""Mappings in SSSOM/TSV (mapping-commons.github.io/sssom) to tables: matches between ids, nothing else."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
import yaml

from kgkit.errors import InputError
from kgkit.namespaces import PREFIXES, compress, plain
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables, encode_tables
from kgkit.sources.term_files import read_text, table_rows
from kgkit.sources.term_ids import canonical_id, is_cui, is_usable_id, release_of
from kgkit.sources.terms import MATCH_NAMES

_EXPECTED = "SSSOM/TSV: a comment block `#curie_map: ...`, then a header with subject_id, predicate_id and object_id"
_REQUIRED = ("subject_id", "predicate_id", "object_id")
_PREDICATES = MappingProxyType(dict(MATCH_NAMES) | {"owl:equivalentClass": "exact"})
_NO_TERM = "sssom:NoTermFound"


def read_sssom(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read a mapping set.

    Args:
        path: The file, plain or gzipped.
        log: Where mappings and what is not used are counted.
        name: Source name; from `mapping_set_id` if it ends in a file name, else from the file's name.
        release: Release; from `mapping_set_version` or `mapping_date` if not given.
        licence_level: UMLS source restriction level.

    Returns:
        Tables with matches alone. Mappings are kept whatever their confidence; those of a negated predicate are not.

    Raises:
        InputError: if it is no SSSOM/TSV, or no mapping is left.
    """
    lines = [line.removesuffix("\r") for line in read_text(path, _EXPECTED).split("\n")]
    log.files.append(path)
    start = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    meta = _metadata([line.removeprefix("#") for line in lines[:start]], path)
    name = plain(name or _set_name(str(meta.get("mapping_set_id", "")), path))
    version = meta.get("mapping_set_version") or meta.get("mapping_date") or ""
    release = plain(release or release_of(str(version)))
    prefixes = meta.get("curie_map") or {}
    if not isinstance(prefixes, dict):
        raise InputError("curie_map is not a map of prefix and namespace", path)
    rows = list(_mappings(lines, start, _Prefixes(prefixes), path, log))
    if not rows:
        raise InputError("no mapping of a kind that states a match in this file", path)
    graph = NamedGraph(f"{name}@{release}", str(meta.get("mapping_set_title") or name), licence_level)
    columns = dict.fromkeys(("subject", "predicate", "object"), pl.String)
    matches = pl.DataFrame(rows, schema=columns, orient="row")
    distinct = matches.unique()
    log.skip("mappings", "same mapping twice", len(matches) - len(distinct))
    return encode_tables(name, release, (graph,), {"matches": distinct.with_columns(graph=pl.lit(graph.name))})


class _Prefixes:
    """Ids of a mapping set to ours, by its curie_map and by how known prefixes are written."""

    def __init__(self, curie_map: Mapping[str, Any]) -> None:
        self._spaces = {str(prefix): str(space) for prefix, space in curie_map.items()}

    def canonical(self, written: str) -> str:
        """Our id of an id of the set; what the map calls a known prefix goes by that where its namespace is foreign."""
        prefix, _, local = written.partition(":")
        by_map = canonical_id(self._spaces[prefix] + local) if prefix in self._spaces else ""
        by_prefix = canonical_id(written)
        is_known = by_prefix.partition(":")[0] in PREFIXES
        return by_map if by_map and ("://" not in by_map or not is_known) else by_prefix


def _metadata(lines: list[str], path: Path) -> dict[str, Any]:
    try:
        # Every scalar as text: a version 1.10 is no number, and a prefix NO is not false.
        content = yaml.BaseLoader("\n".join(lines)).get_single_data()
    except yaml.YAMLError as error:
        raise InputError(f"the comment block is not YAML ({' '.join(str(error).split())[:120]})", path) from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"the comment block is no map of metadata; expected {_EXPECTED}", path)
    return content or {}


def _set_name(set_id: str, path: Path) -> str:
    last = set_id.rstrip("/").rpartition("/")[2]
    name = last if last.endswith(".tsv") else path.name
    for end in (".gz", ".tsv", ".sssom"):
        name = name.removesuffix(end)
    return name


def _mappings(
    lines: list[str], start: int, prefixes: _Prefixes, path: Path, log: IngestLog
) -> Iterator[tuple[str, str, str]]:
    header = next(csv.reader(lines[start : start + 1], delimiter="\t"), [])
    missing = [column for column in _REQUIRED if column not in header]
    if missing:
        raise InputError(f"no column {missing[0]!r} in the header; expected {_EXPECTED}", path, start + 1)
    for number, row in table_rows(lines[start + 1 :], header, "\t", (path, start + 1), "mappings", log):
        log.rows_read["mappings"] += 1
        found = _mapping(row, prefixes, (path, number), log)
        if found is not None:
            yield found


def _mapping(
    row: Mapping[str, str], prefixes: _Prefixes, place: tuple[Path, int], log: IngestLog
) -> tuple[str, str, str] | None:
    predicate = compress(prefixes.canonical(row["predicate_id"].strip()))
    if row.get("predicate_modifier", "").strip():
        log.skip("mappings", "negated predicate (predicate_modifier)", 1)
    elif _NO_TERM in (row["subject_id"], row["object_id"]):
        log.skip("mappings", "states that there is no such term", 1)
    elif predicate not in _PREDICATES:
        log.skip("mappings", f"predicate states no match: {row['predicate_id']}", 1)
    else:
        subject, target = (prefixes.canonical(row[column].strip()) for column in ("subject_id", "object_id"))
        for end in (subject, target):
            if not is_usable_id(end) or (end.startswith("umls:") and not is_cui(end)):
                log.defect("mappings", "id is neither a CURIE nor an IRI, or no CUI", place, end)
                return None
        if subject != target:
            return subject, _PREDICATES[predicate], target
        log.skip("mappings", "both ends are one id", 1)
    return None
