"""Which way of training a recipe asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.model import EncoderModel
from kgkit.training.corpus import Corpus
from kgkit.training.kge import KgeMethod
from kgkit.training.method import Method, Reader
from kgkit.training.text_pairs import TextPairsMethod
from kgkit.training.towers import TowersMethod


def build_method(model: EncoderModel, corpus: Corpus, recipe: EncoderRecipe, folder: Path, read: Reader) -> Method[Any]:
    """Free vectors alone, KAD's text pairs, or the two towers.

    Args:
        model: The parts the recipe asks for.
        corpus: Texts and facts.
        recipe: Decides.
        folder: Where a method may keep files while it trains.
        read: Reads texts without gradients, with progress.
    """
    if model.text is None:
        return KgeMethod(model, corpus.split, recipe)
    if recipe.objectives.text_pairs:
        return TextPairsMethod(model, corpus, recipe, folder, read)
    return TowersMethod(model, corpus, recipe, folder, read)
