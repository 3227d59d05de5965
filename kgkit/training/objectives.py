"""Contrastive objectives as pure functions, and the noise some of them want."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def multi_positive_contrast(anchors: Tensor, others: Tensor, positive: Tensor, logit_scale: float | Tensor) -> Tensor:
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
    return (_one_way(logits, positive).mean() + _one_way(logits.T, positive.T).mean()) / 2


def paired_contrast(
    left: Tensor, right: Tensor, concepts: Tensor, logit_scale: float | Tensor, spared: Tensor | None = None
) -> Tensor:
    """The loss of each pair of `multi_positive_contrast`, both ways, so that kinds of pairs can be weighed.

    Args:
        left: float [B, D], unit rows.
        right: float [B, D], unit rows; row i belongs to row i on the left.
        concepts: int64 [B], what each pair is about; every pair of one concept is right.
        logit_scale: Inverse temperature.
        spared: bool [B, B], symmetric: where the concepts of two pairs are neither right nor wrong for each other.

    Returns:
        float [B]; its mean is `multi_positive_contrast`.
    """
    logits, positive = logit_scale * left @ right.T, same_concept(concepts, concepts)
    if spared is not None:
        logits = logits.masked_fill(spared & ~positive, torch.finfo(logits.dtype).min)
    return (_one_way(logits, positive) + _one_way(logits.T, positive.T)) / 2


def same_concept(left: Tensor, right: Tensor) -> Tensor:
    """Bool [B, C]: do two items name one concept? Inputs are int64 ids [B] and [C]."""
    return left[:, None] == right[None, :]


def _one_way(logits: Tensor, positive: Tensor) -> Tensor:
    log_likelihood = F.log_softmax(logits, dim=-1)
    weight = positive.to(logits.dtype)
    return -(log_likelihood * weight).sum(-1) / weight.sum(-1).clamp(min=1)


def multi_similarity(
    vectors: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 60.0,
    base: float = 0.5,
    margin: float | None = 0.2,
) -> Tensor:
    """Multi-similarity loss (Wang et al. 2019, eq. 15) on mined pairs, as SapBERT (Liu et al. 2021) has it.

    A positive or negative pair counts if it is part of a triplet in which the negative is not further from the anchor
    than the positive by more than `margin`, in Euclidean distance of unit vectors. The mean is over all anchors, those
    without a pair included.

    Args:
        vectors: float [B, D], unit rows.
        labels: int64 [B], which rows name one concept.
        alpha: Steepness for positives.
        beta: Steepness for negatives.
        base: Similarity at which both begin to weigh.
        margin: Of the triplet miner; None: every pair counts.

    Returns:
        float scalar; 0, with zero gradients, if there is no pair.
    """
    similarity = vectors @ vectors.T
    positive = same_concept(labels, labels)
    negative = ~positive
    positive = positive & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if margin is not None:
        distance = (2 - 2 * similarity.detach()).clamp(min=0).sqrt()
        furthest_positive = distance.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
        nearest_negative = distance.masked_fill(~negative, torch.inf).amin(1, keepdim=True)
        positive, negative = (
            positive & (nearest_negative - distance <= margin),
            negative & (distance - furthest_positive <= margin),
        )
    pull = _log_one_plus_sum(-alpha * (similarity - base), positive) / alpha
    push = _log_one_plus_sum(beta * (similarity - base), negative) / beta
    return (pull + push).mean()


def kad_soft_contrast(left: Tensor, right: Tensor, ids: Tensor, logit_scale: float | Tensor) -> Tensor:
    """KAD's contrast (Zhang et al. 2023): cross-entropy both ways against targets that pairs of one concept share.

    A target is 1 on the diagonal and where two pairs have one id, each column then scaled to Euclidean length one. So
    k pairs of a concept weigh 1 / sqrt(k) each, and the rows of the targets do not sum to one.

    Args:
        left: float [B, D], unit rows.
        right: float [B, D], unit rows; row i belongs to row i on the left.
        ids: int64 [B], the concept of each pair; a negative one is unknown and equals no other.
        logit_scale: Inverse temperature.

    Returns:
        float scalar.
    """
    logits = logit_scale * left @ right.T
    same = same_concept(ids, ids) & (ids >= 0)[:, None]
    target = (same | torch.eye(len(ids), dtype=torch.bool, device=ids.device)).to(logits.dtype)
    target = F.normalize(target, dim=0)
    both = F.log_softmax(logits, dim=-1) + F.log_softmax(logits.T, dim=-1)
    return -(target * both).sum() / (2 * len(ids))


def mask_tokens(
    rows: Sequence[Sequence[int]],
    generator: np.random.Generator,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Sequence[int],
    share: float = 0.15,
) -> list[list[int]]:
    """BERT's noise (Devlin et al. 2019, section 3.1): most chosen tokens become the mask.

    Of the chosen tokens 80% become the mask, 10% any token, and 10% stay.

    Args:
        rows: Token ids.
        generator: Draws.
        mask_id: Id of the mask.
        vocabulary_size: Any token is one below it.
        special_ids: Ids that are never chosen.
        share: Chance of each other token to be chosen.
    """
    lengths = [len(row) for row in rows]
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int64, count=sum(lengths))
    draw = generator.random(len(flat))
    anything = generator.integers(0, vocabulary_size, size=len(flat))
    draw[np.isin(flat, np.asarray(special_ids))] = 1
    flat = np.where(draw < 0.9 * share, anything, flat)
    flat = np.where(draw < 0.8 * share, mask_id, flat)
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])] if lengths else []


def _log_one_plus_sum(exponents: Tensor, kept: Tensor) -> Tensor:
    """Log of one plus the row's sum of exp over the kept places; [B]."""
    masked = exponents.masked_fill(~kept, -torch.inf)
    return torch.logsumexp(F.pad(masked, (1, 0)), dim=-1)  # the first column is exp(0)


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
    return _are_among(triple_keys(heads, relations, tails, sizes), keys)


def linked_mask(pairs: Tensor, concepts: Tensor, num_concepts: int) -> Tensor:
    """Which of some concepts are joined by a fact, whatever it says and in whichever direction.

    Args:
        pairs: int64 [m], from `linked_pairs`.
        concepts: int64 [B].
        num_concepts: As it was given there.

    Returns:
        bool [B, B], symmetric.
    """
    return _are_among(_pair_keys(concepts[:, None], concepts[None, :], num_concepts), pairs)


def linked_pairs(facts: Tensor, num_concepts: int) -> Tensor:
    """Sorted keys of the pairs of concepts that facts join, int64 [n, 3] -> [m]; what `linked_mask` looks in."""
    pairs: Tensor = torch.unique(_pair_keys(facts[:, 0], facts[:, 2], num_concepts))
    return pairs


def _pair_keys(one: Tensor, other: Tensor, num_concepts: int) -> Tensor:
    return torch.minimum(one, other) * num_concepts + torch.maximum(one, other)


def _are_among(wanted: Tensor, keys: Tensor) -> Tensor:
    """Bool, of the shape of `wanted`; `keys` are sorted."""
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
