"""The Gauss-Newton matrix, row by row: the curvature of a likelihood, from first derivatives of a model.

It is ``sum_i J_i' F_i J_i`` over rows i, with the derivatives J_i of the parameters of row i's distribution by the
weights, and the Fisher information F_i of these parameters (Martens 2020, section 6). Row by row it costs as much as a
few gradients and one product of matrices, where each column of a Hessian costs several gradients.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from .curvature import divergence, has_fisher_information, hessian
from .density import Density
from .distributions import real_numbers
from .rows import Data, Weights, signature

ROWS_TOGETHER = 256
"""The number of rows whose derivatives are in memory together."""
MAX_PARAMETERS = 64
"""The largest number of parameters of a row's distribution for which their information matrix is formed."""


def is_by_rows(density: Density, data: Data) -> bool:
    """Return whether the Gauss-Newton matrix can be formed row by row.

    The Fisher information must be known, the parameters few, and the model must run on a single row.
    """
    return has_fisher_information(density, data) and _runs_by_rows(density, *signature(data))


@lru_cache(maxsize=256)
def _runs_by_rows(density: Density, tree: Any, leaves: Any) -> bool:
    data = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct((1, *shape[1:]), dtype) for shape, dtype in leaves])
    weights = {site: jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for site, shape in density.structure.sites}
    try:
        parameters = jax.eval_shape(lambda *at: real_numbers(density.observations(*at))[0], weights, data)
    except (TypeError, ValueError, IndexError):  # raised by the model, which expects more than one row
        return False
    return parameters.size <= MAX_PARAMETERS


def expected_hessian(density: Density, u: Weights, data: Data, prior_power: Array | float = 1.0) -> Float[Array, "d d"]:
    """Return `gauss_newton` plus the Hessian of the negative log prior, times a factor of the log prior."""
    vector, unravel = ravel_pytree(u)

    def prior(vector: Array) -> Array:
        return prior_power * density.prior_potential(unravel(vector), data)

    return gauss_newton(density, u, data) + hessian(prior)(vector)


def gauss_newton(density: Density, u: Weights, data: Data) -> Float[Array, "d d"]:
    """Return the Gauss-Newton matrix of the negative log likelihood in nats, at weights in unconstrained coordinates.

    Of several observed sites it is the sum over the sites. The order of its rows and columns is that of
    `ravel_pytree(u)`. The memory is that of the derivatives of `ROWS_TOGETHER` rows.
    """
    first, *rest = (_of_site(part, u, some) for part, some in density.by_site(data))
    return sum(rest, first)


def _of_site(density: Density, u: Weights, data: Data) -> Float[Array, "d d"]:
    """Return `gauss_newton` of a density that has one observed site."""
    vector, unravel = ravel_pytree(u)

    def factors(row: Array) -> tuple[Array, Array]:
        """Return J and F J of one row, (parameters, d)."""
        one = data.take(row[None])
        here, weight = density.scaled_observation(density.constrain(u, one), one)
        parameters, rebuild = real_numbers(here)
        information = jax.hessian(lambda there: jnp.sum(weight * divergence(here, rebuild(there))))(parameters)

        def of(vector: Array) -> Array:
            return real_numbers(density.observation(density.constrain(unravel(vector), one), one))[0]

        slopes = jax.jacrev(of)(vector)
        return slopes, information @ slopes

    num_rows, d = data.num_rows, vector.size
    size = min(num_rows, ROWS_TOGETHER)
    count = -(-num_rows // size)

    def add(total: Array, some: Array) -> tuple[Array, None]:
        slopes, weighted = jax.vmap(factors)(jnp.minimum(some, num_rows - 1))
        slopes = jnp.where((some < num_rows)[:, None, None], slopes, 0.0)  # the last part is filled up
        return total + slopes.reshape(-1, d).T @ weighted.reshape(-1, d), None

    parts = jnp.arange(count * size).reshape(count, size)
    return jax.lax.scan(add, jnp.zeros((d, d), vector.dtype), parts)[0]
