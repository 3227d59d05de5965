"""What an encoder is trained and measured on: names, definitions and triples of a graph, with parts held out."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.errors import InputError
from kgkit.views.splits import TripleSplit, split_triples
from kgkit.views.triples import TripleView, open_triples

_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class HeldOutName:
    """A synonym that training never saw, in any concept, definition or neighbour.

    Attributes:
        text: The name as written.
        concepts: Rows of the concepts that it names.
    """

    text: str
    concepts: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Training texts and facts; concept rows are positions in `view.concepts`.

    Attributes:
        view: Concepts, relations, triples.
        split: The triples, in parts.
        preferred: One name per concept row.
        names: Training names per concept row; the preferred name is among them.
        definitions: (concept row, text).
        held_out: Names for measuring.
    """

    view: TripleView
    split: TripleSplit
    preferred: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    definitions: tuple[tuple[int, str], ...]
    held_out: tuple[HeldOutName, ...]


def normalise(text: str) -> str:
    """The form in which two strings count as the same name.

    >>> normalise("Effusion,  PLEURAL ")
    'effusion pleural'
    """
    return _NOT_WORD.sub(" ", text.casefold()).strip()


def build_corpus(views: Path, held_out_names: float, held_out_triples: float, seed: int) -> Corpus:
    """Read a graph's views and hold parts of them out.

    Args:
        views: View folder of a graph.
        held_out_names: Fraction of the synonym strings to hold out.
        held_out_triples: Fraction of the triples to hold out for test.
        seed: Draws both.

    Raises:
        InputError: if the graph has no names or no triples to learn from.
    """
    view = open_triples(views)
    if not len(view.triples):
        raise InputError("the graph has no relations between concepts, nothing to train on", views.parent.parent)
    concepts = pl.read_parquet(views / "concepts.parquet", columns=["concept", "name", "definition"])
    nameless = concepts.filter(pl.col("name").is_null())
    if len(nameless):
        first = nameless["concept"][0]
        raise InputError(f"{len(nameless)} concepts have no name, the first is {first}", views.parent.parent)
    row = {concept: index for index, concept in enumerate(view.concepts)}
    names: list[dict[str, str]] = [{} for _ in view.concepts]
    table = pl.read_parquet(views / "names.parquet", columns=["concept", "name", "language"])
    for concept, name in table.filter(pl.col("language") == "en").select("concept", "name").iter_rows():
        names[row[concept]].setdefault(normalise(name), name)
    preferred = tuple(concepts["name"].to_list())
    held = _hold_out(names, preferred, held_out_names, seed)
    training = []
    for index, by_string in enumerate(names):
        same = normalise(preferred[index])  # another spelling of the preferred name teaches nothing
        kept = [name for string, name in by_string.items() if string not in held and string != same]
        training.append(tuple(dict.fromkeys([preferred[index], *kept])))
    definitions = [(index, text) for index, text in enumerate(concepts["definition"].to_list()) if text]
    return Corpus(
        view=view,
        split=split_triples(view, held_out_triples, seed),
        preferred=preferred,
        names=tuple(training),
        definitions=tuple(_without_held_out(definitions, held)),
        held_out=tuple(HeldOutName(name, tuple(rows)) for name, rows in held.values()),
    )


def _hold_out(
    names: list[dict[str, str]], preferred: tuple[str, ...], fraction: float, seed: int
) -> dict[str, tuple[str, list[int]]]:
    """Normalised string -> (name as written, rows of its concepts); never a string that is some preferred name."""
    taken = {normalise(name) for name in preferred}
    owners: dict[str, tuple[str, list[int]]] = {}
    for index, by_string in enumerate(names):
        for string, name in by_string.items():
            if string and string not in taken:
                owners.setdefault(string, (name, []))[1].append(index)
    strings = sorted(owners)
    count = round(fraction * len(strings))
    picked = np.random.default_rng([seed, 1]).choice(len(strings), size=count, replace=False)
    return {strings[index]: owners[strings[index]] for index in sorted(picked.tolist())}


def _without_held_out(
    definitions: list[tuple[int, str]], held: dict[str, tuple[str, list[int]]]
) -> list[tuple[int, str]]:
    """Definitions that do not spell out a held-out name of their own concept."""
    own: dict[int, list[str]] = defaultdict(list)
    for string, (_, rows) in held.items():
        for index in rows:
            own[index].append(f" {string} ")
    return [(index, text) for index, text in definitions
            if not any(string in f" {normalise(text)} " for string in own[index])]  # fmt: skip
