"""Seconds to the first fit by NUTS, and to the next, beside NumPyro's own chains, each in a process of its own.

    python benchmarks/first_fit.py [--rounds 3]

Both draw from the same NumPyro model with the same settings: 4 chains of 50 warm-up steps and 50 draws, trajectories of
at most 63 steps, on as many CPU devices as chains for NumPyro's "parallel" chains, and on one device for ours and for
its "vectorized" chains. So nearly all of the time is compilation; nothing is read from a cache on disk. Ours include
the descents from which chains start and the checks of data, model and draws. "CPU" is processor time, which other
programs on the machine change less than wall time; the second fit has another key. Medians over rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PROBLEMS = ("logistic regression, 500 x 5", "network of 16 units, 500 x 5")
SAMPLERS = ("flatprior", "NumPyro, parallel", "NumPyro, vectorized")
SETTINGS = {"num_warmup": 50, "num_samples": 50, "num_chains": 4}
DEPTH = 6


def problem(name: str) -> tuple[Any, Any, Any]:
    """Return the model of a problem, x and y."""
    import numpy as np

    from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5)).astype(np.float32)
    if name == PROBLEMS[0]:
        y = (x.sum(axis=1) + rng.logistic(size=500) > 0).astype(np.int32)
        return Model(MLP(), Bernoulli(), gaussian(1.0)), x, y
    y = (np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.3 * rng.normal(size=500)).astype(np.float32)
    return Model(MLP((16,)), Normal("network"), gaussian(1.0)), x, y


def fitter(sampler: str) -> Callable[..., Any]:
    """Return a function of model, x, y and key that draws."""
    import jax

    if sampler == SAMPLERS[0]:
        from flatprior.inference import NUTS, fit

        method = NUTS(**SETTINGS, max_tree_depth=DEPTH)
        return lambda model, x, y, key: fit(model, method, x, y, key=key, progress=False)
    from numpyro import infer

    def run(model: Any, x: Any, y: Any, key: int) -> Any:
        how = sampler.split(", ")[1]
        chains = infer.MCMC(infer.NUTS(model, max_tree_depth=DEPTH), chain_method=how, progress_bar=False, **SETTINGS)
        chains.run(jax.random.key(key), x, y)
        return jax.block_until_ready(chains.get_samples())

    return run


def measure(sampler: str, name: str) -> list[list[float]]:
    """Return the wall and processor seconds of the first fit and of the second."""
    import jax

    jax.config.update("jax_num_cpu_devices", SETTINGS["num_chains"] if sampler == SAMPLERS[1] else 1)
    draw, (model, x, y) = fitter(sampler), problem(name)
    seconds = []
    for key in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        draw(model, x, y, key)
        seconds.append([time.perf_counter() - wall, time.process_time() - cpu])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(*arguments.worker)))
        return
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    found: dict[tuple[str, str], list[list[list[float]]]] = {}
    for _ in range(arguments.rounds):
        for name in PROBLEMS:
            for sampler in SAMPLERS:
                command = [sys.executable, __file__, "--worker", sampler, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                found.setdefault((name, sampler), []).append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':52}{'first: s':>10}{'CPU s':>8}{'again: s':>10}{'CPU s':>8}")
    for (name, sampler), runs in found.items():
        medians = [statistics.median(run[fit][kind] for run in runs) for fit in (0, 1) for kind in (0, 1)]
        print(f"{name:31}{sampler:21}{medians[0]:10.1f}{medians[1]:8.1f}{medians[2]:10.2f}{medians[3]:8.2f}")


if __name__ == "__main__":
    main()
