"""Points in weight space, as users specify them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from ..density import Density
from ..distributions import of_one_value
from ..result import Fit
from ..rows import Data, Weights
from ..start import START_KEY, starting_weights
from ..structure import Structure

type Point = Fit | Mapping[str, Any]
"""A point in weight space: a fit (its first draw), or a mapping from latent sites to values."""


def weights_at(point: Point | None, density: Density, data: Data) -> Weights:
    """Return the weights at a point; None is the starting point of `fit` with key 0.

    Raises:
        TypeError: when the point is neither a fit nor a mapping.
        ValueError: when sites are missing or unknown, or the shape of a value is not that of its site.
    """
    if point is None:
        start = jax.jit(lambda key, data: starting_weights(density, data, key))
        return start(jax.random.split(jax.random.fold_in(jax.random.key(0), START_KEY), 1)[0], data)
    return as_weights(point, density.structure)


def as_weights(point: Point, structure: Structure) -> Weights:
    """Return the weights of a fit's first draw or of a mapping, with the shapes of the sites; see `weights_at`."""
    if isinstance(point, Fit):
        point = {site: value[0, 0] for site, value in point.draws.items()}
    if not isinstance(point, Mapping):
        raise TypeError(f"Expected a fit or a mapping from sites to values; got {point!r}.")
    if set(point) != set(structure.latents):
        raise ValueError(f"Expected values for the sites {list(structure.latents)}; got {list(point)}.")
    weights = {}
    for site, shape in structure.latents.items():
        value = np.asarray(point[site])
        if value.dtype.kind not in "biuf" or value.shape != shape:
            raise ValueError(f"Site {site!r}: expected numbers of shape {shape}; got {value.dtype} of {value.shape}.")
        weights[site] = jnp.asarray(value, float)
    return weights


def within_supports(density: Density, weights: Weights, data: Data) -> Weights:
    """Return weights whose vectors and matrices are in their supports in the precision of now.

    In float64 NumPyro gives probability 0 to a Cholesky factor of a correlation whose rows have norm 1 in float32.
    """
    moved = jax.tree.map(jnp.asarray, dict(weights))
    for site, prior in density.priors(moved, data).items():
        if of_one_value(prior.support).event_dim:
            transform = biject_to(prior.support)
            moved[site] = transform(transform.inv(moved[site]))
    return moved
