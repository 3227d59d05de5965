"""The findings that chest X-ray data sets name, from `ontologies/findings.toml`.

One table per finding: what a report calls it, what a text encoder is asked, which concepts it is, and what
each data set calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kgkit.errors import InputError, choices
from kgkit.files import read_toml
from kgkit.linking.phrases import phrase_parts
from kgkit.resources import resource

DATASETS = ("openi", "nih", "chexpert", "padchest", "kad")
"""Data sets whose label names the findings carry."""
_LISTS = ("concepts", "strings", "excluded", "denials", "parents")
_FIELDS = frozenset({"name", "query", "labels", *_LISTS})
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        key: Its name in code, snake_case.
        name: Its name for people.
        query: The words a text encoder is asked.
        concepts: CURIEs, the best first; empty where no open vocabulary has it.
        strings: Phrases that denote it in reports, lower case; `...` is a gap (see kgkit.linking.phrases).
        excluded: Phrases that hold one of `strings` and do not denote it.
        parents: Keys of broader findings.
        labels: Data set (one of DATASETS) -> what it calls the finding.
        denials: Phrases that state its absence without a negation word ("heart size is normal").
    """

    key: str
    name: str
    query: str
    concepts: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    denials: tuple[str, ...] = ()


def load_findings(path: Path | None = None) -> dict[str, Finding]:
    """Read the findings.

    Args:
        path: A TOML file in the layout of `ontologies/findings.toml`, which is read if none is given.

    Returns:
        Key -> finding, in the order of the file.

    Raises:
        InputError: naming the file, the finding and the value that is wrong.
    """
    path = path or resource("ontologies/findings.toml")
    content = read_toml(path, "file of findings")
    findings = {key: _finding(key, table, path) for key, table in content.items()}
    if not findings:
        raise InputError("no finding in this file", path)
    _check_parents(findings, path)
    _check_phrases(findings, path)
    for dataset in DATASETS:
        _by_label(findings, dataset, path)
    return findings


def findings_by_label(findings: Mapping[str, Finding], dataset: str) -> dict[str, Finding]:
    """The findings of one data set under the names it gives them.

    Args:
        findings: As read by `load_findings`.
        dataset: One of DATASETS.

    Raises:
        InputError: if the data set is unknown, or two findings claim one of its labels.
    """
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r} in the findings; {choices(dataset, DATASETS)}")
    return _by_label(findings, dataset, None)


def _by_label(findings: Mapping[str, Finding], dataset: str, path: Path | None) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for finding in findings.values():
        label = finding.labels.get(dataset)
        if label is None:
            continue
        if label in found:
            keys = f"{found[label].key!r} and {finding.key!r}"
            raise InputError(f"findings {keys} both claim the {dataset} label {label!r}", path)
        found[label] = finding
    return found


def _finding(key: str, table: Any, path: Path) -> Finding:
    if not key or not set(key) <= _KEY_CHARACTERS:
        raise InputError(f"finding key {key!r}: expected snake_case", path)
    if not isinstance(table, dict):
        raise InputError(f"{key!r} is a value, expected a table [{key}]", path)
    for name in table:
        if name not in _FIELDS:
            raise InputError(f"finding {key!r}: unknown field {name!r}; {choices(name, _FIELDS)}", path)
    texts = {name: table.get(name) for name in ("name", "query")}
    for name, words in texts.items():
        if not isinstance(words, str) or not words.strip():
            raise InputError(f"finding {key!r}: {name} is {words!r}, expected some words", path)
    lists = {name: _strings(key, name, table.get(name, []), path) for name in _LISTS}
    for concept in lists["concepts"]:
        prefix, colon, local = concept.partition(":")
        if not (prefix and colon and local):
            raise InputError(f"finding {key!r}: concept {concept!r} is no CURIE such as HP:0002202", path)
    labels = _labels(key, table.get("labels", {}), path)
    return Finding(
        key, str(texts["name"]), str(texts["query"]), lists["concepts"], lists["strings"], lists["excluded"],
        lists["parents"], labels, lists["denials"],
    )  # fmt: skip


def _strings(key: str, field: str, values: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"finding {key!r}: {field} is {values!r}, expected a list of strings", path)
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"finding {key!r}: {value!r} stands twice in {field}", path)
    return tuple(values)


def _labels(key: str, labels: Any, path: Path) -> Mapping[str, str]:
    if not isinstance(labels, dict):
        raise InputError(f"finding {key!r}: labels is {labels!r}, expected {{dataset = label}}", path)
    for dataset, label in labels.items():
        if dataset not in DATASETS:
            raise InputError(f"finding {key!r}: unknown data set {dataset!r}; {choices(dataset, DATASETS)}", path)
        if not isinstance(label, str) or not label:
            raise InputError(f"finding {key!r}: the {dataset} label is {label!r}, expected its name", path)
    return MappingProxyType(dict(labels))


def _check_parents(findings: Mapping[str, Finding], path: Path) -> None:
    for finding in findings.values():
        for parent in finding.parents:
            if parent not in findings:
                raise InputError(f"finding {finding.key!r}: no parent {parent!r}; {choices(parent, findings)}", path)
    done: set[str] = set()

    def visit(key: str, trail: tuple[str, ...]) -> None:
        if key in trail:
            cycle = " -> ".join([*trail[trail.index(key) :], key])
            raise InputError(f"findings are their own parents: {cycle}", path)
        if key not in done:
            for parent in findings[key].parents:
                visit(parent, (*trail, key))
            done.add(key)

    for key in findings:
        visit(key, ())


def _check_phrases(findings: Mapping[str, Finding], path: Path) -> None:
    """No two phrases that match the same words; a phrase excluded here may be a string elsewhere."""
    owners: dict[tuple[tuple[str, ...], ...], str] = {}
    for finding in findings.values():
        for phrase in (*finding.strings, *finding.denials, *finding.excluded):
            where = f"finding {finding.key!r}: phrase {phrase!r}"
            try:
                words = tuple(phrase_parts(phrase))
            except InputError as error:
                raise InputError(f"{where}: {error}", path) from error
            if phrase != phrase.lower():
                raise InputError(f"{where} is not lower case", path)
            if phrase in finding.excluded:
                continue
            if words in owners:
                raise InputError(f"{where} matches the same words as one of {owners[words]!r}", path)
            owners[words] = finding.key
