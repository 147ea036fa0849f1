"""Cross-validation: every row is predicted once, by fits that have not seen it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from ..checks import as_key, check_problem
from ..method import Method
from ..response import Response
from ..result import Fit
from ..rows import Rows, count_rows, take_rows
from ..run import fit
from ..sites import NumPyroModel
from ..status import Status, no_failure_warnings
from .scores import Forecast, mean
from .table import Comparison, Entry, tabulate

NOTES = (
    "{rows} rows, each scored when it was held out: {folds} folds,{by_class} fits to {fitted} rows.\n"
    "Log density in nats per row of the predictive distribution. "
    "se: standard error, as if rows were independent; those of one fold share their fit, and fits share their rows."
)


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """What several methods predict of rows that they have not seen; see `cross_validate`. Prints as a table."""

    comparison: Comparison
    """The scores over all rows, as `compare` gives them; its `log_probs` are those of each row when it was held out."""
    scores: pd.DataFrame
    """One row a method and fold, indexed by both: scores of the fold's own rows, status and seconds of its fit."""
    splits: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Fold -> the rows that were fitted and those that were scored; scikit-learn takes it as ``cv``."""
    statuses: Mapping[str, tuple[Status, ...]]
    """Method -> the status of the fit of each fold."""

    @property
    def log_probs(self) -> Mapping[str, np.ndarray]:
        """Method -> log p(y_i | x_i, rows of the other folds) in nats, (n,), in the order of the rows given."""
        return self.comparison.log_probs

    def to_dataframe(self) -> pd.DataFrame:
        """The scores over all rows, unrounded, one row a method; `compare` describes the columns."""
        return self.comparison.to_dataframe()

    def __str__(self) -> str:
        return str(self.comparison)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def cross_validate(
    model: NumPyroModel,
    methods: Mapping[str, Method],
    x: Any,
    y: Any,
    *,
    folds: int = 10,
    key: Any,
    progress: bool = True,
) -> CrossValidation:
    """K-fold cross-validation (Stone 1974): each row is scored once, by a fit to the rows of the other folds.

    Rows are dealt to the folds at random, and where y is a class each class by itself, so that all folds hold it in
    like numbers. All methods see the same folds, and in each the same key. The table is that of `compare`, over all
    rows: log densities in nats per row, and paired differences with their standard errors.

    These standard errors take the rows for independent. Fits of different folds share most of their rows, so they are
    not, and no estimate of the variance of cross-validation is unbiased (Bengio & Grandvalet 2004): take a difference
    of two standard errors as a hint. Each fit has fewer rows than are at hand; scores are, if anything, too low.

    Every fit is of the same number of rows, n - ceil(n / folds), so that nothing is compiled after the first fold.
    Where n is not a multiple of `folds`, the smaller folds hold out one row more, drawn from another fold, which they
    do not score.

    Args:
        model: a NumPyro model, as for `fit`.
        methods: name -> method.
        x: n rows.
        y: n rows.
        folds: how many there are, from 2 to n; n leaves one row out at a time.
        key: a typed JAX key or an integer seed: of the folds and of the fits.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: when data, model, methods or folds are not what they should be.
        KeyboardInterrupt: at Ctrl-C, also where the fit alone would keep what it has: rows would go without a score.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, MLE, cross_validate
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> told = cross_validate(Model(MLP(), Normal(0.5), gaussian(0.5)), {"MLE": MLE(), "MAP": MAP()}, x, y, key=0)
        >>> print(told.to_dataframe()[["elpd", "elpd_diff", "rmse"]].round(2))
             elpd  elpd_diff  rmse
        MLE -0.79       0.00  0.53
        MAP -0.84      -0.04  0.55
    """
    _check_methods(methods)
    key = as_key(key)
    density, data = check_problem(model, x, y)
    structure, x, y = density.structure, data.x, data.y
    num_rows = count_rows(x)
    if not isinstance(folds, int) or isinstance(folds, bool) or not 2 <= folds <= num_rows:
        raise ValueError(f"cross_validate: expected from 2 to {num_rows} folds, the number of rows; got {folds!r}.")
    key_folds, *keys = jax.random.split(key, folds + 1)
    classes = _classes(structure.response, y)
    dealt = deal(num_rows, folds, classes, np.random.default_rng(np.asarray(jax.random.key_data(key_folds))))
    order = np.argsort(np.concatenate([own for _, own, _ in dealt]))
    entries, per_fold, statuses = {}, {}, {}
    with _bar(len(methods) * folds, progress) as bar:
        for name, method in methods.items():
            fits, forecasts = [], []
            for i, (rows, of_fold) in enumerate(zip(dealt, keys, strict=True)):
                found, forecast = _hold_out(model, method, x, y, rows, of_fold)
                per_fold[name, i] = _scores(found, forecast)
                fits.append(found)
                forecasts.append(forecast)
                bar.update()
            statuses[name] = tuple(found.status for found in fits)
            whole = Forecast.joined(forecasts, order)
            compiling, running = (sum(getattr(found.seconds, part) for found in fits) for part in ("compile", "run"))
            entries[name] = Entry(whole.log_prob[None], whole.scores(), method.kind, statuses[name], compiling, running)
    table = pd.DataFrame.from_dict(per_fold, orient="index").rename_axis(["method", "fold"])
    notes = NOTES.format(
        rows=num_rows, folds=folds, by_class="" if classes is None else " stratified by class,", fitted=len(dealt[0][0])
    )
    splits = tuple((fitted, own) for fitted, own, _ in dealt)
    return CrossValidation(tabulate(entries, notes.split("\n")), table, splits, statuses)


def deal(
    num_rows: int, folds: int, classes: np.ndarray | None, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Fold -> the rows that are fitted, those that are scored, and those that are neither, so that sizes are equal."""
    order = rng.permutation(num_rows)
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    fold = np.empty(num_rows, int)
    fold[order] = np.arange(num_rows) % folds
    dealt = []
    for i in range(folds):
        own, others = np.flatnonzero(fold == i), np.flatnonzero(fold != i)
        spare = rng.choice(others, -(-num_rows // folds) - len(own), replace=False)
        dealt.append((np.setdiff1d(others, spare), own, spare))
    return dealt


def _hold_out(
    model: NumPyroModel,
    method: Method,
    x: Rows,
    y: Rows,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    key: jax.Array,
) -> tuple[Fit, Forecast]:
    """Fit without the rows of a fold, and what the fit says of them."""
    fitted, own, spare = rows
    found = fit(model, method, take_rows(x, fitted), take_rows(y, fitted), key=key, progress=False)
    if found.status.is_interrupted:
        raise KeyboardInterrupt
    held = np.concatenate([own, spare])
    with no_failure_warnings():
        forecast = Forecast.of(found.predict(take_rows(x, held)), take_rows(y, held))
    return found, forecast.rows(slice(len(own)))


def _scores(found: Fit, forecast: Forecast) -> dict[str, Any]:
    return {
        "rows": len(forecast.log_prob),
        "elpd": mean(forecast.log_prob),
        **forecast.scores(),
        "status": found.status.level,
        "seconds_compile": found.seconds.compile,
        "seconds_run": found.seconds.run,
    }


def _classes(response: Response, y: Rows) -> np.ndarray | None:
    """The class of each row, (n,), of soft labels the most probable; None where y is no class."""
    leaves = jax.tree.leaves(y)
    return response.labels(leaves[0]) if response.is_class and len(leaves) == 1 else None


def _check_methods(methods: Any) -> None:
    if not isinstance(methods, Mapping) or not methods:
        raise TypeError(
            f"cross_validate: expected a mapping from names to methods, such as {{'MAP': MAP()}}; got {methods!r}."
        )
    for name, method in methods.items():
        if isinstance(method, type) or not callable(getattr(method, "run", None)):
            raise TypeError(
                f"cross_validate: expected {name!r} to be a method such as MAP() or NUTS(); got {method!r}."
            )


def _bar(total: int, progress: bool) -> Any:
    return tqdm(total=total, desc="folds", disable=not progress, delay=1.0, file=sys.stderr, leave=False)
