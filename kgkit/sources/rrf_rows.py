"""Bytes of an RRF table to rows: whole lines in blocks, each row proven to have all its columns.

polars parses the fields, but it fills short rows up, cuts long ones and fails on a whole block for one byte that is
not UTF-8. So every block is proven first, by the places of its separators, and rows that are wrong are taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from kgkit.arrays import BoolArray, IntArray

BLOCK_BYTES = 1 << 24
"""Text parsed at a time: more does not make it faster."""

LONGEST_LINE = 1 << 26
"""A longer line (bytes) is no row of any table; it is passed over without being held in memory."""

WRONG_COLUMNS = "wrong number of columns"
NOT_UTF8 = "not UTF-8"
TOO_LONG = "line longer than 64 MiB"

_PROOF_STEP = 1 << 18
"""Bytes looked at a time in the proof: what fits into a core's cache."""

_LF, _CR, _BAR = 10, 13, 124
_SAFE_STARTS = b"C0123456789"


@dataclass(frozen=True)
class Block:
    """Whole lines of a table.

    Attributes:
        data: The lines, each ended by LF.
        is_cut: The last line had no LF in the file, which ends there.
        long_line: Bytes of a line that is too long to be a row, and follows here; 0 if there is none.
        long_start: The first bytes of that line.
    """

    data: bytes
    is_cut: bool = False
    long_line: int = 0
    long_start: bytes = b""


@dataclass(frozen=True)
class WrongRows:
    """The rows of a block that are wrong in one way.

    Attributes:
        reason: WRONG_COLUMNS, NOT_UTF8 or TOO_LONG.
        count: How many there are.
        first: Position of the first in its block, from 0.
        shown: Its first 80 characters.
        bars: Its column ends.
    """

    reason: str
    count: int
    first: int
    shown: str
    bars: int


@dataclass(frozen=True)
class Rows:
    """The good rows of a block.

    Attributes:
        frame: The columns asked for, strings; and `line` (uint32), the position in the block from 0.
        count: Rows of the block, good and wrong.
        wrong: What was left out, by the line of the first.
        last_is_uneven: The last row of the block has a wrong number of columns.
    """

    frame: pl.DataFrame
    count: int
    wrong: tuple[WrongRows, ...] = ()
    last_is_uneven: bool = False


def blocks(chunks: Iterable[bytes], size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Cut a stream at line ends into blocks of about `size` bytes; memory is bounded whatever the stream holds."""
    buffer = bytearray(size)  # kept from block to block: fresh memory costs as much as parsing what is read into it
    held = unfinished = passed = 0  # bytes in the buffer; of its last line; of a long line, of which none is held
    start = b""
    for chunk in chunks:
        if passed:
            cut = chunk.find(b"\n") + 1
            passed += cut or len(chunk)
            if not cut:
                continue
            yield Block(b"", long_line=passed, long_start=start)
            passed, chunk = 0, chunk[cut:]
        cut = chunk.rfind(b"\n") + 1
        buffer[held : held + len(chunk)] = chunk
        held += len(chunk)
        unfinished = len(chunk) - cut if cut else unfinished + len(chunk)
        whole = held - unfinished
        if whole and (held >= size or unfinished > LONGEST_LINE):
            yield Block(bytes(memoryview(buffer)[:whole]))
            buffer[:unfinished] = buffer[whole:held]
            held = unfinished
        if unfinished > LONGEST_LINE:
            passed, start = unfinished, bytes(buffer[: min(unfinished, 400)])
            held = unfinished = 0
    if passed:
        yield Block(b"", is_cut=True, long_line=passed, long_start=start)
    elif held:
        data = bytes(memoryview(buffer)[:held])
        yield Block(data) if not unfinished else Block(data + b"\n", is_cut=True)


def proven_rows(data: bytes, columns: int) -> int | None:
    """Number of rows, if every line has exactly `columns` bars and the last one ends it; None if one has not."""
    array = np.frombuffer(data, np.uint8)
    if array.size > LONGEST_LINE:  # a block of this size may hold a line that is too long
        return None
    has_cr = b"\r" in data
    bars = lines = 0
    for start in range(0, array.size, _PROOF_STEP):
        window = array[start : start + _PROOF_STEP]
        places = np.flatnonzero(window == _BAR)
        # Of the bars so far, every `columns`-th has to be the end of its line: so no row is short and the next long.
        after = places[(columns - 1 - bars) % columns :: columns] + (start + 1)
        ends = array[np.minimum(after, array.size - 1)]
        if has_cr:
            ends = np.where(ends == _CR, array[np.minimum(after + 1, array.size - 1)], ends)
        if (ends != _LF).any():
            return None
        bars += places.size
        lines += int(np.count_nonzero(window == _LF))
    return lines if bars == lines * columns else None


def shown_start(line: bytes) -> str:
    """The first 80 characters of a line, for a message."""
    return line[:400].decode("utf-8", "replace")[:80]


def parse(data: bytes, names: Sequence[str], wanted: Sequence[str], proven: int | None) -> Rows:
    """The fields of the rows of a block.

    Args:
        data: Lines, each ended by LF or CRLF.
        names: All columns of the table, in file order.
        wanted: Columns to keep.
        proven: What `proven_rows` said.
    """
    if proven is not None:
        try:
            return Rows(_fields(data, names, wanted).with_row_index("line").select(*wanted, "line"), proven)
        except (pl.exceptions.ComputeError, UnicodeDecodeError):  # a byte that is not UTF-8, somewhere in the block
            pass
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == _LF)
    starts = np.concatenate([[0], ends[:-1] + 1])
    bars = np.diff(np.searchsorted(np.flatnonzero(array == _BAR), ends), prepend=0)
    last = np.where((array[ends - 1] == _CR) & (ends > starts), ends - 2, ends - 1)
    is_long = ends - starts > LONGEST_LINE
    is_uneven = ~is_long & ((bars != len(names)) | (last < starts) | (array[last] != _BAR))
    is_not_text = ~is_long & ~is_uneven & _not_utf8(data, array, starts, ends)
    good = np.flatnonzero(~is_long & ~is_uneven & ~is_not_text)
    wrong = []
    for reason, mask in ((WRONG_COLUMNS, is_uneven), (NOT_UTF8, is_not_text), (TOO_LONG, is_long)):
        if count := int(np.count_nonzero(mask)):
            first = int(mask.argmax())
            shown = shown_start(data[starts[first] : min(ends[first], starts[first] + 400)])
            wrong.append(WrongRows(reason, count, first, shown, int(bars[first])))
    frame = _fields(_without(data, starts, ends, good), names, wanted)
    frame = frame.with_columns(pl.Series("line", good, dtype=pl.UInt32))
    return Rows(frame, ends.size, tuple(sorted(wrong, key=lambda rows: rows.first)), bool(is_uneven[-1]))


def _fields(data: bytes, names: Sequence[str], wanted: Sequence[str]) -> pl.DataFrame:
    """The fields of rows that are all right."""
    if not data:
        return pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    if b"\r" in data and b"\r|" in data:  # polars drops a carriage return at the end of any field
        lines = pl.Series(data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n"))
        fields = lines.str.split_exact("|", len(names)).struct.rename_fields([*names, ""])
        return fields.struct.unnest().select(wanted)
    # polars drops a byte order mark, and inflates what begins as gzip, zlib or zstd do: `x^2|` is zlib to it.
    is_safe = data[0] in _SAFE_STARTS
    if not is_safe:
        data = b"|" * len(names) + b"\n" + data
    table = pl.scan_csv(
        data, separator="|", quote_char=None, has_header=False, eol_char="\n", empty_string_is_null=False,
        schema=dict.fromkeys([*names, ""], pl.String),
    )  # fmt: skip
    return table.select(wanted).slice(0 if is_safe else 1).collect()


def _not_utf8(data: bytes, array: npt.NDArray[np.uint8], starts: IntArray, ends: IntArray) -> BoolArray:
    """Which lines are not UTF-8; only those with a byte above 127 can be."""
    is_wrong = np.zeros(ends.size, dtype=np.bool_)
    for line in np.unique(np.searchsorted(ends, np.flatnonzero(array > 127))):
        try:
            data[starts[line] : ends[line]].decode()
        except UnicodeDecodeError:
            is_wrong[line] = True
    return is_wrong


def _without(data: bytes, starts: IntArray, ends: IntArray, good: IntArray) -> bytes:
    """The good lines alone, copied in runs."""
    if not good.size:
        return b""
    breaks = np.flatnonzero(np.diff(good) != 1)
    firsts = good[np.concatenate([[0], breaks + 1])]
    lasts = good[np.concatenate([breaks, [good.size - 1]])]
    return b"".join([data[starts[first] : ends[last] + 1] for first, last in zip(firsts, lasts, strict=True)])
