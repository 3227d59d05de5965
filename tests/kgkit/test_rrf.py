"""Rich Release Format: what is written is read, and what is damaged is named by file and line."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS, RrfFolder

TRICKY = ['"', "'", "\\", "\u2028", "\u0085", "\x0b", "\x0c", "\x1e", "\x00", "\t", " ", ",", "#", "é", "🫁", "NA", "0"]
FIELD = st.one_of(
    st.text(st.characters(exclude_characters="|\n\r", exclude_categories=["Cs"]), max_size=12),
    st.lists(st.sampled_from(TRICKY), max_size=4).map("".join),
)


def read(folder: Path, table: str = "MRSTY") -> list[tuple[str, ...]]:
    return RrfFolder(folder, IngestLog()).read(table).rows()


def sty(rows: list[tuple[str, ...]]) -> Rrf:
    rrf = Rrf().atom("C0000001", "a name")
    for row in rows:
        rrf.row("MRSTY", dict(zip(COLUMNS["MRSTY"].split(), row, strict=True)))
    return rrf


def test_the_tables_have_as_many_columns_as_the_manual_says() -> None:
    counts = {"MRCONSO": 18, "MRREL": 16, "MRDEF": 8, "MRSTY": 6, "MRRANK": 4, "MRDOC": 4, "MRSAB": 25}
    assert {table: len(set(columns.split())) for table, columns in COLUMNS.items()} == counts


@given(st.lists(st.tuples(*[FIELD] * 6), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([('"lone', "\u2028", "\u0085", "back\\slash", " blanks ", "")], "\r\n", False)
def test_rows_that_were_written_are_read_field_by_field(
    rows: list[tuple[str, ...]], line_end: str, gzipped: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read(sty(rows).write(Path(folder), line_end, gzipped)) == rows


@given(st.tuples(*[FIELD] * 6))
def test_a_carriage_return_within_a_field_stays(row: tuple[str, ...]) -> None:
    inner = (row[0] + "\r", "\r" + row[1], *row[2:])
    with tempfile.TemporaryDirectory() as folder:
        assert read(sty([inner]).write(Path(folder))) == [inner]


def test_the_last_line_may_lack_its_line_feed(tmp_path: Path) -> None:
    folder = sty([("C1", "T1", "", "", "", ""), ("C2", "T2", "", "", "", "")]).write(tmp_path)
    path = folder / "MRSTY.RRF"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [row[0] for row in read(folder)] == ["C1", "C2"]


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    folder = tiny_rrf().write(tmp_path)
    (folder / "MRSTY.RRF").write_bytes(b"")
    assert read(folder) == []


def test_rows_and_files_are_counted(tiny_rrf_dir: Path) -> None:
    log = IngestLog()
    frame = RrfFolder(tiny_rrf_dir, log).read("MRCONSO")
    assert log.rows_read == {"MRCONSO": len(frame)}
    assert log.files == [tiny_rrf_dir / "MRCONSO.RRF"]


@pytest.mark.parametrize("below", ["META", "2026AA/META", "2026AA-full/2026AA/META"])
def test_tables_are_found_below_the_folder(tmp_path: Path, below: str) -> None:
    tiny_rrf().write(tmp_path / below)
    assert len(read(tmp_path, "MRSAB")) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("C1|T047|", "MRSTY row with 2 column ends, expected 6 (truncated?): 'C1|T047|'"),
        ("C1|T047|a|b|c", "MRSTY row with 4 column ends, expected 6 (truncated?): 'C1|T047|a|b|c'"),
        ("C1|T047|a|b|c|d", "MRSTY row with 5 column ends, expected 6 (truncated?): 'C1|T047|a|b|c|d'"),
        ("C1|T047|a|b|c|d|e|", "MRSTY row with 7 column ends, expected 6 (truncated?): 'C1|T047|a|b|c|d|e|'"),
        ("", "MRSTY row with 0 column ends, expected 6 (truncated?): ''"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_row_with_a_wrong_number_of_columns_is_named(tmp_path: Path, line: str, message: str, gzipped: bool) -> None:
    folder = sty([("C1", "T1", "", "", "", "")] * 3).write(tmp_path, gzipped=gzipped)
    path = folder / ("MRSTY.RRF.gz" if gzipped else "MRSTY.RRF")
    data = gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()
    lines = data.decode().split("\n")
    lines[1] = line
    broken = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(broken) if gzipped else broken)
    with pytest.raises(InputError) as error:
        read(folder)
    assert str(error.value) == f"{path}, line 2: {message}"


def test_bad_utf8_is_named_by_line_and_byte(tmp_path: Path) -> None:
    folder = sty([("C1", "T1", "", "", "", "")] * 3).write(tmp_path)
    path = folder / "MRSTY.RRF"
    path.write_bytes(path.read_bytes().replace(b"T1", b"T\xe9", 3).replace(b"T\xe9", b"T1", 2))
    with pytest.raises(InputError) as error:
        read(folder)
    assert str(error.value) == f"{path}, line 3: not UTF-8 (invalid continuation byte: byte 0xe9)"


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gzip_stream_is_named(tmp_path: Path, damage: str) -> None:
    folder = tiny_rrf().write(tmp_path, gzipped=True)
    path = folder / "MRCONSO.RRF.gz"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        data = bytearray(b"C0000001|ENG|")
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(folder, "MRCONSO")
    assert str(error.value).startswith(f"{path}: damaged gzip stream (")


def test_a_missing_path_an_empty_folder_and_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file.RRF").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MRSTY.RRF").write_text("")
    for name, message in {
        "none": "no such folder; expected the META folder of a UMLS release",
        "file.RRF": "this is a file; expected a folder with MRCONSO.RRF and its kin",
        "empty": "no MRCONSO.RRF or MRCONSO.RRF.gz here (found: nothing)",
        "other": "no MRCONSO.RRF or MRCONSO.RRF.gz here (found: MRSTY.RRF)",
    }.items():
        with pytest.raises(InputError) as error:
            RrfFolder(tmp_path / name, IngestLog())
        assert str(error.value) == f"{tmp_path / name}: {message}"


def test_two_releases_below_one_folder_are_refused(tmp_path: Path) -> None:
    for release in ("2025AA", "2026AA"):
        tiny_rrf().write(tmp_path / release / "META")
    with pytest.raises(InputError, match=r"two tables named MRCONSO.RRF, in .*2025AA/META and .*2026AA/META; give one"):
        RrfFolder(tmp_path, IngestLog())
