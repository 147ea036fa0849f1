"""Predictions in bounded memory: the chunks change nothing but the memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy import stats

from flatprior.inference import MAP, Fit, Predictive, chunks, fit, pointwise
from flatprior.inference.checks import check_problem
from flatprior.inference.density import Density
from flatprior.inference.mixture import quantiles
from flatprior.inference.rows import Data, count_rows
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal

from .tables import CommonFit, some_by_default

NUM_DRAWS, NUM_ROWS = 60, 101
MODELS: dict[str, Model] = {
    "Bernoulli": Model(MLP((3,), "tanh"), Bernoulli()),
    "Categorical": Model(MLP((3,), "tanh"), Categorical(4)),
    "Normal": Model(MLP((3,), "tanh"), Normal("network")),
}


@pytest.fixture
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 2)).astype(np.float32)
    y = {"Bernoulli": rng.integers(0, 2, NUM_ROWS), "Categorical": rng.integers(0, 4, NUM_ROWS)}
    return x, y.get(name, rng.normal(size=NUM_ROWS).astype(np.float32))


def from_prior(model: Model, x: np.ndarray, y: np.ndarray, num_draws: int) -> Predictive:
    """The predictive distribution of the prior: as many draws as are wanted, for nothing."""
    density, _ = check_problem(model, x, y)
    rng = np.random.default_rng(1)
    sites = density.structure.latents
    draws = {site: jnp.asarray(rng.normal(size=(num_draws, *shape)), x.dtype) for site, shape in sites.items()}
    return Predictive(density, draws, jnp.asarray(x))


ASKED: dict[str, tuple[Callable[[Predictive, np.ndarray], np.ndarray], set[str]]] = {
    "mean": (lambda p, y: p.mean, {"Bernoulli", "Normal"}),
    "variance": (lambda p, y: p.variance, {"Bernoulli", "Normal"}),
    "log_prob": (lambda p, y: p.log_prob(y), set(MODELS)),
    "cdf": (lambda p, y: p.cdf(y), {"Normal"}),
    "quantile": (lambda p, y: p.quantile([0.1, 0.5]), {"Normal"}),
    "probs": (lambda p, y: p.probs, {"Bernoulli", "Categorical"}),
    "log_likelihood": (
        lambda p, y: pointwise.log_likelihood(p.density, p.draws, Data(p.x, jnp.asarray(y))),
        set(MODELS),
    ),
}


@pytest.mark.parametrize(
    ("name", "asked"),
    some_by_default(
        [(name, asked) for asked, (_, names) in ASKED.items() for name in sorted(names)],
        *((max(names), asked) for asked, (_, names) in ASKED.items()),
    ),
)
def test_chunks_change_nothing(
    name: str, asked: str, data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of them is filled up, as its rows do not come out even."""
    predictive, ask = from_prior(MODELS[name], *data, NUM_DRAWS), ASKED[asked][0]
    whole = ask(predictive, data[1])
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**14)
    chunk, together = sizes(predictive)
    assert chunk < NUM_ROWS
    assert together < NUM_DRAWS
    assert NUM_ROWS % chunk
    chunked = ask(predictive, data[1])
    assert chunked.shape == whole.shape
    assert NUM_ROWS in whole.shape
    np.testing.assert_allclose(chunked, whole, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Normal"])
def test_samples_by_chunks_share_the_weights_and_not_the_noise(
    name: str, data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.repeat(data[0][:1], NUM_ROWS, axis=0)  # equal rows: draws of one function differ by the noise alone
    predictive = from_prior(MODELS[name], x, data[1], NUM_DRAWS)
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**14)
    assert sizes(predictive)[0] < NUM_ROWS
    samples = predictive.sample(0, (500,))
    assert samples.shape == (500, NUM_ROWS)
    assert len(np.unique(samples[0])) == NUM_ROWS
    within = np.corrcoef(samples[:, :2].T)[0, 1]
    np.testing.assert_allclose(np.corrcoef(samples[:, [0, -1]].T)[0, 1], within, atol=0.15)
    expected, spread = predictive.mean, predictive.std
    z = (samples.mean(axis=0) - expected) / (spread / np.sqrt(500))
    assert np.abs(z).max() < 4.5
    np.testing.assert_array_equal(predictive.sample(0, (500,)), samples)


def sizes(predictive: Predictive) -> tuple[int, int]:
    return chunks.sizes(Density.observation, predictive.density, predictive.draws, Data(predictive.x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("working_bytes", [2**12, 2**16, 2**20, 2**28])
@pytest.mark.parametrize("num_draws", [1, 30, 4_000])
def test_chunks_respect_the_bound(
    name: str, working_bytes: int, num_draws: int, data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "WORKING_BYTES", working_bytes)
    predictive = from_prior(MODELS[name], *data, num_draws)
    chunk, together = sizes(predictive)
    assert 1 <= chunk <= NUM_ROWS
    assert 1 <= together <= num_draws
    numbers = {"Bernoulli": 1, "Categorical": 4, "Normal": 2}[name]  # of the distribution of a row
    row = num_draws * numbers * 4 * chunks.COPIES
    assert chunk == 1 or chunk * row <= working_bytes
    assert together == 1 or together * chunk * 3 * 4 <= working_bytes, "three hidden units a draw and row"
    work = working_bytes / chunk / together if together < num_draws or num_draws == 1 else 0
    assert chunk == NUM_ROWS or 2 * (chunk + 1) * max(row, work) > working_bytes, "no smaller than has to be"


LEVELS = np.array([1e-3, 0.01, 0.1, 0.5, 0.9, 0.99])
FAMILIES: dict[str, tuple[Callable[[Array], dist.Distribution], Any]] = {
    "LogNormal": (lambda one: dist.LogNormal(0 * one, 3.0), stats.lognorm(3.0)),
    "Gamma": (lambda one: dist.Gamma(0.3 * one, 1.0), stats.gamma(0.3)),
    "Beta": (lambda one: dist.Beta(0.5 * one, 0.5), stats.beta(0.5, 0.5)),
    "Weibull": (lambda one: dist.Weibull(one, 0.5), stats.weibull_min(0.5)),
    "InverseGamma": (lambda one: dist.InverseGamma(one, 1.0), stats.invgamma(1.0)),
    "Pareto": (lambda one: dist.Pareto(0.1 * one, 1.5), stats.pareto(1.5, scale=0.1)),
    "Cauchy": (lambda one: dist.Cauchy(3.0 * one, 1.0), stats.cauchy(3.0)),
    "StudentT": (lambda one: dist.StudentT(1.5 * one, 3.0), stats.t(1.5, 3.0)),
    "TruncatedNormal": (lambda one: dist.TruncatedNormal(0 * one, 1.0, low=0.0), stats.halfnorm()),
    "transformed": (
        lambda one: dist.TransformedDistribution(dist.Normal(0 * one, 1.0), dist.transforms.ExpTransform()),
        stats.lognorm(1.0),
    ),
    "Normal": (lambda one: dist.Normal(1e6 * one, 1e3), stats.norm(1e6, 1e3)),
}
"""Distributions without moments, with bounds, and with numbers of very different size, and the same in SciPy."""


@pytest.mark.parametrize("name", FAMILIES)
def test_quantiles_are_those_of_scipy(name: str) -> None:
    """Outside of the support a cdf may be NaN, as that of LogNormal is at -1."""
    family, reference = FAMILIES[name]
    components = jax.vmap(family)(jnp.ones((1, 2)))
    for fitted in np.asarray(quantiles(components, None, jnp.asarray(LEVELS))):
        np.testing.assert_allclose(fitted, reference.ppf(LEVELS), rtol=2e-3)


def test_quantiles_of_a_mixture_with_gaps_and_of_draws_that_failed() -> None:
    components = jax.vmap(lambda low: dist.Uniform(low * jnp.ones(2), low + 1))(jnp.array([0.0, 10.0]))
    fitted = np.asarray(quantiles(components, None, jnp.array([0.25, 0.75])))
    np.testing.assert_allclose(fitted, [[0.5, 10.5]] * 2, rtol=1e-5)
    failed = jax.vmap(lambda loc: dist.Normal(loc * jnp.ones(2), 1.0))(jnp.array([0.0, np.nan]))
    assert np.isnan(quantiles(failed, None, jnp.array([0.5]))).all()


@pytest.mark.parametrize("num_rows", [1, 2, 101])
def test_one_row_is_as_good_as_many(num_rows: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(101, 2)), rng.normal(size=101)
    fitted = fit(MODELS["Normal"], MAP(num_steps=50, polish=False), x, y, key=0, progress=False)
    whole, some = fitted.predict(x), fitted.predict(x[:num_rows])
    for ask in (lambda p: p.mean, lambda p: p.variance, lambda p: p.quantile(0.3)):
        np.testing.assert_allclose(ask(some), ask(whole)[:num_rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(some.log_prob(y[:num_rows]), whole.log_prob(y)[:num_rows], rtol=1e-5, atol=1e-6)


def test_results_are_numpy_arrays_of_their_own() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    fitted: Fit = fit(MODELS["Normal"], MAP(num_steps=50, polish=False), x, y, key=0, progress=False)
    predictive = fitted.predict(x)
    for result in (predictive.mean, predictive.log_prob(y), predictive.sample(0), fitted.log_likelihood(x, y)):
        assert isinstance(result, np.ndarray)
    assert predictive.mean.flags.writeable


@pytest.mark.parametrize("name", ["Normal"])
def test_a_dictionary_is_cut_like_an_array(
    name: str, data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data
    array, halves = MODELS["Normal"], lambda x, y=None: MODELS["Normal"](jnp.stack([x["a"], x["b"]], axis=-1), y)
    plain = from_prior(array, x, y, NUM_DRAWS)
    rows = {"a": jnp.asarray(x[:, 0]), "b": jnp.asarray(x[:, 1])}
    cut = Predictive(check_problem(halves, rows, y)[0], plain.draws, rows)
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**14)
    assert count_rows(cut.x) == NUM_ROWS
    np.testing.assert_allclose(cut.mean, plain.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.log_prob(y), plain.log_prob(y), rtol=1e-5, atol=1e-5)


PROGRAM = """
import json, resource, sys
import jax.numpy as jnp, numpy as np
from flatprior.inference import Predictive, chunks, pointwise
from flatprior.inference.checks import check_problem
from flatprior.models import MLP, Model, Normal

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

asked, num_draws, num_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
model = Model(MLP((16, 16)), Normal("network"))
x, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((num_rows, 8), (num_rows,)))
density, data = check_problem(model, x, y)
sites = density.structure.latents
draws = {site: jnp.asarray(rng.normal(size=(num_draws, *shape)), jnp.float32) for site, shape in sites.items()}
small = Predictive(density, {site: value[:2] for site, value in draws.items()}, x[:2])
p = Predictive(density, draws, x)
ask = {
    "log_prob": lambda p, y: p.log_prob(y),
    "log_likelihood": lambda p, y: pointwise.log_likelihood(density, p.draws, type(data)(p.x, y)),
    "variance": lambda p, y: p.variance,
    "quantile": lambda p, y: p.quantile(0.9),
}[asked]
ask(small, y[:2])  # what JAX and XLA take once
baseline = peak()
result = ask(p, y)
print(json.dumps({"taken": peak() - baseline, "result": result.nbytes, "stated": chunks.WORKING_BYTES}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["log_prob", "log_likelihood", "variance", "quantile"])
def test_memory_of_4000_draws_at_100000_rows(asked: str) -> None:
    """Without chunks the components alone are 3.2 GB, and one hidden layer of all draws 26 GB.

    The stated bound is on what the arrays take; a tenth of it is left for the compiler and the allocator.
    """
    rows = 100_000 if asked != "quantile" else 10_000
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked, "4000", str(rows)], check=True, capture_output=True, text=True
    )
    fitted = json.loads(answer.stdout.splitlines()[-1])
    print(asked, {key: f"{value / 2**20:.0f} MiB" for key, value in fitted.items()})
    assert fitted["taken"] < fitted["result"] + 1.1 * fitted["stated"]


def test_a_prediction_again_compiles_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(101, 2)), rng.normal(size=101)
    fitted = fit(MODELS["Normal"], MAP(num_steps=50, polish=False), x, y, key=0, progress=False)
    asks = (
        lambda: fitted.predict(x).log_prob(y),
        lambda: fitted.predict(x).mean,
        lambda: fitted.predict(x).quantile(0.3),
    )
    for ask in asks:
        ask()
    events: list[str] = []
    listener = lambda event, duration, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        for ask in asks:
            ask()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events.count("/jax/core/compile/backend_compile_duration") == 0


def test_later_writes_to_x_change_no_prediction(common_fit: CommonFit) -> None:
    """A buffer that is filled anew, aligned as JAX takes it over without a copy."""
    memory = np.zeros(4096 * 2 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    x = memory[start : start + 4096 * 2 * 4].view(np.float32).reshape(4096, 2)
    x[:] = np.random.default_rng(0).normal(size=x.shape)
    predictive = common_fit("Bernoulli", "MLE").predict(x)
    before = predictive.probs
    x[:] = 3 * x[::-1]
    np.testing.assert_array_equal(predictive.probs, before)
