"""What long benchmarks measured, fit by fit, in a file: a run that is started again continues."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

Numbers = dict[str, Any]


class Cells:
    """Numbers by name of a table and of a cell of it, in a file of JSON that is written after each cell.

    Args:
        path: the file; None keeps the numbers in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.tables: dict[str, dict[str, Numbers]] = (
            json.loads(path.read_text()) if path is not None and path.exists() else {}
        )

    def get(self, table: str, row: str, key: int, run: Callable[[], Numbers]) -> Numbers:
        """Return the numbers of one key of a row, which are measured where the file has none, and print them."""
        cells, name = self.tables.setdefault(table, {}), f"{row}, key {key}"
        if name not in cells:
            cells[name] = run()
            if self.path is not None:
                self.path.write_text(json.dumps(self.tables, indent=1))
        rounded = {
            word: round(x, 4) if isinstance(x, float) else x for word, x in cells[name].items() if word != "log_probs"
        }
        print(f"{table}, {name}: {rounded}", flush=True)
        return cells[name]

    def row(self, table: str, row: str) -> list[Numbers]:
        """Return the numbers of a row that are there, by key."""
        return [cell for name, cell in self.tables.get(table, {}).items() if name.rpartition(", key ")[0] == row]


def print_table(cells: Cells, table: str, rows: Iterable[str], digits: dict[str, int]) -> None:
    """Print a table of means over keys, with standard errors of these.

    Args:
        cells: what was measured.
        table: the name of the table.
        rows: the names of its rows.
        digits: the columns, and the digits of each after the point.
    """
    print(f"\n{table}\n\n| method | keys | {' | '.join(digits)} |\n|{'---|' * (len(digits) + 2)}")
    for row in rows:
        found = cells.row(table, row)
        words = [mean_and_error([one[name] for one in found if name in one], digits[name]) for name in digits]
        print(f"| {row} | {len(found)} | {' | '.join(words)} |")


def mean_and_error(values: list[float], digits: int) -> str:
    """Return a mean in words, and its standard error where there are several values."""
    if not values:
        return ""
    error = f" ({np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f})" if len(values) > 1 and digits else ""
    return f"{np.mean(values):.{digits}f}{error}"
