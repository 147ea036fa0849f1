"""Draws compared with known posteriors: six from posteriordb, and three with a closed form or a grid.

    python benchmarks/truth.py [--keys 4] [--posteriors NAME;...] [--methods NAME;...] [--data FOLDER] [--processes 2]

For every parameter the mean and the mean square of the draws are compared with those of the reference. z is the
difference in standard errors, combined over the draws and the reference; a run passes if no |z| reaches 4. The table
also gives the bias: the largest difference of a mean and of a standard deviation, in standard deviations of the
posterior, from the draws of all keys together; for parameters, and for predictions (the linear predictor at 20 rows).
Every key counts; nothing is repeated. All runs are in float64, since two of the posteriors have an intercept far from
their data.
"""

import argparse
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax import Array

from flatprior.inference import MCLMC, NUTS, fit

FOLDER = Path(os.environ.get("FLATPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "posteriordb"
BOUND = 4.0
"""The bound of |z|, in standard errors."""
NUM_PREDICTIONS = 20
"""The number of evenly spaced rows at which the linear predictor is compared."""


class Posterior(NamedTuple):
    """A model, its rows, and the moments of its posterior, one entry per parameter."""

    model: Callable[..., None]
    x: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    mean_square: np.ndarray
    mcse_mean: np.ndarray
    mcse_mean_square: np.ndarray
    predictions: tuple[np.ndarray, np.ndarray]
    """Means and standard deviations of the linear predictor at some rows."""

    @property
    def sd(self) -> np.ndarray:
        return np.sqrt(self.mean_square - self.mean**2)


def some(x: np.ndarray) -> np.ndarray:
    """Return the rows of the predictions."""
    return np.asarray(x[np.linspace(0, len(x) - 1, NUM_PREDICTIONS).astype(int)])


def regression(prior: dist.Distribution, scale: dist.Distribution) -> Callable[..., None]:
    """Return a linear regression; x includes the column of the intercept, if there is one."""

    def model(x: Array, y: Array | None = None) -> None:
        beta = numpyro.sample("beta", prior.expand((x.shape[1],)).to_event(1))
        sigma = numpyro.sample("sigma", scale)
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)

    return model


def flat(support: Any) -> dist.Distribution:
    return dist.ImproperUniform(support, (), ())


WIDE = regression(dist.Normal(0.0, 10.0), dist.HalfNormal(10.0))
"""A density truncated to sigma > 0 is the half-normal's up to a constant."""
HALF_CAUCHY = regression(flat(dist.constraints.real), dist.HalfCauchy(2.5))
FLAT = regression(flat(dist.constraints.real), flat(dist.constraints.positive))


def columns(*parts: Any) -> np.ndarray:
    return np.stack([np.asarray(part, float) for part in parts], axis=1)


def national_election(data: dict[str, Any]) -> np.ndarray:
    age = np.asarray(data["age_discrete"])
    ones = np.ones(len(age))
    middle = (data["real_ideo"], data["race_adj"], age == 2, age == 3, age == 4)
    return columns(ones, *middle, data["educ1"], data["gender"], data["income"])


def kid_score(data: dict[str, Any], *, interaction: bool) -> np.ndarray:
    school, iq = np.asarray(data["mom_hs"], float), np.asarray(data["mom_iq"], float)
    return columns(np.ones_like(iq), school, iq, *([school * iq] if interaction else []))


POSTERIORDB: dict[str, tuple[Callable[..., None], Callable[[dict[str, Any]], np.ndarray], str]] = {
    "sblrc-blr": (WIDE, lambda d: np.asarray(d["X"], float), "y"),
    "sblri-blr": (WIDE, lambda d: np.asarray(d["X"], float), "y"),
    "kidiq-kidscore_momhsiq": (HALF_CAUCHY, lambda d: kid_score(d, interaction=False), "kid_score"),
    "kidiq-kidscore_interaction": (HALF_CAUCHY, lambda d: kid_score(d, interaction=True), "kid_score"),
    "nes1980-nes": (FLAT, national_election, "partyid7"),
    "earnings-logearn_height": (FLAT, lambda d: columns(np.ones(d["N"]), d["height"]), "earn"),
}
"""Name -> model, data -> x, and the name of y."""


def posteriordb(name: str, folder: Path = FOLDER) -> Posterior:
    model, design, target = POSTERIORDB[name]
    with zipfile.ZipFile(folder / name / "data.json.zip") as archive:
        data = json.loads(archive.read(archive.namelist()[0]))
    y = np.asarray(data[target], float)
    mean, square = (json.loads((folder / name / f"{moment}.json").read_text()) for moment in ("mean", "mean_squared"))
    with zipfile.ZipFile(folder / name / "draws.json.zip") as archive:
        chains = json.loads(archive.read(archive.namelist()[0]))
    x = design(data)
    beta = np.stack([np.concatenate([chain[f"beta[{i + 1}]"] for chain in chains]) for i in range(x.shape[1])])
    eta = some(x) @ beta
    return Posterior(
        model,
        x,
        np.log(y) if target == "earn" else y,
        np.asarray(mean["mean_value"]),
        np.asarray(square["mean_squared_value"]),
        np.asarray(mean["mcse_mean"]),
        np.asarray(square["mcse_mean"]),
        (eta.mean(axis=1), eta.std(axis=1)),
    )


def linear(x: Array, y: Array | None = None) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand((x.shape[1],)).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def logistic(x: Array, y: Array | None = None) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.5).expand((x.shape[1],)).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def exact(
    model: Callable[..., None], x: np.ndarray, y: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> Posterior:
    square, zero = mean**2 + np.diag(covariance), np.zeros_like(mean)
    sd = np.sqrt(np.einsum("ij,jk,ik->i", some(x), covariance, some(x)))
    return Posterior(model, x, y, mean, square, zero, zero, (some(x) @ mean, sd))


def conjugate(num_weights: int) -> Posterior:
    """A Normal prior and a Normal likelihood of known scale, in closed form."""
    rng = np.random.default_rng(num_weights)
    x = rng.normal(size=(4 * num_weights, num_weights))
    y = x @ rng.normal(size=num_weights) + 0.5 * rng.normal(size=len(x))
    covariance = np.linalg.inv(x.T @ x / 0.25 + np.eye(num_weights))
    return exact(linear, x, y, covariance @ x.T @ y / 0.25, covariance)


def two_weights() -> Posterior:
    """Logistic regression on 20 rows, by quadrature on a grid of 1000 x 1000."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 2))
    y = (x @ [1.0, -0.5] + rng.logistic(size=20) > 0).astype(int)
    axis = np.linspace(-7.0, 7.0, 1000)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_density = -((grid / 1.5) ** 2).sum(axis=1) / 2 - np.logaddexp(0.0, (1 - 2 * y) * (grid @ x.T)).sum(axis=1)
    share = np.exp(log_density - log_density.max())
    share /= share.sum()
    mean = share @ grid
    return exact(logistic, x, y, mean, (grid - mean).T @ (share[:, None] * (grid - mean)))


CLOSED: dict[str, Callable[[], Posterior]] = {
    "conjugate, 5 weights": lambda: conjugate(5),
    "conjugate, 100 weights": lambda: conjugate(100),
    "two-weight logistic": two_weights,
}

MANY = {"num_chains": 8, "num_warmup": 10_000, "num_samples": 1000, "thinning": 20, "improper_ok": True}
METHODS: dict[str, Any] = {
    "NUTS": NUTS(num_warmup=1000, num_samples=1000, num_chains=4, improper_ok=True),
    "MCLMC, adjusted": MCLMC(**MANY, precondition=True, adjusted=True),
    "MCLMC()": MCLMC(improper_ok=True),
    "MCLMC, .0002": MCLMC(**MANY, precondition=True),
    "MCLMC, .002": MCLMC(**MANY, precondition=True, energy_variance=0.002),
    "MCLMC, .02": MCLMC(**MANY, precondition=True, energy_variance=0.02),
    "MCLMC, .2": MCLMC(**MANY, precondition=True, energy_variance=0.2),
}
"""MCLMC for several energy variances of its draws (.0002 is the default), and with all of its defaults."""


class Result(NamedTuple):
    """The result of one run, one entry per parameter, or per row of the predictions for `eta_...`."""

    mean: np.ndarray
    mean_square: np.ndarray
    z_mean: np.ndarray
    z_mean_square: np.ndarray
    eta_mean: np.ndarray
    eta_mean_square: np.ndarray
    status: str

    @property
    def worst(self) -> float:
        return float(max(np.abs(self.z_mean).max(), np.abs(self.z_mean_square).max()))


def get(name: str, folder: Path = FOLDER) -> Posterior:
    return CLOSED[name]() if name in CLOSED else posteriordb(name, folder)


def run(name: str, method: str, key: int, folder: Path = FOLDER) -> Result:
    """Run one fit and compare it with its reference."""
    posterior = get(name, folder)
    with jax.enable_x64(True):
        fitted = fit(posterior.model, METHODS[method], posterior.x, posterior.y, key=key, progress=False)
    sites = [fitted.draws[site] for site in ("beta", "sigma") if site in fitted.draws]
    draws = np.concatenate([site.reshape(*site.shape[:2], -1) for site in sites], axis=2)

    def moment(values: np.ndarray, expected: np.ndarray, expected_error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = values.mean(axis=(0, 1))
        error = array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean")
        return mean, (mean - expected) / np.sqrt(error**2 + expected_error**2)

    mean, z_mean = moment(draws, posterior.mean, posterior.mcse_mean)
    square, z_square = moment(draws**2, posterior.mean_square, posterior.mcse_mean_square)
    eta = sites[0] @ some(posterior.x).T
    moments = eta.mean(axis=(0, 1)), (eta**2).mean(axis=(0, 1))
    return Result(mean, square, z_mean, z_square, *moments, str(fitted.status))


def biases(posterior: Posterior, results: list[Result]) -> tuple[float, ...]:
    """Return the largest bias of a mean and of a standard deviation, for parameters and for predictions.

    In standard deviations of the posterior.
    """
    groups = (
        (posterior.mean, posterior.sd, [(result.mean, result.mean_square) for result in results]),
        (*posterior.predictions, [(result.eta_mean, result.eta_mean_square) for result in results]),
    )
    worst = []
    for expected, scale, moments in groups:
        mean = np.mean([mean for mean, _ in moments], axis=0)
        # The variance of each run is around its own mean, so that errors of the means do not add to it.
        sd = np.sqrt(np.mean([square - mean**2 for mean, square in moments], axis=0))
        for bias in ((mean - expected) / scale, sd / scale - 1):
            worst.append(float(bias[np.abs(bias).argmax()]))
    return tuple(worst)


def measured(
    names: list[str], methods: list[str], keys: int, folder: Path, processes: int
) -> Iterator[tuple[Any, ...]]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = {
            (name, method): [pool.submit(run, name, method, key, folder) for key in range(keys)]
            for name in names
            for method in methods
        }
        for (name, method), futures in pending.items():
            yield name, method, [future.result() for future in futures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--posteriors", help="separated by semicolons; all by default")
    parser.add_argument("--methods", help="separated by semicolons; all by default")
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.posteriors.split(";") if arguments.posteriors else [*CLOSED, *POSTERIORDB]
    if not arguments.data.exists():
        print(f"{arguments.data} does not exist, so posteriordb's posteriors are left out; give its folder as --data.")
        names = [name for name in names if name in CLOSED]
    methods = arguments.methods.split(";") if arguments.methods else list(METHODS)
    print(f"{'':46}{'passed':>8}{'worst |z|':>11}{'bias: mean':>12}{'sd':>8}{'predictions: mean':>19}{'sd':>8}  status")
    for name, method, results in measured(names, methods, arguments.keys, arguments.data, arguments.processes):
        passed = sum(result.worst < BOUND for result in results)
        mean, sd, eta_mean, eta_sd = biases(get(name, arguments.data), results)
        worst = max(result.worst for result in results)
        bad = [result.status for result in results if result.status != "ok"]
        status = f"{len(bad)} of {len(results)}: {bad[0]}" if bad else "ok"
        print(
            f"{name:28}{method:18}{passed:>4} of {len(results)}{worst:11.2f}{mean:12.3f}{sd:8.3f}"
            f"{eta_mean:19.3f}{eta_sd:8.3f}  {status}",
            flush=True,
        )


if __name__ == "__main__":
    main()
