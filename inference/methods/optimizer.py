"""Optimisers of point estimates: the default, and the check of a user's own."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ..fingerprint import ByValue

LEARNING_RATE = 1e-2
"""The learning rate of the default Adam, annealed to 0 by a cosine; suits inputs and outputs of unit scale."""


class _Annealing(NamedTuple):
    step: Array
    num_steps: Array
    """The total number of steps: a value, not a constant of the program, so that other numbers compile nothing."""


def annealed_adam() -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015) with a learning rate that falls from 0.01 to 0 by a cosine over `num_steps`."""

    def init(params: Any) -> _Annealing:
        return _Annealing(jnp.zeros((), int), jnp.ones((), int))

    def update(updates: Any, state: _Annealing, params: Any = None) -> tuple[Any, _Annealing]:
        done = jnp.minimum(state.step, state.num_steps) / state.num_steps
        rate = -LEARNING_RATE * 0.5 * (1 + jnp.cos(jnp.pi * done))
        updates = jax.tree.map(lambda leaf: rate.astype(leaf.dtype) * leaf, updates)
        return updates, state._replace(step=state.step + 1)

    return optax.chain(optax.scale_by_adam(), optax.GradientTransformation(init, update))


def with_num_steps(state: Any, num_steps: Array) -> Any:
    """Return the state of an optimiser with the total number of steps set; a user's own is unchanged."""
    return jax.tree.map(
        lambda leaf: leaf._replace(num_steps=num_steps) if isinstance(leaf, _Annealing) else leaf,
        state,
        is_leaf=lambda leaf: isinstance(leaf, _Annealing),
    )


@lru_cache(maxsize=64)
def check_optimizer(method: str, chosen: ByValue) -> None:
    """Raise ValueError unless this is an optax optimiser that moves weights by their gradients alone."""
    optimizer = chosen.value
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"{method}: expected an optax optimiser such as optax.adam(1e-3); got {optimizer!r}.")
    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def moves(weight: float) -> list[Array]:
        params, zero = jnp.full(3, weight), jnp.zeros(3)
        state, path = optimizer.init(params), []
        for _ in range(3):  # the first step of a schedule may have learning rate 0
            updates, state = optimizer.update(zero, state, params, value=jnp.array(1.0))
            path.append(updates)
        return path

    try:
        decays = not np.array_equal(moves(1.0), moves(2.0), equal_nan=True)
    except TypeError as error:
        raise ValueError(
            f"{method}: expected an optimiser that uses only gradients; this one needs more ({error}). The polish "
            f"takes small convex problems to their optimum."
        ) from error
    if decays:
        raise ValueError(
            f"{method}: the optimiser moves weights whose gradient is 0: it has weight decay, a prior that is not in "
            f"the density. Set its weight_decay to 0 and state the prior: gaussian(scale)."
        )
