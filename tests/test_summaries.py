"""What predictions are asked for, of every kind of y: against sums over all values of a mixture of three draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy import stats
from scipy.special import expit

from flatprior.inference import Predictive
from flatprior.inference.checks import check_problem
from flatprior.inference.mixture import integer_modes, integer_quantiles

X = np.linspace(-0.9, 2.0, 7, dtype=np.float32)
DRAWS = np.array([-0.5, 0.4, 1.3], np.float32)
VALUES = np.arange(1000)
RATES = np.exp(DRAWS[:, None] * X + 1.0)
CUTS = np.array([-1.0, 0.5, 2.0])
CLASSES = np.diff(expit(np.array([-np.inf, *CUTS, np.inf]) - (DRAWS[:, None] * X)[..., None]))


def line(observation: Callable[[Array], dist.Distribution]) -> Callable[..., None]:
    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", observation(w * x), obs=y)

    return model


def predictive(observation: Callable[[Array], dist.Distribution], y: np.ndarray) -> Predictive:
    density, _ = check_problem(line(observation), X, y)
    return Predictive(density, {"w": jnp.asarray(DRAWS)}, jnp.asarray(X))


DISCRETE: dict[str, tuple[Callable[[Array], dist.Distribution], Callable[[np.ndarray], Any]]] = {
    "Poisson": (lambda eta: dist.Poisson(jnp.exp(eta + 1.0)), stats.poisson(RATES[..., None]).pmf),
    "negative binomial": (
        lambda eta: dist.NegativeBinomial2(jnp.exp(eta + 1.0), 2.0),
        stats.nbinom(2.0, 2.0 / (2.0 + RATES[..., None])).pmf,
    ),
    "zero-inflated": (
        lambda eta: dist.ZeroInflatedPoisson(0.3, jnp.exp(eta + 1.0)),
        lambda k: 0.3 * (k == 0) + 0.7 * stats.poisson(RATES[..., None]).pmf(k),
    ),
    "binomial": (
        lambda eta: dist.Binomial(9, logits=eta),
        stats.binom(9, expit(DRAWS[:, None] * X)[..., None]).pmf,
    ),
    "beta-binomial": (
        lambda eta: dist.BetaBinomial(jnp.exp(eta + 1.0), 2.0, 9),
        stats.betabinom(9, RATES[..., None], 2.0).pmf,
    ),
    "ordered classes": (
        lambda eta: dist.OrderedLogistic(eta, CUTS),
        lambda k: np.where(
            k < 4,
            np.diff(expit(np.array([-np.inf, *CUTS, np.inf]) - (DRAWS[:, None] * X)[..., None]))[..., np.minimum(k, 3)],
            0.0,
        ),
    ),
}
"""A discrete distribution of eta, and its probabilities of many values at all draws and rows, by SciPy."""
LEVELS = [0.03, 0.5, 0.9, 0.999]


SLOW = ("binomial", "negative binomial", "beta-binomial")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in DISCRETE])
def test_discrete_summaries_are_those_of_the_enumerated_mixture(name: str) -> None:
    observation, pmf = DISCRETE[name]
    probs = pmf(VALUES).mean(axis=0)
    y = np.array([0, 1, 2, 3, 0, 1, 2])
    rows, cdf = np.arange(len(y)), probs.cumsum(axis=1)
    result = predictive(observation, y)
    np.testing.assert_allclose(result.cdf(y), cdf[rows, y], rtol=1e-5)
    np.testing.assert_allclose(result.pit(y), (cdf[rows, y] - probs[rows, y], cdf[rows, y]), rtol=1e-5, atol=1e-6)
    expected = np.array([(cdf < level).sum(axis=1) for level in LEVELS])
    np.testing.assert_array_equal(result.quantile(LEVELS), expected)
    np.testing.assert_array_equal(result.mode, probs.argmax(axis=1))
    if result.response.has_moments:
        np.testing.assert_allclose(result.std**2, probs @ VALUES**2 - (probs @ VALUES) ** 2, rtol=1e-4)


def test_large_counts_and_modes_far_apart() -> None:
    """Rates of a million, and a mixture whose median has hardly any probability."""
    rates = np.array([[1e6 + 0.5, 2.5], [1e6 + 0.5, 3000.5], [1e6 + 5e3, 3000.5]])
    grid, levels = np.arange(990_000, 1_020_000), np.array([1e-3, 0.5, 0.999])
    with jax.enable_x64(True):
        components = jax.vmap(dist.Poisson)(jnp.asarray(rates))
        pmf = stats.poisson(rates[:, :1]).pmf(grid).mean(axis=0)
        modes = np.asarray(integer_modes(components, None, None))
        np.testing.assert_array_equal(modes, [grid[pmf.argmax()], 2.0])
        fitted = np.asarray(integer_quantiles(components, None, jnp.asarray(levels)))
        np.testing.assert_array_equal(fitted[0], [grid[(pmf.cumsum() < level).sum()] for level in levels])
        failed = jax.vmap(dist.Poisson)(jnp.array([[np.nan, 1.0]]))
        np.testing.assert_array_equal(np.isnan(integer_modes(failed, None, None)), [True, False])
        np.testing.assert_array_equal(np.isnan(integer_quantiles(failed, None, levels)), [[True] * 3, [False] * 3])


def test_vectors_are_summarised_element_by_element() -> None:
    y = np.stack([X, X + 1], axis=1)
    vector = predictive(lambda eta: dist.Normal(jnp.stack([eta, eta + 1.0], axis=-1), 0.5).to_event(1), y)
    one = predictive(lambda eta: dist.Normal(eta, 0.5), X)
    for ask in (lambda p, at: p.cdf(at), lambda p, at: p.std):
        np.testing.assert_allclose(ask(vector, y)[:, 0], ask(one, X), rtol=1e-6)
        np.testing.assert_allclose(ask(vector, y)[:, 1], ask(one, X), rtol=1e-5)
    assert vector.interval().shape == (2, 7, 2)
    np.testing.assert_allclose(vector.interval(0.5)[..., 0], one.interval(0.5), rtol=1e-5)
    np.testing.assert_allclose(vector.quantile(0.7)[:, 1], one.quantile(0.7) + 1, rtol=1e-5)
    covariance = np.array([[1.0, 0.5], [0.5, 2.0]], np.float32)
    joint = predictive(lambda eta: dist.MultivariateNormal(jnp.stack([eta, eta], axis=-1), covariance), y)
    first = predictive(lambda eta: dist.Normal(eta, 1.0), X)
    np.testing.assert_allclose(joint.quantile([0.1, 0.8])[..., 0], first.quantile([0.1, 0.8]), rtol=1e-5)


def test_a_censored_time_is_summarised_as_the_time() -> None:
    y = np.abs(X) + 0.1
    base = lambda eta: dist.Weibull(jnp.exp(eta), 1.5)  # noqa: E731
    censored = predictive(lambda eta: dist.RightCensoredDistribution(base(eta), jnp.arange(7) % 2), y)
    whole = predictive(base, y)
    for ask in (lambda p: p.mean, lambda p: p.std, lambda p: p.cdf(y), lambda p: p.interval()):
        np.testing.assert_allclose(ask(censored), ask(whole), rtol=1e-6)
    np.testing.assert_allclose(censored.pit(y)[1], np.where(np.arange(7) % 2, 1.0, whole.cdf(y)), rtol=1e-6)
    flags = jnp.zeros(7)
    bounds = predictive(lambda eta: dist.IntervalCensoredDistribution(base(eta), flags, flags), np.stack([y, y + 1], 1))
    np.testing.assert_allclose(bounds.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(bounds.quantile(0.3), whole.quantile(0.3), rtol=1e-5)
    np.testing.assert_allclose(bounds.pit(np.stack([y, y + 1], 1)), (whole.cdf(y), whole.cdf(y + 1)), rtol=1e-5)
    with pytest.raises(ValueError, match="interval: expected a probability between 0 and 1; got 90"):
        whole.interval(90)
