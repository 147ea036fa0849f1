"""Logs of P(Y <= y) and P(Y > y), accurate in both tails in float32, with derivatives that are finite.

NumPyro's distributions have a cdf. Its log, and that of 1 - cdf, are lost where it rounds to 0 or to 1, a few standard
deviations from the middle in float32: for a censored value this is an ordinary row at the start of a fit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy import special

TERMS = {"float32": 128, "float64": 256}
"""The number of terms of series and continued fractions: their errors are then below the rounding of the type."""


def log_tails(d: dist.Distribution, value: Array) -> tuple[Array, Array]:
    """Return log P(Y <= value) and log P(Y > value), for finite values inside the support.

    Raises:
        NotImplementedError: when they are not known for the distribution.
    """
    tails = TAILS.get(type(d))
    if tails is None:
        raise NotImplementedError(f"The tails of {type(d).__name__} are not known.")
    return tails(d, value)


def log1mexp(x: Array) -> Array:
    """Return log(1 - exp(-x)) for x > 0 (Maechler 2012)."""
    is_small = x < jnp.log(2.0)
    small, large = jnp.where(is_small, x, 1.0), jnp.where(is_small, 1.0, x)
    return jnp.where(is_small, jnp.log(-jnp.expm1(-small)), jnp.log1p(-jnp.exp(-large)))


def _normal(d: Any, value: Array) -> tuple[Array, Array]:
    z = (value - d.loc) / d.scale
    return special.log_ndtr(z), special.log_ndtr(-z)


def _log_normal(d: Any, value: Array) -> tuple[Array, Array]:
    z = (jnp.log(value) - d.loc) / d.scale
    return special.log_ndtr(z), special.log_ndtr(-z)


def _exponential(d: Any, value: Array) -> tuple[Array, Array]:
    hazard = d.rate * value
    return log1mexp(hazard), -hazard


def _weibull(d: Any, value: Array) -> tuple[Array, Array]:
    log_hazard = d.concentration * (jnp.log(value) - jnp.log(d.scale))
    largest = jnp.log(jnp.finfo(log_hazard.dtype).max) - 1
    hazard = jnp.exp(jnp.minimum(log_hazard, largest))
    is_tiny = log_hazard < -20.0  # where 1 - exp(-hazard) is the hazard, which may be too small for the type
    log_cdf = jnp.where(is_tiny, log_hazard, log1mexp(jnp.where(is_tiny, 1.0, hazard)))
    return log_cdf, -hazard


def _student_t(d: Any, value: Array) -> tuple[Array, Array]:
    """Return the tails by the incomplete beta function: P(T > t) is half of I_x(df / 2, 1 / 2), x = df / (df + t^2).

    JAX has no derivative of that function by df, which is therefore a constant here.
    """
    t = (value - d.loc) / d.scale
    a = jnp.broadcast_to(jax.lax.stop_gradient(jnp.asarray(d.df, t.dtype)) / 2, t.shape)
    ratio = t * t / (2 * a)  # t^2 / df
    is_far = ratio > 1.0
    near = jnp.where(is_far, 0.5, ratio)
    middle = special.betainc(0.5, a, near / (1 + near))  # P(|T| < |t|)
    far = jnp.where(is_far, ratio, 2.0)
    log_x, x = -jnp.log1p(far), 1 / (1 + far)
    series = _series(lambda n: x * (a + n - 0.5) / (a + n), x)
    log_beta = special.gammaln(a) + special.gammaln(0.5) - special.gammaln(a + 0.5)
    tail = a * log_x + 0.5 * jnp.log1p(-x) - jnp.log(a) - log_beta + jnp.log(series)
    log_outer = jnp.where(is_far, tail, jnp.log1p(-middle)) - jnp.log(2.0)
    log_inner = jnp.log1p(-jnp.exp(log_outer))
    return jnp.where(t < 0, log_outer, log_inner), jnp.where(t < 0, log_inner, log_outer)


def _gamma(d: Any, value: Array) -> tuple[Array, Array]:
    """Return the tails by the series of the lower one, and Legendre's continued fraction of the upper one.

    Both converge within the terms for a concentration of up to about 1,000 (Press et al. 2007, section 6.2), and have
    derivatives of any order by it, which JAX's incomplete gamma functions have not.
    """
    x = d.rate * value
    a, x = jnp.broadcast_arrays(jnp.asarray(d.concentration, x.dtype), x)
    is_low = x < a + 1
    low, high = jnp.where(is_low, x, a), jnp.where(is_low, a + 2, x)
    log_lower = _log_front(a, low) - jnp.log(a) + jnp.log(_series(lambda n: low / (a + n), x))
    terms = TERMS[str(x.dtype)]

    def convergent(i: Array, fraction: Array) -> Array:
        n = (terms - i).astype(x.dtype)
        return high + 2 * n - 1 - a - n * (n - a) / fraction

    fraction = jax.lax.fori_loop(0, terms, convergent, high + 2 * terms + 1 - a)
    log_upper = _log_front(a, high) - jnp.log(fraction)
    one = jnp.where(is_low, log_lower, log_upper)
    other = jnp.log1p(-jnp.exp(one))
    return jnp.where(is_low, one, other), jnp.where(is_low, other, one)


def _log_front(a: Array, x: Array) -> Array:
    """Return the log of the factor that both tails of a Gamma have in common."""
    return a * jnp.log(x) - x - special.gammaln(a)


def _series(ratio: Callable[[Array], Array], like: Array) -> Array:
    """Return the sum of 1, r(1), r(1) r(2), ..., for ratios of one term to the term before."""

    def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        total, term = sums
        term = term * ratio(i.astype(like.dtype))
        return total + term, term

    ones = jnp.ones_like(like)
    return jax.lax.fori_loop(1, TERMS[str(like.dtype)], add, (ones, ones))[0]


TAILS: dict[type, Callable[[Any, Array], tuple[Array, Array]]] = {
    dist.Normal: _normal,
    dist.LogNormal: _log_normal,
    dist.Exponential: _exponential,
    dist.Weibull: _weibull,
    dist.StudentT: _student_t,
    dist.Gamma: _gamma,
}
"""The tails by distribution."""
