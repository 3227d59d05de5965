"""Writing the ENCODER folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from kgkit.arrays import IntArray
from kgkit.encoder.artifact import NAME_COLUMNS
from kgkit.encoder.card import model_card
from kgkit.encoder.integrity import describe_parts, encoder_digest
from kgkit.encoder.model import EncoderModel
from kgkit.encoder.text_tower import export_onnx
from kgkit.errors import KgkitError
from kgkit.evaluation.evaluate import held_out_metrics
from kgkit.files import read_manifest, write_manifest, write_text_atomically
from kgkit.languages import english
from kgkit.training.corpus import Corpus
from kgkit.training.method import Method
from kgkit.training.source import TrainingSource
from kgkit.training.tokens import TokenStore

Autocast = Callable[[], AbstractContextManager[Any]]


def save_encoder(
    folder: Path,
    model: EncoderModel,
    method: Method[Any],
    source: TrainingSource,
    corpus: Corpus,
    autocast: Autocast,
    about: dict[str, Any],
) -> None:
    """Write every part of an encoder, the manifest last; figures and model card follow, see `measure_encoder`.

    Args:
        folder: Where to write.
        model: The trained parts.
        method: Makes the concept vectors.
        source: What it was trained on.
        corpus: What was held out.
        autocast: Context in which the transformer runs.
        about: What the manifest says of the run.

    Raises:
        KgkitError: if some vectors are not finite.
    """
    model.eval()
    rows, strings = _distinct(source.names)
    names = torch.empty(len(strings), 0)
    preferred = torch.empty(len(source.concepts), 0)
    if model.text is not None:
        (folder / "text").mkdir(exist_ok=True)
        model.text.save(folder / "text")
        export_onnx(model.text, folder / "text" / "model.onnx")
        place = pl.DataFrame({"name": strings}).with_row_index("row")
        order = (
            source.concepts.select("name")
            .join(place, on="name", maintain_order="left")["row"]
            .to_numpy()
            .astype(np.int64)
        )
        names = _read_strings(folder, model, strings, order, method.preferred, autocast)
        preferred = names[torch.from_numpy(order)]
    concepts = method.concept_vectors(preferred)
    if not bool(torch.isfinite(concepts).all()) or not bool(torch.isfinite(names).all()):
        raise KgkitError("some concept vectors are not finite; lower the learning rates")
    save_file({"concepts": concepts.contiguous(), "names": names.contiguous()}, folder / "vectors.safetensors")
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items() if not key.startswith("text.")}
    save_file(state, folder / "graph.safetensors")
    source.concepts.write_parquet(folder / "concepts.parquet")
    rows.select(list(NAME_COLUMNS)).write_parquet(folder / "names.parquet")
    _save_held_out(folder / "evaluation", source, corpus)
    parts = describe_parts(folder)
    manifest = about | {
        "encoder_digest": encoder_digest(parts),
        "parts": parts,
        "dim": int(concepts.shape[1]),
        "num_concepts": len(concepts),
        "names_in_other_languages": len(source.names.filter(~english())),
        "licence_level": source.licence_level,
        "sources": list(source.sources),
    }
    write_manifest(folder, "encoder", manifest)


def measure_encoder(folder: Path, seed: int) -> dict[str, Any]:
    """Measure a written encoder on what was held out, and write its model card.

    Returns:
        The content of metrics.json.
    """
    metrics = held_out_metrics(folder, seed)
    write_text_atomically(folder / "README.md", model_card(read_manifest(folder, "encoder"), metrics))
    return metrics


def _distinct(names: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """Names with the row of their vector, and the distinct strings: row i of the name vectors is string i."""
    strings = names["name"].unique().sort()
    rows = pl.DataFrame({"name": strings}).with_row_index("vector").with_columns(pl.col("vector").cast(pl.Int64))
    return names.join(rows, on="name", maintain_order="left"), strings


def _read_strings(
    folder: Path, model: EncoderModel, strings: pl.Series, preferred: IntArray, known: Tensor | None, autocast: Autocast
) -> Tensor:
    """Vectors of all names, float32 [n, dim].

    Args:
        folder: Where tokens are kept.
        model: Its text tower reads.
        strings: The names.
        preferred: int64 [N], where each concept's preferred name stands among them.
        known: Vectors of those, if they were read already.
        autocast: Context in which the transformer runs.
    """
    assert model.text is not None
    vectors, is_left = torch.empty(len(strings), model.dim), np.ones(len(strings), dtype=np.bool_)
    text = model.text.config
    limit = max(text.max_name_tokens, text.max_definition_tokens)  # as whoever opens the folder reads them
    if known is not None and limit == text.max_name_tokens:
        vectors[torch.from_numpy(preferred)] = known
        is_left[preferred] = False
    left = strings.filter(pl.Series(is_left))
    store = TokenStore.build(folder / "tokens" / "all", left, model.text, limit)
    vectors[torch.from_numpy(is_left)] = model.text.encode_all(store, autocast, "names to vectors")
    return vectors


def _save_held_out(folder: Path, source: TrainingSource, corpus: Corpus) -> None:
    folder.mkdir(exist_ok=True)
    pl.DataFrame({"relation": source.view.relations}, schema={"relation": pl.String}).write_parquet(
        folder / "relations.parquet"
    )
    split = corpus.split
    parts = {
        "train": split.train, "valid": split.valid, "test": split.test, "inductive": corpus.inductive,
        "support": corpus.support,
    }  # fmt: skip
    tables = [
        pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row").with_columns(
            pl.all().cast(pl.Int32), part=pl.lit(part)
        )
        for part, rows in parts.items()
    ]
    pl.concat(tables).write_parquet(folder / "triples.parquet")
    corpus.query_names.write_parquet(folder / "names.parquet")
    corpus.query_definitions.write_parquet(folder / "definitions.parquet")
