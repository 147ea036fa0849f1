"""Summaries of a mixture over draws, computed from the values of each draw at a chunk of rows.

Each function takes (a pytree whose leaves have a leading axis of draws, y, extra) and returns arrays with rows first,
as `over_rows` expects of a summary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from .distributions import cdf_of, moments_of
from .rows import Rows

BISECTIONS = {"float32": 32, "float64": 64}
"""The number of halvings that narrow all numbers of a type down to one."""

ROUNDING = 64
"""The rounding error of a cdf, in units of the machine epsilon."""


def by_row(values: Array, y: Rows, extra: Any) -> Array:
    """Return the values themselves, (n, draw, ...)."""
    return jnp.moveaxis(values, 0, 1)


def exp_by_row(log_values: Array, y: Rows, extra: Any) -> Array:
    """Return the exponentials of the values, (n, draw, ...)."""
    return jnp.moveaxis(jnp.exp(log_values), 0, 1)


def mean_exp(log_values: Array, y: Rows, extra: Any) -> Array:
    """Return the mean over draws of the exponentials."""
    return jnp.exp(log_values).mean(axis=0)


def log_mean_exp(log_values: Array, y: Rows, extra: Any) -> Array:
    """Return the log of the mean over draws of the exponentials, without underflow."""
    return jax.nn.logsumexp(log_values, axis=0) - jnp.log(log_values.shape[0])


def mixed_moments(moments: tuple[Array, Array], y: Rows, extra: Any) -> tuple[Array, Array]:
    """Return mean and variance of the mixture: the mean of the variances plus the variance of the means."""
    within, between = split_variance(moments, y, extra)
    return moments[0].mean(axis=0), within + between


def split_variance(moments: tuple[Array, Array], y: Rows, extra: Any) -> tuple[Array, Array]:
    """Return the mean over draws of the variances, and the variance of the means."""
    means, variances = moments
    return variances.mean(axis=0), (means - means[0]).var(axis=0)  # so that equal draws have variance 0


def means_by_row(moments: tuple[Array, Array], y: Rows, extra: Any) -> Array:
    """Return the means of all draws, (n, draw, ...)."""
    return by_row(moments[0], y, extra)


def mean_cdf(components: dist.Distribution, y: Rows, extra: Any) -> Array:
    """Return P(Y <= y) of the mixture."""
    return jax.vmap(lambda d: cdf_of(d, y))(components).mean(axis=0)


def quantiles(components: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Return quantiles of a continuous y, (n, ..., level), to the precision of the type, by bisection of the cdf.

    It is the numbers of the type, in their order, that are halved, and not an interval: this needs no moments, which
    heavy tails do not have, and no bounds, and resolves the tail of a LogNormal at 1e-9 as well as that at 1e9. NaN
    where the cdf is NaN, as for draws that are not finite.
    """
    zeros = jax.eval_shape(jax.vmap(lambda d: jnp.zeros(d.shape())), components)
    shape, dtype = zeros.shape[1:], zeros.dtype
    largest = _place_of(jnp.full(shape, jnp.finfo(dtype).max))

    def one(level: Array) -> Array:
        def is_below(place: Array) -> Array:
            return ~(mean_cdf(components, _number_at(place, dtype), None) >= level)  # also where the cdf is NaN

        middle_of = lambda low, high: (low >> 1) + (high >> 1) + (low & high & 1)  # noqa: E731  (without overflow)
        value = _number_at(_bisect(is_below, middle_of, -largest, largest, BISECTIONS[str(dtype)])[1], dtype)
        is_found = mean_cdf(components, value, None) >= level - ROUNDING * jnp.finfo(dtype).eps
        return jnp.where(is_found, value, jnp.nan)

    return jax.lax.map(one, levels.astype(dtype)).T


def _place_of(values: Array) -> Array:
    """Return the places of numbers in the order of all numbers of their type; that of 0 is 0."""
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"int{8 * values.dtype.itemsize}"))
    return jnp.where(bits < 0, -(bits & jnp.iinfo(bits.dtype).max), bits)


def _number_at(places: Array, dtype: Any) -> Array:
    """Return the numbers at places in the order of all numbers of a type: the inverse of `_place_of`."""
    return jnp.sign(places).astype(dtype) * jax.lax.bitcast_convert_type(jnp.abs(places), dtype)


def integer_quantiles(components: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Return the smallest integers k with P(Y <= k) >= level, (n, ..., level), by bisection of the cdf."""
    moments = mixed_moments(jax.vmap(moments_of)(components), None, None)

    def one(level: Array) -> Array:
        def is_below(value: Array) -> Array:
            return ~(mean_cdf(components, value, None) >= level)  # also where the cdf is NaN, below the support

        low, high = _bracket(moments, level)
        ends = jnp.floor(low) - 1, jnp.ceil(high)
        middle_of = lambda low, high: jnp.floor((low + high) / 2)  # noqa: E731
        return _bisect(is_below, middle_of, *ends, BISECTIONS[str(low.dtype)])[1]

    return jax.lax.map(one, levels.astype(moments[0].dtype)).T


def _bracket(moments: tuple[Array, Array], level: Array) -> tuple[Array, Array]:
    """Return two values with a quantile between them, by Cantelli's inequality around the mean."""
    mean, sd = moments[0], jnp.sqrt(moments[1])
    return mean - sd * jnp.sqrt((1 - level) / level), mean + sd * jnp.sqrt(level / (1 - level))


def _bisect(
    is_below: Callable[[Array], Array],
    middle_of: Callable[[Array, Array], Array],
    low: Array,
    high: Array,
    num_halvings: int,
) -> tuple[Array, Array]:
    """Return a bracket, halved until it is as narrow as the type allows."""

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = middle_of(low, high)
        below = is_below(middle)
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return jax.lax.fori_loop(0, num_halvings, halve, (low, high))
