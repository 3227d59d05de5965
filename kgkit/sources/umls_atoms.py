"""MRCONSO: the names and codes of each concept, vocabulary by vocabulary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray
from kgkit.namespaces import code_curie
from kgkit.sources.base import IngestLog, with_best_names
from kgkit.sources.rrf import RrfRelease
from kgkit.sources.umls_rows import NUM_CUIS, SUPPRESSED, Rule, cui_number, is_in, kept_rows
from kgkit.sources.umls_vocabularies import LANGUAGES, Vocabularies

_ABBREVIATION_TTYS = ("AB", "ACR", "AA")
_COLUMNS = ("CUI", "LAT", "TS", "STT", "ISPREF", "AUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS")
_CONCEPTS_AT_A_TIME = 400_000


@dataclass(frozen=True)
class Atoms:
    """What MRCONSO says.

    Attributes:
        present: bool [NUM_CUIS], CUIs of any row.
        kept: bool [NUM_CUIS], CUIs with a name that is kept.
        names: Columns of NAMES; `graph` is a vocabulary's number and `concept` a CUI's.
        codes: Columns graph, concept, code.
        cui_of_aui: Columns aui, cui, sorted by aui; only if asked for.
    """

    present: BoolArray
    kept: BoolArray
    names: pl.DataFrame
    codes: pl.DataFrame
    cui_of_aui: pl.DataFrame | None


def read_atoms(
    rrf: RrfRelease,
    log: IngestLog,
    vocabularies: Vocabularies,
    choice: tuple[tuple[str, ...], bool, BoolArray | None],
    with_auis: bool = False,
) -> Atoms:
    """Read MRCONSO once.

    Args:
        rrf: The release.
        log: Counts.
        vocabularies: Which vocabularies are wanted.
        choice: Values of LAT to keep, whether suppressed names are kept, and the CUIs wanted (None: all).
        with_auis: Keep the CUI of each atom, for MRHIER.
    """
    present, kept = np.zeros(NUM_CUIS, dtype=np.bool_), np.zeros(NUM_CUIS, dtype=np.bool_)
    ranks = _ranks(rrf)
    names, codes, auis = [], [], []
    for rows in rrf.batches("MRCONSO", _COLUMNS):
        rows = rows.with_columns(cui=cui_number("CUI"))
        present[rows["cui"].drop_nulls().to_numpy()] = True
        _note_levels(rows, vocabularies)
        rows = kept_rows(rows, _rules(rows, vocabularies, choice), ("MRCONSO", rrf.place("MRCONSO")), log)
        kept[rows["cui"].to_numpy()] = True
        rows = rows.with_columns(graph=vocabularies.numbers(rows["SAB"]))
        names.append(_names(rows, ranks))
        codes.append(_codes(rows))
        if with_auis:
            auis.append(rows.select(aui=pl.col("AUI").str.slice(1).cast(pl.Int64, strict=False), cui="cui"))
    all_names = pl.concat(names, rechunk=False) if names else pl.DataFrame(schema={"concept": pl.UInt32})
    return Atoms(
        present,
        kept,
        _folded(all_names),
        pl.concat(codes).unique().sort("graph", "concept", "code") if codes else pl.DataFrame(),
        pl.concat(auis).drop_nulls().unique("aui").sort("aui") if auis else None,
    )


def _rules(
    rows: pl.DataFrame, vocabularies: Vocabularies, choice: tuple[tuple[str, ...], bool, BoolArray | None]
) -> list[Rule]:
    languages, suppressed, wanted = choice
    unwanted: dict[str, list[str]] = {}
    for sab in rows["SAB"].unique().sort().to_list():
        reason = vocabularies.reason_to_skip(sab)
        if reason:
            unwanted.setdefault(reason, []).append(sab)
    rules = [
        Rule("CUI is not C and seven digits", pl.col("cui").is_null(), defect="CUI"),
        Rule("language not chosen", ~pl.col("LAT").is_in(languages)),
    ]
    if not suppressed:
        rules.append(Rule("suppressed", pl.col("SUPPRESS").is_in(SUPPRESSED)))
    rules += [Rule(reason, pl.col("SAB").is_in(sabs)) for reason, sabs in sorted(unwanted.items())]
    if wanted is not None:
        rules.append(Rule("concept not chosen", ~is_in(pl.col("cui"), wanted)))
    rules.append(Rule("empty name", pl.col("STR").str.strip_chars() == "", defect="STR"))
    return rules


def _note_levels(rows: pl.DataFrame, vocabularies: Vocabularies) -> None:
    levels = rows.group_by("SAB").agg(pl.col("SRL").cast(pl.Int64, strict=False).max().fill_null(0))
    for sab, level in levels.iter_rows():
        vocabularies.note_level(sab, level)


def _ranks(rrf: RrfRelease) -> pl.DataFrame | None:
    """MRRANK's order of (SAB, TTY): a higher number is better."""
    if not rrf.has("MRRANK"):
        return None
    rows = rrf.read("MRRANK", ["RANK", "SAB", "TTY", "SUPPRESS"]).filter(pl.col("SUPPRESS") == "N")
    ranks: pl.DataFrame = rows.select("SAB", "TTY", by_tty=pl.col("RANK").cast(pl.Int32, strict=False))
    return ranks.unique(["SAB", "TTY"], keep="first", maintain_order=True)


def _names(rows: pl.DataFrame, ranks: pl.DataFrame | None) -> pl.DataFrame:
    """Rank by MRRANK where it is there, then by the flags of NLM's own ranking."""
    flags = pl.col("TS").eq("P") * 4 + pl.col("STT").eq("PF") * 2 + pl.col("ISPREF").eq("Y") * 1
    rank = flags.cast(pl.Int32)
    if ranks is not None:
        rows = rows.join(ranks, on=["SAB", "TTY"], how="left", maintain_order="left")
        rank = pl.col("by_tty").fill_null(0) * 8 + rank
    return rows.select(
        "graph", concept="cui", name="STR", language=pl.col("LAT").replace_strict(LANGUAGES), rank=rank,
        tie=pl.col("AUI").str.slice(1).cast(pl.UInt32, strict=False),
        is_abbreviation=pl.col("TTY").is_in(_ABBREVIATION_TTYS),
    )  # fmt: skip


def _codes(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.filter(~pl.col("CODE").is_in(["", "NOCODE"])).select("graph", "SAB", "CODE", concept="cui").unique()
    code = pl.struct("SAB", "CODE").map_elements(
        lambda row: code_curie(row["SAB"], row["CODE"]), return_dtype=pl.String
    )
    return rows.select("graph", "concept", code=code)


def _folded(names: pl.DataFrame) -> pl.DataFrame:
    """Equal names folded and the best marked, for some concepts at a time: so the memory needed stays small."""
    parts = []
    cuts = names["concept"].unique().sort().gather_every(_CONCEPTS_AT_A_TIME).to_list()
    for low, high in itertools.pairwise([*cuts, NUM_CUIS]):
        parts.append(with_best_names(names.filter(pl.col("concept").is_between(low, high, closed="left"))))
    return pl.concat(parts) if parts else names
