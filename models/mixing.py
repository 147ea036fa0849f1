"""Detect modules that mix rows: by their operations, and by their values where an operation is suspect."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .internals import ClosedJaxpr, Jaxpr, JaxprEqn

ROWS = 1009
"""The number of rows in the trace: a prime, so that no other axis is a multiple of it by chance."""
ALONE, NUM_ROWS = slice(1, 3), 5
"""The rows to evaluate on their own, neither the first nor in the middle, and how many rows there are."""
ORDERING = ("cum", "fft", "gather", "rev", "scatter", "sort")
"""Prefixes of the names of operations that may mix values along an axis and leave its length unchanged."""


def mixes_rows(call: Callable[[Any, Any], Any], weights: Mapping[str, np.ndarray], x: Any) -> bool:
    """Whether the output of a row depends on other rows, as with ``x - x.mean(0)``.

    The operations come from an abstract trace, which takes milliseconds. Only if one of them removes the axis of rows,
    or may reorder it, is anything computed: the outputs of two rows on their own and of the same two among others, at
    random x and at weights near the given ones. A dependence on the number of rows alone is not detected.

    Args:
        call: (weights, x) -> outputs, rows first.
        weights: site -> value.
        x: rows; only their shapes and types are used.
    """
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)), x)
    try:
        suspect = _is_suspect(jax.make_jaxpr(call)(dict(weights), many).jaxpr)
        return suspect and _differs(call, weights, many)
    except Exception:  # an error of the module itself is raised when it is called on x
        return False


def _differs(call: Callable[[Any, Any], Any], weights: Mapping[str, np.ndarray], x: Any) -> bool:
    """Whether rows have other outputs on their own than among other rows."""
    rng = np.random.default_rng(0)
    near = {site: value + 0.3 * rng.normal(size=value.shape).astype(value.dtype) for site, value in weights.items()}
    few = jax.tree.map(lambda leaf: _random(rng, (NUM_ROWS, *leaf.shape[1:]), leaf.dtype), x)

    @jax.jit
    def both(weights: Any, x: Any) -> tuple[Any, Any]:
        alone = call(weights, jax.tree.map(lambda leaf: leaf[ALONE], x))
        return alone, jax.tree.map(lambda leaf: leaf[ALONE], call(weights, x))

    with jax.ensure_compile_time_eval():  # the model may be under a trace
        alone, among = (jax.tree.leaves(jax.device_get(outputs)) for outputs in both(near, few))
    return not all(map(_are_close, alone, among))


def _are_close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one, float), np.asarray(other, float)
    return np.allclose(one, other, rtol=0, atol=0.01 * np.nan_to_num(np.abs(other)).max(), equal_nan=True)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Random values: normal, with other rows above and below; for integers, which may be indices, 0 and 1."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return rng.integers(0, 2, shape).astype(dtype)
    numbers = rng.normal(size=shape)
    numbers[: ALONE.start] += 4
    numbers[ALONE.stop :] -= 4
    return numbers.astype(dtype)


def _is_suspect(jaxpr: Jaxpr) -> bool:
    return any(map(_may_mix, jaxpr.eqns))


def _may_mix(equation: JaxprEqn) -> bool:
    """Whether an operation removes or adds an axis of rows, or may change the order along one."""
    parts = [part for value in equation.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    within = [getattr(part, "jaxpr", part) for part in parts if isinstance(part, ClosedJaxpr | Jaxpr)]
    name, given = equation.primitive.name, [_row_axes(var) for var in equation.invars]
    if within and not name.startswith(("reduce", "scatter")):  # their inner function takes two scalars
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
    """For each axis over rows: the product of the sizes of the axes before it, and its own size."""
    shape = getattr(var.aval, "shape", ())
    return [(math.prod(shape[:axis]), size) for axis, size in enumerate(shape) if size and size % ROWS == 0]


def _along_rows(equation: JaxprEqn) -> bool:
    """Whether an operation along one axis is along rows; assumed if the operation does not state its axis."""
    axis = equation.params.get("axis", equation.params.get("dimension"))
    shape = getattr(equation.invars[0].aval, "shape", ())
    return not isinstance(axis, int) or shape[axis] % ROWS == 0
