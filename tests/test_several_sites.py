"""Models that observe several sites: the log probability of a row is the sum over its sites, and each can be asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.handlers import scale
from scipy.special import logsumexp

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    Code,
    Ensemble,
    Fit,
    Laplace,
    Prior,
    compare,
    cross_validate,
    diagnose,
    explain,
    fit,
    flat,
    linearized,
    log_density,
    loo,
    standardize,
)
from flatprior.inference.checks import check_labelled, check_problem
from flatprior.inference.criticism import calibration, temperature_scaling, uncertainty
from flatprior.inference.curvature import expected_misfit
from flatprior.inference.gauss_newton import gauss_newton
from flatprior.inference.information import code_length, compress, cross_entropy, prequential, weight_of_evidence
from flatprior.inference.labels import labelled
from flatprior.inference.methods.rowwise import rowwise_surface_of
from flatprior.inference.plots import plot_decision
from flatprior.inference.rows import Data
from flatprior.inference.seen import seen_of, seen_of_all
from flatprior.inference.spread import Shards, labelled_part
from flatprior.models import (
    MLP,
    Bernoulli,
    Categorical,
    Censored,
    Exponential,
    Model,
    Normal,
    gaussian,
    priors,
)

from .tables import KINDS, LEADING, METHODS

RNG = np.random.default_rng(0)
NUM_ROWS = 40
X = RNG.normal(size=(NUM_ROWS, 2))
PRICE = X @ [1.0, -1.0] + 0.5 * RNG.normal(size=NUM_ROWS)
SOLD = (RNG.random(NUM_ROWS) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
Y = {"price": PRICE, "sold": SOLD}
NAMES = tuple(Y)


def rows_of(y: Any, site: str) -> Any:
    return None if y is None else y[site]


def observe_price(x: Any, y: Any = None) -> None:
    w, b = (numpyro.sample(name, dist.Normal(0, 2).expand(shape)) for name, shape in (("w", [2]), ("b", [])))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("price", dist.Normal(x @ w + b, spread), obs=y)


def observe_sold(x: Any, y: Any = None) -> None:
    v, c = (numpyro.sample(name, dist.Normal(0, 2).expand(shape)) for name, shape in (("v", [2]), ("c", [])))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("sold", dist.Bernoulli(logits=x @ v + c), obs=y)


def house(x: Any, y: Any = None) -> None:
    """Two heads with weights of their own: its fits are those of `observe_price` and `observe_sold`."""
    observe_price(x, rows_of(y, "price"))
    observe_sold(x, rows_of(y, "sold"))


HEADS = {"price": observe_price, "sold": observe_sold}
LATENTS = {"price": ("w", "b", "spread"), "sold": ("v", "c")}
W = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(0.1), "spread": jnp.array(0.7), "v": jnp.ones(2), "c": jnp.array(0.2)}


def shared(x: Any, y: Any = None) -> None:
    """One slope for both sites."""
    w = numpyro.sample("w", dist.Normal(0, 2).expand([2]))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("price", dist.Normal(x @ w, 0.5), obs=rows_of(y, "price"))
        numpyro.sample("sold", dist.Bernoulli(logits=x @ w), obs=rows_of(y, "sold"))


def fitted(method: Any, model: Any = house, y: Any = None, **settings: Any) -> Fit:
    return fit(model, method, X, Y if y is None else y, key=0, progress=False, **settings)


@pytest.fixture(scope="module")
def mode() -> Fit:
    return fitted(MAP(num_steps=200))


@pytest.fixture(scope="module")
def draws() -> Fit:
    return fitted(Prior(num_samples=6), shared)


def test_the_density_is_the_prior_and_the_sum_over_sites() -> None:
    with jax.enable_x64(True):
        parts = [log_density(HEADS[s], {k: W[k] for k in LATENTS[s]}, X, Y[s]) for s in NAMES]
        assert log_density(house, W, X, Y) == pytest.approx(float(sum(parts)), rel=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("method", [MLE(), MAP()], ids=["MLE", "MAP"])
def test_heads_with_weights_of_their_own_are_two_fits(method: Any) -> None:
    with jax.enable_x64(True):
        both = fitted(method)
        assert both.status.level == "ok"
        for site in NAMES:
            alone = fit(HEADS[site], method, X, Y[site], key=0, progress=False)
            for name in LATENTS[site]:
                np.testing.assert_allclose(both.draws[name], alone.draws[name], rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(
                both.predict(X)[site].log_prob(Y[site]), alone.predict(X).log_prob(Y[site]), rtol=1e-7
            )


def test_the_posterior_of_conjugate_sites_is_that_of_all_their_rows() -> None:
    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0, 2))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("first", dist.Normal(w * x[:, 0], 0.5), obs=rows_of(y, "first"))
            numpyro.sample("second", dist.Normal(w * x[:, 1], 2.0), obs=rows_of(y, "second"))

    y = {"first": PRICE, "second": PRICE**2}
    precision = 1 / 4 + (X[:, 0] ** 2).sum() / 0.25 + (X[:, 1] ** 2).sum() / 4
    mean = ((X[:, 0] * y["first"]).sum() / 0.25 + (X[:, 1] * y["second"]).sum() / 4) / precision
    with jax.enable_x64(True):
        for curvature in (None, "hessian"):
            result = fitted(Laplace(num_samples=4000, curvature=curvature), model, y)
            w = result.draws["w"].ravel()
            assert abs(w.mean() - mean) < 4 / np.sqrt(precision * w.size)
            assert abs(w.var() * precision - 1) < 4 * np.sqrt(2 / w.size)
            prior = dist.Normal(0, 2).log_prob(mean) - dist.Normal(mean, precision**-0.5).log_prob(mean)
            at_mean = [dist.Normal(mean * X[:, i], s).log_prob(y[k]).sum() for i, (k, s) in enumerate(SCALES.items())]
            assert result.log_evidence == pytest.approx(float(prior + sum(at_mean)), rel=1e-10)


SCALES = {"first": 0.5, "second": 2.0}


def test_a_row_has_the_log_mean_of_products_and_a_site_its_own(draws: Fit) -> None:
    by_site = {site: draws[site].log_likelihood(X, Y[site])[0] for site in NAMES}
    whole = draws.predict(X)
    np.testing.assert_allclose(draws.log_likelihood(X, Y)[0], sum(by_site.values()), rtol=1e-4, atol=1e-4)
    expected = logsumexp(sum(by_site.values()), axis=0) - np.log(6)
    np.testing.assert_allclose(whole.log_prob(Y), expected, rtol=1e-4, atol=1e-4)
    for site in NAMES:
        np.testing.assert_allclose(
            whole[site].log_prob(Y[site]), logsumexp(by_site[site], axis=0) - np.log(6), rtol=1e-4, atol=1e-4
        )
    w = draws.draws["w"][0]
    np.testing.assert_allclose(whole["price"].mean, (X @ w.T).mean(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole["sold"].probs, (1 / (1 + np.exp(-X @ w.T))).mean(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_and_predicts_all_sites(method: str, tmp_path: Path) -> None:
    model = Model(MLP((3,), "tanh"), {"price": Normal(dist.HalfNormal(1.0)), "sold": Bernoulli()}, gaussian(1.0))
    result = fitted(METHODS[method](), model)
    by_site = {site: result[site].log_likelihood(X, Y[site]) for site in NAMES}
    whole = result.log_likelihood(X, Y)
    assert whole.shape == (*LEADING[method], NUM_ROWS)
    np.testing.assert_allclose(whole, sum(by_site.values()), rtol=1e-4, atol=1e-4)
    expected = logsumexp(whole, axis=(0, 1)) - np.log(np.prod(LEADING[method]))
    np.testing.assert_allclose(result.predict(X).log_prob(Y), expected, rtol=1e-4, atol=1e-4)
    for site in NAMES:
        one, other = result[site].predict(X), result.predict(X)[site]
        np.testing.assert_array_equal(one.log_prob(Y[site]), other.log_prob(Y[site]))
    again = Fit.load(result.save(tmp_path / "fit.nc"), model)
    np.testing.assert_array_equal(again.predict(X).log_prob(Y), result.predict(X).log_prob(Y))
    if KINDS[method] == "chain":
        assert loo(result, X, Y).n_data_points == NUM_ROWS
        assert {"predictions of price", "predictions of sold"} <= set(diagnose(result, X, Y).table.index)


@pytest.mark.slow
def test_the_distance_from_a_reference_is_that_of_each_site(mode: Fit) -> None:
    draws = fitted(Ensemble(base=MAP(num_steps=5, polish=False), num_members=4))
    table = compare({"MAP": mode}, X, Y, reference=draws)
    row, (one, other) = table.table.loc["MAP"], (each.predict(X) for each in (draws, mode))
    apart = np.abs(one["sold"].probs - other["sold"].probs)
    np.testing.assert_allclose(row["total_variation of sold"], apart.mean(), rtol=1e-4)
    moved = one["price"].component_means - other["price"].component_means  # from one point, whatever the order
    np.testing.assert_allclose(row["w2_mean of price"], np.sqrt((moved**2).mean(axis=0)).mean(), rtol=1e-4)
    assert {"w2 of price", "agreement of sold"} <= table.floor.keys()
    assert "total variation of sold" in str(table)


def test_rows_of_shards_are_seen_by_site_as_those_of_one_process() -> None:
    """Rows that do not take part have the weight 0 in a shard; one process leaves them out."""
    rows = np.arange(NUM_ROWS)
    gaps = {"price": np.where(rows % 3 == 0, np.nan, PRICE), "sold": np.where(rows % 4 == 0, np.nan, SOLD)}
    given = labelled(X, gaps)
    density, data = check_labelled(house, given)
    shards = Shards(None, NUM_ROWS, ((0, 24), (24, NUM_ROWS)), (True, True))  # type: ignore[arg-type]
    _, own = check_labelled(house, labelled_part(shards, X, gaps, None))
    assert seen_of_all(density.structure, shards, own, None) == seen_of(density.structure, data)


def test_the_sites_of_a_sample_share_a_draw(draws: Fit) -> None:
    samples = draws.predict(X).sample(0, (2, 3))
    assert {site: values.shape for site, values in samples.items()} == dict.fromkeys(NAMES, (2, 3, NUM_ROWS))
    components = draws.predict(X).component_samples(0)
    residuals = components["price"] - draws.draws["w"][0] @ X.T
    assert abs(residuals.std() / 0.5 - 1) < 4 / np.sqrt(2 * residuals.size)
    assert set(np.unique(components["sold"])) <= {0, 1}


@pytest.mark.slow
def test_rows_without_one_site_have_the_other() -> None:
    """A missing value at one site removes its term alone."""
    gaps = {
        "price": np.where(np.arange(NUM_ROWS) < 10, np.nan, PRICE),
        "sold": np.where(SOLD & (X[:, 1] > 0), np.nan, SOLD),
    }
    with jax.enable_x64(True):
        both = fitted(MAP(), y=gaps)
        missing = np.isnan(gaps["price"]).astype(int) + np.isnan(gaps["sold"])
        assert both.counts is not None
        assert (both.counts.unlabelled, both.counts.missing) == ((missing == 2).sum(), (missing == 1).sum())
        for site in NAMES:
            known = ~np.isnan(gaps[site])
            alone = fit(HEADS[site], MAP(), X[known], Y[site][known], key=0, progress=False)
            for name in LATENTS[site]:
                np.testing.assert_allclose(both.draws[name], alone.draws[name], rtol=1e-8, atol=1e-8)
            assert both[site].was_fitted_to(X, gaps[site])
            assert both[site].counts.rows == known.sum()
            assert not both[site].log_likelihood(X, gaps[site])[..., ~known].any()
        assert both.was_fitted_to(X, gaps)


def test_one_site_may_be_known_in_no_row_that_is_scored(mode: Fit) -> None:
    gaps = {"price": PRICE, "sold": np.full(NUM_ROWS, np.nan)}
    predictive = mode.predict(X)
    np.testing.assert_allclose(predictive.log_prob(gaps), predictive["price"].log_prob(PRICE), rtol=1e-5, atol=1e-6)
    table = compare({"mode": mode}, X[::-1], gaps).to_dataframe()
    assert table.loc["mode", "elpd"] == pytest.approx(table.loc["mode", "elpd of price"], rel=1e-5)
    assert "elpd of sold" not in table
    with pytest.raises(ValueError, match=r"y\['sold'\]: expected labels in some rows; got only missing values"):
        fitted(MAP(), y=gaps)


def test_the_bounds_of_missing_values_are_not_checked() -> None:
    """Those of a Binomial differ between rows, and where y is missing it has the value of another row."""

    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]))
        with numpyro.plate("row", x["z"].shape[0]):
            numpyro.sample("price", dist.Normal(x["z"] @ w, 0.5), obs=rows_of(y, "price"))
            wins = dist.Binomial(x["trials"], logits=x["z"] @ w)
            numpyro.sample("wins", wins, obs=rows_of(y, "wins"))

    trials = np.where(np.arange(NUM_ROWS) == 0, 9, 3)
    x, wins = {"z": X, "trials": trials}, np.where(np.arange(NUM_ROWS) < 20, trials, np.nan)
    result = fit(model, Prior(num_samples=3), x, {"price": PRICE, "wins": wins}, key=0, progress=False)
    assert np.isfinite(result.predict(x).log_prob({"price": PRICE, "wins": wins})).all()


@pytest.mark.slow
def test_weighted_rows_count_at_all_sites() -> None:
    weights = RNG.integers(1, 4, size=NUM_ROWS)
    again = np.repeat(np.arange(NUM_ROWS), weights)
    with jax.enable_x64(True):
        weighted = fitted(MAP(), weights=weights)
        repeated = fit(house, MAP(), X[again], {site: Y[site][again] for site in NAMES}, key=0, progress=False)
        for name in W:
            np.testing.assert_allclose(weighted.draws[name], repeated.draws[name], rtol=1e-8, atol=1e-8)
        whole = weighted.log_likelihood(X, Y, weights=weights)
        np.testing.assert_allclose(whole, weights * weighted.log_likelihood(X, Y), rtol=1e-12)


def test_a_site_may_have_a_weight_of_its_own() -> None:
    def weighted(x: Any, y: Any = None) -> None:
        observe_price(x, rows_of(y, "price"))
        with scale(scale=3.0):
            observe_sold(x, rows_of(y, "sold"))

    result = fitted(Prior(num_samples=3), weighted)
    by_site = {site: result[site].log_likelihood(X, Y[site]) for site in NAMES}
    np.testing.assert_allclose(result.log_likelihood(X, Y), sum(by_site.values()), rtol=1e-4, atol=1e-4)
    alone = result["sold"].predict(X)
    np.testing.assert_allclose(
        alone.log_prob(SOLD), 3 * np.log(np.where(SOLD, alone.probs, 1 - alone.probs)), rtol=1e-4
    )
    with pytest.raises(
        ValueError, match=r"log_prob: expected each row to have one weight.*'sold'.*not all sites alike"
    ):
        result.predict(X).log_prob(Y)
    u = {**W, "spread": jnp.log(0.7)}
    with jax.enable_x64(True):
        density, data = result.density, Data(X, Y)
        loss = density.flattened().loss(u, data) * NUM_ROWS
        assert density.log_likelihood(u, data).sum() == pytest.approx(-float(loss), rel=1e-12)


def test_minibatches_scale_all_sites(mode: Fit) -> None:
    density, data = mode.density, Data(X, Y)
    u = {name: jnp.asarray(value) for name, value in W.items()} | {"spread": jnp.log(0.7)}
    with jax.enable_x64(True):
        batches = [data.take(np.arange(i, NUM_ROWS, 4)) for i in range(4)]
        mean = np.mean([density.loss(u, batch, NUM_ROWS) for batch in batches])
        assert mean == pytest.approx(float(density.loss(u, data)), rel=1e-12)


def test_a_fit_is_saved_with_its_sites(mode: Fit, tmp_path: Path) -> None:
    again = Fit.load(mode.save(tmp_path / "house.nc"), house)
    assert again.seen == mode.seen
    for site in NAMES:
        assert again[site].was_fitted_to(X, Y[site])
        np.testing.assert_array_equal(again.predict(X)[site].log_prob(Y[site]), mode.predict(X)[site].log_prob(Y[site]))
    with pytest.raises(ValueError, match=r"observed site 'price', 'sold'.*got the sites"):
        Fit.load(tmp_path / "house.nc", observe_price)


def test_arviz_has_a_variable_for_each_site(mode: Fit) -> None:
    tree = mode.to_datatree(X, Y, key=0)
    for group in ("log_likelihood", "observed_data", "posterior_predictive"):
        assert set(tree[group].data_vars) == set(NAMES)
    total = sum(tree["log_likelihood"][site].to_numpy() for site in NAMES)
    np.testing.assert_allclose(total, mode.log_likelihood(X, Y), rtol=1e-4, atol=1e-4)


def test_each_site_has_a_loss_of_its_own() -> None:
    explanation = explain(house, X, Y, at=W)
    losses = [term for term in explanation.terms if term.role == "loss"]
    assert [(term.site, term.distribution.split("(")[0]) for term in losses] == [
        ("price", "Normal"),
        ("sold", "Bernoulli"),
    ]
    assert explanation.value_difference < 1e-10
    flat_nats = -float(log_density(flat(house), W, X, Y))
    assert explanation.loss == pytest.approx(flat_nats, rel=1e-5)


def test_a_fit_of_one_site_has_its_rows(mode: Fit) -> None:
    assert mode["sold"].was_fitted_to(X, SOLD)
    assert "Fitted to these rows" in str(compare({"sold": mode["sold"]}, X, SOLD))
    with pytest.raises(KeyError, match=r"one of the observed sites \['price', 'sold'\]; got 'other'"):
        mode["other"]
    with pytest.raises(KeyError, match="got 'other'"):
        mode.predict(X)["other"]
    assert "MAP of 'sold'" in repr(mode["sold"])
    single = fit(observe_sold, MAP(num_steps=100), X, SOLD, key=0, progress=False)
    assert single["sold"] is single


@pytest.mark.slow
def test_chains_of_two_sites_mix() -> None:
    result = fitted(NUTS(num_warmup=200, num_samples=150, num_chains=2), shared)
    with jax.enable_x64(True):
        laplace = fitted(Laplace(), shared)
    w, centre = result.draws["w"].reshape(-1, 2), laplace.draws["w"].reshape(-1, 2)
    assert (np.abs(w.mean(axis=0) - centre.mean(axis=0)) < centre.std(axis=0)).all()


TWO = Model(MLP(), {"price": Normal(dist.HalfNormal(1.0)), "sold": Bernoulli()}, gaussian(2.0))


def test_a_model_of_two_observations_is_two_models_of_one() -> None:
    """The outputs are split in order, and each observation samples sites of its own name."""
    w = {"w1": jnp.array([[0.5, 1.0], [-1.0, 2.0]]), "b1": jnp.array([0.1, 0.2]), "price/scale": jnp.array(0.7)}
    price = {"w1": w["w1"][:, :1], "b1": w["b1"][:1], "scale": w["price/scale"]}
    sold = {"w1": w["w1"][:, 1:], "b1": w["b1"][1:]}
    parts = ("price", price), ("sold", sold)
    with jax.enable_x64(True):
        total = sum(
            float(log_density(Model(MLP(), dict(TWO.observation.parts)[site], gaussian(2.0)), weights, X, Y[site]))
            for site, weights in parts
        )
        assert log_density(TWO, w, X, Y) == pytest.approx(total, rel=1e-12)
    assert list(priors(TWO, X).to_dataframe().index) == ["w1", "b1", "price/scale"]
    assert list(priors(standardize(TWO, X, Y), X).to_dataframe().index) == ["w1", "b1", "price/scale"]
    assert list(priors(house, X).to_dataframe().index) == [*LATENTS["price"], *LATENTS["sold"]]
    again = Model(MLP(), {"price": Normal(dist.HalfNormal(1.0)), "sold": Bernoulli()}, gaussian(2.0))
    assert again == TWO
    assert hash(again) == hash(TWO)
    assert Model(MLP(), {"sold": Bernoulli(), "price": Normal(dist.HalfNormal(1.0))}, gaussian(2.0)) != TWO


BAD_MODELS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": ({}, ValueError, "expected an observation, or several by name"),
    "a class": ({"price": Normal}, TypeError, "expected an observation such as"),
    "a number as name": ({1: Normal()}, TypeError, "expected names of observations, such as 'price'; got 1"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_several_observations_are_checked(case: str) -> None:
    observation, error, words = BAD_MODELS[case]
    with pytest.raises(error, match=words):
        Model(MLP(), observation)


VERBS: dict[str, Callable[[Fit], Any]] = {
    "mean": lambda result: result.predict(X).mean,
    "std": lambda result: result.predict(X).std,
    "probs": lambda result: result.predict(X).probs,
    "quantile": lambda result: result.predict(X).quantile(0.5),
    "cdf": lambda result: result.predict(X).cdf(Y),
    "uncertainty": lambda result: uncertainty(result, X),
    "calibration": lambda result: calibration(result, X, Y),
    "temperature_scaling": lambda result: temperature_scaling(result, X[::-1], Y),
    "cross_entropy": lambda result: cross_entropy(result, X, Y),
    "compress": lambda result: compress(result, X, Y),
    "weight_of_evidence": lambda result: weight_of_evidence(result, X, baseline=X),
    "plot_decision": lambda result: plot_decision(result, X, Y),
}
"""What is asked of one kind of y."""


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_asked_of_one_kind_of_y_names_the_sites(mode: Fit, verb: str) -> None:
    with pytest.raises((NotImplementedError, TypeError, ValueError), match=r"the sites 'price', 'sold': ask for one"):
        VERBS[verb](mode)


def test_the_first_block_of_several_sites_has_no_code() -> None:
    with pytest.raises(ValueError, match="prequential: expected y to be a class; it has the sites 'price', 'sold'"):
        prequential(TWO, MAP(), X, Y, key=0)


def test_one_site_can_be_asked_what_a_fit_can(mode: Fit) -> None:
    price, sold = mode["price"], mode["sold"]
    assert price.predict(X).quantile([0.1, 0.9]).shape == (2, NUM_ROWS)
    assert calibration(sold, X, SOLD).scores.loc["accuracy", "value"] == np.mean((sold.predict(X).probs > 0.5) == SOLD)
    assert uncertainty(price, X).unit == "squared units of y"
    assert weight_of_evidence(sold, X, baseline=X).kind == "linear"
    with pytest.raises(TypeError, match=r"save: expected a fit of all observed sites; got its part of 'sold'"):
        sold.save("sold.nc")


def test_the_code_of_rows_is_the_sum_of_those_of_their_sites(mode: Fit) -> None:
    """A fit of one draw: its sites are independent."""
    whole = code_length(mode, X, Y)
    total = code_length(mode["price"], X, PRICE).bits + code_length(mode["sold"], X, SOLD).bits
    np.testing.assert_allclose(whole.bits, total, rtol=1e-4, atol=1e-4)
    assert whole.was_fitted


def test_a_comparison_is_of_whole_rows_and_of_each_site(mode: Fit, draws: Fit) -> None:
    gaps = {"price": np.where(np.arange(NUM_ROWS) < 10, np.nan, PRICE), "sold": SOLD}
    table = compare({"mode": mode, "prior": draws}, X[::-1], gaps).to_dataframe()
    for name, result in (("mode", mode), ("prior", draws)):
        total = result.predict(X[::-1]).log_prob(gaps).mean()
        assert table.loc[name, "elpd"] == pytest.approx(total, rel=1e-5)
        for site, score in (("price", "rmse"), ("sold", "accuracy")):
            alone = compare({name: result[site]}, X[::-1], gaps[site]).to_dataframe()
            assert table.loc[name, f"elpd of {site}"] == pytest.approx(alone.loc[name, "elpd"], rel=1e-5)
            assert table.loc[name, f"{score} of {site}"] == pytest.approx(alone.loc[name, score], rel=1e-5)
    printed = str(compare({"mode": mode}, X, Y))
    assert "RMSE of price" in printed
    assert "Fitted to these rows: mode" in printed
    with pytest.raises(ValueError, match=r"'mode' has the observed site 'price, sold', and 'sold' the observed site"):
        compare({"mode": mode, "sold": mode["sold"]}, X, Y)


@pytest.mark.slow
def test_each_row_of_each_site_is_left_out_once() -> None:
    scores = cross_validate({"MAP": (TWO, MAP(num_steps=50))}, X, Y, num_folds=2, key=0, progress=False)
    (one, _), (other, _) = ((np.bincount(SOLD[scored]), None) for _, scored in scores.splits)
    assert (np.abs(one - other) <= 1).all()  # stratified by the class of the one site that has classes
    table = scores.to_dataframe().loc["MAP"]
    assert table["elpd"] == pytest.approx(table["elpd of price"] + table["elpd of sold"], rel=1e-5)


@pytest.mark.slow
def test_separable_classes_of_one_site_have_no_maximum() -> None:
    """Whatever the other site: its weights stay where they are."""
    y = {"price": PRICE, "sold": (X[:, 0] > 0).astype(int)}
    status = fitted(MLE(), TWO, y).status
    assert status.failures[0].code is Code.SEPARABLE


@pytest.mark.slow
def test_a_missing_class_of_one_site_has_no_maximum() -> None:
    y = {"price": PRICE, "kind": np.arange(NUM_ROWS) % 2}
    model = Model(MLP(), {"price": Normal(0.5), "kind": Categorical(3)}, gaussian(2.0))
    result = fitted(MLE(), model, y)
    assert result.status.failures[0].code is Code.MISSING_CLASS
    assert (result["kind"].absent, result["price"].absent) == ((2,), ())


@pytest.mark.slow
def test_an_exact_fit_of_one_site_has_no_maximum() -> None:
    result = fitted(MLE(), y={"price": X @ [1.0, 2.0], "sold": SOLD})
    assert result.status.failures[0].code is Code.UNBOUNDED_DENSITY


@pytest.mark.slow
def test_a_mean_and_a_survival_time() -> None:
    """Of heads without common weights; a censored time has two bounds in y."""
    time = np.random.default_rng(1).exponential(size=NUM_ROWS)
    y = {"price": PRICE, "time": np.stack([np.minimum(time, 1.0), np.where(time < 1.0, time, np.inf)], axis=1)}
    both = fitted(MLE(), Model(MLP(), {"price": Normal(0.5), "time": Censored(Exponential())}), y)
    alone = fit(Model(MLP(), Censored(Exponential())), MLE(), X, y["time"], key=0, progress=False)
    np.testing.assert_allclose(both.draws["w1"][..., 1:], alone.draws["w1"], rtol=1e-3)
    np.testing.assert_allclose(both.predict(X)["time"].quantile(0.5), alone.predict(X).quantile(0.5), rtol=1e-3)


@pytest.mark.slow
def test_sites_are_standardised_one_by_one() -> None:
    y = {"price": 1e5 + 2e4 * PRICE, "sold": SOLD}
    model = standardize(TWO, X, y)
    assert [site for site, _ in model.y] == ["price"]
    result = fitted(MAP(), model, y)
    assert result.status.level == "ok"
    assert result.predict(X)["price"].mean.mean() == pytest.approx(y["price"].mean(), rel=0.05)


@pytest.mark.slow
def test_a_linear_model_of_two_sites_is_not_changed_by_its_linearisation() -> None:
    with jax.enable_x64(True):
        result = fitted(MAP(), TWO)
        linear = linearized(TWO, result)
        w = {site: value[0, 0] + 0.1 for site, value in result.draws.items()}
        assert log_density(linear, w, X, Y) == pytest.approx(float(log_density(TWO, w, X, Y)), rel=1e-10)


@pytest.mark.slow
def test_the_gauss_newton_matrix_is_the_sum_over_sites() -> None:
    """It is the Hessian where means and logits are linear, and the same in each of the ways in which it is formed."""
    model = Model(MLP(), {"price": Normal(0.5), "sold": Bernoulli()}, gaussian(2.0))
    with jax.enable_x64(True):
        density, data = check_problem(model, X, Y)
        u = {"w1": jnp.array([[0.5, 1.0], [-1.0, 0.3]]), "b1": jnp.array([0.1, -0.2])}
        vector, unravel = ravel_pytree(u)
        by_rows = gauss_newton(density, u, data)
        hessian = jax.hessian(lambda v: -density.log_likelihood(unravel(v), data).sum())(vector)
        np.testing.assert_allclose(by_rows, hessian, rtol=1e-10, atol=1e-10)
        of_misfit = jax.hessian(lambda v: expected_misfit(density, unravel(v), u, data))(vector)
        np.testing.assert_allclose(of_misfit, by_rows, rtol=1e-10, atol=1e-10)
        surface = rowwise_surface_of(density, data, 16)
        np.testing.assert_allclose(surface.diagonal(vector, u, data), np.diagonal(by_rows), rtol=1e-10)
