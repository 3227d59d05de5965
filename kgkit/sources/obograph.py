"""OBO graph JSON (github.com/geneontology/obographs) to tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.term_files import parse_json, read_text, text_of
from kgkit.sources.term_ids import canonical_id
from kgkit.sources.term_tables import is_terms_json, json_terms
from kgkit.sources.terms import DEFAULT_LANGUAGE, MATCH_NAMES, SCOPE_RANKS, Ontology, Synonym, Term, term_tables

_EXPECTED = "OBO graph JSON (an object with `graphs`, each with nodes and edges)"
_IS_A = ("is_a", "rdfs:subClassOf", "http://www.w3.org/2000/01/rdf-schema#subClassOf")
_OF_PROPERTIES = ("subPropertyOf", "inverseOf", "type")
_NOT_EDGES = {
    "equivalentNodesSets": "equivalent class (not an edge)",
    "logicalDefinitionAxioms": "logical definition (not an edge)",
    "domainRangeAxioms": "domain or range of a property",
    "propertyChainAxioms": "property chain",
}
_Values = dict[str, list[str]]
_Parents = dict[str, list[str]]
_Relations = dict[str, list[tuple[str, str]]]


def read_obograph(
    path: Path, log: IngestLog, name: str | None = None, release: str | None = None, licence_level: int = 0
) -> SourceTables:
    """Read OBO graph JSON, or the JSON of terms of cellxgene-ontology-guide.

    Args:
        path: The file, plain or gzipped.
        log: Where terms and what is not used are counted.
        name: Source name; from the commonest prefix of the terms if not given (HP: HPO).
        release: Release; from the graph's version if not given, else `unversioned`.
        licence_level: UMLS source restriction level.

    Raises:
        InputError: naming the node or edge that is malformed.
    """
    content = parse_json(read_text(path, _EXPECTED), path, _EXPECTED)
    log.files.append(path)
    if is_terms_json(content):
        ontology = Ontology(path, list(json_terms(content, path, log)))
    else:
        ontology = _ontology(content, path, log)
    return term_tables(ontology, log, name, release, licence_level)


def _ontology(content: Any, path: Path, log: IngestLog) -> Ontology:
    graphs = content.get("graphs") if isinstance(content, dict) else None
    if not isinstance(graphs, list) or not all(isinstance(graph, dict) for graph in graphs):
        raise InputError(f"no list of graphs in this JSON; expected {_EXPECTED}", path)
    terms: list[Term] = []
    labels: dict[str, str] = {}
    title, version = "", ""
    for graph in graphs:
        try:
            where = "the graph's meta"
            meta = graph.get("meta") or {}
            values = _values(meta)
            title = title or next(iter(values.get("title", ())), "")
            version = version or text_of(meta.get("version") or "") or next(iter(values.get("versionInfo", ())), "")
            parents: _Parents = {}
            relations: _Relations = {}
            for number, edge in enumerate(graph.get("edges") or (), start=1):
                where = f"edge {number}"
                _edge(edge, parents, relations, log)
            for number, node in enumerate(graph.get("nodes") or (), start=1):
                where = f"node {number}"
                written = canonical_id(node["id"])
                if _is_class(node):
                    terms.append(_term(written, node, parents.get(written, ()), relations.get(written, ())))
                    continue
                if node.get("type") == "PROPERTY" and node.get("lbl"):
                    labels.setdefault(written, text_of(node["lbl"]))
                log.skip("nodes", f"no class ({node.get('type', 'of no type')})", 1)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where} is malformed ({error!r}); expected {_EXPECTED}", path) from error
        for key, reason in _NOT_EDGES.items():
            log.skip("axioms", reason, len(graph.get(key) or ()))
    return Ontology(path, terms, title, version, labels)


def _edge(edge: Mapping[str, Any], parents: _Parents, relations: _Relations, log: IngestLog) -> None:
    head, predicate, tail = canonical_id(edge["sub"]), edge["pred"], canonical_id(edge["obj"])
    if predicate in _IS_A:
        parents.setdefault(head, []).append(tail)
    elif predicate in _OF_PROPERTIES:
        log.skip("relations", "between properties or individuals", 1)
    else:
        relations.setdefault(head, []).append((canonical_id(predicate), tail))


def _is_class(node: Mapping[str, Any]) -> bool:
    """A node without a type is one that something refers to; a label makes it a class."""
    return node.get("type") == "CLASS" or ("type" not in node and bool(node.get("lbl")))


def _term(written: str, node: Mapping[str, Any], parents: Any, relations: Any) -> Term:
    meta = node.get("meta") or {}
    values = _values(meta)
    definition = (meta.get("definition") or {}).get("val")
    matches = [
        (kind, canonical_id(other))
        for predicate, kind in MATCH_NAMES.items()
        for other in values.get(predicate.partition(":")[2], ())
    ]
    return Term(
        id=written,
        name=text_of(node.get("lbl") or ""),
        synonyms=tuple(_synonyms(meta)),
        definitions=((text_of(definition), DEFAULT_LANGUAGE),) if definition else (),
        parents=tuple(parents),
        relations=tuple(relations),
        xrefs=tuple(canonical_id(xref["val"]) for xref in meta.get("xrefs") or ()),
        matches=tuple(matches),
        alt_ids=tuple(map(canonical_id, values.get("hasAlternativeId", ()))),
        is_obsolete=bool(meta.get("deprecated")),
        replaced_by=tuple(map(canonical_id, values.get("IAO_0100001", ()))),
    )


def _synonyms(meta: Mapping[str, Any]) -> Iterator[Synonym]:
    for synonym in meta.get("synonyms") or ():
        # hasExactSynonym and its kin; any other property states no more than that they are related.
        scope = synonym["pred"].rpartition("#")[2].removeprefix("has").removesuffix("Synonym").lower()
        known = scope in SCOPE_RANKS and scope != "label"
        kind = text_of(synonym.get("synonymType") or "")
        yield Synonym(text_of(synonym["val"]), scope if known else "related", kind)


def _values(meta: Mapping[str, Any]) -> _Values:
    """Values of the further properties, by the local part of the property's IRI or CURIE."""
    found: _Values = {}
    for value in meta.get("basicPropertyValues") or ():
        local = value["pred"].replace("#", "/").replace(":", "/").rpartition("/")[2]
        found.setdefault(local, []).append(text_of(value["val"]))
    return found
