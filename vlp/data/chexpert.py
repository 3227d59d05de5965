"""CheXpert (Irvin et al., AAAI 2019): studies with 14 labels mined from reports, or set by radiologists; no reports.

As shipped: `train.csv`, `valid.csv` (and `test.csv`, or CheXlocalize's `val_labels.csv` and `test_labels.csv`), whose
`Path` begins with the archive's name (`CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`) wherever the
archive was unpacked. 1 is positive, 0 negative, -1 uncertain, and an empty cell means that the report does not name the
finding, which counts as 0, as in the paper's baselines.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from kgkit.interface import InputError
from vlp.data.collect import StudyCollector
from vlp.data.source import (
    ReadOptions,
    Row,
    SourceData,
    age_of,
    existing_file,
    read_rows,
    require_folder,
    sex_of,
    view_of,
)
from vlp.types import ImageRef, Study, View

LICENCE = "CheXpert: Stanford University Dataset Research Use Agreement, non-commercial research only"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
_TABLES = {
    "train": ("train.csv",),
    "val": ("valid.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv"),
}
_KNOWN = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
_PATIENT = re.compile(r"^patient\d+$")


def read_chexpert(source: Path, options: ReadOptions) -> SourceData:
    """Read CheXpert, full size or small; any of its tables alone works.

    Raises:
        InputError: if no table is there, or a row is not in the published form.
    """
    require_folder(source)
    root = options.images or source
    collector = StudyCollector()
    tables = [
        (next(source / name for name in names if (source / name).is_file()), split)
        for split, names in _TABLES.items() if any((source / name).is_file() for name in names)
    ]  # fmt: skip
    if not tables:
        raise InputError("not CheXpert: expected train.csv, valid.csv or test.csv", source)
    for path, split in tables:
        unknown: set[str] = set()
        for row in read_rows(path, ("Path", *LABELS), options.where):
            unknown |= {column for column in row.values if column not in _KNOWN and column.strip()}
            _add(row, split, root, collector)
        for column in sorted(unknown):
            collector.skip(f"{path.name}: {column}", "unknown label column")
    notes = ("no reports: a set to test on or to finetune with", "an empty label cell counts as 0 (not named)")
    names = "+".join(path.name for path, _ in tables)
    return SourceData(
        "chexpert", names, "chexpert", LICENCE, root, collector.finish(), tuple(collector.skipped), notes, language=""
    )


def _add(row: Row, split: str, root: Path, collector: StudyCollector) -> None:
    parts = PurePosixPath(row.need("Path").replace("\\", "/")).parts
    place = next((index for index, part in enumerate(parts) if _PATIENT.match(part)), None)
    if place is None or place + 2 >= len(parts):
        raise row.wrong("Path", "a path such as CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")
    patient, study = parts[place], parts[place + 1]
    if ".." in parts:
        raise row.wrong("Path", "a path inside the data set")
    labels = {name: row.label(name) or 0 for name in LABELS}
    side = row.get("Frontal/Lateral") or ("lateral" if "lateral" in parts[-1] else "frontal")
    view = View.FRONTAL if side.lower() == "frontal" else View.LATERAL
    projection = row.get("AP/PA")
    if projection in ("LL", "RL"):
        view = view_of(projection)
    # the archive's own name, its parent, or the part's folder may be what the user gave
    candidates = [root.joinpath(*parts[skip:]) for skip in range(place + 1)]
    found = existing_file(candidates)
    if found is None:
        collector.skip("/".join(parts), "no such image file")
    films = () if found is None else (ImageRef(found, view, projection or side),)
    collector.add(
        Study(
            f"{patient}/{study}", patient, "", "", (), labels, split,
            sex=sex_of(row.get("Sex")), age=age_of(row.get("Age")),
        ),
        films,
    )  # fmt: skip
