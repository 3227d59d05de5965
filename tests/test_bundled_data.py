"""The open data that travels with the code: complete, unaltered, within its size, and fit for the demo."""

from __future__ import annotations

import csv
import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPENI = ROOT / "examples" / "openi"
NIH = ROOT / "examples" / "nih"
THORAX = ROOT / "ontologies" / "thorax"
FIELDS = {"MRCONSO": 18, "MRREL": 16, "MRDEF": 8, "MRSTY": 6, "MRSAB": 25}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rrf(name: str) -> list[list[str]]:
    text = gzip.decompress((THORAX / f"{name}.RRF.gz").read_bytes()).decode("utf-8")
    return [line.split("|") for line in text.removesuffix("\n").split("\n")]


def check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "check_data.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout that holds the RadGraph set alone."""
    head, *sets = (ROOT / "examples" / "data.toml").read_text(encoding="utf-8").split("[[set]]")
    (radgraph,) = [each for each in sets if 'name = "radgraph"' in each]
    shutil.copytree(ROOT / "examples" / "radgraph", tmp_path / "examples" / "radgraph")
    (tmp_path / "examples" / "data.toml").write_text(f"{head}[[set]]{radgraph}", encoding="utf-8")
    return tmp_path


def test_bundled_data_are_complete_and_small() -> None:
    result = check(ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    manifest = tomllib.loads((ROOT / "examples" / "data.toml").read_text(encoding="utf-8"))
    folders = [ROOT / each["folder"] for each in manifest["set"] if "files" not in each]
    alone = [ROOT / each["folder"] / file for each in manifest["set"] for file in each.get("files", ())]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()] + alone
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    for each in manifest["set"]:
        assert re.search(rf"^{each['name']} .* MB  {re.escape(each['licence'])}$", result.stdout, re.M)


def test_every_example_folder_is_in_the_manifest() -> None:
    manifest = tomllib.loads((ROOT / "examples" / "data.toml").read_text(encoding="utf-8"))
    folders = {f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.is_dir()}
    assert folders - {"examples/__pycache__"} <= {each["folder"] for each in manifest["set"]}


def test_check_names_an_altered_file(copy: Path) -> None:
    assert check(copy).returncode == 0
    path = copy / "examples" / "radgraph" / "radgraph_v1_schema.json"
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # one bit
    path.write_bytes(data)
    result = check(copy)
    assert result.returncode == 1
    message = "examples/radgraph/radgraph_v1_schema.json: altered (its sha256 is not the one in SHA256SUMS)"
    assert result.stderr.splitlines() == [message]


@pytest.mark.parametrize("name", ["radgraph_xl_schema.json", "README.md", "SHA256SUMS"])
def test_check_names_a_missing_file(copy: Path, name: str) -> None:
    (copy / "examples" / "radgraph" / name).unlink()
    result = check(copy)
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == f"examples/radgraph/{name}: missing"


def test_check_names_an_unlisted_file_until_the_sums_are_written_anew(copy: Path) -> None:
    extra = copy / "examples" / "radgraph" / "more" / "copy.json"
    extra.parent.mkdir()
    extra.write_text("{}", encoding="utf-8")
    result = check(copy)
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["examples/radgraph/more/copy.json: not listed in SHA256SUMS"]
    assert check(copy, "--write").returncode == 0
    assert check(copy).returncode == 0


def test_check_reports_every_problem_at_once(copy: Path) -> None:
    folder = copy / "examples" / "radgraph"
    (folder / "LICENSE").unlink()
    (folder / "radgraph_v1_schema.json").write_text("{}", encoding="utf-8")
    (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text() + "no digest\n", encoding="utf-8")
    lines = check(copy).stderr.splitlines()
    assert [re.split(r":(?:\d+:)? ", line)[0].rpartition("/")[2] for line in lines] == [
        "SHA256SUMS",
        "LICENSE",
        "radgraph_v1_schema.json",
    ]


def test_check_refuses_too_much_data(copy: Path) -> None:
    manifest = copy / "examples" / "data.toml"
    limited = re.sub(r"limit_mb = \d+", "limit_mb = 0.01", manifest.read_text(encoding="utf-8"))
    manifest.write_text(limited, encoding="utf-8")
    result = check(copy)
    assert result.returncode == 1
    assert re.fullmatch(r"the bundled data take 0\.0\d MB, more than 0\.01 MB\n", result.stderr)


def test_a_set_without_a_licence_is_refused(copy: Path) -> None:
    manifest = copy / "examples" / "data.toml"
    text = manifest.read_text(encoding="utf-8").replace('licence = "MIT"', "")
    manifest.write_text(text, encoding="utf-8")
    result = check(copy)
    assert result.returncode == 1
    assert result.stderr.endswith("data.toml: set 'radgraph' has no licence\n")


def test_openi_split_is_by_patient() -> None:
    splits = table(OPENI / "splits.csv")
    assert len({row["uid"] for row in splits}) == len(splits)  # one row, so one split, per study and patient
    assert {row["split"] for row in splits} == {"train", "val", "test"}
    parts = defaultdict(set)
    for row in splits:
        parts[row["split"]].add(row["uid"])
    film_parts = defaultdict(set)
    part_of = {row["uid"]: row["split"] for row in splits}
    for row in table(OPENI / "projections.csv"):
        film_parts[(OPENI / "images" / row["image_file"]).read_bytes()].add(part_of[row["uid"]])
    assert all(len(parts) == 1 for parts in film_parts.values())  # no film stands on both sides under two names


def test_openi_tables_agree_and_every_study_can_be_used() -> None:
    uids = {row["uid"] for row in table(OPENI / "splits.csv")}
    assert 550 <= len(uids) <= 650
    reports = table(OPENI / "reports.csv")
    projections = table(OPENI / "projections.csv")
    for rows in (reports, projections, table(OPENI / "labels14.csv")):
        assert {row["uid"] for row in rows} == uids
    assert all((row["findings"] + row["impression"]).strip() for row in reports)
    assert {row["projection"] for row in projections} == {"Frontal"}
    named = [row["image_file"] for row in projections]
    assert sorted(named) == sorted(path.name for path in (OPENI / "images").iterdir())
    for name in named:
        data = (OPENI / "images" / name).read_bytes()
        assert data.startswith(b"\xff\xd8\xff"), name
        assert data.rstrip(b"\0").endswith(b"\xff\xd9"), name  # a truncated JPEG has no end marker
    assert sum((OPENI / "images" / name).stat().st_size for name in named) <= 14_000_000


def test_openi_has_the_positives_that_the_demo_needs() -> None:
    part = {row["uid"]: row["split"] for row in table(OPENI / "splits.csv")}
    positives: Counter[tuple[str, str]] = Counter()
    for row in table(OPENI / "labels14.csv"):
        positives.update((part[row["uid"]], label) for label, value in row.items() if value == "1" and label != "uid")
    for label in ("Cardiomegaly", "Atelectasis", "Effusion", "normal"):
        assert positives["test", label] >= 20
        assert positives["val", label] >= 10
        assert positives["train", label] >= 40
    readme = (OPENI / "README.md").read_text(encoding="utf-8")
    for label in table(OPENI / "labels14.csv")[0].keys() - {"uid"}:
        cells = " | ".join(str(positives[name, label]) for name in ("test", "train", "val"))
        assert f"| {label} | {cells} |" in readme


def test_openi_stands_outside_the_apache_licence() -> None:
    licence = (OPENI / "LICENSE").read_text(encoding="utf-8")
    assert "NOT under the Apache License" in licence
    assert "https://creativecommons.org/licenses/by-nc-nd/4.0/" in licence
    assert "examples/openi: NOT under the Apache License" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert "examples/openi" in build["sdist"]["exclude"]
    assert not any(path.startswith("examples") for path in build["wheel"]["only-include"])


def test_nih_films_have_labels_and_boxes_that_lie_on_the_film() -> None:
    labels = table(NIH / "labels.csv")
    assert sorted(row["image_file"] for row in labels) == sorted(path.name for path in (NIH / "images").iterdir())
    findings = {finding for row in labels for finding in row["Finding Labels"].split("|")}
    assert findings >= {"Cardiomegaly", "Effusion", "Atelectasis", "No Finding"}
    boxes = table(NIH / "bbox.csv")
    assert {row["Image Index"] for row in boxes} <= {row["Image Index"] for row in labels}
    assert len({row["Image Index"] for row in boxes}) >= 3
    for row in boxes:
        x, y, width, height = (float(row[name]) for name in "xywh")
        assert 0 <= x < x + width <= 1024, row
        assert 0 <= y < y + height <= 1024, row


def test_thorax_rows_have_the_fields_of_the_format() -> None:
    for name, count in FIELDS.items():
        rows = rrf(name)
        assert rows, name
        # n columns, each with its bar behind it, split into n + 1
        assert {len(row) for row in rows} == {count + 1}, name
        assert {row[-1] for row in rows} == {""}, name
        stated = f"| {len(rows):,} | {count} |"
        readme = (THORAX / "README.md").read_text(encoding="utf-8")
        assert re.search(rf"^\| {name}.*{re.escape(stated)}$", readme, re.M), stated


def test_thorax_refers_to_its_own_concepts_and_counts_its_sources() -> None:
    names = rrf("MRCONSO")
    concepts = {row[0] for row in names}
    atoms = {row[7] for row in names}
    assert {cui for row in rrf("MRREL") for cui in (row[0], row[4])} <= concepts
    assert {row[0] for row in rrf("MRSTY")} == concepts
    assert {(row[0], row[1] in atoms) for row in rrf("MRDEF")} <= {(cui, True) for cui in concepts}
    terms = defaultdict(set)
    for row in names:
        terms[row[11]].add(row[13])
    sources = rrf("MRSAB")
    assert {row[3]: int(row[15]) for row in sources} == {sab: len(codes) for sab, codes in terms.items()}
    assert {row[3]: row[6] for row in sources}["HPO"] == "2025-01-16"
    minted = sum(cui >= "C9000000" for cui in concepts)
    readme = (THORAX / "README.md").read_text(encoding="utf-8")
    assert f"{len(concepts) - minted:,} concepts carry a real UMLS CUI" in readme
    assert f"The other {minted:,} have a" in readme


def test_semantic_groups_cover_the_types_of_the_thorax_graph() -> None:
    path = ROOT / "ontologies" / "semantic_groups.txt"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["TUI", "name", "group", "group_name"]
    assert len({row["TUI"] for row in rows}) == len(rows) == 127
    assert len({(row["group"], row["group_name"]) for row in rows}) == len({row["group"] for row in rows}) == 15
    assert {(row[1], row[3]) for row in rrf("MRSTY")} <= {(row["TUI"], row["name"]) for row in rows}
    group = {row["TUI"]: row["group"] for row in rows}
    assert (group["T047"], group["T023"], group["T121"]) == ("DISO", "ANAT", "CHEM")


@pytest.mark.data
def test_the_script_draws_exactly_the_committed_studies(tmp_path: Path) -> None:
    data = os.environ.get("KGKIT_DATA")
    if not data:
        pytest.skip("KGKIT_DATA is not set: the draw of examples/openi is not repeated")
    source = Path(data) / "indiana_cxr"
    script = ROOT / "examples" / "select_openi.py"
    subprocess.run([sys.executable, str(script), str(source), str(tmp_path / "openi")], check=True, timeout=120)
    drawn = {path.relative_to(tmp_path / "openi") for path in (tmp_path / "openi").rglob("*") if path.is_file()}
    own = {Path("README.md"), Path("LICENSE"), Path("SHA256SUMS")}
    assert drawn == {path.relative_to(OPENI) for path in OPENI.rglob("*") if path.is_file()} - own
    assert all((tmp_path / "openi" / path).read_bytes() == (OPENI / path).read_bytes() for path in drawn)


@pytest.mark.data
def test_bundled_files_are_those_of_the_source() -> None:
    data = os.environ.get("KGKIT_DATA")
    if not data:
        pytest.skip("KGKIT_DATA is not set: bundled files are not compared with their source")
    for name in FIELDS:
        source = (Path(data) / "open_rrf" / "thorax" / f"{name}.RRF").read_bytes()
        assert gzip.decompress((THORAX / f"{name}.RRF.gz").read_bytes()) == source
    for folder, original in (("nih", "nih_cxr"), ("radgraph", "radgraph_examples")):
        for path in (ROOT / "examples" / folder).rglob("*"):
            twin = Path(data) / original / path.relative_to(ROOT / "examples" / folder)
            if path.suffix in {".jpg", ".json"}:
                assert path.read_bytes() == twin.read_bytes()
            elif path.suffix == ".csv":
                assert set(path.read_bytes().splitlines(True)) <= set(twin.read_bytes().splitlines(True))
