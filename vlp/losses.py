"""Losses as pure functions: what the report says of each concept, and which film belongs to which report."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.config import LossConfig
from vlp.types import TargetValue


def query_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy over (film, query) pairs: present is 1, all else 0.

    Args:
        logits: float [B, Q].
        targets: int [B, Q], values of `TargetValue`.
        weights: float [B, Q], see `target_weights`.

    Returns:
        float [], the weighted mean; 0 if nothing has weight.
    """
    is_present = targets == TargetValue.PRESENT
    losses = F.binary_cross_entropy_with_logits(logits, is_present.to(logits.dtype), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6)


def target_weights(targets: Tensor, config: LossConfig, positive_weight: Tensor | None = None) -> Tensor:
    """How much each (film, query) pair counts: float [B, Q].

    Args:
        targets: int [B, Q], values of `TargetValue`.
        config: Weights of positives, of uncertain and of unmentioned concepts.
        positive_weight: float [Q], of each query, on top of that of the recipe; see `class_balance`.
    """
    weights = torch.ones(targets.shape, device=targets.device)
    positive = weights if positive_weight is None else positive_weight.expand_as(weights)
    weights = torch.where(targets == TargetValue.PRESENT, positive * config.positive_weight, weights)
    weights = weights.masked_fill(targets == TargetValue.UNCERTAIN, config.uncertain_weight)
    return weights.masked_fill(targets == TargetValue.UNMENTIONED, config.unmentioned_weight)


def class_balance(targets: Tensor, config: LossConfig) -> Tensor:
    """Positive weight of each query: (weight of its negatives / number of its positives) ** `config.class_balance`.

    Args:
        targets: int [N, Q], of the training films.
        config: Of the loss.

    Returns:
        float [Q]; 1 where a query has no positive.
    """
    weights = target_weights(targets, config)
    is_present = targets == TargetValue.PRESENT
    positives = is_present.sum(0).clamp_min(1)
    negatives = weights.masked_fill(is_present, 0.0).sum(0).clamp_min(1e-6)
    balance = (negatives / positives) ** config.class_balance
    return torch.where(is_present.any(0), balance, torch.ones_like(balance))


def sentence_targets(own: Tensor, says: Tensor, targets: Tensor) -> Tensor:
    """What films are to be told of some sentences: int8 [B, S], values of `TargetValue`.

    A sentence is present for the film it was written of, and for any film whose report has all the concepts that the
    sentence calls present; absent where the report denies one of them; else unmentioned.

    Args:
        own: bool [B, S], whether the report of film b holds sentence s.
        says: bool [S, Q], concepts that the sentence calls present, closed under is-a.
        targets: int8 [B, Q], values of `TargetValue`.
    """
    said = says.float()
    covered = (targets == TargetValue.PRESENT).float() @ said.T
    is_entailed = (covered == said.sum(1)) & says.any(1)
    is_denied = (targets == TargetValue.ABSENT).float() @ said.T > 0
    found = torch.full(own.shape, int(TargetValue.UNMENTIONED), dtype=torch.int8, device=own.device)
    found = found.masked_fill(is_denied, int(TargetValue.ABSENT))
    return found.masked_fill(own | is_entailed, int(TargetValue.PRESENT))


def shared_concepts(targets: Tensor) -> Tensor:
    """Squared Jaccard overlap of the present concepts of every two studies: int [B, Q] to float [B, B], 0..1.

    Two studies with the same concepts have 1: their films and reports may be exchanged. Squaring keeps
    studies that share only common concepts nearly apart. Studies without a present concept have 0 everywhere.
    """
    present = (targets == TargetValue.PRESENT).float()
    both = present @ present.T
    sizes = present.sum(dim=1)
    either = sizes[:, None] + sizes[None, :] - both
    return (both / either.clamp_min(1.0)).square()


def soft_contrast_loss(images: Tensor, reports: Tensor, overlap: Tensor, scale: float) -> Tensor:
    """Symmetric cross-entropy between films and reports with soft targets (CLIP; soft targets as in MedCLIP).

    With an overlap that is the identity this is InfoNCE (van den Oord et al., 2018).

    Args:
        images: float [B, J], unit rows.
        reports: float [B, J], unit rows.
        overlap: float [B, B], 0..1, how much study i may stand for study j; rows that are all 0 are left out.
        scale: Logit scale.

    Returns:
        float [], 0 if fewer than two studies take part.
    """
    taking_part = overlap.sum(dim=1) > 0
    if int(taking_part.sum()) < 2:
        return images.sum() * 0.0
    overlap = overlap[taking_part][:, taking_part]
    logits = images[taking_part] @ reports[taking_part].T * scale
    by_image = -(overlap / overlap.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1).mean()
    by_report = -(overlap / overlap.sum(0, keepdim=True) * logits.log_softmax(dim=0)).sum(0).mean()
    return (by_image + by_report) / 2
