"""Concept search over ENCODER/index: by vectors, by letters, or both; never loads torch.

hits = open_search(Path("ENCODER")).search(["fluid around the lung"], k=10)[0]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kgkit.arrays import FloatArray, IntArray
from kgkit.errors import InputError, UnknownConceptError, choices
from kgkit.files import read_manifest
from kgkit.search.catalogue import Catalogue, Concept
from kgkit.search.filters import ConceptFilter
from kgkit.search.fusion import FUSION, best_positions
from kgkit.search.layout import (
    ARRAYS,
    CATALOGUE,
    FAISS,
    INDEX,
    INDEX_FORMAT,
    MANIFEST,
    DamagedIndexError,
    DenseSummary,
    map_arrays,
)
from kgkit.search.lexical import LexicalIndex, LexicalScores, ReadQuery
from kgkit.search.vectors import DenseScores, VectorTable
from kgkit.types import SearchHit

if TYPE_CHECKING:
    from kgkit.encoder.text_onnx import OnnxTextTower
    from kgkit.search.dense import DenseIndex

HYBRID, DENSE, LEXICAL = "hybrid", "dense", "lexical"
MODES = (HYBRID, DENSE, LEXICAL)
LONGEST_QUERY = 2_000
"""Characters of a query; what is longer is a report, no name."""
ALL = ConceptFilter()
_POOL = 100
"""Concepts that each side proposes to the hybrid score, if k is not greater."""
_BATCH = 128
_LETTERS_IN_MATCH = 0.1
"""Weight of a name's n-gram cosine beside its vector's, where the name is chosen that a hit shows."""
_DIGITS = 6
"""Scores are told apart to a millionth: what equal names differ by in a matrix product must not break their tie."""


@dataclass(frozen=True)
class _Ranked:
    """The best concepts of a query in falling order; arrays are [K]."""

    concepts: IntArray
    scores: FloatArray
    dense: FloatArray | None
    lexical: FloatArray | None


@contextmanager
def _naming_the_remedy(folder: Path) -> Iterator[None]:
    """What is damaged in an index is made anew by one command. Rows that are not there are damage too."""
    try:
        yield
    except (DamagedIndexError, IndexError, KeyError) as error:
        reason = error if isinstance(error, DamagedIndexError) else "its parts disagree"
        raise InputError(f"damaged index ({reason}); run: kgkit index {folder}") from error


class ConceptSearch:
    """Search over an encoder's concepts; open it with `open_search`. Not to be shared by threads.

    Attributes:
        folder: The ENCODER folder.
        num_concepts: Concepts that can be found.
        reads_text: Whether the encoder reads queries; otherwise `search` compares letters alone.
    """

    def __init__(self, folder: Path, index: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.num_concepts = int(about["num_concepts"])
        self.reads_text = bool(about["reads_text"])
        self._index = index
        self._summary = DenseSummary(**about["dense"])
        self._arrays = map_arrays(index / ARRAYS)
        if len(self._arrays["entry.starts"]) != self.num_concepts + 1:
            raise DamagedIndexError("damaged (its parts disagree)", index / ARRAYS)
        self._catalogue = Catalogue(index / CATALOGUE)
        self._lexical = LexicalIndex(self._arrays, self._catalogue)
        self._members: Callable[[ConceptFilter], IntArray] = lru_cache(maxsize=8)(self._catalogue.members)

    def search(
        self, texts: Sequence[str], k: int = 10, *, mode: str | None = None, keep: ConceptFilter = ALL
    ) -> list[list[SearchHit]]:
        """The concepts that some words mean.

        Args:
            texts: Queries of 1 to LONGEST_QUERY characters.
            k: Hits per query; fewer come back if fewer concepts pass the filter.
            mode: One of MODES. `dense` compares vectors, `lexical` letters, and `hybrid` both, after words that no
                name has were corrected. If not given, `hybrid`, or `lexical` where the encoder reads no text.
            keep: Find these concepts only.

        Returns:
            Hits for each text, best first; equal scores in the order of ids.

        Raises:
            InputError: for an empty or long text, k below 1, an unknown mode or value of a filter, and for a mode that
                needs a text tower which the encoder lacks.
        """
        mode = self._checked(mode, texts, k)
        found = []
        with _naming_the_remedy(self.folder):
            members = self._kept(keep)
            for start in range(0, len(texts), _BATCH):
                part = texts[start : start + _BATCH]
                if mode == LEXICAL:
                    found += [self._by_letters(self._lexical.read(text), k, members) for text in part]
                elif mode == DENSE:
                    found += self._by_vectors(self._tower.embed(part), k, members)
                else:
                    found += self._by_both([self._lexical.read(text) for text in part], k, members)
        return found

    def search_vectors(self, vectors: FloatArray, k: int = 10, *, keep: ConceptFilter = ALL) -> list[list[SearchHit]]:
        """The concepts nearest to some vectors, by the dense score.

        Args:
            vectors: float32 [Q, dim], unit rows, of the encoder's space.
            k: As in `search`.
            keep: As in `search`.

        Raises:
            InputError: as `search`, and for vectors of another length.
        """
        self._checked(None, (), k)
        if vectors.ndim != 2 or vectors.shape[1] != self._table.dim:
            raise InputError(f"vectors of shape {list(vectors.shape)}, expected [any, {self._table.dim}]")
        asked = np.ascontiguousarray(vectors, dtype=np.float32)
        parts = [asked[start : start + _BATCH] for start in range(0, len(asked), _BATCH)]
        with _naming_the_remedy(self.folder):
            members = self._kept(keep)
            return [hits for part in parts for hits in self._by_vectors(part, k, members)]

    def neighbours(self, concept: str, k: int = 10, *, keep: ConceptFilter = ALL) -> list[SearchHit]:
        """The nearest other concepts of a concept, by the dense score of its vector.

        Args:
            concept: Its id, or a source code that sits on it alone.
            k: As in `search`.
            keep: As in `search`.

        Raises:
            UnknownConceptError: if the concept is not here.
            InputError: as `search`.
        """
        row = self._row(concept)
        with _naming_the_remedy(self.folder):
            vector = self._table.own(np.array([row]))
        hits = self.search_vectors(vector, k + 1, keep=keep)[0] if k > 0 else self.search_vectors(vector, k)[0]
        own = self.concept(concept).id
        others = [hit for hit in hits if hit.concept != own][:k]
        return [replace(hit, rank=rank) for rank, hit in enumerate(others, 1)]

    def concept(self, identifier: str) -> Concept:
        """Id, name and semantic types of a concept.

        Args:
            identifier: Its id, or a source code that sits on it alone.

        Raises:
            UnknownConceptError: if it is not here.
        """
        row = self._row(identifier)
        with _naming_the_remedy(self.folder):
            return self._catalogue.concepts([row])[0]

    def read_as(self, text: str) -> str | None:
        """The words that the hybrid and the lexical mode search for if they correct a typo; None if they do not."""
        with _naming_the_remedy(self.folder):
            read = self._lexical.read(text)
        return read.folded if read.is_corrected else None

    @cached_property
    def _table(self) -> VectorTable:
        try:
            tensors = map_arrays(self.folder / "vectors.safetensors")
        except DamagedIndexError as error:  # which no new index mends
            raise InputError(f"{error}; this is a part of the encoder itself") from error
        concepts, names = tensors["concepts"], tensors["names"]
        return VectorTable(concepts, names if names.size else names.reshape(0, concepts.shape[1]), self._arrays)

    @cached_property
    def _dense(self) -> DenseIndex:
        from kgkit.search.dense import DenseIndex  # faiss is slow to load, and letters need none of it

        owners = self._arrays["owner.starts"], self._arrays["owner.concepts"]
        return DenseIndex(self._index / FAISS, self._summary, self._table, self._arrays["row.sources"], owners)

    @cached_property
    def _tower(self) -> OnnxTextTower:
        from kgkit.encoder.text_onnx import OnnxTextTower

        return OnnxTextTower(self.folder / "text")

    def _row(self, identifier: str) -> int:
        with _naming_the_remedy(self.folder):
            row = self._catalogue.row_of(identifier)
        if row is None:
            problem = f"no concept {identifier!r} in this encoder; find ids with: kgkit search"
            raise UnknownConceptError(f"{self.folder}: {problem}")
        return row

    def _kept(self, keep: ConceptFilter) -> IntArray | None:
        return self._members(keep) if keep else None

    def _checked(self, mode: str | None, texts: Sequence[str], k: int) -> str:
        """The mode that is meant, everything else being in order."""
        if k < 1:
            raise InputError(f"k is {k}, expected 1 or more")
        if mode is not None and mode not in MODES:
            raise InputError(f"unknown mode {mode!r}; {choices(mode, MODES)}")
        if mode in (HYBRID, DENSE) and not self.reads_text:
            problem = f"this encoder was trained without a text tower, so mode {mode!r} cannot read the queries"
            raise InputError(f"{problem}; mode 'lexical' compares letters", self.folder)
        for number, text in enumerate(texts, 1):
            which = f"query {number} of {len(texts)}"
            if not text.strip():
                raise InputError(f"{which} is empty")
            if len(text) > LONGEST_QUERY:
                long = f"{which} has {len(text):,} characters, more than {LONGEST_QUERY:,} ({text[:40]!r} ...)"
                raise InputError(f"{long}; whole reports are read by: kgkit link")
        return mode or (HYBRID if self.reads_text else LEXICAL)

    def _by_letters(self, query: ReadQuery, k: int, members: IntArray | None) -> list[SearchHit]:
        found = self._lexical.score(query)
        scores = np.round(found.concepts, _DIGITS)
        best = _best_of(scores, k, members)
        best = best[scores[best] > 0]  # with no letters in common nothing was found
        return self._hits(_Ranked(best, scores[best], None, scores[best]), found, None)

    def _by_vectors(self, vectors: FloatArray, k: int, members: IntArray | None) -> list[list[SearchHit]]:
        found = self._dense.search(vectors, k, members)
        return [self._dense_hits(scored, k, vectors[query]) for query, scored in enumerate(found)]

    def _dense_hits(self, scored: DenseScores, k: int, vector: FloatArray) -> list[SearchHit]:
        scores = np.round(scored.scores[:, 0], _DIGITS)
        order = best_positions(scores, k)
        return self._hits(_Ranked(scored.concepts[order], scores[order], scores[order], None), None, vector)

    def _by_both(self, queries: Sequence[ReadQuery], k: int, members: IntArray | None) -> Iterator[list[SearchHit]]:
        vectors = self._tower.embed([query.for_vectors for query in queries])
        depth = max(_POOL, 2 * k)
        proposed = self._dense.search(vectors, depth, members, only_near=True)
        for query, vector, scored in zip(queries, vectors, proposed, strict=True):
            letters = self._lexical.score(query)
            near = scored.concepts[best_positions(scored.scores[:, 0], depth)]
            pool = np.union1d(near, _best_of(letters.concepts, depth, members))
            dense = self._table.score(pool, vector[None]).scores[:, 0]
            about = letters.names[pool], letters.coverage[pool], letters.breadth[pool]
            mixed = np.round(FUSION.mix(dense, *about), _DIGITS)
            order = best_positions(mixed, k)
            ranked = _Ranked(pool[order], mixed[order], dense[order], letters.concepts[pool[order]])
            yield self._hits(ranked, letters, vector)

    def _hits(self, ranked: _Ranked, letters: LexicalScores | None, vector: FloatArray | None) -> list[SearchHit]:
        rows: list[int] = ranked.concepts.tolist()
        matched = self._matched(ranked.concepts, letters, vector)
        names = self._catalogue.names(matched)
        return [
            SearchHit(
                concept=concept.id,
                name=concept.name,
                semantic_types=concept.semantic_types,
                score=_rounded(ranked.scores[at]),
                rank=at + 1,
                matched_name=names[matched[at]],
                dense_score=None if ranked.dense is None else _rounded(ranked.dense[at]),
                lexical_score=None if ranked.lexical is None else _rounded(ranked.lexical[at]),
            )
            for at, concept in enumerate(self._catalogue.concepts(rows))
        ]

    def _matched(self, concepts: IntArray, letters: LexicalScores | None, vector: FloatArray | None) -> list[int]:
        """The entry of each concept that fits best."""
        entries, starts = self._table.entries(concepts)
        fit = np.zeros(len(entries), dtype=np.float32)
        if letters is not None:
            fit += _LETTERS_IN_MATCH * letters.strings[self._arrays["entry.strings"][entries]]
        if vector is not None:
            fit += self._table.entry_cosines(entries, vector[None])[:, 0]
        pieces = np.split(np.round(fit, _DIGITS), starts[1:])
        return [int(entries[start + piece.argmax()]) for start, piece in zip(starts, pieces, strict=False)]


def open_search(folder: Path, index: Path | None = None) -> ConceptSearch:
    """Open the search index of an ENCODER folder.

    Args:
        folder: The ENCODER folder.
        index: Folder of the index; ENCODER/index if not given.

    Raises:
        InputError: if there is no index, it is damaged, or it was built from another encoder.
    """
    manifest = read_manifest(folder, "encoder")
    index = index or folder / INDEX
    path = index / MANIFEST
    if not path.is_file():
        raise InputError(f"this encoder has no index yet; run: kgkit index {folder}", index)
    with _naming_the_remedy(folder):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            version, built_from = about.get("format_version"), about.get("encoder_digest")
        except (OSError, ValueError, AttributeError) as error:
            raise DamagedIndexError(f"not readable ({str(error).splitlines()[0]})", path) from error
    if version != INDEX_FORMAT:
        raise InputError(f"this index is of another version of kgkit; run: kgkit index {folder}", path)
    if built_from != manifest["encoder_digest"]:
        raise InputError(f"this index was built from another encoder; run: kgkit index {folder}", path)
    with _naming_the_remedy(folder):
        try:
            return ConceptSearch(folder, index, about)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedIndexError(f"incomplete ({error})", index) from error


def _best_of(scores: FloatArray, count: int, members: IntArray | None) -> IntArray:
    """Rows of the highest scores among the members, or among all."""
    if members is None:
        return best_positions(scores, count)
    return members[best_positions(scores[members], count)]


def _rounded(score: Any) -> float:
    return round(float(score), _DIGITS)
