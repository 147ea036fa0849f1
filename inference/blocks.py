"""Long runs in blocks: the one loop of every method, and the clock that tells compiling from running."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import jax
from tqdm.auto import tqdm

BLOCK_SECONDS = 1.0
"""How long a block should take: how late a progress bar or Ctrl-C may be."""
FIRST_BLOCK = 50
"""The first block is one part in this many of the run; its time sets the size of the next."""
COMPILE_EVENTS = "/jax/core/compile/"


@dataclass(frozen=True)
class Run[State]:
    """Where a run in blocks stopped."""

    state: State
    done: int
    """Steps in `state`."""
    ended: Literal["finished", "stopped", "interrupted"]
    """Whether all steps were taken, `keep_going` said no, or the user pressed Ctrl-C."""


def run_in_blocks[State](
    block: Callable[[State, int, int], State],
    state: State,
    num_steps: int,
    *,
    label: str,
    unit: str,
    steps_per_unit: int = 1,
    progress: bool = True,
    describe: Callable[[State, int], str] = lambda state, done: "",
    keep_going: Callable[[State, int], bool] = lambda state, done: True,
    align: int | None = None,
    block_steps: int | None = None,
    max_block_steps: int | None = None,
) -> Run[State]:
    """Advance a state through num_steps steps, a block at a time.

    Between blocks the progress bar moves, `keep_going` is asked, and Ctrl-C is answered: the run then ends with the
    state of the last finished block. Where the blocks fall does not change what is computed, unless `keep_going` looks.

    Args:
        block: (state, start, stop) -> the state after the steps start, ..., stop - 1.
        state: where to begin; any pytree.
        num_steps: steps in all.
        label: what the progress bar says.
        unit: what the bar counts.
        steps_per_unit: steps in one of these units.
        progress: show a bar on the error stream, from the first second on.
        describe: what the bar says of a state.
        keep_going: whether to go on.
        align: a block does not cross a multiple of this many steps.
        block_steps: steps a block; by default they adapt to `BLOCK_SECONDS`.
        max_block_steps: upper limit of the adapted size.
    """
    done, size = 0, block_steps or min(-(-num_steps // FIRST_BLOCK), max_block_steps or num_steps)
    total = -(-num_steps // steps_per_unit)
    bar = tqdm(total=total, desc=label, unit=unit, disable=not progress, delay=1.0, file=sys.stderr, leave=False)
    try:
        with bar:
            while done < num_steps:
                started = perf_counter()
                stop = min(num_steps, done + size, (done // align + 1) * align if align else num_steps)
                state = jax.block_until_ready(block(state, done, stop))
                taken, done = stop - done, stop
                if progress:
                    bar.set_postfix_str(describe(state, done), refresh=False)
                    bar.update(-(-done // steps_per_unit) - bar.n)
                if not keep_going(state, done):
                    return Run(state, done, "stopped")
                if block_steps is None:
                    wanted = taken * BLOCK_SECONDS / max(perf_counter() - started, 1e-9)
                    size = max(1, min(int(wanted), 64 * taken, max_block_steps or num_steps))
    except KeyboardInterrupt:
        return Run(state, done, "interrupted")
    return Run(state, done, "finished")


@dataclass
class Seconds:
    """What a fit cost, in seconds of wall time."""

    compile: float = 0.0
    """Tracing and compiling; 0 when the same model, method and shapes were fitted before (a model that is a function is
    traced again, in milliseconds, to see whether it has changed)."""
    run: float = 0.0
    """Everything else."""


@contextmanager
def stopwatch() -> Iterator[Seconds]:
    """Measure a block of code. The result is filled in when the block ends."""
    seconds, spans = Seconds(), []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(COMPILE_EVENTS):
            spans.append((perf_counter() - duration_secs, perf_counter()))

    jax.monitoring.register_event_duration_secs_listener(note)
    started = perf_counter()
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
        seconds.compile = _covered(spans)
        seconds.run = max(0.0, perf_counter() - started - seconds.compile)


def _covered(spans: list[tuple[float, float]]) -> float:
    """The length of a union of intervals: traces nest, and would be counted twice."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
