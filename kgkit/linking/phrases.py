"""Exact phrase matching over normalised words: Aho-Corasick, whole words, the longest match wins.

A phrase may hold one gap, written `...`: "heart ... enlarged" also finds "heart is mildly enlarged". The gap
spans at most MAX_GAP words and no end of a clause.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ahocorasick

from kgkit.errors import InputError
from kgkit.linking.tokens import Tokens, is_redacted, tokenize
from kgkit.types import MentionKind

GAP = "..."
MAX_GAP = 5
"""Words that a gap may span; five covers "heart size and pulmonary vascularity appear normal"."""
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_GAP_STOPS = frozenset({".", ";", ":", "(", ")", "but", "with", "without", "however", "although", "which"})


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that denote a concept.

    Attributes:
        text: The words; one `...` between them stands for a gap.
        concept: CURIE; None for a phrase that only stops a shorter one from matching inside it.
        kind: Anatomy or observation.
        score: Link score of a mention found through it, 0..1.
        case_sensitive: An abbreviation, which must stand in the text as written here.
        denies: The phrase states that the concept is absent ("heart size is normal" denies cardiomegaly).
    """

    text: str
    concept: str | None
    kind: MentionKind = MentionKind.OBSERVATION
    score: float = 1.0
    case_sensitive: bool = False
    denies: bool = False


@dataclass(frozen=True, slots=True)
class PhraseMatch:
    """A phrase found in a text, as half-open token ranges.

    Attributes:
        first: First token.
        stop: One past the last token.
        gap: One past the last token before the gap; `stop` without one.
        head: First token of the part that context is judged at: after the gap, else `first`.
        phrase: What was found.
        rivals: The other phrases of the same words, for other concepts; the best first.
    """

    first: int
    stop: int
    gap: int
    head: int
    phrase: Phrase
    rivals: tuple[Phrase, ...] = ()

    @property
    def candidates(self) -> tuple[tuple[str, float], ...]:
        """(concept, score) of every concept these words may denote, each once, the best first."""
        best: dict[str, float] = {}
        for phrase in (self.phrase, *self.rivals):
            if phrase.concept is not None:
                best.setdefault(phrase.concept, phrase.score)
        return tuple(best.items())


class WordAutomaton:
    """All occurrences of many word sequences in one pass (Aho and Corasick 1975)."""

    def __init__(self, keys: Iterable[Sequence[str]]) -> None:
        self._automaton = ahocorasick.Automaton()
        for key in sorted({f" {' '.join(key)} " for key in keys}):
            self._automaton.add_word(key, key)
        self._automaton.make_automaton()

    def find(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Half-open word ranges of every occurrence, overlapping ones too, sorted."""
        if not len(self._automaton) or not words:
            return []
        word_at, position = {}, 0
        for index, word in enumerate(words):
            word_at[position] = index
            position += len(word) + 1
        word_at[position] = len(words)
        text = f" {' '.join(words)} "
        return sorted((word_at[end + 1 - len(key)], word_at[end]) for end, key in self._automaton.iter(text))


def longest_first(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of overlapping ranges keep the longest, of equals the leftmost; the result is sorted."""
    taken: set[int] = set()
    kept = []
    for first, stop in sorted(set(ranges), key=lambda span: (span[0] - span[1], span[0])):
        if taken.isdisjoint(range(first, stop)):
            taken.update(range(first, stop))
            kept.append((first, stop))
    return sorted(kept)


class PhraseMatcher:
    """Finds phrases in tokens; which of two phrases with the same words wins does not depend on their order.

    Args:
        phrases: Of several with the same words the one of higher score wins, then the smaller concept id; one
            without a concept loses, since the other keeps shorter ones away as well.

    Raises:
        InputError: if a phrase has no words, or more than one gap.
    """

    def __init__(self, phrases: Iterable[Phrase]) -> None:
        self._whole: dict[tuple[str, ...], list[Phrase]] = defaultdict(list)
        self._gapped: dict[tuple[str, ...], dict[tuple[str, ...], list[Phrase]]] = defaultdict(dict)
        for phrase in sorted(set(phrases), key=_preference):
            parts = phrase_parts(phrase.text)
            if len(parts) == 1:
                self._whole[parts[0]].append(phrase)
            else:
                self._gapped[parts[0]].setdefault(parts[1], []).append(phrase)
        tails = {tail for by_tail in self._gapped.values() for tail in by_tail}
        self._automaton = WordAutomaton([*self._whole, *self._gapped, *tails])

    def find(self, tokens: Tokens, text: str, sentence_of: Sequence[int]) -> list[PhraseMatch]:
        """Phrases in a text, none across a sentence's end.

        Args:
            tokens: Of `text`.
            text: The original text, for case-sensitive phrases.
            sentence_of: Sentence number of each token.

        Returns:
            Matches sorted by place. Phrases without a gap do not overlap; blocked ones are left out.
        """
        spans = [
            (first, stop)
            for first, stop in self._automaton.find(tokens.words)
            if sentence_of[first] == sentence_of[stop - 1]
        ]
        shouts = is_in_capitals(text)  # where all is in capitals they tell nothing about abbreviations
        whole: dict[tuple[int, int], list[Phrase]] = {}
        for first, stop in spans:
            fitting = [
                phrase
                for phrase in self._whole.get(tokens.words[first:stop], ())
                if not phrase.case_sensitive or (not shouts and _same_case(phrase.text, tokens, text, first, stop))
            ]
            if fitting:
                whole[first, stop] = fitting
        kept = longest_first(whole)
        contiguous = [
            PhraseMatch(first, stop, stop, first, whole[first, stop][0], tuple(whole[first, stop][1:]))
            for first, stop in kept
        ]
        matches = _settle(contiguous, self._find_gapped(tokens, spans, sentence_of))
        found = [match for match in matches if match.phrase.concept is not None]
        return sorted(found, key=lambda match: (match.first, match.stop, str(match.phrase.concept)))

    def named(self, words: tuple[str, ...]) -> list[Phrase]:
        """The phrases without a gap that are these normalised words, in any case; the best first."""
        found = self._whole.get(words, ())
        return [phrase for phrase in found if phrase.concept is not None and not phrase.case_sensitive]

    def _find_gapped(
        self, tokens: Tokens, spans: Sequence[tuple[int, int]], sentence_of: Sequence[int]
    ) -> list[PhraseMatch]:
        """Gapped phrases: for each beginning and concept the nearest tail."""
        nearest: dict[tuple[int, str | None], PhraseMatch] = {}
        stops_at: dict[int, list[int]] = defaultdict(list)
        for first, stop in spans:
            stops_at[first].append(stop)
        for first, gap in spans:
            tails = self._gapped.get(tokens.words[first:gap])
            if tails is None:
                continue
            heads = range(gap, _gap_limit(tokens.words, gap) + 1)
            for head, stop in ((place, end) for place in heads for end in stops_at.get(place, ())):
                if sentence_of[head] != sentence_of[first]:
                    continue
                for phrase in tails.get(tokens.words[head:stop], ()):
                    old = nearest.get((first, phrase.concept))
                    if old is None or old.head == head:  # of tails at one place the longest
                        nearest[first, phrase.concept] = PhraseMatch(first, stop, gap, head, phrase)
        return list(nearest.values())


def is_in_capitals(text: str) -> bool:
    """Whether a text is written in capitals, headings and de-identification marks left aside.

    >>> [is_in_capitals(text) for text in ("Findings: CLEAR IN ALL LOBES.", "XXXX XXXX noted.", "COPD.")]
    [True, False, False]
    """
    long_words = [word for word in _LONG_WORD.findall(text) if not is_redacted(word)]
    capitals = sum(map(str.isupper, long_words))
    return capitals >= 2 and 2 * capitals > len(long_words)


def phrase_parts(text: str) -> list[tuple[str, ...]]:
    """The normalised words of a phrase: one tuple, or two around its gap.

    Raises:
        InputError: if a part has no words, or there is more than one gap.
    """
    parts = [tokenize(part).words for part in text.split(GAP)]
    if len(parts) > 2 or not all(parts):
        raise InputError(f"phrase {text!r}: expected words, with at most one gap '{GAP}' between them")
    return parts


def _preference(phrase: Phrase) -> tuple[bool, float, str, str, str, bool]:
    return phrase.concept is None, -phrase.score, str(phrase.concept), phrase.text, phrase.kind, phrase.denies


def _gap_limit(words: Sequence[str], gap: int) -> int:
    """Last token at which the part after a gap that begins at `gap` may start."""
    for index in range(gap, min(gap + MAX_GAP, len(words))):
        if words[index] in _GAP_STOPS:
            return index
    return gap + MAX_GAP


def _settle(contiguous: Sequence[PhraseMatch], gapped: Sequence[PhraseMatch]) -> list[PhraseMatch]:
    """Where phrases with and without a gap overlap, keep the one that says more."""
    at = {token: match for match in contiguous for token in range(match.first, match.stop)}
    kept: list[PhraseMatch] = []
    extended: set[int] = set()
    for match in gapped:
        others = {id(at[token]): at[token] for token in range(match.first, match.stop) if token in at}.values()
        if not any(_overrules(other, match) for other in others):
            kept.append(match)
            extended.update(id(other) for other in others if _extends(match, other))
    return kept + [match for match in contiguous if id(match) not in extended]


def _overrules(whole: PhraseMatch, gapped: PhraseMatch) -> bool:
    """Whether a phrase without a gap makes one with a gap void.

    It does if it holds the tail and more ("heart, enlarged lymph nodes"), or names the concept in the gap itself or
    across the border ("heart: cardiomegaly, aorta normal").
    """
    holds_tail = whole.first <= gapped.head and gapped.stop <= whole.stop
    if holds_tail and whole.stop - whole.first > gapped.stop - gapped.head:
        return True
    overlaps = whole.first < gapped.stop and gapped.first < whole.stop
    return whole.phrase.concept == gapped.phrase.concept and overlaps and not _extends(gapped, whole)


def _extends(gapped: PhraseMatch, whole: PhraseMatch) -> bool:
    """Whether a phrase with a gap says more of the concept than the whole phrase that is one of its ends."""
    within = gapped.first <= whole.first and whole.stop <= gapped.stop
    is_end = whole.first < gapped.gap or whole.stop > gapped.head
    return whole.phrase.concept == gapped.phrase.concept and within and is_end


def _same_case(phrase: str, tokens: Tokens, text: str, first: int, stop: int) -> bool:
    """Whether the words stand in the text as in the phrase; a plural s may follow."""
    found = text[tokens.starts[first] : tokens.ends[stop - 1]]
    return found in (phrase, phrase + "s")
