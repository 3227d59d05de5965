"""Relatedness: cosines of label texts against doctors' ratings of the pairs (EHR-RelA: Schulz et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from kgkit.arrays import DoubleArray, IntArray
from kgkit.encoder.artifact import load_encoder
from kgkit.evaluation.lexical import lexical_cosines
from kgkit.evaluation.name_bank import embed
from kgkit.evaluation.outcomes import Answer, Columns, Outcomes
from kgkit.evaluation.retrieval import NO_TEXT
from kgkit.evaluation.tables import find_file, number, read_table

_COLUMNS = ("snomed_label_1", "snomed_label_2", "mean_rating")


def relatedness(folder: Path, data: Path) -> Answer:
    """Correlation of the cosine of two labels with the doctors' mean rating.

    Args:
        folder: ENCODER.
        data: Folder with EHR-RelA.tsv or another table with its columns (ratings from 0 to 3).

    Returns:
        One part, `pairs`, with `spearman` and `pearson`; the resampled unit is the pair.
    """
    pairs, encoder = _rated_pairs(data), load_encoder(folder)
    if not encoder.reads_text:
        return Answer(cannot=NO_TEXT)
    vectors = embed(encoder, [*pairs.first, *pairs.second], "labels to vectors").astype(np.float64)
    count = len(pairs.first)
    return pairs.answer((vectors[:count] * vectors[count:]).sum(axis=1))


def lexical_relatedness(folder: Path, data: Path) -> Answer:
    """As `relatedness`, by the character n-grams of the labels; how rare they are is said by the encoder's names."""
    pairs, encoder = _rated_pairs(data), load_encoder(folder)
    return pairs.answer(lexical_cosines(encoder.names["name"].unique().sort().to_list(), pairs.first, pairs.second))


@dataclass(frozen=True)
class _RatedPairs:
    file: str
    first: list[str]
    second: list[str]
    ratings: list[float]

    def answer(self, cosines: DoubleArray) -> Answer:
        columns = {"cosine": cosines, "rating": np.array(self.ratings)}
        labels = [f"{one} | {other}" for one, other in zip(self.first, self.second, strict=True)]
        outcomes = Outcomes(labels, columns, np.arange(len(labels)))
        return Answer({"pairs": outcomes}, {"file": self.file}, statistics={"pairs": correlations})


def _rated_pairs(data: Path) -> _RatedPairs:
    path = find_file(data, "*Rel*.tsv", "the set EHR-Rel")
    rows = read_table(path, _COLUMNS)
    ratings = [number(row["mean_rating"], "mean_rating", path, line) for line, row in enumerate(rows, start=2)]
    first, second = ([row[column] for row in rows] for column in _COLUMNS[:2])
    return _RatedPairs(path.name, first, second, ratings)


def correlations(columns: Columns, weights: IntArray) -> dict[str, float]:
    """Spearman's and Pearson's correlation of `cosine` with `rating`; NaN where one of them does not vary."""
    drawn = np.repeat(np.arange(len(weights)), weights)
    cosine, rating = columns["cosine"][drawn], columns["rating"][drawn]
    return {"spearman": _pearson(rankdata(cosine), rankdata(rating)), "pearson": _pearson(cosine, rating)}


def _pearson(first: DoubleArray, second: DoubleArray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm > 0 else float("nan")
