"""The cells of a column, which are texts in a file, as numbers, dates or texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from .numerals import decimal_of, is_ambiguous, numerals
from .values import place_of

MISSING = frozenset(("", "?", "-", "--", ".", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null"))
"""What stands for a missing value, in small letters."""
MISSING_NUMBERS = MISSING | {"none", "missing", "unknown", "nil"}
"""The same where the other values of a column are numbers or dates: in a text these words may be values."""
FEW_EXCEPTIONS = 0.1
"""If fewer different cells than this share are no numbers, these are mistakes; otherwise the column is text."""
SEEN = 2000
"""The number of different cells of a column in which the decimal separator is looked for."""
DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%y", "%m/%d/%y"),
    *("%d/%m/%y", "%d %b %Y", "%d %B %Y", "%d. %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y"),
    *("%d%b%Y", "%A, %B %d, %Y", "%A, %d %B %Y", "%A, %d. %B %Y", "%a, %d %b %Y", "%a %d %b %Y"),
)
MONTHS = ("%b %Y", "%B %Y", "%b-%Y", "%b-%y", "%m/%Y")
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", "T%H:%M:%S")
ISO = "ISO8601"
ISO_CELL = r"\d{4}-\d{2}(?:-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s?(?:Z|[+-]\d{2}:?\d{2})?)?)?"
COMPACT = "%Y%m%d"
FORMATS = (*(day + time for day in DAYS for time in TIMES), *MONTHS)
WEEK_CELL = r"\d{4}-?W\d{2}(?:-?[1-7])?"
QUARTER_CELL = r"(?P<year>\d{4})[ /-]?Q(?P<quarter>[1-4])|Q(?P<quarter_first>[1-4])[ /-]?(?P<year_last>\d{4})"
IN_PARTS = {"ISO week": WEEK_CELL, "quarter": QUARTER_CELL}
"""Names of formats that are not those of `strptime`, and their cells."""
IN_WORDS = {"%d": "day", "%m": "month", "%Y": "year", "%y": "year", "%b": "month", "%B": "month"}


@dataclass(frozen=True)
class Format:
    """How the cells of a column are read. Plain data, compared by value."""

    kind: Literal["number", "date", "text", "empty"]
    detail: str = ""
    """The unit of numbers, "%" for percent, which become shares; the format of dates."""

    def to_json(self) -> dict[str, Any]:
        """Return the format as values that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Return the format that `to_json` returned."""
        return cls(**saved)


@dataclass(frozen=True)
class Read:
    """A column that was read."""

    values: pd.Series
    """Numbers, dates or texts; missing where there is none."""
    format: Format
    words: str
    """How it was read, in words, where that is not plain."""


def read_cells(cells: pd.Series, decimal: str, like: Format | None = None) -> Read:
    """Return the values of a column.

    Args:
        cells: texts; the name is that of the column, the index that of lines.
        decimal: the decimal separator of the file, which a column may show to be another in it.
        like: the format of the column in the rows of a fit; by default it is recognised.

    Raises:
        ValueError: when a few cells are not like the others, or cells are not like those of the fit.
    """
    cells = cells.str.strip()
    codes, unique = pd.factorize(cells)
    known = pd.Series(unique, dtype=object)
    is_given = ~known.str.lower().isin(MISSING)
    read = _known(known[is_given], decimal, like, cells)
    values = read.values.reindex(known.index)
    return Read(pd.Series(values.to_numpy()[codes], cells.index, name=cells.name), read.format, read.words)


def _known(known: pd.Series, decimal: str, like: Format | None, cells: pd.Series) -> Read:
    """Return the values of different cells, none of them missing."""
    if known.empty:
        return Read(known.astype(float), like or Format("empty"), "")
    if like is not None and like.kind == "text":
        return Read(known, like, "")
    numbers = known[~known.str.lower().isin(MISSING_NUMBERS)]
    date = _dates(numbers, decimal, like, cells)
    if date is not None:
        return date
    if like is not None and like.kind == "date" and len(numbers):
        raise ValueError(_exception(cells, numbers, "a date, as in the fit"))
    shown = decimal_of(numbers.head(SEEN)) or decimal
    read = numerals(numbers, shown)
    exceptions = numbers[read.values.isna()]
    is_number = are_few(len(exceptions), len(numbers)) and not read.is_code
    if like is not None and like.kind == "number":
        is_number = True
        is_other = "%" in (read.unit, like.detail) or (read.unit and like.detail)
        if read.unit != like.detail and is_other and not numbers.empty:
            raise ValueError(
                f"Column {cells.name!r}: expected numbers {_unit(like.detail)}, as in the fit; got them "
                f"{_unit(read.unit)}, such as {numbers.iloc[0]!r}."
            )
    if not is_number:
        words = "some begin with a zero" if read.is_code and exceptions.empty else ""
        if len(exceptions) < len(numbers) / 2 and len(exceptions):
            words = f"{len(exceptions)} of its {len(numbers)} values are no numbers, such as {exceptions.iloc[0]!r}"
        return Read(known, Format("text"), words)
    if len(exceptions):
        examples = numbers[read.values.notna()]
        expected = "a number, as in the fit" if examples.empty else f"a number such as {examples.iloc[0]!r}"
        raise ValueError(_exception(cells, exceptions, expected))
    if read.problem:
        raise ValueError(f"Column {cells.name!r}: expected numbers of one kind; {read.problem}. Correct the column.")
    words = _number_in_words(read.unit, read.thousands, shown if shown != decimal else "")
    return Read(read.values, Format("number", read.unit), words)


def are_few(exceptions: int, cells: int) -> bool:
    """Return whether the exceptions among different cells are mistakes: less than a tenth of them, or one in five."""
    return exceptions < FEW_EXCEPTIONS * cells or (exceptions == 1 and cells >= 5)


def _number_in_words(unit: str, thousands: str, decimal: str) -> str:
    words = ["percent, as shares" if unit == "%" else f"in {unit}" if unit else ""]
    words += [f"{decimal!r} is decimal" if decimal else "", f"{thousands!r} separates thousands" if thousands else ""]
    return "; ".join(filter(None, words))


def _dates(known: pd.Series, decimal: str, like: Format | None, cells: pd.Series) -> Read | None:
    """Return different cells as dates, or None where they are none.

    Raises:
        ValueError: when a few are none.
    """
    if known.empty or (like is not None and like.kind != "date"):
        return None
    formats = _candidates(known)
    if like is not None:
        formats = [like.detail, *formats]
    parsed = {each: _parsed(known, each) for each in formats}
    found = [each for each in parsed if parsed[each].notna().all()]
    if not found:
        for dates in parsed.values():
            if are_few(int(dates.isna().sum()), len(known)):
                example = known[dates.notna()].iloc[0]
                raise ValueError(_exception(cells, known[dates.isna()], f"a date such as {example!r}"))
        return None
    if like is not None:
        return Read(parsed[found[0]], Format("date", found[0]), _order(found[0]))
    chosen = next((each for each in found if each.startswith("%d") and decimal == ","), found[0])
    words, others = _order(chosen), sorted({_order(each) for each in found} - {_order(chosen)})
    if others:
        words += f" ({others[0]} is possible as well; 2024-01-31 is clear)"
    return Read(parsed[chosen], Format("date", chosen), words)


def _candidates(known: pd.Series) -> list[str]:
    """Return the formats in which one of the first cells is a date."""
    if known.str.fullmatch(r"(?:19|20)\d{6}").all():
        return [COMPACT] if len(known) > 1 else []
    some = known.head(3)
    for form, cell in IN_PARTS.items():
        if some.str.fullmatch(cell).any():
            return [form]
    if some.str.fullmatch(ISO_CELL).any():
        return [ISO]
    if not some.str.contains(r"\d\D+\w+\D+\d|[A-Za-z]{3,}[ -]\d|^\d{1,2}/\d{4}$").any():
        return []
    return [each for each in FORMATS if _parsed(some, each).notna().any()]


def _parsed(known: pd.Series, form: str) -> pd.Series:
    """Return different cells as dates in UTC without a zone, missing where one is none in this format."""
    if form == "quarter":
        parts = known.str.extract(f"^(?:{QUARTER_CELL})$")
        years, quarters = parts["year"].fillna(parts["year_last"]), parts["quarter"].fillna(parts["quarter_first"])
        known, form = years + (3 * quarters.astype(float) - 2).astype("Int64").astype(str), "%Y%m"
    if form == "ISO week":  # of which a cell without a day is the Monday
        known = known.where(known.str.fullmatch(WEEK_CELL)).str.replace("-", "", regex=False)
        known, form = known.where(known.str.len() > 7, known + "1"), "%GW%V%u"
    if form == ISO:  # which pandas takes for more than is written here
        known = known.where(known.str.fullmatch(ISO_CELL))
    return pd.to_datetime(known, format=form, errors="coerce", utc=True).dt.tz_convert(None)


def _order(form: str) -> str:
    """Return the order of day, month and year in a format, in words, where it is not that of ISO 8601."""
    if form in (ISO, COMPACT):
        return ""
    if form in IN_PARTS:
        return form
    marks = [form[i : i + 2] for i, character in enumerate(form) if character == "%"]
    return "/".join(IN_WORDS[mark] for mark in marks if mark in IN_WORDS)


def _unit(unit: str) -> str:
    return "in percent" if unit == "%" else f"in {unit}" if unit else "without a percent sign"


def _exception(cells: pd.Series, exceptions: pd.Series, expected: str) -> str:
    """Return the error message for cells that are not like the others."""
    at = np.flatnonzero(cells.isin(exceptions))
    more = f" ({len(at)} such cells)" if len(at) > 1 else ""
    return (
        f"Column {cells.name!r}, {place_of(cells, int(at[0]))}: expected {expected}; got {cells.iloc[at[0]]!r}{more}. "
        f"Correct it, or leave it empty if it is missing."
    )


def decimal_of_file(columns: Mapping[str, pd.Series], separator: str) -> tuple[str, str]:
    """Return the decimal separator of a file, and in words how it was recognised, where it is a comma.

    It is the one that numbers show in more columns. Where they show none, a comma is decimal unless commas separate
    fields, so that numbers with commas have quotes.
    """
    known = [pd.Series(cells.str.strip().unique()).head(SEEN) for cells in columns.values()]
    shown = [decimal_of(cells) for cells in known]
    if shown.count(",") > shown.count("."):
        return ",", "Decimal comma."
    if not any(shown) and separator != "," and any(map(is_ambiguous, known)):
        return ",", "A comma is taken to be decimal (1,234 is 1.234), as it does not separate fields."
    return ".", ""
