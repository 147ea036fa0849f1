"""Quality of a network's posterior against seconds, on the UCI airfoil data, in one interleaved run.

    python benchmarks/posterior.py [--rounds 5] [--peers "MCLMC;NUTS"] [--activation relu] [--devices 2] [--bde PYTHON]
                                   [--widths 16 16 16 16] [--plot PNG] [--data CSV]

The protocol is that of the bde package (arXiv 2605.14146): `train_test_split` with random_state=0 makes 20% of the rows
test rows, x and y are standardised on the training rows, and scores are in standard deviations of y. All peers fit the
same network, by default [16]*4, with a second output for the scale, under a Normal(0, 1) prior. "NLL, Gaussian" is the
score of bde, for one Gaussian with the mean and standard deviation of the mixture; "NLL, mixture" is minus the elpd of
the mixture itself. The two are not comparable. "ESS" is the effective sample size of the network's output at a test
row, within chains: the bulk ESS summed over chains, and its median over 50 rows. It does not measure whether chains
agree; and for a chain that has not converged, no estimate is below about 5 to 10 per chain.

Each peer runs in a process of its own, one after the other, round after round; round r has seed r. Seconds are wall
time, from the data in memory to the predictions, including compilation; the table gives medians over rounds, and the
figure also shows each run. `--bde` names a Python in which bde is installed; without it bde is skipped.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("FLATPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "bde" / "airfoil.csv"
NUM_CHAIN_DRAWS = 20
"""The smallest number of draws that counts as a chain."""
NUM_PROBES = 50
"""The number of test rows at which the network's output is recorded along the chains."""
Scores = dict[str, float]
Measured = tuple[Scores, Callable[[], np.ndarray]]
"""Scores, and a function for the network's outputs at the probes, (chain, draw, row), called after the timing."""


def split(path: str) -> tuple[np.ndarray, ...]:
    """Return x, y, x_test, y_test, standardised."""
    from sklearn.model_selection import train_test_split

    table = np.loadtxt(path, delimiter=",", skiprows=1)
    x, x_test, y, y_test = train_test_split(table[:, :-1], table[:, -1], test_size=0.2, random_state=0)
    x_mean, x_sd, y_mean, y_sd = x.mean(axis=0), x.std(axis=0), y.mean(), y.std()
    return (x - x_mean) / x_sd, (y - y_mean) / y_sd, (x_test - x_mean) / x_sd, (y_test - y_mean) / y_sd


def gaussian_nll(y: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> float:
    return float(np.mean(0.5 * (y - mean) ** 2 / variance + 0.5 * np.log(2 * math.pi * variance)))


def flatprior(method: Callable[[Any], Any]) -> Callable[..., Measured]:
    """Return a peer for a method of the library; `method` maps `flatprior.inference` to it."""

    def run(data: tuple[np.ndarray, ...], network: dict[str, Any], devices: int, seed: int) -> Measured:
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
        from flatprior import inference
        from flatprior.models import MLP, Model, Normal, gaussian

        x, y, x_test, y_test = data
        model = Model(MLP(tuple(network["widths"]), network["activation"]), Normal("network"), gaussian(1.0))
        fit = inference.fit(model, method(inference), x, y, key=seed, progress=False)
        predictive = fit.predict(x_test)
        mean, variance = np.asarray(predictive.mean, float), np.asarray(predictive.variance, float)
        scores = {
            "rmse": float(np.sqrt(np.mean((mean - y_test) ** 2))),
            "gaussian": gaussian_nll(y_test, mean, variance),
            "mixture": -float(np.asarray(predictive.log_prob(y_test), float).mean()),
        }
        chains, draws = next(iter(fit.draws.values())).shape[:2]
        probes = fit.predict(x_test[:NUM_PROBES])
        return scores, lambda: probes.component_means.reshape(chains, draws, NUM_PROBES)

    return run


def bde(data: tuple[np.ndarray, ...], network: dict[str, Any], devices: int, seed: int) -> Measured:
    """Fit bde with the settings of its paper."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    from bde import BdeRegressor
    from bde.loss import GaussianNLL

    x, y, x_test, y_test = (np.asarray(part, np.float32) for part in data)
    regressor = BdeRegressor(
        hidden_layers=network["widths"],
        activation=network["activation"],
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
    chains = np.asarray(regressor.predict(x_test, raw=True), float).reshape(10, -1, len(y_test), 2)
    raw = chains.reshape(-1, len(y_test), 2)
    means, scales = raw[..., 0], np.logaddexp(0.0, raw[..., 1]) + 1e-6
    log_probs = -0.5 * ((y_test - means) / scales) ** 2 - np.log(scales) - 0.5 * math.log(2 * math.pi)
    mean = means.mean(axis=0)
    scores = {
        "rmse": float(np.sqrt(np.mean((mean - y_test) ** 2))),
        "gaussian": gaussian_nll(y_test, mean, (scales**2).mean(axis=0) + means.var(axis=0)),
        "mixture": -float((np.logaddexp.reduce(log_probs, axis=0) - math.log(len(raw))).mean()),
    }
    return scores, lambda: chains[:, :, :NUM_PROBES, 0]


PEERS: dict[str, Callable[..., Measured]] = {
    "MAP": flatprior(lambda lib: lib.MAP(num_steps=10_000)),
    "MLE ensemble of 10": flatprior(lambda lib: lib.Ensemble(base=lib.MLE(validation_fraction=0.1), num_members=10)),
    "MAP ensemble of 10": flatprior(lambda lib: lib.Ensemble(base=lib.MAP(num_steps=10_000), num_members=10)),
    "MCLMC, quarter": flatprior(lambda lib: lib.MCLMC(num_warmup=5000, num_samples=50)),
    "MCLMC, half": flatprior(lambda lib: lib.MCLMC(num_warmup=10_000, num_samples=100)),
    "MCLMC": flatprior(lambda lib: lib.MCLMC()),
    "MCLMC, double": flatprior(lambda lib: lib.MCLMC(num_warmup=40_000, num_samples=400)),
    "MCLMC, larger steps": flatprior(lambda lib: lib.MCLMC(warmup_energy_variance=3.0)),
    "MCLMC, fourfold": flatprior(lambda lib: lib.MCLMC(num_warmup=80_000, num_samples=800)),
    "NUTS, short": flatprior(lambda lib: lib.NUTS(num_warmup=50, num_samples=25, num_chains=10, max_tree_depth=8)),
    "NUTS": flatprior(lambda lib: lib.NUTS(num_warmup=150, num_samples=100, num_chains=10, max_tree_depth=8)),
    "bde": bde,
}
"""NUTS is NumPyro's, with the starting points of MCLMC, its chains spread over all devices. "MCLMC" is the default; the
others have the same settings with a multiple of its steps, except one, which explores with larger steps. The members of
the deep ensemble stop early, by 10% validation rows; without a prior they would go on to fit the noise."""


def measure(peer: str, data: str, network: dict[str, Any], devices: int, seed: int, values: str) -> dict[str, Any]:
    parts = split(data)
    started = time.perf_counter()
    try:
        scores, probes = PEERS[peer](parts, network, devices, seed)
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    seconds = time.perf_counter() - started
    np.save(values, probes())
    return {"seconds": seconds, **scores}


FAMILIES = {"MCLMC": ("#009E73", "o"), "NUTS": ("#0072B2", "^"), "MAP": ("#E69F00", "D"), "bde": ("0.1", "s")}
FAMILIES |= {"MLE ensemble": ("#CC79A7", "v"), "MAP ensemble": ("#56B4E9", "P")}
"""Family of peers -> (colour, marker)."""


def effective_size(values: np.ndarray) -> float:
    """The effective sample size within chains at the median row; values are (chain, draw, row)."""
    from arviz_stats.base import array_stats

    if values.shape[1] < NUM_CHAIN_DRAWS:
        return math.nan  # a point, or an ensemble
    each = [array_stats.ess(chain[None], chain_axis=0, draw_axis=1, method="bulk") for chain in values]
    return float(np.median(np.sum(each, axis=0)))


def run(peer: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run one peer in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        values = str(Path(folder, "values.npy"))
        python = arguments.bde if peer == "bde" else sys.executable
        command = [python, __file__, "--data", arguments.data, "--activation", arguments.activation]
        command += ["--widths", *map(str, arguments.widths)]
        command += ["--devices", str(arguments.devices), "--worker", peer, str(seed), values]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{peer} failed:\n{done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result if "missing" in result else {**result, "ess": effective_size(np.load(values))}


def plot(results: dict[str, list[dict[str, Any]]], title: str, path: str) -> None:
    """Plot quality against seconds: runs as small markers, medians as large ones, joined within a family."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10.0, 4.2), layout="constrained")
    panels = (
        ("mixture", "-elpd, nats per row", 0.0),
        ("rmse", "RMSE, standard deviations of y", math.inf),
    )
    for ax, (column, label, highest) in zip(axes, panels, strict=True):
        for family, (color, marker) in FAMILIES.items():
            members = [runs for name, runs in results.items() if name.split(",")[0].removesuffix(" of 10") == family]
            points = [[(run["seconds"], run[column]) for run in runs] for runs in members if "missing" not in runs[0]]
            if not points:
                continue
            each = np.concatenate(points)
            middle = np.array(sorted(np.median(of, axis=0).tolist() for of in points))
            ax.plot(each[:, 0], np.minimum(each[:, 1], highest), marker, color=color, ms=3.5, alpha=0.45)
            style: dict[str, Any] = {"marker": marker, "color": color, "ms": 8.0, "mec": "black", "lw": 1.5}
            ax.plot(middle[:, 0], np.minimum(middle[:, 1], highest), label=family, **style)
            for seconds, value in middle[middle[:, 1] > highest]:
                ax.annotate(f"{value:+.3g}", (seconds, highest), (9, -3), textcoords="offset points", va="top")
        ax.set(xscale="log", xlabel="seconds, including compilation", ylabel=label)
        ax.grid(alpha=0.25, which="both")
    axes[1].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="separated by semicolons; all by default")
    parser.add_argument("--activation", default="relu", help="default relu, as in bde; the library's default is silu")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[16] * 4, help="hidden units per layer; in bde 16 16 16 16"
    )
    parser.add_argument("--devices", type=int, default=os.cpu_count() or 1, help="by default one per core")
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--bde", help="a Python in which bde is installed")
    parser.add_argument("--plot", help="the file for the figure of quality against seconds")
    parser.add_argument("--worker", nargs=3, metavar=("PEER", "SEED", "NPY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer, seed, values = arguments.worker
        network = {"widths": arguments.widths, "activation": arguments.activation}
        print(json.dumps(measure(peer, arguments.data, network, arguments.devices, int(seed), values)))
        return
    if not Path(arguments.data).exists():
        raise SystemExit(
            f"Expected the airfoil table at {arguments.data}, which does not exist; give its path as --data."
        )
    peers = arguments.peers.split(";") if arguments.peers else list(PEERS)
    results: dict[str, list[dict[str, Any]]] = {peer: [] for peer in peers if peer != "bde" or arguments.bde}
    for seed in range(arguments.rounds):
        for peer, runs in results.items():
            runs.append(run(peer, arguments, seed))
            print(json.dumps({"peer": peer, "seed": seed, **runs[-1]}), file=sys.stderr, flush=True)
    title = f"airfoil, {arguments.widths} {arguments.activation}, Normal(0, 1) prior, {arguments.devices} devices"
    print(f"{title}; medians of {arguments.rounds}")
    columns = ("seconds", "rmse", "gaussian", "mixture", "ess")
    print(f"{'':20}{'seconds':>9}{'RMSE':>9}{'NLL, Gaussian':>16}{'NLL, mixture':>16}{'ESS':>8}{'ESS per second':>16}")
    for peer in peers:
        runs = results.get(peer, [{"missing": "bde"}])
        if "missing" in runs[0]:
            print(f"{peer:20}skipped: {runs[0]['missing']} is not installed in its Python (--bde)")
            continue
        seconds, rmse, gaussian, mixture, ess = (statistics.median(run[name] for run in runs) for name in columns)
        rate = statistics.median(run["ess"] / run["seconds"] for run in runs)
        size = "" if math.isnan(ess) else f"{ess:8.0f}{rate:16.2f}"
        print(f"{peer:20}{seconds:9.1f}{rmse:9.4f}{gaussian:16.3f}{mixture:16.3f}{size}")
    if arguments.plot:
        plot(results, title, arguments.plot)


if __name__ == "__main__":
    main()
