"""Tiny data sets in the exact layouts in which the real ones are shipped: names, headers, trees, oddities."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Rows = Sequence[Sequence[object]]
NIH_HEADER = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
    "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", "",
)  # fmt: skip
CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
MIMIC_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
MIMIC_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
PADCHEST_HEADER = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM", "SpatialResolution_DICOM",
    "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM",
    "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime", "RelativeXRayExposure_DICOM",
    "ReportID", "Report",
    "MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
MIMIC_REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough, rule out mass.

 COMPARISON:  ___.

 FINDINGS:

 {findings}

 IMPRESSION:

 {impression}
"""
DOCTOR_NOTE = """                                 FINAL REPORT
 PORTABLE CHEST, ___

 COMPARISON:  ___.

 There is cardiomegaly. No pleural effusion.
"""


def film(number: int, side: tuple[int, int] = (40, 32), deep: bool = False) -> Image.Image:
    """A film of its own: noise with a bright square."""
    pixels = np.random.default_rng(number).integers(0, 90, size=side)
    pixels[5:15, 6 + number % 8 : 16 + number % 8] = 240
    return Image.fromarray((pixels * 257).astype(np.uint16) if deep else pixels.astype(np.uint8))


def save(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_table(path: Path, header: Sequence[str], rows: Rows) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    content = stream.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def read_table(path: Path) -> list[list[str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.reader(io.StringIO(content.decode())))


def write_nih(folder: Path, *, patients: int = 12) -> None:
    """Two films a patient; the last three patients are the official test; boxes on the first film."""
    words = ("No Finding", "Effusion|Infiltration", "Cardiomegaly", "Pleural_Thickening|Mass")
    rows, lists = [], {"train_val_list.txt": "", "test_list.txt": ""}
    for patient in range(1, patients + 1):
        for follow_up in range(2):
            name = f"{patient:08d}_{follow_up:03d}.png"
            save(folder / f"images_{1 + patient % 2:03d}" / "images" / name, film(10 * patient + follow_up, (64, 64)))
            lists["test_list.txt" if patient > patients - 3 else "train_val_list.txt"] += f"{name}\n"
            row = (name, words[(patient + follow_up) % 4], follow_up, patient, 50 + patient, "FM"[patient % 2])
            rows.append((*row, ("PA", "AP")[follow_up], 2682, 2749, 0.143, 0.143, ""))
    write_table(folder / "Data_Entry_2017.csv", NIH_HEADER, rows)
    for name, text in lists.items():
        (folder / name).write_text(text)
    header = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", "")
    boxes = [("00000001_000.png", "Infiltrate", 512.0, 256.5, 128, 256, "", "", ""),
             ("00000001_000.png", "Effusion", 0, 0, 1024, 512, "", "", "")]  # fmt: skip
    write_table(folder / "BBox_List_2017.csv", header, boxes)


def write_chexpert(folder: Path, *, archive: str = "CheXpert-v1.0-small") -> None:
    """Train: 8 patients, the even ones with a lateral film and a second study; valid: 2 other patients."""
    blank = dict.fromkeys(CHEXPERT_LABELS, "")
    tables: dict[str, list[list[object]]] = {"train": [], "valid": []}
    for patient in range(1, 11):
        part = "train" if patient <= 8 else "valid"
        for study in range(1, 2 + (patient % 2 == 0)):
            said = {1: {"Cardiomegaly": "1.0", "Edema": "-1.0"}, 2: {"No Finding": "1.0", "Pneumonia": "0.0"}}[study]
            cells = dict.fromkeys(CHEXPERT_LABELS, "0.0") | said if part == "valid" else blank | said
            views = ["view1_frontal", *(["view2_lateral"] if patient % 2 == 0 else [])]
            for number, view in enumerate(views):
                path = f"{part}/patient{patient:05d}/study{study}/{view}.jpg"
                save(folder / path, film(100 * patient + 10 * study + number))
                side = "Lateral" if "lateral" in view else "Frontal"
                head = (f"{archive}/{path}", ("Female", "Male", "Unknown")[patient % 3], 40 + patient, side)
                tables[part].append([*head, "" if side == "Lateral" else "AP", *cells.values()])
    for part, rows in tables.items():
        write_table(folder / f"{part}.csv", ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS), rows)


def write_mimic(folder: Path) -> None:
    """Eight patients p10000001 ...; patient 4 has no report, patient 5 one without headings."""
    metadata, splits, labels = [], [], []
    for number in range(1, 9):
        subject, study = 10000000 + number, 50000000 + number
        part = "train" if number <= 5 else "validate" if number == 6 else "test"
        tree = folder / "files" / "p10" / f"p{subject}"
        for position, view in enumerate(("PA", "LATERAL") if number % 2 else ("AP",)):
            dicom = "-".join(f"{number:04x}{position:04x}" for _ in range(5))
            save(tree / f"s{study}" / f"{dicom}.jpg", film(1000 * number + position, (50, 44)))
            metadata.append((dicom, subject, study, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 213014.531,
                             "CHEST (PA AND LAT)", "postero-anterior", "Erect"))  # fmt: skip
            splits.append((dicom, study, subject, part))
        heart = number % 2 == 0
        said = {"Cardiomegaly": "1.0" if heart else "0.0", "Pleural Effusion": "-1.0" if number == 3 else "0.0"}
        labels.append((subject, study, *(said.get(name, "") for name in MIMIC_LABELS)))
        findings = "There is cardiomegaly." if heart else "The heart is normal in size. No pleural effusion."
        report = MIMIC_REPORT.format(findings=findings, impression="Cardiomegaly." if heart else "Normal chest.")
        if number != 4:
            (tree / f"s{study}.txt").write_text(DOCTOR_NOTE if number == 5 else report)
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", MIMIC_METADATA, metadata)
    write_table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    for kind in ("chexpert", "negbio"):
        write_table(folder / f"mimic-cxr-2.0.0-{kind}.csv.gz", ("subject_id", "study_id", *MIMIC_LABELS), labels)


def write_padchest(folder: Path) -> None:
    """Ten studies of ten patients as 16-bit PNG under ImageDir; one EXCLUDE, one without labels, spaces in labels."""
    rows = []
    for number in range(10):
        name = f"2168401113669640135901404767220130{number:02d}_00-0{number:02d}.png"
        save(folder / str(number % 3) / name, film(number, (48, 40), deep=True))
        projection = ("PA", "L", "AP_horizontal", "AP", "COSTAL", "PA", "EXCLUDE", "PA", "PA", "PA")[number]
        labels = ("['cardiomegaly', ' pleural effusion']", "['normal']", "['unchanged', 'cardiomegaly']", "[]")[
            number % 4
        ]
        row = dict.fromkeys(PADCHEST_HEADER, "") | {
            "": number, "ImageID": name, "ImageDir": number % 3, "StudyDate_DICOM": 20140915,
            "StudyID": f"20536686640{number}",
            "PatientID": f"8390966478{number}", "PatientBirth": 1930.0 + number, "PatientSex_DICOM": "FMO"[number % 3],
            "ViewPosition_DICOM": "POSTEROANTERIOR", "Projection": projection,
            "MethodProjection": "Manual review of DICOM fields", "Pediatric": "No", "ReportID": 4765777 + number,
            "Report": "sin hallazgos patologic edema .", "MethodLabel": ("Physician", "RNN_model")[number % 2],
            "Labels": "" if number == 7 else labels,
        }  # fmt: skip
        rows.append(tuple(row.values()))
    write_table(folder / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", PADCHEST_HEADER, rows)


def write_chestxdet10(folder: Path) -> None:
    parts = {"train": [], "test": []}
    for number in range(1, 9):
        part = "train" if number <= 5 else "test"
        name = f"{number:08d}_00{number % 3}.png"
        save(folder / f"{part}_data" / name, film(number, (60, 60)))
        sick = number % 2 == 0
        parts[part].append({
            "file_name": name, "syms": ["Fibrosis", "Fibrosis"] if sick else [],
            "boxes": [[32, 21, 50, 49], [12, 11, 44, 19]] if sick else [],
        })  # fmt: skip
    for part, films in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(films))


CSV_HEADER = ("path", "study_id", "patient_id", "view", "split", "sex", "age", "report", "label:Cardiomegaly",
              "label:Pleural Effusion")  # fmt: skip


def write_csv(folder: Path) -> None:
    rows = []
    for number in range(9):
        name = f"films/{number}.png"
        save(folder / name, film(number))
        heart = number % 2 == 0
        report = (
            "FINDINGS: There is cardiomegaly." if heart else "FINDINGS: No pleural effusion. IMPRESSION: Normal chest."
        )
        part = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((name, f"s{number}", f"p{number // 2}", ("PA", "lateral")[number % 5 == 4], part, "F", 61, report,
                     int(heart), "" if heart else 0))  # fmt: skip
    write_table(folder / "films.csv", CSV_HEADER, rows)


LAYOUTS = {
    "nih": write_nih,
    "chexpert": write_chexpert,
    "mimic-cxr": write_mimic,
    "padchest": write_padchest,
    "chestxdet10": write_chestxdet10,
    "csv": write_csv,
}
"""Data set -> writer of its tiny copy."""


def flip_labels(dataset: str, folder: Path) -> None:
    """Change every label of a tiny copy: people and labelers could hardly disagree more."""
    if dataset == "chestxdet10":
        for path in folder.glob("*.json"):
            films = json.loads(path.read_text())
            for entry in films:
                entry["syms"], entry["boxes"] = ([], []) if entry["syms"] else (["Mass"], [[1, 2, 30, 40]])
            path.write_text(json.dumps(films))
        return
    for path in [*folder.glob("*.csv"), *folder.glob("*-chexpert.csv.gz")]:
        header, *rows = read_table(path)
        for row in rows:
            for column, name in enumerate(header):
                row[column] = _flipped(dataset, name, row[column])
        write_table(path, header, rows)


def _flipped(dataset: str, column: str, cell: str) -> str:
    if dataset == "nih":
        return "Edema|Hernia" if column == "Finding Labels" else cell
    if dataset == "padchest":
        return "['nodule']" if column == "Labels" and cell else cell
    is_label = column in CHEXPERT_LABELS or column.startswith("label:")
    return ("0" if cell in ("1", "1.0") else "1") if is_label else cell
