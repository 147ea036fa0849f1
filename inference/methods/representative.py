"""A few rows that stand for all, where these are not in memory or too many: the end of a fit is judged by them."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..rows import Data, Weights
from ..stored import in_parts
from ..surface import Surface

SPACED_ROWS, EXTREME_ROWS = 2**14, 128
"""The number of evenly spaced rows, and of the least and of the most probable rows."""


def representative(surface: Surface, u: Weights, data: Data, max_rows: int | None = None) -> Data:
    """Return rows, in memory, with weights by which their log likelihood estimates that of all.

    They are the rows with the smallest and the largest log probabilities at u, each with its own weight, and others,
    evenly spaced, which stand for the rest. So what holds for the least probable of them, or for the most probable,
    holds for all rows; a pass through all rows finds them.

    Args:
        surface: the density, at given points.
        u: the point where a fit ended.
        data: n rows; returned as they are where they are in memory, and no more than `max_rows`.
        max_rows: the number of rows above which some in memory stand for all; by default they never do.
    """
    if not data.is_stored and (max_rows is None or data.num_rows <= max_rows):
        return data
    parts = (data.with_rows(rows) for _, rows in in_parts(data.rows, "checking the fit"))
    log_probs = np.concatenate([np.asarray(surface.log_likelihood(u, part.on_device())) for part in parts])
    log_probs = by_unit_weight(log_probs, data)
    n = data.num_rows
    count = min(EXTREME_ROWS, n // 2)
    order = np.argpartition(log_probs, (count, n - count - 1))
    extreme = np.union1d(order[:count], order[n - count :])
    spaced = np.setdiff1d(np.linspace(0, n - 1, min(n, max_rows or SPACED_ROWS)).astype(int), extreme)
    rows = np.concatenate([extreme, spaced])
    weights = np.ones(len(rows)) if data.weights is None else np.asarray(data.weights, float)[rows]
    weights[len(extreme) :] *= (n - len(extreme)) / max(1, len(spaced))
    return replace(data.take(rows), weights=jnp.asarray(weights, float)).on_device()


def by_unit_weight(log_likelihood: Any, data: Data) -> np.ndarray:
    """Return log p(y_i | x_i, w) of every row, from that times the weight of the row in the data."""
    values = np.array(log_likelihood, float)
    return values if data.weights is None else values / np.where(np.asarray(data.weights) > 0, data.weights, 1)
