"""Sentences of report text, as character ranges. Rules, since report style defeats general splitters.

What reports do: numbered impressions ("1. Emphysema."), de-identification marks, a period without the blank
after it, hard-wrapped lines (a single line break does not end a sentence), blank lines that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ABBREVIATIONS = frozenset({"approx", "cf", "dr", "e.g", "eg", "fig", "i.e", "ie", "mr", "mrs", "ms", "prof", "vs"})
_BREAK = re.compile(
    r"(?<![.!?])[.!?]++[\"')\]]*+(?=[\s\x00-\x1f\x7f]|$)"  # the usual end; a control character is as good as a blank
    r"|(?<=[a-zA-Z])[.](?=[A-Z][a-z])"  # "apex.There"
    r"|\n[ \t\r]*+\n"  # blank line
    r"|\n(?=[ \t]*+(?:\d{1,2}[.)][ \t]|[-*\u2022][ \t]))"  # next item of a list
)
_LONGEST_ABBREVIATION = 8


def split_sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Half-open character ranges that cover `text[start:end]` without gap or overlap.

    >>> text = "1. Emphysema. No effusion.There is scarring"
    >>> [text[a:b].strip() for a, b in split_sentences(text)]
    ['1. Emphysema.', 'No effusion.', 'There is scarring']
    """
    end = len(text) if end is None else end
    begin = start
    for match in _BREAK.finditer(text, start, end):
        if match.end() > begin and not _is_inside_sentence(text, begin, match):
            yield begin, match.end()
            begin = match.end()
    if begin < end:
        yield begin, end


def _is_inside_sentence(text: str, begin: int, match: re.Match[str]) -> bool:
    """Whether a period follows an abbreviation, or a number that opens an item of a list."""
    if match.group()[0] != ".":
        return False
    last = text[max(begin, match.start() - _LONGEST_ABBREVIATION) : match.start()]
    word = "" if last[-1:].isspace() or not last else last.split()[-1]
    if word.isdigit() and len(word) <= 2:
        before = text[begin : match.start() - len(word)].rstrip()
        return not before or before.endswith(":")
    return word.casefold() in _ABBREVIATIONS
