"""Terms of an ontology, whatever format they came in, to the tables of a source.

Every reader (obo, obograph, owl, term_tables) yields plain `Term` records; the rules for names, identity, relations and
retired ids are here, once, so the same ontology gives the same tables from each of its formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import polars as pl

from kgkit.errors import InputError
from kgkit.namespaces import plain
from kgkit.sources.base import MATCH_PREDICATES, IngestLog, NamedGraph, SourceTables, encode_tables
from kgkit.sources.relations import RelationNames, canonical_edges
from kgkit.sources.term_ids import CONCEPT_PREFIXES, is_cui, is_usable_id, prefix_of, relation_name, release_of

ISA = "isa"
DEFAULT_LANGUAGE = "en"
"""Of names and definitions without a language tag: OBO has no tags, and its ontologies are written in English."""

SCOPE_RANKS = MappingProxyType({"label": 7, "exact": 5, "narrow": 3, "related": 2, "broad": 1})
"""Rank of a name by its scope: a narrower name still denotes the concept's own instances, a broader one does not."""

MATCH_NAMES = MappingProxyType({f"skos:{kind}Match": kind for kind in MATCH_PREDICATES})
"""Properties that state a match -> kind of match."""

_SOURCE_NAMES = MappingProxyType({"HP": "HPO"})
_ABBREVIATION_TYPES = frozenset({"abbreviation", "acronym", "omo:0003000", "omo_0003000", "omo:0003012", "omo_0003012"})
_OBSOLETE_TYPE = "obsolete_synonym"
_Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Synonym:
    """A further name of a term.

    Attributes:
        text: The name.
        scope: A key of SCOPE_RANKS; `label` for the label in a further language.
        kind: Id of the synonym type that the ontology gives it (`abbreviation`, `OMO:0003000`), or empty.
        language: BCP 47 tag.
    """

    text: str
    scope: str = "exact"
    kind: str = ""
    language: str = DEFAULT_LANGUAGE

    @property
    def is_abbreviation(self) -> bool:
        """Does its type say that it is an abbreviation or acronym?"""
        return _last_part(self.kind) in _ABBREVIATION_TYPES or self.kind.lower() in _ABBREVIATION_TYPES

    @property
    def is_obsolete(self) -> bool:
        """Does its type say that it is no longer in use?"""
        return _last_part(self.kind) == _OBSOLETE_TYPE


@dataclass(frozen=True, slots=True)
class Term:
    """One term as its file states it. Ids are CURIEs (or IRIs) as `term_ids.canonical_id` writes them.

    Attributes:
        id: Its id.
        name: Its label; empty if it has none.
        language: BCP 47 tag of the name.
        synonyms: Further names.
        definitions: (text, BCP 47 tag).
        parents: Terms that it is a kind of.
        relations: (property id, other term); it reads this term, property, other term.
        xrefs: Cross references, of no stated kind.
        matches: (one of MATCH_PREDICATES, other id) that the ontology states.
        alt_ids: Former ids that were merged into it.
        is_obsolete: No term any more.
        replaced_by: What stands for an obsolete term.
        row: 1-based row of the file, if it has rows.
    """

    id: str
    name: str = ""
    language: str = DEFAULT_LANGUAGE
    synonyms: tuple[Synonym, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()
    parents: tuple[str, ...] = ()
    relations: tuple[tuple[str, str], ...] = ()
    xrefs: tuple[str, ...] = ()
    matches: tuple[tuple[str, str], ...] = ()
    alt_ids: tuple[str, ...] = ()
    is_obsolete: bool = False
    replaced_by: tuple[str, ...] = ()
    row: int | None = None


@dataclass(frozen=True)
class Ontology:
    """A file of terms, read.

    Attributes:
        path: The file.
        terms: Its terms; the same id may come several times, all of it holds.
        title: Title for people, if the file gives one.
        version: Version or version IRI, if the file gives one.
        property_labels: Property id -> label, from which relations get their names.
    """

    path: Path
    terms: Sequence[Term]
    title: str = ""
    version: str = ""
    property_labels: Mapping[str, str] = field(default_factory=dict)


def term_tables(
    ontology: Ontology,
    log: IngestLog,
    name: str | None = None,
    release: str | None = None,
    licence_level: int = 0,
) -> SourceTables:
    """Tables of a source from the terms of an ontology.

    A cross reference to the UMLS is an exact match if it is unique both ways (the term has no other, the CUI sits on no
    other term), else a close match; so are cross references to other known vocabularies. Obsolete terms and alternative
    ids are no concepts but retired ids. A relation to an id of another vocabulary is kept; one to an id of the
    ontology's own prefix that is no term of it is a defect. Relations have one direction, as in the UMLS: `has_part` is
    turned into `part_of`.

    Args:
        ontology: The terms.
        log: Where terms and everything that is not used is counted.
        name: Source name; the commonest prefix of its terms in capitals (HPO for HP) if not given.
        release: Release; read from the ontology's version if not given, else `unversioned`.
        licence_level: UMLS source restriction level of its one named graph.

    Raises:
        InputError: if no term is left.
    """
    declared = _fold(ontology.terms, log)
    terms = list(_live(declared, ontology.path, log))
    if not terms:
        raise InputError("no term with an id and a name in this file, or all are obsolete", ontology.path)
    prefix = Counter(prefix_of(term.id) for term in sorted(terms, key=lambda term: term.id)).most_common(1)[0][0]
    stem = ontology.path.name.partition(".")[0]
    name = plain(name or _SOURCE_NAMES.get(prefix, (stem if "://" in prefix else prefix).upper()))
    release = plain(release or release_of(ontology.version))
    live = {term.id for term in terms}
    frames = {
        "concepts": _frame(("concept",), [(term.id,) for term in terms]).with_columns(is_placeholder=False),
        "names": _names(terms, log),
        "definitions": _definitions(terms, log),
        "edges": _edges(terms, _Known(live, declared.keys(), prefix), ontology, log),
        "matches": _matches(terms, ontology.path, log),
        "retired": _retired(declared.values(), live, ontology.path, log),
    }
    graph = NamedGraph(f"{name}@{release}", ontology.title or name, licence_level)
    written = {table: frame.with_columns(graph=pl.lit(graph.name)) for table, frame in frames.items()}
    return encode_tables(name, release, (graph,), written)


@dataclass(frozen=True)
class _Known:
    """What an end of a relation may be: a concept (`live`), anything the file declares, an id of its own prefix."""

    live: set[str]
    declared: Iterable[str]
    prefix: str


def _fold(terms: Iterable[Term], log: IngestLog) -> dict[str, Term]:
    """One term per id: what several declarations say holds together, and the first name is the label."""
    folded: dict[str, Term] = {}
    for term in terms:
        log.rows_read["terms"] += 1
        log.rows_read.update(_parts(term))
        first = folded.get(term.id)
        if first is None:
            folded[term.id] = term
            continue
        log.rows_read["terms declared again (joined)"] += 1
        also = (Synonym(term.name, language=term.language),) if first.name and term.name else ()
        folded[term.id] = replace(
            first,
            name=first.name or term.name,
            language=first.language if first.name else term.language,
            synonyms=(*first.synonyms, *also, *term.synonyms),
            definitions=first.definitions + term.definitions,
            parents=first.parents + term.parents,
            relations=first.relations + term.relations,
            xrefs=first.xrefs + term.xrefs,
            matches=first.matches + term.matches,
            alt_ids=first.alt_ids + term.alt_ids,
            is_obsolete=first.is_obsolete or term.is_obsolete,
            replaced_by=first.replaced_by + term.replaced_by,
        )
    return folded


def _parts(term: Term) -> dict[str, int]:
    """Number of statements of a term per kind, without the kinds that it has none of."""
    parts = {
        "synonyms": term.synonyms,
        "definitions": term.definitions,
        "is_a": term.parents,
        "relations": term.relations,
        "cross references": term.xrefs,
        "matches": term.matches,
        "alternative ids": term.alt_ids,
    }
    return {kind: len(stated) for kind, stated in parts.items() if stated}


def _live(declared: Mapping[str, Term], path: Path, log: IngestLog) -> Iterator[Term]:
    for term in declared.values():
        if term.is_obsolete and is_usable_id(term.id):
            log.rows_read["obsolete terms"] += 1
        elif not is_usable_id(term.id):
            log.defect("terms", "id is neither a CURIE nor an IRI", (path, term.row), term.id)
        elif not term.name.strip():
            log.defect("terms", "term without a name", (path, term.row), term.id)
        else:
            yield term
            continue
        for kind, count in _parts(term).items():
            log.skip(kind, "of an obsolete term, or one without an id or a name", count)


def _names(terms: Sequence[Term], log: IngestLog) -> pl.DataFrame:
    rows = []
    for term in terms:
        label = Synonym(term.name, "label", language=term.language)
        for synonym in (label, *term.synonyms):
            text = synonym.text.strip()
            if synonym.is_obsolete:
                log.skip("synonyms", "obsolete synonym", 1)
            elif not text:
                log.skip("synonyms", "empty", 1)
            else:
                rank = SCOPE_RANKS[synonym.scope]
                rows.append((term.id, text, synonym.language, rank, synonym.is_abbreviation))
    schema = {
        "concept": pl.String,
        "name": pl.String,
        "language": pl.String,
        "rank": pl.Int32,
        "is_abbreviation": pl.Boolean,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    distinct = frame.select("concept", "name", "language").n_unique()
    log.skip("synonyms", "same name of a term twice", len(frame) - distinct)
    return frame


def _definitions(terms: Sequence[Term], log: IngestLog) -> pl.DataFrame:
    rows = [(term.id, text.strip(), language) for term in terms for text, language in term.definitions]
    kept = [row for row in rows if row[1]]
    log.skip("definitions", "empty", len(rows) - len(kept))
    return _distinct(_frame(("concept", "definition", "language"), kept), "definitions", log)


def _edges(terms: Sequence[Term], known: _Known, ontology: Ontology, log: IngestLog) -> pl.DataFrame:
    names: dict[str, str] = {}
    rows: _Rows = []
    for term in terms:
        for table, property_id, target in _stated(term):
            if property_id not in names:
                names[property_id] = relation_name(property_id, ontology.property_labels.get(property_id))
            if target == term.id:
                log.skip(table, "both ends are one term", 1)
                continue
            if target not in known.live:
                place, value = (ontology.path, term.row), f"{term.id} {names[property_id]} {target}"
                if target in known.declared or prefix_of(target) == known.prefix:
                    log.defect(table, "dangling: the other end is no term, obsolete or without a name", place, value)
                    continue
                if not is_usable_id(target):
                    log.defect(table, "other end is neither a CURIE nor an IRI", place, value)
                    continue
                log.rows_read["relations to terms of other sources"] += 1
            rows.append((term.id, names[property_id], target))
    edges = _distinct(_frame(("head", "relation", "tail"), rows), "relations", log)
    # The sides that the UMLS's relations have, whatever the ontology says: one name for a relation over all sources.
    turned = canonical_edges(edges, RelationNames({}, {})).unique()
    log.skip("relations", "same fact from its other side", len(edges) - len(turned))
    return turned


def _stated(term: Term) -> Iterator[tuple[str, str, str]]:
    """(table, property id, other term) of each relation of a term."""
    for parent in term.parents:
        yield "is_a", ISA, parent
    for property_id, other in term.relations:
        yield "relations", property_id, other


def _matches(terms: Sequence[Term], path: Path, log: IngestLog) -> pl.DataFrame:
    """Stated matches, and cross references by the rule of identity."""
    stated, referred = [], []
    for term in terms:
        for kind, other in term.matches:
            if _is_known("matches", term, other, path, log):
                stated.append((term.id, kind, other))
        for other in term.xrefs:
            if _is_known("cross references", term, other, path, log):
                referred.append((term.id, other))
    matches = _distinct(_frame(("subject", "predicate", "object"), stated), "matches", log)
    xrefs = _distinct(_frame(("subject", "object"), referred), "cross references", log)
    by_rule = identity_matches(xrefs).join(matches, on=["subject", "object"], how="anti")
    log.skip("cross references", "its kind of match is stated too", len(xrefs) - len(by_rule))
    return pl.concat([matches, by_rule.select(matches.columns)])


def identity_matches(xrefs: pl.DataFrame) -> pl.DataFrame:
    """The kind of match that each cross reference of one source is.

    Args:
        xrefs: Distinct rows of subject (a term) and object (what it refers to).

    Returns:
        The rows with `predicate`: exact for a CUI that is unique both ways, close for all others.
    """
    cuis = pl.col("object").str.starts_with("umls:")
    alone = (cuis.sum().over("subject") == 1) & (pl.len().over("object") == 1)
    return xrefs.with_columns(predicate=pl.when(cuis & alone).then(pl.lit("exact")).otherwise(pl.lit("close")))


def _is_known(table: str, term: Term, other: str, path: Path, log: IngestLog) -> bool:
    prefix = prefix_of(other)
    if prefix not in CONCEPT_PREFIXES:
        log.skip(table, "cross reference to an unknown prefix", 1)
    elif other == term.id:
        log.skip(table, "reference of a term to itself", 1)
    elif not is_usable_id(other) or (prefix == "umls" and not is_cui(other)):
        log.defect(table, "malformed id of a known prefix", (path, term.row), f"{term.id} {other}")
    else:
        return True
    return False


def _retired(declared: Iterable[Term], live: set[str], path: Path, log: IngestLog) -> pl.DataFrame:
    """Obsolete terms and alternative ids; an id that is both has one reason and the targets of both."""
    merged: dict[str, list[str]] = {}
    obsolete = []
    for term in declared:
        if term.is_obsolete and is_usable_id(term.id):
            obsolete.append(term)
        for alternative in term.alt_ids if term.id in live else ():
            if alternative in live or not is_usable_id(alternative):
                reason = "it is a term itself, or malformed"
                log.defect("alternative ids", reason, (path, term.row), f"{term.id} {alternative}")
            else:
                merged.setdefault(alternative, []).append(term.id)
    rows: list[tuple[str, str, str | None]] = []
    for term in obsolete:
        also = merged.pop(term.id, [])
        log.skip("alternative ids", "stated as an obsolete term too", len(also))
        targets = [target for target in (*term.replaced_by, *also) if target != term.id and is_usable_id(target)]
        log.skip("replacements", "malformed, or of a term by itself", len(term.replaced_by) + len(also) - len(targets))
        # OWL states a merger as an alternative id and a class without a name; a name makes it a term of its own.
        reason = "merged" if also and not term.name else "obsolete"
        rows += [(term.id, reason, target) for target in dict.fromkeys(targets)] or [(term.id, reason, None)]
    rows += [(retired, "merged", target) for retired, targets in merged.items() for target in targets]
    return _distinct(_frame(("retired", "reason", "target"), rows), "retired ids", log)


def _frame(columns: tuple[str, ...], rows: Sequence[tuple[str | None, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _distinct(frame: pl.DataFrame, table: str, log: IngestLog) -> pl.DataFrame:
    distinct = frame.unique()
    log.skip(table, "same row twice", len(frame) - len(distinct))
    return distinct


def _last_part(kind: str) -> str:
    return kind.replace("#", "/").replace(":", "/").rpartition("/")[2].lower()
