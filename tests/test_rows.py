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
from scipy.stats import betabinom

from flatprior.inference import MAP, MLE, fit
from flatprior.inference.arrays import as_rows
from flatprior.inference.checks import check_problem
from flatprior.inference.sites import abstract_trace
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

from .tables import some_by_default

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
    assert (x.dtype, y.dtype.kind) == (np.float32, "b" if np.asarray(CONTAINERS[name][1]()).dtype == bool else "i")
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


REFUSED: dict[str, tuple[Any, str]] = {
    "text in polars": (pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "x: expected numbers; got object"),
    "dates in polars": (pl.DataFrame({"a": pd.date_range("2020", periods=2)}), "x: expected numbers; got datetime64"),
    "a list of text": (["x", "y"], "x: expected numbers; got <U1"),
    "keys": (jax.random.split(jax.random.key(0), 4), "x: expected numbers; got an array of key<fry>"),
    "dates with a time zone": (
        pd.Series(pd.date_range("2020", periods=2, tz="UTC")),
        "x: expected numbers; got object",
    ),
    "durations": (pd.Series(pd.to_timedelta([1, 2], "D")), "x: expected numbers; got timedelta64"),
    "numbers as objects": (np.array([1, 2], object), "x: expected numbers; got object"),
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


def test_missing_values_of_frames_are_reported_with_their_place() -> None:
    for frame in (pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, None]}), pl.DataFrame({"a": [1, 2], "b": [3, None]})):
        with pytest.raises(ValueError, match=r"x, row 1, column 1: expected finite numbers; got nan"):
            check_problem(LOGISTIC, frame, [0, 1])


def test_columns_of_polars_have_names() -> None:
    result = fit(LOGISTIC, MAP(num_steps=2), pl.DataFrame(X, schema=["age", "income"]), Y, key=0, progress=False)
    assert result.to_datatree()["posterior"].coords["feature"].values.tolist() == ["age", "income"]
    for frame in (pl.DataFrame(X, schema=["income", "age"]), pd.DataFrame(X, columns=["income", "age"])):
        with pytest.raises(ValueError, match=r"the columns \['age', 'income'\], in this order"):
            result.predict(frame)


def test_columns_of_a_frame_within_x_have_names() -> None:
    frame, model = pd.DataFrame(X, columns=["age", "income"]), by_hand_of_a_frame
    result = fit(model, MAP(num_steps=2), {"people": frame}, Y.astype(float), key=0, progress=False)
    result.predict({"people": frame})
    with pytest.raises(ValueError, match=r"x\['people'\]: expected the columns \['age', 'income'\], in this order"):
        result.predict({"people": frame[["income", "age"]]})


# The type that was passed is the type that a model sees.

SEEN: list[Any] = []


def by_hand_of_a_frame(x: dict[str, Array], y: Array | None = None) -> None:
    by_hand(x["people"], y)


def looks_at_its_type(x: Array, y: Array | None = None) -> None:
    SEEN.append(x.dtype)
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(slope * x.astype(float), 1.0), obs=y)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int32", "float16", "bfloat16", "float32"])
def test_a_model_sees_the_type_that_was_passed(dtype: str) -> None:
    SEEN.clear()
    x = np.array([0, 1, 1, 0]).astype(jnp.dtype(dtype))
    _, rows = check_problem(looks_at_its_type, x, X[:, 0])
    assert {rows.x.dtype, *SEEN} == {jnp.dtype(dtype)}


def of_the_untreated(x: dict[str, Array], y: Array | None = None) -> None:
    level, effect = (numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("level", "effect"))
    numpyro.sample("y", dist.Normal(level + effect * ~x["treated"], 1.0), obs=y)


def wraps_around(x: dict[str, Array], y: Array | None = None) -> None:
    """Steps on a ring of 256, as uint8 counts them: from 250 to 4 it is 10."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(slope * (x["to"] - x["from"]).astype(float) / 10, 1.0), obs=y)


def test_masks_and_unsigned_integers_are_computed_with_as_such() -> None:
    treated, y = np.array([True, True, False, False]), np.array([1.0, 1.2, 3.0, 3.4])
    result = fit(of_the_untreated, MLE(num_steps=200), {"treated": treated}, y, key=0, progress=False)
    weights = {name: value.item() for name, value in result.draws.items()}
    assert weights == pytest.approx({"level": 1.1, "effect": 2.1}, abs=1e-3)
    # New rows of another type are those of the fit.
    np.testing.assert_array_equal(
        result.predict({"treated": [1, 0]}).mean, result.predict({"treated": treated[1:3]}).mean
    )
    with pytest.raises(ValueError, match=r"x\['treated'\], row 1: expected a boolean, or 0 or 1, .* in the fit; got 2"):
        result.predict({"treated": [0, 2]})
    ring = {"from": np.array([250, 3, 9], np.uint8), "to": np.array([4, 13, 19], np.uint8)}
    around = fit(wraps_around, MLE(num_steps=200), ring, np.array([1.0, 2.0, 3.0]), key=0, progress=False)
    assert around.draws["slope"].item() == pytest.approx(2.0, abs=1e-3)
    assert around.predict({"from": [250], "to": [4.0]}).mean == pytest.approx(2.0, abs=1e-3)


@pytest.mark.slow
def test_networks_take_booleans_and_narrow_integers() -> None:
    x = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    fits = [
        fit(LOGISTIC, MAP(num_steps=20, polish=False), x.astype(dtype), Y, key=0, progress=False)
        for dtype in ("float32", "bool", "uint8", "float16")
    ]
    for result in fits[1:]:
        np.testing.assert_allclose(result.log_likelihood(x, Y), fits[0].log_likelihood(x, Y), rtol=1e-5)
    assert fits[2].predict(x + 0.5).probs.shape == (4,)  # a network computes with numbers, whatever their type


def counted(x: Array, y: Array | None = None) -> None:
    """Successes among 255 trials: NumPyro computes 255 + 1, and 255 - y, in the type of y."""
    a = numpyro.sample("a", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.BetaBinomial(a * jnp.ones(x.shape[0]), 1.0, 255), obs=y)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_counts_are_scored_alike_in_every_type(dtype: str) -> None:
    y = np.array([255, 250, 1, 0], dtype)
    density, rows = check_problem(counted, X, y)
    log_probs = density.row_log_probs({"a": jnp.array(2.0)}, rows)
    np.testing.assert_allclose(log_probs, betabinom.logpmf(y.astype(int), 255, 2.0, 1.0), rtol=1e-4)


@pytest.mark.slow
def test_narrow_counts_are_scored_by_a_fit() -> None:
    result = fit(
        counted, MAP(num_steps=2, polish=False), X, np.array([255, 250, 1, 0], np.uint8), key=0, progress=False
    )
    new = np.array([255, 255, 0, 1])
    np.testing.assert_array_equal(result.log_likelihood(X, new.astype(np.uint8)), result.log_likelihood(X, new))


@pytest.mark.parametrize("model", [LOGISTIC, Model(MLP(), Categorical(2), gaussian(1.0))])
def test_booleans_of_y_are_scored_as_0_and_1(model: Model) -> None:
    (booleans, _), (numbers, _) = problems = [check_problem(model, X, y) for y in (Y == 1, Y)]
    weights = {"w1": jnp.ones((2, 1 if model is LOGISTIC else 2)), "b1": jnp.zeros(1 if model is LOGISTIC else 2)}
    scores = [density.row_log_probs(weights, rows) for density, rows in problems]
    assert booleans == numbers
    np.testing.assert_array_equal(*scores)


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


@pytest.mark.parametrize("name", some_by_default(MODELS, "Categorical", "by hand"))
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
    site = abstract_trace(MODELS[name], rows.x, rows.y)[density.structure.response.site]
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
