"""Reading disease mentions from the PubTator format, as the NCBI disease corpus has it (Dogan, Leaman and Lu 2014)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kgkit.errors import InputError

_TEXT = re.compile(r"(\d+)\|[ta]\|(.*)")
_FIELDS = 6
_ORDER = ("develop", "test", "train")


@dataclass(frozen=True)
class DiseaseMention:
    """One annotated mention.

    Attributes:
        document: PubMed id.
        start: First character in title, newline, abstract.
        end: One past the last.
        text: The words.
        ids: CURIEs (MESH:D..., OMIM:...); several where the mention names several diseases or fits several.
    """

    document: str
    start: int
    end: int
    text: str
    ids: tuple[str, ...]


def corpus_file(folder: Path, name: str | None = None) -> Path:
    """The corpus file to measure on: the one asked for, else the development, test or training part, in this order.

    Raises:
        InputError: if there is none, naming those that are there.
    """
    if not folder.is_dir():
        raise InputError("no such folder; expected the NCBI disease corpus with NCBI*_corpus.txt", folder)
    found = sorted(folder.glob("NCBI*_corpus.txt"))
    if name is not None:
        if not (folder / name).is_file():
            names = ", ".join(path.name for path in found) or "none"
            raise InputError(f"no file {name!r} here; corpus files: {names}", folder)
        return folder / name
    if not found:
        raise InputError("expected the NCBI disease corpus with NCBI*_corpus.txt; it is not here", folder)
    for part in _ORDER:
        for path in found:
            if part in path.name:
                return path
    return found[0]


def read_pubtator(path: Path) -> list[DiseaseMention]:
    """All mentions of a PubTator file, in its order.

    Raises:
        InputError: if it is not UTF-8, a line is neither text nor annotation, or there is no mention.
    """
    mentions = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or _TEXT.match(line):
            continue
        fields = line.split("\t")
        if len(fields) < _FIELDS or not (fields[1].isdigit() and fields[2].isdigit() and fields[3].strip()):
            wanted = "expected pmid|t|..., pmid|a|... or pmid, start, end, mention, class, id with tabs"
            raise InputError(f"{wanted}, found {line[:60]!r}", path, number)
        ids = tuple(_curie(each.strip()) for each in re.split(r"[|+]", fields[5]) if each.strip())
        mentions.append(DiseaseMention(fields[0], int(fields[1]), int(fields[2]), fields[3], ids))
    if not mentions:
        raise InputError("no mention in this file", path)
    return mentions


def read_documents(path: Path) -> dict[str, str]:
    """PubMed id -> title, newline, abstract.

    Raises:
        InputError: if it is not UTF-8.
    """
    texts: dict[str, list[str]] = {}
    for line in _lines(path):
        if (found := _TEXT.match(line)) is not None:
            texts.setdefault(found[1], []).append(found[2])
    return {document: "\n".join(parts) for document, parts in texts.items()}


def _lines(path: Path) -> list[str]:
    try:
        return [line.removesuffix("\r") for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as text ({error})", path) from error


def _curie(identifier: str) -> str:
    return identifier if ":" in identifier else f"MESH:{identifier}"
