"""The contract of a model, checked before anything is compiled."""

import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to, constraints

from .handlers import params_as_sites
from .kinds import response_of
from .response import Response
from .rows import Rows, count_rows, signature
from .several import check_keys
from .sites import (
    NumPyroModel,
    abstract_trace,
    is_flat,
    is_latent,
    is_noncentred,
    is_observation,
    is_real,
    is_weighted,
    unmasked,
)
from .structure import Structure
from .supported import Refusals, check_containers, check_given, check_observation, check_terms
from .words import gap_of, in_words

INVALID = re.compile(r"(\w+) distribution got invalid (\w+) parameter")
"""NumPyro's message for an invalid parameter of a distribution."""
BY_NAME = re.compile(r"does not support string indexing; got idx='(.+)'")
"""JAX's message for an array that is taken for a mapping."""
DUPLICATED = re.compile(r"all sites must have unique names but got `(.+)` duplicated")
"""NumPyro's message for two sites of one name."""


def check_model(model: NumPyroModel, x: Rows, y: Rows) -> Structure:
    """Return the structure of a model, read from an abstract trace; raise where the model cannot be fitted."""
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"Expected a NumPyro model, a function model(x, y=None); got {model!r}.")
    if isinstance(model, jax.stages.Wrapped):
        raise TypeError(
            "Expected a NumPyro model; got one under jax.jit, which would record its sites once and not at each call. "
            "Leave out jax.jit: fits compile it."
        )
    try:
        hash(model)
    except TypeError as error:
        raise TypeError(
            f"Expected a model that can be hashed, since its compiled code is cached; got {model!r}."
        ) from error
    tree, leaves = signature((x, y))
    return _check_model(model, tree, leaves)


@lru_cache(maxsize=256)
def _check_model(model: NumPyroModel, tree: Any, leaves: tuple[tuple[tuple[int, ...], str], ...]) -> Structure:
    """Return the result of `check_model` for rows of these shapes, computed once."""
    x, y = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    _check_arguments(model)
    with translated_errors(x, y):
        sites, params = read_sites(model, x, y)
    observed = {name: site for name, site in sites.items() if is_observation(site)}
    latents = {name: site for name, site in sites.items() if is_latent(site)}
    _check_observed(model, sites, observed, x, y)
    if not latents:
        others = [other for other, site in sites.items() if site["type"] in ("sample", "plate", "deterministic")]
        raise ValueError(
            f"Expected a model with latent sites to fit; got only {others}. Sample its weights; in a lifted "
            f"module, give some parameters a prior other than 'fixed'."
        )
    for name, site in observed.items():
        check_observation(name, site, count_rows(x))
    row_plates = set().union(*map(_plates, observed.values()))
    for name, site in latents.items():
        if site["fn"].support.is_discrete:
            raise ValueError(f"Latent site {name!r} is discrete ({site['fn'].support}); expected continuous ones.")
        _check_transform(name, site["fn"].support)
        inside = row_plates & _plates(site)
        if inside:
            raise ValueError(
                f"Latent site {name!r} is sampled inside the plate {inside.pop()!r} of the data: one weight per row. "
                f"Sample it before the plate."
            )
    responses = _responses_without_y(model, x, tuple(observed), latents)
    weighted = frozenset(name for name, site in observed.items() if is_weighted(site))
    structure = structure_of(sites, responses, params=params, weighted=weighted)
    with translated_errors(x, y):
        check_terms(params_as_sites(model), structure.observed_sites, structure.latents, x, y)
    return structure


def _check_observed(model: NumPyroModel, sites: dict[str, Any], observed: dict[str, Any], x: Rows, y: Rows) -> None:
    """Raise ValueError where no site observes y, or several do that are not the keys of y."""
    if not observed:
        raise ValueError(
            f"Expected a model with an observed site; got none, among the sites {list(sites)}. Does the model pass "
            f"obs=y to numpyro.sample?"
        )
    rows = set().union(*map(_plates, observed.values()))
    lacking = [name for name, site in sites.items() if is_latent(site) and rows & _plates(site)]
    if len(observed) > 1:
        check_given(observed, read_sites(model, x)[0])
    elif not (isinstance(y, Mapping) and set(y) == set(observed) and lacking):
        return
    check_keys((*observed, *lacking), y)


def _plates(site: dict[str, Any]) -> set[str]:
    """Return the names of the plates around a site."""
    return {frame.name for frame in site["cond_indep_stack"]}


def read_sites(model: NumPyroModel, x: Rows, y: Rows = None) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the sites of a model without values, and the names of its parameters, which are sites as well.

    Raises:
        ValueError: when the model does what a density cannot have.
    """
    checked = Refusals(model)
    sites = abstract_trace(params_as_sites(checked), x, y)
    check_containers(model, checked.params, x, y)
    return sites, frozenset(checked.params)


def _check_transform(name: str, support: constraints.Constraint) -> None:
    """Raise ValueError where a support has no unconstrained coordinates, in which all methods work."""
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"Latent site {name!r}: expected a support that is mapped to real numbers; got {support!r}, for which "
            f"NumPyro has no transform. Register one by numpyro.distributions.biject_to.register."
        ) from error
    except jax.errors.JAXTypeError:  # its bounds depend on other sites, and it has a transform
        return


def structure_of(
    sites: dict[str, Any], responses: tuple[Response, ...], *, params: frozenset[str], weighted: frozenset[str]
) -> Structure:
    """Return the structure of a model from the sites of its abstract trace, with or without y, and its responses."""
    observed = {response.site for response in responses}
    latents = {name: site for name, site in sites.items() if is_latent(site) and name not in observed}
    return Structure(
        responses=responses,
        sites=tuple((name, np.shape(site["value"])) for name, site in latents.items()),
        dims=tuple((k, tuple(s["infer"]["event_dims"])) for k, s in latents.items() if "event_dims" in s["infer"]),
        real=frozenset(name for name, site in latents.items() if is_real(site["fn"].support)),
        flat=frozenset(name for name, site in latents.items() if is_flat(site["fn"])),
        params=params,
        of_prior=frozenset(name for name, site in latents.items() if site["infer"].get("of_prior")),
        noncentred=frozenset(name for name, site in latents.items() if is_noncentred(site)),
        exchangeable=frozenset(name for name, site in latents.items() if site["infer"].get("exchangeable")),
        weighted=weighted,
    )


def _check_arguments(model: NumPyroModel) -> None:
    """Raise TypeError where the model cannot be called with x and y."""
    try:
        arguments = inspect.signature(model)
    except ValueError:  # unknown, as for functions written in C
        return
    try:
        arguments.bind(None, None)
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise TypeError(
            f"Expected a model of rows and observations, model(x, y=None); got {name}{arguments}: {error}. "
            f"For other arguments write a function of these two, def of_rows(x, y=None): {name}(...)."
        ) from error


def _responses_without_y(
    model: NumPyroModel, x: Rows, observed: tuple[str, ...], latents: dict[str, Any]
) -> tuple[Response, ...]:
    """Return the responses, read without y; raise where the model cannot predict, or for one number of rows only."""
    try:
        sites, num_rows = abstract_trace(params_as_sites(model), _with_extra_row(x)), count_rows(x) + 1
    except Exception:  # it may contain arrays with one value per row, and predict these rows only
        try:
            sites, num_rows = abstract_trace(params_as_sites(model), x), count_rows(x)
        except Exception as error:
            clear = _clear(error)
            if clear is not None:
                raise clear from error
            raise ValueError(
                f"Expected a model that runs without y, model(x, y=None), as predictions call it; without y it raised "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{_user_line(error)}. Take "
                f"sizes from x, such as x.shape[0], and pass obs=y whether it is None or not."
            ) from error
    others = [name for name, site in sites.items() if is_latent(site) and name not in (*observed, *latents)]
    missing = [name for name in observed if name not in sites]
    if missing or others:
        extra = f"it has the sites {others} as well" if others else f"it has no site {missing[0]!r}"
        raise ValueError(
            f"Expected the model to have the same sites without y, model(x), as with it; without y {extra}. Sample the "
            f"same sites either way, and pass obs=y, which may be None."
        )
    for name, site in latents.items():
        now, then = np.shape(sites[name]["value"]) if name in sites else None, np.shape(site["value"])
        if now not in (None, then):
            raise ValueError(
                f"Latent site {name!r} has shape {then} for {count_rows(x)} rows and {now} for {num_rows}: one "
                f"weight per row. Weights are shared by all rows; make an effect of single rows part of the likelihood."
            )
    return tuple(_response(name, sites[name]["fn"], num_rows) for name in observed)


def _response(name: str, d: dist.Distribution, num_rows: int) -> Response:
    """Return the response of an observed site; raise where its distribution is not one for each row of x."""
    if unmasked(d).batch_shape != (num_rows,):
        raise ValueError(
            f"Observed site {name!r}: expected a distribution for each row of x, batch shape {(num_rows,)} without "
            f"y; got {unmasked(d).batch_shape}. Sample it in a plate, `with numpyro.plate('row', x.shape[0]):`."
        )
    return response_of(name, unmasked(d))


def _with_extra_row(x: Rows) -> Rows:
    """Return the shapes of x with one more row."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] + 1, *leaf.shape[1:]), leaf.dtype), x)


@contextmanager
def translated_errors(x: Rows, y: Rows) -> Iterator[None]:
    """Re-raise errors of a model with its argument shapes, translated into the terms of a model where possible."""
    try:
        yield
    except Exception as error:
        shapes = {name: jax.tree.map(np.shape, rows) for name, rows in (("x", x), ("y", y))}
        clear = _clear(error)
        (clear or error).add_note(
            f"Raised by the model when called as model(x, y) with x {shapes['x']} and y {shapes['y']}."
        )
        if clear is None:
            raise
        raise clear from error


def _clear(error: Exception) -> Exception | None:
    """Return an error of JAX or NumPyro in the terms of a model; None where it needs no translation."""
    message, line, gap = str(error), _user_line(error), gap_of(error)
    if gap is not None:
        return gap
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return TypeError(f"Expected a model that stores no values between calls{line}: it uses one from another call.")
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
        return TypeError(
            f"Expected a model of JAX operations, on values that are known only at run time; it needs one of them as "
            f"a Python value{line} ({type(error).__name__}). For `if a > 0` write jnp.where(a > 0, ..., ...), for "
            f"np.exp jnp.exp, and take sizes from shapes."
        )
    duplicated, invalid, by_name = (each.search(message) for each in (DUPLICATED, INVALID, BY_NAME))
    if by_name:
        return TypeError(
            f"Expected rows under the name {by_name[1]!r}, which the model takes{line}; got one array. Give a dict of "
            f"arrays: y, of a model that observes several sites, has the rows of each under its name."
        )
    if duplicated:
        return ValueError(
            f"Expected each site to have a name of its own; got {duplicated[1]!r} twice{line}. Give each of two "
            f"networks in one model its own prefix by numpyro.handlers.scope(prefix=...)."
        )
    if invalid:
        name, parameter = invalid.groups()
        constraint = getattr(getattr(dist, name, None), "arg_constraints", {}).get(parameter)
        words = "another value" if constraint is None else in_words(constraint)
        return ValueError(
            f"Expected {words} as the parameter {parameter!r} of the distribution {name}{line}; got another value. "
            f"Where it is computed, jax.nn.softplus or jnp.exp make numbers positive."
        )
    return None


def _user_line(error: Exception) -> str:
    """Return the user's line that raised an error, in words: the last line outside of libraries."""
    paths = sysconfig.get_paths()
    here = Path(__file__).parent
    libraries = tuple(map(str, (here, here.parent / "models", paths["purelib"], paths["platlib"], paths["stdlib"])))
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*libraries, "<frozen"))
    ]
    return f", in line {frames[-1].lineno} of {Path(frames[-1].filename).name}: `{frames[-1].line}`" if frames else ""
