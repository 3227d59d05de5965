"""From DATA and ENCODER to tensors: what is asked, what the reports say, what the films show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgkit.interface import InputError, load_encoder, load_findings
from vlp.config import TrainConfig
from vlp.data.prepared import PreparedData
from vlp.data.targets import choose_concepts, close_targets, report_states
from vlp.features import cache_features
from vlp.knowledge import AskedConcept, Knowledge
from vlp.towers import ImageTower


@dataclass(frozen=True)
class FilmSet:
    """Films of a split.

    Attributes:
        features: float16 [V, N, Hp, Wp, D], cached views.
        targets: int8 [N, Q], values of `TargetValue`.
    """

    features: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return int(self.targets.shape[0])


@dataclass(frozen=True)
class Questions:
    """What will be asked, and the answers the reports give.

    Attributes:
        queries: The chosen concepts.
        counts: Training studies in which each is present.
        vectors: float32 [Q, E].
        targets: Split -> study id -> int8 [Q].
        unused: Reason -> mentions of the training reports that were not used.
        encoder_digest: Of the encoder.
        licence_level: Highest licence level of anything the encoder was trained on.
    """

    queries: list[AskedConcept]
    counts: list[int]
    vectors: Tensor
    targets: dict[str, dict[str, Tensor]]
    unused: dict[str, int]
    encoder_digest: str
    licence_level: int


def choose_questions(data: PreparedData, config: TrainConfig) -> Questions:
    """Choose the queries from the training reports, and build the targets of train and val.

    Raises:
        InputError: if no training study has a film, or no concept is mentioned often enough.
    """
    encoder = load_encoder(config.encoder_dir)
    knowledge = Knowledge(encoder, load_findings())
    studies = {split: _studies_with_films(data, split, config.recipe.frontal_only) for split in ("train", "val")}
    if not studies["train"]:
        raise InputError("no study of the train split has a film to train on", config.data_dir)
    reports = report_states(data.mentions, studies["train"], knowledge)
    chosen = choose_concepts(reports, config.recipe.targets, knowledge)
    if not chosen:
        raise InputError(
            f"no concept is present in {config.recipe.targets.min_count} or more of the "
            f"{len(studies['train'])} training reports; mentions left out: "
            f"{reports.unused or 'none'}; lower targets.min_count",
            config.data_dir / "mentions.parquet",
        )
    concepts = list(chosen)
    targets = {}
    for split, ids in studies.items():
        states = reports if split == "train" else report_states(data.mentions, ids, knowledge)
        rows = torch.from_numpy(close_targets(states, concepts, knowledge))
        targets[split] = dict(zip(ids, rows, strict=True))
    queries = [knowledge.ask(concept) for concept in concepts]
    vectors = torch.from_numpy(knowledge.vectors(queries))
    level = int(encoder.manifest.get("licence_level", 0))
    return Questions(queries, list(chosen.values()), vectors, targets, reports.unused, encoder.digest, level)


def load_films(
    data: PreparedData, questions: Questions, tower: ImageTower, config: TrainConfig, device: torch.device
) -> tuple[FilmSet, FilmSet]:
    """Cache the features of the train and val films and set their targets beside them."""
    sets = []
    for split, views in (("train", config.recipe.tower.views), ("val", 1)):
        of_study = questions.targets[split]
        films = data.films(list(of_study), frontal_only=config.recipe.frontal_only)
        features = cache_features(tower, data, films, config.recipe.tower, views=views, device=device)
        rows = [of_study[study_id] for study_id in films["study_id"]]
        empty = torch.empty((0, len(questions.queries)), dtype=torch.int8)
        sets.append(FilmSet(features, torch.stack(rows) if rows else empty))
    return sets[0], sets[1]


def _studies_with_films(data: PreparedData, split: str, frontal_only: bool) -> list[str]:
    if split not in set(data.splits["split"].to_list()):
        return []
    films = data.films(data.study_ids(split), frontal_only=frontal_only)
    return films["study_id"].unique().sort().to_list()
