"""Simulation-based calibration (Talts et al. 2018): if draws are from the posterior, ranks of the truth are uniform.

    python benchmarks/sbc.py [--replicates 256] [--problems NAME;...] [--methods NAME;...] [--plot PNG] [--processes 2]

A replicate draws weights from the prior and y given the weights, fits y, and counts how many of 63 thinned draws lie
below the truth, for every quantity: the weights if they are identified, otherwise values of the function (hidden units
can be permuted), and the log likelihood, which also detects a posterior that ignores some rows (Modrak et al. 2023). A
method passes if no chi-square test of uniformity over 8 bins has a p-value below .01, with a Bonferroni correction over
all tests of a run. No replicate is left out or repeated. Two samplers are broken on purpose, and must be detected.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.handlers import seed, substitute, trace
from scipy.stats import chisquare

from flatprior.inference import MAP, MCLMC, NUTS, Ensemble, Laplace, fit
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

DRAWS, THINNING, BINS = 63, 4, 8
"""The number of draws that a rank is based on, the thinning of NUTS, and the number of bins of the 64 ranks."""
LEVEL = 0.01
NARROW = 0.7
"""The factor by which a broken sampler shrinks its draws towards their mean."""
X = np.linspace(-1.5, 1.5, 12)[:, None]
PROBES = np.array([[-2.0], [0.3], [2.0]])


class Problem(NamedTuple):
    """A model, its rows, and whether its weights are identified."""

    model: Model
    x: np.ndarray
    weights: bool


PROBLEMS: dict[str, Problem] = {
    "linear": Problem(Model(MLP(), Normal(0.5), gaussian(1.0)), X, weights=True),
    "logistic": Problem(Model(MLP(), Bernoulli(), gaussian(1.5)), np.repeat(X, 2, axis=0), weights=True),
    "network": Problem(Model(MLP((3,), "tanh"), Normal(0.5), gaussian(1.0)), X, weights=False),
}
CHAIN = {"num_samples": DRAWS * THINNING, "num_chains": 1, "start": None}
METHODS: dict[str, Any] = {
    "NUTS": NUTS(num_warmup=200, **CHAIN),
    "MCLMC, adjusted": MCLMC(num_warmup=1000, adjusted=True, **{**CHAIN, "num_samples": DRAWS}, thinning=40),
    "MCLMC": MCLMC(num_warmup=1000, **{**CHAIN, "num_samples": DRAWS}, thinning=40),
    "Laplace": Laplace(base=MAP(num_steps=400), num_samples=DRAWS),
    "Ensemble": Ensemble(base=MAP(num_steps=400, polish=False), num_members=DRAWS),
    "too narrow": NUTS(num_warmup=200, **CHAIN),
    "half the rows": NUTS(num_warmup=200, **CHAIN),
}
EXACT = ("NUTS", "MCLMC, adjusted")
BROKEN = ("too narrow", "half the rows")


def quantities(problem: Problem, weights: dict[str, Array], x: Array, y: Array) -> dict[str, Array]:
    """Return the quantities to rank, at one draw."""
    model = problem.model
    eta = lambda at: substitute(model.network, weights)(at, prior=model.prior)[:, 0]  # noqa: E731
    observed = trace(substitute(seed(model, 0), weights)).get_trace(x, y)["y"]
    values = {f"f({at[0]:g})": value for at, value in zip(PROBES, eta(jnp.asarray(PROBES)), strict=True)}
    if problem.weights:
        values |= {"slope": weights["w1"][0, 0], "intercept": weights["b1"][0]}
    return values | {"log likelihood": observed["fn"].log_prob(observed["value"]).sum()}


def ranks(name: str, method: str, replicates: range) -> dict[str, np.ndarray]:
    """Return quantity -> the ranks of the truth among the draws, (replicate,), each from 0 to 63."""
    problem = PROBLEMS[name]
    model, x = problem.model, jnp.asarray(problem.x, jnp.float32)
    of_draws = jax.jit(jax.vmap(partial(quantities, problem), in_axes=(0, None, None)))

    @jax.jit
    def simulate(key: Array) -> tuple[dict[str, Array], Array]:
        sites = trace(seed(model, key)).get_trace(x)
        values = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
        y = values.pop("y")
        return values, y

    below: dict[str, list[int]] = {}
    for replicate in replicates:
        key_truth, key_fit = jax.random.split(jax.random.fold_in(jax.random.key(2018), replicate))
        truth, y = simulate(key_truth)
        part = slice(0, None, 2) if method == "half the rows" else slice(None)
        fitted = fit(model, METHODS[method], x[part], np.asarray(y)[part], key=key_fit, progress=False)
        draws = {site: value.reshape(-1, *value.shape[2:]) for site, value in fitted.draws.items()}
        step = len(next(iter(draws.values()))) // DRAWS
        draws = {site: value[step - 1 :: step] for site, value in draws.items()}
        if method == "too narrow":
            draws = {site: value.mean(axis=0) + NARROW * (value - value.mean(axis=0)) for site, value in draws.items()}
        one = of_draws({site: value[None] for site, value in truth.items()}, x, y)
        for quantity, values in of_draws(draws, x, y).items():
            assert len(values) == DRAWS
            below.setdefault(quantity, []).append(int((np.asarray(values) < np.asarray(one[quantity])).sum()))
    return {quantity: np.array(values) for quantity, values in below.items()}


def p_value(rank: np.ndarray) -> float:
    """Return the p-value of the hypothesis that ranks are uniform."""
    return float(chisquare(np.bincount(rank * BINS // (DRAWS + 1), minlength=BINS)).pvalue)


def right(of_quantity: dict[str, np.ndarray], tests: int = 1) -> bool:
    """Whether the ranks of all quantities pass, with a Bonferroni correction over quantities and `tests` runs."""
    return min(map(p_value, of_quantity.values())) > LEVEL / (len(of_quantity) * tests)


def measured(
    names: list[str], methods: list[str], replicates: int, processes: int
) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Yield problem, method and ranks as they become available."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = {
            (name, method): pool.submit(ranks, name, method, range(replicates)) for name in names for method in methods
        }
        for (name, method), future in pending.items():
            yield name, method, future.result()


def plot(results: dict[tuple[str, str], dict[str, np.ndarray]], path: Path) -> None:
    """Plot the histograms of ranks for each problem and method, with the sampling band of one quantity."""
    import matplotlib.pyplot as plt
    from scipy.stats import binom

    names, methods = (list(dict.fromkeys(pair[i] for pair in results)) for i in (0, 1))
    figure, axes = plt.subplots(
        len(methods), len(names), figsize=(3 * len(names), 1.5 * len(methods)), sharex=True, squeeze=False
    )
    for (name, method), of_quantity in results.items():
        ax = axes[methods.index(method), names.index(name)]
        total = len(next(iter(of_quantity.values())))
        ax.axhspan(*(binom.ppf(q, total, 1 / BINS) for q in (0.005, 0.995)), color="0.9")
        for rank in of_quantity.values():
            ax.stairs(np.bincount(rank * BINS // (DRAWS + 1), minlength=BINS), np.arange(BINS + 1), lw=1)
        ax.set(ylim=(0, None), xticks=[], ylabel=method if ax is axes[methods.index(method), 0] else "")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name)
    figure.supxlabel("rank of the truth among the draws")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print one line for each problem and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=256)
    parser.add_argument("--problems", default=";".join(PROBLEMS), help="separated by semicolons")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    names, methods = chosen.problems.split(";"), chosen.methods.split(";")
    tests, results, wrong = len(names) * len(methods), {}, []
    print(f"{'':10}{'':17}{'smallest p':>12}  quantity          uniform")
    for name, method, of_quantity in measured(names, methods, chosen.replicates, chosen.processes):
        results[name, method] = of_quantity
        p_values = {quantity: p_value(rank) for quantity, rank in of_quantity.items()}
        worst = min(p_values, key=lambda quantity: p_values[quantity])
        passed = right(of_quantity, tests)
        print(f"{name:10}{method:17}{p_values[worst]:12.2g}  {worst:17} {'yes' if passed else 'no'}", flush=True)
        wrong += [f"{method} on {name}"] * ((method in EXACT and not passed) or (method in BROKEN and passed))
    if chosen.plot:
        plot(results, chosen.plot)
    sys.exit(f"Unexpected results: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    numpyro.enable_validation(False)
    main()
