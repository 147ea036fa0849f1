"""Scales that take their weights with them to 0: joint densities of a learned scale and its weights without a mode.

The density of d weights with a Normal(0, s) prior grows like ``s^-d`` as they and s shrink together. Unless the prior
of s falls faster than that, the joint density of s and the weights has no maximum (Lindley & Smith 1972, discussion;
MacKay 1996, section 6): it is unbounded at s = 0, where all weights are 0, whatever the data. The posterior is proper
all the same, and its draws show nothing of it.

The rule follows the scale from the point where a fit ended to 1e-35, with the weights in units of the scale held fixed.
The point is no maximum if the loss is lower anywhere below a tenth of the scale, and at most a local one if the loss
falls at the end.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpyro.distributions import biject_to, constraints

from ..density import Density
from ..distributions import of_one_value
from ..handlers import noncentred
from ..processes import jit
from ..programs import program
from ..reasons import Code, Reason
from ..repeated import reached
from ..rows import Data, Weights, in_double, signature
from ..sites import has_scale, place_of
from ..status import Status
from ..surface import Surface
from .effort import Effort
from .representative import representative

LOWEST = math.log(1e-35)
"""The log of the scale to which it is followed."""
POINTS = 12
"""The number of points on the way, at equal distances of the log of the scale."""
PASSES = 4
"""The passes through all rows that a point is worth, in gradients of the fit: a loss in float64."""
FALL = 1.0
"""The fall of the loss in nats that is none of rounding, or of a point that is not quite a mode."""
SHOWN = 3
"""The largest number of sites that are named."""


def collapsing(
    surface: Surface,
    u: Weights,
    data: Data,
    effort: Effort,
    prior_power: Array | None = None,
    *,
    is_over_u: bool = False,
) -> Status:
    """Return a failure if the density is higher where a learned scale and its weights shrink together.

    Where it becomes so only for scales that no number represents, the point may be a local maximum: a warning.

    Args:
        surface: the density, at given points.
        u: the point where a fit ended.
        data: n rows.
        effort: how much may follow the fit. Where it is less than a look at all rows, some stand for all: the prior,
            which decides about the end of the way, is the same.
        prior_power: the factor of the log prior.
        is_over_u: whether the density is that over u, with its Jacobian.
    """
    structure = surface.density.structure
    if not set(structure.latents) - structure.real - structure.flat:
        return Status()
    found = _scaled_sites(surface.density, *signature(data))
    if found and effort.passes < POINTS * PASSES:
        data = representative(surface, u, data, effort.rows_for(POINTS * PASSES))
    for scale, sites in found.items():
        ray = _ray(surface, scale, sites, u, data, prior_power, is_over_u)
        if not (ray.is_lower or ray.is_falling):
            continue
        named = ", ".join(sites[:SHOWN]) + (" and others" if len(sites) > SHOWN else "")
        finding = "This is no maximum" if ray.is_lower else "This maximum is only a local one"
        growth = "grows without bound as all of them shrink to 0, whatever the data"
        growth = growth if ray.is_falling else "is higher where all of them are smaller"
        lowest = -1 if ray.is_falling else int(np.nanargmin(ray.losses))
        ends = {"value": ray.values[0], "here": ray.losses[0], "end": ray.values[lowest], "further": ray.losses[lowest]}
        reason = Reason.of(Code.COLLAPSING_SCALE, finding=finding, growth=growth, scale=scale, sites=named, **ends)
        return Status((reason,)) if ray.is_lower else Status((), (reason,))
    return Status()


class _Ray(NamedTuple):
    """The loss as a scale shrinks."""

    values: Float[np.ndarray, " m"]
    """The scale, from where a fit ended down to 1e-35; only the first if it is lower already."""
    losses: Float[np.ndarray, " m"]
    """The loss in nats."""

    @property
    def is_lower(self) -> bool:
        """Whether the loss is lower below a tenth of the scale, or the scale is 0 as far as numbers tell."""
        below = self.losses[self.values < self.values[0] / 10]
        return len(self.values) == 1 or bool((below < self.losses[0] - FALL).any())

    @property
    def is_falling(self) -> bool:
        """Whether the loss falls at the end, or the scale is 0 as far as numbers tell."""
        return len(self.values) == 1 or bool(self.losses[-1] < self.losses[-2] - FALL)


def _ray(
    surface: Surface,
    scale: str,
    sites: tuple[str, ...],
    u: Weights,
    data: Data,
    prior_power: Array | None,
    is_over_u: bool,
) -> _Ray:
    """Return the loss as a scale shrinks, with the weights in units of it held fixed."""
    shrink = program(_Shrink, surface.density, data, scale, sites)
    with jax.enable_x64(True):  # the densities of some priors overflow in float32
        u, data, prior_power = jax.tree.map(in_double, (u, data, prior_power))
        value = float(np.min(surface.constrain(u, data)[scale]))
        moves = np.linspace(0.0, LOWEST - math.log(value), POINTS + 1) if value > math.exp(LOWEST) else np.zeros(1)
        points = [shrink.at(u, move, data) for move in moves]
        losses = [float(surface.loss(point, data, prior_power)) * data.num_rows for point, _ in points]
        if is_over_u:
            losses = [loss - float(log_det) for loss, (_, log_det) in zip(losses, points, strict=True)]
    return _Ray(value * np.exp(moves), np.array(losses))


class _Shrink:
    """The points at which a scale is smaller, and the sites that it scales are the same in units of it."""

    def __init__(self, density: Density, scale: str, sites: tuple[str, ...]) -> None:
        standard = noncentred(density.model, frozenset(sites))

        def at(u: Weights, move: Array, data: Data) -> tuple[Weights, Array]:
            weights = density.constrain(u, data)
            transform = biject_to(density.priors(weights, data)[scale].support)
            values = standard.standardised(weights, data.x, **data.given)
            values[scale] = weights[scale] * jnp.exp(move)
            moved = standard.weights(values, data.x, **data.given)
            lower = transform.inv(values[scale])
            log_det = transform.log_abs_det_jacobian(lower, values[scale]).sum()
            return {**u, scale: lower, **{site: moved[site] for site in sites}}, log_det

        self.at = jit(at)


@lru_cache(maxsize=256)
def _scaled_sites(density: Density, tree: Any, leaves: Any) -> dict[str, tuple[str, ...]]:
    """Return the sites whose scale depends on a positive site, by that site, for rows of a `signature`."""
    data = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    dtype = jax.dtypes.canonicalize_dtype(float)
    positive: list[str] = []

    def scales(weights: Weights, data: Data) -> Weights:
        priors = density.priors(weights, data)
        positive.extend(name for name, prior in priors.items() if _is_positive(prior.support))
        return {name: place_of(prior)[1] for name, prior in priors.items() if has_scale(prior)}

    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in density.structure.sites}
    traced, out = jax.make_jaxpr(scales, return_shape=True)(weights, data)
    names, inputs = tuple(sorted(out)), dict(zip(sorted(weights), traced.jaxpr.invars, strict=False))
    found = {name: tuple(sorted(reached(traced.jaxpr, names, {inputs[name]}))) for name in positive}
    return {name: sites for name, sites in found.items() if sites}


def _is_positive(support: constraints.Constraint) -> bool:
    """Return whether a support begins at 0."""
    least = getattr(of_one_value(support), "lower_bound", None)
    return isinstance(least, int | float) and least == 0 and not support.is_discrete
