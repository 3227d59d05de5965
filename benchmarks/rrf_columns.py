"""Columns of generated RRF tables, and the files they go to."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from kgkit.sources.rrf import COLUMNS

CHUNK_ROWS = 500_000
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class TableWriter:
    """Writes the frames of one table and counts."""

    def __init__(self, folder: Path, table: str, gzipped: bool) -> None:
        self.table = table
        self.rows = self.size = 0
        self._columns = COLUMNS[table].split()
        self._opened = ExitStack()
        name = f"{table}.RRF.gz" if gzipped else f"{table}.RRF"
        stream = self._opened.enter_context((folder / name).open("wb"))
        # Without a name and a time in its head a gzip file depends on its content alone.
        self._stream = self._opened.enter_context(
            gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) if gzipped else stream
        )

    def write(self, values: Mapping[str, pl.Series | str]) -> None:
        """Append rows; columns that are not given are empty, one string is in every row."""
        series = [values[name].alias(name) for name in self._columns if isinstance(values.get(name), pl.Series)]
        frame = pl.DataFrame(series)
        constants = {name: values.get(name, "") for name in self._columns if name not in frame.columns}
        frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
        buffer = io.BytesIO()
        frame.select(*self._columns, pl.lit("").alias("end")).write_csv(
            buffer, separator="|", include_header=False, quote_style="never"
        )
        self._stream.write(buffer.getbuffer())
        self.rows += len(frame)
        self.size += buffer.tell()

    def close(self) -> None:
        """Finish the file."""
        self._opened.close()


def numbered(prefix: str, numbers: Ints, digits: int = 7) -> pl.Series:
    """Ids such as C0000012."""
    return joined(prefix, pl.Series(numbers).cast(pl.String).str.zfill(digits))


def picked(values: pl.Series, rng: np.random.Generator, count: int, share: npt.ArrayLike) -> pl.Series:
    """Values drawn with these shares."""
    return values.gather(drawn(rng, count, share))


def drawn(rng: np.random.Generator, count: int, share: npt.ArrayLike) -> Ints:
    """Positions drawn with these shares; as `rng.choice`, in less time."""
    cumulated = np.cumsum(share)
    return np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right")


def joined(*parts: pl.Series | str) -> pl.Series:
    """Strings put together, row by row."""
    return pl.select(pl.concat_str([pl.lit(part) for part in parts])).to_series()


def either(mask: Mask, values: pl.Series | str, others: pl.Series | str = "") -> pl.Series:
    """The value where the mask is true, else the other."""
    return pl.select(pl.when(pl.Series(mask)).then(pl.lit(values)).otherwise(pl.lit(others))).to_series()


def chunks(total: int, size: int = CHUNK_ROWS) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each chunk."""
    for number, start in enumerate(range(0, total, size)):
        yield number, start, min(start + size, total)
