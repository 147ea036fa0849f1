"""How a file of separated values is written: separator, quotes, comments, header.

The separator is the one under which the first records look most like a table: the share of records with the most
frequent number of fields, times the share of fields that are not themselves cut by another separator (after the
consistency measure of van den Burg, Nazábal & Sutton 2019, "Wrangling messy CSV files by detecting row and type
patterns").
"""

import contextlib
import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from .cells import MISSING
from .numerals import NUMERAL

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar", " ": "blanks"}
"""The separators that are tried, and their names; blanks only where no other one occurs."""
SAMPLE_LINES = 500
"""The number of lines by which the dialect is recognised."""
COMMENT = "#"
NUMBER = re.compile(NUMERAL.pattern)
LOOKS_LIKE_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*")


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    separator: str = ","
    quote: str = '"'
    has_comments: bool = False
    """Whether lines that begin with ``#`` are comments."""
    skipped: int = 0
    """The number of lines before the table."""
    has_header: bool = True
    names: tuple[str, ...] | None = None
    """The header where it is a comment, as NumPy writes it."""

    @classmethod
    def of(cls, lines: Sequence[str], separator: str | None = None, has_header: bool | None = None) -> Self:
        """Return the dialect of a table by its first lines.

        Args:
            lines: the lines.
            separator: the separator; by default it is recognised.
            has_header: whether the first record has the names of the columns; by default it is recognised.
        """
        skipped = 0
        if match := re.fullmatch(r"\s*[\"']?sep=(.)[\"']?\s*", lines[0].strip("\r\n")):  # as Excel writes it
            skipped, separator = 1, separator or match[1]
        rest = [line for line in lines[skipped:] if line.strip()]
        block = list(itertools.takewhile(lambda line: line.lstrip().startswith(COMMENT), rest))
        rest = rest[len(block) :]
        comments = [line.lstrip().startswith(COMMENT) for line in rest]
        has_comments = bool(block and rest) or (any(comments) and sum(comments) < len(rest) / 2)
        if has_comments:
            rest = [line for line, is_comment in zip(rest, comments, strict=True) if not is_comment]
        else:
            rest = [*block, *rest]
        quote = quote_of(rest)
        sep = separator or separator_of(rest, quote)
        draft = cls(sep, quote, has_comments, skipped)
        records = draft.sample(rest)
        if has_header is None:
            has_header = is_header(records)
        if not has_header and block and has_comments:
            names = next(iter(draft.sample([block[-1].lstrip().removeprefix(COMMENT)])), [])
            if records and len(names) == len(records[0]) > 1:
                return replace(draft, has_header=False, names=tuple(names))
        return replace(draft, has_header=has_header)

    @property
    def words(self) -> str:
        """The dialect in words."""
        parts = [f"Separator: {SEPARATORS.get(self.separator, repr(self.separator))}"]
        parts += ["quotes: '"] * (self.quote == "'")
        parts += ["lines that begin with # are comments"] * self.has_comments
        if self.names is not None:
            parts.append("the header is the comment before the first row")
        elif not self.has_header:
            parts.append("no header: the first line looks like the others, so columns have numbers")
        return "; ".join(parts) + "."

    def records(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """Return the records of a file with the number of the line where each begins; empty ones are left out.

        Raises:
            ValueError: at a quotation mark without its partner.
        """
        source = Lines(lines, self)
        reader = csv.reader(source, strict=True, delimiter=self._delimiter, quotechar=self.quote)
        while True:
            source.is_start = True
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise ValueError(
                    f"Line {source.began}: a quotation mark ({self.quote}) has no partner, or text follows it "
                    f"({error}). Inside quoted text, double it."
                ) from None
            if record is None:
                return
            if any(field.strip() for field in record):
                yield source.began, record

    def sample(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the records of some lines, the last of which may be cut."""
        source = Lines(iter(lines), replace(self, skipped=0, has_comments=False))
        reader = csv.reader(source, delimiter=self._delimiter, quotechar=self.quote)
        records = list[list[str]]()
        with contextlib.suppress(csv.Error):  # an open quote; `records` names its line
            records.extend(record for record in reader if any(field.strip() for field in record))
        return records

    @property
    def _delimiter(self) -> str:
        return "\t" if self.separator == " " else self.separator


class Lines:
    """The lines of a file for `csv.reader`: without comments, and with one separator in place of several blanks."""

    def __init__(self, lines: Iterator[str], dialect: Dialect) -> None:
        self.lines, self.dialect = lines, dialect
        self.number = self.began = 0
        self.is_start = True
        """Whether the next line begins a record; a line inside quotes does not, and is no comment."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        if self.is_start:
            self.began = self.number
        if self.number <= self.dialect.skipped:
            return "\n"
        if self.is_start and self.dialect.has_comments and line.lstrip().startswith(COMMENT):
            return "\n"
        self.is_start = False
        if self.dialect.separator == " ":
            return "\t".join(re.findall(r'"[^"]*"|\S+', line)) + "\n"
        return line


def separator_of(lines: Sequence[str], quote: str) -> str:
    """Return the separator under which lines look most like a table."""
    others = [separator for separator in SEPARATORS if separator != " "]
    scores = {separator: score(Dialect(separator, quote).sample(lines), separator) for separator in others}
    best = max(scores, key=lambda separator: scores[separator])
    if scores[best] > (0, 0):
        return best
    return " " if score(Dialect(" ", quote).sample(lines), " ") >= (0.95, 2) else ","


def score(records: list[list[str]], separator: str) -> tuple[float, int]:
    """Return how much records look like those of a table, from 0 to 1, and their most frequent number of fields."""
    counts = Counter(map(len, records))
    num_fields = max(counts, key=lambda count: counts[count], default=1)
    if num_fields < 2:
        return 0.0, 0
    others = re.compile("|".join(re.escape(other) for other in SEPARATORS if other not in (separator, " ")))
    fields = [field for record in records for field in record]
    whole = sum(NUMBER.fullmatch(field.strip()) is not None or not others.search(field) for field in fields)
    return counts[num_fields] / len(records) * whole / len(fields), num_fields


def quote_of(lines: Sequence[str]) -> str:
    """Return the quotation mark: a single one where fields have those and no double ones."""
    single = sum(bool(re.search(r"(?:^|[,;\t|])\s*'[^']*'\s*(?:$|[,;\t|])", line.strip())) for line in lines)
    return "'" if single > len(lines) / 2 and not any('"' in line for line in lines) else '"'


def is_header(records: list[list[str]]) -> bool:
    """Return whether the first record has the names of the columns, and not values like those below it.

    It has names where a field is text above numbers or dates, or above text that recurs while it does not, and where
    the fields above numbers are years, or the positions of the columns, in their order. Where all columns are text, it
    has values if each recurs below.
    """
    if len(records) < 2:
        return True
    first, *others = records
    columns = list(zip(*[record for record in others if len(record) == len(first)], strict=True))
    if len(columns) != len(first):
        return True
    pairs = [(name.strip(), column) for name, column in zip(first, columns, strict=True)]
    values = [(name, column) for name, column in pairs if _share_of_values(column) > 0.5]
    texts = [
        (name, Counter(field.strip() for field in column)) for name, column in pairs if (name, column) not in values
    ]
    if not values:
        return not all(name in column for name, column in texts)
    if not all(_is_value(name) or name.lower() in MISSING for name, _ in values) or _are_positions(first):
        return True
    new = [column for name, column in texts if name not in column]
    years = [name for name, _ in values]
    are_years = all(re.fullmatch("(?:1[89]|20)[0-9]{2}", name) for name in years) and years == sorted(set(years))
    return any(max(column.values()) > 1 for column in new) or (bool(new) and are_years)


def _are_positions(names: Sequence[str]) -> bool:
    """Return whether names are 0, 1, ... or 1, 2, ..., as pandas writes them, also after that of an unnamed index."""
    numbers = list(names) if names[0].strip() else list(names[1:])
    return len(numbers) > 2 and numbers in ([str(i + start) for i in range(len(numbers))] for start in (0, 1))


def _share_of_values(column: Sequence[str]) -> float:
    known = [field.strip() for field in column if field.strip().lower() not in MISSING]
    return sum(map(_is_value, known)) / len(known) if known else 0.0


def _is_value(field: str) -> bool:
    return bool(NUMBER.fullmatch(field) or LOOKS_LIKE_DATE.fullmatch(field))
