"""Tables: from a file to standardised rows, with remarks on every step."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

LIKELIHOODS = ("bernoulli", "categorical", "normal")
MOST_CLASSES = 20
"""An integer target with more distinct values than this is numeric, not a class."""


class Split(NamedTuple):
    """Standardised rows, to fit or to test."""

    x: pd.DataFrame
    y: np.ndarray


@dataclass(frozen=True)
class Table:
    """Features, a target, and the likelihood of the target.

    Args:
        title: the name of the table.
        features: numbers, one column per feature.
        target: codes of classes, or numbers.
        likelihood: one of `LIKELIHOODS`.
        classes: the classes in the order of their codes; empty for a numeric target.
        remarks: sentences on what was inferred and done.
    """

    title: str
    features: pd.DataFrame
    target: np.ndarray
    likelihood: str
    classes: tuple[str, ...]
    remarks: tuple[str, ...]

    def split(self, held_out: float, seed: int) -> tuple[Split, Split]:
        """Split the rows at random into training and test rows, both standardised by the training rows.

        Raises:
            ValueError: when there would be no training row, or fewer than two test rows.
        """
        num_rows = len(self.target)
        num_test = round(held_out * num_rows)
        if not 2 <= num_test < num_rows:
            raise ValueError(
                f"Expected --held-out to give at least two test rows and one training row out of {num_rows}; got "
                f"{held_out}."
            )
        order = np.random.default_rng(seed).permutation(num_rows)
        test, train = order[:num_test], order[num_test:]
        scale = self.features.iloc[train].std(ddof=0)
        features = (self.features - self.features.iloc[train].mean()) / scale.where(scale > 0, 1.0)
        target = self.target
        if self.likelihood == "normal":
            target = (target - target[train].mean()) / target[train].std()
        return Split(features.iloc[train], target[train]), Split(features.iloc[test], target[test])


def example(likelihood: str | None = None) -> Table:
    """Return scikit-learn's diabetes table (Efron et al. 2004): 442 patients, ten features, progression in a year."""
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    return _table("scikit-learn's diabetes", frame, "target", likelihood)


def read_csv(path: Path, target: str, likelihood: str | None = None) -> Table:
    """Read a table from a file of comma-separated values.

    Raises:
        OSError: when the file does not exist.
        ValueError: when the target is not a column, values are missing, or the target does not suit the likelihood.
    """
    return _table(path.name, pd.read_csv(path), target, likelihood)


def _table(title: str, frame: pd.DataFrame, target: str, likelihood: str | None) -> Table:
    if target not in frame:
        raise ValueError(f"{title} has no column {target!r}; its columns are {list(frame)}.")
    missing = frame.columns[frame.isna().any()].tolist()
    if missing:
        rows = int(frame.isna().any(axis=1).sum())
        raise ValueError(f"{title}: values are missing in {rows} rows, in the columns {missing}. Drop or impute them.")
    features = frame.drop(columns=target)
    if features.empty:
        raise ValueError(f"{title} has no columns besides the target {target!r}.")
    remarks = []
    text = features.select_dtypes(exclude=["number", "bool"]).columns.tolist()
    if text:
        remarks.append(f"Columns of text, encoded as one feature per value: {text}.")
    features = pd.get_dummies(features, columns=text).astype(float)
    constant = features.columns[features.nunique() < 2].tolist()
    if constant:
        remarks.append(f"Constant columns, left out: {constant}.")
        features = features.drop(columns=constant)
    values, classes, likelihood, why = _target(frame[target], likelihood)
    remarks.insert(0, why)
    return Table(title, features, values, likelihood, classes, tuple(remarks))


def _target(column: pd.Series, likelihood: str | None) -> tuple[np.ndarray, tuple[str, ...], str, str]:
    """The target as codes or numbers, its classes, its likelihood, and a sentence that gives the reason."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    count = column.nunique()
    if count < 2:
        raise ValueError(f"The target {column.name!r} has one value only: {column.iloc[0]!r}.")
    integers = numeric and bool((column == column.round()).all())
    how = f"inferred from the target {column.name!r}: {count} values" if likelihood is None else "as requested"
    if likelihood is None:
        classes_like = not numeric or (integers and count <= MOST_CLASSES)
        likelihood = "normal" if not classes_like else "bernoulli" if count == 2 else "categorical"
    if likelihood == "normal":
        if not numeric:
            raise ValueError(f"--likelihood normal: the target {column.name!r} is not numeric; got {column.iloc[0]!r}.")
        unit = f"standard deviations of {column.name!r} ({column.std(ddof=0):.4g})"
        return column.to_numpy(float), (), likelihood, f"Likelihood: normal ({how}); y in {unit}."
    if likelihood == "bernoulli" and count != 2:
        raise ValueError(f"--likelihood bernoulli: the target {column.name!r} has {count} values, not 2.")
    if count > len(column) / 2:
        raise ValueError(
            f"--likelihood {likelihood}: the target {column.name!r} has {count} values in {len(column)} rows."
        )
    codes, values = pd.factorize(column, sort=True)
    classes = tuple(map(str, values))
    names = ", ".join(f"{i} = {value}" for i, value in enumerate(classes))
    return codes.astype(int), classes, likelihood, f"Likelihood: {likelihood} ({how}); {names}."
