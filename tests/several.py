"""One of several processes that fit together, or one process with as many devices: run by `test_processes.py`.

    python several.py FOLDER PORT PROCESS PROCESSES DEVICES METHODS [SECONDS SIGNAL]

The rows are the same, in as many shards as there are devices in all. Draws, statuses and what a fit has seen of its
rows go to a file of the process. With a number of seconds, the process sends itself a signal so long after the first
state is on disk.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from threading import Thread
from time import sleep

import jax

folder, port, process, processes, devices = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
jax.config.update("jax_num_cpu_devices", devices)
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process, heartbeat_timeout_seconds=10)

import numpy as np  # noqa: E402  # JAX is set up first
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from flatprior.inference import (  # noqa: E402
    MAP,
    MCLMC,
    NUTS,
    SGMCMC,
    Ensemble,
    Laplace,
    Variational,
    checkpoint,
    compare,
    fit,
)
from flatprior.inference import devices as spread_rows  # noqa: E402
from flatprior.inference.checks import check_problem  # noqa: E402
from flatprior.inference.methods.batches import Resident  # noqa: E402
from flatprior.inference.methods.descent import steps_of  # noqa: E402
from flatprior.models import MLP, Model, Normal, gaussian  # noqa: E402

METHODS = {
    "full": MAP(num_steps=40),
    "batches": MAP(num_steps=40, batch_size=8, num_restarts=2, polish=False),
    "validated": MAP(num_steps=100, validation_fraction=0.2, polish=False),
    "members": Ensemble(MAP(num_steps=40, batch_size=8, polish=False), num_members=3),
    "NUTS": NUTS(num_warmup=5, num_samples=3, num_chains=2, max_tree_depth=2, start=None),
    "MCLMC": MCLMC(num_warmup=20, num_samples=4, thinning=2, num_chains=2, start=None),
    "SGMCMC": SGMCMC(num_warmup=200, num_samples=4, thinning=5, num_chains=2, batch_size=8, start=None),
    "Variational": Variational(num_steps=40, num_samples=3, batch_size=8, start=MAP(num_steps=20, polish=False)),
    "resumed": MCLMC(num_warmup=20, num_samples=100, thinning=20, num_chains=2, start=None),
    "resumed descent": MAP(num_steps=4000, batch_size=8, polish=False),
}
checkpoint.INTERVAL, checkpoint.SHARE = 0.1, 1.0  # so that short runs are written
MODEL = Model(MLP((2,), "tanh"), Normal(0.3), gaussian(1.0))


def rows(num_rows: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all processes."""
    x = np.linspace(-1, 1, num_rows)[:, None].astype(np.float32)
    return x, np.sin(3 * x[:, 0])


def sharded(array: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """Return rows over the whole mesh, of which this process gives its own."""
    own = len(array) // processes
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    return jax.make_array_from_process_local_data(sharding, array[process * own : (process + 1) * own])


def signal_after_draws(run: Path, seconds: float, name: str) -> None:
    """Send this process a signal so long after the first state of chains or of an optimiser is on disk."""
    while not any(run.glob("*.npz")):
        sleep(0.05)
    sleep(seconds)
    os.kill(os.getpid(), signal.Signals[name])


def errors(mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """Return the message of each kind of bad input, which every process raises before anything is compiled."""
    x, y = rows()
    bad = np.where(np.arange(len(x)) == len(x) - 2, np.nan, x[:, 0])[:, None]
    good = sharded(x, mesh), sharded(y, mesh)
    cases = {
        "a bad row": (MAP(), sharded(bad, mesh), good[1]),
        "an offset": (MAP(), sharded(x + 1e6, mesh), good[1]),
        "other rows": (NUTS(), x + process, y),
        "a method": (Laplace(), *good),
        "columns": (MAP(), jax.device_put(np.ones((80, 8)), NamedSharding(mesh, PartitionSpec(None, "rows"))), y),
        "a batch": (MAP(batch_size=9), *good),
    }
    found = {}
    for name, (method, *own) in cases.items():
        try:
            fit(MODEL, method, *own, key=0, progress=False)
        except ValueError as error:
            found[f"error/{name}"] = np.array(str(error))
    return found


def exchanges(x: jax.Array, y: jax.Array) -> np.ndarray:
    """Return what a step of an optimiser by batches exchanges: the operation and how many numbers, a row each."""
    density, data = check_problem(MODEL, *rows())
    data = data.with_rows((x, y, None, None))
    steps = steps_of(METHODS["batches"], density, data)
    state = steps.start(jax.random.key(0), data)
    (part,) = Resident(data, steps.batch_size, 8, jax.random.key(0), steps.spread).parts(0, 8)
    text = steps._compiled_block.lower((state.svi, None), *part).compile().as_text()
    found = re.findall(r"= (\S.*?) (all-[a-z]+|collective-permute|reduce-scatter)\(", text)
    sizes = [
        [np.prod([int(n) for n in shape.split(",") if n]) for shape in re.findall(r"f32\[([\d,]*)\]", each)]
        for each, _ in found
    ]
    return np.array([f"{name} {int(sum(size))}" for (_, name), size in zip(found, sizes, strict=True)])


def main() -> None:
    mesh = jax.make_mesh((processes * devices,), ("rows",))
    names, found = sys.argv[6].split(","), errors(mesh) if processes > 1 else {}
    few_bytes = spread_rows.FEW_BYTES
    everywhere, (x, y) = rows(), (sharded(array, mesh) for array in rows())
    fits = {}
    for name in names:
        method = METHODS[re.sub(" (on all|on a mesh|of few|filled up|where they are)", "", name)]
        own = everywhere if name.endswith(" on all") else (x, y)
        if name.endswith(" on a mesh"):
            pairs = jax.make_mesh((2, devices // 2), ("chains", "rows"))
            own = tuple(sharded(array, pairs) for array in everywhere)
            found["exchanges"] = exchanges(*own)
        weights = None
        # Few rows come together for Newton's method, many do not.
        spread_rows.FEW_BYTES = 0 if name.endswith(" where they are") else few_bytes
        if name.endswith(" of few"):
            own = tuple(array[1:] for array in everywhere)
        if name.endswith(" filled up"):
            weights = sharded(np.where(np.arange(len(everywhere[0])) == 0, 0.0, 1.0), mesh)
        resume = folder / f"{name} of {processes * devices}" if name.startswith("resumed") else None
        if resume is not None and len(sys.argv) > 7:
            Thread(target=signal_after_draws, args=(resume, float(sys.argv[7]), sys.argv[8]), daemon=True).start()
        fitted = fit(MODEL, method, *own, weights=weights, key=0, progress=False, resume=resume)
        about = {"rows": fitted.rows, "counts": str(fitted.counts), "status": fitted.status.to_json()}
        found |= {f"{name}/{site}": np.asarray(value) for site, value in fitted.draws.items()}
        found[f"{name}/about"] = np.array(json.dumps(about))
        if not fitted.was_fitted_to(*(own if name.endswith(" of few") else everywhere), weights=weights):
            raise SystemExit("The digest of the rows is not that of one process which has all of them.")
        fits[name] = fitted
    reference = next((each for each in reversed(fits.values()) if each.kind == "chain"), None)
    if reference is not None and reference is not fits[names[0]]:
        table = compare({"first": fits[names[0]]}, x, y, reference=reference)
        distances = table.to_dataframe()[["w2", "w2_mean", "spread", "w2_se", "w2_mean_se", "spread_se"]].iloc[0]
        found["distances"] = np.array([*distances, *table.floor.values()])
    if processes > 1:
        table = compare({"fit": fitted}, x, y)
        found["compare"] = np.array(
            f"{table.to_dataframe()[['elpd', 'elpd_se', 'rmse', 'crps', 'coverage']].iloc[0].tolist()}"
        )
        found["compare/notes"], found["compare/log_probs"] = np.array(str(table)), table.log_probs["fit"]
        try:
            fitted.predict(x)
        except ValueError as error:
            found["error/predict"] = np.array(str(error))
    np.savez(folder / f"{process} of {processes}.npz", **found)


main()
