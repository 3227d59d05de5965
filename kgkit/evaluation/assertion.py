"""Assertion: certainty, temporality and experiencer of the linker's context rules on the NegEx/ConText set.

Chapman et al. 2001; Harkema et al. 2009. Nothing here depends on an encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kgkit.arrays import BoolArray, DoubleArray, IntArray
from kgkit.evaluation.outcomes import Answer, Columns, Outcomes, Statistic
from kgkit.evaluation.tables import find_file, one_of, read_table
from kgkit.linking.context import ContextResult, ContextRules, load_context_rules
from kgkit.types import Certainty, Experiencer, Temporality

_COLUMNS = ("item", "report", "concept", "sentence", "negation", "temporality", "experiencer")
_NEGATION = MappingProxyType({"Affirmed": 0.0, "Negated": 1.0})
# "Not particular" stands at what may come to pass ("return if fever"), which ConText calls hypothetical.
_TEMPORALITY = MappingProxyType(
    {
        "Recent": Temporality.RECENT,
        "Historical": Temporality.HISTORICAL,
        "Not particular": Temporality.HYPOTHETICAL,
    }
)
_EXPERIENCER = MappingProxyType(
    {"Patient": Experiencer.PATIENT, "Family member": Experiencer.FAMILY, "Other": Experiencer.OTHER}
)
Marks = DoubleArray | BoolArray


@dataclass(frozen=True)
class _Annotation:
    label: str
    report: str
    negated: float
    temporality: Temporality
    experiencer: Experiencer
    found: ContextResult


def assertion(data: Path, rules: ContextRules | None = None) -> Answer:
    """Measure context rules.

    Args:
        data: Folder with context_annotations.tsv.
        rules: The bundled ones if not given.

    Returns:
        Parts `negation` (precision, recall and F1 of Negated, accuracy), `temporality` and `experiencer` (accuracy, the
        F1 of each value, their mean); each beside what always giving the commonest answer achieves (`majority_...`).
        Every row of the file counts once. The resampled unit is the report; a sentence that stands in several belongs
        to the first.
    """
    path = find_file(data, "context_annotations.tsv", "the NegEx set")
    rows = _read(path, rules or load_context_rules())
    units = np.unique([row.report for row in rows], return_inverse=True)[1].reshape(-1)
    labels = [row.label for row in rows]
    gold = np.array([row.negated for row in rows])
    said = np.array([float(row.found.certainty is Certainty.ABSENT) for row in rows])
    columns = {
        "negation": {"gold": gold, "said": said, "majority": np.full(len(gold), float(gold.mean() > 0.5))},
        "temporality": _choice(Temporality, [(row.temporality, row.found.temporality) for row in rows]),
        "experiencer": _choice(Experiencer, [(row.experiencer, row.found.experiencer) for row in rows]),
    }
    parts = {name: Outcomes(labels, values, units) for name, values in columns.items()}
    about = {"file": path.name, "reports": len(set(units.tolist()))}
    statistics: dict[str, Statistic] = {
        "negation": negation_figures,
        "temporality": partial(choice_figures, Temporality),
        "experiencer": partial(choice_figures, Experiencer),
    }
    return Answer(parts, about, statistics=statistics)


def negation_figures(columns: Columns, weights: IntArray) -> dict[str, float]:
    """Precision, recall and F1 of Negated; NaN where nothing is said, or nothing is, Negated."""
    gold, said = columns["gold"], columns["said"]
    both, total = float(weights @ (gold * said)), float(weights.sum())
    return {
        "f1": _f1(gold, said, weights),
        "precision": _ratio(both, float(weights @ said)),
        "recall": _ratio(both, float(weights @ gold)),
        "accuracy": float(weights @ (gold == said)) / total,
        "majority_accuracy": float(weights @ (gold == columns["majority"])) / total,
        "majority_f1": _f1(gold, columns["majority"], weights),
    }


def choice_figures(values: type[StrEnum], columns: Columns, weights: IntArray) -> dict[str, float]:
    """Accuracy, the F1 of each value, and their mean over the values that the annotators gave.

    Args:
        values: The closed vocabulary; columns hold positions in it.
        columns: `gold`, `said` and `majority` (the commonest answer).
        weights: int64 [Q].
    """
    gold, said, majority = columns["gold"], columns["said"], columns["majority"]
    total = float(weights.sum())
    figures = {
        "accuracy": float(weights @ (gold == said)) / total,
        "majority_accuracy": float(weights @ (gold == majority)) / total,
    }
    each = {f"{value}_f1": _f1(gold == row, said == row, weights) for row, value in enumerate(values)}
    given = [row for row in range(len(values)) if weights @ (gold == row)]
    for name, answers in (("macro_f1", said), ("majority_macro_f1", majority)):
        figures[name] = float(np.mean([_f1(gold == row, answers == row, weights) for row in given]))
    return figures | each


def concept_span(concept: str, sentence: str) -> tuple[int, int] | None:
    """Where an annotated concept stands in its sentence: in capitals if anywhere, else its first place.

    >>> concept_span("chest pain", "Chest pain before; now no CHEST  PAIN.")
    (26, 37)
    """
    pattern = r"\s+".join(re.escape(word) for word in concept.split())
    matches = list(re.finditer(pattern, sentence, re.IGNORECASE)) if pattern else []
    marked = [match for match in matches if match.group() == match.group().upper()] or matches
    return marked[0].span() if marked else None


def _read(path: Path, rules: ContextRules) -> list[_Annotation]:
    rows = []
    for line, row in enumerate(read_table(path, _COLUMNS), start=2):
        span = concept_span(row["concept"], row["sentence"])
        has_word = span is not None and any(map(str.isalnum, row["sentence"][span[0] : span[1]]))
        # Some concepts run over the end of their sentence; the rules then say what they say of a bare name.
        found = rules.classify(row["sentence"], *span) if span is not None and has_word else ContextResult()
        rows.append(
            _Annotation(
                label=f"{row['item']}: {row['concept']}",
                report=(row["report"].split() or [""])[0],
                negated=_NEGATION[one_of(row["negation"], _NEGATION, "negation", path, line)],
                temporality=_TEMPORALITY[one_of(row["temporality"], _TEMPORALITY, "temporality", path, line)],
                experiencer=_EXPERIENCER[one_of(row["experiencer"], _EXPERIENCER, "experiencer", path, line)],
                found=found,
            )
        )
    return rows


def _choice(values: type[StrEnum], pairs: list[tuple[StrEnum, StrEnum]]) -> Columns:
    position = {value: float(row) for row, value in enumerate(values)}
    gold = [right for right, _ in pairs]
    commonest = max(sorted(set(gold)), key=gold.count)
    return {
        "gold": np.array([position[right] for right in gold]),
        "said": np.array([position[said] for _, said in pairs]),
        "majority": np.full(len(gold), position[commonest]),
    }


def _f1(gold: Marks, said: Marks, weights: IntArray) -> float:
    return _ratio(2 * float(weights @ (gold * said)), float(weights @ gold) + float(weights @ said))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
