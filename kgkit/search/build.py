"""Building the search index of an encoder: ENCODER/index.

manifest.json        digest of the encoder, kind, measured recall; written last
vectors.faiss        FAISS over the vectors of concepts and names
arrays.safetensors   postings of n-grams, and which name, vector and concept belong together
catalogue.sqlite     concepts, names, facets, words
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.names import normalise
from kgkit.files import partial_folder, publish_folder, write_json_atomically
from kgkit.search.catalogue import write_catalogue
from kgkit.search.dense import build_dense, choose_kind
from kgkit.search.filters import LANGUAGE, SEMANTIC_GROUP, SEMANTIC_TYPE, SOURCE
from kgkit.search.layout import ARRAYS, CATALOGUE, FAISS, INDEX, INDEX_FORMAT, MANIFEST, DenseSummary, map_arrays
from kgkit.search.postings import Arrays, build_postings
from kgkit.search.vectors import VectorTable
from kgkit.views.groups import semantic_group_of


@dataclass(frozen=True)
class IndexSummary:
    """What was built.

    Attributes:
        num_concepts: Concepts that can be found.
        num_names: Their names.
        reads_text: Whether the encoder reads queries; otherwise they are compared with names by letters alone.
        dense: The FAISS index.
    """

    num_concepts: int
    num_names: int
    reads_text: bool
    dense: DenseSummary


def build_index(
    folder: Path, kind: str = "auto", *, names: pl.DataFrame | None = None, out: Path | None = None
) -> IndexSummary:
    """Build the search index of an encoder, in the place of an older one.

    Args:
        folder: The ENCODER folder.
        kind: One of `kgkit.search.dense.KINDS`, or `auto`: exact for small encoders, IVF with 8-bit codes for large.
        names: Rows of the encoder's names that may be searched; all of them if not given. Preferred names always may.
            Definitions that hold a name left out are left out too.
        out: Folder of the index; ENCODER/index if not given.

    Raises:
        InputError: for a folder that is no encoder, an unknown kind, or a kind these vectors do not fit.
    """
    encoder = load_encoder(folder)
    entries = _entries(encoder, encoder.names if names is None else names)
    tensors = dict(map_arrays(folder / "vectors.safetensors"))
    if not tensors["names"].size:  # without a text tower, whatever the length of nothing is
        tensors["names"] = np.zeros((0, encoder.dim), dtype=np.float32)
    sources = np.unique(np.concatenate([np.arange(len(encoder.concepts)), entries["source"].to_numpy()]))
    kind = choose_kind(kind, len(sources), encoder.dim)
    target = out or folder / INDEX
    partial = partial_folder(target, None)
    arrays, words = build_postings(entries, _contexts(encoder, names), encoder.table["parents"], encoder.concepts)
    arrays |= _owners(entries, len(encoder.concepts), len(tensors["names"]))
    table = VectorTable(tensors["concepts"], tensors["names"], arrays)
    dense, arrays["row.sources"] = build_dense(table, sources, kind, partial / FAISS)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial / ARRAYS)
    catalogue = [*_concept_tables(encoder, names), ("names", enumerate(entries["name"].to_list())), *words]
    write_catalogue(partial / CATALOGUE, catalogue)
    summary = IndexSummary(len(encoder.concepts), len(entries), encoder.reads_text, dense)
    write_json_atomically(
        partial / MANIFEST,
        {"format_version": INDEX_FORMAT, "encoder_digest": encoder.digest, "dim": encoder.dim} | asdict(summary),
    )
    publish_folder(partial, target)
    return summary


def _entries(encoder: ConceptEncoder, names: pl.DataFrame) -> pl.DataFrame:
    """What concepts are searched by, concept after concept: distinct names with their vectors, the preferred one first.

    Columns row (of the concept), name, source (of the vector).
    """
    count = len(encoder.concepts)
    rows = pl.DataFrame({"concept": encoder.concepts}).with_row_index("row")
    own = rows.with_columns(encoder.table["name"], vector=pl.lit(None, pl.Int64), order=pl.lit(0))
    others = names.select("concept", "name", "vector").join(rows, on="concept").with_columns(order=pl.lit(1))
    columns = ["row", "name", "vector", "order"]
    table = pl.concat([own.select(columns), others.select(columns)])
    table = table.group_by("row", "name").agg(pl.col("vector").max(), pl.col("order").min())
    source = pl.coalesce(pl.col("vector") + count, pl.col("row").cast(pl.Int64))
    table = table.with_columns(pl.col("name").fill_null(""), source=source)
    return table.sort("row", "order", "name").select("row", "name", "source")


def _contexts(encoder: ConceptEncoder, names: pl.DataFrame | None) -> list[str]:
    """The definition of each concept; none where it holds a name of the concept that may not be searched."""
    definitions: list[str] = encoder.table["definition"].fill_null("").to_list()
    if names is None:
        return definitions
    left_out = encoder.names.join(names, on=["concept", "name"], how="anti").group_by("concept").agg("name")
    hidden = {concept: [normalise(name) for name in its] for concept, its in left_out.iter_rows()}
    return [
        "" if any(f" {name} " in f" {normalise(text)} " for name in hidden.get(concept, ())) else text
        for concept, text in zip(encoder.concepts, definitions, strict=True)
    ]


def _owners(entries: pl.DataFrame, num_concepts: int, num_names: int) -> Arrays:
    """Entries of each concept, the source of each entry, and the concepts of each source (CSR)."""
    rows = entries["row"].to_numpy()
    own = pl.DataFrame({"source": np.arange(num_concepts), "row": np.arange(num_concepts, dtype=np.uint32)})
    pairs = pl.concat([own, entries.select("source", "row")]).unique().sort("source", "row")
    owner_starts = np.searchsorted(pairs["source"].to_numpy(), np.arange(num_concepts + num_names + 1))
    return {
        "entry.starts": np.searchsorted(rows, np.arange(num_concepts + 1)).astype(np.int64),
        "entry.sources": entries["source"].to_numpy().astype(np.int32),
        "owner.starts": owner_starts.astype(np.int64),
        "owner.concepts": pairs["row"].to_numpy().astype(np.int32),
    }


def _concept_tables(encoder: ConceptEncoder, names: pl.DataFrame | None) -> list[tuple[str, Iterable[Sequence[Any]]]]:
    table = encoder.table.with_row_index("row")
    types = table["semantic_types"].to_list()
    shown = zip(range(len(types)), encoder.concepts, table["name"].to_list(), map(" ".join, types), strict=True)
    pairs = table.select("codes", "row").explode("codes").drop_nulls().unique().sort("codes", "row")
    codes = pairs.unique("codes", keep="none", maintain_order=True)  # a code on two concepts names neither
    used = (encoder.names if names is None else names).join(table.select("concept", "row"), on="concept")
    facets = {
        SEMANTIC_TYPE: table.select(value="semantic_types", row="row").explode("value"),
        SEMANTIC_GROUP: table.select(value=semantic_group_of(table["semantic_types"]), row="row"),
        SOURCE: used.select(value="source", row="row"),
        LANGUAGE: used.select(value="language", row="row"),
    }
    rows = ((facet, value, row) for facet, found in facets.items()
            for value, row in found.drop_nulls().unique().sort("value", "row").iter_rows())  # fmt: skip
    return [("concepts", shown), ("codes", codes.iter_rows()), ("facets", rows)]
