"""Long runs in blocks: the loop that all methods share, and the time that a fit takes to compile and to run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from time import perf_counter
from typing import Literal

import jax
from tqdm.auto import tqdm

from .processes import agreed

BLOCK_SECONDS = 1.0
"""The target duration of a block, and so the delay of the progress bar and of Ctrl-C."""
FIRST_BLOCK = 50
"""The number of blocks of a run at the size of the first; its duration determines the size of the next."""
COMPILE_EVENTS = "/jax/core/compile/"


@dataclass(frozen=True)
class Run[State]:
    """The result of a run in blocks."""

    state: State
    done: int
    """The number of steps taken."""
    ended: Literal["finished", "stopped", "interrupted"]
    """The reason for the end: all steps were taken, `keep_going` returned False, or the user pressed Ctrl-C."""


def run_in_blocks[State](
    block: Callable[[State, int, int], State],
    state: State,
    num_steps: int,
    *,
    label: str,
    unit: str,
    done: int = 0,
    steps_per_unit: int = 1,
    progress: bool = True,
    describe: Callable[[State, int], str] = lambda state, done: "",
    keep_going: Callable[[State, int], bool] = lambda state, done: True,
    block_steps: int | None = None,
    max_block_steps: int | None = None,
) -> Run[State]:
    """Advance a state by num_steps steps, in blocks.

    Between blocks the progress bar moves and `keep_going` is called. After Ctrl-C the run ends with the state of the
    last finished block. The limits of blocks do not change the result, unless `keep_going` depends on them.

    Args:
        block: (state, start, stop) -> the state after the steps start, ..., stop - 1.
        state: the initial state; any pytree.
        num_steps: the total number of steps.
        label: the label of the progress bar.
        unit: the unit that the bar counts.
        done: the number of steps that led to the initial state.
        steps_per_unit: the number of steps per unit.
        progress: show a bar on the error stream, from the first second on.
        describe: a function that returns a description of a state for the bar.
        keep_going: a function that returns whether to continue.
        block_steps: the number of steps per block; by default it adapts to `BLOCK_SECONDS`.
        max_block_steps: the upper limit of the adapted number.
    """
    size = block_steps or min(-(-num_steps // FIRST_BLOCK), max_block_steps or num_steps)
    total, before = (-(-steps // steps_per_unit) for steps in (num_steps, done))
    bar = tqdm(
        total=total,
        initial=before,
        desc=label,
        unit=unit,
        disable=not progress,
        delay=1.0,
        file=sys.stderr,
        leave=False,
    )
    try:
        with bar:
            while done < num_steps:
                started = perf_counter()
                stop = min(num_steps, done + size)
                state = jax.block_until_ready(block(state, done, stop))
                taken, done = stop - done, stop
                if progress:
                    bar.set_postfix_str(describe(state, done), refresh=False)
                    bar.update(-(-done // steps_per_unit) - bar.n)
                going = keep_going(state, done)
                if block_steps is None:
                    wanted = taken * BLOCK_SECONDS / max(perf_counter() - started, 1e-9)
                    size = max(1, min(int(wanted), 64 * taken, max_block_steps or num_steps))
                size, going, ends = agreed(size, going)
                if not going or ends:
                    return Run(state, done, "interrupted" if ends and going else "stopped")
    except KeyboardInterrupt:
        return Run(state, done, "interrupted")
    return Run(state, done, "finished")


@dataclass
class Seconds:
    """The wall time of a fit, in seconds. Prints as "3.7 s to compile, 0.2 s to run"."""

    compile: float = 0.0
    """The time for tracing and compiling; 0 when the same model, method and shapes were fitted before (a function is
    traced again, in milliseconds, to see whether it has changed)."""
    run: float = 0.0
    """All other time."""

    def __str__(self) -> str:
        return f"{self.compile:.1f} s to compile, {self.run:.1f} s to run"


@contextmanager
def stopwatch() -> Iterator[Seconds]:
    """Measure the wall time of a block of code. The result is filled in when the block ends.

    What other threads compile in the meantime is not counted.
    """
    seconds, spans, thread = Seconds(), [], get_ident()

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if get_ident() == thread and event.startswith(COMPILE_EVENTS):
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
    """Return the length of a union of intervals: nested traces count once."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
