"""OWL ontologies in any RDF syntax to tables, read by pyoxigraph's parsers.

Properties that state names, definitions and retirements: oboInOwl, the OBO Metadata Ontology (IAO) and SKOS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

import pyoxigraph as ox

from kgkit.errors import InputError
from kgkit.languages import is_english
from kgkit.namespaces import DCTERMS, OBO, RDF_TYPE, RDFS_LABEL, SKOS
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.term_files import open_source
from kgkit.sources.term_ids import canonical_id
from kgkit.sources.terms import DEFAULT_LANGUAGE, MATCH_NAMES, Ontology, Synonym, Term, term_tables

_EXPECTED = "an OWL ontology in RDF/XML, Turtle, N-Triples, N-Quads, TriG or JSON-LD"
_CONVERT = "convert it with ROBOT: robot convert --input {} --output ontology.ttl"
_OWL = "http://www.w3.org/2002/07/owl#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_OIO = "http://www.geneontology.org/formats/oboInOwl#"
_SUBCLASS = _RDFS + "subClassOf"
_ANNOTATED = {_OWL + "annotatedSource": 0, _OWL + "annotatedTarget": 1, _OIO + "hasSynonymType": 2}
_RESTRICTION = {_OWL + "onProperty": 0, _OWL + "someValuesFrom": 1}
_PROPERTY_TYPES = frozenset(_OWL + kind for kind in ("ObjectProperty", "AnnotationProperty", "DatatypeProperty"))
_NOT_EDGES = {
    _OWL + "equivalentClass": "equivalent class (not an edge)",
    _OWL + "disjointWith": "disjointness (not an edge)",
    _OWL + "disjointUnionOf": "disjointness (not an edge)",
    _OWL + "imports": "owl:imports is not followed",
}
_SCOPES = MappingProxyType(
    {
        _OIO + "hasExactSynonym": "exact",
        _OIO + "hasNarrowSynonym": "narrow",
        _OIO + "hasRelatedSynonym": "related",
        _OIO + "hasBroadSynonym": "broad",
        SKOS + "altLabel": "exact",
    }
)
_MATCHES = MappingProxyType({SKOS + name.partition(":")[2]: kind for name, kind in MATCH_NAMES.items()})
_LABELS = (RDFS_LABEL, SKOS + "prefLabel")
_DEFINITIONS = (OBO + "IAO_0000115", SKOS + "definition")
_XREF, _ALT_ID = _OIO + "hasDbXref", _OIO + "hasAlternativeId"
_DEPRECATED, _REPLACED_BY = _OWL + "deprecated", OBO + "IAO_0100001"
_TITLES = (DCTERMS + "title", "http://purl.org/dc/elements/1.1/title")
_VERSIONS = (_OWL + "versionIRI", _OWL + "versionInfo")
_READ = frozenset((*_LABELS, *_DEFINITIONS, *_SCOPES, *_MATCHES, *_TITLES, *_VERSIONS, _XREF, _ALT_ID, _DEPRECATED,
                   _REPLACED_BY))  # fmt: skip

_Value = tuple[str, str]
"""A text or IRI, and its language tag (empty if it has none)."""
_Slots = list[_Value | None]


@dataclass
class _Statements:
    """What is kept of the triples, by subject IRI or blank node.

    Attributes:
        values: IRI -> property -> values, for the properties in _READ.
        parents: IRI -> IRIs of named superclasses.
        expressions: (IRI, blank node) of superclasses that are class expressions.
        annotations: Blank node -> annotated source, annotated target, synonym type.
        restrictions: Blank node -> property, filler.
    """

    classes: set[str] = field(default_factory=set)
    properties: set[str] = field(default_factory=set)
    ontologies: list[str] = field(default_factory=list)
    values: defaultdict[str, dict[str, list[_Value]]] = field(default_factory=lambda: defaultdict(dict))
    parents: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    expressions: list[tuple[str, str]] = field(default_factory=list)
    annotations: dict[str, _Slots] = field(default_factory=dict)
    restrictions: dict[str, _Slots] = field(default_factory=dict)


def read_owl(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read an OWL ontology: named classes, their names, named superclasses and `some` restrictions on them.

    Args:
        path: The file, plain or gzipped, in an RDF syntax (told by its content).
        log: Where terms and what is not used are counted.
        name: Source name; from the commonest prefix of the classes if not given (HP: HPO).
        release: Release; from owl:versionIRI or owl:versionInfo if not given.
        licence_level: UMLS source restriction level.

    Raises:
        InputError: naming the line that cannot be read; for the syntaxes that are no RDF, how to convert them.
    """
    with open_source(path, _EXPECTED) as stream:
        start = stream.read(4096)
        form = _syntax(start, path)
        log.files.append(path)
        try:
            statements = _collect(ox.parse(_Rest(start, stream), form), log)  # type: ignore[arg-type]
        except SyntaxError as error:
            raise InputError(f"not readable as {form.name} ({error.msg}); expected {_EXPECTED}", path) from error
    ontology = _ontology(statements, path, log)
    return term_tables(ontology, log, name, release, licence_level)


class _Rest:
    """A stream with the bytes put back that were read to tell its syntax."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        start, self._start = self._start, b""
        return start or self._stream.read(size)


def _syntax(start: bytes, path: Path) -> ox.RdfFormat:
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    first = lines[0] if lines else ""
    foreign = ""
    if text.startswith("<?xml") or "<rdf:RDF" in text or text.startswith("<!DOCTYPE"):
        if "<rdf:RDF" in text or "<Ontology" not in text:
            return ox.RdfFormat.RDF_XML
        foreign = "OWL/XML"
    elif first.startswith("<Ontology"):
        foreign = "OWL/XML"
    elif first.startswith(("Prefix(", "Ontology(")):
        foreign = "OWL functional syntax"
    elif first.startswith(("Prefix:", "Ontology:")):
        foreign = "Manchester syntax"
    elif first.startswith(("format-version:", "[Term]")):
        raise InputError("this is OBO format; use `kgkit ingest obo`", path)
    if foreign:
        raise InputError(f"this is {foreign}; expected {_EXPECTED}; {_CONVERT.format(path.name)}", path)
    if first.startswith(("{", "[")):
        if '"graphs"' in text:
            raise InputError("this is OBO graph JSON; use `kgkit ingest obograph`", path)
        return ox.RdfFormat.JSON_LD
    ends = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    return {"nq": ox.RdfFormat.N_QUADS, "trig": ox.RdfFormat.TRIG}.get(ends, ox.RdfFormat.TURTLE)


def _collect(quads: Iterator[ox.Quad], log: IngestLog) -> _Statements:
    found = _Statements()
    for quad in quads:
        log.rows_read["triples"] += 1
        subject, predicate, target = quad.subject, quad.predicate.value, quad.object
        if isinstance(subject, ox.BlankNode):
            for slots, kept in ((_ANNOTATED, found.annotations), (_RESTRICTION, found.restrictions)):
                if predicate in slots:
                    kept.setdefault(subject.value, [None] * len(slots))[slots[predicate]] = _value(target)
            if predicate == _SUBCLASS:
                log.skip("axioms", "subclass axiom of a class expression (not an edge)", 1)
        elif not isinstance(subject, ox.NamedNode):
            log.skip("axioms", "statement about a statement", 1)
        elif predicate == RDF_TYPE:
            _typed(subject.value, target, found)
        elif predicate == _SUBCLASS:
            if isinstance(target, ox.BlankNode):
                found.expressions.append((subject.value, target.value))
            else:
                found.parents[subject.value].append(_value(target)[0])
        elif predicate in _READ:
            found.values[subject.value].setdefault(predicate, []).append(_value(target))
        elif predicate in _NOT_EDGES:
            log.skip("axioms", _NOT_EDGES[predicate], 1)
    return found


def _value(term: object) -> _Value:
    if isinstance(term, ox.Literal):
        return term.value, term.language or ""
    # A blank node is never a value that is used: its name has no meaning outside the file.
    return (term.value, "") if isinstance(term, ox.NamedNode) else ("", "")


def _typed(subject: str, kind: object, found: _Statements) -> None:
    name = _value(kind)[0]
    if name == _OWL + "Class":
        found.classes.add(subject)
    elif name in _PROPERTY_TYPES:
        found.properties.add(subject)
    elif name == _OWL + "Ontology":
        found.ontologies.append(subject)


def _ontology(found: _Statements, path: Path, log: IngestLog) -> Ontology:
    relations: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for child, node in found.expressions:
        slots = found.restrictions.get(node, [None, None])
        if slots[0] and slots[1] and slots[0][0] and slots[1][0]:
            relations[child].append((canonical_id(slots[0][0]), canonical_id(slots[1][0])))
        else:
            log.skip("axioms", "superclass is a class expression (not an edge)", 1)
    kinds = {(source[0], target): kind[0] for source, target, kind in found.annotations.values()
             if source and target and kind}  # fmt: skip
    labels = {}
    for iri in found.properties:
        names = _main_first(found.values[iri])
        if names:
            labels[canonical_id(iri)] = names[0][0]
    terms = [_term(iri, found, relations[iri], kinds) for iri in sorted(found.classes)]
    own = [found.values[iri] for iri in found.ontologies]
    title, version = (
        next((value[0] for values in own for name in names for value in values.get(name, ())), "")
        for names in (_TITLES, _VERSIONS)
    )
    return Ontology(path, terms, title, version, labels)


def _main_first(values: dict[str, list[_Value]]) -> list[_Value]:
    """Labels, the one to be the name first: English or without a tag, rdfs:label before skos:prefLabel."""
    labels = [(place, text, language) for place, name in enumerate(_LABELS) for text, language in values.get(name, ())]
    labels.sort(key=lambda label: (not is_english(label[2]), label[2], label[0], label[1]))
    return [(text, language) for _, text, language in labels]


def _term(
    iri: str, found: _Statements, relations: Sequence[tuple[str, str]], kinds: dict[tuple[str, _Value], str]
) -> Term:
    values = found.values[iri]
    labels = _main_first(values)
    synonyms = []
    named = {labels[0][1] or DEFAULT_LANGUAGE} if labels else set()
    for text, tag in labels[1:]:
        language = tag or DEFAULT_LANGUAGE
        synonyms.append(Synonym(text, "exact" if language in named else "label", "", language))
        named.add(language)
    for predicate, scope in _SCOPES.items():
        for value in values.get(predicate, ()):
            synonyms.append(Synonym(value[0], scope, kinds.get((iri, value), ""), value[1] or DEFAULT_LANGUAGE))
    return Term(
        id=canonical_id(iri),
        name=labels[0][0] if labels else "",
        language=labels[0][1] or DEFAULT_LANGUAGE if labels else DEFAULT_LANGUAGE,
        synonyms=tuple(synonyms),
        definitions=tuple(
            (text, tag or DEFAULT_LANGUAGE) for name in _DEFINITIONS for text, tag in values.get(name, ())
        ),
        parents=tuple(map(canonical_id, found.parents.get(iri, ()))),
        relations=tuple(relations),
        xrefs=_ids(values, _XREF),
        matches=tuple((kind, other) for name, kind in _MATCHES.items() for other in _ids(values, name)),
        alt_ids=_ids(values, _ALT_ID),
        is_obsolete=any(text in ("true", "1") for text, _ in values.get(_DEPRECATED, ())),
        replaced_by=_ids(values, _REPLACED_BY),
    )


def _ids(values: dict[str, list[_Value]], name: str) -> tuple[str, ...]:
    return tuple(canonical_id(text) for text, _ in values.get(name, ()))
