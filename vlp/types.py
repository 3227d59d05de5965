"""The words of vlp: films, studies, queries, predictions, groundings. Standard library and numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt


class View(StrEnum):
    """How a film was taken, as far as vlp tells views apart."""

    FRONTAL = "frontal"
    LATERAL = "lateral"
    UNKNOWN = "unknown"


class TargetValue(IntEnum):
    """What a report says of a concept; the first three as in CheXpert, the last kept apart from ABSENT."""

    PRESENT = 1
    ABSENT = 0
    UNCERTAIN = -1
    UNMENTIONED = -2


@dataclass(frozen=True, slots=True)
class FindingBox:
    """A rectangle that a reader drew on a film; for evaluation only.

    Attributes:
        label: The finding, as the data set calls it.
        corners: (x0, y0, x1, y1), half-open, in pixels of a film of `frame`.
        frame: (width, height) of the film the box was drawn on; None if it is the film as it is stored.
    """

    label: str
    corners: tuple[float, float, float, float]
    frame: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A film of a study.

    Attributes:
        path: Where the file is.
        view: Frontal, lateral or unknown.
        projection: PA, AP and so on, as the data set writes it; "" if it does not say.
        boxes: What readers drew on it.
    """

    path: Path
    view: View
    projection: str = ""
    boxes: tuple[FindingBox, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """One visit: one report, one or more films.

    Attributes:
        study_id: Unique within its source.
        patient_id: Splits and bootstraps go by it.
        findings: Text of the findings section, "" if there is none.
        impression: Text of the impression section, "" if there is none.
        images: Its films.
        labels: Findings labelled by people or labelers, 1, 0, or -1 where they call it uncertain; for evaluation only.
        split: Split fixed by the source, or None.
        sex: `F`, `M`, or "" where the source does not say; for subgroups.
        age: Of the patient at the time, years; None where the source does not say.
    """

    study_id: str
    patient_id: str
    findings: str
    impression: str
    images: tuple[ImageRef, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    split: str | None = None
    sex: str = ""
    age: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What a film is asked.

    Attributes:
        text: The words, as the user or the recipe wrote them.
        concept: CURIE of the concept, or None for free text.
        is_text_encoded: Whether its vector comes from words and not from a concept of the graph.
        is_seen: Whether the model was trained on this query.
    """

    text: str
    concept: str | None
    is_text_encoded: bool
    is_seen: bool


@dataclass(frozen=True, slots=True)
class FindingPrediction:
    """The answer of a model to one query about one film.

    Attributes:
        image: Path of the film.
        finding: The words of the query.
        concept: CURIE, or None for free text.
        probability: 0..1, not calibrated.
        is_seen: Whether the model was trained on this query.
    """

    image: str
    finding: str
    concept: str | None
    probability: float
    is_seen: bool


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where on a film a query finds its evidence.

    Attributes:
        query: The query.
        heatmap: float32 [H, W] in pixels of the original film, 0..1 (0 = an even share of the attention or less); NaN
            outside the field the model saw.
        box: (x0, y0, x1, y1) around the hottest region, half-open, in original pixels; None if the map is
            flat.
        score: Probability of the query, 0..1.
    """

    query: Query
    heatmap: npt.NDArray[np.float32]
    box: tuple[int, int, int, int] | None
    score: float
