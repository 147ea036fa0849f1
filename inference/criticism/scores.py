"""Scores of a predictive distribution, on rows where y is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import jax
import numpy as np

from ..predictive import Predictive
from ..rows import Rows

INTERVAL = 0.9
"""Probability of the central interval whose coverage is reported."""
NUM_BINS = 10
"""The number of bins of equal count of the calibration error."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Forecast:
    """The predictions of rows where y is known: everything that scores are computed from."""

    log_prob: np.ndarray
    """Log predictive density in nats, (n,)."""
    y: np.ndarray | None = None
    """The observed values, (n, ...); None where y is a pytree of several arrays."""
    probs: np.ndarray | None = None
    """p(y = k), (n, num_classes), where y is one of a finite set."""
    mean: np.ndarray | None = None
    """E[y], shaped as y, where it exists."""
    transform: np.ndarray | None = None
    """P(Y <= y), shaped as y, where y is continuous and has a cdf."""
    num_tokens: np.ndarray | None = None
    """The number of tokens without padding, (n,), where y is a row of tokens."""

    @classmethod
    def of(cls, predictive: Predictive, y: Rows) -> Self:
        """Return the forecast of y, n rows, as `as_rows` returns them."""
        log_prob, leaves = predictive.log_prob(y), jax.tree.leaves(y)
        if len(leaves) > 1:  # only the model knows which leaf the site observes
            return cls(log_prob=log_prob)
        known: dict[str, Any] = {"log_prob": log_prob, "y": np.asarray(leaves[0])}
        response = predictive.response
        if response.is_class:
            return cls(**known, probs=predictive.class_probs)
        known["num_tokens"] = response.count_tokens(known["y"])
        if response.has_moments:
            known["mean"] = predictive.mean
            if response.has_uniform_transform:
                known["transform"] = predictive.cdf(y)
        return cls(**known)

    @classmethod
    def joined(cls, parts: Sequence["Forecast"], order: np.ndarray) -> Self:
        """Return the concatenated rows of several forecasts of one kind, in the given order, (n,)."""
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            columns[field.name] = None if values[0] is None else np.concatenate(values)[order]
        return cls(**columns)

    def rows(self, chosen: Any) -> "Forecast":
        """Return the forecast of some of the rows."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: values[chosen] for name, values in columns.items() if values is not None})

    def scores(self) -> dict[str, float]:
        """Return the scores other than elpd, by the kind of y; `compare` defines them."""
        if self.y is None:
            return {}
        if self.probs is not None:
            return _class_scores(self.probs, self.y)
        if self.num_tokens is not None:
            return {"bits_per_token": -float(self.log_prob.sum(dtype=np.float64) / self.num_tokens.sum()) / math.log(2)}
        if self.mean is None:
            return {}
        scores = {"rmse": math.sqrt(mean((self.mean - self.y) ** 2))}
        if self.transform is not None:
            scores["coverage"] = float((np.abs(self.transform - 0.5) <= INTERVAL / 2).mean())
            scores["calibration_error"] = interval_calibration_error(self.transform)
        return scores


def _class_scores(probs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    truth = np.eye(probs.shape[1])[y.astype(int)] if y.ndim == 1 else y
    chosen, label = probs.argmax(axis=1), truth.argmax(axis=1)
    return {
        "accuracy": float((chosen == label).mean()),
        "brier": float(((probs - truth) ** 2).sum(axis=1).mean()),
        "calibration_error": confidence_calibration_error(probs.max(axis=1), chosen == label),
    }


def confidence_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the mean of |confidence - accuracy| over bins of equal count, from two arrays (n,)."""
    bins = equal_bins(confidence, min(NUM_BINS, len(confidence)))
    return float(sum(abs((confidence[rows] - correct[rows]).sum()) for rows in bins) / len(confidence))


def equal_bins(forecast: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Return the indices of rows in bins of equal count, ordered by their forecasts, (n,)."""
    return np.array_split(np.argsort(forecast, kind="stable"), num_bins)


def interval_calibration_error(transform: np.ndarray) -> float:
    """Return the mean of |coverage - probability| of central intervals, from the transform P(Y <= y), (n,)."""
    levels = np.arange(1, 10) / 10
    coverage = (np.abs(transform - 0.5)[:, None] <= levels / 2).mean(axis=0)
    return float(np.abs(coverage - levels).mean())


def mean(values: np.ndarray) -> float:
    """Return the mean, summed in float64."""
    return float(values.mean(dtype=np.float64))


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values, (n,); NaN for n = 1, or a value not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1, dtype=np.float64) / math.sqrt(len(values)))
