"""Reports to mentions: the linker, its names, the files it reads and writes."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS, ConceptEncoder, load_encoder
from kgkit.files import write_manifest
from kgkit.findings import load_findings
from kgkit.linking.linker import Linker, finding_concepts, finding_phrases, load_linker
from kgkit.linking.names import name_phrases
from kgkit.linking.phrases import Phrase
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
        section="impression", concept="finding:edema", link_score=1.0, candidates=(("finding:edema", 1.0),),
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


def test_an_ambiguous_name_gives_all_its_concepts(encoder):
    report = load_linker(encoder).link("r", "Heart is fine. Edema, ARDS. Pleural effusion.")
    assert {mention.text: mention.candidates for mention in report.mentions} == {
        "Heart": (("umls:C0018787", 0.5), ("umls:C9000002", 0.5), ("umls:C9000001", 0.45)),
        "Edema": (("finding:edema", 1.0), ("umls:C0013604", 0.5)),  # the finding's word is a name in the graph too
        "ARDS": (("finding:respiratory_distress_syndrome", 1.0), ("umls:C0035222", 0.45)),
        "Pleural effusion": (("umls:C0032227", 1.0),),  # the finding's concept and the graph's are one
    }
    for mention in report.mentions:
        assert mention.candidates[0] == (mention.concept, mention.link_score)


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
