"""Losses as pure functions: what the report says of each concept, and which film belongs to which report."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.types import TargetValue


def query_loss(logits: Tensor, targets: Tensor, unmentioned_weight: float, positive_weight: float) -> Tensor:
    """Weighted binary cross-entropy over (film, query) pairs.

    Present is 1; absent is 0; uncertain has weight 0 (no gradient); unmentioned is 0 with
    `unmentioned_weight`.

    Args:
        logits: float [B, Q].
        targets: int [B, Q], values of `TargetValue`.
        unmentioned_weight: 0..1.
        positive_weight: Weight of a present concept.

    Returns:
        float [], the weighted mean; 0 if nothing has weight.
    """
    is_present = targets == TargetValue.PRESENT
    weights = torch.ones_like(logits)
    weights = weights.masked_fill(is_present, positive_weight)
    weights = weights.masked_fill(targets == TargetValue.UNCERTAIN, 0.0)
    weights = weights.masked_fill(targets == TargetValue.UNMENTIONED, unmentioned_weight)
    losses = F.binary_cross_entropy_with_logits(logits, is_present.to(logits.dtype), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6)


def report_vectors(targets: Tensor, query_vectors: Tensor) -> Tensor:
    """A report as the mean of the vectors of its present concepts, unit norm.

    Shapes: [B, Q] and [Q, E] to float [B, E].
    A report in which nothing is present gives zeros.
    """
    present = (targets == TargetValue.PRESENT).to(query_vectors.dtype)
    return F.normalize(present @ query_vectors, dim=-1)


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
