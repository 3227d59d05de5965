"""One small ontology, written by hand in each format that kgkit reads; all of them state the same."""

from __future__ import annotations

import json
from typing import Any

PURL = "http://purl.obolibrary.org/obo/"

OBO = r"""format-version: 1.4
data-version: tst/releases/2026-01-31
synonymtypedef: abbreviation "abbreviation"
synonymtypedef: obsolete_synonym "obsolete"
ontology: tst
property_value: dcterms:title "A tiny ontology" xsd:string

[Term]
id: TST:0001
name: finding

[Term]
id: TST:0002
name: Pleural effusion
alt_id: TST:0099
def: "Fluid \"around\" the lung\, é ✓." [PMID:1]
synonym: "fluid in the chest" RELATED []
synonym: "hydrothorax" NARROW [PMID:2]
synonym: "lung finding" BROAD []
synonym: "PE" EXACT obsolete_synonym []
synonym: "pleural fluid" EXACT []
synonym: "PLEFF" EXACT abbreviation []
xref: MESH:D010996
xref: Fyler:1
xref: UMLS:C0032227
is_a: TST:0001 ! finding
relationship: BFO:0000050 UBERON:0000977 ! part of pleura
relationship: TST:located_near TST:0003

[Term]
id: TST:0003
name: Lung
xref: UMLS:C0024109
xref: UMLS:C0024115
is_a: TST:0001
relationship: BFO:0000051 TST:0004
property_value: skos:closeMatch NCIT:C12468

[Term]
id: TST:0004
name: Lobe
intersection_of: TST:0001
intersection_of: BFO:0000050 TST:0003

[Term]
id: TST:0005
name: obsolete effusion
is_obsolete: true
replaced_by: TST:0002

[Term]
id: TST:0006
name: obsolete thing
is_obsolete: true

[Typedef]
id: BFO:0000050
name: part of

[Typedef]
id: BFO:0000051
name: has part

[Typedef]
id: TST:located_near
name: Located near
"""

TURTLE = r"""
@prefix obo: <http://purl.obolibrary.org/obo/> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix oio: <http://www.geneontology.org/formats/oboInOwl#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix dcterms: <http://purl.org/dc/terms/> .

<http://purl.obolibrary.org/obo/tst.owl> a owl:Ontology ; dcterms:title "A tiny ontology" ;
  owl:versionIRI <http://purl.obolibrary.org/obo/tst/releases/2026-01-31/tst.owl> .
obo:BFO_0000050 a owl:ObjectProperty ; rdfs:label "part of" .
obo:BFO_0000051 a owl:ObjectProperty ; rdfs:label "has part" .
obo:TST_located_near a owl:ObjectProperty ; rdfs:label "Located near" .
obo:TST_0001 a owl:Class ; rdfs:label "finding" .
obo:TST_0002 a owl:Class ; rdfs:label "Pleural effusion" ;
  obo:IAO_0000115 "Fluid \"around\" the lung, é ✓." ;
  oio:hasAlternativeId "TST:0099" ;
  oio:hasRelatedSynonym "fluid in the chest" ; oio:hasNarrowSynonym "hydrothorax" ;
  oio:hasBroadSynonym "lung finding" ; oio:hasExactSynonym "PE" , "pleural fluid" , "PLEFF" ;
  oio:hasDbXref "MESH:D010996" , "Fyler:1" , "UMLS:C0032227" ;
  rdfs:subClassOf obo:TST_0001 ,
    [ a owl:Restriction ; owl:onProperty obo:BFO_0000050 ; owl:someValuesFrom obo:UBERON_0000977 ] ,
    [ a owl:Restriction ; owl:onProperty obo:TST_located_near ; owl:someValuesFrom obo:TST_0003 ] ,
    [ a owl:Restriction ; owl:onProperty obo:BFO_0000050 ; owl:allValuesFrom obo:TST_0001 ] .
[] a owl:Axiom ; owl:annotatedSource obo:TST_0002 ; owl:annotatedProperty oio:hasExactSynonym ;
  owl:annotatedTarget "PLEFF" ; oio:hasSynonymType obo:tst#abbreviation .
[] a owl:Axiom ; owl:annotatedSource obo:TST_0002 ; owl:annotatedProperty oio:hasExactSynonym ;
  owl:annotatedTarget "PE" ; oio:hasSynonymType <http://purl.obolibrary.org/obo/tst#obsolete_synonym> .
[] a owl:Axiom ; owl:annotatedSource obo:TST_0002 ; owl:annotatedProperty oio:hasNarrowSynonym ;
  owl:annotatedTarget "hydrothorax" ; oio:hasDbXref "PMID:2" .
obo:TST_0003 a owl:Class ; rdfs:label "Lung" ; oio:hasDbXref "UMLS:C0024109" , "UMLS:C0024115" ;
  skos:closeMatch obo:NCIT_C12468 ;
  rdfs:subClassOf obo:TST_0001 ,
    [ a owl:Restriction ; owl:onProperty obo:BFO_0000051 ; owl:someValuesFrom obo:TST_0004 ] .
obo:TST_0004 a owl:Class ; rdfs:label "Lobe" ; owl:equivalentClass [ a owl:Class ; owl:intersectionOf (
  obo:TST_0001 [ a owl:Restriction ; owl:onProperty obo:BFO_0000050 ; owl:someValuesFrom obo:TST_0003 ] ) ] .
obo:TST_0005 a owl:Class ; rdfs:label "obsolete effusion" ; owl:deprecated true ; obo:IAO_0100001 obo:TST_0002 .
obo:TST_0006 a owl:Class ; rdfs:label "obsolete thing" ; owl:deprecated true .
obo:TST_0099 a owl:Class ; owl:deprecated true ; obo:IAO_0100001 obo:TST_0002 .
""".replace("obo:tst#abbreviation", "<http://purl.obolibrary.org/obo/tst#abbreviation>")

RDF_XML = """<?xml version="1.0"?>
<!DOCTYPE rdf:RDF [ <!ENTITY obo "http://purl.obolibrary.org/obo/" > ]>
<rdf:RDF xmlns="http://purl.obolibrary.org/obo/tst.owl#" xml:base="http://purl.obolibrary.org/obo/tst.owl"
  xmlns:obo="http://purl.obolibrary.org/obo/" xmlns:owl="http://www.w3.org/2002/07/owl#"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"
  xmlns:oio="http://www.geneontology.org/formats/oboInOwl#" xmlns:skos="http://www.w3.org/2004/02/skos/core#"
  xmlns:dc="http://purl.org/dc/elements/1.1/">
 <owl:Ontology rdf:about="http://purl.obolibrary.org/obo/tst.owl">
  <owl:versionIRI rdf:resource="&obo;tst/releases/2026-01-31/tst.owl"/>
  <dc:title>A tiny ontology</dc:title>
 </owl:Ontology>
 <owl:ObjectProperty rdf:about="&obo;BFO_0000050"><rdfs:label>part of</rdfs:label></owl:ObjectProperty>
 <owl:ObjectProperty rdf:about="&obo;BFO_0000051"><rdfs:label>has part</rdfs:label></owl:ObjectProperty>
 <owl:ObjectProperty rdf:about="&obo;TST_located_near"><rdfs:label>Located near</rdfs:label></owl:ObjectProperty>
 <owl:Class rdf:about="&obo;TST_0001"><rdfs:label>finding</rdfs:label></owl:Class>
 <owl:Class rdf:about="&obo;TST_0002">
  <rdfs:subClassOf rdf:resource="&obo;TST_0001"/>
  <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="&obo;BFO_0000050"/>
   <owl:someValuesFrom rdf:resource="&obo;UBERON_0000977"/></owl:Restriction></rdfs:subClassOf>
  <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="&obo;TST_located_near"/>
   <owl:someValuesFrom rdf:resource="&obo;TST_0003"/></owl:Restriction></rdfs:subClassOf>
  <obo:IAO_0000115>Fluid "around" the lung, é ✓.</obo:IAO_0000115>
  <oio:hasAlternativeId>TST:0099</oio:hasAlternativeId>
  <oio:hasRelatedSynonym>fluid in the chest</oio:hasRelatedSynonym>
  <oio:hasNarrowSynonym>hydrothorax</oio:hasNarrowSynonym>
  <oio:hasBroadSynonym>lung finding</oio:hasBroadSynonym>
  <oio:hasExactSynonym>PE</oio:hasExactSynonym>
  <oio:hasExactSynonym>pleural fluid</oio:hasExactSynonym>
  <oio:hasExactSynonym>PLEFF</oio:hasExactSynonym>
  <oio:hasDbXref>MESH:D010996</oio:hasDbXref>
  <oio:hasDbXref>Fyler:1</oio:hasDbXref>
  <oio:hasDbXref>UMLS:C0032227</oio:hasDbXref>
  <rdfs:label rdf:datatype="http://www.w3.org/2001/XMLSchema#string">Pleural effusion</rdfs:label>
 </owl:Class>
 <owl:Axiom><owl:annotatedSource rdf:resource="&obo;TST_0002"/>
  <owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#hasExactSynonym"/>
  <owl:annotatedTarget>PLEFF</owl:annotatedTarget>
  <oio:hasSynonymType rdf:resource="&obo;tst#abbreviation"/></owl:Axiom>
 <owl:Axiom><owl:annotatedSource rdf:resource="&obo;TST_0002"/>
  <owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#hasExactSynonym"/>
  <owl:annotatedTarget>PE</owl:annotatedTarget>
  <oio:hasSynonymType rdf:resource="&obo;tst#obsolete_synonym"/></owl:Axiom>
 <owl:Class rdf:about="&obo;TST_0003">
  <rdfs:subClassOf rdf:resource="&obo;TST_0001"/>
  <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="&obo;BFO_0000051"/>
   <owl:someValuesFrom rdf:resource="&obo;TST_0004"/></owl:Restriction></rdfs:subClassOf>
  <oio:hasDbXref>UMLS:C0024109</oio:hasDbXref><oio:hasDbXref>UMLS:C0024115</oio:hasDbXref>
  <skos:closeMatch rdf:resource="&obo;NCIT_C12468"/>
  <rdfs:label>Lung</rdfs:label>
 </owl:Class>
 <owl:Class rdf:about="&obo;TST_0004"><rdfs:label>Lobe</rdfs:label></owl:Class>
 <owl:Class rdf:about="&obo;TST_0005"><rdfs:label>obsolete effusion</rdfs:label>
  <owl:deprecated rdf:datatype="http://www.w3.org/2001/XMLSchema#boolean">true</owl:deprecated>
  <obo:IAO_0100001 rdf:resource="&obo;TST_0002"/></owl:Class>
 <owl:Class rdf:about="&obo;TST_0006"><rdfs:label>obsolete thing</rdfs:label>
  <owl:deprecated rdf:datatype="http://www.w3.org/2001/XMLSchema#boolean">true</owl:deprecated></owl:Class>
</rdf:RDF>
"""


def obograph() -> str:
    """The same as OBO graph JSON."""

    def iri(curie: str) -> str:
        return PURL + curie.replace(":", "_")

    def node(curie: str, label: str, **meta: Any) -> dict[str, Any]:
        return {"id": iri(curie), "lbl": label, "type": "CLASS", "meta": meta}

    def synonym(predicate: str, text: str, kind: str | None = None) -> dict[str, Any]:
        return {"pred": predicate, "val": text} | ({"synonymType": f"{PURL}tst#{kind}"} if kind else {})

    def edge(head: str, predicate: str, tail: str) -> dict[str, str]:
        return {
            "sub": iri(head),
            "pred": predicate if predicate == "is_a" else iri(predicate),
            "obj": iri(tail),
        }

    nodes: list[dict[str, Any]] = [
        node("TST:0001", "finding"),
        node(
            "TST:0002", "Pleural effusion",
            definition={"val": 'Fluid "around" the lung, é ✓.', "xrefs": ["PMID:1"]},
            synonyms=[
                synonym("hasRelatedSynonym", "fluid in the chest"), synonym("hasNarrowSynonym", "hydrothorax"),
                synonym("hasBroadSynonym", "lung finding"), synonym("hasExactSynonym", "PE", "obsolete_synonym"),
                synonym("hasExactSynonym", "pleural fluid"), synonym("hasExactSynonym", "PLEFF", "abbreviation"),
            ],
            xrefs=[{"val": "MESH:D010996"}, {"val": "Fyler:1"}, {"val": "UMLS:C0032227"}],
            basicPropertyValues=[
                {"pred": "http://www.geneontology.org/formats/oboInOwl#hasAlternativeId", "val": "TST:0099"}
            ],
        ),
        node(
            "TST:0003", "Lung", xrefs=[{"val": "UMLS:C0024109"}, {"val": "UMLS:C0024115"}],
            basicPropertyValues=[
                {"pred": "http://www.w3.org/2004/02/skos/core#closeMatch", "val": iri("NCIT:C12468")}
            ],
        ),
        node("TST:0004", "Lobe"),
        node(
            "TST:0005", "obsolete effusion", deprecated=True,
            basicPropertyValues=[{"pred": iri("IAO:0100001"), "val": iri("TST:0002")}],
        ),
        node("TST:0006", "obsolete thing", deprecated=True),
        {"id": iri("UBERON:0000977")},
        {"id": iri("BFO:0000050"), "type": "PROPERTY", "lbl": "part of"},
        {"id": iri("BFO:0000051"), "type": "PROPERTY", "lbl": "has part"},
        {"id": iri("TST:located_near"), "type": "PROPERTY", "lbl": "Located near"},
    ]  # fmt: skip
    edges = [
        edge("TST:0002", "is_a", "TST:0001"),
        edge("TST:0002", "BFO:0000050", "UBERON:0000977"),
        edge("TST:0002", "TST:located_near", "TST:0003"),
        edge("TST:0003", "is_a", "TST:0001"),
        edge("TST:0003", "BFO:0000051", "TST:0004"),
    ]
    meta = {
        "version": PURL + "tst/releases/2026-01-31/tst.json",
        "basicPropertyValues": [{"pred": "http://purl.org/dc/terms/title", "val": "A tiny ontology"}],
    }
    graph = {"id": PURL + "tst.json", "meta": meta, "nodes": nodes, "edges": edges}
    return json.dumps({"graphs": [graph | {"logicalDefinitionAxioms": [{"definedClassId": iri("TST:0004")}]}]})
