"""Training free concept vectors on facts alone: knowledge graph embedding without texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.matrix_forms import cubed_norm
from kgkit.encoder.model import EncoderModel
from kgkit.encoder.relation_scorer import RelationLoss, negative_sampler
from kgkit.errors import InputError
from kgkit.evaluation.link_prediction import KnownFacts, rank_triples
from kgkit.training.corpus import training_facts
from kgkit.training.method import OneKindOfStep, Tokens, step_generator
from kgkit.views.splits import TripleSplit

_VALIDATION_TRIPLES = 1000
_CACHED_LABELS = 1 << 24
"""Numbers in a label matrix kept for the whole run (64 MB); beyond, each step makes its own rows."""
_ORDER, _NEGATIVES = 10, 11


class TargetTable:
    """Known answers of every question (anchor, directed relation), in compressed rows.

    Attributes:
        anchors: int64 [P], of the distinct questions, sorted.
        directed: int64 [P], directed relations; see relation_scorer.py.
        starts: int64 [P + 1].
        targets: int64 [t], answers of question p at starts[p]:starts[p + 1].

    Args:
        triples: int64 [n, 3]; each asks for its tail and for its head. Doubles count once.
        num_relations: R.
    """

    def __init__(self, triples: Tensor, num_relations: int) -> None:
        self._width = 2 * num_relations
        anchor, directed, target = directed_triples(triples, num_relations).unbind(1)
        concepts = int(triples.max()) + 1 if len(triples) else 1
        # One number per fact: sorting numbers is eighteen times as fast as sorting rows.
        asked = torch.unique((anchor * self._width + directed) * concepts + target)
        self._keys, counts = torch.unique_consecutive(asked // concepts, return_counts=True)
        self.anchors, self.directed = self._keys // self._width, self._keys % self._width
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.targets = asked % concepts

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, anchors: Tensor, directed: Tensor) -> Tensor:
        """Row of each question; all must be known. int64 [B]."""
        return torch.searchsorted(self._keys, anchors * self._width + directed)

    def answers(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All answers of some questions: (place in `rows`, concept), int64 [m] each."""
        starts, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        place = torch.repeat_interleave(counts)
        shift = starts - (counts.cumsum(0) - counts)
        return place, self.targets[torch.arange(len(place)) + shift[place]]


def directed_triples(triples: Tensor, num_relations: int) -> Tensor:
    """Every fact as two questions with answer: (head, relation, tail) and (tail, relation + R, head); int64 [2n, 3]."""
    head, relation, tail = triples.unbind(1)
    return torch.cat([triples, torch.stack([tail, relation + num_relations, head], dim=1)])


class _Order:
    """Which rows a step works on: epochs of all rows in an order drawn by seed and epoch alone."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self._steps = -(-count // batch)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        epoch, place = divmod(step - 1, self._steps)
        if epoch != self._epoch:
            self._order = torch.randperm(self._count, generator=step_generator(self._seed, epoch, _ORDER))
            self._epoch = epoch
        return self._order[place * self._batch : (place + 1) * self._batch]


@dataclass(frozen=True)
class KgeDraw:
    """Questions of a step and what is scored for them.

    Attributes:
        anchors: int64 [B], concept each question starts from.
        directed: int64 [B], directed relations.
        labels: float [B, N] over all concepts ("all").
        candidates: int64 [B, 1 + K], the right answer first ("independent"), or [M], shared by all ("shared").
        others: int64 [B, 2], anchor and directed relation of the reverse question, where `reversed` says so.
        reversed: bool [B, 1 + K], candidates that answer the reverse question.
        targets: int64 [B], right answers ("shared").
        allowed: bool [B, M], candidates that are no known answer ("shared").
        tokens: None are read.
    """

    anchors: Tensor
    directed: Tensor
    labels: Tensor | None = None
    candidates: Tensor | None = None
    others: Tensor | None = None
    reversed: Tensor | None = None
    targets: Tensor | None = None
    allowed: Tensor | None = None
    tokens: Tokens = ()

    @property
    def items(self) -> int:
        """Questions."""
        return len(self.anchors)


class _Sampling(Protocol):
    """Which candidates a step scores, and the loss on them."""

    def draw(self, step: int) -> KgeDraw:
        """The questions of a step."""

    def loss(self, draw: KgeDraw) -> Tensor:
        """Scalar."""


class AllCandidates:
    """Every concept is scored for each distinct question; all its known answers are right (LCWA, KvsAll)."""

    def __init__(self, model: EncoderModel, table: TargetTable, recipe: EncoderRecipe) -> None:
        self._model, self._table, self._smoothing = model, table, recipe.relation.label_smoothing
        self._loss = RelationLoss(recipe.relation.loss)
        self._order = _Order(len(table), recipe.relation.triples, recipe.seed)
        everything = len(table) * model.num_concepts <= _CACHED_LABELS
        self._labels = self._label_rows(torch.arange(len(table))) if everything else None

    def draw(self, step: int) -> KgeDraw:
        """The questions of a step with their labels."""
        rows = self._order.rows(step)
        labels = self._label_rows(rows) if self._labels is None else self._labels.index_select(0, rows)
        return KgeDraw(self._table.anchors[rows], self._table.directed[rows], labels=labels)

    def loss(self, draw: KgeDraw) -> Tensor:
        """PyKEEN's loss on LCWA scores."""
        weight, labels = _weight(self._model), draw.labels
        assert labels is not None
        anchors, directed = draw.anchors.to(weight.device), draw.directed.to(weight.device)
        scores = self._model.scorer.score_directed(F.embedding(anchors, weight), directed, weight)
        return self._loss.against_all(scores, labels.to(weight.device), self._smoothing)

    def _label_rows(self, rows: Tensor) -> Tensor:
        labels = torch.zeros(len(rows), self._model.num_concepts)
        place, concept = self._table.answers(rows)
        labels[place, concept] = 1.0
        return F.normalize(labels, p=1, dim=1) if self._loss.wants_shares else labels


class IndependentNegatives:
    """Each triple against corrupted triples of its own, by PyKEEN's sampler; they may be true by chance (sLCWA)."""

    def __init__(self, model: EncoderModel, triples: Tensor, recipe: EncoderRecipe) -> None:
        self._model, self._triples, self._seed = model, triples, recipe.seed
        sizes = (model.num_concepts, model.num_relations)
        self._sampler = negative_sampler(recipe.relation, triples, sizes)
        self._loss = RelationLoss(recipe.relation.loss)
        self._order = _Order(len(triples), recipe.relation.triples, recipe.seed)

    def draw(self, step: int) -> KgeDraw:
        """Triples with their corrupted heads or tails; a triple of which both are drawn asks in both directions."""
        triples = self._triples[self._order.rows(step)]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also walk all kinds of devices, which takes longer than the draw.
            torch.default_generator.manual_seed(step_generator(self._seed, step, _NEGATIVES).initial_seed())
            corrupted = self._sampler.corrupt_batch(triples)
        head, relation, tail = triples.unbind(1)
        is_head = corrupted[..., 2] == tail[:, None]  # the tail was kept, so the head was replaced
        wrong = torch.where(is_head, corrupted[..., 0], corrupted[..., 2])
        turned = relation + self._model.num_relations
        one_sided = is_head[:, 0]
        if bool((is_head == one_sided[:, None]).all()):
            right, anchors = torch.where(one_sided, head, tail), torch.where(one_sided, tail, head)
            directed = torch.where(one_sided, turned, relation)
            return KgeDraw(anchors, directed, candidates=torch.cat([right[:, None], wrong], dim=1))
        return KgeDraw(
            head, relation, candidates=torch.cat([tail[:, None], wrong], dim=1),
            others=torch.stack([tail, turned], dim=1), reversed=F.pad(is_head, (1, 0), value=False),
        )  # fmt: skip

    def loss(self, draw: KgeDraw) -> Tensor:
        """PyKEEN's loss on sLCWA scores."""
        weight, scorer = _weight(self._model), self._model.scorer
        assert draw.candidates is not None
        candidates = F.embedding(draw.candidates.to(weight.device), weight)
        anchors = F.embedding(draw.anchors.to(weight.device), weight)
        scores = scorer.score_directed(anchors, draw.directed.to(weight.device), candidates)
        if draw.others is not None and draw.reversed is not None:
            anchors, directed = F.embedding(draw.others[:, 0].to(weight.device), weight), draw.others[:, 1]
            backwards = scorer.score_directed(anchors, directed.to(weight.device), candidates)
            scores = torch.where(draw.reversed.to(weight.device), backwards, scores)
        return self._loss.against_sampled(scores[:, :1].contiguous(), scores[:, 1:].contiguous())  # PyKEEN takes views


class SharedNegatives:
    """All questions of a step against the same few concepts, known answers masked: one matrix product per step.

    Rows of the concept vectors that a step does not touch get no gradient, so the optimiser need not visit them.
    """

    def __init__(self, model: EncoderModel, triples: Tensor, table: TargetTable, recipe: EncoderRecipe) -> None:
        self._model, self._table, self._config, self._seed = model, table, recipe.relation, recipe.seed
        self._asked = directed_triples(triples, model.num_relations)
        self._question = table.find(self._asked[:, 0], self._asked[:, 1])
        self._loss = RelationLoss(recipe.relation.loss)
        self._order = _Order(len(self._asked), recipe.relation.triples, recipe.seed)
        self._column = torch.full((model.num_concepts,), -1)

    def draw(self, step: int) -> KgeDraw:
        """Directed triples and distinct concepts drawn evenly (doubles are dropped, so they may be a few less)."""
        rows = self._order.rows(step)
        anchors, directed, targets = self._asked[rows].unbind(1)
        generator = step_generator(self._seed, step, _NEGATIVES)
        drawn = torch.randint(self._model.num_concepts, (self._config.negatives,), generator=generator)
        candidates = torch.unique(drawn)
        questions, where = torch.unique(self._question[rows], return_inverse=True)
        place, concept = self._table.answers(questions)
        # Looking the answers up among the candidates costs one read each; the other way round would be B x M searches.
        self._column[candidates] = torch.arange(len(candidates))
        column = self._column[concept]
        self._column[candidates] = -1
        allowed = torch.ones(len(questions), len(candidates), dtype=torch.bool)
        allowed[place[column >= 0], column[column >= 0]] = False
        return KgeDraw(anchors, directed, candidates=candidates, targets=targets, allowed=allowed[where])

    def loss(self, draw: KgeDraw) -> Tensor:
        """PyKEEN's loss on sLCWA scores; known answers do not count as negatives."""
        assert draw.candidates is not None
        assert draw.targets is not None
        assert draw.allowed is not None
        assert self._model.concepts is not None
        device = self._model.concepts.weight.device
        rows = torch.cat([draw.anchors, draw.targets, draw.candidates]).to(device)
        vectors: Tensor = self._model.concepts(rows)  # one look-up, so one sparse gradient
        anchors, targets, candidates = torch.split(
            vectors, [len(draw.anchors), len(draw.targets), len(draw.candidates)]
        )
        right, wrong = self._model.scorer.score_both(anchors, draw.directed.to(device), targets, candidates)
        return self._loss.against_sampled(right, wrong, draw.allowed.to(device))


class KgeMethod(OneKindOfStep):
    """Implements `kgkit.training.method.Method` without texts.

    Args:
        model: With free concept vectors.
        split: Training facts; validation facts for `validate`.
        recipe: Sampling, loss, sizes, weights.

    Raises:
        InputError: for a loss, sampler or smoothing that does not exist or does not go together.
    """

    def __init__(self, model: EncoderModel, split: TripleSplit, recipe: EncoderRecipe) -> None:
        self._model, self._recipe = model, recipe
        triples = torch.from_numpy(np.ascontiguousarray(training_facts(split, recipe), dtype=np.int64))
        self._valid = split.valid[:: max(1, -(-len(split.valid) // _VALIDATION_TRIPLES))]
        if len(self._valid):
            self._known = KnownFacts(np.concatenate([split.train, split.valid, split.test]), model.num_relations)
        self._sampling: _Sampling
        sampling = recipe.relation.sampling
        _check_smoothing(recipe)
        if sampling == "independent":
            self._sampling = IndependentNegatives(model, triples, recipe)
            return
        table = TargetTable(triples, model.num_relations)
        if sampling == "all":
            self._sampling = AllCandidates(model, table, recipe)
        else:
            self._sampling = SharedNegatives(model, triples, table, recipe)

    def draw(self, step: int) -> KgeDraw:
        """The questions of a step."""
        return self._sampling.draw(step)

    def losses(self, draw: KgeDraw, texts: Tensor) -> dict[str, Tensor]:
        """The weighted relation loss, and the weighted regulariser if the recipe has one."""
        losses = {"relation": self._recipe.objectives.relation * self._sampling.loss(draw)}
        if self._recipe.relation.n3:
            losses["n3"] = self._recipe.relation.n3 * self._cubed_norms(draw)
        return losses

    def after_step(self, draw: KgeDraw, texts: Tensor) -> None:
        """Nothing was read."""

    def validate(self) -> Mapping[str, float]:
        """Filtered MRR of up to 1,000 validation facts, both sides, realistic ties, every concept a candidate."""
        if not len(self._valid):
            return {}
        ranks = rank_triples(_weight(self._model), self._model.scorer, self._known, self._valid)
        return {"valid_link_mrr": float((1 / ranks).mean())}

    def state(self) -> dict[str, Tensor]:
        """Nothing: draws depend on the step alone."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to take back."""

    def concept_vectors(self, preferred: Tensor) -> Tensor:
        """The free vectors as unit rows, float32 [N, dim]; scores need the rows as they are, `concepts.weight`."""
        return F.normalize(_weight(self._model).detach().float().cpu(), dim=1)

    def _cubed_norms(self, draw: KgeDraw) -> Tensor:
        """Mean over the questions; every concept is an anchor sooner or later, so targets need none of their own."""
        assert self._model.concepts is not None
        scorer, device = self._model.scorer, self._model.concepts.weight.device
        anchors: Tensor = self._model.concepts(draw.anchors.to(device))
        concept_norms = cubed_norm(anchors, is_complex=scorer.is_complex)
        return (concept_norms + scorer.relation_norms(draw.directed.to(device))).mean()


def _weight(model: EncoderModel) -> Tensor:
    assert model.concepts is not None, "the recipe has a text tower"
    return model.concepts.weight


def _check_smoothing(recipe: EncoderRecipe) -> None:
    config = recipe.relation
    if not config.label_smoothing:
        return
    if config.sampling != "all":
        raise InputError(
            f"recipe key 'relation.label_smoothing' needs relation.sampling 'all', not {config.sampling!r}"
        )
    try:
        RelationLoss(config.loss).against_all(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), config.label_smoothing)
    except RuntimeError as error:
        problem = f"the loss {config.loss!r} does not take it"
        raise InputError(f"recipe key 'relation.label_smoothing' is {config.label_smoothing}: {problem}") from error
