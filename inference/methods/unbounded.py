"""A density that grows without bound, as the scale shrinks around rows that are fitted exactly.

Where no mode was found, and the density of a row is more than 100 times that of y spread over its standard deviation or
the model is small, 200 steps of L-BFGS follow in float64. There is no maximum if they reach residuals as small as the
rounding of y, or if they increase that density 10 times and 200 further steps lower the loss by another nat. Of large
data the steps are those of rows that stand for all; the loss and the density of all rows confirm where they lead.
"""

import math

import jax
import numpy as np
from jax import Array

from ..processes import readable
from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..surface import LBFGS_STEPS, Surface
from .effort import Effort
from .heads import Head, first, heads_of
from .representative import by_unit_weight, representative

EVALUATIONS = 2
"""The number of gradients in a step of L-BFGS."""
MAX_DENSITY = 100.0
"""The density of a row, relative to that of y spread over its standard deviation, above which it is checked."""
DENSITY_OF_EXACT = 0.4
"""The density of a row whose scale is one standard deviation, times that deviation: 1 / sqrt(2 pi)."""
MISSED = 0.1
"""The share of the density of an exact row that is left by ten roundings."""


def is_unbounded(
    surface: Surface,
    u: Weights,
    data: Data,
    effort: Effort,
    prior_power: Array | None = None,
    *,
    is_suspect: bool = False,
) -> tuple[Reason, ...]:
    """Return a reason if the density of a row grows without bound.

    Args:
        surface: the density, at given points.
        u: a point that is no mode.
        data: n rows.
        effort: how much may follow the fit.
        prior_power: the factor of the log prior.
        is_suspect: examine also a point whose rows are not remarkably dense yet.
    """
    heads = heads_of(surface, u, data)
    max_rows = effort.rows_for(LBFGS_STEPS * EVALUATIONS)
    return first(_grows(surface, head, u, data, prior_power, max_rows, is_suspect=is_suspect) for head in heads)


def _grows(
    surface: Surface,
    head: Head,
    u: Weights,
    data: Data,
    prior_power: Array | None,
    max_rows: int,
    *,
    is_suspect: bool,
) -> tuple[Reason, ...]:
    """Return a reason if the density of a row at one site grows without bound, as the loss of all sites falls.

    The steps are those of representative rows where there are more than `max_rows`; all rows confirm where they lead.
    """
    part, some = head.surface, head.data
    values = _numbers(part, some)
    if values is None:
        return ()
    times, _ = _densest_row(part, u, some, values)
    if times < MAX_DENSITY and not (is_suspect or (times and np.ptp(values, axis=0).min() == 0)):
        return ()
    few = representative(surface, u, data, max_rows)
    with jax.enable_x64(True):  # float32 is too coarse for so small a scale
        u, few, prior_power = jax.tree.map(in_double, (u, few, prior_power))
        moved, lowest = surface.lbfgs(u, few, prior_power)
        data, some = (
            (few, few) if few.num_rows == data.num_rows and some is data else jax.tree.map(in_double, (data, some))
        )
        here, further = (float(surface.loss(at, data, prior_power)) * data.num_rows for at in (u, moved))
        again, row = _densest_row(part, moved, some, values)
        if not (again > 10 * max(times, 1.0) and further < here - math.log(10)):
            return ()
        is_exact = again >= _density_of_exact(values)
        if not (is_exact or float(surface.lbfgs(moved, few, prior_power)[1]) < float(lowest) - 1.0):
            return ()
    numbers = {"row": row, "times": times, "again": again, "steps": LBFGS_STEPS, "here": here}
    return (Reason.of(Code.UNBOUNDED_DENSITY, **numbers, further=further),)


def is_exact(surface: Surface, u: Weights, data: Data) -> bool:
    """Return whether a row is so dense, at a point in float64, that only the rounding of y ends the growth."""
    for part, some in surface.by_site(data):
        values = _numbers(part, some)
        if values is None:
            continue
        with jax.enable_x64(True):
            densest, _ = _densest_row(part, u, jax.tree.map(in_double, some), values)
        if densest >= MISSED * _density_of_exact(values):
            return True
    return False


def _density_of_exact(values: np.ndarray) -> float:
    """Return the relative density of a row whose scale is the rounding of y; see `_densest_row`."""
    eps = float(np.finfo(values.dtype).eps)
    times = _spread(values) / (eps * np.maximum(np.abs(values).max(axis=0), eps))
    return DENSITY_OF_EXACT * float(np.exp(np.log(times).mean()))


def _numbers(surface: Surface, data: Data) -> np.ndarray | None:
    """Return the numbers of y, (n, numbers per row); None where y is discrete, or more than one array."""
    leaves, response = jax.tree.leaves(data.y), surface.density.structure.response
    if response.is_discrete or len(leaves) != 1:
        return None
    values = response.points(np.asarray(readable(leaves[0])))
    return values.reshape(len(values), -1).astype(values.dtype if values.dtype.kind == "f" else float)


def _spread(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each number of y; its size where y is constant, (numbers per row,)."""
    spread = values.std(axis=0, dtype=np.float64)
    return np.where(spread > 0, spread, np.maximum(np.abs(values).max(axis=0), 1.0))


def _densest_row(surface: Surface, u: Weights, data: Data, values: np.ndarray) -> tuple[float, int]:
    """Return the density of the densest row relative to y spread over its standard deviation, per number; and the row.

    It is 0 where no density is finite.
    """
    log_probs = by_unit_weight(surface.log_likelihood(u, data), data)
    if data.known is not None:
        known = np.asarray(readable(jax.tree.leaves(data.known)[0]))
        log_probs[~known.reshape(len(known), -1).any(axis=1)] = np.nan
    if np.isnan(log_probs).all():
        return 0.0, 0
    row = int(np.nanargmax(log_probs))
    nats = log_probs[row] / values.shape[1] + np.log(_spread(values)).mean()
    return math.exp(min(700.0, nats)), row
