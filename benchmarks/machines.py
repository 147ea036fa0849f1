"""What many machines would do: the time of a step from its two parts, each measured here, and where it stops scaling.

    python benchmarks/machines.py [--processes 2] [--latency SECONDS] [--bandwidth BYTES_PER_SECOND]

A step over rows that are spread over P processes computes the gradient of n / P rows and exchanges it once: d + 1
numbers of 4 bytes, for d weights. Gloo's all-reduce is a ring: 2 (P - 1) messages one after the other, each of 1 / P of
the bytes. So for one process with c seconds a row::

    step(P) = c n / P + 2 (P - 1) (latency + 4 (d + 1) / (P bandwidth))

Measured are c, by steps of `MAP` on one core, and latency and bandwidth, by all-reduces of 1 to 2^22 numbers between
local processes. A network of machines has others, which the options take. The table has the seconds of a step by the
number of processes, and the number with the shortest one, after which more machines take longer.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from typing import Any

PROCESSES = (1, 2, 4, 8, 16, 32, 64)
CASES = ((10, (16, 16), 10**5), (100, (256, 256), 10**6), (784, (1024, 1024), 10**7))
"""Columns, units of the hidden layers, and rows."""
SIZES = tuple(2**power for power in range(0, 23, 2))


def exchange(port: str, process: int, processes: int) -> None:
    """Print the seconds of an all-reduce for each size."""
    import jax

    jax.distributed.initialize(f"localhost:{port}", processes, process)
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("rows",))
    for size in SIZES:
        count = max(5, min(200, 2**22 // size))

        def sums(value: Any, count: int = count) -> Any:
            return jax.lax.fori_loop(0, count, lambda i, value: jax.lax.pmean(value, "rows") + 1, value)

        run = jax.jit(
            jax.shard_map(sums, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
        )
        jax.block_until_ready(run(jnp.zeros(size)))
        started = time.perf_counter()
        jax.block_until_ready(run(jnp.zeros(size)))
        if process == 0:
            print("seconds", size, (time.perf_counter() - started) / count, flush=True)


def measured_exchange(processes: int) -> tuple[float, float]:
    """Return the latency of a message in seconds, and the bandwidth in bytes a second."""
    import numpy as np

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--worker", port]
    started = [
        subprocess.Popen([*command, str(i), str(processes)], stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    output, *_ = [process.communicate()[0] for process in started]
    found = np.array([line.split()[1:] for line in output.splitlines() if line.startswith("seconds")], float)
    per_message = found[:, 1] / (2 * (processes - 1))
    latency = float(np.median(per_message[found[:, 0] <= 256]))
    largest, seconds = found[-1, 0], per_message[-1]
    return latency, float(4 * largest / processes / (seconds - latency))


def measured_row(columns: int, units: tuple[int, ...], num_rows: int = 4096, num_steps: int = 20) -> tuple[float, int]:
    """Return the seconds of a row in a step of `MAP` on one core, and the number of weights."""
    import numpy as np

    from flatprior.inference import MAP, fit
    from flatprior.models import MLP, Model, Normal, gaussian

    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, columns)).astype(np.float32)
    model, seconds = Model(MLP(units, "relu"), Normal(0.1), gaussian(1.0)), []
    for steps in (num_steps, num_steps, 3 * num_steps):
        started = time.perf_counter()
        fitted = fit(model, MAP(num_steps=steps, polish=False), x, x[:, 0], key=0, progress=False)
        seconds.append(time.perf_counter() - started)
    return (seconds[2] - seconds[1]) / (2 * num_steps * num_rows), fitted.structure.num_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--latency", type=float)
    parser.add_argument("--bandwidth", type=float)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        exchange(arguments.worker[0], *map(int, arguments.worker[1:]))
        return
    latency, bandwidth = arguments.latency, arguments.bandwidth
    if latency is None or bandwidth is None:
        found = measured_exchange(arguments.processes)
        latency, bandwidth = latency or found[0], bandwidth or found[1]
    print(f"latency {latency * 1e6:.0f} us, bandwidth {bandwidth / 1e9:.2f} GB/s")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for columns, units, num_rows in CASES:
        row, num_weights = measured_row(columns, units)
        size = 4 * (num_weights + 1)

        def step(count: int, row: float = row, num_rows: int = num_rows, size: int = size) -> float:
            return row * num_rows / count + 2 * (count - 1) * (latency + size / (count * bandwidth))

        best = min(range(1, 4097), key=step)
        print(f"\n{num_rows:,} rows, {num_weights:,} weights: {row * 1e9:.0f} ns a row, {size:,} bytes a step")
        print(f"{'processes':>10}{'bytes sent each':>18}{'seconds a step':>16}{'speed-up':>10}")
        for count in PROCESSES:
            sent = 2 * (count - 1) * size // count
            print(f"{count:>10}{sent:>18,}{step(count):>16.4f}{step(1) / step(count):>10.1f}")
        print(f"The shortest step: {best} processes, {step(1) / step(best):.0f} times as fast as one.")


if __name__ == "__main__":
    main()
