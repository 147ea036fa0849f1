"""An observation that a user adds: a mixture of logistic components, in every place where those of the library go."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy import special
from scipy.stats import logistic

from flatprior.inference import MAP, MLE, NUTS, Ensemble, Fit, compare, explain, fit
from flatprior.models import MLP, Model, Normal, gaussian

from .tables import some_by_default

FLOOR = 0.01


@dataclass(frozen=True)
class LogisticMixture:
    """Of logistic distributions, whose weights, places and scales are outputs of the network."""

    num_components: int

    @property
    def num_outputs(self) -> int:
        return 3 * self.num_components

    def __call__(self, eta: Array, y: Array | None = None) -> Array:
        logits, loc, scale = jnp.split(eta, 3, axis=-1)
        parts = dist.Logistic(loc, jax.nn.softplus(scale) + FLOOR)
        with numpyro.plate("row", len(eta)):
            return numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts), obs=y)


MODEL = Model(MLP((4,), "tanh"), LogisticMixture(3), gaussian(1.0))
METHODS: dict[str, Any] = {
    "MLE": MLE(num_steps=300, batch_size=20, polish=False),
    "Ensemble": Ensemble(base=MAP(num_steps=300, polish=False), num_members=3),
    "NUTS": NUTS(num_warmup=30, num_samples=20, num_chains=2, start=None, max_tree_depth=4),
}
every_method = pytest.mark.parametrize("method", some_by_default(["MLE", "Ensemble", "NUTS"], "Ensemble"))


@pytest.fixture(scope="module")
def x_y() -> tuple[np.ndarray, np.ndarray]:
    """Two branches, of which a row follows one by chance."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(60, 1))
    return x, np.where(rng.random(60) < 0.5, x[:, 0], -x[:, 0]) + 0.05 * rng.logistic(size=60)


@pytest.fixture(scope="module")
def fitted(x_y: Any) -> Callable[[str], Fit]:
    @cache
    def find(method: str) -> Fit:
        return fit(MODEL, METHODS[method], *x_y, key=0, progress=False)

    return find


def parameters(result: Fit, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weights, places and scales of the components, (draw, n, component), by NumPy in float64."""
    draws = {site: value.reshape(-1, *value.shape[2:]).astype(float) for site, value in result.draws.items()}
    hidden = np.tanh(x @ draws["w1"] + draws["b1"][:, None])
    logits, loc, raw = np.split(hidden @ draws["w2"] + draws["b2"][:, None], 3, axis=-1)
    return special.log_softmax(logits, axis=-1), loc, np.logaddexp(0, raw) + FLOOR


def log_density(result: Fit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each draw and row by SciPy, (draw, n)."""
    log_weights, loc, scale = parameters(result, x)
    return special.logsumexp(log_weights + logistic.logpdf(y[:, None], loc, scale), axis=-1)


@every_method
def test_its_density_is_scipys(method: str, fitted: Any, x_y: Any) -> None:
    result = fitted(method)
    per_draw = log_density(result, *x_y)
    np.testing.assert_allclose(result.log_likelihood(*x_y).reshape(per_draw.shape), per_draw, rtol=1e-4, atol=1e-4)
    mixture = special.logsumexp(per_draw, axis=0) - np.log(len(per_draw))
    np.testing.assert_allclose(result.predict(x_y[0]).log_prob(x_y[1]), mixture, rtol=1e-4, atol=1e-4)


@every_method
def test_its_summaries_are_those_of_the_mixture(method: str, fitted: Any, x_y: Any) -> None:
    """The variance of a logistic distribution is pi^2 scale^2 / 3."""
    x, y = x_y
    result = fitted(method)
    predictive = result.predict(x)
    log_weights, loc, scale = parameters(result, x)
    weights = np.exp(log_weights) / len(log_weights)
    mean = (weights * loc).sum(axis=(0, 2))
    variance = (weights * (np.pi**2 * scale**2 / 3 + loc**2)).sum(axis=(0, 2)) - mean**2
    np.testing.assert_allclose(predictive.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(predictive.variance, variance, rtol=1e-3)

    def cdf(at: np.ndarray) -> np.ndarray:
        return (weights * logistic.cdf(at[:, None], loc, scale)).sum(axis=(0, 2))

    np.testing.assert_allclose(predictive.cdf(y), cdf(y), atol=1e-5)
    for level, places in zip((0.05, 0.5, 0.95), predictive.quantile([0.05, 0.5, 0.95]), strict=True):
        np.testing.assert_allclose(cdf(places.astype(float)), level, atol=1e-4)


@every_method
def test_its_samples_follow_it(method: str, fitted: Any, x_y: Any) -> None:
    """The probability integral transform of samples is uniform: 60 means, each within 4 standard errors."""
    predictive = fitted(method).predict(x_y[0])
    samples = predictive.sample(0, (400,))
    transforms = np.stack([predictive.cdf(row) for row in samples[::4]])
    assert samples.shape == (400, 60)
    assert (np.abs(transforms.mean(axis=0) - 0.5) < 4 / np.sqrt(12 * len(transforms))).all()


def test_it_is_a_density(fitted: Any) -> None:
    grid = np.linspace(-30, 30, 20_001)
    density = np.exp(fitted("MLE").predict(np.full((len(grid), 1), 0.7)).log_prob(grid))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_it_is_compared_with_others_and_named(fitted: Any, x_y: Any) -> None:
    single = Model(MLP((4,), "tanh"), Normal("network"), gaussian(1.0))
    one = fit(single, METHODS["MLE"], *x_y, key=0, progress=False)
    table = compare({"mixture": fitted("MLE"), "one Gaussian": one}, *x_y)
    assert table.to_dataframe().index[0] == "mixture"
    assert {"rmse", "coverage", "calibration_error"} <= set(table.to_dataframe().columns)
    assert "Observations: mixture of 3 Logistic (mixture); Normal (one Gaussian)." in str(table)


@pytest.mark.slow
def test_its_loss_is_reported_in_words(fitted: Any, x_y: Any) -> None:
    result = fitted("MLE")
    explanation = explain(MODEL, *x_y, at=result)
    assert explanation.terms[0].distribution == "mixture of 3 Logistic"
    assert explanation.terms[0].name == "negative log of mixture of 3 Logistic"
    assert explanation.loss == pytest.approx(-log_density(result, *x_y).sum(), rel=1e-6)
    assert explanation.value_difference < 1e-9 * abs(explanation.total)


def test_it_asks_for_the_outputs_that_it_needs() -> None:
    assert LogisticMixture(5).num_outputs == 15
    assert MODEL.observation.num_outputs == 9
