"""`vlp ground --boxes`: do heat maps point at what readers boxed? Hits beside the chance rate of the boxes' areas.

Pointing game (Zhang et al., IJCV 2018): the peak of the map lies in one of the boxes drawn for that finding on that
film. A peak thrown at random on the film hits with the part of its area that the boxes cover, and chance is the
mean of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kgkit.interface import (
    BoolArray,
    FloatArray,
    InputError,
    partial_folder,
    progress,
    publish_folder,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)
from vlp.artifact import VlpModel, load_model
from vlp.data.film_reader import FilmReader
from vlp.data.prepared import PreparedData, load_data
from vlp.denial import ResolvedQueries
from vlp.evaluation.asked import identifier_of_label
from vlp.evaluation.measure import with_interval
from vlp.grounding import ground_film, save_overlay
from vlp.images import IMAGE_SUFFIXES, load_image
from vlp.metrics import patient_resamples
from vlp.queries import resolve_queries
from vlp.types import Grounding

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1), half-open, in pixels of the film."""
_IMAGE_COLUMNS = ("Image Index", "image", "file_name")
_FINDING_COLUMNS = ("Finding Label", "finding", "label")
_SIZE_COLUMNS = (("x", "y", "w", "h"), ("Bbox [x", "y", "w", "h]"))


@dataclass(frozen=True, slots=True)
class PointingConfig:
    """One pointing game.

    Attributes:
        model_dir: MODEL folder.
        boxes: CSV of boxes: an image, a finding, and x, y, w, h in pixels; None for the boxes that DATA holds.
        images: Folder of the films, where an image is found by its name, else by its stem; or DATA.
        out_dir: Folder for pointing.json, boxes.csv and the overlays.
        frame: Side of the square picture in whose pixels the boxes are given; None if it is the film as stored.
        encoder_dir: ENCODER for findings the model does not hold.
        seed: Of the bootstrap.
        resamples: Resamples of films.
        split: Of DATA, or None for all of it.
    """

    model_dir: Path
    boxes: Path | None
    images: Path
    out_dir: Path
    frame: int | None = None
    encoder_dir: Path | None = None
    seed: int = 0
    resamples: int = 1000
    split: str | None = None


@dataclass(frozen=True, slots=True)
class BoxedFinding:
    """What readers drew for one finding on one film.

    Attributes:
        film: Path of the film.
        finding: The finding, as the CSV calls it.
        boxes: Boxes in the pixels of `frame`, or of the film.
        row: Of `PreparedData.images`; None if the film is read from its file.
    """

    film: Path
    finding: str
    boxes: tuple[Box, ...]
    row: dict[str, Any] | None = None


def point(config: PointingConfig) -> dict[str, Any]:
    """Play the pointing game; returns the content of pointing.json.

    Raises:
        InputError: if the CSV, the films or the model are not what they should be, or no boxed film can be read.
    """
    if config.frame is not None and config.frame < 1:
        raise InputError(f"a frame of {config.frame} pixels, expected 1 or more")
    model, reader = load_model(config.model_dir), None
    if config.boxes is None:
        data = load_data(config.images)
        boxed, missing, reader = boxes_of_data(data, config.split), list[str](), FilmReader(data)
    else:
        boxed, missing = read_boxes(config.boxes, config.images)
    findings = list(dict.fromkeys(item.finding for item in boxed))
    identifiers = [identifier_of_label(model, finding) for finding in findings]
    resolved = resolve_queries(model, identifiers, config.encoder_dir)
    source = config.boxes or config.images
    partial = partial_folder(config.out_dir, "grounding")
    rows: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    with progress("point", len(boxed), "boxed findings") as bar:
        for item in boxed:
            bar.advance()
            try:
                film = load_image(item.film) if reader is None or item.row is None else reader.film(item.row)
                boxes = _boxes_on(film, item, config.frame)
                asked = resolved.only([findings.index(item.finding)])
                rows.append(_play(model, film, replace(item, boxes=boxes), asked, partial))
            except InputError as error:
                failed.append((str(item.film), str(error).removeprefix(f"{item.film}: ")))
    failed += [(name, "no such image file") for name in missing]
    if not rows:
        raise InputError(f"no boxed film can be read; first: {failed[0][0]}, {failed[0][1]}", source)
    queries = dict(zip(findings, resolved.queries, strict=True))
    summary = summarise(rows, config.resamples, config.seed)
    for name, row in summary["per_finding"].items():
        row |= {"concept": queries[name].concept, "seen_in_training": queries[name].is_seen}
    summary |= {"failed": [{"film": film, "reason": reason} for film, reason in failed], "boxes": str(source)}
    write_text_atomically(partial / "boxes.csv", pl.DataFrame(rows).write_csv())
    write_json_atomically(partial / "pointing.json", summary)
    write_manifest(partial, "grounding", {})
    publish_folder(partial, config.out_dir)
    return summary


def summarise(rows: Sequence[dict[str, Any]], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Hit rate, chance and overlaps, all together and per finding.

    Args:
        rows: As from `score_map`, with `film` and `finding`.
        resamples: Resamples of films.
        seed: Of the bootstrap.
    """
    weights = patient_resamples([row["film"] for row in rows], resamples, seed)
    per_finding = {}
    for name in dict.fromkeys(row["finding"] for row in rows):
        own = [row for row in rows if row["finding"] == name]
        per_finding[name] = {"n": len(own)} | {k: float(np.mean([row[k] for row in own])) for k in _MEANS}
    found: dict[str, Any] = {"n": len(rows), "films": len({row["film"] for row in rows})}
    for key in _MEANS:
        values = np.array([row[key] for row in rows], dtype=np.float64)
        found[key] = with_interval(float(values.mean()), (weights @ values) / weights.sum(axis=1))
    return found | {"per_finding": per_finding}


_MEANS = ("hit", "chance", "iou_box", "iou_map")


def score_map(heatmap: FloatArray, hottest: tuple[int, int, int, int] | None, boxes: Sequence[Box]) -> dict[str, float]:
    """One heat map against the boxes of its finding.

    Args:
        heatmap: float32 [H, W], 0..1.
        hottest: Box around its hottest region, or None.
        boxes: What readers drew, in pixels of the film.

    Returns:
        `hit` (1 if the peak lies in a box), `chance` (part of the film the boxes cover), `iou_box` (hottest box
        with the box it overlaps most) and `iou_map` (the map above half of its peak with all boxes together).
    """
    inside = box_mask(boxes, heatmap.shape)
    heat = np.nan_to_num(heatmap)
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    hot = heat >= 0.5 * heat.max() if heat.max() > 0 else np.zeros(heat.shape, dtype=bool)
    either = int((hot | inside).sum())
    return {
        "hit": float(heat.max() > 0 and inside[peak]),
        "chance": float(inside.mean()),
        "iou_box": max((box_iou(hottest, box) for box in boxes), default=0.0) if hottest is not None else 0.0,
        "iou_map": float((hot & inside).sum() / either) if either else 0.0,
    }


def box_mask(boxes: Sequence[Box], shape: tuple[int, ...]) -> BoolArray:
    """Pixels whose centre lies in one of the boxes: bool [H, W]."""
    ys, xs = (np.arange(size) + 0.5 for size in shape[:2])
    mask = np.zeros(shape[:2], dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask |= ((ys >= y0) & (ys < y1))[:, None] & ((xs >= x0) & (xs < x1))[None, :]
    return mask


def box_iou(first: Box | tuple[int, int, int, int], second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared) if areas > shared else 0.0


def read_boxes(path: Path, images: Path) -> tuple[list[BoxedFinding], list[str]]:
    """Boxes per film and finding, in the order of the CSV, and the names of images that are not in the folder.

    Raises:
        InputError: naming the column or row that is wrong.
    """
    try:
        table = pl.read_csv(path, infer_schema=False, truncate_ragged_lines=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"not readable as CSV ({str(error).splitlines()[0]})", path) from error
    image = _column(table, _IMAGE_COLUMNS, path)
    finding = _column(table, _FINDING_COLUMNS, path)
    sides = next((names for names in _SIZE_COLUMNS if set(names) <= set(table.columns)), None)
    if sides is None:
        raise InputError(f"no columns x, y, w, h; found {', '.join(table.columns)}", path)
    if not images.is_dir():
        raise InputError("no such folder of films", images)
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    by_name = {file.stem: file for file in reversed(files)} | {file.name: file for file in reversed(files)}
    found: dict[tuple[Path, str], list[Box]] = {}
    missing: dict[str, None] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        for column in (image, finding):
            if not (row[column] or "").strip():
                raise InputError(f"{column} is empty", path, line)
        x, y, width, height = (_number(row[side], side, path, line) for side in sides)
        if width <= 0 or height <= 0:
            raise InputError(f"a box of {width} x {height} pixels", path, line)
        film = by_name.get(row[image]) or by_name.get(Path(row[image]).stem)
        if film is None:
            missing[row[image]] = None
        else:
            found.setdefault((film, row[finding]), []).append((x, y, x + width, y + height))
    if not found:
        raise InputError(f"none of its {len(missing)} images is in {images}", path)
    return [BoxedFinding(film, name, tuple(boxes)) for (film, name), boxes in found.items()], list(missing)


def boxes_of_data(data: PreparedData, split: str | None = None) -> list[BoxedFinding]:
    """The boxes of a DATA folder, of one split or all.

    Raises:
        InputError: if there is no such split, or no box.
    """
    studies = data.study_ids(split) if split is not None else data.splits["study_id"].to_list()
    root = Path(data.manifest["image_root"])
    film_of = {(row["study_id"], row["path"]): row for row in data.images.iter_rows(named=True)}
    found: dict[tuple[str, str, str], list[Box]] = {}
    for row in data.boxes.filter(pl.col("study_id").is_in(studies)).sort("path", "label").iter_rows(named=True):
        corners = (row["x0"], row["y0"], row["x1"], row["y1"])
        found.setdefault((row["study_id"], row["path"], row["label"]), []).append(corners)
    if not found:
        raise InputError(f"no boxes{f' in split {split!r}' if split else ''}", data.folder)
    return [
        BoxedFinding(root / path, label, tuple(boxes), film_of[study_id, path])
        for (study_id, path, label), boxes in found.items()
    ]


def _boxes_on(film: FloatArray, item: BoxedFinding, frame: int | None) -> tuple[Box, ...]:
    """The boxes in pixels of the film as it was read, float32 [H, W]: DATA may keep it smaller than it was."""
    height, width = film.shape
    across, down = width / (frame or width), height / (frame or height)
    if item.row is not None:
        across, down = width / item.row["width"], height / item.row["height"]
    boxes = tuple((x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in item.boxes)
    if any(min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1 for x0, y0, x1, y1 in boxes):
        raise InputError(
            f"a box ends outside of the film ({width} x {height}); in whose pixels are they? (--frame)", item.film
        )
    return boxes


def _play(
    model: VlpModel, film: FloatArray, item: BoxedFinding, resolved: ResolvedQueries, folder: Path
) -> dict[str, Any]:
    grounding: Grounding = ground_film(model, film, resolved)[0]
    path = folder / "overlays" / f"{item.film.stem}-{item.finding.replace('/', '-')}.png"
    save_overlay(film, grounding, path, item.boxes)
    scores = score_map(grounding.heatmap, grounding.box, item.boxes)
    return {
        "film": item.film.name,
        "finding": item.finding,
        "probability": grounding.score,
        "boxes": len(item.boxes),
        **scores,
    }


def _column(table: pl.DataFrame, names: Sequence[str], path: Path) -> str:
    found = next((name for name in names if name in table.columns), None)
    if found is None:
        raise InputError(f"no column {names[0]!r}; found {', '.join(table.columns)}", path)
    return found


def _number(value: str | None, column: str, path: Path, line: int) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{column} is {value!r}, expected a number", path, line)
    return number
