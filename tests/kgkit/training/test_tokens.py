"""Token stores: the rows a tokenizer gives, opened again only for the same texts, tokenizer and limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.text_tower import TextTower
from kgkit.training import tokens as tokens_module
from kgkit.training.tokens import TokenStore

TEXTS = ["lung", "a broken rib of the left chest wall", "", "Heart!", "lung", "fluid\x00around the lung", "Lunge bläh"]
ANY = st.characters(exclude_categories=["Cs"])


@pytest.fixture(scope="module")
def tower(tiny_recipe: Callable[..., EncoderRecipe]) -> TextTower:
    return TextTower(tiny_recipe().text)


def build(folder: Path, texts: list[str], tower: TextTower, limit: int = 8) -> TokenStore:
    return TokenStore.build(folder, pl.Series("text", texts, dtype=pl.String), tower, limit)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(folder.iterdir())}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8), limit=st.integers(3, 9)
)
def test_rows_are_the_tokenizers(
    tower: TextTower, tmp_path_factory: pytest.TempPathFactory, texts: list[str], limit: int
) -> None:
    store = build(tmp_path_factory.mktemp("store"), texts, tower, limit)
    assert [list(row) for row in store] == tower.tokenize(texts, limit)
    assert len(store) == len(texts)


def test_many_chunks_are_one_store(tower: TextTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "_CHUNK", 3)
    store = build(tmp_path, TEXTS * 5, tower)
    assert [list(row) for row in store] == tower.tokenize(TEXTS * 5, 8)


def test_rows_and_texts_that_are_not_stored(tower: TextTower, tmp_path: Path) -> None:
    store = build(tmp_path, TEXTS, tower, 6)
    wanted = np.array([6, 1, 1])
    assert [list(row) for row in store.rows(wanted)] == tower.tokenize([TEXTS[row] for row in wanted], 6)
    assert store.encode(["a broken rib of the left chest wall"]) == [list(store[1])]
    assert len(store.rows(np.empty(0, dtype=np.int64))) == 0


def test_rows_lie_on_disk_and_not_in_memory(tower: TextTower, tmp_path: Path) -> None:
    store = build(tmp_path, TEXTS, tower)
    assert isinstance(store.flat, np.memmap)
    assert isinstance(store.offsets, np.memmap)
    assert np.shares_memory(store[1], store.flat)
    assert store.flat.dtype == np.int32
    (path,) = tmp_path.glob("*.tokens.npy")
    assert np.load(path).tolist() == store.flat.tolist(), "any reader of .npy files can open it"


def test_the_same_texts_are_not_tokenised_again(tower: TextTower, tmp_path: Path) -> None:
    first = [list(row) for row in build(tmp_path, TEXTS, tower)]
    before = files(tmp_path)
    assert [list(row) for row in build(tmp_path, TEXTS, tower)] == first
    assert files(tmp_path) == before


@pytest.mark.parametrize("texts", [TEXTS[::-1], TEXTS[:-1], [*TEXTS[:-1], "Lunge blah"], ["lunga", *TEXTS[1:]]])
def test_other_texts_are(tower: TextTower, tmp_path: Path, texts: list[str]) -> None:
    build(tmp_path, TEXTS, tower)
    before = files(tmp_path)
    assert [list(row) for row in build(tmp_path, texts, tower)] == tower.tokenize(texts, 8)
    assert not files(tmp_path).keys() & before.keys(), "the old ones are gone"
    assert len(files(tmp_path)) == 2


def test_texts_that_are_cut_elsewhere_are_other_texts(tower: TextTower, tmp_path: Path) -> None:
    build(tmp_path, ["lung rib", "heart"], tower)
    texts = ["lung ri", "bheart"]
    assert [list(row) for row in build(tmp_path, texts, tower)] == tower.tokenize(texts, 8)


def test_another_limit_or_tokenizer_is_another_store(
    tower: TextTower, tmp_path: Path, tiny_recipe: Callable[..., EncoderRecipe]
) -> None:
    assert max(build(tmp_path, TEXTS, tower, 8).lengths) == 8
    assert max(build(tmp_path, TEXTS, tower, 5).lengths) == 5
    other = TextTower(tiny_recipe().text)
    other.tokenizer.add_tokens(["rib of"])
    assert other.tokenize(TEXTS, 5) != tower.tokenize(TEXTS, 5)
    assert [list(row) for row in build(tmp_path, TEXTS, other, 5)] == other.tokenize(TEXTS, 5)


@pytest.mark.parametrize("damaged", ["tokens", "offsets"])
@pytest.mark.parametrize("kept", [0, 100, 140])
def test_a_store_that_is_not_whole_is_made_again(tower: TextTower, tmp_path: Path, damaged: str, kept: int) -> None:
    build(tmp_path, TEXTS, tower)
    (path,) = tmp_path.glob(f"*.{damaged}.npy")
    path.write_bytes(path.read_bytes()[:kept])
    assert [list(row) for row in build(tmp_path, TEXTS, tower)] == tower.tokenize(TEXTS, 8)


def test_a_kill_before_the_end_leaves_nothing_that_is_opened(tower: TextTower, tmp_path: Path) -> None:
    build(tmp_path, TEXTS, tower)
    for path in tmp_path.glob("*.offsets.npy"):  # written last
        path.unlink()
    (tmp_path / "0123.tokens.npy.7.tmp").write_bytes(b"half")
    assert [list(row) for row in build(tmp_path, TEXTS, tower)] == tower.tokenize(TEXTS, 8)
    assert not list(tmp_path.glob("0123*"))
