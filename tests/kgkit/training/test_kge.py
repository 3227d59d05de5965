"""Training free vectors: losses against PyKEEN's, masks, draws, sparse updates, and that it learns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pykeen.evaluation import RankBasedEvaluator
from pykeen.losses import loss_resolver
from pykeen.models import ERModel
from pykeen.nn.init import PretrainedInitializer
from pykeen.triples import CoreTriplesFactory, LCWAInstances
from tiny_thorax import random_triples
from torch import Tensor

from kgkit.arrays import IntArray
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.errors import InputError
from kgkit.evaluation.link_prediction import KnownFacts, rank_triples
from kgkit.recipe import load_recipe
from kgkit.training.kge import KgeDraw, KgeMethod, TargetTable, directed_triples
from kgkit.training.optimisers import build_optimisers, set_learning_rates
from kgkit.views.benchmarks import read_benchmark
from kgkit.views.splits import TripleSplit

N, R = 30, 3
SMALL = ("relation.concept_dim=16", "relation.relation_dim=4", "relation.triples=40", "relation.negatives=12",
         "train.graph_learning_rate=0.05", "train.decay=none", "relation.n3=0")  # fmt: skip
SAMPLINGS = ("all", "independent", "shared")
samplings = pytest.mark.parametrize("sampling", SAMPLINGS)
NOTHING = torch.empty(0)


def recipe_of(*changes: str) -> EncoderRecipe:
    return load_recipe(EncoderRecipe, "encoder", "kge", [*SMALL, *changes])


def facts(count: int = 150) -> IntArray:
    return random_triples(count, N, R, seed=0)


def split_of(triples: IntArray, held: int = 0) -> TripleSplit:
    order = np.random.default_rng(1).permutation(len(triples))
    parts = (order[2 * held :], order[:held], order[held : 2 * held])
    return TripleSplit(*(triples[np.sort(rows)] for rows in parts), seed=1)


def made(*changes: str, triples: IntArray | None = None) -> tuple[EncoderModel, KgeMethod, EncoderRecipe]:
    recipe = recipe_of(*changes)
    torch.manual_seed(recipe.seed)
    model = EncoderModel(recipe, N, R)
    return model, KgeMethod(model, split_of(facts() if triples is None else triples), recipe), recipe


def train(model: EncoderModel, method: KgeMethod, recipe: EncoderRecipe, steps: int) -> list[float]:
    optimisers = build_optimisers(model, recipe)
    set_learning_rates(optimisers, recipe.train, 1.0)
    losses = []
    for step in range(1, steps + 1):
        total = torch.stack(list(method.losses(method.draw(step), NOTHING).values())).sum()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for optimiser in optimisers:
            optimiser.step()
        losses.append(float(total.detach()))
    return losses


def same(one: KgeDraw, other: KgeDraw) -> bool:
    for name, value in vars(one).items():
        against = getattr(other, name)
        if isinstance(value, Tensor) and not (value.shape == against.shape and bool((value == against).all())):
            return False
    return True


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=30))
def test_the_table_knows_the_answers_of_every_question(rows: list[tuple[int, int, int]]) -> None:
    table = TargetTable(torch.tensor(rows), num_relations=3)
    expected: dict[tuple[int, int], set[int]] = {}
    for head, relation, tail in rows:
        expected.setdefault((head, relation), set()).add(tail)
        expected.setdefault((tail, relation + 3), set()).add(head)
    questions = list(zip(table.anchors.tolist(), table.directed.tolist(), strict=True))
    assert questions == sorted(expected)
    assert table.find(table.anchors, table.directed).tolist() == list(range(len(table)))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    place, concept = table.answers(order)
    found: dict[tuple[int, int], set[int]] = {}
    for at, answer in zip(place.tolist(), concept.tolist(), strict=True):
        found.setdefault(questions[order[at]], set()).add(answer)
    assert found == expected
    assert len(concept) == sum(map(len, expected.values()))


@pytest.mark.parametrize(("loss", "smoothing"), [
    ("crossentropy", 0.0), ("crossentropy", 0.1), ("bcewithlogits", 0.0), ("bcewithlogits", 0.1), ("nssa", 0.0),
])  # fmt: skip
def test_a_step_over_all_is_pykeens_lcwa_step(loss: str, smoothing: float) -> None:
    """Same questions, labels and loss as PyKEEN's instances with inverse triples, on our scores."""
    model, method, _ = made("relation.sampling=all", f"relation.loss={loss}", f"relation.label_smoothing={smoothing}",
                            "relation.triples=500")  # fmt: skip
    factory = CoreTriplesFactory(torch.from_numpy(facts()), N, R, create_inverse_triples=True)
    instances = LCWAInstances.from_triples_factory(factory)
    draw = method.draw(1)
    assert len(draw.anchors) == len(instances)
    theirs = [instances[row] for row in range(len(instances))]
    # PyKEEN counts a relation and its inverse as 2r and 2r + 1.
    place = {(int(one["pairs"][0]), int(one["pairs"][1])): one["target"] for one in theirs}
    asked = zip(draw.anchors.tolist(), draw.directed.tolist(), strict=True)
    labels = torch.stack([place[anchor, 2 * (relation % R) + relation // R] for anchor, relation in asked])
    scores = model.scorer.score_directed(model.concepts.weight[draw.anchors], draw.directed, model.concepts.weight)
    expected = loss_resolver.make(loss).process_lcwa_scores(
        scores, labels, label_smoothing=smoothing or None, num_entities=N
    )
    torch.testing.assert_close(method.losses(draw, NOTHING)["relation"], expected)


def test_labels_are_the_same_kept_or_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept, _ = made("relation.sampling=all")
    monkeypatch.setattr("kgkit.training.kge._CACHED_LABELS", 0)
    _, anew, _ = made("relation.sampling=all")
    for step in (1, 2, 9):
        torch.testing.assert_close(kept.draw(step).labels, anew.draw(step).labels)


@pytest.mark.parametrize("sampler", ["basic", "bernoulli", "pseudotyped"])
@pytest.mark.parametrize("loss", ["marginranking", "nssa", "crossentropy"])
@pytest.mark.parametrize("inverses", [True, False])
def test_a_step_of_independent_negatives_is_pykeens_slcwa_step(sampler: str, loss: str, inverses: bool) -> None:
    model, method, _ = made("relation.sampling=independent", f"relation.sampler={sampler}", f"relation.loss={loss}",
                            f"relation.inverses={str(inverses).lower()}", "relation.negatives=6")  # fmt: skip
    draw, weight, scorer = method.draw(3), model.concepts.weight, model.scorer
    right, wrong = [], []
    for row in range(len(draw.anchors)):
        scores = []
        for column in range(7):
            anchor, relation = draw.anchors[row], int(draw.directed[row])
            if draw.others is not None and draw.reversed[row, column]:
                anchor, relation = draw.others[row, 0], int(draw.others[row, 1])
            candidate = weight[draw.candidates[row, column]][None]
            ask = scorer.score_heads if relation >= R else scorer.score_tails
            scores.append(ask(weight[anchor][None], torch.tensor([relation % R]), candidate)[0, 0])
        right.append(scores[0])
        wrong.append(torch.stack(scores[1:]))
    pykeen = loss_resolver.make(loss)
    expected = pykeen.process_slcwa_scores(torch.stack(right)[:, None], torch.stack(wrong))
    torch.testing.assert_close(method.losses(draw, NOTHING)["relation"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["basic", "bernoulli", "pseudotyped"])
def test_independent_negatives_are_what_pykeens_sampler_draws(sampler: str) -> None:
    """Every (anchor, relation, candidate), turned back into a triple, is a training fact or a corrupted one of it."""
    _, method, _ = made("relation.sampling=independent", f"relation.sampler={sampler}", "relation.negatives=50")
    known = {tuple(row) for row in facts().tolist()}
    draw = method.draw(1)
    changed_heads = changed_tails = 0
    for row in range(len(draw.anchors)):
        triples = []
        for column in range(51):
            anchor, relation = int(draw.anchors[row]), int(draw.directed[row])
            if draw.others is not None and draw.reversed[row, column]:
                anchor, relation = (int(value) for value in draw.others[row])
            candidate = int(draw.candidates[row, column])
            triples.append((anchor, relation, candidate) if relation < R else (candidate, relation - R, anchor))
        assert triples[0] in known
        head, relation, tail = triples[0]
        for one in triples[1:]:
            assert one[1] == relation
            assert one[0] == head or one[2] == tail
        changed_heads += sum(one[0] != head for one in triples[1:])
        changed_tails += sum(one[2] != tail for one in triples[1:])
    assert min(changed_heads, changed_tails) > 300


def test_shared_negatives_leave_out_every_known_answer_and_nothing_else() -> None:
    _, method, _ = made("relation.sampling=shared")
    known = {tuple(row) for row in directed_triples(torch.from_numpy(facts()), R).tolist()}
    masked = 0
    for step in range(1, 9):
        draw = method.draw(step)
        assert len(set(draw.candidates.tolist())) == len(draw.candidates)
        for row in range(len(draw.anchors)):
            question = int(draw.anchors[row]), int(draw.directed[row])
            assert (*question, int(draw.targets[row])) in known
            is_known = [(*question, concept) in known for concept in draw.candidates.tolist()]
            assert draw.allowed[row].tolist() == [not one for one in is_known]
            masked += sum(is_known)
    assert masked > 20


def test_a_shared_step_is_pykeens_loss_on_the_unmasked_scores() -> None:
    for loss in ("crossentropy", "softplus", "marginranking"):
        model, method, _ = made("relation.sampling=shared", f"relation.loss={loss}")
        draw, weight = method.draw(2), model.concepts.weight
        scores = model.scorer.score_directed(weight[draw.anchors], draw.directed, weight)
        right, wrong = scores.gather(1, draw.targets[:, None]), scores[:, draw.candidates]
        expected = loss_resolver.make(loss).process_slcwa_scores(right, wrong[draw.allowed], batch_filter=draw.allowed)
        torch.testing.assert_close(method.losses(draw, NOTHING)["relation"], expected, atol=1e-5, rtol=1e-5)


@samplings
def test_a_draw_depends_on_seed_and_step_alone(sampling: str) -> None:
    _, forwards, _ = made(f"relation.sampling={sampling}")
    _, backwards, _ = made(f"relation.sampling={sampling}")
    _, other, _ = made(f"relation.sampling={sampling}", "seed=1")
    one = [forwards.draw(step) for step in range(1, 20)]
    torch.manual_seed(12345)
    two = [backwards.draw(step) for step in range(19, 0, -1)][::-1]
    assert all(same(left, right) for left, right in zip(one, two, strict=True))
    assert not same(one[0], other.draw(1))
    assert not same(one[0], one[1])


@samplings
def test_drawing_does_not_move_torchs_own_generator(sampling: str) -> None:
    _, method, _ = made(f"relation.sampling={sampling}")
    torch.manual_seed(3)
    method.draw(1)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


@samplings
def test_an_epoch_visits_every_row_once(sampling: str) -> None:
    _, method, _ = made(f"relation.sampling={sampling}", "relation.negatives=2")
    questions = TargetTable(torch.from_numpy(facts()), R)
    count = {"all": len(questions), "independent": len(facts()), "shared": 2 * len(facts())}[sampling]
    drawn = [method.draw(step) for step in range(1, 1 + -(-count // 40))]
    assert sum(len(draw.anchors) for draw in drawn) == count
    if sampling == "shared":
        asked = torch.cat([torch.stack([draw.anchors, draw.directed, draw.targets], 1) for draw in drawn])
        expected = directed_triples(torch.from_numpy(facts()), R)
        assert sorted(asked.tolist()) == sorted(expected.tolist())


def test_sparse_and_dense_gradients_touch_the_same_rows_equally() -> None:
    sparse, method, _ = made("relation.sampling=shared", "relation.triples=5", "relation.negatives=4")
    draw = method.draw(1)
    method.losses(draw, NOTHING)["relation"].backward()
    assert sparse.concepts.weight.grad.is_sparse
    gradient = sparse.concepts.weight.grad.to_dense()
    sparse.zero_grad(set_to_none=True)
    sparse.concepts.sparse = False
    method.losses(draw, NOTHING)["relation"].backward()
    torch.testing.assert_close(gradient, sparse.concepts.weight.grad)
    touched = {*draw.anchors.tolist(), *draw.targets.tolist(), *draw.candidates.tolist()}
    assert set(gradient.abs().sum(1).nonzero()[:, 0].tolist()) <= touched
    assert len(touched) < N


def test_sparse_gradients_that_are_to_be_clipped_are_refused() -> None:
    model, _, recipe = made("relation.sampling=shared", "train.max_gradient_norm=1")
    with pytest.raises(InputError, match=r"'train.max_gradient_norm' is 1\.0: sparse gradients are not clipped"):
        build_optimisers(model, recipe)


def test_sparse_updates_leave_the_other_rows_alone() -> None:
    model, method, recipe = made("relation.sampling=shared", "relation.triples=5", "relation.negatives=4")
    before = model.concepts.weight.detach().clone()
    train(model, method, recipe, 1)
    draw = method.draw(1)
    touched = torch.zeros(N, dtype=torch.bool)
    touched[torch.cat([draw.anchors, draw.targets, draw.candidates])] = True
    changed = (model.concepts.weight.detach() != before).any(1)
    assert (changed == touched).all()


@pytest.mark.parametrize("interaction", ["transe", "distmult", "complex", "rotate", "tucker", "pairre"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_it_learns_a_tiny_graph_by_heart(interaction: str, sampling: str) -> None:
    triples = facts(45)
    loss = "crossentropy" if interaction in ("distmult", "complex", "tucker") else "infonce"
    model, method, recipe = made(f"relation.sampling={sampling}", f"relation.interaction={interaction}",
                                 f"relation.loss={loss}", "relation.concept_dim=32", "relation.negatives=25",
                                 triples=triples)  # fmt: skip
    known = KnownFacts(triples, R)
    before = (1 / rank_triples(model.concepts.weight, model.scorer, known, triples)).mean()
    losses = train(model, method, recipe, 150)
    after = (1 / rank_triples(model.concepts.weight, model.scorer, known, triples)).mean()
    assert losses[-1] < losses[0]
    assert before < 0.5 < 0.7 < after


def test_the_cubed_norms_shrink_the_vectors_and_weigh_as_asked() -> None:
    _, method, _ = made("relation.n3=0.5", "objectives.relation=2.0", "relation.sampling=all")
    model, plain, _ = made("relation.sampling=all")
    draw = method.draw(1)
    losses = method.losses(draw, NOTHING)
    rows = torch.cat([model.concepts.weight[draw.anchors], model.scorer.weight[draw.directed]], dim=1)
    moduli = torch.view_as_complex(rows.view(len(rows), -1, 2)).abs()
    torch.testing.assert_close(losses["n3"], 0.5 * moduli.pow(3).sum(1).mean())
    torch.testing.assert_close(losses["relation"], 2 * plain.losses(draw, NOTHING)["relation"])


@pytest.mark.parametrize("interaction", ["transe", "distmult", "complex"])
def test_validation_equals_pykeens_evaluator(interaction: str) -> None:
    recipe = recipe_of("relation.sampling=all", f"relation.interaction={interaction}")
    torch.manual_seed(0)
    model, split = EncoderModel(recipe, N, R), split_of(facts(), held=30)
    # Coarse vectors, so that there are ties.
    with torch.no_grad():
        for parameter in (model.concepts.weight, model.scorer.weight):
            parameter.copy_((2 * parameter).round().clamp(-1, 1))
    parts = [torch.from_numpy(part.copy()) for part in (split.train, split.valid, split.test)]
    every = model.scorer.relation_rows(torch.arange(2 * R)).detach()
    vectors = model.scorer.concept_rows(model.concepts.weight.detach())
    # PyKEEN counts a relation and its inverse as 2r and 2r + 1.
    ordered = torch.stack([every[:R], every[R:]], dim=1).flatten(0, 1)
    fixed = [
        {"shape": rows.shape[1], "dtype": rows.dtype,
         "initializer": PretrainedInitializer(torch.view_as_real(rows) if rows.is_complex() else rows)}
        for rows in (vectors, ordered)
    ]  # fmt: skip
    factory = CoreTriplesFactory(parts[0], N, R, create_inverse_triples=True)
    pykeen = ERModel(
        triples_factory=factory, interaction=model.scorer.pykeen_interaction(),
        entity_representations_kwargs=fixed[0], relation_representations_kwargs=fixed[1],
    )  # fmt: skip
    found = RankBasedEvaluator(filtered=True).evaluate(
        pykeen, parts[1], batch_size=8, additional_filter_triples=[parts[0], parts[2]], use_tqdm=False
    )
    theirs = float(found.get_metric("both.realistic.inverse_harmonic_mean_rank"))
    assert KgeMethod(model, split, recipe).validate() == {"valid_link_mrr": pytest.approx(theirs, abs=1e-6)}


def test_nothing_held_out_gives_no_figure() -> None:
    _, method, _ = made()
    assert method.validate() == {}
    assert method.state() == {}


def test_concept_vectors_are_unit_rows_of_the_free_ones() -> None:
    model, method, _ = made()
    vectors = method.concept_vectors(torch.empty(N, 0))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(N))
    torch.testing.assert_close(
        vectors * model.concepts.weight.detach().norm(dim=1, keepdim=True), model.concepts.weight.detach()
    )


def test_the_shuffled_control_trains_on_other_facts_and_filters_by_the_true_ones() -> None:
    recipe = recipe_of('held_out.control="shuffled-graph"', "relation.sampling=shared", "relation.triples=1000")
    model, split = EncoderModel(recipe, N, R), split_of(facts(), held=20)
    draw = KgeMethod(model, split, recipe).draw(1)
    forward = draw.directed < R
    asked = torch.stack([draw.anchors, draw.directed, draw.targets], dim=1)[forward]
    assert sorted(asked[:, :2].tolist()) == sorted(split.train[:, :2].tolist())
    assert sorted(asked[:, 2].tolist()) == sorted(split.train[:, 2].tolist())
    assert sorted(asked.tolist()) != sorted(split.train.tolist())


@pytest.mark.parametrize(("changes", "message"), [
    (["relation.sampling=shared", "relation.label_smoothing=0.1"], "'relation.label_smoothing' needs .*'all', not 'sh"),
    (["relation.sampling=all", "relation.loss=marginranking", "relation.label_smoothing=0.1"], "is 0.1: the loss 'm"),
    (["relation.sampling=all", "relation.loss=crosentropy"], "'relation.loss' is 'crosentropy'; did you mean 'crossen"),
    (["relation.sampling=independent", "relation.sampler=basc"], "'relation.sampler' is 'basc'; did you mean 'basic'"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(*changes)


@pytest.mark.data
def test_umls_is_learnt_in_seconds() -> None:
    """ComplEx with short vectors and a hundred steps; the recipe's own figures are in its comments."""
    data = os.environ.get("KGKIT_DATA")
    if not data:
        pytest.skip("KGKIT_DATA is not set: the published UMLS set is not trained on")
    view, split = read_benchmark(Path(data) / "kg" / "umls")
    recipe = recipe_of("relation.sampling=all", "relation.triples=256", "relation.concept_dim=200", "relation.n3=0.01",
                       "train.graph_learning_rate=0.02")  # fmt: skip
    torch.manual_seed(0)
    model = EncoderModel(recipe, view.num_concepts, view.num_relations)
    method = KgeMethod(model, split, recipe)
    train(model, method, recipe, 150)
    assert method.validate()["valid_link_mrr"] > 0.85
