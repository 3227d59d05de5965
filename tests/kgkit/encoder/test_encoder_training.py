"""The training loop: it learns, repeats, resumes, stops on NaN, and leaves nothing half-made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rrf import Rrf
from safetensors.torch import load_file
from tiny_thorax import make_graph, tiny_thorax

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.checkpoint import load_checkpoint, save_checkpoint
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.corpus import Corpus
from kgkit.encoder.evaluation import link_prediction
from kgkit.encoder.objectives import triple_keys
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.encoder.text_tower import TextTower
from kgkit.encoder.training import _prepare, train_encoder
from kgkit.errors import InputError, KgkitError
from kgkit.recipe import recipe_to_dict
from kgkit.views.splits import shuffle_tails

Recipe = Callable[..., EncoderRecipe]
Train = Callable[..., ConceptEncoder]


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX copy of the text tower takes seven seconds and changes no weight; `tiny_encoder` has it."""
    monkeypatch.setattr("kgkit.encoder.saving.export_onnx", lambda tower, path: None)


@pytest.fixture
def train(no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe) -> Train:
    """`train("key=value", ...)`: an encoder of the tiny graph, trained with these changes to the tiny recipe."""

    def run(*changes: str, kg: Path = tiny_kg) -> ConceptEncoder:
        out = tmp_path / f"encoder-{len(list(tmp_path.iterdir()))}"
        train_encoder(kg, out, tiny_recipe(*changes))
        return load_encoder(out)

    return run


def log_of(encoder: Path) -> list[dict[str, Any]]:
    lines = (encoder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def graph_weights(encoder: Path) -> dict[str, torch.Tensor]:
    return load_file(encoder / "graph.safetensors")


# Learning


def test_every_loss_is_logged_and_the_relation_loss_falls(tiny_encoder: Path, tiny_recipe: Recipe) -> None:
    log = log_of(tiny_encoder)
    assert [line["step"] for line in log] == list(range(1, 21))
    relation = [line["losses"]["relation"] for line in log]
    assert np.mean(relation[-5:]) < 0.7 * relation[0]
    weights = recipe_to_dict(tiny_recipe())["objectives"]
    for line in log:
        parts = {name: loss for name, loss in line["losses"].items() if name != "total"}
        assert parts.keys() == {"synonym", "definition", "relation", "alignment"}
        total = sum(weights[name] * loss for name, loss in parts.items())
        assert line["losses"]["total"] == pytest.approx(total, rel=1e-5)
    curve = [line["valid_mrr"] for line in log if "valid_mrr" in line]
    assert len(curve) >= 8
    assert all(0 < mrr <= 1 for mrr in curve)


def test_it_memorises_its_training_facts(opened: ConceptEncoder, tiny_corpus: Corpus, tiny_recipe: Recipe) -> None:
    def mrr(vectors: torch.Tensor, weight: torch.Tensor | None = None) -> float:
        scorer = RelationScorer("transe", vectors.shape[1], tiny_corpus.view.num_relations)
        if weight is not None:
            scorer.load_state_dict({"weight": weight})
        return float((1 / link_prediction(vectors, scorer, tiny_corpus, tiny_corpus.split.train)).mean())

    tower = TextTower(tiny_recipe().text).eval()
    with torch.no_grad():
        untrained = tower.embed_tokens(tower.tokenize(tiny_corpus.preferred, 12))
    trained = mrr(torch.from_numpy(opened.vectors), graph_weights(opened.folder)["scorer.weight"])
    assert trained > 2 * mrr(untrained)
    assert trained > 3 * np.mean(1 / np.arange(1, len(opened.concepts) + 1))  # what chance gives


def test_metrics_and_manifest_say_what_was_done(tiny_encoder: Path, tiny_corpus: Corpus, tiny_recipe: Recipe) -> None:
    metrics = json.loads((tiny_encoder / "metrics.json").read_text(encoding="utf-8"))
    manifest = load_encoder(tiny_encoder).manifest
    for who in ("trained", "untrained"):
        links, names = metrics[who]["link_prediction"], metrics[who]["synonym_retrieval"]
        assert links["num_queries"] == 2 * len(tiny_corpus.split.test)
        assert names["num_queries"] == len(tiny_corpus.held_out)
        assert links["num_candidates"] == names["num_candidates"] == tiny_corpus.view.num_concepts
        for figures in (links, names):
            assert figures["mrr_interval"][0] <= figures["mrr"] <= figures["mrr_interval"][1]
            assert 0 <= figures["hits_at_1"] <= figures["hits_at_10"] <= 1
    assert metrics["trained"]["link_prediction"]["mrr"] > metrics["untrained"]["link_prediction"]["mrr"]
    assert manifest["recipe"] == recipe_to_dict(tiny_recipe())
    assert (manifest["precision"], manifest["num_concepts"], manifest["dim"]) == ("fp32", 43, 64)
    assert {path.name for path in tiny_encoder.iterdir()} == {
        "README.md", "concepts.parquet", "graph.safetensors", "manifest.json", "metrics.json", "names.parquet", "text",
        "training_log.jsonl", "vectors.safetensors",
    }  # fmt: skip
    assert "| link prediction | trained |" in (tiny_encoder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("control", ["none", "shuffled-graph"])
def test_held_out_facts_reach_training_in_no_way(
    tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, control: str
) -> None:
    """They pass no message, at evaluation either, are never predicted and mask no candidate."""
    run, _ = _prepare(tiny_recipe(f"train.control={control}"), tiny_corpus, tmp_path / "no checkpoint")
    sizes = (tiny_corpus.view.num_concepts, tiny_corpus.view.num_relations)
    train = tiny_corpus.split.train
    if control == "shuffled-graph":
        train = shuffle_tails(train, seed=0)
    assert run.known.tolist() == triple_keys(*torch.from_numpy(train).T, sizes).sort().values.tolist()
    everything = run.batches.sampler.sample(torch.arange(sizes[0]), [1000], torch.Generator())
    messages = {frozenset(pair) for pair in everything.edge_index.T.tolist()}
    assert messages == {frozenset((head, tail)) for head, _, tail in train.tolist()}
    for step in range(1, 10):
        batch = run.batches.draw(0, step)[1]
        facts = zip(batch.graph.nodes[batch.heads], batch.relations, batch.graph.nodes[batch.tails], strict=True)
        assert {tuple(map(int, fact)) for fact in facts} <= set(map(tuple, train.tolist()))


# The same again, and what changes it


def test_the_same_seed_gives_the_same_digest_and_another_seed_another(train: Train, opened: ConceptEncoder) -> None:
    assert train().digest == opened.digest
    assert train("seed=1").digest != opened.digest


def test_the_shuffled_control_learns_another_graph(train: Train, opened: ConceptEncoder) -> None:
    control = train("train.control=shuffled-graph")
    assert control.concepts == opened.concepts
    assert np.abs(control.vectors - opened.vectors).max() > 1e-2
    assert json.loads((control.folder / "metrics.json").read_text(encoding="utf-8"))["control"] == "shuffled-graph"


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
    assert set(graph_weights(encoder.folder)) == {"scorer.weight"}


@pytest.mark.parametrize("interaction", ["distmult", "complex", "rotate"])
def test_other_interactions_train(train: Train, interaction: str) -> None:
    relation = [line["losses"]["relation"] for line in log_of(train(f"objectives.interaction={interaction}").folder)]
    assert np.mean(relation[-5:]) < relation[0]


@pytest.mark.parametrize("loss", ["nssa", "marginranking", "bcewithlogits"])
def test_other_losses_train(train: Train, loss: str) -> None:
    relation = [line["losses"]["relation"] for line in log_of(train(f"objectives.loss={loss}").folder)]
    assert np.mean(relation[-5:]) < relation[0]


def test_a_graph_without_synonyms_and_definitions_and_nothing_held_out_trains(train: Train, tmp_path: Path) -> None:
    kg = make_graph(tmp_path / "bare", tiny_thorax(definitions=False, synonyms=False))
    encoder = train("train.steps=4", "train.held_out_triples=0", kg=kg)
    assert log_of(encoder.folder)[0]["losses"].keys() == {"relation", "alignment", "total"}
    metrics = json.loads((encoder.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["trained"] == {}


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
from kgkit.encoder.training import train_encoder
torch.set_num_threads(1)
kg, out, model, *changes = sys.argv[1:]
train_encoder(Path(kg), Path(out), small_recipe(Path(model), *changes))
"""


def test_a_killed_run_leaves_no_encoder_and_resumes_to_the_very_same(
    tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, tiny_recipe: Recipe, opened: ConceptEncoder, no_onnx: None
) -> None:
    out, partial = tmp_path / "encoder", tmp_path / "encoder.partial"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
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
        (("train.steps=21",), tiny_kg, "another recipe"),
        ((), make_graph(tmp_path / "bare", tiny_thorax(definitions=False)), "another graph"),
    ):
        with pytest.raises(InputError, match=f"made with {what}; run again without --resume"):
            train_encoder(kg, out, tiny_recipe(*changes), resume=True)
    train_encoder(tiny_kg, out, tiny_recipe(), resume=True)
    resumed = load_encoder(out)
    np.testing.assert_array_equal(resumed.vectors, opened.vectors)
    assert resumed.digest == opened.digest
    assert log_of(out) == log_of(opened.folder)
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
    save_checkpoint(path, model, optimiser, {"bank": torch.arange(3.0)}, {"step": 2})
    restored, its_optimiser = fresh()
    tensors, about = load_checkpoint(path, restored, its_optimiser)
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
        (1, "concept vectors are not finite; lower the learning rates"),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, steps: int, message: str
) -> None:
    recipe = tiny_recipe(f"train.steps={steps}", "train.text_learning_rate=1e30", "train.graph_learning_rate=1e30")
    with pytest.raises(KgkitError, match=message):
        train_encoder(tiny_kg, tmp_path / "encoder", recipe)
    assert not (tmp_path / "encoder").exists()


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
    for out, message in ((kg, "this is a knowledge graph"), (tmp_path / "mine", "not a concept encoder"),
                         (tmp_path / "mine" / "thesis.txt", "not a concept encoder")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            train_encoder(tiny_kg, out, tiny_recipe())
    assert (kg / "manifest.json").exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    older = shutil.copytree(tiny_encoder, tmp_path / "older")
    train_encoder(tiny_kg, older, tiny_recipe("train.steps=2"))
    assert load_encoder(older).manifest["recipe"]["train"]["steps"] == 2
