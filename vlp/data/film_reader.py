"""Films to squares, in an order that is the same in every run, read ahead while the model works.

Films are read from where DATA keeps them: films.bin (raw), tar shards (PNG), else from their own files.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import FloatArray, InputError, IntArray
from vlp.data.prepared import PreparedData
from vlp.images import ResizePad, decode_image, load_image

_RAW_SUFFIX = ".bin"
_AHEAD = 2


class FilmReader:
    """Random access to the films of a DATA folder; safe to use from several threads.

    Args:
        data: As opened by `load_data`.
    """

    def __init__(self, data: PreparedData) -> None:
        self.folder = data.folder
        self.root = Path(data.manifest["image_root"])
        self._maps: dict[str, mmap.mmap] = {}
        for name in sorted(data.images["stored"].drop_nulls().unique()):
            self._maps[name] = self._open(name, data.images.filter(pl.col("stored") == name))

    def film(self, row: dict[str, Any]) -> FloatArray:
        """A film as it is kept: float32 [h, w] in 0..1.

        Args:
            row: A row of `PreparedData.images`.

        Raises:
            InputError: if it is neither in DATA nor where it was.
        """
        if row["stored"] is None:
            if not self.root.is_dir():
                problem = f"the films were under {self.root}, which is gone: prepare again"
                raise InputError(problem, self.folder / "manifest.json")
            return load_image(self.root / row["path"])
        content = self._maps[row["stored"]][row["offset"] : row["offset"] + row["bytes"]]
        if not row["stored"].endswith(_RAW_SUFFIX):
            return decode_image(content, self.folder / row["stored"] / row["path"])
        pixels = np.frombuffer(content, np.uint8).reshape(row["stored_height"], row["stored_width"])
        return pixels.astype(np.float32) / np.float32(255)

    def square(self, row: dict[str, Any], input_size: int) -> FloatArray:
        """A film fitted into a square by `ResizePad` of its original size: float32 [input_size, input_size].

        Raises:
            InputError: as `film`; or if the film is kept smaller than the square and was larger.
        """
        kept = max(row["stored_width"] or 0, row["stored_height"] or 0)
        if 0 < kept < min(input_size, max(row["height"], row["width"])):
            raise InputError(
                f"films are kept with a longer side of {kept} pixels, too few for squares of {input_size}: "
                f"prepare again with --side {input_size}",
                self.folder,
            )
        return ResizePad((row["height"], row["width"]), input_size).apply(self.film(row))

    def squares(self, films: pl.DataFrame, input_size: int) -> FloatArray:
        """Films fitted into squares: float32 [len(films), input_size, input_size]."""
        if films.is_empty():
            return np.zeros((0, input_size, input_size), dtype=np.float32)
        return np.stack([self.square(row, input_size) for row in films.iter_rows(named=True)])

    def _open(self, name: str, films: pl.DataFrame) -> mmap.mmap:
        path = self.folder / name
        needed = int((films["offset"] + films["bytes"]).max() or 0)  # type: ignore[arg-type]
        try:
            with path.open("rb") as stream:
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"damaged or missing ({error})", path) from error
        if len(content) < needed:
            raise InputError(f"{len(content):,} bytes, expected {needed:,} or more: cut off", path)
        return content


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """How a loader goes through films.

    Attributes:
        input_size: Side of the squares, pixels.
        batch_size: Films per batch and process; the last batch may be smaller, none is dropped.
        seed: Of the order; None keeps the order of the table.
        process: (number of this process, number of processes): every process gets its own share.
        workers: Threads that read ahead; 0 reads when asked.
    """

    input_size: int
    batch_size: int = 32
    seed: int | None = None
    process: tuple[int, int] = (0, 1)
    workers: int = 2


@dataclass(frozen=True, slots=True)
class FilmBatch:
    """Some films.

    Attributes:
        rows: int64 [B], their rows in the table the loader was made with.
        squares: float32 [B, S, S], grey 0..1.
    """

    rows: IntArray
    squares: FloatArray


class FilmLoader:
    """Goes through a table of films, epoch by epoch.

    Args:
        reader: Where films come from.
        films: Rows of `PreparedData.images`, as `PreparedData.films` gives them.
        config: How.
    """

    def __init__(self, reader: FilmReader, films: pl.DataFrame, config: LoaderConfig) -> None:
        self.reader = reader
        self.rows = films.rows(named=True)
        self.config = config

    def order(self, epoch: int) -> IntArray:
        """Rows of this process in an epoch: a function of (seed, epoch, process) alone."""
        order = np.arange(len(self.rows), dtype=np.int64)
        if self.config.seed is not None:
            order = np.random.default_rng((self.config.seed, epoch)).permutation(order)
        number, count = self.config.process
        return order[number::count]

    def epoch(self, epoch: int = 0) -> Iterator[FilmBatch]:
        """All batches of an epoch.

        Raises:
            InputError: if a film cannot be read.
        """
        order, size = self.order(epoch), self.config.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if self.config.workers == 0:
            for rows in batches:
                yield FilmBatch(rows, np.stack([self._square(row) for row in rows]))
            return
        pending: deque[tuple[IntArray, list[Future[FloatArray]]]] = deque()
        workers = ThreadPoolExecutor(self.config.workers)
        try:
            for rows in batches:
                pending.append((rows, [workers.submit(self._square, row) for row in rows]))
                if len(pending) > _AHEAD:
                    yield _gather(*pending.popleft())
            while pending:
                yield _gather(*pending.popleft())
        finally:  # also when the caller stops in the middle
            workers.shutdown(wait=False, cancel_futures=True)

    def _square(self, row: int) -> FloatArray:
        return self.reader.square(self.rows[row], self.config.input_size)


def _gather(rows: IntArray, squares: list[Future[FloatArray]]) -> FilmBatch:
    return FilmBatch(rows, np.stack([square.result() for square in squares]))
