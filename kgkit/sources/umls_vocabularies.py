"""The vocabularies of a UMLS release: their versions, languages and licence levels, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from kgkit.errors import InputError, choices
from kgkit.namespaces import plain
from kgkit.sources.base import NamedGraph
from kgkit.sources.rrf import RrfRelease

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "ENG": "en", "SPA": "es", "FRE": "fr", "GER": "de", "CZE": "cs", "DUT": "nl", "JPN": "ja", "CHI": "zh",
        "SWE": "sv", "KOR": "ko", "POR": "pt", "ITA": "it", "RUS": "ru", "HUN": "hu", "FIN": "fi", "NOR": "no",
        "DAN": "da", "POL": "pl", "BAQ": "eu", "HEB": "he", "LAV": "lv", "SCR": "hr", "EST": "et", "GRE": "el",
        "TUR": "tr", "ARA": "ar", "UKR": "uk",
    }
)  # fmt: skip
"""LAT to BCP 47."""


@dataclass(frozen=True)
class Vocabulary:
    """One vocabulary of a release.

    Attributes:
        graph: Name of its named graph, `<SAB>@<version>`.
        title: For people.
        licence_level: SRL.
        language: LAT, or "" if it is not known.
    """

    graph: str
    title: str
    licence_level: int
    language: str


class Vocabularies:
    """Numbers vocabularies as they are met, and says which of them are wanted.

    Args:
        rrf: The release; MRSAB may be absent.
        release: Stands for the version of a vocabulary that MRSAB does not name.
        only: SABs to keep; empty for all.
        without: SABs to leave out.
        max_licence_level: Leave out vocabularies with a higher SRL.

    Raises:
        InputError: if a chosen SAB is not in MRSAB.
    """

    def __init__(
        self,
        rrf: RrfRelease,
        release: str,
        only: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
        max_licence_level: int | None = None,
    ) -> None:
        self._release = release
        self._only, self._without, self._max_level = frozenset(only), frozenset(without), max_licence_level
        self.documented = _documented(rrf)
        self.sabs: list[str] = []
        self._number: dict[str, int] = {}
        self._levels: dict[str, int] = {}
        for sab in (*only, *without):
            if self.documented and sab not in self.documented:
                raise InputError(f"no vocabulary {sab!r} in MRSAB; {choices(sab, self.documented)}", rrf.place("MRSAB"))

    def number(self, sab: str) -> int:
        """Number of a vocabulary; the same name has the same number."""
        if sab not in self._number:
            self._number[sab] = len(self.sabs)
            self.sabs.append(sab)
        return self._number[sab]

    def numbers(self, sabs: pl.Series) -> pl.Series:
        """UInt16 numbers of a column of vocabularies."""
        known = sabs.unique().sort()
        numbers = pl.Series([self.number(sab) for sab in known], dtype=pl.UInt16)
        return numbers.gather(known.search_sorted(sabs))

    def note_level(self, sab: str, level: int) -> None:
        """Say that a name of the vocabulary has this SRL; the highest counts."""
        self._levels[sab] = max(level, self._levels.get(sab, 0))

    def level(self, sab: str) -> int:
        """Licence level: the highest of what MRSAB and the names say."""
        known = self.documented.get(sab)
        return max(self._levels.get(sab, 0), known.licence_level if known else 0)

    def reason_to_skip(self, sab: str) -> str | None:
        """Why a vocabulary is not wanted; None if it is."""
        if sab == "SRC":
            return "source metadata (SAB=SRC)"
        if (self._only and sab not in self._only) or sab in self._without:
            return "vocabulary not chosen"
        if self._max_level is not None and self.level(sab) > self._max_level:
            return "licence level too high"
        return None

    def not_kept(self, sabs: pl.Series) -> list[str]:
        """Those of some vocabularies whose relations and definitions are not wanted, or that nothing introduces."""
        introduced = {*self.documented, *self._number}  # empty before MRCONSO is read, where there is no MRSAB
        return [sab for sab in sabs.unique().sort().to_list()
                if self.reason_to_skip(sab) or (introduced and sab not in introduced)]  # fmt: skip

    def language(self, sab: str) -> str:
        """LAT of a vocabulary's definitions; English where MRSAB does not say."""
        known = self.documented.get(sab)
        return (known.language if known else "") or "ENG"

    def graph(self, sab: str) -> NamedGraph:
        """The named graph of a vocabulary."""
        known = self.documented.get(sab)
        name, title = (known.graph, known.title) if known else (f"{plain(sab)}@{plain(self._release)}", sab)
        return NamedGraph(name, title, self.level(sab))


def _documented(rrf: RrfRelease) -> dict[str, Vocabulary]:
    """SAB -> vocabulary, from MRSAB's current versions."""
    if not rrf.has("MRSAB"):
        return {}
    rows = rrf.read("MRSAB", ["RSAB", "SVER", "VSAB", "SON", "SRL", "LAT", "CURVER"]).filter(pl.col("CURVER") != "N")
    return {
        row["RSAB"]: Vocabulary(
            f"{plain(row['RSAB'])}@{plain(row['SVER'] or row['VSAB'] or row['RSAB'])}",
            row["SON"] or row["RSAB"],
            int(row["SRL"]) if row["SRL"].isdecimal() else 0,
            row["LAT"],
        )
        for row in rows.iter_rows(named=True)
    }
