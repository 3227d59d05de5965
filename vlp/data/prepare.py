"""`vlp prepare`: a data set in its own layout becomes a DATA folder, its reports become mentions."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from kgkit.interface import (
    InputError,
    ReportMentions,
    choices,
    load_encoder,
    load_linker,
    partial_folder,
    progress,
    publish_folder,
    write_manifest,
    write_text_atomically,
)
from vlp.data.openi import SPLITS, read_openi
from vlp.data.prepared import IMAGE_COLUMNS, LABEL_PREFIX, MENTION_COLUMNS, SPLIT_COLUMNS, STUDY_COLUMNS
from vlp.data.source import SourceData
from vlp.images import decode_image
from vlp.types import Study, View

SOURCES: dict[str, Callable[[Path], SourceData]] = {"openi": read_openi}
"""Data set name -> reader of its layouts."""


class ReportLinker(Protocol):
    """Anything that turns report text into mentions; `kgkit.interface.Linker` is one."""

    def link(self, report_id: str, text: str) -> ReportMentions:
        """Mentions of one report."""


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """One preparation.

    Attributes:
        dataset: A key of SOURCES.
        source: The data set's folder.
        encoder_dir: ENCODER folder; the linker finds its concepts.
        out_dir: DATA folder to make.
        seed: Of the split, where the data set fixes none.
        val_fraction: Part of the patients for validation, where the data set fixes no split.
        test_fraction: Part of the patients for the test, likewise.
    """

    dataset: str
    source: Path
    encoder_dir: Path
    out_dir: Path
    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What was made; also in the manifest.

    Attributes:
        out_dir: The DATA folder.
        studies: Studies per split.
        films: Readable films.
        mentions: Mentions found.
        skipped: Reason -> how many films or studies were left out for it.
        notes: Assumptions made.
    """

    out_dir: Path
    studies: dict[str, int]
    films: int
    mentions: int
    skipped: dict[str, int]
    notes: tuple[str, ...]


def prepare(config: PrepareConfig, linker: ReportLinker | None = None) -> PrepareSummary:
    """Make a DATA folder.

    Args:
        config: What to read and where to write.
        linker: Reads the reports; by default the linker of the encoder.

    Raises:
        InputError: for an unknown data set, a folder that is not one, contradictions in it, or no readable
            film.
    """
    if config.dataset not in SOURCES:
        raise InputError(f"no data set {config.dataset!r}; {choices(config.dataset, SOURCES)}")
    encoder = load_encoder(config.encoder_dir)
    source = SOURCES[config.dataset](config.source)
    splits = _split_patients(source.studies, config)
    images, unreadable = _read_films(source)
    skipped = [*source.skipped, *unreadable]
    if images.is_empty():
        reason = f"; first: {skipped[0][0]}, {skipped[0][1]}" if skipped else ""
        raise InputError(f"no readable film of any study{reason}", config.source)
    studies = _study_table(source.studies)
    mentions = _link_reports(studies, linker or load_linker(encoder))
    digests = {
        "data_digest": _digest(studies.select(list(STUDY_COLUMNS)), images.drop("path"), mentions, splits),
        "labels_digest": _digest(studies.drop(set(STUDY_COLUMNS) - {"study_id"})),
    }
    counts = dict(Counter(splits["split"].to_list()))
    content = {
        "dataset": source.name,
        "layout": source.layout,
        "label_set": source.label_set,
        "licence": source.licence,
        "image_root": str(source.image_root.resolve()),
        "encoder_digest": encoder.digest,
        "seed": config.seed,
        **digests,
        "studies": counts,
        "films": len(images),
        "mentions": len(mentions),
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": list(source.notes),
    }
    partial = partial_folder(config.out_dir)
    studies.write_parquet(partial / "studies.parquet")
    images.write_parquet(partial / "images.parquet")
    mentions.write_parquet(partial / "mentions.parquet")
    write_text_atomically(partial / "splits.csv", splits.write_csv())
    write_manifest(partial, "data", content)
    publish_folder(partial, config.out_dir)
    reasons = dict(Counter(reason for _, reason in skipped))
    return PrepareSummary(config.out_dir, counts, len(images), len(mentions), reasons, source.notes)


def report_text(findings: str, impression: str) -> str:
    """What the linker reads: findings and impression; the rest says what was asked, not what was seen."""
    parts = [("FINDINGS", findings.strip()), ("IMPRESSION", impression.strip())]
    return "\n".join(f"{section}: {text}" for section, text in parts if text)


def _split_patients(studies: Iterable[Study], config: PrepareConfig) -> pl.DataFrame:
    """Splits of the source, else by a hash of the patient id: stable when studies come or go."""
    rows, of_patient, of_study = [], dict[str, str](), dict[str, str]()
    for study in studies:
        split = study.split or _hashed_split(study.patient_id, config)
        if of_study.setdefault(study.study_id, study.patient_id) != study.patient_id:
            owners = f"{of_study[study.study_id]!r} and {study.patient_id!r}"
            raise InputError(f"study {study.study_id!r} belongs to two patients, {owners}", config.source)
        if of_patient.setdefault(study.patient_id, split) != split:
            both = f"{of_patient[study.patient_id]!r} and {split!r}"
            raise InputError(f"patient {study.patient_id!r} is in two splits, {both}", config.source)
        rows.append((study.study_id, study.patient_id, split))
    if len(of_study) != len(rows):
        raise InputError("a study id stands twice", config.source)
    return pl.DataFrame(rows, schema=SPLIT_COLUMNS, orient="row")


def _hashed_split(patient_id: str, config: PrepareConfig) -> str:
    digest = hashlib.sha256(f"{config.seed}:{patient_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    train, val, test = SPLITS
    if position < config.test_fraction:
        return test
    return val if position < config.test_fraction + config.val_fraction else train


def _read_films(source: SourceData) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """Decode every film once, so that training meets no bad file; bad ones are named with the reason."""
    films = [(study.study_id, image) for study in source.studies for image in study.images]
    rows, unreadable = [], []
    with progress("read films", len(films), "films") as bar:
        for study_id, image in films:
            bar.advance()
            try:
                content = image.path.read_bytes()
                height, width = decode_image(content, image.path).shape
            except (InputError, OSError) as error:
                reason = str(error).removeprefix(f"{image.path}: ")
                unreadable.append((image.path.name, reason))
                continue
            name = image.path.relative_to(source.image_root).as_posix()
            sha256 = hashlib.sha256(content).hexdigest()
            rows.append((study_id, name, View(image.view).value, width, height, sha256))
    return pl.DataFrame(rows, schema=IMAGE_COLUMNS, orient="row"), unreadable


def _study_table(studies: Iterable[Study]) -> pl.DataFrame:
    studies = list(studies)
    labels = sorted({name for study in studies for name in study.labels})
    rows = [
        (
            s.study_id,
            s.patient_id,
            s.findings,
            s.impression,
            report_text(s.findings, s.impression),
            *(s.labels.get(name) for name in labels),
        )
        for s in studies
    ]
    schema: dict[str, Any] = STUDY_COLUMNS | {LABEL_PREFIX + name: pl.Int8 for name in labels}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _link_reports(studies: pl.DataFrame, linker: ReportLinker) -> pl.DataFrame:
    rows = []
    with progress("link reports", len(studies), "reports") as bar:
        for study_id, text in studies.select("study_id", "text").iter_rows():
            bar.advance()
            for position, m in enumerate(linker.link(study_id, text).mentions):
                rows.append(
                    (
                        study_id,
                        position,
                        m.text,
                        m.start,
                        m.end,
                        m.section,
                        m.kind.value,
                        m.certainty.value,
                        m.temporality.value,
                        m.experiencer.value,
                        m.concept,
                        m.link_score,
                    )
                )
    return pl.DataFrame(rows, schema=MENTION_COLUMNS, orient="row")


def _digest(*tables: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(json.dumps(table.columns).encode())
        for row in table.iter_rows():
            digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()
