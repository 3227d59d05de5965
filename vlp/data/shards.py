"""`vlp shard`: a DATA folder whose films lie in tar files, as the webdataset package streams them.

The folder is a DATA folder itself: the same tables, the same loader, which finds each film by its place in the tar. A
sample is two members, `<key>.png` (8-bit grey) and `<key>.json` (study, patient, view, size, report, mentions; labels
apart under `labels`, for evaluation). The same DATA and options give the same bytes.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from kgkit.interface import (
    InputError,
    file_digests,
    partial_folder,
    progress,
    publish_folder,
    write_manifest,
    write_text_atomically,
)
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import (
    LABEL_PREFIX,
    MENTION_COLUMNS,
    STORED_COLUMNS,
    TABLES,
    PreparedData,
    load_data,
    supervision_digest,
)
from vlp.data.source import SPLITS
from vlp.images import reduce_film

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """One sharding.

    Attributes:
        data_dir: DATA folder.
        out_dir: DATA folder to make.
        films_per_shard: Films in each tar.
        side: Longer side of the films at most, pixels.
        split: Only this part; None for all, each in tars of its own.
    """

    data_dir: Path
    out_dir: Path
    films_per_shard: int = 1000
    side: int = 512
    split: str | None = None


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What was made.

    Attributes:
        out_dir: The folder.
        films: Split -> films.
        shards: Tar files.
        bytes: Size of all tars.
    """

    out_dir: Path
    films: dict[str, int]
    shards: int
    bytes: int


def shard(config: ShardConfig) -> ShardSummary:
    """Write the films of a DATA folder as tar shards.

    Raises:
        InputError: if DATA is none, has no such split, or a film is no longer there.
    """
    if config.films_per_shard < 1 or config.side < 1:
        raise InputError(f"{config.films_per_shard} films a shard of side {config.side}, expected at least 1")
    data = load_data(config.data_dir)
    if config.out_dir.resolve() == config.data_dir.resolve():
        raise InputError("the shards would replace the folder they are made from", config.out_dir)
    parts = {config.split: data.study_ids(config.split)} if config.split else _all_parts(data)
    partial = partial_folder(config.out_dir, "data")
    (partial / "shards").mkdir()
    reader, samples = FilmReader(data), _Samples(data)
    kept: list[pl.DataFrame] = []
    counts: dict[str, int] = {}
    with progress("write shards", sum(len(_films(data, ids)) for ids in parts.values()), "films") as bar:
        for split, ids in parts.items():
            films = _films(data, ids)
            counts[split] = len(films)
            for number, start in enumerate(range(0, len(films), config.films_per_shard)):
                chunk = films.slice(start, config.films_per_shard)
                name = f"shards/{split}-{number:06d}.tar"
                places = []
                for place in _write_tar(partial / name, chunk, reader, samples, config.side):
                    places.append((name, *place))
                    bar.advance()
                stored = pl.DataFrame(places, schema=STORED_COLUMNS, orient="row")
                kept.append(pl.concat([chunk.drop(list(STORED_COLUMNS)), stored], how="horizontal"))
    if not kept:
        shutil.rmtree(partial)
        raise InputError(f"no film in {config.split or 'any split'}", config.data_dir)
    _write_tables(data, partial, parts, pl.concat(kept), config)
    publish_folder(partial, config.out_dir)
    tars = sorted((config.out_dir / "shards").glob("*.tar"))
    return ShardSummary(config.out_dir, counts, len(tars), sum(tar.stat().st_size for tar in tars))


class _Samples:
    """The JSON of each film's study."""

    def __init__(self, data: PreparedData) -> None:
        self.split_of = dict(data.splits.select("study_id", "split").iter_rows())
        self.studies = {row["study_id"]: row for row in data.studies.iter_rows(named=True)}
        columns = [name for name in MENTION_COLUMNS if name != "study_id"]
        self.mentions: dict[str, list[dict[str, Any]]] = {}
        for row in data.mentions.sort("study_id", "mention").iter_rows(named=True):
            self.mentions.setdefault(row["study_id"], []).append({name: row[name] for name in columns})

    def content(self, film: dict[str, Any]) -> bytes:
        study = self.studies[film["study_id"]]
        labels = {name.removeprefix(LABEL_PREFIX): value for name, value in study.items()
                  if name.startswith(LABEL_PREFIX) and value is not None}  # fmt: skip
        sample = {
            **{name: film[name] for name in ("study_id", "path", "view", "projection", "width", "height", "sha256")},
            "patient_id": study["patient_id"],
            "split": self.split_of[film["study_id"]],
            "text": study["text"],
            "mentions": self.mentions.get(film["study_id"], []),
            "labels": labels,
        }
        return json.dumps(sample, ensure_ascii=False, sort_keys=True).encode()


def _all_parts(data: PreparedData) -> dict[str, list[str]]:
    present = set(data.splits["split"].to_list())
    return {split: data.study_ids(split) for split in SPLITS if split in present}


def _films(data: PreparedData, study_ids: list[str]) -> pl.DataFrame:
    return data.films(study_ids, frontal_only=False)


def _write_tar(
    path: Path, films: pl.DataFrame, reader: FilmReader, samples: _Samples, side: int
) -> Iterator[tuple[int, int, int, int]]:
    """Write one tar; yields (offset, bytes, width, height) of each film in it."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, film in enumerate(films.iter_rows(named=True)):
            pixels = reduce_film(reader.film(film), side)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
            image = stream.getvalue()
            key = f"{path.stem}-{row:06d}"  # webdataset cuts names at their first full stop: the key has none
            _add(tar, f"{key}.json", samples.content(film))
            offset = tar.offset + _BLOCK  # the header is one block: names are short
            _add(tar, f"{key}.png", image)
            yield offset, len(image), pixels.shape[1], pixels.shape[0]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without time or owner, so that the same films give the same tar."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def _write_tables(
    data: PreparedData, folder: Path, parts: dict[str, list[str]], images: pl.DataFrame, config: ShardConfig
) -> None:
    ids = [study_id for studies in parts.values() for study_id in studies]
    here = pl.col("study_id").is_in(ids)
    splits = data.splits.filter(here)
    data.studies.filter(here).write_parquet(folder / "studies.parquet")
    images.write_parquet(folder / "images.parquet")
    data.mentions.filter(here).write_parquet(folder / "mentions.parquet")
    data.boxes.filter(here).write_parquet(folder / "boxes.parquet")
    write_text_atomically(folder / "splits.csv", splits.write_csv())
    head = {"kind", "format_version", "provenance"}
    content = {name: value for name, value in data.manifest.items() if name not in head}
    content |= {
        "stored_films": {"file": "shards/*.tar", "side": config.side, "films_per_shard": config.films_per_shard},
        "studies": {split: len(studies) for split, studies in parts.items()},
        "films": len(images),
        "made_from": data.digest,
        "data_digest": supervision_digest(data.studies.filter(here), images, data.mentions.filter(here), splits),
    }
    write_manifest(folder, "data", content | {"file_digests": file_digests(folder, TABLES)})
