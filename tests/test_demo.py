"""`make demo` keeps what it promises: figures that a toy would not reach. Takes five minutes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from graphs import ROOT

pytestmark = pytest.mark.slow
DEMO = ROOT / "demo"


@pytest.fixture(scope="module", autouse=True)
def _demo() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def read(path: str) -> Any:
    return json.loads((DEMO / path).read_text(encoding="utf-8"))


def test_the_relation_loss_falls() -> None:
    lines = (DEMO / "encoder/training_log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["losses"]["relation"] for line in lines]
    assert max(losses[-3:]) < losses[0] / 2


def test_the_graph_taught_more_than_words_and_more_than_a_shuffled_graph() -> None:
    differences = {row["minus"]: row["mrr_interval"] for row in read("link-prediction.json")["differences"]}
    assert differences.keys() == {"shuffled", "untrained"}
    assert all(low > 0 for low, _ in differences.values())


def test_cardiomegaly_is_seen() -> None:
    row = read("evaluation/metrics.json")["per_finding"]["Cardiomegaly"]
    assert row["positives"] >= 20
    assert row["low"] > 0.5


def test_everyday_words_find_their_concepts() -> None:
    first = {search["query"]: search["hits"][0]["name"].casefold() for search in read("search.json")}
    assert first["fluid around the lung"] == "pleural effusion"
    assert first["enlarged heart"] == "cardiomegaly"


def test_the_report_needs_no_network_and_shows_no_open_i_film() -> None:
    page = (DEMO / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert "<script" not in page
    shown = [step["command"] for step in read("run.json")["steps"] if step["command"].startswith("vlp ground")]
    assert len(shown) == 3
    assert all("examples/nih/" in command for command in shown)
    assert page.count("data:image/png;base64,") == 3
    assert "NIH Clinical Center" in page
