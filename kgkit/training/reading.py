"""Reading a step's texts: shared out among processes, cached and read twice where one pass does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kgkit.encoder.text_tower import TextTower
from kgkit.errors import KgkitError
from kgkit.training.method import Tokens, seed_torch


class StepReader:
    """Turns a step's texts into vectors, and the vectors' gradients into the tower's.

    The vectors are a leaf, so every loss is computed on all of them at once however they were read. With `chunk`, they
    are read without gradients first and again, chunk by chunk, once their gradients are known (GradCache, Gao et al.
    2021): the result is that of one large batch, the memory that of one chunk. Each process reads its share and all
    compute the same losses, so the step is that of one process.

    Args:
        tower: The text tower; None reads nothing.
        accelerator: Knows the processes.
        autocast: Context in which the transformer runs.
        chunk: Texts read at once; 0: all.
    """

    def __init__(
        self,
        tower: TextTower | None,
        accelerator: Accelerator,
        autocast: Callable[[], AbstractContextManager[Any]],
        chunk: int,
    ) -> None:
        self._tower, self._accelerator, self._autocast, self._chunk = tower, accelerator, autocast, chunk
        self._read: list[tuple[Tokens, Tensor | None, slice]] = []
        self._mine = np.empty(0, dtype=np.int64)
        self._seed = 0

    def read(self, tokens: Tokens, seed: int) -> Tensor:
        """Vectors of texts, float32 [len(tokens), dim], a leaf that takes gradients.

        Args:
            tokens: Texts.
            seed: Of the transformer's dropout; both passes use it.
        """
        if self._tower is None or not len(tokens):
            dim = 0 if self._tower is None else self._tower.dim
            self._read = []
            return torch.empty(0, dim, device=self._accelerator.device)
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        if len(tokens) < world:
            problem = f"a step reads {len(tokens)} texts, fewer than there are processes ({world})"
            raise KgkitError(f"{problem}: start fewer, or raise train.synonym_pairs")
        order = np.argsort([len(row) for row in tokens], kind="stable")
        self._mine, self._seed = order[rank::world], seed
        step = self._chunk or len(self._mine)
        self._read = []
        for at in range(0, len(self._mine), step):
            place = slice(at, min(at + step, len(self._mine)))
            rows = [tokens[index] for index in self._mine[place]]
            vectors = self._embed(rows, at, keep=step >= len(self._mine))
            self._read.append((rows, vectors, place))
        local = torch.cat([vectors.detach() for _, vectors, _ in self._read if vectors is not None])
        return self._gathered(local, order, world).requires_grad_()

    def backward(self, gradient: Tensor | None) -> None:
        """Carry the gradient of what `read` gave into the tower."""
        if gradient is None:
            return
        mine = gradient[torch.from_numpy(self._mine).to(gradient.device)]
        for rows, vectors, place in self._read:
            kept = (
                vectors if vectors is not None and vectors.requires_grad else self._embed(rows, place.start, keep=True)
            )
            if kept.requires_grad:
                kept.backward(mine[place])  # type: ignore[no-untyped-call]
        self._read = []

    def _embed(self, rows: Tokens, at: int, *, keep: bool) -> Tensor:
        assert self._tower is not None
        seed_torch(self._seed + 7919 * at + self._accelerator.process_index)
        with torch.set_grad_enabled(keep), self._autocast():
            return self._tower.embed_tokens(rows).float()

    def _gathered(self, local: Tensor, order: Any, world: int) -> Tensor:
        if world == 1:
            ordered = local
        else:
            share = -(-len(order) // world)
            padded = torch.nn.functional.pad(local, (0, 0, 0, share - len(local)))
            every = self._accelerator.gather(padded).view(world, share, -1)
            ordered = every.transpose(0, 1).reshape(world * share, -1)[: len(order)]  # rank r holds order[r::world]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.from_numpy(np.ascontiguousarray(order))] = torch.arange(len(order))
        return ordered[back.to(ordered.device)].detach()


def share_gradients(accelerator: Accelerator, text: Sequence[Tensor], rest: Sequence[Tensor]) -> None:
    """Make the gradients of all processes one: each read its share of the texts, and all computed the rest alike."""
    if accelerator.num_processes == 1:
        return
    for parameters, reduction in ((text, "sum"), (rest, "mean")):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, reduction)
