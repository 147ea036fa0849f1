"""Rows of data: arrays, or pytrees of arrays, with n rows first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from .processes import readable
from .stored import Stored, chosen, is_stored, read

Rows = Any
"""An array, or a pytree of arrays, with n rows first."""
Weights = dict[str, Array]
"""Latent site -> value, in the coordinates in which the model states it (a scale is positive)."""


@dataclass(frozen=True)
class Data:
    """The values that a density is conditioned on: rows of x and y and, for part of a model, its fixed sites."""

    x: Rows
    """n rows."""
    y: Rows = None
    """n rows; None where y is to be drawn."""
    fixed: Weights = field(default_factory=dict)
    """The values of the sites that are conditioned on, by site; see `handlers.conditioned`."""
    at: Weights = field(default_factory=dict)
    """The weights around which a model is linearised, by site; see `tangent.tangent`."""
    start: Weights = field(default_factory=dict)
    """The starting values of optimisers and chains, for some or no sites."""
    weights: Rows = None
    """The weight of each row, (n,): a row of weight w counts as w equal rows. None where every row counts once."""
    known: Rows = None
    """Which values of y were observed, as booleans in its shape. None where all of them were."""

    @property
    def num_rows(self) -> int:
        """The number of rows, n."""
        return count_rows(self.x)

    @property
    def total_weight(self) -> float:
        """The number of rows, or the sum of their weights: the number of rows that they count as."""
        return self.num_rows if self.weights is None else float(jnp.sum(self.weights))

    @property
    def counted_rows(self) -> np.ndarray:
        """The indices of the rows that count: their weight is above 0, and a value of their y was observed."""
        weights, known = readable((self.weights, self.known))
        counts = np.ones(self.num_rows, bool) if weights is None else np.asarray(weights) > 0
        if known is not None:
            known = [np.asarray(leaf).reshape(self.num_rows, -1) for leaf in jax.tree.leaves(known)]
            counts &= np.concatenate(known, axis=1).any(axis=1)
        return np.flatnonzero(counts)

    @property
    def given(self) -> dict[str, Weights]:
        """The arguments of a model other than x and y."""
        return {name: value for name, value in (("fixed", self.fixed), ("at", self.at)) if value}

    @property
    def rows(self) -> tuple[Rows, Rows, Rows, Rows]:
        """What has n rows: x, y, weights and known."""
        return self.x, self.y, self.weights, self.known

    @property
    def is_stored(self) -> bool:
        """Whether some of it stays where it is, and is read when rows are taken."""
        return is_stored(self.rows)

    def with_rows(self, rows: tuple[Rows, Rows, Rows, Rows]) -> "Data":
        """Return the data with other `rows`."""
        x, y, weights, known = rows
        return replace(self, x=x, y=y, weights=weights, known=known)

    def take(self, rows: Any) -> "Data":
        """Return some of the rows, by an array of indices, which must exist."""
        return self.with_rows(take_rows(self.rows, rows))

    def weighted(self, factors: np.ndarray) -> "Data":
        """Return rows that count as often as before, times a factor each."""
        weights = jnp.asarray(factors, float)
        return replace(self, weights=weights if self.weights is None else weights * self.weights)

    def choose(self, rows: Any) -> "Data":
        """Return some of the rows, as `take` does; those that stay where they are are read later."""
        return self.with_rows(chosen(self.rows, np.asarray(rows))) if self.is_stored else self.take(rows)

    def few(self) -> "Data":
        """Return the data, or one row of them where they are not in memory: to evaluate what no row changes."""
        return self.take(np.arange(1)).on_device() if self.is_stored else self

    def in_memory(self, caller: str) -> "Data":
        """Return the data with all rows in memory.

        Raises:
            ValueError: in the name of the caller, when they would take more than half of the memory that is free.
        """
        return self.with_rows(read(self.rows, caller)) if self.is_stored else self

    def on_device(self) -> "Data":
        """Return the data on the device; rows that stay where they are come to it when they are taken."""
        return self if self.is_stored else to_device(self)

    def parts(self, size: int) -> Iterator[tuple[int, "Data"]]:
        """Yield the number of the first row and the rows of each part, all of this size: one program serves them.

        The last part repeats its last row.
        """
        for start in range(0, self.num_rows, size):
            rows = np.minimum(np.arange(start, start + size), self.num_rows - 1)
            yield start, self if size == self.num_rows and not self.is_stored else self.take(rows)

    def of_site(self, site: str) -> "Data":
        """Return the data of one of several observed sites, whose rows are in y under its name."""
        y, known = (None if rows is None else rows[site] for rows in (self.y, self.known))
        return replace(self, y=y, known=known)


jax.tree_util.register_dataclass(Data, ["x", "y", "fixed", "at", "start", "weights", "known"], [])


def count_rows(x: Rows) -> int:
    """Return the number of rows of an array or of a pytree of arrays."""
    leaf = jax.tree.leaves(x)[0]
    return len(leaf) if isinstance(leaf, Stored) else jnp.shape(leaf)[0]


def take_rows(x: Rows, rows: Any) -> Rows:
    """Return the rows of an array, or of a pytree of arrays, at an array of indices, which must exist."""
    return readable(jax.tree.map(lambda leaf: _taken(leaf, rows), x))


def _taken(leaf: Any, rows: Any) -> Any:
    if isinstance(leaf, Stored | np.ndarray) and not isinstance(rows, Array):  # the others need not reach the device
        return leaf[rows]
    return _gathered(leaf, rows)


@jax.jit
def _gathered(leaf: Array, rows: Array) -> Array:
    """Return some rows, compiled: outside of a compiled function each of its parts would be a program."""
    return leaf.at[rows].get(mode="promise_in_bounds")


def abstract_rows(rows: Rows, count: int) -> Rows:
    """Return the shapes and types of some of the rows, as many as `count`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), rows)


def copied(rows: Rows) -> Rows:
    """Return rows on the device, which the caller's later writes to the same memory do not reach.

    `jax.device_put` may take over the memory of a NumPy array, and predictions are computed when they are asked for.
    Rows that stay where they are are read when they are needed.
    """
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, Array | Stored) else jax.device_put(np.array(leaf)), rows)


def to_device(tree: Any) -> Any:
    """Return a pytree of arrays on the device; those that are on devices stay there.

    `jax.device_put` refuses arrays of which other processes have parts, and `jnp.asarray` compiles for each shape.
    """
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, Array) else jax.device_put(leaf), tree)


def in_double(leaf: Any) -> np.ndarray | Array:
    """Return a leaf as an array, in float64 if its numbers are real; JAX must be in double precision."""
    if isinstance(leaf, Array) and len(leaf.sharding.device_set) > 1:  # stays where it is
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def signature(rows: Rows) -> tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]:
    """Return the structure, shapes and types of a pytree of arrays; data of one signature share compiled code."""
    leaves, tree = jax.tree.flatten(rows)
    return tree, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def vector_of(shapes: Any) -> tuple[jax.ShapeDtypeStruct, Callable[[Array], Any]]:
    """Return the shape of the vector of all elements of a pytree of a `signature`, and what makes a tree of such."""
    tree, leaves = shapes
    found = []

    def vector(values: Any) -> Array:
        flat, unravel = ravel_pytree(values)
        found.append(unravel)
        return flat

    shape = jax.eval_shape(vector, tree.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves]))
    return shape, found[0]
