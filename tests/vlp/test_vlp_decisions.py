"""Thresholds, calibration, retrieval ranks and paired differences, each against a slow independent way."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

from kgkit.interface import InputError
from vlp.config import TrainConfig, VlpRecipe
from vlp.evaluation.calibration import (
    expected_calibration_error,
    fit_calibration,
    load_calibration,
    logit,
    reliability,
    save_calibration,
)
from vlp.evaluation.compare import CompareConfig, compare, paired_differences
from vlp.evaluation.evaluate import EvaluateConfig, evaluate
from vlp.evaluation.operating import best_threshold, confusion, sensitivity_on_curve, threshold_at_specificity
from vlp.evaluation.retrieval import chance, first_right_ranks, normal_text, rank_metrics
from vlp.evaluation.subgroups import age_band
from vlp.training import train

answers = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def columns(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, dtype=float)


# --- operating points ---------------------------------------------------------------------------------------------


@given(answers, st.floats(-5, 5))
def test_outcomes_are_those_of_scikit_learn(rows: list[tuple[bool, int]], threshold: float) -> None:
    labels, scores = columns(rows)
    called = scores >= threshold
    found = confusion(labels, called)
    assert float(found.mcc) == pytest.approx(matthews_corrcoef(labels, called), abs=1e-12)
    assert float(found.f1) == pytest.approx(f1_score(labels, called, zero_division=0))
    assert float(found.sensitivity) == pytest.approx(recall_score(labels, called, zero_division=0))
    assert float(found.specificity) == pytest.approx(recall_score(~labels, ~called, zero_division=0))
    weights = np.random.default_rng(0).integers(0, 3, size=(4, len(labels)))
    for row, count in zip(weights, confusion(labels, called, weights).true_positives, strict=True):
        assert count == np.repeat(labels & called, row).sum()


@given(answers)
def test_no_threshold_is_better_than_the_best(rows: list[tuple[bool, int]]) -> None:
    labels, scores = columns(rows)
    threshold = best_threshold(labels, scores)
    if len(set(scores)) == 1:
        assert math.isnan(threshold)
        return
    between = [value for value in np.arange(-4.5, 5) if scores.min() < value <= scores.max()]
    tried = [matthews_corrcoef(labels, scores >= value) for value in between]
    assert matthews_corrcoef(labels, scores >= threshold) == pytest.approx(max(tried))
    assert threshold not in scores


@given(answers, st.floats(0.05, 0.99))
def test_the_lowest_threshold_with_enough_specificity(rows: list[tuple[bool, int]], wanted: float) -> None:
    labels, scores = columns(rows)
    threshold = threshold_at_specificity(labels, scores, wanted)
    assert (scores[~labels] < threshold).mean() >= wanted
    lower = [value for value in np.arange(-4.5, 5) if value < threshold and (scores[~labels] < value).mean() >= wanted]
    assert all((scores >= value).sum() == (scores >= threshold).sum() for value in lower)
    assert sensitivity_on_curve(labels, scores, wanted) == pytest.approx((scores[labels] >= threshold).mean())


def test_one_class_has_no_operating_point() -> None:
    assert math.isnan(best_threshold([0, 0], [0.1, 0.2]))
    assert math.isnan(threshold_at_specificity([1, 1], [0.1, 0.2], 0.9))
    assert math.isnan(float(confusion([0, 0], [0, 1]).mcc))
    assert math.isnan(float(confusion([0, 0], [0, 1]).f1))


# --- calibration --------------------------------------------------------------------------------------------------


def test_platt_undoes_a_known_distortion() -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(0.02, 0.98, size=20_000)
    labels = (generator.uniform(size=truth.shape) < truth).astype(float)
    told = 1 / (1 + np.exp(-(0.5 * logit(truth) - 1.5)))  # flatter, and too low
    read = fit_calibration(["x"], labels[:, None], told[:, None], "here").findings["x"]
    assert (read.slope, read.intercept) == (pytest.approx(2, abs=0.1), pytest.approx(3, abs=0.15))
    assert read.method == "platt"
    assert expected_calibration_error(labels, told) > 0.2
    assert expected_calibration_error(labels, read.apply(told)) < 0.02


def test_few_cases_get_the_common_slope_and_their_own_rate() -> None:
    generator = np.random.default_rng(1)
    labels = np.zeros((300, 3))
    labels[:100, 0], labels[:4, 1] = 1, 1
    scores = 1 / (1 + np.exp(-(generator.normal(size=(300, 3)) + 2 * labels)))
    found = fit_calibration(["often", "seldom", "never"], labels, scores, "here").findings
    assert [read.method for read in found.values()] == ["platt", "shared-slope", "shared-slope"]
    assert found["seldom"].slope == pytest.approx(found["often"].slope)
    assert found["seldom"].apply(scores[:, 1]).mean() == pytest.approx(4 / 300, abs=0.005)
    assert found["never"].threshold is None
    assert 0 < found["never"].apply(scores[:, 2]).mean() < 0.01
    assert fit_calibration(["unknown"], np.full((5, 1), np.nan), scores[:5, :1], "here").findings == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 3))
def test_a_calibration_keeps_the_order(values: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, scores = (generator.uniform(size=(60, 1)) < 0.4).astype(float), generator.uniform(size=(60, 1))
    read = fit_calibration(["x"], labels, scores, "here").findings["x"]
    calibrated = read.apply(np.sort(values))
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


def test_the_calibration_error_is_a_weighted_mean_over_bins() -> None:
    generator = np.random.default_rng(2)
    labels, scores = generator.uniform(size=95) < 0.3, generator.uniform(size=95)
    order = sorted(range(95), key=lambda row: scores[row])
    slow, taken = 0.0, 0
    for size in [10] * 5 + [9] * 5:
        rows = order[taken : taken + size]
        taken += size
        slow += size / 95 * abs(np.mean(scores[rows]) - np.mean(labels[rows]))
    assert expected_calibration_error(labels, scores) == pytest.approx(slow)
    assert reliability(labels, scores)[:, 2].sum() == 95
    assert len(reliability([True], [0.4])) == 1
    assert math.isnan(expected_calibration_error([], []))


def test_a_calibration_is_read_back(tmp_path: Path) -> None:
    labels, scores = np.array([[1.0], [0.0], [0.0]]), np.array([[0.6], [0.5], [0.1]])
    found = fit_calibration(["umls:C1"], labels, scores, "here", specificity=0.8)
    save_calibration(found, tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == found
    with pytest.raises(InputError, match=r"gone\.json: cannot be read"):
        load_calibration(tmp_path / "gone.json")


# --- retrieval ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 10))
def test_a_rank_is_the_mean_over_all_orders_of_ties(kinds: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = len(kinds)
    similarity = generator.integers(0, 3, size=(size, size)).astype(float)
    ranks = first_right_ranks(similarity, [str(kind) for kind in kinds])
    for row in range(size):
        slow = []
        for _ in range(400):
            order = sorted(range(size), key=lambda c: (-similarity[row, c], generator.uniform()))
            slow.append(1 + next(place for place, c in enumerate(order) if kinds[c] == kinds[row]))
        assert ranks[row] == pytest.approx(np.mean(slow), abs=0.12 * size**0.5 + 0.05)


def test_identical_reports_are_all_right_and_a_constant_model_gets_chance() -> None:
    texts = ["a", "a", "b", "c"]
    wrong_twin = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
    assert first_right_ranks(wrong_twin, texts).tolist() == [1, 1, 1, 1]
    ranks = np.array([np.mean([1, 1]), 1, 3, 4])
    metrics = rank_metrics(ranks, ["p", "q", "r", "s"], (50, 0))
    assert metrics["recall_at_1"]["value"] == 0.5
    assert metrics["recall_at_5"]["value"] == 1
    assert metrics["median_rank"]["value"] == 2
    assert metrics["recall_at_1"]["low"] <= 0.5 <= metrics["recall_at_1"]["high"]
    assert chance(texts)["recall_at_1"] == pytest.approx((2 * 0.5 + 2 * 0.25) / 4)
    assert chance(["a", "b"])["recall_at_5"] == 1
    assert normal_text(" No  Acute\ndisease ") == "no acute disease"


def test_ages_fall_into_bands() -> None:
    assert [age_band(years) for years in (0, 17.9, 18, 79, 95, None)] == ["0-17", "0-17", "18-39", "60-79", "80+", None]


# --- compare ------------------------------------------------------------------------------------------------------


def test_a_paired_interval_is_narrower_than_two_apart_and_turns_with_the_sides() -> None:
    generator = np.random.default_rng(0)
    labels = (np.arange(300) % 5 == 0).astype(float)[:, None]
    common = generator.normal(size=(300, 1)) + labels
    first, second = common + 0.1 * generator.normal(size=(300, 1)) + 0.1 * labels, common
    patients = [str(number) for number in range(300)]
    found = paired_differences(["x"], labels, (first, second), patients, (500, 0, 20))["macro_auroc"]
    turned = paired_differences(["x"], labels, (second, first), patients, (500, 0, 20))["macro_auroc"]
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert (turned["low"], turned["high"]) == (pytest.approx(-found["high"]), pytest.approx(-found["low"]))
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["high"] - found["low"] < 0.05  # each side alone has an interval of about 0.12
    same = paired_differences(["x"], labels, (first, first), patients, (500, 0, 20))["macro_auroc"]
    assert (same["difference"], same["low"], same["high"], same["above_zero"]) == (0, 0, 0, 0)


def test_normal_and_undefined_findings_stay_out_of_the_macro_difference() -> None:
    labels = np.stack([np.arange(60) < 25, np.arange(60) < 30, np.arange(60) < 0], axis=1).astype(float)
    scores = np.random.default_rng(0).uniform(size=(60, 3))
    found = paired_differences(
        ["x", "normal", "y"], labels, (scores, scores**2), [str(n) for n in range(60)], (50, 0, 20)
    )
    assert found["findings"] == ["x"]
    assert found["per_finding"]["y"]["auroc"]["difference"] is None
    nothing = paired_differences(["y"], labels[:, 2:], (scores[:, 2:], scores[:, 2:]), ["p"] * 60, (50, 0, 20))
    assert nothing["macro_auroc"] is None


def test_models_and_evaluations_compare_alike(
    tiny_model_dir: Path, tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, seed=5, optimizer=replace(tiny_recipe.optimizer, epochs=1))
    train(TrainConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "OTHER", recipe))
    config = CompareConfig(
        tiny_model_dir, tmp_path / "OTHER", tiny_data_dir, "train", tmp_path / "out.json", resamples=50
    )
    by_model = compare(config)
    assert json.loads((tmp_path / "out.json").read_text()) == by_model
    for model, name in ((tiny_model_dir, "A"), (tmp_path / "OTHER", "B")):
        evaluate(EvaluateConfig(model, tiny_data_dir, "train", tmp_path / name))
    by_folder = compare(CompareConfig(tmp_path / "A", tmp_path / "B", resamples=50))
    assert by_folder["per_finding"] == by_model["per_finding"]
    assert by_folder["macro_auroc"]["difference"] != 0
    evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "TEST"))
    with pytest.raises(InputError, match=r"saw different films \(36 and 6 studies, for instance study 100\)"):
        compare(CompareConfig(tmp_path / "A", tmp_path / "TEST"))
    with pytest.raises(InputError, match="this is a model: give DATA and --split"):
        compare(CompareConfig(tiny_model_dir, tmp_path / "A"))
    with pytest.raises(InputError, match="neither a model nor an evaluation"):
        compare(CompareConfig(tmp_path, tmp_path / "A"))
    with pytest.raises(InputError, match="this is a prepared data, expected a trained model"):
        compare(CompareConfig(tiny_data_dir, tmp_path / "A"))
    with pytest.raises(InputError, match=r"config\.resamples=0: expected 1 or more and 2 or more"):
        compare(CompareConfig(tmp_path / "A", tmp_path / "B", resamples=0))
    (tmp_path / "B" / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics\.json: not the figures of an evaluation"):
        compare(CompareConfig(tmp_path / "A", tmp_path / "B"))


def test_a_finding_without_an_answer_is_left_out_of_a_comparison(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    for name in ("A", "B"):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / name))
    path = tmp_path / "B" / "predictions.csv"
    table = pl.read_csv(path, infer_schema=False)
    first = pl.int_range(pl.len()) == 0
    table.with_columns(pl.when(~first).then("probability:Effusion").alias("probability:Effusion")).write_csv(path)
    found = compare(CompareConfig(tmp_path / "A", tmp_path / "B", min_positives=1))
    assert "Effusion" in found["not_in_both"]
    assert "Effusion" not in found["per_finding"]


def test_normal_asked_in_other_words_stays_out_of_the_mean_of_a_comparison(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    asked = ("Effusion=pleural effusion", "normal=nothing wrong")
    for name in ("A", "B"):
        metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / name, queries=asked))
        assert metrics["normal"]["query"] == "nothing wrong"
    found = compare(CompareConfig(tmp_path / "A", tmp_path / "B", min_positives=1))
    assert found["findings"] == ["Effusion=pleural effusion"]


def test_a_label_asked_twice_counts_once(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    once = ("normal", "Effusion", "Cardiomegaly")
    twice = (*once, "normal=no acute disease", "Effusion=fluid around the lung")
    found = []
    for number, asked in enumerate((once, twice)):
        config = EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / str(number), queries=asked)
        found.append(evaluate(replace(config, min_positives=1)))
    assert found[0]["macro_auroc"] == found[1]["macro_auroc"]
    assert found[1]["asked_again"] == ["Effusion=fluid around the lung", "normal=no acute disease"]
    assert set(found[1]["asked_again"]) < set(found[1]["per_finding"])
    compared = compare(CompareConfig(tmp_path / "1", tmp_path / "1", min_positives=1, resamples=20))
    assert set(compared["findings"]) == {"Effusion", "Cardiomegaly"}


def test_evaluations_of_other_films_or_labels_are_refused(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "A"))
    other = Path(shutil.copytree(tmp_path / "A", tmp_path / "FILMS"))
    metrics = json.loads((other / "metrics.json").read_text()) | {"films_digest": "other"}
    (other / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="the same studies with other films"):
        compare(CompareConfig(tmp_path / "A", other))
    labels = Path(shutil.copytree(tmp_path / "A", tmp_path / "LABELS"))
    table = pl.read_csv(labels / "predictions.csv", infer_schema=False)
    table.with_columns(pl.lit("1").alias("label:Effusion")).write_csv(labels / "predictions.csv")
    with pytest.raises(InputError, match="measured by different labels of 'Effusion'"):
        compare(CompareConfig(tmp_path / "A", labels))
    (labels / "predictions.csv").write_text("")
    with pytest.raises(InputError, match=r"predictions\.csv: damaged or missing"):
        compare(CompareConfig(tmp_path / "A", labels))
