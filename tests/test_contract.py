"""What every fit promises, for every method on every kind of model."""

from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import arviz_base
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats
import xarray
from jax import Array
from scipy.special import expit, logsumexp, softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, root_mean_squared_error

from flatprior.inference import MAP, MLE, Code, Fit, Predictive, Status, compare, fit, linearized
from flatprior.models import (
    MLP,
    Bernoulli,
    Model,
    Normal,
)
from flatprior.models.censored import CensoredDistribution

from .tables import (
    KINDS,
    LEADING,
    LONG,
    METHODS,
    MODELS,
    NUM_STEPS,
    CommonFit,
    FindProblem,
    method_of,
    some_by_default,
)

HAND_WRITTEN = ("hierarchical", "mixture_density", "dictionary")
NAMES = (*MODELS, *HAND_WRITTEN)

NUMBERS = {"mean", "variance", "cdf", "quantile"}
EXISTS: dict[str, set[str]] = {
    **dict.fromkeys(LONG, NUMBERS),
    "Bernoulli": {"mean", "variance", "probs"},
    "Categorical": {"probs"},
    "Normal, known scale": NUMBERS,
    "Normal, learned scale": NUMBERS,
    "Normal, scale of the network": NUMBERS,
    "hierarchical": NUMBERS,
    "mixture_density": NUMBERS,
    "dictionary": NUMBERS,
    "Poisson": NUMBERS,
    "CategoricalSequence": {"probs"},
    "Lift": {"mean", "variance", "probs"},
    "Ordinal": {"probs", "cdf", "quantile"},
}
"""Model -> the summaries of its predictive distribution that exist: classes have no moments, and no order of theirs."""
COUNTS = ("dictionary", "Poisson", "NegativeBinomial", "ZeroInflated", "Ordinal")
"""Models of counts, or of classes in an order."""
BINARY = ("Bernoulli", "Lift")
CLASSES = ("Categorical", "CategoricalSequence", "Ordinal")
"""Models whose y is one of three classes, or a row of such."""


def points(name: str, y: np.ndarray) -> np.ndarray:
    """Values of y at which predictions are asked: where y is bounds, the lower ones."""
    return y[:, 0] if name == "Censored" else y


class Cases:
    """Pairs of a model and a method for the laws, one law after another: every two of the three meet.

    By default a law is asked of `Bernoulli` by every method and of every model that is not `LONG` by MLE. With the slow
    tests, law `i` is asked as well of every model `j` by method `(i + j) % len(METHODS)`: so each law meets every model
    and every method, and each model meets every method, in as many tests as there are laws and models.
    """

    def __init__(self) -> None:
        self.slow: dict[str, list[tuple[str, str]]] = {}

    def of(self, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return a decorator that asks a law of these models."""

        def decorate(law: Callable[..., None]) -> Callable[..., None]:
            number, methods = len(self.slow), list(KINDS)
            designed = [(name, methods[(number + NAMES.index(name)) % len(methods)]) for name in names]
            self.slow[law.__name__] = designed
            quick = [(name, method) for name in names for method in methods if is_quick(name, method)]
            others = [pytest.param(*pair, marks=pytest.mark.slow) for pair in designed if pair not in quick]
            return pytest.mark.parametrize(("name", "method"), [*quick, *others])(law)

        return decorate


def is_quick(name: str, method: str) -> bool:
    return name == "Bernoulli" or (method == "MLE" and name not in LONG)


CASES = Cases()
pytestmark = pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")  # so short are the fits here
every_fit = CASES.of(*NAMES)
every_method = pytest.mark.parametrize("method", KINDS)


def test_laws_models_and_methods_meet_in_pairs() -> None:
    """That the sum of two places decides the third is enough while there are more laws and models than methods."""
    asked = {law: pairs for law, pairs in CASES.slow.items() if len(pairs) == len(NAMES)}
    assert len(asked) >= len(KINDS)
    assert {pair for pairs in asked.values() for pair in pairs} == set(product(NAMES, KINDS))
    for pairs in asked.values():
        assert [name for name, _ in pairs] == list(NAMES)
        assert {method for _, method in pairs} == set(KINDS)


@pytest.fixture
def result(common_fit: CommonFit, name: str, method: str) -> Fit:
    return common_fit(name, method)


@pytest.fixture
def fitted_pair(common_fit: CommonFit, problem: FindProblem, name: str, method: str) -> tuple[Fit, Any, Any]:
    return common_fit(name, method), *problem(name)[1:]


@pytest.fixture
def model_x_y(problem: FindProblem, name: str) -> tuple[Any, Any, Any]:
    return problem(name)


@pytest.fixture
def per_draw(components: Callable[[str, str], dict[str, np.ndarray]], name: str, method: str) -> dict[str, np.ndarray]:
    return components(name, method)


@pytest.fixture(scope="module")
def components(common_fit: CommonFit, problem: FindProblem) -> Callable[[str, str], Any]:
    """p(y | x, w) at every draw, by NumPyro itself and without chunks: quantity -> (draw, n)."""

    @cache
    def find(name: str, method: str) -> dict[str, np.ndarray]:
        result, (model, x, y) = common_fit(name, method), problem(name)
        at = result.outcome.linearized_at
        model = linearized(model, at) if at else model  # by which Laplace predicts, where the model is a network
        handlers, y_of_model = numpyro.handlers, result.structure.response.site

        def one(weights: Any, x: Any, y: Array) -> dict[str, Array]:
            trace = handlers.trace(handlers.seed(handlers.substitute(model, weights), 0))
            site, given = (trace.get_trace(x, some)[y_of_model]["fn"] for some in (None, y))
            values = {"log_prob": given.log_prob(y), **parameters(site)}
            values |= {moment: getattr(site, moment) for moment in ("mean", "variance") if moment in EXISTS[name]}
            return {key: jnp.broadcast_to(value, (len(y), *jnp.shape(value)[1:])) for key, value in values.items()}

        draws = {site: value.reshape(-1, *value.shape[2:]) for site, value in result.draws.items()}
        rows = jax.device_get(jax.tree.map(jnp.asarray, (draws, x, y)))  # in the precision of the fit
        with jax.enable_x64(result.structure.response.needs_double):  # as scores are; see `log_probs_over_rows`
            return jax.tree.map(np.asarray, jax.jit(jax.vmap(one, in_axes=(0, None, None)))(*widened(rows)))

    return find


def widened(rows: Any) -> Any:
    """The same numbers in the default precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float if leaf.dtype.kind == "f" else leaf.dtype), rows)


def parameters(site: Any) -> dict[str, Array]:
    """Those of the observed site under their names in NumPyro."""
    if isinstance(site, dist.MixtureSameFamily):
        parts = site.component_distribution
        return {"weights": site.mixing_distribution.probs, "loc": parts.loc, "scale": parts.scale}
    if isinstance(site, dist.ZeroInflatedProbs):
        return {"gate": site.gate, "rate": site.base_dist.rate}
    if hasattr(site, "class_log_probs"):
        return {"logits": site.class_log_probs}
    if isinstance(site, dist.MultivariateNormal):
        return {"loc": site.loc, "scale": jnp.sqrt(jnp.diagonal(site.covariance_matrix, axis1=-2, axis2=-1))}
    if isinstance(site, dist.Independent | CensoredDistribution):
        return {key: jnp.broadcast_to(value, site.shape()) for key, value in parameters(site.base_dist).items()}
    shapes = ("df", "concentration", "concentration1", "concentration0")
    return {name: getattr(site, name) for name in ("logits", "loc", "scale", "rate", *shapes) if hasattr(site, name)}


# What a fit is.


@every_fit
def test_draws_have_a_chain_a_draw_and_the_shape_of_the_site(
    result: Fit, model_x_y: Any, method: str, name: str
) -> None:
    model, x, y = model_x_y
    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(*jax.tree.map(jnp.asarray, (x, y)))
    shapes = {k: np.shape(s["value"]) for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    shapes = {site: (*LEADING[method], *shape) for site, shape in shapes.items()}
    assert {site: draws.shape for site, draws in result.draws.items()} == shapes
    for site, draws in result.draws.items():
        assert np.isfinite(draws).all()
        assert np.asarray(trace[site]["fn"].support(draws)).all(), site
    assert result.kind == KINDS[method]
    assert result.method == method_of(method, name)


@every_fit
def test_only_approximations_and_points_leave_something_out(result: Fit, method: str) -> None:
    assert bool(result.leaves_out) == (KINDS[method] in ("point", "approximation"))
    assert not result.leaves_out or result.leaves_out.endswith(".")
    assert str(result.status).endswith(f" {result.leaves_out}") == (KINDS[method] == "approximation")
    assert result.status == result.outcome.status  # it is no reason


@every_fit
def test_a_fit_has_a_status_seconds_and_stats(result: Fit, method: str) -> None:
    assert isinstance(result.status, Status)
    assert result.status.level in ("ok", "check", "failed")
    assert (result.status.level == "ok") == (not result.status.reasons)
    assert result.seconds.compile >= 0
    assert result.seconds.run >= 0
    if result.method.draws_chains:
        assert {"diverging", "n_steps", "lp", "step_size"} <= set(result.stats)
        assert all(value.shape == LEADING[method] for value in result.outcome.sample_stats.values())
    elif KINDS[method] == "prior":
        assert not result.stats
    else:
        assert result.stats["loss"].shape == (3 if method == "Ensemble" else 1, NUM_STEPS)
        assert np.isfinite(result.stats["loss"]).all()
    assert f"Fit by {getattr(result.method, 'name', method)}: {result.kind}" in repr(result)


# The predictive distribution.


@every_fit
def test_log_prob_is_that_of_the_mixture_over_draws(result: Fit, model_x_y: Any, per_draw: Any, method: str) -> None:
    _, x, y = model_x_y
    pointwise, log_prob = result.log_likelihood(x, y), result.predict(x).log_prob(y)
    assert pointwise.shape == (*LEADING[method], len(y))
    mixture = logsumexp(pointwise, axis=(0, 1)) - np.log(pointwise[..., 0].size)
    np.testing.assert_allclose(log_prob, mixture, rtol=1e-5, atol=1e-5)
    if KINDS[method] == "point":
        np.testing.assert_allclose(log_prob, pointwise[0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pointwise.reshape(-1, len(y)), per_draw["log_prob"], rtol=1e-4, atol=1e-5)


@every_fit
def test_moments_are_those_of_the_mixture_over_draws(result: Fit, name: str, model_x_y: Any, per_draw: Any) -> None:
    """Var[y] = E[Var[y | w]] + Var[E[y | w]]: the spread of the means counts."""
    _, x, y = model_x_y
    predictive = result.predict(x)
    if "mean" not in EXISTS[name]:
        for moment in ("mean", "variance"):
            with pytest.raises(NotImplementedError, match=f"{moment}: y is a class.*probs"):
                getattr(predictive, moment)
        return
    assert predictive.mean.shape == predictive.variance.shape == points(name, y).shape
    np.testing.assert_allclose(predictive.mean, per_draw["mean"].mean(axis=0), rtol=1e-4, atol=1e-5)
    variance = per_draw["variance"].mean(axis=0) + per_draw["mean"].var(axis=0)
    np.testing.assert_allclose(predictive.variance, variance, rtol=1e-4, atol=1e-5)


@every_fit
def test_probs_are_the_mean_of_the_probabilities(result: Fit, name: str, model_x_y: Any, per_draw: Any) -> None:
    _, x, _ = model_x_y
    if "probs" not in EXISTS[name]:
        with pytest.raises(NotImplementedError, match="probs: y can be"):
            _ = result.predict(x).probs
        return
    logits = per_draw["logits"]
    expected = (expit(logits) if name in BINARY else softmax(logits, axis=-1)).mean(axis=0)
    np.testing.assert_allclose(result.predict(x).probs, expected, rtol=1e-4, atol=1e-6)


SCIPY: dict[str, Callable[[Any], Any]] = {
    "NegativeBinomial": lambda d: scipy.stats.nbinom(d["concentration"], d["rate"] / (1 + d["rate"])),
    "StudentT": lambda d: scipy.stats.t(d["df"], d["loc"], d["scale"]),
    "LogNormal": lambda d: scipy.stats.lognorm(d["scale"], scale=np.exp(d["loc"])),
    "Gamma": lambda d: scipy.stats.gamma(d["concentration"], scale=1 / d["rate"]),
    **dict.fromkeys(("Weibull", "Censored"), lambda d: scipy.stats.weibull_min(d["concentration"], scale=d["scale"])),
    "Exponential": lambda d: scipy.stats.expon(scale=1 / d["rate"]),
    "Beta": lambda d: scipy.stats.beta(d["concentration1"], d["concentration0"]),
}
"""Model -> the distribution of y by SciPy, from the parameters of NumPyro's."""


def scipy_cdf(name: str, per_draw: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """P(Y <= y) of the mixture by scipy, (n,)."""
    if name == "mixture_density":
        each = scipy.stats.logistic(per_draw["loc"], per_draw["scale"]).cdf(y[:, None])
        return (per_draw["weights"] * each).sum(axis=-1).mean(axis=0)
    if name in SCIPY:
        with np.errstate(over="ignore"):  # (y / scale)^concentration, where draws of the prior have a cdf of 1
            return SCIPY[name](per_draw).cdf(y).mean(axis=0)
    if name == "ZeroInflated":
        gate = np.where(y < 0, 0.0, per_draw["gate"])
        return (gate + (1 - per_draw["gate"]) * scipy.stats.poisson(per_draw["rate"]).cdf(y)).mean(axis=0)
    if name == "Mixture":
        each = scipy.stats.norm(per_draw["loc"], per_draw["scale"]).cdf(y[:, None])
        return (per_draw["weights"] * each).sum(axis=-1).mean(axis=0)
    if name == "Ordinal":
        below = np.arange(3) <= np.asarray(y)[:, None]
        return (softmax(per_draw["logits"], axis=-1) * below).sum(axis=-1).mean(axis=0)
    if name in COUNTS:
        return scipy.stats.poisson(per_draw["rate"]).cdf(y).mean(axis=0)
    family = scipy.stats.laplace if name == "hierarchical" else scipy.stats.norm
    return family(per_draw["loc"], per_draw["scale"]).cdf(y).mean(axis=0)


@every_fit
def test_cdf_is_that_of_scipy(result: Fit, name: str, model_x_y: Any, per_draw: Any) -> None:
    _, x, y = model_x_y
    if "cdf" not in EXISTS[name]:
        with pytest.raises(NotImplementedError):
            result.predict(x).cdf(y)
        return
    y = points(name, y)
    np.testing.assert_allclose(result.predict(x).cdf(y), scipy_cdf(name, per_draw, y), rtol=1e-4, atol=1e-5)


@every_fit
def test_quantile_inverts_cdf(result: Fit, name: str, model_x_y: Any, per_draw: Any) -> None:
    _, x, y = model_x_y
    predictive = result.predict(x)
    if "quantile" not in EXISTS[name]:
        with pytest.raises(NotImplementedError, match=r"quantile: y is (0 or 1|a class|tokens)"):
            predictive.quantile(0.5)
        return
    levels = [0.001, 0.1, 0.5, 0.9, 0.999]
    quantiles = predictive.quantile(levels)
    assert quantiles.shape == (5, *points(name, y).shape)
    if name in COUNTS:
        for level, quantile in zip(levels, quantiles, strict=True):
            assert (scipy_cdf(name, per_draw, quantile) >= level - 1e-5).all()
            assert (scipy_cdf(name, per_draw, quantile - 1) < level + 1e-5).all()
        return
    resolved = quantiles < (0.999 if name == "Beta" else np.inf)  # beyond it float32 has few shares below 1
    assert (np.diff(quantiles, axis=0) > 0)[resolved[1:]].all()
    for level, quantile, has_digits in zip(levels, quantiles, resolved, strict=True):
        np.testing.assert_allclose(scipy_cdf(name, per_draw, quantile)[has_digits], level, rtol=2e-3, atol=1e-5)
    if name == "Normal, known scale":
        np.testing.assert_allclose(predictive.quantile(0.1), quantiles[1], rtol=1e-5)


@every_fit
def test_units_and_priors_of_ordinary_problems_are_not_questioned(result: Fit) -> None:
    assert not {Code.UNITS, Code.SATURATED_UNITS, Code.PRIOR_CONFLICT} & set(result.status.codes)
    assert "Prior and data disagree" not in str(result.status)


@pytest.mark.parametrize("q", [0, 1, -0.1, 1.5, float("nan"), [[0.5]], [0.5, 2.0]])
def test_quantiles_that_do_not_exist_raise(common_fit: CommonFit, data_sets: Any, q: Any) -> None:
    predictive = common_fit("Normal, known scale", "MAP").predict(data_sets["real"][0])
    with pytest.raises(ValueError, match="quantile: expected a number or a vector between 0 and 1"):
        predictive.quantile(q)


@every_fit
def test_samples_have_the_moments_of_the_predictive(result: Fit, name: str, model_x_y: Any) -> None:
    """The rows of a sample share its weights, so that three rows are looked at: some 100 comparisons in all."""
    _, x, y = model_x_y
    predictive = result.predict(x)
    sample = np.asarray(predictive.sample(11, (1000,)))
    assert sample.shape == (1000, *points(name, y).shape)
    assert sample.dtype.kind == ("f" if name not in COUNTS and "quantile" in EXISTS[name] else "i")
    sample = (sample[..., None] == np.arange(3)) if name in CLASSES else sample
    expected = predictive.probs if name in CLASSES else predictive.mean
    check_mean(sample[:, :3].astype(float), expected[:3])
    if "variance" in EXISTS[name]:
        check_mean((sample[:, :3].astype(float) - expected[:3]) ** 2, predictive.variance[:3])


def check_mean(sample: np.ndarray, expected: np.ndarray) -> None:
    error = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    assert np.abs((sample.mean(axis=0) - expected) / error).max() < 4


@pytest.mark.parametrize("name", ["Categorical", "dictionary"])
def test_samples_take_a_key_and_a_shape(common_fit: CommonFit, name: str, model_x_y: Any) -> None:
    _, x, y = model_x_y
    predictive = common_fit(name, "MLE").predict(x)
    one = predictive.sample(jax.random.key(0), (2, 3))
    assert one.shape == (2, 3, len(y))
    assert predictive.sample(0).shape == (len(y),)
    np.testing.assert_array_equal(one, predictive.sample(0, (2, 3)))
    assert not np.array_equal(one, predictive.sample(1, (2, 3)))


def test_a_sample_shares_its_weights_over_rows(common_fit: CommonFit) -> None:
    """At equal rows the samples covary by the variance of the mean; drawn row by row they would not."""
    result = common_fit("Normal, known scale", "Prior")
    predictive = result.predict(np.full((2, 2), 30.0))
    sample = np.asarray(predictive.sample(5, (4000,)), float)
    spread = predictive.variance[0] - 0.25
    products = np.prod(sample - predictive.mean, axis=1)
    assert spread > 1
    assert abs(products.mean() - spread) < 4 * products.std() / np.sqrt(4000)


# ArviZ.


@every_fit
def test_to_datatree_names_its_groups_and_dimensions(
    result: Fit, name: str, method: str, model_x_y: Any, tmp_path: Path
) -> None:
    _, x, y = model_x_y
    tree = result.to_datatree(x, y)
    site, group = result.structure.response.site, "prior" if method == "Prior" else "posterior"
    assert {group, "log_likelihood", "observed_data", "constant_data"} <= set(tree.children)
    assert ("sample_stats" in tree.children) == result.method.draws_chains
    assert tree["log_likelihood"][site].dims == ("chain", "draw", "row")
    names = [f"{site}_lower", f"{site}_upper"] if name == "Censored" else [site]
    for observed, values in zip(names, y.T if name == "Censored" else [y], strict=True):
        assert tree["observed_data"][observed].dims == ("row", "y_dim1")[: values.ndim]
        np.testing.assert_allclose(tree["observed_data"][observed].values, values, rtol=1e-6)
    assert tree.attrs["kind"] == tree[group].attrs["kind"] == result.kind
    assert tree.attrs["status"] == result.status.level
    if name == "Normal, scale of the network":
        assert tree[group]["w1"].dims == ("chain", "draw", "feature", "hidden1")
        assert tree[group]["b1"].dims == ("chain", "draw", "hidden1")
        assert tree[group]["w2"].dims == ("chain", "draw", "hidden1", "output")
        assert tree["constant_data"]["x"].dims == ("row", "feature")
    path = tmp_path / "fit.nc"
    tree.to_netcdf(path, engine="netcdf4")
    with xarray.open_datatree(path, engine="netcdf4") as opened:
        for draws in result.draws:
            np.testing.assert_array_equal(opened[group][draws].values, result.draws[draws])
        np.testing.assert_array_equal(opened["log_likelihood"][site].values, result.log_likelihood(x, y))
        assert opened.attrs["kind"] == result.kind
        assert opened.attrs["status"] == result.status.level
        assert list(np.atleast_1d(opened.attrs["status_reasons"])) == list(map(str, result.status.reasons))


def test_to_datatree_needs_x_with_y_or_a_key(common_fit: CommonFit, data_sets: Any) -> None:
    fitted, (x, y) = common_fit("Bernoulli", "MAP"), data_sets["binary"]
    assert set(fitted.to_datatree().children) == {"posterior"}
    for rows in ({"x": x}, {"y": y}, {"key": 0}):
        with pytest.raises(TypeError, match="x together with y, key or both"):
            fitted.to_datatree(**rows)


@pytest.mark.parametrize(
    ("name", "method"),
    some_by_default([("Bernoulli", "Prior"), ("CategoricalSequence", "Laplace")], ("Bernoulli", "Prior")),
)
def test_to_datatree_draws_one_y_for_each_draw_of_the_weights(fitted_pair: tuple[Fit, Any, Any], method: str) -> None:
    fitted, x, y = fitted_pair
    group = "prior_predictive" if method == "Prior" else "posterior_predictive"
    tree = fitted.to_datatree(x, key=3)
    assert group in tree.children
    assert "log_likelihood" not in tree.children
    drawn = tree[group]["y"]
    assert drawn.shape == (*LEADING[method], *y.shape)
    assert drawn.dims[:3] == ("chain", "draw", "row")
    np.testing.assert_array_equal(drawn.values[0], fitted.predict(x).component_samples(3))
    np.testing.assert_array_equal(drawn.values, fitted.to_datatree(x, y, key=3)[group]["y"].values)


def test_to_datatree_is_what_arviz_reads(common_fit: CommonFit, data_sets: Any) -> None:
    tree = common_fit("Bernoulli", "NUTS").to_datatree(*data_sets["binary"])
    assert arviz_base.convert_to_datatree(tree) is tree
    flat_dataset = arviz_base.extract(tree, num_samples=5, random_seed=0)
    assert flat_dataset.sizes["sample"] == 5


def test_columns_of_a_data_frame_are_coordinates(data_sets: Any) -> None:
    x, y = data_sets["real"]
    frame = pd.DataFrame(x, columns=["age", "income"])
    tree = fit(Model(MLP(), Normal(0.5)), METHODS["MAP"](), frame, y, key=0, progress=False).to_datatree(frame, y)
    assert tree["posterior"].coords["feature"].values.tolist() == ["age", "income"]
    assert tree["constant_data"].coords["feature"].values.tolist() == ["age", "income"]


# Comparing.


@pytest.mark.parametrize(
    "name",
    some_by_default(
        ["Bernoulli", "CategoricalSequence", "Poisson", "Ordinal", "MultivariateNormal", "Censored", "hierarchical"],
        "Bernoulli",
    ),
)
def test_compare_sorts_and_prints(common_fit: CommonFit, name: str, model_x_y: Any) -> None:
    _, x, y = model_x_y
    fits = {method: common_fit(name, method) for method in KINDS}
    comparison = compare(fits, x, y)
    table = comparison.to_dataframe()
    assert set(table.index) == set(fits)
    assert np.isfinite(table["elpd"].astype(float)).all()
    assert (np.diff(table["elpd"].astype(float)) <= 0).all()
    assert table["elpd_diff"].iloc[0] == 0
    assert table["kind"].to_dict() == {method: result.kind for method, result in fits.items()}
    assert table["status"].to_dict() == {method: result.status.level for method, result in fits.items()}
    for method, result in fits.items():
        log_prob = result.predict(x).log_prob(y).astype(float)
        row = table.loc[method]
        np.testing.assert_allclose(row["elpd"], log_prob.mean(), rtol=1e-6)
        np.testing.assert_allclose(row["elpd_se"], scipy.stats.sem(log_prob), rtol=1e-6)
        np.testing.assert_allclose(row["bits"], -log_prob.mean() / np.log(2), rtol=1e-6)
        paired = log_prob - fits[table.index[0]].predict(x).log_prob(y)
        np.testing.assert_allclose(row["elpd_diff"], paired.mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(row["dse"], scipy.stats.sem(paired), rtol=1e-3, atol=1e-6)
        assert method in str(comparison)
        assert f">{method}</th>" in comparison._repr_html_()
    table["elpd"] = 0.0
    assert (comparison.to_dataframe()["elpd"] != 0).all(), "the frame is a copy"


@CASES.of(*BINARY)
def test_scores_of_binary_classes_are_those_of_sklearn(result: Fit, data_sets: Any) -> None:
    x, y = data_sets["binary"]
    row, probs = compare({"fit": result}, x, y).to_dataframe().loc["fit"], result.predict(x).probs
    np.testing.assert_allclose(-row["elpd"], log_loss(y, probs.astype(float)), rtol=1e-5)
    np.testing.assert_allclose(row["accuracy"], accuracy_score(y, probs > 0.5))
    np.testing.assert_allclose(row["brier"], 2 * brier_score_loss(y, probs), rtol=1e-5)


@CASES.of("Categorical")
def test_scores_of_classes_are_those_of_sklearn(result: Fit, data_sets: Any) -> None:
    x, y = data_sets["classes"]
    row, probs = compare({"fit": result}, x, y).to_dataframe().loc["fit"], result.predict(x).probs.astype(float)
    probs /= probs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(-row["elpd"], log_loss(y, probs), rtol=1e-5)
    np.testing.assert_allclose(row["accuracy"], accuracy_score(y, probs.argmax(axis=1)))
    np.testing.assert_allclose(row["brier"], ((probs - np.eye(3)[y]) ** 2).sum(axis=1).mean(), rtol=1e-5)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == y
    bins = np.array_split(np.argsort(confidence, kind="stable"), 10)
    error = np.average([abs(confidence[b].mean() - correct[b].mean()) for b in bins], weights=list(map(len, bins)))
    np.testing.assert_allclose(row["calibration_error"], error, rtol=1e-4)


@CASES.of(*(name for name in NAMES if "quantile" in EXISTS[name] and name not in (*COUNTS, "Censored")))
def test_scores_of_numbers_are_those_of_sklearn_and_scipy(
    result: Fit, name: str, model_x_y: Any, per_draw: Any
) -> None:
    _, x, y = model_x_y
    row = compare({"fit": result}, x, y).to_dataframe().loc["fit"]
    np.testing.assert_allclose(
        row["rmse"], root_mean_squared_error(y.ravel(), result.predict(x).mean.ravel()), rtol=1e-5
    )
    transform = scipy_cdf(name, per_draw, y)
    np.testing.assert_allclose(row["coverage"], ((transform >= 0.05) & (transform <= 0.95)).mean(), atol=1e-12)
    levels = np.arange(0.1, 0.95, 0.1)
    covered = [((transform > 0.5 - q / 2) & (transform < 0.5 + q / 2)).mean() for q in levels]
    np.testing.assert_allclose(row["calibration_error"], np.abs(covered - levels).mean(), atol=1e-6)
    low, high = result.predict(x).quantile([0.05, 0.95])
    np.testing.assert_allclose(row["coverage"], ((low <= y) & (y <= high)).mean(), atol=1e-12)


def beta_regression(x: Array, y: Array | None = None) -> None:
    """Its support, (0, 1), has a lower and an upper bound, as that of a class has, but is not a finite set."""
    mean = jax.nn.sigmoid(MLP()(x)[:, 0])
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Beta(5.0 * mean, 5.0 * (1 - mean)), obs=y)


def binomial_regression(x: Array, y: Array | None = None) -> None:
    eta = MLP()(x)[:, 0]
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Binomial(4, logits=eta), obs=y)


def shares(x: Array, y: Array | None = None) -> None:
    """Several numbers a row, as one event."""
    eta = MLP()(x, 2)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(eta, 0.5).to_event(1), obs=y)


OTHERS: dict[str, tuple[Callable[..., None], Callable[[np.ndarray], np.ndarray], set[str]]] = {
    "beta": (beta_regression, lambda y: expit(y), {"rmse", "coverage"}),
    "binomial": (binomial_regression, lambda y: np.clip(np.round(y + 2), 0, 4).astype(int), {"rmse"}),
    "shares": (shares, lambda y: np.stack([y, -y], axis=1), {"rmse"}),
}


@pytest.mark.parametrize("name", some_by_default(OTHERS, "shares"))
def test_compare_scores_other_observations(name: str, data_sets: Any) -> None:
    """A model may observe anything that has one log probability a row."""
    model, of, columns = OTHERS[name]
    x, y = data_sets["real"][0], of(data_sets["real"][1])
    result = fit(model, METHODS["MAP"](), x, y, key=0, progress=False)
    table = compare({"fit": result}, x, y).to_dataframe()
    assert np.isfinite(float(table.loc["fit", "elpd"]))
    assert columns <= set(table.columns)
    assert str(compare({"fit": result}, x, y))


def test_soft_labels_are_fitted_and_scored_as_classes(data_sets: Any) -> None:
    x, labels = data_sets["classes"]
    soft = 0.8 * np.eye(3)[labels] + 0.2 / 3
    result = {
        "soft": fit(MODELS["Categorical"][0], METHODS["MAP"](), x, soft, key=0, progress=False),
        "hard": fit(MODELS["Categorical"][0], METHODS["MAP"](), x, labels, key=0, progress=False),
    }
    for one in result.values():
        predictive = one.predict(x)
        log_probs = np.log(predictive.probs)
        np.testing.assert_allclose(predictive.log_prob(labels), log_probs[np.arange(len(x)), labels], atol=1e-5)
        np.testing.assert_allclose(predictive.log_prob(soft), (soft * log_probs).sum(axis=1), atol=1e-5)
        assert one.log_likelihood(x, soft).shape == (1, 1, len(x))
    for y in (labels, soft):
        assert {"accuracy", "brier"} <= set(compare(result, x, y).to_dataframe().columns)
    assert result["soft"].predict(x).probs.max() < result["hard"].predict(x).probs.max()


@pytest.mark.parametrize(
    ("fits", "exception", "match"),
    [
        ({}, TypeError, "expected a mapping from names to fits"),
        ([1], TypeError, "expected a mapping from names to fits"),
        ({"MLE": MLE()}, TypeError, "expected 'MLE' to be a fit"),
    ],
)
def test_compare_of_other_things_raises(fits: Any, exception: type[Exception], match: str, data_sets: Any) -> None:
    with pytest.raises(exception, match=match):
        compare(fits, *data_sets["real"])


# Data, keys and caches.


def test_data_frames_series_and_lists_are_rows(data_sets: Any) -> None:
    x, y = data_sets["real"]
    model, method = MODELS["Normal, known scale"][0], METHODS["MAP"]()
    forms = {
        "arrays": (x, y),
        "data frame and series": (pd.DataFrame(x, columns=["a", "b"]), pd.Series(y)),
        "lists": (x.tolist(), y.tolist()),
        "JAX arrays": (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)),
        "float32": (x.astype(np.float32), y.astype(np.float32)),
    }
    result = {form: fit(model, method, *rows, key=0, progress=False) for form, rows in forms.items()}
    for form, rows in forms.items():
        np.testing.assert_array_equal(result[form].draws["w1"], result["arrays"].draws["w1"], err_msg=form)
        np.testing.assert_array_equal(result[form].predict(rows[0]).mean, result["arrays"].predict(x).mean)
        np.testing.assert_array_equal(
            result[form].predict(rows[0]).log_prob(rows[1]), result[form].predict(x).log_prob(y)
        )


def test_booleans_are_labels(data_sets: Any) -> None:
    x, y = data_sets["binary"]
    model, method = MODELS["Bernoulli"][0], METHODS["MAP"]()
    one, other = (fit(model, method, x, labels, key=0, progress=False) for labels in (y, y.astype(bool)))
    np.testing.assert_array_equal(one.draws["w1"], other.draws["w1"])


@every_method
def test_the_key_decides_every_bit(common_fit: CommonFit, problem: Any, method: str) -> None:
    model, x, y = problem("Bernoulli")
    first = common_fit("Bernoulli", method)
    again = fit(model, method_of(method, "Bernoulli"), x, y, key=jax.random.key(3), progress=False)
    other = fit(model, method_of(method, "Bernoulli"), x, y, key=4, progress=False)
    for site in first.draws:
        np.testing.assert_array_equal(first.draws[site], again.draws[site])
        assert not np.array_equal(first.draws[site], other.draws[site])


@every_method
def test_a_second_fit_compiles_nothing(common_fit: CommonFit, problem: Any, method: str) -> None:
    """With a model and a method that are equal, but not the same objects, and other rows and key."""
    common_fit("Bernoulli", method)
    _, x, y = problem("Bernoulli")
    for rows in (slice(None), slice(None, None, -1)):  # so that every check of a status is compiled
        fit(MODELS["Bernoulli"][0], method_of(method, "Bernoulli"), x[rows], y[rows], key=4, progress=False)
    events: list[str] = []
    listener = lambda event, duration, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        model = Model(MLP(), Bernoulli())
        second = fit(model, method_of(method, "Bernoulli"), np.roll(x, 7, 0), np.roll(y, 7), key=5, progress=False)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events.count("/jax/core/compile/backend_compile_duration") == 0
    assert second.seconds.compile == 0


@every_method
def test_settings_that_do_not_exist_raise(method: str) -> None:
    kind = type(method_of(method, "Bernoulli"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        kind(learning_rate=1e-3)
    with pytest.raises(TypeError, match="positional argument"):
        kind(MAP(), 100)


def test_predict_gives_a_predictive(common_fit: CommonFit, data_sets: Any) -> None:
    assert isinstance(common_fit("Bernoulli", "MAP").predict(data_sets["binary"][0]), Predictive)
