"""The likelihood as a function of one or two weights: against closed forms and SciPy, and as pictures."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet

from flatprior.inference import MAP, MLE, Fit, compare, fit, flat, log_density
from flatprior.inference.objective import Likelihood, likelihood_curve, likelihood_surface
from flatprior.inference.plots import plot_likelihood
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

from .tables import some_by_default

TOSSES, TRIPLE = np.array([0, 0, 0, 1, 0]), np.array([-1.0, 0.0, 1.0])
NOTHING = np.zeros((5, 0))
"""Five rows without a feature."""
P = np.linspace(0, 1, 301)
"""Holds 1/5 and 1/3."""


class coin:  # noqa: N801
    """A coin written by hand, with a prior on its probability of heads."""

    def __init__(self, prior: dist.Distribution) -> None:
        self.prior = prior

    def __call__(self, x: Array, y: Array | None = None) -> None:
        p = numpyro.sample("p", self.prior)
        with numpyro.plate("toss", x.shape[0]):
            numpyro.sample("y", dist.Bernoulli(p), obs=y)


def gaussian_sample(x: Array, y: Array | None = None) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.5, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(3.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def simplex(x: Array, y: Array | None = None) -> None:
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Categorical(p), obs=y)


def bounded_by_another(x: Array, y: Array | None = None) -> None:
    """The support of one site depends on another."""
    top = numpyro.sample("top", dist.HalfNormal(1.0))
    level = numpyro.sample("level", dist.Uniform(0.0, top))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)


def waiting_times(x: Array, y: Array | None = None) -> None:
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Exponential(rate), obs=y)


MU, SIGMA = np.linspace(-2, 2, 41), np.sqrt(2 / 3) * np.arange(4, 61) / 20
SOFTMAX = Model(MLP(), Categorical(3), gaussian(1.0))
LINE = Model(MLP(), Normal(1.0), gaussian(1.0))


def in_float64(model: Any, weights: dict[str, Any], x: Any, y: Any) -> float:
    with jax.enable_x64(True):
        weights = {site: jnp.asarray(value, float) for site, value in weights.items()}
        return float(log_density(model, weights, *jax.tree.map(np.asarray, (x, y))))


def as_float32(tree: Any) -> Any:
    """Rows as every fit takes them, in the numbers of float64."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(float) if leaf.dtype.kind == "f" else leaf, tree)


# Against closed forms


def test_the_likelihood_of_a_coin() -> None:
    curve = likelihood_curve(coin(dist.Uniform(0, 1)), NOTHING, TOSSES, "p", P)
    assert curve.mle == pytest.approx((0.2,), abs=1e-15)
    np.testing.assert_allclose(curve.likelihood, P * (1 - P) ** 4, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(curve.log_prior, 0.0)
    assert curve.likelihood.max() == pytest.approx(0.2 * 0.8**4, rel=1e-12)
    assert curve.relative_likelihood.max() == 1.0
    assert (curve.names, curve.log_likelihood.shape) == (("p",), (301,))


def test_the_likelihood_of_a_gaussian() -> None:
    surface = likelihood_surface(gaussian_sample, np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), (MU, SIGMA))
    assert surface.mle == pytest.approx((0.0, np.sqrt(2 / 3)), abs=1e-12)
    expected = scipy.stats.norm.logpdf(TRIPLE, MU[:, None, None], SIGMA[:, None]).sum(axis=-1)
    np.testing.assert_allclose(surface.log_likelihood, expected, rtol=1e-12)
    prior = scipy.stats.norm.logpdf(MU, 0.5, 2.0)[:, None] + scipy.stats.halfnorm.logpdf(SIGMA, scale=3.0)
    np.testing.assert_allclose(surface.log_prior, prior, rtol=1e-12)


def test_the_grid_bounds_how_far_a_peak_is_from_the_maximum() -> None:
    mu, sigma = np.linspace(-1.03, 1, 50), np.linspace(0.3, 2.01, 70)
    surface = likelihood_surface(flat(gaussian_sample), np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), (mu, sigma))
    assert abs(surface.mle[0]) <= (mu[1] - mu[0]) / 2
    assert abs(surface.mle[1] - np.sqrt(2 / 3)) <= sigma[1] - sigma[0]
    assert surface.map == surface.mle  # of a flat prior
    np.testing.assert_array_equal(surface.log_prior, 0.0)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (2.5, 7.0)])
def test_the_posterior_of_a_coin_is_the_conjugate_one(a: float, b: float) -> None:
    curve = likelihood_curve(coin(dist.Beta(a, b)), NOTHING, TOSSES, "p", P)
    posterior = scipy.stats.beta(a + 1, b + 4)
    difference = curve.log_joint[1:-1] - posterior.logpdf(P[1:-1])
    np.testing.assert_allclose(difference, difference.mean(), rtol=1e-10)  # the evidence, and nothing else
    np.testing.assert_allclose(curve.posterior, posterior.pdf(P), atol=2e-4)  # the trapezoid rule's
    np.testing.assert_allclose(curve.prior, scipy.stats.beta(a, b).pdf(P), atol=2e-3)
    assert np.trapezoid(curve.posterior, P) == pytest.approx(1.0, abs=1e-12)
    assert abs(curve.map[0] - a / (a + b + 3)) <= P[1] - P[0]


def test_the_posterior_of_a_gaussian_is_normalised_over_both_axes() -> None:
    surface = likelihood_surface(gaussian_sample, np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), (MU, SIGMA))
    mass = np.trapezoid(np.trapezoid(surface.posterior, SIGMA, axis=1), MU)
    assert mass == pytest.approx(1.0, abs=1e-12)
    difference = np.log(surface.posterior) - surface.log_joint
    np.testing.assert_allclose(difference, difference.mean(), rtol=1e-10)


def test_a_likelihood_too_small_for_a_float_is_still_a_curve() -> None:
    curve = likelihood_curve(coin(dist.Beta(2.0, 2.0)), np.zeros((5000, 0)), np.tile(TOSSES, 1000), "p", P[1:-1])
    assert not curve.likelihood.any()
    assert (curve.relative_likelihood.max(), curve.mle) == (1.0, (0.2,))
    assert np.isfinite(curve.posterior).all()


# Along elements and directions


@pytest.mark.parametrize("label", ["w1[0, 1]", "w1[0,1]", " w1 [ 0 , 1 ] "])
def test_one_element_moves(label: str) -> None:
    x, y = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]]), np.array([0, 2, 1])
    at = {"w1": np.arange(6.0).reshape(2, 3) / 4, "b1": np.array([0.5, -0.5, 0.0])}
    grid = np.array([-2.0, -0.5, 3.0])
    curve = likelihood_curve(SOFTMAX, x, y, label, grid, at=at)
    for value, log_likelihood, log_joint in zip(grid, curve.log_likelihood, curve.log_joint, strict=True):
        moved = at["w1"].copy()
        moved[0, 1] = value
        assert log_likelihood == pytest.approx(in_float64(flat(SOFTMAX), {**at, "w1": moved}, x, y), rel=1e-12)
        assert log_joint == pytest.approx(in_float64(SOFTMAX, {**at, "w1": moved}, x, y), rel=1e-12)


def test_an_axis_is_a_row_of_the_surface() -> None:
    x, y = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]]), np.array([0, 2, 1])
    at = {"w1": np.arange(6.0).reshape(2, 3) / 4, "b1": np.array([0.5, -0.5, 0.0])}
    one, two = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0.25, 0.5])
    surface = likelihood_surface(SOFTMAX, x, y, ("w1[1, 2]", "b1[0]"), (one, two), at=at)
    assert (surface.names, surface.log_likelihood.shape) == (("w1[1, 2]", "b1[0]"), (4, 2))
    row = likelihood_curve(SOFTMAX, x, y, "w1[1, 2]", one, at={**at, "b1": np.array([0.25, -0.5, 0.0])})
    np.testing.assert_allclose(surface.log_joint[:, 0], row.log_joint, rtol=1e-12)


def test_a_mapping_is_a_direction() -> None:
    x, y = np.array([[0.5], [-1.0]]), np.array([1.0, 0.5])
    at, way = {"w1": np.array([[1.0]]), "b1": np.array([0.5])}, {"w1": np.array([[-2.0]]), "b1": np.array([1.0])}
    steps = np.array([-1.0, 0.0, 0.5])
    curve = likelihood_curve(LINE, x, y, way, steps, at=at)
    expected = [in_float64(LINE, {site: at[site] + t * way[site] for site in at}, x, y) for t in steps]
    np.testing.assert_allclose(curve.log_joint, expected, rtol=1e-12)
    assert curve.names == ("step along the direction",)


@pytest.mark.slow
def test_the_likelihood_is_highest_at_the_mle_along_every_direction_through_it(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["binary"]
    model = Model(MLP(), Bernoulli(), gaussian(0.5))
    mle, map_ = (fit(model, method, x, y, key=0, progress=False) for method in (MLE(), MAP()))
    steps = np.linspace(-1, 2, 31)
    towards = likelihood_curve(model, x, y, mle, steps, at=map_)
    assert towards.mle == pytest.approx((1.0,))
    back = likelihood_curve(model, x, y, map_, steps, at=mle)
    assert (back.mle, back.map) == (pytest.approx((0.0,), abs=1e-12), pytest.approx((1.0,)))
    rng = np.random.default_rng(5)
    ways = [{"w1": rng.normal(size=(2, 1)), "b1": rng.normal(size=1)} for _ in range(2)]
    plane = likelihood_surface(model, x, y, (ways[0], ways[1]), (steps, steps), at=mle)
    assert plane.mle == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.fixture(scope="module")
def fits_by_hand(by_hand: dict[str, Any]) -> dict[str, Fit]:
    method = MAP(num_steps=50, polish=False)
    return {name: fit(model, method, x, y, key=0, progress=False) for name, (model, x, y) in by_hand.items()}


@pytest.mark.parametrize("name", some_by_default(["hierarchical", "mixture_density", "dictionary"], "dictionary"))
def test_a_step_of_one_towards_a_fit_is_that_fit(
    by_hand: dict[str, Any], fits_by_hand: dict[str, Fit], name: str
) -> None:
    (model, x, y), result = by_hand[name], fits_by_hand[name]
    end = {site: value[0, 0] for site, value in result.draws.items()}
    start = {site: 0.75 * value + 0.125 for site, value in end.items()}
    curve = likelihood_curve(model, x, y, result, [0.0, 0.5, 1.0], at=start)
    rows = as_float32((x, y))
    assert curve.log_joint[0] == pytest.approx(in_float64(model, start, *rows), rel=1e-10)
    assert curve.log_joint[-1] == pytest.approx(in_float64(model, end, *rows), rel=1e-10)
    assert curve.log_likelihood[-1] == pytest.approx(in_float64(flat(model), end, *rows), rel=1e-10)
    assert curve.log_likelihood[-1] == pytest.approx(result.log_likelihood(x, y).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "site", "label", "grid"),
    [
        ("hierarchical", "spread", "spread", [0.1, 0.5, 2.0]),
        ("hierarchical", "offset", "offset[3]", [-1.0, 1.0]),
        ("mixture_density", "b2", "b2[29]", [-1.0, 1.0]),
        ("dictionary", "level", "level[1]", [-1.0, 0.0, 1.0]),
    ],
)
def test_models_written_by_hand(
    by_hand: dict[str, Any], fits_by_hand: dict[str, Fit], name: str, site: str, label: str, grid: list[float]
) -> None:
    (model, x, y), result = by_hand[name], fits_by_hand[name]
    curve = likelihood_curve(model, x, y, label, grid, at=result)
    at = {site: value[0, 0] for site, value in result.draws.items()}
    for value, log_joint in zip(grid, curve.log_joint, strict=True):
        moved = np.asarray(at[site], float).copy()
        moved[() if "[" not in label else int(label.split("[")[1][:-1])] = value
        assert log_joint == pytest.approx(in_float64(model, {**at, site: moved}, *as_float32((x, y))), rel=1e-10)


def test_a_scalar_site_of_shape_one_needs_no_index() -> None:
    curve = likelihood_curve(Model(MLP(), Bernoulli()), NOTHING, TOSSES, "b1", [-1.0, 0.0])
    assert curve.log_likelihood[1] == pytest.approx(5 * np.log(0.5), rel=1e-12)


# Networks without inputs


@pytest.mark.parametrize(
    "prior", [gaussian(2.0), pytest.param(fan_in(2.0), marks=pytest.mark.slow)], ids=["gaussian", "fan_in"]
)
def test_a_network_without_inputs_is_its_bias(prior: Any) -> None:
    model = Model(MLP(), Bernoulli(), prior)
    mle = fit(model, MLE(), NOTHING, TOSSES, key=0, progress=False)
    assert mle.status
    assert mle.draws["w1"].shape == (1, 1, 0, 1)
    assert mle.draws["b1"].item() == pytest.approx(np.log(0.2 / 0.8), abs=1e-5)
    np.testing.assert_allclose(mle.predict(np.zeros((3, 0))).probs, 0.2, rtol=1e-5)
    np.testing.assert_allclose(mle.log_likelihood(NOTHING, TOSSES).sum(), np.log(0.2 * 0.8**4), rtol=1e-5)
    assert mle.to_datatree(NOTHING, TOSSES)["posterior"]["w1"].shape == (1, 1, 0, 1)
    assert "0.500" in str(compare({"MLE": mle}, NOTHING, TOSSES))  # -log likelihood / 5
    curve = likelihood_curve(model, NOTHING, TOSSES, "b1", np.log(P[1:-1] / (1 - P[1:-1])))
    np.testing.assert_allclose(curve.likelihood, P[1:-1] * (1 - P[1:-1]) ** 4, rtol=1e-12)
    assert abs(curve.mle[0] - mle.draws["b1"].item()) < 1e-5
    map_ = fit(model, MAP(), NOTHING, TOSSES, key=0, progress=False)
    bias = scipy.optimize.brentq(lambda b: 1 - 5 / (1 + np.exp(-b)) - b / 4, -5, 5)  # where the slope is 0
    assert map_.draws["b1"].item() == pytest.approx(bias, abs=1e-4)


def test_other_kinds_of_no_inputs() -> None:
    """A data frame without columns; batches of rows without features."""
    result = fit(Model(MLP(), Bernoulli()), MLE(), pd.DataFrame(index=range(5)), TOSSES, key=0, progress=False)
    assert result.draws["b1"].item() == pytest.approx(np.log(0.25), abs=1e-5)
    method = MLE(num_steps=500, batch_size=2, polish=False)
    batches = fit(Model(MLP(), Bernoulli()), method, NOTHING, TOSSES, key=0, progress=False)
    assert batches.draws["b1"].item() == pytest.approx(np.log(0.25), abs=0.5)


def test_a_gaussian_without_inputs() -> None:
    model = Model(MLP(), Normal(scale=dist.HalfNormal(5.0)), gaussian(5.0))
    mle = fit(model, MLE(), np.zeros((3, 0)), TRIPLE, key=0, progress=False)
    assert mle.status
    assert mle.draws["b1"].item() == pytest.approx(0.0, abs=1e-4)
    assert mle.draws["scale"].item() == pytest.approx(np.sqrt(2 / 3), abs=1e-4)
    surface = likelihood_surface(model, np.zeros((3, 0)), TRIPLE, ("b1", "scale"), (MU, SIGMA))
    expected = scipy.stats.norm.logpdf(TRIPLE, MU[:, None, None], SIGMA[:, None]).sum(axis=-1)
    np.testing.assert_allclose(surface.log_likelihood, expected, rtol=1e-12)


def test_hidden_layers_without_inputs() -> None:
    """Two layers: the second sees activations of the biases of the first."""
    model = Model(MLP((3,), "tanh"), Bernoulli(), fan_in(1.0))
    result = fit(model, MAP(num_steps=20, polish=False), NOTHING, TOSSES, key=0, progress=False)
    assert result.draws["w1"].shape == (1, 1, 0, 3)
    at = {site: value[0, 0] for site, value in result.draws.items()}
    curve = likelihood_curve(model, NOTHING, TOSSES, "b1[1]", [0.0, 1.0], at=result)
    hidden = np.tanh(at["b1"].astype(float))
    for value, log_likelihood in zip((0.0, 1.0), curve.log_likelihood, strict=True):
        hidden[1] = np.tanh(value)
        p = 1 / (1 + np.exp(-(hidden @ at["w2"].astype(float)[:, 0] + at["b2"].astype(float)[0])))
        assert log_likelihood == pytest.approx(np.log(p * (1 - p) ** 4), rel=1e-10)


# Bad input

X2, Y2 = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]]), np.array([1.0, 0.5, -0.5])
AT2: dict[str, Any] = {"w1": np.zeros((2, 1)), "b1": np.zeros(1)}
AT_G: dict[str, Any] = {"mu": 0.0, "sigma": 1.0}
UNIT = coin(dist.Uniform(0, 1))
GRID = [-1.0, 0.0, 1.0]


def curve_of_line(along: Any = "b1", values: Any = GRID, at: Any = AT2) -> Likelihood:
    return likelihood_curve(LINE, X2, Y2, along, values, at=at)


def curve_of_gaussian(along: Any = "mu", values: Any = GRID, at: Any = AT_G) -> Likelihood:
    return likelihood_curve(gaussian_sample, np.zeros((3, 0)), TRIPLE, along, values, at=at)


def surface_of_gaussian(along: Any = ("mu", "sigma"), values: Any = (GRID, [0.5, 1.0]), at: Any = None) -> Likelihood:
    return likelihood_surface(gaussian_sample, np.zeros((3, 0)), TRIPLE, along, values, at=at)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown site": (
        lambda: curve_of_line("w9"),
        ValueError,
        r"Expected one of the sites \['w1', 'b1'\]; got 'w9'",
    ),
    "empty label": (lambda: curve_of_line(""), ValueError, "Expected one of the sites"),
    "negative index": (
        lambda: curve_of_line("w1[-1, 0]"),
        ValueError,
        r"Expected one of the sites .* got 'w1\[-1, 0\]'",
    ),
    "index out of range": (
        lambda: curve_of_line("w1[2, 0]"),
        ValueError,
        r"'w1\[2, 0\]': expected an index into shape \(2, 1\)",
    ),
    "index with too few numbers": (
        lambda: curve_of_line("w1[1]"),
        ValueError,
        r"'w1\[1\]': expected an index into shape",
    ),
    "index into a number": (lambda: curve_of_gaussian("mu[0]"), ValueError, r"expected an index into shape \(\)"),
    "site of several elements": (
        lambda: curve_of_line("w1"),
        ValueError,
        r"has shape \(2, 1\): name one element, such as 'w1\[0, 0\]'",
    ),
    "site of no elements": (
        lambda: likelihood_curve(Model(MLP(), Bernoulli()), NOTHING, TOSSES, "w1", GRID),
        ValueError,
        r"has shape \(0, 1\)",
    ),
    "axis that is a number": (lambda: curve_of_line(3), TypeError, "Expected a fit or a mapping .* got 3"),
    "grid that falls": (lambda: curve_of_line(values=[1.0, 0.0]), ValueError, "at least two increasing finite numbers"),
    "grid that repeats": (lambda: curve_of_line(values=[0.0, 0.0]), ValueError, "increasing finite"),
    "grid of one": (lambda: curve_of_line(values=[1.0]), ValueError, r"at least two .* got shape \(1,\)"),
    "grid with NaN": (lambda: curve_of_line(values=[0.0, np.nan]), ValueError, "finite numbers"),
    "grid in two dimensions": (lambda: curve_of_line(values=[[0.0, 1.0]]), ValueError, r"got shape \(1, 2\)"),
    "grid of words": (lambda: curve_of_line(values=["a", "b"]), TypeError, "grid of increasing finite numbers"),
    "probability above 1": (
        lambda: likelihood_curve(UNIT, NOTHING, TOSSES, "p", [0.0, 0.5, 1.25]),
        ValueError,
        r"Site 'p', at p = 1.25: expected a value in .*1.*; got 1.25",
    ),
    "probability above 1, flat prior": (
        lambda: likelihood_curve(flat(UNIT), NOTHING, TOSSES, "p", [0.0, 0.5, 1.25]),
        ValueError,
        "Site 'p', at p = 1.25",
    ),
    "scale of 0": (
        lambda: surface_of_gaussian(values=(GRID, [0.0, 1.0])),
        ValueError,
        "Site 'sigma', at mu = -1, sigma = 0: expected a positive number; got 0",
    ),
    "direction to a negative scale": (
        lambda: curve_of_gaussian({"mu": 0.0, "sigma": 1.0}, [-2.0, 0.0]),
        ValueError,
        "Site 'sigma', at step along the direction = -2: expected a positive number; got -1",
    ),
    "support that depends on a site": (
        lambda: likelihood_curve(
            bounded_by_another, X2, Y2, "level", [0.5, 1.5, 2.5], at={"top": np.array(2.0), "level": np.array(1.0)}
        ),
        ValueError,
        "Site 'level', at level = 2.5",
    ),
    "one probability of three": (
        lambda: likelihood_curve(simplex, X2, np.array([0, 1, 2]), "p[0]", [0.2, 0.4], at={"p": np.ones(3) / 3}),
        ValueError,
        r"Site 'p', at p\[0\] = 0.2: expected probabilities that sum to 1",
    ),
    "infinite density": (
        lambda: likelihood_curve(coin(dist.Beta(0.5, 0.5)), NOTHING, TOSSES, "p", [0.0, 0.5]),
        ValueError,
        "The density is infinite at p = 0: leave it out",
    ),
    "missing at": (lambda: curve_of_line(at=None), ValueError, "Expected `at`.* the model has 3 weights"),
    "missing at, direction": (lambda: curve_of_line(AT2, at=None), ValueError, "Expected `at`"),
    "at of another shape": (
        lambda: curve_of_line(at={**AT2, "w1": np.zeros(2)}),
        ValueError,
        r"Site 'w1': expected numbers of shape \(2, 1\); got float64 of \(2,\)",
    ),
    "at without a site": (lambda: curve_of_line(at={"b1": np.zeros(1)}), ValueError, r"for the sites .* got \['b1'\]"),
    "at with one more site": (lambda: curve_of_line(at={**AT2, "z": 0.0}), ValueError, "Expected values for the sites"),
    "at of words": (
        lambda: curve_of_line(at={**AT2, "b1": np.array(["a"])}),
        ValueError,
        "Site 'b1': expected numbers",
    ),
    "at that is an array": (lambda: curve_of_line(at=np.zeros(3)), TypeError, "Expected a fit or a mapping"),
    "at out of the support": (
        lambda: curve_of_gaussian(at={"mu": 0.0, "sigma": -1.0}),
        ValueError,
        "Site 'sigma', at mu = -1: expected a positive number; got -1",
    ),
    "at with NaN": (
        lambda: curve_of_gaussian(at={"mu": 0.0, "sigma": np.nan}),
        ValueError,
        "Site 'sigma'.* expected a positive number; got nan",
    ),
    "direction of length 0": (
        lambda: curve_of_line({site: 0 * value for site, value in AT2.items()}),
        ValueError,
        "Expected a direction; got one of length 0",
    ),
    "direction of another shape": (
        lambda: curve_of_line({"w1": np.ones((1, 2)), "b1": np.zeros(1)}),
        ValueError,
        r"Site 'w1': expected numbers of shape \(2, 1\)",
    ),
    "one axis for a surface": (
        lambda: surface_of_gaussian("mu"),
        ValueError,
        "expected two axes and two grids; got 'mu'",
    ),
    "one grid for a surface": (lambda: surface_of_gaussian(values=(GRID,)), ValueError, "and 1 grids"),
    "one direction for a surface": (
        lambda: surface_of_gaussian(AT_G, at=AT_G),
        ValueError,
        "expected two axes and two grids",
    ),
    "the same axis twice": (
        lambda: surface_of_gaussian(("mu", "mu"), (GRID, GRID), AT_G),
        ValueError,
        "Expected two different axes; got 'mu' twice",
    ),
    "rows that differ": (
        lambda: likelihood_curve(UNIT, NOTHING, TOSSES[:4], "p", [0.2, 0.4]),
        ValueError,
        "Expected as many rows in y as in x, 5",
    ),
    "y out of its support": (
        lambda: likelihood_curve(waiting_times, X2, Y2, "rate", [0.5, 1.0]),
        ValueError,
        "y, row 2: expected a .*; got -0.5",
    ),
    "unknown picture": (
        lambda: plot_likelihood(curve_of_line(at=AT2, along="w1[0, 0]"), what="evidence"),
        ValueError,
        "one of likelihood, log_likelihood, posterior; got 'evidence'",
    ),
    "picture of something else": (
        lambda: plot_likelihood(np.zeros(3)),
        TypeError,
        "expected the result of likelihood_curve or likelihood_surface",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    (call, error, message), before = BAD[name], plt.get_fignums()
    with pytest.raises(error, match=message):
        call()
    assert plt.get_fignums() == before


def test_a_direction_to_where_one_stands_has_length_0() -> None:
    result = fit(LINE, MAP(num_steps=10), X2, Y2, key=0, progress=False)
    with pytest.raises(ValueError, match="got one of length 0"):
        likelihood_curve(LINE, X2, Y2, result, [0.0, 1.0], at=result)


def test_a_likelihood_that_is_nowhere_finite_is_refused() -> None:
    def never(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(w, 1.0).mask(True), obs=y)
        numpyro.factor("nothing", -jnp.inf)

    with pytest.raises(ValueError, match="finite on the grid; it starts with -inf"):
        likelihood_curve(never, X2, Y2, "w", GRID)


# Pictures

WHATS = ("likelihood", "log_likelihood", "posterior")


@pytest.fixture
def no_display() -> Iterator[None]:
    backend = mpl.get_backend()
    mpl.use("Agg")
    yield
    plt.close("all")
    mpl.use(backend)


def marks(ax: Axes) -> dict[str, tuple[float, float]]:
    """Where the markers are."""
    return {
        str(line.get_label()): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.lines
        if line.get_marker() not in (None, "None", "")
    }


def lines(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_ydata() for line in ax.lines if len(line.get_xdata()) > 1}


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("what", WHATS)
def test_a_curve_with_its_peaks(what: Any) -> None:
    curve = likelihood_curve(coin(dist.Beta(3.0, 3.0)), NOTHING, TOSSES, "p", P)
    _, ax = plt.subplots()
    assert plot_likelihood(curve, ax, what=what) is ax
    ax.figure.canvas.draw()
    heights = {
        "likelihood": (0.2 * 0.8**4, (1 / 3) * (2 / 3) ** 4),
        "log_likelihood": (np.log(0.2 * 0.8**4), np.log((1 / 3) * (2 / 3) ** 4)),
        "posterior": (30 * 0.2 * 0.8**4, scipy.stats.beta(4, 7).pdf(1 / 3)),  # of Beta(2, 5) and of Beta(4, 7)
    }[what]
    result = marks(ax)
    assert result["MLE"] == pytest.approx((0.2, heights[0]), rel=1e-3)
    assert result["MAP"] == pytest.approx((1 / 3, heights[1]), rel=1e-3)
    assert {"MLE 0.2", "MAP 0.333"} <= set(texts(ax))
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "p",
        {"likelihood": "likelihood", "log_likelihood": "log likelihood, nats", "posterior": "density"}[what],
    )


@pytest.mark.usefixtures("no_display")
def test_the_lines_of_a_curve() -> None:
    curve = likelihood_curve(coin(dist.Beta(3.0, 3.0)), NOTHING, TOSSES, "p", P)
    drawn = {what: lines(plot_likelihood(curve, what=what)) for what in WHATS}
    names = {
        "likelihood": ["likelihood", "prior, scaled"],
        "log_likelihood": ["log likelihood", "log prior, shifted"],
        "posterior": ["likelihood, scaled", "prior", "posterior"],
    }
    assert {what: list(result) for what, result in drawn.items()} == names
    np.testing.assert_array_equal(drawn["likelihood"]["likelihood"], curve.likelihood)
    np.testing.assert_array_equal(drawn["log_likelihood"]["log likelihood"], curve.log_likelihood)
    np.testing.assert_array_equal(drawn["posterior"]["posterior"], curve.posterior)
    np.testing.assert_array_equal(drawn["posterior"]["prior"], curve.prior)
    assert drawn["likelihood"]["prior, scaled"].max() == pytest.approx(curve.likelihood.max())
    assert np.trapezoid(drawn["posterior"]["likelihood, scaled"], P) == pytest.approx(1.0)


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("model", [UNIT, flat(coin(dist.Beta(3.0, 3.0)))], ids=["uniform", "flat"])
def test_a_flat_prior_is_not_drawn(what: Any, model: Any) -> None:
    ax = plot_likelihood(likelihood_curve(model, NOTHING, TOSSES, "p", P), what=what)
    assert (list(marks(ax)), len(lines(ax)), texts(ax)) == (["MLE"], 1, ["MLE 0.2"])


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("what", WHATS)
def test_a_surface_with_its_peaks(what: Any) -> None:
    left = np.linspace(-2, 1, 31)  # whose middle is not the peak
    surface = likelihood_surface(gaussian_sample, np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), (left, SIGMA))
    _, ax = plt.subplots()
    assert plot_likelihood(surface, ax, what=what) is ax
    ax.figure.canvas.draw()
    assert marks(ax) == {"MLE": surface.mle, "MAP": surface.map}
    assert surface.mle == pytest.approx((0, np.sqrt(2 / 3)), abs=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mu", "sigma")
    bands, contours, prior = (result for result in ax.collections if isinstance(result, QuadContourSet))
    assert any(text.startswith("prior 0.") for text in texts(ax))
    path = contours.get_paths()[-1].vertices  # the highest contour is around the peak that is marked
    peak = surface.map if what == "posterior" else surface.mle
    assert (path.min(axis=0) < peak).all()
    assert (path.max(axis=0) > peak).all()
    assert bands.get_paths()
    assert prior.get_paths()
    ax = plot_likelihood(
        likelihood_surface(flat(gaussian_sample), np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), (MU, SIGMA)), what=what
    )
    assert list(marks(ax)) == ["MLE"]
    assert sum(isinstance(result, QuadContourSet) for result in ax.collections) == 2


@pytest.mark.usefixtures("no_display")
def test_an_underflow_is_drawn_relative_and_the_axis_says_so() -> None:
    many = np.tile(TOSSES, 1000)
    curve = likelihood_curve(coin(dist.Beta(2.0, 2.0)), np.zeros((5000, 0)), many, "p", P[1:-1])
    ax = plot_likelihood(curve)
    assert ax.get_ylabel().startswith("relative likelihood")
    assert lines(ax)["likelihood"].max() == 1.0
    assert marks(ax)["MLE"] == pytest.approx((0.2, 1.0))
    assert "MLE, MAP 0.2" in texts(ax)  # on one point of the grid: one label
    for what in WHATS:
        plot_likelihood(curve, what=what).figure.canvas.draw()


@pytest.mark.usefixtures("no_display")
def test_a_peak_on_the_edge_of_the_grid_says_so() -> None:
    ax = plot_likelihood(likelihood_curve(UNIT, NOTHING, TOSSES, "p", [0.3, 0.4, 0.5]))
    assert texts(ax) == ["MLE 0.3, edge of the grid"]


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("what", WHATS)
def test_grids_without_contours_and_infinite_log_densities_are_drawn(what: Any) -> None:
    near = likelihood_surface(
        gaussian_sample, np.zeros((3, 0)), TRIPLE, ("mu", "sigma"), ([-0.01, 0.0, 0.01], [0.81, 0.82, 0.83])
    )
    plot_likelihood(near, what=what).figure.canvas.draw()
    constant = replace(near, log_likelihood=np.zeros((3, 3)), log_prior=np.zeros((3, 3)))
    plot_likelihood(constant, what=what).figure.canvas.draw()
    edges = likelihood_curve(coin(dist.Beta(3.0, 3.0)), NOTHING, TOSSES, "p", np.linspace(0, 1, 5))
    assert edges.log_prior[0] == -np.inf
    plot_likelihood(edges, what=what).figure.canvas.draw()
