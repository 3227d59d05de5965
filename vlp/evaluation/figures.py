"""Figures of an evaluation as inline SVG and data URIs: a page that holds them needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from kgkit.interface import BoolArray, DoubleArray, FloatArray
from vlp.images import to_bytes
from vlp.metrics import roc_curve

SIDE = 170  # pixels of one curve
_MAX_POINTS = 300
_THUMBNAIL = 168


def roc_figure(
    name: str,
    truth: BoolArray,
    scores: DoubleArray,
    row: Mapping[str, Any],
    readers: Sequence[Mapping[str, Any]],
) -> str:
    """ROC curve with the operating point from validation (square) and readers (diamonds) on the same axes."""
    alarms, hits = roc_curve(truth, scores)
    points = " ".join(f"{SIDE * x:.1f},{SIDE * (1 - y):.1f}" for x, y in _thinned(alarms, hits))
    marks = [f'<polyline points="{points}" class="curve"/>']
    if row.get("sensitivity") and row.get("specificity"):
        x, y = 1 - row["specificity"]["value"], row["sensitivity"]["value"]
        marks.append(f'<rect class="ours" x="{SIDE * x - 3:.1f}" y="{SIDE * (1 - y) - 3:.1f}" width="6" height="6"/>')
    for reader in readers:
        if reader["sensitivity"] is None or reader["specificity"] is None:
            continue
        x, y = SIDE * (1 - reader["specificity"]), SIDE * (1 - reader["sensitivity"])
        values = f"sensitivity {reader['sensitivity']:.2f}, specificity {reader['specificity']:.2f}"
        corners = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        title = f"<title>{escape(str(reader['reader']))}: {values}</title>"
        marks.append(f'<polygon class="reader" points="{corners}">{title}</polygon>')
    return _figure(f"{name}, {row['auroc']:.3f}", marks, "false positive rate", "true positive rate")


def reliability_figure(name: str, table: Sequence[Sequence[float]], error: float | None) -> str:
    """Observed frequency over calibrated probability, a dot per bin of equal size; the diagonal is perfect.

    Both axes end at the largest value, since most findings are rare.
    """
    top = max([0.05, *(max(row[0], row[1]) for row in table)])
    scaled = [(SIDE * row[0] / top, SIDE * (1 - row[1] / top)) for row in table]
    marks = [f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in scaled)}"/>']
    marks += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in scaled]
    caption = name if error is None else f"{name}, ECE {error:.3f}"
    return _figure(f"{caption}, axes to {top:.2f}", marks, "calibrated probability", "observed frequency")


def interval_bar(row: Mapping[str, Any]) -> str:
    """An interval on an axis from 0 to 1, chance marked."""
    if row["low"] is None:
        return ""
    low, high, value = (110 * row[key] for key in ("low", "high", "auroc"))
    return (
        f'<svg width="110" height="14"><line class="chance" x1="55" x2="55" y1="0" y2="14"/>'
        f'<rect class="bar" x="{low:.1f}" y="4" width="{high - low:.1f}" height="6"/>'
        f'<circle class="dot" cx="{value:.1f}" cy="7" r="3"/></svg>'
    )


def thumbnail(film: FloatArray) -> str:
    """A small copy of a film, float32 [H, W] in 0..1, as a data URI."""
    picture = Image.fromarray(to_bytes(film))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _figure(caption: str, marks: Sequence[str], x_label: str, y_label: str) -> str:
    chance = f'<line class="chance" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>'
    axes = (
        f'<text x="{SIDE / 2}" y="{SIDE + 14}" text-anchor="middle">{x_label}</text>'
        f'<text x="{-SIDE / 2}" y="-5" text-anchor="middle" transform="rotate(-90)">{y_label}</text>'
    )
    box = f'viewBox="-18 -4 {SIDE + 22} {SIDE + 22}" width="{SIDE + 22}" height="{SIDE + 22}"'
    ground = f'<rect class="ground" x="0" y="0" width="{SIDE}" height="{SIDE}"/>'
    picture = f"<svg {box}>{ground}{chance}{''.join(marks)}{axes}</svg>"
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _thinned(x: DoubleArray, y: DoubleArray) -> list[tuple[float, float]]:
    """A curve of at most 300 points, its ends kept."""
    if len(x) <= _MAX_POINTS:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    kept = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(int))
    return list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
