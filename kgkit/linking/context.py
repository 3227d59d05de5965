"""Certainty, temporality and experiencer of a span, by trigger phrases.

The rules are those of NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a trigger reaches
forward or backward within its sentence until a word that ends its reach; a pseudo-trigger ("no change") looks
like a trigger and is none. The triggers stand in `ontologies/context_rules.toml`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kgkit.errors import InputError, choices
from kgkit.files import read_toml
from kgkit.linking.phrases import WordAutomaton, longest_first
from kgkit.linking.sections import split_sections
from kgkit.linking.sentences import split_sentences
from kgkit.linking.tokens import Tokens, tokenize
from kgkit.resources import resource
from kgkit.types import Certainty, Experiencer, Temporality


class Category(StrEnum):
    """What a trigger says of the words in its reach."""

    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    HISTORICAL = "historical"
    HYPOTHETICAL = "hypothetical"
    FAMILY = "family"
    OTHER = "other"


class Direction(StrEnum):
    """Where a trigger's words reach to."""

    FORWARD = "forward"
    BACKWARD = "backward"


MAX_REACH = 80
"""Words beyond which no trigger reaches, for text that has no sentences."""
_FIELDS = frozenset({"forward", "backward", "both", "termination"})


@dataclass(frozen=True, slots=True)
class ContextResult:
    """What the context of a span says of it."""

    certainty: Certainty = Certainty.PRESENT
    temporality: Temporality = Temporality.RECENT
    experiencer: Experiencer = Experiencer.PATIENT


@dataclass(frozen=True, slots=True)
class ContextLexicon:
    """Trigger phrases, as normalised words.

    Attributes:
        triggers: Category and direction -> phrases.
        terminations: Category -> phrases that end the reach of its triggers.
        pseudo: Phrases that look like triggers and are none.
    """

    triggers: Mapping[tuple[Category, Direction], frozenset[tuple[str, ...]]]
    terminations: Mapping[Category, frozenset[tuple[str, ...]]]
    pseudo: frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Trigger:
    first: int
    stop: int
    reaches: frozenset[tuple[Category, Direction]]
    ends: frozenset[Category]


class ContextRules:
    """Applies a lexicon to texts; see `load_context_rules`."""

    def __init__(self, lexicon: ContextLexicon) -> None:
        reaches: dict[tuple[str, ...], set[tuple[Category, Direction]]] = defaultdict(set)
        ends: dict[tuple[str, ...], set[Category]] = defaultdict(set)
        for role, phrases in lexicon.triggers.items():
            for phrase in phrases:
                reaches[phrase].add(role)
        for category, phrases in lexicon.terminations.items():
            for phrase in phrases:
                ends[phrase].add(category)
        self._roles = {
            phrase: (frozenset(reaches[phrase]), frozenset(ends[phrase])) for phrase in reaches.keys() | ends.keys()
        }
        self._automaton = WordAutomaton([*reaches, *ends, *lexicon.pseudo])

    def classify(self, text: str, start: int, end: int) -> ContextResult:
        """Context of one span of a text.

        Args:
            text: A report, or one sentence of it.
            start: First character of the span.
            end: One past its last character.

        Raises:
            ValueError: if the span lies outside the text or holds no word.
        """
        if not 0 <= start < end <= len(text):
            raise ValueError(f"span {start}..{end} in a text of {len(text)} characters")
        context = self.read(text)
        inside = [
            index for index in range(len(context.tokens))
            if context.tokens.starts[index] < end and context.tokens.ends[index] > start
        ]  # fmt: skip
        if not inside:
            raise ValueError(f"span {start}..{end} holds no word")
        return context.classify(inside[0], inside[-1] + 1)

    def read(self, text: str) -> TextContext:
        """Find the triggers of a text once, to classify many spans."""
        tokens = tokenize(text)
        sentence_of, section_of = _places(text, tokens)
        triggers: dict[int, list[_Trigger]] = defaultdict(list)
        for first, stop in self._automaton.find(tokens.words):
            if sentence_of[first] == sentence_of[stop - 1]:
                reaches, ends = self._roles.get(tokens.words[first:stop], (frozenset(), frozenset()))
                triggers[sentence_of[first]].append(_Trigger(first, stop, reaches, ends))
        return TextContext(tokens, sentence_of, section_of, triggers)


@dataclass(frozen=True, slots=True)
class TextContext:
    """A text with its triggers.

    Attributes:
        tokens: Its words.
        sentence_of: Sentence number of each token.
        section_of: Section name of each token.
        triggers: All triggers by sentence, overlapping ones too, sorted by place.
    """

    tokens: Tokens
    sentence_of: Sequence[int]
    section_of: Sequence[str]
    triggers: Mapping[int, Sequence[_Trigger]]

    def classify(self, first: int, stop: int, since: int = 0) -> ContextResult:
        """Context of the half-open token range `first`..`stop`, given triggers from token `since` on.

        A forward trigger inside the span belongs to the span's own meaning ("no acute abnormality" is a
        statement that holds) and shields it from triggers of the same category outside. A trigger that
        overlaps the span's border is none.
        """
        in_sentence = self.triggers.get(self.sentence_of[first], ())
        begin = bisect_left(in_sentence, max(since, first - MAX_REACH), key=_first)
        end = bisect_left(in_sentence, stop + MAX_REACH, key=_first)
        triggers = {(trigger.first, trigger.stop): trigger for trigger in in_sentence[begin:end]}
        outside = longest_first(span for span in triggers if span[1] <= first or span[0] >= stop)
        before = [triggers[span] for span in reversed(outside) if span[1] <= first]
        after = [triggers[span] for span in outside if span[0] >= stop]
        found = _reached(before, Direction.FORWARD) | _reached(after, Direction.BACKWARD)
        return _result(found - self.own_categories(first, stop))

    def own_categories(self, first: int, stop: int) -> set[Category]:
        """Categories of the forward triggers inside a half-open token range: what the words say themselves."""
        in_sentence = self.triggers.get(self.sentence_of[first], ())
        begin, end = (bisect_left(in_sentence, token, key=_first) for token in (first, stop))
        return {
            category
            for trigger in in_sentence[begin:end]
            if trigger.stop <= stop
            for category, direction in trigger.reaches
            if direction is Direction.FORWARD
        }


def load_context_rules(path: Path | None = None) -> ContextRules:
    """Read the trigger lexicon.

    Args:
        path: A TOML file in the layout of `ontologies/context_rules.toml`, which is read if none is given.

    Raises:
        InputError: naming the file, the table and the phrase that is wrong.
    """
    path = path or resource("ontologies/context_rules.toml")
    content = read_toml(path, "file")
    triggers: dict[tuple[Category, Direction], frozenset[tuple[str, ...]]] = {}
    terminations: dict[Category, set[tuple[str, ...]]] = {category: set() for category in Category}
    shared = content.pop("shared", {})
    for category, table in _tables(content, path):
        where = f"[{category}]"
        _refuse_unknown(table, _FIELDS, where, path)
        both = _phrases(table, "both", where, path)
        for direction in Direction:
            triggers[category, direction] = _phrases(table, direction, where, path) | both
        terminations[category] |= _phrases(table, "termination", where, path)
    _refuse_unknown(shared, frozenset({"termination", "pseudo"}), "[shared]", path)
    for phrases in terminations.values():
        phrases |= _phrases(shared, "termination", "[shared]", path)
    ends = {category: frozenset(phrases) for category, phrases in terminations.items()}
    pseudo = _phrases(shared, "pseudo", "[shared]", path)
    _refuse_contradictions(triggers, pseudo, path)
    return ContextRules(ContextLexicon(triggers, ends, pseudo))


def _first(trigger: _Trigger) -> int:
    return trigger.first


def _places(text: str, tokens: Tokens) -> tuple[list[int], list[str]]:
    """Sentence number and section name of each token."""
    ranges = [
        (end, section.name)
        for section in split_sections(text)
        for _, end in split_sentences(text, section.start, section.end)
    ]
    sentence_of, section_of, sentence = [], [], 0
    for start in tokens.starts:
        while sentence < len(ranges) - 1 and start >= ranges[sentence][0]:
            sentence += 1
        sentence_of.append(sentence)
        section_of.append(ranges[sentence][1])
    return sentence_of, section_of


def _reached(triggers: Sequence[_Trigger], direction: Direction) -> set[Category]:
    """Categories whose triggers reach a span, walking away from it."""
    found: set[Category] = set()
    ended: set[Category] = set()
    for trigger in triggers:
        found |= {category for category, way in trigger.reaches if way is direction and category not in ended}
        ended |= trigger.ends
    return found


def _result(found: set[Category]) -> ContextResult:
    """Absent outweighs uncertain ("no findings to suggest"), hypothetical historical, family other."""
    certainty, temporality, experiencer = Certainty.PRESENT, Temporality.RECENT, Experiencer.PATIENT
    if Category.ABSENT in found:
        certainty = Certainty.ABSENT
    elif Category.UNCERTAIN in found:
        certainty = Certainty.UNCERTAIN
    if Category.HYPOTHETICAL in found:
        temporality = Temporality.HYPOTHETICAL
    elif Category.HISTORICAL in found:
        temporality = Temporality.HISTORICAL
    if Category.FAMILY in found:
        experiencer = Experiencer.FAMILY
    elif Category.OTHER in found:
        experiencer = Experiencer.OTHER
    return ContextResult(certainty, temporality, experiencer)


def _tables(content: Mapping[str, Any], path: Path) -> list[tuple[Category, Mapping[str, Any]]]:
    known = [category.value for category in Category]
    for name, table in content.items():
        if name not in known:
            raise InputError(f"unknown table [{name}]; {choices(name, [*known, 'shared'])}", path)
        if not isinstance(table, dict):
            raise InputError(f"{name!r} is a value, expected a table of phrase lists", path)
    return [(Category(name), table) for name, table in content.items()]


def _refuse_contradictions(
    triggers: Mapping[tuple[Category, Direction], frozenset[tuple[str, ...]]],
    pseudo: frozenset[tuple[str, ...]],
    path: Path,
) -> None:
    """Plurals are folded, so "rules out" and "rule out" are one phrase and cannot mean two things."""
    nothing: frozenset[tuple[str, ...]] = frozenset()
    for direction in Direction:
        absent = triggers.get((Category.ABSENT, direction), nothing)
        for phrase in sorted(absent & triggers.get((Category.UNCERTAIN, direction), nothing)):
            problem = f"{' '.join(phrase)!r} is both an absent and an uncertain {direction} trigger"
            raise InputError(problem, path)
    for (category, direction), phrases in triggers.items():
        for phrase in sorted(phrases & pseudo):
            raise InputError(f"{' '.join(phrase)!r} is both pseudo and a trigger of [{category}] {direction}", path)


def _refuse_unknown(table: Any, known: frozenset[str], where: str, path: Path) -> None:
    if not isinstance(table, dict):
        raise InputError(f"{where} is a value, expected a table of phrase lists", path)
    for field in table:
        if field not in known:
            raise InputError(f"{where}: unknown list {field!r}; {choices(field, known)}", path)


def _phrases(table: Mapping[str, Any], field: str, where: str, path: Path) -> frozenset[tuple[str, ...]]:
    values = table.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{where} {field}: expected a list of strings", path)
    phrases: dict[tuple[str, ...], str] = {}
    for value in values:
        words = tokenize(value).words
        if not words:
            raise InputError(f"{where} {field}: {value!r} has no words", path)
        if words in phrases:
            raise InputError(f"{where} {field}: {value!r} stands there twice (as {phrases[words]!r})", path)
        phrases[words] = value
    return frozenset(phrases)
