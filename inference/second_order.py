"""The objective of a point estimate with its second derivatives, in float64, and Newton's method on it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from .curvature import hessian
from .density import Density
from .gauss_newton import expected_hessian, is_by_rows
from .newton import DAMPING, FLOOR, Derivatives, Minimum, minimise
from .processes import jit
from .programs import program
from .rows import Data, Weights, in_double, to_device

FEW_WEIGHTS, HESSIAN_WEIGHTS, GAUSS_NEWTON_WEIGHTS = 32, 256, 1024
"""The largest numbers of weights for which the Hessian is used alone, and is used at all, and for which Gauss-Newton
matrices are. Far from the mode of a network these lead there in fewer steps, each at a tenth of the cost."""
HESSIAN_WORK = 2**31
"""The largest number of rows times weights squared for which Hessians are used if Gauss-Newton matrices are known."""
SAMPLE_SEED = 0
"""The seed of the rows from which curvature is estimated: a fit and its repetition have the same ones."""


class Objective:
    """The negative log density of `Density.loss`, in nats, compiled.

    Args:
        density: the density that is maximised.
    """

    def __init__(self, density: Density) -> None:
        def nats(vector: Array, like: Weights, data: Data, prior_power: Array) -> Array:
            return data.num_rows * density.loss(ravel_pytree(like)[1](vector), _widened(data), None, prior_power)

        self.nats = jax.jit(nats)


class SecondOrder:
    """The negative log density of `Density.loss`, in nats, and its derivatives: all in float64.

    They are sums over rows, a part of the rows at a time. The curvature may be estimated from some of the rows: steps
    then need a few more evaluations, and end at the same minimum, where the slope over all rows is 0 (Byrd et al. 2011,
    "On the use of stochastic Hessian information").

    Args:
        density: the density that is maximised.
        by_gauss_newton: replace the Hessian of the likelihood by the Gauss-Newton matrix.
        objective: the compiled objective, which the functions of both matrices share; by default a new one.
    """

    def __init__(self, density: Density, by_gauss_newton: bool, objective: "Objective | None" = None) -> None:
        self.density, self.by_gauss_newton = density, by_gauss_newton
        self._value = (objective or Objective(density)).nats  # traced once for all functions
        self._value_and_slope = jit(jax.value_and_grad(self._value))
        self._derivatives = jit(self._all_derivatives)

    def minimise(
        self,
        u: Weights,
        data: Data,
        prior_power: Any = None,
        *,
        begin: np.ndarray | None = None,
        max_steps: int,
        keep_going: Callable[[list[float]], bool] = lambda decrements: True,
        damping: float = DAMPING,
        floor: float = FLOOR,
        enough: float = 0.0,
        rows_together: int | None = None,
        curvature_rows: int | None = None,
    ) -> Minimum:
        """Return where Newton's method ends, a vector in the order of `ravel_pytree`; see `newton.minimise`.

        Args:
            u: where it begins, by site.
            data: n rows.
            prior_power: the factor of the log prior; by default 1.
            begin: where it begins, as a vector; by default u.
            max_steps: see `newton.minimise`, also for what follows.
            keep_going: whether to go on.
            damping: the first damping.
            floor: the smallest curvature.
            enough: the decrement at which it ends.
            rows_together: the number of rows that are evaluated together; by default all.
            curvature_rows: the number of rows from which the curvature is estimated; by default all.
        """
        with jax.enable_x64(True):
            u = to_device(jax.tree.map(in_double, u))
            like, power = u, jnp.asarray(1.0 if prior_power is None else prior_power, float)
            size = min(rows_together or data.num_rows, data.num_rows)
            if size == data.num_rows and not data.is_stored:
                data = to_device(jax.tree.map(in_double, data))
            some = None if curvature_rows is None else sampled(data, curvature_rows)

            def mean(function: Callable[..., Any], vector: np.ndarray, rows: Data) -> Any:
                return _mean(function(vector, like, part, power) for part in _parts(rows, size))

            def derivatives(vector: np.ndarray) -> Derivatives:
                if some is None:
                    return Derivatives.of(*mean(self._derivatives, vector, data))
                value, slope = mean(self._value_and_slope, vector, data)
                return Derivatives.of(value, slope, mean(self._derivatives, vector, some)[2])

            return minimise(
                lambda vector: _finite(mean(self._value, vector, data)),
                derivatives,
                as_vector(u) if begin is None else begin,
                max_steps=max_steps,
                keep_going=keep_going,
                damping=damping,
                floor=floor,
                enough=enough,
                is_positive=self.by_gauss_newton,
            )

    def _all_derivatives(self, vector: Array, *rest: Any) -> tuple[Array, Array, Array]:
        value, slope = jax.value_and_grad(self._value)(vector, *rest)
        return (
            value,
            slope,
            self._gauss_newton(vector, *rest) if self.by_gauss_newton else hessian(self._value)(vector, *rest),
        )

    def _gauss_newton(self, vector: Array, like: Weights, data: Data, prior_power: Array) -> Array:
        return expected_hessian(self.density, ravel_pytree(like)[1](vector), _widened(data), prior_power)


def second_order_of(density: Density, data: Data) -> tuple[SecondOrder, ...]:
    """Return the compiled objectives of a density, in the order in which they lead to a mode; none for many weights."""
    d = density.structure.num_weights
    work = data.num_rows * d**2
    by_rows = d <= GAUSS_NEWTON_WEIGHTS and (d > FEW_WEIGHTS or work > HESSIAN_WORK) and is_by_rows(density, data)
    is_small = d <= HESSIAN_WEIGHTS and (work <= HESSIAN_WORK or not by_rows)
    kinds = (*((True,) if by_rows else ()), *((False,) if is_small else ()))
    return tuple(second_order(density, data, by_gauss_newton) for by_gauss_newton in kinds)


def second_order(density: Density, data: Data, by_gauss_newton: bool) -> SecondOrder:
    """Return the compiled objective of a density with one of the two matrices."""
    return program(SecondOrder, density, data, by_gauss_newton, program(Objective, density, data))


def _finite(value: Array) -> float:
    return float(value) if np.isfinite(value) else math.inf


def as_vector(u: Weights) -> np.ndarray:
    """Return weights as a vector in the order of `ravel_pytree`, without a program for each site."""
    return np.concatenate([np.ravel(u[site]) for site in sorted(u)])


def from_vector(vector: np.ndarray, like: Weights) -> dict[str, Any]:
    """Return a vector taken apart into sites of the shapes of others; see `as_vector`."""
    sites = sorted(like)
    parts = np.split(vector, np.cumsum([np.size(like[site]) for site in sites])[:-1])
    return {site: part.reshape(np.shape(like[site])) for site, part in zip(sites, parts, strict=True)}


def _parts(data: Data, size: int) -> Iterator[Data]:
    """Yield parts of rows with weights by which the mean of their objectives is that of all rows.

    A row of k parts has a weight of k, and one that only fills the last part has none; the prior is part of each.
    """
    n = data.num_rows
    count = -(-n // size)
    if count == 1 and not data.is_stored:
        yield data
        return
    for start, part in data.parts(-(-n // count)):
        is_new = np.arange(start, start + part.num_rows) < n
        yield part.weighted(count * is_new)


def sampled(data: Data, count: int) -> Data:
    """Return rows spread evenly over all, one at random in each of `count` equal ranges, which stand for all rows."""
    n = data.num_rows
    rows = ((np.arange(count) + np.random.default_rng(SAMPLE_SEED).random(count)) * (n / count)).astype(int)
    return data.take(np.minimum(rows, n - 1)).weighted(np.full(count, n / count))


def _widened(data: Data) -> Data:
    """Return rows whose numbers are in float64, in a traced function."""
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf, data
    )


def _mean(values: Iterator[Any]) -> Any:
    """Return the mean of pytrees of arrays."""
    total, count = next(values), 1
    for value in values:
        total, count = jax.tree.map(jnp.add, total, value), count + 1
    return total if count == 1 else jax.tree.map(lambda leaf: leaf / count, total)
