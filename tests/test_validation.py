"""Cross-validation: against scikit-learn's on the same folds, the folds themselves, and what is compiled."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score

from flatprior.inference import MAP, MLE, NUTS, Conditional, Ensemble, compare, cross_validate, fit
from flatprior.inference.blocks import Run, run_in_blocks
from flatprior.inference.criticism import CrossValidation, validation
from flatprior.inference.criticism.validation import assign_folds
from flatprior.inference.density import Density
from flatprior.inference.method import Outcome
from flatprior.inference.methods import descent
from flatprior.inference.reasons import Code, Reason
from flatprior.inference.rows import Data
from flatprior.inference.status import Status
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

METHODS: dict[str, Any] = {
    "MLE": MLE(),
    "MAP": MAP(),
    "Ensemble": Ensemble(base=MAP(num_steps=100, polish=False), num_members=2),
    "NUTS": NUTS(num_warmup=30, num_samples=20, num_chains=2, start=None, max_tree_depth=4),
}
OBSERVATIONS: dict[str, tuple[Any, str]] = {
    "Bernoulli": (Bernoulli(), "binary"),
    "Categorical": (Categorical(3), "classes"),
    "Normal": (Normal(0.5), "real"),
}
SCALE, NOISE = 0.8, 0.5
QUICK = MAP(num_steps=2, polish=False)


@dataclass(frozen=True)
class Standing:
    """A method that stays at weights 0; fit number `interrupted` has the status of an interrupted one."""

    name: ClassVar[str] = "Standing"
    kind: ClassVar[str] = "point"
    streams: ClassVar[bool] = False
    interrupted: int = 0
    calls: list[int] = field(default_factory=list, compare=False)

    def run(self, density: Density, data: Data, *, key: Any, progress: bool) -> Outcome:
        self.calls.append(1)
        interrupted = Reason.of(Code.INTERRUPTED, done=1, total=2, unit="steps")
        draws = {site: np.zeros((1, 1, *shape), np.float32) for site, shape in density.structure.latents.items()}
        return Outcome(draws, Status((), (interrupted,) if len(self.calls) == self.interrupted else ()))


def _of(model: Any, methods: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (model, method) for name, method in methods.items()}


# Against scikit-learn: MAP under a Normal prior is the penalised estimate; a column of ones is the intercept.


def with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))])


@pytest.mark.parametrize("folds", [5, pytest.param(7, marks=pytest.mark.slow)])
def test_log_densities_of_classes_are_those_of_sklearn(folds: int, data_sets: Any) -> None:
    x, y = data_sets["binary"]
    result = cross_validate(
        {"MAP": (Model(MLP(), Bernoulli(), gaussian(SCALE)), MAP())}, x, y, num_folds=folds, key=folds, progress=False
    )
    penalised = LogisticRegression(C=SCALE**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    for score, scoring in (("elpd", "neg_log_loss"), ("accuracy", "accuracy"), ("brier", "neg_brier_score")):
        expected = cross_val_score(penalised, with_ones(x), y, cv=result.splits, scoring=scoring)
        expected = -2 * expected if score == "brier" else expected
        np.testing.assert_allclose(result.scores.loc["MAP", score], expected, rtol=2e-4, err_msg=score)
    probs = cross_val_predict(penalised, with_ones(x), y, cv=result.splits, method="predict_proba")
    np.testing.assert_allclose(result.log_probs["MAP"], np.log(probs[np.arange(len(y)), y]), rtol=2e-4, atol=2e-5)
    row = result.to_dataframe().loc["MAP"]
    np.testing.assert_allclose(row["accuracy"], (probs.argmax(axis=1) == y).mean())
    np.testing.assert_allclose(row["brier"], ((probs - np.eye(2)[y]) ** 2).sum(axis=1).mean(), rtol=1e-4)


@pytest.mark.parametrize("folds", [3, 40])
@pytest.mark.slow
def test_log_densities_of_numbers_are_those_of_sklearn(folds: int, data_sets: Any) -> None:
    """Of 40 rows in 40 folds each is left out once."""
    x, y = data_sets["real"]
    result = cross_validate(
        {"MAP": (Model(MLP(), Normal(NOISE), gaussian(SCALE)), MAP())}, x, y, num_folds=folds, key=folds, progress=False
    )
    ridge = Ridge(alpha=(NOISE / SCALE) ** 2, fit_intercept=False)
    mean = cross_val_predict(ridge, with_ones(x), y, cv=result.splits)
    log_probs = scipy.stats.norm.logpdf(y, mean, NOISE)
    np.testing.assert_allclose(result.log_probs["MAP"], log_probs, rtol=1e-4, atol=1e-4)
    row = result.to_dataframe().loc["MAP"]
    np.testing.assert_allclose(row["elpd"], log_probs.mean(), rtol=1e-4)
    np.testing.assert_allclose(row["elpd_se"], scipy.stats.sem(log_probs), rtol=1e-3)
    np.testing.assert_allclose(row["rmse"], np.sqrt(np.mean((mean - y) ** 2)), rtol=1e-4)
    covered = np.abs(scipy.stats.norm.cdf(y, mean, NOISE) - 0.5) <= 0.45
    np.testing.assert_allclose(row["coverage"], covered.mean())
    expected = -cross_val_score(ridge, with_ones(x), y, cv=result.splits, scoring="neg_root_mean_squared_error")
    np.testing.assert_allclose(result.scores.loc["MAP", "rmse"], expected, rtol=1e-3, atol=1e-5)


# The folds.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_rows", "folds"), [(40, 10), (41, 10), (49, 10), (7, 2), (7, 7), (30, 4)])
def test_folds_part_the_rows_and_are_of_equal_size(num_rows: int, folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, size=num_rows, p=[0.6, 0.3, 0.1])
    size = -(-num_rows // folds)
    for given in (None, classes):
        assigned = assign_folds(num_rows, folds, given, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.sort(np.concatenate([own for _, own, _ in assigned])), np.arange(num_rows))
        for fitted, own, spare in assigned:
            assert len(own) in (size - 1, size)
            assert len(fitted) == num_rows - size
            np.testing.assert_array_equal(np.sort(np.concatenate([fitted, own, spare])), np.arange(num_rows))
    counts = [np.bincount(classes[own], minlength=3).tolist() for _, own, _ in assigned]
    stratified = StratifiedKFold(folds) if np.bincount(classes).max() >= folds else None
    if stratified is not None and np.bincount(classes)[np.bincount(classes) > 0].min() >= folds:
        expected = [np.bincount(classes[own], minlength=3).tolist() for _, own in stratified.split(classes, classes)]
        assert sorted(counts) == sorted(expected)
    assert (np.ptp(counts, axis=0) <= 1).all()


def test_classes_are_stratified_and_numbers_are_not(data_sets: Any) -> None:
    for kind, (observation, rows) in OBSERVATIONS.items():
        x, y = (each[:-1] for each in data_sets[rows])
        model = Model(MLP(), observation, gaussian(SCALE))
        labels = y if kind != "Normal" else (y > np.median(y)).astype(int)
        ranges = []
        for key in range(3):
            result = cross_validate({"it": (model, Standing())}, x, y, num_folds=5, key=key, progress=False)
            ranges.append(np.ptp([np.bincount(labels[own], minlength=3) for _, own in result.splits], axis=0).max())
            assert ("stratified by class" in str(result)) == (kind != "Normal")
        assert (max(ranges) > 1) == (kind == "Normal"), ranges  # of numbers the chance is below 1e-3


@pytest.mark.slow
def test_the_key_decides_folds_and_fits_and_methods_share_them(data_sets: Any) -> None:
    x, y = data_sets["classes"]
    model = Model(MLP(), Categorical(3))
    methods = {"one": METHODS["Ensemble"], "other": METHODS["Ensemble"]}
    result, again, another = (
        cross_validate(_of(model, methods), x, y, num_folds=4, key=key, progress=False)
        for key in (1, jax.random.key(1), 2)
    )
    np.testing.assert_array_equal(result.log_probs["one"], result.log_probs["other"])
    np.testing.assert_array_equal(result.log_probs["one"], again.log_probs["one"])
    assert not np.array_equal(result.splits[0][1], another.splits[0][1])
    assert result.to_dataframe()["elpd_diff"].tolist() == [0.0, 0.0]
    assert result.to_dataframe().index.tolist() == ["one", "other"]


# What is returned.


@pytest.fixture(scope="module", params=["Bernoulli", pytest.param("Normal", marks=pytest.mark.slow)])
def whole(request: Any, data_sets: Any) -> tuple[Any, Any, CrossValidation, list[list[int]]]:
    """The model, its rows, its scores, and for each method how much had been compiled after each fold."""
    observation, rows = OBSERVATIONS[request.param]
    x, y = data_sets[rows]
    methods = METHODS if request.param == "Bernoulli" else {name: METHODS[name] for name in ("MLE", "MAP")}
    model, compiled, events = Model(MLP(), observation, gaussian(SCALE)), [], []
    leave_out = validation._leave_out

    def listener(event: str, duration: float, fun_name: str = "", **_: Any) -> None:
        if fun_name != "jit(_parameter_slopes)":  # a check that only a fit whose maximum is hardly unique needs
            events.append(event)

    def counted(*arguments: Any) -> Any:
        outcome = leave_out(*arguments)
        compiled.append(events.count("/jax/core/compile/backend_compile_duration"))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_leave_out", counted)
        jax.monitoring.register_event_duration_secs_listener(listener)
        try:
            result = cross_validate(
                _of(model, methods), x[:-1], y[:-1], num_folds=5, key=0, progress=False
            )  # 39 rows: 8, ..., 7
        finally:
            jax.monitoring.unregister_event_duration_listener(listener)
    return model, (x[:-1], y[:-1]), result, np.reshape(compiled, (len(methods), 5)).tolist()


def test_nothing_is_compiled_after_the_first_fold(whole: Any) -> None:
    _, _, result, compiled = whole
    assert {len(own) for _, own in result.splits} == {7, 8}
    assert compiled[0][0] > 0
    for after in compiled:
        assert after == [after[0]] * 5


def test_a_row_is_scored_by_a_fit_that_has_not_seen_it(whole: Any) -> None:
    model, (x, y), result, _ = whole
    keys = jax.random.split(jax.random.key(0), 6)[1:]
    for name, log_probs in result.log_probs.items():
        assert log_probs.shape == (39,)
        for i in (0, 4):
            fitted, own = result.splits[i]
            assert not set(fitted) & set(own)
            fitted_model = fit(model, METHODS[name], x[fitted], y[fitted], key=keys[i], progress=False)
            np.testing.assert_allclose(
                log_probs[own], fitted_model.predict(x[own]).log_prob(y[own]), rtol=1e-4, atol=1e-5
            )
            assert result.statuses[name][i] == fitted_model.status


def test_the_table_is_that_of_compare_over_all_rows(whole: Any) -> None:
    _, _, result, _ = whole
    table = result.to_dataframe()
    assert (np.diff(table["elpd"]) <= 0).all()
    best = result.log_probs[table.index[0]]
    for name, log_probs in result.log_probs.items():
        np.testing.assert_allclose(table.loc[name, "elpd"], log_probs.astype(float).mean(), rtol=1e-6)
        np.testing.assert_allclose(
            table.loc[name, "dse"], scipy.stats.sem((log_probs - best).astype(float)), rtol=1e-5, atol=1e-9
        )
        assert table.loc[name, "kind"] == METHODS[name].kind
        for part in ("seconds_compile", "seconds_run"):
            np.testing.assert_allclose(table.loc[name, part], result.scores.loc[name, part].sum())
    assert str(result).startswith(str(result.comparison))
    assert "39 rows in 5 folds" in str(result)
    assert "each scored by a fit to 31 rows" in str(result)
    assert result._repr_html_() == result.comparison._repr_html_()


def test_scores_of_folds_average_to_those_of_all_rows(whole: Any) -> None:
    _, _, result, _ = whole
    assert result.scores.index.names == ["fit", "fold"]
    for name in result.log_probs:
        scores = result.scores.loc[name]
        assert scores["rows"].tolist() == [len(own) for _, own in result.splits]
        assert scores["status"].tolist() == [status.level for status in result.statuses[name]]
        for score in {"elpd", "accuracy", "brier", "coverage"} & set(scores):
            averaged = np.average(scores[score].astype(float), weights=scores["rows"].astype(float))
            np.testing.assert_allclose(result.to_dataframe().loc[name, score], averaged, rtol=1e-5, err_msg=score)


def test_statuses_of_folds_are_noted() -> None:
    """Separable whichever rows are left out."""
    x = np.concatenate([np.linspace(-3, -1, 12), np.linspace(1, 3, 12)])[:, None]
    y = np.repeat([0, 1], 12)
    result = cross_validate({"MLE": (BINARY, MLE(num_steps=300))}, x, y, num_folds=3, key=0, progress=False)
    assert [status.level for status in result.statuses["MLE"]] == ["failed"] * 3
    assert result.to_dataframe().loc["MLE", "status"] == "failed"
    assert "MLE: 3 of 3 fits are not ok, the worst: failed: There is no maximum" in str(result)


@pytest.mark.slow
def test_soft_labels_frames_and_pytrees_are_rows(data_sets: Any) -> None:
    x, y = (each[:-1] for each in data_sets["classes"])
    soft = 0.8 * np.eye(3)[y] + 0.2 / 3
    model = Model(MLP(), Categorical(3), gaussian(SCALE))
    result = cross_validate(
        {"MAP": (model, QUICK)}, pd.DataFrame(x), pd.DataFrame(soft), num_folds=5, key=0, progress=False
    )
    assert (np.ptp([np.bincount(y[own], minlength=3) for _, own in result.splits], axis=0) <= 1).all()
    assert np.isfinite(result.log_probs["MAP"]).all()
    nested = cross_validate({"MAP": (_of_dictionary, MAP())}, {"z": x}, y, num_folds=5, key=0, progress=False)
    plain = cross_validate({"MAP": (model, MAP())}, x, y, num_folds=5, key=0, progress=False)
    np.testing.assert_allclose(nested.log_probs["MAP"], plain.log_probs["MAP"], rtol=1e-4)


def _of_dictionary(x: Any, y: Any = None) -> Any:
    return Model(MLP(), Categorical(3), gaussian(SCALE))(x["z"], y)


# Misuse, and an interrupt.

X, Y = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2
BINARY = Model(MLP(), Bernoulli())
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no fits": ({"fits": {}}, TypeError, "expected a mapping from names to models and methods"),
    "one fit": ({"fits": (BINARY, MAP())}, TypeError, "expected a mapping from names to models and methods"),
    "no model": ({"fits": {"a": MAP()}}, TypeError, r"expected 'a' to be a model and a method, \(model, MAP\(\)\)"),
    "a class": ({"fits": {"b": (BINARY, MLE)}}, TypeError, r"expected 'b' to have a method such as MAP\(\)"),
    "another kind of y": (
        {"fits": {"a": (BINARY, MAP()), "b": (Model(MLP(), Normal(1.0)), MAP())}},
        ValueError,
        "cross_validate: 'a' has .*, and 'b' ",
    ),
    "one fold": ({"num_folds": 1}, ValueError, "expected num_folds from 2 to 12, the number of rows; got 1"),
    "more folds than rows": (
        {"num_folds": 13},
        ValueError,
        "expected num_folds from 2 to 12, the number of rows; got 13",
    ),
    "a share": ({"num_folds": 0.5}, ValueError, "expected num_folds from 2 to 12, the number of rows; got 0.5"),
    "True": ({"num_folds": True}, ValueError, "expected num_folds from 2 to 12, the number of rows; got True"),
    "no key": ({"key": None}, TypeError, "Expected key to be an integer seed"),
    "labels from 1": ({"y": Y + 1}, ValueError, "y, row 1: expected 0 or 1; got 2"),
    "NaN": ({"x": np.where(X > 1, np.nan, X)}, ValueError, "expected finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_raises_before_anything_is_compiled(name: str) -> None:
    changed, error, match = BAD[name]
    given = {"fits": {"MAP": (BINARY, MAP())}, "x": X, "y": Y, "key": 0, "num_folds": 3, **changed}
    events: list[str] = []
    listener = lambda event, duration, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        with pytest.raises(error, match=match):
            cross_validate(**given)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events.count("/jax/core/compile/backend_compile_duration") == 0


def test_an_interrupt_ends_it_all() -> None:
    method = Standing(interrupted=2)
    with pytest.raises(KeyboardInterrupt):
        cross_validate({"it": (Model(MLP(), Bernoulli()), method)}, X, Y, num_folds=4, key=0, progress=False)
    assert len(method.calls) == 2


def test_an_interrupt_inside_of_a_conditional_ends_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base has ended, and the method of the last layer returns what it has: that is not to be scored."""
    runs: list[str] = []

    def interrupted(block: Any, state: Any, num_steps: int, **options: Any) -> Any:
        runs.append(options["label"])
        return Run(state, 0, "interrupted") if len(runs) == 2 else run_in_blocks(block, state, num_steps, **options)

    monkeypatch.setattr(descent, "run_in_blocks", interrupted)
    method = Conditional(base=QUICK, sites=("b1",), method=Ensemble(base=QUICK, num_members=2))
    x, y = X[:-1], Y[:-1]
    model = Model(MLP(), Bernoulli(), gaussian(1.0))
    assert fit(model, method, x, y, key=0, progress=False).status.codes == (Code.NOT_STATIONARY, Code.INTERRUPTED)
    runs.clear()
    with pytest.raises(KeyboardInterrupt):
        cross_validate({"last layer": (model, method)}, X, Y, num_folds=len(X), key=0, progress=False)
    assert len(runs) == 2


def test_it_closes_the_table_of_compare(data_sets: Any) -> None:
    """A fit without the rows of one fold has the same scores in `compare`."""
    x, y = (each[:-1] for each in data_sets["binary"])
    model = Model(MLP(), Bernoulli(), gaussian(SCALE))
    result = cross_validate({"MAP": (model, MAP())}, x, y, num_folds=5, key=0, progress=False)
    fitted, own = result.splits[2]
    row = compare({"MAP": fit(model, MAP(), x[fitted], y[fitted], key=5, progress=False)}, x[own], y[own]).table.iloc[0]
    for score in ("elpd", "accuracy", "brier", "calibration_error"):
        np.testing.assert_allclose(result.scores.loc[("MAP", 2), score], row[score], rtol=1e-4, err_msg=score)


@pytest.mark.slow
def test_models_are_scored_on_the_same_folds_and_differences_are_paired(data_sets: Any) -> None:
    """Ridge regressions by scikit-learn, on the same folds."""
    x, y = data_sets["real"]
    scales = {"narrow": 0.05, "wide": SCALE}
    fits = {name: (Model(MLP(), Normal(NOISE), gaussian(scale)), MAP()) for name, scale in scales.items()}
    result = cross_validate(fits, x, y, num_folds=3, key=3, progress=False)
    log_probs = {}
    for name, scale in scales.items():
        ridge = Ridge(alpha=(NOISE / scale) ** 2, fit_intercept=False)
        mean = cross_val_predict(ridge, with_ones(x), y, cv=result.splits)
        log_probs[name] = scipy.stats.norm.logpdf(y, mean, NOISE)
        np.testing.assert_allclose(result.log_probs[name], log_probs[name], rtol=1e-3, atol=1e-4)
    table, difference = result.to_dataframe(), log_probs["narrow"] - log_probs["wide"]
    assert list(table.index) == ["wide", "narrow"]
    np.testing.assert_allclose(table.loc["narrow", "elpd_diff"], difference.mean(), rtol=1e-3)
    np.testing.assert_allclose(table.loc["narrow", "dse"], scipy.stats.sem(difference), rtol=1e-3)
