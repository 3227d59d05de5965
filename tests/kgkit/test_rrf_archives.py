"""However a release is packed, the same rows come out; and no archive gets anywhere it should not."""

from __future__ import annotations

import gc
import gzip
import io
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rrf import Rrf, below, gzipped_files, nlm_files, pieces, tiny_rrf, write_files, zipped

from kgkit.errors import InputError
from kgkit.sources import rrf_files
from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS, RrfRelease
from kgkit.sources.rrf_files import inflated

PLACE = Path("MRCONSO.RRF.gz")


def release_rrf() -> Rrf:
    """A release with every table that an archive of NLM keeps in its own place."""
    rrf = tiny_rrf()
    rrf.row("SRDEF", {"RT": "STY", "UI": "T047", "STY_RL": "Disease or Syndrome", "DEF": 'A "condition".'})
    rrf.row("SRSTR", {"ARG1": "Disease or Syndrome", "RL": "isa", "ARG2": "Pathologic Function", "LS": "D"})
    return rrf.describe()


def cut(files: dict[str, bytes], suffix: str = "") -> dict[str, bytes]:
    """Every file in three pieces, cut with no regard to lines or gzip members."""
    cuts = {name: [len(data) // 5, len(data) // 2] for name, data in files.items()}
    return {part: piece for name, data in files.items()
            for part, piece in pieces(name.removesuffix(".gz"), data, cuts[name], suffix).items()}  # fmt: skip


def full_zip(rrf: Rrf, compression: int) -> bytes:
    other = {"2026AA-full/2026AA.CHK": b"x", "2026AA-full/Copyright_Notice.txt": b"x"}
    return zipped(other | below("2026AA-full", nlm_files(rrf)), compression)


PACKAGES: dict[str, Callable[[Rrf], dict[str, bytes]]] = {
    "2026AA/META": lambda rrf: below("2026AA/META", rrf.files()),
    "META gzipped": lambda rrf: below("2026AA/META", gzipped_files(rrf.files())),
    "gzipped pieces": lambda rrf: below("2026AA/META", cut(gzipped_files(rrf.files()), ".gz")),
    "plain pieces": lambda rrf: below("2026AA/META", cut(rrf.files())),
    "META and NET": lambda rrf: {f"2026AA/{'NET' if name.startswith('SR') else 'META'}/{name}": data
                                 for name, data in rrf.files().items()},
    "folder of nlm": lambda rrf: below("2026AA-full", nlm_files(rrf)),
    "metathesaurus-full.zip": lambda rrf: {"umls-2026AA-metathesaurus-full.zip":
                                           zipped(below("2026AA/META", rrf.files()))},
    "flat zip": lambda rrf: {"umls-2026AA-metathesaurus.zip": zipped(rrf.files(), zipfile.ZIP_STORED)},
    "bzip2 zip": lambda rrf: {"umls-2026AA.zip": zipped(rrf.files(), zipfile.ZIP_BZIP2)},
    "zip of pieces": lambda rrf: {"umls-2026AA.zip": zipped(below("a/b", cut(gzipped_files(rrf.files()), ".gz")))},
    "full.zip, stored nlm": lambda rrf: {"umls-2026AA-full.zip": full_zip(rrf, zipfile.ZIP_STORED)},
    "full.zip, compressed nlm": lambda rrf: {"umls-2026AA-full.zip": full_zip(rrf, zipfile.ZIP_DEFLATED)},
}  # fmt: skip


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same release in each of its packages."""
    folder = write_files(tmp_path / "release", PACKAGES[request.param](release_rrf()))
    zips = list(folder.glob("*.zip"))
    return zips[0] if zips else folder


def test_every_package_gives_the_same_rows(package: Path) -> None:
    rrf = release_rrf()
    log = IngestLog()
    release = RrfRelease(package, log)
    assert release.release == "2026AA"
    for table, rows in rrf.tables.items():
        columns = COLUMNS[table].split()
        written = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
        frame = release.read(table, columns)
        assert frame.drop("line").equals(written), table
        assert frame["line"].to_list() == list(range(1, len(rows) + 1))
    release.verify()
    assert [line for line in log.checks if "as MRFILES says" in line] == [
        f"{name}: {len(rrf.tables[name.removesuffix('.RRF')]):,} rows, {len(data):,} bytes as MRFILES says"
        for name, data in rrf.files().items()
        if name not in ("MRFILES.RRF", "SRDEF", "SRSTR")
    ]
    assert not log.skipped
    assert len(log.files) == len(set(log.files))
    assert all(file.is_file() for file in log.files)


def test_only_a_compressed_archive_in_an_archive_is_spooled(package: Path) -> None:
    log = IngestLog()
    RrfRelease(package, log)
    spooled = [line for line in log.checks if "spooled to a temporary file" in line]
    is_compressed = package.suffix == ".zip" and zipfile.ZipFile(package).infolist()[-1].filename.endswith(".nlm")
    is_compressed &= package.suffix == ".zip" and zipfile.ZipFile(package).infolist()[-1].compress_type != 0
    assert len(spooled) == (3 if is_compressed else 0)


def test_nothing_is_written_and_nothing_stays_open(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = package.parent / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    before = sorted(package.parent.rglob("*"))
    release = RrfRelease(package, IngestLog())
    release.read("MRCONSO", ["CUI"])
    assert sorted(package.parent.rglob("*")) == before
    descriptors = Path("/proc/self/fd")
    if descriptors.exists():
        del release
        gc.collect()
        open_files = [str(item.readlink()) for item in descriptors.iterdir() if item.is_symlink() and item.exists()]
        assert not [name for name in open_files if str(package.parent) in name]


def test_the_archive_is_named_once_and_errors_name_the_member(tmp_path: Path) -> None:
    path = tmp_path / "umls-2026AA-full.zip"
    path.write_bytes(full_zip(release_rrf(), zipfile.ZIP_STORED))
    log = IngestLog()
    release = RrfRelease(path, log)
    release.read("MRREL", ["CUI1"])
    release.read("MRSTY", ["CUI"])
    assert log.files == [path]
    inside = f"{path}!2026AA-full/2026aa-1-meta.nlm!2026AA/META"
    assert str(release.place("MRSTY")) == f"{inside}/MRSTY.RRF.gz"
    assert str(release.place("MRCONSO")) == f"{inside}/MRCONSO.RRF.aa.gz ... MRCONSO.RRF.ac.gz"


def test_the_zip_of_mrconso_alone(tmp_path: Path) -> None:
    path = tmp_path / "umls-2026AA-mrconso.zip"
    rrf = tiny_rrf()
    path.write_bytes(zipped({"MRCONSO.RRF": rrf.files()["MRCONSO.RRF"]}))
    release = RrfRelease(path, IngestLog())
    assert not release.has("MRREL")
    assert release.read("MRCONSO", ["CUI"]).height == len(rrf.tables["MRCONSO"])


@given(st.data())
def test_a_gzip_stream_may_be_cut_anywhere(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=4), "members")
    stored = b"".join(gzip.compress(text, data.draw(st.sampled_from([0, 1, 9])), mtime=0) for text in texts)
    stored += bytes(data.draw(st.integers(0, 20), "padding"))
    cuts = data.draw(st.lists(st.integers(0, len(stored)), max_size=8), "cuts")
    chunks = pieces("t", stored, cuts).values()
    assert b"".join(inflated(chunks, PLACE)) == b"".join(texts)


@given(st.binary(max_size=300), st.data())
def test_a_gzip_stream_that_is_not_whole_is_an_error(text: bytes, data: st.DataObject) -> None:
    stored = gzip.compress(b"first") + gzip.compress(text)
    end = data.draw(st.integers(len(gzip.compress(b"first")) + 1, len(stored) - 1))
    with pytest.raises(InputError, match="damaged gzip stream"):
        list(inflated([stored[:end]], PLACE))
    with pytest.raises(InputError, match="damaged gzip stream"):
        list(inflated([stored, b"garbage"], PLACE))


@given(st.lists(st.integers(0, 10_000), max_size=5), st.booleans())
def test_pieces_cut_anywhere_give_the_same_rows(cuts: list[int], gzipped: bool) -> None:
    rrf = tiny_rrf()
    data = rrf.files()["MRCONSO.RRF"]
    stored = gzip.compress(data, mtime=0) if gzipped else data
    parts = pieces("MRCONSO.RRF", stored, [min(position, len(stored)) for position in cuts], ".gz" if gzipped else "")
    with tempfile.TemporaryDirectory() as folder:
        frame = RrfRelease(write_files(Path(folder), parts), IngestLog()).read("MRCONSO", ["STR", "AUI"])
    columns = COLUMNS["MRCONSO"].split()
    name, atom = columns.index("STR"), columns.index("AUI")
    assert frame.drop("line").rows() == [(row[name], row[atom]) for row in rrf.tables["MRCONSO"]]


def conso() -> bytes:
    return tiny_rrf().files()["MRCONSO.RRF"]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["MRCONSO.RRF.aa.gz", "MRCONSO.RRF.ac.gz"], "piece 'ab' of MRCONSO is missing (aa, ac are here)"),
        (["MRCONSO.RRF.ab.gz"], "piece 'aa' of MRCONSO is missing (ab are here)"),
        (["MRCONSO.RRF.aa.gz", "MRCONSO.RRF"], "MRCONSO.RRF and MRCONSO.RRF.aa.gz lie side by side"),
        (["MRCONSO.RRF.aa.gz", "MRCONSO.RRF.aa"], "MRCONSO.RRF.aa and MRCONSO.RRF.aa.gz lie side by side"),
        (["MRCONSO.RRF.aa.gz", "MRCONSO.RRF.ab"], "MRCONSO.RRF.aa.gz and MRCONSO.RRF.ab lie side by side"),
        (["one/MRCONSO.RRF.aa", "two/MRCONSO.RRF.ab"], "two tables MRCONSO, "),
    ],
)
@pytest.mark.parametrize("is_zip", [False, True])
def test_pieces_that_do_not_make_one_table_are_refused(
    tmp_path: Path, files: list[str], problem: str, is_zip: bool
) -> None:
    content = dict.fromkeys(files, conso())
    path = write_files(tmp_path / "release", {"a.zip": zipped(content)} if is_zip else content)
    with pytest.raises(InputError) as error:
        RrfRelease(path / "a.zip" if is_zip else path, IngestLog())
    assert problem in str(error.value)


def test_two_tables_in_one_archive_are_both_named(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    path.write_bytes(zipped({"2025AB/META/MRCONSO.RRF": conso(), "2026AA/META/MRCONSO.RRF": conso()}))
    with pytest.raises(InputError, match=r"two tables MRCONSO, .*!2025AB/META/MRCONSO.RRF and .*!2026AA/META/MRCONSO"):
        RrfRelease(path, IngestLog())


def test_the_same_table_in_two_nlm_is_refused(tmp_path: Path) -> None:
    archive = zipped({"2026AA/META/MRCONSO.RRF.gz": gzip.compress(conso())})
    write_files(tmp_path, {"2026aa-1-meta.nlm": archive, "2026aa-2-meta.nlm": archive})
    with pytest.raises(InputError, match=r"two tables MRCONSO, .*2026aa-1-meta.nlm!.* and .*2026aa-2-meta.nlm!"):
        RrfRelease(tmp_path, IngestLog())


@pytest.mark.parametrize("name", ["../MRCONSO.RRF", "/etc/MRCONSO.RRF", "META/../../x/MRCONSO.RRF", "..\\MRCONSO.RRF",
                                  "../../evil.sh", "META/../MRDEF.RRF"])  # fmt: skip
def test_a_member_that_points_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "umls.zip"
    write_files(path.parent, {path.name: zipped({"META/MRCONSO.RRF": conso(), name: conso()})})
    with pytest.raises(InputError, match=r"points out of the archive, refused"):
        RrfRelease(path, IngestLog())
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


def test_files_beside_the_tables_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "umls.zip"
    noise = {"__MACOSX/._MRCONSO.RRF": b"x", "META/MRCONSO.RRF.bak": b"x", "META/XMRCONSO.RRFX": b"x",
             "META/mysql_tables.sql": b"x", "META/CHANGE/MERGEDCUI.RRF": b"x",
             "MERGEDCUI.RRF": b"x", "META/MRCONSO.RRF/": b""}  # fmt: skip
    path.write_bytes(zipped(noise | {"META/MRCONSO.RRF": conso()}))
    assert RrfRelease(path, IngestLog()).read("MRCONSO", ["CUI"]).height == len(tiny_rrf().tables["MRCONSO"])


def with_patched_directory(archive: bytes, size: int) -> bytes:
    """The zip with another uncompressed size in its directory."""
    at = archive.rindex(b"PK\x01\x02")
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


@pytest.mark.parametrize("change", [-10, 10])
def test_a_member_of_another_size_than_declared_is_damaged(tmp_path: Path, change: int) -> None:
    path = tmp_path / "umls.zip"
    path.write_bytes(with_patched_directory(zipped({"MRCONSO.RRF": conso()}), len(conso()) + change))
    with pytest.raises(InputError, match=r"umls.zip!MRCONSO.RRF: damaged"):
        RrfRelease(path, IngestLog()).read("MRCONSO", ["CUI"])


@pytest.mark.parametrize("kind", ["zip", "gzip", "gzip in zip", "gzip of line feeds"])
def test_a_bomb_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rrf_files, "BOMB_SIZE", 1 << 20)
    row = conso().split(b"\n")[0] + b"\n"
    bomb = (b"\n" if kind == "gzip of line feeds" else row) * (1 << (22 if kind == "gzip of line feeds" else 16))
    content = {"zip": zipped({"MRCONSO.RRF": bomb}), "gzip in zip": zipped({"MRCONSO.RRF.gz": gzip.compress(bomb)})}
    path = tmp_path / ("umls.zip" if "zip" in kind.split() else "MRCONSO.RRF.gz")
    path.write_bytes(content.get(kind) or gzip.compress(bomb))
    with pytest.raises(InputError, match=r"MRCONSO.RRF(.gz)?: \d+ bytes that expand to \d+ or more, over 200-fold"):
        for _ in RrfRelease(path, IngestLog()).batches("MRCONSO", ["CUI"]):
            pass


def test_rows_that_repeat_are_no_bomb_while_they_are_few(tmp_path: Path) -> None:
    row = conso().split(b"\n")[0] + b"\n"
    (tmp_path / "MRCONSO.RRF.gz").write_bytes(gzip.compress(row * 50_000))
    assert RrfRelease(tmp_path, IngestLog()).read("MRCONSO", ["CUI"]).height == 50_000


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "umls.zip"
    data = bytearray(zipped({"MRCONSO.RRF": conso()}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"umls.zip!MRCONSO.RRF: damaged or unreadable in the zip \(.*encrypted"):
        RrfRelease(path, IngestLog()).read("MRCONSO", ["CUI"])


FULL_ZIPS = {kind: full_zip(release_rrf(), kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)}


@given(st.data())
def test_a_damaged_archive_is_an_error_or_gives_the_same_rows(data: st.DataObject) -> None:
    compression = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    archive = bytearray(FULL_ZIPS[compression])
    with tempfile.TemporaryDirectory() as folder:
        whole = RrfRelease(tiny_rrf().write(Path(folder)), IngestLog()).read("MRCONSO", ["CUI", "STR"])
    kind = data.draw(st.sampled_from(["flip", "cut", "directory"]))
    start = archive.rindex(b"PK\x01\x02") if kind == "directory" else 0
    if kind == "cut":
        del archive[data.draw(st.integers(0, len(archive) - 1)) :]
    for _ in range(0 if kind == "cut" else data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(start, len(archive) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = write_files(Path(folder), {"a.zip": bytes(archive)}) / "a.zip"
        with suppress(InputError):
            log = IngestLog()
            frame = RrfRelease(path, log).read("MRCONSO", ["CUI", "STR"])
            assert frame.equals(whole)
            assert not log.skipped


def test_an_archive_within_an_archive_within_an_archive_is_not_opened(tmp_path: Path) -> None:
    stream = io.BytesIO(zipped({"MRCONSO.RRF": conso()}))
    for _ in range(2):
        stream = io.BytesIO(zipped({"inner.nlm": stream.getvalue()}))
    (tmp_path / "umls.zip").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match=r"no MRCONSO.RRF or MRCONSO.RRF.gz here \(found: nothing\)"):
        RrfRelease(tmp_path / "umls.zip", IngestLog())
