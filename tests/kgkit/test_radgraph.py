"""RadGraph annotations: spans, labels of every version, relations, layouts of files, damage."""

from __future__ import annotations

import gzip
import json
import time
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from damage import damage
from graphs import RADGRAPH
from hypothesis import given, settings
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.sources import json_records
from kgkit.sources.base import IngestLog
from kgkit.sources.radgraph import LABELS, read_radgraph
from kgkit.types import Certainty, Change, Mention, MentionKind, MentionRelation, ReportMentions

NAMES = [relation.value for relation in MentionRelation]
TOKENS = st.text(st.characters(exclude_characters=" ", exclude_categories=["Cs"]), max_size=4)


def entity(first: int, last: int, label: str = "OBS-DP", relations: Any = ()) -> dict[str, Any]:
    return {"tokens": "", "label": label, "start_ix": first, "end_ix": last, "relations": list(relations)}


def read(
    content: Any, folder: Path, name: str = "reports.json", *, strict: bool = False
) -> tuple[list[ReportMentions], IngestLog]:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    log = IngestLog(strict=strict)
    return list(read_radgraph(path, log).reports), log


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record as RadGraph writes it, schema violations and repeated mentions included."""
    tokens = draw(st.lists(TOKENS, min_size=1, max_size=8))
    ids = [str(number) for number in range(1, draw(st.integers(0, 5)) + 1)]
    entities = {}
    for key in draw(st.permutations(ids)):
        first = draw(st.integers(0, len(tokens) - 1))
        last = draw(st.integers(first, len(tokens) - 1))
        relations = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ids)), max_size=3, unique=True))
        label = draw(st.sampled_from(sorted(LABELS)))
        entities[key] = {
            "tokens": " ".join(tokens[first : last + 1]),
            "label": label,
            "start_ix": first,
            "end_ix": last,
        }
        entities[key]["relations"] = [list(pair) for pair in relations]
    return {"text": " ".join(tokens), "entities": entities, "data_source": None, "data_split": "inference"}


def plainly_read(report_id: str, record: dict[str, Any]) -> ReportMentions:
    """The slow and obvious way."""
    tokens, ids = record["text"].split(" "), list(record["entities"])
    mentions = []
    for each in record["entities"].values():
        start = len(" ".join([*tokens[: each["start_ix"]], ""]))
        text = " ".join(tokens[each["start_ix"] : each["end_ix"] + 1])
        label = LABELS[each["label"]]
        relations = tuple((MentionRelation(name), ids.index(target)) for name, target in each["relations"])
        mentions.append(Mention(text, start, start + len(text), label.kind, label.certainty, relations=relations,
                                change=label.change, is_measurement=label.is_measurement))  # fmt: skip
    return ReportMentions(report_id, record["text"], tuple(mentions))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), records(), max_size=3))
def test_reports_are_what_a_plain_reading_gives(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    reports, log = read(content, tmp_path_factory.mktemp("radgraph"))
    assert reports == [plainly_read(report_id, record) for report_id, record in content.items()]
    for report in reports:
        assert all(report.text[mention.start : mention.end] == mention.text for mention in report.mentions)
    assert log.rows_read["entities"] == sum(len(report.mentions) for report in reports)
    assert not log.skipped


@pytest.mark.parametrize("name", ["radgraph_v1_schema.json", "radgraph_xl_schema.json"])
def test_a_span_of_the_bundled_files_is_the_words_of_its_entity(name: str) -> None:
    log = IngestLog()
    reports = list(read_radgraph(RADGRAPH / name, log).reports)
    stated = json.loads((RADGRAPH / name).read_text(encoding="utf-8"))
    assert reports == [plainly_read(report_id, record) for report_id, record in stated.items()]
    for report, record in zip(reports, stated.values(), strict=True):
        assert [mention.text for mention in report.mentions] == [e["tokens"] for e in record["entities"].values()]
    assert log.rows_read["relations"] == sum(len(m.relations) for report in reports for m in report.mentions) > 0
    assert not log.skipped


def test_the_bundled_folder_holds_what_its_readme_says() -> None:
    log = IngestLog()
    tables = read_radgraph(RADGRAPH, log)
    assert (tables.name, tables.release, [graph.name for graph in tables.graphs]) == ("radgraph", "1", ["radgraph@1"])
    assert log.rows_read == {}
    assert len(list(tables.reports)) == 8
    assert log.rows_read.items() >= {"reports": 8, "entities": 47 + 17, "relations": 30 + 8}.items()


# ---------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ANAT-DP", "Anatomy::definitely present"),
        ("OBS-DP", "Observation::definitely present"),
        ("OBS-U", "Observation::uncertain"),
        ("OBS-DA", "Observation::definitely absent"),
        ("CHAN-WOR", "CHAN-CON-WOR"),
        ("CHAN-DISP", "CHAN-DEV-PLACE"),
    ],
)
def test_the_labels_of_two_versions_say_the_same(tmp_path: Path, old: str, new: str) -> None:
    content = {"r": {"text": "one two", "entities": {"1": entity(1, 1, old), "2": entity(1, 1, new)}}}
    ((report,), _) = read(content, tmp_path)
    assert report.mentions[0] == report.mentions[1]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Anatomy::measurement::definitely present", ("anatomy", "present", None, True)),
        ("Observation::measurement::uncertain", ("observation", "uncertain", None, True)),
        ("Anatomy::uncertain", ("anatomy", "uncertain", None, False)),
        ("CHAN-NC", ("observation", "present", "unchanged", False)),
        ("CHAN-CON-AP", ("observation", "present", "condition_appeared", False)),
        ("CHAN-CON-RES", ("observation", "present", "condition_resolved", False)),
        ("CHAN-DEV-DISA", ("observation", "present", "device_removed", False)),
        ("CHAN-AP", ("observation", "present", "appeared", False)),
        ("CHAN-DISA", ("observation", "present", "disappeared", False)),
    ],
)
def test_a_label_loses_nothing(tmp_path: Path, label: str, expected: tuple[str, str, str | None, bool]) -> None:
    ((report,), _) = read({"r": {"text": "a", "entities": {"1": entity(0, 0, label)}}}, tmp_path)
    (mention,) = report.mentions
    assert (mention.kind, mention.certainty, mention.change, mention.is_measurement) == expected


def test_every_change_has_a_label() -> None:
    assert {label.change for label in LABELS.values()} == {None, *Change}
    assert len(LABELS) == 4 + 13 + 12


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


def test_entities_whose_tokens_are_other_words_are_counted_and_kept(tmp_path: Path) -> None:
    _, log = read({"r": {"text": "a b", "entities": {"1": entity(1, 1) | {"tokens": "a"}}}}, tmp_path)
    assert log.rows_read["entities whose tokens are not those of the text (kept)"] == 1


# ---------------------------------------------------------------------------------------------------- layouts


def test_two_labelers_make_two_readings_of_one_text(tmp_path: Path) -> None:
    record = {"text": "a b", "labeler_1": {"entities": {"1": entity(0, 0)}}, "labeler_2": {"entities": {}}}
    reports, log = read({"r": record}, tmp_path)
    assert [(report.report_id, len(report.mentions)) for report in reports] == [("r#labeler_1", 1), ("r#labeler_2", 0)]
    assert log.rows_read["reports"] == 1


def test_a_list_of_reports_is_numbered_by_position(tmp_path: Path) -> None:
    items = [
        {"0": {"text": "a", "entities": {}}},
        {"0": {"text": "b", "entities": {}}},
        {"p1": {"text": "c", "entities": {}}},
    ]
    reports, _ = read(items, tmp_path)
    assert [(report.report_id, report.text) for report in reports] == [("0", "a"), ("1", "b"), ("p1", "c")]


def as_document(report_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record as a DyGIE++ document of two sentences."""
    tokens, spans = record["text"].split(" "), {k: [e["start_ix"], e["end_ix"]] for k, e in record["entities"].items()}
    ner = [[*spans[key], each["label"]] for key, each in record["entities"].items()]
    relations = [
        [*spans[key], *spans[to], name] for key, each in record["entities"].items() for name, to in each["relations"]
    ]
    return {
        "doc_key": report_id,
        "sentences": [tokens[:2], tokens[2:]],
        "ner": [ner[:1], ner[1:]],
        "relations": [relations],
    }


def test_every_layout_says_the_same(tmp_path: Path) -> None:
    content = json.loads((RADGRAPH / "radgraph_xl_schema.json").read_text(encoding="utf-8"))
    lines = "\n".join(json.dumps({key: record}) for key, record in content.items())
    named = "\n\n".join(json.dumps({"report_id": key} | record) for key, record in content.items()) + "\n"
    documents = "\n".join(json.dumps(as_document(key, record)) for key, record in content.items())
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("radgraph-xl/a.jsonl", named)
        archive.writestr("../README.txt", "not read")
    expected, _ = read(content, tmp_path)
    assert expected == read(json.dumps(content, indent=1).encode("utf-8-sig"), tmp_path)[0]
    assert expected == read(gzip.compress(json.dumps(content).encode()), tmp_path, "a.json.gz")[0]
    assert expected == read(lines, tmp_path, "b.jsonl")[0]
    assert expected == read(gzip.compress(lines.encode()), tmp_path, "b.jsonl.gz")[0]
    assert expected == read(named, tmp_path, "c.jsonl")[0]
    assert expected == read(documents, tmp_path, "d.jsonl")[0]
    assert expected == list(read_radgraph(tmp_path / "a.zip", IngestLog()).reports)


def test_documents_of_one_key_in_two_data_sets_are_two_reports(tmp_path: Path) -> None:
    document = {"doc_key": 21, "sentences": [["a"]], "ner": [[]], "relations": [[[0, 0, 0, 0, "modify"]]]}
    lines = [json.dumps({"dataset": name} | document) for name in ("mimic", "stanford")]
    reports, log = read("\n".join(lines), tmp_path, "a.jsonl")
    assert [report.report_id for report in reports] == ["mimic/21", "stanford/21"]
    assert log.skipped == {"relations: source entity does not exist": 2}


def test_reports_are_read_one_at_a_time(tmp_path: Path) -> None:
    """What is broken far behind is only met there."""
    good = {f"r{n}": {"text": "a " * 400 + "b", "entities": {}} for n in range(1000)}
    (tmp_path / "a.json").write_text(json.dumps(good)[:-40], encoding="utf-8")
    reports = iter(read_radgraph(tmp_path / "a.json", IngestLog()).reports)
    assert [next(reports).report_id for _ in range(5)] == ["r0", "r1", "r2", "r3", "r4"]
    where = r"in the 64 KiB up to byte 8\d\d,\d{3}, after 999 whole records"
    with pytest.raises(InputError, match=rf"a\.json: not readable as JSON \(parse error: premature EOF; {where}\)"):
        list(reports)


def test_the_same_report_twice_is_counted_and_two_of_one_id_are_refused(tmp_path: Path) -> None:
    first = {"r": {"text": "a", "entities": {}}}
    (tmp_path / "a.json").write_text(json.dumps(first), encoding="utf-8")
    (tmp_path / "b.json").write_text('{"r": {"text": "a", "entities": {}}, "r": {"text": "a", "entities": {}}}')
    log = IngestLog()
    assert len(list(read_radgraph(tmp_path, log).reports)) == 1
    assert log.skipped == {"reports: same report twice": 2}
    (tmp_path / "b.json").write_text(json.dumps({"r": {"text": "b", "entities": {}}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.json: two different reports share the id 'r'"):
        list(read_radgraph(tmp_path, IngestLog()).reports)


def test_a_corpus_is_called_after_its_file_in_letters_that_an_iri_may_hold(tmp_path: Path) -> None:
    names = {"chest x-rays (2).json": "chest_x-rays__2_", ".hidden.json": "hidden", "é.json": "reports",
             "mimic-cxr-2.0.0.jsonl.gz": "mimic-cxr-2.0.0"}  # fmt: skip
    for file, name in names.items():
        (tmp_path / file).write_text("{}", encoding="utf-8")
        assert read_radgraph(tmp_path / file, IngestLog()).name == name


def test_a_corpus_is_not_to_be_passed_on_unless_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    assert read_radgraph(tmp_path / "a.json", IngestLog()).graphs[0].licence_level == 9
    assert read_radgraph(tmp_path / "a.json", IngestLog(), licence_level=0).graphs[0].licence_level == 0
    with pytest.raises(InputError, match="licence level 10: expected 0 to 9"):
        read_radgraph(tmp_path / "a.json", IngestLog(), licence_level=10)


# ---------------------------------------------------------------------------------------------------- damage


def test_relations_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    relations = [["modify", "9"], ["likes", "2"], ["modify", "2"], ["located_at", "2"], ["modify", "3"], ["modify"], 7]
    entities = {"1": entity(0, 0, relations=relations), "2": entity(1, 1), "3": entity(5, 5)}
    ((report,), log) = read({"r": {"text": "a b", "entities": entities}}, tmp_path)
    assert report.mentions[0].relations == (("modify", 1), ("located_at", 1))
    assert log.skipped == {
        "relations: target entity does not exist": 1,
        "relations: unknown relation": 1,
        "relations: target entity could not be read": 1,
        "relations: not a pair of name and target": 2,
        "entities: start_ix..end_ix are no tokens of the text": 1,
    }
    assert log.rows_read["relations"] == 7
    assert log.rows_read["relations against the schema (kept)"] == 1  # located_at leads to an observation
    assert log.first_defect["relations: unknown relation"].endswith(": 'report r, entity 1: likes'")


@pytest.mark.parametrize(
    ("edges", "count"),
    [("12", 0), ("12 23 13", 0), ("11", 1), ("12 21", 2), ("12 23 31", 3), ("12 23 32 31", 4), ("41 12 21 25", 2)],
)
def test_modify_relations_in_cycles_are_counted_and_kept(tmp_path: Path, edges: str, count: int) -> None:
    entities = {str(n): entity(n, n) for n in range(1, 6)}
    for source, target in edges.split():
        entities[source]["relations"].append(["modify", target])
    ((report,), log) = read({"r": {"text": "a b c d e f", "entities": entities}}, tmp_path)
    assert log.rows_read["modify relations in a cycle (kept)"] == count
    assert sum(len(mention.relations) for mention in report.mentions) == len(edges.split())


@pytest.mark.parametrize(
    ("wrong", "reason", "value"),
    [
        (entity(1, 2), "start_ix..end_ix are no tokens of the text", "1..2 of 2 tokens"),
        (entity(-1, 0), "start_ix..end_ix are no tokens of the text", "-1..0 of 2 tokens"),
        (entity(1, 0), "start_ix..end_ix are no tokens of the text", "1..0 of 2 tokens"),
        (entity(0, 0) | {"start_ix": "0"}, "start_ix..end_ix are no tokens of the text", "0..0 of 2 tokens"),
        (entity(0, 0) | {"end_ix": True}, "start_ix..end_ix are no tokens of the text", "0..True of 2 tokens"),
        ({"label": "OBS-DP", "start_ix": 0}, "no end_ix", "{'label': 'OBS-DP', 'start_ix': 0}"),
        (entity(0, 0) | {"start_ix": None}, "no start_ix", None),
        (entity(0, 0) | {"label": None}, "no label", None),
        (entity(0, 0, "OBS-XX"), "unknown label", "OBS-XX"),
        (entity(0, 0, "Thing::uncertain"), "unknown label", "Thing::uncertain"),
        (entity(0, 0) | {"label": ["OBS-DP"]}, "unknown label", "['OBS-DP']"),
        ("OBS-DP", "not an object", "OBS-DP"),
    ],
)
def test_a_damaged_entity_is_counted_and_the_others_are_read(
    tmp_path: Path, wrong: Any, reason: str, value: str | None
) -> None:
    content = {"p1/s2": {"text": "a b", "entities": {"7": wrong, "8": entity(0, 1)}}}
    ((report,), log) = read(content, tmp_path)
    assert [mention.text for mention in report.mentions] == ["a b"]
    assert log.skipped == {f"entities: {reason}": 1}
    assert log.rows_read["entities"] == 2
    with pytest.raises(InputError) as error:
        read(content, tmp_path, strict=True)
    start = f"{tmp_path / 'reports.json'}: entities: {reason}: "
    assert str(error.value).startswith(start)
    assert "report p1/s2, entity 7: " in str(error.value)
    assert value is None or value in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"entities": {}}, "has no text; expected RadGraph's text and entities"),
        ("text", "has no text; expected RadGraph's text and entities"),
        ({"text": "a"}, "has neither entities nor labelers"),
        ({"text": "a", "labeler_1": 3}, "has entities that are not an object of id and entity"),
        ({"text": "a", "entities": []}, "has entities that are not an object of id and entity"),
    ],
)
def test_a_damaged_report_is_counted_and_a_file_of_none_is_refused(tmp_path: Path, wrong: Any, reason: str) -> None:
    reports, log = read({"r": wrong, "s": {"text": "a", "entities": {}}}, tmp_path)
    assert [report.report_id for report in reports] == ["s"]
    assert log.skipped == {f"reports: {reason}": 1}
    with pytest.raises(InputError) as error:
        read({"r": wrong}, tmp_path)
    assert str(error.value) == f"{tmp_path / 'reports.json'}: no report can be read; report 'r' {reason}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not readable as JSON (parse error: premature EOF; in the 64 KiB up to byte 1, after 0 whole"),
        ("a.json", '{"r": {"text": nan}}', "not readable as JSON (lexical error: invalid string in json text.;"),
        ("a.json", '{"r": {}} {"s": {}}', "not readable as JSON (parse error: trailing garbage;"),
        ("a.json", b'{"r": "\xff"}', "not readable as JSON (lexical error: invalid bytes in UTF8 string.;"),
        ("a.json", '{"r": {"text": 1e999}}', "not readable as JSON (parse error: numeric (floating point) overflow;"),
        ("a.json", '{"r": {"text": "\\ud800"}}', "half a character (a lone \\ud800..\\udfff) in the 64 KiB up to"),
        ("a.json", '{"r": {"text": "\\udc00"}}', "not readable as JSON (half a character (a lone \\ud800..\\udfff);"),
        ("a.json", "7", "expected an object or a list of reports at the top"),
        ("a.json", "", "the file is empty; expected RadGraph annotations (.json or .jsonl, gzipped or not, or a .zip"),
        ("a.json", '{"r":' + "[" * 200_000, "more than 256 open brackets up to byte 65,536"),
        ("a.jsonl", '{"a": {}}\n{', "line 2: not readable as JSON (Expecting property name"),
        ("a.jsonl", b'\n{"a": "\xff"}', "line 2: byte 0xff at column 8, expected UTF-8"),
        ("a.jsonl", "[" * 200_000, "line 1: not readable as JSON (nested too deeply)"),
        ("a.jsonl", "9" * 5000, "line 1: not readable as JSON (Exceeds the limit (4300 digits)"),
        ("a.jsonl", '{"r": {"text": "\\ud800", "entities": {}}}', "no report can be read; report 'r' holds half a"),
        ("a.jsonl", '{"sentences": ["ab"], "ner": []}', "no report can be read; report '1' is no DyGIE++ document of"),
        ("a.json.gz", gzip.compress(b'{"r": {"text": "a", "entities": {}}}', mtime=0)[:-9], "damaged gzip stream ("),
        ("a.zip", "no zip", "not readable as a zip file (File is not a zip file)"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(content, tmp_path, name)
    shown = str(error.value).replace(", line", ": line")
    assert shown.startswith(f"{tmp_path / name}: {message}")


def test_a_missing_path_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such file or folder; expected RadGraph annotations"):
        read_radgraph(tmp_path / "none", IngestLog())
    with pytest.raises(InputError, match=r"no such file in this folder; expected RadGraph annotations"):
        read_radgraph(tmp_path, IngestLog())
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(InputError, match=r"a\.zip: no \.json or \.jsonl member in this archive"):
        list(read_radgraph(tmp_path / "a.zip", IngestLog()).reports)


@given(st.lists(st.sampled_from(["\\ud83d\\ude00", "\\ud83d", "\\\\ud83d", "\\u0041", "x", "\\n", "\\\\"]), max_size=9))
def test_half_characters_are_found_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    folder, text = tmp_path_factory.mktemp("radgraph"), "".join(pieces)
    is_whole = not any(0xD800 <= ord(letter) < 0xE000 for letter in json.loads(f'"{text}"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "_BLOCK", 7)
        expectation = nullcontext() if is_whole else pytest.raises(InputError, match="half a character")
        with expectation:
            ((report,), _) = read(f'{{"r": {{"text": "{text}", "entities": {{}}}}}}', folder)
            assert report.text == json.loads(f'"{text}"')


@given(records(), st.data())
@settings(max_examples=150)
def test_no_damage_gets_past(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any], data: st.DataObject
) -> None:
    """A value of another kind at any level, or a cut at any byte: an error or counts, and what is read is sound."""
    name = data.draw(st.sampled_from(["a.json", "a.jsonl", "d.jsonl"]))
    content: Any = as_document("r", record) if name == "d.jsonl" else {"r": record}
    damage(content, data)
    text = json.dumps(content)
    text = text[: data.draw(st.integers(0, len(text)) | st.just(len(text)))]
    try:
        reports, log = read(text, tmp_path_factory.mktemp("radgraph"), name)
    except InputError:
        return
    for report in reports:
        for mention in report.mentions:
            assert report.text[mention.start : mention.end] == mention.text
            assert all(0 <= target < len(report.mentions) for _, target in mention.relations)
    assert log.rows_read["entities"] >= sum(len(report.mentions) for report in reports)


def test_deep_nesting_and_long_lines_do_not_take_long(tmp_path: Path) -> None:
    started = time.monotonic()
    deep = '{"r":' + '{"a":' * 100_000
    with pytest.raises(InputError, match="more than 256 open brackets"):
        read(deep, tmp_path)
    ((report,), _) = read(json.dumps({"r": {"text": "a " * 8_000_000, "entities": {}}}), tmp_path, "a.jsonl")
    assert len(report.text) == 16_000_000
    assert time.monotonic() - started < 10
