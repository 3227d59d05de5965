"""The ENCODER folder as its users see it: concept vectors, names, and text to vector without torch.

Layout: manifest.json, text/ (sentence-transformers layout plus model.onnx and tokenizer.json), vectors.safetensors
(`concepts` float32 [n, dim] and `names` float32 [m, dim], unit rows), concepts.parquet (row i belongs to vector i),
names.parquet, metrics.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open

from kgkit.errors import InputError, UnknownConceptError, choices
from kgkit.files import read_manifest

FloatArray = npt.NDArray[np.float32]

CONCEPT_COLUMNS = {
    "concept": pl.String,  # CURIE, sorted ascending
    "name": pl.String,  # preferred name
    "semantic_types": pl.List(pl.String),  # TUIs
    "definition": pl.String,  # null where the graph has none
    "codes": pl.List(pl.String),  # source codes as CURIEs, such as HP:0002202
    "parents": pl.List(pl.String),  # direct is-a parents, CURIEs
}
NAME_COLUMNS = {
    "concept": pl.String,
    "name": pl.String,
    "source": pl.String,  # SAB
    "is_abbreviation": pl.Boolean,
    "language": pl.String,  # BCP 47
    "is_preferred": pl.Boolean,
    "vector": pl.Int64,  # row of the name's vector; equal strings share one
}


class ConceptEncoder:
    """A trained concept encoder, opened for use; see `load_encoder`.

    Attributes:
        folder: Where it was read from.
        manifest: Its manifest: graph digest, recipe, licence level, versions.
        concepts: Concept CURIEs; the position is the vector row.
        vectors: float32 [n, dim], rows of unit norm, aligned with `concepts`.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], table: pl.DataFrame, vectors: FloatArray) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vectors = vectors
        self.concepts: tuple[str, ...] = tuple(table["concept"].to_list())
        self._table = table
        self._row = {concept: row for row, concept in enumerate(self.concepts)}

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return int(self.vectors.shape[1])

    @property
    def digest(self) -> str:
        """Hex digest of the vectors and the text tower; users of the encoder record it."""
        return str(self.manifest["encoder_digest"])

    @cached_property
    def names(self) -> pl.DataFrame:
        """All names, one row each: the columns of NAME_COLUMNS."""
        return _read_table(self.folder / "names.parquet", NAME_COLUMNS)

    @cached_property
    def name_vectors(self) -> FloatArray:
        """float32 [m, dim], unit rows: the text vectors of the names; column `vector` of `names` says whose."""
        return _read_vectors(self.folder, "names")

    @cached_property
    def _text_tower(self) -> Any:
        from kgkit.encoder.text_onnx import OnnxTextTower

        return OnnxTextTower(self.folder / "text")

    @cached_property
    def _by_code(self) -> dict[str, str]:
        pairs = self._table.select("concept", "codes").explode("codes").drop_nulls().sort("codes", "concept")
        unique = pairs.unique("codes", keep="none")  # a code on two concepts names neither
        return dict(zip(unique["codes"].to_list(), unique["concept"].to_list(), strict=True))

    def __contains__(self, concept: str) -> bool:
        return concept in self._row

    def embed_concepts(self, concepts: Sequence[str]) -> FloatArray:
        """Vectors of concepts.

        Args:
            concepts: CURIEs, each in `self.concepts`.

        Returns:
            float32 [len(concepts), dim], rows of unit norm.

        Raises:
            UnknownConceptError: naming the first id that is not here.
        """
        return self.vectors[[self._row_of(concept) for concept in concepts]]

    def embed_text(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of any texts, in the space of the concept vectors; never imports torch.

        Returns:
            float32 [len(texts), dim], rows of unit norm.
        """
        vectors: FloatArray = self._text_tower.embed(texts)
        return vectors

    def resolve(self, identifier: str) -> str | None:
        """The concept a CURIE names: a concept id itself, or a source code that sits on exactly one concept."""
        return identifier if identifier in self._row else self._by_code.get(identifier)

    def name(self, concept: str) -> str:
        """Preferred name of a concept."""
        return str(self._table["name"][self._row_of(concept)])

    def semantic_types(self, concept: str) -> tuple[str, ...]:
        """TUIs of a concept."""
        return tuple(self._table["semantic_types"][self._row_of(concept)].to_list())

    def rows_of_type(self, semantic_type: str) -> npt.NDArray[np.int64]:
        """Rows of the concepts with a TUI, ascending.

        Raises:
            InputError: if no concept has it, with the nearest TUIs.
        """
        types = self._table["semantic_types"]
        rows = types.list.contains(semantic_type).arg_true().to_numpy().astype(np.int64)
        if not len(rows):
            known = types.explode().drop_nulls().unique().to_list()
            raise InputError(f"no concept has the semantic type {semantic_type!r}; {choices(semantic_type, known)}")
        return rows

    def parents(self, concept: str) -> tuple[str, ...]:
        """Direct is-a parents of a concept."""
        return tuple(self._table["parents"][self._row_of(concept)].to_list())

    def ancestors(self, concepts: Iterable[str]) -> frozenset[str]:
        """All is-a ancestors of some concepts, the concepts themselves left out unless they lie on a cycle."""
        found: set[str] = set()
        pending = [parent for concept in concepts for parent in self.parents(concept)]
        while pending:
            concept = pending.pop()
            if concept not in found:
                found.add(concept)
                pending.extend(self.parents(concept))
        return frozenset(found)

    def _row_of(self, concept: str) -> int:
        try:
            return self._row[concept]
        except KeyError:
            raise UnknownConceptError(f"{self.folder}: no concept {concept!r} in this encoder") from None


def load_encoder(folder: Path) -> ConceptEncoder:
    """Open an ENCODER folder.

    Raises:
        InputError: if it is not a complete encoder, or its parts disagree.
    """
    manifest = read_manifest(folder, "encoder")
    table = _read_table(folder / "concepts.parquet", CONCEPT_COLUMNS)
    vectors = _read_vectors(folder, "concepts")
    if len(vectors) != len(table):
        raise InputError(f"{len(table)} concepts but {len(vectors)} vectors; the folder is damaged", folder)
    return ConceptEncoder(folder, manifest, table, vectors)


def _read_table(path: Path, columns: dict[str, Any]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=list(columns))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error


def _read_vectors(folder: Path, key: str) -> FloatArray:
    path = folder / "vectors.safetensors"
    try:
        with safe_open(path, framework="numpy") as stream:
            vectors: FloatArray = stream.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
    return vectors
