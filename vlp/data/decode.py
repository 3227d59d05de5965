"""Every film read once: checked, measured, hashed, and kept small beside the tables.

`films.bin` holds the films one after the other as raw 8-bit rows, longer side at most the side asked for, in the order
of images.parquet. A run that is killed leaves `films.jsonl`, a line per film that is done, from which it can go on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from kgkit.interface import InputError, progress
from vlp.data.prepared import IMAGE_COLUMNS, LOOK_COLUMNS, STORED_COLUMNS
from vlp.data.source import Skipped
from vlp.images import BLANK, decode_image, difference_hash, is_blank, reduce_film, to_bytes
from vlp.types import ImageRef, View

FILMS, JOURNAL = "films.bin", "films.jsonl"
_CHUNK = 32
_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How films are read.

    Attributes:
        side: Longer side of the films kept, pixels; 0 keeps none.
        strict: Stop at the first film that cannot be read.
        resume: Go on where a stopped run left off.
    """

    side: int = 512
    strict: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    """What is known of a film once it was read; `reason` says why it was left out, and nothing else counts then."""

    reason: str = ""
    width: int = 0
    height: int = 0
    sha256: str = ""
    look: str = ""
    stored_width: int = 0
    stored_height: int = 0

    @property
    def stored_bytes(self) -> int:
        return self.stored_width * self.stored_height


def read_films(
    films: Sequence[tuple[str, ImageRef]], root: Path, folder: Path, options: DecodeOptions
) -> tuple[pl.DataFrame, list[Skipped]]:
    """Decode films into `folder`, so that training meets no bad file; bad ones are named with the reason.

    Args:
        films: (study id, film).
        root: Folder that all films are under.
        folder: Where films.bin and the journal are written.
        options: How.

    Returns:
        IMAGE_COLUMNS and STORED_COLUMNS of the readable films; (film, reason) of the others.

    Raises:
        InputError: with `strict`, naming the film.
    """
    done = _done_before(folder, len(films)) if options.resume else []
    mode = "ab" if done else "wb"
    with (
        (folder / FILMS).open(mode) as store,
        (folder / JOURNAL).open("a" if done else "w", encoding="utf-8") as journal,
        progress("read films", len(films) - len(done), "films") as bar,
        ThreadPoolExecutor(_WORKERS) as workers,
    ):
        for chunk in _chunks(films[len(done) :]):
            for entry, pixels in workers.map(lambda film: _decode(film[1].path, options.side), chunk):
                path = films[len(done)][1].path
                if entry.reason and options.strict:
                    raise InputError(entry.reason, path)
                _append(store, pixels)
                done.append(entry)
                bar.advance()
            _commit(store, journal, done[-len(chunk) :])
    return _table(films, done, root, is_stored=bool(options.side))


def end_reading(folder: Path, options: DecodeOptions) -> None:
    """Remove what only a resumed run needs; until then a run stopped after the films does not read them again."""
    (folder / JOURNAL).unlink()
    if not options.side:
        (folder / FILMS).unlink()


def _chunks(films: Sequence[tuple[str, ImageRef]]) -> Iterator[list[tuple[str, ImageRef]]]:
    iterator = iter(films)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _decode(path: Path, side: int) -> tuple[_Done, npt.NDArray[np.uint8] | None]:
    try:
        content = path.read_bytes()
        film = decode_image(content, path)
    except OSError as error:
        return _Done(f"cannot be read ({error.strerror})"), None
    except InputError as error:
        return _Done(str(error).removeprefix(f"{path}: ")), None
    if is_blank(film):
        return _Done(BLANK), None
    height, width = film.shape
    small = reduce_film(film, side) if side else None
    look = difference_hash(to_bytes(film) if small is None else small)
    stored = (0, 0) if small is None else small.shape
    sha256 = hashlib.sha256(content).hexdigest()
    return _Done("", width, height, sha256, look, stored[1], stored[0]), small


def _append(store: IO[bytes], pixels: npt.NDArray[np.uint8] | None) -> None:
    if pixels is not None:
        store.write(np.ascontiguousarray(pixels).data)


def _commit(store: IO[bytes], journal: IO[str], done: list[_Done]) -> None:
    """Pixels first: a line in the journal means that its pixels are there."""
    store.flush()
    journal.writelines(json.dumps(asdict(entry)) + "\n" for entry in done)
    journal.flush()


def _done_before(folder: Path, count: int) -> list[_Done]:
    """Films that a stopped run had read, with what was written after the last of them cut off."""
    store, journal = folder / FILMS, folder / JOURNAL
    if not (store.is_file() and journal.is_file()):
        return []
    size = store.stat().st_size
    done: list[_Done] = []
    pixels = length = 0
    for line in journal.read_bytes().splitlines(keepends=True)[:count]:
        try:
            entry = _Done(**json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n") or pixels + entry.stored_bytes > size:
            break
        done.append(entry)
        pixels += entry.stored_bytes
        length += len(line)
    for path, kept in ((store, pixels), (journal, length)):
        with path.open("r+b") as stream:
            stream.truncate(kept)
    return done


def _table(
    films: Sequence[tuple[str, ImageRef]], done: list[_Done], root: Path, *, is_stored: bool
) -> tuple[pl.DataFrame, list[Skipped]]:
    rows: list[dict[str, Any]] = []
    unreadable: list[Skipped] = []
    offset = 0
    for (study_id, image), entry in zip(films, done, strict=True):
        if entry.reason:
            unreadable.append((image.path.relative_to(root).as_posix(), entry.reason))
            continue
        stored = {"stored": FILMS, "offset": offset, "bytes": entry.stored_bytes} if is_stored else {}
        rows.append(
            {
                "study_id": study_id,
                "path": image.path.relative_to(root).as_posix(),
                "view": View(image.view).value,
                "projection": image.projection,
                "width": entry.width,
                "height": entry.height,
                "sha256": entry.sha256,
                "look": entry.look,
                "stored_width": entry.stored_width or None,
                "stored_height": entry.stored_height or None,
            }
            | stored
        )
        offset += entry.stored_bytes
    schema: dict[str, Any] = IMAGE_COLUMNS | LOOK_COLUMNS | STORED_COLUMNS
    return pl.DataFrame(rows, schema=schema, orient="row"), unreadable
