"""A plain CSV of films, splits given by hand, mentions from outside, sections of reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from graphs import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tiny_layouts import CSV_HEADER, film, read_table, save, write_csv, write_mimic, write_table

from kgkit.interface import InputError
from vlp.config import TargetConfig
from vlp.data.labels import best_label_set, findings_of_labels
from vlp.data.mention_input import read_mention_file
from vlp.data.plain_csv import read_plain_csv
from vlp.data.prepare import NO_REPORT, PrepareConfig, prepare
from vlp.data.prepared import load_data
from vlp.data.report_sections import section_names, split_report
from vlp.data.source import DEFAULTS
from vlp.data.splits import SplitOptions, split_patients
from vlp.data.targets import choose_concepts, report_states
from vlp.types import Study


def test_a_csv_of_paths_is_enough(tmp_path: Path) -> None:
    """A film without ids is a study and a patient of its own."""
    for name in ("a/1.png", "b/1.png"):
        save(tmp_path / name, film(len(name)))
    write_table(tmp_path / "films.csv", ("path",), [("a/1.png",), ("b/1.png",)])
    data = prepare(PrepareConfig("csv", tmp_path / "films.csv", None, tmp_path / "DATA"))
    assert data.films == 2
    assert data.notes == (
        "no reports: a set to test on or to finetune with",
        "no column `view` or `projection`: every film was taken as frontal",
    )
    table = load_data(tmp_path / "DATA")
    assert table.splits["patient_id"].to_list() == ["a/1", "b/1"]
    assert table.manifest["licence"] == "not stated"
    assert table.manifest["encoder_digest"] is None


def test_every_column_of_a_csv_arrives(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    write_csv(tmp_path / "SRC")
    prepare(PrepareConfig("csv", tmp_path / "SRC", tiny_encoder_dir, tmp_path / "DATA"))
    data = load_data(tmp_path / "DATA")
    row = data.studies.row(by_predicate=pl.col("study_id") == "s1", named=True)
    assert (row["patient_id"], row["sex"], row["age"]) == ("p0", "F", 61)
    assert (row["findings"], row["impression"]) == ("No pleural effusion.", "Normal chest.")
    assert (row["label:Cardiomegaly"], row["label:Pleural Effusion"]) == (0, 0)
    assert data.studies.filter(study_id="s0")["label:Pleural Effusion"].to_list() == [None]
    assert data.manifest["split_by"] == "the source's own"
    assert data.manifest["label_set"] == "chexpert"
    assert data.images.filter(study_id="s4")["view"].to_list() == ["lateral"]


def test_an_age_that_is_none_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_csv(tmp_path)
    header, first, *rows = read_table(tmp_path / "films.csv")
    age = header.index("age")
    write_table(tmp_path / "films.csv", header, [[*first[:age], "old", *first[age + 1 :]], *rows])
    data = read_plain_csv(tmp_path, DEFAULTS)
    assert data.skipped == ((first[header.index("path")], "age is not in years: taken as unknown"),)
    assert [study.age for study in data.studies if study.study_id == first[header.index("study_id")]] == [None]
    assert any(study.age is not None for study in data.studies)


def test_unknown_columns_are_named_with_a_guess(tmp_path: Path) -> None:
    write_csv(tmp_path)
    header, *rows = read_table(tmp_path / "films.csv")
    renamed = [{"patient_id": "patient", "label:Cardiomegaly": "label:Cardimegaly"}.get(name, name) for name in header]
    write_table(tmp_path / "films.csv", renamed, rows)
    data = read_plain_csv(tmp_path, DEFAULTS)
    assert data.skipped == (
        ("films.csv: patient (did you mean 'patient_id'?)", "column not read"),
        ("films.csv: label:Cardimegaly", "unknown label column"),
    )
    assert set(data.studies[1].labels) == {"Pleural Effusion"}


def test_two_columns_of_one_finding_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path)
    header, *rows = read_table(tmp_path / "films.csv")
    write_table(tmp_path / "films.csv", [*header, "label:Effusion"], [[*row, "0"] for row in rows])
    with pytest.raises(InputError, match=r"'label:Pleural Effusion' and 'label:Effusion' are both of .*: keep one"):
        read_plain_csv(tmp_path, DEFAULTS)


def test_several_tables_need_a_name(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_table(tmp_path / name, CSV_HEADER, [])
    with pytest.raises(InputError, match=r"several tables \(a\.csv, b\.csv\): name the file"):
        read_plain_csv(tmp_path, DEFAULTS)
    with pytest.raises(InputError, match=r"a\.csv: no rows"):
        read_plain_csv(tmp_path / "a.csv", DEFAULTS)
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.csv: empty file, expected a CSV table"):
        read_plain_csv(tmp_path / "a.csv", DEFAULTS)


def test_reports_without_an_encoder_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "SRC")
    with pytest.raises(InputError, match="to link the reports, give --kg-encoder ENCODER, or mentions with --mentions"):
        prepare(PrepareConfig("csv", tmp_path / "SRC", None, tmp_path / "DATA"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SRC"]


def test_labels_find_their_findings_in_any_data_sets_words() -> None:
    assert findings_of_labels(["Effusion", "Pleural Effusion"], "chexpert") == {"Pleural Effusion": "pleural_effusion"}
    assert findings_of_labels(["Effusion", "nonsense"], "chexpert") == {"Effusion": "pleural_effusion"}
    assert best_label_set(["Effusion", "Pleural_Thickening", "No Finding"]) == "nih"


# ---------------------------------------------------------------------------------------------------- parts


def patients(count: int, splits: str = "") -> list[Study]:
    names = {"t": "train", "v": "val", "x": "test", "d": "train+val"}
    fixed = [names.get(splits[number]) if number < len(splits) else None for number in range(count)]
    return [Study(f"s{n}", f"p{n // 2}", "", "", (), split=fixed[n]) for n in range(count)]


@given(st.integers(0, 5), st.floats(0, 0.5), st.floats(0, 0.4), st.integers(1, 300))
def test_patients_stay_whole_and_the_fractions_are_met(seed: int, val: float, test: float, count: int) -> None:
    options = SplitOptions(seed=seed, val_fraction=val, test_fraction=test)
    table, skipped = split_patients(patients(count), options, Path("SRC"))
    assert table["study_id"].to_list() == [f"s{number}" for number in range(count)]
    assert not skipped
    per_patient = table.group_by("patient_id").agg(pl.col("split").n_unique())
    assert per_patient["split"].max() == 1
    owners = table.unique("patient_id")
    for split, share in (("val", val), ("test", test)):
        found = (owners["split"] == split).mean()
        assert abs(float(found or 0) - share) <= 4 * (0.25 / len(owners)) ** 0.5 + 1e-9
    backwards, _ = split_patients(patients(count)[::-1], options, Path("SRC"))
    assert backwards.sort("study_id").equals(table.sort("study_id"))


def test_an_open_study_goes_where_its_patient_is() -> None:
    table, _ = split_patients(patients(40, "-x" * 20), SplitOptions(), Path("SRC"))
    assert set(table["split"]) == {"test"}
    table, _ = split_patients(patients(400, "d" * 400), SplitOptions(val_fraction=0.3), Path("SRC"))
    assert set(table["split"]) == {"train", "val"}


def test_a_list_by_hand_replaces_the_parts(tmp_path: Path) -> None:
    for column, names in (("study_id", ["s0", "s1", "s2", "s3"]), ("patient_id", ["p0", "p1"])):
        write_table(tmp_path / "list.csv", (column, "split"), [(name, "valid") for name in names])
        options = SplitOptions(split_file=tmp_path / "list.csv")
        table, skipped = split_patients(patients(6, "tttttt"), options, Path("SRC"))
        assert table["split"].to_list() == ["val"] * 4
        assert skipped == [("study s4", "not in list.csv"), ("study s5", "not in list.csv")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("s0", "dev")], r"list\.csv, line 2: split is 'dev', expected train, val, test"),
        ([("s0", "val"), ("s0", "test")], r"list\.csv, line 3: 's0' is in two splits, 'val' and 'test'"),
        ([("s0", "val"), ("s1", "test")], r"list\.csv: patient 'p0' is in two splits, 'val' and 'test'"),
        ([("", "val")], r"list\.csv, line 2: empty study_id"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, rows: list[tuple[str, str]], words: str) -> None:
    write_table(tmp_path / "list.csv", ("study_id", "split"), rows)
    with pytest.raises(InputError, match=words):
        split_patients(patients(4), SplitOptions(split_file=tmp_path / "list.csv"), Path("SRC"))


@pytest.mark.parametrize("part", [float("nan"), -0.1, 1.0, float("inf")])
def test_fractions_that_are_none_are_refused(part: float) -> None:
    for options in (SplitOptions(val_fraction=part, test_fraction=0), SplitOptions(0, 0.1, part)):
        with pytest.raises(InputError, match=r"validation and test take .* of the patients, expected less than 1"):
            split_patients([], options, Path("SRC"))


def test_fractions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="validation and test take 1 of the patients, expected less than 1"):
        split_patients([], SplitOptions(val_fraction=0.5, test_fraction=0.5), Path("SRC"))


# ---------------------------------------------------------------------------------------------------- mentions


def mention(text: str, report: str, **said: object) -> dict[str, object]:
    start = report.index(text)
    plain = {"kind": "observation", "certainty": "present", "concept": "umls:C0018800", "link_score": 0.9}
    return {"text": text, "start": start, "end": start + len(text)} | plain | said


big_heart = [{"text": "Big heart", "start": 0, "end": 9, "kind": "observation", "certainty": "present",
              "concept": "umls:C0018800", "link_score": 0.9}]  # fmt: skip
REPORT = "EXAM: Chest. FINDINGS: Big heart, maybe fluid. IMPRESSION: Cardiomegaly."


@pytest.fixture
def mentions_file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: object) -> Path:
        path = tmp_path / "mentions.jsonl"
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_mentions_of_a_language_model_supervise_in_place_of_the_linkers(
    tmp_path: Path, tiny_encoder_dir: Path, mentions_file: Callable[..., Path]
) -> None:
    """A bare minimum of fields; sections are found from the headings; the report of the file becomes the study's."""
    write_mimic(tmp_path / "SRC")
    said = [mention("Big heart", REPORT), mention("fluid", REPORT, certainty="uncertain", concept="umls:C0032227"),
            mention("Chest", REPORT, kind="anatomy", concept=None, link_score=None)]  # fmt: skip
    path = mentions_file({"report_id": "50000001", "text": REPORT, "mentions": said},
                         {"report_id": "50000002", "text": "Big heart.", "mentions": big_heart},
                         {"report_id": "elsewhere", "text": "", "mentions": []})  # fmt: skip
    config = PrepareConfig("mimic-cxr", tmp_path / "SRC", None, tmp_path / "DATA", mentions_file=path)
    summary = prepare(config)
    data = load_data(tmp_path / "DATA")
    assert data.mentions.select("study_id", "text", "section", "certainty", "concept").rows() == [
        ("50000001", "Big heart", "findings", "present", "umls:C0018800"),
        ("50000001", "fluid", "findings", "uncertain", "umls:C0032227"),
        ("50000001", "Chest", "exam", "present", None),
        ("50000002", "Big heart", "findings", "present", "umls:C0018800"),
    ]
    assert data.studies.filter(study_id="50000001")["text"].to_list() == [REPORT]
    assert summary.skipped == {"mentions of a study that is not here": 1, NO_REPORT: 1}
    assert data.manifest["mentions_from"] == "mentions.jsonl"


def test_radgraphs_paths_lead_to_studies_of_mimic(tmp_path: Path, mentions_file: Callable[..., Path]) -> None:
    write_mimic(tmp_path / "SRC")
    lines = [{"report_id": f"p10/p1000000{n}/s5000000{n}.txt", "text": "Big heart.", "mentions": big_heart}
             for n in (1, 2)]  # fmt: skip
    config = PrepareConfig("mimic-cxr", tmp_path / "SRC", None, tmp_path / "DATA", mentions_file=mentions_file(*lines))
    prepare(config)
    assert load_data(tmp_path / "DATA").mentions["study_id"].to_list() == ["50000001", "50000002"]
    mentions_file(*lines, lines[0] | {"report_id": "50000001"})
    with pytest.raises(InputError, match=r"reports 'p10/.*' and '50000001' of the mentions are both of study '500000"):
        prepare(config)


def test_given_mentions_become_targets(tmp_path: Path, mentions_file: Callable[..., Path]) -> None:
    from kgkit.interface import load_findings
    from vlp.knowledge import Knowledge

    write_mimic(tmp_path / "SRC")
    path = mentions_file(*({"report_id": f"5000000{n}", "text": "Big heart.", "mentions": big_heart}
                           for n in range(1, 6)))  # fmt: skip
    prepare(PrepareConfig("mimic-cxr", tmp_path / "SRC", None, tmp_path / "DATA", mentions_file=path))
    data = load_data(tmp_path / "DATA")

    class NoGraph:
        def __contains__(self, concept: str) -> bool:
            return False

        def resolve(self, concept: str) -> str | None:
            return concept if concept == "umls:C0018800" else None

    knowledge = Knowledge(NoGraph(), load_findings())  # type: ignore[arg-type]
    states = report_states(data.mentions, data.study_ids("train"), knowledge)
    assert choose_concepts(states, TargetConfig(min_count=5, max_fraction=1), knowledge) == {"umls:C0018800": 5}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json\n", r"mentions\.jsonl, line 2: not JSON"),
        ("[]\n", r"line 2: '\[\]': expected \{\"report_id\""),
        ({"report_id": "b", "mentions": []}, r"line 2: no 'text'; expected"),
        ({"report_id": "b", "text": "x", "mentions": [{"text": "x", "start": 0, "end": 1, "kind": "finding",
                                                      "certainty": "present", "concept": None}]},
         r"line 2: not a report with mentions \('finding' is not a valid MentionKind\)"),
        ({"report_id": "b", "text": "fluid", "mentions": [mention("fluid", "fluid", start=1)]},
         r"line 2: mention 0: the text from 1 to 5 is not 'fluid'"),
        ({"report_id": "a", "text": "", "mentions": []}, r"line 2: report 'a' stands already in line 1"),
    ],
)  # fmt: skip
def test_wrong_mentions_are_refused_by_line(mentions_file: Callable[..., Path], line: object, words: str) -> None:
    path = mentions_file({"report_id": "a", "text": "", "mentions": []}, line)
    with pytest.raises(InputError, match=words):
        read_mention_file(path)


def test_mentions_of_another_data_set_are_refused(tmp_path: Path, mentions_file: Callable[..., Path]) -> None:
    write_csv(tmp_path / "SRC")
    path = mentions_file({"report_id": "a", "text": "", "mentions": []})
    config = PrepareConfig("csv", tmp_path / "SRC", None, tmp_path / "DATA", mentions_file=path)
    with pytest.raises(
        InputError, match="no report of the mentions is a study of this data set: 'a' is none of them; o"
    ):
        prepare(config)
    with pytest.raises(InputError, match=r"mentions\.jsonl: no reports; expected lines of"):
        read_mention_file(mentions_file())
    with pytest.raises(InputError, match="gone: cannot be read"):
        read_mention_file(tmp_path / "gone")


# ---------------------------------------------------------------------------------------------------- sections


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("", "", ""),
        ("Clear lungs.", "Clear lungs.", ""),
        ("FINDINGS: A.\n\nB. FINDINGS: C.\nIMPRESSION: D.", "A.\n\nB.\nC.", "D."),
        ("FINDINGS AND IMPRESSION: A.", "A.", ""),
        ("IMPRESSION: \n\nFINDINGS: ___\n", "", ""),
        ("WET READ: wrong.\n FINAL REPORT\n HISTORY: rule out.\n\n Heart is big.\n\n Lungs clear.", "Lungs clear.", ""),
        ("CONCLUSION:\n No change.\n\nNOTIFICATION: told Dr. X: all.", "", "No change."),
    ],
)  # fmt: skip
def test_sections_of_reports(text: str, findings: str, impression: str) -> None:
    found = split_report(text)
    assert (found.findings, found.impression) == (findings, impression)


@given(st.text(st.sampled_from("FINDGSMPRE:abc \n_"), max_size=80))
def test_sections_hold_words_of_the_report_and_names_are_in_order(text: str) -> None:
    found = split_report(text)
    assert all(part in text for part in found.findings.split("\n"))
    starts = [start for start, _ in section_names(text)]
    assert starts == sorted(set(starts))
    assert starts[0] == 0


# ---------------------------------------------------------------------------------------------------- documents


def test_the_examples_of_the_documents_work_as_they_stand(tmp_path: Path) -> None:
    """The CSV and the line of mentions in docs/data.md, word for word."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table, line = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("csv", "json"))  # type: ignore[index]
    (tmp_path / "films.csv").write_text(table)
    (tmp_path / "mentions.jsonl").write_text(line)
    for name in re.findall(r"^films/(\S+?),", table, re.MULTILINE):
        save(tmp_path / "films" / "x.png", film(int(name[0])))
        (tmp_path / "films" / "x.png").rename(tmp_path / "films" / name.replace(".dcm", ".png"))
    (tmp_path / "films.csv").write_text(table.replace(".dcm", ".png"))
    config = PrepareConfig(
        "csv", tmp_path / "films.csv", None, tmp_path / "DATA", mentions_file=tmp_path / "mentions.jsonl"
    )
    summary = prepare(config)
    data = load_data(tmp_path / "DATA")
    assert (summary.films, summary.studies, summary.skipped) == (3, {"train": 1, "test": 1}, {NO_REPORT: 1})
    assert data.mentions.select("text", "section", "certainty").rows() == [
        ("Big heart", "findings", "present"), ("fluid", "findings", "uncertain"),
    ]  # fmt: skip
    assert data.studies["label:Cardiomegaly"].to_list() == [1, 0]
    assert data.studies["uncertain:Pleural Effusion"].to_list() == [False, True]
