"""What a NumPyro distribution states of itself; of a distribution of the user's own, see `response`."""

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
    """A distribution that says what deep learning calls its negative log probability."""

    loss: str


@runtime_checkable
class Padded(Protocol):
    """A distribution of rows of tokens."""

    logits: Any
    """Unnormalised log probabilities of the tokens, (..., T, K)."""
    padding: int
    """The value of y where there is no token."""


def stated_loss(d: Distribution) -> str | None:
    """What a distribution says that its negative log probability is called; None where it says nothing."""
    return d.loss if isinstance(d, NamesLoss) else None


def stated_logits(d: Distribution, *num_classes: int | None) -> Array | None:
    """The parameter ``logits`` of a distribution, one entry for each value of y, or one for each class of it."""
    each = element(d)
    return jnp.broadcast_to(each.logits, (*d.shape(), *num_classes)) if "logits" in each.arg_constraints else None


def num_values(support: constraints.Constraint) -> int | None:
    """K of a support {0, ..., K - 1} whose bounds are known before the fit: those of counts may be arrays."""
    if not isinstance(support, IntegerInterval) or not isinstance(support.upper_bound, int):
        return None
    return support.upper_bound + 1 if support.lower_bound == 0 else None


def of_one_value(support: constraints.Constraint) -> constraints.Constraint:
    """The support of each value of an event."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def log_probs_of_values(d: Distribution, num_classes: int) -> Array:
    """Log p(y = k) of k = 0, ..., num_classes - 1, (n, num_classes)."""
    return d.log_prob(jnp.arange(num_classes)[:, None]).T


def moments_of(d: Distribution) -> tuple[Array, Array]:
    """Mean and variance, shaped as y: distributions leave out the axes along which they do not vary."""
    return jnp.broadcast_to(d.mean, d.shape()), jnp.broadcast_to(d.variance, d.shape())


def implements(d: Distribution, ask: Callable[[Any], Any]) -> bool:
    """Whether a distribution implements what a function asks of it, by shapes alone: it may have been traced."""
    try:
        jax.eval_shape(ask, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), d))
    except NotImplementedError:
        return False
    except Exception:  # an error of its own, which is raised where a prediction asks
        return True
    return True
