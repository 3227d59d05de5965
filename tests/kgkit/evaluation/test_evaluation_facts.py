"""Link prediction of an ENCODER folder: against PyKEEN's evaluator, against loops, and with ends nobody has seen."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pykeen.evaluation import RankBasedEvaluator
from pykeen.models import ERModel
from pykeen.nn.init import PretrainedInitializer
from pykeen.triples import CoreTriplesFactory
from small_encoder import RELATIONS, SmallEncoder, save

from kgkit.encoder.scoring import open_scorer
from kgkit.errors import InputError
from kgkit.evaluation import link_prediction as module
from kgkit.evaluation.link_prediction import KnownFacts, link_prediction, rank_triples, tied_ranks
from kgkit.evaluation.outcomes import Answer, means
from kgkit.ranking import realistic_ranks

COUNT, DIM = 14, 4
FACTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 2))


def integers(*shape: int, seed: int) -> np.ndarray:
    """Small whole numbers: scores are exact in any order of summation, and full of ties."""
    return np.random.default_rng(seed).integers(-2, 3, size=shape).astype(np.float32)


def facts(seed: int) -> dict[str, np.ndarray]:
    """Distinct facts in three parts; the training part has every concept and relation."""
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.integers(0, size, 90) for size in (COUNT, len(RELATIONS), COUNT)], axis=1)
    chain = np.array([(row, row % len(RELATIONS), (row + 1) % COUNT) for row in range(COUNT)])
    rest = np.unique(drawn, axis=0)
    rest = generator.permutation(rest[~(rest[:, None] == chain[None]).all(axis=2).any(axis=1)])
    return {"train": np.concatenate([chain, rest[24:]]), "valid": rest[:6], "test": rest[6:24]}


@pytest.fixture
def free() -> SmallEncoder:
    """An encoder of free whole-numbered vectors with DistMult."""
    concepts = [f"test:{row:02d}" for row in range(COUNT)]
    weight = integers(len(RELATIONS), DIM, seed=3)
    return SmallEncoder(concepts, integers(COUNT, DIM, seed=2), facts=facts(7), scorer={"weight": weight})


def figures(answer: Answer, part: str = "test") -> dict[str, float]:
    outcomes = answer.parts[part]
    return means(outcomes.columns, np.ones(len(outcomes.queries), dtype=np.int64))


def pykeen_results(vectors: torch.Tensor, weight: torch.Tensor, parts: dict[str, np.ndarray], name: str) -> Any:
    every = torch.from_numpy(np.concatenate(list(parts.values())))
    if name == "complex":  # ours keeps real and imaginary part next to each other
        vectors, weight = (torch.view_as_complex(side.reshape(len(side), -1, 2)) for side in (vectors, weight))

    def fixed(rows: torch.Tensor) -> dict[str, Any]:
        stored = torch.view_as_real(rows) if rows.is_complex() else rows
        return {"shape": rows.shape[1:], "dtype": rows.dtype, "initializer": PretrainedInitializer(stored)}

    model = ERModel(
        triples_factory=CoreTriplesFactory(every, num_entities=COUNT, num_relations=len(RELATIONS)), interaction=name,
        entity_representations_kwargs=fixed(vectors), relation_representations_kwargs=fixed(weight), random_seed=0,
    )  # fmt: skip
    return RankBasedEvaluator().evaluate(
        model=model, mapped_triples=torch.from_numpy(parts["test"]), additional_filter_triples=every, batch_size=8,
        use_tqdm=False,
    )  # fmt: skip


@pytest.mark.parametrize("interaction", ["distmult", "complex"])
def test_figures_equal_pykeens_evaluator(tmp_path: Path, free: SmallEncoder, interaction: str) -> None:
    folder = replace(free, interaction=interaction).write(tmp_path / "encoder")
    answer = link_prediction(folder)
    weight = torch.from_numpy(free.scorer["weight"])
    result = pykeen_results(torch.from_numpy(free.vectors), weight, dict(free.facts), interaction)
    assert len(np.unique(answer.parts["test"].columns["mrr"])) > 5
    for ours, theirs in (
        ("mrr", "both.realistic.inverse_harmonic_mean_rank"), ("mean_rank", "both.realistic.arithmetic_mean_rank"),
        ("tail_mrr", "tail.realistic.inverse_harmonic_mean_rank"), ("hits_at_1", "both.realistic.hits_at_1"),
        ("head_mrr", "head.realistic.inverse_harmonic_mean_rank"), ("hits_at_3", "both.realistic.hits_at_3"),
        ("hits_at_10", "both.realistic.hits_at_10"),
    ):  # fmt: skip
        assert figures(answer)[ours] == pytest.approx(result.get_metric(theirs), abs=1e-6), ours


@given(FACTS, st.integers(0, 2), st.integers(0, 2))
def test_known_ends_are_those_of_a_plain_loop(drawn: np.ndarray, given_end: int, relation: int) -> None:
    known = KnownFacts(drawn, num_relations=3)
    keys = np.array([given_end, given_end]), np.array([relation, relation])
    for (starts, ends), this, other in ((known.tails(*keys), 0, 2), (known.heads(*keys), 2, 0)):
        wanted = sorted({row[other] for row in drawn.tolist() if row[this] == given_end and row[1] == relation})
        assert sorted(ends[starts[0] : starts[1]].tolist()) == wanted
        assert sorted(ends[starts[1] : starts[2]].tolist()) == wanted


def test_chunks_and_blocks_change_nothing(tmp_path: Path, free: SmallEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, scorer = open_scorer(free.write(tmp_path / "encoder"))
    known = KnownFacts(np.concatenate(list(free.facts.values())), len(RELATIONS))
    at_once = rank_triples(vectors, scorer, known, free.facts["test"])
    monkeypatch.setattr(module, "_SCORES", 3 * COUNT)
    monkeypatch.setattr(module, "_BLOCK", 4)
    np.testing.assert_array_equal(rank_triples(vectors, scorer, known, free.facts["test"]), at_once)


@given(FACTS)
def test_tied_ranks_are_those_of_equal_scores(drawn: np.ndarray) -> None:
    ranks = tied_ranks(KnownFacts(drawn, num_relations=3), drawn, num_candidates=5)
    for side, (right, other) in enumerate(((2, 0), (0, 2))):
        known = np.zeros((len(drawn), 5), dtype=bool)
        for row, query in enumerate(drawn):
            same = drawn[(drawn[:, other] == query[other]) & (drawn[:, 1] == query[1])]
            known[row, same[:, right]] = True
        equal = realistic_ranks(np.zeros((len(drawn), 5)), drawn[:, right], known)
        np.testing.assert_array_equal(ranks[side], equal)


def test_an_unseen_end_ties_with_everything_and_is_counted(tmp_path: Path, free: SmallEncoder) -> None:
    train = free.facts["train"]
    parts = dict(free.facts) | {"train": train[(train[:, [0, 2]] != 3).all(axis=1)]}
    answer = link_prediction(replace(free, facts=parts).write(tmp_path / "encoder"))
    touched = (parts["test"][:, [0, 2]] == 3).any(axis=1)
    assert 0 < touched.sum() < len(touched)
    assert answer.about["unseen"]["test"] == {"unseen": touched.sum(), "tied": touched.sum()}
    tied = tied_ranks(KnownFacts(np.concatenate(list(parts.values())), len(RELATIONS)), parts["test"], COUNT)
    np.testing.assert_allclose(answer.parts["test"].columns["mean_rank"][touched], tied.mean(axis=0)[touched])
    whole = link_prediction(free.write(tmp_path / "whole"))
    assert whole.about["unseen"]["test"] == {"unseen": 0, "tied": 0}


def test_a_text_tower_ranks_unseen_ends_by_their_names(tmp_path: Path, chest: SmallEncoder) -> None:
    parts = {
        "train": np.array([[0, 1, 2], [2, 1, 4]]),
        "test": np.array([[0, 1, 4]]),
        "inductive": np.array([[5, 1, 0]]),
    }
    answer = link_prediction(replace(chest, facts=parts).write(tmp_path / "encoder"))
    assert answer.about["unseen"] == {"test": {"unseen": 0, "tied": 0}, "inductive": {"unseen": 1, "tied": 0}}
    vectors = chest.vectors  # distmult starts as the inner product
    better = (vectors @ vectors[5] > vectors[0] @ vectors[5]).sum()
    assert 1 / answer.parts["inductive"].columns["tail_mrr"][0] == 1 + better
    unknown = {**parts, "test": np.array([[0, 2, 4]])}  # a relation without a training fact
    answer = link_prediction(replace(chest, facts=unknown).write(tmp_path / "unknown"))
    assert answer.about["unseen"]["test"] == {"unseen": 1, "tied": 1}


def write_benchmark(folder: Path, parts: dict[str, np.ndarray], concepts: list[str]) -> Path:
    folder.mkdir()
    for part, rows in parts.items():
        names = {**dict(enumerate(RELATIONS)), 9: "unheard_of"}
        lines = "".join(f"{concepts[h]}\t{names[r]}\t{concepts[t]}\n" for h, r, t in rows.tolist())
        (folder / f"{part}.txt.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def test_a_benchmark_of_the_same_facts_gives_the_same_figures(tmp_path: Path, free: SmallEncoder) -> None:
    folder = free.write(tmp_path / "encoder")
    data = write_benchmark(tmp_path / "kg", dict(free.facts), list(free.concepts))
    assert figures(link_prediction(folder, data)) == figures(link_prediction(folder))
    assert link_prediction(folder, data).notes == []


def test_a_benchmark_entity_without_a_vector_is_tied_and_trained_facts_are_told(
    tmp_path: Path, free: SmallEncoder
) -> None:
    folder = free.write(tmp_path / "encoder")
    parts = dict(free.facts) | {"test": np.concatenate([free.facts["train"][:2], [[0, 1, COUNT], [0, 9, 1]]])}
    data = write_benchmark(tmp_path / "kg", parts, [*free.concepts, "other:thing"])
    answer = link_prediction(folder, data)
    assert answer.about["unseen"]["test"] == {"unseen": 2, "tied": 2}
    every = np.concatenate(list(free.facts.values()))
    tails = len(np.unique(every[(every[:, 0] == 0) & (every[:, 1] == 1), 2]))  # filtered where a tail is asked for
    assert tails > 0
    middle = (COUNT + 1) / 2
    assert answer.parts["test"].columns["mean_rank"][2:].tolist() == [middle - tails / 4, middle]
    assert answer.notes == ["2 of the 4 test facts were trained on"]


def test_wrong_folders_are_refused_by_name(tmp_path: Path, free: SmallEncoder) -> None:
    folder = free.write(tmp_path / "encoder")
    strangers = write_benchmark(tmp_path / "kg", dict(free.facts), [f"x:{row}" for row in range(COUNT)])
    with pytest.raises(InputError, match=r"kg: none of its 14 entities is a concept of .*encoder"):
        link_prediction(folder, strangers)
    with pytest.raises(InputError, match=r"nowhere: a benchmark has train\.txt or train\.txt\.gz"):
        link_prediction(folder, tmp_path / "nowhere")
    (folder / "evaluation" / "triples.parquet").unlink()
    with pytest.raises(InputError, match=r"triples\.parquet: missing, so it is not known what this encoder never saw"):
        link_prediction(folder)
    save({"scorer.weight": integers(2, DIM, seed=0), "concepts.weight": free.vectors}, folder / "graph.safetensors")
    with pytest.raises(InputError, match=r"graph\.safetensors: the relation scorer does not fit .*size mismatch"):
        link_prediction(folder)


def test_nothing_held_out_is_said(tmp_path: Path, free: SmallEncoder) -> None:
    folder = replace(free, facts={"train": free.facts["train"]}).write(tmp_path / "encoder")
    assert link_prediction(folder).cannot == "no fact was held out"
