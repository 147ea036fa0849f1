"""The estimators beside others on tables that scikit-learn carries: log score, error, coverage, seconds.

    python benchmarks/tabular.py [DATA ...] [--only NAME ...] [--bde PYTHON] [--tabpfn PYTHON]

Each row of a table is predicted once, by a fit to the other folds. Features are standardised for Gaussian processes and
bde, and y for bde, as in its own examples; the estimators here and TabPFN do so themselves. Every model has its
defaults; bde has two more rows, with the settings of the example for numbers in its README and with those of its
paper. PYTHON is an interpreter with bde (sklearn-contrib-bde) or tabpfn, in an environment of its own; without it the
peer is left out, and so is TabPFN where its weights are not at hand.

Each model runs in a process of its own with one core, and seconds are those of its processor.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 3
MOST_ROWS, SLOW = 1_000, ("GaussianProcess", "bde, paper")
"""Above, a fit of these takes minutes: one Gaussian process per class, and long chains of all rows."""
ENDS = (0.05, 0.95)
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
BDE_EXAMPLE = {"hidden_layers": [16, 16], "n_members": 8, "epochs": 200, "patience": 10, "warmup_steps": 5000}
BDE_EXAMPLE |= {"n_samples": 2000, "n_thinning": 2}
BDE_PAPER = {"hidden_layers": [16] * 4, "n_members": 10, "epochs": 1200, "patience": 20, "warmup_steps": 50_000}
BDE_PAPER |= {"n_samples": 1000, "n_thinning": 10}


def ours(name: str, method: Callable[[Any], Any] = lambda lib: None) -> Callable[[], Any]:
    """Return what makes an estimator of this library; `method` maps `flatprior.inference` to its method."""

    def make() -> Any:
        from flatprior import estimators, inference

        return getattr(estimators, name)(method=method(inference))

    return make


def ensemble(lib: Any) -> Any:
    return lib.Ensemble(base=lib.MAP(num_steps=500, polish=False), num_members=10)


def chains(lib: Any) -> Any:
    return lib.MCLMC(num_warmup=2_000, num_samples=100, thinning=10, num_chains=8)


def bde_regressor(**settings: Any) -> Any:
    from bde import BdeRegressor

    return TransformedTargetRegressor(
        make_pipeline(StandardScaler(), BdeRegressor(**settings)), transformer=StandardScaler()
    )


def bde_classifier(**settings: Any) -> Any:
    from bde import BdeClassifier

    return make_pipeline(StandardScaler(), BdeClassifier(**settings))


def tabpfn(name: str) -> Any:
    import tabpfn

    return getattr(tabpfn, name)()


REGRESSORS: dict[str, Callable[[], Any]] = {
    "flatprior, default (MCLMC)": ours("NetworkRegressor"),
    "flatprior, ensemble": ours("NetworkRegressor", ensemble),
    "HistGradientBoosting": HistGradientBoostingRegressor,
    "GaussianProcess": lambda: make_pipeline(
        StandardScaler(), GaussianProcessRegressor(RBF() + WhiteKernel(), normalize_y=True, random_state=0)
    ),
    "bde, default": bde_regressor,
    "bde, example": lambda: bde_regressor(**BDE_EXAMPLE),
    "bde, paper": lambda: bde_regressor(**BDE_PAPER),
    "TabPFN": lambda: tabpfn("TabPFNRegressor"),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "flatprior, default (ensemble)": ours("NetworkClassifier"),
    "flatprior, MCLMC": ours("NetworkClassifier", chains),
    "HistGradientBoosting": HistGradientBoostingClassifier,
    "GaussianProcess": lambda: make_pipeline(StandardScaler(), GaussianProcessClassifier(RBF(), random_state=0)),
    "bde, default": bde_classifier,
    "bde, example": lambda: bde_classifier(**BDE_EXAMPLE),
    "bde, paper": lambda: bde_classifier(**BDE_PAPER),
    "TabPFN": lambda: tabpfn("TabPFNClassifier"),
}


def normal_log_prob(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    return np.asarray(-(((y - mean) / sd) ** 2) / 2 - np.log(sd) - np.log(2 * np.pi) / 2)


def numbers(library: str, model: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted numbers and log p(y | x), (n,) each; NaN where the model has no density."""
    match library:
        case "flatprior":
            return model.predict(x), model.log_prob(x, y)
        case "GaussianProcess":
            mean, sd = model.predict(x, return_std=True)
            return mean, normal_log_prob(y, mean, sd)
        case "bde":  # a mixture of normal distributions, one of each draw
            raw = np.asarray(model.regressor_[-1].predict(model.regressor_[:-1].transform(x), raw=True), float)
            raw, (center, scale) = raw.reshape(-1, len(x), 2), (model.transformer_.mean_, model.transformer_.scale_)
            means, sds = center + scale * raw[..., 0], scale * (np.logaddexp(0, raw[..., 1]) + 1e-6)
            return means.mean(axis=0), np.logaddexp.reduce(normal_log_prob(y, means, sds), axis=0) - np.log(len(means))
        case "TabPFN":
            import torch

            answer = model.predict(x, output_type="full")
            return answer["mean"], -answer["criterion"](answer["logits"], torch.as_tensor(y)).numpy()
    return model.predict(x), np.full(len(y), np.nan)


def classes(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted classes and log p(y | x), (n,) each."""
    probs = np.clip(model.predict_proba(x), 1e-15, 1)
    return model.predict(x), np.log(probs[range(len(y)), np.searchsorted(model.classes_, y)])


def interval(library: str, model: Any, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> Any:
    """Return the ends of a 90% interval at new rows, (2, n)."""
    match library:
        case "flatprior":
            return model.predict_interval(new).T
        case "GaussianProcess":
            mean, sd = model.predict(new, return_std=True)
            return mean - 1.645 * sd, mean + 1.645 * sd
        case "bde":
            rows = model.regressor_[:-1].transform(new)
            ends = np.asarray(model.regressor_[-1].predict(rows, credible_intervals=list(ENDS))[1])
            return model.transformer_.mean_ + model.transformer_.scale_ * ends
        case "TabPFN":
            return model.predict(new, output_type="quantiles", quantiles=list(ENDS))
    return [HistGradientBoostingRegressor(loss="quantile", quantile=q).fit(x, y).predict(new) for q in ENDS]


def measure(data: str, name: str) -> dict[str, Any]:
    """Return the scores of a model on a table, and the seconds of its first fit with predictions and of the others."""
    is_class, library = data in CLASSES, name.split(",")[0]
    x, y = (CLASSES if is_class else NUMBERS)[data]()
    folds = (StratifiedKFold if is_class else KFold)(FOLDS, shuffle=True, random_state=0)
    scores, errors, covered, seconds, statuses = [], [], [], [], []
    for train, test in folds.split(x, y):
        model = (CLASSIFIERS if is_class else REGRESSORS)[name]()
        begin = sum(os.times()[:4])
        model.fit(x[train], y[train])
        answers = (model, x[test], y[test])
        predicted, log_probs = classes(*answers) if is_class else numbers(library, *answers)
        seconds.append(sum(os.times()[:4]) - begin)
        scores.append(log_probs)
        errors.append(predicted != y[test] if is_class else (predicted - y[test]) ** 2)
        low, high = (np.nan, np.nan) if is_class else interval(library, model, x[train], y[train], x[test])
        covered.append(np.mean((low <= y[test]) & (y[test] <= high)))
        statuses.append(model.fit_.status.level if library == "flatprior" else "")
    error = float(np.mean(np.concatenate(errors)))
    return {
        "loss": None if name == "HistGradientBoosting" and not is_class else -float(np.mean(np.concatenate(scores))),
        "error": error if is_class else error**0.5,
        "covered": None if is_class else float(np.mean(covered)),
        "seconds": seconds,
        "statuses": " ".join(statuses).strip(),
    }


def run(data: str, name: str, python: str) -> dict[str, Any] | None:
    """Return what a process of one thread measures; None, and the reason on stderr, where it fails."""
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TABPFN_DISABLE_TELEMETRY": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"} | settings
    command = [python, __file__, "--worker", data, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = next((one for one in reversed(done.stderr.splitlines()) if "Error" in one), done.stderr)
        print(f"{data}, {name} left out: {reason}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def line(data: str, name: str, result: dict[str, Any]) -> str:
    scores = ("" if (value := result[score]) is None else f"{value:.4g}" for score in ("loss", "error", "covered"))
    first, *others = result["seconds"]
    return f"| {' | '.join([data, name, *scores, f'{first:.2f}', f'{min(others):.2f}', result['statuses']])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", choices=[[], *NUMBERS, *CLASSES], help="all by default")
    parser.add_argument("--only", nargs="+", help="the names of the models, or what they begin with")
    parser.add_argument("--bde", metavar="PYTHON", help="a Python in which bde is installed")
    parser.add_argument("--tabpfn", metavar="PYTHON", help="a Python in which tabpfn is installed")
    parser.add_argument("--worker", nargs=2, metavar=("DATA", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        warnings.simplefilter("ignore")
        print(json.dumps(measure(*arguments.worker)))
        return
    pythons = {"bde": arguments.bde, "TabPFN": arguments.tabpfn}
    for tables, models, kind in ((NUMBERS, REGRESSORS, "RMSE"), (CLASSES, CLASSIFIERS, "error rate")):
        chosen = [name for name in tables if name in (arguments.data or tables)]
        if chosen:
            seconds = "seconds, first fit | least of the others"
            print(f"| | | log loss | {kind} | 90% interval contains | {seconds} | statuses |")
            print("|---|---|---|---|---|---|---|---|", flush=True)
        for data in chosen:
            is_large = len(tables[data]()[1]) > MOST_ROWS
            for name in models:
                python = pythons.get(name.split(",")[0], sys.executable)
                is_left_out = arguments.only and not name.startswith(tuple(arguments.only))
                if python and not is_left_out and not (is_large and name in SLOW):
                    result = run(data, name, python)
                    if result is not None:
                        print(line(data, name, result), flush=True)
        print()


if __name__ == "__main__":
    main()
