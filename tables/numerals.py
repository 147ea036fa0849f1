"""Numbers as people write them: with decimal commas, separated thousands, currencies and percent signs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

SYMBOLS = "$€£¥₹₽₩"
CODES = r"USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|SGD|HKD|Fr\.|kr|zł"
CURRENCY = f"[{SYMBOLS}]|{CODES}"
NUMERAL = re.compile(
    rf"(?P<open>\()?(?P<sign>[+\-\u2212])?\s*(?P<before>{CURRENCY})?\s*(?P<inner>[+\-\u2212])?"
    r"(?P<number>(?:\d[\d.,'’_ \u00a0\u202f]*|[.,]\d+)(?:[eE][+-]?\d+)?)"
    rf"\s*(?P<after>%|{CURRENCY})?(?P<close>\))?"
)
"""A number with what may stand around it; parentheses mean a minus."""
THOUSANDS = {".": ",'’_ \u00a0\u202f", ",": ".'’_ \u00a0\u202f"}
"""Decimal separator -> the characters that may separate thousands."""
PLAIN = {mark: rf"(?:\d+(?:{re.escape(mark)}\d*)?|{re.escape(mark)}\d+)(?:[eE][+-]?\d+)?" for mark in THOUSANDS}
GROUPED = {
    mark: rf"\d{{1,3}}(?:(?P<group>[{others}])\d{{3}})(?:(?P=group)\d{{3}})*(?:{re.escape(mark)}\d*)?"
    for mark, others in THOUSANDS.items()
}
SHAPES = {mark: re.compile(f"{PLAIN[mark]}|{GROUPED[mark]}") for mark in THOUSANDS}
"""Decimal separator -> what a number looks like."""

BLANKS = re.compile("['’_ \u00a0\u202f]")
DECIMAL = {
    mark[-1]: re.compile(
        rf"(?:\d*{mark}(?:\d{{0,2}}|\d{{4,}})|0{mark}\d+|\d{{4,}}{mark}\d+|\d{{1,3}}(?:{other}\d{{3}})+{mark}\d+)"
        r"(?:[eE][+-]?\d+)?"
    )
    for mark, other in ((r"\.", ","), (",", r"\."))
}
"""Decimal separator -> numbers that show it."""
SEVERAL = {".": re.compile(r"\d{1,3}(?:,\d{3}){2,}"), ",": re.compile(r"\d{1,3}(?:\.\d{3}){2,}")}
"""Decimal separator -> numbers in which the other character separates thousands."""


@dataclass(frozen=True)
class Numerals:
    """Cells that were read as numbers."""

    values: pd.Series
    """A number for each cell, NaN where it is none."""
    unit: str
    """The currency of the numbers, "%" where they were percent and are now shares, or nothing."""
    thousands: str
    """The character between thousands, or nothing."""
    is_code: bool
    """Whether some begin with a zero, as postal codes do, so that they are no numbers."""
    problem: str = ""
    """Why they are not numbers of one kind, in words."""


def numerals(cells: pd.Series, decimal: str) -> Numerals:
    """Return the numbers that different texts stand for, by text.

    Args:
        cells: texts, without blanks around them.
        decimal: the decimal separator, "." or ",".
    """
    quick = pd.to_numeric(cells, errors="coerce").astype(float)
    if decimal == "." and np.isfinite(quick).all() and not cells.str.contains("_", regex=False).any():
        return Numerals(quick, "", "", bool(cells.str.fullmatch(r"0\d+").any()))
    parts = cells.str.extract(f"^{NUMERAL.pattern}$")
    number, shape = parts["number"].str.rstrip(), SHAPES[decimal]
    fits = pd.Series([isinstance(text, str) and bool(shape.fullmatch(text)) for text in number], number.index)
    fits &= parts["open"].notna() == parts["close"].notna()
    thousands = f"[{THOUSANDS[decimal]}]"
    used = number[fits].str.extract(rf"\d({thousands})\d")[0].dropna().unique()
    plain = number.where(fits).str.replace(thousands, "", regex=True).str.replace(decimal, ".", regex=False)
    values = pd.to_numeric(plain, errors="coerce").astype(float)
    minus = parts[["sign", "inner"]].isin(["-", "\u2212"]).any(axis=1) | parts["open"].notna()
    units = set(parts.loc[fits, "before"].dropna()) | set(parts.loc[fits, "after"].dropna())
    problem = f"the units {', '.join(sorted(units))} are mixed" if len(units) > 1 else ""
    if units == {"%"}:
        values = values / 100
        problem = "" if parts.loc[fits, "after"].notna().all() else "some are percent and others are not"
    is_code = bool(number[fits].str.fullmatch(r"0\d+").any()) and not units
    unit = next(iter(units), "")
    return Numerals(values.where(~minus, -values), unit, "".join(map(str, used[:1])), is_code, problem)


def decimal_of(cells: Iterable[str]) -> str | None:
    """Return the decimal separator that texts show, "." or ","; None where they show none, or both.

    It shows where other than three digits follow it, or where both characters occur in one number: in ``1,234`` a comma
    may separate thousands. Where one of them occurs several times in a number, the other one is decimal.
    """
    found = [match["number"] for match in map(NUMERAL.fullmatch, cells) if match]
    numbers = [BLANKS.sub("", number) for number in found if "," in number or "." in number]
    shown = [mark for mark, pattern in DECIMAL.items() if any(map(pattern.fullmatch, numbers))]
    if not shown:
        shown = [mark for mark, pattern in SEVERAL.items() if any(map(pattern.fullmatch, numbers))][:1]
    return shown[0] if len(shown) == 1 else None


def is_ambiguous(cells: pd.Series) -> bool:
    """Return whether some texts are numbers with a comma that may be decimal or separate thousands."""
    return bool(cells.str.fullmatch(r"[+-]?\d{1,3},\d{3}").any())
