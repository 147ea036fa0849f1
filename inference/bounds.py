"""The check of y against bounds that differ between rows: the number of trials of a Binomial, a point of censoring.

`Response.check` compares y with a support that is the same in all rows. Bounds that are computed from the rows are
computed here, without the weights; those that depend on latent sites are left to the log density.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .density import Density
from .distributions import of_one_value
from .parts import Part, part, traced
from .rows import Data, Weights, signature
from .stored import in_parts, numbered_from
from .words import index_in_words

INSIDE, LOWER, UPPER = range(3)


def check_bounds(density: Density, data: Data) -> None:
    """Raise ValueError at the first value of y outside the support of its distribution in that row."""
    names = (name for name, _, _ in density.structure.by_site(data.y))
    for name, (of_site, some) in zip(names, density.by_site(data), strict=True):
        _check_site(name, of_site, some)


def _check_site(name: str, density: Density, data: Data) -> None:
    """Raise ValueError as `check_bounds` does for one observed site, whose rows have this name."""
    support = of_one_value(density.structure.response.support)
    ends = [getattr(support, name, 0) for name in ("lower_bound", "upper_bound")]
    if len(jax.tree.leaves(data.y)) != 1 or not any(isinstance(end, jax.Array | np.ndarray) for end in ends):
        return
    for start, (x, y, weights, gaps) in in_parts(data.rows, "checking y"):
        with numbered_from(start):
            _check_part(name, density, data.with_rows((x, y, weights, gaps)), support)


def _check_part(name: str, density: Density, data: Data, support: Any) -> None:
    tree, leaves = signature(data)
    parts = _parts(density, tree, leaves, jax.config.jax_enable_x64)
    known = {number: np.asarray(each.of(data)) for number, each in parts.items() if not each.sites}
    values = np.asarray(jax.tree.leaves(data.y)[0])
    outside = np.zeros(values.shape, bool)
    if INSIDE in known:
        outside |= ~known[INSIDE].reshape(known[INSIDE].shape + (1,) * (values.ndim - known[INSIDE].ndim))
    if LOWER in known:
        outside |= ~(values >= known[LOWER])
    if UPPER in known:
        outside |= ~(values <= known[UPPER])
    if data.known is not None:
        outside &= np.asarray(jax.tree.leaves(data.known)[0])
    if outside.any():
        index = tuple(np.argwhere(outside)[0].tolist())
        low, high = (f"{w} {known[n][index]:.7g}" if n in known else "" for w, n in (("from", LOWER), ("to", UPPER)))
        kind = "an integer" if support.is_discrete else "a number"
        raise ValueError(
            f"{name}{index_in_words(index)}: expected {' '.join(filter(None, (kind, low, high)))}, the bounds of its "
            f"distribution in this row; got {values[index]:.7g}."
        )


@lru_cache(maxsize=256)
def _parts(density: Density, tree: Any, leaves: Any, in_double: bool) -> dict[int, Part]:
    """Return the parts of a model that compute whether y is in its support, and the bounds, in the shape of y."""
    found: list[int] = []

    def evaluate(weights: Weights, data: Data) -> list[jax.Array]:
        support, (y,) = of_one_value(density.observation(weights, data).support), jax.tree.leaves(data.y)
        ends: dict[int, Any] = {
            LOWER: getattr(support, "lower_bound", None),
            UPPER: getattr(support, "upper_bound", None),
        }
        ends = {number: end for number, end in ends.items() if end is not None and _fits(end, y)}
        found[:] = [INSIDE, *ends]
        return [support(y), *(jnp.broadcast_to(end, y.shape) for end in ends.values())]

    program = traced(evaluate, density, tree, leaves)
    return {number: part(program, output, density) for output, number in enumerate(found)}


def _fits(end: Any, y: jax.Array) -> bool:
    try:
        return np.broadcast_shapes(jnp.shape(end), y.shape) == y.shape
    except ValueError:
        return False
