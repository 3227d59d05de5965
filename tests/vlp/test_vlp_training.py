from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from kgkit.interface import InputError
from vlp.artifact import load_model
from vlp.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from vlp.config import OptimizerConfig, TrainConfig, VlpRecipe, load_vlp_recipe
from vlp.data.prepare import PrepareConfig, prepare
from vlp.loop import learning_rate
from vlp.training import train


@pytest.fixture
def run(tiny_data_dir: Path, tiny_encoder_dir: Path, tmp_path: Path, tiny_recipe: VlpRecipe) -> TrainConfig:
    return TrainConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "MODEL", tiny_recipe)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_labels_change_no_weight(run: TrainConfig, openi_copy: Path, tmp_path: Path) -> None:
    train(run)
    table = pl.read_csv(openi_copy / "labels14.csv", infer_schema=False)
    flipped = [(1 - pl.col(name).cast(pl.Int8)).alias(name) for name in table.columns if name != "uid"]
    table.with_columns(flipped).write_csv(openi_copy / "labels14.csv")
    prepare(PrepareConfig("openi", openi_copy, run.encoder_dir, tmp_path / "DATA"))
    train(replace(run, data_dir=tmp_path / "DATA", out_dir=tmp_path / "OTHER"))
    assert weights(tmp_path / "OTHER") == weights(run.out_dir)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run.out_dir, tmp_path / "OTHER"))
    assert one | {"cpu_seconds": 0} == other | {"cpu_seconds": 0}, "the clock alone may differ"


def test_reports_do(run: TrainConfig, openi_copy: Path, tmp_path: Path) -> None:
    """The control of the test above: the same comparison sees a change where there should be one."""
    train(run)
    text = (openi_copy / "reports.csv").read_text().replace("There is cardiomegaly.", "The lungs are clear.", 3)
    (openi_copy / "reports.csv").write_text(text)
    prepare(PrepareConfig("openi", openi_copy, run.encoder_dir, tmp_path / "DATA"))
    train(replace(run, data_dir=tmp_path / "DATA", out_dir=tmp_path / "OTHER"))
    assert weights(tmp_path / "OTHER") != weights(run.out_dir)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run: TrainConfig, tmp_path: Path) -> None:
    train(run)
    torch.manual_seed(99)  # what the caller does to the global generator does not matter
    before = torch.get_rng_state()
    train(replace(run, out_dir=tmp_path / "AGAIN"))
    assert torch.equal(torch.get_rng_state(), before)
    assert weights(tmp_path / "AGAIN") == weights(run.out_dir)
    train(replace(run, out_dir=tmp_path / "OTHER", recipe=replace(run.recipe, seed=1)))
    assert weights(tmp_path / "OTHER") != weights(run.out_dir)


KILLED = """
import json, sys, torch
from pathlib import Path
from pydantic import TypeAdapter
from vlp.config import TrainConfig
from vlp.training import train
torch.set_num_threads(1)
train(TypeAdapter(TrainConfig).validate_python(json.loads(sys.argv[1])))
"""


def test_a_run_killed_with_kill_9_resumes_to_the_weights_of_an_undisturbed_one(
    run: TrainConfig, tmp_path: Path
) -> None:
    run = replace(run, recipe=replace(run.recipe, optimizer=replace(run.recipe.optimizer, epochs=60)))
    train(run)
    killed = replace(run, out_dir=tmp_path / "KILLED")
    checkpoint = tmp_path / "KILLED.partial" / "checkpoint.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, json.dumps(asdict(killed), default=str)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.out_dir.exists()
    with pytest.raises(InputError, match="no such folder; expected a trained model"):
        load_model(killed.out_dir)
    with pytest.raises(InputError, match=r"it has no manifest\.json"):
        load_model(checkpoint.parent)
    done = load_checkpoint(checkpoint).epoch
    assert 0 < done < 60
    train(replace(killed, resume=True))
    assert weights(killed.out_dir) == weights(run.out_dir)
    assert not checkpoint.parent.exists()
    logs = [read_log(folder) for folder in (run.out_dir, killed.out_dir)]
    assert logs[0] == logs[1]


def test_two_processes_train_what_one_trains(run: TrainConfig, tmp_path: Path) -> None:
    model = replace(run.recipe.model, dropout=0.0)
    loss = replace(run.recipe.loss, contrast_weight=0.0, sentence_weight=0.5)
    recipe = replace(run.recipe, model=model, loss=loss)
    train(replace(run, recipe=recipe))
    halved = replace(recipe, optimizer=replace(recipe.optimizer, batch_size=recipe.optimizer.batch_size // 2))
    together = replace(run, out_dir=tmp_path / "TOGETHER", recipe=halved)
    script = tmp_path / "run.py"
    script.write_text(KILLED, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    paths = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [*launch, json.dumps(asdict(together), default=str)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, both = (read_log(folder) for folder in (run.out_dir, together.out_dir))
    assert len(alone) == len(both)
    for one, two in zip(alone, both, strict=True):
        assert two["val_loss"] == pytest.approx(one["val_loss"], rel=0.05)


def read_log(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_second"} for line in lines]


def test_resume_is_refused_when_something_changed(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(replace(run, resume=True))
    monkeypatch.setattr("vlp.training._write_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    changed = replace(run.recipe, optimizer=replace(run.recipe.optimizer, batch_size=3))
    with pytest.raises(InputError, match=r"cannot resume: optimizer\.batch_size \(was \d+, is 3\) changed"):
        train(replace(run, resume=True, recipe=changed))


def test_a_run_goes_on_with_another_rate_and_the_model_says_so(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vlp.training._write_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    old = run.recipe.optimizer.learning_rate
    changed = replace(run.recipe, optimizer=replace(run.recipe.optimizer, learning_rate=1e-5))
    train(replace(run, resume=True, recipe=changed))
    manifest = load_model(run.out_dir).manifest
    assert manifest["recipe_changed"] == [{"key": "optimizer.learning_rate", "before": old}]
    assert manifest["recipe"]["optimizer"]["learning_rate"] == 1e-5
    assert f"| Changed on the way | `optimizer.learning_rate` was {old} |" in (run.out_dir / "README.md").read_text()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_training_lowers_the_loss_and_validates_on_reports(tiny_model_dir: Path) -> None:
    records = read_log(tiny_model_dir)
    losses = [record["train_loss"] for record in records]
    assert losses[-1] < 0.7 * losses[0]
    assert all(record["train_contrast_loss"] > 0 for record in records)
    metrics = json.loads((tiny_model_dir / "metrics.json").read_text())
    epochs = {record["epoch"]: record for record in records}
    assert metrics["val_loss"] == pytest.approx(min(record["val_loss"] for record in epochs.values()), abs=1e-6)
    assert metrics["val_loss"] == pytest.approx(epochs[metrics["best_epoch"]]["val_loss"], abs=1e-6)


def test_early_stopping_keeps_the_best_epoch(run: TrainConfig) -> None:
    recipe = replace(
        run.recipe, optimizer=OptimizerConfig(epochs=50, batch_size=8, learning_rate=0.2, patience=2, ema_decay=0)
    )
    summary = train(replace(run, recipe=recipe))
    assert summary.metrics["epochs_run"] < 50
    assert summary.metrics["epochs_run"] == summary.best_epoch + 2


@pytest.mark.parametrize("blocks", [0, 1])
def test_training_in_bf16_is_training_in_fp32_but_for_its_rounding(
    run: TrainConfig, tmp_path: Path, blocks: int
) -> None:
    logs, trained = [], []
    for precision in ("no", "bf16"):
        optimizer = replace(run.recipe.optimizer, mixed_precision=precision)
        recipe = replace(run.recipe, tower=replace(run.recipe.tower, trained_blocks=blocks), optimizer=optimizer)
        train(replace(run, recipe=recipe, out_dir=tmp_path / precision))
        logs.append(read_log(tmp_path / precision))
        state = load_file(tmp_path / precision / "model.safetensors")
        assert all(tensor.dtype != torch.bfloat16 for tensor in state.values())
        trained.append(torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith("network.")]))
    for exact, rounded in zip(*logs, strict=True):
        assert rounded["train_loss"] == pytest.approx(exact["train_loss"], rel=0.05)
        assert rounded["val_loss"] == pytest.approx(exact["val_loss"], rel=0.05)
    assert not torch.equal(*trained)


def test_studies_without_a_report_teach_nothing(run: TrainConfig, openi_copy: Path, tmp_path: Path) -> None:
    whole = train(run)
    path = openi_copy / "reports.csv"
    reports = pl.read_csv(path, infer_schema=False)
    silent = pl.col("uid").is_in(["100", "101", "102"])
    reports.with_columns(
        pl.when(silent).then(pl.lit("")).otherwise(pl.col(name)).alias(name) for name in ("findings", "impression")
    ).write_csv(path)
    prepare(PrepareConfig("openi", openi_copy, run.encoder_dir, tmp_path / "DATA"))
    summary = train(replace(run, data_dir=tmp_path / "DATA", out_dir=tmp_path / "OTHER"))
    assert summary.train_films == whole.train_films - 3
    assert json.loads((tmp_path / "OTHER" / "manifest.json").read_text())["studies_without_report"] == 3
    assert json.loads((run.out_dir / "manifest.json").read_text())["studies_without_report"] == 0


def test_without_validation_films_the_last_epoch_is_kept(run: TrainConfig, openi_copy: Path, tmp_path: Path) -> None:
    text = (openi_copy / "splits.csv").read_text().replace(",val", ",train")
    (openi_copy / "splits.csv").write_text(text)
    prepare(PrepareConfig("openi", openi_copy, run.encoder_dir, tmp_path / "DATA"))
    summary = train(replace(run, data_dir=tmp_path / "DATA"))
    assert (summary.best_epoch, summary.val_films) == (4, 0)
    assert "no validation films" in (run.out_dir / "README.md").read_text()


def test_the_artifact_is_whole_and_says_where_it_comes_from(tiny_model_dir: Path, tiny_data_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    data = json.loads((tiny_data_dir / "manifest.json").read_text())
    assert model.manifest["data_digest"] == data["data_digest"]
    assert model.manifest["encoder_digest"] == "digest-0"
    assert {path.name for path in tiny_model_dir.iterdir()} == {
        "manifest.json", "model.safetensors", "queries.parquet", "query_vectors.safetensors", "metrics.json",
        "training_log.jsonl", "README.md", "calibration.json", "training_mentions.json", "tensorboard",
        "training_films.parquet",
        "learning_curve.png",
    }  # fmt: skip
    card = (tiny_model_dir / "README.md").read_text()
    assert "CC BY-NC-ND" in card
    assert "not for clinical use" in card.lower()
    concepts = [query.concept for query in model.queries]
    assert concepts == sorted(concepts)
    assert "finding:normal" in concepts


def test_a_model_needs_neither_encoder_nor_tower_folder(
    tiny_model_dir: Path, tiny_tower_dir: Path, tmp_path: Path
) -> None:
    films = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    model = load_model(tiny_model_dir)
    expected = model.answer(films, model.query_vectors).logits
    moved = Path(shutil.copytree(tiny_model_dir, tmp_path / "MOVED"))
    hidden = tiny_tower_dir.with_name("hidden")
    tiny_tower_dir.rename(hidden)
    try:
        other = load_model(moved)
        assert torch.equal(other.answer(films, other.query_vectors).logits, expected)
    finally:
        hidden.rename(tiny_tower_dir)


@pytest.mark.parametrize("name", ["model.safetensors", "query_vectors.safetensors", "queries.parquet"])
def test_a_damaged_model_is_refused(tiny_model_dir: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "MODEL"))
    (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(InputError, match=name):
        load_model(folder)


def test_wrong_folders_are_named(run: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is a prepared data, expected a concept encoder"):
        train(replace(run, encoder_dir=run.data_dir))
    with pytest.raises(InputError, match="this is a concept encoder, expected a prepared data"):
        train(replace(run, data_dir=run.encoder_dir))
    with pytest.raises(InputError, match="no such folder"):
        train(replace(run, data_dir=tmp_path / "gone"))
    recipe = replace(run.recipe, targets=replace(run.recipe.targets, min_count=500))
    with pytest.raises(InputError, match=r"no concept is present in 500 or more of the .* lower targets\.min_count"):
        train(replace(run, recipe=recipe))
    assert not run.out_dir.exists()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = TrainingState(
        {"a": torch.randn(3)}, {}, {"b": torch.ones(2)}, {"0.exp_avg": torch.zeros(1)}, 3, 2, 0.1 + 0.2
    )
    save_checkpoint(tmp_path / "c.safetensors", state)
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert (found.epoch, found.best_epoch, found.best_loss) == (3, 2, 0.1 + 0.2)
    assert torch.equal(found.network["a"], state.network["a"])
    assert found.average == {}
    (tmp_path / "c.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step / 100, config) for step in range(101)]
    assert rates[:11] == pytest.approx([0.01, *(step / 10 for step in range(1, 11))])
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)
    ends = [learning_rate(done, replace(config, warmup=0.0, lowest_rate=0.25)) for done in (0.0, 0.5, 1.0)]
    assert ends == pytest.approx([1.0, 0.625, 0.25])
    with pytest.raises(InputError, match=r"recipe key 'optimizer\.lowest_rate' is 1: expected at most"):
        load_vlp_recipe("default", ["optimizer.lowest_rate=1"])


@pytest.mark.parametrize("name", ["default", "fast", "kad", "clip"])
def test_bundled_recipes_are_read(name: str) -> None:
    assert load_vlp_recipe(name).tower.name == "efficientnet-lite0"


def test_the_default_recipe_file_holds_the_defaults_of_the_code() -> None:
    assert load_vlp_recipe("default") == VlpRecipe()


def test_recipe_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown recipe key 'optimizer\.epoch'; did you mean 'epochs'"):
        load_vlp_recipe("default", ["optimizer.epoch=3"])
    with pytest.raises(InputError, match=r"loss\.unmentioned_weight"):
        load_vlp_recipe("default", ["loss.unmentioned_weight=2"])
    with pytest.raises(InputError, match=r"'model\.heads' is 3: it does not divide 'model\.width', which is 128"):
        load_vlp_recipe("default", ["model.heads=3"])
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=rf"recipe key 'seed' is {seed}: expected"):
            load_vlp_recipe("default", [f"seed={seed}"])
    with pytest.raises(InputError, match="no recipe 'fsat'; did you mean 'fast'"):
        load_vlp_recipe("fsat")


def test_saved_safetensors_hold_network_and_tower_only(tiny_model_dir: Path) -> None:
    prefixes = {name.split(".")[0] for name in load_file(tiny_model_dir / "model.safetensors")}
    assert prefixes == {"network", "tower"}
