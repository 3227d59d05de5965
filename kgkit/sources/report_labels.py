"""Tables of the 14 CheXpert labels (CheXpert labeler, CheXbert, NegBio, MIMIC-CXR-JPG) to mentions without a span.

Columns are joined by name: CheXbert writes them in another order than the CheXpert labeler (Irvin et al. 2019; Smit et
al. 2020). 1 is present, 0 absent, -1 uncertain, blank not mentioned, which is no mention at all.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from kgkit.errors import InputError, choices
from kgkit.findings import findings_by_label, load_findings
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.corpus import REPORT_LICENCE_LEVEL, Place, corpus_tables
from kgkit.sources.json_records import numbered_lines
from kgkit.sources.term_files import open_source
from kgkit.types import Certainty, Mention, MentionKind, ReportMentions

ID_COLUMNS = ("study_id", "report_id", "note_id", "path", "image", "uid", "id")
"""Columns that name a report, the first that is there is taken; upper or lower case does not matter."""
TEXT_COLUMNS = ("report impression", "reports", "report", "impression", "text")
"""Columns with the text that was labeled."""
_OTHER_COLUMNS = ("subject_id", "patient_id", "dicom_id")
"""Columns that do not name a report alone and are no labels."""
_FORMER_NAMES = MappingProxyType({"airspace opacity": "lung opacity"})
"""What a label was called in the first release of the labeler."""
_CERTAINTY = MappingProxyType({1.0: Certainty.PRESENT, 0.0: Certainty.ABSENT, -1.0: Certainty.UNCERTAIN})
_EXPECTED = "a table (.csv or .csv.gz) of CheXpert labels"


@dataclass(frozen=True)
class _Columns:
    """Positions of columns: of the id and the text (None: there is none), and of each finding by its concept."""

    id: int | None
    text: int | None
    findings: Mapping[str, int]


def read_report_labels(
    path: Path,
    log: IngestLog,
    corpus: str | None = None,
    release: str = "1",
    licence_level: int = REPORT_LICENCE_LEVEL,
    id_column: str | None = None,
) -> SourceTables:
    """Read a table of CheXpert labels.

    Each label becomes an observation without a span (start = end = 0, no text). Its concept is the finding's first one
    in `ontologies/findings.toml`, or `finding:<key>` where the finding has none; "No Finding" is `finding:normal`.
    The order of the columns changes nothing. Rows are read while `reports` of the result is iterated.

    A report is named by `id_column`; else by the first column of ID_COLUMNS that is there; else by the table's first
    column, unless that is a label, the text, or a patient; else by the number of the row, from 1.

    Args:
        path: The table, gzipped or not.
        log: Where rows, labels, and what is wrong with them are counted; columns that are not read are named there.
        corpus: Name of the corpus; the file's name if not given.
        release: Release of the corpus.
        licence_level: UMLS source restriction level of the corpus.
        id_column: Column that names the report.

    Raises:
        InputError: if the file or a needed column is missing; while iterating, if the table is not readable, or two
            rows that differ name the same report.
    """
    if not path.is_file():
        raise InputError(f"no such file; expected {_EXPECTED}", path)
    log.files.append(path)
    return corpus_tables(
        path, corpus, release, "Labels of the reports", licence_level, _read_rows(path, log, id_column), log
    )


def _read_rows(path: Path, log: IngestLog, id_column: str | None) -> Iterator[tuple[Place, ReportMentions]]:
    with open_source(path, _EXPECTED) as stream:
        rows = csv.reader((line for _, line in numbered_lines(stream, path)), strict=True)
        try:
            header = next(rows, [])
            columns = _find_columns(header, id_column, path, log)
            for number, row in enumerate(rows, start=1):
                if not row:  # a blank line
                    continue
                log.rows_read["rows"] += 1
                place = (path, rows.line_num)
                report_id = "" if columns.id is None or len(row) <= columns.id else row[columns.id].strip()
                if len(row) != len(header):
                    log.defect("rows", f"not {len(header)} fields, as the header has", place, f"{len(row)} fields")
                elif columns.id is not None and not report_id:
                    log.defect("rows", f"no {header[columns.id]}", place, "")
                else:
                    text = "" if columns.text is None else row[columns.text]
                    mentions = tuple(_mentions(row, header, columns, place, log))
                    yield place, ReportMentions(report_id or str(number), text, mentions)
        except csv.Error as error:
            raise InputError(f"not readable as CSV ({error})", path, rows.line_num) from error


def _mentions(
    row: Sequence[str], header: Sequence[str], columns: _Columns, place: Place, log: IngestLog
) -> Iterator[Mention]:
    for concept, position in columns.findings.items():
        value = row[position].strip()
        if not value:
            continue
        log.rows_read["labels"] += 1
        certainty = _certainty(value)
        if certainty is None:
            log.defect("labels", "not 1, 0, -1 or blank", place, f"{header[position].strip()} {value}")
        else:
            yield Mention("", 0, 0, MentionKind.OBSERVATION, certainty, concept=concept)


def _certainty(value: str) -> Certainty | None:
    try:
        return _CERTAINTY.get(float(value))
    except ValueError:
        return None


@cache
def _concepts() -> Mapping[str, str]:
    """Concept of each CheXpert label."""
    findings = findings_by_label(load_findings(), "chexpert")
    return {label: next(iter(each.concepts), f"finding:{each.key}") for label, each in findings.items()}


def _find_columns(header: Sequence[str], id_column: str | None, path: Path, log: IngestLog) -> _Columns:
    names = [name.strip().casefold() for name in header]
    names = [_FORMER_NAMES.get(name, name) for name in names]
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"two columns are called {repeated!r}", path, 1)
    concepts = _concepts()
    findings = {
        concept: names.index(label.casefold()) for label, concept in concepts.items() if label.casefold() in names
    }
    if not findings:
        found = ", ".join(header[:12]) or "none"
        raise InputError(f"no column of a CheXpert label ({', '.join(concepts)}); columns found: {found}", path, 1)
    text = next((names.index(name) for name in TEXT_COLUMNS if name in names), None)
    identity = _id_position(header, names, id_column, {text, *findings.values()}, path)
    used = {identity, text, *findings.values()}
    for position, name in enumerate(names):
        if position not in used and name not in (*ID_COLUMNS, *TEXT_COLUMNS, *_OTHER_COLUMNS):
            log.skip("columns", f"no label: {header[position].strip()!r}", 1)
    return _Columns(identity, text, findings)


def _id_position(
    header: Sequence[str], names: Sequence[str], id_column: str | None, taken: set[int | None], path: Path
) -> int | None:
    """Position of the column that names the report; None if the number of the row does."""
    if id_column is not None:
        wanted = id_column.strip().casefold()
        if wanted not in names:
            raise InputError(f"no column {id_column!r}; {choices(id_column, header)}", path, 1)
        return names.index(wanted)
    known = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    if known is None and 0 not in taken and names[0] not in _OTHER_COLUMNS:
        return 0
    return known
