"""Data sets as they are shipped: what is read, what steers nothing, what is wrong with a row."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from shutil import move, rmtree

import polars as pl
import pytest
from PIL import Image
from tiny_layouts import (
    CHEXPERT_LABELS,
    LAYOUTS,
    film,
    flip_labels,
    read_table,
    save,
    write_chestxdet10,
    write_chexpert,
    write_mimic,
    write_nih,
    write_padchest,
    write_table,
)

from kgkit.interface import InputError
from vlp.data.prepare import NO_REPORT, PrepareConfig, PrepareSummary, prepare
from vlp.data.prepared import PreparedData, load_data
from vlp.data.readers import READERS
from vlp.data.source import DEFAULTS, ReadOptions, conditions
from vlp.data.splits import SplitOptions


@pytest.fixture
def here(tmp_path: Path, tiny_encoder_dir: Path):
    """Prepares tmp_path/SRC."""

    def run(dataset: str, out: str = "DATA", **options: object) -> tuple[PreparedData, PrepareSummary]:
        config = PrepareConfig(dataset, tmp_path / "SRC", tiny_encoder_dir, tmp_path / out, **options)
        summary = prepare(config)
        return load_data(tmp_path / out), summary

    return run


def read(dataset: str, source: Path, options: ReadOptions = DEFAULTS):
    return READERS[dataset](source, options)


def study(data: PreparedData, study_id: str) -> dict[str, object]:
    return data.studies.row(by_predicate=pl.col("study_id") == study_id, named=True)


def parts(data: PreparedData) -> dict[str, str]:
    return dict(data.splits.select("study_id", "split").iter_rows())


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_every_layout_is_read_whole_and_no_patient_is_in_two_parts(dataset: str, tmp_path: Path, here) -> None:
    LAYOUTS[dataset](tmp_path / "SRC")
    data, summary = here(dataset)
    assert summary.films == len(data.images) > 5
    assert set(data.images["study_id"]) <= set(data.studies["study_id"]) == set(parts(data))
    assert data.splits.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert data.images.filter(pl.col("view") == "frontal").height > 0
    assert {"Cardiomegaly", "cardiomegaly", "Fibrosis"} & set(data.labels)
    assert not (tmp_path / "DATA.partial").exists()


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_labels_steer_nothing(dataset: str, tmp_path: Path, here) -> None:
    """Training sees mentions, films and parts alone: with every label changed they are the same, bit for bit."""
    LAYOUTS[dataset](tmp_path / "SRC")
    before, _ = here(dataset, "A")
    flip_labels(dataset, tmp_path / "SRC")
    after, _ = here(dataset, "B")
    assert before.manifest["labels_digest"] != after.manifest["labels_digest"]
    assert before.digest == after.digest
    assert before.mentions.equals(after.mentions)
    assert before.images.equals(after.images)
    assert before.splits.equals(after.splits)
    assert (tmp_path / "A" / "films.bin").read_bytes() == (tmp_path / "B" / "films.bin").read_bytes()


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_bad_films_are_named_and_the_rest_goes_on(dataset: str, tmp_path: Path, here) -> None:
    LAYOUTS[dataset](tmp_path / "SRC")
    whole, _ = here(dataset, "WHOLE")
    root = Path(whole.manifest["image_root"])
    paths = [root / path for path in whole.images.sort("path")["path"]]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    Image.new("L", (30, 20), 77).save(paths[2])
    paths[3].unlink()
    data, summary = here(dataset)
    assert len(data.images) == len(whole.images) - 4
    assert len(data.studies) == len(whole.studies)
    reasons = {row["name"]: row["reason"] for row in data.manifest["skipped"]}
    first, second, third = (reasons[path.relative_to(root).as_posix()] for path in paths[:3])
    assert "empty file" in first
    assert "damaged image" in second
    assert third == "blank film (every pixel is the same)"
    assert any(name.endswith(paths[3].name) for name, reason in reasons.items() if reason == "no such image file")
    assert sum(summary.skipped[reason] for reason in (first, second, third, "no such image file")) == 4


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_other_folders_are_refused_by_name(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/gone: no such (file or )?folder"):
        read(dataset, tmp_path / "gone")
    (tmp_path / "SRC").mkdir()
    with pytest.raises(InputError, match=r"SRC: (not |no \.csv file in this folder)"):
        read(dataset, tmp_path / "SRC")


def test_nih_keeps_the_official_test_and_draws_validation_by_patient(tmp_path: Path, here) -> None:
    write_nih(tmp_path / "SRC", patients=40)
    data, summary = here("nih")
    official = (tmp_path / "SRC" / "test_list.txt").read_text().split()
    assert {key for key, split in parts(data).items() if split == "test"} == {name[:-4] for name in official}
    assert set(summary.studies) == {"train", "val", "test"}
    assert data.manifest["split_by"] == "the source's own; validation by patient, seeded"
    found = study(data, "00000001_001")
    assert (found["label:Cardiomegaly"], found["label:Edema"], found["sex"], found["age"]) == (1, 0, "M", 51)
    assert study(data, "00000003_001")["label:No Finding"] == 1
    assert data.mentions.is_empty()
    assert not summary.skipped
    assert set(data.images["projection"]) == {"PA", "AP"}


def test_nih_boxes_come_in_pixels_of_the_film_here(tmp_path: Path, here) -> None:
    """They were drawn on 1024 x 1024; the films of the tiny copy have 64 x 64. `Infiltrate` is Infiltration."""
    write_nih(tmp_path / "SRC")
    data, _ = here("nih")
    boxes = {label: corners for _, _, label, *corners in data.boxes.iter_rows()}
    assert boxes == {"Infiltration": [32, 256.5 / 16, 40, 512.5 / 16], "Effusion": [0, 0, 64, 32]}


def test_nih_in_the_v2020_header_and_ages_as_dicom_writes_them(tmp_path: Path) -> None:
    write_nih(tmp_path)
    header, *rows = read_table(tmp_path / "Data_Entry_2017.csv")
    for row in rows:
        row[4] = f"0{row[4]}Y"
    rows[0][4] = "411"
    v2020 = [name.replace("Gender", "Sex") for name in header[:-1]]
    write_table(tmp_path / "Data_Entry_2017_v2020.csv", v2020, [row[:-1] for row in rows])
    data = read("nih", tmp_path)
    assert data.layout == "Data_Entry_2017_v2020.csv"
    assert [data.studies[0].age, data.studies[1].age] == [None, 51]
    assert data.studies[0].sex == "M"


def test_chexpert_uncertain_is_neither_yes_nor_no_and_unnamed_is_no(tmp_path: Path, here) -> None:
    write_chexpert(tmp_path / "SRC")
    data, summary = here("chexpert")
    first = study(data, "patient00001/study1")
    assert (first["label:Cardiomegaly"], first["label:Edema"], first["label:Fracture"]) == (1, None, 0)
    assert first["uncertain:Edema"] is True
    assert "uncertain:Cardiomegaly" not in data.studies.columns
    assert summary.studies == {"train": 12, "val": 3}
    assert len(data.labels) == 14
    assert dict(data.images.group_by("view").len().iter_rows()) == {"frontal": 15, "lateral": 10}
    assert study(data, "patient00002/study2")["label:No Finding"] == 1
    assert (first["sex"], study(data, "patient00002/study1")["sex"]) == ("M", None)


@pytest.mark.parametrize("given", [".", "CheXpert-v1.0-small", "inside"])
def test_chexpert_is_found_wherever_it_was_unpacked(tmp_path: Path, given: str) -> None:
    """Path begins with the archive's name; the tables may lie beside the archive's folder or in it."""
    folder = tmp_path / "CheXpert-v1.0-small"
    write_chexpert(folder)
    if given == ".":
        for table in folder.glob("*.csv"):
            move(table, tmp_path / table.name)
    source = tmp_path if given == "." else folder
    if given == "inside":
        source = folder.rename(tmp_path / "anything")
    data = read("chexpert", source)
    assert not data.skipped
    assert sum(len(item.images) for item in data.studies) == 25


def test_chexlocalize_tables_have_labels_alone(tmp_path: Path) -> None:
    save(tmp_path / "test" / "patient64741" / "study1" / "view1_frontal.jpg", film(1))
    path = "test/patient64741/study1/view1_frontal.jpg"
    write_table(tmp_path / "test_labels.csv", ("Path", *CHEXPERT_LABELS), [(path, *[0] * 13, 1)])
    found = read("chexpert", tmp_path).studies[0]
    assert (found.split, found.labels["Support Devices"], found.labels["Edema"]) == ("test", 1, 0)
    assert found.images[0].view == "frontal"


def test_mimic_reads_reports_split_and_views(tmp_path: Path, here) -> None:
    write_mimic(tmp_path / "SRC")
    data, summary = here("mimic-cxr")
    assert summary.studies == {"train": 5, "val": 1, "test": 2}
    one = study(data, "50000001")
    assert (one["findings"], one["impression"]) == (
        "The heart is normal in size. No pleural effusion.",
        "Normal chest.",
    )
    assert "rule out mass" not in str(one["text"])
    assert study(data, "50000005")["findings"] == "There is cardiomegaly. No pleural effusion."
    assert study(data, "50000004")["text"] == ""
    assert summary.skipped == {NO_REPORT: 1}
    assert summary.first_skipped == {NO_REPORT: "study 50000004"}
    assert any("1 reports have neither findings nor impression" in note for note in summary.notes)
    certain = set(data.mentions.filter(study_id="50000002").select("text", "certainty").iter_rows())
    assert ("cardiomegaly", "present") in certain
    three = study(data, "50000003")
    assert (three["label:Pleural Effusion"], three["uncertain:Pleural Effusion"]) == (None, True)
    assert dict(data.images.group_by("projection").len().iter_rows()) == {"PA": 4, "LATERAL": 4, "AP": 4}


def test_mimic_reports_from_the_zip_or_a_folder_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "SRC"
    write_mimic(source)
    beside = read("mimic-cxr", source)
    archive = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted(source.rglob("*.txt")):
            stream.write(path, path.relative_to(source))
            (tmp_path / "reports" / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            move(path, tmp_path / "reports" / path.relative_to(source))
    assert all(not item.findings for item in read("mimic-cxr", source).studies)
    for given in (archive, tmp_path / "reports"):
        assert read("mimic-cxr", source, ReadOptions(reports=given)).studies == beside.studies
    move(archive, source / archive.name)
    assert read("mimic-cxr", source).studies == beside.studies
    content = bytearray((source / archive.name).read_bytes())
    place = content.find(b"FINDINGS")
    content[place] ^= 1
    (source / archive.name).write_bytes(content)
    with pytest.raises(InputError, match=r"mimic-cxr-reports\.zip: damaged at .*s\d+\.txt \(Bad CRC-32"):
        read("mimic-cxr", source)


def test_mimic_label_tables_by_name(tmp_path: Path) -> None:
    write_mimic(tmp_path)
    header = ("study_id", "Airspace Opacity", "Cardiomegaly", "Comment")
    write_table(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", header, [(50000007, 1, 0, "")])
    data = read("mimic-cxr", tmp_path, ReadOptions(labels="test-set-labeled"))
    labelled = {item.study_id: dict(item.labels) for item in data.studies if item.labels}
    assert labelled == {"50000007": {"Lung Opacity": 1, "Cardiomegaly": 0}}
    assert data.skipped == (("mimic-cxr-2.1.0-test-set-labeled.csv: Comment", "unknown label column"),)
    with pytest.raises(InputError, match="no label table 'chexbert'; choices: chexpert, negbio, test-set-labeled"):
        read("mimic-cxr", tmp_path, ReadOptions(labels="chexbert"))
    (tmp_path / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    with pytest.raises(InputError, match=r"no table mimic-cxr-2.0.0-negbio.csv.gz"):
        read("mimic-cxr", tmp_path, ReadOptions(labels="negbio"))


def test_padchest_lists_projections_and_sixteen_bits(tmp_path: Path, here) -> None:
    write_padchest(tmp_path / "SRC")
    data, summary = here("padchest")
    unknown = "its labels say nothing of findings (exclude, unchanged, suboptimal study): kept, all labels unknown"
    assert summary.skipped == {"projection EXCLUDE: the authors leave it out": 1, "no labels": 1, unknown: 1}
    assert study(data, "205366866403")["label:cardiomegaly"] is None  # []
    assert data.labels == ("cardiomegaly", "normal", "pleural effusion")
    first = study(data, "205366866400")
    assert (first["label:pleural effusion"], first["label:normal"], first["age"], first["sex"]) == (1, 0, 84, "F")
    assert study(data, "205366866402")["label:cardiomegaly"] == 1  # `unchanged` is no finding
    views = {(row["projection"], row["view"]) for row in data.images.iter_rows(named=True)}
    assert views == {("PA", "frontal"), ("L", "lateral"), ("AP_horizontal", "frontal"), ("AP", "frontal"),
                     ("COSTAL", "unknown")}  # fmt: skip
    assert data.mentions.is_empty()  # the reports are Spanish: `edema` in them is not linked
    assert "patologic edema" in str(first["text"])
    for flat in ("images", "."):
        rmtree(tmp_path / "FLAT", ignore_errors=True)
        (tmp_path / "FLAT" / flat).mkdir(parents=True)
        for path in (tmp_path / "SRC").rglob("*.png"):
            (tmp_path / "FLAT" / flat / path.name).write_bytes(path.read_bytes())
        table = next((tmp_path / "SRC").glob("*.csv"))
        (tmp_path / "FLAT" / table.name).write_bytes(table.read_bytes())
        assert not [reason for _, reason in read("padchest", tmp_path / "FLAT").skipped if "image" in reason]


def test_padchest_of_physicians_as_kad_was_tested(tmp_path: Path, here) -> None:
    write_padchest(tmp_path / "SRC")
    only = ReadOptions(where=conditions(["MethodLabel=Physician"]))
    data, summary = here("padchest", read=only, splits=SplitOptions(test_only=True))
    assert summary.studies == {"test": 4}
    assert data.manifest["where"] == ["MethodLabel=Physician"]
    with pytest.raises(InputError, match=r"no row left with MethodLabel 'physician'; did you mean 'Physician'\?"):
        read("padchest", tmp_path / "SRC", ReadOptions(where=conditions(["MethodLabel=physician"])))
    with pytest.raises(InputError, match=r"no column 'MethodLabels' to choose rows by; did you mean 'MethodLabel'\?"):
        read("padchest", tmp_path / "SRC", ReadOptions(where=conditions(["MethodLabels=Physician"])))
    with pytest.raises(InputError, match="--where 'MethodLabel': expected COLUMN=VALUE"):
        conditions(["MethodLabel"])


def test_chestxdet10_boxes_and_patients(tmp_path: Path, here) -> None:
    write_chestxdet10(tmp_path / "SRC")
    data, summary = here("chestxdet10")
    assert parts(data)["00000006_000"] == "test"
    assert summary.studies["test"] == 3
    two = study(data, "00000002_002")
    assert (two["patient_id"], two["label:Fibrosis"], two["label:Fracture"]) == ("00000002", 1, 0)
    boxes = data.boxes.filter(study_id="00000002_002").select("x0", "y0", "x1", "y1").rows()
    assert boxes == [(32, 21, 50, 49), (12, 11, 44, 19)]
    assert data.manifest["label_findings"]["Fracture"]


def test_chestxdet10_with_the_challenges_anonymous_names(tmp_path: Path) -> None:
    for part in ("train", "test"):
        save(tmp_path / f"{part}_data" / f"{part}_data" / "36199.png", film(len(part)))
        record = {"file_name": "36199.png", "syms": ["Mass"], "boxes": [[9, 8, 2, 1]]}
        (tmp_path / f"{part}.json").write_text(json.dumps([record]))
    data = read("chestxdet10", tmp_path)
    assert [(item.study_id, item.split) for item in data.studies] == [
        ("test-36199", "test"),
        ("train-36199", "train+val"),
    ]
    assert data.studies[0].images[0].boxes[0].corners == (2, 1, 9, 8)
    assert any("2 file names do not say whose film it is" in note for note in data.notes)


def test_a_study_of_two_patients_is_left_out_and_labels_that_disagree_are_unknown(tmp_path: Path, here) -> None:
    write_padchest(tmp_path / "SRC")
    path = next((tmp_path / "SRC").glob("*.csv"))
    header, *rows = read_table(path)
    study_id, labels = header.index("StudyID"), header.index("Labels")
    patient = header.index("PatientID")
    rows[1][study_id] = rows[0][study_id]
    rows[3][study_id], rows[3][patient] = rows[2][study_id], rows[2][patient]
    rows[3][labels] = "['normal', 'cardiomegaly']"
    write_table(path, header, rows)
    data, summary = here("padchest")
    assert summary.first_skipped["study of two patients"] == (
        "study 205366866400 of patients '83909664780' and '83909664781'"
    )
    assert "205366866400" not in parts(data)
    assert summary.first_skipped["label contradicts another row of the study: unknown"] == (
        "study 205366866402, normal"
    )
    merged = study(data, "205366866402")
    assert (merged["label:normal"], merged["label:cardiomegaly"]) == (None, 1)
    assert data.images.filter(study_id="205366866402").height == 2


def edit(path: Path, old: str, new: str) -> None:
    rows = read_table(path)
    assert any(old in row for row in rows), old
    write_table(path, *_first_and_rest([[new if cell == old else cell for cell in row] for row in rows]))


def _first_and_rest(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return rows[0], rows[1:]


@pytest.mark.parametrize(
    ("dataset", "file", "old", "new", "words"),
    [
        ("nih", "Data_Entry_2017.csv", "Patient ID", "Patient", r"Data_Entry_2017\.csv: no column 'Patient ID'; found"),
        ("nih", "Data_Entry_2017.csv", "No Finding", "", r"Data_Entry_2017\.csv, line \d+: empty Finding Labels"),
        ("nih", "BBox_List_2017.csv", "128", "wide", r"BBox_List_2017\.csv, line 2: \[.*'wide'.*expected a film, a f"),
        ("chexpert", "train.csv", "-1.0", "maybe", r"train\.csv, line 2: Edema is 'maybe', expected 1, 0, -1 or noth"),
        ("chexpert", "train.csv", "-1.0", "2", r"train\.csv, line 2: Edema is '2', expected 1, 0, -1"),
        ("chexpert", "train.csv", "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg", "a.jpg",
         r"train\.csv, line 2: Path is 'a\.jpg', expected a path such as CheXpert-v1\.0/train"),
        ("chexpert", "train.csv", "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
         "../../patient00001/study1/x.jpg", r"line 2: Path is .*expected a path inside the data set"),
        ("mimic-cxr", "mimic-cxr-2.0.0-split.csv.gz", "validate", "dev",
         r"split\.csv\.gz, line \d+: split is 'dev', expected train, validate, test"),
        ("mimic-cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "50000001", "../5",
         r"metadata\.csv\.gz, line 2: study_id is '\.\./5', expected letters"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "['normal']", "normal",
         r"01\.02\.19\.csv, line 3: Labels is 'normal', expected a list such as"),
        ("csv", "films.csv", "train", "training", r"films\.csv, line 2: split is 'training', expected train, val, te"),
        ("csv", "films.csv", "films/1.png", "../1.png", r"films\.csv, line 3: path is '\.\./1\.png', expected a fil"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_with_file_line_and_value(
    dataset: str, file: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    LAYOUTS[dataset](tmp_path / "SRC")
    save(tmp_path / "1.png", film(1))  # outside
    edit(tmp_path / "SRC" / file, old, new)
    with pytest.raises(InputError, match=words):
        read(dataset, tmp_path / "SRC")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"test\.json: not readable as JSON"),
        ("{}", r"test\.json: expected a list of films"),
        ('[{"file_name": "a.png"}]', r"test\.json: film 1: expected file_name, syms and boxes"),
        ('[{"file_name": "a.png", "syms": ["Mass"], "boxes": []}]', r"film 1: 1 findings, but 0 boxes"),
        ('[{"file_name": "a.png", "syms": ["Mass"], "boxes": [[1, 2]]}]', r"a\.png: box \[1, 2\], expected x1"),
    ],
)
def test_a_wrong_json_is_named(content: str, words: str, tmp_path: Path) -> None:
    write_chestxdet10(tmp_path)
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read("chestxdet10", tmp_path)


def test_official_lists_that_share_a_patient_are_refused(tmp_path: Path, here) -> None:
    write_nih(tmp_path / "SRC")
    test_list = tmp_path / "SRC" / "test_list.txt"
    lines = test_list.read_text().splitlines()
    test_list.write_text("\n".join(lines[1:]))
    with (tmp_path / "SRC" / "train_val_list.txt").open("a") as stream:
        stream.write(lines[0] + "\n")
    with pytest.raises(InputError, match=r"SRC: patient '10' is in two splits, '(train|val)' and 'test'"):
        here("nih")
    assert not (tmp_path / "DATA").exists()
    test_list.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"test_list\.txt, line 1: film '00000010_000\.png' stands in train_val"):
        here("nih")


def test_an_unknown_label_column_is_named_and_the_rest_goes_on(tmp_path: Path, here) -> None:
    write_chexpert(tmp_path / "SRC")
    path = tmp_path / "SRC" / "train.csv"
    header, *rows = read_table(path)
    write_table(path, [*header, "Covid"], [[*row, "1"] for row in rows])
    data, summary = here("chexpert")
    assert summary.first_skipped == {"unknown label column": "train.csv: Covid"}
    assert "Covid" not in data.labels
    assert len(data.labels) == 14
