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
        graph: Sampled neighbourhood. Its seeds are the candidates of every triple and of every synonym: the ends of
            the triples, sampled negatives, and the concepts of the synonym pairs.
    """

    heads: Tensor
    relations: Tensor
    tails: Tensor
    graph: SampledGraph


class EncoderModel(nn.Module):
    """Text tower, graph tower, relation scorer.

    Args:
        recipe: What to build.
        num_concepts: Number of concepts.
        num_relations: Number of relations, inverses not counted.
    """

    def __init__(self, recipe: EncoderRecipe, num_concepts: int, num_relations: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_concepts, self.num_relations = num_concepts, num_relations
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
        features = _with_live(bank, graph.graph.nodes, text.live_concepts, live)
        vectors = self.concept_vectors(features, graph.graph)
        seeds = graph.graph.nodes[: graph.graph.num_seeds]
        losses["relation"] = self._relation(graph, vectors, seeds, known)
        if self.graph is not None:
            names = torch.cat([left, features[: len(seeds)]])
            owners = torch.cat([text.pair_concepts, seeds])
            losses["alignment"] = multi_positive_contrast(names, vectors, same_concept(owners, seeds), scale)
        return losses, live.detach()

    def concept_vectors(self, text_vectors: Tensor, graph: SampledGraph) -> Tensor:
        """Vectors of a sampled graph's seeds: the text vectors alone if there is no graph tower."""
        if self.graph is None:
            return text_vectors[: graph.num_seeds]
        vectors: Tensor = self.graph(text_vectors, graph)
        return vectors

    def _relation(self, batch: GraphBatch, vectors: Tensor, seeds: Tensor, known: Tensor) -> Tensor:
        """Every triple against all seeds, as tails and as heads; other known facts are no negatives."""
        sizes = (self.num_concepts, self.num_relations)
        heads, relations, tails = batch.heads, batch.relations, batch.tails
        tail_scores = self.scorer.score_tails(vectors[heads], relations, vectors)
        head_scores = self.scorer.score_heads(vectors[tails], relations, vectors)
        columns = seeds[None, :]
        true_tails = relation_truth_mask(known, seeds[heads][:, None], relations[:, None], columns, sizes)
        true_heads = relation_truth_mask(known, columns, relations[:, None], seeds[tails][:, None], sizes)
        tail_loss: Tensor = self.relation_loss(tail_scores, tails, ~true_tails)
        head_loss: Tensor = self.relation_loss(head_scores, heads, ~true_heads)
        return (tail_loss + head_loss) / 2


def _with_live(bank: Tensor, nodes: Tensor, live_rows: Tensor, live: Tensor) -> Tensor:
    """Text vectors of some nodes: from the bank, but with gradients for those read in this step; [m, dim]."""
    place = torch.full((len(bank),), -1, dtype=torch.int64)
    place[nodes] = torch.arange(len(nodes))
    return bank[nodes].index_copy(0, place[live_rows], live)


def all_concept_vectors(model: EncoderModel, bank: Tensor, sampler: NeighbourSampler, seed: int) -> Tensor:
    """Vectors of all concepts, float32 [N, dim], in blocks; neighbours are drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    with torch.no_grad():
        for seeds in torch.split(torch.arange(len(bank)), 2048):
            graph = sampler.sample(seeds, model.recipe.graph.fanouts, generator)
            blocks.append(model.concept_vectors(bank[graph.nodes], graph))
    return torch.cat(blocks)
