"""What is wrong with the data or the model, said before anything is compiled."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from .density import (
    NumPyroModel,
    Rows,
    Structure,
    abstract_trace,
    count_rows,
    is_latent,
    is_masked,
    is_observation,
    is_real,
    signature,
)

SAMPLED_ROWS = 1_000
"""Rows on which the offsets of columns are looked at; a column's mean and spread need no more."""


@dataclass(frozen=True)
class Layout:
    """What the rows of x look like: what `predict` holds new rows against."""

    tree: Any
    """The structure of the pytree."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of one row of each leaf."""
    columns: tuple[str, ...] | None
    """Names of the columns, where x is a data frame."""
    dtypes: tuple[str, ...]
    """The type of each leaf."""

    @classmethod
    def of(cls, x: Any, rows: Rows) -> "Layout":
        """The layout of x as it came and as `as_rows` made it."""
        leaves, tree = jax.tree.flatten(rows)
        columns = getattr(x, "columns", None)
        shapes, dtypes = (tuple(np.shape(leaf)[1:] for leaf in leaves), tuple(str(leaf.dtype) for leaf in leaves))
        return cls(tree, shapes, None if columns is None else tuple(map(str, columns)), dtypes)

    def check(self, other: "Layout") -> None:
        """Raise when rows of the other layout are not rows of this one."""
        if self.tree != other.tree:
            raise ValueError(f"x: expected the structure of the fit, {self.tree}; got {other.tree}.")
        if self.shapes != other.shapes:
            raise ValueError(
                f"x: expected rows shaped {_words(self.shapes)}, as in the fit; got {_words(other.shapes)}."
            )
        if self.columns and other.columns and self.columns != other.columns:
            raise ValueError(f"x: expected the columns {list(self.columns)}, in this order; got {list(other.columns)}.")


def check_like(layout: Layout, x: Any, name: str = "x") -> Rows:
    """New rows of x, laid out as those of a fit."""
    rows = as_rows(name, x)
    layout.check(Layout.of(x, rows))
    check_finite(name, rows)
    return rows


def check_labels(model: NumPyroModel, x: Rows, y: Any, name: str = "y") -> Rows:
    """New rows of y, one for each of x."""
    rows = as_rows(name, y)
    check_pair(x, rows)
    check_y(check_model(model, x, rows), rows)
    return rows


def as_rows(name: str, value: Any) -> Rows:
    """An array, or a pytree (dict or tuple) of arrays, with n rows first, in JAX's default precision.

    Data frames, series and lists become arrays.

    Raises:
        TypeError: when it is missing or holds something else than numbers.
        ValueError: when it has no rows, leaves differ in their rows, or an integer does not fit.
    """
    if value is None:
        raise TypeError(f"{name} is None. Expected an array, or a pytree of arrays, with n rows first.")
    rows = jax.tree.map(
        lambda leaf: _as_array(name, leaf), value, is_leaf=lambda leaf: isinstance(leaf, list) or leaf is None
    )
    leaves = jax.tree.leaves(rows)
    if not leaves:
        raise TypeError(f"{name} holds no array: got {value!r}.")
    lengths = [leaf.shape[0] for leaf in leaves]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name}: expected the same number of rows in every leaf; got {lengths}.")
    if lengths[0] == 0:
        raise ValueError(f"{name} has no rows: got shape {_words(tuple(leaf.shape for leaf in leaves))}.")
    return rows


def _as_array(name: str, leaf: Any) -> np.ndarray | jax.Array:
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    types: Any = getattr(leaf, "dtypes", None)
    columns = dict(types) if hasattr(types, "items") else None  # of a data frame of pandas; a series has one type
    if array.dtype == object and columns and all(getattr(dtype, "kind", "O") in "biuf" for dtype in columns.values()):
        array = leaf.to_numpy(dtype=float)  # numbers and booleans
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        where = "" if columns is None else f" (columns: {columns})"
        raise TypeError(f"{name}: expected numbers; got {array.dtype}{where}. Encode text and dates as numbers first.")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array with n rows first; got the single number {array}.")
    if array.dtype == bool:
        return array.astype(np.int32)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype and dtype.kind in "iu" and array.size:
        largest = np.iinfo(dtype).max
        if array.max() > largest or array.min() < np.iinfo(dtype).min:
            raise ValueError(f"{name}: expected integers up to {largest} ({dtype}); got {array.max()}.")
    with np.errstate(over="ignore"):  # what becomes infinite is found with its row by check_finite
        return array if dtype == array.dtype else array.astype(dtype)


def check_finite(name: str, rows: Rows) -> None:
    """Raise at the first value that is NaN or infinite."""
    for path, leaf in jax.tree.leaves_with_path(rows):
        array = np.asarray(leaf)
        if array.dtype.kind in "biu":
            continue
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):  # one pass without a temporary; only a suspect is looked at closely
                continue
        bad = np.argwhere(~np.isfinite(array))
        if bad.size:
            row, *rest = bad[0].tolist()
            column = f", column {rest[0]}" if rest else ""
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}, row {row}{column}: expected finite numbers; got "
                f"{array[tuple(bad[0])]} ({len(bad)} such values). Drop or impute them first."
            )


def check_offsets(x: Rows) -> None:
    """Raise where a column's offset drowns its spread.

    The rule: fitting an intercept beside a column squares the column's |mean| / sd into the condition number of the
    problem. From 1 / machine epsilon on (a ratio of about 2,900 in float32) the two cannot be told apart.
    """
    for path, leaf in jax.tree.leaves_with_path(x):
        array = np.asarray(leaf)
        if array.dtype.kind in "biu" or len(array) < 2:
            continue
        sample = array[:: max(1, len(array) // SAMPLED_ROWS)]
        sample = sample.reshape(len(sample), -1).astype(np.float64)
        mean, spread = sample.mean(0), sample.std(0)
        limit = 1 / np.sqrt(jnp.finfo(array.dtype).eps)
        drowned = np.flatnonzero((np.ptp(sample, axis=0) > 0) & (np.abs(mean) > limit * spread))
        if drowned.size:
            column = drowned[0]
            raise ValueError(
                f"x{jax.tree_util.keystr(path)}, column {column}: expected |mean| < {limit:,.0f} sd in {array.dtype}; "
                f"got mean {mean[column]:.4g}, sd {spread[column]:.4g}. Its slope and the intercept cannot be told "
                f"apart in this precision. Subtract the mean and divide by the sd first."
            )


def check_problem(model: NumPyroModel, x: Any, y: Any) -> tuple[Structure, Rows, Rows]:
    """Data and model as every method takes them: all that can be said before anything is compiled.

    Returns:
        What the model is made of, and the rows of x and y.

    Raises:
        TypeError, ValueError: when data or model are not what they should be.
    """
    x, y = as_rows("x", x), as_rows("y", y)
    check_pair(x, y)
    check_finite("x", x)
    check_offsets(x)
    structure = check_model(model, x, y)
    check_y(structure, y)
    return structure, x, y


def check_pair(x: Rows, y: Rows) -> None:
    """Raise when x and y differ in their number of rows."""
    if count_rows(x) != count_rows(y):
        raise ValueError(
            f"Expected as many rows in y as in x, {count_rows(x)}; got y of shape "
            f"{_words(tuple(np.shape(leaf) for leaf in jax.tree.leaves(y)))}."
        )


def check_model(model: NumPyroModel, x: Rows, y: Rows) -> Structure:
    """Read the structure of a model from an abstract trace, and raise where it cannot be fitted as it is meant."""
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"Expected a NumPyro model, a function model(x, y=None); got {model!r}.")
    try:
        hash(model)
    except TypeError as error:
        raise TypeError(
            f"Expected a model that can be hashed, as compiled code is kept for it; got {model!r}."
        ) from error
    tree, leaves = signature((x, y))
    return _check_model(model, tree, leaves)


@lru_cache(maxsize=256)
def _check_model(model: NumPyroModel, tree: Any, leaves: tuple[tuple[tuple[int, ...], str], ...]) -> Structure:
    """What `check_model` does, for rows of these shapes: once."""
    x, y = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    try:
        sites = abstract_trace(model, x, y)
    except Exception as error:
        shapes = {name: jax.tree.map(np.shape, rows) for name, rows in (("x", x), ("y", y))}
        error.add_note(f"Raised by the model when called as model(x, y) with x {shapes['x']} and y {shapes['y']}.")
        raise
    observed = {name: site for name, site in sites.items() if is_observation(site)}
    latents = {name: site for name, site in sites.items() if is_latent(site)}
    if len(observed) != 1:
        found = f"the observed sites {list(observed)}" if observed else "none"
        raise ValueError(
            f"Expected a model with one observed site; got {found}, among the sites {list(sites)}. Does the model pass "
            f"obs=y to numpyro.sample?"
        )
    if not latents:
        raise ValueError(f"Expected a model with latent sites to fit; got only {list(sites)}.")
    ((name, site),) = observed.items()
    _check_row_log_prob(name, site, count_rows(x))
    row_plates = {frame.name for frame in site["cond_indep_stack"]}
    for latent, found in latents.items():
        if found["fn"].support.is_discrete:
            raise ValueError(f"Latent site {latent!r} is discrete ({found['fn'].support}); expected continuous ones.")
        inside = row_plates & {frame.name for frame in found["cond_indep_stack"]}
        if inside:
            raise ValueError(
                f"Latent site {latent!r} is sampled inside the plate {inside.pop()!r} of the data: a weight a row. "
                f"Sample it before the plate."
            )
    return structure_of(sites, name)


def structure_of(sites: dict[str, Any], observed: str) -> Structure:
    """What a model is made of, by the sites of its abstract trace, with or without y."""
    latents = {name: site for name, site in sites.items() if is_latent(site) and name != observed}
    return Structure(
        observed=observed,
        support=sites[observed]["fn"].support,
        sites=tuple((name, np.shape(site["value"])) for name, site in latents.items()),
        dims=tuple((k, tuple(s["infer"]["event_dims"])) for k, s in latents.items() if "event_dims" in s["infer"]),
        real=frozenset(name for name, site in latents.items() if is_real(site["fn"].support)),
        is_flat=any(is_masked(site["fn"]) for site in latents.values()),
    )


def _check_row_log_prob(name: str, site: dict[str, Any], num_rows: int) -> None:
    """One log probability a row. Broadcasting (n,) against (n, 1) gives (n, n), and nothing else in the way notices."""
    if site["log_prob_shape"] != (num_rows,):
        value = np.shape(site["value"])
        raise ValueError(
            f"Observed site {name!r}: expected one log probability a row, shape {(num_rows,)}; got "
            f"{site['log_prob_shape']}, from y of shape {value} and a distribution with batch shape "
            f"{site['fn'].batch_shape} and event shape {site['fn'].event_shape}. Drop an axis of length 1 (y[:, 0], "
            f"eta[:, 0]), or make the outputs of a row one event with .to_event(1)."
        )


def check_y(structure: Structure, y: Rows) -> None:
    """Raise where a value of y lies outside the support of the observed site."""
    check_finite("y", y)
    leaves = jax.tree.leaves(y)
    if len(leaves) > 1:
        return  # which leaf the site observes is the model's business
    values = np.asarray(leaves[0])
    support = getattr(structure.support, "base_constraint", structure.support)  # of each element of an event
    try:
        inside = np.asarray(support(values))
    except (jax.errors.JAXTypeError, TypeError):  # bounds that depend on latent sites, or on other data
        return
    if not inside.all():
        row, *rest = np.argwhere(~inside)[0].tolist()
        column = f", column {rest[0]}" if rest else ""
        labels = np.unique(values).tolist()
        seen = f"; y holds {labels}" if values.ndim == 1 and len(labels) <= 10 else ""
        raise ValueError(
            f"y, row {row}{column}: expected {in_words(support)}; got {values[row, *rest].tolist()}{seen}. "
            f"{'Number the classes from 0.' if support.is_discrete else ''}".rstrip()
        )


def in_words(support: constraints.Constraint) -> str:
    """What a value in the support is, for an error message."""
    if support is constraints.boolean:
        return "0 or 1"
    if hasattr(support, "padding"):
        return f"a token, from {support.lower_bound} to {support.upper_bound}, or {support.padding} for padding"
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"an integer from {support.lower_bound} to {support.upper_bound}"
    if support is constraints.simplex:
        return "probabilities that sum to 1"
    if support is constraints.real:
        return "a finite number"
    return "a positive number" if support is constraints.positive else f"a value in {support!r}"


def as_key(key: ArrayLike) -> jax.Array:
    """A typed JAX key from a key or an integer seed.

    Raises:
        TypeError: when it is neither.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    raise TypeError(f"Expected key to be an integer seed or one typed key, jax.random.key(0); got {key!r}.")


def _words(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(map(str, shapes))
