"""What a user asks, matched to what a model can answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kgkit.interface import ConceptEncoder, InputError, load_findings, load_verified_encoder
from vlp.artifact import VlpModel
from vlp.denial import ResolvedQueries, resolve_denial
from vlp.knowledge import AskedConcept, Knowledge
from vlp.types import Query


def resolve_queries(
    model: VlpModel, asked: Sequence[str], encoder_dir: Path | None = None, *, findings_only: bool = False
) -> ResolvedQueries:
    """Match names, concept ids and free text to query vectors.

    What the model was trained on needs no encoder. Anything else is taken from the encoder: as a finding or
    concept it knows, else as text.

    Args:
        model: The model to be asked.
        asked: Names, CURIEs or free text; empty for every query of the model.
        encoder_dir: ENCODER; by default where it stood when the model was trained.
        findings_only: With nothing asked, take the model's findings and leave out its broader concepts.

    Raises:
        InputError: if an encoder is needed and is missing or is not the one the model was trained with.
    """
    trained = _TrainedQueries(model)
    if not asked:
        rows = list(range(len(model.queries)))
        if findings_only:
            rows = [row for row in rows if model.queries[row].is_finding] or rows
        return with_vectors(model, [trained.query(row) for row in rows], model.query_vectors[rows])
    queries: list[Query] = []
    vectors: list[Tensor] = []
    knowledge: Knowledge | None = None
    helping = trained.vectors if model.recipe.targets.ask_broader else {}
    for words in asked:
        if not words.strip():
            raise InputError("empty query; expected a finding, a concept id or some words")
        row = trained.row(words)
        if row is None:
            knowledge = knowledge or open_knowledge(model, encoder_dir, wanted=words)
            denoted = knowledge.find(words)
            row = trained.row(denoted.concept) if denoted.concept else None
            if row is None:
                concept = denoted.concept or None
                queries.append(Query(words.strip(), concept, denoted.is_text_encoded, is_seen=False))
                vectors.append(vector_of_unseen(denoted, knowledge, helping))
                continue
        queries.append(trained.query(row, words))
        vectors.append(model.query_vectors[row])
    return with_vectors(model, queries, torch.stack(vectors))


def with_vectors(model: VlpModel, queries: Sequence[Query], own: Tensor) -> ResolvedQueries:
    """Queries that are asked with vectors of their own, float32 [Q, E], and `normal` as the model answers it."""
    return resolve_denial(queries, own, (model.queries, model.query_vectors), model.denial)


def vector_of_unseen(query: AskedConcept, knowledge: Knowledge, taught: Mapping[str, Tensor]) -> Tensor:
    """What a query that was not trained on is asked with: its own vector and, as much, those of what is broader.

    How films of a broader concept look was learnt; how the network takes a vector it never saw is chance. Compare
    ConSE (Norouzi et al. 2014), which answers through what was taught as well, but through what is similar.

    Args:
        query: The query.
        knowledge: Knows its vector and what is broader.
        taught: Concept -> vector it was trained with, float32 [E]; empty to leave the query alone.

    Returns:
        float32 [E], unit norm.
    """
    own = torch.from_numpy(knowledge.vectors([query]))[0]
    broader = [taught[concept] for concept in sorted(knowledge.broader(query) & taught.keys())]
    if not broader:
        return own
    return F.normalize(own + F.normalize(torch.stack(broader).mean(0), dim=0), dim=0)


def open_knowledge(model: VlpModel, encoder_dir: Path | None, wanted: str) -> Knowledge:
    """The encoder a model was trained with.

    Args:
        model: The model.
        encoder_dir: Where to look, instead of where it stood at training.
        wanted: What it is needed for, for the error.

    Raises:
        InputError: if it is missing or its digest is not the model's.
    """
    folder = encoder_dir or Path(model.manifest["encoder_path"])
    if encoder_dir is None and not folder.exists():
        raise InputError(
            f"{wanted!r} is not among the {len(model.queries)} queries of the model, and its encoder is "
            f"no longer at {folder}: give it with --kg-encoder",
            model.folder,
        )
    encoder = load_verified_encoder(folder)
    check_encoder(model, encoder)
    return Knowledge(encoder, load_findings(), model.recipe.targets.vectors)


def check_encoder(model: VlpModel, encoder: ConceptEncoder) -> None:
    """Refuse an encoder whose vectors are not those the model was trained on."""
    expected = str(model.manifest["encoder_digest"])
    if encoder.digest != expected:
        raise InputError(
            f"encoder digest {encoder.digest[:12]}, but the model was trained with {expected[:12]}",
            encoder.folder,
        )


class _TrainedQueries:
    """The queries of a model by every name they go by."""

    def __init__(self, model: VlpModel) -> None:
        self._queries = model.queries
        self.vectors = {query.concept: model.query_vectors[row] for row, query in enumerate(model.queries)}
        self._rows: dict[str, int] = {}
        for names in (_concept, _name, _text):  # an id beats a name, a name beats the encoded words
            for row, query in enumerate(model.queries):
                self._rows.setdefault(names(query).casefold(), row)

    def row(self, words: str) -> int | None:
        return self._rows.get(words.strip().casefold())

    def query(self, row: int, words: str | None = None) -> Query:
        query = self._queries[row]
        return Query(words or query.name, query.concept, query.is_text_encoded, is_seen=True)


def _concept(query: AskedConcept) -> str:
    return query.concept


def _name(query: AskedConcept) -> str:
    return query.name


def _text(query: AskedConcept) -> str:
    return query.text
