"""Settings and graphs shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import RADGRAPH, THORAX, ingest_radgraph, ingest_umls
from hypothesis import HealthCheck, settings
from rrf import tiny_rrf

# Threads that spin while they wait make a run many times slower on a shared machine; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile(
    "kgkit", deadline=None, max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kgkit")


def pytest_configure(config: pytest.Config) -> None:
    """Libraries that keep a folder in the user's home get one here."""
    cache = getattr(config, "cache", None)
    if cache is not None:
        os.environ["PYSTOW_HOME"] = str(cache.mkdir("pystow"))


@pytest.fixture(scope="session")
def tiny_rrf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A META folder of a dozen concepts (see rrf.tiny_rrf); not to be changed."""
    return tiny_rrf().write(tmp_path_factory.mktemp("tiny") / "META")


@pytest.fixture(scope="session")
def tiny_kg_dir(tiny_rrf_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of `tiny_rrf_dir` and of the bundled RadGraph examples; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "kg"
    ingest_umls(tiny_rrf_dir, folder)
    ingest_radgraph(RADGRAPH, folder)
    return folder


@pytest.fixture(scope="session")
def thorax_kg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the bundled thorax ontologies; not to be changed."""
    folder = tmp_path_factory.mktemp("thorax") / "kg"
    ingest_umls(THORAX, folder)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `kgkit ...` or `vlp ...` in this process; returns exit code, standard output, standard error."""
    import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        program, *rest = map(str, arguments)
        monkeypatch.setattr("sys.argv", [program, *rest])
        with pytest.raises(SystemExit) as leaving:
            {"kgkit": cli.kgkit_main, "vlp": cli.vlp_main}[program]()
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return run
