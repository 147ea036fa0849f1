"""Fits as data trees for ArviZ."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .kept import widened
from .method import Outcome
from .rows import Rows
from .structure import Structure

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    from xarray import DataTree


def to_datatree(
    outcome: Outcome,
    structure: Structure,
    columns: tuple[str, ...] | None,
    *,
    attrs: dict[str, Any],
    pointwise: Mapping[str, np.ndarray] | None = None,
    predicted: Mapping[str, np.ndarray] | None = None,
    x: Rows = None,
    y: Rows = None,
) -> "DataTree":
    """Return draws, statistics and, where given, predictions, log likelihood and data, under ArviZ's names.

    Args:
        outcome: the result of the method.
        structure: the structure of the model, with the names of dimensions.
        columns: the names of the features, where x was a data frame.
        attrs: the attributes of the tree. Those of kind "prior" have draws from the prior.
        pointwise: the log likelihood of each observed site, (chain, draw, n).
        predicted: draws of y at each observed site, (chain, draw, n).
        x: n rows, or None.
        y: n rows, or None.
    """
    from arviz_base import from_dict

    names = names_in_tree([*outcome.draws, *structure.observed_sites])
    observed = [] if y is None else _observed(structure, names, y)
    structure = renamed(structure, names)
    group = "prior" if attrs["kind"] == "prior" else "posterior"
    groups: dict[str, Any] = {group: {names[site]: widened(draws) for site, draws in outcome.draws.items()}}
    dims: dict[str, list[str]] = {site: list(names) for site, names in structure.dims}
    coords: dict[str, Any] = {"feature": list(columns)} if columns and _names_features(structure, columns) else {}
    if outcome.sample_stats:
        groups["sample_stats"] = dict(outcome.sample_stats)
    if pointwise is not None:
        groups["log_likelihood"] = {names[site]: values for site, values in pointwise.items()}
        groups["observed_data"] = {key: leaf for part in observed for key, leaf in _named(*part, dims).items()}
    if predicted is not None:
        groups[f"{group}_predictive"] = {names[site]: values for site, values in predicted.items()}
    if x is not None:
        groups["constant_data"] = _named("x", x, dims)
        for site in structure.observed_sites:
            dims[site] = ["row", *dims.get(site, [])[1:]]
    tree = from_dict(groups, dims=dims, coords=coords)
    tree.attrs.update(attrs)
    tree[group].attrs.update(attrs)
    return tree


def _observed(structure: Structure, names: Mapping[str, str], y: Rows) -> list[tuple[str, Rows]]:
    """Return the rows of each observed site under its name; lower and upper bounds are two variables."""
    observed: list[tuple[str, Rows]] = []
    for _, response, rows in structure.by_site(y):
        name = names[response.site]
        are_bounds = response.are_bounds(rows)
        bounds = (f"{name}_lower", f"{name}_upper") if are_bounds else (name,)
        observed += zip(bounds, np.asarray(rows).T if are_bounds else (rows,), strict=True)
    return observed


def names_in_tree(names: Iterable[str]) -> dict[str, str]:
    """Return name -> name in a tree or a file, where a slash, as from `numpyro.handlers.scope`, would begin a group.

    Raises:
        ValueError: when two of the new names are equal.
    """
    written = {name: name.replace("/", ".") for name in names}
    if len(set(written.values())) < len(written):
        raise ValueError(f"Expected names that differ by more than / and . ; got {sorted(written)}.")
    return written


def renamed(structure: Structure, names: Mapping[str, str]) -> Structure:
    """Return the structure of a model under other names of its sites."""
    sites = tuple((names[site], shape) for site, shape in structure.sites)
    dims = tuple((names[site], dims) for site, dims in structure.dims)
    responses = tuple(replace(each, site=names.get(each.site, each.site)) for each in structure.responses)
    return replace(structure, responses=responses, sites=sites, dims=dims)


def _named(name: str, rows: Rows, dims: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Return the leaves of a pytree by name, and name their first dimension row."""
    leaves = jax.tree.leaves_with_path(rows)
    keys = ["".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path) for path, _ in leaves]
    named = {key or name: np.asarray(leaf) for key, (_, leaf) in zip(keys, leaves, strict=True)}
    for key, leaf in named.items():
        dims[key] = ["row", *("feature" if key == name == "x" else f"{key}_dim{i}" for i in range(1, leaf.ndim))]
    return named


def _names_features(structure: Structure, columns: tuple[str, ...]) -> bool:
    """Return whether the sites' dimension "feature" has one element per column."""
    shapes = structure.latents
    lengths = {shapes[site][names.index("feature")] for site, names in structure.dims if "feature" in names}
    return lengths <= {len(columns)}


def attributes_of(fit: Any) -> dict[str, Any]:
    """Return the attributes of a fit in files and trees."""
    return {
        "kind": fit.kind,
        "status": fit.status.level,
        "status_reasons": list(map(str, fit.status.reasons)),
        "method": repr(fit.method),
        "seconds_compile": fit.seconds.compile,
        "seconds_run": fit.seconds.run,
    }
