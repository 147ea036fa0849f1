"""Against closed forms, quadrature, statsmodels and scikit-learn."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import statsmodels.api as sm
from arviz_stats.base import array_stats
from jax import Array
from numpyro.infer import init_to_value
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression, Ridge

from flatprior.inference import MAP, MLE, NUTS, Fit, Laplace, PrecisionWarning, Predictive, compare, fit, flat
from flatprior.inference.checks import check_problem
from flatprior.inference.information import code_length
from flatprior.inference.pointwise import log_likelihood
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

from .tables import some_by_default

SCALE = 0.7
"""Known scale of y."""
SPREAD = 0.8
"""Prior standard deviation of the weights."""
FREE = gaussian(1e6)
"""For intercepts, which scikit-learn does not penalise."""
MAX_Z = 4.0
"""Standard errors that a statistic may be off: 6e-5 false alarms a comparison, a few in a thousand a test."""

Coefficients = dict[str, np.ndarray]


def from_differences(params: Any) -> Coefficients:
    """MNLogit has coefficients of classes 1, 2, ... against class 0: a flat prior leaves only those identified."""
    params = np.asarray(params)
    return {"b1": params[0], "w1": params[1:]}


def of_column(params: Any) -> Coefficients:
    return {"b1": np.asarray(params)[:1], "w1": np.asarray(params)[1:, None]}


def of_sklearn(estimator: Any) -> Coefficients:
    return {"b1": np.atleast_1d(estimator.intercept_), "w1": np.atleast_2d(estimator.coef_).T}


def logistic_regression(x: np.ndarray, y: np.ndarray) -> Coefficients:
    return of_sklearn(LogisticRegression(C=SPREAD**2, solver="newton-cholesky", tol=1e-13, max_iter=1000).fit(x, y))


PENALISED = {"w*": gaussian(SPREAD), "b*": FREE}
ORACLES: dict[str, tuple[Model, Any, str, Callable[[np.ndarray, np.ndarray], Coefficients]]] = {
    "OLS": (
        Model(MLP(), Normal(SCALE)),
        MLE,
        "real",
        lambda x, y: of_column(sm.OLS(y, sm.add_constant(x)).fit().params),
    ),
    "Logit": (
        Model(MLP(), Bernoulli()),
        MLE,
        "binary",
        lambda x, y: of_column(sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-13).params),
    ),
    "MNLogit": (
        Model(MLP(), Categorical(3)),
        MLE,
        "classes",
        lambda x, y: from_differences(sm.MNLogit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=100).params),
    ),
    "Ridge": (
        Model(MLP(), Normal(SCALE), PENALISED),
        MAP,
        "real",
        lambda x, y: of_sklearn(Ridge(alpha=SCALE**2 / SPREAD**2, tol=1e-14).fit(x, y)),
    ),
    "LogisticRegression": (Model(MLP(), Bernoulli(), PENALISED), MAP, "binary", logistic_regression),
    "LogisticRegression, classes": (Model(MLP(), Categorical(3), PENALISED), MAP, "classes", logistic_regression),
}


def from_class_zero(values: np.ndarray) -> np.ndarray:
    """Softmax is the same for all weights that differ by a constant over classes."""
    return values[..., 1:] - values[..., :1] if values.shape[-1] == 3 else values


@pytest.mark.parametrize("precision", some_by_default(["float32", "float64"], "float64"))
@pytest.mark.parametrize("name", ORACLES)
def test_point_estimates_are_those_of_other_libraries(name: str, precision: str, data_sets: dict[str, Any]) -> None:
    model, method, kind, oracle = ORACLES[name]
    x, y = data_sets[kind]
    rtol = {"float32": 1e-4, "float64": 1e-8}[precision]
    with jax.enable_x64(True) if precision == "float64" else nullcontext():
        result = fit(model, method(num_steps=500), x, y, key=0, progress=False)
    assert result.status.level == "ok"
    for site, expected in oracle(x, y).items():
        draw = result.draws[site][0, 0]
        assert draw.dtype == precision
        np.testing.assert_allclose(from_class_zero(draw), from_class_zero(expected), rtol=rtol, err_msg=site)


def test_penalised_classes_sum_to_zero(x64: None, data_sets: dict[str, Any]) -> None:
    """The prior identifies what the likelihood does not: of all equal softmaxes the smallest weights."""
    x, y = data_sets["classes"]
    model, method, _, oracle = ORACLES["LogisticRegression, classes"]
    result = fit(model, method(num_steps=500), x, y, key=0, progress=False).draws["w1"][0, 0]
    np.testing.assert_allclose(result.sum(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(result, oracle(x, y)["w1"], rtol=1e-8)


def five_numbers(x: Array, y: Array | None = None) -> None:
    mean = numpyro.sample("mean", FREE("mean", ()))
    scale = numpyro.sample("scale", dist.Exponential(2.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)


@pytest.mark.parametrize("method", [MLE, MAP])
def test_a_scale_is_at_the_maximum_in_its_own_coordinates(x64: None, method: Any) -> None:
    """And not at that of the density of its logarithm, which has the Jacobian: for the MLE sqrt(66 / 4) = 4.062.

    Of n numbers with sum of squares S around their mean the derivative in s is 0 where ``r s^3 + n s^2 = S``, with the
    rate r of the exponential prior.
    """
    y = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
    result = fit(five_numbers, method(num_steps=1000), np.ones((5, 1)), y, key=0, progress=False)
    expected = {MLE: np.sqrt(66 / 5), MAP: max(np.roots([2.0, 5.0, 0.0, -66.0]).real)}[method]
    np.testing.assert_allclose(result.draws["scale"].item(), expected, rtol=1e-8)
    np.testing.assert_allclose(result.draws["mean"].item(), 5.0, rtol=1e-8)
    if method is MLE:
        assert round(result.draws["scale"].item(), 3) == 3.633


def conjugate(x: np.ndarray, y: np.ndarray, precision: float = 1 / SPREAD**2) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (b1, w1) given y, for a known scale (Bishop 2006, eq. 3.50 and 3.51)."""
    design = sm.add_constant(x)
    covariance = np.linalg.inv(precision * np.eye(design.shape[1]) + design.T @ design / SCALE**2)
    return covariance @ design.T @ y / SCALE**2, covariance


def z_score(draws: np.ndarray, expected: float) -> float:
    """How many Monte Carlo standard errors the mean of draws (chain, draw) is off; allows for autocorrelation."""
    draws = np.asarray(draws, float)
    return float((draws.mean() - expected) / array_stats.mcse(draws, method="mean"))


def weights_of(result: Fit) -> np.ndarray:
    """(chain, draw, weight), the intercept first."""
    return np.concatenate([result.draws["b1"], result.draws["w1"][..., 0]], axis=-1)


def moment_z_scores(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Of the first moments, and of all second ones around the mean that should be: (statistic,)."""
    off = np.asarray(draws, float) - mean
    firsts = [z_score(off[..., i], 0.0) for i in range(len(mean))]
    pairs = [(i, j) for i in range(len(mean)) for j in range(i + 1)]
    return np.array(firsts + [z_score(off[..., i] * off[..., j], covariance[i, j]) for i, j in pairs])


LINEAR = Model(MLP(), Normal(SCALE), gaussian(SPREAD))
SAMPLER = NUTS(num_warmup=300, num_samples=500, num_chains=4, start=None)


@pytest.mark.slow
def test_nuts_draws_the_conjugate_posterior_of_linear_regression(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["real"]
    mean, covariance = conjugate(x, y)
    new = sm.add_constant(x[:5])
    for key in (*range(3), *range(100, 115)):
        result = fit(LINEAR, SAMPLER, x, y, key=key, progress=False)
        scores = moment_z_scores(weights_of(result), mean, covariance)
        assert np.abs(scores).max() < MAX_Z, (key, scores)
        eta = weights_of(result) @ new.T
        predictive = result.predict(x[:5])
        np.testing.assert_allclose(predictive.mean, eta.mean(axis=(0, 1)), rtol=1e-4, atol=1e-4)
        spread = predictive.variance - SCALE**2 - np.diag(new @ covariance @ new.T)
        centred = (eta - eta.mean(axis=(0, 1))) ** 2
        errors = np.array([array_stats.mcse(np.asarray(centred[..., i], float), method="mean") for i in range(5)])
        assert np.abs(spread / errors).max() < MAX_Z, (key, spread / errors)


@pytest.mark.slow
def test_nuts_under_a_flat_prior_is_the_sampling_distribution_of_ols(data_sets: dict[str, Any]) -> None:
    """With a known scale that posterior is proper, and `improper_ok` says that this has been thought of."""
    x, y = data_sets["real"]
    ols = sm.OLS(y, sm.add_constant(x)).fit()
    mean, covariance = ols.params, SCALE**2 * ols.normalized_cov_params
    sampler = NUTS(num_warmup=300, num_samples=500, start=None, improper_ok=True)
    for key in range(5):
        result = fit(flat(LINEAR), sampler, x, y, key=key, progress=False)
        scores = moment_z_scores(weights_of(result), mean, covariance)
        assert np.abs(scores).max() < MAX_Z, (key, scores)


def one_weight(x: Array, y: Array | None = None) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.5))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=slope * x[:, 0]), obs=y)


def joint_of_one_weight(slope: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log p(y, slope) without its constants."""
    eta = np.multiply.outer(slope, x[:, 0])
    return (y * eta - np.logaddexp(0, eta)).sum(axis=-1) - slope**2 / (2 * 1.5**2)


def test_map_of_one_weight_is_the_maximum_on_the_line(x64: None, data_sets: dict[str, Any]) -> None:
    x, y = data_sets["binary"]
    best = minimize_scalar(lambda slope: -joint_of_one_weight(np.array(slope), x, y), (0.0, 1.0), tol=1e-12).x
    result = fit(one_weight, MAP(num_steps=300), x, y, key=0, progress=False)
    np.testing.assert_allclose(result.draws["slope"].item(), best, rtol=1e-6)  # what comparing values can tell


def check_one_weight(keys: range, data_sets: dict[str, Any]) -> None:
    x, y = data_sets["binary"]
    grid = np.linspace(-10, 10, 20_001)
    density = np.exp(joint_of_one_weight(grid, x, y) - joint_of_one_weight(grid, x, y).max())
    density /= density.sum()
    mean = density @ grid
    statistics = {
        "mean": (lambda slope: slope, mean),
        "variance": (lambda slope: (slope - mean) ** 2, density @ (grid - mean) ** 2),
        "p(y = 1 | x = 2)": (lambda slope: expit(2 * slope), density @ expit(2 * grid)),
        "p(y = 1 | x = -5)": (lambda slope: expit(-5 * slope), density @ expit(-5 * grid)),
    }
    for key in keys:
        slope = fit(one_weight, SAMPLER, x, y, key=key, progress=False).draws["slope"]
        scores = {name: z_score(of(slope), expected) for name, (of, expected) in statistics.items()}
        assert max(map(abs, scores.values())) < MAX_Z, (key, scores)


@pytest.mark.slow
def test_nuts_draws_the_posterior_of_one_weight(data_sets: dict[str, Any]) -> None:
    check_one_weight(range(100, 120), data_sets)


@pytest.mark.slow
def test_nuts_draws_a_learned_scale(data_sets: dict[str, Any]) -> None:
    """Mean known: p(scale | y) on a grid, in the coordinates of the scale."""

    def model(x: Array, y: Array | None = None) -> None:
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(0.0, scale), obs=y)

    x, y = data_sets["real"][0], data_sets["real"][1][:8]
    grid = np.linspace(1e-3, 12, 50_000)
    log_joint = -8 * np.log(grid) - (y**2).sum() / (2 * grid**2) - grid**2 / 2
    density = np.exp(log_joint - log_joint.max())
    density /= density.sum()
    for key in range(10):
        scale = fit(model, SAMPLER, x[:8], y, key=key, progress=False).draws["scale"]
        scores = [z_score(scale, density @ grid), z_score(scale**2, density @ grid**2)]
        assert np.abs(scores).max() < MAX_Z, (key, scores)


def test_predictive_log_prob_of_a_point_is_scored_by_scipy(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["real"]
    result = fit(LINEAR, MAP(num_steps=300), x, y, key=0, progress=False)
    mean, _ = conjugate(x, y)
    new = x[:7] + 1.0
    expected = norm(sm.add_constant(new) @ mean, SCALE).logpdf(y[:7])
    np.testing.assert_allclose(result.predict(new).log_prob(y[:7]), expected, rtol=1e-4)


class Family(NamedTuple):
    """Values at which the terms of a log probability cancel, and SciPy's log probability of the same numbers."""

    of: Callable[[Array], dist.Distribution]
    """The distribution at a parameter of each row."""
    parameter: float
    oracle: Callable[[np.ndarray], Any]
    """SciPy's distribution at these parameters."""


FAMILIES: dict[str, Family] = {
    "Poisson, 10": Family(dist.Poisson, 10.0, stats.poisson),
    "Poisson, 1e5": Family(dist.Poisson, 1e5, stats.poisson),
    "Poisson, 1e7": Family(dist.Poisson, 1e7, stats.poisson),
    "NegativeBinomial2, nearly Poisson": Family(
        lambda c: dist.NegativeBinomial2(10.0, c), 1e7, lambda c: stats.nbinom(c, c / (c + 10.0))
    ),
    "Binomial, rare": Family(lambda p: dist.Binomial(1_000_000, p), 3e-6, lambda p: stats.binom(1_000_000, p)),
    "Gamma, concentrated": Family(lambda a: dist.Gamma(a, 1.0), 1e6, stats.gamma),
    "Beta, concentrated": Family(lambda a: dist.Beta(a, 2e5), 1e5, lambda a: stats.beta(a, 2e5)),
    "StudentT, nearly Normal": Family(lambda df: dist.StudentT(df, 0.0, 1.0), 1e6, stats.t),
    "Normal, far from 0": Family(lambda loc: dist.Normal(loc, 1.0), 1e4, stats.norm),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_large_numbers_are_those_of_scipy(name: str) -> None:
    """In float32 they are off by 0.02 to 2 nats per row, except for the first and the last."""
    family = FAMILIES[name]

    def model(x: Array, y: Array | None = None) -> None:
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", family.of(x * jnp.exp(level)), obs=y)

    x = family.parameter * np.linspace(0.9, 1.1, 12).astype(np.float32)
    y = np.asarray(family.oracle(x.astype(float)).rvs(random_state=np.random.default_rng(0)))
    y = y if np.issubdtype(y.dtype, np.integer) else y.astype(np.float32)
    level = np.array([-0.01, 0.0, 0.02], np.float32)
    density, data = check_problem(model, x, y)
    log_prob = family.oracle(x * np.exp(level.astype(float))[:, None])
    exact = (log_prob.logpmf if hasattr(log_prob.dist, "logpmf") else log_prob.logpdf)(y.astype(float))
    draws = {"level": jnp.asarray(level)}
    np.testing.assert_allclose(log_likelihood(density, draws, data), exact, rtol=1e-4, atol=1e-6)
    mixed = logsumexp(exact, axis=0) - np.log(len(level))
    np.testing.assert_allclose(Predictive(density, draws, data.x).log_prob(y), mixed, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_every_score_of_large_counts_is_exact() -> None:
    """A Poisson rate under a Gamma prior, which is conjugate: everything is known in closed form."""

    def model(x: Array, y: Array | None = None) -> None:
        rate = numpyro.sample("rate", dist.Gamma(4.0, 4e-7))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Poisson(rate * jnp.ones(x.shape[0])), obs=y)

    x, y = np.zeros((20, 1)), np.random.default_rng(0).poisson(1e7, 20)
    start = MAP(num_steps=50, init_strategy=init_to_value(values={"rate": 1e7}))
    counts = fit(model, Laplace(start, num_samples=4, curvature="hessian"), x, y, key=0, progress=False)
    rate = counts.draws["rate"][0].astype(float)
    exact = stats.poisson(rate[:, None]).logpmf(y)
    mixed = logsumexp(exact, axis=0) - np.log(4)
    np.testing.assert_allclose(counts.log_likelihood(x, y)[0], exact, rtol=1e-4)
    np.testing.assert_allclose(compare({"it": counts}, x, y).table.loc["it", "elpd"], mixed.mean(), rtol=1e-4)
    np.testing.assert_allclose(code_length(counts, x, y).total, -mixed.sum() / np.log(2), rtol=1e-4)
    shape, scale = 4.0 + y.sum(), 4e-7 + 20
    evidence = 4 * np.log(4e-7) - gammaln(4.0) + gammaln(shape) - shape * np.log(scale) - gammaln(y + 1.0).sum()
    np.testing.assert_allclose(counts.log_evidence, evidence, rtol=1e-4)


def test_a_model_of_fixed_types_is_scored_as_it_can_be() -> None:
    """Its state is float32, whatever the types of its arguments: float64 would be a TypeError of JAX."""

    def walk(x: Array, y: Array | None = None, *, dtype: Any = jnp.float32) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        state = jnp.zeros((), dtype)
        _, path = jax.lax.scan(lambda state, each: (0.5 * state + slope * each, state), state, x)
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(path, 1.0), obs=y)

    def free(x: Array, y: Array | None = None) -> None:
        walk(x, y, dtype=x.dtype)

    x, y = np.linspace(-1, 1, 12, dtype=np.float32), np.zeros(12, np.float32)
    draws, scores = {"slope": jnp.array([0.3, 0.4])}, []
    for model, reported in ((walk, pytest.warns(PrecisionWarning, match="carry")), (free, nullcontext())):
        density, data = check_problem(model, x, y)
        with reported:
            scores.append(Predictive(density, draws, data.x).log_prob(y))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_a_log_density_that_float32_cannot_hold_is_infinite() -> None:
    """Without a warning about its type, as NumPy would give."""

    def steep(x: Array, y: Array | None = None) -> None:
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(level, 1e-18), obs=y)

    density, data = check_problem(steep, np.zeros((3, 1), np.float32), np.array([0.0, 1.0, 100.0], np.float32))
    result = Predictive(density, {"level": jnp.zeros(1)}, data.x).log_prob(data.y)
    np.testing.assert_allclose(result, [40.5276, -5e35, -np.inf], rtol=1e-5)
