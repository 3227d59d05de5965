"""The text tower: order, batches, pooling, head, other readers of its folder, freezing, weights it cannot read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from kgkit.encoder.batching import TokenRows, equal_rows, plan_batches
from kgkit.encoder.config import EncoderRecipe, TextConfig
from kgkit.encoder.precision import choose_precision
from kgkit.encoder.text_onnx import OnnxTextTower
from kgkit.encoder.text_tower import TextTower, export_onnx
from kgkit.errors import InputError

TEXTS = ["lung", "fluid around the lung", "a broken rib of the left chest wall", "heart", "Enlarged Heart"] * 40
Recipe = Callable[..., EncoderRecipe]
COMBINATIONS = [(pooling, head) for pooling in ("mean", "cls", "pooler") for head in ("none", "mlp")]


@pytest.fixture(scope="module")
def tower(tiny_recipe: Recipe) -> TextTower:
    return TextTower(tiny_recipe().text).eval()


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa, whose pad id is 1 and whose positions start after it; all that a word-piece BERT takes for granted."""
    folder = tmp_path_factory.mktemp("roberta") / "model"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted({word for text in TEXTS for word in text.lower().split()})]
    tokenizer = Tokenizer(models.WordLevel({piece: row for row, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
               "sep_token": "</s>", "cls_token": "<s>"}  # fmt: skip
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=14, pad_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


def config_of(folder: Path, **changes: object) -> TextConfig:
    config = TextConfig(str(folder), "mean", "none", max_name_tokens=12, max_definition_tokens=24, dropout=0.0,
                        frozen_layers=0)  # fmt: skip
    return dataclasses.replace(config, **changes)


def embed(tower: TextTower, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return tower.embed_tokens(tower.tokenize(texts, 24))


def gradients(tower: TextTower) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


# Vectors


def test_rows_are_unit_and_in_the_order_of_the_texts(tower: TextTower) -> None:
    vectors = embed(tower, TEXTS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    for position in (0, 2, 199):
        torch.testing.assert_close(vectors[position], embed(tower, [TEXTS[position]])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(tower, TEXTS[::-1]), vectors.flip(0), atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).norm() > 0.01


@pytest.mark.parametrize(("pooling", "head"), COMBINATIONS)
def test_pooling_reads_the_transformers_states_without_padding(tower: TextTower, pooling: str, head: str) -> None:
    tower = TextTower(dataclasses.replace(tower.config, pooling=pooling, head=head)).eval()
    vectors = embed(tower, TEXTS[:5])
    for text, vector in zip(TEXTS[:5], vectors, strict=True):
        encoded = tower.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            output = tower.transformer(**encoded)
            states = output.last_hidden_state[0]
            pooled = {"mean": states.mean(0), "cls": states[0], "pooler": output.pooler_output[0]}[pooling]
            if head == "mlp":
                first, last = tower.head[0], tower.head[2]
                hidden = pooled @ first.weight.T + first.bias
                pooled = nn.functional.gelu(hidden) @ last.weight.T + last.bias
        torch.testing.assert_close(vector, pooled / pooled.norm(), atol=1e-5, rtol=0)


def test_the_heads_weights_are_drawn_as_kad_draws_them(tower: TextTower) -> None:
    torch.manual_seed(0)
    head = TextTower(dataclasses.replace(tower.config, head="mlp")).head
    for layer in (head[0], head[2]):
        weight = layer.weight.detach()
        assert weight.shape == (64, 64)
        assert float(weight.std()) == pytest.approx(64**-0.5, rel=0.05)
        assert abs(float(weight.mean())) < 0.01


def test_a_checkpoint_without_a_trained_pooler_is_refused(tiny_text_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_text_model, tmp_path / "headless"))
    BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).save_pretrained(folder)
    wrong = r"'text.pooling' is 'pooler', but '.*headless' has no trained pooler; expected 'mean' or 'cls'"
    with pytest.raises(InputError, match=wrong):
        TextTower(config_of(folder, pooling="pooler"))
    assert embed(TextTower(config_of(folder)), ["lung"]).shape == (1, 64)


@pytest.mark.parametrize("model", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_looking_words_up_once_leaves_vectors_and_gradients_as_they_are(
    model: str, pooling: str, tiny_text_model: Path, roberta: Path
) -> None:
    """With gradients all batches share one look-up; here against one text at a time without it."""
    tower = TextTower(config_of(roberta if model == "roberta" else tiny_text_model, pooling=pooling)).eval()
    tokens = tower.tokenize([*TEXTS[:5], "", "lung of the lung wall"], 24)
    weights = torch.randn(len(tokens), tower.dim, generator=torch.Generator().manual_seed(1))
    vectors = tower.embed_tokens(tokens)
    (vectors * weights).sum().backward()
    together = gradients(tower)
    tower.zero_grad(set_to_none=True)
    for row, vector, weight in zip(tokens, vectors, weights, strict=True):
        ids = torch.tensor([list(row)])
        alone = tower(ids, torch.ones_like(ids))
        torch.testing.assert_close(alone[0], vector, atol=1e-5, rtol=0)
        (alone[0] * weight).sum().backward()
    apart = gradients(tower)
    assert apart.keys() == together.keys()
    for name, gradient in apart.items():
        torch.testing.assert_close(together[name], gradient, atol=2e-5, rtol=1e-4)


def test_encoding_all_equals_embedding_and_leaves_the_mode(tower: TextTower) -> None:
    tower.train()
    tokens = tower.tokenize(TEXTS, 24)
    for given_as in (tokens, TokenRows.of(tokens)):
        vectors = tower.encode_all(given_as, nullcontext, "texts")
        assert tower.training
        torch.testing.assert_close(vectors, embed(tower.eval(), TEXTS), atol=1e-5, rtol=0)
        tower.train()
    assert tower.encode_all([], nullcontext, "nothing").shape == (0, tower.dim)


# Batches


LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS)
def test_a_plan_holds_every_row_once_shortest_first(lengths: list[int]) -> None:
    plan = plan_batches(np.array(lengths, dtype=np.int64))
    rows = [int(row) for batch in plan for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    assert all(len(batch) for batch in plan)


@given(LENGTHS.filter(lambda lengths: len(lengths) > 0))
def test_no_plan_by_length_costs_less(lengths: list[int]) -> None:
    from kgkit.encoder.batching import _BATCH_COST

    def cost(batches: list[list[int]]) -> int:
        return sum(_BATCH_COST + len(batch) * max(batch) for batch in batches)

    values = sorted(set(lengths))[:8]
    lengths = [length for length in lengths if length in values]
    found = cost([[lengths[row] for row in batch] for batch in plan_batches(np.array(lengths))])
    for cuts in range(2 ** (len(values) - 1)):  # every way of cutting between two lengths
        batches: list[list[int]] = [[]]
        for place, value in enumerate(values):
            batches[-1] += [length for length in lengths if length == value]
            if place < len(values) - 1 and cuts >> place & 1:
                batches.append([])
        assert found <= cost(batches)


def test_a_step_of_names_and_definitions_is_padded_by_less_than_a_tenth() -> None:
    """Lengths as in open_rrf: names of about 10 tokens, definitions of up to 64."""
    generator = np.random.default_rng(0)
    for names, definitions in ((256, 32), (128, 64), (512, 0)):
        lengths = np.concatenate([
            np.clip(generator.gamma(4, 2.6, names), 3, 25), np.clip(generator.gamma(2, 18, definitions), 6, 64)
        ]).astype(np.int64)  # fmt: skip
        padded = sum(len(batch) * lengths[batch].max() for batch in plan_batches(lengths))
        assert padded < lengths.sum() / 0.9
    many = np.clip(generator.gamma(4, 2.6, 20_000), 3, 25).astype(np.int64)
    plan = plan_batches(many)
    assert sum(len(batch) * many[batch].max() for batch in plan) < many.sum() / 0.98
    assert max(len(batch) * many[batch].max() for batch in plan) <= 2048 + 25


ROWS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30)


@given(ROWS, st.data())
def test_token_rows_are_the_rows(rows: list[list[int]], data: st.DataObject) -> None:
    flat = TokenRows.of(rows)
    assert len(flat) == len(rows)
    assert [list(row) for row in flat] == rows
    assert flat.lengths.tolist() == [len(row) for row in rows]
    if rows:
        picked = data.draw(st.lists(st.integers(0, len(rows) - 1)))
        assert [list(row) for row in flat.take(np.array(picked, dtype=np.int64))] == [rows[i] for i in picked]
        table, mask = flat.padded(np.array(picked, dtype=np.int64), 9)
        width = max((len(rows[i]) for i in picked), default=0)
        assert table.tolist() == [rows[i] + [9] * (width - len(rows[i])) for i in picked]
        assert mask.tolist() == [[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in picked]
        assert list(flat[-1]) == rows[-1]
    with pytest.raises(IndexError):
        flat[len(rows)]


@given(ROWS)
def test_equal_rows_are_found(rows: list[list[int]]) -> None:
    order, starts = equal_rows(TokenRows.of(rows))
    assert sorted(order.tolist()) == list(range(len(rows)))
    groups = [part.tolist() for part in np.split(order, starts[1:])] if rows else []
    for group in groups:
        assert len({tuple(rows[row]) for row in group}) == 1
    assert len(groups) == len({tuple(row) for row in rows})


# Tokens


def test_long_texts_are_cut(tower: TextTower) -> None:
    tokens = tower.tokenize(["lung " * 50, "lung"], 6)
    assert [len(row) for row in tokens] == [6, 3]
    assert tokens[0][-1] == tokens[1][-1] == tower.tokenizer.sep_token_id


def test_no_text_is_longer_than_the_model_reads(tower: TextTower, roberta: Path) -> None:
    assert tower.max_positions == 64
    small = TextTower(config_of(roberta, max_definition_tokens=500)).eval()
    assert small.max_positions == 12, "of 14 positions RoBERTa leaves out those up to its pad id"
    tokens = small.tokenize(["lung " * 50], 500)
    assert len(tokens[0]) == 12
    assert torch.isfinite(small.embed_tokens(tokens)).all()


def test_no_text_gives_no_rows(tower: TextTower) -> None:
    assert tower.tokenize([], 6) == []
    assert tower.embed_tokens([]).shape == (0, tower.dim)


def test_an_empty_text_has_a_unit_vector(tower: TextTower) -> None:
    vectors = embed(tower, ["", "lung"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def bare_tokenizer(folder: Path, **special: str) -> None:
    """Word-level, without a pad token and with nothing put around a text."""
    words = ["[UNK]", "lung", "rib", "[PAD]"]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.mark.parametrize("special", [{}, {"unk_token": "[UNK]"}])
def test_a_tokenizer_without_a_pad_token_pads_all_the_same(
    special: dict[str, str], tiny_text_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = Path(shutil.copytree(tiny_text_model, tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    bare_tokenizer(folder, **special)
    tower = TextTower(config_of(folder)).eval()
    texts = ["lung", "rib lung rib", ""]
    assert [len(row) for row in tower.tokenize(texts, 9)] == [1, 3, 1]
    vectors = embed(tower, texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[0], embed(tower, ["lung"])[0], atol=1e-6, rtol=0)
    tower.save(tmp_path / "text")
    theirs = SentenceTransformer(str(tmp_path / "text"), device="cpu").encode(texts[:2])
    np.testing.assert_allclose(theirs, vectors[:2].numpy(), atol=1e-5)


def test_the_digest_follows_the_tokenizer_and_not_its_last_call(tiny_text_model: Path, roberta: Path) -> None:
    tower, other = TextTower(config_of(tiny_text_model)), TextTower(config_of(roberta))
    before = tower.tokenizer_digest
    tower.tokenize(["lung"], 5)
    assert tower.tokenizer_digest == before != other.tokenizer_digest


# Other readers of the folder


def others_agree(tower: TextTower, folder: Path, *, onnx: bool) -> None:
    from sentence_transformers import SentenceTransformer

    for parameter in tower.parameters():  # far from where they start, so that a part left out would show
        nn.init.normal_(parameter, std=0.2)
    tower.eval().save(folder)
    texts = [*TEXTS[:5], "lung " * 60]
    vectors = embed(tower, texts).numpy()
    loaded = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(loaded.encode(texts), vectors, atol=1e-5)
    assert loaded.get_sentence_embedding_dimension() == tower.dim
    if onnx:
        export_onnx(tower, folder / "model.onnx")
        served = OnnxTextTower(folder).embed(texts)
        assert (served * vectors).sum(axis=1).min() > 0.9999
        assert served.dtype == np.float32


@pytest.mark.parametrize(("pooling", "head"), COMBINATIONS)
def test_sentence_transformers_and_onnxruntime_give_the_same_vectors(
    pooling: str, head: str, tiny_text_model: Path, tmp_path: Path
) -> None:
    tower = TextTower(config_of(tiny_text_model, pooling=pooling, head=head))
    others_agree(tower, tmp_path / "text", onnx=(pooling, head) == ("cls", "mlp"))


def test_they_do_so_for_a_roberta(roberta: Path, tmp_path: Path) -> None:
    others_agree(TextTower(config_of(roberta, pooling="pooler")), tmp_path / "text", onnx=True)
    content = json.loads((tmp_path / "text" / "sentence_bert_config.json").read_text(encoding="utf-8"))
    assert content["max_seq_length"] == 12
    assert OnnxTextTower(tmp_path / "text")._pad == 1
    with pytest.raises(InputError, match="no text to embed"):
        OnnxTextTower(tmp_path / "text").embed([])
    (tmp_path / "text" / "tokenizer_config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer_config.json: damaged"):
        OnnxTextTower(tmp_path / "text")


# Options


def test_frozen_layers_and_embeddings_take_no_gradient(tiny_recipe: Recipe) -> None:
    tower = TextTower(tiny_recipe("text.frozen_layers=1").text)
    free = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert {name.split(".layer.")[1][0] for name in free if ".layer." in name} == {"1"}
    assert not any(p.requires_grad for p in tower.transformer.embeddings.parameters())
    assert all(p.requires_grad for p in TextTower(tiny_recipe().text).transformer.encoder.parameters())
    tower.embed_tokens(tower.tokenize(TEXTS[:3], 9)).sum().backward()
    assert not any(p.grad is not None for p in tower.transformer.encoder.layer[0].parameters())


def test_more_frozen_layers_than_there_are_is_refused(tiny_recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"'text.frozen_layers' is 3: '.*' has 2 layers"):
        TextTower(tiny_recipe("text.frozen_layers=3").text)


def test_dropout_is_the_recipes(tiny_recipe: Recipe) -> None:
    tokens = TextTower(tiny_recipe().text).tokenize(TEXTS[:3], 9)
    for dropout, differs in ((0.0, False), (0.4, True)):
        tower = TextTower(dataclasses.replace(tiny_recipe().text, dropout=dropout)).train()
        assert (not torch.equal(tower.embed_tokens(tokens), tower.embed_tokens(tokens))) == differs


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


def test_an_encoder_with_a_decoder_is_refused(tiny_text_model: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    folder = Path(shutil.copytree(tiny_text_model, tmp_path / "t5"))
    config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(folder)
    with pytest.raises(InputError, match=r"'text.model': '.*t5' is an encoder with a decoder; expected an encoder"):
        TextTower(config_of(folder))
