"""Tests of equality: fingerprints of Python values, digests of arrays, and log densities equal up to rounding.

`fingerprint` decides whether two settings that contain functions are equal, so that a compiled program serves both;
`digest` whether arrays are equal to the bit; `settings_in_words` whether the settings of a method, and
`same_log_density` whether a density is the same as in an earlier session, possibly on another machine.
"""

import builtins
import dis
import hashlib
import re
import weakref
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from types import CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform

from .density import log_density
from .rows import Rows
from .sites import NumPyroModel, is_latent

TOLERANCE = 1e-3
"""The tolerance of log densities, relative, and absolute in nats: above the rounding differences between machines, and
below the differences between models."""
PLAIN = (bool, int, str, bytes, NoneType, EllipsisType)
"""Types whose values are compared by `==`."""


def log_density_at_random(model: NumPyroModel, x: Rows, y: Rows) -> float:
    """Return log p(y, w | x) in nats, at weights that are always the same.

    This number distinguishes two functions of one name, or two modules of one shape, which a description cannot.
    """

    @jax.jit
    def at_random(x: Rows, y: Rows) -> jax.Array:
        chosen = substitute(seed(model, jax.random.key(0)), substitute_fn=init_to_uniform)
        sites = trace(chosen).get_trace(x, y)
        weights = {name: site["value"] for name, site in sites.items() if is_latent(site)}
        return log_density(model, weights, x, y)

    return float(at_random(x, y))


def same_log_density(one: Any, other: Any) -> bool:
    """Return whether log densities in nats agree up to the rounding of another machine, with NaN equal to NaN."""
    return np.shape(one) == np.shape(other) and np.allclose(one, other, TOLERANCE, TOLERANCE, equal_nan=True)


def without_addresses(words: str) -> str:
    """Return a text without addresses in memory, such as those in the `repr` of a function."""
    return re.sub(r" at 0x[0-9a-f]+", "", words)


def digest(arrays: Iterable[tuple[str, Any]], text: str = "") -> str:
    """Return the SHA-256 of a text and of named arrays: their names, types, shapes and bytes."""
    sha = hashlib.sha256(text.encode())
    for name, value in arrays:
        array = np.ascontiguousarray(np.asarray(value))
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def key_in_words(key: jax.Array) -> str:
    """Return the kind and the numbers of a typed key."""
    return f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}"


def settings_in_words(method: Any, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the settings of a method in words that are the same in every process, by which two are compared.

    Args:
        method: a dataclass whose fields are settings.
        without: the names of settings that are left out, which are numbers.

    Returns:
        All settings as "method" and, since functions and large arrays have no words, a digest of each setting that
        consists of these, by the path of its field: "base.optimizer".
    """
    words = without_addresses(repr(method))
    for name in without:
        words = re.sub(rf"\b{name}=\d+(, )?", "", words)
    return {"method": words, **dict(_digests(method))}


def plain_settings(method: Any) -> dict[str, Any]:
    """Return the settings of a method that are numbers, words or tuples of these, by name."""
    values = {each.name: getattr(method, each.name) for each in fields(method)} if is_dataclass(method) else {}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _digests(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and a digest of each setting that is more than numbers and words."""
    for each in fields(settings) if is_dataclass(settings) else ():
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from _digests(value, f"{path}{each.name}.")
        elif not _is_plain(value):
            text = repr(_in_words(fingerprint(value)))
            yield f"{path}{each.name}", hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if type(value) is tuple else type(value) in (*PLAIN, float)


def _in_words(mark: Any) -> Any:
    """Return a part of a fingerprint in words and numbers that are the same in every process."""
    if isinstance(mark, CodeType):
        constants = [_in_words(c) for c in mark.co_consts]
        return "code", mark.co_name, mark.co_code, constants, mark.co_names, mark.co_freevars
    if isinstance(mark, _Itself):
        name = getattr(mark.value, "__qualname__", None) or without_addresses(repr(mark.value))
        return getattr(mark.value, "__module__", ""), name
    if isinstance(mark, type):
        return mark.__module__, mark.__qualname__
    if isinstance(mark, tuple):
        return tuple(map(_in_words, mark))
    if isinstance(mark, frozenset):
        return sorted(map(repr, map(_in_words, mark)))
    return "" if isinstance(mark, jax.sharding.Sharding) else without_addresses(repr(mark))


def fingerprint(value: Any) -> Hashable:
    """Return a hashable value that is equal for two objects only if they are provably equal at this moment.

    Functions are compared by their code, defaults, the contents of their closures and the globals that they read; so
    `optax.adam(1e-3)` has the same fingerprint each time it is built. Functions that a function calls in its own module
    are compared in the same way; classes, modules, functions of other modules and objects of unknown types by
    identity. Arrays are compared by type, shape and bytes; dataclasses and NumPyro distributions
    by type and attributes.

    When a closure, a container or a global changes, the fingerprint changes.

    Args:
        value: any object.
    """
    return _Walk().visit(value)


@dataclass(frozen=True, eq=False)
class ByValue:
    """An object as the key of a cache, equal to another one if their fingerprints are equal."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and fingerprint(self.value) == fingerprint(other.value)

    def __hash__(self) -> int:
        return hash(fingerprint(self.value))


@dataclass(frozen=True, eq=False)
class _Itself:
    """An object that equals only itself. The reference keeps it alive, so that its address is not reused."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Walk:
    """A walk over an object. Parts are numbered when first visited, and replaced by their number afterwards.

    So cycles end, and two objects have equal fingerprints only if their graphs of references are equal.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.visited: list[Any] = []
        """References that keep the parts alive, so that no other object gets the same address."""

    def visit(self, value: Any) -> Hashable:
        """Return the fingerprint of a part."""
        kind = type(value)
        if kind in PLAIN:
            return kind, value
        if isinstance(value, np.dtype):
            return np.dtype, value
        if kind is float or kind is complex:
            return kind, repr(value)  # tells -0.0 from 0.0, and NaN is equal to NaN
        if kind is tuple:
            return kind, tuple(map(self.visit, value))
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _of_array(value)
        if id(value) in self.numbers:
            return "visited", self.numbers[id(value)]
        self.numbers[id(value)] = len(self.visited)
        self.visited.append(value)
        parts = self._parts(value)
        return _Itself(value) if parts is None else (kind, parts)

    def _parts(self, value: Any) -> Hashable:
        """Return the fingerprint of the parts of an object; None for an unknown type."""
        kind = type(value)
        if kind is list:
            return tuple(map(self.visit, value))
        if kind is dict:
            return tuple((self.visit(key), self.visit(item)) for key, item in value.items())
        if kind is FunctionType:
            return self._of_function(value)
        if kind is MethodType:
            return self.visit(value.__func__), self.visit(value.__self__)
        if kind is partial:
            return tuple(map(self.visit, (value.func, value.args, value.keywords, vars(value))))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return tuple(map(self.visit, value)), self.visit(getattr(value, "__dict__", None))
        if isinstance(value, Distribution | Transform | Constraint):
            return self.visit(_without_lazy(value))
        if is_dataclass(kind) and not isinstance(value, tuple | list | dict | set | frozenset | str | bytes | int):
            attributes = {each.name: getattr(value, each.name) for each in fields(value) if hasattr(value, each.name)}
            return self.visit({**attributes, **getattr(value, "__dict__", {})})
        return None

    def _of_function(self, function: FunctionType) -> Hashable:
        code = function.__code__
        values: list[Any] = [function.__defaults__, function.__kwdefaults__, vars(function)]
        for cell in function.__closure__ or ():
            try:
                values.append(cell.cell_contents)
            except ValueError:  # still empty
                values.append(_Itself)
        read = tuple((path, self._of_global(function, path)) for path in _globals_read(code))
        return code, tuple(map(self.visit, values)), read

    def _of_global(self, function: FunctionType, path: tuple[str, ...]) -> Hashable:
        """Return the fingerprint of a global that a function reads as `name` or as `module.name`."""
        name, *attributes = path
        value = function.__globals__.get(name, getattr(builtins, name, None))
        for attribute in attributes:
            if not isinstance(value, ModuleType):
                break
            if attribute not in vars(value):  # a lazy attribute
                return _Itself(value), attribute
            value = vars(value)[attribute]
        if isinstance(value, FunctionType) and value.__globals__ is not function.__globals__:
            return _Itself(value)
        return self.visit(value)


@lru_cache(maxsize=4096)
def _globals_read(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the global names that code and the functions within it read, each with the attributes read from it."""
    paths: dict[tuple[str, ...], None] = {}
    path: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and path:
            path.append(instruction.argval)
            continue
        if path:
            paths[tuple(path)] = None
        path = [instruction.argval] if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") else []
    if path:
        paths[tuple(path)] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            paths.update(dict.fromkeys(_globals_read(constant)))
    return tuple(paths)


def _of_array(value: Any) -> Hashable:
    """Return type, shape and bytes of an array; a traced array, or one of objects, equals only itself."""
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return str(value.dtype), _of_array(jax.random.key_data(value))
        return jax.Array, value.dtype, value.weak_type, value.sharding, value.shape, np.asarray(value).tobytes()
    if (type(value) is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        return type(value), value.dtype, value.shape, value.tobytes()
    return _Itself(value)


def _without_lazy(value: Any) -> dict[str, Any]:
    """Return the attributes of a distribution without those that are derived from the others: lazy ones, and inverses.

    A transform remembers its inverse by a weak reference.
    """
    kind = type(value)
    return {
        name: part
        for name, part in vars(value).items()
        if not (isinstance(getattr(kind, name, None), lazy_property) or isinstance(part, weakref.ref))
    }
