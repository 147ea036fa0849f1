"""Weights of rows: in every verb a row of weight w counts as w equal rows, as the replicated rows show."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import scale
from sklearn.linear_model import LogisticRegression

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    class_weights,
    compare,
    cross_validate,
    explain,
    fit,
    loo,
    tune,
)
from flatprior.inference.checks import check_problem
from flatprior.inference.criticism import calibration, temperature_scaling
from flatprior.inference.information import code_length
from flatprior.inference.methods import prior_path
from flatprior.inference.objective import likelihood_curve
from flatprior.models import MLP, Bernoulli, Model, Normal, Poisson, gaussian

pytestmark = pytest.mark.usefixtures("x64")

NUM_ROWS = 24
MODELS = {
    "binary": Model(MLP(), Bernoulli(), gaussian(1.0)),
    "real": Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0)),
    "counts": Model(MLP(), Poisson(), gaussian(1.0)),
}
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "real" else pytest.mark.slow) for kind in MODELS]
)


class Problem(NamedTuple):
    """Rows with weights from 0 to 3, and the same rows as often as they count."""

    model: Model
    weighted: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray
    replicated: tuple[np.ndarray, np.ndarray]


@pytest.fixture
def problem(kind: str) -> Problem:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(NUM_ROWS, 2))
    eta = x @ [0.8, -0.4] + 0.2
    y = {
        "binary": (eta + rng.logistic(size=NUM_ROWS) > 0).astype(int),
        "real": eta + 0.4 * rng.normal(size=NUM_ROWS),
        "counts": rng.poisson(np.exp(eta)),
    }[kind]
    weights = np.arange(NUM_ROWS) % 4
    return Problem(MODELS[kind], (x, y), weights, (np.repeat(x, weights, axis=0), np.repeat(y, weights)))


@pytest.fixture
def fits(problem: Problem) -> Iterator[tuple[Fit, Fit]]:
    """The fits of the weighted and of the replicated rows."""
    return (
        fit(problem.model, MAP(num_restarts=1), *problem.weighted, weights=problem.weights, key=0),
        fit(problem.model, MAP(num_restarts=1), *problem.replicated, key=0),
    )


def same(one: Any, other: Any) -> None:
    """Everything, to 1e-10."""
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


@every_kind
def test_the_density_and_its_slope_are_those_of_replicated_rows(problem: Problem) -> None:
    density, weighted = check_problem(problem.model, *problem.weighted, problem.weights)
    again, replicated = check_problem(problem.model, *problem.replicated)
    assert density == again
    u = {site: jax.random.normal(jax.random.key(1), shape) for site, shape in density.structure.sites}
    slope = jax.jit(jax.value_and_grad(density.potential))
    same(*(slope(u, data) for data in (weighted, replicated)))
    same(*(density.log_likelihood(u, data).sum() for data in (weighted, replicated)))
    rows = [weighted.take(np.arange(start, start + 3)) for start in range(0, weighted.num_rows, 3)]
    losses = [density.loss(u, batch, weighted.num_rows) for batch in rows]
    same(np.mean(losses), density.loss(u, weighted))


@every_kind
def test_a_fit_and_its_scores_are_those_of_replicated_rows(problem: Problem, fits: tuple[Fit, Fit]) -> None:
    weighted, replicated = fits
    same(weighted.draws, replicated.draws)
    assert weighted.counts is not None
    assert weighted.counts.weight == problem.weights.sum()
    tables = [
        compare({"fit": weighted}, *problem.weighted, weights=problem.weights).to_dataframe(),
        compare({"fit": replicated}, *problem.replicated).to_dataframe(),
    ]
    seconds = ["seconds_compile", "seconds_run"]
    left, right = (table.drop(columns=[*seconds, "kind", "status"]) for table in tables)
    same(left.to_numpy(), right.to_numpy())
    totals = [
        weighted.log_likelihood(*problem.weighted, weights=problem.weights).sum(),
        replicated.log_likelihood(*problem.replicated).sum(),
    ]
    same(*totals)
    lengths = [
        code_length(weighted, *problem.weighted, weights=problem.weights),
        code_length(replicated, *problem.replicated),
    ]
    same(*(length.to_dataframe().to_numpy() for length in lengths))
    assert all(length.was_fitted for length in lengths)
    if problem.model.observation != Poisson():
        tables = [
            calibration(weighted, *problem.weighted, weights=problem.weights, num_bins=4),
            calibration(replicated, *problem.replicated, num_bins=4),
        ]
        same(*(table.to_dataframe().to_numpy() for table in tables))
    same(*(length.standard_error for length in lengths))


@every_kind
@pytest.mark.slow
def test_laplace_and_the_evidence_are_those_of_replicated_rows(problem: Problem) -> None:
    method = Laplace(num_samples=5, base=MAP(num_restarts=1))
    weighted = fit(problem.model, method, *problem.weighted, weights=problem.weights, key=0)
    replicated = fit(problem.model, method, *problem.replicated, key=0)
    same(weighted.draws, replicated.draws)
    same(weighted.log_evidence, replicated.log_evidence)


METHODS: dict[str, Any] = {
    "last layer": Laplace(num_samples=4, structure="last_layer", base=MAP(num_restarts=1)),
    "diagonal": Laplace(num_samples=4, structure="diagonal", base=MAP(num_restarts=1)),
    "low rank": Laplace(num_samples=4, structure="low_rank", base=MAP(num_restarts=1)),
    "Conditional": Conditional(base=MAP(num_restarts=1), sites=("w2", "b2"), method=Laplace(num_samples=4)),
    "Ensemble": Ensemble(base=MAP(), num_members=3),
}


@pytest.mark.parametrize("kind", ["binary"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_every_method_has_the_weights(problem: Problem, method: str) -> None:
    network = Model(MLP((2,), "tanh"), Bernoulli(), gaussian(1.0))
    weighted = fit(network, METHODS[method], *problem.weighted, weights=problem.weights, key=0)
    replicated = fit(network, METHODS[method], *problem.replicated, key=0)
    for site, draws in weighted.draws.items():
        np.testing.assert_allclose(draws, replicated.draws[site], rtol=1e-6, atol=1e-6)


@every_kind
def test_the_objective_is_explained_as_that_of_replicated_rows(problem: Problem) -> None:
    sites = check_problem(problem.model, *problem.weighted)[0].structure.latents
    at = {site: np.full(shape, 0.3) for site, shape in sites.items()}
    weighted = explain(problem.model, *problem.weighted, at=at, weights=problem.weights)
    replicated = explain(problem.model, *problem.replicated, at=at)
    numbers = ["nats", "constant", "nats_per_row"]
    same(weighted.to_dataframe()[numbers].to_numpy(), replicated.to_dataframe()[numbers].to_numpy())
    assert weighted.value_difference < 1e-9
    assert "each times its own weight" in weighted.terms[0].name
    assert "Left out: 6 rows of weight 0." in str(weighted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary"])
def test_whatever_else_has_rows_takes_their_weights(problem: Problem, fits: tuple[Fit, Fit]) -> None:
    rows = {"weighted": (*problem.weighted, problem.weights), "replicated": (*problem.replicated, None)}
    model, found = problem.model, []
    for fitted, (x, y, weights) in zip(fits, rows.values(), strict=True):
        curve = likelihood_curve(
            model, x, y, "w1[0, 0]", np.linspace(-1, 1, 5), at=fits[0], weights=weights
        ).log_likelihood
        path = prior_path(model, x, y, weights=weights, key=0, multiples=(0.5, 1.0), method=MAP(num_restarts=1))
        tuned = tune(
            Model(MLP(), Bernoulli(), gaussian(dist.HalfNormal(1.0))), x, y, weights=weights, key=0, progress=False
        )
        tempered = temperature_scaling(fitted, x + 1e-9, y, weights=weights)
        found.append(
            {
                "curve": curve,
                "path": path.to_dataframe().drop(columns="status").to_numpy(),
                "temperature": (tempered.temperature, tempered.temperature_se),
            }
        )
        np.testing.assert_allclose(next(iter(tuned.values.values())), found_scale(problem), rtol=1e-4)
    same(*found)


def found_scale(problem: Problem) -> float:
    """The prior scale that has the largest evidence on the replicated rows."""
    model = Model(MLP(), Bernoulli(), gaussian(dist.HalfNormal(1.0)))
    return float(next(iter(tune(model, *problem.replicated, key=0, progress=False).values.values())))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real"])
def test_loo_leaves_one_of_the_equal_rows_out(problem: Problem) -> None:
    chains = NUTS(num_warmup=100, num_samples=100, num_chains=2, start=None)
    weighted = fit(problem.model, chains, *problem.weighted, weights=problem.weights, key=0, progress=False)
    replicated = Fit(
        weighted.density, weighted.method, weighted.layout, weighted.outcome, weighted.seconds
    )  # of the same draws
    here = loo(weighted, *problem.weighted, weights=problem.weights)
    there = loo(replicated, *problem.replicated)
    same((here.elpd, here.se, here.p, here.n_data_points), (there.elpd, there.se, there.p, there.n_data_points))
    table = compare(
        {"fit": weighted},
        *problem.weighted,
        weights=problem.weights,
        x_train=problem.weighted[0],
        y_train=problem.weighted[1],
        weights_train=problem.weights,
    ).to_dataframe()
    same(table["elpd_loo"].item(), there.elpd / problem.weights.sum())
    same(table["elpd_loo_se"].item(), there.se / problem.weights.sum())
    assert len(here.elpd_i) == np.count_nonzero(problem.weights)
    with pytest.raises(TypeError, match="loo: expected the weights of the rows"):
        loo(weighted, *problem.weighted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real"])
def test_rows_are_cross_validated_with_their_weights(problem: Problem) -> None:
    x, y = problem.weighted
    pair = {"MAP": (problem.model, MAP(num_restarts=1))}
    result = cross_validate(pair, x, y, weights=problem.weights, num_folds=3, key=0, progress=False)
    kept = np.flatnonzero(problem.weights)
    weights = problem.weights[kept]
    for fitted, scored in result.splits:
        again = fit(
            problem.model,
            MAP(num_restarts=1),
            np.repeat(x[kept][fitted], weights[fitted], axis=0),
            np.repeat(y[kept][fitted], weights[fitted]),
            key=0,
        )
        log_probs = again.predict(x[kept][scored]).log_prob(y[kept][scored])
        np.testing.assert_allclose(result.log_probs["MAP"][scored], log_probs, rtol=1e-8)
    mean = weights @ result.log_probs["MAP"] / weights.sum()
    np.testing.assert_allclose(result.to_dataframe()["elpd"].item(), mean)


def test_fractions_are_those_of_a_scale_handler() -> None:
    rng = np.random.default_rng(3)
    x, y, weights = rng.normal(size=(12, 1)), rng.normal(size=12), rng.uniform(0.1, 2.0, size=12)

    def by_hand(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        rows, own = x[:, 0], x[:, 1]
        with numpyro.plate("row", x.shape[0]), scale(scale=own):
            numpyro.sample("y", dist.Normal(w * rows, 0.5), obs=y)

    def plain(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(w * x[:, 0], 0.5), obs=y)

    handled = fit(by_hand, MAP(), np.column_stack([x, weights]), y, key=0)
    given = fit(plain, MAP(), x, y, weights=weights, key=0)
    same(handled.draws, given.draws)
    exact = (weights * x[:, 0] * y).sum() / 0.25 / (1 + (weights * x[:, 0] ** 2).sum() / 0.25)
    same(given.draws["w"].item(), exact)
    with pytest.raises(ValueError, match="code_length: expected whole numbers as weights"):
        code_length(given, x, y, weights=weights)


def test_they_multiply_a_scale_handler_and_factors_over_rows() -> None:
    x, y, weights = np.zeros((4, 1)), np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 2, 0, 3])

    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        numpyro.factor("of the whole", -(w**2))
        with numpyro.plate("row", x.shape[0]), scale(scale=0.5):
            numpyro.sample("y", dist.Normal(w, 1.0), obs=y)
            numpyro.factor("of each row", -w * x[:, 0] - w)

    density, weighted = check_problem(model, x, y, weights)
    _, replicated = check_problem(model, np.repeat(x, weights, axis=0), np.repeat(y, weights))
    u = {"w": jnp.asarray(0.3)}
    same(density.potential(u, weighted), density.potential(u, replicated))


@pytest.mark.parametrize("method", [MLE(), Ensemble(base=MAP(num_restarts=1), num_members=2)], ids=["MLE", "Ensemble"])
def test_class_weights_balance_the_classes(method: Any) -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(200, 1))
    y = (x[:, 0] + rng.logistic(size=200) > 2.0).astype(int)
    weights = class_weights(y)
    for label in (0, 1):
        same(weights[y == label].sum(), 100.0)
    model = Model(MLP(), Bernoulli(), gaussian(100.0))
    fitted = fit(model, method, x, y, weights=weights, key=0)
    peer = LogisticRegression(C=1e4, class_weight="balanced", tol=1e-10).fit(x, y)
    np.testing.assert_allclose(fitted.draws["w1"][0, 0].item(), peer.coef_.item(), rtol=2e-3)


def test_weights_survive_a_file(tmp_path: Any) -> None:
    x, y = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 1, 0])
    fitted = fit(MODELS["binary"], MAP(), x, y, weights=[1, 2, 0, 1, 1, 1], key=0)
    again = Fit.load(fitted.save(tmp_path / "fit.nc"), MODELS["binary"])
    assert again.counts == fitted.counts
    assert "total weight 6" in repr(again)
    assert again.was_fitted_to(x, y, [1, 2, 0, 1, 1, 1])
