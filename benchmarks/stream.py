"""Speed and memory of fits to rows on disk, against rows in memory and other loops, in one interleaved run.

    python benchmarks/stream.py [--quick] [--gigabytes 20] [--rounds 1] [--limit 60] [--folder FOLDER] [--torch PYTHON]
                                [--output FILE]

Two data sets are written to disk, one after the other, of 100 features in float32 and of 28 x 28 images in uint8; each
is removed when its table is printed, unless a folder for it is given. The same network is trained on them, by the same
number of steps of Adam on batches of 1,024 rows:

- disk: ``fit(model, MLE(batch_size=1024), x, y)`` with memory maps, all rows shuffled anew in every epoch;
- memory: the same with the first gigabyte of the rows in memory, which is the speed to reach;
- loop: a hand-written JAX loop, one step per dispatch, that reads each batch from the memory map;
- scan: the same in memory, as one compiled loop over batches: the limit;
- torch: a ``DataLoader`` with a sampler of batches and a training loop, where PyTorch is installed.

Each runs in a process of its own. Steps per second are those of the second half of the steps, so without compilation
and without the checks before and after; memory is the anonymous memory of the process at its peak, without the pages of
files that the kernel keeps. These it keeps in what memory is free: where the rows fit there, a disk is as fast as
memory from the second pass on, and the check of all rows is the first; where they do not, the disk's reads of single
rows at random are the limit of every loop that shuffles them. A run that takes longer than the limit is left out.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BATCH, WIDTH, CLASSES, STEPS = 1_024, 64, 10, 3_000
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {"100 features": ((100,), "float32"), "images": ((28, 28), "uint8")}
PEERS = ("disk", "memory", "loop", "scan", "torch")
WRITTEN_ROWS, DISTINCT_BLOCKS = 2**16, 8


def write(folder: Path, name: str, size: int) -> None:
    """Write rows of x and y of some bytes: a few random blocks of rows, again and again, at the speed of the disk."""
    shape, dtype = SHAPES[name]
    num_rows = int(size / (np.prod(shape) * np.dtype(dtype).itemsize))
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (num_rows, *shape))
    y = np.lib.format.open_memmap(folder / f"{name} y.npy", "w+", "int32", (num_rows,))
    slopes = rng.standard_normal((int(np.prod(shape)), CLASSES), dtype=np.float32) / np.prod(shape) ** 0.5
    blocks = []
    for _ in range(min(DISTINCT_BLOCKS, -(-num_rows // WRITTEN_ROWS))):
        of_block = (WRITTEN_ROWS, *shape)
        is_real = dtype == "float32"
        rows = rng.standard_normal(of_block, dtype=np.float32) if is_real else rng.integers(0, 256, of_block, np.uint8)
        scaled = rows.reshape(WRITTEN_ROWS, -1).astype(np.float32) * (1 if is_real else 1 / 255)
        blocks.append((rows, (scaled @ slopes).argmax(axis=1)))
    for i, start in enumerate(range(0, num_rows, WRITTEN_ROWS)):
        rows, labels = blocks[i % len(blocks)]
        x[start : start + WRITTEN_ROWS], y[start : start + WRITTEN_ROWS] = (
            each[: num_rows - start] for each in (rows, labels)
        )
    x.flush()
    y.flush()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the peak of the anonymous memory of this process in bytes, beyond that at the beginning."""
    peak, done = [0], threading.Event()

    def anonymous() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    begin = anonymous()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous() - begin)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def model_of(name: str) -> Any:
    """Return the network as a NumPyro model."""
    from flatprior.models import MLP, Categorical, Model

    network = MLP([WIDTH])
    return Model(network, Categorical(CLASSES)) if name == "100 features" else _Images(network)


class _Images:
    """A model of images of bytes, which become numbers from 0 to 1 on the device."""

    def __init__(self, network: Any) -> None:
        from flatprior.models import Categorical, Model

        self.inner = Model(network, Categorical(CLASSES))

    def __call__(self, x: Any, y: Any = None) -> Any:
        return self.inner(x.reshape(len(x), -1) / np.float32(255), y)


def by_fit(name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    from flatprior.inference import MLE, blocks, fit
    from flatprior.inference.methods import descent

    times: list[tuple[int, float]] = []
    run = blocks.run_in_blocks

    def timed(block: Callable[..., Any], *args: Any, keep_going: Any, **settings: Any) -> Any:
        def noted(state: Any, done: int) -> bool:
            times.append((done, time.perf_counter()))
            return bool(keep_going(state, done))

        return run(block, *args, keep_going=noted, **settings)

    descent.run_in_blocks = timed  # type: ignore[attr-defined]
    result = fit(model_of(name), MLE(batch_size=BATCH, num_steps=STEPS, polish=False), x, y, key=0, progress=False)
    half = next(i for i, (done, _) in enumerate(times) if done >= STEPS / 2)
    (begin, started), (end, ended) = times[half], times[-1]
    return (end - begin) / (ended - started), float(result.stats["loss"][0, -100:].mean() / len(y))


def by_jax(name: str, x: np.ndarray, y: np.ndarray, *, is_scan: bool) -> tuple[float, float]:
    import jax
    import jax.numpy as jnp
    import optax

    rng, inputs = np.random.default_rng(0), int(np.prod(x.shape[1:]))
    sizes = [(inputs, WIDTH), (WIDTH, CLASSES)]
    params = [(rng.standard_normal(s, np.float32) / s[0] ** 0.5, np.zeros(s[1], np.float32)) for s in sizes]
    optimizer = optax.adam(1e-2)

    def loss(params: Any, x: Any, y: Any) -> Any:
        x = x.reshape(len(x), -1).astype(jnp.float32) * (1 / 255 if name == "images" else 1.0)
        hidden = jax.nn.silu(x @ params[0][0] + params[0][1])
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ params[1][0] + params[1][1], y).mean()

    def step(carry: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    carry: Any = (params, optimizer.init(params))
    half = STEPS // 2
    if is_scan:
        x, y = jnp.asarray(x), jnp.asarray(y)
        rows = rng.integers(0, len(x), (2, half, BATCH)).astype(np.int32)
        run = jax.jit(lambda carry, rows, x, y: jax.lax.scan(lambda c, r: step(c, x[r], y[r]), carry, rows))
        carry, _ = jax.block_until_ready(run(carry, rows[0], x, y))
        started = time.perf_counter()
        carry, values = jax.block_until_ready(run(carry, rows[1], x, y))
        return half / (time.perf_counter() - started), float(values[-100:].mean())
    one, values = jax.jit(step), []
    started = time.perf_counter()
    for i in range(STEPS):
        if i == half:
            jax.block_until_ready(carry)
            started, values = time.perf_counter(), []
        batch = np.sort(rng.integers(0, len(x), BATCH))
        carry, value = one(carry, x[batch], y[batch])
        values.append(value)
    jax.block_until_ready(carry)
    return half / (time.perf_counter() - started), float(np.mean(values[-100:]))


def by_torch(name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    import torch
    from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

    class Rows(Dataset):  # type: ignore[type-arg, misc]
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, rows: list[int]) -> Any:
            return torch.from_numpy(x[rows]), torch.from_numpy(y[rows].astype(np.int64))

    data = Rows()
    sampler = BatchSampler(RandomSampler(data, replacement=True, num_samples=BATCH * STEPS), BATCH, drop_last=True)  # type: ignore[arg-type]
    inputs = int(np.prod(x.shape[1:]))
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(inputs, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, CLASSES)
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    values, started = [], time.perf_counter()
    for i, (some, labels) in enumerate(DataLoader(data, sampler=sampler, batch_size=None)):
        if i == STEPS // 2:
            started = time.perf_counter()
        optimizer.zero_grad()
        scaled = some.float() / 255 if name == "images" else some
        value = torch.nn.functional.cross_entropy(network(scaled), labels)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    return STEPS / 2 / (time.perf_counter() - started), float(np.mean(values[-100:]))


def run(peer: str, name: str, folder: Path) -> None:
    """Print the steps per second, the memory and the final loss of one peer, as JSON."""
    x, y = (np.load(folder / f"{name}{which}.npy", mmap_mode="r") for which in ("", " y"))
    if peer in ("memory", "scan"):
        count = int(min(len(x), 2**30 / (x.nbytes / len(x))))
        x, y = np.array(x[:count]), np.array(y[:count])
    with peak_memory() as peak:
        if peer in ("disk", "memory"):
            speed, loss = by_fit(name, x, y)
        elif peer == "torch":
            speed, loss = by_torch(name, x, y)
        else:
            speed, loss = by_jax(name, x, y, is_scan=peer == "scan")
    print(json.dumps({"speed": speed, "loss": loss, "memory": peak[0]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of each data set")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="the seconds of a run, beside twice those of writing")
    parser.add_argument("--quick", action="store_true", help="1 GB")
    parser.add_argument("--folder", type=Path, default=None, help="where the data are written and kept")
    parser.add_argument("--output", type=Path, default=None, help="a file for the tables, in Markdown")
    parser.add_argument("--torch", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run(*options.run, options.folder)
    if options.quick:
        options.gigabytes = 1.0
    tables = []
    for name in SHAPES:
        with tempfile.TemporaryDirectory() as temporary:
            folder, begin = options.folder or Path(temporary), time.perf_counter()
            if not (folder / f"{name} y.npy").exists():
                write(folder, name, int(options.gigabytes * 2**30))
            tables.append(table(name, folder, options, options.limit + 2 * (time.perf_counter() - begin)))
            print(tables[-1], flush=True)
    if options.output:
        words = " ".join(["python", "benchmarks/stream.py", *sys.argv[1:]])
        about = f"# Rows on disk\n\n`{words}`, {os.cpu_count()} cores, JAX {version('jax')}.\n"
        options.output.write_text("\n".join([about, *tables]))


def table(name: str, folder: Path, options: argparse.Namespace, limit: float) -> str:
    """Return the table of one data set: all peers, round after round, and their medians."""
    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for _ in range(options.rounds):
        for peer in PEERS:
            python = options.torch if peer == "torch" else sys.executable
            command = [python, __file__, "--folder", str(folder), "--run", peer, name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
            except subprocess.TimeoutExpired:
                print(f"{name}, {peer}: more than {limit:.0f} s", file=sys.stderr)
                continue
            if done.returncode == 0:
                found[peer].append(json.loads(done.stdout.splitlines()[-1]))
            elif peer != "torch" or "No module named" not in done.stderr:
                print(done.stderr, file=sys.stderr)
    size = sum((folder / f"{name}{which}.npy").stat().st_size for which in ("", " y"))
    medians = {p: {k: statistics.median(e[k] for e in runs) for k in runs[0]} for p, runs in found.items() if runs}
    lines = [
        f"{name}, {size / 2**30:.1f} GiB on disk: batches of {BATCH:,}, {STEPS:,} steps, rounds: {options.rounds}.\n",
        "| | steps per second | of memory | loss | memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for peer, each in medians.items():
        share = each["speed"] / medians["memory"]["speed"] if "memory" in medians else math.nan
        numbers = f"{each['speed']:,.0f} | {share:.2f} | {each['loss']:.3f} | {each['memory'] / 2**20:,.0f}"
        lines.append(f"| {peer} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
