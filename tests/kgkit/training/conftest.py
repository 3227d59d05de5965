"""How the tests of training leave out what takes long, and stop a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kgkit.encoder.artifact import ConceptEncoder
    from kgkit.encoder.config import EncoderRecipe


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX copy of the text tower takes seconds and changes no weight, and measuring reads with it.

    `tiny_encoder` has both.
    """
    monkeypatch.setattr("kgkit.training.saving.export_onnx", lambda tower, path: None)
    monkeypatch.setattr("kgkit.training.loop.measure_encoder", lambda folder, seed: {})


@pytest.fixture
def train(
    no_onnx: None, tmp_path: Path, tiny_kg: Path, tiny_recipe: Callable[..., EncoderRecipe]
) -> Callable[..., ConceptEncoder]:
    """`train("key=value", ...)`: an encoder of the tiny graph, trained with these changes to the tiny recipe."""
    from kgkit.encoder.artifact import load_encoder
    from kgkit.training.loop import train_encoder

    def run(*changes: str, kg: Path = tiny_kg) -> ConceptEncoder:
        out = tmp_path / f"encoder-{len(list(tmp_path.iterdir()))}"
        train_encoder(kg, out, tiny_recipe(*changes))
        return load_encoder(out)

    return run


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path, EncoderRecipe, int], None]:
    """`train_until(kg, out, recipe, step)`: a run that is interrupted in the step after this one."""
    from kgkit.training import loop

    def run(kg: Path, out: Path, recipe: EncoderRecipe, last: int) -> None:
        step = loop._step

        def until(run: Any, *rest: Any) -> dict[str, float]:
            if run.at.step > last:
                raise KeyboardInterrupt
            return step(run, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", until)
            with pytest.raises(KeyboardInterrupt):
                loop.train_encoder(kg, out, recipe)

    return run
