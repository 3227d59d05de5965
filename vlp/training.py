"""`vlp train`: the only loop in vlp.

Supervised by report text alone, through mentions. The knowledge side and the image tower are frozen, so query
vectors and patch features are computed once; what is trained is the query network. Randomness is drawn per
epoch from (seed, epoch), so a run that is killed and resumed ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from kgkit.interface import (
    InputError,
    partial_folder,
    progress,
    publish_folder,
    read_manifest,
    recipe_to_dict,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)
from vlp.after_training import write_for_use
from vlp.artifact import write_model_tensors, write_queries
from vlp.checkpoint import (
    State,
    TrainingState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vlp.config import LossConfig, OptimizerConfig, TrainConfig
from vlp.data.dataset import FilmSet, Questions, choose_questions, load_films
from vlp.data.prepared import PreparedData, load_data
from vlp.losses import query_loss, report_vectors, shared_concepts, soft_contrast_loss
from vlp.metrics import auroc
from vlp.model import QueryNetwork, film_logits
from vlp.model_card import model_card
from vlp.towers import ImageTower, load_tower
from vlp.types import TargetValue

_CHECKPOINT, _RUN, _LOG = "checkpoint.safetensors", "run.json", "training_log.jsonl"
_MIN_VAL_POSITIVES = 5


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a run made; also in MODEL/metrics.json.

    Attributes:
        model_dir: The MODEL folder.
        queries: Number of concepts it can be asked at once without an encoder.
        train_films: Films trained on.
        val_films: Films that chose the epoch.
        best_epoch: 1-based.
        metrics: `val_loss`, `val_mention_macro_auroc` and so on, of that epoch.
    """

    model_dir: Path
    queries: int
    train_films: int
    val_films: int
    best_epoch: int
    metrics: dict[str, Any]


class TrainingStep(nn.Module):
    """Network and losses as one module, so that several processes share its forward pass and gradients."""

    query_vectors: Tensor

    def __init__(self, network: QueryNetwork, query_vectors: Tensor, config: LossConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.register_buffer("query_vectors", query_vectors, persistent=False)

    def forward(self, features: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and its parts; features [B, Hp, Wp, D], targets int8 [B, Q]."""
        output = self.network(features, self.query_vectors)
        weights = (self.config.unmentioned_weight, self.config.positive_weight)
        query = query_loss(output.logits, targets, *weights)
        local = query_loss(output.local_logits, targets, *weights)
        loss = query + self.config.local_weight * local
        parts = {"train_loss": query.detach(), "train_local_loss": local.detach()}
        if self.config.contrast_weight == 0:
            return loss, parts
        reports = self.network.embed_reports(report_vectors(targets, self.query_vectors))
        overlap = shared_concepts(targets)
        contrast = soft_contrast_loss(output.embedding, reports, overlap, self.config.contrast_scale)
        return loss + self.config.contrast_weight * contrast, parts | {"train_contrast_loss": contrast.detach()}


def train(config: TrainConfig) -> TrainSummary:
    """Train a model on a DATA folder.

    Raises:
        InputError: if DATA or ENCODER is not what it should be, nothing can be learned from it, or a resumed
            run was started with other inputs.
    """
    data = load_data(config.data_dir)
    read_manifest(config.encoder_dir, "encoder")
    accelerator = Accelerator(
        mixed_precision=config.recipe.optimizer.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    questions = choose_questions(data, config)
    tower = load_tower(config.recipe.tower.name).to(accelerator.device)
    partial = _open_partial(config, data, questions, tower, accelerator)
    train_films, val_films = load_films(data, questions, tower, config, accelerator.device)
    with _own_randomness(config.recipe.seed):
        network = QueryNetwork(train_films.features.shape[-1], questions.vectors.shape[1], config.recipe.model)
        network.fit_standardisation(train_films.features[0], questions.vectors)
        step = TrainingStep(network, questions.vectors, config.recipe.loss)
        state = _Loop(accelerator, step, config, partial).run(train_films, val_films)
    network.load_state_dict(state.best)
    val_logits = film_logits(network, val_films.features[0], step.query_vectors)
    summary = _summarise(config, state, val_logits, train_films, val_films)
    if accelerator.is_main_process:
        looks = (train_films.features[0], val_films.features[0])
        concepts = [query.concept for query in questions.queries]
        write_for_use(partial, data, concepts, looks, (val_films.targets, val_logits))
        _write_model(config, data, questions, tower, partial, summary, state)
    accelerator.wait_for_everyone()
    return summary


class _Loop:
    """The loop over epochs and steps."""

    def __init__(self, accelerator: Accelerator, step: TrainingStep, config: TrainConfig, partial: Path) -> None:
        self.accelerator = accelerator
        self.network = step.network
        self.config: OptimizerConfig = config.recipe.optimizer
        self.seed = config.recipe.seed
        self.partial = partial
        self.module = step
        optimizer = torch.optim.AdamW(_parameter_groups(step, self.config), lr=self.config.learning_rate)
        self.step, self.optimizer = accelerator.prepare(step, optimizer)
        self.state = TrainingState(_copy(self.network), _copy(self.network) if self.config.ema_decay else {})
        checkpoint = partial / _CHECKPOINT
        if checkpoint.exists():
            self.state = load_checkpoint(checkpoint)
            self.network.load_state_dict(self.state.network)
            restore_optimizer(self.optimizer, self.state.optimizer)
        self.log = _open_log(partial / _LOG, self.state.log_bytes, accelerator.is_main_process)

    def run(self, train_films: FilmSet, val_films: FilmSet) -> TrainingState:
        """Train to the end; the best weights are in the state that comes back."""
        processes = self.accelerator.num_processes
        steps = math.ceil(len(train_films) / (self.config.batch_size * processes))
        left = max(self.config.epochs - self.state.epoch, 0) * steps
        images = self.config.batch_size * processes
        with progress("train", left * images, "images") as bar:
            while self.state.epoch < self.config.epochs and not self._has_stalled():
                started = time.monotonic()
                losses: dict[str, list[float]] = {}
                for position, (features, targets) in enumerate(self._batches(train_films, steps)):
                    parts = self._update(features, targets, self.state.epoch * steps + position, steps)
                    for name, value in parts.items():
                        losses.setdefault(name, []).append(value)
                    bar.advance(images, note=f"loss {parts['train_loss']:.3f}")
                speed = len(train_films) / (time.monotonic() - started)
                means = {name: float(np.mean(values)) for name, values in losses.items()}
                self._finish_epoch(val_films, means | {"images_per_second": round(speed, 1)})
        return self.state

    def _batches(self, films: FilmSet, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of one pass over the films, each film in a view drawn at random."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.state.epoch)
        torch.manual_seed(self.seed * 100_003 + self.state.epoch)  # dropout; inside fork_rng
        order = torch.randperm(len(films), generator=generator)
        views = torch.randint(len(films.features), (len(films),), generator=generator)
        share = order[self.accelerator.process_index :: self.accelerator.num_processes]
        for position in range(steps):
            rows = share[position * self.config.batch_size : (position + 1) * self.config.batch_size]
            rows = rows if len(rows) else share[:1]  # shares differ by one film; every process takes every step
            device = self.accelerator.device
            yield films.features[views[rows], rows].to(device), films.targets[rows].to(device)

    def _update(self, features: Tensor, targets: Tensor, step: int, steps: int) -> dict[str, float]:
        """One step of the optimiser; the parts of the loss, of which `train_loss` compares with `val_loss`."""
        rate = learning_rate(step, self.config.epochs * steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.step.train()
        with self.accelerator.autocast():
            loss, parts = self.step(features, targets)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.step.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.average:
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))  # short memory while weights still move far
            for name, tensor in self.network.state_dict().items():
                self.state.average[name].lerp_(tensor.detach().cpu(), 1 - decay)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(f"the loss is {value} at step {step}: lower optimizer.learning_rate")
        return {name: float(part) for name, part in parts.items()}

    def _finish_epoch(self, val_films: FilmSet, losses: dict[str, float]) -> None:
        state = self.state
        state.epoch += 1
        state.network = _copy(self.network)
        candidate = {name: tensor.clone() for name, tensor in (state.average or state.network).items()}
        metrics: dict[str, float | int | None] = {}
        if len(val_films):
            self.network.load_state_dict(candidate)
            scores = film_logits(self.network, val_films.features[0], self.module.query_vectors)
            metrics = validate(scores, val_films, self.module.config)
            self.network.load_state_dict(state.network)
        loss = metrics.get("val_loss")
        if loss is None or loss < state.best_loss:  # without validation films the last epoch counts
            state.best, state.best_epoch = candidate, state.epoch
            state.best_loss = state.best_loss if loss is None else float(loss)
        self._write_log(
            {"epoch": state.epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]} | losses | metrics
        )
        state.optimizer = optimizer_tensors(self.optimizer)
        if self.accelerator.is_main_process:
            state.log_bytes = self.log.stat().st_size
            save_checkpoint(self.partial / _CHECKPOINT, state)

    def _has_stalled(self) -> bool:
        patience = self.config.patience
        return 0 < patience <= self.state.epoch - self.state.best_epoch

    def _write_log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter, 2017)."""
    warmup = max(1, round(config.warmup * total_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def validate(scores: Tensor, films: FilmSet, config: LossConfig) -> dict[str, float | int | None]:
    """Query loss and AUROC against what the validation reports say; labels are never looked at.

    Args:
        scores: float [N, Q], logits of the films.
        films: With their targets; N is 1 or more.
        config: Of the loss.
    """
    loss = query_loss(scores, films.targets, config.unmentioned_weight, config.positive_weight)
    targets, values = films.targets.numpy(), scores.numpy()
    areas = []
    for column in range(targets.shape[1]):
        known = targets[:, column] != TargetValue.UNCERTAIN
        labels = targets[known, column] == TargetValue.PRESENT
        if labels.sum() >= _MIN_VAL_POSITIVES and not labels.all():
            areas.append(float(auroc(labels, values[known, column])))
    macro = float(np.mean(areas)) if areas else None
    return {"val_loss": float(loss), "val_mention_macro_auroc": macro, "val_mention_queries": len(areas)}


def _open_partial(
    config: TrainConfig, data: PreparedData, questions: Questions, tower: ImageTower, accelerator: Accelerator
) -> Path:
    """The folder the run works in, checked against the run that began it."""
    run = {
        "recipe": recipe_to_dict(config.recipe),
        "data_digest": data.digest,
        "encoder_digest": questions.encoder_digest,
        "tower_sha256": tower.spec.weights_sha256,
    }
    partial = config.out_dir.with_name(config.out_dir.name + ".partial")
    if config.resume:
        if not partial.exists():
            raise InputError("nothing to resume: there is no stopped run here", partial)
        if (partial / _RUN).is_file():
            begun = json.loads((partial / _RUN).read_text(encoding="utf-8"))
            changed = [key for key, value in run.items() if begun.get(key) != json.loads(json.dumps(value))]
            if changed:
                raise InputError(f"cannot resume: {', '.join(changed)} changed since the run began", partial)
    if accelerator.is_main_process:
        partial = partial_folder(config.out_dir, keep=config.resume)
        write_json_atomically(partial / _RUN, run)
    accelerator.wait_for_everyone()
    return partial


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's global generator for initial weights and dropout, and give it back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _parameter_groups(step: TrainingStep, config: OptimizerConfig) -> list[dict[str, Any]]:
    matrices = [p for p in step.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in step.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _copy(network: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _open_log(path: Path, length: int, is_main: bool) -> Path:
    """Cut the log back to the checkpoint: what came after it will be done again."""
    if is_main:
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(length)
    return path


def _summarise(
    config: TrainConfig, state: TrainingState, val_logits: Tensor, train_films: FilmSet, val_films: FilmSet
) -> TrainSummary:
    metrics: dict[str, Any] = {}
    if len(val_films):
        metrics |= validate(val_logits, val_films, config.recipe.loss)
    queries = int(val_logits.shape[1])
    metrics |= {
        "best_epoch": state.best_epoch,
        "epochs_run": state.epoch,
        "train_films": len(train_films),
        "val_films": len(val_films),
        "queries": queries,
    }
    return TrainSummary(config.out_dir, queries, len(train_films), len(val_films), state.best_epoch, metrics)


def _write_model(
    config: TrainConfig,
    data: PreparedData,
    questions: Questions,
    tower: ImageTower,
    partial: Path,
    summary: TrainSummary,
    state: TrainingState,
) -> None:
    write_model_tensors(partial, tower, state.best)
    write_queries(partial, questions.queries, questions.counts, questions.vectors)
    write_json_atomically(partial / "metrics.json", summary.metrics)
    manifest = {
        "recipe": recipe_to_dict(config.recipe),
        "tower": asdict(tower.spec),
        "patches": asdict(tower.geometry(config.recipe.tower.input_size)),
        "query_dim": int(questions.vectors.shape[1]),
        "encoder_digest": questions.encoder_digest,
        "encoder_path": str(config.encoder_dir.resolve()),
        "licence_level": questions.licence_level,
        "data_digest": data.digest,
        "dataset": data.manifest["dataset"],
        "data_licence": data.manifest["licence"],
        "label_set": data.manifest["label_set"],
        "mentions_unused": questions.unused,
    }
    write_text_atomically(partial / "README.md", model_card(manifest, summary.metrics))
    for name in (_CHECKPOINT, _RUN):
        (partial / name).unlink(missing_ok=True)
    write_manifest(partial, "model", manifest)
    publish_folder(partial, config.out_dir)
