"""Splits that do not leak: a fact and everything that gives it away stand on one side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kgkit.arrays import BoolArray, IntArray
from kgkit.views.encode import are_in_sorted
from kgkit.views.triples import TripleView

_TRAIN, _VALID, _TEST = 0, 1, 2


@dataclass(frozen=True)
class TripleSplit:
    """Three parts of a view's triples; ours are disjoint and together all of them.

    Attributes:
        train: int64 [n, 3].
        valid: int64 [m, 3].
        test: int64 [k, 3].
        seed: What drew them; None for a published split.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    seed: int | None


@dataclass(frozen=True)
class ConceptSplit:
    """A split by concept: what is asked about was never seen in training.

    Attributes:
        triples: Train: no end is held out. Test: an end is in `test_concepts`. Valid: the others, with an end in
            `valid_concepts`.
        valid_concepts: int64 [v], sorted.
        test_concepts: int64 [t], sorted; disjoint from `valid_concepts`.
    """

    triples: TripleSplit
    valid_concepts: IntArray
    test_concepts: IntArray


@dataclass(frozen=True)
class RelationLeakage:
    """What training gives away of the test triples of one relation.

    Attributes:
        relation: Its row in the view.
        num_test: Its test triples.
        reversed: Those (h, r, t) with any (t, *, h) in train.
        duplicated: Those with any (h, *, t) in train.
    """

    relation: int
    num_test: int
    reversed: int
    duplicated: int


@dataclass(frozen=True)
class Leakage:
    """What training gives away of all test triples, as shares from 0 to 1; 0 of an empty test part.

    Attributes:
        reversed: Share of test triples (h, r, t) with any (t, *, h) in train.
        duplicated: Share with any (h, *, t) in train.
        either: Share with one of both.
        by_relation: Counts for every relation in the test part, in order of its row.
    """

    reversed: float
    duplicated: float
    either: float
    by_relation: tuple[RelationLeakage, ...]


def split_triples(view: TripleView, fraction: float, seed: int) -> TripleSplit:
    """Hold out about `fraction` of the triples for test and half as many for validation.

    All triples between the same two concepts (inverses, duplicates under another relation name) form one group and
    stay together. A group is only held out while every concept and relation of it keeps a training triple, so the
    test is transductive; a graph with few triples per concept may have fewer to hold out than wanted.

    Args:
        view: The triples to split.
        fraction: Share of the triples in the test part, 0 to 0.5.
        seed: Draws the groups.
    """
    triples = view.triples
    group, sizes = _pair_groups(triples)
    side = np.full(len(sizes), _TRAIN)
    wanted = {_TEST: round(fraction * len(triples)), _VALID: round(fraction * len(triples) / 2)}
    generator = np.random.default_rng(seed)
    while any(count > 0 for count in wanted.values()):
        order = generator.permutation(len(sizes))
        spare = order[_spare(view, group, side == _TRAIN, order)[order]]
        if not len(spare):
            break
        for part in (_TEST, _VALID):
            taken = spare[np.cumsum(sizes[spare]) - sizes[spare] < wanted[part]]
            side[taken] = part
            wanted[part] -= int(sizes[taken].sum())
            spare = spare[len(taken) :]
    return _parts(triples, side[group], seed)


def split_concepts(view: TripleView, fraction: float, seed: int) -> ConceptSplit:
    """Hold out concepts with all their triples: about `fraction` of those with triples, half as many for validation.

    A triple goes with its held-out end (test before valid), so all triples between the same two concepts stay
    together. For every relation the ends of one triple drawn at random are never held out, so each relation is seen
    in training. An end that is not held out may lose all its training triples.

    Args:
        view: The triples to split.
        fraction: Share of the concepts in the test part, 0 to 0.5.
        seed: Draws the concepts.
    """
    triples = view.triples
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(triples))
    witness = np.full(view.num_relations, -1)
    witness[triples[order, 1]] = order  # numpy keeps the last of what it assigns to one place
    connected = _marked(triples[:, [0, 2]], view.num_concepts)
    bound = _marked(triples[witness[witness >= 0]][:, [0, 2]], view.num_concepts)
    free = generator.permutation(np.flatnonzero(connected & ~bound))
    num_test, num_valid = round(fraction * connected.sum()), round(fraction * connected.sum() / 2)
    test, valid = np.sort(free[:num_test]), np.sort(free[num_test : num_test + num_valid])
    home = np.full(view.num_concepts, _TRAIN)
    home[valid], home[test] = _VALID, _TEST
    side = np.maximum(home[triples[:, 0]], home[triples[:, 2]])
    return ConceptSplit(_parts(triples, side, seed), valid, test)


def leakage(split: TripleSplit) -> Leakage:
    """Measure how much of the test part the training part gives away."""
    base = 1 + max((int(part[:, [0, 2]].max(initial=0)) for part in (split.train, split.test)), default=0)
    known = np.sort(split.train[:, 0] * base + split.train[:, 2])
    head, relation, tail = split.test.T
    backwards, again = are_in_sorted(known, tail * base + head), are_in_sorted(known, head * base + tail)
    relations, row = np.unique(relation, return_inverse=True)
    counts = [np.bincount(row, weights=weights, minlength=len(relations)).astype(np.int64).tolist()
              for weights in (None, backwards, again)]  # fmt: skip
    by_relation = [RelationLeakage(*values) for values in zip(relations.tolist(), *counts, strict=True)]
    return Leakage(_share(backwards), _share(again), _share(backwards | again), tuple(by_relation))


def shuffle_tails(triples: IntArray, seed: int) -> IntArray:
    """The degree-preserving control: tails permuted within each relation.

    Every concept keeps how often it is head and tail of each relation; what it is related to becomes chance.
    """
    shuffled = triples.copy()
    generator = np.random.default_rng(seed)
    order = np.argsort(triples[:, 1], kind="stable")
    bounds = np.flatnonzero(np.diff(triples[order, 1])) + 1
    for rows in np.split(order, bounds):
        shuffled[rows, 2] = triples[generator.permutation(rows), 2]
    return shuffled


def _pair_groups(triples: IntArray) -> tuple[IntArray, IntArray]:
    """Group of each triple, one group per unordered pair of ends; and the size of each group."""
    low, high = np.minimum(triples[:, 0], triples[:, 2]), np.maximum(triples[:, 0], triples[:, 2])
    keys = low * (int(high.max(initial=0)) + 1) + high
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    return group, sizes


def _spare(view: TripleView, group: IntArray, in_train: BoolArray, order: IntArray) -> BoolArray:
    """Groups that may leave the training part together: no concept and no relation needs any of them.

    Each concept and relation keeps the training group that stands last in a random order.
    """
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    triples, places = view.triples[in_train[group]], place[group[in_train[group]]]
    last_of_concept = np.full(view.num_concepts, -1)
    np.maximum.at(last_of_concept, triples[:, 0], places)
    np.maximum.at(last_of_concept, triples[:, 2], places)
    last_of_relation = np.full(view.num_relations, -1)
    np.maximum.at(last_of_relation, triples[:, 1], places)
    needed = np.concatenate([last_of_concept, last_of_relation])
    spare = in_train.copy()
    spare[order[needed[needed >= 0]]] = False
    return spare


def _parts(triples: IntArray, side: IntArray, seed: int) -> TripleSplit:
    return TripleSplit(triples[side == _TRAIN], triples[side == _VALID], triples[side == _TEST], seed)


def _marked(rows: IntArray, count: int) -> BoolArray:
    marked = np.zeros(count, dtype=np.bool_)
    marked[rows] = True
    return marked


def _share(chosen: BoolArray) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0
