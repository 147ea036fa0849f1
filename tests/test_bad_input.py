"""What is wrong with the input is said before anything is compiled; a fit that fails says so in its status."""

from collections.abc import Callable
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

from flatprior.inference import MAP, MLE, NUTS, FailedFitWarning, compare, fit, flat, log_density
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

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


def fitted(model: Any = LINEAR, x: Any = X, y: Any = REAL, method: Any = None, key: Any = 0) -> Any:
    return fit(model, MAP(num_steps=20, polish=False) if method is None else method, x, y, key=key, progress=False)


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
    "x an empty dictionary": (lambda: fitted(x={}), TypeError, "x holds no array"),
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
    "NaN in y": (lambda: fitted(y=put(REAL, 4, np.nan)), ValueError, "y, row 4: expected finite numbers; got nan"),
    "NaN in a data frame": (
        lambda: fitted(x=pd.DataFrame(put(X, (7, 1), np.nan), columns=["a", "b"])),
        ValueError,
        "x, row 7, column 1",
    ),
    "label out of range": (
        lambda: fitted(SOFTMAX, y=put(CLASSES, 5, 3).astype(int)),
        ValueError,
        r"y, row 5: expected an integer from 0 to 2; got 3; y holds \[0, 1, 2, 3\]. Number the classes from 0",
    ),
    "labels from 1": (lambda: fitted(SOFTMAX, y=CLASSES + 1), ValueError, "from 0 to 2; got 3; .* from 0"),
    "labels 1 and 2": (
        lambda: fitted(LOGISTIC, y=BINARY + 1),
        ValueError,
        r"expected 0 or 1; got 2; y holds \[1, 2\]. Number the classes from 0",
    ),
    "labels -1 and 1": (lambda: fitted(LOGISTIC, y=2 * BINARY - 1), ValueError, r"expected 0 or 1; got -1"),
    "probabilities for a Bernoulli": (
        lambda: fitted(LOGISTIC, y=np.full(20, 0.3)),
        ValueError,
        "expected 0 or 1; got 0.3",
    ),
    "float labels": (lambda: fitted(SOFTMAX, y=CLASSES.astype(float)), TypeError, r"integer labels.*y\.astype\(int\)"),
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
    "an integer that does not fit": (lambda: fitted(y=np.full(20, 2**40)), ValueError, "integers up to 2147483647"),
    "an offset that drowns a column": (
        lambda: fitted(x=X + [0.0, 1e4]),
        ValueError,
        "x, column 1: expected .* in float32; got mean 1e\\+04, .*Subtract the mean",
    ),
}

MISTAKES: dict[str, Case] = {
    "obs forgotten": (lambda: fitted(forgets_obs), ValueError, r"one observed site; got none.*obs=y"),
    "only a factor": (lambda: fitted(only_a_factor), ValueError, "one observed site; got none"),
    "two observed sites": (lambda: fitted(observes_twice), ValueError, r"got the observed sites \['y', 'again'\]"),
    "a discrete weight": (lambda: fitted(discrete), ValueError, "Latent site 'k' is discrete"),
    "weights inside the plate": (
        lambda: fitted(weights_inside_the_plate),
        ValueError,
        "Latent site 'w' is sampled inside the plate 'row' of the data: a weight a row",
    ),
    "nothing to fit": (lambda: fitted(no_latents), ValueError, r"latent sites to fit; got only \['row', 'y'\]"),
    "one event of all rows": (
        lambda: fitted(summed),
        ValueError,
        r"one log probability a row, shape \(20,\); got \(\)",
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
    "L-BFGS": (lambda: MAP(optimizer=optax.lbfgs()), ValueError, "MAP: expected an optimiser of gradients"),
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
        "NUTS: the model's prior is flat.*improper_ok",
    ),
    "negative warm-up": (lambda: NUTS(num_warmup=-1), ValueError, "at least 0 as num_warmup; got -1"),
    "no draws": (lambda: NUTS(num_samples=0), ValueError, "at least 1 as num_samples; got 0"),
    "no chains": (lambda: NUTS(num_chains=0), ValueError, "at least 1 as num_chains; got 0"),
    "acceptance of 1": (lambda: NUTS(target_accept_prob=1.0), ValueError, "0 < target_accept_prob < 1; got 1.0"),
}


@pytest.fixture(scope="module")
def linear() -> Any:
    """A fit to a data frame, which has names for its columns."""
    return fitted(x=pd.DataFrame(X, columns=["a", "b"]))


PREDICTIONS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "y given": (lambda found: found.predict(X, REAL), TypeError, "positional argument"),
    "too few columns": (
        lambda found: found.predict(X[:, :1]),
        ValueError,
        r"rows shaped \(2,\), as in the fit; got \(1,\)",
    ),
    "a vector": (lambda found: found.predict(X[:, 0]), ValueError, r"rows shaped \(2,\), as in the fit; got \(\)"),
    "a dictionary": (lambda found: found.predict({"x": X}), ValueError, "the structure of the fit"),
    "columns in another order": (
        lambda found: found.predict(pd.DataFrame(X, columns=["b", "a"])),
        ValueError,
        r"the columns \['a', 'b'\], in this order; got \['b', 'a'\]",
    ),
    "NaN": (lambda found: found.predict(put(X, (1, 1), np.nan)), ValueError, "x, row 1, column 1: expected finite"),
    "None": (lambda found: found.predict(None), TypeError, "x is None"),
    "no rows": (lambda found: found.predict(X[:0]), ValueError, "x has no rows"),
    "y of another length": (
        lambda found: found.predict(X).log_prob(REAL[:3]),
        ValueError,
        "as many rows in y as in x, 20",
    ),
    "y of one number": (lambda found: found.predict(X).log_prob(REAL[:1]), ValueError, "as many rows in y as in x, 20"),
    "y a column": (lambda found: found.predict(X).log_prob(REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "y a column, cdf": (lambda found: found.predict(X).cdf(REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "NaN in y": (
        lambda found: found.predict(X).log_prob(put(REAL, 2, np.nan)),
        ValueError,
        "y, row 2: expected finite",
    ),
    "log_likelihood of a column": (lambda found: found.log_likelihood(X, REAL[:, None]), ValueError, r"y\[:, 0\]"),
    "log_likelihood without y": (lambda found: found.log_likelihood(X, None), TypeError, "y is None"),
    "sample without a key": (
        lambda found: found.predict(X).sample(None),
        TypeError,
        "an integer seed or one typed key",
    ),
}


@pytest.mark.parametrize("name", [*DATA, *MISTAKES, *CALLS])
def test_what_cannot_be_fitted_raises(name: str) -> None:
    call, exception, match = {**DATA, **MISTAKES, **CALLS}[name]
    with pytest.raises(exception, match=match):
        call()


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_cannot_be_predicted_raises(linear: Any, name: str) -> None:
    call, exception, match = PREDICTIONS[name]
    with pytest.raises(exception, match=match):
        call(linear)


def test_misuse_is_told_before_anything_is_compiled() -> None:
    events: list[str] = []
    listener = lambda event, duration, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        for name in ("y (n, 1) by hand", "NaN in x", "labels from 1", "an offset that drowns a column"):
            call, exception, match = DATA[name]
            with pytest.raises(exception, match=match):
                call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events.count("/jax/core/compile/backend_compile_duration") == 0


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
    found = fitted(Model(MLP(), Normal(1.0), gaussian(1e6)), X + [0.0, 1e4], method=MLE(num_steps=200))
    np.testing.assert_allclose(found.draws["w1"][0, 0, :, 0], [1.0, -1.0], rtol=1e-6)


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


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_separable_classes_have_no_maximum_likelihood(kind: str) -> None:
    """However many steps are taken, the weights would still grow (Albert & Anderson 1984)."""
    for key in KEYS:
        found = fit(CLASSIFIERS[kind], MLE(num_steps=1000), *separable(kind, key), key=key, progress=False)
        assert found.status.level == "failed", key
        assert "There is no maximum: all 40 rows are classified correctly" in found.status.reasons[0]
        assert not found.status
        assert all(np.isfinite(draws).all() for draws in found.draws.values())


@pytest.mark.parametrize("settings", [{"polish": False}, {"batch_size": 8}, {"num_restarts": 2}], ids=str)
def test_separable_classes_are_seen_under_other_settings(settings: dict[str, Any]) -> None:
    for key in KEYS:
        found = fit(LOGISTIC, MLE(num_steps=1000, **settings), *separable("logistic", key), key=key, progress=False)
        assert found.status.level == "failed", key


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_separable_classes_have_a_maximum_under_a_prior(kind: str) -> None:
    for key in KEYS:
        found = fit(CLASSIFIERS[kind], MAP(num_steps=1000), *separable(kind, key), key=key, progress=False)
        assert found.status.level == "ok", (key, found.status)


@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_overlapping_classes_have_a_maximum_likelihood(kind: str) -> None:
    for key in KEYS:
        found = fit(CLASSIFIERS[kind], MLE(num_steps=1000), *overlapping(kind, key), key=key, progress=False)
        assert found.status.level == "ok", (key, found.status)


@pytest.mark.parametrize("num_rows", [2, 5])
def test_one_class_alone_has_no_maximum_likelihood(num_rows: int) -> None:
    found = fit(LOGISTIC, MLE(num_steps=500), X[:num_rows], np.ones(num_rows, int), key=0, progress=False)
    assert found.status.level == "failed"


def test_classes_that_one_row_keeps_from_being_separable_have_a_maximum_likelihood() -> None:
    """A row in the middle of the other class bounds the weights, far out as they are."""
    for key in KEYS:
        x, y = separable("logistic", key)
        x, y = np.vstack([x, x[y == 1].mean(axis=0)]), np.append(y, 0)
        found = fit(LOGISTIC, MLE(num_steps=1000), x, y, key=key, progress=False)
        assert found.status.level == "ok", (key, found.status)


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
    found = fit(model, MLE(num_steps=300, polish=polish), np.ones((5, 1)), y, key=0, progress=False)
    gradient = jax.grad(lambda w: log_density(flat(model), w, np.ones((5, 1)), y))(
        {site: jnp.asarray(value[0, 0]) for site, value in found.draws.items()}
    )
    at_maximum = all(abs(slope) < 1e-2 for slope in gradient.values())
    assert at_maximum or found.status.level != "ok", found.status


@pytest.mark.parametrize("num_restarts", [1, 3])
@pytest.mark.parametrize("name", ["linear", "network"])
def test_a_learning_rate_too_large_is_a_failure(name: str, num_restarts: int) -> None:
    model = {"linear": LINEAR, "network": Model(MLP((4,), "tanh"), Normal("network"))}[name]
    method = MAP(optimizer=optax.sgd(1e9), num_steps=200, num_restarts=num_restarts)
    for key in range(3):
        found = fit(model, method, X, REAL, key=key, progress=False)
        assert found.status.level == "failed", key
        assert "at step" in found.status.reasons[0], found.status
        assert "smaller learning rate" in found.status.reasons[0]
        assert all(np.isfinite(draws).all() for draws in found.draws.values()), key


def test_a_status_is_true_unless_it_failed() -> None:
    ok = fit(LINEAR, MAP(num_steps=200), X, REAL, key=0, progress=False).status
    assert ok
    assert (str(ok), ok.level, ok.reasons) == ("ok", "ok", ())


def test_predicting_by_a_failed_fit_warns_and_a_table_shows_it() -> None:
    x, y = separable("logistic", 0)
    found = fit(LOGISTIC, MLE(num_steps=200), x, y, key=0, progress=False)
    with pytest.warns(FailedFitWarning, match="This fit has failed, and .* There is no maximum") as record:
        found.predict(x)
    assert record[0].filename == __file__  # the line of the user, not one of the library
    assert repr(found).endswith(str(found.status))
    assert "failed" in str(compare({"MLE": found}, x, y))
    assert found.to_datatree().attrs["status"] == "failed"
    fit(LOGISTIC, MAP(num_steps=200), x, y, key=0, progress=False).predict(x)  # under a prior there is nothing to say
