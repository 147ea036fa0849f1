"""Arrays, lists and data frames as rows of numbers, in the types in which they were passed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .remembered import Remembered
from .rows import Rows
from .stored import Stored, check_in_parts, stays, stored
from .words import index_in_words, shapes_in_words


def as_rows(name: str, value: Any) -> Rows:
    """Return an array, or a pytree (dict or tuple) of arrays, with n rows first, in the types in which it was passed.

    Data frames, series and lists become arrays, and 64-bit numbers 32-bit ones unless JAX is in double precision.

    Raises:
        TypeError: when the value is missing or contains anything but numbers.
        ValueError: when it has no rows, its leaves differ in their number of rows, or an integer is out of range.
    """
    return in_default_precision(name, as_numbers(name, value))


def as_numbers(name: str, value: Any) -> Rows:
    """Return the rows of `as_rows` in the precision in which they were passed."""
    if value is None:
        raise TypeError(f"{name} is None. Expected an array, or a pytree of arrays, with n rows first.")
    rows = jax.tree.map(lambda leaf: _as_array(name, leaf), value, is_leaf=is_array)
    leaves = jax.tree.leaves(rows)
    if not leaves:
        raise TypeError(f"{name} contains no array: got {value!r}.")
    lengths = [leaf.shape[0] for leaf in leaves]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name}: expected the same number of rows in every leaf; got {lengths}.")
    if lengths[0] == 0:
        raise ValueError(f"{name} has no rows: got shape {shapes_in_words(tuple(leaf.shape for leaf in leaves))}.")
    return rows


def is_array(value: Any) -> bool:
    """Return whether a value becomes one array, although it may be a container."""
    return isinstance(value, list | Iterator) or value is None


def _as_array(name: str, leaf: Any) -> np.ndarray | jax.Array | Stored:
    if stays(leaf):
        return _as_stored(name, stored(leaf))
    if hasattr(leaf, "toarray"):
        raise TypeError(f"{name}: expected a dense array; got a {type(leaf).__name__}. Use {name}.toarray().")
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        masked = np.argwhere(np.ma.getmaskarray(leaf))
        raise ValueError(
            f"{name}{index_in_words(masked[0])}: expected no masked values; got {len(masked)}. Drop or impute them "
            f"first."
        )
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(f"{name}: expected numbers; got an array of {leaf.dtype}.")
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"{name}: expected rows of this process; got an array that is sharded over processes, which only fit() "
            f"and compare() take. Give each process rows of its own, such as those of [shard.data for shard in "
            f"{name}.addressable_shards]."
        )
    is_on_device = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == 1
    array = leaf if is_on_device else np.asarray(leaf)  # rows of several devices are gathered: a chunk has some of each
    types: Any = getattr(leaf, "dtypes", None)
    columns = dict(types) if hasattr(types, "items") else None  # a pandas data frame; a series has one type
    if array.dtype == object and columns and all(getattr(dtype, "kind", "O") in "biuf" for dtype in columns.values()):
        array = leaf.to_numpy(dtype=float)  # numbers and booleans
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(_not_numeric(name, leaf, array, columns))
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array with n rows first; got the single number {array}.")
    return array


def _as_stored(name: str, leaf: Stored) -> Stored:
    if leaf.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers; got {leaf.dtype}. Encode text and dates as numbers first.")
    return leaf


def _not_numeric(name: str, leaf: Any, array: np.ndarray | jax.Array, columns: Any) -> str:
    """Return the error message for a value that is not an array of numbers."""
    if array.ndim == 0 and leaf is not None:
        return f"{name}: expected numbers in an array, a list or a data frame; got {type(leaf).__name__} {leaf!r:.80}."
    first = next(
        (index for index, value in np.ndenumerate(array) if not isinstance(value, int | float | np.number)), ()
    )
    example = f" ({array[first]!r}{index_in_words(first)})" if first else ""
    where = "" if columns is None else f" (columns: {columns})"
    cure = f"; labels become 0, 1, ... by np.unique({name}, return_inverse=True)[1]" if name == "y" else ""
    return f"{name}: expected numbers; got {array.dtype}{example}{where}. Encode text and dates as numbers first{cure}."


def in_default_precision(name: str, rows: Rows) -> Rows:
    """Return rows in the types that JAX has in its present precision."""
    return jax.tree.map(lambda array: _cast(name, array), rows)


def _cast(name: str, array: Any) -> Any:
    if array.dtype == np.longdouble:  # a type that JAX does not have
        array = array.astype(np.float64)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if isinstance(array, Stored):  # converted when it is read
        return array.astype(dtype)
    if dtype != array.dtype and dtype.kind in "iu":
        _check_range(name, dtype, array)
    with np.errstate(over="ignore"):  # check_finite reports values that become infinite, with their row
        return array if dtype == array.dtype else array.astype(dtype)


def _check_range(name: str, dtype: np.dtype, array: Any) -> None:
    outside = np.argwhere(~_is_within(array, dtype))
    if len(outside):
        index = tuple(outside[0])
        raise ValueError(
            f"{name}{index_in_words(index)}: expected integers from {np.iinfo(dtype).min} to "
            f"{np.iinfo(dtype).max} ({dtype}); got {array[index]}."
        )


def widened(rows: Rows) -> Rows:
    """Return rows with integers of at least 32 bits."""
    return jax.tree.map(
        lambda array: array.astype(np.int32) if array.dtype.kind in "iu" and array.dtype.itemsize < 4 else array, rows
    )


def converted(name: str, array: np.ndarray | jax.Array, dtype: str) -> np.ndarray | jax.Array:
    """Return new values in the type of those of a fit where that changes none of them, and as they are where it does.

    So numbers of one kind may be predicted from another, as a grid of real numbers from integers. A boolean is not a
    number, for which a model may compute something else: where the fit had booleans, the values must be.

    Raises:
        ValueError: when a value is not a boolean, 0 or 1 where the fit had booleans.
    """
    target = jnp.dtype(dtype)
    if array.dtype == target or all(jnp.issubdtype(each, jnp.floating) for each in (array.dtype, target)):
        return array
    if isinstance(array, Stored):
        raise TypeError(
            f"{name}: expected {target}, the type in the fit, of an array that is too large to be converted in memory "
            f"({shapes_in_words((array.shape,))}); got {array.dtype}. Store it in this type."
        )
    values = np.asarray(array)
    if target.kind == "b":
        outside = np.argwhere((values != 0) & (values != 1))
        if len(outside):
            index = tuple(outside[0])
            raise ValueError(
                f"{name}{index_in_words(index)}: expected a boolean, or 0 or 1, as x had booleans in the fit; got "
                f"{values[index]}."
            )
        return values.astype(bool)
    if target.kind in "iu" and values.dtype.kind != "b" and not _is_within(values, target).all():
        return array
    with np.errstate(all="ignore"):
        new = values.astype(target)
    return new if (new == values).all() else array


def _is_within(values: np.ndarray | jax.Array, dtype: np.dtype) -> np.ndarray:
    """Return which values lie in the range of a type of integers; NaN does not."""
    array, limits = np.asarray(values), np.iinfo(dtype)
    return (array >= limits.min) & (array <= limits.max)


def check_finite(name: str, rows: Rows) -> None:
    """Raise ValueError at the first value that is NaN or infinite."""
    for path, leaf in jax.tree.leaves_with_path(rows):
        known = Remembered("finite", leaf)
        if leaf.dtype.kind not in "biu" and not known.value:
            check_in_parts(partial(_check_finite, f"{name}{jax.tree_util.keystr(path)}"), leaf, f"checking {name}")
            known.keep(True)


def _check_finite(name: str, leaf: Any) -> None:
    array = np.asarray(leaf)
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # one pass without a temporary; only suspects are examined closely
            return
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name}{index_in_words(bad[0])}: expected finite numbers; got {array[tuple(bad[0])]} ({len(bad)} such "
            f"values). Drop or impute them first."
        )
