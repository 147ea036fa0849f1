"""Raw units: what `standardize` keeps, and statuses that name units, priors and Gaussians that do not fit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from sklearn.datasets import load_diabetes

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    SGMCMC,
    Code,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    Variational,
    compare,
    cross_validate,
    explain,
    fit,
    flat,
    standardize,
)
from flatprior.inference.criticism import calibration
from flatprior.inference.criticism.temperature import Tempered
from flatprior.inference.distributions import Affine, affine
from flatprior.inference.fingerprint import fingerprint
from flatprior.models import MLP, Bernoulli, Model, Normal, Poisson, gaussian

RNG = np.random.default_rng(8)
X = RNG.normal(size=(60, 2))
Z = X @ [0.6, -0.5] + 0.4 * RNG.normal(size=60)
Z = (Z - Z.mean()) / Z.std()
DOLLARS = np.float32(250_000 + 80_000 * Z)
AREA = np.float32(X * [30.0, 400.0] + [120.0, 2000.0])
LINE = Model(MLP(), Normal(dist.HalfNormal(1.0)), gaussian(1.0))
UNITS = standardize(LINE, AREA, DOLLARS)
MEAN, SD = DOLLARS.astype(float).mean(), DOLLARS.astype(float).std()


def by_hand(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return (values - values.mean(axis=0)) / values.std(axis=0)


# What `standardize` keeps


@pytest.fixture(scope="module")
def raw() -> Fit:
    return fit(UNITS, MAP(num_steps=1000), AREA, DOLLARS, key=0, progress=False)


@pytest.fixture(scope="module")
def hand() -> Fit:
    return fit(LINE, MAP(num_steps=1000), by_hand(AREA), by_hand(DOLLARS), key=0, progress=False)


def test_weights_are_those_of_data_standardised_by_hand(raw: Fit, hand: Fit) -> None:
    assert raw.status.level == hand.status.level == "ok"
    for site, value in hand.draws.items():
        np.testing.assert_allclose(raw.draws[site], value, atol=1e-5)


def test_the_density_is_in_the_units_of_y(raw: Fit, hand: Fit) -> None:
    in_dollars = raw.log_likelihood(AREA, DOLLARS)
    np.testing.assert_allclose(in_dollars, hand.log_likelihood(by_hand(AREA), by_hand(DOLLARS)) - np.log(SD), atol=1e-4)
    predicted, expected = raw.predict(AREA), hand.predict(by_hand(AREA))
    np.testing.assert_allclose(predicted.mean, MEAN + SD * expected.mean, rtol=1e-5)
    np.testing.assert_allclose(predicted.variance, SD**2 * expected.variance, rtol=1e-4)
    np.testing.assert_allclose(predicted.quantile(0.9), MEAN + SD * expected.quantile(0.9), rtol=1e-5)
    np.testing.assert_allclose(predicted.cdf(DOLLARS), expected.cdf(by_hand(DOLLARS)), atol=1e-4)
    np.testing.assert_allclose(predicted.log_prob(DOLLARS), in_dollars[0, 0], atol=1e-4)
    draws = predicted.sample(0, (500,))
    np.testing.assert_allclose(draws.mean(axis=0), predicted.mean, atol=6 * np.sqrt(predicted.variance.max() / 500))


def test_scores_and_calibration_take_it(raw: Fit) -> None:
    table = compare({"line": raw}, AREA, DOLLARS).to_dataframe()
    assert 20_000 < table["rmse"].item() < 80_000
    assert calibration(raw, AREA, DOLLARS).to_dataframe().notna().any().any()


def test_explain_names_the_loss_of_y_itself() -> None:
    known = standardize(Model(MLP(), Normal(0.5), gaussian(1.0)), AREA, DOLLARS)
    result = explain(known, AREA, DOLLARS)
    assert result.terms[0].name == "squared error / (2 * {0}^2) + n/2 log(2 pi {0}^2)".format(f"{0.5 * SD:.4g}")
    assert result.terms[0].checked_by == "optax.squared_error"
    assert result.value_difference < 1e-6
    assert explain(UNITS, AREA, DOLLARS).terms[0].name == "Gaussian NLL, one learned scale"


def test_it_is_a_value(raw: Fit, tmp_path: Path) -> None:
    again = standardize(LINE, AREA, DOLLARS)
    other = standardize(LINE, AREA, 2 * DOLLARS)
    assert (again, hash(again), fingerprint(again)) == (UNITS, hash(UNITS), fingerprint(UNITS))
    assert other != UNITS
    assert fingerprint(other) != fingerprint(UNITS)
    loaded = Fit.load(raw.save(tmp_path / "fit.nc"), again)
    np.testing.assert_array_equal(loaded.predict(AREA).mean, raw.predict(AREA).mean)
    with pytest.raises(ValueError, match="the model has changed"):
        Fit.load(tmp_path / "fit.nc", other)


@pytest.mark.slow
def test_mle_is_map_under_a_flat_prior_and_laplace_has_the_same_curvature() -> None:
    one, other = (fit(m, a, AREA, DOLLARS, key=0, progress=False) for m, a in ((UNITS, MLE()), (flat(UNITS), MAP())))
    np.testing.assert_array_equal(one.draws["w1"], other.draws["w1"])
    known = Model(MLP(), Normal(0.5), gaussian(1.0))
    raw = fit(standardize(known, AREA, DOLLARS), Laplace(num_samples=4), AREA, DOLLARS, key=0, progress=False)
    hand = fit(known, Laplace(num_samples=4), by_hand(AREA), by_hand(DOLLARS), key=0, progress=False)
    assert raw.status.level == hand.status.level == "ok"
    assert raw.log_evidence == pytest.approx(hand.log_evidence - 60 * np.log(SD), abs=0.01)
    np.testing.assert_allclose(raw.draws["w1"], hand.draws["w1"], atol=1e-4)


# Other kinds of x and y


def vectors(x: dict[str, Array], y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    with numpyro.plate("row", x["z"].shape[0]):
        loc = x["z"] @ w + x["group"][:, None]
        numpyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=None if y is None else y["price"])


def correlated(x: dict[str, Array], y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    tril = jnp.array([[0.5, 0.0, 0.0], [0.2, 0.5, 0.0], [0.1, 0.1, 0.5]])
    with numpyro.plate("row", x["z"].shape[0]):
        d = dist.MultivariateNormal(x["z"] @ w + x["group"][:, None], scale_tril=tril)
        numpyro.sample("y", d, obs=None if y is None else y["price"])


@pytest.mark.slow
@pytest.mark.parametrize("model", [vectors, correlated])
def test_vectors_are_standardised_by_column_and_integers_are_left(model: Callable[..., Any], x64: None) -> None:
    x = {"group": np.arange(60) % 3, "z": X * [10.0, 0.01] + 5}
    y = {"price": RNG.normal(size=(60, 3)) * [1.0, 100.0, 0.01] + [5.0, 1000.0, 1.0]}
    units = standardize(model, x, y)
    assert [each is None for each in units.x] == [True, False]
    mean, sd = y["price"].mean(axis=0), y["price"].std(axis=0)
    in_units = {**x, "z": by_hand(x["z"])}, {"price": by_hand(y["price"])}
    w = {"w": RNG.normal(size=(2, 3))}
    log_probs, plain = (
        numpyro.handlers.trace(numpyro.handlers.substitute(m, data=w)).get_trace(*rows)["y"]
        for m, rows in ((units, (x, y)), (model, in_units))
    )
    inside = plain["fn"].log_prob(plain["value"])
    np.testing.assert_allclose(log_probs["fn"].log_prob(log_probs["value"]), inside - np.log(sd).sum(), rtol=1e-10)
    np.testing.assert_allclose(log_probs["fn"].mean, mean + sd * plain["fn"].mean, rtol=1e-10)
    result = fit(units, Laplace(base=MAP(num_steps=50), num_samples=4), x, y, key=0, progress=False)
    assert result.predict(x).variance.shape == (60, 3)
    assert result.status.level == "ok"


def positive(x: Array, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Gamma(4.0, 4.0 * jnp.exp(-x @ w[:2] - w[2])), obs=y)


@pytest.mark.slow
def test_a_positive_y_is_only_divided() -> None:
    y = np.float32(80_000 * RNG.gamma(4.0, 0.25, size=60))
    units = standardize(positive, AREA, y)
    ((site, of_y),) = units.y
    assert (site, of_y.mean) == ("y", (0.0,))
    result = fit(units, MAP(num_steps=50), AREA, y, key=0, progress=False)
    assert result.status.level == "ok"
    assert result.predict(AREA).mean.mean() == pytest.approx(y.mean(), rel=0.1)
    terms = explain(units, AREA, y).terms
    assert (terms[0].name, terms[0].distribution) == (
        "negative log of Gamma",
        f"{y.astype(float).std():.4g} * Gamma(4, rate)",
    )


@pytest.mark.parametrize(
    ("observation", "y"), [(Bernoulli(), Z > 0), pytest.param(Poisson(), np.arange(60) % 4, marks=pytest.mark.slow)]
)
def test_a_discrete_y_stays_as_it_is(observation: Any, y: np.ndarray) -> None:
    model = Model(MLP(), observation, gaussian(1.0))
    raw = fit(standardize(model, AREA, y), MAP(), AREA, y, key=0, progress=False)
    hand = fit(model, MAP(), by_hand(AREA), y, key=0, progress=False)
    np.testing.assert_allclose(raw.draws["w1"], hand.draws["w1"], atol=1e-4)
    np.testing.assert_allclose(raw.log_likelihood(AREA, y), hand.log_likelihood(by_hand(AREA), y), atol=1e-4)


FAMILIES = {
    "Normal": dist.Normal(jnp.array([0.2, -1.0]), 0.5),
    "StudentT": dist.StudentT(5.0, jnp.array([0.2, -1.0]), 0.5),
    "Cauchy": dist.Cauchy(jnp.array([0.2, -1.0]), 0.5),
    "Laplace": dist.Laplace(jnp.array([0.2, -1.0]), 0.5),
    "Logistic": dist.Logistic(jnp.array([0.2, -1.0]), 0.5),
    "Gumbel": dist.Gumbel(jnp.array([0.2, -1.0]), 0.5),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_location_scale_family_is_kept(family: str, x64: None) -> None:
    base, value = FAMILIES[family], jnp.array([3.0, 4.0])
    moved = affine(base, 3.0, 2.0)
    scale = {name: getattr(base, name) for name in base.arg_constraints}
    plain = type(base)(**scale | {"loc": 3.0 + 2.0 * base.loc, "scale": 2.0 * base.scale})
    for name in ("log_prob", "cdf"):
        np.testing.assert_allclose(getattr(moved, name)(value), getattr(plain, name)(value), rtol=1e-6)
    if family != "Cauchy":
        np.testing.assert_allclose(moved.mean, plain.mean)
        np.testing.assert_allclose(moved.variance, plain.variance)
    if family != "StudentT":  # of which NumPyro has no quantiles without another package
        np.testing.assert_allclose(moved.icdf(jnp.array(0.3)), plain.icdf(jnp.array(0.3)), rtol=1e-6)


def test_masks_and_expansions_are_kept() -> None:
    d = dist.Normal(0.0, 1.0).expand([4, 3]).mask(jnp.arange(3) < 2).to_event(1)
    moved = affine(d, jnp.arange(3.0), 2.0)
    assert (moved.batch_shape, moved.event_shape) == ((4,), (3,))
    expected = 2 * dist.Normal(0.0, 2.0).log_prob(0.0)
    np.testing.assert_allclose(moved.log_prob(jnp.tile(jnp.arange(3.0), (4, 1))), np.full(4, expected), rtol=1e-6)
    assert isinstance(pickle.loads(pickle.dumps(affine(dist.Normal(), 1.0, 2.0))), Affine)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a model that is not standardised yet"):
        standardize(flat(UNITS), AREA, DOLLARS)
    with pytest.raises(ValueError, match="Expected as many rows in y as in x"):
        standardize(LINE, AREA, DOLLARS[:-1])
    with pytest.raises(ValueError, match="row 3, column 1: expected finite numbers"):
        standardize(LINE, np.where(np.arange(120).reshape(60, 2) == 7, np.nan, AREA), DOLLARS)


# Statuses that name units, priors and Gaussians


def codes(model: Any, method: Any, x: Any, y: Any, key: int = 0) -> set[Code]:
    return set(fit(model, method, x, y, key=key, progress=False).status.codes)


NETWORK = Model(MLP((4,), "silu"), Normal("network"), gaussian(1.0))
SHORT: dict[str, Any] = {"num_steps": 500, "polish": False}
POINTS = {"MAP": MAP(**SHORT), "MLE": MLE(**SHORT), "Ensemble": Ensemble(MAP(**SHORT), num_members=2)}


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m != "MAP")) for m in POINTS])
def test_raw_units_are_named_where_they_are_the_cause(method: str) -> None:
    result = fit(NETWORK, POINTS[method], X, DOLLARS, key=0, progress=False).status
    assert result.level == "check"
    for words in (
        "y is in raw units: its mean is 2.5e+05 and its standard deviation 8e+04",
        "standardize(model, x, y)",
    ):
        assert words in str(result)
    assert "num_steps" not in str(result)


@pytest.mark.slow
def test_newtons_method_reaches_the_mode_in_raw_units_where_only_the_prior_is_wrong() -> None:
    assert codes(NETWORK, MAP(num_steps=500), X, DOLLARS) == {Code.PRIOR_CONFLICT}


def own_units(x: Array, y: Array | None = None) -> None:
    """A model that standardises y itself."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(250_000.0 + 80_000.0 * (x @ w), 40_000.0), obs=y)


def test_raw_units_are_not_named_where_they_are_no_cause() -> None:
    short = MAP(num_steps=5, polish=False)
    for model, x, y in (
        (NETWORK, X, Z),
        (NETWORK, X, 3 + 2 * Z),
        (own_units, X, DOLLARS),
        (standardize(NETWORK, AREA, DOLLARS), AREA, DOLLARS),
    ):
        result = codes(model, short, x, y)
        assert result
        assert Code.UNITS not in result


@pytest.mark.slow
def test_saturated_units_are_not_a_mode() -> None:
    tanh = Model(MLP((4,), "tanh"), Normal(0.5), gaussian(1.0))
    raw = fit(tanh, MAP(num_steps=500, polish=False), AREA, Z, key=0, progress=False).status
    assert raw.codes == (Code.SATURATED_UNITS,)
    assert "times the mean squared error of a linear least squares fit" in str(raw)
    assert codes(standardize(tanh, AREA, Z), MAP(), AREA, Z) == set()


KNOWN = Model(MLP(), Normal(0.5), gaussian(1.0))


@pytest.mark.slow
def test_a_prior_in_conflict_with_the_data_is_named() -> None:
    for method in (MAP(), Laplace(num_samples=4)):
        assert codes(KNOWN, method, X, Z + 8) == {Code.PRIOR_CONFLICT}  # eight prior standard deviations
        assert codes(KNOWN, method, X, Z + 3) == set()
    assert codes(flat(KNOWN), MAP(), X, Z + 8) == set()
    assert codes(KNOWN, MLE(), X, Z + 8) == set()
    wide = Model(MLP(), Normal(0.5), gaussian(10.0))
    assert codes(wide, MAP(), X, Z + 8) == set()


def test_what_the_prior_costs_in_likelihood_counts_as_well() -> None:
    """The weights stay near 0, where the prior wants them, since the data determine them less than it does."""
    vague = Model(MLP(), Normal(100.0), gaussian(1.0))
    result = fit(vague, MAP(), X, 500 * Z, key=0, progress=False)
    assert np.abs(result.draws["w1"]).max() < 2.5
    assert result.status.codes == (Code.PRIOR_CONFLICT,)
    assert "nats of log likelihood" in str(result.status)
    assert codes(vague, MAP(), X, 50 * Z) == set()


@pytest.mark.slow
def test_a_network_with_few_rows_per_weight_is_told_that_it_fits_their_noise() -> None:
    x, y = (np.asarray(each[::2], np.float32) for each in load_diabetes(return_X_y=True))
    x, y = ((each - each.mean(0)) / each.std(0) for each in (x, y))
    network = Model(MLP((16,)), Normal(dist.HalfNormal(1.0)), gaussian(1.0))
    of_network, of_line = (
        str(fit(model, MAP(), *rows, key=0, progress=False).status)
        for model, rows in ((network, (x, y)), (KNOWN, (X, Z + 8)))
    )
    for status in (of_network, of_line):
        assert "Prior and data disagree" in status
    assert "few rows per weight" in of_network
    assert "few rows per weight" not in of_line


@pytest.mark.slow
def test_chains_name_a_conflict_too() -> None:
    chains = NUTS(num_warmup=50, num_samples=50, num_chains=2, start=None)
    assert Code.PRIOR_CONFLICT in codes(KNOWN, chains, X, Z + 8)
    assert Code.PRIOR_CONFLICT not in codes(KNOWN, chains, X, Z)


HEAVY = [dist.Laplace(0.0, 1.0), dist.StudentT(4.0, 0.0, 1.0), dist.Uniform(-100.0, 100.0)]


@pytest.mark.parametrize(
    "prior", [dist.Cauchy(0.0, 1.0), *(pytest.param(prior, marks=pytest.mark.slow) for prior in HEAVY)]
)
def test_heavy_tails_and_bounds_agree_with_what_they_allow(prior: dist.Distribution) -> None:
    assert codes(Model(MLP(), Normal(0.5), prior), MAP(), X, Z + 8) == set()


def slope(x: Array, y: Array | None = None) -> None:
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(s * x[:, 0], 1.0), obs=y)


def test_a_positive_slope_near_its_boundary_is_no_gaussian() -> None:
    noise = np.random.default_rng(0).normal(size=60)
    result = fit(slope, Laplace(num_samples=20), X, -2 * X[:, 0] + noise, key=0, progress=False)
    assert result.status.codes == (Code.NOT_GAUSSIAN,)
    healthy = fit(slope, Laplace(num_samples=20), X, 2 * X[:, 0] + noise, key=0, progress=False)
    assert healthy.status.codes == ()
    assert healthy.stats["pareto_k"] < 0.7


def test_draws_that_overflow_are_a_failure() -> None:
    x = np.tile(X, (50, 1))
    result = fit(slope, Laplace(num_samples=200), x, -3 * x[:, 0], key=0, progress=False)
    assert result.status.codes == (Code.NON_FINITE_DRAWS,)
    assert np.isnan(result.log_evidence)


@pytest.mark.slow
def test_a_gaussian_posterior_is_one_for_every_key() -> None:
    for key in range(20):
        result = fit(KNOWN, Laplace(num_samples=4), X, Z, key=key, progress=False)
        assert result.status.level == "ok"
        assert not result.stats["pareto_k"] > 0.7


@pytest.mark.parametrize("num_rows", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_logistic_regressions_are_nearly_gaussian(num_rows: int) -> None:
    rng, result = np.random.default_rng(3), []
    for key in range(5):
        x = rng.normal(size=(num_rows, 3))
        y = (x @ [1.0, -1.0, 0.5] + rng.logistic(size=num_rows) > 0).astype(int)
        result += [codes(Model(MLP(), Bernoulli(), gaussian(1.0)), Laplace(num_samples=4), x, y, key)]
    assert sum(Code.NOT_GAUSSIAN in each for each in result) <= 1


@pytest.mark.slow
def test_what_a_base_says_is_reported_by_what_is_built_on_it() -> None:
    given = Conditional(base=MAP(), sites=("w1",), method=Laplace(num_samples=4))
    result = fit(KNOWN, given, X, Z + 8, key=0, progress=False)
    assert Code.PRIOR_CONFLICT in result.status.codes
    assert "In the base, MAP: Prior and data disagree" in str(result.status)
    ensemble = fit(KNOWN, Ensemble(MAP(num_steps=500), num_members=2), X, Z + 8, key=0, progress=False).status
    assert "Prior and data disagree" in str(ensemble)
    scores = cross_validate({"MAP": (KNOWN, MAP())}, X, Z + 8, num_folds=2, key=0, progress=False)
    assert "Prior and data disagree" in str(scores)
    assert "Prior and data disagree" in str(Tempered(result, 2.0, 0.1, 60))


def raw_line(x: Array, y: Array | None = None) -> None:
    """A linear regression in raw units, whose scale is learned."""
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(x.shape[1]), 100.0).to_event(1))
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1000.0))
    scale = numpyro.sample("scale", dist.HalfCauchy(100.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + x @ slopes, scale), obs=y)


@pytest.mark.slow
def test_stochastic_chains_and_guides_begin_at_the_mode_of_a_regression_in_raw_units() -> None:
    """The descent alone ends some hundred units from it, which 10 000 steps do not go."""
    x = RNG.normal(size=(300, 3))
    y = 1500.0 + x @ [40.0, -20.0, 5.0] + 60.0 * RNG.normal(size=300)
    design = np.column_stack([x, np.ones(300)])
    best, (residual,), *_ = np.linalg.lstsq(design, y, rcond=None)
    sd = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * residual / 296)
    for method in (SGMCMC(), Variational(guide="full_rank")):
        line = fit(raw_line, method, x, y, key=0, progress=False)
        assert line.status.level == "ok", line.status
        means = np.append(line.draws["slopes"].mean((0, 1)), line.draws["intercept"].mean())
        np.testing.assert_allclose((means - best) / sd, 0.0, atol=0.3)
        spreads = np.append(line.draws["slopes"].std((0, 1)), line.draws["intercept"].std())
        np.testing.assert_allclose(spreads / sd, 1.0, atol=0.1)
