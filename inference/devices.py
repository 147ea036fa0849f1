"""The distribution of chains or restarts over the devices of the machine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Sharding(NamedTuple):
    """The shares of the devices: equal numbers of chains or restarts, except that the last may have fewer."""

    mesh: Mesh
    each: NamedSharding
    """The sharding of arrays with one entry per chain or restart along the first axis."""
    all: NamedSharding
    """The sharding of arrays of which every device has a copy."""
    idle: int
    """The number of copies of the last entry that fill up the last device, for shares of equal length."""

    @classmethod
    def of(cls, count: int) -> "Sharding":
        """Return the sharding of a number of chains or restarts."""
        devices = jax.local_devices()
        share = -(-count // len(devices))
        num_devices = -(-count // share)
        idle = share * num_devices - count
        mesh = Mesh(np.array(devices[:num_devices]), ("each",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        return cls(mesh, everywhere if idle else NamedSharding(mesh, PartitionSpec("each")), everywhere, idle)

    def jit(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``block(sharded, *others)``: each device runs it on its share of the first argument.

        The result is sharded like the first argument.
        """
        if self.mesh.size == 1:
            return jax.jit(block)

        def on_shares(sharded: Any, *others: Any) -> Any:
            each, whole = PartitionSpec("each"), PartitionSpec()
            specs = (each, *(whole for _ in others))
            run = jax.shard_map(block, mesh=self.mesh, in_specs=specs, out_specs=each, check_vma=False)
            return self._without_idle(run(self._with_idle(sharded), *others))

        return jax.jit(on_shares, out_shardings=self.each)

    def jit_start(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``start(*others)`` with the sharding that blocks return, so that all blocks are one program.

        It runs once per fit, so on a CPU it is compiled without LLVM's optimisations: that takes half the time.
        """
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return jax.jit(start, out_shardings=self.each, compiler_options=options)

    def _with_idle(self, sharded: Any) -> Any:
        if not self.idle:
            return sharded
        return jax.tree.map(lambda leaf: jnp.concatenate([leaf, *[leaf[-1:]] * self.idle]), sharded)

    def _without_idle(self, sharded: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[: -self.idle], sharded) if self.idle else sharded
