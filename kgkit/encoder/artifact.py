"""The ENCODER folder as its users see it: concept vectors, names, and text to vector without torch.

Layout: manifest.json, text/ (sentence-transformers layout plus model.onnx and tokenizer.json; absent where the recipe
has no text tower), vectors.safetensors (`concepts` float32 [n, dim] and `names` float32 [m, dim], unit rows),
concepts.parquet (row i belongs to vector i), names.parquet, metrics.json.

Opening looks at sizes, shapes and columns alone, which takes no time however large the vectors are; whether the bytes
are those that were written is asked by `kgkit.encoder.integrity.verify_encoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open

from kgkit.arrays import FloatArray, IntArray
from kgkit.errors import InputError, UnknownConceptError, choices
from kgkit.files import read_manifest

CONCEPT_COLUMNS: dict[str, Any] = {
    "concept": pl.String,  # CURIE, sorted ascending
    "name": pl.String,  # preferred name
    "semantic_types": pl.List(pl.String),  # TUIs
    "definition": pl.String,  # null where the graph has none
    "codes": pl.List(pl.String),  # source codes as CURIEs, such as HP:0002202
    "parents": pl.List(pl.String),  # direct is-a parents, CURIEs
}
NAME_COLUMNS: dict[str, Any] = {
    "concept": pl.String,
    "name": pl.String,
    "source": pl.String,  # SAB
    "is_abbreviation": pl.Boolean,
    "language": pl.String,  # BCP 47
    "is_preferred": pl.Boolean,
    "vector": pl.Int64,  # row of the name's vector; equal strings share one; null without a text tower
}
_VECTORS = "vectors.safetensors"
_BLOCK_ROWS = 8192


class ConceptEncoder:
    """A trained concept encoder, opened for use; see `load_encoder`.

    Attributes:
        folder: Where it was read from.
        manifest: Its manifest: graph digest, recipe, licence level, versions.
        table: The columns of CONCEPT_COLUMNS; the position is the vector row.
        concepts: Concept CURIEs, in the order of `table`.
        dim: Length of every vector.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], table: pl.DataFrame, dim: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self.table = table
        self.dim = dim
        self.concepts: tuple[str, ...] = tuple(table["concept"].to_list())
        self._row = {concept: row for row, concept in enumerate(self.concepts)}

    @property
    def digest(self) -> str:
        """Hex digest of the vectors and the text tower; users of the encoder record it."""
        return str(self.manifest["encoder_digest"])

    @property
    def licence_level(self) -> int | None:
        """Highest licence level (UMLS SRL, 0 to 9) of any text or fact it was trained on; None if it is not known."""
        level = self.manifest.get("licence_level")
        return None if level is None else int(level)

    @property
    def reads_text(self) -> bool:
        """Whether it has a text tower; without one it knows the vectors of its concepts and nothing else."""
        return (self.folder / "text").is_dir() or _text_model(self.manifest) != "none"

    @cached_property
    def vectors(self) -> FloatArray:
        """float32 [n, dim], rows of unit norm, aligned with `concepts`."""
        return _read_vectors(self.folder, "concepts")

    @cached_property
    def names(self) -> pl.DataFrame:
        """All names, one row each: the columns of NAME_COLUMNS.

        Raises:
            InputError: if the file is damaged or missing, or points beyond the name vectors.
        """
        path = self.folder / "names.parquet"
        names = _read_table(path, NAME_COLUMNS)
        _require_sizes(self.folder, self.manifest, ("names.parquet",))
        if names["vector"].null_count() == len(names):
            return names
        rows, width = vector_shape(self.folder, "names")
        if not width:
            return names.with_columns(vector=pl.lit(None, dtype=pl.Int64))
        if not names["vector"].drop_nulls().is_between(0, rows - 1).all():
            highest = names.select(pl.col("vector").max()).item()
            problem = f"its names go up to vector {highest}, but {_VECTORS} holds {rows}"
            raise InputError(f"{problem}; the folder is damaged", path)
        return names

    @cached_property
    def name_vectors(self) -> FloatArray:
        """float32 [m, dim], unit rows: the text vectors of the names; column `vector` of `names` says whose.

        Without a text tower m is 0.

        Raises:
            InputError: if the file has none, or vectors of another length.
        """
        _, width = vector_shape(self.folder, "names")
        if not width:
            return np.zeros((0, self.dim), dtype=np.float32)
        if width != self.dim:
            problem = f"name vectors of length {width}, concept vectors of length {self.dim}"
            raise InputError(f"{problem}; the folder is damaged", self.folder / _VECTORS)
        return _read_vectors(self.folder, "names")

    @cached_property
    def _text_tower(self) -> Any:
        if not self.reads_text:
            problem = "this encoder was trained without a text tower and knows no words, only its concepts by id"
            raise InputError(f"{problem}; train one that reads text: kgkit train-encoder --recipe default", self.folder)
        from kgkit.encoder.text_onnx import OnnxTextTower

        _require_sizes(self.folder, self.manifest, [f"text/{path.name}" for path in (self.folder / "text").glob("*")])
        return OnnxTextTower(self.folder / "text")

    @cached_property
    def _by_code(self) -> dict[str, str]:
        pairs = self.table.select("concept", "codes").explode("codes").drop_nulls().sort("codes", "concept")
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

    def embed_text(self, texts: Sequence[str], max_tokens: int | None = None) -> FloatArray:
        """Vectors of any texts, in the space of the concept vectors; never imports torch.

        Args:
            texts: At least one.
            max_tokens: Tokens that are read of each, in place of the number the encoder was trained with.

        Returns:
            float32 [len(texts), dim], rows of unit norm.

        Raises:
            InputError: if there is no text, or no text tower.
        """
        vectors: FloatArray = self._text_tower.embed(texts, max_tokens)
        return vectors

    def resolve(self, identifier: str) -> str | None:
        """The concept a CURIE names: a concept id itself, or a source code that sits on exactly one concept."""
        return identifier if identifier in self._row else self._by_code.get(identifier)

    def name(self, concept: str) -> str:
        """Preferred name of a concept."""
        return str(self.table["name"][self._row_of(concept)])

    def semantic_types(self, concept: str) -> tuple[str, ...]:
        """TUIs of a concept."""
        return tuple(self.table["semantic_types"][self._row_of(concept)].to_list())

    def rows_of_type(self, semantic_type: str) -> IntArray:
        """Rows of the concepts with a TUI, ascending.

        Raises:
            InputError: if no concept has it, with the nearest TUIs.
        """
        types = self.table["semantic_types"]
        rows = types.list.contains(semantic_type).arg_true().to_numpy().astype(np.int64)
        if not len(rows):
            known = types.explode().drop_nulls().unique().to_list()
            raise InputError(f"no concept has the semantic type {semantic_type!r}; {choices(semantic_type, known)}")
        return rows

    def parents(self, concept: str) -> tuple[str, ...]:
        """Direct is-a parents of a concept."""
        return tuple(self.table["parents"][self._row_of(concept)].to_list())

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
    rows, dim = vector_shape(folder, "concepts")
    if rows != len(table):
        raise InputError(f"{len(table)} concepts but {rows} vectors; the folder is damaged", folder)
    for key, found in (("num_concepts", rows), ("dim", dim)):
        if manifest.get(key, found) != found:
            raise InputError(f"{key} is {manifest[key]} in the manifest but {found} in {_VECTORS}", folder)
    if table["concept"].n_unique() != rows:
        twice = table["concept"].filter(table["concept"].is_duplicated())[0]
        raise InputError(f"concept {twice!r} has two rows", folder / "concepts.parquet")
    _require_sizes(folder, manifest, ("concepts.parquet", _VECTORS))
    return ConceptEncoder(folder, manifest, table, dim)


def vector_shape(folder: Path, key: str) -> tuple[int, int]:
    """Rows and length of the vectors of an ENCODER folder; reads the head of the file alone.

    Args:
        folder: The ENCODER folder.
        key: `concepts` or `names`.

    Raises:
        InputError: if the file is damaged or has no such vectors.
    """
    path = folder / _VECTORS
    try:
        with safe_open(path, framework="numpy") as stream:
            part = stream.get_slice(key)
            shape, kind = part.get_shape(), part.get_dtype()
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
    if len(shape) != 2 or kind != "F32":
        raise InputError(f"{key!r} is {kind} {shape}, expected F32 [rows, length]; the folder is damaged", path)
    return int(shape[0]), int(shape[1])


def vector_blocks(folder: Path, key: str, block_rows: int = _BLOCK_ROWS) -> Iterator[FloatArray]:
    """The vectors of an ENCODER folder in order, float32 [<= block_rows, dim] at a time.

    Args:
        folder: The ENCODER folder.
        key: `concepts` or `names`.
        block_rows: Most rows of a block.

    Raises:
        InputError: if the file is damaged or has no such vectors.
    """
    rows, _ = vector_shape(folder, key)
    with safe_open(folder / _VECTORS, framework="numpy") as stream:
        part = stream.get_slice(key)
        for start in range(0, rows, block_rows):
            block: FloatArray = part[start : min(start + block_rows, rows)]
            yield block


def _require_sizes(folder: Path, manifest: dict[str, Any], names: Iterable[str]) -> None:
    """Files that are there have the size that the manifest records, where it records one."""
    parts = manifest.get("parts", {})
    for name in names:
        size = (folder / name).stat().st_size
        if name in parts and size != parts[name]["bytes"]:
            problem = (
                f"{size:,} bytes, but {parts[name]['bytes']:,} were written; the file is damaged or from elsewhere"
            )
            raise InputError(problem, folder / name)


def _text_model(manifest: dict[str, Any]) -> str:
    """`text.model` of the recipe; `none` where no recipe is recorded."""
    return str(manifest.get("recipe", {}).get("text", {}).get("model", "none"))


def _read_table(path: Path, columns: dict[str, Any]) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path, columns=list(columns))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error
    for name, kind in columns.items():
        if table[name].dtype not in (kind, pl.Null):
            raise InputError(f"column {name!r} holds {table[name].dtype}, expected {kind}", path)
    return table


def _read_vectors(folder: Path, key: str) -> FloatArray:
    path = folder / _VECTORS
    try:
        with safe_open(path, framework="numpy") as stream:
            vectors: FloatArray = stream.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
    return vectors
