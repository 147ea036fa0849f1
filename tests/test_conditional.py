"""Partly Bayesian networks: the held sites are the base's, the sampled ones follow their posterior given them."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats  # type: ignore[attr-defined]
from jax import Array
from scipy.optimize import minimize_scalar
from scipy.stats import lognorm, norm

from flatprior.inference import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    compare,
    diagnose,
    fit,
    log_density,
    loo,
)
from flatprior.inference.criticism import uncertainty
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import some_by_default

NOISE, SCALE = 0.3, 1.5
MODEL = Model(MLP((3,), "tanh"), Normal(NOISE), gaussian(SCALE))
LAST = ("w2", "b2")
QUICK: dict[str, Any] = {"num_steps": 200, "polish": False}
KEYS = range(4)
METHODS: dict[str, Conditional] = {
    "NUTS": Conditional(base=MAP(**QUICK), sites=LAST, method=NUTS(num_warmup=200, num_samples=400)),
    "Laplace": Conditional(base=MAP(**QUICK), sites=("?2",), method=Laplace(base=MAP(**QUICK), num_samples=4000)),
    "Laplace on MLE": Conditional(base=MLE(**QUICK), sites=LAST, method=Laplace(base=MAP(**QUICK), num_samples=4000)),
}


@pytest.fixture(scope="module")
def x_y(data_sets: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return data_sets["real"]


@pytest.fixture(scope="module")
def fitted(x_y: Any) -> Callable[[str, int], Fit]:
    """(name, key) -> its fit, made once."""

    @cache
    def find(name: str, key: int) -> Fit:
        return fit(MODEL, METHODS[name], *x_y, key=key, progress=False)

    return find


@pytest.fixture(scope="module")
def result(fitted: Callable[[str, int], Fit]) -> Fit:
    return fitted("NUTS", 0)


def regression(result: Fit, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (w2, b2) by Bayesian linear regression on the features of the held layer."""
    w, b = (np.asarray(result.draws[site][0, 0], float) for site in ("w1", "b1"))
    features = np.column_stack([np.tanh(x @ w + b), np.ones(len(x))])
    covariance = np.linalg.inv(features.T @ features / NOISE**2 + np.eye(4) / SCALE**2)
    return covariance @ features.T @ y / NOISE**2, covariance


def z_scores(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> list[float]:
    """Of first and second moments of draws (chain, draw, d), in Monte Carlo standard errors."""
    away = draws - mean
    pairs = [(i, j) for i in range(len(mean)) for j in range(i + 1)]
    quantities = [(away[..., i], 0.0) for i in range(len(mean))]
    quantities += [(away[..., i] * away[..., j], covariance[i, j]) for i, j in pairs]
    return [float((values.mean() - right) / array_stats.mcse(values, method="mean")) for values, right in quantities]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "NUTS" else []) for name in METHODS]
)
def test_the_last_layer_is_bayesian_linear_regression_on_its_features(name: str, fitted: Any, x_y: Any) -> None:
    """Of 56 comparisons a method, one beyond 4 standard errors has a chance of 0.4%."""
    for key in KEYS:
        result = fitted(name, key)
        draws = np.concatenate([result.draws["w2"][..., 0], result.draws["b2"]], axis=-1).astype(float)
        assert np.abs(z_scores(draws, *regression(result, *x_y))).max() < 4, key


@pytest.mark.parametrize("name", some_by_default(METHODS, "Laplace"))
def test_the_held_sites_are_those_of_the_base_and_take_the_memory_of_one_draw(name: str, fitted: Any, x_y: Any) -> None:
    result = fitted(name, 0)
    alone = fit(MODEL, METHODS[name].base, *x_y, key=0, progress=False)
    chains, draws = (1, 4000) if "Laplace" in name else (4, 400)
    for site, value in result.draws.items():
        assert value.shape == (chains, draws, *alone.draws[site].shape[2:])
        if site in LAST:
            assert (value.std(axis=(0, 1)) > 0).all()
            continue
        np.testing.assert_array_equal(value, np.broadcast_to(alone.draws[site], value.shape))
        assert value.strides[:2] == (0, 0)
        assert not value.flags.writeable
    np.testing.assert_array_equal(result.stats["base_loss"], alone.stats["loss"])
    assert list(result.draws) == list(result.structure.latents)


def test_it_is_named_as_the_approximation_that_it_is(result: Fit, x_y: Any) -> None:
    assert result.kind == "approximation"
    assert repr(result).startswith("Fit by NUTS of w2, b2 given the rest by MAP: approximation, 4 chains of 400 draws")
    assert result.log_evidence is None
    assert compare({"last": result}, *x_y, x_train=x_y[0], y_train=x_y[1]).to_dataframe()["kind"].tolist() == [
        "approximation"
    ]
    assert result.to_datatree().attrs["kind"] == "approximation"
    assert "sites=('w2', 'b2')" in result.to_datatree().attrs["method"]


def test_the_prior_of_held_sites_is_left_out_of_the_density_and_no_other_term(result: Fit, x_y: Any) -> None:
    def whole(draw: int) -> float:
        return float(log_density(MODEL, {site: jnp.asarray(v[1, draw]) for site, v in result.draws.items()}, *x_y))

    constant = sum(norm.logpdf(result.draws[site][0, 0], 0, SCALE).sum() for site in ("w1", "b1"))
    expected = [whole(draw) - constant for draw in range(0, 400, 50)]
    np.testing.assert_allclose(result.stats["lp"][1, ::50], expected, rtol=1e-4)


def test_predictions_are_those_of_the_mixture_over_all_sites(result: Fit, x_y: Any) -> None:
    """What depends on held sites alone is computed once; that changes nothing."""
    x, y = x_y
    predictive = result.predict(x)
    assert {site: len(value) for site, value in predictive.draws.items()} == {"w1": 1, "b1": 1, "w2": 1600, "b2": 1600}
    whole = {site: jnp.asarray(value.reshape(1600, *value.shape[2:])) for site, value in result.draws.items()}
    by_hand = replace(predictive, draws=whole)
    w1, b1, w2, b2 = (np.asarray(whole[site], float) for site in ("w1", "b1", "w2", "b2"))
    means = (np.tanh(x @ w1 + b1[:, None]) @ w2)[..., 0] + b2
    np.testing.assert_allclose(predictive.component_means, means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictive.mean, by_hand.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictive.log_prob(y), by_hand.log_prob(y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictive.sample(0, (7,)), by_hand.sample(0, (7,)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.log_likelihood(x, y)[2, 3], norm.logpdf(y, means[803], NOISE), rtol=1e-3)
    np.testing.assert_allclose(uncertainty(result, x).epistemic, means.var(axis=0), rtol=1e-3, atol=1e-6)


def test_chains_are_judged_as_those_of_a_conditional_posterior_and_loo_is_refused(result: Fit, x_y: Any) -> None:
    diagnosis = diagnose(result, *x_y)
    assert any(note.startswith("These chains draw some sites given the others") for note in diagnosis.notes)
    assert diagnosis.log10_num_modes == 0
    assert diagnosis.table.loc["weights", "quantities"] == 4
    with pytest.raises(
        ValueError, match=r"loo: .* got NUTS of w2, b2 given the rest by MAP, whose draws are an approx"
    ):
        loo(result, *x_y)


def test_the_key_decides_every_bit_and_other_values_of_held_sites_compile_nothing(result: Fit, x_y: Any) -> None:
    again = fit(MODEL, METHODS["NUTS"], *x_y, key=0, progress=False)
    for site, draws in result.draws.items():
        np.testing.assert_array_equal(draws, again.draws[site], err_msg=site)
    fit(MODEL, METHODS["NUTS"], *x_y, key=1, progress=False)
    other = fit(MODEL, METHODS["NUTS"], *x_y, key=2, progress=False)
    assert (other.draws["w1"][0, 0] != result.draws["w1"][0, 0]).any()
    assert other.seconds.compile < 0.5


def test_it_is_read_from_a_file_and_its_chains_from_a_folder(result: Fit, x_y: Any, tmp_path: Path) -> None:
    again = Fit.load(result.save(tmp_path / "fit.nc"), MODEL)
    assert repr(again) == repr(result)
    np.testing.assert_array_equal(again.predict(x_y[0]).mean, result.predict(x_y[0]).mean)
    assert diagnose(again, *x_y).notes == diagnose(result, *x_y).notes
    for _ in range(2):  # the second reads what the first has drawn
        stored = fit(MODEL, METHODS["NUTS"], *x_y, key=0, progress=False, resume=tmp_path / "run")
        for site, draws in result.draws.items():
            np.testing.assert_array_equal(draws, stored.draws[site], err_msg=site)
    assert isinstance(stored.draws["w2"].base, np.memmap)


def groups(x: Array, y: Array | None = None) -> None:
    """Levels of groups, whose spread is learned: the prior of the levels depends on it."""
    spread = numpyro.sample("spread", dist.LogNormal(0.0, 0.5))
    level = numpyro.sample("level", dist.Normal(0.0, spread).expand([4]).to_event(1))
    numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(level[x], 0.5), obs=y)


@pytest.mark.slow
def test_the_prior_of_a_held_site_counts_where_it_depends_on_sampled_ones() -> None:
    """The mode of the spread given the levels: without their prior it would be that of its own, exp(-1/4)."""
    x = np.arange(40) % 4
    y = np.array([-3.0, -1.0, 1.0, 4.0])[x] + np.random.default_rng(0).normal(size=40)
    quick = MAP(num_steps=1000, polish=False)
    method = Conditional(base=quick, sites=("spread",), method=Ensemble(base=quick, num_members=1))
    result = fit(groups, method, x, y, key=0, progress=False)
    level = result.draws["level"][0, 0]

    def potential(log_spread: float) -> float:
        spread = math.exp(log_spread)
        return -lognorm.logpdf(spread, 0.5) - norm.logpdf(level, 0, spread).sum()

    expected = math.exp(minimize_scalar(potential, bounds=(-3, 3), method="bounded").x)
    assert result.draws["spread"].item() == pytest.approx(expected, rel=1e-3)
    assert abs(expected - math.exp(-0.25)) > 0.5


def test_batches_and_validation_rows_are_rows_and_the_held_values_are_none(x_y: Any) -> None:
    """Members stop by validation rows and take batches of the others: the values that are held have no rows."""
    inner = Ensemble(base=MAP(validation_fraction=0.2, batch_size=8, **QUICK), num_members=2)
    result = fit(MODEL, Conditional(base=MAP(**QUICK), sites=LAST, method=inner), *x_y, key=0, progress=False)
    assert result.draws["w2"].shape == (1, 2, 3, 1)
    assert result.stats["loss"].shape[0] == 2
    mean, covariance = regression(result, *x_y)
    draws = np.concatenate([result.draws["w2"][0, ..., 0], result.draws["b2"][0]], axis=-1)
    assert (np.abs(draws - mean) < 6 * np.sqrt(np.diagonal(covariance))).all()


def test_what_went_wrong_in_the_base_is_distinguished_from_what_went_wrong_after_it() -> None:
    x = np.concatenate([np.linspace(-2, 0, 100), np.linspace(4, 6, 100)])[:, None]
    short = Ensemble(base=MAP(num_steps=1, polish=False), num_members=1)
    separable = Conditional(base=MLE(num_steps=1000, polish=False), sites=("b1",), method=short)
    result = fit(Model(MLP(), Bernoulli()), separable, x, (x[:, 0] > 2).astype(int), key=0, progress=False)
    assert result.status.level == "failed"
    assert str(result.status.failures[0]).startswith("In the base, MLE: There is no maximum")
    assert str(result.status.warnings[-1]).startswith("In Ensemble given the base: 1 of 1 members have a problem")


def test_a_base_without_finite_weights_is_what_is_returned(x_y: Any) -> None:
    def nowhere(site: Any = None) -> Any:
        return jnp.full(site["fn"].shape(), jnp.nan) if site["type"] == "sample" and not site["is_observed"] else None

    method = Conditional(base=MAP(num_steps=5, init_strategy=nowhere), sites=LAST)
    result = fit(MODEL, method, *x_y, key=0, progress=False)
    assert result.draws["w2"].shape == (1, 1, 3, 1)
    assert str(result.status.failures[0]).startswith("In the base, MAP: The loss is nan at the starting point")


def test_interrupting_the_base_is_no_reason_to_go_on(x_y: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("flatprior.inference.methods.steps.Steps.is_finite", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, METHODS["NUTS"], *x_y, key=5, progress=False)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "one string": ({"sites": "w2"}, r"expected sites, a tuple of names or patterns.*got 'w2'"),
    "no sites": ({"sites": ()}, r"expected sites, a tuple of names or patterns.*got \(\)"),
    "numbers": ({"sites": (2,)}, r"expected sites, a tuple of names.*got \(2,\)"),
    "base": ({"sites": LAST, "base": NUTS()}, r"expected MAP\(...\) or MLE\(...\) as base; got NUTS\("),
    "method": ({"sites": LAST, "method": MAP()}, r"expected NUTS\(...\), MCLMC\(...\), .* as method; got MAP\("),
    "itself": ({"sites": LAST, "method": METHODS["NUTS"]}, "expected NUTS.* as method; got Conditional"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_raise(name: str) -> None:
    settings, message = BAD_SETTINGS[name]
    with pytest.raises(ValueError, match=f"Conditional: {message}"):
        Conditional(**settings)


BAD_SITES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "a pattern without a site": (
        ("w2", "head.*"),
        NUTS(),
        r"Conditional: the patterns \['head.\*'\] match no site; the sites are \['w1', 'b1', 'w2', 'b2'\]",
    ),
    "all sites": (
        ("w*", "b*"),
        NUTS(),
        r"leave some sites fixed; .* match all .* To sample all, use NUTS",
    ),
    "one number by MCLMC": (("b2",), MCLMC(), "MCLMC: expected a model with at least 2 weights"),
}


@pytest.mark.parametrize("name", BAD_SITES)
def test_sites_that_cannot_be_sampled_raise(name: str, x_y: Any) -> None:
    sites, method, message = BAD_SITES[name]
    with pytest.raises(ValueError, match=message):
        fit(MODEL, Conditional(base=MAP(num_steps=1, polish=False), sites=sites, method=method), *x_y, key=0)


def test_a_name_with_brackets_is_a_site(x_y: Any) -> None:
    """And no pattern: ``[0]`` is a class of characters to `fnmatch`."""

    def by_hand(x: Array, y: Array | None = None) -> None:
        w = [numpyro.sample(f"w[{i}]", dist.Normal(0.0, 1.0)) for i in (0, 1)]
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", dist.Normal(x @ jnp.stack(w), 1.0), obs=y)

    quick = MAP(num_steps=20, polish=False)
    method = Conditional(base=quick, sites=("w[0]",), method=Laplace(base=quick, num_samples=8))
    result = fit(by_hand, method, *x_y, key=0, progress=False)
    assert {site: bool(np.ptp(value) > 0) for site, value in result.draws.items()} == {"w[0]": True, "w[1]": False}


def test_sites_may_be_a_list_and_equal_settings_are_equal() -> None:
    assert Conditional(sites=["w2", "b2"]) == Conditional(sites=LAST)
    assert hash(Conditional(sites=LAST)) == hash(Conditional(sites=LAST))
