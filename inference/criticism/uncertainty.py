"""Aleatoric and epistemic uncertainty: noise, and what more data would reduce."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..chunks import over_rows
from ..mixture import split_variance
from ..pointwise import class_log_probs, moments
from ..report import Printed, Report, columns_of
from ..result import Fit, check_fit
from ..rows import Rows

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Uncertainty(Printed):
    """The uncertainty of each row's y, ``total = aleatoric + epistemic``; see `uncertainty`. Prints as a table."""

    aleatoric: np.ndarray
    """The uncertainty of y given the weights, the mean over draws, (n,): noise, which more data do not reduce."""
    epistemic: np.ndarray
    """The disagreement of the draws, (n,): never negative, and exactly 0 for a point estimate."""
    unit: Literal["nats", "squared units of y"]
    """Nats where y is one of a finite set of values, as parts of an entropy; else the unit of a variance."""

    @property
    def total(self) -> np.ndarray:
        """The entropy or the variance of the predictive distribution, (n,)."""
        return self.aleatoric + self.epistemic

    def to_dataframe(self) -> "pd.DataFrame":
        """Return ``aleatoric``, ``epistemic`` and ``total``, one row per row of x, or per row and component of y."""
        import pandas as pd

        parts = {"aleatoric": self.aleatoric, "epistemic": self.epistemic, "total": self.total}
        index: pd.Index = pd.RangeIndex(len(self.total), name="row")
        if self.total.ndim > 1:
            components = range(self.total[0].size)
            index = pd.MultiIndex.from_product([range(len(self.total)), components], names=["row", "component"])
        return pd.DataFrame({name: values.ravel() for name, values in parts.items()}, index=index)

    @property
    def _report(self) -> Report:
        import pandas as pd

        table = pd.DataFrame({"mean": self.to_dataframe().mean()})
        notes = [f"Means over {len(self.total)} rows, in {self.unit}: total = aleatoric + epistemic."]
        return Report(table, columns_of(table, "{:.4g}"), notes, printed_nan=("mean",))


def uncertainty(fit: Fit, x: Any) -> Uncertainty:
    """Split the uncertainty of y at rows of x into noise and uncertainty about the weights.

    Where y is one of a finite set of values, the entropy of the predictive distribution is the expected entropy of a
    draw plus the mutual information of y and the weights (Houlsby et al. 2011; Depeweg et al. 2018), in nats::

        H[mean_s p(. | x, w_s)] = mean_s H[p(. | x, w_s)] + mean_s KL(p(. | x, w_s) || mean_s p(. | x, w_s))

    Otherwise the variance is the mean of the draws' variances plus the variance of their means (law of total
    variance), in squared units of y. Both are exact for the mixture over draws, in the memory of a prediction.

    The aleatoric part is noise according to the model, not a property of the world: a network that is too small has
    more of it. The epistemic part is only as good as the draws: a point estimate has none, and an ensemble only the
    disagreement of its modes.

    Args:
        fit: a fit, by any method.
        x: n rows.

    Returns:
        The parts of each row, (n,), or of each component of y, (n, d), where a row of y is several numbers or tokens.

    Raises:
        TypeError: when `fit` is not a fit.
        TypeError, ValueError: when x is not rows like those of the fit.
        NotImplementedError: when the distribution of y has neither classes nor a variance.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.criticism import uncertainty
        >>> from flatprior.models import MLP, Categorical, Model
        >>> x, y = np.zeros((4, 1)), np.array([0, 1, 1, 1])
        >>> model = Model(MLP(), Categorical(2))
        >>> print(uncertainty(fit(model, MLE(), x, y, key=0), x))  # the entropy of a coin of 3/4
                     mean
        aleatoric  0.5623
        epistemic       0
        total      0.5623
        <BLANKLINE>
        Means over 4 rows, in nats: total = aleatoric + epistemic.
    """
    check_fit("uncertainty", fit)
    predictive = fit.predict(x)
    response = predictive.response
    has_classes = response.num_classes is not None
    if not has_classes:
        response.expect("variance", "uncertainty")
    per_draw, split = (class_log_probs, _split_entropy) if has_classes else (moments, split_variance)
    aleatoric, epistemic = over_rows(per_draw, split, predictive.density, predictive.draws, predictive.data())
    return Uncertainty(aleatoric, epistemic, "nats" if has_classes else "squared units of y")


def _split_entropy(log_probs: Array, y: Rows, extra: Any) -> tuple[Array, Array]:
    """Return the expected entropy and the mutual information, from log probabilities (draw, n, num_classes)."""
    probs = jnp.exp(log_probs)
    highest = log_probs.max(axis=0)
    # Relative to the highest, equal draws have a mean ratio of exactly 1, and divergence 0 from their mean.
    ratios = jnp.exp(log_probs - jnp.where(jnp.isfinite(highest), highest, 0.0))
    log_mean = highest + jnp.log(jnp.where(jnp.isfinite(highest), ratios.mean(axis=0), 1.0))
    aleatoric = _expected(probs, -log_probs)
    return aleatoric, jnp.maximum(_expected(probs, log_probs - log_mean), 0.0)


def _expected(probs: Array, values: Array) -> Array:
    """Return the mean over draws of sum_k p_k v_k, (n,) or (n, T), with 0 for classes of probability 0."""
    return jnp.where(probs > 0, probs * values, 0.0).sum(axis=-1).mean(axis=0)
