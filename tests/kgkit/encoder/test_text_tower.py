"""The text tower: order, batches, pooling, freezing, and what happens when weights cannot be read."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.precision import choose_precision
from kgkit.encoder.text_tower import TextTower
from kgkit.errors import InputError

TEXTS = ["lung", "fluid around the lung", "a broken rib of the left chest wall", "heart", "Enlarged Heart"] * 40
Recipe = Callable[..., EncoderRecipe]


@pytest.fixture(scope="module")
def tower(tiny_recipe: Recipe) -> TextTower:
    return TextTower(tiny_recipe().text).eval()


def embed(tower: TextTower, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return tower.embed_tokens(tower.tokenize(texts, 24))


def test_rows_are_unit_and_in_the_order_of_the_texts(tower: TextTower) -> None:
    vectors = embed(tower, TEXTS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    for position in (0, 2, 199):
        torch.testing.assert_close(vectors[position], embed(tower, [TEXTS[position]])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(tower, TEXTS[::-1]), vectors.flip(0), atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).norm() > 0.01


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_reads_the_transformers_states_without_padding(tower: TextTower, pooling: str) -> None:
    tower = TextTower(dataclasses.replace(tower.config, pooling=pooling)).eval()
    vectors = embed(tower, TEXTS[:5])
    for text, vector in zip(TEXTS[:5], vectors, strict=True):
        encoded = tower.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = tower.transformer(**encoded).last_hidden_state[0]
        pooled = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(vector, pooled / pooled.norm(), atol=1e-5, rtol=0)


def test_encoding_all_equals_embedding_and_leaves_the_mode(tower: TextTower) -> None:
    from contextlib import nullcontext

    tower.train()
    vectors = tower.encode_all(tower.tokenize(TEXTS, 24), nullcontext, "texts")
    assert tower.training
    torch.testing.assert_close(vectors, embed(tower.eval(), TEXTS), atol=1e-5, rtol=0)


def test_long_texts_are_cut(tower: TextTower) -> None:
    tokens = tower.tokenize(["lung " * 50, "lung"], 6)
    assert [len(row) for row in tokens] == [6, 3]
    assert tokens[0][-1] == tokens[1][-1] == tower.tokenizer.sep_token_id


def test_no_text_gives_no_rows(tower: TextTower) -> None:
    assert tower.tokenize([], 6) == []
    assert tower.embed_tokens([]).shape == (0, tower.dim)


def test_frozen_layers_and_embeddings_take_no_gradient(tiny_recipe: Recipe) -> None:
    tower = TextTower(tiny_recipe("text.frozen_layers=1").text)
    free = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert {name.split(".layer.")[1][0] for name in free if ".layer." in name} == {"1"}
    assert not any(p.requires_grad for p in tower.transformer.embeddings.parameters())
    assert all(p.requires_grad for p in TextTower(tiny_recipe().text).transformer.encoder.parameters())


def test_precision_is_measured_on_ids_that_a_small_vocabulary_has(tower: TextTower) -> None:
    assert tower.vocabulary_size < 300
    assert choose_precision("auto", tower) in ("fp32", "bf16")
    assert choose_precision("bf16", tower) == "bf16"


def test_weights_that_cannot_be_read_are_named(tiny_recipe: Recipe, tiny_text_model: Path, tmp_path: Path) -> None:
    def refused(folder: Path) -> None:
        config = dataclasses.replace(tiny_recipe().text, model=str(folder))
        with pytest.raises(InputError, match=f"cannot read text weights '{folder}'"):
            TextTower(config)

    refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    damaged = shutil.copytree(tiny_text_model, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    refused(damaged)
