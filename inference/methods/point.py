"""Point estimates: maximum likelihood and maximum a posteriori."""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..density import Density
from ..method import Outcome
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..status import Status
from ..surface import Surface
from .descent import PointSettings, descend, split_validation
from .mode import MAX_GAIN, is_unbounded, no_maximum, not_stationary, quasi_separable, still_falling
from .recession import MAX_ENTRIES, MAX_WEIGHTS, examine
from .scales import prior_conflict, raw_units, saturated


@dataclass(frozen=True, kw_only=True, eq=False)
class MAP(PointSettings):
    """Maximum a posteriori: ``argmax_w log p(y | x, w) + log p(w)``, by NumPyro's SVI with a delta guide.

    The maximum is that of the density in the coordinates of the model's sites (AutoDelta's space). For a scale it
    differs from the mode of its logarithm, at which a Laplace approximation is centred.

    Args:
        optimizer: an optax optimiser of the loss divided by the number of rows. By default Adam, with a learning rate
            that falls from 0.01 to 0 by a cosine over `num_steps`. One with weight decay is refused: weight decay is a
            prior that is not in the density.
        num_steps: the total number of updates.
        batch_size: rows per update, drawn without replacement in each epoch (rows that do not fill a batch are left for
            another epoch); None is all rows. The memory beyond x, y and the weights is then that of one batch. After
            the last step all rows are evaluated, as many at a time as a batch has, or 128; only the polish, and the
            checks whether there is a maximum, use all rows at once. The status of a fit by batches
            judges convergence from the noisy losses alone: a fit with too few steps may be "ok".
        num_restarts: independent starting points, run side by side on the same batches; the one with the smallest
            loss is the result.
        validation_fraction: the share of validation rows, which are not fitted: the fit stops when their loss has not
            improved for `patience` of 100 checks, at the best weights so far. 0 is no early stopping. A fit that
            stopped early is not at the mode, as its status reports.
        patience: see `validation_fraction`.
        polish: finish by Newton's method on all rows, if there are at most 256 weights and the loss is convex around
            the point that the optimiser reached. Linear and logistic models reach their optimum to working precision.
        init_strategy: a NumPyro initialisation strategy such as `numpyro.infer.init_to_median`. By default weight
            matrices start at Normal(0, 1 / sqrt(inputs)) (LeCun et al. 1998, section 4.6) and other sites near their
            prior mean; the sites of a lifted module start at the module's own values, in further restarts with the
            elements of each matrix shuffled (see `flatprior.models.Lift`).

    Raises:
        ValueError: when a setting is out of range, or the optimiser has weight decay.
    """

    name: ClassVar[str] = "MAP"

    def run(self, density: Density, data: Data, *, key: Array, progress: bool) -> Outcome:
        """See `Method.run`."""
        data, validation = split_validation(self.validation_fraction, key, data)
        descent = descend(self, density, data, validation, key=key, progress=progress)
        u, losses = descent.member(descent.best)
        surface, stats, status = self.surface(density, data), {"loss": descent.losses}, descent.status
        if status.level == "ok":
            end = finish(self, density, u, losses, data)
            u, status = end.u, end.status
            stats |= {"newton_decrement": np.asarray(end.decrement)} if end.polished else {}
        elif status:
            status = Status(no_maximum(surface, u, data), status.warnings)
        draws = {site: np.asarray(value)[None, None] for site, value in surface.constrain(u, data).items()}
        return Outcome(draws, status, stats=stats)


@dataclass(frozen=True, kw_only=True, eq=False)
class MLE(PointSettings):
    """Maximum likelihood, ``argmax_w log p(y | x, w)``: `MAP` under a flat prior. Its settings are those of `MAP`."""

    name: ClassVar[str] = "MLE"

    @property
    def as_map(self) -> MAP:
        """The same settings for the density under a flat prior."""
        return MAP(**_settings(self))

    def run(self, density: Density, data: Data, *, key: Array, progress: bool) -> Outcome:
        """See `Method.run`."""
        return self.as_map.run(density.flattened(), data, key=key, progress=progress)


def _settings(method: PointSettings) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in fields(method) if field.init}


class Ending(NamedTuple):
    """The point at which a fit ends, and its status."""

    u: Weights
    decrement: float
    """The Newton decrement at the point in nats; infinite where Newton's method did not reach a mode."""
    status: Status = Status()

    @property
    def polished(self) -> bool:
        """Whether Newton's method reached a mode."""
        return self.decrement <= MAX_GAIN


def finish(
    settings: PointSettings,
    density: Density,
    u: Weights,
    losses: np.ndarray,
    data: Data,
    prior_power: Array | None = None,
) -> Ending:
    """Polish the end point of a descent, and check whether it is a mode.

    Args:
        settings: the settings of the descent.
        density: the density that was maximised.
        u: the end point of the descent.
        losses: the losses of the descent, (step,).
        data: n rows.
        prior_power: the factor of the log prior; see `descend`.
    """
    surface, end, minimum = settings.surface(density, data), Ending(u, math.inf), None
    if settings.polish and density.structure.num_weights <= MAX_WEIGHTS:
        power = jnp.ones(()) if prior_power is None else prior_power  # so that no other value compiles anew
        point, nearby = jax.device_get(surface.newton(u, data, power))
        polished = Ending(point, float(nearby.decrement))
        end, minimum = polished if polished.polished else end, nearby
    failures = no_maximum(surface, end.u, data, prior_power)
    warnings: tuple[Reason, ...] = ()
    if not (end.polished or failures):
        warnings = still_falling(losses)
        if settings.batch_size is None and not warnings:
            warnings = not_stationary(surface, end.u, data, prior_power)
        is_suspect = bool(warnings) and minimum is not None
        failures = is_unbounded(surface, end.u, data, prior_power, is_suspect=is_suspect)
        if failures:
            warnings = ()
        elif warnings:
            warnings = raw_units(surface, end.u, data) or warnings
    if not (failures or warnings):
        failures = quasi_separable(surface, end.u, data)
    status = Status(failures, warnings)
    is_small = data.num_rows * density.structure.num_weights <= MAX_ENTRIES
    if status.level == "ok" and (settings.polish or settings.batch_size is None or is_small):
        status = examine(surface, end.u, data, minimum if end.polished else None)
    if status.level == "ok" and prior_power is None:
        status = Status(warnings=_disagreement(surface, end, data))
    return end._replace(status=status)


def _disagreement(surface: Surface, end: Ending, data: Data) -> tuple[Reason, ...]:
    """Return the reasons why units or priors do not fit the data, at a mode."""
    warnings = saturated(surface, end.u, data)
    if not surface.density.structure.is_flat:
        warnings += prior_conflict(surface, end.u, data, _likelihood_lost(surface, end, data))
    return warnings


def _likelihood_lost(surface: Surface, end: Ending, data: Data) -> float:
    """Return the log likelihood of its maximum minus that of the mode, in nats; 0 where Newton's method finds none.

    For classes it is 0 as well: where they are nearly separable the maximum is far, and a prior is there to prevent it.
    """
    response = surface.density.structure.response
    if not end.polished or response.num_classes is not None:
        return 0.0
    without = jnp.zeros(())
    maximum, nearby = jax.device_get(surface.newton(end.u, data, without))
    if not nearby.decrement <= MAX_GAIN:
        return 0.0
    here, there = (float(surface.loss(u, data, without)) for u in (end.u, maximum))
    return max(0.0, data.num_rows * (here - there))


IMPROPER = {
    Code.SEPARABLE,
    Code.SATURATED,
    Code.MISSING_CLASS,
    Code.QUASI_SEPARABLE,
    Code.RECEDING,
    Code.NOT_UNIQUE,
}
"""The reasons of a point estimate under a flat prior that leave its posterior without a finite integral."""


def improper(density: Density, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if the likelihood does not fall along some direction in which the prior is flat.

    Its integral is then infinite, which chains do not show.

    Args:
        density: the density that is sampled.
        u: a point from which a mode is sought.
        data: n rows.
    """
    if not density.structure.flat:
        return ()
    reasons = finish(MAP(), density, u, np.empty(0), data).status.reasons
    return tuple(Reason.of(Code.IMPROPER_POSTERIOR, reason=each) for each in reasons if each.code in IMPROPER)
