"""Bike sharing: how many bicycles are rented in an hour, by posteriors of networks, within ten processor minutes.

    python benchmarks/bike.py [--keys 3] [--only NAME ...] [--validate] [--save bike.json] [--data FILE]

The protocol is that of bde (arXiv 2605.14146): y is `cnt`, x the twelve columns of date, hour and weather,
`train_test_split(test_size=0.2, random_state=0)`, x and y standardised on the 13,903 training rows, scores in standard
deviations of y. NLL is that of one Gaussian with the mean and variance of the prediction, and elpd the log density of
the mixture, in nats per row: they cannot be compared with each other. All methods fit one network: three layers of 32
silu units, with two outputs, the mean and the scale of a Normal y, and priors Normal(0, 1) (2,978 weights). Its inputs
are the twelve columns, and sines and cosines of hour, month and weekday, which are circles.

With `--validate` a tenth of the training rows is left out and scored instead of the test rows: that is how network and
settings were chosen. Each fit is written to `--save` when it ends, and not run again. Processor seconds include
compilation.
"""

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cells, print_table

DATA = Path(os.environ.get("FLATPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "bde"
COLUMNS = (
    "season",
    "yr",
    "mnth",
    "hr",
    "holiday",
    "weekday",
    "workingday",
    "weathersit",
    "temp",
    "atemp",
    "hum",
    "windspeed",
)
CIRCLES = {"hr": (24, 4), "mnth": (12, 1), "weekday": (7, 1)}
"""Columns that are circles: their period, and the number of sines and cosines."""


def rows(path: Path, *, validate: bool) -> tuple[np.ndarray, ...]:
    """Return x and y to fit, and x and y to score, in standard units."""
    from sklearn.model_selection import train_test_split

    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    x = np.column_stack([table[name].astype(float) for name in COLUMNS])
    y = table["cnt"].astype(float)
    train, score = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0)
    standard = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    angles = [
        2 * np.pi * k * table[name] / period for name, (period, most) in CIRCLES.items() for k in range(1, most + 1)
    ]
    x = np.column_stack([standard, *map(np.sin, angles), *map(np.cos, angles)]).astype(np.float32)
    y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    if validate:
        order = np.random.default_rng(1).permutation(train)
        train, score = order[len(order) // 10 :], order[: len(order) // 10]
    return x[train], y[train], x[score], y[score]


def scores(result: Any, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return RMSE, NLL of one Gaussian and elpd of the mixture."""
    prediction = result.predict(x)
    error, variance = prediction.mean.astype(float) - y, prediction.variance.astype(float)
    gaussian = 0.5 * np.log(2 * np.pi * variance) + error**2 / (2 * variance)
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "nll": float(gaussian.mean()),
        "elpd": float(np.mean(prediction.log_prob(y), dtype=float)),
    }


def methods() -> dict[str, Any]:
    """Return name -> method."""
    from flatprior.inference import MAP, SGMCMC, Ensemble, Variational

    start = MAP(num_steps=3000, batch_size=250, polish=False)
    point = MAP(num_steps=12_000, batch_size=250, polish=False)
    chains = {"start": start, "batch_size": 250, "num_chains": 8, "epoch_time": 1.0}
    return {
        "MAP": point,
        "ensemble of 8": Ensemble(base=point, num_members=8),
        "variational, mean field": Variational(num_steps=12_000, batch_size=250, num_samples=200, start=start),
        "SGMCMC, 12,000 steps": SGMCMC(num_warmup=8_000, num_samples=100, thinning=40, **chains),
        "SGMCMC, 60,000 steps": SGMCMC(num_warmup=40_000, num_samples=100, thinning=200, **chains),
        "SGMCMC, 180,000 steps": SGMCMC(num_warmup=120_000, num_samples=100, thinning=600, **chains),
    }


def measured(name: str, data: tuple[np.ndarray, ...], key: int) -> dict[str, Any]:
    """Return scores, seconds and status of one fit."""
    from flatprior.inference import fit
    from flatprior.models import MLP, Model, Normal, gaussian

    method, model = methods()[name], Model(MLP((32, 32, 32), "silu"), Normal(), gaussian(1.0))
    x, y, x_score, y_score = data
    cpu, wall = time.process_time(), time.perf_counter()
    result = fit(model, method, x, y, key=key, progress=False)
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    found = scores(result, x_score, y_score) | seconds | {"status": str(result.status)}
    if "temperature" in result.stats:
        found["temperature"] = float(result.stats["temperature"].mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=methods(), default=list(methods()))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--save", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=DATA / "bikesharing_hour.csv")
    arguments = parser.parse_args()
    cells, data = Cells(arguments.save), rows(arguments.data, validate=arguments.validate)
    table = "validation rows" if arguments.validate else "test rows"
    for key, name in itertools.product(range(arguments.keys), arguments.only):
        cells.get(table, name, key, lambda name=name, key=key: measured(name, data, key))
    print_table(cells, table, arguments.only, {"rmse": 4, "nll": 4, "elpd": 4, "temperature": 2, "cpu": 0})


if __name__ == "__main__":
    main()
