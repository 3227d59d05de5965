"""Facts in any order and notation to the learning view; sets of integer keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray, IntArray
from kgkit.views.triples import TripleView

Fact = tuple[str, str, str]
"""Head, relation, tail."""


def view_of_rows(concepts: Sequence[str], relations: Sequence[str], rows: IntArray) -> TripleView:
    """The view of facts that already have ids.

    Args:
        concepts: CURIEs, sorted.
        relations: Relation names, sorted.
        rows: int64 [n, 3] in any order, also repeated.
    """
    frame = pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row").unique().sort(pl.all())
    return TripleView(tuple(concepts), tuple(relations), np.ascontiguousarray(frame.to_numpy(), dtype=np.int64))


def are_in_sorted(known: IntArray, keys: IntArray) -> BoolArray:
    """Which keys are among some sorted ones; much faster than numpy.isin where `keys` are few or sorted.

    Args:
        known: int64, sorted.
        keys: int64.
    """
    if not len(known):
        return np.zeros(len(keys), dtype=np.bool_)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.equal(known[place], keys)


def encode_facts(
    parts: Iterable[Iterable[Fact]], concepts: Iterable[str] = (), relations: Iterable[str] = ()
) -> tuple[TripleView, list[IntArray]]:
    """The view of some lists of facts.

    Args:
        parts: Lists of facts.
        concepts: Concepts that exist even if no fact names them.
        relations: Relations that exist even if no fact uses them.

    Returns:
        The view of all parts, and of each part the rows, int64 [n, 3], in its own order and with its repetitions.
    """
    written = [list(part) for part in parts]
    every = [fact for part in written for fact in part]
    known = tuple(sorted({*concepts, *(end for head, _, tail in every for end in (head, tail))}))
    names = tuple(sorted({*relations, *(relation for _, relation, _ in every)}))
    concept_row = {concept: row for row, concept in enumerate(known)}
    relation_row = {relation: row for row, relation in enumerate(names)}
    encoded = []
    for part in written:
        ids = [(concept_row[head], relation_row[relation], concept_row[tail]) for head, relation, tail in part]
        encoded.append(np.array(ids, dtype=np.int64).reshape(-1, 3))
    return view_of_rows(known, names, np.concatenate([np.empty((0, 3), dtype=np.int64), *encoded])), encoded
