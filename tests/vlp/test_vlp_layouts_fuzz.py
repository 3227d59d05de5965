"""Whatever stands in a cell or a file: a reader reads it, counts it or names it, and never falls over."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest
from damage import damage
from hypothesis import given
from hypothesis import strategies as st
from tiny_layouts import LAYOUTS, read_table, write_table

from kgkit.interface import InputError
from vlp.data.readers import READERS
from vlp.data.source import DEFAULTS, SourceData
from vlp.data.splits import SplitOptions, split_patients

TABLES = ("*.csv", "*.csv.gz")
_written: dict[str, Path] = {}


def tiny(dataset: str, base: Path) -> Path:
    """The tiny copy of a data set, written once."""
    if dataset not in _written:
        _written[dataset] = Path(mkdtemp(dir=base)) / dataset
        LAYOUTS[dataset](_written[dataset])
    return _written[dataset]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(data: SourceData) -> None:
    """What every reader promises of what it gives."""
    ids = [study.study_id for study in data.studies]
    assert ids == sorted(set(ids))
    for study in data.studies:
        assert study.patient_id
        assert all(value in (1, 0, -1) for value in study.labels.values())
        assert all(image.path.is_file() and image.path.is_relative_to(data.image_root) for image in study.images)
    with suppress(InputError):  # a patient in two splits
        split_patients(data.studies, SplitOptions(), data.image_root)


def one_line(error: InputError) -> None:
    assert "\n" not in str(error).strip()


@pytest.mark.parametrize("dataset", [name for name in LAYOUTS if name != "chestxdet10"])
@given(st.data())
def test_any_text_in_any_cell(dataset: str, base: Path, data: st.DataObject) -> None:
    source = tiny(dataset, base)
    path = data.draw(st.sampled_from(sorted(file for pattern in TABLES for file in source.glob(pattern))))
    before = path.read_bytes()
    header, *rows = read_table(path)
    row = data.draw(st.integers(0, len(rows)))
    cells = header if row == len(rows) else rows[row]
    column = data.draw(st.integers(0, len(cells) - 1))
    words = [
        "",
        "-1",
        "nan",
        "inf",
        "1e999",
        "../..",
        "/",
        "..",
        "[",
        "'x'",
        "None",
        cells[column] + " ",
        "\u0000",
        "[[]]",
        "x" * 300,
    ]
    cells[column] = data.draw(st.sampled_from(words) | st.text(st.characters(codec="utf-8"), max_size=6))
    try:
        write_table(path, header, rows)
        check(READERS[dataset](source, DEFAULTS))
    except InputError as error:
        one_line(error)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("dataset", [name for name in LAYOUTS if name != "chestxdet10"])
@given(st.data())
def test_any_damage_to_a_table(dataset: str, base: Path, data: st.DataObject) -> None:
    source = tiny(dataset, base)
    path = data.draw(st.sampled_from(sorted(file for pattern in TABLES for file in source.glob(pattern))))
    before = path.read_bytes()
    cut = data.draw(st.integers(0, len(before)))
    rubbish = data.draw(st.binary(max_size=20))
    try:
        path.write_bytes(before[:cut] + rubbish)
        check(READERS[dataset](source, DEFAULTS))
    except InputError as error:
        one_line(error)
    finally:
        path.write_bytes(before)


@given(st.data())
def test_any_json_value_in_chestxdet10(base: Path, data: st.DataObject) -> None:
    source = tiny("chestxdet10", base)
    path = source / "test.json"
    before = path.read_bytes()
    content = json.loads(before)
    damage(content, data)
    try:
        path.write_text(json.dumps(content))
        check(READERS["chestxdet10"](source, DEFAULTS))
    except InputError as error:
        one_line(error)
    finally:
        path.write_bytes(before)


def test_a_gzip_that_is_none_is_named(base: Path) -> None:
    source = tiny("mimic-cxr", base)
    path = source / "mimic-cxr-2.0.0-split.csv.gz"
    before = path.read_bytes()
    for content in (gzip.compress(b"\xff\xfe\x00"), before[: len(before) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"split\.csv\.gz: (not readable as CSV|no column)"):
            READERS["mimic-cxr"](source, DEFAULTS)
    path.write_bytes(before)
