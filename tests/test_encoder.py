"""Columns of data frames as features: each kind of column, and new rows."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from flatprior.tables import Encoder
from flatprior.tables.columns import MOST_INDICATORS, Dates, Indicators, LeftOut, Number, column_of

ROWS = 60
RNG = np.random.default_rng(0)
MANY = [f"v{i % (MOST_INDICATORS + 10)}" for i in range(200)] + ["often"] * 300
COLUMNS = {
    "numbers": (RNG.normal(size=ROWS), Number),
    "booleans": (RNG.random(ROWS) > 0.5, Number),
    "nullable integers": (pd.array([1, None, 3] * 20, dtype="Int64"), Number),
    "objects that are numbers": (np.array([1, 2.5, None] * 20, object), Number),
    "durations": (pd.to_timedelta(RNG.normal(size=ROWS), unit="h"), Number),
    "numbers of the same rows": ([3, 7] * 30, Number),
    "row numbers": (np.arange(ROWS), LeftOut),
    "row numbers, a random part": (RNG.permutation(80)[:ROWS], LeftOut),
    "wide whole numbers": (RNG.permutation(800)[:ROWS], Number),
    "customer_id": (RNG.permutation(800)[:ROWS], LeftOut),
    "constant": ([1.0] * ROWS, LeftOut),
    "constant text": (["a"] * ROWS, LeftOut),
    "constant or missing": (["a", None] * 30, Indicators),
    "empty": ([None] * ROWS, LeftOut),
    "dates": (pd.date_range("2024-01-01", periods=ROWS, freq="31h"), Dates),
    "dates with a zone": (pd.date_range("2024-01-01", periods=ROWS, freq="31h", tz="Europe/Zurich"), Dates),
    "days": ([date(2024, 1, 1 + i % 28) for i in range(ROWS)], Dates),
    "months": (pd.period_range("2020-01", periods=ROWS, freq="M"), Dates),
    "texts": (["red", "green", "blue"] * 20, Indicators),
    "categories": (pd.Categorical([1, 2, 3] * 20), Indicators),
    "texts of many values": (MANY, Indicators),
    "free text": ([f"v{i // 2}" for i in range(200)], LeftOut),
    "names": ([f"name {i}" for i in range(ROWS)], LeftOut),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_each_column_is_read_as_what_it_is(name: str) -> None:
    values, kind = COLUMNS[name]
    frame = pd.DataFrame({name: values, "x": RNG.normal(size=len(values))})
    encoder = Encoder.fit(frame)
    assert type(encoder.columns[0]) is kind
    features = encoder.transform(frame)
    assert tuple(features) == encoder.features
    assert features.shape == (len(frame), 1 + encoder.description["features"].iloc[0])
    assert np.isfinite(features.to_numpy()).all()
    assert Encoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
    assert not encoder.surprises(frame)
    empty = frame.assign(**{name: None})
    assert np.isfinite(encoder.transform(empty).to_numpy()).all()
    pd.testing.assert_frame_equal(encoder.transform(frame.iloc[::-1, ::-1]).iloc[::-1], features)


def test_missing_numbers_become_the_median_and_are_marked() -> None:
    encoder = Encoder.fit(pd.DataFrame({"x": [1.0, None, 3.0, 8.0]}))
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"x": [None, 5.0]})), [[3.0, 1.0], [5.0, 0.0]])
    whole = Encoder.fit(pd.DataFrame({"x": [1.0, 3.0, 8.0]}))
    np.testing.assert_array_equal(whole.transform(pd.DataFrame({"x": [None, 5.0]})), [[3.0], [5.0]])
    assert whole.surprises(pd.DataFrame({"x": [None, 5.0]})) == [
        "'x': 1 row has no value, which every row of the fit had; it is replaced by 3."
    ]


def test_the_rarer_values_of_a_text_share_an_indicator() -> None:
    encoder = Encoder.fit(pd.DataFrame({"t": MANY}))
    assert len(encoder.features) == MOST_INDICATORS + 1
    new = encoder.transform(pd.DataFrame({"t": ["often", "never seen", None]}))
    assert new["t=often"].tolist() == [1, 0, 0]
    assert new["t other"].tolist() == [0, 1, 0]


def test_dates_have_a_trend_and_cycles_of_the_right_length() -> None:
    dates = pd.Series(pd.date_range("2023-01-02", periods=3 * 365, freq="D"))
    features = Encoder.fit(pd.DataFrame({"d": dates})).transform(pd.DataFrame({"d": dates}))
    assert list(features) == ["d years", "d sin of year", "d cos of year", "d sin of week", "d cos of week"]
    assert features["d years"].iloc[-1] == pytest.approx(3, abs=0.01)
    np.testing.assert_allclose(features["d sin of week"][7:], features["d sin of week"][:-7], atol=1e-12)
    np.testing.assert_allclose(features["d cos of year"][365:], features["d cos of year"][:-365], atol=0.02)


def test_a_column_is_kept_on_request() -> None:
    frame = pd.DataFrame({"day": np.arange(ROWS), "x": RNG.normal(size=ROWS)})
    assert Encoder.fit(frame).features == ("x",)
    assert Encoder.fit(frame, keep=["day"]).features == ("day", "x")


FRAME = pd.DataFrame({"size": [1.0, 2.5, 4.0], "city": ["a", "b", "a"]})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.rename(columns={"size": "Size "}), r"no column 'size'. Did you mean 'Size '\?"),
        (FRAME.rename(columns={"size": "sizes"}), r"Did you mean 'sizes'\?"),
        (FRAME[["city"]], r"no column 'size'. The columns are \['city'\]"),
        (FRAME.assign(size="large"), r"'size': expected numbers, as in the fit; got 'large' in row 0"),
        (FRAME.assign(size=[1, np.inf, 2]), "'size', row 1: expected a finite number"),
        (pd.concat([FRAME, FRAME], axis=1), "'size' more than once"),
        (FRAME.to_numpy(), "Expected a pandas data frame; got ndarray"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Encoder.fit(FRAME).transform(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"x": [1.0, 1.0]}), r"can be a feature; got none \('x': constant: each value is '1'\)"),
        (pd.DataFrame({"x": [1.0, 2.0]})[:0], r"Expected rows and columns; got a data frame of shape \(0, 1\)"),
        (pd.DataFrame({"x": [1.0, np.inf]}), "'x', row 1: expected a finite number"),
        (pd.DataFrame({"x": [1.0, None, 3.0], "x missing": [1, 2, 2]}), "Two columns give a feature named 'x missing'"),
    ],
)
def test_frames_without_features_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder.fit(frame)


def test_new_columns_and_values_are_named() -> None:
    words = Encoder.fit(FRAME).surprises(FRAME.assign(city=["a", "z", "z"], more=1))
    assert words == [
        "'city': 2 rows have a value that no row of the fit had ('z'): all of its indicators are 0 there.",
        "Not used, as the fit had no such columns: 'more'.",
    ]


def test_a_date_is_no_number() -> None:
    with pytest.raises(ValueError, match="expected dates, as in the fit; got '3' in row 0"):
        column_of("d", pd.Series(pd.date_range("2024", periods=3))).transform(pd.Series([3.0]))
