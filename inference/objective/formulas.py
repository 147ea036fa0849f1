"""Losses by name, and by implementations other than NumPyro's: tables by distribution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array
from jax.scipy import special, stats

from ..distributions import stated_loss
from ..sites import element
from ..words import title


class Formula(NamedTuple):
    """The negative log probability of a distribution, by an implementation other than NumPyro's."""

    source: str
    each: Callable[[Any, Any], Array]
    """(distribution, value) -> the negative log probability of every element, in nats."""
    constant: Callable[[Any, Any, set[str]], Any] = lambda d, value, varying: 0.0
    """(distribution, value, parameters that depend on weights) -> the part of it that depends on no weight."""


def formula_of(d: Any) -> Formula | None:
    """Return the formula of a distribution; None where none is known.

    That of a mixture, or of counts with additional zeros, is made of that of its parts.
    """
    match d:
        case dist.MixtureSameFamily() if formula_of(d.component_distribution):
            return Formula("log of a sum over components", _mixture)
        case dist.ZeroInflatedProbs() if formula_of(element(d.base_dist)):
            return Formula("log of a sum where y is 0", _zero_inflated)
    return FORMULAS.get(stated_loss(d) or type(d))


def _each(d: Any, y: Any) -> Array:
    """Return the negative log probability of every element by the formula of a distribution that has one."""
    formula = formula_of(d)
    assert formula is not None
    return formula.each(d, y)


def _mixture(d: Any, y: Any) -> Array:
    parts = -_each(d.component_distribution, jnp.asarray(y)[..., None])
    return -special.logsumexp(jax.nn.log_softmax(d.mixing_distribution.logits) + parts, axis=-1)


def _zero_inflated(d: Any, y: Any) -> Array:
    log_count = jnp.log1p(-d.gate) - _each(element(d.base_dist), y)
    return -jnp.where(y == 0, jnp.logaddexp(jnp.log(d.gate), log_count), log_count)


def _ordinal(d: Any, y: Any) -> Array:
    cuts = jnp.pad(jnp.cumsum(d.gaps, axis=-1), [(0, 0)] * (jnp.ndim(d.gaps) - 1) + [(1, 0)])
    cuts = cuts - cuts.mean(axis=-1, keepdims=True)
    below = jax.nn.sigmoid(cuts - d.predictor[..., None])
    probs = jnp.diff(below, axis=-1, prepend=0.0, append=1.0)
    return -jnp.log((probs * jax.nn.one_hot(y, probs.shape[-1])).sum(axis=-1))


def _student_t_constant(d: Any, y: Any, varying: set[str]) -> Any:
    of_df = jnp.log(d.df) / 2 + special.gammaln(d.df / 2) - special.gammaln((d.df + 1) / 2)
    return jnp.log(jnp.pi) / 2 + (0.0 if "df" in varying else of_df) + (0.0 if "scale" in varying else jnp.log(d.scale))


def _normal_constant(d: Any, varying: set[str]) -> Any:
    return jnp.log(2 * jnp.pi * (1 if "scale" in varying else d.scale) ** 2) / 2


def _multivariate_normal(d: Any, y: Any) -> Array:
    factor = jnp.tril(d.scale_tril)  # the only part that counts
    covariance = factor @ jnp.swapaxes(factor, -1, -2)
    residual = y - d.loc
    distance = (residual * jnp.linalg.solve(covariance, residual[..., None])[..., 0]).sum(axis=-1)
    return (distance + jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]) / 2


def _tails(d: Any, y: Any) -> tuple[Array, Array]:
    """Return log P(Y <= y) and log P(Y > y)."""
    match d:
        case dist.Normal():
            return stats.norm.logcdf(y, d.loc, d.scale), stats.norm.logsf(y, d.loc, d.scale)
        case dist.LogNormal():
            return stats.norm.logcdf(jnp.log(y), d.loc, d.scale), stats.norm.logsf(jnp.log(y), d.loc, d.scale)
        case dist.Gamma():
            return jnp.log(special.gammainc(d.concentration, d.rate * y)), jnp.log(
                special.gammaincc(d.concentration, d.rate * y)
            )
        case dist.StudentT():
            z = (y - d.loc) / d.scale
            outer = jnp.log(special.betainc(d.df / 2, 0.5, d.df / (d.df + z**2)) / 2)
            inner = jnp.log1p(-jnp.exp(outer))
            return jnp.where(z < 0, outer, inner), jnp.where(z < 0, inner, outer)
        case dist.Weibull():
            hazard = (y / d.scale) ** d.concentration
        case _:
            hazard = d.rate * y
    return jnp.log(-jnp.expm1(-hazard)), -hazard


def _censored(d: Any, y: Any) -> Array:
    lower, upper = y[..., 0], y[..., 1]
    lower_is_open = (lower == -jnp.inf) | ((lower <= 0) & (d.base_dist.support is dist.constraints.positive))
    low = jnp.where(lower_is_open, jnp.where(jnp.isinf(upper), 1.0, upper), lower)
    high = jnp.where(jnp.isinf(upper), low, upper)
    (cdf_low, sf_low), (cdf_high, sf_high) = _tails(d.base_dist, low), _tails(d.base_dist, high)
    is_lower = cdf_high < sf_low
    more, less = jnp.where(is_lower, cdf_high, sf_low), jnp.where(is_lower, cdf_low, sf_high)
    is_open = lower_is_open | jnp.isinf(upper)
    between = more + jnp.log(-jnp.expm1(jnp.where(is_open | (lower == upper), -1.0, less - more)))
    closed = jnp.where(lower == upper, -_each(d.base_dist, low), between)
    open_ = jnp.where(lower_is_open, jnp.where(jnp.isinf(upper), 0.0, cdf_high), sf_low)
    return -jnp.where(is_open, open_, closed)


FORMULAS: dict[Any, Formula] = {
    dist.BernoulliLogits: Formula(
        "optax.sigmoid_binary_cross_entropy",
        lambda d, y: optax.sigmoid_binary_cross_entropy(d.logits, y),
    ),
    dist.BernoulliProbs: Formula(
        "y log p + (1 - y) log(1 - p)",
        lambda d, y: jnp.where(y == 1, -jnp.log(d.probs), -jnp.log1p(-d.probs)),
    ),
    dist.CategoricalLogits: Formula(
        "optax.softmax_cross_entropy_with_integer_labels",
        lambda d, y: optax.softmax_cross_entropy_with_integer_labels(d.logits, y),
    ),
    dist.CategoricalProbs: Formula(
        "log p of the label",
        lambda d, y: -jnp.log((d.probs * jax.nn.one_hot(y, d.probs.shape[-1])).sum(axis=-1)),
    ),
    "soft-label cross-entropy": Formula(
        "optax.softmax_cross_entropy",
        lambda d, y: optax.softmax_cross_entropy(d.logits, y),
    ),
    "softmax cross-entropy, summed over tokens": Formula(
        "optax.softmax_cross_entropy_with_integer_labels",
        lambda d, y: optax.softmax_cross_entropy_with_integer_labels(d.logits, y, where=y != d.padding),
    ),
    dist.Normal: Formula(
        "optax.squared_error",
        lambda d, y: optax.squared_error(y - d.loc) / (2 * d.scale**2) + jnp.log(2 * jnp.pi * d.scale**2) / 2,
        lambda d, y, varying: _normal_constant(d, varying),
    ),
    dist.Laplace: Formula(
        "sums of absolute values",
        lambda d, y: jnp.abs(y - d.loc) / d.scale + jnp.log(2 * d.scale),
        lambda d, y, varying: jnp.log(2 * (1 if "scale" in varying else d.scale)),
    ),
    dist.Poisson: Formula(
        "jax.scipy.stats.poisson",
        lambda d, y: -stats.poisson.logpmf(y, d.rate),
        lambda d, y, varying: special.gammaln(y + 1.0),
    ),
    dist.NegativeBinomial2: Formula(
        "jax.scipy.stats.nbinom",
        lambda d, y: -stats.nbinom.logpmf(y, d.concentration, d.rate / (1 + d.rate)),
        lambda d, y, varying: (
            special.gammaln(y + 1.0)
            + (0.0 if "concentration" in varying else special.gammaln(d.concentration))
            - (0.0 if "concentration" in varying else special.gammaln(y + d.concentration))
        ),
    ),
    dist.StudentT: Formula(
        "jax.scipy.stats.t",
        lambda d, y: -stats.t.logpdf(y, d.df, d.loc, d.scale),
        _student_t_constant,
    ),
    dist.LogNormal: Formula(
        "jax.scipy.stats.norm of log y",
        lambda d, y: jnp.log(y) - stats.norm.logpdf(jnp.log(y), d.loc, d.scale),
        lambda d, y, varying: jnp.log(y) + _normal_constant(d, varying),
    ),
    dist.Gamma: Formula(
        "jax.scipy.stats.gamma",
        lambda d, y: -stats.gamma.logpdf(y, d.concentration, scale=1 / d.rate),
        lambda d, y, varying: (
            jnp.log(y)
            if "concentration" in varying
            else special.gammaln(d.concentration) - (d.concentration - 1) * jnp.log(y)
        ),
    ),
    dist.Weibull: Formula(
        "cumulative hazard minus log hazard",
        lambda d, y: (
            (y / d.scale) ** d.concentration
            - jnp.log(d.concentration / d.scale)
            - (d.concentration - 1) * jnp.log(y / d.scale)
        ),
        lambda d, y, varying: (
            jnp.log(y) if "concentration" in varying else -jnp.log(d.concentration) - (d.concentration - 1) * jnp.log(y)
        ),
    ),
    dist.Exponential: Formula(
        "jax.scipy.stats.expon",
        lambda d, y: -stats.expon.logpdf(y, scale=1 / d.rate),
    ),
    "Beta NLL of a share between 0 and 1": Formula(
        "jax.scipy.stats.beta",
        lambda d, y: -stats.beta.logpdf(y, d.concentration1, d.concentration0),
        lambda d, y, varying: jnp.log(y) + jnp.log1p(-y),
    ),
    dist.MultivariateNormal: Formula(
        "jnp.linalg.solve, slogdet",
        _multivariate_normal,
        lambda d, y, varying: jnp.shape(d.loc)[-1] * jnp.log(2 * jnp.pi) / 2,
    ),
    "ordinal cross-entropy, with cumulative logits": Formula("differences of sigmoids", _ordinal),
    "censored likelihood: density of known values, probability of intervals": Formula(
        "jax.scipy.stats and jax.scipy.special", _censored
    ),
    dist.Uniform: Formula(
        "the log of its width",
        lambda d, w: jnp.log(d.high - d.low) + jnp.zeros_like(w),
        lambda d, w, varying: 0.0 if varying else jnp.log(d.high - d.low),
    ),
    dist.ImproperUniform: Formula("0", lambda d, w: jnp.zeros(d.batch_shape)),
}
"""The formulas by distribution, or by its own name for its loss. Subclasses have other log probabilities, and none."""


PRIORS = {kind: FORMULAS[kind] for kind in (dist.Normal, dist.Laplace, dist.Uniform, dist.ImproperUniform)}
"""The formulas of latent sites: those whose constant parts do not depend on the value, which is a weight."""


def _normal_loss(d: Any, varying: set[str], event_dim: int) -> str:
    if "scale" in varying:
        return f"Gaussian NLL, {_learned(d.scale, event_dim)}"
    return "squared error / (2 * {0}^2) + n/2 log(2 pi {0}^2)".format(number(d.scale, "scale"))


def _laplace_loss(d: Any, varying: set[str], event_dim: int) -> str:
    if "scale" in varying:
        return f"Laplace NLL, {_learned(d.scale, event_dim)}"
    return "absolute error / {0} + n log(2 * {0})".format(number(d.scale, "scale"))


LOSSES: dict[type, Callable[[Any, set[str], int], str]] = {
    dist.BernoulliLogits: lambda d, varying, event_dim: "binary cross-entropy with logits",
    dist.BernoulliProbs: lambda d, varying, event_dim: "binary cross-entropy",
    dist.CategoricalLogits: lambda d, varying, event_dim: "softmax cross-entropy",
    dist.CategoricalProbs: lambda d, varying, event_dim: "cross-entropy",
    dist.Normal: _normal_loss,
    dist.Laplace: _laplace_loss,
    dist.Poisson: lambda d, varying, event_dim: "Poisson loss, rate - y log(rate) + log(y!)",
    dist.NegativeBinomial2: lambda d, varying, event_dim: (
        f"negative binomial loss (NB2), (y + c) log(mean + c) - y log(mean) - c log(c) + terms of y and c, "
        f"{_shape('concentration c', d.concentration, varying, event_dim)}"
    ),
    dist.StudentT: lambda d, varying, event_dim: (
        f"Student-t loss, (df + 1)/2 log(1 + z^2 / df) + log(scale) + terms of df, "
        f"{_shape('df', d.df, varying, event_dim)}, {_shape('scale', d.scale, varying, event_dim)}"
    ),
    dist.LogNormal: lambda d, varying, event_dim: f"{_normal_loss(d, varying, event_dim)}, of log y, + sum log y",
    dist.Gamma: lambda d, varying, event_dim: (
        f"Gamma loss, c (y / mean + log(mean)) + terms of y and c, "
        f"{_shape('concentration c', d.concentration, varying, event_dim)}"
    ),
    dist.Weibull: lambda d, varying, event_dim: (
        f"Weibull loss, (y / scale)^c - log(hazard at y), "
        f"{_shape('concentration c', d.concentration, varying, event_dim)}"
    ),
    dist.Exponential: lambda d, varying, event_dim: "exponential loss, y / mean + log(mean)",
    dist.MultivariateNormal: lambda d, varying, event_dim: (
        "squared Mahalanobis distance / 2 + n/2 log |2 pi covariance|"
        + (", learned covariance" if "scale_tril" in varying else "")
    ),
    dist.ZeroInflatedProbs: lambda d, varying, event_dim: (
        f"zero-inflated loss: -log(gate + (1 - gate) p(0)) where y is 0, -log(1 - gate) - log p(y) elsewhere, p "
        f"{title(element(d.base_dist))}"
    ),
}
"""The names of losses by distribution or base class: (distribution, varying parameters, event_dim) -> name.

A distribution of the user's own names its own loss; see `response`.
"""


def _shape(name: str, value: Any, varying: set[str], event_dim: int) -> str:
    """Return a parameter in words: its number, or how it is learned."""
    if name.split()[0] not in varying:
        return f"{name} = {number(value, 'known by row')}"
    words = _learned(value, event_dim)
    return f"{name} depends on x" if words == "scale depends on x" else words.replace("scale", name)


def _learned(scale: Any, event_dim: int) -> str:
    """Return whether a learned scale differs between rows, whose axis precedes those of an event, in words."""
    if one_number(scale) is not None:
        return "one learned scale"
    by_row = np.ndim(scale) > event_dim and np.ptp(scale, axis=-1 - event_dim).any()
    return "scale depends on x" if by_row else "a learned scale for each output"


def one_number(value: Any) -> float | None:
    """Return the number that all elements equal; None where they differ."""
    values = np.unique(np.asarray(value))
    return float(values[0]) if values.size == 1 and values.dtype.kind in "biuf" else None


def number(value: Any, otherwise: str) -> str:
    """Return the number that all elements equal, in words, or other words where they differ."""
    number = one_number(value)
    return otherwise if number is None else f"{number:.4g}"
