"""Concepts for the spans of others: by the same names as our own mentions, then by search; nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from graphs import RADGRAPH
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.errors import InputError
from kgkit.files import write_manifest
from kgkit.findings import load_findings
from kgkit.graph.store import KnowledgeGraph, ingest
from kgkit.linking.link_file import LinkOptions, link_file, linked_source, load_span_linker
from kgkit.linking.linker import Linker, finding_phrases
from kgkit.linking.mention_files import link_reports, read_mentions, write_mentions
from kgkit.linking.phrases import Phrase
from kgkit.linking.reports import Report
from kgkit.linking.spans import SpanLinker, is_open, is_typo
from kgkit.sources.base import IngestLog
from kgkit.sources.radgraph import read_radgraph
from kgkit.types import Certainty, Change, Mention, MentionKind, MentionRelation, ReportMentions, SearchHit

Run = Callable[..., tuple[int, str, str]]
ANATOMY, OBSERVATION = MentionKind.ANATOMY, MentionKind.OBSERVATION
NAMES = {
    # concept -> type, names
    "HP:0000001": ("T047", "Pleural effusion", "Fluid around lungs"),
    "HP:0000002": ("T047", "Oblique fissure displacement", "Displaced major fissure"),
    "HP:0000003": ("T033", "Dextrocurvature of the spine",),
    "HP:0000004": ("T023", "Midthoracic spine", "Middle of the thoracic spine"),
    "HP:0000005": ("T023", "Pleura", "Pleural membrane"),
    "HP:0000006": ("T023", "Ligament"),
    "HP:0000007": ("T061", "Chest tube removal"),
    "HP:0000008": ("T047", "Granulomatous disease"),
}  # fmt: skip


class WordsInCommon:
    """A plain search: the share of words that a query and a name have in common."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read_as(self, text: str) -> str | None:
        return {"alignment": "ligament", "granulomatuos disease": "granulomatous disease"}.get(text)

    def search(self, texts: Sequence[str], k: int) -> list[list[SearchHit]]:
        self.asked += texts
        return [self._one((self.read_as(text) or text).casefold().split(), k) for text in texts]

    def _one(self, words: list[str], k: int) -> list[SearchHit]:
        scores = {}
        for concept, (_, *names) in NAMES.items():
            named = [set(name.casefold().split()) for name in names]
            scores[concept] = max(len(set(words) & name) / len(set(words) | name) for name in named)
        best = sorted(scores, key=lambda concept: (-scores[concept], concept))[:k]
        return [SearchHit(concept, NAMES[concept][1], (NAMES[concept][0],), scores[concept], rank, "")
                for rank, concept in enumerate(best, 1)]  # fmt: skip


@cache
def linker() -> Linker:
    """One for all examples of a property."""
    graph = [Phrase("lungs", "x:lung", ANATOMY, 0.5), Phrase("pair of lungs", "x:pair", ANATOMY),
             Phrase("lungs", "x:pair", ANATOMY, 0.45)]  # fmt: skip
    return Linker([*finding_phrases(load_findings()), *graph])


def report(text: str, *spans: tuple[str, MentionKind], located: Sequence[tuple[int, int]] = ()) -> ReportMentions:
    """A report whose mentions are the first places of some words; `located`: (observation, place)."""
    mentions = [Mention(words, text.index(words), text.index(words) + len(words), kind, Certainty.PRESENT)
                for words, kind in spans]  # fmt: skip
    for source, target in located:
        mentions[source] = replace(mentions[source], relations=((MentionRelation.LOCATED_AT, target),))
    return ReportMentions("r", text, tuple(mentions))


def concepts(found: ReportMentions) -> list[str | None]:
    return [None if m.concept is None else m.concept.removeprefix("finding:") for m in found.mentions]


def test_a_mention_is_the_head_of_the_longest_name() -> None:
    found = report("moderate hiatal hernia .", ("moderate", OBSERVATION), ("hiatal", ANATOMY), ("hernia", OBSERVATION))
    assert concepts(SpanLinker(linker()).link(found)) == [None, None, "hiatal_hernia"]
    found = report("There is a pair of lungs .", ("lungs", ANATOMY))
    assert SpanLinker(linker()).link(found).mentions[0].concept == "x:pair"


def test_a_mention_and_its_place_are_one_name() -> None:
    text = "effusion is seen within the pericardial sac ."
    far = report(text, ("effusion", OBSERVATION), ("pericardial", ANATOMY), located=[(0, 1)])
    assert concepts(SpanLinker(linker()).link(far)) == ["pericardial_effusion", None]
    alone = report(text, ("effusion", OBSERVATION), ("pericardial", ANATOMY))
    assert concepts(SpanLinker(linker()).link(alone)) == ["pleural_effusion", None]


@pytest.mark.parametrize(
    ("text", "span", "place"),
    [
        ("no acute cardiopulmonary abnormality .", "abnormality", "cardiopulmonary"),
        ("The lungs are clear .", "clear", "lungs"),
        ("The heart is normal in size .", "normal", "heart"),
        ("clear lungs .", "clear", "lungs"),
        ("normal pulmonary vasculature .", "normal pulmonary vasculature", "pulmonary"),
        ("no pleural membrane effusion", "no pleural membrane effusion", "pleural membrane"),
    ],
)
def test_a_name_that_says_the_opposite_links_nothing(text: str, span: str, place: str) -> None:
    """RadGraph's certainty is that of its words; a link to what they deny would turn it around."""
    found = report(text, (span, OBSERVATION), (place, ANATOMY), located=[(0, 1)])
    assert concepts(SpanLinker(linker(), WordsInCommon(), 0.0).link(found))[0] is None


def test_what_no_name_fits_is_searched() -> None:
    text = "Mild displacement of the oblique fissure and the middle thoracic spine ."
    spans = (("displacement", OBSERVATION), ("oblique fissure", ANATOMY), ("middle thoracic spine", ANATOMY))
    found = report(text, *spans, located=[(0, 1)])
    displacement, fissure, spine = SpanLinker(linker(), WordsInCommon(), 0.5).link(found).mentions
    assert (displacement.concept, displacement.link_score) == ("HP:0000002", 1)  # with its place
    assert fissure.concept is None  # the concept of these words is an observation
    assert spine.concept == "HP:0000004"
    strict = SpanLinker(linker(), WordsInCommon(), 0.9).link(found).mentions[2]
    assert (strict.concept, strict.link_score) == (None, None)
    assert strict.candidates[0] == ("HP:0000004", pytest.approx(3 / 5))


def test_what_is_no_thing_is_not_asked() -> None:
    text = "XXXX 4 cm new ARDX ___ , moderate " + "mass " * 60
    spans = [(word, OBSERVATION) for word in ("XXXX", "4 cm", "new", "ARDX", "___", ",", "moderate", "mass " * 60)]
    plain = report(text, *spans)
    mentions = list(plain.mentions)
    mentions[1] = replace(mentions[1], is_measurement=True)
    mentions[2] = replace(mentions[2], change=Change.CONDITION_APPEARED)
    mentions += [Mention("", 0, 0, OBSERVATION, Certainty.ABSENT), replace(mentions[0], concept="HP:9", link_score=1.0)]
    found = replace(plain, mentions=tuple(mentions))
    search = WordsInCommon()
    assert SpanLinker(Linker([]), search, 0.0).link(found) == found
    assert search.asked == []


def test_a_right_word_that_no_name_has_is_no_typo() -> None:
    found = report("alignment , granulomatuos disease", ("alignment", ANATOMY), ("granulomatuos disease", OBSERVATION))
    assert concepts(SpanLinker(linker(), WordsInCommon()).link(found)) == [None, "HP:0000008"]


@given(st.text("abcdef", min_size=6, max_size=12), st.data())
def test_one_slip_is_a_typo_and_another_first_letter_is_none(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(word) - 1))
    letter = data.draw(st.sampled_from("abcdefs"))
    slips = [word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
    slips += [word[:at] + word[at + 1 :]] if len(word) > 6 else []
    slips += [word[:at] + word[at + 1] + word[at] + word[at + 2 :]] if at + 1 < len(word) else []
    for slip in slips:
        assert is_typo(slip, word)
        assert is_typo(word, slip)
    assert not is_typo("x" + word[1:], word)
    assert not is_typo(word + " " + word, word)


PIECES = [
    "no ",
    "possible ",
    "pleural effusion",
    "edema",
    "lungs",
    "lung ",
    "hiatal hernia",
    ". ",
    ", ",
    "XXXX ",
    "is ",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@st.composite
def annotated(draw: st.DrawFn) -> ReportMentions:
    """Any spans of a text, some linked already, with relations among them."""
    text, count = draw(TEXTS), draw(st.integers(0, 5))
    mentions = []
    for _ in range(count):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        targets = st.tuples(st.sampled_from(MentionRelation), st.integers(0, count - 1))
        concept = draw(st.sampled_from([None, None, None, "HP:9"]))
        mentions.append(Mention(
            text[start:end], start, end, draw(st.sampled_from(MentionKind)), draw(st.sampled_from(Certainty)),
            concept=concept, relations=tuple(draw(st.lists(targets, max_size=2))),
            change=draw(st.sampled_from([None, None, Change.UNCHANGED])), is_measurement=draw(st.booleans()),
        ))  # fmt: skip
    return ReportMentions("r", text, tuple(mentions))


@given(annotated(), st.floats(0, 1))
def test_nothing_but_the_link_changes(found: ReportMentions, bar: float) -> None:
    linked = SpanLinker(linker(), WordsInCommon(), bar).link(found)
    assert (linked.report_id, linked.text) == (found.report_id, found.text)
    for before, after in zip(found.mentions, linked.mentions, strict=True):
        assert replace(after, concept=before.concept, link_score=before.link_score, candidates=()) == before
        assert after == before or is_open(before)
        if is_open(before) and after.concept is not None:
            assert after.candidates[0] == (after.concept, after.link_score)
        assert all(0 <= score <= 1 for _, score in after.candidates)
    assert SpanLinker(linker(), WordsInCommon(), bar).link(linked) == linked


@given(TEXTS)
def test_our_own_mentions_get_the_same_concepts_again(text: str) -> None:
    """The names of the linker and those for the spans of others are one code."""
    ours = linker().link("r", text)
    plain = [m for m in ours.mentions if " is " not in f" {m.text} " and m.certainty is not Certainty.ABSENT]
    bare = tuple(replace(mention, concept=None, link_score=None, candidates=()) for mention in plain)
    again = SpanLinker(linker()).link(replace(ours, mentions=bare))
    assert again.mentions == tuple(plain)


@given(st.lists(annotated(), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_else_is_linked_does_not_matter(reports: list[ReportMentions], rng: object) -> None:
    shared = SpanLinker(linker(), WordsInCommon(), 0.3)
    turned = [shared.link(each) for each in reports[::-1]][::-1]
    assert turned == [SpanLinker(linker(), WordsInCommon(), 0.3).link(each) for each in reports]


# ---------------------------------------------------------------- files, the graph and the command line


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ENCODER folder without a text tower, with its search index; not to be changed."""
    from kgkit.search.build import build_index

    folder = tmp_path_factory.mktemp("spans") / "encoder"
    folder.mkdir()
    rows = [(concept, name, "HPO", False, "en", place == 0, None)
            for concept, (_, *names) in NAMES.items() for place, name in enumerate(names)]  # fmt: skip
    pl.DataFrame(rows, schema=NAME_COLUMNS, orient="row").write_parquet(folder / "names.parquet")
    table = [(concept, names[0], [tui], None, [], []) for concept, (tui, *names) in NAMES.items()]
    pl.DataFrame(table, schema=CONCEPT_COLUMNS, orient="row").write_parquet(folder / "concepts.parquet")
    vectors = {"concepts": np.eye(len(table), dtype=np.float32), "names": np.zeros((0, len(table)), np.float32)}
    save_file(vectors, folder / "vectors.safetensors")
    write_manifest(folder, "encoder", {"encoder_digest": "ab" * 32})
    build_index(folder)
    return folder


def test_radgraph_is_linked_from_a_file_as_on_its_way_into_the_graph(encoder: Path, tmp_path: Path) -> None:
    done = link_file(encoder, RADGRAPH, tmp_path / "m.jsonl")
    linked = {found.report_id: found for found in read_mentions(tmp_path / "m.jsonl")}
    assert (done.format, done.summary.num_reports) == ("radgraph", len(linked))
    log = IngestLog()
    tables = linked_source(read_radgraph(RADGRAPH, log), log, encoder)
    assert {found.report_id: found for found in tables.reports} == linked
    (spine,) = [m for found in linked.values() for m in found.mentions if m.text == "midthoracic spine"]
    assert spine.concept == "HP:0000004"
    by_itself = read_radgraph(RADGRAPH, IngestLog())
    for found in by_itself.reports:
        bare = [replace(m, concept=None, link_score=None, candidates=()) for m in linked[found.report_id].mentions]
        assert tuple(bare) == found.mentions


def test_mentions_of_radgraph_and_of_the_linker_go_through_one_file(encoder: Path, tmp_path: Path) -> None:
    reports = read_radgraph(RADGRAPH, IngestLog()).reports
    write_mentions(reports, tmp_path / "bare.jsonl")
    done = link_file(encoder, tmp_path / "bare.jsonl", tmp_path / "m.jsonl")
    link_file(encoder, RADGRAPH, tmp_path / "direct.jsonl")
    assert done.format == "mentions"
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "direct.jsonl").read_bytes()
    link_reports(linker(), [Report("1", "Pleural effusion.")], tmp_path / "ours.jsonl")
    keys = [list(json.loads((tmp_path / name).read_text().splitlines()[0])["mentions"][0])
            for name in ("m.jsonl", "ours.jsonl")]  # fmt: skip
    assert keys[0] == keys[1]
    again = link_file(encoder, tmp_path / "ours.jsonl", tmp_path / "ours.jsonl")  # all linked: nothing to do
    assert (again.format, again.summary.num_linked) == ("mentions", again.summary.num_mentions)


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("r.jsonl", '{"report_id": 1, "text": "edema"}', "reports"),
        ("r.jsonl", '\n{"report_id": "1", "text": "edema", "mentions": []}', "mentions"),
        ("r.jsonl", '{"report_id": "1", "text": "edema", "entities": {}}', "radgraph"),
        ("r.jsonl", '{"p1": {"text": "edema", "entities": {}}}', "radgraph"),
        ("r.json", '{"p1": {"text": "edema", "entities": {}}}', "radgraph"),
        ("r.txt", "edema", "reports"),
        ("r.csv", "id,text\n1,edema\n", "reports"),
    ],
)
def test_the_kind_of_a_file_is_seen(encoder: Path, tmp_path: Path, name: str, content: str, form: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = link_file(encoder, tmp_path / name, tmp_path / "out.jsonl")
    assert (done.format, done.summary.num_reports) == (form, 1)
    told = link_file(encoder, tmp_path / name, tmp_path / "told.jsonl", LinkOptions(format=form))
    assert told == done


def test_a_mentions_file_may_be_read_as_reports_again(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"report_id": "1", "text": "Chest: edema", "mentions": []}')
    done = link_file(encoder, tmp_path / "m.jsonl", tmp_path / "out.jsonl", LinkOptions(format="reports"))
    assert done.summary.num_mentions == 1


def test_what_cannot_be_done_is_said(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=r"unknown format 'radgraf'; did you mean 'radgraph'\?"):
        link_file(encoder, RADGRAPH, out, LinkOptions(format="radgraf"))
    with pytest.raises(InputError, match=r"--encoding is for report text; radgraph files are JSON"):
        link_file(encoder, RADGRAPH, out, LinkOptions(encoding="cp1252"))
    with pytest.raises(InputError, match=r"--min-score is 1.5, expected 0 to 1"):
        link_file(encoder, RADGRAPH, out, LinkOptions(min_score=1.5))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in encoder.iterdir():
        if path.is_file():
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"no index yet; run: kgkit index"):
        link_file(bare, RADGRAPH, out)
    assert link_file(bare, RADGRAPH, out, LinkOptions(names_only=True)).summary.num_reports == 8
    (tmp_path / "one.txt").write_text("No edema.")
    assert link_file(bare, tmp_path / "one.txt", out).summary.num_linked == 1  # report text needs no index
    assert isinstance(load_span_linker(bare, names_only=True), SpanLinker)


def test_linked_radgraph_in_the_graph(encoder: Path, tmp_path: Path, command: Run) -> None:
    kg = tmp_path / "kg"
    code, out, _ = command("kgkit", "ingest", "radgraph", RADGRAPH, "--out", kg, "--link-with", encoder)
    assert code == 0
    assert f"mentions linked with encoder {'ab' * 8}, search score 0.85 or more" in out
    log = IngestLog()
    tables = linked_source(read_radgraph(RADGRAPH, log), log, encoder)
    expected = sorted(m.concept for found in tables.reports for m in found.mentions if m.concept)
    assert log.rows_read["mentions linked"] == len(expected) > 5
    rows = KnowledgeGraph(kg).query("SELECT ?c (COUNT(?m) AS ?n) { ?m kgkit:denotes ?c } GROUP BY ?c")
    assert sum(int(row[1].value) for row in rows) == len(expected)
    ingest(tmp_path / "again", linked_source(read_radgraph(RADGRAPH, log), IngestLog(), encoder), log)
    assert KnowledgeGraph(tmp_path / "again").digest == KnowledgeGraph(kg).digest


def test_the_command_links_what_others_found(encoder: Path, tmp_path: Path, command: Run) -> None:
    code, out, _ = command("kgkit", "link", encoder, RADGRAPH, "--out", tmp_path / "m.jsonl", "--min-score", "0.9")
    assert code == 0
    assert out.startswith("8 reports, 64 mentions (")
    code, _, err = command("kgkit", "ingest", "radgraph", RADGRAPH, "--out", tmp_path / "kg", "--min-score", "0.5")
    assert (code, err.splitlines()[-1]) == (1, "kgkit: --min-score says how sure a link has to be; give --link-with "
                                            "ENCODER too")  # fmt: skip
    (tmp_path / "r.txt").write_bytes(b"caf\xe9: edema")
    code, _, err = command("kgkit", "link", encoder, tmp_path / "r.txt", "--out", tmp_path / "m.jsonl")
    assert code == 1
    assert "line 1: byte 0xe9 at column 4, expected UTF-8; read it with --encoding cp1252" in err
    code, out, _ = command("kgkit", "link", encoder, tmp_path / "r.txt", "--out", tmp_path / "m.jsonl", "--encoding",
                           "cp1252")  # fmt: skip
    assert (code, out.splitlines()[0]) == (0, "1 reports, 1 mentions (1 present, 0 uncertain, 0 absent)")


def test_an_abbreviation_is_linked_by_what_the_report_says_it_stands_for() -> None:
    text = "Displaced major fissure (DMF) is seen. DMF is worse."
    spans = SpanLinker(linker(), WordsInCommon(), min_score=0.9)
    defined = ReportMentions("r", text, (Mention("DMF", 39, 42, OBSERVATION, Certainty.PRESENT),))
    assert concepts(spans.link(defined)) == ["HP:0000002"]
    undefined = ReportMentions("r", "DMF is worse.", (Mention("DMF", 0, 3, OBSERVATION, Certainty.PRESENT),))
    assert concepts(spans.link(undefined)) == [None]
