"""Words that share their head: "pleural and pericardial effusion" names two things, the first of them not in one piece.

A part is written out only where that gives a name ("pleural effusion"), so a wrong reading has to be a name too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kgkit.linking.phrases import Phrase, PhraseMatch
from kgkit.types import MentionKind

Named = Callable[[tuple[str, ...]], Sequence[Phrase]]
"""Normalised words -> the phrases that are these words, the best first."""
_LINKS = frozenset({"and", "or"})
_COMMA = ","
_MOST_WORDS = 3
"""Words of a part before it has its head."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A name whose head stands further on: the match, and one past the last word before the link."""

    match: PhraseMatch
    stop: int


def with_shared_heads(
    words: Sequence[str], sentence_of: Sequence[int], matches: Sequence[PhraseMatch], named: Named
) -> list[PhraseMatch]:
    """The matches of a text and those that a shared head adds.

    Args:
        words: Normalised words of the text.
        sentence_of: Sentence number of each word.
        matches: What was found in it, sorted by place.
        named: Looks up words as a whole.

    Returns:
        Matches sorted by place. One that was added spans its own words to the end of the head ("pleural and pericardial
        effusion" for the pleural one); anatomy that only was its first word ("chest" of "chest and back pain") is
        left out.
    """
    linked = [match for match in matches if _may_share(match, words)]
    if not linked:
        return list(matches)
    at: dict[int, list[PhraseMatch]] = defaultdict(list)
    for match in matches:
        for token in (*range(match.first, match.gap), *range(match.head, match.stop)):
            if match not in at[token]:
                at[token].append(match)
    parts = [part for match in linked for part in _parts_before(match, words, sentence_of, at, named)]
    within = {id(match) for part in parts for match in _before_link(part, at) if _is_within(match, part)}
    found = [*(match for match in matches if id(match) not in within), *(part.match for part in parts)]
    return sorted(found, key=lambda match: (match.first, match.stop, str(match.phrase.concept)))


def _may_share(match: PhraseMatch, words: Sequence[str]) -> bool:
    """Whether a match is in one piece, longer than a head, and stands after "and" or "or"."""
    is_whole = match.gap == match.stop and match.stop - match.first > 1 and not match.phrase.denies
    return is_whole and match.first > 0 and words[match.first - 1] in _LINKS


def _parts_before(
    match: PhraseMatch,
    words: Sequence[str],
    sentence_of: Sequence[int],
    at: Mapping[int, Sequence[PhraseMatch]],
    named: Named,
) -> Iterator[_Part]:
    """The parts that stand before a match and end with its last words, the nearest first."""
    concepts = {other.phrase.concept for token in range(match.first, match.stop) for other in at.get(token, ())}
    first = match.first
    while (stop := _link_before(words, first, is_last=first == match.first)) is not None:
        found = _part(match, stop, words, named)
        if found is None or sentence_of[found.first] != sentence_of[match.first]:
            return
        part = _Part(found, stop)
        others = _before_link(part, at)
        if not all(_is_within(other, part) for other in others):
            return
        if found.phrase.concept not in concepts:
            concepts.add(found.phrase.concept)
            yield part
        first = found.first


def _before_link(part: _Part, at: Mapping[int, Sequence[PhraseMatch]]) -> list[PhraseMatch]:
    """The matches that hold a word of a part before the link."""
    return [match for token in range(part.match.first, part.stop) for match in at.get(token, ())]


def _link_before(words: Sequence[str], first: int, *, is_last: bool) -> int | None:
    """Where the words that link to `first` begin: "and", "or", "and/or"; a comma alone between earlier parts."""
    place = first
    while place > 0 and words[place - 1] in _LINKS:
        place -= 1
    if place == first and is_last:
        return None
    if place > 0 and words[place - 1] == _COMMA:
        place -= 1
    return place if 0 < place < first else None


def _part(match: PhraseMatch, stop: int, words: Sequence[str], named: Named) -> PhraseMatch | None:
    """The words that end at `stop`, as a name with the last words of a match: the most words, the longest head.

    What stands before the head is alike on both sides: not longer ("lung and pleural"), or of the same last word
    ("non-small cell and small cell").
    """
    for first in range(max(0, stop - _MOST_WORDS), stop):
        for head in range(match.first + 1, match.stop):
            is_alike = stop - first <= head - match.first or words[stop - 1] == words[head - 1]
            if not is_alike:
                continue
            own = (*words[first:stop], *words[head : match.stop])
            phrases = [each for each in named(own) if each.kind is match.phrase.kind and not each.denies]
            if phrases:
                return PhraseMatch(first, match.stop, match.stop, first, phrases[0], tuple(phrases[1:]))
    return None


def _is_within(match: PhraseMatch, part: _Part) -> bool:
    """Whether a match is anatomy and no more than the words before the link; else it is a name in its own right."""
    return match.phrase.kind is MentionKind.ANATOMY and part.match.first <= match.first and match.stop <= part.stop
