"""Calibration: the predicted probabilities of a fit against observed frequencies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..checks import check_like, check_positive_integer
from ..labels import labelled, whole_weights
from ..report import Printed, Report, columns_of
from ..result import Fit
from .bands import BAND, sum_of_events, wilson_intervals
from .scores import NUM_BINS, Forecast, equal_bins, interval_calibration_error, standard_error
from .temperature import Tempered
from .transforms import LEVELS, Transforms, transforms_of

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

QUANTITIES = "confidence", "intervals"
"""What can be compared with frequencies, beside the probability of one class."""
SEEN = "These are the rows of the fit: on rows that it has not seen it is usually less well calibrated."


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Printed):
    """The calibration of a fit on some rows; see `calibration`. Prints as a table."""

    quantity: int | Literal["confidence", "intervals"]
    """What is compared with frequencies: the confidence in the most probable class, the probability of one class, which
    is then given, or that of central intervals."""
    scores: "pd.DataFrame"
    """One row per score: ``value`` and its standard error ``se``."""
    curve: "pd.DataFrame"
    """One row per bin, or interval: the mean ``forecast``, the ``frequency``, the ``count`` of rows, the band from
    ``low`` to ``high`` that contains the frequency with probability 90% if the forecasts are right, and Wilson's 90%
    interval for the probability behind the frequency, ``wilson_low`` to ``wilson_high``."""
    rows: "pd.DataFrame"
    """One row per row of y: ``log_loss`` in nats; for classes ``forecast``, ``outcome`` and ``brier``, for intervals
    ``pit``, the probability integral transform, or ``pit_low`` and ``pit_high``, the ends of the interval in which it
    is uniform. Of two fits on the same rows, differences are paired."""
    histogram: "pd.DataFrame | None"
    """For intervals: the ``frequency`` of the transform in bins from ``left`` to ``right``, and the band as above."""
    notes: tuple[str, ...]
    """The notes below the table."""

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the scores, unrounded: one row per score, with its standard error."""
        return self.scores.copy()

    @property
    def _report(self) -> Report:
        return Report(self.scores, columns_of(self.scores, "{:.4f}"), self.notes, printed_nan=("value", "se"))


def calibration(
    fit: Fit | Tempered,
    x: Any,
    y: Any,
    *,
    label: int | None = None,
    quantity: Literal["confidence", "intervals"] | None = None,
    output: int | None = None,
    num_bins: int = NUM_BINS,
    weights: Any = None,
) -> Calibration:
    """Compare the probabilities of a fit with frequencies, on rows that it has not seen.

    Where y is a class, rows are grouped in bins of equal count by the confidence in the most probable class, or with
    `label` by the probability of that class; in each bin the mean forecast is compared with the frequency. Where y is a
    number, the probability integral transform P(Y <= y) should be uniform, and central intervals of 10%, ..., 90%
    should contain y equally often. The bands are consistency bands (Broecker & Smith 2007): the range of a frequency,
    with probability 90%, if the forecasts are right. They are exact, by the (Poisson) binomial distribution.

    Where y is discrete or a bound, its transform is uniform in an interval (`Predictive.pit`), and a row counts in a
    central interval, or in a bin of the histogram, with the share of its interval that lies there (Czado, Gneiting &
    Held 2009): the expectation over random transforms, without their noise. Bands of counts and ordered classes are
    then Normal, with the exact variance of these shares; those of a censored y are the binomial ones, which are wider
    than need be.

    Scores of classes:

    - ``log_loss``, minus the log predictive probability, in nats per row; ``accuracy``, or with `label` the
      ``frequency``.
    - ``brier``: the mean of sum_k (p_k - [y = k])^2, from 0 to 2. It is ``reliability - resolution + uncertainty +
      within`` (Murphy 1973, in bins of equal count of each p_k, summed over classes); ``within`` is the loss from
      grouping unequal forecasts in one bin (Stephenson et al. 2008), which makes the sum exact.
    - ``calibration_error``: the mean over rows of |forecast - frequency| of their bin (Naeini et al. 2015), as in
      `compare`. It is biased upwards by sampling: ``calibration_error_if_calibrated`` is its exact expectation if the
      forecasts are right, with its standard deviation in ``se``.
    - ``squared_calibration_error_debiased``: the mean of (forecast - frequency)^2 less its sampling variance (Kumar,
      Liang & Ma 2019, with the sample variance of forecast minus outcome). Its expectation is 0 if the forecasts are
      right, so it can be negative.

    Scores of numbers: ``log_loss``; ``calibration_error``, the mean over nine intervals of |coverage - probability|, as
    in `compare`; ``calibration_error_if_calibrated`` as above.

    Standard errors assume independent rows and fixed bins (delta method). Those of calibration errors and of
    ``reliability`` are too large near 0, by up to two thirds: compare ``calibration_error`` with
    ``calibration_error_if_calibrated`` there.

    Args:
        fit: a fit, by any method, or the result of `temperature_scaling`.
        x: n rows.
        y: n rows: classes, or numbers, counts or vectors whose distribution has a cdf.
        label: the class of interest; by default the most probable class of each row.
        quantity: ``"confidence"`` or ``"intervals"``; by default the first for classes. Ordered classes have both.
        output: the element of a vector y whose intervals are meant, by its index. `log_loss` is that of whole rows.
        num_bins: the number of bins of equal count, or of the histogram.
        weights: the number of equal rows that each row stands for, (n,), whole numbers; the result has these rows.

    Returns:
        The scores, the curve of frequencies against forecasts, and the values of each row.

    Raises:
        TypeError: when `fit` is neither, or `label` or confidence is asked for where y is not a class.
        ValueError: when x and y are not rows like those of the fit, `label` is not a class, `output` is not an element
            of y, or bins have fewer than 2 rows.
        NotImplementedError: when intervals are asked for, and y has no cdf.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.criticism import calibration
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x = np.zeros((10, 1))
        >>> coin = fit(Model(MLP(), Bernoulli()), MLE(), x, np.arange(10) < 8, key=0)  # predicts 0.8
        >>> reliability = calibration(coin, x, np.arange(10) < 5, num_bins=1)
        >>> print(reliability.curve[["forecast", "frequency", "low", "high"]].round(3).to_string(index=False))
         forecast  frequency  low  high
              0.8        0.5  0.6   1.0
    """
    if not isinstance(fit, Fit | Tempered):
        raise TypeError(f"calibration: expected a fit, or the result of temperature_scaling; got {fit!r}.")
    check_positive_integer("calibration", "num_bins", num_bins)
    if quantity not in (None, *QUANTITIES):
        raise ValueError(f"calibration: expected quantity to be one of {', '.join(QUANTITIES)}; got {quantity!r}.")
    fitted = fit.fit if isinstance(fit, Tempered) else fit
    was_fitted = fitted.was_fitted_to(x, y, weights)
    given = labelled(check_like(fitted.layout, x), y, weights)
    x, y, row_weights = given.scored
    predictive: Any = fit.predict(x)  # that of a tempered fit has only what classes need
    times = whole_weights("calibration", row_weights)
    response = predictive.response
    if quantity is None:
        quantity = "confidence" if response.is_class else "intervals"
    if quantity == "confidence":
        response.expect_class("calibration")
        forecast = replace(Forecast.of(predictive, y), weights=times).replicated()
        assert forecast.probs is not None
        result = _of_classes(forecast.log_prob, forecast.probs.astype(float), forecast.y, label, num_bins)
    else:
        if label is not None:
            raise TypeError(f"calibration: expected no label with intervals of y; got {label!r}.")
        transforms, log_prob, rows = transforms_of(predictive, y, output, num_bins)
        again = rows if times is None else np.repeat(rows, times[rows])
        places = np.searchsorted(rows, again)
        result = _of_transforms(log_prob[again], transforms.rows(places), num_bins)
    return replace(result, notes=(*result.notes, *given.counts.notes, *([SEEN] if was_fitted else [])))


def _of_classes(log_prob: np.ndarray, probs: np.ndarray, y: Any, label: int | None, num_bins: int) -> Calibration:
    import pandas as pd

    if y.ndim != 1:
        raise ValueError(f"y: expected classes, shape {y.shape[:1]}; got {y.shape}. Soft labels have no frequencies.")
    num_rows, num_classes = probs.shape
    if label is not None and (isinstance(label, bool) or label not in range(num_classes)):
        raise ValueError(f"calibration: expected label to be a class, 0 to {num_classes - 1}; got {label!r}.")
    if num_rows < 2 * num_bins:
        raise ValueError(
            f"calibration: expected at least 2 rows per bin, {2 * num_bins} rows; got {num_rows}. Give fewer num_bins."
        )
    truth = np.eye(num_classes)[y.astype(int)]
    chosen = probs.argmax(axis=1) if label is None else np.full(num_rows, label)
    forecast, outcome = (values[np.arange(num_rows), chosen] for values in (probs, truth))
    bins = equal_bins(forecast, num_bins)
    brier = ((probs - truth) ** 2).sum(axis=1)
    # Each is a mean over rows, so its standard error is that of a mean.
    by_row = {"log_loss": -log_prob.astype(float), "brier": brier, **_brier_terms(probs, truth, num_bins)}
    by_row["accuracy" if label is None else "frequency"] = outcome
    scores = {name: (float(values.mean()), standard_error(values)) for name, values in by_row.items()}
    curve, if_calibrated = _reliability(forecast, outcome, bins)
    error, squared = _bin_errors(forecast - outcome, bins)
    scores["calibration_error"], scores["calibration_error_if_calibrated"] = error, if_calibrated
    scores["squared_calibration_error_debiased"] = squared
    table = pd.DataFrame(scores, index=["value", "se"]).T
    rows = pd.DataFrame({"forecast": forecast, "outcome": outcome, "log_loss": by_row["log_loss"], "brier": brier})
    quantity = "confidence in the most probable class" if label is None else f"probability of class {label}"
    notes = (
        f"{num_rows} rows in {num_bins} bins of equal count by the {quantity}. log_loss in nats per row; brier, from 0 "
        f"to 2, is reliability - resolution + uncertainty + within. se: standard error.",
        _inside(curve, "bins"),
    )
    return Calibration("confidence" if label is None else int(label), table, curve, rows, None, notes)


def _of_transforms(log_prob: np.ndarray, transforms: Transforms, num_bins: int) -> Calibration:
    import pandas as pd

    covered, curve = transforms.covered(), transforms.curve()
    signed = ((covered - LEVELS) * np.sign(curve["frequency"].to_numpy() - LEVELS)).mean(axis=1)
    log_loss = -log_prob.astype(float)
    scores = {
        "log_loss": (float(log_loss.mean()), standard_error(log_loss)),
        "calibration_error": (interval_calibration_error(transforms.ends), standard_error(signed)),
        "calibration_error_if_calibrated": transforms.error_if_calibrated(),
    }
    low, high = transforms.ends.T
    pit = {"pit": low} if transforms.is_continuous else {"pit_low": low, "pit_high": high}
    notes = (
        f"{len(low)} rows; central intervals of 10%, ..., 90%. log_loss in nats per row. se: standard error.",
        _inside(curve, "coverages", transforms.band),
    )
    table, rows = pd.DataFrame(scores, index=["value", "se"]).T, pd.DataFrame({**pit, "log_loss": log_loss})
    return Calibration("intervals", table, curve, rows, transforms.histogram(num_bins), notes)


def _brier_terms(probs: np.ndarray, truth: np.ndarray, num_bins: int) -> dict[str, np.ndarray]:
    """Return the terms of the Brier score by row, (n,) each, summed over classes; the mean over rows is the term.

    The value of a row includes its part in the term's derivative, of mean zero, which the standard error needs.
    """
    names = ("reliability", "resolution", "uncertainty", "within")
    terms = {name: np.zeros(len(probs)) for name in names}
    for forecast, outcome in zip(probs.T, truth.T, strict=True):
        base = outcome.mean()
        terms["uncertainty"] += base * (1 - base) + (1 - 2 * base) * (outcome - base)
        for rows in equal_bins(forecast, num_bins):
            f, o = forecast[rows], outcome[rows]
            from_f, from_o = f - f.mean(), o - o.mean()
            gap, step = f.mean() - o.mean(), o.mean() - base
            terms["reliability"][rows] += gap**2 + 2 * gap * (from_f - from_o)
            terms["resolution"][rows] += step**2 + 2 * step * from_o
            terms["within"][rows] += from_f**2 - 2 * from_o * from_f
    return terms


def _bin_errors(errors: np.ndarray, bins: list[np.ndarray]) -> tuple[tuple[float, float], ...]:
    """Return the calibration error and the debiased squared one, each with its standard error, from errors (n,)."""
    share = np.array([len(rows) for rows in bins]) / len(errors)
    gap = np.array([errors[rows].mean() for rows in bins])
    noise = np.array([errors[rows].var(ddof=1) / len(rows) for rows in bins])  # of the gap
    squared = gap**2 - noise
    variance = share**2 @ (2 * noise**2)  # Var (g + e)^2 = 4 g^2 v + 2 v^2, with g^2 estimated without bias
    variance = max(variance, variance + 4 * share**2 @ (squared * noise))
    absolute = float(share @ np.abs(gap)), float(np.sqrt(share**2 @ noise))
    return absolute, (float(share @ squared), float(np.sqrt(variance)))


def _reliability(
    forecast: np.ndarray, outcome: np.ndarray, bins: list[np.ndarray]
) -> "tuple[pd.DataFrame, tuple[float, float]]":
    """Return the curve, and the mean and standard deviation of the calibration error if the forecasts are right."""
    import pandas as pd

    num_rows = len(forecast)
    lines, expected, variance = [], 0.0, 0.0
    for rows in bins:
        size, hits, expected_hits = len(rows), outcome[rows].sum(), forecast[rows].sum()
        mass = sum_of_events(forecast[rows])
        low, high = np.searchsorted(np.cumsum(mass), [(1 - BAND) / 2, (1 + BAND) / 2]) / size
        line = {"forecast": expected_hits / size, "frequency": hits / size, "count": size, "low": low, "high": high}
        lines.append(line)
        error = np.abs(np.arange(size + 1) - expected_hits) / num_rows
        expected += mass @ error
        variance += mass @ error**2 - (mass @ error) ** 2
    curve = pd.DataFrame(lines)
    wilson = wilson_intervals(curve["frequency"] * curve["count"], curve["count"])
    return curve.join(wilson), (float(expected), float(np.sqrt(variance)))


def _inside(curve: "pd.DataFrame", noun: str, probability: str = "90%") -> str:
    inside = curve["frequency"].between(curve["low"] - 1e-12, curve["high"] + 1e-12)
    return (
        f"{inside.sum()} of {len(curve)} {noun} lie in the band that contains each with probability {probability} if "
        f"the forecasts are right."
    )
