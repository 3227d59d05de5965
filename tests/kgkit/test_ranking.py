"""Ranks and their figures, against PyKEEN, against loops in plain Python, and under transformations."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pykeen.evaluation.ranks import Ranks

from kgkit.errors import KgkitError
from kgkit.ranking import (
    bootstrap_interval,
    filtered_ranks,
    percentile_interval,
    realistic_ranks,
    resample,
    summarise_ranks,
)

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def queries(draw: st.DrawFn) -> Case:
    """Whole-numbered scores with many ties, the right column of each row, other known columns."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 12)))
    scores = draw(hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
    positive = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    known = draw(hnp.arrays(np.bool_, shape))
    return scores, positive, known


@given(queries())
def test_ranks_equal_pykeens_and_a_plain_loop(case: Case) -> None:
    scores, positive, known = case
    ranks = realistic_ranks(scores, positive, known)
    own = torch.from_numpy(np.take_along_axis(scores, positive[:, None], axis=1))
    filtered = torch.from_numpy(scores.copy())
    others = torch.from_numpy(known).scatter(1, torch.from_numpy(positive)[:, None], value=False)
    filtered[others] = torch.nan  # PyKEEN's way of filtering
    pykeen = Ranks.from_scores(true_score=own, all_scores=filtered)
    np.testing.assert_array_equal(ranks, pykeen.realistic.numpy())
    assert (pykeen.optimistic.numpy() <= ranks).all()
    assert (ranks <= pykeen.pessimistic.numpy()).all()
    for row, rank in enumerate(ranks):
        right = scores[row, positive[row]]
        rivals = [s for column, s in enumerate(scores[row]) if column != positive[row] and not known[row, column]]
        first, last = 1 + sum(s > right for s in rivals), 1 + sum(s >= right for s in rivals)
        assert rank == (first + last) / 2


@given(queries())
def test_known_columns_as_lists_give_what_the_mask_gives(case: Case) -> None:
    scores, positive, known = case
    starts = np.concatenate([[0], known.sum(axis=1).cumsum()])
    columns = np.nonzero(known)[1]
    np.testing.assert_array_equal(
        filtered_ranks(scores, positive, starts, columns), realistic_ranks(scores, positive, known)
    )


@given(queries())
def test_filtering_never_worsens_a_rank(case: Case) -> None:
    scores, positive, known = case
    assert (realistic_ranks(scores, positive, known) <= realistic_ranks(scores, positive, np.zeros_like(known))).all()


@given(queries(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(case: Case, random: Random) -> None:
    scores, positive, known = case
    order = np.array(random.sample(range(scores.shape[1]), scores.shape[1]))
    place = np.argsort(order)
    moved = realistic_ranks(scores[:, order], place[positive], known[:, order])
    np.testing.assert_array_equal(moved, realistic_ranks(scores, positive, known))


@given(queries())
def test_a_strictly_rising_map_of_the_scores_changes_nothing(case: Case) -> None:
    scores, positive, known = case
    np.testing.assert_array_equal(
        realistic_ranks(scores**3 + 2 * scores + 7, positive, known), realistic_ranks(scores, positive, known)
    )


@given(st.integers(1, 4), st.integers(1, 50))
def test_constant_scores_give_the_middle_rank(num_queries: int, num_candidates: int) -> None:
    scores = np.full((num_queries, num_candidates), 0.25)
    ranks = realistic_ranks(scores, np.zeros(num_queries, dtype=np.int64), np.zeros(scores.shape, dtype=bool))
    np.testing.assert_array_equal(ranks, (num_candidates + 1) / 2)


def test_scores_that_are_not_numbers_are_refused_instead_of_ranked_first() -> None:
    scores = np.array([[1.0, np.nan]])
    with pytest.raises(KgkitError, match="not a number"):
        realistic_ranks(scores, np.array([1]), np.zeros(scores.shape, dtype=bool))
    with pytest.raises(KgkitError, match="not a number"):
        filtered_ranks(scores, np.array([1]), np.array([0, 0]), np.array([], dtype=np.int64))


def test_inputs_are_not_changed() -> None:
    scores, positive, known = np.array([[1.0, 2.0]]), np.array([0]), np.array([[True, False]])
    realistic_ranks(scores, positive, known)
    assert known.tolist() == [[True, False]]
    assert scores.tolist() == [[1.0, 2.0]]


def test_figures_of_a_worked_example() -> None:
    figures = summarise_ranks(np.array([1.0, 2.0, 1.5, 10.0, 20.0]), num_candidates=100)
    assert figures.mrr == pytest.approx((1 + 1 / 2 + 1 / 1.5 + 1 / 10 + 1 / 20) / 5)
    assert (figures.hits_at_1, figures.hits_at_10, figures.mean_rank) == (0.2, 0.8, 6.9)
    assert (figures.hits_at_3, figures.hits_at_5) == (0.6, 0.6)
    assert (figures.num_queries, figures.num_candidates) == (5, 100)


def test_bootstrap_interval_holds_the_mean_repeats_and_narrows_with_more_values() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, seed=3)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(np.full(9, 0.5), seed=1) == (0.5, 0.5)
    fewer = bootstrap_interval(values[:40], seed=3)
    assert fewer[1] - fewer[0] > 2 * (high - low)
    normal = 2 * 1.96 * values.std() / 20  # width of the normal approximation
    assert high - low == pytest.approx(normal, rel=0.1)


def test_resamples_repeat_and_draw_every_unit_equally_often() -> None:
    draws = list(resample(7, seed=2, num_resamples=3000))
    assert all((a == b).all() for a, b in zip(draws, resample(7, seed=2, num_resamples=3000), strict=True))
    assert all(len(draw) == 7 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=7)
    assert counts == pytest.approx(np.full(7, 3000), rel=0.1)


def test_an_interval_passes_over_resamples_without_a_value() -> None:
    values = np.arange(1.0, 102.0)
    with_holes = np.concatenate([values, np.full(40, np.nan)])
    assert percentile_interval(with_holes) == percentile_interval(values) == pytest.approx((3.5, 98.5))
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()
