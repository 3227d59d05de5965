"""Abstaining from what is no frontal chest film; overlays; calibrated answers."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images
from tiny_vlp import CARDIOMEGALY, FILM_SIDE

from kgkit.interface import InputError
from vlp.artifact import VlpModel, load_model
from vlp.config import TowerConfig
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import load_data
from vlp.evaluation.calibration import CALIBRATION_FILE, load_calibration
from vlp.features import load_squares, patch_features
from vlp.images import IMAGE_SUFFIXES
from vlp.input_check import (
    _RIDGE,
    INPUT_CHECK_FILE,
    InputCheck,
    _principal,
    _separate,
    fit_input_check,
    inverted_features,
    load_input_check,
    refused_by_pixels,
    write_input_check,
)
from vlp.predict import PredictConfig, predict
from vlp.towers import load_tower


def film_like(generator: np.random.Generator, count: int, zoom: float = 1, x0: float = 0, y0: float = 0) -> np.ndarray:
    """Two dark lungs on a bright ground, each a little elsewhere; closer and off centre if asked."""
    y, x = (np.mgrid[:FILM_SIDE, :FILM_SIDE] / FILM_SIDE - np.array([y0, x0])[:, None, None] - 0.5) / zoom + 0.5
    films = []
    for _ in range(count):
        (dx, dy), size = generator.uniform(-0.04, 0.04, 2), generator.uniform(0.14, 0.18)
        lungs = sum(np.exp(-((x - cx - dx) ** 2 + (y - 0.45 - dy) ** 2 / 3) / size**2 * 2) for cx in (0.3, 0.7))
        films.append(0.8 - 0.6 * lungs + generator.normal(0, 0.03, x.shape))
    return np.clip(films, 0, 1).astype(np.float32)


def look(model: VlpModel, squares: np.ndarray) -> np.ndarray:
    return patch_features(model.tower, torch.from_numpy(squares), model.recipe.tower).numpy()


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> VlpModel:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def check(model: VlpModel) -> InputCheck:
    generator = np.random.default_rng(0)
    found = fit_input_check(look(model, film_like(generator, 200)), look(model, film_like(generator, 100)))
    assert found is not None
    return found


def test_at_most_two_films_in_a_hundred_are_refused_and_other_pictures_are(model: VlpModel, check: InputCheck) -> None:
    generator = np.random.default_rng(1)
    films = film_like(generator, 300)
    assert (check.distances(look(model, films)) > 1).mean() <= 0.02
    stripes = (np.sin(np.arange(FILM_SIDE) / generator.uniform(1, 4, size=(40, 1))) > 0).astype(np.float32)
    others = {
        "noise": generator.uniform(size=(40, FILM_SIDE, FILM_SIDE)).astype(np.float32),
        "stripes": np.repeat(stripes[:, None], FILM_SIDE, axis=1),
        "on its side": np.ascontiguousarray(np.rot90(films[:40], axes=(1, 2))),
        "a corner of it": np.ascontiguousarray(films[:40, :32, :32].repeat(2, axis=1).repeat(2, axis=2)),
    }
    for name, pictures in others.items():
        assert (check.distances(look(model, pictures)) > 1).mean() >= 0.95, name


def test_validation_films_alone_set_the_limit(model: VlpModel) -> None:
    generator = np.random.default_rng(2)
    train, val = (look(model, film_like(generator, count)) for count in (150, 60))
    one = fit_input_check(train, val)
    assert one is not None
    assert (one.distances(val) <= 1).mean() >= 0.98
    darker = film_like(generator, 60) ** 2
    wider = fit_input_check(train, look(model, darker[::2].repeat(2, axis=0)))
    assert wider is not None
    assert np.array_equal(wider.directions, one.directions)
    assert np.array_equal(wider.weights, one.weights)
    others = look(model, darker[1::2])
    assert (wider.distances(others) <= 1).mean() > (one.distances(others) <= 1).mean()
    few = fit_input_check(train, val[:10])  # too few: every fifth training film takes their place
    assert few is not None
    assert len(few.variances) < len(one.variances)
    assert fit_input_check(train[:20], val[:0]) is None


def smooth_features(films: np.ndarray) -> np.ndarray:
    """Patch features as a good tower gives them, finer than the check looks: brightness and edges, 16 x 16."""
    edges = np.abs(np.gradient(films, axis=1)), np.abs(np.gradient(films, axis=2))
    channels = np.stack([films, films**2, *edges], axis=-1)
    return channels.reshape(len(films), 16, 4, 16, 4, 4).mean(axis=(2, 4))


def test_a_film_may_be_off_centre_tilted_or_closer_but_not_broken() -> None:
    """What films of another hospital are, passes; what is broken does not."""
    generator = np.random.default_rng(4)
    train, val, more = (film_like(generator, count) for count in (200, 60, 100))
    looks = [smooth_features(films) for films in (train, val, 1 - train)]
    check = fit_input_check(*looks)
    assert check is not None
    for move in ((1.1, 0, 0), (0.92, 0, 0), (1, 0.05, 0), (1, -0.05, 0.05), (1.1, 0, -0.05)):
        moved = film_like(generator, 100, *move)
        assert (check.distances(smooth_features(moved)) <= 1).mean() >= 0.95, move
    broken = {
        "inverted": 1 - more, "upside down": more[:, ::-1] * np.linspace(0.5, 1, FILM_SIDE)[:, None],
        "half": more[:, :, :32].repeat(2, axis=2), "a corner": more[:, :16, :16].repeat(4, axis=1).repeat(4, axis=2),
    }  # fmt: skip
    for name, films in broken.items():
        assert (check.distances(smooth_features(films)) > 1).mean() >= 0.95, name
    again = fit_input_check(*looks)
    assert again is not None
    assert all(np.array_equal(getattr(again, field.name), getattr(check, field.name)) for field in fields(check))


def test_a_few_broken_films_among_the_validation_films_do_not_open_the_gate() -> None:
    generator = np.random.default_rng(6)
    train, val, more = (smooth_features(film_like(generator, count)) for count in (200, 60, 100))
    broken = smooth_features(1 - film_like(generator, 100))
    clean = fit_input_check(train, val)
    spoiled = fit_input_check(train, np.concatenate([val, broken[:3]]))
    assert clean is not None
    assert spoiled is not None
    assert spoiled.limit[0] < 1.5 * clean.limit[0] + 1
    assert (spoiled.distances(broken) > 1).all()
    assert (spoiled.distances(more) <= 1).mean() >= 0.95


@given(st.integers(3, 30), st.integers(2, 40), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_directions_and_weights_are_those_of_the_textbook(films: int, features: int, seed: int) -> None:
    """Fewer films than features or more: both ways of solving agree with plain linear algebra."""
    generator = np.random.default_rng(seed)
    good, bad = generator.normal(size=(films, features)), generator.normal(1, 1, size=(films, features))
    count = min(films, features, 3)
    _, _, expected = np.linalg.svd(good, full_matrices=False)
    found = _principal(good, count)
    assert np.abs((found * expected[:count]).sum(axis=1)) == pytest.approx(np.ones(count), abs=1e-4)
    x = np.vstack([good, bad])
    x = x - x.mean(axis=0)
    y = np.repeat([1.0, -1.0], films)
    ridge = np.linalg.inv(x.T @ x / len(x) + _RIDGE * features * np.eye(features)) @ (x.T @ y / len(x))
    assert _separate(good, [bad]) == pytest.approx(ridge, abs=1e-8)


def test_inverted_films_are_looked_at_through_the_tower(model: VlpModel, tiny_data_dir: Path) -> None:
    data = load_data(tiny_data_dir)
    films = data.films(data.study_ids("train"), frontal_only=True)
    found = inverted_features(model.tower, data, films, model.recipe.tower, torch.device("cpu"))
    assert found.dtype == np.float16
    square = FilmReader(data).square(films.row(1, named=True), model.recipe.tower.input_size)
    assert found[1] == pytest.approx(look(model, 1 - square[None])[0], abs=2e-3)
    assert len(found) == len(films)
    assert inverted_features(model.tower, data, films[:0], model.recipe.tower, torch.device("cpu")).shape[0] == 0


def test_a_check_is_read_back(check: InputCheck, model: VlpModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"this model has no input check"):
        load_input_check(tmp_path)
    write_input_check(tmp_path, None)
    assert not list(tmp_path.iterdir())
    write_input_check(tmp_path, check)
    features = look(model, film_like(np.random.default_rng(3), 4))
    assert load_input_check(tmp_path).distances(features) == pytest.approx(check.distances(features), rel=1e-3)
    save_file({"mean": np.zeros(3)}, tmp_path / INPUT_CHECK_FILE)
    with pytest.raises(InputError, match=r"has no 'scale': made by another version, train again"):
        load_input_check(tmp_path)
    (tmp_path / INPUT_CHECK_FILE).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="damaged"):
        load_input_check(tmp_path)


def test_pixels_alone_refuse_what_is_blank_coloured_or_tiny(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    grey = generator.uniform(size=(80, 90)).astype(np.float32)
    Image.fromarray((grey * 255).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(generator.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)).save(tmp_path / "rgb.jpg")
    assert refused_by_pixels(tmp_path / "grey.png", grey) is None
    assert refused_by_pixels(tmp_path / "rgb.jpg", grey) is None  # grey kept in three channels
    assert "coloured" in (refused_by_pixels(tmp_path / "colour.png", grey) or "")
    assert "too small: 28 x 70" in (refused_by_pixels(tmp_path / "grey.png", grey[:70, :28]) or "")
    assert "blank" in (refused_by_pixels(tmp_path / "grey.png", np.full_like(grey, 0.4)) or "")


@pytest.fixture
def checked_model_dir(tiny_model_dir: Path, tiny_openi_dir: Path, model: VlpModel, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "MODEL"))
    films = sorted(path for path in (tiny_openi_dir / "images").iterdir() if path.suffix in IMAGE_SUFFIXES)
    squares = load_squares(films, model.recipe.tower.input_size)
    write_input_check(folder, fit_input_check(look(model, squares.numpy()), look(model, squares.numpy()[:0])))
    return folder


def test_predict_abstains_with_a_reason_and_answers_the_rest(
    checked_model_dir: Path, tiny_openi_dir: Path, tmp_path: Path
) -> None:
    film = min((tiny_openi_dir / "images").iterdir())
    stripes = np.tile(np.where(np.arange(FILM_SIDE) % 2, 255, 0).astype(np.uint8), (FILM_SIDE, 1))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    (tmp_path / "empty.png").write_bytes(b"")
    paths = (film, tmp_path / "stripes.png", tmp_path / "empty.png")
    config = PredictConfig(checked_model_dir, paths, ("cardiomegaly",), out_path=tmp_path / "out.csv", check_input=True)
    done = predict(config)
    assert [found.image for found in done.found] == [str(film)]
    assert done.abstained[0][0] == str(tmp_path / "stripes.png")
    assert "not like the frontal chest films" in done.abstained[0][1]
    assert done.failed == ((str(tmp_path / "empty.png"), "empty file, not an image"),)
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["probability"] != "", row["abstained"] != "", row["error"] != "") for row in rows] == [
        (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    only = predict(PredictConfig(checked_model_dir, paths[1:2], ("cardiomegaly",), check_input=True))
    assert only.found == ()
    assert len(only.abstained) == 1


def test_a_model_without_a_check_says_so(tiny_model_dir: Path, tiny_openi_dir: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny_model_dir, tmp_path / "MODEL"))
    (bare / INPUT_CHECK_FILE).unlink(missing_ok=True)
    with pytest.raises(InputError, match="this model has no input check"):
        predict(PredictConfig(bare, (tiny_openi_dir / "images",), check_input=True))


def test_overlays_are_drawn_for_the_likeliest_findings(
    tiny_model_dir: Path, tiny_openi_dir: Path, tmp_path: Path
) -> None:
    films = tuple(sorted((tiny_openi_dir / "images").iterdir())[:2])
    config = PredictConfig(tiny_model_dir, (*films, films[0]), overlay_dir=tmp_path / "maps", overlays_per_film=2)
    done = predict(config)
    assert len(done.overlays) == len(set(done.overlays)) == 4  # a film given twice is drawn once
    best = max((f for f in done.found if f.image == str(films[0])), key=lambda found: found.probability)
    assert done.overlays[0].name.startswith(films[0].stem)
    assert best.finding.casefold().split()[0] in done.overlays[0].name
    with Image.open(done.overlays[0]) as picture:
        assert picture.size == (FILM_SIDE, FILM_SIDE)


def test_what_training_leaves_behind_for_use(tiny_model_dir: Path, tiny_data_dir: Path) -> None:
    """The calibration of a model rests on its validation reports, and reads no label."""
    kept = load_calibration(tiny_model_dir / CALIBRATION_FILE)
    assert kept.source == "what the validation reports say"
    assert set(kept.findings) == {query.concept for query in load_model(tiny_model_dir).queries}
    source = Path(json.loads((tiny_data_dir / "manifest.json").read_text())["image_root"])
    film = next(path for path in sorted(source.rglob("*.png")))
    done = predict(PredictConfig(tiny_model_dir, (film,), (CARDIOMEGALY,)))
    expected = kept.findings[CARDIOMEGALY].apply(done.found[0].probability)
    assert done.calibrated[0] == pytest.approx(float(expected))


@pytest.mark.data
@pytest.mark.slow
def test_films_of_another_hospital_pass_and_nothing_else_does(tmp_path: Path) -> None:
    """Fitted on Open-i's training films alone. NIH's films pass but for 2%; one of the 262 hangs upside down.

    Natural pictures are grey, so that it is not their colour that gives them away; the films of PneumoniaMNIST
    (children, 28 pixels a side) are enlarged, so that it is not their size.
    """
    folder = os.environ.get("KGKIT_DATA")
    if not folder:
        pytest.skip("KGKIT_DATA is not set: the input check is not tried on films of another hospital")
    openi, tower, config = Path(folder) / "indiana_cxr", load_tower("efficientnet-lite0"), TowerConfig()

    def seen(paths: list[Path], change: Callable[[torch.Tensor], torch.Tensor] = lambda squares: squares) -> np.ndarray:
        parts = [paths[start : start + config.batch_size] for start in range(0, len(paths), config.batch_size)]
        squares = (change(load_squares(part, config.input_size)) for part in parts)
        return np.concatenate([patch_features(tower, part, config).numpy() for part in squares])

    with (openi / "splits.csv").open() as stream:
        split = {row["uid"]: row["split"] for row in csv.DictReader(stream)}
    films: dict[tuple[str, str], list[Path]] = {}
    with (openi / "projections.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["has_image"] == "1":
                kind = (split[row["uid"]], row["projection"])
                films.setdefault(kind, []).append(openi / "images" / row["image_file"])
    train, frontals = films["train", "Frontal"], films["val", "Frontal"]
    check = fit_input_check(seen(train), seen(frontals), seen(train[::5], lambda squares: 1 - squares))
    assert check is not None
    nih = sorted((Path(folder) / "nih_cxr" / "images").iterdir())
    assert (check.distances(seen(nih)) > 1).mean() <= 0.02
    assert (check.distances(seen(films["val", "Lateral"])) > 1).mean() >= 0.97
    some = frontals[:100]
    for change in (lambda x: x.flip(1), lambda x: x.transpose(1, 2), lambda x: 1 - x):
        assert (check.distances(seen(some, change)) > 1).mean() >= 0.97

    scenes = [Image.fromarray(scene).convert("L") for scene in load_sample_images().images]
    crops = [scene.crop((x, y, x + 200, y + 200)) for scene in scenes for x in (0, 200, 400) for y in (0, 200)]
    with np.load(Path(folder) / "pneumoniamnist" / "pneumoniamnist_subset.npz") as content:
        small = [Image.fromarray(film).resize((256, 256)) for film in content["test_images"][:200]]
    for name, pictures in (("natural", [*scenes, *crops]), ("children", small)):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            picture.save(tmp_path / name / f"{number:03d}.png")
        paths = sorted((tmp_path / name).iterdir())
        assert (check.distances(seen(paths)) > 1).mean() >= 0.97, name
