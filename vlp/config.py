"""The vlp recipe: every number that shapes a training run, with its unit; read from TOML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kgkit.interface import Count, Fraction, InputError, Positive, Seed, load_recipe

VectorKind = Literal["concept", "text", "shuffled", "random"]


@dataclass(frozen=True)
class TowerConfig:
    """The image tower.

    Attributes:
        name: `efficientnet-lite0`, or a transformers folder or hub id.
        stride: Wanted pixels per patch where the tower is a pyramid.
        trained_blocks: Last blocks that are trained; 0 freezes the tower, so that its features are computed once;
            -1 trains all of it.
        learning_rate: Of the trained blocks, relative to that of the rest.
        input_size: Side of the square the film is fitted into, pixels.
        views: Ways a film is looked at, the first as it is; patch features of all of them are cached. A tower that is
            trained sees the films themselves, so that hundreds cost nothing.
        augmentation: The other views: `moves`, small shifts, zooms and rotations, never a flip (left and right
            matter on a chest film); `kad`, large crops, flips and RandAugment as KAD has them.
        batch_size: Films per forward pass while caching.
        precision: Arithmetic of the frozen tower; bf16 is about twice as fast on a CPU that has it.
    """

    name: str = "efficientnet-lite0"
    stride: Literal[8, 16, 32] = 16
    trained_blocks: Annotated[int, Field(ge=-1)] = 0
    learning_rate: Positive = 0.1
    input_size: Annotated[int, Field(ge=32, le=2048)] = 256
    views: Count = 4
    augmentation: Literal["moves", "kad"] = "moves"
    batch_size: Count = 8
    precision: Literal["fp32", "bf16"] = "bf16"


@dataclass(frozen=True)
class ModelConfig:
    """The query network.

    Attributes:
        width: Channels of its layers.
        heads: Attention heads; divides `width`.
        layers: Decoder layers.
        feedforward: Hidden channels of each feed-forward block.
        dropout: Probability.
        patch_dropout: Probability of leaving out a patch in training.
        query_self_attention: Whether queries see each other. If so a score depends on what else was asked
            (KAD; with method `kad` it is always so).
        position_encoding: Whether attention sees 2-D sin-cos positions of the patches.
        joint_dim: Dimension of the space in which films and reports are contrasted.
    """

    width: Annotated[int, Field(ge=8, multiple_of=4)] = 128
    heads: Count = 4
    layers: Count = 2
    feedforward: Count = 256
    dropout: Fraction = 0.1
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    query_self_attention: bool = False
    position_encoding: bool = True
    joint_dim: Count = 128


@dataclass(frozen=True)
class TargetConfig:
    """Which concepts become queries, and as which vectors.

    Attributes:
        queries: `frequent`: what the training reports say often enough; `kad`: the 41 queries of KAD.
        closure: Whether a present concept makes its is-a ancestors present and an absent one its descendants absent.
        vectors: What a query is asked with: its `concept` vector, the `text` vector of its words, or, as controls of
            what the vectors are worth, the vector of another concept (`shuffled`) or a `random` one.
        ask_broader: Whether a concept that training never heard of is asked with what is broader than it and was
            taught, beside its own vector.
        deny_findings: Whether `normal` is answered by what all findings answer, with the sign turned (vlp/denial.py).
        synonym_rate: Probability that a training step asks a concept with the text vector of one of its names.
        min_count: Training studies in which a concept is present (after closure) to make it a query.
        max_fraction: An ancestor that no report names is left out if more than this part of the studies have it.
        max_overlap: Likewise if the studies that have it are those of another query, by their Jaccard index.
    """

    queries: Literal["frequent", "kad"] = "frequent"
    closure: bool = True
    vectors: VectorKind = "concept"
    ask_broader: bool = True
    deny_findings: bool = True
    synonym_rate: Fraction = 0.0
    min_count: Count = 10
    max_fraction: Fraction = 0.5
    max_overlap: Fraction = 0.8


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    Attributes:
        unmentioned_weight: Weight of an unmentioned concept as a negative, 0 (masked) to 1 (as good as
            denied).
        uncertain_weight: Weight of an uncertain concept as a negative; 0 masks it, 1 is what KAD does.
        positive_weight: Weight of a present concept relative to an absent one.
        class_balance: Exponent of the rarity of a concept in its positive weight: 0 weighs all positives alike, 1
            gives each concept's positives the weight of its negatives.
        sentence_weight: Weight of the loss on sentences asked as queries; 0 turns it off.
        local_weight: Weight of the query loss of the local reader alone, which makes its map mean something.
        contrast_weight: Weight of the film-report contrast beside the query loss; 0 turns it off.
        contrast_scale: Logit scale of the contrast.
        text_queries: For method `kad`: the queries are asked of the report's entity text too, and its loss is added
            (`sum`, its code), or either film or text is asked, a coin is tossed (`mix`, its paper), or `off`.
    """

    unmentioned_weight: Fraction = 0.5
    uncertain_weight: Fraction = 0.0
    positive_weight: Positive = 1.0
    class_balance: Fraction = 0.0
    sentence_weight: Annotated[float, Field(ge=0)] = 0.0
    local_weight: Annotated[float, Field(ge=0)] = 0.5
    contrast_weight: Annotated[float, Field(ge=0)] = 0.2
    contrast_scale: Positive = 10.0
    text_queries: Literal["off", "sum", "mix"] = "sum"


@dataclass(frozen=True)
class OptimizerConfig:
    """The loop.

    Attributes:
        epochs: Passes over the training films, at most.
        cpu_minutes: Processor time after which training stops, whatever `epochs` says; 0 for no limit. The rate falls
            with the time used, and the last epoch may be cut short. A resumed run counts on.
        batch_size: Films per step and process.
        learning_rate: Peak of the cosine schedule of AdamW.
        lowest_rate: Where the warm-up starts and the cosine ends; below the peak.
        weight_decay: Of AdamW; none on biases, norms and other vectors.
        warmup: Part of all steps in which the rate rises linearly.
        gradient_clip: Largest global norm of the gradient.
        ema_decay: Decay per step of the moving average of the weights that is evaluated and saved; 0 turns it
            off.
        patience: Epochs without a better validation loss before stopping; 0 never stops early.
        mixed_precision: As in accelerate.
    """

    epochs: Count = 15
    cpu_minutes: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Count = 32
    learning_rate: Positive = 5e-4
    lowest_rate: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    warmup: Fraction = 0.1
    gradient_clip: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    patience: Annotated[int, Field(ge=0)] = 5
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(frozen=True)
class VlpRecipe:
    """All of it.

    Attributes:
        method: `query`: concepts ask patches (vlp/model.py); `kad`: as KAD's code does it (vlp/kad.py); `clip`: films
            and reports are contrasted, nothing else (vlp/clip.py).
        seed: Of weights, order and views.
        frontal_only: Whether lateral films are left out of training and evaluation.
    """

    method: Literal["query", "kad", "clip"] = "query"
    seed: Seed = 0
    frontal_only: bool = True
    tower: TowerConfig = field(default_factory=TowerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.model.width % self.model.heads:
            problem = f"it does not divide 'model.width', which is {self.model.width}"
            raise InputError(f"recipe key 'model.heads' is {self.model.heads}: {problem}")
        rates = self.optimizer
        if rates.lowest_rate > rates.learning_rate:
            problem = f"expected at most 'optimizer.learning_rate', which is {rates.learning_rate:g}"
            raise InputError(f"recipe key 'optimizer.lowest_rate' is {rates.lowest_rate:g}: {problem}")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run.

    Attributes:
        data_dir: DATA folder made by `vlp prepare`.
        encoder_dir: ENCODER folder; its vectors are the queries.
        out_dir: MODEL folder to make.
        recipe: Everything else.
        resume: Continue a stopped run found in `<out_dir>.partial`.
    """

    data_dir: Path
    encoder_dir: Path
    out_dir: Path
    recipe: VlpRecipe
    resume: bool = False


def load_vlp_recipe(name: str, overrides: Sequence[str] = ()) -> VlpRecipe:
    """A bundled recipe by name or a TOML file, with `key=value` overrides; see `load_recipe`."""
    return load_recipe(VlpRecipe, "vlp", name, overrides)
