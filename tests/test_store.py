"""Runs on disk: continued to the same bits, whatever moment they ended at, and never with another run's draws."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from flatprior.inference import MCLMC, NUTS, Fit, checkpoint, fit
from flatprior.inference.checkpoint import Checkpoint
from flatprior.inference.methods import chains, nuts
from flatprior.inference.store import held
from flatprior.models import MLP, Bernoulli, Lift, Model, gaussian

from .tables import some_by_default

LOGISTIC = Model(MLP(), Bernoulli(), gaussian(1.0))
SETTINGS = {"num_warmup": 20, "num_chains": 2, "start": None}
Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    return x, (x[:, 0] + rng.logistic(size=30) > 0).astype(int)


def run(rows: Rows, num_samples: int, resume: Path | None = None, **changed: Any) -> Fit:
    settings = {"model": LOGISTIC, "key": 0, "x": rows[0], **changed}
    method = NUTS(num_samples=num_samples, **{**SETTINGS, **settings.pop("settings", {})})
    return fit(settings["model"], method, settings["x"], rows[1], key=settings["key"], resume=resume, progress=False)


@pytest.fixture(scope="module")
def whole(rows: Rows) -> Fit:
    return run(rows, 60)


@pytest.fixture(scope="module")
def half(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 30 draws."""
    path = tmp_path_factory.mktemp("runs") / "half"
    run(rows, 30, path)
    return path


@pytest.fixture
def folder(half: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(half, tmp_path / "run"))


def assert_same(result: Fit, whole: Fit) -> None:
    for named, expected in ((result.draws, whole.draws), (result.stats, whole.stats)):
        assert set(named) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(named[name], values, err_msg=name)
    assert result.status == whole.status


@pytest.mark.slow
def test_twice_half_the_draws_are_the_whole_to_the_bit(rows: Rows, whole: Fit, folder: Path) -> None:
    assert_same(run(rows, 60, folder), whole)


def test_a_run_with_enough_draws_is_read_and_not_run(rows: Rows, whole: Fit, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    result = run(rows, 20, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for site, values in whole.draws.items():
        np.testing.assert_array_equal(result.draws[site], values[:, :20])


def test_draws_on_disk_take_no_memory_and_predict_as_others_do(rows: Rows, whole: Fit, folder: Path) -> None:
    result = run(rows, 60, folder)
    assert all(isinstance(values.base, np.memmap) for values in result.draws.values())
    np.testing.assert_array_equal(result.predict(rows[0]).probs, whole.predict(rows[0]).probs)


def test_what_a_block_left_unfinished_is_dropped(rows: Rows, whole: Fit, folder: Path) -> None:
    """As when the process ended between the draws and the state."""
    for file in folder.glob("*.bin"):
        with file.open("ab") as stream:
            stream.write(b"half a block")
    (folder / "state.partial.npz").write_bytes(b"half a state")
    assert_same(run(rows, 60, folder), whole)


@pytest.mark.parametrize("block", some_by_default([0, 1, 3, 5, 8], 0, 3))
def test_ctrl_c_keeps_finished_blocks_and_the_run_goes_on(
    rows: Rows, whole: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(chains, "BLOCK_DRAWS", 10)
    calls = 0
    original = nuts._Sampler.advance

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > block:
            raise KeyboardInterrupt
        return original(*args)

    settings = {"settings": {"max_tree_depth": 9}}  # a kernel of its own: the length of the buffer is compiled in
    expected = run(rows, 60, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(nuts._Sampler, "advance", interrupted)
        try:
            part = run(rows, 60, tmp_path / "run", **settings)
        except KeyboardInterrupt:
            part = None  # during the warm-up
    if part is not None:
        assert part.status.level == "check"
        assert part.status.is_interrupted
        assert 0 < part.stats["lp"].shape[1] < 60
    assert_same(run(rows, 60, tmp_path / "run", **settings), expected)


def test_an_interrupt_within_a_write_leaves_no_draw_twice(
    rows: Rows, whole: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as the second draws were appended in part: what is held is written again, in the same place."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    sizes, original = {0}, os.fsync

    def interrupted(file: int) -> None:
        size, draws = os.fstat(file).st_size, tmp_path / "run" / "000.bin"
        if draws.exists() and os.path.samestat(os.fstat(file), draws.stat()) and size not in sizes:
            sizes.add(size)
            if len(sizes) == 3:
                os.ftruncate(file, size - 3)
                raise KeyboardInterrupt
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        part = run(rows, 60, tmp_path / "run")
    count = part.stats["lp"].shape[1]
    assert part.status.is_interrupted
    np.testing.assert_array_equal(part.draws["w1"], whole.draws["w1"][:, :count])
    assert_same(run(rows, 60, tmp_path / "run"), whole)


def test_a_folder_is_that_of_one_fit_at_a_time(rows: Rows, folder: Path, whole: Fit) -> None:
    elsewhere = (
        "import fcntl, os, sys\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", elsewhere, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="resume: expected a folder that no other fit writes to"):
            run(rows, 60, folder)
        other.kill()  # however it ends, the folder is free again
    with held(folder), pytest.raises(ValueError, match=r"resume: .* another fit is using"):
        run(rows, 60, folder)  # in one process as well
    assert_same(run(rows, 60, folder), whole)


def spoil_json(folder: Path) -> None:
    (folder / "run.json").write_text('{"version": 1, "iden')


def of_the_future(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "version": 99}))


def spoil_state(folder: Path) -> None:
    state = folder / "state.npz"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def cut_short(folder: Path) -> None:
    os.truncate(folder / "000.bin", 8)


def without_run(folder: Path) -> None:
    (folder / "run.json").unlink()


SPOILT = {
    "damaged json": (spoil_json, "run.json is damaged"),
    "a future format": (of_the_future, "has format 99; this release of flatprior reads 2"),
    "damaged state": (spoil_state, "state.npz is damaged"),
    "draws cut short": (cut_short, "000.bin is shorter than its run"),
    "other files": (without_run, "contains other files"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_an_error(rows: Rows, folder: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        run(rows, 60, folder)


OTHERS = {
    "key": ({"key": 1}, "with another key"),
    "model": ({"model": Model(MLP(), Bernoulli(), gaussian(2.0))}, "with another model"),
    "method": ({"settings": {"target_accept_prob": 0.9}}, "with another method"),
    "x": ({"x": np.ones((30, 2))}, "with another x"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_an_error_and_not_mixed_in(rows: Rows, folder: Path, name: str) -> None:
    changed, message = OTHERS[name]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match=message):
        run(rows, 60, folder, **changed)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def of_slope(scale: float) -> Callable[..., None]:
    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(np.zeros(x.shape[1]), scale).to_event(1))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    return model


def lifted(activation: Any) -> Model:
    module = equinox.nn.MLP(2, 1, 3, 1, activation=activation, key=jax.random.key(0))
    return Model(Lift(module), Bernoulli(), gaussian(1.0))


ALIKE = {
    "functions of one name": (of_slope(1.0), of_slope(2.0)),
    "modules of one shape": (lifted(jax.nn.relu), lifted(jnp.sin)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_models_that_are_alike_in_words_are_distinguished_by_their_density(
    rows: Rows, tmp_path: Path, name: str
) -> None:
    one, other = ALIKE[name]
    first = run(rows, 5, tmp_path, model=one)
    with pytest.raises(ValueError, match="with another density: expected -"):
        run(rows, 5, tmp_path, model=other)
    assert_same(run(rows, 5, tmp_path, model=one), first)


WORKER = """
import sys
import numpy as np
from flatprior.inference import MCLMC, NUTS, checkpoint, fit
from flatprior.models import MLP, Bernoulli, Model, gaussian

rng = np.random.default_rng(0)
x = rng.normal(size=(30, 2))
y = (x[:, 0] + rng.logistic(size=30) > 0).astype(int)
checkpoint.INTERVAL, checkpoint.SHARE = 0.0, np.inf
print("begins", flush=True)
fit(Model(MLP(), Bernoulli(), gaussian(1.0)), eval(sys.argv[2]), x, y, key=0, resume=sys.argv[1], progress=False)
"""
KILLED = {
    "NUTS": NUTS(num_samples=4000, **SETTINGS),
    "MCLMC": MCLMC(num_samples=20_000, thinning=2, **SETTINGS | {"num_warmup": 500}),
}
NUM_KILLS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_process_that_is_killed_loses_nothing_that_was_finished(name: str, rows: Rows, tmp_path: Path) -> None:
    """By SIGKILL at random moments: every other one soon after a block, and so often within the writing of the next."""
    method = KILLED[name]
    expected = fit(LOGISTIC, method, *rows, key=0, progress=False)
    path, pauses = tmp_path / "run", random.Random(0)
    command = [sys.executable, "-c", WORKER, str(path), repr(method)]
    for kill in range(NUM_KILLS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        started, begun = time.monotonic(), num_stored(path)
        while kill % 2 and process.poll() is None and num_stored(path) == begun and time.monotonic() - started < 120:
            time.sleep(0.001)
        time.sleep(pauses.uniform(0, 0.05 if kill % 2 else 3.0))
        process.kill()
        process.wait()
        process.stdout.close()
        assert num_stored(path) >= begun
    jax.clear_caches()
    assert_same(fit(LOGISTIC, method, *rows, key=0, resume=path, progress=False), expected)


def num_stored(path: Path) -> int:
    state = Checkpoint(path / "state.npz").read()
    return 0 if state is None else int(state.about["kept"])
