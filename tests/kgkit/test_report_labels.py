"""Tables of CheXpert labels: joined by name, nothing invented, nothing lost in silence."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog
from kgkit.sources.report_labels import read_report_labels
from kgkit.types import Certainty, Mention, MentionKind, ReportMentions

CONCEPTS = {
    "No Finding": "finding:normal",
    "Enlarged Cardiomediastinum": "HP:0034501",
    "Cardiomegaly": "umls:C0018800",
    "Lung Lesion": "finding:lung_lesion",
    "Lung Opacity": "HP:0031457",
    "Edema": "umls:C0034063",
    "Consolidation": "HP:0032177",
    "Pneumonia": "umls:C0032285",
    "Atelectasis": "umls:C0004144",
    "Pneumothorax": "umls:C0032326",
    "Pleural Effusion": "umls:C0032227",
    "Pleural Other": "finding:pleural_other",
    "Fracture": "HP:0020110",
    "Support Devices": "finding:support_devices",
}
"""In the order of the CheXpert labeler."""
LABELS = list(CONCEPTS)
CHEXBERT = [*LABELS[1:3], "Lung Opacity", "Lung Lesion", *LABELS[5:], "No Finding"]
VALUES = {"1.0": Certainty.PRESENT, "1": Certainty.PRESENT, "0.0": Certainty.ABSENT, "0": Certainty.ABSENT,
          "-1.0": Certainty.UNCERTAIN, "-1": Certainty.UNCERTAIN, "": None, " ": None}  # fmt: skip


def table(*rows: list[str]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode()


def read(
    content: bytes, folder: Path, name: str = "labels.csv", *, strict: bool = False, id_column: str | None = None
) -> tuple[list[ReportMentions], IngestLog]:
    (folder / name).write_bytes(content)
    log = IngestLog(strict=strict)
    return list(read_report_labels(folder / name, log, id_column=id_column).reports), log


def said(report: ReportMentions) -> dict[str | None, str]:
    return {mention.concept: str(mention.certainty) for mention in report.mentions}


ROWS = st.lists(st.fixed_dictionaries({label: st.sampled_from(sorted(VALUES)) for label in LABELS}), max_size=3)


@given(ROWS, st.permutations(LABELS), st.permutations(LABELS))
@settings(max_examples=40)
def test_columns_are_joined_by_name(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], one: list[str], other: list[str]
) -> None:
    """The order of columns changes nothing, and the labels are what a plain reading gives."""
    folder = tmp_path_factory.mktemp("labels")
    found = []
    for order in (one, other):
        lines = [[f"s{number}", *(row[label] for label in order)] for number, row in enumerate(rows)]
        found.append(read(table(["study_id", *order], *lines), folder)[0])
    assert found[0] == found[1]
    assert [report.report_id for report in found[0]] == [f"s{number}" for number in range(len(rows))]
    for report, row in zip(found[0], rows, strict=True):
        expected = {CONCEPTS[label]: VALUES[value] for label, value in row.items()}
        assert said(report) == {concept: value for concept, value in expected.items() if value is not None}


def test_a_label_is_an_observation_without_a_span(tmp_path: Path) -> None:
    ((report,), log) = read(table(["study_id", "Edema"], ["50414267", "-1.0"]), tmp_path)
    mention = Mention("", 0, 0, MentionKind.OBSERVATION, Certainty.UNCERTAIN, concept="umls:C0034063")
    assert report == ReportMentions("50414267", "", (mention,))
    assert ReportMentions.from_json(report.to_json()) == report
    assert log.rows_read == {"rows": 1, "labels": 1}
    assert not log.skipped


def test_the_tables_of_every_labeler(tmp_path: Path) -> None:
    """MIMIC-CXR-JPG (gzipped, ids first), CheXbert (text first, "No Finding" last), the CheXpert labeler, CheXpert."""
    values = {"No Finding": "1.0", "Lung Lesion": "0.0", "Lung Opacity": "-1.0"}

    def row(order: list[str]) -> list[str]:
        return [values.get(label, "") for label in order]

    mimic = gzip.compress(
        table(["subject_id", "study_id", *sorted(LABELS)], ["10000032", "50414267", *row(sorted(LABELS))])
    )
    chexbert = table(["Report Impression", *CHEXBERT], ["no acute\nprocess.", *row(CHEXBERT)])
    labeler = table(["Reports", *LABELS], ["no acute\nprocess.", *row(LABELS)])
    chexpert = table(["Path", "Sex", "Age", *LABELS], ["train/p1/s1/view1.jpg", "Female", "68", *row(LABELS)])
    expected = {"finding:normal": "present", "finding:lung_lesion": "absent", "HP:0031457": "uncertain"}
    for name, content, report_id, text in (
        ("mimic-cxr-2.0.0-chexpert.csv.gz", mimic, "50414267", ""),
        ("labeled_reports.csv", chexbert, "1", "no acute\nprocess."),
        ("labeled.csv", labeler, "1", "no acute\nprocess."),
        ("train.csv", chexpert, "train/p1/s1/view1.jpg", ""),
    ):
        ((report,), log) = read(content, tmp_path, name)
        assert (report.report_id, report.text, said(report)) == (report_id, text, expected), name
    assert log.skipped == {"columns: no label: 'Sex'": 1, "columns: no label: 'Age'": 1}
    assert (
        read_report_labels(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", IngestLog()).name == "mimic-cxr-2.0.0-chexpert"
    )


@pytest.mark.parametrize(
    ("header", "id_column", "expected"),
    [
        (["study_id", "subject_id", "Edema"], None, "a"),
        (["subject_id", "Study_ID", "Edema"], None, "b"),
        (["accession", "name", "Edema"], None, "a"),
        (["subject_id", "name", "Edema"], None, "1"),
        (["Edema", "Pneumonia", "Fracture"], None, "1"),
        (["Report Impression", "name", "Edema"], None, "1"),
        (["study_id", "Name", "Edema"], "name", "b"),
    ],
)
def test_which_column_names_a_report(tmp_path: Path, header: list[str], id_column: str | None, expected: str) -> None:
    values = ["a", "b", "1"] if "Pneumonia" not in header else ["1", "0", "1"]
    ((report,), _) = read(table(header, values), tmp_path, id_column=id_column)
    assert report.report_id == expected


def test_the_former_name_of_a_label(tmp_path: Path) -> None:
    ((report,), _) = read(table(["study_id", "Airspace Opacity"], ["1", "1"]), tmp_path)
    assert said(report) == {"HP:0031457": "present"}


def test_wrong_rows_and_values_are_counted_with_their_line(tmp_path: Path) -> None:
    rows = (
        ["1", "1", "2"],
        ["2", "yes"],
        ["3", "nan", "0"],
        ["", "1", "1"],
        ["5", "1", "", "1"],
        ["6", "0", ""],
        ["6", "0", ""],
    )
    content = table(["study_id", "Edema", "Fracture"], *rows)
    reports, log = read(content, tmp_path)
    assert [(report.report_id, said(report)) for report in reports] == [
        ("1", {"umls:C0034063": "present"}),
        ("3", {"HP:0020110": "absent"}),
        ("6", {"umls:C0034063": "absent"}),
    ]
    assert log.skipped == {
        "labels: not 1, 0, -1 or blank": 2,
        "rows: not 3 fields, as the header has": 2,
        "rows: no study_id": 1,
        "reports: same report twice": 1,
    }
    assert log.rows_read["rows"] == 7
    assert log.first_defect["labels: not 1, 0, -1 or blank"] == f"{tmp_path / 'labels.csv'}, line 2: 'Fracture 2'"
    with pytest.raises(InputError, match=r"labels\.csv, line 2: labels: not 1, 0, -1 or blank: 'Fracture 2'"):
        read(content, tmp_path, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"study_id,Edma\n1,1\n", "line 1: no column of a CheXpert label (No Finding, "),
        (b"study_id,Edema,edema \n1,1,0\n", "line 1: two columns are called 'edema'"),
        (b"study_id,Edema\n1,1\n1,0\n", "line 3: two different reports share the id '1'"),
        (b'study_id,Edema\n1,"1\n', "line 2: not readable as CSV (unexpected end of data)"),
        (b'study_id,Edema\n1,"1"x\n', "line 2: not readable as CSV ("),
        (b"study_id,Edema\n1,\xff\n", "line 2: byte 0xff at column 3, expected UTF-8"),
        (b"study_id,Edema\n1," + b"x" * 200_000, "line 2: not readable as CSV (field larger than field limit"),
        (b"\x1f\x8bbroken", "damaged gzip stream ("),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(content, tmp_path)
    assert str(error.value).replace(", line", ": line").startswith(f"{tmp_path / 'labels.csv'}: {message}")


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such file; expected a table"):
        read_report_labels(tmp_path / "none.csv", IngestLog())
    with pytest.raises(InputError, match="no column 'studyid'; did you mean 'study_id'"):
        read(table(["study_id", "Edema"], ["1", "1"]), tmp_path, id_column="studyid")


@given(st.binary(max_size=60) | st.text(alphabet='1,"\n\r\x00é-.', max_size=40).map(str.encode), st.booleans())
@settings(max_examples=150)
def test_no_bytes_get_past(tmp_path_factory: pytest.TempPathFactory, content: bytes, has_header: bool) -> None:
    data: Any = (b"study_id,Edema\n" if has_header else b"") + content
    try:
        reports, log = read(data, tmp_path_factory.mktemp("labels"))
    except InputError:
        return
    assert log.rows_read["rows"] == len(reports) + sum(
        count for reason, count in log.skipped.items() if reason.startswith(("rows", "reports"))
    )
