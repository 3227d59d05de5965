"""The MODEL folder: everything a prediction needs, the image tower included.

manifest.json              digests of encoder and data, recipe, tower, licence
model.safetensors          `network.*` and `tower.*`
queries.parquet            concept, name, text, is_text_encoded, count (training studies that have it)
query_vectors.safetensors  `queries`, float32 [Q, E]
metrics.json, training_log.jsonl, README.md
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kgkit.interface import InputError, file_digests, read_manifest, require_unchanged, write_manifest
from vlp.config import VlpRecipe
from vlp.denial import Denial
from vlp.features import patch_features
from vlp.knowledge import AskedConcept
from vlp.methods import Network, build_network
from vlp.model import QueryOutput
from vlp.towers import ImageTower, PatchGeometry, TowerSpec, build_tower

_WEIGHTS, _QUERIES, _VECTORS = "model.safetensors", "queries.parquet", "query_vectors.safetensors"
_ABOUT = TypeAdapter(dict[str, str])
QUERY_COLUMNS = {
    "concept": pl.String,
    "name": pl.String,
    "text": pl.String,
    "is_text_encoded": pl.Boolean,
    "is_finding": pl.Boolean,
    "count": pl.Int64,
}


@dataclass(frozen=True)
class VlpModel:
    """A trained model, opened for use; see `load_model`.

    Attributes:
        folder: Where it was read from.
        manifest: Its manifest.
        recipe: The recipe it was trained with.
        tower: Image tower.
        patches: Where the patches lie in the square.
        network: That of the recipe's method, in evaluation mode.
        queries: What it was trained to answer.
        query_vectors: float32 [Q, E], row of each query.
        denial: How `normal` is answered; None: like any other query.
    """

    folder: Path
    manifest: dict[str, Any]
    recipe: VlpRecipe
    tower: ImageTower
    patches: PatchGeometry
    network: Network
    queries: tuple[AskedConcept, ...]
    query_vectors: Tensor
    denial: Denial | None = None

    def answer(self, squares: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Ask films: float [B, S, S] grey 0..1 and float [Q, E] to a `QueryOutput`."""
        features = patch_features(self.tower, squares, self.recipe.tower)
        with torch.no_grad():
            output: QueryOutput = self.network(features, query_vectors)
        return output


def write_model_tensors(folder: Path, tower: ImageTower, network_state: dict[str, Tensor]) -> None:
    """Write `model.safetensors`; the frozen tower goes in, so that a MODEL needs no other download."""
    tensors = {f"network.{name}": tensor for name, tensor in network_state.items()}
    tensors |= {f"tower.{name}": tensor for name, tensor in tower.backbone.state_dict().items()}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / _WEIGHTS,
    )


def write_queries(folder: Path, queries: list[AskedConcept], counts: list[int], vectors: Tensor) -> None:
    """Write `queries.parquet` and `query_vectors.safetensors`."""
    rows = [asdict(query) | {"count": count} for query, count in zip(queries, counts, strict=True)]
    pl.DataFrame(rows, schema=QUERY_COLUMNS).write_parquet(folder / _QUERIES)
    save_file({"queries": vectors.contiguous()}, folder / _VECTORS)


def complete_model(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, the last file of a MODEL."""
    names = (_WEIGHTS, _QUERIES, _VECTORS)
    write_manifest(folder, "model", content | {"file_digests": file_digests(folder, names)})


def load_model(folder: Path) -> VlpModel:
    """Open a MODEL folder; nothing but the folder is needed.

    Raises:
        InputError: if it is not a complete model, or its parts disagree or have changed.
    """
    manifest = read_manifest(folder, "model")
    require_unchanged(folder, manifest)
    try:
        recipe = TypeAdapter(VlpRecipe).validate_python(manifest["recipe"])
        spec = TypeAdapter(TowerSpec).validate_python(manifest["tower"])
        patches = TypeAdapter(PatchGeometry).validate_python(manifest["patches"])
        network = build_network(recipe, patches.dim, manifest["query_dim"])
        _ABOUT.validate_python({key: manifest[key] for key in ("encoder_digest", "encoder_path", "data_digest")})
        denial = TypeAdapter(Denial | None).validate_python(manifest.get("denial"))
    except (KeyError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not the manifest of a model this version reads ({reason})", folder / "manifest.json"
        ) from error
    tensors = _load_tensors(folder / _WEIGHTS)
    tower = build_tower(spec)
    try:
        tower.backbone.load_state_dict(_under(tensors, "tower."))
        network.load_state_dict(_under(tensors, "network."))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"weights do not fit the manifest ({reason})", folder / _WEIGHTS) from error
    queries = _read_queries(folder / _QUERIES)
    vectors = _load_tensors(folder / _VECTORS).get("queries")
    if vectors is None or len(vectors) != len(queries):
        raise InputError(
            f"does not hold one vector for each of the {len(queries)} queries",
            folder / _VECTORS,
        )
    return VlpModel(folder, manifest, recipe, tower, patches, network.eval(), queries, vectors, denial)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} holds values that are no numbers", path)
    return tensors


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_queries(path: Path) -> tuple[AskedConcept, ...]:
    try:
        table = pl.read_parquet(path, columns=list(QUERY_COLUMNS))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error
    return tuple(AskedConcept(**row) for row in table.drop("count").iter_rows(named=True))
