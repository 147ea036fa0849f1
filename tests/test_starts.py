"""Where fits start, for priors of every support: no value is drawn, so none needs another package."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from numpyro.distributions import biject_to

from flatprior.inference import MAP, NUTS, Fit, Laplace, explain, fit
from flatprior.inference.checks import check_problem
from flatprior.inference.start import starting_weights
from flatprior.models.table import priors

from .tables import some_by_default

X = np.random.default_rng(0).normal(size=(40, 2))
Y = X[:, 0] + 0.5 * np.random.default_rng(1).normal(size=40)

PRIORS: dict[str, Callable[[], dist.Distribution]] = {
    "half Student-t": lambda: dist.TruncatedDistribution(dist.StudentT(3.0), low=0.0),
    "half Student-t of three": lambda: dist.TruncatedDistribution(dist.StudentT(3.0, 0.0, 2.5), low=0.0).expand([3]),
    "Student-t between bounds": lambda: dist.TruncatedDistribution(dist.StudentT(3.0), low=0.0, high=10.0),
    "TruncatedCauchy": lambda: dist.TruncatedCauchy(0.0, 1.0, low=0.0),
    "TruncatedNormal": lambda: dist.TruncatedNormal(0.0, 1.0, low=0.0),
    "HalfCauchy": lambda: dist.HalfCauchy(1.0),
    "LKJCholesky": lambda: dist.LKJCholesky(3, 1.0),
    "Dirichlet": lambda: dist.Dirichlet(jnp.ones(3)),
    "ZeroSumNormal": lambda: dist.ZeroSumNormal(1.0, (3,)),
    "VonMises": lambda: dist.VonMises(0.0, 1.0),
    "WishartCholesky": lambda: dist.WishartCholesky(5.0, jnp.eye(3)),
    "ImproperUniform": lambda: dist.ImproperUniform(dist.constraints.positive, (), ()),
}


class _Model:
    """A line whose residuals have a scale that depends on a site with this prior."""

    def __init__(self, prior: Callable[[], dist.Distribution]) -> None:
        self.prior = prior

    def __call__(self, x: Array, y: Array | None = None) -> None:
        d = self.prior()
        scale = numpyro.sample("scale", d.to_event(len(d.batch_shape)))
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(slope * x[:, 0], jnp.exp(jnp.clip(jnp.sum(scale), -1.0, 1.0))), obs=y)


@pytest.mark.parametrize("name", some_by_default(PRIORS, "half Student-t of three", "LKJCholesky"))
def test_a_start_needs_no_draw_from_the_prior(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _Model(PRIORS[name])
    monkeypatch.setattr(dist.Distribution, "__call__", _raises)
    density, data = check_problem(model, X, Y)
    start = starting_weights(density, data, jax.random.key(0))
    support = PRIORS[name]().support
    assert start["scale"].shape == PRIORS[name]().shape()
    assert np.all(support(start["scale"]))
    assert np.isfinite(density.potential({s: _free(v, s, name) for s, v in start.items()}, data))


def _raises(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a value was drawn from the prior")


def _free(value: Array, site: str, name: str) -> Array:
    return biject_to(PRIORS[name]().support).inv(value) if site == "scale" else value


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        MAP(num_steps=20, polish=False),
        pytest.param(Laplace(base=MAP(num_steps=20, polish=False), num_samples=3), marks=pytest.mark.slow),
        pytest.param(NUTS(num_warmup=5, num_samples=5, num_chains=2, max_tree_depth=2), marks=pytest.mark.slow),
    ],
)
def test_a_half_student_t_is_fitted_explained_and_saved(method: Any, tmp_path: Any) -> None:
    model = _Model(PRIORS["half Student-t"])
    result = fit(model, method, X, Y, key=0, progress=False)
    assert (result.draws["scale"] > 0).all()
    again = Fit.load(result.save(tmp_path / "fit.nc"), model)
    np.testing.assert_array_equal(again.predict(X).mean, result.predict(X).mean)
    assert "scale" in str(explain(model, X, Y))
    assert "LeftTruncatedDistribution" in str(priors(model, X))
