"""Words of a text, normalised for matching, with their places in the original text.

Matching never touches the original: a token carries the character range it came from, so every span that is
built from tokens points into the text as it was given (ligatures, CRLF and decomposed letters included).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

# A letter or digit with what may stick to it: combining marks, soft hyphens, zero-width characters.
_JOINED = "\u0300-\u036f\u00ad\u200b-\u200d\u2060"
# A run of underscores is one de-identification mark; control characters (NUL) only separate, as white space does.
_TOKEN = re.compile(rf"[^\W_](?:[^\W_]|[{_JOINED}])*|[^\w\s\x00-\x1f\x7f]|_+")
_REDACTED = re.compile(r"x{3,}|_+", re.IGNORECASE)
_JOINERS = frozenset("-\u2010\u2011\u2012\u2013\u2014\u2212/'\u2019\u02bc")
_IRREGULAR = MappingProxyType(
    {
        "apices": "apex",
        "atelectases": "atelectasis",
        "blebs": "bleb",
        "bronchi": "bronchus",
        "bronchiectases": "bronchiectasis",
        "bullae": "bulla",
        "diagnoses": "diagnosis",
        "fibroses": "fibrosis",
        "foci": "focus",
        "hemithoraces": "hemithorax",
        "hila": "hilum",
        "metastases": "metastasis",
        "pneumothoraces": "pneumothorax",
        "pneumothoracies": "pneumothorax",
        "prostheses": "prosthesis",
        "stenoses": "stenosis",
        "thoraces": "thorax",
        "vertebrae": "vertebra",
    }
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, as parallel tuples.

    Attributes:
        words: Normalised words; a punctuation mark that stands alone is a word of its own.
        starts: First character of each token in the original text.
        ends: One past the last character.
    """

    words: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.words)


def tokenize(text: str) -> Tokens:
    """Split a text into normalised words.

    Hyphens, slashes and apostrophes inside a word only separate ("air-space" is "air space"); beside white
    space they stay as tokens, since " - " is punctuation.
    """
    words, starts, ends = [], [], []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        mark = match.group()
        if mark in _JOINERS and _is_inside_word(text, start, end):
            continue
        words.append(normalize_word(mark))
        starts.append(start)
        ends.append(end)
    return Tokens(tuple(words), tuple(starts), tuple(ends))


@lru_cache(maxsize=100_000)
def normalize_word(word: str) -> str:
    """Fold case, compatibility forms and English plural.

    >>> [normalize_word(word) for word in ("Opacities", "Masses", "\ufb01brosis", "was")]
    ['opacity', 'mass', 'fibrosis', 'was']
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    letters = "".join(character for character in folded if character.isalnum())
    return _singular(letters) if letters else word


def is_redacted(word: str) -> bool:
    """Whether a word is a de-identification mark: XXXX (Open-i) or ___ (MIMIC).

    >>> [is_redacted(word) for word in ("XXXX", "xxx", "___", "X", "axis")]
    [True, True, True, False, False]
    """
    return _REDACTED.fullmatch(word) is not None


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith("sses") else word[:-1]


def _is_inside_word(text: str, start: int, end: int) -> bool:
    return start > 0 and end < len(text) and text[start - 1].isalnum() and text[end].isalnum()
