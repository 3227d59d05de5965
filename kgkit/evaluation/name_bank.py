"""Ranking concepts by texts, scored as concept search does: by the best of their names, and a little by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from kgkit.arrays import DoubleArray, FloatArray, IntArray
from kgkit.encoder.artifact import ConceptEncoder
from kgkit.encoder.names import normalise
from kgkit.evaluation.held_out_files import read_held_out_names
from kgkit.progress import progress
from kgkit.ranking import filtered_ranks
from kgkit.search.vectors import VectorTable

FillScores = Callable[[int, int, FloatArray], None]
"""(first, stop, out): write the scores of queries first..stop against every concept into out, float32 [Q, N]."""

_SCORES = 1 << 23  # scores held at once (32 MB)
_BLOCK_ROWS = 1 << 14
_QUERIES = 512
_TEXTS = 1024
_STEPS = np.float32(1 << 20)
"""Cosines are told apart to a millionth: what equal names differ by in a matrix product must not break their tie."""


@dataclass(frozen=True)
class NameBank:
    """The rows that stand for each concept, concept after concept; every concept has at least one.

    Attributes:
        names: What each row says; the first row of a concept is its preferred name.
        vectors: int64 [P], row of each name's vector in `names` of vectors.safetensors; -1: the concept's own vector.
        starts: int64 [N + 1], where each concept's rows begin.
    """

    names: pl.Series
    vectors: IntArray
    starts: IntArray

    def owners(self) -> IntArray:
        """Concept row of each row; int64 [P]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True)
class TextQueries:
    """Texts and the concepts they stand for, as CSR.

    Attributes:
        texts: What is asked.
        starts: int64 [Q + 1].
        concepts: int64 [K], distinct within a query; at least one each. The best of them counts, the others are
            filtered.
    """

    texts: Sequence[str]
    starts: IntArray
    concepts: IntArray

    def split(self) -> list[IntArray]:
        """The concepts of each query."""
        return np.split(self.concepts, self.starts[1:-1])


def queries_of(texts: Sequence[str], concepts: Sequence[Sequence[int]]) -> TextQueries:
    """Queries from lists of concept rows."""
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in concepts])]).astype(np.int64)
    flat = np.array([row for rows in concepts for row in rows], dtype=np.int64)
    return TextQueries(texts, starts, flat)


def name_bank(encoder: ConceptEncoder, *, all_names: bool = False) -> NameBank:
    """The names an encoder may be searched by.

    Args:
        encoder: Opened ENCODER.
        all_names: Keep the names that were held out of training too; otherwise every name that is written like a
            query of ENCODER/evaluation/names.parquet (see `normalise`) is left out, whatever concept it belongs to.

    Raises:
        InputError: if the encoder does not say what was held out.
    """
    rows = pl.DataFrame({"concept": encoder.concepts}).with_row_index("row")
    own = rows.with_columns(encoder.table["name"], vector=pl.lit(-1, pl.Int64))
    others = encoder.names.select("concept", "name", "vector").join(rows, on="concept", maintain_order="left")
    if not all_names:
        held_out = {normalise(name) for name in read_held_out_names(encoder.folder)["name"].to_list()}
        strings = others.select(pl.col("name").unique())
        strings = strings.filter(~strings["name"].map_elements(lambda name: normalise(name) in held_out, pl.Boolean))
        others = others.join(strings, on="name", how="semi", maintain_order="left")
    others = others.unique(["row", "name"], keep="first", maintain_order=True)
    others = others.with_columns(pl.col("vector").fill_null(-1))  # without a text tower names have no vectors
    table = pl.concat([own.select("row", "name", "vector"), others.select("row", "name", "vector")])
    table = table.sort("row", maintain_order=True)
    counts = np.bincount(table["row"].to_numpy(), minlength=len(encoder.concepts))
    return NameBank(table["name"], table["vector"].to_numpy(), np.concatenate([[0], counts.cumsum()]).astype(np.int64))


def embed(encoder: ConceptEncoder, texts: Sequence[str], description: str) -> FloatArray:
    """Text vectors, float32 [len(texts), dim], with progress; equal texts are read once."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    vectors = np.empty((len(distinct), encoder.dim), dtype=np.float32)
    with progress(description, len(distinct), "texts") as report:
        for at in range(0, len(distinct), _TEXTS):
            part = distinct[at : at + _TEXTS]
            vectors[at : at + _TEXTS] = encoder.embed_text(part)
            report.advance(len(part))
    place = {text: row for row, text in enumerate(distinct)}
    return vectors[[place[text] for text in texts]]


def dense_scores(encoder: ConceptEncoder, bank: NameBank, queries: FloatArray) -> FillScores:
    """Scores of query vectors (float32 [Q, dim], unit rows) with the vectors of a bank, as concept search has them."""
    own = bank.owners()
    sources = np.where(bank.vectors < 0, own, len(encoder.concepts) + bank.vectors)
    table = VectorTable(encoder.vectors, encoder.name_vectors, {"entry.starts": bank.starts, "entry.sources": sources})

    def fill(first: int, stop: int, out: FloatArray) -> None:
        for low, high in concept_blocks(bank.starts):
            out[:, low:high] = table.score(np.arange(low, high), queries[first:stop]).scores.T

    return fill


def concept_blocks(starts: IntArray) -> list[tuple[int, int]]:
    """Ranges of concepts that have about 16,384 rows of a bank together."""
    blocks, low = [], 0
    while low < len(starts) - 1:
        high = int(np.searchsorted(starts, starts[low] + _BLOCK_ROWS, side="right")) - 1
        high = min(max(high, low + 1), len(starts) - 1)
        blocks.append((low, high))
        low = high
    return blocks


def retrieval_ranks(fill: FillScores, queries: TextQueries, num_concepts: int, description: str) -> DoubleArray:
    """Rank of the best right concept of each query among all concepts, the other right ones filtered; ties realistic.

    Concepts that share a name tie on it, and a tie is no hit at rank 1: who answers with two has not answered.

    Args:
        fill: Gives the scores, cosines.
        queries: With their right concepts.
        num_concepts: Every one is a candidate.
        description: For the progress.

    Returns:
        float64 [Q], 1-based.
    """
    count = len(queries.texts)
    ranks = np.empty(count)
    size = max(1, min(_QUERIES, _SCORES // num_concepts))
    scores = np.empty((min(size, count), num_concepts), dtype=np.float32)
    with progress(description, count, "queries") as report:
        for first in range(0, count, size):
            stop = min(first + size, count)
            part = scores[: stop - first]
            fill(first, stop, part)
            np.rint(np.multiply(part, _STEPS, out=part), out=part)
            starts = queries.starts[first : stop + 1] - queries.starts[first]
            right = queries.concepts[queries.starts[first] : queries.starts[stop]]
            positive = np.array([own[part[row, own].argmax()] for row, own in enumerate(np.split(right, starts[1:-1]))])
            ranks[first:stop] = filtered_ranks(part, positive, starts, right)
            report.advance(stop - first)
    return ranks
