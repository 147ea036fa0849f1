"""The check of indices that a model takes from its rows: JAX clamps those that are out of range, in silence.

Groups numbered from 1, a group that the fit did not have, a token beyond the vocabulary: each would get the value of
its neighbour. The traced program of a model shows where it looks up values, and which of the indices come from the rows
alone. Only these are computed, without the weights and the rest of the model, and compared with the shapes that they
select from. Modes that are stated are the user's wish: "clip" and "fill" of `.at[].get`, and `jnp.clip` of an index.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode

from .density import Density
from .internals import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from .parts import Part, part, traced
from .rows import Data, abstract_rows, signature
from .words import index_in_words

ROWS_TOGETHER = 2**16
"""The number of rows whose indices are computed together."""
OPAQUE = ("cond", "while", "pallas_call")
"""Operations whose programs are not searched: what they look up depends on values."""


class _Place(NamedTuple):
    """An array that values are looked up in."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    """The axes that are indexed, in the order of the last axis of the indices."""
    last: tuple[int, ...]
    """The largest index along each of them."""


class _Lookup(NamedTuple):
    """Indices that are computed from rows alone."""

    place: _Place
    indices: Part
    """The indices, (..., axis)."""
    sites: tuple[str, ...]
    """The latent sites that the values are computed from."""


def check_indices(density: Density, data: Data) -> None:
    """Raise ValueError at the first index, computed from rows, that is out of the range of what it selects from.

    Args:
        density: the density that is evaluated.
        data: rows of x; with y, also the log probabilities of y are searched, otherwise its distribution.
    """
    for start in range(0, data.num_rows, ROWS_TOGETHER):
        count = min(ROWS_TOGETHER, data.num_rows - start)
        tree, shapes = signature(data.with_rows(abstract_rows(data.rows, count)))
        lookups = _lookups(density, tree, shapes, jax.config.jax_enable_x64)
        if not lookups:
            continue
        some = data if count == data.num_rows else data.take(np.arange(start, start + count))
        for lookup in lookups:
            _check(lookup, np.asarray(lookup.indices.of(some)), some, start)


def _check(lookup: _Lookup, indices: np.ndarray, data: Data, first_row: int) -> None:
    place = lookup.place
    outside = (indices < 0) | (indices > np.asarray(place.last))
    if not outside.any():
        return
    *position, axis = np.argwhere(outside)[0].tolist()
    size, last = place.shape[place.axes[axis]], place.last[axis]
    got = int(indices[*position, axis])
    paths = [jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree.leaves_with_path(data)]
    by_rows = [at for at, length in zip(position, indices.shape, strict=False) if length == data.num_rows]
    name = " and ".join(paths[number] for number in lookup.indices.leaves) or "an index of the model"
    if by_rows and len(lookup.indices.leaves) == 1:
        values = np.asarray(jax.tree.leaves(data)[lookup.indices.leaves[0]])[by_rows[0]]
        got, column = _as_given(values, got, size)
        name += index_in_words((first_row + by_rows[0], *column))
    elif by_rows:
        name += index_in_words((first_row + by_rows[0],))
    array = f"an array of shape {place.shape}"
    what = f"{array}, computed from {', '.join(map(repr, lookup.sites))}" if lookup.sites else array
    raise ValueError(
        f"{name}: expected an index from 0 to {last}, into axis {place.axes[axis]} of {what}; got {got}. JAX would use "
        f"another element instead. Number groups and tokens from 0, and give the model as many as there are; where the "
        f"nearest element is meant, write jnp.clip(index, 0, {last})."
    )


def _as_given(values: np.ndarray, index: int, size: int) -> tuple[int, tuple[int, ...]]:
    """Return an index as it is in a row of data, before indices from the end were counted from 0, and its column."""
    for candidate in (index - size, index) if index < 0 else (index,):
        if found := np.argwhere(values == candidate).tolist():
            return candidate, tuple(found[0])
    return index, ()


@lru_cache(maxsize=256)
def _lookups(density: Density, tree: Any, leaves: Any, in_double: bool) -> tuple[_Lookup, ...]:
    """Return what a model looks up by indices from rows alone, for rows of these shapes."""
    has_y = jax.tree.unflatten(tree, leaves).y is not None
    program = traced(density.row_log_probs if has_y else density.observations, density, tree, leaves)
    if not _has_lookups(program.jaxpr):
        return ()
    places: list[_Place] = []

    def run(*args: Any) -> list[Any]:
        found = _search(program.jaxpr, program.consts, args, places, is_take=False)[1]
        return [each for pair in found for each in pair]

    searched = jax.make_jaxpr(run)(*(var.aval for var in program.jaxpr.invars))
    lookups = []
    for number, place in enumerate(places):
        indices = part(searched, 2 * number, density)
        if not indices.sites:
            lookups.append(_Lookup(place, indices, part(searched, 2 * number + 1, density).sites))
    return tuple(lookups)


def _search(
    jaxpr: Jaxpr, constants: Any, args: Any, places: list[_Place], *, is_take: bool
) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Evaluate a program; return its outputs, and of all lookups in it the indices, (..., axis), and the values."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *args], strict=True))
    found: list[tuple[Any, Any]] = []

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    for equation in jaxpr.eqns:
        given = [read(var) for var in equation.invars]
        place = _place(equation, is_take=is_take)
        if place is not None:
            places.append(place)
            indices = given[1] if equation.primitive.name == "gather" else jnp.stack(given[1:], axis=-1)
            found.append((indices, given[0]))
        inner = _inner(equation)
        if inner is None or not _has_lookups(inner, is_take=is_take or _is_take(equation)):
            bound = equation.primitive.get_bind_params(equation.params)
            functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair in earlier versions
            out = equation.primitive.bind(*functions, *given, **parameters)
            outputs = out if equation.primitive.multiple_results else [out]
        elif equation.primitive.name == "scan":
            outputs, more = _search_scan(equation, inner, given, places)
            found += more
        else:
            inside = is_take or _is_take(equation)
            outputs, more = _search(inner, _constants(equation), given, places, is_take=inside)
            found += more
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars], found


def _search_scan(
    equation: JaxprEqn, inner: Jaxpr, given: list[Any], places: list[_Place]
) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Evaluate a loop; its lookups have a leading axis of steps."""
    parameters = equation.params
    if "num_consts" in parameters:  # JAX before 0.12
        num_constants, num_carried = parameters["num_consts"], parameters["num_carry"]
    else:
        num_constants, num_carried = (len(part) for part in parameters["ft_in"].unpack()[:2])
    constants, carried, each = np.split(np.arange(len(given)), [num_constants, num_constants + num_carried])

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], Any]:
        args = [*(given[i] for i in constants), *carry, *xs]
        outputs, found = _search(inner, _constants(equation), args, places, is_take=False)
        return outputs[:num_carried], (outputs[num_carried:], found)

    before = len(places)
    carry, (outputs, found) = jax.lax.scan(
        step,
        [given[i] for i in carried],
        [given[i] for i in each],
        length=parameters["length"],
        reverse=parameters["reverse"],
    )
    del places[before + len(found) :]  # JAX may trace a step more than once
    return [*carry, *outputs], found


def _place(equation: JaxprEqn, *, is_take: bool) -> _Place | None:
    """Return where an operation looks up values by indices that must be in range; None for other operations.

    The mode of an index in brackets is a promise that it is in range. Batched over rows, one that selects a single
    element is clipped, and keeps the axis that it selects from. That of `jnp.take` is to fill with NaN.
    """
    name, parameters = equation.primitive.name, equation.params
    if name not in ("gather", "dynamic_slice"):
        return None
    operand: Any = equation.invars[0].aval
    shape, sizes = operand.shape, parameters["slice_sizes"]
    axes = tuple(range(len(shape)))
    if name == "gather":
        numbers, mode = parameters["dimension_numbers"], parameters["mode"]
        is_batched = mode == GatherScatterMode.CLIP and not numbers.collapsed_slice_dims
        is_default = mode == GatherScatterMode.FILL_OR_DROP and is_take
        if mode != GatherScatterMode.PROMISE_IN_BOUNDS and not is_batched and not is_default:
            return None
        axes = tuple(map(int, numbers.start_index_map))
    return _Place(shape, axes, tuple(shape[axis] - sizes[axis] for axis in axes)) if axes else None


def _is_take(equation: JaxprEqn) -> bool:
    return equation.params.get("name") == "_take"


def _has_lookups(jaxpr: Jaxpr, *, is_take: bool = False) -> bool:
    for equation in jaxpr.eqns:
        inner = _inner(equation)
        if _place(equation, is_take=is_take) or (
            inner is not None and _has_lookups(inner, is_take=is_take or _is_take(equation))
        ):
            return True
    return False


def _inner(equation: JaxprEqn) -> Jaxpr | None:
    """Return the program that an operation runs on its arguments, if it runs one."""
    if equation.primitive.name in OPAQUE:
        return None
    for each in _programs(equation):
        inner = each.jaxpr if isinstance(each, ClosedJaxpr) else each
        if len(inner.invars) == len(equation.invars) and len(inner.outvars) == len(equation.outvars):
            return inner
    return None


def _constants(equation: JaxprEqn) -> list[Any]:
    return next((list(part.consts) for part in _programs(equation) if isinstance(part, ClosedJaxpr)), [])


def _programs(equation: JaxprEqn) -> Iterator[Any]:
    return (part for part in equation.params.values() if isinstance(part, ClosedJaxpr | Jaxpr))
