"""Whether a maximum exists: told where it does not, and not told where it does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from scipy.optimize import linprog
from scipy.stats import norm

from flatprior.inference import MAP, MLE, fit, flat
from flatprior.inference.checks import check_problem
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

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


EDGE = "a few rows, scales from the network"
"""Found at the settings that users have; compiled without optimisation, the descent ends elsewhere and is not."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == EDGE)) for name in SICK])
def test_a_fit_without_a_maximum_has_failed(name: str, seed: int) -> None:
    model, method, rows, evidence = SICK[name]
    found = fit(model, method, *rows(np.random.default_rng(seed)), key=seed, progress=False)
    assert found.status.level == "failed"
    (reason,) = found.status.reasons
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


def twice_the_column(rng: np.random.Generator) -> Rows:
    x, y = noisy_labels(rng)
    return np.c_[x, x[:, :1]], y


HEALTHY = {
    "overlapping": (LOGISTIC, MLE(), noisy_labels),
    "steep": (LOGISTIC, MLE(), lambda rng: noisy_labels(rng, 500, slope=8.0)),
    "few rows": (LOGISTIC, MLE(), lambda rng: noisy_labels(rng, 25, slope=0.5)),
    "one row on the wrong side": (LOGISTIC, MLE(), one_row_on_the_wrong_side),
    "a rare class": (LOGISTIC, MLE(), rare_class),
    "a column twice": (LOGISTIC, MLE(), twice_the_column),
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
@pytest.mark.parametrize("name", HEALTHY)
def test_an_ordinary_fit_raises_no_alarm(name: str, seed: int) -> None:
    model, method, rows = HEALTHY[name]
    found = fit(model, method, *rows(np.random.default_rng(seed)), key=seed, progress=False)
    assert found.status.level == "ok", found.status


def has_no_maximum(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a logistic regression with intercept has no maximum: the definition of Albert & Anderson (1984)."""
    signed = np.c_[x, np.ones(len(x))] * np.where(y == 1, 1, -1)[:, None]
    best = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(x)), bounds=(-1, 1))
    return -best.fun > 1e-7


def test_small_data_sets_are_told_apart_as_by_the_definition() -> None:
    """Of data sets on a small grid of values many are separable, many in part, and many not."""
    rng = np.random.default_rng(5)
    told, true = [], []
    for _ in range(60):
        x, y = rng.integers(-2, 3, (8, 2)).astype(float), rng.integers(0, 2, 8)
        told.append(fit(LOGISTIC, MLE(), x, y, key=0, progress=False).status.level)
        true.append("failed" if has_no_maximum(x, y) else "ok")
    assert 5 < true.count("failed") < 55
    assert told == true


def test_predictions_under_a_flat_prior_know_y_from_a_latent_site() -> None:
    """`flat` masks sites that are not observed, and in a prediction y is not."""
    rng = np.random.default_rng(0)
    for model, (x, y) in ((LOGISTIC, noisy_labels(rng)), (SOFTMAX, three_classes(rng))):
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


def test_weights_that_are_as_large_as_the_digits_allow_are_told_as_such() -> None:
    """No loss is lowered any more, and none is named."""
    x = np.linspace(-2, 2, 20)[:, None]
    method = MLE(optimizer=optax.sgd(1e3), num_steps=50, polish=False)
    evidence = {"(the classes are separable)": (x[:, 0] > 0).astype(int), "y is 1 in all 20 rows": np.ones(20, int)}
    for told, y in evidence.items():
        status = fit(LOGISTIC, method, x, y, key=0, progress=False).status
        assert status.level == "failed"
        assert f"{told}, and the weights are already so large" in str(status)
