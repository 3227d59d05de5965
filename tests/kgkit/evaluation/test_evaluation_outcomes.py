"""Figures, intervals and paired differences, and when two methods may not be paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.evaluation.outcomes import Answer, Outcomes, measure, rank_outcomes, refuse_unpaired
from kgkit.ranking import bootstrap_interval, summarise_ranks

RANKS = np.random.default_rng(0).integers(1, 30, 60).astype(float)
QUERIES = [f"query {row}" for row in range(60)]


def outcomes(ranks: np.ndarray = RANKS, units: np.ndarray | None = None) -> Outcomes:
    return rank_outcomes(QUERIES, ranks, (1, 3, 5, 10), np.arange(len(ranks)) if units is None else units)


def test_figures_are_those_of_the_ranks_and_intervals_those_of_a_plain_bootstrap() -> None:
    row = measure(outcomes(), seed=4).to_json()
    summary = summarise_ranks(RANKS, 100).to_json()
    for name in ("mrr", "hits_at_1", "hits_at_3", "hits_at_5", "hits_at_10"):
        assert row[name] == pytest.approx(summary[name])
    assert row["mrr_interval"] == pytest.approx(bootstrap_interval(1 / RANKS, seed=4))
    assert row["num_queries"] == 60


def test_units_are_drawn_whole() -> None:
    """Six copies of each of ten values are ten observations, not sixty."""
    values = np.repeat(1 / RANKS[:10], 6)
    copies = Outcomes(QUERIES, {"mrr": values}, np.repeat(np.arange(10), 6))
    assert measure(copies, seed=4).to_json()["mrr_interval"] == pytest.approx(
        bootstrap_interval(1 / RANKS[:10], seed=4)
    )
    alone = measure(Outcomes(QUERIES, {"mrr": values}, np.arange(60)), seed=4).to_json()["mrr_interval"]
    assert alone[1] - alone[0] < 0.7 * np.diff(bootstrap_interval(1 / RANKS[:10], seed=4))[0]


def test_differences_are_paired() -> None:
    """A method that is better by the same amount everywhere is better for certain, however wide both intervals are."""
    better = Outcomes(QUERIES, {"mrr": 1 / RANKS + 0.01}, np.arange(60))
    ours, theirs = measure(better, seed=1), measure(outcomes(), seed=1)
    difference = ours.minus(theirs)
    assert difference["mrr"] == pytest.approx(0.01)
    assert difference["mrr_interval"] == pytest.approx([0.01, 0.01])
    low, high = theirs.to_json()["mrr_interval"]
    assert high - low > 0.05
    assert theirs.minus(theirs)["hits_at_1_interval"] == [0, 0]


@given(st.integers(1, 59), st.integers(0, 5))
def test_a_part_is_measured_as_if_it_were_alone(count: int, seed: int) -> None:
    chosen = np.arange(60) < count
    part = outcomes(units=np.arange(60) // 3).part(chosen)
    alone = Outcomes(QUERIES[:count], outcomes(RANKS[:count]).columns, np.arange(count) // 3)
    assert measure(part, seed).to_json() == measure(alone, seed).to_json()


def test_an_infinite_rank_counts_as_wrong() -> None:
    row = measure(outcomes(np.full(60, np.inf)), seed=0).to_json()
    assert (row["mrr"], row["hits_at_10"], row["mrr_interval"]) == (0, 0, [0, 0])


def test_an_undefined_figure_is_none() -> None:
    found = measure(outcomes(), 0, lambda columns, weights: {"pearson": float("nan")}).to_json()
    assert found == {"pearson": None, "pearson_interval": [None, None], "num_queries": 60}


@pytest.mark.parametrize(
    ("queries", "candidates", "message"),
    [
        (["a -> 1", "b -> 3"], "xyz", r"sapbert=there: the test queries differ, the first .* 'b -> 2' \(2 in all\)"),
        (["b -> 2", "a -> 1"], "xyz", r"sapbert=there: the test queries differ, .*'the order'"),
        (["a -> 1", "b -> 2"], "xy", r"sapbert=there: ranks other concepts \(2 against 3\)"),
    ],
)  # fmt: skip
def test_other_queries_or_candidates_cannot_be_paired(queries: list[str], candidates: str, message: str) -> None:
    def answer(asked: list[str], ranked: str) -> Answer:
        return Answer({"test": rank_outcomes(asked, np.ones(2), (1,), np.arange(2))}, candidates=tuple(ranked))

    ours = answer(["a -> 1", "b -> 2"], "xyz")
    refuse_unpaired(ours, answer(["a -> 1", "b -> 2"], "xyz"), "sapbert=there")
    refuse_unpaired(ours, Answer(cannot="it has no text tower"), "sapbert=there")
    with pytest.raises(InputError, match=message):
        refuse_unpaired(ours, answer(queries, candidates), "sapbert=there")


def test_a_part_that_one_alone_was_asked_cannot_be_paired() -> None:
    test, inductive = (rank_outcomes([part], np.ones(1), (1,), np.arange(1)) for part in ("test", "inductive"))
    one, both = Answer({"test": test}), Answer({"test": test, "inductive": inductive})
    for ours, theirs in ((one, both), (both, one)):
        with pytest.raises(InputError, match="the inductive queries differ, the first difference is 'inductive'"):
            refuse_unpaired(ours, theirs, "kad=there")
