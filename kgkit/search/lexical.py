"""Names compared by their letters: cosine of n-grams over all names, from postings on disk.

Every n-gram of the query adds its weight to the names that have it, so one pass over its postings gives the exact
score of every name; nothing is sampled or cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kgkit.arrays import FloatArray
from kgkit.search.catalogue import Catalogue
from kgkit.search.folding import WORD_GRAMS, edits, fold, grams, name_grams
from kgkit.search.fusion import LETTERS, best_positions

INITIALS_SCORE = 0.5
"""Score of a name whose first letters the query is."""
_SHORTEST_CORRECTED, _TWO_EDITS_FROM, _ALIKE_WORDS, _CHOICES = 4, 8, 30, 5
_LONGEST_ABBREVIATION = 6


@dataclass(frozen=True)
class ReadQuery:
    """A query as the lexical side reads it.

    Attributes:
        text: As it was given.
        folded: Its words, those corrected that no name has but for a typo.
        is_corrected: Whether a word was corrected.
    """

    text: str
    folded: str
    is_corrected: bool

    @property
    def for_vectors(self) -> str:
        """What the text tower should read: a typo is not in its vocabulary either."""
        return self.folded if self.is_corrected else self.text


@dataclass(frozen=True)
class LexicalScores:
    """How well a query fits all names and concepts.

    Attributes:
        strings: float32 [S], 0..1: cosine with each distinct folded name.
        names: float32 [N], 0..1: that of each concept's best name.
        coverage: float32 [N], 0..1: share of the query's n-grams, by weight, that the concept's names, its parents'
            names and its definition have together.
        breadth: float32 [N], 0..1: how much lies below each concept, whatever the query.
    """

    strings: FloatArray
    names: FloatArray
    coverage: FloatArray
    breadth: FloatArray

    @cached_property
    def concepts(self) -> FloatArray:
        """float32 [N], 0..1: the score of each concept; 0 with no n-gram in common."""
        return np.where(self.names + self.coverage > 0, LETTERS.letters(self.names, self.coverage, self.breadth), 0)


class LexicalIndex:
    """The lexical side of an index.

    Args:
        arrays: As `kgkit.search.build` writes them.
        catalogue: The catalogue of the same index.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._weights = arrays["gram.weights"]
        self._norms = arrays["name.norms"]
        self._breadth = arrays["concept.breadth"]
        self._word_sizes = arrays["word.sizes"]
        self._postings = {kind: (arrays[f"{kind}.starts"], arrays[f"{kind}.rows"])
                          for kind in ("name", "concept", "word")}  # fmt: skip
        self._entry_starts = arrays["entry.starts"]
        self._entry_strings = arrays["entry.strings"]
        self._highest = float(self._weights.max(initial=1))

    def read(self, text: str) -> ReadQuery:
        """Fold a query and correct the words that no name has.

        A word is replaced by the nearest one, one edit away from 4 letters on, up to two from 8 on. Of several that are
        equally near, the one is taken with which a name comes nearest to the whole query. Abbreviations and numbers
        stay as they are.
        """
        words = fold(text).split()
        known = self._catalogue.known_words(words)
        kept = known | {word for each in text.split() if sum(map(str.isupper, each)) > 1 for word in fold(each).split()}
        if text.isupper():  # all of it in capitals says nothing
            kept = known
        near = [[word] if word in kept else self._near_words(word) for word in words]
        corrected = [choices[0] for choices in near]
        for at, choices in enumerate(near):
            if len(choices) > 1:
                corrected[at] = self._most_fitting(corrected[:at] + corrected[at + 1 :], choices)
        return ReadQuery(text, " ".join(corrected), corrected != words)

    def score(self, query: ReadQuery) -> LexicalScores:
        """Scores of all names and concepts."""
        ids, weights, whole = self._weighed(name_grams(query.folded))
        strings = self._cosines(self._sum("name", ids, weights, len(self._norms)), whole)
        if 2 <= len(query.folded) <= _LONGEST_ABBREVIATION and query.folded.isalpha():
            meant = self._catalogue.strings_of_initials(query.folded)
            strings[meant] = np.maximum(strings[meant], np.float32(INITIALS_SCORE))
        names = np.maximum.reduceat(strings[self._entry_strings], self._entry_starts[:-1])
        coverage = self._sum("concept", ids, weights, len(names)) / np.float32(max(whole, 1e-9))
        return LexicalScores(strings, names, np.minimum(coverage, 1), self._breadth)

    def _sum(self, kind: str, ids: list[int], weights: FloatArray, size: int) -> FloatArray:
        """float32 [size]: the weights of the columns `ids`, summed in each row."""
        starts, rows = self._postings[kind]
        total = np.zeros(size, dtype=np.float32)
        for column, weight in zip(ids, weights, strict=True):
            total[rows[starts[column] : starts[column + 1]]] += weight  # a row is in a column once
        return total

    def _weighed(self, asked: set[str]) -> tuple[list[int], FloatArray, float]:
        """Columns and weights of the n-grams that names have, and the weight of all that are asked for."""
        ids = sorted(self._catalogue.gram_ids("name", asked).values())
        weights = self._weights[ids]
        # One that no name has weighs as the rarest: it is what the names do not cover.
        return ids, weights, max(float(weights.sum()) + self._highest * (len(asked) - len(ids)), 1e-9)

    def _cosines(self, shared: FloatArray, whole: float) -> FloatArray:
        """float32 [S]: cosines from the weight that each name shares with a query of weight `whole`."""
        cosines: FloatArray = shared / (np.float32(whole**0.5) * np.maximum(self._norms, np.float32(1e-9)))
        return np.minimum(cosines, np.float32(1))

    def _near_words(self, word: str) -> list[str]:
        """The words of names that are nearest to a word, by edits; itself if none is near. The most frequent first."""
        limit = 1 if len(word) < _TWO_EDITS_FROM else 2
        if len(word) < _SHORTEST_CORRECTED or not word.isalpha():
            return [word]
        asked = grams(word, WORD_GRAMS)
        ids = sorted(self._catalogue.gram_ids("word", asked).values())
        shared = self._sum("word", ids, np.ones(len(ids), dtype=np.float32), len(self._word_sizes))
        alike = best_positions(shared / (self._word_sizes + np.float32(len(asked))), _ALIKE_WORDS)
        near = [(edits(word, other, limit), -names, other) for other, names in self._catalogue.words(alike.tolist())]
        nearest = min(near, default=(limit + 1, 0, word))[0]
        if nearest > limit:
            return [word]
        return [other for distance, _, other in sorted(near) if distance == nearest][:_CHOICES]

    def _most_fitting(self, others: list[str], choices: list[str]) -> str:
        """The word with which, beside the other words, some name comes nearest; the first of equal ones."""
        around = name_grams(" ".join(others))
        ids, weights, base = self._weighed(around) if around else ([], self._weights[:0], 0.0)
        shared = self._sum("name", ids, weights, len(self._norms))
        fits = []
        for choice in choices:
            more_ids, more_weights, more = self._weighed(name_grams(choice) - around)
            found = self._cosines(shared + self._sum("name", more_ids, more_weights, len(self._norms)), base + more)
            fits.append(round(float(found.max(initial=0)), 6))
        return choices[fits.index(max(fits))]
