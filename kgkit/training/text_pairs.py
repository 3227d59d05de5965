"""KAD's way to train a text encoder (Zhang et al. 2023): pairs of texts from facts and definitions, contrasted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kgkit.arrays import IntArray
from kgkit.encoder.batching import TokenRows
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.errors import InputError
from kgkit.training.corpus import Corpus, training_facts
from kgkit.training.method import OneKindOfStep, Reader, Tokens
from kgkit.training.objectives import kad_soft_contrast, mask_tokens
from kgkit.training.tokens import TokenStore
from kgkit.training.validation import synonym_figure


@dataclass(frozen=True)
class TextPairsDraw:
    """What one step works on.

    Attributes:
        tokens: The anchors, then as many positives.
        concepts: int64 [B], concept row that each pair is about.
    """

    tokens: Tokens
    concepts: Tensor

    @property
    def items(self) -> int:
        """Text pairs."""
        return len(self.concepts)


class TextPairsMethod(OneKindOfStep):
    """Implements `kgkit.training.method.Method` with a text tower alone.

    A pair is drawn from all facts and definitions alike. A fact gives "head [SEP] relation" and its tail, or "relation
    [SEP] tail" and its head, with equal chance; a definition gives the concept's name and the definition. Names are
    the preferred ones. Either side of a step is masked as BERT masks, with the chance `train.token_masking`.

    Args:
        model: With a text tower; its temperature is used, and learnt if the recipe says so.
        corpus: Names, definitions, facts; it may lack one of the last two.
        recipe: Sizes and weights.
        folder: Where tokens are kept.
        read: Reads validation names.

    Raises:
        InputError: if there are neither definitions nor facts, or masking is asked of a tokenizer without a mask.
    """

    def __init__(self, model: EncoderModel, corpus: Corpus, recipe: EncoderRecipe, folder: Path, read: Reader) -> None:
        assert model.text is not None
        self._model, self._tower, self._recipe = model, model.text, recipe
        self._corpus, self._read = corpus, read
        train = training_facts(corpus.split, recipe)
        self._triples, self._defined = train, corpus.definition_rows
        if not len(train) + len(self._defined):
            raise InputError("text pairs are made of facts and definitions, and the graph has neither for training")
        tokenizer = self._tower.tokenizer
        if recipe.train.token_masking and tokenizer.mask_token_id is None:
            raise InputError("recipe key 'train.token_masking': the tokenizer has no mask token; set 0")
        self._preferred = corpus.preferred
        self._relations = [relation.replace("_", " ") for relation in corpus.view.relations]
        self._separator = str(tokenizer.sep_token or tokenizer.eos_token or "")
        text = recipe.text
        self._names = TokenStore.build(folder / "tokens" / "names", self._preferred, self._tower, text.max_name_tokens)
        self._definitions = TokenStore.build(
            folder / "tokens" / "definitions", corpus.definitions, self._tower, text.max_definition_tokens
        )

    def draw(self, step: int) -> TextPairsDraw:
        """See `Method`."""
        generator = np.random.default_rng([self._recipe.seed, step, 2])
        wanted = self._recipe.train.text_pairs
        picked = generator.integers(0, len(self._triples) + len(self._defined), size=wanted)
        facts = self._triples[picked[picked < len(self._triples)]]
        definitions = picked[picked >= len(self._triples)] - len(self._triples)
        asks_tail = generator.random(len(facts)) < 0.5
        defined = self._defined[definitions]
        answers = np.where(asks_tail, facts[:, 2], facts[:, 0])
        anchors = [*self._names.encode(self._questions(facts, asks_tail)), *self._names.rows(defined)]
        positives = [*self._names.rows(answers), *self._definitions.rows(definitions)]
        sides = [self._noised(side, generator) for side in (anchors, positives)]
        tokens = TokenRows.of([*sides[0], *sides[1]])
        return TextPairsDraw(tokens, torch.from_numpy(np.concatenate([answers, defined])))

    def losses(self, draw: TextPairsDraw, texts: Tensor) -> dict[str, Tensor]:
        """See `Method`."""
        left, right = texts.chunk(2)
        loss = kad_soft_contrast(left, right, draw.concepts.to(texts.device), self._model.logit_scale)
        return {"text_pairs": self._recipe.objectives.text_pairs * loss}

    def after_step(self, draw: TextPairsDraw, texts: Tensor) -> None:
        """Nothing to be noticed."""

    def validate(self) -> Mapping[str, float]:
        """MRR of validation names."""
        return synonym_figure(self._corpus, self._tower, self._read, self._recipe)

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the weights."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to take back."""

    def concept_vectors(self, preferred: Tensor) -> Tensor:
        """The text vectors of the preferred names."""
        return preferred

    def _questions(self, facts: IntArray, asks_tail: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[str]:
        """One end of each fact and its relation, in the order in which a fact reads."""
        known = np.where(asks_tail, facts[:, 0], facts[:, 2])
        parts = zip(self._preferred.gather(known), facts[:, 1].tolist(), asks_tail.tolist(), strict=True)
        return [
            f" {self._separator} ".join(
                [name, self._relations[relation]] if first else [self._relations[relation], name]
            )
            for name, relation, first in parts
        ]

    def _noised(self, rows: Tokens, generator: np.random.Generator) -> Tokens:
        chance = self._recipe.train.token_masking
        if not chance or generator.random() >= chance:
            return rows
        tokenizer = self._tower.tokenizer
        mask = int(tokenizer.mask_token_id)
        return mask_tokens(rows, generator, mask, self._tower.vocabulary_size, tokenizer.all_special_ids)
