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
    n = data.num_rows
    least, most = (_Least(min(EXTREME_ROWS, n // 2)) for _ in range(2))
    for part in parts:
        log_probs = by_unit_weight(surface.log_likelihood(u, part.on_device()), part)
        least.add(log_probs)
        most.add(np.where(np.isnan(log_probs), -np.inf, -log_probs))
    extreme = np.union1d(least.rows, most.rows)
    spaced = np.setdiff1d(np.linspace(0, n - 1, min(n, max_rows or SPACED_ROWS)).astype(int), extreme)
    rows = np.concatenate([extreme, spaced])
    weights = np.ones(len(rows)) if data.weights is None else np.asarray(data.weights, float)[rows]
    weights[len(extreme) :] *= (n - len(extreme)) / max(1, len(spaced))
    return replace(data.take(rows), weights=jnp.asarray(weights, float)).on_device()


class _Least:
    """The rows with the smallest of the values that go by, in memory that does not grow with their number."""

    def __init__(self, count: int) -> None:
        self._count, self._passed = count, 0
        self._values, self.rows = np.empty(0), np.empty(0, int)

    def add(self, values: np.ndarray) -> None:
        """Add the values of the next rows."""
        rows = np.arange(self._passed, self._passed + len(values))
        self._passed += len(values)
        values, rows = np.concatenate([self._values, values]), np.concatenate([self.rows, rows])
        if len(values) > self._count:
            least = np.argpartition(values, self._count)[: self._count]
            values, rows = values[least], rows[least]
        self._values, self.rows = values, rows


def by_unit_weight(log_likelihood: Any, data: Data) -> np.ndarray:
    """Return log p(y_i | x_i, w) of every row, from that times the weight of the row in the data."""
    values = np.array(log_likelihood, float)
    return values if data.weights is None else values / np.where(np.asarray(data.weights) > 0, data.weights, 1)
