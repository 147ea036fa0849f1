"""The values of `numpyro.deterministic` sites at the draws of a fit."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype

from .checks import Layout
from .density import Density
from .kept import widened
from .repeated import reached
from .rows import Data, Rows, Weights


def deterministic_draws(density: Density, layout: Layout, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of the deterministic sites at every draw, (chain, draw, *shape of the site).

    Those that depend on x, or have an axis of rows, are left out: there would be one per row, as many as predictions.

    Args:
        density: the density of which the draws are.
        layout: the layout of x.
        draws: the draws by latent site, (chain, draw, *shape).
    """
    shapes, names = _sites_without_rows(density, layout)
    if not names:
        return {}
    count = next(iter(draws.values())).shape[:2]
    x = jax.tree.map(jnp.zeros_like, layout.abstract(1))  # any rows will do

    @jax.jit
    def evaluate(draws: Weights, x: Rows) -> Weights:
        def each(weights: Weights) -> Weights:
            values = density.deterministic(weights, Data(x))
            return {name: jnp.asarray(values[name]) for name in names}

        return jax.lax.map(each, draws)

    flat = {site: jnp.asarray(widened(value)).reshape(-1, *value.shape[2:]) for site, value in draws.items()}
    values = jax.device_get(evaluate(flat, x))
    return {name: values[name].reshape(*count, *shapes[name]) for name in names}


def _sites_without_rows(density: Density, layout: Layout) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the shapes of the deterministic sites, and the names of those that depend on neither x nor its length."""
    like = {site: jax.ShapeDtypeStruct(shape, canonicalize_dtype(float)) for site, shape in density.structure.sites}

    def values(weights: Weights, x: Rows) -> Weights:
        return density.deterministic(weights, Data(x))

    trace: Any = partial(jax.make_jaxpr(values, return_shape=True), like)
    (program, one), (_, two) = trace(layout.abstract(1)), trace(layout.abstract(2))
    names = tuple(name for name, value in sorted(one.items()) for _ in jax.tree.leaves(value))
    of_x = reached(program.jaxpr, names, set(program.jaxpr.invars[len(like) :]))
    shapes = {name: np.shape(value) for name, value in one.items() if hasattr(value, "shape")}
    return shapes, [name for name, shape in shapes.items() if name not in of_x and np.shape(two[name]) == shape]
