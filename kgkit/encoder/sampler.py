"""Neighbour sampling over a CSR graph in plain torch, with the edges being predicted left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kgkit.arrays import IntArray


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

    def to(self, device: torch.device) -> SampledGraph:
        """The same on another device."""
        return SampledGraph(
            self.nodes.to(device), self.num_seeds, self.edge_index.to(device), self.edge_type.to(device)
        )


class NeighbourSampler:
    """Samples incoming messages; every fact carries a message both ways.

    Args:
        triples: int64 [n, 3], the facts that may pass messages.
        num_concepts: Number of concepts.
        num_relations: Number of relations, inverses not counted.
        hides: What is hidden with a fact: everything between its ends, or the fact itself, both ways.
    """

    def __init__(
        self, triples: IntArray, num_concepts: int, num_relations: int, hides: Literal["pair", "fact"] = "pair"
    ) -> None:
        facts = torch.from_numpy(triples.astype(np.int32))  # the lists are as long as the graph: half the memory
        target = torch.cat([facts[:, 2], facts[:, 0]])
        order = torch.argsort(target, stable=True)
        counts = torch.bincount(target, minlength=num_concepts)
        del target
        self._source = torch.cat([facts[:, 0], facts[:, 2]])[order]
        self._kind = torch.cat([facts[:, 1], facts[:, 1] + num_relations])[order]
        self._start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self.num_concepts, self.num_relations, self.hides = num_concepts, num_relations, hides

    def keys(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """One key per unordered pair of concepts, or per fact if only facts are hidden; int64, shape of the inputs."""
        if self.hides == "fact":
            return (heads * self.num_relations + relations) * self.num_concepts + tails
        return torch.minimum(heads, tails) * self.num_concepts + torch.maximum(heads, tails)

    def sample(
        self, seeds: Tensor, fanouts: Sequence[int], generator: torch.Generator, hidden: Tensor | None = None
    ) -> SampledGraph:
        """Sample up to `fanouts[k]` neighbours of every node first reached at hop k.

        Args:
            seeds: int64 [s], distinct concept ids.
            fanouts: One number per hop; neighbours are drawn without replacement.
            generator: Draws the neighbours.
            hidden: int64 [p], `keys` whose edges carry no message either way (those of the facts being predicted).
        """
        nodes, frontier = seeds, seeds
        nothing = torch.empty(0, dtype=torch.int64)
        sources, targets, kinds = [nothing], [nothing], [nothing]
        for fanout in fanouts:
            target, source, kind = self._draw(frontier, fanout, generator)
            if hidden is not None and len(hidden):
                keep = ~torch.isin(self._message_keys(source, kind, target), hidden)
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

    def _message_keys(self, source: Tensor, kind: Tensor, target: Tensor) -> Tensor:
        """Keys of the facts that some messages come from."""
        is_turned = kind >= self.num_relations
        heads, tails = torch.where(is_turned, target, source), torch.where(is_turned, source, target)
        return self.keys(heads, kind % self.num_relations, tails)

    def _draw(self, frontier: Tensor, fanout: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Up to `fanout` incoming edges of each frontier node: (target, source, kind)."""
        start, count = self._start[frontier], self._start[frontier + 1] - self._start[frontier]
        few = (count <= fanout).nonzero().ravel()
        many = (count > fanout).nonzero().ravel()
        whole = torch.repeat_interleave(few, count[few])
        first = torch.repeat_interleave(count[few].cumsum(0) - count[few], count[few])
        owner = torch.cat([whole, torch.repeat_interleave(many, fanout)])
        offset = torch.cat([torch.arange(len(whole)) - first, _subsets(count[many], fanout, generator).ravel()])
        edge = start[owner] + offset
        return frontier[owner], self._source[edge].long(), self._kind[edge].long()


def _subsets(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A uniform draw without replacement of `count` numbers below each size (Floyd's algorithm).

    Its cost follows the count alone: a hub of a million edges costs what one of a dozen does.

    Args:
        sizes: int64 [n], each above `count`.
        count: Numbers wanted of each.
        generator: Draws.

    Returns:
        int64 [n, count], distinct within a row.
    """
    chosen = torch.empty(len(sizes), count, dtype=torch.int64)
    draws = torch.rand(len(sizes), count, generator=generator, dtype=torch.float64)
    for k in range(count):
        last = sizes - count + k
        number = (draws[:, k] * (last + 1)).long()
        is_taken = (chosen[:, :k] == number[:, None]).any(dim=1)
        chosen[:, k] = torch.where(is_taken, last, number)
    return chosen
