"""The kind of a target, read from its values."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.special
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris

from flatprior.tables import Target
from flatprior.tables.target import LIKELIHOODS

RNG = np.random.default_rng(0)


def repeated(frequencies: dict[float, int]) -> np.ndarray:
    return np.repeat(list(frequencies), list(frequencies.values()))


COUNTS_OF_TWO = {0: 40, 1: 81, 2: 80, 3: 54, 4: 27, 5: 11, 6: 4, 7: 2, 8: 1}
"""How often 300 Poisson counts with the mean 2 have each value."""
TARGETS = {
    "diabetes": (load_diabetes().target, "normal"),
    "cancer": (load_breast_cancer().target, "bernoulli"),
    "iris": (load_iris().target, "categorical"),
    "digits": (load_digits().target, "categorical"),
    "booleans": ([True, False] * 10, "bernoulli"),
    "two numbers": ([1, 2] * 10, "bernoulli"),
    "texts": (["a", "b", "c"] * 10, "categorical"),
    "signs": ([-1, 0, 1] * 10, "categorical"),
    "stars": (repeated({1: 40, 2: 20, 3: 60, 4: 120, 5: 160}), "categorical"),
    "low stars": (repeated({1: 160, 2: 120, 3: 60, 4: 20, 5: 10}), "categorical"),
    "stages": (repeated({0: 657, 1: 63, 2: 135, 3: 22, 4: 22}), "categorical"),
    "quality of wine": (repeated({3: 10, 4: 53, 5: 681, 6: 638, 7: 199, 8: 18}), "categorical"),
    "counts": (repeated(COUNTS_OF_TWO), "poisson"),
    "counts, few rows": (repeated({n: round(k / 5) for n, k in COUNTS_OF_TWO.items()}), "poisson"),
    "overdispersed counts": (RNG.negative_binomial(1, 1 / 6, 400), "negative-binomial"),
    "many counts": (RNG.negative_binomial(1, 1 / 51, 400), "negative-binomial"),
    "shares": (RNG.beta(2, 3, 100), "beta"),
    "small numbers": (RNG.beta(2, 30, 100), "normal"),
    "prices": (np.exp(scipy.special.ndtri((np.arange(300) + 0.5) / 300)), "log-normal"),
    "times": (-np.log1p(-(np.arange(300) + 0.5) / 300), "gamma"),
    "ages": (RNG.integers(17, 90, 500), "normal"),
    "few whole numbers": (np.arange(12), "normal"),
    "temperatures": (RNG.normal(10, 5, 100), "normal"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_likelihood_suits_the_values(name: str) -> None:
    values, likelihood = TARGETS[name]
    column = pd.Series(values, name="y")
    target = Target.of(column)
    assert target.likelihood == likelihood
    assert likelihood in LIKELIHOODS
    assert target.words.startswith(f"Likelihood: {likelihood} (the target 'y'")
    assert bool(target.classes) == (likelihood in ("bernoulli", "categorical"))
    assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target
    y = target.values(column)
    back = np.array(target.classes)[y] if target.classes else y
    np.testing.assert_array_equal(back, column.map(str) if target.classes else column)
    with_gap = target.values(pd.Series([*values, None], name="y"))
    np.testing.assert_array_equal(with_gap, [*y, np.nan])


def test_ratings_may_be_ordered() -> None:
    assert "ratings, ordinal" in Target.of(pd.Series(TARGETS["stars"][0], name="y")).words
    assert Target.of(pd.Series([10, 9, 1] * 5, name="y"), "ordinal").classes == ("1", "9", "10")
    order = ("low", "mid", "high")
    assert Target.of(pd.Series(order * 5, name="y"), "ordinal", order).classes == order


DATES = pd.date_range("2024", periods=9)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (DATES, {}, "'y' is a date, such as 2024-01-01 00:00:00. Make it a number first"),
        ([1, 1, None], {}, "'y' has one value only: '1'"),
        ([None, None], {}, "'y' has no values"),
        ([f"a{i}" for i in range(9)], {}, "'y' is text of 9 values in 9 rows, such as 'a0', 'a1', 'a2', ...: too many"),
        (["low", "high"] * 5, {"likelihood": "ordinal"}, r"expected an order of the classes \['high', 'low'\], lowest"),
        (["a", "b"] * 5, {"likelihood": "ordinal", "order": ["a", "c"]}, r"got \['a', 'c'\]"),
        (["a", "b"] * 5, {"order": ["a", "b"]}, "An order of classes is for the likelihood ordinal; got None"),
        (["a", "b"] * 5, {"likelihood": "normal"}, "'y' is not numeric; got 'a' in row 0"),
        ([1, 2, 3] * 5, {"likelihood": "bernoulli"}, "has 3 values, not 2"),
        (np.arange(9), {"likelihood": "categorical"}, "9 values in 9 rows"),
        ([1.0, -2.0], {"likelihood": "gamma"}, "expected positive numbers in 'y'; got -2 in row 1, and 1 such"),
        ([1.0, 2.5], {"likelihood": "poisson"}, "expected counts, whole numbers from 0 in 'y'; got 2.5 in row 1"),
        ([0.5, 1.0], {"likelihood": "beta"}, "expected shares between 0 and 1, without both in 'y'; got 1 in row 1"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(values: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target.of(pd.Series(values, name="y"), **options)


def test_new_rows_have_the_classes_of_the_fit() -> None:
    target = Target.of(pd.Series(["a", "b"] * 3, name="y"))
    with pytest.raises(ValueError, match=r"The target 'y', row 7: expected one of \['a', 'b'\]; got 'c'"):
        target.values(pd.Series(["a", "c"], [5, 7], name="y"))
