"""Scales of priors that are learned: the sites, the density, its coordinates for samplers, and what MAP says of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from arviz_stats.base import array_stats
from flax import nnx
from jax import Array

from flatprior.inference import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    Code,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    Prior,
    explain,
    fit,
    flat,
    log_density,
)
from flatprior.inference.checks import check_problem
from flatprior.inference.methods import prior_path
from flatprior.inference.methods.collapse import collapsing
from flatprior.inference.surface import surface_of
from flatprior.models import MLP, Lift, Model, Normal, fan_in, gaussian, priors

NOISE = 0.5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4))
WEAK = X @ (0.3 * RNG.normal(size=4)) + NOISE * RNG.normal(size=20)
STRONG = X @ np.full(4, 3.0) + NOISE * RNG.normal(size=20)
HALF_NORMAL = Model(MLP(), Normal(NOISE), gaussian(dist.HalfNormal(1.0)))
MODULE = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
LIFTED = Model(Lift(MODULE), Normal(NOISE), {"*.kernel": fan_in(dist.LogNormal(0.0, 1.0)), "*": gaussian(1.0)})


# The sites.


def test_one_scale_for_all_or_one_for_each_key() -> None:
    one = priors(HALF_NORMAL, X).to_dataframe()
    assert one["prior"].to_dict() == {
        "prior_scale": "HalfNormal(1)",
        "w1": "Normal(0, scale)",
        "b1": "Normal(0, scale)",
    }
    assert set(one["set_by"]) == {"one prior for all"}
    by_key = {"w*": fan_in(dist.HalfNormal(1.0)), "b1": gaussian(dist.LogNormal(0.0, 1.0)), "b2": gaussian(2.0)}
    several = priors(Model(MLP((3,)), Normal(NOISE), by_key), X).to_dataframe()
    assert list(several.index) == ["prior_scale[w*]", "prior_scale[b1]", "w1", "b1", "w2", "b2"]
    assert several["prior"]["b2"] == "Normal(0, 2)"
    assert several["set_by"]["prior_scale[w*]"] == several["set_by"]["w2"] == "key 'w*'"


@pytest.mark.parametrize("kind", [gaussian, fan_in])
def test_equal_priors_are_one_value(kind: Any) -> None:
    for d in (dist.HalfNormal, lambda scale: dist.LogNormal(0.0, scale), lambda scale: dist.Uniform(0.0, scale)):
        assert kind(d(1.0)) == kind(d(1.0)) != kind(d(2.0))
        assert hash(kind(d(1.0))) == hash(kind(d(1.0)))
    assert kind(dist.HalfNormal(1.0)) != kind(1.0) == kind(1.0)


BAD: dict[str, tuple[Any, str]] = {
    "a Normal": (lambda: gaussian(dist.Normal(0.0, 1.0)), "gaussian: expected .* over positive .*; got Normal"),
    "several": (lambda: fan_in(dist.HalfNormal(jnp.ones(3))), r"one distribution .*; got HalfNormal of shape \(3,\)"),
    "counts": (lambda: gaussian(dist.Poisson(1.0)), "over positive numbers, such as .*; got Poisson"),
    "weight decay": (
        lambda: gaussian(dist.HalfNormal(1.0)).weight_decay(loss="sum"),
        "expected a number as scale for 'weight_decay'; got HalfNormal",
    ),
    "a network of one's own": (
        lambda: gaussian(dist.HalfNormal(1.0))("w1", (3,)),
        "expected a number as scale for 'w1'; got HalfNormal. .* sample the scale and pass its value",
    ),
    "a path": (lambda: prior_path(HALF_NORMAL, X, WEAK, key=0), r"whose scales are numbers.* learns \['prior_scale'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_raises(name: str) -> None:
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()


# The density, and its coordinates.


def test_the_density_is_that_of_the_scale_and_of_the_weights_given_it(x64: None) -> None:
    weights = {"prior_scale": jnp.array(0.3), "w1": jnp.linspace(-1, 1, 4)[:, None], "b1": jnp.array([0.2])}
    given = {site: value for site, value in weights.items() if site != "prior_scale"}
    expected = log_density(Model(MLP(), Normal(NOISE), gaussian(0.3)), given, X, WEAK) + dist.HalfNormal(1.0).log_prob(
        0.3
    )
    np.testing.assert_allclose(log_density(HALF_NORMAL, weights, X, WEAK), expected, rtol=1e-12)
    assert explain(HALF_NORMAL, X, WEAK, at=weights).value_difference < 1e-10


@pytest.mark.parametrize("name", ["one scale", "a scale for a key"])
def test_coordinates_of_samplers_are_weights_in_units_of_their_scale(name: str, x64: None) -> None:
    """The density over them is that over the weights, by the change of variables; draws are the weights."""
    density, data = check_problem({"one scale": HALF_NORMAL, "a scale for a key": LIFTED}[name], X, WEAK)
    standard = density.noncentred()
    scale = next(iter(density.structure.of_prior))
    shapes = density.structure.latents
    u = {site: jnp.cos(jnp.arange(float(np.prod(shape)))).reshape(shape) for site, shape in shapes.items()}
    u[scale] = jnp.array(-0.7)
    draws = standard.draws(u, data)
    log_scales = 0.0
    for site in density.structure.noncentred:
        inputs = shapes[site][0] if name != "one scale" else 1
        np.testing.assert_allclose(draws[site], np.exp(-0.7) / np.sqrt(inputs) * u[site], rtol=1e-12)
        log_scales += u[site].size * (-0.7 - np.log(inputs) / 2)
    centred = {**draws, scale: u[scale]}
    potential, expected = standard.potential(u, data), density.potential(centred, data) - log_scales
    np.testing.assert_allclose(potential, expected, rtol=1e-12)
    start = density.sample(jax.random.key(0), data, lambda site: None)
    np.testing.assert_allclose(
        standard.draws(_unconstrained(standard.sample(jax.random.key(0), data, lambda site: None), scale), data)["b1"]
        if name == "one scale"
        else start["layers.0.bias"],
        start["b1" if name == "one scale" else "layers.0.bias"],
        rtol=1e-6,
    )


def _unconstrained(weights: dict[str, Array], scale: str) -> dict[str, Array]:
    return {**weights, scale: jnp.log(weights[scale])}


# Against quadrature over the scale: given it, everything is Gaussian.


def by_quadrature(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> dict[str, tuple[float, float]]:
    """Posterior means and standard deviations of the scale, and of the function at a new row."""
    design, row = np.column_stack([x, np.ones(len(x))]), np.append(new, 1.0)
    scales = np.exp(np.linspace(np.log(1e-4), np.log(50.0), 2000))
    log_mass, means, variances = [], [], []
    for scale in scales:
        covariance = NOISE**2 * np.eye(len(y)) + scale**2 * design @ design.T
        log_mass.append(scipy.stats.multivariate_normal.logpdf(y, np.zeros(len(y)), covariance))
        posterior = np.linalg.inv(design.T @ design / NOISE**2 + np.eye(len(row)) / scale**2)
        means.append(row @ posterior @ design.T @ y / NOISE**2)
        variances.append(row @ posterior @ row)
    log_mass = np.array(log_mass) + scipy.stats.halfnorm.logpdf(scales) + np.log(scales)
    mass = np.exp(log_mass - log_mass.max())
    mass, means = mass / mass.sum(), np.array(means)
    mean, scale = mass @ means, mass @ scales
    spread = np.sqrt(mass @ scales**2 - scale**2), np.sqrt(mass @ (np.array(variances) + means**2) - mean**2)
    return {"scale": (scale, spread[0]), "function": (mean, spread[1])}


CHAINS: dict[str, Any] = {
    "NUTS": NUTS(num_warmup=500, num_samples=1500),
    "MCLMC": MCLMC(num_warmup=5000, num_samples=400, thinning=20),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NUTS", "MCLMC"])
def test_chains_find_the_posterior_of_the_scale(name: str) -> None:
    new = np.array([1.0, -1.0, 2.0, 0.0])
    result = fit(HALF_NORMAL, CHAINS[name], X, WEAK, key=1, progress=False)
    assert set(result.status.codes) <= {Code.DIVERGENCES}  # one of thousands, near a scale of 0
    function = result.draws["w1"][..., 0] @ new + result.draws["b1"][..., 0]
    for what, draws in (("scale", result.draws["prior_scale"]), ("function", function)):
        draws = draws.astype(float)
        mean, sd = by_quadrature(X, WEAK, new)[what]
        assert abs(draws.mean() - mean) < 4 * array_stats.mcse(draws, method="mean") + 0.01 * sd, what
        assert abs(draws.std() - sd) < 4 * array_stats.mcse(draws, method="sd") + 0.04 * sd, what  # MCLMC has a bias


@pytest.mark.slow
def test_the_prior_itself_is_drawn_and_summarised() -> None:
    draws = fit(HALF_NORMAL, Prior(num_samples=20_000), X, WEAK, key=0, progress=False).draws
    standard = draws["w1"][0, ..., 0] / draws["prior_scale"][0, :, None]
    assert scipy.stats.kstest(standard.ravel(), "norm").pvalue > 1e-4
    assert scipy.stats.kstest(draws["prior_scale"][0], "halfnorm").pvalue > 1e-4


# A flat prior has no scale.

QUICK: dict[str, Any] = {"num_steps": 150}


def test_the_likelihood_does_not_know_the_scale() -> None:
    known = fit(Model(MLP(), Normal(NOISE), gaussian(1.0)), MLE(**QUICK), X, WEAK, key=0, progress=False)
    learned = fit(HALF_NORMAL, MLE(**QUICK), X, WEAK, key=0, progress=False)
    flattened = fit(flat(HALF_NORMAL), MAP(**QUICK), X, WEAK, key=0, progress=False)
    for result in (learned, flattened):
        assert list(result.draws) == list(result.structure.latents) == ["w1", "b1"]
        assert result.status.level == "ok"
        np.testing.assert_allclose(result.draws["w1"], known.draws["w1"], rtol=1e-4)
        np.testing.assert_allclose(result.predict(X).mean, known.predict(X).mean, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["MLE", *(pytest.param(each, marks=pytest.mark.slow) for each in ("NUTS", "NUTS of one given MLE", "Ensemble"))],
)
def test_fits_are_saved_and_summarised(name: str, tmp_path: Any) -> None:
    chains = NUTS(num_warmup=30, num_samples=20, num_chains=2)
    method = {
        "MLE": MLE(**QUICK),
        "NUTS": chains,
        "NUTS of one given MLE": Conditional(base=MLE(**QUICK), sites=("layers.2.*",), method=chains),
        "Ensemble": Ensemble(MLE(**QUICK), num_members=2),
    }[name]
    result = fit(LIFTED, method, X, WEAK, key=0, progress=False)
    assert ("prior_scale[*.kernel]" in result.draws) == ("NUTS" in name)
    result.save(tmp_path / "fit.nc")
    again = Fit.load(tmp_path / "fit.nc", LIFTED)
    np.testing.assert_array_equal(again.predict(X).mean, result.predict(X).mean)
    assert set(again.to_datatree(X, WEAK)["posterior"]) == set(result.draws)


# The joint density of a scale and its weights.


def eight_schools(x: Array, y: Array | None = None) -> None:
    mean, spread = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        effect = numpyro.sample("theta", dist.Normal(mean, spread))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(effect[x[:, 0].astype(int)], x[:, 1]), obs=y)


def standard_schools(x: Array, y: Array | None = None) -> None:
    mean, spread = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        effect = numpyro.sample("theta", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean + spread * effect[x[:, 0].astype(int)], x[:, 1]), obs=y)


SCHOOLS = (
    np.column_stack([np.arange(8), [15, 10, 16, 11, 9, 11, 10, 18.0]]),
    np.array([28, 8, -3, 7, -1, 1, 18, 12.0]),
)


def _of(scale: Any) -> Model:
    return Model(MLP(), Normal(NOISE), gaussian(scale))


COLLAPSING: dict[str, tuple[Any, Any, str]] = {
    "HalfNormal, weak data": (HALF_NORMAL, (X, WEAK), "failed"),
    "Uniform from 0, weak data": (_of(dist.Uniform(0.0, 2.0)), (X, WEAK), "failed"),
    "HalfNormal, strong data": (HALF_NORMAL, (X, STRONG), "check"),
    "schools, centred": (eight_schools, SCHOOLS, "failed"),
}
HEALTHY: dict[str, tuple[Any, Any]] = {
    "LogNormal, weak data": (_of(dist.LogNormal(0.0, 1.0)), (X, WEAK)),
    "LogNormal, strong data": (_of(dist.LogNormal(0.0, 1.0)), (X, STRONG)),
    "InverseGamma, strong data": (_of(dist.InverseGamma(3.0, 1.0)), (X, STRONG)),
    "a number": (_of(1.0), (X, WEAK)),
    "a learned scale of y": (Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0)), (X, WEAK)),
    "schools, non-centred": (standard_schools, SCHOOLS),
}
DEFAULT = ("HalfNormal, weak data", "HalfNormal, strong data", "LogNormal, strong data", "a number")
"""The others are slow tests."""


def _marked(names: Any) -> list[Any]:
    return [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("method", [MAP(), pytest.param(Laplace(), marks=pytest.mark.slow)], ids=["MAP", "Laplace"])
@pytest.mark.parametrize("name", _marked(COLLAPSING))
def test_a_scale_that_takes_its_weights_to_0_is_named(name: str, method: Any) -> None:
    model, (x, y), level = COLLAPSING[name]
    status = fit(model, method, x, y, key=0, progress=False).status
    assert (status.level, status.codes) == (level, (Code.COLLAPSING_SCALE,))
    reason = status.reasons[0]
    assert "NUTS" in str(reason)
    assert reason.numbers["end"] < 1e-30
    further, here = reason.numbers["further"], reason.numbers["here"]
    # They are equal where the descent itself has come to the end.
    assert further <= here if level == "failed" else further >= here


@pytest.mark.parametrize("method", [MAP(), pytest.param(Laplace(), marks=pytest.mark.slow)], ids=["MAP", "Laplace"])
@pytest.mark.parametrize("name", _marked(HEALTHY))
def test_a_scale_with_a_mode_is_ok(name: str, method: Any) -> None:
    model, (x, y) = HEALTHY[name]
    assert Code.COLLAPSING_SCALE not in fit(model, method, x, y, key=0, progress=False).status.codes
    if isinstance(method, MAP):
        codes = fit(model, method, x, y, key=0, progress=False).status.codes
        assert codes == (
            (Code.PRIOR_CONFLICT,) if name == "LogNormal, weak data" else ()
        )  # its mode is at a scale of .003


@pytest.mark.parametrize("log_scale", [-3.0, -70.0, -200.0])
def test_a_scale_that_has_collapsed_already_is_named(log_scale: float) -> None:
    """However far an optimiser gets."""
    density, data = check_problem(HALF_NORMAL, X, WEAK)
    scale = np.exp(log_scale, dtype=np.float64)
    u = {"prior_scale": np.float32(log_scale), "w1": np.full((4, 1), scale, np.float32), "b1": np.zeros(1, np.float32)}
    status = collapsing(surface_of(density, data), u, data, MAP().effort(density, data))
    assert (status.level, status.codes) == ("failed", (Code.COLLAPSING_SCALE,))
    assert status.reasons[0].numbers["value"] == pytest.approx(scale, rel=1e-4)


@pytest.mark.slow
def test_a_higher_mode_at_a_smaller_scale_is_named() -> None:
    """Under a LogNormal prior the density is bounded, but d weights pull its mode to a scale near exp(-d)."""
    on_the_way = fit(LIFTED, MAP(**QUICK, polish=False), X, WEAK, key=0, progress=False).status
    assert on_the_way.codes == (Code.COLLAPSING_SCALE,)
    numbers = on_the_way.reasons[0].numbers
    assert numbers["further"] < numbers["here"]
    assert 1e-12 < numbers["end"] < numbers["value"] / 10
    there = fit(LIFTED, MAP(), X, WEAK, key=0, progress=False)
    assert there.draws["prior_scale[*.kernel]"] < 1e-3
    assert there.status.codes == (Code.PRIOR_CONFLICT,)
