"""Ensembles: many point estimates of one network, from different starting points."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from jax import Array

from ..checks import check_positive_integer
from ..density import Density
from ..devices import together
from ..method import Kind, Outcome
from ..reasons import Code, Reason, numbered
from ..rows import Data
from ..status import Status
from ..store import Store
from .descent import descend, split_validation
from .finish import Ending, finish
from .point import MAP, MLE


@dataclass(frozen=True)
class Ensemble:
    """An ensemble of independent point estimates; the predictive distribution is their mixture, with equal weights.

    With `MLE` this is a deep ensemble (Lakshminarayanan et al. 2017, section 2.4), with `MAP` an ensemble of modes of
    the posterior. The members differ only by their starting points: each is fitted to all rows. Where the density has
    one mode, all members end there, and the ensemble equals a single fit. Its members differ by the modes that the
    optimiser reaches, which is not the uncertainty of the posterior.

    Args:
        base: the method that fits each member. Members are restarts on the same batches.
        num_members: the number of members, which are the draws of one chain: draws are shaped (1, num_members, *shape
            of the site).

    Raises:
        ValueError: when a setting is out of range, or `base` has restarts of its own.
    """

    name: ClassVar[str] = "Ensemble"
    kind: ClassVar[Kind] = "approximation"
    draws_chains: ClassVar[bool] = False
    leaves_out: ClassVar[str] = (
        "An ensemble leaves out the uncertainty around each of its members, and weighs modes by how often they are "
        "found, not by their mass."
    )
    spreads_rows: ClassVar[bool] = True

    base: MAP | MLE = field(default_factory=MAP)
    _: KW_ONLY
    num_members: int = 10

    @property
    def streams(self) -> bool:
        """Whether rows may stay on disk; see `Method.streams`."""
        return self.base.streams

    def __post_init__(self) -> None:
        if not isinstance(self.base, MAP | MLE):
            raise ValueError(f"Ensemble: expected MAP(...) or MLE(...) as base; got {self.base!r}.")
        check_positive_integer("Ensemble", "num_members", self.num_members)
        if self.base.num_descents != 1:
            raise ValueError(
                f"Ensemble: expected a base with num_restarts=1, since each member is one restart; got "
                f"{self.base.num_restarts}. Set the number of members by num_members."
            )

    @property
    def growing(self) -> tuple[str, ...]:
        """See `Method.growing`."""
        return self.base.growing

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`."""
        if isinstance(self.base, MLE):
            maps = replace(self, base=self.base.as_map)
            return maps.run(density.flattened(), data, key=key, progress=progress, store=store)
        settings = replace(self.base, num_restarts=self.num_members)
        data, validation = split_validation(settings, key, data)
        descent = descend(settings, density, data, validation, key=key, progress=progress, store=store)
        data = together(data)
        stats: dict[str, Any] = {"loss": descent.losses}
        status, is_finite = descent.status, np.isfinite(descent.final)
        if not is_finite.any():  # as the failures report
            is_finite = np.ones(self.num_members, bool)
        elif not is_finite.all():
            status += Status(warnings=(self._non_finite(is_finite),))
        members = {i: descent.member(i) for i in np.flatnonzero(is_finite).tolist()}
        if descent.status.level == "ok":
            ends = {i: finish(settings, density, u, data, progress=progress) for i, u in members.items()}
            members = {i: end.u for i, end in ends.items()}
            status += Status(_of_members(ends, _failures), _of_members(ends, _warnings))
            if all(end.polished for end in ends.values()):
                stats["newton_decrement"] = np.array([end.decrement for end in ends.values()])
        surface = settings.surface(density, data)
        weights = [surface.constrain(u, data.few()) for u in members.values()]
        sites = density.structure.latents
        draws = {site: np.stack([np.asarray(each[site]) for each in weights])[None] for site in sites}
        return Outcome(draws, status, stats=stats)

    def _non_finite(self, is_finite: np.ndarray) -> Reason:
        size, rest = self.num_members, is_finite.sum()
        return Reason.of(Code.LOST_MEMBERS, members=numbered(~is_finite), size=size, rest=rest)


def _failures(end: Ending) -> tuple[Reason, ...]:
    return end.status.failures


def _warnings(end: Ending) -> tuple[Reason, ...]:
    return end.status.warnings


def _of_members(ends: dict[int, Ending], reasons_of: Callable[[Ending], tuple[Reason, ...]]) -> tuple[Reason, ...]:
    """Return one reason for all members with reasons: their number, and the reasons of the first."""
    reasons = {i: reasons_of(end) for i, end in ends.items() if reasons_of(end)}
    if not reasons:
        return ()
    first = next(iter(reasons))
    words = " ".join(map(str, reasons[first]))
    return (Reason.of(Code.MEMBERS, count=len(reasons), size=len(ends), first=first, reason=words),)
