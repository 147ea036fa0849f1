"""Properties of NumPyro distributions, and the protocols of a user's own; see `response`."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, constraints

from .sites import element

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


def stated_loss(d: Distribution) -> str | None:
    """Return the name of a distribution's negative log probability; None where it does not state one."""
    return d.loss if isinstance(d, NamesLoss) else None


def stated_logits(d: Distribution, *num_classes: int | None) -> Array | None:
    """Return the parameter ``logits`` of a distribution, with one entry per value of y, or one per class."""
    each = element(d)
    return jnp.broadcast_to(each.logits, (*d.shape(), *num_classes)) if "logits" in each.arg_constraints else None


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


def moments_of(d: Distribution) -> tuple[Array, Array]:
    """Return mean and variance in the shape of y: distributions omit axes along which they do not vary."""
    return jnp.broadcast_to(d.mean, d.shape()), jnp.broadcast_to(d.variance, d.shape())


def cdf_of(d: Distribution, y: Array) -> Array:
    """Return P(Y <= y), also for y outside of the support, where the formula of a distribution may be NaN."""
    support = of_one_value(d.support)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    cdf = d.cdf(y if low is None and high is None else jnp.clip(y, low, high))
    cdf = cdf if low is None else jnp.where(y < low, 0.0, cdf)
    return cdf if high is None else jnp.where(y >= high, 1.0, cdf)


def implements(d: Distribution, use: Callable[[Any], Any]) -> bool:
    """Return whether a distribution implements what a function uses, found from shapes alone: it may be traced."""
    try:
        jax.eval_shape(use, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), d))
    except NotImplementedError:
        return False
    except Exception:  # an error of its own, to be raised when a prediction uses it
        return True
    return True
