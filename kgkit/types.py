"""The words both packages speak: mentions, certainty, search hits. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Certainty(StrEnum):
    """What the report says of a mention. Not mentioned is None, never ABSENT."""

    PRESENT = "present"
    UNCERTAIN = "uncertain"
    ABSENT = "absent"


class Temporality(StrEnum):
    """When the mentioned thing holds (ConText: Harkema et al. 2009)."""

    RECENT = "recent"
    HISTORICAL = "historical"
    HYPOTHETICAL = "hypothetical"


class Experiencer(StrEnum):
    """Whose body the mention is about."""

    PATIENT = "patient"
    FAMILY = "family"
    OTHER = "other"


class MentionKind(StrEnum):
    """RadGraph's two kinds of entity."""

    ANATOMY = "anatomy"
    OBSERVATION = "observation"


class MentionRelation(StrEnum):
    """RadGraph's three relations; each reads source -> relation -> target."""

    MODIFY = "modify"
    LOCATED_AT = "located_at"
    SUGGESTIVE_OF = "suggestive_of"


@dataclass(frozen=True, slots=True)
class Mention:
    """One span of a report that denotes something.

    Attributes:
        text: The words as they stand in the report.
        start: First character of the span in the report's original text.
        end: One past the last character (half-open).
        kind: Anatomy or observation.
        certainty: What the report says of it.
        temporality: When it holds.
        experiencer: Whose body it is about.
        section: The report section it stands in (`findings`, `impression`, ...), or "" if unknown.
        concept: CURIE of the concept it denotes, or None if it was not linked. `finding:<key>` names an entry
            of ontologies/findings.toml that has no concept in the graph.
        link_score: How sure the link is, 0..1; None if it was not linked.
        relations: (relation, position of the target in the report's list of mentions).
    """

    text: str
    start: int
    end: int
    kind: MentionKind
    certainty: Certainty
    temporality: Temporality = Temporality.RECENT
    experiencer: Experiencer = Experiencer.PATIENT
    section: str = ""
    concept: str | None = None
    link_score: float | None = None
    relations: tuple[tuple[MentionRelation, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportMentions:
    """A report and all that was found in it; a report without mentions keeps its line."""

    report_id: str
    text: str
    mentions: tuple[Mention, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of one line of `mentions.jsonl`."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> ReportMentions:
        """Inverse of `to_json`.

        Raises:
            KeyError, ValueError, TypeError: if a field is missing or holds a value outside its closed vocabulary.
        """
        return ReportMentions(
            report_id=str(record["report_id"]),
            text=str(record["text"]),
            mentions=tuple(_mention_from_json(item) for item in record["mentions"]),
        )


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One concept found by a search.

    Attributes:
        concept: CURIE.
        name: Preferred name.
        semantic_types: TUIs.
        score: Cosine similarity, -1..1.
        rank: 1-based.
    """

    concept: str
    name: str
    semantic_types: tuple[str, ...]
    score: float
    rank: int


def _mention_from_json(item: Mapping[str, Any]) -> Mention:
    score = item.get("link_score")
    return Mention(
        text=str(item["text"]),
        start=int(item["start"]),
        end=int(item["end"]),
        kind=MentionKind(item["kind"]),
        certainty=Certainty(item["certainty"]),
        temporality=Temporality(item.get("temporality", Temporality.RECENT)),
        experiencer=Experiencer(item.get("experiencer", Experiencer.PATIENT)),
        section=str(item.get("section", "")),
        concept=item.get("concept"),
        link_score=None if score is None else float(score),
        relations=tuple((MentionRelation(name), int(target)) for name, target in item.get("relations", ())),
    )
