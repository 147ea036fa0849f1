"""Devices: how what there are several of, chains or restarts, lies on those of the machine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PROGRAMS_KEPT = 16
"""How many fits' compiled code each method keeps. On the CPU it takes up to 1,500 mappings of memory a fit, and a Linux
process that is past its 65,530 dies: a sweep over a hundred models must not keep them all."""


class Sharding(NamedTuple):
    """As many on each of the devices as on any other, but for the last, which may have fewer."""

    mesh: Mesh
    place: NamedSharding
    """Of what there is one of for each of them, along the first axis."""
    all: NamedSharding
    """Of what every device has whole."""
    idle: int
    """Places of the last device that hold a copy of the last one, for shares of equal length."""

    @classmethod
    def of(cls, count: int) -> "Sharding":
        """The layout of so many."""
        devices = jax.local_devices()
        share = -(-count // len(devices))
        num_devices = -(-count // share)
        idle = share * num_devices - count
        mesh = Mesh(np.array(devices[:num_devices]), ("each",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        return cls(mesh, everywhere if idle else NamedSharding(mesh, PartitionSpec("each")), everywhere, idle)

    def jit(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``block(shared out, *others)``: each device runs it on its share of the first argument.

        What it returns is shared out like the first argument.
        """
        if self.mesh.size == 1:
            return jax.jit(block)

        def spread(shared: Any, *others: Any) -> Any:
            each, whole = PartitionSpec("each"), PartitionSpec()
            specs = (each, *(whole for _ in others))
            run = jax.shard_map(block, mesh=self.mesh, in_specs=specs, out_specs=each, check_vma=False)
            return self._without_idle(run(self._with_idle(shared), *others))

        return jax.jit(spread, out_shardings=self.place)

    def jit_start(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``start(*others)``, whose result is laid out as blocks return it: all blocks are then one program."""
        return jax.jit(start, out_shardings=self.place)

    def _with_idle(self, shared: Any) -> Any:
        if not self.idle:
            return shared
        return jax.tree.map(lambda leaf: jnp.concatenate([leaf, *[leaf[-1:]] * self.idle]), shared)

    def _without_idle(self, shared: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[: -self.idle], shared) if self.idle else shared
