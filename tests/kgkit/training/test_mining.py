"""Hard negatives are the nearest others."""

from __future__ import annotations

import numpy as np
import pytest

from kgkit.training import mining
from kgkit.training.mining import nearest_rows


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(bank: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    scores = bank[rows] @ bank[rows].T
    np.fill_diagonal(scores, -np.inf)
    return rows[np.argsort(-scores, axis=1)[:, :k]]


def test_few_rows_are_searched_exactly() -> None:
    bank, rows = unit(300, 16), np.arange(5, 300, 2)
    np.testing.assert_array_equal(nearest_rows(bank, rows, 8), by_hand(bank, rows, 8))


def test_many_rows_are_searched_in_lists_and_never_find_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "_EXACT_BELOW", 100)
    centres = unit(40, 16, seed=1)
    bank = np.repeat(centres, 20, axis=0) + 0.05 * unit(800, 16, seed=2)
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    rows = np.arange(800)
    found = nearest_rows(bank, rows, 8)
    assert not (found == rows[:, None]).any()
    shared = [len(set(one) & set(other)) for one, other in zip(found, by_hand(bank, rows, 8), strict=True)]
    assert np.mean(shared) > 0.95 * 8


def test_equal_vectors_are_each_others_neighbours_and_not_their_own() -> None:
    bank = np.repeat(unit(2, 8), 3, axis=0)
    found = nearest_rows(bank, np.arange(6), 4)
    assert all(row not in found[row] for row in range(6))
    assert set(found[0][:2]) == {1, 2}


def test_fewer_rows_than_wanted_give_what_there_is() -> None:
    assert nearest_rows(unit(3, 8), np.array([0, 2]), 8).tolist() == [[2], [0]]
