"""The values of a column as numbers, dates or texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api import types

DAY = pd.Timedelta(days=1)
EXAMPLES = 3
"""The number of values that a sentence names."""


def plain(values: pd.Series) -> pd.Series:
    """Return a column with the type of its values: objects that are all numbers become numbers, dates datetimes."""
    if types.is_object_dtype(values):
        values = values.infer_objects()
    if types.is_object_dtype(values):
        kind = types.infer_dtype(values, skipna=True)
        if kind in ("date", "datetime"):
            values = pd.to_datetime(values)
        elif kind in ("integer", "floating", "mixed-integer-float", "decimal"):
            values = pd.to_numeric(values.where(values.notna(), np.nan))
        elif kind == "boolean":
            values = values.astype("boolean")
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    return values


def is_number(values: pd.Series) -> bool:
    """Return whether a column has numbers, booleans or durations."""
    return types.is_numeric_dtype(values) or types.is_bool_dtype(values) or types.is_timedelta64_dtype(values)


def numbers_of(name: str, values: pd.Series) -> np.ndarray:
    """Return a column of numbers, booleans or durations (in days), (n,); NaN where one is missing.

    Raises:
        ValueError: when a value is not a number, or infinite.
    """
    values = plain(values)
    if values.isna().all():
        return np.full(len(values), np.nan)
    if types.is_timedelta64_dtype(values):
        values = values.dt.total_seconds() / DAY.total_seconds()
    if not is_number(values) or types.is_complex_dtype(values):
        raise ValueError(
            f"Column {name!r}: expected numbers, as in the fit; got {text_of(values.dropna().iloc[0])!r} in "
            f"{place_of(values.dropna(), 0)}."
        )
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    if np.isinf(numbers).any():
        place = place_of(values, int(np.isinf(numbers).argmax()))
        raise ValueError(f"Column {name!r}, {place}: expected a finite number; got an infinite one. Leave it empty.")
    return numbers


def dates_of(name: str, values: pd.Series) -> pd.Series:
    """Return a column of dates, without time zone (in UTC where they have one).

    Raises:
        ValueError: when a value is not a date.
    """
    values = plain(values)
    if values.isna().all():
        return pd.Series(pd.NaT, values.index, dtype="datetime64[us]")
    if not types.is_datetime64_any_dtype(values):
        raise ValueError(
            f"Column {name!r}: expected dates, as in the fit; got {text_of(values.dropna().iloc[0])!r} in "
            f"{place_of(values.dropna(), 0)}."
        )
    return values.dt.tz_convert(None) if values.dt.tz is not None else values


def texts_of(values: pd.Series) -> pd.Series:
    """Return a column of any type as texts; missing values stay missing. Whole numbers have no decimals."""
    values = plain(values)
    texts = values.astype(object).map(text_of, na_action="ignore")
    return texts.where(values.notna(), None).astype(object)


def place_of(values: pd.Series, position: int) -> str:
    """Return where a value is, in words: "line 3" of a file, whose index has this name, or "row 2" of a frame."""
    return f"{values.index.name or 'row'} {values.index[position]}"


def shortened(values: Sequence[object] | pd.Series) -> str:
    """Return the first few values, in words."""
    some = [repr(value) for value in values[:EXAMPLES]]
    return ", ".join([*some, *["..."] * (len(values) > EXAMPLES)])


def text_of(value: object) -> str:
    """Return a value as a text; whole numbers have no decimals."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
