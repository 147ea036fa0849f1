"""Memory: of draws that stay on disk, which are read a part at a time, and of rows that do, per row."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flatprior.inference import MLE, Fit, Prior, chunks, fit, stored
from flatprior.inference.methods.orders import Epochs, Orders
from flatprior.inference.run import _checked
from flatprior.models import MLP, Categorical, Model, Normal, gaussian

X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
Y = {"numbers": np.sin(X[:, 0]), "classes": (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)}
MODELS = {
    "numbers": Model(MLP((4,)), Normal(0.3), gaussian(1.0)),
    "classes": Model(MLP((4,)), Categorical(3), gaussian(1.0)),
}


def with_chains(model: Model, y: np.ndarray, folder: Path) -> Fit:
    """A fit with two chains of 12 draws, which are on disk, with the draw first as chains write them."""
    prior = fit(model, Prior(num_samples=24), X, y, key=0)
    draws = {}
    for site, value in prior.outcome.draws.items():
        np.save(folder / f"{site}.npy", np.swapaxes(value.reshape(2, 12, *value.shape[2:]), 0, 1))
        draws[site] = np.swapaxes(np.load(folder / f"{site}.npy", mmap_mode="r"), 0, 1)
    return replace(prior, outcome=replace(prior.outcome, draws=draws))


@pytest.mark.parametrize("kind", ["numbers", pytest.param("classes", marks=pytest.mark.slow)])
def test_draws_on_disk_predict_as_those_on_the_device(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = with_chains(MODELS[kind], Y[kind], tmp_path)
    largest = []
    read = stored.Stored._read

    def noted(leaf: Any, rows: Any) -> np.ndarray:
        part: np.ndarray = read(leaf, rows)
        largest.append(part.nbytes)
        return part

    def results() -> dict[str, np.ndarray]:
        predictive = fitted.predict(X)
        of_kind = {"probs": predictive.probs} if kind == "classes" else {"std": predictive.std}
        return {
            **of_kind,
            "log_prob": predictive.log_prob(Y[kind]),
            "sample": predictive.sample(1, (5,)),
            "log_likelihood": fitted.log_likelihood(X, Y[kind]),
        }

    there = results()
    monkeypatch.setattr(chunks, "DRAWS_BYTES", 0)
    monkeypatch.setattr(stored, "PART_BYTES", 400)
    monkeypatch.setattr(stored.Stored, "_read", noted)
    here = results()
    assert max(largest) <= 400
    assert sum(largest) > 4 * 400
    for name, values in there.items():
        np.testing.assert_allclose(here[name], values, rtol=2e-5, atol=1e-6, err_msg=name)


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the memory at its peak that Python and NumPy allocate in a call."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["int32", "uint8", "int64", "in memory"])
def test_checks_of_rows_on_disk_take_no_memory_per_row(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not of labels of few bytes: their digest, the classes that are absent, and their conversion."""
    monkeypatch.setattr(stored, "READ_BYTES", 2**20)
    monkeypatch.setattr(stored, "PART_ROWS", 2**15)
    num_rows = 2**22
    labels = np.arange(num_rows) % 3
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (num_rows, 2), np.uint8))
    np.save(tmp_path / "y.npy", labels.astype("uint8" if kind == "in memory" else kind))
    x, y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    rows = x, (np.array(y) if kind == "in memory" else y)

    def check() -> Any:
        return _checked(MODELS["classes"], MLE(batch_size=64), *rows, None)

    check()  # what is traced stays in memory
    assert peak_bytes(check) < num_rows


@pytest.mark.parametrize("returning", [False, True])
def test_orders_of_rows_take_five_bytes_per_row(returning: bool) -> None:
    num_rows, size, last_step = 500_000, 1_000, 2_300
    epochs = Epochs(jax.random.key(0), num_rows, size, returning)
    orders, expected = Orders(epochs, last_step), [epochs.order(epoch).reshape(-1, size) for epoch in range(5)]

    def compare() -> None:
        for step in range(last_step):
            assert (orders.batch(step) == expected[step // 500][step % 500]).all()

    assert peak_bytes(compare) < 5.2 * num_rows
    assert (orders.batch(700) == expected[1][200]).all()  # one that has gone by
    orders.close()


SCRIPT = """
import json, sys, threading, time
import numpy as np
from flatprior.inference import SGMCMC, fit
from flatprior.models import MLP, Model, Normal, fan_in

peak = [0]


def anonymous():
    # the pages of files that are mapped are the system's to take back, and do not count
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)


rng = np.random.default_rng(0)
x = rng.normal(size=(200, 8)).astype(np.float32)
y = x[:, 0]
model = Model(MLP((990, 990), "relu"), Normal(0.5), fan_in())
threading.Thread(target=watch, daemon=True).start()
method = SGMCMC(num_warmup=10, num_samples=int(sys.argv[1]), thinning=1, num_chains=2, batch_size=20, start=None)
dtype = sys.argv[3] if len(sys.argv) > 3 else None
fitted = fit(model, method, x, y, key=0, progress=False, resume=sys.argv[2], draws_dtype=dtype)
fitted.predict(x).log_prob(y)
sizes = [value.nbytes for value in fitted.draws.values()]
print(json.dumps({"peak": peak[0] * 1024, "draws": sum(sizes), "weights": fitted.structure.num_weights}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "on_disk"), [((), 1.98e9), (("float16",), 0.99e9)])
def test_a_million_weights_take_no_more_memory_with_more_draws(
    tmp_path: Path, dtype: tuple[str, ...], on_disk: float
) -> None:
    """500 draws of 990,000 weights are 2 GB on disk, in half precision 1; a run has the same memory with more draws."""

    def run(num_samples: int) -> dict[str, int]:
        command = [sys.executable, "-c", SCRIPT, str(num_samples), str(tmp_path / f"{num_samples}"), *dtype]
        found: dict[str, int] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        return found

    few, many = run(50), run(250)  # fewer than 50 do not fill the parts that are in memory
    assert many["draws"] == pytest.approx(on_disk, rel=0.01)
    assert many["peak"] < few["peak"] + 0.3e9
    assert many["peak"] < 2.5e9
