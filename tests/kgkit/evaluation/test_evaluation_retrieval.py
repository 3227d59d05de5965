"""Synonym and definition retrieval: against plain loops, blind to what was held out, lexical row included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.feature_extraction.text import TfidfVectorizer
from small_encoder import SmallEncoder

from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.names import normalise
from kgkit.errors import InputError
from kgkit.evaluation import name_bank as module
from kgkit.evaluation.lexical import lexical_scores
from kgkit.evaluation.name_bank import TextQueries, concept_blocks, name_bank, queries_of, retrieval_ranks
from kgkit.evaluation.outcomes import Answer
from kgkit.evaluation.retrieval import definition_retrieval, lexical_synonym_retrieval, synonym_retrieval


def ranks_by_label(answer: Answer) -> dict[str, float]:
    return {
        query: float(1 / value)
        for outcomes in answer.parts.values()
        for query, value in zip(outcomes.queries, outcomes.columns["mrr"], strict=True)
    }


def slow_ranks(chest: SmallEncoder, folder: Path) -> dict[str, float]:
    """Every query by plain loops over names; ties share the mean of their ranks."""
    encoder = load_encoder(folder)
    hidden = {normalise(name) for name, _, _ in chest.held_out_names}
    place = {name: row for row, name in enumerate(sorted({name for _, name in chest.names}))}
    found = {}
    for text, owners, part in chest.held_out_names:
        if part == "valid":
            continue
        query = encoder.embed_text([text])[0]
        best = []
        for row, concept in enumerate(chest.concepts):
            vectors = [chest.vectors[row]]
            vectors += [chest.name_vectors[place[name]] for own, name in chest.names
                        if own == concept and normalise(name) not in hidden]  # fmt: skip
            cosine = 0.9 * max(float(vector @ query) for vector in vectors) + 0.1 * float(vectors[0] @ query)
            best.append(round(cosine * 2**20))
        own = max(best[row] for row in owners)
        others = [score for row, score in enumerate(best) if row not in owners]
        rank = 1 + sum(score > own for score in others) + sum(score == own for score in others) / 2
        found[f"{text} -> {' '.join(chest.concepts[row] for row in sorted(owners))}"] = rank
    return found


def test_synonym_ranks_equal_plain_loops(chest: SmallEncoder, chest_dir: Path) -> None:
    answer = synonym_retrieval(chest_dir)
    found, slow = ranks_by_label(answer), slow_ranks(chest, chest_dir)
    assert found.keys() == slow.keys()
    # The slow way reads one text at a time, which moves a cosine by a rounding, so a near tie may fall otherwise.
    assert np.mean([found[query] == pytest.approx(slow[query], abs=1e-9) for query in slow]) > 0.9
    assert [found[query] for query in slow] == pytest.approx(list(slow.values()), abs=1)
    assert {"unambiguous", "ambiguous", "inductive"} == answer.parts.keys()
    assert answer.parts["ambiguous"].queries == ["effusion -> test:29 test:36"]


def test_chunks_and_blocks_change_nothing(chest_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = ranks_by_label(synonym_retrieval(chest_dir))
    monkeypatch.setattr(module, "_SCORES", 200)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert ranks_by_label(synonym_retrieval(chest_dir)) == at_once


def test_a_held_out_name_in_the_folder_helps_nobody(tmp_path: Path, chest: SmallEncoder, chest_dir: Path) -> None:
    """Names stay in the folder for its users; measuring leaves them out, however they are written."""
    hidden = {normalise(name) for name, _, _ in chest.held_out_names}
    assert hidden & {normalise(name) for _, name in chest.names}
    assert not hidden & {normalise(name) for name in name_bank(load_encoder(chest_dir)).names}
    assert hidden <= {normalise(name) for name in name_bank(load_encoder(chest_dir), all_names=True).names}
    # As if the folder had never held them.
    kept = sorted({name for _, name in chest.names if normalise(name) not in hidden})
    place = {name: row for row, name in enumerate(sorted({name for _, name in chest.names}))}
    without = replace(chest, names=[pair for pair in chest.names if pair[1] in kept],
                      name_vectors=chest.name_vectors[[place[name] for name in kept]])  # fmt: skip
    folder = without.write(tmp_path / "encoder")
    assert ranks_by_label(synonym_retrieval(folder)) == ranks_by_label(synonym_retrieval(chest_dir))
    assert ranks_by_label(lexical_synonym_retrieval(folder)) == ranks_by_label(lexical_synonym_retrieval(chest_dir))


def test_a_definition_finds_the_concept_that_is_its_vector(
    tmp_path: Path, chest: SmallEncoder, chest_dir: Path
) -> None:
    encoder = load_encoder(chest_dir)
    vectors = chest.vectors.copy()
    for row, text, _ in chest.held_out_definitions:
        vectors[row] = encoder.embed_text([text])[0]
    folder = replace(chest, vectors=vectors).write(tmp_path / "encoder")
    found = ranks_by_label(definition_retrieval(folder))
    assert len(found) == len(chest.held_out_definitions)
    assert set(found.values()) == {1.0}
    assert max(ranks_by_label(definition_retrieval(chest_dir)).values()) > 1


def test_a_definition_of_two_concepts_stands_for_both(tmp_path: Path, chest: SmallEncoder) -> None:
    query, *_ = chest.held_out_definitions
    reader = load_encoder(chest.write(tmp_path / "first"))
    vectors, definitions = chest.vectors.copy(), list(chest.definitions)
    vectors[30], definitions[30] = reader.embed_text([query[1]])[0], query[1]
    folder = replace(chest, vectors=vectors, definitions=definitions).write(tmp_path / "encoder")
    assert ranks_by_label(definition_retrieval(folder))[f"{query[1]} -> {chest.concepts[query[0]]}"] == 1


def test_an_encoder_without_text_says_so_and_has_a_lexical_row(
    tmp_path: Path, chest: SmallEncoder, chest_dir: Path
) -> None:
    folder = replace(chest, tower=None).write(tmp_path / "kge")
    assert synonym_retrieval(folder) == Answer(cannot="it has no text tower, so it cannot read the queries")
    assert ranks_by_label(lexical_synonym_retrieval(folder)) == ranks_by_label(lexical_synonym_retrieval(chest_dir))


def test_lexical_scores_equal_sklearns_cosine(chest_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 9)
    bank = name_bank(load_encoder(chest_dir))
    texts = ["fluid in lung", "zzz", "Broken   ribs", "pneumonia"]
    scores = np.empty((4, len(bank.starts) - 1), dtype=np.float32)
    fill = lexical_scores(bank, texts)
    fill(0, 3, scores[:3])
    fill(3, 4, scores[3:])
    vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    cosines = (
        vectoriser.fit(bank.names.to_list()).transform(texts) @ vectoriser.transform(bank.names.to_list()).T
    ).toarray()
    wanted = np.array([[row[bank.owners() == concept].max() for concept in range(scores.shape[1])] for row in cosines])
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert scores[1].max() == 0
    assert scores[3].argmax() == 21  # pneumonia


@given(hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(1, 40)), st.integers(1, 50))
def test_blocks_cover_every_concept_once(counts: np.ndarray, rows: int) -> None:
    starts = np.concatenate([[0], counts.cumsum()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ROWS", rows)
        blocks = concept_blocks(starts)
    assert [row for low, high in blocks for row in range(low, high)] == list(range(len(counts)))
    assert all(starts[high] - starts[low] <= rows or high == low + 1 for low, high in blocks)


def test_equal_names_tie_whatever_the_rounding() -> None:
    def fill(first: int, stop: int, out: np.ndarray) -> None:
        out[:] = np.array([0.8, 0.8 + 1e-7, 0.2], dtype=np.float32)

    queries: TextQueries = queries_of(["a", "b"], [[0], [1]])
    assert retrieval_ranks(fill, queries, 3, "test").tolist() == [1.5, 1.5]


def test_an_encoder_that_does_not_say_what_was_held_out_is_refused(tmp_path: Path, chest: SmallEncoder) -> None:
    folder = chest.write(tmp_path / "encoder")
    (folder / "evaluation" / "names.parquet").unlink()
    with pytest.raises(InputError, match=r"evaluation/names\.parquet: missing, .* only encoders made by train-encoder"):
        synonym_retrieval(folder)
    (folder / "evaluation" / "names.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"evaluation/names\.parquet: damaged"):
        synonym_retrieval(folder)
