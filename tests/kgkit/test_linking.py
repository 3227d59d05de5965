"""Reports to mentions: the linker, its names, the files it reads and writes."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS, ConceptEncoder, load_encoder
from kgkit.errors import InputError
from kgkit.files import write_manifest
from kgkit.findings import findings_by_label, load_findings
from kgkit.linking.linker import Linker, finding_concepts, finding_phrases, load_linker
from kgkit.linking.names import name_phrases
from kgkit.linking.phrases import Phrase
from kgkit.linking.reports import Report, join_sections, link_reports, read_mentions, read_reports
from kgkit.resources import resource
from kgkit.types import Certainty, Experiencer, Mention, MentionKind, ReportMentions, Temporality

REPORT_PIECES = [
    "No pneumothorax ", "or pleural effusions", ". ", "\r\n", "heart is ", "mildly ", "enlarged", "\ufb01brosis ",
    "XXXX ", "FINDINGS: ", "\nImpression: ", "1. ", "possible ", "e\u0301 ", "mass", ", ", "history of ", "\u00ad",
    "air-space disease ",
]  # fmt: skip


@pytest.fixture(scope="module")
def linker() -> Linker:
    return Linker(finding_phrases(load_findings()))


def _said(linker: Linker, text: str) -> list[tuple[str, str]]:
    return [(str(m.concept).removeprefix("finding:"), m.certainty.value) for m in linker.link("r", text).mentions]


@given(st.lists(st.sampled_from(REPORT_PIECES), max_size=12).map("".join) | st.text(max_size=80))
def test_a_mention_is_the_text_at_its_offsets(text):
    linker = _shared_linker()
    report = linker.link("r", text)
    assert report.text == text
    assert all(text[mention.start : mention.end] == mention.text for mention in report.mentions)
    assert all(mention.text.strip() for mention in report.mentions)
    assert list(report.mentions) == sorted(report.mentions, key=lambda mention: (mention.start, mention.end))
    assert linker.link("r", text) == report
    assert ReportMentions.from_json(json.loads(json.dumps(report.to_json()))) == report


_LINKERS: list[Linker] = []


def _shared_linker() -> Linker:
    """One linker for all examples of a property; hypothesis refuses function fixtures."""
    if not _LINKERS:
        _LINKERS.append(Linker(finding_phrases(load_findings())))
    return _LINKERS[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", []),
        ("XXXX XXXX. XXXX", []),
        ("...", []),
        ("No pneumothorax or pleural effusion.", [("pneumothorax", "absent"), ("pleural_effusion", "absent")]),
        ("No change in the pleural effusion.", [("pleural_effusion", "present")]),
        ("No XXXX effusion.", [("pleural_effusion", "absent")]),
        ("Pericardial effusion.", [("pericardial_effusion", "present")]),
        ("Knee effusion.", []),
        ("Massive effusion.", [("pleural_effusion", "present")]),
        ("The heart is not enlarged.", [("cardiomegaly", "absent")]),
        ("Heart size is normal.", [("cardiomegaly", "absent")]),
        ("The heart is not normal in size.", [("cardiomegaly", "present")]),
        ("No effusion, heart is enlarged.", [("pleural_effusion", "absent"), ("cardiomegaly", "present")]),
        ("Cardiac silhouette may be enlarged.", [("cardiomegaly", "uncertain")]),
        ("Lungs are clear of consolidation.", [("lung_opacity", "absent"), ("consolidation", "absent")]),
        ("No acute cardiopulmonary abnormality.", [("normal", "present")]),
        ("Normal chest.", [("normal", "present")]),
        ("No \ufb01brosis.", [("fibrosis", "absent")]),
        ("NO PNEUMOTHORACES.\r\nEFFUSION.", [("pneumothorax", "absent"), ("pleural_effusion", "present")]),
        ("Fibrotic, air-space disease.", [("fibrosis", "present"), ("lung_opacity", "present")]),
    ],
)
def test_what_a_report_says(linker, text, said):
    assert _said(linker, text) == said


def test_section_temporality_and_experiencer_of_a_mention(linker):
    text = "INDICATION: mother had pneumonia. FINDINGS: history of pneumothorax.\nImpression: Edema."
    mentions = {mention.text: mention for mention in linker.link("r", text).mentions}
    assert {name: mention.section for name, mention in mentions.items()} == {
        "pneumonia": "indication", "pneumothorax": "findings", "Edema": "impression",
    }  # fmt: skip
    assert mentions["pneumonia"].experiencer is Experiencer.FAMILY
    assert mentions["pneumothorax"].temporality is Temporality.HISTORICAL
    assert mentions["Edema"] == Mention(
        "Edema", text.index("Edema"), text.index("Edema") + 5, MentionKind.OBSERVATION, Certainty.PRESENT,
        section="impression", concept="finding:edema", link_score=1.0,
    )  # fmt: skip


def test_every_string_of_a_finding_is_found_as_that_finding(linker):
    """Unless the string is part of a gap: then the gapped words alone are the shortest text that it denotes."""
    for finding in load_findings().values():
        for phrases, certainty in ((finding.strings, Certainty.PRESENT), (finding.denials, Certainty.ABSENT)):
            for phrase in phrases:
                mentions = linker.link("r", phrase.replace(" ... ", " ")).mentions
                own = [m.certainty for m in mentions if m.concept == f"finding:{finding.key}"]
                assert certainty in own, (finding.key, phrase, mentions)


def test_anatomy_is_there_whatever_is_denied_about_it():
    linker = Linker([Phrase("rib", "x:rib", MentionKind.ANATOMY), Phrase("fracture", "x:fracture")])
    assert _said(linker, "No fracture of a rib.") == [("x:fracture", "absent"), ("x:rib", "present")]


ROWS = [
    # concept, name, abbreviation, preferred, type
    ("umls:C0032227", "Pleural effusion", False, True, "T047"),
    ("umls:C0032227", "Fluid around lungs", False, False, "T047"),
    ("umls:C0035222", "adult respiratory distress syndrome", False, True, "T047"),
    ("umls:C0035222", "ARDS", True, False, "T047"),
    ("umls:C0018787", "Heart", False, True, "T023"),
    ("umls:C9000002", "heart", False, True, "T023"),
    ("umls:C9000001", "Heart", False, False, "T023"),
    ("umls:C0205090", "Right", False, True, "T033"),
    ("umls:C0007634", "Cell", False, True, "T025"),
    ("umls:C0010674", "cystic fibrosis", False, True, "T047"),
    ("umls:C0013604", "Edema", False, True, "T046"),
]


def _names(rows: list[tuple[str, str, bool, bool, str]]) -> pl.DataFrame:
    keys = ("concept", "name", "is_abbreviation", "is_preferred")
    table = [{**dict(zip(keys, row, strict=False)), "source": "X", "language": "en"} for row in rows]
    return pl.DataFrame(table, schema=NAME_COLUMNS)


@pytest.fixture
def encoder(tmp_path) -> ConceptEncoder:
    """A small ENCODER folder with everything linking reads."""
    types = {concept: semantic_type for concept, *_, semantic_type in ROWS}
    names = _names(ROWS)
    names.write_parquet(tmp_path / "names.parquet")
    codes = {"umls:C0032227": ["HP:0002202"]}
    table = [(concept, concept, [types[concept]], None, codes.get(concept, []), []) for concept in sorted(types)]
    pl.DataFrame(table, schema=CONCEPT_COLUMNS, orient="row").write_parquet(tmp_path / "concepts.parquet")
    vectors = np.eye(len(table), dtype=np.float32)
    save_file({"concepts": vectors}, tmp_path / "vectors.safetensors")
    write_manifest(tmp_path, "encoder", {"encoder_digest": "0"})
    return load_encoder(tmp_path)


def test_a_linker_of_an_encoder(encoder):
    linker = load_linker(encoder)
    text = "Fluid around lungs, ARDS. No cystic fibrosis. Heart is fine. Edema on the right. Fibrosis."
    found = {m.text: (m.concept, m.link_score, m.certainty.value) for m in linker.link("r", text).mentions}
    assert found == {
        "Fluid around lungs": ("umls:C0032227", 0.9, "present"),
        "ARDS": ("finding:respiratory_distress_syndrome", 1.0, "present"),  # its CUI is not the finding's
        "cystic fibrosis": ("umls:C0010674", 1.0, "absent"),  # longer than the finding's string
        "Heart": ("umls:C0018787", 0.5, "present"),  # preferred by two, the smaller id; a synonym of the third
        "Edema": ("finding:edema", 1.0, "present"),  # the finding's word, not the graph's
        "Fibrosis": ("finding:fibrosis", 1.0, "present"),
    }


def test_findings_take_the_first_id_that_the_graph_holds(encoder):
    concepts = finding_concepts(load_findings(), encoder)
    assert concepts["pleural_effusion"] == "umls:C0032227"
    assert concepts["pneumothorax"] == "finding:pneumothorax"


@given(st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(rng: random.Random):
    types = {concept: (semantic_type,) for concept, *_, semantic_type in ROWS}
    phrases = set(name_phrases(_names(ROWS), types.__getitem__))
    assert set(name_phrases(_names(rng.sample(ROWS, len(ROWS))), types.__getitem__)) == phrases
    assert not {"umls:C0205090", "umls:C0007634"} & {phrase.concept for phrase in phrases}


def test_names_in_other_languages_are_left_out():
    names = _names(ROWS[:1]).with_columns(language=pl.lit("fr"))
    assert list(name_phrases(names, lambda _: ("T047",))) == []


def test_linking_imports_no_torch():
    code = (
        "import sys; from kgkit.findings import load_findings;"
        "from kgkit.linking.linker import Linker, finding_phrases;"
        "from kgkit.linking import reports; Linker(finding_phrases(load_findings())).link('r', 'No effusion.');"
        "print(sorted({'torch', 'transformers', 'faiss', 'pykeen'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


# ---------------------------------------------------------------- agreement with the annotators of Open-i


def _presence(linker: Linker, folder: Path, splits: set[str]) -> dict[str, tuple[int, int, int]]:
    """(true positive, false positive, false negative) by Open-i label: a finding or one of its children is asserted."""
    findings = load_findings()
    labels = {
        label: finding.key for label, finding in findings_by_label(findings, "openi").items() if label != "normal"
    }
    split_of = {row["uid"]: row["split"] for row in _rows(folder / "splits.csv")}
    gold = {row["uid"]: row for row in _rows(folder / "labels14.csv")}
    counts = {label: [0, 0, 0] for label in labels}
    for row in _rows(folder / "reports.csv"):
        if split_of.get(row["uid"]) not in splits or row["uid"] not in gold:
            continue
        report = linker.link(row["uid"], join_sections({name: row[name] for name in ("findings", "impression")}))
        asserted = {
            str(mention.concept).removeprefix("finding:")
            for mention in report.mentions
            if mention.certainty is Certainty.PRESENT
            and mention.temporality is Temporality.RECENT
            and mention.experiencer is Experiencer.PATIENT
        }
        pending = list(asserted)
        while pending:
            parents = set(findings[pending.pop()].parents) - asserted
            asserted |= parents
            pending += parents
        for label, key in labels.items():
            said, true = key in asserted, gold[row["uid"]][label] == "1"
            for place, holds in enumerate((said and true, said and not true, true and not said)):
                counts[label][place] += holds
    return {label: (hits, extra, missed) for label, (hits, extra, missed) in counts.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _f1(counts: tuple[int, int, int]) -> float:
    hits, extra, missed = counts
    return 2 * hits / max(2 * hits + extra + missed, 1)


def test_finding_presence_agrees_with_the_annotators_on_the_bundled_reports(linker):
    counts = _presence(linker, resource("examples/openi"), {"train", "val", "test"})
    common = [value for value in counts.values() if value[0] + value[2] >= 20]
    assert len(common) >= 3
    assert np.mean([_f1(value) for value in common]) >= 0.85


@pytest.mark.data
def test_finding_presence_agrees_with_the_annotators_on_val(linker):
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: finding presence is not measured on the whole Open-i set")
    folder = Path(data) / "indiana_cxr"
    everywhere = _presence(linker, folder, {"train", "val"})
    common = [label for label, value in everywhere.items() if value[0] + value[2] >= 20]
    val = _presence(linker, folder, {"val"})
    assert len(common) == 9
    assert np.mean([_f1(val[label]) for label in common]) >= 0.80
