"""From a file of separated values to a data frame of numbers, dates and texts.

Python's `csv` splits records, since it knows their lines; pandas reads the values of each column.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import pandas as pd

from .cells import Format, decimal_of_file, read_cells
from .dialect import SAMPLE_LINES, SEPARATORS, Dialect
from .encoding import encoding_of

MOST_CELLS = 10_000_000
"""The number of values, rows times columns, that are read; a table with more needs `rows`. It takes some 2 GB."""
MOST_COLUMNS = 10_000


@dataclass(frozen=True)
class Sheet:
    """A table that was read from a file."""

    title: str
    """The name of the file."""
    frame: pd.DataFrame
    """Numbers, dates and texts; the index is the number of the line where each row begins."""
    formats: Mapping[str, Format]
    """How the cells of each column were read."""
    notes: Mapping[str, str]
    """The same in words, where that is not plain, by column."""
    words: tuple[str, ...]
    """What was recognised, in sentences: encoding, separator, header, lines that were left out."""


def read_csv(
    path: str | PathLike[str],
    *,
    separator: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    has_header: bool | None = None,
    rows: int | None = None,
    like: Mapping[str, Format] | None = None,
) -> Sheet:
    r"""Return the table of a file of separated values.

    Encoding, separator, quotes, header, comments and the decimal separator are recognised unless they are given, and so
    is what each column contains: numbers, also with separated thousands, currencies and percent signs, dates, or text.

    Args:
        path: the file.
        separator: the separator of fields, such as ``";"``.
        encoding: the name of an encoding that Python knows, such as ``"latin-1"``.
        decimal: the decimal separator, "." or ",".
        has_header: whether the first record has the names of the columns.
        rows: the number of rows to read, from the first; by default all.
        like: the formats of the columns of a fit, as which new rows are read.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not a table, with the line, the column and the cure; or has more than `MOST_CELLS` values
            or `MOST_COLUMNS` columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prices.csv"
        ...     _ = path.write_bytes("Größe;Preis\n1,5;1.200 €\n2,25;?\n".encode("cp1252"))
        ...     sheet = read_csv(path)
        >>> print(sheet.frame.reset_index())
           line  Größe   Preis
        0     2   1.50  1200.0
        1     3   2.25     NaN
        >>> print(*sheet.words, dict(sheet.notes)["Preis"], sep="\n")
        Encoding: Windows-1252, as it is not UTF-8.
        Separator: semicolon.
        Decimal comma.
        in €; '.' separates thousands
    """
    path = Path(path)
    check_path(path)
    if separator is not None and (len(separator) != 1 or separator in "\n\r"):
        raise ValueError(f"Expected one character as separator; got {separator!r}.")
    used, words = (encoding, "") if encoding is not None else encoding_of(path)
    remarks = [f"Encoding: {words}."] if words not in ("", "UTF-8") else []
    try:
        with path.open(encoding=used, newline="") as file:
            lines = list(itertools.islice(file, SAMPLE_LINES))
            if not any(line.strip() for line in lines):
                raise ValueError(f"{path.name} is empty. Expected a header and rows.")
            dialect = Dialect.of(lines, separator, has_header)
            records = _records(path.name, dialect, itertools.chain(lines, file), rows)
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"{path.name} cannot be read in the encoding {used}: {error}. Give another one.") from None
    names, numbers, fields, notes = _table(path.name, dialect, *records)
    cells = {
        name: pd.Series(column, numbers, name=name, dtype=object)
        for name, column in zip(names, zip(*fields, strict=True), strict=True)
    }
    mark, why = (decimal, "") if decimal is not None else decimal_of_file(cells, dialect.separator)
    read = {name: read_cells(column, mark, (like or {}).get(name)) for name, column in cells.items()}
    frame = pd.DataFrame({name: column.values for name, column in read.items()}, numbers)
    if dialect != Dialect(has_header=dialect.has_header) or not dialect.has_header:
        remarks.append(dialect.words)
    remarks += [why] * bool(why) + notes
    formats = {name: column.format for name, column in read.items()}
    return Sheet(path.name, frame, formats, {name: column.words for name, column in read.items()}, tuple(remarks))


def check_path(path: Path) -> None:
    """Raise an error with the cure unless a path is that of a file.

    Raises:
        OSError: when there is no such file, or it is a folder.
        ValueError: when it is an address.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(f"{path} is an address, not a file. Download it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give one of its files.")
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}.")


def _records(title: str, dialect: Dialect, lines: Iterable[str], rows: int | None) -> tuple[list[int], list[list[str]]]:
    """Return the lines and the fields of all records, the header first, within the bounds.

    Raises:
        ValueError: when there are too many values or columns.
    """
    numbers, records, num_cells = list[int](), list[list[str]](), 0
    most = None if rows is None else rows + dialect.has_header
    for number, record in itertools.islice(dialect.records(iter(lines)), most):
        num_cells += len(record)
        if len(record) > MOST_COLUMNS:
            raise ValueError(f"{title}: expected at most {MOST_COLUMNS:,} columns; got {len(record):,}. Choose some.")
        if num_cells > MOST_CELLS:
            raise ValueError(
                f"{title}: expected at most {MOST_CELLS:,} values; it has more than {len(records):,} rows of "
                f"{len(record)}. Read fewer by rows={len(records) - 1}, or choose columns."
            )
        numbers.append(number)
        records.append(record)
    return numbers, records


def _table(
    title: str, dialect: Dialect, numbers: list[int], records: list[list[str]]
) -> tuple[list[str], pd.Index, list[list[str]], list[str]]:
    """Return names, lines of rows and rows of equal length, and sentences on what was left out.

    Raises:
        ValueError: when there are no rows, rows differ in length, or names are repeated.
    """
    header, first = dialect.names, numbers[:1]
    if dialect.has_header and records:
        header, numbers, records = tuple(records[0]), numbers[1:], records[1:]
    if not records:
        raise ValueError(f"{title} has no rows{', only a header' if header else ''}.")
    lengths, notes = Counter(map(len, records)), list[str]()
    width = lengths.most_common(1)[0][0]
    if header is not None and len(header) != width:
        header, records, width, notes = _widened(header, records, width)
        if len(header) != width:
            raise ValueError(
                f"{title}, line {first[0]}: expected the names of {width} columns, as the rows have {width} fields; "
                f"got {len(header)}: {dialect.separator.join(header)[:60]!r}. Give each column a name, and delete what "
                f"stands before the header."
            )
    for number, record in zip(numbers, records, strict=True):
        if len(record) != width:
            raise ValueError(_ragged(title, number, record, width, dialect, header is not None))
    names, words = _names(title, header, width)
    return names, pd.Index(numbers, name="line"), records, [*notes, *words]


def _widened(
    header: tuple[str, ...], records: list[list[str]], width: int
) -> tuple[tuple[str, ...], list[list[str]], int, list[str]]:
    """Return header and rows where one of them has a field more than the other, and a sentence on it."""
    if width == len(header) + 1 > 2:
        if all(len(record) < width or not record[-1].strip() for record in records):
            cut = [record[:-1] if len(record) == width else record for record in records]
            return header, cut, width - 1, ["The separator at the end of each row is left out."]
        return ("", *header), records, width, ["The header has no name for the first column."]
    named = len(header)
    while named > width and not header[named - 1].strip():
        named -= 1
    return header[:named], records, width, []


def _ragged(title: str, number: int, record: list[str], width: int, dialect: Dialect, has_header: bool) -> str:
    """Return the error message for a row that is longer or shorter than the others."""
    name = SEPARATORS.get(dialect.separator, repr(dialect.separator))
    like = "as in the header" if has_header else "as in most rows"
    text = dialect.separator.join(record)
    cure = (
        f"Text that contains a {name} needs quotes around it" if len(record) > width else f"A {name} may be missing"
    ).replace("a blanks", "blanks")
    return (
        f"{title}, line {number}: expected {width} fields, {like}; got {len(record)}: {text[:60]!r}. {cure}; if "
        f"another character separates the fields, give it as the separator."
    )


def _names(title: str, header: tuple[str, ...] | None, width: int) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and sentences on those that are made up."""
    if header is None:
        return [f"column {i}" for i in range(1, width + 1)], []
    stripped = [name.strip() for name in header]
    unnamed = [i for i, name in enumerate(stripped, 1) if not name]
    names = [name or f"column {i}" for i, name in enumerate(stripped, 1)]
    first: dict[str, int] = {}
    for i, name in enumerate(names, 1):
        if name in first:
            raise ValueError(
                f"{title}: expected a name of its own for each column; columns {first[name]} and {i} are both named "
                f"{name!r}. Rename one of them."
            )
        first[name] = i
    if not unnamed:
        return names, []
    made = ", ".join(f"'column {i}'" for i in unnamed[:5]) + ", ..." * (len(unnamed) > 5)
    return names, [f"Columns without a name in the header: {made}."]
