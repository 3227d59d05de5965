"""Report files in, mention files out: what is read, what is written, what is refused and how."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.errors import InputError
from kgkit.findings import load_findings
from kgkit.linking.linker import Linker, finding_phrases
from kgkit.linking.mention_files import link_reports, read_mentions
from kgkit.linking.reports import Report, read_reports
from kgkit.types import ReportMentions


@pytest.fixture(scope="module")
def linker() -> Linker:
    return Linker(finding_phrases(load_findings()))


def _fits_cp1252(character: str) -> bool:
    try:
        return bool(character.encode("cp1252"))
    except UnicodeEncodeError:
        return False


def _reads_as_utf8(raw: bytes) -> bool:
    try:
        return raw.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_same_reports_from_every_kind_of_file(tmp_path):
    texts = {"1": "FINDINGS: Clear, \u201cquoted\u201d.\nIMPRESSION: Normal.", "b/2": ""}
    jsonl = "".join(json.dumps({"report_id": key, "text": text}) + "\n" for key, text in texts.items())
    expected = [Report(key, text) for key, text in texts.items()]
    assert read_reports(_write(tmp_path, "r.jsonl", jsonl)) == expected
    for key, text in texts.items():
        _write(tmp_path, f"folder/{key}.txt", text)
    assert read_reports(tmp_path / "folder") == expected
    with (tmp_path / "r.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([["ID", "text"], *texts.items()])
    assert read_reports(tmp_path / "r.csv") == expected
    sections = 'uid,MeSH,impression,findings\n1,x,Normal.,"Clear, \u201cquoted\u201d."\nb/2,,,\n'
    assert read_reports(_write(tmp_path, "s.csv", sections)) == expected


def test_line_ends_of_a_report_survive(tmp_path):
    path = _write(tmp_path, "one.txt", "No effusion.\r\nEdema.\r\n")
    assert read_reports(path) == [Report("one", "No effusion.\r\nEdema.\r\n")]
    quoted = _write(tmp_path, "one.csv", 'id,text\n1,"No effusion.\r\nEdema."\n')
    assert read_reports(quoted) == [Report("1", "No effusion.\r\nEdema.")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", "", "no report in this file"),
        ("r.jsonl", "\n\n", "no report in this file"),
        ("r.jsonl", '{"report_id": 1, "text": "x"}\n{', "line 2: not JSON"),
        ("r.jsonl", "[1]", "line 1: expected an object with report_id and text"),
        ("r.jsonl", '{"report_id": 1}', "line 1: expected an object with report_id and text"),
        ("r.jsonl", '{"text": "x"}', "line 1: report_id is None"),
        (
            "r.jsonl",
            '{"report_id": 1, "text": ""}\n{"report_id": "1", "text": ""}',
            "line 2: .*'1' stands on line 1 already",
        ),
        ("r.jsonl", b'{"report_id": 1, "text": "x"}\n"\xe9"', "line 2: byte 0xe9 at column 2, expected UTF-8"),
        ("r.csv", "", "line 1: no id column .* columns found: none"),
        ("r.csv", "uid,findings\n", "no report in this file"),
        ("r.csv", "name,findings\n1,x\n", "no id column .*; columns found: name, findings"),
        ("r.csv", "uid,label\n1,x\n", "no text column .*; columns found: uid, label"),
        ("r.csv", "uid,text\n1,x\n1,y\n", "line 3: report id '1' stands on line 2 already"),
        ("r.csv", "uid,text\n1,x\n2\n", "line 3: expected 2 fields"),
        ("r.csv", "uid,text\n1,x,y\n", "line 2: expected 2 fields"),
        ("r.csv", "uid,text\n ,x\n", "line 2: column 'uid' is empty"),
        ("r.csv", 'uid,text\n1,"x\n', "not readable as CSV"),
        ("r.csv", b"uid,text\n1,caf\xe9\n", "line 2: byte 0xe9 at column 6, expected UTF-8"),
        ("r.txt", b"caf\xe9", "line 1: byte 0xe9 at column 4, expected UTF-8"),
        ("r.txt", b"caf\xe9", "read it with --encoding cp1252, or mixed where only some lines are not UTF-8"),
        (
            "r.txt",
            "caf\u00e9 ole".encode("utf-16"),
            "line 1: begins as UTF-16 does, expected UTF-8; read it with",
        ),
        ("r.txt", "No effusion.".encode("utf-16-le"), "line 1: full of NUL bytes, as UTF-16 is; read it with --enc"),
        ("r.jsonl", '{"report_id": 1, "text": "\\ud800"}', "line 1: holds half a character"),
        ("r.jsonl", '{"report_id": "\\udc00", "text": ""}', "line 1: holds half a character"),
        ("r.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("r.jsonl", '{"report_id": ' + "1" * 5000 + ', "text": ""}', "line 1: not JSON"),
        ("r.pdf", "x", "ending '.pdf'; expected reports as .jsonl"),
    ],
)
def test_wrong_report_files_are_refused_by_name_and_row(tmp_path, name, content, message):
    path = _write(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_reports(path)
    assert name in str(caught.value)


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder; expected reports as"):
        read_reports(tmp_path / "none")
    with pytest.raises(InputError, match=r"no \.txt file in this folder"):
        read_reports(tmp_path)


def test_what_is_written_reads_back(linker, tmp_path):
    reports = [Report("1", "No effusion. Edema."), Report("2", "XXXX"), Report("3", "Possible pneumonia.")]
    out = tmp_path / "new" / "mentions.jsonl"
    summary = link_reports(linker, reports, out)
    assert [report.report_id for report in read_mentions(out)] == ["1", "2", "3"]
    assert list(read_mentions(out)) == [linker.link(report.report_id, report.text) for report in reports]
    assert (summary.num_reports, summary.num_mentions, summary.num_without_mentions) == (3, 3, 1)
    assert summary.by_certainty == {"present": 1, "uncertain": 1, "absent": 1}
    assert (summary.num_linked, summary.num_concepts) == (3, 3)


class _Interrupted(Linker):
    def link(self, report_id: str, text: str) -> ReportMentions:
        if report_id == "2":
            raise KeyboardInterrupt
        return super().link(report_id, text)


def test_an_interrupted_run_leaves_the_old_file(tmp_path):
    out = _write(tmp_path, "mentions.jsonl", "old")
    with pytest.raises(KeyboardInterrupt):
        link_reports(_Interrupted([]), [Report("1", "x"), Report("2", "y")], out)
    assert [path.name for path in tmp_path.iterdir()] == ["mentions.jsonl"]
    assert out.read_text() == "old"


def test_a_place_that_cannot_be_written_is_refused(linker, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        link_reports(linker, [], tmp_path)
    file = _write(tmp_path, "file", "x")
    with pytest.raises(InputError, match="cannot write"):
        link_reports(linker, [], file / "mentions.jsonl")


def test_a_line_that_is_no_report_is_refused(tmp_path):
    path = _write(tmp_path, "m.jsonl", '{"report_id": "1", "text": "", "mentions": []}\n{"report_id": "1"}\n')
    with pytest.raises(InputError, match="line 2: not a report with mentions"):
        list(read_mentions(path))


# ---------------------------------------------------------------- encodings, and text that is odd but whole

BYTES_OF_CP1252 = st.text([character for character in map(chr, range(256)) if _fits_cp1252(character)], max_size=40)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(["utf-8", "utf-16", "utf-16-be", "utf-32-le", "gb18030"]),
)
def test_a_text_comes_back_from_every_encoding(tmp_path_factory, text, encoding):
    """Exactly, line ends of every kind included; a byte order mark at the start is no text."""
    text = text.lstrip("\ufeff")
    path = _write(tmp_path_factory.mktemp("text"), "r.txt", ("word " + text).encode(encoding))
    assert read_reports(path, encoding) == [Report("r", "word " + text)]


@given(st.lists(st.tuples(BYTES_OF_CP1252, st.sampled_from(["utf-8", "cp1252"])), max_size=6))
def test_mixed_lines_each_keep_their_letters(tmp_path_factory, lines):
    lines = [(text.replace("\n", ""), encoding) for text, encoding in lines]
    raw = b"word\n" + b"\n".join(text.encode(encoding) for text, encoding in lines)
    (report,) = read_reports(_write(tmp_path_factory.mktemp("text"), "r.txt", raw), "mixed")
    for (text, encoding), read in zip(lines, report.text.split("\n")[1:], strict=False):
        if encoding == "utf-8" or not _reads_as_utf8(text.encode("cp1252")):
            assert read == text


def test_one_file_in_two_encodings(tmp_path, linker):
    """Offsets count in the text as read, whatever bytes it came from."""
    raw = "uid,text\n1,caf\u00e9: no edema\n".encode() + "2,caf\u00e9: edema\n".encode("cp1252")
    path = _write(tmp_path, "r.csv", raw)
    with pytest.raises(InputError, match=r"r\.csv, line 3: byte 0xe9 at column 6, expected UTF-8"):
        read_reports(path)
    reports = read_reports(path, "mixed")
    assert reports == [Report("1", "caf\u00e9: no edema"), Report("2", "caf\u00e9: edema")]
    (mention,) = linker.link("2", reports[1].text).mentions
    assert (mention.text, mention.start) == ("edema", 6)
    with pytest.raises(InputError, match=r"line 2: byte 0x81 at column 3, expected cp1252"):
        read_reports(_write(tmp_path, "odd.txt", b"a\nb \x81"), "cp1252")


@pytest.mark.parametrize("encoding", ["utf9", "base64", "rot13", "", "latin 1"])
def test_an_unknown_encoding_is_refused_with_the_usual_ones(tmp_path, encoding):
    path = _write(tmp_path, "r.txt", "x")
    if encoding == "latin 1":  # Python knows it by this name
        assert read_reports(path, encoding) == [Report("r", "x")]
        return
    with pytest.raises(InputError, match=r"unknown encoding .*choices: .*utf-8"):
        read_reports(path, encoding)


def test_long_fields_nul_bytes_and_line_ends_of_a_table_survive(tmp_path):
    long = "no effusion, " * 80_000
    rows = [["1", long], ["2", "edema\0 seen"], ["3", "a\r\nb"], ["4", ""]]
    path = tmp_path / "r.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "text"], *rows])
    limit = csv.field_size_limit()
    assert read_reports(path) == [Report(*row) for row in rows]
    assert csv.field_size_limit() == limit


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_any_text_goes_through_a_file_and_back(tmp_path_factory, texts):
    """JSON Lines in, mentions out: every report is there, in order, letter by letter."""
    folder = tmp_path_factory.mktemp("reports")
    lines = [json.dumps({"report_id": number, "text": text}) for number, text in enumerate(texts)]
    reports = read_reports(_write(folder, "r.jsonl", "\n".join(lines)))
    assert [report.text for report in reports] == texts
    link_reports(Linker(finding_phrases(load_findings())), reports, folder / "m.jsonl")
    assert [report.text for report in read_mentions(folder / "m.jsonl")] == texts


def test_a_report_beside_another_changes_no_line(tmp_path, linker):
    texts = ["No effusion.", "", "XXXX", "Possible pneumonia.", "EDEMA"]
    reports = [Report(str(number), text) for number, text in enumerate(texts)]
    link_reports(linker, reports, tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    for report, line in zip(reports, lines, strict=True):
        link_reports(linker, [report], tmp_path / "one.jsonl")
        assert (tmp_path / "one.jsonl").read_text() == line + "\n"
    link_reports(linker, reports[::-1], tmp_path / "turned.jsonl")
    assert (tmp_path / "turned.jsonl").read_text().splitlines() == lines[::-1]
