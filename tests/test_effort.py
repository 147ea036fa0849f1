"""What follows a descent: parts of rows, curvature from some of them, and no more work than the descent itself."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flatprior.inference import MAP
from flatprior.inference.checks import check_problem
from flatprior.inference.density import Density
from flatprior.inference.methods.effort import Effort, rows_in_memory
from flatprior.inference.methods.unbounded import is_unbounded
from flatprior.inference.programs import program
from flatprior.inference.reasons import Code
from flatprior.inference.rows import Data
from flatprior.inference.second_order import SecondOrder, second_order_of
from flatprior.inference.surface import surface_of
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import FindProblem

NUM_ROWS = 3000


@pytest.fixture(scope="module")
def logistic() -> tuple[Density, Data, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 3)).astype(np.float32)
    y = (x @ [1.0, -1.0, 0.5] + rng.logistic(size=NUM_ROWS) > 0).astype(int)
    density, data, *_ = check_problem(Model(MLP(), Bernoulli(), gaussian(1.0)), x, y)
    return density, data, {"w1": np.zeros((3, 1), np.float32), "b1": np.zeros(1, np.float32)}


@pytest.mark.parametrize("by_gauss_newton", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_parts_of_rows_have_the_sum_of_all(logistic: Any, by_gauss_newton: bool, weighted: bool) -> None:
    """The last of seven parts is not full, and repeats a row that must not count."""
    density, data, u = logistic
    if weighted:
        data = Data(data.x, data.y, weights=jnp.linspace(0.0, 2.0, NUM_ROWS))
    problem = program(SecondOrder, density, data, by_gauss_newton)
    whole, in_parts = (problem.minimise(u, data, max_steps=2, rows_together=size) for size in (None, 430))
    np.testing.assert_allclose(in_parts.value, whole.value, rtol=1e-13)
    for name in ("u", "slope", "curvature"):
        np.testing.assert_allclose(getattr(in_parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_curvature_of_some_rows_leads_to_the_minimum_of_all(logistic: Any) -> None:
    density, data, u = logistic
    problem = program(SecondOrder, density, data, True)
    whole = problem.minimise(u, data, max_steps=50)
    some = problem.minimise(u, data, max_steps=50, rows_together=1001, curvature_rows=500)
    assert some.steps > 3
    np.testing.assert_allclose(some.u, whole.u, rtol=1e-9)
    np.testing.assert_allclose(some.curvature, whole.curvature, rtol=0.3, atol=0.1 * whole.curvature.max())
    assert not np.allclose(some.curvature, whole.curvature, rtol=1e-3)


class Counted(SecondOrder):
    """Counts the rows that are evaluated, by what."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows = dict.fromkeys(("_value", "_value_and_slope", "_derivatives"), 0)
        for name in self.rows:
            setattr(self, name, self._counted(name, getattr(self, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def call(vector: Any, like: Any, data: Data, power: Any) -> Any:
            self.rows[name] += data.num_rows
            return function(vector, like, data, power)

        return call


def test_newtons_method_costs_no_more_than_the_descent(logistic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are counted, whatever the number of steps that the method might take."""
    density, data, u = logistic
    monkeypatch.setattr("flatprior.inference.methods.effort.FREE_WORK", 0)
    monkeypatch.setattr("flatprior.inference.methods.effort.FREE_CURVATURE", 0)
    monkeypatch.setattr("flatprior.inference.methods.effort.HESSIAN_WORK", 0)
    evaluations = 60 * NUM_ROWS
    effort = Effort.of(evaluations, density, data)
    problem = Counted(density, True)
    problem.minimise(
        u, data, max_steps=effort.max_steps(problem), curvature_rows=effort.curvature_rows(problem), enough=-1.0
    )
    assert problem.rows["_derivatives"] > 0
    assert problem.rows["_value"] + problem.rows["_value_and_slope"] <= evaluations
    assert effort.affordable((problem,))
    assert not Effort.of(4 * NUM_ROWS, density, data).affordable((problem,))


def test_what_small_data_cost_is_free(logistic: Any) -> None:
    density, data, _ = logistic
    effort = MAP(batch_size=1, num_steps=1).effort(density, data)
    problems = second_order_of(density, data)
    assert effort.affordable(problems) == problems
    assert effort.max_steps(problems[0]) > 1000
    assert effort.curvature_rows(problems[0]) is None
    assert effort.pays_for_hessians(8)


def test_texts_count_as_their_tokens(problem: FindProblem) -> None:
    """A network that goes through a text token by token takes as long as with as many rows."""
    model, x, y = problem("CategoricalSequence")
    whole, first = (Effort.of(1, *check_problem(model, x[:, :size], y[:, :size])[:2]) for size in (3, 1))
    assert 3 * whole.passes == pytest.approx(first.passes)
    assert whole._replace(values_per_row=1, passes=first.passes) == first
    matrix = SecondOrder.__new__(SecondOrder)
    matrix.by_gauss_newton = False
    assert 3 * whole.max_steps(matrix) == pytest.approx(first.max_steps(matrix), rel=1e-3)
    large = Effort(0.0, num_rows=10**6, num_weights=10**9, rows_together=1)
    texts = large._replace(values_per_row=32)
    assert large.rows_of(13) == large.rows_for(400) == 1024
    assert texts.rows_of(13) == texts.rows_for(400) == 32
    assert large._replace(values_per_row=4096).rows_of(13) == 16


def test_work_is_counted_in_gradients_of_rows() -> None:
    """The same fit has the same result on every machine: nothing is timed."""
    rows = 10**6
    batches, full = (Effort(count / rows, rows, 177, rows) for count in (2000 * 128, 2000 * rows))
    problem = SecondOrder.__new__(SecondOrder)
    problem.by_gauss_newton = True
    assert not batches.affordable((problem,))
    assert full.max_steps(problem) > 100
    assert not batches.pays_for_hessians(8)


def test_rows_in_memory_depend_on_what_a_row_costs(monkeypatch: pytest.MonkeyPatch, logistic: Any) -> None:
    density, data, _ = logistic
    assert rows_in_memory(density, data, 1) == NUM_ROWS
    monkeypatch.setattr("flatprior.inference.methods.effort.FREE_ENTRIES", 0)
    monkeypatch.setattr("flatprior.inference.chunks.WORKING_BYTES", 2**16)
    few = rows_in_memory(density, data, 1)
    assert 1 <= few < NUM_ROWS
    assert rows_in_memory(density, data, 4) == few // 4


@pytest.mark.slow
def test_rows_that_stand_for_all_show_a_density_without_bound() -> None:
    """Half of y is 0, so that a scale of the network can shrink around it: the steps are those of 1,024 rows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(NUM_ROWS, 2)).astype(np.float32)
    y = np.where(x[:, 0] > 0, 0.0, 1 + rng.normal(size=NUM_ROWS)).astype(np.float32)
    density, data, *_ = check_problem(Model(MLP((4,), "tanh"), Normal("network")), x, y)
    density = density.flattened()
    u = {site: np.asarray(0.3 * rng.normal(size=shape), np.float32) for site, shape in density.structure.sites}
    surface, effort = surface_of(density, data), Effort(0.0, NUM_ROWS, 22, NUM_ROWS)
    assert effort.rows_for(400) == 1024
    (reason,) = is_unbounded(surface, u, data, effort, is_suspect=True)
    assert reason.code is Code.UNBOUNDED_DENSITY
    assert y[reason.numbers["row"]] == 0
