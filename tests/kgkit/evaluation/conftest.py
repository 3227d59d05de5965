"""A text tower and a small encoder of chest names, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoder import SmallEncoder, write_tower
from tiny_thorax import concept_rows

from kgkit.encoder.names import normalise
from kgkit.encoder.text_onnx import OnnxTextTower

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory, tiny_text_model: Path) -> Path:
    """A text/ folder with random weights."""
    return write_tower(tmp_path_factory.mktemp("tower") / "text", tiny_text_model)


@pytest.fixture(scope="session")
def chest(tower: Path) -> SmallEncoder:
    """The names of tiny_thorax.py; every second synonym is held out, two concepts are unseen."""
    rows = concept_rows()
    concepts = [f"test:{row:02d}" for row in range(len(rows))]
    preferred = [row[0] for row in rows]
    pairs = [(row, name) for row, entry in enumerate(rows) for name in entry[2]]
    owners: dict[str, list[int]] = {}
    for row, name in pairs:
        if normalise(name) in preferred:  # never held out: a concept has to be read from something
            continue
        owners.setdefault(name, []).append(row)
    unseen = {5, 21}
    held_out = [
        (name, own, "inductive" if unseen & set(own) else "test" if position % 4 or len(own) > 1 else "valid")
        for position, (name, own) in enumerate(owners.items()) if position % 2 or unseen & set(own) or len(own) > 1
    ]  # fmt: skip
    names = [(concepts[row], name) for row, name in pairs] + list(zip(concepts, preferred, strict=True))
    reader = OnnxTextTower(tower)
    definitions = [row[3] or None for row in rows]
    queries = [(row, text, "inductive" if row in unseen else "test") for row, text in enumerate(definitions) if text]
    return SmallEncoder(
        concepts, reader.embed(preferred), names, reader.embed(sorted({name for _, name in names})), preferred,
        definitions, {concepts[21]: ["MESH:D011014"], concepts[26]: ["MONDO:0004849"]},
        {"train": np.array([[0, 1, 2]])}, held_out, queries[::2], tower=tower,
    )  # fmt: skip


@pytest.fixture(scope="session")
def chest_dir(tmp_path_factory: pytest.TempPathFactory, chest: SmallEncoder) -> Path:
    """The same as a folder; not to be changed."""
    return chest.write(tmp_path_factory.mktemp("chest") / "encoder")
