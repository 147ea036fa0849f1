"""The table of fits: several keys in a row, leaving one out, its order, and what cannot be compared."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import arviz_stats
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats
from jax import Array
from numpyro.infer import init_to_value

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Comparison, Ensemble, Fit, Status, compare, fit
from flatprior.inference.checks import Layout, check_problem
from flatprior.inference.criticism.table import Entry, tabulate
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

from .tables import some_by_default

QUICK = {"num_steps": 60, "polish": False}
METHODS: dict[str, Any] = {
    "MAP": MAP(**QUICK),
    "Ensemble": Ensemble(base=MAP(**QUICK), num_members=2),
    "NUTS": NUTS(num_warmup=50, num_samples=40, num_chains=2, start=None, max_tree_depth=4),
    "MCLMC": MCLMC(num_warmup=100, num_samples=20, thinning=2, num_chains=2, start=None),
}
CHAINS = ("NUTS", "MCLMC")
KEYS = (0, 1, 2)
OBSERVATIONS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "Bernoulli": (Bernoulli(), "binary", ("MAP", "Ensemble", "MCLMC")),
    "Normal": (Normal(0.7), "real", ("MAP", "NUTS", "MCLMC")),
}
"""The observation, its rows, and the methods."""


@pytest.fixture(scope="module")
def fits(data_sets: Any) -> dict[str, dict[str, list[Fit]]]:
    """Observation -> method -> fits under several keys, to the first 25 rows."""
    fitted: dict[str, dict[str, list[Fit]]] = {}
    for name, (observation, rows, methods) in OBSERVATIONS.items():
        model, (x, y) = Model(MLP(), observation, fan_in(2.0)), data_sets[rows]
        fitted[name] = {
            by: [fit(model, METHODS[by], x[:25], y[:25], key=key, progress=False) for key in KEYS] for by in methods
        }
    return fitted


@pytest.fixture(params=some_by_default(OBSERVATIONS, "Bernoulli"))
def case(request: Any, fits: Any, data_sets: Any) -> tuple[dict[str, list[Fit]], Any, Any]:
    """Fits by method, the rows of the fits and the held-out rows."""
    x, y = data_sets[OBSERVATIONS[request.param][1]]
    return fits[request.param], (x[:25], y[:25]), (x[25:], y[25:])


# Several keys are one row.


def test_several_keys_are_their_mean_and_their_error_has_a_column_of_its_own(case: Any) -> None:
    by_method, _, (x, y) = case
    comparison = compare(by_method, x, y)
    table = comparison.to_dataframe()
    best = np.mean([each.predict(x).log_prob(y) for each in by_method[table.index[0]]], axis=0)
    for name, members in by_method.items():
        log_probs = np.array([each.predict(x).log_prob(y) for each in members], float)
        alone = pd.concat([compare({"one": each}, x, y).to_dataframe() for each in members])
        row = table.loc[name]
        assert row["keys"] == len(KEYS)
        np.testing.assert_allclose(row["elpd"], log_probs.mean(), rtol=1e-6)
        np.testing.assert_allclose(row["keys_se"], scipy.stats.sem(log_probs.mean(axis=1)), rtol=1e-4)
        np.testing.assert_allclose(row["elpd_se"], scipy.stats.sem(log_probs.mean(axis=0)), rtol=1e-5)
        np.testing.assert_allclose(row["dse"], scipy.stats.sem(log_probs.mean(axis=0) - best), atol=1e-6)
        np.testing.assert_allclose(comparison.log_probs[name], log_probs.mean(axis=0), rtol=1e-5)
        for score in {"bits", "rmse", "accuracy", "brier", "coverage", "calibration_error", "seconds_run"} & set(alone):
            np.testing.assert_allclose(row[score], alone[score].mean(), rtol=1e-6, err_msg=score)


def test_the_status_of_several_keys_is_the_worst(case: Any) -> None:
    by_method, _, (x, y) = case
    good, *others = by_method["MAP"]
    members = [
        replace(good, outcome=replace(good.outcome, status=Status())),
        *(replace(each, outcome=replace(each.outcome, status=Status(("It failed.",)))) for each in others[:1]),
        *(replace(each, outcome=replace(each.outcome, status=Status((), ("Look.",)))) for each in others[1:]),
    ]
    comparison = compare({"MAP": members}, x, y)
    assert comparison.table.loc["MAP", "status"] == "failed"
    assert "MAP: 2 of 3 fits are not ok, the worst: failed: It failed." in comparison.notes


def test_columns_of_keys_come_with_several_keys_alone(case: Any) -> None:
    by_method, _, (x, y) = case
    single = {name: members[0] for name, members in by_method.items()}
    assert not {"keys", "keys_se", "elpd_loo", "elpd_loo_se"} & set(compare(single, x, y).table)
    pd.testing.assert_frame_equal(
        compare(single, x, y).table, compare({name: [each] for name, each in single.items()}, x, y).table
    )
    mixed = compare({**single, "MAP": by_method["MAP"]}, x, y)
    assert mixed.table["keys"].to_dict() == {**dict.fromkeys(single, 1), "MAP": len(KEYS)}
    assert mixed.table["keys_se"].notna().to_dict() == {**dict.fromkeys(single, False), "MAP": True}
    assert "nan" not in str(mixed)


# Leaving one out.


def test_chains_have_loo_and_others_a_blank(case: Any) -> None:
    by_method, (x_train, y_train), (x, y) = case
    single = {name: members[0] for name, members in by_method.items()}
    comparison = compare(single, x, y, x_train=x_train, y_train=y_train)
    num_rows = len(y_train)
    for name, fitted in single.items():
        row = comparison.table.loc[name]
        if name not in CHAINS:
            assert np.isnan(row["elpd_loo"])
            assert np.isnan(row["elpd_loo_se"])
            continue
        expected = arviz_loo(fitted, x_train, y_train)
        np.testing.assert_allclose(row["elpd_loo"], expected.elpd / num_rows, rtol=1e-5)
        np.testing.assert_allclose(row["elpd_loo_se"], expected.se / num_rows, rtol=1e-4)
        (note,) = (note for note in comparison.notes if note.startswith(f"{name}: Pareto"))
        k = expected.pareto_k.values
        assert f"is at most {k.max():.2f}, in row {k.argmax()} of the fit" in note
        assert ("LOO is unreliable" in note) == (k > expected.good_k).any()
        if (k > expected.good_k).any():
            assert f"in {(k > expected.good_k).sum()} of {num_rows} rows" in note
    assert "nan" not in str(comparison)


def arviz_loo(fitted: Fit, x: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arviz_stats.loo(fitted.to_datatree(x, y), pointwise=True)  # type: ignore[attr-defined]


def test_loo_of_several_keys_is_their_mean(case: Any) -> None:
    by_method, (x_train, y_train), (x, y) = case
    members = by_method["MCLMC"]
    row = compare({"MCLMC": members}, x, y, x_train=x_train, y_train=y_train).table.loc["MCLMC"]
    expected = [arviz_loo(fitted, x_train, y_train) for fitted in members]
    np.testing.assert_allclose(row["elpd_loo"], np.mean([each.elpd for each in expected]) / 25, rtol=1e-5)
    rows = np.mean([each.elpd_i.values for each in expected], axis=0)
    np.testing.assert_allclose(row["elpd_loo_se"], scipy.stats.sem(rows), rtol=1e-4)


def test_a_bad_pareto_k_is_a_note_and_no_warning(fits: Any, data_sets: Any) -> None:
    """A row far from all others: the posterior without it is another one."""
    x, y = (rows[:25] for rows in data_sets["real"])
    y = np.where(np.arange(len(y)) == 7, 60.0, y)
    chains = fit(fits["Normal"]["NUTS"][0].model, METHODS["NUTS"], x, y, key=0, progress=False)
    (note,) = (note for note in compare({"NUTS": chains}, x, y, x_train=x, y_train=y).notes if "Pareto" in note)
    assert "in row 7 of the fit, and above" in note
    assert "LOO is unreliable" in note


def test_a_note_states_that_no_fit_has_chains(case: Any) -> None:
    by_method, (x_train, y_train), (x, y) = case
    comparison = compare({"MAP": by_method["MAP"][0]}, x, y, x_train=x_train, y_train=y_train)
    assert "elpd_loo" not in comparison.table
    assert "LOO needs Markov chains, and none of the fits has them." in comparison.notes


# Rows that a fit has seen.


def test_a_note_names_the_fits_that_have_seen_the_rows(case: Any) -> None:
    by_method, (x_train, y_train), (x, y) = case
    names = [*by_method][:2]
    two = {name: by_method[name][0] for name in names}
    both, none = f"Fitted to these rows: {', '.join(names)}. On rows", "Fitted to these rows"
    assert both in str(compare(two, x_train, y_train))
    assert none not in str(compare(two, x, y))
    assert none not in str(compare(two, x_train[:-1], y_train[:-1]))
    one = {**two, names[1]: replace(two[names[1]], rows=None)}  # from a file of an earlier release
    assert f"Fitted to these rows: {names[0]}. On rows" in str(compare(one, x_train, y_train))


def test_training_rows_are_those_of_the_chains(case: Any) -> None:
    by_method, _, (x, y) = case
    with pytest.raises(
        ValueError, match=r"x_train and y_train to be the rows of the fits.*'MCLMC' was fitted to others"
    ):
        compare({"MAP": by_method["MAP"][0], "MCLMC": by_method["MCLMC"]}, x, y, x_train=x, y_train=y)


# The order.


def entry(log_prob: np.ndarray) -> Entry:
    return Entry(np.atleast_2d(log_prob), {}, "point", (Status(),), 0.0, 0.0)


ROWS = np.random.default_rng(3).normal(size=30)
SPOILT: dict[str, float] = {"-inf": -np.inf, "NaN": np.nan, "inf": np.inf}


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_equal_fits_stay_in_the_order_given(names: tuple[str, ...]) -> None:
    rows = {"worse": ROWS - 1, **dict.fromkeys(names, ROWS), "better": ROWS + 1}
    table = tabulate({name: entry(values) for name, values in rows.items()}, []).table
    assert table.index.tolist() == ["better", *names, "worse"]


@pytest.mark.parametrize("order", [("-inf", "NaN", "inf"), ("inf", "-inf", "NaN"), ("NaN", "inf", "-inf")])
def test_log_densities_that_are_not_finite_come_last_and_are_named(order: tuple[str, ...]) -> None:
    spoilt = {name: np.where(np.arange(30) == 17, SPOILT[name], ROWS) for name in order}
    rows = {**spoilt, "low": ROWS - 9, "high": ROWS}
    comparison = tabulate({name: entry(values) for name, values in rows.items()}, [])
    assert comparison.table.index.tolist() == ["high", "low", *order]
    assert np.isfinite(comparison.table.loc[["high", "low"], ["elpd_diff", "dse"]]).all(axis=None)
    for name in order:
        note = f"{name}: The log density is not finite in 1 of 30 rows ({SPOILT[name]} in row 17); the fit is last."
        assert note in comparison.notes
        assert comparison.table.loc[name, "elpd_diff"] != 0
    assert str(comparison)
    assert len(comparison.notes) == 3


def test_where_none_is_finite_the_order_is_the_one_given() -> None:
    spoilt = {name: entry(np.full(5, value)) for name, value in SPOILT.items()}
    table = tabulate(spoilt, []).table
    assert table.index.tolist() == list(SPOILT)
    assert table["dse"].isna().all()


def box(x: Array, y: Array | None = None) -> None:
    """Uniform noise: a row that lies outside is impossible."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Uniform(w * x[:, 0] - 1.0, w * x[:, 0] + 1.0), obs=y)


def test_impossible_rows_of_a_fit_are_noted(data_sets: Any) -> None:
    x = data_sets["real"][0]
    start = init_to_value(values={"w": jnp.array(1.0)})
    fitted = fit(box, MAP(num_steps=2, polish=False, init_strategy=start), x, 0.9 * x[:, 0], key=0, progress=False)
    y = x[:, 0].copy()
    y[[4, 9]] += 5.0
    comparison = compare({"box": fitted}, x, y)
    assert comparison.table.loc["box", "elpd"] == -np.inf
    assert "box: The log density is not finite in 2 of 40 rows (-inf in row 4); the fit is last." in comparison.notes


# What cannot be compared.


def noise(of: Callable[[Any], dist.Distribution], name: str = "y") -> Callable[..., None]:
    def model(x: Array, y: Array | None = None) -> None:
        eta = MLP()(x, 1, prior=gaussian(1.0))[:, 0]
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample(name, of(eta), obs=y)

    return model


def pairs(x: Array, y: Array | None = None) -> None:
    eta = MLP()(x, 2)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(eta, 0.5).to_event(1), obs=y)


CLASSES = np.arange(12) % 2
X = np.random.default_rng(0).normal(size=(12, 2))
NUMBERS = CLASSES.astype(float)
MODELS: dict[str, tuple[Any, Any, Any]] = {
    "Normal": (Model(MLP(), Normal(0.5)), X, NUMBERS),
    "Normal of a network": (Model(MLP(), Normal("network")), X, NUMBERS),
    "Laplace": (noise(lambda eta: dist.Laplace(eta, 0.5)), X, NUMBERS),
    "StudentT of another name": (noise(lambda eta: dist.StudentT(4.0, eta, 0.5), "target"), X, NUMBERS),
    "two numbers": (pairs, X, np.stack([NUMBERS, NUMBERS], axis=1)),
    "Bernoulli": (Model(MLP(), Bernoulli()), X, CLASSES),
    "two classes": (Model(MLP(), Categorical(2)), X, CLASSES),
    "three classes": (Model(MLP(), Categorical(3)), X, CLASSES),
    "Poisson": (noise(lambda eta: dist.Poisson(jnp.exp(eta))), X, CLASSES),
    "one column": (Model(MLP(), Bernoulli()), X[:, :1], CLASSES),
    "named columns": (Model(MLP(), Bernoulli()), pd.DataFrame(X, columns=["a", "b"]), CLASSES),
    "columns exchanged": (Model(MLP(), Bernoulli()), pd.DataFrame(X, columns=["b", "a"]), CLASSES),
    "a dictionary": (lambda x, y=None: Model(MLP(), Bernoulli())(x["z"], y), {"z": X}, CLASSES),
}
TOGETHER = [
    ({"Normal", "Normal of a network"}, None),
    ({"Bernoulli", "named columns"}, None),
    ({"Normal", "Laplace"}, "Observations: Normal (Normal); Laplace (Laplace)."),
    ({"Bernoulli", "two classes"}, "Observations: Bernoulli (Bernoulli); Categorical (two classes)."),
]
APART: dict[tuple[str, str], str] = {
    (
        "Normal",
        "Bernoulli",
    ): "'Normal' has a density of y, and 'Bernoulli' a probability of y. A density has units of y",
    ("Laplace", "Poisson"): "a density of y, and 'Poisson' a probability of y",
    ("Normal", "StudentT of another name"): "has the observed site 'y', and .* the observed site 'target'. .* one name",
    ("Normal", "two numbers"): r"a y of shape \(\) per row, and 'two numbers' a y of shape \(2,\) per row",
    ("two classes", "three classes"): "'two classes' has 2 classes, and 'three classes' 3 classes. .* same classes",
    ("Poisson", "Bernoulli"): "'Poisson' has no classes, and 'Bernoulli' 2 classes",
    ("Bernoulli", "one column"): r"were fitted to different kinds of rows. x: expected rows shaped \(2,\).*got \(1,\)",
    ("named columns", "columns exchanged"): r"expected the columns \['a', 'b'\], in this order; got \['b', 'a'\]",
    ("Bernoulli", "a dictionary"): "different kinds of rows. x: expected the structure of the fit",
}


@pytest.fixture(scope="module")
def by_model() -> dict[str, Fit]:
    """Fits at weights 0: what can be compared does not depend on where they are."""
    first = fit(Model(MLP(), Normal(0.5)), MAP(num_steps=1, polish=False), X, 1.0 * CLASSES, key=0, progress=False)
    return {name: at_zero(first, model, x, y) for name, (model, x, y) in MODELS.items()}


def at_zero(fitted: Fit, model: Any, x: Any, y: Any) -> Fit:
    density, rows = check_problem(model, x, y)
    draws = {site: np.zeros((1, 1, *shape), np.float32) for site, shape in density.structure.latents.items()}
    outcome = replace(fitted.outcome, draws=draws, status=Status())
    return replace(fitted, density=density, layout=Layout.of(x, rows.x), outcome=outcome)


@pytest.mark.parametrize(("names", "note"), TOGETHER)
def test_what_scores_one_y_is_compared(names: set[str], note: str | None, by_model: dict[str, Fit]) -> None:
    x = MODELS["named columns"][1] if "named columns" in names else X
    fitted = {name: each for name, each in by_model.items() if name in names}
    comparison = compare(fitted, x, CLASSES)
    assert set(comparison.table.index) == names
    words = [note for note in comparison.notes if note.startswith("Observations")]
    assert words == ([note] if note else [])


@pytest.mark.parametrize("names", APART)
def test_what_scores_another_y_is_refused(names: tuple[str, str], by_model: dict[str, Fit]) -> None:
    with pytest.raises(ValueError, match=APART[names]):
        compare({name: by_model[name] for name in names}, X, CLASSES)


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "an empty list": (
        lambda fitted: {"fits": {"none": []}},
        TypeError,
        "expected 'none' to be a fit, or a list of fits",
    ),
    "a list of others": (lambda fitted: {"fits": {"a": [fitted["Normal"], 1]}}, TypeError, "or a list of fits; got"),
    "two models": (
        lambda fitted: {"fits": {"a": [fitted["two classes"], fitted["Bernoulli"]]}},
        ValueError,
        "the fits of 'a' to be of one model by one method, under several keys; got Model.*Categorical.*and .*Bernoulli",
    ),
    "two methods": (
        lambda fitted: {"fits": {"a": [fitted["Normal"], replace(fitted["Normal"], method=MLE())]}},
        ValueError,
        r"one method, under several keys; got MAP\(.*and MLE\(.*Give each its own name",
    ),
    "x_train without y_train": (
        lambda fitted: {"fits": {"a": fitted["Normal"]}, "x_train": X},
        TypeError,
        "expected x_train and y_train, the rows of the fits, together",
    ),
    "y_train without x_train": (
        lambda fitted: {"fits": {"a": fitted["Normal"]}, "y_train": CLASSES},
        TypeError,
        "expected x_train and y_train, the rows of the fits, together",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_raises(name: str, by_model: dict[str, Fit]) -> None:
    arguments, error, match = BAD[name]
    arguments = arguments(by_model)
    with pytest.raises(error, match=match):
        compare(arguments.pop("fits"), X, CLASSES, **arguments)


def test_names_and_notes_are_escaped_in_html() -> None:
    fitted = entry(ROWS)
    result = tabulate({"a<b": replace(fitted, statuses=(Status((), ("R-hat < 1 & more.",)),))}, [])
    assert isinstance(result, Comparison)
    assert "a&lt;b: check: R-hat &lt; 1 &amp; more." in result._repr_html_()


def test_a_class_that_a_fit_has_not_seen_is_named() -> None:
    """Under a prior the fit is right, and ok; but the probability of the class is that of the prior."""
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    model, quick = Model(MLP(), Categorical(3), gaussian(1.0)), MAP(num_steps=20, polish=False)
    some, every = fit(model, quick, x, y % 2, key=0, progress=False), fit(model, quick, x, y, key=0, progress=False)
    assert some.absent == (2,)
    assert every.absent == ()
    notes = str(compare({"some": some, "every": every}, x[::-1], y[::-1]))
    assert "some was fitted to no row of class 2, which y has here" in " ".join(notes.split())
    assert "every was fitted" not in notes
    assert "was fitted to no row" not in str(compare({"some": some}, x[::-1], (y % 2)[::-1]))
