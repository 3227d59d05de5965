"""The lexical baseline: TF-IDF of character n-grams, what a concept search can do without learning anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from kgkit.arrays import FloatArray
from kgkit.evaluation.name_bank import FillScores, NameBank, concept_blocks


def lexical_scores(bank: NameBank, texts: Sequence[str]) -> FillScores:
    """Cosines of character n-grams (2 to 4, within words) weighted by TF-IDF, the maximum over a concept's names.

    Args:
        bank: The names.
        texts: Queries.
    """
    vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
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


def _nothing(first: int, stop: int, out: FloatArray) -> None:
    out[:] = 0
