"""Tiny real things: an encoder that reads text, films with drawn findings, a tower with random weights."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.interface import load_findings, write_json_atomically, write_manifest
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
from vlp.training import train

DIM = 24
CARDIOMEGALY, EFFUSION, MASS = "umls:C0018800", "umls:C0032227", "umls:C0149726"
DISEASE = "umls:C9999001"  # a broader concept that no report names
FILM_SIDE = 64


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


def write_encoder(folder: Path, seed: int) -> None:
    """A complete ENCODER of four concepts whose text tower averages word vectors."""
    generator = np.random.default_rng(seed)
    rows = [
        (CARDIOMEGALY, "Cardiomegaly", [DISEASE]), (EFFUSION, "Pleural effusion", [DISEASE]),
        (MASS, "Lung mass", []), (DISEASE, "Thoracic disorder", []),
    ]  # fmt: skip
    table = [
        {"concept": concept, "name": name, "semantic_types": ["T047"], "definition": None, "codes": [], "parents": up}
        for concept, name, up in sorted(rows)
    ]
    pl.DataFrame(table, schema=CONCEPT_COLUMNS).write_parquet(folder / "concepts.parquet")
    names = [
        {column: None for column in NAME_COLUMNS}
        | {"concept": row["concept"], "name": row["name"], "source": "TEST", "language": "en", "is_preferred": True}
        | ({"is_abbreviation": False} if "is_abbreviation" in NAME_COLUMNS else {"term_type": "PT"})
        for row in table
    ]
    pl.DataFrame(names, schema=NAME_COLUMNS).write_parquet(folder / "names.parquet")
    vectors = generator.normal(size=(len(table), DIM)).astype(np.float32)
    save_file({"concepts": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}, folder / "vectors.safetensors")
    write_text_tower(folder / "text", generator)
    write_manifest(folder, "encoder", {"encoder_digest": f"digest-{seed}", "licence_level": 0})


def write_text_tower(folder: Path, generator: np.random.Generator) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    folder.mkdir()
    words = sorted({word for finding in load_findings().values() for word in finding.query.lower().split()})
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json_atomically(folder / "sentence_bert_config.json", {"max_seq_length": 32})
    table = generator.normal(size=(len(words) + 1, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["mask"]),
        helper.make_node("Mul", ["tokens", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["sums"], keepdims=0),
        helper.make_node("LpNormalization", ["sums"], ["vectors"], axis=-1, p=2),
    ]
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("input_ids", "attention_mask")]
    out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["B", DIM])
    constants = [
        numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1]), "middle"),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "average", ids, [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))


def write_openi(folder: Path, studies: int) -> None:
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(1)
    reports, projections, labels, splits = [], [], [], []
    for number in range(studies):
        uid = str(100 + number)
        big_heart, fluid = number % 2 == 0, number % 3 == 0
        film = generator.uniform(0, 60, size=(FILM_SIDE, FILM_SIDE))
        if big_heart:
            y, x = generator.integers(4, FILM_SIDE - 24, size=2)
            film[y : y + 20, x : x + 20] = 250
        if fluid:
            film[-8:] = 200
        name = f"{uid}_IM-0001-1001.dcm"
        Image.fromarray(film.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        findings = "There is cardiomegaly. " if big_heart else "The heart is normal in size. "
        findings += "There is a pleural effusion." if fluid else "No pleural effusion."
        reports.append((uid, "", "dyspnea, rule out mass", findings, "" if big_heart or fluid else "Normal chest."))
        projections.append((uid, f"{name}.png", "Frontal"))
        labels.append((uid, int(big_heart), int(fluid), 0, int(not big_heart and not fluid)))
        splits.append((uid, ("train", "train", "train", "train", "val", "test")[number // 6 % 6]))
    _write_csv(folder / "reports.csv", ("uid", "MeSH", "indication", "findings", "impression"), reports)
    _write_csv(folder / "projections.csv", ("uid", "filename", "projection"), projections)
    _write_csv(folder / "labels14.csv", ("uid", "Cardiomegaly", "Effusion", "Hernia", "normal"), labels)
    _write_csv(folder / "splits.csv", ("uid", "split"), splits)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
