"""Any bytes at all: an InputError, or exactly the good rows and a count of the others; judged by a slow reader."""

from __future__ import annotations

import gzip
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rrf import tiny_rrf

from kgkit.errors import InputError
from kgkit.sources import rrf as rrf_module
from kgkit.sources import rrf_files, rrf_rows
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS, RrfRelease
from kgkit.sources.rrf_rows import Block, blocks, proven_rows

RANK = COLUMNS["MRRANK"].split()
GOOD = b"0400|MTH|PN|N|\n"
ODD = [b"|", b"\n", b"\r\n", b"\r", b'"', b"\\", "\u2028".encode(), b"\xc3\xa9", b"\xe9", b"\xff", b"\0"]
ODD += [b"\xef\xbb\xbf", b"\x1f\x8b", b"x", b"x^", b"\x28\xb5\x2f\xfd", b"\x85", b"\x0b"]
ODD += [b"||||\n", b"a|b|c|d|\n", b"a|b|c|d|\r\n", b"a|b|c|\n", b"a|b|c|d|e|\n"]

Row = tuple[str, ...]


class WrongFileError(Exception):
    """The slow reader refuses the file."""


def slow_read(data: bytes, longest: int) -> tuple[list[tuple[Row, int]], Counter[str]]:
    """The rows of an MRRANK table and their lines, and the counts of the others; one line at a time."""
    rows, wrong = [], Counter[str]()
    lines = data.split(b"\n")
    is_cut = lines[-1] != b""
    if not is_cut:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        is_last = is_cut and number == len(lines)
        fields = (line[:-1] if line[-1:] == b"\r" else line).split(b"|")
        if len(line) > longest:
            if is_last:
                raise WrongFileError
            wrong["MRRANK: line longer than 64 MiB"] += 1
        elif len(fields) != 5 or fields[4] != b"":
            if is_last:
                raise WrongFileError
            wrong["MRRANK: wrong number of columns"] += 1
        else:
            try:
                rows.append((tuple(field.decode() for field in fields[:4]), number))
            except UnicodeDecodeError:
                wrong["MRRANK: not UTF-8"] += 1
    return rows, wrong


def outcome(data: bytes, longest: int, columns: list[str] = RANK) -> object:
    """What the slow reader makes of a table; None if it refuses it."""
    try:
        rows, wrong = slow_read(data, longest)
    except WrongFileError:
        return None
    picked = [RANK.index(column) for column in columns]
    return [(*(row[at] for at in picked), line) for row, line in rows], wrong, data.count(b"\n") + (data[-1:] != b"\n")


def read(folder: Path, data: bytes, gzipped: bool, columns: list[str] = RANK) -> object:
    """What the reader makes of it; None if it refuses it."""
    name = "MRRANK.RRF.gz" if gzipped else "MRRANK.RRF"
    (folder / name).write_bytes(gzip.compress(data, 1) if gzipped else data)
    log = IngestLog()
    try:
        frame = RrfRelease(folder, log, needs="MRRANK").read("MRRANK", columns)
    except InputError:
        return None
    return frame.rows(), log.skipped, log.rows_read["MRRANK"]


@contextmanager
def small_steps(block: int, longest: int) -> Iterator[None]:
    """Let every cut happen in a table of some bytes that else happens only in one of some millions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rrf_module, "BLOCK_BYTES", block)
        patch.setattr(rrf_module, "BATCH_BYTES", 3 * block)
        patch.setattr(rrf_files, "CHUNK", max(1, block // 3))
        patch.setattr(rrf_files, "INFLATE_STEP", 5)
        patch.setattr(rrf_rows, "_PROOF_STEP", 7)
        patch.setattr(rrf_rows, "LONGEST_LINE", longest)
        yield


@given(
    st.lists(st.sampled_from(ODD), max_size=20).map(b"".join), st.booleans(), st.permutations(RANK), st.integers(1, 4)
)
def test_any_bytes_after_a_good_row(data: bytes, gzipped: bool, columns: list[str], count: int) -> None:
    data, columns = GOOD + data, columns[:count]
    with tempfile.TemporaryDirectory() as folder:
        assert read(Path(folder), data, gzipped, columns) == outcome(data, 1 << 26, columns)


@given(
    st.lists(st.sampled_from(ODD), max_size=40).map(b"".join), st.booleans(), st.integers(1, 40), st.integers(15, 60)
)
def test_any_bytes_in_small_blocks(data: bytes, gzipped: bool, block: int, longest: int) -> None:
    data = GOOD + data
    with tempfile.TemporaryDirectory() as folder, small_steps(block, longest):
        assert read(Path(folder), data, gzipped) == outcome(data, longest)


@given(st.data())
def test_a_table_with_a_few_bytes_changed(data: st.DataObject) -> None:
    table = bytearray(b"".join(b"%04d|SAB%d|\xc3\xa4|N|\n" % (i, i % 7) for i in range(40)))
    for _ in range(data.draw(st.integers(0, 4))):
        table[data.draw(st.integers(20, len(table) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del table[data.draw(st.integers(20, len(table))) :]
    with tempfile.TemporaryDirectory() as folder, small_steps(data.draw(st.integers(20, 900)), 1 << 26):
        assert read(Path(folder), bytes(table), data.draw(st.booleans())) == outcome(bytes(table), 1 << 26)


@given(st.binary(max_size=60))
def test_any_bytes_at_all_never_crash(data: bytes) -> None:
    expected = outcome(data, 1 << 26)
    is_refused = expected is None or (isinstance(expected, tuple) and not expected[0] and bool(expected[1]))
    with tempfile.TemporaryDirectory() as folder:
        assert (read(Path(folder), data, gzipped=False) is None) == is_refused


@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(1, 30), st.integers(1, 25))
def test_blocks_are_the_stream_cut_at_line_ends(chunks: list[bytes], size: int, longest: int) -> None:
    stream = b"".join(chunks)
    with small_steps(1, longest):
        found = list(blocks(chunks, size))
    whole = [block for block in found if not block.long_line]
    assert all(block.data.endswith(b"\n") for block in whole)
    lines = iter(stream.split(b"\n"))
    for block in found:
        for line in block.data.split(b"\n")[:-1]:
            assert next(lines) == line
        if block.long_line:
            assert next(lines).startswith(block.long_start)
            assert block.long_line > longest
    assert list(lines) == ([] if found and found[-1].is_cut else [b""])
    assert sum(block.long_line or len(block.data) - block.is_cut for block in found) == len(stream)
    assert [block.is_cut for block in found] == [False] * (len(found) - 1) + [stream[-1:] not in (b"", b"\n")] * bool(
        found
    )


@given(
    st.lists(st.sampled_from([b"a", b"|", b"||", b"\n", b"|\n", b"\r", b"|\r\n", b"a|b|\n"]), max_size=30).map(b"".join)
)
def test_rows_are_proven_if_and_only_if_all_are_right(data: bytes) -> None:
    data += b"\n"
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
    are_right = all(line.count(b"|") == 2 and line.endswith(b"|") for line in lines)
    with small_steps(1, 1 << 26):
        assert proven_rows(data, 2) == (len(lines) if are_right else None)


def long_table(folder: Path, end: bytes) -> Path:
    """A table with a line of 100 MB between two rows."""
    path = folder / "MRRANK.RRF"
    with path.open("wb") as stream:
        stream.write(GOOD)
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write(end)
    return path


def test_a_line_of_100_mb_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = long_table(tmp_path, b"|\n" + GOOD)
    log = IngestLog()
    tracemalloc.start()
    try:
        frame = RrfRelease(tmp_path, log, needs="MRRANK").read("MRRANK", ["SAB"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frame.rows() == [("MTH", 1), ("MTH", 3)]
    shown = repr("x" * 80)
    assert log.first_defect == {"MRRANK: line longer than 64 MiB": f"{path}, line 2: {shown}"}
    assert peak < 150e6


def test_a_line_of_100_mb_without_an_end_is_a_truncated_file(tmp_path: Path) -> None:
    long_table(tmp_path, b"")
    with pytest.raises(
        InputError, match=r"MRRANK.RRF, line 2: truncated: the last line has no end after 100000000 bytes"
    ):
        RrfRelease(tmp_path, IngestLog(), needs="MRRANK").read("MRRANK", ["SAB"])


def test_a_long_line_is_one_however_it_is_packed(tmp_path: Path) -> None:
    data = GOOD + b"x" * 3000 + b"|N|\n" + GOOD
    results = []
    for longest in (2900, 3002, 3003, 3100):
        for block in (10, 1000, 10_000):
            for gzipped in (False, True):
                folder = tmp_path / f"{longest}-{block}-{gzipped}"
                folder.mkdir()
                with small_steps(block, longest):
                    assert read(folder, data, gzipped) == outcome(data, longest)
                results.append(longest)
    assert len(results) == 24


def test_no_block_of_an_empty_stream() -> None:
    assert list(blocks([])) == []
    assert list(blocks([b"", b""])) == []
    assert list(blocks([b"a"])) == [Block(b"a\n", is_cut=True)]


def read_and_verify(folder: Path) -> None:
    release = RrfRelease(folder, IngestLog())
    for _ in release.batches("MRREL", ["CUI1"]):
        pass
    release.verify()


def test_a_table_that_is_cut_anywhere_is_found_out(tmp_path: Path) -> None:
    folder = tiny_rrf().describe().write(tmp_path)
    read_and_verify(folder)
    path = folder / "MRREL.RRF"
    data = path.read_bytes()
    for end in [*range(1, len(data) - 1, 13), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(InputError):  # a row that is cut, or fewer rows or bytes than MRFILES says
            read_and_verify(folder)
