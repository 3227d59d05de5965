"""The generator of benchmarks: a valid release in the proportions of UMLS, the same bytes for the same seed."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from graphs import ROOT

from kgkit.sources.base import IngestLog
from kgkit.sources.rrf import COLUMNS, RrfRelease

TABLES = ("MRCONSO", "MRREL", "MRDEF", "MRSTY", "MRSAB", "MRRANK", "MRDOC", "MRCUI")


def generate(folder: Path, *options: str) -> Path:
    """Run the generator at a share of 1 in 3,400."""
    command = [sys.executable, str(ROOT / "benchmarks" / "generate_rrf.py"), str(folder), "--share", "0.000294"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "META"


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def tables(meta: Path) -> dict[str, pl.DataFrame]:
    log = IngestLog(strict=True)
    release = RrfRelease(meta, log)
    frames = {table: release.read(table, COLUMNS[table].split()) for table in TABLES}
    release.verify()
    assert len([line for line in log.checks if "as MRFILES says" in line]) == len(TABLES)
    return frames


def share(frame: pl.DataFrame, column: str, value: str) -> float:
    """Part of the rows that have this value."""
    return float(frame[column].eq(value).sum()) / len(frame)


def test_the_proportions_are_those_of_a_release(tables: dict[str, pl.DataFrame]) -> None:
    atoms, relations = tables["MRCONSO"], tables["MRREL"]
    assert atoms["CUI"].n_unique() == 1000
    assert len(atoms) == pytest.approx(5000, rel=0.05)
    assert len(relations) == 2 * round(45e6 * 0.000294)
    assert 0.6 < share(atoms, "LAT", "ENG") < 0.7
    assert 0.83 < share(atoms, "SUPPRESS", "N") < 0.87
    assert 0.15 < share(relations, "REL", "SIB") < 0.2
    assert 0.25 < share(relations, "RELA", "") < 0.45
    assert relations["RELA"].n_unique() > 800
    assert atoms["CUI"].is_sorted()
    assert relations["CUI1"].is_sorted()
    best = atoms.filter(TS="P", STT="PF", ISPREF="Y")
    assert len(best) == best.select("CUI", "LAT").n_unique() == atoms.select("CUI", "LAT").n_unique()
    for character in ('"', ",", "\\", "'", "ñ"):
        assert atoms["STR"].str.contains(character, literal=True).any()


def test_the_flaws_are_those_of_a_release(tables: dict[str, pl.DataFrame]) -> None:
    relations, concepts = tables["MRREL"], tables["MRCONSO"]["CUI"].unique().implode()
    assert 0.02 < (relations["CUI1"] == relations["CUI2"]).mean() < 0.06  # type: ignore[operator]
    assert 0.005 < (~relations["CUI2"].is_in(concepts)).mean() < 0.02  # type: ignore[operator]
    assert relations.select("CUI1", "REL", "CUI2", "RELA").n_unique() < 0.95 * len(relations)
    assert not tables["MRCUI"]["CUI1"].is_in(concepts).any()
    assert tables["MRCUI"]["CUI1"].n_unique() < len(tables["MRCUI"])


def test_every_relation_stands_there_from_both_sides(tables: dict[str, pl.DataFrame]) -> None:
    documented = tables["MRDOC"]
    inverse = {kind: dict(documented.filter(TYPE=f"{kind}_inverse").select("VALUE", "EXPL").iter_rows())
               for kind in ("rel", "rela")}  # fmt: skip
    columns = ["CUI1", "REL", "CUI2", "RELA", "SAB"]
    rows = tables["MRREL"].select(columns)
    turned = rows.select(
        CUI1="CUI2", REL=pl.col("REL").replace_strict(inverse["rel"]), CUI2="CUI1",
        RELA=pl.col("RELA").replace_strict(inverse["rela"] | {"": ""}), SAB="SAB",
    )  # fmt: skip
    assert rows.sort(columns).equals(turned.sort(columns))


def test_the_seed_decides_every_byte(meta: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", "--gzip")
    other = generate(tmp_path / "other", "--seed", "1")
    names = sorted(path.name for path in meta.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert sorted(path.name for path in again.iterdir()) == [f"{name}.gz" for name in names]
    for name in names:
        data = (meta / name).read_bytes()
        assert gzip.decompress((again / f"{name}.gz").read_bytes()) == data
        assert name == "MRDOC.RRF" or (other / name).read_bytes() != data
