"""One score from vectors and letters, and the best of many scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fusion:
    """Weights of the hybrid score; they sum to 1.

    Attributes:
        dense: Of the dense score (see `kgkit.search.vectors.OWN_SHARE`).
        names: Of the best name's n-gram cosine.
        coverage: Of the share of the query's n-grams that is found around the concept (see `LexicalScores`).
    """

    dense: float
    names: float
    coverage: float

    def mix(self, dense: FloatArray, names: FloatArray, coverage: FloatArray) -> FloatArray:
        """The hybrid scores of some concepts, -1..1; all float32 [C]."""
        mixed: FloatArray = (self.dense * dense + self.names * names + self.coverage * coverage).astype(np.float32)
        return mixed


FUSION = Fusion(dense=0.55, names=0.05, coverage=0.4)
"""Chosen on the validation names of two graphs (docs/search.md)."""


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.int64]:
    """Positions of the highest scores in falling order, ties by the lower position; all of them if there are fewer."""
    if len(scores) > count:
        bar = np.partition(scores, len(scores) - count)[len(scores) - count]
        found = np.flatnonzero(scores >= bar)
    else:
        found = np.arange(len(scores))
    return found[np.argsort(-scores[found], kind="stable")[:count]].astype(np.int64)
