"""KAD's text pairs: what is drawn, how often, in which direction, and what is made of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.errors import InputError
from kgkit.recipe import load_recipe
from kgkit.training.corpus import Corpus
from kgkit.training.method import Reader
from kgkit.training.objectives import kad_soft_contrast
from kgkit.training.text_pairs import TextPairsDraw, TextPairsMethod

Recipe = Callable[..., EncoderRecipe]
KAD = (
    "objectives.text_pairs=1.0", "objectives.synonym=0.0", "objectives.definition=0.0", "objectives.relation=0.0",
    "objectives.alignment=0.0", "graph.family=none", "train.text_pairs=24", "train.token_masking=0.0",
    "text.max_name_tokens=24", "text.pooling=pooler", "text.head=mlp",
)  # fmt: skip


def reader_of(model: EncoderModel) -> Reader:
    assert model.text is not None
    tower = model.text
    return lambda tokens, description: tower.encode_all(tokens, nullcontext, description)


def method_of(corpus: Corpus, recipe: EncoderRecipe, folder: Path) -> TextPairsMethod:
    torch.manual_seed(0)
    model = EncoderModel(recipe, corpus.view.num_concepts, corpus.view.num_relations)
    return TextPairsMethod(model, corpus, recipe, folder, reader_of(model))


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> EncoderRecipe:
    return tiny_recipe(*KAD)


@pytest.fixture
def method(tiny_corpus: Corpus, recipe: EncoderRecipe, tmp_path: Path) -> TextPairsMethod:
    return method_of(tiny_corpus, recipe, tmp_path)


def rows(draw: TextPairsDraw) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """(anchor, positive, concept) of each pair."""
    half = len(draw.tokens) // 2
    texts = [tuple(map(int, row)) for row in draw.tokens]
    return list(zip(texts[:half], texts[half:], draw.concepts.tolist(), strict=True))


def all_pairs(corpus: Corpus, method: TextPairsMethod) -> tuple[Counter, Counter, Counter]:
    """Every pair there is, written out: asking for tails, for heads, for definitions."""
    name, relations = corpus.preferred, [relation.replace("_", " ") for relation in corpus.view.relations]

    def cut(text: str) -> tuple[int, ...]:
        return tuple(method._tower.tokenize([text], 24)[0])

    tails, heads, definitions = Counter(), Counter(), Counter()
    for h, r, t in corpus.split.train.tolist():
        tails[cut(f"{name[h]} [SEP] {relations[r]}"), cut(name[t]), t] += 1
        heads[cut(f"{relations[r]} [SEP] {name[t]}"), cut(name[h]), h] += 1
    for row, text in zip(corpus.definition_rows.tolist(), corpus.definitions, strict=True):
        definitions[cut(name[row]), cut(text), row] += 1
    return tails, heads, definitions


def test_pairs_are_facts_in_both_directions_and_definitions_in_proportion(
    tiny_corpus: Corpus, method: TextPairsMethod
) -> None:
    parts = all_pairs(tiny_corpus, method)
    seen = Counter(pair for step in range(1, 200) for pair in rows(method.draw(step)))
    assert set(seen) == set().union(*parts), "every pair there is, and no other"
    total = sum(seen.values())
    facts, definitions = len(tiny_corpus.split.train), len(tiny_corpus.definitions)
    for part, expected in zip(parts, (facts / 2, facts / 2, definitions), strict=True):
        share = expected / (facts + definitions)
        drawn = sum(seen[pair] for pair in part)
        assert abs(drawn / total - share) < 4 * (share * (1 - share) / total) ** 0.5


def test_a_step_is_drawn_alike_each_time_and_steps_differ(method: TextPairsMethod) -> None:
    assert rows(method.draw(5)) == rows(method.draw(5)) != rows(method.draw(6))
    assert len(method.draw(5).tokens) == 48


def test_the_separator_is_the_tokenizers_own_token(method: TextPairsMethod) -> None:
    separator = method._tower.tokenizer.sep_token_id
    inner = Counter(anchor.count(separator) for step in range(1, 9) for anchor, _, _ in rows(method.draw(step)))
    assert set(inner) == {1, 2}, "names have one at their end, questions one more inside"


def test_held_out_definitions_are_never_drawn(tiny_corpus: Corpus, method: TextPairsMethod) -> None:
    held = tiny_corpus.query_definitions.filter(pl.col("part") == "test")["definition"].to_list()
    wanted = {tuple(row) for row in method._tower.tokenize(held, 24)}
    assert len(wanted) > 0
    drawn = {
        text for step in range(1, 200) for anchor, positive, _ in rows(method.draw(step)) for text in (anchor, positive)
    }
    assert not wanted & drawn


def test_either_side_is_masked_by_chance(tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    plain = method_of(tiny_corpus, tiny_recipe(*KAD), tmp_path)
    noisy = method_of(tiny_corpus, tiny_recipe(*KAD, "train.token_masking=0.5"), tmp_path)
    mask, outcomes = plain._tower.tokenizer.mask_token_id, Counter()
    for step in range(1, 200):
        before, after = rows(plain.draw(step)), rows(noisy.draw(step))
        assert [pair[2] for pair in before] == [pair[2] for pair in after]
        touched = tuple(any(mask in pair[side] for pair in after) for side in (0, 1))
        for side in (0, 1):
            assert [len(pair[side]) for pair in before] == [len(pair[side]) for pair in after]
            if not touched[side]:
                assert [pair[side] for pair in before] == [pair[side] for pair in after]
        outcomes[touched] += 1
    assert len(outcomes) == 4
    assert all(30 < count < 70 for count in outcomes.values()), "the sides are masked independently, each half the time"


def test_the_loss_is_kads_with_the_models_temperature(tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(*KAD, "objectives.text_pairs=0.7", "objectives.learn_logit_scale=true")
    method = method_of(tiny_corpus, recipe, tmp_path)
    draw = method.draw(1)
    texts = method._tower.embed_tokens(draw.tokens)
    losses = method.losses(draw, texts)
    scale = method._model.logit_scale
    expected = 0.7 * kad_soft_contrast(texts[:24], texts[24:], draw.concepts, scale)
    torch.testing.assert_close(losses, {"text_pairs": expected})
    losses["text_pairs"].backward()
    assert float(method._model.log_scale.grad.abs()) > 0
    assert all(p.grad is not None for p in method._tower.head.parameters())


def test_training_brings_pairs_together(tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    method = method_of(tiny_corpus, tiny_recipe(*KAD, "text.pooling=mean", "text.head=none"), tmp_path)
    optimiser = torch.optim.AdamW(method._tower.parameters(), lr=1e-3)
    losses = []
    for step in range(1, 31):
        draw = method.draw(step)
        loss = method.losses(draw, method._tower.embed_tokens(draw.tokens))["text_pairs"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])


def test_a_corpus_may_lack_definitions_or_facts_but_not_both(
    tiny_corpus: Corpus, recipe: EncoderRecipe, tmp_path: Path
) -> None:
    split = tiny_corpus.split
    no_facts = {"split": dataclasses.replace(split, train=split.train[:0])}
    no_definitions = {"definition_rows": tiny_corpus.definition_rows[:0], "definitions": tiny_corpus.definitions[:0]}
    tails, heads, definitions = all_pairs(tiny_corpus, method_of(tiny_corpus, recipe, tmp_path))
    for number, (without, possible) in enumerate(((no_facts, definitions), (no_definitions, tails | heads))):
        method = method_of(dataclasses.replace(tiny_corpus, **without), recipe, tmp_path / str(number))
        drawn = [pair for step in (1, 2, 3) for pair in rows(method.draw(step))]
        assert len(drawn) == 72
        assert set(drawn) <= set(possible)
    with pytest.raises(InputError, match="facts and definitions, and the graph has neither"):
        method_of(dataclasses.replace(tiny_corpus, **no_facts, **no_definitions), recipe, tmp_path / "neither")


def test_masking_needs_a_mask_token(tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(*KAD, "train.token_masking=0.5")
    model = EncoderModel(recipe, tiny_corpus.view.num_concepts, tiny_corpus.view.num_relations)
    model.text.tokenizer.mask_token = None
    with pytest.raises(InputError, match=r"'train.token_masking': the tokenizer has no mask token; set 0"):
        TextPairsMethod(model, tiny_corpus, recipe, tmp_path, reader_of(model))


def test_the_control_trains_on_shuffled_facts(tiny_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(*KAD, "held_out.control=shuffled-graph")
    method = method_of(tiny_corpus, recipe, tmp_path)
    tails, heads, definitions = all_pairs(tiny_corpus, method)
    drawn = {pair for step in range(1, 50) for pair in rows(method.draw(step))}
    assert definitions.keys() & drawn
    assert drawn - tails.keys() - heads.keys() - definitions.keys(), "facts that are none"


@pytest.mark.parametrize("name", ["kad", "sapbert", "untrained"])
def test_the_bundled_recipes_of_the_baselines_are_read(name: str) -> None:
    recipe = load_recipe(EncoderRecipe, "encoder", name, [])
    weights = recipe.objectives
    assert recipe.graph.family == "none", "a text encoder alone"
    assert bool(weights.text_pairs) == (name == "kad")
    assert (weights.contrast == "multi-similarity") == (name == "sapbert")
    assert (recipe.train.steps == 0) == (name == "untrained")
    assert weights.relation == weights.alignment == weights.definition == 0


def test_it_is_measured_on_the_validation_names(tiny_corpus: Corpus, recipe: EncoderRecipe, tmp_path: Path) -> None:
    figures = method_of(tiny_corpus, recipe, tmp_path).validate()
    assert list(figures) == ["valid_synonym_mrr"]
    assert 1 / tiny_corpus.view.num_concepts < figures["valid_synonym_mrr"] <= 1
