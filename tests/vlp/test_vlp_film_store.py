"""Films decoded once: what is kept, how it is read back, and what a stopped run leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from graphs import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_layouts import save, write_csv, write_nih, write_table

from kgkit.interface import InputError
from vlp.data.decode import DecodeOptions
from vlp.data.film_reader import FilmLoader, FilmReader, LoaderConfig
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import TABLES, PreparedData, load_data
from vlp.images import ResizePad, difference_hash, load_image, reduce_film, to_bytes

SIZES = ((40, 64), (64, 40), (300, 20), (20, 300), (64, 64), (5, 7), (129, 64))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Films of all shapes, 8 and 16 bit, kept with a longer side of 64."""
    folder = tmp_path_factory.mktemp("store")
    rows = []
    for number, (height, width) in enumerate(SIZES * 2):
        pixels = np.random.default_rng(number).integers(0, 256, size=(height, width))
        deep = number >= len(SIZES)
        save(
            folder / "SRC" / f"{number:02d}.png",
            Image.fromarray(pixels.astype(np.uint16) * 257 if deep else pixels.astype(np.uint8)),
        )
        rows.append((f"{number:02d}.png",))
    write_table(folder / "SRC" / "films.csv", ("path",), rows)
    prepare(PrepareConfig("csv", folder / "SRC", None, folder / "DATA", decode=DecodeOptions(side=64)))
    return load_data(folder / "DATA")


def test_small_films_are_kept_bit_for_bit(kept: PreparedData) -> None:
    reader = FilmReader(kept)
    root = Path(kept.manifest["image_root"])
    for row in kept.images.iter_rows(named=True):
        film = load_image(root / row["path"])
        if max(film.shape) <= 64:
            assert np.allclose(reader.film(row), film, atol=0.5 / 255 + 1e-6)
            assert reader.film(row).shape == film.shape == (row["height"], row["width"])
        if int(row["path"][:2]) < len(SIZES) and max(film.shape) <= 64:
            assert np.array_equal(reader.film(row), film)


def test_large_films_are_kept_in_their_shape(kept: PreparedData) -> None:
    for row in kept.images.iter_rows(named=True):
        longer, shorter = max(row["width"], row["height"]), min(row["width"], row["height"])
        stored = max(row["stored_width"], row["stored_height"]), min(row["stored_width"], row["stored_height"])
        assert stored[0] == min(longer, 64)
        assert stored[1] == pytest.approx(max(1, shorter * min(1, 64 / longer)), abs=0.51)
    assert (kept.folder / "films.bin").stat().st_size == kept.images["bytes"].sum()


def test_a_square_from_the_store_is_the_square_from_the_file(kept: PreparedData) -> None:
    """At the side that is kept: but for rounding to 8 bit."""
    reader = FilmReader(kept)
    root = Path(kept.manifest["image_root"])
    for row in kept.images.iter_rows(named=True):
        direct = ResizePad((row["height"], row["width"]), 64).apply(load_image(root / row["path"]))
        assert np.abs(reader.square(row, 64) - direct).max() <= 0.5 / 255 + 1e-6


@given(st.integers(40, 900), st.integers(40, 900), st.integers(32, 128), st.integers(96, 300), st.data())
def test_a_point_found_in_the_square_lies_on_the_original(
    height: int, width: int, input_size: int, side: int, data: st.DataObject
) -> None:
    """A bright spot goes through store and square; its centre, brought back, is where it was drawn."""
    spot = max(6, round(0.12 * max(height, width)))
    y = data.draw(st.integers(0, max(0, height - spot)))
    x = data.draw(st.integers(0, max(0, width - spot)))
    film = np.zeros((height, width), dtype=np.float32)
    film[y : y + spot, x : x + spot] = 1
    geometry = ResizePad((height, width), input_size)
    square = geometry.apply(reduce_film(film, side).astype(np.float32) / 255)
    weights = square / square.sum()
    centre = (weights.sum(axis=0) @ (np.arange(input_size) + 0.5), weights.sum(axis=1) @ (np.arange(input_size) + 0.5))
    expected = (x + min(spot, width - x) / 2, y + min(spot, height - y) / 2)
    pixel = max(height, width) / min(input_size, side)  # one pixel of the coarser grid, on the original
    assert geometry.to_original(centre) == pytest.approx(expected, abs=pixel)


def test_a_store_too_small_for_the_model_is_refused(kept: PreparedData) -> None:
    """Films that never were larger are enlarged as ever."""
    reader = FilmReader(kept)
    rows = {max(row["height"], row["width"]): row for row in kept.images.iter_rows(named=True)}
    assert reader.square(rows[64], 96).shape == reader.square(rows[7], 96).shape == (96, 96)
    with pytest.raises(
        InputError, match=r"kept with a longer side of 64 pixels, too few for squares of 96: .*--side 96"
    ):
        reader.square(rows[300], 96)


def test_without_a_store_films_come_from_their_files(tmp_path: Path, kept: PreparedData) -> None:
    source = Path(kept.manifest["image_root"])
    prepare(PrepareConfig("csv", source, None, tmp_path / "DATA", decode=DecodeOptions(side=0)))
    data = load_data(tmp_path / "DATA")
    assert not (tmp_path / "DATA" / "films.bin").exists()
    assert data.images["stored"].null_count() == len(data.images)
    assert data.digest == kept.digest
    reader = FilmReader(data)
    for row in data.images.iter_rows(named=True):
        assert np.array_equal(reader.film(row), load_image(source / row["path"]))


def test_the_store_outlives_the_files(tmp_path: Path) -> None:
    write_nih(tmp_path / "SRC")
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA"))
    data = load_data(tmp_path / "DATA")
    (tmp_path / "SRC").rename(tmp_path / "MOVED")
    films = data.films(data.study_ids("test"), frontal_only=True)
    assert FilmReader(data).squares(films, 32).shape == (len(films), 32, 32)
    not_kept = films.row(0, named=True) | {"stored": None}
    with pytest.raises(InputError, match=r"manifest\.json: the films were under .*SRC, which is gone: prepare again"):
        FilmReader(data).film(not_kept)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    write_nih(tmp_path / "SRC")
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA"))
    store = tmp_path / "DATA" / "films.bin"
    store.write_bytes(store.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"films\.bin: [\d,]+ bytes, expected [\d,]+ or more: cut off"):
        FilmReader(load_data(tmp_path / "DATA"))
    store.unlink()
    with pytest.raises(InputError, match=r"films\.bin: damaged or missing"):
        FilmReader(load_data(tmp_path / "DATA"))


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_not_those_that_were_made_are_refused(tmp_path: Path, name: str) -> None:
    write_nih(tmp_path / "SRC")
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA"))
    path = tmp_path / "DATA" / name
    if path.suffix == ".csv":  # a study goes from one part to another
        path.write_text(path.read_text().replace("train", "val", 1))
    else:
        pl.read_parquet(path).with_columns(note=pl.lit("by hand")).write_parquet(path)
    with pytest.raises(InputError, match=rf"{name}: digests disagree: the file has changed since the folder was made"):
        load_data(tmp_path / "DATA")
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: damaged or missing \(No such file or directory\)"):
        load_data(tmp_path / "DATA")


# ---------------------------------------------------------------------------------------------------- loader


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_an_epoch_shows_every_film_once_whatever_the_batches_and_processes(
    kept: PreparedData, count: int, batch: int, processes: int, seed: int | None, epoch: int
) -> None:
    films = pl.concat([kept.images] * 3).head(count)
    shown = []
    for number in range(processes):
        config = LoaderConfig(8, batch, seed=seed, process=(number, processes))
        shown.append(FilmLoader(None, films, config).order(epoch))  # type: ignore[arg-type]
    assert sorted(np.concatenate(shown)) == list(range(count))
    assert max(len(part) for part in shown) - min(len(part) for part in shown) <= 1
    whole = FilmLoader(None, films, LoaderConfig(8, 1, seed=seed)).order(epoch)  # type: ignore[arg-type]
    assert [part[0] for part in shown if len(part)] == list(whole[: min(processes, count)])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_threads(kept: PreparedData, workers: int) -> None:
    reader = FilmReader(kept)
    loader = FilmLoader(reader, kept.images, LoaderConfig(32, 4, seed=5, workers=workers))
    for epoch in (0, 1):
        order = loader.order(epoch)
        seen = []
        for batch in loader.epoch(epoch):
            expected = [reader.square(kept.images.row(int(row), named=True), 32) for row in batch.rows]
            assert np.array_equal(batch.squares, np.stack(expected))
            seen += list(batch.rows)
        assert seen == list(order)
    assert list(loader.order(0)) != list(loader.order(1))


def test_a_loader_can_be_left_in_the_middle_and_begun_again(kept: PreparedData) -> None:
    loader = FilmLoader(FilmReader(kept), kept.images, LoaderConfig(16, 2, workers=2))
    for batch in loader.epoch():
        assert list(batch.rows) == [0, 1]
        break
    assert sum(len(batch.rows) for batch in loader.epoch()) == len(kept.images)


# ---------------------------------------------------------------------------------------------------- stopped runs

KILLED = """
import os, sys
from pathlib import Path
from vlp.data import decode
from vlp.data.prepare import PrepareConfig, prepare

decode._CHUNK, decode._WORKERS = 4, 1
whole, left = decode._decode, [int(sys.argv[3])]

def dying(path, side):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)  # as by kill -9: nothing is tidied up
    return whole(path, side)

decode._decode = dying
prepare(PrepareConfig("nih", Path(sys.argv[1]), None, Path(sys.argv[2])))
"""


@pytest.mark.parametrize("survived", [0, 3, 17])
def test_a_killed_run_leaves_nothing_that_loads_and_is_resumed_to_the_same(tmp_path: Path, survived: int) -> None:
    write_nih(tmp_path / "SRC")
    out = tmp_path / "DATA"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "SRC"), str(out), str(survived)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    for folder in (out, tmp_path / "DATA.partial"):
        with pytest.raises(InputError, match=r"no such folder|it has no manifest\.json"):
            load_data(folder)
    kept = (tmp_path / "DATA.partial" / "films.jsonl").read_text().splitlines()
    assert len(kept) == survived // 4 * 4
    config = PrepareConfig("nih", tmp_path / "SRC", None, out, decode=DecodeOptions(resume=True))
    prepare(config)
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "WHOLE"))
    for name in ("films.bin", "images.parquet", "studies.parquet", "splits.csv", "boxes.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "WHOLE" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DATA", "SRC", "WHOLE"]
    with pytest.raises(InputError, match=r"DATA\.partial: nothing to resume: there is no stopped run here"):
        prepare(config)
    (tmp_path / "DATA.partial").mkdir()  # a folder that does not say what it was begun for is no stopped run
    with pytest.raises(InputError, match=r"DATA\.partial: nothing to resume: there is no stopped run here"):
        prepare(config)


@pytest.mark.parametrize("side", [0, 64])
def test_a_run_stopped_while_linking_does_not_read_its_films_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    from kgkit.interface import ReportMentions

    class Linker:
        stops = True

        def link(self, report_id: str, text: str) -> ReportMentions:
            if self.stops:
                raise KeyboardInterrupt
            return ReportMentions(report_id, text)

    write_csv(tmp_path / "SRC")
    linker = Linker()
    with pytest.raises(KeyboardInterrupt):
        prepare(PrepareConfig("csv", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(side)), linker)
    linker.stops = False
    monkeypatch.delattr("vlp.data.decode.decode_image")
    prepare(
        PrepareConfig("csv", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(side, resume=True)), linker
    )
    left = {"manifest.json", "studies.parquet", "images.parquet", "mentions.parquet", "boxes.parquet", "splits.csv"}
    assert {path.name for path in (tmp_path / "DATA").iterdir()} == left | ({"films.bin"} if side else set())
    assert len(load_data(tmp_path / "DATA").images) == 9


@pytest.mark.parametrize("damage", ["torn line", "pixels missing", "rubbish"])
def test_what_was_half_written_is_done_again(tmp_path: Path, damage: str) -> None:
    write_nih(tmp_path / "SRC")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "SRC"), str(tmp_path / "DATA"), "13"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    partial = tmp_path / "DATA.partial"
    journal, store = partial / "films.jsonl", partial / "films.bin"
    if damage == "torn line":
        journal.write_bytes(journal.read_bytes()[:-7])
        store.write_bytes(store.read_bytes() + b"more")
    elif damage == "pixels missing":
        store.write_bytes(store.read_bytes()[:-1])
    else:
        journal.write_bytes(journal.read_bytes() + b'{"a": 1}\n')
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(resume=True)))
    prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "WHOLE"))
    for name in ("films.bin", "images.parquet"):
        assert (tmp_path / "DATA" / name).read_bytes() == (tmp_path / "WHOLE" / name).read_bytes()


def test_a_run_is_not_resumed_on_other_films(tmp_path: Path) -> None:
    write_nih(tmp_path / "SRC")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "SRC"), str(tmp_path / "DATA"), "9"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    config = PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(side=99, resume=True))
    with pytest.raises(InputError, match=r"DATA\.partial: cannot resume: side changed since the run began"):
        prepare(config)
    next((tmp_path / "SRC").rglob("*.png")).write_bytes(b"")
    config = PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(resume=True))
    with pytest.raises(InputError, match=r"DATA\.partial: cannot resume: films changed since the run began"):
        prepare(config)


def test_strict_stops_at_the_first_bad_film(tmp_path: Path) -> None:
    write_nih(tmp_path / "SRC")
    bad = sorted((tmp_path / "SRC").rglob("*.png"))[5]
    bad.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{bad.name}: empty file, not an image"):
        prepare(PrepareConfig("nih", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(strict=True)))
    assert not (tmp_path / "DATA").exists()


def test_the_same_films_give_the_same_folder(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    write_csv(tmp_path / "SRC")
    for name in "AB":
        prepare(PrepareConfig("csv", tmp_path / "SRC", tiny_encoder_dir, tmp_path / name))
    for path in sorted((tmp_path / "A").iterdir()):
        assert path.read_bytes() == (tmp_path / "B" / path.name).read_bytes(), path.name


def test_the_difference_hash_knows_copies_in_another_form() -> None:
    from scipy import ndimage

    films = [ndimage.gaussian_filter(np.random.default_rng(n).normal(size=(200, 160)), 9) for n in range(30)]
    films = [((film - film.min()) / np.ptp(film)).astype(np.float32) for film in films]
    hashes = [difference_hash(to_bytes(film)) for film in films]
    assert len(set(hashes)) == len(films)
    halves = [difference_hash(reduce_film(film, 100)) for film in films]

    def apart(a: str, b: str) -> int:
        return (int(a, 16) ^ int(b, 16)).bit_count()

    assert np.mean([apart(a, b) for a, b in zip(hashes, halves, strict=True)]) < 4
    assert min(apart(a, b) for a in hashes for b in hashes if a != b) > 40


def test_the_manifest_says_how_films_are_kept(kept: PreparedData) -> None:
    manifest = json.loads((kept.folder / "manifest.json").read_text())
    assert manifest["stored_films"] == {"file": "films.bin", "side": 64}
