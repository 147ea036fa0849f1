"""Parts of models as values: distributions are compared by content, not by identity."""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any

import jax
import numpy as np
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property


def compared_by_value[Part](part: type[Part]) -> type[Part]:
    """Give a frozen dataclass equality and a hash by its fields, with distributions compared by content.

    NumPyro compares distributions by identity, so two `Normal(HalfNormal(1.0))` would differ: their code would be
    compiled twice, and `compare` could not average their fits over keys.
    """

    def key(self: Part) -> Hashable:
        return tuple(as_value(getattr(self, each.name)) for each in fields(self))  # type: ignore[arg-type]

    def eq(self: Part, other: object) -> bool:
        return type(self) is type(other) and key(self) == key(other)  # type: ignore[arg-type]

    compare: dict[str, Callable[..., Any]] = {"__eq__": eq, "__hash__": lambda self: hash(key(self))}
    for name, method in compare.items():
        setattr(part, name, method)
    return part


def as_value(part: Any) -> Hashable:
    """Return a hashable value: type and attributes of a distribution; type, shape and bytes of an array.

    Attributes that a distribution computes lazily from the others do not count, nor does the inverse that a transform
    remembers by a weak reference. Anything else is its own value.
    """
    if isinstance(part, Distribution | Transform | Constraint):
        attributes = {name: value for name, value in vars(part).items() if not _is_derived(type(part), name, value)}
        return type(part), as_value(attributes)
    if isinstance(part, list | tuple):
        return type(part), tuple(map(as_value, part))
    if isinstance(part, dict):
        return dict, tuple((name, as_value(value)) for name, value in part.items())
    if isinstance(part, np.ndarray | jax.Array) and not isinstance(part, jax.core.Tracer):
        return str(part.dtype), part.shape, np.asarray(part).tobytes()
    return part


def _is_derived(kind: type, name: str, value: Any) -> bool:
    return isinstance(getattr(kind, name, None), lazy_property) or isinstance(value, weakref.ref)
