"""The map of an encoder: its size, its colours, its labels, and that a seed decides it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from PIL import Image
from tiny_thorax import unit_rows, write_encoder

from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.concept_map import (
    REST_STYLE,
    STYLES,
    MapOptions,
    concept_map,
    draw_concept_map,
    map_figure,
)
from kgkit.errors import InputError

Command = Callable[..., tuple[int, str, str]]
GROUPS = {"T047": "Disorders", "T023": "Anatomy", "T060": "Procedures"}


def clusters(count: int, spread: float = 0.1) -> np.ndarray:
    """Unit rows around three directions in turn."""
    rows = np.eye(3, 16)[np.arange(count) % 3] + spread * unit_rows(count, 16, 5)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def grouped(folder: Path, count: int) -> Path:
    types = [[list(GROUPS)[row % 3]] for row in range(count)]
    return write_encoder(folder, clusters(count), types=types)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety concepts in three groups, which lie apart."""
    return grouped(tmp_path_factory.mktemp("map") / "encoder", 90)


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((image == wanted).all(axis=2).any())


# The picture


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (801, 333), (300, 300), (1110, 770)])
def test_the_picture_has_the_asked_size(folder: Path, tmp_path: Path, width: int, height: int) -> None:
    draw_concept_map(folder, tmp_path / "m.png", MapOptions(width=width, height=height))
    with Image.open(tmp_path / "m.png") as image:
        assert (image.format, image.size) == ("PNG", (width, height))


def test_a_seed_decides_the_picture(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_concept_map(folder, tmp_path / f"{name}.png", MapOptions(sample=60, seed=seed, width=400, height=300))
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.parametrize("ending", [".svg", ".pdf"])
def test_other_formats_by_their_ending(folder: Path, tmp_path: Path, ending: str) -> None:
    draw_concept_map(folder, tmp_path / f"m{ending}", MapOptions(width=400, height=300))
    assert (tmp_path / f"m{ending}").read_bytes().startswith({".svg": b"<?xml", ".pdf": b"%PDF"}[ending])


@pytest.mark.parametrize("count", [1, 2, 3, 11, 12, 13])
def test_tiny_encoders_have_a_map(tmp_path: Path, count: int) -> None:
    folder = grouped(tmp_path / "e", count)
    found = draw_concept_map(folder, tmp_path / "m.png", MapOptions(width=400, height=300))
    assert found.places.shape == (count, 2)
    assert np.isfinite(found.places).all()
    image = pixels(tmp_path / "m.png")
    for place in range(min(count, 3)):
        assert has_colour(image, STYLES[place][0]), "the legend shows it"
    assert not has_colour(image, STYLES[3][0])


def test_equal_vectors_have_a_map(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", np.repeat(unit_rows(1, 8, 0), 30, axis=0))
    assert np.isfinite(draw_concept_map(folder, tmp_path / "m.png", MapOptions(width=400, height=300)).places).all()


# Places


def test_neighbours_on_the_map_are_neighbours_in_the_vectors(folder: Path) -> None:
    found = concept_map(load_encoder(folder), MapOptions())
    distances = np.linalg.norm(found.places[:, None] - found.places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert (nearest % 3 == np.arange(90) % 3).mean() > 0.95, "of the same cluster"
    np.testing.assert_allclose(found.places.max(axis=0), -found.places.min(axis=0), atol=1e-4)


def test_the_sample_is_drawn_by_the_seed_and_stays_in_order(folder: Path) -> None:
    encoder = load_encoder(folder)
    first, again, other = (concept_map(encoder, MapOptions(sample=20, seed=seed)).rows for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    assert len(set(first.tolist())) == 20
    assert sorted(first) == first.tolist()
    assert concept_map(encoder, MapOptions(sample=90)).rows.tolist() == list(range(90))


# Colours


def test_colours_follow_groups(folder: Path) -> None:
    encoder, options = load_encoder(folder), MapOptions(sample=50)
    found = concept_map(encoder, options)
    drawn = map_figure(encoder, found, options).axes[0].collections[:3]
    for category, points in zip(found.categories, drawn, strict=True):
        assert to_hex(points.get_facecolor()[0]).upper() == category.style[0]
        rows = [row for row, place in zip(found.rows, found.places, strict=True)
                if (points.get_offsets() == place).all(axis=1).any()]  # fmt: skip
        groups = {GROUPS[encoder.semantic_types(encoder.concepts[row])[0]] for row in rows}
        assert groups == {category.name}
        assert len(rows) == category.num_drawn
        assert category.num_all == 30


def test_a_group_has_the_same_colour_on_every_map(tmp_path: Path) -> None:
    styles: dict[str, set[tuple[str, str]]] = {}
    for name, types in (("a", ["T047", "T023", "T023"]), ("b", ["T060", "T023", "T047"]), ("c", ["T121"] * 3)):
        folder = write_encoder(tmp_path / name, unit_rows(3, 8, 0), types=[[tui] for tui in types])
        for category in concept_map(load_encoder(folder), MapOptions()).categories:
            styles.setdefault(category.name, set()).add(category.style)
    assert set(styles) == {"Disorders", "Anatomy", "Procedures", "Chemicals & Drugs"}
    assert len({style for own in styles.values() for style in own}) == 4
    assert all(len(own) == 1 for own in styles.values())


def test_what_has_no_group_is_grey(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", unit_rows(5, 8, 0), types=[[], ["T047"], [], ["T999"], ["T999", "T047"]])
    *_, rest = concept_map(load_encoder(folder), MapOptions()).categories
    assert (rest.name, rest.style, rest.num_all) == ("no semantic type", REST_STYLE, 3)


def test_colouring_by_type_and_by_prefix(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(folder)
    by_type = concept_map(encoder, MapOptions(colour="type")).categories
    assert {category.name for category in by_type} == {
        "Disease or Syndrome", "Body Part, Organ, or Organ Component", "Diagnostic Procedure"
    }  # fmt: skip
    (prefix,) = concept_map(encoder, MapOptions(colour="prefix")).categories
    assert (prefix.name, prefix.num_all) == ("test", 90)
    types = [[f"T{number:03d}"] for number in range(300, 330) for _ in range(330 - number)]
    many = load_encoder(write_encoder(tmp_path / "many", unit_rows(len(types), 8, 0), types=types))
    *own, rest = concept_map(many, MapOptions(colour="type")).categories
    assert [(category.name, category.num_all) for category in own] == [(f"T{300 + n}", 30 - n) for n in range(14)]
    assert (rest.name, rest.style, rest.num_all) == ("16 others", REST_STYLE, sum(range(1, 17)))


def contrast(first: str, second: str) -> float:
    """Distance of two colours as eyes without green cones see them (Viénot et al. 1999), 0 to about 400."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    seen = []
    for colour in (first, second):
        linear = (np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255) ** 2.2
        red, _, blue = to_lms @ linear
        without = np.linalg.inv(to_lms) @ [red, 0.494207 * red + 1.24827 * blue, blue]
        seen.append(255 * np.clip(without, 0, 1) ** (1 / 2.2))
    return float(np.linalg.norm(seen[0] - seen[1]))


def test_colours_differ_for_eyes_without_green() -> None:
    colours = {colour for colour, _ in STYLES}
    assert len(colours) == 7
    assert len(set(STYLES)) == len(STYLES)
    assert contrast("#00AA00", "#BB7700") < 60, "the measure sees what such eyes confuse"
    assert min(contrast(*pair) for pair in combinations(sorted(colours), 2)) > 30


# Labels


def test_labels_do_not_overlap_and_stay_inside(tmp_path: Path) -> None:
    titles = [f"a rather long name of the concept number {row}" for row in range(200)]
    folder = write_encoder(tmp_path / "e", clusters(200, 0.4), titles=titles)
    encoder, options = load_encoder(folder), MapOptions(width=900, height=700)
    figure = map_figure(encoder, concept_map(encoder, options), options)
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 5
    assert all(isinstance(text, Annotation) for text in axes.texts)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_the_best_known_concept_of_a_region_is_named(tmp_path: Path) -> None:
    parents = [[] if row in (0, 1) else [f"test:{row % 2:06d}"] for row in range(40)]
    vectors = np.where(np.arange(40)[:, None] % 2, clusters(1), clusters(2)[1:]) + 0.02 * unit_rows(40, 16, 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    types = [["T047"] if row % 2 else ["T023"] for row in range(40)]
    titles = ["heart", "heart disease", *(f"name {row}" for row in range(2, 40))]
    folder = write_encoder(tmp_path / "e", vectors, parents=parents, types=types, titles=titles)
    encoder, options = load_encoder(folder), MapOptions()
    labels = {text.get_text() for text in map_figure(encoder, concept_map(encoder, options), options).axes[0].texts}
    assert {"heart", "heart disease"} <= labels


def test_names_are_text_and_not_formulas(tmp_path: Path) -> None:
    titles = ["$x^{2", r"\frac{1}{", "a_b $"]
    folder = write_encoder(tmp_path / "$e_{", clusters(3), titles=titles)
    encoder, options = load_encoder(folder), MapOptions()
    figure = map_figure(encoder, concept_map(encoder, options), options)
    assert {text.get_text() for text in figure.axes[0].texts} == set(titles)
    assert figure.texts[0].get_text() == "Concepts of the encoder $e_{"
    draw_concept_map(folder, tmp_path / "m.png", options)


# What is refused


def test_bad_input_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not the ending of a picture: '\.jpeg'; .*\.png"):
        draw_concept_map(folder, tmp_path / "m.jpeg", MapOptions())
    with pytest.raises(InputError, match="sample is 0, expected 1 or more"):
        MapOptions(sample=0)
    with pytest.raises(InputError, match="seed is -1, expected 0 to 4294967295"):
        MapOptions(seed=-1)
    with pytest.raises(InputError, match=r"cannot colour by 'groups'; did you mean 'group'\? choices: group, prefix"):
        MapOptions(colour="groups")
    for size in ({"width": 299}, {"height": 8001}):
        with pytest.raises(InputError, match=r"a picture of .* pixels; expected 300 to 8000 on each side"):
            MapOptions(**size)
    nothing = write_encoder(tmp_path / "nothing", unit_rows(0, 4, 0))
    with pytest.raises(InputError, match="nothing: the encoder has no concepts, nothing to draw"):
        draw_concept_map(nothing, tmp_path / "m.png", MapOptions())
    broken = unit_rows(5, 4, 0)
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match="some vectors are not finite"):
        draw_concept_map(write_encoder(tmp_path / "nan", broken), tmp_path / "m.png", MapOptions())
    assert not [path for path in tmp_path.iterdir() if re.search("m[.]|tmp$", path.name)]


def test_the_command(tiny_encoder: Path, tiny_kg: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "map.png"
    code, said, err = command("kgkit", "map-concepts", tiny_encoder, "--out", out, "--sample", 30, "--width", 800)
    assert (code, err) == (0, "")
    with Image.open(out) as image:
        assert image.size == (800, 1200)
    first, *rows = said.splitlines()
    assert first == f"30 concepts drawn; written to {out}"
    counts = {row.split("  ")[-1]: tuple(map(int, re.findall(r"\d+", row))) for row in rows}
    assert sum(drawn for drawn, _ in counts.values()) == 30
    assert {"Disorders", "Anatomy"} <= set(counts)
    code, said, err = command("kgkit", "map-concepts", tiny_kg, "--out", out)
    assert (code, said) == (1, "")
    assert err == f"kgkit: {tiny_kg}: this is a knowledge graph, expected a concept encoder\n"
