"""Synonym and definition retrieval: which concept does a held-out name, or definition, stand for?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray, DoubleArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.evaluation.held_out_files import read_held_out_definitions, read_held_out_names
from kgkit.evaluation.lexical import lexical_scores
from kgkit.evaluation.name_bank import (
    FillScores,
    NameBank,
    TextQueries,
    dense_scores,
    embed,
    name_bank,
    queries_of,
    retrieval_ranks,
)
from kgkit.evaluation.outcomes import Answer, Outcomes, rank_outcomes

_HITS = (1, 5, 10)
NO_TEXT = "it has no text tower, so it cannot read the queries"

MakeScores = Callable[[ConceptEncoder, NameBank, TextQueries], FillScores]


def synonym_retrieval(folder: Path) -> Answer:
    """Retrieval of concepts by held-out names; the text is read by the encoder.

    Returns:
        Parts `unambiguous` and `ambiguous`: test names of one and of several concepts; `inductive`: names of concepts
        that training never saw. `hits_at_1` is the accuracy.
    """
    encoder = load_encoder(folder)
    return _synonyms(encoder, by_vectors) if encoder.reads_text else Answer(cannot=NO_TEXT)


def lexical_synonym_retrieval(folder: Path) -> Answer:
    """The same queries, answered by character n-grams."""
    return _synonyms(load_encoder(folder), by_grams)


def definition_retrieval(folder: Path) -> Answer:
    """Retrieval of concepts by held-out definitions; parts `test` and `inductive`."""
    encoder = load_encoder(folder)
    return _definitions(encoder, by_vectors) if encoder.reads_text else Answer(cannot=NO_TEXT)


def lexical_definition_retrieval(folder: Path) -> Answer:
    """The same queries, answered by character n-grams."""
    return _definitions(load_encoder(folder), by_grams)


def by_vectors(encoder: ConceptEncoder, bank: NameBank, queries: TextQueries) -> FillScores:
    """Scores of the text tower's vectors."""
    return dense_scores(encoder, bank, embed(encoder, queries.texts, "queries to vectors"))


def by_grams(encoder: ConceptEncoder, bank: NameBank, queries: TextQueries) -> FillScores:
    """Scores of character n-grams."""
    return lexical_scores(bank, queries.texts)


def _synonyms(encoder: ConceptEncoder, make_scores: MakeScores) -> Answer:
    table = read_held_out_names(encoder.folder).filter(pl.col("part").is_in(["test", "inductive"]))
    table = table.with_columns(pl.col("concepts").list.unique().list.sort())
    is_test, many = (table["part"] == "test").to_numpy(), (table["concepts"].list.len() > 1).to_numpy()
    strata = {"unambiguous": is_test & ~many, "ambiguous": is_test & many, "inductive": ~is_test}
    queries = queries_of(table["name"].to_list(), table["concepts"].to_list())
    return _answer(encoder, queries, queries, strata, make_scores)


def _definitions(encoder: ConceptEncoder, make_scores: MakeScores) -> Answer:
    table = read_held_out_definitions(encoder.folder).filter(pl.col("part").is_in(["test", "inductive"]))
    is_test = (table["part"] == "test").to_numpy()
    texts, concepts = table["definition"].to_list(), table["concept"].to_list()
    queries = queries_of(texts, [[concept] for concept in concepts])
    return _answer(
        encoder, queries, _same_definition(encoder, queries), {"test": is_test, "inductive": ~is_test}, make_scores
    )


def _same_definition(encoder: ConceptEncoder, queries: TextQueries) -> TextQueries:
    """Several concepts may have one definition; it stands for each of them."""
    owners: dict[str, list[int]] = {}
    for row, text in enumerate(encoder.table["definition"].to_list()):
        owners.setdefault(text, []).append(row)
    own = zip(queries.texts, queries.concepts.tolist(), strict=True)
    return queries_of(queries.texts, [sorted({concept, *owners.get(text, ())}) for text, concept in own])


def _answer(
    encoder: ConceptEncoder,
    asked: TextQueries,
    queries: TextQueries,
    strata: dict[str, BoolArray],
    make_scores: MakeScores,
) -> Answer:
    """Measure once, divide into strata.

    Args:
        encoder: Opened ENCODER.
        asked: The queries as they were held out; they identify the query.
        queries: With every concept that counts as right.
        strata: Which queries belong to which part.
        make_scores: How the concepts are scored.
    """
    if not len(queries.texts):
        return Answer(cannot="nothing was held out", candidates=encoder.concepts)
    bank = name_bank(encoder)
    scores = make_scores(encoder, bank, queries)
    ranks: DoubleArray = retrieval_ranks(scores, queries, len(encoder.concepts), "concepts ranked")
    labels = [
        f"{text} -> {' '.join(encoder.concepts[row] for row in rows.tolist())}"
        for text, rows in zip(asked.texts, asked.split(), strict=True)
    ]
    outcomes: Outcomes = rank_outcomes(labels, ranks, _HITS, np.arange(len(ranks)))
    parts = {name: outcomes.part(chosen) for name, chosen in strata.items() if chosen.any()}
    about = {"num_candidates": len(encoder.concepts), "num_names": len(bank.names), "ties": "realistic"}
    return Answer(parts, about, (), encoder.concepts)
