"""Quality against seconds of a network's posterior, on the UCI airfoil data, in one interleaved run.

    python benchmarks/posterior.py [--rounds 5] [--peers MCLMC,NUTS,...] [--activation relu] [--data CSV] [--bde PYTHON]

The protocol is that of the bde package (arXiv 2605.14146): 20% of the rows are held out by `train_test_split` with
random_state=0, x and y are standardised on the training rows, and scores are in standard deviations of y. Everyone fits
the same network, [16]*4 with a second output for the scale, under a Normal(0, 1) prior. "NLL, Gaussian" is bde's: of
one Gaussian with the mean and standard deviation of the mixture; "NLL, mixture" is the negative log density of the
mixture itself. The two must not be compared. Each peer is a process of its own, in turn, round after round; round r has
seed r. Seconds are of wall time, from the data in memory to the predictions, compiling included; the table gives
medians over rounds. `--bde` names a Python in which bde is installed; without it bde is skipped.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("FLATPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "bde" / "airfoil.csv"
DEVICES = os.cpu_count() or 1
Scores = dict[str, float]


def split(path: str) -> tuple[np.ndarray, ...]:
    """(x, y) to fit and (x, y) held out, standardised."""
    from sklearn.model_selection import train_test_split

    table = np.loadtxt(path, delimiter=",", skiprows=1)
    x, x_test, y, y_test = train_test_split(table[:, :-1], table[:, -1], test_size=0.2, random_state=0)
    (mean, scale), (level, spread) = (x.mean(axis=0), x.std(axis=0)), (y.mean(), y.std())
    return (x - mean) / scale, (y - level) / spread, (x_test - mean) / scale, (y_test - level) / spread


def gaussian_nll(y: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> float:
    return float(np.mean(0.5 * (y - mean) ** 2 / variance + 0.5 * np.log(2 * math.pi * variance)))


def flatprior(method: Callable[[Any], Any]) -> Callable[..., Scores]:
    """A method of the library, given `flatprior.inference`."""

    def run(data: tuple[np.ndarray, ...], activation: str, seed: int) -> Scores:
        import jax

        jax.config.update("jax_num_cpu_devices", DEVICES)
        from flatprior import inference
        from flatprior.models import MLP, Model, Normal, gaussian

        x, y, x_test, y_test = data
        model = Model(MLP((16,) * 4, activation), Normal("network"), gaussian(1.0))
        found = inference.fit(model, method(inference), x, y, key=seed, progress=False)
        predictive = found.predict(x_test)
        mean, variance = np.asarray(predictive.mean, float), np.asarray(predictive.variance, float)
        return {
            "rmse": float(np.sqrt(np.mean((mean - y_test) ** 2))),
            "gaussian": gaussian_nll(y_test, mean, variance),
            "mixture": -float(np.asarray(predictive.log_prob(y_test), float).mean()),
        }

    return run


def bde(data: tuple[np.ndarray, ...], activation: str, seed: int) -> Scores:
    """The settings of its paper, with one device a core."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    from bde import BdeRegressor
    from bde.loss import GaussianNLL

    x, y, x_test, y_test = (np.asarray(part, np.float32) for part in data)
    regressor = BdeRegressor(
        hidden_layers=[16] * 4,
        activation=activation,
        n_members=10,
        seed=seed,
        loss=GaussianNLL(),
        epochs=1200,
        patience=20,
        warmup_steps=50_000,
        n_samples=1000,
        n_thinning=10,
    )
    regressor.fit(x, y)
    raw = np.asarray(regressor.predict(x_test, raw=True), float).reshape(-1, len(y_test), 2)
    means, scales = raw[..., 0], np.logaddexp(0.0, raw[..., 1]) + 1e-6
    log_probs = -0.5 * ((y_test - means) / scales) ** 2 - np.log(scales) - 0.5 * math.log(2 * math.pi)
    mean = means.mean(axis=0)
    return {
        "rmse": float(np.sqrt(np.mean((mean - y_test) ** 2))),
        "gaussian": gaussian_nll(y_test, mean, (scales**2).mean(axis=0) + means.var(axis=0)),
        "mixture": -float((np.logaddexp.reduce(log_probs, axis=0) - math.log(len(raw))).mean()),
    }


PEERS: dict[str, Callable[..., Scores]] = {
    "MAP": flatprior(lambda lib: lib.MAP(num_steps=10_000)),
    "Ensemble of 10": flatprior(lambda lib: lib.Ensemble(base=lib.MAP(num_steps=10_000), size=10)),
    "MCLMC, short": flatprior(lambda lib: lib.MCLMC(num_warmup=6000, num_samples=50)),
    "MCLMC, 22 s": flatprior(lambda lib: lib.MCLMC(num_warmup=14_000, num_samples=100)),
    "MCLMC": flatprior(lambda lib: lib.MCLMC()),
    "MCLMC, long": flatprior(lambda lib: lib.MCLMC(num_warmup=60_000, num_samples=400)),
    "NUTS": flatprior(lambda lib: lib.NUTS(num_warmup=100, num_samples=50, num_chains=10, max_tree_depth=8)),
    "bde": bde,
}


def measure(peer: str, data: str, activation: str, seed: int) -> dict[str, Any]:
    parts = split(data)
    started = time.perf_counter()
    try:
        scores = PEERS[peer](parts, activation, seed)
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    return {"seconds": time.perf_counter() - started, **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="separated by semicolons; all by default")
    parser.add_argument("--activation", default="relu", help="bde's is relu, the library's default silu")
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--bde", help="a Python in which bde is installed")
    parser.add_argument("--worker", nargs=2, metavar=("PEER", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer, seed = arguments.worker
        print(json.dumps(measure(peer, arguments.data, arguments.activation, int(seed))))
        return
    if not Path(arguments.data).exists():
        raise SystemExit(f"There is no {arguments.data}: give the airfoil table as --data.")
    peers = arguments.peers.split(";") if arguments.peers else list(PEERS)
    results: dict[str, list[dict[str, Any]]] = {peer: [] for peer in peers if peer != "bde" or arguments.bde}
    for seed in range(arguments.rounds):
        for peer, runs in results.items():
            python = arguments.bde if peer == "bde" else sys.executable
            command = [python, __file__, "--data", arguments.data, "--activation", arguments.activation]
            done = subprocess.run([*command, "--worker", peer, str(seed)], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{peer} failed:\n{done.stderr}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"airfoil, [16]*4 {arguments.activation}, Normal(0, 1) prior, {DEVICES} cores; medians of {arguments.rounds}")
    print(f"{'':16}{'seconds':>9}{'RMSE':>9}{'NLL, Gaussian':>16}{'NLL, mixture':>16}")
    for peer in peers:
        runs = results.get(peer, [{"missing": "bde"}])
        if "missing" in runs[0]:
            print(f"{peer:16}skipped: {runs[0]['missing']} is not installed in its Python (--bde)")
            continue
        seconds, *scores = (
            statistics.median(run[name] for run in runs) for name in ("seconds", "rmse", "gaussian", "mixture")
        )
        print(f"{peer:16}{seconds:9.1f}{scores[0]:9.4f}{scores[1]:16.3f}{scores[2]:16.3f}")


if __name__ == "__main__":
    main()
