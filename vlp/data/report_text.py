"""Report text as training sees it: sentences with their mentions, KAD's entity text, and a finding left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from kgkit.interface import Certainty, MentionKind, split_sections, split_sentences
from vlp.data.prepared import PreparedData
from vlp.data.targets import SUPERVISING_SECTIONS
from vlp.knowledge import Knowledge

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


def leave_out(data: PreparedData, concept: str, knowledge: Knowledge) -> PreparedData:
    """The same data as if no report had ever spoken of a concept, or of anything narrower, by any name.

    Mentions of them go, of whatever certainty, and with them the sentences they stand in; these are blanked, so that
    all other mentions keep their places. To be asked about the concept afterwards is zero-shot.
    """
    linked = data.mentions["concept"].drop_nulls().unique().to_list()
    gone = [name for name in linked if _is_within(name, concept, knowledge)]
    removed = data.mentions.filter(pl.col("concept").is_in(gone))
    text_of: dict[str, str] = dict(data.studies.select("study_id", pl.col("text").fill_null("")).iter_rows())
    blanked: dict[str, str] = {}
    for study_id, start in removed.select("study_id", "start").iter_rows():
        text = blanked.get(study_id, text_of[study_id])
        begin, end = next((a, b) for a, b, _ in _ranges(text_of[study_id]) if a <= start < b)
        blanked[study_id] = text[:begin] + " " * (end - begin) + text[end:]
    texts = [blanked.get(study_id, text) for study_id, text in text_of.items()]
    studies = data.studies.with_columns(pl.Series("text", texts, dtype=pl.String))
    inside = _rows_in_blanked(data.mentions, text_of, blanked)
    return replace(data, mentions=data.mentions.filter(~inside), studies=studies)


def _is_within(linked: str, concept: str, knowledge: Knowledge) -> bool:
    canonical = knowledge.canonical(linked)
    return canonical is not None and (canonical == concept or concept in knowledge.ancestors(canonical))


def _rows_in_blanked(mentions: pl.DataFrame, before: dict[str, str], after: dict[str, str]) -> pl.Series:
    """Whether a mention's words are no longer there."""
    gone = []
    for study_id, start, end in mentions.select("study_id", "start", "end").iter_rows():
        gone.append(study_id in after and after[study_id][start:end] != before[study_id][start:end])
    return pl.Series(gone, dtype=pl.Boolean)


def _ranges(text: str) -> Iterator[tuple[int, int, str]]:
    for section in split_sections(text):
        heading = _HEADING.match(text, section.start, section.end)
        begin = heading.end() if heading and section.start < heading.end() < section.end else section.start
        for start, end in split_sentences(text, begin, section.end):
            yield start, end, section.name


def _sentences(text: str, mentions: Sequence[dict[str, Any]]) -> Iterator[Sentence]:
    for start, end, section in _ranges(text):
        words = " ".join(text[start:end].split())
        if section in SUPERVISING_SECTIONS and any(character.isalpha() for character in words):
            inside = tuple(mention for mention in mentions if start <= mention["start"] < end)
            yield Sentence(words, inside)


def _status(mention: dict[str, Any]) -> str:
    kind = "Anatomy" if mention["kind"] == MentionKind.ANATOMY.value else "Observation"
    return f"{kind} {_STATUS[mention['certainty']]}"
