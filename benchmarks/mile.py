"""A network posterior whose predictive density has been published: MILE's on the UCI airfoil data.

    python benchmarks/mile.py [--keys 5] [--chains 10 20] [--data airfoil.data]

The network is [16]*4 ReLU with two outputs, y ~ Normal(eta_0, exp(eta_1)) and Normal(0, 1) priors; rows are shuffled
with the seed of MILE's configurations (arXiv 2502.06335), the first 70% are training rows and the last 20% test rows; x
and y are standardised on all rows. With chains of 1,000 draws the elpd of the mixture, for y in standard deviations, is
.614 nats per row for 1 chain, .726 for 2, .746 for 4, .782 for 10, .802 for 20 and .805 for 10,000, computed from the
draws published with arXiv 2603.22030. The table gives the mean over keys, its standard error, and the standard
deviation over keys.
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
    with jax.threefry_partitionable(False):  # JAX's default when the split was published
        _, key = jax.random.split(jax.random.PRNGKey(4))
        order = np.asarray(jax.random.permutation(key, jnp.arange(len(table))))
    table = ((table - table.mean(axis=0)) / table.std(axis=0))[order]
    train, test = table[: int(0.7 * len(table))], table[int(0.8 * len(table)) :]
    return train[:, :-1], train[:, -1], test[:, :-1], test[:, -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=5)
    parser.add_argument("--chains", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if not arguments.data.exists():
        raise SystemExit(
            f"Expected MILE's airfoil table at {arguments.data}, which does not exist; give its path as --data."
        )
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    most = max(arguments.chains)
    counts = sorted({1, 2, 4, *arguments.chains})
    scores: dict[int, list[float]] = {count: [] for count in counts}
    x, y, x_test, y_test = split(arguments.data)
    for key in range(arguments.keys):
        started = time.perf_counter()
        fitted = fit(network, MCLMC(num_chains=most, num_samples=arguments.draws), x, y, key=key, progress=False)
        log_probs = fitted.log_likelihood(x_test, y_test).astype(float)
        # The log of the mean likelihood over the draws of each chain; a mixture of chains averages these likelihoods.
        per_chain = logsumexp(log_probs, axis=1) - np.log(log_probs.shape[1])
        for count in counts:
            # Average over all runs of `count` consecutive chains, so that each chain counts.
            rows = [np.arange(first, first + count) % most for first in range(0, most, count)]
            values = [float((logsumexp(per_chain[some], axis=0) - np.log(count)).mean()) for some in rows]
            scores[count].append(float(np.mean(values)))
        rmse = float(np.sqrt(np.mean((fitted.predict(x_test).mean - y_test) ** 2)))
        elpds = ", ".join(f"{count}: {scores[count][-1]:.3f}" for count in counts)
        print(
            f"key {key}: {elpds}; RMSE {rmse:.4f}; {time.perf_counter() - started:.0f} s; {fitted.status}", flush=True
        )
    print(f"{'chains':>8}{'elpd':>13}{'se':>7}{'sd of keys':>12}{'published':>11}")
    for count, values in scores.items():
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        published = PUBLISHED.get(count, float("nan"))
        mean, error = float(np.mean(values)), sd / len(values) ** 0.5
        print(f"{count:8d}{mean:13.3f}{error:7.3f}{sd:12.3f}{published:11.3f}")


if __name__ == "__main__":
    main()
