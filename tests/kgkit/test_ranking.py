"""Ranks and their figures, against PyKEEN, against loops in plain Python, and under transformations."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pykeen.evaluation import RankBasedEvaluator
from pykeen.evaluation.ranks import Ranks
from pykeen.models import ERModel
from pykeen.nn.init import PretrainedInitializer
from pykeen.triples import CoreTriplesFactory

from kgkit.encoder.corpus import Corpus
from kgkit.encoder.evaluation import link_prediction
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.errors import KgkitError
from kgkit.ranking import bootstrap_interval, realistic_ranks, summarise_ranks
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def queries(draw: st.DrawFn) -> Case:
    """Whole-numbered scores with many ties, the right column of each row, other known columns."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 12)))
    scores = draw(hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
    positive = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    known = draw(hnp.arrays(np.bool_, shape))
    return scores, positive, known


@given(queries())
def test_ranks_equal_pykeens_and_a_plain_loop(case: Case) -> None:
    scores, positive, known = case
    ranks = realistic_ranks(scores, positive, known)
    own = torch.from_numpy(np.take_along_axis(scores, positive[:, None], axis=1))
    filtered = torch.from_numpy(scores.copy())
    others = torch.from_numpy(known).scatter(1, torch.from_numpy(positive)[:, None], value=False)
    filtered[others] = torch.nan  # PyKEEN's way of filtering
    pykeen = Ranks.from_scores(true_score=own, all_scores=filtered)
    np.testing.assert_array_equal(ranks, pykeen.realistic.numpy())
    assert (pykeen.optimistic.numpy() <= ranks).all()
    assert (ranks <= pykeen.pessimistic.numpy()).all()
    for row, rank in enumerate(ranks):
        right = scores[row, positive[row]]
        rivals = [s for column, s in enumerate(scores[row]) if column != positive[row] and not known[row, column]]
        first, last = 1 + sum(s > right for s in rivals), 1 + sum(s >= right for s in rivals)
        assert rank == (first + last) / 2


@given(queries())
def test_filtering_never_worsens_a_rank(case: Case) -> None:
    scores, positive, known = case
    assert (realistic_ranks(scores, positive, known) <= realistic_ranks(scores, positive, np.zeros_like(known))).all()


@given(queries(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(case: Case, random: Random) -> None:
    scores, positive, known = case
    order = np.array(random.sample(range(scores.shape[1]), scores.shape[1]))
    place = np.argsort(order)
    moved = realistic_ranks(scores[:, order], place[positive], known[:, order])
    np.testing.assert_array_equal(moved, realistic_ranks(scores, positive, known))


@given(queries())
def test_a_strictly_rising_map_of_the_scores_changes_nothing(case: Case) -> None:
    scores, positive, known = case
    np.testing.assert_array_equal(
        realistic_ranks(scores**3 + 2 * scores + 7, positive, known), realistic_ranks(scores, positive, known)
    )


@given(st.integers(1, 4), st.integers(1, 50))
def test_constant_scores_give_the_middle_rank(num_queries: int, num_candidates: int) -> None:
    scores = np.full((num_queries, num_candidates), 0.25)
    ranks = realistic_ranks(scores, np.zeros(num_queries, dtype=np.int64), np.zeros(scores.shape, dtype=bool))
    np.testing.assert_array_equal(ranks, (num_candidates + 1) / 2)


def test_scores_that_are_not_numbers_are_refused_instead_of_ranked_first() -> None:
    scores = np.array([[1.0, np.nan]])
    with pytest.raises(KgkitError, match="not a number"):
        realistic_ranks(scores, np.array([1]), np.zeros(scores.shape, dtype=bool))


def test_inputs_are_not_changed() -> None:
    scores, positive, known = np.array([[1.0, 2.0]]), np.array([0]), np.array([[True, False]])
    realistic_ranks(scores, positive, known)
    assert known.tolist() == [[True, False]]
    assert scores.tolist() == [[1.0, 2.0]]


def test_figures_of_a_worked_example() -> None:
    figures = summarise_ranks(np.array([1.0, 2.0, 1.5, 10.0, 20.0]), num_candidates=100)
    assert figures.mrr == pytest.approx((1 + 1 / 2 + 1 / 1.5 + 1 / 10 + 1 / 20) / 5)
    assert (figures.hits_at_1, figures.hits_at_10, figures.mean_rank) == (0.2, 0.8, 6.9)
    assert (figures.num_queries, figures.num_candidates) == (5, 100)


def test_bootstrap_interval_holds_the_mean_repeats_and_narrows_with_more_values() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, seed=3)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(np.full(9, 0.5), seed=1) == (0.5, 0.5)
    fewer = bootstrap_interval(values[:40], seed=3)
    assert fewer[1] - fewer[0] > 2 * (high - low)
    normal = 2 * 1.96 * values.std() / 20  # width of the normal approximation
    assert high - low == pytest.approx(normal, rel=0.1)


def _fixed(vectors: torch.Tensor) -> dict[str, Any]:
    """PyKEEN's arguments for representations that are exactly these vectors."""
    stored = torch.view_as_real(vectors) if vectors.is_complex() else vectors
    return {"shape": vectors.shape[1:], "dtype": vectors.dtype, "initializer": PretrainedInitializer(stored)}


@pytest.mark.parametrize("interaction", ["distmult", "complex"])
def test_link_prediction_equals_pykeens_evaluator(interaction: str) -> None:
    """Small whole numbers as vectors: scores are exact in any order of summation, and full of ties."""
    generator = np.random.default_rng(5)
    num_concepts, num_relations, dim = 14, 3, 4
    drawn = np.stack([generator.integers(0, size, 70) for size in (num_concepts, num_relations, num_concepts)], axis=1)
    facts = np.unique(drawn, axis=0)
    test = facts[generator.permutation(len(facts))[:20]]
    vectors = torch.from_numpy(generator.integers(-2, 3, size=(num_concepts, dim))).float()
    scorer = RelationScorer(interaction, dim, num_relations)
    with torch.no_grad():
        scorer.weight.copy_(torch.from_numpy(generator.integers(-2, 3, size=tuple(scorer.weight.shape))))
    concepts = tuple(str(row) for row in range(num_concepts))
    view = TripleView(concepts, tuple(str(row) for row in range(num_relations)), facts)
    split = TripleSplit(facts, facts[:0], test, seed=0)
    corpus = Corpus(view, split, concepts, tuple((name,) for name in concepts), (), ())
    ranks = link_prediction(vectors, scorer, corpus, test)

    factory = CoreTriplesFactory(torch.from_numpy(facts), num_entities=num_concepts, num_relations=num_relations)
    model = ERModel(
        triples_factory=factory,
        interaction=interaction,
        entity_representations_kwargs=_fixed(scorer.entity_vectors(vectors)),
        relation_representations_kwargs=_fixed(scorer.relation_vectors(torch.arange(num_relations)).detach()),
        random_seed=0,
    )
    result = RankBasedEvaluator().evaluate(
        model=model, mapped_triples=torch.from_numpy(test), additional_filter_triples=torch.from_numpy(facts),
        batch_size=8, use_tqdm=False,
    )  # fmt: skip
    ours = summarise_ranks(ranks, num_concepts)
    assert len(np.unique(ranks % 1)) > 1, "the example has no ties"
    for ours_value, name in (
        (ours.mrr, "inverse_harmonic_mean_rank"), (ours.hits_at_1, "hits_at_1"), (ours.hits_at_10, "hits_at_10"),
        (ours.mean_rank, "arithmetic_mean_rank"),
    ):  # fmt: skip
        assert ours_value == pytest.approx(result.get_metric(f"both.realistic.{name}"), abs=1e-6)
    for side, part in (("tail", ranks[: len(test)]), ("head", ranks[len(test) :])):
        assert (1 / part).mean() == pytest.approx(
            result.get_metric(f"{side}.realistic.inverse_harmonic_mean_rank"), abs=1e-6
        )
