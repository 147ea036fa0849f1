"""The distribution of rows, and of chains or restarts, over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .processes import are_several, readable
from .rows import Data

FEW_BYTES = 2**26
"""The size of rows up to which what follows a descent is computed by each process alone: a step over them takes less
time than its exchange with others, and there may be thousands."""


class Spread(NamedTuple):
    """Rows that are sharded over some axes of a mesh; its other axes are for chains or restarts."""

    mesh: Mesh
    axes: tuple[str, ...]
    """The axes over which rows are sharded."""

    @classmethod
    def of(cls, data: Data) -> "Spread | None":
        """Return how the rows of data are spread; None where each device has all of them."""
        for leaf in jax.tree.leaves(data.x):
            if isinstance(leaf, jax.Array) and row_axes(leaf):
                return cls.of_array(leaf)
        return None

    @classmethod
    def of_array(cls, array: jax.Array) -> "Spread":
        """Return how the rows of an array are spread."""
        assert isinstance(array.sharding, NamedSharding)
        return cls(automatic(array.sharding.mesh), row_axes(array))  # type: ignore[arg-type]  # of an array with values

    @property
    def sharding(self) -> NamedSharding:
        """The sharding of arrays with rows first."""
        return NamedSharding(self.mesh, PartitionSpec(self.axes))

    @property
    def num_shards(self) -> int:
        """The number of shards, each of which has as many rows."""
        return int(np.prod([self.mesh.shape[axis] for axis in self.axes]))

    def take(self, data: Data, rows: Any) -> Data:
        """Return the rows with some numbers within each shard, spread as they are; see `by_shard`."""
        take = jax.jit(lambda data, rows: by_shard(data, rows).rows, out_shardings=self.sharding)
        return data.with_rows(take(data, rows))

    @property
    def axes_of_chains(self) -> tuple[str, ...]:
        """The axes of the mesh that are left for chains."""
        return tuple(axis for axis, size in self.mesh.shape.items() if axis not in self.axes and size > 1)


def row_axes(array: jax.Array) -> tuple[str, ...]:
    """Return the axes of a mesh over which the rows of an array are sharded; none where they are not."""
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding) or not sharding.spec or array.is_fully_replicated:
        return ()
    first = sharding.spec[0]
    return (first,) if isinstance(first, str) else tuple(first or ())


def automatic(mesh: Mesh) -> Mesh:
    """Return a mesh on which XLA decides how each value is sharded: a model does not state that for its own."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def by_shard(data: Data, rows: Any) -> Data:
    """Return the rows with some numbers within each of S shards, (S, rows): no row leaves its shard.

    Args:
        data: n rows, the first n / S of which are the first shard.
        rows: indices, which must exist.
    """

    def take(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        shards = leaf.reshape(len(rows), -1, *leaf.shape[1:])
        chosen = jax.vmap(lambda shard, i: shard.at[i].get(mode="promise_in_bounds"))(shards, rows)
        return chosen.reshape(-1, *leaf.shape[1:])

    return data.with_rows(jax.tree.map(take, data.rows))


def together(data: Data) -> Data:
    """Return data with all rows on one device, and in every process, where they are few; else as they are."""
    if Spread.of(data) is None or sum(leaf.nbytes for leaf in jax.tree.leaves(data.rows)) > FEW_BYTES:
        return data
    return data.with_rows(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(readable(leaf))), data.rows))


class Sharding(NamedTuple):
    """The shares of the devices: equal numbers of chains or restarts, except that the last may have fewer."""

    mesh: Mesh
    axes: tuple[str, ...]
    """The axes of the mesh that chains or restarts lie along; none where every device has all of them."""
    each: NamedSharding
    """The sharding of arrays with one entry per chain or restart along the first axis."""
    all: NamedSharding
    """The sharding of arrays of which every device has a copy."""
    idle: int
    """The number of copies of the last entry that fill up the last device, for shares of equal length."""
    spread: Spread | None = None
    """How the rows of data are spread."""

    @classmethod
    def of(cls, count: int, spread: Spread | None = None) -> "Sharding":
        """Return the sharding of a number of chains or restarts.

        They lie along the axes of the mesh that rows leave, and without such rows along all devices: those of all
        processes, of which each has a part then, so that none has nothing to do in what all of them run.
        """
        if spread is not None:
            mesh, axes = spread.mesh, spread.axes_of_chains if count > 1 else ()
        else:
            mesh, axes = _line(count), ("each",)
        num_shares = int(np.prod([mesh.shape[axis] for axis in axes]))
        share = -(-count // num_shares)
        idle = share * num_shares - count
        everywhere = NamedSharding(mesh, PartitionSpec())
        each = NamedSharding(mesh, PartitionSpec(axes)) if axes and not idle else everywhere
        return cls(mesh, axes, each, everywhere, idle, spread)

    def jit(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``block(sharded, *others)``: each share of the first argument is run by devices of its own.

        The result is sharded like the first argument. Sums over rows that are spread are exchanged within a share.
        """
        if self.mesh.size == 1:
            return jax.jit(block)
        if not self.axes:
            return jax.jit(block, out_shardings=self.each)

        def on_shares(sharded: Any, *others: Any) -> Any:
            each, whole = PartitionSpec(self.axes), PartitionSpec()
            specs = (each, *(whole for _ in others))
            run = jax.shard_map(
                block, mesh=self.mesh, in_specs=specs, out_specs=each, axis_names=set(self.axes), check_vma=False
            )
            return self._without_idle(run(self._with_idle(sharded), *others))

        return jax.jit(on_shares, out_shardings=self.each)

    def jit_start(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``start(*others)`` with the sharding that blocks return, so that all blocks are one program.

        It runs once per fit, so on a CPU it is compiled without LLVM's optimisations: that takes half the time.
        """
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return jax.jit(start, out_shardings=self.each, compiler_options=options)

    def place(self, data: Data) -> Data:
        """Return data on the devices of the mesh: all rows on each of them, unless they are spread or not in memory."""
        there = self.mesh.size == 1 or self.spread is not None or data.is_stored
        return data if there else jax.device_put(data, self.all)

    def _with_idle(self, sharded: Any) -> Any:
        if not self.idle:
            return sharded
        return jax.tree.map(lambda leaf: jnp.concatenate([leaf, *[leaf[-1:]] * self.idle]), sharded)

    def _without_idle(self, sharded: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[: -self.idle], sharded) if self.idle else sharded


def _line(count: int) -> Mesh:
    """Return the devices for a number of chains as a mesh of one axis, as few as their equal shares need."""
    if count > 1 and are_several():
        return Mesh(np.array(jax.devices()), ("each",))
    devices = jax.local_devices()
    share = -(-count // len(devices))
    return Mesh(np.array(devices[: -(-count // share)]), ("each",))
