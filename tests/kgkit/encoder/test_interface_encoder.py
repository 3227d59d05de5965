"""Serving is light: what vlp imports loads no torch, and neither does search."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kgkit.encoder.artifact import ConceptEncoder

HEAVY = ("torch", "transformers", "pykeen", "torch_geometric", "accelerate")

IMPORT = """
import json, sys
import kgkit.interface
print(json.dumps(sorted(sys.modules)))
"""

SERVE = """
import json, sys
from pathlib import Path
from kgkit.interface import load_encoder
from kgkit.search.build import build_index
from kgkit.search.concept_search import open_search
folder = Path(sys.argv[1])
vectors = load_encoder(folder).embed_text(["fluid around the heart", "rib"])
build_index(folder)
hits = open_search(folder).search(["fluid around the heart"], 3)[0]
print(json.dumps([sorted(sys.modules), vectors.tolist(), [hit.name for hit in hits]]))
"""


def run(script: str, *arguments: object) -> object:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_interface_loads_neither_torch_nor_faiss() -> None:
    modules = set(run(IMPORT))
    assert "kgkit.encoder.artifact" in modules
    assert not modules & {*HEAVY, "faiss", "onnxruntime"}


def test_text_vectors_and_search_need_no_torch(tiny_encoder: Path, tmp_path: Path, opened: ConceptEncoder) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    modules, vectors, names = run(SERVE, folder)
    assert {"faiss", "onnxruntime"} <= set(modules)
    assert not set(modules) & set(HEAVY)
    assert names[0] == "pericardial effusion"
    np.testing.assert_allclose(vectors, opened.embed_text(["fluid around the heart", "rib"]), atol=1e-5)


def test_all_that_the_interface_names_is_there() -> None:
    import kgkit.interface

    assert sorted(kgkit.interface.__all__) == kgkit.interface.__all__
    for name in kgkit.interface.__all__:
        assert getattr(kgkit.interface, name) is not None
    with pytest.raises(AttributeError):
        _ = kgkit.interface.train_encoder
