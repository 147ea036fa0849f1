"""What is taken as rows: the same numbers from every container, and never a y that is broadcast."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis.extra import numpy as arrays
from jax import Array

from flatprior.inference import MAP, fit
from flatprior.inference.checks import as_rows, check_problem
from flatprior.inference.sites import abstract_trace
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

X = np.array([[0.5, 1.0], [-1.5, 0.0], [2.0, 1.0], [0.25, 0.0]])
Y = np.array([0, 1, 1, 0])
LOGISTIC = Model(MLP(), Bernoulli(), gaussian(1.0))

CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "NumPy": (lambda: X, lambda: Y),
    "NumPy, float32": (lambda: X.astype(np.float32), lambda: Y.astype(np.int8)),
    "not contiguous": (lambda: np.asfortranarray(X[::-1])[::-1], lambda: np.repeat(Y, 2)[::2]),
    "JAX": (lambda: jnp.asarray(X), lambda: jnp.asarray(Y)),
    "lists": (X.tolist, Y.tolist),
    "booleans": (lambda: X, lambda: Y.astype(bool)),
    "pandas": (lambda: pd.DataFrame(X, columns=["a", "b"]), lambda: pd.Series(Y)),
    "pandas, an index": (lambda: pd.DataFrame(X, index=[3, 1, 0, 2]), lambda: pd.Series(Y, index=[9, 8, 7, 6])),
    "pandas, nullable": (lambda: pd.DataFrame(X).convert_dtypes(), lambda: pd.Series(Y, dtype="Int64")),
    "pandas, mixed": (lambda: pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(bool)}), lambda: pd.Series(Y == 1)),
    "polars": (lambda: pl.DataFrame(X, schema=["a", "b"]), lambda: pl.Series(Y)),
    "polars, mixed": (lambda: pl.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(bool)}), lambda: pl.Series(Y == 1)),
    "polars, integers beside numbers": (lambda: pl.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(int)}), lambda: Y),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_holds_the_same_rows(name: str) -> None:
    _, rows = check_problem(LOGISTIC, *(make() for make in CONTAINERS[name]))
    x, y = rows.x, rows.y
    assert (x.dtype, y.dtype.kind) == (np.float32, "i")
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


REFUSED: dict[str, tuple[Any, str]] = {
    "text in polars": (pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "x: expected numbers; got object"),
    "dates in polars": (pl.DataFrame({"a": pd.date_range("2020", periods=2)}), "x: expected numbers; got datetime64"),
    "a list of text": (["x", "y"], "x: expected numbers; got <U1"),
    "bytes": (np.array([b"x", b"y"]), "x: expected numbers; got"),
    "a scalar": (1.0, "expected an array with n rows first; got the single number"),
    "None within": ({"a": X, "b": None}, "x: expected numbers; got object"),
    "an empty dictionary": ({}, "x contains no array"),
    "columns of different length": ({"a": X, "b": X[:2]}, r"same number of rows in every leaf; got \[4, 2\]"),
    "a number beyond int64": ([2**70, 1], "x: expected numbers; got object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_rows_is_refused(name: str) -> None:
    value, match = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=match):
        as_rows("x", value)


def test_missing_values_of_frames_are_told_with_their_place() -> None:
    for frame in (pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, None]}), pl.DataFrame({"a": [1, 2], "b": [3, None]})):
        with pytest.raises(ValueError, match=r"x, row 1, column 1: expected finite numbers; got nan"):
            check_problem(LOGISTIC, frame, [0, 1])


def test_columns_of_polars_have_names() -> None:
    found = fit(LOGISTIC, MAP(num_steps=2), pl.DataFrame(X, schema=["age", "income"]), Y, key=0, progress=False)
    assert found.to_datatree()["posterior"].coords["feature"].values.tolist() == ["age", "income"]
    for frame in (pl.DataFrame(X, schema=["income", "age"]), pd.DataFrame(X, columns=["income", "age"])):
        with pytest.raises(ValueError, match=r"the columns \['age', 'income'\], in this order"):
            found.predict(frame)


# Over shapes and types.


def by_hand(x: Array, y: Array | None = None) -> None:
    """Says nothing of shapes: NumPyro would broadcast y against the mean."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(slope * x.reshape(x.shape[0], -1).sum(axis=1), 1.0), obs=y)


MODELS: dict[str, Any] = {
    "by hand": by_hand,
    "Normal": Model(MLP(), Normal(1.0)),
    "Bernoulli": LOGISTIC,
    "Categorical": Model(MLP(), Categorical(3)),
}
TYPES = st.sampled_from(["bool", "int8", "int32", "int64", "uint64", "float16", "float32", "float64"])
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=100, database=None)
@given(st.data())
def test_no_y_is_broadcast(name: str, data: st.DataObject) -> None:
    """Whatever is taken has one log probability for each row of x, and each of them is that of a y of its own."""
    x = np.zeros(data.draw(SHAPES, "shape of x"), data.draw(TYPES, "type of x"))
    shape = data.draw(st.one_of(SHAPES, st.just(x.shape[:1]), st.just((*x.shape[:1], 3))), "shape of y")
    y = data.draw(arrays.arrays(data.draw(TYPES, "type of y"), shape, elements=st.sampled_from([0, 1])), "y")
    try:
        density, rows = check_problem(MODELS[name], x, y)
    except (TypeError, ValueError):
        return
    assert len(rows.x) == len(rows.y) == len(y)
    np.testing.assert_array_equal(rows.y, y)
    soft = name == "Categorical" and y.ndim == 2
    assert y.shape == (len(x), 3) if soft else y.shape == (len(x),)
    site = abstract_trace(MODELS[name], rows.x, rows.y)[density.structure.observed]
    assert site["log_prob_shape"] == (len(x),)


COLUMNS = st.one_of(
    arrays.arrays(np.float64, (3, 2), elements=st.floats(width=64, allow_nan=False)),
    arrays.arrays(np.float64, (3, 2), elements=st.sampled_from([1e8, 1e8 + 1, 1e16, 1e-30, 2e-30, 1e-300, 0.0, 1.0])),
    arrays.arrays(np.int64, (3, 2), elements=st.integers(2**24 - 2, 2**24 + 40)),
    arrays.arrays(np.int64, (3, 2), elements=st.integers(-(2**31), 2**31 - 1)),
)


@settings(deadline=None, max_examples=200, database=None)
@given(COLUMNS)
@example(np.array([[0.0, 1e12], [1.0, 1e12 + 1], [2.0, 1e12 + 2]]))
def test_no_column_becomes_a_constant_in_silence(x: np.ndarray) -> None:
    """In the float32 in which a network computes, a column whose rows differ still has rows that differ."""
    try:
        _, rows = check_problem(MODELS["Normal"], x, np.zeros(3))
    except (TypeError, ValueError):
        return
    with np.errstate(over="ignore"):
        moved = np.ptp(x.astype(object), axis=0) > 0
    assert (np.ptp(np.asarray(rows.x, np.float32), axis=0) > 0)[moved.astype(bool)].all()


@settings(deadline=None, max_examples=200, database=None)
@given(arrays.arrays(TYPES, SHAPES))
@example(np.array([2.0**127 * 4]))
@example(np.array([2**31]))
@example(np.array([-(2**31) - 1]))
@example(np.array([2**63], np.uint64))
def test_no_number_changes_in_silence(values: np.ndarray) -> None:
    """Integers keep their value or raise; reals are rounded to float32, and what is then infinite is found."""
    try:
        rows = as_rows("x", values)
    except (TypeError, ValueError):
        assert values.ndim == 0 or np.abs(values.astype(float)).max() >= 2**31 - 1
        return
    if values.dtype.kind in "biu":
        np.testing.assert_array_equal(np.asarray(rows, object), values.astype(object))
    else:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(rows, values.astype(jax.dtypes.canonicalize_dtype(values.dtype)))
