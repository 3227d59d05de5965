"""Mentions that `kgkit link` wrote (mentions.jsonl), as a source of the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kgkit.errors import InputError
from kgkit.namespaces import expand
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.corpus import REPORT_LICENCE_LEVEL, Place, corpus_tables
from kgkit.sources.json_records import HALF_CHARACTER, json_lines
from kgkit.sources.term_files import open_source
from kgkit.types import Mention, ReportMentions

_EXPECTED = "mentions.jsonl, as kgkit link writes it"
_NOT_IN_IRI = re.compile(r'[\x00-\x20<>"{}|^`\\]')


def read_mentions(
    path: Path,
    log: IngestLog,
    corpus: str | None = None,
    release: str = "1",
    licence_level: int = REPORT_LICENCE_LEVEL,
) -> SourceTables:
    """Read linked reports, so that they join the graph whose concepts they denote.

    Args:
        path: A `mentions.jsonl`, gzipped or not; a report on each line (`ReportMentions.to_json`). It is read while
            `reports` of the result is iterated.
        log: Where reports, mentions and lines that are no report are counted.
        corpus: Name of the corpus; the file's name if not given.
        release: Release of the corpus.
        licence_level: UMLS source restriction level of the corpus.

    Raises:
        InputError: if there is no such file; while iterating, if a line is not JSON, two different reports share an
            id, or no line is a report.
    """
    if not path.is_file():
        raise InputError(f"no such file; expected {_EXPECTED}", path)
    log.files.append(path)
    return corpus_tables(path, corpus, release, "Mentions in the reports", licence_level, _read_lines(path, log), log)


def parse_report(record: Any) -> ReportMentions:
    """A report from the JSON of one line.

    Raises:
        ValueError: saying what is wrong, if it is none.
    """
    try:
        report = ReportMentions.from_json(record)
    except KeyError as error:
        raise ValueError(f"not a report with mentions (no {error})") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not a report with mentions ({error})") from error
    for index, mention in enumerate(report.mentions):
        problem = _problem(mention, report)
        if problem:
            raise ValueError(f"mention {index}: {problem}")
    if HALF_CHARACTER.search(report.report_id + report.text):
        raise ValueError("holds half a character (a lone \\ud800..\\udfff)")
    return report


def _read_lines(path: Path, log: IngestLog) -> Iterator[tuple[Place, ReportMentions]]:
    first_problem = ""
    with open_source(path, _EXPECTED) as stream:
        for line, record in json_lines(stream, path):
            log.rows_read["reports"] += 1
            try:
                report = parse_report(record)
            except ValueError as error:
                first_problem = first_problem or f"line {line}: {error}"
                log.defect("reports", "not a report with mentions", (path, line), str(error)[:160])
                continue
            log.rows_read["mentions"] += len(report.mentions)
            yield (path, line), report
    if first_problem and log.rows_read["reports"] == log.skipped["reports: not a report with mentions"]:
        raise InputError(f"no report can be read; {first_problem}", path)


def _problem(mention: Mention, report: ReportMentions) -> str:
    """What is wrong with a mention, or nothing."""
    start, end = mention.start, mention.end
    if not 0 <= start <= end <= len(report.text) or report.text[start:end] != mention.text:
        return f"the text from {start} to {end} is not {mention.text!r}"
    if any(not 0 <= target < len(report.mentions) for _, target in mention.relations):
        return "a relation leads to no mention"
    if mention.link_score is not None and not 0 <= mention.link_score <= 1:
        return f"link score {mention.link_score}, expected 0 to 1"
    if HALF_CHARACTER.search(mention.section + (mention.concept or "")):
        return "its section or concept holds half a character"
    problem = "" if mention.concept is None else _concept_problem(mention.concept)
    return problem or _candidates_problem(mention)


def _candidates_problem(mention: Mention) -> str:
    concepts = [concept for concept, _ in mention.candidates]
    for concept, score in mention.candidates:
        if not 0 <= score <= 1:
            return f"candidate {concept} has score {score}, expected 0 to 1"
        if HALF_CHARACTER.search(concept):
            return "a candidate holds half a character"
        if concepts.count(concept) > 1:
            return f"candidate {concept} stands there twice"
        if problem := _concept_problem(concept):
            return problem
    is_first = mention.concept is None or not concepts or concepts[0] == mention.concept
    return "" if is_first else f"its concept is {mention.concept}, but the first candidate is {concepts[0]}"


def _concept_problem(concept: str) -> str:
    try:
        is_iri = expand(concept) == concept
    except InputError as error:
        return str(error)
    return f"{concept!r} is no IRI" if is_iri and _NOT_IN_IRI.search(concept) else ""
