"""The encoder recipe: frozen, typed, units in the field comments; read from recipes/encoder/*.toml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from kgkit.errors import InputError
from kgkit.recipe import Count, Fraction, Positive, Seed, Weight, Whole

Between = Annotated[float, Field(gt=0, lt=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=0.5)]


@dataclass(frozen=True)
class HeldOutConfig:
    """What training never sees; the shares of the test parts, with half as much again for validation."""

    names: Share  # of the synonyms, by normalised string
    definitions: Share
    triples: Share  # with everything else between the same two concepts
    concepts: Share  # with all their names, definitions and facts; test only
    control: Literal["none", "shuffled-graph"] = "none"  # tails of the training facts permuted within each relation


@dataclass(frozen=True)
class TextConfig:
    """The text tower."""

    model: str  # name of a weights package, a folder, or a hub id; "none": concepts have free vectors alone
    pooling: Literal["mean", "cls", "pooler"]
    head: Literal["none", "mlp"]  # mlp: two layers after pooling, as KAD has them
    max_name_tokens: Count  # longer names are cut
    max_definition_tokens: Count
    dropout: Dropout  # in the transformer; the contrast is regularised by its other names, and dropout costs a sixth
    frozen_layers: Whole  # embeddings and this many first layers keep their weights
    base_share: Fraction = 0.0  # of the weights it came with in its weights after texts (Wortsman et al. 2022)


@dataclass(frozen=True)
class GraphConfig:
    """The graph tower."""

    family: Literal["rgcn", "compgcn", "none"]  # none: the concept vector is the text vector
    hidden_dim: Count
    num_bases: Count  # RGCN basis decomposition (Schlichtkrull et al. 2018)
    fanouts: tuple[Count, ...]  # neighbours sampled per concept, one number per hop
    hidden: Literal["pair", "fact"] = "pair"  # no message while a fact is predicted: all between its ends, or itself


@dataclass(frozen=True)
class RelationConfig:
    """The relation objective."""

    interaction: str  # PyKEEN's name
    loss: str  # PyKEEN's name
    sampling: Literal["shared", "independent", "all"]  # negatives: of the batch, per triple, or every concept (LCWA)
    sampler: str  # PyKEEN's name of the negative sampler of `independent`: basic, bernoulli, pseudotyped
    triples: Count  # per step; with `all`: distinct (head, relation) pairs per step
    negatives: Whole  # sampled concepts per step (shared), or per triple (independent)
    live_triples: Whole  # triples per step whose ends are read anew, so that relations reach the text tower
    inverses: bool  # a relation of its own for every direction; heads are asked as tails of the inverse
    concept_dim: Count  # length of the free concept vectors where there is no text tower
    relation_dim: Count  # TuckER alone
    input_dropout: Dropout  # on the concept vector a question starts from
    dropout: Dropout  # on the query vector made of concept and relation
    label_smoothing: Fraction  # with `all` alone
    n3: Weight  # weight of the cubed norms (Lacroix et al. 2018), with free vectors alone; 0: none


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objectives (0 switches one off) and the form of the contrast."""

    synonym: Weight
    definition: Weight
    relation: Weight
    alignment: Weight
    text_pairs: Weight  # KAD's: head and relation against tail, relation and tail against head, name against definition
    graph_to_text: Fraction  # share of the relation and alignment gradients that reaches the text tower, 0 to 1
    contrast: Literal["infonce", "multi-similarity"]  # of synonyms; multi-similarity as SapBERT has it
    logit_scale: Positive  # inverse temperature of the contrasts
    learn_logit_scale: bool
    spare_linked: bool = False  # concepts that a training fact joins are not told apart by the infonce contrast


@dataclass(frozen=True)
class TrainingConfig:
    """The loop. One step draws from every objective and updates everything at once."""

    steps: Whole  # optimiser steps at most, fact_steps apart; 0 leaves everything as it starts
    cpu_minutes: Weight  # processor time at most, of all threads, reading included; 0: no limit
    synonym_pairs: Whole  # per step
    definitions: Whole  # per step
    text_pairs: Whole  # per step
    hard_negatives: Whole  # of the 8 nearest other concepts, those drawn into the batch beside each concept; 0: none
    mine_every: Whole  # steps between two minings by the tower's vectors; 0: once, by the words the names share
    token_masking: Fraction  # chance per step and side that 15% of the tokens are masked (KAD); 0: never
    text_learning_rate: Weight
    graph_learning_rate: Weight  # of everything beside the text tower
    fact_steps: Whole  # further steps, on facts alone, once texts are learnt and stay so; 0: every step draws from all
    text_share: Between  # of a run with fact_steps, the part of its processor time that goes to texts
    warmup_fraction: Fraction  # of the run
    decay: Literal["cosine", "none"]
    weight_decay: Weight
    max_gradient_norm: Weight  # 0: not clipped
    accumulate: Count  # draws per optimiser step
    cache_texts: Whole  # texts read at once in a step; 0: all, otherwise vectors are cached and read twice (GradCache)
    precision: Literal["auto", "fp32", "bf16"]  # auto times both on one batch
    checkpoint_every: Count  # steps
    log_every: Count  # steps
    curve_points: Whole  # measurements on the validation part
    patience: Whole  # measurements without a better one before the run stops; 0: never
    keep: Literal["last", "best"]  # which weights are written; best: by the validation part


@dataclass(frozen=True)
class EncoderRecipe:
    """All that decides an encoder, beside the graph."""

    seed: Seed
    held_out: HeldOutConfig
    text: TextConfig
    graph: GraphConfig
    relation: RelationConfig
    objectives: ObjectiveConfig
    train: TrainingConfig

    def __post_init__(self) -> None:
        if self.text.base_share and self.text.head != "none":
            problem = "the head came with no weights worth keeping; set text.base_share=0 or text.head='none'"
            raise InputError(f"recipe key 'text.base_share' is {self.text.base_share}: {problem}")
        if self.relation.sampling == "independent" and not self.relation.negatives:
            raise InputError(
                "recipe key 'relation.negatives' is 0, but 'relation.sampling' is 'independent': 1 or more"
            )
        if self.graph.family != "none" and not self.graph.fanouts:
            raise InputError("recipe key 'graph.fanouts' is empty; give one number per hop")
        if self.text.model == "none" and (self.graph.family != "none" or self._reads_text()):
            problem = "the graph tower and every objective but 'relation' need a text tower; switch them off"
            raise InputError(f"recipe key 'text.model' is 'none': {problem}")
        self._refuse_what_would_do_nothing()

    def _refuse_what_would_do_nothing(self) -> None:
        """A key that the chosen way of training does not read would stand in the model card as if it had counted."""
        relation, weights = self.relation, self.objectives
        if relation.sampler != "basic" and relation.sampling != "independent":
            problem = f"a sampler serves 'relation.sampling' 'independent', which is {relation.sampling!r}"
            raise InputError(f"recipe key 'relation.sampler' is {relation.sampler!r}: {problem}")
        if self.text.model != "none":
            for key, value, idle in (
                ("sampling", relation.sampling, "shared"),
                ("label_smoothing", relation.label_smoothing, 0),
                ("n3", relation.n3, 0),
            ):
                if value != idle:
                    problem = f"it is for free vectors (text.model='none'); with a text tower set it to {idle!r}"
                    raise InputError(f"recipe key 'relation.{key}' is {value!r}: {problem}")
        if weights.text_pairs:
            for key in ("synonym", "definition", "relation", "alignment"):
                if getattr(weights, key):
                    problem = "'objectives.text_pairs' is a way of training of its own; set one of the two to 0"
                    raise InputError(f"recipe key 'objectives.{key}' is {getattr(weights, key)}: {problem}")
            if not self.train.text_pairs:
                problem = "'objectives.text_pairs' draws none then; 1 or more"
                raise InputError(f"recipe key 'train.text_pairs' is 0: {problem}")

    @property
    def takes_turns(self) -> bool:
        """Whether texts are learnt first and facts after."""
        weights = self.objectives
        aligns = weights.alignment and self.graph.family != "none"
        return bool(self.train.fact_steps and self.text.model != "none" and (weights.relation or aligns))

    def _reads_text(self) -> bool:
        weights = self.objectives
        return bool(weights.synonym or weights.definition or weights.alignment or weights.text_pairs)
