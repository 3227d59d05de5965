"""Splits that do not leak: a fact and everything that gives it away stand on one side."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from kgkit.views.triples import IntArray, TripleView


@dataclass(frozen=True)
class TripleSplit:
    """Three disjoint parts of a view's triples; together they are all of them.

    Attributes:
        train: int64 [n, 3].
        valid: int64 [m, 3].
        test: int64 [k, 3].
        seed: What drew them.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    seed: int


def split_triples(view: TripleView, fraction: float, seed: int) -> TripleSplit:
    """Hold out about `fraction` of the triples for test and half as many for validation.

    All triples between the same two concepts (inverses, duplicates under another relation name) form one group and
    stay together. A group is only held out while every concept and relation of it keeps a training triple, so the
    test is transductive.

    Args:
        view: The triples to split.
        fraction: Share of the triples in the test part, 0 to 0.5.
        seed: Draws the groups.
    """
    triples = view.triples
    low, high = np.minimum(triples[:, 0], triples[:, 2]), np.maximum(triples[:, 0], triples[:, 2])
    _, group = np.unique(low * view.num_concepts + high, return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1, append=group.max(initial=-1) + 1))
    members = [order[start:end] for start, end in itertools.pairwise(bounds)]
    degree = np.bincount(triples[:, [0, 2]].ravel(), minlength=view.num_concepts)
    uses = np.bincount(triples[:, 1], minlength=view.num_relations)
    side = np.zeros(len(triples), dtype=np.int64)
    wanted = {2: round(fraction * len(triples)), 1: round(fraction * len(triples) / 2)}
    for index in np.random.default_rng(seed).permutation(len(members)):
        part = next((part for part in (2, 1) if wanted[part] > 0), None)
        if part is None:
            break
        rows = members[index]
        ends, relations = triples[rows][:, [0, 2]].ravel(), triples[rows, 1]
        left, kept = degree[ends[:2]] - len(rows), uses[relations] - len(rows)
        if (left < 1).any() or (kept < 1).any():
            continue
        degree[ends[:2]] -= len(rows)
        np.subtract.at(uses, relations, 1)
        side[rows] = part
        wanted[part] -= len(rows)
    return TripleSplit(triples[side == 0], triples[side == 1], triples[side == 2], seed)


def shuffle_tails(triples: IntArray, seed: int) -> IntArray:
    """The degree-preserving control: tails permuted within each relation.

    Every concept keeps how often it is head and tail of each relation; what it is related to becomes chance.
    """
    shuffled = triples.copy()
    generator = np.random.default_rng(seed)
    for relation in np.unique(triples[:, 1]):
        rows = np.flatnonzero(triples[:, 1] == relation)
        shuffled[rows, 2] = triples[generator.permutation(rows), 2]
    return shuffled
