"""Texts first, facts after: the text tower is that of a run on texts alone, and a resumed run gives the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.training.loop import train_encoder

Recipe = Callable[..., EncoderRecipe]
Train = Callable[..., ConceptEncoder]
HALVES = (
    "train.steps=10", "train.fact_steps=10", "train.text_share=0.5", "train.log_every=1", "relation.live_triples=0"
)  # fmt: skip


def log_of(encoder: ConceptEncoder) -> list[dict[str, Any]]:
    lines = (encoder.folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text_weights(encoder: ConceptEncoder) -> dict[str, torch.Tensor]:
    return load_file(encoder.folder / "text" / "model.safetensors")


def test_each_half_has_its_own_losses(train: Train) -> None:
    log = log_of(train(*HALVES))
    losses = [set(line["losses"]) - {"total"} for line in log]
    assert losses == [{"synonym", "definition"}] * 10 + [{"relation", "alignment"}] * 10
    relation = [line["losses"]["relation"] for line in log[10:]]
    assert np.mean(relation[-3:]) < relation[0]
    assert ["valid_link_mrr" in line for line in log if "valid_score" in line] == [False, True, True]


def test_texts_that_get_no_better_give_way_to_facts(train: Train) -> None:
    encoder = train("train.steps=40", "train.fact_steps=40", *HALVES[2:], "train.curve_points=40", "train.patience=2",
                    "train.text_learning_rate=0", "train.warmup_fraction=0")  # fmt: skip
    losses = [set(line["losses"]) - {"total"} for line in log_of(encoder)]
    texts = sum("synonym" in step for step in losses)
    assert 2 < texts < 20
    assert len(losses) - texts >= 3, "facts have a patience of their own"
    assert all(step == {"relation", "alignment"} for step in losses[texts:])


def test_live_triples_teach_the_text_tower_in_the_first_half(train: Train) -> None:
    live, plain = (train(*HALVES, f"relation.live_triples={count}", "objectives.graph_to_text=1") for count in (8, 0))
    losses = [set(line["losses"]) - {"total"} for line in log_of(live)]
    everything = {"synonym", "definition", "relation", "alignment"}
    assert losses == [everything] * 10 + [{"relation", "alignment"}] * 10
    assert not np.array_equal(live.name_vectors, plain.name_vectors)
    begins = [log_of(encoder)[10]["losses"]["relation"] for encoder in (live, plain)]
    assert begins[0] < begins[1], "what the scorer learnt in the first half was lost"


def test_the_text_tower_is_that_of_a_run_on_texts_alone(train: Train) -> None:
    both = train(*HALVES)
    alone = train("train.steps=10", "objectives.relation=0", "objectives.alignment=0")
    for name, weight in text_weights(alone).items():
        torch.testing.assert_close(text_weights(both)[name], weight, rtol=0, atol=0)
    np.testing.assert_array_equal(both.name_vectors, alone.name_vectors)
    assert not np.array_equal(both.vectors, alone.vectors), "the graph tower learnt nothing"


def test_without_texts_to_learn_from_facts_are_learnt_from_the_start(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published benchmark has one text per entity: nothing is contrasted, and no turn is waited for."""
    monkeypatch.setattr("kgkit.training.saving.export_onnx", lambda tower, path: None)
    monkeypatch.setattr("kgkit.training.loop.measure_encoder", lambda folder, seed: {})
    names = [f"thing {letter}" for letter in "abcdefghij"]
    facts = [f"{one}\tnext to\t{other}\n" for one, other in itertools.pairwise(names)]
    folder = tmp_path / "set"
    folder.mkdir()
    for part, lines in {"train": facts[:-2], "valid": facts[-2:-1], "test": facts[-1:]}.items():
        (folder / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
    train_encoder(folder, tmp_path / "OUT", tiny_recipe(*HALVES))
    log = log_of(load_encoder(tmp_path / "OUT"))
    assert all(set(line["losses"]) - {"total"} <= {"relation", "alignment"} for line in log)
    assert log[0]["losses"]["relation"] > log[-1]["losses"]["relation"]


def test_the_control_has_the_same_text_tower_and_other_concept_vectors(train: Train) -> None:
    true, shuffled = train(*HALVES), train(*HALVES, "held_out.control=shuffled-graph")
    np.testing.assert_array_equal(true.name_vectors, shuffled.name_vectors)
    assert not np.array_equal(true.vectors, shuffled.vectors)


def test_linked_concepts_that_are_spared_change_the_texts_and_so_does_the_graph(train: Train) -> None:
    plain, spared = train(*HALVES), train(*HALVES, "objectives.spare_linked=true")
    shuffled = train(*HALVES, "objectives.spare_linked=true", "held_out.control=shuffled-graph")
    first = [log_of(encoder)[0]["losses"]["synonym"] for encoder in (spared, plain)]
    assert first[0] < first[1], "fewer names to be told apart"
    assert not np.array_equal(spared.name_vectors, plain.name_vectors)
    assert not np.array_equal(spared.name_vectors, shuffled.name_vectors)


def test_facts_learn_from_the_texts_as_they_are_in_the_end(train: Train) -> None:
    """What the concepts were read as before they were final must not matter."""
    still = (*HALVES, "train.text_learning_rate=0", "train.mine_every=1")
    with_bank, without = (train(*still, f"train.hard_negatives={count}") for count in (2, 0))
    facts = [log_of(encoder)[10]["losses"]["relation"] for encoder in (with_bank, without)]
    assert facts[0] == pytest.approx(facts[1], rel=1e-5)


@pytest.mark.parametrize("turns", [HALVES, ("train.steps=10",)])
def test_the_weights_it_came_with_are_mixed_in_once(train: Train, turns: tuple[str, ...]) -> None:
    shares = ("0", "0.25", "1")
    trained, mixed, base = (text_weights(train(*turns, f"text.base_share={share}")) for share in shares)
    untrained = text_weights(train("train.steps=0"))
    changed = 0
    for name, weight in trained.items():
        torch.testing.assert_close(base[name], untrained[name])
        torch.testing.assert_close(mixed[name], 0.75 * weight + 0.25 * untrained[name])
        changed += not torch.equal(weight, untrained[name])
    assert changed


@pytest.mark.parametrize("stopped_at", [7, 15])
def test_a_run_stopped_in_either_half_resumes_to_the_very_same(
    stopped_at: int, train: Train, tmp_path: Path, tiny_kg: Path, tiny_recipe: Recipe, train_until: Callable[..., None]
) -> None:
    settings = (*HALVES, "train.hard_negatives=1", "train.checkpoint_every=1", "text.base_share=0.3")
    whole = train(*settings)
    train_until(tiny_kg, tmp_path / "stopped", tiny_recipe(*settings), stopped_at)
    train_encoder(tiny_kg, tmp_path / "stopped", tiny_recipe(*settings), resume=True)
    resumed = load_encoder(tmp_path / "stopped")
    assert resumed.digest == whole.digest
    assert resumed.manifest["pairs"] == whole.manifest["pairs"]


def test_no_name_is_read_twice(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concept vectors start from the very vectors that the preferred names have in the folder."""
    encoder = train(
        *HALVES, "objectives.relation=0", "train.graph_learning_rate=0", "graph.family=none", "graph.fanouts=[]"
    )
    row = dict(encoder.names.select("name", "vector").iter_rows())
    np.testing.assert_array_equal(encoder.vectors, encoder.name_vectors[[row[name] for name in encoder.table["name"]]])


def test_processor_time_is_shared_out(train: Train) -> None:
    budget = ("train.steps=100000", "train.fact_steps=100000", "train.text_share=0.5", "train.cpu_minutes=0.1")
    log = log_of(train(*budget, "train.curve_points=2", "train.log_every=1", "relation.live_triples=0"))
    kinds = ["relation" in line["losses"] for line in log]
    assert kinds == sorted(kinds)
    assert 0 < sum(kinds) < len(kinds)
    turn = next(line["cpu_seconds"] for line in log if "relation" in line["losses"])
    assert 2.5 < turn < 4.5
    assert log[-1]["cpu_seconds"] < 8


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_the_texts_is_checked(share: float, tiny_recipe: Recipe) -> None:
    with pytest.raises(InputError, match=rf"'train.text_share' is {share}: expected (greater|less) than"):
        tiny_recipe(f"train.text_share={share}")
