"""The made-up words, vocabularies and relations of generated RRF tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LANGUAGES = (
    "ENG", "SPA", "FRE", "GER", "DUT", "POR", "JPN", "CHI", "ITA", "CZE", "RUS", "SWE", "KOR", "HUN", "FIN", "NOR",
    "DAN", "POL", "BAQ", "HEB", "LAV", "SCR", "EST", "GRE", "TUR", "ARA", "UKR",
)  # fmt: skip
_ACCENTED = {
    "JPN": "心肺胸血液炎症骨折部位的検査", "CHI": "心肺胸血液炎症骨折部位的检查", "KOR": "폐심장흉부염증골절혈액",
    "RUS": "абвгдежиклмнопрстуя", "UKR": "абвгдежіїклмнопрстуя", "GRE": "αβγδεηικλμνοπρστυω", "HEB": "אבגדהוזחטיכלמנ",
    "ARA": "ابتثجحدرسشعفقكلمن",
}  # fmt: skip
_LATIN = {"ENG": "aeiou", "SPA": "aeioáéíñ", "FRE": "aeiéèêç", "GER": "aeiouäöüß", "CZE": "aeiyěščřž", "SWE": "aeåäö"}
_ENDINGS = ("", ", NOS", " (finding)", " (disorder)", ' "type 2"', "'s sign", " 5 mg/mL", " - left", ", unspecified",
            " [dup]", " #3", " \\ other", " 50%", " & al.", "; chronic", " <1 cm", "\N{GREEK SMALL LETTER BETA}-2",
            " 3\N{PRIME}-end")  # fmt: skip
_TTYS = ("PT", "SY", "FN", "ET", "AB", "ACR", "N", "LLT", "PN", "HT", "PEP", "MH", "PM", "IS", "OP")
_QUALITIES = ("active", "direct", "procedure", "component", "clinical", "inherent", "causative", "possible", "anatomic")
_NOUNS = ("site", "agent", "course", "method", "device", "subject", "focus", "context", "finding", "origin", "stage",
          "pathway", "target", "unit")  # fmt: skip


@dataclass(frozen=True)
class Words:
    """Word lists of all languages, one after the other.

    Attributes:
        text: All words.
        start: First word of each language.
        count: Words of each language.
        endings: What a name may end in.
        ending_share: How often.
    """

    text: pl.Series
    start: Ints
    count: Ints
    endings: pl.Series
    ending_share: Floats


@dataclass(frozen=True)
class Sources:
    """Vocabularies; the first is SRC, the second MTH.

    Attributes:
        names: SAB of each.
        languages: Position of its language in LANGUAGES.
        levels: Its SRL.
        ttys: [vocabularies, 6] positions in `tty_names`; the first `tty_count` are used.
        share: How often a row is from it, given that it is in English (first row) or not (second).
        states_direction: It fills DIR.
    """

    names: pl.Series
    languages: Ints
    levels: Ints
    ttys: Ints
    tty_count: Ints
    tty_names: pl.Series
    share: Floats
    states_direction: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Relations:
    """RELA names in pairs of inverses; pair 0 is the empty RELA.

    Attributes:
        forward: Name read from head to tail.
        backward: Its inverse; the same name where the relation is symmetric.
        share: How often a fact with a RELA that is no hierarchy has each.
    """

    forward: pl.Series
    backward: pl.Series
    share: Floats


def zipf(count: int, exponent: float = 1.0) -> Floats:
    """Shares that fall with the rank."""
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    return weights / weights.sum()


def words(rng: np.random.Generator, per_language: int = 2000) -> Words:
    """Made-up words: twenty thousand of English, fewer of every other language."""
    texts: list[str] = []
    starts = []
    for language in LANGUAGES:
        starts.append(len(texts))
        letters = _ACCENTED.get(language)
        vowels, consonants = (letters, letters) if letters else (_LATIN.get(language, "aeiouéü"), "bcdfghlmnprstvxz")
        for _ in range(per_language * 10 if language == "ENG" else per_language):
            syllables = int(rng.integers(1, 3 if letters else 5))
            picks = rng.integers(0, 1000, 2 * syllables)
            pairs = [consonants[a % len(consonants)] + vowels[b % len(vowels)] for a, b in picks.reshape(-1, 2)]
            texts.append("".join(pairs) + ("" if letters else "nlsmr"[picks[0] % 5]))
    start = np.array(starts)
    share = np.concatenate([[0.7], 0.3 * zipf(len(_ENDINGS) - 1, 0.7)])
    return Words(pl.Series(texts), start, np.diff(start, append=len(texts)), pl.Series(_ENDINGS), share)


def sources(rng: np.random.Generator, count: int = 190, english: int = 120) -> Sources:
    """190 vocabularies, some of them large and most small."""
    names = ["SRC", "MTH", *(f"VOC{number:03}" for number in range(2, english))]
    languages = np.zeros(count, dtype=np.int64)
    foreign = count - english
    languages[english:] = np.concatenate([np.arange(1, len(LANGUAGES)), rng.integers(1, 12, foreign)])[:foreign]
    for number, language in enumerate(languages[english:]):
        names.append(f"VOC{2 + number % 60:03}{LANGUAGES[language]}{number // 60 or ''}")
    levels = rng.choice([0, 1, 2, 3, 4, 9], count, p=[0.6, 0.05, 0.08, 0.2, 0.05, 0.02])
    levels[:4] = 0, 0, 9, 0
    share = np.zeros((2, count))
    share[0, :english] = np.concatenate([[0.0001, 0.08], 0.9199 * zipf(english - 2, 1.1)])
    share[1, english:] = zipf(foreign, 0.9)
    ttys = np.argsort(rng.random((count, len(_TTYS))), axis=1)[:, :6]
    ttys[:, 0] = 0
    tty_count = rng.integers(2, 7, count)
    states_direction = rng.random(count) < 0.2
    states_direction[2] = True
    return Sources(pl.Series(names), languages, levels, ttys, tty_count, pl.Series([*_TTYS, "RPT"]), share,
                   states_direction)  # fmt: skip


def relations(rng: np.random.Generator, count: int = 450) -> Relations:
    """450 pairs of inverse relations; some are symmetric, a few say that something is excluded."""
    forward = ["", "isa", "part_of", "mapped_to", "disease_excludes_finding"]
    backward = ["", "inverse_isa", "has_part", "mapped_from", "is_not_finding_of_disease"]
    for quality in _QUALITIES:
        for noun in _NOUNS:
            for shape in range(4):
                stem = f"{quality}_{noun}" if shape < 2 else f"{noun}_{quality}"
                name, other = ((f"{stem}_of", f"has_{stem}"), (f"may_be_{stem}_of", f"may_have_{stem}"))[shape % 2]
                forward.append(f"{stem}_with" if len(forward) % 40 == 0 else name)
                backward.append(f"{stem}_with" if len(backward) % 40 == 0 else other)
    forward, backward = forward[: count + 1], backward[: count + 1]
    share = np.concatenate([[0.03, 0.0], rng.permutation(zipf(len(forward) - 2, 0.9)) * 0.97])
    return Relations(pl.Series(forward), pl.Series(backward), share)
