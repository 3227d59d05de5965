"""The vectors that stand for concepts, read from the encoder's own file as they are needed; exact cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.arrays import FloatArray, IntArray
from kgkit.search.layout import members_of

OWN_SHARE = 0.1
"""Part of a concept's dense score that is its own vector's; the rest is the best of it and its names' vectors. It tells
concepts apart that share a name. Chosen on validation names (docs/search.md)."""
_BLOCK_ROWS = 1 << 15


@dataclass(frozen=True)
class DenseScores:
    """Exact scores of some concepts (C) for some queries (Q).

    Attributes:
        concepts: int64 [C], rows, ascending.
        scores: float32 [C, Q].
    """

    concepts: IntArray
    scores: FloatArray


class VectorTable:
    """Vectors of concepts and of their names.

    A *source* is a number: a concept's row, or the number of concepts plus the row of a name vector.

    Args:
        concepts: float32 [N, dim], unit rows; may be a memory map.
        names: float32 [M, dim], unit rows; may be a memory map; M is 0 without a text tower.
        arrays: `entry.starts` int64 [N + 1]: the entries of each concept, one or more; `entry.sources` int32 [E]: the
            source of each entry's vector.
    """

    def __init__(self, concepts: FloatArray, names: FloatArray, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._concepts = concepts
        self._names = names
        self._starts = arrays["entry.starts"]
        self._sources = arrays["entry.sources"]

    @property
    def num_concepts(self) -> int:
        """N."""
        return len(self._concepts)

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return int(self._concepts.shape[1])

    def own(self, concepts: IntArray) -> FloatArray:
        """float32 [len(concepts), dim]: the own vectors of some concepts."""
        return np.asarray(self._concepts[concepts])

    def gather(self, sources: IntArray) -> FloatArray:
        """float32 [len(sources), dim]: the vectors of some sources."""
        block = np.empty((len(sources), self.dim), dtype=np.float32)
        is_own = sources < self.num_concepts
        block[is_own] = self._concepts[sources[is_own]]
        block[~is_own] = self._names[sources[~is_own] - self.num_concepts]
        return block

    def num_entries(self, concepts: IntArray) -> int:
        """Number of names of some concepts."""
        return int((self._starts[concepts + 1] - self._starts[concepts]).sum())

    def entries(self, concepts: IntArray) -> tuple[IntArray, IntArray]:
        """The entries of some concepts, int64 [E], and where each concept's begin among them, int64 [C]."""
        counts = self._starts[concepts + 1] - self._starts[concepts]
        return members_of(self._starts, concepts), np.cumsum(counts) - counts

    def entry_cosines(self, entries: IntArray, vectors: FloatArray) -> FloatArray:
        """float32 [E, Q]: cosines of some entries; a name without a vector of its own has its concept's."""
        return self._cosines(self._sources[entries].astype(np.int64), vectors)

    def score(self, concepts: IntArray, vectors: FloatArray) -> DenseScores:
        """Exact scores of some concepts.

        Args:
            concepts: int64 [C], rows; distinct, ascending.
            vectors: float32 [Q, dim], unit rows.
        """
        own = self._cosines(concepts, vectors)
        if not len(concepts):
            return DenseScores(concepts, own)
        entries, starts = self.entries(concepts)
        best = np.maximum(np.maximum.reduceat(self.entry_cosines(entries, vectors), starts, axis=0), own)
        return DenseScores(concepts, np.float32(1 - OWN_SHARE) * best + np.float32(OWN_SHARE) * own)

    def _cosines(self, sources: IntArray, vectors: FloatArray) -> FloatArray:
        found = np.empty((len(sources), len(vectors)), dtype=np.float32)
        for start in range(0, len(sources), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            found[part] = self.gather(sources[part]) @ vectors.T
        return found
