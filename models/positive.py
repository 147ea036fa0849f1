"""Observations of positive numbers, `LogNormal`, `Gamma`, `Weibull` and `Exponential`, and of shares, `Beta`."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from .observation import Family
from .parameters import CONCENTRATION, NETWORK, SCALE, Parameter, any_concentration
from .values import compared_by_value


@compared_by_value
@dataclass(frozen=True, eq=False)
class LogNormal(Family):
    """y is positive, and log y is Normal with mean eta[:, 0]: the median of y is exp(eta), the log link.

    The loss is that of `Normal` for log y, plus the sum of log y, which is constant.

    Args:
        scale: the standard deviation of log y, in the forms of `Normal`.

    Raises:
        ValueError: when the scale is not positive, or none of these.
    """

    scale: Parameter = field(default=NETWORK, metadata=SCALE)

    link = "log"

    def of(self, eta: Array, scale: ArrayLike) -> dist.Distribution:
        return dist.LogNormal(eta, scale)


@compared_by_value
@dataclass(frozen=True, eq=False)
class Gamma(Family):
    """y is positive, with mean exp(eta[:, 0]), the log link, and a standard deviation in proportion to it.

    The loss of a row is ``concentration * (y / mean + log(mean))`` plus terms of y and the concentration: for a known
    concentration half the Gamma deviance (McCullagh & Nelder 1989, chapter 8).

    Args:
        concentration: 1 over the squared coefficient of variation, ``mean^2 / variance``: a number, a distribution
            over positive numbers (the prior of the site ``concentration``; by default LogNormal(1, 2)), or "network"
            (a second output, ``exp(eta[:, 1]) + 1e-6``).

    Raises:
        ValueError: when the concentration is not positive, or none of these.
    """

    concentration: Parameter = field(default_factory=any_concentration, metadata=CONCENTRATION)

    link = "log"

    def of(self, eta: Array, concentration: ArrayLike) -> dist.Distribution:
        return dist.Gamma(concentration, concentration * jnp.exp(-eta))


@compared_by_value
@dataclass(frozen=True, eq=False)
class Weibull(Family):
    """y is positive, such as a time, with scale exp(eta[:, 0]), the log link: the model of accelerated failure times.

    ``P(Y > t) = exp(-(t / scale)^concentration)``. A change of eta by log 2 doubles all quantiles of y (Kalbfleisch &
    Prentice 2002, section 2.3); the hazard falls with time for a concentration below 1, and grows above.

    Args:
        concentration: the shape: a number, a distribution over positive numbers (the prior of the site
            ``concentration``; by default LogNormal(1, 2)), or "network" (a second output,
            ``exp(eta[:, 1]) + 1e-6``).

    Raises:
        ValueError: when the concentration is not positive, or none of these.
    """

    concentration: Parameter = field(default_factory=any_concentration, metadata=CONCENTRATION)

    link = "log"

    def of(self, eta: Array, concentration: ArrayLike) -> dist.Distribution:
        return dist.Weibull(jnp.exp(eta), concentration)


@dataclass(frozen=True)
class Exponential(Family):
    """y is positive, such as a time, with mean exp(eta), the log link. The loss is ``y / mean + log(mean)``."""

    link = "log"

    def of(self, eta: Array) -> dist.Distribution:
        return dist.Exponential(jnp.exp(-eta))


@compared_by_value
@dataclass(frozen=True, eq=False)
class Beta(Family):
    """y is a share, between 0 and 1, with mean sigmoid(eta[:, 0]), the logit link (Ferrari & Cribari-Neto 2004).

    Its variance is ``mean (1 - mean) / (concentration + 1)``. y may be neither 0 nor 1, at which the density is 0 or
    infinite.

    Args:
        concentration: the precision, phi in the paper: a number, a distribution over positive numbers (the prior of
            the site ``concentration``; by default LogNormal(1, 2)), or "network" (a second output,
            ``exp(eta[:, 1]) + 1e-6``).

    Raises:
        ValueError: when the concentration is not positive, or none of these.
    """

    concentration: Parameter = field(default_factory=any_concentration, metadata=CONCENTRATION)

    link = "logit"

    def of(self, eta: Array, concentration: ArrayLike) -> dist.Distribution:
        return OpenBeta(concentration * jax.nn.sigmoid(eta), concentration * jax.nn.sigmoid(-eta))


class OpenBeta(dist.Beta):
    """A Beta distribution without the ends, 0 and 1, at which no density is finite and positive."""

    loss: ClassVar[str] = "Beta NLL of a share between 0 and 1"
    """The name of its negative log probability."""
    support = constraints.open_interval(0.0, 1.0)
