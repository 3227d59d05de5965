"""Where a training run stands: one safetensors file, written by an atomic rename; no pickle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kgkit.interface import InputError

State = dict[str, Tensor]


@dataclass
class TrainingState:
    """All that changes while a run goes on.

    Attributes:
        network: Weights now, those of a trained tower among them.
        average: Moving average of the weights; empty if the recipe turned it off.
        best: Weights of the best epoch so far; empty before the first.
        optimizer: `<parameter position>.<name>` -> tensor of AdamW.
        epoch: Epochs done.
        best_epoch: 1-based; 0 before the first.
        best_loss: Validation loss of that epoch.
        cpu_seconds: Processor time used so far.
    """

    network: State
    average: State = field(default_factory=dict)
    best: State = field(default_factory=dict)
    optimizer: State = field(default_factory=dict)
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    cpu_seconds: float = 0.0


def copy_weights(weights: State) -> State:
    """Copies in main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def put_weights(into: State, weights: State) -> None:
    """Overwrite tensors in place by those of the same name."""
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(weights[name])


def average_weights(average: State, weights: State, decay: float) -> None:
    """Move an average in main memory towards some weights; with a decay of 0 it is them."""
    for name, tensor in weights.items():
        average[name].lerp_(tensor.detach().cpu(), 1 - decay)


_GROUPS = ("network", "average", "best", "optimizer")
_NUMBERS = {"epoch": int, "best_epoch": int, "best_loss": float, "cpu_seconds": float}


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write the state; a kill leaves the last one whole."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group in _GROUPS
        for name, tensor in getattr(state, group).items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={name: repr(getattr(state, name)) for name in _NUMBERS})
    temporary.replace(path)


def load_checkpoint(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        InputError: if the file is damaged.
    """
    groups: dict[str, State] = {group: {} for group in _GROUPS}
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
            for key in stream.keys():  # noqa: SIM118 - not a mapping
                group, _, name = key.partition("/")
                groups[group][name] = stream.get_tensor(key)
        numbers: dict[str, Any] = {name: kind(metadata[name]) for name, kind in _NUMBERS.items()}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"damaged checkpoint ({error}); start again without --resume", path) from error
    return TrainingState(groups["network"], groups["average"], groups["best"], groups["optimizer"], **numbers)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> State:
    """AdamW's moments as flat names."""
    state = optimizer.state_dict()["state"]
    return {f"{row}.{name}": value for row, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    """Inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        row, _, name = key.partition(".")
        state.setdefault(int(row), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
