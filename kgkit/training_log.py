"""The log of a run: JSON lines, TensorBoard, and the learning-curve figure drawn from them."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOG = "training_log.jsonl"
_INCHES, _DPI = (11.0, 4.2), 120


class TrainingLog:
    """Writes records to `training_log.jsonl` and to `tensorboard/`; a context manager.

    Args:
        folder: Where.
        first: The step a resumed run goes on from; later records of the attempt before are dropped.
        enabled: Processes beside the first one write nothing.
        key: What a record counts by.
    """

    def __init__(self, folder: Path, first: int, *, enabled: bool, key: str = "step") -> None:
        self._folder, self._first, self._enabled, self._key = folder, first, enabled, key

    def __enter__(self) -> Self:
        if self._enabled:
            from tensorboardX import SummaryWriter

            path = self._folder / LOG
            kept = [record for record in read_log(self._folder) if record[self._key] <= self._first]
            path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            self._stream = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._stream.close()
            self._board.close()

    def write(self, record: dict[str, Any]) -> None:
        """Add a record: its step, `losses` by objective or figures named `..._loss`, and further figures."""
        if not self._enabled:
            return
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        for name, value in _figures(record, self._key).items():
            self._board.add_scalar(name, value, record[self._key])


def _figures(record: dict[str, Any], key: str) -> dict[str, float]:
    """What of a record can be drawn, by name; losses begin with `loss/` or end with `loss`."""
    figures = {f"loss/{name}": value for name, value in record.get("losses", {}).items()}
    figures |= {name: value for name, value in record.items() if name not in (key, "losses")}
    return {name: value for name, value in figures.items() if value is not None}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; none if it has not begun. A last line cut off by a kill is left out."""
    path = folder / LOG
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def draw_curve(folder: Path, key: str = "step") -> None:
    """Draw `learning_curve.png`: losses, and validation figures between 0 and 1, over steps."""
    records = read_log(folder)
    if not records:
        return
    from matplotlib.figure import Figure

    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in _figures(record, key).items():
            points.setdefault(name, []).append((record[key], value))
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for name in sorted(points):
        label = name.removeprefix("loss/").removeprefix("valid_").removeprefix("val_").replace("_", " ")
        if name.startswith("loss/") or name.endswith("loss"):
            label = label if name.startswith("loss/") else name.replace("_", " ")
            width = 2.2 if label in ("total", "train loss") else 1.2
            losses.plot(*zip(*points[name], strict=True), label=label, linewidth=width)
        elif name.startswith("val"):
            figures.plot(*zip(*points[name], strict=True), label=label, marker="o", markersize=4)
    for axes, title in ((losses, "loss"), (figures, "validation")):
        axes.set(xlabel=key, title=title)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figures.set_ylim(0, 1)
    figure.savefig(folder / "learning_curve.png")
