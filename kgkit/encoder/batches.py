"""Drawing the batches of one training step; a step's draw depends on the seed and its number alone."""

from __future__ import annotations

import numpy as np
import torch

from kgkit.encoder.config import TrainingConfig
from kgkit.encoder.corpus import Corpus
from kgkit.encoder.model import GraphBatch, TextBatch
from kgkit.encoder.sampler import NeighbourSampler
from kgkit.encoder.text_tower import TextTower
from kgkit.views.triples import IntArray


class BatchMaker:
    """Draws batches from a corpus whose texts are tokenised once.

    Args:
        corpus: Names, definitions, triples.
        triples: int64 [n, 3], the training triples (of the control, they are shuffled).
        tower: Tokenises.
        config: Batch sizes.
        fanouts: Neighbours per hop.
    """

    def __init__(
        self, corpus: Corpus, triples: IntArray, tower: TextTower, config: TrainingConfig, fanouts: tuple[int, ...]
    ) -> None:
        self._config, self._fanouts, self._triples = config, fanouts, triples
        limit = tower.config.max_name_tokens
        flat = [name for names in corpus.names for name in names]
        tokens = iter(tower.tokenize(flat, limit))
        self._names = [[next(tokens) for _ in names] for names in corpus.names]
        self._several = np.flatnonzero([len(names) > 1 for names in corpus.names])
        texts = [text for _, text in corpus.definitions]
        self._definitions = tower.tokenize(texts, tower.config.max_definition_tokens)
        self._defined = np.array([row for row, _ in corpus.definitions], dtype=np.int64)
        view = corpus.view
        self.sampler = NeighbourSampler(triples, view.num_concepts, view.num_relations)
        self._num_concepts = view.num_concepts

    @property
    def preferred_tokens(self) -> list[list[int]]:
        """Tokens of every concept's preferred name."""
        return [names[0] for names in self._names]

    def draw(self, seed: int, step: int) -> tuple[TextBatch, GraphBatch]:
        """The batches of one step."""
        generator = np.random.default_rng([seed, step])
        triples = self._triples[generator.integers(0, len(self._triples), size=self._config.triples)]
        live = np.unique(triples[: self._config.live_triples, [0, 2]])
        text = self._text_batch(generator, live)
        return text, self._graph_batch(generator, triples, text.pair_concepts.numpy())

    def _text_batch(self, generator: np.random.Generator, live: IntArray) -> TextBatch:
        num_pairs = min(self._config.synonym_pairs, len(self._several))
        pairs = generator.choice(self._several, size=num_pairs, replace=False) if num_pairs else self._several[:0]
        left, right = [], []
        for row in pairs:
            one, other = generator.choice(len(self._names[row]), size=2, replace=False)
            left.append(self._names[row][one])
            right.append(self._names[row][other])
        num_defined = min(self._config.definitions, len(self._defined))
        picked = np.empty(0, dtype=np.int64)
        if num_defined:
            picked = generator.choice(len(self._defined), size=num_defined, replace=False)
        rows = self._defined[picked]
        defined = [self._names[row][generator.integers(len(self._names[row]))] for row in rows]
        return TextBatch(
            names=[*left, *right, *defined, *(self._names[row][0] for row in live)],
            pair_concepts=torch.from_numpy(np.asarray(pairs, dtype=np.int64)),
            definitions=[self._definitions[index] for index in picked],
            definition_concepts=torch.from_numpy(rows),
            live_concepts=torch.from_numpy(live),
        )

    def _graph_batch(self, generator: np.random.Generator, triples: IntArray, named: IntArray) -> GraphBatch:
        negatives = generator.integers(0, self._num_concepts, size=self._config.negatives)
        seeds = np.unique(np.concatenate([triples[:, 0], triples[:, 2], negatives, named]))
        facts = torch.from_numpy(triples)
        draws = torch.Generator().manual_seed(int(generator.integers(2**62)))
        # The facts being predicted pass no message in this step, whatever their direction or relation name.
        hidden = torch.unique(self.sampler.pair_keys(facts[:, 0], facts[:, 2]))
        graph = self.sampler.sample(torch.from_numpy(seeds), self._fanouts, draws, hidden)
        heads, tails = (torch.from_numpy(np.searchsorted(seeds, triples[:, column])) for column in (0, 2))
        return GraphBatch(heads, facts[:, 1], tails, graph)
