"""train_encoder: the one training loop of kgkit."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from torch import Tensor

from kgkit.encoder.config import EncoderRecipe, TrainingConfig
from kgkit.encoder.model import EncoderModel
from kgkit.encoder.precision import autocast_for, choose_precision
from kgkit.encoder.relation_scorer import require_known_parts
from kgkit.errors import InputError, KgkitError
from kgkit.files import partial_folder, partial_path, publish_folder, require_replaceable, write_json_atomically
from kgkit.progress import progress
from kgkit.recipe import recipe_to_dict
from kgkit.training.checkpoint import changed_rates, load_checkpoint, read_about, save_checkpoint
from kgkit.training.corpus import Corpus, build_corpus
from kgkit.training.method import Method, Tokens, seed_torch
from kgkit.training.methods import build_method
from kgkit.training.optimisers import build_optimisers, set_learning_rates, split_parameters
from kgkit.training.reading import StepReader, share_gradients
from kgkit.training.saving import measure_encoder, save_encoder
from kgkit.training.source import TrainingSource, read_source
from kgkit.training_log import TrainingLog, draw_curve

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"


@dataclass
class _Progress:
    """Where a run stands; what a checkpoint carries beside tensors."""

    step: int = 0
    text_steps: int | None = None  # step after which texts were learnt, in a run that takes turns
    items: int = 0  # pairs, definitions and facts learnt from
    cpu_seconds: float = 0.0  # of all earlier attempts
    best: float = -math.inf
    best_step: int = 0
    measured: int = 0
    since_best: int = 0


@dataclass
class _Run:
    """Everything one training run holds."""

    recipe: EncoderRecipe
    model: EncoderModel
    method: Method[Any]
    reader: StepReader
    accelerator: Accelerator
    optimisers: list[torch.optim.Optimizer]
    folder: Path
    about: dict[str, Any]
    at: _Progress = field(default_factory=_Progress)
    began: float = field(default_factory=time.process_time)
    uncounted: float = 0.0  # seconds of this attempt that went to names which every encoder has to read in the end

    @property
    def is_in_texts(self) -> bool:
        """Whether facts still wait for their turn."""
        return self.method.takes_turns and self.at.text_steps is None

    @property
    def cpu_seconds(self) -> float:
        """Processor time spent so far, of all threads and attempts."""
        return self.at.cpu_seconds + time.process_time() - self.began - self.uncounted


class _TimeLeft:
    """Says how much of a run is over, and how long the rest will take at the pace of this attempt."""

    def __init__(self, fraction: float, train: TrainingConfig) -> None:
        self._fraction, self._began = fraction, time.monotonic()
        self._budget = f" of {train.cpu_minutes:g} processor minutes" if train.cpu_minutes else ""

    def __call__(self, fraction: float) -> str:
        pace = (time.monotonic() - self._began) / max(fraction - self._fraction, 1e-9)
        return f"{min(fraction, 1):.0%}{self._budget}, {pace * max(1 - fraction, 0):.0f} s left"


def train_encoder(path: Path, out: Path, recipe: EncoderRecipe, *, resume: bool = False) -> dict[str, Any] | None:
    """Train a concept encoder and write the ENCODER folder.

    Work is done in `<out>.partial`, with a checkpoint every `train.checkpoint_every` steps; the folder takes its name
    when it is complete. Under torchrun all processes read a share of each step's texts; the first one writes.

    Args:
        path: A graph folder, or a benchmark folder with its own split.
        out: The ENCODER folder to make; an older one is replaced at the end.
        recipe: What to train.
        resume: Continue a killed run of the same graph and recipe; learning rates and clipping may be others, since a
            run that stopped at a NaN needs lower ones.

    Returns:
        The content of metrics.json; None in a process that is not the first.

    Raises:
        InputError: for a folder that is no graph, a graph without names or relations, a resume that does not fit, or
            if `out` holds something else than an encoder.
        KgkitError: if a loss or a vector becomes NaN, or the disk is full; the last checkpoint is kept.
    """
    began = time.process_time()
    require_known_parts(recipe.relation)
    accelerator = Accelerator(cpu=_are_processes_on_cpu())
    source = read_source(path)
    if recipe.text.model == "none" and not len(source.view.triples):
        raise InputError("the graph has no relations between concepts, and this recipe reads nothing else", path)
    about = {"graph_digest": source.digest, "recipe": recipe_to_dict(recipe)}
    folder = _open_partial(out, about, accelerator, resume=resume)
    torch.manual_seed(recipe.seed)
    corpus = build_corpus(source, recipe.held_out, recipe.seed)
    run, autocast = _prepare(recipe, corpus, accelerator, folder, about)
    run.began = began
    _train(run)
    accelerator.end_training()  # the first process writes and measures alone, however long that takes
    if not accelerator.is_main_process:
        return None
    _write(run, source, corpus, autocast)
    del run, source, corpus  # measuring opens the folder and needs the memory
    metrics = _measure_written(folder, recipe.seed)
    publish_folder(folder, out)
    return metrics


def _are_processes_on_cpu() -> bool:
    """Whether torchrun started several processes where there is no GPU: accelerate would take each for alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()


def _open_partial(out: Path, about: dict[str, Any], accelerator: Accelerator, *, resume: bool) -> Path:
    require_replaceable(out, "encoder")
    checkpoint = partial_path(out) / CHECKPOINT
    if resume:
        if not checkpoint.exists():
            raise InputError("nothing to resume: no checkpoint here; run again without --resume", checkpoint)
        about |= changed_rates(read_about(checkpoint), about, checkpoint)
    if accelerator.is_main_process:
        partial_folder(out, "encoder", keep=resume)
    accelerator.wait_for_everyone()
    return checkpoint.parent


def _prepare(
    recipe: EncoderRecipe, corpus: Corpus, accelerator: Accelerator, folder: Path, about: dict[str, Any]
) -> tuple[_Run, Callable[[], AbstractContextManager[Any]]]:
    model = EncoderModel(recipe, corpus.view.num_concepts, corpus.view.num_relations).to(accelerator.device)
    checkpoint = folder / CHECKPOINT
    precision = read_about(checkpoint)["precision"] if checkpoint.exists() else recipe.train.precision
    if model.text is not None:
        precision = choose_precision(precision, model.text)
        precision = _agreed(precision, accelerator)
    else:
        precision = "fp32"
    autocast = autocast_for(precision)

    def read(tokens: Tokens, description: str) -> Tensor:
        assert model.text is not None
        return model.text.encode_all(tokens, autocast, description)

    method = build_method(model, corpus, recipe, folder, read)
    reader = StepReader(model.text, accelerator, autocast, recipe.train.cache_texts)
    optimisers = build_optimisers(model, recipe, takes_turns=method.takes_turns)
    run = _Run(recipe, model, method, reader, accelerator, optimisers, folder, about | {"precision": precision})
    if checkpoint.exists():
        tensors, state = load_checkpoint(checkpoint, model, optimisers)
        method.restore(tensors)
        run.at = _Progress(**state["progress"])
        _forget_later_best(run)
    return run, autocast


def _forget_later_best(run: _Run) -> None:
    """The best weights of an attempt that was given up after the checkpoint are not this one's, which chooses anew.

    It finds the same ones unless its rates are others.
    """
    best = run.folder / BEST
    if best.exists() and read_about(best)["step"] != run.at.best_step:
        run.at.best, run.at.best_step, run.at.since_best = -math.inf, 0, 0
        if run.accelerator.is_main_process:
            best.unlink()


def _agreed(precision: str, accelerator: Accelerator) -> str:
    """The first process's choice: each has timed for itself."""
    is_bf16 = torch.tensor([float(precision == "bf16")], device=accelerator.device)
    return "bf16" if float(broadcast(is_bf16)) else "fp32"


def _train(run: _Run) -> None:
    train, at = run.recipe.train, run.at
    is_main = run.accelerator.is_main_process
    run.model.train()
    text, rest = split_parameters(run.model)
    left = _TimeLeft(_fraction(run), train)
    with (
        TrainingLog(run.folder, at.step, enabled=is_main) as log,
        progress("training", None, "pairs") as report,
    ):
        while _fraction(run) < 1 and not _has_stopped(run):
            _end_texts_if_due(run)
            at.step += 1
            set_learning_rates(run.optimisers, train, _fraction(run, at.step - 0.5))
            items = at.items
            losses = _step(run, text, rest)
            _require_finite(losses, run)
            report.advance(at.items - items, note=f"loss {losses['total']:.3f}, {left(_fraction(run))}")
            record: dict[str, Any] = {"step": at.step, "losses": losses}
            if (passed := _points_passed(run)) > at.measured:
                at.measured = passed
                record |= _measure(run)
            if at.step % train.log_every == 0 or len(record) > 2 or at.step == 1:
                log.write(record | {"cpu_seconds": round(run.cpu_seconds, 2)})
            if is_main and at.step % train.checkpoint_every == 0:
                _save(run, CHECKPOINT)
    if is_main and at.step % train.checkpoint_every:
        _save(run, CHECKPOINT)  # reading all names takes a while, too
    if train.keep == "best" and (run.folder / BEST).exists():
        load_checkpoint(run.folder / BEST, run.model)
    if run.at.text_steps is None:
        _blend_texts(run)  # after the last checkpoint, so that a resumed run does it again and not twice


def _fraction(run: _Run, step: float | None = None) -> float:
    """How much of the run is over, by steps or by processor time, whichever is more; the same in all processes.

    Args:
        run: The run.
        step: Steps that are over; those that are, if not given.
    """
    train, at = run.recipe.train, run.at
    step = at.step if step is None else step
    by_steps = step / train.steps if train.steps else 1.0
    if run.method.takes_turns:
        share = train.text_share
        of_facts = 0.0 if at.text_steps is None else (step - at.text_steps) / train.fact_steps
        by_steps = share * min(by_steps, 1.0) if at.text_steps is None else share + (1 - share) * of_facts
    if not train.cpu_minutes:
        return by_steps
    spent = torch.tensor([run.cpu_seconds / (60 * train.cpu_minutes)], device=run.accelerator.device)
    if run.accelerator.num_processes > 1:
        spent = broadcast(spent)
    return max(by_steps, float(spent))


def _end_texts_if_due(run: _Run) -> None:
    """Turn from texts to facts.

    The names read here are those that every encoder needs in the end and that are not read again then, so that this
    counts no more against the processor time than the others' reading after the run does.
    """
    if not run.is_in_texts:
        return
    if _fraction(run) < run.recipe.train.text_share and not _is_out_of_patience(run):
        return
    began = time.process_time()
    _blend_texts(run)
    run.method.end_texts()
    run.at.best, run.at.since_best = -math.inf, 0  # what was measured before was another task, with other weights
    run.at.text_steps = run.at.step
    run.uncounted += time.process_time() - began


def _blend_texts(run: _Run) -> None:
    share = run.recipe.text.base_share
    if run.model.text is None or not share:
        return
    run.model.text.blend_with_base(share)


def _step(run: _Run, text: Sequence[Tensor], rest: Sequence[Tensor]) -> dict[str, float]:
    """One optimiser step; its randomness depends on the seed and the step alone, so a resumed run repeats it."""
    train, seed = run.recipe.train, run.recipe.seed
    sums: dict[str, float] = {}
    for part in range(train.accumulate):
        number = (run.at.step - 1) * train.accumulate + part + 1
        draw = run.method.draw(number)
        run.at.items += draw.items
        texts = run.reader.read(draw.tokens, seed * 100_003 + number)
        seed_torch(seed * 100_003 + number)
        losses = run.method.losses(draw, texts)
        if not losses:
            raise KgkitError("nothing to learn from: what the objectives of this recipe want is not in the graph")
        total = torch.stack(list(losses.values())).sum() / train.accumulate
        total.backward()  # type: ignore[no-untyped-call]
        run.reader.backward(texts.grad)
        run.method.after_step(draw, texts.detach())
        for name, loss in (*losses.items(), ("total", total * train.accumulate)):
            sums[name] = sums.get(name, 0.0) + float(loss.detach()) / train.accumulate
    share_gradients(run.accelerator, text, rest)
    if train.max_gradient_norm:
        torch.nn.utils.clip_grad_norm_([*text, *rest], train.max_gradient_norm)
    for optimiser in run.optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return sums


def _points_passed(run: _Run) -> int:
    """Measurements that are due by now: at even distances over the run, the last at its end."""
    points = run.recipe.train.curve_points
    return math.floor(_fraction(run) * points + 1e-9) if points else 0


def _measure(run: _Run) -> dict[str, float]:
    at = run.at
    run.model.eval()
    try:
        figures = dict(run.method.validate())
    except KgkitError as error:  # an update after the last finite loss has spoilt the vectors
        raise KgkitError(f"step {at.step}: {error}; lower the learning rates; {_kept(run)}") from error
    run.model.train()
    if figures:
        figure = next(iter(figures.values()))
        at.since_best += 1
        if figure > at.best:
            at.best, at.best_step, at.since_best = figure, at.step, 0
            if run.recipe.train.keep == "best" and run.accelerator.is_main_process:
                save_checkpoint(run.folder / BEST, run.model, (), {}, {"step": at.step})
    return figures


def _has_stopped(run: _Run) -> bool:
    """Texts that get no better end themselves alone: facts have their turn."""
    return _is_out_of_patience(run) and not run.is_in_texts


def _is_out_of_patience(run: _Run) -> bool:
    patience = run.recipe.train.patience
    return bool(patience) and run.at.since_best >= patience


def _save(run: _Run, name: str) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in run.model.parameters()):
        problem = f"step {run.at.step}: the update has spoilt the weights; lower the learning rates"
        raise KgkitError(f"{problem}; {_kept(run)}")
    state = vars(run.at) | {"cpu_seconds": run.cpu_seconds}
    save_checkpoint(run.folder / name, run.model, run.optimisers, run.method.state(), run.about | {"progress": state})


def _require_finite(losses: dict[str, float], run: _Run) -> None:
    wrong = [name for name, loss in losses.items() if not math.isfinite(loss)]
    if wrong:
        problem = f"loss {wrong[0]!r} is not finite at step {run.at.step}; lower the learning rates"
        raise KgkitError(f"{problem}; {_kept(run)}")


def _kept(run: _Run) -> str:
    checkpoint = run.folder / CHECKPOINT
    return f"the last checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"


def _write(
    run: _Run, source: TrainingSource, corpus: Corpus, autocast: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Everything in the ENCODER folder that is made of what was trained.

    Raises:
        KgkitError: if it cannot be written; the last checkpoint stays.
    """
    at = run.at
    about = run.about | {
        "steps": at.step,
        "cpu_seconds": round(run.cpu_seconds, 1),
        "written_weights": f"step {at.best_step}" if run.recipe.train.keep == "best" and at.best_step else "last step",
        "pairs": at.items,
    }
    try:
        save_encoder(run.folder, run.model, run.method, source, corpus, autocast, about)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        problem = f"{run.folder}: cannot write the encoder ({error})"
        raise KgkitError(f"{problem}; the training is kept: make room and run again with --resume") from error


def _measure_written(folder: Path, seed: int) -> dict[str, Any]:
    """What the ENCODER folder says of itself; returns the content of metrics.json. What only training needs goes."""
    metrics = measure_encoder(folder, seed)
    write_json_atomically(folder / "metrics.json", metrics)
    draw_curve(folder)
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    for spent in folder.glob("*.safetensors*"):  # checkpoints, and what a kill left of one
        if spent.name.lstrip(".").startswith((CHECKPOINT, BEST)):
            spent.unlink()
    return metrics
