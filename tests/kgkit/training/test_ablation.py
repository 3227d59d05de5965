"""ablate: what differs between variants is what was asked for, and the table is what the encoders say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tiny_thorax import SMALL

from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.evaluation.evaluate import evaluate
from kgkit.evaluation.retrieval import NO_TEXT
from kgkit.files import read_manifest, write_json_atomically
from kgkit.recipe import recipe_to_dict
from kgkit.training.ablation import SWITCHES, Measurement, Variant, ablate, make_variants

TASK = Measurement("link-prediction")  # it reads no text, so the encoders need no ONNX


@pytest.fixture
def variants(tiny_text_model: Path) -> list[Variant]:
    settings = [f'text.model="{tiny_text_model}"', *SMALL, "train.steps=4"]
    return make_variants("fast", settings, ["graph", "relation"], [], shuffled=True)


def differences(one: EncoderRecipe, other: EncoderRecipe) -> set[str]:
    left, right = recipe_to_dict(one), recipe_to_dict(other)
    return {f"{table}.{key}" for table in left if isinstance(left[table], dict)
            for key in left[table] if left[table][key] != right[table][key]}  # fmt: skip


def test_a_variant_differs_from_the_full_recipe_in_its_switch_alone(variants: list[Variant]) -> None:
    assert [variant.name for variant in variants] == ["fast", "without graph", "without relation", "shuffled-graph"]
    changed = [differences(variants[0].recipe, variant.recipe) for variant in variants[1:]]
    assert changed == [{"graph.family", "graph.fanouts"}, {"objectives.relation"}, {"held_out.control"}]


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_every_switch_gives_a_recipe_that_can_be_read(switch: str) -> None:
    full, without = make_variants("default", ["train.hard_negatives=1"], [switch], [], shuffled=False)
    assert differences(full.recipe, without.recipe)


def test_settings_reach_baselines_too() -> None:
    names = ["sapbert", "kad", "kge", "untrained"]
    variants = make_variants("default", ["held_out.names=0.2"], [], names, shuffled=False)
    assert [variant.name for variant in variants] == ["default", *names]
    assert {variant.recipe.held_out.names for variant in variants} == {0.2}


def test_a_budget_does_not_train_the_untrained() -> None:
    settings = ["train.cpu_minutes=15", "train.steps=1000"]
    variants = make_variants("default", settings, [], ["sapbert", "untrained"], shuffled=False)
    budgets = {v.name: (v.recipe.train.steps, v.recipe.train.cpu_minutes) for v in variants}
    assert budgets == {"default": (1000, 15.0), "sapbert": (1000, 15.0), "untrained": (0, 0.0)}


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(InputError, match="cannot switch off 'grpah'; did you mean 'graph'"):
        make_variants("fast", [], ["grpah"], [], shuffled=False)


def test_the_table_is_what_the_encoders_say(
    tmp_path: Path, tiny_kg: Path, variants: list[Variant], no_onnx: None
) -> None:
    out = tmp_path / "table"
    chosen = [variants[0], variants[2]]
    result = ablate(tiny_kg, out, chosen, [0, 1], [TASK])
    assert json.loads((out / "ablation.json").read_text()) == json.loads(json.dumps(result))
    first, second = result["rows"]
    for row, name in ((first, "fast"), (second, "without-relation")):
        by_seed = [evaluate(out / name / f"seed-{seed}", "link-prediction")["rows"][0]["mrr"] for seed in (0, 1)]
        assert row["by_seed"] == pytest.approx(by_seed)
        assert row["mean"] == pytest.approx(np.mean(by_seed))
        assert row["sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert first["difference"] is None
    # Queries of both seeds are pooled, so a seed with more facts weighs more.
    assert second["difference"] == pytest.approx(first["mean"] - second["mean"], abs=0.02)
    low, high = second["difference_interval"]
    assert low <= second["difference"] <= high
    assert f"| without relation | {second['mean']:.4f}" in (out / "ablation.md").read_text(encoding="utf-8")

    digests = {seed: load_encoder(out / "fast" / f"seed-{seed}").digest for seed in (0, 1)}
    shutil.rmtree(out / "without-relation" / "seed-1")
    again = ablate(tiny_kg, out, chosen, [0, 1], [TASK])
    for row in (*result["rows"], *again["rows"]):
        assert row.pop("cpu_minutes") > 0  # one of the encoders was trained anew, which took its own time
    assert again == result, "what is there is not trained again, and what is gone comes out the same"
    assert digests == {seed: load_encoder(out / "fast" / f"seed-{seed}").digest for seed in (0, 1)}

    manifest = read_manifest(out / "fast" / "seed-0", "encoder")
    write_json_atomically(out / "fast" / "seed-0" / "manifest.json", manifest | {"graph_digest": "another"})
    with pytest.raises(InputError, match="seed-0: holds an encoder of another graph; remove it"):
        ablate(tiny_kg, out, chosen, [0, 1], [TASK])


def test_a_task_whose_figure_is_no_mean_is_measured_as_evaluate_measures_it(
    tmp_path: Path, tiny_kg: Path, tiny_encoder: Path, variants: list[Variant]
) -> None:
    data = tmp_path / "pairs"
    data.mkdir()
    pairs = [("lung", "heart", 1), ("lung", "lungs", 3), ("rib", "tb", 0), ("effusion", "fluid in the lung", 2)]
    header = "snomed_label_1\tsnomed_label_2\tmean_rating\n"
    (data / "EHR-RelA.tsv").write_text(header + "".join(f"{a}\t{b}\t{c}\n" for a, b, c in pairs), encoding="utf-8")
    shutil.copytree(tiny_encoder, tmp_path / "out" / "fast" / "seed-0")
    recipe = TypeAdapter(EncoderRecipe).validate_python(load_encoder(tiny_encoder).manifest["recipe"])
    result = ablate(tiny_kg, tmp_path / "out", [Variant("fast", recipe)], [0], [Measurement("relatedness", data)])
    row, letters = result["rows"]
    expected, its_letters = evaluate(tiny_encoder, "relatedness", data)["rows"]
    assert (letters["variant"], letters["mean"]) == ("lexical", pytest.approx(its_letters["spearman"]))
    assert (row["figure"], row["mean"]) == ("spearman", pytest.approx(expected["spearman"]))
    assert row["interval"] == pytest.approx(expected["spearman_interval"])


def test_a_task_that_the_first_variant_cannot_do_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "ring"
    folder.mkdir()
    facts = [f"e{i}\tnext\te{(i + 1) % 9}" for i in range(9)]
    for name, lines in (("train", facts), ("valid", facts[:1]), ("test", facts[1:3])):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = ["train.steps=2", "relation.concept_dim=8"]
    result = ablate(folder, tmp_path / "out", make_variants("kge", settings, [], [], shuffled=False), [0],
                    [Measurement("synonym"), TASK])  # fmt: skip
    assert [row.get("cannot") for row in result["rows"]] == [NO_TEXT, None]
    assert "## synonym: kge cannot be measured: it has no text tower" in (tmp_path / "out" / "ablation.md").read_text()


def test_a_folder_of_another_recipe_is_not_overwritten(
    tmp_path: Path, tiny_kg: Path, variants: list[Variant], no_onnx: None
) -> None:
    ablate(tiny_kg, tmp_path, variants[:1], [0], [TASK])
    train = dataclasses.replace(variants[0].recipe.train, steps=5)
    other = Variant("fast", dataclasses.replace(variants[0].recipe, train=train))
    with pytest.raises(InputError, match="seed-0: holds an encoder of another recipe"):
        ablate(tiny_kg, tmp_path, [other], [0], [TASK])


def test_two_variants_of_one_name_are_refused(tmp_path: Path, tiny_kg: Path, variants: list[Variant]) -> None:
    with pytest.raises(InputError, match="two variants have one name"):
        ablate(tiny_kg, tmp_path, [variants[0], variants[0]], [0], [TASK])
