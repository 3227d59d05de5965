"""Ontologies in OBO format 1.2 and 1.4 to tables, read by fastobo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastobo

from kgkit.errors import InputError
from kgkit.namespaces import OBO
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.term_files import open_source
from kgkit.sources.term_ids import CONCEPT_PREFIXES, canonical_id, prefix_of, scoped_id
from kgkit.sources.terms import DEFAULT_LANGUAGE, MATCH_NAMES, Ontology, Synonym, Term, term_tables

_EXPECTED = "an ontology in OBO format (.obo or .obo.gz)"
_REPLACED_BY = "IAO:0100001"
_TITLES = ("dc:title", "dcterms:title", "terms:title")
_NOT_EDGES = {
    "intersection_of": "logical definition (not an edge)",
    "union_of": "union (not an edge)",
    "equivalent_to": "equivalent class (not an edge)",
    "disjoint_from": "disjointness (not an edge)",
}


@dataclass
class _Header:
    """What a header says that the terms need."""

    ontology: str = "ontology"
    version: str = ""
    title: str = ""
    spaces: dict[str, str] = field(default_factory=dict)

    def canonical(self, ident: Any) -> str:
        """CURIE or IRI of fastobo's identifier."""
        if isinstance(ident, fastobo.id.PrefixedIdent):
            written = canonical_id(f"{ident.prefix}:{ident.local}")
            space = self.spaces.get(ident.prefix, OBO)
            # A prefix that the file declares to be no OBO one stands for its own namespace.
            is_own = prefix_of(written) not in CONCEPT_PREFIXES and not space.startswith(OBO)
            return canonical_id(space + ident.local) if is_own else written
        if isinstance(ident, fastobo.id.UnprefixedIdent):
            return scoped_id(ident.unescaped, self.ontology)
        return canonical_id(str(ident))

    def property_id(self, ident: Any) -> str:
        """Id of a property, which may be a bare word."""
        return ident.unescaped if isinstance(ident, fastobo.id.UnprefixedIdent) else self.canonical(ident)


def read_obo(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read an OBO file.

    Args:
        path: The file, plain or gzipped.
        log: Where terms and what is not used are counted.
        name: Source name; from the commonest prefix of the terms if not given (HP: HPO).
        release: Release; from `data-version` if not given.
        licence_level: UMLS source restriction level.

    Raises:
        InputError: naming the line that is not OBO.
    """
    with open_source(path, _EXPECTED) as stream:
        log.files.append(path)
        try:
            ontology = _ontology(fastobo.iter(stream, ordered=True, threads=1), path, log)
        except SyntaxError as error:
            shown = (error.text or "").strip()[:60]
            raise InputError(f"not readable as OBO ({error.msg}): {shown!r}", path, error.lineno) from error
        except (TypeError, ValueError, OSError) as error:
            raise InputError(f"not readable as OBO ({error.__cause__ or error}); expected {_EXPECTED}", path) from error
    return term_tables(ontology, log, name, release, licence_level)


def _ontology(frames: Any, path: Path, log: IngestLog) -> Ontology:
    header = _header(frames.header())
    terms: list[Term] = []
    labels: dict[str, str] = {}
    for frame in frames:
        if isinstance(frame, fastobo.term.TermFrame):
            terms.append(_term(frame, header, log))
        elif isinstance(frame, fastobo.typedef.TypedefFrame):
            names = [clause.name for clause in frame if clause.raw_tag() == "name"]
            labels |= {header.property_id(frame.id): name for name in names[:1]}
        else:
            log.skip("frames", "instance (no term)", 1)
    return Ontology(path, terms, header.title, header.version, labels)


def _header(clauses: Any) -> _Header:
    header = _Header()
    for clause in clauses:
        tag = clause.raw_tag()
        if tag == "ontology":
            header.ontology = clause.ontology
        elif tag == "data-version":
            header.version = clause.version
        elif tag == "idspace":
            header.spaces[clause.prefix] = str(clause.url)
        elif tag == "property_value" and str(clause.property_value.relation) in _TITLES:
            header.title = str(clause.property_value.value)
        elif tag == "property_value" and str(clause.property_value.relation) == "owl:versionInfo":
            header.version = header.version or str(clause.property_value.value)
    return header


def _term(frame: Any, header: _Header, log: IngestLog) -> Term:
    named: dict[str, list[str]] = {"is_a": [], "xref": [], "alt_id": [], "replaced_by": []}
    names, synonyms, definitions, relations = [], [], [], []
    matches: list[tuple[str, str]] = []
    is_obsolete = False
    for clause in frame:
        tag = clause.raw_tag()
        if tag == "name":
            names.append(clause.name)
        elif tag == "synonym":
            synonyms.append(_synonym(clause.synonym))
        elif tag == "def":
            definitions.append((clause.definition, DEFAULT_LANGUAGE))
        elif tag == "relationship":
            relations.append((header.property_id(clause.typedef), header.canonical(clause.term)))
        elif tag == "is_obsolete":
            is_obsolete = clause.obsolete
        elif tag == "property_value":
            _property_value(clause.property_value, header, named["replaced_by"], matches)
        elif tag in named:
            ident = clause.xref.id if tag == "xref" else clause.alt_id if tag == "alt_id" else clause.term
            named[tag].append(header.canonical(ident))
        elif tag in _NOT_EDGES:
            log.skip("axioms", _NOT_EDGES[tag], 1)
    return Term(
        id=header.canonical(frame.id),
        name=names[0] if names else "",
        synonyms=(*(Synonym(name) for name in names[1:]), *synonyms),
        definitions=tuple(definitions),
        parents=tuple(named["is_a"]),
        relations=tuple(relations),
        xrefs=tuple(named["xref"]),
        matches=tuple(matches),
        alt_ids=tuple(named["alt_id"]),
        is_obsolete=is_obsolete,
        replaced_by=tuple(named["replaced_by"]),
    )


def _synonym(synonym: Any) -> Synonym:
    return Synonym(synonym.desc, synonym.scope.lower(), "" if synonym.type is None else str(synonym.type))


def _property_value(value: Any, header: _Header, replaced_by: list[str], matches: list[tuple[str, str]]) -> None:
    if not isinstance(value, fastobo.pv.ResourcePropertyValue):
        return
    relation = header.canonical(value.relation)
    if relation == _REPLACED_BY:
        replaced_by.append(header.canonical(value.value))
    elif relation in MATCH_NAMES:
        matches.append((MATCH_NAMES[relation], header.canonical(value.value)))
