"""What label columns mean: which finding of ontologies/findings.toml each one is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from kgkit.interface import Finding, load_findings

_SET_ORDER = ("openi", "nih", "chexpert", "padchest", "kad")


@cache
def _by_word() -> dict[str, Finding]:
    """Every name of every finding, lower case: what data sets call it, in the order of the sets, then key and name."""
    findings = list(load_findings().values())
    words: dict[str, Finding] = {}
    for label_set in _SET_ORDER:
        for finding in findings:
            if label_set in finding.labels:
                words.setdefault(finding.labels[label_set].lower(), finding)
    for finding in findings:
        for word in (finding.key, finding.name, finding.query):
            words.setdefault(word.lower(), finding)
    return words


def finding_of_label(label: str) -> Finding | None:
    """The finding a label column stands for, such as `Pleural Effusion` or `Effusion`; None if none is called so."""
    return _by_word().get(label.strip().lower())


def findings_of_labels(labels: Sequence[str], label_set: str) -> dict[str, str]:
    """Label -> key of its finding, for the labels that are one; of two labels of one finding the first counts."""
    own = {f.labels[label_set]: f.key for f in load_findings().values() if label_set in f.labels}
    found: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: label not in own):
        key = own.get(label)
        if key is None:
            finding = finding_of_label(label)
            key = None if finding is None else finding.key
        if key is not None and key not in found.values():
            found[label] = key
    return dict(sorted(found.items()))


def best_label_set(labels: Sequence[str]) -> str:
    """The data set whose names most of the labels are, the earlier of equals."""
    findings = load_findings().values()
    names = {key: {f.labels[key] for f in findings if key in f.labels} for key in _SET_ORDER}
    return max(_SET_ORDER, key=lambda key: (len(names[key] & set(labels)), -_SET_ORDER.index(key)))
