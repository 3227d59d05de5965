"""Findings and impression of a whole report, as hospitals write it (`FINDINGS:` ... `IMPRESSION:` ...)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FINDINGS = ("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS", "FINDING")
_IMPRESSION = ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "IMP")
# Words in capitals and a colon at the start of a line, or one of ours anywhere after a space.
_NAMES = "|".join(sorted((re.escape(name) for name in (*_FINDINGS, *_IMPRESSION)), key=len, reverse=True))
_HEADING = re.compile(
    rf"^[ \t]*(?P<line>[A-Z][A-Z /&()-]{{2,60}}?)[ \t]*:|(?<=\s)(?P<inner>{_NAMES})[ \t]*:", re.MULTILINE
)
_AROUND = re.compile(r"^[\s_]+|[\s_]+$")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Sections:
    """The two sections that say what was seen.

    Attributes:
        findings: Text, or "".
        impression: Text, or "".
        is_guessed: There was neither heading: the last paragraph was taken as findings.
    """

    findings: str
    impression: str
    is_guessed: bool


def split_report(text: str) -> Sections:
    r"""Findings and impression of a report; a section that stands there twice is joined by a line break.

    Without either heading the last paragraph that is no heading is taken, where such reports say what was seen.

    >>> split_report("INDICATION: Cough.\n\nFINDINGS: Clear lungs.\nIMPRESSION: Normal.")
    Sections(findings='Clear lungs.', impression='Normal.', is_guessed=False)
    """
    matches = list(_HEADING.finditer(text))
    findings, impression = [], []
    ends = [match.start() for match in matches[1:]] + [len(text)] * bool(matches)
    for match, end in zip(matches, ends, strict=True):
        name = " ".join((match["line"] or match["inner"]).split())
        body = _trim(text[match.end() : end])
        if body and name in _FINDINGS:
            findings.append(body)
        elif body and name in _IMPRESSION:
            impression.append(body)
    if findings or impression:
        return Sections("\n".join(findings), "\n".join(impression), is_guessed=False)
    start = matches[-1].end() if matches else 0
    paragraphs = [_trim(part) for part in _PARAGRAPH.split(text[start:])]
    said = [part for part in paragraphs if part and not part.isupper()]
    return Sections(said[-1] if said else "", "", is_guessed=bool(said))


def _trim(text: str) -> str:
    return _AROUND.sub("", text)


def section_names(text: str) -> list[tuple[int, str]]:
    """(first character, `findings`, `impression` or the heading in lower case) of every section, in order.

    A text without headings is findings; what stands before the first heading has no name. Where there is neither
    findings nor impression, what follows the last heading is findings, as in `split_report`.

    >>> section_names("Clear lungs."), section_names("Film 1. IMPRESSION: Normal.")
    ([(0, 'findings')], [(0, ''), (8, 'impression')])
    """
    found = []
    for match in _HEADING.finditer(text):
        name = " ".join((match["line"] or match["inner"]).split())
        known = "findings" if name in _FINDINGS else "impression" if name in _IMPRESSION else name.lower()
        found.append((match.start(), known))
    if not found:
        return [(0, "findings")]
    if not {"findings", "impression"} & {name for _, name in found}:
        found[-1] = (found[-1][0], "findings")
    return found if found[0][0] == 0 else [(0, ""), *found]
