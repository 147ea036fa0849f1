"""Every method on every posterior that has a closed form, or is known by quadrature: one table, one test."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from jax import Array
from scipy.optimize import minimize
from scipy.special import logsumexp

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Conditional, Ensemble, Fit, Laplace, fit
from flatprior.models import MLP

SCALE, SPREAD = 0.7, 0.8
"""Known scale of y, and the prior standard deviation of the weights."""
SHAPE, RATE = 3.0, 2.0
"""Of the inverse-gamma prior of a variance that is learned."""
MAX_Z = 4.0
"""Standard errors that a moment may be off: 6e-5 false alarms a comparison, a few in a hundred for all tests here."""
MAX_BIAS = 0.1
"""Posterior standard deviations that means and standard deviations may be off in chains that are not adjusted."""

RNG = np.random.default_rng(5)
X = np.concatenate([np.ones((30, 1)), RNG.normal(size=(30, 2))], axis=1)
REAL = X @ [0.3, 1.0, -0.5] + SCALE * RNG.normal(size=30)
LABELS = (X @ [0.3, 1.0, -0.5] + RNG.logistic(size=30) > 0).astype(int)
DIRECTIONS = RNG.normal(size=(2, 4))
"""Of the fixed features."""


class Gaussian(NamedTuple):
    """Moments of the parameters, (p,) and (p, p)."""

    mean: np.ndarray
    covariance: np.ndarray


class Oracle(NamedTuple):
    """A model, its rows, and what each kind of method should find. Parameters are the sites one after the other."""

    model: Callable[..., None]
    x: np.ndarray
    y: np.ndarray
    mle: np.ndarray
    mode: np.ndarray
    """Of the posterior, in the coordinates of the model."""
    posterior: Gaussian
    """Its moments, in `coordinates`."""
    laplace: Gaussian
    """The Gaussian at the mode of the density in unconstrained coordinates; moments in `coordinates`."""
    last: str = ""
    """The last site; none where there is but one."""
    conditional: Gaussian | None = None
    """Of the last site, given the others at the mode."""
    coordinates: Callable[[np.ndarray], np.ndarray] = lambda draws: draws
    """Of parameters (..., p), in which moments exist and Laplace's Gaussian is one."""


def linear(x: Array, y: Array | None = None) -> None:
    level = numpyro.sample("level", dist.Normal(0.0, SPREAD))
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(x.shape[1] - 1), SPREAD).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(level + x[:, 1:] @ slopes, SCALE), obs=y)


def learned_variance(x: Array, y: Array | None = None) -> None:
    variance = numpyro.sample("variance", dist.InverseGamma(SHAPE, RATE))
    prior = dist.Normal(jnp.zeros(x.shape[1]), SPREAD * jnp.sqrt(variance)).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, jnp.sqrt(variance)), obs=y)


def logistic(x: Array, y: Array | None = None) -> None:
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), SPREAD).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def last_layer(x: Array, y: Array | None = None) -> None:
    """The second layer of a network whose first one is known."""
    features = jnp.tanh(x[:, 1:] @ DIRECTIONS)
    eta = MLP()(features, 1, prior=lambda site, shape: dist.Normal(0.0, SPREAD).expand(shape))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(eta[:, 0], SCALE), obs=y)


def conjugate(design: np.ndarray, y: np.ndarray, noise: float, spread: float) -> Gaussian:
    """Bishop 2006, eq. 3.50 and 3.51."""
    covariance = np.linalg.inv(np.eye(design.shape[1]) / spread**2 + design.T @ design / noise**2)
    return Gaussian(covariance @ design.T @ y / noise**2, covariance)


def known_variance(model: Callable[..., None], design: np.ndarray, last: str, size: int) -> Oracle:
    """Linear in the weights: the posterior is Gaussian, and so is that of the last weights given the others."""
    posterior = conjugate(design, REAL, SCALE, SPREAD)
    rest = design[:, :-size] @ posterior.mean[:-size]
    given = conjugate(design[:, -size:], REAL - rest, SCALE, SPREAD)
    mle = np.linalg.lstsq(design, REAL)[0]
    return Oracle(model, X, REAL, mle, posterior.mean, posterior, posterior, last, given)


def normal_inverse_gamma() -> Oracle:
    """Beta given the variance is Normal(m, variance V), the variance is inverse-gamma(a, b) (Bishop 2006, ex. 3.12)."""
    size, num_rows = X.shape[1], len(REAL)
    m, v = conjugate(X, REAL, 1.0, SPREAD)
    a = SHAPE + num_rows / 2
    b = RATE + (REAL @ REAL - m @ np.linalg.solve(v, m)) / 2
    ols = np.linalg.lstsq(X, REAL)[0]
    mle = np.append(((REAL - X @ ols) ** 2).mean(), ols)
    mode = np.append(b / (a + 1 + size / 2), m)
    # By the logarithm of the variance, whose Jacobian takes the 1 away.
    log_variance = np.log(b / (a + size / 2))
    around = np.zeros((size + 1, size + 1))
    around[0, 0], around[1:, 1:] = 1 / (a + size / 2), np.exp(log_variance) * v
    grid = np.linspace(log_variance - 3, log_variance + 3, 20_001)
    share = -a * grid - b * np.exp(-grid)
    share = np.exp(share - logsumexp(share))
    moments = around.copy()
    moments[0, 0], moments[1:, 1:] = share @ (grid - share @ grid) ** 2, b / (a - 1) * v
    given = Gaussian(m, mode[0] * v)
    return Oracle(
        learned_variance,
        X,
        REAL,
        mle,
        mode,
        Gaussian(np.append(share @ grid, m), moments),
        Gaussian(np.append(log_variance, m), around),
        "beta",
        given,
        lambda draws: np.concatenate([np.log(draws[..., :1]), draws[..., 1:]], axis=-1),
    )


def on_a_grid(size: int) -> Oracle:
    """Logistic regression on the first columns, its posterior on a grid."""
    x = X[:, :size]

    def log_density(beta: np.ndarray, prior: float) -> Any:
        eta = beta @ x.T
        likelihood = -np.logaddexp(0.0, np.where(LABELS, -eta, eta)).sum(axis=-1)
        return likelihood - prior * (beta**2).sum(axis=-1) / (2 * SPREAD**2)

    def highest(prior: float) -> np.ndarray:
        result = minimize(lambda beta: -log_density(beta, prior), np.zeros(size), method="BFGS", options={"gtol": 1e-9})
        return np.asarray(result.x)

    mode = highest(1.0)
    prob = 1 / (1 + np.exp(-x @ mode))
    covariance = np.linalg.inv(np.eye(size) / SPREAD**2 + (x.T * (prob * (1 - prob))) @ x)
    axis = np.linspace(-4.0, 4.0, 201)
    grid = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1).reshape(-1, size)
    log_share = log_density(grid, 1.0)
    share = np.exp(log_share - logsumexp(log_share))
    mean = share @ grid
    posterior = Gaussian(mean, (grid - mean).T @ ((grid - mean) * share[:, None]))
    return Oracle(logistic, x, LABELS, highest(0.0), mode, posterior, Gaussian(mode, covariance))


FEATURES = np.tanh(X[:, 1:] @ DIRECTIONS)
ORACLES: dict[str, Oracle] = {
    "linear, known variance": known_variance(linear, X, "slopes", 2),
    "linear, learned variance": normal_inverse_gamma(),
    "logistic, one weight": on_a_grid(1),
    "logistic, two weights": on_a_grid(2),
    "last layer": known_variance(last_layer, np.concatenate([FEATURES, np.ones((30, 1))], axis=1), "b1", 1),
}


def parameters(result: Fit) -> np.ndarray:
    """(chain, draw, p), the sites in the order in which the model samples them."""
    sites = [np.asarray(draws, float) for draws in result.draws.values()]
    return np.concatenate([draws.reshape(*draws.shape[:2], -1) for draws in sites], axis=-1)


def z_scores(draws: np.ndarray, expected: Gaussian) -> np.ndarray:
    """Of the means and of all second moments around the mean that should be, in Monte Carlo standard errors."""
    off = draws - expected.mean
    i, j = np.tril_indices(off.shape[-1])
    moments = np.concatenate([off, off[..., i] * off[..., j] - expected.covariance[i, j]], axis=-1)
    errors = array_stats.mcse(moments, chain_axis=0, draw_axis=1, method="mean")
    return np.asarray(moments.mean(axis=(0, 1)) / errors)


def check_point(oracle: Oracle, draws: np.ndarray, method: str) -> None:
    """Every draw is at the maximum; of an ensemble all members are."""
    expected = oracle.mle if method == "MLE" else oracle.mode
    np.testing.assert_allclose(draws, np.broadcast_to(expected, draws.shape), rtol=1e-6)


def check_conditional(oracle: Oracle, draws: np.ndarray, method: str) -> None:
    """The last site follows its posterior given the others, and those are at the mode."""
    assert oracle.conditional is not None
    size = len(oracle.conditional.mean)
    np.testing.assert_allclose(draws[0, 0, :-size], oracle.mode[:-size], rtol=1e-6)
    assert np.abs(z_scores(draws[..., -size:], oracle.conditional)).max() < MAX_Z


def check_draws(oracle: Oracle, draws: np.ndarray, method: str) -> None:
    expected = oracle.laplace if method == "Laplace" else oracle.posterior
    scores = z_scores(oracle.coordinates(draws), expected)
    assert np.abs(scores).max() < MAX_Z, scores


def check_bias(oracle: Oracle, draws: np.ndarray, method: str) -> None:
    draws, sd = oracle.coordinates(draws), np.sqrt(np.diag(oracle.posterior.covariance))
    assert np.abs((draws.mean(axis=(0, 1)) - oracle.posterior.mean) / sd).max() < MAX_BIAS
    assert np.abs(draws.std(axis=(0, 1)) / sd - 1).max() < MAX_BIAS


POINT: dict[str, Any] = {"num_steps": 1000}
CHAINS: dict[str, Any] = {"num_chains": 4, "num_samples": 1000, "num_warmup": 500}
LANGEVIN: dict[str, Any] = CHAINS | {"num_warmup": 5000, "thinning": 10}
METHODS: dict[str, tuple[Any, Callable[[Oracle, np.ndarray, str], None]]] = {
    "MLE": (MLE(**POINT), check_point),
    "MAP": (MAP(**POINT), check_point),
    "Ensemble": (Ensemble(base=MAP(**POINT), num_members=3), check_point),
    "Laplace": (Laplace(base=MAP(**POINT), num_samples=4000, curvature="hessian"), check_draws),
    "Conditional": (Laplace(num_samples=4000), check_conditional),
    "NUTS": (NUTS(**CHAINS), check_draws),
    "MCLMC, adjusted": (MCLMC(**LANGEVIN, adjusted=True), check_draws),
    "MCLMC": (MCLMC(**LANGEVIN), check_bias),
}
"""How each is set, and what is asked of its draws."""
QUICK = {(name, "Laplace") for name in ORACLES} | {
    *((name, method) for name in ("linear, learned variance", "last layer") for method in ("MLE", "MAP")),
    ("logistic, one weight", "MAP"),
    ("linear, learned variance", "Conditional"),
}
CASES = [
    pytest.param(name, method, marks=[] if (name, method) in QUICK else pytest.mark.slow)
    for name, oracle in ORACLES.items()
    for method in METHODS
    if (method != "Conditional" or oracle.conditional) and not (method.startswith("MCLMC") and len(oracle.mode) == 1)
]
"""MCLMC has at least two weights."""


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_method_finds_what_is_known(name: str, method: str, x64: None) -> None:
    oracle, (settings, check) = ORACLES[name], METHODS[method]
    if method == "Conditional":
        settings = Conditional(base=MAP(**POINT), sites=(oracle.last,), method=settings)
    for key in range(3):
        result = fit(oracle.model, settings, oracle.x, oracle.y, key=key, progress=False)
        assert result.status.level == "ok", (key, str(result.status))
        check(oracle, parameters(result), method)
