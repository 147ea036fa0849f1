"""Checks of the data, the model and settings, made before anything is compiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .contract import check_model
from .density import Density
from .repeated import check_one_density
from .rows import Data, Rows, count_rows
from .sites import NumPyroModel
from .words import index_in_words

SAMPLED_ROWS = 1_000
"""The number of rows from which the means and standard deviations of columns are estimated."""
ROUNDED = 0.01
"""The largest acceptable rounding error of y, as a share of its standard deviation."""


@dataclass(frozen=True)
class Layout:
    """The structure, shapes and types of the rows of x, which `predict` expects of new rows."""

    tree: Any
    """The structure of the pytree."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of one row of each leaf."""
    columns: tuple[str, ...] | None
    """Names of the columns, where x is a data frame."""
    dtypes: tuple[str, ...]
    """The type of each leaf, in the order of the pytree."""

    @classmethod
    def of(cls, x: Any, rows: Rows) -> "Layout":
        """Return the layout of x, given as the user passed it and as rows from `as_rows`."""
        leaves, tree = jax.tree.flatten(rows)
        columns = getattr(x, "columns", None)
        shapes, dtypes = (tuple(np.shape(leaf)[1:] for leaf in leaves), tuple(str(leaf.dtype) for leaf in leaves))
        return cls(tree, shapes, None if columns is None else tuple(map(str, columns)), dtypes)

    def check(self, other: "Layout") -> None:
        """Raise ValueError unless rows of the other layout are rows of this one."""
        if self.tree != other.tree:
            raise ValueError(f"x: expected the structure of the fit, {self.tree}; got {other.tree}.")
        if self.shapes != other.shapes:
            raise ValueError(
                f"x: expected rows shaped {_words(self.shapes)}, as in the fit; got {_words(other.shapes)}."
            )
        if self.columns and other.columns and self.columns != other.columns:
            raise ValueError(f"x: expected the columns {list(self.columns)}, in this order; got {list(other.columns)}.")


def check_like(layout: Layout, x: Any, name: str = "x") -> Rows:
    """Return new rows of x, checked against the layout of a fit."""
    rows = as_rows(name, x)
    layout.check(Layout.of(x, rows))
    check_finite(name, rows)
    return rows


def check_labels(model: NumPyroModel, x: Rows, y: Any, name: str = "y") -> Rows:
    """Return new rows of y, one for each row of x, checked against the model."""
    rows = as_rows(name, y)
    check_pair(x, rows)
    response = check_model(model, x, rows).response
    check_finite("y", rows)
    response.check(rows)
    return rows


def as_rows(name: str, value: Any) -> Rows:
    """Return an array, or a pytree (dict or tuple) of arrays, with n rows first, in JAX's default precision.

    Data frames, series and lists become arrays.

    Raises:
        TypeError: when the value is missing or contains anything but numbers.
        ValueError: when it has no rows, its leaves differ in their number of rows, or an integer is out of range.
    """
    return _in_default_precision(name, _as_numbers(name, value))


def _as_numbers(name: str, value: Any) -> Rows:
    """Return the rows of `as_rows` in the precision in which they were passed."""
    if value is None:
        raise TypeError(f"{name} is None. Expected an array, or a pytree of arrays, with n rows first.")
    rows = jax.tree.map(
        lambda leaf: _as_array(name, leaf),
        value,
        is_leaf=lambda leaf: isinstance(leaf, list | Iterator) or leaf is None,
    )
    leaves = jax.tree.leaves(rows)
    if not leaves:
        raise TypeError(f"{name} contains no array: got {value!r}.")
    lengths = [leaf.shape[0] for leaf in leaves]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name}: expected the same number of rows in every leaf; got {lengths}.")
    if lengths[0] == 0:
        raise ValueError(f"{name} has no rows: got shape {_words(tuple(leaf.shape for leaf in leaves))}.")
    return rows


def _as_array(name: str, leaf: Any) -> np.ndarray | jax.Array:
    if hasattr(leaf, "toarray"):
        raise TypeError(f"{name}: expected a dense array; got a {type(leaf).__name__}. Use {name}.toarray().")
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        masked = np.argwhere(np.ma.getmaskarray(leaf))
        raise ValueError(
            f"{name}{index_in_words(masked[0])}: expected no masked values; got {len(masked)}. Drop or impute them "
            f"first."
        )
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    types: Any = getattr(leaf, "dtypes", None)
    columns = dict(types) if hasattr(types, "items") else None  # a pandas data frame; a series has one type
    if array.dtype == object and columns and all(getattr(dtype, "kind", "O") in "biuf" for dtype in columns.values()):
        array = leaf.to_numpy(dtype=float)  # numbers and booleans
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(_not_numeric(name, leaf, array, columns))
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array with n rows first; got the single number {array}.")
    return array


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


def _in_default_precision(name: str, rows: Rows) -> Rows:
    return jax.tree.map(lambda array: _cast(name, array), rows)


def _cast(name: str, array: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    if array.dtype == bool:
        return array.astype(np.int32)
    if array.dtype == np.longdouble:  # a type that JAX does not have
        array = array.astype(np.float64)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype and dtype.kind in "iu" and array.size:
        largest = np.iinfo(dtype).max
        if array.max() > largest or array.min() < np.iinfo(dtype).min:
            raise ValueError(f"{name}: expected integers up to {largest} ({dtype}); got {array.max()}.")
    with np.errstate(over="ignore"):  # check_finite reports values that become infinite, with their row
        return array if dtype == array.dtype else array.astype(dtype)


def check_finite(name: str, rows: Rows) -> None:
    """Raise ValueError at the first value that is NaN or infinite."""
    for path, leaf in jax.tree.leaves_with_path(rows):
        array = np.asarray(leaf)
        if array.dtype.kind in "biu":
            continue
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):  # one pass without a temporary; only suspects are examined closely
                continue
        bad = np.argwhere(~np.isfinite(array))
        if bad.size:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}{index_in_words(bad[0])}: expected finite numbers; got "
                f"{array[tuple(bad[0])]} ({len(bad)} such values). Drop or impute them first."
            )


def check_offsets(x: Rows) -> None:
    """Raise ValueError where the mean of a column is too large for its standard deviation.

    The rule: with an intercept, the condition number of the problem grows with the square of the column's |mean| / sd.
    From 1 / machine epsilon on (a ratio of about 2,900 in float32) slope and intercept cannot be distinguished.
    Integers may be indices, most of them equal; for these the ratio is that to the range.

    Args:
        x: rows in the precision in which they were passed: float32 may round a whole column to one number.
    """
    for path, leaf in jax.tree.leaves_with_path(x):
        array, dtype = np.asarray(leaf), _real_type(leaf)
        if array.dtype == bool or len(array) < 2:
            continue
        sample = _sampled(array)
        mean, width = sample.mean(0), np.ptp(sample, axis=0)
        kind, spread = ("sd", sample.std(0)) if array.dtype.kind not in "iu" else ("range", width)
        limit = 1 / np.sqrt(jnp.finfo(dtype).eps)
        bad = np.flatnonzero((width > 0) & (np.abs(mean) > limit * spread))
        if bad.size:
            column = bad[0]
            raise ValueError(
                f"x{jax.tree_util.keystr(path)}, column {column}: expected |mean| < {limit:,.0f} {kind} in {dtype}; "
                f"got mean {mean[column]:.4g}, {kind} {spread[column]:.4g}. Its slope and the intercept cannot be "
                f"distinguished in this precision. Subtract the mean and divide by the sd first."
            )


def check_scales(name: str, rows: Rows) -> None:
    """Raise ValueError where squares of numbers overflow, or those of a whole column of x underflow.

    Args:
        name: x or y.
        rows: rows in the precision in which they were passed: float32 may round a whole column to 0.
    """
    for path, leaf in jax.tree.leaves_with_path(rows):
        array, dtype = np.asarray(leaf), jnp.promote_types(_real_type(leaf), float)
        if array.dtype.kind in "biu" or not array.size:
            continue
        info = jnp.finfo(dtype)
        largest, least = float(info.max) ** 0.5, float(info.tiny) ** 0.5
        cure = "Divide by the standard deviation first."
        with np.errstate(over="ignore"):
            is_suspect = not float(np.vdot(array, array)) <= largest**2  # one fast pass; may be a false alarm
        if is_suspect and max(array.max(), -array.min()) > largest:
            index = np.unravel_index(np.abs(array).argmax(), array.shape)
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}{index_in_words(index)}: expected numbers up to {largest:.2g}, "
                f"whose squares are finite in {dtype}; got {array[index]:.4g}. {cure}"
            )
        highest = np.abs(_sampled(array)).max(0)
        for column in np.flatnonzero((highest > 0) & (highest < least)) if name == "x" else ():
            most = float(np.abs(array.reshape(len(array), -1)[:, column]).max())
            if most < least:
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)}, column {column}: expected numbers of at least {least:.2g}, "
                    f"whose squares are not 0 in {dtype}; got {most:.4g} at most. {cure}"
                )


def check_rounding(y: Rows) -> None:
    """Raise ValueError where the precision of the fit rounds the numbers of y too coarsely.

    Args:
        y: rows in the precision in which they were passed.
    """
    for leaf in jax.tree.leaves(y):
        sample, dtype = _sampled(np.asarray(leaf)), _real_type(leaf)
        mean, spread = np.abs(sample.mean(0)), sample.std(0)
        limit = ROUNDED / float(jnp.finfo(dtype).eps)
        bad = np.flatnonzero((np.ptp(sample, axis=0) > 0) & (mean > limit * spread))
        if bad.size:
            column = bad[0]
            raise ValueError(
                f"y{f', column {column}' if np.ndim(leaf) > 1 else ''}: expected |mean| < {limit:,.0f} sd in {dtype}; "
                f"got mean {mean[column]:.4g}, sd {spread[column]:.4g}. They would be rounded to multiples of "
                f"{mean[column] * float(jnp.finfo(dtype).eps):.2g}. Subtract the mean first."
            )


def _sampled(array: np.ndarray) -> np.ndarray:
    """Return a sample of the rows, (rows, columns), in float64."""
    sample = array[:: max(1, len(array) // SAMPLED_ROWS)]
    return sample.reshape(len(sample), -1).astype(np.float64)


def _real_type(leaf: Any) -> Any:
    """Return the type in which a model computes with a leaf."""
    is_real = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != np.longdouble
    return jax.dtypes.canonicalize_dtype(leaf.dtype if is_real else float)


def check_problem(model: NumPyroModel, x: Any, y: Any) -> tuple[Density, Data]:
    """Check a model and its data before anything is compiled.

    Returns:
        The density of the model, and the rows of x and y, which are the arguments of every method.

    Raises:
        TypeError, ValueError: when the data or the model are invalid.
    """
    x_as_given, y_as_given = _as_numbers("x", x), _as_numbers("y", y)
    x, y = _in_default_precision("x", x_as_given), _in_default_precision("y", y_as_given)
    check_pair(x, y)
    check_finite("x", x)
    check_offsets(x_as_given)
    check_scales("x", x_as_given)
    structure = check_model(model, x, y)
    check_finite("y", y)
    structure.response.check(y)
    structure.response.check_not_all_padding(y)
    if not structure.response.is_discrete:
        check_scales("y", y_as_given)
        check_rounding(y_as_given)
    check_one_density(model, structure, x, y)
    return Density.of(model, structure), Data(x, y)


def check_pair(x: Rows, y: Rows) -> None:
    """Raise ValueError when x and y differ in their number of rows."""
    shapes, num_rows = ([tuple(np.shape(leaf)) for leaf in jax.tree.leaves(rows)] for rows in (x, y)), count_rows(x)
    of_x, of_y = shapes
    if count_rows(y) == num_rows:
        return
    cure = "Give one row of y for each row of x."
    if len(of_x) == 1 and of_x[0][1:] == of_y[0][:1]:
        cure = "If x is transposed, use x.T."
    elif len(of_y) == 1 and of_y[0] == (1, num_rows):
        cure = "If y is transposed, use y[0]."
    raise ValueError(f"Expected as many rows in y as in x, {num_rows}; got y of shape {_words(tuple(of_y))}. {cure}")


def as_key(key: ArrayLike) -> jax.Array:
    """Return a typed JAX key from a key or an integer seed.

    Raises:
        TypeError: when the argument is neither.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    raise TypeError(f"Expected key to be an integer seed or one typed key, jax.random.key(0); got {key!r}.")


def check_positive_integer(owner: str, name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless a setting is an integer (not a boolean) of at least some value.

    Args:
        owner: the class or function that the setting belongs to, for the message.
        name: the name of the setting.
        value: its value.
        least: the smallest value that is allowed.

    Raises:
        ValueError: when the value is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{owner}: expected {kind} as {name}; got {value!r}.")


def _words(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(map(str, shapes))
