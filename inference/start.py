"""The starting points of optimisers and chains."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import biject_to

from .density import Density
from .rows import Data, Weights
from .sites import is_latent, is_real

START_KEY, BATCH_KEY, VALIDATION_KEY, CONDITIONAL_KEY = range(4)
"""What the key of a fit is folded with: for starting points, batches, the split of validation rows, and the sites that
are sampled given the others."""
START_NOISE = 0.1
"""Standard deviation, in unconstrained coordinates, of the starting points of biases and scalars."""


def starting_weights(
    density: Density,
    data: Data,
    key: Array,
    strategy: Callable[..., Any] | None = None,
    *,
    first: Array | bool = True,
) -> Weights:
    """Return the starting point of an optimiser or a chain, in the coordinates of the model; see `MAP`.

    Args:
        density: the density that is optimised or sampled.
        data: rows; the sites in `Data.start` start at their values there.
        key: the key of the noise.
        strategy: a NumPyro initialisation strategy that replaces the default.
        first: whether this is the first starting point of a fit, the only one at a lifted module's own values.
    """
    key_noise, key_model = jax.random.split(key)
    noise = _Noise(key_noise, density.structure.latents)

    def begin(site: dict[str, Any]) -> Array | None:
        if not is_latent(site):
            return None
        if site["name"] in data.start:
            return data.start[site["name"]]
        own = _own_value(site)
        return _near_prior_mean(site, noise) if own is None else _shuffled(site["name"], own, noise, first)

    return density.sample(key_model, data, strategy or begin)


class _Noise:
    """One normal draw and one sort for all sites: separate ones for each site would take seconds to compile."""

    def __init__(self, key: Array, latents: Mapping[str, tuple[int, ...]]) -> None:
        self.names, self.sizes = list(latents), [math.prod(shape) for shape in latents.values()]
        self.ends = np.cumsum(self.sizes)
        self.together = jax.random.normal(key, (self.ends[-1],))
        self.of = dict(zip(self.names, jnp.split(self.together, self.ends[:-1]), strict=True))
        """Standard normal numbers by site, one per element, (size,)."""

    @cached_property
    def orders(self) -> dict[str, Array]:
        """A random order of the elements of each site, by site, (size,)."""
        number = np.repeat(np.arange(len(self.sizes)), self.sizes)
        within = jnp.lexsort((self.together, number)) - np.repeat(self.ends - self.sizes, self.sizes)
        return dict(zip(self.names, jnp.split(within, self.ends[:-1]), strict=True))


def _near_prior_mean(site: dict[str, Any], noise: _Noise) -> Array:
    d, shape, eps = site["fn"], site["fn"].shape(), noise.of[site["name"]]
    if is_real(d.support) and len(shape) >= 2:
        return eps.reshape(shape) / math.sqrt(math.prod(shape[:-1]))
    transform = biject_to(d.support)
    try:
        centre = transform.inv(jnp.broadcast_to(d.mean, shape))
    except (NotImplementedError, ImportError):  # the mean does not exist, or NumPyro computes it by another package
        centre = jnp.zeros(transform.inverse_shape(shape))
    centre = jnp.where(jnp.isfinite(centre), centre, 0.0)
    return transform(centre + START_NOISE * eps[: centre.size].reshape(centre.shape))


def _own_value(site: dict[str, Any]) -> Array | None:
    """Return the value of a site in a lifted module; None where there is none, or the prior excludes it."""
    value = site["infer"].get("start")
    if value is None:
        return None
    with jax.ensure_compile_time_eval():
        possible = is_real(site["fn"].support) or bool(jnp.all(site["fn"].support(value)))
    return jnp.asarray(value, float) if possible else None


def _shuffled(name: str, own: Array, noise: _Noise, first: Array | bool) -> Array:
    """Return the value itself at the first starting point, and a shuffled copy at the others.

    A shuffled matrix of independent initial values is again one of independent initial values. Vectors, such as biases
    of 0 and scales of 1, are not shuffled.
    """
    if own.ndim < 2 or first is True:
        return own
    return jnp.where(first, own, own.ravel()[noise.orders[name]].reshape(own.shape))
