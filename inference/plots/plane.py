"""Rows of one or two numbers as points of a figure."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..checks import check_labels, check_like
from ..result import Fit
from ..rows import Rows

MARGIN = 0.05
"""How far a figure extends beyond the data, as a share of their range."""


def named_fits(fits: Any, caller: str) -> dict[str, Fit]:
    """Return name -> fit; a single fit has the name of its method."""
    named = {fits.method.name: fits} if isinstance(fits, Fit) else fits
    if not isinstance(named, Mapping) or not named or not all(isinstance(fit, Fit) for fit in named.values()):
        raise TypeError(f"{caller}: expected a fit, or a mapping from names to fits; got {fits!r}.")
    return dict(named)


def points_of(fit: Fit, x: Any, *, dimensions: int) -> np.ndarray:
    """Return the rows of x as points, (n, dimensions)."""
    leaves = jax.tree.leaves(check_like(fit.layout, x))
    shape = leaves[0].shape[1:]
    if len(leaves) > 1 or shape not in ((dimensions,), () if dimensions == 1 else (dimensions,)):
        numbers = "one number" if dimensions == 1 else "two numbers"
        shapes = ", ".join(map(str, fit.layout.shapes))
        cure = " plot_decision draws two." if dimensions == 1 and shape == (2,) else ""
        raise ValueError(f"x: expected rows of {numbers}, shape ({dimensions},); got {shapes}.{cure}")
    return np.asarray(leaves[0], float).reshape(-1, dimensions)


def rows_at(fit: Fit, points: np.ndarray) -> Rows:
    """Return points, (m, dimensions), in the layout of the rows of a fit."""
    (shape,) = fit.layout.shapes
    return jax.tree.unflatten(fit.layout.tree, [points.reshape(-1, *shape)])


def labels_of(fit: Fit, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows where y is known, as indices, and its numbers or classes there; of soft labels the most probable.

    A row of y may be a vector, (m, d), or bounds, (m, 2).
    """
    fit.structure.check_one_site("y")
    data = check_labels(fit.model, check_like(fit.layout, x), y)
    leaves = jax.tree.leaves(data.y)
    if len(leaves) > 1:
        raise ValueError(f"y: expected one array; got {', '.join(str(leaf.shape) for leaf in leaves)}.")
    labels = fit.structure.response.labels(leaves[0])
    if data.known is None:
        return np.arange(len(labels)), labels
    known = np.asarray(jax.tree.leaves(data.known)[0])
    rows = np.flatnonzero(known.reshape(len(known), -1).all(axis=1))
    return rows, labels[rows]


def reach_of(values: np.ndarray) -> tuple[float, float]:
    """Return the range of values, extended by `MARGIN` on both sides."""
    room = MARGIN * (np.ptp(values) or 1.0)
    return float(values.min() - room), float(values.max() + room)


def num_draws(fit: Fit) -> int:
    """Return the number of draws of the weights, over all chains."""
    chains, draws = next(iter(fit.draws.values())).shape[:2]
    return chains * draws


def new_axes(count: int) -> "np.ndarray[Any, Any]":
    """Return the axes of a new figure, side by side, (count,)."""
    import matplotlib.pyplot as plt

    width = 6.4 if count == 1 else 10.0
    return np.atleast_1d(plt.subplots(1, count, figsize=(width, 4.2), layout="constrained")[1])
