"""Whether a maximum exists: told where it does not, and not told where it does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from scipy.optimize import linprog
from scipy.stats import norm

from flatprior.inference import MAP, MLE, Ensemble, fit, flat
from flatprior.inference.checks import check_problem
from flatprior.inference.reasons import Code
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, Poisson, gaussian

from .tables import some_by_default

Rows = tuple[np.ndarray, np.ndarray]
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
LOGISTIC = Model(MLP(), Bernoulli(), gaussian(1.0))
SOFTMAX = Model(MLP(), Categorical(3), gaussian(1.0))
LEARNED = Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0))


def improper(x: Any, y: Any = None) -> None:
    """Logistic regression with flat priors written by hand."""
    w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def features(rng: np.random.Generator, n: int, d: int = 2) -> np.ndarray:
    return rng.normal(size=(n, d))


def noisy_labels(rng: np.random.Generator, n: int = 80, slope: float = 1.0) -> Rows:
    x = features(rng, n)
    return x, (slope * x @ [1.0, -0.5] + rng.logistic(size=n) > 0).astype(int)


def separable(rng: np.random.Generator) -> Rows:
    x = features(rng, 80)
    return x, (x @ [1.0, -0.5] > 0).astype(int)


def separable_in_part(rng: np.random.Generator) -> Rows:
    """A feature whose rows, where it is 1, are all of class 1; elsewhere the classes overlap."""
    x, y = noisy_labels(rng)
    mark = rng.integers(0, 2, len(y))
    return np.c_[x, mark], np.where(mark == 1, 1, y)


def three_classes(rng: np.random.Generator, n: int = 90) -> Rows:
    x = features(rng, n)
    return x, np.argmax(x @ [[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]] + rng.gumbel(size=(n, 3)), axis=1)


def without_class(label: int) -> Callable[[np.random.Generator], Rows]:
    def make(rng: np.random.Generator) -> Rows:
        x, y = three_classes(rng)
        return x[y != label], y[y != label]

    return make


def softmax_in_part(rng: np.random.Generator) -> Rows:
    """A feature whose rows, where it is 1, are never of class 2."""
    x, y = three_classes(rng)
    mark = rng.integers(0, 2, len(y))
    return np.c_[x, mark], np.where((mark == 1) & (y == 2), 0, y)


def line(noise: float, n: int = 60) -> Callable[[np.random.Generator], Rows]:
    def make(rng: np.random.Generator) -> Rows:
        x = features(rng, n)
        return x, x @ [1.0, -0.5] + 0.3 + noise * rng.normal(size=n)

    return make


def of_one_class(rng: np.random.Generator) -> Rows:
    return features(rng, 50), np.ones(50, int)


def constant(rng: np.random.Generator) -> Rows:
    return features(rng, 50), np.full(50, 2.5)


SICK = {
    "separable": (LOGISTIC, MLE(), separable, "all 80 rows are classified correctly"),
    "separable, a network": (Model(MLP((8,), "tanh"), Bernoulli()), MLE(), separable, "classified correctly"),
    "separable, flat priors by hand": (improper, MAP(), separable, "classified correctly"),
    "separable, too many weights to polish": (Model(MLP((64, 64)), Bernoulli()), MLE(), separable, "correctly"),
    "one class": (LOGISTIC, MLE(), of_one_class, "y is 1 in all 50 rows"),
    "one class of three": (SOFTMAX, MLE(), of_one_class, "y is 1 in all 50 rows"),
    "no row of class 1": (SOFTMAX, MLE(), without_class(1), "class 1 occurs in none"),
    "no row of class 2": (SOFTMAX, MLE(), without_class(2), "class 2 occurs in none"),
    "separable in part": (LOGISTIC, MLE(), separable_in_part, "separable in part"),
    "separable in part, flat priors by hand": (improper, MAP(), separable_in_part, "separable in part"),
    "separable from one class in part": (SOFTMAX, MLE(), softmax_in_part, "separable in part"),
    "met exactly": (LEARNED, MLE(), line(0.0), "grows without bound"),
    "met exactly, under a prior": (LEARNED, MAP(), line(0.0, n=3), "grows without bound"),
    "fewer rows than weights": (LEARNED, MLE(), line(1.0, n=3), "grows without bound"),
    "constant": (LEARNED, MLE(), constant, "grows without bound"),
    "a few rows, scales from the network": (Model(MLP((16, 16)), Normal()), MLE(), line(1.0, n=6), "without bound"),
}


USUAL = ("separable", "one class")
"""One of each kind of evidence. "A few rows" are recognised at the settings that users have, where all is optimised."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", some_by_default(SICK, *USUAL, "met exactly, under a prior"))
def test_a_fit_without_a_maximum_has_failed(name: str, seed: int) -> None:
    model, method, rows, evidence = SICK[name]
    result = fit(model, method, *rows(np.random.default_rng(seed)), key=seed, progress=False)
    assert result.status.level == "failed"
    (reason,) = result.status.reasons
    assert str(reason).startswith("There is no maximum")
    assert evidence in str(reason)
    assert "prior" in str(reason)  # the remedy


def rare_class(rng: np.random.Generator) -> Rows:
    """Three of 200 rows, in the midst of the others."""
    x = features(rng, 200)
    return x, np.isin(np.argsort(np.argsort(np.abs(x).sum(axis=1))), (1, 2, 3)).astype(int)


def one_row_on_the_wrong_side(rng: np.random.Generator) -> Rows:
    x, y = separable(rng)
    x[0] = -2 * x[1:][y[1:] == y[0]].mean(axis=0)
    return x, y


HEALTHY = {
    "overlapping": (LOGISTIC, MLE(), noisy_labels),
    "steep": (LOGISTIC, MLE(), lambda rng: noisy_labels(rng, 500, slope=8.0)),
    "few rows": (LOGISTIC, MLE(), lambda rng: noisy_labels(rng, 25, slope=0.5)),
    "one row on the wrong side": (LOGISTIC, MLE(), one_row_on_the_wrong_side),
    "a rare class": (LOGISTIC, MLE(), rare_class),
    "three classes": (SOFTMAX, MLE(), three_classes),
    "flat priors by hand": (improper, MAP(), noisy_labels),
    "separable under a prior": (LOGISTIC, MAP(), separable),
    "separable in part under a prior": (LOGISTIC, MAP(), separable_in_part),
    "one class under a prior": (LOGISTIC, MAP(), of_one_class),
    "no row of class 1 under a prior": (SOFTMAX, MAP(), without_class(1)),
    "noise": (LEARNED, MLE(), line(1.0)),
    "little noise": (LEARNED, MLE(), line(1e-3)),
    "very little noise": (LEARNED, MLE(), line(1e-4)),
    "scales from the network": (Model(MLP(), Normal()), MLE(), line(0.3, n=200)),
    "a known scale met exactly": (Model(MLP(), Normal(1e-3)), MLE(), line(0.0)),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "name",
    some_by_default(HEALTHY, "overlapping", "one row on the wrong side", "noise"),
)
def test_an_ordinary_fit_raises_no_alarm(name: str, seed: int) -> None:
    model, method, rows = HEALTHY[name]
    result = fit(model, method, *rows(np.random.default_rng(seed)), key=seed, progress=False)
    assert result.status.level == "ok", result.status


def of_groups(family: Callable[[Any], dist.Distribution]) -> Callable[..., None]:
    """A regression written by hand, with a weight for each column."""

    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", family(x @ w), obs=y)

    return model


def dispersed(x: Any, y: Any = None) -> None:
    """Counts whose variance is larger than their mean, by a concentration to be learned."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    concentration = numpyro.sample("concentration", dist.Gamma(1.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(x @ w), concentration), obs=y)


def coin(x: Any, y: Any = None) -> None:
    p = numpyro.sample("p", dist.Uniform(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


GROUP = np.arange(60) % 3
DUMMIES = np.eye(3)[GROUP]
COUNTS = of_groups(lambda eta: dist.Poisson(jnp.exp(eta)))
TENS = of_groups(lambda eta: dist.Binomial(10, logits=eta))
PROBS = of_groups(lambda eta: dist.Bernoulli(probs=jax.nn.sigmoid(eta)))


def groups(draw: Callable[[np.random.Generator], np.ndarray], limit: int, others: int = 0) -> Callable[..., Rows]:
    """Three groups with a weight each, and a covariate; y is `limit` in the last group, except in some rows."""

    def make(rng: np.random.Generator) -> Rows:
        y = np.where(GROUP == 2, limit, draw(rng))
        y[np.flatnonzero(GROUP == 2)[:others]] = 1 if limit == 0 else limit - 1
        return np.c_[DUMMIES, rng.normal(size=60)], y

    return make


def against_the_last(rows: Callable[..., Rows]) -> Callable[..., Rows]:
    """The same groups as contrasts with the last one, whose weight is now the intercept."""

    def make(rng: np.random.Generator) -> Rows:
        x, y = rows(rng)
        return np.c_[np.ones(60), x[:, [0, 1, 3]]], y

    return make


def poisson(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(2.0, 60)


def binomial(rng: np.random.Generator) -> np.ndarray:
    return rng.binomial(10, 0.5, 60)


def binary(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2, 60)


def evenly(rng: np.random.Generator) -> Rows:
    """Counts with less than the variance of a Poisson."""
    return np.c_[DUMMIES, rng.normal(size=60)], 3 + GROUP


def unevenly(rng: np.random.Generator) -> Rows:
    return np.c_[DUMMIES, rng.normal(size=60)], rng.negative_binomial(2, 2 / (2 + np.exp(1 + 0.3 * GROUP)))


def tossed(heads: int) -> Callable[[np.random.Generator], Rows]:
    return lambda rng: (np.zeros((20, 1)), (np.arange(20) < heads).astype(int))


FAMILIES = {
    "a group of zeros": (COUNTS, MLE(), groups(poisson, 0), groups(poisson, 0, 1), "along -w[2]"),
    "a group of zeros, as the intercept": (
        COUNTS,
        MLE(),
        against_the_last(groups(poisson, 0)),
        against_the_last(groups(poisson, 0, 1)),
        "w[0]",
    ),
    "a group of tens of ten": (TENS, MLE(), groups(binomial, 10), groups(binomial, 10, 1), "along w[2]"),
    "a group of ones, by probabilities": (PROBS, MLE(), groups(binary, 1), groups(binary, 1, 1), "along w[2]"),
    "without a polish": (  # after 2,000 steps, ten further ones show no more than that these are too few
        COUNTS,
        MLE(polish=False, num_steps=5000),
        groups(poisson, 0),
        groups(poisson, 0, 1),
        "along -w[2]",
    ),
    "by batches": (COUNTS, MLE(batch_size=20), groups(poisson, 0), groups(poisson, 0, 1), "along -w[2]"),
    "an ensemble": (COUNTS, Ensemble(MLE(), num_members=2), groups(poisson, 0), groups(poisson, 0, 1), "along -w[2]"),
    "overdispersion": (dispersed, MLE(), evenly, unevenly, "along unconstrained concentration"),
}
"""Model, method, data without a maximum, near neighbours with one, and the direction along which the loss falls."""
RARE = (
    "a group of tens of ten",
    "without a polish",
    "by batches",
    "an ensemble",
    "overdispersion",
    "a group of ones, by probabilities",
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in FAMILIES])
def test_the_likelihood_of_any_family_may_have_no_maximum(name: str, seed: int) -> None:
    model, method, sick, healthy, direction = FAMILIES[name]
    result = fit(model, method, *sick(np.random.default_rng(seed)), key=seed, progress=False)
    assert result.status.level == "failed"
    assert "There is no maximum: the loss falls for ever along" in str(result.status)
    assert direction in str(result.status)
    assert "With a proper prior, as in MAP, a maximum exists." in str(result.status)
    result = fit(model, method, *healthy(np.random.default_rng(seed)), key=seed, progress=False)
    assert result.status.level == "ok", result.status


@pytest.mark.parametrize("case", some_by_default(["a group of zeros", "a column twice"], "a column twice"))
def test_a_proper_prior_is_the_cure(case: str) -> None:
    rng = np.random.default_rng(0)
    twice = beside(lambda x: x[:, 0])(rng)
    model, rows = (COUNTS, groups(poisson, 0)(rng)) if "zeros" in case else (KNOWN, (twice, answers(KNOWN, twice, rng)))
    assert fit(model, MAP(), *rows, key=0, progress=False).status.level == "ok"


def test_a_maximum_at_the_boundary_is_named() -> None:
    """20 heads of 20: the maximum is at 1, which no logit reaches; of 19 heads it is at 0.95."""
    result = {
        heads: fit(coin, MLE(), *tossed(heads)(np.random.default_rng(0)), key=0, progress=False) for heads in (19, 20)
    }
    assert result[19].status.level == "ok"
    np.testing.assert_allclose(result[19].draws["p"], 0.95, rtol=1e-5)
    assert result[20].status.codes == (Code.AT_BOUNDARY,)
    assert "of the support of 'p'" in str(result[20].status)


def beside(*columns: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.random.Generator], np.ndarray]:
    """Two columns, and others computed from them."""

    def make(rng: np.random.Generator) -> np.ndarray:
        x = features(rng, 60)
        return np.c_[x, *(column(x) for column in columns)]

    return make


KNOWN, LOGS = Model(MLP(), Normal(0.5), gaussian(1.0)), Model(MLP(), Poisson(), gaussian(1.0))
MANY_MAXIMA = {
    "a column twice": (KNOWN, beside(lambda x: x[:, 0]), "w1[0, 0] - w1[2, 0]"),
    "a sum of columns": (KNOWN, beside(lambda x: x.sum(axis=1)), "w1[0, 0] + w1[1, 0] - w1[2, 0]"),
    "a constant column": (KNOWN, beside(lambda x: 0 * x[:, 0] + 2.0), "b1[0] - 0.5 w1[2, 0]"),
    "a column of zeros": (KNOWN, beside(lambda x: 0 * x[:, 0]), "w1[2, 0]"),
    "dummies beside an intercept": (KNOWN, lambda rng: DUMMIES, "b1[0] - w1[0, 0] - w1[1, 0] - w1[2, 0]"),
    "a column twice, learned scale": (LEARNED, beside(lambda x: x[:, 0]), "w1[0, 0] - w1[2, 0]"),
    "a column twice, counts": (LOGS, beside(lambda x: x[:, 0]), "w1[0, 0] - w1[2, 0]"),
    "a column twice, labels": (LOGISTIC, beside(lambda x: x[:, 0]), "w1[0, 0] - w1[2, 0]"),
    "more columns than rows": (KNOWN, lambda rng: features(rng, 4, 6), "w1["),
}


def answers(model: Any, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    eta = x[:, 0] / 2
    if model is LOGISTIC or model is SOFTMAX:
        return rng.integers(0, 2 if model is LOGISTIC else 3, len(x))
    return rng.poisson(np.exp(eta)) if model is LOGS else eta + 0.5 * rng.normal(size=len(x))


def terms(words: str) -> set[str]:
    """The terms of a direction, whose sign is arbitrary: that of the first in order is made +."""
    signed = words.replace("- ", "+ -").split(" + ")
    first = min(signed, key=lambda term: term.lstrip("-"))
    turned = [term[1:] if term.startswith("-") else f"-{term}" for term in signed]
    return set(turned if first.startswith("-") else signed)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (each[0] is not KNOWN)) for name, each in MANY_MAXIMA.items()],
)
def test_many_maxima_are_named_by_their_direction(name: str) -> None:
    model, columns, direction = MANY_MAXIMA[name]
    rng = np.random.default_rng(0)
    x = columns(rng)
    y = answers(model, x, rng)
    result = fit(model, MLE(), x, y, key=0, progress=False)
    assert result.status.codes == (Code.NOT_UNIQUE,), result.status
    (reason,) = result.status.reasons
    if name == "more columns than rows":
        assert "along 3 of the directions" in str(reason)
    else:
        assert terms(reason.numbers["direction"]) == terms(direction)


def test_columns_that_are_nearly_the_same_have_one_maximum() -> None:
    rng = np.random.default_rng(0)
    x = beside(lambda x: x[:, 0] + 1e-3 * x[:, 1] ** 2)(rng)
    result = fit(KNOWN, MLE(), x, answers(KNOWN, x, rng), key=0, progress=False)
    assert result.status.level == "ok", result.status


def test_predictions_of_all_maxima_are_the_same() -> None:
    """Where the same relation holds between the columns, as the message states."""
    rng = np.random.default_rng(0)
    x = beside(lambda x: x[:, 0])(rng)
    y = answers(KNOWN, x, rng)
    first, second = (fit(KNOWN, MLE(), x, y, key=key, progress=False) for key in (0, 1))
    assert np.abs(first.draws["w1"] - second.draws["w1"]).max() > 0.01
    np.testing.assert_allclose(first.predict(x).mean, second.predict(x).mean, atol=1e-4)


@pytest.mark.parametrize("method", [MLE(), pytest.param(MAP(), marks=pytest.mark.slow)], ids=["MLE", "MAP"])
@pytest.mark.parametrize("slope", [3.0, pytest.param(0.01, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [pytest.param("learned", marks=pytest.mark.slow), "by hand"])
def test_a_line_is_met_exactly_however_the_scale_is_written(method: Any, slope: float, scale: str) -> None:
    """As the scale goes to 0 the density grows without bound, also under a HalfNormal prior, which is not 0 there."""

    def by_hand(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(w[0] + w[1] * x[:, 0], scale), obs=y)

    x = np.linspace(-1, 1, 20)[:, None]
    model = LEARNED if scale == "learned" else by_hand
    status = fit(model, method, x, slope * x[:, 0] + 1, key=0, progress=False).status
    assert status.codes == (Code.UNBOUNDED_DENSITY,), status


def test_noise_of_five_digits_has_a_maximum() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 20)[:, None]
    y = 3 * x[:, 0] + 1 + 1e-5 * rng.normal(size=20)
    assert Code.UNBOUNDED_DENSITY not in fit(LEARNED, MLE(), x, y, key=0, progress=False).status.codes


def has_no_maximum(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a logistic regression with intercept has no maximum: the definition of Albert & Anderson (1984)."""
    signed = np.c_[x, np.ones(len(x))] * np.where(y == 1, 1, -1)[:, None]
    best = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(x)), bounds=(-1, 1))
    return -best.fun > 1e-7


@pytest.mark.slow
def test_small_data_sets_are_distinguished_as_by_the_definition() -> None:
    """Of data sets on a small grid of values many are separable, many in part, and many not."""
    rng = np.random.default_rng(5)
    levels, true = [], []
    for _ in range(60):
        x, y = rng.integers(-2, 3, (8, 2)).astype(float), rng.integers(0, 2, 8)
        levels.append(fit(LOGISTIC, MLE(), x, y, key=0, progress=False).status.level)
        true.append("failed" if has_no_maximum(x, y) else "ok")
    assert 5 < true.count("failed") < 55
    assert levels == true


@pytest.mark.parametrize("model", [LOGISTIC, pytest.param(SOFTMAX, marks=pytest.mark.slow)], ids=["two", "three"])
def test_predictions_under_a_flat_prior_know_y_from_a_latent_site(model: Model) -> None:
    """`flat` masks sites that are not observed, and in a prediction y is not."""
    x, y = (noisy_labels if model is LOGISTIC else three_classes)(np.random.default_rng(0))
    mle = fit(model, MLE(), x, y, key=0, progress=False).predict(x)
    same = fit(flat(model), MAP(), x, y, key=0, progress=False).predict(x)
    np.testing.assert_array_equal(same.probs, mle.probs)
    np.testing.assert_array_equal(same.log_prob(y), mle.log_prob(y))


def test_after_a_fit_by_batches_a_few_rows_at_a_time_are_looked_at(x64: None) -> None:
    """300 rows in parts of 128, 128 and 44: the same numbers as of all at once, the loss by its definition."""
    x, y = noisy_labels(np.random.default_rng(0), 300)
    density, data = check_problem(LOGISTIC, x, y)
    whole, parts = (MAP(batch_size=size).surface(density, data) for size in (None, 32))
    u = {"w1": np.array([[2.0], [1.0]]), "b1": np.array([0.5])}
    eta = x @ [2.0, 1.0] + 0.5
    log_probs = -np.logaddexp(0.0, np.where(y, -eta, eta))
    log_prior = norm.logpdf([2.0, 1.0, 0.5]).sum()
    for surface in (whole, parts):
        each, loss = surface.log_likelihood_and_loss(u, data)
        np.testing.assert_allclose(each, log_probs, rtol=1e-12)
        np.testing.assert_allclose(surface.log_likelihood(u, data), log_probs, rtol=1e-12)
        np.testing.assert_allclose(loss, -(log_probs.sum() + log_prior) / 300, rtol=1e-12)
        np.testing.assert_allclose(surface.loss(u, data), loss, rtol=1e-12)
        np.testing.assert_allclose(surface.logits(u, data)[:, 1], eta, rtol=1e-12)


def test_weights_that_are_as_large_as_the_digits_allow_are_reported_as_such() -> None:
    """No loss is lowered any more, and none is named."""
    x = np.linspace(-2, 2, 20)[:, None]
    method = MLE(optimizer=optax.sgd(1e3), num_steps=50, polish=False)
    evidence = {"(the classes are separable)": (x[:, 0] > 0).astype(int), "y is 1 in all 20 rows": np.ones(20, int)}
    for levels, y in evidence.items():
        status = fit(LOGISTIC, method, x, y, key=0, progress=False).status
        assert status.level == "failed"
        assert f"{levels}, and the weights are already so large" in str(status)
