"""Chains by batches: their bias against the closed form, their scales and step, and what they say of themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.linalg
import scipy.stats
from jax import Array

from flatprior.inference import MAP, SGMCMC, Code, Fit, diagnose, fit, loo
from flatprior.inference.checks import check_problem
from flatprior.inference.density import Density
from flatprior.inference.methods.batches import Epochs, Resident
from flatprior.inference.methods.noise import binomial
from flatprior.inference.methods.stochastic import Chains, Stochastic, Walker
from flatprior.inference.programs import program
from flatprior.inference.rows import Data, signature
from flatprior.models import MLP, Model, Normal, gaussian

NOISE, SPREAD = 0.5, 2.0
ROWS, BATCH, CHAINS, RUNS = 40, 10, 20, 100
METHOD = SGMCMC(num_warmup=400, num_samples=100, thinning=20, num_chains=10, batch_size=BATCH, start=None)


def slope(x: Array, y: Array | None = None) -> None:
    """One weight, whose posterior is Gaussian: a line through 0."""
    w = numpyro.sample("w", dist.Normal(0.0, SPREAD))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w * x, NOISE), obs=y)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    return x, 0.7 * x + NOISE * rng.normal(size=ROWS)


def posterior(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the slope (Bishop 2006, eq. 3.50 and 3.51)."""
    precision = 1 / SPREAD**2 + x @ x / NOISE**2
    return float(x @ y / NOISE**2 / precision), precision**-0.5


def stationary(x: np.ndarray, y: np.ndarray, step: float, friction: float, num_batches: int) -> np.ndarray:
    """Mean and variance of the slope in units of the posterior after two epochs, by the recursion of its moments.

    In these units a step is an affine map of position and momentum, and so are two epochs of a partition of the rows,
    over which the moments are averaged.
    """
    mean, sd = posterior(x, y)
    drift, keep = np.array([[1.0, step / 2], [0.0, 1.0]]), np.exp(-friction * step)
    rng, size = np.random.default_rng(1), len(x) // num_batches
    maps = []
    for _ in range(400):
        parts = rng.permutation(len(x)).reshape(num_batches, size)
        whole, shift, noise = np.eye(2), np.zeros(2), np.zeros((2, 2))
        for part in [*parts, *parts[::-1]]:
            slope_of_force = sd**2 * (1 / SPREAD**2 + num_batches * (x[part] @ x[part]) / NOISE**2)
            force_at_mean = sd * (mean / SPREAD**2 - num_batches * (x[part] @ (y[part] - mean * x[part])) / NOISE**2)
            kick = np.array([[1.0, 0.0], [-step * slope_of_force, 1.0]])
            after = kick @ drift
            linear = after @ np.diag([1.0, keep]) @ drift
            whole, shift = linear @ whole, linear @ shift + np.array([0.0, -step * force_at_mean])
            noise = linear @ noise @ linear.T + after @ np.diag([0.0, 1 - keep**2]) @ after.T
        maps.append((whole, shift, noise))
    first = np.linalg.solve(
        np.eye(2) - np.mean([m for m, _, _ in maps], axis=0), np.mean([b for _, b, _ in maps], axis=0)
    )
    quadratic = np.mean([np.kron(m, m) for m, _, _ in maps], axis=0)
    rest = np.mean([q + np.outer(m @ first, b) + np.outer(b, m @ first) + np.outer(b, b) for m, b, q in maps], axis=0)
    second = np.linalg.solve(np.eye(4) - quadratic, rest.reshape(-1)).reshape(2, 2)
    return np.array([first[0], second[0, 0] - first[0] ** 2])


def sampled(x: np.ndarray, y: np.ndarray, batch_size: int, time_of_epoch: float, friction: float = 1.0) -> np.ndarray:
    """Mean and variance over many runs in units of the posterior, with their standard errors, (2, 2).

    The chains of a run have the same batches, so that errors are those between runs.
    """
    density, data = check_problem(slope, x, y)
    mean, sd = posterior(x, y)
    start, num_batches = {"w": jnp.full(CHAINS, mean)}, len(x) // batch_size
    steps = 2 * num_batches * (1 + int(20 / (2 * time_of_epoch)))
    settings, z = replace(METHOD, friction=friction), np.zeros((RUNS, CHAINS))
    for run in range(RUNS):
        chains = chains_of(density, data, start, batch_size, steps, run)
        state = chains.start(settings, start, jnp.zeros(CHAINS, bool), jax.random.key(run), data)
        step = jnp.full(CHAINS, time_of_epoch / num_batches, state.step_size.dtype)
        state, _ = chains._taken(settings, state._replace(scale=jnp.full((CHAINS, 1), sd), step_size=step), 0, steps)
        z[run] = (np.asarray(state.position, float)[:, 0] - mean) / sd
    means, squares = z.mean(axis=1), ((z - z.mean()) ** 2).mean(axis=1)
    return np.array([[z.mean(), z.var()], [each.std(ddof=1) / RUNS**0.5 for each in (means, squares)]])


def chains_of(density: Density, data: Data, start: Any, batch_size: int, num_steps: int, run: int = 0) -> Chains:
    """The chains of one run, from starting points of one weight each."""
    size = None if batch_size == data.num_rows else batch_size
    shapes, key = signature({"w": start["w"][0]}), jax.random.key(run)
    compiled = program(Stochastic, density, data, shapes, len(start["w"]), size, data.num_rows)
    return Chains(compiled, Resident(data, size, num_steps, key, returning=True), key)


# The bias.


@pytest.mark.parametrize(
    "time_of_epoch", [pytest.param(0.3, marks=pytest.mark.slow), 1.5, pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_the_bias_of_batches_is_that_of_the_closed_form(time_of_epoch: float, rows: Any) -> None:
    found, error = sampled(*rows, BATCH, time_of_epoch)
    expected = stationary(*rows, time_of_epoch / (ROWS // BATCH), 1.0, ROWS // BATCH)
    np.testing.assert_array_less(np.abs(found - expected), 4 * error)


def test_the_bias_falls_with_the_time_of_an_epoch(rows: Any) -> None:
    """The closed form itself: 1% at the default, and ever less."""
    bias = {tau: abs(stationary(*rows, tau / 4, 1.0, 4)[1] - 1) for tau in (0.1, 0.25, 0.5, 1.0, 2.0)}
    assert list(bias.values()) == sorted(bias.values())
    assert bias[0.5] < 0.01
    assert bias[0.1] < bias[0.5] / 4


@pytest.mark.parametrize("step", [pytest.param(0.3, marks=pytest.mark.slow), 1.5])
def test_all_rows_have_no_bias_at_any_step(step: float, rows: Any) -> None:
    """The variance of the position is exact for a Gaussian (Leimkuhler & Matthews 2013)."""
    assert abs(stationary(*rows, step, 1.0, 1)[1] - 1) < 1e-10
    found, error = sampled(*rows, ROWS, step)
    np.testing.assert_array_less(np.abs(found - [0.0, 1.0]), 4 * error)


def test_the_closed_form_solves_the_equation_of_lyapunov(rows: Any) -> None:
    """The oracle itself, where all rows are one batch: the recursion is then one of constant matrices."""
    step, keep = 0.4, np.exp(-0.4)
    drift, kick = np.array([[1, step / 2], [0, 1]]), np.array([[1, 0], [-step, 1]])
    linear = kick @ drift @ np.diag([1, keep]) @ drift
    noise = kick @ drift @ np.diag([0, 1 - keep**2]) @ (kick @ drift).T
    covariance = scipy.linalg.solve_discrete_lyapunov(linear, noise)
    np.testing.assert_allclose(stationary(*rows, step, 1.0, 1)[1], covariance[0, 0])
    before = np.array([step, 1.0])  # the momentum before the kick, by position and momentum after it
    np.testing.assert_allclose((covariance[1, 1] + before @ covariance @ before) / 2, 1.0)  # the temperature


def test_the_temperature_of_chains_that_are_on_their_way_is_1_as_well(rows: Any) -> None:
    """It says something about steps, and nothing about how far the chains have come: here by a tenth of the way."""
    density, data = check_problem(slope, *rows)
    mean, sd = posterior(*rows)
    start, steps = {"w": jnp.full(CHAINS, mean)}, 32 * ROWS // BATCH
    chains = chains_of(density, data, start, BATCH, steps)
    state = chains.start(METHOD, start, jnp.zeros(CHAINS, bool), jax.random.key(0), data)
    step = jnp.full(CHAINS, 0.25 * BATCH / ROWS, state.step_size.dtype)
    state, tally = chains._taken(METHOD, state._replace(scale=jnp.full((CHAINS, 1), sd / 10), step_size=step), 0, steps)
    assert np.std(state.position) < sd / 2
    temperature = np.asarray(tally.temperature, float) / steps
    assert abs(temperature.mean() - 1) < 4 * temperature.std(ddof=1) / CHAINS**0.5


# The noise of steps.


def test_binomial_noise_has_the_moments_of_normal_noise(rows: Any) -> None:
    """Up to the third; the four numbers of a word of random bits are independent."""
    size = 4 * 10**5
    noise = np.asarray(binomial(jax.random.key(0), size, jnp.float32), float)
    assert binomial(jax.random.key(0), 7, jnp.float32).shape == (7,)
    for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 2.75)):
        values = noise**power
        assert abs(values.mean() - expected) < 4 * values.std() / size**0.5, power
    correlation = np.corrcoef(noise.reshape(-1, 4).T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / (size / 4) ** 0.5


def heavy(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.StudentT(3.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w, 8.0), obs=y)


def skewed(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal())
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Exponential(jnp.exp(w)), obs=y)


@pytest.mark.parametrize("model", [heavy, skewed])
@pytest.mark.slow
def test_draws_have_the_distribution_of_the_posterior_not_of_the_noise(model: Any) -> None:
    """Of a posterior that is not Gaussian, at the step of 4 batches; of equal rows, so that batches add nothing."""
    x, y, count = np.zeros(8), np.full(8, 0.5), 10_000
    density, data = check_problem(model, x, y)
    start = {"w": jnp.zeros(count)}
    compiled = program(Stochastic, density, data, signature({"w": start["w"][0]}), count, 2, 8)
    chains = Chains(compiled, Resident(data, 2, 4000, jax.random.key(0), returning=True), jax.random.key(0))
    state = chains.start(METHOD, start, jnp.zeros(count, bool), jax.random.key(0), data)
    state, _ = chains._taken(METHOD, state._replace(step_size=jnp.full(count, 0.0625, state.step_size.dtype)), 0, 4000)
    grid = np.linspace(-40.0, 40.0, 80_001)
    potential = jax.jit(jax.vmap(lambda w: density.potential({"w": w}, data)))(jnp.asarray(grid, jnp.float32))
    mass = np.exp(np.asarray(-potential, float) - float(-potential.min()))
    cdf = np.interp(np.asarray(state.position, float)[:, 0], grid, np.cumsum(mass) / mass.sum())
    assert scipy.stats.kstest(cdf, "uniform").pvalue > 1e-4
    for tail in (0.01, 0.99):
        share = np.mean(cdf > tail)
        assert abs(share - (1 - tail)) < 4 * (0.01 * 0.99 / count) ** 0.5, tail


# A whole run.


@pytest.fixture(scope="module")
def line(rows: Any) -> Fit:
    return fit(slope, METHOD, *rows, key=1, progress=False)


def test_a_run_draws_the_posterior_with_scales_of_its_own(line: Fit, rows: Any) -> None:
    mean, sd = posterior(*rows)
    z = (line.draws["w"].astype(float) - mean) / sd
    by_chain = z.mean(axis=1), (z**2).mean(axis=1)
    for values, expected in zip(by_chain, (0.0, 1.0), strict=True):
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / len(values) ** 0.5 + 0.02
    assert abs(line.stats["temperature"].mean() - 1) < 0.15
    assert (line.stats["step_size"] <= 0.5 / (ROWS // BATCH) + 1e-6).all()


def test_it_is_an_approximation_and_says_so(line: Fit, rows: Any) -> None:
    assert line.kind == "approximation"
    assert line.method.draws_chains
    notes = " ".join(diagnose(line, *rows).notes)
    assert line.leaves_out in notes
    assert "near the posterior" in notes
    assert "given the others" not in notes
    with pytest.raises(ValueError, match="expected a fit whose draws are Markov chains"):
        loo(line, *rows)


def test_the_same_key_gives_the_same_bits_and_a_run_can_be_resumed(line: Fit, rows: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fit(slope, replace(METHOD, num_samples=7), *rows, key=1, progress=False, resume=folder)
    resumed = fit(slope, METHOD, *rows, key=1, progress=False, resume=folder)
    again = fit(slope, METHOD, *rows, key=1, progress=False)
    for other in (resumed, again):
        np.testing.assert_array_equal(line.draws["w"], other.draws["w"])
        np.testing.assert_array_equal(line.stats["lp"], other.stats["lp"])


def test_a_batch_estimates_the_density_of_all_rows(x64: None, problem: Any) -> None:
    """With the Jacobian and the prior counted once, also over the coordinates of learned prior scales."""
    x, y = problem("Normal, learned scale")[1:]
    model = Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(dist.HalfNormal(1.0)))
    density, data = check_problem(model, x, y)
    density = density.noncentred()
    u = {site: jnp.full(shape, 0.3) for site, shape in density.structure.latents.items()}
    whole = jax.jit(density.potential)(u, data)
    estimate = jax.jit(density.batch_potential, static_argnums=2)
    batches = [estimate(u, data.take(np.arange(i, i + 10)), 40) for i in range(0, 40, 10)]
    np.testing.assert_allclose(estimate(u, data, 40), whole, rtol=1e-12)
    np.testing.assert_allclose(np.mean(batches), whole, rtol=1e-12)
    assert np.ptp(batches) > 1.0


def test_lp_is_the_log_density_at_the_draws(rows: Any) -> None:
    """Of all rows, with the Jacobian of a learned scale; between draws further apart it is a mean over steps."""
    x, y = rows
    model = Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0))
    method = SGMCMC(num_warmup=100, num_samples=50, thinning=1, num_chains=2, batch_size=ROWS, start=None)
    result = fit(model, method, x[:, None], y, key=0, progress=False)
    draws = {site: np.asarray(values, float) for site, values in result.draws.items()}
    scale, mean = draws["scale"], draws["w1"][..., 0] * x + draws["b1"]
    expected = scipy.stats.norm.logpdf(y, mean, scale[..., None]).sum(axis=-1)
    expected += sum(scipy.stats.norm.logpdf(draws[site]).reshape(2, 50) for site in ("w1", "b1"))
    expected += scipy.stats.halfnorm.logpdf(scale) + np.log(scale)
    np.testing.assert_allclose(result.stats["lp"], expected, rtol=1e-5, atol=1e-3)


def test_a_time_of_epochs_that_is_too_long_is_reported(line: Fit, rows: Any) -> None:
    hot = fit(slope, replace(METHOD, epoch_time=5.0), *rows, key=1, progress=False)
    assert Code.TEMPERATURE in hot.status.codes
    assert Code.TEMPERATURE not in line.status.codes


@pytest.mark.slow
@pytest.mark.parametrize("key", [0, 1])
def test_the_default_settings_are_ok_on_plain_data(key: int) -> None:
    """A temperature below 1, as of chains that are still on their way, would be on in every such fit."""
    rng = np.random.default_rng(key)
    x = rng.normal(size=(2000, 3))
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.3 * rng.normal(size=2000)
    model = Model(MLP((8,)), Normal(dist.HalfNormal(1.0)), gaussian(1.0))
    result = fit(model, SGMCMC(num_chains=4), x, y, key=key, progress=False)
    assert result.status.level == "ok", (key, str(result.status))
    assert 0.98 < result.stats["temperature"].mean() < 1.1


def test_epochs_return(rows: Any) -> None:
    """Every second epoch has the batches of the one before, backwards; rows that are read in order never have."""
    forth, back, other = (Epochs(jax.random.key(0), 43, 10, returning=True).order(i) for i in range(3))
    np.testing.assert_array_equal(back.reshape(-1, 10), forth.reshape(-1, 10)[::-1])
    assert len(set(forth.tolist())) == 40
    assert (other != forth).any()
    assert (other != back).any()
    in_order = Epochs(jax.random.key(0), 43, 10, returning=True, window=20)
    assert all((in_order.order(i) // 20 == np.arange(40) // 20).all() for i in range(3))


def begun(w: Array, num_steps: int, rows: Any) -> tuple[Chains, Walker, Data]:
    """Chains from starting points, (chain,), with steps of 0.1 and scales of 0.05; their state, and the rows."""
    density, data = check_problem(slope, *rows)
    chains = chains_of(density, data, {"w": w}, BATCH, num_steps)
    state = chains.start(METHOD, {"w": w}, jnp.zeros(CHAINS, bool), jax.random.key(0), data)
    step = jnp.full(CHAINS, 0.1, state.step_size.dtype)
    return chains, state._replace(step_size=step, scale=jnp.full((CHAINS, 1), 0.05)), data


def test_steps_out_of_the_density_are_not_taken(rows: Any) -> None:
    chains, state, _ = begun(jnp.full(CHAINS, 0.7).at[1].set(1e18), 8, rows)
    state, tally = chains._taken(METHOD, state, 0, 8)
    np.testing.assert_array_equal(np.asarray(tally.unstable)[:3], [0, 8, 0])
    np.testing.assert_allclose(state.position[1], 1e18)
    np.testing.assert_allclose(state.step_size[:3], [0.1, 0.1 / 2**8, 0.1], rtol=1e-5)


@pytest.mark.parametrize(("begin", "is_taken"), [(1, True), (201, False), (400, False)])
def test_a_step_that_would_throw_a_chain_out_is_not_taken(begin: int, is_taken: bool, rows: Any) -> None:
    """Before the last calibration a chain may come from far away, and be fast."""
    chains, state, data = begun(jnp.full(CHAINS, 0.7), 500, rows)
    state = state._replace(momentum=state.momentum.at[1].set(20.0))
    state, (_, stats), _ = chains.advance(METHOD, state, begin, begin + 1, data)
    np.testing.assert_array_equal(stats["diverging"][:3, 0], [False, not is_taken, False])
    np.testing.assert_allclose(state.step_size[:3], [0.1, 0.1 if is_taken else 0.05, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 0), ("epoch_time", 0.0), ("epoch_time", np.inf), ("friction", -1.0), ("num_chains", 1.5)],
)
def test_settings_out_of_range(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SGMCMC: expected a positive .*{setting}.*got"):
        SGMCMC(**{setting: value})


def test_the_start_sees_batches_like_those_of_the_chains() -> None:
    assert SGMCMC(batch_size=7)._start(100).batch_size == 7  # type: ignore[union-attr]
    assert SGMCMC(batch_size=7, start=MAP(batch_size=5))._start(100).batch_size == 5  # type: ignore[union-attr]
    assert SGMCMC(batch_size=100)._start(100).batch_size is None  # type: ignore[union-attr]
    assert SGMCMC(start=None)._start(100) is None


def test_runs_under_several_keys_are_joined(line: Fit, rows: Any) -> None:
    other = fit(slope, METHOD, *rows, key=2, progress=False)
    both = Fit.join([line, other], *rows)
    assert both.draws["w"].shape == (20, 100)
    assert both.status.level == "ok"
    assert both.kind == "approximation"
