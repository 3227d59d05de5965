"""Two commands on a fresh machine: what they would run."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from graphs import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is installed yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def plan(folder: Path, target: str) -> str:
    """The commands that make would run."""
    done = subprocess.run(["make", "-n", "-C", folder, target], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def installed(folder: Path) -> Path:
    stamp = folder / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    return folder


@pytest.mark.parametrize("target", ["demo", "test", "slow", "lint", "types"])
def test_a_fresh_machine_is_set_up_first_and_only_once(checkout: Path, target: str) -> None:
    first = plan(checkout, target)
    assert first.index("-m venv .venv") < first.index("torch==") < first.index("--editable")
    assert "install" not in plan(installed(checkout), target)


def test_make_test_checks_data_style_types_and_laws(checkout: Path) -> None:
    commands = plan(installed(checkout), "test")
    for part in ("examples/check_data.py", "ruff check .", "ruff format --check .", "bin/mypy", "bin/pytest"):
        assert part in commands


def test_continuous_integration_runs_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_constraints_pin_torch_and_lie_within_the_ranges_of_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
            for pin in map(Requirement, filter(re.compile(r"^\w").match, lines))}  # fmt: skip
    assert pins["torch"] == "2.13.0"
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    wanted = {canonicalize_name(each.name): each for each in map(Requirement, [*project["dependencies"], *extras])}
    assert len(pins.keys() & wanted.keys()) > 10
    assert [str(each) for name, each in wanted.items() if name in pins and pins[name] not in each.specifier] == []
