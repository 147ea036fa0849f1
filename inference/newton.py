"""Newton's method, to finish small convex problems to working precision."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .curvature import hessian

MAX_STEPS = 64
HALVINGS = 12
"""How often a step that raises the function is halved before Newton gives up."""


class _Iterate(NamedTuple):
    u: Array
    best: Array
    decrement: Array
    """The smallest Newton decrement so far, reached at `best`."""
    stalls: Array
    step: Array
    convex: Array


def newton(f: Callable[[Array], Array], u: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """Minimise f from u while its Hessian is positive definite (Boyd & Vandenberghe 2004, algorithm 9.5).

    Ends where the Newton decrement ``g' H^-1 g / 2``, the decrease that is still to be had, no longer gets smaller:
    it is computed from gradients, so the minimum is found to the precision of the gradient and not to its square root,
    as it would be by comparing values of f.

    Args:
        f: a scalar function of a vector (d,).
        u: where to begin.

    Returns:
        The point with the smallest decrement, and that decrement in units of f; (u, inf) where the Hessian at u is not
        positive definite.
    """
    value_and_gradient, second = jax.value_and_grad(f), hessian(f)
    eps = jnp.finfo(u.dtype).eps

    def advance(it: _Iterate) -> _Iterate:
        (value, g), h = value_and_gradient(it.u), second(it.u)
        scale = 1 / jnp.sqrt(jnp.maximum(jnp.diagonal(h), jnp.finfo(u.dtype).tiny))
        scaled = h * scale[:, None] * scale + 10 * eps * jnp.eye(u.size, dtype=u.dtype)
        factor = jax.scipy.linalg.cholesky(scaled, lower=True)
        direction = -scale * jax.scipy.linalg.cho_solve((factor, True), scale * g)
        decrement = -0.5 * g @ direction
        convex = jnp.isfinite(decrement)  # the factor is NaN where the Hessian is not positive definite

        better = convex & (decrement < it.decrement)
        rounding = 10 * eps * jnp.abs(value)

        def too_far(state: tuple[Array, Array]) -> Array:
            i, length = state
            return (i < HALVINGS) & ~(f(it.u + length * direction) <= value + rounding)

        _, length = jax.lax.while_loop(too_far, lambda s: (s[0] + 1, s[1] / 2), (jnp.array(0), jnp.ones((), u.dtype)))
        return _Iterate(
            u=jnp.where(convex, it.u + length * direction, it.u),
            best=jnp.where(better, it.u, it.best),
            decrement=jnp.where(better, decrement, it.decrement),
            stalls=jnp.where(better, 0, it.stalls + 1),
            step=it.step + 1,
            convex=convex,
        )

    def unfinished(it: _Iterate) -> Array:
        return it.convex & (it.stalls < 3) & (it.step < MAX_STEPS)

    inf = jnp.array(jnp.inf, u.dtype)
    start = _Iterate(u, u, inf, jnp.array(0), jnp.array(0), jnp.array(True))
    end = jax.lax.while_loop(unfinished, advance, start)
    return end.best, end.decrement
