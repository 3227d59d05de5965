"""Tiny real things: an encoder that reads text, films with drawn findings, a tower with random weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_vlp import FILM_SIDE, write_encoder, write_openi

from kgkit.interface import load_encoder, load_findings
from vlp.config import (
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TargetConfig,
    TowerConfig,
    TrainConfig,
    VlpRecipe,
)
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import PreparedData, load_data
from vlp.knowledge import Knowledge
from vlp.training import train


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "ENCODER"
    folder.mkdir()
    write_encoder(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def knowledge(tiny_encoder_dir: Path) -> Knowledge:
    return Knowledge(load_encoder(tiny_encoder_dir), load_findings())


@pytest.fixture(scope="session")
def other_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same concepts with other vectors."""
    folder = tmp_path_factory.mktemp("encoder") / "OTHER"
    folder.mkdir()
    write_encoder(folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny_tower_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_openi_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 studies in the layout of reports.csv; a bright square is cardiomegaly, a bright bar is effusion."""
    folder = tmp_path_factory.mktemp("openi") / "SRC"
    write_openi(folder, studies=48)
    return folder


@pytest.fixture(scope="session")
def tiny_data_dir(tiny_openi_dir: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "DATA"
    prepare(PrepareConfig("openi", tiny_openi_dir, tiny_encoder_dir, out))
    return out


@pytest.fixture(scope="session")
def tiny_recipe(tiny_tower_dir: Path) -> VlpRecipe:
    return VlpRecipe(
        tower=TowerConfig(name=str(tiny_tower_dir), input_size=FILM_SIDE, views=2, precision="fp32"),
        model=ModelConfig(width=16, heads=2, layers=1, feedforward=16, dropout=0.1, joint_dim=8),
        targets=TargetConfig(min_count=3),
        loss=LossConfig(),
        optimizer=OptimizerConfig(epochs=4, batch_size=8, learning_rate=3e-3, patience=0),
    )


@pytest.fixture(scope="session")
def tiny_model_dir(
    tiny_data_dir: Path, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("model") / "MODEL"
    recipe = replace(tiny_recipe, optimizer=replace(tiny_recipe.optimizer, epochs=12))
    train(TrainConfig(tiny_data_dir, tiny_encoder_dir, out, recipe))
    return out


@pytest.fixture
def openi_copy(tiny_openi_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_openi_dir, tmp_path / "SRC"))


@pytest.fixture
def data(tiny_data_dir: Path) -> PreparedData:
    return load_data(tiny_data_dir)
