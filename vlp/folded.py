"""The query network for one list of questions: what no film changes is computed once.

The same function as `QueryNetwork.forward` in evaluation mode, to rounding; a test holds them together. Folded are the
standardisation of the features into the projection, the gains and offsets of every norm into the matrix behind it, the
positions into the keys; all layers' keys and values come from one product, since every layer looks at the same patches;
and the first layer's questions are the same for every film. In bf16 the products of the decoder layers and those with
the patches are rounded, as those of the image tower are; what is added up between them, the weights of the patches, and
what is answered in the end, stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.model import DecoderLayer, QueryNetwork, QueryOutput, sincos_positions


def asker(
    network: nn.Module, query_vectors: Tensor, grid: tuple[int, int], precision: Literal["fp32", "bf16"] = "fp32"
) -> Callable[[Tensor], QueryOutput]:
    """What a network in evaluation mode says of films, for questions that do not change.

    Args:
        network: A `QueryNetwork` is folded unless its queries see each other; any other is asked as it is.
        query_vectors: float [Q, E].
        grid: (Hp, Wp) of the patches.
        precision: Of the products with patches and in the decoder layers of a folded network.

    Returns:
        Patch features float [B, Hp, Wp, D] to a `QueryOutput`.
    """
    if isinstance(network, QueryNetwork) and not network.config.query_self_attention:
        with torch.no_grad():
            return FoldedNetwork(network, query_vectors, grid, precision)
    return partial(_ask, network, query_vectors)


def _ask(network: nn.Module, query_vectors: Tensor, patch_features: Tensor) -> QueryOutput:
    output: QueryOutput = network(patch_features, query_vectors)
    return output


@dataclass(frozen=True)
class _Affine:
    """x @ matrix + offset, in the arithmetic of the matrix."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.offset, x.to(self.matrix.dtype), self.matrix)

    def to(self, dtype: torch.dtype) -> _Affine:
        return _Affine(self.matrix.to(dtype), self.offset.to(dtype))


@dataclass(frozen=True)
class _Layer:
    """A decoder layer: question, output of the attention, and the two products of the feed-forward block."""

    question: _Affine
    attended: _Affine
    wide: _Affine
    narrow: _Affine


class FoldedNetwork:
    """See the module.

    Args:
        network: In evaluation mode, its queries not seeing each other; later changes of its weights are not seen.
        query_vectors: float [Q, E].
        grid: (Hp, Wp) of the patches.
        precision: Of the products with patches and in the decoder layers.
    """

    def __init__(
        self,
        network: QueryNetwork,
        query_vectors: Tensor,
        grid: tuple[int, int],
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.grid, self.heads, self.width = grid, network.config.heads, network.config.width
        projection = network.patch_projection.weight / network.feature_std
        offset = network.patch_projection.bias - projection @ network.feature_mean
        self.project = _Affine(projection.T.contiguous(), offset)
        positions = torch.zeros(grid[0] * grid[1], self.width, device=offset.device)
        if network.config.position_encoding:
            positions = sincos_positions(*grid, self.width)[0].to(offset)
        self.questions = network.query_projection((query_vectors - network.query_mean) / network.query_std)
        layers = [layer for layer in network.layers if isinstance(layer, DecoderLayer)]
        self.layers = [_fold_layer(layer, dtype) for layer in layers]
        parts = [part for layer in layers for part in _fold_memory(layer, positions)]
        self.memory = _Affine(
            torch.cat([part.matrix for part in parts], 1), torch.cat([part.offset for part in parts], 1)
        ).to(dtype)
        self._fold_readers(network, positions)

    def _fold_readers(self, network: QueryNetwork, positions: Tensor) -> None:
        norm, first, _, last = network.context_reader
        last = _as_linear(last)
        assert isinstance(norm, nn.LayerNorm)
        self.context = _behind_norm(norm, _as_linear(first)).to(self.memory.matrix.dtype)
        self.decide = _Affine(last.weight[0], last.bias)
        local = network.local_reader
        asked = local.norm_question(self.questions)
        question = local.question(asked) / math.sqrt(self.width)
        weights = question @ local.patch.weight
        constant = weights @ (local.norm_patch.bias + positions).T + (question @ local.patch.bias)[:, None]
        self.evidence = _Affine(weights * local.norm_patch.weight, constant).to(self.memory.matrix.dtype)
        self.local_bias = local.bias(asked).squeeze(-1)
        self.image_projection = network.image_projection

    def __call__(self, patch_features: Tensor) -> QueryOutput:
        """Shapes as in `QueryNetwork.forward`."""
        batch, width = len(patch_features), self.width
        patches = self.project(patch_features.to(self.questions.dtype).flatten(0, 2)).view(batch, -1, width)
        looked_at = _normed(patches).to(self.evidence.matrix.dtype)
        evidence = torch.baddbmm(
            self.evidence.offset.expand(batch, -1, -1),
            self.evidence.matrix.expand(batch, -1, -1),
            looked_at.transpose(1, 2),
        ).to(patches.dtype)
        attention = evidence.softmax(dim=-1)
        local_logits = self.local_bias + (attention * evidence).sum(-1)
        context = F.gelu(self.context(_normed(self._decode(looked_at).to(self.context.matrix.dtype))))
        logits = (context.float() @ self.decide.matrix + self.decide.offset).view(batch, -1) + local_logits
        embedding = F.normalize(self.image_projection(patches.mean(1)), dim=-1)
        grid = (batch, len(self.questions), *self.grid)
        return QueryOutput(logits, local_logits, attention.view(grid), evidence.view(grid), embedding)

    def _decode(self, looked_at: Tensor) -> Tensor:
        """Decoded queries, [B * Q, W], of normalised patches [B, P, W]."""
        batch, count, width = len(looked_at), len(self.questions), self.width
        matrix, offset = (part.expand(batch, -1, -1) for part in (self.memory.matrix, self.memory.offset))
        dtype = matrix.dtype
        memory = torch.baddbmm(offset, looked_at, matrix)
        by_head = memory.view(batch, -1, 2 * len(self.layers), self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = self.questions
        for number, layer in enumerate(self.layers):
            question = layer.question(_normed(x.to(dtype))).view(-1, count, self.heads, width // self.heads)
            question = question.transpose(1, 2).expand(batch, -1, -1, -1)  # of the first layer: alike for all films
            found = _attend(question, by_head[2 * number], by_head[2 * number + 1])
            looked = layer.attended(found.transpose(1, 2).reshape(-1, width))
            x = (looked.view(-1, count, width) + x.view(-1, count, width)).view(-1, width)  # float32: x is
            x = x + layer.narrow(F.gelu(layer.wide(_normed(x.to(dtype)))))
        decoded: Tensor = x.view(-1, count, width).expand(batch, -1, -1).reshape(-1, width)
        return decoded


def _attend(question: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of scaled questions [B, heads, Q, W / heads] to [B, heads, P, W / heads].

    Two plain products are faster in bf16 on a CPU than the fused kernel, which is faster in float32. Copies cost little
    beside the first product, which is half as fast again on them.
    """
    if question.dtype == torch.float32 or question.device.type != "cpu":
        return F.scaled_dot_product_attention(question, keys, values, scale=1.0)
    return (question.contiguous() @ keys.contiguous().transpose(-1, -2)).softmax(dim=-1) @ values


def _normed(x: Tensor) -> Tensor:
    """A layer norm without its gain and offset."""
    return F.layer_norm(x, x.shape[-1:])


def _as_linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _behind_norm(norm: nn.LayerNorm, linear: nn.Linear) -> _Affine:
    """linear(norm(x)) as a function of `_normed(x)`."""
    return _Affine((linear.weight * norm.weight).T.contiguous(), linear.weight @ norm.bias + linear.bias)


def _fold_layer(layer: DecoderLayer, dtype: torch.dtype) -> _Layer:
    attention = layer.cross_attention
    width = attention.embed_dim
    asking, scale = nn.Linear(width, width), (width // attention.num_heads) ** -0.5
    asking.weight, asking.bias = (
        nn.Parameter(whole[:width] * scale) for whole in (attention.in_proj_weight, attention.in_proj_bias)
    )
    first, _, _, second = (layer.forward_block[row] for row in range(4))
    second = _as_linear(second)
    return _Layer(
        _behind_norm(layer.norm_query, asking).to(dtype),
        _Affine(attention.out_proj.weight.T.contiguous(), attention.out_proj.bias).to(dtype),
        _behind_norm(layer.norm_forward, _as_linear(first)).to(dtype),
        _Affine(second.weight.T.contiguous(), second.bias).to(dtype),
    )


def _fold_memory(layer: DecoderLayer, positions: Tensor) -> tuple[_Affine, _Affine]:
    """Keys and values of normalised patches: the offset, [P, W], holds the positions."""
    norm, attention = layer.norm_patch, layer.cross_attention
    _, key, value = attention.in_proj_weight.chunk(3)
    _, key_bias, value_bias = attention.in_proj_bias.chunk(3)
    keys = _Affine((key * norm.weight).T, (positions + norm.bias) @ key.T + key_bias)
    values = _Affine((value * norm.weight).T, (value @ norm.bias + value_bias).expand(len(positions), -1))
    return keys, values
