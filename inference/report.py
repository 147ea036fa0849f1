"""The printer of all tables: a data frame and notes, as text and as HTML."""

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd


WIDTH = 120
"""The width in characters of a table and its notes."""
GAP = "  "
"""The separator of columns, and the indent of a wrapped line."""

type Columns = Mapping[str, tuple[str, str]]
"""Column -> (heading, format)."""


def columns_of(frame: "pd.DataFrame", number: str) -> Columns:
    """Return all columns of a frame under their own names, with one format for real numbers."""
    from pandas.api.types import is_float_dtype

    return {str(name): (str(name), number if is_float_dtype(frame[name]) else "{}") for name in frame}


@dataclass(frozen=True)
class Report:
    """A printed table: words aligned left and wrapped if the table is too wide, numbers aligned right."""

    frame: "pd.DataFrame"
    """Unrounded; its index is the first column."""
    columns: Columns
    """The columns to print, in this order; columns that the frame lacks are skipped."""
    notes: Collection[str] = ()
    """Sentences below the table."""
    printed_nan: Collection[Any] = field(default=(), kw_only=True)
    """Columns in which NaN is printed; in the others it is a blank."""

    def __str__(self) -> str:
        rows = self._rows()
        widths = self._widths(rows)
        lines = []
        for row in rows:
            cells = [
                textwrap.wrap(cell, width, subsequent_indent=GAP) if is_words else [cell]
                for cell, width, is_words in zip(row, widths, self._is_words, strict=True)
            ]
            for parts in zip_longest(*cells, fillvalue=""):
                padded = (
                    part.ljust(width) if is_words else part.rjust(width)
                    for part, width, is_words in zip(parts, widths, self._is_words, strict=True)
                )
                lines.append(GAP.join(padded).rstrip())
        notes = [textwrap.fill(note, WIDTH) for note in self.notes]
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def html(self) -> str:
        """Return the table and its notes as HTML, escaped."""

        def line(row: tuple[str, ...], tag: str) -> str:
            cells = []
            for i, (cell, is_words) in enumerate(zip(row, self._is_words, strict=True)):
                kind, side = "th" if i == 0 else tag, "left" if is_words else "right"
                cells.append(f'<{kind} style="text-align: {side}">{escape(cell)}</{kind}>')
            return f"<tr>{''.join(cells)}</tr>"

        head, *body = self._rows()
        table = (
            f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in body)}</tbody></table>"
        )
        notes = "<br>".join(map(escape, self.notes))
        return f"{table}<p>{notes}</p>" if notes else table

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the table as strings, the headings first."""
        index = [str(self.frame.index.name or ""), *map(str, self.frame.index)]
        return list(zip(index, *(self._cells(name) for name in self._shown), strict=True))

    def _cells(self, column: str) -> list[str]:
        import pandas as pd

        heading, form = self.columns[column]
        blank = column not in self.printed_nan
        return [heading, *("" if blank and pd.isna(v) else form.format(v) for v in self.frame[column])]

    @property
    def _shown(self) -> list[str]:
        return [name for name in self.columns if name in self.frame]

    @property
    def _is_words(self) -> list[bool]:
        """Whether the index, then each column, contains words."""
        from pandas.api.types import is_numeric_dtype

        types = [self.frame.index.dtype, *(self.frame[name].dtype for name in self._shown)]
        return [not is_numeric_dtype(dtype) for dtype in types]

    def _widths(self, rows: list[tuple[str, ...]]) -> list[int]:
        """Return the width of each column: that of its cells, or less if columns of words are wrapped between words."""
        columns = list(zip(*rows, strict=True))
        widths = [max(map(len, cells)) for cells in columns]
        least = [max(len(cells[0]), *map(_least_width, cells)) for cells in columns]
        while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH:
            narrowable = [i for i, is_words in enumerate(self._is_words) if is_words and widths[i] > least[i]]
            if not narrowable:
                break
            widths[max(narrowable, key=lambda i: widths[i])] -= 1
        return widths


class Printed(ABC):
    """A result that prints as a table, in a terminal and in a notebook."""

    @property
    @abstractmethod
    def _report(self) -> Report:
        """The table that is printed."""

    def __str__(self) -> str:
        return str(self._report)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._report.html()


def _least_width(cell: str) -> int:
    """Return the least width in which a cell is wrapped without breaking a word."""
    first, *others = map(len, cell.split() or [""])
    return max(first, *(len(GAP) + length for length in others), len(GAP) + 1)
