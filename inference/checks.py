"""Checks of the data, the model and settings, made before anything is compiled."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .arrays import (
    as_rows,
    check_finite,
    converted,
    in_default_precision,
    is_array,
    widened,
)
from .bounds import check_bounds
from .contract import check_model
from .density import Density
from .digests import LeafDigest
from .labels import Labelled, check_gaps, check_has_labels, labelled, observations
from .lookups import check_indices
from .remembered import Remembered
from .repeated import check_one_density
from .response import Response
from .rows import Data, Rows, count_rows, take_rows
from .scales import check_largest, check_least, check_offsets, check_rounding, spaced
from .sites import NumPyroModel
from .stored import Stored, check_in_parts, in_parts, is_arrow, is_stored, number_of, numbered_from
from .structure import Structure
from .words import shapes_in_words


@dataclass(frozen=True)
class Layout:
    """The structure, shapes and types of the rows of x, which `predict` expects of new rows."""

    tree: Any
    """The structure of the pytree."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of one row of each leaf."""
    columns_by_leaf: tuple[tuple[str, ...] | None, ...]
    """Names of the columns of each leaf that is a data frame."""
    dtypes: tuple[str, ...]
    """The type of each leaf, in the order of the pytree."""

    @classmethod
    def of(cls, x: Any, rows: Rows) -> "Layout":
        """Return the layout of x, given as the user passed it and as rows from `as_rows`."""
        leaves, tree = jax.tree.flatten(rows)
        given = jax.tree.leaves(x, is_leaf=is_array)
        with_names = given if len(given) == len(leaves) else leaves
        names = [leaf.column_names if is_arrow(leaf) else getattr(leaf, "columns", None) for leaf in with_names]
        return cls(
            tree,
            tuple(np.shape(leaf)[1:] for leaf in leaves),
            tuple(None if each is None else tuple(map(str, each)) for each in names),
            tuple(str(leaf.dtype) for leaf in leaves),
        )

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns, where x is a data frame."""
        return self.columns_by_leaf[0] if self.tree == jax.tree.structure(0) else None

    def check(self, other: "Layout") -> None:
        """Raise ValueError unless rows of the other layout are rows of this one."""
        if self.tree != other.tree:
            raise ValueError(f"x: expected the structure of the fit, {self.tree}; got {other.tree}.")
        if self.shapes != other.shapes:
            raise ValueError(
                f"x: expected rows shaped {shapes_in_words(self.shapes)}, as in the fit; got "
                f"{shapes_in_words(other.shapes)}."
            )
        paths = jax.tree.leaves_with_path(jax.tree.unflatten(self.tree, range(self.tree.num_leaves)))
        for (path, _), ours, theirs in zip(paths, self.columns_by_leaf, other.columns_by_leaf, strict=True):
            if ours and theirs and ours != theirs:
                raise ValueError(
                    f"x{jax.tree_util.keystr(path)}: expected the columns {list(ours)}, in this order; got "
                    f"{list(theirs)}."
                )

    def abstract(self, num_rows: int) -> Rows:
        """Return the shapes and types of rows of this layout, in JAX's default precision."""
        pairs = zip(self.shapes, map(jax.dtypes.canonicalize_dtype, self.dtypes), strict=True)
        return jax.tree.unflatten(
            self.tree, [jax.ShapeDtypeStruct((num_rows, *shape), dtype) for shape, dtype in pairs]
        )

    def converted(self, name: str, rows: Rows) -> Rows:
        """Return rows of this layout in its types where that changes no value; see `arrays.converted`."""
        paths, tree = jax.tree.flatten_with_path(rows)
        return jax.tree.unflatten(
            tree,
            [
                converted(f"{name}{jax.tree_util.keystr(path)}", leaf, dtype)
                for (path, leaf), dtype in zip(paths, self.dtypes, strict=True)
            ],
        )


def check_like(layout: Layout, x: Any, name: str = "x") -> Rows:
    """Return new rows of x, checked against the layout of a fit, in its types where that changes no value."""
    rows = as_rows(name, x)
    layout.check(Layout.of(x, rows))
    check_finite(name, rows)
    return layout.converted(name, rows)


def check_labels(model: NumPyroModel, x: Rows, y: Any, name: str = "y") -> Data:
    """Return rows of x with new rows of y, one for each, checked against the model; values of y may be missing."""
    rows, known = observations(name, y)
    check_pair(x, rows)
    structure = check_model(model, x, rows)
    for site, response, part in structure.by_site(rows):
        check_in_parts(partial(_check_points, site, response), part, f"checking {site}")
    density, data = Density.of(model, structure), Data(x, rows, known=known)
    check_bounds(density, data)
    check_gaps(structure, known)
    for (site, response, part), (_, some) in zip(structure.by_site(rows), density.by_site(data), strict=True):
        if some.known is None or any(leaf.any() for leaf in jax.tree.leaves(some.known)):
            check_in_parts(partial(response.check, name=site), part, f"checking {site}")
    check_indices(density, data)
    return data


def _check_points(site: str, response: Response, y: Rows) -> None:
    check_finite(site, response.points(y))


def check_problem(
    model: NumPyroModel, x: Any, y: Any, weights: Any = None, *, caller: str = "fit"
) -> tuple[Density, Data]:
    """Check a model and its data before anything is compiled.

    Args:
        model: a NumPyro model.
        x: n rows.
        y: n rows, in which values may be missing.
        weights: the weight of each row, (n,), or None.
        caller: what needs all rows in memory, for the message where they are too many.

    Returns:
        The density of the model, and the rows that take part, in memory, which are the arguments of every method.

    Raises:
        TypeError, ValueError: when the data or the model are invalid.
    """
    density, data = check_labelled(model, labelled(x, y, weights))
    return density, data.in_memory(caller)


def check_labelled(
    model: NumPyroModel, given: Labelled, sample: tuple[Rows, Rows] | None = None
) -> tuple[Density, Data]:
    """Return the result of `check_problem` for rows of which it is known which take part.

    Args:
        model: a NumPyro model.
        given: the rows.
        sample: rows of x and y that stand for all, where the rows are only a part of them.
    """
    x, y = in_default_precision("x", given.x), widened(in_default_precision("y", given.y))
    check_pair(x, y)
    if is_stored((x, y)):
        structure = _check_in_parts(model, given, x, y)
    else:
        structure = _check_at_once(model, given, x, y, sample or (given.x, given.y))
    check_one_density(model, structure, x, y)
    known = given.known if given.counts.missing else None
    x, y, known, row_weights = (given.taken(each) for each in (x, y, known, given.weights))
    density, data = Density.of(model, structure), Data(x, y, known=known, weights=row_weights)
    check_bounds(density, data)
    check_indices(density, data)
    return density, data


def _check_at_once(model: NumPyroModel, given: Labelled, x: Rows, y: Rows, sample: tuple[Rows, Rows]) -> Structure:
    """Return the structure of a model; raise for rows that it, or the precision of a fit, cannot take."""
    check_finite("x", x)
    check_offsets(sample[0])
    check_largest("x", given.x)
    check_least(given.x, given.x)
    _check_by_model(model, x)
    structure = check_model(model, x, y)
    for site, response, part in structure.by_site(y):
        check_finite(site, response.points(part))
    check_gaps(structure, given.known)
    check_has_labels(structure, given.known)
    as_given = [part for _, _, part in structure.by_site(given.y)]
    for (site, response, part), part_as_given in zip(structure.by_site(y), as_given, strict=True):
        response.check(part, site)
        response.check_not_all_padding(part, site)
        if not response.is_discrete:
            check_largest(site, response.points(part_as_given))
    _check_rounding(structure, sample[1])
    return structure


def _check_in_parts(model: NumPyroModel, given: Labelled, x: Rows, y: Rows) -> Structure:
    """Return what `_check_at_once` does, by one pass through rows that are not in memory, and a look at some.

    The pass finds their digests as well. What is remembered of rows on disk is not looked at again.
    """
    structure = check_model(model, x, y)
    check_gaps(structure, given.known)
    check_has_labels(structure, given.known)
    precision = jnp.result_type(float).name
    known = [Remembered((name, model, precision), rows) for name, rows in (("x", given.x), ("y", given.y))]
    rows = tuple(None if each.value else some for each, some in zip(known, (given.x, given.y), strict=True))
    leaves = jax.tree.leaves(tuple(None if each.value else some for each, some in zip(known, (x, y), strict=True)))
    known += [Remembered("finite", leaf) for leaf in leaves]
    digests = [LeafDigest.of(leaf) for leaf in leaves]
    lacking = {
        site for site, response, _ in structure.by_site(y) if response.padding is not None and rows[1] is not None
    }
    for start, (some_x, some_y) in in_parts(rows, "checking the rows"):
        with numbered_from(start):
            checked_x = None if some_x is None else _check_x(model, some_x)
            checked_y, with_value = (None, set()) if some_y is None else _check_y(structure, some_y)
        lacking -= with_value
        for leaf, digest, part in zip(leaves, digests, jax.tree.leaves((checked_x, checked_y)), strict=True):
            if isinstance(leaf, Stored) and not digest.is_complete:
                digest.add(start, part)
    for site, response, part in structure.by_site(some_y) if lacking else ():
        response.check_not_all_padding(part, site)
    for each in known:
        each.keep(True)
    for leaf, digest in zip(leaves, digests, strict=True):
        if isinstance(leaf, Stored):
            digest.complete()
    sampled_x, sampled_y = take_rows((given.x, given.y), spaced(count_rows(given.x)))
    check_offsets(sampled_x)
    check_least(sampled_x, given.x)
    _check_rounding(structure, sampled_y)
    return structure


def _check_x(model: NumPyroModel, x: Rows) -> Rows:
    """Return some rows of x in the precision of the fit; raise where they cannot be fitted."""
    converted_x = in_default_precision("x", x)
    check_finite("x", converted_x)
    check_largest("x", x)
    _check_by_model(model, converted_x)
    return converted_x


def _check_y(structure: Structure, y: Rows) -> tuple[Rows, set[str]]:
    """Return some rows of y in the precision of the fit, and the sites with any value; raise as `_check_x` does."""
    converted_y, with_value = widened(in_default_precision("y", y)), set()
    as_given = [part for _, _, part in structure.by_site(y)]
    for (site, response, part), raw in zip(structure.by_site(converted_y), as_given, strict=True):
        check_finite(site, response.points(part))
        response.check(part, site)
        if any(response.is_known(leaf).any() for leaf in jax.tree.leaves(part)):
            with_value.add(site)
        if not response.is_discrete:
            check_largest(site, response.points(raw))
    return converted_y, with_value


def _check_rounding(structure: Structure, y: Rows) -> None:
    """Raise ValueError where the precision of the fit rounds the numbers of a site too coarsely."""
    for site, response, part in structure.by_site(y):
        if not response.is_discrete:
            check_rounding(response.points(part), site)


def _check_by_model(model: NumPyroModel, x: Rows) -> None:
    """Let a model that has a method `check_rows` raise for values of x that it cannot take, before it is traced."""
    while not hasattr(model, "check_rows") and hasattr(model, "model"):
        model = model.model
    if hasattr(model, "check_rows") and not isinstance(model, type):
        try:
            model.check_rows(x)
        except (TypeError, ValueError) as error:
            if first := number_of(0):
                raise type(error)(f"{error} Rows are counted from row {first}.") from error
            raise


def check_pair(x: Rows, y: Rows) -> None:
    """Raise ValueError when x and y differ in their number of rows."""
    shapes, num_rows = ([tuple(np.shape(leaf)) for leaf in jax.tree.leaves(rows)] for rows in (x, y)), count_rows(x)
    of_x, of_y = shapes
    if count_rows(y) == num_rows:
        return
    cure = "Give one row of y for each row of x."
    if len(of_x) == 1 and of_x[0][1:] == of_y[0][:1]:
        cure = "If x is transposed, use x.T."
    elif len(of_y) == 1 and of_y[0] == (1, num_rows):
        cure = "If y is transposed, use y[0]."
    raise ValueError(
        f"Expected as many rows in y as in x, {num_rows}; got y of shape {shapes_in_words(tuple(of_y))}. {cure}"
    )


def as_key(key: ArrayLike) -> jax.Array:
    """Return a typed JAX key from a key or an integer seed.

    Raises:
        TypeError: when the argument is neither.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    raise TypeError(f"Expected key to be an integer seed or one typed key, jax.random.key(0); got {key!r}.")


def check_positive_integer(owner: str, name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless a setting is an integer (not a boolean) of at least some value.

    Args:
        owner: the class or function that the setting belongs to, for the message.
        name: the name of the setting.
        value: its value.
        least: the smallest value that is allowed.

    Raises:
        ValueError: when the value is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{owner}: expected {kind} as {name}; got {value!r}.")
