"""The optimisation of point estimates, from their starting points, in blocks of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from jax import Array

from ..blocks import Run, run_in_blocks
from ..checkpoint import Checkpoint
from ..checks import check_positive_integer
from ..density import Density
from ..devices import Spread
from ..fingerprint import ByValue, fingerprint
from ..handlers import flat
from ..method import Kind
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..start import VALIDATION_KEY
from ..status import Status
from ..store import Store
from ..stored import READ_BYTES, bytes_per_row
from ..surface import Surface, surface_of
from .batches import batches_of, check_batch_size
from .effort import Effort, rows_in_memory
from .optimizer import check_optimizer
from .progress import Descent, Progress, end_of, progress_of, write_progress
from .steps import MAX_BLOCK_STEPS, State, Steps

ROWS_TOGETHER = 128
"""The largest number of rows that are evaluated together after a fit by smaller batches. In chunks that fit into a
cache, the rows of an image set take a third of the time that they take all at once, when they might not even fit in
memory."""
NUM_CHECKS = 100
"""The number of times that a run with early stopping evaluates the validation rows."""
SCORED = 0.5
"""The largest number of rows that are evaluated for each row that is fitted. Evaluating a row takes a third to all of
the time in which it is fitted, and so all evaluations at most half the time of the descent; the bound counts rows, and
not seconds, so that the result is the same on every machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSettings:
    """The settings of `MAP` and `MLE`; see `MAP`. Compared by value: see `fingerprint`."""

    kind: ClassVar[Kind] = "point"
    draws_chains: ClassVar[bool] = False
    leaves_out: ClassVar[str] = "A point leaves out all uncertainty about the weights."
    spreads_rows: ClassVar[bool] = True

    optimizer: optax.GradientTransformation | None = None
    num_steps: int = 2000
    batch_size: int | None = None
    num_restarts: int | None = None
    validation_fraction: float = 0.0
    patience: int = 10
    polish: bool = True
    init_strategy: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        counts = {"num_steps": self.num_steps, "patience": self.patience}
        optional = {"num_restarts": self.num_restarts, "batch_size": self.batch_size}
        counts |= {name: value for name, value in optional.items() if value is not None}
        for name, value in counts.items():
            check_positive_integer(type(self).__name__, name, value)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"{type(self).__name__}: expected 0 <= validation_fraction < 1; got {self.validation_fraction!r}."
            )
        if self.optimizer is not None:
            check_optimizer(type(self).__name__, ByValue(self.optimizer))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash(fingerprint(self))

    @property
    def growing(self) -> tuple[str, ...]:
        """See `Method.growing`: the default optimiser and validation rows depend on the total number of steps."""
        return () if self.optimizer is None or self.validation_fraction else ("num_steps",)

    @property
    def streams(self) -> bool:
        """Whether rows may stay on disk: it takes them by batches."""
        return self.batch_size is not None

    @property
    def num_descents(self) -> int:
        """The number of starting points of the optimiser."""
        return self.num_restarts or 1

    def surface(self, density: Density, data: Data) -> Surface:
        """Return the density at given points, evaluated on as many rows at a time as in the fit, or a few more."""
        rows = rows_in_memory(density, data, 1)
        if self.batch_size is not None:
            return surface_of(density, data, max(self.batch_size, min(ROWS_TOGETHER, rows)))
        return surface_of(density, data, rows if rows < data.num_rows else None)

    def effort(self, density: Density, data: Data) -> Effort:
        """Return how much may follow a descent from all starting points."""
        evaluations = self.num_steps * (self.batch_size or data.num_rows) * self.num_descents
        return Effort.of(evaluations, density, data)


def steps_of(settings: PointSettings, density: Density, data: Data) -> Steps:
    """Return the compiled steps of an optimiser, from the cache."""
    functions = ByValue(settings.optimizer), ByValue(settings.init_strategy)
    num_rows = data.num_rows if data.is_stored else None
    settled = settings.batch_size, settings.num_descents, *functions, num_rows, Spread.of(data)
    return program(Steps, density, data, *settled)


def starting_points(settings: PointSettings, density: Density, data: Data, *, key: Array) -> Weights:
    """Return the starting points of `descend`: site -> value in unconstrained coordinates, (restart, *shape)."""
    steps = steps_of(settings, density, data)
    return steps.weights(steps.start(key, data))


def descend(
    settings: PointSettings,
    density: Density,
    data: Data,
    validation: Data | None = None,
    *,
    key: Array,
    progress: bool,
    start: Weights | None = None,
    prior_power: Array | None = None,
    store: Store | None = None,
) -> Descent:
    """Minimise the negative log density from every starting point, with restarts spread over devices.

    Args:
        settings: the settings of the method.
        density: the density that is maximised.
        data: n rows.
        validation: the validation rows of early stopping.
        key: the key of starting points and batches.
        progress: show a progress bar.
        start: the starting points of the restarts, like `Descent.weights`; by default random ones.
        prior_power: the factor of the log prior in each restart, (restart,); by default 1.
        store: where the descent is written to, and from where it is continued.
    """
    num_rows, total = data.num_rows, settings.num_steps
    check_batch_size(type(settings).__name__, settings.batch_size, data)
    checkpoint = None if store is None else store.checkpoint("descent")
    saved = None if checkpoint is None else checkpoint.read()
    ended = None if checkpoint is None or saved is None else end_of(checkpoint, saved, total)
    if ended is not None:
        return ended
    steps = steps_of(settings, density, data)
    first = steps.start(key, data, total, start, prior_power)
    begun = Progress(first) if checkpoint is None or saved is None else progress_of(checkpoint, saved, first)
    del saved  # its arrays need not stay in memory
    tracker = _Tracker(settings, steps, density, validation, begun, checkpoint)
    with batches_of(data, settings.batch_size, total, key, steps.sharding) as batches:
        run: Run[State] = run_in_blocks(
            partial(steps.advance, batches=batches, prior_power=prior_power),
            begun.state,
            total,
            done=begun.done,
            label="MLE" if isinstance(density.model, flat) else "MAP",
            unit="step" if settings.batch_size is None else "epoch",
            steps_per_unit=steps.steps_per_epoch(num_rows),
            progress=progress,
            describe=lambda state, done: f"loss {np.nanmin(state.last_losses) * num_rows:.4g}",
            keep_going=tracker.keep_going,
            block_steps=_steps_per_check(total) if validation is not None else None,
            max_block_steps=MAX_BLOCK_STEPS,
        )
    descent = tracker.descent(run, num_rows)
    if checkpoint is not None:
        write_progress(checkpoint, tracker.progress, None if run.ended == "interrupted" else descent)
    return descent


class _Tracker:
    """The progress of a run, in memory and, where there is a checkpoint, on disk."""

    def __init__(
        self,
        settings: PointSettings,
        steps: Steps,
        density: Density,
        validation: Data | None,
        progress: Progress,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.settings, self.steps, self.progress, self.checkpoint = settings, steps, progress, checkpoint
        self.validation = validation
        if validation is not None:
            self.surface = settings.surface(density, validation)

    def keep_going(self, state: State, done: int) -> bool:
        """Return whether a restart is finite and, with validation rows, one has improved within `patience` checks."""
        if not self.steps.is_finite(state).any():
            return False
        progress = self.progress._replace(state=state, done=done)
        self.progress = progress if self.validation is None else self._checked(progress)
        if self.checkpoint is not None and self.checkpoint.is_due:
            write_progress(self.checkpoint, self.progress)
        return self.progress.waited < self.settings.patience

    def _checked(self, progress: Progress) -> Progress:
        """Return the progress with the weights that predict the validation rows best so far."""
        weights: dict[str, Any] = self.steps.weights(progress.state)
        losses = np.asarray(self.surface.validation_loss(weights, self.validation))
        better = losses < progress.best_loss
        if progress.best:
            weights = {
                site: np.where(better.reshape(-1, *(1,) * (value.ndim - 1)), value, progress.best[site])
                for site, value in weights.items()
            }
        best_step, waited = (progress.done, 0) if better.any() else (progress.best_step, progress.waited + 1)
        best_loss = np.where(better, losses, progress.best_loss)
        return progress._replace(best=weights, best_loss=best_loss, best_step=best_step, waited=waited)

    def descent(self, run: Run[State], num_rows: int) -> Descent:
        """Return the result of a run."""
        progress = self.progress
        none = np.empty((self.settings.num_descents, 0), jax.dtypes.canonicalize_dtype(float))
        losses = np.concatenate([none, *run.state.losses], axis=1) * num_rows
        status = self._status(run, losses)
        if progress.best and status:
            stopped = Reason.of(Code.STOPPED_EARLY, step=progress.best_step, total=self.settings.num_steps)
            status += Status(warnings=(stopped,))
            weights, final = progress.best, progress.best_loss
        else:
            weights, done = self.steps.weights(progress.state), progress.done
            last = losses[:, max(0, done - self.steps.steps_per_epoch(num_rows)) : max(1, done)]
            final = last.mean(axis=1) if last.size else np.full(len(losses), np.inf)  # interrupted at once
            final = np.where(self.steps.is_finite(progress.state), final, np.inf)
        return Descent(weights, losses, final, status)

    def _status(self, run: Run[State], losses: np.ndarray) -> Status:
        if run.ended == "interrupted":
            return Status(
                warnings=(Reason.of(Code.INTERRUPTED, done=run.done, total=self.settings.num_steps, unit="steps"),)
            )
        if run.ended == "stopped" and self.progress.done < run.done:
            bad = ~np.isfinite(losses).all(axis=0)
            step = int(np.argmax(bad)) if bad.any() else run.done  # losses are evaluated before the step
            value = losses[:, step].max() if bad.any() else np.nan
            code = Code.NON_FINITE_LOSS if step else Code.NON_FINITE_START
            return Status(failures=(Reason.of(code, value=value, step=step, last=self.progress.done),))
        return Status()


def split_validation(settings: PointSettings, key: Array, data: Data) -> tuple[Data, Data | None]:
    """Return the rows to fit and the validation rows, split at random. Validation rows are in memory.

    Rows in memory are copied: those to fit take as much of it once more. Of rows that are spread over devices each
    shard is split.

    Raises:
        ValueError: when no rows remain to fit.
    """
    num_rows, fraction = data.num_rows, settings.validation_fraction
    count = round(fraction * num_rows)
    if count == 0:
        return data, None
    if count == num_rows:
        raise ValueError(f"validation_fraction={fraction} of {count} rows leaves none to fit.")
    per_check = _steps_per_check(settings.num_steps) * (settings.batch_size or num_rows - count)
    count = min(count, max(1, int(SCORED * per_check)), max(1, READ_BYTES // bytes_per_row(data.rows)))
    key, spread = jax.random.fold_in(key, VALIDATION_KEY), Spread.of(data)
    if spread is None:
        order = np.asarray(jax.random.permutation(key, num_rows))
        return data.choose(order[count:]), data.take(order[:count]).on_device()
    shards = spread.num_shards
    count = max(1, round(count / shards))
    orders = np.stack([jax.random.permutation(each, num_rows // shards) for each in jax.random.split(key, shards)])
    return spread.take(data, orders[:, count:]), spread.take(data, orders[:, :count])


def _steps_per_check(num_steps: int) -> int:
    """Return the number of steps between two evaluations of the validation rows."""
    return min(MAX_BLOCK_STEPS, -(-num_steps // NUM_CHECKS))
