"""Damage to JSON content: a value of another kind at any level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def damage(content: Any, data: st.DataObject) -> None:
    """Put any JSON value in the place of one of a content's values."""
    container, key = data.draw(st.sampled_from(list(_places(content))))
    container[key] = data.draw(JSON)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ():
        yield value, key
        yield from _places(value[key])
