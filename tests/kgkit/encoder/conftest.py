"""A tiny graph, a tiny text model, and an encoder trained on them, each made once per run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_thorax import make_graph, small_recipe, tiny_thorax, write_text_model

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.corpus import Corpus, build_corpus
from kgkit.encoder.training import train_encoder
from kgkit.graph.store import KnowledgeGraph

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_kg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of tiny_thorax.py; not to be changed."""
    return make_graph(tmp_path_factory.mktemp("thorax"), tiny_thorax())


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that AutoTokenizer and AutoModel read; random weights."""
    return write_text_model(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="session")
def tiny_recipe(tiny_text_model: Path) -> Callable[..., EncoderRecipe]:
    """`tiny_recipe("train.steps=5", ...)`: the recipe of the tiny encoder with changes on top."""
    return partial(small_recipe, tiny_text_model)


@pytest.fixture(scope="session")
def tiny_corpus(tiny_kg: Path, tiny_recipe: Callable[..., EncoderRecipe]) -> Corpus:
    """What the tiny encoder is trained on."""
    recipe = tiny_recipe()
    views = KnowledgeGraph(tiny_kg).views
    return build_corpus(views, recipe.train.held_out_names, recipe.train.held_out_triples, recipe.seed)


@pytest.fixture(scope="session")
def tiny_encoder(
    tmp_path_factory: pytest.TempPathFactory, tiny_kg: Path, tiny_recipe: Callable[..., EncoderRecipe]
) -> Path:
    """An ENCODER folder, trained for twenty steps; not to be changed."""
    out = tmp_path_factory.mktemp("encoder") / "encoder"
    train_encoder(tiny_kg, out, tiny_recipe())
    return out


@pytest.fixture(scope="session")
def opened(tiny_encoder: Path) -> ConceptEncoder:
    """The tiny encoder, opened."""
    return load_encoder(tiny_encoder)
