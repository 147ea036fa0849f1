"""Estimators of scikit-learn: what its own checks, in `test_scikit_learn.py`, do not ask."""

import doctest
import importlib
import pickle
import pkgutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import flatprior.estimators
from flatprior.estimators import NetworkClassifier, NetworkCountRegressor, NetworkRegressor, elpd
from flatprior.inference import MAP, MLE, Laplace, compare, fit, standardize
from flatprior.models import MLP, LogNormal, Model, Normal, Ordinal, Poisson, fan_in
from flatprior.tables import Encoder

from .test_programs import compiled

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = MAP(num_steps=300, polish=False)
LINEAR = MAP(num_steps=2_000, polish=False)
NUM_ROWS = 60


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, np.ndarray]:
    """Two named features in raw units, and a number in dollars."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"area": rng.uniform(40, 200, NUM_ROWS), "year": rng.integers(1900, 2020, NUM_ROWS)})
    price = 50_000 + 3_000 * frame["area"] + 400 * (frame["year"] - 1900) + rng.normal(0, 20_000, NUM_ROWS)
    return frame, price.to_numpy()


@pytest.fixture(scope="module")
def prices(table: tuple[pd.DataFrame, np.ndarray]) -> NetworkRegressor:
    return NetworkRegressor((), observation=Normal(0.3), method=LINEAR).fit(*table)


def test_the_fit_is_that_of_the_standardised_model(table: Any, prices: NetworkRegressor) -> None:
    """Densities, moments and scores in dollars, from a fit in standard units."""
    frame, y = table
    x = ((frame - frame.mean()) / frame.std(ddof=0)).to_numpy()
    model = standardize(Model(MLP(()), Normal(0.3), fan_in(1.0)), x, y)
    by_hand = fit(model, LINEAR, x, y, key=0, progress=False)
    predicted = by_hand.predict(x)
    for site in by_hand.draws:
        np.testing.assert_allclose(prices.fit_.draws[site], by_hand.draws[site], atol=1e-5)
    np.testing.assert_allclose(prices.predict(frame), predicted.mean, rtol=1e-5)
    np.testing.assert_allclose(prices.predict(frame, return_std=True)[1], predicted.std, rtol=1e-5)
    np.testing.assert_allclose(prices.predict_interval(frame).T, predicted.interval(0.9), rtol=1e-5)
    np.testing.assert_allclose(prices.log_prob(frame, y), predicted.log_prob(y), rtol=1e-5)
    np.testing.assert_allclose(prices.fit_.stats["loss"][0, -1], by_hand.stats["loss"][0, -1], rtol=1e-5)
    scores = compare({"estimator": prices.fit_, "by hand": by_hand}, *prices.rows(frame, y)).to_dataframe()
    np.testing.assert_allclose(scores["elpd"].to_numpy(), elpd(prices, frame, y), rtol=1e-5)
    assert prices.fit_.was_fitted_to(*prices.rows(frame, y))


@pytest.mark.slow
def test_evidence_is_in_the_units_of_y(table: Any) -> None:
    frame, y = table
    method = Laplace(base=LINEAR, num_samples=10)
    mine = NetworkRegressor((), observation=Normal(0.3), method=method).fit(frame, y)
    x = mine.rows(frame)
    model = standardize(Model(MLP(()), Normal(0.3), fan_in(1.0)), x, y)
    by_hand = fit(model, method, x, y, key=0, progress=False)
    np.testing.assert_allclose(mine.fit_.log_evidence, by_hand.log_evidence, rtol=1e-6)


def test_samples_have_the_moments_of_the_predictive_distribution(table: Any, prices: NetworkRegressor) -> None:
    frame, _ = table
    samples = prices.sample_y(frame, n_samples=4_000)
    mean, sd = prices.predict(frame, return_std=True)
    assert samples.shape == (NUM_ROWS, 4_000)
    assert np.abs((samples.mean(axis=1) - mean) / (sd / np.sqrt(4_000))).max() < 5  # 60 means: 1 in 30,000


def test_columns_are_those_of_the_fit(table: Any, prices: NetworkRegressor) -> None:
    frame, _ = table
    assert prices.feature_names_in_.tolist() == ["area", "year"]
    assert prices.fit_.layout.columns == ("area", "year")
    with pytest.raises(ValueError, match="feature names"):
        prices.predict(frame[["year", "area"]])


@pytest.fixture(scope="module")
def sales(table: Any) -> pd.DataFrame:
    """The two features with gaps, dates and texts beside them, and a number for each row."""
    rng = np.random.default_rng(3)
    return table[0].assign(
        area=table[0]["area"].where(np.arange(NUM_ROWS) % 7 > 0),
        city=rng.choice(["Bern", "Basel", "Chur"], NUM_ROWS),
        sold=pd.date_range("2024-01-01", periods=NUM_ROWS, freq="31h", tz="Europe/Zurich"),
        name=[f"house {i}" for i in range(NUM_ROWS)],
        week=np.arange(NUM_ROWS),
    )


def test_the_columns_of_a_data_frame_become_features(table: Any, sales: pd.DataFrame) -> None:
    """As the encoder encodes them, except that each column of numbers is a feature."""
    estimator = NetworkRegressor((), observation=Normal(0.3), method=QUICK).fit(sales, table[1])
    encoder = Encoder.fit(sales, keep=["week"])
    assert estimator.encoder_ == encoder
    assert estimator.encoder_.description["features"].to_dict() == {
        **{"area": 2, "year": 1, "city": 3, "sold": 7, "name": 0, "week": 1}
    }
    assert estimator.fit_.layout.columns == encoder.features
    assert estimator.feature_names_in_.tolist() == list(sales)
    by_hand = clone(estimator).fit(encoder.transform(sales).to_numpy(), table[1])
    assert by_hand.encoder_ is None
    new = sales[:3].assign(city=["Genf", None, "Bern"], area=[None, 90, 100], year=[1990, None, 2000])
    expected = by_hand.predict(encoder.transform(new).to_numpy())
    for copy in (estimator, pickle.loads(pickle.dumps(estimator)), deepcopy(estimator)):
        np.testing.assert_array_equal(copy.predict(new), expected)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(estimator.predict(new.to_numpy(object)), expected)
    assert any("'Genf'" in words for words in estimator.encoder_.surprises(new))
    for bad, message in ((new.assign(year="old"), "'year': expected numbers"), (new[:0], "Found array with 0 sample")):
        with pytest.raises(ValueError, match=message):
            estimator.predict(bad)
    with pytest.raises(ValueError, match="must be in the same order"):
        estimator.predict(new.iloc[:, ::-1])


def test_a_frame_of_numbers_is_its_array(table: Any, prices: NetworkRegressor) -> None:
    frame, y = table
    np.testing.assert_allclose(
        clone(prices).fit(frame.to_numpy(), y).predict(frame.to_numpy()), prices.predict(frame), rtol=1e-12
    )


def test_a_large_offset_of_a_feature_does_not_matter(table: Any, prices: NetworkRegressor) -> None:
    """Seconds since 1970 have no digits left in float32; they are centred before."""
    frame, y = table
    moved = prices.__class__(**prices.get_params()).fit(frame.assign(area=frame["area"] + 1e9), y)
    np.testing.assert_allclose(moved.predict(frame.assign(area=frame["area"] + 1e9)), prices.predict(frame), rtol=1e-5)


LABELS = {
    "text": np.array(["no", "yes"], dtype=object),
    "booleans": np.array([False, True]),
    "integers": np.array([-7, 40]),
    "numbers": np.array([0.0, 1.0]),
    "categories": pd.Categorical(["a", "b"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_classes_have_labels_of_any_type(kind: str, table: Any) -> None:
    frame, y = table
    codes = (y > np.median(y)).astype(int)
    labels = LABELS[kind]
    y = pd.Series(labels[codes]) if kind == "categories" else labels[codes]
    classifier = NetworkClassifier((), method=QUICK).fit(frame, y)
    assert classifier.classes_.tolist() == list(labels)
    assert set(classifier.predict(frame)) == set(labels)
    assert classifier.score(frame, y) > 0.8
    assert set(classifier.sample_y(frame, 3).ravel()) == set(labels)
    x, numbers = classifier.rows(frame, y)
    np.testing.assert_array_equal(numbers, codes)
    np.testing.assert_allclose(classifier.log_prob(frame, y), classifier.fit_.predict(x).log_prob(codes), rtol=1e-5)
    probs = classifier.predict_proba(frame)
    np.testing.assert_allclose(classifier.log_prob(frame, y), np.log(probs[range(NUM_ROWS), codes]), rtol=1e-5)
    with pytest.raises(ValueError, match="expected the classes of the fit"):
        classifier.rows(frame[:1], ["other"] if kind in ("text", "categories") else [99])


def test_an_observation_may_take_the_number_of_classes(table: Any) -> None:
    frame, y = table
    grades = np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))
    ordinal = NetworkClassifier((), observation=Ordinal, method=QUICK).fit(frame, np.array(["a", "b", "c"])[grades])
    assert ordinal.predict_proba(frame).shape == (NUM_ROWS, 3)
    assert ordinal.fit_.structure.response.num_classes == 3


def test_a_positive_y_is_only_divided(table: Any) -> None:
    frame, y = table
    positive = NetworkRegressor((), observation=LogNormal(0.3), method=LINEAR).fit(frame, y)
    assert (positive.predict_interval(frame) > 0).all()
    assert positive.score(frame, y) > 0.8


def test_a_row_of_weight_two_counts_as_two_rows(table: Any) -> None:
    frame, y = table
    counts = np.arange(NUM_ROWS) % 3
    twice = np.repeat(np.arange(NUM_ROWS), counts)
    settings: dict[str, Any] = {"network": (), "observation": Normal(0.3), "method": LINEAR}
    weighted = NetworkRegressor(**settings).fit(frame, y, sample_weight=counts)
    repeated = NetworkRegressor(**settings).fit(frame.iloc[twice], y[twice])
    np.testing.assert_allclose(weighted.predict(frame), repeated.predict(frame), rtol=1e-6)
    with pytest.raises(ValueError, match="at least one non-zero"):
        NetworkRegressor().fit(frame, y, sample_weight=np.zeros(NUM_ROWS))


def test_a_fit_that_is_not_ok_warns_once_with_the_reasons(table: Any) -> None:
    """Separable classes have no maximum of the likelihood."""
    frame, _ = table
    classifier = NetworkClassifier((), method=MLE(num_steps=2_000, polish=False))
    with pytest.warns(ConvergenceWarning, match="There is no maximum") as caught:
        classifier.fit(frame, frame["area"] > 100)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict(frame)


BAD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "one class": (lambda x, y: NetworkClassifier().fit(x, y > 0), "at least 2 classes; got 1 class"),
    "labels of two types": (
        lambda x, y: NetworkClassifier().fit(x, np.array([1, "a"], object)[(y > y[0]).astype(int)]),
        "y: expected labels of one type; got int, str",
    ),
    "order": (
        lambda x, y: NetworkClassifier(observation=Ordinal).fit(
            x, pd.cut(pd.Series(y), 3, labels=["low", "middle", "high"])
        ),
        r"order in which they sort, \['high', 'low', 'middle'\].*order \['low', 'middle', 'high'\]. Pass their codes",
    ),
    "network": (lambda x, y: NetworkRegressor("deep").fit(x, y), "expected hidden units"),
    "width": (lambda x, y: NetworkRegressor((0,)).fit(x, y), "positive integers as widths"),
    "prior": (lambda x, y: NetworkRegressor(prior=-1.0).fit(x, y), "positive finite scale"),
    "method": (lambda x, y: NetworkRegressor(method=MAP).fit(x, y), "Expected a method"),
    "fraction": (lambda x, y: NetworkCountRegressor().fit(x, y + 0.5), "expected counts"),
    "negative": (lambda x, y: NetworkCountRegressor().fit(x, -np.ones(len(y))), r"y\[0\]: expected counts"),
    "weights": (lambda x, y: NetworkRegressor().fit(x, y, sample_weight=-np.ones(len(y))), "weights, row 0: expected"),
    "missing": (lambda x, y: NetworkRegressor().fit(x.to_numpy() * np.nan, y), "NaN"),
    "text": (lambda x, y: NetworkRegressor().fit(x.astype(str).to_numpy() + "a", y), "could not convert string"),
    "no feature": (lambda x, y: NetworkRegressor().fit(x * np.nan, y), r"none \('area': it has no values"),
    "infinite": (lambda x, y: NetworkRegressor().fit(x.assign(area=np.inf), y), "'area', row 0: expected a finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case: str, table: Any) -> None:
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call(*table)


def test_copies_predict_the_same_to_the_bit(table: Any, prices: NetworkRegressor) -> None:
    frame, y = table
    for copy in (pickle.loads(pickle.dumps(prices)), deepcopy(prices), clone(prices).fit(frame, y)):
        np.testing.assert_array_equal(copy.predict(frame), prices.predict(frame))
        np.testing.assert_array_equal(copy.fit_.predict(copy.rows(frame)).mean, prices.predict_dist(frame).mean)


def test_other_folds_compile_nothing(table: Any) -> None:
    """What a search would pay for each of its fits: rows of another fold have other means, and the same shapes."""
    frame, y = table
    estimator = NetworkRegressor((), observation=Normal(0.3), method=QUICK)
    estimator.fit(frame[:40], y[:40]).predict_interval(frame[40:])
    with compiled() as events:
        estimator.fit(frame[20:], y[20:]).predict_interval(frame[:20])
    assert not events


@pytest.mark.slow
def test_a_search_over_priors_and_methods_in_a_pipeline_with_text() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"size": rng.normal(size=60), "colour": rng.choice(["red", "green", "blue"], 60)})
    y = np.where(frame["size"] + (frame["colour"] == "red") + rng.logistic(size=60) > 0, "sold", "kept")
    columns = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    pipeline = make_pipeline(columns, NetworkClassifier((), method=QUICK))
    methods = [QUICK, MLE(num_steps=300, polish=False)]
    grid = {"networkclassifier__prior": [0.3, 1.0], "networkclassifier__method": methods}
    search = GridSearchCV(pipeline, grid, cv=2, scoring=elpd)
    scores = cross_val_score(search, frame, y, cv=2, scoring=elpd)
    assert ((scores < 0) & (scores > -1)).all()
    assert search.fit(frame, y).predict(frame).shape == (60,)
    assert set(search.best_params_) == set(grid)


@pytest.mark.slow
def test_probabilities_can_be_calibrated(table: Any) -> None:
    frame, y = table
    y = y > np.median(y)
    calibrated = CalibratedClassifierCV(NetworkClassifier((), method=QUICK), cv=2).fit(frame, y, np.ones(NUM_ROWS))
    np.testing.assert_allclose(calibrated.predict_proba(frame).sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_other_processes_give_the_same_scores() -> None:
    x, y = load_diabetes(return_X_y=True)
    estimator = NetworkRegressor((), method=QUICK)
    here, there = (cross_val_score(estimator, x, y, cv=2, scoring=elpd, n_jobs=jobs) for jobs in (1, 2))
    np.testing.assert_allclose(here, there, rtol=1e-6)


@pytest.mark.slow
def test_the_defaults_are_ok_on_plain_tables() -> None:
    """And predict as well as a linear model at least: RMSE 54 on diabetes."""
    x, y = load_diabetes(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regressor = NetworkRegressor().fit(x[:300], y[:300])
    assert np.sqrt(np.mean((regressor.predict(x[300:]) - y[300:]) ** 2)) < 58
    low, high = regressor.predict_interval(x[300:]).T
    assert 0.8 < np.mean((low <= y[300:]) & (y[300:] <= high)) < 0.97


MODULES = [module.name for module in pkgutil.iter_modules(flatprior.estimators.__path__, "flatprior.estimators.")]


@pytest.mark.parametrize(
    "name", [name if "classifier" in name else pytest.param(name, marks=pytest.mark.slow) for name in MODULES]
)
def test_an_example_prints_what_it_shows(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_counts(table: Any) -> None:
    frame, y = table
    counts = np.random.default_rng(2).poisson(y / 1e5)
    regressor = NetworkCountRegressor((), observation=Poisson(), method=QUICK).fit(frame, counts)
    assert regressor.predict(frame).shape == (NUM_ROWS,)
    assert (regressor.predict_interval(frame) % 1 == 0).all()
