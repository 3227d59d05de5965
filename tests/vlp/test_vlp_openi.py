from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_vlp import write_openi

from kgkit.interface import InputError
from vlp.data.openi import mesh_labels, read_openi
from vlp.data.prepare import PrepareConfig, prepare, report_text
from vlp.data.prepared import load_data
from vlp.data.splits import SplitOptions
from vlp.types import View

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="INDICATION">Rule out mass.</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION"/>
</Abstract></Article></MedlineCitation>
<MeSH><major>Cardiomegaly/borderline</major><automatic>sternotomy</automatic></MeSH>
<parentImage id="CXR{uid}_IM-0652-1001"/><parentImage id="CXR{uid}_IM-0652-2001"/></eCitation>
"""


def prepare_here(source: Path, encoder: Path, out: Path, **changed: object):
    return prepare(PrepareConfig("openi", source, encoder, out, **changed))


def save_film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 16), dtype=np.uint8)).save(path)


def test_tables_keep_their_splits_labels_and_reports(tiny_data_dir: Path, tiny_openi_dir: Path) -> None:
    data = load_data(tiny_data_dir)
    with (tiny_openi_dir / "splits.csv").open() as stream:
        expected = {row["uid"]: row["split"] for row in csv.DictReader(stream)}
    assert dict(data.splits.select("study_id", "split").iter_rows()) == expected
    assert data.labels == ("Cardiomegaly", "Effusion", "Hernia", "normal")
    with (tiny_openi_dir / "labels14.csv").open() as stream:
        for row in csv.DictReader(stream):
            found = data.studies.row(by_predicate=pl.col("study_id") == row["uid"], named=True)
            assert all(found[f"label:{name}"] == int(row[name]) for name in data.labels)
    assert set(data.images["view"]) == {"frontal"}
    assert data.images.select("width", "height").unique().rows() == [(64, 64)]


def test_indication_supervises_nothing(tiny_data_dir: Path) -> None:
    """Every tiny report has `rule out mass` as its indication."""
    data = load_data(tiny_data_dir)
    assert not data.studies["text"].str.contains("mass").any()
    assert set(data.mentions["section"]) <= {"findings", "impression"}
    assert "mass" not in " ".join(data.mentions["text"]).lower()


def test_mentions_point_into_the_text(tiny_data_dir: Path) -> None:
    data = load_data(tiny_data_dir)
    text_of = dict(data.studies.select("study_id", "text").iter_rows())
    for study, start, end, text in data.mentions.select("study_id", "start", "end", "text").iter_rows():
        assert text_of[study][start:end] == text


def test_kaggle_tables_are_read(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    source = tmp_path / "kaggle"
    save_film(source / "images" / "images_normalized" / "1_IM-0001-4001.dcm.png")
    save_film(source / "images" / "images_normalized" / "1_IM-0001-3001.dcm.png")
    (source / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        '1,Cardiomegaly/borderline;Pulmonary Artery/enlarged,Cardiomegaly,"Chest, 2 views",Pain,None,Big heart.,\n'
    )
    (source / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
    )
    study = read_openi(source).studies[0]
    assert {image.path.name: image.view for image in study.images} == {
        "1_IM-0001-4001.dcm.png": View.FRONTAL, "1_IM-0001-3001.dcm.png": View.LATERAL,
    }  # fmt: skip
    assert (study.labels["Cardiomegaly"], study.labels["normal"], study.findings) == (1, 0, "Big heart.")
    prepare_here(source, tiny_encoder_dir, tmp_path / "DATA")
    assert len(load_data(tmp_path / "DATA").films(["1"], frontal_only=True)) == 1


def test_xml_reports_are_read(tmp_path: Path) -> None:
    source = tmp_path / "xml"
    (source / "ecgen-radiology").mkdir(parents=True)
    for uid in (2, 10):
        report = REPORT.format(uid=uid, findings="Borderline cardiomegaly &amp; more.")
        (source / "ecgen-radiology" / f"{uid}.xml").write_text(report)
    save_film(source / "NLMCXR_png" / "CXR2_IM-0652-1001.png")
    save_film(source / "NLMCXR_png" / "10_IM-0652-1001.dcm.png")
    data = read_openi(source)
    assert data.layout == "xml"
    assert [study.study_id for study in data.studies] == ["10", "2"]
    assert {study.findings for study in data.studies} == {"Borderline cardiomegaly & more."}
    assert [len(study.images) for study in data.studies] == [1, 1]
    assert all(study.images[0].view is View.FRONTAL for study in data.studies)
    assert data.studies[0].labels["Cardiomegaly"] == 1
    assert len(data.skipped) == 2
    assert "which film is frontal" in data.notes[0]


def test_an_xml_with_entities_is_refused(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><eCitation><uId id="CXR1"/>&b;</eCitation>'
    (tmp_path / "1.xml").write_text(bomb)
    with pytest.raises(InputError, match=r"1\.xml: holds a document type"):
        read_openi(tmp_path)


def test_mesh_headings() -> None:
    assert mesh_labels(["normal"])["normal"] == 1
    assert mesh_labels(["Thickening/pleura/apex"])["Pleural_Thickening"] == 1
    assert mesh_labels(["Thickening/aorta"])["Pleural_Thickening"] == 0
    assert not any(mesh_labels(["Opacity/lung"]).values())


def test_report_text_names_its_sections() -> None:
    assert report_text("Clear. ", "") == "FINDINGS: Clear."
    assert report_text("", "") == ""
    assert report_text("A.", "B.") == "FINDINGS: A.\nIMPRESSION: B."


def test_without_splits_patients_are_divided_by_a_hash(
    openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    (openi_copy / "splits.csv").unlink()
    summary = prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "A")
    assert set(summary.studies) == {"train", "val", "test"}
    first = dict(load_data(tmp_path / "A").splits.select("study_id", "split").iter_rows())
    # fewer patients: those who stay keep their split
    table = pl.read_csv(openi_copy / "reports.csv", infer_schema=False)
    table.head(30).write_csv(openi_copy / "reports.csv")
    prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "B")
    second = dict(load_data(tmp_path / "B").splits.select("study_id", "split").iter_rows())
    assert second == {study: first[study] for study in second}
    prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "C", splits=SplitOptions(seed=1))
    assert dict(load_data(tmp_path / "C").splits.select("study_id", "split").iter_rows()) != second


def test_a_test_only_set_is_prepared(openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    table = pl.read_csv(openi_copy / "splits.csv", infer_schema=False)
    table.with_columns(split=pl.lit("test")).write_csv(openi_copy / "splits.csv")
    assert prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "DATA").studies == {"test": 48}


def test_bad_films_are_counted_and_named(openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    films = sorted((openi_copy / "images").iterdir())
    films[0].write_bytes(b"")
    films[1].write_bytes(b"rubbish")
    films[2].unlink()
    summary = prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "DATA")
    assert summary.films == 45
    assert sum(summary.skipped.values()) == 3
    skipped = {Path(row["name"]).name: row["reason"] for row in load_data(tmp_path / "DATA").manifest["skipped"]}
    assert "empty file" in skipped[films[0].name]
    assert "not an image" in skipped[films[1].name]
    assert skipped[films[2].name] == "no such image file"


def test_labels_are_not_in_the_data_digest(openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "A")
    table = pl.read_csv(openi_copy / "labels14.csv", infer_schema=False)
    table.with_columns(Cardiomegaly=pl.lit("1")).write_csv(openi_copy / "labels14.csv")
    prepare_here(openi_copy, tiny_encoder_dir, tmp_path / "B")
    a, b = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "AB")
    assert a["data_digest"] == b["data_digest"]
    assert a["labels_digest"] != b["labels_digest"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_unknown_labels_and_films_without_a_report_are_counted(openi_copy: Path) -> None:
    whole = read_openi(openi_copy)
    edit(openi_copy / "labels14.csv", "Cardiomegaly", "Cardiomegalie")
    edit(openi_copy / "projections.csv", "101,101_IM", "999,101_IM")
    data = read_openi(openi_copy)
    assert ("labels14.csv: Cardiomegalie", "unknown label column") in data.skipped
    assert ("101_IM-0001-1001.dcm.png", "no report of its study") in data.skipped
    assert set(data.studies[0].labels) == set(whole.studies[0].labels) - {"Cardiomegaly"}


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("reports.csv", "\n101,", "\n100,", r"reports\.csv, line 3: uid '100' stands already in line 2"),
        ("reports.csv", "\n101,", "\n,", r"reports\.csv, line 3: empty uid"),
        ("reports.csv", "findings", "finding", r"reports\.csv: no column 'findings'; found uid"),
        ("projections.csv", "101,101_IM", "100,101_IM", None),
        ("projections.csv", "101,101_IM", "101,100_IM", r"line 3: film '100_IM-0001-1001\.dcm\.png' belongs to two"),
        ("projections.csv", "Frontal", "Sideways", r"projections\.csv, line 2: projection 'Sideways', expected"),
        ("splits.csv", "100,train", "100,training", r"splits\.csv, line 2: split 'training', expected train"),
        ("splits.csv", "101,train", "100,test", r"line 3: patient '100' is in two splits, 'train' and 'test'"),
        ("labels14.csv", "100,1", "100,yes", r"labels14\.csv, line 2: label 'Cardiomegaly' is 'yes', expected 0, 1"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_file_line_and_value(
    openi_copy: Path, file: str, old: str, new: str, words: str | None
) -> None:
    edit(openi_copy / file, old, new)
    if words is None:  # a film moved to another study is no contradiction
        assert len(read_openi(openi_copy).studies[0].images) == 2
        return
    with pytest.raises(InputError, match=words):
        read_openi(openi_copy)


def test_wrong_folders_are_named(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_openi_dir: Path, tiny_data_dir: Path
) -> None:
    with pytest.raises(InputError, match="no such folder"):
        prepare_here(tmp_path / "gone", tiny_encoder_dir, tmp_path / "DATA")
    with pytest.raises(InputError, match="not an Open-i folder"):
        prepare_here(tmp_path, tiny_encoder_dir, tmp_path / "DATA")
    with pytest.raises(InputError, match="this is a prepared data, expected a concept encoder"):
        prepare_here(tiny_openi_dir, tiny_data_dir, tmp_path / "DATA")
    with pytest.raises(InputError, match="no data set 'openid'; did you mean 'openi'"):
        prepare(PrepareConfig("openid", tiny_openi_dir, tiny_encoder_dir, tmp_path / "DATA"))
    assert not (tmp_path / "DATA").exists()


def test_no_film_at_all_is_refused(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    write_openi(tmp_path / "SRC", studies=3)
    for film in (tmp_path / "SRC" / "images").iterdir():
        film.write_bytes(b"")
    with pytest.raises(InputError, match=r"no readable film of any study; first: .*empty file"):
        prepare_here(tmp_path / "SRC", tiny_encoder_dir, tmp_path / "DATA")
    assert not (tmp_path / "DATA").exists()
