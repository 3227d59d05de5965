"""Words in the form in which they are compared: case, accents, punctuation and British spelling folded; n-grams."""

from __future__ import annotations

import re
import unicodedata

_NOT_WORD = re.compile(r"[\W_]+")
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
NAME_GRAMS = (2, 3)
"""Lengths of the n-grams by which names are compared; with 4 it is no better (docs/search.md)."""
_SMALL = frozenset(("a", "an", "and", "at", "by", "due", "for", "from", "in", "of", "on", "or", "the", "to", "with"))
WORD_GRAMS = (2,)
"""Lengths of the n-grams by which a word's nearest words are looked for."""


def fold(text: str) -> str:
    """The form in which names are compared: lower case words without accents, in American spelling.

    >>> fold("Tumour,  of the OESOPHAGUS ")
    'tumor of the esophagus'
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
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
