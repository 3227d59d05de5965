"""Which ids are one concept: classes of exact matches, none of which holds two CUIs.

A one-to-one match with the UMLS, or an exact match that a mapping file asserts, joins two ids in the views; anything
looser does not. Source codes never join concepts.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray, IntArray

_CUI = "umls:"


def representatives(ids: pl.Series, exact: pl.DataFrame) -> IntArray:
    """The id that stands for each id's class: its CUI if it has one, else its alphabetically first member.

    An id matched with several CUIs is joined with none of them (which would be right is not said), and a match that
    would bring two CUIs into one class through other ids is not followed; matches are taken in sorted order, so the
    classes do not depend on the order of ingestion.

    Args:
        ids: CURIEs, sorted and distinct.
        exact: Columns subject and object, positions in `ids`.

    Returns:
        int64 [len(ids)], positions in `ids`.
    """
    parent = np.arange(len(ids), dtype=np.int64)
    if exact.is_empty():
        return parent
    low, high = pl.min_horizontal("subject", "object"), pl.max_horizontal("subject", "object")
    pairs = exact.select(low=low.cast(pl.Int64), high=high.cast(pl.Int64)).unique().sort("low", "high")
    is_cui = ids.str.starts_with(_CUI).to_numpy()
    with_cui, between = _by_number_of_cuis(pairs, is_cui)
    cui = np.where(is_cui, parent, -1)  # the CUI of the class whose root this is

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return item

    for one, other in (*with_cui.iter_rows(), *between.iter_rows()):
        first, second = sorted((root(one), root(other)))
        if first == second or (cui[first] >= 0 and cui[second] >= 0):
            continue
        parent[second] = first
        cui[first] = max(cui[first], cui[second])
    roots = np.arange(len(ids), dtype=np.int64)
    for item in np.unique(pairs.to_numpy()):
        roots[item] = root(int(item))
    return np.where(cui[roots] >= 0, cui[roots], roots)


def _by_number_of_cuis(pairs: pl.DataFrame, is_cui: BoolArray) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pairs of an id with its only CUI, and pairs without a CUI; the rest join nothing."""
    ends = pairs.with_columns(
        low_is_cui=pl.Series(is_cui[pairs["low"].to_numpy()]), high_is_cui=pl.Series(is_cui[pairs["high"].to_numpy()])
    )
    mixed = ends.filter(pl.col("low_is_cui") != pl.col("high_is_cui"))
    other_end = pl.when("low_is_cui").then("high").otherwise("low")
    only = mixed.filter(pl.len().over(other_end) == 1)
    neither = ends.filter(~pl.col("low_is_cui") & ~pl.col("high_is_cui"))
    return only.select("low", "high"), neither.select("low", "high")
