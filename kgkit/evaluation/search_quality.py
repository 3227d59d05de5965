"""Concept search on held-out names: both sides of it and each alone, as the names stand and with typos."""

from __future__ import annotations

import random
import string
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.arrays import DoubleArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.names import normalise
from kgkit.evaluation.held_out_files import read_held_out_names
from kgkit.evaluation.outcomes import Answer, rank_outcomes
from kgkit.evaluation.retrieval import NO_TEXT
from kgkit.progress import progress
from kgkit.search.build import build_index
from kgkit.search.concept_search import LEXICAL, LONGEST_QUERY, MODES, ConceptSearch, open_search
from kgkit.types import SearchHit

DEPTH = 100
"""Hits that are looked at; a concept that is not among them counts as not found."""
WRITTEN, TYPOS = "written", "typos"
TYPO_QUERIES, MOST_VARIANTS = 3_000, 5
"""Of few names each is asked with several typos, until there are so many queries: which typo it is makes much noise."""
_HITS = (1, 5, 10)
_QUERIES = 64
_FEWEST_LETTERS = 5
_EDITS = ("left out", "doubled", "replaced", "swapped")


def search_quality(folder: Path, modes: Sequence[str] = MODES, part: str = "test") -> dict[str, Answer]:
    """Search for the names that were held out, in an index without them.

    Args:
        folder: ENCODER.
        modes: Which modes of search (`hybrid`, `dense`, `lexical`).
        part: Which held-out names: `test`, `inductive` (of concepts that training never saw), or `valid`, on which the
            weights of the hybrid score were chosen.

    Returns:
        An answer for each mode, with the parts `written` and `typos` (see `with_typos`; up to MOST_VARIANTS of
        each name, as `typos_per_name` says). The resampled unit is the name. `mrr` counts a concept beyond the first
        100 as not found; ties share the mean of their ranks.

    Raises:
        InputError: if the folder is no encoder or does not say what was held out.
    """
    encoder = load_encoder(folder)
    table = read_held_out_names(folder).filter(pl.col("part") == part)
    names = table["name"].to_list()
    ids = [frozenset(encoder.concepts[row] for row in rows) for rows in table["concepts"].to_list()]
    if not names:
        return {mode: Answer(cannot="nothing was held out", candidates=encoder.concepts) for mode in modes}
    labels = [f"{name} -> {' '.join(sorted(own))}" for name, own in zip(names, ids, strict=True)]
    variants = min(MOST_VARIANTS, -(-TYPO_QUERIES // len(names)))
    asked = {WRITTEN: names, TYPOS: [with_typos(name, seed) for seed in range(variants) for name in names]}
    with search_index(folder, seen_names(encoder)) as search:
        about = {"part": part, "num_candidates": search.num_concepts, "depth": DEPTH, "ties": "realistic",
                 "typos_per_name": variants}  # fmt: skip
        answers = {}
        for mode in modes:
            if mode != LEXICAL and not encoder.reads_text:
                answers[mode] = Answer(cannot=NO_TEXT, candidates=encoder.concepts)
                continue
            parts = {}
            for each, texts in asked.items():
                times = len(texts) // len(names)
                ranks = searched_ranks(search, mode, texts, ids * times)
                parts[each] = rank_outcomes(labels * times, ranks, _HITS, np.tile(np.arange(len(names)), times))
            answers[mode] = Answer(parts, about, (), encoder.concepts)
    return answers


@contextmanager
def search_index(folder: Path, names: pl.DataFrame | None = None) -> Iterator[ConceptSearch]:
    """A search index made for a measurement and removed after it; that of the folder, if there is one, stays.

    Args:
        folder: ENCODER.
        names: Rows of the encoder's names that may be searched; all of them if not given.
    """
    with tempfile.TemporaryDirectory() as scratch:
        build_index(folder, names=names, out=Path(scratch) / "index")
        yield open_search(folder, Path(scratch) / "index")


def searched_ranks(
    search: ConceptSearch, mode: str, texts: Sequence[str], right: Sequence[frozenset[str]]
) -> DoubleArray:
    """Rank of the best right concept of each query among the first 100 hits.

    Args:
        search: An opened index.
        mode: One of its modes.
        texts: Queries; of a very long one the beginning is searched.
        right: Ids of the concepts that each stands for.

    Returns:
        float64 [Q], 1-based; ties share the mean of their ranks; infinite where none of them is found.
    """
    ranks: DoubleArray = np.full(len(texts), np.inf)
    with progress(f"{mode} search", len(texts), "queries") as report:
        for start in range(0, len(texts), _QUERIES):
            part = [text[:LONGEST_QUERY] for text in texts[start : start + _QUERIES]]
            for query, hits in enumerate(search.search(part, DEPTH, mode=mode), start):
                ranks[query] = _rank(hits, right[query])
            report.advance(len(part))
    return ranks


def seen_names(encoder: ConceptEncoder) -> pl.DataFrame:
    """The names of an encoder but for those that are written like a held-out one, whatever concept they belong to.

    Raises:
        InputError: if the encoder does not say what was held out.
    """
    held_out = {normalise(name) for name in read_held_out_names(encoder.folder)["name"].to_list()}
    names = encoder.names["name"]
    seen = [name for name in names.unique().to_list() if normalise(name) not in held_out]
    return encoder.names.filter(names.is_in(pl.Series(seen, dtype=pl.String).implode()))


def with_typos(text: str, seed: int = 0) -> str:
    """A text with one typo in every word of five letters or more.

    A letter is left out, doubled, replaced by another, or swapped with the next; which one and how depends on the text
    and the seed alone.

    >>> with_typos("fluid in the lung") != "fluid in the lung"
    True
    """
    generator = random.Random(f"{seed} {text}")  # noqa: S311 - not a secret
    return " ".join(_typo(word, generator) for word in text.split(" "))


def _typo(word: str, generator: random.Random) -> str:
    letters = [place for place, letter in enumerate(word) if letter.isalpha()]
    if len(letters) < _FEWEST_LETTERS:
        return word
    at, edit = generator.choice(letters), generator.choice(_EDITS)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    if edit == "swapped" and after and after[0] != letter:
        return before + after[0] + letter + after[1:]
    if edit == "left out":
        return before + after
    if edit == "doubled":
        return before + letter + letter + after
    return before + generator.choice([other for other in string.ascii_lowercase if other != letter.lower()]) + after


def _rank(hits: Sequence[SearchHit], right: frozenset[str]) -> float:
    """Rank of the best right concept, 1-based; infinite if it is not among the hits."""
    own = max((hit.score for hit in hits if hit.concept in right), default=None)
    if own is None:
        return float("inf")
    others = [hit.score for hit in hits if hit.concept not in right]
    return 1 + sum(score > own for score in others) + sum(score == own for score in others) / 2
