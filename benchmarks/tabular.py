"""The estimators beside others on tables that scikit-learn carries: log score, error, coverage, seconds.

Each row is predicted once, by a fit to the other folds. Every model has its defaults; features are standardised for
Gaussian processes, as the estimators do themselves. Run it as ``python benchmarks/tabular.py > benchmarks/tabular.md``;
arguments are the names of data sets.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flatprior.estimators import NetworkClassifier, NetworkRegressor
from flatprior.inference import MAP, MCLMC, Ensemble

FOLDS = 3
MOST_ROWS_OF_GP = 1_000
"""Above, the classifiers of one Gaussian process per class take minutes."""
NUMBERS: dict[str, Callable[[], Any]] = {
    "diabetes": lambda: load_diabetes(return_X_y=True),
    "friedman1": lambda: make_friedman1(500, noise=1.0, random_state=0),
}
CLASSES: dict[str, Callable[[], Any]] = {
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "iris": lambda: load_iris(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
}
ENSEMBLE = Ensemble(base=MAP(num_steps=500, polish=False), num_members=10)
CHAINS = MCLMC(num_warmup=2_000, num_samples=100, thinning=10, num_chains=8)
REGRESSORS: dict[str, Callable[[], Any]] = {
    "flatprior, default (MCLMC)": NetworkRegressor,
    "flatprior, ensemble": lambda: NetworkRegressor(method=ENSEMBLE),
    "HistGradientBoosting": HistGradientBoostingRegressor,
    "GaussianProcess": lambda: make_pipeline(
        StandardScaler(), GaussianProcessRegressor(RBF() + WhiteKernel(), normalize_y=True, random_state=0)
    ),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "flatprior, default (ensemble)": NetworkClassifier,
    "flatprior, MCLMC": lambda: NetworkClassifier(method=CHAINS),
    "HistGradientBoosting": HistGradientBoostingClassifier,
    "GaussianProcess": lambda: make_pipeline(StandardScaler(), GaussianProcessClassifier(RBF(), random_state=0)),
}
OPTIONAL = {
    "bde": ("bde", "BdeRegressor", "BdeClassifier"),
    "TabPFN": ("tabpfn", "TabPFNRegressor", "TabPFNClassifier"),
}
"""Name -> its module, and the names of its two estimators: rows of the table where it is installed."""


def add_optional() -> None:
    for name, (module, regressor, classifier) in OPTIONAL.items():
        try:
            library = import_module(module)
        except ImportError:
            continue
        REGRESSORS[name], CLASSIFIERS[name] = getattr(library, regressor), getattr(library, classifier)


def interval(model: Any, make: Callable[[], Any], x: np.ndarray, y: np.ndarray, new: np.ndarray) -> Any:
    """The ends of a 90% interval at new rows, (n,) each; None where the model has none."""
    if isinstance(model, NetworkRegressor):
        return model.predict_interval(new).T
    if isinstance(model, HistGradientBoostingRegressor):
        ends = (HistGradientBoostingRegressor(loss="quantile", quantile=q).fit(x, y) for q in (0.05, 0.95))
        return [end.predict(new) for end in ends]
    if make is REGRESSORS["GaussianProcess"]:
        mean, sd = model.predict(new, return_std=True)
        return mean - 1.645 * sd, mean + 1.645 * sd
    return None


def log_scores(model: Any, x: np.ndarray, y: np.ndarray, make: Callable[[], Any]) -> np.ndarray:
    """Log p(y | x) of each row in nats; NaN where the model has no density."""
    if is_classifier(model):
        probs = np.clip(model.predict_proba(x), 1e-15, 1)
        return np.log(probs[range(len(y)), np.searchsorted(model.classes_, y)])
    if isinstance(model, NetworkRegressor):
        return model.log_prob(x, y)
    if make is REGRESSORS["GaussianProcess"]:
        mean, sd = model.predict(x, return_std=True)
        return -(((y - mean) / sd) ** 2) / 2 - np.log(sd) - np.log(2 * np.pi) / 2
    return np.full(len(y), np.nan)


def measure(make: Callable[[], Any], x: np.ndarray, y: np.ndarray, is_class: bool) -> tuple[Any, ...]:
    """The log loss, the error, the coverage, and the seconds of the first and of the other fits with predictions."""
    folds = (StratifiedKFold if is_class else KFold)(FOLDS, shuffle=True, random_state=0)
    scores, errors, covered, seconds, statuses = [], [], [], [], []
    for train, test in folds.split(x, y):
        begin = time.perf_counter()
        model = make().fit(x[train], y[train])
        predicted = model.predict(x[test])
        scores.append(log_scores(model, x[test], y[test], make))
        seconds.append(time.perf_counter() - begin)
        errors.append(predicted != y[test] if is_class else (predicted - y[test]) ** 2)
        ends = None if is_class else interval(model, make, x[train], y[train], x[test])
        covered.append(np.nan if ends is None else np.mean((ends[0] <= y[test]) & (y[test] <= ends[1])))
        statuses.append(model.fit_.status.level if hasattr(model, "fit_") else "")
    error = float(np.mean(np.concatenate(errors)))
    loss = -float(np.mean(np.concatenate(scores)))
    others = float(np.mean(seconds[1:]))
    return loss, error if is_class else error**0.5, float(np.mean(covered)), seconds[0], others, statuses


def lines() -> Iterator[str]:
    chosen = sys.argv[1:] or [*NUMBERS, *CLASSES]
    for tables, models, kind in ((NUMBERS, REGRESSORS, "RMSE"), (CLASSES, CLASSIFIERS, "error rate")):
        yield f"| | | log loss | {kind} | 90% interval contains | seconds, first fit | others | statuses |"
        yield "|---|---|---|---|---|---|---|---|"
        for data in [name for name in tables if name in chosen]:
            x, y = tables[data]()
            for name, make in models.items():
                if name == "GaussianProcess" and len(y) > MOST_ROWS_OF_GP:
                    continue
                loss, error, covered, first, others, statuses = measure(make, x, y, tables is CLASSES)
                numbers = ("" if np.isnan(value) else f"{value:.4g}" for value in (loss, error, covered))
                cells = (data, name, *numbers, f"{first:.1f}", f"{others:.1f}", " ".join(statuses))
                yield f"| {' | '.join(cells)} |"
        yield ""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    add_optional()
    for line in lines():
        print(line, flush=True)
