"""Semantic groups of concepts: the dozen-odd classes above the semantic types."""

from __future__ import annotations

import polars as pl

from kgkit.resources import resource

NO_GROUP = "NONE"
"""Group of concepts without a semantic type that has a group."""


def semantic_group_of(semantic_types: pl.Series) -> pl.Series:
    """Semantic group (`DISO`, `ANAT`, ...) of each concept: that of its smallest TUI; NO_GROUP without.

    Args:
        semantic_types: Lists of TUIs.
    """
    path = resource("ontologies/semantic_groups.txt")
    table = pl.read_csv(path, separator="\t", quote_char=None, columns=["TUI", "group"])
    smallest = semantic_types.list.min().rename("TUI").to_frame()
    return smallest.join(table, on="TUI", how="left", maintain_order="left")["group"].fill_null(NO_GROUP)
