"""UMLS Metathesaurus (or any files in its RRF layout) to tables.

Columns and rules: UMLS Reference Manual, chapter 3, Metathesaurus Rich Release Format. A CUI is a number while the
tables are read; sets of CUIs are one boolean per possible CUI.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from kgkit.arrays import BoolArray
from kgkit.errors import InputError, choices
from kgkit.namespaces import plain
from kgkit.resources import resource
from kgkit.sources.base import (
    ATTRIBUTES,
    DEFINITIONS,
    ID_COLUMNS,
    NAMES,
    TABLES,
    IngestLog,
    NamedGraph,
    SourceTables,
    encode_tables,
    gathered,
    merge_tables,
)
from kgkit.sources.rrf import COLUMNS, RrfRelease
from kgkit.sources.semantic_network import network_frames
from kgkit.sources.umls_atoms import Atoms, read_atoms
from kgkit.sources.umls_relations import RelationPolicy, read_edges
from kgkit.sources.umls_rows import (
    FIRST_PLACEHOLDER,
    NUM_CUIS,
    SUPPRESSED,
    Rule,
    cui_number,
    is_in,
    kept_rows,
)
from kgkit.sources.umls_vocabularies import LANGUAGES, Vocabularies

_UMLS = "umls"


@dataclass(frozen=True)
class UmlsOptions:
    """What of a release is kept. The defaults suit an English concept encoder.

    Attributes:
        languages: Values of LAT.
        vocabularies: SABs to keep; empty for all.
        without: SABs to leave out.
        semantic_types: TUIs; a concept is kept if it has one of them. Empty for all.
        semantic_groups: Groups (DISO, ANAT, ...), each standing for its types.
        root: CUI; it and what lies below it by is-a is kept.
        max_licence_level: Leave out vocabularies with a higher SRL.
        suppressed: Keep suppressed names and relations.
        attributes: Values of ATN to keep of MRSAT.
        relations: Which rows of MRREL become edges.
        verify: Row and byte counts that differ from MRFILES are an error.
    """

    languages: tuple[str, ...] = ("ENG",)
    vocabularies: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    semantic_types: tuple[str, ...] = ()
    semantic_groups: tuple[str, ...] = ()
    root: str | None = None
    max_licence_level: int | None = None
    suppressed: bool = False
    attributes: tuple[str, ...] = ()
    relations: RelationPolicy = field(default_factory=RelationPolicy)
    verify: bool = True


def read_umls(
    path: Path, log: IngestLog, release: str | None = None, options: UmlsOptions | None = None
) -> SourceTables:
    """Read a release, or any part of one.

    Args:
        path: Folder or archive with MRCONSO.RRF and its kin.
        log: Where rows are counted.
        release: Release name; taken from the path (`2026AA`) if not given, else `unversioned`.
        options: What is kept.

    Returns:
        The tables of this source; concepts are `umls:<CUI>`.

    Raises:
        InputError: naming the file and line of what cannot be read, or the option that names nothing.
    """
    options = options or UmlsOptions()
    unknown = [language for language in options.languages if language not in LANGUAGES]
    if unknown:
        raise InputError(f"unknown language {unknown[0]!r}; choices: {', '.join(LANGUAGES)}")
    rrf = RrfRelease(path, log)
    release = release or rrf.release or "unversioned"
    limits = (options.vocabularies, options.without, options.max_licence_level)
    vocabularies = Vocabularies(rrf, release, *limits)
    wanted = _wanted(rrf, log, vocabularies, options)
    choice = (options.languages, options.suppressed, wanted)
    atoms = read_atoms(rrf, log, vocabularies, choice, with_auis=options.relations.hierarchies)
    if not atoms.kept.any():
        raise InputError(f"no name is left of MRCONSO in {', '.join(options.languages)}, not suppressed", path)
    return _Tables(rrf, log, vocabularies, release, options).made(atoms)


class _Tables:
    """Reads what belongs to the kept concepts, and numbers everything as SourceTables wants it."""

    def __init__(
        self, rrf: RrfRelease, log: IngestLog, vocabularies: Vocabularies, release: str, options: UmlsOptions
    ) -> None:
        self._rrf, self._log, self._vocabularies = rrf, log, vocabularies
        self._release, self._options = release, options

    def made(self, atoms: Atoms) -> SourceTables:
        concepts = (atoms.present, atoms.kept)
        edges, relations = read_edges(
            self._rrf, self._log, self._vocabularies, concepts, self._options.relations, atoms.cui_of_aui
        )
        definitions, attributes = self._definitions(atoms.kept), self._attributes(atoms.kept)
        kept = np.flatnonzero(atoms.kept).astype(np.uint32)
        umls = len(self._vocabularies.sabs)  # all vocabularies have their numbers by now
        shared = pl.lit(umls, dtype=pl.UInt16)
        frames = {
            "concepts": pl.DataFrame({"concept": kept, "is_placeholder": kept >= FIRST_PLACEHOLDER}).select(
                shared.alias("graph"), "concept", "is_placeholder"
            ),
            "names": atoms.names.select(list(NAMES)),
            "types": self._types(atoms.kept).select(shared.alias("graph"), "concept", "tui"),
            "definitions": definitions,
            "codes": atoms.codes,
            "edges": edges,
            "retired": self._retired(atoms).select(shared.alias("graph"), "retired", "reason", "target"),
            "attributes": attributes,
        }
        network = self._semantic_network()
        self._rrf.verify(required=self._options.verify)
        tables = self._numbered(frames, relations)
        return tables if network is None else merge_tables(_UMLS, self._release, [tables, network])

    def _semantic_network(self) -> SourceTables | None:
        """The types themselves and what holds between them, where the release brings its NET folder."""
        if not self._rrf.has("SRDEF"):
            return None
        graph = NamedGraph(f"SEMNET@{plain(self._release)}", f"UMLS Semantic Network {self._release}")
        definitions = self._rrf.read("SRDEF", COLUMNS["SRDEF"].split())
        statements = self._rrf.read("SRSTR", COLUMNS["SRSTR"].split()) if self._rrf.has("SRSTR") else None
        place = self._rrf.place("SRDEF")
        frames = network_frames(definitions, statements, graph.name, self._log, place)
        return encode_tables(_UMLS, self._release, (graph,), frames)

    def _numbered(self, frames: dict[str, pl.DataFrame], relations: pl.Series) -> SourceTables:
        """CUIs become positions in the list of ids, vocabularies positions among the named graphs in use."""
        used = np.zeros(NUM_CUIS, dtype=np.bool_)
        for frame in frames.values():
            for column in ID_COLUMNS & set(frame.columns):
                used[frame[column].drop_nulls().to_numpy()] = True
        cuis = np.flatnonzero(used)
        position = np.zeros(NUM_CUIS, dtype=np.uint32)
        position[cuis] = np.arange(len(cuis), dtype=np.uint32)
        positions = pl.Series("position", position)
        numbers = {number for frame in frames.values() for number in frame["graph"].unique().to_list()}
        named = sorted(((self._graph(number), number) for number in numbers), key=lambda item: item[0].name)
        place = np.zeros(len(self._vocabularies.sabs) + 1, dtype=np.uint16)
        place[[number for _, number in named]] = np.arange(len(named))
        graphs = pl.Series("graph", place)
        numbered = {}
        for table, frame in frames.items():
            moved = [gathered(positions, column) for column in frame.columns if column in ID_COLUMNS]
            frame = frame.with_columns(gathered(graphs, "graph"), *moved)
            numbered[table] = frame.select(pl.col(name).cast(kind) for name, kind in TABLES[table].items())
        ids = ("umls:C" + pl.Series("id", cuis).cast(pl.String).str.zfill(7)).rename("id")
        in_use = tuple(graph for graph, _ in named)
        return SourceTables(_UMLS, self._release, in_use, ids=ids, relations=relations, reports=(), **numbered)

    def _graph(self, number: int) -> NamedGraph:
        sabs = self._vocabularies.sabs
        if number == len(sabs):
            return NamedGraph(f"UMLS@{self._release}", f"UMLS Metathesaurus {self._release}")
        return self._vocabularies.graph(sabs[number])

    def _types(self, kept: BoolArray) -> pl.DataFrame:
        rows = self._about_kept("MRSTY", ["TUI"], kept).select(concept="cui", tui="TUI")
        distinct = rows.unique()
        self._log.skip("MRSTY", "same type twice", len(rows) - len(distinct))
        return distinct.sort("concept", "tui")

    def _definitions(self, kept: BoolArray) -> pl.DataFrame:
        extra = [Rule("empty definition", pl.col("DEF").str.strip_chars() == "", defect="DEF")]
        rows = self._about_kept("MRDEF", ["SAB", "DEF", "SUPPRESS"], kept, extra)
        languages = {sab: LANGUAGES.get(self._vocabularies.language(sab), "en") for sab in rows["SAB"].unique()}
        language = pl.col("SAB").replace_strict(languages, return_dtype=pl.String)
        rows = rows.select(self._number(rows), concept="cui", definition="DEF", language=language.cast(pl.String))
        distinct = rows.unique()
        self._log.skip("MRDEF", "same definition twice", len(rows) - len(distinct))
        return distinct.sort(list(DEFINITIONS))

    def _attributes(self, kept: BoolArray) -> pl.DataFrame:
        if not self._options.attributes:
            return pl.DataFrame(schema=ATTRIBUTES)
        extra = [Rule("attribute not chosen", ~pl.col("ATN").is_in(self._options.attributes))]
        rows = self._about_kept("MRSAT", ["SAB", "ATN", "ATV", "SUPPRESS"], kept, extra)
        rows = rows.select(self._number(rows), concept="cui", attribute="ATN", value="ATV")
        return rows.unique().sort(list(ATTRIBUTES))

    def _about_kept(
        self, table: str, columns: list[str], kept: BoolArray, extra: list[Rule] | None = None
    ) -> pl.DataFrame:
        """Rows of a table that speak of kept concepts in kept vocabularies."""
        parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | {"cui": pl.UInt32})]
        for rows in self._rrf.batches(table, ["CUI", *columns]) if self._rrf.has(table) else ():
            rows = rows.with_columns(cui=cui_number("CUI"))
            rules = [Rule("CUI is not C and seven digits", pl.col("cui").is_null(), defect="CUI")]
            if "SUPPRESS" in columns and not self._options.suppressed:
                rules.append(Rule("suppressed", pl.col("SUPPRESS").is_in(SUPPRESSED)))
            rules += [*(extra or ()), Rule("concept not kept", ~is_in(pl.col("cui"), kept))]
            if "SAB" in columns:
                rules += self._vocabulary_rules(rows)
            rows = kept_rows(rows, rules, (table, self._rrf.place(table)), self._log)
            parts.append(rows.select(*columns, "cui"))
        return pl.concat(parts)

    def _vocabulary_rules(self, rows: pl.DataFrame) -> list[Rule]:
        unwanted = self._vocabularies.not_kept(rows["SAB"])
        languages = {sab: self._vocabularies.language(sab) for sab in rows["SAB"].unique()}
        foreign = [sab for sab, language in languages.items() if language not in self._options.languages]
        return [
            Rule("vocabulary not kept", pl.col("SAB").is_in(unwanted)),
            Rule("language not chosen", pl.col("SAB").is_in(foreign)),
        ]

    def _number(self, rows: pl.DataFrame) -> pl.Series:
        return self._vocabularies.numbers(rows["SAB"]).alias("graph")

    def _retired(self, atoms: Atoms) -> pl.DataFrame:
        """MRCUI: what became of CUIs of earlier releases; chains and splits stay as they are written."""
        parts = [pl.DataFrame(schema={"retired": pl.UInt32, "reason": pl.String, "target": pl.UInt32})]
        for rows in self._rrf.batches("MRCUI", ["CUI1", "REL", "CUI2"]) if self._rrf.has("MRCUI") else ():
            rows = rows.with_columns(retired=cui_number("CUI1"), target=cui_number("CUI2"))
            target = pl.col("target")
            gone = target.is_not_null() & is_in(target, atoms.present) & ~is_in(target, atoms.kept)
            rules = [
                Rule("CUI1 is not C and seven digits", pl.col("retired").is_null(), defect="CUI1"),
                Rule("CUI2 is not C and seven digits", target.is_null() & (pl.col("CUI2") != ""), defect="CUI2"),
                Rule("CUI1 is in use", is_in(pl.col("retired"), atoms.present)),
                Rule("successor not kept", gone),
                Rule("both ends are one concept", (pl.col("retired") == target).fill_null(value=False)),
            ]
            rows = kept_rows(rows, rules, ("MRCUI", self._rrf.place("MRCUI")), self._log)
            parts.append(rows.select("retired", reason="REL", target="target"))
        return pl.concat(parts).unique().sort("retired", "target", "reason", nulls_last=True)


def _wanted(rrf: RrfRelease, log: IngestLog, vocabularies: Vocabularies, options: UmlsOptions) -> BoolArray | None:
    """The CUIs that the options ask for; None for all."""
    wanted: BoolArray | None = None
    types = _types_of(options)
    if types:
        if not rrf.has("MRSTY"):
            raise InputError("concepts cannot be chosen by semantic type: there is no MRSTY", rrf.place("MRCONSO"))
        wanted = np.zeros(NUM_CUIS, dtype=np.bool_)
        for rows in rrf.batches("MRSTY", ["CUI", "TUI"]):
            cuis = rows.filter(pl.col("TUI").is_in(types)).select(cui_number("CUI"))["CUI"]
            wanted[cuis.drop_nulls().to_numpy()] = True
    if options.root:
        below = _below(rrf, vocabularies, options.root)
        wanted = below if wanted is None else wanted & below
    return wanted


def _types_of(options: UmlsOptions) -> list[str]:
    known = pl.read_csv(resource("ontologies/semantic_groups.txt"), separator="\t")
    groups = known["group"].unique().to_list()
    for group in options.semantic_groups:
        if group not in groups:
            raise InputError(f"unknown semantic group {group!r}; choices: {', '.join(sorted(groups))}")
    for tui in options.semantic_types:
        if tui not in known["TUI"]:
            raise InputError(f"unknown semantic type {tui!r}; {choices(tui, known['TUI'].to_list())}")
    of_groups = known.filter(pl.col("group").is_in(options.semantic_groups))["TUI"].to_list()
    return sorted({*options.semantic_types, *of_groups})


def _below(rrf: RrfRelease, vocabularies: Vocabularies, root: str) -> BoolArray:
    """The root and its descendants by is-a, whichever vocabulary says so; cycles do no harm."""
    number = pl.DataFrame({"root": [root.removeprefix("umls:")]}).select(cui_number("root")).item()
    everything = np.ones(NUM_CUIS, dtype=np.bool_)
    quiet = IngestLog()
    facts, relations = read_edges(rrf, quiet, vocabularies, (everything, everything), RelationPolicy("hierarchy"))
    isa = relations.index_of("isa") if len(relations) else None
    edges = facts.filter(pl.col("relation") == (-1 if isa is None else isa))
    if number is None or not (edges["head"].eq(number).any() or edges["tail"].eq(number).any()):
        raise InputError(f"root {root!r} is no concept with an is-a relation; expected a CUI such as C0024115")
    pairs = (edges["tail"].to_numpy(), edges["head"].to_numpy())
    children = coo_array((np.ones(len(edges), np.bool_), pairs), shape=(NUM_CUIS, NUM_CUIS)).tocsr()
    below = np.zeros(NUM_CUIS, dtype=np.bool_)
    below[breadth_first_order(children, int(number), return_predecessors=False)] = True
    return below
