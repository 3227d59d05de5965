"""Graphs shared by the tests of kgkit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_union import write_union


@pytest.fixture(scope="session")
def union_kg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of tiny_union: two sources with a merged class, and a corpus; not to be changed."""
    return write_union(tmp_path_factory.mktemp("union") / "kg")
