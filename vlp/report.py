"""The page of one evaluation: tables, curves, calibration and errors worth looking at, in one file without network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from kgkit.interface import DoubleArray, FloatArray, InputError
from vlp.evaluation.calibration import FindingCalibration
from vlp.evaluation.figures import interval_bar, reliability_figure, roc_figure, thumbnail
from vlp.evaluation.scoring import StudyScores

_MAX_FIGURES = 40
_MAX_ERRORS = 12
_ERRORS_PER_FINDING = 2
_TEXT_SHOWN = 320
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.2rem } table { border-collapse: collapse; width: 100%; font-size: 13.5px }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #dde; vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums } td.number { white-space: nowrap }
.table { overflow-x: auto }
.quiet { color: #667; font-size: 13px } .warn { background: #fff4d6; padding: .4rem .7rem }
.cards { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 }
figcaption { font-size: 13px; max-width: 190px } .error { width: 168px; font-size: 12.5px; line-height: 1.35 }
.error img { width: 168px; display: block; background: #000 }
svg text { font: 10px system-ui, sans-serif; fill: #667 } .ground { fill: #f6f7fa } .bar { fill: #c9d6f2 }
.dot { fill: #1f4fa3 } .curve { fill: none; stroke: #1f4fa3; stroke-width: 1.5 }
.chance { stroke: #99a; stroke-dasharray: 3 3 }
.ours { fill: #1f4fa3 } .reader { fill: #d2691e }
"""


@dataclass(frozen=True)
class PageContent:
    """What the page shows beside metrics.json.

    Attributes:
        names: Finding of each column, [F].
        labels: float64 [n, F], 1, 0 or NaN.
        predicted: Scores of the studies.
        read_by: Name -> calibration, where there is one.
        text_of: Study -> its report.
        read_film: Reads the film of a row of `StudyScores.films`: float32 [H, W]; raises InputError.
    """

    names: Sequence[str]
    labels: DoubleArray
    predicted: StudyScores
    read_by: Mapping[str, FindingCalibration]
    text_of: Mapping[str, str | None]
    read_film: Callable[[dict[str, Any]], FloatArray]


def evaluation_page(metrics: Mapping[str, Any], content: PageContent) -> str:
    """The page as HTML.

    Args:
        metrics: Content of metrics.json.
        content: Scores, labels and reports.
    """
    counted = metrics["macro_auroc"]["findings"]
    by_area = sorted(metrics["per_finding"].items(), key=lambda item: -(item[1]["auroc"] or 0))
    rows = dict(sorted(by_area, key=lambda item: item[0] not in counted))
    if metrics["normal"] is not None:
        rows["normal"] = metrics["normal"]
    sections = [
        _head(metrics),
        _findings_table(rows, metrics),
        _published(metrics["tables"]),
        _curves(rows, metrics, content),
        _reliability(rows, metrics),
        _subgroups(metrics["subgroups"]),
        _retrieval(metrics["retrieval"]),
        _errors(rows, content),
        _unreadable(metrics["unreadable_films"]),
        _left_out(metrics["left_out_before"]),
    ]
    body = "\n".join(section for section in sections if section)
    head = f'<meta charset="utf-8"><title>vlp evaluation</title><style>{_STYLE}</style>'
    foot = '<p class="quiet">Labels were used here and nowhere else. Not for clinical use.</p>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n{foot}\n</body></html>\n'


def _head(metrics: Mapping[str, Any]) -> str:
    macro = metrics["macro_auroc"]
    value = "undefined" if macro["value"] is None else f"{macro['value']:.3f} ({_interval(macro)})"
    groups = "; ".join(
        f"{group}: {found['mean_auroc']:.3f} over {len(found['findings'])}"
        for group, found in metrics["by_training"].items()
    )
    note = f'<p class="warn">{escape(metrics["calibration_note"])}.</p>' if metrics["calibration_note"] else ""
    if metrics["trained_on"]:
        note += f'<p class="warn">{metrics["trained_on"]} of these studies were trained on: this is no test.</p>'
    source = metrics["calibration_source"] or "none: no validation labels, so no thresholds and no calibration"
    return f"""<h1>{escape(str(metrics["dataset"]))}, split {escape(metrics["split"])}</h1>
<p><b>Macro AUROC {value}</b> over {len(macro["findings"])} findings: {escape(macro["rule"])}; <i>normal</i>
apart. {metrics["studies"]} studies of {metrics["patients"]} patients; {metrics["studies_without_film"]} studies
without a readable film, {len(metrics["unreadable_films"])} unreadable films; {len(metrics["undefined"])} findings
whose AUROC is undefined. Intervals: 95 %, {metrics["resamples"]} resamples of patients. Chance is 0.5.</p>
<p>By what the training reports spoke of, mean over findings with a defined AUROC: {escape(groups) or "none"}.</p>
<p class="quiet">Thresholds and calibration: {escape(source)}.</p>{note}"""


def _findings_table(rows: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    wanted = next((row["at_specificity"]["wanted"] for row in rows.values()), 0.9)
    heads = ["finding", "AUROC", "95 %", "", "average precision", "MCC", "F1"]
    heads += [f"sensitivity at {wanted:.0%} specificity", "ECE", "positives", "studies", "in training", "query"]
    counted = metrics["macro_auroc"]["findings"]
    lines = [_finding_row(name, row, name in counted) for name, row in rows.items()]
    note = (
        "Bold: in the macro mean. MCC, F1 and sensitivity: at thresholds chosen on validation studies; in brackets the "
        "specificity reached here. ECE: of the calibrated probabilities. In training: seen, rare or unseen, and the "
        "training reports that call it present"
    )
    return _section("Findings", note, _table(heads, lines))


def _finding_row(name: str, row: Mapping[str, Any], is_counted: bool) -> list[object]:
    fixed = row["at_specificity"]
    sensitivity = ""
    if fixed["sensitivity"] and fixed["sensitivity"]["value"] is not None:
        reached = _number(fixed["specificity"]["value"], digits=2)
        sensitivity = f"{fixed['sensitivity']['value']:.2f} ({reached})"
    asked = row.get("concept") or f"“{row.get('query')}”"
    return [
        f"<b>{escape(name)}</b>" if is_counted else escape(name),
        "undefined" if row["auroc"] is None else _number(row["auroc"]),
        _interval(row),
        interval_bar(row),
        _number(row["average_precision"]),
        *(_number(row[metric]["value"] if row[metric] else None) for metric in ("mcc", "f1")),
        sensitivity,
        _number(row["ece"]),
        row["positives"],
        row["n"],
        f'<span class="quiet">{_training(row)}</span>',
        f'<span class="quiet">{escape(str(asked))}</span>',
    ]


def _training(row: Mapping[str, Any]) -> str:
    if row["training"] in (None, "unseen"):
        return row["training"] or "not known"
    return f"{row['training']}, {row['training_present']}"


def _published(tables: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for name, table in tables.items():
        lines = [
            [escape(f["name"]), _number(f["auroc"]) or "undefined", _interval(f), f["positives"]]
            for f in table["findings"]
        ]
        mean = _number(table["mean_auroc"]) or "undefined"
        lacks = "" if table["is_complete"] else f" of {table['published']} (not to be set beside published means)"
        absent = escape(", ".join(table["missing"][:20]))
        missing = f'<p class="quiet">Not labelled here: {absent}.</p>' if absent else ""
        heads = ["finding", "AUROC", "95 %", "positives"]
        defined = len(table["findings"]) - len(table["undefined"])
        parts.append(
            f"<details><summary>{escape(name)}: mean {mean} over {defined} findings{lacks}</summary>"
            f"{_table(heads, lines)}{missing}</details>"
        )
    return _section("As published tables ask", "", "".join(parts))


def _curves(rows: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any], content: PageContent) -> str:
    figures = []
    readers = metrics["readers"] or {}
    for name in _shown(rows, metrics):
        column = list(content.names).index(rows[name]["column"])
        known = ~np.isnan(content.labels[:, column])
        truth, scores = content.labels[known, column] == 1, content.predicted.scores[known, column]
        figures.append(roc_figure(name, truth, scores, rows[name], readers.get(name, [])))
    legend = "square: the threshold from validation" + ("; diamonds: readers" if readers else "")
    return _section("ROC curves", legend, _cards(figures))


def _reliability(rows: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    figures = [
        reliability_figure(name, rows[name]["reliability"], rows[name]["ece"])
        for name in _shown(rows, metrics)
        if rows[name].get("reliability")
    ]
    return _section("Reliability", "calibrated probabilities in ten bins of equal size", _cards(figures))


def _shown(rows: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    """The findings with figures: those of the macro mean first."""
    counted = metrics["macro_auroc"]["findings"]
    defined = [name for name, row in rows.items() if row["auroc"] is not None]
    return sorted(defined, key=lambda name: name not in counted)[:_MAX_FIGURES]


def _subgroups(subgroups: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[object]] = []
    for kind, table in subgroups.items():
        for group, found in table["groups"].items():
            area = _number(found["auroc"]) or "undefined"
            counts = [found["n"], found["patients"], len(table["findings"])]
            lines.append([escape(kind), escape(group), area, _interval(found), *counts])
    heads = ["by", "group", "macro AUROC", "95 %", "studies", "patients", "findings, the same in each group"]
    return _section("Groups of patients", "", _table(heads, lines) if lines else "")


def _retrieval(found: Mapping[str, Any]) -> str:
    if "skipped" in found:
        return _section("Films and reports", "", f'<p class="quiet">Not measured: {escape(found["skipped"])}.</p>')
    lines: list[list[object]] = []
    for way in ("film_to_report", "report_to_film"):
        values = found[way]
        recalls = [
            f"{values[f'recall_at_{k}']['value']:.3f} ({_interval(values[f'recall_at_{k}'])})" for k in (1, 5, 10)
        ]
        lines.append([way.replace("_", " "), *recalls, f"{values['median_rank']['value']:.0f}"])
    lines.append(["chance", *(f"{found['chance'][f'recall_at_{k}']:.3f}" for k in (1, 5, 10)), ""])
    note = (
        f"{found['studies']} studies, {found['distinct_reports']} distinct reports, identical ones all right; "
        f"{found['without_report']} studies left out for want of a report"
    )
    heads = ["", "recall at 1", "recall at 5", "recall at 10", "median rank"]
    return _section("Films and reports", note, _table(heads, lines))


def _errors(rows: Mapping[str, Mapping[str, Any]], content: PageContent) -> str:
    """The studies about which the calibrated model was most sure and the label disagrees, by both kinds of error."""
    found: dict[bool, list[tuple[float, int, str, float]]] = {True: [], False: []}
    for name, row in rows.items():
        read = content.read_by.get(row["column"])
        if row["auroc"] is None or read is None:
            continue
        column = list(content.names).index(row["column"])
        probability = read.apply(content.predicted.scores[:, column])
        for kind, errors in found.items():
            surprise = np.where(kind, 1 - probability, probability)
            of_kind = np.flatnonzero(content.labels[:, column] == float(kind))
            worst = of_kind[np.argsort(-surprise[of_kind], kind="stable")][:_ERRORS_PER_FINDING]
            errors += [(float(surprise[study]), int(study), name, float(probability[study])) for study in worst]
    cards: list[str] = []
    shown: set[int] = set()
    for errors in found.values():
        room = len(cards) + _MAX_ERRORS // 2
        for _, study, name, chance in sorted(errors, reverse=True):
            if study not in shown and study < len(content.predicted.films) and len(cards) < room:
                shown.add(study)
                cards.append(_error_card(study, name, chance, content, rows))
    note = "The model was most sure, and the label disagrees: an error of the model, of the label, or of neither"
    return _section("Errors worth looking at", note, _cards(cards))


def _error_card(
    study: int, name: str, probability: float, content: PageContent, rows: Mapping[str, Mapping[str, Any]]
) -> str:
    column = list(content.names).index(rows[name]["column"])
    kind = "missed" if content.labels[study, column] == 1 else "false alarm"
    study_id = content.predicted.study_ids[study]
    text = (content.text_of.get(study_id) or "no report").strip()
    text = text if len(text) <= _TEXT_SHOWN else text[:_TEXT_SHOWN].rstrip() + " ..."
    try:
        picture = f'<img src="{thumbnail(content.read_film(content.predicted.films[study]))}" alt="film">'
    except InputError:
        picture = '<p class="quiet">film not readable</p>'
    return (
        f'<div class="error">{picture}<b>{escape(name)}</b>: {kind}, probability {probability:.2f}<br>'
        f'<span class="quiet">study {escape(study_id)}. {escape(text)}</span></div>'
    )


def _unreadable(failed: Sequence[Mapping[str, str]]) -> str:
    lines: list[list[object]] = [[escape(item["film"]), escape(item["reason"])] for item in failed]
    return _section("Films that could not be read", "", _table(["film", "reason"], lines) if lines else "")


def _left_out(reasons: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[list[object]] = [
        [escape(reason), found["count"], escape(found["first"])] for reason, found in reasons.items()
    ]
    note = "Of all parts of the data, not of the evaluated one alone"
    return _section(
        "What preparing the data left out", note, _table(["reason", "count", "first"], lines) if lines else ""
    )


def _section(title: str, note: str, body: str) -> str:
    """A headed part of the page; nothing where it has no body."""
    remark = f'<p class="quiet">{note}.</p>' if note else ""
    return f"<h2>{title}</h2>{remark}{body}" if body else ""


def _cards(items: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(items)}</div>' if items else ""


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    numeric = [bool(lines) and all(_is_number(line[column]) for line in lines) for column in range(len(heads))]
    style = [' class="number"' if flag else "" for flag in numeric]
    top = "".join(f"<th{mark}>{escape(head)}</th>" for head, mark in zip(heads, style, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{mark}>{cell}</td>' for cell, mark in zip(line, style, strict=True))}</tr>\n"
        for line in lines
    )
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _is_number(cell: object) -> bool:
    return isinstance(cell, int) or str(cell)[:1] in "0123456789-u" or cell == ""


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
