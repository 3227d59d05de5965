"""Report text as training sees it: sentences with their mentions, and KAD's entity text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kgkit.interface import Certainty, MentionKind, split_sections, split_sentences
from vlp.data.prepared import PreparedData
from vlp.data.targets import SUPERVISING_SECTIONS

_HEADING = re.compile(r"\s*[A-Za-z][A-Za-z /]{2,60}:")
_STATUS = {
    Certainty.PRESENT.value: "Definitely Present",
    Certainty.ABSENT.value: "Definitely Absent",
    Certainty.UNCERTAIN.value: "Uncertain",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the findings or the impression.

    Attributes:
        text: Its words, white space folded.
        mentions: Rows of the mentions inside, in the order of the text.
    """

    text: str
    mentions: tuple[dict[str, Any], ...]

    @property
    def is_affirmed(self) -> bool:
        """Whether it denies nothing and doubts nothing: what a film can be asked for as it stands."""
        observed = [mention for mention in self.mentions if mention["kind"] != MentionKind.ANATOMY.value]
        return all(mention["certainty"] == Certainty.PRESENT.value for mention in observed)


def report_sentences(data: PreparedData, study_ids: Sequence[str]) -> list[list[Sentence]]:
    """Sentences of the findings and the impression of some studies, in the order of the ids."""
    wanted = pl.DataFrame({"study_id": list(study_ids)}, schema={"study_id": pl.String})
    of_study: dict[str, list[dict[str, Any]]] = {}
    for mention in data.mentions.join(wanted, on="study_id", how="semi").sort("start").iter_rows(named=True):
        of_study.setdefault(mention["study_id"], []).append(mention)
    text_of = dict(data.studies.join(wanted, on="study_id", how="semi").select("study_id", "text").iter_rows())
    return [list(_sentences(text_of.get(study) or "", of_study.get(study, []))) for study in study_ids]


def entity_text(sentences: Sequence[Sentence]) -> str:
    """What KAD's text encoder reads: per sentence ` [ENT] entity status` for each mention, and ` [SEP] ` after it.

    Statuses are RadGraph's ("Anatomy Definitely Present", "Observation Uncertain", ...). A report without a mention is
    given as its sentences. KAD's code glues the status to an entity of several words; here a space stands between.
    """
    if not any(sentence.mentions for sentence in sentences):
        return " [SEP] ".join(sentence.text for sentence in sentences)
    parts = []
    for sentence in sentences:
        parts += [f" [ENT] {mention['text']} {_status(mention)}" for mention in sentence.mentions]
        parts.append(" [SEP] ")
    return "".join(parts).strip()


def sentence_ranges(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and section of each sentence, headings excepted."""
    for section in split_sections(text):
        heading = _HEADING.match(text, section.start, section.end) if section.name else None
        begin = heading.end() if heading and section.start < heading.end() < section.end else section.start
        for start, end in split_sentences(text, begin, section.end):
            yield start, end, section.name


def _sentences(text: str, mentions: Sequence[dict[str, Any]]) -> Iterator[Sentence]:
    for start, end, section in sentence_ranges(text):
        words = " ".join(text[start:end].split())
        if section in SUPERVISING_SECTIONS and any(character.isalpha() for character in words):
            inside = tuple(mention for mention in mentions if start <= mention["start"] < end)
            yield Sentence(words, inside)


def _status(mention: dict[str, Any]) -> str:
    kind = "Anatomy" if mention["kind"] == MentionKind.ANATOMY.value else "Observation"
    return f"{kind} {_STATUS[mention['certainty']]}"
