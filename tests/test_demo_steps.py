"""How the demo runs its commands: one after the other, or two at once."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from graphs import ROOT


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/demo.py, writing into a new folder."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples/demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    return module


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def meet(own: str, other: str) -> str:
    """A command that ends only if another runs at the same time: each waits for the other's file."""
    return python(
        f"import pathlib as p, time\np.Path('{own}').touch()\nend = time.monotonic() + 30\n"
        f"while not p.Path('{other}').exists():\n    assert time.monotonic() < end\n    time.sleep(.01)\n"
        f"print('{own} met')"
    )


def test_a_step_beside_another_runs_at_the_same_time_and_speaks_after_it(
    demo: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    line = [demo.Step(meet("a", "b"), "first"), demo.Step(meet("b", "a"), "second", beside=True),
            demo.Step(python("print('alone')"), "third", "third.txt")]  # fmt: skip
    seconds = demo.run_all(line)
    said = capfd.readouterr().out
    assert len(seconds) == 3
    assert said.index("[2/3] second") < said.index("[2/3] said:\nb met")
    assert Path("demo/third.txt").read_text(encoding="utf-8") == "alone\n"


def test_a_failed_step_stops_the_one_beside_it(demo: ModuleType) -> None:
    begin = time.monotonic()
    line = [demo.Step(python("raise SystemExit(3)"), "fails"), demo.Step("sleep 60", "waits", beside=True)]
    with pytest.raises(SystemExit, match="demo: step 1 failed with exit code 3"):
        demo.run_all(line)
    assert time.monotonic() - begin < 30
