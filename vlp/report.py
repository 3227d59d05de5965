"""The page of one evaluation: a table and ROC curves, in one file that needs no network."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from vlp.metrics import FloatArray, roc_curve

_SIDE = 150  # pixels of one curve
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #dde }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.quiet { color: #667 }
.curves { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 }
figcaption { font-size: 13px }
svg { background: #f6f7fa }
.bar { fill: #c9d6f2 }
.dot { fill: #1f4fa3 }
.chance { stroke: #99a; stroke-dasharray: 3 3 }
"""


def evaluation_page(metrics: dict[str, Any], labels: FloatArray, scores: FloatArray, names: list[str]) -> str:
    """The page as HTML.

    Args:
        metrics: Content of metrics.json.
        labels: float64 [n, F], 1, 0 or NaN.
        scores: float64 [n, F].
        names: Finding of each column.
    """
    macro = metrics["macro_auroc"]
    headline = "undefined"
    if macro["value"] is not None:
        headline = f"{macro['value']:.3f} ({_interval(macro)})"
    rows = dict(sorted(metrics["per_finding"].items(), key=lambda item: -(item[1]["auroc"] or 0)))
    if metrics["normal"] is not None:
        rows["normal"] = metrics["normal"]
    table = "\n".join(_table_row(name, row, name in macro["findings"]) for name, row in rows.items())
    curves = "\n".join(
        _curve(name, labels[:, names.index(name)], scores[:, names.index(name)])
        for name, row in rows.items()
        if row["auroc"] is not None
    )
    unreadable = len(metrics["unreadable_films"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>vlp evaluation</title><style>{_STYLE}</style></head><body>
<h1>Evaluation on split {escape(metrics["split"])}</h1>
<p><b>Macro AUROC {headline}</b> over {len(macro["findings"])} findings: {escape(macro["rule"])};
<i>normal</i> apart. {metrics["studies"]} studies of {metrics["patients"]} patients;
{metrics["studies_without_film"]} studies without a readable film, {unreadable} unreadable films. Intervals:
95 %, {metrics["resamples"]} resamples of patients. Chance is 0.5.</p> <table><thead><tr><th>finding</th><th
class="number">AUROC</th><th class="number">95 %</th><th></th> <th class="number">average precision</th><th
class="number">positives</th><th class="number">studies</th><th>query</th></tr> </thead><tbody>
{table}
</tbody></table>
<h2>ROC curves</h2><div class="curves">
{curves}
</div>
<p class="quiet">Labels were used here and nowhere else. Not for clinical use.</p>
</body></html>
"""


def _table_row(name: str, row: dict[str, Any], is_counted: bool) -> str:
    value = "undefined" if row["auroc"] is None else f"{row['auroc']:.3f}"
    precision = "" if row["average_precision"] is None else f"{row['average_precision']:.3f}"
    asked = "trained" if row.get("seen_in_training") else "zero-shot"
    label = f"<b>{escape(name)}</b>" if is_counted else escape(name)
    cells = [
        _cell(label),
        _cell(value, "number"),
        _cell(_interval(row), "number"),
        _cell(_bar(row)),
        _cell(precision, "number"),
        _cell(row["positives"], "number"),
        _cell(row["n"], "number"),
        _cell(f"{asked}, {escape(str(row.get('concept') or 'text'))}", "quiet"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(content: object, style: str = "") -> str:
    return f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"


def _bar(row: dict[str, Any]) -> str:
    """The interval on an axis from 0 to 1, chance marked."""
    if row["low"] is None:
        return ""
    low, high, value = (120 * row[key] for key in ("low", "high", "auroc"))
    return (
        f'<svg width="120" height="14"><line class="chance" x1="60" x2="60" y1="0" y2="14"/>'
        f'<rect class="bar" x="{low:.1f}" y="4" width="{high - low:.1f}" height="6"/>'
        f'<circle class="dot" cx="{value:.1f}" cy="7" r="3"/></svg>'
    )


def _curve(name: str, labels: FloatArray, scores: FloatArray) -> str:
    known = ~np.isnan(labels)
    alarms, hits = roc_curve(labels[known] == 1, scores[known])
    points = " ".join(f"{_SIDE * x:.1f},{_SIDE * (1 - y):.1f}" for x, y in zip(alarms, hits, strict=True))
    chance = f'<line class="chance" x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0"/>'
    curve = f'<polyline points="{points}" fill="none" stroke="#1f4fa3" stroke-width="1.5"/>'
    picture = f'<svg width="{_SIDE}" height="{_SIDE}">{chance}{curve}</svg>'
    return f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>"
