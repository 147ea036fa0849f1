"""The CRPS of predictions, against closed forms, sums over all integers, and its definition by expectations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy import integrate, stats

from flatprior.inference.crps import crps, integer_crps

from .tables import some_by_default

Y = np.array([-30.0, -2.0, 0.1, 0.5, 1.0, 3.0, 12.0])


def of_normals(loc: np.ndarray, scale: np.ndarray, y: float) -> float:
    """The CRPS of a mixture of Normals, of equal weights, by Grimit et al. (2006, equation 5)."""

    def mean_abs(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        return 2 * sd * stats.norm.pdf(mean / sd) + mean * (2 * stats.norm.cdf(mean / sd) - 1)

    pairs = mean_abs(loc[:, None] - loc, np.hypot(scale[:, None], scale))
    return float(mean_abs(y - loc, scale).mean() - pairs.mean() / 2)


def by_quadrature(cdf: Callable[[float], float], y: float) -> float:
    """The CRPS by its definition, with the integral in pieces."""
    below = integrate.quad(lambda t: cdf(t) ** 2, -np.inf, y, limit=400)[0]
    return below + integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, np.inf, limit=400)[0]


SMALL, LARGE = ((1, 0.0, 1.0), (3, 4.0, 0.5)), ((400, 1.0, 0.3), (50, 3.0, 0.05))


@pytest.mark.parametrize(("num_draws", "spread", "noise"), some_by_default(SMALL + LARGE, *SMALL))
def test_of_normals_it_has_a_closed_form(num_draws: int, spread: float, noise: float) -> None:
    rng = np.random.default_rng(num_draws)
    loc, scale = spread * rng.normal(size=num_draws), noise * np.exp(0.3 * rng.normal(size=num_draws))
    rows = np.ones(len(Y))
    components = jax.vmap(lambda m, s: dist.Normal(m * rows, s * rows))(jnp.asarray(loc), jnp.asarray(scale))
    expected = [of_normals(loc, scale, y) for y in Y]
    fitted = crps(components, jnp.asarray(Y), None)
    np.testing.assert_allclose(fitted, expected, rtol=3e-4)


FAMILIES: dict[str, tuple[Callable[[Array], dist.Distribution], Callable[[float], float]]] = {
    "exponential": (lambda one: dist.Exponential(2.0 * one), stats.expon(scale=0.5).cdf),
    "LogNormal": (lambda one: dist.LogNormal(0.0 * one, 1.0), stats.lognorm(1.0).cdf),
    "Beta": (lambda one: dist.Beta(0.5 * one, 0.5), stats.beta(0.5, 0.5).cdf),
    "Student-t": (lambda one: dist.StudentT(3.0 * one, 0.5, 1.0), stats.t(3.0, 0.5).cdf),
    "Cauchy": (lambda one: dist.Cauchy(0.0 * one, 1.0), stats.cauchy().cdf),
    "uniform": (lambda one: dist.Uniform(0.0 * one, 2.0), stats.uniform(0.0, 2.0).cdf),
}
SLOW = ("Beta", "Student-t", "uniform")
every_family = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES]


@pytest.mark.parametrize("name", every_family)
def test_of_other_families_it_is_the_integral(name: str) -> None:
    make, cdf = FAMILIES[name]
    components = jax.vmap(make)(jnp.ones((1, len(Y))))
    expected = [by_quadrature(cdf, each) for each in Y]
    fitted = crps(components, jnp.asarray(Y), None)
    np.testing.assert_allclose(fitted, expected, rtol=1e-3 if name == "Cauchy" else 1e-4)


@pytest.mark.parametrize("rates", [[0.5, 4.0, 30.0], [4000.0, 9000.0]])
def test_of_counts_it_is_the_sum(rates: list[float]) -> None:
    y, grid = np.array([0, 1, 7, 40, 4100]), np.arange(20_000)
    cdf = stats.poisson(np.array(rates)[:, None]).cdf(grid).mean(axis=0)
    expected = [((cdf - (each <= grid)) ** 2).sum() for each in y]
    with jax.enable_x64(True):
        components = jax.vmap(lambda rate: dist.Poisson(rate * jnp.ones(len(y))))(jnp.array(rates))
        fitted = integer_crps(components, jnp.asarray(y), None)
        np.testing.assert_allclose(fitted, expected, rtol=1e-8 if max(rates) < 100 else 1e-4)
