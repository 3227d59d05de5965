"""Ids, relation names and release names of ontologies, as the graph writes them."""

from __future__ import annotations

import re
from functools import lru_cache
from types import MappingProxyType

from kgkit.errors import InputError
from kgkit.namespaces import OBO, PREFIXES, compress, expand, plain

_NO_CONCEPTS = frozenset(
    {"finding", "rela", "graph", "kgkit", "skos", "rdf", "rdfs", "xsd", "owl", "prov", "dcterms", "bioportal"}
)
CONCEPT_PREFIXES = frozenset(PREFIXES) - _NO_CONCEPTS
"""Prefixes of `namespaces.PREFIXES` whose ids are concepts; a cross reference to any other is not used."""

_SPELLINGS = MappingProxyType(
    {prefix.lower(): prefix for prefix in CONCEPT_PREFIXES}
    | {
        "umls_cui": "umls",
        "msh": "MESH",
        "nci": "NCIT",
        "snomedct_us": "SCTID",
        "snomedct": "SCTID",
        "snomed_ct": "SCTID",
        "lnc": "LOINC",
    }
)
"""How ontologies write the prefixes of known vocabularies, in lower case."""

_SPACES = MappingProxyType(
    {
        "http://linkedlifedata.com/resource/umls/id/": "umls",
        "http://identifiers.org/umls/": "umls",
        "https://identifiers.org/umls:": "umls",
        "http://identifiers.org/mesh/": "MESH",
        "https://identifiers.org/mesh:": "MESH",
        "https://id.nlm.nih.gov/mesh/": "MESH",
        "http://identifiers.org/snomedct/": "SCTID",
        "https://uts.nlm.nih.gov/uts/umls/semantic-network/": "STY",
    }
)
"""Namespaces beside those of `namespaces.PREFIXES` in which ids of known vocabularies are published."""

_CUI = re.compile(r"umls:C\d{7}")
_NOT_IN_IRI = re.compile(r"[\x00-\x20<>\"{}|\\^`\ud800-\udfff]")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_RELEASE = re.compile(r"releases/([^/]+)")
_FILE_END = re.compile(r"\.(owl|obo|json|ttl|rdf|tsv)$")

_RELATIONS = MappingProxyType(
    {
        "BFO:0000050": "part_of",
        "BFO:0000051": "has_part",
        "BFO:0000062": "preceded_by",
        "BFO:0000063": "precedes",
        "BFO:0000066": "occurs_in",
        "RO:0000052": "characteristic_of",
        "RO:0000053": "bearer_of",
        "RO:0000086": "has_quality",
        "RO:0000087": "has_role",
        "RO:0001015": "location_of",
        "RO:0001025": "located_in",
        "RO:0002134": "innervates",
        "RO:0002150": "continuous_with",
        "RO:0002160": "only_in_taxon",
        "RO:0002162": "in_taxon",
        "RO:0002170": "connected_to",
        "RO:0002178": "supplies",
        "RO:0002179": "drains",
        "RO:0002202": "develops_from",
        "RO:0002211": "regulates",
        "RO:0002215": "capable_of",
        "RO:0002219": "surrounded_by",
        "RO:0002220": "adjacent_to",
        "RO:0002221": "surrounds",
        "RO:0002371": "attached_to",
        "RO:0002376": "tributary_of",
        "RO:0002433": "contributes_to_morphology_of",
        "RO:0002473": "composed_primarily_of",
        "RO:0004020": "has_basis_in_dysfunction_of",
    }
)
"""Names of the commonest properties of the OBO Relation Ontology, for files that do not name them."""


def canonical_id(written: str) -> str:
    """CURIE of an id as ontologies write it; an IRI where no prefix fits.

    >>> canonical_id("UMLS:C0032227"), canonical_id("mesh:D010996"), canonical_id("http://identifiers.org/mesh/D010996")
    ('umls:C0032227', 'MESH:D010996', 'MESH:D010996')
    >>> canonical_id("http://purl.obolibrary.org/obo/HP_0002202"), canonical_id("DOID:4")
    ('HP:0002202', 'DOID:4')
    """
    if "://" in written:
        for space, prefix in _SPACES.items():
            if written.startswith(space):
                return f"{prefix}:{written[len(space) :]}"
        return compress(written)
    prefix, colon, local = written.partition(":")
    known = _SPELLINGS.get(prefix.lower()) if colon else None
    return f"{known}:{local}" if known else written


def prefix_of(curie: str) -> str:
    """Prefix of a CURIE; of an IRI everything up to its last `/`, `#` or `_`.

    >>> prefix_of("HP:0002202"), prefix_of("http://example.org/onto#Lung")
    ('HP', 'http://example.org/onto#')
    """
    if "://" in curie:
        return re.split(r"(?<=[/#_])(?!.*[/#_])", curie)[0]
    return curie.partition(":")[0]


@lru_cache(maxsize=100_000)
def is_usable_id(curie: str) -> bool:
    """Can the graph hold this id? It is a CURIE or IRI with a local part, and no character that no IRI may hold.

    >>> is_usable_id("DOID:4"), is_usable_id("ICD-10:Z03"), is_usable_id("HP:"), is_usable_id("UMLS C1")
    (True, False, False, False)
    """
    if curie.endswith(":") or _NOT_IN_IRI.search(curie):
        return False
    try:
        expand(curie)
    except InputError:
        return False
    return True


def is_cui(curie: str) -> bool:
    """Is it a well-formed CUI with its prefix?"""
    return bool(_CUI.fullmatch(curie))


def scoped_id(local: str, ontology: str) -> str:
    """IRI of an id without a prefix, which OBO's rules place under its ontology.

    >>> scoped_id("LIVB", "sty")
    'http://purl.obolibrary.org/obo/sty#LIVB'
    """
    return f"{OBO}{ontology}#{local}"


def relation_name(property_id: str, label: str | None) -> str:
    """Name of a relation: the ontology's own label as snake_case, else a known name, else the local part of the id.

    >>> relation_name("RO:0002202", "develops from"), relation_name("BFO:0000050", None), relation_name("X:9", None)
    ('develops_from', 'part_of', '9')
    """
    local = re.split(r"[:/#]", property_id)[-1]
    candidates = (label or "", _RELATIONS.get(property_id, ""), local)
    names = [re.sub(r"[^0-9a-z]+", "_", candidate.lower()).strip("_") for candidate in candidates]
    return next((name for name in names if name), "related_to")


def release_of(version: str) -> str:
    """Release name in a version or version IRI: its date, else what follows `releases/`, else all of it.

    >>> release_of("hp/releases/2025-01-16"), release_of("http://x.org/a/releases/v3.1/a.owl"), release_of("2025AA")
    ('2025-01-16', 'v3.1', '2025AA')
    >>> release_of("")
    'unversioned'
    """
    found = _DATE.search(version) or _RELEASE.search(version)
    if found:
        return plain(found[found.lastindex or 0])
    parts = [part for part in version.split("/") if part and not _FILE_END.search(part)]
    numbered = [part for part in parts if re.search(r"\d", part)]
    return plain((numbered or parts or ["unversioned"])[-1])
