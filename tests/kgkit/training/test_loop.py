"""The training loop: it learns, repeats, resumes, stops on NaN, and leaves nothing half-made."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rrf import Rrf
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_thorax import make_graph, tiny_thorax

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.card import model_card
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.errors import InputError, KgkitError
from kgkit.evaluation.evaluate import evaluate, held_out_metrics
from kgkit.recipe import load_recipe, recipe_to_dict
from kgkit.training.checkpoint import load_checkpoint, save_checkpoint
from kgkit.training.corpus import Corpus
from kgkit.training.loop import train_encoder
from kgkit.training.objectives import triple_keys
from kgkit.training.towers import TowersMethod
from kgkit.views.splits import shuffle_tails

Recipe = Callable[..., EncoderRecipe]
Train = Callable[..., ConceptEncoder]


def log_of(encoder: Path) -> list[dict[str, Any]]:
    lines = (encoder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def untimed(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "cpu_seconds"} for line in log]


def towers_of(recipe: EncoderRecipe, corpus: Corpus, folder: Path) -> TowersMethod:
    model = EncoderModel(recipe, corpus.view.num_concepts, corpus.view.num_relations)
    assert model.text is not None
    return TowersMethod(model, corpus, recipe, folder, lambda tokens, _: model.text.encode_all(tokens, nullcontext, ""))


def towers_of_same(method: TowersMethod, corpus: Corpus) -> TowersMethod:
    """The same weights on another corpus."""
    other = copy.copy(method)
    other._corpus = corpus
    return other


def graph_weights(encoder: Path) -> dict[str, torch.Tensor]:
    return load_file(encoder / "graph.safetensors")


# Learning


def test_every_loss_is_logged_and_the_relation_loss_falls(tiny_encoder: Path) -> None:
    log = log_of(tiny_encoder)
    assert [line["step"] for line in log] == list(range(1, 21))
    relation = [line["losses"]["relation"] for line in log]
    assert np.mean(relation[-5:]) < 0.7 * relation[0]
    for line in log:
        parts = {name: loss for name, loss in line["losses"].items() if name != "total"}
        assert parts.keys() == {"synonym", "definition", "relation", "alignment"}
        assert line["losses"]["total"] == pytest.approx(sum(parts.values()), rel=1e-5)
    curve = [line for line in log if "valid_score" in line]
    assert len(curve) == 3
    for line in curve:
        assert line["valid_score"] == pytest.approx((line["valid_synonym_mrr"] + line["valid_link_mrr"]) / 2)
        assert 0 < line["valid_score"] <= 1


def test_a_weight_multiplies_its_loss(train: Train) -> None:
    first = [log_of(train("train.steps=1", f"objectives.relation={weight}").folder)[0]["losses"] for weight in (1, 3)]
    assert first[1]["relation"] == pytest.approx(3 * first[0]["relation"], rel=1e-5)
    assert first[1]["synonym"] == pytest.approx(first[0]["synonym"], rel=1e-6)


def test_it_learns_to_predict_facts_it_never_saw(tiny_encoder: Path, train: Train) -> None:
    folders = (tiny_encoder, train("train.steps=0").folder)
    trained, untrained = (evaluate(folder, "link-prediction")["rows"][0]["mrr"] for folder in folders)
    assert trained > untrained
    log = log_of(tiny_encoder)
    assert log[-1]["valid_link_mrr"] > 2 * np.mean(1 / np.arange(1, 44))  # what chance gives


def test_metrics_and_manifest_say_what_was_done(tiny_encoder: Path, tiny_corpus: Corpus, tiny_recipe: Recipe) -> None:
    metrics = json.loads((tiny_encoder / "metrics.json").read_text(encoding="utf-8"))
    manifest = load_encoder(tiny_encoder).manifest
    test = tiny_corpus.query_names.filter(tiny_corpus.query_names["part"] == "test")
    single = sum(len(rows) == 1 for rows in test["concepts"].to_list())
    assert metrics["link_prediction"]["num_queries"] == len(tiny_corpus.split.test)
    assert metrics["synonym"]["num_queries"] == single
    for figures in metrics.values():
        assert figures["mrr_interval"][0] <= figures["mrr"] <= figures["mrr_interval"][1]
        assert 0 <= figures["hits_at_1"] <= figures["hits_at_10"] <= 1
    assert manifest["recipe"] == recipe_to_dict(tiny_recipe())
    assert (manifest["precision"], manifest["num_concepts"], manifest["dim"]) == ("fp32", 43, 64)
    assert (manifest["steps"], manifest["written_weights"]) == (20, "last step")
    assert {path.name for path in tiny_encoder.iterdir()} == {
        "README.md", "concepts.parquet", "evaluation", "graph.safetensors", "learning_curve.png", "manifest.json",
        "metrics.json", "names.parquet", "tensorboard", "text", "training_log.jsonl", "vectors.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("control", ["none", "shuffled-graph"])
def test_held_out_facts_reach_training_in_no_way(
    tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, control: str
) -> None:
    """They pass no message, are never predicted and mask no candidate; half of those of unseen concepts, which are not
    asked for, pass messages at the end."""
    method = towers_of(tiny_recipe(f"held_out.control={control}"), tiny_corpus, tmp_path)
    train = tiny_corpus.split.train
    if control == "shuffled-graph":
        train = shuffle_tails(train, seed=0)
    assert method._known.tolist() == triple_keys(*torch.from_numpy(train).T, method.sizes).sort().values.tolist()
    everything = method._sampler.sample(torch.arange(method.sizes[0]), [1000], torch.Generator())
    messages = {frozenset(pair) for pair in everything.edge_index.T.tolist()}
    assert messages == {frozenset((head, tail)) for head, _, tail in train.tolist()}
    for step in range(1, 10):
        draw = method.draw(step)
        assert draw.graph is not None
        facts = zip(draw.graph.nodes[draw.heads], draw.relations, draw.graph.nodes[draw.tails], strict=True)
        assert {tuple(map(int, fact)) for fact in facts} <= set(map(tuple, train.tolist()))


# The same again, and what changes it


def test_the_same_seed_gives_the_same_digest_and_another_seed_another(train: Train, opened: ConceptEncoder) -> None:
    assert train().digest == opened.digest
    assert train("seed=1").digest != opened.digest


def test_the_shuffled_control_learns_another_graph(train: Train, opened: ConceptEncoder) -> None:
    control = train("held_out.control=shuffled-graph")
    assert control.concepts == opened.concepts
    assert np.abs(control.vectors - opened.vectors).max() > 1e-2
    assert control.manifest["recipe"]["held_out"]["control"] == "shuffled-graph"


@pytest.mark.parametrize("objective", ["synonym", "definition", "relation", "alignment"])
def test_each_objective_can_be_switched_off(train: Train, objective: str) -> None:
    steps = "train.steps=4"
    vectors = [train(steps, f"objectives.{objective}={weight}").vectors for weight in (0, 1)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


def test_what_no_objective_reaches_stays_as_it_was(train: Train, tiny_text_model: Path) -> None:
    off = ["train.steps=5", "train.weight_decay=0", "objectives.synonym=0", "objectives.definition=0"]
    alone = train(*off, "objectives.relation=0")  # alignment alone
    assert (graph_weights(alone.folder)["scorer.weight"] == 0).all(), "TransE starts from zero"
    frozen = train(*off, "text.frozen_layers=2")
    start = load_file(tiny_text_model / "model.safetensors")
    for name, weight in load_file(frozen.folder / "text" / "model.safetensors").items():
        assert torch.equal(weight, start[name]), name
    assert (graph_weights(frozen.folder)["scorer.weight"] != 0).any()


def test_frozen_layers_keep_their_weights_and_the_others_move(train: Train, tiny_text_model: Path) -> None:
    start = load_file(tiny_text_model / "model.safetensors")
    encoder = train("train.steps=3", "text.frozen_layers=1")
    for name, weight in load_file(encoder.folder / "text" / "model.safetensors").items():
        if "pooler" not in name:
            assert torch.equal(weight, start[name]) == ("layer.1." not in name), name


def test_without_a_graph_tower_concepts_are_their_preferred_names(train: Train) -> None:
    encoder = train("graph.family=none", "graph.fanouts=[]")
    rows = dict(encoder.names.filter(encoder.names["is_preferred"]).select("concept", "vector").iter_rows())
    by_name = encoder.name_vectors[[rows[concept] for concept in encoder.concepts]]
    np.testing.assert_allclose(encoder.vectors, by_name, atol=1e-6)
    assert set(graph_weights(encoder.folder)) == {"scorer.weight", "log_scale"}


@pytest.mark.parametrize("interaction", ["distmult", "complex", "rotate"])
def test_other_interactions_train(train: Train, interaction: str) -> None:
    relation = [line["losses"]["relation"] for line in log_of(train(f"relation.interaction={interaction}").folder)]
    assert np.mean(relation[-5:]) < relation[0]


@pytest.mark.parametrize("loss", ["nssa", "marginranking", "bcewithlogits"])
def test_other_losses_train(train: Train, loss: str) -> None:
    relation = [line["losses"]["relation"] for line in log_of(train(f"relation.loss={loss}").folder)]
    assert np.mean(relation[-5:]) < relation[0]


def test_a_graph_without_synonyms_and_definitions_and_nothing_held_out_trains(train: Train, tmp_path: Path) -> None:
    kg = make_graph(tmp_path / "bare", tiny_thorax(definitions=False, synonyms=False))
    encoder = train("train.steps=4", "held_out.triples=0", "held_out.concepts=0", kg=kg)
    assert log_of(encoder.folder)[0]["losses"].keys() == {"relation", "alignment", "total"}
    assert held_out_metrics(encoder.folder, seed=0) == {}


def test_one_fact_is_enough(train: Train, tmp_path: Path) -> None:
    rrf = Rrf().row("MRSAB", {"RSAB": "TST", "SVER": "1", "CURVER": "Y"})
    rrf.atom("C9000001", "thorax").atom("C9000002", "lung").relation("C9000001", "RO", "C9000002", "part_of")
    encoder = train("train.steps=4", kg=make_graph(tmp_path / "pair", rrf))
    assert encoder.concepts == ("umls:C9000001", "umls:C9000002")


def test_bf16_trains_to_nearly_the_same(train: Train, opened: ConceptEncoder) -> None:
    vectors = train("train.precision=bf16").vectors
    cosine = (vectors * opened.vectors).sum(axis=1)
    assert np.median(cosine) > 0.9
    assert not np.array_equal(vectors, opened.vectors)


# Interrupted and resumed

KILLED = """
import sys, torch
from pathlib import Path
from tiny_thorax import small_recipe
from kgkit.training.loop import train_encoder
torch.set_num_threads(1)
kg, out, model, *changes = sys.argv[1:]
train_encoder(Path(kg), Path(out), small_recipe(Path(model), *changes))
"""


def test_a_killed_run_leaves_no_encoder_and_resumes_to_the_very_same(
    tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, tiny_recipe: Recipe, opened: ConceptEncoder, no_onnx: None
) -> None:
    out, partial = tmp_path / "encoder", tmp_path / "encoder.partial"
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "encoder"), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tiny_kg, out, tiny_text_model], env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (partial / "checkpoint.safetensors").exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(InputError, match="an unfinished run leaves none"):
        load_encoder(partial)
    (partial / ".checkpoint.safetensors.1.tmp").write_bytes(b"what a kill in the middle of a checkpoint leaves")

    for changes, kg, what in (
        (("train.steps=21",), tiny_kg, r"another recipe \(train\.steps was 20, is 21\)"),
        ((), make_graph(tmp_path / "bare", tiny_thorax(definitions=False)), "another graph"),
    ):
        with pytest.raises(InputError, match=f"made with {what}; run again without --resume"):
            train_encoder(kg, out, tiny_recipe(*changes), resume=True)
    train_encoder(tiny_kg, out, tiny_recipe(), resume=True)
    resumed = load_encoder(out)
    np.testing.assert_array_equal(resumed.vectors, opened.vectors)
    assert resumed.digest == opened.digest
    assert untimed(log_of(out)) == untimed(log_of(opened.folder))
    assert not partial.exists()
    assert not list(out.glob("*checkpoint*"))


def test_nothing_to_resume_is_said(tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(InputError, match="nothing to resume: no checkpoint here"):
        train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe(), resume=True)
    assert not (tmp_path / "encoder").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe) -> None:
    partial = tmp_path / "encoder.partial"
    partial.mkdir()
    (partial / "checkpoint.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: damaged checkpoint"):
        train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe(), resume=True)


def test_a_checkpoint_restores_weights_optimiser_and_the_rest(tmp_path: Path) -> None:
    def two_steps(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        for step in range(2):
            optimiser.zero_grad()
            (model(torch.full((3, 4), 1.0 + step)) ** 2).sum().backward()
            optimiser.step()

    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    model, optimiser = fresh()
    two_steps(model, optimiser)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, [optimiser], {"bank": torch.arange(3.0)}, {"step": 2})
    restored, its_optimiser = fresh()
    tensors, about = load_checkpoint(path, restored, [its_optimiser])
    assert about == {"step": 2}
    assert tensors["bank"].tolist() == [0, 1, 2]
    two_steps(model, optimiser)
    two_steps(restored, its_optimiser)
    assert torch.equal(model.weight, restored.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


# Refusals


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (20, r"not finite at step \d+; lower the learning rates; .* checkpoint"),
        (1, "step 1: .* the vectors have diverged; lower the learning rates; there is no checkpoint yet"),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, steps: int, message: str
) -> None:
    recipe = tiny_recipe(f"train.steps={steps}", "train.text_learning_rate=1e30", "train.graph_learning_rate=1e30")
    with pytest.raises(KgkitError, match=message):
        train_encoder(tiny_kg, tmp_path / "encoder", recipe)
    assert not (tmp_path / "encoder").exists()


def test_after_a_loss_that_is_no_number_a_run_goes_on_with_lower_rates(
    tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, opened: ConceptEncoder, monkeypatch: pytest.MonkeyPatch,
    no_onnx: None,
) -> None:  # fmt: skip
    from kgkit.training import loop

    whole = loop._step

    def breaks(run: Any, *sides: Any) -> dict[str, float]:
        losses = whole(run, *sides)
        return losses | {"synonym": math.nan} if run.at.step == 12 else losses

    monkeypatch.setattr(loop, "_step", breaks)
    every = "train.checkpoint_every=5"
    with pytest.raises(KgkitError, match=r"loss 'synonym' is not finite at step 12; lower the learning rates; the "):
        train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe(every))
    monkeypatch.setattr(loop, "_step", whole)
    before = tiny_recipe(every).train
    lower = ("train.text_learning_rate=1e-6", "train.graph_learning_rate=2e-6")
    train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe(every, *lower), resume=True)
    manifest = load_encoder(tmp_path / "encoder").manifest
    assert manifest["recipe_changed"] == [
        {"step": 10, "key": f"train.{side}_learning_rate", "before": getattr(before, f"{side}_learning_rate")}
        for side in ("text", "graph")
    ]
    assert "| until step 10 | train.text_learning_rate was " in model_card(manifest, {})
    assert manifest["steps"] == opened.manifest["steps"]
    assert manifest["encoder_digest"] != opened.digest


def test_a_folder_that_is_no_graph_is_refused(tmp_path: Path, tiny_encoder: Path, tiny_recipe: Recipe) -> None:
    for folder, message in (
        (tmp_path / "nowhere", "no such folder; expected a knowledge graph"),
        (tiny_encoder, "this is a concept encoder, expected a knowledge graph"),
    ):
        with pytest.raises(InputError, match=message):
            train_encoder(folder, tmp_path / "encoder", tiny_recipe())
    assert list(tmp_path.iterdir()) == []


def test_only_an_older_encoder_is_replaced(
    tmp_path: Path, tiny_kg: Path, tiny_encoder: Path, tiny_recipe: Recipe, no_onnx: None
) -> None:
    kg = shutil.copytree(tiny_kg, tmp_path / "kg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for out, message in ((kg, "this folder is a knowledge graph"), (tmp_path / "mine", "holds something else"),
                         (tmp_path / "mine" / "thesis.txt", "this is a file")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            train_encoder(tiny_kg, out, tiny_recipe())
    assert (kg / "manifest.json").exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    older = shutil.copytree(tiny_encoder, tmp_path / "older")
    train_encoder(tiny_kg, older, tiny_recipe("train.steps=2"))
    assert load_encoder(older).manifest["recipe"]["train"]["steps"] == 2


# Several processes, cached batches, early stopping


def test_two_processes_train_what_one_trains(
    tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, opened: ConceptEncoder
) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "encoder"), str(Path(__file__).parents[2])])
    script = tmp_path / "run.py"
    script.write_text(KILLED, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, tiny_kg, tmp_path / "encoder", tiny_text_model], env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    together = load_encoder(tmp_path / "encoder")
    for one, other in zip(log_of(together.folder), log_of(opened.folder), strict=True):
        assert one["losses"]["total"] == pytest.approx(other["losses"]["total"], rel=1e-2)
    assert (together.vectors * opened.vectors).sum(axis=1).min() > 0.999
    metrics = [json.loads((encoder.folder / "metrics.json").read_text()) for encoder in (together, opened)]
    for task, figures in metrics[1].items():
        low, high = figures["mrr_interval"]
        assert low <= metrics[0][task]["mrr"] <= high


def test_a_cached_batch_trains_what_a_whole_one_trains(train: Train) -> None:
    whole, cached = (train("train.steps=5", f"train.cache_texts={chunk}") for chunk in (0, 7))
    assert (whole.vectors * cached.vectors).sum(axis=1).min() > 0.9999


def test_facts_that_are_asked_for_pass_no_message_to_the_vectors_that_are_written(
    tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    method = towers_of(tiny_recipe(), tiny_corpus, tmp_path)
    preferred = torch.randn(tiny_corpus.view.num_concepts, 64)
    vectors = method.concept_vectors(preferred)
    nothing = np.empty((0, 3), dtype=np.int64)
    without = [replace(tiny_corpus, inductive=nothing), replace(tiny_corpus, support=nothing)]
    same, changed = (towers_of_same(method, corpus).concept_vectors(preferred) for corpus in without)
    assert torch.equal(vectors, same)
    assert not torch.equal(vectors, changed)


def test_weights_that_an_update_has_spoilt_reach_no_checkpoint(
    tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgkit.training import loop

    real = loop.set_learning_rates

    def endless_at_the_third(optimisers: Any, *args: Any) -> None:
        real(optimisers, *args)
        calls.append(1)
        if len(calls) == 3:
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = math.inf

    calls: list[int] = []
    monkeypatch.setattr(loop, "set_learning_rates", endless_at_the_third)
    with pytest.raises(KgkitError, match=r"step 3: the update has spoilt the weights; .*the last checkpoint is"):
        train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe("train.checkpoint_every=1", "train.curve_points=0"))
    kept = load_file(tmp_path / "encoder.partial" / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in kept.values())


def test_two_draws_per_step_are_the_mean_of_two(train: Train) -> None:
    settings = ("train.synonym_pairs=4", "objectives.definition=0", "objectives.relation=0", "graph.family=none",
                "graph.fanouts=[]", "objectives.alignment=0", "train.max_gradient_norm=0")  # fmt: skip
    apart = log_of(train("train.steps=2", "train.text_learning_rate=0", *settings).folder)
    together = log_of(train("train.steps=1", "train.accumulate=2", *settings).folder)
    mean = np.mean([line["losses"]["synonym"] for line in apart])
    assert together[0]["losses"]["synonym"] == pytest.approx(mean, rel=1e-5)


def test_patience_stops_a_run_that_gets_no_better(train: Train) -> None:
    encoder = train("train.steps=40", "train.curve_points=20", "train.patience=2", "train.text_learning_rate=0",
                    "train.graph_learning_rate=0", "train.warmup_fraction=0")  # fmt: skip
    assert encoder.manifest["steps"] == 6, "the first measurement is the best, two more are not better"


def test_the_best_weights_are_kept_where_the_recipe_asks_for_them(train: Train) -> None:
    encoder = train("train.keep=best", "train.curve_points=10", "train.text_learning_rate=2e-2")
    curve = {line["step"]: line["valid_score"] for line in log_of(encoder.folder) if "valid_score" in line}
    best = max(curve, key=lambda step: (curve[step], -step))
    assert encoder.manifest["written_weights"] == f"step {best}"
    assert not list(encoder.folder.glob("best*"))


def test_processor_time_ends_a_run(train: Train) -> None:
    encoder = train("train.steps=100000", "train.cpu_minutes=0.05", "train.curve_points=2", "train.log_every=1000")
    assert 1 < encoder.manifest["steps"] < 100_000
    assert encoder.manifest["cpu_seconds"] < 15


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(
    tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgkit.training import checkpoint

    real, calls = checkpoint.save_file, []

    def full_at_the_second(content: Any, path: Path, metadata: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        real(content, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", full_at_the_second)
    with pytest.raises(KgkitError, match=r"cannot write the checkpoint .*No space left.*run again with --resume"):
        train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe())
    assert checkpoint.read_about(tmp_path / "encoder.partial" / "checkpoint.safetensors")["progress"]["step"] == 8
    assert not list((tmp_path / "encoder.partial").glob("*.tmp"))


def test_a_disk_that_is_full_when_the_encoder_is_written_costs_no_training(
    no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgkit.training import saving

    def full(content: Any, path: Path) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        with pytest.raises(KgkitError, match=r"cannot write the encoder .*No space left.*run again with --resume"):
            train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe())
    train_encoder(tiny_kg, tmp_path / "encoder", tiny_recipe(), resume=True)
    train_encoder(tiny_kg, tmp_path / "undisturbed", tiny_recipe())
    assert load_encoder(tmp_path / "encoder").digest == load_encoder(tmp_path / "undisturbed").digest


# The other recipes


@pytest.mark.parametrize("recipe", ["benchmark", "sapbert", "kad", "untrained"])
def test_the_recipes_that_others_use_train_on_the_same_graph(
    recipe: str, no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, opened: ConceptEncoder
) -> None:
    settings = [f'text.model="{tiny_text_model}"', "text.max_name_tokens=24", "text.max_definition_tokens=24",
                "train.precision=fp32", "held_out.names=0.1", "held_out.definitions=0.1", "held_out.triples=0.1",
                "held_out.concepts=0.05", "train.curve_points=2"]  # fmt: skip
    if recipe != "untrained":
        settings += ["train.steps=6", "train.synonym_pairs=16", "train.text_pairs=16", "train.text_learning_rate=1e-3"]
    train_encoder(tiny_kg, tmp_path / recipe, load_recipe(EncoderRecipe, "encoder", recipe, settings))
    encoder = load_encoder(tmp_path / recipe)
    assert encoder.concepts == opened.concepts
    for name in ("names", "definitions", "triples"):  # so that all can be compared on the same queries
        ours, theirs = (folder / "evaluation" / f"{name}.parquet" for folder in (encoder.folder, opened.folder))
        assert ours.read_bytes() == theirs.read_bytes()
    log = log_of(encoder.folder)
    assert len(log) == (0 if recipe == "untrained" else 3)
    assert all("valid_synonym_mrr" in line for line in log[1:])


def test_free_vectors_train_on_a_benchmark_and_have_no_text(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    entities = generator.permutation([f"e{number:02d}" for number in range(30)])
    facts = [f"{entities[i]}\tnext\t{entities[(i + 1) % 30]}" for i in range(30)]
    facts += [f"{entities[(i + 1) % 30]}\tprevious\t{entities[i]}" for i in range(30)]
    folder = tmp_path / "ring"
    folder.mkdir()
    for name, lines in (("train", facts[:-6]), ("valid", facts[-6:-3]), ("test", facts[-3:])):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = ["relation.sampling=all", "relation.triples=32", "relation.concept_dim=32", "train.steps=300",
                "train.curve_points=10"]  # fmt: skip
    metrics = train_encoder(folder, tmp_path / "kge", load_recipe(EncoderRecipe, "encoder", "kge", settings))
    assert metrics.keys() == {"link_prediction"}
    assert metrics["link_prediction"]["mrr"] > 0.5, "the other direction of each test fact is in training"
    encoder = load_encoder(tmp_path / "kge")
    assert not (encoder.folder / "text").exists()
    with pytest.raises(InputError, match="without a text tower"):
        encoder.embed_text(["next"])
