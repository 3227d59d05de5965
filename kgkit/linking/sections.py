"""Sections of a report: headings such as FINDINGS and IMPRESSION, as character ranges of the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

_HEADINGS = MappingProxyType(
    {
        "findings": ("findings and impression", "findings/impression", "findings", "report"),
        "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "summary"),
        "indication": (
            "indication", "indications", "clinical indication", "clinical information", "clinical data",
            "reason for exam", "reason for examination", "reason for study",
        ),
        "history": (
            "history", "clinical history", "patient history", "history of present illness", "past medical history",
            "past surgical history", "family history", "social history",
        ),
        "comparison": ("comparison", "comparisons"),
        "technique": ("technique", "procedure", "exam", "examination", "study", "views"),
        "recommendation": ("recommendation", "recommendations"),
        "addendum": ("addendum",),
    }
)  # fmt: skip
_CANONICAL = {heading: name for name, headings in _HEADINGS.items() for heading in headings}
_LONGEST_FIRST = sorted(_CANONICAL, key=lambda heading: (-len(heading), heading))


def _any_of(headings: list[str]) -> str:
    return "|".join(r"[ \t]+".join(re.escape(word) for word in heading.split()) for heading in headings)


_UPPER = _any_of([heading.upper() for heading in _LONGEST_FIRST])
_LOWER = _any_of(_LONGEST_FIRST)
# Capitals and a colon anywhere; any case and a colon at the start of a line; capitals alone on a line.
_HEADING = re.compile(
    rf"(?<!\S)(?:{_UPPER})[ \t]*:|(?im:^[ \t]*(?:{_LOWER})[ \t]*:)|(?m:^[ \t]*(?:{_UPPER})[ \t]*(?=\r?$))"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its canonical name ("" before the first heading) and its half-open character range.

    The heading stands inside the range; sections cover the text without gap or overlap.
    """

    name: str
    start: int
    end: int


def split_sections(text: str) -> tuple[Section, ...]:
    """Sections of a report; a text without headings is one section named "".

    >>> [section.name for section in split_sections("FINDINGS: Clear lungs. IMPRESSION: Normal chest.")]
    ['findings', 'impression']
    """
    sections, name, start = [], "", 0
    for match in _HEADING.finditer(text):
        if match.start() > start or name:
            sections.append(Section(name, start, match.start()))
        words = " ".join(match.group().replace(":", " ").casefold().split())
        name, start = _CANONICAL[words], match.start()
    sections.append(Section(name, start, len(text)))
    return tuple(sections)
