"""Coverage of predictive intervals on simulated data, for every kind of y: does the exact posterior cover as it says?

    python benchmarks/coverage.py [--replicates 200] [--kinds NAME;...] [--processes 2]

A replicate draws weights from the prior, and y given the weights for 25 rows that are fitted by NUTS and 25 others.
Of these, the share within the central 90% interval of the posterior predictive distribution is compared with the
probability that the same distribution gives to the interval, which for discrete y is above 90%. Replicates are
independent, so the standard error is that of the mean over replicates: a z of more than 3.5 in absolute value, in any
kind, is a failure. One predictive distribution is broken on purpose, that of a point estimate from few rows, and
must be detected.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.handlers import seed, trace

from flatprior.inference import MAP, NUTS, fit
from flatprior.models import (
    MLP,
    Beta,
    Exponential,
    Gamma,
    LogNormal,
    Model,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    Weibull,
    gaussian,
)

LEVEL = 0.9
LIMIT = 3.5
X = np.linspace(-1.5, 1.5, 50)[:, None]
FITTED, OTHERS = X[::2], X[1::2]
SPREAD = dist.LogNormal(0.0, 0.3)
"""The prior of scales and concentrations: so narrow that no simulated y is rounded to the end of its range."""
KINDS: dict[str, Any] = {
    "Normal": Normal(SPREAD),
    "StudentT": StudentT(df=4.0, scale=SPREAD),
    "LogNormal": LogNormal(SPREAD),
    "Gamma": Gamma(SPREAD),
    "Weibull": Weibull(SPREAD),
    "Exponential": Exponential(),
    "Beta": Beta(dist.LogNormal(1.5, 0.3)),
    "Poisson": Poisson(),
    "NegativeBinomial": NegativeBinomial(SPREAD),
    "Ordinal": Ordinal(4),
}
SAMPLER = NUTS(num_warmup=200, num_samples=200, num_chains=1, start=None)
BROKEN = "Normal, point"
"""A point estimate from five rows, whose intervals leave out what it does not know about the weights."""


class Covered(NamedTuple):
    """The mean over the rows of a replicate."""

    share: float
    """The share of y within the interval."""
    promised: float
    """The probability that the predictive distribution gives to it."""


def covered(kind: str, replicates: range) -> list[Covered]:
    """Return the coverage of each replicate."""
    is_point = kind == BROKEN
    model = Model(MLP(), KINDS[kind.split(",")[0]], gaussian(0.7))
    fitted, others = (X[::10], OTHERS) if is_point else (FITTED, OTHERS)

    @jax.jit
    def simulate(key: Array) -> Array:
        return trace(seed(model, key)).get_trace(np.concatenate([fitted, others]).astype(np.float32))["y"]["value"]

    results = []
    for replicate in replicates:
        key_truth, key_fit = jax.random.split(jax.random.fold_in(jax.random.key(90), replicate))
        y = np.asarray(simulate(key_truth))
        train, test = y[: len(fitted)], y[len(fitted) :]
        posterior = fit(model, MAP() if is_point else SAMPLER, fitted, train, key=key_fit, progress=False)
        predictive = posterior.predict(others)
        low, high = predictive.interval(LEVEL)
        inside = (low <= test) & (test <= high)
        results.append(Covered(float(inside.mean()), float((predictive.pit(high)[1] - predictive.pit(low)[0]).mean())))
    return results


def z_score(results: list[Covered]) -> float:
    """Return the mean excess of the coverage over what is promised, in standard errors."""
    excess = np.array([each.share - each.promised for each in results])
    return float(excess.mean() / (excess.std(ddof=1) / math.sqrt(len(excess))))


def measured(kinds: list[str], replicates: int, processes: int) -> Iterator[tuple[str, list[Covered]]]:
    """Yield kind and coverage as they become available."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = {kind: pool.submit(covered, kind, range(replicates)) for kind in kinds}
        for kind, future in pending.items():
            yield kind, future.result()


def main() -> None:
    """Print one line for each kind of y."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--kinds", default=";".join([*KINDS, BROKEN]), help="separated by semicolons")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    print(f"{'':18}{'promised':>9}{'covered':>9}{'z':>7}")
    wrong = []
    for kind, results in measured(chosen.kinds.split(";"), chosen.replicates, chosen.processes):
        share, promised, z = *(np.mean(each) for each in zip(*results, strict=True)), z_score(results)
        print(f"{kind:18}{promised:9.3f}{share:9.3f}{z:7.1f}", flush=True)
        if (abs(z) > LIMIT) != (kind == BROKEN):
            wrong.append(kind)
    sys.exit(f"Unexpected coverage: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    numpyro.enable_validation(False)
    main()
