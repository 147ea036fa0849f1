"""The terms of an objective: the contribution of each site of a model, in the terms of deep learning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.handlers import substitute, trace

from ..density import Density
from ..distributions import Affine, in_own_terms, stated_loss
from ..rows import Data, Weights, in_double
from ..sites import element, is_factor, is_observation
from ..words import title
from .formulas import FORMULAS, LOSSES, PRIORS, Formula, formula_of, number, one_number

type Role = Literal["loss", "penalty", "factor"]
type Site = dict[str, Any]
"""A sample site of a trace."""

FLAT = "none: flat"
"""The name of the term of a site with a flat prior."""


@dataclass(frozen=True)
class Term:
    """The contribution of one site of a model to its objective."""

    site: str
    role: Role
    """The role of the site: "loss" for an observed, "penalty" for a latent site, "factor" for a `numpyro.factor`."""
    distribution: str
    """The distribution of the site; a parameter that is not one fixed number is shown by its name."""
    name: str
    """The name of the term in deep learning."""
    nats: float
    """The negative log probability of the site, summed."""
    constant: float | None
    """The part of `nats` that depends on no weight, which losses often omit; None where it has not been derived."""
    weight_decay: float | None
    """For a Normal prior around 0 with one fixed scale: the `weight_decay` of an optimiser of the summed loss that is
    this prior, ``1 / scale^2``."""
    checked_by: str | None
    """The independent implementation that the term was checked against; None where only NumPyro's own exists."""


class Reading(NamedTuple):
    """A description of a site: in words, and by a formula other than its own."""

    role: Role
    distribution: str
    name: str
    formula: Formula | None
    varying: set[str]
    weight_decay: float | None

    def negative_log_prob(self, site: Site) -> Array:
        """Return the summed negative log probability of the site, by the independent formula where one exists."""
        return _summed(site, self.formula.each if self.formula else lambda d, value: -d.log_prob(value))

    def constant(self, site: Site) -> Array | None:
        """Return the part of the sum that depends on no weight; None where it has not been derived."""
        if self.formula is None:
            return None
        each, constant = self.formula.each, self.formula.constant
        return _summed(site, lambda d, y: constant(d, y, self.varying) + jnp.zeros_like(each(d, y)))

    def term(self, name: str, nats: Array, constant: Array | None) -> Term:
        """Return the term of a site of some name, with the values of `negative_log_prob` and `constant`."""
        source = self.formula.source if self.formula else None
        fixed = None if constant is None else float(constant)
        return Term(name, self.role, self.distribution, self.name, float(nats), fixed, self.weight_decay, source)


def sites_at(density: Density, weights: Weights, data: Data) -> dict[str, Site]:
    """Return the sample sites of a model at some weights."""
    model = substitute(density.model_of(data), data=jax.tree.map(jnp.asarray, weights))
    return {name: site for name, site in trace(model).get_trace(data.x, data.y).items() if site["type"] == "sample"}


def double_parts(data: Data, size: int) -> Iterator[Data]:
    """Yield the rows in double precision, at most so many at a time."""
    for start in range(0, data.num_rows, size):
        rows = np.arange(start, min(start + size, data.num_rows))
        yield _in_double(data, rows)


def _in_double(data: Data, rows: np.ndarray) -> Data:
    """Return rows in double precision, by their numbers, which increase."""
    return jax.tree.map(in_double, data if len(rows) == data.num_rows and not data.is_stored else data.take(rows))


def is_over_rows(site: Site) -> bool:
    """Return whether the log probability of a site is a sum over rows, as that of part of them then is a part."""
    return is_observation(site) or (is_factor(site["fn"]) and bool(site["fn"].batch_shape))


def read_sites(density: Density, weights: Weights, data: Data, size: int) -> dict[str, Reading]:
    """Return a description of each site of a model, the observed one first.

    Words depend on the rows by whether a number is the same in all of them, and by how many are masked. The former
    shows in the rows in which each number is the least and the largest, the latter is counted.

    Args:
        density: the density of the model.
        weights: the point at which the sites are evaluated. It should not be special (such as all zeros), where
            parameters could seem not to depend on the weights or on x.
        data: n rows.
        size: the largest number of rows that are evaluated together.
    """
    # In a random direction, a parameter that depends on the weights has a derivative that is not 0.
    rng = np.random.default_rng(0)
    direction = jax.device_put({site: rng.normal(size=value.shape) for site, value in weights.items()})
    examine = jax.jit(partial(_examine, density, direction))
    parts = [jax.device_get(examine(weights, part)) for part in double_parts(data, size)]
    varying = {
        site: {name for name in names if any(part.moved[site][name] for part in parts)}
        for site, names in parts[0].moved.items()
    }
    rows = _telling_rows(parts, data.num_rows, size)
    some = _in_double(data, rows)
    sites = sites_at(density, weights, some)
    readings = {}
    for name, site in sites.items():
        masks = [part.masks[name] for part in (parts if is_over_rows(site) else parts[:1])]
        readings[name] = _read(site, varying[name], [sum(each) for each in zip(*masks, strict=True)])
    order = ("loss", "factor", "penalty")
    return dict(sorted(readings.items(), key=lambda item: order.index(item[1].role)))  # a stable sort


class _Part(NamedTuple):
    """What a part of the rows shows of the sites."""

    moved: dict[str, dict[str, Any]]
    """Whether each parameter moves with the weights, by site."""
    extremes: list[tuple[Any, Any, Any, Any]]
    """The least and the largest value of each number that may differ between rows, and their rows in the part."""
    masks: dict[str, list[np.ndarray]]
    """How many elements of a site each mask leaves, and how many there are."""


def _examine(density: Density, direction: Weights, weights: Weights, data: Data) -> _Part:
    """Return what some rows show of the sites."""

    def parameters(weights: Weights) -> tuple[Any, Any]:
        sites = sites_at(density, weights, data)
        by_site = {name: _parameters(_plain(site)) for name, site in sites.items()}
        factors = {name: {} if site["scale"] is None else {"scale": site["scale"]} for name, site in sites.items()}
        masks = {name: [jnp.array([jnp.sum(m), jnp.size(m)]) for m in _masks(s["fn"])] for name, s in sites.items()}
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), by_site), (factors, masks)

    values, slopes, (factors, masks) = jax.jvp(parameters, (weights,), (direction,), has_aux=True)
    moved = jax.tree.map(lambda leaf: jnp.any(leaf != 0), slopes)
    by_row = [leaf for leaf in jax.tree.leaves((values, factors)) if np.shape(leaf)[:1] == (data.num_rows,)]
    return _Part(moved, [_extremes(jnp.asarray(leaf).reshape(data.num_rows, -1)) for leaf in by_row], masks)


def _extremes(values: Array) -> tuple[Array, Array, Array, Array]:
    least, largest = values.min(axis=1), values.max(axis=1)
    return least.min(), largest.max(), jnp.argmin(least), jnp.argmax(largest)


def _telling_rows(parts: list[_Part], num_rows: int, size: int) -> np.ndarray:
    """Return the rows in which each number is the least, and the largest, of all parts; all rows of a single part."""
    if len(parts) == 1:
        return np.arange(num_rows)
    rows = {0}
    for of_parts in zip(*(part.extremes for part in parts), strict=True):
        least, largest, first, last = (np.array(each) for each in zip(*of_parts, strict=True))
        for part, row in ((np.argmin(least), first), (np.argmax(largest), last)):  # the first NaN where there is one
            rows.add(int(part * size + row[part]))
    return np.array(sorted(rows))


def _read(site: Site, varying: set[str], counts: list[np.ndarray]) -> Reading:
    d, masks = _plain(site), _masks(site["fn"])
    if isinstance(d, dist.Unit):
        return Reading("factor", "numpyro.factor", "a term of the user's own", None, varying, None)
    words, formula = _in_words(d, varying), formula_of(d) if is_observation(site) else PRIORS.get(type(d))
    weighted = _weighted(site, [(left, count) for left, count in counts if left < count])
    if is_observation(site):
        return Reading("loss", words, _loss(d, varying, site["fn"].event_dim) + weighted, formula, varying, None)
    if any(mask is False for mask in masks):
        return Reading("penalty", words, FLAT, FORMULAS[dist.ImproperUniform], varying, None)
    decay = None if weighted.startswith(", for") else _weight_decay(d, varying, site["scale"])
    return Reading("penalty", words, _penalty(d, site["name"], varying) + weighted, formula, varying, decay)


def _loss(d: Any, varying: set[str], event_dim: int) -> str:
    """Return the name in deep learning of the negative log probability of an observed site."""
    named = next((LOSSES[kind] for kind in type(d).__mro__ if kind in LOSSES), None)
    return named(d, varying, event_dim) if named else stated_loss(d) or f"negative log of {title(d)}"


def _penalty(d: Any, site: str, varying: set[str]) -> str:
    """Return the name in deep learning of the negative log probability of a latent site."""
    match d:
        case dist.ImproperUniform():
            return FLAT
        case dist.Uniform() if not varying:
            return f"{FLAT} inside its bounds"
        case dist.Normal():
            kind, form = "weight decay", "|{}|^2 / (2 * {}^2)"
        case dist.Laplace():
            kind, form = "L1", "sum |{}| / {}"
        case _:
            return f"negative log of {title(d)}"
    if varying:
        centre = " towards a learned centre" * ("loc" in varying)
        return f"{kind}{centre}{' with a learned coefficient' * ('scale' in varying)}"
    centre = "" if one_number(d.loc) == 0 else f" - {number(d.loc, 'loc')}"
    return f"{kind}, {form.format(site + centre, number(d.scale, 'scale'))}"


def _weight_decay(d: Any, varying: set[str], scale: Any) -> float | None:
    """Return the ``weight_decay`` of an optimiser of the summed loss that equals the prior; None if there is none."""
    factor = one_number(1.0 if scale is None else scale)
    if (
        not isinstance(d, dist.Normal)
        or varying
        or factor is None
        or one_number(d.loc) != 0
        or one_number(d.scale) is None
    ):
        return None
    return factor / float(np.ravel(d.scale)[0]) ** 2


def _weighted(site: Site, counts: list[tuple[int, int]]) -> str:
    """Return the effect of handlers and masks on the weights of a site's elements, in words.

    Args:
        site: the site.
        counts: the number of elements that each mask leaves, and of all, for the masks that mask any.
    """
    words = "".join(f", for the {left} of {count} not masked" for left, count in counts)
    factor = 1.0 if site["scale"] is None else site["scale"]
    if one_number(factor) is None:
        return f"{words}, each times its own weight"
    return words if one_number(factor) == 1 else f"{words}, times {number(factor, '')}"


def _summed(site: Site, each: Callable[[Any, Any], Array]) -> Array:
    """Return a formula for one element, summed over a site with its expansions, masks and scale."""

    def over(d: Any, value: Any) -> Array:
        match d:
            case dist.Independent():
                values = over(d.base_dist, value)
                return values.sum(axis=tuple(range(-d.reinterpreted_batch_ndims, 0)))
            case dist.ExpandedDistribution():
                values = over(d.base_dist, value)
                return jnp.broadcast_to(values, jnp.broadcast_shapes(values.shape, d.batch_shape))
            case dist.MaskedDistribution():
                return jnp.where(d._mask, over(d.base_dist, value), 0.0)
        return jnp.asarray(each(in_own_terms(d), value))

    values = over(site["fn"], site["value"])
    return jnp.sum(values if site["scale"] is None else site["scale"] * values)


def _masks(d: Any) -> list[Any]:
    """Return the masks of a distribution."""
    masks = []
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(d, dist.MaskedDistribution):
            masks.append(d._mask)
        d = d.base_dist
    return masks


def _plain(site: Site) -> Any:
    """Return the distribution of one element of a site, where possible without a change of units."""
    return in_own_terms(element(site["fn"]))


def _parameters(d: Any) -> dict[str, Any]:
    if isinstance(d, Affine):
        return _parameters(d.base_dist)
    return {name: vars(d)[name] for name in d.arg_constraints if isinstance(vars(d).get(name), Array | np.ndarray)}


def _in_words(d: Any, varying: set[str]) -> str:
    """Return a distribution in words, with the values of parameters that are one fixed number, and names of others."""
    if isinstance(d, Affine):  # of other families than those of `in_own_terms`
        return f"{number(d.factor, 'factor')} * {_in_words(d.base_dist, varying)}"
    names = [name for name in d.arg_constraints if name in vars(d)]
    words = [name if name in varying else number(vars(d)[name], name) for name in names]
    return f"{title(d)}({', '.join(words)})" if words else title(d)
