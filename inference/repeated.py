"""The check that a model is one density, by comparing each call with the one before, mostly without computing values.

Code that was compiled for a model serves all its fits. If a model reads a counter, `np.random` or a global that
changes, its density differs from the compiled one, and neither JAX nor NumPyro notices. This module compares the
printed program of a call, and the arrays in it, with those of the call before: for a function at every fit, which takes
milliseconds; for an immutable value, such as a `flatprior.models.Model`, only at the first. Both are evaluated only
where they differ.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace

from .contract import translated_errors
from .fingerprint import digest, without_addresses
from .internals import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from .rows import Rows, Weights, signature
from .sites import NumPyroModel
from .structure import Structure

NUMBER = re.compile(r"-?\b\d+(\.\d*)?(e[+-]?\d+)?|\b(nan|inf)\b")
"""A number in the text of a program."""

SCALE = "the scale of "
"""The beginning of the name of the output that is the scale of a site."""


class _Call(NamedTuple):
    """The operations of one call of a model."""

    program: ClosedJaxpr
    text: str
    """The printed program, without addresses."""
    constants: str
    """A digest of the arrays in the program."""
    sites: tuple[str, ...]
    """The sites whose log probabilities are the outputs, in this order; a site may have several outputs."""
    depends_on_y: frozenset[str]
    """The sites whose log probability depends on y."""


def check_one_density(model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> None:
    """Raise ValueError where the density of a model does not depend on y, or changes between calls.

    Raises:
        ValueError: in both cases.
    """
    tree, leaves = signature((x, y))
    observed = structure.observed_sites
    known = _known_calls(model, structure.sites, observed, tree, leaves, jax.config.jax_enable_x64)
    if _is_value(model):
        return
    again = _call(model, structure.sites, tree, leaves)
    changed = _difference(known[-1], again)
    if changed:
        raise ValueError(
            f"Expected the model to have the same density as at its first fit; {changed}. Its compiled code is that "
            f"of the first fit. Run the definition of the model again after such a change, make the value that changes "
            f"a field of a frozen dataclass that is the model, or pass it in x."
        )
    known[-1] = again


@lru_cache(maxsize=256)
def _known_calls(
    model: NumPyroModel, sites: Any, observed: tuple[str, ...], tree: Any, leaves: Any, in_double: bool
) -> list[_Call]:
    """Return a list with the last call of a model that has been called twice; later calls replace it."""
    first, second = (_call(model, sites, tree, leaves) for _ in range(2))
    changed = _difference(first, second)
    if changed:
        raise ValueError(
            f"Expected a model with one density; in a second call with the same weights and rows, {changed}. Only one "
            f"of the two would be compiled. Draw random values by numpyro.sample, and pass values that change in x."
        )
    unused = [name for name in observed if name not in first.depends_on_y]
    if unused:
        raise ValueError(
            f"Observed site {unused[0]!r}: expected its value to come from y; the model never uses its argument y. "
            f"Does it pass obs=y to numpyro.sample?"
        )
    return [second]


def _is_value(part: Any) -> bool:
    """Return whether a model consists of frozen dataclasses, without Python functions, which may read variables."""
    if not is_dataclass(part):
        return not isinstance(part, FunctionType | MethodType | partial) and not hasattr(part, "__dict__")
    frozen = getattr(part, "__dataclass_params__").frozen  # noqa: B009
    return frozen and all(_is_value(getattr(part, each.name)) for each in fields(part))


def _call(model: NumPyroModel, sites: Any, tree: Any, leaves: Any) -> _Call:
    def log_probs(weights: Weights, x: Rows, y: Rows) -> dict[str, Any]:
        sites = trace(seed(substitute(model, data=weights), jax.random.key(0))).get_trace(x, y)
        sampled = {name: site for name, site in sites.items() if site["type"] == "sample"}
        scales = {f"{SCALE}{name}": site["scale"] for name, site in sampled.items() if site["scale"] is not None}
        return {name: site["fn"].log_prob(site["value"]) for name, site in sampled.items()} | scales

    x, y = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    dtype = jax.dtypes.canonicalize_dtype(float)
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in sites}
    with translated_errors(x, y):
        program, out = jax.make_jaxpr(log_probs, return_shape=True)(weights, x, y)
    if any(isinstance(value, jax.core.Tracer) for value in program.consts):
        raise TypeError(
            "Expected a model that stores no values between calls, in a list or a global; it uses one from another "
            "call. Compute it in each call."
        )
    names = tuple(name for name, shapes in sorted(out.items()) for _ in jax.tree.leaves(shapes))
    of_y = set(program.jaxpr.invars[len(program.jaxpr.invars) - len(jax.tree.leaves(y)) :])
    return _Call(
        program,
        without_addresses(str(program)),
        _digest(_constants(program)),
        names,
        reached(program.jaxpr, names, of_y),
    )


def reached(jaxpr: Jaxpr, sites: tuple[str, ...], given: set[Any]) -> frozenset[str]:
    """Return the sites whose log probability depends on the given variables."""
    known = set(given)
    for equation in jaxpr.eqns:
        if any(var in known for var in equation.invars if not isinstance(var, Literal)):
            known.update(equation.outvars)
    ends = zip(sites, jaxpr.outvars, strict=True)
    return frozenset(site for site, var in ends if not isinstance(var, Literal) and var in known)


def _difference(first: _Call, second: _Call) -> str | None:
    """Return how two calls differ, in words; None where both are the same function of weights and rows."""
    if (first.text, first.constants) == (second.text, second.constants):
        return None
    if NUMBER.sub("", first.text) == NUMBER.sub("", second.text):
        sites = reached(first.program.jaxpr, first.sites, _changed(first, second))
        return f"{_log_prob_of(sites)} is computed with other constants"
    sites = _sites_that_differ(first, second)  # other operations may have the same value
    return f"{_log_prob_of(sites)} is computed by other operations, and has another value" if sites else None


def _log_prob_of(sites: frozenset[str]) -> str:
    return f"the log probability of {', '.join(map(repr, sorted(sites)))}" if sites else "it"


def _changed(first: _Call, second: _Call) -> set[Any]:
    """Return the variables of one call that come from other constants in a second call of the same operations."""
    one, other = first.program, second.program
    pairs = zip(one.jaxpr.constvars, one.consts, other.consts, strict=False)
    changed = {var for var, a, b in pairs if _digest([a]) != _digest([b])}
    for a, b in zip(one.jaxpr.eqns, other.jaxpr.eqns, strict=False):
        if without_addresses(str(a)) != without_addresses(str(b)) or _digest(_within(a)) != _digest(_within(b)):
            changed.update(a.outvars)
    return changed


def _sites_that_differ(first: _Call, second: _Call) -> frozenset[str]:
    """Return the sites whose log probabilities differ at some weights and rows."""
    if first.sites != second.sites:
        return frozenset(first.sites) ^ frozenset(second.sites)
    rng = np.random.default_rng(0)
    avals: list[Any] = [var.aval for var in first.program.jaxpr.invars]
    some = [(rng.uniform(0.1, 0.9, a.shape) if jnp.issubdtype(a.dtype, jnp.floating) else 0) for a in avals]
    given = [np.broadcast_to(value, a.shape).astype(a.dtype) for value, a in zip(some, avals, strict=True)]
    one, other = (jax.jit(jaxpr_as_fun(call.program))(*given) for call in (first, second))
    same = [np.shape(a) == np.shape(b) and np.allclose(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)]
    return frozenset(site for site, is_same in zip(first.sites, same, strict=True) if not is_same)


def _constants(program: ClosedJaxpr) -> Iterator[Any]:
    """Yield the arrays in a program, including those of nested programs."""
    yield from program.consts
    for equation in program.jaxpr.eqns:
        yield from _within(equation)


def _within(equation: JaxprEqn) -> Iterator[Any]:
    """Yield the arrays in the programs within an operation."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, ClosedJaxpr):
                yield from _constants(part)


def _digest(constants: Iterable[Any]) -> str:
    return digest(("", jax.random.key_data(value) if _is_key(value) else value) for value in constants)


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
