"""IRIs, CURIEs and the terms of our own small vocabulary."""

from __future__ import annotations

import re
from types import MappingProxyType
from urllib.parse import quote, unquote

from kgkit.errors import InputError

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._+-]")
_OBO_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9]*")

SAFE_IN_IRI = "/:@!$&'()*+,;=-._~"
"""Characters of an id that stay as they are in its IRI, beside letters and digits."""
BASE = "https://w3id.org/kgkit/"
GRAPH = BASE + "graph/"
RELATION = BASE + "rela/"
FINDING = BASE + "finding/"
STY = "http://purl.bioontology.org/ontology/STY/"
OBO = "http://purl.obolibrary.org/obo/"
_OBO_IRI = re.compile(re.escape(OBO) + "([A-Za-z][A-Za-z0-9]*)_([^/#]*)")

RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
OWL_OBJECT_PROPERTY = "http://www.w3.org/2002/07/owl#ObjectProperty"
RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
RDFS_SUBPROPERTY = "http://www.w3.org/2000/01/rdf-schema#subPropertyOf"
XSD = "http://www.w3.org/2001/XMLSchema#"
SKOS = "http://www.w3.org/2004/02/skos/core#"
PROV = "http://www.w3.org/ns/prov#"
DCTERMS = "http://purl.org/dc/terms/"

CONCEPT = SKOS + "Concept"
PREF_LABEL = SKOS + "prefLabel"
ALT_LABEL = SKOS + "altLabel"
DEFINITION = SKOS + "definition"
BROADER = SKOS + "broader"
SOURCE_LABEL = BASE + "sourceLabel"
"""A vocabulary's own best name for a concept; the derived prefLabel is chosen among these."""
SOURCE_LABEL_RANK = BASE + "sourceLabelRank"
"""How good a vocabulary's best name is; higher wins (MRRANK, or TS, STT and ISPREF)."""
ABBREVIATION = BASE + "abbreviation"
"""A name that is an abbreviation; it stands beside the altLabel, not in its place."""
SOURCE_CODE = BASE + "sourceCode"
"""The official IRI of a code that a vocabulary uses for the concept; it never merges concepts."""
SEMANTIC_TYPE = BASE + "semanticType"
PLACEHOLDER = BASE + "placeholderIdentifier"
"""True on a concept whose CUI was minted by a file maker and is none of the UMLS's."""
REPLACED_BY = BASE + "replacedBy"
"""From a retired id to what stands for it; several after a split."""
RETIRED_REASON = BASE + "retiredReason"
ATTRIBUTE = BASE + "attribute/"
"""Literal attributes of a concept (MRSAT's ATN, say)."""
LICENCE_LEVEL = BASE + "licenceLevel"
LABEL_GRAPH = GRAPH + "preferred-labels"
RELATION_GRAPH = GRAPH + "relations"
"""Where relations are declared, once however many vocabularies use them."""

PREFIXES = MappingProxyType(
    {
        "umls": "https://uts.nlm.nih.gov/uts/umls/concept/",
        "STY": STY,
        "HP": OBO + "HP_",
        "MONDO": OBO + "MONDO_",
        "UBERON": OBO + "UBERON_",
        "CL": OBO + "CL_",
        "GO": OBO + "GO_",
        "CHEBI": OBO + "CHEBI_",
        "NCIT": OBO + "NCIT_",
        "MESH": "http://id.nlm.nih.gov/mesh/",
        "SCTID": "http://snomed.info/id/",
        "LOINC": "https://loinc.org/",
        "RADLEX": "http://radlex.org/RID/",
        "finding": FINDING,
        "rela": RELATION,
        "graph": GRAPH,
        "kgkit": BASE,
        "skos": SKOS,
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
        "xsd": XSD,
        "owl": "http://www.w3.org/2002/07/owl#",
        "prov": PROV,
        "dcterms": DCTERMS,
        "bioportal": "http://purl.bioontology.org/ontology/",
    }
)
"""The one prefix map; queries may use every prefix without declaring it."""

_BY_NAMESPACE = sorted(((space, prefix) for prefix, space in PREFIXES.items()), key=lambda item: -len(item[0]))

SAB_PREFIXES = MappingProxyType(
    {
        "HPO": "HP",
        "MONDO": "MONDO",
        "UBERON": "UBERON",
        "NCI": "NCIT",
        "MSH": "MESH",
        "SNOMEDCT_US": "SCTID",
        "LNC": "LOINC",
    }
)
"""Vocabularies whose codes have an official IRI; all others live in BioPortal's namespace."""


def expand(curie: str) -> str:
    """IRI of a CURIE; an IRI stays as it is.

    >>> expand("umls:C0032227")
    'https://uts.nlm.nih.gov/uts/umls/concept/C0032227'
    >>> expand("DOID:4")
    'http://purl.obolibrary.org/obo/DOID_4'

    Raises:
        InputError: if it is neither.
    """
    prefix, colon, local = curie.partition(":")
    if prefix in PREFIXES:
        return PREFIXES[prefix] + local
    if local.startswith("//"):
        return curie
    known = {name.casefold(): name for name in PREFIXES}.get(prefix.casefold())
    if colon and local and known is None and _OBO_PREFIX.fullmatch(prefix):
        return f"{OBO}{prefix}_{local}"
    hint = f"; did you mean '{known}:{local}'?" if known else ""
    raise InputError(f"{curie!r} is not an id of a known prefix{hint}; known: {', '.join(sorted(PREFIXES))}")


def compress(iri: str) -> str:
    """CURIE of an IRI; the IRI itself where no prefix fits.

    >>> compress("http://purl.obolibrary.org/obo/HP_0002202"), compress("http://purl.obolibrary.org/obo/DOID_4")
    ('HP:0002202', 'DOID:4')
    """
    for space, prefix in _BY_NAMESPACE:
        if iri.startswith(space):
            return f"{prefix}:{iri[len(space) :]}"
    found = _OBO_IRI.fullmatch(iri)
    return f"{found[1]}:{found[2]}" if found and found[1] not in PREFIXES else iri


def iri_of(curie: str) -> str:
    """IRI of an id as it stands in the RDF: characters that no IRI may hold are percent-encoded.

    >>> iri_of("bioportal:ICD10/a b%")
    'http://purl.bioontology.org/ontology/ICD10/a%20b%25'

    Raises:
        InputError: if it is no id.
    """
    prefix, colon, local = curie.partition(":")
    return expand(curie if local.startswith("//") else prefix + colon + quote(local, safe=SAFE_IN_IRI))


def curie_of(iri: str) -> str:
    """Id of an IRI of the RDF: the inverse of `iri_of`."""
    curie = compress(iri)
    return iri if curie == iri else unquote(curie)


def code_curie(sab: str, code: str) -> str:
    """CURIE of a vocabulary's code.

    >>> code_curie("HPO", "HP:0002202"), code_curie("NCI", "C26686"), code_curie("RXNORM", "123")
    ('HP:0002202', 'NCIT:C26686', 'bioportal:RXNORM/123')
    """
    prefix = SAB_PREFIXES.get(sab)
    if prefix is None:
        return f"bioportal:{sab}/{code}"
    return f"{prefix}:{code.removeprefix(prefix + ':')}"


def plain(text: str) -> str:
    """The text as a part of a file name or of a named graph's IRI: `_` for every character that may not stand there.

    >>> plain("2018-06-08 (draft)")
    '2018-06-08__draft_'
    """
    return _NOT_PLAIN.sub("_", text)
