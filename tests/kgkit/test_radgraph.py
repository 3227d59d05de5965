"""RadGraph annotations: spans, labels of both versions, relations, damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graphs import RADGRAPH
from hypothesis import given
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog
from kgkit.sources.radgraph import read_radgraph
from kgkit.types import Certainty, Mention, MentionKind, MentionRelation, ReportMentions


def entity(first: int, last: int, label: str = "OBS-DP", relations: Any = ()) -> dict[str, Any]:
    return {"tokens": "", "label": label, "start_ix": first, "end_ix": last, "relations": list(relations)}


def read(content: Any, folder: Path) -> tuple[tuple[ReportMentions, ...], IngestLog]:
    path = folder / "reports.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    log = IngestLog()
    return read_radgraph(path, log).reports, log


@pytest.mark.parametrize("name", ["radgraph_v1_schema.json", "radgraph_xl_schema.json"])
def test_a_span_of_the_bundled_files_is_the_words_of_its_entity(name: str) -> None:
    log = IngestLog()
    reports = read_radgraph(RADGRAPH / name, log).reports
    records = json.loads((RADGRAPH / name).read_text(encoding="utf-8"))
    stated = list(records.values()) if isinstance(records, dict) else [next(iter(item.values())) for item in records]
    assert len(reports) == len(stated)
    relations = 0
    for report, record in zip(reports, stated, strict=True):
        assert report.text == record["text"]
        ids = list(record["entities"])
        for mention, each in zip(report.mentions, record["entities"].values(), strict=True):
            assert report.text[mention.start : mention.end] == mention.text
            assert mention.text == " ".join(record["text"].split(" ")[each["start_ix"] : each["end_ix"] + 1])
            assert mention.text == each["tokens"]
            assert [(name, ids[target]) for name, target in mention.relations] == [
                tuple(pair) for pair in each["relations"]
            ]
            relations += len(mention.relations)
    assert log.rows_read["relations"] == relations > 0
    assert log.rows_read["entities"] == sum(len(report.mentions) for report in reports)
    assert not log.skipped


def test_the_bundled_folder_holds_what_its_readme_says() -> None:
    log = IngestLog()
    tables = read_radgraph(RADGRAPH, log)
    assert (tables.name, tables.release, [graph.name for graph in tables.graphs]) == ("radgraph", "1", ["radgraph@1"])
    assert log.rows_read.items() >= {"reports": 8, "entities": 47 + 17, "relations": 30 + 8}.items()


@given(
    st.lists(st.text(st.characters(exclude_characters=" ", exclude_categories=["Cs"]), max_size=5), min_size=1),
    st.data(),
)
def test_a_span_is_the_joined_tokens_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    content = {"r": {"text": " ".join(tokens), "entities": {"1": entity(first, last)}}}
    ((report,), _) = read(content, tmp_path_factory.mktemp("radgraph"))
    (mention,) = report.mentions
    assert mention.text == report.text[mention.start : mention.end] == " ".join(tokens[first : last + 1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ANAT-DP", "Anatomy::definitely present"),
        ("OBS-DP", "Observation::definitely present"),
        ("OBS-U", "Observation::uncertain"),
        ("OBS-DA", "Observation::definitely absent"),
        ("OBS-DP", "Observation::measurement::definitely present"),
    ],
)
def test_the_labels_of_both_versions_say_the_same(tmp_path: Path, old: str, new: str) -> None:
    content = {"r": {"text": "one two", "entities": {"1": entity(1, 1, old), "2": entity(1, 1, new)}}}
    ((report,), _) = read(content, tmp_path)
    assert report.mentions[0] == report.mentions[1]


def test_the_example_of_the_format(tmp_path: Path) -> None:
    content = {"p10/p1/s1.txt": {"text": "No pleural effusion .", "entities": {
        "3": entity(1, 1, "ANAT-DP"), "4": entity(2, 2, "OBS-DA", [["located_at", "3"]])}}}  # fmt: skip
    ((report,), _) = read(content, tmp_path)
    assert report == ReportMentions("p10/p1/s1.txt", "No pleural effusion .", (
        Mention("pleural", 3, 10, MentionKind.ANATOMY, Certainty.PRESENT),
        Mention("effusion", 11, 19, MentionKind.OBSERVATION, Certainty.ABSENT,
                relations=((MentionRelation.LOCATED_AT, 0),)),
    ))  # fmt: skip
    assert ReportMentions.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_repeated_mentions_stay_apart(tmp_path: Path) -> None:
    entities = {"1": entity(0, 0), "2": entity(2, 2), "3": entity(2, 2, "OBS-DA")}
    ((report,), _) = read({"r": {"text": "opacity and opacity", "entities": entities}}, tmp_path)
    assert [(mention.start, mention.end, mention.certainty) for mention in report.mentions] == [
        (0, 7, "present"),
        (12, 19, "present"),
        (12, 19, "absent"),
    ]


def test_two_labelers_make_two_readings_of_one_text(tmp_path: Path) -> None:
    record = {"text": "a b", "labeler_1": {"entities": {"1": entity(0, 0)}}, "labeler_2": {"entities": {}}}
    reports, log = read({"r": record}, tmp_path)
    assert [(report.report_id, len(report.mentions)) for report in reports] == [("r#labeler_1", 1), ("r#labeler_2", 0)]
    assert log.rows_read["reports"] == 1


def test_a_list_of_reports_is_numbered(tmp_path: Path) -> None:
    items = [{"0": {"text": "a", "entities": {}}}, {"0": {"text": "b", "entities": {}}}]
    reports, _ = read(items, tmp_path)
    assert [(report.report_id, report.text) for report in reports] == [("0", "a"), ("1", "b")]


def test_relations_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    relations = [["modify", "9"], ["likes", "2"], ["modify", "2"], ["located_at", "2"]]
    entities = {"1": entity(0, 0, relations=relations), "2": entity(1, 1)}
    ((report,), log) = read({"r": {"text": "a b", "entities": entities}}, tmp_path)
    assert report.mentions[0].relations == (("modify", 1), ("located_at", 1))
    assert log.skipped == {"relations: target entity does not exist": 1, "relations: unknown relation 'likes'": 1}
    assert log.rows_read["relations"] == 4
    assert log.rows_read["relations against the schema (kept)"] == 1  # located_at leads to anatomy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON ("),
        ("7", "expected an object or a list of reports at the top"),
        ([{"a": {}, "b": {}}], "item 0 is not an object with one report"),
        ({"r": {"entities": {}}}, "report 'r' has no text; expected RadGraph's text and entities"),
        ({"r": "text"}, "report 'r' has no text; expected RadGraph's text and entities"),
        ({"r": {"text": "a"}}, "report 'r' has neither entities nor labelers"),
        ({"r": {"text": "a", "labeler_1": 3}}, "report 'r#labeler_1': entities are not an object of id and entity"),
        ({"r": {"text": "a", "entities": []}}, "report 'r': entities are not an object of id and entity"),
        ({"r": {"text": "\ud800", "entities": {}}}, r"report 'r' holds half a character (a lone \ud800..\udfff)"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(content, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'reports.json'}: {message}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entity(1, 2), "tokens 1..2, but the text has 2 tokens"),
        (entity(-1, 0), "tokens -1..0, but the text has 2 tokens"),
        (entity(1, 0), "tokens 1..0, but the text has 2 tokens"),
        ({"label": "OBS-DP", "start_ix": 0}, "'end_ix' is missing"),
        (entity(0, 0, "OBS-XX"), "label 'OBS-XX'; expected one of ANAT-DP, OBS-DP, OBS-U, OBS-DA or"),
        (entity(0, 0, "Thing::uncertain"), "label 'Thing::uncertain'; expected one of"),
        (entity(0, 0, relations=[["modify"]]), "not enough values to unpack"),
        (entity(0, 0) | {"start_ix": None}, "int() argument must be"),
        (entity(0, 0) | {"label": None}, "label 'None'; expected one of"),
        ("OBS-DP", "string indices must be integers"),
    ],
)
def test_a_damaged_entity_is_named_with_its_report(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        read({"first": {"text": "a", "entities": {}}, "p1/s2": {"text": "a b", "entities": {"7": wrong}}}, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'reports.json'}: report 'p1/s2', entity '7': {message}")


def test_a_missing_path_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such file or folder; expected RadGraph JSON"):
        read_radgraph(tmp_path / "none", IngestLog())
    with pytest.raises(InputError, match=r"no \*\.json file in this folder; expected RadGraph JSON"):
        read_radgraph(tmp_path, IngestLog())


def test_the_same_report_twice_is_counted_and_two_of_one_id_are_refused(tmp_path: Path) -> None:
    first = {"r": {"text": "a", "entities": {}}}
    (tmp_path / "a.json").write_text(json.dumps(first), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(first), encoding="utf-8")
    log = IngestLog()
    assert len(read_radgraph(tmp_path, log).reports) == 1
    assert log.skipped == {"reports: same report twice": 1}
    (tmp_path / "b.json").write_text(json.dumps({"r": {"text": "b", "entities": {}}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.json: two different reports share the id 'r'"):
        read_radgraph(tmp_path, IngestLog())


def test_a_corpus_is_called_after_its_file_in_letters_that_an_iri_may_hold(tmp_path: Path) -> None:
    for file, name in {
        "chest x-rays (2).json": "chest_x-rays__2_",
        ".hidden.json": "hidden",
        "é.json": "radgraph",
    }.items():
        (tmp_path / file).write_text("{}", encoding="utf-8")
        assert read_radgraph(tmp_path / file, IngestLog()).name == name
