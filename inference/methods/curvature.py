"""The negative log density over unconstrained coordinates, and how it curves."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import kl_divergence
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy

from ..density import NumPyroModel, Rows, Structure, Weights, observation, signature, unmasked
from ..devices import PROGRAMS_KEPT
from .newton import COLUMNS_AT_ONCE

Curvature = Literal["ggn", "hessian"]


class Surface:
    """The negative log density over unconstrained coordinates, with its derivatives: what is compiled once.

    Its functions take a vector u, and u as it is by site (of which only the shapes matter), x and y.
    """

    def __init__(self, curvature: Curvature, model: NumPyroModel, structure: Structure) -> None:
        self.model, self.observed = model, structure.observed
        self.value_and_slope = jax.jit(jax.value_and_grad(self._potential))
        self.hessian = jax.jit(_hessian(self._potential))
        self.product = jax.jit(_product(self._potential))
        self.curvature = self.hessian if curvature == "hessian" else jax.jit(self._ggn)
        self.constrain = jax.jit(jax.vmap(self._constrain, in_axes=(0, None, None, None)))

    def _potential(self, u: Array, like: Weights, x: Rows, y: Rows) -> Array:
        return potential_energy(self.model, (x, y), {}, by_site(u, like))

    def _constrain(self, u: Array, like: Weights, x: Rows, y: Rows) -> Weights:
        return constrain_fn(self.model, (x, y), {}, by_site(u, like))

    def _ggn(self, centre: Array, like: Weights, x: Rows, y: Rows) -> Array:
        """The Hessian where the likelihood's is the Fisher information: that of the KL divergence from the centre."""
        prior = block(self.model, hide=[self.observed])

        def site(u: Array) -> tuple[dist.Distribution, Array]:
            model = seed(substitute(self.model, data=self._constrain(u, like, x, y)), jax.random.key(0))
            found = trace(model).get_trace(x)[self.observed]
            return unmasked(found["fn"]), jnp.asarray(1.0 if found["scale"] is None else found["scale"])

        def expected(u: Array, centre: Array, like: Weights, x: Rows, y: Rows) -> Array:
            (here, scale), (there, _) = site(u), site(centre)
            return potential_energy(prior, (x, y), {}, by_site(u, like)) + jnp.sum(scale * _divergence(there, here))

        return _hessian(expected)(centre, centre, like, x, y)


def _hessian(f: Callable[..., Array]) -> Callable[..., Array]:
    """The Hessian of f by its first argument, a vector, some columns at a time."""
    product = _product(f)

    def hessian(u: Array, *args: Any) -> Array:
        columns = jnp.eye(u.size, dtype=u.dtype)
        return jax.lax.map(lambda v: product(u, v, *args), columns, batch_size=COLUMNS_AT_ONCE)

    return hessian


def _product(f: Callable[..., Array]) -> Callable[..., Array]:
    """The Hessian of f by its first argument, times a vector: two gradients."""
    slope = jax.grad(f)
    return lambda u, v, *args: jax.jvp(lambda u: slope(u, *args), (u,), (v,))[1]


def by_site(u: Any, like: Any) -> Weights:
    """A vector of unconstrained coordinates, taken apart into sites of the shapes of others."""
    return ravel_pytree(like)[1](u)


def _divergence(p: dist.Distribution, q: dist.Distribution) -> Array:
    """KL(p || q) row by row, but for what does not depend on q.

    Raises:
        NotImplementedError: when it is not known.
    """
    if isinstance(p, dist.Poisson):
        return q.rate - p.rate * jnp.log(q.rate)
    if p.has_enumerate_support and not p.event_shape:
        values = p.enumerate_support(expand=False)
        return -jnp.sum(jnp.exp(p.log_prob(values)) * q.log_prob(values), axis=0)
    return kl_divergence(p, q)


def _knows_divergence(model: NumPyroModel, structure: Structure, x: Rows) -> bool:
    """Whether the observed site has a Fisher information that is known."""

    def from_itself(weights: Weights, x: Rows) -> Array:
        d = observation(model, weights, x, structure.observed)
        return _divergence(d, d)

    weights = {site: jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for site, shape in structure.sites}
    try:
        jax.eval_shape(from_itself, weights, x)
    except NotImplementedError:
        return False
    return True


@lru_cache(maxsize=PROGRAMS_KEPT)
def _cached_surface(
    curvature: Curvature | None, model: NumPyroModel, structure: Structure, tree: Any, leaves: Any
) -> Surface:
    x, _ = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    known = curvature == "hessian" or _knows_divergence(model, structure, x)
    if curvature == "ggn" and not known:
        raise ValueError(
            f"Laplace: curvature='ggn' needs the Fisher information of the observed site {structure.observed!r}, for "
            f"which NumPyro has no KL divergence. Give curvature='hessian'."
        )
    return Surface(curvature or ("ggn" if known else "hessian"), model, structure)


def surface_of(curvature: Curvature | None, model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> Surface:
    """The surface of this model for these shapes: made once."""
    return _cached_surface(curvature, model, structure, *signature((x, y)))
