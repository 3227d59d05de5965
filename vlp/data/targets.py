"""Mentions to targets: what each study's report says of each concept, closed under is-a.

Only mentions that speak of the patient, now, in findings or impression count. Several mentions of one
concept: present
beats uncertain beats absent. Closure: a present concept makes its ancestors present; an absent concept makes
its descendants absent; nothing else follows (an absent child says nothing of its parent, an uncertain one of
nobody).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from kgkit.interface import Certainty, Experiencer, MentionKind, Temporality
from vlp.config import TargetConfig
from vlp.knowledge import FINDING_PREFIX, NORMAL, Knowledge
from vlp.types import TargetValue

SUPERVISING_SECTIONS = ("findings", "impression")
TargetArray = npt.NDArray[np.int8]
_ORDER = {Certainty.ABSENT.value: 0, Certainty.UNCERTAIN.value: 1, Certainty.PRESENT.value: 2}


@dataclass(frozen=True)
class ReportStates:
    """What each study's report says outright, before closure.

    Attributes:
        study_ids: Row of each study.
        concepts: Column of each mentioned concept, sorted.
        states: Certainty value -> bool sparse [studies, concepts]; the three are disjoint.
        unused: Reason -> how many mentions were not used.
    """

    study_ids: tuple[str, ...]
    concepts: tuple[str, ...]
    states: dict[str, sparse.csr_matrix]
    unused: dict[str, int]


def report_states(mentions: pl.DataFrame, study_ids: Sequence[str], knowledge: Knowledge) -> ReportStates:
    """Gather the mentions of some studies.

    Args:
        mentions: Columns of `MENTION_COLUMNS`.
        study_ids: The studies, in the order of the rows wanted.
        knowledge: Tells under which id a concept is counted.
    """
    row_of = {study_id: row for row, study_id in enumerate(study_ids)}
    canonical = {concept: knowledge.canonical(concept) for concept in mentions["concept"].drop_nulls().unique()}
    unused: Counter[str] = Counter()
    best: dict[tuple[int, str], int] = {}
    columns = ("study_id", "section", "kind", "certainty", "temporality", "experiencer", "concept")
    for study_id, section, kind, certainty, temporality, experiencer, linked in mentions.select(columns).iter_rows():
        if study_id not in row_of:
            continue
        reason = _why_unused(section, kind, temporality, experiencer, linked)
        concept = None if reason else canonical[linked]
        if concept is None:
            unused[reason or "concept unknown to this encoder"] += 1
            continue
        key = (row_of[study_id], concept)
        best[key] = max(best.get(key, -1), _ORDER[certainty])
    _settle_normal(best, knowledge)
    concepts = tuple(sorted({concept for _, concept in best}))
    column_of = {concept: column for column, concept in enumerate(concepts)}
    shape = (len(row_of), len(concepts))
    states = {}
    for certainty, order in _ORDER.items():
        cells = [(row, column_of[concept]) for (row, concept), value in best.items() if value == order]
        rows, positions = ([cell[axis] for cell in cells] for axis in (0, 1))
        states[certainty] = sparse.csr_matrix((np.ones(len(cells), np.float32), (rows, positions)), shape=shape)
    return ReportStates(tuple(study_ids), concepts, states, dict(unused))


def close_targets(
    reports: ReportStates, concepts: Sequence[str], knowledge: Knowledge, *, closure: bool = True
) -> TargetArray:
    """The target matrix.

    Args:
        reports: What the reports say outright.
        concepts: Columns wanted; they need not be mentioned anywhere.
        knowledge: Gives the ancestors.
        closure: Whether anything follows for other concepts; without it a report says what it says.

    Returns:
        int8 [studies, concepts], values of `TargetValue`.
    """
    same = _identity(reports.concepts, concepts)
    up = down = same
    if closure:
        up = _implications(reports.concepts, concepts, knowledge, upwards=True)
        down = _implications(reports.concepts, concepts, knowledge, upwards=False)
    present = (reports.states[Certainty.PRESENT.value] @ up).toarray() > 0
    uncertain = (reports.states[Certainty.UNCERTAIN.value] @ same).toarray() > 0
    absent = (reports.states[Certainty.ABSENT.value] @ down).toarray() > 0
    targets = np.full(present.shape, TargetValue.UNMENTIONED, dtype=np.int8)
    targets[absent] = TargetValue.ABSENT
    targets[uncertain] = TargetValue.UNCERTAIN
    targets[present] = TargetValue.PRESENT
    return targets


def choose_concepts(reports: ReportStates, config: TargetConfig, knowledge: Knowledge) -> dict[str, int]:
    """The concepts worth a query: those present often enough in the training reports, ancestors among them.

    An ancestor that no report names is left out where it says little: if most studies have it, or if the studies that
    have it are nearly those of another query.

    Returns:
        Concept -> number of studies in which it is present; sorted by concept.
    """
    mentioned = set(reports.concepts)
    candidates = sorted(mentioned.union(*(knowledge.ancestors(concept) for concept in mentioned)))
    present = (close_targets(reports, candidates, knowledge) == TargetValue.PRESENT).astype(np.float32)
    counts = present.sum(axis=0)
    shared = present.T @ present
    overlap = shared / np.maximum(counts[:, None] + counts[None, :] - shared, 1)
    chosen: list[int] = []
    for row in sorted(
        range(len(candidates)), key=lambda row: (candidates[row] not in mentioned, counts[row], candidates[row])
    ):
        if counts[row] < config.min_count:
            continue
        is_vague = counts[row] > config.max_fraction * len(reports.study_ids)
        if candidates[row] in mentioned or not (is_vague or (overlap[row, chosen] > config.max_overlap).any()):
            chosen.append(row)
    return {candidates[row]: int(counts[row]) for row in sorted(chosen)}


def _settle_normal(best: dict[tuple[int, str], int], knowledge: Knowledge) -> None:
    """`normal` is what the whole report says: denied by a present finding, doubted by an uncertain one, else present.

    A report may say "no acute disease" beside a finding, and most normal ones deny this and that and say no more.
    """
    normal = knowledge.canonical(FINDING_PREFIX + NORMAL)
    if normal is None:
        return
    worst: dict[int, int] = {}
    for (row, concept), value in best.items():
        worst[row] = max(worst.get(row, 0), 0 if concept == normal else value)
    for row, value in worst.items():
        opposite = _ORDER[Certainty.PRESENT.value] - value
        best[row, normal] = opposite if value else best.get((row, normal), opposite)


def _why_unused(section: str, kind: str, temporality: str, experiencer: str, concept: str | None) -> str:
    if concept is None:
        return "not linked to a concept"
    if kind == MentionKind.ANATOMY.value:
        return "anatomy"
    if section not in SUPERVISING_SECTIONS:
        return f"section {section!r}"
    if temporality != Temporality.RECENT.value:
        return f"{temporality}"
    return "" if experiencer == Experiencer.PATIENT.value else f"about {experiencer}"


def _implications(
    given: Sequence[str], wanted: Sequence[str], knowledge: Knowledge, *, upwards: bool
) -> sparse.csr_matrix:
    """float32 [given, wanted], 1 where a state of the given concept carries over to the wanted one."""
    row_of = {concept: row for row, concept in enumerate(given)}
    column_of = {concept: column for column, concept in enumerate(wanted)}
    sources, targets = (given, column_of) if upwards else (wanted, row_of)
    cells = []
    for position, concept in enumerate(sources):
        for reached in {concept, *knowledge.ancestors(concept)} & targets.keys():
            cells.append((position, targets[reached]) if upwards else (targets[reached], position))
    return _ones(cells, (len(given), len(wanted)))


def _identity(given: Sequence[str], wanted: Sequence[str]) -> sparse.csr_matrix:
    row_of = {concept: row for row, concept in enumerate(given)}
    cells = [(row_of[concept], column) for column, concept in enumerate(wanted) if concept in row_of]
    return _ones(cells, (len(given), len(wanted)))


def _ones(cells: list[tuple[int, int]], shape: tuple[int, int]) -> sparse.csr_matrix:
    rows, columns = ([cell[axis] for cell in cells] for axis in (0, 1))
    return sparse.csr_matrix((np.ones(len(cells), np.float32), (rows, columns)), shape=shape)
