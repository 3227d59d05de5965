"""Words in the form in which they are compared: case, accents, punctuation, British spelling and plurals; n-grams."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NOT_WORD = re.compile(r"[\W_]+")
_POSSESSIVE = re.compile(r"(?<=[^\W\d_]{2})['\N{RIGHT SINGLE QUOTATION MARK}]s\b")
_SPELLINGS = tuple(
    (re.compile(pattern), american)
    for pattern, american in (
        ("ae|oe", "e"),  # anaemia, oedema
        (r"our(?=s?\b)", "or"),  # tumour
        ("sulph", "sulf"),
        (r"(?<=[a-z]{3})is(?=(?:e|ed|es|er|ing|ations?)\b)", "iz"),  # localised
        (r"(?<=al)ys(?=(?:e|ed|es|er|ing)\b)", "yz"),  # catalyse
        (r"(?<=[a-z]{2}[bt])re(?=s?\b)", "er"),  # fibre, centre
    )
)
_PLURALS = tuple(
    (re.compile(pattern), singular)
    for pattern, singular in (
        (r"(?<=[a-z]{2})ies$", "y"),  # biopsies
        (r"(?<=om)ata$", "a"),  # hematomata
        (r"(?<=st)ases$", "asis"),  # metastases, but not diseases
        (r"(?<=[a-z]{4})oses$", "osis"),  # sarcoidoses, but not doses
        (r"(?<=[hln])yses$", "ysis"),  # paralyses
        (r"(?<=it)ides$", "is"),  # vasculitides
        (r"(?<=[nr])uses$", "us"),  # viruses
        (r"((?<=x)|(?<=ss)|(?<=sh)|(?<=[nr]ch))es$", ""),  # reflexes, abscesses, branches, but not aches
        (r"((?<=[a-z]{4})|(?<=\b[b-df-hj-np-tv-z][aeiou][b-df-hj-np-tv-z]))(?<![isu])s$", ""),  # tumors, ribs, not ASDs
    )
)
NAME_GRAMS = (2, 3)
"""Lengths of the n-grams by which names are compared; with 4 it is no better (docs/search.md)."""
_SMALL = frozenset(("a", "an", "and", "at", "by", "due", "for", "from", "in", "of", "on", "or", "the", "to", "with"))
WORD_GRAMS = (2,)
"""Lengths of the n-grams by which a word's nearest words are looked for."""


def fold(text: str) -> str:
    """The form in which names are compared: lower case words without accents, in American spelling.

    >>> fold("Tumour,  of the OESOPHAGUS "), fold("Barrett's metaplasias")
    ('tumor of the esophagus', 'barrett metaplasias')
    """
    letters = unicodedata.normalize("NFKD", _POSSESSIVE.sub("", text.casefold()))
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    folded = _NOT_WORD.sub(" ", bare).strip()
    for pattern, american in _SPELLINGS:
        folded = pattern.sub(american, folded)
    return folded


def grams(folded: str, lengths: tuple[int, ...]) -> set[str]:
    """n-grams within the words of a folded text, each word with a space before and after.

    Word order therefore makes no difference, and a plural or a typo changes a few grams of one word.

    >>> sorted(grams("rib", (3,)))
    [' ri', 'ib ', 'rib']
    """
    found: set[str] = set()
    for word in folded.split():
        padded = f" {word} "
        for length in lengths:
            found.update(padded[start : start + length] for start in range(max(1, len(padded) - length + 1)))
    return found


@lru_cache(maxsize=1 << 16)
def singular(word: str) -> str:
    """A folded word without the ending of a plural; other words may lose an s too, on both sides of a comparison.

    >>> [singular(word) for word in ("metastases", "tumors", "biopsies", "virus", "stenosis")]
    ['metastasis', 'tumor', 'biopsy', 'virus', 'stenosis']
    """
    for ending, replacement in _PLURALS:
        shorter, found = ending.subn(replacement, word)
        if found:
            return shorter
    return word


def name_grams(folded: str) -> set[str]:
    """The n-grams by which names are compared: of the words of a folded text in the singular.

    >>> name_grams("lung tumors") == name_grams("tumor lung")
    True
    """
    return grams(" ".join(map(singular, folded.split())), NAME_GRAMS)


def initials(folded: str) -> set[str]:
    """The abbreviations that a name's first letters make, with its small words and without.

    >>> sorted(initials("shortness of breath"))
    ['sb', 'sob']
    """
    words = folded.split()
    found = {"".join(word[0] for word in part) for part in (words, [word for word in words if word not in _SMALL])}
    return {letters for letters in found if len(letters) > 1}


def edits(one: str, other: str, limit: int) -> int:
    """Letters inserted, left out, replaced or swapped between two words (optimal string alignment), up to a limit.

    Args:
        one: A word.
        other: Another.
        limit: A distance beyond it comes back as `limit + 1`.

    >>> edits("plueral", "pleural", 2), edits("rib", "lung", 2)
    (1, 3)
    """
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        following = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        before, row = row, following
        if min(row) > limit + 1:  # a swap reaches back two rows, so one row above the limit does not settle it
            return limit + 1
    return min(row[-1], limit + 1)
