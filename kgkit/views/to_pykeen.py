"""Border to PyKEEN: a triples factory with our ids, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pykeen.triples import TriplesFactory

from kgkit.arrays import IntArray
from kgkit.views.encode import view_of_rows
from kgkit.views.triples import TripleView


def to_pykeen(view: TripleView, triples: IntArray | None = None) -> TriplesFactory:
    """A factory whose ids are the view's rows; PyKEEN derives none from the labels.

    Args:
        view: Its vocabularies become `entity_to_id` and `relation_to_id`, also where no triple uses them.
        triples: int64 [n, 3], the part of the view's triples to hold (of a split, say); all if None. Factories of
            the parts of one view share their ids.
    """
    chosen = view.triples if triples is None else triples
    return TriplesFactory(
        mapped_triples=torch.from_numpy(np.array(chosen, dtype=np.int64)),
        entity_to_id={concept: row for row, concept in enumerate(view.concepts)},
        relation_to_id={relation: row for row, relation in enumerate(view.relations)},
    )


def from_pykeen(factory: TriplesFactory) -> TripleView:
    """The view of a factory's triples; inverse triples that PyKEEN would add in training are none of them.

    Ids stay as they are where they follow the sorted labels, as those of `to_pykeen` and PyKEEN's own do; ids in
    another order, or with gaps, are renumbered.
    """
    concepts, concept_row = _vocabulary(factory.entity_to_id)
    relations, relation_row = _vocabulary(factory.relation_to_id)
    ids = factory.mapped_triples.numpy().astype(np.int64)
    rows = np.stack([concept_row[ids[:, 0]], relation_row[ids[:, 1]], concept_row[ids[:, 2]]], axis=1)
    return view_of_rows(concepts, relations, rows)


def _vocabulary(id_of: Mapping[str, int]) -> tuple[tuple[str, ...], IntArray]:
    """Sorted labels, and the place of each id's label among them."""
    labels = tuple(sorted(id_of))
    row = np.full(max(id_of.values(), default=-1) + 1, -1)
    row[[id_of[label] for label in labels]] = np.arange(len(labels))
    return labels, row
