"""An exported model answers as torch does, and runs where torch and transformers are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kgkit.interface import InputError
from vlp.artifact import load_model
from vlp.denial import NORMAL_CONCEPT, answer_normal
from vlp.export import ExportConfig, export, read_pack
from vlp.images import load_image
from vlp.predict import PredictConfig, predict
from vlp.queries import resolve_queries
from vlp.runner import VlpRunner, fit_square, read_film


@pytest.fixture(scope="module")
def exported(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "ONNX"
    done = export(ExportConfig(tiny_model_dir, out))
    assert done.difference < 1e-4
    assert done.queries == len(load_model(tiny_model_dir).queries)
    return out


def test_scores_are_those_of_torch_whatever_the_file(
    exported: Path, tiny_model_dir: Path, tiny_openi_dir: Path, tmp_path: Path
) -> None:
    film = min((tiny_openi_dir / "images").iterdir())
    grey = np.random.default_rng(0).integers(0, 4000, (90, 50), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray((grey >> 4).astype(np.uint8)).save(tmp_path / "small.jpg")
    runner = VlpRunner(exported)
    for path in (film, tmp_path / "deep.png", tmp_path / "small.jpg"):
        expected = [
            found.probability for found in predict(PredictConfig(tiny_model_dir, (path,), all_concepts=True)).found
        ]
        assert runner.answer_file(path) == pytest.approx(expected, abs=1e-4)
        assert np.array_equal(read_film(path), load_image(path))


def test_batches_and_maps_are_those_of_torch(exported: Path, tiny_model_dir: Path) -> None:
    model, runner = load_model(tiny_model_dir), VlpRunner(exported)
    squares = np.random.default_rng(1).uniform(size=(5, runner.input_size, runner.input_size)).astype(np.float32)
    resolved = resolve_queries(model, ())
    output = model.answer(torch.from_numpy(squares), resolved.vectors)
    expected = resolved.read(output.logits).sigmoid().numpy()
    assert runner.answer_squares(squares) == pytest.approx(expected, abs=1e-4)
    assert runner.attention(squares[0]) == pytest.approx(output.attention[0].numpy(), abs=1e-4)


def test_normal_is_answered_by_the_findings_in_the_pack_too(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model_dir)
    assert model.denial is not None
    assert export(ExportConfig(tiny_model_dir, tmp_path / "NORMAL", ("normal",))).queries == 1
    squares = np.random.default_rng(3).uniform(size=(4, 64, 64)).astype(np.float32)
    output = model.answer(torch.from_numpy(squares), model.query_vectors)
    row = [query.concept for query in model.queries].index(NORMAL_CONCEPT)
    expected = answer_normal(output.logits, model.queries, model.denial)[:, row].sigmoid().numpy()
    runner = VlpRunner(tmp_path / "NORMAL")
    assert runner.answer_squares(squares)[:, 0] == pytest.approx(expected, abs=1e-4)
    assert runner.attention(squares[0]).shape[0] == 1


def test_a_query_pack_of_ones_own(exported: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """One query alone, and one that the model never saw."""
    words = ("fluid around the lung",)
    done = export(ExportConfig(tiny_model_dir, tmp_path / "ONE", words))
    assert done.queries == 1
    assert read_pack(tmp_path / "ONE")[0] == {
        "text": words[0], "concept": None, "is_text_encoded": True, "is_seen": False,
    }  # fmt: skip
    model = load_model(tiny_model_dir)
    film = np.random.default_rng(2).uniform(size=(64, 64)).astype(np.float32)
    expected = model.answer(torch.from_numpy(film)[None], resolve_queries(model, words).vectors).logits.sigmoid()
    assert VlpRunner(tmp_path / "ONE").answer(film) == pytest.approx(expected[0].numpy(), abs=1e-4)
    with pytest.raises(InputError, match="not an exported model"):
        read_pack(tiny_model_dir)


def test_it_runs_without_torch_transformers_and_vlp(exported: Path, tiny_openi_dir: Path, tmp_path: Path) -> None:
    film = min((tiny_openi_dir / "images").iterdir())
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'kgkit', 'vlp', 'polars'):\n"
        "            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"sys.path.insert(0, {str(exported)!r})\n"
        "import json, runner\n"
        f"found = runner.VlpRunner({str(exported)!r})\n"
        f"print(json.dumps(found.answer_file({str(film)!r}).tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(VlpRunner(exported).answer_file(film).tolist(), abs=1e-6)
    shown = subprocess.run(
        [sys.executable, exported / "runner.py", film], capture_output=True, text=True, check=True, timeout=120
    )
    assert shown.stdout.splitlines()[0] == str(film)


def test_squares_are_those_of_training() -> None:
    from vlp.images import ResizePad

    for shape in ((31, 77), (77, 31), (40, 40), (3, 200)):
        film = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        assert np.array_equal(fit_square(film, 64), ResizePad(shape, 64).apply(film))


def test_the_runner_names_a_bad_film_and_goes_on(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.png").write_text("no film")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "blank.png")
    Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)).save(tmp_path / "film.png")
    for names, code in ((("junk.png", "blank.png", "film.png"), 0), (("junk.png", "blank.png"), 1)):
        line = [sys.executable, exported / "runner.py", *(tmp_path / name for name in names)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert done.stderr.count("\n") == 2
        assert f"{tmp_path / 'blank.png'}: blank film" in done.stderr
        assert done.stdout.count(str(tmp_path)) == 1 - code
