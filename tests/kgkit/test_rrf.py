"""Rich Release Format: what is written is read, and what is damaged is counted or named by file and line."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.sources import rrf as rrf_module
from kgkit.sources import rrf_files
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS, RrfRelease

TRICKY = ['"', "'", "\\", "\u2028", "\u0085", "\x0b", "\x0c", "\x1e", "\x00", "\t", " ", ",", "#", "é", "🫁", "NA", "0"]
TRICKY += ["\ufeff", "null", "\r"]
FIELD = st.one_of(
    st.text(st.characters(exclude_characters="|\n", exclude_categories=["Cs"]), max_size=12),
    st.lists(st.sampled_from(TRICKY), max_size=4).map("".join),
)
STY = COLUMNS["MRSTY"].split()


def read(path: Path, table: str = "MRSTY", log: IngestLog | None = None) -> list[tuple[str, ...]]:
    """All fields of a table."""
    columns = COLUMNS[table].split()
    frame = RrfRelease(path, log or IngestLog()).read(table, columns)
    assert frame.schema == dict.fromkeys(columns, pl.String) | {"line": pl.UInt32}
    assert frame["line"].to_list() == list(range(1, len(frame) + 1))
    return frame.drop("line").rows()


def sty(rows: list[tuple[str, ...]]) -> Rrf:
    rrf = Rrf().atom("C0000001", "a name")
    for row in rows:
        rrf.row("MRSTY", dict(zip(STY, row, strict=True)))
    return rrf


def sty_lines(folder: Path, lines: list[bytes], gzipped: bool = False) -> Path:
    """A release whose MRSTY has these lines."""
    sty([]).write(folder)
    data = b"".join(line + b"\n" for line in lines)
    path = folder / ("MRSTY.RRF.gz" if gzipped else "MRSTY.RRF")
    path.write_bytes(gzip.compress(data) if gzipped else data)
    return path


def test_the_tables_have_as_many_columns_as_the_manual_says() -> None:
    counts = {"MRCONSO": 18, "MRREL": 16, "MRDEF": 8, "MRSTY": 6, "MRRANK": 4, "MRDOC": 4, "MRSAB": 25, "MRCUI": 7}
    counts |= {"MRFILES": 6, "MRSAT": 13, "MRHIER": 9, "SRDEF": 10, "SRSTR": 4}
    assert {table: len(set(columns.split())) for table, columns in COLUMNS.items()} == counts


@given(st.lists(st.tuples(*[FIELD] * 6), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([('"lone', "\u2028", "\u0085", "back\\slash", " blanks ", "")], "\r\n", False)
@example([("\ufeffC1", "", "", "", "", ""), ("\ufeffC1", "", "", "", "", "")], "\n", False)
@example([("x^2", "", "", "", "", "")], "\n", False)
@example([("x\x01", "", "", "", "", "")], "\r\n", True)
@example([("", "", "", "", "", ""), ("\r", "\r", "", "", "", "\r")], "\r\n", True)
def test_rows_that_were_written_are_read_field_by_field(
    rows: list[tuple[str, ...]], line_end: str, gzipped: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read(sty(rows).write(Path(folder), line_end, gzipped)) == rows


@given(st.permutations(STY).flatmap(lambda columns: st.integers(1, 6).map(lambda count: columns[:count])))
def test_any_columns_in_any_order(columns: list[str]) -> None:
    rows = [tuple(f"{column}{row}" for column in STY) for row in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        frame = RrfRelease(sty(rows).write(Path(folder)), IngestLog()).read("MRSTY", columns)
    assert frame.columns == [*columns, "line"]
    assert frame.rows() == [(*(f"{column}{row}" for column in columns), row + 1) for row in range(3)]


def test_the_last_line_may_lack_its_line_feed(tmp_path: Path) -> None:
    folder = sty([("C1", "T1", "", "", "", ""), ("C2", "T2", "", "", "", "")]).write(tmp_path)
    path = folder / "MRSTY.RRF"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [row[0] for row in read(folder)] == ["C1", "C2"]


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    folder = tiny_rrf().write(tmp_path)
    (folder / "MRSTY.RRF").write_bytes(b"")
    log = IngestLog()
    assert read(folder, "MRSTY", log) == []
    assert log.rows_read["MRSTY"] == 0


def test_rows_and_files_are_counted_once(tiny_rrf_dir: Path) -> None:
    log = IngestLog()
    release = RrfRelease(tiny_rrf_dir, log)
    frame = release.read("MRCONSO", ["CUI"])
    assert release.read("MRCONSO", ["STR"]).height == len(frame)
    assert log.rows_read == {"MRCONSO": len(frame)}
    assert log.files == [tiny_rrf_dir / "MRCONSO.RRF"]


def test_line_numbers_run_on_from_batch_to_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rrf_files, "CHUNK", 30)
    monkeypatch.setattr(rrf_module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(rrf_module, "BATCH_BYTES", 1000)
    lines = [f"C{i}|T1||||é|".encode() for i in range(500)]
    lines[250] = b"C250|"
    release = RrfRelease(sty_lines(tmp_path, lines).parent, log := IngestLog())
    batches = list(release.batches("MRSTY", ["CUI"]))
    assert len(batches) == pytest.approx(sum(map(len, lines)) / 1000, rel=0.2)
    assert pl.concat(batches).rows() == [(f"C{i}", i + 1) for i in range(500) if i != 250]
    assert log.first_defect == {"MRSTY: wrong number of columns": f"{tmp_path / 'MRSTY.RRF'}, line 251: 'C250|'"}
    assert log.rows_read == {"MRSTY": 500}


def test_a_table_that_is_read_again_is_not_counted_again(tmp_path: Path) -> None:
    sty_lines(tmp_path, [b"C1|T1|||||", b"C2|", b"C3|\xff|||||"])
    log = IngestLog()
    release = RrfRelease(tmp_path, log)
    assert release.read("MRSTY", ["CUI"]).rows() == release.read("MRSTY", ["CUI"]).rows() == [("C1", 1)]
    assert log.skipped == {"MRSTY: wrong number of columns": 1, "MRSTY: not UTF-8": 1}
    assert log.rows_read == {"MRSTY": 3}
    assert log.files == [tmp_path / "MRSTY.RRF"]


def test_a_reading_may_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rrf_files, "CHUNK", 30)
    monkeypatch.setattr(rrf_module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(rrf_module, "BATCH_BYTES", 100)
    release = RrfRelease(sty_lines(tmp_path, [b"C1|T1|||||"] * 100).parent, IngestLog())
    batches = release.batches("MRSTY", ["CUI"])
    assert next(batches).height < 100
    del batches
    assert release.read("MRSTY", ["CUI"]).height == 100


@pytest.mark.parametrize("below", ["META", "2026AA/META", "2026AA-full/2026AA/META"])
def test_tables_are_found_below_the_folder(tmp_path: Path, below: str) -> None:
    tiny_rrf().write(tmp_path / below)
    assert len(read(tmp_path, "MRSAB")) == 3


def test_one_table_stands_for_its_folder(tmp_path: Path) -> None:
    tiny_rrf().write(tmp_path)
    tiny_rrf().write(tmp_path / "older")
    assert len(read(tmp_path / "MRCONSO.RRF", "MRSAB")) == 3


@pytest.mark.parametrize(
    ("name", "release"),
    [("2026AA", "2026AA"), ("umls-2025ab-metathesaurus", "2025AB"), ("2024AA/old/2025AB", "2025AB"), ("x2024AA", None)],
)
def test_the_release_is_named_by_the_nearest_folder(tmp_path: Path, name: str, release: str | None) -> None:
    assert RrfRelease(tiny_rrf().write(tmp_path / name / "META"), IngestLog()).release == release


@pytest.mark.parametrize("line", [b"C1|T047|", b"C1|T047|a|b|c", b"C1|T047|a|b|c|d", b"C1|T047|a|b|c|d|e|", b"",
                                  b"C1|T047|a|b|c|d|\r", b"\r", b"x\x00\xff"])  # fmt: skip
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_row_with_a_wrong_number_of_columns_is_counted(tmp_path: Path, line: bytes, gzipped: bool) -> None:
    good = b"C1|T1|||||"
    path = sty_lines(tmp_path, [good, line + b"\r", good, line + b"\r"], gzipped)
    log = IngestLog()
    frame = RrfRelease(tmp_path, log).read("MRSTY", ["TUI"])
    assert frame.rows() == [("T1", 1), ("T1", 3)]
    assert log.skipped == {"MRSTY: wrong number of columns": 2}
    assert log.rows_read == {"MRSTY": 4}
    assert next(iter(log.first_defect.values())).startswith(f"{path}, line 2: ")
    with pytest.raises(InputError, match=r"line 2: MRSTY: wrong number of columns: "):
        RrfRelease(tmp_path, IngestLog(strict=True)).read("MRSTY", ["TUI"])


def test_wrong_rows_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    good, short, long = b"C1|T1|||||", b"C2|T1||||", b"C3|T1||||||"
    sty_lines(tmp_path, [good, short, long, good, b"C4|T1\n|||||"])
    log = IngestLog()
    assert RrfRelease(tmp_path, log).read("MRSTY", ["CUI"])["CUI"].to_list() == ["C1", "C1"]
    assert log.skipped == {"MRSTY: wrong number of columns": 4}


@pytest.mark.parametrize("column", STY)
def test_bad_utf8_is_counted_also_in_columns_that_nobody_asked_for(tmp_path: Path, column: str) -> None:
    bad = [b"caf\xe9" if name == column else b"x" for name in STY]
    sty_lines(tmp_path, [b"C1|T1|||||", b"|".join([*bad, b""]), b"C\xc3\xa9|T1|||||"])
    log = IngestLog()
    assert RrfRelease(tmp_path, log).read("MRSTY", ["CUI"]).rows() == [("C1", 1), ("Cé", 3)]
    assert log.skipped == {"MRSTY: not UTF-8": 1}
    assert "line 2: " in log.first_defect["MRSTY: not UTF-8"]


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_table_that_ends_within_a_row_is_truncated(tmp_path: Path, gzipped: bool) -> None:
    path = sty_lines(tmp_path, [], gzipped)
    data = b"C1|T1|||||\nC2|T1|||||\nC3|T1|"
    path.write_bytes(gzip.compress(data) if gzipped else data)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    problem = "truncated: the last row has 2 columns, expected 6, each ended by |: 'C3|T1|'"
    assert str(error.value) == f"{path}, line 3: {problem}"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"C1|T1|\nC2|T2|\n", "2 columns, expected 6, each ended by |: 'C1|T1|'"),
        (b"CUI,TUI\n", "0 columns, expected 6, each ended by |: 'CUI,TUI'"),
        (b"\n", "0 columns, expected 6, each ended by |: ''"),
        (b"C\xff|T1|||||\n", "not UTF-8: 'C\ufffd|T1|||||'"),
    ],
)
def test_a_file_that_is_another_table_is_refused(tmp_path: Path, data: bytes, found: str) -> None:
    path = sty_lines(tmp_path, [])
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert str(error.value) == f"{path}, line 1: not a MRSTY table: {found}"


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip", "empty"])
def test_a_damaged_gzip_stream_is_named(tmp_path: Path, damage: str) -> None:
    folder = tiny_rrf().write(tmp_path, gzipped=True)
    path = folder / "MRCONSO.RRF.gz"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        data = bytearray(b"C0000001|ENG|" if damage == "not gzip" else b"")
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(folder, "MRCONSO")
    assert str(error.value).startswith(f"{path}: damaged gzip stream (")


def test_a_missing_path_an_empty_folder_and_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MRSTY.RRF").write_text("")
    expected = "a META folder, a zip or .nlm of a UMLS release, or an RRF table"
    for name, message in {
        "none": "no such file or folder; expected a META folder or zip of a UMLS release",
        "file.csv": f"neither a zip (or a damaged one) nor an RRF table; expected {expected}",
        "empty": "no MRCONSO.RRF or MRCONSO.RRF.gz here (found: nothing)",
        "other": "no MRCONSO.RRF or MRCONSO.RRF.gz here (found: MRSTY.RRF)",
    }.items():
        with pytest.raises(InputError) as error:
            RrfRelease(tmp_path / name, IngestLog())
        assert str(error.value) == f"{tmp_path / name}: {message}"


def test_a_table_that_is_not_there_is_named(tiny_rrf_dir: Path) -> None:
    release = RrfRelease(tiny_rrf_dir, IngestLog(), needs="MRSTY")
    assert release.has("MRSTY")
    assert not release.has("MRHIER")
    with pytest.raises(InputError, match="no table MRHIER here"):
        release.read("MRHIER", ["CUI"])


def test_two_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    for release in ("2025AA", "2026AA"):
        tiny_rrf().write(tmp_path / release / "META")
    with pytest.raises(InputError, match=r"two tables MRCONSO, .*2025AA/META/MRCONSO.RRF and .*2026AA/META/MRCONSO"):
        RrfRelease(tmp_path, IngestLog())


def test_a_plain_and_a_gzipped_table_side_by_side_are_refused(tmp_path: Path) -> None:
    tiny_rrf().write(tmp_path)
    tiny_rrf().write(tmp_path, gzipped=True)
    with pytest.raises(InputError, match=r"MRCONSO.RRF and MRCONSO.RRF.gz lie side by side; leave one table MRCONSO"):
        RrfRelease(tmp_path, IngestLog())


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("gzipped", [False, True])
def test_rows_and_bytes_are_verified_whatever_the_line_end(tmp_path: Path, line_end: str, gzipped: bool) -> None:
    rrf = tiny_rrf().describe()
    log = IngestLog()
    release = RrfRelease(rrf.write(tmp_path, line_end, gzipped), log)
    for table in ("MRCONSO", "MRREL"):
        release.read(table, ["SAB"])
    release.verify()
    sizes = {
        table: (len(rrf.tables[table]), len(rrf.files(line_end)[f"{table}.RRF"])) for table in ("MRCONSO", "MRREL")
    }
    assert log.checks == [f"{table}.RRF: {rows:,} rows, {size:,} bytes as MRFILES says"
                          for table, (rows, size) in sizes.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("RWS", "999", "MRSTY.RRF: 6 rows, MRFILES says 999"), ("BTS", "7", "MRSTY.RRF: {size} bytes, MRFILES says 7")],
)
def test_a_table_that_differs_from_mrfiles_is_an_error(tmp_path: Path, column: str, value: str, problem: str) -> None:
    rrf = tiny_rrf().describe()
    row = next(row for row in rrf.tables["MRFILES"] if row[0] == "MRSTY.RRF")
    row[COLUMNS["MRFILES"].split().index(column)] = value
    problem = problem.format(size=len(rrf.files()["MRSTY.RRF"]))
    log = IngestLog()
    release = RrfRelease(rrf.write(tmp_path), log)
    assert release.read("MRSTY", ["CUI"]).height == 6
    with pytest.raises(InputError) as error:
        release.verify()
    place = tmp_path / "MRSTY.RRF"
    assert str(error.value) == f"{place}: {problem}; the release is damaged or was edited"
    release.verify(required=False)
    assert log.checks == [problem]


def test_what_cannot_be_verified_is_said(tmp_path: Path) -> None:
    log = IngestLog()
    RrfRelease(tiny_rrf().write(tmp_path / "without"), log).verify()
    assert log.checks == ["not verified: no MRFILES"]
    rrf = tiny_rrf().describe()
    rrf.tables["MRFILES"] = [row for row in rrf.tables["MRFILES"] if row[0] != "MRSTY.RRF"]
    log = IngestLog()
    release = RrfRelease(rrf.write(tmp_path / "with"), log)
    (tmp_path / "with" / "MRDOC.RRF").unlink()
    release = RrfRelease(tmp_path / "with", log)
    release.read("MRSTY", ["CUI"])
    next(release.batches("MRREL", ["CUI1"])).clear()  # not read to its end: says nothing
    release.verify()
    assert log.checks == ["MRSTY.RRF: not verified, MRFILES does not name it", "in MRFILES but not here: MRDOC"]


def test_a_damaged_mrfiles_is_an_error_only_where_it_is_needed(tmp_path: Path) -> None:
    folder = tiny_rrf().describe().write(tmp_path)
    (folder / "MRFILES.RRF").write_bytes(b"MRCONSO.RRF|text|")
    with pytest.raises(InputError, match="truncated: the last row has 2 columns"):
        RrfRelease(folder, IngestLog()).verify()
    log = IngestLog()
    RrfRelease(folder, log).verify(required=False)
    assert log.checks[0].startswith("not verified: ")
