"""The encoder recipe: frozen, typed, units in the field comments; read from recipes/encoder/*.toml."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kgkit.errors import InputError


@dataclass(frozen=True)
class HeldOutConfig:
    """What training never sees; the shares of the test parts, with half as much again for validation."""

    names: float  # of the synonyms, by normalised string
    definitions: float
    triples: float  # with everything else between the same two concepts
    concepts: float  # with all their names, definitions and facts; test only
    control: Literal["none", "shuffled-graph"] = "none"  # tails of the training facts permuted within each relation


@dataclass(frozen=True)
class TextConfig:
    """The text tower."""

    model: str  # name of a weights package, a folder, or a hub id; "none": concepts have free vectors alone
    pooling: Literal["mean", "cls", "pooler"]
    head: Literal["none", "mlp"]  # mlp: two layers after pooling, as KAD has them
    max_name_tokens: int  # longer names are cut
    max_definition_tokens: int
    dropout: float  # in the transformer; the contrast is regularised by its other names, and dropout costs a sixth
    frozen_layers: int  # embeddings and this many first layers keep their weights
    base_share: float = 0.0  # of the weights it came with in its weights once texts are learnt (Wortsman et al. 2022)


@dataclass(frozen=True)
class GraphConfig:
    """The graph tower."""

    family: Literal["rgcn", "compgcn", "none"]  # none: the concept vector is the text vector
    hidden_dim: int
    num_bases: int  # RGCN basis decomposition (Schlichtkrull et al. 2018)
    fanouts: tuple[int, ...]  # neighbours sampled per concept, one number per hop
    hidden: Literal["pair", "fact"] = "pair"  # no message while a fact is predicted: all between its ends, or itself


@dataclass(frozen=True)
class RelationConfig:
    """The relation objective."""

    interaction: str  # PyKEEN's name
    loss: str  # PyKEEN's name
    sampling: Literal["shared", "independent", "all"]  # negatives: of the batch, per triple, or every concept (LCWA)
    sampler: str  # PyKEEN's name of the negative sampler of `independent`: basic, bernoulli, pseudotyped
    triples: int  # per step; with `all`: distinct (head, relation) pairs per step
    negatives: int  # sampled concepts per step (shared), or per triple (independent)
    live_triples: int  # triples per step whose ends are read anew, so that relations reach the text tower
    inverses: bool  # a relation of its own for every direction; heads are asked as tails of the inverse
    concept_dim: int  # length of the free concept vectors where there is no text tower
    relation_dim: int  # TuckER alone
    input_dropout: float  # on the concept vector a question starts from
    dropout: float  # on the query vector made of concept and relation
    label_smoothing: float  # with `all` alone
    n3: float  # weight of the cubed norms (Lacroix et al. 2018), with free vectors alone; 0: none


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objectives (0 switches one off) and the form of the contrast."""

    synonym: float
    definition: float
    relation: float
    alignment: float
    text_pairs: float  # KAD's: head and relation against tail, relation and tail against head, name against definition
    graph_to_text: float  # share of the relation and alignment gradients that reaches the text tower, 0 to 1
    contrast: Literal["infonce", "multi-similarity"]  # of synonyms; multi-similarity as SapBERT has it
    logit_scale: float  # inverse temperature of the contrasts
    learn_logit_scale: bool


@dataclass(frozen=True)
class TrainingConfig:
    """The loop. One step draws from every objective and updates everything at once."""

    steps: int  # optimiser steps at most, fact_steps apart; 0 leaves everything as it starts
    cpu_minutes: float  # processor time at most, of all threads, reading included; 0: no limit
    synonym_pairs: int  # per step
    definitions: int  # per step
    text_pairs: int  # per step
    hard_negatives: int  # of the 8 nearest other concepts, those drawn into the batch beside each concept; 0: none
    mine_every: int  # steps between two minings by the tower's vectors; 0: once, by the words the names share
    token_masking: float  # chance per step and side that 15% of the tokens are masked (KAD); 0: never
    text_learning_rate: float
    graph_learning_rate: float  # of everything beside the text tower
    fact_steps: int  # further steps, on facts alone, once texts are learnt and stay so; 0: every step draws from all
    text_share: float  # of a run with fact_steps, the part of its processor time that goes to texts
    warmup_fraction: float  # of the run
    decay: Literal["cosine", "none"]
    weight_decay: float
    max_gradient_norm: float  # 0: not clipped
    accumulate: int  # draws per optimiser step
    cache_texts: int  # texts read at once in a step; 0: all, otherwise vectors are cached and read twice (GradCache)
    precision: Literal["auto", "fp32", "bf16"]  # auto times both on one batch
    checkpoint_every: int  # steps
    log_every: int  # steps
    curve_points: int  # measurements on the validation part
    patience: int  # measurements without a better one before the run stops; 0: never
    keep: Literal["last", "best"]  # which weights are written; best: by the validation part


_AT_LEAST_ONE = MappingProxyType(
    {
        "text": ("max_name_tokens", "max_definition_tokens"),
        "graph": ("hidden_dim", "num_bases"),
        "relation": ("triples", "concept_dim", "relation_dim"),
        "train": ("checkpoint_every", "log_every", "accumulate"),
    }
)


@dataclass(frozen=True)
class EncoderRecipe:
    """All that decides an encoder, beside the graph."""

    seed: int
    held_out: HeldOutConfig
    text: TextConfig
    graph: GraphConfig
    relation: RelationConfig
    objectives: ObjectiveConfig
    train: TrainingConfig

    def __post_init__(self) -> None:
        for table, keys in _AT_LEAST_ONE.items():
            for key in keys:
                value = getattr(getattr(self, table), key)
                if value < 1:
                    raise InputError(f"recipe key '{table}.{key}' is {value}, expected 1 or more")
        if not 0 <= self.objectives.graph_to_text <= 1:
            raise InputError(
                f"recipe key 'objectives.graph_to_text' is {self.objectives.graph_to_text}, expected 0 to 1"
            )
        if not 0 < self.train.text_share < 1:
            raise InputError(f"recipe key 'train.text_share' is {self.train.text_share}, expected between 0 and 1")
        for key in ("steps", "fact_steps"):
            if getattr(self.train, key) < 0:
                raise InputError(f"recipe key 'train.{key}' is {getattr(self.train, key)}, expected 0 or more")
        for key in ("names", "definitions", "triples", "concepts"):
            fraction = getattr(self.held_out, key)
            if not 0 <= fraction < 0.5:
                raise InputError(f"recipe key 'held_out.{key}' is {fraction}, expected 0 or more, below 0.5")
        if not 0 <= self.text.base_share <= 1:
            raise InputError(f"recipe key 'text.base_share' is {self.text.base_share}, expected 0 to 1")
        if self.text.base_share and self.text.head != "none":
            problem = "the head came with no weights worth keeping; set text.base_share=0 or text.head='none'"
            raise InputError(f"recipe key 'text.base_share' is {self.text.base_share}: {problem}")
        if self.graph.family != "none" and not self.graph.fanouts:
            raise InputError("recipe key 'graph.fanouts' is empty; give one number per hop")
        if self.text.model == "none" and (self.graph.family != "none" or self._reads_text()):
            problem = "the graph tower and every objective but 'relation' need a text tower; switch them off"
            raise InputError(f"recipe key 'text.model' is 'none': {problem}")

    @property
    def takes_turns(self) -> bool:
        """Whether texts are learnt first and facts after."""
        weights = self.objectives
        aligns = weights.alignment and self.graph.family != "none"
        return bool(self.train.fact_steps and self.text.model != "none" and (weights.relation or aligns))

    def _reads_text(self) -> bool:
        weights = self.objectives
        return bool(weights.synonym or weights.definition or weights.alignment or weights.text_pairs)
