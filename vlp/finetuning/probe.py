"""A regularised logistic regression per finding on fixed features: the linear probe, and the start of finetuning.

Pure: arrays in, arrays out. One strength of the regularisation serves all findings: the one with the lowest log loss on
validation rows. On 267 validation films of Open-i, where most findings have fewer than ten positives, a strength of its
own for each finding cost .01 of macro AUROC on test, and the strength with the best validation AUROC up to .03; the log
loss stayed within .01 of the best there was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from kgkit.interface import BoolArray, DoubleArray

STRENGTHS: tuple[float, ...] = tuple(10.0 ** (step / 2) for step in range(-8, 3))
"""Inverse regularisation C, from 1e-4 to 10."""
DEFAULT_STRENGTH = 0.01
"""Where there are no validation rows."""
_MAX_ITERATIONS = 300


@dataclass(frozen=True)
class Probe:
    """Fitted regressions.

    Attributes:
        mean: float64 [K], subtracted from the features.
        std: float64 [K], divisor; 1 where a feature never changed.
        weights: float64 [K, F]; NaN in the columns of findings that could not be fitted.
        bias: float64 [F], likewise.
        strength: C of scikit-learn.
    """

    mean: DoubleArray
    std: DoubleArray
    weights: DoubleArray
    bias: DoubleArray
    strength: float

    @property
    def is_fitted(self) -> BoolArray:
        """Findings that had a positive and a negative row: bool [F]."""
        return ~np.isnan(self.bias)

    def scores(self, features: npt.ArrayLike) -> DoubleArray:
        """Probabilities: float [m, K] to float64 [m, F], NaN for findings that could not be fitted."""
        logits = (np.asarray(features, dtype=np.float64) - self.mean) / self.std @ self.weights + self.bias
        found: DoubleArray = 0.5 * (1 + np.tanh(0.5 * logits))
        return found


def probe_scores(
    train_x: npt.ArrayLike, train_y: npt.ArrayLike, val_x: npt.ArrayLike, val_y: npt.ArrayLike, test_x: npt.ArrayLike
) -> DoubleArray:
    """Fit on train, choose the strength on val, answer test.

    Args:
        train_x: float [n, K].
        train_y: float [n, F], 1, 0 or NaN where unknown; an unknown label leaves the row out for its finding alone.
        val_x: float [v, K]; v may be 0.
        val_y: float [v, F], likewise.
        test_x: float [m, K].

    Returns:
        float64 [m, F], probabilities; a finding without a positive or a negative training row is NaN throughout.
    """
    return fit_probe(train_x, train_y, val_x, val_y).scores(test_x)


def fit_probe(train_x: npt.ArrayLike, train_y: npt.ArrayLike, val_x: npt.ArrayLike, val_y: npt.ArrayLike) -> Probe:
    """As `probe_scores`, and keep what was fitted."""
    x, y = np.asarray(train_x, dtype=np.float64), np.asarray(train_y, dtype=np.float64)
    mean, std = (x.mean(0), x.std(0)) if len(x) else (np.zeros(x.shape[1]), np.ones(x.shape[1]))
    std = np.where(std > 0, std, 1.0)
    x = (x - mean) / std
    held_out = (np.asarray(val_x, dtype=np.float64).reshape(-1, x.shape[1]) - mean) / std
    answers = np.asarray(val_y, dtype=np.float64).reshape(len(held_out), y.shape[1])
    strengths = STRENGTHS if (~np.isnan(answers)).any() else (DEFAULT_STRENGTH,)
    weights = np.full((len(strengths), x.shape[1], y.shape[1]), np.nan)
    bias = np.full((len(strengths), y.shape[1]), np.nan)
    losses = np.full((len(strengths), y.shape[1]), np.nan)
    for finding in range(y.shape[1]):
        known, judged = ~np.isnan(y[:, finding]), ~np.isnan(answers[:, finding])
        if len(np.unique(y[known, finding])) < 2:
            continue
        fits = _path(x[known], y[known, finding] == 1, strengths)
        for row, (coefficients, intercept) in enumerate(fits):
            weights[row, :, finding], bias[row, finding] = coefficients, intercept
            if judged.any():
                logits = held_out[judged] @ coefficients + intercept
                losses[row, finding] = log_loss(answers[judged, finding], logits)
    judged_findings = ~np.isnan(losses).any(0)
    best = int(losses[:, judged_findings].mean(1).argmin()) if judged_findings.any() else _nearest_default(strengths)
    return Probe(mean, std, weights[best], bias[best], strengths[best])


def log_loss(labels: DoubleArray, logits: DoubleArray) -> float:
    """Mean negative log likelihood of labels 0/1 [n] under logits [n]."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def _path(x: DoubleArray, truth: BoolArray, strengths: tuple[float, ...]) -> Iterator[tuple[DoubleArray, float]]:
    """Coefficients and intercept for each strength, each fit begun where the last one ended."""
    model = LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=True)
    with warnings.catch_warnings():
        # few rows and little regularisation: the optimum is far away, and validation will not choose it
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in strengths:
            model.set_params(C=strength).fit(x, truth)
            yield model.coef_[0].copy(), float(model.intercept_[0])


def _nearest_default(strengths: tuple[float, ...]) -> int:
    return min(range(len(strengths)), key=lambda row: abs(strengths[row] - DEFAULT_STRENGTH))
