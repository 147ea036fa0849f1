"""Labels and weights: which rows and values of y take part, and how often each row counts.

A value of y that is NaN, masked, or missing in a data frame was not observed: it adds nothing to the likelihood. Rows
without any observed value, and rows of weight 0, are left out before anything else; what is left out is counted.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from .arrays import as_numbers, as_rows, in_default_precision, is_array, widened
from .response import Response
from .rows import Rows, count_rows
from .stored import Stored, beside, chosen, in_parts
from .structure import Structure
from .words import index_in_words

LARGEST = np.iinfo(np.int32).max
"""The largest number that may be a label."""


@dataclass(frozen=True)
class RowCounts:
    """The rows of a fit or a score, counted."""

    rows: int
    """The number of rows that take part."""
    unlabelled: int = 0
    """The number of rows without any value of y, which are left out."""
    unweighted: int = 0
    """The number of further rows that are left out since their weight is 0."""
    missing: int = 0
    """The number of values of y that are missing in the rows that take part."""
    weight: float | None = None
    """The sum of the weights of the rows, where they have weights."""

    def __str__(self) -> str:
        weight = "" if self.weight is None else f" of total weight {self.weight:.6g}"
        return "; ".join([f"{_counted(self.rows, 'row')}{weight}", *self._gaps])

    @property
    def is_plain(self) -> bool:
        """Whether all rows count once, and have all values of y."""
        return not self._gaps and self.weight is None

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of a table of scores on its rows; none where they are plain."""
        notes = [f"{gap[0].upper()}{gap[1:]}." for gap in self._gaps]
        if self.weight is not None:
            notes.append(
                f"The rows have a total weight of {self.weight:.6g}: a row of weight w counts as w equal rows."
            )
        return tuple(notes)

    @property
    def _gaps(self) -> list[str]:
        """The rows that are left out, and the values that are missing, in words."""
        causes = (self.unlabelled, "without y"), (self.unweighted, "of weight 0")
        left_out = [f"{_counted(count, 'row')} {why}" for count, why in causes if count]
        missing = f"{_counted(self.missing, 'value')} of y {'is' if self.missing == 1 else 'are'} missing"
        return [f"left out: {', '.join(left_out)}"] * bool(left_out) + [missing] * bool(self.missing)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


class Labelled(NamedTuple):
    """Rows as they were passed, and which of them take part."""

    x: Rows
    """n rows, in the precision in which they were passed."""
    y: Rows
    """n rows likewise, with a value of another row where one is missing."""
    known: Rows
    """Which values of y are known, as booleans in its shape; None where all are."""
    weights: np.ndarray | None
    """The weights of the rows, (n,)."""
    kept: np.ndarray | None
    """The indices of the rows that take part; None where all of them do."""
    counts: RowCounts

    def taken(self, rows: Rows) -> Rows:
        """Return those of n rows that take part."""
        return rows if self.kept is None else chosen(rows, self.kept)

    @property
    def scored(self) -> tuple[Rows, Rows, np.ndarray | None]:
        """The rows of x and y, and the weights, that take part; values of y that are not known are NaN."""
        x, y = in_default_precision("x", self.x), in_default_precision("y", self.y)
        known = self.known if self.counts.missing else None
        x, y, known, weights = (self.taken(rows) for rows in (x, y, known, self.weights))
        return x, with_gaps(y, known), weights


def labelled(x: Any, y: Any, weights: Any = None) -> Labelled:
    """Return rows of x and y as numbers, and which of them take part: those with a label and a positive weight.

    Args:
        x: n rows.
        y: n rows; NaN, masked values, and missing values of data frames were not observed.
        weights: the weight of each row, (n,), or None.

    Raises:
        TypeError, ValueError: when these are not rows of numbers, no row is left, or weights are not numbers from 0.
    """
    x, y = as_numbers("x", x), _as_numbers_with_gaps(y)
    x, y = beside((x, y), (x, y))
    num_rows = count_rows(y)
    weights = None if weights is None else as_weights(weights, num_rows)
    whole, known = _filled(y)
    if known is None and (weights is None or weights.all()):
        return Labelled(x, y, None, weights, None, RowCounts(num_rows, weight=_total(weights)))
    by_leaf = [leaf.reshape(num_rows, -1) for leaf in jax.tree.leaves(known)]
    has_label = np.logical_or.reduce([leaf.any(axis=1) for leaf in by_leaf] or [np.ones(num_rows, bool)])
    takes_part = has_label if weights is None else has_label & (weights > 0)
    if not takes_part.any():
        raise ValueError(f"y: expected rows with a label and a positive weight; got {num_rows} rows without.")
    kept = None if takes_part.all() else np.flatnonzero(takes_part)
    counts = RowCounts(
        int(takes_part.sum()),
        int((~has_label).sum()),
        int((has_label & ~takes_part).sum()),
        sum(int((~leaf[takes_part]).sum()) for leaf in by_leaf),
        _total(weights),
    )
    return Labelled(x, whole, known, weights, kept, counts)


def _total(weights: np.ndarray | None) -> float | None:
    return None if weights is None else float(weights.sum(dtype=float))


def observations(name: str, value: Any) -> tuple[Rows, Rows]:
    """Return rows of y, with a value of another row where one is missing, and which of them are known, or None.

    Integers have at least 32 bits: log probabilities compute with y in its own type, in which the 255 + 1 of a
    BetaBinomial would be 0.
    """
    y, known = _filled(_as_numbers_with_gaps(value))
    return widened(in_default_precision(name, y)), known


def _as_numbers_with_gaps(value: Any) -> Rows:
    """Return the rows of `as_numbers`, with NaN where values are masked, or missing in a data frame."""
    return as_numbers("y", jax.tree.map(_with_nan, value, is_leaf=is_array))


def _with_nan(leaf: Any) -> Any:
    if isinstance(leaf, np.ma.MaskedArray):
        return np.ma.filled(leaf.astype(float), np.nan) if np.ma.is_masked(leaf) else leaf.data
    if hasattr(leaf, "isna") and hasattr(leaf, "to_numpy") and np.any(leaf.isna()):
        with suppress(TypeError, ValueError):  # where there is text among them, `as_numbers` says where
            return leaf.to_numpy(dtype=float, na_value=np.nan)
    return leaf


def _filled(y: Rows) -> tuple[Rows, Rows]:
    """Return y with a value of another row where it is missing, and which values are known; None where all are.

    Where the other values are whole numbers they become integers, which NaN does not allow, so that labels stay labels.
    """
    leaves, tree = jax.tree.flatten(y)
    gaps = [_known(leaf) for leaf in leaves]
    if all(each is None for each in gaps):
        return y, None
    known = [np.ones(np.shape(leaf), bool) if each is None else each for leaf, each in zip(leaves, gaps, strict=True)]
    if not any(each.any() for each in known):
        count = sum(int(each.size) for each in known)
        raise ValueError(f"y: expected labels in some rows; got only missing values, {count} of them.")
    whole = [leaf if each.all() else _without_gaps(leaf, each) for leaf, each in zip(leaves, known, strict=True)]
    return jax.tree.unflatten(tree, whole), jax.tree.unflatten(tree, known)


def _known(leaf: Any) -> np.ndarray | None:
    """Return which values are not NaN; None where none is."""
    if leaf.dtype.kind in "biu":
        return None
    if isinstance(leaf, Stored):
        return _known_in_parts(leaf)
    array = np.asarray(leaf)
    with np.errstate(all="ignore"):
        if not np.isnan(array.sum()):  # one pass without a temporary
            return None
    known = ~np.isnan(array)
    return None if known.all() else known


def _known_in_parts(leaf: Stored) -> np.ndarray | None:
    """Return what `_known` does of an array that stays where it is, one byte per value.

    A source that reads x whenever it reads y is searched once.
    """
    found = getattr(leaf.source, "found", {}) if leaf.chosen is None and leaf.fill is None else {}
    if "known" not in found:
        known = None
        for start, part in in_parts(leaf, "looking for labels"):
            own = _known(part)
            if own is not None:
                known = np.ones(leaf.shape, bool) if known is None else known
                known[start : start + len(own)] = own
        found["known"] = known
    return found["known"]  # type: ignore[no-any-return]


def _without_gaps(values: Any, known: np.ndarray) -> Any:
    """Return the values, and where they are not known those of the first row that has one; 1 where none is."""
    if isinstance(values, Stored) and known.any():
        return _filled_when_read(values, known)
    if not known.any():
        return np.ones(values.shape, np.int64)
    first = np.take_along_axis(values, known.argmax(axis=0)[None], axis=0)
    values = np.where(known, values, np.where(known.any(axis=0), first, values[known][0]))
    return values.astype(np.int64) if _are_whole(values) else values


def _are_whole(values: np.ndarray) -> bool:
    """Return whether numbers are integers that may be labels."""
    return bool((np.abs(values) <= LARGEST).all() and (values == np.round(values)).all())


def _filled_when_read(leaf: Stored, known: np.ndarray) -> Stored:
    """Return what `_without_gaps` does of an array that stays where it is."""
    rows = known.argmax(axis=0)
    places, which = np.unique(rows, return_inverse=True)
    first = np.take_along_axis(leaf[places], which.reshape(1, *rows.shape), axis=0)[0]
    has_one = known.any(axis=0)
    fill = np.where(has_one, first, first[has_one][0])
    are_whole = all(_are_whole(part) for _, part in in_parts(leaf.filled(fill, leaf.dtype)))
    return leaf.filled(fill, np.int64 if are_whole else leaf.dtype)


def with_gaps(y: Rows, known: Rows) -> Rows:
    """Return y with NaN where its values are not known."""
    if known is None:
        return y
    return jax.tree.map(_with_gaps, y, known)


def _with_gaps(leaf: Any, known: np.ndarray) -> Any:
    if known.all():
        return leaf
    return leaf.unfilled() if isinstance(leaf, Stored) else np.where(known, leaf, np.nan)


def check_has_labels(structure: Structure, known: Rows) -> None:
    """Raise ValueError where none of the rows has a value of one of several observed sites, which a fit needs."""
    for name, _, part in structure.by_site(known) if known is not None else []:
        if not any(leaf.any() for leaf in jax.tree.leaves(part)):
            raise ValueError(f"{name}: expected labels in some rows; got only missing values.")


def check_gaps(structure: Structure, known: Rows) -> None:
    """Raise ValueError where values of y are missing that only the model, or the whole of a row, gives a meaning."""
    for name, response, part in structure.by_site(known) if known is not None else []:
        _check_gaps(name, response, part)


def _check_gaps(name: str, response: Response, known: Rows) -> None:
    """Raise ValueError as `check_gaps` does for one observed site, whose rows have this name."""
    if len(jax.tree.leaves(known)) > 1:
        raise ValueError(
            f"{name}: expected all values, since only the model knows which it observes; got missing values."
        )
    (by_row,) = (leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(known))
    partly = by_row.any(axis=1) & ~by_row.all(axis=1)
    if partly.any() and not response.has_marginals:
        row = int(np.argmax(partly))
        cure = f"Write {response.padding} where a row has no token." if response.padding is not None else ""
        cure = cure or "Values of a row may be missing one by one where they are independent, or jointly Normal."
        raise ValueError(
            f"{name}, row {row}: expected all values of the row, or none; got {by_row[row].sum()} of "
            f"{by_row.shape[1]}, from which {response.family} has no density. {cure}"
        )


def check_complete(caller: str, known: Rows) -> None:
    """Raise ValueError where values of y are missing: a code, or a plot of labels, needs all of them."""
    for leaf in jax.tree.leaves(known):
        bad = np.argwhere(~leaf)
        if len(bad):
            raise ValueError(
                f"{caller}: expected all values of y; y{index_in_words(bad[0])} is missing ({len(bad)} such values). "
                f"Leave these rows out."
            )


def class_weights(y: Any) -> np.ndarray:
    """Return weights of rows by which all classes count equally, n / (K n_k) for the n_k rows of class k.

    **They make another model.** The likelihood of a row of class k is raised to the power of its weight, as if rare
    classes had more rows. What is fitted are the probabilities in a population in which all classes are equally
    frequent; in the population of the rows they are not calibrated. Where decisions have unequal costs, keep the model
    of the data and decide by expected cost: choose the class with the least expected cost under ``predict(x).probs``.

    Args:
        y: classes, (n,); those that are missing have weight 0.

    Returns:
        The weights, (n,), which sum to the number of labels: ``fit(..., weights=class_weights(y))``.

    Raises:
        TypeError, ValueError: when y is not one class per row.

    Example:
        >>> from flatprior.inference import class_weights
        >>> print(class_weights([0, 0, 0, 1]).round(2))
        [0.67 0.67 0.67 2.  ]
    """
    from sklearn.utils.class_weight import compute_sample_weight  # imported late, as it takes long

    values, known = observations("y", y)
    if len(jax.tree.leaves(values)) != 1 or np.ndim(values) != 1 or np.asarray(values).dtype.kind not in "biu":
        raise TypeError(f"class_weights: expected one class per row, integers of shape (n,); got {y!r:.80}.")
    labels = np.asarray(values)
    known = np.ones(labels.shape, bool) if known is None else known
    weights = np.zeros(len(labels))
    weights[known] = compute_sample_weight("balanced", labels[known])
    return weights


def whole_weights(caller: str, weights: np.ndarray | None) -> np.ndarray | None:
    """Return weights as integers, where rows are repeated; raise ValueError unless they are whole numbers."""
    if weights is None:
        return None
    bad = np.flatnonzero(weights != np.round(weights))
    if bad.size:
        raise ValueError(
            f"{caller}: expected whole numbers as weights, how often each row occurs; got {weights[bad[0]]:.6g}. "
            f"compare(..., weights=) takes all weights."
        )
    return weights.astype(int)


def as_weights(weights: Any, num_rows: int) -> np.ndarray:
    """Return the weights of rows, (n,), in the default precision."""
    array = np.asarray(as_rows("weights", weights))
    if array.shape != (num_rows,):
        raise ValueError(f"weights: expected one number per row, shape {(num_rows,)}; got {array.shape}.")
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if bad.size:
        raise ValueError(
            f"weights{index_in_words(bad[:1])}: expected a finite number of at least 0; got {array[bad[0]]}."
        )
    return array.astype(jax.dtypes.canonicalize_dtype(float))
