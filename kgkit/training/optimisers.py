"""Optimisers and learning rates of a recipe."""

from __future__ import annotations

import math

import torch
from torch import nn

from kgkit.encoder.config import EncoderRecipe, TrainingConfig
from kgkit.encoder.model import EncoderModel
from kgkit.errors import InputError


def build_optimisers(
    model: EncoderModel, recipe: EncoderRecipe, *, takes_turns: bool = False
) -> list[torch.optim.Optimizer]:
    """AdamW for everything; SparseAdam for free vectors of which a step touches few rows.

    Every parameter group has its highest learning rate under `peak`, and under `span` the part of the run in which it
    learns.

    Args:
        model: What learns.
        recipe: Rates and decay.
        takes_turns: Texts learn first, everything else after them; with live triples all along.

    Raises:
        InputError: if sparse gradients were to be clipped, which torch cannot do.
    """
    sparse = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]
    taken = {id(parameter) for parameter in sparse}
    text, rest = ([parameter for parameter in side if parameter.requires_grad and id(parameter) not in taken]
                  for side in split_parameters(model))  # fmt: skip
    groups = []
    train, turn = recipe.train, recipe.train.text_share if takes_turns else 0.0
    begins = 0.0 if recipe.relation.live_triples else turn
    sides = ((text, train.text_learning_rate, (0.0, turn or 1.0)), (rest, train.graph_learning_rate, (begins, 1.0)))
    for parameters, peak, span in sides:
        for decay, is_wanted in ((recipe.train.weight_decay, _decays), (0.0, lambda parameter: not _decays(parameter))):
            chosen = [parameter for parameter in parameters if is_wanted(parameter)]
            if chosen:
                groups.append({"params": chosen, "peak": peak, "span": span, "weight_decay": decay})
    optimisers: list[torch.optim.Optimizer] = []
    if groups:
        optimisers.append(torch.optim.AdamW(groups, lr=0.0, fused=True))
    if sparse:
        if train.max_gradient_norm:
            problem = "sparse gradients are not clipped; set it to 0, or relation.sampling to 'all' or 'independent'"
            raise InputError(f"recipe key 'train.max_gradient_norm' is {train.max_gradient_norm}: {problem}")
        group = {"params": sparse, "peak": train.graph_learning_rate, "span": (begins, 1.0)}
        optimisers.append(torch.optim.SparseAdam([group], lr=1.0))
    return optimisers


def _decays(parameter: nn.Parameter) -> bool:
    """Biases, norms, gates and the temperature do not."""
    return parameter.ndim > 1


def split_parameters(model: EncoderModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the text tower, and all others."""
    text = [] if model.text is None else list(model.text.parameters())
    taken = {id(parameter) for parameter in text}
    return text, [parameter for parameter in model.parameters() if id(parameter) not in taken]


def set_learning_rates(optimisers: list[torch.optim.Optimizer], train: TrainingConfig, fraction: float) -> None:
    """Linear warm-up, then cosine to zero or a level line, within each group's span of the run.

    Args:
        optimisers: As `build_optimisers` gives them.
        train: Warm-up and form.
        fraction: How much of the run is over in the middle of the coming step, 0 to 1.
    """
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            start, stop = group["span"]
            part = min(max((fraction - start) / (stop - start), 0.0), 1.0)
            group["lr"] = group["peak"] * schedule(part, train.warmup_fraction, train.decay)


def schedule(fraction: float, warmup: float, decay: str) -> float:
    """Share of the highest learning rate, 0 to 1.

    >>> [round(schedule(part, 0.1, "cosine"), 3) for part in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if fraction < warmup:
        return fraction / warmup
    if decay == "none":
        return 1.0
    return (1 + math.cos(math.pi * (fraction - warmup) / max(1e-9, 1 - warmup))) / 2
