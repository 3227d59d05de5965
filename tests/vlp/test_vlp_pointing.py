"""The pointing game: hits, chance and overlaps of heat maps with readers' boxes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_vlp import FILM_SIDE, put_table

from kgkit.interface import InputError
from vlp.data.decode import DecodeOptions
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import BOX_COLUMNS
from vlp.evaluation.pointing import PointingConfig, box_iou, box_mask, point, read_boxes, score_map, summarise

HEADER = "Image Index,Finding Label,x,y,w,h\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        grey = np.random.default_rng(0).integers(0, 255, (FILM_SIDE, FILM_SIDE), dtype=np.uint8)
        Image.fromarray(grey).save(folder / name)
    return folder


def test_a_peak_inside_hits_and_chance_is_the_area() -> None:
    heat = np.zeros((20, 40), dtype=np.float32)
    heat[5:9, 10:16] = 0.6
    heat[6, 12] = 1
    inside = score_map(heat, (10, 5, 16, 9), [(8.0, 4.0, 18.0, 12.0)])
    assert inside["hit"] == 1
    assert inside["chance"] == 10 * 8 / 800
    assert inside["iou_box"] == pytest.approx(24 / 80)
    assert inside["iou_map"] == pytest.approx(24 / 80)
    outside = score_map(heat, (10, 5, 16, 9), [(30.0, 0.0, 40.0, 20.0), (0.0, 0.0, 5.0, 20.0)])
    assert (outside["hit"], outside["iou_box"], outside["chance"]) == (0, 0, 0.375)
    flat = score_map(np.zeros((20, 40), dtype=np.float32), None, [(0.0, 0.0, 40.0, 20.0)])
    assert (flat["hit"], flat["iou_box"], flat["iou_map"]) == (0, 0, 0)  # a map without a peak points nowhere


def test_random_peaks_hit_at_the_chance_rate() -> None:
    generator = np.random.default_rng(0)
    boxes = [(3.0, 2.0, 14.0, 9.0), (10.0, 5.0, 25.0, 18.0)]
    hits = []
    for _ in range(2000):
        heat = np.zeros((30, 30), dtype=np.float32)
        heat[generator.integers(30), generator.integers(30)] = 1
        hits.append(score_map(heat, None, boxes))
    assert np.mean([row["hit"] for row in hits]) == pytest.approx(hits[0]["chance"], abs=0.03)


def test_overlap_of_boxes() -> None:
    assert box_iou((0, 0, 2, 2), (1.0, 1.0, 3.0, 3.0)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 2, 2), (0.0, 0.0, 2.0, 2.0)) == 1
    assert box_iou((0, 0, 1, 1), (5.0, 5.0, 6.0, 6.0)) == 0
    assert box_mask([(0.4, 0.4, 1.6, 1.6)], (3, 3)).sum() == 4


def test_boxes_of_another_frame_are_brought_to_the_film(tiny_model_dir: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    half = FILM_SIDE * 4
    table.write_text(
        f"{HEADER}a.png,Cardiomegaly,0,0,{half},{half}\na.png,Cardiomegaly,0,0,10,10\ngone.png,Mass,1,1,2,2\n"
    )
    found = point(PointingConfig(tiny_model_dir, table, images, tmp_path / "OUT", frame=FILM_SIDE * 8))
    rows = pl.read_csv(tmp_path / "OUT" / "boxes.csv")
    assert rows["chance"].to_list() == [0.25]
    assert rows["boxes"].to_list() == [2]
    assert found["failed"] == [{"film": "gone.png", "reason": "no such image file"}]
    assert found["chance"]["value"] == 0.25
    assert found["per_finding"]["Cardiomegaly"]["seen_in_training"]
    assert json.loads((tmp_path / "OUT" / "pointing.json").read_text()) == found
    with Image.open(tmp_path / "OUT" / "overlays" / "a-Cardiomegaly.png") as picture:
        assert picture.size == (FILM_SIDE, FILM_SIDE)
    with pytest.raises(
        InputError, match=r"no boxed film can be read; first: .*a\.jpg, a box ends outside of the film \(64 x 64\)"
    ):
        point(PointingConfig(tiny_model_dir, table, images, tmp_path / "OUT2"))
    assert not (tmp_path / "OUT2").exists()
    with pytest.raises(InputError, match="a frame of 0 pixels, expected 1 or more"):
        point(PointingConfig(tiny_model_dir, table, images, tmp_path / "OUT2", frame=0))
    table.write_text(f"{HEADER}a.png,Cardiomegaly,-9,0,20,20\n")
    with pytest.raises(InputError, match="a box ends outside of the film"):
        point(PointingConfig(tiny_model_dir, table, images, tmp_path / "OUT2"))


def test_a_label_of_nih_goes_by_its_other_name(tiny_model_dir: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEADER}a.png,Infiltrate,0,0,9,9\n")
    found = point(PointingConfig(tiny_model_dir, table, images, tmp_path / "OUT"))
    assert found["per_finding"]["Infiltrate"]["concept"] == "finding:infiltration"


def test_films_are_resampled_whole() -> None:
    rows = [{"film": film, "finding": "x", "hit": hit, "chance": 0.1, "iou_box": 0.0, "iou_map": 0.0}
            for film, hit in (("a", 1), ("a", 1), ("b", 0))]  # fmt: skip
    found = summarise(rows, 400)
    assert found["hit"]["value"] == pytest.approx(2 / 3)
    assert (found["hit"]["low"], found["hit"]["high"]) == (0, 1)
    assert (found["n"], found["films"]) == (3, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no column 'Image Index'; found a, b"),
        (f"{HEADER}a.png,Mass,1,x,2,2\n", "line 2: y is 'x', expected a number"),
        (f"{HEADER}a.png,Mass,1,nan,2,2\n", "line 2: y is 'nan', expected a number"),
        (f"{HEADER}a.png,,1,1,2,2\n", "line 2: Finding Label is empty"),
        (f'{HEADER}"",Mass,1,1,2,2\n', "line 2: Image Index is empty"),
        (f"{HEADER}a.png,Mass,1,1,0,2\n", "line 2: a box of 0.0 x 2.0 pixels"),
        (f"{HEADER}c.png,Mass,1,1,2,2\n", "none of its 1 images is in"),
        ("Image Index,Finding Label,x\na.png,Mass,1\n", "no columns x, y, w, h"),
    ],
)
def test_wrong_boxes_are_named(images: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_boxes(tmp_path / "boxes.csv", images)


def test_the_table_of_nih_as_shipped_is_read(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "BBox_List_2017.csv"
    table.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Mass,1.5,2,3,4,,,\n")
    boxed, _ = read_boxes(table, images)
    assert boxed[0].boxes == ((1.5, 2.0, 4.5, 6.0),)


def test_the_boxes_of_data_are_played_too(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data_dir, tmp_path / "DATA"))
    images = pl.read_parquet(data / "images.parquet").sort("study_id")
    parts = pl.read_csv(data / "splits.csv", infer_schema=False)
    of = {part: parts.filter(pl.col("split") == part)["study_id"][0] for part in ("train", "val")}
    two = images.filter(pl.col("study_id").is_in(list(of.values())))
    rows = [(row["study_id"], row["path"], "Infiltrate", 0.0, 0.0, 64.0, 32.0) for row in two.iter_rows(named=True)]
    put_table(pl.DataFrame(rows, schema=BOX_COLUMNS, orient="row"), data / "boxes.parquet")
    found = point(PointingConfig(tiny_model_dir, None, data, tmp_path / "OUT"))
    assert (found["n"], found["chance"]["value"]) == (2, 0.5)
    assert found["per_finding"]["Infiltrate"]["concept"] == "finding:infiltration"
    assert point(PointingConfig(tiny_model_dir, None, data, tmp_path / "ONE", split="val"))["n"] == 1


def test_films_that_data_keeps_small_are_played_where_the_originals_are_gone(
    tiny_model_dir: Path, tiny_openi_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tiny_openi_dir, tmp_path / "SRC"))
    decode = DecodeOptions(side=FILM_SIDE // 2)
    prepare(PrepareConfig("openi", source, tiny_encoder_dir, tmp_path / "DATA", decode=decode))
    shutil.rmtree(source)
    film = pl.read_parquet(tmp_path / "DATA" / "images.parquet").row(0, named=True)
    rows = [(film["study_id"], film["path"], "Cardiomegaly", 0.0, 0.0, FILM_SIDE / 2, FILM_SIDE / 1.0)]
    put_table(pl.DataFrame(rows, schema=BOX_COLUMNS, orient="row"), tmp_path / "DATA" / "boxes.parquet")
    found = point(PointingConfig(tiny_model_dir, None, tmp_path / "DATA", tmp_path / "OUT"))
    assert (found["n"], found["chance"]["value"], found["failed"]) == (1, 0.5, [])
