"""Point estimates arrive at the mode: in any units, from any start, and for networks of some hundred weights."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from jax.flatten_util import ravel_pytree

from flatprior.inference import MAP, MLE, fit, second_order
from flatprior.inference import gauss_newton as matrices
from flatprior.inference.curvature import expected_loss, hessian
from flatprior.inference.gauss_newton import gauss_newton, is_by_rows
from flatprior.inference.methods.finish import Ending, alone
from flatprior.inference.newton import Derivatives, minimise
from flatprior.inference.reasons import Code
from flatprior.inference.rows import Data
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import FindProblem, some_by_default

# Linear regressions of NIST's Statistical Reference Datasets, whose certified values have 15 digits:
# https://www.itl.nist.gov/div898/strd/lls/lls.shtml. For the residual standard deviation NIST divides by n - p.
NORRIS = """
0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6 778.9 777.0
559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 556.0 228.3 228.1
998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2 998.5 999.0 778.9 779.0
10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5"""
PONTIUS = """
.11019 .21956 .32949 .43899 .54803 .65694 .76562 .87487 .98292 1.09146 1.20001 1.30822 1.41599 1.52399 1.63194 1.73947
1.84646 1.95392 2.06128 2.16844 .11052 .22018 .32939 .43886 .54798 .65739 .76596 .87474 .98300 1.09150 1.20004 1.30818
1.41613 1.52408 1.63159 1.73965 1.84696 1.95445 2.06177 2.16829"""
DELTA = [759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048]
LINE = Model(MLP(), Normal(dist.HalfNormal(1.0)))


def norris() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.array(NORRIS.split(), float).reshape(-1, 2).T
    return x[:, None], y


def pontius() -> tuple[np.ndarray, np.ndarray]:
    x = np.tile(np.arange(150_000, 3_000_001, 150_000.0), 2)
    return np.stack([x, x**2], axis=1), np.array(PONTIUS.split(), float)


def wampler(times: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(21.0)[:, None] ** np.arange(1, 6)
    return x, 1 + x.sum(axis=1) + times * np.array(DELTA + DELTA[-2::-1])


def longley() -> tuple[np.ndarray, np.ndarray]:
    statsmodels = pytest.importorskip("statsmodels.api")
    data = statsmodels.datasets.longley.load_pandas()
    return data.exog.to_numpy(float), data.endog.to_numpy(float)


NIST = {
    "Norris": (norris, [-0.262323073774029, 1.00211681802045], 0.884796396144373),
    "Pontius": (pontius, [0.673565789473684e-3, 0.732059160401003e-6, -0.316081871345029e-14], 0.205177424076185e-3),
    "Wampler 3": (lambda: wampler(1.0), [1.0] * 6, 2360.14502379268),
    "Wampler 5": (lambda: wampler(10_000.0), [1.0] * 6, 23601450.2379268),
    "Longley": (
        longley,
        [-3482258.63459582, 15.0618722713733, -0.358191792925910e-1, -2.02022980381683, -1.03322686717359]
        + [-0.511041056535807e-1, 1829.15146461355],
        304.854073561965,
    ),
}


def maximum(y: np.ndarray, coefficients: list[float], scale: float) -> float:
    """Return the largest log likelihood of a regression, in nats, from NIST's residual standard deviation."""
    variance = scale**2 * (len(y) - len(coefficients)) / len(y)
    return -len(y) / 2 * (np.log(2 * np.pi * variance) + 1)


@pytest.mark.parametrize("name", some_by_default(NIST, "Norris", "Longley"))
def test_regressions_in_raw_units_have_the_certified_maximum(x64: None, name: str) -> None:
    data, coefficients, scale = NIST[name]
    x, y = data()
    result = fit(LINE, MLE(), x, y, key=0, progress=False)
    assert result.status.level == "ok", result.status
    log_likelihood = float(np.sum(result.predict(x).log_prob(y)))
    assert log_likelihood == pytest.approx(maximum(y, coefficients, scale), rel=1e-8)
    values = np.append(result.draws["b1"], result.draws["w1"])
    np.testing.assert_allclose(values, coefficients, rtol=1e-4 if "Wampler" in name else 1e-8)


@pytest.mark.parametrize("name", ["Norris", "Longley"])
def test_in_float32_regressions_in_raw_units_arrive_as_far_as_it_reaches(name: str) -> None:
    data, coefficients, scale = NIST[name]
    x, y = data()
    result = fit(LINE, MLE(), x, y, key=0, progress=False)
    assert result.status.level == "ok", result.status
    lost = maximum(y, coefficients, scale) - float(np.sum(result.predict(x).log_prob(y)))
    assert abs(lost) < 0.01


def test_a_mode_that_float32_cannot_hold_is_not_ok() -> None:
    """Two terms of 100,000 that cancel up to residuals of 0.02, which float32 rounds to 0.01."""
    rng = np.random.default_rng(0)
    x = 1000 + rng.normal(size=(200, 1)) + np.c_[np.zeros(200), 0.01 * rng.normal(size=200)]
    y = 100 * (x[:, 1] - x[:, 0]) + 0.02 * rng.normal(size=200)
    result = fit(LINE, MLE(), x, y, key=0, progress=False).status
    assert result.codes == (Code.TOO_COARSE,)
    assert "jax_enable_x64" in str(result)
    assert fit(LINE, MLE(), x, x[:, 0] + rng.normal(size=200), key=0, progress=False).status.level == "ok"


def wave(x: Array, y: Array | None = None) -> None:
    """A regression whose posterior has several modes, the best one far from the prior mean."""
    frequency = numpyro.sample("frequency", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.sin(frequency * x) + slope * x, 0.3), obs=y)


def test_the_better_of_several_modes_is_found_by_default() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 60)
    y = np.sin(3 * x) + 0.2 * x + 0.3 * rng.normal(size=60)
    for key in range(5):
        result = fit(wave, MAP(), x, y, key=key, progress=False)
        assert abs(abs(result.draws["frequency"].item()) - 3) < 0.2
        assert result.status.level == "ok", result.status
    one = fit(wave, MAP(num_restarts=1), x, y, key=0, progress=False)
    assert abs(one.draws["frequency"].item()) < 0.2


def test_a_mode_that_only_one_start_reached_is_to_be_checked_if_it_is_better_by_far() -> None:
    def codes(*losses: float) -> tuple[Code, ...]:
        ends = [Ending({}, 0.0, loss) for loss in losses]
        return tuple(reason.code for reason in alone(ends, 100))

    assert codes(10.0, 40.0, 40.0) == (Code.OTHER_MODES,)
    assert codes(10.0, 10.0, 40.0) == ()  # two led there
    assert codes(10.0, 14.0, 40.0) == ()  # 0.04 nats per row are of no consequence
    assert codes(10.0) == ()


@pytest.mark.slow
def test_a_network_arrives_where_it_has_a_mode_and_says_where_it_has_none() -> None:
    """A network of more weights than Hessians are formed for, which interpolates the rows."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 6))
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.5 * rng.normal(size=40)
    known = fit(Model(MLP((60,)), Normal(0.3), gaussian(1.0)), MAP(), x, y, key=0, progress=False)
    assert known.status.level == "ok", known.status
    assert known.stats["newton_decrement"] <= 0.1
    learned = fit(Model(MLP((60,)), Normal(dist.HalfNormal(1.0)), gaussian(1.0)), MAP(), x, y, key=2, progress=False)
    assert learned.status.level != "ok"  # the scale shrinks to 0
    assert "fix a learned scale" in str(learned.status)


@pytest.mark.parametrize(
    "name",
    some_by_default(
        ["Bernoulli", "Categorical", "Normal, learned scale", "Normal, scale of the network", "Poisson"],
        "Categorical",
    ),
)
def test_the_matrix_by_rows_is_that_by_columns(
    x64: None, problem: FindProblem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "ROWS_TOGETHER", 7)  # the last part is not full
    model, x, y = problem(name)
    result = fit(model, MAP(num_steps=5, polish=False), x, y, key=0, progress=False)
    density, data = result.density, jax.device_put(Data(x, y))
    assert is_by_rows(density, data)
    u = {site: jnp.asarray(value[0, 0]) for site, value in result.draws.items()}
    vector, unravel = ravel_pytree(u)

    def expected(there: Array, here: Array) -> Array:
        return expected_loss(density, unravel(there), unravel(here), data) - density.prior_potential(
            unravel(there), data
        )

    by_columns = hessian(expected)(vector, vector)
    np.testing.assert_allclose(gauss_newton(density, u, data), by_columns, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_with_very_many_rows_a_small_model_still_ends_to_the_last_digit(
    problem: FindProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hessians are then replaced by Gauss-Newton matrices, but not the goal."""
    monkeypatch.setattr(second_order, "HESSIAN_WORK", 0)
    model, x, y = problem("Bernoulli")
    result = fit(model, MAP(num_steps=5), x, y, key=0, progress=False)
    assert result.status.level == "ok", result.status
    assert result.stats["newton_decrement"] < 1e-9


def test_newtons_method_leaves_a_saddle_and_takes_a_valley() -> None:
    def quartic(u: Array) -> Array:
        return (u[0] ** 2 - 1) ** 2 + 0.5 * u[1] ** 2

    def valley(u: Array) -> Array:
        return 100 * (u[1] - u[0] ** 2) ** 2 + (1 - u[0]) ** 2

    with jax.enable_x64(True):
        for f, start in ((quartic, [1e-3, 1.0]), (valley, [-1.2, 1.0])):
            derivatives = jax.jit(lambda u, f=f: (f(u), jax.grad(f)(u), jax.hessian(f)(u)))
            end = minimise(
                lambda u, f=f: float(f(u)),
                lambda u, at=derivatives: Derivatives.of(*at(u)),
                np.array(start),
                max_steps=200,
            )
            assert end.decrement < 1e-12
            assert end.value < 1e-12
            assert abs(end.u[0]) == pytest.approx(1.0)
        at_saddle = minimise(
            lambda u: float(quartic(u)),
            lambda u: Derivatives.of(quartic(u), jax.grad(quartic)(u), jax.hessian(quartic)(u)),
            np.zeros(2),
            max_steps=5,
        )
        assert at_saddle.decrement == np.inf


@pytest.mark.parametrize("key", range(3))
def test_separable_classes_are_named_and_the_weights_stay_where_the_optimiser_ended(key: int) -> None:
    """Also where only Newton's method finds that all rows can be classified: it would go on until rounding ends it."""
    x = np.random.default_rng(key).normal(size=(40, 2))
    y = (x @ [1.0, -0.7] > 0.2).astype(int)
    stopped = fit(Model(MLP(), Bernoulli()), MLE(num_steps=20, num_restarts=1), x, y, key=key, progress=False)
    assert [reason.code for reason in stopped.status.failures] == [Code.SEPARABLE]
    before = fit(Model(MLP(), Bernoulli()), MLE(num_steps=20, num_restarts=1, polish=False), x, y, key=key)
    np.testing.assert_array_equal(stopped.draws["w1"], before.draws["w1"])
