"""MRREL and MRHIER: facts between concepts, each once, from its canonical side.

A row of MRREL reads CUI2 RELA CUI1. While it is read, a fact is one unsigned 64-bit integer (kind, head, tail; an end
is the rank of its CUI among those that are kept), so a full release is sorted and made distinct in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from kgkit.arrays import BoolArray
from kgkit.errors import InputError, choices
from kgkit.sources.base import IngestLog
from kgkit.sources.relations import REL_NOT_USED, REL_WITHOUT_RELA, RelationNames
from kgkit.sources.rrf import RrfRelease
from kgkit.sources.umls_rows import SUPPRESSED, Rule, cui_number, is_in, kept_rows
from kgkit.sources.umls_vocabularies import Vocabularies

_AT_A_TIME = 1 << 22
_HIERARCHY = frozenset({"isa", "part_of"})
_COLUMNS = ("CUI1", "CUI2", "REL", "RELA", "SAB", "DIR", "SUPPRESS")
POLICIES = ("typed", "hierarchy", "all", "none")
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RelationPolicy:
    """Which rows become edges.

    Attributes:
        kinds: `typed` (all but sibling cliques, qualifiers and the like), `hierarchy` (is-a and part-of alone), `all`
            (sibling cliques and qualifiers too) or `none`.
        suppressed: Keep suppressed rows.
        hierarchies: Read MRHIER: each atom's parent in its vocabulary.
    """

    kinds: str = "typed"
    suppressed: bool = False
    hierarchies: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown policy by name."""
        if self.kinds not in POLICIES:
            raise InputError(f"unknown relation policy {self.kinds!r}; {choices(self.kinds, POLICIES)}")


class _Facts:
    """Facts as integers; a kind is a position in `kinds`, a (vocabulary number, relation as written)."""

    def __init__(self, kept: BoolArray) -> None:
        self.kinds: dict[tuple[int, str], int] = {}
        self.asserted: Counter[str] = Counter()
        self._parts: list[Keys] = []
        self._cuis = np.flatnonzero(kept).astype(np.uint32)
        self._rank = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
        bits = max(len(self._cuis).bit_length(), 1)
        self._most_kinds = 1 << (64 - 2 * bits)
        self._bits, self._kind_bits, self._end = np.uint64(bits), np.uint64(2 * bits), np.uint64((1 << bits) - 1)

    def add(self, rows: pl.DataFrame, vocabularies: Vocabularies) -> None:
        """Take rows with the columns SAB, relation, head and tail (CUI numbers)."""
        if rows.is_empty():
            return
        kinds = rows.select("SAB", "relation").unique(maintain_order=True)
        numbers = [self._kind(vocabularies.number(sab), relation) for sab, relation in kinds.iter_rows()]
        kinds = kinds.with_columns(kind=pl.Series(numbers, dtype=pl.UInt64))
        kind = rows.join(kinds, on=["SAB", "relation"], how="left", maintain_order="left")["kind"].to_numpy()
        head, tail = (self._rank[rows[end].to_numpy()].astype(np.uint64) for end in ("head", "tail"))
        self._parts.append(self._packed(kind, head, tail))

    def canonical(self, names: RelationNames) -> tuple[Keys, list[tuple[int, str]]]:
        """Every fact from the canonical side of its relation; and the kinds that the new integers speak of."""
        if not self._parts:
            return np.empty(0, dtype=np.uint64), []
        form_of = {relation: names.canonical(relation) for _, relation in self.kinds}
        forms = [(sab, form_of[relation]) for sab, relation in self.kinds]
        kinds = sorted({(sab, form.name) for sab, form in forms})
        position = {kind: place for place, kind in enumerate(kinds)}
        new = np.array([position[sab, form.name] for sab, form in forms], dtype=np.uint64)
        flipped = np.array([form.flipped for _, form in forms])
        symmetric = np.array([form.symmetric for _, form in forms])
        keys = np.concatenate(self._parts)
        self._parts.clear()
        for start in range(0, len(keys), _AT_A_TIME):
            kind, head, tail = self._unpacked(keys[start : start + _AT_A_TIME])
            swap = np.where(symmetric[kind], head > tail, flipped[kind])
            ends = np.where(swap, tail, head), np.where(swap, head, tail)
            keys[start : start + _AT_A_TIME] = self._packed(new[kind], *ends)
        return keys, kinds

    def table(self, keys: Keys, kinds: list[tuple[int, str]]) -> tuple[pl.DataFrame, pl.Series]:
        """Columns graph, head, relation, tail of some facts; and the relation names, sorted."""
        relations = sorted({relation for _, relation in kinds})
        graph = np.array([sab for sab, _ in kinds] or [0], dtype=np.uint16)
        place = {name: number for number, name in enumerate(relations)}
        relation = np.array([place[name] for _, name in kinds] or [0], dtype=np.uint16)
        kind, head, tail = self._unpacked(keys)
        frame = pl.DataFrame(
            {"graph": graph[kind], "head": self._cuis[head], "relation": relation[kind], "tail": self._cuis[tail]}
        )
        return frame, pl.Series("relation", relations, dtype=pl.String)

    def _kind(self, sab: int, relation: str) -> int:
        number = self.kinds.setdefault((sab, relation), len(self.kinds))
        if number >= self._most_kinds:
            raise InputError(f"more than {self._most_kinds} pairs of vocabulary and relation")
        return number

    def _packed(self, kind: Keys, head: Keys, tail: Keys) -> Keys:
        return (kind << self._kind_bits) | (head << self._bits) | tail

    def _unpacked(self, keys: Keys) -> tuple[Keys, Keys, Keys]:
        return keys >> self._kind_bits, (keys >> self._bits) & self._end, keys & self._end


def read_edges(
    rrf: RrfRelease,
    log: IngestLog,
    vocabularies: Vocabularies,
    concepts: tuple[BoolArray, BoolArray],
    policy: RelationPolicy,
    cui_of_aui: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.Series]:
    """Distinct facts between kept concepts.

    Args:
        rrf: The release.
        log: Counts.
        vocabularies: Which vocabularies are wanted.
        concepts: CUIs in MRCONSO, and those that are kept: bool [NUM_CUIS] each.
        policy: Which rows become edges.
        cui_of_aui: CUI of each atom, for MRHIER.

    Returns:
        Columns graph (a vocabulary's number), head, relation (a position in the second result), tail (CUI numbers),
        sorted; and the relation names, sorted.
    """
    facts = _Facts(concepts[1])
    if policy.kinds != "none" and rrf.has("MRREL"):
        for rows in rrf.batches("MRREL", _COLUMNS):
            _add_relations(facts, rows, (rrf, log), vocabularies, concepts, policy)
    if policy.hierarchies and cui_of_aui is not None and rrf.has("MRHIER"):
        for rows in rrf.batches("MRHIER", ("AUI", "PAUI", "SAB", "RELA")):
            _add_hierarchy(facts, rows, (rrf, log), vocabularies, cui_of_aui)
    names = RelationNames(_documented_inverses(rrf), facts.asserted)
    keys, kinds = facts.canonical(names)
    count = len(keys)
    keys = _distinct(keys)
    log.skip("MRREL", "same fact from its other side, or twice", count - len(keys))
    return facts.table(keys, kinds)


def _add_relations(
    facts: _Facts,
    rows: pl.DataFrame,
    source: tuple[RrfRelease, IngestLog],
    vocabularies: Vocabularies,
    concepts: tuple[BoolArray, BoolArray],
    policy: RelationPolicy,
) -> None:
    rrf, log = source
    rel = pl.col("REL").replace_strict(_rel_names(policy), default=None, return_dtype=pl.String)
    relation = pl.when(pl.col("RELA") != "").then("RELA").otherwise(rel)
    rows = rows.with_columns(head=cui_number("CUI2"), tail=cui_number("CUI1"), relation=relation)
    place = ("MRREL", rrf.place("MRREL"))
    rows = kept_rows(rows, _rules(rows, vocabularies, concepts, policy), place, log)
    asserted = rows.filter(pl.col("DIR") == "Y").group_by("relation").len()
    facts.asserted.update(dict(asserted.iter_rows()))
    if policy.kinds == "hierarchy":
        rows = kept_rows(rows, [Rule("not a relation of the hierarchy", ~_in_hierarchy())], place, log)
    facts.add(rows, vocabularies)


def _rules(
    rows: pl.DataFrame, vocabularies: Vocabularies, concepts: tuple[BoolArray, BoolArray], policy: RelationPolicy
) -> list[Rule]:
    present, kept = concepts
    head, tail = pl.col("head"), pl.col("tail")
    unwanted = vocabularies.not_kept(rows["SAB"])
    rules = [
        Rule("CUI1 is not C and seven digits", tail.is_null(), defect="CUI1"),
        Rule("CUI2 is not C and seven digits", head.is_null(), defect="CUI2"),
    ]
    if not policy.suppressed:
        rules.append(Rule("suppressed", pl.col("SUPPRESS").is_in(SUPPRESSED)))
    not_used = {} if policy.kinds == "all" else REL_NOT_USED
    rules += [Rule(f"REL={rel}: {why}", pl.col("REL") == rel) for rel, why in not_used.items()]
    rules += [
        Rule("both ends are one concept", head == tail),
        Rule("CUI1 is not in MRCONSO", ~is_in(tail, present), defect="CUI1"),
        Rule("CUI2 is not in MRCONSO", ~is_in(head, present), defect="CUI2"),
        Rule("an end is not kept", ~(is_in(head, kept) & is_in(tail, kept))),
        Rule("vocabulary not kept", pl.col("SAB").is_in(unwanted)),
        Rule("REL=SY without RELA: synonymy of a source", (pl.col("REL") == "SY") & (pl.col("RELA") == "")),
        Rule("no RELA and no rule for REL", pl.col("relation").is_null(), defect="REL"),
    ]
    return rules


def _rel_names(policy: RelationPolicy) -> dict[str, str]:
    """What an empty RELA means; with all kinds of rows, the ones that are otherwise left out have names too."""
    extra = {"SIB": "sibling_of", "AQ": "allowed_qualifier_of", "QB": "qualified_by"} if policy.kinds == "all" else {}
    return REL_WITHOUT_RELA | extra


def _in_hierarchy() -> pl.Expr:
    sides = [*_HIERARCHY, "inverse_isa", "has_part", "inverse_part_of"]
    return pl.col("relation").is_in(sides)


def _add_hierarchy(
    facts: _Facts,
    rows: pl.DataFrame,
    source: tuple[RrfRelease, IngestLog],
    vocabularies: Vocabularies,
    cui_of_aui: pl.DataFrame,
) -> None:
    """A row of MRHIER: the atom's concept RELA (is-a where it is empty) the parent atom's concept."""
    rrf, log = source
    for column, end in (("AUI", "head"), ("PAUI", "tail")):
        number = pl.col(column).str.slice(1).cast(pl.Int64, strict=False)
        rows = rows.with_columns(aui=number).join(cui_of_aui, on="aui", how="left", maintain_order="left")
        rows = rows.drop("aui").rename({"cui": end})
    unwanted = vocabularies.not_kept(rows["SAB"])
    rules = [
        Rule("root of its vocabulary", pl.col("PAUI") == ""),
        Rule("vocabulary not kept", pl.col("SAB").is_in(unwanted)),
        Rule("an atom is not kept", pl.col("head").is_null() | pl.col("tail").is_null()),
        Rule("both ends are one concept", pl.col("head") == pl.col("tail")),
    ]
    rows = kept_rows(rows, rules, ("MRHIER", rrf.place("MRHIER")), log)
    facts.add(
        rows.with_columns(relation=pl.when(pl.col("RELA") != "").then("RELA").otherwise(pl.lit("isa"))), vocabularies
    )


def _distinct(keys: Keys) -> Keys:
    keys.sort()
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def _documented_inverses(rrf: RrfRelease) -> dict[str, str]:
    if not rrf.has("MRDOC"):
        return {}
    rows = rrf.read("MRDOC", ["VALUE", "TYPE", "EXPL"]).filter(
        (pl.col("TYPE") == "rela_inverse") & (pl.col("VALUE") != "") & (pl.col("EXPL") != "")
    )
    return dict(rows.select("VALUE", "EXPL").iter_rows())
