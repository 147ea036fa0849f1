"""Summaries of a mixture over draws, computed from the values of each draw at a chunk of rows.

Each function takes (a pytree whose leaves have a leading axis of draws, y, extra) and returns arrays with rows first,
as `over_rows` expects of a summary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from .distributions import of_one_value
from .marginals import cdf_of, interval_of, sums_pmf, values_of
from .rows import Rows

BISECTIONS = {"float32": 32, "float64": 64}
"""The number of halvings that narrow all numbers of a type down to one."""

ROUNDING = 64
"""The rounding error of a cdf, in units of the machine epsilon."""

MAX_TERMS = 2**20
"""The most integers whose probabilities are added or compared."""


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
    """Return P(Y <= y) of the mixture; where y is a lower and an upper bound, (n, 2), at each of them."""
    shape, _ = _shape_and_type(components)
    if jnp.ndim(y) > len(shape):
        return jnp.stack([mean_cdf(components, y[..., i], extra) for i in range(2)], axis=-1)
    return jax.vmap(lambda d: cdf_of(d, y))(components).mean(axis=0)


def mean_interval(components: dist.Distribution, y: Rows, extra: Any) -> tuple[Array, Array]:
    """Return the ends of the interval in which the transform of y is uniform, for the mixture."""
    low, high = jax.vmap(lambda d: interval_of(d, y))(components)
    return low.mean(axis=0), high.mean(axis=0)


def ordered_interval(log_probs: Array, y: Rows, extra: Any) -> tuple[Array, Array]:
    """Return P(Y < y) and P(Y <= y) of a y that is one of several ordered classes, (n,) each."""
    probs = jnp.exp(log_probs).mean(axis=0)
    classes, observed = jnp.arange(probs.shape[-1]), jnp.asarray(y)[:, None]
    low, high = (jnp.where(is_in, probs, 0.0).sum(axis=-1) for is_in in (classes < observed, classes <= observed))
    return low, high


def ordered_cdf(log_probs: Array, y: Rows, extra: Any) -> Array:
    """Return P(Y <= y) of a y that is one of several ordered classes, (n,)."""
    return ordered_interval(log_probs, y, extra)[1]


def ordered_quantiles(log_probs: Array, y: Rows, levels: Array) -> Array:
    """Return the smallest classes k with P(Y <= k) >= level, (n, level)."""
    cdf = jnp.cumsum(jnp.exp(log_probs).mean(axis=0), axis=-1)
    is_below = cdf[:, :-1, None] < levels.astype(cdf.dtype) - ROUNDING * jnp.finfo(cdf.dtype).eps
    return is_below.sum(axis=1)


def quantiles(components: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Return quantiles of a continuous y, (n, ..., level), to the precision of the type, by bisection of the cdf.

    It is the numbers of the type, in their order, that are halved, and not an interval: this needs no moments, which
    heavy tails do not have, and no bounds, and resolves the tail of a LogNormal at 1e-9 as well as that at 1e9. NaN
    where the cdf is NaN, as for draws that are not finite.
    """
    shape, dtype = _shape_and_type(components)
    largest = _place_of(jnp.full(shape, jnp.finfo(dtype).max))

    def one(level: Array) -> Array:
        def is_below(place: Array) -> Array:
            return ~(mean_cdf(components, _number_at(place, dtype), None) >= level)  # also where the cdf is NaN

        middle_of = lambda low, high: (low >> 1) + (high >> 1) + (low & high & 1)  # noqa: E731  (without overflow)
        place = _bisect(is_below, middle_of, -largest, largest, BISECTIONS[str(dtype)])[1]
        return jnp.where(place < largest, _number_at(place, dtype), jnp.nan)

    return jnp.moveaxis(jax.lax.map(one, levels.astype(dtype)), 0, -1)


def _shape_and_type(components: dist.Distribution) -> tuple[tuple[int, ...], Any]:
    """Return the shape of the values that a mixture describes, (n, ...), and the type of their real numbers."""
    zeros = jax.eval_shape(jax.vmap(lambda d: jnp.zeros(values_of(d).shape())), components)
    return zeros.shape[1:], zeros.dtype


def _place_of(values: Array) -> Array:
    """Return the places of numbers in the order of all numbers of their type; that of 0 is 0."""
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"int{8 * values.dtype.itemsize}"))
    return jnp.where(bits < 0, -(bits & jnp.iinfo(bits.dtype).max), bits)


def _number_at(places: Array, dtype: Any) -> Array:
    """Return the numbers at places in the order of all numbers of a type: the inverse of `_place_of`."""
    return jnp.sign(places).astype(dtype) * jax.lax.bitcast_convert_type(jnp.abs(places), dtype)


def integer_quantiles(components: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Return the smallest integers k with P(Y <= k) >= level, (n, ..., level); see `_integer_quantile`."""
    _, dtype = _shape_and_type(components)
    return jnp.moveaxis(jax.lax.map(partial(_integer_quantile, components), levels.astype(dtype)), 0, -1)


def _integer_quantile(components: dist.Distribution, level: Array) -> Array:
    """Return the smallest integer k with P(Y <= k) >= level, (n, ...), by doubling and bisection.

    NaN where the cdf is NaN, and beyond 2^53, or 2^24 in float32; or, where the cdf is a sum of probabilities, 2^20.
    """
    shape, dtype = _shape_and_type(components)
    limit = MAX_TERMS if sums_pmf(components) else 2.0 ** (jnp.finfo(dtype).nmant + 1)
    level = jnp.maximum(level - ROUNDING * jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny)
    lowest = getattr(of_one_value(components.support), "lower_bound", -limit)

    def is_open(bracket: tuple[Array, Array]) -> Array:
        low, high = bracket
        return ((high - low > 1) & (low < limit)).any()

    def narrowed(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        value = jnp.where(jnp.isfinite(high), jnp.floor((low + high) / 2), 2 * jnp.maximum(low, 0) + 15)
        below = ~(mean_cdf(components, value, None) >= level)  # also where the cdf is NaN
        return jnp.where(below, value, low), jnp.where(below, high, value)

    ends = jnp.full(shape, jnp.min(jnp.asarray(lowest)) - 1, dtype), jnp.full(shape, jnp.inf, dtype)
    _, high = jax.lax.while_loop(is_open, narrowed, ends)
    return jnp.where(jnp.isfinite(high), high, jnp.nan)


def integer_modes(components: dist.Distribution, y: Rows, extra: Any) -> Array:
    """Return the most probable integers, (n,), the smallest of several; NaN where more than 2^20 would be compared.

    Let p be the probability of the median. An integer k with P(Y <= k) < p or P(Y >= k) < p is less probable than the
    median, so only the integers between the quantiles of p and 1 - p are compared.
    """

    def probability(value: Array) -> Array:
        return jnp.exp(jax.vmap(lambda d: d.log_prob(value))(components)).mean(axis=0)

    def quantile(tail: Array, place: Array) -> tuple[Array, Array]:
        """Return the tail, that of the median at first, and the quantile at 1/2, the tail, or 1 minus the tail."""
        value = _integer_quantile(
            components, jnp.select([place == 0, place == 1], [jnp.full_like(tail, 0.5), tail], 1 - tail)
        )
        found = jnp.clip(probability(value), jnp.finfo(tail.dtype).eps, 0.5)
        return jnp.where(place == 0, found, tail), value

    shape, dtype = _shape_and_type(components)
    _, (_, low, high) = jax.lax.scan(quantile, jnp.zeros(shape, dtype), jnp.arange(3))
    is_near = high - low <= MAX_TERMS

    def compared(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, best, mode = state
        value = jnp.minimum(low + step, high)
        found = probability(value)
        return step + 1, jnp.maximum(best, found), jnp.where(found > best, value, mode)

    last = jnp.where(is_near, high - low, 0).max()
    start = jnp.zeros((), dtype), jnp.zeros(shape, dtype), jnp.full(shape, jnp.nan, dtype)
    _, _, mode = jax.lax.while_loop(lambda state: state[0] <= last, compared, start)
    return jnp.where(is_near, mode, jnp.nan)


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
