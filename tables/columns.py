"""What becomes of a column: a number, indicators of its values, the parts of its dates, or nothing.

Each class is the rule of one column, learned from the rows of a fit and applied to any rows. It is plain data, which
`dataclasses.asdict` turns into JSON.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from pandas.api import types

from .values import DAY, dates_of, is_number, numbers_of, plain, shortened, text_of, texts_of

MOST_INDICATORS = 30
"""The largest number of values of a text that have an indicator each; the rarer ones share one."""
LEAST_COVERED = 0.5
"""The share of the rows that must have one of these values."""
LEAST_ROWS_OF_AN_IDENTIFIER = 20
"""In fewer rows, different whole numbers close to each other are no evidence that they number the rows."""
YEAR = 365.25 * DAY


class Column(Protocol):
    """The rule of one column: a frozen dataclass."""

    read_as: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The name of the column."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its features."""

    @property
    def done(self) -> str:
        """What is done to it, in words."""

    def transform(self, values: pd.Series) -> np.ndarray:
        """Return its features, (n, features); no value is NaN."""

    def surprises(self, values: pd.Series) -> list[str]:
        """Return a sentence on each kind of value that the rule has not seen."""


@dataclass(frozen=True)
class Number:
    """A number, whose missing values are replaced by a typical one; an indicator marks them."""

    name: str
    fill: float
    """The median of the values that are there."""
    has_gaps: bool
    """Whether values were missing, so that there is an indicator."""
    read_as: ClassVar[str] = "number"

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name, f"{self.name} missing") if self.has_gaps else (self.name,)

    @property
    def done(self) -> str:
        return f"missing values: {self.fill:.6g}, the median, and an indicator" if self.has_gaps else ""

    def transform(self, values: pd.Series) -> np.ndarray:
        numbers = numbers_of(self.name, values)
        gaps = np.isnan(numbers)
        return _with_gaps(np.where(gaps, self.fill, numbers)[:, None], gaps, self.has_gaps)

    def surprises(self, values: pd.Series) -> list[str]:
        return _gaps_in_words(self.name, values, self.has_gaps, f"it is replaced by {self.fill:.6g}")


@dataclass(frozen=True)
class Indicators:
    """A text, with an indicator for each of its values, or one for both where it has two."""

    name: str
    values: tuple[str, ...]
    """The values with an indicator, sorted."""
    has_others: bool
    """Whether there were rarer values, which share an indicator."""
    has_gaps: bool
    """Whether values were missing, so that there is an indicator."""
    read_as: ClassVar[str] = "text"

    @property
    def is_binary(self) -> bool:
        """Whether one indicator distinguishes all values."""
        return len(self.values) == 2 and not self.has_others and not self.has_gaps

    @property
    def features(self) -> tuple[str, ...]:
        names = [f"{self.name}={value}" for value in (self.values[1:] if self.is_binary else self.values)]
        names += [f"{self.name} other"] * self.has_others + [f"{self.name} missing"] * self.has_gaps
        return tuple(names)

    @property
    def done(self) -> str:
        if self.is_binary:
            return f"an indicator of {self.values[1]!r} (otherwise {self.values[0]!r})"
        each = "an indicator of each value" if len(self.values) > 1 else f"an indicator of {self.values[0]!r}"
        if self.has_others:
            each = f"an indicator of each of the {len(self.values)} most frequent values, and one of all others"
        return each + ", and one of missing values" * self.has_gaps

    def transform(self, values: pd.Series) -> np.ndarray:
        texts = texts_of(values)
        codes = pd.Index(self.values, dtype=object).get_indexer_for(pd.Index(texts))
        indicators = codes[:, None] == np.arange(len(self.values))
        gaps = texts.isna().to_numpy()
        if self.is_binary:
            indicators = indicators[:, 1:]
        if self.has_others:
            indicators = np.column_stack([indicators, (codes < 0) & ~gaps])
        return _with_gaps(indicators.astype(float), gaps, self.has_gaps)

    def surprises(self, values: pd.Series) -> list[str]:
        texts = texts_of(values)
        unknown = texts[~texts.isin(self.values) & texts.notna()]
        is_known = self.has_gaps or len(self.values) == 1
        words = _gaps_in_words(self.name, texts, is_known, "all of its indicators are 0 there")
        if len(unknown) and not self.has_others:
            named = shortened(unknown.drop_duplicates())
            words.append(
                f"{self.name!r}: {_rows_in_words(len(unknown))} a value that no row of the fit had ({named}): all "
                f"of its indicators are 0 there."
            )
        return words


@dataclass(frozen=True)
class Dates:
    """A date: years since the first one, and its places in the year, the week and the day where these differ."""

    name: str
    origin: str
    """The first date, as ISO 8601."""
    fill: str
    """The median date."""
    cycles: tuple[str, ...]
    """Which of "year", "week" and "day" have a place: the sine and the cosine of its angle."""
    has_gaps: bool
    """Whether dates were missing, so that there is an indicator."""
    read_as: ClassVar[str] = "date"

    @property
    def features(self) -> tuple[str, ...]:
        names = [f"{self.name} years"]
        names += [f"{self.name} {wave} of {cycle}" for cycle in self.cycles for wave in ("sin", "cos")]
        return (*names, *[f"{self.name} missing"] * self.has_gaps)

    @property
    def done(self) -> str:
        places = f", sine and cosine of the place in the {' and the '.join(self.cycles)}" if self.cycles else ""
        gaps = ", an indicator of missing dates" if self.has_gaps else ""
        return f"years since {self.origin[:10]}{places}{gaps}"

    def transform(self, values: pd.Series) -> np.ndarray:
        dates = dates_of(self.name, values)
        gaps = dates.isna().to_numpy()
        dates = dates.fillna(pd.Timestamp(self.fill))
        parts = [(dates - pd.Timestamp(self.origin)) / YEAR]
        for cycle in self.cycles:
            angle = 2 * np.pi * place_in(dates, cycle)
            parts += [np.sin(angle), np.cos(angle)]
        return _with_gaps(np.column_stack(parts), gaps, self.has_gaps)

    def surprises(self, values: pd.Series) -> list[str]:
        return _gaps_in_words(self.name, values, self.has_gaps, f"it is replaced by {self.fill[:10]}")


@dataclass(frozen=True)
class LeftOut:
    """A column that is not used."""

    name: str
    reason: str
    read_as: ClassVar[str] = "left out"

    @property
    def features(self) -> tuple[str, ...]:
        return ()

    @property
    def done(self) -> str:
        return self.reason

    def transform(self, values: pd.Series) -> np.ndarray:
        return np.zeros((len(values), 0))

    def surprises(self, values: pd.Series) -> list[str]:
        return []


def column_of(name: str, values: pd.Series, *, is_kept: bool = False) -> Column:
    """Return the rule of a column.

    Args:
        name: its name.
        values: its values in the rows of the fit.
        is_kept: whether it is used even if it looks like an identifier.

    Raises:
        ValueError: when a number is infinite.
    """
    values = plain(values)
    given = values.dropna()
    if given.empty:
        return LeftOut(name, "it has no values")
    has_gaps, first = len(given) < len(values), text_of(given.iloc[0])
    if len(np.unique(numbers_of(name, given)) if is_number(given) else texts_of(given).unique()) == 1:
        constant = LeftOut(name, f"constant: each value is {first!r}")
        return Indicators(name, (first,), False, False) if has_gaps else constant
    if types.is_datetime64_any_dtype(values):
        return _dates(name, values, has_gaps)
    if is_number(values):
        numbers = numbers_of(name, given)
        if not is_kept and numbers_rows(numbers):
            return LeftOut(name, "an identifier: different whole numbers in all rows, one after the other")
        if not is_kept and is_named_as_identifier(name) and len(np.unique(numbers)) == len(values):
            return LeftOut(name, "an identifier by its name: no two rows have the same number")
        return Number(name, float(np.median(numbers)), has_gaps)
    return _indicators(name, texts_of(values), has_gaps)


def _indicators(name: str, texts: pd.Series, has_gaps: bool) -> Indicators | LeftOut:
    counts = texts.value_counts()
    given, num_values = int(counts.sum()), len(counts)
    if num_values == given and num_values > 2:
        return LeftOut(name, "text with another value in each row")
    if num_values <= MOST_INDICATORS:
        return Indicators(name, tuple(sorted(counts.index)), False, has_gaps)
    frequent = counts[counts > 1].head(MOST_INDICATORS)
    covered = frequent.sum() / given
    if covered < LEAST_COVERED:
        return LeftOut(
            name,
            f"text of {num_values} values in {given} rows: the {len(frequent)} most frequent are {covered:.0%} of them",
        )
    return Indicators(name, tuple(sorted(frequent.index)), True, has_gaps)


def _dates(name: str, values: pd.Series, has_gaps: bool) -> Dates:
    dates = dates_of(name, values).dropna()
    origin, fill = dates.min(), dates.sort_values().iloc[len(dates) // 2]
    cycles = [cycle for cycle in ("week", "day") if place_in(dates, cycle).nunique() > 1]
    if dates.max() - origin > 60 * DAY:
        cycles.insert(0, "year")
    return Dates(name, origin.isoformat(), fill.isoformat(), tuple(cycles), has_gaps)


def place_in(dates: pd.Series, cycle: str) -> pd.Series:
    """Return where in the year, the week or the day dates lie, from 0 to 1."""
    days = (dates - dates.dt.normalize()) / DAY
    match cycle:
        case "year":
            return (dates.dt.day_of_year - 1 + days) / 366
        case "week":
            return dates.dt.day_of_week / 7
    return days


def numbers_rows(numbers: np.ndarray) -> bool:
    """Return whether numbers look like the numbers of rows, or of a part of them: whole, different, and close together.

    That the n numbers of a count or a measurement differ although they lie in a range of 2 n has a probability of less
    than 0.002 for 20 uniform numbers, and falls exponentially with n.
    """
    whole = bool((numbers == np.round(numbers)).all()) and len(np.unique(numbers)) == len(numbers)
    return whole and len(numbers) >= LEAST_ROWS_OF_AN_IDENTIFIER and bool(np.ptp(numbers) < 2 * len(numbers))


def is_named_as_identifier(name: str) -> bool:
    """Return whether a name says that a column is an identifier: ``id``, ``customer_id``, ``PassengerId``."""
    return name.lower() in ("id", "index", "uuid", "key", "row") or name.endswith(("_id", " id", ".id", "Id", "ID"))


def _with_gaps(features: np.ndarray, gaps: np.ndarray, has_gaps: bool) -> np.ndarray:
    return np.column_stack([features, gaps]) if has_gaps else features


def _gaps_in_words(name: str, values: pd.Series, is_known: bool, answer: str) -> list[str]:
    count = int(values.isna().sum())
    if is_known or not count:
        return []
    return [f"{name!r}: {_rows_in_words(count)} no value, which every row of the fit had; {answer}."]


def _rows_in_words(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"
