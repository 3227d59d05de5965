"""Relation scores and losses against PyKEEN's own modules."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from pykeen.losses import loss_resolver
from pykeen.nn.modules import Interaction
from tiny_thorax import unit_rows
from torch import Tensor
from torch.nn import functional as F

from kgkit.encoder.config import EncoderRecipe, RelationConfig
from kgkit.encoder.matrix_forms import MATRIX_FORMS, cubed_norm, tucker_queries
from kgkit.encoder.relation_scorer import RelationLoss, RelationScorer, negative_sampler
from kgkit.errors import InputError
from kgkit.recipe import load_recipe

MODULES = ("convkb", "crosse", "distma", "ermlp", "ermlpe", "hole", "lineare", "ntn", "pairre", "proje", "rescal", "se",
           "toruse", "transf", "transh", "transr", "triplere", "um")  # fmt: skip
"""PyKEEN's interactions without a matrix form here (its `transformer` needs a vector length that its heads divide)."""

R = 5
matrix_forms = pytest.mark.parametrize("interaction", MATRIX_FORMS)
every_interaction = pytest.mark.parametrize("interaction", [*MATRIX_FORMS, *MODULES])
sides = pytest.mark.parametrize("side", ["tails", "heads"])


def config(**changes: object) -> RelationConfig:
    """The relation part of the recipe `fast` with changes."""
    plain = load_recipe(EncoderRecipe, "encoder", "fast").relation
    return dataclasses.replace(plain, **({"relation_dim": 6, "inverses": False} | changes))


def random_scorer(interaction: str, dim: int = 16, **changes: object) -> RelationScorer:
    """A scorer whose parameters are all drawn at random; dropout of PyKEEN's modules is off."""
    torch.manual_seed(dim)
    scorer = RelationScorer(config(interaction=interaction, **changes), dim, R)
    scorer.start_concepts(torch.empty(3, dim))
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.normal_(std=0.7)
    return scorer.eval()


def vectors(count: int, dim: int, seed: int) -> Tensor:
    return torch.from_numpy(unit_rows(count, dim, seed))


def unsqueezed(parts: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return parts[:, None] if isinstance(parts, Tensor) else tuple(part[:, None] for part in parts)


def reference(scorer: RelationScorer) -> Interaction:
    """PyKEEN's module with the scorer's own state."""
    pykeen = scorer.pykeen_interaction()
    if scorer.core is not None:
        pykeen.core_tensor.data.copy_(scorer.core.transpose(0, 1))
    elif scorer.module is not None:
        pykeen.load_state_dict(scorer.module.state_dict())
    return pykeen.eval()


def by_pykeen(scorer: RelationScorer, queries: Tensor, rows: Tensor, candidates: Tensor, *, heads: bool) -> Tensor:
    """Scores [B, N] by PyKEEN's broadcast."""
    relation = unsqueezed(scorer.relation_rows(rows))
    one, other = scorer.concept_rows(queries)[:, None], scorer.concept_rows(candidates)[None]
    scores: Tensor = reference(scorer)(other, relation, one) if heads else reference(scorer)(one, relation, other)
    return scores


@every_interaction
@sides
@torch.no_grad()
def test_scores_equal_pykeens(interaction: str, side: str) -> None:
    for dim in (4, 16, 64) if interaction in MATRIX_FORMS else (16,):
        scorer = random_scorer(interaction, dim)
        queries, candidates = vectors(7, dim, 1), vectors(11, dim, 2)
        relations = torch.tensor([0, 1, 2, 3, 4, 0, 3])
        ours = (scorer.score_tails if side == "tails" else scorer.score_heads)(queries, relations, candidates)
        theirs = by_pykeen(scorer, queries, relations, candidates, heads=side == "heads")
        assert ours.shape == (7, 11)
        torch.testing.assert_close(ours, theirs.expand(7, 11), atol=1e-5, rtol=1e-5)
        assert ours.std() > 0.01


@every_interaction
@torch.no_grad()
def test_all_ways_to_score_a_triple_agree(interaction: str) -> None:
    scorer = random_scorer(interaction)
    heads, tails, relations = vectors(6, 16, 3), vectors(6, 16, 4), torch.arange(6) % R
    expected = scorer.score_triples(heads, relations, tails)
    ways = {
        "tails": scorer.score_tails(heads, relations, tails).diagonal(),
        "heads": scorer.score_heads(tails, relations, heads).diagonal(),
        "own candidates": scorer.score_heads(tails, relations, torch.stack([tails, heads], dim=1))[:, 1],
        "directed": scorer.score_directed(heads, relations, tails).diagonal(),
        "directed the other way": scorer.score_directed(tails, relations + R, heads).diagonal(),
        "both": scorer.score_both(heads, relations, tails, tails)[0][:, 0],
        "both, shared": scorer.score_both(heads, relations, tails, tails)[1].diagonal(),
    }
    for way, scores in ways.items():
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5, msg=way)


@every_interaction
@torch.no_grad()
def test_with_inverses_a_head_is_the_tail_of_a_relation_of_its_own(interaction: str) -> None:
    scorer = random_scorer(interaction, inverses=True)
    tails, candidates, relations = vectors(6, 16, 3), vectors(9, 16, 4), torch.arange(6) % R
    by_heads = scorer.score_heads(tails, relations, candidates)
    theirs = by_pykeen(scorer, tails, relations + R, candidates, heads=False)
    torch.testing.assert_close(by_heads, theirs.expand(6, 9), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_heads, scorer.score_directed(tails, relations + R, candidates))
    if interaction != "um":  # which has no relation parameters
        assert not torch.allclose(by_heads, scorer.score_tails(tails, relations, candidates), atol=1e-3)


@every_interaction
@torch.no_grad()
def test_before_training_the_score_knows_no_relation(interaction: str) -> None:
    scorer = RelationScorer(config(interaction=interaction), 16, R).eval()
    heads, tails = vectors(5, 16, 3), vectors(9, 16, 4)
    scores = scorer.score_tails(heads, torch.arange(5), tails)
    torch.testing.assert_close(scores, scorer.score_tails(heads, torch.arange(5).flip(0), tails))
    assert scores.std() > 0.01
    if interaction in ("transe", "rotate"):
        torch.testing.assert_close(scores, -torch.cdist(heads, tails), atol=1e-5, rtol=1e-5)
    elif interaction in ("distmult", "complex"):
        torch.testing.assert_close(scores, heads @ tails.T, atol=1e-5, rtol=1e-5)


@every_interaction
def test_free_vectors_start_finite_with_relations_that_differ(interaction: str) -> None:
    torch.manual_seed(0)
    scorer = RelationScorer(config(interaction=interaction), 16, R).eval()
    weight = torch.full((20, 16), math.nan)
    scorer.start_concepts(weight)
    assert torch.isfinite(weight).all()
    assert 0.5 < float(weight.norm(dim=1).mean()) < 3
    with torch.no_grad():
        scores = scorer.score_tails(weight[:R], torch.arange(R), weight)
        others = scorer.score_tails(weight[:R], torch.arange(R).roll(1), weight)
    assert torch.isfinite(scores).all()
    if interaction not in ("um", "proje"):  # without relation parameters; without weight on them at PyKEEN's own start
        assert not torch.allclose(scores, others, atol=1e-4)


@matrix_forms
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_gradients_are_finite_where_a_candidate_is_the_query_itself(interaction: str, own: bool) -> None:
    scorer = RelationScorer(config(interaction=interaction), 16, 2)
    leaf = vectors(4, 16, 5).requires_grad_()
    candidates = leaf[:, None].expand(4, 3, 16) if own else leaf
    scorer.score_tails(leaf, torch.tensor([0, 1, 0, 1]), candidates).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert torch.isfinite(scorer.weight.grad).all()


def test_tucker_is_the_same_product_whether_questions_share_their_relation_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    core, table = torch.randn(6, 8, 8, generator=generator), torch.randn(40, 6, generator=generator)
    for rows in (torch.zeros(30, dtype=torch.int64), torch.arange(30), torch.arange(30) % 4, torch.tensor([3] * 9)):
        anchors = torch.randn(len(rows), 8, generator=generator)
        expected = torch.einsum("jik,bj,bi->bk", core, table[rows], anchors)
        torch.testing.assert_close(tucker_queries(anchors, table, rows, core), expected, atol=1e-5, rtol=1e-5)


def test_the_cubed_norm_is_that_of_the_complex_numbers() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cubed_norm(rows, is_complex=False), rows.abs().pow(3).sum(1))
    moduli = torch.view_as_complex(rows.view(4, 3, 2)).abs()
    torch.testing.assert_close(cubed_norm(rows, is_complex=True), moduli.pow(3).sum(1))


@pytest.mark.parametrize("key", ["dropout", "input_dropout"])
def test_dropout_works_in_training_alone(key: str) -> None:
    scorer = random_scorer("distmult", **{key: 0.5})
    heads, candidates, relations = vectors(6, 16, 3), vectors(9, 16, 4), torch.arange(6) % R
    quiet = scorer.score_tails(heads, relations, candidates)
    torch.testing.assert_close(quiet, random_scorer("distmult").score_tails(heads, relations, candidates))
    assert not torch.allclose(scorer.train().score_tails(heads, relations, candidates), quiet, atol=1e-3)


@pytest.mark.parametrize("interaction", ["complex", "rotate"])
def test_complex_interactions_refuse_odd_dimensions(interaction: str) -> None:
    with pytest.raises(InputError, match=rf"'{interaction}' needs an even number of dimensions.*have 15"):
        RelationScorer(config(interaction=interaction), 15, num_relations=2)


@pytest.mark.parametrize("interaction", ["trans", "conve", "quate", "boxe", "autosf"])
def test_interactions_that_do_not_fit_are_refused_with_the_choices(interaction: str) -> None:
    with pytest.raises(InputError, match=rf"'relation.interaction' is '{interaction}', expected .*choices: "):
        RelationScorer(config(interaction=interaction), 16, num_relations=2)


def test_unknown_losses_and_samplers_are_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"'relation.loss' is 'infonec'; did you mean 'infonce'"):
        RelationLoss("infonec")
    with pytest.raises(InputError, match=r"'relation.sampler' is 'bernouli'; did you mean 'bernoulli'\?.*pseudotyped"):
        negative_sampler(config(sampler="bernouli"), torch.zeros(1, 3, dtype=torch.int64), (2, 1))


def batch() -> tuple[Tensor, Tensor, Tensor]:
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
def test_sampled_losses_equal_pykeens(loss: str) -> None:
    scores, positive, allowed = batch()
    right = scores.gather(1, positive[:, None])
    pykeen = loss_resolver.make(loss)
    masked = pykeen.process_slcwa_scores(right, scores[allowed], batch_filter=allowed)
    torch.testing.assert_close(RelationLoss(loss)(scores, positive, allowed), masked)
    torch.testing.assert_close(RelationLoss(loss).against_sampled(right, scores),
                               pykeen.process_slcwa_scores(right, scores))  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", sorted(loss_resolver.lookup_dict))
def test_losses_over_all_equal_pykeens(loss: str, smoothing: float) -> None:
    scores, _, labels = batch()
    ours, pykeen = RelationLoss(loss), loss_resolver.make(loss)
    truths = labels.float()
    given = F.normalize(truths, p=1, dim=1) if ours.wants_shares else truths
    try:
        theirs = pykeen.process_lcwa_scores(scores, truths, label_smoothing=smoothing or None, num_entities=9)
    except RuntimeError as error:  # PyKEEN refuses smoothing for its pairwise losses
        with pytest.raises(type(error)):
            ours.against_all(scores, given, smoothing)
    else:
        torch.testing.assert_close(ours.against_all(scores, given, smoothing), theirs)


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
