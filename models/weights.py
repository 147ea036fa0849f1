"""The weights of a network: sites that are sampled from their priors, after the scales of these priors."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.primitives import apply_stack

from .internals import _PYRO_STACK
from .prior import (
    DEFAULT,
    FIXED,
    ONE_FOR_ALL,
    UNIT,
    Prior,
    Shape,
    SitePrior,
    as_prior,
    fan_in,
    gaussian,
    per_site,
    prior_of,
)

SCALE = "prior_scale"
"""The site of a scale that has a prior of its own; ``prior_scale[key]`` for a key of a mapping."""


def sample_weights(
    prior: Prior,
    sites: Mapping[str, tuple[Shape, tuple[str, ...]]],
    start: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Array]:
    """Sample every site of a network from its prior, after the scales of priors that have a prior of their own.

    A site with such a scale has ``infer["noncentred"]``: samplers use its coordinates divided by the scale. The scale
    itself has ``infer["of_prior"]``: nothing but the prior depends on it.

    A network with two or more matrices that are sampled has hidden units between them, which can be exchanged without
    changing the outputs: chains need not agree on its weights. All its sites are marked as ``infer["exchangeable"]``.

    Args:
        prior: the prior of the network.
        sites: site name -> (shape, names of the dimensions). ArviZ reads the names from the site's
            ``infer["event_dims"]``, and makes its own if there are none.
        start: site name -> value, for a network with values of its own. Fits begin there, by the site's
            ``infer["start"]``; a "fixed" parameter keeps this value.

    Raises:
        ValueError: when the prior does not fit the sites, or a parameter without a value of its own is "fixed".
    """
    prior = as_prior(prior)
    if isinstance(prior, per_site):
        prior.check(sites)
    entries = {site: prior.entry(site) if isinstance(prior, per_site) else (None, prior) for site in sites}
    matrices = [site for site, (shape, _) in sites.items() if len(shape) > 1 and not _is_fixed(entries[site][1])]
    marks = {"exchangeable": True} if len(matrices) > 1 else {}
    scales = _sample_scales(prior, marks)
    weights: dict[str, Array] = {}
    for site, (shape, dims) in sites.items():
        key, chosen = entries[site]
        set_by = _source(key, prior)
        if _is_fixed(chosen):
            if start is None:
                raise ValueError(
                    f"prior: {site!r} cannot be 'fixed', since this network has no values of its own; a lifted "
                    f"module has. Give it a prior."
                )
            weights[site] = _fixed(site, start[site], set_by)
            continue
        infer: dict[str, Any] = {"set_by": set_by, **marks}
        infer |= {"event_dims": list(dims)} if dims else {}
        infer |= {"start": start[site]} if start else {}
        infer |= {"noncentred": True} if key in scales else {}
        weights[site] = numpyro.sample(site, prior_of(chosen, site, shape, scales.get(key)), infer=infer)
    return weights


def _is_fixed(prior: SitePrior) -> bool:
    return isinstance(prior, str) and prior == FIXED


def _sample_scales(prior: SitePrior, marks: dict[str, bool]) -> dict[str | None, Array]:
    """Sample the scales that are distributions, by the key of a mapping, or None for one prior for all sites."""
    scales = {}
    for key, chosen in prior.items if isinstance(prior, per_site) else ((None, prior),):
        if isinstance(chosen, gaussian | fan_in) and isinstance(chosen.scale, dist.Distribution):
            name = SCALE if key is None else f"{SCALE}[{key}]"
            infer = {"set_by": _source(key, prior), "of_prior": True, **marks}
            scales[key] = numpyro.sample(name, chosen.scale, infer=infer)
    return scales


def _source(key: str | None, prior: SitePrior) -> str:
    """Return the source of a prior, in words."""
    return f"key {key!r}" if key is not None else DEFAULT if prior is UNIT else ONE_FOR_ALL


def _fixed(site: str, value: np.ndarray, set_by: str) -> Array:
    """A parameter that is not a site. Only `priors` reads the message, by its type."""
    array = jnp.asarray(value, float)
    message = {"type": FIXED, "name": site, "value": array, "infer": {"set_by": set_by}}
    if _PYRO_STACK:
        apply_stack(message)
    return array
