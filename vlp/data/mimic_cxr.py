"""MIMIC-CXR-JPG with the reports of MIMIC-CXR (Johnson et al. 2019).

As shipped: `mimic-cxr-2.0.0-metadata.csv.gz`, `-split.csv.gz`, `-chexpert.csv.gz`, `-negbio.csv.gz` (any 2.x release,
gzipped or not), films under `files/p10/p10000032/s50414267/<dicom_id>.jpg` (or `.dcm`), and reports as
`files/p10/p10000032/s50414267.txt` in the same tree, in a folder of its own, or still in `mimic-cxr-reports.zip`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kgkit.interface import InputError
from vlp.data.chexpert import LABELS
from vlp.data.collect import StudyCollector
from vlp.data.report_sections import split_report
from vlp.data.source import ReadOptions, Row, SourceData, existing_file, first_file, read_rows, require_folder, view_of
from vlp.types import ImageRef, Study

LICENCE = "MIMIC-CXR: PhysioNet Credentialed Health Data Licence, no redistribution, not to online services"
LABEL_TABLES = ("chexpert", "negbio", "test-set-labeled")
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_RENAMED = {"Airspace Opacity": "Lung Opacity"}
_ZIP = "mimic-cxr-reports.zip"


def read_mimic_cxr(source: Path, options: ReadOptions) -> SourceData:
    """Read MIMIC-CXR-JPG, whole or in part, with its official split and reports where they are.

    Raises:
        InputError: if the tables are not there or a row is not in the published form.
    """
    require_folder(source)
    metadata = _table(source, "metadata")
    if metadata is None:
        raise InputError("not MIMIC-CXR-JPG: expected mimic-cxr-2.0.0-metadata.csv.gz", source)
    collector = StudyCollector()
    splits = _official_split(source)
    labels = _labels(source, options.labels, collector)
    report = _report_reader(source, options.reports)
    root = options.images or source
    notes = []
    texts: dict[str, tuple[str, str]] = {}
    guessed = 0
    for row in read_rows(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition"), options.where):
        subject, study_id, dicom = (_number(row, name) for name in ("subject_id", "study_id", "dicom_id"))
        if splits and dicom not in splits:
            collector.skip(dicom, "not in the split table")
            continue
        if study_id not in texts:
            text = report(subject, study_id)
            sections = split_report(text or "")
            texts[study_id] = (sections.findings, sections.impression)
            guessed += sections.is_guessed
        projection = row.get("ViewPosition")
        path = _film(root, subject, study_id, dicom)
        if path is None:
            collector.skip(f"{dicom}.jpg", "no such image file")
        films = () if path is None else (ImageRef(path, view_of(projection), projection),)
        study = Study(study_id, subject, *texts[study_id], (), labels.get(study_id, {}))
        collector.add(replace(study, split=splits.get(dicom)), films)
    if guessed:
        notes.append(f"{guessed} reports have neither findings nor impression: their last paragraph was taken")
    if not splits:
        notes.append("no split table: patients are divided by a hash")
    return SourceData(
        "mimic-cxr", metadata.name, "chexpert", LICENCE, root, collector.finish(), tuple(collector.skipped),
        tuple(notes),
    )  # fmt: skip


def _table(source: Path, kind: str) -> Path | None:
    return first_file(source, f"mimic-cxr-*-{kind}.csv.gz", f"mimic-cxr-*-{kind}.csv")


def _number(row: Row, column: str) -> str:
    """An id that becomes part of a path: letters, digits, hyphens."""
    value = row.need(column)
    if not value.replace("-", "").isalnum():
        raise row.wrong(column, "letters, digits and hyphens")
    return value


def _official_split(source: Path) -> dict[str, str]:
    """Dicom id -> part."""
    path = _table(source, "split")
    splits = {}
    for row in () if path is None else read_rows(path, ("dicom_id", "study_id", "subject_id", "split")):
        if row.get("split") not in _SPLITS:
            raise row.wrong("split", ", ".join(_SPLITS))
        splits[row.need("dicom_id")] = _SPLITS[row.get("split")]
    return splits


def _labels(source: Path, wanted: str | None, collector: StudyCollector) -> dict[str, dict[str, int]]:
    """Study id -> its labels; an empty cell of a labelled study counts as 0 (not named)."""
    if wanted is not None and wanted not in LABEL_TABLES:
        raise InputError(f"no label table {wanted!r}; choices: {', '.join(LABEL_TABLES)}")
    path = _table(source, wanted or LABEL_TABLES[0]) or (_table(source, "negbio") if wanted is None else None)
    if path is None:
        if wanted is not None:
            raise InputError(f"no table mimic-cxr-2.0.0-{wanted}.csv.gz", source)
        return {}
    found: dict[str, dict[str, int]] = {}
    unknown: set[str] = set()
    for row in read_rows(path, ("study_id",)):
        names = {column: _RENAMED.get(column, column) for column in row.values}
        unknown |= {column for column, name in names.items() if name not in (*LABELS, "subject_id", "study_id")}
        found[row.need("study_id")] = {name: row.label(column) or 0 for column, name in names.items() if name in LABELS}
    for column in sorted(unknown):
        collector.skip(f"{path.name}: {column}", "unknown label column")
    return found


def _film(root: Path, subject: str, study: str, dicom: str) -> Path | None:
    folder = Path(f"p{subject[:2]}", f"p{subject}", f"s{study}")
    names = (f"{dicom}{suffix}" for suffix in (".jpg", ".dcm", ".png"))
    return existing_file(top / folder / name for name in names for top in (root / "files", root))


def _report_reader(source: Path, given: Path | None) -> Callable[[str, str], str | None]:
    """A function from (subject, study) to the report's text, or None where there is none."""
    places = [given] if given is not None else [source, source / "reports", source / _ZIP]
    if given is not None and not given.exists():
        raise InputError("no such folder or .zip of reports", given)
    archives = [(path, _open_zip(path)) for path in places if path.is_file()]
    folders = [path / top for path in places if path.is_dir() for top in ("files", ".")]

    def read(subject: str, study: str) -> str | None:
        name = f"p{subject[:2]}/p{subject}/s{study}.txt"
        path = existing_file(folder / name for folder in folders)
        if path is not None:
            return path.read_text(encoding="utf-8", errors="replace")
        for zipped, archive in archives:
            for member in (f"files/{name}", name):
                try:
                    return archive.read(member).decode("utf-8", errors="replace")
                except KeyError:
                    continue
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                    raise InputError(f"damaged at {member} ({error})", zipped) from error
        return None

    return read


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"not a readable zip ({error})", path) from error
