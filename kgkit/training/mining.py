"""Hard negatives: the concepts whose names lie nearest, found with FAISS."""

from __future__ import annotations

import faiss
import numpy as np
from scipy import sparse

from kgkit.arrays import FloatArray, IntArray
from kgkit.encoder.batching import TokenRows

_EXACT_BELOW = 20_000
_PROBES = 8


def word_vectors(names: TokenRows, starts: IntArray, table: FloatArray) -> FloatArray:
    """What concepts share in words: the mean of their names' word vectors, rare words weighing more.

    No text is read for it. A word's weight is the logarithm of the inverse share of names that have it.

    Args:
        names: Tokens of all names, concept after concept.
        starts: int64 [N + 1], where each concept's names begin.
        table: float32 [V, dim], the word vectors of an encoder.

    Returns:
        float32 [N, dim], unit rows.
    """
    flat = np.asarray(names.flat)
    weight = np.log(len(names) / np.maximum(1, np.bincount(flat, minlength=len(table)))).clip(0).astype(np.float32)
    places = np.asarray(names.offsets)[starts]
    counts = sparse.csr_matrix((weight[flat], flat, places), shape=(len(starts) - 1, len(table)))
    vectors = counts @ table
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def nearest_rows(bank: FloatArray, rows: IntArray, k: int) -> IntArray:
    """The nearest others of some rows, among those rows.

    Exact for few rows, in inverted lists for many: a hard negative that is missed costs nothing.

    Args:
        bank: float32 [N, dim], unit rows.
        rows: int64 [n], distinct.
        k: Neighbours wanted; fewer if there are not enough rows.

    Returns:
        int64 [n, min(k, n - 1)], positions in the bank.
    """
    vectors = np.ascontiguousarray(bank[rows])
    count = min(k, len(rows) - 1)
    lists = int(len(rows) ** 0.5)
    index = faiss.index_factory(
        vectors.shape[1], "Flat" if len(rows) < _EXACT_BELOW else f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT
    )
    if not index.is_trained:
        index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", _PROBES)
    index.add(vectors)
    found = index.search(vectors, count + 1)[1]
    own = np.arange(len(rows))[:, None]
    found = np.where(found < 0, own, found)  # a list may hold fewer; itself is dropped below
    order = np.argsort(found == own, axis=1, kind="stable")[:, :count]  # itself last, the others as they came
    nearest: IntArray = rows[np.take_along_axis(found, order, axis=1)]
    return nearest
