"""The encoder recipe refuses what cannot be meant, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.recipe import load_recipe

Recipe = Callable[..., EncoderRecipe]


@pytest.mark.parametrize("name", ["fast", "default"])
def test_bundled_recipes_load(name: str) -> None:
    assert load_recipe(EncoderRecipe, "encoder", name).train.control == "none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=0", "'train.steps' is 0, expected 1 or more"),
        ("train.triples=0", "'train.triples' is 0, expected 1 or more"),
        ("train.log_every=0", "'train.log_every' is 0, expected 1 or more"),
        ("train.checkpoint_every=0", "'train.checkpoint_every' is 0, expected 1 or more"),
        ("graph.hidden_dim=0", "'graph.hidden_dim' is 0, expected 1 or more"),
        ("text.max_definition_tokens=-3", "'text.max_definition_tokens' is -3, expected 1 or more"),
        ("train.held_out_names=0.7", "'train.held_out_names' is 0.7, expected 0 or more, below 0.5"),
        ("train.held_out_triples=-0.1", "'train.held_out_triples' is -0.1, expected 0 or more, below 0.5"),
        ("graph.fanouts=[]", "'graph.fanouts' is empty"),
        ("graph.famly=none", "unknown recipe key 'graph.famly'; did you mean 'family'"),
        ("text.pooling=max", "'text.pooling'"),
        ("train.precision=fp8", "'train.precision'"),
        ("train.control=shuffled", "'train.control'"),
    ],
)
def test_wrong_values_are_refused_by_key_and_value(tiny_recipe: Recipe, change: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny_recipe(change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
