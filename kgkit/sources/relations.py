"""One direction for every relation: names, inverses and symmetric relations of MRREL.

A row of MRREL reads CUI2 RELA CUI1, and most facts are stored twice, once from each side. A graph that keeps both
doubles its size and leaks the answers of any test split, so a non-canonical row is flipped and then de-duplicated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import polars as pl

from kgkit.errors import InputError
from kgkit.resources import resource

_INVERSE_PREFIX = "inverse_"

REL_WITHOUT_RELA = {
    "CHD": "isa",
    "PAR": "inverse_isa",
    "RN": "narrower_than",
    "RB": "broader_than",
    "RO": "related_to",
    "RU": "related_to",
    "RL": "similar_to",
    "RQ": "possibly_synonymous_with",
}
"""What an empty RELA means, by REL."""

REL_NOT_USED = {
    "SIB": "sibling clique, follows from isa",
    "AQ": "allowed qualifier",
    "QB": "can be qualified by",
    "XR": "stated as not related",
    "DEL": "deleted concept",
}
"""Values of REL that state no relation between two concepts worth an edge, with the reason that is counted."""


@dataclass(frozen=True, slots=True)
class CanonicalRelation:
    """How a relation name is stored.

    Attributes:
        name: The canonical name.
        flipped: Head and tail change places.
        symmetric: Direction means nothing; the smaller id becomes the head.
    """

    name: str
    flipped: bool
    symmetric: bool


class RelationNames:
    """Chooses the canonical side of each pair of inverse relations.

    The side is, in this order: the one that sources assert more often (`DIR=Y`); the first column of
    `ontologies/inverses.tsv`; X over inverse_X; the alphabetically first.

    Args:
        documented: relation -> inverse, as MRDOC's `rela_inverse` rows give it; goes before our own table.
        asserted: relation -> number of rows with `DIR=Y`.
    """

    def __init__(self, documented: Mapping[str, str], asserted: Mapping[str, int]) -> None:
        ours = _bundled_inverses()
        self._preferred = frozenset(ours)
        self._inverse: dict[str, str] = {}
        # First come, first served: a name with two inverses would put the two sides of one fact under two names.
        for name, inverse in (*sorted(documented.items()), *ours.items()):
            if name not in self._inverse and inverse not in self._inverse:
                self._inverse |= {name: inverse, inverse: name}
        self._asserted = asserted

    def canonical(self, relation: str) -> CanonicalRelation:
        """The stored form of a relation name.

        >>> RelationNames({}, {}).canonical("inverse_isa")
        CanonicalRelation(name='isa', flipped=True, symmetric=False)
        >>> RelationNames({}, {}).canonical("inverse_adjacent_to")
        CanonicalRelation(name='adjacent_to', flipped=True, symmetric=True)
        """
        if relation not in self._inverse and relation.startswith(_INVERSE_PREFIX):
            base = self.canonical(relation.removeprefix(_INVERSE_PREFIX))
            return CanonicalRelation(base.name, not base.flipped, base.symmetric)
        inverse = self._inverse.get(relation)
        if inverse is None or inverse == relation:
            return CanonicalRelation(relation, flipped=False, symmetric=inverse == relation)
        name = min((relation, inverse), key=self._order)
        return CanonicalRelation(name, flipped=name != relation, symmetric=False)

    def _order(self, relation: str) -> tuple[int, bool, bool, str]:
        return (
            -self._asserted.get(relation, 0),
            relation not in self._preferred,
            relation.startswith(_INVERSE_PREFIX),
            relation,
        )


def canonical_edges(edges: pl.DataFrame, names: RelationNames) -> pl.DataFrame:
    """Flip every edge to the canonical side of its relation; rows stay, duplicates are for the caller to drop.

    Args:
        edges: Columns head, relation, tail (strings) and any others.
        names: Chooses the side.

    Returns:
        The same rows and columns, in the same order.
    """
    rows = [(name, names.canonical(name)) for name in edges["relation"].unique().sort().to_list()]
    table = pl.DataFrame(
        [(name, form.name, form.flipped, form.symmetric) for name, form in rows],
        schema={"relation": pl.String, "name": pl.String, "flipped": pl.Boolean, "symmetric": pl.Boolean},
        orient="row",
    )
    swap = pl.when("symmetric").then(pl.col("head") > pl.col("tail")).otherwise("flipped")
    return (
        edges.join(table, on="relation", how="left", maintain_order="left")
        .with_columns(swap=swap)
        .with_columns(
            head=pl.when("swap").then("tail").otherwise("head"),
            tail=pl.when("swap").then("head").otherwise("tail"),
            relation="name",
        )
        .select(edges.columns)
    )


def is_negative(relation: str) -> bool:
    """Does the relation state that something does not hold? Such a fact is never a positive edge."""
    return "_excludes_" in relation or relation.startswith("is_not_")


@cache
def _bundled_inverses() -> dict[str, str]:
    path = resource("ontologies/inverses.tsv")
    table = pl.read_csv(path, separator="\t")
    if table["relation"].n_unique() != len(table):
        raise InputError("a relation stands twice in the first column", path)
    return dict(zip(table["relation"].to_list(), table["inverse"].to_list(), strict=True))
