"""Devices: how what there are several of, chains or restarts, lies on those of the machine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PROGRAMS_KEPT = 16
"""How many fits' compiled code each method keeps. On the CPU it takes up to 1,500 mappings of memory a fit, and a Linux
process that is past its 65,530 dies: a sweep over a hundred models must not keep them all."""


class Spread(NamedTuple):
    """An equal number on each of as many devices as that allows."""

    mesh: Mesh
    a_share: NamedSharding
    """Of what there is one of for each of them, along the first axis."""
    all: NamedSharding
    """Of what every device has whole."""

    @classmethod
    def of(cls, count: int) -> "Spread":
        """The layout of so many."""
        devices = jax.local_devices()
        num_devices = max(d for d in range(1, len(devices) + 1) if count % d == 0)
        mesh = Mesh(np.array(devices[:num_devices]), ("each",))
        return cls(mesh, NamedSharding(mesh, PartitionSpec("each")), NamedSharding(mesh, PartitionSpec()))

    def jit(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``block(shared out, *others)``: each device runs it on its share of the first argument.

        What it returns is shared out like the first argument.
        """
        if self.mesh.size == 1:
            return jax.jit(block)

        def spread(shared: Any, *others: Any) -> Any:
            specs = (self.a_share.spec, *(self.all.spec for _ in others))
            run = jax.shard_map(block, mesh=self.mesh, in_specs=specs, out_specs=self.a_share.spec, check_vma=False)
            return run(shared, *others)

        return jax.jit(spread)
