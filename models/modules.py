"""Modules of other libraries, taken apart into their parameters and what is left."""

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
    "The output of a row would depend on the other rows of its batch, and on averages kept between calls: that is no "
    "likelihood of rows. Use {instead}."
)
MIXED = (
    "The output of a row depends on the other rows of its batch: that is no likelihood of rows, and the same row would "
    "be predicted otherwise alone than among others. Compute what it takes from all rows, such as their mean, before "
    "the fit."
)
DROPOUT = (
    "Noise drawn anew at every call belongs to no density. Leave it out, or switch it off: {off}. For predictions that "
    "are less sure of themselves use Ensemble(), or a posterior by NUTS() or MCLMC()."
)


class Parts(NamedTuple):
    """A module taken apart: copies, which no later change of the module reaches."""

    name: str
    """The class of the module."""
    values: dict[str, np.ndarray]
    """Path of each parameter -> the module's own value."""
    shapes: dict[str, LayerShape]
    rebuild: Callable[[Mapping[str, Any]], Any]
    """Path -> value; gives the module with these values."""
    call: Callable[[Any, Any], Any]
    """(module, n rows of x) -> its outputs, n rows."""
    row_by_row: bool
    """Whether `call` gives the module one row at a time, so that it cannot mix them."""


def parts_of(
    module: Any,
    values: dict[str, Any],
    inputs: Mapping[str, int | None],
    rebuild: Callable[[Mapping[str, Any]], Any],
    call: Callable[[Any, Any], Any],
    *,
    row_by_row: bool,
) -> Parts:
    """The parts of a module; vectors need no entry in `inputs`, which says how many inputs a unit sums.

    Raises:
        ValueError: when there are no parameters, or they are complex, or without values.
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
    """A value of a parameter as the module is to have it: in half precision where that is what it keeps."""
    value = jnp.asarray(value, float)
    return value.astype(own.dtype) if own.dtype.itemsize < 4 else value


def host_copy(value: Any) -> Any:
    """A parameter as a NumPy array, which no later change of the module reaches; a traced one as it is."""
    return value if isinstance(value, Tracer) else np.array(value)


def add(values: dict[str, Any], name: str, value: Any) -> None:
    """Add a parameter under a name that must be new."""
    if name in values:
        raise ValueError(f"Lift: expected paths that differ when joined by dots; two parameters are called {name!r}.")
    values[name] = value


def refuse(name: str, what: str, cure: str) -> NoReturn:
    """Raise, since a module has state."""
    raise ValueError(f"Lift: expected a module without state; {name!r} is {what}. {cure}")


def library_of(value: Any) -> str | None:
    """The library that a value is a module of. Imports none: a module exists only where its library is."""
    for library in ("flax.nnx", "equinox", "flax.linen"):
        base = getattr(sys.modules.get(library), "Module", None)
        if base is not None and isinstance(value, base):
            return library
    return None
