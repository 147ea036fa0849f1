"""What a few further steps gain: the status of a descent that Newton's method does not follow."""

from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from flatprior.inference import MAP, Ensemble, fit
from flatprior.inference.checks import check_problem
from flatprior.inference.density import Density
from flatprior.inference.methods.effort import Effort
from flatprior.inference.methods.finish import MAX_GAIN_PER_VALUE
from flatprior.inference.methods.further import EVALUATIONS, not_reached
from flatprior.inference.reasons import Code
from flatprior.inference.rows import Data
from flatprior.inference.surface import surface_of
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

Problem = tuple[Any, np.ndarray, np.ndarray]


def digits() -> Problem:
    x, y = load_digits(return_X_y=True)
    return Model(MLP((32,)), Categorical(10), gaussian(1.0)), x[:1000] / 16, y[:1000]


def numbers() -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 5))
    y = np.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2] + 0.3 * rng.normal(size=2000)
    return Model(MLP((40, 40)), Normal(0.3), fan_in(1.0)), x, y


@pytest.mark.slow
@pytest.mark.parametrize("key", range(3))
@pytest.mark.parametrize("problem", [digits, numbers])
def test_too_few_steps_by_batches_are_told_from_enough(problem: Any, key: int) -> None:
    """The loss of the batches falls by less than its noise at the end of all of these."""
    model, x, y = problem()
    few, more, enough = (
        fit(model, MAP(num_steps=steps, batch_size=100, num_restarts=1), x, y, key=key, progress=False)
        for steps in (100, 1000, 30_000)
    )
    losses = [-float(np.mean(each.predict(x).log_prob(y))) for each in (few, more, enough)]
    assert losses[0] > losses[2] + 0.02
    assert few.status.codes == more.status.codes == (Code.NOT_STATIONARY,)
    assert enough.status.level == "ok"


def test_members_with_too_few_steps_say_so() -> None:
    model, x, y = digits()
    members = Ensemble(MAP(num_steps=100, batch_size=100), num_members=3)
    assert "Member 0: This is not the mode: 10 further steps" in str(
        fit(model, members, x, y, key=0, progress=False).status
    )


def test_the_slope_of_parts_is_that_of_all_rows() -> None:
    model, x, y = digits()
    density, data = _problem(model, x, y)
    u = _anywhere(density)
    whole, parts = (surface_of(density, data, size).value_and_slope(u, data) for size in (None, 300))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), parts, whole)
    np.testing.assert_allclose(whole[0], surface_of(density, data).loss(u, data), rtol=1e-5)


@pytest.fixture(scope="module")
def wide() -> tuple[Density, Data, dict[str, np.ndarray]]:
    """A logistic regression whose mode is known, with so many weights that few rows lead away from it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 50)).astype(np.float32)
    y = (x[:, :20].sum(axis=1) / 2 + rng.logistic(size=len(x)) > 0).astype(int)
    model = Model(MLP(), Bernoulli(), gaussian(1.0))
    mode = fit(model, MAP(), x, y, key=0, progress=False)
    assert mode.status.level == "ok"
    return *_problem(model, x, y), {site: np.asarray(mode.draws[site][0, 0]) for site in ("w1", "b1")}


def test_the_rows_of_the_steps_do_not_say_what_they_gain(wide: Any) -> None:
    """At the mode of all rows the steps of a few lower the loss of these, and raise that of others."""
    density, data, mode = wide
    surface, limit = surface_of(density, data), MAX_GAIN_PER_VALUE * data.num_rows
    for rows, share in ((1200, 0.0), (data.num_rows, 0.8)):
        away = {**mode, "w1": np.float32(share) * mode["w1"]}
        # Of many weights nothing is free.
        effort = Effort(rows * EVALUATIONS / data.num_rows, data.num_rows, num_weights=10**9, rows_together=rows)
        assert effort.rows_of(EVALUATIONS) == rows
        assert not not_reached(surface, mode, data, effort, None, limit)
        (reason,) = not_reached(surface, away, data, effort, None, limit)
        assert reason.code is Code.NOT_STATIONARY
        missing = data.num_rows * float(surface.loss(away, data) - surface.loss(mode, data))
        assert 0.6 * missing < reason.numbers["gain"] < 1.01 * missing


def _problem(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[Density, Data]:
    density, data, *_ = check_problem(model, x, y)
    return density, data.on_device()


def _anywhere(density: Density) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {site: 0.3 * rng.normal(size=shape).astype(np.float32) for site, shape in density.structure.sites}
