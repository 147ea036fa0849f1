"""Fits that continue after a kill: the same bits as a fit that was never interrupted, from another process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    Prior,
    Variational,
    blocks,
    checkpoint,
    fit,
)
from flatprior.inference.checkpoint import Checkpoint, leaves_of
from flatprior.inference.fingerprint import settings_in_words
from flatprior.inference.methods import finish
from flatprior.inference.methods.bound import Bound
from flatprior.inference.methods.steps import Steps
from flatprior.models import MLP, Bernoulli, Model, gaussian

MODEL = Model(MLP((3,), "tanh"), Bernoulli(), gaussian(1.0))
Rows = tuple[np.ndarray, np.ndarray]
SHORT: dict[str, Any] = {"num_steps": 90, "polish": False}
METHODS: dict[str, Any] = {
    "MAP by batches": MAP(batch_size=16, **SHORT),
    "MAP in full": MAP(num_steps=90),
    "MLE from three points": MLE(num_restarts=3, **SHORT),
    "MAP with validation rows": MAP(num_steps=90, validation_fraction=0.25, num_restarts=3, patience=40),
    "Ensemble": Ensemble(MAP(**SHORT), num_members=3),
    "Ensemble by batches with validation rows": Ensemble(
        MLE(batch_size=16, validation_fraction=0.25, patience=40, **SHORT), num_members=3
    ),
    "Laplace": Laplace(MAP(**SHORT), num_samples=12),
    "Prior": Prior(num_samples=12),
    "Variational": Variational(num_steps=90, batch_size=16, num_samples=12, start=MAP(**SHORT)),
    "Conditional": Conditional(base=MAP(**SHORT), sites=("w2", "b2"), method=Laplace(num_samples=12)),
    "the start of NUTS": NUTS(num_warmup=20, num_samples=10, num_chains=3, start=MAP(**SHORT)),
}
ROWS_PYTHON = """
rng = np.random.default_rng(0)
x = rng.normal(size=(90, 2))
y = (x[:, 0] + rng.logistic(size=90) > 0).astype(int)
"""


@pytest.fixture(scope="module")
def rows() -> Rows:
    named: dict[str, Any] = {"np": np}
    exec(ROWS_PYTHON, named)
    return named["x"], named["y"]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short blocks, and a write after each of them."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    monkeypatch.setattr(blocks, "BLOCK_SECONDS", 0.0)


def run(rows: Rows, method: Any, resume: Path | None = None, **changed: Any) -> Fit:
    given = {"model": MODEL, "x": rows[0], "y": rows[1], "key": 0, **changed}
    model, x, y = (given.pop(name) for name in ("model", "x", "y"))
    return fit(model, method, x, y, progress=False, resume=resume, **given)


def assert_same(result: Fit, whole: Fit) -> None:
    for named, expected in ((result.draws, whole.draws), (result.stats, whole.stats)):
        assert list(named) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(named[name], values, err_msg=name)
    assert result.status == whole.status
    np.testing.assert_equal(result.log_evidence, whole.log_evidence)
    for site, value in whole.outcome.linearized_at.items():
        np.testing.assert_array_equal(result.outcome.linearized_at[site], value)


@pytest.mark.slow
def test_a_guide_is_continued(rows: Rows, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["Variational"]
    for block in (7, 25):
        with monkeypatch.context() as patch:
            patch.setattr(Bound, "advance", stop_at(block, Bound.advance))
            assert run(rows, method, tmp_path).status.is_interrupted
    assert_same(run(rows, method, tmp_path), run(rows, method))


def stop_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is interrupted at one of its calls, from 0."""
    calls = iter(range(10**9))

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return stopped


@contextmanager
def compiled_programs() -> Iterator[list[str]]:
    """The names of the programs that are compiled within it."""
    names: list[str] = []

    def note(event: str, _: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "MAP by batches")) for name in METHODS if name != "Prior"],
)
def test_ctrl_c_and_the_same_call_again(name: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At several blocks of one run, the first among them, and then a finished run that is read."""
    method = METHODS[name]
    whole = run(rows, method)
    for block in (7, 0, 25):
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "advance", stop_at(block, Steps.advance))
            try:
                part = run(rows, method, tmp_path)
            except KeyboardInterrupt:  # there are no draws yet
                continue
            assert part.status.is_interrupted
    with compiled_programs() as names:
        assert_same(run(rows, method, tmp_path), whole)
    assert "jit(_block)" not in names  # a state from disk is that of the same program
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "advance", stop_at(0, Steps.advance))
        assert_same(run(rows, method, tmp_path), whole)


@pytest.mark.parametrize(
    "name", ["Prior", *(pytest.param(name, marks=pytest.mark.slow) for name in ("MAP in full", "Conditional"))]
)
def test_a_finished_fit_is_read(name: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS[name]
    whole = run(rows, method, tmp_path)
    assert_same(whole, run(rows, method))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(type(method), "run", stop_at(0, type(method).run))
    assert_same(run(rows, method, tmp_path), whole)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_fit_that_ended_during_the_finish_does_not_descend_again(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = METHODS["MAP in full"]
    with monkeypatch.context() as patch:
        patch.setattr(finish, "_minimum", stop_at(0, finish._minimum))
        with pytest.raises(KeyboardInterrupt):
            run(rows, method, tmp_path)
    whole = run(rows, method)
    monkeypatch.setattr(Steps, "advance", stop_at(0, Steps.advance))
    assert_same(run(rows, method, tmp_path), whole)


MORE = {
    "optimiser": lambda steps: MAP(optimizer=optax.adam(1e-2), num_steps=steps, polish=False, batch_size=16),
    "ensemble": lambda steps: Ensemble(MAP(optimizer=optax.adam(1e-2), num_steps=steps, polish=False), num_members=3),
}


@pytest.mark.parametrize("name", ["optimiser", pytest.param("ensemble", marks=pytest.mark.slow)])
def test_more_steps_of_an_optimiser_of_ones_own_are_those_of_a_longer_run(
    name: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, reads, read = MORE[name], [], Checkpoint.read
    run(rows, method(60), tmp_path)
    monkeypatch.setattr(Checkpoint, "read", lambda self: (reads.append(self.path.name), read(self))[1])
    assert_same(run(rows, method(90), tmp_path), run(rows, method(90)))
    assert reads.count("descent.npz") == 1
    with pytest.raises(ValueError, match=r"contains a descent of 90 steps; got num_steps=60, which may be increased"):
        run(rows, method(60), tmp_path)


@pytest.mark.slow
def test_other_numbers_of_draws_begin_where_the_descent_ended(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = METHODS["Laplace"]
    run(rows, method, tmp_path)
    monkeypatch.setattr(Steps, "advance", stop_at(0, Steps.advance))
    more = run(rows, Laplace(MAP(**SHORT), num_samples=20), tmp_path)
    assert more.draws["w1"].shape[:2] == (1, 20)


FIRST = MAP(optimizer=optax.adam(1e-2), **SHORT)
OTHERS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "key": (FIRST, {"key": 1}, "with another key"),
    "model": (FIRST, {"model": Model(MLP((3,), "tanh"), Bernoulli(), gaussian(2.0))}, "with another model"),
    "weights": (FIRST, {"weights": np.full(90, 2.0)}, "with another weights"),
    "patience": (MAP(optimizer=FIRST.optimizer, patience=3, **SHORT), {}, "method"),
    "optimiser": (MAP(optimizer=optax.adam(2e-2), **SHORT), {}, "another optimizer"),
}


@pytest.fixture(scope="module")
def finished(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first"
    run(rows, FIRST, path)
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_an_error(name: str, rows: Rows, finished: Path) -> None:
    method, changed, message = OTHERS[name]
    with pytest.raises(ValueError, match=f"resume: .* contains a run .*{message}"):
        run(rows, method, finished, **changed)


def test_steps_that_a_learning_rate_is_annealed_over_cannot_be_increased(rows: Rows, tmp_path: Path) -> None:
    run(rows, MAP(num_steps=60, polish=False), tmp_path)
    with pytest.raises(ValueError, match=r"another method.*num_steps can be increased only with an optimizer"):
        run(rows, MAP(num_steps=90, polish=False), tmp_path)
    with pytest.raises(ValueError, match=r"another method.*Give another folder, or remove this one\.$"):
        run(rows, MAP(num_steps=60), tmp_path)


def test_a_damaged_checkpoint_is_an_error(rows: Rows, tmp_path: Path) -> None:
    method = METHODS["MAP by batches"]
    run(rows, method, tmp_path)
    (tmp_path / "outcome.npz").unlink()
    descent = tmp_path / "descent.npz"
    content = descent.read_bytes()
    descent.write_bytes(content[: len(content) // 2] + b"x" + content[len(content) // 2 + 1 :])
    with pytest.raises(ValueError, match=r"descent.npz is damaged"):
        run(rows, method, tmp_path)


def test_a_state_is_written_so_rarely_that_it_takes_a_small_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of our own, on which a write takes 0.4 s: at most one in 20 s, as 5 s would be a share of 8%."""
    now = 0.0
    monkeypatch.setattr(checkpoint, "perf_counter", lambda: now)
    file, writes = Checkpoint(tmp_path / "state.npz"), []
    original = checkpoint.atomic_write

    def slowly(*args: Any) -> Path:
        nonlocal now
        now += 0.4
        return original(*args)

    monkeypatch.setattr(checkpoint, "atomic_write", slowly)
    while now < 100:
        now += 0.5
        if file.is_due:
            writes.append(now)
            file.write({"a": np.ones(2)}, {})
    assert writes[0] == 5.0
    assert (np.diff(writes) >= 20).all()
    assert len(writes) == 5


def test_a_checkpoint_has_the_types_of_the_state(tmp_path: Path) -> None:
    state = {"m": jnp.ones(3, jnp.bfloat16), "key": jax.random.split(jax.random.key(1), 2), "i": jnp.int8(3), "n": None}
    file = Checkpoint(tmp_path / "state.npz")
    assert file.read() is None
    file.write(leaves_of(state) | {"file": np.zeros(1)}, {"done": 3})
    saved = file.read()
    assert saved is not None
    assert saved.about == {"done": 3}
    again = file.restore(jax.tree.map(jnp.zeros_like, state), saved.arrays)
    assert jax.tree.map(lambda leaf: leaf.dtype, again) == jax.tree.map(lambda leaf: leaf.dtype, state)
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(str, each) for each in (again, state)))
    with pytest.raises(ValueError, match="does not fit the method"):
        file.restore({**state, "i": jnp.zeros(2)}, saved.arrays)


WORKER = f"""
import os, signal, sys
import numpy as np
from flatprior.inference import *
from flatprior.inference import blocks, checkpoint
from flatprior.models import MLP, Bernoulli, Model, gaussian

{ROWS_PYTHON}
checkpoint.INTERVAL, checkpoint.SHARE, blocks.BLOCK_SECONDS = 0.0, np.inf, 0.0
folder, method, kill = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
model = Model(MLP((3,), "tanh"), Bernoulli(), gaussian(1.0))
writes, original = 0, os.fsync

def killed(*args):
    global writes
    writes += 1
    if writes == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)

os.fsync = killed  # after the temporary file was written, and before it was renamed
print("begins", flush=True)
result = fit(model, method, x, y, key=0, resume=folder, progress=False)
if kill == 0:
    sys.path.insert(0, {str(Path(__file__).parents[1])!r})
    from tests.test_resume import assert_same
    assert_same(result, fit(model, method, x, y, key=0, progress=False))
    print("the same", flush=True)
"""


def worker(folder: Path, method: Any, kill: int) -> subprocess.Popen[str]:
    """A process that fits, and kills itself in the middle of a write, by its number; 0 compares with a whole fit."""
    command = [sys.executable, "-c", WORKER, str(folder), repr(method), str(kill)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_is_continued_by_another(tmp_path: Path) -> None:
    method = METHODS["MAP by batches"]
    with worker(tmp_path, method, 9) as process:
        process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "descent.partial.npz").exists()
    saved = Checkpoint(tmp_path / "descent.npz").read()
    assert saved is not None
    assert 0 < saved.about["done"] < 90
    with worker(tmp_path, method, 0) as process:
        out, _ = process.communicate(timeout=120)
    assert out == "begins\nthe same\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_processes_that_are_killed_at_any_moment_are_continued(name: str, tmp_path: Path) -> None:
    """While the description, states and the outcome are written, and at random moments of the finish."""
    method, pauses = METHODS[name], random.Random(0)
    for kill in (1, 3, 30, 10**6) if name == "Ensemble" else (5, 10**6):
        with worker(tmp_path, method, kill) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if kill == 10**6:
                time.sleep(pauses.uniform(0.5, 4.0))
                process.kill()
    with worker(tmp_path, method, 0) as process:
        out, _ = process.communicate(timeout=240)
    assert out == "begins\nthe same\n"


@pytest.mark.slow
def test_functions_have_the_same_digest_in_every_process() -> None:
    """However the hash of strings is seeded, and unlike those of other functions."""
    code = (
        "import optax; from numpyro.infer import init_to_value; from flatprior.inference import MAP;"
        "from flatprior.inference.fingerprint import settings_in_words;"
        "adam = optax.chain(optax.clip(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 99)));"
        "print(settings_in_words(MAP(optimizer=adam, init_strategy=init_to_value(values={'w': 1.0}))))"
    )
    command = [sys.executable, "-c", code]
    words = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in "12"
    }
    assert len(words) == 1
    assert "optimizer" in words.pop()
    rates = (optax.adam(optax.cosine_decay_schedule(1e-2, steps)) for steps in (99, 99, 100))
    one, same, other = (settings_in_words(MAP(optimizer=rate)) for rate in rates)
    assert one == same
    assert one["method"] == other["method"]
    assert one["optimizer"] != other["optimizer"]
