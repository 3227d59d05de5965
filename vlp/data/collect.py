"""Rows about films, put together to studies; what contradicts itself is left out and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vlp.data.source import Skipped
from vlp.types import ImageRef, Study

TWO_PATIENTS = "study of two patients"
TWO_LABELS = "label contradicts another row of the study: unknown"
TWICE = "film stands in two rows: the first was taken"


@dataclass
class StudyCollector:
    """Studies in the making; a film at a time.

    Attributes:
        skipped: (thing, reason) so far.
    """

    skipped: list[Skipped] = field(default_factory=list)
    _studies: dict[str, Study] = field(default_factory=dict)
    _owner: dict[str, set[str]] = field(default_factory=dict)
    _films: dict[str, list[ImageRef]] = field(default_factory=dict)
    _labels: dict[str, Mapping[str, int]] = field(default_factory=dict)
    _unsure: dict[str, set[str]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def add(self, study: Study, images: tuple[ImageRef, ...] = ()) -> None:
        """Add a row: the study as this row tells it, and the films it names.

        Texts, sex and age are those of the first row that gives them; labels have to agree.
        """
        key = study.study_id
        kept = self._studies.setdefault(key, replace(study, images=(), labels={}))
        self._owner.setdefault(key, set()).add(study.patient_id)
        self._studies[key] = replace(
            kept,
            findings=kept.findings or study.findings,
            impression=kept.impression or study.impression,
            sex=kept.sex or study.sex,
            age=study.age if kept.age is None else kept.age,
        )
        for image in (*study.images, *images):
            if str(image.path) in self._seen:
                self.skipped.append((image.path.name, TWICE))
                continue
            self._seen.add(str(image.path))
            self._films.setdefault(key, []).append(image)
        self._add_labels(key, study.labels)

    def skip(self, name: str, reason: str) -> None:
        """Name something that is left out."""
        self.skipped.append((name, reason))

    def finish(self) -> tuple[Study, ...]:
        """The studies in the order of their ids; `skipped` is complete after this."""
        finished = []
        for key in sorted(self._studies):
            if len(self._owner[key]) > 1:
                owners = " and ".join(repr(owner) for owner in sorted(self._owner[key]))
                self.skip(f"study {key} of patients {owners}", TWO_PATIENTS)
                continue
            labels = self._labels.get(key, {})
            unsure = self._unsure.get(key, set())
            for label in sorted(unsure):
                self.skip(f"study {key}, {label}", TWO_LABELS)
            if unsure:
                labels = {label: value for label, value in labels.items() if label not in unsure}
            images = tuple(sorted(self._films.get(key, ()), key=lambda image: image.path.as_posix()))
            finished.append(replace(self._studies[key], images=images, labels=labels))
        return tuple(finished)

    def _add_labels(self, key: str, labels: Mapping[str, int]) -> None:
        before = self._labels.get(key)
        if before is None or before == labels:  # most studies: nothing is copied
            self._labels[key] = labels
            return
        merged = dict(before)
        for name, value in labels.items():
            if merged.setdefault(name, value) != value:
                self._unsure.setdefault(key, set()).add(name)
        self._labels[key] = merged
