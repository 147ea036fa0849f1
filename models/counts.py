"""Observations of counts: `Poisson` and `NegativeBinomial`."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from .observation import Family
from .parameters import CONCENTRATION, Parameter, any_concentration
from .values import compared_by_value


@dataclass(frozen=True)
class Poisson(Family):
    """y is a count, 0, 1, 2, ..., with rate exp(eta), the log link. The loss is ``rate - y log(rate) + log(y!)``."""

    link = "log"

    def of(self, eta: Array) -> dist.Distribution:
        return dist.Poisson(jnp.exp(eta))


@compared_by_value
@dataclass(frozen=True, eq=False)
class NegativeBinomial(Family):
    """y is a count with mean exp(eta[:, 0]), the log link, that varies more than a Poisson.

    Its variance is ``mean + mean^2 / concentration`` (Hilbe 2011, NB2): that of a Poisson whose rate is Gamma with this
    concentration. With r for it, the loss of a row is ``-log [Gamma(y + r) / (Gamma(r) y!)] - r log(r / (r + mean))
    - y log(mean / (r + mean))``.

    Args:
        concentration: 1 over the overdispersion (statsmodels' ``alpha``): a number, a distribution over positive
            numbers (the prior of the site ``concentration``; by default LogNormal(1, 2)), or "network" (a second
            output, ``exp(eta[:, 1]) + 1e-6``). For counts that vary less than a Poisson the likelihood grows with it
            without end, so that an MLE need not exist.

    Raises:
        ValueError: when the concentration is not positive, or none of these.

    Example:
        >>> import jax.numpy as jnp
        >>> from flatprior.models import NegativeBinomial
        >>> y = NegativeBinomial(concentration=2.0).distribution(jnp.log(jnp.array([[4.0]])), {})
        >>> print(y.mean, y.variance)  # 4 + 4^2 / 2
        [4.] [12.]
    """

    concentration: Parameter = field(default_factory=any_concentration, metadata=CONCENTRATION)

    link = "log"

    def of(self, eta: Array, concentration: ArrayLike) -> dist.Distribution:
        return dist.NegativeBinomial2(jnp.exp(eta), concentration)
