"""What a MODEL needs for use beyond its weights: input check, calibration, and what its training reports spoke of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlp.config import VlpRecipe
from vlp.data.prepared import PreparedData
from vlp.denial import Denial, answer_normal
from vlp.evaluation.calibration import CALIBRATION_FILE, Calibration, fit_calibration, query_key, save_calibration
from vlp.evaluation.training_mentions import write_training_films, write_training_mentions
from vlp.input_check import fit_input_check, inverted_features, write_input_check
from vlp.knowledge import AskedConcept
from vlp.towers import ImageTower
from vlp.types import TargetValue


def write_for_use(
    folder: Path,
    data: PreparedData,
    asked: tuple[Sequence[AskedConcept], Denial | None],
    features: tuple[Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
) -> None:
    """Write input check, calibration, and what reports and films were learnt from, into a MODEL folder.

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
    write_training_films(folder, data)
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


def look_at_inverted(tower: ImageTower, data: PreparedData, recipe: VlpRecipe, device: torch.device) -> Tensor:
    """Patch features of some training films with black and white exchanged: float16 [k, Hp, Wp, D]."""
    films = data.films(data.study_ids("train"), frontal_only=recipe.frontal_only)
    return torch.from_numpy(inverted_features(tower, data, films, recipe.tower, device))
