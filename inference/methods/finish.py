"""The finish of a point estimate: Newton's method from where the optimiser ended, and whether that is a mode."""

import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm.auto import tqdm

from ..density import Density
from ..newton import Minimum, is_hopeless
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..second_order import FEW_WEIGHTS, HESSIAN_WEIGHTS, SecondOrder, from_vector, second_order_of
from ..status import Status
from ..surface import Surface
from .collapse import collapsing
from .descent import PointSettings
from .effort import Effort
from .further import not_reached
from .mode import ROUNDING, no_maximum, quasi_separable
from .progress import Descent
from .recession import MAX_ENTRIES, examine
from .representative import representative
from .scales import prior_conflict, raw_units, saturated
from .unbounded import is_exact, is_unbounded

MAX_STEPS = 300
"""The largest number of steps by Gauss-Newton matrices, and again by Hessians."""
MAX_GAIN, MAX_GAIN_PER_VALUE = 0.1, 1e-3
"""The Newton decrement in nats, or the gain of a few further steps, up to which a point counts as a mode; and that per
value of y up to which the weights of a network do: a change that no prediction shows. A row has one value, a text as
many as tokens."""
OTHER_STARTS, CHEAP = 7, 2**18
"""The number of further starting points, and the largest number of rows times weights for which they are tried."""
RADIUS = 2.0
"""Further starting points are uniform between -2 and 2 in unconstrained coordinates, as NumPyro's and Stan's."""
NOTICED, NOTICED_PER_ROW = 5.0, 0.05
"""The difference between two modes, in nats and in nats per row, up to which either may be the result."""
DIGITS = 1e-6
"""The Newton decrement in nats from which a few more steps lead to the last digits of a mode."""
COARSE = 1e-5
"""The rounding of a loss in float32, relative to its size."""


class Ending(NamedTuple):
    """The point at which a fit ends, and its status."""

    u: Weights
    decrement: float
    """The Newton decrement at the point in nats; infinite where Newton's method did not reach a mode."""
    loss: float
    """The negative log density at the point in nats."""
    status: Status = Status()
    minimum: Minimum | None = None
    """Where Newton's method ended, in float64; None where it was not used."""
    no_maximum: tuple[Reason, ...] = ()
    """Why there is no maximum, where Newton's method found that; the point is then where the optimiser ended."""

    @property
    def polished(self) -> bool:
        """Whether Newton's method reached a mode."""
        return math.isfinite(self.decrement)


def best_end(
    settings: PointSettings, density: Density, descent: Descent, data: Data, *, key: Array, progress: bool
) -> Ending:
    """Go on from all end points of a descent, and from further starting points where that is cheap, and judge the best.

    Args:
        settings: the settings of the descent.
        density: the density that was maximised.
        descent: the end points.
        data: n rows.
        key: the key of the descent.
        progress: show progress bars.
    """
    if data.is_stored:  # one pass through all rows, at the best end point
        return finish(settings, density, descent.member(descent.best), data, progress=progress)
    indices = np.flatnonzero(np.isfinite(descent.final)).tolist() or [descent.best]
    ends = {i: go_on(settings, density, descent.member(i), data, progress=progress) for i in indices}
    best = min(ends, key=lambda i: ends[i].loss if math.isfinite(ends[i].loss) else math.inf)
    if ends[best].status.is_interrupted:
        return ends[best]
    others = _from_other_starts(settings, density, ends[best].u, data, key) if settings.num_restarts is None else []
    modes = [end for end in (*ends.values(), *others) if end.polished]
    better = [end for end in modes if end.loss < ends[best].loss - ROUNDING]
    end = min(better, key=lambda end: end.loss, default=ends[best])
    judged = judge(settings, density, end, data)
    if judged.status.level == "ok" and density.structure.num_weights <= FEW_WEIGHTS:
        judged = judged._replace(status=Status(warnings=alone(modes, data.num_rows)))
    if others and others[-1].status.is_interrupted:
        judged = judged._replace(status=judged.status + others[-1].status)
    return judged


def _from_other_starts(
    settings: PointSettings, density: Density, like: Weights, data: Data, key: Array
) -> list[Ending]:
    """Return where Newton's method leads from points that are spread out; nothing where that is not cheap."""
    d = density.structure.num_weights
    if not settings.polish or settings.batch_size is not None or d > FEW_WEIGHTS or data.num_rows * d > CHEAP:
        return []
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    ends: list[Ending] = []
    while len(ends) < OTHER_STARTS and not (ends and ends[-1].status.is_interrupted):
        start = jax.device_put({site: rng.uniform(-RADIUS, RADIUS, value.shape) for site, value in like.items()})
        ends.append(go_on(settings, density, start, data))
    return ends


def alone(modes: list[Ending], num_rows: int) -> tuple[Reason, ...]:
    """Return a reason if only one starting point led to the best mode, and the next is noticeably worse."""
    losses = sorted(mode.loss for mode in modes)
    gap = losses[1] - losses[0] if len(losses) > 1 else 0.0
    if gap <= max(NOTICED, NOTICED_PER_ROW * num_rows):
        return ()
    return (Reason.of(Code.OTHER_MODES, count=len(modes), gap=gap),)


def finish(
    settings: PointSettings,
    density: Density,
    u: Weights,
    data: Data,
    prior_power: Array | None = None,
    *,
    progress: bool = False,
) -> Ending:
    """Go on to the mode from the end point of a descent, and check that it is one.

    Args:
        settings: the settings of the descent.
        density: the density that was maximised.
        u: the end point of the descent.
        data: n rows.
        prior_power: the factor of the log prior; see `descend`.
        progress: show a progress bar.
    """
    if data.is_stored:
        some = representative(settings.surface(density, data), u, data)
        loss = some.num_rows * float(settings.surface(density, some).loss(u, some, prior_power))
        stand_for_others = some.num_rows < data.num_rows
        return judge(settings, density, Ending(u, math.inf, loss), some, prior_power, is_sample=stand_for_others)
    end = go_on(settings, density, u, data, prior_power, progress=progress)
    return end if end.status.is_interrupted else judge(settings, density, end, data, prior_power)


def go_on(
    settings: PointSettings,
    density: Density,
    u: Weights,
    data: Data,
    prior_power: Array | None = None,
    *,
    progress: bool = False,
) -> Ending:
    """Return where Newton's method leads from a point; the point itself where that is no mode.

    Where the classes are separable Newton's method would go on until all weights are large and all rows certain.
    """
    surface = settings.surface(density, data)
    here = data.num_rows * float(surface.loss(u, data, prior_power))
    stay = Ending(u, math.inf, here)
    effort = settings.effort(density, data)
    problems = effort.affordable(second_order_of(density, data)) if settings.polish else ()
    is_large = density.structure.num_weights > HESSIAN_WEIGHTS
    if not problems or (is_large and settings.batch_size is not None) or no_maximum(surface, u, data, prior_power):
        return stay
    minimum = _minimum(problems, effort, is_large, u, data, prior_power, progress)
    if isinstance(minimum, Reason):
        return stay._replace(status=Status(warnings=(minimum,)))
    exactly = from_vector(minimum.u, u)
    if not minimum.decrement <= _enough(is_large, data, effort) or is_exact(surface, exactly, data):
        return stay._replace(minimum=minimum)
    there = {site: value.astype(u[site].dtype) for site, value in exactly.items()}
    unbounded = no_maximum(surface, there, data, prior_power)
    if unbounded:
        return stay._replace(minimum=minimum, no_maximum=unbounded)
    return Ending(there, minimum.decrement, minimum.value, minimum=minimum)


def _minimum(
    problems: tuple[SecondOrder, ...],
    effort: Effort,
    is_large: bool,
    u: Weights,
    data: Data,
    prior_power: Any,
    progress: bool,
) -> Minimum | Reason:
    """Return where the objectives lead from u, one after the other; a reason if the user pressed Ctrl-C."""
    bar = tqdm(desc="Newton", unit="step", disable=not progress, delay=1.0, file=sys.stderr, leave=False)
    taken, vector, at_most = 0, None, [min(MAX_STEPS, effort.max_steps(problem)) for problem in problems]

    def keep_going(decrements: list[float]) -> bool:
        nonlocal taken
        taken += len(decrements) > 1  # the first decrement of an objective is that of where it begins
        bar.update()
        return not (is_large and is_hopeless(decrements))

    try:
        with bar:
            for problem, max_steps in zip(problems, at_most, strict=True):
                is_last = problem is problems[-1]
                enough = DIGITS if is_last and not is_large else _enough(is_large, data, effort) / 2
                minimum = problem.minimise(
                    u,
                    data,
                    prior_power,
                    begin=vector,
                    max_steps=max_steps,
                    keep_going=keep_going,
                    enough=enough,
                    rows_together=effort.rows_together,
                    curvature_rows=effort.curvature_rows(problem),
                )
                vector = minimum.u
    except KeyboardInterrupt:
        total = f"at most {sum(at_most)}"
        return Reason.of(Code.INTERRUPTED, done=taken, total=total, unit="steps of Newton's method")
    return minimum


def _enough(is_large: bool, data: Data, effort: Effort) -> float:
    """Return the Newton decrement, or the gain of further steps, up to which a point counts as a mode, in nats."""
    return max(MAX_GAIN, MAX_GAIN_PER_VALUE * data.total_weight * effort.values_per_row) if is_large else MAX_GAIN


def judge(
    settings: PointSettings,
    density: Density,
    end: Ending,
    data: Data,
    prior_power: Array | None = None,
    *,
    is_sample: bool = False,
) -> Ending:
    """Return the point with its status: whether it is a mode, and whether there is one.

    The arguments are those of `finish`. Rows that are a `representative` sample may be separable, or leave directions
    open, although all rows are not: what depends on that is left out.
    """
    surface, effort = settings.surface(density, data), settings.effort(density, data)
    failures = no_maximum(surface, end.u, data, prior_power) or end.no_maximum
    collapse = Status() if failures else collapsing(surface, end.u, data, effort, prior_power)
    failures, warnings = failures or collapse.failures, collapse.warnings
    if not (end.polished or failures or warnings):
        warnings = _not_a_mode(settings, surface, end, data, effort, prior_power, is_sample=is_sample)
        weights = density.structure.num_weights
        interpolates = density.structure.is_flat and data.num_rows <= weights
        is_examined = end.minimum is not None and (weights <= HESSIAN_WEIGHTS or interpolates)
        is_suspect = bool(warnings) and is_examined
        failures = is_unbounded(surface, end.u, data, effort, prior_power, is_suspect=is_suspect)
        if failures:
            warnings = ()
        elif warnings:
            warnings = raw_units(surface, end.u, data) or warnings
    if not (failures or warnings or is_sample):
        failures = quasi_separable(surface, end.u, data)
    status = Status(failures, warnings)
    is_small = data.num_rows * density.structure.num_weights <= MAX_ENTRIES
    if status.level == "ok" and not is_sample and (settings.polish or settings.batch_size is None or is_small):
        status = examine(surface, end.u, data, effort, end.minimum if end.polished else None)
    if status.level == "ok" and prior_power is None:
        status = Status(warnings=_disagreement(surface, end, data, effort))
    return end._replace(status=status)


def _not_a_mode(
    settings: PointSettings,
    surface: Surface,
    end: Ending,
    data: Data,
    effort: Effort,
    prior_power: Array | None,
    *,
    is_sample: bool,
) -> tuple[Reason, ...]:
    """Return a reason if the end of a descent is no mode, by Newton's method or, without it, by a few further steps."""
    minimum = end.minimum
    if minimum is not None and settings.batch_size is None:
        gain = end.loss - minimum.value
        if gain > max(_enough(True, data, effort), COARSE * abs(end.loss)):
            return (Reason.of(Code.NOT_REACHED, steps=minimum.steps, gain=gain, per_row=gain / data.num_rows),)
    is_large = settings.batch_size is not None or surface.density.structure.num_weights > HESSIAN_WEIGHTS
    enough = max(_enough(is_large, data, effort), COARSE * abs(end.loss))
    return not_reached(surface, end.u, data, effort, prior_power, enough, is_sample=is_sample)


def _disagreement(surface: Surface, end: Ending, data: Data, effort: Effort) -> tuple[Reason, ...]:
    """Return the reasons why precision, units or priors do not fit the data, at a mode."""
    warnings = _too_coarse(surface, end, data) or saturated(surface, end.u, data)
    if not surface.density.structure.is_flat:
        warnings += prior_conflict(surface, end.u, data, _likelihood_lost(surface, end, data, effort))
    return warnings


def _too_coarse(surface: Surface, end: Ending, data: Data) -> tuple[Reason, ...]:
    """Return a reason if the weights and predictions of a mode lose much of its density in the precision of the fit."""
    if not end.polished:
        return ()
    lost = data.num_rows * float(surface.loss(end.u, data)) - end.loss
    if lost <= MAX_GAIN + COARSE * abs(end.loss):
        return ()
    precision = jnp.result_type(float).name
    return (Reason.of(Code.TOO_COARSE, precision=precision, lost=lost),)


def _likelihood_lost(surface: Surface, end: Ending, data: Data, effort: Effort) -> float:
    """Return the log likelihood of its maximum minus that of the mode, in nats; 0 where Newton's method finds none.

    For classes it is 0 as well: where they are nearly separable the maximum is far, and a prior is there to prevent it.
    """
    has_classes = any(response.num_classes is not None for response in surface.density.structure.responses)
    problems = effort.affordable(second_order_of(surface.density, data))
    if not problems or not end.polished or has_classes or surface.density.structure.num_weights > HESSIAN_WEIGHTS:
        return 0.0
    maximum = problems[-1].minimise(
        end.u,
        data,
        0.0,
        max_steps=min(MAX_STEPS, effort.max_steps(problems[-1])),
        rows_together=effort.rows_together,
        curvature_rows=effort.curvature_rows(problems[-1]),
    )
    if not maximum.decrement <= MAX_GAIN:
        return 0.0
    here = -float(np.sum(surface.log_likelihood(end.u, data), dtype=float))
    return max(0.0, here - maximum.value)
