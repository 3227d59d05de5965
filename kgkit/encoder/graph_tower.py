"""The graph tower: relational message passing over sampled neighbours, added to the text vector through a gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from kgkit.encoder.config import GraphConfig
from kgkit.encoder.sampler import SampledGraph
from kgkit.errors import InputError


class BasisConv(nn.Module):
    """RGCN with basis decomposition (Schlichtkrull et al. 2018, eq. 2 and 3), aggregating before multiplying.

    Gives what PyG's RGCNConv gives for the same weights (a test holds it). The neighbours of a node under one relation
    become their mean first, which every basis then shares; RGCNConv runs one full pass per relation, and weighting
    every edge for every basis would take as many times the memory of the edges as there are bases.

    Args:
        in_dim: Length of the incoming vectors.
        out_dim: Length of the outgoing vectors.
        num_relations: Number of relations, inverses counted.
        num_bases: Number of basis matrices.
    """

    def __init__(self, in_dim: int, out_dim: int, num_relations: int, num_bases: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_bases, in_dim, out_dim))
        self.coefficients = nn.Parameter(torch.empty(num_relations, num_bases))
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.coefficients)

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor, num_targets: int) -> Tensor:
        """Messages arriving at the first `num_targets` nodes.

        Args:
            x: float [m, in_dim].
            edge_index: int64 [2, e], (source, target).
            edge_type: int64 [e].
            num_targets: Edges to later nodes are ignored.

        Returns:
            float [num_targets, out_dim]: per relation the mean over its neighbours, summed over relations.
        """
        inside = edge_index[1] < num_targets
        edge_index, edge_type = edge_index[:, inside], edge_type[inside]
        slot = edge_index[1] * len(self.coefficients) + edge_type
        present, place, counts = torch.unique(slot, return_inverse=True, return_counts=True)
        means = x.new_zeros(len(present), x.shape[1]).index_add(0, place, x[edge_index[0]]) / counts.unsqueeze(-1)
        target, relation = present // len(self.coefficients), present % len(self.coefficients)
        scale = self.coefficients[relation]
        messages = x.new_zeros(num_targets, self.weight.shape[2])
        for basis, weight in enumerate(self.weight):
            gathered = x.new_zeros(num_targets, x.shape[1]).index_add(0, target, means * scale[:, basis : basis + 1])
            messages = messages + gathered @ weight
        return messages


class CompGcnConv(nn.Module):
    """CompGCN (Vashishth et al. 2020, eq. 2 to 4) with the product as composition, aggregating before multiplying.

    A neighbour's message is its vector times the vector of the relation, averaged over the neighbours of a direction.
    Facts, their inverses and the node itself have a weight of their own each; relations are mapped on to the next
    layer. The three are added, not averaged: no batch norm follows here that would bring the third back.

    Args:
        in_dim: Length of the incoming vectors, of concepts and relations.
        out_dim: Length of the outgoing vectors.
        is_last: No layer follows that would want the relations.
    """

    def __init__(self, in_dim: int, out_dim: int, *, is_last: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, in_dim, out_dim))  # of facts, of inverses
        self.loop = nn.Parameter(torch.ones(in_dim))  # the relation of a node to itself
        self.loop_weight = nn.Parameter(torch.empty(in_dim, out_dim))
        self.relation_weight = None if is_last else nn.Parameter(torch.empty(in_dim, out_dim))
        for weight in (self.weight, self.loop_weight, self.relation_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight)

    def forward(
        self, x: Tensor, relations: Tensor, edge_index: Tensor, edge_type: Tensor, num_targets: int
    ) -> tuple[Tensor, Tensor | None]:
        """States of the first `num_targets` nodes, before the activation, and the relations of the next layer.

        Args:
            x: float [m, in_dim].
            relations: float [2 * num_relations, in_dim], inverses in the second half.
            edge_index: int64 [2, e], (source, target).
            edge_type: int64 [e].
            num_targets: Edges to later nodes are ignored.

        Returns:
            float [num_targets, out_dim], and float [2 * num_relations, out_dim], None from the last layer.
        """
        inside = edge_index[1] < num_targets
        (source, target), edge_type = edge_index[:, inside], edge_type[inside]
        slot = 2 * target + (edge_type >= len(relations) // 2).long()
        counts = torch.bincount(slot, minlength=2 * num_targets)
        composed = x[source] * relations[edge_type] / counts[slot].unsqueeze(-1)
        slots = composed.new_zeros(2 * num_targets, composed.shape[1]).index_add(0, slot, composed)
        messages = slots.view(num_targets, -1) @ self.weight.flatten(0, 1)
        state = messages + (x[:num_targets] * self.loop) @ self.loop_weight
        return state, None if self.relation_weight is None else relations @ self.relation_weight


class GraphTower(nn.Module):
    """Concept vectors from text vectors and neighbours.

    A concept without neighbours keeps exactly its text vector, so texts and concepts share one space and a concept
    never seen in training gets a vector too.

    Args:
        config: Family, width, bases, hops.
        dim: Length of the text vectors.
        num_relations: Number of relations, inverses not counted.

    Raises:
        InputError: if there is no such family.
    """

    def __init__(self, config: GraphConfig, dim: int, num_relations: int) -> None:
        super().__init__()
        width, hops = config.hidden_dim, len(config.fanouts)
        self.project = nn.Linear(dim, width, bias=False)
        self.relations: nn.Parameter | None = None
        if config.family == "rgcn":
            self.layers = nn.ModuleList(
                BasisConv(width, width, 2 * num_relations, config.num_bases) for _ in range(hops)
            )
        elif config.family == "compgcn":
            self.layers = nn.ModuleList(CompGcnConv(width, width, is_last=hop == hops - 1) for hop in range(hops))
            self.relations = nn.Parameter(torch.empty(2 * num_relations, width))
            nn.init.normal_(self.relations)
        else:
            raise InputError(f"recipe key 'graph.family' is {config.family!r}, expected 'rgcn' or 'compgcn'")
        self.out = nn.Linear(width, dim, bias=False)
        self.gate = nn.Parameter(torch.full((dim,), -1.0))

    def forward(self, text_vectors: Tensor, graph: SampledGraph) -> Tensor:
        """Vectors of the seeds.

        Args:
            text_vectors: float32 [m, dim], unit rows, one per node of `graph`.
            graph: The sampled neighbourhood.

        Returns:
            float32 [num_seeds, dim], unit rows.
        """
        seeds = text_vectors[: graph.num_seeds]
        state, relations = self.project(text_vectors), self.relations
        for layer, num_targets in zip(self.layers, self._num_targets(graph), strict=True):
            where = (graph.edge_index, graph.edge_type, num_targets)
            if relations is not None:
                state, relations = layer(state, relations, *where)
            else:
                is_last = layer is self.layers[-1]
                state = state[:num_targets] * (not is_last) + layer(state, *where)
            state = F.gelu(state)
        message = torch.sigmoid(self.gate) * self.out(state)
        degree = torch.bincount(graph.edge_index[1], minlength=len(graph.nodes))[: graph.num_seeds]
        return F.normalize(seeds + message * (degree > 0).unsqueeze(-1), dim=-1)

    def _num_targets(self, graph: SampledGraph) -> list[int]:
        """How many of the first nodes each layer has to compute, so that the last one can compute the seeds.

        Most nodes belong to the last hop, and of those only the input is ever read.
        """
        counts = [graph.num_seeds]
        source, target = graph.edge_index
        for _ in self.layers[1:]:
            read = source[target < counts[0]]
            counts.insert(0, max(counts[0], int(read.max()) + 1 if len(read) else 0))
        return counts


def to_pyg(graph: SampledGraph) -> Data:
    """A sampled neighbourhood as a mini-batch of torch-geometric, with the names that its NeighborLoader gives.

    Returns:
        Data with n_id int64 [m] (concept rows), batch_size (the seeds come first), edge_index int64 [2, e], and
        edge_type int64 [e].
    """
    return Data(
        n_id=graph.nodes, batch_size=graph.num_seeds, edge_index=graph.edge_index, edge_type=graph.edge_type,
        num_nodes=len(graph.nodes),
    )  # fmt: skip
