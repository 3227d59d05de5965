"""Which of a concept's names stands for it: one rule for the RDF and for the views."""

from __future__ import annotations

import polars as pl


def preferred_names(names: pl.DataFrame) -> pl.DataFrame:
    """One row per concept and language: the best name of the vocabulary that ranks it highest.

    A full name is preferred to an abbreviation, then the higher rank, then the alphabetical order of vocabulary
    and name, so that the choice does not depend on the order of ingestion.

    Args:
        names: Columns concept, language, name, rank, is_best, is_abbreviation and graph (sorts as
            its name does); ids of any type.

    Returns:
        Columns concept, language, name; sorted by concept and language.
    """
    best = names.lazy().filter("is_best").sort(
        ["concept", "language", "is_abbreviation", "rank", "graph", "name"],
        descending=[False, False, False, True, False, False],
    )  # fmt: skip
    return best.unique(["concept", "language"], keep="first", maintain_order=True).select(
        "concept", "language", "name"
    ).collect()  # fmt: skip
