"""Microcanonical chains: against exact posteriors by energy variance, and what they say of themselves."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import statsmodels.api as sm
from arviz_stats.base import array_stats
from jax import Array
from scipy.stats import norm

from flatprior.inference import MAP, MCLMC, Fit, fit, flat
from flatprior.inference.methods import chains, langevin, mclmc
from flatprior.models import MLP, Model, Normal, gaussian

from .tables import some_by_default

SCALE, SPREAD = 0.7, 0.8
LINEAR = Model(MLP(), Normal(SCALE), gaussian(SPREAD))
NETWORK = Model(MLP((3,), "tanh"), Normal("network"), gaussian(1.0))
MAX_Z = 4.0
"""Standard errors that a statistic may be off: 6e-5 false alarms a comparison, under a hundredth for all tests here."""
SAMPLER: dict[str, Any] = {"num_warmup": 2000, "num_samples": 1000, "thinning": 5, "num_chains": 6, "start": None}
SHORT: dict[str, Any] = {"num_warmup": 200, "num_samples": 20, "thinning": 3, "num_chains": 2, "start": None}


@pytest.fixture(scope="module")
def x_y(data_sets: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return data_sets["real"]


def conjugate(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviations of (b1, w1) given y (Bishop 2006, eq. 3.50 and 3.51)."""
    design = sm.add_constant(x)
    covariance = np.linalg.inv(np.eye(design.shape[1]) / SPREAD**2 + design.T @ design / SCALE**2)
    return covariance @ design.T @ y / SCALE**2, np.sqrt(np.diag(covariance))


def standardised(result: Fit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draws in units of the exact posterior, (chain, draw, weight)."""
    mean, sd = conjugate(x, y)
    draws = np.concatenate([result.draws["b1"], result.draws["w1"][..., 0]], axis=-1)
    return (draws.astype(float) - mean) / sd


def z_scores(draws: np.ndarray, expected: float) -> np.ndarray:
    """How many Monte Carlo standard errors the means over chains and draws are off, (statistic,)."""
    errors = [float(array_stats.mcse(draws[..., i], method="mean")) for i in range(draws.shape[-1])]
    return (draws.mean(axis=(0, 1)) - expected) / np.array(errors)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1, 128])
def test_steps_do_not_depend_on_the_number_of_rows(weight: int) -> None:
    """In float32 the log density of two million rows has steps of a quarter of a nat, ten times an energy error."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(langevin.MANY_ROWS, 2)).astype(np.float32)
    y = (x @ [1.0, -0.5] + SCALE * rng.normal(size=len(x))).astype(np.float32)
    method = MCLMC(num_warmup=3000, num_samples=500, thinning=10, num_chains=6)
    result = fit(LINEAR, method, x, y, key=0, weights=np.full(len(x), float(weight)), progress=False)
    design = sm.add_constant(x.astype(float))
    covariance = np.linalg.inv(np.eye(3) / SPREAD**2 + weight * design.T @ design / SCALE**2)
    mean = weight * covariance @ design.T @ y / SCALE**2
    draws = np.concatenate([result.draws["b1"], result.draws["w1"][..., 0]], axis=-1).astype(float)
    off = (draws - mean) / np.sqrt(np.diag(covariance))
    assert np.abs(z_scores(off, 0.0)).max() < MAX_Z
    assert np.abs(z_scores(off**2, 1.0)).max() < MAX_Z
    step = result.stats["step_size"].mean() * np.sqrt(weight * len(x)) / SCALE
    assert 0.7 < step < 1.5, step
    assert result.status.level == "ok", result.status


@pytest.mark.slow
def test_adjusted_chains_draw_the_exact_posterior_for_many_keys(x_y: Any) -> None:
    for key in range(100, 115):
        result = fit(LINEAR, MCLMC(**SAMPLER, adjusted=True), *x_y, key=key, progress=False)
        off = standardised(result, *x_y)
        scores = np.concatenate([z_scores(off, 0.0), z_scores(off**2, 1.0)])
        assert np.abs(scores).max() < MAX_Z, (key, scores)
        assert 0.85 < result.stats["acceptance_rate"].mean() < 0.98
        assert result.status.level == "ok"


@pytest.mark.slow
def test_the_bias_of_the_spread_falls_with_the_energy_variance(x_y: Any) -> None:
    """Means are not biased here, by symmetry; standard deviations are too large, and ever less so."""
    excess = {}
    for target in (0.2, 0.02, 0.002):
        method = MCLMC(**SAMPLER, energy_variance=target)
        runs = [standardised(fit(LINEAR, method, *x_y, key=key, progress=False), *x_y) for key in range(2)]
        assert np.abs([z_scores(off, 0.0) for off in runs]).max() < MAX_Z, target
        excess[target] = np.mean([off.std(axis=(0, 1)) for off in runs]) - 1
    assert excess[0.2] > excess[0.02] > excess[0.002]
    assert excess[0.02] < 0.1
    assert abs(excess[0.002]) < 0.03


@pytest.mark.parametrize("target", [0.1, 0.01])
def test_the_energy_variance_is_the_one_asked_for(target: float, x_y: Any) -> None:
    result = fit(LINEAR, MCLMC(**SAMPLER, energy_variance=target), *x_y, key=0, progress=False)
    measured = result.stats["energy_variance"].mean(axis=1)
    np.testing.assert_allclose(measured, target, rtol=0.3)


@pytest.mark.slow
def test_preconditioned_chains_draw_from_unequal_scales(x_y: Any) -> None:
    """From warm starts: chains that begin cold, where scales differ a thousandfold, settle too late to learn them."""
    x, y = x_y[0] * [1.0, 1000.0], x_y[1]
    warm = {"num_warmup": 10_000, "start": MCLMC().start}
    method = MCLMC(**{**SAMPLER, **warm}, precondition=True, adjusted=True)
    for key in range(5):
        off = standardised(fit(LINEAR, method, x, y, key=key, progress=False), x, y)
        scores = np.concatenate([z_scores(off, 0.0), z_scores(off**2, 1.0)])
        assert np.abs(scores).max() < MAX_Z, (key, scores)


# What a fit holds.


@pytest.mark.parametrize("adjusted", some_by_default([False, True], False))
def test_draws_and_statistics_have_their_shapes(adjusted: bool, x_y: Any) -> None:
    result = fit(NETWORK, MCLMC(**SHORT, adjusted=adjusted), *x_y, key=0, progress=False)
    assert result.kind == "chain"
    assert {site: draws.shape for site, draws in result.draws.items()} == {
        "w1": (2, 20, 2, 3),
        "b1": (2, 20, 3),
        "w2": (2, 20, 3, 2),
        "b2": (2, 20, 2),
    }
    names = {"lp", "energy_error", "energy_variance", "step_size", "n_steps", "diverging"}
    names |= {"acceptance_rate"} if adjusted else set()
    assert set(result.outcome.sample_stats) == names
    assert all(value.shape == (2, 20) for value in result.outcome.sample_stats.values())
    assert result.stats["momentum_length"].shape == (2,)
    assert (result.stats["n_steps"] == 3).all()


def test_lp_is_the_density_that_is_sampled(x_y: Any) -> None:
    """All sites are real: there is no Jacobian."""
    result = fit(LINEAR, MCLMC(**SHORT), *x_y, key=0, progress=False)
    priors = sum(norm.logpdf(draws, 0, SPREAD).sum(axis=tuple(range(2, draws.ndim))) for draws in result.draws.values())
    expected = result.log_likelihood(*x_y).sum(axis=-1) + priors
    np.testing.assert_allclose(result.stats["lp"], expected, rtol=1e-4)


def test_the_key_decides_every_bit_and_nothing_compiles_twice(x_y: Any) -> None:
    method = MCLMC(**SHORT | {"start": MCLMC().start})
    first, again, other = (fit(NETWORK, method, *x_y, key=key, progress=False) for key in (0, 0, 1))
    for site, draws in first.draws.items():
        np.testing.assert_array_equal(draws, again.draws[site])
        assert not np.allclose(draws, other.draws[site])
    assert other.seconds.compile < 0.5


def test_a_resumed_run_is_one_that_was_never_interrupted(x_y: Any, tmp_path: Path) -> None:
    whole = fit(NETWORK, MCLMC(**SHORT), *x_y, key=0, progress=False)
    for num_samples in (7, 20):
        result = fit(
            NETWORK, MCLMC(**SHORT | {"num_samples": num_samples}), *x_y, key=0, progress=False, resume=tmp_path
        )
    for site, draws in whole.draws.items():
        np.testing.assert_array_equal(draws, result.draws[site])


def test_a_resumed_run_still_says_where_its_chains_began(x_y: Any, tmp_path: Path) -> None:
    exploding = MAP(optimizer=optax.sgd(1e8), num_steps=20, polish=False)
    for num_samples in (7, 20):
        method = MCLMC(**SHORT | {"num_samples": num_samples, "start": exploding})
        result = fit(NETWORK, method, *x_y, key=0, progress=False, resume=tmp_path)
        assert "Chains 0, 1 began at their random starting point" in str(result.status)


# What can go wrong.


def cut_off(x: Array, y: Array | None = None) -> None:
    """The density is no number where the slope is above its posterior mean or so."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 0.8).to_event(1))
    numpyro.factor("edge", jnp.where(w[0] > 1.0, jnp.nan, 0.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)


@pytest.mark.parametrize("adjusted", some_by_default([False, True], True))
def test_steps_without_a_finite_density_are_rejected_and_reported(adjusted: bool, x_y: Any) -> None:
    method = MCLMC(**SAMPLER | {"num_samples": 200}, adjusted=adjusted)
    result = fit(cut_off, method, *x_y, key=0, progress=False)
    draws = result.draws["w"]
    assert np.isfinite(draws).all()
    assert (draws[..., 0] <= 1.0).all()
    assert (np.ptp(draws[..., 0], axis=1) > 0.1).all()  # none is frozen at the edge
    assert result.stats["diverging"].any()
    assert "of the steps were rejected" in str(result.status)


def nowhere_finite(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.factor("edge", jnp.where(w[0] > -1e9, jnp.nan, 0.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)


def test_chains_that_cannot_move_are_frozen(x_y: Any) -> None:
    result = fit(nowhere_finite, MCLMC(**SHORT), *x_y, key=0, progress=False)
    assert result.status.level == "failed"
    assert "Chains 0, 1 did not move" in str(result.status)


def settled(**changed: Any) -> dict[str, np.ndarray]:
    """Statistics of five chains with nothing to be said of them, and what is changed."""
    lp = np.random.default_rng(0).normal(-50.0, 2.0, size=(5, 400))
    stats = {"lp": lp, "energy_variance": np.full(lp.shape, 2e-4), "diverging": np.zeros(lp.shape, bool)}
    return stats | {name: change(stats[name].copy()) for name, change in changed.items()}


def with_chain(index: int, value: Any) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value(array[index])
        return array

    return change


STATUS: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({}, "ok", "^ok$"),
    "different modes": ({"lp": lambda lp: lp + 3.0 * np.arange(5)[:, None]}, "ok", "^ok$"),
    "frozen": ({"lp": with_chain(2, lambda chain: chain * 0 - 50.0)}, "failed", "Chains 2 did not move"),
    "lost": ({"lp": with_chain(3, lambda chain: chain - 100.0)}, "check", "Chains 3 are lost.*99.8 nats"),
    "hot": ({"energy_variance": lambda values: 10 * values}, "check", r"energy variance.*0\.002 per dimension.*biased"),
    "rejected": (
        {"diverging": with_chain(0, lambda chain: ~chain)},
        "check",
        "About 0.6% of the steps were rejected",
    ),
    "rising": ({"lp": lambda lp: lp + np.linspace(0, 20, 400)}, "check", "have not settled.*changed by \\+10.1 nats"),
    "slow": ({"lp": lambda lp: np.repeat(lp[:, :20], 20, axis=1)}, "check", "effective draws within the chains"),
    "few draws": ({name: lambda values: values[:, :7] for name in settled()}, "check", "has 7 draws, fewer than 8"),
    "interrupted": ({name: lambda values: values[:, :200] for name in settled()}, "check", "after 200 of 400 draws"),
}


@pytest.mark.parametrize("name", STATUS)
def test_the_status_says_what_the_statistics_show(name: str) -> None:
    changed, level, match = STATUS[name]
    settings, stats = MCLMC(num_samples=400), settled(**changed)
    shared = chains.status_of(settings, stats, np.zeros(5, bool))
    status = shared + mclmc.status_of(settings, stats, 20)
    assert status.level == level, str(status)
    assert re.search(match, str(status)), str(status)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no warm-up": ({"num_warmup": 0}, "expected a positive integer as num_warmup; got 0"),
    "no draws": ({"num_samples": 0}, "expected a positive integer as num_samples; got 0"),
    "no steps between draws": ({"thinning": 0}, "expected a positive integer as thinning; got 0"),
    "no chains": ({"num_chains": 0}, "expected a positive integer as num_chains; got 0"),
    "a truth value": ({"num_chains": True}, "expected a positive integer as num_chains; got True"),
    "negative energy variance": ({"energy_variance": -1.0}, "expected a positive number as energy_variance; got -1.0"),
    "no number": ({"warmup_energy_variance": float("nan")}, "positive number as warmup_energy_variance; got nan"),
    "no memory": ({"momentum_length": 0.0}, "expected a positive number as momentum_length; got 0.0"),
    "no cooling": ({"cooling": 0.0}, "expected 0 < cooling <= 1; got 0.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_raise(name: str) -> None:
    settings, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        MCLMC(**settings)


def one_weight(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x[:, 0], 0.7), obs=y)


def test_models_that_cannot_be_sampled_raise(x_y: Any) -> None:
    with pytest.raises(ValueError, match=r"MCLMC: the prior is flat.*improper_ok=True"):
        fit(flat(LINEAR), MCLMC(), *x_y, key=0)
    with pytest.raises(ValueError, match=r"at least 2 weights.*got 1\. Use NUTS"):
        fit(one_weight, MCLMC(), *x_y, key=0)


@pytest.mark.slow
def test_a_flat_prior_is_sampled_when_it_has_been_thought_of(x_y: Any) -> None:
    """With a known scale the posterior is the sampling distribution of ordinary least squares."""
    x, y = x_y
    ols = sm.OLS(y, sm.add_constant(x)).fit()
    method = MCLMC(**SAMPLER, adjusted=True, improper_ok=True)
    for key in range(5):
        result = fit(flat(LINEAR), method, x, y, key=key, progress=False)
        draws = np.concatenate([result.draws["b1"], result.draws["w1"][..., 0]], axis=-1).astype(float)
        off = (draws - ols.params) / (SCALE * np.sqrt(np.diag(ols.normalized_cov_params)))
        scores = np.concatenate([z_scores(off, 0.0), z_scores(off**2, 1.0)])
        assert np.abs(scores).max() < MAX_Z, (key, scores)


@pytest.mark.slow
def test_double_precision_stays_double(x64: None, x_y: Any) -> None:
    result = fit(NETWORK, MCLMC(**SHORT, adjusted=True, precondition=True), *x_y, key=0, progress=False)
    assert {draws.dtype for draws in result.draws.values()} == {np.dtype("float64")}
    assert result.stats["lp"].dtype == result.stats["step_size"].dtype == np.float64
