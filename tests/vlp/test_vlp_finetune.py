from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tiny_vlp import put_table

from kgkit.interface import InputError
from vlp.artifact import load_model
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import load_data
from vlp.evaluation.compare import CompareConfig, compare
from vlp.evaluation.evaluate import EvaluateConfig, evaluate
from vlp.evaluation.scoring import label_matrix
from vlp.finetuning.films import choose_parts, draw_patients, look
from vlp.finetuning.finetune import FinetuneConfig, finetune
from vlp.finetuning.probe import STRENGTHS, fit_probe, log_loss, probe_scores
from vlp.finetuning.summary import summarise, table
from vlp.finetuning.tower import Finetuner, FullConfig, masked_loss
from vlp.metrics import auroc
from vlp.queries import resolve_queries

FULL = FullConfig(last_blocks=1, epochs=3, batch_size=8, patience=0, views=2)


@pytest.fixture
def run(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        tiny_model_dir, tiny_data_dir, tmp_path / "OUT", fractions=(0.5, 1.0), seeds=2, min_positives=1, resamples=20,
        full=FULL,
    )  # fmt: skip


def with_labels(data_dir: Path, copy: Path, split: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """DATA whose label columns were changed in one split."""
    shutil.copytree(data_dir, copy)
    data = load_data(copy)
    rows = data.studies["study_id"].is_in(data.study_ids(split)).to_numpy()
    columns = [name for name in data.studies.columns if name.startswith("label:")]
    for name in columns:
        values = data.studies[name].to_numpy().copy()
        values[rows] = change(values[rows])
        data = replace(data, studies=data.studies.with_columns(pl.Series(name, values, dtype=pl.Int8)))
    put_table(data.studies, copy / "studies.parquet")
    return copy


def probabilities(folder: Path) -> pl.DataFrame:
    predictions = pl.read_csv(folder / "predictions.csv")
    return predictions.select(name for name in predictions.columns if not name.startswith("label:"))


def everything(folder: Path) -> dict[str, bytes]:
    """All files but the logs, which tell when and how fast it went."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in files if path.suffix != ".jsonl" and path.parent.name != "tensorboard"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read_log(path: Path) -> list[dict[str, float]]:
    lines = path.read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_second"} for line in lines]


# the probe


def cases(seed: int, n: int = 60, features: int = 4, findings: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, features)) * generator.uniform(0.1, 30, features) + generator.normal(size=features)
    truth = (x @ generator.normal(size=(features, findings)) / x.std() + generator.normal(size=(n, findings))) > 0.3
    return x, truth.astype(float)


def reference_scores(x: np.ndarray, y: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    """Penalised likelihood, written down and minimised by something else; rows with NaN are left out after scaling."""
    mean, std, known = x.mean(0), x.std(0), ~np.isnan(y)
    z, signs = ((x - mean) / std)[known], 2 * y[known] - 1

    def loss(weights: np.ndarray) -> float:
        return strength * np.logaddexp(0, -signs * (z @ weights[1:] + weights[0])).sum() + (weights[1:] ** 2).sum() / 2

    found = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-8}).x
    return 1 / (1 + np.exp(-((test - mean) / std @ found[1:] + found[0])))


def test_the_probe_is_penalised_logistic_regression_with_the_strength_that_validation_chose() -> None:
    (x, y), (val_x, val_y), (test_x, _) = cases(0), cases(1), cases(2)
    probe = fit_probe(x, y, val_x, val_y)
    mean_loss = {}
    for strength in STRENGTHS:
        answers = np.stack([reference_scores(x, y[:, f], val_x, strength) for f in range(3)], axis=1)
        mean_loss[strength] = np.mean([log_loss(val_y[:, f], np.log(answers / (1 - answers))[:, f]) for f in range(3)])
    assert probe.strength == min(mean_loss, key=lambda strength: mean_loss[strength])
    wanted = np.stack([reference_scores(x, y[:, f], test_x, probe.strength) for f in range(3)], axis=1)
    assert probe_scores(x, y, val_x, val_y, test_x) == pytest.approx(wanted, abs=2e-3)


def test_an_unknown_label_leaves_its_row_out_for_its_finding_alone() -> None:
    (x, y), val, (test_x, _) = cases(0), cases(1), cases(2)
    y[:20, 1] = np.nan
    probe = fit_probe(x, y, *val)
    wanted = np.stack([reference_scores(x, y[:, f], test_x, probe.strength) for f in range(3)], axis=1)
    assert probe.scores(test_x) == pytest.approx(wanted, abs=2e-3)


def test_a_finding_with_one_class_is_undefined_and_leaves_the_others_alone() -> None:
    (x, y), val, (test_x, _) = cases(0), cases(1), cases(2)
    y[:, 1], y[:, 2] = 0, np.nan
    scores = probe_scores(x, y, *val, test_x)
    assert np.isnan(scores[:, 1:]).all()
    alone = probe_scores(x, y[:, :1], val[0], val[1][:, :1], test_x)
    assert scores[:, :1] == pytest.approx(alone, abs=1e-12)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=5, deadline=None)
def test_the_scale_of_a_feature_does_not_matter_and_a_constant_one_says_nothing(
    seed: int, scale: float, shift: float
) -> None:
    (x, y), (val_x, val_y), (test_x, _) = cases(seed, 40), cases(seed + 1, 40), cases(seed + 2, 40)

    def other(features: np.ndarray) -> np.ndarray:
        constant = np.full((len(features), 1), 7.0) if features is x else features[:, :1]
        return np.concatenate([features * scale + shift, constant], axis=1)

    first = probe_scores(x, y, val_x, val_y, test_x)
    second = probe_scores(other(x), y, other(val_x), val_y, other(test_x))
    assert first == pytest.approx(second, abs=5e-3, nan_ok=True)


def test_without_validation_rows_there_is_a_default_strength() -> None:
    x, y = cases(0)
    probe = fit_probe(x, y, np.empty((0, 0)), np.empty((0, 3)))
    assert (probe.strength, probe.is_fitted.all()) == (0.01, True)


# who is drawn


@given(
    st.sets(st.text(min_size=1, max_size=4), min_size=1, max_size=60),
    st.lists(st.floats(0.001, 1), min_size=2, max_size=4),
    st.integers(0, 5),
)
def test_subsets_of_patients_are_nested_and_of_the_wanted_size(
    patients: set[str], fractions: list[float], seed: int
) -> None:
    drawn = [draw_patients(patients, fraction, seed) for fraction in sorted(fractions)]
    for fraction, chosen in zip(sorted(fractions), drawn, strict=True):
        assert len(chosen) == max(1, round(fraction * len(patients)))
        assert chosen == draw_patients([*sorted(patients, reverse=True), *patients], fraction, seed)
    for smaller, larger in pairwise(drawn):
        assert smaller <= larger
    assert draw_patients(patients, 1.0, seed) == patients


def test_another_seed_draws_others() -> None:
    patients = [str(number) for number in range(100)]
    assert len({frozenset(draw_patients(patients, 0.1, seed)) for seed in range(5)}) == 5


# the run


def test_a_probe_is_measured_as_an_evaluation_is_and_undefined_is_undefined(run: FinetuneConfig) -> None:
    metrics = finetune(run)
    fits = sorted(path.parent.relative_to(run.out_dir).as_posix() for path in run.out_dir.rglob("predictions.csv"))
    assert fits == [*(f"fraction-{f}/seed-{s}" for f in ("0.5", "1") for s in (0, 1)), "zero-shot"]
    fit = run.out_dir / "fraction-1" / "seed-0"
    whole = metrics["fractions"]["1"]
    assert whole["per_finding"]["Hernia"]["mean"] is None
    assert whole["per_finding"]["Hernia"]["seeds_defined"] == 0
    assert "probability:Hernia" not in probabilities(fit).columns
    predictions = pl.read_csv(fit / "predictions.csv")
    area = float(auroc(predictions["label:Cardiomegaly"], predictions["probability:Cardiomegaly"]))
    assert whole["per_finding"]["Cardiomegaly"]["values"] == [area, area]
    assert whole["macro_auroc"]["findings"] == ["Cardiomegaly", "Effusion"]
    assert whole["train_patients"] == [36, 36]
    assert metrics["fractions"]["0.5"]["train_patients"] == [18, 18]
    assert "undefined" in next(line for line in table(metrics) if line.startswith("Hernia"))
    assert not (run.out_dir / "run.json").exists()
    assert json.loads((run.out_dir / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_the_zero_shot_row_is_that_of_evaluate_and_compare_reads_every_fit(run: FinetuneConfig, tmp_path: Path) -> None:
    metrics = finetune(run)
    asked = evaluate(EvaluateConfig(run.model_dir, run.data_dir, "test", tmp_path / "EVAL", resamples=20))
    assert metrics["zero_shot"]["per_finding"]["Effusion"] == asked["per_finding"]["Effusion"]["auroc"]
    fit = run.out_dir / "fraction-1" / "seed-0"
    for other in (tmp_path / "EVAL", run.out_dir / "zero-shot"):
        found = compare(CompareConfig(fit, other, resamples=20, min_positives=1))
        assert found["per_finding"]["Effusion"]["auroc"]["first"] is not None
        assert "Hernia" in found["not_in_both"]


@pytest.mark.parametrize("mode", ["probe", "full"])
def test_labels_of_the_test_are_never_read_for_fitting(run: FinetuneConfig, tmp_path: Path, mode: str) -> None:
    run = replace(run, mode=mode, fractions=(1.0,), seeds=1)
    finetune(run)
    data = with_labels(run.data_dir, tmp_path / "TURNED", "test", lambda values: 1 - values)
    finetune(replace(run, data_dir=data, out_dir=tmp_path / "OTHER"))
    fit = Path("fraction-1") / "seed-0"
    assert probabilities(run.out_dir / fit).equals(probabilities(tmp_path / "OTHER" / fit))
    data = with_labels(run.data_dir, tmp_path / "TAUGHT", "train", lambda values: 1 - values)
    finetune(replace(run, data_dir=data, out_dir=tmp_path / "CONTROL"))
    assert not probabilities(run.out_dir / fit).equals(probabilities(tmp_path / "CONTROL" / fit))


@pytest.mark.parametrize("features", ["answers", "patches", "both"])
def test_every_kind_of_feature_is_what_the_model_gives(run: FinetuneConfig, features: str) -> None:
    model, data = load_model(run.model_dir), load_data(run.data_dir)
    films = look(model, data, data.films(data.study_ids("val"), frontal_only=True), features)
    squares = torch.from_numpy(FilmReader(data).squares(films.rows, model.recipe.tower.input_size))
    with torch.no_grad():
        pooled = model.tower(squares).float().mean((1, 2)).numpy()
        resolved = resolve_queries(model, ())
        said = resolved.read(model.answer(squares, resolved.vectors).logits).numpy()
    wanted = {"answers": said, "patches": pooled, "both": np.concatenate([pooled, said], axis=1)}[features]
    assert films.features == pytest.approx(wanted, abs=2e-3, rel=2e-3)
    assert np.array_equal(films.labels, label_matrix(data, films.rows["study_id"].to_list(), data.labels))


def test_a_film_that_cannot_be_read_is_listed_and_the_rest_go_on(run: FinetuneConfig, tmp_path: Path) -> None:
    data = Path(shutil.copytree(run.data_dir, tmp_path / "DATA"))
    images = pl.read_parquet(data / "images.parquet")
    lost = images["path"][0]
    gone = pl.when(pl.col("path") == lost).then(pl.lit("gone.png")).otherwise(pl.col("path"))
    nowhere = pl.when(pl.col("path") == lost).then(None).otherwise(pl.col("stored"))
    put_table(images.with_columns(gone.alias("path"), nowhere.alias("stored")), data / "images.parquet")
    metrics = finetune(replace(run, data_dir=data, fractions=(1.0,), seeds=1))
    assert [row["film"] for part in metrics["unreadable_films"].values() for row in part] == ["gone.png"]
    assert metrics["fractions"]["1"]["macro_auroc"]["mean"] is not None


# the whole tower


def test_finetuning_starts_as_the_probe_and_ends_where_validation_is_best(run: FinetuneConfig, tmp_path: Path) -> None:
    model, data = load_model(run.model_dir), load_data(run.data_dir)
    train, val, test = (
        look(model, data, data.films(data.study_ids(split), frontal_only=True), "patches")
        for split in ("train", "val", "test")
    )
    probe = fit_probe(train.features, train.labels, val.features, val.labels)
    still = Finetuner(model, FilmReader(data), replace(FULL, learning_rate=1e-12))
    (tmp_path / "still").mkdir()
    tuned = still.fit((train, val), probe, 0, tmp_path / "still")
    assert still.scores(tuned.network, test) == pytest.approx(probe.scores(test.features), abs=1e-2, nan_ok=True)
    frozen = {name: tensor.clone() for name, tensor in model.tower.state_dict().items()}
    moving = Finetuner(model, FilmReader(data), replace(FULL, learning_rate=1e-2, epochs=6, views=1))
    (tmp_path / "moving").mkdir()
    moved = moving.fit((train, val), probe, 0, tmp_path / "moving")
    assert moved.best_epoch > 0
    losses = [record["val_loss"] for record in read_log(tmp_path / "moving" / "training_log.jsonl")]
    assert losses[0] > moved.val_loss == losses[moved.best_epoch] == min(losses)
    answers = torch.from_numpy(moving.scores(moved.network, val)[:, probe.is_fitted]).logit().float()
    assert float(masked_loss(answers, moved.network.labels(val))) == pytest.approx(moved.val_loss, abs=1e-5)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.tower.state_dict().items())


def test_without_validation_labels_the_last_epoch_is_kept(run: FinetuneConfig, tmp_path: Path) -> None:
    data = with_labels(run.data_dir, tmp_path / "DATA", "val", lambda values: np.full_like(values, -1))
    metrics = finetune(replace(run, data_dir=data, mode="full", fractions=(1.0,), seeds=1))
    fit = json.loads((run.out_dir / "fraction-1" / "seed-0" / "metrics.json").read_text())
    assert (fit["best_epoch"], fit["epochs"], fit["val_loss"]) == (3, 3, None)
    assert metrics["fractions"]["1"]["macro_auroc"]["mean"] is not None


def test_processor_time_ends_a_fit_in_the_middle_of_an_epoch(run: FinetuneConfig) -> None:
    full = replace(FULL, epochs=1000, cpu_minutes=0.5 / 60)
    finetune(replace(run, mode="full", fractions=(1.0,), seeds=1, full=full))
    fit = run.out_dir / "fraction-1" / "seed-0"
    assert 0 < json.loads((fit / "metrics.json").read_text())["epochs"] < 1000
    rates = [record["learning_rate"] for record in read_log(fit / "training_log.jsonl")[1:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * FULL.learning_rate


def test_several_processes_are_refused_before_anything_is_written(run: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(KILLED, encoding="utf-8")
    settings = json.dumps(asdict(replace(run, mode="full")), default=str)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "run.py"), settings]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    command = [sys.executable, "-m", *launch]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    assert "finetuning runs in one process, not in 2: start it without torchrun" in done.stderr
    assert not run.out_dir.with_name("OUT.partial").exists()


def test_unknown_labels_are_masked() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = masked_loss(logits, torch.tensor([[1.0, float("nan")], [0.0, float("nan")]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(0.5))) / 2)
    assert logits.grad is not None
    assert not logits.grad[:, 1].any()
    assert float(masked_loss(logits.detach(), torch.full((2, 2), float("nan")))) == 0


KILLED = """
import json, sys, torch
from pathlib import Path
from pydantic import TypeAdapter
from vlp.finetuning.finetune import FinetuneConfig, finetune
torch.set_num_threads(1)
finetune(TypeAdapter(FinetuneConfig).validate_python(json.loads(sys.argv[1])))
"""


def test_a_run_killed_with_kill_9_resumes_to_what_an_undisturbed_one_gives(run: FinetuneConfig, tmp_path: Path) -> None:
    run = replace(run, mode="full", fractions=(1.0,), full=replace(FULL, epochs=12))
    finetune(run)
    killed = replace(run, out_dir=tmp_path / "KILLED")
    fits = tmp_path / "KILLED.partial" / "fraction-1"
    command = [sys.executable, "-c", KILLED, json.dumps(asdict(killed), default=str)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    second = fits / "seed-1" / "checkpoint.safetensors"  # the first seed is done, the second under way
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert second.exists()
    assert not killed.out_dir.exists()
    with pytest.raises(InputError, match=r"cannot resume: full changed since the run began"):
        finetune(replace(killed, full=replace(killed.full, epochs=9), resume=True))
    finetune(replace(killed, resume=True))
    assert everything(killed.out_dir) == everything(run.out_dir)
    logs = [
        read_log(folder / "fraction-1" / "seed-1" / "training_log.jsonl") for folder in (run.out_dir, killed.out_dir)
    ]
    assert logs[0] == logs[1]
    assert [record["epoch"] for record in logs[0]] == list(range(13))


# official lists


def film_names(data_dir: Path, *splits: str) -> list[str]:
    data = load_data(data_dir)
    studies = [study for split in splits for study in data.study_ids(split)]
    return sorted(Path(path).name for path in data.films(studies, frontal_only=False)["path"])


def write_lists(folder: Path, train: list[str], test: list[str]) -> tuple[Path, Path]:
    paths = folder / "train_val_list.txt", folder / "test_list.txt"
    for path, names in zip(paths, (train, test), strict=True):
        path.write_text("".join(f"{name}\n" for name in names))
    return paths


def test_official_lists_replace_the_splits_and_no_patient_is_divided(run: FinetuneConfig, tmp_path: Path) -> None:
    train, test = film_names(run.data_dir, "train", "val"), film_names(run.data_dir, "test")
    lists = write_lists(tmp_path, train[:-2], test)
    model, data = load_model(run.model_dir), load_data(run.data_dir)
    parts = choose_parts(model, data, "test", lists)
    of_split = {split: set(parts.splits.filter(pl.col("split") == split)["patient_id"]) for split in ("train", "val")}
    assert of_split["val"]
    assert not of_split["train"] & of_split["val"]
    assert len(parts.splits) == len(train) - 2 + len(test), "films in no list are left out"
    metrics = finetune(replace(run, train_list=lists[0], test_list=lists[1], seeds=1))
    assert metrics["patients"]["train"] == len(of_split["train"])
    assert json.loads((run.out_dir / "zero-shot" / "metrics.json").read_text())["studies"] == len(test)


def test_lists_that_contradict_are_refused_with_film_and_patient(run: FinetuneConfig, tmp_path: Path) -> None:
    train, test = film_names(run.data_dir, "train"), film_names(run.data_dir, "test")

    def refused(train_names: list[str], test_names: list[str], message: str) -> None:
        lists = write_lists(tmp_path, train_names, test_names)
        with pytest.raises(InputError, match=message):
            finetune(replace(run, train_list=lists[0], test_list=lists[1]))
        assert not run.out_dir.exists()

    refused(train, [*test, train[0]], rf"film '{train[0]}' stands in train_val_list\.txt too")
    refused(["other.png"], test, r"train_val_list\.txt: names no film of .*, whose films are called like '1")
    refused([], test, r"train_val_list\.txt: empty; expected the file name of one film per line")
    refused(test, train, r"test_list\.txt: the model was trained on 36 of the test studies, for instance 100")
    with pytest.raises(InputError, match="one list alone; expected --train-list and --test-list together"):
        finetune(replace(run, train_list=tmp_path / "train_val_list.txt"))
    with pytest.raises(InputError, match=r"nothing\.txt: cannot be read"):
        finetune(replace(run, train_list=tmp_path / "nothing.txt", test_list=tmp_path / "test_list.txt"))


def test_a_patient_in_both_lists_is_refused(run: FinetuneConfig, tmp_path: Path) -> None:
    data = Path(shutil.copytree(run.data_dir, tmp_path / "DATA"))
    splits = pl.read_csv(data / "splits.csv", infer_schema=False)
    last = splits["patient_id"][0]
    one = pl.when(pl.col("split") == "test").then(pl.lit(last)).otherwise("patient_id").alias("patient_id")
    put_table(splits.with_columns(one), data / "splits.csv")
    lists = write_lists(tmp_path, film_names(run.data_dir, "train"), film_names(run.data_dir, "test"))
    with pytest.raises(InputError, match=rf"patient '{last}' of film .* stands in both lists"):
        finetune(replace(run, data_dir=data, train_list=lists[0], test_list=lists[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": (0.0,)}, "fraction 0; expected above 0 and at most 1"),
        ({"full": FullConfig(learning_rate=-1e-3)}, "expected rates above 0 and a weight decay of 0 or more"),
        ({"full": FullConfig(learning_rate=float("nan"))}, "expected rates above 0"),
        ({"fractions": (1.5,)}, r"fraction 1\.5; expected above 0 and at most 1"),
        ({"mode": "prob"}, "mode 'prob'; did you mean 'probe'"),
        ({"features": "patch"}, "features 'patch'; did you mean 'patches'"),
        ({"full": replace(FULL, epochs=0)}, "expected 1 or more epochs, films per batch and views"),
        ({"seeds": 0}, "2 fractions and 0 seeds; expected 1 or more of each"),
        ({"split": "val"}, "split 'val' is fitted on; expected another one to test on"),
        ({"split": "tset"}, "no split 'tset'; .*test"),
        ({"resume": True}, "nothing to resume"),
        ({"mode": "full", "full": replace(FULL, last_blocks=9)}, "has 3 blocks that can be trained apart"),
    ],
)
def test_wrong_settings_are_refused_in_words(run: FinetuneConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune(replace(run, **change))  # type: ignore[arg-type]
    assert list(run.out_dir.parent.iterdir()) == [], "something half-written is left"


def test_a_macro_mean_is_over_the_same_findings_on_both_sides() -> None:
    def fit(**areas: float | None) -> dict[str, object]:
        rows = {name: {"auroc": area, "positives": 30} for name, area in areas.items()}
        return {"per_finding": rows, "normal": None, "train_patients": 1, "train_studies": 1, "strength": 1.0}

    zero_shot = fit(A=0.5, B=0.6, C=0.9) | {"macro_auroc": {}}
    metrics = summarise(zero_shot, {0.1: [fit(A=0.7, B=None, C=0.8), fit(A=0.5, B=0.6, C=1.0)],
                                    1.0: [fit(A=0.8, B=0.8, C=None), fit(A=0.8, B=0.6, C=None)]}, 20)  # fmt: skip
    small, whole = metrics["fractions"]["0.1"], metrics["fractions"]["1"]
    assert small["macro_auroc"]["findings"] == ["A", "C"]
    assert small["macro_auroc"]["mean"] == pytest.approx(0.75)
    assert small["macro_auroc"]["zero_shot"] == pytest.approx(0.7)
    assert small["per_finding"]["B"] == {
        "mean": 0.6, "sd": None, "min": 0.6, "max": 0.6, "seeds_defined": 1, "values": [None, 0.6], "positives": 30,
    }  # fmt: skip
    assert whole["macro_auroc"]["findings"] == ["A", "B"]
    assert whole["per_finding"]["B"]["sd"] == pytest.approx(np.std([0.8, 0.6], ddof=1))
    assert metrics["shared_macro_auroc"]["findings"] == ["A"]
    assert metrics["shared_macro_auroc"]["fractions"]["1"]["mean"] == pytest.approx(0.8)
