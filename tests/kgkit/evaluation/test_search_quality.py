"""Search quality: against ranks counted by hand, blind to what was held out, typos as described."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_encoder import SmallEncoder

from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.names import normalise
from kgkit.errors import InputError
from kgkit.evaluation.outcomes import Answer, figures_of, refuse_unpaired
from kgkit.evaluation.search_quality import (
    MOST_VARIANTS,
    search_index,
    search_quality,
    searched_ranks,
    seen_names,
    with_typos,
)
from kgkit.search.build import build_index
from kgkit.search.concept_search import MODES, open_search


@pytest.fixture(scope="module")
def answers(chest_dir: Path) -> dict[str, Answer]:
    return search_quality(chest_dir)


def test_ranks_are_those_of_a_search_in_an_index_without_the_held_out_names(
    chest: SmallEncoder, chest_dir: Path, answers: dict[str, Answer], tmp_path: Path
) -> None:
    build_index(chest_dir, names=seen_names(load_encoder(chest_dir)), out=tmp_path / "index")
    search = open_search(chest_dir, tmp_path / "index")
    asked = [(name, {chest.concepts[row] for row in rows}) for name, rows, part in chest.held_out_names
             if part == "test"]  # fmt: skip
    for mode in MODES:
        written = [(name, right) for name, right in asked]
        typos = [(with_typos(name, seed), right) for seed in range(MOST_VARIANTS) for name, right in asked]
        for part, queries in (("written", written), ("typos", typos)):
            found_ranks = answers[mode].parts[part].columns["mrr"]
            for (text, right), found in zip(queries, found_ranks, strict=True):
                hits = search.search([text], 100, mode=mode)[0]
                scores = {hit.concept: hit.score for hit in hits}
                own = max(scores.get(concept, -9) for concept in right)
                rank = 1 + sum(score > own for concept, score in scores.items() if concept not in right)
                ties = sum(score == own for concept, score in scores.items() if concept not in right)
                assert found == pytest.approx(0 if own == -9 else 1 / (rank + ties / 2), rel=0.35), (mode, text)


def test_names_are_resampled_with_all_their_typos(answers: dict[str, Answer]) -> None:
    for answer in answers.values():
        written, typos = answer.parts["written"], answer.parts["typos"]
        assert answer.about["typos_per_name"] == MOST_VARIANTS
        assert list(typos.queries) == list(written.queries) * MOST_VARIANTS
        np.testing.assert_array_equal(typos.units, np.tile(written.units, MOST_VARIANTS))


def test_all_modes_are_asked_the_same(answers: dict[str, Answer]) -> None:
    assert list(answers) == ["hybrid", "dense", "lexical"]
    for mode in MODES:
        assert list(answers[mode].parts) == ["written", "typos"]
        refuse_unpaired(answers["hybrid"], answers[mode], mode)
        figures = figures_of(answers[mode].parts["written"])
        assert figures.keys() == {"mrr", "hits_at_1", "hits_at_5", "hits_at_10"}
        assert 0 < figures["mrr"] <= 1


def test_the_same_question_has_the_same_answer(chest_dir: Path, answers: dict[str, Answer]) -> None:
    again = search_quality(chest_dir)
    for mode in MODES:
        for part, outcomes in answers[mode].parts.items():
            np.testing.assert_array_equal(outcomes.columns["mrr"], again[mode].parts[part].columns["mrr"])


def test_parts_are_measured_apart(chest_dir: Path, chest: SmallEncoder, answers: dict[str, Answer]) -> None:
    asked = {row[2] for row in chest.held_out_names}
    assert {"test", "inductive"} <= asked
    for part in asked - {"test"}:
        found = search_quality(chest_dir, part=part)
        assert len(found["hybrid"].parts["written"].queries) == sum(row[2] == part for row in chest.held_out_names)
        assert not set(found["hybrid"].parts["written"].queries) & set(answers["hybrid"].parts["written"].queries)
    nothing = search_quality(chest_dir, part="train")
    assert {answer.cannot for answer in nothing.values()} == {"nothing was held out"}


def test_held_out_names_are_not_among_the_seen(chest: SmallEncoder, chest_dir: Path) -> None:
    hidden = {normalise(name) for name, _, _ in chest.held_out_names}
    names = load_encoder(chest_dir).names["name"].to_list()
    seen = seen_names(load_encoder(chest_dir))["name"].to_list()
    assert sorted(seen) == sorted(name for name in names if normalise(name) not in hidden)
    assert 0 < len(seen) < len(names)


def test_without_a_text_tower_letters_alone_are_measured(tmp_path: Path, chest: SmallEncoder) -> None:
    found = search_quality(replace(chest, tower=None).write(tmp_path / "kge"))
    assert found["hybrid"].cannot == found["dense"].cannot == "it has no text tower, so it cannot read the queries"
    assert figures_of(found["lexical"].parts["written"])["mrr"] > 0


def test_an_encoder_that_does_not_say_what_was_held_out_is_refused(tmp_path: Path, chest: SmallEncoder) -> None:
    folder = chest.write(tmp_path / "encoder")
    (folder / "evaluation" / "names.parquet").unlink()
    with pytest.raises(InputError, match=r"evaluation/names\.parquet: missing"):
        search_quality(folder)


@given(st.text(alphabet="abcde -é", max_size=40), st.integers(0, 5))
def test_every_long_word_has_one_typo(text: str, seed: int) -> None:
    typed = with_typos(text, seed)
    assert typed == with_typos(text, seed)
    for before, after in zip(text.split(" "), typed.split(" "), strict=True):
        letters = sum(letter.isalpha() for letter in before)
        assert (before == after) == (letters < 5)
        assert abs(len(before) - len(after)) <= 1


def test_modes_may_be_asked_apart(chest_dir: Path, answers: dict[str, Answer]) -> None:
    alone = search_quality(chest_dir, ["lexical"])
    assert list(alone) == ["lexical"]
    np.testing.assert_array_equal(alone["lexical"].parts["typos"].columns["mrr"],
                                  answers["lexical"].parts["typos"].columns["mrr"])  # fmt: skip


def test_ranks_by_search_are_those_of_its_hits(chest_dir: Path) -> None:
    with search_index(chest_dir) as search:
        texts = ["rib", "pneumonia", "zzz"]
        hits = search.search(texts, 100, mode="lexical")
        right = [
            frozenset({hits[0][2].concept}),
            frozenset({hits[1][0].concept, "test:none"}),
            frozenset({"test:none"}),
        ]
        ranks = searched_ranks(search, "lexical", texts, right)
    assert 2 <= ranks[0] <= 4
    assert ranks[1] == 1
    assert ranks[2] == np.inf
    assert not (chest_dir / "index").exists()


def test_the_seed_decides_which() -> None:
    assert len({with_typos("pneumothorax", seed) for seed in range(20)}) > 10
