"""train_encoder: the one training loop of kgkit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kgkit.encoder.batches import BatchMaker
from kgkit.encoder.checkpoint import load_checkpoint, read_about, save_checkpoint
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.corpus import Corpus, build_corpus
from kgkit.encoder.evaluation import evaluate_vectors, link_prediction
from kgkit.encoder.model import EncoderModel, all_concept_vectors
from kgkit.encoder.objectives import known_keys
from kgkit.encoder.precision import autocast_for, choose_precision
from kgkit.encoder.saving import distinct_names, save_encoder
from kgkit.errors import InputError, KgkitError
from kgkit.files import partial_folder, publish_folder, read_manifest
from kgkit.graph.store import KnowledgeGraph
from kgkit.progress import progress
from kgkit.recipe import recipe_to_dict
from kgkit.views.splits import shuffle_tails
from kgkit.views.triples import IntArray

_CURVE_POINTS = 8


@dataclass
class _Run:
    """Everything one training run holds."""

    recipe: EncoderRecipe
    corpus: Corpus
    model: EncoderModel
    batches: BatchMaker
    accelerator: Accelerator
    optimiser: torch.optim.Optimizer
    autocast: Callable[[], AbstractContextManager[Any]]
    bank: Tensor
    known: Tensor


def train_encoder(kg: Path, out: Path, recipe: EncoderRecipe, *, resume: bool = False) -> dict[str, Any]:
    """Train a concept encoder on a graph and write the ENCODER folder.

    Work is done in `<out>.partial`, with a checkpoint every `train.checkpoint_every` steps; the folder takes its name
    when it is complete.

    Args:
        kg: Graph folder.
        out: The ENCODER folder to make; an older one is replaced at the end.
        recipe: What to train.
        resume: Continue a killed run of the same graph and recipe.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: for a folder that is no graph, a graph without names or relations, a resume that does not fit, or
            if `out` holds something else than an encoder.
        KgkitError: if the loss or a vector becomes NaN; the last checkpoint is kept.
    """
    graph = KnowledgeGraph(kg)
    torch.manual_seed(recipe.seed)
    corpus = build_corpus(graph.views, recipe.train.held_out_names, recipe.train.held_out_triples, recipe.seed)
    about = {"graph_digest": graph.digest, "recipe": recipe_to_dict(recipe)}
    folder = _open_partial(out, about, resume)
    run, about["precision"] = _prepare(recipe, corpus, folder / "checkpoint.safetensors")
    untrained = evaluate_vectors(run.bank, run.model, corpus, recipe.seed)
    _train(run, folder, about)
    strings = distinct_names(graph)
    tokens = run.model.text.tokenize(strings, recipe.text.max_name_tokens)
    names = run.model.text.encode_all(tokens, run.autocast, "names to vectors")
    row = {string: index for index, string in enumerate(strings)}
    run.bank = names[[row[name] for name in corpus.preferred]]
    vectors = _finite_vectors(run)
    metrics = {
        "trained": evaluate_vectors(vectors, run.model, corpus, recipe.seed),
        "untrained": untrained,
        "control": recipe.train.control,
        "held_out": {
            "names": len(corpus.held_out),
            "triples": {"valid": len(corpus.split.valid), "test": len(corpus.split.test)},
            "split": "both ends seen in training; all facts between two concepts on one side",
        },
    }
    save_encoder(folder, run.model, {"concepts": vectors, "names": names}, graph, metrics, about)
    for spent in folder.glob("*checkpoint.safetensors*"):  # the checkpoint, and what a kill left of one
        spent.unlink()
    publish_folder(folder, out)
    return metrics


def _open_partial(out: Path, about: dict[str, Any], resume: bool) -> Path:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        read_manifest(out, "encoder")  # only an older encoder may be replaced
    checkpoint = out.with_name(out.name + ".partial") / "checkpoint.safetensors"
    if not resume:
        return partial_folder(out)
    if not checkpoint.exists():
        raise InputError("nothing to resume: no checkpoint here; run again without --resume", checkpoint)
    found = read_about(checkpoint)
    for key, what in (("graph_digest", "another graph"), ("recipe", "another recipe")):
        if found[key] != about[key]:
            raise InputError(f"this checkpoint was made with {what}; run again without --resume", checkpoint)
    return partial_folder(out, keep=True)


def _prepare(recipe: EncoderRecipe, corpus: Corpus, checkpoint: Path) -> tuple[_Run, str]:
    accelerator = Accelerator()
    model = EncoderModel(recipe, corpus.view.num_concepts, corpus.view.num_relations)
    train = corpus.split.train
    if recipe.train.control == "shuffled-graph":
        train = shuffle_tails(train, recipe.seed)
    batches = BatchMaker(corpus, train, model.text, recipe.train, recipe.graph.fanouts)
    resumed = read_about(checkpoint)["precision"] if checkpoint.exists() else recipe.train.precision
    precision = choose_precision(resumed, model.text)
    text = [parameter for parameter in model.text.parameters() if parameter.requires_grad]
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("text.")]
    groups = [
        {"params": text, "peak": recipe.train.text_learning_rate},
        {"params": rest, "peak": recipe.train.graph_learning_rate},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.train.weight_decay, fused=True)
    autocast = autocast_for(precision)
    bank = model.text.encode_all(batches.preferred_tokens, autocast, "untrained concept vectors")
    sizes = (corpus.view.num_concepts, corpus.view.num_relations)
    known = known_keys(torch.from_numpy(train), sizes)
    return _Run(recipe, corpus, model, batches, accelerator, optimiser, autocast, bank, known), precision


def _train(run: _Run, folder: Path, about: dict[str, Any]) -> None:
    train, checkpoint, log = run.recipe.train, folder / "checkpoint.safetensors", folder / "training_log.jsonl"
    first = 0
    if checkpoint.exists():
        tensors, state = load_checkpoint(checkpoint, run.model, run.optimiser)
        run.bank, first = tensors["bank"], int(state["step"])
        kept = [line for line in log.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= first]
        log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    model, optimiser = run.accelerator.prepare(run.model, run.optimiser)
    model.train()
    pairs = train.synonym_pairs + train.definitions + train.triples
    every = max(1, train.steps // _CURVE_POINTS)
    with (
        log.open("a", encoding="utf-8") as stream,
        progress("training", (train.steps - first) * pairs, "pairs") as report,
    ):
        for step in range(first + 1, train.steps + 1):
            losses = _step(run, model, optimiser, step)
            _require_finite(losses, step, checkpoint)
            report.advance(pairs, note=f"loss {losses['total']:.3f} (relation {losses.get('relation', math.nan):.3f})")
            record: dict[str, Any] = {"step": step, "losses": losses}
            if step % every == 0 or step == train.steps:
                record["valid_mrr"] = _valid_mrr(run)
            if step % train.log_every == 0 or "valid_mrr" in record or step == 1:
                stream.write(json.dumps(record) + "\n")
                stream.flush()
            if step % train.checkpoint_every == 0:
                save_checkpoint(checkpoint, run.model, run.optimiser, {"bank": run.bank}, about | {"step": step})


def _step(run: _Run, model: torch.nn.Module, optimiser: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """One optimiser step; its randomness depends on the seed and the step alone, so a resumed run repeats it."""
    text, graph = run.batches.draw(run.recipe.seed, step)
    torch.manual_seed(int(np.random.default_rng([run.recipe.seed, step, 1]).integers(2**62)))
    losses, live = model(text, graph, run.bank, run.known, run.autocast)
    weights = vars(run.recipe.objectives)
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * _schedule(step, run.recipe.train.steps, run.recipe.train.warmup_fraction)
    optimiser.zero_grad(set_to_none=True)
    run.accelerator.backward(total)
    run.accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    run.bank[text.live_concepts] = live
    return {name: float(loss.detach()) for name, loss in losses.items()} | {"total": float(total.detach())}


def _schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Linear warm-up, then cosine to zero; 0..1."""
    warmup = max(1, round(warmup_fraction * steps))
    if step <= warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def _valid_mrr(run: _Run) -> float | None:
    """Filtered MRR on validation triples with the bank as it stands; a point of the learning curve."""
    if not len(run.corpus.split.valid):
        return None
    vectors = _finite_vectors(run)
    ranks = link_prediction(vectors, run.model.scorer, run.corpus, _spread(run.corpus.split.valid, 200))
    return float((1 / ranks).mean())


def _finite_vectors(run: _Run) -> Tensor:
    """All concept vectors; an update after the last finite loss may have spoilt them."""
    vectors = all_concept_vectors(run.model, run.bank, run.batches.sampler, run.recipe.seed)
    if not bool(torch.isfinite(vectors).all()):
        raise KgkitError("some concept vectors are not finite; lower the learning rates")
    return vectors


def _spread(triples: IntArray, count: int) -> IntArray:
    """About `count` of the triples, evenly spread; sorted by head, the first ones would be a biased draw."""
    return triples[:: max(1, len(triples) // count)]


def _require_finite(losses: dict[str, float], step: int, checkpoint: Path) -> None:
    wrong = [name for name, loss in losses.items() if not math.isfinite(loss)]
    if wrong:
        kept = f"the last checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
        raise KgkitError(f"loss {wrong[0]!r} is not finite at step {step}; lower the learning rates; {kept}")
