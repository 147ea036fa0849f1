"""Speed of a maximum likelihood fit, against the limit and against peers, in one interleaved run.

    python benchmarks/point.py [--rounds 3] [--workloads 1,2,3,4] [--torch PYTHON]

Every peer trains the same network (tanh, softmax over ten classes, Adam at 1e-3) for the same number of updates, each
as a process of its own, in turn, round after round. A process makes its data, times its first fit (compiling included)
and then three more; the table gives medians over rounds. The limit is a hand-written optax loop in one jitted scan. A
peer that is not installed is skipped; `--torch` names a Python that has PyTorch, if it is another one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CLASSES = 10
REPEATS = 3


@dataclass(frozen=True)
class Workload:
    rows: int
    features: int
    widths: tuple[int, ...]
    batch_size: int | None
    num_steps: int

    def __str__(self) -> str:
        batch = "full batch" if self.batch_size is None else f"batch {self.batch_size}"
        return f"{self.rows:,} x {self.features}, {list(self.widths)}, {batch}, {self.num_steps:,} steps"

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.rows, self.features), dtype=np.float32)
        logits = x @ rng.standard_normal((self.features, CLASSES), dtype=np.float32) / self.features**0.5
        return x, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.features, *self.widths, CLASSES)

    @property
    def steps_per_epoch(self) -> int:
        return 1 if self.batch_size is None else self.rows // self.batch_size

    @property
    def epochs(self) -> int:
        return -(-self.num_steps // self.steps_per_epoch)


WORKLOADS = {
    1: Workload(1_000, 8, (16, 16), None, 2_000),
    2: Workload(1_000, 8, (50,), 32, 3_000),
    3: Workload(10_000, 100, (64, 64), 128, 2_000),
    4: Workload(60_000, 784, (256, 128), 128, 468),
}


def flatprior(work: Workload) -> Callable[[], float]:
    import jax.numpy as jnp
    import optax

    from flatprior.inference import MLE, fit
    from flatprior.models import MLP, Categorical, Model

    x, y = map(jnp.asarray, work.data())  # on the device, as for the scan
    model = Model(MLP(work.widths, "tanh"), Categorical(CLASSES))
    method = MLE(optimizer=optax.adam(1e-3), num_steps=work.num_steps, batch_size=work.batch_size)
    return lambda: fit(model, method, x, y, key=0, progress=False).stats["loss"][0, -1].item()


def scan(work: Workload) -> Callable[[], float]:
    """The limit: what one would write by hand for this one network."""
    import jax
    import jax.numpy as jnp
    import optax

    x, y = map(jnp.asarray, work.data())
    optimizer = optax.adam(1e-3)
    batch = work.batch_size

    def loss(params: Any, x: Any, y: Any) -> Any:
        h = x
        for w, b in params[:-1]:
            h = jnp.tanh(h @ w + b)
        w, b = params[-1]
        return optax.softmax_cross_entropy_with_integer_labels(h @ w + b, y).mean()

    @jax.jit
    def train(key: Any, x: Any, y: Any) -> Any:
        keys = jax.random.split(key, len(work.sizes))
        params = [
            (jax.random.normal(k, (i, o)) / i**0.5, jnp.zeros(o))
            for k, i, o in zip(keys[1:], work.sizes[:-1], work.sizes[1:], strict=True)
        ]

        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            part = (x, y) if rows is None else (x[rows], y[rows])
            value, grads = jax.value_and_grad(loss)(params, *part)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        carry = (params, optimizer.init(params))
        if batch is None:
            return jax.lax.scan(step, carry, None, length=work.num_steps)
        used = work.steps_per_epoch * batch
        order = jax.vmap(lambda k: jax.random.permutation(k, work.rows)[:used])(jax.random.split(keys[0], work.epochs))
        return jax.lax.scan(step, carry, order.reshape(-1, batch)[: work.num_steps])

    def run() -> float:
        _, losses = jax.block_until_ready(train(jax.random.key(0), x, y))
        return float(losses[-1]) * work.rows

    return run


def svi_run(work: Workload) -> Callable[[], float]:
    """NumPyro as its documentation has it: AutoDelta, a subsampled plate, `SVI.run` without a progress bar."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import optax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoDelta

    x, y = map(jnp.asarray, work.data())

    def model(x: Any, y: Any) -> None:
        weights = []
        for i, (a, b) in enumerate(zip(work.sizes[:-1], work.sizes[1:], strict=True)):
            w = numpyro.sample(f"w{i}", dist.Normal(0, 1).expand([a, b]).to_event(2).mask(False))
            weights.append((w, numpyro.sample(f"b{i}", dist.Normal(0, 1).expand([b]).to_event(1).mask(False))))
        with numpyro.plate("row", work.rows, subsample_size=work.batch_size):
            h, labels = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
            for w, b in weights[:-1]:
                h = jnp.tanh(h @ w + b)
            w, b = weights[-1]
            numpyro.sample("y", dist.Categorical(logits=h @ w + b), obs=labels)

    svi = SVI(model, AutoDelta(model), optax.adam(1e-3), Trace_ELBO())
    return lambda: float(svi.run(jax.random.key(0), work.num_steps, x, y, progress_bar=False).losses[-1])


def scikit_learn(work: Workload) -> Callable[[], float]:
    import warnings

    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")
    x, y = work.data()

    def run() -> float:
        network = MLPClassifier(
            work.widths,
            activation="tanh",
            alpha=0.0,
            batch_size=work.batch_size or work.rows,
            learning_rate_init=1e-3,
            max_iter=work.epochs,
            tol=0.0,
            n_iter_no_change=work.epochs + 1,
            random_state=0,
        ).fit(x, y)
        return network.loss_ * work.rows

    return run


def pytorch(work: Workload) -> Callable[[], float]:
    import torch

    x, y = (torch.from_numpy(array) for array in work.data())
    y = y.long()

    def run() -> float:
        torch.manual_seed(0)
        layers: list[Any] = []
        for a, b in zip(work.sizes[:-1], work.sizes[1:], strict=True):
            layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
        network = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        loss, step = torch.tensor(0.0), 0
        while step < work.num_steps:
            order = torch.randperm(work.rows) if work.batch_size else None
            for i in range(work.steps_per_epoch):
                if step == work.num_steps:
                    break
                rows = slice(None) if order is None else order[i * work.batch_size : (i + 1) * work.batch_size]
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
                step += 1
        return loss.item() * work.rows

    return run


PEERS = {
    "flatprior": flatprior,
    "optax scan": scan,
    "SVI.run": svi_run,
    "scikit-learn": scikit_learn,
    "PyTorch": pytorch,
}


def measure(peer: str, workload: int) -> dict[str, Any]:
    """The seconds of the first fit and of each of the next ones, in this process."""
    try:
        run = PEERS[peer](WORKLOADS[workload])
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    seconds, loss = [], float("nan")
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        loss = run()
        seconds.append(time.perf_counter() - started)
    return {"first": seconds[0], "again": statistics.median(seconds[1:]), "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", default="1,2,3,4")
    parser.add_argument("--torch", default=sys.executable, help="a Python in which PyTorch is installed")
    parser.add_argument("--worker", nargs=2, metavar=("PEER", "WORKLOAD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker[0], int(arguments.worker[1]))))
        return
    print("seconds: the first fit, compiling included / a fit again; x: ratio to the optax scan, above 1 is slower")
    for workload in map(int, arguments.workloads.split(",")):
        print(f"\n{WORKLOADS[workload]}")
        results: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
        for _ in range(arguments.rounds):
            for peer in PEERS:
                python = arguments.torch if peer == "PyTorch" else sys.executable
                command = [python, __file__, "--worker", peer, str(workload)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{peer} failed:\n{done.stderr}")
                results[peer].append(json.loads(done.stdout.splitlines()[-1]))
        limit = {k: statistics.median(r[k] for r in results["optax scan"]) for k in ("first", "again")}
        print(f"  {'':14}{'first':>9}{'x':>7}{'again':>10}{'x':>7}{'last loss':>12}")
        for peer, runs in results.items():
            if "missing" in runs[0]:
                print(f"  {peer:14}skipped: {runs[0]['missing']} is not installed")
                continue
            first, again, loss = (statistics.median(r[k] for r in runs) for k in ("first", "again", "loss"))
            ratios = first / limit["first"], again / limit["again"]
            print(f"  {peer:14}{first:9.2f}{ratios[0]:7.2f}{again:10.3f}{ratios[1]:7.2f}{loss:12,.0f}")


if __name__ == "__main__":
    main()
