"""Language tags that say English."""

from __future__ import annotations

import doctest

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from kgkit import languages
from kgkit.languages import english, is_english

TAGS = st.none() | st.sampled_from(["", "en", "EN", "en-US", "en-gb-oed", "enm", "e", "de-en", "en_US"]) | st.text()


@given(st.lists(TAGS, min_size=1))
def test_a_column_and_a_tag_are_read_alike(tags: list[str | None]) -> None:
    table = pl.DataFrame({"language": tags}, schema={"language": pl.String})
    assert table.select(english()).to_series().to_list() == [is_english(tag) for tag in tags]


def test_the_examples_run() -> None:
    assert doctest.testmod(languages).failed == 0
    assert doctest.testmod(languages).attempted
