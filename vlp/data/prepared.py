"""The DATA folder: its columns, and how it is read.

manifest.json    source, layout, licence, image root, counts, digests
studies.parquet  one row per study; columns `label:<name>` hold labels of people or labelers, for evaluation
only images.parquet   one row per readable film; `path` is relative to the manifest's image_root
mentions.parquet one row per mention: what may supervise training
splits.csv       study_id, patient_id, split
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kgkit.interface import InputError, choices, read_manifest

LABEL_PREFIX = "label:"
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
        studies: STUDY_COLUMNS and one `label:<name>` (Int8, null where unknown) per label.
        images: IMAGE_COLUMNS.
        mentions: MENTION_COLUMNS.
        splits: SPLIT_COLUMNS.
    """

    folder: Path
    manifest: dict[str, Any]
    studies: pl.DataFrame
    images: pl.DataFrame
    mentions: pl.DataFrame
    splits: pl.DataFrame

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
        """Films of some studies, sorted by study and path.

        Returns:
            IMAGE_COLUMNS and `file`, the path of each film on this machine.

        Raises:
            InputError: if the films are no longer where they were.
        """
        root = Path(self.manifest["image_root"])
        if not root.is_dir():
            raise InputError(
                f"the films were under {root}, which is gone: prepare again", self.folder / "manifest.json"
            )
        films = self.images.filter(pl.col("study_id").is_in(study_ids)).sort("study_id", "path")
        if frontal_only:
            films = films.filter(pl.col("view") == "frontal")
        return films.with_columns(file=pl.lit(f"{root}/") + pl.col("path"))


def load_data(folder: Path) -> PreparedData:
    """Open a DATA folder.

    Raises:
        InputError: if it is missing, unfinished, of another kind or damaged.
    """
    manifest = read_manifest(folder, "data")
    return PreparedData(
        folder,
        manifest,
        studies=_read(folder / "studies.parquet", STUDY_COLUMNS),
        images=_read(folder / "images.parquet", IMAGE_COLUMNS),
        mentions=_read(folder / "mentions.parquet", MENTION_COLUMNS),
        splits=_read(folder / "splits.csv", SPLIT_COLUMNS),
    )


def _read(path: Path, columns: dict[str, Any]) -> pl.DataFrame:
    try:
        table = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged or missing ({str(error).splitlines()[0]})", path) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"no column {missing[0]!r}; found {', '.join(table.columns)}", path)
    return table
