"""ChestX-Det10 (Liu et al. 2020): films of ChestX-ray14 with boxes drawn by radiologists, ten findings, no reports.

As shipped: `train.json` and `test.json`, lists of `{"file_name", "syms", "boxes"}` (boxes x1, y1, x2, y2 in pixels of
the film), films under `train_data/` and `test_data/`. A film without boxes was read and found normal in the ten.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from kgkit.interface import InputError
from vlp.data.collect import StudyCollector
from vlp.data.source import ReadOptions, SourceData, existing_file, image_files, read_text, require_folder
from vlp.types import FindingBox, ImageRef, Study, View

LICENCE = "ChestX-Det10: annotations as published by Deepwise AI Lab; films: NIH ChestX-ray14"
LABELS = (
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule",
    "Pneumothorax",
)  # fmt: skip
_NIH_NAME = re.compile(r"^(\d{8})_\d{3}$")
_PARTS = (("train.json", "train+val", "train_data"), ("test.json", "test", "test_data"))


def read_chestxdet10(source: Path, options: ReadOptions) -> SourceData:
    """Read ChestX-Det10; either list alone works.

    Raises:
        InputError: if neither list is there, or one is not in the published form.
    """
    require_folder(source)
    if options.where:
        raise InputError("--where chooses rows of a table; ChestX-Det10 has none", source)
    collector = StudyCollector()
    files = image_files(options.images or source)
    lists = [(source / name, split, folder) for name, split, folder in _PARTS if (source / name).is_file()]
    if not lists:
        raise InputError("not ChestX-Det10: expected train.json or test.json", source)
    anonymous = 0
    for path, split, folder in lists:
        for record in _records(path):
            name = record["file_name"]
            match = _NIH_NAME.match(Path(name).stem)
            anonymous += match is None
            patient = match.group(1) if match else Path(name).stem
            labels, boxes = _annotations(record, path, collector)
            # both parts may have a film of this name: each is looked for in its own folder first
            inside = (source / folder / name, source / folder / folder / name)
            found = existing_file(inside) or files.get(name) or files.get(Path(name).stem)
            if found is None:
                collector.skip(name, "no such image file")
            films = () if found is None else (ImageRef(found, View.FRONTAL, "", boxes),)
            identifier = Path(name).stem if match else f"{path.stem}-{Path(name).stem}"
            owner = patient if match else identifier
            collector.add(Study(identifier, owner, "", "", (), labels, split), films)
    notes = ["no reports: a set to test on or to finetune with"]
    if anonymous:
        notes.append(f"{anonymous} file names do not say whose film it is: each counts as a patient of its own")
    return SourceData(
        "chestxdet10", "json", "nih", LICENCE, options.images or source, collector.finish(), tuple(collector.skipped),
        tuple(notes), language="",
    )  # fmt: skip


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not readable as JSON ({error})", path) from error
    if not isinstance(content, list) or not content:
        raise InputError("expected a list of films", path)
    for number, record in enumerate(content, start=1):
        film = record if isinstance(record, dict) else {}
        words, boxes = film.get("syms"), film.get("boxes")
        if not (isinstance(film.get("file_name"), str) and isinstance(words, list) and isinstance(boxes, list)):
            raise InputError(f"film {number}: expected file_name, syms and boxes", path)
        if len(words) != len(boxes):
            raise InputError(f"film {number}: {len(words)} findings, but {len(boxes)} boxes", path)
    return content


def _annotations(
    record: dict[str, Any], path: Path, collector: StudyCollector
) -> tuple[dict[str, int], tuple[FindingBox, ...]]:
    labels, boxes = dict.fromkeys(LABELS, 0), []
    for word, corners in zip(record["syms"], record["boxes"], strict=True):
        where = f"{path.name}, {record['file_name']}"
        if not isinstance(word, str):
            raise InputError(f"{record['file_name']}: finding {word!r}, expected a word", path)
        if word not in labels:
            collector.skip(f"{where}: {word}", "unknown label")
            continue
        try:
            x0, y0, x1, y1 = (float(value) for value in corners)
        except (TypeError, ValueError) as error:
            raise InputError(f"{record['file_name']}: box {corners!r}, expected x1, y1, x2, y2", path) from error
        if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
            raise InputError(f"{record['file_name']}: box {corners!r}, expected x1, y1, x2, y2", path)
        labels[word] = 1
        boxes.append(FindingBox(word, (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))))
    return labels, tuple(boxes)
