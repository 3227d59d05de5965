"""Contrastive objectives as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def multi_positive_contrast(anchors: Tensor, others: Tensor, positive: Tensor, logit_scale: float) -> Tensor:
    """Symmetric InfoNCE in which several items may be right.

    The log-likelihood of each positive is averaged over a row's positives (SupCon's outer form, Khosla et al. 2020,
    eq. 2), so a concept named twice in a batch is never its own negative. With one positive per row it is InfoNCE
    (van den Oord et al. 2018): log B when all logits are equal.

    Args:
        anchors: float [B, D], unit rows.
        others: float [C, D], unit rows.
        positive: bool [B, C]; every row and column holds at least one True.
        logit_scale: Inverse temperature.

    Returns:
        float scalar.
    """
    logits = logit_scale * anchors @ others.T
    return (_one_way(logits, positive) + _one_way(logits.T, positive.T)) / 2


def same_concept(left: Tensor, right: Tensor) -> Tensor:
    """Bool [B, C]: do two items name one concept? Inputs are int64 ids [B] and [C]."""
    return left[:, None] == right[None, :]


def _one_way(logits: Tensor, positive: Tensor) -> Tensor:
    log_likelihood = F.log_softmax(logits, dim=-1)
    weight = positive.to(logits.dtype)
    return -((log_likelihood * weight).sum(-1) / weight.sum(-1).clamp(min=1)).mean()


def relation_truth_mask(
    keys: Tensor, heads: Tensor, relations: Tensor, tails: Tensor, sizes: tuple[int, int]
) -> Tensor:
    """Which of all combinations are known facts.

    Args:
        keys: int64 [n], sorted keys of the known facts, from `triple_keys`.
        heads: int64, broadcastable against the others.
        relations: int64.
        tails: int64.
        sizes: (number of concepts, number of relations).

    Returns:
        bool of the broadcast shape.
    """
    wanted = triple_keys(heads, relations, tails, sizes)
    if not len(keys):
        return torch.zeros_like(wanted, dtype=torch.bool)
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return keys[at] == wanted


def known_keys(facts: Tensor, sizes: tuple[int, int]) -> Tensor:
    """Sorted keys of some facts, int64 [n, 3] -> [n]; what `relation_truth_mask` looks in."""
    return triple_keys(facts[:, 0], facts[:, 1], facts[:, 2], sizes).sort().values


def triple_keys(heads: Tensor, relations: Tensor, tails: Tensor, sizes: tuple[int, int]) -> Tensor:
    """One int64 key per (head, relation, tail)."""
    num_concepts, num_relations = sizes
    return (heads * num_relations + relations) * num_concepts + tails
