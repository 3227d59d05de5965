"""Graphs and a tiny trained encoder shared by the tests of kgkit; torch is imported where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_union import write_union

if TYPE_CHECKING:
    from kgkit.encoder.artifact import ConceptEncoder
    from kgkit.encoder.config import EncoderRecipe
    from kgkit.training.corpus import Corpus


@pytest.fixture(scope="session")
def union_kg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of tiny_union: two sources with a merged class, and a corpus; not to be changed."""
    return write_union(tmp_path_factory.mktemp("union") / "kg")


@pytest.fixture(scope="session")
def tiny_kg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of tiny_thorax.py; not to be changed."""
    from tiny_thorax import make_graph, tiny_thorax

    return make_graph(tmp_path_factory.mktemp("thorax"), tiny_thorax())


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that AutoTokenizer and AutoModel read; random weights."""
    import torch
    from tiny_thorax import write_text_model

    torch.set_num_threads(1)
    return write_text_model(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="session")
def tiny_recipe(tiny_text_model: Path) -> Callable[..., EncoderRecipe]:
    """`tiny_recipe("train.steps=5", ...)`: the recipe of the tiny encoder with changes on top."""
    from tiny_thorax import small_recipe

    return partial(small_recipe, tiny_text_model)


@pytest.fixture(scope="session")
def tiny_corpus(tiny_kg: Path, tiny_recipe: Callable[..., EncoderRecipe]) -> Corpus:
    """What the tiny encoder is trained on."""
    from kgkit.training.corpus import build_corpus
    from kgkit.training.source import read_source

    recipe = tiny_recipe()
    return build_corpus(read_source(tiny_kg), recipe.held_out, recipe.seed)


@pytest.fixture(scope="session")
def tiny_encoder(
    tmp_path_factory: pytest.TempPathFactory, tiny_kg: Path, tiny_recipe: Callable[..., EncoderRecipe]
) -> Path:
    """An ENCODER folder, trained for twenty steps; not to be changed."""
    from kgkit.training.loop import train_encoder

    out = tmp_path_factory.mktemp("encoder") / "encoder"
    train_encoder(tiny_kg, out, tiny_recipe())
    return out


@pytest.fixture(scope="session")
def opened(tiny_encoder: Path) -> ConceptEncoder:
    """The tiny encoder, opened."""
    from kgkit.encoder.artifact import load_encoder

    return load_encoder(tiny_encoder)
