"""Plain tables of terms: the JSON of cellxgene-ontology-guide, MeSH descriptors, TSV and CSV with a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.term_files import parse_json, read_text, table_rows, text_of
from kgkit.sources.term_ids import canonical_id
from kgkit.sources.terms import DEFAULT_LANGUAGE, Ontology, Synonym, Term, term_tables

LAYOUTS = (
    "JSON of id -> {label, ancestors: {id: distance}, description, synonyms, deprecated, replaced_by} "
    "(cellxgene-ontology-guide); MeSH descriptors as TSV without a header (id, label, synonyms, tree numbers); "
    "TSV or CSV with a header that names id and name, and any of synonyms, definition, parents, xrefs; several values "
    "of a field are joined by |"
)
"""The layouts that are read, for messages."""

_EXPECTED = f"one of: {LAYOUTS}"
_COLUMN_NAMES = {"identifier": "id", "label": "name", "description": "definition", "synonym": "synonyms"}
_COLUMNS = ("id", "name", "synonyms", "definition", "parents", "xrefs")
_MESH_ID = re.compile(r"[CDQ]\d{6,9}")
_TREE_NUMBER = re.compile(r"[A-Z]\d\d(\.\d{2,3})*")


def read_terms(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read a table of terms; its layout is told by its content.

    Args:
        path: The file, plain or gzipped.
        log: Where terms and what is not used are counted.
        name: Source name; from the commonest prefix of the terms if not given.
        release: Release; `unversioned` if not given, for none of the layouts states one.
        licence_level: UMLS source restriction level.

    Raises:
        InputError: naming the accepted layouts if it is none of them, or the row that cannot be read.
    """
    text = read_text(path, _EXPECTED)
    log.files.append(path)
    if text.lstrip()[:1] in ("{", "["):
        terms: Iterable[Term] = json_terms(parse_json(text, path, _EXPECTED), path, log)
    else:
        terms = _table_terms(text, path, log)
    return term_tables(Ontology(path, list(terms)), log, name, release, licence_level)


def is_terms_json(content: Any) -> bool:
    """Is this parsed JSON in the layout of cellxgene-ontology-guide?"""
    if not isinstance(content, dict) or not content:
        return False
    first = next(iter(content.values()))
    return isinstance(first, dict) and "label" in first and "ancestors" in first


def json_terms(content: Any, path: Path, log: IngestLog) -> Iterator[Term]:
    """Terms of the JSON of cellxgene-ontology-guide; ancestors at distance 1 are the parents.

    Raises:
        InputError: if it is another JSON, or naming the term that is malformed.
    """
    if not is_terms_json(content):
        hint = "; OBO graph JSON is read by `kgkit ingest obograph`" if "graphs" in content else ""
        raise InputError(f"not a JSON of terms{hint}; expected {_EXPECTED}", path)
    for written, entry in content.items():
        try:
            ancestors = entry["ancestors"]
            replaced = entry.get("replaced_by") or []
            description = entry.get("description") or ""
            log.skip("terms", "suggested instead of an obsolete term (consider)", len(entry.get("consider") or ()))
            yield Term(
                id=canonical_id(written),
                name=text_of(entry["label"] or ""),
                synonyms=tuple(Synonym(text_of(synonym)) for synonym in entry.get("synonyms") or ()),
                definitions=((text_of(description), DEFAULT_LANGUAGE),) if description else (),
                parents=tuple(canonical_id(other) for other, distance in ancestors.items() if distance == 1),
                is_obsolete=bool(entry.get("deprecated")),
                replaced_by=tuple(map(canonical_id, [replaced] if isinstance(replaced, str) else replaced)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"term {written!r} is malformed ({error}); expected {_EXPECTED}", path) from error


def _table_terms(text: str, path: Path, log: IngestLog) -> Iterator[Term]:
    """Terms of a table of lines, with or without a header."""
    # Lines end at LF alone: a name may hold U+2028 or another line end of Unicode.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    fields = lines[0].split("\t")
    if len(fields) >= 4 and _MESH_ID.fullmatch(fields[0]) and _TREE_NUMBER.match(fields[3] or "A01"):
        return _mesh_terms(lines, path, log)
    delimiter = "\t" if len(fields) > 1 else ","
    try:
        header = next(csv.reader(lines[:1], delimiter=delimiter), [])
    except csv.Error as error:
        raise InputError(f"not a table of terms ({error}); expected {_EXPECTED}", path, 1) from error
    names = [name.strip().lower() for name in header]
    columns = [_COLUMN_NAMES.get(name, name) for name in names]
    if not {"id", "name"} <= set(columns):
        raise InputError(f"not a table of terms: it begins {lines[0][:60]!r}; expected {_EXPECTED}", path, 1)
    if len(columns) != len(set(columns)):
        raise InputError(f"two columns of the header mean the same: {', '.join(names)}", path, 1)
    log.skip("columns", f"not read (read are: {', '.join(_COLUMNS)})", len(set(columns) - set(_COLUMNS)))
    return _header_terms(lines[1:], columns, delimiter, path, log)


def _header_terms(
    lines: Sequence[str], columns: Sequence[str], delimiter: str, path: Path, log: IngestLog
) -> Iterator[Term]:
    for number, row in table_rows(lines, columns, delimiter, (path, 1), "terms", log):
        definition = row.get("definition", "")
        yield Term(
            id=canonical_id(row["id"].strip()),
            name=row["name"],
            synonyms=tuple(Synonym(synonym) for synonym in _split(row, "synonyms")),
            definitions=((definition, DEFAULT_LANGUAGE),) if definition else (),
            parents=tuple(map(canonical_id, _split(row, "parents"))),
            xrefs=tuple(map(canonical_id, _split(row, "xrefs"))),
            row=number,
        )


def _split(row: Mapping[str, str], column: str) -> list[str]:
    return [value.strip() for value in row.get(column, "").split("|") if value.strip()]


def _mesh_terms(lines: Sequence[str], path: Path, log: IngestLog) -> Iterator[Term]:
    """MeSH descriptors: the parents of D02.355.291 are the descriptors that hold D02.355."""
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if not line:
            continue
        if len(fields) < 4 or not _MESH_ID.fullmatch(fields[0]):
            log.defect("terms", "not a row of MeSH descriptors", (path, number), line[:60])
            continue
        rows.append(
            (number, fields[0], fields[1], fields[2].split("|"), [tree for tree in fields[3].split("|") if tree])
        )
    holders: dict[str, list[str]] = {}
    for _, descriptor, _, _, trees in rows:
        for tree in trees:
            holders.setdefault(tree, []).append(descriptor)
    for number, descriptor, label, synonyms, trees in rows:
        above = [tree.rpartition(".")[0] for tree in trees if "." in tree]
        for tree in above:
            if tree not in holders:
                log.defect("is_a", "no descriptor has the tree number above", (path, number), f"{descriptor} {tree}")
        parents = dict.fromkeys(f"MESH:{parent}" for tree in above for parent in holders.get(tree, ()))
        yield Term(
            id=f"MESH:{descriptor}",
            name=label,
            synonyms=tuple(Synonym(synonym) for synonym in synonyms if synonym),
            parents=tuple(parents),
            row=number,
        )
