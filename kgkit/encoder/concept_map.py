"""A map of an encoder's concepts in two dimensions, coloured by semantic group: a look at what it has learnt.

PCA to 50 dimensions, then t-SNE (van der Maaten & Hinton 2008, Barnes-Hut), as sklearn has them. Neighbours on the map
are neighbours in the vectors; how far clusters lie from each other, and how large they are, means little.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from kgkit.arrays import DoubleArray, FloatArray, IntArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.errors import InputError, choices
from kgkit.files import output_file
from kgkit.resources import resource
from kgkit.views.groups import NO_GROUP, semantic_group_of

COLOURINGS = ("group", "type", "prefix")
FORMATS = (".png", ".svg", ".pdf")
_DPI = 100
_LEAST_SIDE, _MOST_SIDE = 300, 8000
_PCA_DIM = 50
_TSNE_LEAST = 12
"""Fewer concepts are placed by PCA alone: t-SNE has nothing to arrange."""
_LABELS = 26
_NEAREST = 40
"""Concepts around the middle of a region, among which the best known one is labelled."""
_TRIES = 4
"""Concepts of a region that are tried before it goes without a label."""
_TSNE_STEPS = 600
"""Of gradient descent; after 1,000 the map looks the same."""
_LEGEND_COLUMNS = 4
_LEGEND_ROW = 0.0235
"""Height of a row, as a share of the picture's."""
_TOP = 0.912
"""Below it the legend begins, and the map below the legend."""
_LABEL_LINE = 24
"""Letters in a line of a label; there are two at most."""

# Okabe & Ito's colours but for yellow and black, which are too faint and too loud on white, and Tol's indigo: told
# apart with any of the common kinds of colour blindness. The rarer groups have them again with another mark.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288")
STYLES: tuple[tuple[str, str], ...] = tuple((colour, mark) for mark in ("o", "^") for colour in _COLOURS)
"""(colour, mark) of the first, second, ... category."""
REST_STYLE = ("#999999", "o")
"""Of concepts without a group, and of all categories beyond the last style."""
_GROUP_ORDER = ("DISO", "ANAT", "PROC", "CHEM", "PHYS", "PHEN", "LIVB",
                "CONC", "GENE", "DEVI", "ACTI", "OBJC", "GEOG", "OCCU")  # fmt: skip
"""A group has the same colour on every map."""


@dataclass(frozen=True)
class MapOptions:
    """How to draw.

    Attributes:
        sample: Most concepts drawn; more are drawn from by the seed.
        seed: Of the sample and of t-SNE.
        colour: `group` (semantic group), `type` (semantic type) or `prefix` (of the concept's CURIE).
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
    """

    sample: int = 5000
    seed: int = 0
    colour: str = "group"
    width: int = 1600
    height: int = 1200

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise InputError(f"sample is {self.sample}, expected 1 or more concepts")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")
        if self.colour not in COLOURINGS:
            raise InputError(f"cannot colour by {self.colour!r}; {choices(self.colour, COLOURINGS)}")
        if not all(_LEAST_SIDE <= side <= _MOST_SIDE for side in (self.width, self.height)):
            size = f"{self.width} x {self.height} pixels"
            raise InputError(f"a picture of {size}; expected {_LEAST_SIDE} to {_MOST_SIDE} on each side")


@dataclass(frozen=True)
class Category:
    """What a colour stands for.

    Attributes:
        name: For the legend.
        style: (colour, mark).
        num_drawn: Its concepts on the map.
        num_all: Its concepts in the encoder.
    """

    name: str
    style: tuple[str, str]
    num_drawn: int
    num_all: int


@dataclass(frozen=True)
class ConceptMap:
    """Where the concepts lie.

    Attributes:
        rows: int64 [n], rows of the encoder, ascending.
        places: float64 [n, 2], each axis centred.
        category: int64 [n], index into `categories`.
        categories: The most frequent first.
    """

    rows: IntArray
    places: DoubleArray
    category: IntArray
    categories: tuple[Category, ...]


def draw_concept_map(folder: Path, out: Path, options: MapOptions) -> ConceptMap:
    """Draw the map of an encoder; the same seed gives the same picture.

    Args:
        folder: The ENCODER folder.
        out: `.png`, `.svg` or `.pdf` to write.
        options: How to draw.

    Raises:
        InputError: if the folder is no encoder or has no concepts, or the file has another ending.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"not the ending of a picture: {out.suffix!r}; {choices(out.suffix, FORMATS)}", out)
    encoder = load_encoder(folder)
    found = concept_map(encoder, options)
    figure = map_figure(encoder, found, options)
    with output_file(out) as stream:
        figure.savefig(stream, format=out.suffix[1:].lower(), dpi=_DPI, facecolor="white")
    return found


def concept_map(encoder: ConceptEncoder, options: MapOptions) -> ConceptMap:
    """Draw the sample, place it, and sort it into categories.

    Raises:
        InputError: if the encoder has no concepts, or a vector is not finite.
    """
    count = len(encoder.concepts)
    if not count:
        raise InputError("the encoder has no concepts, nothing to draw", encoder.folder)
    rows = np.arange(count)
    if count > options.sample:
        rows = np.sort(np.random.default_rng(options.seed).choice(count, options.sample, replace=False))
    vectors = encoder.vectors[rows]
    if not np.isfinite(vectors).all():
        raise InputError("some vectors are not finite; the folder is damaged", encoder.folder)
    names = _category_names(encoder, options.colour)
    category, categories = _categories(names, rows, by_group=options.colour == "group")
    return ConceptMap(rows, _places(vectors, options.seed), category, categories)


def _places(vectors: FloatArray, seed: int) -> DoubleArray:
    """Places of some vectors, float64 [n, 2]."""
    count, dim = vectors.shape
    if (vectors == vectors[0]).all():
        return np.zeros((count, 2))
    flat = PCA(min(_PCA_DIM, count, dim), random_state=seed).fit_transform(vectors.astype(np.float64))
    if count >= _TSNE_LEAST:
        perplexity = min(30.0, (count - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", max_iter=_TSNE_STEPS, random_state=seed)
        flat = tsne.fit_transform(flat.astype(np.float32))
    places = np.zeros((count, 2))
    width = min(2, flat.shape[1])
    places[:, :width] = flat[:, :width]
    centred: DoubleArray = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return centred


def _category_names(encoder: ConceptEncoder, colour: str) -> pl.Series:
    """What each concept is coloured by: group, smallest semantic type, or prefix of its CURIE."""
    if colour == "group":
        return semantic_group_of(encoder.table["semantic_types"])
    if colour == "type":
        return encoder.table["semantic_types"].list.min().fill_null(NO_GROUP)
    return encoder.table["concept"].str.extract(r"^([^:]*):", 1).fill_null(NO_GROUP)


def _categories(names: pl.Series, rows: IntArray, *, by_group: bool) -> tuple[IntArray, tuple[Category, ...]]:
    """Category of each sampled row, and the categories, the most frequent first and the rest last."""
    counts = {name: int(count) for name, count in names.value_counts().iter_rows()}
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    styled = _GROUP_ORDER if by_group else [name for name in ordered if name != NO_GROUP][: len(STYLES)]
    styles = dict(zip(styled, STYLES, strict=False))
    own = [name for name in ordered if name in styles]
    rest = [name for name in ordered if name not in styles]
    place = {name: index for index, name in enumerate(own)} | dict.fromkeys(rest, len(own))
    category = np.array([place[name] for name in names.to_list()], dtype=np.int64)
    every = np.bincount(category, minlength=len(own) + 1)
    drawn = np.bincount(category[rows], minlength=len(own) + 1)
    known = _titles()
    titles = [known.get(name, name) for name in own]
    titles += ["no semantic type" if rest == [NO_GROUP] else f"{len(rest)} others"] if rest else []
    found = [
        Category(title, styles[own[index]] if index < len(own) else REST_STYLE, int(drawn[index]), int(every[index]))
        for index, title in enumerate(titles)
    ]
    return category[rows], tuple(found)


def _titles() -> dict[str, str]:
    """Names of semantic groups and types, by their codes."""
    path = resource("ontologies/semantic_groups.txt")
    table = pl.read_csv(path, separator="\t", quote_char=None, columns=["TUI", "name", "group", "group_name"])
    groups = dict(table.select("group", "group_name").iter_rows())
    return groups | dict(table.select("TUI", "name").iter_rows())


# Drawing


def map_figure(encoder: ConceptEncoder, found: ConceptMap, options: MapOptions) -> Figure:
    """The map with its title, legend and labels.

    Args:
        encoder: What was mapped.
        found: Its map.
        options: Size of the picture.
    """
    scale = min(options.width / 1600, options.height / 1200)
    # Matplotlib rounds down, and 1.1 * 100 is a little less than 110.
    figure = Figure(figsize=((options.width + 1e-6) / _DPI, (options.height + 1e-6) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    legend_rows = math.ceil(sum(category.num_drawn > 0 for category in found.categories) / _LEGEND_COLUMNS)
    axes = figure.add_axes((0.012, 0.032, 0.976, _TOP - 0.012 - legend_rows * _LEGEND_ROW - 0.032))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")
    half = np.maximum(np.abs(found.places).max(axis=0), 1e-9) * 1.05
    axes.set(xlim=(-half[0], half[0]), ylim=(-half[1], half[1]))
    size = np.clip(60_000 / len(found.rows), 10, 120) * scale**2
    for index, category in enumerate(found.categories):  # rare ones last: on top
        points = found.places[found.category == index]
        colour, mark = category.style
        axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, marker=mark, alpha=0.65, linewidths=0)
    _draw_words(figure, encoder, found, scale)
    _draw_legend(figure, found, scale)
    _draw_labels(figure, axes, encoder, found, scale)
    return figure


def _draw_words(figure: Figure, encoder: ConceptEncoder, found: ConceptMap, scale: float) -> None:
    drawn, every = len(found.rows), len(encoder.concepts)
    concepts = f"{drawn:,} of {every:,} concepts" if drawn < every else f"{every:,} concepts"
    model = str(encoder.manifest.get("recipe", {}).get("text", {}).get("model", "none"))
    text = "" if model == "none" else f"text tower from {Path(model).name}; "
    how = "PCA and t-SNE" if drawn >= _TSNE_LEAST else "PCA"
    head: dict[str, Any] = {"ha": "left", "va": "center", "parse_math": False}
    title = textwrap.shorten(f"Concepts of the encoder {encoder.folder.resolve().name}", 70, placeholder=" ...")
    figure.text(0.012, 0.968, title, fontsize=24 * scale, weight="bold", **head)
    line = f"{concepts} by {how}; {encoder.dim} dimensions; {text}digest {encoder.digest[:12]}"
    figure.text(0.012, 0.932, line, fontsize=14 * scale, color="#444444", **head)
    note = "Near concepts have near vectors; distances between clusters, and their sizes, mean little."
    figure.text(0.012, 0.016, note, fontsize=11 * scale, color="#666666", **head)


def _draw_legend(figure: Figure, found: ConceptMap, scale: float) -> None:
    handles = []
    for category in found.categories:
        if category.num_drawn:
            of = f" of {category.num_all:,}" if category.num_all > category.num_drawn else ""
            label = f"{textwrap.shorten(category.name, 26, placeholder=' ...')} ({category.num_drawn:,}{of})"
            colour, mark = category.style
            handles.append(Line2D([], [], color=colour, marker=mark, linestyle="", markersize=10 * scale, label=label))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.008, _TOP), ncols=_LEGEND_COLUMNS, frameon=False,
        fontsize=13 * scale, labelspacing=0.5, handletextpad=0.2, columnspacing=1.4, borderpad=0, borderaxespad=0,
    )  # fmt: skip


def _draw_labels(figure: Figure, axes: Any, encoder: ConceptEncoder, found: ConceptMap, scale: float) -> None:
    """Name a well-known concept of each region; one that would overlap another stands elsewhere, or not at all."""
    canvas: Any = figure.canvas
    renderer = canvas.get_renderer()
    frame, taken = axes.get_window_extent(renderer), list[Bbox]()
    style: dict[str, Any] = {"fontsize": 12 * scale, "textcoords": "offset points", "parse_math": False, "zorder": 5}
    style |= {"linespacing": 1.1, "path_effects": [withStroke(linewidth=3.2 * scale, foreground="white", alpha=0.9)]}
    dot = {"s": 34 * scale**2, "facecolors": "white", "edgecolors": "black", "linewidths": 1.3 * scale, "zorder": 4}
    gap = 7 * scale
    sides = ((gap, 0, "left", "center"), (-gap, 0, "right", "center"), (0, gap, "center", "bottom"),
             (0, -gap, "center", "top"))  # fmt: skip
    for region in _regions(encoder, found):
        for point, (x, y, horizontal, vertical) in product(region, sides):
            name = encoder.name(encoder.concepts[found.rows[point]])
            lines = "\n".join(textwrap.wrap(name, _LABEL_LINE, max_lines=2, placeholder=" ..."))
            place = found.places[point]
            middle = axes.transData.transform(place)
            boxes = [Bbox.from_extents(*(middle - 6 * scale), *(middle + 6 * scale))]  # its dot
            text = axes.annotate(lines, place, (x, y), ha=horizontal, va=vertical, **style)
            boxes.append(text.get_window_extent(renderer).padded(2 * scale))
            if _lies_in(frame, boxes[1]) and not any(box.overlaps(other) for box in boxes for other in taken):
                taken += boxes
                axes.scatter(*place[:, None], **dot)
                break
            text.remove()


def _lies_in(frame: Bbox, box: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _regions(encoder: ConceptEncoder, found: ConceptMap) -> Iterator[Sequence[int]]:
    """For each region of each category a few of its points (index into the map), the one to be labelled first.

    A region is a k-means cluster of a category's points on the map; the large categories have more of them. Of the
    concepts around its middle, those with the most is-a children and then the shortest names are the best known.
    """
    children = encoder.table.select(pl.col("parents").explode().alias("concept")).drop_nulls().group_by("concept").len()
    num_children = dict(children.iter_rows())
    for index, category in enumerate(found.categories):
        members = np.flatnonzero(found.category == index)
        if not len(members):
            continue
        points = found.places[members]
        wanted = max(1, round(_LABELS * category.num_drawn / len(found.rows)))
        wanted = min(wanted, len(np.unique(points, axis=0)))
        middles = KMeans(wanted, n_init=1, random_state=0).fit(points).cluster_centers_
        for middle in middles[np.lexsort(middles.T)]:
            nearest = members[np.argsort(((points - middle) ** 2).sum(axis=1), kind="stable")[:_NEAREST]]
            ids = {point: encoder.concepts[found.rows[point]] for point in nearest.tolist()}
            best = sorted(ids, key=lambda point, ids=ids: _fame(encoder, ids[point], num_children))  # type: ignore[misc]
            yield best[:_TRIES]


def _fame(encoder: ConceptEncoder, concept: str, num_children: Mapping[str, int]) -> tuple[bool, int, int, str]:
    """Order of concepts, the best known first; names that fit a label before those that do not."""
    name = encoder.name(concept)
    return len(name) > 2 * _LABEL_LINE - 4, -num_children.get(concept, 0), len(name), concept
