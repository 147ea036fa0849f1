"""Does a module mix rows? Read from its operations, and from its values only where these are suspect."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn  # type: ignore[attr-defined]

ROWS = 1009
"""How many rows a module is traced with: a prime, of which no other axis is a multiple by chance."""
ALONE, AMONG = slice(1, 3), 5
"""The rows that are evaluated by themselves, and among how many: not the first ones, nor those in the middle."""
ORDERING = ("cum", "fft", "gather", "rev", "scatter", "sort")
"""How operations are called that may mix along an axis and leave it as long as it was."""


def mixes_rows(call: Callable[[Any, Any], Any], weights: Mapping[str, np.ndarray], x: Any) -> bool:
    """Whether what is computed for a row depends on the rows beside it, as ``x - x.mean(0)`` does.

    The operations are read from an abstract trace, which takes milliseconds. Only where one of them takes the axis of
    the rows away, or may change their order, is anything computed: two rows by themselves, and the same two among
    others, at values at random and at weights near those given. It is not found where a row depends on the number of
    the others alone.

    Args:
        call: (weights, x) -> outputs, rows first.
        weights: site -> value.
        x: rows, of which the shapes and types are looked at.
    """
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)), x)
    try:
        suspect = _is_suspect(jax.make_jaxpr(call)(dict(weights), many).jaxpr)
        return suspect and _differs(call, weights, many)
    except Exception:  # what is wrong shows where the module is called on x itself
        return False


def _differs(call: Callable[[Any, Any], Any], weights: Mapping[str, np.ndarray], x: Any) -> bool:
    """Whether rows by themselves have other outputs than beside others."""
    rng = np.random.default_rng(0)
    near = {site: value + 0.3 * rng.normal(size=value.shape).astype(value.dtype) for site, value in weights.items()}
    few = jax.tree.map(lambda leaf: _at_random(rng, (AMONG, *leaf.shape[1:]), leaf.dtype), x)

    @jax.jit
    def both(weights: Any, x: Any) -> tuple[Any, Any]:
        alone = call(weights, jax.tree.map(lambda leaf: leaf[ALONE], x))
        return alone, jax.tree.map(lambda leaf: leaf[ALONE], call(weights, x))

    with jax.ensure_compile_time_eval():  # also where the model is being traced
        alone, beside = (jax.tree.leaves(jax.device_get(outputs)) for outputs in both(near, few))
    return not all(map(_are_close, alone, beside))


def _are_close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one, float), np.asarray(other, float)
    return np.allclose(one, other, rtol=0, atol=0.01 * np.nan_to_num(np.abs(other)).max(), equal_nan=True)


def _at_random(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of unit scale, between those of the other rows; of integers, which may be indices, 0 and 1."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return rng.integers(0, 2, shape).astype(dtype)
    numbers = rng.normal(size=shape)
    numbers[: ALONE.start] += 4
    numbers[ALONE.stop :] -= 4
    return numbers.astype(dtype)


def _is_suspect(jaxpr: Jaxpr) -> bool:
    return any(map(_may_mix, jaxpr.eqns))


def _may_mix(equation: JaxprEqn) -> bool:
    """Whether an operation takes an axis of rows away, adds one, or may change the order along it."""
    parts = [part for value in equation.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    within = [getattr(part, "jaxpr", part) for part in parts if isinstance(part, ClosedJaxpr | Jaxpr)]
    name, given = equation.primitive.name, [_row_axes(var) for var in equation.invars]
    if within and not name.startswith(("reduce", "scatter")):  # what these hold is for two numbers, whatever the shape
        return equation.params.get("length", 1) % ROWS == 0 or any(map(_is_suspect, within))
    if not any(given):
        return False
    if name == "reshape":
        return [before for before, _ in given[0]] != [before for before, _ in _row_axes(equation.outvars[0])]
    if name.startswith(ORDERING) and given[0] and _along_rows(equation):
        return True
    sizes = [[size for _, size in axes] for axes in given if axes]
    return any([size for _, size in _row_axes(var)] not in sizes for var in equation.outvars)


def _row_axes(var: Any) -> list[tuple[int, int]]:
    """Of each axis that runs over rows how many numbers the axes before it have, and its size."""
    shape = getattr(var.aval, "shape", ())
    return [(math.prod(shape[:axis]), size) for axis, size in enumerate(shape) if size and size % ROWS == 0]


def _along_rows(equation: JaxprEqn) -> bool:
    """Whether an operation along one axis is along rows; those that do not say along which are taken to be."""
    axis = equation.params.get("axis", equation.params.get("dimension"))
    shape = getattr(equation.invars[0].aval, "shape", ())
    return not isinstance(axis, int) or shape[axis] % ROWS == 0
