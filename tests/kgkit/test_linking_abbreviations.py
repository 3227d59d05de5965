"""Abbreviations that a text defines: against a slow definition of the rule, examples, hostile text."""

from __future__ import annotations

import doctest
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.linking import abbreviations
from kgkit.linking.abbreviations import find_abbreviations, write_out

WORDS = st.lists(st.text(alphabet="abcd", min_size=1, max_size=4), min_size=1, max_size=5)


def slow_long_form(short: str, words: str) -> str | None:
    """The shortest end of `words` that begins with the first letter and has the others in order behind it."""
    first, *others = short.casefold()
    for start in range(len(words) - 1, -1, -1):
        at_beginning = start == 0 or words[start - 1] == " "
        rest = words[start + 1 :].casefold()
        has_others = any([rest[at] for at in its] == others for its in combinations(range(len(rest)), len(others)))
        if words[start].casefold() == first and at_beginning and has_others:
            return words[start:]
    return None


@given(WORDS, st.text(alphabet="ABCD", min_size=2, max_size=3))
def test_the_long_form_is_the_shortest_end_that_holds_the_letters(words: list[str], short: str) -> None:
    before = " ".join(words[-min(len(short) + 5, 2 * len(short)) :])
    expected = slow_long_form(short, before)
    if expected is not None and (len(expected) <= len(short) or short in expected.split()):
        expected = None
    last = words[-len(short) :]
    if expected is None and sorted(word[0] for word in last) == sorted(short.casefold()):
        expected = " ".join(last)
    assert find_abbreviations(f"{' '.join(words)} ({short}) was seen").get(short) == expected


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(abbreviations).failed == 0


@pytest.mark.parametrize(
    ("text", "forms"),
    [("Wiskott-Aldrich syndrome (WAS) is rare.", {"WAS": "Wiskott-Aldrich syndrome"}),
     ("PE (pulmonary embolism) excluded", {"PE": "pulmonary embolism"}),
     ("chronic obstructive pulmonary disease [COPD]", {"COPD": "chronic obstructive pulmonary disease"}),
     ("ground glass opacity (GGO, arrow)", {"GGO": "ground glass opacity"}),
     ("right middle lobe\n(RML) opacity", {}),  # a line ends what can be looked back at
     ("There is no nodule. Mass (see image)", {}),
     ("the left lung (arrow) and the right (2)", {}),
     ("heteroduplex (HD) and Huntington disease (HD), Huntington disease (HD)", {"HD": "Huntington disease"}),
     ("cases of myotonic dystrophy (DM)", {"DM": "myotonic dystrophy"}), ("a trinucleotide (CTG) repeat", {}),
     ("", {}), ("()", {}), ("(((((", {}), ("(A", {}), ("AB (AB)", {}), (" (XY)", {})],
)  # fmt: skip
def test_definitions_in_text(text: str, forms: dict[str, str]) -> None:
    assert find_abbreviations(text) == forms


@pytest.mark.parametrize(
    ("words", "expected"),
    [("A-T", "ataxia-telangiectasia"), ("AT", "AT"), ("A-T patients", "ataxia-telangiectasia patients"),
     ("DMs", "myotonic dystrophys"), ("EDM", "EDM"), ("DMPK", "DMPK"), ("dm", "dm"),
     ("type-1 DM", "type-1 myotonic dystrophy"),
     ("myotonic dystrophy (DM)", "myotonic dystrophy"), ("(DM)", "(myotonic dystrophy)"), ("pneumonia", "pneumonia")],
)  # fmt: skip
def test_short_forms_are_written_out_as_whole_words(words: str, expected: str) -> None:
    assert write_out(words, {"A-T": "ataxia-telangiectasia", "DM": "myotonic dystrophy"}) == expected


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    for short, long in find_abbreviations(text).items():
        assert len(long) > len(short)
        assert any(map(str.isalpha, short))
    assert write_out(text, {}) == text


@given(st.text(alphabet="ab AB()-", max_size=60))
def test_what_is_written_out_is_never_empty(text: str) -> None:
    assert bool(write_out(text, {"AB": "a b", "A": "a b"}).strip()) == bool(text.strip())


def test_a_long_text_of_brackets_is_read_in_a_moment() -> None:
    assert find_abbreviations("(A1) " * 5_000) == {}
    assert find_abbreviations("a" * 500_000 + " (AA)") == {}
