"""When two strings count as the same name."""

from __future__ import annotations

import re

_NOT_WORD = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """The form in which two strings count as the same name.

    >>> normalise("Effusion,  PLEURAL ")
    'effusion pleural'
    """
    return _NOT_WORD.sub(" ", text.casefold()).strip()
