"""The distance from a reference: closed forms, standard errors, the noise of the reference, and what has none."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import Array
from scipy.special import expit

from flatprior.inference import MAP, MCLMC, Ensemble, Fit, compare, fit
from flatprior.inference.criticism.distance import (
    NODES,
    _summarised,
    class_distances,
    wasserstein,
    wasserstein_of_quantiles,
)
from flatprior.inference.plots import plot_distance

from .tables import CommonFit


def with_draws(fitted: Fit, **draws: Any) -> Fit:
    """A fit of the same model with draws of our own, (chain, draw, *shape), as if they were those of chains."""
    given = {site: np.asarray(value, "f4") for site, value in draws.items()}
    return replace(fitted, method=MCLMC(), outcome=replace(fitted.outcome, draws=given))


def chains(fitted: Fit) -> Fit:
    """Three chains of ten draws."""
    rng = np.random.default_rng(3)
    return with_draws(fitted, **{k: rng.normal(size=(3, 10, *v.shape[2:])) for k, v in fitted.draws.items()})


def line(fitted: Fit, slopes: Any) -> Fit:
    """A fit whose draws predict a slope times the sum of the columns of x, given as (chain, draw)."""
    slopes = np.asarray(slopes, float)[..., None, None]
    return with_draws(fitted, w1=slopes * np.ones((2, 1)), b1=0 * slopes[..., 0])


# Closed forms.


@pytest.mark.parametrize(
    ("one", "other"), [((0.0, 1.0), (0.0, 1.0)), ((0.3, 1.0), (-0.2, 2.5)), ((5.0, 0.1), (5.1, 0.1))]
)
def test_the_distance_of_two_gaussians_is_that_of_their_places_and_scales(one: Any, other: Any) -> None:
    quantiles = [scipy.stats.norm(*each).ppf(scipy.stats.norm.cdf(NODES))[:, None] for each in (one, other)]
    exact = math.hypot(one[0] - other[0], one[1] - other[1])
    np.testing.assert_allclose(wasserstein_of_quantiles(*quantiles), exact, rtol=2e-4, atol=1e-12)


def test_the_distance_of_two_mixtures_is_that_of_quadrature() -> None:
    """Two separate peaks, where the quantile function is steep."""
    u = (np.arange(200_000) + 0.5) / 200_000

    def quantile(levels: np.ndarray, gap: float) -> np.ndarray:
        y = np.linspace(-gap - 6, gap + 6, 400_001)
        cdf = (scipy.stats.norm.cdf(y, -gap) + scipy.stats.norm.cdf(y, gap)) / 2
        return np.interp(levels, cdf, y)

    exact = math.sqrt(np.mean((quantile(u, 0.0) - quantile(u, 2.0)) ** 2))
    found = wasserstein_of_quantiles(*(quantile(scipy.stats.norm.cdf(NODES), gap)[:, None] for gap in (0.0, 2.0)))
    np.testing.assert_allclose(found, exact, rtol=2e-3)


def test_the_distance_of_sets_of_points_is_that_of_the_sets_repeated_to_one_size() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(6, 3)), rng.normal(1.0, 2.0, size=(4, 3))
    repeated = np.sort(np.repeat(one, 2, axis=0), axis=0) - np.sort(np.repeat(other, 3, axis=0), axis=0)
    np.testing.assert_allclose(wasserstein(one, other), np.sqrt((repeated**2).mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(wasserstein(one, other), wasserstein(other, one), rtol=1e-12)
    np.testing.assert_allclose(wasserstein(one[:1], other), np.sqrt(((one[:1] - other) ** 2).mean(axis=0)), rtol=1e-12)


def test_numbers_of_known_means_and_scales(common_fit: CommonFit, data_sets: Any) -> None:
    """The model y ~ Normal(slope (x1 + x2), 0.5) with slopes 1 and 3, against 2, and against 0 and 4."""
    (x, y), base = data_sets["real"], common_fit("Normal, known scale", "MLE")
    reference, point, wide = (line(base, slopes) for slopes in ([[1.0], [3.0]], [[2.0]], [[0.0, 4.0]]))
    table = compare({"point": point, "wide": wide}, x, y, reference=reference).to_dataframe()
    distance = np.abs(x.sum(axis=1))
    for name, spread in (("point", 0.0), ("wide", 2.0)):
        row = table.loc[name]
        np.testing.assert_allclose(row["w2_mean"], distance.mean(), rtol=1e-4)
        np.testing.assert_allclose(row["w2_mean_se"], scipy.stats.sem(distance), rtol=1e-4)
        np.testing.assert_allclose(row["spread"], spread, atol=1e-4)
        np.testing.assert_allclose(row["spread_se"], 0.0, atol=1e-4)  # in every row alike
        assert row["w2"] < row["w2_mean"] + 1e-4  # the same coupling, with the noise of y
    shifted = compare({"one": line(base, [[3.0, 3.0]])}, x, y, reference=line(base, [[2.0, 2.0]])).to_dataframe()
    np.testing.assert_allclose(shifted.loc["one", "w2"], distance.mean(), rtol=1e-3)
    assert math.isnan(shifted.loc["one", "spread"])  # of a reference without any spread


def test_classes_of_known_probabilities(common_fit: CommonFit, data_sets: Any) -> None:
    """Two mixtures of two Bernoulli distributions: total variation is |p - q|."""
    (x, y), base = data_sets["binary"], common_fit("Bernoulli", "MLE")
    table = compare({"fit": line(base, [[-0.2, 2.0]])}, x, y, reference=line(base, [[1.0], [3.0]])).to_dataframe()
    p, q = (np.mean([expit(slope * x.sum(axis=1)) for slope in slopes], axis=0) for slopes in ((1.0, 3.0), (-0.2, 2.0)))
    expected = {"agreement": (p > 0.5) == (q > 0.5), "total_variation": np.abs(p - q)}
    for name, values in expected.items():
        np.testing.assert_allclose(table.loc["fit", name], values.mean(), rtol=1e-5)
        np.testing.assert_allclose(table.loc["fit", f"{name}_se"], scipy.stats.sem(values), rtol=1e-4)
    assert not {"w2", "w2_mean", "spread"} & set(table)


def test_tokens_are_compared_one_by_one_without_padding() -> None:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(3), size=(2, 5, 4))
    known = rng.random((5, 4)) < 0.6
    known[0, 0] = True
    found = class_distances(p, q, known)
    expected = {"total_variation": np.abs(p - q).sum(axis=-1) / 2, "agreement": p.argmax(-1) == q.argmax(-1)}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].sum() / known.sum(), values[known].mean())


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) for each in ("Poisson", "CategoricalSequence")]
)
def test_other_kinds_of_y(name: str, common_fit: CommonFit, problem: Any) -> None:
    _, x, y = problem(name)
    post, point = common_fit(name, "MCLMC"), common_fit(name, "MAP")
    row = compare({"MAP": point}, x, y, reference=post).to_dataframe().loc["MAP"]
    names = {"Poisson": ("w2_mean", "spread"), "CategoricalSequence": ("agreement", "total_variation")}
    assert all(np.isfinite(row[measure]) for measure in names[name])
    if name == "CategoricalSequence":
        pairs = [each.predict(x).class_probs for each in (post, point)]
        agrees = np.equal(*(probs.argmax(axis=-1) for probs in pairs))
        assert row["agreement"] == pytest.approx(agrees[y >= 0].mean())  # others are padding
    assert "w2" not in row


# The reference.


def test_the_floor_is_the_distance_of_two_halves(common_fit: CommonFit, data_sets: Any) -> None:
    (x, y), post = data_sets["binary"], chains(common_fit("Bernoulli", "MLE"))
    comparison = compare({"post": post, "MAP": common_fit("Bernoulli", "MAP")}, x, y, reference=post)
    odd, even = (with_draws(post, **{k: v[i::2] for k, v in post.draws.items()}) for i in (0, 1))
    row = compare({"even": even}, x, y, reference=odd).to_dataframe().loc["even"]
    for name, value in comparison.floor.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-5)
    assert comparison.table.loc["post", ["agreement", "total_variation"]].isna().all()
    assert f"total variation {comparison.floor['total_variation']:.2g}" in str(comparison.notes)
    assert "split by chains" in str(comparison.notes)
    assert "nan" not in str(comparison)
    assert "MAP: A point leaves out all uncertainty about the weights." in comparison.notes
    assert "reference" not in str(compare({"post": post}, x, y))


def test_an_approximation_as_reference_is_named_one(common_fit: CommonFit, data_sets: Any) -> None:
    (x, y), reference = data_sets["binary"], common_fit("Bernoulli", "Ensemble")
    notes = " ".join(compare({"MAP": common_fit("Bernoulli", "MAP")}, x, y, reference=reference).notes)
    assert "split by draws" in notes
    assert "none from the posterior itself" in notes


def test_rows_of_weight_w_are_w_rows_and_keys_are_averaged(common_fit: CommonFit, data_sets: Any) -> None:
    (x, y), base = data_sets["binary"], common_fit("Bernoulli", "MLE")
    weights = np.arange(len(y)) % 3
    fits, reference = {"two": [line(base, [[2.0]]), line(base, [[2.5]])]}, line(base, [[1.0], [3.2]])
    row = compare(fits, x, y, weights=weights, reference=reference).table.loc["two"]
    of_slope = {s: expit(s * x.sum(axis=1)) for s in (1.0, 2.0, 2.5, 3.2)}
    p = (of_slope[1.0] + of_slope[3.2]) / 2
    by_row = (np.abs(of_slope[2.0] - p) + np.abs(of_slope[2.5] - p)) / 2
    repeated = np.repeat(by_row, weights)
    np.testing.assert_allclose(row["total_variation"], repeated.mean(), rtol=1e-5)
    np.testing.assert_allclose(row["total_variation_se"], scipy.stats.sem(repeated), rtol=1e-4)


def test_the_error_of_the_ratio_of_spreads_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    variance = rng.gamma(3.0, size=400)
    other = 0.5 * variance * rng.gamma(5.0, 0.2, size=400)
    found = _summarised({"variance": variance, "variance_of_other": other}, None)
    rows = rng.integers(400, size=(4000, 400))
    ratios = np.sqrt(other[rows].mean(axis=1) / variance[rows].mean(axis=1))
    np.testing.assert_allclose(found["spread"], math.sqrt(other.mean() / variance.mean()))
    np.testing.assert_allclose(found["spread_se"], ratios.std(), rtol=0.1)


def test_fewer_rows_where_there_are_many_draws(common_fit: CommonFit, data_sets: Any, monkeypatch: Any) -> None:
    (x, y), base = data_sets["real"], common_fit("Normal, known scale", "MLE")
    monkeypatch.setattr("flatprior.inference.criticism.distance.MAX_VALUES", 20)
    comparison = compare({"point": line(base, [[2.0]])}, x, y, reference=line(base, [[1.0], [3.0]]))
    rows = np.linspace(0, len(y) - 1, 10).round().astype(int)
    np.testing.assert_allclose(comparison.table.loc["point", "w2_mean"], np.abs(x[rows].sum(axis=1)).mean(), rtol=1e-4)
    assert "Distances are those at 10 rows, evenly spaced." in comparison.notes


class WithoutMean(dist.Cauchy):
    """A distribution that says of itself that it has no mean."""

    @property
    def mean(self) -> Array:
        raise NotImplementedError


def cauchy(x: Array, y: Array | None = None) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", WithoutMean(slope * x[:, 0], 1.0), obs=y)


def test_what_cannot_be_a_reference(common_fit: CommonFit, data_sets: Any) -> None:
    x, y = data_sets["binary"]
    point = common_fit("Bernoulli", "MAP")
    with pytest.raises(ValueError, match=r"to have draws from a posterior.*; got one point, by MAP"):
        compare({"MAP": point}, x, y, reference=point)
    with pytest.raises(ValueError, match="got draws from the prior, by Prior"):
        compare({"MAP": point}, x, y, reference=common_fit("Bernoulli", "Prior"))
    with pytest.raises(TypeError, match=r"expected reference to be a fit.*; got 'MAP'"):
        compare({"MAP": point}, x, y, reference="MAP")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has 2 classes, and 'reference' 3 classes"):
        compare({"MAP": point}, x, y, reference=chains(common_fit("Categorical", "MLE")))
    x, y = data_sets["real"]
    members = fit(cauchy, Ensemble(base=MAP(num_steps=5, polish=False), num_members=2), x, y, key=0, progress=False)
    with pytest.raises(ValueError, match=r"WithoutMean, at 'y', has none. Leave out reference"):
        compare({"members": members}, x, y, reference=members)


# The figure.


def test_the_figure_has_a_point_for_each_fit_and_the_floor(common_fit: CommonFit, data_sets: Any) -> None:
    (x, y), post = data_sets["binary"], chains(common_fit("Bernoulli", "MLE"))
    comparison = compare({"posterior": post, "MAP": common_fit("Bernoulli", "MAP")}, x, y, reference=post)
    left, right = plot_distance(comparison)
    point = left.containers[0].lines[0]
    assert point.get_xdata()[0] == comparison.table.loc["MAP", "total_variation"]
    assert point.get_ydata()[0] == comparison.table.loc["MAP", "elpd"]
    assert right.containers[0].lines[0].get_xdata()[0] == comparison.table.loc["MAP", "seconds_run"]
    assert left.patches[0].get_width() == pytest.approx(comparison.floor["total_variation"])
    with pytest.raises(ValueError, match="with a reference"):
        plot_distance(compare({"posterior": post}, x, y))
    with pytest.raises(TypeError, match="expected the result of compare"):
        plot_distance(SimpleNamespace())  # type: ignore[arg-type]
