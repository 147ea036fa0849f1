"""Observations of real numbers: `Normal` and `StudentT`."""

from dataclasses import dataclass, field

import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from .observation import Family
from .parameters import CONCENTRATION, NETWORK, SCALE, Parameter
from .values import compared_by_value


@compared_by_value
@dataclass(frozen=True, eq=False)
class Normal(Family):
    """y is Normal with mean eta[:, 0]. The loss is squared error, or the Gaussian negative log likelihood.

    Args:
        scale: the standard deviation of y around its mean, in units of y:

            - a number: known and the same for all rows. The loss is ``(y - mean)^2 / (2 scale^2)`` plus a constant:
              least squares.
            - a NumPyro distribution over positive numbers: one unknown scale, the site ``scale``, with this prior.
            - ``"network"``: a second output of the network, ``softplus(eta[:, 1]) + 1e-6`` in each row
              (heteroscedastic; Lakshminarayanan et al. 2017, section 2.2.1). It is never 0.

    Raises:
        ValueError: when the scale is not positive, or none of these.
    """

    scale: Parameter = field(default=NETWORK, metadata=SCALE)

    link = "identity"

    def of(self, eta: Array, scale: ArrayLike) -> dist.Distribution:
        return dist.Normal(eta, scale)


@compared_by_value
@dataclass(frozen=True, eq=False)
class StudentT(Family):
    """y is Student's t around eta[:, 0]: a regression in which outliers have little weight (Lange et al. 1989).

    The loss of a row is ``(df + 1) / 2 * log(1 + ((y - eta) / scale)^2 / df)`` plus terms in df and scale: it grows
    like the log of the residual where a squared error grows like its square.

    Args:
        df: the degrees of freedom: a number, a distribution over positive numbers (the prior of the site ``df``), or
            "network" (a further output, ``exp(eta) + 1e-6``). 4, the default, is usual where outliers are possible
            but not known to be there (Lange et al. 1989). y has a variance only above 2, and a mean only above 1. In
            data without outliers the likelihood grows with df without end, so that an MLE of df need not exist.
        scale: the scale of y around eta, in units of y, in the forms of `Normal`. The standard deviation of y is
            ``scale * sqrt(df / (df - 2))``.

    Raises:
        ValueError: when a parameter is not positive, or of none of these forms.

    Example:
        >>> from flatprior.models import MLP, Model, StudentT
        >>> robust = Model(MLP(), StudentT(df=4.0, scale="network"))
        >>> robust.observation.num_outputs
        2
    """

    df: Parameter = field(default=4.0, metadata=CONCENTRATION)
    scale: Parameter = field(default=NETWORK, metadata=SCALE)

    link = "identity"

    def of(self, eta: Array, df: ArrayLike, scale: ArrayLike) -> dist.Distribution:
        return dist.StudentT(df, eta, scale)
