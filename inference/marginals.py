"""The distribution of each value of y: moments and cdf, also where NumPyro does not implement them.

The values of a vector are described one by one, each by its marginal distribution. Those of a censored distribution are
what its base distribution describes, such as the time itself, of which y may be a bound.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import betainc
from numpyro.distributions import Distribution

from .distributions import CENSORED, Affine, of_one_value, takes_intervals
from .sites import element

CATEGORICALS = dist.CategoricalLogits | dist.CategoricalProbs


def values_of(d: Distribution) -> Distribution:
    """Return the distribution of the values themselves, which differs from that of y where y can be censored."""
    match d:
        case dist.Independent():
            return dist.Independent(values_of(d.base_dist), d.reinterpreted_batch_ndims)
        case dist.MaskedDistribution():
            return values_of(d.base_dist)
        case dist.ExpandedDistribution() if isinstance(element(d), CENSORED):
            return values_of(d.base_dist).expand(d.batch_shape)
    return d.base_dist.expand(d.batch_shape) if isinstance(d, CENSORED) else d


def is_censored(d: Distribution) -> bool:
    """Return whether a value of y may be a bound of what its distribution describes, and the model knows where."""
    return isinstance(element(d), CENSORED)


def is_interval(d: Distribution) -> bool:
    """Return whether y is bounds of a value, (n, 2)."""
    return isinstance(element(d), dist.IntervalCensoredDistribution)


def is_ordered(d: Distribution) -> bool:
    """Return whether classes have an order: they have a mean, as numbers do, or the distribution states a cdf."""
    each = element(d)
    if isinstance(each, CATEGORICALS):
        return isinstance(each, dist.OrderedLogistic)
    return type(each).cdf is not Distribution.cdf or type(each).mean is not Distribution.mean


def moments_of(d: Distribution) -> tuple[Array, Array]:
    """Return mean and variance in the shape of the values: distributions omit axes along which they do not vary."""
    d = values_of(d)
    return jnp.broadcast_to(d.mean, d.shape()), jnp.broadcast_to(d.variance, d.shape())


def cdf_of(d: Distribution, y: Array) -> Array:
    """Return P(Y <= y) for each value of y, in the shape of y, also outside of the support.

    Raises:
        NotImplementedError: when it cannot be computed.
    """
    match d:
        case dist.Independent() | dist.ExpandedDistribution() | dist.MaskedDistribution():
            return cdf_of(d.base_dist, y)
        case Affine():
            return cdf_of(d.base_dist, (y - d.shift) / d.factor)
        case dist.MixtureSameFamily() | dist.MixtureGeneral():
            return _cdf_of_mixture(d, y)
        case dist.ZeroInflatedProbs():
            return jnp.where(y < 0, 0.0, d.gate + (1 - d.gate) * cdf_of(d.base_dist, y))
        case dist.HurdleProbs() if d.support.is_discrete:
            zero = jnp.exp(d.base_dist.log_prob(jnp.zeros((), int)))
            positive = (cdf_of(d.base_dist, y) - zero) / (1 - zero)
            return jnp.where(y < 0, 0.0, d.gate + (1 - d.gate) * jnp.maximum(positive, 0.0))
        case dist.FoldedDistribution():
            return jnp.where(y < 0, 0.0, cdf_of(d.base_dist, y) - cdf_of(d.base_dist, -y))
        case dist.TransformedDistribution():
            return _cdf_of_transformed(d, y)
    if isinstance(d, CENSORED):
        return cdf_of(d.base_dist, y)
    marginal = _marginal(d)
    return _within(d, y, _cdf_of_value(d, y)) if marginal is None else cdf_of(marginal, y)


def interval_of(d: Distribution, y: Array) -> tuple[Array, Array]:
    """Return the ends of the interval in which the probability integral transform of y is uniform.

    For continuous y both are P(Y <= y); for discrete y they are P(Y < y) and P(Y <= y) (Czado, Gneiting & Held 2009);
    where y is a bound, or two, they are the probabilities of what it leaves open: for a right-censored y P(Y <= y) and
    1. Both have the shape of the values.
    """
    each = element(d)
    match each:
        case dist.RightCensoredDistribution():
            cdf = cdf_of(each, y)
            return cdf, jnp.where(each.censored, 1.0, cdf)
        case dist.LeftCensoredDistribution():
            cdf = cdf_of(each, y)
            return jnp.where(each.censored, 0.0, cdf), cdf
        case dist.IntervalCensoredDistribution():
            left, right = each.left_censored, each.right_censored
            low = jnp.where(left, 0.0, cdf_of(each, y[..., 0]))
            high = jnp.where(right, 1.0, cdf_of(each, y[..., 1]))
            return jnp.where(left & right, jnp.nan, low), jnp.where(left & right, jnp.nan, high)
    if takes_intervals(each) and jnp.ndim(y) > len(d.shape()):
        return cdf_of(d, y[..., 0]), cdf_of(d, y[..., 1])
    if of_one_value(d.support).is_discrete:
        below, cdf = cdf_of(d, jnp.stack([y - 1, y]))
        return below, cdf
    cdf = cdf_of(d, y)
    return cdf, cdf


def sums_pmf(d: Distribution) -> bool:
    """Return whether `cdf_of` adds the probabilities of all values up to y, so that its cost grows with y."""
    each = element(d)
    match each:
        case dist.MixtureSameFamily():
            return sums_pmf(each.component_distribution)
        case dist.MixtureGeneral():
            return any(sums_pmf(component) for component in each.component_distributions)
        case dist.ZeroInflatedProbs() | dist.HurdleProbs():
            return sums_pmf(each.base_dist)
        case dist.DirichletMultinomial():
            return True  # its marginals are beta-binomial
    return of_one_value(each.support).is_discrete and not isinstance(each, CLOSED) and not _states_cdf(each)


def _states_cdf(d: Distribution) -> bool:
    return type(d).cdf is not Distribution.cdf


def _cdf_of_mixture(d: Any, y: Array) -> Array:
    axis = -1 - d.event_dim
    if isinstance(d, dist.MixtureSameFamily):
        parts = cdf_of(d.component_distribution, jnp.expand_dims(y, axis))
    else:
        parts = jnp.stack([cdf_of(component, y) for component in d.component_distributions], axis)
    probs = d.mixing_distribution.probs
    return (probs.reshape(probs.shape + (1,) * d.event_dim) * parts).sum(axis)


def _cdf_of_transformed(d: Any, y: Array) -> Array:
    """Return the cdf of a continuous variable under maps that are monotone, each in one value."""
    if d.base_dist.support.is_discrete or any(t.domain.event_dim or t.codomain.event_dim for t in d.transforms):
        raise NotImplementedError
    is_rising, value = jnp.array(True), _clipped(d, y)
    for transform in reversed(d.transforms):
        is_rising, value = is_rising ^ (jnp.asarray(transform.sign) < 0), transform.inv(value)
    cdf = cdf_of(d.base_dist, value)
    return _within(d, y, jnp.where(is_rising, cdf, 1 - cdf))


def _marginal(d: Distribution) -> Distribution | None:
    """Return the distributions of the values of a vector, whose batch shape is that of the vectors; None if unknown."""
    match d:
        case dist.MultivariateNormal() | dist.LowRankMultivariateNormal():
            return dist.Normal(d.mean, jnp.sqrt(d.variance))
        case dist.MultivariateStudentT():
            return dist.StudentT(jnp.asarray(d.df)[..., None], d.loc, jnp.sqrt(jnp.square(d.scale_tril).sum(axis=-1)))
        case dist.Dirichlet():
            return dist.Beta(d.concentration, d.concentration.sum(axis=-1, keepdims=True) - d.concentration)
        case dist.DirichletMultinomial():
            others = d.concentration.sum(axis=-1, keepdims=True) - d.concentration
            return dist.BetaBinomial(d.concentration, others, jnp.asarray(d.total_count)[..., None])
        case dist.MultinomialProbs():
            return dist.BinomialProbs(d.probs, jnp.asarray(d.total_count)[..., None])
        case dist.MultinomialLogits():
            return dist.BinomialProbs(jax.nn.softmax(d.logits), jnp.asarray(d.total_count)[..., None])
    return None


CLOSED = (
    *(dist.BernoulliProbs, dist.BernoulliLogits, dist.BinomialProbs, dist.BinomialLogits),
    *(dist.GeometricProbs, dist.GeometricLogits, dist.CategoricalProbs, dist.CategoricalLogits),
    *(dist.MultinomialProbs, dist.MultinomialLogits),
)
"""Discrete families whose cdf NumPyro does not have, and this module has in closed form, or not at all."""


def _cdf_of_value(d: Any, y: Array) -> Array:
    """Return the cdf of one value within its support; that of a discrete family may be a sum of probabilities."""
    if d.support.is_discrete:
        y = jnp.floor(y)
    match d:
        case dist.BernoulliProbs() | dist.BernoulliLogits():
            return jnp.where(y < 0, 0.0, jnp.where(y < 1, 1 - d.probs, 1.0))
        case dist.BinomialProbs() | dist.BinomialLogits():
            hits = jnp.clip(y, 0, jnp.maximum(d.total_count - 1, 0))
            return betainc(jnp.maximum(d.total_count - hits, 1.0), hits + 1.0, 1 - d.probs)
        case dist.GeometricProbs() | dist.GeometricLogits():
            return -jnp.expm1((_clipped(d, y) + 1) * jnp.log1p(-d.probs))
        case dist.OrderedLogistic():
            cumulative = jnp.broadcast_to(jnp.cumsum(d.probs, axis=-1), (*y.shape, d.probs.shape[-1]))
            place = jnp.clip(y, 0, d.probs.shape[-1] - 1).astype(int)[..., None]
            return jnp.take_along_axis(cumulative, place, axis=-1)[..., 0]
        case dist.CategoricalProbs() | dist.CategoricalLogits():
            raise NotImplementedError
    if _states_cdf(d):
        return d.cdf(_clipped(d, y))
    low = getattr(of_one_value(d.support), "lower_bound", None)
    if d.event_dim or not d.support.is_discrete or low is None:
        raise NotImplementedError
    return _sum_of_probs(d, _clipped(d, y), jnp.min(jnp.asarray(low)))


def _sum_of_probs(d: Distribution, y: Array, low: Array) -> Array:
    """Return P(Y <= y) as a sum of probabilities, from the least value on."""

    def add(value: Array, total: Array) -> Array:
        return total + jnp.where(value <= y, jnp.exp(d.log_prob(value)), 0.0)

    total = jnp.zeros(jnp.broadcast_shapes(jnp.shape(y), d.shape()), jnp.result_type(float))
    last = jnp.where(jnp.isfinite(y), y, 0).max().astype(int)
    return jnp.minimum(jax.lax.fori_loop(low.astype(int), last + 1, add, total), 1.0)


def _clipped(d: Distribution, y: Array) -> Array:
    """Return y, moved into the support."""
    support = of_one_value(d.support)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return y if low is None and high is None else jnp.clip(y, low, high)


def _within(d: Distribution, y: Array, cdf: Array) -> Array:
    """Return a cdf that is 0 below the support and 1 above it, where the formula of a distribution may be NaN."""
    support = of_one_value(d.support)
    low, high = getattr(support, "lower_bound", -jnp.inf), getattr(support, "upper_bound", jnp.inf)
    return jnp.where(y >= high, 1.0, jnp.where((y < low) | (y == -jnp.inf), 0.0, cdf))
