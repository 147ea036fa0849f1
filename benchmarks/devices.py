"""The gain from a second device and from a second process: chains over devices, and rows in shards.

    python benchmarks/devices.py [--rounds 5] [--devices 2] [--rows 100000] [--steps 400] [--only chains]

- chains: ten chains of `MCLMC` on a network of 946 weights and 1,200 rows.
- rows: full-batch steps of `MAP` on a network of 929 weights and 100,000 rows of 10 columns.

A CPU is one device until `jax.config.update("jax_num_cpu_devices", n)`, but XLA uses other cores for one device too.
The table therefore has one device on all cores and one device on one core, and as the limit of the machine as many
independent processes as devices, each on a core of its own with its share of the chains or rows. Processes that fit
together share all cores, and exchange what they need by `jax.distributed`. Every entry runs in a process of its own (or
several), one after the other, round after round. Seconds are those of a fit that is already compiled; the table gives
medians over rounds, and the median over rounds of the ratio to one device and of the share of the limit. Linux only: it
pins processes to cores.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

NUM_CHAINS = 10


def work(about: dict[str, Any]) -> None:
    """Compile, print "ready", wait for a line, fit, and print the seconds."""
    os.sched_setaffinity(0, about["cores"])
    import jax

    jax.config.update("jax_num_cpu_devices", about["devices"])
    if about["processes"] > 1:
        jax.distributed.initialize(f"localhost:{about['port']}", about["processes"], about["process"])
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from flatprior.inference import MAP, MCLMC, fit
    from flatprior.models import MLP, Model, Normal, gaussian

    def sharded(array: np.ndarray) -> Any:
        shards = about["devices"] * about["processes"]
        if shards == 1:
            return array
        size = len(array) // about["processes"]
        mine = array[about["process"] * size : (about["process"] + 1) * size]
        sharding = NamedSharding(jax.make_mesh((shards,), ("rows",)), PartitionSpec("rows"))
        return jax.make_array_from_process_local_data(sharding, mine)

    rng = np.random.default_rng(about["seed"])
    num_columns = 10 if about["what"] == "rows" else 5
    x = rng.normal(size=(about["rows"], num_columns)).astype(np.float32)
    y = np.sin(x @ rng.normal(size=num_columns)) + 0.1 * rng.normal(size=len(x))
    y = y.astype(np.float32)
    if about["what"] == "rows":
        model, x, y = Model(MLP((16,) * 4, "tanh"), Normal(0.1), gaussian(1.0)), sharded(x), sharded(y)
        method = MAP(num_steps=about["steps"], polish=False)
    else:
        model = Model(MLP((16,) * 4, "relu"), Normal("network"), gaussian(1.0))
        method = MCLMC(num_warmup=about["steps"] * 10, num_samples=50, num_chains=about["chains"])
    fit(model, method, x, y, key=about["seed"], progress=False)
    print("ready", flush=True)
    input()
    started = time.perf_counter()
    fit(model, method, x, y, key=about["seed"], progress=False)
    print(time.perf_counter() - started)


def seconds(workers: list[dict[str, Any]], seed: int) -> float:
    """Start processes together, and return the seconds of the last to end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for about in workers:
        command = [sys.executable, __file__, "--worker", json.dumps({**about, "seed": seed, "port": port})]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None
        if "ready\n" not in iter(process.stdout.readline, ""):  # after what Gloo says of its connections
            raise SystemExit("A worker failed.")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return max(float(process.communicate()[0].split()[-1]) for process in processes)


def peers_of(what: str, arguments: argparse.Namespace, cores: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of a table: the processes of each, as `work` takes them. The third is the limit."""
    count = arguments.devices
    num_rows = arguments.rows if what == "rows" else 1200

    def worker(**changed: Any) -> dict[str, Any]:
        about = {"what": what, "devices": 1, "chains": NUM_CHAINS, "rows": num_rows, "steps": arguments.steps}
        return {**about, "cores": cores[:count], "process": 0, "processes": 1, **changed}

    share: dict[str, Any] = {"rows": num_rows // count} if what == "rows" else {"chains": NUM_CHAINS // count}
    return {
        "one device, one core": [worker(cores=cores[:1])],
        f"one device, {count} cores": [worker()],
        f"{count} independent processes": [worker(cores=[core], **share) for core in cores[:count]],
        f"{count} devices": [worker(devices=count)],
        f"{count} processes together": [
            # Not pinned to a core each: the thread that exchanges would wait for a time slice of 4 ms.
            worker(process=i, processes=count)
            for i in range(count)
        ],
    }


def table(what: str, arguments: argparse.Namespace, cores: list[int]) -> None:
    """Run all entries, round after round, and print their table."""
    peers = peers_of(what, arguments, cores)
    results: dict[str, list[float]] = {name: [] for name in peers}
    for seed in range(arguments.rounds):
        for name, workers in peers.items():
            results[name].append(seconds(workers, seed))
            print(f"{what}, {name}, seed {seed}: {results[name][-1]:.2f} s", file=sys.stderr, flush=True)
    one, _, limit = list(peers)[:3]
    print(f"{what:28}{'seconds':>9}{'speed-up over one device':>27}{'share of the limit':>21}")
    for name, values in results.items():
        speed, share = (
            statistics.median(a / b for a, b in zip(results[other], values, strict=True)) for other in (one, limit)
        )
        print(f"{name:28}{statistics.median(values):9.2f}{speed:27.2f}{share:21.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", choices=("chains", "rows"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    cores, count = sorted(os.sched_getaffinity(0)), arguments.devices
    if len(cores) < count or NUM_CHAINS % count or arguments.rows % count:
        raise SystemExit(f"Expected devices to be at most the {len(cores)} cores, and to divide {NUM_CHAINS} chains.")
    for what in (arguments.only,) if arguments.only else ("chains", "rows"):
        table(what, arguments, cores)


if __name__ == "__main__":
    main()
