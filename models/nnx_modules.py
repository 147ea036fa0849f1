"""Flax NNX modules, split into parameters and the rest."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .modules import BATCH_NORM, DROPOUT, NO_FUNCTION, Parts, Path, add, host_copy, in_its_type, parts_of, refuse

BIASED = (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.ConvTranspose, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm)
"""Layers whose biases and scales have one element per unit."""


def take_apart(module: nnx.Module) -> Parts:
    """Split a module into its parameters (floats in an nnx.Param) and the rest.

    Plain arrays, integers, and variables whose type is nnx.Variable itself are constants.

    Raises:
        ValueError: when the module has state, or no parameters.
    """
    layers = dict(nnx.iter_modules(module))
    for path, layer in layers.items():
        _check_layer(name_of(path), layer)
    graph, state = nnx.split(module)
    leaves = {path: _copied(leaf) for path, leaf in nnx.to_flat_state(state)}
    values: dict[str, np.ndarray] = {}
    paths: dict[Path, str] = {}
    for path in sorted(leaves, key=lambda path: _position(path, layers)):
        if _is_weight(name_of(path), leaves[path]):
            add(values, name_of(path), host_copy(leaves[path].get_value()))
            paths[path] = name_of(path)

    def rebuild(weights: Mapping[str, Any]) -> nnx.Module:
        def filled(path: Path, leaf: Any) -> Any:
            if path in paths:
                return leaf.replace(in_its_type(values[paths[path]], weights[paths[path]]))
            return leaf.copy() if isinstance(leaf, nnx.Variable) else leaf

        return nnx.merge(graph, nnx.from_flat_state([(path, filled(path, leaf)) for path, leaf in leaves.items()]))

    inputs = {name: _num_inputs(layers.get(path[:-1]), path[-1]) for path, name in paths.items()}
    return parts_of(module, values, inputs, rebuild, _call, row_by_row=False)


def name_of(path: Path) -> str:
    """Return the site name of a path."""
    return ".".join(map(str, path))


def _call(module: Any, x: Any) -> Any:
    before = _constants(module)
    out = module(jax.tree.map(jnp.asarray, x))
    after = _constants(module)
    for path, value in before.items():
        if after.get(path) is not value:
            what = "a variable that a call changes, or that nnx.jit or another transform of NNX writes back"
            refuse(name_of(path), what, f"{NO_FUNCTION} Keep constants as arrays, not as variables.")
    return out


def _constants(module: nnx.Module) -> dict[Path, Any]:
    """The values of all variables other than parameters, which a call must not change."""
    # Recurrent layers draw a key for their zero initial state at every call; dropout that is off ignores its draws.
    harmless = nnx.RNN | nnx.RNNCellBase | nnx.Dropout | nnx.MultiHeadAttention
    drawing = [path for path, layer in nnx.iter_modules(module) if isinstance(layer, harmless)]
    variables = nnx.to_flat_state(nnx.state(module, nnx.All(nnx.Variable, nnx.Not(nnx.Param))))
    return {path: leaf.get_value() for path, leaf in variables if path[:-2] not in drawing}


def _is_weight(name: str, leaf: Any) -> bool:
    if not isinstance(leaf, nnx.Variable) or type(leaf) is nnx.Variable or isinstance(leaf, nnx.RngState):
        return False
    if not isinstance(leaf, nnx.Param):
        cure = "Use nnx.Param for parameters and nnx.Variable itself for constants; leave out state."
        refuse(name, f"a variable of the type {type(leaf).__name__}", cure)
    value = leaf.get_value()
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"Lift: expected parameters that are arrays; {name!r} holds {value!r}.")
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _check_layer(name: str, layer: Any) -> None:
    if isinstance(layer, nnx.BatchNorm):
        refuse(name, "an nnx.BatchNorm", BATCH_NORM.format(instead="nnx.LayerNorm or nnx.GroupNorm"))
    rate = layer.rate if isinstance(layer, nnx.Dropout) else getattr(layer, "dropout_rate", 0)
    if isinstance(rate, int | float) and rate > 0 and getattr(layer, "deterministic", None) is not True:
        refuse(name, f"an nnx.{type(layer).__name__} with dropout", DROPOUT.format(off="module.eval()"))


def _num_inputs(layer: Any, name: Any) -> int | None:
    """The number of inputs that a unit sums, or None if unknown.

    It comes from the layer's fields: in a stack of layers made by `nnx.vmap` the shape has one more axis.
    """
    match layer, name:
        case nnx.Linear(), "kernel":
            return layer.in_features
        case nnx.Conv() | nnx.ConvTranspose(), "kernel":
            groups = layer.feature_group_count if isinstance(layer, nnx.Conv) else 1
            return math.prod(layer.kernel_size) * layer.in_features // groups
        case nnx.LinearGeneral(), "kernel":  # in attention, heads and their width are outputs
            return math.prod(layer.in_features)
        case nnx.Embed(), "embedding":  # looked up one row at a time
            return 1
        case _, "bias" | "scale" if isinstance(layer, BIASED):
            return 1
    return None


def _position(path: Path, layers: Mapping[Path, Any]) -> tuple[int, ...]:
    """The position of a variable in the order of definition; NNX sorts attributes by name."""
    position = []
    for i, part in enumerate(path):
        made = [str(name) for name in vars(layers[path[:i]])] if path[:i] in layers else []
        position.append(made.index(str(part)) if str(part) in made else part if isinstance(part, int) else 0)
    return tuple(position)


def _copied(leaf: Any) -> Any:
    """A leaf with copied arrays, safe from changes in place and from donated buffers."""
    if isinstance(leaf, nnx.Variable):
        return leaf.replace(_copied(leaf.get_value()))
    return leaf.copy() if isinstance(leaf, jax.Array | np.ndarray) else leaf
