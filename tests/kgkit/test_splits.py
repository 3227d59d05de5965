"""Splits that do not leak, and the shuffled control."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.graph.store import KnowledgeGraph
from kgkit.views.splits import TripleSplit, shuffle_tails, split_triples
from kgkit.views.triples import IntArray, TripleView, open_triples

SMALL = 12


@st.composite
def views(draw: st.DrawFn) -> TripleView:
    """Any small graph: several relations and both directions between two concepts, isolated concepts."""
    ends = st.integers(0, SMALL - 1)
    rows = draw(st.sets(st.tuples(ends, st.integers(0, 2), ends).filter(lambda row: row[0] != row[2]), max_size=60))
    triples = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
    return TripleView(tuple(f"c{index:02}" for index in range(SMALL)), ("r0", "r1", "r2"), triples)


def rows_of(triples: IntArray) -> set[tuple[int, ...]]:
    return set(map(tuple, triples.tolist()))


def pairs_of(triples: IntArray) -> set[frozenset[int]]:
    return {frozenset((head, tail)) for head, _, tail in triples.tolist()}


def hold_laws(view: TripleView, split: TripleSplit) -> None:
    parts = (split.train, split.valid, split.test)
    assert sum(map(len, parts)) == len(view.triples)
    assert rows_of(np.concatenate(parts)) == rows_of(view.triples)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not pairs_of(parts[one]) & pairs_of(parts[other])
    for held_out in parts[1:]:
        assert set(held_out[:, [0, 2]].ravel().tolist()) <= set(split.train[:, [0, 2]].ravel().tolist())
        assert set(held_out[:, 1].tolist()) <= set(split.train[:, 1].tolist())


@given(views(), st.floats(0, 0.5), st.integers(0, 2**32))
def test_a_split_of_any_graph_keeps_the_laws(view: TripleView, fraction: float, seed: int) -> None:
    split = split_triples(view, fraction, seed)
    hold_laws(view, split)
    again = split_triples(view, fraction, seed)
    for part in ("train", "valid", "test"):
        assert np.array_equal(getattr(split, part), getattr(again, part))


@pytest.fixture(scope="module")
def thorax(thorax_kg_dir: Path) -> TripleView:
    return open_triples(KnowledgeGraph(thorax_kg_dir).views)


def test_the_split_of_the_bundled_graph_keeps_the_laws_and_the_share(thorax: TripleView) -> None:
    split = split_triples(thorax, 0.1, seed=0)
    hold_laws(thorax, split)
    assert abs(len(split.test) - 0.1 * len(thorax.triples)) <= 5
    assert abs(len(split.valid) - 0.05 * len(thorax.triples)) <= 5


def test_another_seed_draws_another_split(thorax: TripleView) -> None:
    one, other = (rows_of(split_triples(thorax, 0.1, seed).test) for seed in (0, 1))
    assert len(one & other) < 0.5 * len(one)


@given(views(), st.integers(0, 2**32))
def test_shuffling_keeps_every_degree_per_relation(view: TripleView, seed: int) -> None:
    shuffled = shuffle_tails(view.triples, seed)
    for columns in ([0, 1], [1, 2]):
        assert Counter(map(tuple, shuffled[:, columns])) == Counter(map(tuple, view.triples[:, columns]))
    assert np.array_equal(shuffled, shuffle_tails(view.triples, seed))


def test_shuffling_changes_most_edges(thorax: TripleView) -> None:
    before = thorax.triples.copy()
    shuffled = shuffle_tails(thorax.triples, seed=0)
    assert np.array_equal(thorax.triples, before)
    assert len(rows_of(shuffled) & rows_of(before)) < 0.1 * len(before)
