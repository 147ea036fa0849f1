"""Long runs in blocks: where they fall, what stops them, and what the clock says."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatprior.inference import MAP, NUTS, fit, newton, programs
from flatprior.inference.blocks import Run, Seconds, run_in_blocks, stopwatch
from flatprior.inference.methods import batches, chains, descent
from flatprior.inference.methods.batches import Resident
from flatprior.inference.rows import Data
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian


def advance(state: jax.Array, start: int, stop: int) -> jax.Array:
    """A step that depends on its number, and does not commute."""
    for step in range(start, stop):
        state = 0.9 * state + jnp.sin(step)
    return state


QUIET = {"label": "test", "unit": "step", "progress": False}
SIZES: dict[str, dict[str, Any]] = {
    "one block": {"block_steps": 100},
    "a step a block": {"block_steps": 1},
    "not even": {"block_steps": 7},
    "adapted": {},
    "adapted and limited": {"max_block_steps": 13},
    "with a bar": {"progress": True},
    "epochs": {"steps_per_unit": 8},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("num_steps", [1, 10, 100])
def test_where_blocks_fall_does_not_change_the_result(name: str, num_steps: int) -> None:
    run = run_in_blocks(advance, jnp.zeros(()), num_steps, **{**QUIET, **SIZES[name]})
    assert (run.done, run.ended) == (num_steps, "finished")
    np.testing.assert_array_equal(run.state, advance(jnp.zeros(()), 0, num_steps))


def test_blocks_follow_each_other() -> None:
    spans: list[tuple[int, int]] = []

    def block(state: int, start: int, stop: int) -> int:
        spans.append((start, stop))
        return state + stop - start

    run = run_in_blocks(block, 0, 95, block_steps=30, **QUIET)
    assert spans == [(0, 30), (30, 60), (60, 90), (90, 95)]
    assert run.state == 95


@pytest.mark.parametrize("at", [0, 1, 4])
def test_an_interrupt_keeps_the_last_finished_state(at: int) -> None:
    def block(state: int, start: int, stop: int) -> int:
        if start >= 10 * at:
            raise KeyboardInterrupt
        return stop

    run = run_in_blocks(block, 0, 100, block_steps=10, **QUIET)
    assert run == Run(10 * at, 10 * at, "interrupted")


def test_other_errors_are_not_caught() -> None:
    def block(state: int, start: int, stop: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_blocks(block, 0, 100, **QUIET)


def test_a_run_stops_when_it_is_told() -> None:
    run = run_in_blocks(
        lambda state, start, stop: stop, 0, 100, block_steps=10, keep_going=lambda s, n: n < 30, **QUIET
    )
    assert run == Run(30, 30, "stopped")


@pytest.mark.slow
def test_the_bar_says_what_describe_says(capsys: pytest.CaptureFixture[str]) -> None:
    """From the first second on: short runs show none."""

    def slow(state: int, start: int, stop: int) -> int:
        time.sleep(0.4)
        return stop

    settings = {"label": "walk", "unit": "step", "block_steps": 10, "describe": lambda state, done: f"at {state}"}
    run_in_blocks(slow, 0, 40, progress=True, **settings)
    shown = capsys.readouterr().err
    assert "walk" in shown
    assert "at 40" in shown
    run_in_blocks(slow, 0, 10, progress=True, **settings)
    assert capsys.readouterr().err == ""
    run_in_blocks(slow, 0, 40, progress=False, **settings)
    assert capsys.readouterr() == ("", "")


# Fits.

MODEL = Model(MLP((3,), "tanh"), Normal(0.5))
X = np.random.default_rng(0).normal(size=(40, 2))
Y = X @ [1.0, -1.0] + 0.5 * np.random.default_rng(1).normal(size=40)


def in_blocks_of(steps: int, interrupt_at: int | None = None) -> Callable[..., Any]:
    """`run_in_blocks` with blocks of this size, and with Ctrl-C pressed in the block that begins at a step."""

    def run(block: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def pressed(state: Any, start: int, stop: int) -> Any:
            if interrupt_at is not None and start >= interrupt_at:
                raise KeyboardInterrupt
            return block(state, start, stop)

        return run_in_blocks(pressed, *args, **{**options, "block_steps": steps})

    return run


@pytest.mark.parametrize("batch_size", [None, 9])
def test_where_blocks_fall_does_not_change_a_fit(batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    method = MAP(num_steps=60, batch_size=batch_size, polish=False)
    plain = fit(MODEL, method, X, Y, key=0, progress=False)
    for size in (1, 7, 60):
        monkeypatch.setattr(descent, "run_in_blocks", in_blocks_of(size))
        blocks = fit(MODEL, method, X, Y, key=0, progress=False)
        np.testing.assert_array_equal(blocks.stats["loss"], plain.stats["loss"])
        np.testing.assert_array_equal(blocks.draws["w1"], plain.draws["w1"])


@pytest.mark.parametrize("batch_size", [None, 9])
def test_batches_of_later_shuffles_are_other_batches(batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long runs are shuffled several times; where that falls does not change the batches."""
    method = MAP(num_steps=59, batch_size=batch_size, polish=False)
    plain = fit(MODEL, method, X, Y, key=1, progress=False)
    monkeypatch.setattr(batches, "SHUFFLED_ROWS", 90)
    programs._program.cache_clear()
    often = fit(MODEL, method, X, Y, key=1, progress=False)
    np.testing.assert_array_equal(often.stats["loss"], plain.stats["loss"])
    programs._program.cache_clear()


def test_an_interrupted_fit_keeps_its_weights_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    method = MAP(num_steps=60, polish=False)
    whole = fit(MODEL, method, X, Y, key=0, progress=False)
    monkeypatch.setattr(descent, "run_in_blocks", in_blocks_of(10, interrupt_at=30))
    result = fit(MODEL, method, X, Y, key=0, progress=False)
    assert result.status.level == "check"
    assert "Interrupted after 30 of 60 steps" in str(result.status)
    assert result.stats["loss"].shape == (1, 30)
    np.testing.assert_array_equal(result.stats["loss"], whole.stats["loss"][:, :30])
    assert np.isfinite(result.predict(X).log_prob(Y)).all()


def test_a_fit_interrupted_before_its_first_step_is_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "run_in_blocks", in_blocks_of(10, interrupt_at=0))
    result = fit(MODEL, MAP(num_steps=60, polish=False), X, Y, key=0, progress=False)
    assert "Interrupted after 0 of 60 steps" in str(result.status)
    assert np.isfinite(result.predict(X).log_prob(Y)).all()


def test_an_interrupted_finish_counts_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps are taken; the interrupt falls on the derivatives after the fourth."""
    of, calls = newton.Derivatives.of, iter(range(4))

    def interrupting(*args: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return of(*args)

    monkeypatch.setattr(newton.Derivatives, "of", interrupting)
    result = fit(MODEL, MAP(num_steps=1, num_restarts=1), X, Y, key=0, progress=False)
    assert "Interrupted after 3 of at most 300 steps of Newton's method" in str(result.status)
    assert np.isfinite(result.predict(X).log_prob(Y)).all()


TINY = NUTS(num_warmup=20, num_samples=30, num_chains=2, start=None, max_tree_depth=4)


@pytest.mark.slow
def test_interrupted_chains_keep_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(MLP(), Normal(0.5))
    whole = fit(model, TINY, X, Y, key=0, progress=False)
    monkeypatch.setattr(chains, "run_in_blocks", in_blocks_of(8, interrupt_at=24))  # the warm-up has 20 steps
    result = fit(model, TINY, X, Y, key=0, progress=False)
    assert result.status.level == "check"
    assert "Interrupted after 24 of 30 draws of each chain" in str(result.status)
    assert result.draws["w1"].shape == (2, 24, 2, 1)
    np.testing.assert_array_equal(result.draws["w1"], whole.draws["w1"][:, :24])
    monkeypatch.setattr(chains, "run_in_blocks", in_blocks_of(8, interrupt_at=8))
    with pytest.raises(KeyboardInterrupt):
        fit(model, TINY, X, Y, key=0, progress=False)


def test_early_stopping_keeps_the_best_weights_of_the_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with room to overfit labels that are noise: the validation loss rises, and the fit ends early."""
    seen: list[tuple[Any, float]] = []
    checked = descent._Tracker._checked

    def watched(tracker: Any, progress: Any) -> Any:
        losses = tracker.surface.validation_loss(tracker.steps.weights(progress.state), tracker.validation)
        seen.append((tracker.validation, float(losses[0])))
        return checked(tracker, progress)

    monkeypatch.setattr(descent._Tracker, "_checked", watched)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.integers(0, 2, 60)
    model = Model(MLP((16,), "tanh"), Bernoulli(), gaussian(10.0))
    method = MAP(num_steps=2000, validation_fraction=0.3, patience=5)
    for key in range(2):
        seen.clear()
        result = fit(model, method, x, y, key=key, progress=False)
        assert result.stats["loss"].shape[1] == 20 * len(seen) < 2000, key
        assert result.status.level == "check"
        assert "Stopped early at step" in str(result.status)
        assert "not the mode" in str(result.status)
        losses = [loss for _, loss in seen]
        assert losses[-1] > min(losses)
        rows = seen[0][0]
        assert rows.num_rows == 18
        assert -result.log_likelihood(rows.x, rows.y).sum() == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("batch_size", [None, 3, 20])
def test_validation_rows_are_no_more_than_half_of_those_that_are_fitted_between_checks(batch_size: int | None) -> None:
    """And never more than were asked for; every other row is fitted. No seconds are counted."""
    data = Data(jnp.arange(1000), jnp.arange(1000))
    method = MAP(num_steps=2000, batch_size=batch_size, validation_fraction=0.1)
    fitted, validated = descent.split_validation(method, jax.random.key(0), data)
    assert validated is not None
    assert validated.num_rows == (100 if batch_size is None else 10 * batch_size if batch_size < 10 else 100)
    assert sorted([*fitted.x.tolist(), *validated.y.tolist()]) == list(range(1000))
    assert fitted.x.tolist() != sorted(fitted.x.tolist())
    few, none = descent.split_validation(MAP(num_steps=2000, validation_fraction=1e-4), jax.random.key(0), data)
    assert none is None
    assert few is data


@pytest.mark.parametrize("batch_size", [1, 9, 40])
def test_an_epoch_takes_every_row_once_in_an_order_of_its_own(batch_size: int) -> None:
    """The rows that do not fill a batch wait for another epoch."""
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    per_epoch, num_steps = 40 // batch_size * batch_size, 5 * (40 // batch_size)
    (part,) = Resident(Data(x, y), batch_size, num_steps, jax.random.key(0)).parts(0, num_steps)
    order = part.order.reshape(-1, per_epoch)[:5]
    for epoch in order:
        assert len(set(epoch.tolist())) == per_epoch
        assert set(epoch.tolist()) <= set(range(40))
    assert len({tuple(epoch) for epoch in order}) == 5


# The clock.


def test_compiling_that_nests_is_counted_once() -> None:
    """JAX reports traces inside traces, and compiling inside tracing, each with its full length."""
    event = "/jax/core/compile/test_duration"
    with stopwatch() as seconds:
        time.sleep(0.2)
        jax.monitoring.record_event_duration_secs(event, 0.1)
        jax.monitoring.record_event_duration_secs(event, 0.2)
        jax.monitoring.record_event_duration_secs(event, 0.05)
        jax.monitoring.record_event_duration_secs("/jax/other", 10.0)
        time.sleep(0.1)
    assert seconds.compile == pytest.approx(0.2, abs=0.08)
    assert 0.02 < seconds.run < 5


def test_compiling_apart_is_added_up() -> None:
    event = "/jax/core/compile/test_duration"
    with stopwatch() as seconds:
        for _ in range(2):
            time.sleep(0.1)
            jax.monitoring.record_event_duration_secs(event, 0.1)
    assert seconds.compile == pytest.approx(0.2, abs=0.08)


def test_the_clock_stops_listening() -> None:
    with stopwatch() as seconds:
        pass
    jax.monitoring.record_event_duration_secs("/jax/core/compile/test_duration", 5.0)
    assert seconds.compile == 0
    with pytest.raises(ZeroDivisionError), stopwatch() as seconds:
        1 / 0  # noqa: B018
    jax.monitoring.record_event_duration_secs("/jax/core/compile/test_duration", 5.0)
    assert seconds.compile == 0


def test_the_clock_of_a_fit_covers_it() -> None:
    started = time.perf_counter()
    result = fit(Model(MLP((5,)), Normal(0.5)), MAP(num_steps=50), X, Y, key=0, progress=False)
    wall = time.perf_counter() - started
    assert result.seconds.compile > 0
    assert result.seconds.compile + result.seconds.run == pytest.approx(wall, rel=0.2, abs=0.5)


def test_seconds_print_as_a_line() -> None:
    assert str(Seconds(compile=3.653, run=0.214)) == "3.7 s to compile, 0.2 s to run"
