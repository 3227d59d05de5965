"""Records of JSON files of any size, one at a time: the members of one object, the items of one array, JSON Lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any, cast

import ijson

from kgkit.errors import InputError

_BLOCK = 1 << 16
_LINE_BLOCK = 1 << 20
_MAX_DEPTH = 256
"""Open brackets within one record; the parser keeps the path to each of them, which grows with their square."""
_BOM = b"\xef\xbb\xbf"
_LONE_HIGH_HALF = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")
_ESCAPE_BYTES = 6
_HALF = "half a character (a lone \\ud800..\\udfff)"
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: JSON can write it, but no file and no RDF can hold it."""


def stream_records(stream: IO[bytes], place: object) -> Iterator[tuple[str | None, Any]]:
    """Members (name, value) of the object, or items (None, value) of the array, that a JSON file holds.

    Args:
        stream: The file from its start.
        place: What to call it in errors.

    Raises:
        InputError: if it is not JSON, with the place; if it holds neither an object nor an array.
    """
    watched = _Watched(stream, place)
    opening = watched.opening_bracket()
    if opening not in (b"{", b"["):
        raise InputError("expected an object or a list of reports at the top", place)
    source = cast("IO[bytes]", watched)
    done = 0
    try:
        if opening == b"{":
            found = ijson.kvitems(source, "", use_float=True, buf_size=_BLOCK)
        else:
            found = ((None, item) for item in ijson.items(source, "item", use_float=True, buf_size=_BLOCK))
        for record in found:
            watched.depth = 0
            done += 1
            yield record
    except (ijson.JSONError, UnicodeDecodeError) as error:
        broken = _HALF if isinstance(error, UnicodeDecodeError) else _first_line(error)
        where = f"in the {_BLOCK >> 10} KiB up to byte {watched.position:,}, after {done:,} whole records"
        raise InputError(f"not readable as JSON ({broken}; {where})", place) from error


def _first_line(error: Exception) -> str:
    """The parser's message without the place in the text, which it shows below; it may be written as bytes."""
    return str(error).removeprefix("b'").replace("\\n", "\n").split("\n")[0]


def numbered_lines(stream: IO[bytes], place: object) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file with their 1-based number, line ends kept, a byte order mark left out.

    Raises:
        InputError: naming the line that is not UTF-8.
    """
    for number, raw in enumerate(_byte_lines(stream), start=1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problem = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}, expected UTF-8"
            raise InputError(problem, place, number) from error


def json_lines(stream: IO[bytes], place: object) -> Iterator[tuple[int, Any]]:
    """Values of a JSON Lines file with the number of their line; blank lines are left out.

    Raises:
        InputError: naming the line that is not JSON.
    """
    for number, line in numbered_lines(stream, place):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"not readable as JSON ({error.msg} at column {error.colno})", place, number) from error
        except RecursionError as error:
            raise InputError("not readable as JSON (nested too deeply)", place, number) from error
        except ValueError as error:  # a number of more than 4,300 digits
            raise InputError(f"not readable as JSON ({error})", place, number) from error


def _byte_lines(stream: IO[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    while block := stream.read(_LINE_BLOCK):
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield b"".join([*pieces, line, b"\n"])
            pieces = []
        pieces.append(rest)
    if last := b"".join(pieces):
        yield last


class _Watched:
    """A stream that refuses what the parser would read wrongly (half characters) or drown in (depth)."""

    def __init__(self, stream: IO[bytes], place: object) -> None:
        self._stream = stream
        self._place = place
        self._seen = b""
        self._unread = b""
        self.position = 0
        self.depth = 0

    def opening_bracket(self) -> bytes:
        """First byte that is no blank; a byte order mark is passed over. Nothing else counts as read."""
        self._unread = self._stream.read(_BLOCK).removeprefix(_BOM)
        return self._unread.lstrip()[:1]

    def read(self, size: int = -1) -> bytes:
        if size == 0:  # asked once, to learn whether this is text or bytes
            return b""
        data, self._unread = self._unread or self._stream.read(size), b""
        self.position += len(data)
        self.depth += data.count(b"{") + data.count(b"[") - data.count(b"}") - data.count(b"]")
        if self.depth > _MAX_DEPTH:
            raise InputError(f"more than {_MAX_DEPTH} open brackets up to byte {self.position:,}", self._place)
        self._refuse_half_characters(data)
        return data

    def _refuse_half_characters(self, data: bytes) -> None:
        """The parser writes "?" for the first half of a pair that lacks the second, and says nothing."""
        text = self._seen + data
        # A second half may stand in the next block, and will be looked at with it.
        end = len(text) - _ESCAPE_BYTES if data else len(text)
        if b"\\u" in text and any(found.end(1) <= end for found in _LONE_HIGH_HALF.finditer(text)):
            raise InputError(f"{_HALF} in the {_BLOCK >> 10} KiB up to byte {self.position:,}", self._place)
        kept = max(0, len(text) - 2 * _ESCAPE_BYTES)
        backslashes = kept - len(text[:kept].rstrip(b"\\"))
        self._seen = text[kept - backslashes % 2 :]  # an even number of backslashes stands for themselves
