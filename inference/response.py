"""The description of y: what a `Response` answers, whatever the kind of y.

A `Response` is read once, by `kinds.response_of`, from the distribution of the observed site without y. It defines what
depends on the kind of y: the values that it can have, its classes, and the summaries of a prediction that exist.

**A distribution of your own** needs no registration. It describes itself by the attributes of NumPyro distributions:

- ``support``: `constraints.boolean` makes y binary, ``constraints.integer_interval(0, K - 1)`` one of K classes (with
  integers as bounds), any other discrete support a count; a continuous support makes y a number, or a vector;
- ``mean``, ``variance``, ``cdf``, where they exist; K classes without a mean are names, not numbers;
- ``arg_constraints``: a parameter ``logits`` holds unnormalised log probabilities, (..., K), or the log odds of 1;
- ``loss``, optional, of this library: what deep learning calls its negative log probability (`NamesLoss`);
- ``padding``, optional, of this library, an integer, with ``logits`` of shape (..., T, K): each row of y is then T
  tokens, and `padding` is the value of y where there is no token (`Padded`);
- ``takes_intervals = True``, optional, of this library, of a number: y may also have shape (n, 2), the bounds of each
  value, where an infinite one is open. The model then observes them by a distribution of bounds, as it observes soft
  labels: the log density of rows whose bounds are equal, the log probability of the interval of others
  (`TakesIntervals`).

To add a kind of y, write one class in `kinds.py` that implements the abstract methods of `Response`, and list it in
`kinds.KINDS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import jax
import numpy as np
from jax import Array
from numpyro.distributions import Distribution, constraints

from .distributions import of_one_value
from .intervals import check_intervals, point_of
from .rows import Rows
from .words import in_words, index_in_words

type Kind = Literal["binary", "classes", "tokens", "counts", "numbers", "several"]
type Summary = Literal["probs", "mean", "variance", "cdf", "quantile", "crps", "mode"]
type Missing = dict[Summary, str]
"""The reason why a summary of a predictive distribution does not exist, by summary, as the end of a sentence."""
NO_DISTANCE = "y may be a bound, whose distance from the value is not known; use log_prob."
"""Why there are no errors of predictions where y may be censored."""


@dataclass(frozen=True, kw_only=True)
class Response(ABC):
    """The description of y; see the module. Compared and hashed by value: equal responses share compiled code."""

    kind: ClassVar[Kind]

    site: str
    """The name of the observed site."""
    family: str
    """The name of its distribution."""
    event_shape: tuple[int, ...]
    """The shape of y in one row: () for a number or a class, (T,) for T tokens."""
    has_moments: bool
    """Whether the distribution has a mean and a variance."""
    has_cdf: bool
    """Whether P(Y <= y) is known, for each element of y: classes have it if they have an order."""
    is_censored: bool
    """Whether a number of y may be a bound of the value that summaries describe, which only the model knows."""
    has_marginals: bool
    """Whether some values of an event may be missing, as the others alone have a density; see `where_known`."""
    needs_double: bool
    """Whether log probabilities are computed in float64; see `cancels`."""
    num_classes: int | None = None
    """K, where y, or each of its tokens, is one of 0, ..., K - 1."""
    is_interval: bool = False
    """Whether y is bounds of a value in every row, of which the model knows which are open."""
    takes_intervals: bool = False
    """Whether y may also be rows of a lower and an upper bound, (n, 2)."""
    padding: int | None = None
    """The value of y where a row has no token, if rows can be padded."""
    support: constraints.Constraint = field(compare=False, repr=False)
    """The values that y can have. Its bounds may be arrays, which cannot be hashed."""

    # Each kind of y implements these; what follows them holds for all kinds.

    @property
    @abstractmethod
    def is_discrete(self) -> bool:
        """Whether y has probabilities instead of a density."""

    @classmethod
    @abstractmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        """Return the response, with facts as its fields, if the distribution of the observed site is of this kind."""

    @property
    @abstractmethod
    def missing(self) -> Missing:
        """The summaries of a prediction that do not exist, with the reasons."""

    @abstractmethod
    def class_log_probs(self, d: Distribution) -> Array:
        """Return log p(y = k), (n, K), or that of each token, (n, T, K)."""

    @abstractmethod
    def logits(self, d: Distribution) -> Array | None:
        """Return the logits of the classes, (n, K), or of all tokens, (n T, K); None without ``logits``."""

    @property
    def is_class(self) -> bool:
        """Whether each row of y is one of a finite set of classes."""
        return self.num_classes is not None and not self.event_shape

    @property
    def is_name(self) -> bool:
        """Whether each row of y is a class that plots show by its probability: one of two, or one without a mean."""
        return self.is_class and (self.num_classes == 2 or not self.has_moments)

    def expect_class(self, caller: str) -> int:
        """Return the number of classes; raise TypeError where y is not one of a finite set."""
        return self._expect(caller, "a class", self.is_class)

    def expect_tokens(self, caller: str) -> int:
        """Return the number of kinds of tokens; raise TypeError where y is not a row of tokens."""
        return self._expect(caller, "a row of tokens", self.kind == "tokens")

    def _expect(self, caller: str, what: str, is_met: bool) -> int:
        if self.num_classes is None or not is_met:
            raise TypeError(f"{caller}: expected y to be {what}; it can be {self.support!r}.")
        return self.num_classes

    def expect(self, summary: Summary, caller: str = "") -> None:
        """Raise NotImplementedError, with the reason, where a summary of a prediction does not exist."""
        if summary in self.missing:
            raise NotImplementedError(f"{caller or summary}: {self.missing[summary]}")

    def probs(self, class_probs: np.ndarray) -> np.ndarray:
        """Return the probabilities of all classes, (..., K); of a binary y, that of 1 alone, (n,)."""
        return class_probs[:, 1] if self.kind == "binary" else class_probs

    def labels(self, y: Any) -> np.ndarray:
        """Return y as an array of hard labels or numbers, with soft labels replaced by the most probable class."""
        values = np.asarray(y) + 0  # booleans become 0 and 1
        return values.argmax(axis=-1) if self._is_soft(values) else values

    def is_known(self, y: Any) -> np.ndarray:
        """Return which values of y are not padding, as booleans in the shape of y."""
        values = np.asarray(y)
        return np.ones(values.shape, bool) if self.padding is None else values != self.padding

    def symbols(self, y: Any) -> tuple[int, np.ndarray, np.ndarray] | None:
        """Return K, the classes or tokens of y without padding, row after row, (m,), and their number per row, (n,)."""
        if self.num_classes is None:
            return None
        values, known = np.asarray(y), self.is_known(y)
        return self.num_classes, values[known], known.reshape(len(values), -1).sum(axis=1)

    def count_tokens(self, y: Any) -> np.ndarray | None:
        """Return the number of tokens per row of y without padding, (n,); None where y has no tokens."""
        return self.is_known(y).sum(axis=tuple(range(1, np.ndim(y)))) if self.kind == "tokens" else None

    def are_bounds(self, y: Any) -> bool:
        """Return whether y is rows of a lower and an upper bound, (n, 2)."""
        return (self.takes_intervals or self.is_interval) and np.ndim(y) == 2

    def has_distances(self, y: Any) -> bool:
        """Return whether y is known, and not bounds of it, so that predictions have a distance from it."""
        return not (self.is_censored or self.are_bounds(y))

    def has_densities(self, y: Any) -> bool:
        """Return whether some row of y contributes a density, and not a probability, to the likelihood."""
        return not self.is_discrete and not (self.are_bounds(y) and bool((y[:, 0] != y[:, 1]).all()))

    def element(self, caller: str, y: Any, output: int | None) -> Any:
        """Return an index of one element of each row, of y or of a summary; `output` is None where there is one alone.

        Raises:
            ValueError: when y has several elements and none is chosen, or there is no such element.
        """
        shape: tuple[int, ...] = () if self.is_class or self.are_bounds(y) else np.shape(y)[1:]
        if not shape and output is None:
            return (slice(None),)
        if len(shape) != 1 or output not in range(shape[0]) or isinstance(output, bool):
            elements = f"0 to {shape[0] - 1}" if len(shape) == 1 else "None, as there is one value per row"
            raise ValueError(f"{caller}: expected output to be an element of y, {elements}; got {output!r}.")
        return (slice(None), output)

    def points(self, y: Any) -> Any:
        """Return y, with each row of bounds replaced by a finite number between them."""
        return point_of(y) if self.are_bounds(y) else y

    def check(self, y: Rows, name: str = "y") -> None:
        """Raise ValueError at the first value that y cannot have, with its position and the cure."""
        leaves = jax.tree.leaves(y)
        if len(leaves) > 1:
            return  # only the model knows which leaf the site observes
        values = np.asarray(leaves[0])
        if self.are_bounds(values):
            return check_intervals(values, of_one_value(self.support), name)
        is_soft = self._is_soft(values)
        support = constraints.simplex if is_soft else of_one_value(self.support)
        try:
            inside = np.asarray(support(values))
        except (jax.errors.JAXTypeError, TypeError, ValueError):  # bounds that differ between rows: `check_bounds`
            return
        if not inside.all():
            row, *rest = index = np.argwhere(~inside)[0].tolist()
            labels, got = np.unique(values).tolist(), f"{values[row, *rest].tolist()}"
            got += f"; the values of y are {labels}" if values.ndim == 1 and len(labels) <= 10 else ""
            words = in_words(support)
            if self.padding is not None:
                words = f"a token, from 0 to {(self.num_classes or 0) - 1}, or {self.padding} for padding"
            cure = "" if is_soft else self._cure(values)
            raise ValueError(f"{name}{index_in_words(index)}: expected {words}; got {got}. {cure}".rstrip())

    def check_not_all_padding(self, y: Rows, name: str = "y") -> None:
        """Raise ValueError where rows of tokens contain only padding, which any weights would fit."""
        if not any(self.is_known(leaf).any() for leaf in jax.tree.leaves(y)):
            raise ValueError(f"{name}: expected tokens to fit; got only padding, {self.padding}.")

    def mismatch(self, other: "Response") -> tuple[str, str, str] | None:
        """Return a property in which two responses differ, so cannot be compared: both values, and the cure."""
        pairs = ((words(self), words(other), cure) for words, cure in COMPARED)
        return next((each for each in pairs if each[0] != each[1]), None)

    def _is_soft(self, values: np.ndarray) -> bool:
        """Return whether y contains soft labels, probabilities of the classes."""
        return self.is_class and values.shape[1:] == (self.num_classes,)

    def _cure(self, values: np.ndarray) -> str:
        """Return the cure for labels that are not classes."""
        if self.num_classes is None:
            return ""
        known = values[self.is_known(values)]
        if known.dtype.kind not in "iu" or not (known == 0).any() or (known.min() < 0 and self.padding is None):
            return "Number the classes from 0."
        if known.min() < 0:
            return f"Write y = np.where(y < 0, {self.padding}, y)."
        return f"There are {known.max() + 1} classes in y: give the observation as many, or correct y."


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
    (lambda its: f"a y of shape {its.event_shape} per row", "Fit them to the same y."),
)
"""The properties in which compared responses must agree, in words, and the cures."""
