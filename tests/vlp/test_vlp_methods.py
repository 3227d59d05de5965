from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vlp.artifact import load_model
from vlp.clip import ContrastNetwork
from vlp.config import LossConfig, ModelConfig, TrainConfig, VlpRecipe, load_vlp_recipe
from vlp.evaluation.evaluate import EvaluateConfig, evaluate
from vlp.export import ExportConfig, export
from vlp.kad import KadNetwork, _last_layer, kad_contrast
from vlp.methods import Batch, TrainingStep, build_network
from vlp.training import train

SMALL = ModelConfig(width=16, heads=4, layers=2, feedforward=16, dropout=0.1, joint_dim=8)
METHODS = ("query", "kad", "clip")


def recipe_of(method: str, base: VlpRecipe) -> VlpRecipe:
    targets = replace(base.targets, vectors="text") if method != "query" else base.targets
    if method == "kad":
        targets = replace(targets, queries="kad", closure=False)
    return replace(base, method=method, targets=targets)


def random_batch(films: int = 6, queries: int = 5, sentences: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    unit = [
        nn.functional.normalize(torch.randn(rows, 12, generator=generator), dim=1)
        for rows in (queries, films, sentences)
    ]
    targets = torch.randint(-2, 2, (films, queries), generator=generator, dtype=torch.int8)
    return Batch(
        torch.randn(films, 3, 4, 10, generator=generator), targets, *unit,
        torch.rand(sentences, queries, generator=generator) < 0.3, torch.eye(films, sentences, dtype=torch.bool),
    )  # fmt: skip


def step_of(recipe: VlpRecipe, batch: Batch) -> TrainingStep:
    torch.manual_seed(0)
    network = build_network(recipe, batch.films.shape[-1], batch.queries.shape[1])
    return TrainingStep(network, network, recipe.loss, torch.ones(batch.targets.shape[1]))


def test_kad_depends_on_what_else_is_asked_and_the_others_do_not() -> None:
    batch = random_batch()
    for method in METHODS:
        network = step_of(VlpRecipe(method=method, model=SMALL), batch).eval().model
        alone = network(batch.films, batch.queries[:1]).logits[:, 0]
        together = network(batch.films, batch.queries).logits[:, 0]
        assert torch.allclose(alone, together, atol=1e-5) == (method != "kad")


def test_kads_last_layer_is_the_layer_it_opens() -> None:
    layer = nn.TransformerDecoderLayer(16, 4, 16, 0.1, "relu", batch_first=True, norm_first=True).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    found, attention = _last_layer(layer, x, memory)
    assert torch.allclose(found, layer(x, memory), atol=1e-5)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 5), atol=1e-5)


def test_kad_is_as_big_as_published() -> None:
    network = KadNetwork(1024, 768, load_vlp_recipe("kad").model)
    assert isinstance(network.text_projection, nn.Identity)
    assert [layer.linear1.out_features for layer in network.layers] == [1024] * 4
    # four layers of two attentions (4 x 768 x 768 and biases), a feed-forward block and three norms
    attention, block, norm = 4 * 768 * 768 + 4 * 768, 2 * 768 * 1024 + 768 + 1024, 2 * 768
    expected = 4 * (2 * attention + block + 3 * norm)
    assert sum(p.numel() for p in network.layers.parameters()) == expected


def test_kads_contrast_takes_vectors_as_they_are() -> None:
    images, texts = torch.randn(4, 8), torch.randn(4, 8)
    assert not torch.allclose(kad_contrast(images, texts, 2.66), kad_contrast(2 * images, texts, 2.66))
    equal = torch.ones(4, 8)
    assert float(kad_contrast(equal, equal, 2.66)) == pytest.approx(torch.log(torch.tensor(4.0)).item(), abs=1e-5)


def test_kads_text_side_is_added_drawn_or_left_out() -> None:
    batch = random_batch()
    losses: dict[str, float] = {}
    for kind in ("off", "sum", "mix"):
        config = LossConfig(text_queries=kind, contrast_weight=0.0)
        step = step_of(VlpRecipe(method="kad", model=SMALL, loss=config), batch).eval()
        loss, parts = step(batch)
        losses[kind] = float(loss.detach())
        if kind == "sum":
            sides = [float(parts["train_loss"]), float(parts["train_text_loss"])]
            assert losses["sum"] == pytest.approx(sum(sides), rel=1e-5)
    assert losses["off"] == pytest.approx(sides[0], rel=1e-5)
    drawn = set()
    for seed in range(8):
        step = step_of(
            VlpRecipe(method="kad", model=SMALL, loss=LossConfig(text_queries="mix", contrast_weight=0.0)), batch
        ).eval()
        torch.manual_seed(seed)
        drawn.add(round(float(step(batch)[0].detach()), 5))
    assert drawn == {round(side, 5) for side in sides}


def test_sentences_are_asked_without_changing_what_concepts_answer() -> None:
    batch = random_batch()
    with_sentences = step_of(VlpRecipe(model=SMALL, loss=LossConfig(sentence_weight=1.0)), batch).eval()
    without = step_of(VlpRecipe(model=SMALL, loss=LossConfig(sentence_weight=1.0)), batch).eval()
    _, parts = with_sentences(batch)
    _, other = without(batch._replace(sentences=batch.sentences[:0], says=batch.says[:0], own=batch.own[:, :0]))
    assert "train_sentence_loss" in parts
    assert "train_sentence_loss" not in other
    assert torch.allclose(parts["train_loss"], other["train_loss"], atol=1e-5)


def test_a_study_without_a_report_takes_no_part_in_the_contrast() -> None:
    batch = random_batch()
    reports = batch.reports.clone()
    reports[0] = 0
    step = step_of(VlpRecipe(method="clip", model=SMALL), batch).eval()
    silent = batch._replace(reports=reports)
    moved = silent._replace(films=torch.cat([batch.films[:1] + 5, batch.films[1:]]))
    assert torch.allclose(step(silent)[0], step(moved)[0], atol=1e-5)
    assert not torch.allclose(step(batch)[0], step(batch._replace(films=moved.films))[0], atol=1e-5)


def test_a_contrast_answers_with_the_cosine_of_film_and_words() -> None:
    batch = random_batch()
    network = ContrastNetwork(10, 12, SMALL).eval()
    output = network(batch.films, batch.queries)
    expected = output.embedding @ network.embed_reports(batch.queries).T * network.scale
    assert torch.allclose(output.logits, expected, atol=1e-5)
    assert torch.allclose(output.attention.sum((2, 3)), torch.ones(6, 5), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_is_measured_and_leaves_as_onnx(
    method: str, tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path: Path
) -> None:
    recipe = recipe_of(method, tiny_recipe)
    if method == "query":
        targets = replace(recipe.targets, synonym_rate=0.5)
        recipe = replace(recipe, targets=targets, loss=replace(recipe.loss, sentence_weight=0.5, class_balance=0.5))
    out = tmp_path / "MODEL"
    train(TrainConfig(tiny_data_dir, tiny_encoder_dir, out, recipe))
    records = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    model = load_model(out)
    assert len(model.queries) == (41 if method == "kad" else 3)
    metrics = evaluate(EvaluateConfig(out, tiny_data_dir, "test", tmp_path / "EVAL", resamples=20, min_positives=1))
    assert metrics["macro_auroc"]["value"] is not None
    assert "mean_reciprocal_rank" in metrics["retrieval"]["film_to_report"]
    summary = export(ExportConfig(out, tmp_path / "ONNX"))
    assert summary.difference < 1e-4


def test_trained_blocks_change_and_the_others_do_not(
    tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path: Path
) -> None:
    tower = replace(tiny_recipe.tower, trained_blocks=1, learning_rate=1.0)
    train(TrainConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "FROZEN", tiny_recipe))
    train(TrainConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "TRAINED", replace(tiny_recipe, tower=tower)))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("FROZEN", "TRAINED"))
    changed = {name for name in before if name.startswith("tower.") and not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embedder" in name for name in changed)
    assert not any("running" in name or "num_batches" in name for name in changed)
    frozen, trained = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("FROZEN", "TRAINED"))
    assert frozen["tower"]["weights_sha256"] != trained["tower"]["weights_sha256"]
    films = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    answers = [load_model(tmp_path / name).answer(films, torch.eye(24)[:2]).logits for name in ("FROZEN", "TRAINED")]
    assert not torch.allclose(*answers)


def test_processor_time_ends_training(
    tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path: Path
) -> None:
    optimizer = replace(tiny_recipe.optimizer, epochs=100_000, cpu_minutes=0.01)
    summary = train(
        TrainConfig(tiny_data_dir, tiny_encoder_dir, tmp_path / "MODEL", replace(tiny_recipe, optimizer=optimizer))
    )
    assert summary.metrics["epochs_run"] < 100_000
    assert summary.metrics["cpu_seconds"] >= 0.6
    lines = (tmp_path / "MODEL" / "training_log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates[-1] < 0.2 * max(rates)
