"""The query network, on one page: concepts ask, patches answer.

A Disease Query Network in the line of KAD (Zhang et al., Nature Communications 14:4542, 2023) and MedKLIP (Wu et al.,
ICCV 2023): query vectors cross-attend to the patch features of a film in decoder layers. Queries do not see each other
(as in CARZero), so a score never depends on what else was asked. Two readers answer, and their logits are added: one
reads the decoded query, which has seen the whole film; the other weighs what single patches say, and its weights are
the heat map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.config import ModelConfig

_POSITION_PERIOD = 100.0
_MIN_STD = 1e-3


class QueryOutput(NamedTuple):
    """What the network says of a batch of films.

    Attributes:
        logits: float [B, Q], the two readers' logits added.
        local_logits: float [B, Q], those of the local reader; a bias plus the sum of attention x evidence.
        attention: float [B, Q, Hp, Wp], how much each patch has to say in the local logit, sum 1: the heat map.
        evidence: float [B, Q, Hp, Wp], what each patch says.
        embedding: float [B, J], the film in the joint space, unit norm.
    """

    logits: Tensor
    local_logits: Tensor
    attention: Tensor
    evidence: Tensor
    embedding: Tensor


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: (self-attention,) cross-attention to the patches, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.self_attention = None
        if config.query_self_attention:
            self.norm_self = nn.LayerNorm(width)
            self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm_query = nn.LayerNorm(width)
        self.norm_patch = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm_forward = nn.LayerNorm(width)
        self.forward_block = nn.Sequential(
            nn.Linear(width, config.feedforward),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(config.feedforward, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, patches: Tensor, positions: Tensor) -> Tensor:
        """Queries [B, Q, W] after one look at patches [B, P, W] that stand at positions [1, P, W]."""
        if self.self_attention is not None:
            x = self.norm_self(queries)
            queries = queries + self.dropout(self.self_attention(x, x, x, need_weights=False)[0])
        memory = self.norm_patch(patches)
        looked, _ = self.cross_attention(self.norm_query(queries), memory + positions, memory, need_weights=False)
        queries = queries + self.dropout(looked)
        result: Tensor = queries + self.dropout(self.forward_block(self.norm_forward(queries)))
        return result


class LocalReader(nn.Module):
    """One patch at a time: logit = bias + sum over patches of softmax(evidence) x evidence.

    Evidence is bilinear in (question, patch), so this is a soft "anywhere": the patches that speak for the question
    loudest decide. The question is taken as it was asked. A decoded query must not come near: it has seen the whole
    film and knows the answer, so it could look at any patch to say yes and at any other to say no; the map would be
    sharp and mean nothing (measured on films with drawn squares: 3 hits in 100, though every score was right).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_question, self.norm_patch = nn.LayerNorm(width), nn.LayerNorm(width)
        self.question, self.patch = nn.Linear(width, width), nn.Linear(width, width)
        self.bias = nn.Linear(width, 1)

    def forward(self, questions: Tensor, patches: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, Q], attention and evidence [B, Q, P] of patches [B, P, W] for questions [Q, W]."""
        questions, memory = self.norm_question(questions), self.norm_patch(patches) + positions
        evidence = self.question(questions) @ self.patch(memory).transpose(1, 2) / math.sqrt(questions.shape[-1])
        attention = evidence.softmax(dim=-1)
        return self.bias(questions).squeeze(-1) + (attention * evidence).sum(-1), attention, evidence


class QueryNetwork(nn.Module):
    """Patch features and query vectors in, logits and their patch-wise parts out.

    Args:
        feature_dim: D, channels of the patch features.
        query_dim: E, dimension of the concept vectors.
        config: Sizes and switches.
    """

    feature_mean: Tensor
    feature_std: Tensor
    query_mean: Tensor
    query_std: Tensor

    def __init__(self, feature_dim: int, query_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Standardise what comes from frozen models; set once from the training set, then saved with the weights.
        # Concept vectors share a large common part ("a finding of the chest"): with it left in, `normal` was read as
        # one more disease (on 414 films: AUROC .21, against .67 without it).
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.register_buffer("query_mean", torch.zeros(query_dim))
        self.register_buffer("query_std", torch.ones(()))
        self.patch_projection = nn.Linear(feature_dim, config.width)
        self.query_projection = nn.Linear(query_dim, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.context_reader = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, 1)
        )
        self.local_reader = LocalReader(config.width)
        self.image_projection = nn.Linear(config.width, config.joint_dim)
        self.report_projection = nn.Linear(query_dim, config.joint_dim)

    def forward(self, patch_features: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Ask every query of every film.

        Args:
            patch_features: float [B, Hp, Wp, D] of the image tower.
            query_vectors: float [Q, E], rows of unit norm.
        """
        batch, rows, columns, _ = patch_features.shape
        features = (patch_features.to(self.feature_mean.dtype) - self.feature_mean) / self.feature_std
        patches = self.patch_projection(features.flatten(1, 2))
        if self.training and self.config.patch_dropout > 0:
            kept = torch.rand(batch, rows * columns, 1, device=patches.device) >= self.config.patch_dropout
            patches = patches * kept
        positions = torch.zeros(1, 1, 1, device=patches.device)
        if self.config.position_encoding:
            positions = sincos_positions(rows, columns, self.config.width).to(patches)
        questions = self.query_projection((query_vectors - self.query_mean) / self.query_std)
        queries = questions.expand(batch, -1, -1)
        for layer in self.layers:
            queries = layer(queries, patches, positions)
        local_logits, attention, evidence = self.local_reader(questions, patches, positions)
        logits = self.context_reader(queries).squeeze(-1) + local_logits
        embedding = F.normalize(self.image_projection(patches.mean(1)), dim=-1)
        grid = (batch, len(query_vectors), rows, columns)
        return QueryOutput(logits, local_logits, attention.view(grid), evidence.view(grid), embedding)

    def embed_reports(self, report_vectors: Tensor) -> Tensor:
        """Reports in the joint space, unit norm: float [B, E] to [B, J]."""
        return F.normalize(self.report_projection(report_vectors), dim=-1)

    def fit_standardisation(self, patch_features: Iterable[Tensor], query_vectors: Tensor) -> None:
        """Set means and standard deviations from the training set.

        Args:
            patch_features: float [n, Hp, Wp, D] each, some films at a time; each channel gets its own.
            query_vectors: float [Q, E]; the mean is a vector, the deviation one number, so that angles survive.
        """
        mean, std = channel_moments(patch_features)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std)
        if len(query_vectors) > 1:
            self.query_mean.copy_(query_vectors.mean(0))
        self.query_std.copy_((query_vectors - self.query_mean).square().mean().sqrt().clamp_min(_MIN_STD))


def channel_moments(patch_features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean, and deviation of at least .001, of each channel.

    Args:
        patch_features: float [n, Hp, Wp, D] each, some films at a time: all may be more than memory holds.

    Returns:
        float32 [D] twice.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part in patch_features:  # Chan et al. 1983: moments of parts put together
        flat = part.double().flatten(0, 2)
        added, shift = len(flat), flat.mean(0) - mean
        squares = squares + (flat - flat.mean(0)).square().sum(0) + shift.square() * (count * added / (count + added))
        mean = mean + shift * (added / (count + added))
        count += added
    return mean.float(), (squares / count).sqrt().float().clamp_min(_MIN_STD)


@torch.no_grad()
def film_logits(network: nn.Module, films: Iterable[Tensor], query_vectors: Tensor) -> Tensor:
    """Logits of every query of every film, as the network is used: float32 [N, Q] on the CPU.

    Args:
        network: Films and query vectors in, `QueryOutput` out; left in evaluation mode.
        films: float [n, ...] each, what the network takes, some films at a time; N, of all, may be 0.
        query_vectors: float [Q, E].
    """
    network.eval()
    logits = [torch.empty(0, len(query_vectors))]
    for part in films:
        logits.append(network(part.to(query_vectors.device), query_vectors).logits.float().cpu())
    return torch.cat(logits)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D positions, float [1, rows * columns, width]; half of the channels for y, half for x."""
    quarter = width // 4
    frequencies = torch.exp(torch.arange(quarter) * (-math.log(_POSITION_PERIOD) / max(quarter, 1)))
    y, x = (torch.arange(size)[:, None] * frequencies for size in (rows, columns))
    along_y = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(rows, columns, -1)
    along_x = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(rows, columns, -1)
    return torch.cat([along_y, along_x], dim=-1).reshape(1, rows * columns, 4 * quarter)
