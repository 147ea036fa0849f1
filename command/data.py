"""Tables: from a file to standardised rows, with remarks on every step."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

STANDARDISED = ("normal", "student-t")
"""Likelihoods of numbers that are modelled in standard deviations around their mean."""
POSITIVE = ("gamma", "log-normal", "weibull")
"""Likelihoods of positive numbers, modelled in units of their mean."""
COUNTS = ("poisson", "negative-binomial")
CLASSES = ("bernoulli", "categorical", "ordinal")
LIKELIHOODS = (*CLASSES, *STANDARDISED, *POSITIVE, *COUNTS, "beta")
VALUES = {
    **dict.fromkeys(POSITIVE, ("positive numbers", lambda y: y > 0)),
    **dict.fromkeys(COUNTS, ("counts, integers from 0", lambda y: (y >= 0) & (y == np.round(y)))),
    "beta": ("shares between 0 and 1, without both", lambda y: (y > 0) & (y < 1)),
}
"""Likelihood -> the values of its target, in words and as a predicate."""
MOST_CLASSES = 20
"""An integer target with more distinct values than this is numeric, not a class."""


class Split(NamedTuple):
    """Standardised rows, to fit or to test."""

    x: pd.DataFrame
    y: np.ndarray
    weights: np.ndarray | None = None


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
        weights: the weight of each row, (n,); None where every row counts once.
    """

    title: str
    features: pd.DataFrame
    target: np.ndarray
    likelihood: str
    classes: tuple[str, ...]
    remarks: tuple[str, ...]
    weights: np.ndarray | None = None

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
        if self.likelihood in STANDARDISED:
            target = (target - np.nanmean(target[train])) / np.nanstd(target[train])
        elif self.likelihood in POSITIVE:
            target = target / np.nanmean(target[train])
        weights = self.weights
        fitted, scored = (
            Split(features.iloc[rows], target[rows], None if weights is None else weights[rows])
            for rows in (train, test)
        )
        return fitted, scored


def example(likelihood: str | None = None) -> Table:
    """Return scikit-learn's diabetes table (Efron et al. 2004): 442 patients, ten features, progression in a year."""
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    return _table("scikit-learn's diabetes", frame, "target", likelihood)


def read_csv(path: Path, target: str, likelihood: str | None = None, weights: str | None = None) -> Table:
    """Read a table from a file of comma-separated values.

    Args:
        path: the file.
        target: the column to predict; rows in which it is missing are left out of fits and scores.
        likelihood: one of `LIKELIHOODS`, or None to infer it.
        weights: the column with the weights of the rows, or None.

    Raises:
        OSError: when the file does not exist.
        ValueError: when the target is not a column, values are missing, or the target does not suit the likelihood.
    """
    return _table(path.name, pd.read_csv(path), target, likelihood, weights)


def _table(title: str, frame: pd.DataFrame, target: str, likelihood: str | None, weights: str | None = None) -> Table:
    for column in (target, *([] if weights is None else [weights])):
        if column not in frame:
            raise ValueError(f"{title} has no column {column!r}; its columns are {list(frame)}.")
    features = frame.drop(columns=[target] if weights is None else [target, weights])
    missing = frame.columns[frame.isna().any()].drop(target, errors="ignore").tolist()
    if missing:
        rows = int(frame[missing].isna().any(axis=1).sum())
        raise ValueError(f"{title}: values are missing in {rows} rows, in the columns {missing}. Drop or impute them.")
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
    unlabelled = int(frame[target].isna().sum())
    if unlabelled:
        remarks.append(f"The target is missing in {unlabelled} rows, which are left out.")
    if weights is None:
        return Table(title, features, values, likelihood, classes, tuple(remarks))
    remarks.append(f"Rows count by their weights in the column {weights!r}.")
    return Table(title, features, values, likelihood, classes, tuple(remarks), frame[weights].to_numpy(float))


def _target(column: pd.Series, likelihood: str | None) -> tuple[np.ndarray, tuple[str, ...], str, str]:
    """The target as codes or numbers, its classes, its likelihood, and a sentence that gives the reason.

    Missing values are NaN.
    """
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    count = column.nunique()
    if count < 2:
        raise ValueError(f"The target {column.name!r} has one value only: {column.iloc[0]!r}.")
    given = column.dropna()
    integers = numeric and bool((given == given.round()).all())
    how = f"inferred from the target {column.name!r}: {count} values" if likelihood is None else "as requested"
    if likelihood is None:
        classes_like = not numeric or (integers and count <= MOST_CLASSES)
        likelihood = "normal" if not classes_like else "bernoulli" if count == 2 else "categorical"
    if likelihood not in CLASSES:
        if not numeric:
            raise ValueError(
                f"--likelihood {likelihood}: the target {column.name!r} is not numeric; got {given.iloc[0]!r}."
            )
        return column.to_numpy(float), (), likelihood, f"Likelihood: {likelihood} ({how}){_units(given, likelihood)}."
    if likelihood == "bernoulli" and count != 2:
        raise ValueError(f"--likelihood bernoulli: the target {column.name!r} has {count} values, not 2.")
    if count > len(given) / 2:
        raise ValueError(
            f"--likelihood {likelihood}: the target {column.name!r} has {count} values in {len(given)} rows."
        )
    codes, values = pd.factorize(column, sort=True)
    classes = tuple(map(str, values))
    names = ", ".join(f"{i} = {value}" for i, value in enumerate(classes))
    labels = codes.astype(int) if len(given) == len(column) else np.where(codes < 0, np.nan, codes)
    return labels, classes, likelihood, f"Likelihood: {likelihood} ({how}); {names}."


def _units(given: pd.Series, likelihood: str) -> str:
    """Return the units in which a numeric target is modelled, in words.

    Raises:
        ValueError: when it has values that the likelihood does not allow.
    """
    if likelihood in STANDARDISED:
        return f"; y in standard deviations of {given.name!r} ({given.std(ddof=0):.4g})"
    words, is_allowed = VALUES[likelihood]
    outside = given[~is_allowed(given)]
    if len(outside):
        raise ValueError(
            f"--likelihood {likelihood}: expected {words} in {given.name!r}; got {outside.iloc[0]:.6g} in row "
            f"{outside.index[0]}, and {len(outside)} such values in all."
        )
    return f"; y in units of the mean of {given.name!r} ({given.mean():.4g})" if likelihood in POSITIVE else ""
