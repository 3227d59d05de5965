"""Concepts for spans that others have found (RadGraph, a labeler, an older run): by name first, then by search."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from kgkit.linking.abbreviations import find_abbreviations, write_out
from kgkit.linking.context import Category, TextContext
from kgkit.linking.linker import Linker
from kgkit.linking.names import is_usable_name, looks_abbreviated, mention_kind
from kgkit.linking.phrases import PhraseMatch
from kgkit.linking.tokens import is_redacted, tokenize
from kgkit.types import Mention, MentionKind, MentionRelation, ReportMentions, SearchHit

MIN_SCORE = 0.85
"""Search score below which a span stays unlinked: of names whose concept a graph lacks, 1 in 20 gets past (see
benchmarks/link_threshold.py)."""
MAX_CANDIDATES = 5
_NUM_HITS = 20
"""Hits asked for; those of the other kind are left out afterwards."""
_LEAST_LETTERS = 6
"""Of a word that may be a typo; with fewer letters another word is too near."""
_CACHED_QUERIES = 200_000
_MAX_QUERY_CHARACTERS = 200
"""Longer words are a sentence or more and name no one concept."""

Candidates = tuple[tuple[str, float], ...]


class ConceptSearch(Protocol):
    """What is needed of a concept search; `kgkit.search` has it."""

    def search(self, texts: Sequence[str], k: int) -> list[list[SearchHit]]:
        """The k best concepts of each text, the best first."""

    def read_as(self, text: str) -> str | None:
        """The words that are searched for if a typo is corrected; None if none is."""


class SpanLinker:
    """Gives the mentions of a report that have no concept theirs; all else they say stays as it is.

    A mention is the head of the longest name that ends with it ("effusion" in "pleural effusion"), else what its words
    name together with where it lies ("effusion" located at "pericardial"), else what its words alone name, else what
    search finds for them. Names that say the opposite of what they hold ("no acute disease", "lungs clear") link
    nothing, since the mention's certainty is its own.

    Every query is asked alone, so what a span links to does not depend on what else is asked.

    Args:
        linker: Knows the names.
        search: Asked where no name fits; None for names alone.
        min_score: Search score (0..1) below which a span stays unlinked and keeps what was found as candidates.
    """

    def __init__(self, linker: Linker, search: ConceptSearch | None = None, min_score: float = MIN_SCORE) -> None:
        self._linker = linker
        self._search = search
        self._min_score = min_score
        self._hits = lru_cache(maxsize=_CACHED_QUERIES)(self._ask)
        self._named = lru_cache(maxsize=_CACHED_QUERIES)(self._name)

    def link(self, report: ReportMentions) -> ReportMentions:
        """The report with concepts for its mentions, as far as they are found.

        Mentions that have a concept, name no words, say how something changed, or are measurements stay untouched.
        """
        if not any(map(is_open, report.mentions)):
            return report
        context, matches = self._linker.find(report.text)
        named = [match for match in matches if _is_plain(match, context)]
        forms = find_abbreviations(report.text)
        mentions = tuple(
            self._linked(mention, write_out(mention.text, forms), report, context, named)
            if is_open(mention) else mention
            for mention in report.mentions
        )  # fmt: skip
        return replace(report, mentions=mentions)

    def _linked(
        self, mention: Mention, words: str, report: ReportMentions, context: TextContext, named: Sequence[PhraseMatch]
    ) -> Mention:
        """A mention with a concept for its words, in which abbreviations that the report defines are written out."""
        own = tokenize(words).words
        if all(map(is_redacted, own)):
            return mention
        queries = [*_located(mention, report), words]
        candidates = _headed(mention, tokenize(mention.text).words, context, named)
        for query in queries:
            candidates = candidates or self._named(query, mention.kind)
        if candidates:
            return _with(mention, candidates)
        queries = [query for query in queries if len(query) <= _MAX_QUERY_CHARACTERS]
        if self._search is None or not queries or not _is_searchable(words, own) or self._denies(words):
            return mention
        answers = [self._hits(query, mention.kind) for query in queries]
        best = next((hits for hits in answers if hits and hits[0][1] >= self._min_score), None)
        return replace(mention, candidates=answers[-1]) if best is None else _with(mention, best)

    def _name(self, words: str, kind: MentionKind) -> Candidates:
        """What some words name as a whole."""
        context, matches = self._linker.find(words)
        whole = (match for match in matches if (match.first, match.stop) == (0, len(context.tokens)))
        fitting = (match.candidates for match in whole if match.phrase.kind is kind and _is_plain(match, context))
        return next(fitting, ())

    def _denies(self, words: str) -> bool:
        """Whether some words hold a negation, or are a name that says the opposite ("mediastinum normal")."""
        context, matches = self._linker.find(words)
        count = len(context.tokens)
        is_opposite = any(match.phrase.denies and match.stop - match.first == count for match in matches)
        return is_opposite or Category.ABSENT in context.own_categories(0, count)

    def _ask(self, query: str, kind: MentionKind) -> Candidates:
        assert self._search is not None
        corrected = self._search.read_as(query)
        if corrected is not None and not is_typo(query, corrected):
            return ()
        (hits,) = self._search.search([query], _NUM_HITS)
        fitting = [(hit.concept, min(max(hit.score, 0.0), 1.0)) for hit in hits
                   if mention_kind(hit.semantic_types) is kind]  # fmt: skip
        return tuple(fitting[:MAX_CANDIDATES])


def is_typo(written: str, meant: str) -> bool:
    """Whether words may be a slip of the pen for others: search also corrects words that are right and no name has.

    >>> [is_typo(*pair) for pair in (("pnuemonia", "pneumonia"), ("alignment", "ligament"), ("overlies", "ovaries"))]
    [True, False, False]
    """
    words, others = _spelled(written), _spelled(meant)
    same_count = len(words) == len(others)
    # Plurals are folded in one of the two perhaps, and a slip at a word's end may look like one.
    return same_count and all(any(map(_is_slip, *pair)) for pair in zip(words, others, strict=True))


def _spelled(text: str) -> list[tuple[str, str]]:
    """Each word as it is written, in lower case, and as it is normalised."""
    tokens = tokenize(text)
    return [(text[start:end].casefold(), word)
            for word, start, end in zip(tokens.words, tokens.starts, tokens.ends, strict=True)]  # fmt: skip


def _is_slip(word: str, other: str) -> bool:
    """Equal, or one letter lost, added, changed or swapped with its neighbour; not the first, nor in a short word."""
    if word == other:
        return True
    if min(len(word), len(other)) < _LEAST_LETTERS or word[0] != other[0]:
        return False
    shared = next((at for at, (left, right) in enumerate(zip(word, other, strict=False)) if left != right), None)
    shared = min(len(word), len(other)) if shared is None else shared
    rest, others = word[shared:], other[shared:]
    is_swap = rest[:2] == others[1::-1] and rest[2:] == others[2:]
    return is_swap or rest[1:] == others[1:] or rest[1:] == others or rest == others[1:]


def is_open(mention: Mention) -> bool:
    """Whether a mention has words that may denote a concept and no concept yet."""
    is_thing = mention.change is None and not mention.is_measurement
    return mention.concept is None and is_thing and mention.end > mention.start


def _is_searchable(text: str, words: tuple[str, ...]) -> bool:
    """Whether search can find what the words mean: an abbreviation resembles others by chance alone."""
    return is_usable_name(text, words) and not looks_abbreviated(text)


def _with(mention: Mention, candidates: Candidates) -> Mention:
    concept, score = candidates[0]
    return replace(mention, concept=concept, link_score=score, candidates=candidates)


def _is_plain(match: PhraseMatch, context: TextContext) -> bool:
    return not match.phrase.denies and Category.ABSENT not in context.own_categories(match.first, match.stop)


def _headed(mention: Mention, own: Sequence[str], context: TextContext, named: Sequence[PhraseMatch]) -> Candidates:
    """Candidates of the longest name in the text that ends with the mention and holds more than it."""
    tokens = context.tokens
    first, stop = (bisect_left(tokens.starts, place) for place in (mention.start, mention.end))
    if tokens.words[first:stop] != tuple(own):  # the span begins or ends within a word
        return ()
    fitting = [match for match in named
               if match.first < first and match.stop == stop and match.phrase.kind is mention.kind]  # fmt: skip
    return min(fitting, key=_first_token).candidates if fitting else ()


def _first_token(match: PhraseMatch) -> int:
    return match.first


def _located(mention: Mention, report: ReportMentions) -> Iterator[str]:
    """The words of an observation after those of each place it is located at."""
    for relation, target in mention.relations:
        place = report.mentions[target]
        if relation is MentionRelation.LOCATED_AT and place.kind is MentionKind.ANATOMY and place.text.strip():
            yield f"{place.text} {mention.text}"
