"""Convergence is judged by what is predicted, and not by weights that have copies."""

import math
from collections.abc import Mapping
from dataclasses import replace

import arviz as az
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy.special import logsumexp

from flatprior.inference import MAP, NUTS, Fit, diagnose, fit, loo
from flatprior.models import MLP, Bernoulli, Categorical, Model, gaussian

from .tables import some_by_default

Rows = tuple[np.ndarray, np.ndarray]
NETWORK = Model(MLP((4,), "tanh"), Bernoulli(), gaussian(1.0))


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2))
    return x, (x @ [1.0, -1.0] + rng.logistic(size=60) > 0).astype(int)


@pytest.fixture(scope="module")
def chains(rows: Rows) -> Fit:
    method = NUTS(num_warmup=300, num_samples=400, num_chains=4, target_accept_prob=0.8)
    return fit(NETWORK, method, *rows, key=0, progress=False)


def with_draws(result: Fit, draws: Mapping[str, np.ndarray] | None = None, **stats: np.ndarray) -> Fit:
    outcome = result.outcome
    sample_stats = {**outcome.sample_stats, **stats}
    return replace(result, outcome=replace(outcome, draws=draws or outcome.draws, sample_stats=sample_stats))


def copied(result: Fit) -> Fit:
    """The same draws, written with positive output weights, and those of every other chain with negative ones."""
    sign = np.sign(result.draws["w2"])
    draws = {**result.draws, "w2": result.draws["w2"] * sign, "b1": result.draws["b1"] * sign[..., 0]}
    draws["w1"] = result.draws["w1"] * np.swapaxes(sign, -1, -2)
    for site in ("w1", "b1", "w2"):
        draws[site][::2] *= -1
    return with_draws(result, draws)


def test_good_chains_pass(chains: Fit, rows: Rows) -> None:
    result = diagnose(chains, *rows)
    assert result.ok, result
    assert result.table.loc["predictions", "quantities"] == 50
    assert "The chains agree on the predictions" in str(result)
    assert "is misleading" in result._repr_html_()


def test_the_numbers_are_arviz_own_of_predictions_computed_by_hand(chains: Fit, rows: Rows) -> None:
    x, y = rows
    w = {site: value.astype(float) for site, value in chains.draws.items()}
    h = np.tanh(np.einsum("nd,csdk->csnk", x, w["w1"]) + w["b1"][:, :, None])
    p = 1 / (1 + np.exp(-(np.einsum("csnk,csk->csn", h, w["w2"][..., 0]) + w["b2"])))
    probes = np.unique(np.linspace(0, 59, 50).round().astype(int))
    result = diagnose(chains, *rows)
    np.testing.assert_allclose(result.predictions["posterior"]["prediction"], p[..., probes], atol=1e-5)
    moved = np.moveaxis(p[..., probes], -1, 0)
    assert result.table.loc["predictions", "rhat"] == pytest.approx(array_stats.rhat(moved).max(), abs=1e-3)
    assert result.table.loc["predictions", "ess_bulk"] == pytest.approx(array_stats.ess(moved).min(), rel=0.02)
    log_p = np.log(np.where(y == 1, p, 1 - p))
    alone = (logsumexp(log_p, axis=1) - math.log(400)).mean(axis=1)
    np.testing.assert_allclose(result.chains["log_likelihood"], alone, atol=1e-4)


def test_chains_in_other_copies_of_the_network_pass_and_their_weights_do_not(chains: Fit, rows: Rows) -> None:
    before, after = diagnose(chains, *rows), diagnose(copied(chains), *rows)
    assert after.ok, after
    same = ["predictions", "log likelihood of rows"]
    np.testing.assert_allclose(after.table.loc[same].astype(float), before.table.loc[same].astype(float), rtol=0.02)
    assert after.table.loc["exchangeable weights", "rhat"] > 1.2


def test_a_chain_that_predicts_otherwise_is_found(chains: Fit, rows: Rows) -> None:
    draws = {site: value.copy() for site, value in chains.draws.items()}
    draws["b2"][0] += 1.0
    result = diagnose(with_draws(chains, draws), *rows)
    assert not result.ok
    assert any("The chains disagree on predictions" in finding for finding in result.findings)
    assert result.chains["log_likelihood"].idxmin() == 0


def test_a_chain_that_stays_where_it_is_is_found(chains: Fit, rows: Rows) -> None:
    lp = chains.stats["lp"].copy()
    lp[2, 100:] = lp[2, 100]
    result = diagnose(with_draws(chains, lp=lp), *rows)
    assert any("Chain 2 does not move" in finding for finding in result.findings)
    assert result.chains.loc[2, "moved"] < 0.3 < result.chains.loc[1, "moved"]


def test_a_tree_cap_and_a_stiff_energy_are_found(chains: Fit, rows: Rows) -> None:
    depth = np.where(np.arange(400) % 4 == 0, 10, 5)[None].repeat(4, axis=0)
    energy = np.cumsum(np.random.default_rng(0).normal(size=(4, 400)), axis=1)
    result = diagnose(with_draws(chains, tree_depth=depth, energy=energy), *rows)
    assert any("25% of the trajectories were cut short" in finding for finding in result.findings)
    assert any("E-BFMI" in finding for finding in result.findings)


def many(result: Fit, spread: float) -> Fit:
    """Sixteen chains of 100 draws: the quarters of the four, with levels of their own."""
    levels = spread * np.random.default_rng(1).permutation(np.linspace(-1, 1, 16))
    draws = {site: value.reshape(16, 100, *value.shape[2:]).copy() for site, value in result.draws.items()}
    draws["b2"] += levels[:, None, None].astype(np.float32)
    return with_draws(
        result, draws, **{name: value.reshape(16, 100) for name, value in result.outcome.sample_stats.items()}
    )


def test_many_short_chains_are_judged_in_groups(chains: Fit, rows: Rows) -> None:
    slightly, grossly = (diagnose(many(chains, spread), *rows) for spread in (0.1, 8.0))
    assert slightly.ok, slightly
    assert "Nested R-hat, groups of 4 chains" in str(slightly)
    values = np.moveaxis(slightly.predictions["posterior"]["prediction"].to_numpy().astype(float), -1, 0)
    expected = array_stats.rhat_nested(values, superchain_ids=np.arange(16) // 4).max()
    assert slightly.table.loc["predictions", "rhat"] == pytest.approx(expected)
    assert any("Groups of chains disagree on predictions" in finding for finding in grossly.findings)


def test_the_predictions_are_arviz_to_draw(chains: Fit, rows: Rows) -> None:
    tree = diagnose(chains, rows[0]).predictions
    assert tree["posterior"].sizes == {"chain": 4, "draw": 400, "row": 50}
    assert float(az.rhat(tree["posterior"].dataset)["prediction"].max()) < 1.02


log24 = math.log10(24)
MODES = {
    "tanh turns": (Model(MLP((4,), "tanh"), Bernoulli()), math.log10(24 * 2**4)),
    "silu does not": (Model(MLP((4,), "silu"), Bernoulli()), math.log10(24)),
    "two layers": (Model(MLP((3, 2), "tanh"), Categorical(2)), math.log10(6 * 2**3 * 2 * 2**2)),
    "no hidden units": (Model(MLP(), Bernoulli()), 0.0),
    "a prior that knows signs": (Model(MLP((4,), "tanh"), Bernoulli(), {"w1": dist.Gumbel(), "*": gaussian()}), log24),
}


@pytest.mark.parametrize("name", some_by_default(MODES, "a prior that knows signs"))
def test_the_number_of_copies_is_that_of_the_network(rows: Rows, name: str) -> None:
    model, expected = MODES[name]
    point = fit(model, MAP(num_steps=50, polish=False), *rows, key=0, progress=False)
    draws = {
        site: value + 0.1 * np.arange(4.0).reshape(1, 4, *(1,) * (value.ndim - 2))
        for site, value in point.draws.items()
    }
    outcome = replace(point.outcome, draws=draws, sample_stats={"lp": np.arange(4.0)[None]})
    result = diagnose(replace(point, method=NUTS(), outcome=outcome), *rows)
    assert result.log10_num_modes == pytest.approx(expected)


def test_points_are_refused(rows: Rows) -> None:
    point = fit(NETWORK, MAP(num_steps=10), *rows, key=0, progress=False)
    for judge in (diagnose, loo):
        with pytest.raises(ValueError, match="expected a fit whose draws are Markov chains, such as NUTS"):
            judge(point, *rows)
    with pytest.raises(TypeError, match="diagnose: expected a fit"):
        diagnose(NETWORK, *rows)


def test_too_few_draws_are_refused(chains: Fit, rows: Rows) -> None:
    draws = {site: value[:, :3] for site, value in chains.draws.items()}
    stats = {name: value[:, :3] for name, value in chains.outcome.sample_stats.items()}
    with pytest.raises(ValueError, match="at least 4 draws per chain; got 3"):
        diagnose(with_draws(chains, draws, **stats), *rows)


def test_loo_is_arviz_own_with_a_pareto_k_for_each_row(chains: Fit, rows: Rows) -> None:
    result = loo(chains, *rows)
    pointwise = chains.log_likelihood(*rows).reshape(1600, 60)
    assert result.n_samples == 1600
    assert result.pareto_k.shape == (60,)
    assert float(result.pareto_k.max()) < 0.7
    assert result.elpd < (logsumexp(pointwise, axis=0) - math.log(1600)).sum()  # held out is less than fitted
    table = az.compare({"a": chains.to_datatree(*rows), "b": copied(chains).to_datatree(*rows)})
    assert set(table.index) == {"a", "b"}


def test_loo_of_other_rows_is_refused(chains: Fit, rows: Rows) -> None:
    x, y = rows
    for others in ((x[:50], y[:50]), (x[::-1], y), (x, 1 - y), (x + 1e-6, y)):
        with pytest.raises(ValueError, match="loo: expected the rows of the fit, in the order"):
            loo(chains, *others)
    with pytest.raises(ValueError, match="expected rows shaped"):
        loo(chains, x[:, :1], y)
    assert loo(chains, x.tolist(), pd.Series(y.astype(float))).elpd == loo(chains, *rows).elpd
    assert loo(replace(chains, rows=None), x[:50], y[:50]).n_data_points == 50  # from a file of an earlier release
