"""`explain`: its total is what `fit` minimises, its terms are what others compute, its words are the usual ones."""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import statsmodels.api as sm
from jax import Array
from numpyro.distributions import biject_to
from numpyro.handlers import mask, scale, seed, trace
from numpyro.infer import init_to_value
from scipy import special
from scipy.stats import halfnorm, laplace, logistic, norm, poisson
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from flatprior.inference import MAP, MLE, explain, fit, flat, log_density
from flatprior.inference.checks import check_problem
from flatprior.inference.objective import likelihood_curve
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, Poisson, fan_in, gaussian

from .tables import some_by_default

pytestmark = pytest.mark.usefixtures("x64")
PRECISION = 1e-10

OBSERVATIONS: dict[str, tuple[Any, str]] = {
    "Bernoulli": (Bernoulli(), "binary"),
    "Categorical": (Categorical(3), "classes"),
    "Categorical, soft labels": (Categorical(3), "soft"),
    "Normal, known scale": (Normal(0.7), "real"),
    "Normal, learned scale": (Normal(dist.HalfNormal(1.5)), "real"),
    "Normal, scale of the network": (Normal("network"), "real"),
    "Poisson": (Poisson(), "counts"),
}
PRIORS: dict[str, Any] = {
    "gaussian": gaussian(1.7),
    "fan_in": fan_in(0.9),
    "distribution": dist.Laplace(0.0, 0.4),
    "mapping": {"w*": dist.StudentT(4.0), "b*": gaussian(3.0)},
    "flat": None,
}


def model_of(observation: str, prior: str, network: MLP | None = None) -> Any:
    network = network or MLP()
    if prior == "flat":
        return flat(Model(network, OBSERVATIONS[observation][0]))
    return Model(network, OBSERVATIONS[observation][0], PRIORS[prior])


@pytest.fixture(scope="session")
def rows(data_sets: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind of y -> (x, y), with soft labels among them."""
    x, _ = data_sets["classes"]
    rng = np.random.default_rng(3)
    return {
        **data_sets,
        "soft": (x, rng.dirichlet(np.ones(3), size=len(x))),
        "three": (x, rng.normal(size=(len(x), 3))),
    }


def drawn(model: Callable[..., Any], x: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Some weights, and the bijections from the real line to their supports."""
    sites = trace(seed(model, 3)).get_trace(jax.tree.map(jnp.asarray, x))
    latent = {name: site for name, site in sites.items() if site["type"] == "sample" and name not in OBSERVED}
    return {k: s["value"] for k, s in latent.items()}, {k: biject_to(s["fn"].support) for k, s in latent.items()}


OBSERVED = ("y", "target", "count")


@pytest.fixture(scope="session")
def explanation_of(rows: dict[str, Any]) -> Callable[[Any, str], Any]:
    """(Model, kind of y) -> its explanation where an optimiser starts, made once."""
    return lru_cache(maxsize=None)(lambda model, kind: explain(model, *rows[kind]))


def assert_same_gradient(explanation: Any, gradients: dict[str, Array], expected: dict[str, Array]) -> None:
    largest = max(float(jnp.abs(leaf).max()) for leaf in expected.values())
    for site, leaf in expected.items():
        np.testing.assert_allclose(gradients[site], leaf, rtol=PRECISION, atol=PRECISION * largest, err_msg=site)
    assert explanation.gradient_difference < PRECISION * max(1.0, largest), (
        "the independent formulas have this gradient too"
    )


def in_real_coordinates(model: Callable[..., Any], to_support: dict[str, Any], x: Any, y: Any) -> Callable[..., Array]:
    """The objective as a function of coordinates on the whole real line."""
    return jax.jit(lambda u: -log_density(model, {site: to_support[site](u[site]) for site in u}, x, y))


@pytest.mark.parametrize(
    ("observation", "prior"), some_by_default(product(OBSERVATIONS, PRIORS), ("Categorical", "gaussian"))
)
def test_the_total_is_what_is_compiled_and_minimised(observation: str, prior: str, rows: dict[str, Any]) -> None:
    model = model_of(observation, prior)
    x, y = (jnp.asarray(part) for part in rows[OBSERVATIONS[observation][1]])
    weights, to_support = drawn(model, x)
    explanation = explain(model, x, y, at=weights)
    before = {site: to_support[site].inv(value) for site, value in weights.items()}

    density, data = check_problem(model, x, y)
    value, gradient = jax.jit(jax.value_and_grad(density.loss))(before, data)
    np.testing.assert_allclose(explanation.total, value * len(x), rtol=PRECISION)
    assert explanation.value_difference < PRECISION * abs(explanation.total)
    gradients = {site: gradient[site] * len(x) for site in weights}
    assert_same_gradient(explanation, gradients, jax.grad(in_real_coordinates(model, to_support, x, y))(before))


def assert_total_is_what_fit_minimises(model: Callable[..., Any], x: Any, y: Any) -> None:
    """One step of gradient descent shows the objective, in its recorded loss, and its gradient, in the step."""
    x, y = jax.tree.map(jnp.asarray, (x, y))
    weights, to_support = drawn(model, x)
    explanation = explain(model, x, y, at=weights)
    start = init_to_value(values=weights)
    settings = MAP(optimizer=optax.sgd(1.0), num_steps=1, polish=False, init_strategy=start)
    step = fit(model, settings, x, y, key=0, progress=False)
    np.testing.assert_allclose(explanation.total, step.stats["loss"][0, 0], rtol=PRECISION)
    assert explanation.value_difference < PRECISION * abs(explanation.total)
    before = {site: to_support[site].inv(value) for site, value in weights.items()}
    moved = {site: before[site] - to_support[site].inv(step.draws[site][0, 0]) for site in before}
    gradients = {site: value * explanation.num_rows for site, value in moved.items()}
    assert_same_gradient(explanation, gradients, jax.grad(in_real_coordinates(model, to_support, x, y))(before))


@pytest.mark.parametrize(
    "name", ["hierarchical", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mixture_density", "dictionary"))]
)
@pytest.mark.slow
def test_the_total_is_what_fit_minimises_for_models_by_hand(name: str, by_hand: dict[str, Any]) -> None:
    assert_total_is_what_fit_minimises(*by_hand[name])


@pytest.mark.parametrize(
    ("observation", "prior"),
    some_by_default([("Categorical, soft labels", "mapping"), ("Bernoulli", "flat")]),
)
def test_the_total_is_what_fit_minimises(observation: str, prior: str, rows: dict[str, Any]) -> None:
    assert_total_is_what_fit_minimises(
        model_of(observation, prior, MLP((2,), "tanh")), *rows[OBSERVATIONS[observation][1]]
    )


# The terms, against what others compute at the same weights.

W, B = np.array([[0.4, -0.3, 0.8], [-1.1, 0.2, 0.5]]), np.array([0.1, -0.4, 0.3])


def explanation_at(model: Any, rows: tuple[np.ndarray, np.ndarray], num_outputs: int, **others: Any) -> Any:
    """The explanation of a linear model at the weights above, and the outputs there."""
    weights = {"w1": W[:, :num_outputs], "b1": B[:num_outputs], **others}
    return explain(model, *rows, at=weights), rows[0] @ weights["w1"] + weights["b1"]


LINEAR = gaussian(1.0)
LOSSES: dict[str, tuple[int, dict[str, Any], Callable[[np.ndarray, np.ndarray], float]]] = {
    "Bernoulli": (1, {}, lambda eta, y: log_loss(y, special.expit(eta[:, 0]), normalize=False)),
    "Categorical": (3, {}, lambda eta, y: log_loss(y, special.softmax(eta, axis=1), normalize=False)),
    "Categorical, soft labels": (3, {}, lambda eta, y: -np.sum(y * special.log_softmax(eta, axis=1))),
    "Normal, known scale": (1, {}, lambda eta, y: -norm.logpdf(y, eta[:, 0], 0.7).sum()),
    "Normal, learned scale": (1, {"scale": 0.9}, lambda eta, y: -norm.logpdf(y, eta[:, 0], 0.9).sum()),
    "Normal, scale of the network": (
        2,
        {},
        lambda eta, y: -norm.logpdf(y, eta[:, 0], np.logaddexp(0, eta[:, 1]) + 1e-6).sum(),
    ),
    "Poisson": (1, {}, lambda eta, y: -poisson.logpmf(y, np.exp(eta[:, 0])).sum()),
}


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_loss_is_what_others_compute(observation: str, rows: dict[str, Any]) -> None:
    num_outputs, others, expected = LOSSES[observation]
    x, y = rows[OBSERVATIONS[observation][1]]
    explanation, eta = explanation_at(model_of(observation, "gaussian"), (x, y), num_outputs, **others)
    np.testing.assert_allclose(explanation.loss, expected(eta, y), rtol=PRECISION)
    table = explanation.to_dataframe()
    np.testing.assert_allclose(table.loc["y", "nats_per_row"], explanation.loss / len(x), rtol=PRECISION)
    np.testing.assert_allclose(table.loc["y", "bits_per_row"], explanation.loss / len(x) / math.log(2), rtol=PRECISION)


@pytest.mark.slow
def test_the_losses_are_those_of_statsmodels(rows: dict[str, Any], by_hand: dict[str, Any]) -> None:
    """Regressions by their log likelihood; of least squares that at the best scale."""
    beta = np.array([B[0], *W[:, 0]])
    x, y = rows["binary"]
    explanation, _ = explanation_at(Model(MLP(), Bernoulli()), (x, y), 1)
    np.testing.assert_allclose(-explanation.loss, sm.Logit(y, sm.add_constant(x)).loglike(beta), rtol=PRECISION)
    x, y = rows["real"]
    scale = np.sqrt(np.mean((y - x @ W[:, 0] - B[0]) ** 2))
    explanation, _ = explanation_at(Model(MLP(), Normal(dist.HalfNormal(1.0))), (x, y), 1, scale=scale)
    np.testing.assert_allclose(-explanation.loss, sm.OLS(y, sm.add_constant(x)).loglike(beta), rtol=PRECISION)
    model, x, y = by_hand["dictionary"]
    features = np.column_stack([np.eye(3)[x["group"]], x["z"]])
    explanation = explain(model, x, y, at={"level": B, "slope": W[:, 0]})
    expected = sm.Poisson(y, features).loglike(np.concatenate([B, W[:, 0]]))
    np.testing.assert_allclose(-explanation.loss, expected, rtol=PRECISION)


@pytest.mark.slow
def test_the_losses_by_hand_are_those_of_scipy(by_hand: dict[str, Any]) -> None:
    model, (group, z), y = by_hand["hierarchical"]
    offset = np.array([0.3, -0.2, 1.0, -0.7])
    explanation = explain(model, (group, z), y, at={"spread": 0.8, "slope": 0.6, "offset": offset})
    np.testing.assert_allclose(
        explanation.loss, -laplace.logpdf(y, 0.8 * offset[group] + 0.6 * z, 0.5).sum(), rtol=PRECISION
    )
    prior = halfnorm.logpdf(0.8) + norm.logpdf(0.6) + norm.logpdf(offset).sum()
    np.testing.assert_allclose(explanation.penalty, -prior, rtol=PRECISION)

    model, x, y = by_hand["mixture_density"]
    weights, _ = drawn(model, x)
    explanation = explain(model, x, y, at=weights)
    eta = np.tanh(x @ weights["w1"] + weights["b1"]) @ weights["w2"] + weights["b2"]
    logits, loc, raw = np.split(np.asarray(eta), 3, axis=1)
    parts = special.log_softmax(logits, axis=1) + logistic.logpdf(y[:, None], loc, np.logaddexp(0, raw) + 0.05)
    np.testing.assert_allclose(explanation.loss, -special.logsumexp(parts, axis=1).sum(), rtol=PRECISION)


PENALTIES: dict[str, tuple[Any, Callable[[str, np.ndarray], np.ndarray]]] = {
    "gaussian": (gaussian(1.7), lambda site, v: norm.logpdf(v, 0, 1.7)),
    "fan_in": (fan_in(0.9), lambda site, v: norm.logpdf(v, 0, 0.9 / math.sqrt(2) if site == "w1" else 0.9)),
    "Laplace": (dist.Laplace(0.5, 0.4), lambda site, v: laplace.logpdf(v, 0.5, 0.4)),
    "centred elsewhere": (dist.Normal(1.0, 2.0), lambda site, v: norm.logpdf(v, 1.0, 2.0)),
    "scales of their own": (
        {"w1": dist.Normal(0.0, np.array([[0.5], [2.0]])).expand([2, 1]), "b1": dist.Uniform(-5.0, 5.0)},
        lambda site, v: norm.logpdf(v, 0, [[0.5], [2.0]]) if site == "w1" else np.full(v.shape, -math.log(10)),
    ),
    "mixture": (
        dist.MixtureSameFamily(dist.Categorical(probs=np.array([0.3, 0.7])), dist.Normal(0.0, np.array([0.1, 2.0]))),
        lambda site, v: np.log(0.3 * norm.pdf(v, 0, 0.1) + 0.7 * norm.pdf(v, 0, 2.0)),
    ),
}


@pytest.mark.parametrize("name", some_by_default(PENALTIES, "gaussian", "fan_in", "scales of their own"))
def test_the_penalty_is_what_scipy_computes(name: str, rows: dict[str, Any]) -> None:
    prior, log_prob = PENALTIES[name]
    explanation, _ = explanation_at(Model(MLP(), Bernoulli(), prior), rows["binary"], 1)
    by_site = {term.site: term.nats for term in explanation.terms}
    for site, value in (("w1", W[:, :1]), ("b1", B[:1])):
        np.testing.assert_allclose(by_site[site], -np.sum(log_prob(site, value)), rtol=PRECISION)
    np.testing.assert_allclose(explanation.penalty, by_site["w1"] + by_site["b1"], rtol=PRECISION)
    assert explanation.value_difference < PRECISION
    assert explanation.gradient_difference < PRECISION * len(rows["binary"][0])


def test_the_penalty_is_the_l2_loss_of_optax(rows: dict[str, Any]) -> None:
    explanation, _ = explanation_at(Model(MLP(), Bernoulli(), gaussian(0.5)), rows["binary"], 1)
    for term, value in zip(explanation.terms[1:], (W[:, :1], B[:1]), strict=True):
        np.testing.assert_allclose(term.nats - term.constant, optax.l2_loss(value).sum() / 0.5**2, rtol=PRECISION)


# Words.


def probabilities(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(probs=jax.nn.sigmoid(w * x[:, 0])), obs=y)


def class_probabilities(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Categorical(probs=jax.nn.softmax(w * x[:, :1] * jnp.arange(3.0))), obs=y)


def robust(x: Array, y: Array | None = None) -> None:
    """Heavy tails, and noise that is known row by row in the prior's place."""
    w = numpyro.sample("w", dist.Uniform(-3.0, 3.0))
    numpyro.sample("y", dist.StudentT(4.0, w * x[:, 0], 1.0), obs=y)


def known_rows(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(w * x[:, 0], 1.0 + jnp.abs(x[:, 1])), obs=y)


def automatic_relevance(x: Array, y: Array | None = None) -> None:
    """Centred: the scale and the centre of the slopes are learned, and so is the scale of the error."""
    centre, spread = numpyro.sample("centre", dist.Cauchy(0.0, 1.0)), numpyro.sample("spread", dist.HalfCauchy(1.0))
    w = numpyro.sample("w", dist.Normal(centre, spread).expand([2]).to_event(1))
    v = numpyro.sample("v", dist.Laplace(0.0, spread))
    s = numpyro.sample("s", dist.LogNormal(0.0, 1.0))
    numpyro.sample("y", dist.Laplace(x @ w + v, s), obs=y)


def three_outputs(x: Array, y: Array | None = None) -> None:
    """Three numbers a row, each with an error of its own scale."""
    s = numpyro.sample("s", dist.HalfNormal(jnp.ones(3)).to_event(1))
    numpyro.sample("y", dist.Normal(MLP()(x, 3), s).to_event(1), obs=y)


def linear(observation: Any, prior: Any = LINEAR) -> Model:
    return Model(MLP(), observation, prior)


STUDENT = "Student-t loss, (df + 1)/2 log(1 + z^2 / df) + log(scale) + terms of df, df = 4, scale = 1"
NAMES: dict[str, tuple[Any, str, str, str, str]] = {
    # model, kind of y, site, distribution, name
    "Bernoulli": (linear(Bernoulli()), "binary", "y", "Bernoulli(logits)", "binary cross-entropy with logits"),
    "Bernoulli, probabilities": (probabilities, "binary", "y", "Bernoulli(probs)", "binary cross-entropy"),
    "Categorical": (linear(Categorical(3)), "classes", "y", "Categorical(logits)", "softmax cross-entropy"),
    "Categorical, probabilities": (class_probabilities, "classes", "y", "Categorical(probs)", "cross-entropy"),
    "soft labels": (linear(Categorical(3)), "soft", "y", "SoftCategorical(logits)", "soft-label cross-entropy"),
    "Poisson": (
        linear(Poisson()),
        "counts",
        "y",
        "Poisson(rate)",
        "Poisson loss, rate - y log(rate) + log(y!)",
    ),
    "known scale": (
        linear(Normal(0.7)),
        "real",
        "y",
        "Normal(loc, 0.7)",
        "squared error / (2 * 0.7^2) + n/2 log(2 pi 0.7^2)",
    ),
    "known scale a row": (
        known_rows,
        "real",
        "y",
        "Normal(loc, scale)",
        "squared error / (2 * scale^2) + n/2 log(2 pi scale^2)",
    ),
    "learned scale": (
        linear(Normal(dist.HalfNormal(1.0))),
        "real",
        "y",
        "Normal(loc, scale)",
        "Gaussian NLL, one learned scale",
    ),
    "scale of the network": (
        linear(Normal("network")),
        "real",
        "y",
        "Normal(loc, scale)",
        "Gaussian NLL, scale depends on x",
    ),
    "a scale for each output": (
        three_outputs,
        "three",
        "y",
        "Normal(loc, scale)",
        "Gaussian NLL, a learned scale for each output",
    ),
    "Laplace, learned scale": (
        automatic_relevance,
        "real",
        "y",
        "Laplace(loc, scale)",
        "Laplace NLL, one learned scale",
    ),
    "Student": (robust, "real", "y", "StudentT(4, loc, 1)", STUDENT),
    "weight decay": (
        linear(Bernoulli(), gaussian(0.5)),
        "binary",
        "w1",
        "Normal(0, 0.5)",
        "weight decay, |w1|^2 / (2 * 0.5^2)",
    ),
    "elsewhere": (
        linear(Bernoulli(), dist.Normal(1.0, 0.5)),
        "binary",
        "b1",
        "Normal(1, 0.5)",
        "weight decay, |b1 - 1|^2 / (2 * 0.5^2)",
    ),
    "L1": (linear(Bernoulli(), dist.Laplace(0.0, 0.5)), "binary", "w1", "Laplace(0, 0.5)", "L1, sum |w1| / 0.5"),
    "flat": (flat(linear(Bernoulli())), "binary", "w1", "Normal(0, 1)", "none: flat"),
    "improper": (known_rows, "real", "w", "ImproperUniform", "none: flat"),
    "bounded": (robust, "real", "w", "Uniform(-3, 3)", "none: flat inside its bounds"),
    "learned coefficient": (
        automatic_relevance,
        "real",
        "w",
        "Normal(loc, scale)",
        "weight decay towards a learned centre with a learned coefficient",
    ),
    "learned L1": (automatic_relevance, "real", "v", "Laplace(0, scale)", "L1 with a learned coefficient"),
    "heavy tails": (automatic_relevance, "real", "centre", "Cauchy(0, 1)", "negative log of Cauchy"),
    "of a scale": (automatic_relevance, "real", "s", "LogNormal(0, 1)", "negative log of LogNormal"),
    "mixture": (
        linear(Bernoulli(), PENALTIES["mixture"][0]),
        "binary",
        "w1",
        "mixture of 2 Normal",
        "negative log of mixture of 2 Normal",
    ),
}


USUAL = (
    "Bernoulli",
    "soft labels",
    "known scale a row",
    "scale of the network",
    "Student",
    "weight decay",
    "L1",
    "flat",
    "improper",
    "learned L1",
    "of a scale",
)


@pytest.mark.parametrize("name", some_by_default(NAMES, *USUAL))
def test_every_site_has_its_usual_name(name: str, explanation_of: Callable[[Any, str], Any]) -> None:
    model, kind, site, distribution, words = NAMES[name]
    explanation = explanation_of(model, kind)
    (term,) = [term for term in explanation.terms if term.site == site]
    assert (term.distribution, term.name) == (distribution, words)
    assert (term.checked_by is None) == words.startswith("negative log of")
    assert explanation.value_difference < PRECISION * abs(explanation.total)


@pytest.mark.parametrize(
    ("name", "site", "words"),
    [
        ("hierarchical", "y", "absolute error / 0.5 + n log(2 * 0.5)"),
        pytest.param("mixture_density", "target", "negative log of mixture of 10 Logistic", marks=pytest.mark.slow),
        ("dictionary", "count", "Poisson loss, rate - y log(rate) + log(y!)"),
    ],
)
def test_losses_of_models_by_hand_have_names(name: str, site: str, words: str, by_hand: dict[str, Any]) -> None:
    explanation = explain(*by_hand[name])
    assert (explanation.terms[0].site, explanation.terms[0].role, explanation.terms[0].name) == (site, "loss", words)


def test_the_words_hold_where_the_weights_are_special(rows: dict[str, Any]) -> None:
    """At weights of 0 the scale of a network is the same for all rows, and depends on x all the same."""
    explanation = explain(linear(Normal("network")), *rows["real"], at={"w1": np.zeros((2, 2)), "b1": np.zeros(2)})
    assert explanation.terms[0].name == "Gaussian NLL, scale depends on x"


# The constant parts, and weight decay as an optimiser counts it.


def test_what_is_constant_moves_with_no_weight(rows: dict[str, Any]) -> None:
    """Without it the loss is the squared error over 2 s^2, and the penalty the squared weights over 2 s^2."""
    x, y = rows["real"]
    explanation, eta = explanation_at(Model(MLP(), Normal(0.7), gaussian(2.0)), (x, y), 1)
    loss, of_w, of_b = explanation.terms
    np.testing.assert_allclose(loss.constant, len(x) / 2 * math.log(2 * math.pi * 0.7**2), rtol=PRECISION)
    np.testing.assert_allclose(loss.nats - loss.constant, np.sum((y - eta[:, 0]) ** 2) / (2 * 0.7**2), rtol=PRECISION)
    for term, value in ((of_w, W[:, :1]), (of_b, B[:1])):
        np.testing.assert_allclose(term.nats - term.constant, np.sum(value**2) / (2 * 2.0**2), rtol=PRECISION)


def test_of_a_learned_scale_only_2_pi_is_constant(rows: dict[str, Any]) -> None:
    """What remains is the Gaussian NLL as libraries state it by default, without log(2 pi) / 2 a row."""
    x, y = rows["real"]
    explanation, eta = explanation_at(Model(MLP(), Normal(dist.HalfNormal(1.0))), (x, y), 1, scale=0.9)
    loss = explanation.terms[0]
    expected = np.sum(np.log(0.9**2) + (y - eta[:, 0]) ** 2 / 0.9**2) / 2
    np.testing.assert_allclose(loss.nats - loss.constant, expected, rtol=PRECISION)


CONSTANTS: dict[str, tuple[Any, str, str, float | None]] = {
    "cross-entropy": (linear(Bernoulli()), "binary", "y", 0.0),
    "flat": (flat(linear(Bernoulli())), "binary", "w1", 0.0),
    "L1": (linear(Bernoulli(), dist.Laplace(0.0, 0.3)), "binary", "w1", 2 * math.log(2 * 0.3)),
    "Uniform": (robust, "real", "w", math.log(6)),
    "unknown": (automatic_relevance, "real", "spread", None),
    "Student": (robust, "real", "y", 40 * (math.log(4 * math.pi) / 2 - special.gammaln(2.5))),
    "learned L1": (automatic_relevance, "real", "v", math.log(2)),
    "learned decay": (automatic_relevance, "real", "w", math.log(2 * math.pi)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_constants(name: str, explanation_of: Callable[[Any, str], Any]) -> None:
    model, kind, site, expected = CONSTANTS[name]
    (term,) = [term for term in explanation_of(model, kind).terms if term.site == site]
    assert term.constant == (None if expected is None else pytest.approx(expected, rel=PRECISION))


def test_of_counts_the_factorials_are_constant(by_hand: dict[str, Any]) -> None:
    """What remains is the Poisson loss as libraries state it by default."""
    model, x, y = by_hand["dictionary"]
    explanation = explain(model, x, y, at={"level": B, "slope": W[:, 0]})
    log_rate = B[x["group"]] + x["z"] @ W[:, 0]
    expected = np.sum(np.exp(log_rate) - y * log_rate)
    np.testing.assert_allclose(explanation.terms[0].nats - explanation.terms[0].constant, expected, rtol=PRECISION)


def test_weight_decay_is_one_over_the_variance(rows: dict[str, Any]) -> None:
    prior = {"w1": gaussian(0.5), "b1": dist.Normal(0.0, 4.0)}
    table = explain(linear(Bernoulli(), prior), *rows["binary"]).to_dataframe()
    assert table["weight_decay"].to_dict() == {"y": pytest.approx(np.nan, nan_ok=True), "w1": 4.0, "b1": 1 / 16}


@pytest.mark.parametrize("name", ["Laplace", "centred elsewhere", "mixture"])
def test_what_is_no_weight_decay_has_none(name: str, explanation_of: Callable[[Any, str], Any]) -> None:
    explanation = explanation_of(linear(Bernoulli(), PENALTIES[name][0]), "binary")
    assert [term.weight_decay for term in explanation.terms] == [None] * 3
    assert not any("As an optimiser counts it" in note for note in explanation.notes)


# Factors, scales and masks.

ROW_WEIGHTS = np.linspace(0.5, 2.0, 40)
KEPT = np.arange(40) % 3 > 0


def with_factor(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.factor("ridge", -0.25 * jnp.sum(w**2))
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def tempered(x: Array, y: Array | None = None) -> None:
    with scale(scale=3.0):
        w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with scale(scale=0.5):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def weighted_rows(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("row", 40), scale(scale=jnp.asarray(ROW_WEIGHTS)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def masked_rows(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).mask(jnp.array([True, False])).to_event(1))
    with numpyro.plate("row", 40), mask(mask=jnp.asarray(KEPT)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def masked_whole(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).mask(False).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1.0).mask(True), obs=y)


BASE = "squared error / (2 * 1^2) + n/2 log(2 pi 1^2)"
DECAY = "weight decay, |w|^2 / (2 * {}^2)"
HANDLED: dict[str, tuple[Any, Any, Any, dict[str, str], Any]] = {
    # model, weights of the rows, weights of w's elements, names, weight decay
    "factor": (with_factor, 1.0, 1.5, {"ridge": "a term of the user's own", "y": BASE, "w": DECAY.format(1)}, 1.0),
    "scale": (tempered, 0.5, 3.0, {"y": f"{BASE}, times 0.5", "w": f"{DECAY.format(2)}, times 3"}, 0.75),
    "scale a row": (
        weighted_rows,
        ROW_WEIGHTS,
        1.0,
        {"y": f"{BASE}, each times its own weight", "w": DECAY.format(2)},
        0.25,
    ),
    "mask": (
        masked_rows,
        KEPT,
        np.array([1.0, 0.0]),
        {
            "y": f"{BASE}, for the 26 of 40 not masked",
            "w": f"{DECAY.format(2)}, for the 1 of 2 not masked",
        },
        None,
    ),
    "mask of all": (masked_whole, 1.0, 0.0, {"y": BASE, "w": "none: flat"}, None),
}


@pytest.mark.parametrize("name", HANDLED)
def test_factors_scales_and_masks_count(name: str, rows: dict[str, Any]) -> None:
    model, of_rows, of_weights, names, decay = HANDLED[name]
    x, y = rows["real"]
    w = np.array([0.7, -0.2])
    explanation = explain(model, x, y, at={"w": w})
    squares = (y - x @ w) ** 2 / 2 + math.log(2 * math.pi) / 2
    by_site = {term.site: term for term in explanation.terms}
    assert {site: term.name for site, term in by_site.items()} == names
    np.testing.assert_allclose(by_site["y"].nats, np.sum(of_rows * squares), rtol=PRECISION)
    constant = np.sum(of_rows * np.full(40, math.log(2 * math.pi) / 2))
    np.testing.assert_allclose(by_site["y"].constant, constant, rtol=PRECISION)
    if name == "factor":
        assert by_site["ridge"].role == "factor"
        np.testing.assert_allclose(by_site["ridge"].nats, 0.25 * np.sum(w**2), rtol=PRECISION)
        np.testing.assert_allclose(explanation.loss, by_site["y"].nats + by_site["ridge"].nats, rtol=PRECISION)
    else:
        np.testing.assert_allclose(explanation.penalty, -np.sum(of_weights * norm.logpdf(w, 0, 2.0)), rtol=PRECISION)
    assert by_site["w"].weight_decay == decay
    assert explanation.value_difference < PRECISION * explanation.total
    assert explanation.gradient_difference < PRECISION * explanation.total
    np.testing.assert_allclose(explanation.total, -log_density(model, {"w": jnp.asarray(w)}, x, y), rtol=PRECISION)


# Where: a fit, a mapping, nothing.


def test_at_a_fit_it_tells_the_loss_of_that_fit(rows: dict[str, Any]) -> None:
    model, (x, y) = linear(Bernoulli()), rows["binary"]
    fitted = fit(model, MLE(num_steps=50), x, y, key=0, progress=False)
    explanation = explain(model, x, y, at=fitted)
    np.testing.assert_allclose(explanation.loss, -fitted.log_likelihood(x, y).sum(), rtol=PRECISION)
    assert explanation.place == "the weights of the MLE fit"
    elsewhere = {site: draws[0, 0] + 0.1 for site, draws in fitted.draws.items()}
    assert explain(model, x, y, at=elsewhere).loss > explanation.loss, "the MLE has the least loss"
    assert "the given weights" in explain(model, x, y, at=elsewhere).notes[0]
    assert "the starting point of an optimiser" in explain(model, x, y).notes[0]


X, BINARY = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
BAD_PLACES: dict[str, tuple[Any, type[Exception], str]] = {
    "a number": (3.0, TypeError, "Expected a fit or a mapping from sites to values; got 3.0"),
    "a missing site": ({"w1": np.zeros((2, 1))}, ValueError, r"values for the sites \['w1', 'b1'\]; got \['w1'\]"),
    "an unknown site": (
        {"w1": np.zeros((2, 1)), "b1": np.zeros(1), "w2": np.zeros(1)},
        ValueError,
        r"values for the sites \['w1', 'b1'\]; got \['w1', 'b1', 'w2'\]",
    ),
    "another shape": (
        {"w1": np.zeros(2), "b1": np.zeros(1)},
        ValueError,
        r"Site 'w1': expected numbers of shape \(2, 1\); got float64 of \(2,\)",
    ),
    "words": (
        {"w1": np.full((2, 1), "0"), "b1": np.zeros(1)},
        ValueError,
        "Site 'w1': expected numbers of shape",
    ),
}


@pytest.mark.parametrize("name", BAD_PLACES)
def test_bad_places_raise(name: str) -> None:
    place, error, message = BAD_PLACES[name]
    with pytest.raises(error, match=message):
        explain(linear(Bernoulli()), X, BINARY, at=place)


def test_bad_data_and_models_raise() -> None:
    with pytest.raises(ValueError, match="as many rows in y as in x, 20"):
        explain(linear(Bernoulli()), X, BINARY[:-1])
    with pytest.raises(ValueError, match="y, row 0: expected 0 or 1; got 2"):
        explain(linear(Bernoulli()), X, BINARY + 2)
    with pytest.raises(TypeError, match="Expected a NumPyro model"):
        explain("model", X, BINARY)  # type: ignore[arg-type]


# How it is shown.


def test_the_table_in_the_terminal(by_hand: dict[str, Any], explanation_of: Callable[[Any, str], Any]) -> None:
    explanations = [explanation_of(linear(Normal("network")), "real"), explanation_of(masked_rows, "real")]
    explanations += [explain(*by_hand[name]) for name in ("mixture_density", "dictionary")]
    for explanation in explanations:
        lines = str(explanation).splitlines()
        assert max(map(len, lines)) <= 120
        start = lines[0].index("in deep learning")
        first = lines[1][start:]
        assert explanation.terms[0].name.startswith(first.split("  ")[0].strip()), (
            "columns begin where their headings do"
        )
        for term in explanation.terms:
            assert any(line.startswith(f"{term.site} ") and f"{term.nats:.4f}" in line for line in lines)
        joined = " ".join(lines)
        assert all(note in joined for note in explanation.notes), "notes are whole, whatever their line breaks"
        assert "AdamW" in explanation.notes[-1]
        assert repr(explanation) == str(explanation)


def test_the_table_in_a_notebook(explanation_of: Callable[[Any, str], Any]) -> None:
    html = explanation_of(linear(Bernoulli(), gaussian(0.5)), "binary")._repr_html_()
    assert html.count("<tr>") == 4
    assert "weight decay, |w1|^2 / (2 * 0.5^2)</td>" in html


def test_the_dataframe_holds_what_the_terms_hold(explanation_of: Callable[[Any, str], Any]) -> None:
    explanation = explanation_of(linear(Bernoulli()), "binary")
    table = explanation.to_dataframe()
    assert list(table.index) == ["y", "w1", "b1"]
    assert list(table["role"]) == ["loss", "penalty", "penalty"]
    np.testing.assert_array_equal(table["nats"], [term.nats for term in explanation.terms])
    assert table["nats_per_row"].isna().tolist() == [False, True, True]


# Weight decay as a prior.


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("loss", [{"loss": "sum"}, {"loss": "mean", "num_rows": 1}, {"loss": "mean", "num_rows": 250}])
def test_weight_decay_and_prior_are_inverse(scale: float, loss: Any) -> None:
    assert gaussian.from_weight_decay(gaussian(scale).weight_decay(**loss), **loss).scale == pytest.approx(scale)
    assert gaussian.from_weight_decay(scale, **loss).weight_decay(**loss) == pytest.approx(scale)
    rows = loss.get("num_rows", 1)
    assert gaussian(scale).weight_decay(**loss) == pytest.approx(1 / (rows * scale**2))


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_map_is_a_fit_with_the_weight_decay_of_an_optimiser(loss: Any, rows: dict[str, Any]) -> None:
    """Gradient descent with optax's added decay on the cross-entropy ends at the mode under the prior that it is."""
    x, y = rows["binary"]
    num_rows = {"num_rows": len(x)} if loss == "mean" else {}
    decay = 0.8 if loss == "sum" else 0.8 / 40
    prior = gaussian.from_weight_decay(decay, loss=loss, **num_rows)
    fitted = fit(linear(Bernoulli(), prior), MAP(num_steps=500), x, y, key=0, progress=False)

    def objective(w: dict[str, Array]) -> Array:
        losses = optax.sigmoid_binary_cross_entropy(x @ w["w1"][:, 0] + w["b1"], y)
        return losses.sum() if loss == "sum" else losses.mean()

    step_size = 0.05 if loss == "sum" else 2.0
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(step_size))

    @jax.jit
    def descend(w: dict[str, Array]) -> dict[str, Array]:
        def step(_: int, carry: Any) -> Any:
            w, state = carry
            updates, state = optimizer.update(jax.grad(objective)(w), state, w)
            return optax.apply_updates(w, updates), state

        return jax.lax.fori_loop(0, 5000, step, (w, optimizer.init(w)))[0]

    by_optimiser = descend({"w1": jnp.zeros((2, 1)), "b1": jnp.zeros(1)})
    for site, value in by_optimiser.items():
        np.testing.assert_allclose(fitted.draws[site][0, 0], value, rtol=1e-8, err_msg=site)
    decays = [term.weight_decay for term in explain(linear(Bernoulli(), prior), x, y).terms[1:]]
    assert decays == [pytest.approx(0.8)] * 2, "what explain calls it, of the summed loss"


def test_map_is_the_ridge_of_sklearn(rows: dict[str, Any]) -> None:
    """Its C weighs the summed loss against |w|^2 / 2: the variance of the prior, of which the intercept has none."""
    x, y = rows["binary"]
    prior = {"w1": gaussian.from_weight_decay(0.8, loss="sum"), "b1": gaussian(1e6)}
    fitted = fit(linear(Bernoulli(), prior), MAP(), x, y, key=0, progress=False)
    expected = LogisticRegression(C=1 / 0.8, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(x, y)
    np.testing.assert_allclose(fitted.draws["w1"][0, 0, :, 0], expected.coef_[0], rtol=1e-6)


BAD_DECAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "zero": (
        lambda: gaussian.from_weight_decay(0, loss="sum"),
        "expected a positive weight_decay; got 0. None is a flat",
    ),
    "negative": (lambda: gaussian.from_weight_decay(-1.0, loss="sum"), "expected a positive weight_decay; got -1.0"),
    "NaN": (lambda: gaussian.from_weight_decay(math.nan, loss="sum"), "expected a positive weight_decay; got nan"),
    "words": (lambda: gaussian.from_weight_decay("1", loss="sum"), "expected a positive weight_decay; got '1'"),  # type: ignore[arg-type]
    "another loss": (lambda: gaussian(1.0).weight_decay(loss="total"), "loss='sum' or loss='mean'; got 'total'"),  # type: ignore[arg-type]
    "no rows": (lambda: gaussian.from_weight_decay(1.0, loss="mean"), "expected num_rows, .* got None"),
    "rows of a sum": (lambda: gaussian(1.0).weight_decay(loss="sum", num_rows=3), "num_rows is for loss='mean'"),
    "rows below 1": (lambda: gaussian(1.0).weight_decay(loss="mean", num_rows=0), "expected num_rows, .* got 0"),
    "rows that are no count": (lambda: gaussian(1.0).weight_decay(loss="mean", num_rows=2.5), "num_rows, .* got 2.5"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD_DECAYS)
def test_bad_weight_decays_raise(name: str) -> None:
    call, message = BAD_DECAYS[name]
    with pytest.raises(ValueError, match=message):
        call()


# Rows are evaluated a part at a time where they are many: the words and numbers are those of all rows at once.


def terms_of_rows(x: dict[str, Array], y: Array | None = None) -> None:
    """Model with terms of all kinds: over rows, of no row, masked, and by a scale that is known by row."""
    w = numpyro.sample("w", dist.Normal(0.0, 2.0))
    numpyro.factor("by row", 0.1 * w * x["a"])
    numpyro.factor("once", -(w**2))
    with numpyro.handlers.mask(mask=x["a"] > -0.5):
        numpyro.sample("y", dist.Normal(w * x["a"], x["scale"]), obs=y)


def test_parts_of_rows_have_the_terms_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    a, scale = np.linspace(-1, 1, 20), np.repeat([0.5, 0.5, 0.7], [5, 10, 5])  # one number in the first parts
    y = np.where(np.arange(20) == 13, np.nan, np.sin(a))
    rows = {"x": {"a": a, "scale": scale}, "y": y, "weights": np.arange(20) % 3}
    whole = explain(terms_of_rows, **rows, at={"w": 0.3})
    monkeypatch.setattr("flatprior.inference.objective.explanation.rows_in_memory", lambda *_: 5)
    parts = explain(terms_of_rows, **rows, at={"w": 0.3})
    one, other = whole.to_dataframe(), parts.to_dataframe()
    words = one.select_dtypes(exclude="number").columns
    assert other[words].equals(one[words])
    assert "scale" in one.loc["y", "distribution"]
    assert "not masked" in one.loc["y", "name"]
    numbers = one.select_dtypes("number").columns
    np.testing.assert_allclose(other[numbers], one[numbers], rtol=1e-12, atol=1e-12)
    assert max(parts.value_difference, parts.gradient_difference) < 1e-12


def test_parts_of_rows_have_the_likelihood_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"a": np.linspace(-1, 1, 20), "scale": np.ones(20)}, np.linspace(0, 1, 20)
    whole = likelihood_curve(terms_of_rows, *rows, "w", [0.0, 0.5, 1.0])
    monkeypatch.setattr("flatprior.inference.objective.likelihood.rows_in_memory", lambda *_: 7)
    parts = likelihood_curve(terms_of_rows, *rows, "w", [0.0, 0.5, 1.0])
    np.testing.assert_allclose(parts.log_likelihood, whole.log_likelihood, rtol=1e-12)
    np.testing.assert_array_equal(parts.log_prior, whole.log_prior)


@pytest.mark.slow
def test_a_million_rows_need_less_than_256_mebibytes() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "size.py"
    done = subprocess.run(
        [sys.executable, str(script), "--case", "explain"], capture_output=True, text=True, check=True
    )
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| explain")]
    assert rows[-1][2].strip() == "1,000,000"
    assert float(rows[-1][3].replace(",", "")) < 256
