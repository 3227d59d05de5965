"""`vlp prepare`: a data set in its own layout becomes a DATA folder, its reports become mentions."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from kgkit.interface import (
    InputError,
    ReportMentions,
    choices,
    file_digests,
    load_linker,
    load_verified_encoder,
    progress,
    publish_folder,
    require_replaceable,
    write_manifest,
    write_text_atomically,
)
from vlp.data.boxes import box_table
from vlp.data.decode import DecodeOptions, end_reading, read_films
from vlp.data.labels import findings_of_labels
from vlp.data.mention_input import by_study, read_mention_file
from vlp.data.prepared import (
    LABEL_PREFIX,
    MENTION_COLUMNS,
    PATIENT_COLUMNS,
    STUDY_COLUMNS,
    TABLES,
    label_columns,
    supervision_digest,
    table_digest,
)
from vlp.data.readers import READERS
from vlp.data.source import ReadOptions, Skipped, SourceData, skip_counts
from vlp.data.splits import SplitOptions, split_patients
from vlp.run_folder import RUN_FILE, open_run
from vlp.types import ImageRef, Study

NO_REPORT = "missing report: the study is kept, without mentions"
_LINKED_LANGUAGE = "en"


class ReportLinker(Protocol):
    """Anything that turns report text into mentions; `kgkit.interface.Linker` is one."""

    def link(self, report_id: str, text: str) -> ReportMentions:
        """Mentions of one report."""


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """One preparation.

    Attributes:
        dataset: A key of READERS.
        source: The data set's folder (of `csv`, the table or its folder).
        encoder_dir: ENCODER folder; the linker finds its concepts. None where no report has to be linked.
        out_dir: DATA folder to make.
        splits: How studies are divided.
        read: How the data set is read.
        decode: How films are read and kept.
        mentions_file: Mentions from outside, in place of the linker's.
    """

    dataset: str
    source: Path
    encoder_dir: Path | None
    out_dir: Path
    splits: SplitOptions = field(default_factory=SplitOptions)
    read: ReadOptions = field(default_factory=ReadOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    mentions_file: Path | None = None


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What was made; also in the manifest.

    Attributes:
        out_dir: The DATA folder.
        studies: Studies per split.
        films: Readable films.
        mentions: Mentions found.
        skipped: Reason -> how many films or studies were left out for it.
        first_skipped: Reason -> the first of them.
        notes: Assumptions made.
    """

    out_dir: Path
    studies: dict[str, int]
    films: int
    mentions: int
    skipped: dict[str, int]
    first_skipped: dict[str, str]
    notes: tuple[str, ...]


def prepare(config: PrepareConfig, linker: ReportLinker | None = None) -> PrepareSummary:
    """Make a DATA folder.

    Args:
        config: What to read and where to write.
        linker: Reads the reports; by default the linker of the encoder.

    Raises:
        InputError: for an unknown data set, a folder that is not one, contradictions in it, a patient in two parts,
            mentions that are none, or no readable film.
    """
    if config.dataset not in READERS:
        raise InputError(f"no data set {config.dataset!r}; {choices(config.dataset, READERS)}")
    require_replaceable(config.out_dir, "data")
    encoder = None if config.encoder_dir is None else load_verified_encoder(config.encoder_dir)
    given = None if config.mentions_file is None else read_mention_file(config.mentions_file)
    source = READERS[config.dataset](config.source, config.read)
    splits, unlisted = split_patients(source.studies, config.splits, config.source)
    named = set(splits["study_id"].to_list())
    studies = [study for study in source.studies if study.study_id in named]
    if linker is None and given is None and source.language == _LINKED_LANGUAGE:
        if encoder is None:
            raise InputError("to link the reports, give --kg-encoder ENCODER, or mentions with --mentions FILE")
        linker = load_linker(encoder)
    partial = _open_partial(config, source, studies)
    films = [(study.study_id, image) for study in studies for image in study.images]
    images, unreadable = read_films(films, source.image_root, partial, config.decode)
    skipped = [*source.skipped, *unlisted, *unreadable]
    if images.is_empty():
        shutil.rmtree(partial)
        reasons = [f"{entry['count']} {reason}" for reason, entry in skip_counts(skipped).items()]
        first = next((f"; first: {name}, {reason}" for name, reason in [*unreadable, *skipped]), "")
        counts = f" ({'; '.join(reasons)})" if len(reasons) > 1 else ""
        raise InputError(f"no readable film of any study{counts}{first}", config.source)
    table, mentions, without = _mentions(_study_table(studies), source, given, linker)
    skipped += without
    tables = {"studies": table, "images": images, "mentions": mentions, "boxes": box_table(studies, images, source)}
    content = _manifest(config, source, tables, splits, skipped)
    content["encoder_digest"] = None if encoder is None else encoder.digest
    for name, columns in tables.items():
        columns.write_parquet(partial / f"{name}.parquet")
    write_text_atomically(partial / "splits.csv", splits.write_csv())
    end_reading(partial, config.decode)
    (partial / RUN_FILE).unlink()
    write_manifest(partial, "data", content | {"file_digests": file_digests(partial, TABLES)})
    publish_folder(partial, config.out_dir)
    return _summary(config.out_dir, content)


def _summary(out_dir: Path, content: dict[str, Any]) -> PrepareSummary:
    reasons = content["skipped_by_reason"]
    return PrepareSummary(
        out_dir, content["studies"], content["films"], content["mentions"],
        {reason: entry["count"] for reason, entry in reasons.items()},
        {reason: entry["first"] for reason, entry in reasons.items()}, tuple(content["notes"]),
    )  # fmt: skip


def report_text(findings: str, impression: str) -> str:
    """What the linker reads: findings and impression; the rest says what was asked, not what was seen."""
    parts = [("FINDINGS", findings.strip()), ("IMPRESSION", impression.strip())]
    return "\n".join(f"{section}: {text}" for section, text in parts if text)


def _open_partial(config: PrepareConfig, source: SourceData, studies: Sequence[Study]) -> Path:
    """The folder the run works in, checked against the run that began it."""
    run = {
        "dataset": config.dataset,
        "source": str(config.source.resolve()),
        "side": config.decode.side,
        "films": _films_digest(image for study in studies for image in study.images),
    }
    return open_run(config.out_dir, "data", run, resume=config.decode.resume)


def _films_digest(images: Any) -> str:
    """Of names and sizes of the films, in order."""
    digest = hashlib.sha256()
    for image in images:
        film: ImageRef = image
        digest.update(f"{film.path}\0{film.path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _manifest(
    config: PrepareConfig,
    source: SourceData,
    tables: dict[str, pl.DataFrame],
    splits: pl.DataFrame,
    skipped: Sequence[Skipped],
) -> dict[str, Any]:
    studies, images = tables["studies"], tables["images"]
    labels = [name.removeprefix(LABEL_PREFIX) for name in studies.columns if name.startswith(LABEL_PREFIX)]
    not_supervising = [name for name in studies.columns if name not in STUDY_COLUMNS]
    stored = {"file": "films.bin", "side": config.decode.side} if config.decode.side else None
    return {
        "dataset": source.name,
        "layout": source.layout,
        "label_set": source.label_set,
        "label_findings": findings_of_labels(labels, source.label_set),
        "licence": source.licence,
        "language": source.language,
        "image_root": str(source.image_root.resolve()),
        "stored_films": stored,
        "seed": config.splits.seed,
        "split_by": _split_rule(config.splits, source),
        "mentions_from": _mentions_from(config, source),
        "where": [f"{column}={value}" for column, value in config.read.where],
        "data_digest": supervision_digest(studies, images, tables["mentions"], splits),
        "labels_digest": table_digest(studies.select("study_id", *not_supervising), tables["boxes"]),
        "studies": dict(Counter(splits["split"].to_list())),
        "films": len(images),
        "mentions": len(tables["mentions"]),
        "skipped_by_reason": skip_counts(skipped),
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": list(source.notes),
    }


def _mentions_from(config: PrepareConfig, source: SourceData) -> str:
    if config.mentions_file is not None:
        return config.mentions_file.name
    return "linker" if source.language == _LINKED_LANGUAGE else "none"


def _split_rule(options: SplitOptions, source: SourceData) -> str:
    if options.test_only:
        return "all in test"
    if options.split_file is not None:
        return f"list {options.split_file.name}"
    fixed = {study.split is not None for study in source.studies}
    drawn = any(study.split in (None, "train+val") for study in source.studies)
    if fixed == {True} and not drawn:
        return "the source's own"
    return "by patient, seeded" if fixed != {True} else "the source's own; validation by patient, seeded"


def _study_table(studies: Sequence[Study]) -> pl.DataFrame:
    rows = [
        (
            s.study_id,
            s.patient_id,
            s.findings,
            s.impression,
            report_text(s.findings, s.impression),
            s.sex or None,
            s.age,
        )
        for s in studies
    ]
    schema: dict[str, Any] = {**STUDY_COLUMNS, **PATIENT_COLUMNS}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(label_columns([study.labels for study in studies]).values())


def _mentions(
    studies: pl.DataFrame,
    source: SourceData,
    given: dict[str, ReportMentions] | None,
    linker: ReportLinker | None,
) -> tuple[pl.DataFrame, pl.DataFrame, list[Skipped]]:
    """Studies, their mentions, and what has none though its data set has reports.

    Spans of mentions from outside are theirs, so their text becomes the study's.
    """
    left_out: list[Skipped] = []
    if given is not None:
        given, others = by_study(given, studies["study_id"])
        left_out = [(f"report {key}", "mentions of a study that is not here") for key in others]
        if not given:
            names = f"{others[0]!r} is none of them; one of them is {studies['study_id'][0]!r}"
            raise InputError(f"no report of the mentions is a study of this data set: {names}")
        pairs = studies.select("study_id", "text").iter_rows()
        texts = [given[key].text if key in given else text for key, text in pairs]
        studies = studies.with_columns(pl.Series("text", texts, dtype=pl.String))
        rows = [row for key in studies["study_id"] if key in given for row in _mention_rows(key, given[key])]
        mentions = pl.DataFrame(rows, schema=MENTION_COLUMNS, orient="row")
    elif linker is not None and source.language == _LINKED_LANGUAGE:
        mentions = _link_reports(studies, linker)
    else:
        mentions = pl.DataFrame(schema=MENTION_COLUMNS)
    if source.language or given is not None:
        silent = studies.filter(pl.col("text").str.strip_chars() == "")["study_id"]
        left_out += [(f"study {study_id}", NO_REPORT) for study_id in silent]
    return studies, mentions, left_out


def _link_reports(studies: pl.DataFrame, linker: ReportLinker) -> pl.DataFrame:
    rows = []
    with progress("link reports", len(studies), "reports") as bar:
        for study_id, text in studies.select("study_id", "text").iter_rows():
            bar.advance()
            rows += _mention_rows(study_id, linker.link(study_id, text))
    return pl.DataFrame(rows, schema=MENTION_COLUMNS, orient="row")


def _mention_rows(study_id: str, report: ReportMentions) -> list[tuple[Any, ...]]:
    return [
        (
            study_id, position, m.text, m.start, m.end, m.section, m.kind.value, m.certainty.value,
            m.temporality.value, m.experiencer.value, m.concept, m.link_score,
        )
        for position, m in enumerate(report.mentions)
    ]  # fmt: skip
