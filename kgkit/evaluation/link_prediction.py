"""Link prediction: the tail and the head of every held-out fact, ranked among all concepts.

Filtered, realistic ties, both sides (Bordes et al. 2013; Berrendorf et al. 2020); a test holds the ranks to PyKEEN's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgkit.arrays import BoolArray, DoubleArray, IntArray
from kgkit.csr import positions
from kgkit.encoder.artifact import load_encoder
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.encoder.scoring import open_scorer, read_recipe
from kgkit.errors import InputError
from kgkit.evaluation.held_out_files import read_facts, read_relations
from kgkit.evaluation.outcomes import Answer, Outcomes
from kgkit.progress import progress
from kgkit.ranking import filtered_ranks
from kgkit.views.benchmarks import read_benchmark

_HITS = (1, 3, 10)
_SCORES = 1 << 24  # scores held at once (64 MB), however many candidates there are
_BLOCK = 1 << 16  # candidates scored at once; an interaction may copy them
_QUERIES = 512  # at once: more gains nothing


@dataclass(frozen=True)
class _Ends:
    """Facts sorted by what is given, so that the other ends of any query are one slice."""

    keys: IntArray
    others: IntArray

    def of(self, keys: IntArray) -> tuple[IntArray, IntArray]:
        """The known ends of some keys as CSR: starts int64 [Q + 1], ends int64 [K]."""
        first = np.searchsorted(self.keys, keys, side="left")
        counts = np.searchsorted(self.keys, keys, side="right") - first
        starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        return starts, self.others[positions(first, counts)]


class KnownFacts:
    """All known truths of a graph, to filter with.

    Args:
        facts: int64 [n, 3], (head, relation, tail); repeats count once.
        num_relations: Number of relations.
    """

    def __init__(self, facts: IntArray, num_relations: int) -> None:
        self._num_relations = num_relations
        distinct = np.unique(facts, axis=0)
        self._tails, self._heads = self._sorted(distinct, 0, 2), self._sorted(distinct, 2, 0)

    def tails(self, heads: IntArray, relations: IntArray) -> tuple[IntArray, IntArray]:
        """Known tails of (head, relation) pairs as CSR: starts int64 [Q + 1], tails int64 [K]; none where one is -1."""
        return self._tails.of(self._keys(heads, relations))

    def heads(self, tails: IntArray, relations: IntArray) -> tuple[IntArray, IntArray]:
        """Known heads of (tail, relation) pairs as CSR: starts int64 [Q + 1], heads int64 [K]; none where one is -1."""
        return self._heads.of(self._keys(tails, relations))

    def _keys(self, ends: IntArray, relations: IntArray) -> IntArray:
        return np.where((ends < 0) | (relations < 0), -1, ends * self._num_relations + relations)

    def _sorted(self, facts: IntArray, given: int, other: int) -> _Ends:
        keys = self._keys(facts[:, given], facts[:, 1])
        order = np.argsort(keys, kind="stable")
        return _Ends(keys[order], facts[order, other])


@torch.no_grad()
def rank_triples(vectors: Tensor, scorer: RelationScorer, known: KnownFacts, triples: IntArray) -> DoubleArray:
    """Filtered realistic ranks of some facts; memory is bounded by chunks of queries and blocks of candidates.

    Args:
        vectors: float32 [N, D]; every concept is a candidate.
        scorer: Scores.
        known: The truths that do not count against a query.
        triples: int64 [q, 3].

    Returns:
        float64 [2, q], 1-based: ranks of the tails, then of the heads.
    """
    ranks = np.empty((2, len(triples)))
    size = max(1, min(_QUERIES, _SCORES // max(1, len(vectors))))
    scores = torch.empty(min(size, len(triples)), len(vectors))
    with progress("link prediction", 2 * len(triples), "queries") as report:
        for side in (0, 1):
            for at in range(0, len(triples), size):
                chunk = triples[at : at + size]
                given, right = (chunk[:, 0], chunk[:, 2]) if side == 0 else (chunk[:, 2], chunk[:, 0])
                part = scores[: len(chunk)]
                _fill(part, scorer, vectors, (given, chunk[:, 1]), side)
                ends = (known.tails if side == 0 else known.heads)(given, chunk[:, 1])
                ranks[side, at : at + size] = filtered_ranks(part.numpy(), right, *ends)
                report.advance(len(chunk))
    return ranks


def _fill(scores: Tensor, scorer: RelationScorer, vectors: Tensor, query: tuple[IntArray, IntArray], side: int) -> None:
    given, relations = (torch.from_numpy(np.ascontiguousarray(part)) for part in query)
    score = scorer.score_tails if side == 0 else scorer.score_heads
    for at in range(0, len(vectors), _BLOCK):
        scores[:, at : at + _BLOCK] = score(vectors[given], relations.to(vectors.device), vectors[at : at + _BLOCK])


def tied_ranks(known: KnownFacts, triples: IntArray, num_candidates: int) -> DoubleArray:
    """Ranks of a tie with every candidate that is not filtered, float64 [2, q]: what nothing known deserves."""
    sides = []
    for right, other, ends in ((2, 0, known.tails), (0, 2, known.heads)):
        starts, columns = ends(triples[:, other], triples[:, 1])
        rows = np.repeat(np.arange(len(triples)), np.diff(starts))
        filtered = np.bincount(rows[columns != triples[rows, right]], minlength=len(triples))
        sides.append(1 + (num_candidates - 1 - filtered) / 2)
    return np.stack(sides)


@dataclass(frozen=True)
class _Task:
    """Facts of an encoder in rows, the queries among them by part; -1 where an id is not in the encoder."""

    concepts: tuple[str, ...]
    relations: list[str]
    known: KnownFacts
    train: IntArray
    parts: dict[str, IntArray]
    queries: dict[str, list[str]]


def link_prediction(folder: Path, data: Path | None = None) -> Answer:
    """Measure an encoder on its own held-out facts, or on the test part of a benchmark whose ids it carries.

    A test fact is unseen if an end or its relation occurs in no training fact. With a text tower its ends still have
    vectors, from their names, and it is ranked by them; without one, and always if the relation or an id is
    unknown, it gets the rank of a tie with every candidate. Both are counted.

    Args:
        folder: ENCODER.
        data: A folder with train, valid and test parts (see `read_benchmark`); the encoder's own facts if not given.

    Returns:
        Parts `test` and, if concepts were held out, `inductive`: their facts. Figures are means over both sides;
        `tail_mrr` and `head_mrr` are those of one side. The resampled unit is the fact.
    """
    vectors, scorer = open_scorer(folder)
    recipe = read_recipe(folder)
    task = _own_task(folder) if data is None else _benchmark_task(folder, data)
    if len(vectors) != len(task.concepts):
        raise InputError(f"{len(task.concepts)} concepts but {len(vectors)} vectors; the folder is damaged", folder)
    notes = []
    if not (recipe.objectives.relation and recipe.train.steps):
        notes.append("its relation objective was off: scored by the relation scorer as it starts")
    parts, about = {}, {"num_candidates": len(vectors), "filtered": True, "ties": "realistic", "sides": "both"}
    unseen_counts: dict[str, Any] = {}
    for part, triples in task.parts.items():
        if not len(triples):
            continue
        unseen, tied = _unseen(task, triples, has_text=recipe.text.model != "none")
        ranks = np.empty((2, len(triples)))
        ranks[:, ~tied] = rank_triples(vectors, scorer, task.known, triples[~tied])
        ranks[:, tied] = tied_ranks(task.known, triples[tied], len(vectors))
        parts[part] = _outcomes(task.queries[part], ranks)
        unseen_counts[part] = {"unseen": int(unseen.sum()), "tied": int(tied.sum())}
    if data is not None and "test" in parts:
        trained = _contained(task.parts["test"], task.train)
        if trained.any():
            notes.append(f"{int(trained.sum()):,} of the {len(trained):,} test facts were trained on")
    if not parts:
        return Answer(cannot="no fact was held out", candidates=task.concepts)
    return Answer(parts, about | {"unseen": unseen_counts}, notes, task.concepts)


def _own_task(folder: Path) -> _Task:
    facts, relations, concepts = read_facts(folder), read_relations(folder), load_encoder(folder).concepts
    every = np.concatenate(list(facts.values()))
    parts = {part: facts[part] for part in ("test", "inductive")}
    queries = {
        part: [f"{concepts[h]} {relations[r]} {concepts[t]}" for h, r, t in triples.tolist()]
        for part, triples in parts.items()
    }
    return _Task(concepts, relations, KnownFacts(every, len(relations)), facts["train"], parts, queries)


def _benchmark_task(folder: Path, data: Path) -> _Task:
    """Entities and relations are matched by their names."""
    facts, relations, concepts = read_facts(folder), read_relations(folder), load_encoder(folder).concepts
    view, split = read_benchmark(data)
    row = {concept: index for index, concept in enumerate(concepts)}
    number = {relation: index for index, relation in enumerate(relations)}
    entity_rows = np.array([row.get(concept, -1) for concept in view.concepts], dtype=np.int64)
    relation_rows = np.array([number.get(relation, -1) for relation in view.relations], dtype=np.int64)
    if (entity_rows < 0).all():
        problem = f"none of its {len(entity_rows):,} entities is a concept of {folder}; train on this graph first"
        raise InputError(problem, data)

    def rows(triples: IntArray) -> IntArray:
        moved = np.stack([entity_rows[triples[:, 0]], relation_rows[triples[:, 1]], entity_rows[triples[:, 2]]], axis=1)
        return np.ascontiguousarray(moved, dtype=np.int64)

    theirs = rows(view.triples)
    known = np.concatenate([*facts.values(), theirs[(theirs >= 0).all(axis=1)]])
    names = [f"{view.concepts[h]} {view.relations[r]} {view.concepts[t]}" for h, r, t in split.test.tolist()]
    parts = {"test": rows(split.test)}
    return _Task(concepts, relations, KnownFacts(known, len(relations)), facts["train"], parts, {"test": names})


def _unseen(task: _Task, triples: IntArray, *, has_text: bool) -> tuple[BoolArray, BoolArray]:
    """Which facts have an end or relation that no training fact has, and which cannot be ranked at all."""
    # One place more than there are rows, never set: where -1 points to.
    seen_concept = np.zeros(len(task.concepts) + 1, dtype=np.bool_)
    seen_relation = np.zeros(len(task.relations) + 1, dtype=np.bool_)
    seen_concept[task.train[:, [0, 2]]] = True
    seen_relation[task.train[:, 1]] = True
    seen_ends = seen_concept[triples[:, 0]] & seen_concept[triples[:, 2]]
    rankable = (triples >= 0).all(axis=1) & seen_relation[triples[:, 1]]
    return ~(seen_ends & seen_relation[triples[:, 1]]), ~(rankable if has_text else rankable & seen_ends)


def _contained(triples: IntArray, others: IntArray) -> BoolArray:
    known = set(map(tuple, others.tolist()))
    return np.array([tuple(triple) in known for triple in triples.tolist()], dtype=np.bool_)


def _outcomes(queries: list[str], ranks: DoubleArray) -> Outcomes:
    reciprocal = 1 / ranks
    columns = {"mrr": reciprocal.mean(axis=0)}
    columns |= {f"hits_at_{k}": (ranks <= k).mean(axis=0) for k in _HITS}
    columns |= {"mean_rank": ranks.mean(axis=0), "tail_mrr": reciprocal[0], "head_mrr": reciprocal[1]}
    return Outcomes(queries, columns, np.arange(len(queries)))
