"""The contrastive objectives, the noise, and the mask of known facts."""

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

from kgkit.training.objectives import (
    kad_soft_contrast,
    linked_mask,
    linked_pairs,
    mask_tokens,
    multi_positive_contrast,
    multi_similarity,
    paired_contrast,
    relation_truth_mask,
    same_concept,
    triple_keys,
)

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


@given(FACTS, st.lists(st.integers(0, 6), max_size=6))
def test_linked_mask_equals_a_set_of_pairs(facts: set[tuple[int, int, int]], concepts: list[int]) -> None:
    pairs = linked_pairs(torch.tensor(sorted(facts), dtype=torch.int64).reshape(-1, 3), 7)
    mask = linked_mask(pairs, torch.tensor(concepts, dtype=torch.int64), 7)
    joined = {frozenset((head, tail)) for head, _, tail in facts}
    assert mask.tolist() == [[frozenset((one, other)) in joined for other in concepts] for one in concepts]


@given(st.sets(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 8)), min_size=1))
def test_keys_are_distinct(facts: set[tuple[int, int, int]]) -> None:
    table = torch.tensor(sorted(facts))
    keys = triple_keys(table[:, 0], table[:, 1], table[:, 2], (9, 5))
    assert len(keys.unique()) == len(facts)


# SapBERT's loss


def literal_multi_similarity(vectors: np.ndarray, labels: list[int], margin: float | None) -> float:
    """Every triplet by hand, then the formula anchor by anchor."""
    count, total = len(labels), 0.0
    pairs: set[tuple[int, int]] = set()
    for a, p, n in itertools.product(range(count), repeat=3):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            near, far = (float(np.linalg.norm(vectors[a] - vectors[other])) for other in (p, n))
            if margin is None or far - near <= margin:
                pairs |= {(a, p), (a, n)}
    if margin is None:
        pairs = {(a, b) for a in range(count) for b in range(count) if a != b}
    for a in range(count):
        mine = [b for anchor, b in pairs if anchor == a]
        positive = sum(math.exp(-(float(vectors[a] @ vectors[b]) - 0.5)) for b in mine if labels[b] == labels[a])
        negative = sum(math.exp(60 * (float(vectors[a] @ vectors[b]) - 0.5)) for b in mine if labels[b] != labels[a])
        total += math.log1p(positive) + math.log1p(negative) / 60
    return total / count


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 99), st.sampled_from([0.2, 0.0, None]))
def test_multi_similarity_equals_its_formula_over_all_triplets(
    labels: list[int], seed: int, margin: float | None
) -> None:
    vectors = rows(len(labels), seed)
    loss = multi_similarity(vectors, torch.tensor(labels), margin=margin)
    assert float(loss) == pytest.approx(literal_multi_similarity(vectors.double().numpy(), labels, margin), abs=1e-4)


def test_pairs_that_violate_no_triplet_are_left_alone() -> None:
    """Two concepts at right angles, their names all but equal: nothing to learn, and the gradient says so."""
    base = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    loss = multi_similarity(F.normalize(base, dim=1), labels)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(base.grad.abs().max()) == 0
    assert float(multi_similarity(F.normalize(base, dim=1), labels, margin=None).detach()) > 0.1


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [7]])
def test_batches_without_a_triplet_cost_nothing_and_break_nothing(labels: list[int]) -> None:
    vectors = rows(len(labels), 3).requires_grad_()
    loss = multi_similarity(vectors, torch.tensor(labels))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(vectors.grad).all()


def test_multi_similarity_pulls_positives_and_pushes_negatives() -> None:
    vectors = rows(6, 2).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    multi_similarity(F.normalize(vectors, dim=1), labels).backward()
    with torch.no_grad():
        before, after = (F.normalize(v, dim=1) for v in (vectors, vectors - 0.02 * vectors.grad))
    gains = after @ after.T - before @ before.T
    nearest = (before @ before.T).masked_fill(same_concept(labels, labels), -9).argmax(1)
    assert (gains[torch.arange(6), torch.tensor([1, 0, 3, 2, 5, 4])]).mean() > 0
    assert gains[torch.arange(6), nearest].mean() < 0


# KAD's contrast


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=9), st.integers(0, 99))
def test_kads_contrast_equals_its_description(ids: list[int], seed: int) -> None:
    count = len(ids)
    left, right = rows(count, seed), rows(count, seed + 1)
    target = np.zeros((count, count))
    for i, j in itertools.product(range(count), repeat=2):
        target[i, j] = i == j or (ids[i] == ids[j] and ids[i] >= 0)
    target /= np.sqrt((target**2).sum(axis=0))
    logits = 9.0 * (left @ right.T).double().numpy()

    def soft_cross_entropy(table: np.ndarray) -> float:
        total = 0.0
        for i in range(count):
            norm = math.log(sum(math.exp(value) for value in table[i]))
            total -= sum(target[i, j] * (table[i, j] - norm) for j in range(count))
        return total / count

    expected = (soft_cross_entropy(logits) + soft_cross_entropy(logits.T)) / 2
    assert float(kad_soft_contrast(left, right, torch.tensor(ids), 9.0)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_without_equal_ids_kads_contrast_is_infonce() -> None:
    left, right = rows(7, 1), rows(7, 2)
    expected = multi_positive_contrast(left, right, torch.eye(7, dtype=torch.bool), 5.0)
    for ids in (torch.arange(7), torch.full((7,), -1)):
        torch.testing.assert_close(kad_soft_contrast(left, right, ids, 5.0), expected)


def test_the_temperature_takes_a_gradient() -> None:
    scale = torch.tensor(3.0, requires_grad=True)
    kad_soft_contrast(rows(4, 1), rows(4, 2), torch.arange(4), scale).backward()
    assert scale.grad is not None
    assert float(scale.grad.abs()) > 0


# Masking


def test_masking_changes_the_shares_that_bert_changes() -> None:
    special, mask, size = [0, 1, 2], 2, 1000
    texts = [[0, *range(10, 210), 1] for _ in range(300)]
    noised = mask_tokens(texts, np.random.default_rng(0), mask, size, special)
    assert [len(row) for row in noised] == [len(row) for row in texts]
    assert all(row[0] == 0 and row[-1] == 1 for row in noised)
    before, after = np.array(texts)[:, 1:-1], np.array(noised)[:, 1:-1]
    assert (after == mask).mean() == pytest.approx(0.15 * 0.8, abs=0.005)
    others = (after != before) & (after != mask)
    assert others.mean() == pytest.approx(0.15 * 0.1, abs=0.002)
    assert len(np.unique(after[others])) > 300


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5), st.integers(0, 9))
def test_masking_keeps_special_tokens_lengths_and_its_draw(texts: list[list[int]], seed: int) -> None:
    one, same = (mask_tokens(texts, np.random.default_rng(seed), 3, 10, [0, 1, 3], 1.0) for _ in range(2))
    assert one == same
    assert [len(row) for row in one] == [len(row) for row in texts]
    for row, noised in zip(texts, one, strict=True):
        assert all(old == new for old, new in zip(row, noised, strict=True) if old in (0, 1, 3))
        assert all(0 <= new < 10 for new in noised)


def test_nothing_is_masked_with_a_share_of_nothing() -> None:
    assert mask_tokens([[5, 6], [], [7]], np.random.default_rng(0), 1, 10, [0], 0.0) == [[5, 6], [], [7]]


def test_the_loss_of_each_pair_makes_the_whole() -> None:
    left, right = (
        F.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)), dim=1) for seed in (1, 2)
    )
    concepts = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4, 5])
    each = paired_contrast(left, right, concepts, 5.0)
    assert each.shape == (9,)
    torch.testing.assert_close(each.mean(), multi_positive_contrast(left, right, same_concept(concepts, concepts), 5.0))
    # The loss of a pair by hand: its other side among all, both ways.
    logits = 5 * left @ right.T
    torch.testing.assert_close(each[0], -(logits.log_softmax(1)[0, 0] + logits.log_softmax(0)[0, 0]) / 2)


def test_a_spared_pair_costs_nothing_wherever_it_lies() -> None:
    basis = torch.eye(6)
    concepts = torch.tensor([0, 1, 2, 3, 3, 5])
    spared = torch.zeros(6, 6, dtype=torch.bool)
    spared[0, 1] = spared[1, 0] = True
    near = F.normalize(basis + 0.8 * basis[[1, 0, 2, 3, 4, 5]], dim=1)  # 0 and 1 lie together, the others alone
    apart, alike = (paired_contrast(vectors, vectors, concepts, 9.0, spared) for vectors in (basis, near))
    torch.testing.assert_close(apart, alike)
    assert float(paired_contrast(near, near, concepts, 9.0)[0]) > float(alike[0])
    # What is right stays right, spared or not.
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert paired_contrast(basis, basis, concepts, 9.0, everything)[[0, 1, 2, 5]].abs().max() < 1e-6


@given(SIZES, st.integers(0, 99))
def test_without_the_spared_the_loss_is_that_of_the_rest(count: int, seed: int) -> None:
    """The first pair spared by all: the others' loss is that of a batch without it."""
    left, right, concepts = rows(count, seed), rows(count, seed + 1), torch.arange(count)
    spared = torch.zeros(count, count, dtype=torch.bool)
    spared[0, :] = spared[:, 0] = True
    whole = paired_contrast(left, right, concepts, 7.0, spared)
    torch.testing.assert_close(whole[1:], paired_contrast(left[1:], right[1:], concepts[1:], 7.0), atol=1e-5, rtol=1e-5)
