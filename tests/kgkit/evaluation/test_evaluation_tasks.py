"""`kgkit evaluate`: every task on small real rows, the whole answer, the table, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from small_encoder import SmallEncoder
from typer.testing import CliRunner

import cli
from kgkit.encoder.artifact import load_encoder
from kgkit.errors import InputError
from kgkit.evaluation.entity_linking import entity_linking, read_mesh_matches
from kgkit.evaluation.evaluate import evaluate, held_out_metrics
from kgkit.evaluation.pubtator import corpus_file, read_documents, read_pubtator
from kgkit.evaluation.report import evaluation_lines
from kgkit.resources import resource

NEGEX = """item\treport\tconcept\tsentence\tnegation\ttemporality\texperiencer
1\t1 4\tpneumonia\tThere is no PNEUMONIA.\tNegated\tRecent\tPatient
2\t1\tedema\tEDEMA is seen.\tAffirmed\tRecent\tPatient
3\t2\tstroke\tHistory of STROKE.\tAffirmed\tHistorical\tPatient
4\t2\tcancer\tMother had CANCER.\tAffirmed\tRecent\tFamily member
5\t3\tfever\tReturn if FEVER recurs.\tAffirmed\tNot particular\tPatient
6\t3\tmass\tOdd words hide it: QQQ.\tNegated\tRecent\tPatient
"""
EHR = """snomed_label_1\tsnomed_label_2\tmean_rating
pneumonia\tlung disease\t2.6
rib\theart failure\t0.2
left lung\tright lung\t2.1
aorta\tbroken bone\t0.0
effusion\tpleural effusion\t3.0
"""
PUBTATOR = """1|t|Pneumonia and emphysema.
1|a|Lung infection.
1\t0\t9\tPneumonia\tSpecificDisease\tD011014
1\t14\t23\temphysema\tSpecificDisease\t D004646
1\t25\t39\tInfected  lungs\tSpecificDisease\tD011014|OMIM:1

2|t|Deafness.
2|a|Other.
2\t0\t8\tDeafness\tSpecificDisease\tD003638
2\t0\t8\tPneumonia\tCompositeMention\tOMIM:1+D011014
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three test sets, a few rows each."""
    folder = tmp_path_factory.mktemp("sets")
    for name, text in (("negex/context_annotations.tsv", NEGEX), ("rel/EHR-RelA.tsv", EHR),
                       ("ncbi/NCBItrainset_corpus.txt", PUBTATOR),
                       ("ncbi/NCBIdevelopset_corpus.txt", PUBTATOR)):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_negation_temporality_and_experiencer(sets: Path) -> None:
    found = evaluate(Path("no encoder is read"), "assertion", sets / "negex")
    negation = found["negation"]  # one of two found, nothing else said to be absent
    assert (negation["precision"], negation["recall"], negation["num_queries"]) == (1, 0.5, 6)
    assert negation["f1"] == pytest.approx(2 / 3)
    assert negation["accuracy"] == pytest.approx(5 / 6)
    assert negation["majority_accuracy"] == pytest.approx(4 / 6)
    assert found["temporality"]["accuracy"] == found["experiencer"]["accuracy"] == 1
    assert found["experiencer"]["majority_accuracy"] == pytest.approx(5 / 6)
    assert found["about"]["reports"] == 3
    low, high = negation["f1_interval"]
    assert 0 <= low <= negation["f1"] <= high <= 1


def test_relatedness_equals_scipy(sets: Path, chest_dir: Path) -> None:
    row, letters = evaluate(chest_dir, "relatedness", sets / "rel")["rows"]
    encoder = load_encoder(chest_dir)
    pairs = [line.split("\t") for line in EHR.splitlines()[1:]]
    cosines = [float(np.dot(*encoder.embed_text(pair[:2]))) for pair in pairs]
    ratings = [float(pair[2]) for pair in pairs]
    assert row["pearson"] == pytest.approx(pearsonr(cosines, ratings).statistic, abs=1e-5)
    assert row["spearman"] == pytest.approx(spearmanr(cosines, ratings).statistic)
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit(encoder.names["name"].unique().to_list())
    cosines = [float(cosine_similarity(*(grams.transform([text]) for text in pair[:2]))[0, 0]) for pair in pairs]
    assert letters["name"] == "lexical"
    assert letters["spearman"] == pytest.approx(spearmanr(cosines, ratings).statistic)


def test_linking_reaches_concepts_by_mesh_codes_and_by_mondos_matches(
    sets: Path, chest: SmallEncoder, chest_dir: Path
) -> None:
    assert "MONDO:0004849" in read_mesh_matches()["MESH:D004646"]  # emphysema, on concept 26 by its Mondo code alone
    found = entity_linking(chest_dir, sets / "ncbi")
    counts = {name: found.about[name] for name in ("file", "mentions", "reachable", "hard")}
    assert counts == {"file": "NCBIdevelopset_corpus.txt", "mentions": 5, "reachable": 4, "hard": 1}
    hits = {part: outcomes.columns["hits_at_1"].tolist() for part, outcomes in found.parts.items()}
    assert hits["all"][:2] == [1, 1]  # the graph has both strings
    assert hits["all"][3:] == [0, 1]  # deafness is no concept of it; the last names pneumonia among others
    assert hits["reachable"] == [*hits["all"][:3], 1]
    assert found.parts["hard"].queries == ["1 25-39 Infected  lungs"]
    assert found.parts["reachable"].units.tolist() == [0, 0, 0, 1]


def test_a_file_can_be_chosen(sets: Path, chest_dir: Path) -> None:
    found = evaluate(chest_dir, "linking", sets / "ncbi", file="NCBItrainset_corpus.txt")
    assert found["about"]["file"] == "NCBItrainset_corpus.txt"
    with pytest.raises(InputError, match=r"no file 'x' here; corpus files: NCBIdevelopset_corpus.txt, NCBItrainset"):
        corpus_file(sets / "ncbi", "x")


def test_linking_stands_beside_concept_search_on_the_same_mentions(
    tmp_path: Path, sets: Path, chest: SmallEncoder, chest_dir: Path
) -> None:
    found = evaluate(chest_dir, "linking", sets / "ncbi")
    modes = [f"{how}: {mode}" for how in ("search", "search in text") for mode in ("hybrid", "dense", "lexical")]
    parts = {name: [row["name"] for row in found["rows"] if row["part"] == name] for name in ("reachable", "all")}
    assert parts == {name: ["encoder", "lexical", *modes] for name in ("reachable", "all")}
    exact, dense = (next(row for row in found["rows"] if row["name"] == name) for name in ("encoder", modes[1]))
    assert exact["num_queries"] == dense["num_queries"] == 4
    kge = replace(chest, tower=None).write(tmp_path / "kge")
    rows = {row["name"] for row in evaluate(kge, "linking", sets / "ncbi")["rows"]}
    assert rows == {"lexical", "search: lexical", "search in text: lexical"}, (
        "an encoder that reads no text is searched by letters"
    )


def test_linking_on_marked_reports_measures_finding_presence(tmp_path: Path, chest_dir: Path) -> None:
    data = tmp_path / "reports"
    data.mkdir()
    (data / "reports.csv").write_text("uid,findings,impression\n1,Effusion.,\n2,No effusion.,\n", encoding="utf-8")
    (data / "labels14.csv").write_text("uid,Effusion\n1,1\n2,0\n", encoding="utf-8")
    found = evaluate(chest_dir, "linking", data)
    micro = {row["name"]: row["micro_f1"] for row in found["rows"] if row["part"] == "findings"}
    assert micro == {"encoder": 1, "majority": 0, "mention": pytest.approx(2 / 3)}
    assert "context" in found["cannot"]["lexical"]
    assert "micro F1" in "\n".join(evaluation_lines(found))


def test_search_is_a_task_with_both_of_its_sides(chest_dir: Path) -> None:
    found = evaluate(chest_dir, "search")
    assert [row["name"] for row in found["rows"] if row["part"] == "typos"] == ["encoder", "dense", "lexical"]
    assert {row["minus"] for row in found["differences"]} == {"dense", "lexical"}


def test_an_answer_has_rows_paired_differences_and_says_who_cannot(
    tmp_path: Path, chest: SmallEncoder, chest_dir: Path
) -> None:
    flipped = replace(chest, vectors=chest.vectors[::-1]).write(tmp_path / "flipped")
    kge = replace(chest, tower=None).write(tmp_path / "kge")
    others = [("same", chest_dir), ("flipped", flipped), ("kge", kge)]
    found = evaluate(chest_dir, "synonym", against=others, seed=5)
    first = [row for row in found["rows"] if row["part"] == "unambiguous"]
    assert [row["name"] for row in first] == ["encoder", "lexical", "same", "flipped"]
    assert first[0] | {"name": "same"} == first[2]
    differences = {row["minus"]: row for row in found["differences"] if row["part"] == "unambiguous"}
    assert list(differences) == ["lexical", "same", "flipped"]
    assert differences["same"]["mrr_interval"] == [0, 0]
    assert differences["flipped"]["mrr"] == pytest.approx(first[0]["mrr"] - first[3]["mrr"])
    assert found["cannot"] == {"kge": "it has no text tower, so it cannot read the queries"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert evaluate(chest_dir, "synonym", against=others, seed=5) == found
    text = "\n".join(evaluation_lines(found))
    assert f"{first[0]['mrr']:.3f} (" in text
    assert "encoder - flipped" in text
    assert "kge: not measured, it has no text tower" in text


def test_held_out_metrics_leave_out_what_cannot_be_measured(tmp_path: Path, chest: SmallEncoder) -> None:
    facts = {"train": np.array([[0, 1, 2], [2, 1, 4]]), "test": np.array([[0, 1, 4], [2, 1, 0]])}
    text = held_out_metrics(replace(chest, facts=facts).write(tmp_path / "text"), seed=0)
    assert list(text) == ["link_prediction", "synonym", "definition"]
    kge = held_out_metrics(replace(chest, facts=facts, tower=None).write(tmp_path / "kge"), seed=0)
    assert list(kge) == ["link_prediction"]
    low, high = kge["link_prediction"]["mrr_interval"]
    assert low <= kge["link_prediction"]["mrr"] <= high
    assert (kge["link_prediction"]["num_queries"], kge["link_prediction"]["part"]) == (2, "test")
    assert text["synonym"]["inductive"]["num_queries"] > 0
    assert held_out_metrics(replace(chest, facts={}, tower=None).write(tmp_path / "none"), seed=0) == {}


def test_encoders_that_were_asked_otherwise_are_refused(tmp_path: Path, chest: SmallEncoder, chest_dir: Path) -> None:
    kept = [query for query in chest.held_out_names if query[2] != "valid"]
    moved = [(name, own, "valid" if name == kept[0][0] else part) for name, own, part in chest.held_out_names]
    other = replace(chest, held_out_names=moved).write(tmp_path / "other")
    with pytest.raises(InputError, match=r"sapbert=.*other: the .* queries differ, the first difference is .*one seed"):
        evaluate(chest_dir, "synonym", against=[("sapbert", other)])


@pytest.mark.parametrize(
    ("task", "data", "against", "file", "message"),
    [
        ("synonyms", None, [], None, r"unknown task 'synonyms'; did you mean 'synonym'\? choices: assertion"),
        ("linking", None, [], None, r"'linking' needs --data: a folder with NCBI\*_corpus\.txt"),
        ("synonym", "rel", [], None, "'synonym' reads what the encoder held out itself; leave --data out"),
        ("relatedness", "rel", [], "x", "'relatedness' has no files to choose from; leave --file out"),
        ("relatedness", "negex", [], None, r"negex: expected the set EHR-Rel with \*Rel\*\.tsv; it is not here"),
        ("linking", "rel", [], None, r"rel: expected the NCBI disease corpus with NCBI\*_corpus\.txt; it is not here"),
        ("assertion", "gone", [], None, "gone: no such folder; expected one with context_annotations.tsv"),
        ("assertion", "negex", ["kad"], None, "'assertion' measures the context rules"),
        ("synonym", None, ["lexical"], None, "--against 'lexical': the name is taken"),
        ("synonym", None, ["kad", "kad"], None, "--against 'kad': the name is taken"),
    ],
)  # fmt: skip
def test_wrong_questions_are_refused(
    sets: Path, chest_dir: Path, task: str, data: str | None, against: list[str], file: str | None, message: str
) -> None:
    others = [(name, chest_dir) for name in against]
    with pytest.raises(InputError, match=message):
        evaluate(chest_dir, task, sets / data if data else None, others, file=file)


@pytest.mark.parametrize(
    ("task", "name", "text", "message"),
    [
        ("assertion", "context_annotations.tsv", NEGEX.replace("Negated", "Denied", 1),
         r"context_annotations\.tsv, line 2: negation is 'Denied', expected Affirmed, Negated"),
        ("assertion", "context_annotations.tsv", NEGEX.replace("report", "source", 1), "line 1: no column 'report'"),
        ("assertion", "context_annotations.tsv", NEGEX.splitlines()[0] + "\n", "no row below the header"),
        ("assertion", "context_annotations.tsv", NEGEX + "7\t3\n", "line 8: no value for 'concept'"),
        ("relatedness", "EHR-RelA.tsv", EHR.replace("2.6", "high"), "line 2: mean_rating is 'high', expected a number"),
        ("relatedness", "EHR-RelA.tsv", EHR.replace("2.6", "inf"), "line 2: mean_rating is 'inf', expected a number"),
        ("linking", "NCBI_corpus.txt", "1|t|Title\n1\t0\tx\n", r"NCBI_corpus\.txt, line 2: expected pmid\|t\|"),
        ("linking", "NCBI_corpus.txt", "1|t|Title\n", r"NCBI_corpus\.txt: no mention in this file"),
    ],
)  # fmt: skip
def test_damaged_sets_are_refused(
    tmp_path: Path, chest_dir: Path, task: str, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        evaluate(chest_dir, task, tmp_path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, chest_dir: Path) -> None:
    for task, name in (("assertion", "context_annotations.tsv"), ("linking", "NCBI_corpus.txt")):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="not readable as"):
            evaluate(chest_dir, task, tmp_path)


def test_the_command_prints_a_table_or_json(sets: Path, chest_dir: Path) -> None:
    command = ["evaluate", str(chest_dir), "--task", "assertion", "--data", str(sets / "negex")]
    table = CliRunner().invoke(cli.kgkit, command)
    assert table.exit_code == 0, table.output
    assert "negation: 6 queries" in table.stdout
    found = json.loads(CliRunner().invoke(cli.kgkit, [*command, "--json"]).stdout)
    assert found == evaluate(chest_dir, "assertion", sets / "negex")
    wrong = CliRunner().invoke(cli.kgkit, ["evaluate", str(chest_dir), "--task", "synonym", "--against", "folder"])
    assert "--against 'folder': expected NAME=ENCODER" in str(wrong.exception)


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; expected a concept encoder"):
        evaluate(tmp_path / "gone", "synonym")


def test_mesh_matches_have_one_form_and_wrong_lines_are_refused(tmp_path: Path) -> None:
    matches = read_mesh_matches()
    assert sum(map(len, matches.values())) == 8181
    head = resource("ontologies/mondo_mesh.tsv").read_text(encoding="utf-8").split("MONDO:")[0]
    assert "2026-08-04" in head
    assert "CC0 1.0" in head
    path = tmp_path / "mine.tsv"
    path.write_text("# head\nMONDO:1 MESH:D1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.tsv, line 2: expected MONDO:\.\.\. and MESH:"):
        read_mesh_matches(path)


@pytest.mark.data
def test_the_real_sets_are_read_whole() -> None:
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: the public test sets are not read")
    folder = Path(data)
    counts = {
        name: len(read_pubtator(folder / "ncbi_disease" / f"NCBI{name}set_corpus.txt")) for name in ("develop", "train")
    }
    assert counts == {"develop": 787, "train": 5145}
    develop = folder / "ncbi_disease" / "NCBIdevelopset_corpus.txt"
    texts = read_documents(develop)
    assert all(texts[each.document][each.start : each.end] == each.text for each in read_pubtator(develop))
    found = evaluate(Path("none"), "assertion", folder / "negex")
    assert found["negation"]["num_queries"] == 1436
    assert found["negation"]["f1"] >= 0.95
    assert found["negation"]["accuracy"] > found["negation"]["majority_accuracy"] + 0.1
    source = gzip.decompress((folder / "ontologies/mondo/mondo_exactmatch_mesh.sssom.tsv.gz").read_bytes()).decode()
    rows = [line.split("\t") for line in source.splitlines() if line.startswith("MONDO:")]
    matches = read_mesh_matches()
    assert {(row[0], row[3].replace("mesh:", "MESH:")) for row in rows} == {
        (mondo, mesh) for mesh, each in matches.items() for mondo in each
    }
