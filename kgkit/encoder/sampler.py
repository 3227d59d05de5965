"""Neighbour sampling over a CSR graph in plain torch, with the edges being predicted left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kgkit.views.triples import IntArray


@dataclass(frozen=True)
class SampledGraph:
    """A sampled neighbourhood with local ids; the seeds come first.

    Attributes:
        nodes: int64 [m], concept id of each local node.
        num_seeds: The first `num_seeds` nodes are the seeds, in the order given.
        edge_index: int64 [2, e], (source, target) local ids; messages flow source -> target.
        edge_type: int64 [e], relation id; `relation + num_relations` is its inverse.
    """

    nodes: Tensor
    num_seeds: int
    edge_index: Tensor
    edge_type: Tensor


class NeighbourSampler:
    """Samples incoming messages; every fact carries a message both ways.

    Args:
        triples: int64 [n, 3], the facts that may pass messages.
        num_concepts: Number of concepts.
        num_relations: Number of relations, inverses not counted.
    """

    def __init__(self, triples: IntArray, num_concepts: int, num_relations: int) -> None:
        facts = torch.from_numpy(triples)
        source = torch.cat([facts[:, 0], facts[:, 2]])
        target = torch.cat([facts[:, 2], facts[:, 0]])
        kind = torch.cat([facts[:, 1], facts[:, 1] + num_relations])
        order = torch.argsort(target, stable=True)
        self._source, self._kind = source[order], kind[order]
        counts = torch.bincount(target, minlength=num_concepts)
        self._start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self.num_concepts = num_concepts

    def pair_keys(self, heads: Tensor, tails: Tensor) -> Tensor:
        """One key per unordered pair of concepts; int64, shape of the inputs."""
        return torch.minimum(heads, tails) * self.num_concepts + torch.maximum(heads, tails)

    def sample(
        self, seeds: Tensor, fanouts: Sequence[int], generator: torch.Generator, hidden: Tensor | None = None
    ) -> SampledGraph:
        """Sample up to `fanouts[k]` neighbours of every node first reached at hop k.

        Args:
            seeds: int64 [s], distinct concept ids.
            fanouts: One number per hop; neighbours are drawn without replacement.
            generator: Draws the neighbours.
            hidden: int64 [p], pair keys whose edges carry no message (the facts being predicted, in whatever
                direction and under whatever relation name they are stated).
        """
        nodes, frontier = seeds, seeds
        nothing = torch.empty(0, dtype=torch.int64)
        sources, targets, kinds = [nothing], [nothing], [nothing]
        for fanout in fanouts:
            target, source, kind = self._draw(frontier, fanout, generator)
            if hidden is not None and len(hidden):
                keep = ~torch.isin(self.pair_keys(source, target), hidden)
                target, source, kind = target[keep], source[keep], kind[keep]
            sources.append(source)
            targets.append(target)
            kinds.append(kind)
            fresh = torch.unique(source)
            frontier = fresh[~torch.isin(fresh, nodes)]
            nodes = torch.cat([nodes, frontier])
        local = torch.empty(self.num_concepts, dtype=torch.int64)
        local[nodes] = torch.arange(len(nodes))
        edges = torch.stack([local[torch.cat(sources)], local[torch.cat(targets)]])
        return SampledGraph(nodes, len(seeds), edges, torch.cat(kinds))

    def _draw(self, frontier: Tensor, fanout: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Up to `fanout` incoming edges of each frontier node: (target, source, kind)."""
        start, count = self._start[frontier], self._start[frontier + 1] - self._start[frontier]
        owner = torch.repeat_interleave(torch.arange(len(frontier)), count)
        offset = torch.arange(len(owner)) - torch.repeat_interleave(count.cumsum(0) - count, count)
        edge = start[owner] + offset
        if len(edge) and int(count.max()) > fanout:
            # A random key per edge, sorted within its owner: the first `fanout` are a draw without replacement.
            key = torch.rand(len(edge), generator=generator, dtype=torch.float64)
            order = torch.argsort(owner.double() + key * 0.999)
            rank = torch.empty_like(offset)
            rank[order] = offset
            keep = rank < fanout
            owner, edge = owner[keep], edge[keep]
        return frontier[owner], self._source[edge], self._kind[edge]
