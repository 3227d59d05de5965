"""KAD's network, as its released code builds it: the baseline that the default has to beat.

Zhang et al., Nature Communications 14:4542, 2023. The layers are those of the code: a two-layer image projection, no
positions, decoder layers with self-attention among the queries, one LayerNorm shared by tokens, queries and output, a
two-way softmax. What it costs is known: a score depends on what else is asked.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.config import ModelConfig
from vlp.model import QueryOutput

_INITIAL_STD = 0.02


class KadNetwork(nn.Module):
    """Disease Query Network of KAD.

    Args:
        feature_dim: D, channels of the patch features.
        query_dim: E, dimension of the vectors of the text encoder.
        config: `width`, `heads`, `layers`, `feedforward`, `dropout`; the other switches do not apply.
    """

    def __init__(self, feature_dim: int, query_dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_projection = nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, width)
        )
        # KAD's text encoder is as wide as its network and needs none.
        self.text_projection: nn.Module = nn.Identity() if query_dim == width else nn.Linear(query_dim, width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, config.heads, config.feedforward, config.dropout, "relu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
                nn.init.zeros_(module.bias)

    def forward(self, patch_features: Tensor, query_vectors: Tensor) -> QueryOutput:
        """Ask every query of every film; shapes as in `QueryNetwork.forward`.

        The map is the attention of the last layer, mean of its heads. There is no local reader: `local_logits` are the
        logits, `evidence` is the attention, and `embedding` is the mean of the projected patches, not normalised.
        """
        batch, rows, columns, _ = patch_features.shape
        tokens = self.patch_projection(patch_features.to(self.norm.weight.dtype).flatten(1, 2))
        logits, attention = self.decode(tokens, self.text_projection(query_vectors))
        attention = attention.view(batch, len(query_vectors), rows, columns)
        return QueryOutput(logits, logits, attention, attention, tokens.mean(1))

    def ask_text(self, text_vectors: Tensor, query_vectors: Tensor) -> Tensor:
        """The same questions to the one token of each report's entity text: [B, E] and [Q, E] to logits [B, Q]."""
        memory = self.text_projection(text_vectors)[:, None]
        return self.decode(memory, self.text_projection(query_vectors))[0]

    def decode(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, Q] and attention [B, Q, P] of queries [Q, W] over tokens [B, P, W].

        The logit is the difference of the two outputs, so that its sigmoid is the softmax.
        """
        memory = self.norm(tokens)
        x = self.norm(queries).expand(tokens.shape[0], -1, -1)  # len() would fix the batch in an export
        for layer in self.layers[:-1]:
            x = layer(x, memory)
        x, attention = _last_layer(self.layers[-1], x, memory)
        two = self.classifier(self.dropout(self.norm(x)))
        return two[..., 1] - two[..., 0], attention

    def embed_reports(self, report_vectors: Tensor) -> Tensor:
        """Entity texts in the space of `embedding`, not normalised: float [B, E] to [B, W]."""
        projected: Tensor = self.text_projection(report_vectors)
        return projected

    def fit_standardisation(self, patch_features: Iterable[Tensor], query_vectors: Tensor) -> None:
        """KAD standardises nothing."""


def kad_contrast(images: Tensor, texts: Tensor, scale: float | Tensor) -> Tensor:
    """KAD's contrast: symmetric InfoNCE of vectors that are not normalised, at a fixed scale.

    Its code takes ln(1 / 0.07) = 2.66 for the scale itself, anew at every step.

    Args:
        images: float [B, W].
        texts: float [B, W].
        scale: Of the logits.
    """
    logits = images @ texts.T * scale
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _last_layer(layer: nn.Module, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """What `layer(x, memory)` gives, and the weights of its cross-attention, which it does not return."""
    assert isinstance(layer, nn.TransformerDecoderLayer)
    y = layer.norm1(x)
    x = x + layer.dropout1(layer.self_attn(y, y, y, need_weights=False)[0])
    looked, attention = layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=True)
    x = x + layer.dropout2(looked)
    y = layer.linear2(layer.dropout(layer.activation(layer.linear1(layer.norm3(x)))))
    return x + layer.dropout3(y), attention
