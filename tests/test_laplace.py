"""The Laplace approximation against closed forms, quadrature and NumPyro, and where there is none."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from numpyro.handlers import scale
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoLaplaceApproximation
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from scipy.stats import halfnorm, multivariate_normal, norm

from flatprior.inference import MAP, MLE, Ensemble, Fit, Laplace, compare, diagnose, fit, flat
from flatprior.inference.methods import climb
from flatprior.inference.methods import gaussian as gaussians
from flatprior.inference.reasons import Code
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

from .tables import some_by_default

NOISE, PRIOR = 0.5, 2.0
LINE = Model(MLP(), Normal(NOISE), gaussian(PRIOR))
LOGISTIC = Model(MLP(), Bernoulli(), gaussian(PRIOR))
CURVATURES: tuple[Any, ...] = ("ggn", "hessian")
KEYS = range(4)
SHORT = MAP(num_steps=100)
"""What is left to do is done by the climb to the mode."""
every_curvature = pytest.mark.parametrize("curvature", CURVATURES)


def gaussian_of(model: Any, method: Laplace, x: Any, y: Any, key: int = 0) -> tuple[Fit, Any, np.ndarray]:
    """A fit, the Gaussian that it drew from, and its curvature matrix."""
    seen: list[Any] = []
    at = gaussians.Gaussian.at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaussians.Gaussian, "at", lambda *args: seen.append((at(*args), args[-1])) or seen[-1][0])
        result = fit(model, method, x, y, key=key, progress=False)
    return result, *seen[-1]


# Where the answer is known.


def conjugate(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of (bias, weights), and the log evidence, of `LINE` (Bishop 2006, section 3.3)."""
    features = np.c_[np.ones(len(x)), x]
    covariance = np.linalg.inv(features.T @ features / NOISE**2 + np.eye(features.shape[1]) / PRIOR**2)
    marginal = NOISE**2 * np.eye(len(x)) + PRIOR**2 * features @ features.T
    evidence = multivariate_normal.logpdf(y, np.zeros(len(x)), marginal)
    return covariance @ features.T @ y / NOISE**2, covariance, float(evidence)


@every_curvature
def test_a_linear_model_with_known_noise_has_its_posterior(x64: None, data_sets: Any, curvature: Any) -> None:
    x, y = data_sets["real"]
    mean, covariance, evidence = conjugate(x, y)
    result, gaussian_, h = gaussian_of(LINE, Laplace(curvature=curvature, num_samples=3), x, y)
    assert result.status.level == "ok"
    np.testing.assert_allclose(gaussian_.centre, mean, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.inv(h), covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(result.log_evidence, evidence, rtol=1e-8)


def test_draws_are_from_the_posterior_in_standard_errors(data_sets: Any) -> None:
    """In float32: 9 moments for each of 4 keys; beyond 4 standard errors is one run in 400."""
    x, y = data_sets["real"]
    mean, covariance, evidence = conjugate(x, y)
    root = np.linalg.cholesky(covariance)
    for key in KEYS:
        result = fit(LINE, Laplace(num_samples=2000), x, y, key=key, progress=False)
        draws = np.c_[result.draws["b1"][0], result.draws["w1"][0, ..., 0]]
        assert draws.dtype == np.float32
        white = np.linalg.solve(root, (draws - mean).T).T
        i, j = np.tril_indices(3)
        products = white[:, i] * white[:, j] - (i == j)
        for moments in (white, products):
            assert np.abs(moments.mean(axis=0) / moments.std(axis=0) * math.sqrt(2000)).max() < 4
        assert abs(result.log_evidence - evidence) < 1e-3


A, B = 3.0, 2.0


def precision(x: Array, y: Array | None = None) -> None:
    """Normal observations of mean 0, their precision unknown: the posterior is Gamma."""
    tau = numpyro.sample("tau", dist.Gamma(A, B))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(0.0, 1 / jnp.sqrt(tau)), obs=y)


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.slow
def test_the_centre_of_a_positive_site_is_the_mode_of_its_logarithm(x64: None, n: int) -> None:
    """Of a Gamma(a, b) the logarithm has its mode at log(a / b), curvature a, and Stirling's error in the evidence."""
    x, y = np.zeros((n, 1)), np.random.default_rng(n).normal(size=n)
    a, b = A + n / 2, B + (y**2).sum() / 2
    result, gaussian_, h = gaussian_of(precision, Laplace(base=SHORT, curvature="hessian"), x, y)
    np.testing.assert_allclose(gaussian_.centre, [math.log(a / b)], atol=1e-8)
    np.testing.assert_allclose(h, [[a]], rtol=1e-7)
    evidence = A * math.log(B) - gammaln(A) - a * math.log(b) + gammaln(a) - n / 2 * math.log(2 * math.pi)
    stirling = a * math.log(a) - a + math.log(2 * math.pi / a) / 2 - gammaln(a)
    np.testing.assert_allclose(result.log_evidence - evidence, stirling, rtol=1e-6)
    assert (result.draws["tau"] > 0).all()
    mode = fit(precision, MAP(), x, y, key=0, progress=False).draws["tau"].item()
    np.testing.assert_allclose(mode, (a - 1) / b, rtol=1e-6)  # MAP is elsewhere

    result, gaussian_, h = gaussian_of(precision, Laplace(base=SHORT, curvature="ggn"), x, y)
    np.testing.assert_allclose(gaussian_.centre, [math.log(a / b)], atol=1e-8)
    np.testing.assert_allclose(h, [[n / 2 + B * a / b]], rtol=1e-7)  # the Fisher information, and the prior's curvature


def logistic_evidence(x: np.ndarray, y: np.ndarray) -> float:
    """Of `LOGISTIC` with one feature, on a grid."""
    w, b = np.meshgrid(*[np.linspace(-12, 12, 601)] * 2, indexing="ij")
    log_joint = norm.logpdf(w, 0, PRIOR) + norm.logpdf(b, 0, PRIOR)
    for x_i, y_i in zip(x[:, 0], y, strict=True):
        log_joint -= np.logaddexp(0, -(2 * y_i - 1) * (w * x_i + b))
    return float(logsumexp(log_joint) + 2 * math.log(24 / 600))


@pytest.mark.slow
def test_the_error_of_the_evidence_falls_as_one_over_n() -> None:
    rng = np.random.default_rng(8)
    sizes, errors = np.array([10, 40, 160]), []
    for n in sizes:
        signed = []
        for key in range(6):
            x = rng.normal(size=(n, 1))
            y = (0.7 * x[:, 0] + 0.3 + rng.logistic(size=n) > 0).astype(int)
            result = fit(LOGISTIC, Laplace(base=SHORT, num_samples=1), x, y, key=key, progress=False)
            signed.append(result.log_evidence - logistic_evidence(x, y))
        errors.append(np.abs(signed).mean())
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert errors[0] < 0.2
    assert -1.5 < slope < -0.6, (errors, slope)


LEARNED = Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(PRIOR))


@pytest.mark.slow
def test_the_hessian_gives_what_numpyro_gives(x64: None, data_sets: Any) -> None:
    """The centre by scipy, from the density written out; it is level, and the covariance the same, for AutoLaplace."""
    x, y = data_sets["real"]
    _, gaussian_, h = gaussian_of(LEARNED, Laplace(base=SHORT, curvature="hessian"), x, y)

    def potential(u: np.ndarray) -> float:
        bias, log_scale, w = u[0], u[1], u[2:]
        log_prior = norm.logpdf(u[[0, 2, 3]], 0, PRIOR).sum() + halfnorm.logpdf(math.exp(log_scale)) + log_scale
        return float(-norm.logpdf(y, x @ w + bias, math.exp(log_scale)).sum() - log_prior)

    mode = minimize(potential, np.zeros(4), method="BFGS", options={"gtol": 1e-4}).x
    np.testing.assert_allclose(gaussian_.centre, mode, atol=1e-5)

    guide = AutoLaplaceApproximation(LEARNED)
    elbo, key = Trace_ELBO(), jax.random.key(0)
    SVI(LEARNED, guide, numpyro.optim.Adam(1.0), elbo).init(key, x, y)
    loss = lambda loc: elbo.loss(key, {"auto_loc": loc}, LEARNED, guide, x, y)  # noqa: E731
    order = np.array([2, 3, 0, 1])  # NumPyro's: weights, bias, scale
    centre = jnp.asarray(gaussian_.centre[order])
    np.testing.assert_allclose(jax.grad(loss)(centre), 0, atol=1e-6)
    theirs = guide.get_posterior({"auto_loc": centre}).covariance_matrix
    np.testing.assert_allclose(np.linalg.inv(h)[np.ix_(order, order)], theirs, rtol=1e-6, atol=1e-12)


# Curvatures.


def poisson(x: Array, y: Array | None = None) -> None:
    eta = MLP()(x, prior=gaussian(PRIOR))[:, 0]
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(eta)), obs=y)


def binomial(x: Array, y: Array | None = None) -> None:
    """Of trials whose number differs between rows."""
    eta, trials = MLP()(x, prior=gaussian(PRIOR))[:, 0], 2 + jnp.arange(x.shape[0]) % 3
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Binomial(trials, logits=eta), obs=y)


GLMS: dict[str, tuple[Any, str]] = {
    "Bernoulli": (LOGISTIC, "binary"),
    "Categorical": (Model(MLP(), Categorical(3), gaussian(PRIOR)), "classes"),
    "Poisson": (poisson, "classes"),
    "Binomial": (binomial, "classes"),
}


@pytest.mark.parametrize("name", some_by_default(GLMS, "Categorical"))
def test_of_a_generalised_linear_model_the_two_curvatures_are_one(x64: None, data_sets: Any, name: str) -> None:
    model, rows = GLMS[name]
    (one, _, ggn), (other, _, hessian) = (
        gaussian_of(model, Laplace(base=SHORT, curvature=c, num_samples=2), *data_sets[rows]) for c in CURVATURES
    )
    np.testing.assert_allclose(ggn, hessian, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(one.draws["w1"], other.draws["w1"], atol=1e-8)


def by_hand(w: np.ndarray, x: Array) -> Array:
    """The output of an MLP with 3 tanh units, from its weights in alphabetical order: b1, b2, w1, w2."""
    b1, b2, w1, w2 = w[:3], w[3:4], w[4:10].reshape(2, 3), w[10:].reshape(3, 1)
    return (jnp.tanh(x @ w1 + b1) @ w2 + b2)[:, 0]


@pytest.mark.parametrize("kind", some_by_default(["binary", "real"], "binary"))
def test_the_ggn_of_a_network_is_that_of_its_formula(x64: None, data_sets: Any, kind: str) -> None:
    """J' F J + the prior's precision, F the variance of y over that of its natural parameter."""
    x, y = data_sets[kind]
    observation: Any = Bernoulli() if kind == "binary" else Normal(NOISE)
    result, gaussian_, h = gaussian_of(Model(MLP((3,), "tanh"), observation, gaussian(PRIOR)), Laplace(), x, y)
    assert result.status.level == "ok"
    j = np.asarray(jax.jacfwd(by_hand)(jnp.asarray(gaussian_.centre), x))
    p = 1 / (1 + np.exp(-by_hand(gaussian_.centre, x)))
    fisher = p * (1 - p) if kind == "binary" else np.full(len(x), NOISE**-2)
    expected = j.T @ (fisher[:, None] * j) + np.eye(len(h)) / PRIOR**2
    np.testing.assert_allclose(h, expected, rtol=1e-9, atol=1e-9)


def weighted(rows: dict[str, Array], y: Array | None = None) -> None:
    """Logistic regression, each row with a weight of its own."""
    eta = MLP()(rows["x"], prior=gaussian(PRIOR))[:, 0]
    with numpyro.plate("row", len(eta)), scale(scale=rows["weight"]):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


@pytest.mark.slow  # `test_weights.py` has this law
def test_the_weights_of_rows_count(x64: None, data_sets: Any) -> None:
    x, y = data_sets["binary"]
    weight = np.random.default_rng(0).integers(1, 4, len(y))
    method = Laplace(base=SHORT, num_samples=2)
    by_weight, _, h = gaussian_of(weighted, method, {"x": x, "weight": weight.astype(float)}, y)
    repeated, _, expected = gaussian_of(LOGISTIC, method, np.repeat(x, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(h, expected, rtol=1e-8)
    np.testing.assert_allclose(by_weight.log_evidence, repeated.log_evidence, rtol=1e-8)


def test_soft_labels_have_the_curvature_of_classes(x64: None, data_sets: Any) -> None:
    x, _ = data_sets["classes"]
    soft = np.random.default_rng(1).dirichlet(np.ones(3), size=len(x))
    model = Model(MLP(), Categorical(3), gaussian(PRIOR))
    ggn, hessian = (gaussian_of(model, Laplace(base=SHORT, curvature=c, num_samples=2), x, soft)[2] for c in CURVATURES)
    np.testing.assert_allclose(ggn, hessian, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_dead_units_keep_the_spread_of_their_prior(x64: None, data_sets: Any) -> None:
    """The weights of a unit that is off in all rows are known by their prior alone."""
    x, y = data_sets["binary"]
    result, _, h = gaussian_of(_with_a_dead_unit, Laplace(base=MAP(num_steps=500)), x, y)
    assert result.status.level == "ok"
    values = np.linalg.eigvalsh(h)
    assert values[0] > PRIOR**-2 * (1 - 1e-9)
    assert np.isclose(values, PRIOR**-2, rtol=1e-9).sum() >= 1
    assert result.draws["out"].std() == pytest.approx(PRIOR, rel=0.1)


def _with_a_dead_unit(x: Array, y: Array | None = None) -> None:
    out = numpyro.sample("out", dist.Normal(0.0, PRIOR))
    eta = MLP()(x, prior=gaussian(PRIOR))[:, 0] + out * jax.nn.relu(-1 - x[:, 0] ** 2)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


@pytest.mark.parametrize("dense_weights", [256, 0], ids=["by Hessians", "by their products"])
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.slow
def test_a_smooth_network_is_climbed_to_its_mode(
    data_sets: Any, activation: str, dense_weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Adam ends the Hessian is seldom positive; at the mode it must be."""
    monkeypatch.setattr(climb, "DENSE_WEIGHTS", dense_weights)
    x, y = data_sets["real"]
    model = Model(MLP((4,), activation), Normal(NOISE), gaussian(1.0))
    for key in KEYS:
        result = fit(model, Laplace(base=MAP(num_steps=300), curvature="hessian"), x, y, key=key, progress=False)
        assert set(result.status.codes) <= {Code.NOT_GAUSSIAN}, result.status
        assert result.stats["newton_decrement"] < 1e-9
        assert math.isfinite(result.log_evidence)


# What has no Gaussian, and what is not at its mode.


@pytest.mark.slow
def test_a_network_with_kinks_is_reported(data_sets: Any) -> None:
    """Its Hessian is negative somewhere, or its slope does not vanish; with the GGN there is a Gaussian."""
    x, y = data_sets["real"]
    model = Model(MLP((8,), "relu"), Normal(0.2), gaussian(1.0))
    for key in KEYS[:2]:
        exact = fit(model, Laplace(curvature="hessian"), x, y, key=key, progress=False)
        assert exact.status.level != "ok"
        if exact.status.level == "failed":
            assert "eigenvalues of the curvature are not positive" in str(exact.status)
            assert math.isnan(exact.log_evidence)
            assert np.ptp(exact.draws["w1"], axis=1).max() == 0
        ggn = fit(model, Laplace(), x, y, key=key, progress=False)
        assert ggn.status.level != "failed"
        assert (ggn.draws["w1"].std(axis=1) > 0).all()
        assert (ggn.draws["w1"].std(axis=1) < 1.2).all()  # the prior's, and 4 standard errors


def saddle(x: Array, y: Array | None = None) -> None:
    """A density that grows along one of two weights, whose slope vanishes at 0 all the same."""
    numpyro.sample("free", dist.ImproperUniform(dist.constraints.real, (), ()))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def test_weights_that_nothing_holds_are_counted(data_sets: Any) -> None:
    x, y = data_sets["real"]
    for curvature in CURVATURES:
        result = fit(saddle, Laplace(curvature=curvature, improper_ok=True), x, y, key=0, progress=False)
        assert result.status.level == "failed"
        assert "1 of 2 eigenvalues of the curvature are not positive" in str(result.status)
        assert math.isnan(result.log_evidence)


def test_a_flat_prior_is_refused_and_has_no_evidence(data_sets: Any) -> None:
    x, y = data_sets["binary"]
    with pytest.raises(ValueError, match=r"the prior is flat.*improper_ok=True"):
        fit(flat(LOGISTIC), Laplace(), x, y, key=0, progress=False)
    result = fit(flat(LOGISTIC), Laplace(improper_ok=True), x, y, key=0, progress=False)
    assert result.status.level == "ok"
    assert math.isnan(result.log_evidence)
    separated = (x[:, 0] > 0).astype(int)
    lost = fit(flat(LOGISTIC), Laplace(improper_ok=True), x, separated, key=0, progress=False)
    assert lost.status.level == "failed"
    assert "There is no maximum" in str(lost.status)


@pytest.mark.slow
def test_a_density_without_bound_has_failed() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2))
    result = fit(LEARNED, Laplace(), x, x @ [1.0, -0.5], key=0, progress=False)
    assert result.status.level == "failed"
    assert "grows without bound" in str(result.status)
    assert math.isnan(result.log_evidence)


def two_modes(x: Array, y: Array | None = None) -> None:
    """One of them e^3 times as probable, and as wide."""
    w = numpyro.sample("w", dist.Normal(0.0, 10.0))
    numpyro.factor("modes", jnp.logaddexp(-50 * (w - 1) ** 2, 3 - 50 * (w + 1) ** 2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.slow
def test_the_best_of_the_restarts_is_taken(data_sets: Any) -> None:
    x, y = data_sets["real"]
    method = Laplace(base=MAP(num_restarts=8, init_strategy=numpyro.infer.init_to_uniform), curvature="hessian")
    for key in KEYS:
        result = fit(two_modes, method, x, y, key=key, progress=False)
        assert np.ptp(result.stats["loss"][:, -1]) > 1  # both were found
        assert result.draws["w"].mean() == pytest.approx(-1, abs=0.02)


# What every fit promises.


@pytest.mark.parametrize("name", some_by_default(["hierarchical", "dictionary", "mixture_density"], "dictionary"))
@pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")
def test_any_model_has_finite_draws_in_its_support(by_hand: Any, name: str) -> None:
    model, x, y = by_hand[name]
    result = fit(model, Laplace(base=SHORT, num_samples=20), x, y, key=0, progress=False)
    assert result.kind == "approximation"
    latents = result.structure.latents
    assert {site: draws.shape for site, draws in result.draws.items()} == {k: (1, 20, *s) for k, s in latents.items()}
    assert all(np.isfinite(draws).all() for draws in result.draws.values())
    assert np.isfinite(result.predict(x).log_prob(y)).all()
    assert (result.draws["spread"] > 0).all() if name == "hierarchical" else True


@pytest.mark.slow
def test_a_fit_is_compared_exported_and_not_diagnosed(data_sets: Any) -> None:
    x, y = data_sets["binary"]
    result = fit(LOGISTIC, Laplace(base=SHORT, num_samples=50), x, y, key=0, progress=False)
    mode = fit(LOGISTIC, MAP(), x, y, key=0, progress=False)
    table = compare({"Laplace": result, "MAP": mode}, x, y).to_dataframe()
    assert table.loc["Laplace", "kind"] == "approximation"
    assert mode.log_evidence is None
    tree = result.to_datatree(x, y)
    assert tree["posterior"]["w1"].shape == (1, 50, 2, 1)
    with pytest.raises(ValueError, match="whose draws are an approximation"):
        diagnose(result, x, y)


def test_the_key_decides_every_bit_and_nothing_compiles_twice(data_sets: Any) -> None:
    x, y = data_sets["binary"]
    first, again, other = (
        fit(LOGISTIC, Laplace(base=SHORT, num_samples=50), x, y, key=key, progress=False) for key in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.draws["w1"], again.draws["w1"])
    assert not np.array_equal(first.draws["w1"], other.draws["w1"])
    assert first.log_evidence == again.log_evidence
    assert other.seconds.compile == 0


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "MLE as base": (lambda: Laplace(base=MLE()), r"expected MAP\(...\) as base; got MLE.*improper_ok=True"),
    "an ensemble as base": (lambda: Laplace(base=Ensemble()), r"expected MAP\(...\) as base; got Ensemble"),
    "early stopping": (lambda: Laplace(base=MAP(validation_fraction=0.2)), "validation_fraction=0.*got 0.2"),
    "no draws": (lambda: Laplace(num_samples=0), "expected a positive integer as num_samples; got 0"),
    "a truth value": (lambda: Laplace(num_samples=True), "expected a positive integer as num_samples; got True"),
    "another structure": (lambda: Laplace(structure="kron"), "expected 'full', 'diagonal', 'low_rank' or.*got 'kron'"),
    "another predictive": (lambda: Laplace(predictive="linear"), "expected 'linearized', 'sampled' or None.*'linear'"),
    "no rank": (lambda: Laplace(rank=0), "expected a positive integer as rank; got 0"),
    "no products": (
        lambda: Laplace(structure="diagonal", curvature="hessian"),
        "no product of Jacobians; got 'diagonal'",
    ),
    "another curvature": (lambda: Laplace(curvature="diag"), "expected 'ggn', 'hessian' or None.*got 'diag'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_raise(name: str) -> None:
    build, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        build()


def test_what_cannot_be_done_raises_before_anything_is_compiled(by_hand: Any, data_sets: Any) -> None:
    x, y = data_sets["real"]
    with pytest.raises(ValueError, match=r"at most 4,096 weights.*got 15,751\. Use structure="):
        fit(Model(MLP((50, 300)), Normal(1.0)), Laplace(), x, y, key=0, progress=False)
    method = Laplace(structure="diagonal", num_samples=10_000)
    with pytest.raises(ValueError, match=r"at most 8,521 draws of 15,751 weights.*num_samples=10,000"):
        fit(Model(MLP((50, 300)), Normal(1.0)), method, x, y, key=0, progress=False)
    model, x, y = by_hand["hierarchical"]
    with pytest.raises(ValueError, match=r"'ggn' needs the Fisher information of the observed site 'y'.*'hessian'"):
        fit(model, Laplace(curvature="ggn"), x, y, key=0, progress=False)
