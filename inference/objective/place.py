"""A place in weight space, as a user names it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..density import Density
from ..result import Fit
from ..rows import Data, Weights
from ..start import START_KEY, starting_weights
from ..structure import Structure

type Place = Fit | Mapping[str, Any]
"""Weights: a fit (its first draw), or a mapping from latent sites to values."""


def weights_at(place: Place | None, density: Density, data: Data) -> Weights:
    """The weights at a place; None is where `fit` with key 0 starts.

    Raises:
        TypeError: when the place is neither a fit nor a mapping.
        ValueError: when sites are missing or unknown, or a value has another shape than its site.
    """
    if place is None:
        start = jax.jit(lambda key, data: starting_weights(density, data, key))
        return start(jax.random.split(jax.random.fold_in(jax.random.key(0), START_KEY), 1)[0], data)
    return as_weights(place, density.structure)


def as_weights(place: Place, structure: Structure) -> Weights:
    """The weights of a fit's first draw or of a mapping, with the shapes of the sites; see `weights_at`."""
    if isinstance(place, Fit):
        place = {site: value[0, 0] for site, value in place.draws.items()}
    if not isinstance(place, Mapping):
        raise TypeError(f"Expected a fit or a mapping from sites to values; got {place!r}.")
    if set(place) != set(structure.latents):
        raise ValueError(f"Expected values for the sites {list(structure.latents)}; got {list(place)}.")
    weights = {}
    for site, shape in structure.latents.items():
        value = np.asarray(place[site])
        if value.dtype.kind not in "biuf" or value.shape != shape:
            raise ValueError(f"Site {site!r}: expected numbers of shape {shape}; got {value.dtype} of {value.shape}.")
        weights[site] = jnp.asarray(value, float)
    return weights
