from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vlp.config import LossConfig
from vlp.losses import (
    class_balance,
    query_loss,
    sentence_targets,
    shared_concepts,
    soft_contrast_loss,
    target_weights,
)
from vlp.types import TargetValue

PRESENT, ABSENT, UNCERTAIN, UNMENTIONED = (int(value) for value in TargetValue)


def targets_of(*rows: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def test_each_state_has_its_gradient() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    targets = targets_of((PRESENT, ABSENT, UNCERTAIN, UNMENTIONED))
    query_loss(logits, targets, target_weights(targets, LossConfig(unmentioned_weight=0.5))).backward()
    # the derivative of BCE at 0 is sigmoid(0) - y = -1/2 or 1/2, weighted 1, 1, 0, 1/2 and divided by 2.5
    assert torch.allclose(logits.grad, torch.tensor([[-0.2, 0.2, 0.0, 0.1]]))


@given(st.integers(0, 10_000))
def test_full_weights_are_plain_cross_entropy(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, generator=generator)
    targets = torch.tensor([PRESENT, ABSENT, UNMENTIONED])[torch.randint(3, (3, 5), generator=generator)]
    expected = F.binary_cross_entropy_with_logits(logits, (targets == PRESENT).float())
    assert torch.allclose(query_loss(logits, targets, torch.ones(3, 5)), expected)


def test_nothing_known_costs_nothing() -> None:
    targets = targets_of((UNCERTAIN, UNMENTIONED), (UNCERTAIN, UNMENTIONED))
    weights = target_weights(targets, LossConfig(unmentioned_weight=0.0))
    assert float(query_loss(torch.randn(2, 2), targets, weights)) == 0.0


def test_as_kad_does_it_everything_but_present_is_a_full_negative() -> None:
    targets = targets_of((PRESENT, ABSENT, UNCERTAIN, UNMENTIONED))
    weights = target_weights(targets, LossConfig(unmentioned_weight=1.0, uncertain_weight=1.0))
    assert weights.tolist() == [[1.0, 1.0, 1.0, 1.0]]


@given(st.integers(0, 10_000))
def test_full_balance_gives_positives_the_weight_of_negatives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.tensor([PRESENT, ABSENT, UNCERTAIN, UNMENTIONED], dtype=torch.int8)
    targets = states[torch.randint(4, (30, 3), generator=generator)]
    config = LossConfig(class_balance=1.0)
    weights = target_weights(targets, config, class_balance(targets, config))
    is_present = targets == PRESENT
    assert torch.allclose((weights * is_present).sum(0), (weights * ~is_present).sum(0), rtol=1e-4)
    even = LossConfig(class_balance=0.0)
    assert torch.equal(class_balance(targets, even), torch.ones(3))


def test_a_sentence_is_true_of_its_own_film_and_of_films_that_have_all_it_says() -> None:
    says = torch.tensor([[True, True, False], [False, False, False], [False, False, True]])
    own = torch.tensor([[False, False, True], [True, True, False], [False, False, False]])
    told = sentence_targets(
        own,
        says,
        targets_of((PRESENT, PRESENT, UNMENTIONED), (PRESENT, UNMENTIONED, ABSENT), (ABSENT, PRESENT, ABSENT)),
    )
    assert told.tolist() == [
        [PRESENT, UNMENTIONED, PRESENT],  # has both concepts of the first; the second says nothing to go by
        [PRESENT, PRESENT, ABSENT],  # its own, though the report does not call both present; the third is denied
        [ABSENT, UNMENTIONED, ABSENT],
    ]


def test_overlap_is_the_squared_jaccard_index() -> None:
    overlap = shared_concepts(
        targets_of((PRESENT, PRESENT, ABSENT), (PRESENT, ABSENT, ABSENT), (ABSENT, UNCERTAIN, UNMENTIONED))
    )
    assert overlap.tolist() == [[1.0, 0.25, 0.0], [0.25, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("size", [2, 7])
def test_equal_logits_cost_log_b(size: int) -> None:
    same = F.normalize(torch.ones(size, 4), dim=1)
    assert float(soft_contrast_loss(same, same, torch.eye(size), 10.0)) == pytest.approx(math.log(size), abs=1e-5)


@given(st.integers(0, 10_000))
def test_identity_overlap_is_infonce(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, reports = (F.normalize(torch.randn(5, 6, generator=generator), dim=1) for _ in range(2))
    logits, order = images @ reports.T * 7.0, torch.arange(5)
    expected = (F.cross_entropy(logits, order) + F.cross_entropy(logits.T, order)) / 2
    assert torch.allclose(soft_contrast_loss(images, reports, torch.eye(5), 7.0), expected, atol=1e-5)


def test_studies_with_the_same_concepts_may_be_exchanged() -> None:
    images, reports = torch.eye(3), torch.eye(3)
    overlap = shared_concepts(targets_of((PRESENT, ABSENT), (PRESENT, ABSENT), (ABSENT, PRESENT)))
    exchanged = reports[[1, 0, 2]]
    kept, swapped = (soft_contrast_loss(images, r, overlap, 5.0) for r in (reports, exchanged))
    assert torch.allclose(kept, swapped)
    strict = [soft_contrast_loss(images, r, torch.eye(3), 5.0) for r in (reports, exchanged)]
    assert strict[1] > strict[0] + 1


def test_a_study_without_concepts_takes_no_part() -> None:
    images = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    overlap = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    soft_contrast_loss(images, images.detach(), overlap, 5.0).backward()
    assert (images.grad[2] == 0).all()
    assert (images.grad[:2] != 0).any()
