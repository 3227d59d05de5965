"""Laws of tokens, sentences, sections and phrase matching."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.linking.phrases import MAX_GAP, Phrase, PhraseMatcher, WordAutomaton, longest_first
from kgkit.linking.sections import split_sections
from kgkit.linking.sentences import split_sentences
from kgkit.linking.tokens import normalize_word, tokenize

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aa"]), max_size=12)
KEYS = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "ba", "aa"]), min_size=1, max_size=4).map(tuple), max_size=8)
REPORTISH = st.text(alphabet="aB1. \n\r\t:;,-'/XéÉ\ufb01\u0301\u00ad\u200b½_", max_size=60)


@given(REPORTISH | st.text(max_size=60))
def test_tokens_point_into_the_text_in_order(text):
    tokens = tokenize(text)
    assert len(tokens.words) == len(tokens.starts) == len(tokens.ends)
    assert all(start < end for start, end in zip(tokens.starts, tokens.ends, strict=True))
    assert all(end <= start for end, start in zip(tokens.ends, tokens.starts[1:], strict=False))
    assert all(word and not any(map(str.isspace, word)) for word in tokens.words)
    covered = {place for span in zip(tokens.starts, tokens.ends, strict=True) for place in range(*span)}
    assert all(place in covered for place, character in enumerate(text) if character.isalnum())


@given(st.text(max_size=20))
def test_normalizing_ignores_case_of_ascii(word):
    if word.isascii():
        assert normalize_word(word.upper()) == normalize_word(word.lower())


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Pneumothoraces", ["pneumothorax"]),
        ("air-space", ["air", "space"]),
        ("AIR SPACE", ["air", "space"]),
        ("\ufb01brosis", ["fibrosis"]),
        ("e\u0301panchement", ["\u00e9panchement"]),
        ("infil\u00adtrate", ["infiltrate"]),
        ("effusion.\r\nNo", ["effusion", ".", "no"]),
        ("PE - unlikely", ["pe", "-", "unlikely"]),
        ("is this was", ["is", "this", "was"]),
        ("atelectasis pus", ["atelectasis", "pus"]),
    ],
)
def test_words_of_a_text(written, words):
    assert list(tokenize(written).words) == words


@given(REPORTISH, st.integers(0, 20), st.integers(0, 20))
def test_sentences_cover_their_range(text, start, length):
    start = min(start, len(text))
    end = min(start + length, len(text))
    ranges = list(split_sentences(text, start, end))
    assert "".join(text[a:b] for a, b in ranges) == text[start:end]
    assert all(a < b for a, b in ranges)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("No effusion. No edema.", 2),
        ("1. Emphysema. 2. No edema.", 2),
        ("IMPRESSION: 1. Emphysema.", 1),
        ("Discussed with Dr. XXXX by phone.", 1),
        ("There is a 3.5 cm mass.", 1),
        ("in the left apex.There are opacities.", 2),
        ("no effusion\nor edema", 1),
        ("no effusion\r\n\r\nEdema", 2),
        ("Findings:\n- effusion\n- edema", 3),
        ("XXXX XXXX", 1),
        ("", 0),
    ],
)
def test_sentences_of_reports(text, count):
    assert len(list(split_sentences(text))) == count


@given(REPORTISH | st.lists(st.sampled_from(["FINDINGS:", "\n", "Impression:", "clear ", "HISTORY: "])).map("".join))
def test_sections_cover_the_text(text):
    sections = split_sections(text)
    assert "".join(text[section.start : section.end] for section in sections) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Clear lungs.", [""]),
        ("", [""]),
        ("FINDINGS: Clear. IMPRESSION: Normal.", ["findings", "impression"]),
        ("Chest film.\nFindings: clear.\nImpression: normal.", ["", "findings", "impression"]),
        ("FINDINGS\r\nClear.\r\nIMPRESSION\r\nNormal.", ["findings", "impression"]),
        ("REASON FOR EXAM: cough. FINDINGS AND IMPRESSION: clear.", ["indication", "findings"]),
        ("The findings: clear.", [""]),
        ("no new findings are seen", [""]),
    ],
)
def test_sections_of_reports(text, names):
    assert [section.name for section in split_sections(text)] == names


@given(WORDS, KEYS)
def test_the_automaton_finds_what_a_plain_scan_finds(words, keys):
    plain = sorted(
        {(i, i + len(key)) for key in keys for i in range(len(words)) if tuple(words[i : i + len(key)]) == key}
    )
    assert sorted(set(WordAutomaton(keys).find(words))) == plain


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=10))
def test_longest_first_drops_only_what_a_longer_or_earlier_range_covers(ranges):
    kept = longest_first(ranges)
    assert kept == sorted(kept)
    assert all(stop <= first for (_, stop), (first, _) in pairwise(kept))
    for first, stop in set(ranges) - set(kept):
        rivals = [(a, b) for a, b in kept if a < stop and first < b]
        assert any(b - a > stop - first or (b - a == stop - first and a < first) for a, b in rivals)


def _found(phrases: list[Phrase], text: str) -> list[tuple[str, str | None]]:
    tokens = tokenize(text)
    matches = PhraseMatcher(phrases).find(tokens, text, [0] * len(tokens))
    return [(text[tokens.starts[m.first] : tokens.ends[m.stop - 1]], m.phrase.concept) for m in matches]


def test_the_longest_phrase_wins():
    phrases = [
        Phrase("effusion", "x:short"),
        Phrase("pleural effusion", "x:long"),
        Phrase("pericardial effusion", None),
    ]
    text = "Pleural Effusions, pericardial effusion, effusion, diffusion"
    assert _found(phrases, text) == [("Pleural Effusions", "x:long"), ("effusion", "x:short")]


def test_a_gap_reaches_the_nearest_tail_and_no_further():
    phrases = [Phrase("heart ... enlarged", "x:big"), Phrase("heart ... normal", "x:big", denies=True)]
    assert _found(phrases, "The heart is mildly enlarged.") == [("heart is mildly enlarged", "x:big")]
    assert _found(phrases, "heart is enlarged and aorta normal") == [("heart is enlarged", "x:big")]
    assert _found(phrases, "heart seen; aorta enlarged") == []
    assert _found(phrases, "heart " + "very " * MAX_GAP + "enlarged") != []
    assert _found(phrases, "heart " + "very " * (MAX_GAP + 1) + "enlarged") == []


def test_gapped_phrases_may_share_their_tail():
    phrases = [Phrase("heart ... normal", "x:heart"), Phrase("mediastinum ... normal", "x:mediastinum")]
    assert [concept for _, concept in _found(phrases, "heart and mediastinum are normal")] == [
        "x:heart",
        "x:mediastinum",
    ]


def test_a_tail_inside_a_longer_phrase_is_not_a_tail():
    phrases = [Phrase("heart ... enlarged", "x:big"), Phrase("enlarged lymph node", "x:node")]
    assert _found(phrases, "heart, enlarged lymph nodes") == [("enlarged lymph nodes", "x:node")]


def test_abbreviations_match_in_their_case_only():
    phrases = [Phrase("ARDS", "x:ards", case_sensitive=True), Phrase("ALL", "x:leukaemia", case_sensitive=True)]
    assert _found(phrases, "ARDS in all lobes") == [("ARDS", "x:ards")]
    assert _found(phrases, "CLEAR IN ALL LOBES") == []  # capitals tell nothing in a text that has only capitals


@given(st.randoms(use_true_random=False))
def test_the_order_of_phrases_does_not_matter(rng: random.Random):
    phrases = [
        Phrase("mass", "x:2", score=0.9), Phrase("masses", "x:1", score=0.9), Phrase("lung mass", "x:3"),
        Phrase("mass", "x:0", score=0.5), Phrase("lung ... mass", "x:4"), Phrase("lung ... masses", "x:3"),
    ]  # fmt: skip
    shuffled = rng.sample(phrases, len(phrases))
    text = "Lung mass and lung with mass; lung is full of masses"
    assert _found(shuffled, text) == _found(phrases, text)


@pytest.mark.parametrize("text", ["", " ", "...", "a ...", "... a", "a ... b ... c"])
def test_a_phrase_without_words_is_refused(text):
    with pytest.raises(InputError, match="expected words"):
        PhraseMatcher([Phrase(text, "x:y")])


def test_no_phrases_find_nothing():
    assert _found([], "Clear lungs.") == []
