"""What docs/graph.md tells people to type about a graph, word for word on the bundled one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import ROOT

PAGE = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Using it\n")[2].partition("\n## ")[0]
VIEWS = PAGE.partition("\n## Views, borders and splits\n")[2]
LINES = [line for line in SECTION.splitlines() if line.startswith("kgkit ")]


@pytest.mark.parametrize("line", LINES)
def test_a_documented_command_answers(
    line: str,
    thorax_kg_dir: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "KG").symlink_to(thorax_kg_dir)
    (tmp_path / "ontologies").symlink_to(ROOT / "ontologies")
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(*shlex.split(line))
    assert code == 0
    assert out.strip()
    assert "--plot" not in line or (tmp_path / "effusion.png").stat().st_size > 10_000


def test_the_documented_python_runs(
    thorax_kg_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "KG").symlink_to(thorax_kg_dir)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/graph.md", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert "https://uts.nlm.nih.gov/uts/umls/concept/C0014013" in out
    assert "Pleural effusion ['Abnormal pleura morphology', 'Edema']" in out
    assert "Fluid around lungs" in out


def test_the_documented_borders_hold_every_fact_and_the_split_leaks_nothing(
    thorax_kg_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "KG").symlink_to(thorax_kg_dir)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", VIEWS, flags=re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/graph.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["15044", "15044", "15044", "0.0"]
