"""The commands that use a model, as typed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Run = Callable[..., tuple[int, str, str]]


def test_evaluate_and_compare_print_what_they_wrote(
    command: Run, tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    asked = ("--split", "train", "--resamples", 50, "--min-positives", 5)
    code, out, _ = command("vlp", "evaluate", tiny_model_dir, tiny_data_dir, *asked, "--out", tmp_path / "A")
    metrics = json.loads((tmp_path / "A" / "metrics.json").read_text())
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("Effusion"))
    assert f"{metrics['per_finding']['Effusion']['auroc']:.3f}" in line
    assert line.endswith("rare")
    assert "findings with 5 or more positive studies" in out
    assert "1 findings have no AUROC" in out
    command("vlp", "evaluate", tiny_model_dir, tiny_data_dir, *asked, "--out", tmp_path / "B", "--average-synonyms")
    code, out, _ = command("vlp", "compare", tmp_path / "A", tmp_path / "B", "--min-positives", 5, "--resamples", 50)
    assert code == 0
    assert "macro of 2" in out
    code, out, _ = command("vlp", "compare", tmp_path / "A", tmp_path / "A", "--json", "--resamples", 50)
    assert json.loads(out)["macro_auroc"]["difference"] == 0


def test_ground_measures_against_boxes(command: Run, tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "films" / "a.png")
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,w,h\na.png,Cardiomegaly,0,0,64,64\n")
    boxes = ("--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "OUT")
    code, out, _ = command("vlp", "ground", tiny_model_dir, tmp_path / "films", *boxes)
    assert code == 0
    assert "a point thrown at random would hit 1.00" in out
    code, _, problem = command("vlp", "ground", tiny_model_dir, tiny_data_dir, "--out", tmp_path / "NONE")
    assert (code, problem) == (1, f"vlp: {tiny_data_dir}: no boxes\n")


def test_export_says_how_near_it_is_to_torch(command: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    code, out, _ = command("vlp", "export", tiny_model_dir, "--out", tmp_path / "ONNX", "--query", "cardiomegaly")
    assert code == 0
    assert "1 queries" in out
    kept = json.loads((tmp_path / "ONNX" / "manifest.json").read_text())
    assert kept["difference_from_torch"] < 1e-4


def test_no_command_writes_over_what_it_reads_or_what_is_not_its_own(
    command: Run,
    tiny_openi_dir: Path,
    tiny_encoder_dir: Path,
    tiny_data_dir: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    source, data, model = (tmp_path / name for name in ("SOURCE", "DATA", "MODEL"))
    for original, copy in ((tiny_openi_dir, source), (tiny_data_dir, data), (tiny_model_dir, model)):
        shutil.copytree(original, copy)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    encoder = ("--kg-encoder", tiny_encoder_dir)
    for line in (
        ("prepare", "openi", source, "--out", source, *encoder),
        ("train", data, "--out", data, *encoder),
        ("train", data, "--out", tmp_path, *encoder),
        ("cross-validate", data, "--out", data, *encoder),
        ("shard", data, "--out", data),
        ("evaluate", model, data, "--split", "train", "--out", model),
        ("evaluate", model, data, "--split", "train", "--out", data),
        ("export", model, "--out", model),
        ("finetune", model, data, "--out", tmp_path),
    ):
        code, _, problem = command("vlp", *line)
        assert (code, problem.count("\n")) == (1, 1), line
        assert "; name another" in problem or "would replace the folder" in problem, line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_predict_without_a_check_to_make_is_one_line(command: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "MODEL").mkdir()
    for file in tiny_model_dir.iterdir():
        if file.is_file() and not file.name.startswith("input_check"):
            (tmp_path / "MODEL" / file.name).write_bytes(file.read_bytes())
    code, _, problem = command("vlp", "predict", tmp_path / "MODEL", tmp_path, "--check-input")
    assert code == 1
    assert "this model has no input check" in problem
    assert problem.count("\n") == 1
