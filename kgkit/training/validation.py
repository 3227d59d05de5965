"""Quick figures during training: validation names and facts against a sample of the concepts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kgkit.arrays import IntArray
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.encoder.text_tower import TextTower
from kgkit.evaluation.link_prediction import KnownFacts, rank_triples
from kgkit.ranking import realistic_ranks
from kgkit.training.corpus import Corpus
from kgkit.training.method import Reader

_QUERIES = 200
_DISTRACTORS, _NAME_DISTRACTORS = 1000, 300


def synonym_figure(corpus: Corpus, tower: TextTower, read: Reader, recipe: EncoderRecipe) -> dict[str, float]:
    """MRR of up to 200 validation names among their concepts and 300 others, a concept scoring by its best name.

    Args:
        corpus: Holds the names.
        tower: Tokenises.
        read: Reads texts without gradients.
        recipe: Its seed draws the sample, the same at every call.

    Returns:
        `valid_synonym_mrr`; nothing if no name is held out for validation.
    """
    wanted = corpus.query_names.filter(corpus.query_names["part"] == "valid")
    generator = np.random.default_rng([recipe.seed, 3])
    rows = np.sort(generator.permutation(len(wanted))[:_QUERIES])
    if not len(rows):
        return {}
    chosen = wanted[rows.tolist()]
    owners = [np.asarray(row) for row in chosen["concepts"].to_list()]
    others = generator.permutation(corpus.view.num_concepts)[:_NAME_DISTRACTORS]
    concepts = np.unique(np.concatenate([*owners, others]))
    positions = [np.arange(corpus.name_starts[row], corpus.name_starts[row + 1]) for row in concepts]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in positions])[:-1]])
    texts = [*chosen["name"], *corpus.names.gather(np.concatenate(positions))]
    vectors = read(tower.tokenize(texts, recipe.text.max_name_tokens), "validation names").numpy()
    scores = np.maximum.reduceat(vectors[: len(chosen)] @ vectors[len(chosen) :].T, starts, axis=1)
    positive, known = np.empty(len(chosen), dtype=np.int64), np.zeros(scores.shape, dtype=bool)
    for index, own in enumerate(owners):
        columns = np.searchsorted(concepts, own)
        positive[index] = columns[scores[index, columns].argmax()]
        known[index, columns] = True
    return {"valid_synonym_mrr": float((1 / realistic_ranks(scores, positive, known)).mean())}


def triple_figure(corpus: Corpus, scorer: RelationScorer, vectors_of: Callable[[IntArray], Tensor]) -> float:
    """Filtered MRR, both sides, of up to 200 validation facts among their ends and 1,000 other concepts.

    Args:
        corpus: Holds the facts; all of them are known truths.
        scorer: Scores.
        vectors_of: Vectors of some concept rows.
    """
    valid = corpus.split.valid
    facts = valid[:: max(1, len(valid) // _QUERIES)]
    others = np.random.default_rng(4).permutation(corpus.view.num_concepts)[:_DISTRACTORS]
    concepts = np.unique(np.concatenate([facts[:, 0], facts[:, 2], others]))
    row = np.full(corpus.view.num_concepts, -1)
    row[concepts] = np.arange(len(concepts))

    def among(triples: IntArray) -> IntArray:
        """Facts between the sampled concepts, in their rows."""
        moved = np.stack([row[triples[:, 0]], triples[:, 1], row[triples[:, 2]]], axis=1)
        return moved[(moved >= 0).all(axis=1)]

    known = KnownFacts(among(corpus.view.triples), corpus.view.num_relations)
    device = next((parameter.device for parameter in scorer.parameters()), torch.device("cpu"))  # `um` has none
    vectors = vectors_of(concepts).to(device)
    return float((1 / rank_triples(vectors, scorer, known, among(facts))).mean())
