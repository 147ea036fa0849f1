"""Draws from the prior: their distribution, and what is made of them."""

import math
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

from flatprior.inference import MAP, Prior, compare, diagnose, fit, flat
from flatprior.inference.plots.style import styles_of
from flatprior.models import MLP, Model, Normal, Poisson, gaussian

KEYS = range(4)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 2)), RNG.normal(size=40)
LINE = Model(MLP(), Normal(dist.HalfNormal(2.0)), gaussian(1.5))


def drawn(key: int, num_samples: int = 4000, model: Any = LINE) -> Any:
    return fit(model, Prior(num_samples=num_samples), X, Y, key=key, progress=False)


def test_draws_follow_the_prior() -> None:
    """A Kolmogorov-Smirnov test of every weight under every key; p-values of 1e-3 / 16 in all fail once in 1,000."""
    laws = {
        "w1": scipy.stats.norm(0, 1.5).cdf,
        "b1": scipy.stats.norm(0, 1.5).cdf,
        "scale": scipy.stats.halfnorm(0, 2).cdf,
    }
    for key in KEYS:
        draws = drawn(key).draws
        assert {site: value.shape for site, value in draws.items()} == {
            "w1": (1, 4000, 2, 1), "b1": (1, 4000, 1), "scale": (1, 4000),
        }  # fmt: skip
        for site, values in draws.items():
            for column in values.reshape(4000, -1).T:
                assert scipy.stats.kstest(column, laws[site]).pvalue > 1e-3 / 16, (key, site)
        flat_draws = np.concatenate([value.reshape(4000, -1) for value in draws.values()], axis=1)
        correlations = np.corrcoef(flat_draws.T)[np.triu_indices(4, 1)]
        assert np.abs(correlations).max() < 5 / math.sqrt(4000)
        assert np.abs(np.corrcoef(flat_draws[1:, 0], flat_draws[:-1, 0])[0, 1]) < 5 / math.sqrt(4000)


def test_the_prior_predictive_has_the_moments_of_the_closed_form() -> None:
    model, x = Model(MLP(), Normal(0.5), gaussian(1.5)), X[:5]
    exact = 0.25 + 1.5**2 * (1 + (x**2).sum(axis=1))
    for key in KEYS:
        predictive = drawn(key, model=model).predict(x)
        assert (np.abs(predictive.mean) < 5 * np.sqrt(exact / 4000)).all()
        assert (np.abs(predictive.variance / exact - 1) < 5 * math.sqrt(2 / 4000)).all()


def test_y_does_not_influence_the_draws_and_more_draws_begin_with_the_same() -> None:
    one, other = drawn(0, 300), fit(LINE, Prior(num_samples=500), X, 100 * Y, key=0, progress=False)
    for site in one.draws:
        np.testing.assert_array_equal(one.draws[site], other.draws[site][:, :300])
    assert len(np.unique(other.draws["scale"])) == 500


def test_a_prior_may_depend_on_other_sites() -> None:
    def nested(x: Any, y: Any = None) -> None:
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        w = numpyro.sample("w", dist.Normal(0.0, scale).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    draws = drawn(0, model=nested).draws
    ratio = draws["w"][0] / draws["scale"][0][:, None]
    assert scipy.stats.kstest(ratio.ravel(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("model", [flat(LINE), Model(MLP(), Normal(0.5), {"w1": gaussian(), "b1": "flat"})])
def test_a_flat_prior_is_refused(model: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Prior: expected a proper prior .* flat at \['b1'.*no distribution to draw from"
    ):
        drawn(0, model=model)


@pytest.mark.slow
def test_compare_shows_what_the_data_have_added() -> None:
    x = RNG.normal(size=(80, 2))
    y = RNG.poisson(np.exp(1.5 * x[:, 0])).astype(int)
    model = Model(MLP(), Poisson(), gaussian(1.0))
    fits = {"prior": fit(model, Prior(), x[:40], y[:40], key=0), "MAP": fit(model, MAP(), x[:40], y[:40], key=0)}
    table = compare(fits, x[40:], y[40:]).to_dataframe()
    assert table.index[0] == "MAP"
    assert table.loc["prior", "kind"] == "prior"
    assert table.loc["prior", "elpd_diff"] < -2 * table.loc["prior", "dse"]
    with pytest.raises(ValueError, match="Prior, whose draws are from the prior and do not converge"):
        diagnose(fits["prior"], x)


def test_only_draws_from_the_prior_have_its_style() -> None:
    styles = styles_of(
        ["prior", "wide prior", "narrow prior, MAP", "beliefs"], {"wide prior": "MAP", "beliefs": "Prior"}
    )
    assert styles["narrow prior, MAP"] != styles["prior"] != styles["wide prior"]
    assert styles_of(["beliefs"], {"beliefs": "Prior"})["beliefs"] == styles["prior"]
