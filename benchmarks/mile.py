"""The one network posterior of this size whose predictive density is known: MILE's on the UCI airfoil data.

    python benchmarks/mile.py [--keys 5] [--chains 10 20] [--data airfoil.data]

The network is [16]*4 ReLU with two outputs, y ~ Normal(eta_0, exp(eta_1)) and Normal(0, 1) priors; rows are shuffled by
the seed of MILE's configurations (arXiv 2502.06335), 70% are fitted and the last 20% are scored; x and y are
standardised on all rows. With chains of 1,000 draws the log density of the mixture is, in standard deviations of y,
.614 for 1 chain, .726 for 2, .746 for 4, .782 for 10, .802 for 20 and .805 for 10,000, computed from the draws
published with arXiv 2603.22030. The table gives the mean over keys, its standard error, and the scatter of one key.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import logsumexp

from flatprior.inference import MCLMC, fit
from flatprior.models import MLP, gaussian

DATA = Path(os.environ.get("FLATPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mile" / "airfoil.data"
PUBLISHED = {1: 0.614, 2: 0.726, 4: 0.746, 8: 0.782, 10: 0.782, 20: 0.802}


def network(x: Array, y: Array | None = None) -> None:
    eta = MLP((16,) * 4, "relu")(x, 2, prior=gaussian(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(eta[:, 0], jnp.exp(eta[:, 1]).clip(1e-6, 1e6)), obs=y)


def split(path: Path) -> tuple[np.ndarray, ...]:
    table = np.loadtxt(path)
    with jax.threefry_partitionable(False):  # JAX's way of that time
        _, key = jax.random.split(jax.random.PRNGKey(4))
        order = np.asarray(jax.random.permutation(key, jnp.arange(len(table))))
    table = ((table - table.mean(axis=0)) / table.std(axis=0))[order]
    fitted, held_out = table[: int(0.7 * len(table))], table[int(0.8 * len(table)) :]
    return fitted[:, :-1], fitted[:, -1], held_out[:, :-1], held_out[:, -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=5)
    parser.add_argument("--chains", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if not arguments.data.exists():
        raise SystemExit(f"There is no {arguments.data}: give MILE's airfoil table as --data.")
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    most = max(arguments.chains)
    counts = sorted({1, 2, 4, *arguments.chains})
    scores: dict[int, list[float]] = {count: [] for count in counts}
    x, y, x_test, y_test = split(arguments.data)
    for key in range(arguments.keys):
        started = time.perf_counter()
        found = fit(network, MCLMC(num_chains=most, num_samples=arguments.draws), x, y, key=key, progress=False)
        log_probs = found.log_likelihood(x_test, y_test).astype(float)
        # Log of the mean likelihood of each chain: that of the first k chains is a mean of k of them.
        per_chain = logsumexp(log_probs, axis=1) - np.log(log_probs.shape[1])
        for count in counts:
            # Of all the ways to take that many chains in a row, so that all of them count.
            rows = [np.arange(first, first + count) % most for first in range(0, most, count)]
            values = [float((logsumexp(per_chain[some], axis=0) - np.log(count)).mean()) for some in rows]
            scores[count].append(float(np.mean(values)))
        rmse = float(np.sqrt(np.mean((found.predict(x_test).mean - y_test) ** 2)))
        told = ", ".join(f"{count}: {scores[count][-1]:.3f}" for count in counts)
        print(f"key {key}: {told}; RMSE {rmse:.4f}; {time.perf_counter() - started:.0f} s; {found.status}", flush=True)
    print(f"{'chains':>8}{'log density':>13}{'se':>7}{'of a key':>12}{'published':>11}")
    for count, values in scores.items():
        scatter = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        published = PUBLISHED.get(count, float("nan"))
        mean, error = float(np.mean(values)), scatter / len(values) ** 0.5
        print(f"{count:8d}{mean:13.3f}{error:7.3f}{scatter:12.3f}{published:11.3f}")


if __name__ == "__main__":
    main()
