"""The continuous ranked probability score of a mixture over draws, by its cdf."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from .mixture import integer_quantiles, mean_cdf, quantiles
from .rows import Rows

LEVELS = np.array([1e-5, 1e-3, 0.01, 0.05, *np.arange(15, 95, 10) / 100, 0.95, 0.99, 0.999, 1 - 1e-5])
"""The quantiles at which the first knots of the integral are."""
FEW = 32
"""The draws whose quantiles these are; the cdf at the knots is that of all draws."""
REACH = 3.0
"""How far beyond the outermost quantiles the integral goes, in distances of these from the median."""
AT_ONCE = 8
"""The intervals that are halved at a time."""
ROUNDS = 5, 32
"""The least and the most times that this is done: more often for few draws, whose cdf is cheap and may have steps."""
EVALUATIONS = 3_000
"""The number of draws, times that of rounds, that is not exceeded but for the least number of rounds."""


def crps(components: dist.Distribution, y: Rows, extra: None) -> Array:
    """Return ``integral of (F(t) - [y <= t])^2 dt`` for each value of a continuous y, in its unit, (n, ...).

    It is the CRPS of Gneiting & Raftery (2007, section 4.2) of the mixture itself, and not of samples. The integrand is
    F^2 below y and (1 - F)^2 above. The integral is by Simpson's rule between knots: y, quantiles, and the middles of
    the intervals with the largest possible error, which for a monotone integrand is width times change. Where F is
    smooth the relative error is about 1e-5, and with hundreds of draws and few knots 1e-4.
    """
    knots, cdf = _knots(components, y, quantiles, lambda low, high: (low + high) / 2)
    left, right = knots[..., :-1], knots[..., 1:]
    middle = jnp.moveaxis(_cdf_at(components, (left + right) / 2), 0, -1)
    above = left >= y[..., None]
    inside = _squared(cdf[..., :-1], above) + 4 * _squared(middle, above) + _squared(cdf[..., 1:], above)
    return ((right - left) * inside / 6).sum(axis=-1)


def integer_crps(components: dist.Distribution, y: Rows, extra: None) -> Array:
    """Return ``sum over k of (F(k) - [y <= k])^2`` for each value of a discrete y, (n, ...): its CRPS.

    It is exact where there are fewer integers than knots, some 50 to 300. Between knots further apart the summand is
    taken to be linear, as for counts with a standard deviation above 20 in a mixture over many draws.
    """
    y = y.astype(jnp.result_type(float))
    knots, cdf = _knots(components, y, integer_quantiles, lambda low, high: jnp.floor((low + high) / 2))
    gaps, above = jnp.diff(knots), knots[..., :-1] >= y[..., None]
    first, last = _squared(cdf[..., :-1], above), _squared(cdf[..., 1:], above)
    return jnp.where(gaps > 0, gaps * (first + last) / 2 + (first - last) / 2, 0.0).sum(axis=-1)  # without the last


def _knots(
    components: dist.Distribution,
    y: Array,
    quantiles_of: Callable[[dist.Distribution, Rows, Array], Array],
    middle_of: Callable[[Array, Array], Array],
) -> tuple[Array, Array]:
    """Return the knots in ascending order, of which y is one, and the cdf there, (n, ..., knot) each."""
    num_draws = len(jax.tree.leaves(components)[0])
    chosen = np.unique(np.linspace(0, num_draws - 1, min(FEW, num_draws)).round().astype(int))
    places = quantiles_of(jax.tree.map(lambda leaf: leaf[chosen], components), None, jnp.asarray(LEVELS))
    low, median, high = places[..., :1], places[..., len(LEVELS) // 2, None], places[..., -1:]
    ends = jnp.floor(low - REACH * (median - low)), jnp.ceil(high + REACH * (high - median))
    first = jnp.concatenate([places, *ends, y[..., None].astype(places.dtype)], axis=-1)
    num_rounds = int(np.clip(EVALUATIONS // num_draws, *ROUNDS))
    room = jnp.broadcast_to(first.max(axis=-1, keepdims=True), (*first.shape[:-1], AT_ONCE * num_rounds))
    cdf = jnp.moveaxis(_cdf_at(components, first), 0, -1)
    last = jnp.broadcast_to(cdf.max(axis=-1, keepdims=True), room.shape)
    state = jax.lax.sort((jnp.concatenate([first, room], axis=-1), jnp.concatenate([cdf, last], axis=-1)), num_keys=1)

    def halved(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        knots, cdf = state
        left, right = knots[..., :-1], knots[..., 1:]
        above = left >= y[..., None]
        change = jnp.abs(_squared(cdf[..., 1:], above) - _squared(cdf[..., :-1], above))
        middles = middle_of(left, right)
        error = jnp.where((middles > left) & (middles < right), (right - left) * change, 0.0)
        _, worst = jax.lax.top_k(error, AT_ONCE)
        new = jnp.take_along_axis(middles, worst, axis=-1)
        place = (0,) * (knots.ndim - 1) + (first.shape[-1] + AT_ONCE * i,)
        knots = jax.lax.dynamic_update_slice(knots, new, place)
        cdf = jax.lax.dynamic_update_slice(cdf, jnp.moveaxis(_cdf_at(components, new), 0, -1), place)
        return jax.lax.sort((knots, cdf), num_keys=1)

    return jax.lax.fori_loop(0, num_rounds, halved, state)


def _cdf_at(components: dist.Distribution, points: Array) -> Array:
    """Return the cdf of the mixture at several points of each value, (point, n, ...), a point at a time."""
    return jax.lax.map(lambda point: mean_cdf(components, point, None), jnp.moveaxis(points, -1, 0))


def _squared(cdf: Array, above: Array) -> Array:
    """Return the integrand where it is above y, and where it is below."""
    return jnp.square(jnp.where(above, 1 - cdf, cdf))
