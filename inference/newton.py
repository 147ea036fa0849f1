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


class Minimum(NamedTuple):
    """The point at which Newton's method ends, and f around it."""

    u: Float[Array, " d"]
    decrement: Float[Array, ""]
    """The Newton decrement at u, in units of f; infinite where the Hessian at the start is not positive definite."""
    slope: Float[Array, " d"]
    """The gradient at u."""
    curvature: Float[Array, "d d"]
    """The Hessian at u."""


class _Iterate(NamedTuple):
    u: Array
    best: Minimum
    """The point with the smallest Newton decrement so far."""
    stalls: Array
    step: Array
    convex: Array


def newton(
    f: Callable[[Array], Array], u: Float[Array, " d"], max_steps: int = MAX_STEPS, ridge: float | None = None
) -> Minimum:
    """Minimise f from u while its Hessian is positive definite (Boyd & Vandenberghe 2004, algorithm 9.5).

    Ends where the Newton decrement ``g' H^-1 g / 2``, the decrease that is still to be had, no longer gets smaller:
    it is computed from gradients, so the minimum is found to the precision of the gradient and not to its square root,
    as it would be by comparing values of f.

    Args:
        f: a scalar function of a vector (d,).
        u: where to begin.
        max_steps: the largest number of steps.
        ridge: what is added to the Hessian, scaled to a diagonal of 1; by default 10 times the rounding. With a larger
            one the method converges in the other directions where the Hessian is singular in some.

    Returns:
        The point with the smallest decrement; u where the Hessian at u is not positive definite.
    """
    f = jax.jit(f)  # traced once, and not for its values, its gradient and its Hessian
    value_and_gradient, second = jax.value_and_grad(f), hessian(f)
    eps = jnp.finfo(u.dtype).eps
    added = 10 * eps if ridge is None else ridge

    def advance(it: _Iterate) -> _Iterate:
        (value, g), h = value_and_gradient(it.u), second(it.u)
        scale = 1 / jnp.sqrt(jnp.maximum(jnp.diagonal(h), jnp.finfo(u.dtype).tiny))
        scaled = h * scale[:, None] * scale + added * jnp.eye(u.size, dtype=u.dtype)
        factor = jax.scipy.linalg.cholesky(scaled, lower=True)
        direction = -scale * jax.scipy.linalg.cho_solve((factor, True), scale * g)
        decrement = -0.5 * g @ direction
        convex = jnp.isfinite(decrement)  # the factor is NaN where the Hessian is not positive definite

        better = convex & (decrement < it.best.decrement)
        best = Minimum(it.u, jnp.where(better, decrement, it.best.decrement), g, h)
        rounding = 10 * eps * jnp.abs(value)

        def too_far(state: tuple[Array, Array]) -> Array:
            i, length = state
            return (i < HALVINGS) & ~(f(it.u + length * direction) <= value + rounding)

        _, length = jax.lax.while_loop(too_far, lambda s: (s[0] + 1, s[1] / 2), (jnp.array(0), jnp.ones((), u.dtype)))
        return _Iterate(
            u=jnp.where(convex, it.u + length * direction, it.u),
            best=jax.tree.map(lambda new, old: jnp.where(better | (it.step == 0), new, old), best, it.best),
            stalls=jnp.where(better, 0, it.stalls + 1),
            step=it.step + 1,
            convex=convex,
        )

    def unfinished(it: _Iterate) -> Array:
        return it.convex & (it.stalls < 3) & (it.step < max_steps)

    none = Minimum(u, jnp.array(jnp.inf, u.dtype), jnp.zeros_like(u), jnp.zeros((u.size, u.size), u.dtype))
    start = _Iterate(u, none, jnp.array(0), jnp.array(0), jnp.array(True))
    return jax.lax.while_loop(unfinished, advance, start).best
