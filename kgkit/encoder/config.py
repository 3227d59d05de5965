"""The encoder recipe: frozen, typed, units in the field comments; read from recipes/encoder/*.toml."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kgkit.errors import InputError


@dataclass(frozen=True)
class TextConfig:
    """The text tower."""

    model: str  # name of a weights package, a folder, or a hub id
    pooling: Literal["mean", "cls"]
    max_name_tokens: int  # longer names are cut
    max_definition_tokens: int
    dropout: float  # in the transformer; the contrast is regularised by its other names, and dropout costs a sixth
    frozen_layers: int  # embeddings and this many first layers keep their weights


@dataclass(frozen=True)
class GraphConfig:
    """The graph tower."""

    family: Literal["rgcn", "none"]  # none: the concept vector is the text vector
    hidden_dim: int
    num_bases: int  # RGCN basis decomposition (Schlichtkrull et al. 2018)
    fanouts: tuple[int, ...]  # neighbours sampled per concept, one number per hop


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objectives (0 switches one off) and the form of the relation objective."""

    synonym: float
    definition: float
    relation: float
    alignment: float
    interaction: str  # PyKEEN's name
    loss: str  # PyKEEN's name
    logit_scale: float  # inverse temperature of the contrastive objectives


@dataclass(frozen=True)
class TrainingConfig:
    """The loop. One step draws synonym pairs, definitions and triples, and updates everything at once."""

    steps: int  # optimiser steps
    synonym_pairs: int  # per step
    definitions: int  # per step
    triples: int  # per step
    negatives: int  # sampled concepts per step, shared by all its triples
    live_triples: int  # triples per step whose ends are read anew, so that relations reach the text tower
    text_learning_rate: float
    graph_learning_rate: float
    warmup_fraction: float  # of the steps
    weight_decay: float
    held_out_names: float  # fraction of synonyms kept from training, by normalised string
    held_out_triples: float  # fraction of triples kept from training, with their inverses and duplicates
    precision: Literal["auto", "fp32", "bf16"]  # auto times both on one batch
    checkpoint_every: int  # steps
    log_every: int  # steps
    control: Literal["none", "shuffled-graph"] = "none"  # train on a graph with tails permuted within each relation


_AT_LEAST_ONE = MappingProxyType(
    {
        "text": ("max_name_tokens", "max_definition_tokens"),
        "graph": ("hidden_dim", "num_bases"),
        "train": ("steps", "triples", "checkpoint_every", "log_every"),
    }
)


@dataclass(frozen=True)
class EncoderRecipe:
    """All that decides an encoder, beside the graph."""

    seed: int
    text: TextConfig
    graph: GraphConfig
    objectives: ObjectiveConfig
    train: TrainingConfig

    def __post_init__(self) -> None:
        for table, keys in _AT_LEAST_ONE.items():
            for key in keys:
                value = getattr(getattr(self, table), key)
                if value < 1:
                    raise InputError(f"recipe key '{table}.{key}' is {value}, expected 1 or more")
        for key, fraction in (
            ("held_out_names", self.train.held_out_names),
            ("held_out_triples", self.train.held_out_triples),
        ):
            if not 0 <= fraction < 0.5:
                raise InputError(f"recipe key 'train.{key}' is {fraction}, expected 0 or more, below 0.5")
        if self.graph.family != "none" and not self.graph.fanouts:
            raise InputError("recipe key 'graph.fanouts' is empty; give one number per hop")
