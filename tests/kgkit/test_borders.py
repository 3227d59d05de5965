"""Borders to PyKEEN, torch-geometric and networkx: what goes out comes back, with the ids it had."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pykeen.triples import TriplesFactory

from kgkit.graph.store import KnowledgeGraph
from kgkit.views.groups import NO_GROUP, semantic_group_of
from kgkit.views.splits import split_triples
from kgkit.views.to_networkx import from_networkx, to_networkx
from kgkit.views.to_pyg import from_pyg, to_pyg
from kgkit.views.to_pykeen import from_pykeen, to_pykeen
from kgkit.views.triples import TripleView, open_triples

RELATIONS = ("finding_site", "isa", "to", "DISO", "*")
TYPES = ("T047", "T023", "T121", "T999")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[TripleView, pl.DataFrame]:
    """Any small graph and its concepts view: unused relations, isolated concepts, missing names and types."""
    number = draw(st.integers(1, 9))
    concepts = sorted(draw(st.sets(st.text("ab:/é,;\"' \t", min_size=1, max_size=4), min_size=number, max_size=number)))
    relations = sorted(draw(st.sets(st.sampled_from(RELATIONS), min_size=1)))
    end = st.integers(0, number - 1)
    rows = draw(st.sets(st.tuples(end, st.integers(0, len(relations) - 1), end), max_size=25))
    types = draw(st.lists(st.lists(st.sampled_from(TYPES), unique=True).map(sorted), min_size=number, max_size=number))
    names = draw(st.lists(st.none() | st.text(max_size=5), min_size=number, max_size=number))
    table = pl.DataFrame(
        {"concept": concepts, "name": names, "semantic_types": types},
        schema={"concept": pl.String, "name": pl.String, "semantic_types": pl.List(pl.String)},
    )
    triples = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
    return TripleView(tuple(concepts), tuple(relations), triples), table


def assert_same(one: TripleView, other: TripleView) -> None:
    assert (one.concepts, one.relations) == (other.concepts, other.relations)
    assert one.triples.dtype == other.triples.dtype == np.int64
    assert np.array_equal(one.triples, other.triples)


@given(graphs())
def test_pykeen_keeps_ids_and_triples(graph: tuple[TripleView, pl.DataFrame]) -> None:
    view, _ = graph
    factory = to_pykeen(view)
    assert factory.entity_to_id == {concept: row for row, concept in enumerate(view.concepts)}
    assert factory.num_relations == view.num_relations
    assert_same(from_pykeen(factory), view)


@given(graphs(), st.integers(0, 9))
def test_the_parts_of_a_split_share_their_ids(graph: tuple[TripleView, pl.DataFrame], seed: int) -> None:
    view, _ = graph
    split = split_triples(view, 0.3, seed)
    parts = [to_pykeen(view, part) for part in (split.train, split.valid, split.test)]
    assert len({tuple(part.entity_to_id.items()) for part in parts}) == 1
    assert sorted(map(tuple, torch.cat([part.mapped_triples for part in parts]).tolist())) == list(
        map(tuple, view.triples.tolist())
    )


@given(graphs(), st.integers(0, 9))
def test_a_foreign_factory_is_read_whatever_its_ids(graph: tuple[TripleView, pl.DataFrame], seed: int) -> None:
    view, _ = graph
    order = np.random.default_rng(seed).permutation(view.num_concepts)
    triples = view.triples.copy()
    triples[:, [0, 2]] = order[triples[:, [0, 2]]] * 2  # another order, and gaps
    factory = TriplesFactory(
        torch.from_numpy(triples),
        {concept: int(order[row]) * 2 for row, concept in enumerate(view.concepts)},
        {relation: row for row, relation in enumerate(view.relations)},
    )
    assert_same(from_pykeen(factory), view)


@given(graphs())
def test_networkx_keeps_ids_triples_and_attributes(graph: tuple[TripleView, pl.DataFrame]) -> None:
    view, concepts = graph
    out = to_networkx(view, concepts)
    assert dict(out.nodes(data="name")) == dict(concepts.select("concept", "name").iter_rows())
    assert dict(out.nodes(data="semantic_types")) == dict(concepts.select("concept", "semantic_types").iter_rows())
    assert_same(from_networkx(out), view)


def test_a_foreign_networkx_graph_is_read() -> None:
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph([("b", "a", "isa"), ("a", "c", "near"), ("c", "a", "isa")])
    view = from_networkx(graph)
    assert (view.concepts, view.relations) == (("a", "b", "c"), ("isa", "near"))
    assert view.triples.tolist() == [[0, 1, 2], [1, 0, 0], [2, 0, 0]]


@pytest.mark.filterwarnings("ignore:The node types")  # a type of isolated concepts is meant
@given(graphs())
def test_pyg_keeps_ids_and_triples(graph: tuple[TripleView, pl.DataFrame]) -> None:
    view, concepts = graph
    data = to_pyg(view, concepts)
    assert data.validate()
    assert_same(from_pyg(data, view.concepts, view.relations), view)
    group = semantic_group_of(concepts["semantic_types"]).to_list()
    for kind in data.node_types:
        assert data[kind].concept_id.tolist() == [row for row, own in enumerate(group) if own == kind]
    expected = {(group[head], view.relations[relation], group[tail]) for head, relation, tail in view.triples.tolist()}
    assert set(data.edge_types) == expected


def test_a_group_is_that_of_the_smallest_type() -> None:
    types = pl.Series([["T047"], ["T047", "T023"], [], ["T999"], None], dtype=pl.List(pl.String))
    assert semantic_group_of(types).to_list() == ["DISO", "ANAT", NO_GROUP, NO_GROUP, NO_GROUP]


@pytest.mark.parametrize("border", ["pykeen", "networkx", "pyg"])
def test_the_bundled_graph_crosses_every_border(thorax_kg_dir: Path, border: str) -> None:
    views = KnowledgeGraph(thorax_kg_dir).views
    view, concepts = open_triples(views), pl.read_parquet(views / "concepts.parquet")
    if border == "pykeen":
        back = from_pykeen(to_pykeen(view))
    elif border == "networkx":
        back = from_networkx(to_networkx(view, concepts))
    else:
        back = from_pyg(to_pyg(view, concepts), view.concepts, view.relations)
    assert_same(back, view)
