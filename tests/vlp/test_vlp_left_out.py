from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny_vlp import CARDIOMEGALY, DISEASE, EFFUSION, MASS

from kgkit.interface import load_encoder, load_findings
from vlp.config import TrainConfig, VlpRecipe
from vlp.data.dataset import choose_questions
from vlp.data.left_out import leave_out, mask_what_changed
from vlp.data.prepared import MENTION_COLUMNS, PreparedData
from vlp.knowledge import NORMAL, Knowledge, VectorKind
from vlp.queries import vector_of_unseen
from vlp.types import TargetValue


@pytest.mark.parametrize("concept", [EFFUSION, DISEASE])
def test_a_finding_left_out_is_gone_with_all_that_is_narrower(
    data: PreparedData, knowledge: Knowledge, concept: str
) -> None:
    left = leave_out(data, concept, knowledge)
    assert set(left.mentions["concept"].drop_nulls()) & {EFFUSION} == set()
    assert (CARDIOMEGALY in set(left.mentions["concept"])) == (concept == EFFUSION)
    texts = dict(left.studies.select("study_id", "text").iter_rows())
    assert not any("effusion" in text for text in texts.values())
    assert any("heart" in text or "cardiomegaly" in text for text in texts.values()) == (concept == EFFUSION)
    for study_id, start, end, text in left.mentions.select("study_id", "start", "end", "text").iter_rows():
        assert texts[study_id][start:end] == text
    assert leave_out(data, MASS, knowledge).mentions.equals(data.mentions)


def test_words_before_a_colon_are_no_heading(data: PreparedData, knowledge: Knowledge) -> None:
    """Text from outside: a mention may stand before a colon, in a section that has no name, or in a heading."""
    text = "Pleural effusion: unchanged. Heart normal.\nFINDINGS: clear."
    spans = [("Pleural effusion", 0, 16), ("FINDINGS", 43, 51)]
    first = data.mentions.filter(pl.col("concept") == EFFUSION).head(1)
    mentions = pl.concat(
        first.with_columns(study_id=pl.lit("100"), text=pl.lit(word), start=start, end=end, mention=number)
        for number, (word, start, end) in enumerate(spans)
    ).cast(MENTION_COLUMNS)
    studies = data.studies.with_columns(text=pl.lit(text))
    left = leave_out(replace(data, mentions=mentions, studies=studies), EFFUSION, knowledge)
    assert left.mentions.is_empty()
    after = left.studies.filter(study_id="100")["text"][0]
    assert after.split() == ["Heart", "normal.", ":", "clear."]
    assert len(after) == len(text)


def test_after_leaving_out_nothing_is_learnt_of_it(
    data: PreparedData, knowledge: Knowledge, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe
) -> None:
    recipe = replace(tiny_recipe, loss=replace(tiny_recipe.loss, sentence_weight=1.0))
    config = TrainConfig(data.folder, tiny_encoder_dir, Path("OUT"), recipe)
    before, after = (choose_questions(own, config) for own in (data, leave_out(data, EFFUSION, knowledge)))
    assert EFFUSION in [query.concept for query in before.queries]
    assert EFFUSION not in [query.concept for query in after.queries]
    assert len(after.texts["train"].sentences) < len(before.texts["train"].sentences)


def test_what_the_finding_had_implied_is_unknown_and_nothing_else_changes(
    data: PreparedData, knowledge: Knowledge, tiny_encoder_dir: Path, tiny_recipe: VlpRecipe
) -> None:
    recipe = replace(tiny_recipe, targets=replace(tiny_recipe.targets, max_fraction=1.0, max_overlap=1.0))
    config = TrainConfig(data.folder, tiny_encoder_dir, Path("OUT"), recipe)
    whole = choose_questions(data, config)
    left = choose_questions(leave_out(data, EFFUSION, knowledge), config)
    masked = mask_what_changed(left, data, knowledge, closure=True)
    column_of = {query.concept: column for column, query in enumerate(whole.queries)}
    columns = [column_of[query.concept] for query in left.queries]
    implied = {query.concept: 0 for query in left.queries}
    for study_id, row in masked.targets["train"].items():
        before, after = whole.targets["train"][study_id][columns], left.targets["train"][study_id]
        for query, truth, learnt, value in zip(left.queries, before, after, row, strict=True):
            assert value == (learnt if truth == learnt else TargetValue.UNCERTAIN)
            implied[query.concept] += int(truth != learnt)
            assert not (truth == TargetValue.PRESENT and value in (TargetValue.ABSENT, TargetValue.UNMENTIONED))
    assert implied[DISEASE] > 0
    assert implied[CARDIOMEGALY] == 0
    normal = knowledge.concept_of_finding(knowledge.findings[NORMAL])
    assert {concept for concept, count in implied.items() if count} <= {DISEASE, normal}
    assert torch.equal(masked.vectors, left.vectors)


def test_what_was_never_taught_is_asked_through_what_is_broader_and_was(knowledge: Knowledge) -> None:
    query = knowledge.ask(EFFUSION)
    own = torch.from_numpy(knowledge.vectors([query]))[0]
    up, other = torch.nn.functional.normalize(torch.randn(2, len(own)), dim=1)
    assert torch.equal(vector_of_unseen(query, knowledge, {}), own)
    assert torch.equal(vector_of_unseen(query, knowledge, {MASS: other, CARDIOMEGALY: other}), own)
    mixed = vector_of_unseen(query, knowledge, {MASS: other, DISEASE: up})
    assert float(mixed.norm()) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(mixed, torch.nn.functional.normalize(own + up, dim=0), atol=1e-6)
    assert float(mixed @ own) == pytest.approx(float(mixed @ up), abs=1e-5)
    words = knowledge.find("something else")
    assert knowledge.broader(words) == frozenset()


@pytest.mark.parametrize("kind", ["concept", "text", "random", "shuffled"])
def test_the_control_is_asked_through_what_is_broader_than_its_wrong_concept(
    tiny_encoder_dir: Path, kind: VectorKind
) -> None:
    source = Knowledge(load_encoder(tiny_encoder_dir), load_findings(), kind)
    found = {concept: source.broader(source.ask(concept)) for concept in (EFFUSION, CARDIOMEGALY, MASS)}
    right = {concept: source.ancestors(concept) for concept in found}
    assert (found == right) == (kind != "shuffled")
