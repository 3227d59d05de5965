"""Relation scores and losses against PyKEEN's own modules."""

from __future__ import annotations

import math

import pytest
import torch
from pykeen.losses import loss_resolver
from tiny_thorax import unit_rows
from torch.nn import functional as F

from kgkit.encoder.relation_scorer import MATRIX_FORMS, RelationLoss, RelationScorer
from kgkit.errors import InputError

interactions = pytest.mark.parametrize("interaction", MATRIX_FORMS)


def scorer_with_random_relations(interaction: str, dim: int) -> RelationScorer:
    scorer = RelationScorer(interaction, dim, num_relations=5)
    torch.manual_seed(dim)
    with torch.no_grad():
        scorer.weight.normal_()
    return scorer


@interactions
@pytest.mark.parametrize("dim", [4, 16, 64])
@pytest.mark.parametrize("side", ["tails", "heads"])
def test_scores_equal_pykeens(interaction: str, dim: int, side: str) -> None:
    scorer = scorer_with_random_relations(interaction, dim)
    queries, candidates = torch.from_numpy(unit_rows(7, dim, 1)), torch.from_numpy(unit_rows(11, dim, 2))
    relations = torch.tensor([0, 1, 2, 3, 4, 0, 3])
    query, candidate = scorer.entity_vectors(queries)[:, None], scorer.entity_vectors(candidates)[None]
    relation = scorer.relation_vectors(relations)[:, None]
    pykeen = scorer.pykeen_interaction()
    with torch.no_grad():
        if side == "tails":
            ours, theirs = scorer.score_tails(queries, relations, candidates), pykeen(query, relation, candidate)
        else:
            ours, theirs = scorer.score_heads(queries, relations, candidates), pykeen(candidate, relation, query)
    assert ours.shape == (7, 11)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.05


@interactions
def test_scoring_tails_and_heads_agree_on_the_same_triple(interaction: str) -> None:
    scorer = scorer_with_random_relations(interaction, 16)
    heads, tails = torch.from_numpy(unit_rows(6, 16, 3)), torch.from_numpy(unit_rows(6, 16, 4))
    relations = torch.arange(6) % 5
    by_tail = scorer.score_tails(heads, relations, tails).diagonal()
    by_head = scorer.score_heads(tails, relations, heads).diagonal()
    torch.testing.assert_close(by_tail, by_head, atol=1e-5, rtol=1e-5)


@interactions
def test_before_training_the_score_knows_no_relation(interaction: str) -> None:
    """Inner product of head and tail, or minus their distance, whatever the relation."""
    scorer = RelationScorer(interaction, 16, num_relations=5)
    heads, tails = torch.from_numpy(unit_rows(5, 16, 3)), torch.from_numpy(unit_rows(9, 16, 4))
    with torch.no_grad():
        scores = scorer.score_tails(heads, torch.arange(5), tails)
        others = scorer.score_tails(heads, torch.arange(5).flip(0), tails)
    torch.testing.assert_close(scores, others)
    expected = -torch.cdist(heads, tails) if scorer.form.is_distance else heads @ tails.T
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@interactions
def test_gradients_are_finite_where_a_candidate_is_the_query_itself(interaction: str) -> None:
    scorer = RelationScorer(interaction, 16, num_relations=2)
    vectors = torch.from_numpy(unit_rows(4, 16, 5)).requires_grad_()
    scorer.score_tails(vectors, torch.tensor([0, 1, 0, 1]), vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()
    assert torch.isfinite(scorer.weight.grad).all()


@pytest.mark.parametrize("interaction", ["complex", "rotate"])
def test_complex_interactions_refuse_odd_dimensions(interaction: str) -> None:
    with pytest.raises(InputError, match=rf"'{interaction}' needs an even number of dimensions.*gives 15"):
        RelationScorer(interaction, 15, num_relations=2)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"'objectives.interaction' is 'trans'; did you mean 'transe'\? .*distmult"):
        RelationScorer("trans", 16, num_relations=2)
    with pytest.raises(InputError, match=r"'objectives.loss' is 'infonec'; did you mean 'infonce'"):
        RelationLoss("infonec")


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of six queries, right columns, columns that count as negatives (not the same number per row)."""
    generator = torch.Generator().manual_seed(1)
    scores = 0.3 * torch.randn(6, 9, generator=generator)
    positive = torch.tensor([0, 3, 8, 2, 2, 7])
    allowed = torch.rand(6, 9, generator=generator) < 0.6
    allowed[torch.arange(6), positive] = False
    assert len(set(allowed.sum(1).tolist())) > 1
    return scores, positive, allowed


def test_infonce_is_a_cross_entropy_over_the_allowed_candidates() -> None:
    """Wang et al. 2022 (SimKGC): margin 0.02 on the positive, temperature 0.05, PyKEEN's defaults."""
    scores, positive, allowed = batch()
    terms = []
    for row in range(6):
        right = (scores[row, positive[row]] - 0.02) / 0.05
        logits = torch.cat([right[None], scores[row, allowed[row]] / 0.05])
        terms.append(torch.logsumexp(logits, 0) - right)
    assert float(RelationLoss("infonce")(scores, positive, allowed)) == pytest.approx(float(sum(terms) / 6), rel=1e-5)


@pytest.mark.parametrize("loss", sorted(loss_resolver.lookup_dict))
def test_masked_candidates_get_no_gradient_and_no_say(loss: str) -> None:
    scores, positive, allowed = batch()
    counted = allowed | F.one_hot(positive, 9).bool()
    leaf = scores.clone().requires_grad_()
    value = RelationLoss(loss)(leaf, positive, allowed)
    value.backward()
    assert math.isfinite(value.detach())
    assert (leaf.grad[~counted] == 0).all()
    assert (leaf.grad[torch.arange(6), positive] <= 0).all(), "a better right answer must not cost more"
    assert leaf.grad[counted].abs().sum() > 0
    shifted = torch.where(counted, scores, scores + 5)
    assert float(RelationLoss(loss)(shifted, positive, allowed)) == pytest.approx(float(value.detach()), rel=1e-6)
