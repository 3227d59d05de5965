"""Finding presence: hand-counted figures, an independent reference, labels that steer nothing, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from kgkit.errors import InputError
from kgkit.evaluation.evaluate import _measured
from kgkit.evaluation.finding_presence import (
    COMMON,
    finding_presence,
    finding_presence_baselines,
    one_finding_figures,
    presence_figures,
)
from kgkit.evaluation.outcomes import Answer, figures_of
from kgkit.resources import resource

LABELS = ("Effusion", "Edema", "Nodule", "normal")
REPORTS = (
    # findings, impression, labels, part
    ("Small pleural effusion. No edema.", "", "1000", "train"),
    ("No effusion.", "Possible pulmonary edema.", "0100", "val"),
    ("History of effusion. Lung nodule.", "", "0010", "val"),
    ("", "", "0001", "val"),
    ("Effusion.", "Mother had pulmonary edema.", "0000", "test"),
)


def write_set(folder: Path, reports: Sequence[tuple[str, str, str, str]] = REPORTS, *, splits: bool = True) -> Path:
    """A folder in the layout of Open-i, without films."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["uid,MeSH,indication,findings,impression"]
    rows += [f'{uid},x,effusion,"{findings}","{impression}"' for uid, (findings, impression, *_) in enumerate(reports)]
    marks = [",".join(("uid", *LABELS)), *(",".join((str(uid), *row[2])) for uid, row in enumerate(reports))]
    parts = ["uid,split", *(f"{uid},{row[3]}" for uid, row in enumerate(reports))]
    tables = {"reports.csv": rows, "labels14.csv": marks} | ({"splits.csv": parts} if splits else {})
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def figures(answer: Answer) -> dict[str, dict[str, float]]:
    return {part: figures_of(outcomes, answer.statistics[part]) for part, outcomes in answer.parts.items()}


def said(answer: Answer) -> dict[str, float]:
    whole = answer.parts["findings"]
    return dict(zip(whole.queries, whole.columns["said"].tolist(), strict=True))


def test_what_is_said_of_each_report(tmp_path: Path) -> None:
    answer = finding_presence(None, write_set(tmp_path), "all")
    present = {query for query, value in said(answer).items() if value}
    assert present == {"0: Effusion", "2: Nodule", "4: Effusion"}
    found = figures(answer)
    assert found["Effusion"] == {"f1": pytest.approx(2 / 3), "precision": 0.5, "recall": 1}
    assert found["Nodule"] == {"f1": 1, "precision": 1, "recall": 1}
    assert found["Edema"]["recall"] == 0
    assert np.isnan(found["Edema"]["precision"])
    assert found["findings"]["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert np.isnan(found["findings"]["macro_f1"])  # no finding is common in five reports
    assert answer.notes == ["no finding has 20 positive reports, so there is no macro F1"]
    assert answer.about["positives"] == {"Effusion": 1, "Edema": 1, "Nodule": 1}


def test_the_part_is_val_then_test_then_everything(tmp_path: Path) -> None:
    whole = write_set(tmp_path / "whole")
    assert (finding_presence(None, whole).about["part"], finding_presence(None, whole).about["reports"]) == ("val", 3)
    only = write_set(tmp_path / "test", [(*row[:3], "test") for row in REPORTS])
    assert (finding_presence(None, only).about["part"], finding_presence(None, only).about["reports"]) == ("test", 5)
    plain = write_set(tmp_path / "plain", splits=False)
    assert (finding_presence(None, plain).about["part"], finding_presence(None, plain).about["reports"]) == ("all", 5)


def test_labels_steer_nothing(tmp_path: Path) -> None:
    """With every mark turned around, the same things are said."""
    turned = [(*row[:2], row[2].translate(str.maketrans("01", "10")), row[3]) for row in REPORTS]
    left, right = write_set(tmp_path / "a"), write_set(tmp_path / "b", turned)
    assert said(finding_presence(None, left)) == said(finding_presence(None, right))


def test_an_encoder_adds_its_names_and_loses_no_finding(tmp_path: Path, chest_dir: Path) -> None:
    folder = write_set(tmp_path)
    assert said(finding_presence(chest_dir, folder, "all")) == said(finding_presence(None, folder, "all"))


def test_baselines_answer_the_same_questions(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    ours, others = finding_presence(None, folder, "all"), finding_presence_baselines(folder, "all")
    assert list(others) == ["majority", "mention"]
    for other in others.values():
        assert other.parts["findings"].queries == ours.parts["findings"].queries
        assert other.parts["findings"].columns["gold"].tolist() == ours.parts["findings"].columns["gold"].tolist()
    assert not any(said(others["majority"]).values())
    named = {query for query, value in said(others["mention"]).items() if value}
    assert named == {"0: Effusion", "0: Edema", "1: Effusion", "1: Edema", "2: Effusion", "2: Nodule", "4: Effusion",
                     "4: Edema"}  # fmt: skip
    rows = _measured({"ours": ours, **others}, seed=0)
    assert rows["ours"]["findings"].minus(rows["mention"]["findings"])["num_queries"] == 15


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30))
def test_figures_equal_scikit_learns(rows: list[tuple[bool, bool, int, int]]) -> None:
    gold, told, number, weight = map(np.array, zip(*rows, strict=True))
    columns = {"gold": gold.astype(float), "said": told.astype(float), "finding": number.astype(float)}
    repeated = np.repeat(np.arange(len(rows)), weight)
    scores = []
    for finding in (0, 2):
        chosen = repeated[number[repeated] == finding]
        if (gold[chosen] | told[chosen]).any():
            scores.append(f1_score(gold[chosen], told[chosen]))
    found = presence_figures([True, False, True], columns, weight)
    expected = {"macro_f1": np.mean(scores) if scores else np.nan}
    any_at_all = (gold[repeated] | told[repeated]).any()
    expected["micro_f1"] = f1_score(gold[repeated], told[repeated]) if any_at_all else np.nan
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    one = one_finding_figures(columns, weight)["f1"]
    assert one == pytest.approx(expected["micro_f1"], nan_ok=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels14.csv", None, r"labels14\.csv: cannot be read"),
        ("labels14.csv", "uid,Effusion\n", r"labels14\.csv: no row below the header"),
        ("labels14.csv", "id,Effusion\n0,1\n", r"labels14\.csv, line 1: no column 'uid'"),
        ("labels14.csv", "uid,normal\n0,1\n", r"line 1: no column is a finding that Open-i marks \("),
        ("labels14.csv", "uid,Effusion\n0,2\n", r"labels14\.csv, line 2: Effusion is '2', expected 0, 1"),
        ("labels14.csv", "uid,Effusion\n0,1\n0,1\n", r"line 3: uid '0' stands on line 2 already"),
        ("labels14.csv", "uid,Effusion\n0\n", r"line 2: expected 2 fields as in the header"),
        ("labels14.csv", "uid,Effusion\n77,1\n", r"reports\.csv: no report of part 'val' has marks"),
        ("reports.csv", "uid,findings\n0,x\n", r"reports\.csv, line 1: no column 'impression'"),
        ("splits.csv", "uid,part\n0,x\n", r"splits\.csv, line 1: no column 'split'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    folder = write_set(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        finding_presence(None, folder)


def test_an_unknown_part_or_folder_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    with pytest.raises(InputError, match=r"no part 'vall' here; did you mean 'val'\?"):
        finding_presence(None, folder, "vall")
    with pytest.raises(InputError, match=r"no such folder; expected reports with marks"):
        finding_presence(None, tmp_path / "none")
    with pytest.raises(InputError, match=r"splits\.csv: part 'val' asked for, but there is no such file"):
        finding_presence(None, write_set(tmp_path / "plain", splits=False), "val")


def _headline(data: Path, part: str) -> Mapping[str, float]:
    answer = finding_presence(None, data, part)
    assert len(answer.about["macro_over"].split(", ")) >= 3
    return figures(answer)["findings"]


def test_agreement_with_the_annotators_on_the_bundled_reports() -> None:
    assert _headline(resource("examples/openi"), "all")["macro_f1"] >= 0.85


@pytest.mark.data
def test_agreement_with_the_annotators_on_val() -> None:
    data = os.environ.get("KGKIT_DATA")
    if data is None:
        pytest.skip("KGKIT_DATA is not set: finding presence is not measured on the whole Open-i set")
    folder = Path(data) / "indiana_cxr"
    ours = _headline(folder, "val")
    baselines = finding_presence_baselines(folder, "val")
    assert ours["macro_f1"] >= 0.80
    for baseline in baselines.values():
        assert ours["macro_f1"] > figures(baseline)["findings"]["macro_f1"] + 0.2
    assert COMMON == 20
