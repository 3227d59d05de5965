"""Plain image-report contrast: the baseline without queries.

ConVIRT (Zhang et al., 2020) and CLIP (Radford et al., 2021), with a frozen text encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.config import ModelConfig
from vlp.model import QueryOutput, channel_moments

_FIRST_SCALE, _MAX_SCALE = 1 / 0.07, 100.0


class ContrastNetwork(nn.Module):
    """Patches and reports projected into one space; a query is answered by its cosine with the film.

    Args:
        feature_dim: D, channels of the patch features.
        query_dim: E, dimension of the text vectors.
        config: `joint_dim` and `dropout`; the others do not apply.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, feature_dim: int, query_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.image_projection = _two_layers(feature_dim, config)
        self.report_projection = _two_layers(query_dim, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def forward(self, patch_features: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Ask every query of every film; shapes as in `QueryNetwork.forward`.

        The evidence of a patch is its own cosine with the query, and the map is its softmax at the learned scale.
        """
        batch, rows, columns, _ = patch_features.shape
        features = (patch_features.to(self.feature_mean.dtype) - self.feature_mean) / self.feature_std
        patches = self.image_projection(features.flatten(1, 2))
        embedding = F.normalize(patches.mean(1), dim=-1)
        questions = self.embed_reports(query_vectors)
        logits = embedding @ questions.T * self.scale
        evidence = questions @ F.normalize(patches, dim=-1).transpose(1, 2)
        attention = (evidence * self.scale).softmax(-1)
        grid = (batch, len(query_vectors), rows, columns)
        return QueryOutput(logits, logits, attention.view(grid), evidence.reshape(grid), embedding)

    @property
    def scale(self) -> Tensor:
        """Learned logit scale, at most 100."""
        return self.log_scale.exp().clamp_max(_MAX_SCALE)

    def embed_reports(self, report_vectors: Tensor) -> Tensor:
        """Reports, or queries, in the joint space, unit norm: float [B, E] to [B, J]."""
        return F.normalize(self.report_projection(report_vectors), dim=-1)

    def fit_standardisation(self, patch_features: Iterable[Tensor], query_vectors: Tensor) -> None:
        """Set the mean and deviation of each channel of patch features, [n, Hp, Wp, D] at a time."""
        mean, std = channel_moments(patch_features)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std)


def _two_layers(inputs: int, config: ModelConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, config.joint_dim),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.joint_dim, config.joint_dim),
    )
