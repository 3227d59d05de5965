"""FAISS over the vectors of concepts and names: which rows are worth an exact look.

FAISS proposes rows, `VectorTable` scores their concepts exactly; so a score is the cosine it says whatever the kind of
index, and a coarse code costs recall alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from kgkit.arrays import FloatArray, IntArray
from kgkit.errors import InputError, choices
from kgkit.progress import progress
from kgkit.search.layout import DamagedIndexError, DenseSummary, members_of
from kgkit.search.vectors import DenseScores, VectorTable

_python_faiss: Any = faiss
"""FAISS with the constructors that its type stubs do not know."""

EXACT_BELOW = 50_000
"""Up to this many vectors an exact scan is fast enough (a few milliseconds)."""

KINDS = MappingProxyType({"flat": "Flat", "hnsw": "HNSW32", "ivfsq8": "IVF{lists},SQ8", "ivfpq": "IVF{lists},PQ48"})
"""Index kinds and their FAISS factory strings."""

WANTED_RECALL = 0.95
_EFFORT = MappingProxyType({"hnsw": ("efSearch", 64), "ivfsq8": ("nprobe", 4), "ivfpq": ("nprobe", 4)})
_MOST_EFFORT, _LEAST_GAIN = 1024, 0.002
_PQ_PARTS, _PQ_LEAST = 48, 39 * 256  # what FAISS's PQ48 asks: a length in equal parts, 39 training rows per centroid
_TRAINING_ROWS_PER_LIST = 64
_NUM_PROBES = 256
_DEPTH = 10
_WIDER = 4
"""Rows asked of FAISS per concept wanted; as often again where the names of few concepts fill them."""
_BLOCK_ROWS = 1 << 15
_MOST_ROWS = 1 << 14
_MOST_ROWS_ON_GPU = 2048  # FAISS's own limit of what one search may ask for there


def choose_kind(kind: str, num_vectors: int, dim: int) -> str:
    """The kind that `auto` stands for, and whether the vectors fit it.

    Raises:
        InputError: for an unknown kind, or one that these vectors do not fit.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"unknown index kind {kind!r}; {choices(kind, ('auto', *KINDS))}")
    if kind == "ivfpq" and (dim % _PQ_PARTS or num_vectors < _PQ_LEAST):
        raise InputError(f"index kind 'ivfpq' needs {_PQ_LEAST} or more vectors of a length divisible by {_PQ_PARTS}; "
                         f"this encoder has {num_vectors} of length {dim}")  # fmt: skip
    if kind != "auto":
        return kind
    return "flat" if num_vectors < EXACT_BELOW else "ivfsq8"


def build_dense(table: VectorTable, sources: IntArray, kind: str, path: Path) -> tuple[DenseSummary, IntArray]:
    """Build and write a FAISS index.

    Args:
        table: The vectors.
        sources: int64 [R], distinct: what the rows stand for.
        kind: One of KINDS.
        path: File to write.

    Returns:
        What was built, and int64 [R], the sources in the order of the index's rows: those that recall was measured on
        come last, since they were added after that.
    """
    generator = np.random.default_rng(0)
    names = np.flatnonzero(sources >= table.num_concepts)
    eligible = names if len(names) else np.arange(len(sources))
    held = np.sort(generator.choice(eligible, size=min(_NUM_PROBES, len(eligible) // 10), replace=False))
    first, last = np.delete(sources, held), sources[held]
    lists = max(1, min(int(4 * len(first) ** 0.5), len(first) // 39))  # FAISS wants 39 training rows per list
    index = faiss.index_factory(table.dim, KINDS[kind].format(lists=lists), faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        size = min(len(first), max(_TRAINING_ROWS_PER_LIST * lists, _PQ_LEAST))
        index.train(table.gather(np.sort(generator.choice(first, size=size, replace=False))))
    with progress("index rows", len(sources), "rows") as report:
        for start in range(0, len(first), _BLOCK_ROWS):
            block = table.gather(first[start : start + _BLOCK_ROWS])
            index.add(block)
            report.advance(len(block))
        recall, effort = 1.0, 0
        if kind != "flat":
            recall, effort = _tune(index, kind, table, first, table.gather(last if len(last) else first))
        if len(last):
            index.add(table.gather(last))
        report.advance(len(last))
    faiss.write_index(index, str(path))
    return DenseSummary(kind, len(sources), recall, effort), np.concatenate([first, last])


def _tune(index: Any, kind: str, table: VectorTable, sources: IntArray, queries: FloatArray) -> tuple[float, int]:
    """Search harder until recall@10 is good enough or no longer grows; (recall, effort)."""
    depth = min(_DEPTH, len(sources))
    truth = exact_nearest(queries, len(sources), lambda part: table.gather(sources[part]), depth)
    name, effort = _EFFORT[kind]
    most = max(1, index.nlist if name == "nprobe" else _MOST_EFFORT)

    def recall(effort: int) -> float:
        faiss.ParameterSpace().set_index_parameter(index, name, effort)
        found = index.search(queries, min(_WIDER * _DEPTH, len(sources)))[1]
        shared = [len(set(rows) & set(right)) for rows, right in zip(found.tolist(), truth.tolist(), strict=True)]
        return float(np.mean(shared)) / depth

    effort = min(effort, most)
    measured = recall(effort)
    while measured < WANTED_RECALL and effort < most:
        harder = min(2 * effort, most)
        before, measured, effort = measured, recall(harder), harder
        if measured - before < _LEAST_GAIN and measured > 0:  # what the codes have lost no search finds again
            break
    return measured, effort


def exact_nearest(queries: FloatArray, num_rows: int, rows: Callable[[slice], FloatArray], k: int) -> IntArray:
    """The nearest rows of each query by a full scan; int64 [Q, k], in falling order.

    Args:
        queries: float32 [Q, dim].
        num_rows: Number of rows.
        rows: Gives the vectors of a slice of them.
        k: At most `num_rows`.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    best = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, num_rows, _BLOCK_ROWS):
        block = queries @ rows(slice(start, start + _BLOCK_ROWS)).T
        joined = np.concatenate([scores, block], axis=1)
        numbers = np.concatenate([best, np.broadcast_to(start + np.arange(block.shape[1]), block.shape)], axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :k]
        scores, best = np.take_along_axis(joined, order, axis=1), np.take_along_axis(numbers, order, axis=1)
    return best


def gpu_copy(index: Any, kind: str) -> Any:
    """The index on the graphics cards, if FAISS was built for them and there are any; otherwise None.

    HNSW has no form there.
    """
    if kind == "hnsw" or not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.index_cpu_to_all_gpus(index)


class DenseIndex:
    """The dense side of an index, opened.

    Args:
        path: The FAISS file; memory-mapped.
        summary: What was built.
        table: The vectors.
        row_sources: int64 [R]: source of each row.
        owners: `starts` int64 [N + M + 1] and `concepts` int32: the concepts of each source.

    Raises:
        DamagedIndexError: if the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        summary: DenseSummary,
        table: VectorTable,
        row_sources: IntArray,
        owners: tuple[IntArray, npt.NDArray[np.int32]],
    ) -> None:
        try:
            # One flag maps inverted lists, the other everything else.
            flag = faiss.IO_FLAG_MMAP if summary.kind.startswith("ivf") else faiss.IO_FLAG_MMAP_IFC
            self._index = faiss.read_index(str(path), flag | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise DamagedIndexError(f"damaged ({_reason(error)})", path) from error
        if self._index.ntotal != len(row_sources) or self._index.d != table.dim:
            found = f"{self._index.ntotal:,} vectors of length {self._index.d}"
            raise DamagedIndexError(f"damaged ({found}, expected {len(row_sources):,} of length {table.dim})", path)
        if summary.effort:
            faiss.ParameterSpace().set_index_parameter(self._index, _EFFORT[summary.kind][0], summary.effort)
        self._summary = summary
        self._on_gpu = gpu_copy(self._index, summary.kind)
        self.table = table
        self._row_sources = row_sources
        self._owner_starts, self._owners = owners

    def search(
        self, vectors: FloatArray, k: int, members: IntArray | None = None, *, only_near: bool = False
    ) -> list[DenseScores]:
        """For each query, its nearest concepts: k or more with their exact scores (all, if there are fewer).

        Args:
            vectors: float32 [Q, dim], unit rows.
            k: 1 or more.
            members: int64, ascending: the concepts that may be found; all if not given. Few of them are scanned
                exactly.
            only_near: Some k near concepts will do; otherwise FAISS is asked for more rows until no other concept can
                be among the best k.
        """
        if members is None and _WIDER * k >= self.table.num_concepts:
            members = np.arange(self.table.num_concepts)
        if members is not None and self._is_rare(members, k):
            together = self.table.score(members, vectors)
            return [DenseScores(members, column[:, None]) for column in together.scores.T]
        selector = None if members is None else self._selector(members)
        found: dict[int, DenseScores] = {}
        wanted = _WIDER * k
        while pending := [query for query in range(len(vectors)) if query not in found]:
            wanted = min(wanted, self._index.ntotal)
            scores, rows = self._nearest(np.ascontiguousarray(vectors[pending]), wanted, selector)
            for query, its_scores, its_rows in zip(pending, scores, rows, strict=True):
                asked = vectors[query : query + 1]
                scored = self.table.score(self._candidates(its_rows[its_rows >= 0], members), asked)
                if self._is_enough(scored, k, its_scores, wanted) or (only_near and len(scored.concepts) >= k):
                    found[query] = scored
                elif wanted == self._index.ntotal or its_rows[-1] < 0:  # nothing more is within FAISS's reach
                    everything = np.arange(self.table.num_concepts) if members is None else members
                    found[query] = self.table.score(everything, asked)
            wanted *= _WIDER
        return [found[query] for query in range(len(vectors))]

    def _nearest(self, vectors: FloatArray, count: int, selector: Any) -> tuple[FloatArray, IntArray]:
        if selector is None:
            index = self._index if self._on_gpu is None or count > _MOST_ROWS_ON_GPU else self._on_gpu
            scores, rows = index.search(vectors, count)
        else:
            scores, rows = self._index.search(vectors, count, params=self._parameters(selector, count))
        return scores, rows

    def _parameters(self, selector: Any, count: int) -> Any:
        effort = self._summary.effort
        if self._summary.kind == "flat":
            return _python_faiss.SearchParameters(sel=selector)
        if self._summary.kind == "hnsw":
            return _python_faiss.SearchParametersHNSW(sel=selector, efSearch=max(effort, count))
        return _python_faiss.SearchParametersIVF(sel=selector, nprobe=effort)

    def _is_rare(self, members: IntArray, k: int) -> bool:
        """Whether a scan of some concepts is the way: it is quick, or most of them are wanted.

        An index also loses recall when it has to pass over most rows.
        """
        few = max(EXACT_BELOW, self._index.ntotal // 10)
        return _WIDER * k >= len(members) or self.table.num_entries(members) <= few

    def _selector(self, members: IntArray) -> Any:
        is_member = np.zeros(self.table.num_concepts, dtype=np.bool_)
        is_member[members] = True
        kept = np.concatenate([[0], np.cumsum(is_member[self._owners])])
        of_source = np.diff(kept[self._owner_starts]) > 0
        return _python_faiss.IDSelectorBitmap(np.packbits(of_source[self._row_sources], bitorder="little"))

    def _candidates(self, rows: IntArray, members: IntArray | None) -> IntArray:
        owners = self._owners[members_of(self._owner_starts, self._row_sources[rows])]
        concepts = np.unique(owners).astype(np.int64)
        return concepts if members is None else concepts[np.isin(concepts, members, assume_unique=True)]

    def _is_enough(self, scored: DenseScores, k: int, scores: FloatArray, wanted: int) -> bool:
        """Whether no concept that was not seen can be among the best k: none scores above FAISS's last row."""
        if len(scored.concepts) < k:
            return False
        if wanted >= min(_MOST_ROWS, self._index.ntotal) or not np.isfinite(scores[-1]):
            return True
        return bool(np.partition(scored.scores[:, 0], -k)[-k] >= scores[-1])


def _reason(error: Exception) -> str:
    """What FAISS says is wrong, without the place in its source."""
    return str(error).strip().splitlines()[-1].rpartition("Error: ")[2]
