"""The two towers and the relation scorer as one module, with one training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.graph_tower import GraphTower
from kgkit.encoder.objectives import multi_positive_contrast, relation_truth_mask, same_concept
from kgkit.encoder.relation_scorer import RelationLoss, RelationScorer
from kgkit.encoder.sampler import NeighbourSampler, SampledGraph
from kgkit.encoder.text_tower import TextTower

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True)
class TextBatch:
    """Names and definitions of one step.

    Attributes:
        names: Tokens of, in this order: the left names of the synonym pairs, their right names, the names of the
            defined concepts, the preferred names of the live concepts.
        pair_concepts: int64 [P], concept row of each synonym pair.
        definitions: Tokens of the definitions.
        definition_concepts: int64 [D].
        live_concepts: int64 [L], distinct rows whose preferred name is read anew.
    """

    names: Tokens
    pair_concepts: Tensor
    definitions: Tokens
    definition_concepts: Tensor
    live_concepts: Tensor


@dataclass(frozen=True)
class GraphBatch:
    """Triples of one step and the neighbourhood of all their concepts.

    Attributes:
        heads: int64 [E], positions among the graph's seeds.
        relations: int64 [E].
        tails: int64 [E], positions among the seeds.
        graph: Sampled neighbourhood; its seeds are the candidates of every triple.
    """

    heads: Tensor
    relations: Tensor
    tails: Tensor
    graph: SampledGraph


class EncoderModel(nn.Module):
    """Text tower, graph tower, relation scorer.

    Args:
        recipe: What to build.
        num_relations: Number of relations, inverses not counted.
    """

    def __init__(self, recipe: EncoderRecipe, num_relations: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.text = TextTower(recipe.text)
        dim = self.text.dim
        self.graph = GraphTower(recipe.graph, dim, num_relations) if recipe.graph.family != "none" else None
        self.scorer = RelationScorer(recipe.objectives.interaction, dim, num_relations)
        self.relation_loss = RelationLoss(recipe.objectives.loss)

    def forward(
        self,
        text: TextBatch,
        graph: GraphBatch,
        bank: Tensor,
        known: Tensor,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of one step.

        Args:
            text: The step's texts.
            graph: The step's triples.
            bank: float32 [N, dim], the last known text vector of every concept's preferred name.
            known: int64 [n], sorted keys of the training facts.
            autocast: Context in which the transformer runs.

        Returns:
            Loss per objective (unweighted), and the live concepts' new text vectors, float32 [L, dim].
        """
        with autocast():
            name_vectors = self.text.embed_tokens(text.names).float()
            definition_vectors = self.text.embed_tokens(text.definitions).float()
        num_pairs, num_defined = len(text.pair_concepts), len(text.definition_concepts)
        left, right, defined, live = torch.split(
            name_vectors, [num_pairs, num_pairs, num_defined, len(text.live_concepts)]
        )
        scale = self.recipe.objectives.logit_scale
        losses = {}
        if num_pairs:
            positive = same_concept(text.pair_concepts, text.pair_concepts)
            losses["synonym"] = multi_positive_contrast(left, right, positive, scale)
        if num_defined:
            positive = same_concept(text.definition_concepts, text.definition_concepts)
            losses["definition"] = multi_positive_contrast(defined, definition_vectors, positive, scale)
        losses |= self._graph_losses(graph, bank, text.live_concepts, live, known)
        return losses, live.detach()

    def concept_vectors(self, text_vectors: Tensor, graph: SampledGraph) -> Tensor:
        """Vectors of a sampled graph's seeds: the text vectors alone if there is no graph tower."""
        if self.graph is None:
            return text_vectors[: graph.num_seeds]
        vectors: Tensor = self.graph(text_vectors, graph)
        return vectors

    def _graph_losses(
        self, batch: GraphBatch, bank: Tensor, live_rows: Tensor, live: Tensor, known: Tensor
    ) -> dict[str, Tensor]:
        nodes = batch.graph.nodes
        place = torch.full((len(bank),), -1, dtype=torch.int64)
        place[nodes] = torch.arange(len(nodes))
        inside = place[live_rows] >= 0
        features = bank[nodes].index_copy(0, place[live_rows][inside], live[inside])
        seeds = nodes[: batch.graph.num_seeds]
        vectors = self.concept_vectors(features, batch.graph)
        sizes = (len(bank), self.scorer.weight.shape[0])
        heads, relations, tails = batch.heads, batch.relations, batch.tails
        tail_scores = self.scorer.score_tails(vectors[heads], relations, vectors)
        head_scores = self.scorer.score_heads(vectors[tails], relations, vectors)
        columns = seeds[None, :]
        true_tails = relation_truth_mask(known, seeds[heads][:, None], relations[:, None], columns, sizes)
        true_heads = relation_truth_mask(known, columns, relations[:, None], seeds[tails][:, None], sizes)
        relation = self.relation_loss(tail_scores, tails, ~true_tails) + self.relation_loss(
            head_scores, heads, ~true_heads
        )
        losses = {"relation": relation / 2}
        if self.graph is not None:
            own = torch.eye(len(seeds), dtype=torch.bool)
            scale = self.recipe.objectives.logit_scale
            losses["alignment"] = multi_positive_contrast(vectors, features[: len(seeds)], own, scale)
        return losses


def all_concept_vectors(model: EncoderModel, bank: Tensor, sampler: NeighbourSampler, seed: int) -> Tensor:
    """Vectors of all concepts, float32 [N, dim], in blocks; neighbours are drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    with torch.no_grad():
        for seeds in torch.split(torch.arange(len(bank)), 2048):
            graph = sampler.sample(seeds, model.recipe.graph.fanouts, generator)
            blocks.append(model.concept_vectors(bank[graph.nodes], graph))
    return torch.cat(blocks)
