"""`vlp evaluate`: laws of its numbers, and what becomes of bad input."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score
from tiny_vlp import CARDIOMEGALY, EFFUSION, put_table, write_openi

from kgkit.interface import InputError, load_findings, write_json_atomically
from vlp.artifact import load_model
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import load_data
from vlp.data.splits import SplitOptions
from vlp.evaluation.asked import ask
from vlp.evaluation.evaluate import EvaluateConfig, evaluate
from vlp.evaluation.measure import MeasureSettings, measure
from vlp.evaluation.scoring import StudyScores, label_matrix
from vlp.evaluation.tables import published_tables


def test_the_metrics_are_those_of_scikit_learn_on_the_predictions_written(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "OUT"))
    assert json.loads((tmp_path / "OUT" / "metrics.json").read_text()) == metrics
    table = pl.read_csv(tmp_path / "OUT" / "predictions.csv")
    for name in ("Cardiomegaly", "Effusion"):
        row = metrics["per_finding"][name]
        expected = roc_auc_score(table[f"label:{name}"], table[f"probability:{name}"])
        assert row["auroc"] == pytest.approx(expected)
        assert row["low"] <= row["auroc"] <= row["high"]
        assert row["positives"] == table[f"label:{name}"].sum()
        assert row["seen_in_training"]
    assert metrics["per_finding"]["Cardiomegaly"]["concept"] == CARDIOMEGALY


def test_no_positives_is_undefined_and_said_so(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "OUT"))
    hernia = metrics["per_finding"]["Hernia"]
    assert hernia["auroc"] is None
    assert hernia["low"] is None
    assert not hernia["seen_in_training"]
    assert "Hernia" not in metrics["macro_auroc"]["findings"]
    assert "no finding has 20 positive studies" in metrics["macro_auroc"]["rule"]
    assert "normal" not in metrics["per_finding"]
    assert metrics["normal"]["concept"] == "finding:normal"


def test_the_macro_mean_is_over_frequent_findings_only() -> None:
    generator = np.random.default_rng(0)
    labels = np.stack([np.arange(100) < count for count in (40, 20, 19)], axis=1).astype(float)
    scores = generator.uniform(size=(100, 3))
    patients = [str(number) for number in range(100)]
    found = measure(["a", "b", "c"], labels, StudyScores(patients, patients, scores), MeasureSettings())
    assert found["macro_auroc"]["findings"] == ["a", "b"]
    expected = np.mean([found["per_finding"][name]["auroc"] for name in ("a", "b")])
    assert found["macro_auroc"]["value"] == pytest.approx(expected)
    assert found["macro_auroc"]["low"] < expected < found["macro_auroc"]["high"]
    assert found["normal"] is None


def test_unknown_labels_are_left_out_not_called_negative() -> None:
    labels = np.array([[1.0], [0.0], [np.nan], [0.0]])
    patients = list("abcd")
    scores = np.array([[0.6], [0.5], [0.9], [0.1]])
    row = measure(["x"], labels, StudyScores(patients, patients, scores), MeasureSettings())["per_finding"]["x"]
    assert (row["n"], row["auroc"]) == (3, 1.0)


def read_from_files(data: Path) -> None:
    """Forget the copies of the films that DATA keeps."""
    images = pl.read_parquet(data / "images.parquet")
    put_table(images.with_columns(stored=pl.lit(None, dtype=pl.String)), data / "images.parquet")


def test_an_evaluation_repeats_itself_and_counts_lost_films(
    tiny_model_dir: Path, openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    prepare(PrepareConfig("openi", openi_copy, tiny_encoder_dir, tmp_path / "DATA"))
    read_from_files(tmp_path / "DATA")
    config = EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "test", tmp_path / "A")
    first = evaluate(config)
    assert first["per_finding"] == evaluate(replace(config, out_dir=tmp_path / "B"))["per_finding"]
    lost = openi_copy / "images" / "135_IM-0001-1001.dcm.png"
    lost.write_bytes(b"rubbish")
    later = evaluate(replace(config, out_dir=tmp_path / "C"))
    assert later["studies"] == first["studies"] - 1
    assert later["studies_without_film"] == 1
    assert "not an image" in later["unreadable_films"][0]["reason"]


def test_the_page_is_well_formed_and_needs_no_network(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "OUT"))
    page = (tmp_path / "OUT" / "report.html").read_text()
    opened: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not any(name == "href" for name, _ in attrs)
            assert all((value or "").startswith("data:image/jpeg;base64,") for name, value in attrs if name == "src")
            if tag not in ("meta", "img", "br"):
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Checker().feed(page)
    assert opened == []
    assert "://" not in page
    assert "undefined" in page
    assert "Cardiomegaly" in page


def test_what_preparing_left_out_stands_in_the_report(
    tiny_model_dir: Path, openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    film = min((openi_copy / "images").iterdir())
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(film)
    prepare(PrepareConfig("openi", openi_copy, tiny_encoder_dir, tmp_path / "DATA"))
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "test", tmp_path / "OUT"))
    reason = "blank film (every pixel is the same)"
    assert metrics["left_out_before"][reason] == {"count": 1, "first": f"images/{film.name}"}
    page = (tmp_path / "OUT" / "report.html").read_text()
    assert f"<td>{reason}</td>" in page
    manifest = json.loads((tmp_path / "DATA" / "manifest.json").read_text())
    for key in ("labels_digest", "skipped_by_reason"):
        write_json_atomically(tmp_path / "DATA" / "manifest.json", manifest | {key: None})
        with pytest.raises(InputError, match=rf"manifest\.json: {key} is missing or not as written"):
            load_data(tmp_path / "DATA")


def test_wrong_splits_and_data_without_labels_are_named(
    tiny_model_dir: Path, tiny_data_dir: Path, openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "tset", tmp_path / "OUT"))
    with pytest.raises(InputError, match="no split 'vla'; did you mean 'val'"):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT", validation_split="vla"))
    (openi_copy / "labels14.csv").write_text("uid,Nonsense\n100,1\n")
    made = prepare(PrepareConfig("openi", openi_copy, tiny_encoder_dir, tmp_path / "DATA"))
    assert made.first_skipped["unknown label column"] == "labels14.csv: Nonsense"
    with pytest.raises(InputError, match="no label to evaluate on: label columns are none; known: "):
        evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "val", tmp_path / "OUT"))
    assert not (tmp_path / "OUT").exists()


def test_films_that_are_gone_are_missed_unless_data_keeps_them(
    tiny_model_dir: Path, openi_copy: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    prepare(PrepareConfig("openi", openi_copy, tiny_encoder_dir, tmp_path / "DATA"))
    there = evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "val", tmp_path / "A"))
    shutil.rmtree(openi_copy)
    config = EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "val", tmp_path / "OUT")
    assert evaluate(config)["per_finding"] == there["per_finding"]
    read_from_files(tmp_path / "DATA")
    with pytest.raises(InputError, match=r"no film of split 'val' can be read; first: .*which is gone: prepare again"):
        evaluate(config)


def bare(model_dir: Path, out: Path) -> Path:
    """A copy of a model without what training writes beside the weights."""
    copy = Path(shutil.copytree(model_dir, out))
    for name in ("calibration.json", "training_mentions.json", "training_films.parquet"):
        (copy / name).unlink()
    return copy


# --- validation alone gives thresholds and calibration ------------------------------------------------------------


def relabelled(data_dir: Path, out: Path, split: str) -> Path:
    """The same data with every label of one split turned round."""
    shutil.copytree(data_dir, out)
    studies, splits = pl.read_parquet(out / "studies.parquet"), pl.read_csv(out / "splits.csv", infer_schema=False)
    turned = studies["study_id"].is_in(splits.filter(pl.col("split") == split)["study_id"].implode())
    labels = [name for name in studies.columns if name.startswith("label:")]
    columns = (
        pl.when(turned).then(1 - pl.col(name)).otherwise(pl.col(name)).cast(pl.Int8).alias(name) for name in labels
    )
    put_table(studies.with_columns(columns), out / "studies.parquet")
    return out


def test_the_test_part_changes_neither_thresholds_nor_calibration(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "A"))
    turned = relabelled(tiny_data_dir, tmp_path / "TURNED", "test")
    metrics = evaluate(EvaluateConfig(tiny_model_dir, turned, "test", tmp_path / "B"))
    first, second = (tmp_path / name / "calibration.json" for name in ("A", "B"))
    assert first.read_bytes() == second.read_bytes()
    other = relabelled(tiny_data_dir, tmp_path / "OTHER", "val")
    evaluate(EvaluateConfig(tiny_model_dir, other, "test", tmp_path / "C"))
    assert (tmp_path / "C" / "calibration.json").read_bytes() != first.read_bytes()  # so the check above can fail
    assert metrics["calibration_source"].startswith("labels of split val of openi")


def test_the_operating_point_is_that_of_scikit_learn_at_the_threshold_of_validation(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT"))
    table = pl.read_csv(tmp_path / "OUT" / "predictions.csv")
    kept = json.loads((tmp_path / "OUT" / "calibration.json").read_text())["findings"]
    row, read = metrics["per_finding"]["Effusion"], kept[EFFUSION]
    called = table["probability:Effusion"] >= read["threshold"]
    assert row["threshold"] == read["threshold"]
    assert row["mcc"]["value"] == pytest.approx(matthews_corrcoef(table["label:Effusion"], called))
    assert row["f1"]["value"] == pytest.approx(f1_score(table["label:Effusion"], called))
    order = table["probability:Effusion"].arg_sort()
    assert table["calibrated:Effusion"][order].is_sorted()
    again = evaluate(
        EvaluateConfig(
            tiny_model_dir, tiny_data_dir, "test", tmp_path / "D", calibration=tmp_path / "OUT" / "calibration.json"
        )
    )
    assert again["per_finding"] == metrics["per_finding"]
    with pytest.raises(InputError, match=r"metrics\.json: not a calibration"):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "E",
                                calibration=tmp_path / "OUT" / "metrics.json"))  # fmt: skip


def test_thresholds_fitted_on_the_evaluated_split_are_said_to_flatter(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "OUT"))
    assert "look better than they are" in metrics["calibration_note"]
    kept = tmp_path / "OUT" / "calibration.json"
    again = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "AGAIN", calibration=kept))
    assert "look better than they are" in again["calibration_note"]
    other = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "TEST", calibration=kept))
    assert other["calibration_note"] is None
    config = EvaluateConfig(tiny_model_dir, tiny_data_dir, "val", tmp_path / "OWN", validation_split="")
    assert evaluate(config)["calibration_source"] == "what the validation reports say"
    model = bare(tiny_model_dir, tmp_path / "MODEL")
    without = evaluate(EvaluateConfig(model, tiny_data_dir, "val", tmp_path / "NO", validation_split=""))
    assert without["calibration_source"] is None
    assert without["per_finding"]["Effusion"]["mcc"] is None
    assert without["per_finding"]["Effusion"]["at_specificity"]["sensitivity_on_this_curve"] is not None


# --- what is asked ------------------------------------------------------------------------------------------------


def test_any_words_are_measured_against_a_label(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    asked = ("Effusion", EFFUSION.replace("umls", "umls"), "Effusion=fluid around the lung", "coughing")
    config = EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT", queries=asked)
    rows = evaluate(config)["per_finding"]
    assert list(rows) == ["Effusion", EFFUSION, "Effusion=fluid around the lung", "coughing"]
    assert rows["Effusion"]["auroc"] == rows[EFFUSION]["auroc"]
    words = rows["Effusion=fluid around the lung"]
    assert (words["label"], words["positives"], words["is_text_encoded"]) == (
        "Effusion",
        rows["Effusion"]["positives"],
        True,
    )
    assert words["auroc"] is not None
    assert (rows["coughing"]["label"], rows["coughing"]["n"], rows["coughing"]["auroc"]) == (None, 0, None)
    with pytest.raises(InputError, match="no label column 'Efusion'; did you mean 'Effusion'"):
        evaluate(replace(config, queries=("Efusion=fluid",)))
    with pytest.raises(InputError, match="'Effusion' is asked twice"):
        evaluate(replace(config, queries=("Effusion", "Effusion")))


def test_averaged_synonyms_are_the_mean_of_all_names(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    model, data = load_model(tiny_model_dir), load_data(tiny_data_dir)
    one, many = ask(model, data), ask(model, data, average_synonyms=True)
    assert one.names == many.names
    own, averaged = (asked.resolved.vectors[: len(asked.columns)] for asked in (one, many))
    assert np.allclose(averaged.norm(dim=1), 1, atol=1e-5)
    assert all((column.synonyms > 1) == (column.name != "normal") for column in many.columns)
    assert not np.allclose(own, averaged)
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT", average_synonyms=True))
    assert metrics["per_finding"]["Effusion"]["synonyms"] == many.columns[one.names.index("Effusion")].synonyms


def test_seen_rare_and_unseen_go_by_the_training_reports(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "A"))
    mentions = pl.read_parquet(tiny_data_dir / "mentions.parquet")
    train = pl.read_csv(tiny_data_dir / "splits.csv", infer_schema=False).filter(pl.col("split") == "train")["study_id"]
    of_train = mentions.filter(pl.col("study_id").is_in(train.implode()) & (pl.col("concept") == EFFUSION))
    row = metrics["per_finding"]["Effusion"]
    assert (row["training"], row["training_reports"]) == ("rare", of_train["study_id"].n_unique())
    assert row["training_present"] == of_train.filter(pl.col("certainty") == "present")["study_id"].n_unique() < 20
    assert metrics["per_finding"]["Hernia"]["training"] == "unseen"
    # On other data nothing is known of the training reports beyond the model's own queries ...
    other = relabelled(tiny_data_dir, tmp_path / "OTHER", "val")
    manifest = json.loads((other / "manifest.json").read_text()) | {"data_digest": "another"}
    write_json_atomically(other / "manifest.json", manifest)
    rows = evaluate(EvaluateConfig(bare(tiny_model_dir, tmp_path / "MODEL"), other, "test", tmp_path / "B"))[
        "per_finding"
    ]
    assert (rows["Effusion"]["seen"], rows["Hernia"]["seen"]) == (True, None)
    # ... unless the model keeps them.
    rows = evaluate(EvaluateConfig(tiny_model_dir, other, "test", tmp_path / "C"))["per_finding"]
    assert rows["Hernia"]["training"] == "unseen"
    assert rows["Effusion"]["training_reports"] == row["training_reports"]


# --- groups, tables, readers --------------------------------------------------------------------------------------


def test_a_group_is_measured_on_its_own_studies(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data_dir, tmp_path / "DATA"))
    studies = pl.read_parquet(data / "studies.parquet")
    number = studies["study_id"].cast(pl.Int64)
    sexes = pl.Series("sex", ["F" if value % 4 < 2 else "" for value in number])
    put_table(studies.with_columns(sexes, (number % 90).cast(pl.Float64).alias("age")), data / "studies.parquet")
    config = EvaluateConfig(tiny_model_dir, data, "train", tmp_path / "OUT", min_positives=3)
    groups = evaluate(config)["subgroups"]
    table = pl.read_csv(tmp_path / "OUT" / "predictions.csv")
    women = table.filter(table["study_id"] % 4 < 2)
    found = groups["sex"]["groups"]["F"]
    assert list(groups["sex"]["groups"]) == ["F"]  # the others are not known
    assert found["n"] == len(women)
    expected = roc_auc_score(women["label:Effusion"], women["probability:Effusion"])
    assert found["per_finding"]["Effusion"]["auroc"] == pytest.approx(expected)
    assert found["low"] <= found["auroc"] <= found["high"]
    assert "view" not in groups or groups["view"]["groups"]


def test_the_published_tables_say_what_they_lack(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    tables = evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT"))["tables"]
    five = tables["CheXpert 5"]
    assert [finding["name"] for finding in five["findings"]] == ["Cardiomegaly", "Effusion"]
    assert five["missing"] == ["atelectasis", "consolidation", "edema"]
    assert not five["is_complete"]
    assert five["mean_auroc"] == pytest.approx(np.mean([finding["auroc"] for finding in five["findings"]]))
    assert tables["ChestX-ray14"]["undefined"] == ["Hernia"]


def test_the_published_table_of_padchest_has_findings_that_ours_does_not_know() -> None:
    known = {f.key: f for f in load_findings().values() if "padchest" in f.labels and f.key != "normal"}
    rows = {key: {"auroc": 0.5, "low": 0.4, "high": 0.6, "positives": 9} for key in known}
    table = published_tables(known, rows, "padchest")["PadChest"]
    assert len(table["findings"]) == len(known) < table["published"] == 193
    assert not table["is_complete"]


def test_readers_stand_beside_the_model(tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("reader,finding,sensitivity,specificity\nA,Effusion,0.8,0.9\n")
    config = EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT", readers=points)
    assert evaluate(config)["readers"] == {"Effusion": [{"reader": "A", "sensitivity": 0.8, "specificity": 0.9}]}
    assert "A: sensitivity 0.80, specificity 0.90" in (tmp_path / "OUT" / "report.html").read_text()
    table = pl.read_csv(tmp_path / "OUT" / "predictions.csv")
    reads = tmp_path / "reads.csv"
    lines = [f"B,{study},{label}" for study, label in table.select("study_id", "label:Effusion").iter_rows()]
    reads.write_text("\n".join(["reader,study_id,Effusion", *lines[1:], lines[0][:-1]]))
    found = evaluate(replace(config, readers=reads))["readers"]["Effusion"][0]
    assert (found["sensitivity"], found["specificity"], found["mcc"], found["n"]) == (1, 1, 1, len(lines) - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "columns are a, b; expected reader, finding, sensitivity, specificity, or reader, study_id"),
        ("reader,finding,sensitivity,specificity\nA,Efusion,1,1\n", "line 2: no finding 'Efusion' was evaluated"),
        ("reader,finding,sensitivity,specificity\nA,Effusion,80,1\n", "line 2: sensitivity is '80', expected a number"),
        ("reader,study_id,Effusion\nA,999,1\n", "line 2: study '999' was not evaluated"),
        ("reader,study_id,Effusion\nA,130,1\nA,130,1\n", "line 3: reader 'A' read study '130' already"),
        ("reader,study_id,Effusion\nA,130,yes\n", "line 2: Effusion is 'yes', expected 0, 1 or nothing"),
    ],
)
def test_a_wrong_file_of_readers_is_named(
    tiny_model_dir: Path, tiny_data_dir: Path, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "readers.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "OUT", readers=path))
    assert not (tmp_path / "OUT").exists()


def test_uncertain_labels_are_unknown(tiny_data_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data_dir, tmp_path / "DATA"))
    studies = pl.read_parquet(data / "studies.parquet")
    values = pl.Series("label:Effusion", [-1, None, 1, 0] + [0] * (len(studies) - 4), dtype=pl.Int8)
    put_table(studies.with_columns(values), data / "studies.parquet")
    matrix = label_matrix(load_data(data), studies["study_id"].to_list()[:4], ["Effusion", None])
    assert np.array_equal(matrix[:, 0], [np.nan, np.nan, 1, 0], equal_nan=True)
    assert np.isnan(matrix[:, 1]).all()


def test_average_precision_has_an_interval_too() -> None:
    generator = np.random.default_rng(0)
    labels = (np.arange(80) < 25).astype(float)[:, None]
    scores = np.clip(generator.normal(size=(80, 1)) + labels, -9, 9)
    patients = [str(number) for number in range(80)]
    row = measure(["x"], labels, StudyScores(patients, patients, scores), MeasureSettings())["per_finding"]["x"]
    assert row["average_precision"] == pytest.approx(average_precision_score(labels[:, 0], scores[:, 0]))
    assert row["average_precision_low"] < row["average_precision"] < row["average_precision_high"]


def test_the_normal_film_is_apart_whatever_the_data_call_it(
    tiny_model_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    write_openi(tmp_path / "SRC", studies=36)
    prepare(PrepareConfig("openi", tmp_path / "SRC", tiny_encoder_dir, tmp_path / "DATA"))
    manifest = json.loads((tmp_path / "DATA" / "manifest.json").read_text()) | {"label_set": "nih"}
    write_json_atomically(tmp_path / "DATA" / "manifest.json", manifest)
    studies = pl.read_parquet(tmp_path / "DATA" / "studies.parquet")
    put_table(studies.rename({"label:normal": "label:No Finding"}), tmp_path / "DATA" / "studies.parquet")
    metrics = evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "DATA", "test", tmp_path / "OUT"))
    assert "No Finding" not in metrics["per_finding"]
    assert metrics["normal"]["label"] == "No Finding"
    assert math.isfinite(metrics["normal"]["auroc"])


def test_all_parts_of_other_data_are_asked_at_once(
    tiny_model_dir: Path, tiny_data_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the model was trained on a part of these data"):
        evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "all", tmp_path / "NO"))
    source = Path(json.loads((tiny_data_dir / "manifest.json").read_text())["image_root"])
    prepare(PrepareConfig("openi", source, tiny_encoder_dir, tmp_path / "ANEW", SplitOptions(test_only=True)))
    with pytest.raises(InputError, match="the model was trained on a part of these data"):  # the films are the same
        evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "ANEW", "all", tmp_path / "NO"))
    assert evaluate(EvaluateConfig(tiny_model_dir, tmp_path / "ANEW", "test", tmp_path / "NONE"))["trained_on"] == 36
    assert "36 of these studies were trained on" in (tmp_path / "NONE" / "report.html").read_text()
    assert evaluate(EvaluateConfig(tiny_model_dir, tiny_data_dir, "test", tmp_path / "TEST"))["trained_on"] == 0
    other = Path(shutil.copytree(tiny_data_dir, tmp_path / "OTHER"))
    manifest = json.loads((other / "manifest.json").read_text()) | {"data_digest": "another"}
    write_json_atomically(other / "manifest.json", manifest)
    metrics = evaluate(EvaluateConfig(bare(tiny_model_dir, tmp_path / "MODEL"), other, "all", tmp_path / "OUT"))
    assert metrics["studies"] == 48
    assert metrics["calibration_source"] is None  # its validation studies are among those evaluated
