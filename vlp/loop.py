"""The only training loop in vlp: epochs, steps, rates, checkpoints and the log; what is learnt comes as a `Task`.

Randomness is drawn per epoch from (seed, epoch), so a run that is killed and resumed ends with the weights of an
undisturbed one; with a limit of processor time, as near as the clock allows.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import Tensor, nn

from kgkit.interface import InputError, TrainingLog, progress
from vlp.checkpoint import (
    State,
    TrainingState,
    average_weights,
    copy_weights,
    load_checkpoint,
    optimizer_tensors,
    put_weights,
    restore_optimizer,
    save_checkpoint,
)
from vlp.config import OptimizerConfig

CHECKPOINT, LOG = "checkpoint.safetensors", "training_log.jsonl"
EPOCH = "epoch"
Metrics = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Pass:
    """A process's share of one pass over the films.

    Attributes:
        epoch: Counted from 0.
        steps: Batches that every process takes.
        batch_size: Films in each of them.
        process: (number of this process, number of processes).
    """

    epoch: int
    steps: int
    batch_size: int
    process: tuple[int, int]


class Task(Protocol):
    """What the loop trains, on what, and how an epoch is judged."""

    @property
    def name(self) -> str:
        """For the progress bar."""

    @property
    def module(self) -> nn.Module:
        """A batch in; its loss, float [], and the parts of it to log out, `train_loss` among them."""

    @property
    def films(self) -> int:
        """Films of a pass."""

    @property
    def start_counts(self) -> bool:
        """Whether the weights training starts from are a model already: epoch 0, which a later one has to beat."""

    def trained(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        """Parameters of the module to train, and their rate relative to that of the schedule."""

    def changing(self) -> State:
        """All that training changes: name -> the tensor itself, not a copy."""

    def batches(self, part: Pass) -> Iterator[tuple[Tensor, ...]]:
        """The batches of a pass, as `module` takes them; a function of the task and the pass alone."""

    def validate(self) -> Metrics:
        """Measures of the module as it is; the lowest `val_loss` is best, and without one the last epoch counts."""


def make_accelerator(config: OptimizerConfig) -> Accelerator:
    """Devices, processes and arithmetic; the arithmetic of an earlier run in this process does not bind this one."""
    AcceleratorState._reset_state()
    is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(
        cpu=is_launched and not torch.cuda.is_available(),  # else each process would take itself for alone
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def learn(task: Task, config: OptimizerConfig, accelerator: Accelerator, folder: Path) -> TrainingState:
    """Train to the end; the task is left with the weights of its best epoch.

    Args:
        task: What to learn.
        config: Epochs, rates and limits.
        accelerator: See `make_accelerator`.
        folder: For the checkpoint, from which a run goes on that finds one, and the log.

    Returns:
        The state at the end.

    Raises:
        InputError: if the loss is not a number, in a step or in all validations; or the checkpoint is damaged.
    """
    state = _Loop(task, config, accelerator, folder).run()
    if not state.best:
        raise InputError("the validation loss was never a finite number: lower the learning rate", folder / LOG)
    put_weights(task.changing(), state.best)
    task.module.eval()
    return state


class _Loop:
    """The loop over epochs and steps."""

    def __init__(self, task: Task, config: OptimizerConfig, accelerator: Accelerator, folder: Path) -> None:
        self.accelerator = accelerator
        self.task = task
        self.config = config
        self.checkpoint = folder / CHECKPOINT
        optimizer = torch.optim.AdamW(_parameter_groups(task, config), lr=config.learning_rate)
        self.step, self.optimizer = accelerator.prepare(task.module, optimizer)
        start = copy_weights(task.changing())
        self.state = TrainingState(start, copy_weights(start) if config.ema_decay else {})
        is_new = not self.checkpoint.exists()
        if not is_new:
            self.state = load_checkpoint(self.checkpoint)
            put_weights(task.changing(), self.state.network)
            restore_optimizer(self.optimizer, self.state.optimizer)
        self.first_weights = start if is_new and task.start_counts else None
        done = -1 if is_new else self.state.epoch
        self.log = TrainingLog(folder, done, enabled=accelerator.is_main_process, key=EPOCH)
        self.began = time.process_time() - self.state.cpu_seconds

    def run(self) -> TrainingState:
        """Train to the end; the best weights are in the state that comes back."""
        with self.log:
            if self.first_weights is not None:
                self.log.write({EPOCH: 0} | self._judge(self.first_weights))
            return self._train()

    def _train(self) -> TrainingState:
        processes = self.accelerator.num_processes
        images = self.config.batch_size * processes
        steps = math.ceil(self.task.films / images)
        left = max(self.config.epochs - self.state.epoch, 0) * steps
        minutes = self.config.cpu_minutes
        with progress(self.task.name, None if minutes else left * images, "images") as bar:
            while self.state.epoch < self.config.epochs and not self._has_stalled() and self._time_used() < 1:
                started, losses, seen = time.monotonic(), dict[str, list[float]](), 0
                part = Pass(
                    self.state.epoch, steps, self.config.batch_size, (self.accelerator.process_index, processes)
                )
                for position, batch in enumerate(self.task.batches(part)):
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
                self._finish_epoch(means | {"images_per_second": round(speed, 1)})
        return self.state

    def _time_used(self) -> float:
        """Part of the processor time that is used up, of the slowest process; 0 without a limit."""
        if not self.config.cpu_minutes:
            return 0.0
        used = torch.tensor([(time.process_time() - self.began) / (60 * self.config.cpu_minutes)])
        return float(self.accelerator.gather(used.to(self.accelerator.device)).max())

    def _update(self, batch: tuple[Tensor, ...], step: int, steps: int) -> dict[str, float]:
        """One step of the optimiser; the parts of the loss, of which `train_loss` compares with `val_loss`."""
        done = max(step / (self.config.epochs * steps), self._time_used())
        rate = learning_rate(done, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative_rate"]
        self.step.train()
        with self.accelerator.autocast():
            loss, parts = self.step(send_to_device(batch, self.accelerator.device))
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.step.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.average:
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))  # short memory while weights move far
            average_weights(self.state.average, self.task.changing(), decay)
        value = float(loss.detach())
        if not math.isfinite(value):
            go_on = "and go on with --resume" if self.checkpoint.exists() else "and run again"
            raise InputError(f"the loss is {value} at step {step}: lower the learning rate {go_on}")
        return {name: float(part) for name, part in parts.items()}

    def _finish_epoch(self, losses: dict[str, float]) -> None:
        state = self.state
        state.epoch += 1
        state.network = copy_weights(self.task.changing())
        metrics = self._judge(copy_weights(state.average or state.network))
        put_weights(self.task.changing(), state.network)
        self.log.write({EPOCH: state.epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]} | losses | metrics)
        state.optimizer = optimizer_tensors(self.optimizer)
        state.cpu_seconds = time.process_time() - self.began
        if self.accelerator.is_main_process:
            save_checkpoint(self.checkpoint, state)

    def _judge(self, candidate: State) -> Metrics:
        """Measure some weights, and keep them if they are the best so far; the task is left with them."""
        state = self.state
        put_weights(self.task.changing(), candidate)
        metrics = self.task.validate()
        loss = metrics.get("val_loss")
        if loss is None or loss < state.best_loss:  # without validation films the last epoch counts
            state.best, state.best_epoch = candidate, state.epoch
            state.best_loss = state.best_loss if loss is None else float(loss)
        return metrics

    def _has_stalled(self) -> bool:
        patience = self.config.patience
        return 0 < patience <= self.state.epoch - self.state.best_epoch


def learning_rate(done: float, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter, 2017).

    Args:
        done: Part of the training that is done, 0..1.
        config: Gives the peak, the length of the warm-up, and the rate at both ends.
    """
    if done < config.warmup:
        height = max(done / config.warmup, 0.01)
    else:
        rest = min((done - config.warmup) / max(1 - config.warmup, 1e-9), 1.0)
        height = 0.5 * (1 + math.cos(math.pi * rest))
    return config.lowest_rate + (config.learning_rate - config.lowest_rate) * height


def _parameter_groups(task: Task, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weight decay for matrices alone, and the rates the task asks for."""
    groups = []
    for parameters, relative_rate in task.trained():
        for is_matrix in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == is_matrix]
            decay = config.weight_decay if is_matrix else 0.0
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "relative_rate": relative_rate})
    return groups
