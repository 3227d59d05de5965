"""One score from vectors and letters, and the best of many scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Fusion:
    """Weights of a score; they sum to 1.

    Attributes:
        dense: Of the dense score (see `kgkit.search.vectors.OWN_SHARE`).
        names: Of the best name's n-gram cosine.
        coverage: Of the share of the query's n-grams that is found around the concept (see `LexicalScores`).
        breadth: Of the concept's breadth (see `kgkit.search.postings`). Of several concepts that a query fits alike,
            the broader is true of whatever was meant.
    """

    dense: float
    names: float
    coverage: float
    breadth: float

    def mix(self, dense: FloatArray, names: FloatArray, coverage: FloatArray, breadth: FloatArray) -> FloatArray:
        """The hybrid scores of some concepts, -1..1; all float32 [C]."""
        letters = self.names * names + self.coverage * coverage
        mixed: FloatArray = (self.dense * dense + letters + self.breadth * breadth).astype(np.float32)
        return mixed

    def letters(self, names: FloatArray, coverage: FloatArray, breadth: FloatArray) -> FloatArray:
        """The lexical scores of some concepts, 0..1; all float32 [C]."""
        return self.mix(np.zeros_like(names), names, coverage, breadth)


FUSION = Fusion(dense=0.57, names=0.03, coverage=0.35, breadth=0.05)
LETTERS = Fusion(dense=0.0, names=0.4, coverage=0.56, breadth=0.04)
"""Chosen on validation names and the training part of the NCBI disease corpus (docs/search.md)."""


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> IntArray:
    """Positions of the highest scores in falling order, ties by the lower position; all of them if there are fewer."""
    if len(scores) > count:
        bar = np.partition(scores, len(scores) - count)[len(scores) - count]
        found = np.flatnonzero(scores >= bar)
    else:
        found = np.arange(len(scores))
    return found[np.argsort(-scores[found], kind="stable")[:count]].astype(np.int64)
