"""Equinox modules, split into parameters and the rest."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .modules import BATCH_NORM, DROPOUT, NO_FUNCTION, Parts, Path, add, host_copy, in_its_type, parts_of, refuse

LAYERS = (
    *(eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.GRUCell, eqx.nn.LSTMCell),
    *(eqx.nn.Embedding, eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm),
)
"""Layers whose units sum a known number of inputs."""


def take_apart(module: eqx.Module) -> Parts:
    """Split a module into its parameters (arrays of floats) and the rest; it takes one row, and is mapped over rows.

    Raises:
        ValueError: when the module has state, or no parameters.
    """
    for path, layer in _nodes(module, (eqx.nn.BatchNorm, eqx.nn.SpectralNorm, eqx.nn.StateIndex, eqx.nn.Dropout)):
        _check_layer(name_of(path), layer)
    weights, rest = eqx.partition(module, eqx.is_inexact_array)
    rest = jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array_like(leaf) and hasattr(leaf, "copy") else leaf, rest)
    leaves, structure = jax.tree.flatten_with_path(weights)
    values: dict[str, np.ndarray] = {}
    for path, leaf in leaves:
        add(values, name_of(path), host_copy(leaf))

    def rebuild(weights: Mapping[str, Any]) -> Any:
        filled = [in_its_type(own, weights[name]) for name, own in values.items()]
        return eqx.combine(jax.tree.unflatten(structure, filled), rest)

    return parts_of(module, values, _inputs(module), rebuild, _call, row_by_row=True)


def name_of(path: Path) -> str:
    """Return the site name of a path."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _call(module: Any, x: Any) -> Any:
    return jax.vmap(module)(jax.tree.map(jnp.asarray, x))


def _inputs(module: eqx.Module) -> dict[str, int | None]:
    """The number of inputs that a unit sums, for each parameter of a known layer."""
    inputs: dict[str, int | None] = {}
    for path, layer in _nodes(module, LAYERS):
        for part, _ in jax.tree.leaves_with_path(eqx.filter(layer, eqx.is_inexact_array)):
            inputs[name_of((*path, *part))] = _num_inputs(layer, name_of(part))
    return inputs


def _num_inputs(layer: Any, name: str) -> int:
    """The number of inputs by the layer's fields: under `eqx.filter_vmap` the shape has one more axis."""
    match layer, name:
        case eqx.nn.Linear(), "weight":
            return 1 if layer.in_features == "scalar" else layer.in_features
        case eqx.nn.Conv() | eqx.nn.ConvTranspose(), "weight":
            return math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        case eqx.nn.GRUCell() | eqx.nn.LSTMCell(), "weight_ih":
            return layer.input_size
        case eqx.nn.GRUCell() | eqx.nn.LSTMCell(), "weight_hh":
            return layer.hidden_size
    return 1  # biases, scales, and embeddings, which are looked up one row at a time


def _check_layer(name: str, layer: Any) -> None:
    match layer:
        case eqx.nn.BatchNorm():
            refuse(name, "an eqx.nn.BatchNorm", BATCH_NORM.format(instead="eqx.nn.LayerNorm or eqx.nn.GroupNorm"))
        case eqx.nn.Dropout():
            if not layer.inference and not (isinstance(layer.p, int | float) and layer.p == 0):
                refuse(name, "an eqx.nn.Dropout", DROPOUT.format(off="eqx.nn.inference_mode(module)"))
        case _:
            refuse(name, f"an eqx.nn.{type(layer).__name__}", NO_FUNCTION)


def _nodes(module: Any, kinds: tuple[type, ...]) -> list[tuple[Path, Any]]:
    """The nodes of a pytree that are instances of `kinds`, with their paths."""
    leaves = jax.tree.leaves_with_path(module, is_leaf=lambda node: isinstance(node, kinds))
    return [(path, node) for path, node in leaves if isinstance(node, kinds)]
