"""Shared heads: "pleural and pericardial effusion" is two findings; only names are written out, and none is lost."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.linking.coordination import with_shared_heads
from kgkit.linking.linker import Linker
from kgkit.linking.phrases import Phrase
from kgkit.linking.tokens import tokenize
from kgkit.types import Mention, MentionKind

FINDINGS = {
    "pleural effusion": "x:pleural", "pericardial effusion": "x:pericardial", "peritoneal effusion": "x:peritoneal",
    "chest pain": "x:chestpain", "back pain": "x:backpain", "small cell lung cancer": "x:sclc",
    "non small cell lung cancer": "x:nsclc", "atelectasis": "x:atelectasis", "atelectasis thickening": "x:wrong",
    "pleural thickening": "x:thickening", "thoracic spine kyphosis": "x:spine", "thoracic kyphosis": "x:kyphosis",
    "right atrial enlargement": "x:right", "left atrial enlargement": "x:left", "fracture of the back": "x:broken",
    "pleural": "x:pleural",
}  # fmt: skip
ANATOMY = {"chest": "x:chest", "left lung": "x:leftlung", "right lung": "x:rightlung", "back": "x:back"}
PIECES = ["pleural", "pericardial", "effusion", "chest", "back", "pain", "and", "or", ",", ".", "no", "left", "right",
          "lung", "atelectasis", "thickening", "XXXX", "\r\n"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)


@cache
def linker() -> Linker:
    """One for all examples of a property."""
    denial = Phrase("lungs are clear", "x:clear", denies=True)
    short = Phrase("PE effusion", "x:pe", case_sensitive=True)
    return Linker([
        denial, short, *(Phrase(text, concept) for text, concept in FINDINGS.items()),
        *(Phrase(text, concept, MentionKind.ANATOMY) for text, concept in ANATOMY.items()),
    ])  # fmt: skip


def mentions(text: str) -> tuple[Mention, ...]:
    return linker().link("r", text).mentions


def named(text: str) -> list[tuple[str, str]]:
    return [(mention.text, str(mention.concept)) for mention in mentions(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chest and back pain.", [("Chest and back pain", "x:chestpain"), ("back pain", "x:backpain")]),
        (
            "Pericardial, peritoneal, and/or pleural effusions.",
            [
                ("Pericardial, peritoneal, and/or pleural effusions", "x:pericardial"),
                ("peritoneal, and/or pleural effusions", "x:peritoneal"),
                ("pleural effusions", "x:pleural"),
            ],
        ),
        (
            "Non-small cell and small cell lung cancer",
            [("Non-small cell and small cell lung cancer", "x:nsclc"), ("small cell lung cancer", "x:sclc")],
        ),
        (
            "Right or\r\nleft atrial enlargement",
            [("Right or\r\nleft atrial enlargement", "x:right"), ("left atrial enlargement", "x:left")],
        ),
        ("Left and right lungs", [("Left and right lungs", "x:leftlung"), ("right lungs", "x:rightlung")]),
    ],
)
def test_each_part_is_a_mention(text, expected):
    assert named(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Atelectasis or pleural thickening.",  # a finding by itself
        "Thoracic spine and thoracic kyphosis.",  # more words before the head than the other part has
        "Fracture of the back and chest pain.",  # the word belongs to another name
        "Pain in chest. And back pain.",  # another sentence
        "Chest, back pain.",  # a comma alone may part two findings
        "Pleural and pericardial.",  # no head
        "PE and pleural effusion",  # an abbreviation stands for what it is written as
        "Chest and XXXX pain",
        "and back pain",
    ],
)
def test_what_is_no_coordination_stays_as_it_is(text):
    context, matches = linker().find(text)
    assert [mention.concept for mention in mentions(text)] == [match.phrase.concept for match in matches]
    assert len(context.tokens) > 0


@pytest.mark.parametrize(("before", "certainty"), [("No ", "absent"), ("Possible ", "uncertain"), ("", "present")])
def test_the_parts_share_what_is_said_of_them(before, certainty):
    found = mentions(f"{before}pleural or pericardial effusion.")
    assert [(mention.concept, mention.certainty) for mention in found] == [
        ("x:pleural", certainty), ("x:pericardial", certainty),
    ]  # fmt: skip


@given(TEXTS)
def test_what_is_written_out_is_a_name_and_nothing_that_was_found_is_lost(text):
    context, matches = linker().find(text)
    words = context.tokens.words
    after = with_shared_heads(words, context.sentence_of, matches, lambda own: _phrases().get(own, []))
    for match in (each for each in after if each not in matches):
        span = words[match.first : match.stop]
        readings = {span[:left] + span[right:] for left in range(1, len(span)) for right in range(left + 1, len(span))}
        assert tokenize(match.phrase.text).words in readings
        assert any(other.stop == match.stop and other.first > match.first for other in matches)
        assert {"and", "or"} & set(span)
        assert len(set(context.sentence_of[match.first : match.stop])) == 1
    gone = [each for each in matches if each not in after]
    assert all(each.phrase.kind is MentionKind.ANATOMY for each in gone)
    places = [(each.phrase.concept, token) for each in after for token in range(each.first, each.stop)]
    assert len(places) == len(set(places))  # a concept is not said twice of one word


@given(TEXTS)
def test_without_a_link_nothing_changes(text):
    plain = text.replace("and", "with").replace("or", "with")
    context, matches = linker().find(plain)
    assert (
        with_shared_heads(context.tokens.words, context.sentence_of, matches, lambda _: [Phrase("x", "y:z")]) == matches
    )


@given(TEXTS)
def test_offsets_are_exact_and_mentions_sorted(text):
    found = mentions(text)
    assert all(text[mention.start : mention.end] == mention.text for mention in found)
    assert list(found) == sorted(found, key=lambda mention: (mention.start, mention.end))


@cache
def _phrases() -> dict[tuple[str, ...], list[Phrase]]:
    """Each name by its words, from the tables above alone."""
    findings = {tokenize(text).words: [Phrase(text, concept)] for text, concept in FINDINGS.items()}
    anatomy = {tokenize(text).words: [Phrase(text, concept, MentionKind.ANATOMY)] for text, concept in ANATOMY.items()}
    return findings | anatomy
