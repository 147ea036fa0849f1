"""Second derivatives: Hessians some columns at a time, and the generalised Gauss-Newton matrix."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln
from jaxtyping import Float
from numpyro.distributions import kl_divergence

from .density import Density
from .rows import Data, Weights, signature

COLUMNS_TOGETHER = 16
"""Columns of a Hessian that are computed together; this bounds the memory, at as many copies of the function's own."""


def product(f: Callable[..., Array]) -> Callable[..., Array]:
    """Return ``(u, v, *args) -> H v``, with the Hessian H of f in its first argument, at the cost of two gradients."""
    slope = jax.grad(f)
    return lambda u, v, *args: jax.jvp(lambda u: slope(u, *args), (u,), (v,))[1]


def hessian(f: Callable[..., Array]) -> Callable[..., Array]:
    """Return the Hessian of f in its first argument, a vector: ``(u, *args) -> (d, d)``."""
    times = product(f)

    def columns(u: Float[Array, " d"], *args: Any) -> Float[Array, "d d"]:
        together = min(u.size, COLUMNS_TOGETHER)
        count = -(-u.size // together) * together  # padded by zeros: a smaller last batch would be compiled separately
        directions = jnp.eye(count, u.size, dtype=u.dtype)
        return jax.lax.map(lambda v: times(u, v, *args), directions, batch_size=together)[: u.size]

    return columns


def expected_loss(density: Density, u: Weights, centre: Weights, data: Data) -> Array:
    """Return a function of u whose Hessian at the centre is the generalised Gauss-Newton matrix of the potential.

    It is the negative log prior plus the KL divergence of the observed site from that at the centre, whose Hessian
    there is ``J' F J`` with the Fisher information F (Martens 2020).
    """
    return density.prior_potential(u, data) + expected_misfit(density, u, centre, data)


def expected_misfit(density: Density, u: Weights, centre: Weights, data: Data) -> Array:
    """Return the part of `expected_loss` that is the likelihood, a sum over rows and observed sites."""

    def of_site(density: Density, data: Data) -> Array:
        here, scale = density.scaled_observation(density.constrain(u, data), data)
        there = density.observation(density.constrain(centre, data), data)
        return jnp.sum(scale * divergence(there, here))

    return sum((of_site(*part) for part in density.by_site(data)), jnp.zeros(()))


def has_fisher_information(density: Density, data: Data) -> bool:
    """Return whether the Fisher information of all observed sites is known."""
    return _has_fisher_information(density, *signature(data))


@lru_cache(maxsize=256)
def _has_fisher_information(density: Density, tree: Any, leaves: Any) -> bool:
    data = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])

    def from_itself(weights: Weights, data: Data) -> Array:
        return sum((divergence(d, d) for d in density.observations(weights, data).values()), jnp.zeros(()))

    weights = {site: jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for site, shape in density.structure.sites}
    try:
        jax.eval_shape(from_itself, weights, data)
    except NotImplementedError:
        return False
    return True


def divergence(p: dist.Distribution, q: dist.Distribution) -> Array:
    """Return KL(p || q) per row, up to terms that do not depend on q.

    Raises:
        NotImplementedError: when the divergence is not known.
    """
    has_one_range = not isinstance(getattr(p.support, "upper_bound", 0), jax.Array | np.ndarray)
    if p.has_enumerate_support and not p.event_shape and has_one_range:
        values = p.enumerate_support(expand=False)
        return -jnp.sum(jnp.exp(p.log_prob(values)) * q.log_prob(values), axis=0)
    return kl_divergence(p, q)


def _poisson_divergence(p: dist.Poisson, q: dist.Poisson) -> Array:
    return q.rate - p.rate + p.rate * (jnp.log(p.rate) - jnp.log(q.rate))


def _binomial_divergence(p: Any, q: Any) -> Array:
    of_one_trial = jax.nn.sigmoid(p.logits) * (p.logits - q.logits) - jax.nn.softplus(p.logits)
    return p.total_count * (of_one_trial + jax.nn.softplus(q.logits))


def _exponential_divergence(p: dist.Exponential, q: dist.Exponential) -> Array:
    return jnp.log(p.rate) - jnp.log(q.rate) + q.rate / p.rate - 1


def _weibull_divergence(p: dist.Weibull, q: dist.Weibull) -> Array:
    """Return the KL divergence of Weibull distributions (Bauckhage 2013, eq. 14)."""
    ratio = jnp.log(p.scale) - jnp.log(q.scale)
    log_moment = q.concentration * ratio + gammaln(q.concentration / p.concentration + 1)
    hazard = jnp.log(p.concentration) - jnp.log(q.concentration) + jnp.euler_gamma * (q.concentration / p.concentration)
    return hazard - jnp.euler_gamma - q.concentration * ratio + jnp.exp(log_moment) - 1


def _log_normal_divergence(p: dist.LogNormal, q: dist.LogNormal) -> Array:
    return kl_divergence(dist.Normal(p.loc, p.scale), dist.Normal(q.loc, q.scale))


# NumPyro's table has no entries for these.
kl_divergence.add((dist.Poisson, dist.Poisson), _poisson_divergence)
kl_divergence.add((dist.BinomialLogits, dist.BinomialLogits), _binomial_divergence)
kl_divergence.add((dist.BinomialProbs, dist.BinomialProbs), _binomial_divergence)
kl_divergence.add((dist.Exponential, dist.Exponential), _exponential_divergence)
kl_divergence.add((dist.Weibull, dist.Weibull), _weibull_divergence)
kl_divergence.add((dist.LogNormal, dist.LogNormal), _log_normal_divergence)
