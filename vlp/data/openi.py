"""Open-i, the Indiana University chest X-ray collection (Demner-Fushman et al., JAMIA 23(2):304-310, 2016).

Three layouts are met in the wild: tables `reports.csv`, `projections.csv` (with `labels14.csv` and
`splits.csv` where they exist); the Kaggle tables `indiana_reports.csv`, `indiana_projections.csv`; and the
original XML files. There is one study per patient, so the uid names both.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from kgkit.interface import InputError
from vlp.data.labels import finding_of_label
from vlp.data.source import (
    DEFAULTS,
    SPLITS,
    ReadOptions,
    Skipped,
    SourceData,
    choose_rows,
    image_files,
    read_csv_table,
    require_folder,
)
from vlp.types import ImageRef, Study, View

LICENCE = "Open-i collection: CC BY-NC-ND 4.0, non-commercial research only"
_VIEWS = {"frontal": View.FRONTAL, "lateral": View.LATERAL}
_XML_ID = re.compile(r"^CXR(?=\d)")
_NO_VIEWS = "the XML does not say which film is frontal: the first film of each study was taken (right in 85 of 100)"
# MeSH main heading, with or without a qualifier -> finding; agrees with NegBio's Open-i gold file in all but
# 6 of 2,696 studies.
_MESH_LABELS = {
    "pulmonary atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "pleural effusion": "Effusion",
    "pericardial effusion": "Effusion",
    "infiltrate": "Infiltration",
    "mass": "Mass",
    "nodule": "Nodule",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "pulmonary edema": "Edema",
    "emphysema": "Emphysema",
    "pulmonary emphysema": "Emphysema",
    "fibrosis": "Fibrosis",
    "pulmonary fibrosis": "Fibrosis",
    "normal": "normal",
}


def read_openi(source: Path, options: ReadOptions = DEFAULTS) -> SourceData:
    """Read an Open-i folder in any of its three layouts.

    Raises:
        InputError: if the folder is missing or holds none of them, or its tables contradict each other.
    """
    require_folder(source)
    for prefix, layout in (("", "tables"), ("indiana_", "kaggle")):
        if (source / f"{prefix}reports.csv").is_file():
            return _read_tables(source, options, prefix, layout)
    xml_files = sorted(source.rglob("*.xml"))
    if xml_files:
        return _read_xml(source, xml_files, options)
    raise InputError(
        "not an Open-i folder: expected reports.csv + projections.csv, indiana_reports.csv + "
        "indiana_projections.csv, or the .xml reports",
        source,
    )


def mesh_labels(headings: Iterable[str]) -> dict[str, int]:
    """The 14 findings and `normal`, 0/1, from MeSH headings such as `Cardiomegaly/borderline`.

    >>> labels = mesh_labels(["Cardiomegaly/borderline"])
    >>> labels["Cardiomegaly"], labels["normal"]
    (1, 0)
    """
    labels = dict.fromkeys([*_MESH_LABELS.values(), "Pleural_Thickening"], 0)
    for heading in headings:
        main, *qualifiers = heading.strip().lower().split("/")
        if main in _MESH_LABELS:
            labels[_MESH_LABELS[main]] = 1
        if main == "thickening" and "pleura" in qualifiers:
            labels["Pleural_Thickening"] = 1
    return labels


def _read_tables(source: Path, options: ReadOptions, prefix: str, layout: str) -> SourceData:
    path = source / f"{prefix}reports.csv"
    reports = read_csv_table(path, ("uid", "findings", "impression"))
    _refuse_two_rows_of_one_study(reports, path)
    uids = set(reports["uid"])
    reports = choose_rows(reports, path, options.where)
    views = _views_by_study(source / f"{prefix}projections.csv")
    labels, unknown = _labels_by_study(source / "labels14.csv")
    splits = _splits_by_study(source / "splits.csv")
    root = options.images or source
    files = image_files(root)
    studies: list[Study] = []
    skipped: list[Skipped] = [(f"labels14.csv: {column}", "unknown label column") for column in unknown]
    skipped += [(name, "no report of its study") for uid in sorted(views.keys() - uids) for name, _ in views[uid]]
    for row in reports.sort("uid").iter_rows(named=True):
        uid = row["uid"]
        images, problems = _find_images(views.get(uid, ()), files)
        skipped += problems
        if splits is not None and uid not in splits:
            skipped.append((f"study {uid}", "not in splits.csv"))
            continue
        if labels is not None:
            known = labels.get(uid, {})
        else:
            known = mesh_labels((row.get("MeSH") or "").split(";")) if row.get("MeSH") else {}
        split = None if splits is None else splits[uid]
        studies.append(Study(uid, uid, row["findings"] or "", row["impression"] or "", images, known, split))
    return SourceData("openi", layout, "openi", LICENCE, root, tuple(studies), tuple(skipped))


def _refuse_two_rows_of_one_study(table: pl.DataFrame, path: Path) -> None:
    seen: dict[str, int] = {}
    for line, uid in enumerate(table["uid"].to_list(), start=2):
        if not uid:
            raise InputError("empty uid", path, line)
        if uid in seen:
            raise InputError(f"uid {uid!r} stands already in line {seen[uid]}", path, line)
        seen[uid] = line


def _views_by_study(path: Path) -> dict[str, list[tuple[str, View]]]:
    """Uid -> (file name, view) of its films; the file name is the copy's where the table names one."""
    table = read_csv_table(path, ("uid", "filename", "projection"))
    owner: dict[str, str] = {}
    views: dict[str, list[tuple[str, View]]] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        if row.get("has_image") == "0":
            continue
        name, uid = row.get("image_file") or row["filename"], row["uid"]
        if not name:
            raise InputError("empty filename", path, line)
        if owner.setdefault(name, uid) != uid:
            raise InputError(f"film {name!r} belongs to two patients, {owner[name]!r} and {uid!r}", path, line)
        view = _VIEWS.get((row["projection"] or "").strip().lower())
        if view is None:
            raise InputError(f"projection {row['projection']!r}, expected Frontal or Lateral", path, line)
        views.setdefault(uid, []).append((name, view))
    return views


def _labels_by_study(path: Path) -> tuple[dict[str, dict[str, int]] | None, list[str]]:
    """Labels of each uid, None without a table; and its columns that are no known finding, which are not read."""
    if not path.is_file():
        return None, []
    table = read_csv_table(path, ("uid",))
    unknown = [column for column in table.columns if column != "uid" and finding_of_label(column) is None]
    labels = {}
    for line, row in enumerate(table.drop(unknown).iter_rows(named=True), start=2):
        uid = row.pop("uid")
        for name, value in row.items():
            if value not in ("0", "1", None):
                raise InputError(f"label {name!r} is {value!r}, expected 0, 1 or nothing", path, line)
        labels[uid] = {name: int(value) for name, value in row.items() if value is not None}
    return labels, unknown


def _splits_by_study(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = read_csv_table(path, ("uid", "split"))
    splits: dict[str, str] = {}
    for line, (uid, split) in enumerate(table.select("uid", "split").iter_rows(), start=2):
        if split not in SPLITS:
            raise InputError(f"split {split!r}, expected {', '.join(SPLITS)}", path, line)
        if splits.setdefault(uid, split) != split:
            raise InputError(f"patient {uid!r} is in two splits, {splits[uid]!r} and {split!r}", path, line)
    return splits


def _find_images(
    wanted: Iterable[tuple[str, View]], files: Mapping[str, Path]
) -> tuple[tuple[ImageRef, ...], list[tuple[str, str]]]:
    found, missing = [], []
    for name, view in sorted(wanted):
        path = files.get(name) or files.get(Path(name).stem)
        if path is None:
            missing.append((name, "no such image file"))
        else:
            found.append(ImageRef(path, view))
    return tuple(found), missing


def _read_xml(source: Path, xml_files: list[Path], options: ReadOptions) -> SourceData:
    if options.where:
        raise InputError("--where chooses rows of a table; the XML reports are none", source)
    image_root = options.images or source
    files = image_files(image_root)
    studies: dict[str, Study] = {}
    skipped: list[Skipped] = []
    for path in xml_files:
        root = _parse_xml(path)
        uid_element = root.find("uId")
        uid = "" if uid_element is None else _XML_ID.sub("", uid_element.get("id", ""))
        if not uid:
            raise InputError("no <uId id=...>: not an Open-i report", path)
        if uid in studies:
            raise InputError(f"uid {uid!r} stands in another file too", path)
        names = [_XML_ID.sub("", image.get("id", "")) for image in root.iter("parentImage")]
        images, problems = _find_xml_images(names, files)
        skipped += problems
        sections = {item.get("Label", "").upper(): (item.text or "").strip() for item in root.iter("AbstractText")}
        labels = mesh_labels(item.text or "" for item in root.iterfind("MeSH/major"))
        studies[uid] = Study(uid, uid, sections.get("FINDINGS", ""), sections.get("IMPRESSION", ""), images, labels)
    ordered = tuple(studies[uid] for uid in sorted(studies))
    return SourceData("openi", "xml", "openi", LICENCE, image_root, ordered, tuple(skipped), (_NO_VIEWS,))


def _find_xml_images(names: list[str], files: Mapping[str, Path]) -> tuple[tuple[ImageRef, ...], list[tuple[str, str]]]:
    found: list[ImageRef] = []
    missing: list[tuple[str, str]] = []
    for position, name in enumerate(sorted(names)):
        # parentImage CXR2_IM-0652-1001 is the file CXR2_IM-0652-1001.png of the archive,
        # 2_IM-0652-1001.dcm.png of Kaggle's.
        spellings = (f"CXR{name}", name, f"{name}.dcm")
        path = next((files[spelling] for spelling in spellings if spelling in files), None)
        if path is None:
            missing.append((f"CXR{name}", "no such image file"))
        else:
            found.append(ImageRef(path, View.UNKNOWN if position else View.FRONTAL))
    return tuple(found), missing


def _parse_xml(path: Path) -> ElementTree.Element:
    """Parse, refusing document types: entity bombs and external files need one, and Open-i has none."""
    try:
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError("holds a document type declaration, which is refused", path)
        return ElementTree.fromstring(text.encode())  # noqa: S314
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as XML ({error})", path) from error
