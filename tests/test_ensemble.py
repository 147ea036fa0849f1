"""Ensembles: members are independent restarts, and none is dropped in silence."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import Array

from flatprior.inference import MAP, MLE, Ensemble, Fit, Laplace, fit, flat
from flatprior.models import MLP, Model, Normal, gaussian

NETWORK = Model(MLP((3,), "tanh"), Normal(0.4), gaussian(1.0))
LINE = Model(MLP(), Normal(0.7), gaussian(0.8))
SIZE = 4


@pytest.fixture(scope="module")
def x_y(data_sets: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return data_sets["real"]


@pytest.fixture(scope="module")
def fitted(x_y: Any) -> Fit:
    return fit(NETWORK, Ensemble(base=MAP(num_steps=50), num_members=SIZE), *x_y, key=0, progress=False)


def test_draws_are_one_chain_of_members_that_differ(fitted: Fit, x_y: Any) -> None:
    assert fitted.kind == "approximation"
    assert {site: draws.shape for site, draws in fitted.draws.items()} == {
        "w1": (1, SIZE, 2, 3),
        "b1": (1, SIZE, 3),
        "w2": (1, SIZE, 3, 1),
        "b2": (1, SIZE, 1),
    }
    assert len(np.unique(fitted.draws["w1"][0, :, 0, 0])) > 1
    assert fitted.stats["loss"].shape == (SIZE, 50)
    pointwise = fitted.log_likelihood(*x_y)
    assert pointwise.shape == (1, SIZE, len(x_y[1]))
    np.testing.assert_allclose(
        fitted.predict(x_y[0]).log_prob(x_y[1]), np.log(np.exp(pointwise).mean(axis=(0, 1))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("base", [pytest.param(MAP, marks=pytest.mark.slow), MLE])
def test_members_of_a_convex_model_are_its_one_optimum(base: Any, x_y: Any) -> None:
    """Each member is polished as a lone estimate is."""
    fitted = fit(LINE, Ensemble(base=base(num_steps=200), num_members=SIZE), *x_y, key=0, progress=False)
    alone = fit(LINE, base(num_steps=200), *x_y, key=1, progress=False)
    assert fitted.status.level == "ok"
    for site, draws in fitted.draws.items():
        np.testing.assert_allclose(draws, np.broadcast_to(alone.draws[site], draws.shape), atol=1e-5, err_msg=site)


def test_an_ensemble_of_mle_is_one_of_map_on_the_flat_model(x_y: Any) -> None:
    settings: dict[str, Any] = {"num_steps": 60, "batch_size": 10, "polish": False}
    mle = fit(LINE, Ensemble(base=MLE(**settings), num_members=2), *x_y, key=0, progress=False)
    flat_map = fit(flat(LINE), Ensemble(base=MAP(**settings), num_members=2), *x_y, key=0, progress=False)
    for site in mle.draws:
        np.testing.assert_array_equal(mle.draws[site], flat_map.draws[site])
    assert mle.method == Ensemble(base=MLE(**settings), num_members=2)


def test_the_key_decides_every_bit_and_nothing_compiles_twice(fitted: Fit, x_y: Any) -> None:
    again, other = (fit(NETWORK, fitted.method, *x_y, key=key, progress=False) for key in (0, 1))
    np.testing.assert_array_equal(fitted.draws["w1"], again.draws["w1"])
    assert not np.allclose(fitted.draws["w1"], other.draws["w1"])
    assert other.seconds.compile < 0.5


def half_defined(x: Array, y: Array | None = None) -> None:
    """A density that is no number above 0: members that start there have no finite loss."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.factor("edge", jnp.where(w > 0, jnp.nan, -w))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def test_members_that_fail_are_named_and_left_out(x_y: Any) -> None:
    fitted = fit(
        half_defined,
        Ensemble(base=MAP(num_steps=20, optimizer=optax.sgd(1e-4), polish=False), num_members=8),
        *x_y,
        key=0,
        progress=False,
    )
    num_finite = fitted.draws["w"].shape[1]
    assert 0 < num_finite < 8
    assert np.isfinite(fitted.draws["w"]).all()
    assert fitted.status.level == "check"
    assert (
        f"of 8 have no finite loss or weights and are left out; the ensemble consists of the other {num_finite}"
        in str(fitted.status)
    )


def test_an_ensemble_without_a_finite_member_fails(x_y: Any) -> None:
    fitted = fit(
        LINE, Ensemble(base=MAP(num_steps=300, optimizer=optax.sgd(1e6)), num_members=2), *x_y, key=0, progress=False
    )
    assert fitted.status.level == "failed"
    assert "learning rate" in str(fitted.status)


def test_what_is_wrong_with_members_is_reported_of_the_first(x_y: Any) -> None:
    short = Ensemble(base=MAP(num_steps=50, polish=False), num_members=SIZE)
    fitted = fit(NETWORK, short, *x_y, key=0, progress=False)
    assert fitted.status.level == "check"
    assert str(fitted.status.reasons[0]).startswith("4 of 4 members have a problem. Member 0: ")


def test_early_stopping_holds_out_rows(x_y: Any) -> None:
    base = MLE(num_steps=400, validation_fraction=0.25, patience=2)
    fitted = fit(NETWORK, Ensemble(base=base, num_members=2), *x_y, key=0, progress=False)
    assert "Stopped early at step" in str(fitted.status)
    assert np.isfinite(fitted.draws["w1"]).all()


BAD = {
    "another method as base": (lambda: Ensemble(base="MAP"), r"expected MAP\(...\) or MLE\(...\) as base; got 'MAP'"),
    "no members": (lambda: Ensemble(num_members=0), "expected a positive integer as num_members; got 0"),
    "a truth value as size": (
        lambda: Ensemble(num_members=True),
        "expected a positive integer as num_members; got True",
    ),
    "restarts": (
        lambda: Ensemble(base=MAP(num_restarts=3)),
        "num_restarts=1.*got 3. Set the number of members",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_raise(name: str) -> None:
    build, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize("method", [Ensemble, Laplace])
def test_the_base_may_be_positional_and_no_other_setting(method: Any) -> None:
    base = MAP(num_steps=50)
    assert method(base) == method(base=base)
    with pytest.raises(TypeError, match="positional argument"):
        method(base, 10)
