"""Opening the files of ontologies: plain or gzipped, with progress, and errors that name the file."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from kgkit.errors import InputError
from kgkit.progress import ProgressReporter, progress
from kgkit.sources.base import IngestLog
from kgkit.sources.json_records import HALF_CHARACTER

_KB = 1024
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class _Watched:
    """A binary stream that tells a progress reporter how much of it has been read."""

    def __init__(self, stream: IO[bytes], reporter: ProgressReporter) -> None:
        self._stream = stream
        self._reporter = reporter
        self._left_over = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        blocks, self._left_over = divmod(self._left_over + len(data), _KB)
        self._reporter.advance(blocks)
        return data


class _Gunzip(gzip.GzipFile):
    """A gzip stream that remembers its damage: parsers may hide what happened in a read behind their own error."""

    damage: Exception | None = None

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.damage = error
            raise


@contextmanager
def open_source(path: Path, expected: str) -> Iterator[IO[bytes]]:
    """Open a plain or gzipped file (told apart by content) for one reading from start to end.

    Args:
        path: The file.
        expected: What it should hold, for messages.

    Raises:
        InputError: if it is missing, a folder or empty, or its gzip stream is damaged.
    """
    if not path.is_file():
        raise InputError(f"{'this is a folder' if path.is_dir() else 'no such file'}; expected {expected}", path)
    size = path.stat().st_size
    if not size:
        raise InputError(f"the file is empty; expected {expected}", path)
    with path.open("rb") as file, progress(f"reading {path.name}", -(-size // _KB), "kB") as reporter:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = cast("IO[bytes]", _Watched(file, reporter))
        if is_gzip:
            stream = cast("IO[bytes]", _Gunzip(fileobj=stream))
        try:
            yield stream
        except Exception:
            damage = getattr(stream, "damage", None)
            if damage is not None:
                raise InputError(f"damaged gzip stream ({damage})", path) from damage
            raise


def read_text(path: Path, expected: str) -> str:
    """The whole text of a plain or gzipped UTF-8 file, without a byte order mark.

    Raises:
        InputError: as `open_source`, or naming the line that is not UTF-8.
    """
    with open_source(path, expected) as stream:
        data = stream.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 ({error.reason}: byte 0x{data[error.start]:02x}); expected {expected}"
        raise InputError(problem, path, line) from error


def parse_json(text: str, path: Path, expected: str) -> Any:
    """The content of a JSON text.

    Raises:
        InputError: naming the line that is not JSON; if a text holds half a surrogate pair.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not readable as JSON ({error.msg}); expected {expected}", path, error.lineno) from error
    except (RecursionError, ValueError) as error:  # too many brackets, or a number of more than 4,300 digits
        raise InputError(f"not readable as JSON ({error}); expected {expected}", path) from error
    if _ESCAPED_HALF.search(text) and HALF_CHARACTER.search(json.dumps(content, ensure_ascii=False)):
        raise InputError("holds half a character (a lone \\ud800..\\udfff)", path)
    return content


def text_of(value: Any) -> str:
    """A value of a JSON file that must be a text.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def table_rows(
    lines: Sequence[str], columns: Sequence[str], delimiter: str, place: tuple[Path, int], kind: str, log: IngestLog
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a TSV or CSV as (line number, column -> field); blank lines are passed over.

    Args:
        lines: The lines after the header, without their ends.
        columns: Names of the columns.
        delimiter: Tab or comma.
        place: The file, and the line number of the header.
        kind: What a row is, for the log; a row with another number of fields is a defect.
        log: Where such rows are counted.

    Raises:
        InputError: naming the line where a CSV is no table.
    """
    path, header = place
    for number, fields in _tab_fields(lines, header) if delimiter == "\t" else _comma_fields(lines, path, header):
        if len(fields) == len(columns):
            yield number, dict(zip(columns, fields, strict=True))
        elif fields:
            reason = "row with another number of columns than the header"
            log.defect(kind, reason, (path, number), delimiter.join(fields)[:60])


def _tab_fields(lines: Sequence[str], header: int) -> Iterator[tuple[int, list[str]]]:
    """A line is a row, whatever its quotes are: a lone one is a character, and never joins lines."""
    for number, line in enumerate(lines, start=header + 1):
        fields = line.split("\t") if line else []
        if '"' in line:
            with suppress(csv.Error):
                fields = next(csv.reader([line], delimiter="\t", strict=True))
        yield number, fields


def _comma_fields(lines: Sequence[str], path: Path, header: int) -> Iterator[tuple[int, list[str]]]:
    """Rows by RFC 4180: a field in quotes may hold commas and line ends."""
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    before = 0
    try:
        for fields in reader:
            number, before = header + before + 1, reader.line_num
            yield number, fields
    except csv.Error as error:
        problem = f"not readable as CSV ({error}); the row that begins here has a lone quote?"
        raise InputError(problem, path, header + before + 1) from error
