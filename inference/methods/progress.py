"""How far a descent has come and where it ended, in memory and on disk."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..checkpoint import Checkpoint, Contents, leaves_of
from ..rows import Weights
from ..status import Status
from .steps import State


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

    def member(self, restart: int) -> Weights:
        """Return the weights of one restart."""
        return jax.tree.map(lambda leaf: leaf[restart], self.weights)  # type: ignore[no-any-return]


class Progress(NamedTuple):
    """The last finite state of a descent and, with validation rows, the weights with the smallest validation loss."""

    state: State
    done: int = 0
    """The number of steps that led to the state."""
    best: Weights = {}  # noqa: RUF012  # never changed
    """The weights with the smallest validation loss so far, like `Descent.weights`; empty before the first check."""
    best_loss: np.ndarray = np.array(np.inf)
    """Their validation loss, (restart,)."""
    best_step: int = 0
    """The step of the last improvement of any restart."""
    waited: int = 0
    """The number of checks since then."""


def write_progress(checkpoint: Checkpoint, progress: Progress, descent: Descent | None = None) -> None:
    """Write how far a descent has come and, if it has ended, its result.

    Args:
        checkpoint: the file.
        progress: the progress after a block.
        descent: the result, if the descent has ended.
    """
    about: dict[str, Any] = {name: getattr(progress, name) for name in ("done", "best_step", "waited")}
    arrays: dict[str, Any] = leaves_of(progress.state.svi) | {"best_loss": progress.best_loss}
    arrays |= {f"best/{site}": value for site, value in progress.best.items()}
    if progress.state.losses:
        arrays["losses"] = np.concatenate(progress.state.losses, axis=1)
    if descent is not None:
        about["status"] = descent.status.to_json()
        arrays |= {"all_losses": descent.losses, "final": descent.final}
        arrays |= {f"weights/{site}": value for site, value in descent.weights.items()}
    checkpoint.write(arrays, about)


def progress_of(checkpoint: Checkpoint, saved: Contents, start: State) -> Progress:
    """Return how far a descent has come.

    Args:
        checkpoint: the file.
        saved: what it contains.
        start: the state before the first step.
    """
    arrays, losses = saved.arrays, saved.arrays.get("losses")
    state = start._replace(svi=checkpoint.restore(start.svi, arrays), losses=() if losses is None else (losses,))
    numbers = {name: saved.about[name] for name in ("done", "best_step", "waited")}
    return Progress(state, best=_by_site("best", arrays), best_loss=arrays["best_loss"], **numbers)


def end_of(checkpoint: Checkpoint, saved: Contents, num_steps: int) -> Descent | None:
    """Return the result of a descent; None where it goes on.

    Args:
        checkpoint: the file.
        saved: what it contains.
        num_steps: the total number of steps, which may have been increased.

    Raises:
        ValueError: when the descent on disk has already taken more steps.
    """
    done = saved.about["done"]
    if done > num_steps:
        raise ValueError(
            f"resume: {checkpoint.path} contains a descent of {done} steps; got num_steps={num_steps}, which may be "
            f"increased, but not decreased. Give another folder."
        )
    has_stopped = bool(saved.about.get("status", [[], []]) != [[], []])
    if "status" not in saved.about or (done < num_steps and not has_stopped):
        return None
    weights, status = _by_site("weights", saved.arrays), Status.from_json(saved.about["status"])
    return Descent(weights, saved.arrays["all_losses"], saved.arrays["final"], status)


def _by_site(kind: str, arrays: Mapping[str, Any]) -> Weights:
    return {path.removeprefix(f"{kind}/"): value for path, value in arrays.items() if path.startswith(f"{kind}/")}
