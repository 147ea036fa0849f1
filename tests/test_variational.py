"""Variational inference: exact where theory says so, the bound and the evidence, and what it says of itself."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats
from jax import Array
from numpyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoLowRankMultivariateNormal

from flatprior.inference import MAP, Code, Fit, Variational, fit, flat
from flatprior.inference.methods.noise import SHARING, Shared
from flatprior.models import MLP, Model, Normal, fan_in, gaussian

NOISE, SPREAD = 0.5, 1.5
LINEAR = Model(MLP(), Normal(NOISE), gaussian(SPREAD))
SETTINGS: dict[str, Any] = {"num_steps": 3000, "start": MAP(num_steps=100, polish=False)}


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Columns that are correlated, so that independent Gaussians are too narrow."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    return x, x @ [1.0, -0.5] + 0.3 + NOISE * rng.normal(size=60)


def test_steps_that_share_normal_numbers_have_noise_of_their_own() -> None:
    """Each has that of independent normal numbers, and no coordinate has one of them twice."""
    size, runs = 50, 400
    shared = jax.vmap(lambda key: Shared.of(key, 1, size, float))(jax.random.split(jax.random.key(0), runs))
    each = jax.vmap(lambda shared: jnp.stack([shared.of_step(i, size)[0] for i in range(SHARING)]))
    noise = np.asarray(each(shared), float)  # (run, step, coordinate)
    assert scipy.stats.kstest(noise.reshape(-1), "norm").pvalue > 1e-4
    steps = noise.transpose(1, 0, 2).reshape(SHARING, -1)
    other = np.triu_indices(SHARING, 1)
    assert np.abs(np.corrcoef(steps)[other]).max() < 4.5 / (runs * size) ** 0.5
    for run in np.abs(noise):
        assert all(len(np.unique(numbers)) == SHARING for numbers in run.T)


class Exact:
    """The posterior of (w1, b1) and the evidence (Bishop 2006, section 3.3)."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        design = np.column_stack([x, np.ones(len(x))])
        self.precision = design.T @ design / NOISE**2 + np.eye(3) / SPREAD**2
        self.covariance = np.linalg.inv(self.precision)
        self.mean = self.covariance @ design.T @ y / NOISE**2
        prior = NOISE**2 * np.eye(len(x)) + SPREAD**2 * design @ design.T
        self.log_evidence = scipy.stats.multivariate_normal(np.zeros(len(x)), prior).logpdf(y)

    @property
    def mean_field_divergence(self) -> float:
        """KL(q, posterior) of the best independent Gaussians, in nats."""
        return float(np.log(np.diag(self.precision)).sum() - np.linalg.slogdet(self.precision)[1]) / 2


@pytest.fixture(scope="module")
def exact(rows: Any) -> Exact:
    return Exact(*rows)


@pytest.fixture(scope="module")
def fits(rows: Any) -> dict[str, Fit]:
    return {
        guide: fit(LINEAR, Variational(guide=guide, **SETTINGS), *rows, key=0, progress=False)  # type: ignore[arg-type]
        for guide in ("mean_field", "full_rank")
    }


def weights_of(result: Fit) -> np.ndarray:
    """Draws of (w1, b1), (draw, 3)."""
    return np.concatenate([result.draws["w1"][0, :, :, 0], result.draws["b1"][0]], axis=-1).astype(float)


def test_full_rank_is_the_exact_posterior_and_evidence(fits: Any, exact: Exact) -> None:
    result = fits["full_rank"]
    draws = weights_of(result)
    errors = (draws.mean(axis=0) - exact.mean) / np.sqrt(np.diag(exact.covariance) / len(draws))
    np.testing.assert_array_less(np.abs(errors), 4.0)
    root = np.linalg.cholesky(exact.precision)
    np.testing.assert_allclose(np.cov((draws @ root).T), np.eye(3), atol=4 * (2 / len(draws)) ** 0.5)
    np.testing.assert_allclose(result.stats["elbo"], exact.log_evidence, atol=2e-3)
    np.testing.assert_allclose(result.log_evidence, exact.log_evidence, atol=2e-3)
    assert result.status.level == "ok"
    assert result.stats["pareto_k"] <= 0.7


def test_mean_field_has_the_inverse_of_the_diagonal_of_the_precision(fits: Any, exact: Exact) -> None:
    """And a bound that is too small by its divergence, which is known (Bishop 2006, eq. 10.13 to 10.15)."""
    result = fits["mean_field"]
    draws = weights_of(result)
    variances = draws.var(axis=0) * np.diag(exact.precision)
    np.testing.assert_allclose(variances, 1.0, atol=5 * (2 / len(draws)) ** 0.5)
    short = exact.log_evidence - result.stats["elbo"]
    assert abs(short - exact.mean_field_divergence) < 4 * result.stats["elbo_se"] + 2e-3
    assert exact.mean_field_divergence > 0.3


@pytest.mark.slow
def test_batches_and_particles_lead_to_the_same_guide(rows: Any, fits: Any) -> None:
    method = Variational(guide="full_rank", batch_size=30, num_particles=4, **SETTINGS)
    result = fit(LINEAR, method, *rows, key=0, progress=False)
    assert abs(result.stats["elbo"] - fits["full_rank"].stats["elbo"]) < 0.05
    assert result.stats["loss"].shape == (1, SETTINGS["num_steps"])


def test_the_same_key_gives_the_same_bits_and_more_draws_begin_with_fewer(rows: Any, fits: Any) -> None:
    again = fit(LINEAR, Variational(guide="full_rank", **SETTINGS), *rows, key=0, progress=False)
    np.testing.assert_array_equal(weights_of(again), weights_of(fits["full_rank"]))


@pytest.mark.slow
def test_guides_of_numpyro(rows: Any, exact: Exact) -> None:
    for guide in (AutoIAFNormal, lambda model: AutoLowRankMultivariateNormal(model, rank=2, init_scale=0.02)):
        result = fit(LINEAR, Variational(guide=guide, **SETTINGS), *rows, key=0, progress=False)
        assert abs(result.stats["elbo"] - exact.log_evidence) < 0.2


def funnel(x: Array, y: Array | None = None) -> None:
    """A posterior that no Gaussian comes near."""
    scale = numpyro.sample("scale", dist.Normal(0.0, 3.0))
    with numpyro.plate("unit", 9):
        numpyro.sample("z", dist.Normal(0.0, numpyro.deterministic("s", 1.0 * np.e ** (scale / 2))))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(0.0 * x, 1.0), obs=y)


def test_a_guide_that_is_not_the_posterior_says_so(fits: Any) -> None:
    assert Code.POOR_GUIDE in fits["mean_field"].status.codes
    assert Code.POOR_GUIDE not in fits["full_rank"].status.codes


@pytest.mark.slow
def test_the_guide_of_a_funnel_has_no_evidence_where_k_is_large() -> None:
    x = np.zeros(5)
    far = fit(funnel, Variational(guide="mean_field", **SETTINGS), x, x, key=0, progress=False)
    assert Code.POOR_GUIDE in far.status.codes
    assert np.isnan(far.log_evidence) == (far.stats["pareto_k"] > 0.7)


@pytest.mark.slow
def test_too_few_steps_are_reported(rows: Any, fits: Any) -> None:
    slow = replace(Variational(guide="full_rank", **SETTINGS), num_steps=200, optimizer=optax.sgd(1e-3))
    assert Code.STILL_FALLING in fit(LINEAR, slow, *rows, key=0, progress=False).status.codes
    assert Code.STILL_FALLING not in fits["full_rank"].status.codes


def test_what_it_refuses(rows: Any) -> None:
    with pytest.raises(ValueError, match="Variational: expected 'mean_field', 'low_rank', 'full_rank' or a guide"):
        Variational(guide="diagonal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Variational: expected a positive integer as num_particles; got 0"):
        Variational(num_particles=0)
    with pytest.raises(ValueError, match=r"expected MAP\(\.\.\.\).* as start; got None"):
        Variational(start=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size to be at most 60"):
        fit(LINEAR, Variational(batch_size=61), *rows, key=0)
    with pytest.raises(ValueError, match=r"Variational.*flat"):
        fit(flat(LINEAR), Variational(), *rows, key=0)
    with pytest.raises(ValueError, match=r"expected at most 4,096 weights with guide='full_rank'"):
        fit(Model(MLP((2000,)), Normal(1.0), fan_in()), Variational(guide="full_rank"), *rows, key=0)
    with pytest.raises(ValueError, match="expected guide to return an AutoContinuous guide"):
        fit(LINEAR, Variational(guide=AutoDelta, **SETTINGS), *rows, key=0, progress=False)
