"""Learning to answer concept queries from what reports say: the task of `vlp train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlp.checkpoint import State
from vlp.config import VlpRecipe
from vlp.data.dataset import FilmSet, Questions
from vlp.loop import Metrics, Pass
from vlp.losses import class_balance, query_loss, target_weights
from vlp.methods import Batch, FilmModel, TrainingStep
from vlp.metrics import auroc
from vlp.model import film_logits
from vlp.types import TargetValue

_MIN_VAL_POSITIVES = 5
_VAL_BATCH = 64


class ConceptTask:
    """A `Task`: films of one set to learn from, those of another to choose the epoch by.

    Args:
        films: Of train and of val; val may be empty.
        questions: What is asked.
        recipe: Method, targets and losses.
        model: Trained in place.
    """

    name = "train"
    start_counts = False

    def __init__(
        self, films: tuple[FilmSet, FilmSet], questions: Questions, recipe: VlpRecipe, model: FilmModel
    ) -> None:
        self.train, self.val = films
        self.questions = questions
        self.recipe = recipe
        self.model = model
        self.module = TrainingStep(model, model.network, recipe.loss, class_balance(self.train.targets, recipe.loss))

    @property
    def films(self) -> int:
        """See `Task`."""
        return len(self.train)

    def trained(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        """See `Task`; a rate of its own for the tower."""
        tower = [] if self.model.tower is None else self.model.tower.trained_parameters()
        return [(list(self.model.network.parameters()), 1.0), (tower, self.recipe.tower.learning_rate)]

    def changing(self) -> State:
        """See `Task`."""
        return self.model.changing()

    def batches(self, part: Pass) -> Iterator[Batch]:
        """See `Task`; each film is seen in a view drawn at random."""
        seed = self.recipe.seed * 100_003 + part.epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        order = torch.randperm(len(self.train), generator=generator)
        views = torch.randint(len(self.train.cache.views), (len(self.train),), generator=generator)
        number, count = part.process
        share = order[number::count]
        for position in range(part.steps):
            rows = share[position * part.batch_size : (position + 1) * part.batch_size]
            rows = rows if len(rows) else share[:1]  # shares differ by one film; every process takes every step
            yield make_batch(self.train, self.questions, self.recipe, rows, views[rows], generator)

    def validate(self) -> Metrics:
        """See `Task`: loss and AUROC against what the validation reports say; labels are never looked at."""
        if not len(self.val):
            return {}
        scores = film_logits(self.model, self.val.parts(), self.questions.vectors)
        if self.recipe.method == "clip":
            loss = self._contrast()
        else:
            loss = float(query_loss(scores, self.val.targets, target_weights(self.val.targets, self.recipe.loss)))
        return {"val_loss": loss} | mention_auroc(scores, self.val.targets)

    @torch.no_grad()
    def _contrast(self) -> float:
        """Mean contrast loss of batches of 64 validation films, always the same ones together."""
        self.module.eval()
        generator, device = torch.Generator().manual_seed(0), self.module.balance.device
        losses = []
        for rows in torch.split(torch.arange(len(self.val)), _VAL_BATCH):
            batch = make_batch(self.val, self.questions, self.recipe, rows, torch.zeros_like(rows), generator)
            losses.append(float(self.module(Batch(*(part.to(device) for part in batch)))[0]))
        return float(np.mean(losses))


def make_batch(
    films: FilmSet, questions: Questions, recipe: VlpRecipe, rows: Tensor, views: Tensor, generator: torch.Generator
) -> Batch:
    """What a step learns from some films.

    Args:
        films: The set.
        questions: What is asked.
        recipe: Says whether sentences and names are asked.
        rows: int64 [B], films of the set.
        views: int64 [B].
        generator: Of the sentences and names.
    """
    studies = films.studies[rows]
    drawn, own = torch.zeros(0, dtype=torch.int64), torch.zeros(len(rows), 0, dtype=torch.bool)
    if recipe.loss.sentence_weight > 0 and len(films.texts.sentences):
        drawn, own = films.texts.draw(studies, generator)
    return Batch(
        films.cache.look(views, films.rows[rows]),
        films.targets[rows],
        _asked_vectors(questions, recipe.targets.synonym_rate, generator),
        films.texts.reports[studies],
        films.texts.sentences[drawn],
        films.texts.says[drawn],
        own,
    )


def mention_auroc(scores: Tensor, targets: Tensor) -> Metrics:
    """Macro AUROC of the queries that five or more films have, by what the reports say.

    Args:
        scores: float [N, Q].
        targets: int8 [N, Q], values of `TargetValue`.
    """
    values, truth, areas = scores.numpy(), targets.numpy(), []
    for column in range(truth.shape[1]):
        known = truth[:, column] != TargetValue.UNCERTAIN
        labels = truth[known, column] == TargetValue.PRESENT
        if labels.sum() >= _MIN_VAL_POSITIVES and not labels.all():
            areas.append(float(auroc(labels, values[known, column])))
    macro = float(np.mean(areas)) if areas else None
    return {"val_mention_macro_auroc": macro, "mention_queries": len(areas)}


def _asked_vectors(questions: Questions, rate: float, generator: torch.Generator) -> Tensor:
    """Query vectors of a step: float32 [Q, E], some of them the vector of another name of the concept."""
    if not len(questions.names) or rate == 0:
        return questions.vectors
    counts = questions.name_starts[1:] - questions.name_starts[:-1]
    place = questions.name_starts[:-1] + (torch.rand(len(counts), generator=generator) * counts).long()
    by_name = (torch.rand(len(counts), generator=generator) < rate) & (counts > 0)
    named = questions.names[place.clamp_max(len(questions.names) - 1)]
    return torch.where(by_name[:, None], named, questions.vectors)
