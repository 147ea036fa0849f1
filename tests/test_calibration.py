"""Calibration, against other libraries, against simulation where the truth is known, and temperature scaling."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from flatprior.inference import MAP, MLE, NUTS, Fit, compare, fit
from flatprior.inference.criticism import Calibration, calibration, temperature_scaling
from flatprior.inference.criticism.bands import sum_of_events
from flatprior.inference.criticism.calibration import _of_classes, _of_transforms
from flatprior.inference.criticism.temperature import Tempered
from flatprior.inference.criticism.transforms import Transforms, edges_of
from flatprior.inference.plots import plot_calibration
from flatprior.models import MLP, Bernoulli, Model, fan_in, gaussian

from .tables import CommonFit, some_by_default

matplotlib.use("agg")
pytestmark = pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")
"""Fits of 20 steps need not be good ones, and classes of 12 rows may be separable: they are judged all the same."""

POINTS = ("MLE", "Ensemble")
OBSERVATIONS = {"Bernoulli": "Bernoulli", "Categorical": "Categorical", "Normal": "Normal, known scale"}
"""Their models."""
CASES = [
    pytest.param((observation, method), id=f"{observation} by {method}", marks=[pytest.mark.slow] * (method == "NUTS"))
    for observation in OBSERVATIONS
    for method in (*POINTS, "NUTS")
]
every_fit = pytest.mark.parametrize("case", CASES)
every_classifier = pytest.mark.parametrize("case", [case for case in CASES if "Normal" not in str(case.id)])


class Fitted:
    """A fit, 400 rows of its kind, and what it says of them in float64."""

    def __init__(self, case: tuple[str, str], common_fit: CommonFit) -> None:
        self.fit = common_fit(OBSERVATIONS[case[0]], case[1])
        rng = np.random.default_rng(1)
        self.x = rng.normal(size=(400, 2))
        self.predictive = self.fit.predict(self.x)
        if case[0] == "Normal":
            self.y = self.x @ [1.0, -0.5] + 0.3 + 0.4 * rng.normal(size=400)
            return
        self.probs = self.predictive.class_probs.astype(float)
        self.y = rng.integers(0, self.probs.shape[1], 400)


class WhenAsked(dict[tuple[str, str], Fitted]):
    """Case -> what was fitted, and nothing before it is asked for."""

    def __init__(self, common_fit: CommonFit) -> None:
        super().__init__()
        self.common_fit = common_fit

    def __missing__(self, case: tuple[str, str]) -> Fitted:
        self[case] = Fitted(case, self.common_fit)
        return self[case]


@pytest.fixture(scope="module")
def fitted(common_fit: CommonFit) -> dict[tuple[str, str], Fitted]:
    return WhenAsked(common_fit)


def logits_given(x: Array, y: Array | None = None) -> None:
    """Classes whose logits are the columns of x, whatever the weight: any probabilities that a test wants."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Categorical(logits=x + 0.0 * w), obs=y)


def normal_given(x: Array, y: Array | None = None) -> None:
    """Numbers whose mean and scale are the columns of x."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(x[:, 0] + 0.0 * w, x[:, 1]), obs=y)


@pytest.fixture(scope="module")
def given() -> dict[str, Fit]:
    """Fits that predict what x says."""
    x, method = np.ones((3, 2)), MAP(num_steps=1, polish=False)
    y = {"classes": (logits_given, np.array([0, 1, 1])), "numbers": (normal_given, np.zeros(3))}
    return {kind: fit(model, method, x, rows, key=0, progress=False) for kind, (model, rows) in y.items()}


def two_classes(rng: np.random.Generator, num_rows: int, sureness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too large by a factor, and classes by those that are not."""
    logit = 0.7 + rng.normal(scale=1.5, size=num_rows)
    y = (rng.random(num_rows) < expit(logit)).astype(int)
    return np.stack([np.zeros(num_rows), sureness * logit], axis=1), y


# The same numbers as elsewhere.


@every_classifier
def test_scores_are_those_of_scikit_learn(case: tuple[str, str], fitted: dict[Any, Fitted]) -> None:
    has = fitted[case]
    scores = calibration(has.fit, has.x, has.y).scores
    labels = np.arange(has.probs.shape[1])
    normalised = has.probs / has.probs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores["value"]["log_loss"], log_loss(has.y, normalised, labels=labels), rtol=1e-5)
    brier = brier_score_loss(has.y, normalised, labels=labels, scale_by_half=False)
    np.testing.assert_allclose(scores["value"]["brier"], brier, rtol=1e-5)
    right = has.probs.argmax(axis=1) == has.y
    np.testing.assert_allclose(scores["value"]["accuracy"], right.mean())
    np.testing.assert_allclose(scores["se"]["accuracy"], stats.sem(right.astype(float)))


@every_classifier
def test_the_curve_is_that_of_scikit_learn(case: tuple[str, str], fitted: dict[Any, Fitted]) -> None:
    has = fitted[case]
    for label in (None, 1):
        result = calibration(has.fit, has.x, has.y, label=label)
        forecast = has.probs.max(axis=1) if label is None else has.probs[:, label]
        outcome = (has.probs.argmax(axis=1) == has.y) if label is None else has.y == label
        frequency, mean = calibration_curve(outcome, forecast, n_bins=10, strategy="quantile")
        np.testing.assert_allclose(result.curve["forecast"], mean, rtol=1e-6)
        np.testing.assert_allclose(result.curve["frequency"], frequency)
        assert (result.curve["count"] == 40).all()
        np.testing.assert_allclose(
            result.scores["value"]["calibration_error"], np.abs(frequency - mean).mean(), rtol=1e-5
        )


@every_fit
def test_it_agrees_with_compare(case: tuple[str, str], fitted: dict[Any, Fitted]) -> None:
    has = fitted[case]
    scores = calibration(has.fit, has.x, has.y).scores["value"]
    row = compare({"it": has.fit}, has.x, has.y).to_dataframe().loc["it"]
    np.testing.assert_allclose(scores["log_loss"], -row["elpd"], rtol=1e-6)
    np.testing.assert_allclose(scores["calibration_error"], row["calibration_error"], rtol=1e-5)
    if case[0] != "Normal":
        np.testing.assert_allclose(scores["brier"], row["brier"], rtol=1e-5)


@every_classifier
@pytest.mark.parametrize("num_bins", [1, 7, 10])
def test_the_brier_score_comes_apart_exactly(case: tuple[str, str], num_bins: int, fitted: dict[Any, Fitted]) -> None:
    """400 rows do not come out even in 7 bins. The parts are written out again, term by term."""
    has = fitted[case]
    value = calibration(has.fit, has.x, has.y, num_bins=num_bins).scores["value"]
    parts = value["reliability"] - value["resolution"] + value["uncertainty"] + value["within"]
    np.testing.assert_allclose(parts, value["brier"], rtol=1e-12)
    reliability = resolution = uncertain = within = 0.0
    for k, p in enumerate(has.probs.T):
        o = (has.y == k).astype(float)
        uncertain += o.mean() * (1 - o.mean())
        for rows in np.array_split(np.argsort(p, kind="stable"), num_bins):
            share = len(rows) / len(o)
            reliability += share * (p[rows].mean() - o[rows].mean()) ** 2
            resolution += share * (o[rows].mean() - o.mean()) ** 2
            within += share * (np.var(p[rows]) - 2 * np.cov(p[rows], o[rows], ddof=0)[0, 1])
    expected = [reliability, resolution, uncertain, within]
    np.testing.assert_allclose(value[["reliability", "resolution", "uncertainty", "within"]], expected, atol=1e-12)


def test_numbers_are_those_of_scipy(given: dict[str, Fit]) -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=300), rng.uniform(0.5, 2.0, 300)], axis=1)
    y = rng.normal(x[:, 0], x[:, 1])
    result = calibration(given["numbers"], x, y)
    pit = stats.norm(*x.T).cdf(y)
    np.testing.assert_allclose(result.rows["pit"], pit, atol=1e-5)
    np.testing.assert_allclose(result.rows["log_loss"], -stats.norm(*x.T).logpdf(y), rtol=1e-4)
    low, high = np.stack(stats.norm(*x.T).interval(result.curve["forecast"].to_numpy()[:, None]))
    np.testing.assert_allclose(result.curve["frequency"], ((low <= y) & (y <= high)).mean(axis=1))
    assert result.histogram is not None
    np.testing.assert_allclose(result.histogram["frequency"], np.histogram(pit, 10, (0, 1))[0] / 300)
    np.testing.assert_allclose(result.histogram[["low", "high"]].iloc[0], np.array([22, 39]) / 300)
    half = stats.binom(300, 0.5)
    assert half.cdf(300 * result.curve["high"][4]) - half.cdf(300 * result.curve["low"][4] - 1) >= 0.9
    assert half.cdf(300 * result.curve["high"][4] - 1) - half.cdf(300 * result.curve["low"][4]) < 0.9


# Bands.


@pytest.mark.parametrize("count", [1, 2, 3, 10, 50])
def test_sums_of_events_are_those_of_scipy(count: int) -> None:
    probs = np.random.default_rng(count).beta(0.3, 0.3, count)
    expected = stats.poisson_binom(probs).pmf(np.arange(count + 1))
    np.testing.assert_allclose(sum_of_events(probs), expected, atol=1e-14)
    np.testing.assert_allclose(
        sum_of_events(np.full(count, 0.3)), stats.binom.pmf(np.arange(count + 1), count, 0.3), atol=1e-14
    )


def test_sums_of_many_events_keep_their_moments() -> None:
    probs = np.random.default_rng(0).random(20_001)
    mass, number = sum_of_events(probs), np.arange(20_002)
    np.testing.assert_allclose(mass @ number, probs.sum(), rtol=1e-10)
    np.testing.assert_allclose(mass @ (number - probs.sum()) ** 2, (probs * (1 - probs)).sum(), rtol=1e-8)


def test_certain_events_have_no_band(given: dict[str, Fit]) -> None:
    x = np.array([[0.0, 500.0]] * 20)
    result = calibration(given["classes"], x, (np.arange(20) != 3).astype(int), num_bins=1)
    assert result.curve[["forecast", "low", "high"]].to_numpy().tolist() == [[1.0, 1.0, 1.0]]
    assert result.curve["frequency"].item() == 0.95
    assert result.scores["value"]["calibration_error_if_calibrated"] < 1e-12
    wilson = stats.binomtest(19, 20).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(result.curve[["wilson_low", "wilson_high"]].iloc[0], wilson)


REPLICATES = 200


@pytest.mark.parametrize("key", some_by_default(range(3), 0))
def test_right_forecasts_are_found_right(key: int) -> None:
    """The same forecasts, classes drawn by them again and again: each claim about right ones."""
    rng = np.random.default_rng(key)
    x, _ = two_classes(rng, 300, 1.0)
    results = []
    for _ in range(REPLICATES):
        y = (rng.random(300) < expit(x[:, 1])).astype(int)
        results.append(calibrated(x, y))
    ece = np.array([t.scores["value"]["calibration_error"] for t in results])
    expected = results[0].scores.loc["calibration_error_if_calibrated"]
    squared = np.array([t.scores["value"]["squared_calibration_error_debiased"] for t in results])
    assert abs(ece.mean() - expected["value"]) < 4 * stats.sem(ece)
    assert abs(squared.mean()) < 4 * stats.sem(squared)
    assert ece.std() / expected["se"] == pytest.approx(1, abs=4 / np.sqrt(2 * REPLICATES))
    inside = np.mean(
        [t.curve["frequency"].between(t.curve["low"] - 1e-9, t.curve["high"] + 1e-9) for t in results], axis=0
    )
    # Sums of 30 events are coarse: the bands hold 90% or a little more.
    assert (inside > 0.9 - 4 * np.sqrt(0.09 / REPLICATES)).all(), inside
    assert (inside < 0.97 + 4 * np.sqrt(0.03 / REPLICATES)).all(), inside


def calibrated(logits: np.ndarray, y: np.ndarray) -> Calibration:
    """What `calibration` makes of these probabilities, without a fit that has them."""
    log_probs = log_softmax(logits, axis=1)
    return _of_classes(log_probs[np.arange(len(y)), y], np.exp(log_probs), y, None, 10)


@pytest.mark.parametrize("sureness", some_by_default([1.0, 2.5], 2.5))
def test_standard_errors_are_standard_deviations(sureness: float) -> None:
    """Over data sets drawn anew. Near 0 those of calibration errors are too large, as is said."""
    rng = np.random.default_rng(5)
    scores = [calibrated(*two_classes(rng, 400, sureness)).scores for _ in range(REPLICATES)]
    values, errors = (np.array([s[column] for s in scores]) for column in ("value", "se"))
    ratio = dict(zip(scores[0].index, np.sqrt((errors**2).mean(axis=0)) / values.std(axis=0), strict=True))
    exact = ["log_loss", "brier", "resolution", "uncertainty", "within", "accuracy"]
    near_0 = ["reliability", "calibration_error", "squared_calibration_error_debiased"]
    if sureness > 1:
        exact += near_0
    else:
        assert all(1.0 < ratio[name] < 2.0 for name in near_0), ratio
    for name in exact:
        assert ratio[name] == pytest.approx(1, abs=0.2), (name, ratio)


@pytest.mark.parametrize("sureness", some_by_default([0.5, 2.5]))
def test_the_debiased_error_is_that_of_a_million_rows(sureness: float) -> None:
    """While the plain one of 200 rows is too large."""
    rng = np.random.default_rng(6)
    draws = [calibrated(*two_classes(rng, 200, sureness)).scores["value"] for _ in range(REPLICATES)]
    logits, _ = two_classes(rng, 1_000_000, sureness)
    confidence = expit(np.abs(logits[:, 1]))
    right = expit(np.abs(logits[:, 1]) / sureness)
    bins = np.array_split(np.argsort(confidence), 10)
    gaps = np.array([(confidence - right)[rows].mean() for rows in bins])
    squared = np.array([d["squared_calibration_error_debiased"] for d in draws])
    ece = np.array([d["calibration_error"] for d in draws])
    # The edges of the bins of 200 rows vary, and with them what is averaged: a little is allowed for it.
    assert abs(squared.mean() - (gaps**2).mean()) < 4 * stats.sem(squared) + 0.03 * (gaps**2).mean()
    assert ece.mean() - np.abs(gaps).mean() > 4 * stats.sem(ece)


def _of_numbers(log_prob: np.ndarray, pit: np.ndarray, num_bins: int) -> Calibration:
    """The calibration of continuous forecasts, from their transforms."""
    return _of_transforms(log_prob, Transforms(np.stack([pit, pit], axis=1), edges_of(num_bins)), num_bins)


@pytest.mark.parametrize("rates", [(0.2, 1.0), pytest.param((2.0, 9.0), marks=pytest.mark.slow)])
def test_right_forecasts_of_counts_are_found_right(rates: tuple[float, float]) -> None:
    """Bands and expectations come from the exact variances of the shares, without random transforms."""
    rng, num_rows = np.random.default_rng(11), 400
    family = stats.poisson(rng.uniform(*rates, num_rows))
    edges = edges_of(10)
    at = family.ppf(edges[:, None])
    cells = np.stack([family.cdf(at - 1), family.cdf(at)], axis=-1)
    results = []
    for _ in range(REPLICATES):
        y = family.rvs(random_state=rng)
        ends = np.stack([family.cdf(y - 1), family.cdf(y)], axis=1)
        results.append(_of_transforms(np.zeros(num_rows), Transforms(ends, edges, cells), 10))
    error = np.array([t.scores["value"]["calibration_error"] for t in results])
    expected = results[0].scores.loc["calibration_error_if_calibrated"]
    assert abs(error.mean() - expected["value"]) < 4 * stats.sem(error)
    assert error.std() / expected["se"] == pytest.approx(1, abs=0.2)
    for tables in ([t.curve for t in results], [t.histogram for t in results]):
        frequency = np.array([table["frequency"] for table in tables])
        assert (np.abs(frequency.mean(axis=0) - frequency.mean(axis=0).round(1)) < 4 * stats.sem(frequency)).all()
        inside = np.mean([table["frequency"].between(table["low"], table["high"]) for table in tables], axis=0)
        assert (np.abs(inside - 0.9) < 4 * np.sqrt(0.09 / REPLICATES) + 0.01).all(), inside


@pytest.mark.parametrize("num_rows", some_by_default([50, 200], 50))
def test_right_intervals_are_found_right(num_rows: int) -> None:
    rng = np.random.default_rng(7)
    x = np.stack([rng.normal(size=num_rows), rng.uniform(0.5, 2.0, num_rows)], axis=1)
    results = [_of_numbers(np.zeros(num_rows), stats.norm(*x.T).cdf(rng.normal(*x.T)), 10) for _ in range(REPLICATES)]
    error = np.array([t.scores["value"]["calibration_error"] for t in results])
    expected = results[0].scores.loc["calibration_error_if_calibrated"]
    assert abs(error.mean() - expected["value"]) < 4 * stats.sem(error)
    assert error.std() / expected["se"] == pytest.approx(1, abs=0.2)
    inside = np.mean(
        [t.curve["frequency"].between(t.curve["low"] - 1e-9, t.curve["high"] + 1e-9) for t in results], axis=0
    )
    assert (inside > 0.9 - 4 * np.sqrt(0.09 / REPLICATES)).all(), inside


def test_wrong_intervals_are_found_wrong() -> None:
    rng = np.random.default_rng(8)
    x = np.stack([rng.normal(size=200), np.ones(200)], axis=1)
    results = [_of_numbers(np.zeros(200), stats.norm(*x.T).cdf(rng.normal(x[:, 0], 2.0)), 10) for _ in range(100)]
    error = np.array([t.scores["value"]["calibration_error"] for t in results])
    levels = np.arange(1, 10) / 10
    truth = np.abs(2 * stats.norm.cdf(stats.norm.ppf(0.5 + levels / 2) / 2) - 1 - levels).mean()
    assert abs(error.mean() - truth) < 4 * stats.sem(error)
    se = np.array([t.scores["se"]["calibration_error"] for t in results])
    assert np.sqrt((se**2).mean()) / error.std() == pytest.approx(1, abs=0.3)


# Fits.


@pytest.mark.slow
def test_the_mle_of_a_network_with_too_many_weights_is_surer_than_it_should_be() -> None:
    """Beyond what chance explains, in the mean over data sets; the data know nothing that would justify it."""
    model, excess, gap = Model(MLP((20,), "tanh"), Bernoulli(), prior=fan_in(1.0)), [], []
    for key in range(4):
        rng = np.random.default_rng(key)
        x = rng.normal(size=(560, 3))
        y = (rng.random(560) < expit(1.5 * x[:, 0])).astype(int)
        fitted_model = fit(model, MLE(num_steps=2000, polish=False), x[:60], y[:60], key=key, progress=False)
        result = calibration(fitted_model, x[60:], y[60:])
        scores = result.scores
        excess.append(
            (scores["value"]["calibration_error"] - scores["value"]["calibration_error_if_calibrated"])
            / scores["se"]["calibration_error_if_calibrated"]
        )
        gap.append((result.rows["forecast"] - result.rows["outcome"]).mean())
    assert min(excess) > 4, excess
    assert min(gap) > 0, "it is too sure, and not too little"


def line(x: Array, y: Array | None = None) -> None:
    """Logistic regression with a wide prior, of which the posterior of few rows is far from one point."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([3]).to_event(1))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w[:2] + w[2]), obs=y)


@pytest.mark.slow
def test_the_posterior_is_right_on_average_over_the_prior_and_the_mle_is_not() -> None:
    """Weights from the prior, 12 rows to fit, 40 to judge, again and again; one set of weights a data set.

    Rows of one data set share their weights, so that each data set is one observation of every bin.
    """
    edges, data_sets = np.linspace(0, 1, 6), 150
    totals = {"posterior": np.zeros((data_sets, 5)), "MLE": np.zeros((data_sets, 5))}
    methods = {
        "posterior": NUTS(num_warmup=150, num_samples=150, num_chains=1, start=None),
        "MLE": MLE(),
    }
    for i in range(data_sets):
        rng = np.random.default_rng(1000 + i)
        x, w = rng.normal(size=(52, 2)), rng.normal(scale=1.5, size=3)
        y = (rng.random(52) < expit(x @ w[:2] + w[2])).astype(int)
        for name, method in methods.items():
            rows = calibration(fit(line, method, x[:12], y[:12], key=i, progress=False), x[12:], y[12:], label=1).rows
            bins = np.digitize(rows["forecast"], edges[1:-1])
            totals[name][i] = np.bincount(bins, rows["forecast"] - rows["outcome"], minlength=5)
    z = {name: total.mean(axis=0) / stats.sem(total, axis=0) for name, total in totals.items()}
    assert (np.abs(z["posterior"]) < 4).all(), z
    assert np.abs(z["MLE"]).max() > 6, z


# Temperature.


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("true", [0.5, 3.0])
def test_the_temperature_is_found(num_classes: int, true: float) -> None:
    """Logits too large by a factor: it is estimated within its standard error, and is the best by SciPy's search."""
    fitted_model = fit(
        logits_given,
        MAP(num_steps=1, polish=False),
        np.ones((3, num_classes)),
        np.array([0, 1, 1]),
        key=0,
        progress=False,
    )
    z = []
    for key in range(40):
        rng = np.random.default_rng(key)
        logits = rng.normal(scale=1.5, size=(300, num_classes))
        y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        scaled = temperature_scaling(fitted_model, true * logits, y)
        z.append((scaled.temperature - true) / scaled.temperature_se)
        if key < 2:
            best = minimize_scalar(
                lambda log_t: log_loss(y, softmax(true * logits / np.exp(log_t), axis=1)),  # noqa: B023
                bounds=(-3, 3),
                method="bounded",
                options={"xatol": 1e-8},
            )
            np.testing.assert_allclose(scaled.temperature, np.exp(best.x), rtol=1e-4)
            predicted = scaled.predict(true * logits)
            expected = log_softmax(true * logits / scaled.temperature, axis=1)
            np.testing.assert_allclose(predicted.probs, np.exp(expected), atol=1e-5)
            np.testing.assert_allclose(predicted.log_prob(y), expected[np.arange(300), y], rtol=1e-4, atol=1e-5)
    assert np.std(z) == pytest.approx(1, abs=4 / np.sqrt(2 * 40))
    assert abs(np.mean(z)) < 4 / np.sqrt(40)


@every_classifier
def test_at_temperature_1_it_is_the_fit(case: tuple[str, str], fitted: dict[Any, Fitted]) -> None:
    has = fitted[case]
    sharper = np.cumsum(has.probs**2, axis=1) / (has.probs**2).sum(axis=1, keepdims=True)
    labels = (np.random.default_rng(2).random((400, 1)) > sharper).sum(axis=1)
    scaled = temperature_scaling(has.fit, has.x, labels)
    neutral = dataclasses.replace(scaled, temperature=1.0)
    np.testing.assert_allclose(neutral.predict(has.x).probs, has.predictive.probs, atol=1e-6)
    np.testing.assert_allclose(neutral.predict(has.x).log_prob(has.y), has.predictive.log_prob(has.y), atol=1e-5)
    assert neutral.predict(has.x).num_classes == has.predictive.num_classes
    both = [calibration(one, has.x, labels).scores["value"] for one in (has.fit, scaled)]
    assert both[0]["accuracy"] == both[1]["accuracy"], "the most probable class stays"
    assert both[1]["log_loss"] <= both[0]["log_loss"] + 1e-6
    assert "not the predictive distribution of the model" in repr(scaled)
    assert scaled.to_dataframe().loc["temperature"].to_dict() == {
        "value": scaled.temperature,
        "se": scaled.temperature_se,
    }
    assert "<table" in scaled._repr_html_()
    assert not isinstance(scaled, Fit)


# Pictures.


@pytest.mark.parametrize("what", ["curve", "histogram"])
def test_numbers_are_drawn(what: Any, fitted: dict[Any, Fitted]) -> None:
    results = {by: calibration(has.fit, has.x, has.y) for by in POINTS for has in [fitted["Normal", by]]}
    ax = plot_calibration(results, what=what)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(POINTS)
    ax.figure.draw_without_rendering()
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("label", [None, 1])
def test_classes_are_drawn_where_they_are(label: int | None, fitted: dict[Any, Fitted]) -> None:
    results = {
        by: calibration(has.fit, has.x, has.y, label=label) for by in POINTS for has in [fitted["Bernoulli", by]]
    }
    _, given_axes = matplotlib.pyplot.subplots()
    ax = plot_calibration(results, given_axes)
    assert ax is given_axes
    lines = {line.get_label(): line for line in ax.lines}
    for name, one in results.items():
        np.testing.assert_array_equal(lines[name].get_xydata(), one.curve[["forecast", "frequency"]])
    for style in ("get_color", "get_marker"):
        assert len({getattr(lines[name], style)() for name in results}) == len(results), style
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for one in results.values():
        assert one.curve["forecast"].between(left, right).all()
        assert one.curve["frequency"].between(low, high).all()
    single = plot_calibration(next(iter(results.values())))
    assert single.get_legend() is None
    matplotlib.pyplot.close("all")


# Bad input.


def test_bad_input_raises(fitted: dict[Any, Fitted], given: dict[str, Fit]) -> None:
    binary, classes, real = (fitted[kind, "MLE"] for kind in OBSERVATIONS)
    with pytest.raises(TypeError, match="calibration: expected a fit, or the result of temperature_scaling; got 'MLE'"):
        calibration("MLE", binary.x, binary.y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label to be a class, 0 to 2; got 3"):
        calibration(classes.fit, classes.x, classes.y, label=3)
    with pytest.raises(TypeError, match="expected no label with intervals of y; got 1"):
        calibration(real.fit, real.x, real.y, label=1)
    with pytest.raises(ValueError, match=r"at least 2 rows per bin, 20 rows; got 12. Give fewer num_bins"):
        calibration(binary.fit, binary.x[:12], binary.y[:12])
    with pytest.raises(ValueError, match="a positive integer as num_bins; got 0"):
        calibration(binary.fit, binary.x, binary.y, num_bins=0)
    with pytest.raises(ValueError, match=r"expected classes, shape \(400,\); got \(400, 3\)"):
        calibration(classes.fit, classes.x, classes.probs)
    with pytest.raises(ValueError, match="expected an integer from 0 to 2; got 3"):
        calibration(classes.fit, classes.x, classes.y + 1)
    with pytest.raises(TypeError, match="temperature_scaling: expected a fit; got None"):
        temperature_scaling(None, binary.x, binary.y)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected y to be a class; it can be"):
        temperature_scaling(real.fit, real.x, real.y)
    with pytest.raises(ValueError, match=r"y_validation: expected classes, shape \(400,\); got \(400, 3\)"):
        temperature_scaling(classes.fit, classes.x, classes.probs)
    with pytest.raises(ValueError, match=r"x_validation.*, row 0, column 0: expected finite"):
        temperature_scaling(binary.fit, np.where(np.arange(2) == 0, np.nan, binary.x), binary.y)
    with pytest.raises(TypeError, match="plot_calibration: expected a result of calibration"):
        plot_calibration({"it": binary.fit})  # type: ignore[dict-item]
    results = {"classes": calibration(binary.fit, binary.x, binary.y), "numbers": calibration(real.fit, real.x, real.y)}
    with pytest.raises(ValueError, match=r"calibrations of one quantity; got .*'confidence'.*'intervals'"):
        plot_calibration(results)
    with pytest.raises(ValueError, match="expected y to be a number for a histogram"):
        plot_calibration(results["classes"], what="histogram")
    with pytest.raises(ValueError, match="what to be one of curve, histogram; got 'bars'"):
        plot_calibration(results["numbers"], what="bars")  # type: ignore[arg-type]


def test_no_temperature_is_best_where_all_rows_are_right_or_the_fit_knows_nothing(given: dict[str, Fit]) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match="all or nearly all are classified correctly, and the smaller T the better"):
        temperature_scaling(given["classes"], x, x.argmax(axis=1))
    with pytest.raises(ValueError, match="the larger T the better"):
        temperature_scaling(given["classes"], x, x.argmin(axis=1))


def counts_and_grades(x: Array, y: Array | None = None) -> None:
    """Vectors of a count and a number that depend on one weight."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Poisson(jnp.exp(w + jnp.stack([x, 0 * x], axis=-1))).to_event(1), obs=y)


def grades(x: Array, y: Array | None = None) -> None:
    """Ordered classes."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.OrderedLogistic(w * x, jnp.array([-1.0, 0.5])), obs=y)


@pytest.mark.slow
def test_intervals_of_vectors_of_counts_with_gaps_and_of_ordered_classes() -> None:
    rng, x = np.random.default_rng(5), np.linspace(-1, 1, 60)
    y = rng.poisson(np.exp(np.stack([x, 0 * x], axis=1))).astype(float)
    y[:5, 0] = np.nan
    result = fit(counts_and_grades, MAP(num_steps=20, polish=False), x, y, key=0, progress=False)
    with pytest.raises(ValueError, match="expected output to be an element of y, 0 to 1; got None"):
        calibration(result, x, y)
    first, mean = calibration(result, x, y, output=0), result.predict(x).mean[:, 0]
    np.testing.assert_allclose(first.rows["pit_high"], stats.poisson(mean).cdf(y[:, 0])[5:], rtol=1e-4)
    assert len(first.rows) == 55
    assert "with probability about 90%" in first.notes[1]
    classes = rng.integers(0, 3, 60)
    ordered = fit(grades, MAP(num_steps=20, polish=False), x, classes, key=0, progress=False)
    by_pit = calibration(ordered, x, classes, quantity="intervals")
    np.testing.assert_allclose(by_pit.rows[["pit_low", "pit_high"]].T, ordered.predict(x).pit(classes), atol=1e-6)
    assert calibration(ordered, x, classes, num_bins=3).quantity == "confidence"
    with pytest.raises(TypeError, match="calibration: expected y to be a class"):
        calibration(result, x, y, quantity="confidence")
    with pytest.raises(TypeError, match="expected no label with intervals of y; got 1"):
        calibration(result, x, y, label=1)


def test_it_prints_as_a_table(fitted: dict[Any, Fitted]) -> None:
    has = fitted["Bernoulli", "MLE"]
    words = str(calibration(has.fit, has.x, has.y))
    for word in ("calibration_error_if_calibrated", "400 rows in 10 bins", "bins lie in the band"):
        assert word in words
    assert "<table" in calibration(has.fit, has.x, has.y)._repr_html_()


def test_the_rows_of_the_fit_are_noticed() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    own = fit(Model(MLP(), Bernoulli(), gaussian(1.0)), MAP(num_steps=5, polish=False), x, y, key=0, progress=False)
    with pytest.raises(ValueError, match="validation rows that the fit has not seen; got the rows that it was fitted"):
        temperature_scaling(own, x, y)
    assert "These are the rows of the fit: on rows that it has not seen" in str(calibration(own, x, y, num_bins=2))
    tempered = Tempered(own, 2.0, 0.1, 5)
    assert "These are the rows of the fit" in str(calibration(tempered, x, y, num_bins=2))
    assert "These are the rows of the fit" not in str(calibration(own, x, y[::-1], num_bins=2))
