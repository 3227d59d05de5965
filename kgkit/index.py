"""Concept search: FAISS over the vectors of concepts and of their names, kept in ENCODER/index.

A concept's score is the best of its own vector and its names' vectors, so a rare synonym finds its concept.

    index/concepts.faiss   rows are the encoder's concepts, then its names
    index/manifest.json    kind, digest of the encoder it was built from, measured recall
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from kgkit.encoder.artifact import ConceptEncoder, FloatArray, load_encoder
from kgkit.errors import InputError, choices
from kgkit.files import write_json_atomically
from kgkit.types import SearchHit

IntArray = npt.NDArray[np.int64]

EXACT_BELOW = 50_000
"""Up to this many vectors an exact scan is fast enough (a few milliseconds)."""

KINDS = MappingProxyType({"flat": "Flat", "hnsw": "HNSW32", "ivfsq8": "IVF{lists},SQ8", "ivfpq": "IVF{lists},PQ48"})
"""Index kinds and their FAISS factory strings."""

_PQ_PARTS, _PQ_LEAST = 48, 39 * 256
"""What FAISS's PQ48 asks of the vectors: a length in equal parts, and 39 training rows per centroid."""

_WANTED_RECALL = 0.95
_NUM_PROBES = 256


@dataclass(frozen=True)
class IndexSummary:
    """What was built.

    Attributes:
        kind: One of KINDS.
        num_concepts: Concepts that can be found.
        num_vectors: Rows: concepts and names.
        recall_at_10: Against the exact answer, on queries that are concept vectors moved a little; 1 for flat.
        nprobe: Inverted lists searched; 0 where there are none.
    """

    kind: str
    num_concepts: int
    num_vectors: int
    recall_at_10: float
    nprobe: int


def build_index(folder: Path, kind: str = "auto") -> IndexSummary:
    """Build the search index of an encoder.

    Args:
        folder: The ENCODER folder.
        kind: One of KINDS, or `auto`: exact for small encoders, IVF with 8-bit codes for large ones.

    Raises:
        InputError: for a folder that is no encoder, an unknown kind, or a kind these vectors do not fit.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"unknown index kind {kind!r}; {choices(kind, ('auto', *KINDS))}")
    encoder = load_encoder(folder)
    vectors = np.concatenate([encoder.vectors, encoder.name_vectors])
    if kind == "auto":
        kind = "flat" if len(vectors) < EXACT_BELOW else "ivfsq8"
    if kind == "ivfpq" and (encoder.dim % _PQ_PARTS or len(vectors) < _PQ_LEAST):
        raise InputError(f"index kind 'ivfpq' needs {_PQ_LEAST} or more vectors of a length divisible by {_PQ_PARTS}; "
                         f"this encoder has {len(vectors)} of length {encoder.dim}", folder)  # fmt: skip
    lists = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))  # FAISS wants 39 training rows per list
    index = faiss.index_factory(encoder.dim, KINDS[kind].format(lists=lists), faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    recall, nprobe = (1.0, 0) if kind == "flat" else _tune(index, vectors)
    target = folder / "index"
    target.mkdir(exist_ok=True)
    temporary = target / ".concepts.faiss.tmp"
    faiss.write_index(index, str(temporary))
    temporary.replace(target / "concepts.faiss")
    summary = IndexSummary(kind, len(encoder.concepts), len(vectors), recall, nprobe)
    write_json_atomically(target / "manifest.json", vars(summary) | {"encoder_digest": encoder.digest})
    return summary


class ConceptIndex:
    """Search over an encoder's concepts; open it with `open_index`."""

    def __init__(self, encoder: ConceptEncoder, index: Any) -> None:
        self.encoder = encoder
        self._index = index
        self._owner_starts, self._owners = _owners(encoder)

    def search(self, vectors: FloatArray, k: int, semantic_type: str | None = None) -> list[list[SearchHit]]:
        """The nearest concepts of each vector.

        Args:
            vectors: float32 [Q, dim], unit rows.
            k: Number of hits; fewer come back if there are fewer concepts.
            semantic_type: Keep concepts of this TUI only; its members are scanned exactly.

        Raises:
            InputError: if k is below 1 or no concept has the semantic type.
        """
        _require_positive(k)
        vectors = np.ascontiguousarray(vectors)
        if semantic_type is not None:
            members = self.encoder.rows_of_type(semantic_type)
            return [self._hits(self._scan(vector, members), k) for vector in vectors]
        return [self._hits(best, k) for best in self._nearest(vectors, k)]

    def search_text(self, texts: Sequence[str], k: int, semantic_type: str | None = None) -> list[list[SearchHit]]:
        """The nearest concepts of each text.

        Raises:
            InputError: for an empty text, and as `search`.
        """
        empty = [position for position, text in enumerate(texts) if not text.strip()]
        if empty:
            raise InputError(f"query {empty[0] + 1} of {len(texts)} is empty")
        return self.search(self.encoder.embed_text(texts), k, semantic_type)

    def neighbours(self, concept: str, k: int, semantic_type: str | None = None) -> list[SearchHit]:
        """The nearest other concepts of a concept.

        Raises:
            UnknownConceptError: if the concept is not here.
            InputError: as `search`.
        """
        _require_positive(k)
        hits = self.search(self.encoder.embed_concepts([concept]), k + 1, semantic_type)[0]
        others = [hit for hit in hits if hit.concept != concept][:k]
        return [replace(hit, rank=rank) for rank, hit in enumerate(others, 1)]

    def _nearest(self, vectors: FloatArray, k: int) -> list[dict[int, float]]:
        """Per query, at least k concept rows (or all) with their best score."""
        wanted = min(4 * k, self._index.ntotal)
        while True:
            scores, rows = self._index.search(vectors, wanted)
            found = [self._fold(*pair) for pair in zip(scores, rows, strict=True)]
            # The last row bounds the score of every concept not seen, so k distinct concepts are the best k.
            if wanted == self._index.ntotal or all(len(best) >= k for best in found):
                return found
            wanted = min(4 * wanted, self._index.ntotal)

    def _fold(self, scores: FloatArray, rows: IntArray) -> dict[int, float]:
        """Concept row -> best score among its own vector and its names'."""
        best: dict[int, float] = {}
        for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
            if row < 0:  # FAISS fills up with -1
                continue
            for owner in self._owners[self._owner_starts[row] : self._owner_starts[row + 1]].tolist():
                best.setdefault(owner, score)  # scores come in falling order
        return best

    def _scan(self, vector: FloatArray, members: IntArray) -> dict[int, float]:
        """Exact scores of some concepts."""
        scores = np.concatenate([self.encoder.vectors @ vector, self.encoder.name_vectors @ vector])
        per_owner = np.repeat(scores, np.diff(self._owner_starts))
        best = np.full(len(self.encoder.concepts), -np.inf, dtype=np.float32)
        np.maximum.at(best, self._owners, per_owner)
        return {int(row): float(best[row]) for row in members}

    def _hits(self, best: dict[int, float], k: int) -> list[SearchHit]:
        # Equal scores in the order of ids, the same every time.
        found = sorted((-score, self.encoder.concepts[row]) for row, score in best.items())[:k]
        return [
            SearchHit(concept, self.encoder.name(concept), self.encoder.semantic_types(concept), -negative, rank)
            for rank, (negative, concept) in enumerate(found, 1)
        ]


def _require_positive(k: int) -> None:
    if k < 1:
        raise InputError(f"k is {k}, expected 1 or more")


def _owners(encoder: ConceptEncoder) -> tuple[IntArray, IntArray]:
    """Concept rows of each index row, as CSR: a concept vector owns itself, a name may have several concepts."""
    num_concepts, num_names = len(encoder.concepts), len(encoder.name_vectors)
    row = {concept: index for index, concept in enumerate(encoder.concepts)}
    pairs = encoder.names.select("vector", "concept").drop_nulls("vector").unique().sort("vector", "concept")
    rows = np.concatenate([np.arange(num_concepts), pairs["vector"].to_numpy() + num_concepts])
    owners = np.concatenate([np.arange(num_concepts), [row[concept] for concept in pairs["concept"]]]).astype(np.int64)
    starts = np.searchsorted(rows, np.arange(num_concepts + num_names + 1))
    return starts, owners


def open_index(folder: Path) -> ConceptIndex:
    """Open the search index of an ENCODER folder.

    Raises:
        InputError: if there is no index, it is damaged, or it was built from another encoder.
    """
    encoder = load_encoder(folder)
    path = folder / "index" / "concepts.faiss"
    if not path.is_file():
        raise InputError(f"this encoder has no index yet; run: kgkit index {folder}", path)
    try:
        about = json.loads((folder / "index" / "manifest.json").read_text(encoding="utf-8"))
        built_from, nprobe = str(about["encoder_digest"]), int(about["nprobe"])
        index = faiss.read_index(str(path))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"damaged index ({str(error).splitlines()[0]}); run: kgkit index {folder}", path) from error
    if built_from != encoder.digest or index.ntotal != about["num_vectors"]:
        raise InputError(f"this index was built from another encoder; run: kgkit index {folder}", path)
    if nprobe:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", nprobe)
    return ConceptIndex(encoder, index)


def _exact(queries: FloatArray, vectors: FloatArray, rows: IntArray, k: int) -> tuple[FloatArray, Any]:
    scores = queries @ vectors[rows].T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, axis=1), rows[best]


def _tune(index: Any, vectors: FloatArray) -> tuple[float, int]:
    """Raise nprobe until recall@10 is good enough; (recall, nprobe)."""
    generator = np.random.default_rng(0)
    rows = generator.choice(len(vectors), size=min(_NUM_PROBES, len(vectors)), replace=False)
    queries = vectors[rows] + 0.3 / vectors.shape[1] ** 0.5 * generator.standard_normal((len(rows), vectors.shape[1]))
    queries = np.ascontiguousarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), dtype=np.float32)
    truth = _exact(queries, vectors, np.arange(len(vectors)), 10)[1]

    def recall() -> float:
        found = index.search(queries, 10)[1]
        shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
        return float(np.mean(shared) / truth.shape[1])  # an encoder may hold fewer than 10 concepts

    if not hasattr(index, "nprobe"):
        return recall(), 0
    index.nprobe = 4
    while (measured := recall()) < _WANTED_RECALL and index.nprobe < index.nlist:
        index.nprobe = min(2 * index.nprobe, index.nlist)
    return measured, int(index.nprobe)
