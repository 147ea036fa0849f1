"""Speed of a maximum likelihood fit, against a hand-written loop and other libraries, in one interleaved run.

    python benchmarks/point.py [--rounds 3] [--workloads 1,2,3,4,5,6] [--torch PYTHON]

Every peer trains the same network (softmax, Adam at 1e-3) for the same number of updates, each in a process of its own,
one after the other, round after round. A process generates its data, times its first fit (including compilation) and
then three more; the table gives medians over rounds. The networks are multilayer perceptrons (1 to 4), a small
convolutional network in Flax NNX (5) and a small causal transformer (6). The lower limit is a hand-written optax loop
in one jitted scan; for Flax modules there is also the loop of Flax's own documentation, a jitted step. A peer that is
not installed is skipped; `--torch` names a Python that has PyTorch, if it is another one.
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

CLASSES, VOCABULARY, LENGTH = 10, 30, 64
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


@dataclass(frozen=True)
class Lifted:
    """A workload of a Flax NNX module on generated images or generated text."""

    name: str
    rows: int
    batch_size: int
    num_steps: int

    def __str__(self) -> str:
        return f"{self.name}, {self.rows:,} rows, batch {self.batch_size}, {self.num_steps:,} steps"

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        if self.name == "CNN":  # ten noisy prototypes; a tenth of the labels is random, so that there is a maximum
            y = rng.integers(0, CLASSES, self.rows, dtype=np.int32)
            prototypes = rng.standard_normal((CLASSES, 16, 16), dtype=np.float32)
            x = prototypes[y] + 2 * rng.standard_normal((self.rows, 16, 16), dtype=np.float32)
            return x, np.where(rng.random(self.rows) < 0.1, rng.integers(0, CLASSES, self.rows), y).astype(np.int32)
        jumps = rng.choice(VOCABULARY, size=(self.rows, LENGTH), p=rng.dirichlet(np.full(VOCABULARY, 0.3)))
        y = (jumps.cumsum(axis=1) % VOCABULARY).astype(np.int32)  # a walk on a circle
        return np.concatenate([np.zeros((self.rows, 1), np.int32), y[:, :-1]], axis=1), y

    def module(self) -> Any:
        from flax import nnx

        from flatprior.models.architectures import CNN, Transformer

        if self.name == "CNN":
            return CNN((16, 16), (8, 16), CLASSES, rngs=nnx.Rngs(0))
        return Transformer(VOCABULARY, width=32, num_layers=2, num_heads=4, context=LENGTH, rngs=nnx.Rngs(0))

    @property
    def steps_per_epoch(self) -> int:
        return self.rows // self.batch_size

    @property
    def epochs(self) -> int:
        return -(-self.num_steps // self.steps_per_epoch)


WORKLOADS: dict[int, Workload | Lifted] = {
    1: Workload(1_000, 8, (16, 16), None, 2_000),
    2: Workload(1_000, 8, (50,), 32, 3_000),
    3: Workload(10_000, 100, (64, 64), 128, 2_000),
    4: Workload(60_000, 784, (256, 128), 128, 468),
    5: Lifted("CNN", 4_000, 64, 1_000),
    6: Lifted("transformer", 2_000, 32, 300),
}


def lifted(work: Lifted) -> Callable[[], float]:
    import jax.numpy as jnp
    import optax

    from flatprior.inference import MLE, fit
    from flatprior.models import Categorical, CategoricalSequence, Lift, Model

    x, y = map(jnp.asarray, work.data())
    observation = Categorical(CLASSES) if work.name == "CNN" else CategoricalSequence(VOCABULARY)
    model = Model(Lift(work.module()), observation)
    method = MLE(optimizer=optax.adam(1e-3), num_steps=work.num_steps, batch_size=work.batch_size)
    return lambda: fit(model, method, x, y, key=0, progress=False).stats["loss"][0, -1].item()


def flax_loss(module: Any, x: Any, y: Any) -> Any:
    """The mean over rows of the cross-entropy, summed over the tokens of a row."""
    import optax

    each = optax.softmax_cross_entropy_with_integer_labels(module(x), y)
    return each.reshape(len(y), -1).sum(axis=1).mean()


def flax_scan(work: Lifted) -> Callable[[], float]:
    """The lower limit: all updates in one jitted scan."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    x, y = map(jnp.asarray, work.data())
    graph, start = nnx.split(work.module())
    optimizer = optax.adam(1e-3)

    @jax.jit
    def train(key: Any, params: Any, x: Any, y: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: flax_loss(nnx.merge(graph, p), x[rows], y[rows]))(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        used = work.steps_per_epoch * work.batch_size
        order = jax.vmap(lambda k: jax.random.permutation(k, work.rows)[:used])(jax.random.split(key, work.epochs))
        batches = order.reshape(-1, work.batch_size)[: work.num_steps]
        return jax.lax.scan(step, (params, optimizer.init(params)), batches)

    def run() -> float:
        _, losses = jax.block_until_ready(train(jax.random.key(0), start, x, y))
        return float(losses[-1]) * work.rows

    return run


def flax_loop(work: Lifted) -> Callable[[], float]:
    """The loop of Flax's documentation: nnx.Optimizer, and a step under nnx.jit for each batch."""
    import optax
    from flax import nnx

    x, y = work.data()

    @nnx.jit
    def step(module: Any, optimizer: Any, x: Any, y: Any) -> Any:
        value, grads = nnx.value_and_grad(flax_loss)(module, x, y)
        optimizer.update(module, grads)
        return value

    def run() -> float:
        rng, module = np.random.default_rng(0), work.module()
        optimizer = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)
        used = work.steps_per_epoch * work.batch_size
        orders = np.concatenate([rng.permutation(work.rows)[:used] for _ in range(work.epochs)])
        for rows in orders.reshape(-1, work.batch_size)[: work.num_steps]:
            value = step(module, optimizer, x[rows], y[rows])
        return float(value) * work.rows

    return run


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
    """The lower limit: code written by hand for this one network."""
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
    """NumPyro as in its documentation: AutoDelta, a subsampled plate, `SVI.run` without a progress bar."""
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


LIMIT = "optax scan"
PEERS: dict[type, dict[str, Callable[[Any], Callable[[], float]]]] = {
    Workload: {
        "flatprior": flatprior,
        LIMIT: scan,
        "SVI.run": svi_run,
        "scikit-learn": scikit_learn,
        "PyTorch": pytorch,
    },
    Lifted: {"flatprior": lifted, LIMIT: flax_scan, "Flax's loop": flax_loop},
}


def measure(peer: str, workload: int) -> dict[str, Any]:
    """Measure the seconds of the first fit and the median of the next ones, in this process."""
    try:
        work = WORKLOADS[workload]
        run = PEERS[type(work)][peer](work)
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
    parser.add_argument("--workloads", default="1,2,3,4,5,6")
    parser.add_argument("--torch", default=sys.executable, help="a Python in which PyTorch is installed")
    parser.add_argument("--worker", nargs=2, metavar=("PEER", "WORKLOAD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker[0], int(arguments.worker[1]))))
        return
    print("seconds of the first fit, compilation included, and of a further fit; x: ratio to the optax scan")
    for workload in map(int, arguments.workloads.split(",")):
        print(f"\n{WORKLOADS[workload]}")
        results: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS[type(WORKLOADS[workload])]}
        for _ in range(arguments.rounds):
            for peer in results:
                python = arguments.torch if peer == "PyTorch" else sys.executable
                command = [python, __file__, "--worker", peer, str(workload)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{peer} failed:\n{done.stderr}")
                results[peer].append(json.loads(done.stdout.splitlines()[-1]))
        limit = {k: statistics.median(r[k] for r in results[LIMIT]) for k in ("first", "again")}
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
