"""Splits that do not leak, and the shuffled control."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.arrays import IntArray
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.benchmarks import read_benchmark
from kgkit.views.splits import TripleSplit, leakage, shuffle_tails, split_concepts, split_triples
from kgkit.views.triples import TripleView, open_triples

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


@given(views(), st.floats(0, 0.2), st.integers(0, 2**32))
def test_a_split_never_holds_out_more_than_a_group_beyond_what_was_asked(
    view: TripleView, fraction: float, seed: int
) -> None:
    split = split_triples(view, fraction, seed)
    largest = max(Counter(frozenset((head, tail)) for head, _, tail in view.triples.tolist()).values(), default=0)
    assert len(split.test) <= max(0, round(fraction * len(view.triples)) + largest - 1)
    assert len(split.valid) <= max(0, round(fraction * len(view.triples) / 2) + largest - 1)


@given(views(), st.floats(0, 0.5), st.integers(0, 2**32))
def test_held_out_concepts_are_never_seen_in_training(view: TripleView, fraction: float, seed: int) -> None:
    split = split_concepts(view, fraction, seed)
    parts, valid, test = split.triples, set(split.valid_concepts.tolist()), set(split.test_concepts.tolist())
    assert not valid & test
    for row in parts.train.tolist():
        assert not {row[0], row[2]} & (valid | test)
    for row in parts.valid.tolist():
        assert {row[0], row[2]} & valid
        assert not {row[0], row[2]} & test
    for row in parts.test.tolist():
        assert {row[0], row[2]} & test
    every = (parts.train, parts.valid, parts.test)
    assert sum(map(len, every)) == len(view.triples)
    assert rows_of(np.concatenate(every)) == rows_of(view.triples)
    assert set(view.triples[:, 1].tolist()) == set(parts.train[:, 1].tolist())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not pairs_of(every[one]) & pairs_of(every[other])
    assert len(test) <= round(fraction * len(set(view.triples[:, [0, 2]].ravel().tolist())))
    assert np.array_equal(parts.test, split_concepts(view, fraction, seed).triples.test)


@given(views(), views())
def test_leakage_counts_what_a_slow_reading_counts(train: TripleView, test: TripleView) -> None:
    measured = leakage(TripleSplit(train.triples, train.triples[:0], test.triples, seed=None))
    known = {(head, tail) for head, _, tail in train.triples.tolist()}
    backwards = [row for row in test.triples.tolist() if (row[2], row[0]) in known]
    again = [row for row in test.triples.tolist() if (row[0], row[2]) in known]
    either = rows_of(np.array(backwards + again, dtype=np.int64).reshape(-1, 3))
    count = max(len(test.triples), 1)
    assert (measured.reversed, measured.duplicated) == (len(backwards) / count, len(again) / count)
    assert measured.either == len(either) / count
    uses, back, same = (Counter(row[1] for row in rows) for rows in (test.triples.tolist(), backwards, again))
    rows = [(row.relation, row.num_test, row.reversed, row.duplicated) for row in measured.by_relation]
    assert rows == [(relation, uses[relation], back[relation], same[relation]) for relation in sorted(uses)]


@pytest.fixture(scope="module")
def thorax(thorax_kg_dir: Path) -> TripleView:
    return open_triples(KnowledgeGraph(thorax_kg_dir).views)


def test_the_split_of_the_bundled_graph_keeps_the_laws_and_the_share(thorax: TripleView) -> None:
    split = split_triples(thorax, 0.1, seed=0)
    hold_laws(thorax, split)
    assert abs(len(split.test) - 0.1 * len(thorax.triples)) <= 5
    assert abs(len(split.valid) - 0.05 * len(thorax.triples)) <= 5


def test_no_split_of_the_bundled_graph_leaks(thorax: TripleView) -> None:
    by_concept = split_concepts(thorax, 0.1, seed=0)
    for split in (split_triples(thorax, 0.1, seed=0), by_concept.triples):
        assert len(split.test)
        assert leakage(split).either == 0
    linked = len(np.unique(thorax.triples[:, [0, 2]]))
    assert len(by_concept.test_concepts) == round(0.1 * linked)
    assert len(by_concept.valid_concepts) == round(0.05 * linked)


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


def write_parts(folder: Path, parts: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_published_split_is_kept_as_published(tmp_path: Path) -> None:
    packed = gzip.compress("é\tisa\tb\nb\tisa\té\n".encode())
    parts = {"train.txt": b"c\tr\tb\nb\tisa\tc\nc\tr\tb\n", "valid.txt": b"", "test.txt.gz": packed}
    view, split = read_benchmark(write_parts(tmp_path / "set", parts))
    assert (view.concepts, view.relations) == (("b", "c", "é"), ("isa", "r"))
    assert split.train.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert split.valid.shape == (0, 3)
    assert split.test.tolist() == [[2, 0, 0], [0, 0, 2]]
    assert view.triples.tolist() == [[0, 0, 1], [0, 0, 2], [1, 1, 0], [2, 0, 0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.txt", b"a\tr\tb\na\tb\n", r"train\.txt, line 2: expected head, relation and tail .*'a\\tb'"),
        ("train.txt", b"a\t\tb\n", r"train\.txt, line 1: "),
        ("train.txt", b"a\tr\tb\n\na\tr\tb\n", r"train\.txt, line 2: .* found ''"),
        ("test.txt", b"\xff\tr\tb\n", r"test\.txt: not readable as text"),
        ("test.txt.gz", b"not gzip", r"test\.txt\.gz: not readable as text"),
        ("other.txt", b"", r"set: a benchmark has (train|test)\.txt or .*neither is here"),
    ],
)
def test_a_broken_benchmark_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    good = {"train.txt": b"a\tr\tb\n", "valid.txt": b"", "test.txt": b"a\tr\tb\n"}
    missing = name.removesuffix(".gz") if name != "other.txt" else "test.txt"
    parts = {part: data for part, data in good.items() if part != missing} | {name: content}
    with pytest.raises(InputError, match=message):
        read_benchmark(write_parts(tmp_path / "set", parts))


@pytest.fixture(scope="module")
def wn18rr() -> tuple[TripleView, TripleSplit]:
    if "KGKIT_DATA" not in os.environ:
        pytest.skip("KGKIT_DATA names no folder with kg/wn18rr")
    return read_benchmark(Path(os.environ["KGKIT_DATA"]) / "kg" / "wn18rr")


@pytest.mark.data
def test_the_official_split_of_wn18rr_leaks_a_third_and_ours_nothing(wn18rr: tuple[TripleView, TripleSplit]) -> None:
    view, official = wn18rr
    assert (view.num_concepts, view.num_relations) == (40_943, 11)
    assert (len(official.train), len(official.valid), len(official.test)) == (86_835, 3_034, 3_134)
    measured = leakage(official)
    assert 0.34 < measured.reversed < 0.36
    related = next(row for row in measured.by_relation
                   if view.relations[row.relation] == "_derivationally_related_form")  # fmt: skip
    assert related.reversed > 0.9 * related.num_test
    ours = split_triples(view, 0.1, seed=0)
    hold_laws(view, ours)
    assert leakage(ours).either == 0
    assert leakage(split_concepts(view, 0.1, seed=0).triples).either == 0
    assert abs(len(ours.test) - 0.1 * len(view.triples)) <= 10
