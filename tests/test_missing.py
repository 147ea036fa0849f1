"""Labels that are missing: what was not observed adds nothing to the likelihood, and can be predicted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import scipy.stats
from jax import Array

from flatprior.inference import MAP, NUTS, Fit, Laplace, chunks, compare, cross_validate, explain, fit, loo
from flatprior.inference.checks import check_problem
from flatprior.inference.criticism import calibration, diagnose
from flatprior.inference.information import code_length, compress
from flatprior.inference.surface import potential_surface_of
from flatprior.models import (
    MLP,
    Bernoulli,
    Categorical,
    Censored,
    Model,
    Normal,
    Poisson,
    Weibull,
    censored,
    gaussian,
)

from .tables import some_by_default

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(8)
X = RNG.normal(size=(30, 2))
ETA = X @ [0.8, -0.4] + 0.2
GAPS = np.arange(30) % 7 == 3
KEPT = np.flatnonzero(~GAPS)
LABELS: dict[str, tuple[Any, np.ndarray]] = {
    "binary": (Model(MLP(), Bernoulli(), gaussian(1.0)), (ETA + RNG.logistic(size=30) > 0).astype(int)),
    "classes": (Model(MLP(), Categorical(3), gaussian(1.0)), RNG.integers(0, 3, 30)),
    "real": (Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0)), ETA + 0.4 * RNG.normal(size=30)),
    "counts": (Model(MLP(), Poisson(), gaussian(1.0)), RNG.poisson(np.exp(ETA))),
}
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda y: np.where(GAPS, np.nan, y),
    "a mask": lambda y: np.ma.array(y, mask=GAPS),
    "pandas": lambda y: pd.Series(y).where(~GAPS),
    "pandas, nullable": lambda y: pd.Series(y, dtype="Float64" if y.dtype.kind == "f" else "Int64").mask(GAPS),
    "polars": lambda y: pl.Series([None if gap else value for value, gap in zip(y.tolist(), GAPS, strict=True)]),
}
Y = X @ np.array([[1.0, 0.3, -0.5], [-0.7, 0.2, 0.4]]) + 0.4 * RNG.normal(size=(30, 3))
KNOWN = RNG.random((30, 3)) < 0.7
KNOWN[4] = False
EMPTY = int((~KNOWN.any(axis=1)).sum())
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.3], [0.2, -0.3, 0.8]]) / 4


def independent(x: Array, y: Array | None = None) -> None:
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ slopes, 0.5).to_event(1), obs=y)


def correlated(x: Array, y: Array | None = None) -> None:
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(x @ slopes, COVARIANCE), obs=y)


def shares(x: Array, y: Array | None = None) -> None:
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Dirichlet(jnp.exp(x @ slopes)), obs=y)


COVARIANCES = {"independent": np.eye(3) / 4, "correlated": COVARIANCE}
VECTORS = {"independent": independent, "correlated": correlated}
every_vector = pytest.mark.parametrize("name", VECTORS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LABELS)
def test_rows_without_a_label_are_left_out(kind: str, form: str) -> None:
    model, y = LABELS[kind]
    given, data = check_problem(model, X, FORMS[form](y))
    others, known = check_problem(model, X[KEPT], y[KEPT])
    assert given == others
    assert data.known is None
    np.testing.assert_array_equal(data.x, known.x)
    np.testing.assert_array_equal(data.y, known.y)
    assert np.asarray(data.y).dtype == np.asarray(known.y).dtype


@pytest.mark.parametrize("kind", ["binary", pytest.param("real", marks=pytest.mark.slow)])
def test_a_fit_and_its_scores_are_those_of_the_labelled_rows(kind: str) -> None:
    model, y = LABELS[kind]
    gaps = FORMS["NaN"](y)
    with_gaps, whole = (fit(model, MAP(num_restarts=1), *rows, key=0) for rows in ((X, gaps), (X[KEPT], y[KEPT])))
    for one, other in zip(with_gaps.draws.values(), whole.draws.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "left out: 4 rows without y" in repr(with_gaps)
    assert "left out" not in repr(whole)
    assert with_gaps.was_fitted_to(X, gaps)
    assert with_gaps.was_fitted_to(X[KEPT], y[KEPT])
    assert with_gaps.predict(X).mean.shape == (30,)
    log_prob = with_gaps.predict(X).log_prob(gaps)
    assert (log_prob[GAPS] == 0).all()
    np.testing.assert_allclose(log_prob[KEPT], whole.predict(X[KEPT]).log_prob(y[KEPT]), rtol=1e-12)
    np.testing.assert_array_equal(with_gaps.log_likelihood(X, gaps)[0, 0], log_prob)
    tables = [compare({"fit": each}, *rows) for each, rows in ((with_gaps, (X, gaps)), (whole, (X[KEPT], y[KEPT])))]
    numbers = [
        table.to_dataframe().drop(columns=["kind", "status", "seconds_compile", "seconds_run"]) for table in tables
    ]
    pd.testing.assert_frame_equal(*numbers)
    assert "Left out: 4 rows without y." in str(tables[0])
    assert "Fitted to these rows" in str(tables[0])
    np.testing.assert_allclose(
        code_length(with_gaps, X, gaps).bits, code_length(whole, X[KEPT], y[KEPT]).bits, rtol=1e-12
    )


def test_explain_counts_what_it_leaves_out() -> None:
    model, y = LABELS["counts"]
    explained = explain(model, X, FORMS["NaN"](y))
    assert "Left out: 4 rows without y." in str(explained)
    assert explained.loss == pytest.approx(explain(model, X[KEPT], y[KEPT]).loss, rel=1e-12)


@every_vector
def test_the_likelihood_is_that_of_the_known_values(name: str) -> None:
    density, data = check_problem(VECTORS[name], X, np.where(KNOWN, Y, np.nan))
    assert data.num_rows == 30 - EMPTY
    slopes = np.random.default_rng(1).normal(size=(2, 3))
    log_probs = density.log_likelihood({"slopes": jnp.asarray(slopes)}, data)
    rows = np.flatnonzero(KNOWN.any(axis=1))
    for row, log_prob in zip(rows, np.asarray(log_probs), strict=True):
        here = KNOWN[row]
        marginal = scipy.stats.multivariate_normal((X[row] @ slopes)[here], COVARIANCES[name][np.ix_(here, here)])
        assert log_prob == pytest.approx(marginal.logpdf(Y[row, here]), rel=1e-10)


@pytest.mark.parametrize("name", some_by_default(VECTORS, "correlated"))
def test_the_posterior_is_that_of_the_known_values(name: str) -> None:
    """A Normal posterior: its precision is I plus the sum over rows of x x' times the inverse of the known part."""
    gaps = np.where(KNOWN, Y, np.nan)
    fitted = fit(VECTORS[name], Laplace(num_samples=3), X, gaps, key=0)
    precision, linear = np.eye(6), np.zeros(6)
    for row, here in enumerate(KNOWN):
        if here.any():
            design = np.kron(X[row], np.eye(3)[here]).reshape(here.sum(), 6)  # of the slopes, row by row
            inverse = np.linalg.inv(COVARIANCES[name][np.ix_(here, here)])
            precision += design.T @ inverse @ design
            linear += design.T @ inverse @ Y[row, here]
    mean = np.linalg.solve(precision, linear)
    point = fit(VECTORS[name], MAP(num_restarts=1), X, gaps, key=0)
    np.testing.assert_allclose(point.draws["slopes"][0, 0].ravel(), mean, rtol=1e-8)
    assert point.counts is not None
    assert (point.counts.missing, point.counts.unlabelled) == ((~KNOWN).sum() - 3 * EMPTY, EMPTY)
    density, data = check_problem(VECTORS[name], X, gaps)
    u = jnp.asarray(mean)
    for curvature in ("ggn", "hessian"):
        surface = potential_surface_of(density, data, curvature)
        np.testing.assert_allclose(
            surface.curvature(u, {"slopes": jnp.zeros((2, 3))}, data), precision, rtol=1e-8, atol=1e-8
        )
    assert fitted.log_evidence is not None


@pytest.mark.parametrize("name", ["independent", pytest.param("correlated", marks=pytest.mark.slow)])
def test_batches_have_the_known_values_of_their_rows(name: str) -> None:
    density, data = check_problem(VECTORS[name], X, np.where(KNOWN, Y, np.nan))
    data = data.take(np.arange(28))
    u = {"slopes": jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)))}
    batches = [data.take(np.arange(start, start + 7)) for start in range(0, 28, 7)]
    assert np.mean([density.loss(u, batch, 28) for batch in batches]) == pytest.approx(float(density.loss(u, data)))
    assert fit(VECTORS[name], MAP(num_steps=20, batch_size=7), X, np.where(KNOWN, Y, np.nan), key=0).draws


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # the chains are short
def test_chains_have_the_known_values() -> None:
    gaps = np.where(KNOWN, Y, np.nan)
    chains = fit(independent, NUTS(num_warmup=50, num_samples=50, num_chains=2, start=None), X, gaps, key=0)
    rows = KNOWN.any(axis=1)
    log_likelihood = chains.log_likelihood(X, gaps)
    loc = np.einsum("ni,csij->csnj", X, chains.draws["slopes"])
    by_hand = np.where(KNOWN, scipy.stats.norm(loc, 0.5).logpdf(Y), 0.0).sum(axis=-1)
    np.testing.assert_allclose(log_likelihood, by_hand, rtol=1e-8)
    assert loo(chains, X, gaps).n_data_points == rows.sum()
    assert len(diagnose(chains, X, gaps).table)
    tree = chains.to_datatree(X, gaps)
    np.testing.assert_array_equal(np.isnan(tree["observed_data"]["y"]), ~KNOWN)


@pytest.mark.slow
def test_folds_have_the_known_values() -> None:
    gaps = np.where(KNOWN, Y, np.nan)
    result = cross_validate({"MAP": (independent, MAP(num_restarts=1))}, X, gaps, num_folds=3, key=0, progress=False)
    assert np.isfinite(result.log_probs["MAP"]).all()
    assert len(result.log_probs["MAP"]) == 30 - EMPTY
    assert f"Left out: {EMPTY} rows without y." in str(result)


def test_a_fit_with_gaps_survives_a_file(tmp_path: Any) -> None:
    gaps = np.where(KNOWN, Y, np.nan)
    fitted = fit(independent, MAP(num_restarts=1), X, gaps, key=0)
    again = Fit.load(fitted.save(tmp_path / "fit.nc"), independent)
    assert again.counts == fitted.counts
    assert again.was_fitted_to(X, gaps)
    np.testing.assert_array_equal(again.predict(X).log_prob(gaps), fitted.predict(X).log_prob(gaps))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a share": (
        lambda: check_problem(shares, X[:2], [[0.2, 0.3, 0.5], [0.5, np.nan, 0.5]]),
        "y, row 1: expected all values of the row, or none; got 2 of 3, from which Dirichlet has no density",
    ),
    "a code": (
        lambda: compress(
            fit(LABELS["binary"][0], MAP(), X, LABELS["binary"][1], key=0), X, FORMS["NaN"](LABELS["binary"][1])
        ),
        "compress: expected all values of y; y, row 3 is missing",
    ),
    "every label": (
        lambda: fit(LABELS["real"][0], MAP(), X, np.full(30, np.nan), key=0),
        "y: expected labels in some rows; got only missing values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_all_values_says_so(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_calibration_leaves_rows_out() -> None:
    model, y = LABELS["real"]
    fitted = fit(model, MAP(num_restarts=1), X, y, key=0)
    with_gaps, whole = (
        calibration(fitted, *rows).to_dataframe() for rows in ((X, FORMS["NaN"](y)), (X[KEPT], y[KEPT]))
    )
    pd.testing.assert_frame_equal(with_gaps, whole)


def test_a_large_count_is_not_rounded() -> None:
    _, data = check_problem(LABELS["counts"][0], X[:3], np.ma.array([16_777_217, 2, 3], mask=[False, True, False]))
    assert np.asarray(data.y).tolist() == [16_777_217, 3]
    with jax.enable_x64(False):
        _, data = check_problem(LABELS["counts"][0], X[:3], np.ma.array([16_777_217, 2, 3], mask=[False, True, False]))
        assert np.asarray(data.y).tolist() == [16_777_217, 3]


def test_many_rows_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, known = (np.tile(each, (10, 1)) for each in (X, Y, KNOWN))
    fitted = fit(independent, MAP(num_restarts=1), X, np.where(KNOWN, Y, np.nan), key=0)
    few = fitted.predict(X).log_prob(np.where(KNOWN, Y, np.nan))
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**12)
    many = fitted.predict(x).log_prob(np.where(known, y, np.nan))
    np.testing.assert_allclose(many, np.tile(few, 10), rtol=1e-12)


@pytest.mark.slow
def test_times_of_which_nothing_is_known_add_nothing() -> None:
    """Also to the slopes: a mask replaces what it hides by a value, at which the density of a time must be smooth."""
    rng = np.random.default_rng(4)
    bounds = censored(rng.weibull(1.5, 30), rng.random(30) < 0.6)
    gaps = np.where(GAPS[:, None], np.nan, bounds)
    both = Model(MLP(), {"number": Normal(0.5), "time": Censored(Weibull())}, gaussian(1.0))
    density, data = check_problem(both, X, {"number": ETA, "time": gaps})
    one, others = check_problem(Model(MLP(), Censored(Weibull()), gaussian(1.0)), X[KEPT], bounds[KEPT])
    u = {site: jnp.full(shape, 0.2) for site, shape in density.structure.sites}
    alone = {"w1": u["w1"][:, 1:], "b1": u["b1"][1:], "concentration": u["time/concentration"]}
    slope, slope_alone = jax.grad(density.potential)(u, data), jax.grad(one.potential)(alone, others)
    np.testing.assert_allclose(slope["w1"][:, 1:], slope_alone["w1"], rtol=1e-10)
    np.testing.assert_allclose(slope["time/concentration"], slope_alone["concentration"], rtol=1e-10)
