"""The log of a run, as its readers see it: JSON lines, TensorBoard, the figure."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from kgkit.training_log import TrainingLog, draw_curve, read_log

NESTED = [
    {"step": step, "losses": {"total": 2.0 / step, "synonym": 1.0 / step}, "valid_mrr": 0.1 * step}
    for step in (1, 2, 3)
]
FLAT = [{"epoch": n, "train_loss": 1.0 / n, "val_loss": None if n == 1 else 2.0 / n, "rate": 0.5} for n in (1, 2, 3)]


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, from the records as TensorFlow frames them: length, its checksum, content, its checksum."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            start += length + 16
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@pytest.mark.parametrize(("records", "key", "tags"), [
    (NESTED, "step", {"loss/total", "loss/synonym", "valid_mrr"}),
    (FLAT, "epoch", {"train_loss", "val_loss", "rate"}),
])  # fmt: skip
def test_tensorboard_and_the_figure_hold_what_was_logged(
    tmp_path: Path, records: list[dict[str, object]], key: str, tags: set[str]
) -> None:
    with TrainingLog(tmp_path, 0, enabled=True, key=key) as log:
        for record in records:
            log.write(record)
    assert read_log(tmp_path) == records
    found = events(tmp_path)
    assert set(found) == tags
    for record in records:
        flat = {f"loss/{name}": value for name, value in record.get("losses", {}).items()}  # type: ignore[attr-defined]
        flat |= {name: value for name, value in record.items() if name not in (key, "losses") and value is not None}
        for name, value in flat.items():
            assert found[name][record[key]] == pytest.approx(value)  # type: ignore[index]
    draw_curve(tmp_path, key)
    with Image.open(tmp_path / "learning_curve.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)
    coloured = np.ptp(pixels, axis=2) > 60  # lines, not axes: on both halves
    assert coloured[:, : coloured.shape[1] // 2].any()
    assert coloured[:, coloured.shape[1] // 2 :].any() == any(name.startswith("valid_") for name in tags)


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    for first, values in ((-1, (0, 1, 2, 3)), (1, (2,))):
        with TrainingLog(tmp_path, first, enabled=True, key="epoch") as log:
            for epoch in values:
                log.write({"epoch": epoch, "train_loss": float(first)})
        with (tmp_path / "training_log.jsonl").open("a") as stream:
            stream.write('{"epoch": 4, "train')  # cut off by a kill
    assert [(record["epoch"], record["train_loss"]) for record in read_log(tmp_path)] == [(0, -1), (1, -1), (2, 1)]


def test_processes_beside_the_first_write_nothing(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, 0, enabled=False) as log:
        log.write({"step": 1, "losses": {}})
    draw_curve(tmp_path)
    assert not list(tmp_path.iterdir())
