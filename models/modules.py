"""Modules of other libraries, split into their parameters and the rest."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from .prior import LayerShape

type Path = tuple[Any, ...]

NO_FUNCTION = "A network is a function of x and its weights."
BATCH_NORM = (
    "The output of a row would depend on the other rows of its batch and on running averages: this is not a likelihood "
    "of independent rows. Use {instead}."
)
MIXED = (
    "The output of a row depends on the other rows of its batch: this is not a likelihood of independent rows, and the "
    "prediction for a row would change with the rows around it. Compute quantities over all rows, such as their mean, "
    "before the fit."
)
DROPOUT = (
    "Noise drawn anew at every call is not part of a density. Leave it out, or switch it off: {off}. For less "
    "confident predictions use Ensemble(), or a posterior by NUTS() or MCLMC()."
)


class Parts(NamedTuple):
    """A module split into parts. They are copies: later changes of the module do not affect them."""

    name: str
    """The class of the module."""
    values: dict[str, np.ndarray]
    """Path of each parameter -> its value in the module."""
    shapes: dict[str, LayerShape]
    rebuild: Callable[[Mapping[str, Any]], Any]
    """(path -> value) -> the module with these values."""
    call: Callable[[Any, Any], Any]
    """(module, n rows of x) -> n rows of outputs."""
    row_by_row: bool
    """Whether `call` passes one row at a time to the module, so that it cannot mix rows."""


def parts_of(
    module: Any,
    values: dict[str, Any],
    inputs: Mapping[str, int | None],
    rebuild: Callable[[Mapping[str, Any]], Any],
    call: Callable[[Any, Any], Any],
    *,
    row_by_row: bool,
) -> Parts:
    """The parts of a module; `inputs` maps a path to the number of inputs that a unit sums (1 for vectors).

    Raises:
        ValueError: when the module has no parameters, or they are complex or traced.
    """
    name = type(module).__name__
    if not values:
        raise ValueError(f"Lift: expected a module with parameters; {name} has none.")
    for path, value in values.items():
        if isinstance(value, Tracer):
            raise ValueError(
                f"Lift: expected a module with values; {path!r} of {name} is being traced. Make the module and its "
                f"Lift once, outside of the model and of jax.jit."
            )
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ValueError(f"Lift: expected real parameters; {path!r} of {name} is {value.dtype}.")
    shapes = {
        path: LayerShape(value.shape, inputs.get(path) if value.ndim > 1 else 1) for path, value in values.items()
    }
    return Parts(name, values, shapes, rebuild, call, row_by_row)


def in_its_type(own: np.ndarray, value: Any) -> Array:
    """A value of a parameter in the type that the module uses: half precision if its own value has it."""
    value = jnp.asarray(value, float)
    return value.astype(own.dtype) if own.dtype.itemsize < 4 else value


def host_copy(value: Any) -> Any:
    """A copy of a parameter as a NumPy array; a tracer is returned as it is."""
    return value if isinstance(value, Tracer) else np.array(value)


def add(values: dict[str, Any], name: str, value: Any) -> None:
    """Add a parameter under a name that must be new."""
    if name in values:
        raise ValueError(f"Lift: expected paths that differ when joined by dots; two parameters are called {name!r}.")
    values[name] = value


def refuse(name: str, what: str, cure: str) -> NoReturn:
    """Raise an error for a module with state."""
    raise ValueError(f"Lift: expected a module without state; {name!r} is {what}. {cure}")


def library_of(value: Any) -> str | None:
    """The library whose module a value is, or None. Imports nothing: a module exists only if its library is loaded."""
    for library in ("flax.nnx", "equinox", "flax.linen"):
        base = getattr(sys.modules.get(library), "Module", None)
        if base is not None and isinstance(value, base):
            return library
    return None
