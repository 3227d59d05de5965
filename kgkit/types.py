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


class Change(StrEnum):
    """What a mention of change says of the time since an earlier study (RadGraph2: Khanna et al. 2023).

    APPEARED and DISAPPEARED do not say whether a condition or a device is meant (the labels of its first annotation).
    """

    UNCHANGED = "unchanged"
    CONDITION_APPEARED = "condition_appeared"
    CONDITION_WORSENED = "condition_worsened"
    CONDITION_IMPROVED = "condition_improved"
    CONDITION_RESOLVED = "condition_resolved"
    DEVICE_APPEARED = "device_appeared"
    DEVICE_MOVED = "device_moved"
    DEVICE_REMOVED = "device_removed"
    APPEARED = "appeared"
    DISAPPEARED = "disappeared"


@dataclass(frozen=True, slots=True)
class Mention:
    """One span of a report that denotes something; or, without a span (0, 0, ""), what a labeler says of a report.

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
        change: The words say how something changed since an earlier study ("new", "resolved", "unchanged"), and
            `relations` what; None for every other mention.
        is_measurement: The words are a measurement ("4 cm").
        candidates: (CURIE, score 0..1) of every concept the words may denote, the best first. Of a linked mention the
            first is (`concept`, `link_score`); of one that was looked up in vain they are the nearest concepts.
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
    change: Change | None = None
    is_measurement: bool = False
    candidates: tuple[tuple[str, float], ...] = ()


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
            KeyError, ValueError, TypeError, OverflowError: if a field is missing, of another kind, or outside its
                closed vocabulary.
        """
        return ReportMentions(
            report_id=_string(record["report_id"]),
            text=_string(record["text"]),
            mentions=tuple(_mention_from_json(item) for item in record["mentions"]),
        )


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One concept found by a search.

    Attributes:
        concept: CURIE.
        name: Preferred name.
        semantic_types: TUIs.
        score: How well it fits, -1..1; comparable within one mode of search.
        rank: 1-based.
        matched_name: The name of the concept that fits best.
        dense_score: How near its vectors are, -1..1; None if vectors were not asked.
        lexical_score: How alike its names are, 0..1; None if letters were not asked.
    """

    concept: str
    name: str
    semantic_types: tuple[str, ...]
    score: float
    rank: int
    matched_name: str
    dense_score: float | None = None
    lexical_score: float | None = None


def _mention_from_json(item: Any) -> Mention:
    if not isinstance(item, Mapping):
        raise TypeError(f"{item!r} is not a mention")
    score, change, concept = (item.get(key) for key in ("link_score", "change", "concept"))
    return Mention(
        text=_string(item["text"]),
        start=_whole(item["start"]),
        end=_whole(item["end"]),
        kind=MentionKind(item["kind"]),
        certainty=Certainty(item["certainty"]),
        temporality=Temporality(item.get("temporality", Temporality.RECENT)),
        experiencer=Experiencer(item.get("experiencer", Experiencer.PATIENT)),
        section=_string(item.get("section", "")),
        concept=None if concept is None else _string(concept),
        link_score=None if score is None else float(score),
        relations=tuple((MentionRelation(name), _whole(target)) for name, target in item.get("relations", ())),
        change=None if change is None else Change(change),
        is_measurement=item.get("is_measurement", False) is True,
        candidates=tuple((_string(candidate), float(worth)) for candidate, worth in item.get("candidates", ())),
    )


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value
