"""Finetuning with labels: the last blocks of the image tower and a linear head on its pooled features.

The head starts as the linear probe, so epoch 0 is the probe, and training can only be kept where validation films say
that it is better. Randomness is drawn from (seed, epoch, step): a killed and resumed run ends as an undisturbed one.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kgkit.interface import progress
from vlp.artifact import VlpModel
from vlp.checkpoint import (
    State,
    TrainingState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vlp.data.film_reader import FilmBatch, FilmLoader, FilmReader, LoaderConfig
from vlp.features import fixed_views, tower_arithmetic
from vlp.finetuning.films import Films
from vlp.finetuning.probe import Probe
from vlp.metrics import FloatArray
from vlp.towers import ImageTower

_GRADIENT_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class FullConfig:
    """How tower and head are trained.

    Attributes:
        last_blocks: Blocks of the tower that are trained, as `ImageTower.unfreeze` counts them; -1 for all of it.
        epochs: Passes over the drawn films, at most.
        cpu_minutes: Processor time after which a fit stops, 0 for no limit; a resumed fit counts on. Where it runs
            out, the result depends on the speed of the machine.
        batch_size: Films per step.
        learning_rate: Of the head; falls to zero along a cosine.
        tower_rate: Of the tower, relative to that of the head.
        weight_decay: Of AdamW; none on biases, norms and other vectors.
        patience: Epochs without a lower validation loss before stopping; 0 never stops early.
        views: Fixed views a batch may be seen in (see `vlp.features.fixed_views`).
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


class TunedNetwork(nn.Module):
    """Film in, logit of each fitted finding out.

    Args:
        tower: Taken as it is; `unfreeze` chose what is trained.
        probe: Its fitted findings become the head.

    Attributes:
        fitted: bool [F], the findings that are answered, among all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: ImageTower, probe: Probe) -> None:
        super().__init__()
        self.tower = tower
        self.fitted = probe.is_fitted
        self.head = nn.Linear(len(probe.mean), int(self.fitted.sum()))
        self.register_buffer("mean", torch.tensor(probe.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(probe.std, dtype=torch.float32), persistent=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(probe.weights[:, self.fitted].T))
            self.head.bias.copy_(torch.from_numpy(probe.bias[self.fitted]))

    def forward(self, squares: Tensor) -> Tensor:
        """Logits float32 [B, fitted] of films float [B, S, S], grey 0..1."""
        pooled = self.tower(squares).float().mean((1, 2))
        with torch.autocast(squares.device.type, enabled=False):  # seven bits of a logit would be too few
            logits: Tensor = self.head((pooled - self.mean) / self.std)
        return logits

    def labels(self, films: Films, rows: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Labels of the fitted findings, float32 [B, fitted], NaN where unknown."""
        labels = films.labels if rows is None else films.labels[rows]
        return torch.from_numpy(labels[:, self.fitted]).float()

    def trained_state(self) -> State:
        """Copies of the weights that training changes."""
        return {name: p.detach().cpu().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained_state(self, state: State) -> None:
        """Inverse of `trained_state`."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])


@dataclass(frozen=True)
class Tuned:
    """A finished fit.

    Attributes:
        network: With the weights of the best epoch.
        best_epoch: 0 is the probe itself.
        epochs: Epochs that were run.
        val_loss: Mean log loss of validation films at the best epoch.
    """

    network: TunedNetwork
    best_epoch: int
    epochs: int
    val_loss: float


class Finetuner:
    """Fits one network after another to films of the same data.

    Args:
        model: Whose tower is trained, in a copy, in the arithmetic of its recipe.
        reader: Where films come from.
        config: How.

    Raises:
        InputError: if the tower has not so many blocks.
    """

    def __init__(self, model: VlpModel, reader: FilmReader, config: FullConfig) -> None:
        self.model = model
        self.reader = reader
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.views = fixed_views(config.views)
        copy.deepcopy(model.tower).unfreeze(config.last_blocks)

    def fit(self, train: Films, val: Films, probe: Probe, seed: int, checkpoint: Path) -> Tuned:
        """Train until validation no longer gets better.

        Args:
            train: Drawn films.
            val: Films that choose the epoch; none to take the last one.
            probe: Fitted on the patch features of the same films.
            seed: Of the order of films and their views.
            checkpoint: Written after every epoch; a fit that was stopped goes on from it.

        Raises:
            InputError: if the checkpoint is damaged.
        """
        tower = copy.deepcopy(self.model.tower)
        tower.unfreeze(self.config.last_blocks)
        network = TunedNetwork(tower, probe).to(self.device)
        optimizer = _optimizer(network, self.config)
        if checkpoint.is_file():
            state = load_checkpoint(checkpoint)
            network.load_trained_state(state.network)
            restore_optimizer(optimizer, state.optimizer)
        else:
            start = network.trained_state()
            state = TrainingState(start, best=start, best_loss=self._val_loss(network, val))
        left = max(self.config.epochs - state.epoch, 0) * len(train.rows)
        with progress(f"finetune, seed {seed}", left, "films") as bar:
            while state.epoch < self.config.epochs and not self._is_over(state):
                began = time.process_time() - state.cpu_seconds
                for step, batch in enumerate(self._loader(train, seed).epoch(state.epoch)):
                    loss = self._update(network, optimizer, batch, train, (seed, state.epoch, step))
                    bar.advance(len(batch.rows), note=f"loss {loss:.3f}")
                    state.cpu_seconds = time.process_time() - began
                    if self._has_used_its_time(state):
                        break
                state.epoch += 1
                state.network, state.optimizer = network.trained_state(), optimizer_tensors(optimizer)
                val_loss = self._val_loss(network, val)
                if val_loss < state.best_loss or math.isnan(val_loss):
                    state.best, state.best_epoch, state.best_loss = state.network, state.epoch, val_loss
                state.cpu_seconds = time.process_time() - began
                save_checkpoint(checkpoint, state)
        network.load_trained_state(state.best)
        return Tuned(network, state.best_epoch, state.epoch, state.best_loss)

    def scores(self, network: TunedNetwork, films: Films) -> FloatArray:
        """Probabilities: float64 [n, F], NaN for findings that could not be fitted."""
        found = np.full((len(films.rows), len(network.fitted)), np.nan)
        found[:, network.fitted] = self._logits(network, films).double().sigmoid().numpy()
        return found

    def _update(
        self,
        network: TunedNetwork,
        optimizer: torch.optim.Optimizer,
        batch: FilmBatch,
        train: Films,
        place: tuple[int, int, int],
    ) -> float:
        """One step of the optimiser at a place (seed, epoch, step); returns its loss."""
        _, epoch, step = place
        steps = math.ceil(len(train.rows) / self.config.batch_size)
        done = (epoch * steps + step) / (self.config.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * done))
        view = self.views[int(np.random.default_rng(place).integers(len(self.views)))]
        squares = view.apply(torch.from_numpy(batch.squares).to(self.device))
        loss = masked_loss(self._forward(network, squares), network.labels(train, batch.rows).to(self.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], _GRADIENT_CLIP)
        optimizer.step()
        return float(loss.detach())

    def _is_over(self, state: TrainingState) -> bool:
        has_stalled = 0 < self.config.patience <= state.epoch - state.best_epoch
        return has_stalled or self._has_used_its_time(state)

    def _has_used_its_time(self, state: TrainingState) -> bool:
        return 0 < self.config.cpu_minutes * 60 <= state.cpu_seconds

    def _val_loss(self, network: TunedNetwork, val: Films) -> float:
        """NaN without a known validation label."""
        labels = network.labels(val)
        if bool(labels.isnan().all()):
            return float("nan")
        return float(masked_loss(self._logits(network, val), labels))

    @torch.no_grad()
    def _logits(self, network: TunedNetwork, films: Films) -> Tensor:
        parts = [torch.empty(0, network.head.out_features)]
        for batch in self._loader(films, None).epoch():
            parts.append(self._forward(network, torch.from_numpy(batch.squares).to(self.device)).cpu())
        return torch.cat(parts)

    def _loader(self, films: Films, seed: int | None) -> FilmLoader:
        config = LoaderConfig(self.model.recipe.tower.input_size, self.config.batch_size, seed)
        return FilmLoader(self.reader, films.rows, config)

    def _forward(self, network: TunedNetwork, squares: Tensor) -> Tensor:
        with tower_arithmetic(self.model.recipe.tower, self.device):
            logits: Tensor = network(squares)
        return logits


def masked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log loss over the known labels, 0 without any; logits and labels float [B, F], NaN where unknown."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def _optimizer(network: TunedNetwork, config: FullConfig) -> torch.optim.AdamW:
    """AdamW over tower and head; `initial_lr` is the rate at the start of the cosine."""
    groups = []
    parts = ((network.tower.trained_parameters(), config.tower_rate), (list(network.head.parameters()), 1.0))
    for parameters, relative in parts:
        for is_matrix in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == is_matrix]
            rate = config.learning_rate * relative
            decay = config.weight_decay if is_matrix else 0.0
            groups.append({"params": chosen, "lr": rate, "initial_lr": rate, "weight_decay": decay})
    return torch.optim.AdamW([group for group in groups if group["params"]])
