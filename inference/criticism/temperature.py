"""Temperature scaling: probabilities repaired after the fit, by one number, on rows of its own."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from ..checks import check_labels, check_like
from ..mixture import log_mean_exp
from ..predictive import Predictive, class_log_probs, over_rows
from ..response import Response
from ..result import Fit, check_fit
from ..rows import Data

RANGE = 1e-3, 1e3
"""Where a temperature is looked for."""


@dataclass(frozen=True, eq=False)
class TemperedPredictive:
    """Probabilities at another temperature, ``p(k | x)^(1 / T)`` normalised; see `temperature_scaling`."""

    predictive: Predictive
    """That of the model, T = 1."""
    temperature: float

    @property
    def response(self) -> Response:
        """What y is: one of a finite set of classes."""
        return self.predictive.response

    @property
    def num_classes(self) -> int | None:
        """How many values y can have: 0, 1, ..."""
        return self.predictive.num_classes

    @property
    def probs(self) -> np.ndarray:
        """As of `Predictive`: (n,) of a site on {0, 1}, else (n, num_classes)."""
        return self.response.probs(self.class_probs)

    @property
    def class_probs(self) -> np.ndarray:
        """p(y = k | x), (n, num_classes), of two classes as well."""
        return np.exp(self._log_probs)

    def log_prob(self, y: Any) -> np.ndarray:
        """Log probability of classes y in nats, (n,).

        Raises:
            TypeError, ValueError: when y is not one class a row.
        """
        labels = _labels(self.predictive, y)
        return self._log_probs[np.arange(len(labels)), labels]

    @property
    def _log_probs(self) -> np.ndarray:
        return log_softmax(_log_probs(self.predictive) / self.temperature, axis=1)


@dataclass(frozen=True, eq=False, repr=False)
class Tempered:
    """A fit with its probabilities repaired, which leaves the one density; see `temperature_scaling`. Not a `Fit`."""

    fit: Fit
    temperature: float
    """T: above 1 the fit was too sure of itself, below 1 not sure enough."""
    temperature_se: float
    """Its standard error, from the curvature of the log likelihood of the validation rows."""
    num_rows: int
    """How many validation rows it was learned from."""

    def predict(self, x: Any) -> TemperedPredictive:
        """Probabilities of y at rows of x: ``probs`` and ``log_prob``, and nothing else.

        Raises:
            TypeError, ValueError: when x is not rows like those of the fit.
        """
        return TemperedPredictive(self.fit.predict(x), self.temperature)

    def __repr__(self) -> str:
        return (
            f"{self.fit.method.name} at temperature {self.temperature:.3g} (se {self.temperature_se:.2g}, "
            f"from {self.num_rows} validation rows): not the predictive of the model"
        )


def temperature_scaling(fit: Fit, x_validation: Any, y_validation: Any) -> Tempered:
    """Raise the probabilities of a fit to the power 1 / T, with T from validation rows (Guo et al. 2017).

    ``p_T(k | x) = p(k | x)^(1 / T) / sum_j p(j | x)^(1 / T)``, with the T that makes the labels of the validation rows
    most probable. Of one point this divides the logits by T; of many draws it is the mixture that is tempered, not its
    components (Rahaman & Thiery 2021). The most probable class stays, and so does the accuracy.

    This leaves the one density: no prior and likelihood have the result as their predictive distribution, and it costs
    rows that are neither fitted nor tested on. It is here to be laid beside a fit: `calibration` takes it as one.

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x_validation: n rows that the fit has not seen, and on which it will not be judged.
        y_validation: their classes, (n,).

    Raises:
        TypeError: when `fit` is not a fit, or y is not a class.
        ValueError: when x and y are not rows like those of the fit, or no temperature from 0.001 to 1,000 is best.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.criticism import temperature_scaling
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x = np.zeros((10, 1))
        >>> sure = fit(Model(MLP(), Bernoulli()), MLE(), x, np.arange(10) < 9, key=0)  # says 0.9
        >>> cooler = temperature_scaling(sure, x, np.arange(10) < 6)  # and 0.6 it is: (0.6 / 0.4)^T = 0.9 / 0.1
        >>> print(f"{cooler.temperature:.3f} {cooler.predict(x[:1]).probs.item():.3f}")
        5.419 0.600
    """
    check_fit("temperature_scaling", fit)
    predictive = fit.predict(check_like(fit.layout, x_validation, "x_validation"))
    predictive.response.expect_class("temperature_scaling")
    labels = _labels(predictive, y_validation, "y_validation")
    log_probs = _log_probs(predictive)
    of_label = log_probs[np.arange(len(labels)), labels]
    _check_labels_possible(of_label)

    def slope(log_power: float) -> float:
        """Of the log likelihood in the power 1 / T; it only falls, as the log likelihood is concave in the power."""
        return float((of_label - _moments(log_probs, math.exp(log_power))[0]).sum())

    low, high = (-math.log(temperature) for temperature in reversed(RANGE))
    if slope(low) <= 0 or (of_label == log_probs.max(axis=1)).all() or slope(high) >= 0:
        raise ValueError(_no_temperature(too_large=slope(low) <= 0, num_rows=len(labels)))
    power = math.exp(brentq(slope, low, high, xtol=1e-12))
    se_log = 1 / (power * math.sqrt(_moments(log_probs, power)[1].sum()))  # of log T, as of log (1 / T)
    return Tempered(fit, 1 / power, se_log / power, len(labels))


def _moments(log_probs: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, (n,) each, of the log probability of a class drawn from the tempered probabilities."""
    probs = np.exp(log_softmax(power * log_probs, axis=1))
    finite = np.where(probs > 0, log_probs, 0.0)
    mean = (probs * finite).sum(axis=1)
    return mean, (probs * (finite - mean[:, None]) ** 2).sum(axis=1)


def _log_probs(predictive: Predictive) -> np.ndarray:
    """Log p(y = k | x, data), (n, num_classes), in float64."""
    of = predictive.density, predictive.draws, Data(predictive.x)
    return over_rows(class_log_probs, log_mean_exp, *of).astype(float)


def _labels(predictive: Predictive, y: Any, name: str = "y") -> np.ndarray:
    """Classes (n,), one for each row, or an error."""
    labels = np.asarray(check_labels(predictive.density.model, predictive.x, y, name))
    if labels.ndim != 1:
        raise ValueError(f"{name}: expected classes, shape {labels.shape[:1]}; got {labels.shape}.")
    return labels.astype(int)


def _check_labels_possible(of_label: np.ndarray) -> None:
    if not np.isfinite(of_label).all():
        row = int(np.argmin(np.isfinite(of_label)))
        raise ValueError(
            f"y_validation, row {row}: the fit gives this class the probability 0, and no temperature can change that."
        )


def _no_temperature(*, too_large: bool, num_rows: int) -> str:
    if too_large:
        reason = "the labels are not those that the fit holds probable, and the larger T the better"
    else:
        reason = f"of {num_rows} rows all or nearly all are classified correctly, and the smaller T the better"
    return f"temperature_scaling: no T from {RANGE[0]:g} to {RANGE[1]:g} is best: {reason}. Give more validation rows."
