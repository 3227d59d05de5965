"""Knowledge graph interactions as "one query vector against candidates": one matrix product or distance matrix.

Complex vectors are float vectors with real and imaginary part next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatrixForm:
    """An interaction as "one query vector against candidates".

    Attributes:
        query: (anchor, relation) -> query against tails; [B, D] each.
        turned: Relation parameters with which `query` makes the query against heads; None if there are none.
        is_distance: Score is the negative Euclidean distance; otherwise the inner product.
    """

    query: Callable[[Tensor, Tensor], Tensor]
    turned: Callable[[Tensor], Tensor] | None
    is_distance: bool


def complex_pairs(vectors: Tensor) -> Tensor:
    """Float32 vectors [.., D] as (real, imaginary), [.., D/2, 2]."""
    return vectors.float().contiguous().view(*vectors.shape[:-1], -1, 2)


def _complex_product(left: Tensor, right: Tensor) -> Tensor:
    """Product of vectors of complex numbers, real and imaginary part next to each other; [.., D] each."""
    pairs = (torch.view_as_complex(complex_pairs(side)) for side in (left, right))
    return torch.view_as_real(next(pairs) * next(pairs)).flatten(-2)


def _conjugate(vectors: Tensor) -> Tensor:
    return vectors * vectors.new_tensor([1.0, -1.0]).repeat(vectors.shape[-1] // 2)


MATRIX_FORMS: Mapping[str, MatrixForm] = MappingProxyType(
    {
        "transe": MatrixForm(torch.add, torch.neg, is_distance=True),
        "distmult": MatrixForm(torch.mul, lambda relation: relation, is_distance=False),
        "complex": MatrixForm(_complex_product, _conjugate, is_distance=False),
        "rotate": MatrixForm(_complex_product, _conjugate, is_distance=True),
        "tucker": MatrixForm(torch.mul, None, is_distance=False),  # its query needs the core: RelationScorer makes it
    }
)


def tucker_queries(anchors: Tensor, table: Tensor, rows: Tensor, core: Tensor) -> Tensor:
    """Query vectors [B, D] of TuckER: anchors times the matrix that the core makes of their relation.

    Questions of one relation share their matrix, which is a third of the work of a matrix per question (PyKEEN's way).
    """
    relations, where, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    width, dim, longest = table.shape[1], anchors.shape[1], int(counts.max()) if len(rows) else 0
    if len(relations) * (width + longest) >= len(rows) * width:  # hardly anything to share
        pairs = table[rows][:, :, None] * anchors[:, None, :]
        return pairs.flatten(1) @ core.flatten(0, 1)
    matrices = (table[relations] @ core.flatten(1)).view(-1, dim, dim)
    order = torch.argsort(where, stable=True)
    slot = torch.empty_like(where)
    slot[order] = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[where[order]]
    slot += where * longest
    padded = anchors.new_zeros(len(relations) * longest, dim).index_copy(0, slot, anchors)
    return torch.bmm(padded.view(-1, longest, dim), matrices).flatten(0, 1).index_select(0, slot)


def cubed_norm(vectors: Tensor, *, is_complex: bool) -> Tensor:
    """Sum of cubed moduli of vectors [.., D], the N3 regulariser (Lacroix et al. 2018); float [..]."""
    if not is_complex:
        return (vectors.square() * vectors.abs()).sum(-1)
    squares = complex_pairs(vectors).square().sum(-1)
    return (squares * squares.clamp(min=1e-12).sqrt()).sum(-1)  # pow(1.5) takes five times as long
