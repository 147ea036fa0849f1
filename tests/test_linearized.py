"""Models linearised around a point, their identities, and Laplace, which predicts by them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy.stats import multivariate_normal
from sklearn.datasets import load_diabetes

from flatprior.inference import MAP, NUTS, Code, Conditional, Fit, Laplace, compare, fit, linearized, log_density, tune
from flatprior.inference.checks import check_problem
from flatprior.inference.distributions import affine, constrained, unconstrained
from flatprior.inference.methods import gaussian as gaussians
from flatprior.inference.methods.gaussian import Importance
from flatprior.inference.methods.rowwise import rowwise_surface_of
from flatprior.inference.tangent import has_hidden_units
from flatprior.models import MLP, Bernoulli, Model, Normal, fan_in, gaussian

from .tables import MODELS, some_by_default

NOISE, PRIOR = 0.5, 2.0
NETWORK = Model(MLP((3,), "tanh"), Normal(NOISE), gaussian(PRIOR))
QUICK = Laplace(base=MAP(num_steps=100), num_samples=30)


def output(w: Any, x: Array) -> Array:
    """The output of an MLP with 3 tanh units, from its weights in alphabetical order: b1, b2, w1, w2."""
    b1, b2, w1, w2 = w[:3], w[3:4], w[4:10].reshape(2, 3), w[10:].reshape(3, 1)
    return (jnp.tanh(x @ w1 + b1) @ w2 + b2)[:, 0]


def vectors(values: Any) -> np.ndarray:
    """Draws of that MLP as vectors, (draw, 13)."""
    return np.concatenate([np.asarray(values[s])[0].reshape(-1, n) for s, n in SITES.items()], axis=1)


SITES = {"b1": 3, "b2": 1, "w1": 6, "w2": 3}


@pytest.fixture(scope="module")
def network_fit(data_sets: Any) -> Any:
    """Laplace of the network in float64, and its rows."""
    x, y = data_sets["real"]
    with jax.enable_x64(True):
        yield fit(NETWORK, QUICK, x, y, key=0, progress=False), x, y


# The model.


@pytest.mark.parametrize("name", ["Bernoulli", "Categorical", "Normal, learned scale", "Poisson"])
def test_a_model_with_linear_parameters_is_not_changed(x64: None, problem: Any, name: str) -> None:
    """At any weights and around any point."""
    model, x, y = problem(name)
    rng = np.random.default_rng(0)
    shapes = check_problem(model, x, y)[0].structure.latents
    at, weights = ({site: np.exp(rng.normal(size=shape)) for site, shape in shapes.items()} for _ in range(2))
    value, linear = (float(log_density(each, weights, x, y)) for each in (model, linearized(model, at)))
    assert linear == pytest.approx(value, rel=1e-12)


def test_a_network_has_the_value_and_the_slope_of_its_tangent(x64: None, data_sets: Any) -> None:
    x, y = data_sets["real"]
    rng = np.random.default_rng(1)
    at = {s: rng.normal(size=v) for s, v in check_problem(NETWORK, x, y)[0].structure.latents.items()}
    linear = linearized(NETWORK, at)
    here, there = (jax.jit(jax.value_and_grad(lambda w, m=m: log_density(m, w, x, y)))(at) for m in (NETWORK, linear))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), here, there)
    u = np.concatenate([np.ravel(at[site]) for site in SITES])
    step = rng.normal(size=u.size)
    moved = jax.tree.unflatten(jax.tree.structure(at), jax.tree.leaves(_split(u + step, at)))
    mean = output(u, x) + jax.jacfwd(output)(jnp.asarray(u), x) @ step
    expected = dist.Normal(mean, NOISE).log_prob(y).sum() + dist.Normal(0, PRIOR).log_prob(u + step).sum()
    assert float(log_density(linear, moved, x, y)) == pytest.approx(float(expected), rel=1e-12)


def _split(u: np.ndarray, like: Any) -> dict[str, np.ndarray]:
    parts = np.split(u, np.cumsum(list(SITES.values()))[:-1])
    return {site: part.reshape(like[site].shape) for site, part in zip(SITES, parts, strict=True)}


P = jnp.array([0.2, 0.7])
DISTRIBUTIONS: dict[str, dist.Distribution] = {
    "Normal": dist.Normal(jnp.array([0.3, -2.0]), 0.4),
    "StudentT": dist.StudentT(4.0, jnp.array([0.3, -2.0]), 0.4),
    "Gamma": dist.Gamma(P, 2.0),
    "Beta": dist.Beta(P, 2.0),
    "LogNormal": dist.LogNormal(P, 0.3),
    "Poisson": dist.Poisson(P),
    "NegativeBinomial2": dist.NegativeBinomial2(P, 2.0),
    "BernoulliProbs": dist.Bernoulli(probs=P),
    "BernoulliLogits": dist.Bernoulli(logits=P),
    "BinomialProbs": dist.Binomial(5, probs=P),
    "CategoricalProbs": dist.Categorical(probs=jnp.array([[0.2, 0.3, 0.5]] * 2)),
    "CategoricalLogits": dist.Categorical(logits=jnp.array([[0.2, 0.3, 0.5]] * 2)),
    "ZeroInflatedPoisson": dist.ZeroInflatedPoisson(P, 2.0),
    "TruncatedNormal": dist.TruncatedNormal(P, 0.5, low=0.0),
    "MultivariateNormal": dist.MultivariateNormal(jnp.zeros((2, 2)), jnp.array([[2.0, 0.5], [0.5, 1.0]])),
    "mixture": dist.MixtureSameFamily(dist.Categorical(probs=P / P.sum()), dist.Normal(P, 0.3)).expand((2,)),
    "Independent": dist.Normal(jnp.ones((2, 3)), 0.4).to_event(1),
    "masked": dist.Normal(P, 0.4).mask(jnp.array([True, False])),
    "Affine": affine(dist.Gamma(P, 2.0), 0.0, 3.0),
}


USUAL = ("Normal", "Beta", "Poisson", "BernoulliLogits", "CategoricalProbs", "MultivariateNormal", "mixture", "masked")


@pytest.mark.parametrize("name", some_by_default(DISTRIBUTIONS, *USUAL, "TruncatedNormal"))
def test_a_distribution_returns_from_its_unconstrained_coordinates(name: str) -> None:
    """And any numbers are such coordinates."""
    d = DISTRIBUTIONS[name]
    value = jnp.asarray(d.sample(jax.random.key(0)))
    coordinates = unconstrained(d)
    np.testing.assert_allclose(constrained(coordinates).log_prob(value), d.log_prob(value), rtol=1e-4)
    shifted = jax.tree.map(
        lambda leaf: leaf - 3.0 if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf, coordinates
    )
    if name not in ("Affine", "TruncatedNormal"):  # whose bounds and units are no parameters of the model
        assert not jnp.isnan(constrained(shifted).log_prob(value)).any()


def test_it_is_a_value(network_fit: Any) -> None:
    at = network_fit[0].outcome.linearized_at
    linear, same = linearized(NETWORK, at=network_fit[0]), linearized(NETWORK, {s: v.copy() for s, v in at.items()})
    assert linear == same
    assert hash(linear) == hash(same)
    assert linear != linearized(NETWORK, {site: value + 1 for site, value in at.items()})


@pytest.mark.slow
def test_its_fits_are_saved(data_sets: Any, tmp_path: Path) -> None:
    x, y = data_sets["real"]
    somewhere = fit(NETWORK, MAP(num_steps=50, polish=False), x, y, key=0, progress=False)
    linear = linearized(NETWORK, at=somewhere)  # at a mode its own mode would be that of the network
    result = fit(linear, MAP(num_steps=50), x, y, key=0, progress=False)
    again = Fit.load(result.save(tmp_path / "fit.nc"), linearized(NETWORK, at=somewhere))
    np.testing.assert_array_equal(again.predict(x).mean, result.predict(x).mean)
    with pytest.raises(ValueError, match="the model has changed"):
        Fit.load(tmp_path / "fit.nc", NETWORK)


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "nothing": (lambda at: {}, TypeError, "expected a fit, or latent site -> value"),
    "a number": (lambda at: 1.0, TypeError, r"as at; got 1\.0"),
    "a site less": (lambda at: {s: v for s, v in at.items() if s != "w1"}, ValueError, r"'w1' is missing in \['b1', "),
    "a site more": (lambda at: {**at, "w3": 1.0}, ValueError, r"there is no \['w3'\] in the model"),
    "another shape": (lambda at: {**at, "w2": at["w2"][:, 0]}, ValueError, r"at\['w2'\] of shape \(3, 1\); got \(3,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_point_raises(network_fit: Any, name: str) -> None:
    (change, error, match), (result, x, y) = BAD[name], network_fit
    with pytest.raises(error, match=match):
        fit(linearized(NETWORK, change(dict(result.outcome.linearized_at))), MAP(), x, y, key=0, progress=False)


@pytest.mark.slow
def test_several_draws_are_no_point(network_fit: Any) -> None:
    sampled = fit(NETWORK, replace(QUICK, predictive="sampled"), *network_fit[1:], key=0, progress=False)
    with pytest.raises(ValueError, match=r"a fit of one draw.*got 1 x 30 draws"):
        linearized(NETWORK, sampled)


def test_networks_are_distinguished_from_models_whose_weights_have_a_meaning(problem: Any) -> None:
    networks = {name for name in MODELS if has_hidden_units(*check_problem(*problem(name)))}
    assert networks == {"Normal, scale of the network", "CategoricalSequence", "Lift"}


# Laplace.


def test_the_gaussian_is_the_posterior_of_the_linearised_network(x64: None, network_fit: Any) -> None:
    """Where y is Normal with known scale: their log densities differ by a constant, the evidence."""
    result, x, y = network_fit
    linear = linearized(NETWORK, at=result)
    centre = np.concatenate([np.ravel(result.outcome.linearized_at[site]) for site in SITES])
    j = np.asarray(jax.jacfwd(output)(jnp.asarray(centre), x))
    precision = j.T @ j / NOISE**2 + np.eye(13) / PRIOR**2
    target = y - np.asarray(output(centre, x)) + j @ centre
    np.testing.assert_allclose(np.linalg.solve(precision, j.T @ target / NOISE**2), centre, atol=1e-6)
    draws = jax.tree.map(lambda value: value[0], dict(result.draws))
    values = jax.vmap(lambda w: log_density(linear, w, x, y))(draws)
    quadratic = np.einsum("si,ij,sj->s", *[vectors(result.draws) - centre, precision, vectors(result.draws) - centre])
    log_q = -0.5 * quadratic + 0.5 * np.linalg.slogdet(precision / (2 * math.pi))[1]
    np.testing.assert_allclose(values - log_q, result.log_evidence, rtol=1e-8)
    assert result.stats["pareto_k_linearized"] == 0
    assert result.stats["pareto_k"] > 0.7
    assert result.status.level == "ok"


def test_predictions_and_scores_are_those_of_the_linearised_network(x64: None, network_fit: Any) -> None:
    result, x, y = network_fit
    centre = np.concatenate([np.ravel(result.outcome.linearized_at[site]) for site in SITES])
    moves = (vectors(result.draws) - centre) @ np.asarray(jax.jacfwd(output)(jnp.asarray(centre), x)).T
    means = np.asarray(output(centre, x)) + moves
    predictive = result.predict(x)
    np.testing.assert_allclose(predictive.component_means, means, rtol=1e-9)
    log_probs = np.asarray(dist.Normal(means, NOISE).log_prob(y))
    np.testing.assert_allclose(result.log_likelihood(x, y)[0], log_probs, rtol=1e-9)
    np.testing.assert_allclose(predictive.log_prob(y), np.log(np.exp(log_probs).mean(axis=0)), rtol=1e-9)
    note = "Laplace predicts by the model linearised at its mode"
    assert any(note in each for each in compare({"Laplace": result}, x, y).notes)


def test_a_saved_fit_predicts_by_the_linearised_network(network_fit: Any, tmp_path: Path) -> None:
    result, x, _ = network_fit
    with jax.enable_x64(True):
        again = Fit.load(result.save(tmp_path / "fit.nc"), NETWORK)
        np.testing.assert_array_equal(again.predict(x).mean, result.predict(x).mean)


def test_draws_of_the_weights_predict_by_the_network_where_they_are_asked_to(x64: None, data_sets: Any) -> None:
    x, y = data_sets["real"]
    method = Laplace(base=MAP(num_steps=100), num_samples=30, predictive="sampled")
    result = fit(NETWORK, method, x, y, key=0, progress=False)
    means = np.stack([output(w, x) for w in vectors(result.draws)])
    np.testing.assert_allclose(result.predict(x).component_means, means, rtol=1e-9)
    assert result.status.codes == (Code.NOT_GAUSSIAN,)


# Structures of the curvature.


@pytest.fixture(scope="module")
def matrix(data_sets: Any) -> Any:
    """The Gauss-Newton matrix of the network at its mode, and the evidence by it."""
    x, y = data_sets["real"]
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        seen: list[np.ndarray] = []
        at = gaussians.Gaussian.at
        patch.setattr(gaussians.Gaussian, "at", lambda *args: seen.append(args[-1]) or at(*args))
        result = fit(NETWORK, QUICK, x, y, key=0, progress=False)
    return seen[-1], result


def structured(structure: Any, x: Any, y: Any, rank: int = 50) -> tuple[Fit, gaussians.LowRank]:
    """A fit with a structure, and its Gaussian."""
    seen: list[gaussians.LowRank] = []
    at = gaussians.LowRank.at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaussians.LowRank, "at", lambda *args: seen.append(at(*args)) or seen[-1])
        method = Laplace(base=MAP(num_steps=100), num_samples=30, structure=structure, rank=rank)
        return fit(NETWORK, method, x, y, key=0, progress=False), seen[-1]


def test_the_diagonal_is_that_of_the_matrix(x64: None, matrix: Any, data_sets: Any) -> None:
    h, _ = matrix
    result, gaussian_ = structured("diagonal", *data_sets["real"])
    np.testing.assert_allclose(gaussian_.diagonal, np.diag(h), rtol=1e-9)
    assert result.log_evidence is not None
    lowest = gaussian_.log_mass - result.log_evidence
    expected = 0.5 * np.log(2 * math.pi / np.diag(h)).sum() - lowest
    assert result.log_evidence == pytest.approx(expected, rel=1e-12)


def test_a_low_rank_is_the_matrix_in_its_directions_and_the_prior_elsewhere(
    x64: None, matrix: Any, data_sets: Any
) -> None:
    h, full = matrix
    result, gaussian_ = structured("low_rank", *data_sets["real"])
    v, s = gaussian_.directions, gaussian_.values
    ours = (np.eye(13) + v @ np.diag(s) @ v.T) / PRIOR**2
    values, vectors_ = np.linalg.eigh(h)
    np.testing.assert_allclose(ours, (vectors_[:, 1:] * values[1:]) @ vectors_[:, 1:].T + _rest(h), atol=1e-6)
    few, cut = structured("low_rank", *data_sets["real"], rank=3)
    np.testing.assert_allclose(np.sort(cut.values), PRIOR**2 * values[-3:] - 1, rtol=1e-6)
    assert full.log_evidence <= result.log_evidence + 1e-9 <= few.log_evidence + 2e-9  # what is left out widens it


def _rest(h: np.ndarray) -> np.ndarray:
    """The direction in which the data say least, with the precision of the prior."""
    least = np.linalg.eigh(h)[1][:, 0]
    return np.outer(least, least) / PRIOR**2


@pytest.mark.parametrize("rank", [0, 3])
def test_draws_of_a_low_rank_gaussian_have_its_density(rank: int) -> None:
    """Its root is isometric: half the squares of the noise are what the log density falls."""
    rng = np.random.default_rng(rank)
    directions = np.linalg.qr(rng.normal(size=(7, rank)))[0]
    values = np.array([0.5, 3.0, 50.0])[:rank]
    result = gaussians.LowRank.at(rng.normal(size=7), np.ones(7), np.exp(rng.normal(size=7)), directions, values)
    noise = np.asarray(jax.random.normal(jax.random.key(1), (20, 7)))
    np.testing.assert_allclose(
        result.excess(result.sample(jax.random.key(1), 20)), (noise**2).sum(axis=1) / 2, rtol=1e-5
    )
    root = np.sqrt(result.diagonal)
    h = root[:, None] * (np.eye(7) + directions @ np.diag(values) @ directions.T) * root
    assert result.log_mass == pytest.approx(3.5 * math.log(2 * math.pi) - np.linalg.slogdet(h)[1] / 2, rel=1e-9)
    assert result.decrement == pytest.approx(np.linalg.solve(h, np.ones(7)).sum() / 2, rel=1e-9)


def test_the_last_layer_is_found_and_is_that_of_conditional(x64: None, data_sets: Any) -> None:
    x, y = data_sets["real"]
    result = fit(NETWORK, replace(QUICK, structure="last_layer"), x, y, key=0, progress=False)
    fixed = {site for site, draws in result.draws.items() if np.ptp(draws, axis=1).max() == 0}
    assert fixed == {"w1", "b1"}
    hidden = np.tanh(x @ result.draws["w1"][0, 0] + result.draws["b1"][0, 0])
    features = np.c_[np.ones(len(x)), hidden]
    marginal = NOISE**2 * np.eye(len(x)) + PRIOR**2 * features @ features.T
    evidence = multivariate_normal.logpdf(y, np.zeros(len(x)), marginal)
    assert result.log_evidence == pytest.approx(float(evidence), rel=1e-8)
    with pytest.raises(ValueError, match="expects a network whose last layer comes last"):
        fit(Model(MLP(), Normal(NOISE)), replace(QUICK, structure="last_layer"), x, y, key=0, progress=False)


def test_many_weights_take_the_memory_of_a_few_vectors(data_sets: Any) -> None:
    """50,000 weights and 4,096 rows: a matrix would take 20 GB, and the activations of all rows 6 GB."""
    model = Model(MLP((200, 200), "tanh"), Normal(NOISE), gaussian(1.0))
    x, y = np.zeros((4096, 50), np.float32), np.zeros(4096, np.float32)
    density, data = check_problem(model, x, y)
    surface = rowwise_surface_of(density, data, 128)
    like = {site: jax.ShapeDtypeStruct(shape, np.float32) for site, shape in density.structure.sites}
    u = jax.ShapeDtypeStruct((density.structure.num_weights,), np.float32)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    for function, arguments in ((surface.value_and_slope, (u,)), (surface.product, (u, u)), (surface.diagonal, (u,))):
        analysis = function.lower(*arguments, like, data).compile().memory_analysis()
        assert analysis.temp_size_in_bytes < 2**24


@pytest.mark.slow
def test_a_network_within_conditional_predicts_by_its_tangent(x64: None, data_sets: Any) -> None:
    """The biases are fixed, and do not move away from the point of the base."""
    x, y = data_sets["real"]
    method = Conditional(base=MAP(num_steps=100), sites=("w1", "w2"), method=QUICK)
    result = fit(NETWORK, method, x, y, key=0, progress=False)
    centre = np.concatenate([np.ravel(result.outcome.linearized_at[site]) for site in SITES])
    draws = np.concatenate([np.asarray(result.draws[s])[0].reshape(30, -1) for s in SITES], axis=1)
    moves = (draws - centre) @ np.asarray(jax.jacfwd(output)(jnp.asarray(centre), x)).T
    np.testing.assert_allclose(result.predict(x).component_means, np.asarray(output(centre, x)) + moves, rtol=1e-8)


@pytest.mark.slow
def test_nuts_of_the_linearised_network_agrees_with_laplace(network_fit: Any) -> None:
    """13 means and variances for one key, in standard errors: beyond 4.5 is one run in 5,000."""
    result, x, y = network_fit
    with jax.enable_x64(True):
        exact = fit(NETWORK, Laplace(base=MAP(num_steps=100), num_samples=4000), x, y, key=0, progress=False)
        linear = linearized(NETWORK, at=result)
        chains = fit(linear, NUTS(num_warmup=500, num_samples=1000, num_chains=4), x, y, key=0, progress=False)
    assert chains.status.level == "ok", chains.status
    ours = vectors(exact.draws)
    theirs = np.concatenate([chains.draws[s].reshape(4000, -1) for s in SITES], axis=1)
    for power in 1, 2:
        a, b = ((each - ours.mean(axis=0)) ** power for each in (ours, theirs))
        error = np.sqrt((a.var(axis=0) + b.var(axis=0) * 4) / 4000)  # an effective draw in four, at least
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error).all()


SCHOOLS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools(x: Array, y: Array | None = None) -> None:
    """Rubin (1981), centred: the joint density has no mode, since it grows without bound as tau shrinks."""
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(theta[x[:, 0]], jnp.asarray(ERRORS)[x[:, 0]]), obs=y)


def funnel(x: Array, y: Array | None = None) -> None:
    """Neal (2003), with nine weights whose scale is nearly unknown."""
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    numpyro.sample("z", dist.Normal(0.0, jnp.exp(v / 2)).expand([9]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(0.1 * v, 1.0), obs=y)


def bent(x: Array, y: Array | None = None) -> None:
    """Two weights, of which the data determine one given the square of the other: a banana, the more the larger x."""
    a, b = (numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a + x[:, 0] * b**2, 0.5), obs=y)


STATUSES: dict[str, tuple[Any, Any, bool]] = {
    "centred eight schools": (schools, (np.arange(8)[:, None], SCHOOLS), False),
    "a funnel": (funnel, (np.zeros((3, 1)), np.full(3, 0.1)), False),
    "a banana": (bent, (np.ones((3, 1)), np.full(3, 0.1)), False),
    "a banana that is hardly bent": (bent, (np.full((3, 1), 0.03), np.full(3, 0.1)), True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STATUSES)
def test_the_status_tells_posteriors_that_are_no_gaussian(name: str) -> None:
    model, rows, is_ok = STATUSES[name]
    result = fit(model, Laplace(num_samples=4), *rows, key=0, progress=False)
    assert (result.status.level == "ok") == is_ok, (result.status, result.stats)


@pytest.mark.parametrize(("divergence", "stands"), [(3.0, True), (5.0, False)])
def test_a_gaussian_stands_for_the_rows_of_a_network_unless_its_mass_is_elsewhere(
    divergence: float, stands: bool
) -> None:
    """Of 200 rows: draws as probable as the Gaussian has it, from a posterior that is wider or at another scale."""
    assert Importance(pareto_k=1.4, gap=0.3, divergence=divergence).stands_for_rows(200) == stands
    assert Importance(pareto_k=0.6, gap=9.0, divergence=9.0).stands_for_rows(200)
    assert not Importance(pareto_k=1.4, gap=3.0, divergence=divergence).stands_for_rows(200)


@pytest.mark.slow
def test_a_scale_that_has_fitted_noise_at_the_mode_is_named_and_tuned_it_is_right() -> None:
    """98 weights and 200 rows: at the joint mode the scale is 0.44, in the posterior 0.67."""
    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:200], order[200:]
    model = Model(MLP((8,), "tanh"), Normal(dist.HalfNormal(1.0)), fan_in(2.0))

    def covered(result: Fit) -> float:
        low, high = result.predict(x[test]).interval(0.9)
        return float(np.mean((low <= y[test]) & (y[test] <= high)))

    learned = fit(model, Laplace(), x[train], y[train], key=0, progress=False)
    assert learned.status.codes == (Code.NOT_GAUSSIAN,)
    assert "give scale the value of tune(model, x, y, sites=['scale'])" in str(learned.status)
    assert covered(learned) < 0.8
    tuned = tune(model, x[train], y[train], sites=["scale"], key=0, progress=False)
    fixed = fit(tuned.model, Laplace(), x[train], y[train], key=0, progress=False)
    assert fixed.status.level == "ok", fixed.status
    assert covered(fixed) > 0.85


@pytest.mark.slow
def test_importance_sampling_corrects_the_evidence_of_a_logistic_regression() -> None:
    """On 15 rows; the evidence itself on a grid."""
    from .test_laplace import LOGISTIC, logistic_evidence

    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 1))
    y = (x[:, 0] + rng.logistic(size=15) > 0).astype(int)
    result = fit(LOGISTIC, Laplace(num_samples=4), x, y, key=0, progress=False)
    exact = logistic_evidence(x, y)
    assert result.status.level == "ok"
    assert abs(result.stats["log_evidence_psis"] - exact) < 0.02 < abs(result.log_evidence - exact)


@pytest.mark.slow
def test_a_healthy_network_is_ok_and_predicts_no_worse_than_its_mode(data_sets: Any) -> None:
    """Classes that are no linear function of x: k of the network itself is large, and its predictions are right."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = (x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=400) > 0).astype(int)
    model = Model(MLP((8,), "tanh"), Bernoulli(), gaussian(1.0))
    result = fit(model, Laplace(num_samples=200), x[:200], y[:200], key=0, progress=False)
    assert result.status.level == "ok", result.status
    mode = fit(model, MAP(), x[:200], y[:200], key=0, progress=False)
    linear, point = (each.predict(x[200:]).log_prob(y[200:]).mean() for each in (result, mode))
    assert linear > point - 0.05
    assert result.stats["pareto_k"] > 0.7


@pytest.mark.parametrize("lead", [600.0, 720.0, 740.0, 1000.0])
def test_weights_that_underflow_do_not_pass_for_equal_ones(lead: float) -> None:
    """One draw has all the weight, and the others in the tail have none or a subnormal one."""
    for seed in range(4):
        log_weights = np.random.default_rng(seed).normal(size=100)
        log_weights[0] += lead
        assert Importance.of(log_weights).pareto_k > 0.7
