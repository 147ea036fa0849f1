"""The target: what kind of values it has, and these as numbers or as codes of classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api import types
from scipy.stats import skew

from .values import is_number, numbers_of, place_of, plain, shortened, text_of, texts_of

CLASSES = ("bernoulli", "categorical", "ordinal")
NUMBERS = ("normal", "student-t")
POSITIVE = ("log-normal", "gamma", "weibull", "exponential")
COUNTS = ("poisson", "negative-binomial", "zero-inflated-poisson", "zero-inflated-negative-binomial")
SHARES = ("beta",)
LIKELIHOODS = (*CLASSES, *NUMBERS, *POSITIVE, *COUNTS, *SHARES)
ALLOWED: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    **dict.fromkeys(POSITIVE, ("positive numbers", lambda y: y > 0)),
    **dict.fromkeys(COUNTS, ("counts, whole numbers from 0", lambda y: (y >= 0) & (y == np.round(y)))),
    **dict.fromkeys(SHARES, ("shares between 0 and 1, without both", lambda y: (y > 0) & (y < 1))),
}
"""Likelihood -> the values of its target, in words and as a predicate."""
MOST_CLASSES = 20
"""Whole numbers with more distinct values than this are no classes."""
MOST_TEXTS = 100
"""Texts with more distinct values than this are no classes."""
LONG_TAIL = 1.5
"""A skewness above this is a long tail; that of an exponential distribution is 2."""
OVERDISPERSED = 2.0
"""Counts whose variance is more than this times their mean are negative binomial."""
RULES = (
    ("two values of any kind", "bernoulli"),
    (f"texts of up to {MOST_TEXTS} values", "categorical"),
    (
        "whole numbers that are ever less frequent towards the largest, of 5 values or more, or without zeros of 8 or "
        "more",
        f"counts: poisson, or negative-binomial where the variance is more than {OVERDISPERSED:g} times the mean",
    ),
    (f"other whole numbers of up to {MOST_CLASSES} values", "categorical (ratings are ordered: choose ordinal)"),
    ("numbers between 0 and 1, without both, some above 0.5", "beta"),
    ("positive numbers with a long tail", "log-normal, or gamma where their logarithm is skewed as well"),
    ("other numbers", "normal"),
)
"""The kinds of targets in the order in which they are tried, and the likelihood of each."""


@dataclass(frozen=True)
class Target:
    """The target of a table: its likelihood, and its values as numbers or as codes of classes.

    Example:
        >>> import pandas as pd
        >>> target = Target.of(pd.Series(["no", "yes", "no"], name="sold"))
        >>> print(target.words)
        Likelihood: bernoulli (the target 'sold' has two values); 0 = no, 1 = yes.
        >>> target.values(pd.Series(["yes", None], name="sold"))
        array([ 1., nan])
    """

    name: str
    likelihood: str
    """One of `LIKELIHOODS`."""
    classes: tuple[str, ...]
    """The classes in the order of their codes; none where the target is a number."""
    words: str
    """What it is, and why, in a sentence or two."""

    @classmethod
    def of(cls, column: pd.Series, likelihood: str | None = None, order: Sequence[str] = ()) -> Self:
        """Return the target of a column.

        Args:
            column: its values; rows without one are left out of fits.
            likelihood: one of `LIKELIHOODS`; None is that of `RULES`.
            order: the classes of an ordinal target, the lowest first; by default numbers are in their order.

        Raises:
            ValueError: when the target is a date, has one value only, or does not suit the likelihood.
        """
        name, column = str(column.name), plain(column)
        given = column.dropna()
        values = sorted(set(texts_of(given)))
        if len(values) < 2:
            what = f"one value only: {values[0]!r}" if values else "no values"
            raise ValueError(f"The target {name!r} has {what}. There is nothing to predict.")
        if types.is_datetime64_any_dtype(column):
            raise ValueError(
                f"The target {name!r} is a date, such as {given.iloc[0]}. Make it a number first, such as the days "
                f"since a fixed date or until an event."
            )
        if order and likelihood != "ordinal":
            raise ValueError(f"An order of classes is for the likelihood ordinal; got {likelihood}.")
        why = "as requested"
        if likelihood is None:
            likelihood, why = inferred(name, column, len(values))
        if likelihood in CLASSES:
            classes = _classes(name, given, likelihood, order)
            codes = [f"{code} = {value}" for code, value in enumerate(classes) if str(code) != value]
            listed = f"; {_cut(', '.join(codes))}" if codes else ""
            return cls(name, likelihood, classes, f"Likelihood: {likelihood} ({why}){listed}.")
        _check_values(name, given, likelihood)
        return cls(name, likelihood, (), f"Likelihood: {likelihood} ({why}).")

    def values(self, column: pd.Series) -> np.ndarray:
        """Return the target of rows, (n,): numbers, or codes of classes; NaN where it is missing.

        Raises:
            ValueError: when a value is none of the classes, or one that the likelihood does not allow.
        """
        if not self.classes:
            _check_values(self.name, plain(column).dropna(), self.likelihood)
            return numbers_of(self.name, column)
        texts = texts_of(column)
        codes = pd.Index(self.classes, dtype=object).get_indexer_for(pd.Index(texts))
        unknown = (codes < 0) & texts.notna().to_numpy()
        if unknown.any():
            place = place_of(texts, int(np.flatnonzero(unknown)[0]))
            raise ValueError(
                f"The target {self.name!r}, {place}: expected one of {list(self.classes)}; got "
                f"{texts[unknown].iloc[0]!r}."
            )
        return codes.astype(int) if (codes >= 0).all() else np.where(codes < 0, np.nan, codes)

    def to_json(self) -> dict[str, Any]:
        """Return the target as values that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Return the target that `to_json` returned."""
        return cls(**{**saved, "classes": tuple(saved["classes"])})


def inferred(name: str, column: pd.Series, num_values: int) -> tuple[str, str]:
    """Return the likelihood of a target by `RULES`, and the reason.

    Raises:
        ValueError: when it is a text of too many values.
    """
    the_target, given = f"the target {name!r}", column.dropna()
    if num_values == 2:
        return "bernoulli", f"{the_target} has two values"
    if not is_number(column):
        if num_values > min(MOST_TEXTS, len(given) / 2):
            raise ValueError(
                f"The target {name!r} is text of {num_values} values in {len(given)} rows, such as "
                f"{shortened(given.drop_duplicates())}: too many for classes. If these are numbers or dates, correct "
                f"what makes them text; otherwise group them."
            )
        return "categorical", f"{the_target} is text of {num_values} values"
    y = numbers_of(name, given)
    span = f"from {y.min():.6g} to {y.max():.6g}"
    if (y == np.round(y)).all():
        if is_count(y):
            likelihood = "negative-binomial" if y.var() > OVERDISPERSED * y.mean() else "poisson"
            return likelihood, (
                f"{the_target} is a count: whole numbers, {span}, ever less frequent towards the largest; mean "
                f"{y.mean():.4g}, variance {y.var():.4g}; if they are codes of classes, categorical"
            )
        if num_values <= min(MOST_CLASSES, len(y) / 2):
            return "categorical", (
                f"{the_target} has {num_values} values, whole numbers, {span}; if their order has a meaning, as that "
                f"of ratings, ordinal; if they are numbers, normal"
            )
    if y.min() > 0 and y.max() < 1 and y.max() > 0.5:
        return "beta", f"{the_target} is a share: numbers between 0 and 1, {span}; if it is not, normal"
    if y.min() > 0 and skew(y) > LONG_TAIL:
        likelihood = "log-normal" if abs(skew(np.log(y))) < skew(y) / 2 else "gamma"
        return likelihood, f"{the_target} is a positive number with a long tail, {span}"
    return "normal", f"{the_target} is a number, {span}"


def is_count(y: np.ndarray) -> bool:
    """Return whether whole numbers are counts rather than codes of classes, ratings or other numbers.

    The values of a count are ever less frequent towards the largest, and it has many: with zeros among them 5 or more,
    otherwise 8 or more. Up to `MOST_CLASSES` values, the most frequent one is in the lower half, none beyond it is much
    more frequent than the one before, and the largest is rare. Of more, zeros and a long tail are required.
    """
    values, frequencies = np.unique(y, return_counts=True)
    if values[0] < 0 or len(values) < (5 if values[0] == 0 else 8):
        return False
    if len(values) > MOST_CLASSES:
        return bool(values[0] == 0 and skew(y) > 1)
    most = int(frequencies.argmax())
    after = frequencies[most:]
    rises = np.diff(after) - 2 * np.sqrt(after[1:])  # beyond two standard errors
    return bool(
        values[most] <= (values[0] + values[-1]) / 2
        and rises.max(initial=0) <= 0
        and frequencies[-1] <= 0.2 * frequencies[most]
    )


def _classes(name: str, given: pd.Series, likelihood: str, order: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in the order of their codes.

    Raises:
        ValueError: when there are too many or too few, or their order is unknown.
    """
    values = tuple(map(text_of, sorted(set(given)))) if is_number(given) else tuple(sorted(set(texts_of(given))))
    if likelihood == "bernoulli" and len(values) != 2:
        raise ValueError(f"Likelihood bernoulli: the target {name!r} has {len(values)} values, not 2.")
    if len(values) > len(given) / 2 and len(values) > 2:
        raise ValueError(
            f"Likelihood {likelihood}: the target {name!r} has {len(values)} values in {len(given)} rows. Expected "
            f"classes, each in several rows."
        )
    if likelihood != "ordinal" or (is_number(given) and not order):
        return values
    if set(order) != set(values) or len(order) != len(values):
        got = f"got {list(order)}" if order else "texts have none of their own"
        raise ValueError(f"Likelihood ordinal: expected an order of the classes {list(values)}, lowest first; {got}.")
    return tuple(order)


def _check_values(name: str, given: pd.Series, likelihood: str) -> None:
    """Raise ValueError unless the values of a target are numbers that the likelihood allows."""
    if len(given) and not is_number(given):
        raise ValueError(
            f"Likelihood {likelihood}: the target {name!r} is not numeric; got {text_of(given.iloc[0])!r} in "
            f"{place_of(given, 0)}."
        )
    words, is_allowed = ALLOWED.get(likelihood, ("", np.isfinite))
    y = numbers_of(name, given)
    outside = np.flatnonzero(~is_allowed(y))
    if len(outside):
        raise ValueError(
            f"Likelihood {likelihood}: expected {words} in {name!r}; got {y[outside[0]]:.6g} in "
            f"{place_of(given, int(outside[0]))}, and {len(outside)} such values in all."
        )


def _cut(text: str, width: int = 400) -> str:
    return text if len(text) <= width else f"{text[:width].rpartition(',')[0]}, ..."
