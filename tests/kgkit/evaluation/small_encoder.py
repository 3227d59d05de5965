"""ENCODER folders made by hand: chosen vectors, names, facts and held-out parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.encoder.text_tower import TextTower, export_onnx
from kgkit.evaluation.held_out_files import DEFINITION_COLUMNS, TRIPLE_COLUMNS
from kgkit.evaluation.held_out_files import NAME_COLUMNS as QUERY_COLUMNS
from kgkit.files import write_manifest
from kgkit.recipe import load_recipe, recipe_to_dict

RELATIONS = ("finding_site", "isa", "part_of")


@dataclass
class SmallEncoder:
    """What an ENCODER folder is written from; the fields are the content of its files."""

    concepts: Sequence[str]
    vectors: np.ndarray
    names: Sequence[tuple[str, str]] = ()  # (concept, name)
    name_vectors: np.ndarray | None = None  # of the distinct names, sorted
    preferred: Sequence[str] | None = None
    definitions: Sequence[str | None] | None = None
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    held_out_names: Sequence[tuple[str, Sequence[int], str]] = ()
    held_out_definitions: Sequence[tuple[int, str, str]] = ()
    interaction: str = "distmult"
    scorer: Mapping[str, np.ndarray] = field(default_factory=dict)
    tower: Path | None = None  # a text/ folder to copy; None: free vectors

    def write(self, folder: Path) -> Path:
        """Write the folder."""
        (folder / "evaluation").mkdir(parents=True)
        count, dim = self.vectors.shape
        distinct = sorted({name for _, name in self.names})
        place = {name: row for row, name in enumerate(distinct)}
        columns = (
            list(self.concepts), list(self.preferred or self.concepts), [["T047"]] * count,
            list(self.definitions or [None] * count), [list(self.codes.get(each, ())) for each in self.concepts],
            [[]] * count,
        )  # fmt: skip
        table = pl.DataFrame(dict(zip(CONCEPT_COLUMNS, columns, strict=True)), schema=CONCEPT_COLUMNS)
        table.write_parquet(folder / "concepts.parquet")
        rows = [(concept, name, "TST", False, "en", False, place[name] if self.tower else None)
                for concept, name in self.names]  # fmt: skip
        pl.DataFrame(rows, schema=NAME_COLUMNS, orient="row").write_parquet(folder / "names.parquet")
        second = np.zeros((len(distinct), dim)) if self.name_vectors is None else self.name_vectors
        second = second if self.tower else np.zeros((len(distinct), 0))
        save({"concepts": self.vectors, "names": second}, folder / "vectors.safetensors")
        state = {f"scorer.{key}": value for key, value in self._scorer_state(dim).items()}
        save(state if self.tower else state | {"concepts.weight": self.vectors}, folder / "graph.safetensors")
        self._write_held_out(folder / "evaluation")
        if self.tower is not None:
            (folder / "text").symlink_to(self.tower, target_is_directory=True)
        about = {"encoder_digest": "0" * 64, "dim": dim, "num_concepts": count, "recipe": recipe_to_dict(self.recipe)}
        write_manifest(folder, "encoder", about)
        return folder

    @property
    def recipe(self) -> EncoderRecipe:
        """The recipe in its manifest."""
        changes = [f"relation.interaction={self.interaction}", "graph.family=none", "relation.inverses=false"]
        recipe = load_recipe(EncoderRecipe, "encoder", "fast", changes)
        if self.tower is not None:
            return recipe
        weights = replace(recipe.objectives, synonym=0, definition=0, alignment=0, text_pairs=0)
        return replace(recipe, text=replace(recipe.text, model="none"), objectives=weights)

    def _scorer_state(self, dim: int) -> Mapping[str, np.ndarray]:
        start = RelationScorer(self.recipe.relation, dim, len(RELATIONS)).state_dict()
        return {key: value.numpy() for key, value in start.items()} | dict(self.scorer)

    def _write_held_out(self, folder: Path) -> None:
        pl.DataFrame({"relation": RELATIONS}).write_parquet(folder / "relations.parquet")
        rows = [(*fact, part) for part, facts in self.facts.items() for fact in facts.tolist()]
        pl.DataFrame(rows, schema=TRIPLE_COLUMNS, orient="row").write_parquet(folder / "triples.parquet")
        names = [(name, list(concepts), part) for name, concepts, part in self.held_out_names]
        pl.DataFrame(names, schema=QUERY_COLUMNS, orient="row").write_parquet(folder / "names.parquet")
        definitions = list(self.held_out_definitions)
        pl.DataFrame(definitions, schema=DEFINITION_COLUMNS, orient="row").write_parquet(folder / "definitions.parquet")


def save(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write float32 arrays."""
    save_file({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in arrays.items()}, path)


def write_tower(folder: Path, text_model: Path) -> Path:
    """A text/ folder with the untrained tiny BERT, ONNX included."""
    recipe = load_recipe(EncoderRecipe, "encoder", "fast", [f'text.model="{text_model}"', "text.frozen_layers=0",
                                                            "text.max_definition_tokens=24"])  # fmt: skip
    torch.manual_seed(0)
    tower = TextTower(recipe.text)
    folder.mkdir(parents=True)
    tower.save(folder)
    export_onnx(tower, folder / "model.onnx")
    return folder
