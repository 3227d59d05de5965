"""The two towers, the free concept vectors and the relation scorer as one module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.graph_tower import GraphTower
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.encoder.sampler import NeighbourSampler, SampledGraph
from kgkit.encoder.text_tower import TextTower

_BLOCK = 2048


class EncoderModel(nn.Module):
    """Whatever of the parts a recipe asks for.

    Attributes:
        text: The text tower; None for free vectors.
        concepts: Free vectors, one per concept; None with a text tower.
        graph: The graph tower; None if the concept vector is the text vector.
        scorer: Scores (head, relation, tail).
        log_scale: Natural logarithm of the contrasts' inverse temperature; a parameter if it is learnt.

    Args:
        recipe: What to build.
        num_concepts: Number of concepts.
        num_relations: Number of relations, inverses not counted.
    """

    def __init__(self, recipe: EncoderRecipe, num_concepts: int, num_relations: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_concepts, self.num_relations = num_concepts, num_relations
        self.text = TextTower(recipe.text) if recipe.text.model != "none" else None
        dim = self.text.dim if self.text is not None else recipe.relation.concept_dim
        is_sparse = recipe.relation.sampling == "shared"  # a step touches few rows; see relation_scorer.py
        self.concepts = None if self.text is not None else nn.Embedding(num_concepts, dim, sparse=is_sparse)
        self.graph = GraphTower(recipe.graph, dim, num_relations) if recipe.graph.family != "none" else None
        self.scorer = RelationScorer(recipe.relation, dim, num_relations)
        if self.concepts is not None:
            self.scorer.start_concepts(self.concepts.weight)
        self.dim = dim
        start = torch.tensor(math.log(recipe.objectives.logit_scale))
        self.log_scale = nn.Parameter(start, requires_grad=recipe.objectives.learn_logit_scale)

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature of the contrasts; at most 100, as CLIP and KAD bound it."""
        return self.log_scale.clamp(0, math.log(100)).exp()

    def concept_vectors(self, text_vectors: Tensor, graph: SampledGraph) -> Tensor:
        """Vectors of a sampled graph's seeds: the text vectors alone if there is no graph tower."""
        if self.graph is None:
            return text_vectors[: graph.num_seeds]
        device = self.log_scale.device  # sampled graphs and the bank live on the CPU
        vectors: Tensor = self.graph(text_vectors.to(device), graph.to(device))
        return vectors


@torch.no_grad()
def all_concept_vectors(model: EncoderModel, bank: Tensor, sampler: NeighbourSampler, seed: int) -> Tensor:
    """Vectors of all concepts, float32 [N, dim], in blocks; neighbours are drawn by `seed`.

    Args:
        model: Its graph tower is used.
        bank: float32 [N, dim], text vectors of the preferred names.
        sampler: The facts that pass messages.
        seed: Draws the neighbours.
    """
    if model.graph is None:
        return bank
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.empty_like(bank)
    for seeds in torch.split(torch.arange(len(bank)), _BLOCK):
        graph = sampler.sample(seeds, model.recipe.graph.fanouts, generator)
        vectors[seeds] = model.concept_vectors(bank[graph.nodes], graph).cpu()
    return vectors
