"""PadChest (Bustos et al. 2020): films with Spanish reports, 193 labels set by physicians or by a network.

As shipped: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`, gzipped or not, and one folder per `ImageDir` with
16-bit PNG files. `Labels` is a list as Python writes it. `Projection` is PA, AP, AP_horizontal, L, COSTAL, or EXCLUDE,
which the authors ask to leave out.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kgkit.interface import InputError
from vlp.data.collect import StudyCollector
from vlp.data.source import (
    ReadOptions,
    Row,
    SourceData,
    age_of,
    existing_file,
    first_file,
    read_rows,
    require_folder,
    sex_of,
    view_of,
)
from vlp.types import ImageRef, Study

LICENCE = "PadChest: research use agreement of BIMCV, no redistribution"
_REQUIRED = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels")
_UNLABELLED = "exclude"  # the report could not be labelled
_NO_FINDINGS = frozenset({"unchanged", "suboptimal study", ""})  # alone they say nothing of any finding
_UNKNOWN = "its labels say nothing of findings (exclude, unchanged, suboptimal study): kept, all labels unknown"


def read_padchest(source: Path, options: ReadOptions) -> SourceData:
    """Read PadChest, whole or in part; the films under `<ImageDir>/`, or all in one folder.

    `--where MethodLabel=Physician` keeps the studies that physicians labelled.

    Raises:
        InputError: if the table is not there or a row is not in the published form.
    """
    require_folder(source)
    path = first_file(source, "PADCHEST_chest_x_ray_images_labels_160K*.csv", "PADCHEST*.csv.gz", "PADCHEST*.csv")
    if path is None:
        raise InputError("not PadChest: expected PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", source)
    root = options.images or source
    collector = StudyCollector()
    rows = []
    for row in read_rows(path, _REQUIRED, options.where):
        if row.get("Projection").upper() == "EXCLUDE":
            collector.skip(row.get("ImageID"), "projection EXCLUDE: the authors leave it out")
        elif row.get("Labels").lower() in ("", "nan"):
            collector.skip(row.get("ImageID"), "no labels")
        else:
            rows.append((row, _labels(row)))
    vocabulary = tuple(sorted({label for _, labels in rows for label in labels}))
    for row, said in rows:
        if not said:
            collector.skip(row.get("ImageID"), _UNKNOWN)
        _add(row, SaidLabels(said, vocabulary) if said else {}, root, collector)
    notes = (
        "reports are Spanish: they are kept and not linked; give mentions with --mentions",
        "labels are of physicians and of a network (MethodLabel); --where MethodLabel=Physician keeps the former",
    )
    return SourceData(
        "padchest", path.name, "padchest", LICENCE, root, collector.finish(), tuple(collector.skipped), notes, "es"
    )


@dataclass(frozen=True)
class SaidLabels(Mapping[str, int]):
    """A label of 1 for what is said and 0 for the rest of the vocabulary; a dict each would take a gigabyte.

    Attributes:
        said: The labels that are 1.
        vocabulary: All labels, sorted; one object for all studies.
    """

    said: frozenset[str]
    vocabulary: tuple[str, ...]

    def __getitem__(self, label: str) -> int:
        if label in self.said:
            return 1
        place = bisect_left(self.vocabulary, label)
        if place < len(self.vocabulary) and self.vocabulary[place] == label:
            return 0
        raise KeyError(label)

    def __iter__(self) -> Iterator[str]:
        return iter(self.vocabulary)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SaidLabels):
            return (self.said, self.vocabulary) == (other.said, other.vocabulary)
        return isinstance(other, Mapping) and dict(self) == dict(other)


def _labels(row: Row) -> frozenset[str]:
    """What is said; nothing if no finding is, nor that there is none: then nothing is known."""
    try:
        listed = ast.literal_eval(row.get("Labels"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(label, str) for label in listed):
        raise row.wrong("Labels", "a list such as ['pleural effusion', 'cardiomegaly']")
    said = frozenset(label.strip().lower() for label in listed)
    return frozenset() if _UNLABELLED in said else said - _NO_FINDINGS


def _add(row: Row, labels: Mapping[str, int], root: Path, collector: StudyCollector) -> None:
    name, folder = row.need("ImageID"), row.get("ImageDir").removesuffix(".0")
    candidates = (root / folder / name, root / name, root / "images" / name, root / "images" / folder / name)
    found = existing_file(candidates) if Path(name).name == name else None
    if found is None:
        collector.skip(name, "no such image file")
    projection = row.get("Projection")
    films = () if found is None else (ImageRef(found, view_of(projection), projection),)
    collector.add(
        Study(
            row.need("StudyID"), row.need("PatientID"), row.get("Report"), "", (), labels,
            sex=sex_of(row.get("PatientSex_DICOM")), age=_age(row),
        ),
        films,
    )  # fmt: skip


def _age(row: Row) -> float | None:
    """From the year of birth and the date of the study (20140101 or 2014.0)."""
    birth, date = row.get("PatientBirth"), row.get("StudyDate_DICOM")
    try:
        return age_of(str(int(date[:4]) - int(float(birth))))
    except (ValueError, OverflowError):
        return None
