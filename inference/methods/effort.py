"""How much may follow a descent: as many evaluations of rows as the descent itself took, in bounded memory.

Evaluations are counted and not timed, so that a fit is the same on every machine. What small data cost is free.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..chunks import sizes
from ..density import Density
from ..devices import Spread
from ..rows import Data
from ..second_order import HESSIAN_WORK, SecondOrder
from .representative import SPACED_ROWS

FREE_WORK = 2**29
"""The number of values of y times weights whose gradients are free: a second or two."""
FREE_STEPS = 2**30
"""The number of values of y times weights whose gradients are free in float32: about a second."""
FREE_CURVATURE = 2**32
"""The number of values of y times weights squared whose curvature is free: some seconds."""
FREE_ENTRIES = 2**21
"""The number of rows times weights, and of entries of x, that are evaluated together without a look at the memory."""
COPIES = 16
"""The copies of a row's intermediate values that gradients and curvature in float64 need, at most."""
SHARE = 0.5
"""The number of gradients in float64 that may follow one of the descent."""
FEWEST_STEPS, PASSES_OF_STEP = 5, 2
"""The smallest number of steps in which Newton's method is of use, and the passes through all rows of each."""
CURVATURE_STEPS = 20
"""The number of steps whose curvature costs as much as all passes, where it is estimated from some of the rows."""
COST_OF_HESSIAN, COST_OF_GAUSS_NEWTON = 0.5, 1 / 32
"""The measured cost of a row's curvature, in gradients of the row, divided by the number of weights."""
FEWEST_VALUES, FEWEST_ROWS = 1024, 16
"""The smallest numbers of values of y, and of rows, that stand for all."""
ROWS_OF_WEIGHT = 32
"""The smallest number of rows from which curvature is estimated, divided by the number of weights."""


class Effort(NamedTuple):
    """What may follow a descent."""

    passes: float
    """The number of gradients of all rows."""
    num_rows: int
    num_weights: int
    rows_together: int
    """The number of rows whose derivatives are in memory together."""
    values_per_row: int = 1
    """The number of values of y in a row, such as the tokens of a text, each of which takes a network once."""

    @classmethod
    def of(cls, evaluations: int, density: Density, data: Data) -> "Effort":
        """Return what may follow a descent that took the gradients of so many rows, each as often as it was used."""
        weights = max(1, density.structure.num_weights)
        values = max(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(data.y))
        passes = max(SHARE * evaluations, FREE_WORK / weights / values) / data.num_rows
        return cls(passes, data.num_rows, weights, rows_in_memory(density, data, COPIES), values)

    def affordable(self, problems: tuple[SecondOrder, ...]) -> tuple[SecondOrder, ...]:
        """Return the problems that Newton's method may solve: those with enough steps to arrive."""
        return tuple(problem for problem in problems if self.max_steps(problem) >= FEWEST_STEPS)

    def max_steps(self, problem: SecondOrder) -> int:
        """Return the largest number of Newton steps."""
        share = (self.curvature_rows(problem) or self.num_rows) / self.num_rows
        bought = self.passes / (PASSES_OF_STEP + share * self._cost(problem))
        return int(max(bought, FREE_CURVATURE / (self.values_per_row * self.num_rows * self.num_weights**2)))

    def curvature_rows(self, problem: SecondOrder) -> int | None:
        """Return the number of rows from which curvature is estimated; None where all rows are used."""
        bought = int(self.passes * self.num_rows / CURVATURE_STEPS / self._cost(problem))
        rows = max(bought, ROWS_OF_WEIGHT * self.num_weights)
        return None if rows >= self.num_rows or self.work <= HESSIAN_WORK else rows

    def pays_for_hessians(self, count: int) -> bool:
        """Return whether so many Hessians of all rows may follow."""
        return self.work <= HESSIAN_WORK or count * self.num_weights * COST_OF_HESSIAN <= self.passes

    def rows_for(self, passes: int) -> int:
        """Return the number of rows of which so many gradients may follow, enough for a judgement and no more."""
        return min(max(int(self.passes * self.num_rows / passes), self.fewest_rows), SPACED_ROWS)

    def rows_of(self, evaluations: int) -> int:
        """Return the number of rows, all or some, of which so many gradients in float32 may follow."""
        free = FREE_STEPS / self.num_weights / self.values_per_row
        count = int(max(self.passes * self.num_rows, free) / evaluations)
        return self.num_rows if count >= self.num_rows else min(max(count, self.fewest_rows), 2 * SPACED_ROWS)

    @property
    def fewest_rows(self) -> int:
        """The smallest number of rows that stand for all."""
        return max(FEWEST_VALUES // self.values_per_row, FEWEST_ROWS)

    @property
    def work(self) -> int:
        """The number of rows times weights squared."""
        return self.num_rows * self.num_weights**2

    def _cost(self, problem: SecondOrder) -> float:
        """Return the cost of the curvature of all rows, in gradients of all rows."""
        return self.num_weights * (COST_OF_GAUSS_NEWTON if problem.by_gauss_newton else COST_OF_HESSIAN)


def rows_in_memory(density: Density, data: Data, copies: int) -> int:
    """Return the number of rows of which so many copies of all intermediate values fit in the working memory.

    Of rows that are sharded each device has its own, and all are evaluated together.
    """
    entries = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(data.x))
    if max(entries, data.num_rows * density.structure.num_weights) <= FREE_ENTRIES or Spread.of(data) is not None:
        return data.num_rows
    dtype = jnp.result_type(float)
    draws: dict[str, Any] = {site: jax.ShapeDtypeStruct((1, *shape), dtype) for site, shape in density.structure.sites}
    chunk, _ = sizes(Density.row_log_probs, density, draws, data)
    return max(1, chunk // copies)
