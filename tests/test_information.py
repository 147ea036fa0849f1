"""Cross-entropy as entropy plus divergence, soft labels as weighted hard ones, and code lengths."""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from numpyro.handlers import scale
from scipy.special import rel_entr, softmax
from scipy.stats import entropy, norm, poisson, sem

from flatprior.inference import MAP, MCLMC, MLE, Fit, explain, fit
from flatprior.inference.information import CodeLength, CrossEntropy, code_length, cross_entropy
from flatprior.inference.information.bits import adaptive_bits
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

from .tables import CommonFit

METHODS = ("MAP", "MCLMC")
OBSERVATIONS = {"Bernoulli": ("binary", 2), "Categorical": ("classes", 3)}
every_fit = pytest.mark.parametrize("name", [f"{kind} by {by}" for kind in OBSERVATIONS for by in METHODS])


class Fitted:
    """A fit, the rows that it was fitted to, and the number of classes."""

    def __init__(self, name: str, data_sets: dict[str, Any], common_fit: CommonFit) -> None:
        kind, by = name.split(" by ")
        rows, self.num_classes = OBSERVATIONS[kind]
        self.x, self.y = data_sets[rows]
        self.fit = common_fit(kind, by)
        self.soft = np.random.default_rng(5).dirichlet(np.full(self.num_classes, 0.7), size=len(self.x))

    @property
    def probs(self) -> np.ndarray:
        probs = self.fit.predict(self.x).probs.astype(float)
        return np.stack([1 - probs, probs], axis=1) if probs.ndim == 1 else probs


@pytest.fixture(scope="session")
def fitted(data_sets: dict[str, Any], common_fit: CommonFit) -> dict[str, Fitted]:
    names = [f"{kind} by {by}" for kind in OBSERVATIONS for by in METHODS]
    return {name: Fitted(name, data_sets, common_fit) for name in names}


@every_fit
def test_soft_labels_cost_their_entropy_and_the_divergence(name: str, fitted: dict[str, Fitted]) -> None:
    case = fitted[name]
    result = cross_entropy(case.fit, case.x, case.soft)
    assert result.total.shape == result.entropy.shape == result.kl.shape == (len(case.x),)
    np.testing.assert_allclose(result.entropy, entropy(case.soft, axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.kl, rel_entr(case.soft, case.probs).sum(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.total, -(case.soft * np.log(case.probs)).sum(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result.total, result.entropy + result.kl)


@every_fit
def test_hard_labels_cost_their_negative_log_likelihood_and_have_no_entropy(
    name: str, fitted: dict[str, Fitted]
) -> None:
    case = fitted[name]
    hard = cross_entropy(case.fit, case.x, case.y)
    np.testing.assert_array_equal(hard.entropy, 0.0)
    np.testing.assert_array_equal(hard.kl, -case.fit.predict(case.x).log_prob(case.y))
    np.testing.assert_array_equal(hard.total, hard.kl)
    one_hot = cross_entropy(case.fit, case.x, np.eye(case.num_classes)[case.y])
    for part in ("total", "entropy", "kl"):
        np.testing.assert_array_equal(getattr(one_hot, part), getattr(hard, part), err_msg=part)
    assert not np.signbit(one_hot.entropy).any()


@every_fit
def test_the_prediction_itself_costs_its_entropy_and_no_more(name: str, fitted: dict[str, Fitted]) -> None:
    case = fitted[name]
    probs = case.probs / case.probs.sum(axis=1, keepdims=True)
    result = cross_entropy(case.fit, case.x, probs)
    np.testing.assert_allclose(result.kl, 0.0, atol=1e-6)
    np.testing.assert_allclose(result.total, entropy(probs, axis=1), rtol=1e-5)
    assert (cross_entropy(case.fit, case.x, case.soft).kl > -1e-6).all()


def test_it_is_the_loss_that_the_fit_on_soft_labels_minimises(x64: None, data_sets: dict[str, Any]) -> None:
    x, _ = data_sets["classes"]
    y = np.random.default_rng(5).dirichlet(np.ones(3), size=len(x))
    fitted_model = fit(Model(MLP(), Categorical(3)), MLE(), x, y, key=0, progress=False)
    result = cross_entropy(fitted_model, x, y)
    np.testing.assert_allclose(result.total.sum(), explain(fitted_model.model, x, y, at=fitted_model).loss, rtol=1e-12)
    np.testing.assert_allclose(result.total, -fitted_model.log_likelihood(x, y)[0, 0], rtol=1e-12)
    np.testing.assert_allclose(result.entropy, entropy(y, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        result.kl, rel_entr(y, fitted_model.predict(x).probs).sum(axis=1), rtol=1e-10, atol=1e-12
    )
    frames = cross_entropy(fitted_model, pd.DataFrame(x), pd.DataFrame(y))
    np.testing.assert_array_equal(frames.total, result.total)


@pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")
def test_nothing_underflows(x64: None) -> None:
    """A class with probability exp(-4000) costs 4000 nats, although its probability is 0 in floating point."""
    x, y = np.array([[1.0], [-1.0]]), np.array([1, 0])
    model = Model(MLP(), Bernoulli(), gaussian(1e4))
    fitted_model = fit(model, MAP(num_steps=1, polish=False, init_strategy=_at_4000), x, y, key=0, progress=False)
    assert fitted_model.predict(x).probs[1] == 0
    result = cross_entropy(fitted_model, x, np.array([[0.25, 0.75], [0.25, 0.75]]))
    np.testing.assert_allclose(result.total, [1000.0, 3000.0], rtol=1e-4)
    np.testing.assert_allclose(result.entropy, entropy([0.25, 0.75]), rtol=1e-12)


def _at_4000(site: Any = None) -> Any:
    from numpyro.infer import init_to_value

    return init_to_value(site, values={"w1": jnp.array([[4000.0]]), "b1": jnp.zeros(1)})


X, BINARY, CLASSES = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2, np.arange(12) % 3
SOFT = np.random.default_rng(0).dirichlet(np.ones(3), size=12)


def put(y: np.ndarray, index: Any, value: Any) -> np.ndarray:
    y = np.array(y, float)
    y[index] = value
    return y


BAD: dict[str, tuple[str, Any, Any, type[Exception], str]] = {
    # fit, x, y
    "no fit": ("none", X, CLASSES, TypeError, "cross_entropy: expected a fit; got 'a fit'"),
    "y is a number": ("Normal", X, X[:, 0], TypeError, "cross_entropy: expected y to be a class; it can be .*[Rr]eal"),
    "probabilities of one class": (
        "Bernoulli",
        X,
        np.full(12, 0.3),
        ValueError,
        r"y, row 0: expected a class; got 0.3. Soft labels are rows .* np.stack\(\[1 - y, y\], axis=1\)",
    ),
    "another class": ("Categorical", X, CLASSES + 1, ValueError, "y, row 2: expected an integer from 0 to 2; got 3"),
    "too few classes": (
        "Categorical",
        X,
        SOFT[:, :2] / SOFT[:, :2].sum(axis=1, keepdims=True),
        ValueError,
        r"classes, shape \(12,\), or rows of probabilities, shape \(12, 3\); got \(12, 2\)",
    ),
    "too many classes": ("Bernoulli", X, SOFT, ValueError, r"rows of probabilities, shape \(12, 2\); got \(12, 3\)"),
    "too few rows": ("Categorical", X, SOFT[:5], ValueError, r"probabilities, shape \(12, 3\); got \(5, 3\)"),
    "too few labels": ("Categorical", X, CLASSES[:5], ValueError, "as many rows in y as in x, 12"),
    "not normalised": (
        "Categorical",
        X,
        put(SOFT, 3, [0.2, 0.2, 0.2]),
        ValueError,
        r"y, row 3: expected probabilities that sum to 1; got \[0.2",
    ),
    "negative": (
        "Categorical",
        X,
        put(SOFT, 3, [-0.5, 0.5, 1.0]),
        ValueError,
        "y, row 3: expected probabilities that sum to 1; got .-0.5",
    ),
    "NaN": ("Categorical", X, put(SOFT, (3, 1), np.nan), ValueError, "y, row 3, column 1: expected finite numbers"),
    "x of another width": (
        "Categorical",
        X[:, :1],
        CLASSES,
        ValueError,
        r"rows shaped \(2,\), as in the fit; got \(1,\)",
    ),
}


@pytest.fixture(scope="session")
def by_observation() -> dict[str, Any]:
    cases: dict[str, tuple[Any, Any]] = {
        "Bernoulli": (Bernoulli(), BINARY),
        "Categorical": (Categorical(3), CLASSES),
        "Normal": (Normal(1.0), X[:, 0]),
    }
    method = MAP(num_steps=5, polish=False)
    fits = {k: fit(Model(MLP(), o), method, X, y, key=0, progress=False) for k, (o, y) in cases.items()}
    return {**fits, "none": "a fit"}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises(name: str, by_observation: dict[str, Any]) -> None:
    which, x, y, error, message = BAD[name]
    with pytest.raises(error, match=message):
        cross_entropy(by_observation[which], x, y)


def test_its_parts_are_fields_and_cannot_be_changed() -> None:
    result = CrossEntropy(np.array([0.5]), np.array([0.25]))
    assert result.total == 0.75
    with pytest.raises(AttributeError):
        result.kl = np.zeros(1)  # type: ignore[misc]


# Soft labels are hard labels, replicated and weighted.

NUM_CLASSES = 3


def weighted(rows: dict[str, Array], y: Array | None = None) -> None:
    """Softmax regression on hard labels, each row with a weight of its own."""
    eta = MLP()(rows["x"], NUM_CLASSES, prior=gaussian(1.5))
    with numpyro.plate("row", len(eta)), scale(scale=rows["weight"]):
        numpyro.sample("y", dist.Categorical(logits=eta), obs=y)


def weighted_without_prior(rows: dict[str, Array], y: Array | None = None) -> None:
    """The same under a flat prior."""
    shapes = {"w1": (2, NUM_CLASSES), "b1": (NUM_CLASSES,)}
    w = {site: numpyro.sample(site, _flat(shape)) for site, shape in shapes.items()}
    with numpyro.plate("row", len(rows["x"])), scale(scale=rows["weight"]):
        numpyro.sample("y", dist.Categorical(logits=rows["x"] @ w["w1"] + w["b1"]), obs=y)


def _flat(shape: tuple[int, ...]) -> dist.Distribution:
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)).mask(False)


@pytest.mark.parametrize("key", [0, *(pytest.param(key, marks=pytest.mark.slow) for key in (1, 2))])
@pytest.mark.parametrize("method", [pytest.param(MAP, marks=pytest.mark.slow), MLE])
def test_a_fit_on_soft_labels_is_one_on_weighted_hard_labels(
    x64: None, method: Any, key: int, data_sets: dict[str, Any]
) -> None:
    """Row i with probabilities y_i is as many rows as there are classes, row (i, k) of class k and of weight y_ik."""
    x, _ = data_sets["classes"]
    soft = np.random.default_rng(key).dirichlet(np.ones(NUM_CLASSES), size=len(x))
    replicated = {"x": np.repeat(x, NUM_CLASSES, axis=0), "weight": soft.ravel()}
    hard = np.tile(np.arange(NUM_CLASSES), len(x))
    by_soft = fit(Model(MLP(), Categorical(NUM_CLASSES), gaussian(1.5)), method(), x, soft, key=key, progress=False)
    model = weighted if method is MAP else weighted_without_prior
    by_hard = fit(model, method(), replicated, hard, key=key, progress=False)
    assert by_soft.status.level == by_hard.status.level == "ok"

    np.testing.assert_allclose(
        explain(by_soft.model, x, soft, at=by_soft).total if method is MAP else _loss(by_soft, x, soft),
        explain(model, replicated, hard, at=by_hard).total,
        rtol=1e-8,
    )
    probs = by_soft.predict(x).probs
    np.testing.assert_allclose(probs, by_hard.predict(replicated).probs[::NUM_CLASSES], rtol=0, atol=1e-8)
    if method is MAP:  # without a prior the logits are known but for a constant a row
        for site, value in by_soft.draws.items():
            np.testing.assert_allclose(value, by_hard.draws[site], rtol=1e-8, atol=1e-8, err_msg=site)


def _loss(fitted_model: Fit, x: np.ndarray, y: np.ndarray) -> float:
    return explain(fitted_model.model, x, y, at=fitted_model).loss


@pytest.mark.usefixtures("x64")
def test_the_two_objectives_are_one_at_any_weights(data_sets: dict[str, Any]) -> None:
    x, _ = data_sets["classes"]
    soft = np.random.default_rng(7).dirichlet(np.ones(NUM_CLASSES), size=len(x))
    replicated = {"x": np.repeat(x, NUM_CLASSES, axis=0), "weight": soft.ravel()}
    hard = np.tile(np.arange(NUM_CLASSES), len(x))
    rng = np.random.default_rng(8)
    weights = {"w1": rng.normal(size=(2, NUM_CLASSES)), "b1": rng.normal(size=NUM_CLASSES)}
    one = explain(Model(MLP(), Categorical(NUM_CLASSES), gaussian(1.5)), x, soft, at=weights)
    other = explain(weighted, replicated, hard, at=weights)
    np.testing.assert_allclose([one.loss, one.penalty], [other.loss, other.penalty], rtol=1e-12)
    expected = -np.sum(soft * np.log(softmax(x @ weights["w1"] + weights["b1"], axis=1)))
    np.testing.assert_allclose(one.loss, expected, rtol=1e-12)
    assert other.terms[0].name == "softmax cross-entropy, each times its own weight"
    assert jax.tree.leaves(one.gradient_difference)[0] < 1e-10


# Code lengths.


@every_fit
def test_a_code_length_is_the_sum_of_minus_log2_p(name: str, fitted: dict[str, Fitted]) -> None:
    case = fitted[name]
    result = code_length(case.fit, case.x, case.y)
    expected = -np.log2(case.probs[np.arange(len(case.y)), case.y])
    np.testing.assert_allclose(result.bits, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.bits, cross_entropy(case.fit, case.x, case.y).total / math.log(2), rtol=1e-6)
    assert result.total == pytest.approx(expected.sum(), rel=1e-4)
    assert result.standard_error == pytest.approx(sem(expected) * len(expected), rel=1e-4)
    assert result.perplexity == pytest.approx(np.prod(2**expected) ** (1 / len(expected)), rel=1e-4)
    assert result.uniform == pytest.approx(len(case.y) * math.log2(case.num_classes))
    assert result.base_rate == pytest.approx(one_by_one(case.y.tolist(), case.num_classes))
    assert result.saved == pytest.approx(result.base_rate - result.total)
    table = result.to_dataframe()
    assert table["bits"].tolist() == [result.total, result.base_rate, result.uniform]
    np.testing.assert_allclose(table["bits_per_row"] * len(case.y), table["bits"])
    assert f"{len(case.y)} rows, each one of {case.num_classes} classes" in str(result)
    frames = code_length(case.fit, pd.DataFrame(case.x), pd.Series(case.y))
    np.testing.assert_array_equal(frames.bits, result.bits)


def one_by_one(labels: list[int], num_classes: int) -> float:
    """Krichevsky and Trofimov's code as it is told: label by label, in fractions."""
    counts, probability = [0] * num_classes, Fraction(1)
    for i, label in enumerate(labels):
        probability *= (counts[label] + Fraction(1, 2)) / (i + Fraction(num_classes, 2))
        counts[label] += 1
    return math.log2(probability.denominator) - math.log2(probability.numerator)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 6))
def test_the_adaptive_code_is_that_of_krichevsky_and_trofimov(data: st.DataObject, num_classes: int) -> None:
    """And its price for knowing nothing in advance is known: at most (K - 1) / 2 log2 n + log2 K bits."""
    labels = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=60))
    result = adaptive_bits(np.array(labels), num_classes)
    assert result == pytest.approx(one_by_one(labels, num_classes), rel=1e-10)
    known = len(labels) * entropy(np.bincount(labels), base=2)
    price = result - known
    assert -1e-9 <= price <= (num_classes - 1) / 2 * math.log2(len(labels)) + math.log2(num_classes) + 1e-9


def test_the_bits_of_a_density_are_relative_to_a_unit_cell(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["real"]
    model = Model(MLP(), Normal(0.5), gaussian(1.0))
    fitted_model = fit(
        model, MCLMC(num_warmup=20, num_samples=15, num_chains=2, start=None), x, y, key=0, progress=False
    )
    result = code_length(fitted_model, x, y)
    means = fitted_model.predict(x).component_means
    np.testing.assert_allclose(result.bits, -np.log2(norm.pdf(y, means, 0.5).mean(axis=0)), rtol=1e-4, atol=1e-5)
    assert result.uniform is result.base_rate is result.saved is None
    assert result.to_dataframe().index.tolist() == ["predictive"]
    assert "a density, relative to a cell of size 1" in str(result)
    assert "Saved" not in str(result)


def test_counts_are_values_and_have_no_uniform_code(by_hand: dict[str, Any]) -> None:
    problem = by_hand["dictionary"]
    fitted_model = fit(problem.model, MAP(num_steps=50), problem.x, problem.y, key=0, progress=False)
    result = code_length(fitted_model, problem.x, problem.y)
    expected = -poisson.logpmf(problem.y, fitted_model.predict(problem.x).mean) / math.log(2)
    np.testing.assert_allclose(result.bits, expected, rtol=1e-4)
    assert result.uniform is None
    assert "each a value." in str(result)
    assert "These are the rows of the fit; the cost of the fit itself is not included." in str(result)
    assert "the rows of the fit" not in str(code_length(fitted_model, problem.x, problem.y + 1))


def test_what_is_impossible_costs_infinitely_many_bits_and_is_printed() -> None:
    result = CodeLength(np.array([1.0, math.inf]), 2.0, 2.4, "one of 2 classes")
    assert result.total == result.perplexity == math.inf
    assert math.isnan(result.standard_error)
    assert result.saved == -math.inf
    assert "inf" in str(result)
    assert math.isnan(CodeLength(np.array([1.0]), 1.0, 1.0, "one of 2 classes").standard_error)
    assert CodeLength(np.full(3, 5000.0), None, None, "a value").perplexity == math.inf


BAD_CODES: dict[str, tuple[str, Any, Any, type[Exception], str]] = {
    # fit, x, y
    "no fit": ("none", X, CLASSES, TypeError, "code_length: expected a fit; got 'a fit'"),
    "soft labels": ("Categorical", X, SOFT, ValueError, r"code_length: expected one label per row.*; got \(12, 3\)"),
    "another class": ("Categorical", X, CLASSES + 1, ValueError, "y, row 2: expected an integer from 0 to 2; got 3"),
    "too few labels": ("Categorical", X, CLASSES[:5], ValueError, "as many rows in y as in x, 12"),
    "infinity": ("Normal", X, put(X[:, 0], 3, np.inf), ValueError, "y, row 3: expected finite numbers"),
}


@pytest.mark.parametrize("name", BAD_CODES)
def test_bad_input_of_a_code_raises(name: str, by_observation: dict[str, Any]) -> None:
    which, x, y, error, message = BAD_CODES[name]
    with pytest.raises(error, match=message):
        code_length(by_observation[which], x, y)
