"""The kinds of y: each is a `Response`, and `response_of` finds that of a distribution."""

from collections.abc import Mapping
from typing import Any, Self, final

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, constraints

from .distributions import (
    Padded,
    cancels,
    has_marginals,
    implements,
    log_probs_of_values,
    num_values,
    stated_logits,
    takes_intervals,
)
from .marginals import CATEGORICALS, cdf_of, is_censored, is_interval, is_ordered, moments_of
from .response import NO_DISTANCE, Missing, Response
from .sites import element, unmasked
from .words import title

NO_ORDER = "y is a class, and classes have no order; use probs."
NO_MOMENTS: Missing = {
    "mean": "y is a class, and classes have no mean; use probs.",
    "variance": "y is a class, and classes have no variance; use probs.",
}


@final
class Binary(Response):
    """The response of a y that is 0 or 1. Its mean is the probability of 1."""

    kind, is_discrete = "binary", True

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts, num_classes=2) if d.support is constraints.boolean else None

    @property
    def missing(self) -> Missing:
        return dict.fromkeys(("cdf", "quantile", "crps"), "y is 0 or 1; use probs.")

    def class_log_probs(self, d: Distribution) -> Array:
        return log_probs_of_values(d, 2)

    def logits(self, d: Distribution) -> Array | None:
        stated = stated_logits(d)
        return None if stated is None else jnp.stack([jnp.zeros_like(stated), stated], axis=-1)


@final
class Classes(Response):
    """The response of a y that is one of 0, ..., K - 1 (names, if the mean does not exist), or soft labels, (n, K)."""

    kind, is_discrete = "classes", True

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        num_classes = num_values(d.support)
        if num_classes is None:
            return None
        return cls(**{**facts, "has_cdf": is_ordered(d)}, num_classes=num_classes)

    @property
    def missing(self) -> Missing:
        missing: Missing = {"crps": "y is a class; use probs."}
        missing |= {} if self.has_moments else NO_MOMENTS
        return missing if self.has_cdf else missing | dict.fromkeys(("cdf", "quantile"), NO_ORDER)

    def class_log_probs(self, d: Distribution) -> Array:
        return log_probs_of_values(d, self.num_classes or 0)

    def logits(self, d: Distribution) -> Array | None:
        return stated_logits(d, self.num_classes)


@final
class Tokens(Response):
    """The response of a y with an array of classes per row, such as the tokens of a text, possibly padded."""

    kind, is_discrete = "tokens", True

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        each = element(d)
        if d.event_shape and isinstance(each, CATEGORICALS):
            return cls(**facts, num_classes=num_values(each.support))
        if d.event_shape and isinstance(each, Padded):
            return cls(**facts, num_classes=jnp.shape(each.logits)[-1], padding=each.padding)
        return None

    @property
    def missing(self) -> Missing:
        missing: Missing = dict.fromkeys(
            ("cdf", "quantile", "crps"), "y is tokens, which have no order; use probs or log_prob."
        )
        mode = "the most probable row of tokens is not known; probs.argmax(axis=-1) is the most probable token of each."
        return {**NO_MOMENTS, **missing, "mode": mode}

    def class_log_probs(self, d: Distribution) -> Array:
        return jax.nn.log_softmax(jnp.broadcast_to(element(d).logits, (*d.shape(), self.num_classes or 0)))

    def logits(self, d: Distribution) -> Array | None:
        stated = stated_logits(d, self.num_classes)
        return None if stated is None else stated.reshape(-1, stated.shape[-1])


def _missing_of_numbers(response: Response) -> Missing:
    """Return the summaries that do not exist where y has no classes."""
    family = response.family
    missing: Missing = {"probs": f"y can be {response.support!r}, not one of a finite set of values."}
    if not response.is_discrete:
        missing["mode"] = (
            "y is continuous, and its density over draws may have many maxima, which change with the units of y; use "
            "quantile(0.5) or interval()."
        )
    elif response.event_shape:
        missing["mode"] = "y is a vector, whose elements depend on one another given x; use quantile(0.5)."
    if not response.has_moments:
        missing |= dict.fromkeys(("mean", "variance"), f"{family} has no mean and variance; use sample.")
    if response.is_censored:
        missing["crps"] = NO_DISTANCE
    if response.has_cdf:
        return missing
    return missing | dict.fromkeys(("cdf", "quantile", "crps"), f"{family} has no cdf.")


def _raise_no_classes(response: Response, d: Distribution) -> Array:
    raise NotImplementedError(f"probs: {response.missing['probs']}")


def _no_logits(response: Response, d: Distribution) -> None:
    return None


@final
class Counts(Response):
    """The response of a y that is an integer, or a vector of integers, without bounds known before the fit."""

    kind, is_discrete = "counts", True
    missing, class_log_probs, logits = property(_missing_of_numbers), _raise_no_classes, _no_logits

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts) if d.support.is_discrete else None


@final
class Numbers(Response):
    """The response of a continuous y: a number or a vector, on any support."""

    kind, is_discrete = "numbers", False
    missing, class_log_probs, logits = property(_missing_of_numbers), _raise_no_classes, _no_logits

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts)


KINDS: tuple[type[Response], ...] = (Tokens, Binary, Classes, Counts, Numbers)
"""The kinds of y, in the order in which they are tried."""


def response_of(site: str, d: Distribution) -> Response:
    """Return the response, read from the distribution of the observed site without y, where soft labels are classes.

    Args:
        site: the name of the observed site.
        d: its distribution, which may be traced: only shapes are read, not values.
    """
    d = unmasked(d)
    facts = {
        "site": site,
        "family": title(element(d)),
        "event_shape": d.event_shape,
        "has_moments": not isinstance(element(d), CATEGORICALS) and implements(d, moments_of),
        "has_cdf": implements(d, lambda d: cdf_of(d, jnp.zeros(d.shape()))),
        "is_censored": is_censored(d),
        "has_marginals": has_marginals(d),
        "needs_double": cancels(d),
        "takes_intervals": takes_intervals(d),
        "is_interval": is_interval(d),
        "support": d.support,
    }
    return next(response for kind in KINDS if (response := kind.read(d, facts)) is not None)
