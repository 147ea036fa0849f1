"""Point estimates: maximum likelihood and maximum a posteriori."""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from jax import Array

from ..density import Density
from ..devices import together
from ..method import Outcome
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..second_order import HESSIAN_WEIGHTS
from ..status import Status
from ..store import Store
from .descent import PointSettings, descend, split_validation
from .finish import Ending, best_end, finish, go_on
from .mode import no_maximum
from .representative import representative


@dataclass(frozen=True, kw_only=True, eq=False)
class MAP(PointSettings):
    """Maximum a posteriori: ``argmax_w log p(y | x, w) + log p(w)``, by NumPyro's SVI with a delta guide.

    The maximum is that of the density in the coordinates of the model's sites (AutoDelta's space). For a scale it
    differs from the mode of its logarithm, at which a Laplace approximation is centred. The joint density of a prior's
    scale and the weights that it scales usually has no maximum, which the status then says (see `collapse`).

    Args:
        optimizer: an optax optimiser of the loss divided by the number of rows. By default Adam, with a learning rate
            that falls from 0.01 to 0 by a cosine over `num_steps`. One with weight decay is refused: weight decay is a
            prior that is not in the density.
        num_steps: the total number of updates.
        batch_size: rows per update, drawn without replacement in each epoch (rows that do not fill a batch are left for
            another epoch); None is all rows. The memory beyond x, y and the weights is then that of one batch. After
            the last step all rows are evaluated, as many at a time as a batch has, or up to 128 where these fit in 256
            MiB. For more than 256 weights, or more rows than `polish` pays for, the end of a fit by batches is judged
            by what ten further steps of L-BFGS gain: no more than 0.001 nats per row, or per token of a text, where it
            is "ok". They are those of all rows after some 26 epochs, or where 2^30 rows times weights are not exceeded.
            Otherwise they are those of some rows and judged by others, and only a fit that is far from its mode is
            found.
        num_restarts: independent starting points, run side by side on the same batches; the best mode is the result.
            None is one for the optimiser and, up to 32 weights and 262,144 rows times weights, seven more from which
            Newton's method alone seeks a mode, uniform between -2 and 2 in unconstrained coordinates. The status says
            where only one of all points led to the best mode, and it is the best by far.
        validation_fraction: the share of validation rows, which are not fitted: the fit stops when their loss has not
            improved for `patience` of 100 checks, at the best weights so far. 0 is no early stopping. A fit that
            stopped early is not at the mode, as its status reports. By batches there are at most as many validation
            rows as half of the rows that are fitted between two checks (2,560 for the default `num_steps` and batches
            of 256), so that checks take at most half of the time of the steps, and never more than fit in 256 MiB; all
            other rows are fitted. Those to fit are a copy of x and y, unless they stay on disk.
        patience: see `validation_fraction`.
        polish: go on to the mode by Newton's method on all rows, in float64, for at most 300 steps, and for about as
            many evaluations of rows as the optimiser used: they are counted and not timed, so that a fit is the same on
            every machine. Data are small, and cost nothing, up to 2^29 rows times weights. Rows are evaluated a part at
            a time, and where data are large the curvature is that of some of them. Up to 256 weights it uses Hessians
            and ends there to working precision, whatever the units of x and y; up to 1,024, in fits to all rows at
            once, it uses Gauss-Newton matrices, and a mode is a point from which a further step promises less than 0.1
            nats, or 0.001 nats per row, or per token of a text. The fit stays where the optimiser ended, and its status
            says so, if no mode is reached.
        init_strategy: a NumPyro initialisation strategy such as `numpyro.infer.init_to_median`. By default weight
            matrices start at Normal(0, 1 / sqrt(inputs)) (LeCun et al. 1998, section 4.6) and other sites near their
            prior mean; the sites of a lifted module start at the module's own values, in further restarts with the
            elements of each matrix shuffled (see `flatprior.models.Lift`).

    Raises:
        ValueError: when a setting is out of range, or the optimiser has weight decay.
    """

    name: ClassVar[str] = "MAP"

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`."""
        data, validation = split_validation(self, key, data)
        descent = descend(self, density, data, validation, key=key, progress=progress, store=store)
        data = together(data)
        u = descent.member(descent.best)
        surface, stats, status = self.surface(density, data), {"loss": descent.losses}, descent.status
        if status.level == "ok":
            end = best_end(self, density, descent, data, key=key, progress=progress)
            u, status = end.u, end.status
            stats |= {"newton_decrement": np.asarray(end.decrement)} if end.polished else {}
        elif status:
            status = Status(no_maximum(surface, u, representative(surface, u, data)), status.warnings)
        draws = {site: np.asarray(value)[None, None] for site, value in surface.constrain(u, data.few()).items()}
        return Outcome(draws, status, stats=stats)


@dataclass(frozen=True, kw_only=True, eq=False)
class MLE(PointSettings):
    """Maximum likelihood, ``argmax_w log p(y | x, w)``: `MAP` under a flat prior. Its settings are those of `MAP`.

    Sites on which only the prior depends, such as a scale of it that is learned, have no such estimate and no draws.
    """

    name: ClassVar[str] = "MLE"

    @property
    def as_map(self) -> MAP:
        """The same settings for the density under a flat prior."""
        return MAP(**_settings(self))

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`."""
        return self.as_map.run(density.flattened(), data, key=key, progress=progress, store=store)


def _settings(method: PointSettings) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in fields(method) if field.init}


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
    reasons = finish(MAP(), density, u, data).status.reasons
    return tuple(Reason.of(Code.IMPROPER_POSTERIOR, reason=each) for each in reasons if each.code in IMPROPER)


def from_mode(settings: PointSettings, density: Density, u: Weights, data: Data) -> Ending:
    """Return the mode near the end of a descent, where a model of some weights with a meaning has one; else that end.

    In raw units a descent is short of it by far. The mode of a network may fit noise, far from most of its posterior.

    Raises:
        KeyboardInterrupt: when Newton's method was interrupted.
    """
    structure = density.structure
    if not settings.polish or data.is_stored or structure.exchangeable or structure.num_weights > HESSIAN_WEIGHTS:
        return Ending(u, math.inf, math.nan)
    end = go_on(settings, density, u, data)
    if end.status.is_interrupted:
        raise KeyboardInterrupt
    return end
