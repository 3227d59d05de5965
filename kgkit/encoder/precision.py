"""Choosing the arithmetic of the transformer by measuring it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from kgkit.encoder.text_tower import TextTower


def choose_precision(wanted: str, tower: TextTower) -> str:
    """`fp32` or `bf16`; `auto` times one batch of each and takes bf16 where it is clearly faster.

    bf16 is 2.3 times as fast on a CPU with bf16 instructions, and slower on one without.
    """
    if wanted != "auto":
        return wanted
    tokens = [[101, *range(1000, 1012), 102]] * 32
    seconds = {name: _seconds(tower, tokens, autocast_for(name)) for name in ("fp32", "bf16")}
    return "bf16" if seconds["bf16"] < 0.85 * seconds["fp32"] else "fp32"


def autocast_for(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Context manager factory for a precision."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast("cpu" if not torch.cuda.is_available() else "cuda", dtype=torch.bfloat16)


def _seconds(tower: TextTower, tokens: list[list[int]], autocast: Callable[[], AbstractContextManager[Any]]) -> float:
    best = float("inf")
    with torch.no_grad(), autocast():
        tower.embed_tokens(tokens)
        for _ in range(3):
            start = time.perf_counter()
            tower.embed_tokens(tokens)
            best = min(best, time.perf_counter() - start)
    return best
