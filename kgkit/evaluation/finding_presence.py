"""Finding presence: what the linker reads out of report text alone, against what people marked in the same reports.

The data come in the layout of the Open-i collection (Demner-Fushman et al. 2016): reports.csv, labels14.csv with 0/1
for each finding, and, where there is more than one part, splits.csv. Labels are compared with, and steer nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kgkit.arrays import DoubleArray, IntArray
from kgkit.encoder.artifact import load_encoder
from kgkit.errors import InputError, choices
from kgkit.evaluation.outcomes import Answer, Columns, Outcomes, Statistic
from kgkit.evaluation.tables import one_of
from kgkit.findings import Finding, findings_by_label, load_findings
from kgkit.linking.linker import Linker, finding_concepts, finding_phrases, load_linker
from kgkit.linking.reports import join_sections
from kgkit.progress import progress
from kgkit.types import Certainty, Experiencer, Mention, Temporality

LABELS = "labels14.csv"
ALL_PARTS = "all"
COMMON = 20
"""Findings with as many positive reports or more in the folder make the macro F1."""
_SECTIONS = ("findings", "impression")
_NO_FINDING = "normal"
_MARKS = MappingProxyType({"0": 0.0, "1": 1.0})
Read = Callable[[str], Collection[str]]
"""Report text -> keys of the findings it asserts."""


@dataclass(frozen=True)
class LabelledReports:
    """Reports of one part with people's marks.

    Attributes:
        uids: Ids, in the order of the file.
        texts: Findings and impression, joined.
        labels: The findings that were marked, in the order of the table.
        gold: float64 [reports, labels], 1 where a finding was marked.
        common: Labels with COMMON or more positives in the whole folder.
        part: What was read.
    """

    uids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[str]
    gold: DoubleArray
    common: Sequence[str]
    part: str


def finding_presence(folder: Path | None, data: Path, part: str | None = None) -> Answer:
    """Measure the linker on reports that people have read.

    A finding is said to be present if the report mentions it, or one of its narrower findings, as present, of now and
    of the patient.

    Args:
        folder: ENCODER, whose graph names are then linked beside the phrases of the findings; None for these alone.
        data: Folder in the layout of the Open-i set.
        part: A value of splits.csv, or `all`; val, else test, else all, if not given.

    Returns:
        Part `findings`: `macro_f1` over the common findings (see COMMON), micro F1, precision and recall over all;
        then a part for each finding with its precision, recall and F1. The resampled unit is the report (one per
        patient).

    Raises:
        InputError: naming the file, row and value that is wrong.
    """
    findings = load_findings()
    if folder is None:
        linker, concepts = Linker(finding_phrases(findings)), {key: f"finding:{key}" for key in findings}
    else:
        encoder = load_encoder(folder)
        linker, concepts = load_linker(encoder, findings), finding_concepts(findings, encoder)
    keys: dict[str, list[str]] = {}
    for key, concept in concepts.items():
        keys.setdefault(concept, []).append(key)

    def read(text: str) -> Collection[str]:
        stated = (mention for mention in linker.link("", text).mentions if is_stated(mention))
        return with_broader((key for mention in stated for key in keys.get(str(mention.concept), ())), findings)

    return _answer(read_labelled_reports(data, findings, part), findings, read)


def finding_presence_baselines(data: Path, part: str | None = None) -> dict[str, Answer]:
    """What has to be beaten, on the same reports: `majority` and `mention`.

    Returns:
        `majority`: each finding's commonest answer in the measured part; `mention`: a finding is present if the report
        names it at all, whatever the context says.
    """
    findings = load_findings()
    reports = read_labelled_reports(data, findings, part)
    phrases = [phrase for phrase in finding_phrases(findings) if not phrase.denies]
    linker = Linker(phrases)

    def read(text: str) -> Collection[str]:
        named = (str(mention.concept).removeprefix("finding:") for mention in linker.link("", text).mentions)
        return with_broader(named, findings)

    keys = _keys(findings)
    usual = {keys[label] for label, share in zip(reports.labels, reports.gold.mean(axis=0), strict=True) if share > 0.5}
    return {"majority": _answer(reports, findings, lambda _: usual), "mention": _answer(reports, findings, read)}


def is_stated(mention: Mention) -> bool:
    """Whether a report states the mentioned thing as present, now, of the patient."""
    return (
        mention.certainty is Certainty.PRESENT
        and mention.temporality is Temporality.RECENT
        and mention.experiencer is Experiencer.PATIENT
    )


def with_broader(keys: Iterable[str], findings: Mapping[str, Finding]) -> set[str]:
    """Findings with all their broader ones."""
    found: set[str] = set()
    pending = list(keys)
    while pending:
        key = pending.pop()
        if key not in found:
            found.add(key)
            pending += findings[key].parents
    return found


def read_labelled_reports(data: Path, findings: Mapping[str, Finding], part: str | None = None) -> LabelledReports:
    """Read the reports of a part that have marks.

    Raises:
        InputError: if a file or column is missing, the part is unknown, an id stands twice, or a mark is not 0 or 1.
    """
    if not data.is_dir():
        raise InputError("no such folder; expected reports with marks: reports.csv, labels14.csv, splits.csv", data)
    marks_path = data / LABELS
    marks = _read_rows(marks_path, ("uid",))
    labels = [label for label in marks[0][1] if label in _keys(findings)]
    if not labels:
        known = ", ".join(_keys(findings))
        raise InputError(f"no column is a finding that Open-i marks ({known})", marks_path, 1)
    gold = {
        row["uid"]: [_MARKS[one_of(row[label].strip(), _MARKS, label, marks_path, line)] for label in labels]
        for line, row in marks
    }
    positives = np.array(list(gold.values())).sum(axis=0)
    common = [label for label, count in zip(labels, positives, strict=True) if count >= COMMON]
    part, chosen = _chosen(data / "splits.csv", part)
    rows = [row for _, row in _read_rows(data / "reports.csv", ("uid", *_SECTIONS))
            if row["uid"] in gold and (chosen is None or row["uid"] in chosen)]  # fmt: skip
    if not rows:
        raise InputError(f"no report of part {part!r} has marks in labels14.csv", data / "reports.csv")
    texts = [join_sections({name: row[name] for name in _SECTIONS}) for row in rows]
    uids = [row["uid"] for row in rows]
    return LabelledReports(uids, texts, labels, np.array([gold[uid] for uid in uids]), common, part)


def presence_figures(is_common: Sequence[bool], columns: Columns, weights: IntArray) -> dict[str, float]:
    """Macro F1 over common findings, and micro figures over all findings.

    Args:
        is_common: By number of the finding, as in column `finding`.
        columns: `gold` and `said`, 0 or 1; `finding`.
        weights: int64 [Q].
    """
    number = columns["finding"].astype(np.int64)
    said, gold, both = (
        np.bincount(number, weights=weights * values, minlength=len(is_common))
        for values in (columns["said"], columns["gold"], columns["said"] * columns["gold"])
    )
    common = np.flatnonzero(is_common)
    f1 = [_ratio(2 * both[row], said[row] + gold[row]) for row in common]
    defined = [value for value in f1 if not np.isnan(value)]
    return {
        "macro_f1": float(np.mean(defined)) if defined else float("nan"),
        "micro_f1": _ratio(2 * both.sum(), said.sum() + gold.sum()),
        "micro_precision": _ratio(both.sum(), said.sum()),
        "micro_recall": _ratio(both.sum(), gold.sum()),
    }


def one_finding_figures(columns: Columns, weights: IntArray) -> dict[str, float]:
    """F1, precision and recall of one finding; NaN where nothing is said, or nothing is, present."""
    both = float(weights @ (columns["gold"] * columns["said"]))
    said, gold = float(weights @ columns["said"]), float(weights @ columns["gold"])
    return {"f1": _ratio(2 * both, said + gold), "precision": _ratio(both, said), "recall": _ratio(both, gold)}


def _answer(reports: LabelledReports, findings: Mapping[str, Finding], read: Read) -> Answer:
    keys = _keys(findings)
    said = np.zeros(reports.gold.shape)
    with progress("reading reports", len(reports.texts), "reports") as bar:
        for row, text in enumerate(reports.texts):
            asserted = read(text)
            said[row] = [keys[label] in asserted for label in reports.labels]
            bar.advance()
    count, width = len(reports.texts), len(reports.labels)
    rows, numbers = np.repeat(np.arange(count), width), np.tile(np.arange(width), count)
    queries = [f"{uid}: {label}" for uid in reports.uids for label in reports.labels]
    columns = {"gold": reports.gold.reshape(-1), "said": said.reshape(-1), "finding": numbers.astype(np.float64)}
    whole = Outcomes(queries, columns, rows)
    parts = {"findings": whole}
    is_common = [label in reports.common for label in reports.labels]
    statistics: dict[str, Statistic] = {"findings": partial(presence_figures, is_common)}
    for number, label in enumerate(reports.labels):
        if columns["gold"][numbers == number].any():
            parts[label] = whole.part(numbers == number)
            statistics[label] = one_finding_figures
    positives = reports.gold.sum(axis=0)
    about = {
        "file": "reports.csv",
        "part": reports.part,
        "reports": count,
        "macro_over": ", ".join(reports.common) or "nothing",
        "positives": {label: int(each) for label, each in zip(reports.labels, positives, strict=True)},
    }
    notes = [] if reports.common else [f"no finding has {COMMON} positive reports, so there is no macro F1"]
    return Answer(parts, about, notes, statistics=statistics)


def _keys(findings: Mapping[str, Finding]) -> dict[str, str]:
    """Open-i label -> key of its finding."""
    by_label = findings_by_label(findings, "openi")
    return {label: finding.key for label, finding in by_label.items() if label != _NO_FINDING}


def _chosen(path: Path, part: str | None) -> tuple[str, set[str] | None]:
    """Name of the part, and the ids in it; None for all."""
    if not path.is_file():
        if part not in (None, ALL_PARTS):
            raise InputError(f"part {part!r} asked for, but there is no such file; leave the part out", path)
        return ALL_PARTS, None
    rows = _read_rows(path, ("uid", "split"))
    known = sorted({row["split"] for _, row in rows})
    part = part or next((name for name in ("val", "test") if name in known), ALL_PARTS)
    if part == ALL_PARTS:
        return part, {row["uid"] for _, row in rows}
    if part not in known:
        raise InputError(f"no part {part!r} here; {choices(part, [*known, ALL_PARTS])}", path)
    return part, {row["uid"] for _, row in rows if row["split"] == part}


def _read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with their line; `uid` is in each once."""
    seen: dict[str, int] = {}
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                missing = [name for name in columns if name not in row]
                if missing:
                    raise InputError(f"no column {missing[0]!r}; expected {', '.join(columns)}", path, 1)
                line = reader.line_num
                if None in row or None in row.values():
                    raise InputError(f"expected {len(reader.fieldnames or ())} fields as in the header", path, line)
                uid = row["uid"]
                if uid in seen:
                    raise InputError(f"uid {uid!r} stands on line {seen[uid]} already", path, line)
                seen[uid] = line
                rows.append((line, row))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not readable as a UTF-8 CSV file ({error})", path) from error
    if not rows:
        raise InputError("no row below the header", path)
    return rows


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
