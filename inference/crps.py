"""The continuous ranked probability score of a mixture over draws, by its cdf."""

from collections.abc import Callable
from typing import NamedTuple

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
KNOTS = 128
"""About the number of values at which a cdf is evaluated for the score of one row."""
MAX_CDFS, LEAST_DRAWS = 2**23, 50
"""The number of cdfs of single draws up to which a score uses all draws, and the least number of draws otherwise."""
ROUNDS = 5, 10
"""The least and the most times that this is done: more often for few draws, whose cdf may have steps."""


def draws_used(num_draws: int, num_rows: int) -> np.ndarray:
    """Return the numbers of the draws whose mixture is scored: all, or evenly spaced ones where there are many rows."""
    count = min(num_draws, max(LEAST_DRAWS, MAX_CDFS // (KNOTS * num_rows)))
    return np.unique(np.linspace(0, num_draws - 1, count).round().astype(int))


def crps(components: dist.Distribution, y: Rows, extra: None) -> Array:
    """Return ``integral of (F(t) - [y <= t])^2 dt`` for each value of a continuous y, in its unit, (n, ...).

    It is the CRPS of Gneiting & Raftery (2007, section 4.2) of the mixture itself, and not of samples. The integrand is
    F^2 below y and (1 - F)^2 above. The integral is by Simpson's rule between knots: y, quantiles, and the middles of
    the intervals with the largest possible error, which for a monotone integrand is width times change. Where F is
    smooth the relative error is about 1e-5; with hundreds of draws 1e-4, and for the tails of a Cauchy 1e-3.
    """
    pieces = _pieces(components, y, quantiles, lambda low, high: (low + high) / 2, with_middles=True)
    low, middle, high = (pieces.square(cdf, y) for cdf in (pieces.cdf_left, pieces.cdf_middle, pieces.cdf_right))
    return ((pieces.right - pieces.left) * (low + 4 * middle + high) / 6).sum(axis=-1)


def integer_crps(components: dist.Distribution, y: Rows, extra: None) -> Array:
    """Return ``sum over k of (F(k) - [y <= k])^2`` for each value of a discrete y, (n, ...): its CRPS.

    It is exact where there are fewer integers than knots, 60 to 100. Between knots further apart the summand is
    taken to be linear, as for counts with a standard deviation above 20 in a mixture over many draws.
    """
    y = y.astype(jnp.result_type(float))
    pieces = _pieces(
        components, y, integer_quantiles, lambda low, high: jnp.floor((low + high) / 2), with_middles=False
    )
    low, high = (pieces.square(cdf, y) for cdf in (pieces.cdf_left, pieces.cdf_right))
    gap = pieces.right - pieces.left
    return jnp.where(gap > 0, gap * (low + high) / 2 + (low - high) / 2, 0.0).sum(axis=-1)  # without the right end


class _Pieces(NamedTuple):
    """Intervals, in any order, and the cdf at their ends and in their middles, (n, ..., piece) each."""

    left: Array
    right: Array
    cdf_left: Array
    cdf_right: Array
    cdf_middle: Array

    def square(self, cdf: Array, y: Array) -> Array:
        """Return the integrand: (1 - F)^2 in pieces above y, and F^2 in those below."""
        return jnp.square(jnp.where(self.left >= y[..., None], 1 - cdf, cdf))


def _pieces(
    components: dist.Distribution,
    y: Array,
    quantiles_of: Callable[[dist.Distribution, Rows, Array], Array],
    middle_of: Callable[[Array, Array], Array],
    *,
    with_middles: bool,
) -> _Pieces:
    """Return the pieces between the first knots, of which those with the largest possible error have been halved.

    One loop evaluates the cdf everywhere, since its program may be long: that of a Beta takes seconds to compile. It
    fills in the cdf at the first knots, then halves pieces, and then fills in the cdf in the middles.
    """
    knots = jnp.sort(_first_knots(components, y, quantiles_of), axis=-1)
    num_first, num_draws = -(-knots.shape[-1] // AT_ONCE), len(jax.tree.leaves(components)[0])
    num_rounds = num_first + int(np.clip(1_000 // num_draws, *ROUNDS))
    end = knots[..., -1:]

    def padded(values: Array, size: int) -> Array:
        return jnp.concatenate([values, jnp.broadcast_to(end, (*end.shape[:-1], size - values.shape[-1]))], axis=-1)

    size = AT_ONCE * (num_rounds + 1)  # of which the first is empty, and those at the end are until they are needed
    knots = padded(knots, AT_ONCE * num_first)
    left, right = padded(jnp.concatenate([knots[..., :1], knots], axis=-1), size), padded(knots, size)
    zeros = jnp.zeros_like(left)

    def step(i: Array, pieces: _Pieces) -> _Pieces:
        fills, ends = i < num_first, i >= num_rounds
        middles = middle_of(pieces.left, pieces.right)
        change = jnp.abs(pieces.square(pieces.cdf_right, y) - pieces.square(pieces.cdf_left, y))
        can_be_halved = (middles > pieces.left) & (middles < pieces.right)
        _, worst = jax.lax.top_k(jnp.where(can_be_halved, (pieces.right - pieces.left) * change, 0.0), AT_ONCE)
        start = AT_ONCE * jnp.where(ends, i - num_rounds, i)
        points = jnp.where(fills, _slice(padded(knots, size), start), jnp.take_along_axis(middles, worst, axis=-1))
        points = jnp.where(ends, _slice(middles, start), points)
        values = jax.lax.map(lambda point: mean_cdf(components, point, None), jnp.moveaxis(points, -1, 0))
        values = jnp.moveaxis(values, 0, -1)
        filled = pieces._replace(
            cdf_left=_put(values, pieces.cdf_left, start + 1), cdf_right=_put(values, pieces.cdf_right, start)
        )
        ended = pieces._replace(cdf_middle=_put(values, pieces.cdf_middle, start))
        halved = _halved(pieces, worst, points, values, start + 1)
        return jax.tree.map(lambda a, b, c: jnp.where(fills, a, jnp.where(ends, b, c)), filled, ended, halved)

    num_ends = num_rounds + 1 if with_middles else 0
    return jax.lax.fori_loop(0, num_rounds + num_ends, step, _Pieces(left, right, zeros, zeros, zeros))


def _halved(pieces: _Pieces, places: Array, points: Array, values: Array, start: Array) -> _Pieces:
    """Return the pieces with some of them cut at points; their upper parts are put at a place where there are none."""

    def cut(into: Array, new: Array) -> Array:
        return jnp.put_along_axis(into, places, new, axis=-1, inplace=False)

    old = (jnp.take_along_axis(each, places, axis=-1) for each in (pieces.right, pieces.cdf_right))
    right, cdf_right = old
    return _Pieces(
        _put(points, pieces.left, start),
        _put(right, cut(pieces.right, points), start),
        _put(values, pieces.cdf_left, start),
        _put(cdf_right, cut(pieces.cdf_right, values), start),
        pieces.cdf_middle,
    )


def _slice(values: Array, start: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(values, start, AT_ONCE, axis=-1)


def _put(new: Array, into: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(into, new, start, axis=-1)


def _first_knots(components: dist.Distribution, y: Array, quantiles_of: Callable[..., Array]) -> Array:
    """Return y, quantiles of some of the draws, and ends further out, (n, ..., knot)."""
    num_draws = len(jax.tree.leaves(components)[0])
    chosen = np.unique(np.linspace(0, num_draws - 1, min(FEW, num_draws)).round().astype(int))
    places = quantiles_of(jax.tree.map(lambda leaf: leaf[chosen], components), None, jnp.asarray(LEVELS))
    low, median, high = places[..., :1], places[..., len(LEVELS) // 2, None], places[..., -1:]
    ends = jnp.floor(low - REACH * (median - low)), jnp.ceil(high + REACH * (high - median))
    return jnp.concatenate([places, *ends, y[..., None].astype(places.dtype)], axis=-1)
