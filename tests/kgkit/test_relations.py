"""One direction for every relation."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.resources import resource
from kgkit.sources.relations import CanonicalRelation, RelationNames, canonical_edges, is_negative

LINES = resource("ontologies/inverses.tsv").read_text(encoding="utf-8").splitlines()
BUNDLED = [tuple(line.split("\t")) for line in LINES[1:]]
WORDS = ["treats", "cause_of", "ingredient_of", "inverse_foo", "foo", "location_of", "has_location", "isa", "part_of",
         "has_part", "adjacent_to", "zone_of", "inverse_isa", "has_finding_site", "disease_has_finding"]  # fmt: skip


@st.composite
def relation_names(draw: st.DrawFn) -> tuple[RelationNames, dict[str, str], dict[str, int]]:
    """Any way in which MRDOC may pair some names, both rows of a pair present, and any counts of DIR=Y."""
    words = draw(st.permutations(WORDS))
    paired, symmetric = draw(st.integers(0, len(WORDS) // 2)) * 2, draw(st.integers(0, 2))
    pairs = list(zip(words[:paired:2], words[1:paired:2], strict=True))
    pairs += [(word, word) for word in words[paired : paired + symmetric]]
    documented = {name: back for pair in pairs for name, back in (pair, pair[::-1])}
    asserted = draw(st.dictionaries(st.sampled_from(WORDS), st.integers(0, 3)))
    return RelationNames(documented, asserted), documented, asserted


@given(relation_names(), st.sampled_from(WORDS))
def test_canonical_is_idempotent(case: tuple[RelationNames, dict[str, str], dict[str, int]], word: str) -> None:
    names, *_ = case
    form = names.canonical(word)
    again = names.canonical(form.name)
    assert (again.name, again.flipped, again.symmetric) == (form.name, False, form.symmetric)


@given(relation_names())
def test_a_documented_pair_becomes_one_name_with_opposite_flips(
    case: tuple[RelationNames, dict[str, str], dict[str, int]],
) -> None:
    names, documented, asserted = case
    for name, inverse in documented.items():
        here, there = names.canonical(name), names.canonical(inverse)
        assert here.name == there.name
        assert here.name in (name, inverse)
        assert (here.flipped != there.flipped) if name != inverse else here.symmetric
        if asserted.get(name, 0) > asserted.get(inverse, 0):
            assert here == CanonicalRelation(name, flipped=False, symmetric=name == inverse)


@pytest.mark.parametrize(("relation", "inverse"), BUNDLED)
def test_a_bundled_pair_becomes_its_first_name(relation: str, inverse: str) -> None:
    names = RelationNames({}, {})
    symmetric = relation == inverse
    assert names.canonical(relation) == CanonicalRelation(relation, flipped=False, symmetric=symmetric)
    assert names.canonical(inverse) == CanonicalRelation(relation, flipped=not symmetric, symmetric=symmetric)


def test_every_bundled_relation_stands_once() -> None:
    names = [name for pair in BUNDLED for name in set(pair)]
    assert len(set(names)) == len(names)


def test_the_side_that_sources_assert_wins_over_the_table() -> None:
    assert RelationNames({}, {"has_part": 5, "part_of": 2}).canonical("part_of").name == "has_part"
    assert RelationNames({}, {"has_part": 2, "part_of": 2}).canonical("has_part").name == "part_of"


def test_what_a_release_documents_wins_over_the_table() -> None:
    """The UMLS pairs location_of with has_location, our table with located_in; both sides must still meet."""
    names = RelationNames({"location_of": "has_location", "has_location": "location_of"}, {})
    assert names.canonical("location_of").name == names.canonical("has_location").name


def test_an_undocumented_inverse_is_told_by_its_name() -> None:
    names = RelationNames({}, {})
    assert names.canonical("inverse_disease_has_finding") == CanonicalRelation("disease_has_finding", True, False)
    assert names.canonical("inverse_has_part") == CanonicalRelation("part_of", False, False)
    assert names.canonical("disease_has_finding") == CanonicalRelation("disease_has_finding", False, False)


EDGES = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from([pair[0] for pair in BUNDLED]), st.sampled_from("abcdef")),
    min_size=1,
).map(lambda rows: [row for row in dict.fromkeys(rows) if row[0] != row[2]])


@given(EDGES)
def test_a_doubled_list_of_edges_becomes_half(rows: list[tuple[str, str, str]]) -> None:
    inverse = dict(BUNDLED)
    doubled = rows + [(tail, inverse[name], head) for head, name, tail in rows]
    frame = pl.DataFrame(doubled, schema={"head": pl.String, "relation": pl.String, "tail": pl.String}, orient="row")
    edges = canonical_edges(frame, RelationNames({}, {}))
    assert len(edges) == len(frame)  # rows stay
    symmetric = {name for name, back in BUNDLED if name == back}
    expected = {(min(h, t), r, max(h, t)) if r in symmetric else (h, r, t) for h, r, t in rows}
    assert set(edges.unique().rows()) == expected


def test_symmetric_relations_have_the_smaller_id_as_head_and_other_columns_stay_with_their_row() -> None:
    frame = pl.DataFrame({
        "graph": ["g1", "g2", "g3"], "head": ["b", "a", "b"],
        "relation": ["adjacent_to", "inverse_adjacent_to", "has_part"], "tail": ["a", "b", "a"],
    })  # fmt: skip
    edges = canonical_edges(frame, RelationNames({}, {}))
    assert edges.rows() == [
        ("g1", "a", "adjacent_to", "b"),
        ("g2", "a", "adjacent_to", "b"),
        ("g3", "a", "part_of", "b"),
    ]


def test_a_relation_that_denies_is_told_by_its_name() -> None:
    assert is_negative("disease_excludes_finding")
    assert is_negative("is_not_finding_of_disease")
    assert not any(is_negative(name) for pair in BUNDLED for name in pair)
