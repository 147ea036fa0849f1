"""Fits of one data set, held against the same rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..checks import as_rows
from ..density import count_rows
from ..predictive import Predictive
from ..result import Fit

INTERVAL = 0.9
"""Probability of the central interval whose coverage is reported."""
NUM_BINS = 10
"""Bins of equal count of the calibration error."""

COLUMNS = {
    "log_density": ("log density", "{:.3f}"),
    "log_density_se": ("se", "{:.3f}"),
    "bits": ("bits", "{:.3f}"),
    "difference": ("to best", "{:.3f}"),
    "difference_se": ("se", "{:.3f}"),
    "rmse": ("RMSE", "{:.4g}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "brier": ("Brier", "{:.4f}"),
    "coverage": ("90% covers", "{:.1%}"),
    "calibration_error": ("calibration error", "{:.3f}"),
    "kind": ("kind", "{}"),
    "status": ("status", "{}"),
    "seconds_compile": ("compile s", "{:.1f}"),
    "seconds_run": ("run s", "{:.1f}"),
}
"""Column -> (heading, format) of the printed table."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The scores of several fits on the same rows, best first; see `compare`. Prints as a table."""

    table: pd.DataFrame
    """One row a fit."""
    log_probs: Mapping[str, np.ndarray]
    """Fit -> log predictive density of each row in nats, (n,)."""
    notes: tuple[str, ...]
    """What is to be said below the table: units, and the reasons of statuses that are not ok."""

    def to_dataframe(self) -> pd.DataFrame:
        """The scores, unrounded, one row a fit; `compare` describes the columns."""
        return self.table.copy()

    def __str__(self) -> str:
        return "\n".join([self._formatted().to_string(), "", *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        notes = "<br>".join(note.replace("&", "&amp;").replace("<", "&lt;") for note in self.notes)
        return f"{self._formatted().to_html(border=0)}<p>{notes}</p>"

    def _formatted(self) -> pd.DataFrame:
        cells = {
            column: self.table[column].map(form.format) for column, (_, form) in COLUMNS.items() if column in self.table
        }
        frame = pd.DataFrame(cells)
        return frame.set_axis([COLUMNS[column][0] for column in cells], axis=1)


def compare(fits: Mapping[str, Fit], x: Any, y: Any) -> Comparison:
    """Score fits on rows that none of them has seen.

    The table has a row a fit, the highest log density first:

    - ``log_density``: log p(y | x, data) of the predictive distribution, the mean over rows, in nats a row; its
      standard error in ``log_density_se``; ``bits`` is the same as a code length in bits a row, its negative / log 2.
    - ``difference``: log density minus that of the best fit, and the standard error of this paired difference in
      ``difference_se``: rows that are hard are hard for all fits, so it is smaller than the errors of the two.
    - ``rmse`` of the predictive mean in units of y and ``coverage`` of the central 90% interval; or ``accuracy`` of the
      most probable class and ``brier``, the mean over rows of sum_k (p_k - [y = k])^2 (Brier 1950; from 0 to 2).
    - ``calibration_error``: for classes the mean over 10 bins of equal count of |confidence - accuracy| of the most
      probable class (Naeini et al. 2015), for numbers the mean over nine central intervals, of 10% to 90%, of
      |coverage - probability|. Both are biased upwards by about 1 / sqrt(rows in a bin).
    - ``kind``, ``status``, ``seconds_compile`` and ``seconds_run`` of the fit.

    Args:
        fits: name -> fit. All have the same observed site.
        x: n rows.
        y: n rows.

    Raises:
        TypeError, ValueError: when there is no fit, one is not a fit, or x and y are not rows like those of the fits.
    """
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(f"compare: expected a mapping from names to fits, such as {{'MLE': fit(...)}}; got {fits!r}.")
    for name, fit in fits.items():
        if not isinstance(fit, Fit):
            raise TypeError(f"compare: expected {name!r} to be a fit; got {fit!r}.")
    x, y = as_rows("x", x), as_rows("y", y)
    rows: dict[str, dict[str, Any]] = {}
    log_probs = {}
    for name, fit in fits.items():
        predictive = fit.predict(x)
        log_probs[name] = predictive.log_prob(y)
        rows[name] = {
            "log_density": _mean(log_probs[name]),
            "log_density_se": _standard_error(log_probs[name]),
            "bits": -_mean(log_probs[name]) / math.log(2),
            **_scores(predictive, y),
            "kind": fit.kind,
            "status": fit.status.level,
            "seconds_compile": fit.seconds.compile,
            "seconds_run": fit.seconds.run,
        }
    best = max(rows, key=lambda name: np.nan_to_num(rows[name]["log_density"], nan=-np.inf))
    for name, row in rows.items():
        difference = log_probs[name] - log_probs[best]
        row["difference"], row["difference_se"] = _mean(difference), _standard_error(difference)
    table = pd.DataFrame(list(rows.values()), index=list(rows))
    table = table[[column for column in COLUMNS if column in table]]
    table = table.sort_values("log_density", ascending=False, kind="stable")
    notes = [f"{count_rows(x)} rows. Log density in nats a row of the predictive distribution; se: standard error."]
    notes += [f"{name}: {fit.status}" for name, fit in fits.items() if fit.status.level != "ok"]
    return Comparison(table, log_probs, tuple(notes))


def _scores(predictive: Predictive, y: Any) -> dict[str, float]:
    """What is asked of the predictive distribution beside its log density, by the kind of y."""
    if predictive.is_finite:
        return _class_scores(predictive.probs, np.asarray(y))
    try:
        mean = predictive.mean
    except NotImplementedError:
        return {}
    scores: dict[str, float] = {"rmse": math.sqrt(_mean((mean - np.asarray(y)) ** 2))}
    try:
        transform = predictive.cdf(y)
    except NotImplementedError:
        return scores
    if predictive.structure.support.is_discrete:
        return scores  # a discrete transform is not uniform even where the fit is right
    return {
        **scores,
        "coverage": float((np.abs(transform - 0.5) <= INTERVAL / 2).mean()),
        "calibration_error": interval_calibration_error(transform),
    }


def _class_scores(probs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    probs = np.stack([1 - probs, probs], axis=1) if probs.ndim == 1 else probs
    truth = np.eye(probs.shape[1])[y.astype(int)] if y.ndim == 1 else y
    chosen, label = probs.argmax(axis=1), truth.argmax(axis=1)
    return {
        "accuracy": float((chosen == label).mean()),
        "brier": float(((probs - truth) ** 2).sum(axis=1).mean()),
        "calibration_error": confidence_calibration_error(probs.max(axis=1), chosen == label),
    }


def confidence_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The mean of |confidence - accuracy| over bins of equal count, (n,) and (n,)."""
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(NUM_BINS, len(order)))
    return float(sum(abs((confidence[rows] - correct[rows]).sum()) for rows in bins) / len(order))


def interval_calibration_error(transform: np.ndarray) -> float:
    """The mean of |coverage - probability| of central intervals, from the probability integral transform, (n,)."""
    levels = np.arange(1, 10) / 10
    coverage = (np.abs(transform - 0.5)[:, None] <= levels / 2).mean(axis=0)
    return float(np.abs(coverage - levels).mean())


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64))


def _standard_error(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1, dtype=np.float64) / math.sqrt(len(values)))
