"""Linked reports on their way into the graph and back: nothing that a mention says is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
from damage import damage
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kgkit import namespaces as ns
from kgkit.errors import InputError
from kgkit.findings import load_findings
from kgkit.graph.mention_quads import mention_lines, reports_from_quads
from kgkit.linking.linker import Linker, finding_phrases
from kgkit.linking.mention_files import link_reports
from kgkit.linking.reports import Report
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables
from kgkit.sources.mentions import read_mentions
from kgkit.types import (
    Certainty,
    Change,
    Experiencer,
    Mention,
    MentionKind,
    MentionRelation,
    ReportMentions,
    Temporality,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CONCEPTS = ("umls:C0032227", "HP:0002202", "finding:normal", "DOID:4", "bioportal:ICD10/A 1%", "http://example.org/x#1")


@st.composite
def reports(draw: st.DrawFn) -> ReportMentions:
    text, count = draw(TEXT), draw(st.integers(0, 4))
    mentions = []
    for _ in range(count):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        targets = st.tuples(st.sampled_from(MentionRelation), st.integers(0, count - 1))
        concept = draw(st.none() | st.sampled_from(CONCEPTS))
        others = [other for other in draw(st.lists(st.sampled_from(CONCEPTS), unique=True, max_size=3))
                  if other != concept]  # fmt: skip
        candidates = others if concept is None or not others else [concept, *others]
        mentions.append(
            Mention(
                text[start:end], start, end, draw(st.sampled_from(MentionKind)), draw(st.sampled_from(Certainty)),
                temporality=draw(st.sampled_from(Temporality)),
                experiencer=draw(st.sampled_from(Experiencer)),
                section=draw(TEXT),
                concept=concept,
                link_score=draw(st.none() | st.floats(0, 1)),
                relations=tuple(sorted(draw(st.sets(targets, max_size=3)))),
                change=draw(st.none() | st.sampled_from(Change)),
                is_measurement=draw(st.booleans()),
                candidates=tuple((candidate, draw(st.floats(0, 1))) for candidate in candidates),
            )
        )  # fmt: skip
    return ReportMentions(draw(TEXT), text, tuple(mentions))


def stated(report: ReportMentions) -> ReportMentions:
    """What the graph says of a report: a candidate is a thought of the linker, and no statement."""
    return replace(report, mentions=tuple(replace(mention, candidates=()) for mention in report.mentions))


CORPORA = st.lists(reports(), max_size=4, unique_by=lambda report: report.report_id)


def write(folder: Path, found: list[ReportMentions]) -> Path:
    path = folder / "mentions.jsonl"
    path.write_text("".join(json.dumps(report.to_json()) + "\n" for report in found), encoding="utf-8")
    return path


@given(CORPORA.filter(len))
def test_what_link_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, found: list[ReportMentions]
) -> None:
    log = IngestLog()
    tables = read_mentions(write(tmp_path_factory.mktemp("mentions"), found), log)
    assert list(tables.reports) == found
    assert log.rows_read == {"reports": len(found), "mentions": sum(len(report.mentions) for report in found)}
    assert (tables.name, tables.graphs[0].name, tables.graphs[0].licence_level) == ("mentions", "mentions@1", 9)


@given(CORPORA)
@example(
    [
        ReportMentions("a", "t", (Mention("t", 0, 1, MentionKind.ANATOMY, Certainty.PRESENT),)),
        *(ReportMentions(report_id, "") for report_id in ("a#mention0", "a/mention/0", "a!", "")),
    ]
)
def test_reports_come_back_from_their_rdf(found: list[ReportMentions]) -> None:
    tables = SourceTables("corpus", "1", (NamedGraph("corpus@1", "t"),), reports=iter(found))
    lines = list(mention_lines(tables))
    assert len(lines) == len(set(lines))
    plainly = [stated(report) for report in found]
    assert lines == list(mention_lines(replace(tables, reports=plainly)))  # candidates leave no trace
    written = ox.parse("\n".join(lines).encode(), format=ox.RdfFormat.N_QUADS)
    assert list(reports_from_quads(map(plain, written))) == plainly
    store = ox.Store()
    store.bulk_load("\n".join(lines).encode(), format=ox.RdfFormat.N_QUADS)
    stored = reports_from_quads(sorted(map(plain, store)))
    assert {report.report_id: report for report in stored} == {report.report_id: report for report in plainly}


def plain(quad: ox.Quad) -> tuple[str, str, str]:
    return quad.subject.value, quad.predicate.value, quad.object.value


def test_a_file_from_before_there_were_candidates_reads(tmp_path: Path) -> None:
    line = {"report_id": "a", "text": "edema", "mentions": [GOOD | {"concept": "HP:1", "link_score": 0.5}]}
    (tmp_path / "m.jsonl").write_text(json.dumps(line), encoding="utf-8")
    ((mention,),) = (report.mentions for report in read_mentions(tmp_path / "m.jsonl", IngestLog()).reports)
    assert (mention.concept, mention.link_score, mention.candidates) == ("HP:1", 0.5, ())


def test_a_report_without_mentions_keeps_its_node_and_a_mention_its_concept() -> None:
    mention = Mention("", 0, 0, MentionKind.OBSERVATION, Certainty.ABSENT, concept="HP:0002202", link_score=0.25)
    found = [ReportMentions("none", "XXXX"), ReportMentions("one", "", (mention,))]
    tables = SourceTables("corpus", "1", (NamedGraph("corpus@1", "t"),), reports=found)
    store = ox.Store()
    store.bulk_load("\n".join(mention_lines(tables)).encode(), format=ox.RdfFormat.N_QUADS)
    rows = store.query(
        """SELECT ?id ?concept ?score { ?r a kgkit:Report ; dcterms:identifier ?id .
           OPTIONAL { ?m kgkit:mentionedIn ?r ; kgkit:denotes ?concept ; kgkit:linkScore ?score } } ORDER BY ?id""",
        use_default_graph_as_union=True,
        prefixes=dict(ns.PREFIXES),
    )
    assert isinstance(rows, ox.QuerySolutions)
    shown = [[None if value is None else value.value for value in row] for row in rows]
    assert shown[0] == ["none", None, None]
    assert shown[1][:2] == ["one", "http://purl.obolibrary.org/obo/HP_0002202"]
    assert float(str(shown[1][2])) == 0.25


def test_linked_reports_join(tmp_path: Path) -> None:
    linker = Linker(finding_phrases(load_findings()))
    texts = [Report("1", "No effusion. Edema."), Report("2", "XXXX"), Report("3", "Possible pneumonia.\r\n")]
    link_reports(linker, texts, tmp_path / "mentions.jsonl")
    tables = read_mentions(tmp_path / "mentions.jsonl", IngestLog(strict=True), "openi", "2013", 0)
    assert [report.report_id for report in tables.reports] == ["1", "2", "3"]
    assert tables.graphs == (NamedGraph("openi@2013", "Mentions in the reports of openi", 0),)


GOOD: dict[str, Any] = {"text": "edema", "start": 0, "end": 5, "kind": "observation", "certainty": "present"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "thing"}, "'thing' is not a valid MentionKind"),
        ({"certainty": None}, "None is not a valid Certainty"),
        ({"start": "0"}, "'0' is not a whole number"),
        ({"end": True}, "True is not a whole number"),
        ({"end": 4}, "mention 0: the text from 0 to 4 is not 'edema'"),
        ({"end": 10**30}, "mention 0: the text from 0 to"),
        ({"start": -5}, "mention 0: the text from -5 to 5"),
        ({"text": None}, "None is not a string"),
        ({"concept": 7}, "7 is not a string"),
        ({"concept": "edema"}, "mention 0: 'edema' is not an id of a known prefix"),
        ({"concept": "http://a b"}, "mention 0: 'http://a b' is no IRI"),
        ({"concept": "umls:\ud800"}, "mention 0: its section or concept holds half a character"),
        ({"link_score": 1.5}, "mention 0: link score 1.5, expected 0 to 1"),
        ({"link_score": float("nan")}, "mention 0: link score nan"),
        ({"link_score": 10**400}, "int too large to convert to float"),
        ({"link_score": "much"}, "could not convert string to float"),
        ({"relations": [["modify", 1]]}, "mention 0: a relation leads to no mention"),
        ({"relations": [["likes", 0]]}, "'likes' is not a valid MentionRelation"),
        ({"relations": [["modify"]]}, "not enough values to unpack"),
        ({"relations": 3}, "'int' object is not iterable"),
        ({"candidates": [["HP:1", 1.5]]}, "mention 0: candidate HP:1 has score 1.5, expected 0 to 1"),
        ({"candidates": [["HP:1", float("nan")]]}, "mention 0: candidate HP:1 has score nan"),
        ({"candidates": [["edema", 1]]}, "mention 0: 'edema' is not an id of a known prefix"),
        ({"candidates": [["HP:1", 1], ["HP:1", 0.5]]}, "mention 0: candidate HP:1 stands there twice"),
        ({"candidates": [["HP:1", 1]], "concept": "HP:2"}, "its concept is HP:2, but the first candidate is HP:1"),
        ({"candidates": [["HP:1"]]}, "not enough values to unpack"),
        ({"candidates": None}, "'NoneType' object is not iterable"),
        ({"change": "sideways"}, "'sideways' is not a valid Change"),
    ],
)
def test_a_line_that_is_no_report_is_counted(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    lines = [
        {"report_id": "a", "text": "edema", "mentions": [GOOD | wrong]},
        {"report_id": "b", "text": "", "mentions": []},
    ]
    path = tmp_path / "mentions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    log = IngestLog()
    assert list(read_mentions(path, log).reports) == [ReportMentions("b", "")]
    assert log.skipped == {"reports: not a report with mentions": 1}
    assert message in log.first_defect["reports: not a report with mentions"].replace("\\'", "'")
    with pytest.raises(InputError, match=r"mentions\.jsonl, line 1: reports: not a report with mentions: "):
        list(read_mentions(path, IngestLog(strict=True)).reports)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; expected mentions.jsonl"),
        (b'{"report_id": "1", "text": "", "mentions": []}\n{"rep', "line 2: not readable as JSON ("),
        (b"[" * 100_000, "line 1: not readable as JSON (nested too deeply)"),
        (b"3\nnull\n", "no report can be read; line 1: not a report with mentions ('int'"),
        (b'{"report_id": "1", "text": "\\ud800", "mentions": []}', "no report can be read; line 1: holds half"),
        (b'{"report_id": "1", "text": "\xff"}', "line 1: byte 0xff at column 29, expected UTF-8"),
        (b'{"report_id": "1", "text": "", "mentions": []}\n{"report_id": "1", "text": "a", "mentions": []}',
         "line 2: two different reports share the id '1'"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(InputError) as error:
        list(read_mentions(tmp_path / "m.jsonl", IngestLog()).reports)
    assert str(error.value).replace("jsonl, line", "jsonl: line").startswith(f"{tmp_path / 'm.jsonl'}: {message}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such file; expected mentions\.jsonl"):
        read_mentions(tmp_path / "none", IngestLog())


@given(reports(), st.data())
@settings(max_examples=150)
def test_no_damage_gets_past(
    tmp_path_factory: pytest.TempPathFactory, report: ReportMentions, data: st.DataObject
) -> None:
    """A value of another kind at any level: an error or a count, and what is read can be written as RDF."""
    content = json.loads(json.dumps(report.to_json()))
    damage(content, data)
    path = tmp_path_factory.mktemp("mentions") / "m.jsonl"
    path.write_text(json.dumps(content), encoding="utf-8")
    log = IngestLog()
    try:
        found = list(read_mentions(path, log).reports)
    except InputError:
        return
    assert log.rows_read["reports"] == len(found) == 1
    lines = "\n".join(mention_lines(SourceTables("c", "1", (NamedGraph("c@1", "t"),), reports=found)))
    assert list(ox.parse(lines.encode(), format=ox.RdfFormat.N_QUADS))
