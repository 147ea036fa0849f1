"""Summaries of a mixture over draws: from what each draw says of a chunk of rows to what the mixture says.

Each function takes (a pytree whose leaves have a leading axis of draws, y, extra) and returns arrays with rows first,
as `over_rows` asks of a summary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from .distributions import moments_of
from .rows import Rows

BISECTIONS = {"float32": 32, "float64": 64}
"""Halvings that bring a bracket down to the precision of the type."""


def by_row(values: Array, y: Rows, extra: Any) -> Array:
    """The values themselves, (n, draw, ...)."""
    return jnp.moveaxis(values, 0, 1)


def exp_by_row(log_values: Array, y: Rows, extra: Any) -> Array:
    """The exponentials of the values, (n, draw, ...)."""
    return jnp.moveaxis(jnp.exp(log_values), 0, 1)


def mean_exp(log_values: Array, y: Rows, extra: Any) -> Array:
    """The mean over draws of the exponentials."""
    return jnp.exp(log_values).mean(axis=0)


def log_mean_exp(log_values: Array, y: Rows, extra: Any) -> Array:
    """The log of the mean over draws of the exponentials, without underflow."""
    return jax.nn.logsumexp(log_values, axis=0) - jnp.log(log_values.shape[0])


def mixed_moments(moments: tuple[Array, Array], y: Rows, extra: Any) -> tuple[Array, Array]:
    """Mean and variance of the mixture: the mean of the variances plus the variance of the means."""
    means, variances = moments
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)


def means_by_row(moments: tuple[Array, Array], y: Rows, extra: Any) -> Array:
    """The means of all draws, (n, draw, ...)."""
    return by_row(moments[0], y, extra)


def mean_cdf(components: dist.Distribution, y: Rows, extra: Any) -> Array:
    """P(Y <= y) of the mixture."""
    return jax.vmap(lambda d: d.cdf(y))(components).mean(axis=0)


def quantiles(components: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Quantiles, (n, ..., level), by bisection of the cdf, from a bracket by Cantelli's inequality around the mean."""
    mean, variance = mixed_moments(jax.vmap(moments_of)(components), None, None)
    levels = levels.astype(mean.dtype)

    def one(level: Array) -> Array:
        reach = jnp.sqrt(variance)
        low = mean - reach * jnp.sqrt((1 - level) / level)
        high = mean + reach * jnp.sqrt(level / (1 - level))

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            below = mean_cdf(components, middle, None) < level
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, BISECTIONS[str(mean.dtype)], halve, (low, high))
        return (low + high) / 2

    return jax.lax.map(one, levels).T
