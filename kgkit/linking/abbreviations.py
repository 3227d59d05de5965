"""Abbreviations that a text defines itself: "ataxia-telangiectasia (A-T)" (Schwartz and Hearst 2003).

Words alone cannot say what `DM` is; nearly every text that uses it says so once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_SHORTEST, _LONGEST = 2, 10
_MOST_SHORT_WORDS = 2
_MORE_WORDS, _TIMES_WORDS = 5, 2
"""A long form has at most so many words more than the short form has letters, or times as many."""
_CLAUSE_CHARACTERS = 250
"""What is looked back at: longer than any long form of ten letters is."""
_BRACKETS = re.compile(r"[(\[]([^()\[\]]{1,120})[)\]]")
_END = re.compile(r"[.!?;:]\s|[()\[\]\n]")
_WORD = re.compile(r"\S+")
_INITIALLED = re.compile(r"[^\W_]+")
_FIRST_PART = re.compile(r"[,;]\s| or ")
_OPEN = r"(?<![^\W_])"
_CLOSE = r"(?![^\W_])"

NO_FORMS: Mapping[str, str] = MappingProxyType({})


def find_abbreviations(text: str) -> dict[str, str]:
    """Short form -> long form of every abbreviation that a text defines, as they are written.

    Both orders are read: `long form (SF)` and `SF (long form)`. Where the letters do not stand in the long form in
    their order, they may be the first letters of the last words (`DM`). Of several long forms of one short form, the
    one that is given most often counts, and of those the first.

    Args:
        text: A report, or title and abstract of a paper.

    >>> find_abbreviations("Patients with ataxia-telangiectasia (A-T) and myotonic dystrophy (DM).")
    {'A-T': 'ataxia-telangiectasia', 'DM': 'myotonic dystrophy'}
    """
    given: dict[str, Counter[str]] = {}
    for short, long in _definitions(text):
        given.setdefault(short, Counter())[" ".join(long.split())] += 1
    return {short: forms.most_common(1)[0][0] for short, forms in given.items()}


def write_out(words: str, forms: Mapping[str, str]) -> str:
    """Words with their abbreviations written out.

    A short form counts in its own case, alone or with a plural s; one in brackets beside other words is left out, since
    its long form stands before it. Words without any come back as they are.

    Args:
        words: A mention.
        forms: Short form -> long form, of the text it stands in.

    >>> write_out("APC tumours (APC)", {"APC": "adenomatous polyposis coli"})
    'adenomatous polyposis coli tumours'
    """
    if not forms:
        return words
    bare = _BRACKETS.sub(lambda found: "" if found.group(1).strip() in forms else found.group(0), words)
    bare = bare if bare.strip() else words
    # The longest first, so that no short form is read within another.
    ordered = sorted(forms, key=lambda short: (-len(short), short))
    pattern = re.compile(_OPEN + "(" + "|".join(map(re.escape, ordered)) + ")(s?)" + _CLOSE)
    written = pattern.sub(lambda found: forms[found.group(1)] + found.group(2), bare)
    return words if written == words else " ".join(written.split())


def _definitions(text: str) -> Iterator[tuple[str, str]]:
    """(short form, long form) of every definition, in the order of the text."""
    for found in _BRACKETS.finditer(text):
        inner = found.group(1).strip()
        before = _clause_before(text, found.start())
        short = _FIRST_PART.split(inner)[0].strip()
        if _may_be_short(short):
            words = _last_words(before, short)
            long = _long_form(short, words) or _named_by_initials(short, words)
            if long is not None:
                yield short, long
                continue
        last = before.split()[-1:]
        is_open = bool(last) and _may_be_short(last[0]) and len(inner.split()) > 1
        if is_open and _long_form(last[0], inner) == inner:  # SF (long form), and nothing else stands there
            yield last[0], inner


def _clause_before(text: str, end: int) -> str:
    """What stands before a bracket in its sentence."""
    start = max(0, end - _CLAUSE_CHARACTERS)
    before = text[start:end]
    if start:  # within a word, perhaps
        before = before.partition(" ")[2]
    stops = [found.end() for found in _END.finditer(before)]
    return before[stops[-1] if stops else 0 :]


def _last_words(clause: str, short: str) -> str:
    """The words that may hold the long form."""
    letters = sum(map(str.isalnum, short))
    most = min(letters + _MORE_WORDS, letters * _TIMES_WORDS)
    words = list(_WORD.finditer(clause))[-most:]
    return clause[words[0].start() :].rstrip() if words else ""


def _may_be_short(words: str) -> bool:
    """Whether some words look like a short form: few, beginning with a letter or digit, and no plain word."""
    if not (_SHORTEST <= len(words) <= _LONGEST and len(words.split()) <= _MOST_SHORT_WORDS and words[0].isalnum()):
        return False
    return any(map(str.isupper, words)) or (any(map(str.isdigit, words)) and any(map(str.isalpha, words)))


def _long_form(short: str, words: str) -> str | None:
    """The shortest end of some words that has the letters of a short form in order, the first at a word's beginning."""
    letters = [letter.casefold() for letter in short if letter.isalnum()]
    place = len(words)
    for number in range(len(letters) - 1, -1, -1):
        place -= 1
        while place >= 0 and not (_same(words[place], letters[number]) and (number or _begins_word(words, place))):
            place -= 1
        if place < 0:
            return None
    long = words[place:].rstrip(" ,;:")
    own = [word.strip("()[],;:") for word in long.split()]
    return long if len(long) > len(short) and short not in own else None


def _named_by_initials(short: str, words: str) -> str | None:
    """The last words, one for each letter of a short form, if these are their first letters in another order.

    >>> _named_by_initials("DM", "the gene for myotonic dystrophy")
    'myotonic dystrophy'
    """
    last = list(_INITIALLED.finditer(words))[-len(short) :]
    if not short.isalpha() or sorted(found.group()[0].casefold() for found in last) != sorted(short.casefold()):
        return None
    return words[last[0].start() :].rstrip(" ,;:")


def _same(character: str, letter: str) -> bool:
    return character.casefold() == letter


def _begins_word(words: str, place: int) -> bool:
    return place == 0 or not words[place - 1].isalnum()
