"""What an evaluation asks: the findings that the data label, or a user's own queries, each beside its label column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from kgkit.interface import Finding, InputError, choices, load_findings
from vlp.artifact import VlpModel
from vlp.data.labels import finding_of_label, findings_of_labels
from vlp.data.prepared import PreparedData
from vlp.denial import ResolvedQueries
from vlp.evaluation.calibration import query_key
from vlp.knowledge import FINDING_PREFIX, Knowledge
from vlp.queries import open_knowledge, resolve_queries, with_vectors
from vlp.types import Query

_MAX_SYNONYMS = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """One column of an evaluation.

    Attributes:
        name: Its name in every table: the label, or the words of a query.
        label: Label column it is measured against; None if the data have none for it.
        finding: The finding of the label, or None.
        query: What the model is asked.
        synonyms: Names whose vectors were averaged; 1 where it was asked by one name.
    """

    name: str
    label: str | None
    finding: Finding | None
    query: Query
    synonyms: int = 1

    @property
    def key(self) -> str:
        """Its key in a calibration."""
        return query_key(self.query.concept, self.query.text)


@dataclass(frozen=True)
class AskedQueries:
    """All columns, with their vectors.

    Attributes:
        columns: One per thing asked, names distinct.
        resolved: Their queries, as `vlp.predict` takes them.
    """

    columns: tuple[Asked, ...]
    resolved: ResolvedQueries

    @property
    def names(self) -> list[str]:
        """Name of each column."""
        return [column.name for column in self.columns]


def ask(
    model: VlpModel,
    data: PreparedData,
    queries: Sequence[str] = (),
    encoder_dir: Path | None = None,
    *,
    average_synonyms: bool = False,
) -> AskedQueries:
    """Choose what is asked.

    Args:
        model: The model to be asked.
        data: Data whose labels it is measured against.
        queries: Names, concept ids or words; `LABEL=WORDS` says which label column the words are measured against.
            Empty for every label of the data that is a known finding.
        encoder_dir: ENCODER for what the model was not trained on; by default where it stood at training.
        average_synonyms: Ask with the mean vector of all names of a concept, brought to unit norm.

    Raises:
        InputError: if there is no label to measure against, a label is unknown, or an encoder is needed and missing.
    """
    labelled = labelled_findings(data)
    if queries:
        columns, resolved = _ask_for(model, data, labelled, queries, encoder_dir)
    else:
        if not labelled:
            raise InputError(_no_label(data), data.folder / "studies.parquet")
        identifiers = [_identifier(model, finding) for finding in labelled.values()]
        resolved = resolve_queries(model, identifiers, encoder_dir)
        items = zip(labelled.items(), resolved.queries, strict=True)
        columns = [Asked(label, label, finding, query) for (label, finding), query in items]
    if average_synonyms:
        knowledge = open_knowledge(model, encoder_dir, wanted="the synonyms of a query")
        return _with_synonyms(columns, resolved, model, knowledge)
    return AskedQueries(tuple(columns), resolved)


def labelled_findings(data: PreparedData) -> dict[str, Finding]:
    """Label column -> finding, in the order of the columns, for the labels that are a known finding."""
    keys = findings_of_labels(data.labels, str(data.manifest["label_set"]))
    findings = load_findings()
    return {label: findings[keys[label]] for label in data.labels if label in keys}


def _no_label(data: PreparedData) -> str:
    label_set = str(data.manifest["label_set"])
    known = [f.labels[label_set] for f in load_findings().values() if label_set in f.labels]
    return f"no label to evaluate on: label columns are {', '.join(data.labels) or 'none'}; known: {', '.join(known)}"


def identifier_of_label(model: VlpModel, label: str) -> str:
    """What to ask for a data set's label, such as `Infiltrate`; the label itself if it is no known finding."""
    finding = finding_of_label(label)
    return label if finding is None else _identifier(model, finding)


def _identifier(model: VlpModel, finding: Finding) -> str:
    """A concept of the finding that the model holds, so that no encoder is needed; else the finding."""
    trained = {query.concept for query in model.queries}
    own = FINDING_PREFIX + finding.key
    return next((concept for concept in (own, *finding.concepts) if concept in trained), own)


def _ask_for(
    model: VlpModel,
    data: PreparedData,
    labelled: dict[str, Finding],
    queries: Sequence[str],
    encoder_dir: Path | None,
) -> tuple[list[Asked], ResolvedQueries]:
    wanted = [_label_and_words(data, query) for query in queries]
    by_name = {label.casefold(): label for label in labelled}
    identifiers = []
    for given, words in wanted:
        meant = by_name.get(words.casefold()) if given is None else None
        identifiers.append(_identifier(model, labelled[meant]) if meant is not None else words)
    resolved = resolve_queries(model, identifiers, encoder_dir)
    columns: list[Asked] = []
    for (given, words), query in zip(wanted, resolved.queries, strict=True):
        label = given or by_name.get(words.casefold()) or _label_of(query, words, labelled)
        name = words if given is None else f"{given}={words}"
        if any(column.name == name for column in columns):
            raise InputError(f"query {name!r} is asked twice")
        columns.append(Asked(name, label, labelled.get(label or ""), query))
    return columns, resolved


def _label_and_words(data: PreparedData, query: str) -> tuple[str | None, str]:
    label, equals, words = query.partition("=")
    if not equals:
        return None, query.strip()
    if label.strip() not in data.labels:
        raise InputError(f"query {query!r}: no label column {label.strip()!r}; {choices(label, data.labels)}")
    return label.strip(), words.strip()


def _label_of(query: Query, words: str, labelled: dict[str, Finding]) -> str | None:
    """The label of the finding that a query denotes, by its concept or by the finding's own words."""
    for label, finding in labelled.items():
        names = {name.casefold() for name in (finding.key, finding.name, finding.query, *finding.strings)}
        ids = (*finding.concepts, FINDING_PREFIX + finding.key)
        if (query.concept is not None and query.concept in ids) or words.casefold() in names:
            return label
    return None


def _with_synonyms(
    columns: Sequence[Asked], resolved: ResolvedQueries, model: VlpModel, knowledge: Knowledge
) -> AskedQueries:
    averaged, counted = [], []
    for column, vector in zip(columns, resolved.vectors[: len(columns)], strict=True):
        texts = _synonyms(column, knowledge)
        rows = torch.from_numpy(knowledge.encoder.embed_text(texts)) if texts else vector[:0].reshape(0, len(vector))
        averaged.append(F.normalize(torch.cat([vector[None], rows]).mean(0), dim=0))
        counted.append(replace(column, synonyms=1 + len(texts)))
    return AskedQueries(tuple(counted), with_vectors(model, resolved.queries, torch.stack(averaged)))


def _synonyms(column: Asked, knowledge: Knowledge) -> list[str]:
    """Other names of what is asked."""
    finding, concept = column.finding, column.query.concept
    asked = knowledge.concept_of_finding(finding) if finding is not None else concept
    own = column.query.text.casefold()
    texts = knowledge.names(asked) if asked is not None else []
    return [text for text in texts if text.casefold() != own][:_MAX_SYNONYMS]
