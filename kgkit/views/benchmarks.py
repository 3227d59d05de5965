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


def _read_part(folder: Path, part: str) -> list[Fact]:
    names = (f"{part}.txt", f"{part}.txt.gz")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"a benchmark has {names[0]} or {names[1]}; neither is here", folder)
    rows: list[Fact] = []
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode("utf-8").removesuffix("\n").split("\n") if data else []
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as text ({error})", path) from error
    for number, line in enumerate(lines, start=1):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != len(("head", "relation", "tail")) or not all(fields):
            raise InputError(f"expected head, relation and tail with tabs between, found {line!r}", path, number)
        rows.append((fields[0], fields[1], fields[2]))
    return rows
