"""Cross-validation: every row is predicted once, by a fit that has not seen it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from ..checks import as_key, check_labelled
from ..labels import labelled, with_gaps
from ..method import Method
from ..report import Printed, Report
from ..result import Fit
from ..rows import Data, Rows
from ..run import fit
from ..sites import NumPyroModel
from ..status import Status, no_failure_warnings
from ..stored import read
from ..structure import Structure
from .compare import check_comparable
from .scores import Forecast, mean
from .table import Comparison, Entry, tabulate

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

NOTES = (
    "{rows} rows in {folds} folds,{by_class} each scored by a fit to {fitted} rows of the other folds.\n"
    "elpd: log predictive density, nats per row; se and dse: standard errors of elpd and elpd_diff, as if rows were "
    "independent; but the rows of a fold share a fit, and fits share rows."
)


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Printed):
    """The scores of several fits on rows that they have not seen; see `cross_validate`. Prints as a table."""

    comparison: Comparison
    """The scores over all rows, as those of `compare`; each row is scored by the fit that has not seen it."""
    scores: "pd.DataFrame"
    """One row per fit and fold, indexed by both: scores of the fold's rows, status and seconds of its fit."""
    splits: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Fold -> the rows that are fitted and those that are scored; scikit-learn takes it as ``cv``."""
    statuses: Mapping[str, tuple[Status, ...]]
    """Name -> the status of the fit of each fold."""

    @property
    def log_probs(self) -> Mapping[str, np.ndarray]:
        """Name -> log p(y_i | x_i, rows of the other folds) in nats, (n,), in the given order of the rows."""
        return self.comparison.log_probs

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the scores over all rows, unrounded, one row per fit; `compare` describes the columns."""
        return self.comparison.to_dataframe()

    @property
    def _report(self) -> Report:
        return self.comparison._report


def cross_validate(
    fits: Mapping[str, tuple[NumPyroModel, Method]],
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    num_folds: int = 10,
    key: Any,
    progress: bool = True,
) -> CrossValidation:
    """Score models and methods by K-fold cross-validation (Stone 1974): each row once, by a fit to the other folds.

    Rows are assigned to folds at random, stratified by class where y, or an observed site of it, is a class. All fits
    have the same folds, and in each fold the same key, so models under one method are compared like methods of one
    model. The table is that of `compare`, over all rows: elpd in nats per row, and paired differences with their
    standard errors.

    These standard errors assume that the rows are independent. They are not, as the fits of different folds share most
    of their rows, and no estimate of the variance of cross-validation is unbiased (Bengio & Grandvalet 2004): take a
    difference of two standard errors as a hint. Each fit has fewer than n rows; scores are, if anything, too low.

    Every fit has the same number of rows, n - ceil(n / num_folds), so that nothing is compiled after the first fold.
    If n is not a multiple of `num_folds`, the fits of the smaller folds leave out one more row, drawn from another
    fold, which they do not score.

    Args:
        fits: name -> a NumPyro model and a method, as for `fit`. The models have the same observed sites and
            the same kind of y.
        x: n rows.
        y: n rows. Rows without y, by NaN or a mask, are left out, and counted in a note.
        weights: the weight of each row, (n,): a row of weight w counts as w equal rows in fits and scores. It is in one
            fold, with all its weight.
        num_folds: the number of folds, from 2 to n; n is leave-one-out cross-validation.
        key: a typed JAX key or an integer seed, for the folds and the fits.
        progress: show a progress bar.

    Returns:
        The scores over all rows, and those of each fold.

    Raises:
        TypeError, ValueError: when data, models, methods or the number of folds are invalid, or the models do not score
            y on one scale.
        KeyboardInterrupt: at Ctrl-C, also where `fit` would return a partial result, as rows would have no score.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, cross_validate
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> narrow, wide = (Model(MLP(), Normal(0.5), gaussian(scale)) for scale in (0.5, 2.0))
        >>> scores = cross_validate({"narrow": (narrow, MAP()), "wide": (wide, MAP())}, x, y, key=0, progress=False)
        >>> print(scores.to_dataframe()[["elpd", "elpd_diff", "rmse"]].round(2))
                elpd  elpd_diff  rmse
        wide   -0.79       0.00  0.53
        narrow -0.84      -0.04  0.55
    """
    import pandas as pd

    _check_fits(fits)
    key = as_key(key)
    given = labelled(x, y, weights)
    problems = {name: check_labelled(model, given) for name, (model, _) in fits.items()}
    responses = {name: density.structure.response for name, (density, _) in problems.items()}
    families = check_comparable("cross_validate", responses)
    first, data = next(iter(problems.values()))
    rows = Data(data.x, with_gaps(data.y, data.known), weights=data.weights)
    num_rows = rows.num_rows
    if not isinstance(num_folds, int) or isinstance(num_folds, bool) or not 2 <= num_folds <= num_rows:
        raise ValueError(
            f"cross_validate: expected num_folds from 2 to {num_rows}, the number of rows; got {num_folds!r}."
        )
    key_folds, *keys = jax.random.split(key, num_folds + 1)
    classes = _classes(first.structure, read(data.y, "cross_validate"))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_folds)))
    folds = assign_folds(num_rows, num_folds, classes, rng)
    order = np.argsort(np.concatenate([fold.scored for fold in folds]))
    entries, per_fold, statuses = {}, {}, {}
    with _bar(len(fits) * num_folds, progress) as bar:
        for name, pair in fits.items():
            results, forecasts = [], []
            for i, (fold, fold_key) in enumerate(zip(folds, keys, strict=True)):
                result, forecast = _leave_out(*pair, rows, fold, fold_key)
                per_fold[name, i] = _scores(result, forecast)
                results.append(result)
                forecasts.append(forecast)
                bar.update()
            statuses[name] = tuple(result.status for result in results)
            whole = Forecast.joined(forecasts, order)
            seconds = (sum(getattr(each.seconds, part) for each in results) for part in ("compile", "run"))
            entries[name] = Entry(whole.log_prob[None], whole.scores(), pair[1].kind, statuses[name], *seconds)
    table = pd.DataFrame.from_dict(per_fold, orient="index").rename_axis(["fit", "fold"])
    by_class = "" if classes is None else " stratified by class,"
    notes = NOTES.format(rows=num_rows, folds=num_folds, by_class=by_class, fitted=len(folds[0].fitted))
    splits = tuple((fold.fitted, fold.scored) for fold in folds)
    table_of_all = tabulate(entries, [*notes.split("\n"), *given.counts.notes, *families], data.weights)
    return CrossValidation(table_of_all, table, splits, statuses)


class Fold(NamedTuple):
    """The rows of one fold, as indices."""

    fitted: np.ndarray
    scored: np.ndarray
    spare: np.ndarray
    """Rows that are neither fitted nor scored, so that all folds fit equally many rows."""


def assign_folds(num_rows: int, num_folds: int, classes: np.ndarray | None, rng: np.random.Generator) -> list[Fold]:
    """Assign rows to folds at random, stratified by classes, (n,)."""
    order = rng.permutation(num_rows)
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    fold_of = np.empty(num_rows, int)
    fold_of[order] = np.arange(num_rows) % num_folds
    folds = []
    for i in range(num_folds):
        own, others = np.flatnonzero(fold_of == i), np.flatnonzero(fold_of != i)
        spare = rng.choice(others, -(-num_rows // num_folds) - len(own), replace=False)
        folds.append(Fold(np.setdiff1d(others, spare), own, spare))
    return folds


def _leave_out(model: NumPyroModel, method: Method, rows: Data, fold: Fold, key: jax.Array) -> tuple[Fit, Forecast]:
    """Return a fit without the rows of a fold, and its forecast of them."""
    others = rows.choose(fold.fitted)
    result = fit(model, method, others.x, others.y, weights=others.weights, key=key, progress=False)
    if result.status.is_interrupted:
        raise KeyboardInterrupt
    left_out = np.concatenate([fold.scored, fold.spare])  # equally many in all folds: one program predicts them
    with no_failure_warnings():
        some = rows.choose(left_out)
        forecast = replace(Forecast.of(result.predict(some.x), some.y), weights=some.weights)
    return result, forecast.rows(slice(len(fold.scored)))


def _scores(result: Fit, forecast: Forecast) -> dict[str, Any]:
    return {
        "rows": len(forecast.log_prob),
        "elpd": mean(forecast.log_prob, forecast.weights),
        **forecast.scores(),
        "status": result.status.level,
        "seconds_compile": result.seconds.compile,
        "seconds_run": result.seconds.run,
    }


def _classes(structure: Structure, y: Rows) -> np.ndarray | None:
    """Return the class of each row, (n,), for soft labels the most probable; None where y is not a class.

    Of several observed sites it is the number of the combination of their classes.
    """
    parts = [(response, jax.tree.leaves(rows)) for _, response, rows in structure.by_site(y)]
    labels = [response.labels(leaves[0]) for response, leaves in parts if response.is_class and len(leaves) == 1]
    if len(labels) < 2:
        return labels[0] if labels else None
    return np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)[1]


def _check_fits(fits: Any) -> None:
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(
            f"cross_validate: expected a mapping from names to models and methods, such as "
            f"{{'MAP': (model, MAP())}}; got {fits!r}."
        )
    for name, pair in fits.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"cross_validate: expected {name!r} to be a model and a method, (model, MAP()); got {pair!r}."
            )
        if isinstance(pair[1], type) or not callable(getattr(pair[1], "run", None)):
            raise TypeError(
                f"cross_validate: expected {name!r} to have a method such as MAP() or NUTS(); got {pair[1]!r}."
            )


def _bar(total: int, progress: bool) -> Any:
    return tqdm(total=total, desc="folds", disable=not progress, delay=1.0, file=sys.stderr, leave=False)
