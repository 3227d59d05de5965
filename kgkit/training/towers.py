"""Text and graph towers trained together: synonym, definition, relation and alignment objectives on one draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kgkit.arrays import IntArray
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel, all_concept_vectors
from kgkit.encoder.relation_scorer import RelationLoss
from kgkit.encoder.sampler import NeighbourSampler, SampledGraph
from kgkit.training.corpus import Corpus, training_facts
from kgkit.training.method import Reader, Tokens, step_generator
from kgkit.training.mining import nearest_rows, word_vectors
from kgkit.training.objectives import (
    known_keys,
    linked_mask,
    linked_pairs,
    multi_positive_contrast,
    multi_similarity,
    paired_contrast,
    relation_truth_mask,
    same_concept,
)
from kgkit.training.tokens import TokenStore
from kgkit.training.validation import synonym_figure, triple_figure

_MINED = 8
"""Nearest concepts kept per concept; a draw takes some of them."""


@dataclass(frozen=True)
class TowersDraw:
    """What one step works on.

    Attributes:
        tokens: All texts of the step: left names and right names of the synonym pairs, names of the defined concepts,
            definitions, preferred names of the live concepts, in this order.
        sizes: How many of each, in that order.
        pairs: int64 [P], concept row of each synonym pair.
        defined: int64 [D], concept row of each definition.
        live: int64 [L], distinct rows whose preferred name is read anew; none of them among `pairs`.
        heads: int64 [E], positions among the graph's seeds.
        relations: int64 [E].
        tails: int64 [E], positions among the seeds.
        graph: Sampled neighbourhood; its seeds are the candidates of every triple and every synonym: the ends of the
            triples, sampled negatives, and the concepts of the synonym pairs. None without relations and alignment.
        fresh: bool [P], pairs whose right name is the preferred one.
    """

    tokens: Tokens
    sizes: tuple[int, int, int, int, int]
    pairs: Tensor
    defined: Tensor
    live: Tensor
    heads: Tensor
    relations: Tensor
    tails: Tensor
    graph: SampledGraph | None
    fresh: Tensor

    @property
    def items(self) -> int:
        """Synonym pairs, definitions and facts."""
        return self.sizes[0] + self.sizes[2] + len(self.heads)


class TowersMethod:
    """Implements `kgkit.training.method.Method`.

    Args:
        model: With a text tower.
        corpus: Texts and facts.
        recipe: Sizes and weights.
        folder: Where tokens are kept.
        read: Reads the preferred names once at the start.
    """

    def __init__(self, model: EncoderModel, corpus: Corpus, recipe: EncoderRecipe, folder: Path, read: Reader) -> None:
        assert model.text is not None
        self._model, self._corpus, self._recipe, self._read = model, corpus, recipe, read
        self._names = TokenStore.build(
            folder / "tokens" / "names", corpus.names, model.text, recipe.text.max_name_tokens
        )
        self._definitions = TokenStore.build(
            folder / "tokens" / "definitions", corpus.definitions, model.text, recipe.text.max_definition_tokens
        )
        self._counts = np.diff(corpus.name_starts)
        self._several = np.flatnonzero((self._counts > 1) & ~corpus.unseen)
        self._seen = np.flatnonzero(~corpus.unseen)
        train = training_facts(corpus.split, recipe)
        self._triples = train
        view = corpus.view
        self.sizes = (view.num_concepts, view.num_relations)
        self._sampler = NeighbourSampler(train, *self.sizes, recipe.graph.hidden)
        self._known = known_keys(torch.from_numpy(train), self.sizes)
        spared = train if recipe.objectives.spare_linked else train[:0]
        self._linked = linked_pairs(torch.from_numpy(spared), view.num_concepts)
        self._relation_loss = RelationLoss(recipe.relation.loss)
        weights = recipe.objectives
        self._draws_graph = bool((weights.relation or weights.alignment) and len(train))
        has_synonyms = bool(len(self._several) and (weights.synonym or weights.alignment))
        self._has_texts = has_synonyms or bool(len(corpus.definitions) and weights.definition)
        self._bank, self._is_final = torch.empty(0, model.dim), False
        self._nearest: IntArray | None = None
        self._mined_at = 0

    def draw(self, step: int) -> TowersDraw:
        """See `Method`. Once texts have ended a step reads none and costs little; before that, it takes no fact.

        Unless facts are to teach the text tower too (`relation.live_triples`): then it takes them from the start.
        """
        relation = self._recipe.relation
        generator = np.random.default_rng([self._recipe.seed, step])
        takes_texts = not self._is_final
        takes_facts = self._draws_graph and (self._is_final or not self.takes_turns or relation.live_triples > 0)
        none = np.empty(0, dtype=np.int64)
        pairs = self._pairs(generator, step) if takes_texts else none
        left, right = self._two_names(generator, pairs)
        picked = self._definitions_drawn(generator) if takes_texts else none
        defined = self._corpus.definition_rows[picked]
        live, triples, graph = none, np.empty((0, 3), dtype=np.int64), None
        if takes_facts:
            self._read_concepts()
            triples = self._triples[generator.integers(0, len(self._triples), size=relation.triples)]
            live = np.setdiff1d(triples[: relation.live_triples, [0, 2]], pairs) if takes_texts else none
            graph = self._neighbourhood(generator, triples, pairs)
        starts = self._corpus.name_starts
        tokens = [
            *self._names.rows(left), *self._names.rows(right), *self._names.rows(self._any_name(generator, defined)),
            *self._definitions.rows(picked), *self._names.rows(starts[live]),
        ]  # fmt: skip
        seeds = graph.nodes[: graph.num_seeds].numpy() if graph is not None else np.empty(0, dtype=np.int64)
        heads, tails = (torch.from_numpy(np.searchsorted(seeds, triples[:, column])) for column in (0, 2))
        sizes = (len(pairs), len(pairs), len(picked), len(picked), len(live))
        return TowersDraw(
            tokens=tokens, sizes=sizes, pairs=torch.from_numpy(pairs), defined=torch.from_numpy(defined),
            live=torch.from_numpy(live), heads=heads, relations=torch.from_numpy(triples[:, 1].copy()), tails=tails,
            graph=graph, fresh=torch.from_numpy(right == starts[pairs]),
        )  # fmt: skip

    def losses(self, draw: TowersDraw, texts: Tensor) -> dict[str, Tensor]:
        """See `Method`."""
        left, right, named, definitions, live = torch.split(texts, list(draw.sizes))
        weights, scale = self._recipe.objectives, self._model.logit_scale
        losses = self._contrasts(draw, (left, right), (named, definitions))
        if draw.graph is None:
            return losses
        left, right, live = (self._turned_down(part) for part in (left, right, live))
        features = self._features(draw, right, live)
        vectors = self._model.concept_vectors(features, draw.graph)
        if weights.relation:
            losses["relation"] = weights.relation * self._relation(draw, vectors)
        if weights.alignment and (len(draw.pairs) or self._model.graph is not None):
            seeds = draw.graph.nodes[: draw.graph.num_seeds]
            names = torch.cat([left, features[: len(seeds)]])
            positive = same_concept(torch.cat([draw.pairs, seeds]), seeds).to(texts.device)
            losses["alignment"] = weights.alignment * multi_positive_contrast(names, vectors, positive, scale)
        return losses

    def after_step(self, draw: TowersDraw, texts: Tensor) -> None:
        """The bank takes the preferred names' vectors that were read."""
        if not len(self._bank):
            return
        _, right, _, _, live = torch.split(texts.float().cpu(), list(draw.sizes))
        self._bank[draw.live] = live
        self._bank[draw.pairs[draw.fresh]] = right[draw.fresh]

    def validate(self) -> Mapping[str, float]:
        """MRR of validation names and, once the concepts were read, facts; each against a sample of the concepts."""
        assert self._model.text is not None
        figures = synonym_figure(self._corpus, self._model.text, self._read, self._recipe)
        has_facts = self._draws_graph and self._recipe.objectives.relation and len(self._corpus.split.valid)
        if has_facts and len(self._bank):
            figures["valid_link_mrr"] = triple_figure(self._corpus, self._model.scorer, self._vectors_of)
        missing = bool(has_facts and not len(self._bank))  # facts that were not learnt yet count as 0
        return {"valid_score": sum(figures.values()) / (len(figures) + missing), **figures} if figures else {}

    def state(self) -> dict[str, Tensor]:
        """The bank and what was mined from it."""
        state = {"bank": self._bank, "is_final": torch.tensor(self._is_final)}
        if self._nearest is not None:
            state |= {"nearest": torch.from_numpy(self._nearest), "mined_at": torch.tensor(self._mined_at)}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """See `Method`."""
        self._bank, self._is_final = state["bank"], bool(state["is_final"])
        if "nearest" in state:
            self._nearest, self._mined_at = state["nearest"].numpy(), int(state["mined_at"])

    @property
    def takes_turns(self) -> bool:
        """See `Method`. Where texts learn neither from each other nor from facts, facts are all there is."""
        learns_texts = self._has_texts or self._recipe.relation.live_triples > 0
        return self._draws_graph and learns_texts and self._recipe.takes_turns

    def end_texts(self) -> None:
        """See `Method`."""
        self._bank, self._is_final = torch.empty(0, self._model.dim), True
        self._read_concepts()

    @property
    def preferred(self) -> Tensor | None:
        """See `Method`."""
        return self._bank if self._is_final else None

    def concept_vectors(self, preferred: Tensor) -> Tensor:
        """See `Method`; the support facts of concepts that training never saw pass messages here."""
        facts = np.concatenate([self._triples, self._corpus.support])
        return all_concept_vectors(self._model, preferred, NeighbourSampler(facts, *self.sizes), self._recipe.seed)

    def _pairs(self, generator: np.random.Generator, step: int) -> IntArray:
        """Concepts whose names are contrasted, distinct; with mining, some of them with their nearest others."""
        train, weights = self._recipe.train, self._recipe.objectives
        wanted = min(train.synonym_pairs, len(self._several)) if weights.synonym or weights.alignment else 0
        if not train.hard_negatives or not wanted:
            return generator.choice(self._several, size=wanted, replace=False)
        self._mine(step)
        assert self._nearest is not None
        seeds = generator.permutation(len(self._several))[: max(1, wanted // (1 + train.hard_negatives))]
        order = np.argsort(generator.random((len(seeds), self._nearest.shape[1])), axis=1)[:, : train.hard_negatives]
        hard = np.take_along_axis(self._nearest[seeds], order, axis=1)
        return np.unique(np.concatenate([self._several[seeds], hard.ravel()]))

    def _read_concepts(self) -> None:
        """Read the preferred names into the bank if it is empty."""
        if not len(self._bank):
            names = self._names.rows(self._corpus.name_starts[:-1])
            self._bank = self._read(names, "concept names to vectors")

    def _definitions_drawn(self, generator: np.random.Generator) -> IntArray:
        """Positions of distinct definitions."""
        count = len(self._corpus.definition_rows)
        wanted = min(self._recipe.train.definitions, count) if self._recipe.objectives.definition else 0
        return generator.choice(count, size=wanted, replace=False)

    def _mine(self, step: int) -> None:
        """Find each concept's nearest others, by their words once, or by what the tower makes of them now and then."""
        every = self._recipe.train.mine_every
        if self._nearest is not None and not (every and step - self._mined_at >= every):
            return
        if every:
            self._read_concepts()
            bank = self._bank.numpy()
        else:
            assert self._model.text is not None
            table = self._model.text.transformer.get_input_embeddings().weight
            bank = word_vectors(self._names, self._corpus.name_starts, table.detach().float().cpu().numpy())
        self._nearest, self._mined_at = nearest_rows(bank, self._several, _MINED), step

    def _two_names(self, generator: np.random.Generator, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Positions of two different names of each concept."""
        start, count = self._corpus.name_starts[rows], self._counts[rows]
        one = (generator.random(len(rows)) * count).astype(np.int64)
        other = (one + 1 + (generator.random(len(rows)) * (count - 1)).astype(np.int64)) % count
        return start + one, start + other

    def _any_name(self, generator: np.random.Generator, rows: IntArray) -> IntArray:
        start, count = self._corpus.name_starts[rows], self._counts[rows]
        return start + (generator.random(len(rows)) * count).astype(np.int64)

    def _neighbourhood(self, generator: np.random.Generator, triples: IntArray, named: IntArray) -> SampledGraph:
        negatives = self._seen[generator.integers(0, len(self._seen), size=self._recipe.relation.negatives)]
        seeds = np.unique(np.concatenate([triples[:, 0], triples[:, 2], negatives, named]))
        facts = torch.from_numpy(triples)
        draws = torch.Generator().manual_seed(int(generator.integers(2**62)))
        # The facts being predicted pass no message in this step, nor does what else is said of their ends ("pair").
        hidden = torch.unique(self._sampler.keys(facts[:, 0], facts[:, 1], facts[:, 2]))
        fanouts = self._recipe.graph.fanouts if self._model.graph is not None else ()
        return self._sampler.sample(torch.from_numpy(seeds), fanouts, draws, hidden)

    def _turned_down(self, texts: Tensor) -> Tensor:
        """The same vectors with a share of their gradient: facts pull names apart that synonyms want together."""
        share = self._recipe.objectives.graph_to_text
        return share * texts + (1 - share) * texts.detach()

    def _features(self, draw: TowersDraw, right: Tensor, live: Tensor) -> Tensor:
        """Text vectors of a draw's nodes, float32 [m, dim].

        From the bank, but with gradients for what was read in this step: the live concepts' preferred names, and one
        name of each pair's concept, so that a concept's vector does not hang on which of its names is preferred.
        """
        assert draw.graph is not None
        nodes = draw.graph.nodes
        order = torch.argsort(nodes)
        place = order[torch.searchsorted(nodes[order], torch.cat([draw.pairs, draw.live]))]
        read = torch.cat([right, live])
        return self._bank[nodes].to(read.device).index_copy(0, place.to(read.device), read)

    def _contrasts(
        self, draw: TowersDraw, synonyms: tuple[Tensor, Tensor], definitions: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Losses of names against names, and of names against definitions.

        In the InfoNCE form both are told apart from all names and definitions of the step: a few definitions would be
        told from each other by any word.

        Args:
            draw: Whose concepts the texts name.
            synonyms: Both names of the pairs, float [P, D] each.
            definitions: Names, and the definitions of what they name, float [D', D] each.
        """
        weights, on = self._recipe.objectives, synonyms[0].device
        losses: dict[str, Tensor] = {}
        told_apart: list[tuple[str, float, Tensor, Tensor, Tensor]] = []
        if weights.synonym and len(draw.pairs):
            if weights.contrast == "multi-similarity":
                loss = multi_similarity(torch.cat(synonyms), draw.pairs.to(on).repeat(2))
                losses["synonym"] = weights.synonym * loss
            else:
                told_apart.append(("synonym", weights.synonym, *synonyms, draw.pairs))
        if len(draw.defined):
            told_apart.append(("definition", weights.definition, *definitions, draw.defined))
        if not told_apart:
            return losses
        left = torch.cat([kind[2] for kind in told_apart])
        right = torch.cat([kind[3] for kind in told_apart])
        concepts = torch.cat([kind[4] for kind in told_apart]).to(on)
        spared = linked_mask(self._linked.to(on), concepts, self.sizes[0]) if weights.spare_linked else None
        each = paired_contrast(left, right, concepts, self._model.logit_scale, spared)
        for kind, part in zip(told_apart, torch.split(each, [len(kind[4]) for kind in told_apart]), strict=True):
            losses[kind[0]] = kind[1] * part.mean()
        return losses

    def _relation(self, draw: TowersDraw, vectors: Tensor) -> Tensor:
        """Every triple against all seeds, as tails and as heads; other known facts are no negatives."""
        assert draw.graph is not None
        seeds = draw.graph.nodes[: draw.graph.num_seeds]
        heads, relations, tails = draw.heads, draw.relations, draw.tails
        where = relations.to(vectors.device)
        tail_scores = self._model.scorer.score_tails(vectors[heads], where, vectors)
        head_scores = self._model.scorer.score_heads(vectors[tails], where, vectors)
        columns = seeds[None, :]
        true_tails = relation_truth_mask(self._known, seeds[heads][:, None], relations[:, None], columns, self.sizes)
        true_heads = relation_truth_mask(self._known, columns, relations[:, None], seeds[tails][:, None], self.sizes)
        on = vectors.device
        tail_loss: Tensor = self._relation_loss(tail_scores, tails.to(on), ~true_tails.to(on))
        head_loss: Tensor = self._relation_loss(head_scores, heads.to(on), ~true_heads.to(on))
        return (tail_loss + head_loss) / 2

    def _vectors_of(self, rows: IntArray) -> Tensor:
        """Vectors of some concepts with the bank as it stands; float32 [n, dim]."""
        if self._model.graph is None:
            return self._bank[rows]
        seeds = torch.from_numpy(np.ascontiguousarray(rows))
        graph = self._sampler.sample(seeds, self._recipe.graph.fanouts, step_generator(self._recipe.seed, 0, 1))
        return self._model.concept_vectors(self._bank[graph.nodes], graph).cpu()
