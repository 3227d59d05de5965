"""Published benchmark graphs whose split is part of what they are: WN18RR, FB15k-237, UMLS, Kinships, Nations."""

from __future__ import annotations

import gzip
from pathlib import Path

from kgkit.errors import InputError
from kgkit.views.encode import Fact, encode_facts
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView

_PARTS = ("train", "valid", "test")


def read_benchmark(folder: Path) -> tuple[TripleView, TripleSplit]:
    """Read a folder with `train.txt`, `valid.txt` and `test.txt` (or `.txt.gz`): head, relation, tail, tab-separated.

    The split is kept as published: in its order, with its duplicates and whatever it leaks (see
    `kgkit.views.splits.leakage`). The view is the union of the parts.

    Raises:
        InputError: if a part is missing, not UTF-8, or a line has not three columns.
    """
    view, (train, valid, test) = encode_facts(_read_part(folder, part) for part in _PARTS)
    return view, TripleSplit(train, valid, test, seed=None)


def find_part(folder: Path, part: str) -> Path | None:
    """A file of a benchmark, plain or gzipped; None if it is not there."""
    paths = (folder / f"{part}.txt", folder / f"{part}.txt.gz")
    return next((path for path in paths if path.is_file()), None)


def read_lines(path: Path) -> list[str]:
    """Lines of a file of a benchmark, without their ends.

    Raises:
        InputError: if it is damaged or not UTF-8.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as text ({error})", path) from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _read_part(folder: Path, part: str) -> list[Fact]:
    path = find_part(folder, part)
    if path is None:
        raise InputError(f"a benchmark has {part}.txt or {part}.txt.gz; neither is here", folder)
    rows: list[Fact] = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split("\t")
        if len(fields) != len(("head", "relation", "tail")) or not all(fields):
            raise InputError(f"expected head, relation and tail with tabs between, found {line!r}", path, number)
        rows.append((fields[0], fields[1], fields[2]))
    return rows
