"""From the columns of a data frame to features, which are numbers, and the same for new rows."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Self

import numpy as np
import pandas as pd

from .columns import Column, Dates, Indicators, LeftOut, Number, column_of
from .values import shortened

VERSION = 1
"""The version of the JSON of an encoder."""
TYPES = {kind.__name__: kind for kind in (Number, Indicators, Dates, LeftOut)}
MOST_FEATURES = 10_000
"""More features than this are refused."""


@dataclass(frozen=True)
class Encoder:
    """What is done to each column of a table, learned from the rows of a fit. Plain data, compared by value.

    - Numbers stay as they are; booleans are 0 and 1, durations days.
    - Dates become years since the first, and sine and cosine of their places in the year, the week and the day.
    - Texts have an indicator of each value, at most `columns.MOST_INDICATORS`, one of all rarer values together, and
      one of missing values. Text of which no few values cover half of the rows is left out.
    - Missing numbers become the median, and missing dates the median date, with an indicator.
    - Constants, identifiers and columns without values are left out.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"size": [30, 42, None, 55], "city": ["Bern", "Basel", "Bern", "Chur"], "year": 2024})
        >>> encoder = Encoder.fit(rows)
        >>> print(encoder.description["done"].to_string())
        column
        size    missing values: 42, the median, and an indicator
        city                          an indicator of each value
        year                      constant: each value is '2024'
        >>> new = pd.DataFrame({"city": ["Chur", "Genf"], "size": [38.5, 40.0]})
        >>> print(encoder.transform(new).to_string(index=False))
         size  size missing  city=Basel  city=Bern  city=Chur
         38.5           0.0         0.0        0.0        1.0
         40.0           0.0         0.0        0.0        0.0
        >>> print(*encoder.surprises(new))
        'city': 1 row has a value that no row of the fit had ('Genf'): all of its indicators are 0 there.
    """

    columns: tuple[Column, ...]
    """The rule of each column, in the order of the table."""

    @classmethod
    def fit(cls, frame: pd.DataFrame, *, keep: Collection[str] = ()) -> Self:
        """Return the encoder of the columns of a frame.

        Args:
            frame: the features of n rows.
            keep: the names of columns that are used although they look like identifiers.

        Raises:
            ValueError: when there are no rows, names are repeated, `keep` is not a column, a number is infinite, no
                feature is left, or there are more than `MOST_FEATURES`.
        """
        named = _named(frame)
        if named.empty:
            raise ValueError(f"Expected rows and columns; got a data frame of shape {named.shape}.")
        for name in keep:
            check_column(name, named.columns)
        result = cls(tuple(column_of(str(name), named[name], is_kept=name in keep) for name in named))
        count, names = len(result.features), set(result.features)
        if not names:
            why = "; ".join(f"{column.name!r}: {column.done}" for column in result.columns[:20])
            raise ValueError(f"Expected a column that can be a feature; got none ({why}).")
        if count > MOST_FEATURES:
            raise ValueError(
                f"Expected at most {MOST_FEATURES:,} features; got {count:,} from {len(result.columns):,} columns. "
                f"Choose some of the columns."
            )
        if len(names) < count:
            twice = next(name for name in result.features if result.features.count(name) > 1)
            raise ValueError(f"Two columns give a feature named {twice!r}. Rename one of them.")
        return result

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(feature for column in self.columns for feature in column.features)

    @property
    def description(self) -> pd.DataFrame:
        """A row for each column: what it is ``read as``, what was ``done``, and how many ``features`` it gives."""
        rows = [(column.read_as, column.done, len(column.features)) for column in self.columns]
        index = pd.Index([column.name for column in self.columns], name="column")
        return pd.DataFrame(rows, index, columns=["read as", "done", "features"])

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the features of rows, (n, features), as real numbers without gaps; columns are found by name.

        Raises:
            ValueError: when a column is missing, or has no longer the type of the fit, or a number is infinite.
        """
        named = _named(frame)
        used = [column for column in self.columns if column.features]
        for column in used:
            check_column(column.name, named.columns)
        parts = [column.transform(named[column.name]) for column in used]
        values = np.concatenate(parts, axis=1, dtype=float) if parts else np.zeros((len(frame), 0))
        return pd.DataFrame(values, frame.index, list(self.features))

    def surprises(self, frame: pd.DataFrame) -> list[str]:
        """Return a sentence on each way in which rows differ from those of the fit, and how that was answered."""
        named = _named(frame)
        words = [w for column in self.columns if column.features for w in column.surprises(named[column.name])]
        unknown = named.columns.difference([column.name for column in self.columns], sort=False)
        if len(unknown):
            words.append(f"Not used, as the fit had no such columns: {shortened(list(unknown))}.")
        return words

    def to_json(self) -> dict[str, Any]:
        """Return the encoder as values that JSON has."""
        return {
            "version": VERSION,
            "columns": [{"type": type(column).__name__, **asdict(column)} for column in self.columns],
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_json` returned.

        Raises:
            ValueError: when it is of a later release.
        """
        if saved.get("version") != VERSION:
            raise ValueError(f"Expected version {VERSION} of an encoder; got {saved.get('version')}.")
        return cls(tuple(_column_from_json(column) for column in saved["columns"]))


def check_column(name: str, columns: Collection[str]) -> None:
    """Raise ValueError, with the name that may be meant, unless a table has the column."""
    if name in columns:
        return
    same = [each for each in columns if each.strip().casefold() == name.strip().casefold()]
    close = same or get_close_matches(name, list(columns), n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"There is no column {name!r}.{meant} The columns are {listed(columns)}.")


def listed(names: Collection[str]) -> str:
    """Return the first names in words."""
    return f"{list(names)[:20]}" + f" and {len(names) - 20} more" * (len(names) > 20)


def _column_from_json(saved: Mapping[str, Any]) -> Column:
    kind: Any = TYPES[saved["type"]]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k != "type"})


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns have different texts as names."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"Expected a pandas data frame; got {type(frame).__name__}.")
    names = frame.columns.map(str)
    if names.has_duplicates:
        twice = names[names.duplicated()][0]
        raise ValueError(f"Expected a name of its own for each column; got {twice!r} more than once. Rename one.")
    return frame.set_axis(names, axis=1)
