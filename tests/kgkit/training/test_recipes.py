"""Every bundled recipe stops, goes on and shares its work with a second process without another result."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pykeen.losses import loss_resolver
from tiny_thorax import make_graph, tiny_thorax

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.config import EncoderRecipe
from kgkit.errors import InputError
from kgkit.recipe import load_recipe
from kgkit.training.loop import train_encoder
from kgkit.training.towers import TowersMethod

STEPS = 8
FITTING_LOSSES = set(loss_resolver.lookup_dict) - {"adversarialbcewithlogits", "pairwiselogistic"}
WAYS = {
    "default": ["train.fact_steps=6", "train.definitions=4"],
    "fast": [],
    "sapbert": ["train.mine_every=3"],
    "kad": ["train.mine_every=3", "text.dropout=0"],
    "kge": ["relation.concept_dim=16"],
    "best of sapbert": ["train.keep=best", "train.curve_points=8", "train.text_learning_rate=2e-2"],
}
"""Ways of training; each mines, masks or turns to facts within the few steps. Dropout is each process's own."""


def recipe_of(way: str, text_model: Path) -> EncoderRecipe:
    name = way.split()[-1]
    settings = ["held_out.names=0.1", "held_out.triples=0.1", f"train.steps={STEPS}", "train.checkpoint_every=2",
                "train.log_every=1", "train.precision=fp32"]  # fmt: skip
    if name != "kge":
        settings += [f'text.model="{text_model}"', "text.max_name_tokens=24", "text.max_definition_tokens=24",
                     "train.synonym_pairs=16", "train.text_pairs=16", "relation.triples=16",
                     "text.frozen_layers=0"]  # fmt: skip
    return load_recipe(EncoderRecipe, "encoder", name, [*settings, *WAYS[way]])


def log_of(encoder: Path) -> list[dict[str, Any]]:
    lines = (encoder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "cpu_seconds"} for line in lines]


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_to_the_very_same(
    way: str, no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, train_until: Callable[..., None]
) -> None:
    recipe = recipe_of(way, tiny_text_model)
    train_encoder(tiny_kg, tmp_path / "whole", recipe)
    train_until(tiny_kg, tmp_path / "stopped", recipe, 5)  # a step after the last checkpoint
    train_encoder(tiny_kg, tmp_path / "stopped", recipe, resume=True)
    whole, resumed = load_encoder(tmp_path / "whole"), load_encoder(tmp_path / "stopped")
    assert resumed.digest == whole.digest
    assert log_of(resumed.folder) == log_of(whole.folder)
    for key in ("pairs", "steps", "written_weights"):
        assert resumed.manifest[key] == whole.manifest[key]


LAUNCHED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_recipes import recipe_of
from kgkit.training import loop, saving
saving.export_onnx = lambda tower, path: None
loop.measure_encoder = lambda folder, seed: {{}}
for way in {ways!r}:
    loop.train_encoder(Path({kg!r}), Path({out!r}) / way, recipe_of(way, Path({text!r})))
"""


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_kg: Path, tiny_text_model: Path) -> Callable[[str], Path]:
    """Encoders that two processes have trained together, one launch for each way."""
    folder = tmp_path_factory.mktemp("two")
    here = Path(__file__)
    paths = [str(here.parent), str(here.parents[1] / "encoder"), str(here.parents[2]), str(here.parents[3])]

    def train(way: str) -> Path:
        script = folder / "run.py"
        script.write_text(
            LAUNCHED.format(paths=paths, ways=[way], kg=str(tiny_kg), out=str(folder), text=str(tiny_text_model))
        )
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder / way

    return train


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "sapbert", "kad", "kge"])
def test_two_processes_train_what_one_trains(
    way: str, by_two: Callable[[str], Path], no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path
) -> None:
    train_encoder(tiny_kg, tmp_path / "one", recipe_of(way, tiny_text_model))
    one, two = load_encoder(tmp_path / "one"), load_encoder(by_two(way))
    for ours, theirs in zip(log_of(two.folder), log_of(one.folder), strict=True):
        assert ours["losses"]["total"] == pytest.approx(theirs["losses"]["total"], rel=2e-2)
    assert _cosines(one, two).min() > 0.99


def _cosines(one: ConceptEncoder, two: ConceptEncoder) -> np.ndarray:
    return np.asarray((one.vectors * two.vectors).sum(axis=1))


@pytest.mark.parametrize("way", ["default", "sapbert", "kad"])
def test_a_graph_without_relations_still_teaches_its_texts(
    way: str, no_onnx: None, tmp_path: Path, tiny_text_model: Path
) -> None:
    kg = make_graph(tmp_path, tiny_thorax(relations=False))
    train_encoder(kg, tmp_path / "out", recipe_of(way, tiny_text_model))
    encoder = load_encoder(tmp_path / "out")
    assert np.isfinite(encoder.vectors).all()
    losses = [name for row in log_of(encoder.folder) for name in row["losses"]]
    assert "relation" not in losses
    assert len(losses) >= STEPS


def test_a_graph_without_relations_teaches_free_vectors_nothing(tmp_path: Path, tiny_text_model: Path) -> None:
    kg = make_graph(tmp_path, tiny_thorax(relations=False))
    with pytest.raises(InputError, match="kg: the graph has no relations between concepts, and this recipe reads noth"):
        train_encoder(kg, tmp_path / "out", recipe_of("kge", tiny_text_model))


@pytest.mark.parametrize(
    ("settings", "over"),
    [([], r"\d+%"), (["train.cpu_minutes=5"], r"\d+% of 5 processor minutes")],
)
def test_progress_says_how_fast_it_goes_and_how_long_it_will_take(
    settings: list[str], over: str, no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("kgkit.progress._LOG_INTERVAL_S", 0.0)
    name = ["text.model=" + json.dumps(str(tiny_text_model)), f"train.steps={STEPS}", "train.synonym_pairs=16"]
    train_encoder(tiny_kg, tmp_path / "encoder", load_recipe(EncoderRecipe, "encoder", "sapbert", [*name, *settings]))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training: ")]
    form = re.compile(rf"training: (\d+) pairs, [\d,]+ pairs/s loss \d+\.\d{{3}}, {over}, (\d+) s left ?")
    found = [form.fullmatch(line) for line in lines]
    assert all(found)
    assert len(found) == STEPS
    pairs = [int(match.group(1)) for match in found if match]
    assert pairs == sorted(pairs)
    if not settings:
        assert found[-1] is not None
        assert found[-1].group(2) == "0"


def test_ablate_as_typed(
    tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    small = ["text.model=" + json.dumps(str(tiny_text_model)), "train.steps=3", "train.synonym_pairs=16",
             "train.definitions=4", "relation.triples=16", "held_out.triples=0.1", "graph.hidden_dim=8",
             "text.frozen_layers=0"]  # fmt: skip
    typed = ("kgkit", "ablate", tiny_kg, "--out", tmp_path / "OUT", "--recipe", "fast", "--without", "graph",
             "--baseline", "untrained", "--seeds", "0,1", "--measure", "synonym")  # fmt: skip
    sets = [part for setting in small for part in ("--set", setting)]
    code, printed, _ = command(*typed, *sets)
    assert code == 0
    table = (tmp_path / "OUT" / "ablation.md").read_text(encoding="utf-8")
    assert printed.strip().startswith(table.strip()[:200])
    for row in ("fast", "without graph", "untrained"):
        assert f"| {row} |" in table
    code, printed, _ = command(*typed, *sets, "--json")
    rows = json.loads(printed)["rows"]
    assert [(row["variant"], len(row["by_seed"])) for row in rows] == [
        ("fast", 2), ("without graph", 2), ("untrained", 2), ("lexical", 2),
    ]  # fmt: skip
    for wrong, message in ((("--seeds", "0,x"), "--seeds '0,x': expected whole numbers"),
                           (("--measure", "synonyms"), "--measure 'synonyms': did you mean 'synonym'"),
                           (("--without", "grph"), "cannot switch off 'grph'; did you mean 'graph'")):  # fmt: skip
        code, _, problem = command("kgkit", "ablate", tiny_kg, "--out", tmp_path / "NO", *wrong)
        assert (code, problem.count("\n")) == (1, 1)
        assert message in problem
    assert not (tmp_path / "NO").exists()


@pytest.mark.parametrize("loss", sorted(FITTING_LOSSES))
def test_every_loss_trains_on_negatives_of_its_own(loss: str, no_onnx: None, tmp_path: Path, tiny_kg: Path) -> None:
    settings = [f"relation.loss={loss}", "relation.sampling=independent", "relation.negatives=3", "relation.n3=0",
                "relation.label_smoothing=0", "train.max_gradient_norm=0", "relation.concept_dim=8", "train.steps=2",
                "held_out.triples=0.1"]  # fmt: skip
    train_encoder(tiny_kg, tmp_path / "kge", load_recipe(EncoderRecipe, "encoder", "kge", settings))
    assert np.isfinite(load_encoder(tmp_path / "kge").vectors).all()


def test_an_interaction_without_parameters_is_validated_too(
    no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path
) -> None:
    recipe = recipe_of("fast", tiny_text_model)
    recipe = replace(recipe, relation=replace(recipe.relation, interaction="um"))
    train_encoder(tiny_kg, tmp_path / "um", recipe)
    assert any("valid_link_mrr" in line for line in log_of(tmp_path / "um"))


def test_names_in_the_folder_are_read_as_long_as_whoever_opens_it_reads_them(
    no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    recipe = recipe_of("sapbert", tiny_text_model)
    recipe = replace(recipe, text=replace(recipe.text, max_name_tokens=4))
    train_encoder(tiny_kg, tmp_path / "short", recipe)
    encoder = load_encoder(tmp_path / "short")
    names = encoder.names.unique("vector", maintain_order=True)
    read = SentenceTransformer(str(tmp_path / "short" / "text"), device="cpu").encode(names["name"].to_list())
    stored = encoder.name_vectors[names["vector"].to_numpy()]
    assert (stored * (read / np.linalg.norm(read, axis=1, keepdims=True))).sum(axis=1).min() > 0.999


def test_the_best_of_an_attempt_that_was_given_up_is_not_written(
    no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_text_model: Path, monkeypatch: pytest.MonkeyPatch,
    train_until: Callable[..., None],
) -> None:  # fmt: skip
    """Stopped after a step that was the best so far and no checkpoint held; gone on with other rates."""
    recipe = recipe_of("best of sapbert", tiny_text_model)
    recipe = replace(recipe, train=replace(recipe.train, checkpoint_every=4))
    figures = iter([0.1, 0.2, 0.3, 0.4, 0.9, 0.5, 0.5, 0.5, 0.5])
    monkeypatch.setattr(TowersMethod, "validate", lambda self: {"valid_score": next(figures)})
    train_until(tiny_kg, tmp_path / "out", recipe, 5)
    slower = replace(recipe, train=replace(recipe.train, text_learning_rate=1e-5))
    train_encoder(tiny_kg, tmp_path / "out", slower, resume=True)
    written = load_encoder(tmp_path / "out").manifest["written_weights"]
    scores = {line["step"]: line["valid_score"] for line in log_of(tmp_path / "out")}
    assert written == f"step {max((step for step in scores if step > 4), key=lambda step: (scores[step], -step))}"
