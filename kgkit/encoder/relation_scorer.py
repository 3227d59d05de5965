"""The relation objective: PyKEEN's interactions and losses on the towers' vectors.

For four interactions, scoring one query against many candidates is written as a matrix product or a distance matrix
instead of PyKEEN's broadcast of [B, N, D]; a test holds that both give the same scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from pykeen.losses import loss_resolver
from pykeen.nn.modules import Interaction, interaction_resolver
from torch import Tensor, nn

from kgkit.errors import InputError, choices


@dataclass(frozen=True)
class MatrixForm:
    """An interaction as "one query vector against candidates".

    Attributes:
        tail_query: (head, relation) -> query against tails; [B, D] each.
        head_query: (tail, relation) -> query against heads.
        is_distance: Score is the negative Euclidean distance; otherwise the inner product.
        start: Value of a relation's parameters at which the score is a function of head and tail alone.
    """

    tail_query: Callable[[Tensor, Tensor], Tensor]
    head_query: Callable[[Tensor, Tensor], Tensor]
    is_distance: bool
    start: float


MATRIX_FORMS = MappingProxyType(
    {
        "distmult": MatrixForm(lambda h, r: h * r, lambda t, r: t * r, is_distance=False, start=1.0),
        "complex": MatrixForm(lambda h, r: h * r, lambda t, r: t * r.conj(), is_distance=False, start=1.0),
        "transe": MatrixForm(lambda h, r: h + r, lambda t, r: t - r, is_distance=True, start=0.0),
        "rotate": MatrixForm(lambda h, r: h * r, lambda t, r: t * r.conj(), is_distance=True, start=1.0),
    }
)


class RelationScorer(nn.Module):
    """Scores (head, relation, tail) from concept vectors and learnt relation parameters.

    Args:
        interaction: PyKEEN's name.
        dim: Length of the concept vectors; complex interactions read them as dim/2 complex numbers.
        num_relations: Number of relations.

    Raises:
        InputError: for an interaction that is unknown or does not fit.
    """

    def __init__(self, interaction: str, dim: int, num_relations: int) -> None:
        super().__init__()
        form = MATRIX_FORMS.get(interaction)
        if form is None:
            raise InputError(
                f"recipe key 'objectives.interaction' is {interaction!r}; {choices(interaction, MATRIX_FORMS)}"
            )
        self.name, self.form = interaction, form
        self.is_complex = interaction in ("complex", "rotate")
        if self.is_complex and dim % 2:
            problem = f"{interaction!r} needs an even number of dimensions, the text tower gives {dim}"
            raise InputError(f"recipe key 'objectives.interaction': {problem}")
        width = dim // 2 if self.is_complex else dim
        shape = (num_relations, width, 2) if self.is_complex and interaction == "complex" else (num_relations, width)
        start = torch.zeros(shape)
        if interaction == "complex":
            start[..., 0] = form.start
        elif interaction == "distmult":
            start += form.start
        self.weight = nn.Parameter(start)  # for rotate: phases, so that the modulus stays 1

    def pykeen_interaction(self) -> Interaction:
        """The PyKEEN module whose scores these are."""
        return interaction_resolver.make(self.name, {"p": 2} if self.name == "transe" else None)

    def relation_vectors(self, relations: Tensor) -> Tensor:
        """Parameters of relations as PyKEEN's interaction takes them: [B, D], complex where it is complex."""
        rows = self.weight[relations]
        if self.name == "rotate":
            return torch.polar(torch.ones_like(rows), rows)
        return torch.view_as_complex(rows.contiguous()) if self.name == "complex" else rows

    def entity_vectors(self, vectors: Tensor) -> Tensor:
        """Concept vectors as PyKEEN's interaction takes them: complex [.., D/2] where it is complex."""
        if not self.is_complex:
            return vectors
        return torch.view_as_complex(vectors.float().reshape(*vectors.shape[:-1], -1, 2).contiguous())

    def score_tails(self, heads: Tensor, relations: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, N] of candidate tails [N, D] for heads [B, D] and relation ids [B]."""
        query = self.form.tail_query(self.entity_vectors(heads), self.relation_vectors(relations))
        return self._score(query, self.entity_vectors(candidates))

    def score_heads(self, tails: Tensor, relations: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, N] of candidate heads [N, D] for tails [B, D] and relation ids [B]."""
        query = self.form.head_query(self.entity_vectors(tails), self.relation_vectors(relations))
        return self._score(query, self.entity_vectors(candidates))

    def _score(self, query: Tensor, candidates: Tensor) -> Tensor:
        if self.is_complex:
            query, candidates = torch.view_as_real(query).flatten(-2), torch.view_as_real(candidates).flatten(-2)
        if not self.form.is_distance:
            return query @ candidates.T
        squared = query.square().sum(-1, keepdim=True) + candidates.square().sum(-1) - 2 * query @ candidates.T
        return -squared.clamp(min=1e-12).sqrt()


class RelationLoss(nn.Module):
    """One of PyKEEN's losses on a positive score against a row of candidates.

    Args:
        loss: PyKEEN's name.

    Raises:
        InputError: for an unknown loss.
    """

    def __init__(self, loss: str) -> None:
        super().__init__()
        if loss not in loss_resolver.lookup_dict:
            raise InputError(f"recipe key 'objectives.loss' is {loss!r}; {choices(loss, loss_resolver.lookup_dict)}")
        self.loss = loss_resolver.make(loss)

    def forward(self, scores: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            scores: float [B, N], all candidates.
            positive: int64 [B], column of the right one.
            allowed: bool [B, N], candidates that count as negatives: not the right one and not another known truth.
        """
        positive_scores = scores.gather(1, positive[:, None])
        result: Tensor = self.loss.process_slcwa_scores(
            positive_scores=positive_scores, negative_scores=scores[allowed], batch_filter=allowed
        )
        return result
