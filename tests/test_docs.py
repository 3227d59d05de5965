"""What the README and the docs tell people to type works, and what exists is told."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from graphs import RADGRAPH, ROOT
from tiny_thorax import write_text_model
from tiny_vlp import write_openi

import cli

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = (
    "text.frozen_layers=0", "text.max_name_tokens=8", "text.max_definition_tokens=8", "graph.hidden_dim=8",
    "train.steps=3", "relation.triples=8", "relation.negatives=4", "train.precision=fp32",
)  # fmt: skip


def readme_line() -> list[str]:
    """The commands of the README's block for users with their own licences."""
    blocks = re.findall(
        r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return next(block for block in blocks if "kgkit ingest umls" in block).strip().splitlines()


def commands() -> dict[str, typer.Typer]:
    """Every command, as `kgkit search`, with its app."""
    found = {}
    for program, app in (("kgkit", cli.kgkit), ("kgkit ingest", cli.ingest), ("vlp", cli.vlp)):
        for command in app.registered_commands:
            name = command.name or command.callback.__name__.replace("_", "-")  # type: ignore[union-attr]
            found[f"{program} {name}"] = app
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name: str) -> None:
    assert any(name in page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CHANGELOG.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_exists(page: Path) -> None:
    typed = re.findall(r"^(kgkit|vlp) ((?:ingest )?[a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {f"{program} {name}" for program, name in typed} <= commands().keys()


def test_the_readmes_line_runs_as_it_stands(tiny_rrf_dir: Path, tmp_path: Path) -> None:
    """Every command of the README, word for word, on tiny data under the names that it uses."""
    shutil.copytree(tiny_rrf_dir, tmp_path / "2026AA" / "META")
    (tmp_path / "radgraph").mkdir()
    shutil.copy(RADGRAPH / "radgraph_v1_schema.json", tmp_path / "radgraph" / "MIMIC-CXR_graphs.json")
    write_openi(tmp_path / "NLMCXR", studies=48)
    shutil.copy(tmp_path / "NLMCXR" / "reports.csv", tmp_path / "reports.csv")
    (tmp_path / "films").mkdir()
    shutil.copy(next((tmp_path / "NLMCXR" / "images").iterdir()), tmp_path / "films" / "film.png")
    model = write_text_model(tmp_path / "text-model")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in readme_line():
        words = shlex.split(line)
        if words[1] == "train-encoder":  # the base model of the README is a hub's, and its recipe takes an hour
            words = [word if not word.startswith("text.model=") else f"text.model={model}" for word in words]
            words += [word for setting in SMALL for word in ("--set", setting)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    for made in (
        "mentions.jsonl",
        "predictions.csv",
        "heatmap.png",
        "EVALUATION/metrics.json",
        "EVALUATION/report.html",
    ):
        assert (tmp_path / made).stat().st_size > 0
