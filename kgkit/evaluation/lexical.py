"""The lexical baseline: TF-IDF of character n-grams, what a concept search can do without learning anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from kgkit.arrays import DoubleArray, FloatArray
from kgkit.evaluation.name_bank import FillScores, NameBank, concept_blocks


def lexical_scores(bank: NameBank, texts: Sequence[str]) -> FillScores:
    """Cosines of character n-grams (2 to 4, within words) weighted by TF-IDF, the maximum over a concept's names.

    Args:
        bank: The names.
        texts: Queries.
    """
    vectoriser = _vectoriser()
    try:
        names = vectoriser.fit_transform(bank.names.to_list())
    except ValueError:  # sklearn's word for names that hold no n-gram at all
        return _nothing
    asked = vectoriser.transform(list(texts))

    def fill(first: int, stop: int, out: FloatArray) -> None:
        chunk = asked[first:stop]
        used = np.unique(chunk.indices)  # grams that no query of this chunk has add nothing
        dense = np.ascontiguousarray(chunk[:, used].toarray().T)
        for low, high in concept_blocks(bank.starts):
            begin, end = int(bank.starts[low]), int(bank.starts[high])
            scores = names[begin:end][:, used] @ dense
            out[:, low:high] = np.maximum.reduceat(scores, bank.starts[low:high] - begin, axis=0).T

    return fill


def lexical_cosines(names: Sequence[str], first: Sequence[str], second: Sequence[str]) -> DoubleArray:
    """Cosines of character n-grams, as in `lexical_scores`, of pairs of texts: float64 [n].

    Args:
        names: Say how rare an n-gram is.
        first: One text of each pair, [n].
        second: The other.
    """
    vectoriser = _vectoriser()
    try:
        vectoriser.fit(names)
    except ValueError:
        return np.zeros(len(first))
    products = vectoriser.transform(list(first)).multiply(vectoriser.transform(list(second)))
    cosines: DoubleArray = np.asarray(products.sum(axis=1), dtype=np.float64).ravel()
    return cosines


def _vectoriser() -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)


def _nothing(first: int, stop: int, out: FloatArray) -> None:
    out[:] = 0
