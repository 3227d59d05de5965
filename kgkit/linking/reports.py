"""Report files in: what `kgkit link` reads."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgkit.errors import InputError, choices
from kgkit.sources.json_records import HALF_CHARACTER

ID_COLUMNS = ("report_id", "study_id", "uid", "id")
TEXT_COLUMNS = ("text", "report")
SECTION_COLUMNS = ("indication", "history", "technique", "comparison", "findings", "impression")
UTF_8, MIXED = "utf-8", "mixed"
_USUAL_ENCODINGS = (UTF_8, MIXED, "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be")
_SECOND_TRY = "cp1252"
_EXPECTED = "expected reports as .jsonl, .csv, .txt or a folder of .txt files"
_MAX_FIELD = 2**31 - 1
"""Characters of one CSV field; the library's own limit of 131,072 would refuse long reports."""
_LETTERS_OF_UTF_16 = 8
_SIGNS_OF_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Report:
    """A report as read: its id and its text, which may be empty."""

    report_id: str
    text: str


def read_reports(path: Path, encoding: str = UTF_8) -> list[Report]:
    """Read reports.

    Args:
        path: A `.jsonl` file (report_id, text), a `.csv` file (an id column of ID_COLUMNS and a column of
            TEXT_COLUMNS or any of SECTION_COLUMNS, joined as "FINDINGS: ... IMPRESSION: ..."), a `.txt` file,
            or a folder of `.txt` files whose ids are their paths without the ending.
        encoding: Of the files, by any name that Python knows; `mixed`: UTF-8, but a line that is not is cp1252.

    Raises:
        InputError: naming the file, the row and what was expected.
    """
    encoding = _known_encoding(encoding)
    if not path.exists():
        raise InputError(f"no such file or folder; {_EXPECTED}", path)
    rows: Iterator[tuple[Report, int]]
    if path.is_dir():
        found = [(file, str(file.relative_to(path).with_suffix("").as_posix())) for file in sorted(path.rglob("*.txt"))]
        if not found:
            raise InputError("no .txt file in this folder", path)
        rows = ((Report(report_id, _read_text(file, encoding)), 1) for file, report_id in found)
    elif path.suffix == ".txt":
        rows = iter([(Report(path.stem, _read_text(path, encoding)), 1)])
    elif path.suffix == ".jsonl":
        rows = _read_jsonl(path, encoding)
    elif path.suffix == ".csv":
        rows = _read_csv(path, encoding)
    else:
        raise InputError(f"ending {path.suffix!r}; {_EXPECTED}", path)
    reports, seen = [], dict[str, int]()
    for report, line in rows:
        if report.report_id in seen:
            first = seen[report.report_id]
            raise InputError(
                f"report id {report.report_id!r} stands on line {first} already; ids must differ", path, line
            )
        seen[report.report_id] = line
        reports.append(report)
    if not reports:
        raise InputError("no report in this file", path)
    return reports


def join_sections(sections: Mapping[str, str | None]) -> str:
    """One text of several sections, each under its heading; empty ones are left out.

    >>> join_sections({"findings": "Clear lungs.", "impression": None})
    'FINDINGS: Clear lungs.'
    """
    return "\n".join(f"{name.upper()}: {text.strip()}" for name, text in sections.items() if text and text.strip())


def _known_encoding(encoding: str) -> str:
    """The encoding by Python's own name for it.

    Raises:
        InputError: if there is none of that name, or it is one of something else than text (base64).
    """
    try:
        if encoding != MIXED and isinstance("\n".encode(encoding), bytes):
            return codecs.lookup(encoding).name
    except (LookupError, UnicodeError):
        encoding = encoding.strip()
    if encoding != MIXED:
        raise InputError(f"unknown encoding {encoding!r}; {choices(encoding, _USUAL_ENCODINGS)}")
    return MIXED


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, line ends kept; a byte that does not fit is reported with its line."""
    try:
        with path.open("rb") as stream:
            if encoding == MIXED or "\n".encode(encoding) == b"\n":
                for number, raw in enumerate(stream, start=1):
                    yield number, _decoded(raw, encoding, path, number)
            else:  # UTF-16 and the like: a line's end is no single byte
                yield from enumerate(_decoded_whole(stream.read(), encoding, path), start=1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error


def _decoded(raw: bytes, encoding: str, path: Path, line: int) -> str:
    if line == 1 and encoding in (UTF_8, MIXED):
        if raw.startswith(_SIGNS_OF_UTF_16):
            raise InputError("begins as UTF-16 does, expected UTF-8; read it with --encoding utf-16", path, line)
        raw = raw.removeprefix(codecs.BOM_UTF8)
        if len(raw) >= _LETTERS_OF_UTF_16 and 3 * raw.count(b"\0") > len(raw):
            problem = "full of NUL bytes, as UTF-16 is; read it with --encoding utf-16-le or utf-16-be"
            raise InputError(problem, path, line)
    try:
        return raw.decode(UTF_8 if encoding == MIXED else encoding)
    except UnicodeDecodeError as error:
        if encoding == MIXED:
            return _decoded(raw, _SECOND_TRY, path, line)
        hint = ""
        if encoding == UTF_8:
            hint = f"; read it with --encoding {_SECOND_TRY}, or {MIXED} where only some lines are not UTF-8"
        expected = f"expected {encoding.upper() if encoding == UTF_8 else encoding}{hint}"
        problem = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}, {expected}"
        raise InputError(problem, path, line) from error


def _decoded_whole(data: bytes, encoding: str, path: Path) -> list[str]:
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise InputError(f"byte 0x{data[error.start]:02x} ({error.reason}), expected {encoding}", path, line) from error
    *lines, last = text.split("\n")
    return [line + "\n" for line in lines] + ([last] if last else [])


def _read_text(path: Path, encoding: str) -> str:
    return "".join(line for _, line in _lines(path, encoding))


def _read_jsonl(path: Path, encoding: str) -> Iterator[tuple[Report, int]]:
    for number, line in _lines(path, encoding):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON ({error.msg} at column {error.colno})", path, number) from error
        except (RecursionError, ValueError) as error:  # too many brackets, or a number of more than 4,300 digits
            raise InputError(f"not JSON ({error})", path, number) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError("expected an object with report_id and text (a string)", path, number)
        report_id = record.get("report_id")
        if not isinstance(report_id, str | int) or isinstance(report_id, bool) or report_id == "":
            raise InputError(f"report_id is {report_id!r}, expected a string or a number", path, number)
        if HALF_CHARACTER.search(f"{report_id}{record['text']}"):
            raise InputError("holds half a character (a lone \\ud800..\\udfff)", path, number)
        yield Report(str(report_id), record["text"]), number


def _read_csv(path: Path, encoding: str) -> Iterator[tuple[Report, int]]:
    limit = csv.field_size_limit(_MAX_FIELD)
    reader = csv.DictReader((line for _, line in _lines(path, encoding)), strict=True)
    try:
        columns = {name.strip().casefold(): name for name in reader.fieldnames or () if name}
        id_column, texts = _csv_columns(columns, path)
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise InputError(f"expected {len(columns)} fields as in the header", path, line)
            report_id = row[id_column].strip()
            if not report_id:
                raise InputError(f"column {id_column!r} is empty", path, line)
            whole = next((name for name in TEXT_COLUMNS if name in texts), None)
            sections = {name: row[column] for name, column in texts.items()}
            yield Report(report_id, sections[whole] if whole else join_sections(sections)), line
    except csv.Error as error:
        raise InputError(f"not readable as CSV ({error})", path, reader.line_num) from error
    finally:
        csv.field_size_limit(limit)


def _csv_columns(columns: Mapping[str, str], path: Path) -> tuple[str, dict[str, str]]:
    """The id column, and the text columns by their lower-case name."""
    found = ", ".join(columns.values()) or "none"
    id_column = next((columns[name] for name in ID_COLUMNS if name in columns), None)
    if id_column is None:
        raise InputError(f"no id column ({', '.join(ID_COLUMNS)}); columns found: {found}", path, 1)
    texts = {name: columns[name] for name in (*TEXT_COLUMNS, *SECTION_COLUMNS) if name in columns}
    if not texts:
        wanted = ", ".join((*TEXT_COLUMNS, *SECTION_COLUMNS))
        raise InputError(f"no text column ({wanted}); columns found: {found}", path, 1)
    return id_column, texts
