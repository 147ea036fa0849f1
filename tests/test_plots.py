"""Pictures of fits: what the lines, bands and maps are, for every method on every kind of y."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats
from jax import Array
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_hex

from flatprior.inference import MAP, MCLMC, MLE, Comparison, Ensemble, Fit, compare, cross_validate, fit
from flatprior.inference.checks import Layout, check_problem
from flatprior.inference.criticism import calibration, uncertainty
from flatprior.inference.criticism.table import Entry, tabulate
from flatprior.inference.plots import plot_calibration, plot_compare, plot_decision, plot_fit, plot_loss
from flatprior.inference.plots.style import METHODS as STYLES
from flatprior.inference.plots.style import styles_of
from flatprior.inference.status import Status
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

from .tables import some_by_default

QUICK: dict[str, Any] = {"num_steps": 80, "polish": False}
METHODS: dict[str, Any] = {
    "MLE": MLE(**QUICK),
    "MAP": MAP(**QUICK, num_restarts=2),
    "Ensemble": Ensemble(base=MAP(**QUICK), num_members=3),
    "MCLMC": MCLMC(num_warmup=100, num_samples=15, thinning=3, num_chains=3, start=None),
}
MODELS: dict[str, tuple[Model, str]] = {
    "Bernoulli": (Model(MLP(), Bernoulli()), "binary"),
    "Categorical": (Model(MLP(), Categorical(3)), "classes"),
    "Normal, fixed scale": (Model(MLP(), Normal(0.5), gaussian(2.0)), "real"),
    "Normal, learned scale": (Model(MLP(), Normal(dist.HalfNormal(1.0))), "real"),
    "Normal, scale of the network": (Model(MLP((2,), "tanh"), Normal("network"), fan_in()), "real"),
}
NUM_CLASSES = {"Bernoulli": 2, "Categorical": 3}
every_fit = pytest.mark.parametrize(
    ("name", "method"),
    some_by_default(
        product(MODELS, METHODS),
        *product(["Bernoulli"], METHODS),
        *product(MODELS, ["MLE"]),
    ),
)
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module", autouse=True)
def unseen() -> Iterator[None]:
    """Figures go to no screen, and are closed."""
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    yield
    plt.close("all")
    matplotlib.use(before)


LEADING = {"MLE": (1, 1), "MAP": (1, 1), "Ensemble": (1, 6), "MCLMC": (3, 2)}
"""Chains and draws of the fits whose draws are made up."""


@pytest.fixture(scope="module")
def fitted(data_sets: Any) -> Callable[[str, str, int], tuple[Fit, np.ndarray, np.ndarray]]:
    """(model, method, dimensions of x) -> a fit and its rows.

    Each method runs on one model, along a line. For the others draws are made up, since a picture is of draws wherever
    they come from, and compiling a sampler for each takes minutes.
    """
    stored: dict[tuple[str, str, int], Fit] = {}

    def get(name: str, method: str, dimensions: int) -> tuple[Fit, np.ndarray, np.ndarray]:
        model, rows = MODELS[name]
        x, y = data_sets[rows]
        x = x[:, :dimensions]
        case = (name, method, dimensions)
        if case not in stored and (name, dimensions) == ("Bernoulli", 1):
            stored[case] = fit(model, METHODS[method], x, y, key=0, progress=False)
        elif case not in stored:
            stored[case] = made_up(get("Bernoulli", method, 1)[0], model, x, y, LEADING[method])
        return stored[case], x, y

    return get


def made_up(of: Fit, model: Any, x: Any, y: np.ndarray, leading: tuple[int, int]) -> Fit:
    """A fit by the same method of another model, with draws and losses from a random number generator."""
    density, rows = check_problem(model, x, y)
    rng = np.random.default_rng(density.structure.num_weights)
    draws = {site: 0.7 * rng.normal(size=leading + shape) for site, shape in density.structure.latents.items()}
    draws = {site: (np.abs(value) if site == "scale" else value).astype(np.float32) for site, value in draws.items()}
    losses = {"loss": rng.normal(size=of.stats["loss"].shape)} if "loss" in of.stats else {}
    outcome = replace(of.outcome, draws=draws, stats=losses)
    return replace(of, density=density, layout=Layout.of(x, rows.x), outcome=outcome)


def drawn(ax: Any) -> None:
    """Draw it for good: what cannot be drawn raises here."""
    ax.figure.canvas.draw()
    plt.close(ax.figure)


def lines(ax: Any, length: int) -> list[np.ndarray]:
    """The heights of the lines along a grid of this length."""
    return [np.asarray(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) == length]


def ends(fill: PolyCollection, grid: np.ndarray) -> np.ndarray:
    """The lower and the upper end of a band, (2, m)."""
    x, y = fill.get_paths()[0].vertices.T
    return np.array([[end(y[np.isclose(x, at)]) for at in grid] for end in (np.min, np.max)])


# Styles.

OWN: dict[str, tuple[str, str | None, str | None]] = {
    # name, method of the fit, method whose style it has
    "upper case": ("MLE", None, "MLE"),
    "lower case": ("map", None, "MAP"),
    "a word of a longer name": ("MAP, tanh", "NUTS", "MAP"),
    "with digits": ("mle_2", None, "MLE"),
    "no word": ("mapped", None, None),
    "NUTS": ("NUTS", None, "posterior"),
    "MCLMC": ("long MCLMC", None, "posterior"),
    "an ensemble of MAPs": ("ensemble of 5 MAP", None, "ensemble"),
    "Laplace at the MAP": ("Laplace (MAP)", None, "Laplace"),
    "by the method of the fit": ("tanh", "Ensemble", "ensemble"),
    "by the kind of the fit": ("tanh", "chain", "posterior"),
    "some weights given others": ("NUTS of w2 given the rest by MAP", None, None),
    "neither": ("tanh", "point", None),
}


@pytest.mark.parametrize("case", OWN)
def test_a_fit_has_the_style_of_its_method(case: str) -> None:
    name, method, expected = OWN[case]
    style = styles_of(["other", name], {} if method is None else {name: method})[name]
    own = {key for key, value in STYLES.items() if value == style}
    assert own == (set() if expected is None else {expected})


def test_other_fits_have_styles_that_no_method_has() -> None:
    names = ["MAP, first", "MAP, again", *(method for method in STYLES if method != "MAP"), *"abcd"]
    styles = styles_of(names)
    assert styles.keys() == set(names)
    assert len({style.color for style in styles.values()}) == len(names)
    assert len({style.marker for style in styles.values()}) == len(names)
    assert styles["MAP, first"] == STYLES["MAP"]
    assert all(styles[name] == STYLES[name] for name in STYLES if name != "MAP")
    assert styles["MAP, again"].color not in {style.color for style in STYLES.values()}
    many = styles_of(map(str, range(30)))
    assert len({style.line["color"] + str(style.dash) for style in many.values()}) == 30


@pytest.mark.slow
def test_a_method_has_one_colour_in_every_figure(fitted: Any) -> None:
    """Along a line, in losses, in comparisons and in calibrations, whatever the fit is called."""
    for name, method in [("MLE", "MLE"), ("tanh", "Ensemble"), ("posterior", "MCLMC")]:
        fitted_model, x, y = fitted("Bernoulli", method, 1)
        other = fitted("Bernoulli", "MAP", 1)[0]
        fits = {"something": other, name: fitted_model}
        colour = STYLES[{"Ensemble": "ensemble", "MCLMC": "posterior"}.get(method, method)].color
        along = plot_fit(fits, x, y)
        assert next(line for line in along.lines if line.get_label() == name).get_color() == colour
        if "loss" in fitted_model.stats:
            losses = plot_loss(fits)
            assert next(line for line in losses.lines if line.get_label() == name).get_color() == colour
        if name != "tanh":  # a comparison knows the names alone, and whether a fit is of chains
            scores = plot_compare(compare(fits, x, y))
            assert colour in {line.get_color() for line in scores.lines if line.get_marker() == "o"}
            curves = plot_calibration({each: calibration(of, x, y) for each, of in fits.items()})
            assert next(line for line in curves.lines if line.get_label() == name).get_color() == colour
        plt.close("all")


# One dimension.

GRID = np.linspace(-2.0, 2.0, 23)


@every_fit
def test_lines_are_what_is_predicted_and_bands_its_quantiles(fitted: Any, name: str, method: str) -> None:
    fitted_model, x, y = fitted(name, method, 1)
    ax = plot_fit(fitted_model, x, y, grid=GRID)
    predictive, heights = fitted_model.predict(GRID[:, None]), lines(ax, len(GRID))
    fills = [each for each in ax.collections if isinstance(each, PolyCollection)]
    num_draws = math.prod(fitted_model.draws["w1"].shape[:2])
    if name in NUM_CLASSES:
        binary = NUM_CLASSES[name] == 2
        probs, draws = predictive.probs, predictive.component_means
        shown = [(probs, draws)] if binary else [(probs[:, k], draws[..., k]) for k in range(3)]
        assert len(heights) == len(shown)
        for line, (expected, _) in zip(heights, shown, strict=True):
            np.testing.assert_allclose(line, expected, rtol=1e-6)
        assert len(fills) == (0 if num_draws == 1 else 2 if binary else 3)
        for i, fill in enumerate(fills):
            levels = (0.25, 0.75) if binary and i == 1 else (0.05, 0.95)
            of = shown[0 if binary else i][1]
            np.testing.assert_allclose(ends(fill, GRID), np.quantile(of, levels, axis=0), rtol=1e-5)
    else:
        np.testing.assert_allclose(heights[0], predictive.mean, rtol=1e-6)
        assert len(fills) == 2
        for fill, level in zip(fills, (0.05, 0.25), strict=True):
            np.testing.assert_allclose(ends(fill, GRID), predictive.quantile([level, 1 - level]), rtol=1e-5, atol=1e-6)
        assert len(heights) == (1 if num_draws == 1 else 3)
        if num_draws > 1:
            means = np.quantile(predictive.component_means, [0.05, 0.95], axis=0)
            np.testing.assert_allclose(heights[1:], means, rtol=1e-5, atol=1e-6)
    drawn(ax)


def test_the_band_of_a_point_is_that_of_its_noise(fitted: Any) -> None:
    fitted_model, x, y = fitted("Normal, fixed scale", "MAP", 1)
    ax = plot_fit(fitted_model, x, y, grid=GRID)
    mean = fitted_model.draws["w1"].item() * GRID + fitted_model.draws["b1"].item()
    for fill, z in zip(ax.collections, scipy.stats.norm.ppf([0.95, 0.75]), strict=True):
        np.testing.assert_allclose(ends(fill, GRID), [mean - 0.5 * z, mean + 0.5 * z], atol=1e-5)
    plt.close(ax.figure)


@every_model
def test_several_fits_are_distinguished_without_colour(fitted: Any, name: str) -> None:
    fits, (_, x, y) = {method: fitted(name, method, 1)[0] for method in METHODS}, fitted(name, "MLE", 1)
    ax = plot_fit(fits, x, y)
    labels = ax.get_legend_handles_labels()[1]
    assert all(sum(label.startswith(method) for label in labels) >= 1 for method in METHODS)
    assert sum("Ensemble, 50%" in label or "Ensemble, 90% of the draws" in label for label in labels) == 1
    assert not any("MAP, 50%" in label or "MAP, 90%" in label for label in labels)
    thick = [line for line in ax.lines if line.get_linewidth() == 2.0 and not line.get_label().startswith("_")]
    assert len(thick) == len(METHODS)
    dashes = {str(line._unscaled_dash_pattern) for line in thick[:4]}
    assert len(dashes) == 4
    drawn(ax)


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_classes_are_ticks_at_their_rows(fitted: Any, name: str) -> None:
    fitted_model, x, y = fitted(name, "MAP", 1)
    ax = plot_fit(fitted_model, x, y)
    ticks = [line for line in ax.lines if line.get_marker() == "|"]
    for k, line in enumerate(ticks):
        np.testing.assert_allclose(np.sort(line.get_xdata()), np.sort(x[y == k, 0]))
    assert len({line.get_ydata()[0] for line in ticks}) == NUM_CLASSES[name] == len(ticks)
    named = [text.get_text() for text in ax.texts]
    assert [f"y = {k}" for k in range(NUM_CLASSES[name])] == [text for text in named if text.startswith("y =")]
    soft = 0.9 * np.eye(3)[y] + 0.1 / 3
    if name == "Categorical":
        again = plot_fit(fitted_model, x, soft)
        for one, other in zip(ticks, [line for line in again.lines if line.get_marker() == "|"], strict=True):
            np.testing.assert_array_equal(one.get_xdata(), other.get_xdata())
    plt.close("all")


def test_axes_labels_and_grid_are_those_given(fitted: Any) -> None:
    fitted_model, x, y = fitted("Normal, fixed scale", "MAP", 1)
    frame = pd.DataFrame(x, columns=["age"])
    fitted_model = replace(fitted_model, layout=Layout.of(frame, x))
    _, ax = plt.subplots()
    assert plot_fit({"a": fitted_model}, frame, y, ax) is ax
    assert ax.get_xlabel() == "age"
    low, high = x[:, 0].min(), x[:, 0].max()
    np.testing.assert_allclose(ax.get_xlim(), [low - 0.05 * (high - low), high + 0.05 * (high - low)], rtol=1e-5)
    assert len(lines(ax, 201)) == 1
    plt.close("all")


def plain(x: Array, y: Array | None = None) -> None:
    """Rows of x are numbers, not vectors of one number; y is a count, which has quantiles."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("count", dist.Poisson(jnp.exp(slope * x)), obs=y)


def of_four(x: Array, y: Array | None = None) -> None:
    """Finite, but a count with a mean, and without quantiles, as NumPyro has no cdf of it."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("count", dist.Binomial(4, logits=slope * x), obs=y)


@pytest.mark.parametrize("model", [plain, of_four])
def test_counts_are_drawn_by_their_mean(fitted: Any, model: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = rng.binomial(4, 1 / (1 + np.exp(-x)))
    fitted_model = made_up(fitted("Bernoulli", "MCLMC", 1)[0], model, x, y, (2, 3))
    ax = plot_fit(fitted_model, x, y, grid=GRID)
    heights = lines(ax, len(GRID))
    np.testing.assert_allclose(heights[0], fitted_model.predict(GRID).mean, rtol=1e-5)
    assert len(heights) == 3
    assert len(ax.collections) == 2, "bands of 50% and 90% of y"
    assert ax.get_ylabel() == "count"
    drawn(ax)


# Two dimensions.


def shown_map(ax: Any) -> np.ndarray:
    (mesh,) = (each for each in ax.collections if isinstance(each, QuadMesh))
    return np.asarray(mesh.get_array())


@every_fit
def test_maps_are_what_is_predicted_and_the_epistemic_part(fitted: Any, name: str, method: str) -> None:
    fitted_model, x, y = fitted(name, method, 2)
    left, right = plot_decision(fitted_model, x, y, num_points=15)
    reach = [np.linspace(*left.get_xlim(), 15), np.linspace(*left.get_ylim(), 15)]
    places = np.array([[(a, b) for a in reach[0]] for b in reach[1]]).reshape(-1, 2)
    predictive, split = fitted_model.predict(places), uncertainty(fitted_model, places)
    spread = split.epistemic if name in NUM_CLASSES else predictive.component_means.std(axis=0)
    np.testing.assert_allclose(shown_map(right).ravel(), spread, rtol=1e-3, atol=1e-4)
    assert ("0 for a point estimate" in right.get_title(loc="left")) == (fitted_model.kind == "point")
    if name == "Categorical":
        probs, colours = predictive.probs, shown_map(left).reshape(-1, 3)
        for k, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
            most = colours[probs.argmax(axis=1) == k]
            full = np.array(matplotlib.colors.to_rgb(colour))
            if len(most):  # a tint: as far from white in each channel as the colour, times one share
                shares = (1 - most) / (1 - full)
                np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), atol=1e-6)
    else:
        expected = predictive.probs if name == "Bernoulli" else predictive.mean
        np.testing.assert_allclose(shown_map(left).ravel(), expected, rtol=1e-4, atol=1e-5)
    offsets = np.concatenate(
        [each.get_offsets() for each in left.collections if type(each).__name__ == "PathCollection"]
    )
    assert len(offsets) == len(x)
    assert {tuple(row) for row in np.round(offsets, 4).tolist()} == {tuple(row) for row in np.round(x, 4).tolist()}
    drawn(left)


def contours(ax: Any) -> np.ndarray:
    paths = [path for each in ax.collections if "Contour" in type(each).__name__ for path in each.get_paths()]
    return np.concatenate([path.vertices for path in paths])


def test_the_boundary_is_where_the_logits_are_equal(fitted: Any) -> None:
    """Of a linear model it is a line: logits are linear in x, and so is the place where two of them are equal."""
    fitted_model, x, y = fitted("Bernoulli", "MAP", 2)
    left, _ = plot_decision(fitted_model, x, y)
    w, b = fitted_model.draws["w1"][0, 0, :, 0], fitted_model.draws["b1"].item()
    vertices = contours(left)
    distance = np.abs(vertices @ w + b) / np.linalg.norm(w)
    assert len(vertices) > 20
    assert distance.max() < 0.01  # of a plane that is about 5 across, in cells of 0.06
    fitted_model, x, y = fitted("Categorical", "MAP", 2)
    left, _ = plot_decision(fitted_model, x, y)
    vertices = contours(left)
    logits = np.sort(vertices @ fitted_model.draws["w1"][0, 0] + fitted_model.draws["b1"][0, 0], axis=1)
    assert np.quantile(logits[:, -1] - logits[:, -2], 0.95) < 0.02
    plt.close("all")


def test_each_class_has_a_marker_of_its_own(fitted: Any) -> None:
    fitted_model, x, y = fitted("Categorical", "MAP", 2)
    _, right = plot_decision(fitted_model, x, y, num_points=9)
    handles, labels = right.get_legend_handles_labels()
    assert labels == ["0", "1", "2"]
    assert len({str(handle.get_paths()[0].vertices.tolist()) for handle in handles}) == 3
    assert len({to_hex(handle.get_facecolor()[0]) for handle in handles}) == 3
    plt.close("all")


# Losses.


@pytest.mark.parametrize("method", ["MLE", "MAP", "Ensemble"])
@every_model
def test_lines_are_the_losses(fitted: Any, name: str, method: str) -> None:
    fitted_model, _, y = fitted(name, method, 1)
    for num_rows in (None, len(y)):
        ax = plot_loss(fitted_model, num_rows=num_rows)
        losses = fitted_model.stats["loss"] / (num_rows or 1)
        assert len(ax.lines) == len(losses)
        for line, loss in zip(ax.lines, losses, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 81))
            np.testing.assert_allclose(line.get_ydata(), loss)
        assert ax.get_ylabel() == ("loss, nats per row" if num_rows else "loss, nats")
        assert ax.get_xscale() == "log"
        positive = losses.min() > 0 and losses.max() > 10 * losses.min()
        assert ax.get_yscale() == ("log" if positive else "linear")
        thick = [i for i, line in enumerate(ax.lines) if line.get_linewidth() > 1]
        assert thick == ([] if method == "Ensemble" else [int(losses[:, -1].argmin())])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [method]
        drawn(ax)


def test_losses_that_span_much_are_on_a_logarithmic_axis_and_gaps_stay_gaps(fitted: Any) -> None:
    fitted_model, _, _ = fitted("Bernoulli", "MAP", 1)
    loss = np.geomspace(1000.0, 10.0, 80)[None].repeat(2, axis=0)
    loss[0, 50:] = np.nan  # a restart that was lost, at a loss above the other's end
    ax = plot_loss({"a": replace(fitted_model, outcome=replace(fitted_model.outcome, stats={"loss": loss}))})
    assert ax.get_yscale() == "log"
    assert [line.get_linewidth() > 1 for line in ax.lines] == [False, True]
    drawn(ax)


# Comparisons.


def entry(log_prob: np.ndarray, status: Status | None = None) -> Entry:
    return Entry(log_prob[None], {}, "point", (Status() if status is None else status,), 0.0, 0.0)


RNG = np.random.default_rng(5)
BASE = RNG.normal(size=50) - 1.0
TABLES: dict[str, dict[str, np.ndarray]] = {
    "near": {"a": BASE, "b": BASE - RNG.normal(0.2, 0.3, 50), "c": BASE - RNG.normal(0.5, 0.3, 50)},
    "one": {"a": BASE},
    "equal": {"a": BASE, "b": BASE},
    "far": {"a": BASE, "b": BASE - RNG.normal(0.2, 0.1, 50), "far": BASE - 500, "further": BASE - 600},
    "not finite": {"bad": np.where(np.arange(50) == 3, -np.inf, BASE), "a": BASE, "none": np.full(50, np.nan)},
    "none is finite": {"bad": np.full(50, -np.inf), "none": np.full(50, np.nan)},
}
FAR = {"far": ["far", "further"], "not finite": ["bad", "none"], "none is finite": ["bad", "none"]}


@pytest.mark.parametrize("name", TABLES)
def test_points_are_paired_differences_with_their_errors(name: str) -> None:
    comparison = tabulate({fit_name: entry(values) for fit_name, values in TABLES[name].items()}, [])
    ax = plot_compare(comparison)
    order = comparison.table.index.tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == order
    low, high = ax.get_ylim()
    assert low > high, "the best is at the top"
    markers = {int(line.get_ydata()[0]): line for line in ax.lines if line.get_marker() not in ("None", "", None)}
    bars = [line for line in ax.lines if line.get_marker() == "None" and len(set(line.get_ydata())) == 1]
    colours = styles_of(order)
    for row, fit_name in enumerate(order):
        far = fit_name in FAR.get(name, [])
        own = sorted((line for line in bars if line.get_ydata()[0] == row), key=lambda line: np.ptp(line.get_xdata()))
        assert len(own) == (0 if far else 2)
        assert {line.get_color() for line in [*own, markers[row]]} == {colours[fit_name].color}
        if far:
            finite = np.isfinite(comparison.table.loc[fit_name, "elpd_diff"])
            assert markers[row].get_marker() == ("<" if finite else "x")
            continue
        paired = TABLES[name][fit_name] - TABLES[name][order[0]]
        error = scipy.stats.sem(paired)
        np.testing.assert_allclose(markers[row].get_xdata(), [paired.mean()], atol=1e-12)
        for width, line in zip((1, 2), own, strict=True):
            expected = [paired.mean() - width * error, paired.mean() + width * error]
            np.testing.assert_allclose(line.get_xdata(), expected, atol=1e-12)
    drawn(ax)


def test_a_failed_fit_is_hollow_and_numbers_stand_at_the_right() -> None:
    entries = {"good": entry(BASE), "bad": entry(BASE - np.linspace(0, 1, 50), Status(("It failed.",)))}
    ax = plot_compare(tabulate(entries, []))
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert faces == ["#D55E00", "white"]
    (right,) = ax.child_axes
    error = scipy.stats.sem(np.linspace(0, 1, 50))
    assert [label.get_text() for label in right.get_yticklabels()] == ["best", f"−0.500 ± {error:.3f}"]
    drawn(ax)


def test_what_cross_validate_says_is_drawn_alike(data_sets: Any) -> None:
    x, y = data_sets["binary"]
    model, methods = MODELS["Bernoulli"][0], {"a": METHODS["MLE"], "b": METHODS["MLE"]}
    result = cross_validate(
        {name: (model, method) for name, method in methods.items()}, x, y, num_folds=4, key=0, progress=False
    )
    _, (one, other) = plt.subplots(1, 2)
    assert plot_compare(result, one) is one
    plot_compare(result.comparison, other)
    assert [line.get_xdata()[0] for line in one.lines] == [line.get_xdata()[0] for line in other.lines]
    plt.close("all")


# Misuse.


def pairs(x: Array, y: Array | None = None) -> None:
    eta = MLP()(x, 2)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(eta, 0.5).to_event(1), obs=y)


X, Y = np.random.default_rng(1).normal(size=(12, 2)), np.arange(12) % 2
TWO = np.stack([Y, Y], axis=1) * 1.0


@pytest.fixture(scope="module")
def by_name(fitted: Any) -> dict[str, Fit]:
    line = fitted("Bernoulli", "MAP", 1)[0]
    return {
        "line": line,
        "plane": fitted("Bernoulli", "MAP", 2)[0],
        "number": fitted("Normal, fixed scale", "MAP", 1)[0],
        "chain": fitted("Bernoulli", "MCLMC", 1)[0],
        "pairs": made_up(line, pairs, X[:, :1], TWO, (1, 1)),
        "dictionary": made_up(line, lambda x, y=None: MODELS["Bernoulli"][0](x["z"], y), {"z": X, "u": X}, Y, (1, 1)),
    }


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "no fit": (lambda f: plot_fit({}, X, Y), TypeError, "plot_fit: expected a fit, or a mapping from names to fits"),
    "a list": (lambda f: plot_fit([f["line"]], X, Y), TypeError, "plot_fit: expected a fit, or a mapping"),
    "a plane for a line": (
        lambda f: plot_fit(f["plane"], X, Y),
        ValueError,
        r"x: expected rows of one number, shape \(1,\); got \(2,\). plot_decision draws two.",
    ),
    "a dictionary": (lambda f: plot_fit(f["dictionary"], {"z": X, "u": X}, Y), ValueError, "rows of one number"),
    "several numbers": (
        lambda f: plot_fit(f["pairs"], X[:, :1], TWO),
        ValueError,
        "expected output to be an element of y, 0 to 1; got None",
    ),
    "a density and a probability": (
        lambda f: plot_fit({"a": f["line"], "b": f["number"]}, X[:, :1], Y),
        ValueError,
        "'a' has a probability of y, and 'b' a density of y",
    ),
    "y from 1": (lambda f: plot_fit(f["line"], X[:, :1], Y + 1), ValueError, "y, row 1: expected 0 or 1; got 2"),
    "no fit for a plane": (
        lambda f: plot_decision({"a": f["plane"]}, X, Y),
        TypeError,
        "plot_decision: expected a fit",
    ),
    "a line for a plane": (
        lambda f: plot_decision(f["line"], X[:, :1], Y),
        ValueError,
        r"x: expected rows of two numbers, shape \(2,\); got \(1,\).$",
    ),
    "one axes": (
        lambda f: plot_decision(f["plane"], X, Y, [plt.figure().gca()]),
        TypeError,
        "plot_decision: expected two axes; got 1",
    ),
    "a chain has no losses": (
        lambda f: plot_loss({"posterior": f["chain"]}),
        ValueError,
        r"'posterior', by MCLMC, has no losses. Chains minimise nothing: arviz.plot_trace\(fit.to_datatree\(\)\)",
    ),
    "no fit for a loss": (lambda f: plot_loss(1), TypeError, "plot_loss: expected a fit"),
    "fits for a comparison": (lambda f: plot_compare(f), TypeError, "expected the result of compare or cross_validate"),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_raises(name: str, by_name: dict[str, Fit]) -> None:
    call, error, match = BAD[name]
    with pytest.raises(error, match=match):
        call(by_name)
    plt.close("all")


def test_compare_returns_what_can_be_drawn(fitted: Any) -> None:
    fitted_model, x, y = fitted("Bernoulli", "MAP", 1)
    comparison = compare({"it": fitted_model}, x, y)
    assert isinstance(comparison, Comparison)
    assert math.isclose(plot_compare(comparison).lines[-1].get_xdata()[0], 0.0)
    plt.close("all")
