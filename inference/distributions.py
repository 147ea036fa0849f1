"""Properties of NumPyro distributions, and the protocols of a user's own; see `response`."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, biject_to, constraints, kl_divergence

from .sites import element, unmasked

IntegerInterval = type(constraints.integer_interval(0, 1))


@runtime_checkable
class NamesLoss(Protocol):
    """A distribution that names its negative log probability as deep learning does."""

    loss: str


@runtime_checkable
class Padded(Protocol):
    """A distribution of rows of tokens."""

    logits: Any
    """Unnormalised log probabilities of the tokens, (..., T, K)."""
    padding: int
    """The value of y where there is no token."""


@runtime_checkable
class TakesIntervals(Protocol):
    """A distribution of a number of which a model also observes bounds, or the distribution of these bounds."""

    takes_intervals: bool
    """Whether y may also be rows of a lower and an upper bound, (n, 2), of which an infinite one is open."""


def takes_intervals(d: Distribution) -> bool:
    """Return whether values of y may also be bounds; see `TakesIntervals`."""
    each = element(d)
    return isinstance(each, TakesIntervals) and each.takes_intervals


CENSORED = dist.LeftCensoredDistribution | dist.RightCensoredDistribution | dist.IntervalCensoredDistribution
"""Distributions in which y may be a bound of the value that their base distribution describes."""


def stated_loss(d: Distribution) -> str | None:
    """Return the name of a distribution's negative log probability; None where it does not state one."""
    return d.loss if isinstance(d, NamesLoss) else None


def stated_logits(d: Distribution, *num_classes: int | None) -> Array | None:
    """Return the parameter ``logits`` of a distribution, with one entry per value of y, or one per class."""
    each = element(d)
    return jnp.broadcast_to(each.logits, (*d.shape(), *num_classes)) if "logits" in each.arg_constraints else None


def cancels(d: Distribution) -> bool:
    """Return whether log probabilities may be differences of large numbers, such as log gammas, inexact in float32.

    Those of a distribution whose only parameter is ``logits`` are not: of classes, but not of a binomial's counts.
    """
    return set(element(d).arg_constraints) != {"logits"}


def num_values(support: constraints.Constraint) -> int | None:
    """Return K of a support {0, ..., K - 1}; None for others, also for bounds that are not integers but arrays."""
    if not isinstance(support, IntegerInterval) or not isinstance(support.upper_bound, int):
        return None
    return support.upper_bound + 1 if support.lower_bound == 0 else None


def of_one_value(support: constraints.Constraint) -> constraints.Constraint:
    """Return the support of each value of an event."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def log_probs_of_values(d: Distribution, num_classes: int) -> Array:
    """Return log p(y = k) for k = 0, ..., num_classes - 1, (n, num_classes)."""
    return d.log_prob(jnp.arange(num_classes)[:, None]).T


def implements(d: Distribution, use: Callable[[Any], Any]) -> bool:
    """Return whether a distribution implements what a function uses, found from shapes alone: it may be traced."""
    try:
        jax.eval_shape(use, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), d))
    except NotImplementedError:
        return False
    except Exception:  # an error of its own, to be raised when a prediction uses it
        return True
    return True


def has_marginals(d: Distribution) -> bool:
    """Return whether the density of some values of an event alone is known, so that the others may be missing.

    It is for values that are independent given the weights (``to_event``), and for a multivariate Normal.
    """
    own = unmasked(d)
    is_product = isinstance(own, dist.Independent) and not element(own).event_shape
    return is_product or isinstance(own, dist.MultivariateNormal)


def where_known(d: Distribution, known: Array) -> Distribution:
    """Return the distribution of the known values of y alone, of which the others, although given, have no effect.

    Args:
        d: the distribution of n rows of y.
        known: booleans in the shape of y. Where `has_marginals` does not hold, all values of a row are alike.
    """
    if not d.event_shape:
        return d.mask(known.all(axis=tuple(range(len(d.batch_shape), known.ndim))))  # of bounds, both
    match d:
        case dist.MaskedDistribution():
            return where_known(d.base_dist, known).mask(d._mask)
        case dist.Independent() if has_marginals(d):
            return d.base_dist.mask(known).to_event(d.reinterpreted_batch_ndims)
        case dist.MultivariateNormal():
            return MarginalNormal(d, known)
    return d.mask(known.all(axis=tuple(range(-d.event_dim, 0))))


class MarginalNormal(dist.MultivariateNormal):
    """The multivariate Normal of some elements of each row: its log density is that of the known elements alone.

    The others are replaced by independent standard Normals with the value 0, whose density is a constant.

    Args:
        whole: the distribution of all elements.
        known: which elements are known, in the shape of y.
    """

    def __init__(self, whole: dist.MultivariateNormal, known: Array) -> None:
        self.known = known
        both = known[..., :, None] & known[..., None, :]
        covariance = jnp.where(both, whole.covariance_matrix, jnp.eye(known.shape[-1]))
        super().__init__(jnp.where(known, whole.loc, 0.0), covariance_matrix=covariance)

    def log_prob(self, value: Array) -> Array:
        num_missing = (~self.known).sum(axis=-1)
        return super().log_prob(jnp.where(self.known, value, 0.0)) + num_missing * (math.log(2 * math.pi) / 2)


@kl_divergence.register(dist.MaskedDistribution, dist.MaskedDistribution)  # type: ignore[untyped-decorator]
def _divergence_where_known(p: dist.MaskedDistribution, q: dist.MaskedDistribution) -> Array:
    """Return the KL divergence of the elements that are not masked, for distributions under the same mask."""
    return jnp.where(p._mask, kl_divergence(p.base_dist, q.base_dist), 0.0)


LOCATION_SCALE = dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel
"""The families that contain ``shift + factor * Y`` with every Y, at the location and scale that follow."""


class Affine(Distribution):
    """The distribution of ``shift + factor * Y``, for a continuous Y with a distribution of its own and factor > 0.

    Its log density is that of Y at ``(value - shift) / factor``, minus ``log(factor)`` for each number. Unlike
    `TransformedDistribution` of NumPyro it has mean, variance, cdf and quantiles wherever Y has them.

    Args:
        base_dist: the distribution of Y, whose support the map does not change: the real line; or positive numbers,
            with a shift of 0.
        shift: a number, or one for each element of an event.
        factor: a positive number likewise.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base_dist", "shift", "factor")

    def __init__(
        self, base_dist: Distribution, shift: ArrayLike, factor: ArrayLike, *, validate_args: bool | None = None
    ) -> None:
        shape = jnp.broadcast_shapes(base_dist.shape(), jnp.shape(shift), jnp.shape(factor))
        batch_shape = shape[: len(shape) - base_dist.event_dim]
        self.base_dist = base_dist if batch_shape == base_dist.batch_shape else base_dist.expand(batch_shape)
        self.shift, self.factor = jnp.asarray(shift, float), jnp.asarray(factor, float)
        super().__init__(batch_shape, base_dist.event_shape, validate_args=validate_args)

    @property
    def takes_intervals(self) -> bool:
        """Whether values may also be bounds, as those of Y."""
        return takes_intervals(self.base_dist)

    @property
    def support(self) -> constraints.Constraint:
        return self.base_dist.support

    @property
    def mean(self) -> Array:
        return self.shift + self.factor * self.base_dist.mean

    @property
    def variance(self) -> Array:
        return self.factor**2 * self.base_dist.variance

    def log_prob(self, value: Array) -> Array:
        log_factor = jnp.broadcast_to(jnp.log(self.factor), self.shape())
        if self.takes_intervals and self.event_shape:  # a density where both bounds are equal, else a probability
            log_factor = jnp.where(value[..., :1] == value[..., 1:], log_factor / 2, 0.0)
        return self.base_dist.log_prob(self._inverse(value)) - log_factor.sum(axis=tuple(range(-self.event_dim, 0)))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.shift + self.factor * self.base_dist.sample(key, sample_shape)

    def cdf(self, value: Array) -> Array:
        return self.base_dist.cdf(self._inverse(value))

    def icdf(self, q: Array) -> Array:
        return self.shift + self.factor * self.base_dist.icdf(q)

    def _inverse(self, value: Array) -> Array:
        return (value - self.shift) / self.factor


@kl_divergence.register(Affine, Affine)  # type: ignore[untyped-decorator]
def _divergence(p: Affine, q: Affine) -> Array:
    """Return the KL divergence of two distributions under the same map, which does not change it."""
    return kl_divergence(p.base_dist, q.base_dist)


def affine(d: Distribution, shift: ArrayLike, factor: ArrayLike) -> Distribution:
    """Return the distribution of ``shift + factor * Y``, with the expansions, masks and event dimensions of that of Y.

    Args:
        d: the distribution of Y; see `Affine`.
        shift: a number, or one for each element of an event.
        factor: a positive number likewise.
    """
    match d:
        case dist.Independent():
            return dist.Independent(affine(d.base_dist, shift, factor), d.reinterpreted_batch_ndims)
        case dist.ExpandedDistribution():
            return affine(d.base_dist, shift, factor).expand(d.batch_shape)
        case dist.MaskedDistribution():
            return affine(d.base_dist, shift, factor).mask(d._mask)
        case dist.LeftCensoredDistribution() | dist.RightCensoredDistribution():
            return type(d)(affine(d.base_dist, shift, factor), d.censored)  # the probability of a bound has no unit
    return Affine(d, shift, factor)


def in_own_terms(d: Distribution) -> Distribution:
    """Return an `Affine` of a location-scale family as a member of the family, others as they are.

    ``shift + factor * Normal(loc, scale)`` is Normal(shift + factor * loc, factor * scale).
    """
    if not isinstance(d, Affine) or not isinstance(d.base_dist, LOCATION_SCALE):
        return d
    base = d.base_dist
    parameters = {name: vars(base)[name] for name in base.arg_constraints}
    moved = {"loc": d.shift + d.factor * base.loc, "scale": d.factor * base.scale}
    return type(base)(**{**parameters, **moved})


def unconstrained(d: Distribution) -> Distribution:
    """Return a distribution with its parameters replaced by their unconstrained coordinates, those of `biject_to`.

    Only its leaves have a meaning, and only `constrained` takes it back: it has no log probability. Parameters of
    distributions within it, such as the components of a mixture, are replaced likewise. Integers, and parameters with
    no constraint or one that depends on others, stay as they are.
    """
    return _with_parameters(d, lambda constraint, value: biject_to(constraint).inv(value))


def constrained(d: Distribution) -> Distribution:
    """Return the distribution whose parameters have the unconstrained coordinates of `unconstrained`."""
    return _with_parameters(d, lambda constraint, value: biject_to(constraint)(value))


def _with_parameters(d: Distribution, map_of: Callable[[constraints.Constraint, Array], Array]) -> Distribution:
    """Return a distribution with each parameter mapped by a function of its constraint and its value."""
    stated: dict[str, Any] = {}
    for kind in reversed(type(d).__mro__):
        stated |= vars(kind).get("arg_constraints", {}) if issubclass(kind, Distribution) else {}

    def mapped(name: str, value: Any) -> Any:
        if isinstance(value, Distribution):
            return _with_parameters(value, map_of)
        if name not in stated or value is None or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        try:
            return map_of(stated[name], jnp.asarray(value))
        except NotImplementedError:
            return value

    values, others = d.tree_flatten()
    pairs = zip(type(d).gather_pytree_data_fields(), values, strict=True)
    return type(d).tree_unflatten(others, tuple(mapped(name, value) for name, value in pairs))


def real_numbers(tree: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Return the real numbers of a distribution, or of its coordinates, as a vector; and how they make one again."""
    leaves, structure = jax.tree.flatten(tree)
    is_real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    vector, unravel = ravel_pytree([leaf for leaf, real in zip(leaves, is_real, strict=True) if real])

    def rebuild(vector: Array) -> Any:
        new = iter(unravel(vector))
        merged = [next(new) if real else leaf for leaf, real in zip(leaves, is_real, strict=True)]
        return jax.tree.unflatten(structure, merged)

    return vector, rebuild
