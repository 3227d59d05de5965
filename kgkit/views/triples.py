"""The learning view of a graph: integer triples and their vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgkit.arrays import IntArray
from kgkit.errors import InputError
from kgkit.views.read import read_view


@dataclass(frozen=True)
class TripleView:
    """Concepts, relations and facts; ids are positions in sorted vocabularies.

    Attributes:
        concepts: CURIEs, sorted.
        relations: Relation names, sorted.
        triples: int64 [n, 3], (head, relation, tail), sorted and distinct.
    """

    concepts: tuple[str, ...]
    relations: tuple[str, ...]
    triples: IntArray

    @property
    def num_concepts(self) -> int:
        """Number of concepts."""
        return len(self.concepts)

    @property
    def num_relations(self) -> int:
        """Number of relations, inverses not counted."""
        return len(self.relations)


def open_triples(views: Path) -> TripleView:
    """Read the triples view of a graph's view folder.

    Raises:
        InputError: if the views are missing, damaged, or not of one graph.
    """
    concepts = read_view(views, "concepts", ["concept"])["concept"].to_list()
    relations = read_view(views, "relations", ["relation"])["relation"].to_list()
    triples = read_view(views, "triples", ["head", "relation", "tail"]).to_numpy()
    if len(triples) and (triples[:, [0, 2]].max() >= len(concepts) or triples[:, 1].max() >= len(relations)):
        raise InputError("triples.parquet is of another graph; ingest any source again to rebuild the views", views)
    return TripleView(tuple(concepts), tuple(relations), np.ascontiguousarray(triples, dtype=np.int64))
