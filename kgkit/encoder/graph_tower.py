"""The graph tower: relational message passing over sampled neighbours, added to the text vector through a gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from kgkit.encoder.config import GraphConfig
from kgkit.encoder.sampler import SampledGraph


class BasisConv(MessagePassing):  # type: ignore[misc]  # torch-geometric is untyped here
    """RGCN with basis decomposition (Schlichtkrull et al. 2018, eq. 2 and 3), aggregating before multiplying.

    Gives what PyG's RGCNConv gives for the same weights (a test holds it), but sums the neighbours into one slot per
    basis first and multiplies per node afterwards, where RGCNConv runs one full pass per relation.

    Args:
        in_dim: Length of the incoming vectors.
        out_dim: Length of the outgoing vectors.
        num_relations: Number of relations, inverses counted.
        num_bases: Number of basis matrices.
    """

    def __init__(self, in_dim: int, out_dim: int, num_relations: int, num_bases: int) -> None:
        super().__init__(aggr="sum")
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
        # 1 / (number of neighbours of this target under this relation)
        slot = edge_index[1] * len(self.coefficients) + edge_type
        _, inverse, counts = torch.unique(slot, return_inverse=True, return_counts=True)
        scale = self.coefficients[edge_type] / counts[inverse].unsqueeze(-1)
        slots = self.propagate(edge_index, x=(x, x[:num_targets]), scale=scale, size=(len(x), num_targets))
        messages: Tensor = slots @ self.weight.flatten(0, 1)
        return messages

    def message(self, x_j: Tensor, scale: Tensor) -> Tensor:
        """Float [e, num_bases * in_dim]: the neighbour's vector, weighted for each basis."""
        return (scale.unsqueeze(-1) * x_j.unsqueeze(1)).flatten(1)


class GraphTower(nn.Module):
    """Concept vectors from text vectors and neighbours.

    A concept without neighbours keeps exactly its text vector, so texts and concepts share one space and a concept
    never seen in training gets a vector too.

    Args:
        config: Family, width, bases, hops.
        dim: Length of the text vectors.
        num_relations: Number of relations, inverses not counted.
    """

    def __init__(self, config: GraphConfig, dim: int, num_relations: int) -> None:
        super().__init__()
        width = config.hidden_dim
        self.project = nn.Linear(dim, width, bias=False)
        self.layers = nn.ModuleList(
            BasisConv(width, width, 2 * num_relations, config.num_bases) for _ in config.fanouts
        )
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
        state = self.project(text_vectors)
        for hop, layer in enumerate(self.layers):
            is_last = hop == len(self.layers) - 1
            num_targets = graph.num_seeds if is_last else len(graph.nodes)
            state = F.gelu(
                state[:num_targets] * (not is_last) + layer(state, graph.edge_index, graph.edge_type, num_targets)
            )
        message = torch.sigmoid(self.gate) * self.out(state)
        degree = torch.bincount(graph.edge_index[1], minlength=len(graph.nodes))[: graph.num_seeds]
        return F.normalize(seeds + message * (degree > 0).unsqueeze(-1), dim=-1)
