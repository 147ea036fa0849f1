"""Parts of the traced program of a model: what it computes from the rows alone, whatever the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from .contract import translated_errors
from .density import Density
from .internals import ClosedJaxpr, jaxpr_as_fun
from .rows import Data, Weights


class Part(NamedTuple):
    """The part of a program that computes one of its outputs."""

    compute: Callable[..., list[jax.Array]]
    """(the leaves of the data that it uses) -> the output, alone in a list."""
    sites: tuple[str, ...]
    """The latent sites that it uses."""
    leaves: tuple[int, ...]
    """The leaves of the data that it uses, by number."""

    def of(self, data: Data) -> jax.Array:
        """Return the output of a part that uses no sites."""
        leaves = jax.tree.leaves(data)
        (output,) = self.compute(*(leaves[number] for number in self.leaves))
        return output


def traced(evaluate: Callable[[Weights, Data], Any], density: Density, tree: Any, leaves: Any) -> ClosedJaxpr:
    """Return the program of a function of weights and data, for rows of a `signature`."""
    data = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    dtype = jax.dtypes.canonicalize_dtype(float)
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in density.structure.sites}
    with translated_errors(data.x, data.y):
        return jax.make_jaxpr(evaluate)(weights, data)


def part(program: ClosedJaxpr, output: int, density: Density) -> Part:
    """Return the part of a `traced` program that computes one of its outputs, by number."""
    wanted = [number == output for number in range(len(program.jaxpr.outvars))]
    jaxpr, used = dce_jaxpr(program.jaxpr, wanted)
    names = sorted(density.structure.latents)  # the order of the leaves of a dictionary
    return Part(
        jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, program.consts))),
        tuple(name for name, is_used in zip(names, used, strict=False) if is_used),
        tuple(number for number, is_used in enumerate(used[len(names) :]) if is_used),
    )
