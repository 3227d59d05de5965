"""A plain CSV: anyone's films, one on each line. Columns and an example are in docs/data.md.

`path` (from the table's folder) is all that is needed. Beside it: study_id, patient_id, view or projection, split, sex,
age, findings, impression or report, and `label:<finding>` with 1, 0, -1 (uncertain) or nothing (unknown).
"""

from __future__ import annotations

from pathlib import Path

from kgkit.interface import InputError, choices
from vlp.data.collect import StudyCollector
from vlp.data.labels import best_label_set, finding_of_label
from vlp.data.prepared import LABEL_PREFIX
from vlp.data.report_sections import split_report
from vlp.data.source import (
    SPLITS,
    ReadOptions,
    Row,
    SourceData,
    age_of,
    existing_file,
    first_file,
    read_rows,
    sex_of,
    view_of,
)
from vlp.types import ImageRef, Study, View

COLUMNS = (
    "path", "study_id", "patient_id", "view", "projection", "split", "sex", "age", "findings", "impression", "report",
    "licence",
)  # fmt: skip
_PARTS = (*SPLITS, "train+val", "")


def read_plain_csv(source: Path, options: ReadOptions) -> SourceData:
    """Read a CSV of films, or the one CSV of a folder.

    A film without a study id is a study of its own, a study without a patient id a patient of its own. Columns that are
    neither named above nor labels are not read, and named.

    Raises:
        InputError: if there is no such table, or a cell is not what it should be.
    """
    path = source if source.is_file() else _only_table(source)
    root = options.images or path.parent
    collector = StudyCollector()
    labels: tuple[str, ...] | None = None
    licences = set()
    has_text = has_views = False
    for row in read_rows(path, ("path",), options.where):
        if labels is None:
            labels = _label_columns(row, collector)
        film = existing_file([root / row.need("path")])
        if film is None:
            collector.skip(row.get("path"), "no such image file")
        elif not film.resolve().is_relative_to(root.resolve()):
            raise row.wrong("path", f"a file under {root}")
        study = _study(row, labels)
        if row.get("age") and study.age is None:
            collector.skip(row.get("path"), "age is not in years: taken as unknown")
        has_text = has_text or bool(study.findings or study.impression)
        licences.add(row.get("licence") or "not stated")
        projection = row.get("projection") or row.get("view")
        has_views = "projection" in row.values or "view" in row.values
        view = view_of(projection) if has_views else View.FRONTAL
        films = () if film is None else (ImageRef(film, view, projection),)
        collector.add(study, films)
    notes = [] if has_text else ["no reports: a set to test on or to finetune with"]
    if not has_views:
        notes.append("no column `view` or `projection`: every film was taken as frontal")
    kept = [name.removeprefix(LABEL_PREFIX) for name in labels or ()]
    licence = "; ".join(sorted(licences))
    return SourceData(
        "csv", path.name, best_label_set(kept), licence, root, collector.finish(), tuple(collector.skipped),
        tuple(notes), "en" if has_text else "",
    )  # fmt: skip


def _only_table(source: Path) -> Path:
    if not source.is_dir():
        raise InputError("no such file or folder", source)
    path = first_file(source, "films.csv", "*.csv")
    if path is None:
        raise InputError("no .csv file in this folder", source)
    if path.name != "films.csv" and len(list(source.glob("*.csv"))) > 1:
        names = ", ".join(sorted(file.name for file in source.glob("*.csv")))
        raise InputError(f"several tables ({names}): name the file", source)
    return path


def _label_columns(row: Row, collector: StudyCollector) -> tuple[str, ...]:
    """Columns that are labels of known findings; others are named once."""
    known: list[str] = []
    columns: dict[str, str] = {}
    for column in row.values:
        if column.startswith(LABEL_PREFIX):
            finding = finding_of_label(column.removeprefix(LABEL_PREFIX))
            if finding is not None:
                known.append(column)
                if columns.setdefault(finding.key, column) != column:
                    problem = f"columns {columns[finding.key]!r} and {column!r} are both of {finding.name}: keep one"
                    raise InputError(problem, row.path, 1)
            else:
                collector.skip(f"{row.path.name}: {column}", "unknown label column")
        elif column not in COLUMNS:
            hint = choices(column, COLUMNS)
            near = hint.split("?")[0] + "?" if hint.startswith("did you mean") else ""
            collector.skip(f"{row.path.name}: {column}{f' ({near})' if near else ''}", "column not read")
    return tuple(known)


def _study(row: Row, labels: tuple[str, ...]) -> Study:
    study_id = row.get("study_id") or Path(row.get("path")).with_suffix("").as_posix()
    split = row.get("split")
    if split not in _PARTS:
        raise row.wrong("split", f"{', '.join(SPLITS)} or nothing")
    findings, impression = row.get("findings"), row.get("impression")
    if not (findings or impression) and row.get("report"):
        sections = split_report(row.get("report"))
        findings, impression = sections.findings, sections.impression
    values = {column.removeprefix(LABEL_PREFIX): row.label(column) for column in labels}
    return Study(
        study_id, row.get("patient_id") or study_id, findings, impression, (),
        {name: value for name, value in values.items() if value is not None}, split or None,
        sex=sex_of(row.get("sex")), age=age_of(row.get("age")),
    )  # fmt: skip
