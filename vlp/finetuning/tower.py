"""Finetuning with labels: the last blocks of the image tower and a linear head on its pooled features.

The head starts as the linear probe, so epoch 0 is the probe, and training can only be kept where validation films say
that it is better. Randomness is drawn from (seed, epoch, step): a killed and resumed run ends as an undisturbed one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kgkit.interface import DoubleArray, InputError
from vlp.artifact import VlpModel
from vlp.checkpoint import State
from vlp.config import OptimizerConfig, TowerConfig
from vlp.data.film_reader import FilmLoader, FilmReader, LoaderConfig
from vlp.features import tower_arithmetic
from vlp.finetuning.films import Films
from vlp.finetuning.probe import Probe
from vlp.loop import Metrics, Pass, learn, make_accelerator
from vlp.towers import ImageTower
from vlp.views import fixed_views


@dataclass(frozen=True, slots=True)
class FullConfig:
    """How tower and head are trained.

    Attributes:
        last_blocks: Blocks of the tower that are trained, as `ImageTower.unfreeze` counts them; -1 for all of it.
        epochs: Passes over the drawn films, at most.
        cpu_minutes: As in `OptimizerConfig`, for each fit: the result then depends on the speed of the machine.
        batch_size: Films per step.
        learning_rate: Of the head; falls to zero along a cosine.
        tower_rate: Of the tower, relative to that of the head.
        weight_decay: Of AdamW; none on biases, norms and other vectors.
        patience: Epochs without a lower validation loss before stopping; 0 never stops early.
        views: Fixed views a batch may be seen in (see `vlp.views.fixed_views`).
    """

    last_blocks: int = 3
    epochs: int = 20
    cpu_minutes: float = 0.0
    batch_size: int = 16
    learning_rate: float = 1e-3
    tower_rate: float = 0.1
    weight_decay: float = 0.02
    patience: int = 4
    views: int = 4

    @property
    def optimizer(self) -> OptimizerConfig:
        """The part that the loop knows; without warm-up and average, since it starts from a good model."""
        return OptimizerConfig(
            epochs=self.epochs,
            cpu_minutes=self.cpu_minutes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=0.0,
            ema_decay=0.0,
            patience=self.patience,
        )


class TunedNetwork(nn.Module):
    """Film in, logit of each fitted finding out.

    Args:
        tower: Taken as it is; `unfreeze` chose what is trained.
        probe: Its fitted findings become the head.
        config: Of the tower: its arithmetic.

    Attributes:
        fitted: bool [F], the findings that are answered, among all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: ImageTower, probe: Probe, config: TowerConfig) -> None:
        super().__init__()
        self.tower = tower
        self.config = config
        self.fitted = probe.is_fitted
        self.head = nn.Linear(len(probe.mean), int(self.fitted.sum()))
        self.register_buffer("mean", torch.tensor(probe.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(probe.std, dtype=torch.float32), persistent=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(probe.weights[:, self.fitted].T))
            self.head.bias.copy_(torch.from_numpy(probe.bias[self.fitted]))

    def forward(self, squares: Tensor) -> Tensor:
        """Logits float32 [B, fitted] of films float [B, S, S], grey 0..1."""
        with tower_arithmetic(self.config, squares.device):
            features: Tensor = self.tower(squares)
        pooled = features.float().mean((1, 2))  # the head in float32: seven bits of a logit would be too few
        logits: Tensor = self.head((pooled - self.mean) / self.std)
        return logits

    def labels(self, films: Films) -> Tensor:
        """Labels of the fitted findings, float32 [n, fitted], NaN where unknown."""
        return torch.from_numpy(films.labels[:, self.fitted]).float()


class LabelBatch(NamedTuple):
    """What a step learns from.

    Attributes:
        squares: float32 [B, S, S], grey 0..1, as seen in one of the fixed views.
        labels: float32 [B, fitted], 1, 0 or NaN.
    """

    squares: Tensor
    labels: Tensor


class LabelStep(nn.Module):
    """Network and loss as one module."""

    def __init__(self, network: TunedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: LabelBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and the same to log."""
        loss = masked_loss(self.network(batch.squares), batch.labels)
        return loss, {"train_loss": loss.detach()}


class LabelTask:
    """A `Task` of vlp/loop.py: films with labels to learn from, others to choose the epoch by.

    Args:
        network: Trained in place.
        films: Drawn for training, and of validation; the latter may be empty.
        reader: Where they come from.
        config: How.
        seed: Of the order of films and their views.
    """

    start_counts = True

    def __init__(
        self, network: TunedNetwork, films: tuple[Films, Films], reader: FilmReader, config: FullConfig, seed: int
    ) -> None:
        self.name = f"finetune, seed {seed}"
        self.network = network
        self.module = LabelStep(network)
        self.train, self.val = films
        self.reader = reader
        self.config = config
        self.seed = seed

    @property
    def films(self) -> int:
        """See `Task`."""
        return len(self.train.rows)

    def trained(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        """See `Task`; a rate of its own for the tower."""
        return [
            (self.network.tower.trained_parameters(), self.config.tower_rate),
            (list(self.network.head.parameters()), 1.0),
        ]

    def changing(self) -> State:
        """See `Task`."""
        return {name: p.data for name, p in self.network.named_parameters() if p.requires_grad}

    def batches(self, part: Pass) -> Iterator[LabelBatch]:
        """See `Task`; each batch is seen in a view drawn at random."""
        views, labels = fixed_views(self.config.views), self.network.labels(self.train)
        config = LoaderConfig(self.network.config.input_size, part.batch_size, self.seed, part.process)
        for step, batch in enumerate(FilmLoader(self.reader, self.train.rows, config).epoch(part.epoch)):
            view = views[int(np.random.default_rng((self.seed, part.epoch, step)).integers(len(views)))]
            yield LabelBatch(view.apply(torch.from_numpy(batch.squares)), labels[torch.from_numpy(batch.rows)])

    def validate(self) -> Metrics:
        """See `Task`: mean log loss of the validation films; none without a known label."""
        labels = self.network.labels(self.val)
        if bool(labels.isnan().all()):
            return {}
        logits = label_logits(self.network, self.val, self.reader, self.config.batch_size)
        return {"val_loss": float(masked_loss(logits, labels))}


@dataclass(frozen=True)
class Tuned:
    """A finished fit.

    Attributes:
        network: With the weights of the best epoch.
        best_epoch: 0 is the probe itself.
        epochs: Epochs that were run.
        val_loss: Mean log loss of validation films at the best epoch; None without a known label.
    """

    network: TunedNetwork
    best_epoch: int
    epochs: int
    val_loss: float | None


class Finetuner:
    """Fits one network after another to films of the same data.

    Args:
        model: Whose tower is trained, in a copy, in the arithmetic of its recipe.
        reader: Where films come from.
        config: How.

    Raises:
        InputError: if the tower has not so many blocks, or several processes were started.
    """

    def __init__(self, model: VlpModel, reader: FilmReader, config: FullConfig) -> None:
        self.model = model
        self.reader = reader
        self.config = config
        copy.deepcopy(model.tower).unfreeze(config.last_blocks)
        processes = make_accelerator(config.optimizer).num_processes
        if processes > 1:  # all of them would write the same files
            raise InputError(f"finetuning runs in one process, not in {processes}: start it without torchrun")

    def fit(self, films: tuple[Films, Films], probe: Probe, seed: int, folder: Path) -> Tuned:
        """Train until validation no longer gets better.

        Args:
            films: Drawn for training, and those that choose the epoch; none of the latter to take the last one.
            probe: Fitted on the patch features of the same films.
            seed: Of the order of films and their views.
            folder: For the checkpoint, from which a fit that was stopped goes on, and the log.

        Raises:
            InputError: if the checkpoint is damaged, or the loss is not a number.
        """
        tower = copy.deepcopy(self.model.tower)
        tower.unfreeze(self.config.last_blocks)
        network = TunedNetwork(tower, probe, self.model.recipe.tower)
        task = LabelTask(network, films, self.reader, self.config, seed)
        optimizer = self.config.optimizer
        state = learn(task, optimizer, make_accelerator(optimizer), folder)
        is_judged = state.best_loss < float("inf")
        return Tuned(network, state.best_epoch, state.epoch, state.best_loss if is_judged else None)

    def scores(self, network: TunedNetwork, films: Films) -> DoubleArray:
        """Probabilities: float64 [n, F], NaN for findings that could not be fitted."""
        found = np.full((len(films.rows), len(network.fitted)), np.nan)
        logits = label_logits(network, films, self.reader, self.config.batch_size)
        found[:, network.fitted] = logits.double().sigmoid().numpy()
        return found


@torch.no_grad()
def label_logits(network: TunedNetwork, films: Films, reader: FilmReader, batch_size: int) -> Tensor:
    """Logits of films as they are, in their order: float32 [n, fitted] on the CPU; n may be 0."""
    config = LoaderConfig(network.config.input_size, batch_size)
    device = network.mean.device
    parts = [torch.empty(0, network.head.out_features)]
    for batch in FilmLoader(reader, films.rows, config).epoch():
        parts.append(network(torch.from_numpy(batch.squares).to(device)).cpu())
    return torch.cat(parts)


def masked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log loss over the known labels, 0 without any; logits and labels float [B, F], NaN where unknown."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)
