from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_vlp import EFFUSION

from kgkit.interface import InputError
from vlp.config import VlpRecipe
from vlp.cross_validation import CrossValidateConfig, _parts, _prepare, cross_validate, deal_patients
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import load_data
from vlp.evaluation.compare import CompareConfig, compare


@pytest.fixture
def config(tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path: Path) -> CrossValidateConfig:
    return CrossValidateConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "CV", tiny_recipe, folds=3, min_positives=5)


def predictions(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "seed-0" / "predictions.csv")


def test_every_study_is_asked_once_and_no_patient_is_on_two_sides(config: CrossValidateConfig) -> None:
    task = _prepare(config)
    patient_of = dict(task.data.splits.select("study_id", "patient_id").iter_rows())
    tested: list[str] = []
    for fold in range(3):
        parts = _parts(task, fold)
        patients = {
            part: {patient_of[s] for s, own in parts.items() if own == part} for part in ("train", "val", "test")
        }
        assert not patients["train"] & patients["val"]
        assert not (patients["train"] | patients["val"]) & patients["test"]
        assert patients["val"]
        tested += [study for study, own in parts.items() if own == "test"]
    pool = [*task.data.study_ids("train"), *task.data.study_ids("val")]
    assert sorted(tested) == sorted(pool)


def test_the_deal_is_of_the_patients_alone(config: CrossValidateConfig) -> None:
    data = load_data(config.data_dir)
    ids = data.study_ids("train")
    assert deal_patients(data, ids[::-1], 4) == deal_patients(data, ids, 4)
    sizes = [list(deal_patients(data, ids, 4).values()).count(fold) for fold in range(4)]
    assert max(sizes) - min(sizes) <= 1


def test_labels_are_read_for_measuring_only(config: CrossValidateConfig, openi_copy: Path, tmp_path: Path) -> None:
    summary = cross_validate(config)
    assert summary["macro_auroc"]["mean"] is not None
    table = pl.read_csv(openi_copy / "labels14.csv", infer_schema=False)
    flipped = [(1 - pl.col(name).cast(pl.Int8)).alias(name) for name in table.columns if name != "uid"]
    table.with_columns(flipped).write_csv(openi_copy / "labels14.csv")
    prepare(PrepareConfig("openi", openi_copy, config.encoder_dir, tmp_path / "DATA"))
    other = replace(config, data_dir=tmp_path / "DATA", out_dir=tmp_path / "OTHER")
    cross_validate(other)
    columns = ["study_id", "probability:Effusion", "probability:Cardiomegaly"]
    assert predictions(config.out_dir)[columns].equals(predictions(other.out_dir)[columns])
    labelled, relabelled = (predictions(c.out_dir)["label:Effusion"] for c in (config, other))
    assert not labelled.equals(relabelled)


def test_two_recipes_are_compared_in_pairs_and_the_probe_with_them(config: CrossValidateConfig, tmp_path: Path) -> None:
    cross_validate(config)
    cross_validate(replace(config, out_dir=tmp_path / "PROBE", probe=True))
    found = compare(
        CompareConfig(config.out_dir / "seed-0", tmp_path / "PROBE" / "seed-0", resamples=50, min_positives=5)
    )
    assert found["studies"] == len(predictions(config.out_dir))
    assert found["macro_auroc"]["difference"] is not None
    with pytest.raises(InputError, match=r"holds evaluations and is none: give one of them \(seed-0\)"):
        compare(CompareConfig(config.out_dir, tmp_path / "PROBE" / "seed-0"))


def test_a_finding_left_out_is_asked_of_models_that_never_heard_of_it(
    config: CrossValidateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    from vlp import cross_validation

    original = cross_validation.choose_questions

    def listening(data, train_config, knowledge):
        questions = original(data, train_config, knowledge)
        heard.append({query.concept for query in questions.queries} | set(data.mentions["concept"].drop_nulls()))
        return questions

    monkeypatch.setattr(cross_validation, "choose_questions", listening)
    summary = cross_validate(replace(config, left_out=("Effusion",)))
    assert len(heard) == 3
    assert not any(EFFUSION in concepts for concepts in heard)
    table = predictions(config.out_dir)
    assert [name for name in table.columns if name.startswith("probability:")] == ["probability:Effusion"]
    assert summary["seeds"]["0"]["findings"] == ["Effusion"]
    told = table["probability:Effusion"].to_numpy()
    column = load_data(config.data_dir).labels.index("Effusion")
    for fold in range(3):  # the order within a fold is all that counts
        said = json.loads((config.out_dir / "seed-0" / f"fold-{fold}-Effusion.json").read_text())
        order = np.argsort([values[column] for values in said.values()])
        ranks = told[[table["study_id"].cast(pl.String).to_list().index(study_id) for study_id in said]]
        assert (np.diff(ranks[order]) >= 0).all()
        assert ranks.mean() == pytest.approx(0.5)
    with pytest.raises(InputError, match="no label 'Efusion'; did you mean 'Effusion'"):
        cross_validate(replace(config, out_dir=tmp_path / "X", left_out=("Efusion",)))
    assert not (tmp_path / "X.partial").exists()


def test_a_stopped_run_goes_on_with_the_folds_it_had(
    config: CrossValidateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cross_validate(config)
    from vlp import cross_validation

    original, calls = cross_validation.fit, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    stopped = replace(config, out_dir=tmp_path / "STOPPED")
    with pytest.raises(InputError, match="nothing to resume: there is no stopped run here"):
        cross_validate(replace(stopped, resume=True))
    monkeypatch.setattr(cross_validation, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(stopped)
    assert not stopped.out_dir.exists()
    cross_validate(replace(stopped, resume=True))
    assert len(calls) == 4  # one finished, one stopped, two to go
    assert predictions(stopped.out_dir).equals(predictions(config.out_dir))
    changed = replace(stopped, out_dir=tmp_path / "CHANGED")
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        cross_validate(changed)
    other = replace(config.recipe, loss=replace(config.recipe.loss, unmentioned_weight=0.1))
    with pytest.raises(InputError, match=r"cannot resume: loss\.unmentioned_weight \(was .*, is 0\.1\) changed"):
        cross_validate(replace(changed, resume=True, recipe=other))


def test_what_cannot_be_is_refused(config: CrossValidateConfig) -> None:
    with pytest.raises(InputError, match="1 folds"):
        cross_validate(replace(config, folds=1))
    with pytest.raises(InputError, match="too few patients for 500 folds"):
        cross_validate(replace(config, folds=500))
    with pytest.raises(InputError, match="a probe learns from labels: there is nothing to leave out"):
        cross_validate(replace(config, probe=True, left_out=("all",)))
    uncertain = replace(config.recipe, loss=replace(config.recipe.loss, uncertain_weight=1.0))
    asks_all = replace(config.recipe, targets=replace(config.recipe.targets, queries="kad"))
    for recipe in (uncertain, asks_all):
        with pytest.raises(InputError, match="what is left out is masked as uncertain, which this recipe teaches"):
            cross_validate(replace(config, recipe=recipe, left_out=("all",)))
    trained = replace(config.recipe, tower=replace(config.recipe.tower, trained_blocks=1))
    with pytest.raises(InputError, match="trained_blocks=0"):
        cross_validate(replace(config, recipe=trained))
    assert json.dumps(str(config.out_dir))
    assert not config.out_dir.exists()
