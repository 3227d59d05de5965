"""Rows of RRF tables as integers, and one reason for each row that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kgkit.arrays import BoolArray
from kgkit.sources.base import IngestLog

NUM_CUIS = 10_000_000
"""A CUI is C and seven digits."""
FIRST_PLACEHOLDER = 9_000_000
"""Real CUIs are far below; files made from open ontologies mint theirs from here up."""
SUPPRESSED = ("O", "E", "Y")


@dataclass(frozen=True)
class Rule:
    """One reason to leave rows out.

    Attributes:
        reason: For the count.
        condition: True where a row is left out.
        defect: Column that shows the offending value, if such a row is wrong in itself.
    """

    reason: str
    condition: pl.Expr
    defect: str | None = None


def cui_number(column: str) -> pl.Expr:
    """UInt32 number of a CUI; null where it is not C and seven digits."""
    digits = pl.col(column).str.extract(r"^C(\d{7})$", 1)
    return digits.cast(pl.UInt32, strict=False)


def is_in(numbers: pl.Expr, members: BoolArray) -> pl.Expr:
    """Is the CUI number in a set, given as one boolean per possible CUI?"""
    known = pl.Series(members)
    return numbers.map_batches(lambda rows: known.gather(rows), return_dtype=pl.Boolean).fill_null(value=False)


def kept_rows(rows: pl.DataFrame, rules: Sequence[Rule], where: tuple[str, Path], log: IngestLog) -> pl.DataFrame:
    """The rows that no rule leaves out; each of the others is counted under the first rule that fits.

    Args:
        rows: Rows of a table, with the column `line`.
        rules: In order.
        where: Table, and its place for messages.
        log: Counts.
    """
    table, place = where
    number = pl.lit(0, dtype=pl.UInt8)
    for index, rule in reversed(list(enumerate(rules, 1))):
        number = pl.when(rule.condition).then(pl.lit(index, dtype=pl.UInt8)).otherwise(number)
    marked = rows.with_columns(_rule=number)
    for index, count in marked["_rule"].value_counts().sort("_rule").iter_rows():
        if not index:
            continue
        rule = rules[index - 1]
        if rule.defect is None:
            log.skip(table, rule.reason, count)
        else:
            first = marked.filter(pl.col("_rule") == index).row(0, named=True)
            log.defect(table, rule.reason, (place, first["line"]), str(first[rule.defect]), count)
    return marked.filter(pl.col("_rule") == 0).drop("_rule")
