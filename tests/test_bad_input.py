"""What is wrong with the input is said before anything is compiled; a fit that fails says so in its status."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from jax import Array
from scipy.sparse import csr_matrix

from flatprior.inference import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    SGMCMC,
    Conditional,
    Ensemble,
    FailedFitWarning,
    Laplace,
    Variational,
    compare,
    fit,
    flat,
    log_density,
)
from flatprior.inference.checks import check_problem
from flatprior.models import MLP, Bernoulli, Categorical, CategoricalSequence, Model, Normal, fan_in, gaussian

from .tables import some_by_default

X = np.random.default_rng(0).normal(size=(20, 2))
REAL = X @ [1.0, -1.0] + 0.1
BINARY = (np.random.default_rng(1).random(20) < 0.5).astype(int)
CLASSES = np.arange(20) % 3

LINEAR, LOGISTIC, SOFTMAX = Model(MLP(), Normal(1.0)), Model(MLP(), Bernoulli()), Model(MLP(), Categorical(3))


def put(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    """A copy with one value changed."""
    array = np.array(array, float)
    array[index] = value
    return array


def fitted(
    model: Any = LINEAR, x: Any = X, y: Any = REAL, method: Any = None, key: Any = 0, weights: Any = None
) -> Any:
    method = MAP(num_steps=20, polish=False) if method is None else method
    return fit(model, method, x, y, weights=weights, key=key, progress=False)


# Models written by hand, each with a mistake that NumPyro takes without a word.


def column_for_a_vector(x: Array, y: Array | None = None) -> None:
    """Outputs (n, 1) against y (n,): an (n, n) log probability."""
    numpyro.sample("y", dist.Normal(MLP()(x), 1.0), obs=y)


def vector(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def forgets_obs(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0))


def only_a_factor(x: Array, y: Array | None = None) -> None:
    """A term of the density, but no distribution of y: nothing could be predicted or scored."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.factor("loss", -((y - w * x[:, 0]) ** 2).sum())


def observes_two(x: Array, y: Any = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    y = {"first": None, "second": None} if y is None else y
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("first", dist.Normal(w * x[:, 0], 1.0), obs=y["first"])
        numpyro.sample("second", dist.Bernoulli(logits=w * x[:, 0]), obs=y.get("second"))


def observes_the_other(x: Array, y: Any = None) -> None:
    observes_two(x, None if y is None else {"first": y["second"] * 1.0, "second": y["first"] > 0})


def first_given_second(x: Array, y: Any = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        second = numpyro.sample("second", dist.Bernoulli(0.5), obs=None if y is None else y["second"])
        numpyro.sample("first", dist.Normal(w * second, 1.0), obs=None if y is None else y["first"])


def observes_twice(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)
        numpyro.sample("again", dist.Normal(w, 1.0), obs=y)


def discrete(x: Array, y: Array | None = None) -> None:
    k = numpyro.sample("k", dist.Poisson(2.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(k * x[:, 0], 1.0), obs=y)


def weights_inside_the_plate(x: Array, y: Array | None = None) -> None:
    with numpyro.plate("row", x.shape[0]):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def no_latents(x: Array, y: Array | None = None) -> None:
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)


def summed(x: Array, y: Array | None = None) -> None:
    """One event of all rows has one log probability, and no row can be left out or scored."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0).to_event(1), obs=y)


def ignores_y(x: Array, y: Array | None = None) -> None:
    """Observes a column of x in the place of y."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=x[:, 1])


def asks_y_for_its_rows(x: Array, y: Array | None = None) -> None:
    """Nothing could be predicted: there y is None."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def another_site_without_y(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    extra = numpyro.sample("extra", dist.Normal(0.0, 1.0)) if y is None else 0.0
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0] + extra, 1.0), obs=y)


def no_site_without_y(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    if y is not None:
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def one_distribution_for_all_rows(x: Array, y: Array | None = None) -> None:
    """With y it is broadcast; a prediction would have no rows."""
    numpyro.sample("y", dist.Normal(numpyro.sample("w", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def a_weight_for_each_row(x: Array, y: Array | None = None) -> None:
    """As one event, and so in no plate."""
    z = numpyro.sample("z", dist.Normal(jnp.zeros(x.shape[0]), 1.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


CALLS_SO_FAR: list[int] = []


def counts_its_calls(x: Array, y: Array | None = None) -> None:
    CALLS_SO_FAR.append(1)
    w = numpyro.sample("w", dist.Normal(0.0, float(len(CALLS_SO_FAR))))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def noise_of_numpy(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0] + np.random.normal(size=x.shape[0]), 1.0), obs=y)  # noqa: NPY002


def takes_another_way_each_time(x: Array, y: Array | None = None) -> None:
    CALLS_SO_FAR.append(1)
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    mean = w * x[:, 0] if len(CALLS_SO_FAR) % 2 else w + x[:, 0]
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


KEPT: list[Any] = []


def keeps_a_value(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    KEPT.append(w)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(KEPT[0] * x[:, 0], 1.0), obs=y)


def branches(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    if w > 0:
        w = 2 * w
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def computes_in_numpy(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(np.exp(w) * x[:, 0], 1.0), obs=y)


def negative_scale(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], -1.0), obs=y)


def one_name_twice(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0)) + numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)


def of_x_alone(x: Array) -> None:
    numpyro.sample("y", dist.Normal(x[:, 0], 1.0))


def trials(x: dict[str, Array], y: Array | None = None) -> None:
    """Successes among a number of trials in each row."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x["z"].shape[0]):
        numpyro.sample("y", dist.Binomial(x["trials"], logits=w * x["z"]), obs=y)


def above_a_limit(x: Array, y: Array | None = None) -> None:
    """Numbers above a limit of their own, and below one that is learned."""
    w = numpyro.sample("w", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Uniform(x[:, 0], x[:, 0] + 10 * w), obs=y)


def classes_by_hand(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=x[:, :1] * w), obs=y)


TRIALS = {"trials": np.arange(20) % 4 + 1, "z": X[:, 0]}
SUCCESSES = np.arange(20) % 4

Case = tuple[Callable[[], Any], type[Exception], str]
DATA: dict[str, Case] = {
    "y (n, 1)": (lambda: fitted(y=REAL[:, None]), ValueError, r"y of shape \(20,\).* got \(20, 1\).*y\[:, 0\]"),
    "y (n, 1) by hand": (
        lambda: fitted(vector, y=REAL[:, None]),
        ValueError,
        r"got \(20, 20\), from y of shape \(20, 1\)",
    ),
    "outputs (n, 1) by hand": (lambda: fitted(column_for_a_vector), ValueError, r"shape \(20,\); got \(20, 20\)"),
    "y (1, n)": (lambda: fitted(y=REAL[None]), ValueError, r"as many rows in y as in x, 20; got y of shape \(1, 20\)"),
    "y of length 1": (lambda: fitted(y=REAL[:1]), ValueError, "as many rows in y as in x, 20"),
    "y of length 1 by hand": (lambda: fitted(vector, y=REAL[:1]), ValueError, "as many rows in y as in x, 20"),
    "y a number": (lambda: fitted(y=1.0), ValueError, "y: expected an array with n rows first; got the single number"),
    "y None": (lambda: fitted(y=None), TypeError, "y is None"),
    "x None": (lambda: fitted(x=None), TypeError, "x is None"),
    "a leaf of x None": (lambda: fitted(x={"a": X, "b": None}), TypeError, "x: expected numbers; got object"),
    "x an empty dictionary": (lambda: fitted(x={}), TypeError, "x contains no array"),
    "y shorter": (lambda: fitted(y=REAL[:-1]), ValueError, r"as many rows in y as in x, 20; got y of shape \(19,\)"),
    "leaves differ": (
        lambda: fitted(x={"a": X, "b": X[:5]}),
        ValueError,
        r"x: expected the same number of rows in every leaf; got \[20, 5\]",
    ),
    "no rows": (lambda: fitted(x=X[:0], y=REAL[:0]), ValueError, r"x has no rows: got shape \(0, 2\)"),
    "x a vector": (lambda: fitted(x=X[:, 0]), ValueError, r"x\[:, None\]"),
    "NaN in x": (lambda: fitted(x=put(X, (7, 1), np.nan)), ValueError, r"x, row 7, column 1: .* got nan \(1 such"),
    "infinity in x": (lambda: fitted(x=put(X, (3, 0), -np.inf)), ValueError, "x, row 3, column 0: .* got -inf"),
    "NaN in a leaf of x": (
        lambda: fitted(lambda x, y=None: LINEAR(x["z"], y), x={"z": put(X, (7, 1), np.nan)}),
        ValueError,
        r"x\['z'\], row 7, column 1: expected finite",
    ),
    "overflow of float32": (lambda: fitted(x=put(X, (2, 1), 1e39)), ValueError, "x, row 2, column 1: .* got inf"),
    "no y": (lambda: fitted(y=np.full(20, np.nan)), ValueError, "y: expected labels in some rows; got only missing"),
    "weights of another length": (lambda: fitted(weights=np.ones(3)), ValueError, r"weights: expected .*\(20,\)"),
    "a negative weight": (
        lambda: fitted(weights=put(np.ones(20), 3, -1.0)),
        ValueError,
        "weights, row 3: expected a finite number of at least 0; got -1",
    ),
    "no weight": (lambda: fitted(weights=np.zeros(20)), ValueError, "rows with a label and a positive weight"),
    "NaN in a data frame": (
        lambda: fitted(x=pd.DataFrame(put(X, (7, 1), np.nan), columns=["a", "b"])),
        ValueError,
        "x, row 7, column 1",
    ),
    "label out of range": (
        lambda: fitted(SOFTMAX, y=put(CLASSES, 5, 3).astype(int)),
        ValueError,
        r"y, row 5: expected an integer from 0 to 2; got 3; the values of y are \[0, 1, 2, 3\]. There are 4 classes",
    ),
    "labels from 1": (lambda: fitted(SOFTMAX, y=CLASSES + 1), ValueError, "from 0 to 2; got 3; .* from 0"),
    "labels 1 and 2": (
        lambda: fitted(LOGISTIC, y=BINARY + 1),
        ValueError,
        r"expected 0 or 1; got 2; the values of y are \[1, 2\]. Number the classes from 0",
    ),
    "labels -1 and 1": (lambda: fitted(LOGISTIC, y=2 * BINARY - 1), ValueError, r"expected 0 or 1; got -1"),
    "probabilities for a Bernoulli": (
        lambda: fitted(LOGISTIC, y=np.full(20, 0.3)),
        ValueError,
        "expected 0 or 1; got 0.3",
    ),
    "float labels": (lambda: fitted(SOFTMAX, y=CLASSES.astype(float)), TypeError, r"integer labels.*y\.astype\(int\)"),
    "float labels of a Categorical by hand": (
        lambda: fitted(classes_by_hand, y=CLASSES.astype(float)),
        TypeError,
        r"'y': expected y to be integers, .*; got float32 in every row. Use y\.astype\(int\)",
    ),
    "more successes than trials": (
        lambda: fitted(trials, TRIALS, put(SUCCESSES, 6, 4).astype(int)),
        ValueError,
        "y, row 6: expected an integer from 0 to 3, the bounds of its distribution in this row; got 4",
    ),
    "y below the limit of its row": (
        lambda: fitted(above_a_limit, y=put(X[:, 0] + 1, 5, -9)),
        ValueError,
        r"y, row 5: expected a number from -?\d\.\d+, the bounds of its distribution in this row; got -9",
    ),
    "soft labels that do not sum to 1": (
        lambda: fitted(SOFTMAX, y=np.full((20, 3), 0.5)),
        ValueError,
        "y, row 0: expected probabilities that sum to 1",
    ),
    "text labels": (
        lambda: fitted(LOGISTIC, y=np.where(BINARY, "yes", "no")),
        TypeError,
        "y: expected numbers; got <U3",
    ),
    "text in a data frame": (
        lambda: fitted(x=pd.DataFrame({"a": X[:, 0], "city": ["x"] * 20})),
        TypeError,
        "x: expected numbers; got object .*city.* Encode text",
    ),
    "a series of text": (lambda: fitted(y=pd.Series(["a"] * 20)), TypeError, "y: expected numbers; got object"),
    "an array of objects": (lambda: fitted(x=np.full((20, 2), None)), TypeError, "x: expected numbers; got object"),
    "dates": (
        lambda: fitted(y=pd.Series(pd.date_range("2020", periods=20))),
        TypeError,
        "expected numbers; got datetime64",
    ),
    "ragged lists": (lambda: fitted(x=[[1.0, 2.0], [3.0]] * 10), (TypeError, ValueError), "x|inhomogeneous"),
    "complex x": (lambda: fitted(x=X + 1j), TypeError, "x: expected numbers; got complex128"),
    "an integer that does not fit": (lambda: fitted(y=np.full(20, 2**40)), ValueError, "y, row 0: .* to 2147483647"),
    "an offset that drowns a column": (
        lambda: fitted(x=X + [0.0, 1e4]),
        ValueError,
        "x, column 1: expected .* in float32; got mean 1e\\+04, .*Subtract the mean",
    ),
    "an offset by which all of a column is one number in float32": (
        lambda: fitted(x=X + [0.0, 1e12]),
        ValueError,
        "x, column 1: expected .* in float32; got mean 1e\\+12, sd 0",
    ),
    "integers that are as good as equal in float32": (
        lambda: fitted(x=np.c_[np.arange(20), 2**24 + np.arange(20)]),
        ValueError,
        r"x, column 1: expected \|mean\| < 2,896 range in float32; got mean 1\.678e\+07, range 19",
    ),
    "an offset in a leaf of x": (
        lambda: fitted(lambda x, y=None: LINEAR(x["z"], y), x={"z": X + 1e6}),
        ValueError,
        r"x\['z'\], column 0: expected",
    ),
    "an offset in y": (
        lambda: fitted(y=REAL + 1e8),
        ValueError,
        r"y: expected \|mean\| < 83,886 sd in float32; got mean 1e\+08, .* Subtract the mean",
    ),
    "integers of y that are rounded": (
        lambda: fitted(y=2**24 + np.arange(20)),
        ValueError,
        "y: expected .* rounded to multiples of 2",
    ),
    "x of scale 1e20": (
        lambda: fitted(x=X * [1.0, 1e20]),
        ValueError,
        r"x, row \d+, column 1: expected numbers up to 1\.8e\+19, whose squares .* Divide by",
    ),
    "x of scale 1e-20": (
        lambda: fitted(x=X * [1.0, 1e-20]),
        ValueError,
        r"x, column 1: expected numbers of at least 1\.1e-19, whose squares are not 0 in float32; got",
    ),
    "y of scale 1e20": (lambda: fitted(y=REAL * 1e20), ValueError, r"y, row \d+: expected numbers up to 1\.8e\+19"),
    "x transposed": (
        lambda: fitted(x=X.T),
        ValueError,
        r"as many rows in y as in x, 2; .* If x is transposed, use x\.T",
    ),
    "x (1, n)": (lambda: fitted(x=X[:, :1].T), ValueError, r"in x, 1; got y of shape \(20,\)\. If x is transposed"),
    "y (1, n), with a cure": (lambda: fitted(y=REAL[None]), ValueError, r"If y is transposed, use y\[0\]"),
    "y (n, 2)": (lambda: fitted(y=np.c_[REAL, REAL]), ValueError, r"y of shape \(20,\).* got \(20, 2\)"),
    "y a column of a data frame": (
        lambda: fitted(y=pd.DataFrame({"y": REAL})),
        ValueError,
        r"got \(20, 1\)\. Use y\[:, 0\]",
    ),
    "x a number": (
        lambda: fitted(x=1.0),
        ValueError,
        "x: expected an array with n rows first; got the single number 1.0",
    ),
    "x empty columns": (lambda: fitted(x=X[:, :0], y=REAL[:0]), ValueError, "y has no rows|as many rows"),
    "masked values": (
        lambda: fitted(x=np.ma.masked_array(X, mask=[[False, True]] + 19 * [[False, False]])),
        ValueError,
        "x, row 0, column 1: expected no masked values; got 1. Drop or impute",
    ),
    "masked x": (
        lambda: fitted(x=np.ma.masked_less(X, -1.0)),
        ValueError,
        r"x, row \d+, column \d: expected no masked values",
    ),
    "a sparse matrix": (
        lambda: fitted(x=csr_matrix(X)),
        TypeError,
        r"x: expected a dense array; got a csr_matrix. Use x.toarray\(\)",
    ),
    "the name of a file": (
        lambda: fitted(x="data.csv"),
        TypeError,
        "x: expected numbers in an array.* got str 'data.csv'",
    ),
    "a generator": (lambda: fitted(x=(row for row in X)), TypeError, "x: expected numbers in an array.* got generator"),
    "a set": (
        lambda: fitted(y=set(REAL)),
        TypeError,
        "y: expected numbers in an array, a list or a data frame; got set",
    ),
    "categories of pandas": (
        lambda: fitted(SOFTMAX, y=pd.Series(list("abcab" * 4), dtype="category")),
        TypeError,
        r"y: expected numbers; got object \('a', row 0\).* by np\.unique\(y, return_inverse=True\)\[1\]",
    ),
    "one text among numbers": (
        lambda: fitted(x=np.array([[1.0, 2.0], [3.0, "?"]] * 10, object)),
        TypeError,
        r"x: expected numbers; got object \('\?', row 1, column 1\)",
    ),
    "infinity in y": (lambda: fitted(y=put(REAL, 4, np.inf)), ValueError, "y, row 4: expected finite numbers; got inf"),
    "an integer of x that does not fit": (
        lambda: fitted(x=np.full((20, 2), 2**40)),
        ValueError,
        r"x, row 0, column 0: expected integers from -2147483648 to 2147483647 \(int32\); got 1099511627776",
    ),
    "labels beyond int32": (
        lambda: fitted(SOFTMAX, y=put(CLASSES, 3, 2**31).astype(np.int64)),
        ValueError,
        "y, row 3: expected integers from -2147483648 to 2147483647",
    ),
    "negative labels": (lambda: fitted(SOFTMAX, y=CLASSES - 1), ValueError, "y, row 0: expected an integer .* got -1"),
    "soft labels below 0": (
        lambda: fitted(SOFTMAX, y=np.tile([1.5, -0.5, 0.0], (20, 1))),
        ValueError,
        "y, row 0: expected probabilities that sum to 1",
    ),
    "soft labels of another number of classes": (
        lambda: fitted(SOFTMAX, y=np.full((20, 2), 0.5)),
        ValueError,
        r"y of shape \(20,\).*or, for soft labels, \(20, 3\); got \(20, 2\)",
    ),
}

MISTAKES: dict[str, Case] = {
    "obs forgotten": (lambda: fitted(forgets_obs), ValueError, r"an observed site; got none.*obs=y"),
    "only a factor": (lambda: fitted(only_a_factor), ValueError, "an observed site; got none"),
    "two observed sites": (
        lambda: fitted(observes_twice),
        ValueError,
        r"{'y': ..., 'again': ...}; got one array.*obs=y\['y'\]",
    ),
    "two observed sites, one array": (
        lambda: fitted(observes_two),
        TypeError,
        r"rows under the name 'first', which the model takes, in line .*; got one array",
    ),
    "rows of one of two sites": (
        lambda: fitted(observes_two, y={"first": REAL}),
        ValueError,
        r"{'first': ..., 'second': ...}; got the keys \['first'\]",
    ),
    "rows of a third site": (
        lambda: fitted(observes_two, y={"first": REAL, "second": BINARY, "third": REAL}),
        ValueError,
        r"{'first': ..., 'second': ...}; got the keys \['first', 'second', 'third'\]",
    ),
    "rows of another site": (
        lambda: fitted(observes_the_other, y={"first": REAL, "second": BINARY}),
        ValueError,
        r"'first': expected its value to come from y\['first'\] alone; got one that depends on y\['second'\]",
    ),
    "a site that depends on another": (
        lambda: fitted(first_given_second, y={"first": REAL, "second": BINARY}),
        ValueError,
        "Observed site 'first': expected rows that are independent .* depend on y",
    ),
    "a label of one of two sites": (
        lambda: fitted(observes_two, y={"first": REAL, "second": BINARY + 1}),
        ValueError,
        r"y\['second'\], row \d+: expected 0 or 1; got 2",
    ),
    "units of one of two sites": (
        lambda: fitted(observes_two, y={"first": 1e9 + REAL, "second": BINARY}),
        ValueError,
        r"y\['first'\]: expected \|mean\| <",
    ),
    "a discrete weight": (lambda: fitted(discrete), ValueError, "Latent site 'k' is discrete"),
    "weights inside the plate": (
        lambda: fitted(weights_inside_the_plate),
        ValueError,
        "Latent site 'w' is sampled inside the plate 'row' of the data: one weight per row",
    ),
    "nothing to fit": (lambda: fitted(no_latents), ValueError, r"latent sites to fit; got only \['row', 'y'\]"),
    "one event of all rows": (
        lambda: fitted(summed),
        ValueError,
        r"one log probability each; got one for all 20 rows .*Leave out .to_event\(1\)",
    ),
    "keys of a prior": (
        lambda: fitted(Model(MLP((3,)), Normal(1.0), {"kernel": gaussian(), "*": gaussian()})),
        ValueError,
        r"keys \['kernel'\] match no site; the sites are",
    ),
    "sites without a prior": (
        lambda: fitted(Model(MLP(), Normal(1.0), {"w*": gaussian()})),
        ValueError,
        r"sites \['b1'\]",
    ),
    "no model": (lambda: fitted("model"), TypeError, r"a function model\(x, y=None\); got 'model'"),
    "a class as model": (lambda: fitted(Model), TypeError, r"Expected a NumPyro model"),
    "a network as model": (lambda: fitted(MLP()), TypeError, "Raised by the model when called as"),
    "y ignored": (lambda: fitted(ignores_y), ValueError, "Observed site 'y': expected its value to come from y"),
    "rows counted by y": (
        lambda: fitted(asks_y_for_its_rows),
        ValueError,
        r"runs without y, .* raised AttributeError: .*, in line \d+ of test_bad_input.py: .* such as x\.shape\[0\]",
    ),
    "another site without y": (
        lambda: fitted(another_site_without_y),
        ValueError,
        r"it has the sites \['extra'\] as well",
    ),
    "no site without y": (lambda: fitted(no_site_without_y), ValueError, "without y it has no site 'y'"),
    "one distribution for all rows": (
        lambda: fitted(one_distribution_for_all_rows),
        ValueError,
        r"'y': expected a distribution for each row of x, batch shape \(21,\) without y; got \(\)",
    ),
    "a weight for each row": (
        lambda: fitted(a_weight_for_each_row),
        ValueError,
        r"Latent site 'z' has shape \(20,\) for 20 rows and \(21,\) for 21: one weight per row",
    ),
    "a counter": (
        lambda: fitted(counts_its_calls),
        ValueError,
        r"in a second call .* the log probability of 'w' is computed with other constants",
    ),
    "random numbers of NumPy": (
        lambda: fitted(noise_of_numpy),
        ValueError,
        "the log probability of 'y' is computed with other constants.*by numpyro.sample",
    ),
    "another way each time": (
        lambda: fitted(takes_another_way_each_time),
        ValueError,
        "the log probability of 'y' is computed by other operations",
    ),
    "a value of an earlier call": (
        lambda: fitted(keeps_a_value),
        TypeError,
        "stores no values between calls, .* it uses one from another call",
    ),
    "a branch on a weight": (
        lambda: fitted(branches),
        TypeError,
        r"as a Python value, in line \d+ of test_bad_input.py: `if w > 0:` \(TracerBool.*jnp\.where",
    ),
    "NumPy on a weight": (
        lambda: fitted(computes_in_numpy),
        TypeError,
        r"as a Python value, in line \d+ .*np\.exp\(w\).*for np\.exp jnp\.exp",
    ),
    "a negative scale": (
        lambda: fitted(negative_scale),
        ValueError,
        r"Expected a positive number as the parameter 'scale' of the distribution Normal, in line \d+ of test_bad",
    ),
    "one name twice": (lambda: fitted(one_name_twice), ValueError, "a name of its own; got 'w' twice, in line .*scope"),
    "a model of x alone": (
        lambda: fitted(of_x_alone),
        TypeError,
        r"model\(x, y=None\); got of_x_alone\(x: .*\) -> None: too many positional arguments",
    ),
}
PARTS: dict[str, Case] = {
    "a scale of 0": (lambda: Normal(scale=0.0), ValueError, r"Normal: expected a positive number, .* got 0\.0"),
    "a scale below 0": (lambda: Normal(scale=-1.0), ValueError, r"Normal: expected a positive number, .* got -1\.0"),
    "a scale that is no number": (
        lambda: Normal(scale=np.nan),
        ValueError,
        "Normal: expected a positive number, .* nan",
    ),
    "a scale of another name": (lambda: Normal(scale="net"), ValueError, "or 'network' as scale; got 'net'"),
    "a prior of the scale on the whole line": (
        lambda: Normal(scale=dist.Normal(0.0, 1.0)),
        ValueError,
        r"over positive numbers, such as HalfNormal\(1\.0\); got Normal of shape \(\) on Real",
    ),
    "one class": (lambda: Categorical(1), ValueError, "Categorical: expected at least 2 classes; got 1"),
    "classes as a float": (lambda: Categorical(3.0), ValueError, r"Categorical: expected at least 2 classes; got 3\.0"),
    "padding that is a token": (lambda: CategoricalSequence(4, padding=2), ValueError, "a padding that is none of"),
    "a prior of scale 0": (lambda: gaussian(0.0), ValueError, r"gaussian: expected a positive finite scale; got 0\.0"),
    "a fan-in prior of scale 0": (
        lambda: fan_in(0.0),
        ValueError,
        r"fan_in: expected a positive finite scale; got 0\.0",
    ),
    "a width of 0": (lambda: MLP((0,)), ValueError, r"MLP: expected positive integers as widths; got \(0,\)"),
    "a width that is no sequence": (lambda: MLP(16), ValueError, "MLP: expected a sequence of widths"),
    "an activation that is none": (lambda: MLP((3,), "sillu"), ValueError, "or one of relu, .* got 'sillu'"),
    "a prior that is none": (lambda: Model(MLP(), Normal(), "wide"), TypeError, "Expected a prior: .* got 'wide'"),
    "an observation that is none": (lambda: Model(MLP(), MLP()), TypeError, r"an observation such as Bernoulli\(\)"),
}

CALLS: dict[str, Case] = {
    "no key": (lambda: fit(LINEAR, MAP(), X, REAL), TypeError, "missing 1 required keyword-only argument: 'key'"),
    "key None": (lambda: fitted(key=None), TypeError, r"an integer seed or one typed key.*; got None"),
    "key a boolean": (lambda: fitted(key=True), TypeError, "an integer seed or one typed key.*; got True"),
    "key a float": (lambda: fitted(key=0.0), TypeError, "an integer seed or one typed key.*; got 0.0"),
    "key of the old kind": (
        lambda: fitted(key=np.array([0, 1], np.uint32)),
        TypeError,
        "an integer seed or one typed key",
    ),
    "several keys": (lambda: fitted(key=jax.random.split(jax.random.key(0))), TypeError, "one typed key"),
    "method a class": (lambda: fitted(method=MAP), TypeError, r"a method such as MLE\(\), .* got <class"),
    "method text": (lambda: fitted(method="MAP"), TypeError, r"a method such as MLE\(\), .* got 'MAP'"),
    "an unknown setting": (lambda: MLE(learning_rate=0.1), TypeError, "learning_rate"),
    "AdamW": (lambda: MLE(optimizer=optax.adamw(1e-3)), ValueError, "MLE: the optimiser .* weight decay, a prior"),
    "lion": (lambda: MAP(optimizer=optax.lion(1e-3)), ValueError, "MAP: the optimiser .* weight decay"),
    "a chain with decay": (
        lambda: MAP(optimizer=optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1))),
        ValueError,
        "weight decay",
    ),
    "decay after a schedule": (
        lambda: MAP(optimizer=optax.adamw(optax.linear_schedule(0.0, 1e-3, 100), weight_decay=1e-4)),
        ValueError,
        "weight decay",
    ),
    "L-BFGS": (lambda: MAP(optimizer=optax.lbfgs()), ValueError, "MAP: expected an optimiser that uses only gradients"),
    "an optimiser of NumPyro": (
        lambda: MAP(optimizer=numpyro.optim.Adam(1e-3)),
        ValueError,
        "an optax optimiser such as",
    ),
    "a number as optimiser": (lambda: MAP(optimizer=1e-3), ValueError, r"an optax optimiser such as .* got 0\.001"),
    "negative steps": (lambda: MLE(num_steps=-1), ValueError, "MLE: expected a positive integer as num_steps; got -1"),
    "no steps": (lambda: MAP(num_steps=0), ValueError, "MAP: expected a positive integer as num_steps; got 0"),
    "float steps": (lambda: MAP(num_steps=1e3), ValueError, r"a positive integer as num_steps; got 1000\.0"),
    "no restarts": (lambda: MAP(num_restarts=0), ValueError, "a positive integer as num_restarts; got 0"),
    "batch of 0": (lambda: MAP(batch_size=0), ValueError, "a positive integer as batch_size; got 0"),
    "batch larger than the data": (lambda: fitted(method=MAP(batch_size=21)), ValueError, "batch_size.*21.*20|20.*21"),
    "all rows validate": (lambda: MAP(validation_fraction=1.0), ValueError, "0 <= validation_fraction < 1; got 1.0"),
    "negative validation": (lambda: MLE(validation_fraction=-0.1), ValueError, "validation_fraction < 1; got -0.1"),
    "no row is left to fit": (lambda: fitted(method=MAP(validation_fraction=0.99)), ValueError, "validation_fraction"),
    "a flat prior": (
        lambda: fitted(flat(LINEAR), method=NUTS()),
        ValueError,
        "NUTS: the prior is flat.*improper_ok",
    ),
    "negative warm-up": (lambda: NUTS(num_warmup=-1), ValueError, "at least 0 as num_warmup; got -1"),
    "no draws": (lambda: NUTS(num_samples=0), ValueError, "a positive integer as num_samples; got 0"),
    "no chains": (lambda: NUTS(num_chains=0), ValueError, "a positive integer as num_chains; got 0"),
    "acceptance of 1": (lambda: NUTS(target_accept_prob=1.0), ValueError, "0 < target_accept_prob < 1; got 1.0"),
    "trees of depth 0": (
        lambda: NUTS(max_tree_depth=0),
        ValueError,
        "NUTS: expected a positive integer as max_tree_depth",
    ),
    "chains that start from MLE": (
        lambda: fitted(method=NUTS(start=MLE())),
        ValueError,
        r"Expected MAP\(\.\.\.\), which has the same density, or None as start; got MLE",
    ),
    "chains that start from text": (
        lambda: fitted(method=MCLMC(start="x")),
        ValueError,
        r"MAP\(\.\.\.\).* as start.* got 'x'",
    ),
    "an ensemble of chains": (lambda: Ensemble(base=NUTS()), ValueError, r"Ensemble: expected MAP\(\.\.\.\) or MLE"),
    "a Gaussian around chains": (lambda: Laplace(base=NUTS()), ValueError, r"Laplace: expected MAP\(\.\.\.\) as base"),
    "a condition on chains": (
        lambda: Conditional(base=NUTS(), sites=("w1",)),
        ValueError,
        r"Conditional: expected MAP\(\.\.\.\) or MLE\(\.\.\.\) as base",
    ),
    "sites that are not there": (
        lambda: fitted(method=Conditional(sites=("w9",))),
        ValueError,
        r"Conditional: the patterns \['w9'\] match no site; the sites are \['w1', 'b1'\]",
    ),
}
UNKNOWN = (MLE, MAP, Ensemble, Laplace, NUTS, MCLMC, SGMCMC, Variational, Conditional)
CALLS |= {
    f"an unknown setting of {method.__name__}": (lambda method=method: method(draws=3), TypeError, "'draws'")
    for method in UNKNOWN
}
COUNTS = {
    MLE: "num_steps",
    MAP: "num_restarts",
    Ensemble: "num_members",
    Laplace: "num_samples",
    NUTS: "num_samples",
    MCLMC: "num_samples",
    SGMCMC: "batch_size",
    Variational: "num_steps",
}
CALLS |= {
    f"{value!r} as {name} of {method.__name__}": (
        lambda method=method, name=name, value=value: method(**{name: value}),
        ValueError,
        f"{method.__name__}: expected a.* integer.* as {name}; got {value!r}",
    )
    for method, name in COUNTS.items()
    for value in (10.0, "10", None, True)
    if not (value is None and name == "num_restarts")  # as many as are cheap
}


@pytest.fixture(scope="module")
def linear() -> Any:
    """A fit to a data frame, which has names for its columns."""
    return fitted(x=pd.DataFrame(X, columns=["a", "b"]))


PREDICTIONS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "y given": (lambda result: result.predict(X, REAL), TypeError, "positional argument"),
    "too few columns": (
        lambda result: result.predict(X[:, :1]),
        ValueError,
        r"rows shaped \(2,\), as in the fit; got \(1,\)",
    ),
    "a vector": (lambda result: result.predict(X[:, 0]), ValueError, r"rows shaped \(2,\), as in the fit; got \(\)"),
    "a dictionary": (lambda result: result.predict({"x": X}), ValueError, "the structure of the fit"),
    "columns in another order": (
        lambda result: result.predict(pd.DataFrame(X, columns=["b", "a"])),
        ValueError,
        r"the columns \['a', 'b'\], in this order; got \['b', 'a'\]",
    ),
    "NaN": (lambda result: result.predict(put(X, (1, 1), np.nan)), ValueError, "x, row 1, column 1: expected finite"),
    "None": (lambda result: result.predict(None), TypeError, "x is None"),
    "too many columns": (lambda result: result.predict(np.c_[X, X]), ValueError, r"rows shaped \(2,\), .* got \(4,\)"),
    "transposed": (lambda result: result.predict(X.T), ValueError, r"rows shaped \(2,\), as in the fit; got \(20,\)"),
    "other columns": (
        lambda result: result.predict(pd.DataFrame(X, columns=["a", "c"])),
        ValueError,
        r"the columns \['a', 'b'\], in this order; got \['a', 'c'\]",
    ),
    "text": (lambda result: result.predict(np.full((3, 2), "a")), TypeError, "x: expected numbers; got <U1"),
    "masked values": (
        lambda result: result.predict(np.ma.masked_array(X, mask=True)),
        ValueError,
        "x, row 0, column 0: expected no masked values; got 40",
    ),
    "a quantile of 1": (lambda result: result.predict(X).quantile(1.0), ValueError, "between 0 and 1; got 1.0"),
    "probabilities of numbers": (lambda result: result.predict(X).probs, NotImplementedError, "probs: y can be"),
    "no rows": (lambda result: result.predict(X[:0]), ValueError, "x has no rows"),
    "y of another length": (
        lambda result: result.predict(X).log_prob(REAL[:3]),
        ValueError,
        "as many rows in y as in x, 20",
    ),
    "y of one number": (
        lambda result: result.predict(X).log_prob(REAL[:1]),
        ValueError,
        "as many rows in y as in x, 20",
    ),
    "y a column": (lambda result: result.predict(X).log_prob(REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "y a column, cdf": (lambda result: result.predict(X).cdf(REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "infinity in y": (
        lambda result: result.predict(X).log_prob(put(REAL, 2, np.inf)),
        ValueError,
        "y, row 2: expected finite",
    ),
    "log_likelihood of a column": (lambda result: result.log_likelihood(X, REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "log_likelihood without y": (lambda result: result.log_likelihood(X, None), TypeError, "y is None"),
    "sample without a key": (
        lambda result: result.predict(X).sample(None),
        TypeError,
        "an integer seed or one typed key",
    ),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_cannot_be_predicted_raises(linear: Any, name: str) -> None:
    call, exception, match = PREDICTIONS[name]
    with pytest.raises(exception, match=match):
        call(linear)


@contextmanager
def nothing_is_compiled() -> Iterator[None]:
    events: list[str] = []
    listener = lambda event, duration, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events.count("/jax/core/compile/backend_compile_duration") == 0


CASES = {**DATA, **MISTAKES, **PARTS, **CALLS}
COMPUTED = {"another way each time", "more successes than trials", "y below the limit of its row", *PARTS, *CALLS}
"""Of the models, the one whose operations differ but may come to the same numbers, and those with bounds that are
computed from x; keys and optimisers are computed."""


@pytest.mark.parametrize("name", CASES)
def test_misuse_raises_before_anything_is_compiled(name: str) -> None:
    call, exception, match = CASES[name]
    with nullcontext() if name in COMPUTED else nothing_is_compiled(), pytest.raises(exception, match=match):
        call()


METHODS = {
    "MLE": MLE(),
    "MAP": MAP(),
    "Ensemble": Ensemble(),
    "Laplace": Laplace(),
    "NUTS": NUTS(),
    "MCLMC": MCLMC(),
    "Conditional": Conditional(sites=("w1",)),
}
WORST: dict[str, tuple[Any, Any, Any, str]] = {
    "y (n, 1)": (LINEAR, X, REAL[:, None], r"Expected y of shape \(20,\).* Use y\[:, 0\]"),
    "y (n, 1) by hand": (vector, X, REAL[:, None], r"one log probability per row, shape \(20,\); got \(20, 20\)"),
    "NaN in x": (LINEAR, put(X, (7, 1), np.nan), REAL, "x, row 7, column 1: expected finite numbers"),
    "label out of range": (SOFTMAX, X, put(CLASSES, 5, 3).astype(int), "y, row 5: expected an integer from 0 to 2"),
    "mismatched rows": (LINEAR, X, REAL[:-1], "Expected as many rows in y as in x, 20"),
    "no observed site": (forgets_obs, X, REAL, "an observed site; got none"),
    "Python state": (noise_of_numpy, X, REAL, "one density; in a second call"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WORST)
def test_every_method_says_the_same_before_anything_is_compiled(name: str, method: str) -> None:
    model, x, y, match = WORST[name]
    with nothing_is_compiled(), pytest.raises(ValueError, match=match):
        fit(model, METHODS[method], x, y, key=0, progress=False)


def test_a_model_that_changes_after_its_first_fit_is_refused() -> None:
    """What was compiled has the old value; the same function again has the new one."""
    width = 1.0

    def define() -> Callable[..., None]:
        def model(x: Array, y: Array | None = None) -> None:
            w = numpyro.sample("w", dist.Normal(0.0, width))
            with numpyro.plate("row", x.shape[0]):
                numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0), obs=y)

        return model

    model = define()
    first = fitted(model).draws["w"].item()
    np.testing.assert_array_equal(fitted(model).draws["w"], first)
    width = 0.01
    with pytest.raises(ValueError, match="first fit; the log probability of 'w' is computed with other constants"):
        fitted(model)
    assert abs(fitted(define(), method=MAP(num_steps=200)).draws["w"].item()) < 0.1 * abs(first)


def test_a_distribution_that_keeps_what_it_has_computed_is_no_change() -> None:
    """The operations are others then, and come to the same numbers."""
    weights = dist.Categorical(probs=jnp.array([0.3, 0.7]))
    prior = dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-1.0, 1.0]), 0.5))
    model = Model(MLP(), Normal(1.0), prior)
    before = fitted(model).draws["w1"]
    assert weights.logits.shape == (2,)  # computed here, and kept
    for _ in range(2):
        np.testing.assert_array_equal(fitted(model).draws["w1"], before)


CONSTANTS = np.arange(20.0)


def with_arrays_of_its_own(x: Array, y: Array | None = None) -> None:
    """For each row of the fit a constant: fewer rows could not be predicted, but these can."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0] + CONSTANTS, 1.0), obs=y)


def y_must_be_given(x: Array, y: Array | None) -> None:
    LINEAR(x, y)


TAKEN: dict[str, tuple[Any, Any, Any]] = {
    "one row": (LINEAR, X[:1], REAL[:1]),
    "one row of classes": (LOGISTIC, X[:1], BINARY[:1]),
    "booleans": (LOGISTIC, X > 0, BINARY.astype(bool)),
    "unsigned labels": (SOFTMAX, X, CLASSES.astype(np.uint64)),
    "a class that is missing": (SOFTMAX, X, np.minimum(CLASSES, 1)),
    "one class": (SOFTMAX, X, np.zeros(20, int)),
    "integers as numbers": (LINEAR, X, CLASSES),
    "a constant column": (LINEAR, np.c_[X, np.ones(20)], REAL),
    "a column of zeros": (LINEAR, np.c_[X, np.zeros(20)], REAL),
    "a column twice": (LINEAR, np.c_[X, X[:, 0]], REAL),
    "a constant of 1e8": (LINEAR, np.c_[X, np.full(20, 1e8)], REAL),
    "y of offset 1e4": (LINEAR, X, REAL + 1e4),
    "scales from 1e-10 to 1e10": (LINEAR, X * [1e-10, 1e10], REAL),
    "half precision": (LINEAR, X.astype(np.float16), REAL),
    "long double": (LINEAR, X.astype(np.longdouble), REAL.astype(np.longdouble)),
    "a masked array with nothing masked": (LINEAR, np.ma.masked_invalid(X), np.ma.masked_invalid(REAL)),
    "large integers far apart": (LINEAR, np.c_[np.arange(20), 10**8 * np.arange(20)], REAL),
    "codes of a category": (SOFTMAX, X, pd.Series(list("abcab" * 4), dtype="category").cat.codes),
    "arrays of its own": (with_arrays_of_its_own, X, REAL),
    "numbers above a limit of their own": (above_a_limit, X, X[:, 0] + 1),
    "a model without a default for y": (y_must_be_given, X, REAL),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_unusual_but_clear_is_taken(name: str) -> None:
    density, rows = check_problem(*TAKEN[name])
    assert density.structure.observed_sites == ("y",)
    assert len(rows.x) == len(rows.y) == len(TAKEN[name][1])


def test_bounds_of_new_rows_are_their_own() -> None:
    result = fitted(trials, TRIALS, SUCCESSES)
    few = {name: values[:4] for name, values in TRIALS.items()}
    assert np.isfinite(result.log_likelihood(few, [1, 2, 3, 4])).all()
    with pytest.raises(ValueError, match=r"y, row 1: expected an integer from 0 to 2, .*; got 3"):
        result.log_likelihood(few, [1, 3, 3, 4])


def test_optimisers_without_decay_are_taken() -> None:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, 100)
    for optimizer in (
        optax.sgd(0.1, momentum=0.9),
        optax.adam(schedule),
        optax.adamw(1e-3, weight_decay=0.0),
        optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-3)),
        optax.adabelief(1e-3),
    ):
        assert MLE(optimizer=optimizer).optimizer is optimizer


def test_an_offset_is_taken_in_float64(x64: None) -> None:
    """There its slope is found, to the precision that is left."""
    result = fitted(Model(MLP(), Normal(1.0), gaussian(1e6)), X + [0.0, 1e4], method=MLE(num_steps=200))
    np.testing.assert_allclose(result.draws["w1"][0, 0, :, 0], [1.0, -1.0], rtol=1e-6)


# Numerical failures are statuses.


def separable(kind: str, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes with a gap between them."""
    rng = np.random.default_rng(key)
    x = rng.normal(size=(40, 2))
    direction = rng.normal(size=2)
    score = x @ direction / np.linalg.norm(direction)
    if kind == "softmax":
        y = np.digitize(score, [-0.4, 0.4])
        return x + np.multiply.outer(y - 1.0, direction / np.linalg.norm(direction)), y
    y = (score > 0).astype(int)
    return x + np.multiply.outer(2.0 * y - 1, 0.5 * direction / np.linalg.norm(direction)), y


def overlapping(kind: str, key: int) -> tuple[np.ndarray, np.ndarray]:
    """The same rows, with labels that do not depend on them."""
    x, y = separable(kind, key)
    return x, np.random.default_rng(key + 1).permutation(y)


CLASSIFIERS: dict[str, Model] = {
    "logistic": LOGISTIC,
    "softmax": SOFTMAX,
    "network": Model(MLP((4,), "tanh"), Bernoulli()),
}
KEYS = range(5)


@pytest.mark.parametrize("kind", some_by_default(CLASSIFIERS, "softmax"))
def test_separable_classes_have_no_maximum_likelihood(kind: str) -> None:
    """However many steps are taken, the weights would still grow (Albert & Anderson 1984)."""
    for key in KEYS:
        result = fit(CLASSIFIERS[kind], MLE(num_steps=1000), *separable(kind, key), key=key, progress=False)
        assert result.status.level == "failed", key
        assert "There is no maximum: all 40 rows are classified correctly" in str(result.status.reasons[0])
        assert not result.status
        assert all(np.isfinite(draws).all() for draws in result.draws.values())


@pytest.mark.parametrize("settings", [{"polish": False}, {"batch_size": 8}, {"num_restarts": 2}], ids=str)
def test_separable_classes_are_seen_under_other_settings(settings: dict[str, Any]) -> None:
    for key in KEYS:
        result = fit(LOGISTIC, MLE(num_steps=1000, **settings), *separable("logistic", key), key=key, progress=False)
        assert result.status.level == "failed", key


@pytest.mark.parametrize("kind", some_by_default(CLASSIFIERS, "logistic"))
def test_separable_classes_have_a_maximum_under_a_prior(kind: str) -> None:
    for key in KEYS:
        result = fit(CLASSIFIERS[kind], MAP(num_steps=1000), *separable(kind, key), key=key, progress=False)
        assert result.status.level == "ok", (key, result.status)


@pytest.mark.parametrize("kind", some_by_default(["logistic", "softmax"], "logistic"))
def test_overlapping_classes_have_a_maximum_likelihood(kind: str) -> None:
    for key in KEYS:
        result = fit(CLASSIFIERS[kind], MLE(num_steps=1000), *overlapping(kind, key), key=key, progress=False)
        assert result.status.level == "ok", (key, result.status)


@pytest.mark.parametrize("num_rows", some_by_default([2, 5], 2))
def test_one_class_alone_has_no_maximum_likelihood(num_rows: int) -> None:
    result = fit(LOGISTIC, MLE(num_steps=500), X[:num_rows], np.ones(num_rows, int), key=0, progress=False)
    assert result.status.level == "failed"


def test_classes_that_one_row_keeps_from_being_separable_have_a_maximum_likelihood() -> None:
    """A row in the middle of the other class bounds the weights, far out as they are."""
    for key in KEYS:
        x, y = separable("logistic", key)
        x, y = np.vstack([x, x[y == 1].mean(axis=0)]), np.append(y, 0)
        result = fit(LOGISTIC, MLE(num_steps=1000), x, y, key=key, progress=False)
        assert result.status.level == "ok", (key, result.status)


@pytest.mark.parametrize("polish", [True, False])
def test_a_fit_that_is_far_from_its_maximum_is_not_ok(polish: bool) -> None:
    """A learning rate that falls to 0 stops the loss from falling; that is no maximum.

    After 300 steps the mean is near 0.8 and the scale near 1.4, where the maximum is at 5 and 3.6.
    """

    def model(x: Array, y: Array | None = None) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 100.0))
        scale = numpyro.sample("scale", dist.Exponential(1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    y = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
    result = fit(model, MLE(num_steps=300, polish=polish), np.ones((5, 1)), y, key=0, progress=False)
    gradient = jax.grad(lambda w: log_density(flat(model), w, np.ones((5, 1)), y))(
        {site: jnp.asarray(value[0, 0]) for site, value in result.draws.items()}
    )
    at_maximum = all(abs(slope) < 1e-2 for slope in gradient.values())
    assert at_maximum or result.status.level != "ok", result.status


@pytest.mark.parametrize("num_restarts", [1, 3])
@pytest.mark.parametrize("name", ["linear", "network"])
def test_a_learning_rate_too_large_is_a_failure(name: str, num_restarts: int) -> None:
    model = {"linear": LINEAR, "network": Model(MLP((4,), "tanh"), Normal("network"))}[name]
    method = MAP(optimizer=optax.sgd(1e9), num_steps=200, num_restarts=num_restarts)
    for key in range(3):
        result = fit(model, method, X, REAL, key=key, progress=False)
        assert result.status.level == "failed", key
        assert "at step" in str(result.status.reasons[0]), result.status
        assert "smaller learning rate" in str(result.status.reasons[0])
        assert all(np.isfinite(draws).all() for draws in result.draws.values()), key


def test_a_status_is_true_unless_it_failed() -> None:
    ok = fit(LINEAR, MAP(num_steps=200), X, REAL, key=0, progress=False).status
    assert ok
    assert (str(ok), ok.level, ok.reasons) == ("ok", "ok", ())


def test_predicting_by_a_failed_fit_warns_and_a_table_shows_it() -> None:
    x, y = separable("logistic", 0)
    result = fit(LOGISTIC, MLE(num_steps=200), x, y, key=0, progress=False)
    with pytest.warns(FailedFitWarning, match="This fit has failed; .* There is no maximum") as record:
        result.predict(x)
    assert record[0].filename == __file__  # the line of the user, not one of the library
    assert repr(result).endswith(str(result.status))
    assert "failed" in str(compare({"MLE": result}, x, y))
    assert result.to_datatree().attrs["status"] == "failed"
    fit(LOGISTIC, MAP(num_steps=200), x, y, key=0, progress=False).predict(x)  # under a prior there is nothing to say
