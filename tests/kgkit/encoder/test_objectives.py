"""The contrastive objectives and the mask of known facts."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_thorax import unit_rows
from torch.nn import functional as F

from kgkit.encoder.objectives import multi_positive_contrast, relation_truth_mask, same_concept, triple_keys

SIZES = st.integers(2, 12)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(unit_rows(count, 8, seed))


@given(SIZES)
def test_equal_logits_cost_log_of_the_batch(count: int) -> None:
    same = rows(1, 0).expand(count, -1)
    loss = multi_positive_contrast(same, same, torch.eye(count, dtype=torch.bool), 20.0)
    assert float(loss) == pytest.approx(math.log(count), abs=1e-5)


def test_the_loss_falls_to_zero_as_the_right_pairs_win() -> None:
    basis = torch.eye(6)
    losses = [float(multi_positive_contrast(basis, basis, torch.eye(6, dtype=torch.bool), s)) for s in (1, 5, 20, 80)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6
    assert losses[0] > 1.0


@given(SIZES, st.integers(0, 99))
def test_one_positive_per_row_is_the_cross_entropy_of_both_directions(count: int, seed: int) -> None:
    left, right = rows(count, seed), rows(count, seed + 1)
    target, logits = torch.arange(count), 7.0 * left @ right.T
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    loss = multi_positive_contrast(left, right, torch.eye(count, dtype=torch.bool), 7.0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@given(SIZES, SIZES, st.integers(0, 99))
def test_several_positives_average_their_log_likelihood(num_left: int, num_right: int, seed: int) -> None:
    """SupCon's outer form written as loops."""
    generator = np.random.default_rng(seed)
    left, right = rows(num_left, seed), rows(num_right, seed + 1)
    positive = generator.random((num_left, num_right)) < 0.4
    positive[:, 0] = positive[0, :] = True
    logits = (5.0 * left @ right.T).double().numpy()

    def one_way(table: np.ndarray, right_ones: np.ndarray) -> float:
        terms = []
        for row, wanted in zip(table, right_ones, strict=True):
            total = math.log(sum(math.exp(value) for value in row))
            terms.append(-np.mean([row[column] - total for column in np.flatnonzero(wanted)]))
        return float(np.mean(terms))

    expected = (one_way(logits, positive) + one_way(logits.T, positive.T)) / 2
    loss = multi_positive_contrast(left, right, torch.from_numpy(positive), 5.0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@given(SIZES, st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(count: int, random: Random) -> None:
    left, right = rows(count, 1), rows(count, 2)
    concepts = torch.arange(count) // 2
    order = torch.tensor(random.sample(range(count), count))
    loss = multi_positive_contrast(left, right, same_concept(concepts, concepts), 20.0)
    other = multi_positive_contrast(left, right[order], same_concept(concepts, concepts[order]), 20.0)
    assert float(loss) == pytest.approx(float(other), rel=1e-5)


def test_two_names_of_one_concept_attract_each_other_where_plain_infonce_would_repel() -> None:
    concepts = torch.tensor([0, 0, 1, 2])
    left = torch.eye(4)
    pulls = {}
    for kind, positive in {"ours": same_concept(concepts, concepts), "plain": torch.eye(4, dtype=torch.bool)}.items():
        right = torch.full((4, 4), 0.5, requires_grad=True)  # as near to every name on the left: all logits are equal
        multi_positive_contrast(left, right, positive, 20.0).backward()
        pulls[kind] = -float(right.grad[1, 0])  # along the other name of its own concept
    assert pulls["ours"] > 1e-3
    assert pulls["plain"] < -1e-3


def test_gradients_stay_finite_for_equal_vectors_and_a_steep_scale() -> None:
    left = rows(1, 0).repeat(5, 1).requires_grad_()
    multi_positive_contrast(left, left, torch.ones(5, 5, dtype=torch.bool), 1e4).backward()
    assert torch.isfinite(left.grad).all()


def test_same_concept() -> None:
    mask = same_concept(torch.tensor([3, 5]), torch.tensor([5, 3, 3]))
    assert mask.tolist() == [[False, True, True], [True, False, False]]


FACTS = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 6)), max_size=40)


@given(FACTS)
def test_truth_mask_equals_a_set_of_facts(facts: set[tuple[int, int, int]]) -> None:
    sizes = (7, 3)
    table = torch.tensor(sorted(facts), dtype=torch.int64).reshape(-1, 3)
    keys = triple_keys(table[:, 0], table[:, 1], table[:, 2], sizes).sort().values
    heads, relations = torch.arange(7), torch.arange(3)
    mask = relation_truth_mask(keys, heads[:, None, None], relations[None, :, None], torch.arange(7), sizes)
    assert mask.shape == (7, 3, 7)
    for fact in itertools.product(range(7), range(3), range(7)):
        assert bool(mask[fact]) == (fact in facts)


@given(st.sets(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 8)), min_size=1))
def test_keys_are_distinct(facts: set[tuple[int, int, int]]) -> None:
    table = torch.tensor(sorted(facts))
    keys = triple_keys(table[:, 0], table[:, 1], table[:, 2], (9, 5))
    assert len(keys.unique()) == len(facts)
