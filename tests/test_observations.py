"""Observations: densities, tails and moments against SciPy, fits against statsmodels, and what is refused."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import statsmodels.api as sm
from jax import Array
from numpyro.handlers import seed, substitute, trace
from scipy import special, stats
from scipy.integrate import quad
from scipy.optimize import minimize
from statsmodels.miscmodels.ordinal_model import OrderedModel

from flatprior.inference import MAP, MLE, Code, Laplace, explain, fit, standardize
from flatprior.inference.curvature import divergence
from flatprior.models import (
    MLP,
    Bernoulli,
    Beta,
    Categorical,
    Censored,
    Exponential,
    Gamma,
    Independent,
    LogNormal,
    Mixture,
    Model,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    Weibull,
    ZeroInflated,
    censored,
    gaussian,
)
from flatprior.models.tails import TAILS, log_tails

from .tables import some_by_default

MAX_Z = 4.0
"""Standard errors that a statistic may be off: 6e-5 false alarms a comparison."""
HALF = dist.HalfNormal(1.0)
ETA = np.array([[-1.0, 0.3], [0.2, -0.4], [0.0, 0.0], [1.5, 1.0], [-0.3, -2.0]])
"""Outputs of a network in five rows."""
REAL, TIMES = np.array([-3.0, 0.1, 25.0, 1.4, -0.3]), np.array([0.01, 0.9, 40.0, 3.0, 1.0])
COUNTS, SHARES = np.array([0, 1, 30, 4, 2]), np.array([0.001, 0.3, 0.99, 0.5, 0.7])


class Case(NamedTuple):
    """An observation at known outputs and learned values, and what SciPy makes of these."""

    observation: Any
    y: np.ndarray
    learned: dict[str, Any]
    by_scipy: Callable[[np.ndarray], Any]
    """Outputs -> the frozen distribution of SciPy."""


def negative_binomial(mean: np.ndarray, r: Any) -> Any:
    return stats.nbinom(r, r / (r + mean))


def softplus(eta: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, eta) + 1e-6


CASES: dict[str, Case] = {
    "Bernoulli": Case(Bernoulli(), COUNTS % 2, {}, lambda e: stats.bernoulli(special.expit(e[:, 0]))),
    "Poisson": Case(Poisson(), COUNTS, {}, lambda e: stats.poisson(np.exp(e[:, 0]))),
    "Normal": Case(Normal(0.5), REAL, {}, lambda e: stats.norm(e[:, 0], 0.5)),
    "Normal, network": Case(Normal(), REAL, {}, lambda e: stats.norm(e[:, 0], softplus(e[:, 1]))),
    "NegativeBinomial": Case(
        NegativeBinomial(), COUNTS, {"concentration": 1.7}, lambda e: negative_binomial(np.exp(e[:, 0]), 1.7)
    ),
    "NegativeBinomial, network": Case(
        NegativeBinomial("network"),
        COUNTS,
        {},
        lambda e: negative_binomial(np.exp(e[:, 0]), np.exp(e[:, 1]) + 1e-6),
    ),
    "StudentT": Case(StudentT(), REAL, {}, lambda e: stats.t(4.0, e[:, 0], softplus(e[:, 1]))),
    "StudentT, learned": Case(
        StudentT(HALF, HALF), REAL, {"df": 3.0, "scale": 0.8}, lambda e: stats.t(3.0, e[:, 0], 0.8)
    ),
    "LogNormal": Case(LogNormal(0.7), TIMES, {}, lambda e: stats.lognorm(0.7, scale=np.exp(e[:, 0]))),
    "Gamma": Case(Gamma(), TIMES, {"concentration": 2.5}, lambda e: stats.gamma(2.5, scale=np.exp(e[:, 0]) / 2.5)),
    "Weibull": Case(Weibull(1.5), TIMES, {}, lambda e: stats.weibull_min(1.5, scale=np.exp(e[:, 0]))),
    "Exponential": Case(Exponential(), TIMES, {}, lambda e: stats.expon(scale=np.exp(e[:, 0]))),
    "Beta": Case(
        Beta(),
        SHARES,
        {"concentration": 6.0},
        lambda e: stats.beta(6.0 * special.expit(e[:, 0]), 6.0 * special.expit(-e[:, 0])),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.mark.usefixtures("x64")
@every_case
def test_density_moments_and_cdf_are_those_of_scipy(name: str) -> None:
    observation, y, learned, by_scipy = CASES[name]
    d, expected = observation.distribution(jnp.asarray(ETA), jax.tree.map(jnp.asarray, learned)), by_scipy(ETA)
    discrete = d.support.is_discrete
    np.testing.assert_allclose(d.log_prob(y), (expected.logpmf if discrete else expected.logpdf)(y), rtol=1e-9)
    np.testing.assert_allclose(d.mean, np.broadcast_to(expected.mean(), (5,)), rtol=1e-10)
    np.testing.assert_allclose(np.broadcast_to(d.variance, (5,)), np.broadcast_to(expected.var(), (5,)), rtol=1e-10)
    if name != "Bernoulli":
        np.testing.assert_allclose(d.cdf(y), expected.cdf(y), rtol=1e-9)


@every_case
def test_it_is_a_value_and_states_its_outputs(name: str) -> None:
    observation = CASES[name].observation
    again = type(observation)(**{field: getattr(observation, field) for field in observation.__dataclass_fields__})
    assert observation == again
    assert hash(observation) == hash(again)
    assert observation.num_outputs == 1 + sum(value == "network" for value in vars(observation).values())
    assert set(observation.learned) == set(CASES[name].learned)


@every_case
def test_y_must_be_one_value_per_row(name: str) -> None:
    observation, y, learned, _ = CASES[name]
    run = substitute(seed(observation, 0), {site: jnp.asarray(value) for site, value in learned.items()})
    eta = jnp.asarray(ETA[:, : observation.num_outputs], jnp.float32)
    assert trace(run).get_trace(eta)["y"]["fn"].batch_shape == (5,)
    with pytest.raises(ValueError, match=r"Expected y of shape \(5,\), one value per row of x.* Use y\[:, 0\]"):
        run(eta, y[:, None])


# Ordered classes.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_classes", some_by_default([2, 3, 5], 3))
def test_ordered_classes_have_the_probabilities_between_cutpoints(num_classes: int) -> None:
    gaps = np.array([0.4, 1.3, 2.0])[: num_classes - 2]
    d = Ordinal(num_classes).distribution(jnp.asarray(ETA[:, :1]), {"gaps": jnp.asarray(gaps)})
    cuts = np.append(0.0, np.cumsum(gaps))
    below = special.expit(cuts - cuts.mean() - ETA[:, :1])
    probs = np.diff(np.column_stack([np.zeros(5), below, np.ones(5)]), axis=1)
    np.testing.assert_allclose(np.exp(d.log_prob(jnp.arange(num_classes)[:, None])).T, probs, rtol=1e-12)
    for k in range(num_classes):
        np.testing.assert_allclose(d.cdf(jnp.full(5, k)), probs[:, : k + 1].sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(d.cdf(jnp.full(5, -1)), 0.0)
    draws = np.asarray(d.sample(jax.random.key(0), (4000,)))
    error = np.sqrt(probs * (1 - probs) / 4000)
    assert (np.abs((draws[..., None] == np.arange(num_classes)).mean(axis=0) - probs) < MAX_Z * error + 1e-9).all()
    with pytest.raises(NotImplementedError):
        _ = d.mean


def test_log_probabilities_of_ordered_classes_are_exact_in_both_tails() -> None:
    """In float32, where the difference of two sigmoids is 0 from 17 on; and so are their derivatives."""
    eta = jnp.array([-80.0, -30.0, 30.0, 80.0])

    def middle(eta: Array) -> Array:
        d = Ordinal(3).distribution(eta[:, None], {"gaps": jnp.array([1.0])})
        return d.log_prob(jnp.ones(4, int))

    expected = -np.abs(np.asarray(eta, float)) + 0.5 + np.log(-np.expm1(-1.0))  # sigmoid(-z) is exp(-z) out there
    np.testing.assert_allclose(middle(eta), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda eta: middle(eta).sum())(eta), [1, 1, -1, -1], rtol=1e-6)


# Censored values.

CENSORABLE = ("Normal", "StudentT", "LogNormal", "Gamma", "Weibull", "Exponential")
FAR = {
    "Normal": [-40.0, -5.0, -0.5, 0.5, 5.0, 40.0],
    "StudentT": [-1e5, -30.0, -0.5, 0.5, 30.0, 1e5],
    "LogNormal": [1e-9, 0.05, 0.8, 3.0, 60.0, 1e8],
    "Gamma": [1e-9, 0.05, 0.8, 3.0, 60.0, 250.0],
    "Weibull": [1e-9, 0.05, 0.8, 3.0, 60.0, 400.0],
    "Exponential": [1e-9, 0.05, 0.8, 3.0, 60.0, 400.0],
}
"""Values from the far lower to the far upper tail of a distribution at eta = 0."""


def at_zero(name: str, size: int) -> tuple[Any, Any]:
    """A distribution at outputs of 0, and SciPy's."""
    observation, _, learned, by_scipy = CASES[name]
    eta = np.zeros((size, 2))
    return observation.distribution(jnp.asarray(eta), jax.tree.map(jnp.asarray, learned)), by_scipy(eta)


@pytest.mark.parametrize("name", CENSORABLE)
def test_both_tails_are_exact_far_out(name: str) -> None:
    """In float32, against SciPy in float64."""
    y = np.array(FAR[name])
    d, expected = at_zero(name, len(y))
    log_cdf, log_sf = log_tails(d, jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(log_cdf, expected.logcdf(y), rtol=3e-5, atol=1e-8)
    np.testing.assert_allclose(log_sf, expected.logsf(y), rtol=3e-5, atol=1e-8)
    assert type(d) in TAILS


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of every kind, in all parts of a distribution; and their log probabilities by SciPy."""
    y = np.array(FAR[name])
    least = -np.inf if name in ("Normal", "StudentT") else 0.0
    bounds = [(t, t) for t in y] + [(t, np.inf) for t in y] + [(least, t) for t in y]
    bounds += list(pairwise(y)) + [(least, np.inf)]
    rows = np.array(bounds)
    _, expected = at_zero(name, len(rows))
    lower, upper = rows.T
    with np.errstate(all="ignore"):
        below = special.logsumexp([expected.logcdf(upper), expected.logcdf(lower)], axis=0, b=[[1], [-1]])
        above = special.logsumexp([expected.logsf(lower), expected.logsf(upper)], axis=0, b=[[1], [-1]])
        between = np.where(expected.logcdf(upper) < expected.logsf(lower), below, above)
        return rows, np.where(lower == upper, expected.logpdf(lower), between)


@pytest.mark.parametrize("name", some_by_default(CENSORABLE, "Normal"))
def test_bounds_have_the_log_probability_of_their_interval(name: str) -> None:
    """In float32; the derivatives are finite, also those of the terms that do not count."""
    rows, expected = rows_of(name)
    observation = Censored(CASES[name].observation)
    learned = {site: jnp.asarray(value, jnp.float32) for site, value in CASES[name].learned.items()}

    def log_prob(eta: Array, learned: Any) -> Array:
        run = substitute(seed(observation, 0), learned)
        site = trace(run).get_trace(eta, jnp.asarray(rows, jnp.float32))["y"]
        return site["fn"].log_prob(site["value"])

    eta = jnp.zeros((len(rows), observation.num_outputs), jnp.float32)
    np.testing.assert_allclose(log_prob(eta, learned), expected, rtol=1e-4, atol=2e-5)
    gradients = jax.grad(lambda *args: log_prob(*args).sum(), argnums=(0, 1))(eta, learned)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", some_by_default([1e-1, 1e-4, 1e-12], 1e-12))
def test_narrow_intervals_have_the_density_times_the_width(width: float) -> None:
    """As narrow as that the difference of two cdfs has no digits left."""
    lower = np.array([-6.0, -1.0, 0.3, 6.0])
    upper = lower + width
    run = seed(Censored(Normal(1.0)), 0)
    site = trace(run).get_trace(jnp.zeros((4, 1)), jnp.stack([lower, upper], axis=1))["y"]
    middle = stats.norm.logpdf((lower + upper) / 2) + np.log(upper - lower)
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), middle, atol=2 * width**2 + 1e-7)


def test_a_censored_y_is_described_like_one_that_is_not() -> None:
    d = Censored(Weibull(1.5)).distribution(jnp.zeros((3, 1)), {})
    expected = dist.Weibull(jnp.ones(3), 1.5)
    assert d.batch_shape == (3,)
    assert d.event_shape == ()
    np.testing.assert_allclose(d.mean, expected.mean)
    np.testing.assert_allclose(d.variance, expected.variance)
    np.testing.assert_allclose(d.cdf(TIMES[:3]), expected.cdf(TIMES[:3]))
    np.testing.assert_allclose(d.log_prob(TIMES[:3]), expected.log_prob(TIMES[:3]))
    np.testing.assert_array_equal(d.sample(jax.random.key(0)), expected.sample(jax.random.key(0)))


@pytest.mark.usefixtures("x64")
def test_bounds_in_units_of_y_have_the_probability_of_those_in_other_units() -> None:
    """Only the density of a known value has units."""
    y, x = jnp.array([[3.0, 3.0], [2.0, jnp.inf], [0.0, 5.0], [1.0, 4.0]]), jnp.ones((4, 1))
    model = Model(MLP(), Censored(Weibull(1.5)))
    moved = standardize(model, np.arange(4.0)[:, None], y)
    (units,) = [units for _, units in moved.y]
    weights = {"w1": jnp.zeros((1, 1)), "b1": jnp.array([0.3])}
    of = lambda model, y: trace(substitute(seed(model, 0), weights)).get_trace(x, y)["y"]  # noqa: E731
    here, there = of(moved, y), of(model, y / units.sd[0])
    expected = there["fn"].log_prob(there["value"]) - np.log(units.sd[0]) * np.array([1, 0, 0, 0])
    np.testing.assert_allclose(here["fn"].log_prob(here["value"]), expected, rtol=1e-12)


BAD_BOUNDS: dict[str, tuple[Any, list[float], str]] = {
    "crossed": (Weibull(), [2.0, 1.0], r"y, row 1: expected a lower bound up to the upper one; got \(2, 1\). Swap"),
    "negative": (Weibull(), [-1.0, 1.0], "y, row 1: expected a positive number as lower bound"),
    "zero": (Weibull(), [0.0, 0.0], "y, row 1: expected a positive number as upper bound"),
    "infinite": (Normal(), [np.inf, np.inf], "y, row 1: expected a lower bound below inf"),
    "one missing": (Normal(), [np.nan, 1.0], "y, row 1: expected all values of the row, or none; got 1 of 2"),
}


@pytest.mark.parametrize("name", BAD_BOUNDS)
def test_bounds_that_do_not_exist_raise(name: str) -> None:
    observation, row, match = BAD_BOUNDS[name]
    with pytest.raises(ValueError, match=match):
        fit(
            Model(MLP(), Censored(observation)), MLE(), np.zeros((3, 1)), np.array([[1.0, 1.0], row, [1.0, 2.0]]), key=0
        )


# Fits, against others.


class Rows(NamedTuple):
    x: np.ndarray
    mean: np.ndarray
    rng: np.random.Generator


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(30)
    x = rng.normal(size=(300, 2))
    return Rows(x, np.exp(x @ [0.7, -0.4] + 0.3), rng)


def coefficients(result: Any) -> np.ndarray:
    return np.append(result.draws["b1"][0, 0], result.draws["w1"][0, 0])


@pytest.mark.parametrize("name", ["Poisson", pytest.param("NegativeBinomial", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_counts_are_fitted_as_by_statsmodels(name: str, rows: Rows) -> None:
    """Estimates and log likelihood; with an exposure."""
    days = rows.rng.uniform(0.5, 20.0, size=300)
    kind = {"Poisson": sm.Poisson, "NegativeBinomial": sm.NegativeBinomial}[name]
    y = rows.rng.poisson(rows.mean * days * (rows.rng.gamma(2.0, 0.5, size=300) if name != "Poisson" else 1.0))
    observation = {"Poisson": Poisson(), "NegativeBinomial": NegativeBinomial()}[name]
    result = fit(Model(MLP(), observation, exposure="days"), MLE(), {"x": rows.x, "days": days}, y, key=0)
    other = kind(y, sm.add_constant(rows.x), exposure=days).fit(disp=False, maxiter=500)
    assert result.status.level == "ok"
    np.testing.assert_allclose(coefficients(result), other.params[:3], rtol=1e-4)
    if name != "Poisson":
        np.testing.assert_allclose(1 / result.draws["concentration"][0, 0], other.params[3], rtol=1e-4)
    log_likelihood = result.log_likelihood({"x": rows.x, "days": days}, y).sum()
    np.testing.assert_allclose(log_likelihood, other.llf, rtol=1e-6)


def test_an_offset_is_the_log_of_an_exposure(rows: Rows) -> None:
    days = rows.rng.uniform(0.5, 20.0, size=300)
    y = rows.rng.poisson(rows.mean * days)
    model = Model(MLP(), Poisson(), exposure="days")
    other = Model(MLP(), Poisson(), offset="log_days")
    weights = {"w1": jnp.array([[0.7], [-0.4]]), "b1": jnp.array([0.3])}
    x, log_days = jnp.asarray(rows.x), jnp.log(days)
    for each, given in ((model, {"x": x, "days": jnp.asarray(days)}), (other, {"x": x, "log_days": log_days})):
        rate = trace(substitute(seed(each, 0), weights)).get_trace(given)["y"]["fn"].rate
        np.testing.assert_allclose(rate, rows.mean * days, rtol=1e-5)
    moved = standardize(model, {"x": rows.x, "days": days}, y)
    (features, kept) = moved.x if moved.x[1] is None else moved.x[::-1]
    assert features is not None
    assert kept is None, "a rate per day is one whatever the units of the features"


@pytest.mark.slow
def test_ordered_classes_are_fitted_as_by_statsmodels(rows: Rows) -> None:
    """Estimates, log likelihood, and standard errors by Laplace, whose draws have an error of their own."""
    y = np.digitize(rows.x @ [1.0, -0.5] + rows.rng.logistic(size=300), [-1.5, 0.0, 1.0])
    other = OrderedModel(y, rows.x, distr="logit").fit(disp=False, method="bfgs", gtol=1e-8)
    flat = gaussian(1e3)
    result = fit(Model(MLP(), Ordinal(4), flat), Laplace(num_samples=4000), rows.x, y, key=0)
    mode = fit(Model(MLP(), Ordinal(4)), MLE(), rows.x, y, key=0)
    np.testing.assert_allclose(mode.draws["w1"][0, 0, :, 0], other.params[:2], rtol=1e-4)
    np.testing.assert_allclose(mode.draws["gaps"][0, 0], np.exp(other.params[3:]), rtol=1e-4)
    np.testing.assert_allclose(mode.log_likelihood(rows.x, y).sum(), other.llf, rtol=1e-6)
    ratio = result.draws["w1"][0, ..., 0].std(axis=0) / other.bse[:2]
    assert (np.abs(ratio - 1) < MAX_Z / np.sqrt(2 * 4000)).all()


@pytest.mark.slow
def test_censored_times_are_fitted_as_by_hand(rows: Rows) -> None:
    """Right-, left- and interval-censored Weibull times, by a likelihood written in NumPy and maximised by SciPy."""
    time = rows.mean * rows.rng.weibull(1.5, size=300)
    y = censored(np.minimum(time, 2.0), time < 2.0)
    y[time < 0.3] = [0.0, 0.3]
    known = (time > 0.5) & (time < 2.0) & (rows.rng.random(300) < 0.3)
    y[known] = np.floor(4 * time[known])[:, None] / 4 + [0.0, 0.25]
    features = np.column_stack([np.ones(300), rows.x])

    def loss(parameters: np.ndarray) -> float:
        shape, scale = np.exp(parameters[3]), np.exp(features @ parameters[:3])
        with np.errstate(divide="ignore"):
            survival = np.exp(-((y / scale[:, None]) ** shape))
        density = stats.weibull_min.logpdf(y[:, 0], shape, scale=scale)
        return -np.where(y[:, 0] == y[:, 1], density, np.log(survival[:, 0] - survival[:, 1] + 1e-300)).sum()

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-6})
    result = fit(Model(MLP(), Censored(Weibull())), MLE(), rows.x, y, key=0)
    assert result.status.level == "ok"
    np.testing.assert_allclose(coefficients(result), best.x[:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.draws["concentration"][0, 0], np.exp(best.x[3]), rtol=1e-3)
    np.testing.assert_allclose(result.log_likelihood(rows.x, y).sum(), -best.fun, rtol=1e-6)
    tree = result.to_datatree(rows.x, y, key=0)
    np.testing.assert_allclose(tree["observed_data"]["y_upper"], y[:, 1], rtol=1e-6)
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "row")
    predictive = result.predict(rows.x)
    np.testing.assert_allclose(predictive.log_prob(y), result.log_likelihood(rows.x, y)[0, 0], rtol=1e-5)
    assert predictive.mean.shape == (300,)


DIVERGENCES: dict[str, tuple[Any, Any, Any, Any]] = {
    "Exponential": (dist.Exponential(2.0), dist.Exponential(0.7), stats.expon(scale=0.5), stats.expon(scale=1 / 0.7)),
    "Weibull": (
        dist.Weibull(2.0, 1.5),
        dist.Weibull(0.7, 0.8),
        stats.weibull_min(1.5, scale=2.0),
        stats.weibull_min(0.8, scale=0.7),
    ),
    "LogNormal": (
        dist.LogNormal(0.3, 0.5),
        dist.LogNormal(-0.2, 0.8),
        stats.lognorm(0.5, scale=np.exp(0.3)),
        stats.lognorm(0.8, scale=np.exp(-0.2)),
    ),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_integrals(name: str) -> None:
    """By which Laplace knows the Fisher information of y."""
    p, q, by_scipy, other = DIVERGENCES[name]
    expected = quad(lambda u: by_scipy.logpdf(t := by_scipy.ppf(u)) - other.logpdf(t), 0, 1)[0]
    np.testing.assert_allclose(divergence(p, q), expected, rtol=1e-4)


# Fits without a maximum.

RUNS_AWAY = {Code.SEPARABLE, Code.SATURATED}
"""The loss falls along a ray, or has become exactly 0 on the way."""
SICK: dict[str, tuple[Any, Callable[[Rows], np.ndarray], set[Code]]] = {
    "all counts 0": (NegativeBinomial(), lambda rows: np.zeros(300, int), RUNS_AWAY),
    "all censored": (Censored(Exponential()), lambda rows: censored(rows.mean, np.zeros(300)), RUNS_AWAY),
    "separable": (Ordinal(3), lambda rows: np.digitize(rows.x[:, 0], [-0.5, 0.5]), {Code.RECEDING}),
    "a class at the end never occurs": (
        Ordinal(3),
        lambda rows: (rows.x[:, 1] + np.sin(50 * rows.x[:, 0]) > 0).astype(int),
        {Code.RECEDING},
    ),
    "a class in the middle never occurs": (
        Ordinal(3),
        lambda rows: 2 * (rows.x[:, 1] + np.sin(50 * rows.x[:, 0]) > 0).astype(int),
        {Code.AT_BOUNDARY},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SICK)
@pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")
def test_a_likelihood_without_a_maximum_is_named(name: str, rows: Rows) -> None:
    observation, y, codes = SICK[name]
    result = fit(Model(MLP(), observation), MLE(), rows.x, y(rows), key=0, progress=False)
    assert codes & set(result.status.codes), result.status


@pytest.mark.slow
@pytest.mark.parametrize("method", [MLE(), MAP()], ids=["MLE", "MAP"])
@pytest.mark.parametrize("seed", range(3))
def test_default_fits_of_plain_data_are_ok(method: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 2))
    eta = x @ [0.7, -0.4] + 0.3
    mean = np.exp(eta)
    time = mean * rng.weibull(1.5, size=200)
    problems: dict[str, tuple[Any, np.ndarray]] = {
        "NegativeBinomial": (NegativeBinomial(), rng.negative_binomial(2.0, 2 / (2 + mean))),
        "StudentT": (StudentT(), eta + 0.5 * rng.standard_t(4, size=200)),
        "LogNormal": (LogNormal(), np.exp(eta + 0.4 * rng.normal(size=200))),
        "Gamma": (Gamma(), rng.gamma(3.0, mean / 3)),
        "Weibull": (Weibull(), time),
        "Exponential": (Exponential(), rng.exponential(mean)),
        "Beta": (Beta(), rng.beta(5 * special.expit(eta), 5 * special.expit(-eta))),
        "Ordinal": (Ordinal(4), np.digitize(eta + rng.logistic(size=200), [-1.0, 0.0, 1.5])),
        "Censored": (Censored(Weibull()), censored(np.minimum(time, 2.0), time < 2.0)),
        "Independent": (Independent(Normal(HALF), 2), np.stack([eta, -eta], axis=1) + rng.normal(size=(200, 2))),
        "MultivariateNormal": (
            MultivariateNormal(2),
            np.stack([eta, -eta], axis=1) + rng.multivariate_normal([0, 0], [[1.0, 0.5], [0.5, 1.0]], size=200),
        ),
        "ZeroInflated": (ZeroInflated(Poisson()), np.where(rng.random(200) < 0.3, 0, rng.poisson(3 * mean))),
        "Mixture": (Mixture(Normal(), 2), np.where(rng.random(200) < 0.5, eta, -eta) + 0.1 * rng.normal(size=200)),
    }
    for name, (observation, y) in problems.items():
        result = fit(Model(MLP(), observation), method, x, y, key=seed, progress=False)
        assert result.status.level == "ok", (name, result.status)


# Observations made of others.


@pytest.mark.usefixtures("x64")
def test_independent_values_have_outputs_in_blocks_and_a_scale_each() -> None:
    observation = Independent(Normal(HALF), 2)
    y, scale = np.array([[0.1, -1.0]] * 5), jnp.array([0.5, 2.0])
    sites = trace(substitute(seed(observation, 0), {"scale": scale})).get_trace(jnp.asarray(ETA), jnp.asarray(y))
    assert sites["y"]["fn"].event_shape == (2,)
    assert sites["scale"]["fn"].event_shape == (2,)
    np.testing.assert_allclose(sites["y"]["fn"].log_prob(y), stats.norm.logpdf(y, ETA, scale).sum(axis=1), rtol=1e-10)
    eta = np.column_stack([ETA, ETA[::-1]])  # two means, then two scales
    by_network = trace(seed(Independent(Normal(), 2), 0)).get_trace(jnp.asarray(eta), jnp.asarray(y))["y"]["fn"]
    expected = stats.norm.logpdf(y, eta[:, :2], softplus(eta[:, 2:])).sum(axis=1)
    np.testing.assert_allclose(by_network.log_prob(y), expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_multivariate_normal_has_the_covariance_of_its_scales_and_correlation() -> None:
    scale, factor = jnp.array([0.5, 2.0]), jnp.array([[1.0, 0.0], [0.6, 0.8]])
    run = substitute(seed(MultivariateNormal(2), 0), {"scale": scale, "correlation": factor})
    y = np.array([[0.1, -1.0]] * 5)
    d = trace(run).get_trace(jnp.asarray(ETA), jnp.asarray(y))["y"]["fn"]
    covariance = np.array([[0.25, 0.6], [0.6, 4.0]])
    expected = [stats.multivariate_normal(mean, covariance).logpdf(y[0]) for mean in ETA]
    np.testing.assert_allclose(d.log_prob(y), expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["number", "learned", "network"])
def test_zero_inflated_counts_are_zero_more_often(form: str) -> None:
    gate = {"number": 0.3, "learned": 0.3, "network": special.expit(ETA[:, 1])}[form]
    observation = ZeroInflated(Poisson(), {"number": 0.3, "learned": dist.Beta(1.0, 1.0), "network": "network"}[form])
    d = observation.distribution(jnp.asarray(ETA), {"gate": jnp.asarray(0.3)} if form == "learned" else {})
    count = stats.poisson(np.exp(ETA[:, 0]))
    expected = np.where(COUNTS == 0, gate, 0.0) + (1 - gate) * count.pmf(COUNTS)
    np.testing.assert_allclose(d.log_prob(COUNTS), np.log(expected), rtol=1e-10)
    np.testing.assert_allclose(d.mean, (1 - gate) * count.mean(), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_mixture_has_outputs_in_blocks_and_learns_for_each_component() -> None:
    eta = np.column_stack([ETA, ETA[::-1]])  # two logits, then two means
    observation = Mixture(Normal(HALF), 2)
    assert observation.num_outputs == 4
    scale = jnp.array([0.5, 2.0])
    d = observation.distribution(jnp.asarray(eta), {"scale": scale})
    parts = special.softmax(eta[:, :2], axis=1) * stats.norm.pdf(REAL[:, None], eta[:, 2:], scale)
    np.testing.assert_allclose(d.log_prob(REAL), np.log(parts.sum(axis=1)), rtol=1e-10)
    assert observation.learned["scale"].event_shape == (2,)


@pytest.mark.slow
def test_values_within_a_vector_may_be_ordered_classes_or_mixtures() -> None:
    for observation, y in (
        (Independent(Ordinal(4), 2), np.array([[0, 3]] * 5)),
        (Independent(Mixture(Poisson(), 3), 2), np.array([[0, 3]] * 5)),
    ):
        eta = jnp.zeros((5, observation.num_outputs))
        site = trace(seed(observation, 0)).get_trace(eta, y)["y"]
        assert site["fn"].log_prob(y).shape == (5,)


# What is refused.

REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "concentration": (
        lambda: NegativeBinomial(-1.0),
        ValueError,
        "NegativeBinomial: expected a positive number, .*-1.0",
    ),
    "word": (
        lambda: Gamma("net"),
        ValueError,
        "Gamma: expected a positive number, a NumPyro distribution or 'network'",
    ),
    "prior": (lambda: Beta(dist.Normal(0.0, 1.0)), ValueError, "one distribution over positive numbers, such as LogN"),
    "gate": (lambda: ZeroInflated(Poisson(), 1.0), ValueError, "expected a number between 0 and 1"),
    "prior of a gate": (
        lambda: ZeroInflated(Poisson(), HALF),
        ValueError,
        "one distribution over numbers between 0 and",
    ),
    "gaps": (lambda: Ordinal(3, 0.0), ValueError, "Ordinal: expected a positive number"),
    "classes": (lambda: Ordinal(1), ValueError, "Ordinal: expected at least 2 classes; got 1"),
    "no count": (lambda: ZeroInflated(Normal()), TypeError, "ZeroInflated: expected an observation of a count"),
    "no count, but 0 or 1": (
        lambda: ZeroInflated(Bernoulli()),
        TypeError,
        "ZeroInflated: expected an observation of a",
    ),
    "class": (lambda: Independent(Categorical(3), 2), TypeError, "Independent: expected an observation of one value"),
    "count": (lambda: Independent(Normal(), 0), ValueError, "expected an integer of at least 1 as num_values; got 0"),
    "components": (lambda: Mixture(Normal(), 1), ValueError, "expected an integer of at least 2 as num_components"),
    "mixture of bounds": (
        lambda: Mixture(Censored(Normal()), 2),
        TypeError,
        "Mixture: expected an observation whose y",
    ),
    "bounds of counts": (
        lambda: Censored(Poisson()),
        TypeError,
        "Censored: expected an observation of Normal, Student",
    ),
    "learned df": (lambda: Censored(StudentT(HALF)), ValueError, "StudentT whose df is a number"),
    "one number": (lambda: MultivariateNormal(1), ValueError, "expected an integer of at least 2 as num_values"),
    "LKJ": (
        lambda: MultivariateNormal(2, concentration=0.0),
        ValueError,
        "expected a positive number as concentration",
    ),
    "exposure": (lambda: Model(MLP(), Normal(), exposure="t"), ValueError, "log link.*whose link is the identity"),
    "offset": (lambda: Model(MLP(), Categorical(3), offset="t"), ValueError, "whose first output is the place of y"),
    "both": (lambda: Model(MLP(), Poisson(), offset="t", exposure="t"), ValueError, "different entries of x"),
    "censored, shapes": (lambda: censored([1.0, 2.0], [True]), ValueError, "of one shape"),
    "censored, times": (lambda: censored([1.0, np.inf], [True, True]), ValueError, "expected finite times.*row 1"),
    "censored, events": (lambda: censored([1.0, 2.0], [0, 2]), ValueError, "expected booleans as is_observed.*row 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_observation_cannot_be_is_refused(name: str) -> None:
    make, exception, match = REFUSED[name]
    with pytest.raises(exception, match=match):
        make()


BAD_X: dict[str, tuple[Any, str]] = {
    "array": (np.ones((3, 1)), "expected x to be a dict with the features and 'days'; got an array of shape"),
    "no features": ({"days": np.ones(3)}, "expected x to be a dict with the features and 'days'; got the entries"),
    "column": ({"x": np.ones((3, 1)), "days": np.ones((3, 1))}, r"expected one number per row in x\['days'\]"),
    "zero": ({"x": np.eye(3), "days": np.arange(3.0)}, r"x\['days'\], row 0: expected a positive exposure; got 0.0"),
}


@pytest.mark.parametrize("name", BAD_X)
def test_an_exposure_is_an_entry_of_x(name: str) -> None:
    x, match = BAD_X[name]
    with pytest.raises(ValueError, match=match):
        fit(Model(MLP(), Poisson(), exposure="days"), MLE(), x, np.arange(3), key=0)


# The loss in words, and by another implementation.

EXPLAINED: dict[str, tuple[Any, np.ndarray, str]] = {
    "NegativeBinomial": (NegativeBinomial(), COUNTS, "negative binomial loss .* one learned concentration c"),
    "StudentT": (StudentT(), REAL, "Student-t loss, .* df = 4, scale depends on x"),
    "LogNormal": (LogNormal(0.5), TIMES, r"squared error / \(2 \* 0.5\^2\).* of log y"),
    "Gamma": (Gamma(2.0), TIMES, "Gamma loss, .* concentration c = 2"),
    "Weibull": (Weibull("network"), TIMES, "Weibull loss, .* concentration c depends on x"),
    "Exponential": (Exponential(), TIMES, r"exponential loss, y / mean \+ log\(mean\)"),
    "Beta": (Beta(5.0), SHARES, "Beta NLL"),
    "Ordinal": (Ordinal(4), COUNTS % 4, "ordinal cross-entropy, with cumulative logits"),
    "Censored": (Censored(Gamma(2.0)), np.stack([TIMES, TIMES + COUNTS], axis=1), "censored likelihood"),
    "ZeroInflated": (ZeroInflated(Poisson()), COUNTS, "zero-inflated loss: .* p Poisson"),
    "Mixture": (Mixture(Normal(), 2), REAL, "negative log of mixture of 2 Normal"),
    "MultivariateNormal": (MultivariateNormal(2), ETA, r"squared Mahalanobis distance / 2 .* learned covariance"),
    "Independent": (Independent(Normal(HALF), 2), ETA, "Gaussian NLL, a learned scale for each output"),
}


@pytest.mark.parametrize("name", some_by_default(EXPLAINED, "Ordinal"))
def test_the_loss_is_named_and_checked(name: str) -> None:
    observation, y, words = EXPLAINED[name]
    explanation = explain(Model(MLP(), observation), ETA, y)
    (term,) = [term for term in explanation.terms if term.role == "loss"]
    assert term.checked_by is not None
    assert pytest.approx(0.0, abs=1e-5 * (1 + abs(explanation.total))) == explanation.value_difference
    assert explanation.gradient_difference < 1e-5 * (1 + abs(explanation.total))
    assert re.search(words, term.name)
