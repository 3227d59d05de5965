"""Laws of the findings file and of its reader."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from kgkit.errors import InputError
from kgkit.findings import DATASETS, Finding, findings_by_label, load_findings
from kgkit.linking.phrases import phrase_parts
from kgkit.namespaces import code_curie, compress, expand
from kgkit.resources import resource

NIH14 = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]  # fmt: skip
CHEXPERT14 = [
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
]  # fmt: skip
KAD41 = [
    "normal", "pleural effusion", "opacity", "pneumothorax", "edema", "atelectasis", "tube", "consolidation",
    "enlarged cardiomediastinum", "tip", "pneumonia", "line", "cardiomegaly", "fracture", "calcification", "device",
    "engorgement", "nodule", "wire", "pacemaker", "pleural thicken", "marking", "scar", "hyperinflate", "blunt",
    "collapse", "emphysema", "aerate", "mass", "infiltration", "obscure", "deformity", "hernia", "drainage",
    "distention", "shift", "stent", "lesion", "hardware", "dilation", "aspiration",
]  # fmt: skip


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return load_findings()


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [
        ("openi", [*NIH14, "normal"]),
        ("nih", [*NIH14, "No Finding"]),
        ("chexpert", CHEXPERT14),
        ("kad", KAD41),
    ],
)
def test_every_label_of_a_data_set_is_a_finding(findings, dataset, labels):
    assert set(findings_by_label(findings, dataset)) == set(labels)


def test_padchest_covers_the_common_labels(findings):
    labels = findings_by_label(findings, "padchest")
    assert len(labels) > 150
    common = {"cardiomegaly", "aortic elongation", "scoliosis", "laminar atelectasis", "NSG tube", "pectum excavatum"}
    assert common <= set(labels)


def test_the_openi_labels_are_the_columns_of_the_bundled_table(findings):
    header = (resource("examples/openi") / "labels14.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert set(findings_by_label(findings, "openi")) == set(header) - {"uid"}


def test_concepts_are_curies_of_known_prefixes_and_no_placeholder(findings):
    for finding in findings.values():
        for curie in finding.concepts:
            assert compress(expand(curie)) == curie
            assert not curie.startswith("umls:C9"), f"{finding.key}: {curie} is a placeholder"


def test_no_two_findings_claim_one_concept(findings):
    owners: dict[str, str] = {}
    for finding in findings.values():
        for curie in finding.concepts:
            assert owners.setdefault(curie, finding.key) == finding.key, curie


def _holds(whole: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_an_excluded_phrase_holds_a_string(findings):
    """An exclusion inside which nothing would match keeps nothing away."""
    for finding in findings.values():
        strings = [phrase_parts(text) for text in (*finding.strings, *finding.denials)]
        for text in finding.excluded:
            words = tuple(word for part in phrase_parts(text) for word in part)
            assert any(all(_holds(words, part) for part in parts) for parts in strings), (finding.key, text)


def _ids(folder: Path) -> set[str]:
    """CURIEs of an RRF folder: the CUIs and the source codes."""
    found = set()
    with gzip.open(folder / "MRCONSO.RRF.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            fields = line.split("|")
            found |= {f"umls:{fields[0]}", code_curie(fields[11], fields[13])}
    return found


def test_most_lung_and_heart_findings_stand_in_the_bundled_graph(findings):
    ids = _ids(resource("ontologies/thorax"))
    resolved = {key for key, finding in findings.items() if ids & set(finding.concepts)}
    assert {findings_by_label(findings, "nih")[label].key for label in NIH14} - resolved == {"hernia"}


@pytest.mark.data
def test_every_concept_id_exists():
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: the ids of findings.toml are not looked up in open_rrf/full")
    ids = _ids(Path(data) / "open_rrf/full")
    missing = {curie for finding in load_findings().values() for curie in finding.concepts} - ids
    assert not missing


def _load(tmp_path: Path, text: str) -> dict[str, Finding]:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_findings(path)


def test_a_finding_reads_back_as_written(tmp_path):
    text = """
    [lump]
    name = "Lump"
    query = "a lump"
    concepts = ["HP:0000001"]
    strings = ["lump", "lump ... seen"]
    excluded = ["lump sum"]
    denials = ["no room for a lump"]
    labels = { nih = "Lump" }
    [bump]
    name = "Bump"
    query = "a bump"
    parents = ["lump"]
    """
    found = _load(tmp_path, text)
    assert list(found) == ["lump", "bump"]
    assert found["lump"] == Finding(
        "lump", "Lump", "a lump", ("HP:0000001",), ("lump", "lump ... seen"), ("lump sum",), (), {"nih": "Lump"},
        ("no room for a lump",),
    )  # fmt: skip
    assert found["bump"].parents == ("lump",)


GOOD = '[a]\nname = "A"\nquery = "a"\n'
SECOND = '[b]\nname = "B"\nquery = "b"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no finding in this file"),
        ("[a", "not a readable TOML file of findings"),
        ("a = 3", "'a' is a value, expected a table"),
        ('["Big Key"]\nname="x"\nquery="x"', "finding key 'Big Key': expected snake_case"),
        (GOOD + 'string = ["x"]', r"finding 'a': unknown field 'string'; did you mean 'strings'\?"),
        ('[a]\nname = "A"', "finding 'a': query is None"),
        ('[a]\nname = " "\nquery = "a"', "finding 'a': name is ' '"),
        (GOOD + 'strings = "x"', "strings is 'x', expected a list of strings"),
        (GOOD + "strings = [1]", r"strings is \[1\], expected a list of strings"),
        (GOOD + 'strings = ["x", "x"]', "'x' stands twice in strings"),
        (GOOD + 'strings = ["mass", "masses"]', "'masses' matches the same words as one of 'a'"),
        (GOOD + 'strings = ["x"]\n' + SECOND + 'denials = ["x"]', "'x' matches the same words as one of 'a'"),
        (GOOD + 'strings = ["Mass"]', "'Mass' is not lower case"),
        (GOOD + 'strings = [" "]', "phrase ' ': phrase ' ': expected words"),
        (GOOD + 'strings = ["x ... y ... z"]', "at most one gap"),
        (GOOD + 'concepts = ["C0032227"]', "'C0032227' is no CURIE"),
        (GOOD + 'parents = ["c"]', "no parent 'c'"),
        (GOOD + 'parents = ["a"]', "findings are their own parents: a -> a"),
        (GOOD + 'parents = ["b"]\n' + SECOND + 'parents = ["a"]', "findings are their own parents: a -> b -> a"),
        (GOOD + 'labels = { mimic = "x" }', "unknown data set 'mimic'"),
        (GOOD + "labels = { nih = 3 }", "the nih label is 3"),
        (
            GOOD + 'labels = { nih = "X" }\n' + SECOND + 'labels = { nih = "X" }',
            "'a' and 'b' both claim the nih label 'X'",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        _load(tmp_path, text)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a readable TOML file"):
        load_findings(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a readable TOML file"):
        load_findings(tmp_path / "bytes.toml")


def test_an_unknown_data_set_is_refused(findings):
    with pytest.raises(InputError, match=r"no data set 'padchst'.*did you mean 'padchest'"):
        findings_by_label(findings, "padchst")
    assert "padchest" in DATASETS
