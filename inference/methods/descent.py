"""The optimisation of point estimates, from their starting points, in blocks of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from ..blocks import Run, run_in_blocks
from ..checks import check_positive_integer
from ..density import Density
from ..fingerprint import ByValue, fingerprint
from ..handlers import flat
from ..method import Kind
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..start import VALIDATION_KEY
from ..status import Status
from ..surface import Surface, surface_of
from .effort import Effort, rows_in_memory
from .optimizer import check_optimizer
from .steps import MAX_BLOCK_STEPS, State, Steps

ROWS_TOGETHER = 128
"""The largest number of rows that are evaluated together after a fit by smaller batches. In chunks that fit into a
cache, the rows of an image set take a third of the time that they take all at once, when they might not even fit in
memory."""
NUM_CHECKS = 100
"""The number of times that a run with early stopping evaluates the validation rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSettings:
    """The settings of `MAP` and `MLE`; see `MAP`. Compared by value: see `fingerprint`."""

    kind: ClassVar[Kind] = "point"
    draws_chains: ClassVar[bool] = False

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
    def num_descents(self) -> int:
        """The number of starting points of the optimiser."""
        return self.num_restarts or 1

    def surface(self, density: Density, data: Data) -> Surface:
        """Return the density at given points, evaluated on as many rows at a time as in the fit, or a few more."""
        if self.batch_size is None:
            return surface_of(density, data)
        return surface_of(density, data, max(self.batch_size, min(ROWS_TOGETHER, rows_in_memory(density, data, 1))))

    def effort(self, density: Density, data: Data) -> Effort:
        """Return how much may follow a descent from all starting points."""
        evaluations = self.num_steps * (self.batch_size or data.num_rows) * self.num_descents
        return Effort.of(evaluations, density, data)


class Descent(NamedTuple):
    """The end points of the optimiser, from all starting points."""

    weights: Weights
    """The weights by site, in unconstrained coordinates, (restart, *shape)."""
    losses: np.ndarray
    """The negative log density in nats before each step, (restart, step); an estimate for batches."""
    final: np.ndarray
    """The loss by which restarts are compared, (restart,)."""
    status: Status

    @property
    def best(self) -> int:
        """The restart with the smallest loss."""
        return int(np.argmin(np.where(np.isfinite(self.final), self.final, np.inf)))

    def member(self, restart: int) -> tuple[Weights, np.ndarray]:
        """Return the weights of one restart, and its losses, (step,)."""
        return jax.tree.map(lambda leaf: leaf[restart], (self.weights, self.losses))


def steps_of(settings: PointSettings, density: Density, data: Data) -> Steps:
    """Return the compiled steps of an optimiser, from the cache."""
    functions = ByValue(settings.optimizer), ByValue(settings.init_strategy)
    return program(Steps, density, data, settings.batch_size, settings.num_descents, *functions)


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
    """
    num_rows, total = data.num_rows, settings.num_steps
    if settings.batch_size is not None and settings.batch_size > num_rows:
        raise ValueError(f"Expected batch_size to be at most {num_rows}, the rows to fit; got {settings.batch_size}.")
    steps = steps_of(settings, density, data)
    tracker = _Tracker(settings, steps, density, validation, steps.start(key, data, total, start, prior_power))
    everywhere = jax.device_put(data, steps.sharding.all) if steps.sharding.mesh.size > 1 else data

    def block(state: State, begin: int, end: int) -> State:
        return steps.advance(state, begin, end, key=key, data=everywhere, num_steps=total, prior_power=prior_power)

    run: Run[State] = run_in_blocks(
        block,
        tracker.state,
        total,
        label="MLE" if isinstance(density.model, flat) else "MAP",
        unit="step" if settings.batch_size is None else "epoch",
        steps_per_unit=steps.steps_per_epoch(num_rows),
        progress=progress,
        describe=lambda state, done: f"loss {np.nanmin(state.last_losses) * num_rows:.4g}",
        keep_going=tracker.keep_going,
        align=steps.steps_per_shuffle(num_rows) if settings.batch_size else None,
        block_steps=min(MAX_BLOCK_STEPS, -(-total // NUM_CHECKS)) if validation is not None else None,
        max_block_steps=MAX_BLOCK_STEPS,
    )
    return tracker.descent(run, num_rows)


class _Tracker:
    """The last finite state of a run and, with validation rows, the weights with the smallest validation loss."""

    def __init__(
        self, settings: PointSettings, steps: Steps, density: Density, validation: Data | None, state: State
    ) -> None:
        self.settings, self.steps, self.state, self.done = settings, steps, state, 0
        self.validation = validation
        self.best: Weights = {}
        self.best_loss = np.array(np.inf)
        self.best_step = self.waited = 0
        if validation is not None:
            self.surface = settings.surface(density, validation)

    def keep_going(self, state: State, done: int) -> bool:
        """Return whether a restart is finite and, with validation rows, one has improved within `patience` checks."""
        if not self.steps.is_finite(state).any():
            return False
        self.state, self.done = state, done
        return self.validation is None or self._is_improving(done)

    def _is_improving(self, done: int) -> bool:
        weights: dict[str, Any] = self.steps.weights(self.state)
        losses = np.asarray(self.surface.validation_loss(weights, self.validation))
        better = losses < self.best_loss
        if self.best:
            weights = {
                site: np.where(better.reshape(-1, *(1,) * (value.ndim - 1)), value, self.best[site])
                for site, value in weights.items()
            }
        self.best, self.best_loss = weights, np.where(better, losses, self.best_loss)
        self.best_step, self.waited = (done, 0) if better.any() else (self.best_step, self.waited + 1)
        return self.waited < self.settings.patience

    def descent(self, run: Run[State], num_rows: int) -> Descent:
        """Return the result of a run."""
        none = np.empty((self.settings.num_descents, 0), jax.dtypes.canonicalize_dtype(float))
        losses = np.concatenate([none, *run.state.losses], axis=1) * num_rows
        status = self._status(run, losses)
        if self.best and status:
            stopped = Reason.of(Code.STOPPED_EARLY, step=self.best_step, total=self.settings.num_steps)
            status += Status(warnings=(stopped,))
            weights, final = self.best, self.best_loss
        else:
            weights = self.steps.weights(self.state)
            last = losses[:, max(0, self.done - self.steps.steps_per_epoch(num_rows)) : max(1, self.done)]
            final = last.mean(axis=1) if last.size else np.full(len(losses), np.inf)  # interrupted at once
            final = np.where(self.steps.is_finite(self.state), final, np.inf)
        return Descent(weights, losses, final, status)

    def _status(self, run: Run[State], losses: np.ndarray) -> Status:
        if run.ended == "interrupted":
            return Status(
                warnings=(Reason.of(Code.INTERRUPTED, done=run.done, total=self.settings.num_steps, unit="steps"),)
            )
        if run.ended == "stopped" and self.done < run.done:
            bad = ~np.isfinite(losses).all(axis=0)
            step = int(np.argmax(bad)) if bad.any() else run.done  # losses are evaluated before the step
            value = losses[:, step].max() if bad.any() else np.nan
            code = Code.NON_FINITE_LOSS if step else Code.NON_FINITE_START
            return Status(failures=(Reason.of(code, value=value, step=step, last=self.done),))
        return Status()


def split_validation(fraction: float, key: Array, data: Data) -> tuple[Data, Data | None]:
    """Return the rows to fit and the validation rows, split at random.

    Raises:
        ValueError: when no rows remain to fit.
    """
    count = round(fraction * data.num_rows)
    if count == 0:
        return data, None
    if count == data.num_rows:
        raise ValueError(f"validation_fraction={fraction} of {count} rows leaves none to fit.")
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, VALIDATION_KEY), data.num_rows))
    return data.take(order[count:]), data.take(order[:count])
