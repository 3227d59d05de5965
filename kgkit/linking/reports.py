"""Report files in, mention files out: what `kgkit link` reads and writes."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgkit.errors import InputError
from kgkit.linking.linker import Linker
from kgkit.progress import progress
from kgkit.sources.json_records import json_lines, numbered_lines
from kgkit.sources.mentions import parse_report
from kgkit.types import Certainty, ReportMentions

ID_COLUMNS = ("report_id", "study_id", "uid", "id")
TEXT_COLUMNS = ("text", "report")
SECTION_COLUMNS = ("indication", "history", "technique", "comparison", "findings", "impression")
_EXPECTED = "expected reports as .jsonl, .csv, .txt or a folder of .txt files"


@dataclass(frozen=True, slots=True)
class Report:
    """A report as read: its id and its text, which may be empty."""

    report_id: str
    text: str


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """What `link_reports` wrote.

    Attributes:
        num_reports: Lines written, one per report.
        num_without_mentions: Reports in which nothing was found.
        num_mentions: Mentions in all.
        num_linked: Mentions with a concept.
        by_certainty: Certainty -> mentions, all three keys always there.
        num_concepts: Different concepts mentioned.
    """

    num_reports: int
    num_without_mentions: int
    num_mentions: int
    num_linked: int
    by_certainty: Mapping[str, int]
    num_concepts: int


def read_reports(path: Path) -> list[Report]:
    """Read reports.

    Args:
        path: A `.jsonl` file (report_id, text), a `.csv` file (an id column of ID_COLUMNS and a column of
            TEXT_COLUMNS or any of SECTION_COLUMNS, joined as "FINDINGS: ... IMPRESSION: ..."), a `.txt` file,
            or a folder of `.txt` files whose ids are their paths without the ending. UTF-8.

    Raises:
        InputError: naming the file, the row and what was expected.
    """
    if not path.exists():
        raise InputError(
            "no such file or folder; expected reports as .jsonl, .csv, .txt or a folder of .txt files", path
        )
    rows: Iterator[tuple[Report, int]]
    if path.is_dir():
        found = [(file, str(file.relative_to(path).with_suffix("").as_posix())) for file in sorted(path.rglob("*.txt"))]
        if not found:
            raise InputError("no .txt file in this folder", path)
        rows = iter([(Report(report_id, _read_text(file)), 1) for file, report_id in found])
    elif path.suffix == ".txt":
        rows = iter([(Report(path.stem, _read_text(path)), 1)])
    elif path.suffix == ".jsonl":
        rows = _read_jsonl(path)
    elif path.suffix == ".csv":
        rows = _read_csv(path)
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


def link_reports(linker: Linker, reports: Sequence[Report], out: Path) -> LinkSummary:
    """Link reports and write one JSON line each (ReportMentions.to_json), in the order given.

    The file appears whole or not at all.

    Raises:
        InputError: if `out` cannot be written.
    """
    if out.is_dir():
        raise InputError("is a folder; expected the name of a .jsonl file to write", out)
    certainty: Counter[str] = Counter()
    concepts: set[str] = set()
    empty = linked = 0
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary.open("w", encoding="utf-8", newline="\n") as stream,
            progress("linking", len(reports), "reports") as bar,
        ):
            for report in reports:
                found = linker.link(report.report_id, report.text)
                stream.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
                certainty.update(mention.certainty.value for mention in found.mentions)
                concepts.update(mention.concept for mention in found.mentions if mention.concept is not None)
                linked += sum(mention.concept is not None for mention in found.mentions)
                empty += not found.mentions
                bar.advance()
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"cannot write ({error.strerror})", out) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    counts = {value.value: certainty[value.value] for value in Certainty}
    return LinkSummary(len(reports), empty, certainty.total(), linked, counts, len(concepts))


def read_mentions(path: Path) -> Iterator[ReportMentions]:
    """Read a file that `link_reports` wrote, line by line.

    Raises:
        InputError: naming the line that is not a report with mentions.
    """
    try:
        with path.open("rb") as stream:
            for number, record in json_lines(stream, path):
                try:
                    yield parse_report(record)
                except ValueError as error:
                    raise InputError(str(error), path, number) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error


def join_sections(sections: Mapping[str, str | None]) -> str:
    """One text of several sections, each under its heading; empty ones are left out.

    >>> join_sections({"findings": "Clear lungs.", "impression": None})
    'FINDINGS: Clear lungs.'
    """
    return "\n".join(f"{name.upper()}: {text.strip()}" for name, text in sections.items() if text and text.strip())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, line ends kept; a bad byte is reported with its line."""
    try:
        with path.open("rb") as stream:
            yield from numbered_lines(stream, path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error


def _read_text(path: Path) -> str:
    return "".join(line for _, line in _lines(path))


def _read_jsonl(path: Path) -> Iterator[tuple[Report, int]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON ({error.msg} at column {error.colno})", path, number) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError("expected an object with report_id and text (a string)", path, number)
        report_id = record.get("report_id")
        if not isinstance(report_id, str | int) or isinstance(report_id, bool) or report_id == "":
            raise InputError(f"report_id is {report_id!r}, expected a string or a number", path, number)
        yield Report(str(report_id), record["text"]), number


def _read_csv(path: Path) -> Iterator[tuple[Report, int]]:
    reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
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
