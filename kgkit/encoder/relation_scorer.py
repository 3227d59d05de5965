"""The relation objective: PyKEEN's interactions and losses on concept vectors.

For five interactions, scoring one query against many candidates is written as one matrix product or one distance
matrix instead of PyKEEN's broadcast of [B, N, D]; a test holds that both give the same scores. Any other interaction
whose concepts are one vector each runs through PyKEEN's own module.

A *directed* relation is a relation id from 0 to 2R - 1: below R it asks for tails of a head, from R on (relation + R)
for heads of a tail.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection
from typing import Any

import torch
from pykeen.losses import CrossEntropyLoss, loss_resolver
from pykeen.nn.modules import Interaction, interaction_resolver
from pykeen.sampling import NegativeSampler, negative_sampler_resolver
from torch import Tensor, nn
from torch.nn import functional as F

from kgkit.encoder.config import RelationConfig
from kgkit.encoder.matrix_forms import MATRIX_FORMS, complex_pairs, cubed_norm, tucker_queries
from kgkit.errors import InputError, choices

_BLOCK = 1 << 26
"""Numbers in a broadcast of PyKEEN's own modules; beyond, candidates are scored in blocks."""


class RelationScorer(nn.Module):
    """Scores (head, relation, tail) from concept vectors and learnt relation parameters.

    Before training all relations are alike, so that a score is a function of head and tail alone; `start_concepts`
    draws them as PyKEEN does, for concept vectors that are drawn too.

    Attributes:
        weight: Relation parameters, [rows, ..]: the vector; complex numbers with real and imaginary part next to each
            other (complex); phases, so that the modulus stays 1 (rotate). None for PyKEEN's own modules.
        core: float [relation_dim, D, D] of TuckER (PyKEEN has its first two axes the other way round), else None.

    Args:
        config: Interaction (PyKEEN's name), dropout, whether heads have relation parameters of their own.
        dim: Length of the concept vectors; complex interactions read them as dim/2 complex numbers.
        num_relations: Number of relations R; with `config.inverses` there are 2R rows of parameters.

    Raises:
        InputError: for an interaction that is unknown or does not fit.
    """

    def __init__(self, config: RelationConfig, dim: int, num_relations: int) -> None:
        super().__init__()
        self.config, self.name, self.dim, self.num_relations = config, config.interaction, dim, num_relations
        self.form = MATRIX_FORMS.get(self.name)
        self.num_rows = 2 * num_relations if config.inverses else num_relations
        self.is_complex = self.name in ("complex", "rotate")
        if self.is_complex and dim % 2:
            problem = f"{self.name!r} needs an even number of dimensions, the concept vectors have {dim}"
            raise InputError(f"recipe key 'relation.interaction': {problem}")
        self.weight: nn.Parameter | None = None
        self.core: nn.Parameter | None = None
        self.module: Interaction | None = None
        self.parts = nn.ParameterList()
        if self.form is None:
            self.module = self.pykeen_interaction()
            self.module.reset_parameters()  # some of PyKEEN's modules leave their memory as it was found
            shapes = [_shape(symbols, config, dim) for symbols in self.module.relation_shape]
            # One row for all relations, so that none is told from another by chance.
            self.parts.extend(
                _xavier(torch.empty(1, *shape)).repeat(self.num_rows, *[1] * len(shape)) for shape in shapes
            )
        else:
            self.weight = nn.Parameter(self._alike())
        if self.name == "tucker":
            scale = 0.1 / math.sqrt(dim * config.relation_dim)
            even = torch.eye(dim) / config.relation_dim  # with relation vectors of ones: the inner product
            self.core = nn.Parameter(even + scale * torch.randn(config.relation_dim, dim, dim))

    def _alike(self) -> Tensor:
        width = {"rotate": self.dim // 2, "tucker": self.config.relation_dim}.get(self.name, self.dim)
        rows = torch.zeros(self.num_rows, width)
        if self.name in ("distmult", "tucker"):
            rows.fill_(1.0)
        elif self.name == "complex":
            rows[:, ::2] = 1.0
        return rows

    @torch.no_grad()
    def start_concepts(self, weight: Tensor) -> None:
        """Draw initial values for free concept vectors, and for the relations with them, as PyKEEN's models do.

        Where PyKEEN's default is known to train badly in a short run (ComplEx: unit normal), Xavier's is taken.

        Args:
            weight: float32 [N, dim], filled in place.
        """
        nn.init.normal_(weight, std=math.sqrt(2 / self.dim)) if self.name == "tucker" else _xavier(weight)
        for part in self.parts:
            _xavier(part)
        if self.weight is None:
            return
        if self.name == "rotate":
            self.weight.uniform_(0, 2 * math.pi)
        elif self.name in ("distmult", "tucker"):
            self.weight.normal_(std=math.sqrt(2 / self.weight.shape[1]))
            if self.name == "distmult":
                self.weight.copy_(F.normalize(self.weight))
        else:
            _xavier(self.weight)
        if self.core is not None:
            self.core.uniform_(-1, 1)

    def pykeen_interaction(self) -> Interaction:
        """The PyKEEN module whose scores these are.

        Raises:
            InputError: if there is none of this name, or its concepts are not one vector each.
        """
        _require_fitting(self.name)
        wanted = inspect.signature(interaction_resolver.lookup(self.name).__init__).parameters
        values: dict[str, Any] = {"embedding_dim": self.dim, "input_dim": self.dim}
        if self.name == "tucker":
            none = dict.fromkeys(("head_dropout", "relation_dropout", "head_relation_dropout"), 0.0)
            values |= none | {"relation_dim": self.config.relation_dim, "apply_batch_normalization": False}
        if "p" in wanted and wanted["p"].default is inspect.Parameter.empty:
            values["p"] = 2
        try:
            return interaction_resolver.make(self.name, {key: values[key] for key in values if key in wanted})
        except (ValueError, AssertionError) as error:
            problem = f"{self.name!r} does not fit vectors of {self.dim} numbers ({error})"
            raise InputError(f"recipe key 'relation.interaction': {problem}") from error

    def relation_rows(self, rows: Tensor) -> Any:
        """Parameters of some rows as PyKEEN's interaction takes them: complex, or several, where it wants them so."""
        if self.weight is None:
            parts = tuple(part[rows] for part in self.parts)
            return parts[0] if len(parts) == 1 else parts
        chosen = self._vectors()[rows]
        return torch.view_as_complex(complex_pairs(chosen)) if self.is_complex else chosen

    def concept_rows(self, vectors: Tensor) -> Tensor:
        """Concept vectors as PyKEEN's interaction takes them: complex [.., D/2] where it is complex."""
        if not self.is_complex:
            return vectors
        return torch.view_as_complex(complex_pairs(vectors))

    def score_tails(self, heads: Tensor, relations: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidate tails.

        Args:
            heads: float [B, D].
            relations: int64 [B], 0 to R - 1.
            candidates: float [N, D], the same for every query, or [B, K, D], those of each query.

        Returns:
            float [B, N] or [B, K].
        """
        return self._score(heads, relations, candidates, turned=False)

    def score_heads(self, tails: Tensor, relations: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidate heads; see `score_tails`."""
        return self._score(tails, relations, candidates, turned=True)

    def score_triples(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """Scores [B] of triples, vectors [B, D] and relation ids [B]."""
        return self.score_tails(heads, relations, tails[:, None]).squeeze(1)

    def score_directed(self, anchors: Tensor, directed: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates for queries of both directions.

        Args:
            anchors: float [B, D], heads where tails are asked for and the other way round.
            directed: int64 [B], directed relations, 0 to 2R - 1.
            candidates: As in `score_tails`.
        """
        if self.form is not None and (self.config.inverses or self.form.turned is not None):
            return self._against(self._queries(anchors, self._directed_vectors(), directed), candidates)
        relations, asks_heads = directed % self.num_relations, directed >= self.num_relations
        by_tail = self.score_tails(anchors, relations, candidates)
        return torch.where(asks_heads[:, None], self.score_heads(anchors, relations, candidates), by_tail)

    def score_both(
        self, anchors: Tensor, directed: Tensor, targets: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores of one right answer per question, [B, 1], and of shared candidates, [B, N], from one query each.

        Args:
            anchors: float [B, D].
            directed: int64 [B].
            targets: float [B, D].
            candidates: float [N, D].
        """
        if self.form is not None and (self.config.inverses or self.form.turned is not None):
            queries = self._queries(anchors, self._directed_vectors(), directed)
            return self._against(queries, targets[:, None]), self._against(queries, candidates)
        right = self.score_directed(anchors, directed, targets[:, None])
        return right, self.score_directed(anchors, directed, candidates)

    def relation_norms(self, directed: Tensor) -> Tensor:
        """Sum of cubed moduli [B] of directed relations' parameters; see `cubed_norm`."""
        if self.weight is None or self.name == "rotate":
            return torch.zeros(len(directed), device=directed.device)
        rows = F.embedding(directed % self.num_rows, self.weight)
        return cubed_norm(rows, is_complex=self.is_complex)

    def _score(self, anchors: Tensor, relations: Tensor, candidates: Tensor, *, turned: bool) -> Tensor:
        if turned and self.config.inverses:
            relations, turned = relations + self.num_relations, False
        if self.form is None:
            return self._by_module(anchors, relations, candidates, turned=turned)
        table = self._vectors()
        if turned and self.form.turned is not None:
            table, turned = self.form.turned(table), False
        return self._against(self._queries(anchors, table, relations, turned=turned), candidates)

    def _vectors(self) -> Tensor:
        """Relation parameters as vectors, [rows, ..]."""
        assert self.weight is not None
        if self.name != "rotate":
            return self.weight
        return torch.stack([self.weight.cos(), self.weight.sin()], dim=-1).flatten(-2)

    def _directed_vectors(self) -> Tensor:
        table = self._vectors()
        if self.config.inverses or self.form is None or self.form.turned is None:
            return table
        return torch.cat([table, self.form.turned(table)])

    def _queries(self, anchors: Tensor, table: Tensor, rows: Tensor, *, turned: bool = False) -> Tensor:
        """Query vectors [B, D]; `turned` is for TuckER alone, whose core has two sides."""
        assert self.form is not None
        if self.config.input_dropout and self.training:
            anchors = F.dropout(anchors, self.config.input_dropout)
        if self.core is None:
            queries = self.form.query(anchors, F.embedding(rows, table))
        else:
            queries = tucker_queries(anchors, table, rows, self.core.transpose(1, 2) if turned else self.core)
        if self.config.dropout and self.training:
            queries = F.dropout(queries, self.config.dropout)
        return queries

    def _against(self, queries: Tensor, candidates: Tensor) -> Tensor:
        assert self.form is not None
        if candidates.dim() == 3:
            if self.form.is_distance:
                distances: Tensor = torch.linalg.vector_norm(queries[:, None] - candidates, dim=-1)
                return -distances
            return torch.bmm(candidates, queries[:, :, None]).squeeze(2)
        if self.form.is_distance:  # by |q|^2 + |c|^2 - 2 q.c, with gradient 0 where the distance is 0
            return -torch.cdist(queries, candidates, compute_mode="use_mm_for_euclid_dist")
        return queries @ candidates.T

    def _by_module(self, anchors: Tensor, rows: Tensor, candidates: Tensor, *, turned: bool) -> Tensor:
        assert self.module is not None
        shared = candidates.dim() == 2
        block = max(1, _BLOCK // (len(anchors) * self.dim))
        relation = self.relation_rows(rows[:, None])
        scores = []
        for part in torch.split(candidates, block, dim=candidates.dim() - 2):
            one, other = anchors[:, None], part[None] if shared else part
            scores.append(self.module(other, relation, one) if turned else self.module(one, relation, other))
        return torch.cat(scores, dim=1)


def _fitting_interactions() -> list[str]:
    """PyKEEN's interactions that can be made from one vector per concept and our recipe."""
    fitting = []
    for name, kind in interaction_resolver.lookup_dict.items():
        settings = list(inspect.signature(kind.__init__).parameters.values())[1:]
        needed = {one.name for one in settings if (one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)
                  or (one.default is one.empty and one.kind is one.KEYWORD_ONLY)}  # fmt: skip
        if kind.entity_shape == ("d",) and needed <= {"p", "embedding_dim"}:
            fitting.append(name)
    return sorted(fitting)


_SLICES = 4
"""Of the neural tensor network, PyKEEN's own number."""


def require_known_parts(config: RelationConfig) -> None:
    """Refuse a recipe whose interaction, loss or sampler PyKEEN does not have, before any work is done for it.

    Raises:
        InputError: with the names that would do.
    """
    _require_fitting(config.interaction)
    _require_known("loss", config.loss, loss_resolver.lookup_dict)
    _require_known("sampler", config.sampler, negative_sampler_resolver.lookup_dict)


def _require_fitting(interaction: str) -> None:
    known = _fitting_interactions()
    if interaction not in known:
        problem = f"recipe key 'relation.interaction' is {interaction!r}, expected one whose concepts are one vector"
        raise InputError(f"{problem}; {choices(interaction, known)}")


def _require_known(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise InputError(f"recipe key 'relation.{key}' is {name!r}; {choices(name, known)}")


def _shape(symbols: str, config: RelationConfig, dim: int) -> tuple[int, ...]:
    """A relation parameter's shape from PyKEEN's letters."""
    return tuple({"d": dim, "e": config.relation_dim, "k": _SLICES}[letter] for letter in symbols)


def _xavier(tensor: Tensor) -> Tensor:
    """Uniform up to the square root of 6 / (numbers per row), in place; Glorot & Bengio 2010 with fan-in 0 (PyKEEN)."""
    bound = math.sqrt(6 / max(1, tensor[0].numel()))
    return nn.init.uniform_(tensor, -bound, bound)


class RelationLoss(nn.Module):
    """One of PyKEEN's losses on scores of right and wrong candidates.

    Attributes:
        wants_shares: Labels over all concepts are to sum to one per row, so that they need not be divided every time.

    Args:
        loss: PyKEEN's name.

    Raises:
        InputError: for an unknown loss.
    """

    def __init__(self, loss: str) -> None:
        super().__init__()
        _require_known("loss", loss, loss_resolver.lookup_dict)
        self.loss = loss_resolver.make(loss)
        self.wants_shares = type(self.loss) is CrossEntropyLoss

    def forward(self, scores: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            scores: float [B, N], all candidates.
            positive: int64 [B], column of the right one.
            allowed: bool [B, N], candidates that count as negatives: not the right one and not another known truth.
        """
        return self.against_sampled(scores.gather(1, positive[:, None]), scores, allowed)

    def against_sampled(self, positive: Tensor, negative: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Loss of right candidates against sampled ones (PyKEEN's sLCWA).

        Args:
            positive: float [B, 1], scores.
            negative: float [B, K], scores.
            allowed: bool [B, K], candidates that count; None: all.
        """
        if allowed is not None and isinstance(self.loss, CrossEntropyLoss):  # as PyKEEN does it, without taking apart
            negative, allowed = negative.masked_fill(~allowed, -math.inf), None
        result: Tensor = self.loss.process_slcwa_scores(
            positive_scores=positive,
            negative_scores=negative if allowed is None else negative[allowed],
            batch_filter=allowed,
        )
        return result

    def against_all(self, scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """Loss over every concept (PyKEEN's LCWA).

        Args:
            scores: float [B, N].
            labels: float [B, N], 1 for every known truth; divided by their number if `wants_shares`.
            label_smoothing: Share of the label that goes to all candidates.
        """
        if self.wants_shares and label_smoothing:
            return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
        if self.wants_shares:  # the same in fewer passes over [B, N]
            return -torch.dot(scores.log_softmax(dim=1).flatten(), labels.flatten()) / len(scores)
        result: Tensor = self.loss.process_lcwa_scores(
            predictions=scores, labels=labels, label_smoothing=label_smoothing or None, num_entities=scores.shape[1]
        )
        return result


def negative_sampler(config: RelationConfig, triples: Tensor, sizes: tuple[int, int]) -> NegativeSampler:
    """PyKEEN's sampler of `config.negatives` corrupted triples per triple; `corrupt_batch` draws from torch's seed.

    Args:
        config: The name.
        triples: int64 [n, 3], training triples.
        sizes: (number of concepts, number of relations).

    Raises:
        InputError: for an unknown sampler.
    """
    _require_known("sampler", config.sampler, negative_sampler_resolver.lookup_dict)
    settings = {"mapped_triples": triples, "num_entities": sizes[0], "num_relations": sizes[1]}
    return negative_sampler_resolver.make(config.sampler, settings | {"num_negs_per_pos": config.negatives})
