"""What breaks by size: peak memory beyond data, draws and result, and seconds, against size.

    python benchmarks/size.py [--case NAME ...] [--small]

Each case runs at growing sizes, every time in a process of its own, and prints its peak of resident memory minus that
before the call, the draws and the result; seconds of wall and of processor time, compilation included; and the slope of
memory and processor time: the power of size by which they grow between the last two sizes. A case that is bounded has a
slope of memory near 0 once it is above some hundred MiB; one that looks at all rows once has a slope of seconds of at
most 1. `after / descent` is the processor time of what follows the optimiser divided by that of the optimiser: without
a bound it grows with the number of rows, as a fit by batches takes the same number of steps however many there are.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MIB = 2**20
INTERVAL = 0.005
"""The seconds between two looks at the memory."""


def resident() -> int:
    """Return the bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Peak:
    """The largest memory of this process in a block of code, beyond that at its beginning."""

    def __enter__(self) -> "Peak":
        self.base = self.highest = resident()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(INTERVAL):
            self.highest = max(self.highest, resident())


def rows(n: int, kind: str, features: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return n rows of x, and y of a kind that depends on it linearly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, features)).astype(np.float32)
    signal = x @ rng.normal(size=features).astype(np.float32) / math.sqrt(features)
    if kind == "binary":
        return x, (signal + rng.logistic(size=n) > 0).astype(np.int32)
    y = (signal + rng.normal(size=n)).astype(np.float32)
    return x, np.where(rng.random(n) < 0.5, 0, y).astype(np.float32) if kind == "half zeros" else y


def point(n: int, kind: str, widths: tuple[int, ...], scale: Any, **settings: Any) -> Callable[[], Any]:
    """Return a maximum a posteriori fit."""
    from flatprior.inference import MAP, fit
    from flatprior.models import MLP, Bernoulli, Model, Normal

    x, y = rows(n, kind)
    model = Model(MLP(widths, "tanh"), Bernoulli() if kind == "binary" else Normal(scale))
    return lambda: fit(model, MAP(**settings), x, y, key=0, progress=False)


def polish_after_batches(n: int) -> Callable[[], Any]:
    """A network of 177 weights by batches, and Newton's method after it."""
    return point(n, "binary", (8,), None, batch_size=128)


def half_zeros(n: int) -> Callable[[], Any]:
    """A learned scale where half of y is 0, so that the density may grow without bound."""
    return point(n, "half zeros", (8,), "network", num_steps=100)


def transformer(n: int) -> Callable[[], Any]:
    """A transformer on rows of tokens, by batches of 4, n weights in its layers; what a row costs grows with size."""
    from flax import nnx

    from flatprior.inference import MAP, fit
    from flatprior.models import CategoricalSequence, Lift, Model, gaussian
    from flatprior.models.architectures import Transformer

    tokens = np.random.default_rng(0).integers(0, 50, size=(256, n + 1))
    module = Transformer(50, 32, 1, 2, n, rngs=nnx.Rngs(0))
    model = Model(Lift(module), CategoricalSequence(50), gaussian(0.1))
    method = MAP(batch_size=4, num_steps=10)
    return lambda: fit(model, method, tokens[:, :-1], tokens[:, 1:], key=0, progress=False)


def chains(n: int) -> Callable[[], Any]:
    """Two draws of MCLMC of a network of n weights: what is kept of a draw."""
    from flatprior.inference import MCLMC, fit
    from flatprior.models import MLP, Model, Normal, gaussian

    x, y = rows(64, "real", features=n // 64)
    method = MCLMC(num_warmup=20, num_samples=2, thinning=2, num_chains=2, start=None)
    return lambda: fit(Model(MLP((64,)), Normal(0.5), gaussian(1.0)), method, x, y, key=0, progress=False)


def fitted(n: int, num_outputs: int = 1) -> tuple[Any, np.ndarray]:
    """Return draws from a prior, and n rows of x."""
    from flatprior.inference import Prior, fit
    from flatprior.models import MLP, Categorical, Model, Normal

    x, y = rows(64, "real")
    wide = num_outputs > 1
    model = Model(MLP((950,)), Categorical(num_outputs) if wide else Normal(0.5))
    result = fit(model, Prior(num_samples=4), x, np.zeros(64, int) if wide else y, key=0, progress=False)
    return result, rows(n, "real")[0]


def predict(n: int) -> Callable[[], Any]:
    """The mean of y at n rows by a few draws of a wide network."""
    result, x = fitted(n)
    return lambda: result.predict(x).mean


def sample(n: int) -> Callable[[], Any]:
    """Twenty samples of y at n rows."""
    result, x = fitted(n)
    return lambda: result.predict(x).sample(0, (20,))


def many_classes(n: int) -> Callable[[], Any]:
    """`compare` with 1,000 classes."""
    from flatprior.inference import compare

    result, x = fitted(n, 1000)
    return lambda: compare({"prior": result}, x, np.arange(n) % 1000)


def explanation(n: int) -> Callable[[], Any]:
    """`explain` at n rows."""
    from flatprior.inference import explain
    from flatprior.models import MLP, Bernoulli, Model, gaussian

    x, y = rows(n, "binary")
    return lambda: explain(Model(MLP((8,), "tanh"), Bernoulli(), gaussian(1.0)), x, y)


CASES: dict[str, tuple[Callable[[int], Callable[[], Any]], tuple[int, ...]]] = {
    "polish after batches": (polish_after_batches, (10_000, 100_000, 1_000_000)),
    "half of y is 0": (half_zeros, (10_000, 100_000)),
    "transformer, batches of 4": (transformer, (32, 128)),
    "draws of MCLMC": (chains, (10_000, 100_000, 1_000_000)),
    "predict, wide network": (predict, (10_000, 100_000)),
    "sample, wide network": (sample, (10_000, 100_000)),
    "compare, 1,000 classes": (many_classes, (1_000, 10_000)),
    "explain": (explanation, (10_000, 100_000, 1_000_000)),
}
"""Name -> what runs, by its size, and the sizes: rows, but for transformers tokens, and for draws weights."""


def size_of(result: Any) -> int:
    """Return the bytes of a result: of arrays, of the draws of a fit, or 0."""
    draws = getattr(result, "draws", result)
    return sum(
        leaf.nbytes for leaf in (draws.values() if isinstance(draws, dict) else [draws]) if hasattr(leaf, "nbytes")
    )


def measure(name: str, size: int) -> dict[str, float | None]:
    """Return memory in MiB, seconds, and the share of what follows a descent, of one case at one size."""
    run = CASES[name][0](size)
    descents = timed_descents()
    wall, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = (cpu - sum(descents)) / sum(descents) if descents else None
    return {"memory": (peak.highest - peak.base - size_of(result)) / MIB, "wall": wall, "cpu": cpu, "after": after}


def timed_descents() -> list[float]:
    """Return a list to which each later descent adds its processor seconds."""
    from flatprior.inference.methods import point as module

    seconds: list[float] = []
    descend = module.descend

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return descend(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - begin)

    module.descend = timed
    return seconds


def slope(sizes: tuple[int, ...], values: list[float]) -> str:
    """Return the power of size by which values grow between the last two; memory below 1 MiB counts as that."""
    if len(values) < 2:
        return ""
    low, high = (max(value, 1.0) for value in values[-2:])
    return f"{math.log(high / low) / math.log(sizes[len(values) - 1] / sizes[len(values) - 2]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES), help="by default all")
    parser.add_argument("--small", action="store_true", help="only the smallest size of each")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker[0], int(arguments.worker[1]))))
        return
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    print("| case | size | memory, MiB | slope | wall s | CPU s | slope | after / descent |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in arguments.case:
        sizes = CASES[name][1][: 1 if arguments.small else None]
        found: list[dict[str, Any]] = []
        for size in sizes:
            command = [sys.executable, __file__, "--worker", name, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            last = found[-1]
            after = "" if last["after"] is None else f"{last['after']:.1f}"
            memory, cpu = (slope(sizes, [each[key] for each in found]) for key in ("memory", "cpu"))
            numbers = f"{last['memory']:,.0f} | {memory} | {last['wall']:.1f} | {last['cpu']:.1f} | {cpu} | {after}"
            print(f"| {name} | {size:,} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
