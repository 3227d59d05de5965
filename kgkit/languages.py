"""Which language tags (BCP 47) say English."""

from __future__ import annotations

import polars as pl


def is_english(tag: str | None) -> bool:
    """Whether a tag says English, of any region; no tag counts as English.

    >>> [is_english(tag) for tag in ("en", "en-GB", "", None, "enm", "de")]
    [True, True, True, True, False, False]
    """
    return (tag or "en").casefold().partition("-")[0] == "en"


def english(column: str = "language") -> pl.Expr:
    """The same of a column of tags, bool."""
    tag = pl.col(column).fill_null("").str.to_lowercase()
    return (tag == "") | (tag == "en") | tag.str.starts_with("en-")
