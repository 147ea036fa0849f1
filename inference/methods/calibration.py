"""The scales and the step size of `SGMCMC`, from gradients of batches of rows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ..density import Density
from ..rows import Data, Weights

CALIBRATION_BATCHES = 32
"""The number of batches from which the noise of the gradient is measured, so that a scale is known to 12%."""
BATCHES_OF_ROWS = 8
"""The least number of such batches that all rows make: where there are fewer rows, these batches are smaller."""
POWER_ITERATIONS = 10
"""The steps of the power method that finds the largest curvature, each a product with the Hessian of a few batches."""
CURVATURE_BATCHES = 4
"""The number of batches whose rows this Hessian is that of."""
MAX_SQUARED_STEP = 0.25
"""The largest squared step size times the largest curvature: a sixteenth of the limit of stability."""
FLOOR = 1e-6
"""The least precision of a coordinate, in units of the mean."""


class Calibration(NamedTuple):
    """The functions that find scales and a step size for one chain.

    The variance of the gradients of rows is that of the score, whose sum over rows is the precision that the data give,
    as far as it is diagonal (the empirical Fisher information); the curvature of the prior is added to it. In these
    units the noise of a batch's gradient has at most the variance of the number of batches, in every coordinate, so
    that one step size suits all.
    """

    density: Density
    unravel: Callable[[Array], Weights]
    """What makes weights by site of a vector u, (d,)."""
    batch_size: int | None
    """The number of rows of a batch of the chains; None is all of them."""
    num_rows: int
    """The number of all rows."""

    def moments(self, u: Array, moments: tuple[Array, ...], batch: Data) -> tuple[Array, ...]:
        """Return the moments of gradients with those of one more batch, around the first gradient, three of (d,)."""
        first, total, squares = moments
        here = jax.grad(self._potential)(u, batch)
        first = jnp.where((first == 0).all(), here, first)
        return first, total + (here - first), squares + (here - first) ** 2

    def found(
        self, u: Array, moments: tuple[Array, ...], size: Array, epoch_time: Array, some: Data, key: Array
    ) -> tuple[Array, Array]:
        """Return the scales, (d,), and the step size at u.

        Args:
            u: the position, (d,).
            moments: the moments of `CALIBRATION_BATCHES` gradients there.
            size: the rows of the batches of these gradients.
            epoch_time: see `SGMCMC`.
            some: the rows of a few batches, whose curvature bounds the step size.
            key: the key of the start of the power method.
        """
        zero, count, (_, total, squares) = jnp.zeros_like(u), CALIBRATION_BATCHES, moments
        fisher = jnp.maximum(squares - total**2 / count, 0.0) / (count - 1) * (size / self.num_rows)
        prior = jax.grad(lambda u: self.density.prior_potential(self.unravel(u), some))
        curvature = jax.jvp(prior, (u,), (jnp.ones_like(zero),))[1]  # of independent priors, its diagonal
        precision = fisher + jnp.where(jnp.isfinite(curvature), jnp.maximum(curvature, 0.0), 0.0)
        precision = self._averaged(precision)
        precision += FLOOR * precision.mean() + jnp.finfo(u.dtype).tiny
        scale = precision**-0.5

        def product(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            vector, _ = carry
            at = lambda u: jax.grad(self._potential)(u, some)  # noqa: E731
            image = scale * jax.jvp(at, (u,), (scale * vector,))[1]
            norm = jnp.linalg.norm(image)
            return jnp.where(norm > 0, image / norm, vector), norm

        vector = jax.random.normal(key, zero.shape, u.dtype)
        first = vector / jnp.linalg.norm(vector), jnp.zeros((), u.dtype)
        _, largest = jax.lax.fori_loop(0, POWER_ITERATIONS, product, first)
        num_batches = max(1, self.num_rows // (self.batch_size or self.num_rows))
        step = jnp.minimum(epoch_time / num_batches, jnp.sqrt(MAX_SQUARED_STEP / jnp.maximum(largest, 1.0)))
        return scale, step

    def _potential(self, u: Array, batch: Data) -> Array:
        return self.density.batch_potential(self.unravel(u), batch, self.num_rows)

    def _averaged(self, precision: Array) -> Array:
        """Return precisions, (d,), in which those of a site whose units can be exchanged are their mean."""
        exchangeable = self.density.structure.exchangeable
        by_site = {
            site: jnp.full_like(each, each.mean()) if site in exchangeable else each
            for site, each in self.unravel(precision).items()
        }
        return ravel_pytree(by_site)[0]
