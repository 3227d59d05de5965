"""Builders of tiny real things for the tests of vlp."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.interface import file_digests, load_findings, write_json_atomically, write_manifest

DIM = 24
CARDIOMEGALY, EFFUSION, MASS = "umls:C0018800", "umls:C0032227", "umls:C9999002"
DISEASE = "umls:C9999001"  # a broader concept that no report names
FILM_SIDE = 64


def write_encoder(folder: Path, seed: int) -> None:
    """A complete ENCODER of four concepts whose text tower averages word vectors."""
    generator = np.random.default_rng(seed)
    rows = [
        (CARDIOMEGALY, "Cardiomegaly", [], [DISEASE]), (EFFUSION, "Pleural effusion", ["HP:0002202"], [DISEASE]),
        (MASS, "Lung mass", ["HP:0033821"], []), (DISEASE, "Thoracic disorder", [], []),
    ]  # fmt: skip
    table = [
        {
            "concept": concept,
            "name": name,
            "semantic_types": ["T047"],
            "definition": None,
            "codes": codes,
            "parents": up,
        }
        for concept, name, codes, up in sorted(rows)
    ]
    pl.DataFrame(table, schema=CONCEPT_COLUMNS).write_parquet(folder / "concepts.parquet")
    names = [
        dict.fromkeys(NAME_COLUMNS)
        | {
            "concept": row["concept"],
            "name": row["name"],
            "source": "TEST",
            "language": "en",
            "is_preferred": True,
            "is_abbreviation": False,
        }
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
    tokenizer = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
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
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("input_ids", "attention_mask")
    ]
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


def put_table(table: pl.DataFrame, path: Path) -> None:
    """Another table in the place of one of a DATA folder, as if the folder had been made with it."""
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    manifest = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
    manifest["file_digests"] |= file_digests(path.parent, [path.name])
    write_json_atomically(path.parent / "manifest.json", manifest)
