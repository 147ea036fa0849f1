"""The gain from a second device: ten chains of `MCLMC` on a network of 946 weights and 1,200 rows.

    python benchmarks/devices.py [--rounds 5] [--devices 2]

A CPU is one device until `jax.config.update("jax_num_cpu_devices", n)`, but XLA uses other cores for one device too.
The table therefore has one device on all cores and one device on one core, and as the limit of the machine as many
independent processes as devices, each on a core of its own with its share of the chains. Every entry runs in a process
of its own (or several), one after the other, round after round. Seconds are those of a fit that is already compiled;
the table gives medians over rounds, and the median over rounds of the ratio to one device. Linux only: it pins
processes to cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

NUM_CHAINS = 10


def work(devices: int, chains: int, cores: set[int], seed: int) -> None:
    """Compile, print "ready", wait for a line, fit, and print the seconds."""
    os.sched_setaffinity(0, cores)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from flatprior.inference import MCLMC, fit
    from flatprior.models import MLP, Model, Normal, gaussian

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1202, 5))
    y = np.sin(x @ rng.normal(size=5)) + 0.1 * rng.normal(size=1202)
    model = Model(MLP((16,) * 4, "relu"), Normal("network"), gaussian(1.0))
    method = MCLMC(num_warmup=5000, num_samples=50, num_chains=chains)
    fit(model, method, x, y, key=seed, progress=False)
    print("ready", flush=True)
    input()
    started = time.perf_counter()
    fit(model, method, x, y, key=seed, progress=False)
    print(time.perf_counter() - started)


def seconds(settings: list[tuple[int, int, set[int]]], seed: int) -> float:
    """Start processes together, (devices, chains, cores) each, and return the seconds of the last to end."""
    processes = []
    for devices, chains, cores in settings:
        command = [sys.executable, __file__, "--worker", *map(str, (devices, chains, ",".join(map(str, cores)), seed))]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("A worker failed.")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--worker", nargs=4, metavar=("DEVICES", "CHAINS", "CORES", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        devices, chains, cores, seed = arguments.worker
        work(int(devices), int(chains), set(map(int, cores.split(","))), int(seed))
        return
    cores, count = sorted(os.sched_getaffinity(0)), arguments.devices
    if len(cores) < count or NUM_CHAINS % count:
        raise SystemExit(f"Expected devices to be at most the {len(cores)} cores and to divide {NUM_CHAINS} chains.")
    used = set(cores[:count])
    peers = {
        "one device, one core": [(1, NUM_CHAINS, {cores[0]})],
        f"one device, {count} cores": [(1, NUM_CHAINS, used)],
        f"{count} devices, {count} cores": [(count, NUM_CHAINS, used)],
        f"{count} processes, one core each": [(1, NUM_CHAINS // count, {core}) for core in cores[:count]],
    }
    results: dict[str, list[float]] = {name: [] for name in peers}
    for seed in range(arguments.rounds):
        for name, settings in peers.items():
            results[name].append(seconds(settings, seed))
            print(f"{name}, seed {seed}: {results[name][-1]:.2f} s", file=sys.stderr, flush=True)
    first, second = list(peers)[:2]
    print(f"{'':32}{'seconds':>9}{'speed-up over ' + first:>36}{'speed-up over ' + second:>36}")
    for name, values in results.items():
        ratios = [
            statistics.median(a / b for a, b in zip(results[one], values, strict=True)) for one in (first, second)
        ]
        print(f"{name:32}{statistics.median(values):9.2f}{ratios[0]:36.2f}{ratios[1]:36.2f}")


if __name__ == "__main__":
    main()
