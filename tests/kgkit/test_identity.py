"""Which ids are one concept: exact matches join, no class holds two CUIs, order changes nothing."""

from __future__ import annotations

import random

import networkx as nx
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from kgkit.views.identity import representatives

IDS = [f"A:{n}" for n in range(5)] + [f"B:{n}" for n in range(5)] + [f"umls:C000000{n}" for n in range(5)]
PAIRS = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), max_size=12)


def classes(pairs: list[tuple[str, str]], ids: list[str] = IDS) -> dict[str, str]:
    series = pl.Series("id", sorted(ids), dtype=pl.String)
    place = {name: index for index, name in enumerate(series)}
    rows = [(place[one], place[other]) for one, other in pairs]
    exact = pl.DataFrame(rows, schema={"subject": pl.UInt32, "object": pl.UInt32}, orient="row")
    return {series[index]: series[int(stands_for)] for index, stands_for in enumerate(representatives(series, exact))}


def test_a_cui_stands_for_its_class_and_the_first_id_for_a_class_without_one() -> None:
    found = classes([("A:1", "umls:C0000001"), ("B:1", "A:1"), ("B:2", "A:2")])
    assert (found["A:1"], found["B:1"], found["umls:C0000001"]) == ("umls:C0000001",) * 3
    assert (found["A:2"], found["B:2"]) == ("A:2", "A:2")


def test_an_id_with_two_cuis_is_joined_with_neither() -> None:
    found = classes([("A:1", "umls:C0000001"), ("A:1", "umls:C0000002"), ("B:1", "umls:C0000001")])
    assert found["A:1"] == "A:1"
    assert found["B:1"] == "umls:C0000001"


def test_two_cuis_do_not_meet_through_other_ids() -> None:
    found = classes([("A:1", "umls:C0000001"), ("B:1", "umls:C0000002"), ("A:1", "B:1")])
    assert (found["A:1"], found["B:1"]) == ("umls:C0000001", "umls:C0000002")


@given(PAIRS, st.integers(0, 2**32))
def test_no_class_holds_two_cuis_and_every_class_is_connected(pairs: list[tuple[str, str]], seed: int) -> None:
    found = classes(pairs)
    members: dict[str, set[str]] = {}
    for name, stands_for in found.items():
        members.setdefault(stands_for, set()).add(name)
    linked = nx.Graph(pairs)
    linked.add_nodes_from(IDS)
    for stands_for, group in members.items():
        cuis = {name for name in group if name.startswith("umls:")}
        assert len(cuis) <= 1
        assert stands_for == (min(cuis) if cuis else min(group))
        assert nx.is_connected(linked.subgraph(group))
    shuffled = [
        random.Random(seed).choice([pair, pair[::-1]]) for pair in random.Random(seed).sample(pairs, len(pairs))
    ]
    assert classes(shuffled) == found


@given(st.lists(st.tuples(st.sampled_from(IDS[:10]), st.sampled_from(IDS[:10])), max_size=12))
def test_without_cuis_the_classes_are_the_connected_components(pairs: list[tuple[str, str]]) -> None:
    linked = nx.Graph(pairs)
    linked.add_nodes_from(IDS)
    expected = {name: min(group) for group in nx.connected_components(linked) for name in group}
    assert classes(pairs) == expected
