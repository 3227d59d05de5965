"""What every reader of report annotations shares: the corpus as a source, and the identity of its reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kgkit.errors import InputError
from kgkit.namespaces import plain
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables
from kgkit.types import ReportMentions

REPORT_LICENCE_LEVEL = 9
"""Reports of patients come, as a rule, under a data use agreement: nothing of them leaves without being asked for."""
_ENDINGS = re.compile(r"(\.(json|jsonl|ndjson|csv|zip|gz))+$", re.IGNORECASE)

Place = tuple[object, int | None]
"""File and 1-based line (None where it has none) of a report."""


def corpus_tables(
    path: Path,
    corpus: str | None,
    release: str,
    title: str,
    licence_level: int,
    reports: Iterable[tuple[Place, ReportMentions]],
    log: IngestLog,
) -> SourceTables:
    """A corpus as a source whose reports are read while they are iterated, once.

    Args:
        path: File or folder the corpus is called after if it has no name.
        corpus: Name of the corpus.
        release: Release of the corpus.
        title: What its annotations are, for people.
        licence_level: UMLS source restriction level, 0 to 9.
        reports: Reports with the place they stand at.
        log: Where repeated reports are counted.

    Raises:
        InputError: if the licence level is none; while iterating, if two different reports share an id.
    """
    if licence_level not in range(REPORT_LICENCE_LEVEL + 1):
        raise InputError(f"licence level {licence_level}: expected 0 to {REPORT_LICENCE_LEVEL}")
    corpus = corpus or plain(_ENDINGS.sub("", path.resolve().name)).lstrip("._+-") or "reports"
    graph = NamedGraph(f"{corpus}@{release}", f"{title} of {corpus}", licence_level)
    return SourceTables(name=corpus, release=release, graphs=(graph,), reports=_distinct(reports, log))


def _distinct(reports: Iterable[tuple[Place, ReportMentions]], log: IngestLog) -> Iterator[ReportMentions]:
    """Each report once; of what was seen only a hash is kept, so that a corpus of any size fits into memory."""
    seen: dict[str, int] = {}
    for place, report in reports:
        content = hash(report)
        if report.report_id not in seen:
            seen[report.report_id] = content
            yield report
        elif seen[report.report_id] == content:
            log.skip("reports", "same report twice", 1)
        else:
            raise InputError(f"two different reports share the id {report.report_id!r}", *place)
