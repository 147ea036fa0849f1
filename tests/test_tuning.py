"""Tuning: the evidence and its gradient against closed forms and finite differences, and scores of held-out rows."""

from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import Array
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import Ridge

from flatprior.inference import MAP, NUTS, Code, Laplace, fit, loo, tune
from flatprior.inference.checks import check_problem
from flatprior.inference.criticism.search import Score, Search
from flatprior.inference.criticism.tuning import _parts
from flatprior.inference.methods.evidence import Evidence
from flatprior.inference.status import Status
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian, priors

from .test_prior_scales import HALF_NORMAL, NOISE, SCHOOLS, STRONG, WEAK, X, eight_schools

DESIGN = np.column_stack([X, np.ones(20)])
BY_KEY = {"w1": gaussian(dist.HalfNormal(1.0)), "b1": gaussian(2.0)}
LEARNED = Model(MLP(), Normal(dist.HalfNormal(1.0)), BY_KEY)
TWO = {"w*": gaussian(dist.HalfNormal(1.0)), "b*": gaussian(dist.LogNormal(0.0, 1.0))}
NETWORK = Model(MLP((3,), "tanh"), Bernoulli(), TWO)


def closed_form(logs: np.ndarray, y: np.ndarray, model: str) -> float:
    """The log marginal likelihood of the linear models, at logs of their scales."""
    scales = np.exp(logs)
    if model == "one scale":
        covariance = NOISE**2 * np.eye(20) + scales[0] ** 2 * DESIGN @ DESIGN.T
    else:
        covariance = scales[1] ** 2 * np.eye(20) + scales[0] ** 2 * X @ X.T + 4.0
    return float(scipy.stats.multivariate_normal.logpdf(y, np.zeros(20), covariance))


# The evidence and its gradient.


@pytest.mark.parametrize(
    "name", ["one scale", *(pytest.param(each, marks=pytest.mark.slow) for each in ("a scale and the noise",))]
)
def test_the_evidence_of_a_linear_model_is_its_marginal_likelihood(name: str) -> None:
    model, sites, y = {
        "one scale": (HALF_NORMAL, ("prior_scale",), WEAK),
        "a scale and the noise": (LEARNED, ("prior_scale[w1]", "scale"), STRONG),
    }[name]
    density, data = check_problem(model, X, y)
    start = np.ones(len(sites))
    evidence = Evidence(density, data, sites, Laplace(), start, key=jax.random.key(0), progress=False)
    logs = np.array([-1.3, 0.4])[: len(sites)]
    at = evidence.at(logs)
    np.testing.assert_allclose(at.log_evidence, closed_form(logs, y, name), rtol=1e-5)  # data are float32
    for i, step in enumerate(1e-5 * np.eye(len(sites))):
        slope = (closed_form(logs + step, y, name) - closed_form(logs - step, y, name)) / 2e-5
        np.testing.assert_allclose(at.gradient[i], slope, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_the_gradient_of_the_evidence_is_its_finite_difference(curvature: Any) -> None:
    """The mode of a network moves with the scales, and the determinant with the mode."""
    density, data = check_problem(NETWORK, X, (WEAK > 0).astype(int))
    sites, settings = ("prior_scale[w*]", "prior_scale[b*]"), Laplace(MAP(num_steps=300), curvature=curvature)
    evidence = Evidence(density, data, sites, settings, np.ones(2), key=jax.random.key(0), progress=False)
    logs = np.log([2.0, 0.7])
    at = evidence.at(logs)
    assert at.is_exact
    for i, step in enumerate(1e-4 * np.eye(2)):
        above, below = evidence.at(logs + step), evidence.at(logs - step)
        np.testing.assert_allclose(
            at.gradient[i], (above.log_evidence - below.log_evidence) / 2e-4, rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
def test_tuned_scales_maximise_the_marginal_likelihood() -> None:
    tuned = tune(HALF_NORMAL, X, WEAK, key=0, progress=False)
    best = minimize_scalar(
        lambda log: -closed_form(np.array([log]), WEAK, "one scale"), bounds=(-6, 3), method="bounded"
    )
    assert tuned.status.level == "ok"
    np.testing.assert_allclose(tuned.values["prior_scale"], np.exp(best.x), rtol=1e-3)
    np.testing.assert_allclose(tuned.score, -best.fun, rtol=1e-5)
    for _, row in tuned.to_dataframe().iterrows():
        logs = np.log([row["prior_scale"]])
        np.testing.assert_allclose(row["score"], closed_form(logs, WEAK, "one scale"), rtol=1e-4)
    assert "Empirical Bayes: prior_scale = 0.16" in str(tuned)
    # The model that comes out is one without the site, and its evidence is the score.
    result = fit(tuned.model, Laplace(), X, WEAK, key=0, progress=False)
    assert list(result.draws) == ["w1", "b1"]
    assert result.status.level == "ok"
    assert result.log_evidence == pytest.approx(tuned.score, rel=1e-5)
    assert priors(tuned.model, X).to_dataframe().loc["w1", "prior"] == f"Normal(0, {tuned.values['prior_scale']:.4g})"
    assert fit(tuned.model, MAP(), X, WEAK, key=0, progress=False).status.level == "ok"


@pytest.mark.slow
def test_the_noise_is_tuned_with_the_scale() -> None:
    sites = ["prior_scale[w1]", "scale"]
    tuned = tune(LEARNED, X, STRONG, sites=sites, key=0, progress=False)
    best = minimize(
        lambda logs: -closed_form(logs, STRONG, "both"), np.array([1.0, -0.7]), bounds=[(-3, 4)] * 2, method="L-BFGS-B"
    )
    assert tuned.status.level == "ok"
    np.testing.assert_allclose([tuned.values[site] for site in sites], np.exp(best.x), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("times", "level"), [(1.0, "check"), (4.0, "ok")])
def test_a_model_by_hand_and_a_scale_without_effect(times: float, level: str) -> None:
    """Of the eight schools the marginal likelihood is highest at a spread of 0; of effects 4 times as large not."""
    x, y = SCHOOLS

    def loss(log: float) -> float:
        covariance = np.diag(x[:, 1] ** 2 + np.exp(2 * log)) + 25.0
        return -float(scipy.stats.multivariate_normal.logpdf(times * y, np.zeros(8), covariance))

    tuned = tune(eight_schools, x, times * y, sites=["tau"], key=0, progress=False)
    assert tuned.status.level == level
    best = minimize_scalar(loss, bounds=(-8, 6), method="bounded", options={"xatol": 1e-6})
    np.testing.assert_allclose(tuned.score, -best.fun, rtol=1e-4)
    if level == "ok":
        np.testing.assert_allclose(tuned.values["tau"], np.exp(best.x), rtol=1e-2)
    else:
        assert tuned.status.codes == (Code.END_OF_RANGE,)


def unscaled(x: Array, y: Array | None = None) -> None:
    """The prior of the scale is as vague as can be: it should not matter."""
    scale = numpyro.sample("prior_scale", dist.LogNormal(0.0, 10.0), infer={"of_prior": True})
    weights = numpyro.sample("w", dist.Normal(0.0, scale).expand([5]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ weights[:4] + weights[4], NOISE), obs=y)


@pytest.mark.slow
def test_the_prior_of_a_scale_does_not_count() -> None:
    """The mean of this one is exp(50), from which the search returns to a thousandth: no further."""
    narrow = tune(HALF_NORMAL, X, WEAK, key=0, progress=False).values["prior_scale"]
    uniform = Model(MLP(), Normal(NOISE), gaussian(dist.Uniform(0.0, 3.0)))
    assert tune(uniform, X, WEAK, key=0, progress=False).values["prior_scale"] == pytest.approx(narrow, rel=1e-3)
    assert tune(unscaled, X, WEAK, key=0, progress=False).status.level == "check"


def jumping(logs: np.ndarray) -> Score:
    """A score that falls by 20 nats on its way to a maximum at 1."""
    value = -10 * (logs[0] - 1) ** 2 - (20 if logs[0] > 0.3 else 0)
    return Score(value, np.nan, Status(), -20 * (logs - 1))


def smooth(logs: np.ndarray) -> Score:
    return Score(
        -10 * (logs[0] - 1) ** 2 - (logs[0] - 1) ** 4, np.nan, Status(), -20 * (logs - 1) - 4 * (logs - 1) ** 3
    )


def test_the_search_ends_at_a_jump_and_at_a_smooth_maximum_to_the_last_digits() -> None:
    """Line searches across a jump of the evidence go on for a hundred evaluations, and gain nothing."""
    ends = []
    for evaluate in (jumping, smooth):
        low = np.full(1, -7.0)
        search = Search(("tau",), np.zeros(1), low, -low, lambda: None, evaluate, num_rows=200, per_row=False)
        search.along_gradient()
        ends.append(search)
    at_jump, at_maximum = ends
    assert len(at_jump.tried) < 40
    assert at_jump.tried[at_jump.best][1].value == pytest.approx(-4.9, abs=1e-3 * 200)
    assert "the evidence jumps by 20 nats" in at_jump.note
    assert at_maximum.tried[at_maximum.best][0] == pytest.approx([1.0], abs=1e-5)
    assert at_maximum.note == ""


# Scores of rows.


@pytest.mark.slow
def test_held_out_scores_are_those_of_ridge_regression() -> None:
    tuned = tune(HALF_NORMAL, X, WEAK, by="held-out", held_out=0.4, method=MAP(num_steps=300), key=5, progress=False)
    _, data = check_problem(HALF_NORMAL, X, WEAK)
    fitted, scored = _parts(data, 0.4, jax.random.split(jax.random.key(5))[0])
    assert scored is not None
    x, y, x_new, y_new = fitted.x, fitted.y, scored.x, scored.y
    assert (len(y), len(y_new)) == (12, 8)
    for _, row in tuned.curve.iterrows():
        ridge = Ridge(alpha=(NOISE / row["prior_scale"]) ** 2, fit_intercept=False)
        ridge.fit(np.column_stack([x, np.ones(12)]), y)
        log_probs = scipy.stats.norm.logpdf(y_new, ridge.predict(np.column_stack([x_new, np.ones(8)])), NOISE)
        np.testing.assert_allclose(row["score"], log_probs.mean(), rtol=1e-3)
        np.testing.assert_allclose(row["se"], scipy.stats.sem(log_probs), rtol=1e-2)
    assert tuned.score == tuned.curve["score"].max()
    assert tuned.values["prior_scale"] == tuned.curve.loc[tuned.curve["score"].idxmax(), "prior_scale"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_leave_one_out_scores_are_those_of_fits_by_chains() -> None:
    method = NUTS(num_warmup=200, num_samples=200, start=None)
    tuned = tune(HALF_NORMAL, X, WEAK, by="loo", method=method, key=5, progress=False)
    key = jax.random.split(jax.random.key(5))[1]
    elpd = loo(fit(tuned.model, method, X, WEAK, key=key, progress=False), X, WEAK).elpd / len(WEAK)
    # Chains of one key part by rounding; the standard deviation over keys is .008.
    np.testing.assert_allclose(tuned.score, elpd, atol=0.03)
    assert "Pareto's k is at most" in str(tuned)


# Misuse.

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another score": ({"by": "aic"}, ValueError, "expected by='evidence', 'held-out' or 'loo'; got 'aic'"),
    "no scale": ({"model": Model(MLP(), Normal(1.0))}, ValueError, r"can be tuned; got none among \['w1', 'b1'\]"),
    "an unknown site": ({"sites": ["tau"]}, ValueError, r"got \['tau'\], and the sites are"),
    "one name": ({"sites": "prior_scale"}, TypeError, "expected a list of names as sites"),
    "weights": ({"sites": ["w1"]}, ValueError, r"expected 'w1' to be one positive number; it has shape \(4, 1\)"),
    "all sites": ({"sites": ["w1", "b1", "prior_scale"]}, ValueError, "expected sites that leave others"),
    "MAP for the evidence": ({"method": MAP()}, TypeError, r"expected Laplace\(...\) as the method"),
    "MAP for LOO": ({"method": MAP(), "by": "loo"}, TypeError, "expected a method of chains"),
    "a class": ({"method": MAP, "by": "held-out"}, TypeError, r"expected a method such as MAP\(\)"),
    "all rows": ({"held_out": 1.0, "by": "held-out"}, ValueError, "expected held_out, .*; got 1.0 of 20 rows"),
    "no key": ({"key": None}, TypeError, "Expected key to be an integer seed"),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_raises(name: str) -> None:
    changed, error, match = BAD[name]
    with pytest.raises(error, match=match):
        tune(**{"model": HALF_NORMAL, "x": X, "y": WEAK, "key": 0, "progress": False, **changed})
