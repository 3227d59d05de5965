"""The query network, on one page: concepts ask, patches answer.

A Disease Query Network in the line of KAD (Zhang et al., Nature Communications 14:4542, 2023) and MedKLIP (Wu
et al., ICCV 2023): query vectors cross-attend to the patch features of a film in decoder layers. Two things
differ. Queries do not see each other (as in CARZero), so a score never depends on what else was asked. And
the logit is a sum over
patches, attention times evidence, so the heat map is not an afterthought: it *is* the score, patch by patch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.config import ModelConfig

_POSITION_PERIOD = 100.0


class QueryOutput(NamedTuple):
    """What the network says of a batch of films.

    Attributes:
        logits: float [B, Q]; bias[b, q] + contributions[b, q].sum() .
        contributions: float [B, Q, Hp, Wp], the part of the logit that each patch gives.
        attention: float [B, Q, Hp, Wp], weights of the last look at the patches, sum 1.
        embedding: float [B, J], the film in the joint space, unit norm.
    """

    logits: Tensor
    contributions: Tensor
    attention: Tensor
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


class EvidenceReadout(nn.Module):
    """logit = bias(query) + sum over patches of attention x evidence; both are bilinear in (query, patch)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_query, self.norm_patch = nn.LayerNorm(width), nn.LayerNorm(width)
        self.where_query, self.where_patch = nn.Linear(width, width), nn.Linear(width, width)
        self.what_query, self.what_patch = nn.Linear(width, width), nn.Linear(width, width)
        self.bias = nn.Linear(width, 1)

    def forward(self, queries: Tensor, patches: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, Q], contributions [B, Q, P], attention [B, Q, P]."""
        queries, memory = self.norm_query(queries), self.norm_patch(patches)
        scale = 1 / math.sqrt(queries.shape[-1])
        where = self.where_query(queries) @ self.where_patch(memory + positions).transpose(1, 2) * scale
        evidence = self.what_query(queries) @ self.what_patch(memory).transpose(1, 2) * scale
        attention = where.softmax(dim=-1)
        contributions = attention * evidence
        return self.bias(queries).squeeze(-1) + contributions.sum(-1), contributions, attention


class QueryNetwork(nn.Module):
    """Patch features and query vectors in, logits and their patch-wise parts out.

    Args:
        feature_dim: D, channels of the patch features.
        query_dim: E, dimension of the concept vectors.
        config: Sizes and switches.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, feature_dim: int, query_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Standardises each channel of the frozen tower; set once from the training films, then saved with the
        # weights.
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.patch_projection = nn.Linear(feature_dim, config.width)
        self.query_projection = nn.Linear(query_dim, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.readout = EvidenceReadout(config.width)
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
        queries = self.query_projection(query_vectors).expand(batch, -1, -1)
        for layer in self.layers:
            queries = layer(queries, patches, positions)
        logits, contributions, attention = self.readout(queries, patches, positions)
        grid = (batch, len(query_vectors), rows, columns)
        embedding = F.normalize(self.image_projection(patches.mean(1)), dim=-1)
        return QueryOutput(logits, contributions.view(grid), attention.view(grid), embedding)

    def embed_reports(self, report_vectors: Tensor) -> Tensor:
        """Reports in the joint space, unit norm: float [B, E] to [B, J]."""
        return F.normalize(self.report_projection(report_vectors), dim=-1)

    def fit_standardisation(self, patch_features: Tensor) -> None:
        """Set mean and standard deviation per channel from features [N, Hp, Wp, D] of the training films."""
        flat = patch_features.float().flatten(0, 2)
        self.feature_mean.copy_(flat.mean(0))
        self.feature_std.copy_(flat.std(0, correction=0).clamp_min(1e-3))


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D positions, float [1, rows * columns, width]; half of the channels for y, half for x."""
    quarter = width // 4
    frequencies = torch.exp(torch.arange(quarter) * (-math.log(_POSITION_PERIOD) / max(quarter, 1)))
    y, x = (torch.arange(size)[:, None] * frequencies for size in (rows, columns))
    along_y = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(rows, columns, -1)
    along_x = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(rows, columns, -1)
    return torch.cat([along_y, along_x], dim=-1).reshape(1, rows * columns, 4 * quarter)
