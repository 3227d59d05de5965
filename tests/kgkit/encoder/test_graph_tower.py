"""The graph tower: against PyG's RGCN and CompGCN's formulas, and the laws that make texts and concepts one space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_thorax import random_triples, unit_rows
from torch_geometric.nn import RGCNConv

from kgkit.encoder.config import GraphConfig
from kgkit.encoder.graph_tower import BasisConv, CompGcnConv, GraphTower, to_pyg
from kgkit.encoder.sampler import NeighbourSampler, SampledGraph
from kgkit.errors import InputError

DIM, NUM_CONCEPTS, NUM_RELATIONS = 16, 30, 3
FACTS = random_triples(60, NUM_CONCEPTS - 1, NUM_RELATIONS, seed=4)  # the last concept stands alone
TEXT = torch.from_numpy(unit_rows(NUM_CONCEPTS, DIM, 9))
hops = pytest.mark.parametrize("fanouts", [(50,), (50, 50), (3, 2), (4, 3, 2)])
families = pytest.mark.parametrize("family", ["rgcn", "compgcn"])


def tower_of(fanouts: tuple[int, ...], family: str) -> GraphTower:
    torch.manual_seed(2)
    return GraphTower(GraphConfig(family, hidden_dim=12, num_bases=3, fanouts=fanouts), DIM, NUM_RELATIONS)


def sample(seeds: torch.Tensor, fanouts: tuple[int, ...], facts: np.ndarray = FACTS) -> SampledGraph:
    sampler = NeighbourSampler(facts, NUM_CONCEPTS, NUM_RELATIONS)
    return sampler.sample(seeds, fanouts, torch.Generator().manual_seed(1))


def vectors_of(tower: GraphTower, graph: SampledGraph, text: torch.Tensor = TEXT) -> torch.Tensor:
    with torch.no_grad():
        return tower(text[graph.nodes], graph)


@pytest.mark.parametrize(("num_bases", "in_dim", "out_dim"), [(1, 8, 8), (3, 8, 5), (7, 4, 10)])
def test_basis_convolution_equals_pygs_rgcn(num_bases: int, in_dim: int, out_dim: int) -> None:
    torch.manual_seed(num_bases)
    ours = BasisConv(in_dim, out_dim, num_relations=6, num_bases=num_bases)
    theirs = RGCNConv(in_dim, out_dim, 6, num_bases=num_bases, root_weight=False, bias=False, aggr="mean")
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        theirs.comp.copy_(ours.coefficients)
    x, edge_index, edge_type = torch.randn(20, in_dim), torch.randint(0, 20, (2, 90)), torch.randint(0, 6, (90,))
    expected = theirs(x, edge_index, edge_type)
    torch.testing.assert_close(ours(x, edge_index, edge_type, 20), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x, edge_index, edge_type, 7), expected[:7], atol=1e-5, rtol=1e-5)


@hops
@families
def test_vectors_have_unit_norm_and_neighbours_matter(fanouts: tuple[int, ...], family: str) -> None:
    vectors = vectors_of(tower_of(fanouts, family), sample(torch.arange(NUM_CONCEPTS), fanouts))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(NUM_CONCEPTS))
    moved = (vectors - TEXT).norm(dim=1) > 1e-3
    assert set(moved.nonzero().ravel().tolist()) == set(FACTS[:, [0, 2]].ravel().tolist())


@hops
@families
def test_without_neighbours_the_vector_is_the_text_vector(fanouts: tuple[int, ...], family: str) -> None:
    tower = tower_of(fanouts, family)
    with torch.no_grad():
        tower.gate.fill_(9.0)
    alone = NUM_CONCEPTS - 1
    vectors = vectors_of(tower, sample(torch.tensor([alone, 0]), fanouts))
    torch.testing.assert_close(vectors[0], TEXT[alone], atol=1e-7, rtol=0)


@hops
@families
def test_numbering_of_nodes_and_order_of_edges_do_not_matter(fanouts: tuple[int, ...], family: str) -> None:
    tower, graph = tower_of(fanouts, family), sample(torch.arange(8), fanouts)
    shuffle = torch.Generator().manual_seed(6)
    nodes = torch.cat([torch.arange(8), 8 + torch.randperm(len(graph.nodes) - 8, generator=shuffle)])
    edges = torch.randperm(len(graph.edge_type), generator=shuffle)
    place = torch.argsort(nodes)  # old local id -> new
    other = SampledGraph(graph.nodes[nodes], 8, place[graph.edge_index[:, edges]], graph.edge_type[edges])
    torch.testing.assert_close(vectors_of(tower, other), vectors_of(tower, graph), atol=1e-6, rtol=1e-5)


@families
def test_order_of_the_seeds_orders_the_vectors(family: str) -> None:
    tower, seeds = tower_of((50,), family), torch.tensor([5, 2, 9, 0])
    vectors = vectors_of(tower, sample(seeds, (50,)))
    torch.testing.assert_close(vectors, vectors_of(tower, sample(torch.arange(10), (50,)))[seeds])


@families
def test_relation_and_direction_matter(family: str) -> None:
    tower, seeds = tower_of((50,), family), torch.tensor([0, 1])
    results = [vectors_of(tower, sample(seeds, (50,), np.array([fact]))) for fact in [(0, 0, 1), (0, 1, 1), (1, 0, 0)]]
    for left in range(3):
        for right in range(left):
            assert (results[left] - results[right]).norm() > 1e-3


@families
def test_a_concept_never_seen_gets_a_vector_from_its_text_and_neighbours(family: str) -> None:
    """Inductive: the trained weights serve a graph with one more concept, and far concepts keep their vectors."""
    tower, new = tower_of((50,), family), NUM_CONCEPTS
    facts = np.concatenate([FACTS, [(new, 1, 4)]])
    text = torch.cat([TEXT, torch.from_numpy(unit_rows(1, DIM, 77))])
    sampler = NeighbourSampler(facts, NUM_CONCEPTS + 1, NUM_RELATIONS)
    graph = sampler.sample(torch.arange(NUM_CONCEPTS + 1), (50,), torch.Generator())
    after, before = vectors_of(tower, graph, text), vectors_of(tower, sample(torch.arange(NUM_CONCEPTS), (50,)))
    assert (after[new] - text[new]).norm() > 1e-3
    assert after[new].norm() == pytest.approx(1)
    changed = (after[:new] - before).norm(dim=1) > 1e-6
    assert changed.nonzero().ravel().tolist() == [4]


@families
def test_gradients_reach_every_weight_and_the_neighbours_text(family: str) -> None:
    tower, graph = tower_of((50, 50), family), sample(torch.arange(6), (50, 50))
    text = TEXT[graph.nodes].clone().requires_grad_()
    (tower(text, graph) @ torch.randn(DIM)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tower.parameters())
    assert (text.grad[6:].abs().sum(dim=1) > 0).all()


@families
def test_edges_to_other_nodes_than_the_seeds_do_not_reach_a_one_hop_tower(family: str) -> None:
    tower, graph = tower_of((50,), family), sample(torch.arange(6), (50,))
    further = torch.tensor([[0, 1], [len(graph.nodes) - 1, 7]])
    more = replace(
        graph,
        edge_index=torch.cat([graph.edge_index, further], dim=1),
        edge_type=torch.cat([graph.edge_type, torch.tensor([0, 1])]),
    )
    torch.testing.assert_close(vectors_of(tower, more), vectors_of(tower, graph))


@families
@hops
def test_nodes_beyond_what_the_seeds_read_are_not_computed(family: str, fanouts: tuple[int, ...]) -> None:
    """Cutting the layers short changes nothing: the same as computing every node in every layer."""
    tower, graph = tower_of(fanouts, family), sample(torch.arange(6), fanouts)
    vectors = vectors_of(tower, graph)
    tower._num_targets = lambda graph: [len(graph.nodes)] * (len(fanouts) - 1) + [graph.num_seeds]
    torch.testing.assert_close(vectors_of(tower, graph), vectors, atol=1e-6, rtol=0)


@pytest.mark.parametrize("is_last", [False, True])
def test_compgcn_equals_its_formulas_written_as_loops(is_last: bool) -> None:
    torch.manual_seed(5)
    layer = CompGcnConv(4, 3, is_last=is_last)
    torch.nn.init.normal_(layer.loop)
    x, relations = torch.randn(9, 4), torch.randn(6, 4)  # three relations and their inverses
    edge_index, edge_type = torch.randint(0, 9, (2, 25)), torch.randint(0, 6, (25,))
    state, mapped = layer(x, relations, edge_index, edge_type, 7)
    with torch.no_grad():
        for node in range(7):
            expected = (x[node] * layer.loop) @ layer.loop_weight
            for direction in (0, 1):
                messages = [x[source] * relations[kind]
                            for source, target, kind in zip(*edge_index.tolist(), edge_type.tolist(), strict=True)
                            if target == node and (kind >= 3) == bool(direction)]  # fmt: skip
                if messages:
                    expected = expected + sum(messages) / len(messages) @ layer.weight[direction]
            torch.testing.assert_close(state[node].detach(), expected, atol=1e-5, rtol=1e-5)
        if is_last:
            assert mapped is None
        else:
            torch.testing.assert_close(mapped, relations @ layer.relation_weight)


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"'graph.family' is 'gat', expected 'rgcn' or 'compgcn'"):
        GraphTower(GraphConfig("gat", 8, 2, (3,)), DIM, NUM_RELATIONS)


def test_a_neighbourhood_is_a_mini_batch_of_pyg() -> None:
    """PyG finds no fault with it, and its layers read it."""
    graph = sample(torch.tensor([4, 1, 7]), (50, 50))
    data = to_pyg(graph)
    data.validate()
    assert data.n_id.tolist()[: data.batch_size] == [4, 1, 7]
    conv = RGCNConv(DIM, 5, 2 * NUM_RELATIONS)
    assert conv(TEXT[data.n_id], data.edge_index, data.edge_type)[: data.batch_size].shape == (3, 5)
    messages = {(h, r, t) for h, r, t in FACTS.tolist()} | {(t, r + NUM_RELATIONS, h) for h, r, t in FACTS.tolist()}
    source, target = data.n_id[data.edge_index].tolist()
    assert set(zip(source, data.edge_type.tolist(), target, strict=True)) <= messages
