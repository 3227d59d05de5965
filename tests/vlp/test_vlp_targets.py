from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_vlp import CARDIOMEGALY, DISEASE, EFFUSION, MASS

from vlp.config import TargetConfig
from vlp.data.prepared import MENTION_COLUMNS
from vlp.data.targets import choose_concepts, close_targets, report_states
from vlp.knowledge import Knowledge
from vlp.types import TargetValue

NORMAL = "finding:normal"
CONCEPTS = (CARDIOMEGALY, DISEASE, EFFUSION, MASS)
RANK = {"absent": 0, "uncertain": 1, "present": 2}


def mention_table(*rows: tuple[str, str, str], **changed: str) -> pl.DataFrame:
    """(study, concept, certainty) as mentions; other fields can be set for all."""
    fields = {"section": "findings", "kind": "observation", "temporality": "recent", "experiencer": "patient"} | changed
    records = [
        dict.fromkeys(MENTION_COLUMNS) | fields | {"study_id": study, "concept": concept, "certainty": certainty}
        for study, concept, certainty in rows
    ]
    return pl.DataFrame(records, schema=MENTION_COLUMNS)


def targets_of(mentions: pl.DataFrame, studies: list[str], knowledge: Knowledge, concepts: tuple[str, ...] = CONCEPTS):
    return close_targets(report_states(mentions, studies, knowledge), concepts, knowledge)


def test_a_present_child_makes_its_parent_present_and_nothing_else(knowledge: Knowledge) -> None:
    row = targets_of(mention_table(("s", EFFUSION, "present")), ["s"], knowledge)[0]
    assert row.tolist() == [
        TargetValue.UNMENTIONED, TargetValue.PRESENT, TargetValue.PRESENT, TargetValue.UNMENTIONED,
    ]  # fmt: skip


def test_an_absent_parent_makes_its_children_absent_and_nothing_else(knowledge: Knowledge) -> None:
    row = targets_of(mention_table(("s", DISEASE, "absent")), ["s"], knowledge)[0]
    assert row.tolist() == [TargetValue.ABSENT, TargetValue.ABSENT, TargetValue.ABSENT, TargetValue.UNMENTIONED]


@pytest.mark.parametrize("certainty", ["absent", "uncertain"])
def test_a_child_not_present_says_nothing_of_its_parent(knowledge: Knowledge, certainty: str) -> None:
    row = targets_of(mention_table(("s", EFFUSION, certainty)), ["s"], knowledge)[0]
    assert row[1] == TargetValue.UNMENTIONED


def test_present_beats_uncertain_beats_absent(knowledge: Knowledge) -> None:
    mentions = mention_table(
        ("a", MASS, "absent"), ("a", MASS, "present"), ("b", MASS, "uncertain"), ("b", MASS, "absent"),
        ("c", DISEASE, "absent"), ("c", EFFUSION, "present"),
    )  # fmt: skip
    targets = targets_of(mentions, ["a", "b", "c"], knowledge)
    assert targets[0, 3] == TargetValue.PRESENT
    assert targets[1, 3] == TargetValue.UNCERTAIN
    assert targets[2].tolist() == [
        TargetValue.ABSENT,
        TargetValue.PRESENT,
        TargetValue.PRESENT,
        TargetValue.UNMENTIONED,
    ]


@pytest.mark.parametrize(
    "changed",
    [{"section": "indication"}, {"section": ""}, {"kind": "anatomy"}, {"temporality": "historical"},
     {"temporality": "hypothetical"}, {"experiencer": "family"}],
)  # fmt: skip
def test_what_is_not_said_of_the_patient_now_does_not_count(knowledge: Knowledge, changed: dict[str, str]) -> None:
    states = report_states(mention_table(("s", MASS, "present"), **changed), ["s"], knowledge)
    assert (close_targets(states, CONCEPTS, knowledge) == TargetValue.UNMENTIONED).all()
    assert sum(states.unused.values()) == 1


def test_flipping_present_to_absent_changes_the_targets(knowledge: Knowledge) -> None:
    present, absent = (targets_of(mention_table(("s", MASS, c)), ["s"], knowledge) for c in ("present", "absent"))
    assert (present != absent).any()


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ([(NORMAL, "present"), (MASS, "present")], TargetValue.ABSENT),
        ([(MASS, "present")], TargetValue.ABSENT),
        ([(MASS, "present"), (EFFUSION, "uncertain")], TargetValue.ABSENT),
        ([(MASS, "absent"), (EFFUSION, "uncertain")], TargetValue.UNCERTAIN),
        ([(NORMAL, "present"), (EFFUSION, "uncertain")], TargetValue.UNCERTAIN),
        ([(MASS, "absent"), (EFFUSION, "absent")], TargetValue.PRESENT),
        ([(NORMAL, "present")], TargetValue.PRESENT),
        ([(NORMAL, "absent"), (EFFUSION, "absent")], TargetValue.ABSENT),
        ([], TargetValue.UNMENTIONED),
    ],
)
def test_normal_is_what_the_whole_report_says(
    knowledge: Knowledge, said: list[tuple[str, str]], normal: TargetValue
) -> None:
    mentions = mention_table(*(("a", concept, certainty) for concept, certainty in said), ("b", MASS, "absent"))
    assert targets_of(mentions, ["a", "b"], knowledge, (NORMAL,))[:, 0].tolist() == [normal, TargetValue.PRESENT]


cells = st.tuples(st.sampled_from("xyz"), st.sampled_from(CONCEPTS), st.sampled_from(sorted(RANK)))


@given(st.lists(cells, max_size=15))
def test_equal_to_a_slow_reading_of_the_rules(knowledge_rows: list[tuple[str, str, str]]) -> None:
    knowledge = _KNOWLEDGE[0]
    studies = ["x", "y", "z"]
    found = targets_of(mention_table(*knowledge_rows), studies, knowledge)
    parent = {CARDIOMEGALY: DISEASE, EFFUSION: DISEASE}
    for row, study in enumerate(studies):
        said: dict[str, str] = {}
        for name, concept, certainty in knowledge_rows:
            if name == study and RANK[certainty] > RANK.get(said.get(concept, ""), -1):
                said[concept] = certainty
        for column, concept in enumerate(CONCEPTS):
            below = [concept, *(child for child, up in parent.items() if up == concept)]
            above = [concept, *([parent[concept]] if concept in parent else [])]
            if any(said.get(other) == "present" for other in below):
                expected = TargetValue.PRESENT
            elif said.get(concept) == "uncertain":
                expected = TargetValue.UNCERTAIN
            elif any(said.get(other) == "absent" for other in above):
                expected = TargetValue.ABSENT
            else:
                expected = TargetValue.UNMENTIONED
            assert found[row, column] == expected


_KNOWLEDGE: list[Knowledge] = []


@pytest.fixture(autouse=True, scope="module")
def _share_knowledge(knowledge: Knowledge):
    _KNOWLEDGE.append(knowledge)  # hypothesis cannot use fixtures of function scope
    yield
    _KNOWLEDGE.clear()


def test_frequent_concepts_and_their_ancestors_become_queries(knowledge: Knowledge) -> None:
    rows = [(f"s{n}", CARDIOMEGALY, "present") for n in range(4)] + [
        (f"s{n}", EFFUSION, "present") for n in range(3, 6)
    ]
    rows += [("s9", MASS, "present"), *((f"s{n}", MASS, "absent") for n in range(6))]
    studies = [f"s{n}" for n in range(10)]
    states = report_states(mention_table(*rows), studies, knowledge)
    chosen = choose_concepts(states, TargetConfig(min_count=3, max_fraction=0.9), knowledge)
    assert {c: chosen[c] for c in (CARDIOMEGALY, DISEASE, EFFUSION)} == {CARDIOMEGALY: 4, DISEASE: 6, EFFUSION: 3}
    assert MASS not in chosen
    assert DISEASE not in choose_concepts(states, TargetConfig(min_count=3, max_fraction=0.5), knowledge)


def test_an_unnamed_ancestor_with_the_same_studies_asks_nothing_new(knowledge: Knowledge) -> None:
    rows = [(f"s{n}", EFFUSION, "present") for n in range(4)]
    states = report_states(mention_table(*rows), [f"s{n}" for n in range(9)], knowledge)
    chosen = choose_concepts(states, TargetConfig(min_count=3), knowledge)
    assert EFFUSION in chosen
    assert DISEASE not in chosen
    kept = choose_concepts(states, TargetConfig(min_count=3, max_overlap=1), knowledge)
    assert kept == {EFFUSION: 4, DISEASE: 4} | {c: 4 for c in kept if c not in (EFFUSION, DISEASE)}


def test_unlinked_and_unknown_concepts_are_counted(knowledge: Knowledge) -> None:
    mentions = mention_table(
        ("s", "umls:C4242424", "present"), ("s", "finding:no_such", "present"), ("s", MASS, "present")
    )
    mentions = pl.concat([mentions, mention_table(("s", None, "present"))])
    states = report_states(mentions, ["s"], knowledge)
    assert states.unused == {"concept unknown to this encoder": 2, "not linked to a concept": 1}
    assert np.asarray(states.states["present"].toarray()).sum() == 1
