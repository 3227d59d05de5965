"""Laws of linking: what must not matter does not, offsets are exact, and nothing is lost on hostile text."""

from __future__ import annotations

import json
import random
import time
from functools import cache

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgkit.encoder.artifact import NAME_COLUMNS
from kgkit.findings import load_findings
from kgkit.linking.linker import Linker, finding_phrases
from kgkit.linking.names import name_phrases
from kgkit.linking.phrases import Phrase, is_in_capitals
from kgkit.linking.tokens import is_redacted, tokenize
from kgkit.types import Mention, MentionKind, ReportMentions

GRAPH = [
    Phrase("rib", "x:rib", MentionKind.ANATOMY, 0.5), Phrase("rib", "x:costa", MentionKind.ANATOMY, 0.45),
    Phrase("COPD", "x:copd", score=0.9, case_sensitive=True), Phrase("ALL", "x:leukaemia", case_sensitive=True),
    Phrase("lung mass", "x:mass"), Phrase("pneumothorax", "x:air", score=0.5),
]  # fmt: skip
TRIGGERS = ["no ", "no evidence of ", "possible ", "history of ", "there is ", "without ", "mother had ", "if "]
NAMES = [
    "pneumothorax",
    "pleural effusion",
    "edema",
    "heart is enlarged",
    "lung mass",
    "rib fracture",
    "lungs are clear",
]
ENDS = [". ", ", ", " and ", "; ", ".\n", " is not seen. ", " cannot be excluded. ", " - "]
BODIES = st.lists(st.tuples(*map(st.sampled_from, (TRIGGERS, NAMES, ENDS))).map("".join), max_size=6).map("".join)
ODD = ["\0", "\x1b", "\r\n", "\u2028", "\ufeff", "XXXX", "___", "[**Name**] ", "\ud7ff", "1. "]
HOSTILE = st.text(max_size=60) | st.lists(st.sampled_from([*ODD, *NAMES, *ENDS]), max_size=15).map("".join)


@cache
def linker() -> Linker:
    """One linker for all examples of a property; hypothesis refuses function fixtures."""
    return Linker([*finding_phrases(load_findings()), *GRAPH])


def meaning(report: ReportMentions) -> list[tuple[object, ...]]:
    """What a report says, without where it stands."""
    return [(m.concept, m.certainty, m.temporality, m.experiencer, m.candidates) for m in report.mentions]


@given(BODIES, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_phrases_does_not_matter(text: str, rng: random.Random) -> None:
    phrases = [*finding_phrases(load_findings()), *GRAPH]
    assert Linker(rng.sample(phrases, len(phrases))).link("r", text) == linker().link("r", text)


@given(st.lists(BODIES | HOSTILE, max_size=5), st.randoms(use_true_random=False))
def test_a_report_is_read_alone(texts: list[str], rng: random.Random) -> None:
    alone = [linker().link(str(number), text) for number, text in enumerate(texts)]
    for number in rng.sample(range(len(texts)), len(texts)):
        assert linker().link(str(number), texts[number]) == alone[number]
    assert [report.mentions for report in alone] == [Linker.link(linker(), "", text).mentions for text in texts]


@given(BODIES)
def test_case_and_line_ends_do_not_matter(text: str) -> None:
    read = linker().link("r", text)
    assert meaning(linker().link("r", text.upper())) == meaning(read)
    assert meaning(linker().link("r", text.capitalize())) == meaning(read)
    windows = linker().link("r", text.replace("\n", "\r\n"))
    assert meaning(windows) == meaning(read)
    spaced = linker().link("r", text.replace(" ", "   "))
    assert meaning(spaced) == meaning(read)


@given(BODIES)
def test_control_characters_only_separate(text: str) -> None:
    read = linker().link("r", text)
    for mark in ("\0", "\x1f", " \0 "):
        found = linker().link("r", text.replace(" ", mark))
        assert meaning(found) == meaning(read) or " - " in text  # a dash between letters joins them


@given(BODIES | HOSTILE)
def test_offsets_are_exact_and_the_text_is_kept(text: str) -> None:
    report = linker().link("r", text)
    assert report.text == text
    assert all(text[mention.start : mention.end] == mention.text for mention in report.mentions)
    assert all(not all(map(is_redacted, tokenize(mention.text).words)) for mention in report.mentions)
    assert ReportMentions.from_json(json.loads(json.dumps(report.to_json()))) == report
    for mention in report.mentions:
        assert mention.candidates[0] == (mention.concept, mention.link_score)
        assert len({concept for concept, _ in mention.candidates}) == len(mention.candidates)


@given(st.lists(st.tuples(*map(st.sampled_from, (TRIGGERS, NAMES, ENDS))), max_size=5), st.data())
def test_marks_neither_make_nor_break_nor_turn_a_mention(
    clauses: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    """De-identification marks between a trigger, what it speaks of, and the end of the sentence."""
    plain = "".join(map("".join, clauses))
    mark = st.sampled_from(["", "XXXX ", "XXXX XXXX ", "___ ", "xxxx "])
    marked = "".join(
        trigger + data.draw(mark) + name + (" " + data.draw(mark)).rstrip() + end for trigger, name, end in clauses
    )
    assert meaning(linker().link("r", marked)) == meaning(linker().link("r", plain))


def test_a_name_that_looks_like_a_mark_is_no_name() -> None:
    rows = [("x:1", "XXXX syndrome"), ("x:2", "XXXX"), ("x:3", "Tetrasomy X syndrome")]
    table = [{"concept": concept, "name": name, "source": "X", "language": "en", "is_abbreviation": False,
              "is_preferred": True, "vector": None} for concept, name in rows]  # fmt: skip
    phrases = list(name_phrases(pl.DataFrame(table, schema=NAME_COLUMNS), lambda _: ("T047",)))
    assert [phrase.concept for phrase in phrases] == ["x:3"]
    assert linker().link("r", "XXXX XXXX. XXXX, XXXX").mentions == ()


@pytest.mark.parametrize("text", ["", " ", "\r\n\r\n", "\0", ".", "FINDINGS:", "XXXX", "\ufeff", "1."])
def test_a_report_without_a_sentence_has_no_mentions(text: str) -> None:
    assert linker().link("r", text) == ReportMentions("r", text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("COPD in all lobes.", ["COPD"]),
        ("COPD.", ["COPD"]),
        ("Findings: CLEAR IN ALL LOBES.", []),  # a body in capitals under a heading that is not
        ("CLEAR IN ALL LOBES, RIB FRACTURE.", ["RIB FRACTURE"]),
        ("XXXX XXXX XXXX with COPD.", ["COPD"]),  # marks are no capitals
    ],
)
def test_reports_in_capitals(text: str, names: list[str]) -> None:
    assert [mention.text for mention in linker().link("r", text).mentions if mention.text.isupper()] == names


@given(st.text(alphabet="abcXYZ. ", max_size=40))
def test_a_text_without_capitals_is_not_in_capitals(text: str) -> None:
    assert not is_in_capitals(text.lower())


@pytest.mark.parametrize(
    "unit",
    ["no pleural effusion, ", "or pleural effusion ", "pleural or pericardial effusion. ", "word ", "effusion. ", "or ",
     "no ", "x", "1. ", "XXXX "],
)  # fmt: skip
def test_a_line_of_a_million_characters(unit: str) -> None:
    """Quadratic work would take minutes; a mention at the very end is still found where it stands."""
    text = unit * (1_000_000 // len(unit)) + ". Lung mass."
    started = time.process_time()
    mentions = linker().link("r", text).mentions
    assert time.process_time() - started < 30
    assert (mentions[-1].text, mentions[-1].end) == ("Lung mass", len(text) - 1)
    assert all(text[mention.start : mention.end] == mention.text for mention in mentions)


def test_mentions_of_the_linker_and_of_others_have_one_schema() -> None:
    (ours,) = linker().link("r", "edema").mentions
    theirs = Mention("edema", 0, 5, ours.kind, ours.certainty)
    shown = [ReportMentions("r", "edema", (mention,)).to_json()["mentions"][0] for mention in (ours, theirs)]
    assert list(shown[0]) == list(shown[1])
    assert {key for key in shown[0] if shown[0][key] != shown[1][key]} == {"concept", "link_score", "candidates"}
