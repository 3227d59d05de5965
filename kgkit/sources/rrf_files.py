"""Where the tables of a UMLS release lie: in a folder, in a zip, in pieces, in `.nlm` archives; read as streams.

How a release is packed: `<REL>-metathesaurus-full.zip` holds `<REL>/META/*.RRF`; `<REL>-full.zip` and its unpacked
folder hold `.nlm` files, which are zips of `<REL>/META/MRCONSO.RRF.aa.gz`, `.ab.gz` and so on. Nothing is ever
written to a path that an archive names.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from kgkit.errors import InputError

CHUNK = 1 << 18
"""Bytes read at a time."""

INFLATE_STEP = 1 << 14
"""Compressed bytes inflated at a time: deflate expands them 1,032-fold at most, so to 16 MiB."""

BOMB_RATIO = 200
BOMB_SIZE = 1 << 28
"""What expands more than this many times is refused beyond this size (bytes); RRF tables expand 5- to 20-fold."""

_PIECE = re.compile(r"(?P<table>[A-Z0-9_]+\.RRF|SRDEF|SRSTR)(?:\.(?P<part>(?!gz)[a-z]{2}))?(?:\.gz)?")
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError,
               NotImplementedError, OverflowError, lzma.LZMAError)  # fmt: skip
"""What Python's zip reader raises on archives that are damaged, encrypted or made in a way it does not know."""


@dataclass(frozen=True)
class Piece:
    """A table, or one of the pieces it is cut into.

    Attributes:
        name: Base name (`MRCONSO.RRF.aa.gz`).
        home: The folder it lies in; for members of archives, `archive!folder`.
        place: What to name in errors.
        file: The file on disk that holds it.
        chunks: Opens it; yields its bytes as they are stored (a `.gz` stays compressed).
    """

    name: str
    home: str
    place: Path
    file: Path
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class TableFile:
    """One table: the stream of its pieces, in order."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def place(self) -> Path:
        """What to name in errors: the file, `archive!member`, or the first and last piece."""
        first, last = self.pieces[0], self.pieces[-1]
        return first.place if first is last else first.place.with_name(f"{first.name} ... {last.name}")

    @property
    def files(self) -> list[Path]:
        """The files on disk that hold it."""
        return list(dict.fromkeys(piece.file for piece in self.pieces))

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the table, decompressed.

        Raises:
            InputError: if a file or archive cannot be read, is damaged or expands beyond all reason.
        """
        stored = (chunk for piece in self.pieces for chunk in piece.chunks())
        return inflated(stored, self.place) if self.pieces[0].name.endswith(".gz") else stored


def find_tables(path: Path, known: Collection[str], opened: ExitStack, notes: list[str]) -> dict[str, TableFile]:
    """The tables below a folder or in an archive, by base name without `.RRF`.

    Args:
        path: A folder (tables and `.nlm` files are found at any depth), a zip or `.nlm`, or one table of a folder.
        known: Tables to look for; others, such as word indexes, are passed over.
        opened: Takes over what has to stay open (archives, spooled archives).
        notes: Gets a line for each archive that had to be spooled.

    Raises:
        InputError: if nothing readable is there, or a table is there twice or incomplete.
    """
    if path.is_dir():
        pieces = [piece for file in sorted(path.rglob("*")) for piece in _in_file(file, opened)]
    elif not path.exists():
        raise InputError("no such file or folder; expected a META folder or zip of a UMLS release", path)
    elif _PIECE.fullmatch(path.name):
        pieces = [piece for file in sorted(path.parent.iterdir()) for piece in _in_file(file, opened)]
    elif zipfile.is_zipfile(path):
        pieces = list(_in_archive(path, path, str(path), opened, notes))
    else:
        expected = "a META folder, a zip or .nlm of a UMLS release, or an RRF table"
        raise InputError(f"neither a zip (or a damaged one) nor an RRF table; expected {expected}", path)
    tables: dict[str, list[Piece]] = {}
    for piece in pieces:
        match = _PIECE.fullmatch(piece.name)
        assert match
        table = match["table"].removesuffix(".RRF")
        if table in known:
            tables.setdefault(table, []).append(piece)
    return {table: TableFile(table, _in_order(table, found, path)) for table, found in tables.items()}


def _in_order(table: str, pieces: list[Piece], path: Path) -> tuple[Piece, ...]:
    """The pieces of one table, in the order of their names, if they are one table."""
    pieces = sorted(pieces, key=lambda piece: piece.name)
    first = pieces[0]
    for piece in pieces[1:]:
        if piece.home != first.home or piece.name == first.name:
            raise InputError(f"two tables {table}, {first.place} and {piece.place}; give one of them", path)
    parts = [match["part"] for piece in pieces if (match := _PIECE.fullmatch(piece.name))]
    if parts == [None]:
        return tuple(pieces)
    if None in parts or len(set(parts)) < len(parts) or len({piece.name.endswith(".gz") for piece in pieces}) == 2:
        names = " and ".join(piece.name for piece in pieces[:3])
        raise InputError(f"{names} lie side by side; leave one table {table}", first.place.parent)
    letters = "abcdefghijklmnopqrstuvwxyz"
    expected = [one + two for one in letters for two in letters][: len(parts)]
    if parts != expected:
        missing = next(part for part, found in zip(expected, parts, strict=True) if part != found)
        raise InputError(f"piece {missing!r} of {table} is missing ({', '.join(parts)} are here)", first.place.parent)
    return tuple(pieces)


def _in_file(file: Path, opened: ExitStack) -> Iterator[Piece]:
    """The tables in a file of a folder: itself, or the members of an `.nlm`."""
    if not file.is_file():
        return
    if _PIECE.fullmatch(file.name):
        yield Piece(file.name, str(file.parent), file, file, partial(_file_chunks, file))
    elif file.suffix == ".nlm":
        yield from _in_archive(file, file, str(file.parent), opened, [])


def _file_chunks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file) from error


def _in_archive(
    archive_file: Path | BinaryIO, file: Path, home: str, opened: ExitStack, notes: list[str], shown: str = ""
) -> Iterator[Piece]:
    """The tables in a zip, and in the `.nlm` archives that it holds.

    Args:
        archive_file: The archive: a path, or a stream for an archive within an archive.
        file: The file on disk.
        home: What the folders within it belong to; `.nlm` archives side by side share it.
        opened: Takes over the archive.
        notes: Gets a line for each archive that had to be spooled.
        shown: What to name in errors, the path if empty.
    """
    shown = shown or str(file)
    try:
        archive = opened.enter_context(zipfile.ZipFile(archive_file))
    except _UNREADABLE as error:
        raise InputError(f"damaged zip ({error})", shown) from error
    for member in archive.infolist():
        path = member.filename.replace("\\", "/")
        *folders, name = path.split("/")
        if path.startswith("/") or ".." in folders:
            raise InputError(f"member {path!r} points out of the archive, refused: no release of NLM has such", shown)
        place = Path(f"{shown}!{path}")
        inner = "/".join(folders)
        if _PIECE.fullmatch(name):
            chunks = partial(_member_chunks, archive, member, place)
            yield Piece(name, f"{home}!{inner}", place, file, chunks)
        elif name.endswith(".nlm") and archive_file is file:
            nested = _stored(file, member, opened) or _spooled(archive, member, place, opened, notes)
            yield from _in_archive(nested, file, f"{home}!{inner}", opened, notes, str(place))


def _member_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> Iterator[bytes]:
    if member.file_size > max(BOMB_SIZE, BOMB_RATIO * member.compress_size):
        raise InputError(_bomb(member.file_size, member.compress_size), place)
    size = 0
    try:
        with archive.open(member) as stream:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
                yield chunk
    except _UNREADABLE as error:
        raise InputError(f"damaged or unreadable in the zip ({error})", place) from error
    if size != member.file_size:
        raise InputError(f"damaged in the zip: {size} bytes, its directory says {member.file_size}", place)


def _bomb(size: int, compressed: int) -> str:
    return f"{compressed} bytes that expand to {size} or more, over {BOMB_RATIO}-fold: refused as a zip bomb"


class _Window(io.RawIOBase):
    """A part of a file as a seekable stream: an archive that lies uncompressed in another."""

    def __init__(self, file: Path, start: int, size: int) -> None:
        self._stream = file.open("rb", buffering=0)
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        self._stream.seek(self._start + self._at)
        count = self._stream.readinto(memoryview(buffer)[: max(0, self._size - self._at)]) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _stored(file: Path, member: zipfile.ZipInfo, opened: ExitStack) -> BinaryIO | None:
    """The bytes of a member that is stored as it is; None for a compressed or encrypted one."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        return None
    try:
        with file.open("rb") as stream:
            stream.seek(member.header_offset)
            header = stream.read(30)
    except _UNREADABLE as error:
        raise InputError(f"damaged zip (no place for {member.filename!r}: {error})", file) from error
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise InputError(f"damaged zip (no member at the place of {member.filename!r})", file)
    name_size, extra_size = struct.unpack("<26x2H", header)
    window = _Window(file, member.header_offset + 30 + name_size + extra_size, member.file_size)
    return opened.enter_context(io.BufferedReader(window))


def _spooled(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path, opened: ExitStack, notes: list[str]
) -> BinaryIO:
    """A compressed archive within an archive, inflated to an unnamed temporary file: a zip is read from its end."""
    spool = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # `opened` closes it
    chunks = _member_chunks(archive, member, place)
    try:
        for chunk in chunks:
            spool.write(chunk)
    except OSError as error:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        raise InputError(f"no room to inflate it in {tempfile.gettempdir()} ({free} bytes free)", place) from error
    notes.append(f"{member.filename}: compressed in its zip, spooled to a temporary file ({member.file_size:,} bytes)")
    return spool


def inflated(stored: Iterable[bytes], place: Path) -> Iterator[bytes]:
    """The content of a gzip stream of any number of members, wherever its chunks are cut.

    Args:
        stored: The compressed bytes.
        place: What to name in errors.

    Raises:
        InputError: if the stream is damaged, cut, or expands beyond all reason.
    """
    decoder = zlib.decompressobj(wbits=31)
    taken = given = 0
    is_fresh = True
    for chunk in stored:
        for start in range(0, len(chunk), INFLATE_STEP):
            data = chunk[start : start + INFLATE_STEP]
            taken += len(data)
            while data:
                if is_fresh and taken > len(data) and not (data := data.lstrip(b"\0")):
                    break  # zeros that fill up the last block of a tape or disk
                is_fresh = False
                try:
                    text = decoder.decompress(data)
                except zlib.error as error:
                    raise InputError(f"damaged gzip stream ({error})", place) from error
                data = decoder.unused_data
                if decoder.eof:
                    decoder, is_fresh = zlib.decompressobj(wbits=31), True
                given += len(text)
                if given > max(BOMB_SIZE, BOMB_RATIO * taken):
                    raise InputError(_bomb(given, taken), place)
                if text:
                    yield text
    if not is_fresh or not taken:
        raise InputError("damaged gzip stream (it ends too early)", place)
