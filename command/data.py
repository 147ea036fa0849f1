"""The table of a command: features, a target and weights, split into rows to fit and rows to test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..inference.report import Report
from ..tables.encoder import Encoder, check_column
from ..tables.reading import Sheet
from ..tables.target import Target

MOST_PRINTED = 40
"""A table with more columns than this is printed without the numbers that are used as they are."""


class Rows(NamedTuple):
    """Rows to fit or to test: features, and the target in its own units, NaN where it is missing."""

    x: pd.DataFrame
    y: np.ndarray
    weights: np.ndarray | None = None

    @property
    def labelled(self) -> tuple[pd.DataFrame, np.ndarray]:
        """The rows that have a target."""
        has_label = ~np.isnan(self.y)
        y = self.y[has_label]
        return self.x[has_label], y.astype(int) if (y == np.round(y)).all() else y


@dataclass(frozen=True)
class Table:
    """A table with a target."""

    sheet: Sheet
    target: Target
    weights: str | None = None
    """The name of the column with the weight of each row."""
    keep: tuple[str, ...] = ()
    """The names of columns that are used although they look like identifiers."""
    drop: tuple[str, ...] = ()
    """The names of columns that are not used."""

    @property
    def features(self) -> pd.DataFrame:
        """The columns that may be features."""
        return self.sheet.frame.drop(columns=[self.target.name, *filter(None, [self.weights]), *self.drop])

    def split(self, held_out: float, seed: int) -> tuple[Encoder, Rows, Rows]:
        """Return the encoder of the training rows, these, and the test rows, drawn at random.

        Args:
            held_out: the share of test rows, from 0.
            seed: the seed of the draw.

        Raises:
            ValueError: when there would be no training row, or one test row.
        """
        num_rows = len(self.sheet.frame)
        num_test = round(held_out * num_rows)
        if not 0 <= num_test < num_rows or num_test == 1 or (held_out > 0 and not num_test):
            raise ValueError(
                f"Expected --held-out to give at least two test rows and one training row out of {num_rows}; got "
                f"{held_out}."
            )
        order = np.random.default_rng(seed).permutation(num_rows)
        test, train = (np.sort(part) for part in (order[:num_test], order[num_test:]))
        encoder = Encoder.fit(self.features.iloc[train], keep=self.keep)
        y, weights = self.target.values(self.sheet.frame[self.target.name]), self._weights()

        def rows(some: np.ndarray) -> Rows:
            x = encoder.transform(self.features.iloc[some])
            return Rows(x, y[some], None if weights is None else weights[some])

        return encoder, rows(train), rows(test)

    def _weights(self) -> np.ndarray | None:
        if self.weights is None:
            return None
        weights = self.sheet.frame[self.weights]
        if self.sheet.formats[self.weights].kind != "number" or weights.isna().any() or (weights < 0).any():
            raise ValueError(f"The column {self.weights!r} has the weights of rows: expected a number from 0 in each.")
        return weights.to_numpy(float)

    @property
    def words(self) -> list[str]:
        """What is known of the table, in sentences."""
        missing = int(self.sheet.frame[self.target.name].isna().sum())
        words = [*self.sheet.words, self.target.words]
        note = self.sheet.notes.get(self.target.name)
        words += [f"The target is read as numbers: {note}."] * bool(note and not self.target.classes)
        missing_rows = "1 row, which is" if missing == 1 else f"{missing} rows, which are"
        words += [f"The target is missing in {missing_rows} left out."] * bool(missing)
        words += [f"Not used, as --drop says: {', '.join(map(repr, self.drop))}."] * bool(self.drop)
        return words + [f"Rows count by their weights in the column {self.weights!r}."] * (self.weights is not None)

    def described(self, encoder: Encoder) -> Report:
        """Return the table of what was done to each column."""
        frame = encoder.description
        frame["read as"] = [
            f"{kind} ({note})" if (note := self.sheet.notes.get(str(name))) else kind
            for name, kind in frame["read as"].items()
        ]
        is_plain = (frame["read as"] == "number") & (frame["done"] == "")
        notes = []
        if len(frame) > MOST_PRINTED:
            notes = [f"{int(is_plain.sum())} further columns are numbers, used as they are."] * bool(is_plain.any())
            frame = frame[~is_plain].head(MOST_PRINTED)
        columns = {"read as": ("read as", "{}"), "done": ("what is done", "{}"), "features": ("features", "{}")}
        return Report(frame, columns, notes)


def table_of(
    sheet: Sheet,
    target: str,
    likelihood: str | None = None,
    *,
    order: Sequence[str] = (),
    weights: str | None = None,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Table:
    """Return the table of a file.

    Args:
        sheet: the file.
        target: the column to predict.
        likelihood: one of `tables.target.LIKELIHOODS`, or None to infer it.
        order: the classes of an ordinal target, the lowest first.
        weights: the column with the weights of the rows, or None.
        keep: columns that are used although they look like identifiers.
        drop: columns that are not used.

    Raises:
        ValueError: when there are no such columns, or the target does not suit the likelihood.
    """
    try:
        for name in (target, *filter(None, [weights]), *keep, *drop):
            check_column(name, sheet.frame.columns)
    except ValueError as error:  # the reason may be how the file was read
        raise ValueError(" ".join([f"{sheet.title}: {error}", *sheet.words])) from None
    table = Table(sheet, Target.of(sheet.frame[target], likelihood, order), weights, tuple(keep), tuple(drop))
    if not len(table.features.columns):
        raise ValueError(f"{sheet.title} has no columns besides the target {target!r}.")
    return table


def example() -> Sheet:
    """Return scikit-learn's diabetes table (Efron et al. 2004): 442 patients, ten features, progression in a year."""
    from sklearn.datasets import load_diabetes

    from ..tables.cells import Format

    frame = load_diabetes(as_frame=True, scaled=False).frame
    formats = {str(name): Format("number") for name in frame}
    return Sheet("scikit-learn's diabetes", frame, formats, {}, ())
