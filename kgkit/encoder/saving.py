"""Writing the ENCODER folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import save_file
from torch import Tensor

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.encoder.model import EncoderModel
from kgkit.encoder.text_tower import export_onnx
from kgkit.files import sha256_file, write_json_atomically, write_manifest, write_text_atomically
from kgkit.graph.store import KnowledgeGraph


def save_encoder(
    folder: Path,
    model: EncoderModel,
    vectors: dict[str, Tensor],
    graph: KnowledgeGraph,
    metrics: dict[str, Any],
    about: dict[str, Any],
) -> None:
    """Write every part of an encoder, the manifest last.

    Args:
        folder: Where to write.
        model: The trained towers.
        vectors: `concepts`: float32 [N, dim], unit rows, in the order of the graph's concepts view; `names`: the same
            for `distinct_names`.
        graph: The graph it was trained on.
        metrics: Content of metrics.json.
        about: Recipe, precision, graph digest.
    """
    text = folder / "text"
    text.mkdir(exist_ok=True)
    model.text.save(text)
    export_onnx(model.text, text / "model.onnx")
    save_file({key: value.contiguous() for key, value in vectors.items()}, folder / "vectors.safetensors")
    state = {key: value.contiguous() for key, value in model.state_dict().items() if not key.startswith("text.")}
    save_file(state, folder / "graph.safetensors")
    concepts = pl.read_parquet(graph.views / "concepts.parquet").select(list(CONCEPT_COLUMNS))
    concepts.write_parquet(folder / "concepts.parquet")
    _names(graph).write_parquet(folder / "names.parquet")
    write_json_atomically(folder / "metrics.json", metrics)
    digest = hashlib.sha256()
    for name in ("vectors.safetensors", "text/model.safetensors", "concepts.parquet"):
        digest.update(sha256_file(folder / name).encode())
    manifest = about | {
        "encoder_digest": digest.hexdigest(),
        "dim": int(vectors["concepts"].shape[1]),
        "num_concepts": len(vectors["concepts"]),
        "licence_level": graph.licence_level,
        "sources": sorted(graph.manifest["sources"]),
    }
    write_text_atomically(folder / "README.md", _card(manifest, metrics))
    write_manifest(folder, "encoder", manifest)


def distinct_names(graph: KnowledgeGraph) -> list[str]:
    """Every string that names a concept, once, sorted; row i of the name vectors belongs to string i."""
    names = pl.read_parquet(graph.views / "names.parquet", columns=["name"])["name"]
    return [str(name) for name in names.unique().sort()]


def _names(graph: KnowledgeGraph) -> pl.DataFrame:
    names = pl.read_parquet(graph.views / "names.parquet")
    rows = names.select(pl.col("name").unique().sort()).with_row_index("vector")  # the order of `distinct_names`
    names = names.join(rows, on="name", maintain_order="left")
    return names.with_columns(pl.col("vector").cast(pl.Int64)).select(list(NAME_COLUMNS))


def _card(manifest: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The model card: data, licence, figures."""
    recipe = manifest["recipe"]
    lines = [
        "# Concept encoder",
        "",
        f"{manifest['num_concepts']:,} concepts, {manifest['dim']} numbers each. Text tower started from "
        f"`{recipe['text']['model']}`, graph tower `{recipe['graph']['family']}`.",
        "",
        f"Trained on: {', '.join(manifest['sources'])} (graph digest `{manifest['graph_digest'][:16]}`). Highest "
        f"licence level of any text or edge: {manifest['licence_level']}.",
        "",
        "| held out | encoder | MRR (95% interval) | Hits@1 | Hits@10 | queries |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in ("link_prediction", "synonym_retrieval"):
        for who in ("trained", "untrained"):
            row = metrics[who].get(task)
            if row:
                low, high = row["mrr_interval"]
                lines.append(f"| {task.replace('_', ' ')} | {who} | {row['mrr']:.3f} ({low:.3f} to {high:.3f}) | "
                             f"{row['hits_at_1']:.3f} | {row['hits_at_10']:.3f} | {row['num_queries']} |")  # fmt: skip
    lines += ["", "Link prediction is measured with training edges alone passing messages. Not for clinical use.", ""]
    return "\n".join(lines)
