"""Predict and ground: what a trained model is used for."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlp import CARDIOMEGALY, FILM_SIDE, MASS

from kgkit.interface import InputError
from vlp.artifact import load_model
from vlp.config import TrainConfig, VlpRecipe
from vlp.data.prepare import PrepareConfig, prepare
from vlp.grounding import GroundConfig, ground, ground_film, heatmap_in_pixels, hottest_box
from vlp.images import ResizePad, load_image
from vlp.predict import PredictConfig, answers, predict
from vlp.queries import resolve_queries
from vlp.training import train


@pytest.fixture
def film(tiny_openi_dir: Path) -> Path:
    return min((tiny_openi_dir / "images").iterdir())


# --- queries and predict ------------------------------------------------------------------------------------------


def test_a_query_goes_by_id_name_or_phrase(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    found = resolve_queries(model, [CARDIOMEGALY, "Cardiomegaly", "enlarged heart", "finding:cardiomegaly"])
    assert {query.concept for query in found.queries} == {CARDIOMEGALY}
    assert all(query.is_seen for query in found.queries)
    assert all(torch.equal(row, found.vectors[0]) for row in found.vectors)


def test_nothing_asked_means_the_findings_or_everything(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    broader = replace(model.queries[1], is_finding=False)
    model = replace(model, queries=(model.queries[0], broader, *model.queries[2:]))
    everything = resolve_queries(model, [])
    assert [query.concept for query in everything.queries] == [query.concept for query in model.queries]
    findings = resolve_queries(model, [], findings_only=True)
    assert [query.concept for query in findings.queries] == [q.concept for q in model.queries if q is not broader]
    assert torch.equal(findings.vectors, everything.vectors[[0, *range(2, len(model.queries))]])


def test_an_unseen_concept_and_free_text_come_from_the_encoder(tiny_model_dir: Path) -> None:
    found = resolve_queries(load_model(tiny_model_dir), [MASS, "HP:0033821", "fluid around the lung"])
    mass, by_code, text = found.queries
    assert (mass.concept, mass.is_seen, mass.is_text_encoded) == (MASS, False, False)
    assert by_code.concept == MASS
    assert torch.equal(found.vectors[0], found.vectors[1])
    assert (text.concept, text.is_text_encoded, text.is_seen) == (None, True, False)
    assert float(found.vectors[2].norm()) == pytest.approx(1, abs=1e-5)


def test_an_encoder_with_other_vectors_is_refused(tiny_model_dir: Path, other_encoder_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    with pytest.raises(InputError, match="encoder digest digest-1, but the model was trained with digest-0"):
        resolve_queries(model, ["fluid around the lung"], other_encoder_dir)
    assert resolve_queries(model, ["Cardiomegaly"], other_encoder_dir).queries[0].is_seen  # needs no encoder
    model.manifest["encoder_path"] = "/gone"
    with pytest.raises(InputError, match="no longer at /gone: give it with --kg-encoder"):
        resolve_queries(model, ["fluid around the lung"])
    with pytest.raises(InputError, match="empty query"):
        resolve_queries(model, [" "])


@pytest.mark.parametrize("name", ["model.safetensors", "query_vectors.safetensors", "queries.parquet"])
def test_a_model_that_is_not_what_was_trained_is_refused(tiny_model_dir: Path, tmp_path: Path, name: str) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "MODEL"))
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1  # in the weights: they still load, and answer otherwise
    (model / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: digests disagree: the file has changed since the folder was made"):
        load_model(model)


def test_predictions_are_the_same_alone_and_among_others(
    tiny_model_dir: Path, tiny_openi_dir: Path, film: Path
) -> None:
    alone = predict(PredictConfig(tiny_model_dir, (film,), ("cardiomegaly",)))
    among = predict(PredictConfig(tiny_model_dir, (tiny_openi_dir / "images",)))
    same = [p for p in among.found if p.image == str(film) and p.concept == CARDIOMEGALY]
    assert same[0].probability == pytest.approx(alone.found[0].probability, abs=1e-5)
    assert all(0 <= p.probability <= 1 for p in among.found)
    assert len(among.found) == 48 * len(load_model(tiny_model_dir).queries)


def test_a_corrupt_film_is_reported_and_the_rest_go_on(tiny_model_dir: Path, film: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"rubbish")
    out = tmp_path / "out.csv"
    found = predict(PredictConfig(tiny_model_dir, (film, tmp_path / "bad.png", film), ("cardiomegaly",), out_path=out))
    assert len(found.found) == 2
    assert found.failed == ((str(tmp_path / "bad.png"), "not an image; expected JPEG, PNG, TIFF or DICOM"),)
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["error"] != "" for row in rows] == [False, False, True]
    assert float(rows[0]["probability"]) == pytest.approx(found.found[0].probability)
    predict(PredictConfig(tiny_model_dir, (film,), ("cardiomegaly",), out_path=tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text())[0]["concept"] == CARDIOMEGALY


def test_hopeless_input_is_refused_by_name(
    tiny_model_dir: Path, tiny_data_dir: Path, film: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"bad\.png: not an image"):
        predict(PredictConfig(tiny_model_dir, (tmp_path / "bad.png",)))
    with pytest.raises(InputError, match="no such file or folder"):
        predict(PredictConfig(tiny_model_dir, (tmp_path / "gone.png",)))
    with pytest.raises(InputError, match="this is a prepared data, expected a trained model"):
        predict(PredictConfig(tiny_data_dir, (film,)))
    with pytest.raises(InputError, match=r"cannot write '\.xls'"):
        predict(PredictConfig(tiny_model_dir, (film,), out_path=tmp_path / "out.xls"))


def test_a_blank_film_is_not_answered(tiny_model_dir: Path, film: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(blank)
    found = predict(PredictConfig(tiny_model_dir, (blank, film)))
    assert found.failed == ((str(blank), "blank film (every pixel is the same)"),)
    assert {prediction.image for prediction in found.found} == {str(film)}
    with pytest.raises(InputError, match=r"blank\.png: blank film"):
        ground(GroundConfig(tiny_model_dir, blank, "cardiomegaly"))


def test_an_answer_that_is_no_number_is_a_failure(tiny_model_dir: Path, film: Path) -> None:
    model = load_model(tiny_model_dir)
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    resolved = resolve_queries(model, ["cardiomegaly"])
    found = list(answers(model, [film], lambda path, size: torch.rand(size, size), resolved))
    assert str(found[0][1]) == "the model's answer is not a number"


# --- ground -------------------------------------------------------------------------------------------------------


def test_the_overlay_has_the_size_of_the_film(tiny_model_dir: Path, tmp_path: Path) -> None:
    film = np.random.default_rng(0).integers(0, 255, (50, 90), dtype=np.uint8)
    Image.fromarray(film).save(tmp_path / "film.png")
    found = ground(GroundConfig(tiny_model_dir, tmp_path / "film.png", "cardiomegaly", tmp_path / "out" / "o.png"))
    assert found.heatmap.shape == (50, 90)
    assert found.heatmap.dtype == np.float32
    assert 0 <= found.score <= 1
    with Image.open(tmp_path / "out" / "o.png") as picture:
        assert (picture.size, picture.mode) == ((90, 50), "RGB")


def test_one_hot_patch_lands_on_its_place_in_the_film() -> None:
    """A film twice as wide as high fills rows 16 to 48 of the square; patch (3, 1) is centred on (12, 28) there."""
    attention = np.zeros((8, 8), dtype=np.float32)
    attention[3, 1] = 1.0
    heat = heatmap_in_pixels(attention, ResizePad((100, 200), 64), (4.0, 4.0))
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert heat.max() == pytest.approx(1)
    assert (x, y) == (pytest.approx(37, abs=2), pytest.approx(37, abs=2))
    x0, y0, x1, y1 = hottest_box(heat)
    assert x0 <= x < x1
    assert y0 <= y < y1
    assert (x1 - x0) * (y1 - y0) < 0.25 * heat.size


def test_a_map_in_which_no_place_stands_out_is_pale_and_has_no_box() -> None:
    geometry = ResizePad((30, 20), 64)
    even = np.full((4, 4), 1 / 16, dtype=np.float32)
    assert heatmap_in_pixels(even, geometry, (8.0, 8.0)).max() < 0.1
    assert hottest_box(heatmap_in_pixels(even, geometry, (8.0, 8.0))) is None
    assert hottest_box(heatmap_in_pixels(np.zeros((4, 4), dtype=np.float32), geometry, (8.0, 8.0))) is None
    one = np.zeros((4, 4), dtype=np.float32)
    one[1, 2] = 1
    assert heatmap_in_pixels(one, geometry, (8.0, 8.0)).max() == pytest.approx(1)


def test_the_heat_map_finds_the_drawn_square(tiny_encoder_dir: Path, tiny_tower_dir: Path, tmp_path: Path) -> None:
    """The law of grounding: trained on reports alone, the map's peak lies inside the square that the concept names."""
    source = tmp_path / "SRC"
    squares = draw_films(source, studies=240)
    prepare(PrepareConfig("openi", source, tiny_encoder_dir, tmp_path / "DATA"))
    recipe = square_recipe(tiny_tower_dir)
    train(TrainConfig(tmp_path / "DATA", tiny_encoder_dir, tmp_path / "MODEL", recipe))
    model = load_model(tmp_path / "MODEL")
    resolved = resolve_queries(model, [CARDIOMEGALY])
    hits = []
    for name, (x0, y0, side) in squares.items():
        found = ground_film(model, load_image(source / "images" / name), resolved)[0]
        y, x = np.unravel_index(int(np.nanargmax(found.heatmap)), found.heatmap.shape)
        hits.append(x0 <= x < x0 + side and y0 <= y < y0 + side)
    assert len(hits) >= 30
    assert np.mean(hits) >= 0.95


def square_recipe(tower: Path) -> VlpRecipe:
    recipe = VlpRecipe()
    return replace(
        recipe,
        tower=replace(recipe.tower, name=str(tower), input_size=2 * FILM_SIDE, views=1, precision="fp32"),
        model=replace(recipe.model, width=32, layers=1, feedforward=32, joint_dim=8),
        targets=replace(recipe.targets, min_count=5),
        optimizer=replace(recipe.optimizer, epochs=12, batch_size=16, learning_rate=3e-3, patience=0),
    )


def draw_films(folder: Path, studies: int) -> dict[str, tuple[int, int, int]]:
    """Noise films; half hold a bright square that the report calls cardiomegaly. Returns those of the test split."""
    generator = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    reports, projections, splits = ["uid,findings,impression"], ["uid,filename,projection"], ["uid,split"]
    squares = {}
    width, height, side = 2 * FILM_SIDE, 2 * FILM_SIDE - 24, 40
    for number in range(studies):
        name, split = f"{number}.png", "train" if number < 0.7 * studies else "test"
        film = generator.uniform(0, 120, size=(height, width))
        if number % 2:
            x0, y0 = (int(generator.integers(0, limit - side)) for limit in (width, height))
            film[y0 : y0 + side, x0 : x0 + side] += 130
            if split == "test":
                squares[name] = (x0, y0, side)
        Image.fromarray(film.astype(np.uint8)).save(folder / "images" / name)
        reports.append(f"{number},{'There is' if number % 2 else 'No'} cardiomegaly.,")
        projections.append(f"{number},{name},Frontal")
        splits.append(f"{number},{split}")
    for file, lines in (("reports", reports), ("projections", projections), ("splits", splits)):
        (folder / f"{file}.csv").write_text("\n".join(lines) + "\n")
    return squares
