"""The neighbour sampler against sets and dictionaries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_thorax import random_triples

from kgkit.encoder.sampler import NeighbourSampler, SampledGraph, _subsets

NUM_CONCEPTS, NUM_RELATIONS = 9, 3
FACTS = st.sets(
    st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 8)).filter(lambda fact: fact[0] != fact[2]),
    min_size=1, max_size=40,
)  # fmt: skip
SEEDS = st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True)
Fact = tuple[int, int, int]


def sampler_of(facts: set[Fact]) -> NeighbourSampler:
    return NeighbourSampler(np.array(sorted(facts)), NUM_CONCEPTS, NUM_RELATIONS)


def messages(facts: set[Fact]) -> set[Fact]:
    """(source, type, target) of every message: each fact both ways."""
    return {(h, r, t) for h, r, t in facts} | {(t, r + NUM_RELATIONS, h) for h, r, t in facts}


def edges(graph: SampledGraph) -> list[Fact]:
    """The sampled messages with concept ids."""
    source, target = graph.nodes[graph.edge_index]
    return list(zip(source.tolist(), graph.edge_type.tolist(), target.tolist(), strict=True))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(FACTS, SEEDS)
def test_with_room_for_all_every_message_to_a_seed_arrives_once(facts: set[Fact], seeds: list[int]) -> None:
    graph = sampler_of(facts).sample(torch.tensor(seeds), [100], generator())
    assert Counter(edges(graph)) == Counter(m for m in messages(facts) if m[2] in seeds)


@given(FACTS, SEEDS)
def test_two_hops_reach_the_neighbours_of_neighbours(facts: set[Fact], seeds: list[int]) -> None:
    graph = sampler_of(facts).sample(torch.tensor(seeds), [100, 100], generator())
    first = {m[0] for m in messages(facts) if m[2] in seeds} | set(seeds)
    assert Counter(edges(graph)) == Counter(m for m in messages(facts) if m[2] in first)


@given(FACTS, SEEDS, st.integers(0, 4), st.integers(0, 99))
def test_fanout_is_kept_and_nothing_is_drawn_twice(facts: set[Fact], seeds: list[int], fanout: int, seed: int) -> None:
    graph = sampler_of(facts).sample(torch.tensor(seeds), [fanout], generator(seed))
    drawn = edges(graph)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= messages(facts)
    degree = Counter(m[2] for m in messages(facts))
    assert Counter(m[2] for m in drawn) == Counter({s: min(fanout, degree[s]) for s in seeds if min(fanout, degree[s])})


@given(FACTS, SEEDS, st.lists(st.integers(0, 5), max_size=3), st.integers(0, 99))
def test_seeds_come_first_and_local_ids_are_whole(
    facts: set[Fact], seeds: list[int], fanouts: list[int], seed: int
) -> None:
    graph = sampler_of(facts).sample(torch.tensor(seeds), fanouts, generator(seed))
    assert graph.num_seeds == len(seeds)
    assert graph.nodes[: len(seeds)].tolist() == seeds
    assert len(graph.nodes.unique()) == len(graph.nodes)
    reached = set(seeds) | {m[0] for m in edges(graph)}
    assert set(graph.nodes.tolist()) == reached
    assert graph.edge_index.shape == (2, len(graph.edge_type))


@given(FACTS, SEEDS, st.data(), st.integers(1, 5))
def test_hidden_pairs_pass_no_message_in_any_direction(
    facts: set[Fact], seeds: list[int], data: st.DataObject, fanout: int
) -> None:
    sampler = sampler_of(facts)
    chosen = data.draw(st.lists(st.sampled_from(sorted(facts)), min_size=1))
    turned = [fact if data.draw(st.booleans()) else fact[::-1] for fact in chosen]
    table = torch.tensor(turned)
    hidden = sampler.keys(table[:, 0], table[:, 1], table[:, 2])
    graph = sampler.sample(torch.tensor(seeds), [fanout, fanout], generator(), hidden)
    pairs = {frozenset((h, t)) for h, _, t in chosen}
    assert not any(frozenset((source, target)) in pairs for source, _, target in edges(graph))
    everything = sampler.sample(torch.tensor(seeds), [100], generator(), hidden)
    kept = {m for m in messages(facts) if m[2] in seeds and frozenset((m[0], m[2])) not in pairs}
    assert set(edges(everything)) == kept, "only the hidden pairs are left out"


@given(FACTS, SEEDS, st.data())
def test_a_hidden_fact_takes_no_other_with_it(facts: set[Fact], seeds: list[int], data: st.DataObject) -> None:
    sampler = NeighbourSampler(np.array(sorted(facts)), NUM_CONCEPTS, NUM_RELATIONS, hides="fact")
    chosen = data.draw(st.sets(st.sampled_from(sorted(facts)), min_size=1))
    hidden = sampler.keys(*torch.tensor(sorted(chosen)).unbind(1))
    graph = sampler.sample(torch.tensor(seeds), [100], generator(), hidden)
    assert Counter(edges(graph)) == Counter(m for m in messages(facts - chosen) if m[2] in seeds)


def test_the_generator_decides_the_draw() -> None:
    sampler = NeighbourSampler(random_triples(400, 40, 4, seed=2), 40, 4)
    seeds = torch.arange(20)
    one, same, other = (sampler.sample(seeds, [3, 2], generator(seed)) for seed in (7, 7, 8))
    for left, right in ((one.nodes, same.nodes), (one.edge_index, same.edge_index), (one.edge_type, same.edge_type)):
        assert torch.equal(left, right)
    assert edges(one) != edges(other)


def test_every_neighbour_is_equally_likely() -> None:
    facts = np.array([(0, 0, tail) for tail in range(1, 9)])
    sampler, draws, shared = NeighbourSampler(facts, 9, 1), 2000, generator(3)
    counts = Counter(m[0] for _ in range(draws) for m in edges(sampler.sample(torch.tensor([0]), [2], shared)))
    expected = draws * 2 / 8
    assert sum((counts[n] - expected) ** 2 / expected for n in range(1, 9)) < 24.3  # chi-square, 7 df, p = 0.001


@pytest.mark.parametrize(("degree", "fanout"), [(6, 3), (5, 4), (8, 2)])
def test_every_set_of_neighbours_is_equally_likely(degree: int, fanout: int) -> None:
    """Stronger than each neighbour for itself: the draw is uniform over sets."""
    draws = 6000
    numbers = _subsets(torch.full((draws,), degree), fanout, generator(5))
    counts = Counter(frozenset(row) for row in numbers.tolist())
    sets = math.comb(degree, fanout)
    assert set(map(len, counts)) == {fanout}
    assert len(counts) == sets
    chi_square = sum((count - draws / sets) ** 2 / (draws / sets) for count in counts.values())
    assert chi_square < sets - 1 + 4 * math.sqrt(2 * (sets - 1))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.integers(0, 12))
def test_draws_are_distinct_and_below_their_size(beyond: list[int], count: int) -> None:
    sizes = torch.tensor(beyond) + count + 1
    numbers = _subsets(sizes, count, generator())
    assert numbers.shape == (len(beyond), count)
    assert all(len(set(row)) == count for row in numbers.tolist())
    assert bool((numbers >= 0).all())
    assert bool((numbers < sizes[:, None]).all())


def test_a_hub_costs_as_many_random_numbers_as_a_small_node() -> None:
    states = []
    for degree in (20, 5000):
        facts = np.array([(0, 0, tail) for tail in range(1, degree + 1)])
        shared = generator(4)
        drawn = edges(NeighbourSampler(facts, degree + 1, 1).sample(torch.tensor([0]), [7], shared))
        assert len(set(drawn)) == 7
        states.append(shared.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("fanouts", [[], [4]])
def test_concepts_without_neighbours_stand_alone(fanouts: list[int]) -> None:
    sampler = NeighbourSampler(np.array([(0, 0, 1)]), 5, 1)
    graph = sampler.sample(torch.tensor([4, 2]), fanouts, generator())
    assert graph.nodes.tolist() == [4, 2]
    assert graph.edge_index.shape == (2, 0)
