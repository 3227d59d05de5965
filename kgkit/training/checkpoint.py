"""Training state on disk: tensors in safetensors, one file, replaced atomically; no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kgkit.errors import InputError, KgkitError
from kgkit.recipe import changed_keys

_RATES = ("train.text_learning_rate", "train.graph_learning_rate", "train.max_gradient_norm")
"""What a resumed run may have otherwise: after a NaN they have to be lower."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    tensors: dict[str, Tensor],
    about: dict[str, Any],
) -> None:
    """Write model, optimisers and further tensors so that a reader sees the old state or the new.

    Args:
        path: The file.
        model: Its parameters and buffers are saved.
        optimisers: Their state is saved by position of the parameter.
        tensors: Anything else the loop needs.
        about: JSON values: the step, and what the run was started with.

    Raises:
        KgkitError: if it cannot be written; the checkpoint of before stays.
    """
    content = {f"model.{key}": value.detach().contiguous() for key, value in model.state_dict().items()}
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            content |= {f"optimiser.{number}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    content |= {f"extra.{key}": value.contiguous() for key, value in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(content, temporary, metadata={"about": json.dumps(about)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        kept = "; the one before it is whole: make room and run again with --resume" if path.exists() else ""
        raise KgkitError(f"{path}: cannot write the checkpoint ({error}){kept}") from error


def load_checkpoint(
    path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore what `save_checkpoint` wrote.

    Returns:
        The further tensors, and `about`.

    Raises:
        InputError: if the file is damaged.
    """
    with _opened(path) as stream:
        about = json.loads((stream.metadata() or {})["about"])
        content = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 - not a mapping
    model.load_state_dict(_under(content, "model."))
    for number, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(content, f"optimiser.{number}.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        for kept in optimiser.state.values():
            if isinstance(optimiser, torch.optim.SparseAdam):  # it counts steps in a plain number
                kept["step"] = int(kept["step"])
    return _under(content, "extra."), about


def read_about(path: Path) -> dict[str, Any]:
    """Only the JSON part of a checkpoint."""
    with _opened(path) as stream:
        return dict(json.loads((stream.metadata() or {})["about"]))


def changed_rates(found: dict[str, Any], about: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """What a resumed run and those it goes on from have changed: `recipe_changed` for the manifest, or nothing.

    Args:
        found: What the checkpoint says of its run.
        about: The same of this run.
        checkpoint: For the messages.

    Raises:
        InputError: if more than rates has changed since the checkpoint was made.
    """
    if found["graph_digest"] != about["graph_digest"]:
        raise InputError("this checkpoint was made with another graph; run again without --resume", checkpoint)
    changed = changed_keys(found["recipe"], about["recipe"])
    for key, (before, now) in changed.items():
        if key not in _RATES:
            what = f"this checkpoint was made with another recipe ({key} was {before}, is {now})"
            raise InputError(f"{what}; run again without --resume", checkpoint)
    step, rates = found["progress"]["step"], found.get("recipe_changed", [])
    rates += [{"step": step, "key": key, "before": before} for key, (before, _) in changed.items()]
    return {"recipe_changed": rates} if rates else {}


def _under(content: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's tensors and metadata; whatever is wrong with them is a damaged checkpoint."""
    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"damaged checkpoint ({error}); remove it to start anew", path) from error
