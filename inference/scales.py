"""Checks of the numbers of x and y against the precision in which a model computes with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .rows import Rows
from .stored import in_parts
from .words import index_in_words

SAMPLED_ROWS = 1_000
"""The number of rows from which the means and standard deviations of columns are estimated."""
ROUNDED = 0.01
"""The largest acceptable rounding error of y, as a share of its standard deviation."""
CURE = "Divide by the standard deviation first."


def check_offsets(x: Rows) -> None:
    """Raise ValueError where the mean of a column is too large for its standard deviation.

    The rule: with an intercept, the condition number of the problem grows with the square of the column's |mean| / sd.
    From 1 / machine epsilon on (a ratio of about 2,900 in float32) slope and intercept cannot be distinguished.
    Integers may be indices, most of them equal; for these the ratio is that to the range.

    Args:
        x: rows in the precision in which they were passed: float32 may round a whole column to one number.
    """
    for path, leaf in jax.tree.leaves_with_path(x):
        dtype = _real_type(leaf)
        if leaf.dtype == bool or len(leaf) < 2:
            continue
        sample = _sampled(leaf)
        mean, width = sample.mean(0), np.ptp(sample, axis=0)
        kind, spread = ("sd", sample.std(0)) if leaf.dtype.kind not in "iu" else ("range", width)
        limit = 1 / np.sqrt(jnp.finfo(dtype).eps)
        bad = np.flatnonzero((width > 0) & (np.abs(mean) > limit * spread))
        if bad.size:
            column = bad[0]
            raise ValueError(
                f"x{jax.tree_util.keystr(path)}, column {column}: expected |mean| < {limit:,.0f} {kind} in {dtype}; "
                f"got mean {mean[column]:.4g}, {kind} {spread[column]:.4g}. Its slope and the intercept cannot be "
                f"distinguished in this precision. Subtract the mean and divide by the sd first."
            )


def check_largest(name: str, rows: Rows) -> None:
    """Raise ValueError where squares of numbers overflow.

    Args:
        name: x, or that of y.
        rows: rows in the precision in which they were passed.
    """
    for path, leaf in jax.tree.leaves_with_path(rows):
        array, dtype = np.asarray(leaf), jnp.promote_types(_real_type(leaf), float)
        if array.dtype.kind in "biu" or not array.size:
            continue
        largest = float(jnp.finfo(dtype).max) ** 0.5
        with np.errstate(over="ignore"):
            is_suspect = not float(np.vdot(array, array)) <= largest**2  # one fast pass; may be a false alarm
        if is_suspect and max(array.max(), -array.min()) > largest:
            index = np.unravel_index(np.abs(array).argmax(), array.shape)
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}{index_in_words(index)}: expected numbers up to {largest:.2g}, "
                f"whose squares are finite in {dtype}; got {array[index]:.4g}. {CURE}"
            )


def check_least(sample: Rows, x: Rows) -> None:
    """Raise ValueError where the squares of a whole column of x underflow.

    Args:
        sample: x, or some of its rows, in the precision in which they were passed: float32 may round a whole column
            to 0.
        x: all rows, which are looked at where all numbers of a column in the sample are small.
    """
    for (path, some), leaf in zip(jax.tree.leaves_with_path(sample), jax.tree.leaves(x), strict=True):
        dtype = jnp.promote_types(_real_type(leaf), float)
        if leaf.dtype.kind in "biu" or not leaf.size:
            continue
        least, highest = float(jnp.finfo(dtype).tiny) ** 0.5, np.abs(_sampled(some)).max(0)
        for column in np.flatnonzero((highest > 0) & (highest < least)):
            parts = (np.asarray(part).reshape(len(part), -1)[:, column] for _, part in in_parts(leaf))
            most = max(float(np.abs(part).max()) for part in parts)
            if most < least:
                raise ValueError(
                    f"x{jax.tree_util.keystr(path)}, column {column}: expected numbers of at least {least:.2g}, whose "
                    f"squares are not 0 in {dtype}; got {most:.4g} at most. {CURE}"
                )


def check_rounding(y: Rows, name: str = "y") -> None:
    """Raise ValueError where the precision of the fit rounds the numbers of y too coarsely.

    Args:
        y: rows in the precision in which they were passed.
        name: what they are called.
    """
    for leaf in jax.tree.leaves(y):
        sample, dtype = _sampled(leaf), _real_type(leaf)
        mean, spread = np.abs(sample.mean(0)), sample.std(0)
        limit = ROUNDED / float(jnp.finfo(dtype).eps)
        bad = np.flatnonzero((np.ptp(sample, axis=0) > 0) & (mean > limit * spread))
        if bad.size:
            column = bad[0]
            raise ValueError(
                f"{name}{f', column {column}' if leaf.ndim > 1 else ''}: expected |mean| < {limit:,.0f} sd in "
                f"{dtype}; got mean {mean[column]:.4g}, sd {spread[column]:.4g}. They would be rounded to multiples of "
                f"{mean[column] * float(jnp.finfo(dtype).eps):.2g}. Subtract the mean first."
            )


def spaced(num_rows: int) -> np.ndarray:
    """Return the indices of evenly spaced rows, some `SAMPLED_ROWS` of them, or of all."""
    return np.arange(0, num_rows, max(1, num_rows // SAMPLED_ROWS))


def _sampled(leaf: Any) -> np.ndarray:
    """Return a sample of the rows, (rows, columns), in float64."""
    sample = np.asarray(leaf)[spaced(len(leaf))]
    return sample.reshape(len(sample), -1).astype(np.float64)


def _real_type(leaf: Any) -> Any:
    """Return the type in which a model computes with a leaf."""
    is_real = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != np.longdouble
    return jax.dtypes.canonicalize_dtype(leaf.dtype if is_real else float)
