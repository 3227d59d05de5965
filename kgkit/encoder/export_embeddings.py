"""The vectors of an encoder in the formats that other tools read: Parquet, NumPy, word2vec text, TensorBoard projector.

Vectors pass in blocks, so memory does not grow with the encoder; a killed run leaves no file that looks complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
import polars as pl
from polars.datatypes import DataType, DataTypeClass
from polars.io.plugins import register_io_source

from kgkit.arrays import FloatArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder, vector_blocks
from kgkit.encoder.integrity import verify_encoder
from kgkit.errors import InputError, choices
from kgkit.files import output_file, partial_folder, publish_folder, require_replaceable, write_manifest
from kgkit.progress import progress
from kgkit.views.groups import semantic_group_of

WHAT = ("concepts", "names")
_PROJECTOR_CONFIG = 'embeddings {\n  tensor_path: "vectors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'


@dataclass(frozen=True)
class EmbeddingExport:
    """What to export, and where to.

    Attributes:
        format: Key of FORMATS.
        out: File to write, or folder for `projector`. One that exists is replaced if it is an export of this format.
        what: `concepts`, or `names`: one row for each name of a concept, with the text vector of the name.
        max_licence_level: Refuse an encoder that was trained on anything above this UMLS source restriction level.
        semantic_type: Keep concepts of this TUI only.
        semantic_group: Keep concepts of this semantic group only (DISO, ANAT, ...).
    """

    format: str
    out: Path
    what: str = "concepts"
    max_licence_level: int | None = None
    semantic_type: str | None = None
    semantic_group: str | None = None


@dataclass(frozen=True)
class ExportedEmbeddings:
    """What was written.

    Attributes:
        num_vectors: Rows.
        dim: Length of each.
        licence_level: Of the encoder, None if it is not known: whoever gets the vectors needs the same licences.
        files: What was written, in the order of their making.
    """

    num_vectors: int
    dim: int
    licence_level: int | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Selected:
    """Rows to export.

    Attributes:
        encoder: Theirs.
        what: Key of the vectors.
        rows: concept, name, semantic_types, row (Int64, ascending: the place of the vector); for word2vec also key.
        metadata: What a format with room for it says of the export.
    """

    encoder: ConceptEncoder
    what: str
    rows: pl.DataFrame
    metadata: dict[str, str]

    def blocks(self) -> Iterator[tuple[pl.DataFrame, FloatArray]]:
        """Rows with their vectors, float32 [rows, dim], in order."""
        places = self.rows["row"].to_numpy()
        start = 0
        with progress("export", len(places), "vectors") as report:
            for block in vector_blocks(self.encoder.folder, self.what):
                first, last = np.searchsorted(places, (start, start + len(block)))
                if last > first:
                    yield self.rows[int(first) : int(last)], block[places[first:last] - start]
                    report.advance(int(last - first))
                start += len(block)


@dataclass(frozen=True)
class _Format:
    """How a format is written: `write` gives the names of its files; `suffixes` are those it may replace."""

    write: Callable[[_Selected, Path], tuple[Path, ...]]
    suffixes: tuple[str, ...]


def export_embeddings(folder: Path, options: EmbeddingExport) -> ExportedEmbeddings:
    """Write the vectors of an encoder in another tool's format.

    Args:
        folder: The ENCODER folder; every byte of it is checked first.
        options: What to write, and where.

    Raises:
        InputError: if the folder is no whole encoder, the format is unknown, the encoder's licence level is too high,
            nothing is left to write, or `out` is something else already.
    """
    kind = FORMATS.get(options.format)
    if kind is None:
        raise InputError(f"unknown format {options.format!r}; {choices(options.format, FORMATS)}")
    if options.what not in WHAT:
        raise InputError(f"cannot export {options.what!r}; {choices(options.what, WHAT)}")
    encoder = load_encoder(folder)
    _require_licence(encoder, options.max_licence_level)
    if folder.resolve() in (options.out.resolve(), *options.out.resolve().parents):
        raise InputError("this is inside the encoder; name a place outside of it", options.out)
    _require_replaceable(options, kind)
    verify_encoder(folder)
    selected = _select(encoder, options)
    if options.format == "word2vec":
        selected = _with_keys(selected)
    files = kind.write(selected, options.out)
    return ExportedEmbeddings(len(selected.rows), encoder.dim, encoder.licence_level, files)


def _require_licence(encoder: ConceptEncoder, limit: int | None) -> None:
    if limit is None:
        return
    level = encoder.licence_level
    if level is None:
        problem = "the manifest does not say on what licence level it was trained; train it again"
        raise InputError(problem, encoder.folder)
    if level > limit:
        remedy = (
            f"train on what is left of its graph KG below: kgkit export KG --format nquads --max-licence-level {limit} "
            f"--out left.nq && kgkit ingest rdf left.nq --out LEFT && kgkit train-encoder LEFT --out ENCODER"
        )
        problem = f"it was trained on sources of licence level {level}, above {limit}, and every vector carries them"
        raise InputError(f"{problem}; {remedy}", encoder.folder)


def _require_replaceable(options: EmbeddingExport, kind: _Format) -> None:
    """Nothing that a user may miss is overwritten: a file of another ending, a folder that holds something else."""
    out = options.out
    if kind.suffixes:
        if out.is_dir():
            raise InputError(f"this is a folder; format {options.format} is a file", out)
        for path in (out, *([_ids_path(out)] if options.format == "npy" else [])):
            if path.exists() and (out.suffix not in kind.suffixes or not out.exists()):
                expected = " or ".join(f"*{suffix}" for suffix in kind.suffixes)
                raise InputError(f"this file exists and is no {expected}; name another, or remove it first", path)
    else:
        require_replaceable(out, "projector")


def _select(encoder: ConceptEncoder, options: EmbeddingExport) -> _Selected:
    table = encoder.table.select("concept", "name", "semantic_types").with_row_index("row")
    if options.semantic_type is not None:
        table = table[encoder.rows_of_type(options.semantic_type)]
    if options.semantic_group is not None:
        groups = semantic_group_of(table["semantic_types"])
        if not (groups == options.semantic_group).any():
            known = choices(options.semantic_group, groups.unique())
            raise InputError(f"no concept has the semantic group {options.semantic_group!r}; {known}")
        table = table.filter(groups == options.semantic_group)
    if options.what == "names":
        if not len(encoder.name_vectors):
            raise InputError("this encoder has no vectors of names; export its concepts", encoder.folder)
        names = encoder.names.select("concept", "name", row="vector")
        table = names.join(table.select("concept", "semantic_types"), on="concept").sort("row", "concept")
    if table.is_empty():
        raise InputError("nothing to export: the encoder has no concepts", encoder.folder)
    level = encoder.licence_level
    metadata = {"encoder_digest": encoder.digest, "licence_level": "unknown" if level is None else str(level)}
    columns = ("concept", "name", "semantic_types", pl.col("row").cast(pl.Int64))
    return _Selected(encoder, options.what, table.select(columns), metadata)


# Formats


def _write_parquet(selected: _Selected, out: Path) -> tuple[Path, ...]:
    """Columns concept, name, vector (float32, fixed length)."""
    kind = pl.Array(pl.Float32, selected.encoder.dim)

    def tables(*_: object) -> Iterator[pl.DataFrame]:
        for rows, vectors in selected.blocks():
            yield rows.select("concept", "name").with_columns(pl.Series("vector", vectors, dtype=kind))

    schema: dict[str, DataType | DataTypeClass] = {"concept": pl.String, "name": pl.String, "vector": kind}
    with output_file(out) as stream:
        try:
            register_io_source(tables, schema=schema).sink_parquet(stream, metadata=selected.metadata)
        except pl.exceptions.PolarsError as error:  # a full disk: polars has no OSError
            raise InputError(f"cannot write it ({str(error).splitlines()[0]})", out) from error
    return (out,)


def _write_npy(selected: _Selected, out: Path) -> tuple[Path, ...]:
    """A float32 array [rows, dim], and beside it what the rows are: concept and name, tab-separated, with a header."""
    ids = _ids_path(out)
    with output_file(ids) as labels, output_file(out) as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(selected.rows), selected.encoder.dim)}
        np.lib.format.write_array_header_1_0(stream, header)
        labels.write(b"concept\tname\n")
        for rows, vectors in selected.blocks():
            stream.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            _write_columns(labels, _one_line(rows.select("concept", "name")), "\t")
    return out, ids


def _ids_path(out: Path) -> Path:
    return out.with_suffix(".tsv") if out.suffix == ".npy" else out.with_name(f"{out.name}.tsv")


def _with_keys(selected: _Selected) -> _Selected:
    """Rows whose `key` has no white space, as word2vec text wants it, and is there once."""
    column = "concept" if selected.what == "concepts" else "name"
    key = pl.col(column).str.replace_all(r"\s+", "_").alias("key")
    rows = selected.rows.with_columns(key).unique("key", keep="first", maintain_order=True)
    return _Selected(selected.encoder, selected.what, rows, selected.metadata)


def _write_word2vec(selected: _Selected, out: Path) -> tuple[Path, ...]:
    """A line `rows dim`, then a line per row: its key, and the numbers that read back as the same float32."""
    with output_file(out) as stream:
        stream.write(f"{len(selected.rows)} {selected.encoder.dim}\n".encode())
        for rows, vectors in selected.blocks():
            _write_columns(stream, rows.select("key").hstack(_number_columns(vectors)), " ")
    return (out,)


def _write_projector(selected: _Selected, out: Path) -> tuple[Path, ...]:
    """A folder for projector.tensorflow.org ("Load"), or `tensorboard --logdir`: vectors.tsv, metadata.tsv."""
    partial = partial_folder(out, "projector")
    with (partial / "vectors.tsv").open("wb") as numbers, (partial / "metadata.tsv").open("wb") as labels:
        labels.write(b"concept\tname\tsemantic_group\tsemantic_types\n")
        for rows, vectors in selected.blocks():
            _write_columns(numbers, _number_columns(vectors), "\t")
            group = semantic_group_of(rows["semantic_types"]).rename("semantic_group")
            types = pl.col("semantic_types").list.join(",")
            _write_columns(labels, _one_line(rows.select("concept", "name", group, types)), "\t")
    (partial / "projector_config.pbtxt").write_text(_PROJECTOR_CONFIG, encoding="utf-8")
    write_manifest(partial, "projector", {"encoder_digest": selected.encoder.digest, "rows": len(selected.rows)})
    publish_folder(partial, out)
    return tuple(out / name for name in ("vectors.tsv", "metadata.tsv", "projector_config.pbtxt", "manifest.json"))


FORMATS = MappingProxyType(
    {
        "parquet": _Format(_write_parquet, (".parquet",)),
        "npy": _Format(_write_npy, (".npy",)),
        "word2vec": _Format(_write_word2vec, (".txt", ".vec")),
        "projector": _Format(_write_projector, ()),
    }
)
"""Name -> how it is written."""


def _number_columns(vectors: FloatArray) -> pl.DataFrame:
    return pl.DataFrame(vectors, schema=[f"v{column}" for column in range(vectors.shape[1])], orient="row")


def _one_line(rows: pl.DataFrame) -> pl.DataFrame:
    """Texts without tabs and line ends: a tab-separated file has no way to quote them."""
    return rows.with_columns(pl.col(pl.String).str.replace_all(r"\s+", " "))


def _write_columns(stream: IO[bytes], table: pl.DataFrame, separator: str) -> None:
    table.write_csv(stream, include_header=False, separator=separator, quote_style="never")
