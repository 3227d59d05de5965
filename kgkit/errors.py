"""Errors a user can act on: one line that names the thing, the place, the value and the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KgkitError(Exception):
    """Base of every error that the command line prints as one line with exit code 1."""


class InputError(KgkitError):
    """A file, folder, row or value given by the user is missing or wrong.

    Args:
        problem: What is wrong, with the offending value.
        path: The file or folder it is in.
        line: The 1-based line or row number within `path`.
    """

    def __init__(self, problem: str, path: object = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + problem)


class UnknownConceptError(KgkitError):
    """A concept id that this encoder or graph does not hold."""


def choices(given: str, known: Iterable[str], limit: int = 8) -> str:
    """Name the nearest known values, for the end of an error message.

    >>> choices("defualt", ["default", "fast", "kge"])
    "did you mean 'default'? choices: default, fast, kge"
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3)
    shown = names if len(names) <= limit else near or names[:limit]
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = "" if len(shown) == len(names) else f" ... ({len(names)} in all)"
    return f"{hint}choices: {', '.join(shown)}{more}"
