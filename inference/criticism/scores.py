"""Scores of a predictive distribution, on rows where y is known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import jax
import numpy as np

from ..labels import observations, with_gaps
from ..predictive import Predictive
from ..rows import Rows, count_rows
from ..several import Several

OF = " of "
"""What stands between a score and the observed site that it is of, where there are several."""
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
    """The ends of the interval in which the probability integral transform of y is uniform, (n, ..., 2), where y has a
    cdf; see `Predictive.pit`."""
    crps: np.ndarray | None = None
    """The continuous ranked probability score of each value of y, (n, ...), where y has a cdf and is not censored."""
    rps: np.ndarray | None = None
    """The ranked probability score, (n,), where y is one of several ordered classes."""
    num_tokens: np.ndarray | None = None
    """The number of tokens without padding, (n,), where y is a row of tokens."""
    weights: np.ndarray | None = None
    """The number of equal rows that each row counts as, (n,), from 0, whole or not; None where each counts once."""
    sites: Mapping[str, "Forecast"] = field(default_factory=dict)
    """The forecast of each of several observed sites; rows without its y count 0 times there."""

    @classmethod
    def of(cls, predictive: Predictive, y: Rows) -> Self:
        """Return the forecast of y, n rows, as `as_rows` returns them."""
        log_prob, leaves = predictive.log_prob(y), jax.tree.leaves(y)
        response = predictive.response
        if isinstance(response, Several):
            sites = {part.site: _of_site(predictive[part.site], y[part.site]) for part in response.parts}
            return cls(log_prob=log_prob, sites=sites)
        if len(leaves) > 1:  # only the model knows which leaf the site observes
            return cls(log_prob=log_prob)
        known: dict[str, Any] = {"log_prob": log_prob, "y": np.asarray(leaves[0])}
        if response.is_class:
            probs = predictive.class_probs
            known["rps"] = ranked_probability_score(probs, known["y"]) if "cdf" not in response.missing else None
            return cls(**known, probs=probs)
        known["num_tokens"] = response.count_tokens(known["y"])
        if response.has_cdf:
            known["transform"] = np.stack(predictive.pit(y), axis=-1)
        if response.has_distances(known["y"]):
            known["mean"] = predictive.mean if response.has_moments else None
            known["crps"] = predictive.crps(y) if response.has_cdf else None
        return cls(**known)

    @classmethod
    def joined(cls, parts: Sequence["Forecast"], order: np.ndarray) -> Self:
        """Return the concatenated rows of several forecasts of one kind, in the given order, (n,)."""
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            values = [getattr(part, name) for part in parts]
            columns[name] = None if values[0] is None else np.concatenate(values)[order]
        sites = {site: cls.joined([part.sites[site] for part in parts], order) for site in parts[0].sites}
        return cls(**columns, sites=sites)

    def rows(self, chosen: Any) -> "Forecast":
        """Return the forecast of some of the rows."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        some = {name: values[chosen] for name, values in columns.items() if values is not None}
        return replace(self, **some, sites={site: each.rows(chosen) for site, each in self.sites.items()})

    def _scores_of(self, site: str) -> dict[str, float]:
        """Return elpd and the other scores of one of several observed sites."""
        part = self.sites[site]
        counted = part if self.weights is None else replace(part, weights=self.weights * part.weights)
        if counted.weights is not None and not counted.weights.any():
            return {}
        return {"elpd": mean(counted.log_prob, counted.weights), **counted.scores()}

    def replicated(self) -> "Forecast":
        """Return the forecast in which each row occurs as often as it counts; the weights must be whole numbers."""
        if self.weights is None:
            return self
        return replace(self.rows(np.repeat(np.arange(len(self.weights)), self.weights.astype(int))), weights=None)

    def scores(self) -> dict[str, float]:
        """Return the scores other than elpd, by the kind of y; `compare` defines them.

        Of several observed sites they are those of each, with the name of the site, and its elpd.
        """
        if self.sites:
            return {f"{name}{OF}{site}": value for site in self.sites for name, value in self._scores_of(site).items()}
        if self.weights is not None and not self.weights.all():
            return self.rows(self.weights > 0).scores()  # a row without a label may have a score of NaN
        if self.y is None:
            return {}
        if self.probs is not None:
            ranked = {} if self.rps is None else {"rps": mean(self.rps, self.weights)}
            return _class_scores(self.probs, self.y, self.weights) | ranked
        if self.num_tokens is not None:
            nats = mean(self.log_prob, self.weights) / mean(self.num_tokens, self.weights)
            return {"bits_per_token": -nats / math.log(2)}
        scores = {}
        if self.mean is not None:
            scores["rmse"] = math.sqrt(mean(*self._elements((self.mean - self.y) ** 2)))
        if self.crps is not None:
            scores["crps"] = mean(*self._elements(self.crps))
        if self.transform is not None:
            low, high = (self._elements(ends) for ends in np.moveaxis(self.transform, -1, 0))
            transform, weights = np.stack([low[0], high[0]], axis=-1), low[1]
            scores["coverage"] = mean(share_inside(transform, INTERVAL), weights)
            scores["calibration_error"] = interval_calibration_error(transform, weights)
        return scores

    def _elements(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of all elements of y that are known, (m,), from (n, ...), and how often each counts."""
        weights = np.ones(len(values)) if self.weights is None else self.weights
        weights = np.broadcast_to(weights.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)
        y = np.asarray(self.y, float)
        is_known = ~np.isnan(y) if y.shape == values.shape else np.ones(values.shape, bool)
        return values[is_known], weights[is_known]


def _truth(probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return probabilities of the classes for labels, (n,), or soft labels, (n, K)."""
    return np.eye(probs.shape[1])[y.astype(int)] if y.ndim == 1 else y


def ranked_probability_score(probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``sum over k of (P(Y <= k) - [y <= k])^2``, (n,), from probabilities of ordered classes, (n, K).

    It is between 0 and K - 1 (Epstein 1969, as Murphy 1971 writes it).
    """
    return ((probs - _truth(probs, y)).cumsum(axis=1) ** 2).sum(axis=1)


def share_inside(transform: np.ndarray, level: float) -> np.ndarray:
    """Return how much of the interval of each transform, (m, 2), lies in the central interval of a level, (m,).

    It is the probability with which a transform drawn from its interval would lie there, and so has the mean `level`
    where the predictions are right, also for discrete y.
    """
    low, high = np.moveaxis(transform, -1, 0).astype(float)
    start, end = (1 - level) / 2, (1 + level) / 2
    overlap, width = np.clip(np.minimum(high, end) - np.maximum(low, start), 0.0, None), high - low
    return np.where(width > 0, overlap / np.where(width > 0, width, 1.0), np.abs(low - 0.5) <= level / 2)


COLUMNS = tuple(field.name for field in fields(Forecast) if field.name != "sites")
"""The values of a forecast that have one entry per row."""


def _of_site(predictive: Predictive, y: Rows) -> Forecast:
    """Return the forecast of one of several observed sites, in which rows without its y count 0 times.

    They have the y of another row, or one that is drawn, which the scores do not see.
    """
    if all(np.isnan(np.asarray(leaf, float)).all() for leaf in jax.tree.leaves(y)):
        return replace(Forecast.of(predictive, predictive.sample(0)), weights=np.zeros(count_rows(y)))
    whole, known = observations("y", y)
    if known is None:
        return replace(Forecast.of(predictive, whole), weights=np.ones(count_rows(whole)))
    has_y = np.logical_or.reduce([leaf.reshape(len(leaf), -1).any(axis=1) for leaf in jax.tree.leaves(known)])
    known = jax.tree.map(lambda leaf: leaf | ~has_y.reshape(-1, *(1,) * (leaf.ndim - 1)), known)
    return replace(Forecast.of(predictive, with_gaps(whole, known)), weights=has_y.astype(float))


def _class_scores(probs: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    truth = _truth(probs, y)
    chosen, label = probs.argmax(axis=1), truth.argmax(axis=1)
    return {
        "accuracy": mean(chosen == label, weights),
        "brier": mean(((probs - truth) ** 2).sum(axis=1), weights),
        "calibration_error": confidence_calibration_error(probs.max(axis=1), chosen == label, weights),
    }


def confidence_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return the mean of |confidence - accuracy| over bins of equal count, from arrays (n,).

    With weights the bins are those of the replicated rows, so that a row may lie in several.
    """
    order = np.argsort(confidence, kind="stable")
    weights = np.ones(len(order)) if weights is None else weights[order].astype(float)
    counts = np.append(0.0, np.cumsum(weights))
    errors = np.append(0.0, np.cumsum(weights * (confidence[order].astype(float) - correct[order])))
    ends = np.interp(_ends_of_bins(counts[-1]), counts, errors)
    return float(np.abs(np.diff(ends)).sum() / counts[-1])


def _ends_of_bins(num_rows: float) -> np.ndarray:
    """Return where bins of equal count begin and end among the rows, from 0: those of `equal_bins`."""
    num_bins = max(1, min(NUM_BINS, int(num_rows)))
    small, larger = divmod(int(num_rows), num_bins)
    bins = np.arange(num_bins)
    return np.append(bins * small + np.minimum(bins, larger), num_rows)


def equal_bins(forecast: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Return the indices of rows in bins of equal count, ordered by their forecasts, (n,)."""
    return np.array_split(np.argsort(forecast, kind="stable"), num_bins)


def interval_calibration_error(transform: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean of |coverage - probability| of central intervals, from the intervals of transforms, (n, 2)."""
    levels = np.arange(1, 10) / 10
    coverage = [mean(share_inside(transform, level), weights) for level in levels]
    return float(np.abs(coverage - levels).mean())


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean over rows, (n, ...), that count as often as their weights, (n,); summed in float64.

    Rows of weight 0 add nothing, whatever their values. NaN where no row counts.
    """
    values, weights = _counted(values, weights)
    if not len(values):
        return math.nan
    return float(np.average(values.mean(axis=tuple(range(1, values.ndim))), weights=weights))


def standard_error(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the standard error of the mean of independent values, (n,), that count as often as their weights, (n,).

    It is that of the replicated values: for weights that sum to N, ``sqrt(sum_i w_i (v_i - mean)^2 / (N - 1) / N)``.
    NaN for a single row, or where a value that counts is not finite.
    """
    values, weights = _counted(values, weights)
    total = weights.sum()
    if total <= 1 or not np.isfinite(values).all():
        return math.nan
    squares = weights @ (values - np.average(values, weights=weights)) ** 2
    return float(math.sqrt(squares / (total - 1) / total))


def _counted(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the rows that count, and their weights, in float64."""
    values = np.asarray(values).astype(float)
    if weights is None:
        return values, np.ones(len(values))
    return values[weights > 0], weights[weights > 0].astype(float)
