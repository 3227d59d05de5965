"""Postings of n-grams: which names, concepts and words have an n-gram, as arrays that a search maps into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from kgkit.arrays import FloatArray
from kgkit.progress import progress
from kgkit.search.folding import WORD_GRAMS, fold, grams, initials, name_grams

Arrays = dict[str, npt.NDArray[Any]]
Tables = list[tuple[str, Iterable[Sequence[Any]]]]


def build_postings(
    entries: pl.DataFrame, definitions: Sequence[str], parents: pl.Series, concepts: Sequence[str]
) -> tuple[Arrays, Tables]:
    """The lexical side of an index.

    Args:
        entries: Columns row (of the concept) and name, concept after concept.
        definitions: Of each concept, or "".
        parents: Ids of the direct is-a parents of each concept.
        concepts: Ids, by row.

    Returns:
        Arrays: `entry.strings`, the folded name of each entry; `<kind>.starts` and `<kind>.rows`, the rows that have
        each n-gram (CSC), for `name` (rows are folded names), `concept` (its names, its parents' names and its
        definition together) and `word`; `gram.weights`, the square of each n-gram's inverse document frequency;
        `name.norms`; `word.sizes`; `concept.breadth`, the logarithm of the number of concepts below each one, 0..1.
        And the tables grams, words and initials of the catalogue.
    """
    folded = {name: fold(name) for name in entries["name"].unique(maintain_order=True).to_list()}
    strings = sorted(set(folded.values()))
    place = {string: number for number, string in enumerate(strings)}
    entry_strings = np.array([place[folded[name]] for name in entries["name"].to_list()], dtype=np.int32)
    vocabulary: dict[str, int] = {}
    by_name = _gram_matrix(strings, name_grams, vocabulary, "names to n-grams")
    weights = _weights(by_name)
    defined = _gram_matrix([fold(text) for text in definitions], name_grams, dict(vocabulary), "definitions to n-grams")
    named = _ones(entries["row"].to_numpy(), entry_strings, (len(concepts), len(strings))) @ by_name
    by_concept = named + _parent_matrix(parents, concepts) @ named + defined[:, : len(vocabulary)]
    words = Counter(word for string in strings for word in set(string.split()))
    ordered = sorted(words)
    word_ids: dict[str, int] = {}
    by_word = _gram_matrix(ordered, _word_grams, word_ids, "words to n-grams")
    arrays: Arrays = {
        "entry.strings": entry_strings,
        "gram.weights": weights,
        "name.norms": np.sqrt(by_name @ weights).astype(np.float32),
        "concept.breadth": breadths(parents, concepts),
        "word.sizes": np.diff(by_word.indptr).astype(np.int32),
    }
    for kind, matrix in (("name", by_name), ("concept", by_concept), ("word", by_word)):
        columns = matrix.tocsc()
        columns.sort_indices()
        arrays[f"{kind}.starts"] = columns.indptr.astype(np.int64)
        arrays[f"{kind}.rows"] = columns.indices.astype(np.int32)
    tables: Tables = [
        ("grams", (("name", gram, number) for gram, number in vocabulary.items())),
        ("grams", (("word", gram, number) for gram, number in word_ids.items())),
        ("words", ((number, word, words[word]) for number, word in enumerate(ordered))),
        ("initials", ((letters, place[string]) for string in strings for letters in sorted(initials(string)))),
    ]
    return arrays, tables


def _word_grams(word: str) -> set[str]:
    return grams(word, WORD_GRAMS)


def breadths(parents: pl.Series, concepts: Sequence[str]) -> FloatArray:
    """How much lies below each concept.

    Args:
        parents: Ids of the direct is-a parents of each concept; cycles do no harm.
        concepts: Ids, by row.

    Returns:
        float32 [N], 0..1: log(1 + concepts below it, at any depth) / log(1 + N).
    """
    above = _parent_rows(parents, concepts)
    below = np.zeros(len(concepts), dtype=np.int64)
    with progress("concepts below", len(concepts), "concepts") as report:
        for row, its in enumerate(above):
            found, waiting = {row}, list(its)
            while waiting:
                each = waiting.pop()
                if each not in found:
                    found.add(each)
                    below[each] += 1
                    waiting += above[each]
            report.advance(1)
    found_below: FloatArray = (np.log1p(below) / np.log1p(max(len(concepts), 1))).astype(np.float32)
    return found_below


def _gram_matrix(
    strings: Sequence[str], grams_of: Callable[[str], set[str]], vocabulary: dict[str, int], description: str
) -> Any:
    """Which n-grams (columns) each folded string (row) has, as ones; n-grams that are new join the vocabulary."""
    starts = np.zeros(len(strings) + 1, dtype=np.int64)
    pieces: list[npt.NDArray[np.int32]] = []
    with progress(description, len(strings), "strings") as report:
        for number, string in enumerate(strings):
            # Sorted, so that the columns do not depend on the order of a set.
            ids = [vocabulary.setdefault(gram, len(vocabulary)) for gram in sorted(grams_of(string))]
            pieces.append(np.array(ids, dtype=np.int32))
            starts[number + 1] = starts[number] + len(ids)
            report.advance(1)
    columns = np.concatenate([*pieces, np.zeros(0, dtype=np.int32)])
    shape = (len(strings), len(vocabulary))
    return csr_matrix((np.ones(len(columns), dtype=np.int32), columns, starts), shape=shape)


def _weights(by_name: Any) -> FloatArray:
    """Squared inverse document frequency of each n-gram (smoothed as scikit-learn does)."""
    rows, columns = by_name.shape
    counts = np.bincount(by_name.indices, minlength=columns)
    weights: FloatArray = ((np.log((rows + 1) / (counts + 1)) + 1) ** 2).astype(np.float32)
    return weights


def _parent_matrix(parents: pl.Series, concepts: Sequence[str]) -> Any:
    """Which concepts (columns) are direct parents of each concept (row)."""
    pairs = [(row, each) for row, its in enumerate(_parent_rows(parents, concepts)) for each in its]
    own, above = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return _ones(own, above, (len(concepts), len(concepts)))


def _parent_rows(parents: pl.Series, concepts: Sequence[str]) -> list[list[int]]:
    """Rows of the direct parents of each concept."""
    rows = {concept: row for row, concept in enumerate(concepts)}
    return [[rows[each] for each in its or () if each in rows] for its in parents.to_list()]


def _ones(rows: Any, columns: Any, shape: tuple[int, int]) -> Any:
    return csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
