"""What a predictive distribution leaves open: the noise that no fit removes, and what more data would settle."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..mixture import split_variance
from ..predictive import class_log_probs, moments, over_rows
from ..result import Fit, check_fit
from ..rows import Data, Rows


@dataclass(frozen=True, eq=False, repr=False)
class Uncertainty:
    """The uncertainty of each row's y, in two parts: ``total = aleatoric + epistemic``; see `uncertainty`."""

    aleatoric: np.ndarray
    """What a draw of the weights leaves open, the mean over draws, (n,): the noise of y, and no less with more data."""
    epistemic: np.ndarray
    """What the draws disagree on, (n,): never negative, and exactly 0 for a point."""
    unit: Literal["nats", "squared units of y"]
    """Nats where y is one of a finite set of values, the parts of an entropy; else the parts of a variance."""

    @property
    def total(self) -> np.ndarray:
        """That of the predictive distribution, (n,): its entropy, or its variance."""
        return self.aleatoric + self.epistemic

    def __repr__(self) -> str:
        means = (float(part.mean()) for part in (self.total, self.aleatoric, self.epistemic))
        words = "total {:.4g} = aleatoric {:.4g} + epistemic {:.4g}".format(*means)
        return f"Uncertainty of {len(self.aleatoric)} rows in {self.unit}, on average: {words}"


def uncertainty(fit: Fit, x: Any) -> Uncertainty:
    """Split the uncertainty of y at rows of x into that of the noise and that of the weights.

    Where y is one of a finite set of values, the entropy of the predictive distribution is the expected entropy of a
    draw plus the mutual information of y and the weights (Houlsby et al. 2011; Depeweg et al. 2018), in nats::

        H[mean_s p(. | x, w_s)] = mean_s H[p(. | x, w_s)] + mean_s KL(p(. | x, w_s) || mean_s p(. | x, w_s))

    Otherwise the variance is the mean of the draws' variances plus the variance of their means (law of total
    variance), in squared units of y. Both are exact for the mixture over draws, in the memory of a prediction.

    "Aleatoric" is what this model takes for noise, and no property of the world: a network that is too small has more
    of it. The epistemic part is only as good as the draws: a point has none, and an ensemble that of its modes.

    Args:
        fit: a fit, by any method.
        x: n rows. Where a row of y is several numbers, or tokens, the parts are those of each, (n, d).

    Raises:
        TypeError: when `fit` is not a fit.
        TypeError, ValueError: when x is not rows like those of the fit.
        NotImplementedError: when the distribution of y has neither classes nor a variance.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, Ensemble, fit
        >>> from flatprior.inference.criticism import uncertainty
        >>> from flatprior.models import MLP, Categorical, Model
        >>> x, y = np.zeros((4, 1)), np.array([0, 1, 1, 1])
        >>> model = Model(MLP(), Categorical(2))
        >>> uncertainty(fit(model, MLE(), x, y, key=0), x)  # a coin of 3/4: the entropy is that of the coin
        Uncertainty of 4 rows in nats, on average: total 0.5623 = aleatoric 0.5623 + epistemic 0
    """
    check_fit("uncertainty", fit)
    predictive = fit.predict(x)
    response = predictive.response
    has_classes = response.num_classes is not None
    if not has_classes:
        response.expect("variance", "uncertainty")
    per_draw, split = (class_log_probs, _split_entropy) if has_classes else (moments, split_variance)
    aleatoric, epistemic = over_rows(per_draw, split, fit.density, predictive.draws, Data(predictive.x))
    return Uncertainty(aleatoric, epistemic, "nats" if has_classes else "squared units of y")


def _split_entropy(log_probs: Array, y: Rows, extra: Any) -> tuple[Array, Array]:
    """Expected entropy and mutual information of log probabilities (draw, n, num_classes)."""
    probs = jnp.exp(log_probs)
    highest = log_probs.max(axis=0)
    # Relative to the highest, equal draws have a mean of exactly 1, and no divergence from their mean.
    ratios = jnp.exp(log_probs - jnp.where(jnp.isfinite(highest), highest, 0.0))
    log_mean = highest + jnp.log(jnp.where(jnp.isfinite(highest), ratios.mean(axis=0), 1.0))
    aleatoric = _expected(probs, -log_probs)
    return aleatoric, jnp.maximum(_expected(probs, log_probs - log_mean), 0.0)


def _expected(probs: Array, values: Array) -> Array:
    """The mean over draws of sum_k p_k v_k, (n,), or (n, T), in which a class without probability counts nothing."""
    return jnp.where(probs > 0, probs * values, 0.0).sum(axis=-1).mean(axis=0)
