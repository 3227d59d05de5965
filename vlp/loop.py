"""The only training loop in vlp.

Randomness is drawn per epoch from (seed, epoch), so a run that is killed and resumed ends with the weights of an
undisturbed one; with a limit of processor time, as near as the clock allows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from kgkit.interface import InputError, progress
from vlp.checkpoint import (
    State,
    TrainingState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vlp.config import OptimizerConfig, TowerConfig, VlpRecipe
from vlp.data.dataset import FilmSet, Questions
from vlp.features import tower_arithmetic
from vlp.losses import class_balance, query_loss, target_weights
from vlp.methods import Batch, Network, TrainingStep, build_network
from vlp.metrics import auroc
from vlp.model import QueryOutput, film_logits
from vlp.towers import ImageTower
from vlp.types import TargetValue

CHECKPOINT, LOG = "checkpoint.safetensors", "training_log.jsonl"
_MIN_VAL_POSITIVES = 5
_VAL_BATCH = 64


class FilmModel(nn.Module):
    """Network, and the tower in front of it where that is trained; see `FilmCache.look` for what it takes.

    Args:
        network: The network.
        tower: A tower of which blocks are trained; None where films come as features.
        config: Of the tower.
    """

    def __init__(self, network: Network, tower: ImageTower | None, config: TowerConfig) -> None:
        super().__init__()
        self.network = network
        self.tower = tower
        self.config = config

    def forward(self, films: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Answers about films float16 [B, Hp, Wp, D] or squares float32 [B, S, S]."""
        output: QueryOutput = self.network(self.features(films), query_vectors)
        return output

    def features(self, films: Tensor) -> Tensor:
        """Patch features: float [B, Hp, Wp, D]."""
        if self.tower is None:
            return films
        with tower_arithmetic(self.config, films.device):
            features: Tensor = self.tower(films)
        return features.float()

    def weights(self) -> State:
        """All that training changes, copied to main memory."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._changing().items()}

    def load_weights(self, weights: State) -> None:
        """Take weights that `weights` gave."""
        with torch.no_grad():
            for name, tensor in self._changing().items():
                tensor.copy_(weights[name])

    def average_into(self, average: State, decay: float) -> None:
        """Move an average of the weights towards what they are now."""
        for name, tensor in self._changing().items():
            average[name].lerp_(tensor.detach().cpu(), 1 - decay)

    def _changing(self) -> State:
        changing = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.tower is not None:
            trained = self.tower.named_parameters()
            changing |= {f"tower.{name}": value.data for name, value in trained if value.requires_grad}
        return changing


def make_accelerator(recipe: VlpRecipe) -> Accelerator:
    """Devices and processes, as the recipe wants them."""
    return Accelerator(
        mixed_precision=recipe.optimizer.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def fit(
    films: tuple[FilmSet, FilmSet],
    questions: Questions,
    tower: ImageTower,
    recipe: VlpRecipe,
    accelerator: Accelerator,
    folder: Path,
) -> tuple[FilmModel, TrainingState]:
    """Train on the films of one set, choose the epoch by those of the other.

    Args:
        films: Of train and of val; val may be empty.
        questions: What is asked.
        tower: Trained in place where the recipe trains it.
        recipe: Everything else.
        accelerator: See `make_accelerator`.
        folder: For the checkpoint, from which a run goes on that finds one, and the log.

    Returns:
        The model with its best weights, and the state at the end.

    Raises:
        InputError: if the loss is not a number.
    """
    is_trained = recipe.tower.trained_blocks != 0
    with own_randomness(recipe.seed):
        dim = tower.geometry(recipe.tower.input_size).dim
        network = build_network(recipe, dim, questions.vectors.shape[1])
        model = FilmModel(network, tower if is_trained else None, recipe.tower)
        with torch.no_grad():
            seen = torch.cat([model.features(part) for part in torch.split(films[0].looks(), _VAL_BATCH)])
        network.fit_standardisation(seen, questions.vectors)
        del seen
        balance = class_balance(films[0].targets, recipe.loss)
        step = TrainingStep(model, network, recipe.loss, balance)
        loop = _Loop(accelerator, step, model, recipe, folder)
        state = loop.run(films, questions)
    model.load_weights(state.best)
    model.eval()
    return model, state


class _Loop:
    """The loop over epochs and steps."""

    def __init__(
        self, accelerator: Accelerator, step: TrainingStep, model: FilmModel, recipe: VlpRecipe, folder: Path
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.recipe = recipe
        self.config: OptimizerConfig = recipe.optimizer
        self.checkpoint = folder / CHECKPOINT
        self.module = step
        optimizer = torch.optim.AdamW(_parameter_groups(step, recipe), lr=self.config.learning_rate)
        self.step, self.optimizer = accelerator.prepare(step, optimizer)
        self.state = TrainingState(model.weights(), model.weights() if self.config.ema_decay else {})
        if self.checkpoint.exists():
            self.state = load_checkpoint(self.checkpoint)
            model.load_weights(self.state.network)
            restore_optimizer(self.optimizer, self.state.optimizer)
        self.log = _open_log(folder / LOG, self.state.log_bytes, accelerator.is_main_process)
        self.began = time.process_time() - self.state.cpu_seconds

    def run(self, films: tuple[FilmSet, FilmSet], questions: Questions) -> TrainingState:
        """Train to the end; the best weights are in the state that comes back."""
        train_films, val_films = films
        processes = self.accelerator.num_processes
        steps = math.ceil(len(train_films) / (self.config.batch_size * processes))
        left = max(self.config.epochs - self.state.epoch, 0) * steps
        images = self.config.batch_size * processes
        minutes = self.config.cpu_minutes
        with progress("train", None if minutes else left * images, "images") as bar:
            while self.state.epoch < self.config.epochs and not self._has_stalled() and self._time_used() < 1:
                started, losses, seen = time.monotonic(), dict[str, list[float]](), 0
                for position, batch in enumerate(self._batches(train_films, questions, steps)):
                    parts = self._update(batch, self.state.epoch * steps + position, steps)
                    for name, value in parts.items():
                        losses.setdefault(name, []).append(value)
                    seen += images
                    used = self._time_used()
                    spent = f", {used:.0%} of {minutes:g} processor minutes" if minutes else ""
                    bar.advance(images, note=f"loss {parts['train_loss']:.3f}{spent}")
                    if used >= 1:
                        break
                speed = seen / (time.monotonic() - started)
                means = {name: float(np.mean(values)) for name, values in losses.items()}
                self._finish_epoch(val_films, questions, means | {"images_per_second": round(speed, 1)})
        return self.state

    def _time_used(self) -> float:
        """Part of the processor time that is used up, of the slowest process; 0 without a limit."""
        if not self.config.cpu_minutes:
            return 0.0
        used = torch.tensor([(time.process_time() - self.began) / (60 * self.config.cpu_minutes)])
        return float(self.accelerator.gather(used.to(self.accelerator.device)).max())

    def _batches(self, films: FilmSet, questions: Questions, steps: int) -> Iterator[Batch]:
        """This process's share of one pass over the films, each film in a view drawn at random."""
        seed = self.recipe.seed * 100_003 + self.state.epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout; inside fork_rng
        order = torch.randperm(len(films), generator=generator)
        views = torch.randint(len(films.cache.views), (len(films),), generator=generator)
        share = order[self.accelerator.process_index :: self.accelerator.num_processes]
        for position in range(steps):
            rows = share[position * self.config.batch_size : (position + 1) * self.config.batch_size]
            rows = rows if len(rows) else share[:1]  # shares differ by one film; every process takes every step
            batch = make_batch(films, questions, self.recipe, rows, views[rows], generator)
            yield Batch(*(part.to(self.accelerator.device) for part in batch))

    def _update(self, batch: Batch, step: int, steps: int) -> dict[str, float]:
        """One step of the optimiser; the parts of the loss, of which `train_loss` compares with `val_loss`."""
        done = max(step / (self.config.epochs * steps), self._time_used())
        rate = learning_rate(done, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative_rate"]
        self.step.train()
        with self.accelerator.autocast():
            loss, parts = self.step(batch)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.step.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.average:
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))  # short memory while weights move far
            self.model.average_into(self.state.average, decay)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(f"the loss is {value} at step {step}: lower optimizer.learning_rate")
        return {name: float(part) for name, part in parts.items()}

    def _finish_epoch(self, val_films: FilmSet, questions: Questions, losses: dict[str, float]) -> None:
        state = self.state
        state.epoch += 1
        state.network = self.model.weights()
        candidate = {name: tensor.clone() for name, tensor in (state.average or state.network).items()}
        metrics: dict[str, float | int | None] = {}
        if len(val_films):
            self.model.load_weights(candidate)
            metrics = validate(self.module, self.model, val_films, questions, self.recipe)
            self.model.load_weights(state.network)
        loss = metrics.get("val_loss")
        if loss is None or loss < state.best_loss:  # without validation films the last epoch counts
            state.best, state.best_epoch = candidate, state.epoch
            state.best_loss = state.best_loss if loss is None else float(loss)
        self._write_log(
            {"epoch": state.epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]} | losses | metrics
        )
        state.optimizer = optimizer_tensors(self.optimizer)
        state.cpu_seconds = time.process_time() - self.began
        if self.accelerator.is_main_process:
            state.log_bytes = self.log.stat().st_size
            save_checkpoint(self.checkpoint, state)

    def _has_stalled(self) -> bool:
        patience = self.config.patience
        return 0 < patience <= self.state.epoch - self.state.best_epoch

    def _write_log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")


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


def learning_rate(done: float, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter, 2017).

    Args:
        done: Part of the training that is done, 0..1.
        config: Gives the peak and the length of the warm-up.
    """
    if done < config.warmup:
        return config.learning_rate * max(done / config.warmup, 0.01)
    rest = min((done - config.warmup) / max(1 - config.warmup, 1e-9), 1.0)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def validate(
    step: TrainingStep, model: FilmModel, films: FilmSet, questions: Questions, recipe: VlpRecipe
) -> dict[str, float | int | None]:
    """Loss and AUROC against what the validation reports say; labels are never looked at."""
    scores = film_logits(model, films.looks(), questions.vectors)
    if recipe.method == "clip":
        loss = _validation_contrast(step, films, questions, recipe)
    else:
        loss = float(query_loss(scores, films.targets, target_weights(films.targets, recipe.loss)))
    return {"val_loss": loss} | mention_auroc(scores, films.targets)


def mention_auroc(scores: Tensor, targets: Tensor) -> dict[str, float | int | None]:
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
    return {"val_mention_macro_auroc": macro, "val_mention_queries": len(areas)}


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's global generator for initial weights and dropout, and give it back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _validation_contrast(step: TrainingStep, films: FilmSet, questions: Questions, recipe: VlpRecipe) -> float:
    """Mean contrast loss of batches of 64 validation films, always the same ones together."""
    step.eval()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for rows in torch.split(torch.arange(len(films)), _VAL_BATCH):
        batch = make_batch(films, questions, recipe, rows, torch.zeros_like(rows), generator)
        losses.append(float(step(Batch(*(part.to(step.balance.device) for part in batch)))[0]))
    return float(np.mean(losses))


def _asked_vectors(questions: Questions, rate: float, generator: torch.Generator) -> Tensor:
    """Query vectors of a step: float32 [Q, E], some of them the vector of another name of the concept."""
    if not len(questions.names) or rate == 0:
        return questions.vectors
    counts = questions.name_starts[1:] - questions.name_starts[:-1]
    place = questions.name_starts[:-1] + (torch.rand(len(counts), generator=generator) * counts).long()
    by_name = (torch.rand(len(counts), generator=generator) < rate) & (counts > 0)
    named = questions.names[place.clamp_max(len(questions.names) - 1)]
    return torch.where(by_name[:, None], named, questions.vectors)


def _parameter_groups(step: TrainingStep, recipe: VlpRecipe) -> list[dict[str, Any]]:
    """Weight decay for matrices alone; a rate of its own for the tower."""
    groups = []
    for is_tower in (False, True):
        named = [(n, p) for n, p in step.named_parameters() if p.requires_grad and ("model.tower." in n) == is_tower]
        rate = recipe.tower.learning_rate if is_tower else 1.0
        for is_matrix in (True, False):
            chosen = [parameter for _, parameter in named if (parameter.ndim > 1) == is_matrix]
            decay = recipe.optimizer.weight_decay if is_matrix else 0.0
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "relative_rate": rate})
    return groups


def _open_log(path: Path, length: int, is_main: bool) -> Path:
    """Cut the log back to the checkpoint: what came after it will be done again."""
    if is_main:
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(length)
    return path
