"""What a MODEL needs for use beyond its weights: input check, calibration, and what its training reports spoke of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kgkit.interface import InputError
from vlp.artifact import VlpModel, load_model
from vlp.config import VlpRecipe
from vlp.data.prepared import PreparedData, load_data
from vlp.data.targets import close_targets, report_states
from vlp.denial import Denial, answer_normal
from vlp.evaluation.calibration import CALIBRATION_FILE, Calibration, fit_calibration, query_key, save_calibration
from vlp.evaluation.training_mentions import write_training_mentions
from vlp.features import cache_features
from vlp.input_check import fit_input_check, inverted_features, write_input_check
from vlp.knowledge import AskedConcept
from vlp.model import film_logits
from vlp.queries import open_knowledge
from vlp.towers import ImageTower
from vlp.types import TargetValue
from vlp.views import fixed_views


def write_for_use(
    folder: Path,
    data: PreparedData,
    asked: tuple[Sequence[AskedConcept], Denial | None],
    features: tuple[Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
) -> None:
    """Write `input_check.safetensors`, `calibration.json` and `training_mentions.json` into a MODEL folder.

    No label is read: the calibration rests on what the validation reports say.

    Args:
        folder: The MODEL, or the partial folder it is made in.
        data: What it was trained on.
        asked: Its queries, [Q], and how `normal` is answered.
        features: float [n, Hp, Wp, D] of the train films and of the val films, as they are (view 0), and of some train
            films with black and white exchanged.
        validation: int8 [m, Q] targets and float [m, Q] logits of the val films; m may be 0.
    """
    train, val, inverted = (part.numpy() for part in features)
    write_input_check(folder, fit_input_check(train, val, inverted))
    write_training_mentions(folder, data)
    targets, logits = validation
    if len(targets):
        save_calibration(calibrate_on_reports(asked, targets, logits), folder / CALIBRATION_FILE)


def calibrate_on_reports(
    asked: tuple[Sequence[AskedConcept], Denial | None], targets: Tensor, logits: Tensor
) -> Calibration:
    """Calibrate to what reports say: the probability that the report of such a film calls the concept present.

    Args:
        asked: Queries, [Q], and how `normal` is answered.
        targets: int8 [m, Q], values of `TargetValue`; uncertain ones are left out, unmentioned ones are negative.
        logits: float [m, Q].
    """
    labels = (targets == TargetValue.PRESENT).double().numpy()
    labels[(targets == TargetValue.UNCERTAIN).numpy()] = np.nan
    keys = [query_key(query.concept, "") for query in asked[0]]
    answers = answer_normal(logits, *asked).double().sigmoid().numpy()
    return fit_calibration(keys, labels, answers, "what the validation reports say")


def add_to_model(model_dir: Path, data_dir: Path) -> None:
    """As `write_for_use`, for a MODEL that is already there; it looks at the films once more.

    Raises:
        InputError: if the model was not trained on these data.
    """
    model, data = load_model(model_dir), load_data(data_dir)
    if data.digest != model.manifest["data_digest"]:
        raise InputError("this model was trained on other data", data_dir)
    features, studies = zip(*(_look(model, data, split) for split in ("train", "val")), strict=True)
    knowledge = open_knowledge(model, None, wanted="the mentions of the reports")
    concepts = [query.concept for query in model.queries]
    states = report_states(data.mentions, sorted(set(studies[1])), knowledge)
    rows = dict(zip(states.study_ids, close_targets(states, concepts, knowledge), strict=True))
    targets = torch.from_numpy(
        np.array([rows[study] for study in studies[1]], dtype=np.int8).reshape(-1, len(concepts))
    )
    logits = film_logits(model.network, features[1], model.query_vectors)
    inverted = look_at_inverted(model.tower, data, model.recipe, torch.device("cpu"))
    asked = (model.queries, model.denial)
    write_for_use(model_dir, data, asked, (features[0], features[1], inverted), (targets, logits))


def look_at_inverted(tower: ImageTower, data: PreparedData, recipe: VlpRecipe, device: torch.device) -> Tensor:
    """Patch features of some training films with black and white exchanged: float16 [k, Hp, Wp, D]."""
    films = data.films(data.study_ids("train"), frontal_only=recipe.frontal_only)
    return torch.from_numpy(inverted_features(tower, data, films, recipe.tower, device))


def _look(model: VlpModel, data: PreparedData, split: str) -> tuple[Tensor, list[str]]:
    """Patch features of the films of a split, and the study of each."""
    there = split in set(data.splits["split"].to_list())
    films = data.films(data.study_ids(split) if there else [], frontal_only=model.recipe.frontal_only)
    features = cache_features(
        model.tower, data, films, model.recipe.tower, views=fixed_views(1), device=torch.device("cpu")
    )
    return features[0], films["study_id"].to_list()
