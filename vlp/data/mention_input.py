"""Mentions from outside: RadGraph, a language model, anything that writes the lines of mentions.jsonl (docs/data.md).

A line is one report, its `report_id` the study's id (or a path that ends in it). What is said of a study that the data
set does not have is counted, not an error: mention files often cover more than the films at hand.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kgkit.interface import InputError, Mention, ReportMentions
from vlp.data.report_sections import section_names

_FORM = '{"report_id": ..., "text": ..., "mentions": [{"text", "start", "end", "kind", "certainty", "concept"}, ...]}'


def read_mention_file(path: Path) -> dict[str, ReportMentions]:
    """Study id -> its report and mentions.

    Mentions without a section get the one whose heading stands before them; in a text without headings, `findings`.

    Raises:
        InputError: naming the line and the mention that is not in the form, or a report that stands there twice.
    """
    found: dict[str, ReportMentions] = {}
    first: dict[str, int] = {}
    for line, record in _records(path):
        report = _report(record, path, line)
        if report.report_id in found:
            before = first[report.report_id]
            raise InputError(f"report {report.report_id!r} stands already in line {before}", path, line)
        found[report.report_id], first[report.report_id] = report, line
    if not found:
        raise InputError(f"no reports; expected lines of {_FORM}", path)
    return found


def by_study(
    reports: Mapping[str, ReportMentions], studies: Iterable[str]
) -> tuple[dict[str, ReportMentions], list[str]]:
    """Reports under the ids of the studies they are of, and the ids of reports that are of none.

    RadGraph names a report of MIMIC-CXR `p18/p18004941/s58821758.txt`, which is study 58821758.

    Raises:
        InputError: if two reports are of one study.
    """
    known = set(studies)
    found: dict[str, ReportMentions] = {}
    others = []
    for key, report in reports.items():
        stem = PurePosixPath(key).name.removesuffix(".txt")
        study = next((name for name in (key, stem, stem.removeprefix("s")) if name in known), None)
        if study is None:
            others.append(key)
        elif study in found:
            raise InputError(
                f"reports {found[study].report_id!r} and {key!r} of the mentions are both of study {study!r}"
            )
        else:
            found[study] = report
    return found, others


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    try:
                        yield line, json.loads(text)
                    except (ValueError, RecursionError) as error:
                        raise InputError(f"not JSON ({error}); expected {_FORM}", path, line) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", path) from error


def _report(record: Any, path: Path, line: int) -> ReportMentions:
    if not isinstance(record, dict):
        raise InputError(f"{str(record)[:40]!r}: expected {_FORM}", path, line)
    try:
        report = ReportMentions.from_json(record)
    except KeyError as error:
        raise InputError(f"no {error}; expected {_FORM}", path, line) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"not a report with mentions ({error})", path, line) from error
    sections = section_names(report.text)
    mentions = []
    for number, mention in enumerate(report.mentions):
        if report.text[mention.start : mention.end] != mention.text or not 0 <= mention.start <= mention.end:
            where = f"mention {number}: the text from {mention.start} to {mention.end}"
            raise InputError(f"{where} is not {mention.text!r}", path, line)
        mentions.append(mention if mention.section else replace(mention, section=_section(mention, sections)))
    return replace(report, mentions=tuple(mentions))


def _section(mention: Mention, sections: list[tuple[int, str]]) -> str:
    place = bisect_right([start for start, _ in sections], mention.start) - 1
    return sections[place][1]
