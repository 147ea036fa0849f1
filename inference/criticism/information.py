"""Information: what labels cost under the predictive distribution, and how much of it any model would pay."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import as_rows, check_finite
from ..density import count_rows
from ..result import Fit


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The cross-entropy of labels with a predictive distribution, row by row, in nats: ``total = entropy + kl``."""

    entropy: np.ndarray
    """H(y) = -sum_k y_k log y_k, (n,): what no model can avoid; 0 where the label is certain."""
    kl: np.ndarray
    """KL(y || p) = sum_k y_k log(y_k / p_k), (n,): what this model pays beyond it; 0 where p = y."""

    @property
    def total(self) -> np.ndarray:
        """H(y, p) = -sum_k y_k log p_k, (n,): the loss of each row."""
        return self.entropy + self.kl


def cross_entropy(fit: Fit, x: Any, y: Any) -> CrossEntropy:
    """The cross-entropy of labels y with the predictive distribution p(. | x, data), as entropy plus KL divergence.

    Hard labels have no entropy, so that cross-entropy, KL divergence and negative log likelihood are one number, and
    minimising one is minimising the others. Soft labels have one, which is then the least value of the loss. (For
    hard labels see also `Predictive.log_prob`.)

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x: n rows.
        y: classes, (n,), or rows of probabilities, (n, num_classes); of a `Bernoulli` those of 0 and of 1.

    Raises:
        TypeError: when `fit` is not a fit or y is not a class.
        ValueError: when x and y are not rows like those of the fit, or y not probabilities.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, cross_entropy, fit
        >>> from flatprior.models import MLP, Categorical, Model
        >>> x, y = np.zeros((2, 1)), np.array([[0.5, 0.5], [1.0, 0.0]])
        >>> even = fit(Model(MLP(), Categorical(2)), MLE(), x, y, key=0)  # predicts 3/4 and 1/4, the mean of the rows
        >>> told = cross_entropy(even, x, y)
        >>> print(told.entropy.round(3), told.kl.round(3), told.total.round(3))
        [0.693 0.   ] [0.144 0.288] [0.837 0.288]
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"cross_entropy: expected a fit; got {fit!r}.")
    predictive = fit.predict(x)
    if predictive.num_classes is None:
        raise TypeError(f"cross_entropy: expected y to be a class; it can be {predictive.structure.support!r}.")
    y = np.asarray(as_rows("y", y))
    check_finite("y", y)
    if y.ndim == 1:
        if (y != np.round(y)).any():
            row = int(np.argmax(y != np.round(y)))
            raise ValueError(
                f"y, row {row}: expected a class; got {y[row]:.6g}. Soft labels are rows of probabilities, one a "
                f"class: for two classes np.stack([1 - y, y], axis=1)."
            )
        return CrossEntropy(np.zeros(len(y)), -predictive.log_prob(y))
    y = _probabilities(y, (count_rows(predictive.x), predictive.num_classes))
    # Class by class, so that they are those of hard labels to the bit, and do not underflow.
    labels = np.zeros(len(y), int)
    log_probs = np.stack([predictive.log_prob(labels + k) for k in range(y.shape[1])], axis=1)
    log_y = np.log(np.where(y > 0, y, 1.0))
    kl = np.where(y > 0, y * (log_y - log_probs), 0.0).sum(axis=1)
    return CrossEntropy(0.0 - (y * log_y).sum(axis=1), kl)


def _probabilities(y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Rows of probabilities, in float64, or an error."""
    if y.shape != shape:
        raise ValueError(
            f"y: expected classes, shape {shape[:1]}, or rows of probabilities, shape {shape}; got {y.shape}."
        )
    y = y.astype(float)
    bad = (y < 0).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > 1e-5)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"y, row {row}: expected probabilities that sum to 1; got {y[row].tolist()}.")
    return y
