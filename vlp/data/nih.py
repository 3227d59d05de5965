"""NIH ChestX-ray14 (Wang et al., CVPR 2017): films with labels mined from reports, which are not published.

As shipped: `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, films under `images*/`, the official lists
`train_val_list.txt` and `test_list.txt`, and `BBox_List_2017.csv` (boxes in pixels of the 1024 x 1024 films). A film is
a study of its own, since each has labels of its own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kgkit.interface import InputError
from vlp.data.collect import StudyCollector
from vlp.data.source import (
    ReadOptions,
    Row,
    SourceData,
    age_of,
    first_file,
    image_files,
    read_rows,
    read_text,
    require_folder,
    sex_of,
    view_of,
)
from vlp.types import FindingBox, ImageRef, Study

LICENCE = "NIH ChestX-ray14: no restriction; name the NIH Clinical Center as the source and cite Wang et al. 2017"
NO_FINDING = "No Finding"
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
FRAME = (1024, 1024)
TABLES = ("Data_Entry_2017_v2020.csv*", "Data_Entry_2017.csv*", "sample_labels.csv", "labels.csv")
_BOX_LABELS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")


def read_nih(source: Path, options: ReadOptions) -> SourceData:
    """Read ChestX-ray14, whole or in part.

    The official lists become train and test; validation patients are drawn from the training list later. Films of the
    table that are in neither list are left out where there is one.

    Raises:
        InputError: if the folder has no table, or a row or list contradicts another.
    """
    require_folder(source)
    path = first_file(source, *TABLES)
    if path is None:
        raise InputError("not ChestX-ray14: expected Data_Entry_2017.csv or Data_Entry_2017_v2020.csv", source)
    collector = StudyCollector()
    lists = _official_lists(source)
    boxes = _boxes(source, collector)
    files = image_files(options.images or source)
    for row in read_rows(path, _COLUMNS, options.where):
        name = row.need("Image Index")
        if lists and name not in lists:
            collector.skip(name, "in neither train_val_list.txt nor test_list.txt")
            continue
        study = _study(row, collector)
        image = files.get(name) or files.get(Path(name).stem)
        if image is None:
            collector.skip(name, "no such image file")
        projection = row.get("View Position")
        films = () if image is None else (ImageRef(image, view_of(projection), projection, boxes.get(name, ())),)
        collector.add(replace(study, split=lists.get(name)), films)
    notes = ("no reports: a set to test on or to finetune with",)
    root = options.images or source
    return SourceData(
        "nih", path.name, "nih", LICENCE, root, collector.finish(), tuple(collector.skipped), notes, language=""
    )


def finding_labels(words: str) -> tuple[dict[str, int], list[str]]:
    """The 14 findings and `No Finding`, 0/1, from `Edema|Effusion`; and the words that are none of them.

    >>> labels, unknown = finding_labels("Edema|Covid")
    >>> labels["Edema"], labels["No Finding"], unknown
    (1, 0, ['Covid'])
    """
    said = [word.strip().replace("Pleural Thickening", "Pleural_Thickening") for word in words.split("|")]
    labels = {name: int(name in said) for name in (*LABELS, NO_FINDING)}
    return labels, [word for word in said if word and word not in labels]


def _study(row: Row, collector: StudyCollector) -> Study:
    labels, unknown = finding_labels(row.need("Finding Labels"))
    for word in unknown:
        collector.skip(f"{row.path.name}, line {row.line}: {word}", "unknown label")
    identifier = Path(row.get("Image Index")).stem
    return Study(
        identifier, row.need("Patient ID"), "", "", (), labels,
        sex=sex_of(row.get("Patient Gender") or row.get("Patient Sex")), age=age_of(row.get("Patient Age")),
    )  # fmt: skip


def _official_lists(source: Path) -> dict[str, str]:
    """File name -> `train+val` or `test`; empty where a list is missing."""
    found: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train+val"), ("test_list.txt", "test")):
        path = source / name
        if not path.is_file():
            continue
        for line, text in enumerate(read_text(path).splitlines(), start=1):
            film = text.strip()
            if film and found.setdefault(film, split) != split:
                raise InputError(f"film {film!r} stands in train_val_list.txt too", path, line)
    return found


def _boxes(source: Path, collector: StudyCollector) -> Mapping[str, tuple[FindingBox, ...]]:
    """File name -> its boxes; the header's `Bbox [x,y,w,h],,,` is four columns, so cells are read by place."""
    path = first_file(source, "BBox_List_2017*.csv", "bbox.csv")
    boxes: dict[str, tuple[FindingBox, ...]] = {}
    if path is None:
        return boxes
    for line, cells in enumerate(csv.reader(read_text(path).splitlines()), start=1):
        if line == 1 or not any(cells):
            continue
        try:
            name, word, (x, y, width, height) = cells[0], cells[1], map(float, cells[2:6])
        except (IndexError, ValueError) as error:
            raise InputError(f"{cells!r}: expected a film, a finding, x, y, width, height", path, line) from error
        if not all(math.isfinite(value) for value in (x, y, width, height)):
            raise InputError(f"{cells!r}: expected a film, a finding, x, y, width, height", path, line)
        label = _BOX_LABELS.get(word, word)
        if label not in LABELS:
            collector.skip(f"{path.name}, line {line}: {word}", "unknown label")
            continue
        box = FindingBox(label, (x, y, x + width, y + height), FRAME)
        boxes[name] = (*boxes.get(name, ()), box)
    return boxes
