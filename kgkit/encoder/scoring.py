"""The relation scorer of a finished ENCODER folder, with the vectors it scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.errors import InputError
from kgkit.files import read_manifest


def open_scorer(folder: Path) -> tuple[Tensor, RelationScorer]:
    """Rebuild an encoder's relation scorer.

    Args:
        folder: The ENCODER folder.

    Returns:
        float32 [N, D], the vectors of all concepts as the scorer was trained on them (with a text tower the unit
        vectors of the folder, otherwise the free ones, whose lengths count), and the scorer, set to evaluate.

    Raises:
        InputError: if the folder is no encoder, or its manifest, weights and relations disagree.
    """
    recipe = read_recipe(folder)
    relations = folder / "evaluation" / "relations.parquet"
    try:
        num_relations = int(pl.scan_parquet(relations).select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", relations) from error
    path = folder / "graph.safetensors"
    state = _tensors(path, "scorer.")
    has_text = recipe.text.model != "none"
    source, key = (folder / "vectors.safetensors", "concepts") if has_text else (path, "concepts.weight")
    vectors = _tensors(source, key).get("")
    if vectors is None:
        raise InputError(f"it has no {key!r}; the folder is damaged", source)
    scorer = RelationScorer(recipe.relation, int(vectors.shape[1]), num_relations)
    try:
        scorer.load_state_dict(state)
    except RuntimeError as error:
        problem = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(f"the relation scorer does not fit the manifest's recipe ({problem})", path) from error
    return vectors.float(), scorer.eval().requires_grad_(requires_grad=False)


def read_recipe(folder: Path) -> EncoderRecipe:
    """The recipe an encoder was made with, from its manifest.

    Raises:
        InputError: if the folder is no encoder, or its recipe is one this kgkit does not read.
    """
    found: Any = read_manifest(folder, "encoder").get("recipe")
    try:
        return TypeAdapter(EncoderRecipe).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise InputError(
            f"recipe key {key!r}: {first['msg']}; train the encoder again", folder / "manifest.json"
        ) from error


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose key begins with `prefix`, which is cut off."""
    try:
        with safe_open(path, framework="pt") as stream:
            return {key.removeprefix(prefix): stream.get_tensor(key) for key in stream.keys() if key.startswith(prefix)}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
