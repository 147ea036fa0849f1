"""Is a model one density? Held against itself, call by call, without a value being computed.

What is compiled for a model serves all its fits. A model that reads a counter, `np.random` or a global that changes is
then another density than the one that was compiled, and nothing in JAX or NumPyro says so. Here its operations are
compared with those of its first call: of a function at every fit, which takes milliseconds; of a value that cannot
change, such as a `flatprior.models.Model`, at the first.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from itertools import zip_longest
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun  # type: ignore[attr-defined]
from numpyro.handlers import seed, substitute, trace

from .contract import translated_errors
from .rows import Rows, Weights, signature
from .sites import NumPyroModel
from .structure import Structure

PLAIN = (bool, int, float, str, np.dtype, type(None))
"""Parameters of operations that are compared; the others are functions, which are made anew at every call."""


class _Call(NamedTuple):
    """The operations of one call of a model."""

    program: ClosedJaxpr
    sites: tuple[str, ...]
    """The sites whose log probabilities are the outputs, in this order, which may be several a site."""
    of_y: frozenset[str]
    """The sites whose log probability depends on y."""


def check_one_density(model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> None:
    """Raise where the density of a model does not depend on y, or changes from call to call.

    Raises:
        ValueError: in either case.
    """
    tree, leaves = signature((x, y))
    known = _known_calls(model, structure.sites, structure.observed, tree, leaves, jax.config.jax_enable_x64)
    if _is_value(model):
        return
    again = _call(model, structure.sites, tree, leaves)
    changed = _difference(known[-1], again)
    if changed and not changed.certain and _equal_values(known[-1], again):
        known.append(again)  # a distribution may keep what it has computed of itself, and compute it no more
        return
    if changed:
        raise ValueError(
            f"Expected the model to be the density that it was at its first fit; {changed.words}. What was compiled "
            f"then is kept for it. Run the definition of the model again after such a change, make what changes a "
            f"field of a frozen dataclass that is the model, or hand it over in x."
        )


@lru_cache(maxsize=256)
def _known_calls(
    model: NumPyroModel, sites: Any, observed: str, tree: Any, leaves: Any, in_double: bool
) -> list[_Call]:
    """The operations of a model, which has been called twice; others of the same values may follow."""
    first, second = (_call(model, sites, tree, leaves) for _ in range(2))
    changed = _difference(first, second)
    if changed and (changed.certain or not _equal_values(first, second)):
        raise ValueError(
            f"Expected a model that is one density; called twice with the same weights and rows, {changed.words}. Only "
            f"one of them would be compiled. Draw what is random by numpyro.sample, and hand over in x what changes."
        )
    if observed not in first.of_y:
        raise ValueError(
            f"Observed site {observed!r}: expected its value to come from y; the model never uses the y that it is "
            f"given. Does it pass obs=y to numpyro.sample?"
        )
    return [second]


def _is_value(part: Any) -> bool:
    """Whether a model is made of frozen dataclasses and no function of Python, which may read what changes."""
    if not is_dataclass(part):
        return not isinstance(part, FunctionType | MethodType | partial) and not hasattr(part, "__dict__")
    frozen = getattr(part, "__dataclass_params__").frozen  # noqa: B009
    return frozen and all(_is_value(getattr(part, each.name)) for each in fields(part))


def _call(model: NumPyroModel, sites: Any, tree: Any, leaves: Any) -> _Call:
    def log_probs(weights: Weights, x: Rows, y: Rows) -> dict[str, Any]:
        found = trace(seed(substitute(model, data=weights), jax.random.key(0))).get_trace(x, y)
        return {name: site["fn"].log_prob(site["value"]) for name, site in found.items() if site["type"] == "sample"}

    x, y = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    dtype = jax.dtypes.canonicalize_dtype(float)
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in sites}
    with translated_errors(x, y):
        program, out = jax.make_jaxpr(log_probs, return_shape=True)(weights, x, y)
    if any(isinstance(value, jax.core.Tracer) for value in program.consts):
        raise TypeError(
            "Expected a model that keeps no values from call to call, in a list or a global; it uses one of another "
            "call. Compute it anew in each call."
        )
    names = tuple(name for name, shapes in sorted(out.items()) for _ in jax.tree.leaves(shapes))
    given = set(program.jaxpr.invars[len(program.jaxpr.invars) - len(jax.tree.leaves(y)) :])
    return _Call(program, names, _reached(program.jaxpr, names, given))


def _reached(jaxpr: Jaxpr, sites: tuple[str, ...], given: set[Any]) -> frozenset[str]:
    """The sites whose log probability depends on the given variables."""
    known = set(given)
    for equation in jaxpr.eqns:
        if any(var in known for var in equation.invars if not isinstance(var, Literal)):
            known.update(equation.outvars)
    ends = zip(sites, jaxpr.outvars, strict=True)
    return frozenset(site for site, var in ends if not isinstance(var, Literal) and var in known)


class _Difference(NamedTuple):
    """The first place where two calls differ."""

    words: str
    certain: bool
    """Whether the same operations are done with other numbers; other operations may come to the same."""


def _difference(first: _Call, second: _Call) -> _Difference | None:
    one, other = first.program, second.program
    words, certain = None, len(one.consts) == len(other.consts)
    for var, a, b in zip(one.jaxpr.constvars, one.consts, other.consts, strict=False):
        if words is None and not _same(a, b):
            words = _told(first, {var}, a, b)
    for a, b in zip_longest(_facts(one.jaxpr), _facts(other.jaxpr)):
        if a is None or b is None or a.kind != b.kind:
            words = words or _told(first if a else second, set((a or b).equation.outvars), "one", "other")
            return _Difference(words, certain=False)
        for value, again in zip(a.constants, b.constants, strict=True):
            if words is None and not _same(value, again):
                words = _told(first, set(a.equation.outvars), value, again)
    return None if words is None else _Difference(words, certain)


def _equal_values(first: _Call, second: _Call) -> bool:
    """Whether both come to the same log probabilities, at some numbers."""
    rng = np.random.default_rng(0)
    avals: list[Any] = [var.aval for var in first.program.jaxpr.invars]
    some = [(rng.uniform(0.1, 0.9, a.shape) if jnp.issubdtype(a.dtype, jnp.floating) else 0) for a in avals]
    given = [np.broadcast_to(value, a.shape).astype(a.dtype) for value, a in zip(some, avals, strict=True)]
    one, other = (jax.jit(jaxpr_as_fun(call.program))(*given) for call in (first, second))
    return len(one) == len(other) and all(np.allclose(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def _told(call: _Call, changed: set[Any], a: Any, b: Any) -> str:
    sites = sorted(_reached(call.program.jaxpr, call.sites, changed))
    where = f"the log probability of {', '.join(map(repr, sites))}" if sites else "it"
    if isinstance(a, str) or isinstance(b, str) or np.shape(a) != np.shape(b):
        return f"{where} is computed by other operations"
    a, b = np.asarray(a), np.asarray(b)
    place = tuple(np.argwhere(~((a == b) | ((a != a) & (b != b))))[0])
    return f"{where} is computed with {a[place]} at one call and with {b[place]} at the other"


class _Fact(NamedTuple):
    equation: JaxprEqn
    """The operation of the whole program that it is a part of."""
    kind: tuple[Any, ...]
    constants: list[Any]


def _facts(jaxpr: Jaxpr) -> Iterator[_Fact]:
    """What is done, to what, in this order; also in the programs within the program."""
    number = {var: i for i, var in enumerate([*jaxpr.constvars, *jaxpr.invars])}
    for equation in jaxpr.eqns:
        inputs = tuple(None if isinstance(var, Literal) else number[var] for var in equation.invars)
        constants = [var.val for var in equation.invars if isinstance(var, Literal)]
        for var in equation.outvars:
            number[var] = len(number)
        shapes = tuple((getattr(v.aval, "shape", None), str(getattr(v.aval, "dtype", None))) for v in equation.outvars)
        plain = tuple((name, value) for name, value in sorted(equation.params.items()) if _is_plain(value))
        yield _Fact(equation, (equation.primitive.name, inputs, shapes, plain), constants)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                if isinstance(part, ClosedJaxpr):
                    yield _Fact(equation, ("constants", len(part.consts)), list(part.consts))
                    part = part.jaxpr
                if isinstance(part, Jaxpr):
                    yield from (fact._replace(equation=equation) for fact in _facts(part))


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, PLAIN)


def _same(a: Any, b: Any) -> bool:
    if a is b or jnp.issubdtype(getattr(a, "dtype", np.dtype(float)), jax.dtypes.extended):
        return True
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
