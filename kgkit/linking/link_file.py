"""Linking a file or a source as a whole: which reader it needs, the linker of an encoder, and where results go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.errors import InputError, choices
from kgkit.linking.linker import load_linker
from kgkit.linking.mention_files import LinkSummary, link_reports, write_mentions
from kgkit.linking.reports import UTF_8, read_reports
from kgkit.linking.spans import MIN_SCORE, SpanLinker, is_open
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.mentions import read_mentions
from kgkit.sources.radgraph import read_radgraph
from kgkit.sources.term_files import open_source
from kgkit.types import ReportMentions

AUTO, REPORTS, MENTIONS, RADGRAPH = "auto", "reports", "mentions", "radgraph"
FORMATS = (AUTO, REPORTS, MENTIONS, RADGRAPH)
_RADGRAPH_ENDINGS = (".json", ".json.gz", ".zip", ".jsonl.gz")
_FIRST_LINE = 1 << 24
"""Bytes within which the first record of a file has to end for its kind to be told."""


@dataclass(frozen=True)
class LinkOptions:
    """How a file is read and how far linking goes.

    Attributes:
        format: One of FORMATS.
        encoding: Of report files; see kgkit.linking.reports.read_reports.
        min_score: Search score below which a span that others found stays unlinked.
        names_only: Link such spans by name alone, which needs no search index.
    """

    format: str = AUTO
    encoding: str = UTF_8
    min_score: float = MIN_SCORE
    names_only: bool = False


@dataclass(frozen=True)
class LinkedFile:
    """What came of a file.

    Attributes:
        summary: What was written.
        format: What it was read as.
        skipped: Records of the input that were left out, by reason.
        first_defect: Place of the first of each reason.
    """

    summary: LinkSummary
    format: str
    skipped: Mapping[str, int] = field(default_factory=dict)
    first_defect: Mapping[str, str] = field(default_factory=dict)


def link_file(folder: Path, source: Path, out: Path, options: LinkOptions | None = None) -> LinkedFile:
    """Link a file and write mentions.

    Report text is searched for names. Mentions that others found (a mentions file, RadGraph) keep their spans and all
    they say, and those without a concept are linked by SpanLinker.

    Args:
        folder: ENCODER; with a search index, unless `names_only` is set or the file holds report text.
        source: Reports, a mentions file, or RadGraph annotations.
        out: mentions.jsonl to write.
        options: How.

    Raises:
        InputError: naming what is wrong with the file, the encoder, its index or the options.
    """
    options = options or LinkOptions()
    kind = _format(source, options.format)
    if kind == REPORTS:
        reports = read_reports(source, options.encoding)
        return LinkedFile(link_reports(load_linker(load_encoder(folder)), reports, out), kind)
    if options.encoding != UTF_8:
        raise InputError(f"--encoding is for report text; {kind} files are JSON, which is UTF-8", source)
    log = IngestLog()
    read = read_mentions if kind == MENTIONS else read_radgraph
    spans = load_span_linker(folder, options.min_score, names_only=options.names_only)
    summary = write_mentions(map(spans.link, read(source, log).reports), out)
    return LinkedFile(summary, kind, dict(log.skipped), dict(log.first_defect))


def linked_source(tables: SourceTables, log: IngestLog, folder: Path, min_score: float = MIN_SCORE) -> SourceTables:
    """A source of reports whose mentions get concepts while they are read.

    Args:
        tables: As read by read_radgraph or read_mentions.
        log: Where links are counted; a line of `checks` names the encoder.
        folder: ENCODER with a search index.
        min_score: Search score below which a mention stays unlinked.

    Raises:
        InputError: if the encoder or its index cannot be opened.
    """
    encoder = load_encoder(folder)
    spans = _span_linker(encoder, min_score, names_only=False)
    log.checks.append(f"mentions linked with encoder {encoder.digest[:16]}, search score {min_score:g} or more")
    return replace(tables, reports=_counted(tables.reports, spans, log))


def load_span_linker(folder: Path, min_score: float = MIN_SCORE, *, names_only: bool = False) -> SpanLinker:
    """A linker of spans with the names, and the search index, of an encoder.

    Raises:
        InputError: if the encoder or its index cannot be opened, or the score is not between 0 and 1.
    """
    return _span_linker(load_encoder(folder), min_score, names_only=names_only)


def _span_linker(encoder: ConceptEncoder, min_score: float, *, names_only: bool) -> SpanLinker:
    if not 0 <= min_score <= 1:
        raise InputError(f"--min-score is {min_score:g}, expected 0 to 1")
    if names_only:
        return SpanLinker(load_linker(encoder))
    from kgkit.search.concept_search import open_search  # loads FAISS, which linking by name does without

    return SpanLinker(load_linker(encoder), open_search(encoder.folder), min_score)


def _counted(reports: Iterable[ReportMentions], spans: SpanLinker, log: IngestLog) -> Iterator[ReportMentions]:
    for report in reports:
        found = spans.link(report)
        for before, after in zip(report.mentions, found.mentions, strict=True):
            if is_open(before):
                log.rows_read["mentions linked" if after.concept else "mentions left without a concept"] += 1
        yield found


def _format(source: Path, wanted: str) -> str:
    if wanted not in FORMATS:
        raise InputError(f"unknown format {wanted!r}; {choices(wanted, FORMATS)}")
    if wanted != AUTO:
        return wanted
    name = source.name.lower()
    if source.is_dir():
        return REPORTS if any(source.rglob("*.txt")) or not any(source.glob("*.json*")) else RADGRAPH
    if not source.is_file() or not name.endswith((".jsonl", *_RADGRAPH_ENDINGS)):
        return REPORTS
    record = _first_record(source) if name.endswith((".jsonl", ".jsonl.gz")) else None
    if isinstance(record, dict) and "mentions" in record:
        return MENTIONS
    is_report = name.endswith(".jsonl") and (not isinstance(record, dict) or _is_report(record))
    return REPORTS if is_report else RADGRAPH


def _is_report(record: dict[str, Any]) -> bool:
    """Whether a line is a report's text; RadGraph's line has entities, sentences, or one object under the id."""
    values = list(record.values())
    return not {"entities", "sentences", "labeler_1"} & record.keys() and not (
        len(values) == 1 and isinstance(values[0], dict)
    )


def _first_record(source: Path) -> Any:
    """The JSON value of the first line that holds one; None where that cannot be told."""
    if not source.stat().st_size:
        return None
    with open_source(source, "reports or mentions") as stream:
        lines = stream.read(_FIRST_LINE).splitlines()
    try:
        return next((json.loads(line.decode("utf-8-sig")) for line in lines if line.strip()), None)
    except (ValueError, RecursionError):
        return None
