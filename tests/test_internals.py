"""Names that other libraries do not document as public mean what this library takes them to mean."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

from flatprior.inference import internals
from flatprior.models import internals as of_models


def test_numpyros_stack_holds_the_handlers_that_are_open() -> None:
    stack = getattr(numpyro.primitives, internals.STACK)
    assert stack is of_models._PYRO_STACK
    assert len(stack) == 0
    handler = numpyro.handlers.seed(rng_seed=0)
    with handler:
        assert list(stack) == [handler]


ORDER = """
import jax, numpyro.distributions as dist
from flatprior.inference.internals import sort_fields_of_distributions

sort_fields_of_distributions()
for d in (dist.TruncatedNormal(1.0, 2.0, low=3.0, high=4.0), dist.Gamma(5.0, 6.0).mask(True), dist.Normal(7.0, 8.0)):
    leaves, tree = jax.tree.flatten(d)
    print(leaves, jax.tree.leaves(jax.tree.unflatten(tree, leaves)) == leaves)
"""


@pytest.mark.slow
def test_the_leaves_of_distributions_have_one_order_in_every_process() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("True\n") == 3


def test_the_summaries_of_chains_are_those_of_arviz() -> None:
    """Independent draws have as many effective draws as draws, an R-hat of 1, and a Pareto k below 1 / 2."""
    draws = np.random.default_rng(0).normal(size=(4, 500))
    stats = internals.array_stats
    assert abs(float(stats.rhat(draws)) - 1) < 0.01
    assert 0.7 < float(stats.ess(draws)) / draws.size < 1.4
    energy = np.asarray(stats.bfmi(np.cumsum(draws, axis=1)))
    assert (energy < 0.1).all()
    smoothed, k = stats.psislw(draws[0] / 10)
    np.testing.assert_allclose(np.exp(smoothed).sum(), 1.0, rtol=1e-6)
    assert k < 0.5


def test_a_program_of_jax_can_be_read_and_run() -> None:
    closed = jax.make_jaxpr(lambda x: jnp.sin(x) + 1.0)(2.0)
    for module in (internals, of_models):
        assert isinstance(closed, module.ClosedJaxpr)
        assert isinstance(closed.jaxpr, module.Jaxpr)
        assert all(isinstance(equation, module.JaxprEqn) for equation in closed.jaxpr.eqns)
    assert [equation.primitive.name for equation in closed.jaxpr.eqns] == ["sin", "add"]
    assert any(isinstance(v, internals.Literal) for v in closed.jaxpr.eqns[1].invars)
    (value,) = internals.jaxpr_as_fun(closed)(2.0)
    np.testing.assert_allclose(value, np.sin(2.0) + 1, rtol=1e-6)
    jitted = jax.make_jaxpr(jax.jit(jnp.sin))(2.0).jaxpr.eqns[0]
    assert len(list(internals.jaxprs_in_params(jitted.params))) == 1


def test_an_integrator_of_blackjax_conserves_the_length_of_the_momentum() -> None:
    def log_density(u: jax.Array) -> jax.Array:
        return -jnp.sum(u**2) / 2

    u, momentum = jnp.array([1.0, 0.5, -0.5]), jnp.array([1.0, 0.0, 0.0])
    state = internals.IntegratorState(u, momentum, *jax.value_and_grad(log_density)(u))

    def move(u: Any, velocity: Any, step: float, coefficient: float, _: Any) -> Any:
        u = u + step * coefficient * velocity
        return u, *jax.value_and_grad(log_density)(u), "information"

    step = internals.generalized_two_stage_integrator(
        internals.esh_dynamics_momentum_update_one_step(jnp.ones(3)),
        move,
        internals.velocity_verlet_coefficients,
        lambda *state: (internals.IntegratorState(*state[:4]), *state[5:]),
    )
    moved, information, kinetic_change = step(state, 0.1)
    assert information == "information"
    assert abs(kinetic_change - moved.logdensity + state.logdensity) < 1e-3
    np.testing.assert_allclose(jnp.sum(moved.momentum**2), 1.0, rtol=1e-5)
    assert not np.allclose(moved.position, u)
    refreshed = internals.partially_refresh_momentum(moved.momentum, jax.random.key(0), 0.1, 1.0)
    np.testing.assert_allclose(jnp.sum(refreshed**2), 1.0, rtol=1e-5)


def test_hmc_has_the_two_functions_that_nuts_steps_with() -> None:
    initial, step = internals.hmc(lambda u: jnp.sum(u["w"] ** 2) / 2, algo="NUTS")
    assert callable(initial)
    assert callable(step)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = internals.other
