"""Files of RadGraph annotations to raw reports: what stands where in each of their layouts, before any of it is judged.

JSON: an object of reports by id, or a list of them (each alone in an object). JSON Lines: a report on each line, as
RadGraph's own record or as a DyGIE++ document (Wadden et al. 2019), the layout RadGraph-XL is published in.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from kgkit.errors import InputError
from kgkit.sources.corpus import Place
from kgkit.sources.json_records import json_lines, stream_records
from kgkit.sources.term_files import open_source

_JSON = (".json", ".json.gz")
_JSON_LINES = (".jsonl", ".jsonl.gz")
_EXPECTED = "RadGraph annotations (.json or .jsonl, gzipped or not, or a .zip of such files)"
_LINE_IDS = ("report_id", "note_id", "study_id", "doc_key", "id")
_ONLY_KEY = "0"
"""What the radgraph package calls the first, and here only, report of a call."""


@dataclass(frozen=True, slots=True)
class RawReport:
    """A report as it stands in its file; nothing of it has been checked.

    Attributes:
        place: File, and line where the file has one for it.
        report_id: Its id.
        text: The text; a string, if all is well.
        readings: What is added to the report's id ("" if there is one reading) -> entities by their id; an object of
            objects, if all is well.
        problem: Why nothing of it can be read, or "".
        loose_relations: Relations that start at no entity.
    """

    place: Place
    report_id: str
    text: Any
    readings: Mapping[str, Any]
    problem: str = ""
    loose_relations: tuple[str, ...] = ()


def find_files(path: Path) -> list[Path]:
    """The files to read: the file itself, or those of a folder (not of folders inside it), sorted.

    Raises:
        InputError: if there are none.
    """
    if not path.exists():
        raise InputError(f"no such file or folder; expected {_EXPECTED}", path)
    if not path.is_dir():
        return [path]
    endings = (*_JSON, *_JSON_LINES, ".zip")
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name.lower().endswith(endings))
    if not files:
        raise InputError(f"no such file in this folder; expected {_EXPECTED}", path)
    return files


def read_raw_reports(path: Path) -> Iterator[RawReport]:
    """Reports of a file, one at a time.

    Raises:
        InputError: if it is not what its ending says.
    """
    if path.suffix.lower() == ".zip":
        yield from _read_archive(path)
        return
    with open_source(path, _EXPECTED) as stream:
        yield from _read_stream(stream, path, path.name)


def _read_archive(path: Path) -> Iterator[RawReport]:
    """Reports of all JSON members of a zip file, read as streams; nothing is unpacked to disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if name.lower().endswith((".json", ".jsonl")))
            if not members:
                raise InputError("no .json or .jsonl member in this archive", path)
            for name in members:
                with archive.open(name) as stream:
                    yield from _read_stream(stream, f"{path}/{name}", name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"not readable as a zip file ({error})", path) from error


def _read_stream(stream: IO[bytes], place: object, name: str) -> Iterator[RawReport]:
    if name.lower().endswith(_JSON_LINES):
        for line, value in json_lines(stream, place):
            yield _from_item(value, str(line), (place, line))
        return
    for position, (key, value) in enumerate(stream_records(stream, place)):
        if key is None:
            yield _from_item(value, str(position), (place, None))
        else:
            yield _from_record(value, key, (place, None))


def _from_item(value: Any, number: str, place: Place) -> RawReport:
    """An item of a list, or a line: a DyGIE++ document, a record with or without its id in it, or {id: record}."""
    if isinstance(value, dict) and "sentences" in value:
        return _from_document(value, number, place)
    if isinstance(value, dict) and len(value) == 1:
        ((key, record),) = value.items()
        return _from_record(record, number if key == _ONLY_KEY else key, place)
    return _from_record(value, _own_id(value, number), place)


def _own_id(value: Any, number: str) -> str:
    stated = [value.get(name) for name in _LINE_IDS] if isinstance(value, dict) else []
    return next((str(each) for each in stated if isinstance(each, str | int)), number)


def _from_record(record: Any, report_id: str, place: Place) -> RawReport:
    if not isinstance(record, dict):
        return RawReport(place, report_id, None, {})
    text = record.get("text")
    if "entities" in record:
        return RawReport(place, report_id, text, {"": record["entities"]})
    readings = {}
    for labeler in sorted(key for key in record if key.startswith("labeler")):
        annotations = record[labeler]
        readings[f"#{labeler}"] = annotations.get("entities") if isinstance(annotations, dict) else None
    return RawReport(place, report_id, text, readings)


def _from_document(document: dict[str, Any], number: str, place: Place) -> RawReport:
    """A DyGIE++ document: sentences of tokens, spans with labels, relations between spans; tokens are counted through.

    Document keys are unique within their data set only, so its name is a part of the id.
    """
    key, dataset = _own_id(document, number), document.get("dataset")
    report_id = f"{dataset}/{key}" if isinstance(dataset, str) and dataset else key
    loose = []
    try:
        text = " ".join(_tokens(document["sentences"]))
        entities = {
            str(index): {"label": label, "start_ix": first, "end_ix": last, "relations": []}
            for index, (first, last, label) in enumerate(chain.from_iterable(document["ner"]), start=1)
        }
        spans = {(entity["start_ix"], entity["end_ix"]): index for index, entity in reversed(entities.items())}
        for first, last, other_first, other_last, name in chain.from_iterable(document.get("relations", [])):
            source, target = spans.get((first, last)), spans.get((other_first, other_last))
            if source is None:
                loose.append(f"{first}..{last} {name} {other_first}..{other_last}")
            else:
                entities[source]["relations"].append([name, target or f"{other_first}..{other_last}"])
    except (KeyError, TypeError, ValueError):
        problem = "is no DyGIE++ document of sentences, ner and relations"
        return RawReport(place, report_id, "", {}, problem)
    return RawReport(place, report_id, text, {"": entities}, loose_relations=tuple(loose))


def _tokens(sentences: Any) -> Iterator[str]:
    for sentence in sentences:
        if not isinstance(sentence, list) or any(" " in token for token in sentence):
            raise TypeError("not a list of tokens")
        yield from sentence
