"""The larger real sets, in the folder named by KGKIT_DATA: what is read is what their READMEs count."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vlp.data.decode import DecodeOptions
from vlp.data.film_reader import FilmReader
from vlp.data.info import data_info
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import load_data
from vlp.data.splits import SplitOptions
from vlp.images import load_image

pytestmark = pytest.mark.data


@pytest.fixture
def data_folder() -> Path:
    data = os.environ.get("KGKIT_DATA")
    if not data:
        pytest.skip("KGKIT_DATA is not set: films are not read on the larger sets")
    return Path(data)


def test_open_i_is_what_its_readme_counts(data_folder: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    prepare(PrepareConfig("openi", data_folder / "indiana_cxr", tiny_encoder_dir, tmp_path / "DATA"))
    info = data_info(tmp_path / "DATA")
    assert sum(part["studies"] for part in info["parts"].values()) == 2696
    assert [sum(part["views"].get(view, 0) for part in info["parts"].values()) for view in ("frontal", "lateral")] == [
        2652, 372,
    ]  # fmt: skip
    positives = {
        name: sum(part["positive"] for part in entry["parts"].values()) for name, entry in info["labels"].items()
    }
    assert (positives["Atelectasis"], positives["Effusion"], positives["normal"]) == (225, 107, 960)
    assert info["leakage"]["patients"]["count"] == info["leakage"]["same_file"]["count"] == 0
    assert info["leakage"]["same_look"]["count"] == 0


def test_nih_is_what_its_readme_counts(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "nih_cxr"
    prepare(PrepareConfig("nih", source, None, tmp_path / "DATA", splits=SplitOptions(test_only=True)))
    data = load_data(tmp_path / "DATA")
    assert (len(data.studies), data.splits["patient_id"].n_unique(), len(data.boxes)) == (262, 170, 13)
    assert int(data.studies["label:Pneumonia"].sum()) == 128
    with (source / "bbox.csv").open() as stream:
        first = next(csv.DictReader(stream))
    found = data.boxes.filter(pl.col("study_id") == first["Image Index"][:-4]).row(0, named=True)
    assert found["x0"] == pytest.approx(float(first["x"]) / 2)
    assert found["y1"] == pytest.approx((float(first["y"]) + float(first["h"])) / 2)
    assert (data.boxes.select(pl.max_horizontal("x1", "y1")) <= 512).to_series().all()


def test_dicom_monochrome1_plain_and_jpeg_2000_show_the_same_chest(data_folder: Path, tmp_path: Path) -> None:
    """One film twice, one of them every fourth pixel of the other, lossy: the same picture, lungs darker than bone."""
    folder = data_folder / "dicom_chest"
    table = tmp_path / "films.csv"
    table.write_text("path\n" + "\n".join(sorted(path.name for path in folder.glob("*.dcm"))) + "\n")
    from vlp.data.source import ReadOptions

    config = PrepareConfig("csv", table, None, tmp_path / "DATA", read=ReadOptions(images=folder))
    assert prepare(config).films == 2
    data = load_data(tmp_path / "DATA")
    jpeg_2000, plain = FilmReader(data).squares(data.images.sort("path"), 128)
    assert np.abs(plain - jpeg_2000).mean() < 0.02
    assert data_info(tmp_path / "DATA")["parts"].keys() <= {"train", "val", "test"}
    whole = load_image(folder / "RG1_UNCR_every4th.dcm")
    # air beside the patient is black in the corner of a film that is the right way round
    assert whole[:40, :40].mean() < whole[100:300, 150:300].mean()


def test_case_notes_as_a_plain_csv(data_folder: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    folder = data_folder / "covid_cxr_notes"
    table = pl.read_csv(folder / "metadata.csv", infer_schema=False)
    table = table.select(
        path=pl.lit("images/") + pl.col("image_file"), patient_id="patientid", projection="view", sex="sex", age="age",
        report="clinical_notes", licence="license",
    )  # fmt: skip
    table.with_columns(study_id=pl.col("patient_id") + pl.lit("/") + pl.col("path")).write_csv(tmp_path / "films.csv")
    from vlp.data.source import ReadOptions

    read = ReadOptions(images=folder)
    done = prepare(PrepareConfig("csv", tmp_path / "films.csv", tiny_encoder_dir, tmp_path / "DATA", read=read))
    data = load_data(tmp_path / "DATA")
    assert (done.films, data.splits["patient_id"].n_unique()) == (256, 152)
    assert (data.studies["text"] != "").sum() == 252
    assert set(data.images["view"]) <= {"frontal", "unknown"}
    assert data_info(tmp_path / "DATA")["leakage"]["patients"]["count"] == 0


def test_tiny_films_are_films_too(data_folder: Path, tmp_path: Path) -> None:
    content = np.load(data_folder / "pneumoniamnist" / "pneumoniamnist_subset.npz")
    rows = ["path,split,label:Pneumonia"]
    for number, (pixels, label) in enumerate(
        zip(content["test_images"][:60], content["test_labels"][:60], strict=True)
    ):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,test,{int(label[0])}")
    (tmp_path / "films.csv").write_text("\n".join(rows) + "\n")
    prepare(PrepareConfig("csv", tmp_path / "films.csv", None, tmp_path / "DATA", decode=DecodeOptions(side=224)))
    data = load_data(tmp_path / "DATA")
    assert set(data.images["stored_width"]) == {28}
    assert np.array_equal(np.rint(FilmReader(data).film(data.images.row(0, named=True)) * 255).astype(np.uint8),
                          content["test_images"][int(data.images["study_id"][0])])  # fmt: skip
    assert int(data.studies["label:Pneumonia"].sum()) == int(content["test_labels"][:60].sum())
