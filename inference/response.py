"""What y is. The one place in `inference` that asks what kind of distribution the observed site has.

A `Response` is read once, by `response_of`, from the distribution of the observed site without y, and answers what
depends on the kind of y: which values it can have, what its classes are, which summaries of a prediction exist.

**A distribution of your own** needs no registration. It states what it is by what NumPyro asks of every distribution:

- ``support``: `constraints.boolean` makes y binary, ``constraints.integer_interval(0, K - 1)`` one of K classes (with
  integers as bounds), any other discrete support a count; a continuous support makes y a number, or a vector;
- ``mean``, ``variance`` and ``cdf``, where they exist: without them the summaries that need them raise. K classes that
  have no mean are names, not numbers: plots show their probabilities;
- ``arg_constraints``: a parameter ``logits`` holds unnormalised log probabilities, (..., K), or the log odds of 1;

and, if it likes, by two attributes that are this library's:

- ``loss``, a string: what deep learning calls its negative log probability (`NamesLoss`); `explain` prints it;
- ``padding``, an integer, with ``logits`` of shape (..., T, K): a row of y is then T tokens, and `padding` the value of
  y where there is no token (`Padded`).

To add a kind of y, write one class here that implements the abstract methods of `Response`, and list it in `KINDS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, final

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution, constraints

from .distributions import Padded, implements, log_probs_of_values, num_values, of_one_value, stated_logits
from .rows import Rows
from .sites import element, unmasked
from .words import in_words, place_in_words, title

type Kind = Literal["binary", "classes", "tokens", "counts", "numbers"]
type Missing = dict[Literal["probs", "mean", "variance", "cdf", "quantile"], str]
"""A summary of a predictive distribution -> why it does not exist, as the end of a sentence."""

CATEGORICALS = dist.CategoricalLogits | dist.CategoricalProbs
NO_QUANTILE: Missing = {"quantile": "y is discrete; use probs, or sample."}
NO_MOMENTS: Missing = {
    "mean": "y is a class, and classes have no mean; use probs.",
    "variance": "y is a class, and classes have no variance; use probs.",
}


@dataclass(frozen=True, kw_only=True)
class Response(ABC):
    """What y is; see the module. Plain data, compared and hashed by value: equal responses share compiled code."""

    kind: ClassVar[Kind]
    is_discrete: ClassVar[bool]
    """Whether y has probabilities, and no density."""

    site: str
    """The name of the observed site."""
    family: str
    """The name of its distribution."""
    event_shape: tuple[int, ...]
    """The shape of y in one row: () of a number or a class, (T,) of T tokens."""
    has_moments: bool
    """Whether the distribution has a mean and a variance."""
    has_cdf: bool
    num_classes: int | None = None
    """K, where y, or each token of a row, is one of 0, ..., K - 1."""
    padding: int | None = None
    """The value of y where a row has no token, if there is one."""
    support: constraints.Constraint = field(compare=False, repr=False)
    """The values that y can have. Its bounds may be arrays, which have no hash."""

    # What each kind answers.

    @classmethod
    @abstractmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        """Return the response if d, the distribution of the observed site, is of this kind; facts: the other fields."""

    @property
    @abstractmethod
    def missing(self) -> Missing:
        """The summaries of a prediction that do not exist, and why not."""

    @abstractmethod
    def class_log_probs(self, d: Distribution) -> Array:
        """Log p(y = k), (n, K), or of each token of a row, (n, T, K)."""

    @abstractmethod
    def logits(self, d: Distribution) -> Array | None:
        """The logits of the classes, (n, K), or of the tokens of all rows, one after the other, (n T, K).

        None where the distribution has no parameter called ``logits``, or y no classes.
        """

    # What follows for all of them.

    @property
    def is_class(self) -> bool:
        """Whether each row of y is one of a finite set of classes."""
        return self.num_classes is not None and not self.event_shape

    @property
    def is_name(self) -> bool:
        """Whether each row of y is a class that is best shown by its probability: one of two, or one without a mean."""
        return self.is_class and (self.num_classes == 2 or not self.has_moments)

    @property
    def has_uniform_transform(self) -> bool:
        """Whether P(Y <= y) is known, and uniform where the predictions are right: of discrete y it is not."""
        return self.has_cdf and not self.is_discrete

    def expect_class(self, caller: str) -> int:
        """Return the number of classes, or raise TypeError where a row of y is not one of a finite set."""
        if self.num_classes is None or not self.is_class:
            raise TypeError(f"{caller}: expected y to be a class; it can be {self.support!r}.")
        return self.num_classes

    def expect(self, summary: Literal["probs", "mean", "variance", "cdf", "quantile"], caller: str = "") -> None:
        """Raise NotImplementedError, with the reason, where a summary of a prediction does not exist."""
        if summary in self.missing:
            raise NotImplementedError(f"{caller or summary}: {self.missing[summary]}")

    def probs(self, class_probs: np.ndarray) -> np.ndarray:
        """Probabilities of all classes, (..., K), as users see them: of 0 and 1 that of 1 alone, (n,)."""
        return class_probs[:, 1] if self.kind == "binary" else class_probs

    def labels(self, y: Any) -> np.ndarray:
        """Hard labels, or numbers: y as an array, with the likeliest class in the place of soft labels."""
        values = np.asarray(y)
        return values.argmax(axis=-1) if self._is_soft(values) else values

    def is_known(self, y: Any) -> np.ndarray:
        """Which values of y are no padding, as booleans in the shape of y."""
        values = np.asarray(y)
        return np.ones(values.shape, bool) if self.padding is None else values != self.padding

    def symbols(self, y: Any) -> tuple[int, np.ndarray, np.ndarray] | None:
        """K, the classes or tokens of y, row after row, without padding, (m,), and their number in each row, (n,)."""
        values, known = np.asarray(y), self.is_known(y)
        counts = known.reshape(len(values), -1).sum(axis=1)
        return None if self.num_classes is None else (self.num_classes, values[known], counts)

    def count_tokens(self, y: Any) -> np.ndarray | None:
        """How many tokens are in each row of y, without padding, (n,); None where y is no row of tokens."""
        return self.is_known(y).sum(axis=tuple(range(1, np.ndim(y)))) if self.kind == "tokens" else None

    def check(self, y: Rows) -> None:
        """Raise ValueError at the first value that y cannot have, with its place, and what to do about it."""
        leaves = jax.tree.leaves(y)
        if len(leaves) > 1:
            return  # which leaf the site observes is the model's business
        values = np.asarray(leaves[0])
        is_soft = self._is_soft(values)
        support = constraints.simplex if is_soft else of_one_value(self.support)
        try:
            inside = np.asarray(support(values))
        except (jax.errors.JAXTypeError, TypeError, ValueError):  # bounds that depend on latent sites or on other data
            return
        if not inside.all():
            row, *rest = place = np.argwhere(~inside)[0].tolist()
            labels, got = np.unique(values).tolist(), f"{values[row, *rest].tolist()}"
            got += f"; y holds {labels}" if values.ndim == 1 and len(labels) <= 10 else ""
            words = in_words(support)
            if self.padding is not None:
                words = f"a token, from 0 to {(self.num_classes or 0) - 1}, or {self.padding} for padding"
            cure = "" if is_soft else self._cure(values)
            raise ValueError(f"y{place_in_words(place)}: expected {words}; got {got}. {cure}".rstrip())

    def check_not_all_padding(self, y: Rows) -> None:
        """Raise ValueError where rows of tokens hold nothing but padding: any weights fit them."""
        if not any(self.is_known(leaf).any() for leaf in jax.tree.leaves(y)):
            raise ValueError(f"y: expected tokens to fit; got {self.padding}, which is padding, in every place.")

    def mismatch(self, other: "Response") -> tuple[str, str, str] | None:
        """What keeps log densities of two responses from being compared: of this one, of the other, and the cure."""
        found = ((words(self), words(other), cure) for words, cure in COMPARED)
        return next((each for each in found if each[0] != each[1]), None)

    def _is_soft(self, values: np.ndarray) -> bool:
        """Whether y is rows of probabilities of the classes."""
        return self.is_class and values.shape[1:] == (self.num_classes,)

    def _cure(self, values: np.ndarray) -> str:
        """What to do about labels that are none of the classes."""
        if self.num_classes is None:
            return ""
        known = values[self.is_known(values)]
        if known.dtype.kind not in "iu" or not (known == 0).any() or (known.min() < 0 and self.padding is None):
            return "Number the classes from 0."
        if known.min() < 0:
            return f"Write y = np.where(y < 0, {self.padding}, y)."
        return f"There are {known.max() + 1} classes in y: give the observation as many, or mend y."


@final
class Binary(Response):
    """y is 0 or 1. It has classes, and a mean, which is the probability of 1."""

    kind, is_discrete = "binary", True

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts, num_classes=2) if d.support is constraints.boolean else None

    @property
    def missing(self) -> Missing:
        return {**NO_QUANTILE, "cdf": "y is 0 or 1; use probs."}

    def class_log_probs(self, d: Distribution) -> Array:
        return log_probs_of_values(d, 2)

    def logits(self, d: Distribution) -> Array | None:
        stated = stated_logits(d)
        return None if stated is None else jnp.stack([jnp.zeros_like(stated), stated], axis=-1)


@final
class Classes(Response):
    """y is one of 0, ..., K - 1; where the distribution has no mean they are names. y may be soft labels, (n, K)."""

    kind, is_discrete = "classes", True

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        num_classes = num_values(d.support)
        return None if num_classes is None else cls(**facts, num_classes=num_classes)

    @property
    def missing(self) -> Missing:
        missing: Missing = NO_QUANTILE | ({} if self.has_moments else NO_MOMENTS)
        return missing if self.has_cdf else missing | {"cdf": "y is a class, and classes have no order; use probs."}

    def class_log_probs(self, d: Distribution) -> Array:
        return log_probs_of_values(d, self.num_classes or 0)

    def logits(self, d: Distribution) -> Array | None:
        return stated_logits(d, self.num_classes)


@final
class Tokens(Response):
    """A row of y is an array of classes, as the tokens of a text; `padding`, if any, marks where there is none."""

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
        return {**NO_QUANTILE, **NO_MOMENTS, "cdf": "y is a row of tokens, which have no order; use probs or log_prob."}

    def class_log_probs(self, d: Distribution) -> Array:
        return jax.nn.log_softmax(jnp.broadcast_to(element(d).logits, (*d.shape(), self.num_classes or 0)))

    def logits(self, d: Distribution) -> Array | None:
        stated = stated_logits(d, self.num_classes)
        return None if stated is None else stated.reshape(-1, stated.shape[-1])


def _missing_of_numbers(response: Response) -> Missing:
    """The summaries that do not exist where y has no classes."""
    family = response.family
    missing: Missing = {"probs": f"y can be {response.support!r}, not one of a finite set of values."}
    if not response.has_moments:
        missing |= dict.fromkeys(("mean", "variance", "quantile"), f"{family} has no mean and variance; use sample.")
    return missing if response.has_cdf else missing | dict.fromkeys(("cdf", "quantile"), f"{family} has no cdf.")


def _raise_no_classes(response: Response, d: Distribution) -> Array:
    raise NotImplementedError(f"probs: {response.missing['probs']}")


def _no_logits(response: Response, d: Distribution) -> None:
    return None


@final
class Counts(Response):
    """y is an integer, or a vector of integers, without bounds that are known before the fit."""

    kind, is_discrete = "counts", True
    missing, class_log_probs, logits = property(_missing_of_numbers), _raise_no_classes, _no_logits

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts) if d.support.is_discrete else None


@final
class Numbers(Response):
    """y is continuous: a number or a vector, also one that is positive, or lies in an interval or on a simplex."""

    kind, is_discrete = "numbers", False
    missing, class_log_probs, logits = property(_missing_of_numbers), _raise_no_classes, _no_logits

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return cls(**facts)


KINDS: tuple[type[Response], ...] = (Tokens, Binary, Classes, Counts, Numbers)
"""The kinds of y; the first that reads a distribution describes it."""

COMPARED: tuple[tuple[Callable[[Response], str], str], ...] = (
    (lambda its: f"the observed site {its.site!r}", "Give the observed site one name in all models."),
    (
        lambda its: f"a {'probability' if its.is_discrete else 'density'} of y",
        "A density has units of y, and no common scale with a probability.",
    ),
    (
        lambda its: f"{its.num_classes or 'no'} {'kinds of tokens' if its.kind == 'tokens' else 'classes'}",
        "Fit them to the same classes, or kinds of tokens.",
    ),
    (lambda its: f"a y of shape {its.event_shape} in each row", "Fit them to the same y."),
)
"""What must be alike of responses whose log densities are compared, in words, and what to do where it is not."""


def response_of(site: str, d: Distribution) -> Response:
    """Read what y is from the distribution of the observed site without y.

    Labels that are soft in the fit are classes without y, so that this is true of them as well.

    Args:
        site: the name of the observed site.
        d: its distribution, which may have been traced: shapes are read, and no values.
    """
    d = unmasked(d)
    facts = {
        "site": site,
        "family": title(element(d)),
        "event_shape": d.event_shape,
        "has_moments": not isinstance(element(d), CATEGORICALS) and implements(d, lambda d: (d.mean, d.variance)),
        "has_cdf": implements(d, lambda d: d.cdf(jnp.zeros(d.shape()))),
        "support": d.support,
    }
    return next(response for kind in KINDS if (response := kind.read(d, facts)) is not None)
