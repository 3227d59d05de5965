"""The DATA folder: its columns, and how it is read.

manifest.json    source, layout, licence, image root, counts, what was left out and why, digests
studies.parquet  one row per study; columns `label:<name>` hold labels of people or labelers, for evaluation only:
                 1, 0, null where unknown or uncertain; `uncertain:<name>` is true where they call it uncertain
images.parquet   one row per readable film; `path` is relative to the manifest's image_root
films.bin        the films in 8 bit, small, one after the other (see vlp.data.decode); or shards/*.tar
mentions.parquet one row per mention: what may supervise training
boxes.parquet    rectangles that readers drew, in pixels of the film; for evaluation only
splits.csv       study_id, patient_id, split
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.interface import InputError, choices, read_manifest, require_unchanged

TABLES = ("studies.parquet", "images.parquet", "mentions.parquet", "boxes.parquet", "splits.csv")
_MANIFEST_KEYS = ("dataset", "label_set", "licence", "image_root", "data_digest", "labels_digest")
LABEL_PREFIX = "label:"
UNCERTAIN_PREFIX = "uncertain:"
STUDY_COLUMNS = {
    "study_id": pl.String,
    "patient_id": pl.String,
    "findings": pl.String,
    "impression": pl.String,
    "text": pl.String,
}
IMAGE_COLUMNS = {
    "study_id": pl.String,
    "path": pl.String,
    "view": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "sha256": pl.String,
}
PATIENT_COLUMNS = {"sex": pl.String, "age": pl.Float64}
LOOK_COLUMNS = {"projection": pl.String, "look": pl.String}
STORED_COLUMNS = {
    "stored": pl.String,
    "offset": pl.Int64,
    "bytes": pl.Int64,
    "stored_width": pl.Int32,
    "stored_height": pl.Int32,
}
"""Where a film is kept inside DATA: file, first byte, length, and its size there; null where it is not."""
BOX_COLUMNS = {
    "study_id": pl.String,
    "path": pl.String,
    "label": pl.String,
    "x0": pl.Float64,
    "y0": pl.Float64,
    "x1": pl.Float64,
    "y1": pl.Float64,
}
MENTION_COLUMNS = {
    "study_id": pl.String,
    "mention": pl.Int32,
    "text": pl.String,
    "start": pl.Int32,
    "end": pl.Int32,
    "section": pl.String,
    "kind": pl.String,
    "certainty": pl.String,
    "temporality": pl.String,
    "experiencer": pl.String,
    "concept": pl.String,
    "link_score": pl.Float64,
}
SPLIT_COLUMNS = {"study_id": pl.String, "patient_id": pl.String, "split": pl.String}


@dataclass(frozen=True)
class PreparedData:
    """A DATA folder, opened; see `load_data`.

    Attributes:
        folder: Where it is.
        manifest: Its manifest.
        studies: STUDY_COLUMNS, PATIENT_COLUMNS, one `label:<name>` (Int8, null where unknown or uncertain) per
            label, and `uncertain:<name>` (Boolean) for labels that are somewhere called uncertain.
        images: IMAGE_COLUMNS, LOOK_COLUMNS, STORED_COLUMNS.
        mentions: MENTION_COLUMNS.
        splits: SPLIT_COLUMNS.
        boxes: BOX_COLUMNS, in pixels of the film.
    """

    folder: Path
    manifest: dict[str, Any]
    studies: pl.DataFrame
    images: pl.DataFrame
    mentions: pl.DataFrame
    splits: pl.DataFrame
    boxes: pl.DataFrame

    @property
    def digest(self) -> str:
        """Digest of all that may supervise training; labels are not in it."""
        return str(self.manifest["data_digest"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(name.removeprefix(LABEL_PREFIX) for name in self.studies.columns if name.startswith(LABEL_PREFIX))

    def study_ids(self, split: str) -> list[str]:
        """Ids of the studies of a split, sorted.

        Raises:
            InputError: if there is no such split.
        """
        known = set(self.splits["split"].to_list())
        if split not in known:
            raise InputError(f"no split {split!r}; {choices(split, known)}", self.folder / "splits.csv")
        return sorted(self.splits.filter(pl.col("split") == split)["study_id"].to_list())

    def films(self, study_ids: list[str], *, frontal_only: bool) -> pl.DataFrame:
        """Films of some studies, sorted by study and path: rows of `images`, for vlp.data.film_reader."""
        films = self.images.filter(pl.col("study_id").is_in(study_ids)).sort("study_id", "path")
        return films.filter(pl.col("view") == "frontal") if frontal_only else films


def load_data(folder: Path) -> PreparedData:
    """Open a DATA folder.

    Raises:
        InputError: if it is missing, unfinished, of another kind, damaged or changed.
    """
    manifest = read_manifest(folder, "data")
    missing = [key for key in _MANIFEST_KEYS if not isinstance(manifest.get(key), str)]
    if not isinstance(manifest.get("skipped_by_reason"), dict):
        missing.append("skipped_by_reason")
    if missing:
        raise InputError(f"{missing[0]} is missing or not as written: the folder is damaged", folder / "manifest.json")
    require_unchanged(folder, manifest)
    return PreparedData(
        folder,
        manifest,
        studies=_read(folder / "studies.parquet", STUDY_COLUMNS | PATIENT_COLUMNS),
        images=_read(folder / "images.parquet", IMAGE_COLUMNS | LOOK_COLUMNS | STORED_COLUMNS),
        mentions=_read(folder / "mentions.parquet", MENTION_COLUMNS),
        splits=_read(folder / "splits.csv", SPLIT_COLUMNS),
        boxes=_read(folder / "boxes.parquet", BOX_COLUMNS),
    )


def label_columns(labels: Sequence[Mapping[str, int]]) -> dict[str, pl.Series]:
    """Labels of studies as columns; 1, 0, or null; where one is -1 an `uncertain:` column stands beside it."""
    columns: dict[str, pl.Series] = {}
    for name in sorted({name for study in labels for name in study}):
        values = [study.get(name) for study in labels]
        certain = [None if value == -1 else value for value in values]
        columns[LABEL_PREFIX + name] = pl.Series(LABEL_PREFIX + name, certain, dtype=pl.Int8)
        if -1 in values:
            column = UNCERTAIN_PREFIX + name
            columns[column] = pl.Series(column, [value == -1 for value in values], dtype=pl.Boolean)
    return columns


def supervision_digest(
    studies: pl.DataFrame, images: pl.DataFrame, mentions: pl.DataFrame, splits: pl.DataFrame
) -> str:
    """Digest of all that may supervise training: reports, films, mentions, parts; not of labels, ages or places."""
    return table_digest(
        studies.select(list(STUDY_COLUMNS)).sort("study_id"),
        images.select([name for name in IMAGE_COLUMNS if name != "path"]).sort("study_id", "sha256"),
        mentions.select(list(MENTION_COLUMNS)).sort("study_id", "mention"),
        splits.select(list(SPLIT_COLUMNS)).sort("study_id"),
    )


def table_digest(*tables: pl.DataFrame) -> str:
    """SHA-256 of columns and rows, in order."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(json.dumps(table.columns).encode())
        for row in table.iter_rows():
            digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()


def _read(path: Path, columns: Mapping[str, Any]) -> pl.DataFrame:
    """A table with its columns checked."""
    try:
        table = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"no column {missing[0]!r}; found {', '.join(table.columns)}", path)
    return table
