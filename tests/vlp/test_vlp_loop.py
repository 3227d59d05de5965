"""The loop on a task of its own: a line through points, without a film or a report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kgkit.interface import InputError
from vlp.checkpoint import State, load_checkpoint
from vlp.config import OptimizerConfig
from vlp.loop import CHECKPOINT, LOG, Metrics, Pass, learn, make_accelerator

POINTS = 20
CONFIG = OptimizerConfig(epochs=5, batch_size=8, learning_rate=0.02, patience=0, ema_decay=0)


class Points(NamedTuple):
    x: Tensor
    y: Tensor


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.full((1, 3), 0.1)), nn.Parameter(torch.zeros(1))

    def forward(self, batch: Points) -> tuple[Tensor, dict[str, Tensor]]:
        loss = F.mse_loss(batch.x @ self.weight.T + self.bias, batch.y)
        return loss, {"train_loss": loss.detach()}


class LineTask:
    """A `Task`; `judge` gives the validation loss of a line, None where there is none."""

    name, films = "line", POINTS

    def __init__(
        self, judge: Callable[[Line], float | None] = lambda line: None, *, start_counts: bool = False,
        rates: tuple[float, float] = (1.0, 1.0), stop_before: int = -1,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(3)
        self.points = Points(torch.randn(POINTS, 3, generator=generator), torch.randn(POINTS, 1, generator=generator))
        self.module = Line()
        self.judge, self.start_counts, self.rates, self.stop_before = judge, start_counts, rates, stop_before
        self.judged: list[float] = []

    def trained(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        return [([self.module.weight], self.rates[0]), ([self.module.bias], self.rates[1])]

    def changing(self) -> State:
        return {name: parameter.data for name, parameter in self.module.named_parameters()}

    def batches(self, part: Pass) -> Iterator[Points]:
        order = torch.randperm(POINTS, generator=torch.Generator().manual_seed(part.epoch))
        for step in range(part.steps):
            if part.epoch == self.stop_before and step == 1:
                raise KeyboardInterrupt
            rows = order[step * part.batch_size : (step + 1) * part.batch_size]
            yield Points(self.points.x[rows], self.points.y[rows])

    def validate(self) -> Metrics:
        self.judged.append(float(self.module.bias.detach()))
        loss = self.judge(self.module)
        return {} if loss is None else {"val_loss": loss}


def run(task: LineTask, folder: Path, config: OptimizerConfig = CONFIG):
    folder.mkdir(exist_ok=True)
    return learn(task, config, make_accelerator(config), folder)


def read_log(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


def flat(state: State) -> Tensor:
    return torch.cat([state["weight"].flatten(), state["bias"]])


def reference(config: OptimizerConfig, rates: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """AdamW with decoupled decay (Loshchilov and Hutter, 2019), its rate, its clipping and the average, in float64."""
    task = LineTask()
    value = torch.tensor([0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
    average, first, second = value.clone(), torch.zeros(4).double(), torch.zeros(4).double()
    relative = torch.tensor([rates[0]] * 3 + [rates[1]], dtype=torch.float64)
    decayed = torch.tensor([1, 1, 1, 0], dtype=torch.float64)
    steps = math.ceil(POINTS / config.batch_size)
    for step in range(config.epochs * steps):
        epoch, place = divmod(step, steps)
        order = torch.randperm(POINTS, generator=torch.Generator().manual_seed(epoch))
        rows = order[place * config.batch_size : (place + 1) * config.batch_size]
        x = torch.cat([task.points.x[rows], torch.ones(len(rows), 1)], 1).double()
        gradient = 2 * x.T @ (x @ value - task.points.y[rows, 0].double()) / len(rows)
        gradient *= min(1.0, config.gradient_clip / (float(gradient.norm()) + 1e-6))
        done = step / (config.epochs * steps)
        peak = config.learning_rate * relative
        if done < config.warmup:
            rate = peak * max(done / config.warmup, 0.01)
        else:
            rate = peak * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup))) / 2
        value = value * (1 - rate * config.weight_decay * decayed)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        value = value - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    return value, average


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (0.1, 1.0)])
def test_steps_are_those_of_a_slow_reference(tmp_path: Path, rates: tuple[float, float], ema_decay: float) -> None:
    config = replace(CONFIG, weight_decay=0.5, gradient_clip=0.3, warmup=0.3, ema_decay=ema_decay)
    task = LineTask(rates=rates)
    state = run(task, tmp_path, config)
    value, average = reference(config, rates)
    torch.testing.assert_close(flat(state.network).double(), value, rtol=1e-4, atol=1e-6)
    wanted = average if ema_decay else value
    torch.testing.assert_close(flat(state.best).double(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(flat(task.changing()), flat(state.best)), "the task is left with the best weights"


def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.9)
    whole = LineTask(lambda line: abs(float(line.bias.detach())), start_counts=True)
    run(whole, tmp_path / "whole", config)
    for epoch in range(5):
        folder = tmp_path / str(epoch)
        stopped = LineTask(whole.judge, start_counts=True, stop_before=epoch)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, folder, config)
        with (folder / LOG).open("a") as stream:
            stream.write("what came after the checkpoint\n")
        again = LineTask(whole.judge, start_counts=True)
        state = run(again, folder, config)
        assert torch.equal(flat(again.changing()), flat(whole.changing()))
        once_more = [0.0] if epoch == 0 else []  # before the first epoch is done there is no checkpoint
        assert stopped.judged + again.judged == once_more + whole.judged
        assert read_log(folder) == read_log(tmp_path / "whole")
        assert state.epoch == load_checkpoint(folder / CHECKPOINT).epoch == 5


def test_the_start_counts_where_the_task_says_so(tmp_path: Path) -> None:
    def worse(line: Line) -> float:
        return abs(float(line.bias.detach()))  # 0 at the start, and never again

    task = LineTask(worse, start_counts=True)
    state = run(task, tmp_path / "first")
    assert (state.best_epoch, state.epoch, state.best_loss) == (0, 5, 0.0)
    assert float(task.module.bias.detach()) == 0
    assert [record["epoch"] for record in read_log(tmp_path / "first")] == [0, 1, 2, 3, 4, 5]
    state = run(LineTask(worse), tmp_path / "second")
    assert state.best_epoch > 0
    assert [record["epoch"] for record in read_log(tmp_path / "second")] == [1, 2, 3, 4, 5]
    state = run(LineTask(worse, start_counts=True), tmp_path / "third", replace(CONFIG, patience=2))
    assert (state.best_epoch, state.epoch) == (0, 2)


def test_without_a_validation_loss_the_last_epoch_counts(tmp_path: Path) -> None:
    state = run(LineTask(start_counts=True), tmp_path, replace(CONFIG, patience=1))
    assert (state.best_epoch, state.epoch, state.best_loss) == (5, 5, math.inf)


def test_a_validation_loss_that_is_not_a_number_is_no_better(tmp_path: Path) -> None:
    losses = iter([3.0, math.nan, 2.0, math.nan, math.nan])
    state = run(LineTask(lambda line: next(losses)), tmp_path / "some")
    assert (state.best_epoch, state.best_loss) == (3, 2.0)
    with pytest.raises(InputError, match=r"training_log\.jsonl: the validation loss was never a finite number"):
        run(LineTask(lambda line: math.nan), tmp_path / "never")


def test_a_training_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    task = LineTask()
    task.points.y[7] = math.inf
    with pytest.raises(InputError, match=r"the loss is (inf|nan) at step \d: lower the learning rate and run again"):
        run(task, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_processor_time_lowers_the_rate_and_ends_the_run(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=10**6, cpu_minutes=0.3 / 60, warmup=0.0)
    state = run(LineTask(), tmp_path, config)
    assert 0 < state.epoch < 10**6
    assert 0.28 < state.cpu_seconds < 3  # saving the last epoch may use up the rest
    rates = [record["learning_rate"] for record in read_log(tmp_path)]
    assert rates[0] > 0.5 * CONFIG.learning_rate
    assert rates[-1] < 0.1 * CONFIG.learning_rate
    assert run(LineTask(), tmp_path, config).epoch <= state.epoch + 1, "a run whose time is up does not go on"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="damaged checkpoint"):
        run(LineTask(), tmp_path)
