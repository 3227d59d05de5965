"""Folding, n-grams, initials and edits: against slow definitions."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.search import folding
from kgkit.search.folding import edits, fold, grams, initials, name_grams, singular

WORDS = st.text(alphabet="abcd", max_size=7)


def slow_edits(one: str, other: str) -> int:
    """Optimal string alignment, by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    options = [slow_edits(one[:-1], other) + 1, slow_edits(one, other[:-1]) + 1,
               slow_edits(one[:-1], other[:-1]) + (one[-1] != other[-1])]  # fmt: skip
    if len(one) > 1 and len(other) > 1 and one[-1] == other[-2] and one[-2] == other[-1]:
        options.append(slow_edits(one[:-2], other[:-2]) + 1)
    return min(options)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(folding).failed == 0


@given(st.text(alphabet="abc", max_size=5), st.text(alphabet="abc", max_size=5), st.integers(0, 3))
def test_edits_are_those_of_the_definition(one: str, other: str, limit: int) -> None:
    assert edits(one, other, limit) == min(slow_edits(one, other), limit + 1)


@given(WORDS, WORDS, st.integers(0, 4))
def test_edits_go_both_ways(one: str, other: str, limit: int) -> None:
    assert edits(one, other, limit) == edits(other, one, limit)


@pytest.mark.parametrize(
    ("british", "american"),
    [("anaemia", "anemia"), ("oesophageal tumours", "esophageal tumors"), ("haemorrhage", "hemorrhage"),
     ("localised oedema", "localized edema"), ("catalysed", "catalyzed"), ("fibre centre", "fiber center"),
     ("sulphonamide", "sulfonamide"), ("catheterisation", "catheterization"), ("Sjögren", "SJOGREN"),
     ("colour", "color"), ("paediatric", "pediatric")],
)  # fmt: skip
def test_british_and_american_spelling_fold_to_one(british: str, american: str) -> None:
    assert fold(british) == fold(american)


@pytest.mark.parametrize("word", ["rise", "wise", "four", "lysis", "disease", "tree", "hour glass", "analysis"])
def test_words_that_only_look_british_keep_apart_from_others(word: str) -> None:
    assert fold(word) in {word, "hor glass", "for"}


@pytest.mark.parametrize(
    ("plural", "one"),
    [("tumors", "tumor"), ("metastases", "metastasis"), ("biopsies", "biopsy"), ("abscesses", "abscess"),
     ("ribs", "rib"), ("reflexes", "reflex"), ("branches", "branch"), ("headaches", "headache"), ("sinuses", "sinus"),
     ("epiphyses", "epiphysis"), ("vasculitides", "vasculitis"), ("condylomata", "condyloma"), ("diseases", "disease")],
)  # fmt: skip
def test_plurals_have_the_grams_of_the_singular(plural: str, one: str) -> None:
    assert singular(plural) == one == singular(one)
    assert name_grams(f"{plural} of lung") == name_grams(f"lungs of {one}")


@pytest.mark.parametrize("word", ["virus", "stenosis", "abscess", "asd", "asds", "gas", "is", "s", "", "plexus", "xs"])
def test_what_is_no_plural_stays(word: str) -> None:
    assert singular(word) == word


@pytest.mark.parametrize(
    ("text", "folded"),
    [("Addison's disease", "addison disease"), ("Crohn\N{RIGHT SINGLE QUOTATION MARK}s", "crohn"),
     ("Wilms' tumour", "wilms tumor"), ("5's", "5 s"), ("'s", "s")],
)  # fmt: skip
def test_a_possessive_is_no_word(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text(max_size=40))
def test_folding_twice_changes_nothing_more(text: str) -> None:
    assert fold(fold(text).upper()) == fold(fold(text))


@given(st.lists(st.text(alphabet="abcxyz", min_size=1, max_size=6), max_size=5), st.randoms())
def test_word_order_makes_no_difference(words: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(words)
    random.shuffle(shuffled)
    assert grams(" ".join(words), (2, 3)) == grams(" ".join(shuffled), (2, 3))


@given(st.text(alphabet="ab ", max_size=12), st.integers(2, 4))
def test_grams_lie_within_words(text: str, length: int) -> None:
    found = grams(text, (length,))
    assert found == {f" {word} "[at : at + length] for word in text.split()
                     for at in range(max(1, len(word) + 3 - length))}  # fmt: skip
    assert not any(" " in gram.strip() for gram in found)


def test_initials_leave_small_words_out_or_in() -> None:
    assert initials("chronic obstructive pulmonary disease") == {"copd"}
    assert initials("shortness of breath") == {"sob", "sb"}
    assert initials("lung") == set()
