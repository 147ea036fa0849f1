"""Ensembles: many point estimates of one network, from as many starting points."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from jax import Array

from .. import status as says
from ..density import NumPyroModel, Rows, Structure, flat
from ..status import Status
from .descent import descend, hold_out, program_of
from .method import Kind, Outcome
from .point import MAP, MLE, Ending, finish


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Independent point estimates side by side; the predictive distribution is their mixture, with equal weights.

    With `MLE` this is a deep ensemble (Lakshminarayanan et al. 2017, section 2.4), with `MAP` an ensemble of modes of
    the posterior. The members differ by their starting points alone: all rows are given to each of them. Where the
    density has one mode they all end there, and the ensemble says no more than one of them. Its spread is that of the
    modes which the optimiser finds, not the posterior's.

    Args:
        base: how each member is fitted. A member is one restart; they take the same batches.
        size: the number of members, the draws of the one chain: draws are shaped (1, size, *shape of the site).

    Raises:
        ValueError: when a setting is out of its range, or `base` has restarts of its own.
    """

    kind: ClassVar[Kind] = "approximation"

    base: MAP | MLE = field(default_factory=MAP)
    size: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.base, MAP | MLE):
            raise ValueError(f"Ensemble: expected MAP(...) or MLE(...) as base; got {self.base!r}.")
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"Ensemble: expected a positive integer as size; got {self.size!r}.")
        if self.base.num_restarts != 1:
            raise ValueError(
                f"Ensemble: expected a base with num_restarts=1, since each member is one restart; got "
                f"{self.base.num_restarts}. Give their number as size."
            )

    def run(
        self, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array, progress: bool
    ) -> Outcome:
        """See `Method.run`."""
        if isinstance(self.base, MLE):
            return replace(self, base=MAP(**vars(self.base))).run(
                flat(model), structure, x, y, key=key, progress=progress
            )
        settings = replace(self.base, num_restarts=self.size)
        x, y, validation = hold_out(settings.validation_fraction, key, x, y)
        descent = descend(settings, model, structure, x, y, validation, key=key, progress=progress)
        program = program_of(settings, model, structure, x, y)
        stats, failures, warnings = {"loss": descent.losses}, descent.failures, descent.warnings
        finite = np.flatnonzero(np.isfinite(descent.final))
        if not finite.size:  # the failures say so
            finite = np.arange(self.size)
        elif finite.size < self.size:
            lost = says.listed(~np.isfinite(descent.final))
            warnings += (says.LOST_MEMBERS.format(members=lost, size=self.size, kept=finite.size),)
        members = [descent.member(i)[0] for i in finite.tolist()]
        if not (descent.failures or descent.warnings):
            ends = {
                i: finish(settings, program, structure, params, descent.losses[i], x, y)
                for i, params in zip(finite.tolist(), members, strict=True)
            }
            members = [end.params for end in ends.values()]
            failures += _in_one(ends, lambda end: end.failures)
            warnings += _in_one(ends, lambda end: end.warnings)
            if all(end.polished for end in ends.values()):
                stats["newton_decrement"] = np.array([end.decrement for end in ends.values()])
        weights = [program.constrain(params) for params in members]
        draws = {site: np.stack([np.asarray(each[site]) for each in weights])[None] for site in structure.latents}
        return Outcome(draws, Status(failures, warnings), stats=stats)


def _in_one(ends: dict[int, Ending], reasons: Callable[[Ending], tuple[str, ...]]) -> tuple[str, ...]:
    """What is to be said of some members in one sentence: who, and what of the first of them."""
    said = {i: reasons(end) for i, end in ends.items() if reasons(end)}
    if not said:
        return ()
    first = next(iter(said))
    return (says.OF_MEMBERS.format(count=len(said), size=len(ends), first=first, reason=" ".join(said[first])),)
