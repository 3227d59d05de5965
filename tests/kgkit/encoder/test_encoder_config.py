"""The encoder recipe refuses what cannot be meant, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graphs import ROOT

from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.recipe import load_recipe

Recipe = Callable[..., EncoderRecipe]


def test_bundled_recipes_hold_out_the_same_and_train_on_the_true_graph() -> None:
    recipes = {path.stem: load_recipe(EncoderRecipe, "encoder", path.stem)
               for path in (ROOT / "recipes" / "encoder").glob("*.toml")}  # fmt: skip
    assert recipes.keys() == {"benchmark", "default", "fast", "kad", "kge", "sapbert", "untrained"}
    assert {recipe.held_out.control for recipe in recipes.values()} == {"none"}
    assert len({recipe.held_out for recipe in recipes.values()}) == 1, "so that all can be compared"
    assert len({recipe.text.model for name, recipe in recipes.items() if name != "kge"}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=-1", "'train.steps' is -1: expected greater than or equal to 0"),
        ("relation.triples=0", "'relation.triples' is 0: expected greater than or equal to 1"),
        ("train.log_every=0", "'train.log_every' is 0: expected greater than or equal to 1"),
        ("train.checkpoint_every=0", "'train.checkpoint_every' is 0: expected greater than or equal to 1"),
        ("graph.hidden_dim=0", "'graph.hidden_dim' is 0: expected greater than or equal to 1"),
        ("text.max_definition_tokens=-3", "'text.max_definition_tokens' is -3: expected greater than or equal to 1"),
        ("held_out.names=0.7", "'held_out.names' is 0.7: expected less than 0.5"),
        ("held_out.triples=-0.1", "'held_out.triples' is -0.1: expected greater than or equal to 0"),
        ("seed=-1", "'seed' is -1"),
        ("train.cache_texts=-5", "'train.cache_texts' is -5"),
        ("train.hard_negatives=-1", "'train.hard_negatives' is -1"),
        ("graph.fanouts=[-1]", "'graph.fanouts.0' is -1"),
        ("objectives.logit_scale=0", "'objectives.logit_scale' is 0: expected greater than 0"),
        ("text.dropout=1.5", "'text.dropout' is 1.5: expected less than 1"),
        ("train.cpu_minutes=nan", "'train.cpu_minutes' is nan: expected a finite number"),
        ("train.graph_learning_rate=-1", "'train.graph_learning_rate' is -1"),
        ("train.warmup_fraction=2", "'train.warmup_fraction' is 2"),
        ("train.text_share=1", "'train.text_share' is 1: expected less than 1"),
        ("graph.fanouts=[]", "'graph.fanouts' is empty"),
        ("graph.famly=none", "unknown recipe key 'graph.famly'; did you mean 'family'"),
        ("text.model=none", "'text.model' is 'none': the graph tower and every objective but 'relation' need"),
        ("text.pooling=max", "'text.pooling'"),
        ("train.precision=fp8", "'train.precision'"),
        ("held_out.control=shuffled", "'held_out.control'"),
        ("relation.sampling=all", "'relation.sampling' is 'all': it is for free vectors (text.model='none')"),
        ("relation.n3=0.1", "'relation.n3' is 0.1: it is for free vectors (text.model='none'); with a text tower set"),
        ("relation.label_smoothing=0.1", "'relation.label_smoothing' is 0.1: it is for free vectors"),
        ("relation.sampler=bernoulli", "'relation.sampler' is 'bernoulli': a sampler serves 'relation.sampling' 'ind"),
        ("objectives.text_pairs=1", "'objectives.synonym' is 1.0: 'objectives.text_pairs' is a way of training of"),
    ],
)
def test_wrong_values_are_refused_by_key_and_value(tiny_recipe: Recipe, change: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny_recipe(change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
