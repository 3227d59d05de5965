from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from vlp.metrics import auroc, average_precision, estimate, patient_resamples, roc_curve

cases = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@given(cases)
def test_equal_to_scikit_learn_with_ties(rows: list[tuple[bool, int]]) -> None:
    labels, scores = zip(*rows, strict=True)
    assert float(auroc(labels, scores)) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    alarms, hits = roc_curve(labels, scores)
    expected_alarms, expected_hits, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(alarms, expected_alarms)
    assert np.allclose(hits, expected_hits)


@given(cases, st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(rows: list[tuple[bool, int]], seed: int) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(labels)))
    for row, area in zip(weights, auroc(labels, scores, weights), strict=True):
        repeated = np.repeat(labels, row), np.repeat(scores, row)
        if len(set(repeated[0])) < 2:
            assert math.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(*repeated))


@given(cases)
def test_a_rising_map_changes_nothing_and_a_falling_one_mirrors(rows: list[tuple[bool, int]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assert auroc(labels, scores**3 * 2.0 + 1) == pytest.approx(auroc(labels, scores))
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores))


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1]])
def test_undefined_is_not_one_half(labels: list[int]) -> None:
    assert math.isnan(float(auroc(labels, np.arange(len(labels)))))


def test_a_patient_brings_all_of_his_studies() -> None:
    patients = ["a", "b", "b", "c", "a", "d"]
    weights = patient_resamples(patients, 200, seed=3)
    assert (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, 1] == weights[:, 2]).all()
    drawn = weights[:, [0, 1, 3, 5]].sum(axis=1)
    assert (drawn == 4).all()


def test_a_thousand_resamples_are_distinct_and_repeatable() -> None:
    patients = [str(number) for number in range(300)]
    weights = patient_resamples(patients, 1000, seed=0)
    assert len({row.tobytes() for row in weights}) == 1000
    assert (weights == patient_resamples(patients, 1000, seed=0)).all()
    assert (weights != patient_resamples(patients, 1000, seed=1)).any()


def test_the_interval_is_95_percent_not_90() -> None:
    found = estimate(0.5, np.linspace(0, 1, 10_001))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert estimate(0.5, np.array([0.4, np.nan, 0.6])).resamples == 2
    assert math.isnan(estimate(float("nan"), np.array([0.4])).low)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """Binormal scores one unit apart: the true area is Phi(1/sqrt 2) = 0.7602."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3 == 0
    patients = [str(number) for number in range(120)]
    covered = 0
    for seed in range(200):
        scores = generator.normal(size=120) + labels
        found = estimate(float(auroc(labels, scores)), auroc(labels, scores, patient_resamples(patients, 300, seed)))
        covered += found.low <= 0.7602 <= found.high
    assert 180 <= covered <= 199


def test_every_resample_is_what_scikit_learn_gives() -> None:
    generator = np.random.default_rng(5)
    labels = np.arange(90) % 4 == 0
    scores = generator.normal(size=90).round(1) + 0.5 * labels  # with ties
    weights = patient_resamples([str(number // 2) for number in range(90)], 1000, seed=0)
    areas, precisions = auroc(labels, scores, weights), average_precision(labels, scores, weights)
    assert areas.shape == precisions.shape == (1000,)
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(roc_auc_score(labels, scores, sample_weight=row), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(labels, scores, sample_weight=row), abs=1e-12)


def test_a_score_that_is_no_number_leaves_the_area_undefined() -> None:
    weights = np.ones((3, 3))
    for metric in (auroc, average_precision):
        assert np.isnan(metric([0, 1, 1], [0.1, np.nan, 0.3])).all()
        assert np.isnan(metric([0, 1, 1], [0.1, np.nan, 0.3], weights)).all()


def test_average_precision_without_positives_is_undefined() -> None:
    assert math.isnan(float(average_precision([0, 0], [0.1, 0.2])))
    weights = np.array([[1, 1, 0], [0, 1, 1]])
    found = average_precision([1, 0, 0], [0.3, 0.2, 0.1], weights)
    assert found[0] == 1
    assert math.isnan(found[1])
