"""Mention files out, and back: what `kgkit link` writes, one report on each line."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgkit.errors import InputError
from kgkit.linking.linker import Linker
from kgkit.linking.reports import Report
from kgkit.progress import progress
from kgkit.sources.json_records import json_lines
from kgkit.sources.mentions import parse_report
from kgkit.types import Certainty, ReportMentions


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """What was written.

    Attributes:
        num_reports: Lines written, one per report.
        num_without_mentions: Reports in which nothing was found.
        num_mentions: Mentions in all.
        num_linked: Mentions with a concept.
        num_ambiguous: Mentions with a concept whose words may denote another one as well.
        by_certainty: Certainty -> mentions, all three keys always there.
        num_concepts: Different concepts mentioned.
    """

    num_reports: int
    num_without_mentions: int
    num_mentions: int
    num_linked: int
    num_ambiguous: int
    by_certainty: Mapping[str, int]
    num_concepts: int


def link_reports(linker: Linker, reports: Sequence[Report], out: Path) -> LinkSummary:
    """Link reports and write one JSON line each (ReportMentions.to_json), in the order given.

    The file appears whole or not at all.

    Raises:
        InputError: if `out` cannot be written.
    """
    return write_mentions((linker.link(report.report_id, report.text) for report in reports), out, len(reports))


def write_mentions(reports: Iterable[ReportMentions], out: Path, count: int | None = None) -> LinkSummary:
    """Write reports with their mentions, one JSON line each, in the order given; the file appears whole or not at all.

    Args:
        reports: Read once, one at a time.
        out: The file; one that is there is replaced.
        count: How many reports there are, where that is known.

    Raises:
        InputError: if `out` cannot be written.
    """
    if out.is_dir():
        raise InputError("is a folder; expected the name of a .jsonl file to write", out)
    certainty: Counter[str] = Counter()
    concepts: set[str] = set()
    total = empty = linked = ambiguous = 0
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary.open("w", encoding="utf-8", newline="\n") as stream,
            progress("linking", count, "reports") as bar,
        ):
            for report in reports:
                stream.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
                with_concept = [mention for mention in report.mentions if mention.concept is not None]
                certainty.update(mention.certainty.value for mention in report.mentions)
                concepts.update(str(mention.concept) for mention in with_concept)
                total += 1
                linked += len(with_concept)
                ambiguous += sum(len(mention.candidates) > 1 for mention in with_concept)
                empty += not report.mentions
                bar.advance()
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"cannot write ({error.strerror})", out) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    counts = {value.value: certainty[value.value] for value in Certainty}
    return LinkSummary(total, empty, certainty.total(), linked, ambiguous, counts, len(concepts))


def read_mentions(path: Path) -> Iterator[ReportMentions]:
    """Read a file that was written here, line by line.

    Raises:
        InputError: naming the line that is not a report with mentions.
    """
    try:
        with path.open("rb") as stream:
            for number, record in json_lines(stream, path):
                try:
                    yield parse_report(record)
                except ValueError as error:
                    raise InputError(str(error), path, number) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
