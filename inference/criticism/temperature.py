"""Temperature scaling: probabilities corrected after the fit, by one number, from validation rows."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from ..checks import check_labels, check_like
from ..chunks import over_rows
from ..labels import labelled
from ..mixture import log_mean_exp
from ..pointwise import class_log_probs
from ..predictive import Predictive
from ..report import Printed, Report, columns_of
from ..response import Response
from ..result import Fit, check_fit

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

RANGE = 1e-3, 1e3
"""The range in which the temperature is sought."""


@dataclass(frozen=True, eq=False)
class TemperedPredictive:
    """Probabilities at another temperature, ``p(k | x)^(1 / T)`` normalised; see `temperature_scaling`."""

    predictive: Predictive
    """The predictive distribution of the model, T = 1."""
    temperature: float

    @property
    def response(self) -> Response:
        """The kind of y: one of a finite set of classes."""
        return self.predictive.response

    @property
    def num_classes(self) -> int | None:
        """The number of values that y can have: 0, 1, ..."""
        return self.predictive.num_classes

    @property
    def probs(self) -> np.ndarray:
        """The probabilities as in `Predictive`: (n,) for a site on {0, 1}, else (n, num_classes)."""
        return self.response.probs(self.class_probs)

    @property
    def class_probs(self) -> np.ndarray:
        """p(y = k | x), (n, num_classes), also for two classes."""
        return np.exp(self._log_probs)

    def log_prob(self, y: Any) -> np.ndarray:
        """Return the log probability of classes y in nats, (n,).

        Raises:
            TypeError, ValueError: when y is not one class per row.
        """
        labels = _labels(self.predictive, y)
        return self._log_probs[np.arange(len(labels)), labels]

    @property
    def _log_probs(self) -> np.ndarray:
        return log_softmax(_log_probs(self.predictive) / self.temperature, axis=1)


@dataclass(frozen=True, eq=False, repr=False)
class Tempered(Printed):
    """A fit with tempered probabilities, which is not a `Fit`; see `temperature_scaling`. Prints as a table."""

    fit: Fit
    temperature: float
    """T: above 1 the fit was overconfident, below 1 underconfident."""
    temperature_se: float
    """The standard error of T, from the curvature of the log likelihood of the validation rows."""
    num_rows: int
    """The number of validation rows."""

    def predict(self, x: Any) -> TemperedPredictive:
        """Return the tempered probabilities of y at rows of x.

        Raises:
            TypeError, ValueError: when x is not rows like those of the fit.
        """
        return TemperedPredictive(self.fit.predict(x), self.temperature)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the temperature and its standard error, one row."""
        import pandas as pd

        return pd.DataFrame({"value": [self.temperature], "se": [self.temperature_se]}, index=["temperature"])

    @property
    def _report(self) -> Report:
        table = self.to_dataframe()
        note = (
            f"{self.fit.method.name}, tempered on {self.num_rows} validation rows: not the predictive distribution of "
            f"the model. se: standard error."
        )
        notes = [note] if self.fit.status.level == "ok" else [note, f"{self.fit.method.name}: {self.fit.status}"]
        return Report(table, columns_of(table, "{:.3g}"), notes)


def temperature_scaling(fit: Fit, x_validation: Any, y_validation: Any, *, weights: Any = None) -> Tempered:
    """Raise the probabilities of a fit to the power 1 / T, with T from validation rows (Guo et al. 2017).

    ``p_T(k | x) = p(k | x)^(1 / T) / sum_j p(j | x)^(1 / T)``, with the T that makes the labels of the validation rows
    most probable. For a point estimate this divides the logits by T; for many draws the mixture is tempered, not its
    components (Rahaman & Thiery 2021). The most probable class does not change, nor does the accuracy.

    The result does not follow from the model: no prior and likelihood have it as their predictive distribution, and it
    needs validation rows that are used neither for training nor for testing. It is here for comparison with a fit:
    `calibration` accepts both.

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x_validation: n rows that the fit has not seen, other than those on which it will be tested.
        y_validation: their classes, (n,); rows without one are left out.
        weights: their weights, (n,); see `fit`.

    Returns:
        The fit with its temperature.

    Raises:
        TypeError: when `fit` is not a fit, or y is not a class.
        ValueError: when x and y are not rows like those of the fit, or are its own rows, or no temperature from 0.001
            to 1,000 is best.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.criticism import temperature_scaling
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x = np.zeros((10, 1))
        >>> overconfident = fit(Model(MLP(), Bernoulli()), MLE(), x, np.arange(10) < 9, key=0)  # predicts 0.9
        >>> tempered = temperature_scaling(overconfident, x, np.arange(10) < 6)  # (0.6 / 0.4)^T = 0.9 / 0.1
        >>> print(f"{tempered.temperature:.3f} {tempered.predict(x[:1]).probs.item():.3f}")
        5.419 0.600
    """
    check_fit("temperature_scaling", fit)
    fit.structure.response.expect_class("temperature_scaling")
    x = check_like(fit.layout, x_validation, "x_validation")
    was_fitted = fit.was_fitted_to(x, y_validation, weights)
    given = labelled(x, y_validation, weights)
    x, y, row_weights = given.scored
    predictive = fit.predict(x)
    labels = _labels(predictive, y, "y_validation")
    times = np.ones(len(labels)) if row_weights is None else row_weights.astype(float)
    if was_fitted:
        raise ValueError(
            "temperature_scaling: expected validation rows that the fit has not seen; got the rows that it was fitted "
            "to, on which its confidence is about right whatever it is on others. Leave some rows out of the fit."
        )
    log_probs = _log_probs(predictive)
    of_label = log_probs[np.arange(len(labels)), labels]
    _check_labels_possible(of_label)

    def slope(log_power: float) -> float:
        """Return the derivative of the log likelihood, concave in the power 1 / T, by that power."""
        return float(times @ (of_label - _moments(log_probs, math.exp(log_power))[0]))

    low, high = (-math.log(temperature) for temperature in reversed(RANGE))
    if slope(low) <= 0 or (of_label == log_probs.max(axis=1)).all() or slope(high) >= 0:
        raise ValueError(_no_temperature(too_large=slope(low) <= 0, num_rows=len(labels)))
    power = math.exp(brentq(slope, low, high, xtol=1e-12))
    se_log = 1 / (power * math.sqrt(times @ _moments(log_probs, power)[1]))  # that of log T and of log (1 / T)
    return Tempered(fit, 1 / power, se_log / power, len(labels))


def _moments(log_probs: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance, (n,) each, of the log probability of a class drawn from the tempered probabilities."""
    probs = np.exp(log_softmax(power * log_probs, axis=1))
    finite = np.where(probs > 0, log_probs, 0.0)
    mean = (probs * finite).sum(axis=1)
    return mean, (probs * (finite - mean[:, None]) ** 2).sum(axis=1)


def _log_probs(predictive: Predictive) -> np.ndarray:
    """Return log p(y = k | x, data), (n, num_classes), in float64."""
    source = predictive.density, predictive.draws, predictive.data()
    return over_rows(class_log_probs, log_mean_exp, *source).astype(float)


def _labels(predictive: Predictive, y: Any, name: str = "y") -> np.ndarray:
    """Return classes (n,), one for each row, or raise."""
    labels = np.asarray(check_labels(predictive.density.model, predictive.x, y, name).y)
    if labels.ndim != 1:
        raise ValueError(f"{name}: expected classes, shape {labels.shape[:1]}; got {labels.shape}.")
    return labels.astype(int)


def _check_labels_possible(of_label: np.ndarray) -> None:
    if not np.isfinite(of_label).all():
        row = int(np.argmin(np.isfinite(of_label)))
        raise ValueError(
            f"y_validation, row {row}: the fit gives this class probability 0, which no temperature changes."
        )


def _no_temperature(*, too_large: bool, num_rows: int) -> str:
    if too_large:
        reason = "the fit gives the labels low probabilities, and the larger T the better"
    else:
        reason = f"of {num_rows} rows all or nearly all are classified correctly, and the smaller T the better"
    return f"temperature_scaling: no T from {RANGE[0]:g} to {RANGE[1]:g} is best: {reason}. Give more validation rows."
