"""`normal` is answered by the findings, whatever else is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vlp.denial import (
    NORMAL_CONCEPT,
    Denial,
    ResolvedQueries,
    answer_normal,
    denied_rows,
    fit_denial,
    resolve_denial,
)
from vlp.knowledge import AskedConcept
from vlp.types import Query, TargetValue

DIM = 6
DENIAL = Denial(-1.5, -2.0)


def taught(findings: int, others: int = 2) -> list[AskedConcept]:
    """`normal` in the middle of findings and broader concepts."""
    made = [AskedConcept(f"X:{n}", f"x{n}", f"x{n}", is_text_encoded=False, is_finding=True) for n in range(findings)]
    made += [AskedConcept(f"B:{n}", f"b{n}", f"b{n}", is_text_encoded=False, is_finding=False) for n in range(others)]
    normal = AskedConcept(NORMAL_CONCEPT, "Normal chest", "normal", is_text_encoded=True, is_finding=True)
    return [*made[:1], normal, *made[1:]]


def vectors_of(count: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def network(vectors: Tensor) -> Tensor:
    """A network for which each logit depends on its own vector alone: three films."""
    films = torch.randn(3, DIM, generator=torch.Generator().manual_seed(9))
    return 4 * films @ vectors.T


def query(concept: AskedConcept) -> Query:
    return Query(concept.text, concept.concept, concept.is_text_encoded, is_seen=True)


def answers(resolved: ResolvedQueries) -> Tensor:
    return resolved.read(network(resolved.vectors))


@given(st.integers(1, 8), st.data())
def test_answers_do_not_depend_on_what_else_is_asked(findings: int, data: st.DataObject) -> None:
    known, own = taught(findings), vectors_of(findings + 3)
    whole = answers(resolve_denial([query(one) for one in known], own, (known, own), DENIAL))
    torch.testing.assert_close(whole, answer_normal(network(own), known, DENIAL))
    rows = data.draw(st.lists(st.integers(0, len(known) - 1), min_size=1, unique=True))
    some = resolve_denial([query(known[row]) for row in rows], own[rows], (known, own), DENIAL)
    assert len(some.queries) == len(rows)
    torch.testing.assert_close(some.vectors[: len(rows)], own[rows])
    torch.testing.assert_close(answers(some), whole[:, rows])
    part = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    torch.testing.assert_close(answers(some.only(part)), answers(some)[:, part])
    assert [one.concept for one in some.only(part).queries] == [some.queries[row].concept for row in part]


def test_what_is_asked_anyway_is_not_asked_twice() -> None:
    known, own = taught(5), vectors_of(8)
    everything = resolve_denial([query(one) for one in known], own, (known, own), DENIAL)
    assert len(everything.vectors) == len(known)
    alone = resolve_denial([query(known[1])], own[1:2], (known, own), DENIAL)
    assert len(alone.vectors) == 1 + len(denied_rows(known)) == 6


def test_other_vectors_for_the_findings_change_nothing_for_normal() -> None:
    known, own = taught(4), vectors_of(7)
    changed = vectors_of(7, seed=3)
    plain = answers(resolve_denial([query(one) for one in known], own, (known, own), DENIAL))
    renamed = answers(resolve_denial([query(one) for one in known], changed, (known, own), DENIAL))
    torch.testing.assert_close(renamed[:, 1], plain[:, 1])
    assert not torch.allclose(renamed[:, 0], plain[:, 0])


@pytest.mark.parametrize("case", ["no denial", "normal not asked", "no finding taught"])
def test_without_it_every_query_answers_for_itself(case: str) -> None:
    known, own = taught(3), vectors_of(6)
    rows = [0, 2] if case == "normal not asked" else [0, 1, 2]
    denial = None if case == "no denial" else DENIAL
    model = known[1:2] if case == "no finding taught" else known
    resolved = resolve_denial([query(known[row]) for row in rows], own[rows], (model, own[: len(model)]), denial)
    assert torch.equal(answers(resolved), network(own[rows]))


def test_it_is_fitted_to_what_the_reports_say() -> None:
    """On films drawn from the model itself the two numbers come back."""
    known, true, count = taught(4), Denial(-2.0, -3.0), 20_000
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(-2, 1.5, size=(count, len(known))))
    chance = answer_normal(logits, known, true)[:, 1].sigmoid().numpy()
    targets = torch.full((count, len(known)), int(TargetValue.UNMENTIONED), dtype=torch.int8)
    targets[:, 1] = torch.from_numpy((generator.random(count) < chance).astype(np.int8))
    found = fit_denial(known, targets, logits)
    assert found is not None
    assert found.scale == pytest.approx(true.scale, abs=0.15)
    assert found.offset == pytest.approx(true.offset, abs=0.3)
    doubted = torch.cat([targets, targets])  # films of which the reports do not tell are left out
    doubted[count:, 1] = TargetValue.UNCERTAIN
    again = fit_denial(known, doubted, torch.cat([logits, torch.randn_like(logits)]))
    assert again is not None
    assert again.scale == pytest.approx(found.scale)


@pytest.mark.parametrize("case", ["not taught", "no finding", "all normal", "findings higher on normal films"])
def test_where_it_cannot_be_learnt_there_is_none(case: str) -> None:
    known = taught(3)
    logits = torch.randn(50, len(known), generator=torch.Generator().manual_seed(1))
    targets = torch.full((50, len(known)), int(TargetValue.ABSENT), dtype=torch.int8)
    targets[:, 1] = 1
    if case != "all normal":
        targets[:25, 1] = 0
    if case.startswith("findings higher"):
        logits[25:] += 3
    columns = {"not taught": [0, 2, 3], "no finding": [1, 4, 5]}.get(case, list(range(len(known))))
    assert fit_denial([known[column] for column in columns], targets[:, columns], logits[:, columns]) is None
