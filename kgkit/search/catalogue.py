"""What the index knows of concepts and names, in SQLite: only what a search asks for is read.

concepts   row, id, preferred name, TUIs
codes      source codes that sit on exactly one concept
names      every name, by entry; the entries of a concept lie together
facets     semantic types, groups, vocabularies and languages of the concepts
grams      n-gram -> column of the postings, of names and of words
words      the words of all names, and how many names have them
initials   abbreviations that the first letters of a name make
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from kgkit.arrays import IntArray
from kgkit.errors import InputError, choices
from kgkit.search.filters import LANGUAGE, ConceptFilter
from kgkit.search.layout import DamagedIndexError

SCHEMA = """
CREATE TABLE concepts (row INTEGER PRIMARY KEY, concept TEXT NOT NULL UNIQUE, name TEXT, semantic_types TEXT NOT NULL);
CREATE TABLE codes (code TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE names (entry INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE facets (facet TEXT, value TEXT, row INTEGER, PRIMARY KEY (facet, value, row)) WITHOUT ROWID;
CREATE TABLE grams (kind TEXT, gram TEXT, id INTEGER NOT NULL, PRIMARY KEY (kind, gram)) WITHOUT ROWID;
CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE, names INTEGER NOT NULL);
CREATE TABLE initials (letters TEXT, string INTEGER, PRIMARY KEY (letters, string)) WITHOUT ROWID;
"""
_PARAMETERS = 10_000  # SQLite takes 32,766 in one statement


class Concept(NamedTuple):
    """A concept as a hit shows it."""

    id: str
    name: str
    semantic_types: tuple[str, ...]


def write_catalogue(path: Path, tables: Iterable[tuple[str, Iterable[Sequence[Any]]]]) -> None:
    """Write a new catalogue.

    Args:
        path: A file that is not there yet.
        tables: Name of each table of SCHEMA and its rows, in the order of its columns.
    """
    with closing(sqlite3.connect(path)) as connection:  # its own context manager does not close it
        connection.executescript(SCHEMA)
        for table, rows in tables:
            width = len(connection.execute(f"SELECT * FROM {table} LIMIT 0").description)  # noqa: S608 - our own names
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", rows)  # noqa: S608
        connection.commit()


class Catalogue:
    """A catalogue, opened to read.

    Raises:
        DamagedIndexError: if the file is missing or damaged, when that is seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        except sqlite3.DatabaseError as error:
            raise DamagedIndexError(f"damaged or missing ({error})", path) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def concepts(self, rows: Sequence[int]) -> list[Concept]:
        """The concepts of some rows, in their order."""
        sql = "SELECT row, concept, name, semantic_types FROM concepts WHERE row IN ({})"
        found = {row: Concept(concept, name, tuple(types.split())) for row, concept, name, types in self._in(sql, rows)}
        return [found[row] for row in rows]

    def row_of(self, identifier: str) -> int | None:
        """Row of a concept id, or of a source code that sits on exactly one concept; None if there is none."""
        sql = "SELECT row FROM concepts WHERE concept = ?1 UNION ALL SELECT row FROM codes WHERE code = ?1"
        found = self._all(sql, (identifier,))
        return found[0][0] if found else None

    def names(self, entries: Sequence[int]) -> dict[int, str]:
        """Entry -> name."""
        return dict(self._in("SELECT entry, name FROM names WHERE entry IN ({})", entries))

    def members(self, keep: ConceptFilter) -> IntArray:
        """Rows of the concepts that pass a filter; int64, ascending.

        Raises:
            InputError: for a value that no concept has, with the nearest ones.
        """
        kept: set[int] | None = None
        for facet, wanted in keep.conditions():
            values = [value for each in wanted for value in self._values(facet, each)]
            sql = "SELECT row FROM facets WHERE facet = ? AND value IN ({})"
            rows = {row for (row,) in self._in(sql, values, (facet,))}
            kept = rows if kept is None else kept & rows
        return np.array(sorted(kept or ()), dtype=np.int64)

    def gram_ids(self, kind: str, grams: Iterable[str]) -> dict[str, int]:
        """n-gram -> column of the postings of `kind` (`name` or `word`); those that no name has are left out."""
        return dict(self._in("SELECT gram, id FROM grams WHERE kind = ? AND gram IN ({})", sorted(set(grams)), (kind,)))

    def known_words(self, words: Iterable[str]) -> set[str]:
        """Those among some folded words that a name has."""
        return {word for (word,) in self._in("SELECT word FROM words WHERE word IN ({})", sorted(set(words)))}

    def words(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """Words by their ids, each with the number of names that have it; in no order."""
        return self._in("SELECT word, names FROM words WHERE id IN ({})", ids)

    def strings_of_initials(self, letters: str) -> IntArray:
        """The folded names whose first letters these are; int64."""
        found = self._all("SELECT string FROM initials WHERE letters = ?", (letters,))
        return np.array([string for (string,) in found], dtype=np.int64)

    def _values(self, facet: str, wanted: str) -> list[str]:
        """The values of a facet that answer to one that is wanted."""
        found = self._all("SELECT DISTINCT value FROM facets WHERE facet = ?", (facet,))
        known = [value for (value,) in found]
        if facet == LANGUAGE:  # basic filtering of RFC 4647: a range takes what begins with it
            fits = [value for value in known if f"{value}-".casefold().startswith(f"{wanted}-".casefold())]
        else:
            fits = [value for value in known if value == wanted]
        if not fits:
            raise InputError(f"no concept has the {facet} {wanted!r}; {choices(wanted, known)}")
        return fits

    def _in(self, sql: str, values: Sequence[Any], before: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a statement with a list in it, however long the list."""
        return list(self._pieces(sql, values, before))

    def _pieces(self, sql: str, values: Sequence[Any], before: tuple[Any, ...]) -> Iterator[Any]:
        for start in range(0, len(values), _PARAMETERS):
            piece = values[start : start + _PARAMETERS]
            yield from self._all(sql.format(", ".join("?" * len(piece))), (*before, *piece))

    def _all(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise DamagedIndexError(f"damaged ({error})", self._path) from error
