"""Reading Rich Release Format tables as the UMLS Reference Manual describes them.

Columns are separated and ended by `|`, there is no header, no quoting and no escape, lines end at LF (a subset
made on Windows has CRLF), text is UTF-8. A table is read in batches, so that one of 6 GB needs no more memory than
one of 60 MB.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kgkit.errors import InputError, choices
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf_files import TableFile, find_tables
from kgkit.sources.rrf_rows import (
    BLOCK_BYTES,
    TOO_LONG,
    WRONG_COLUMNS,
    Block,
    Rows,
    blocks,
    parse,
    proven_rows,
    shown_start,
)

COLUMNS = {
    "MRCONSO": "CUI LAT TS LUI STT SUI ISPREF AUI SAUI SCUI SDUI SAB TTY CODE STR SRL SUPPRESS CVF",
    "MRREL": "CUI1 AUI1 STYPE1 REL CUI2 AUI2 STYPE2 RELA RUI SRUI SAB SL RG DIR SUPPRESS CVF",
    "MRDEF": "CUI AUI ATUI SATUI SAB DEF SUPPRESS CVF",
    "MRSTY": "CUI TUI STN STY ATUI CVF",
    "MRRANK": "RANK SAB TTY SUPPRESS",
    "MRDOC": "DOCKEY VALUE TYPE EXPL",
    "MRSAB": "VCUI RCUI VSAB RSAB SON SF SVER VSTART VEND IMETA RMETA SLC SCC SRL TFR CFR CXTY TTYL ATNL LAT "
    "CENC CURVER SABIN SSN SCIT",
    "MRCUI": "CUI1 VER REL RELA MAPREASON CUI2 MAPIN",
    "MRFILES": "FIL DES FMT CLS RWS BTS",
    "MRSAT": "CUI LUI SUI METAUI STYPE CODE ATUI SATUI ATN SAB ATV SUPPRESS CVF",
    "MRHIER": "CUI AUI CXN PAUI SAB RELA PTR HCD CVF",
    "SRDEF": "RT UI STY_RL STN_RTN DEF EX UN NH ABR RIN",
    "SRSTR": "ARG1 RL ARG2 LS",
}
"""Column names of each table, in file order. SRDEF and SRSTR, of the Semantic Network, are files without `.RRF`."""

BATCH_BYTES = 1 << 26
"""Text of the frames that `RrfRelease.batches` yields."""

_RELEASE = re.compile(r"(?<![0-9A-Za-z])((?:19|20)\d\dA[A-C])(?![0-9A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class _Totals:
    """What was read of a whole table, before any row was left out."""

    rows: int
    size: int
    carriage_returns: int

    def sizes(self) -> tuple[int, int, int]:
        """Bytes as they are, with LF and with CRLF at every line end: a copy between systems converts them."""
        with_lf = self.size - self.carriage_returns
        return self.size, with_lf, with_lf + self.rows


class RrfRelease:
    """The tables of a UMLS release, or of any files in its format, however they are packed.

    Args:
        path: A META folder or one above it, plain, gzipped or in pieces; a `metathesaurus-full`, `full` or `mrconso`
            zip; a folder of `.nlm` files; or one table, for the folder it is in.
        log: Where rows, files, defects and checks go.
        needs: A table without which there is no point.

    Attributes:
        release: Name of the release (`2026AA`), if the path or an archive tells it.

    Raises:
        InputError: if the path is missing or no release, a table is there twice, or `needs` is not there.
    """

    release: str | None

    def __init__(self, path: Path, log: IngestLog, needs: str = "MRCONSO") -> None:
        self._path = path
        self._log = log
        self._totals: dict[str, _Totals] = {}
        with ExitStack() as opened:
            self._tables = find_tables(path, COLUMNS, opened, log.checks)
            if needs not in self._tables:
                here = [item.name for item in path.iterdir()] if path.is_dir() else map(table_file, self._tables)
                found = ", ".join(sorted(here)[:5]) or "nothing"
                raise InputError(f"no {table_file(needs)} or {table_file(needs)}.gz here (found: {found})", path)
            # Archives stay open as long as this object lives.
            self._opened = opened.pop_all()
            self.close = weakref.finalize(self, self._opened.close)
        releases = _RELEASE.findall(str(self.place(needs).absolute()))
        self.release = releases[-1].upper() if releases else None

    def has(self, table: str) -> bool:
        """Is the table there?"""
        return table in self._tables

    def place(self, table: str) -> Path:
        """What to name in errors about a table: its file, or `archive!member`."""
        return self._table(table).place

    def read(self, table: str, columns: Sequence[str]) -> pl.DataFrame:
        """All rows of a small table; see `batches`."""
        schema = dict.fromkeys(columns, pl.String) | {"line": pl.UInt32}
        return pl.concat([pl.DataFrame(schema=schema), *self.batches(table, columns)])

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The rows of a table, about 64 MiB of text at a time; rows that are malformed are counted and left out.

        Args:
            table: A table that is there.
            columns: Columns to keep, of COLUMNS[table].

        Yields:
            Frames of strings (an empty field is the empty string), and `line` (uint32, from 1): the line number in
            the table.

        Raises:
            InputError: if the table is truncated, damaged or another table.
        """
        names = COLUMNS[table].split()
        source = self._table(table)
        log = IngestLog() if table in self._totals else self._log  # what is read again is not counted again
        self._log.files += [file for file in source.files if file not in self._log.files]
        log.rows_read[table] = 0
        lines = size = carriage_returns = text = 0
        frames: list[pl.DataFrame] = []
        for block, proven in _ahead(source, len(names)):
            if block.long_line:
                self._count_long_line(table, block, lines + 1, log)
                lines += 1
            else:
                rows = parse(block.data, names, columns, proven)
                self._count_wrong(table, block, rows, lines, log)
                frames.append(rows.frame.with_columns(pl.col("line") + (lines + 1)))
                lines += rows.count
            log.rows_read[table] = lines
            size += block.long_line or len(block.data) - block.is_cut
            carriage_returns += block.data.count(b"\r\n") if b"\r" in block.data else 0
            text += len(block.data)
            if text >= BATCH_BYTES:
                yield pl.concat(frames)
                frames, text = [], 0
        if frames:
            yield pl.concat(frames)
        self._totals[table] = _Totals(lines, size, carriage_returns)

    def verify(self, required: bool = True) -> None:
        """Compare what was read with MRFILES: rows and bytes of every table that was read to its end.

        Args:
            required: A difference is an error; else it is noted in the log.

        Raises:
            InputError: naming the table and both numbers, or what is wrong with MRFILES.
        """
        totals = {table: totals for table, totals in self._totals.items() if table != "MRFILES"}
        if not self.has("MRFILES"):
            self._log.checks.append("not verified: no MRFILES")
            return
        try:
            rows = self.read("MRFILES", ["FIL", "RWS", "BTS"]).select("FIL", "RWS", "BTS").iter_rows()
        except InputError as error:
            if required:
                raise
            self._log.checks.append(f"not verified: {error}")
            return
        stated = {file.removesuffix(".RRF"): (_number(lines), _number(size)) for file, lines, size in rows}
        for table, found in totals.items():
            self._compare(table, found, stated.get(table), required)
        absent = sorted(stated.keys() & COLUMNS.keys() - self._tables.keys())
        if absent:
            self._log.checks.append(f"in MRFILES but not here: {', '.join(absent)}")

    def _compare(self, table: str, found: _Totals, stated: tuple[int, int] | None, required: bool) -> None:
        name = table_file(table)
        if stated is None:
            self._log.checks.append(f"{name}: not verified, MRFILES does not name it")
        elif found.rows == stated[0] and stated[1] in found.sizes():
            self._log.checks.append(f"{name}: {found.rows:,} rows, {found.size:,} bytes as MRFILES says")
        else:
            kind = 0 if found.rows != stated[0] else 1
            unit = ("rows", "bytes")[kind]
            problem = f"{name}: {(found.rows, found.size)[kind]} {unit}, MRFILES says {stated[kind]}"
            if required:
                raise InputError(f"{problem}; the release is damaged or was edited", self.place(table))
            self._log.checks.append(problem)

    def _table(self, table: str) -> TableFile:
        if table not in self._tables:
            raise InputError(f"no table {table} here; {choices(table, self._tables)}", self._path)
        return self._tables[table]

    def _count_long_line(self, table: str, block: Block, line: int, log: IngestLog) -> None:
        shown = shown_start(block.long_start)
        if block.is_cut:
            problem = f"truncated: the last line has no end after {block.long_line} bytes: {shown!r}"
            raise InputError(problem, self.place(table), line)
        log.defect(table, TOO_LONG, (self.place(table), line), shown)

    def _count_wrong(self, table: str, block: Block, rows: Rows, lines: int, log: IngestLog) -> None:
        """Count the wrong rows of a block, which begins after `lines` lines.

        Raises:
            InputError: if the table ends within a row, or no row of its first block is one.
        """
        expected = f"expected {len(COLUMNS[table].split())}, each ended by |"
        if block.is_cut and rows.last_is_uneven:
            row = block.data[block.data.rfind(b"\n", 0, -1) + 1 : -1]
            problem = f"truncated: the last row has {row.count(b'|')} columns, {expected}: {shown_start(row)!r}"
            raise InputError(problem, self.place(table), lines + rows.count)
        if lines == 0 and rows.wrong and rows.frame.is_empty():
            first = rows.wrong[0]
            found = f"{first.bars} columns, {expected}" if first.reason == WRONG_COLUMNS else first.reason
            raise InputError(f"not a {table} table: {found}: {first.shown!r}", self.place(table), first.first + 1)
        for wrong in rows.wrong:
            place = (self.place(table), lines + wrong.first + 1)
            log.defect(table, wrong.reason, place, wrong.shown, wrong.count)


def table_file(table: str) -> str:
    """File name of a table: those of the Semantic Network have no suffix."""
    return table if table.startswith("SR") else f"{table}.RRF"


def _number(text: str) -> int:
    """A count of MRFILES; -1, which no table has, for what is no number."""
    return int(text) if text.isascii() and text.isdigit() else -1


def _ahead(source: TableFile, columns: int) -> Iterator[tuple[Block, int | None]]:
    """The blocks of a table and the proofs of their rows; a thread prepares the next while one is used."""
    prepared = ((block, proven_rows(block.data, columns)) for block in blocks(source.chunks(), BLOCK_BYTES))
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, prepared, None)
        while (current := coming.result()) is not None:
            coming = thread.submit(next, prepared, None)
            yield current
