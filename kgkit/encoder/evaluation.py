"""Measuring concept vectors on what was held out: link prediction and synonym retrieval."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgkit.encoder.corpus import Corpus
from kgkit.encoder.model import EncoderModel
from kgkit.encoder.objectives import known_keys, relation_truth_mask
from kgkit.encoder.relation_scorer import RelationScorer
from kgkit.ranking import FloatArray, bootstrap_interval, realistic_ranks, summarise_ranks
from kgkit.views.triples import IntArray

_CHUNK = 256


def evaluate_vectors(vectors: Tensor, model: EncoderModel, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Held-out figures of some concept vectors, each with a 95% bootstrap interval.

    Args:
        vectors: float32 [N, dim], unit rows: what is measured.
        model: Scores relations and reads names.
        corpus: Holds the held-out triples and names.
        seed: Of the bootstrap.
    """
    result: dict[str, Any] = {}
    if len(corpus.split.test):
        ranks = link_prediction(vectors, model.scorer, corpus, corpus.split.test)
        # Both sides of a triple fall together, so the triple is the unit that is resampled.
        per_triple = (1 / ranks).reshape(2, -1).mean(axis=0)
        summary = summarise_ranks(ranks, len(vectors)).to_json()
        result["link_prediction"] = summary | {
            "mrr_interval": bootstrap_interval(per_triple, seed),
            "side": "both",
            "filtered": True,
            "ties": "realistic",
        }
    if corpus.held_out:
        ranks = synonym_retrieval(vectors, model, corpus)
        summary = summarise_ranks(ranks, len(vectors)).to_json()
        result["synonym_retrieval"] = summary | {"mrr_interval": bootstrap_interval(1 / ranks, seed)}
    return result


@torch.no_grad()
def link_prediction(vectors: Tensor, scorer: RelationScorer, corpus: Corpus, queries: IntArray) -> FloatArray:
    """Filtered realistic ranks of some triples: first all tails, then all heads; float64 [2 * len(queries)].

    Args:
        vectors: float32 [N, dim], every concept is a candidate.
        scorer: Scores.
        corpus: All its triples are known truths.
        queries: int64 [q, 3].
    """
    sizes = (corpus.view.num_concepts, corpus.view.num_relations)
    known = known_keys(torch.from_numpy(corpus.view.triples), sizes)
    every = torch.arange(len(vectors))[None, :]
    sides: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for chunk in torch.split(torch.from_numpy(queries), _CHUNK):
        heads, relations, tails = chunk.unbind(1)
        tail_scores = scorer.score_tails(vectors[heads], relations, vectors)
        head_scores = scorer.score_heads(vectors[tails], relations, vectors)
        true_tails = relation_truth_mask(known, heads[:, None], relations[:, None], every, sizes)
        true_heads = relation_truth_mask(known, every, relations[:, None], tails[:, None], sizes)
        sides[0].append(realistic_ranks(tail_scores.numpy(), tails.numpy(), true_tails.numpy()))
        sides[1].append(realistic_ranks(head_scores.numpy(), heads.numpy(), true_heads.numpy()))
    return np.concatenate([*sides[0], *sides[1]])


@torch.no_grad()
def synonym_retrieval(vectors: Tensor, model: EncoderModel, corpus: Corpus) -> FloatArray:
    """Rank of the right concept for each held-out name, among all concepts; float64 [len(corpus.held_out)].

    A name of several concepts counts the best of them, the others are filtered.
    """
    model.eval()
    tokens = model.text.tokenize([name.text for name in corpus.held_out], model.text.config.max_name_tokens)
    queries = torch.cat([model.text.embed_tokens(tokens[at : at + _CHUNK]) for at in range(0, len(tokens), _CHUNK)])
    scores = (queries @ vectors.T).numpy()
    positive = np.empty(len(scores), dtype=np.int64)
    known = np.zeros(scores.shape, dtype=bool)
    for row, name in enumerate(corpus.held_out):
        owners = np.array(name.concepts)
        positive[row] = owners[scores[row, owners].argmax()]
        known[row, owners] = True
    model.train()
    return realistic_ranks(scores, positive, known)
