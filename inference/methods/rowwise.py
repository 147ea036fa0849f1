"""The potential of many weights and rows: Jacobian products over a few rows at a time, without any matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ..curvature import divergence, expected_misfit, product
from ..density import Density
from ..distributions import constrained, real_numbers, unconstrained
from ..programs import program
from ..rows import Data, Weights
from ..surface import by_site


class RowwiseSurface:
    """The potential of a density and the diagonal and products of its Gauss-Newton matrix, a few rows at a time.

    Points are vectors u, as for `PotentialSurface`. Beyond the data, functions use the memory of the rows that are
    evaluated together, and a few vectors of all weights.

    Args:
        density: what is evaluated.
        rows_together: how many rows are evaluated together.
    """

    def __init__(self, density: Density, rows_together: int) -> None:
        self.density, self.rows_together = density, rows_together
        self.value_and_slope = jax.jit(self._value_and_slope)
        self.values = jax.jit(lambda us, *rows: jax.lax.map(lambda u: self._value(u, *rows), us))
        self.product = jax.jit(self._product)
        self.diagonal = jax.jit(self._diagonal)
        self._prior_product = jax.jit(product(self._prior))

        def constrain(u: Array, like: Weights, data: Data) -> Weights:
            return density.constrain(by_site(u, like), data)

        self.constrain = jax.jit(jax.vmap(constrain, in_axes=(0, None, None)))

    def diagonal_of_prior(self, u: np.ndarray, *rows: Any) -> np.ndarray:
        """Return the diagonal of the Hessian of the negative log prior, which must have no other elements.

        Raises:
            ValueError: where the prior of one weight depends on another, as with a learned scale of a prior.
        """
        signs = np.sign(np.cos(np.arange(1.0, len(u) + 1)))
        diagonal, signed = (np.asarray(self._prior_product(u, v, *rows)) for v in (np.ones_like(u), signs))
        if not np.allclose(diagonal, signs * signed, rtol=1e-6, atol=1e-9):
            raise ValueError(
                "Laplace: structure='diagonal' and 'low_rank' expect priors of weights that are independent of each "
                "other; here some depend on another site, such as a learned scale. Use structure='full'."
            )
        return diagonal

    def _prior(self, u: Array, like: Weights, data: Data) -> Array:
        return self.density.prior_potential(by_site(u, like), data)

    def _misfit(self, u: Array, like: Weights, data: Data) -> Array:
        return -self.density.log_likelihood(by_site(u, like), data).sum()

    def _value(self, u: Array, like: Weights, data: Data) -> Array:
        return self._prior(u, like, data) + self._summed(lambda some: self._misfit(u, like, some), data)

    def _value_and_slope(self, u: Array, like: Weights, data: Data) -> tuple[Array, Array]:
        prior = jax.value_and_grad(self._prior)(u, like, data)
        rest = self._summed(lambda some: jax.value_and_grad(self._misfit)(u, like, some), data)
        return jax.tree.map(jnp.add, prior, rest)

    def _product(self, u: Array, v: Array, like: Weights, data: Data) -> Array:
        """Return the Gauss-Newton matrix of the likelihood times a vector."""

        def expected(u: Array, centre: Array, some: Data) -> Array:
            return expected_misfit(self.density, by_site(u, like), by_site(centre, like), some)

        return self._summed(lambda some: product(expected)(u, v, u, some), data)

    def _diagonal(self, u: Array, like: Weights, data: Data) -> Float[Array, " d"]:
        """Return the diagonal of the Gauss-Newton matrix of the likelihood, by one product for each parameter of a row.

        It is the sum of the squares of ``J' r`` over the columns r of a root of each row's Fisher information. Rows
        come one at a time: the gradients of several rows at once take three times as long in a convolution.
        """

        def of_row(row: Data) -> Array:
            return sum((_diagonal_of_row(part, u, like, one) for part, one in self.density.by_site(row)), 0 * u)

        return self._summed(of_row, data, rows_together=1)

    def _summed(self, function: Callable[[Data], Any], data: Data, rows_together: int | None = None) -> Any:
        """Return the sum over rows of a function of some rows."""
        size = min(data.num_rows, rows_together or self.rows_together)
        count = data.num_rows // size

        def add(sums: Any, start: Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, function(data.take(start + jnp.arange(size)))), None

        shapes = jax.eval_shape(function, data.take(jnp.arange(size)))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        sums, _ = jax.lax.scan(add, zeros, size * jnp.arange(count))
        if count * size == data.num_rows:
            return sums
        return jax.tree.map(jnp.add, sums, function(data.take(jnp.arange(count * size, data.num_rows))))


def _diagonal_of_row(density: Density, u: Array, like: Weights, row: Data) -> Float[Array, " d"]:
    """Return the diagonal of the Gauss-Newton matrix of one row of a density with one observed site."""

    def parameters(u: Array) -> Array:
        return real_numbers(_coordinates(density, u, like, row))[0]

    values, vectors = jnp.linalg.eigh(_fisher(density, u, like, row))
    roots = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))).T
    _, back = jax.vjp(parameters, u)

    def add(sums: Array, root: Array) -> tuple[Array, None]:
        return sums + back(root)[0] ** 2, None

    return jax.lax.scan(add, jnp.zeros_like(u), roots)[0]


def _coordinates(density: Density, u: Array, like: Weights, data: Data) -> Any:
    return unconstrained(density.observation(density.constrain(by_site(u, like), data), data))


def _fisher(density: Density, u: Array, like: Weights, data: Data) -> Array:
    """Return the Fisher information of the coordinates of the parameters of y in one row, with its weight."""
    centre = _coordinates(density, u, like, data)
    numbers, rebuild = real_numbers(centre)
    weight = density.scaled_observation(density.constrain(by_site(u, like), data), data)[1]

    def expected(there: Array) -> Array:
        return jnp.sum(weight * divergence(constrained(centre), constrained(rebuild(there))))

    return jax.hessian(expected)(numbers)


def rowwise_surface_of(density: Density, data: Data, rows_together: int) -> RowwiseSurface:
    """Return the compiled functions of a density for these shapes of data: made once."""
    return program(RowwiseSurface, density, data, rows_together)
