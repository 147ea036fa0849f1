"""Every kind of y in every verb: it works, or a sentence says why not."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array

from flatprior.inference import MLE, Fit, compare, fit
from flatprior.inference.criticism import calibration, uncertainty
from flatprior.inference.information import code_length, compress, decompress
from flatprior.inference.objective import explain
from flatprior.inference.plots import plot_calibration, plot_compare, plot_fit

NUM_ROWS = 40
X = np.linspace(-1.0, 1.0, NUM_ROWS).astype(np.float32)
COVARIANCE = np.array([[1.0, 0.3], [0.3, 0.5]], np.float32)


def both(eta: Array) -> Array:
    """The same for each of two elements."""
    return jnp.stack([eta, -eta], axis=-1)


def third(eta: Array) -> Array:
    """Every third row."""
    return jnp.arange(len(eta)) % 3 == 0


KINDS: dict[str, Callable[[Array], dist.Distribution]] = {
    "Bernoulli": lambda eta: dist.Bernoulli(logits=eta),
    "Categorical": lambda eta: dist.Categorical(logits=eta[:, None] * jnp.arange(3.0)),
    "ordered classes": lambda eta: dist.OrderedLogistic(eta, jnp.array([-1.0, 1.0])),
    "Poisson": lambda eta: dist.Poisson(jnp.exp(eta)),
    "negative binomial": lambda eta: dist.NegativeBinomial2(jnp.exp(eta), 2.0),
    "zero-inflated": lambda eta: dist.ZeroInflatedPoisson(0.3, jnp.exp(eta + 1.0)),
    "binomial": lambda eta: dist.Binomial(5, logits=eta),
    "Normal": lambda eta: dist.Normal(eta, 0.5),
    "Student-t": lambda eta: dist.StudentT(4.0, eta, 0.5),
    "LogNormal": lambda eta: dist.LogNormal(eta, 0.5),
    "Beta": lambda eta: dist.Beta(jnp.exp(eta), 2.0),
    "right-censored": lambda eta: dist.RightCensoredDistribution(
        dist.Weibull(jnp.exp(eta), 1.5), jnp.arange(len(eta)) % 3 == 0
    ),
    "vector": lambda eta: dist.Normal(both(eta), 0.5).to_event(1),
    "multivariate Normal": lambda eta: dist.MultivariateNormal(both(eta), COVARIANCE),
    "Dirichlet": lambda eta: dist.Dirichlet(jnp.exp(both(eta)) + 1.0),
    "vector of counts": lambda eta: dist.Poisson(jnp.exp(both(eta))).to_event(1),
    "von Mises": lambda eta: dist.VonMises(eta, 2.0),
}
VECTORS = {"vector", "multivariate Normal", "Dirichlet", "vector of counts"}
COUNTS = {"Poisson", "negative binomial", "zero-inflated", "binomial"}
CLASSES = {"Bernoulli", "Categorical", "ordered classes"}


def model_of(name: str) -> Callable[..., None]:
    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", KINDS[name](w * x), obs=y)

    return model


@cache
def fitted(name: str) -> tuple[Fit, np.ndarray]:
    """Rows of y drawn from the model, and its fit to them."""
    with numpyro.handlers.seed(rng_seed=1):
        y = np.asarray(KINDS[name](0.8 * jnp.asarray(X)).sample(numpyro.prng_key()))
    return fit(model_of(name), MLE(num_steps=30, polish=False), X, y, key=0, progress=False), y


NO_CDF = {
    "Bernoulli": "y is 0 or 1; use probs",
    "Categorical": "y is a class, and classes have no order",
    "von Mises": "VonMises has no cdf",
}
NO_MOMENTS = dict.fromkeys(("Categorical", "ordered classes"), "y is a class, and classes have no")
CONTINUOUS = {
    "Normal",
    "Student-t",
    "LogNormal",
    "Beta",
    "right-censored",
    "vector",
    "multivariate Normal",
    "Dirichlet",
}
NOT_BY_POINTS = "y is a class; use probs"
REFUSED: dict[str, dict[str, str]] = {
    "mean": NO_MOMENTS,
    "std": NO_MOMENTS,
    "probs": dict.fromkeys(KINDS.keys() - CLASSES, "not one of a finite set of values"),
    "cdf": NO_CDF,
    "interval": NO_CDF,
    "pit": NO_CDF,
    "crps": {
        **NO_CDF,
        "Categorical": NOT_BY_POINTS,
        "ordered classes": NOT_BY_POINTS,
        "right-censored": "y may be a bound",
    },
    "mode": {
        **dict.fromkeys({*CONTINUOUS, "von Mises"}, "its density over draws may have many maxima"),
        "vector of counts": "y is a vector, whose elements depend on one another",
    },
    "sample": {},
    "log_prob": {},
    "compare": {},
    "calibration": {
        "von Mises": "VonMises has no cdf",
        **dict.fromkeys(VECTORS, "expected output to be an element of y, 0 to 1; got None"),
    },
    "uncertainty": {},
    "explain": {},
    "code_length": {},
    "compress": {
        **dict.fromkeys({*CONTINUOUS, "von Mises"}, "expected y to be a class"),
        "vector of counts": "which given x depend on one another",
    },
    "to_datatree": {},
    "save": {},
    "plot_fit": dict.fromkeys(VECTORS, "expected output to be an element of y, 0 to 1; got None"),
}
"""Verb -> kind -> the sentence why it does not exist. Those that are not listed work."""
SUMMARIES: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "mean": lambda p, y: p.mean,
    "std": lambda p, y: p.std,
    "probs": lambda p, y: p.probs,
    "cdf": lambda p, y: p.cdf(y),
    "interval": lambda p, y: p.interval()[0],
    "pit": lambda p, y: p.pit(y)[1],
    "crps": lambda p, y: p.crps(y),
    "mode": lambda p, y: p.mode,
    "sample": lambda p, y: p.sample(0),
    "log_prob": lambda p, y: p.log_prob(y),
}


def saved(result: Fit, name: str, folder: Path) -> np.ndarray:
    return Fit.load(result.save(folder / "fit.nc"), model_of(name)).predict(X).sample(0)


QUICK = {"zero-inflated", "vector"}
"""One of each kind that is not asked for elsewhere; the others are slow tests, since each compiles programs."""
every_kind = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in KINDS]
)


@pytest.mark.parametrize("verb", SUMMARIES)
@every_kind
def test_summaries_exist_or_a_sentence_says_why_not(name: str, verb: str) -> None:
    result, y = fitted(name)
    if name in REFUSED[verb]:
        with pytest.raises(NotImplementedError, match=f"^{verb}: .*{REFUSED[verb][name]}"):
            SUMMARIES[verb](result.predict(X), y)
        return
    values = SUMMARIES[verb](result.predict(X), y)
    assert len(values) == NUM_ROWS
    assert np.isfinite(values).all()


VERBS: dict[str, Callable[[str, Fit, np.ndarray, Path], Any]] = {
    "compare": lambda name, result, y, _: plot_compare(compare({"MLE": result}, X, y)),
    "calibration": lambda name, result, y, _: plot_calibration(calibration(result, X, y)),
    "uncertainty": lambda name, result, y, _: uncertainty(result, X).total,
    "explain": lambda name, result, y, _: str(explain(result.model, X, y)),
    "code_length": lambda name, result, y, _: str(code_length(result, X, y)),
    "compress": lambda name, result, y, _: np.testing.assert_array_equal(
        decompress(result, X, compress(result, X, y)), y
    ),
    "to_datatree": lambda name, result, y, _: result.to_datatree(X, y, key=0),
    "save": lambda name, result, y, folder: saved(result, name, folder),
    "plot_fit": lambda name, result, y, _: plot_fit(result, X, y),
}


@pytest.mark.parametrize("verb", VERBS)
@every_kind
def test_verbs_work_or_a_sentence_says_why_not(name: str, verb: str, tmp_path: Path) -> None:
    result, y = fitted(name)
    try:
        if name in REFUSED[verb]:
            with pytest.raises((NotImplementedError, TypeError, ValueError), match=REFUSED[verb][name]):
                VERBS[verb](name, result, y, tmp_path)
        else:
            VERBS[verb](name, result, y, tmp_path)
    finally:
        plt.close("all")


OF_CLASSES = {"accuracy", "brier", "calibration_error"}
SCORES = {
    "Bernoulli": OF_CLASSES,
    "Categorical": OF_CLASSES,
    "ordered classes": OF_CLASSES | {"rps"},
    "right-censored": {"coverage", "calibration_error"},
    "von Mises": {"rmse"},
}
"""The scores of `compare` beside elpd; of all others those of numbers."""


@every_kind
def test_compare_has_the_scores_of_the_kind(name: str) -> None:
    result, y = fitted(name)
    table = compare({"MLE": result}, X, y).to_dataframe()
    numbers = {"rmse", "crps", "coverage", "calibration_error"}
    always = {"elpd", "elpd_se", "bits", "elpd_diff", "dse", "kind", "status", "seconds_compile", "seconds_run"}
    assert set(table.columns) - always == SCORES.get(name, numbers)
    assert table[list(SCORES.get(name, numbers))].notna().all(axis=None)
