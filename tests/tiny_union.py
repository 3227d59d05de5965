"""A small graph of two sources and a corpus, with a merged class, retired ids, and every kind of statement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.graph.store import ingest
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables, encode_tables
from kgkit.types import Certainty, Mention, MentionKind, MentionRelation, ReportMentions

UMLS = "UMLS@2026AA"
HPO = "HPO@2025"
TST = "TST@1"
HP = "HP@2026"


def frame(columns: str, rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Rows of strings (or None, numbers, booleans) under space-separated column names."""
    table = pl.DataFrame(rows, schema=columns.split(), orient="row", infer_schema_length=None)
    return table.cast({pl.Null: pl.String})


def umls_tables() -> SourceTables:
    """Three vocabularies of a UMLS: types and retired ids, HPO, and TST of licence level 3."""
    concepts = "C0032227 C0013687 C0032225 C0018802 C0014013 C0041296"
    names = [
        (HPO, "umls:C0032227", "Pleural effusion", "en", 9, False),
        (HPO, "umls:C0032227", "Fluid around lungs", "en", 5, False),
        (TST, "umls:C0032227", "Effusion, Pleural", "en", 7, False),
        (TST, "umls:C0032227", "PLEFF", "en", 1, True),
        (TST, "umls:C0032227", "derrame pleural", "es", 7, False),
        (TST, "umls:C0013687", "Effusion", "en", 7, False),
        (TST, "umls:C0032225", "Pleura", "en", 7, False),
        (TST, "umls:C0018802", "Congestive heart failure", "en", 7, False),
        (HPO, "umls:C0014013", "Pleural empyema", "en", 9, False),
        (TST, "umls:C0041296", "Tuberculous empyema", "en", 7, False),
        (TST, "umls:C9000001", "A minted one", "en", 7, False),
    ]
    edges = [
        (HPO, "umls:C0032227", "isa", "umls:C0013687"),
        (TST, "umls:C0032227", "isa", "umls:C0013687"),
        (HPO, "umls:C0014013", "isa", "umls:C0032227"),
        (TST, "umls:C0041296", "isa", "umls:C0014013"),
        (TST, "umls:C0032227", "has_finding_site", "umls:C0032225"),
        (TST, "umls:C0018802", "cause_of", "umls:C0032227"),
    ]
    written = {
        "concepts": frame("graph concept is_placeholder",
            [*((TST, f"umls:{cui}", False) for cui in concepts.split()), (TST, "umls:C9000001", True)]),
        "names": frame("graph concept name language rank is_abbreviation", names),
        "types": frame("graph concept tui", [(UMLS, "umls:C0032227", "T047"), (UMLS, "umls:C0032227", "T046"),
            (UMLS, "umls:C0032225", "T023"), (UMLS, "umls:C0018802", "T047")]),
        "definitions": frame("graph concept definition language",
            [(HPO, "umls:C0032227", "Fluid in the pleural cavity.", "en")]),
        "codes": frame("graph concept code", [(TST, "umls:C0032227", "bioportal:TST/x y"),
            (TST, "umls:C0013687", "bioportal:TST/E1"), (HPO, "umls:C0014013", "HP:0000001")]),
        "edges": frame("graph head relation tail", edges),
        "retired": frame("graph retired reason target", [
            (UMLS, "umls:C0000001", "synonym", "umls:C0000002"), (UMLS, "umls:C0000002", "synonym", "umls:C0032227"),
            (UMLS, "umls:C0000003", "split", "umls:C0013687"), (UMLS, "umls:C0000003", "split", "umls:C0032225"),
            (UMLS, "umls:C0000004", "deleted", None)]),
        "attributes": frame("graph concept attribute value", [(TST, "umls:C0032227", "SIDE", "left")]),
    }  # fmt: skip
    graphs = (NamedGraph(UMLS, "UMLS Metathesaurus", 0), NamedGraph(HPO, "Human Phenotype Ontology"),
              NamedGraph(TST, "Test vocabulary", 3))  # fmt: skip
    return encode_tables("umls", "2026AA", graphs, written)


def hpo_tables() -> SourceTables:
    """An ontology that shares one concept with the UMLS by an exact match."""
    written = {
        "concepts": frame("graph concept is_placeholder", [(HP, "HP:0002202", False), (HP, "HP:0002103", False)]),
        "names": frame("graph concept name language rank is_abbreviation", [
            (HP, "HP:0002202", "Pleural effusion", "en", 9, False),
            (HP, "HP:0002202", "Pleural fluid", "en", 5, False),
            (HP, "HP:0002103", "Abnormal pleura morphology", "en", 9, False)]),
        "definitions": frame("graph concept definition language",
            [(HP, "HP:0002202", "Too much fluid in the pleural cavity.", "en")]),
        "edges": frame("graph head relation tail", [(HP, "HP:0002202", "isa", "HP:0002103")]),
        "matches": frame("graph subject predicate object", [(HP, "HP:0002202", "exact", "umls:C0032227"),
            (HP, "HP:0002103", "close", "umls:C0032225")]),
    }  # fmt: skip
    return encode_tables("hpo", "2026", (NamedGraph(HP, "HPO as OBO"),), written)


def report_tables() -> SourceTables:
    """Two reports that mention the shared concept, one under each of its ids."""
    first, second = "Small pleural effusion.", "No effusion in the pleura."
    site = Mention("pleura", 19, 25, MentionKind.ANATOMY, Certainty.PRESENT, concept="umls:C0032225")
    reports = (
        ReportMentions("a", first, (Mention("pleural effusion", 6, 22, MentionKind.OBSERVATION, Certainty.PRESENT,
            concept="umls:C0032227"),)),
        ReportMentions("b", second, (Mention("effusion", 3, 11, MentionKind.OBSERVATION, Certainty.ABSENT,
            concept="HP:0002202", relations=((MentionRelation.LOCATED_AT, 1),)), site)),
    )  # fmt: skip
    return SourceTables("notes", "1", (NamedGraph("notes@1", "Two reports"),), reports=reports)


def write_union(folder: Path) -> Path:
    """The graph of all of the above."""
    for tables in (umls_tables(), hpo_tables(), report_tables()):
        log = IngestLog()
        log.rows_read["TABLE"] = 10
        log.skip("TABLE", "another language", 3)
        log.defect("TABLE", "no such concept", ("TABLE.RRF", 7), "C0", 2)
        log.checks.append("TABLE: row count verified")
        ingest(folder, tables, log)
    return folder
