"""RRF tables of any size in the proportions of a UMLS release, with every string made up.

    python benchmarks/generate_rrf.py FOLDER --share 0.01 [--seed 0] [--gzip]

Writes FOLDER/META with MRCONSO, MRREL, MRDEF, MRSTY, MRSAB, MRRANK, MRDOC, MRCUI and MRFILES. A share of 1 is a full
release: 3.4 million concepts, 17 million MRCONSO rows, 90 million MRREL rows (each fact from both sides). The same
share and seed give the same bytes. Proportions: published MRFILES and statistics of releases 2017AA to 2026AA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from rrf_columns import CHUNK_ROWS, Ints, TableWriter, chunks, drawn, either, joined, numbered, picked
from rrf_vocabulary import LANGUAGES, Relations, Sources, Words, relations, sources, words, zipf

from kgkit.progress import progress
from kgkit.resources import resource
from kgkit.sources.rrf import COLUMNS

CONCEPTS, ATOMS, FACTS, DEFINITIONS, RETIRED = 3_400_000, 17_000_000, 45_000_000, 500_000, 2_700_000
"""Rows of a full release; a fact is two rows of MRREL."""

SUPPRESS = pl.Series(["N", "O", "Y", "E"])
KINDS = pl.DataFrame(
    {
        "forward": ["CHD", "SIB", "RO", "RN", "SY", "QB", "RQ"],
        "backward": ["PAR", "SIB", "RO", "RB", "SY", "AQ", "RQ"],
        "share": [0.22, 0.17, 0.44, 0.075, 0.045, 0.03, 0.02],
    }
)
HIERARCHY, SIBLING, OTHER, NARROWER, SYNONYM, QUALIFIER, POSSIBLE = range(len(KINDS))


@dataclass(frozen=True)
class World:
    """What all tables share.

    Attributes:
        seed: Seed of everything.
        share: Part of a full release.
        cuis: CUIs of the concepts, ascending; behind them CUIs that no concept has (any more).
        concepts: How many of them are concepts; the first are those of SRC.
        first_atom: Number of the first atom of each concept, and behind the last.
        sources: The vocabularies.
        relations: The relations.
        words: The words.
    """

    seed: int
    share: float
    cuis: pl.Series
    concepts: int
    first_atom: Ints
    sources: Sources
    relations: Relations
    words: Words

    def rng(self, table: int, chunk: int = 0) -> np.random.Generator:
        """A generator of its own for each chunk of each table."""
        return np.random.default_rng([self.seed, table, chunk])


def make_world(share: float, seed: int) -> World:
    """Concepts with their CUIs and numbers of atoms."""
    rng = np.random.default_rng([seed, 0])
    concepts = max(1000, round(CONCEPTS * share))
    gaps = rng.choice([1, 2, 3], concepts, p=[0.5, 0.25, 0.25])
    numbers = 4 + np.cumsum(gaps)
    absent = np.setdiff1d(np.arange(5, numbers[-1]), numbers)
    atoms = np.floor(rng.lognormal(1.0, 1.0, concepts)).astype(np.int64) + 1
    first_atom = np.concatenate([[0], np.cumsum(atoms)])
    first_atom = (first_atom * (max(ATOMS * share, 5000) / first_atom[-1])).astype(np.int64)
    first_atom = np.maximum.accumulate(np.maximum(first_atom, np.arange(concepts + 1)))  # at least one atom each
    cuis = numbered("C", np.concatenate([numbers, absent]))
    return World(seed, share, cuis, concepts, first_atom, sources(rng), relations(rng), words(rng))


def names_of(world: World, rng: np.random.Generator, concept: Ints, language: Ints) -> pl.Series:
    """Names of one to six words; the atoms of a concept share some of them."""
    count = rng.integers(1, 7, concept.size)
    start, size = world.words.start[language], world.words.count[language]
    parts = []
    for slot in range(6):
        own = rng.integers(0, 1 << 30, concept.size)
        shared = (concept * 2_654_435_761 + slot * 40_503) % (1 << 30)
        index = start + np.where((slot < 3) & (rng.random(concept.size) < 0.7), shared, own) % size
        word = world.words.text.gather(index)
        parts.append(word.str.to_titlecase() if slot == 0 else either(count > slot, joined(" ", word)))
    parts.append(picked(world.words.endings, rng, concept.size, world.words.ending_share))
    return joined(*parts)


def write_atoms(world: World, writer: TableWriter) -> None:
    """MRCONSO, sorted by CUI; one atom of a concept and language is marked as the preferred one."""
    known = world.sources
    step = max(1, CHUNK_ROWS * world.concepts // int(world.first_atom[-1]))
    with progress("MRCONSO", int(world.first_atom[-1]), "rows") as bar:
        for number, start, end in chunks(world.concepts, step):
            rng = world.rng(1, number)
            concept = np.repeat(np.arange(start, end), np.diff(world.first_atom[start : end + 1]))
            atom = np.arange(world.first_atom[start], world.first_atom[end])
            is_first = atom == world.first_atom[concept]
            is_english = rng.random(concept.size) < np.where(is_first, 0.97, 0.58)
            source = np.where(is_english, drawn(rng, concept.size, known.share[0]),
                              drawn(rng, concept.size, known.share[1]))  # fmt: skip
            source[is_first & (concept < 2 * len(known.names))] = 0
            source = source[np.lexsort((known.languages[source], concept))]
            language = known.languages[source]
            is_best = np.diff(concept * len(LANGUAGES) + language, prepend=-1) != 0
            is_variant = ~is_best & (rng.random(concept.size) < 0.25)
            tty = known.ttys[source, rng.integers(0, 60, concept.size) % known.tty_count[source]]
            tty[source == 0] = len(known.tty_names) - 1
            code = either((source != 1) | (rng.random(concept.size) < 0.5),
                         numbered("D", concept * 7 + source, 6), "NOCODE")  # fmt: skip
            sui = numbered("S", atom * 3 // 2 + 1)
            writer.write(
                {
                    "CUI": world.cuis.gather(concept), "LAT": pl.Series(LANGUAGES).gather(language),
                    "TS": either(is_best | is_variant, "P", "S"),
                    "LUI": numbered("L", atom * 4 // 5 + 1), "SUI": sui, "AUI": numbered("A", atom + 1),
                    "STT": either(is_variant, picked(pl.Series(["VO", "VC", "VW", "VCW"]), rng, concept.size,
                                                    [0.5, 0.2, 0.2, 0.1]), "PF"),
                    "ISPREF": either(is_best | (rng.random(concept.size) < 0.3),
                                    "Y", "N"),
                    "SAUI": either(source % 3 == 0, numbered("", atom + 10**6)), "SCUI": either(source % 2 == 0, code),
                    "SDUI": either(source % 5 == 3, code), "SAB": known.names.gather(source),
                    "TTY": known.tty_names.gather(tty), "CODE": code, "STR": names_of(world, rng, concept, language),
                    "SRL": pl.Series(known.levels).cast(pl.String).gather(source),
                    "SUPPRESS": picked(SUPPRESS, rng, concept.size, [0.85, 0.1, 0.045, 0.005]),
                    "CVF": either(rng.random(concept.size) < 0.2, "256"),
                }
            )  # fmt: skip
            bar.advance(concept.size)


@dataclass(frozen=True)
class Facts:
    """Facts as positions in the CUIs, in KINDS, in the relations and in the vocabularies."""

    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int8]
    relation: npt.NDArray[np.int16]
    source: npt.NDArray[np.int16]


def make_facts(world: World) -> Facts:
    """Facts with the flaws of real ones: hubs, loops, cycles, parallel facts, ends that are no concepts."""
    total = round(FACTS * world.share)
    made = [_some_facts(world, world.rng(2, number), end - start) for number, start, end in chunks(total)]
    return Facts(*(np.concatenate([getattr(part, name) for part in made]) for name in Facts.__dataclass_fields__))


def _some_facts(world: World, rng: np.random.Generator, count: int) -> Facts:
    concepts, known = world.concepts, world.sources
    kind = drawn(rng, count, KINDS["share"])
    head = rng.integers(0, concepts, count)
    skewed = (concepts * rng.random(count) ** 3).astype(np.int64) * 1_000_003 % concepts
    tail = np.select(
        [kind == HIERARCHY, kind == SIBLING, kind == SYNONYM, kind == QUALIFIER],
        [(head * rng.random(count) ** 2).astype(np.int64), (head + rng.integers(1, 50, count)) % concepts,
         np.where(rng.random(count) < 0.8, head, (head + 1) % concepts), rng.integers(0, 100, count) % concepts],
        skewed,
    )  # fmt: skip
    chance = rng.random(count)
    is_hub = (kind == HIERARCHY) & (chance < 0.02)
    tail[is_hub] = rng.integers(0, 2 * len(known.names), int(is_hub.sum())) % concepts
    is_turned = (kind == HIERARCHY) & (chance > 0.9995)  # closes cycles
    head[is_turned], tail[is_turned] = tail[is_turned], head[is_turned]
    is_absent = (chance > 0.5) & (chance < 0.515)
    tail[is_absent] = rng.integers(concepts, len(world.cuis), int(is_absent.sum()))
    free = drawn(rng, count, world.relations.share)
    often = rng.random(count)
    relation = np.select(
        [kind == HIERARCHY, kind == OTHER, kind == NARROWER, kind == SYNONYM, kind == POSSIBLE],
        [np.select([often < 0.6, often < 0.65], [1, 2], 0), free, np.where(often < 0.5, 3, 0),
         np.where(often < 0.7, free, 0), np.where(often < 0.4, free, 0)], 0,
    )  # fmt: skip
    # A relation beyond the common ones is one or two vocabularies' own, so pairs of both stay in the thousands.
    homes = drawn(world.rng(21), 2 * len(world.relations.forward), known.share[0])
    source = np.where(relation > 4, homes[2 * relation + (often < 0.2)], drawn(rng, count, known.share[0]))
    copies = count // 12  # the same facts again, by other vocabularies
    for column in (head, tail, kind, relation):
        column[count - copies :] = column[:copies]
    return Facts(head.astype(np.int32), tail.astype(np.int32), kind.astype(np.int8), relation.astype(np.int16),
                 source.astype(np.int16))  # fmt: skip


def write_relations(world: World, writer: TableWriter) -> None:
    """MRREL, sorted by CUI1: every fact from both its sides. A row reads CUI2 RELA CUI1."""
    facts, known = make_facts(world), world.sources
    count = facts.head.size
    place = world.cuis.rank("ordinal").to_numpy()
    order = np.argsort(place[np.concatenate([facts.tail, facts.head])], kind="stable")
    with progress("MRREL", 2 * count, "rows") as bar:
        for number, start, end in chunks(2 * count):
            rng, size = world.rng(3, number), end - start
            fact, is_back = order[start:end] % count, order[start:end] >= count
            ends = facts.tail[fact], facts.head[fact]
            one, two = np.where(is_back, ends[1], ends[0]), np.where(is_back, ends[0], ends[1])
            kind, relation, source = facts.kind[fact], facts.relation[fact], facts.source[fact].astype(np.int64)
            states, style = known.states_direction[source], source % 3
            styles = pl.Series(["SCUI", "AUI", "SDUI"]).gather(style)
            names = known.names.gather(source)
            writer.write(
                {
                    "CUI1": world.cuis.gather(one), "AUI1": _atom_of(world, one), "STYPE1": styles,
                    "REL": either(is_back, KINDS["backward"].gather(kind), KINDS["forward"].gather(kind)),
                    "CUI2": world.cuis.gather(two), "AUI2": _atom_of(world, two), "STYPE2": styles,
                    "RELA": either(is_back, world.relations.backward.gather(relation),
                                    world.relations.forward.gather(relation)),
                    "RUI": numbered("R", order[start:end] + 10**7, 8),
                    "SRUI": either(states, numbered("", fact + 10**9)), "SAB": names, "SL": names,
                    "RG": either(states, picked(pl.Series(["0", "1", "2"]), rng, size, [0.7, 0.25, 0.05])),
                    "DIR": either(states, either(is_back, "N",
                                                 "Y")),
                    "SUPPRESS": picked(SUPPRESS, rng, size, [0.92, 0.06, 0.015, 0.005]),
                }
            )  # fmt: skip
            bar.advance(size)


def _atom_of(world: World, concept: Ints) -> pl.Series:
    """An atom of each concept; none for a CUI that is no concept."""
    first = world.first_atom[np.minimum(concept, world.concepts - 1)]
    return either(concept < world.concepts, numbered("A", first + 1))


def write_types(world: World, writer: TableWriter) -> None:
    """MRSTY: one or two semantic types a concept."""
    rng = world.rng(4)
    types = pl.read_csv(resource("ontologies/semantic_groups.txt"), separator="\t", quote_char=None)
    concept = np.repeat(np.arange(world.concepts), 1 + (rng.random(world.concepts) < 0.06))
    kind = rng.permutation(len(types))[drawn(rng, concept.size, zipf(len(types), 0.8))]
    kind[1:][(concept[1:] == concept[:-1]) & (kind[1:] == kind[:-1])] += 1
    kind %= len(types)
    for _, start, end in chunks(concept.size):
        writer.write(
            {
                "CUI": world.cuis.gather(concept[start:end]), "TUI": types["TUI"].gather(kind[start:end]),
                "STN": joined(numbered("A", kind[start:end] % 9, 1), numbered(".", kind[start:end] % 7, 1)),
                "STY": types["name"].gather(kind[start:end]), "ATUI": numbered("AT", np.arange(start, end), 8),
                "CVF": "256",
            }
        )  # fmt: skip


def write_definitions(world: World, writer: TableWriter) -> None:
    """MRDEF: texts of 10 to 60 words for a few percent of the concepts."""
    rng = world.rng(5)
    total = round(DEFINITIONS * world.share)
    defined = np.sort(rng.choice(world.concepts, max(1, total // 2), replace=False))
    concept = np.sort(rng.choice(defined, total))
    english = world.words.text.slice(0, int(world.words.count[0]))
    for number, start, end in chunks(total, 50_000):
        rng, size = world.rng(6, number), end - start
        source = drawn(rng, size, world.sources.share[0])
        text = english.gather(rng.integers(0, len(english), size * 60)).reshape((size, 60)).arr.to_list()
        length = pl.Series(rng.integers(10, 61, size))
        text = pl.select(pl.lit(text).list.head(pl.lit(length)).list.join(" ")).to_series()
        writer.write(
            {
                "CUI": world.cuis.gather(concept[start:end]), "AUI": _atom_of(world, concept[start:end]),
                "ATUI": numbered("AT", np.arange(start, end) + 10**8), "SAB": world.sources.names.gather(source),
                "DEF": joined(text, ', or "so".'), "SUPPRESS": picked(SUPPRESS, rng, size, [0.97, 0.02, 0.005, 0.005]),
            }
        )  # fmt: skip


def write_retired(world: World, writer: TableWriter) -> None:
    """MRCUI: CUIs that were deleted, merged (also in chains) or split."""
    rng = world.rng(7)
    absent = np.arange(world.concepts, len(world.cuis))
    total = round(RETIRED * world.share)
    retired = np.sort(rng.choice(absent, min(absent.size, max(1, total * 4 // 5)), replace=False))
    one = np.sort(np.concatenate([retired, rng.choice(retired, max(0, total - retired.size))]))
    is_split = np.isin(one, one[1:][one[1:] == one[:-1]])
    rel = np.where(is_split, drawn(rng, one.size, [0, 0, 0.3, 0.3, 0.4]), drawn(rng, one.size, [0.7, 0.2, 0, 0, 0.1]))
    two = np.where(
        rng.random(one.size) < 0.03, rng.choice(retired, one.size), rng.integers(0, world.concepts, one.size)
    )
    versions = pl.Series([f"{year}{half}" for year in range(1993, 2026) for half in ("AA", "AB")])
    for _, start, end in chunks(one.size):
        kind = rel[start:end]
        writer.write(
            {
                "CUI1": world.cuis.gather(one[start:end]), "VER": versions.gather(one[start:end] % len(versions)),
                "REL": pl.Series(["SY", "DEL", "RB", "RN", "RO"]).gather(kind),
                "CUI2": either(kind != 1, world.cuis.gather(two[start:end])),
                "MAPIN": either(kind != 1, "Y"),
            }
        )  # fmt: skip


def write_vocabularies(world: World, writer: TableWriter) -> None:
    """MRSAB: the current version of each vocabulary, and an old one of a few."""
    known = world.sources
    count = len(known.names)
    rows = np.concatenate([np.arange(count), [2, 3]])
    names = known.names.gather(rows)
    current = pl.Series(["Y"] * count + ["N"] * 2)
    version = pl.Series(["2026_01"] * count + ["2019_01"] * 2)
    writer.write(
        {
            "VCUI": numbered("C", rows + 8_000_000), "RCUI": numbered("C", rows + 8_100_000), "RSAB": names,
            "VSAB": joined(names, "_", version), "SVER": version, "SF": names,
            "SON": joined("Generated vocabulary ", names), "SRL": pl.Series(known.levels).cast(pl.String).gather(rows),
            "LAT": pl.Series(LANGUAGES).gather(known.languages[rows]), "CENC": "UTF-8", "CURVER": current,
            "SABIN": current, "SSN": names,
        }
    )  # fmt: skip


def write_ranks(world: World, writer: TableWriter) -> None:
    """MRRANK: a rank for every vocabulary and its term types."""
    known = world.sources
    used = zip(known.names, known.ttys, known.tty_count, strict=True)
    kinds = [(sab, str(known.tty_names[int(tty)])) for sab, ttys, count in used for tty in ttys[:count]]
    rows = pl.DataFrame([("SRC", "RPT"), *kinds], schema=["SAB", "TTY"], orient="row")
    rows = rows.with_columns(SUPPRESS=pl.lit("N")).sample(fraction=1, shuffle=True, seed=world.seed)
    writer.write({"RANK": numbered("", np.arange(len(rows), 0, -1), 4), **{name: rows[name] for name in rows.columns}})


def write_documentation(world: World, writer: TableWriter) -> None:
    """MRDOC: expanded forms and inverses of all values of REL and RELA."""
    pairs = [("REL", "rel", one, other) for one, other, _ in KINDS.iter_rows()]
    pairs += [("RELA", "rela", one, other) for one, other in
              zip(world.relations.forward[1:], world.relations.backward[1:], strict=True)]  # fmt: skip
    rows = {}
    for key, kind, one, other in pairs:
        for name, inverse in ((one, other), (other, one)):
            rows[key, name, "expanded_form"] = f"Expanded {name.replace('_', ' ')}"
            rows[key, name, f"{kind}_inverse"] = inverse
    columns = zip(*((*place, value) for place, value in sorted(rows.items())), strict=True)
    writer.write({name: pl.Series(values) for name, values in zip(COLUMNS["MRDOC"].split(), columns, strict=True)})


def write_files(writer: TableWriter, written: list[TableWriter]) -> None:
    """MRFILES: rows and bytes of the other tables."""
    columns = [COLUMNS[table.table].split() for table in written]
    writer.write(
        {
            "FIL": pl.Series([f"{table.table}.RRF" for table in written]), "DES": "Generated",
            "FMT": pl.Series([",".join(names) for names in columns]), "CLS": pl.Series([str(len(n)) for n in columns]),
            "RWS": pl.Series([str(table.rows) for table in written]),
            "BTS": pl.Series([str(table.size) for table in written]),
        }
    )  # fmt: skip


WRITERS: Mapping[str, Callable[[World, TableWriter], None]] = {
    "MRSAB": write_vocabularies, "MRRANK": write_ranks, "MRDOC": write_documentation, "MRSTY": write_types,
    "MRDEF": write_definitions, "MRCUI": write_retired, "MRCONSO": write_atoms, "MRREL": write_relations,
}  # fmt: skip


def generate(folder: Path, share: float, seed: int, gzipped: bool) -> list[TableWriter]:
    """Write all tables; returns their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(share, seed)
    written = []
    for table, write in WRITERS.items():
        writer = TableWriter(folder, table, gzipped)
        write(world, writer)
        writer.close()
        written.append(writer)
    writer = TableWriter(folder, "MRFILES", gzipped)
    write_files(writer, written)
    writer.close()
    return [*written, writer]


def main() -> None:
    """Read the options, generate, print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.01, help="part of a full release (default 0.01)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gzip", action="store_true", help="write .RRF.gz")
    options = parser.parse_args()
    begin = time.perf_counter()
    for table in generate(options.folder / "META", options.share, options.seed, options.gzip):
        print(f"{table.table:8} {table.rows:12,} rows {table.size:15,} bytes")
    print(f"{time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
