"""Reading Rich Release Format tables as the UMLS Reference Manual describes them.

Columns are separated and ended by `|`, there is no header, no quoting and no escape, lines end at LF (a subset
made on Windows has CRLF), text is UTF-8.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import polars as pl

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog

COLUMNS = {
    "MRCONSO": "CUI LAT TS LUI STT SUI ISPREF AUI SAUI SCUI SDUI SAB TTY CODE STR SRL SUPPRESS CVF",
    "MRREL": "CUI1 AUI1 STYPE1 REL CUI2 AUI2 STYPE2 RELA RUI SRUI SAB SL RG DIR SUPPRESS CVF",
    "MRDEF": "CUI AUI ATUI SATUI SAB DEF SUPPRESS CVF",
    "MRSTY": "CUI TUI STN STY ATUI CVF",
    "MRRANK": "RANK SAB TTY SUPPRESS",
    "MRDOC": "DOCKEY VALUE TYPE EXPL",
    "MRSAB": "VCUI RCUI VSAB RSAB SON SF SVER VSTART VEND IMETA RMETA SLC SCC SRL TFR CFR CXTY TTYL ATNL LAT "
    "CENC CURVER SABIN SSN SCIT",
}
"""Column names of each table, in file order."""


class RrfFolder:
    """A META folder with plain or gzipped tables.

    Args:
        path: The folder; `META` inside it is found too.
        log: Where rows and files are counted.

    Raises:
        InputError: if the path is missing, no RRF table is in it, or tables of two releases are.
    """

    def __init__(self, path: Path, log: IngestLog) -> None:
        if not path.exists():
            raise InputError("no such folder; expected the META folder of a UMLS release", path)
        if not path.is_dir():
            raise InputError("this is a file; expected a folder with MRCONSO.RRF and its kin", path)
        self._log = log
        found = sorted(path.rglob("*.RRF")) + sorted(path.rglob("*.RRF.gz"))
        self._paths: dict[str, Path] = {}
        for file in found:
            first = self._paths.setdefault(file.name.removesuffix(".gz").removesuffix(".RRF"), file)
            if first.parent != file.parent:
                raise InputError(f"two tables named {file.name}, in {first.parent} and {file.parent}; give one", path)
        if "MRCONSO" not in self._paths:
            content = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
            raise InputError(f"no MRCONSO.RRF or MRCONSO.RRF.gz here (found: {content})", path)

    def has(self, table: str) -> bool:
        """Is the table present?"""
        return table in self._paths

    def read(self, table: str) -> pl.DataFrame:
        """All rows of a table, every column a string, the empty string for an empty field.

        Raises:
            InputError: naming the file and line of the first row with a wrong number of columns, bad UTF-8 or a
                damaged gzip stream.
        """
        names = COLUMNS[table].split()
        path = self._paths[table]
        self._log.files.append(path)
        lines = _lines(path)
        self._log.rows_read[table] += len(lines)
        separators = lines.str.count_matches("|", literal=True)
        wrong = (separators != len(names)) | ~lines.str.ends_with("|")
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            count = int(separators[row])
            shown = lines[row][:60]
            problem = f"{table} row with {count} column ends, expected {len(names)} (truncated?): {shown!r}"
            raise InputError(problem, path, row + 1)
        fields = lines.str.split_exact("|", len(names)).struct.rename_fields([*names, "_"])
        return fields.struct.unnest().drop("_")


def _lines(path: Path) -> pl.Series:
    """The lines of a plain or gzipped file, without their ends; polars splits at LF only when told how."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"damaged gzip stream ({error})", path) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"not UTF-8 ({error.reason}: byte 0x{data[error.start]:02x})", path, line) from error
    if not text:
        return pl.Series("line", [], dtype=pl.String)
    return pl.Series("line", text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
