"""Traces of a model, and predicates of their sites."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import seed, substitute, trace

from .rows import Rows

NumPyroModel = Callable[..., Any]
"""A NumPyro model ``model(x, y=None)``."""


def abstract_trace(model: NumPyroModel, x: Rows, y: Rows | None = None, **given: Any) -> dict[str, Any]:
    """Return the sites of a model, with shapes and types but without values: nothing is computed.

    Observed sites have the shape of their log probability as ``log_prob_shape``.
    """
    sites: dict[str, Any] = {}

    def run(x: Rows, y: Rows | None) -> list[Array]:
        sites.update(trace(seed(undrawn(model), jax.random.key(0))).get_trace(x, y, **given))
        for site in sites.values():
            if is_observation(site):
                site["log_prob_shape"] = jnp.shape(_log_prob_of_labels(site))
        return []

    jax.eval_shape(run, x, y)
    return sites


def _log_prob_of_labels(site: dict[str, Any]) -> Array:
    """Return the log probability of an observed site; raise TypeError where its labels must be integers."""
    try:
        return site["fn"].log_prob(site["value"])
    except TypeError as error:
        dtype = jnp.result_type(site["value"])
        if not site["fn"].support.is_discrete or jnp.issubdtype(dtype, jnp.integer):
            raise
        raise TypeError(
            f"Observed site {site['name']!r}: expected y to be integers, by which its distribution looks up "
            f"probabilities; got {dtype} in every row. Use y.astype(int) if they are labels."
        ) from error


def undrawn(model: NumPyroModel, observed: Collection[str] = ()) -> NumPyroModel:
    """Return the model with values at its latent sites that are not drawn; see `central_value`.

    Args:
        model: a NumPyro model.
        observed: the sites that are latent only where y is not given; discrete ones among them are 0.
    """

    def value(site: dict[str, Any]) -> Array | None:
        is_discrete_y = is_latent(site) and site["name"] in observed and site["fn"].support.is_discrete
        return jnp.zeros(site["fn"].shape(), int) if is_discrete_y else central_value(site)

    return substitute(model, substitute_fn=value)


def central_value(site: dict[str, Any]) -> Array | None:
    """Return a value of a continuous latent site without drawing it: the image of 0; None where there is no such value.

    Some distributions cannot be drawn from: `ImproperUniform` not at all, and those that NumPyro draws by a quantile,
    such as a truncated Student-t, only with another package.
    """
    if not is_latent(site) or site["fn"].support.is_discrete:
        return None
    try:
        transform = biject_to(site["fn"].support)
        return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))
    except NotImplementedError:  # a support of the user's own, for which no transform is registered
        return None


def is_latent(site: dict[str, Any]) -> bool:
    """Return whether the value of a site of a trace is inferred."""
    return site["type"] == "sample" and not site["is_observed"]


def is_observation(site: dict[str, Any]) -> bool:
    """Return whether a site of a trace is data; `numpyro.factor` is a term of the density, but not data."""
    return site["type"] == "sample" and site["is_observed"] and not is_factor(site["fn"])


def is_factor(d: dist.Distribution) -> bool:
    """Return whether a distribution is that of `numpyro.factor`, with or without a mask."""
    return isinstance(element(d), dist.Unit)


def element(d: dist.Distribution) -> dist.Distribution:
    """Return the distribution of one element, without expansions, masks and event dimensions."""
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        d = d.base_dist
    return d


def is_masked(d: dist.Distribution) -> bool:
    """Return whether the log probability of a distribution has been masked out by `flat`."""
    return isinstance(d, dist.MaskedDistribution) and d._mask is False


def is_flat(d: dist.Distribution) -> bool:
    """Return whether a prior is flat: masked out, or improper by itself."""
    return is_masked(d) or isinstance(element(d), dist.ImproperUniform)


def is_noncentred(site: dict[str, Any]) -> bool:
    """Return whether samplers divide a latent site by the scale of its prior, by the site's ``infer["noncentred"]``."""
    return bool(site["infer"].get("noncentred")) and has_scale(site["fn"])


def has_scale(d: dist.Distribution) -> bool:
    """Return whether a distribution is that of a location plus a scale times standard noise, and not masked out."""
    each = element(d)
    return not is_masked(d) and is_real(d.support) and {"loc", "scale"} <= set(each.arg_constraints)


def place_of(d: dist.Distribution) -> tuple[Array, Array]:
    """Return the location and the scale of each element of a distribution that has them."""
    each, shape = element(d), d.shape()
    return jnp.broadcast_to(each.loc, shape), jnp.broadcast_to(each.scale, shape)


def unmasked(d: dist.Distribution) -> dist.Distribution:
    """Return the distribution without masks: that of `flat`, where y is not given, and those that leave rows out."""
    while isinstance(d, dist.MaskedDistribution):
        d = d.base_dist
    return d


def mask_of(d: dist.Distribution) -> Any:
    """Return which rows count in the density, 1 or 0: all of them without a mask. That of `flat` is left out."""
    mask: Any = 1
    while isinstance(d, dist.MaskedDistribution):
        mask = mask if d._mask is False else mask * jnp.asarray(d._mask, int)
        d = d.base_dist
    return mask


def is_weighted(site: dict[str, Any]) -> bool:
    """Return whether the log probability of a site counts with a weight: by a `scale` handler, or a mask of some."""
    d = site["fn"]
    return site["scale"] is not None or (isinstance(d, dist.MaskedDistribution) and not isinstance(d._mask, bool))


def is_real(support: constraints.Constraint) -> bool:
    """Return whether a support is the whole real line, in any number of dimensions."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector, constraints.real_matrix)


def log_prob(site: dict[str, Any]) -> Array:
    """Return the log probability of a site of a trace in nats, summed over its elements and scaled."""
    nats = jnp.sum(site["fn"].log_prob(site["value"]))
    return nats if site["scale"] is None else nats * site["scale"]
