"""The learning view of a graph: integer triples and their vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.arrays import IntArray
from kgkit.errors import InputError


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
    try:
        concepts = pl.read_parquet(views / "concepts.parquet", columns=["concept"])["concept"].to_list()
        relations = pl.read_parquet(views / "relations.parquet")["relation"].to_list()
        triples = pl.read_parquet(views / "triples.parquet").to_numpy()
    except OSError as error:
        raise InputError("the views are missing; ingest any source again to rebuild them", views) from error
    except pl.exceptions.PolarsError as error:
        problem = f"damaged ({str(error).splitlines()[0]}); ingest any source again to rebuild the views"
        raise InputError(problem, views) from error
    if len(triples) and (triples[:, [0, 2]].max() >= len(concepts) or triples[:, 1].max() >= len(relations)):
        raise InputError("triples.parquet is of another graph; ingest any source again to rebuild the views", views)
    return TripleView(tuple(concepts), tuple(relations), np.ascontiguousarray(triples, dtype=np.int64))
