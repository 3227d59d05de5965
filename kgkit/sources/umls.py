"""UMLS Metathesaurus (or any files in its RRF layout) to tables.

Columns and rules: UMLS Reference Manual, chapter 3, Metathesaurus Rich Release Format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl

from kgkit.errors import InputError
from kgkit.namespaces import code_curie, plain
from kgkit.sources.base import DEFINITIONS, EDGES, TYPES, IngestLog, NamedGraph, SourceTables
from kgkit.sources.relations import REL_NOT_USED, REL_WITHOUT_RELA, RelationNames, canonical_edges
from kgkit.sources.rrf import RrfFolder

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "ENG": "en", "SPA": "es", "FRE": "fr", "GER": "de", "CZE": "cs", "DUT": "nl", "JPN": "ja", "CHI": "zh",
        "SWE": "sv", "KOR": "ko", "POR": "pt", "ITA": "it", "RUS": "ru", "HUN": "hu", "FIN": "fi", "NOR": "no",
        "DAN": "da", "POL": "pl", "BAQ": "eu", "HEB": "he", "LAV": "lv", "SCR": "hr", "EST": "et", "GRE": "el",
        "TUR": "tr", "ARA": "ar", "UKR": "uk",
    }
)  # fmt: skip
"""LAT to BCP 47."""

_ABBREVIATION_TTYS = ("AB", "ACR", "AA")
_FIRST_PLACEHOLDER = 9_000_000
"""Real CUIs are far below; files made from open ontologies mint theirs from here up."""
_RELEASE = re.compile(r"\b(20\d\d(?:AA|AB|AC))\b", re.IGNORECASE)


def read_umls(
    path: Path, log: IngestLog, release: str | None = None, languages: tuple[str, ...] = ("ENG",)
) -> SourceTables:
    """Read a META folder.

    Args:
        path: Folder with MRCONSO.RRF and its kin, plain or gzipped.
        log: Where rows are counted.
        release: Release name; taken from the path (`2026AA`) if not given, else `unversioned`.
        languages: Values of LAT to keep.

    Returns:
        The tables of this source; concepts are `umls:<CUI>`.

    Raises:
        InputError: naming the file and line of what cannot be read.
    """
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown:
        raise InputError(f"unknown language {unknown[0]!r}; choices: {', '.join(LANGUAGES)}")
    rrf = RrfFolder(path, log)
    found = _RELEASE.search(str(path.resolve()))
    release = release or (found.group(1).upper() if found else "unversioned")
    umls_graph = f"UMLS@{release}"
    versions = _vocabularies(rrf)
    atoms = _kept_atoms(rrf, log, languages)
    if atoms.is_empty():
        raise InputError(f"no atom is left of MRCONSO in {', '.join(languages)}, not suppressed", path)
    concepts = atoms["concept"].unique().sort()
    minted = concepts.str.slice(len("umls:C")).cast(pl.Int64) >= _FIRST_PLACEHOLDER
    used = set(atoms["SAB"].unique().to_list())
    levels = dict(atoms.group_by("SAB").agg(pl.col("SRL").cast(pl.Int64, strict=False).max().fill_null(0)).iter_rows())
    graphs = [NamedGraph(umls_graph, f"UMLS Metathesaurus {release}", max(levels.values()))]
    versions |= {sab: (f"{sab}@{release}", sab) for sab in used - versions.keys()}
    graphs += [NamedGraph(*versions[sab], levels[sab]) for sab in sorted(used)]
    atoms = atoms.with_columns(graph=_graph_of("SAB", versions))
    return SourceTables(
        name="umls",
        release=release,
        graphs=tuple(graphs),
        concepts=pl.DataFrame({"concept": concepts, "is_placeholder": minted}).select(
            pl.lit(umls_graph).alias("graph"), "concept", "is_placeholder"
        ),
        names=_names(atoms),
        types=_types(rrf, log, concepts, umls_graph),
        definitions=_definitions(rrf, log, concepts, versions),
        codes=_codes(atoms),
        edges=_edges(rrf, log, concepts, versions),
    )


def _vocabularies(rrf: RrfFolder) -> dict[str, tuple[str, str]]:
    """SAB -> (named graph `<SAB>@<version>`, title), from MRSAB's current versions."""
    if not rrf.has("MRSAB"):
        return {}
    rows = rrf.read("MRSAB").filter(pl.col("CURVER") != "N").select("RSAB", "SVER", "VSAB", "SON")
    return {sab: (f"{plain(sab)}@{plain(version or versioned)}", title or sab)
            for sab, version, versioned, title in rows.iter_rows()}  # fmt: skip


def _kept_atoms(rrf: RrfFolder, log: IngestLog, languages: tuple[str, ...]) -> pl.DataFrame:
    atoms = rrf.read("MRCONSO")
    wrong = ~atoms["CUI"].str.contains(r"^C\d{7}$")
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        path = log.files[-1]
        raise InputError(f"CUI {atoms['CUI'][row]!r} is not C and seven digits", path, row + 1)
    reasons = (
        ("language not chosen", ~pl.col("LAT").is_in(languages)),
        ("suppressed", pl.col("SUPPRESS").is_in(["O", "E", "Y"])),
        ("source metadata (SAB=SRC)", pl.col("SAB") == "SRC"),
        ("empty name", pl.col("STR").str.strip_chars() == ""),
    )
    atoms = _drop(atoms, "MRCONSO", reasons, log)
    rank = pl.col("TS").eq("P") * 4 + pl.col("STT").eq("PF") * 2 + pl.col("ISPREF").eq("Y") * 1
    atoms = atoms.with_columns(concept="umls:" + pl.col("CUI"), rank=rank.cast(pl.Int64))
    if rrf.has("MRRANK"):
        ranks = rrf.read("MRRANK").filter(pl.col("SUPPRESS") == "N")
        ranks = ranks.select("SAB", "TTY", by_tty=pl.col("RANK").cast(pl.Int64, strict=False)).unique(["SAB", "TTY"])
        atoms = atoms.join(ranks, on=["SAB", "TTY"], how="left")
        atoms = atoms.with_columns(rank=pl.col("by_tty").fill_null(0) * 8 + pl.col("rank")).drop("by_tty")
    return atoms


def _names(atoms: pl.DataFrame) -> pl.DataFrame:
    language = pl.col("LAT").replace_strict(LANGUAGES)
    names = atoms.select(
        "graph", "concept", "rank", "AUI", name="STR", language=language, short=pl.col("TTY").is_in(_ABBREVIATION_TTYS)
    )
    keys = ["graph", "concept", "language"]
    names = names.group_by([*keys, "name"]).agg(
        pl.col("rank").max(), pl.col("AUI").min(), is_abbreviation=pl.col("short").all()
    )
    # An abbreviation is a name of last resort: it stands for a concept only where no full name does.
    names = names.sort([*keys, "is_abbreviation", "rank", "AUI", "name"], descending=[False] * 4 + [True, False, False])
    names = names.with_columns(is_best=pl.int_range(pl.len()).over(keys) == 0)
    return names.select("graph", "concept", "name", "language", "rank", "is_best", "is_abbreviation")


def _codes(atoms: pl.DataFrame) -> pl.DataFrame:
    rows = atoms.filter(~pl.col("CODE").is_in(["", "NOCODE"])).select("graph", "concept", "SAB", "CODE").unique()
    code = pl.struct("SAB", "CODE").map_elements(
        lambda row: code_curie(row["SAB"], row["CODE"]), return_dtype=pl.String
    )
    return rows.select("graph", "concept", code=code).unique().sort("graph", "concept", "code")


def _types(rrf: RrfFolder, log: IngestLog, concepts: pl.Series, graph: str) -> pl.DataFrame:
    if not rrf.has("MRSTY"):
        return pl.DataFrame(schema=TYPES)
    rows = rrf.read("MRSTY").with_columns(concept="umls:" + pl.col("CUI"))
    rows = _drop(rows, "MRSTY", (("concept not kept", ~pl.col("concept").is_in(concepts.implode())),), log)
    distinct = rows.select(graph=pl.lit(graph), concept="concept", tui="TUI").unique()
    log.skip("MRSTY", "same type twice", len(rows) - len(distinct))
    return distinct.sort("concept", "tui")


def _definitions(
    rrf: RrfFolder, log: IngestLog, concepts: pl.Series, versions: Mapping[str, tuple[str, str]]
) -> pl.DataFrame:
    if not rrf.has("MRDEF"):
        return pl.DataFrame(schema=DEFINITIONS)
    rows = rrf.read("MRDEF").with_columns(concept="umls:" + pl.col("CUI"))
    reasons = (
        ("suppressed", pl.col("SUPPRESS").is_in(["O", "E", "Y"])),
        ("concept not kept", ~pl.col("concept").is_in(concepts.implode())),
        ("vocabulary not kept", ~pl.col("SAB").is_in(list(versions))),
        ("empty definition", pl.col("DEF").str.strip_chars() == ""),
    )
    rows = _drop(rows, "MRDEF", reasons, log)
    rows = rows.select(graph=_graph_of("SAB", versions), concept="concept", definition="DEF", language=pl.lit("en"))
    distinct = rows.unique()
    log.skip("MRDEF", "same definition twice", len(rows) - len(distinct))
    return distinct.sort("graph", "concept", "definition")


def _edges(
    rrf: RrfFolder, log: IngestLog, concepts: pl.Series, versions: Mapping[str, tuple[str, str]]
) -> pl.DataFrame:
    """Relations with head = CUI2 and tail = CUI1, one row per fact and vocabulary."""
    if not rrf.has("MRREL"):
        return pl.DataFrame(schema=EDGES)
    rows = rrf.read("MRREL").select(
        "REL", "RELA", "SAB", "DIR", "SUPPRESS", head="umls:" + pl.col("CUI2"), tail="umls:" + pl.col("CUI1")
    )
    kept = concepts.implode()
    named = (
        pl.when(pl.col("RELA") != "")
        .then("RELA")
        .otherwise(pl.col("REL").replace_strict(REL_WITHOUT_RELA, default=None))
    )
    reasons = [("suppressed", pl.col("SUPPRESS").is_in(["O", "E", "Y"]))]
    reasons += [(f"REL={rel}: {why}", pl.col("REL") == rel) for rel, why in REL_NOT_USED.items()]
    reasons += [
        ("both ends are one concept", pl.col("head") == pl.col("tail")),
        ("an end is not kept", ~(pl.col("head").is_in(kept) & pl.col("tail").is_in(kept))),
        ("vocabulary not kept", ~pl.col("SAB").is_in(list(versions))),
        ("no RELA and no rule for REL", named.is_null()),
    ]
    rows = _drop(rows, "MRREL", tuple(reasons), log).with_columns(relation=named, graph=_graph_of("SAB", versions))
    asserted = dict(rows.filter(pl.col("DIR") == "Y").group_by("relation").len().iter_rows())
    edges = canonical_edges(rows.select("graph", "head", "relation", "tail"), RelationNames(_documented(rrf), asserted))
    distinct = edges.unique()
    log.skip("MRREL", "same fact from its other side, or twice", len(edges) - len(distinct))
    return distinct.sort("graph", "head", "relation", "tail")


def _documented(rrf: RrfFolder) -> dict[str, str]:
    if not rrf.has("MRDOC"):
        return {}
    rows = rrf.read("MRDOC").filter(
        (pl.col("TYPE") == "rela_inverse") & (pl.col("VALUE") != "") & (pl.col("EXPL") != "")
    )
    return dict(rows.select("VALUE", "EXPL").iter_rows())


def _graph_of(column: str, versions: Mapping[str, tuple[str, str]]) -> pl.Expr:
    return pl.col(column).replace_strict(
        {sab: graph for sab, (graph, _) in versions.items()}, default=None, return_dtype=pl.String
    )


def _drop(rows: pl.DataFrame, table: str, reasons: tuple[tuple[str, pl.Expr], ...], log: IngestLog) -> pl.DataFrame:
    """Drop rows by the first reason that fits, and count them under it."""
    for reason, condition in reasons:
        dropped = rows.select(condition.alias("drop"))["drop"]
        count = int(dropped.sum())
        if count:
            log.skip(table, reason, count)
            rows = rows.filter(~dropped)
    return rows
