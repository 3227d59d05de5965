"""A picture of a concept among its neighbours: parents above, children below, other relations at the sides.

The places are computed, not found by a spring layout, so that no two labels overlap.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as Curve

from kgkit.errors import InputError, choices
from kgkit.graph.resolve import Known, semantic_type_names
from kgkit.graph.show import ConceptPage, Shown, ShownRelation

FORMATS = (".png", ".svg", ".pdf")
_WIDTH, _HEIGHT = 2.05, 0.56
"""Size of a box in inches."""
_ROWS = (5, 4)
"""Boxes in the first and in the second row of parents or children; the second stands in the gaps of the first."""
_MOST = {"above": 5, "below": 9, "left": 8, "right": 8}
"""Neighbours drawn on each side at most: 30 in all."""
_ROW, _LINE, _GAP = 0.8, 0.74, 0.24
"""Distance of two rows of boxes, of two boxes at a side, and between two boxes of a row, in inches."""
_FAN = 0.55
"""Height in which the lines to parents or children spread, in inches."""
_LABEL = 1.45
"""Length of the straight end of a line at a side, which bears the relation's name, in inches."""
_SIDE = 4.9
"""Distance of the boxes at the sides from the middle, in inches."""
_GROUP_COLOURS = {
    "Disorders": "#f4a582",
    "Anatomy": "#92c5de",
    "Procedures": "#c2a5cf",
    "Chemicals & Drugs": "#a6dba0",
    "Physiology": "#fddbc7",
    "Phenomena": "#e6f598",
    "Living Beings": "#d8b365",
    "Genes & Molecular Sequences": "#80cdc1",
    "Concepts & Ideas": "#fee08b",
    "Devices": "#bdbdbd",
}
_OTHER_COLOUR, _NO_TYPE = "#e0e0e0", "#ffffff"


@dataclass(frozen=True)
class _Box:
    """A neighbour in its place; `relations` are the names on its edge, `outgoing` is where the arrow points."""

    known: Known
    relations: tuple[str, ...] = ()
    outgoing: bool = True
    x: float = 0.0
    y: float = 0.0


def draw_shown(shown: Shown, path: Path) -> int:
    """Draw the concept that an id stands for.

    Args:
        shown: Answer of `kgkit.graph.show.show`.
        path: `.png`, `.svg` or `.pdf` to write.

    Returns:
        Number of neighbours drawn.

    Raises:
        InputError: if the id does not stand for exactly one concept, or the file has another ending.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"not the ending of a picture: {path.suffix!r}; {choices(path.suffix, FORMATS)}", path)
    if len(shown.concepts) != 1:
        ids = ", ".join(page.concept for page in shown.concepts) or "nothing"
        raise InputError(f"{shown.asked} stands for {ids}; give the id of one concept to draw it")
    figure, count = neighbourhood_figure(shown.concepts[0])
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=150, facecolor="white", format=path.suffix[1:].lower())
    partial.replace(path)
    return count


def neighbourhood_figure(page: ConceptPage) -> tuple[Figure, int]:
    """A concept with at most 30 of its neighbours, and their number; what is left out is said in the picture."""
    sides = _sides(page.relations)
    middle = _Box(Known(page.concept, page.name, tuple(tui for tui, *_ in page.semantic_types)))
    drawn = [middle]
    figure, axes = _canvas(sides)
    for side, boxes in sides.items():
        placed = _placed(side, boxes[: _MOST[side]], sides)
        for place, box in enumerate(placed):
            _draw_edge(axes, box, side, _reach(sides))
            if side in ("left", "right") or place == 0:
                _draw_relation(axes, box, side)
            _draw_box(axes, box)
        if len(boxes) > len(placed):
            _draw_rest(axes, side, len(boxes) - len(placed), placed)
        drawn += placed
    _draw_box(axes, middle, scale=1.2)
    _draw_legend(axes, drawn)
    return figure, len(drawn) - 1


def _sides(relations: Sequence[ShownRelation]) -> dict[str, list[_Box]]:
    """Neighbours of each side, one box each however many relations lead there; one of each relation in turn."""
    names: dict[tuple[str, Known], list[str]] = defaultdict(list)
    for fact in relations:
        incoming, outgoing = ("below", "above") if fact.relation == "isa" else ("left", "right")
        names[outgoing if fact.outgoing else incoming, fact.other].append(fact.relation.replace("_", " "))
    sides: dict[str, list[_Box]] = {}
    for side in _MOST:
        groups: dict[tuple[str, ...], list[_Box]] = defaultdict(list)
        for (where, other), words in names.items():
            if where == side:
                groups[tuple(words)].append(_Box(other, tuple(words), side in ("above", "right")))
        drawn = [box for turn in zip_longest(*groups.values()) for box in turn if box is not None]
        first = sorted(drawn[: _MOST[side]], key=lambda box: box.relations)
        sides[side] = [*first, *drawn[_MOST[side] :]]
    return sides


def _reach(sides: Mapping[str, Sequence[_Box]]) -> float:
    """Half of the height that the sides need: parents and children stand beyond it."""
    tallest = max(min(len(sides[side]), _MOST[side]) for side in ("left", "right"))
    return max((tallest - 1) / 2 * _LINE + _HEIGHT / 2, _HEIGHT * 0.6 + 0.24)


def _rows(count: int) -> int:
    return (count > 0) + (count > _ROWS[0])


def _placed(side: str, boxes: Sequence[_Box], sides: Mapping[str, Sequence[_Box]]) -> list[_Box]:
    if side in ("left", "right"):
        x = _SIDE if side == "right" else -_SIDE
        return [replace(box, x=x, y=((len(boxes) - 1) / 2 - place) * _LINE) for place, box in enumerate(boxes)]
    placed = []
    sign = 1 if side == "above" else -1
    for row, line in enumerate((boxes[: _ROWS[0]], boxes[_ROWS[0] :])):
        y = _reach(sides) + _FAN + 0.2 + _HEIGHT / 2 + row * _ROW
        # The second row keeps to the gaps of the first, where its lines pass.
        columns = range(len(line)) if row == 0 else sorted(range(_ROWS[1]), key=lambda place: abs(place - 1.5))
        width = len(line) if row == 0 else _ROWS[1]
        for column, box in zip(sorted(list(columns)[: len(line)]), line, strict=True):
            placed.append(replace(box, x=(column - (width - 1) / 2) * (_WIDTH + _GAP), y=sign * y))
    return placed


def _canvas(sides: Mapping[str, Sequence[_Box]]) -> tuple[Figure, Any]:
    rows = {side: _rows(len(sides[side])) for side in ("above", "below")}
    top, bottom = (_reach(sides) + (rows[side] * _ROW + _FAN + 0.35 if rows[side] else 0.3) for side in rows)
    half = _SIDE + _WIDTH / 2 + 0.25
    bottom += 0.4  # the legend
    figure = Figure(figsize=(2 * half, top + bottom))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-half, half)
    axes.set_ylim(-bottom, top)
    axes.set_axis_off()
    return figure, axes


def _draw_edge(axes: Any, box: _Box, side: str, reach: float) -> None:
    """A curve between the middle and a box, which points from head to tail and bears the relation's name."""
    at_side, sign = side in ("left", "right"), 1 if side in ("right", "above") else -1
    if at_side:
        start, end = (sign * _WIDTH * 0.61, 0.0), (box.x - sign * _WIDTH / 2, box.y)
        bend = (end[0] - sign * _LABEL, box.y)
        halfway = start[0] + sign * 0.45
        trunk, ways = (start[0] + sign * 0.12, 0.0), [(halfway, 0.0), (halfway, box.y)]
    else:
        start, end = (0.0, sign * _HEIGHT * 0.61), (box.x, box.y - sign * _HEIGHT / 2)
        trunk, bend = (0.0, sign * (reach + 0.05)), (box.x, sign * (reach + _FAN))
        ways = [(0.0, sign * (reach + _FAN * 0.6)), (box.x, sign * (reach + _FAN * 0.4))]
    points = [start, trunk, *ways, bend, end]
    codes = [Curve.MOVETO, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.LINETO]
    if not box.outgoing:
        points, codes = points[::-1], [Curve.MOVETO, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.LINETO]
    arrow = FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=9, color="#555555", lw=0.9, zorder=1
    )
    axes.add_patch(arrow)


def _draw_relation(axes: Any, box: _Box, side: str) -> None:
    """The name of the relation: at a side above the end of each line, else once beside the common line."""
    style: dict[str, Any] = {"fontsize": 6.5, "color": "#333333", "linespacing": 1.05, "zorder": 3}
    if side in ("left", "right"):
        sign = 1 if side == "right" else -1
        words = textwrap.wrap(", ".join(box.relations), 26, max_lines=2, placeholder=" ...")
        x = box.x - sign * (_WIDTH / 2 + _LABEL / 2)
        axes.text(x, box.y + 0.03, "\n".join(words), ha="center", va="bottom", **style)
    else:
        sign = 1 if side == "above" else -1
        axes.text(0.06, sign * (_HEIGHT * 0.6 + 0.14), "isa", ha="left", va="center", **style)


def _draw_box(axes: Any, box: _Box, scale: float = 1.0) -> None:
    width, height = _WIDTH * scale, _HEIGHT * scale
    frame = FancyBboxPatch(
        (box.x - width / 2, box.y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.08",
        fc=_colour(box.known), ec="black" if scale > 1 else "#666666", lw=1.8 if scale > 1 else 0.7, zorder=2,
    )  # fmt: skip
    axes.add_patch(frame)
    name = "\n".join(textwrap.wrap(box.known.name or "(no name)", 27, max_lines=2, placeholder=" ..."))
    axes.text(box.x, box.y + 0.07 * scale, name, fontsize=8 * scale, ha="center", va="center", zorder=4,
              weight="bold" if scale > 1 else "normal", linespacing=1.05)  # fmt: skip
    identifier = textwrap.shorten(box.known.concept, 40, placeholder="...")
    axes.text(box.x, box.y - height / 2 + 0.045, identifier, fontsize=5.5, ha="center", va="bottom", color="#444444",
              zorder=4)  # fmt: skip


def _draw_rest(axes: Any, side: str, rest: int, boxes: Sequence[_Box]) -> None:
    sign = 1 if side == "above" else -1
    x = boxes[0].x if side in ("left", "right") else 0.0
    y = max(sign * box.y for box in boxes) + _HEIGHT / 2 + 0.12
    axes.text(x, sign * y, f"... and {rest:,} more", fontsize=7, ha="center", va="center", style="italic", zorder=4)


def _draw_legend(axes: Any, boxes: Sequence[_Box]) -> None:
    names = semantic_type_names()
    groups = {names[box.known.semantic_types[0]][1] if _has_type(box.known) else "no semantic type": _colour(box.known)
              for box in boxes}  # fmt: skip
    handles = [Patch(facecolor=colour, edgecolor="#666666", label=group) for group, colour in sorted(groups.items())]
    axes.legend(handles=handles, loc="lower center", ncols=6, fontsize=7.5, frameon=False)


def _colour(known: Known) -> str:
    if not _has_type(known):
        return _NO_TYPE
    return _GROUP_COLOURS.get(semantic_type_names()[known.semantic_types[0]][1], _OTHER_COLOUR)


def _has_type(known: Known) -> bool:
    return bool(known.semantic_types) and known.semantic_types[0] in semantic_type_names()
