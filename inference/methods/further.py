"""What a few further steps gain, from the end of a descent that Newton's method does not follow.

The losses of a descent say little about how far the mode is: by batches their fall is hidden in the noise of the
batches, and where a learning rate falls to 0 they fall with the noise of the steps, however near the mode is. So ten
steps of L-BFGS follow, on all rows where the descent was long enough to pay for that. Otherwise the steps are those of
half of some rows that stand for all, and the other half says what they gain: there the fit of the steps to the rows at
hand is a loss. A point that is far from the mode is still found, one that is less far is not.

The gain is a lower bound of what is missing. For networks of two and three layers on 1,000 to 60,000 rows, by 100 to
100,000 steps, three to five times as many steps gain 5 to 20 times as much: about 0.01 nats per row where these gain
0.001.
"""

import math
from typing import Any

import numpy as np
from jax import Array
from scipy.optimize import minimize

from ..processes import readable
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..second_order import as_vector, from_vector, sampled
from ..surface import Surface, surface_of
from .effort import Effort

STEPS, EVALUATIONS = 10, 13
"""The number of steps of L-BFGS, and the gradients that they usually need."""
SHARES = (1.0, 0.5, 0.25)
"""The shares of the way that the steps lead at which their gain is asked."""


def not_reached(
    surface: Surface,
    u: Weights,
    data: Data,
    effort: Effort,
    prior_power: Array | None,
    enough: float,
    *,
    is_sample: bool = False,
) -> tuple[Reason, ...]:
    """Return a reason if a few further steps lower the loss.

    Args:
        surface: the density, at given points.
        u: the point where a fit ended.
        data: n rows.
        effort: how much may follow the fit.
        prior_power: the factor of the log prior.
        enough: the gain in nats up to which the point counts as a mode.
        is_sample: whether the rows stand for others.
    """
    count = min(effort.rows_of(EVALUATIONS), data.num_rows)
    for_steps = for_gain = data
    if count < data.num_rows or is_sample:
        for_steps, for_gain = _halves(sampled(data, count))
        surface = surface_of(surface.density, for_steps, surface.rows_together)  # they need not be spread as all are
    step, num_steps = _further(surface, u, for_steps, prior_power)

    def loss(share: float) -> float:
        there = {site: value + (share * step[site]).astype(value.dtype) for site, value in u.items()}
        return for_gain.num_rows * float(surface.loss(there, for_gain, prior_power))

    gain = loss(0.0) - min(map(loss, SHARES))
    if not gain > enough:
        return ()
    return (Reason.of(Code.NOT_STATIONARY, steps=num_steps, gain=gain, per_row=gain / data.total_weight),)


def _further(surface: Surface, u: Weights, data: Data, prior_power: Array | None) -> tuple[Weights, int]:
    """Return how far the steps lead, and their number."""
    like: dict[str, Any] = {site: np.asarray(readable(value)) for site, value in u.items()}

    def nats(vector: np.ndarray) -> tuple[float, np.ndarray]:
        there = {site: value.astype(like[site].dtype) for site, value in from_vector(vector, like).items()}
        value, slope = readable(surface.value_and_slope(there, data, prior_power))
        loss = float(value) if np.isfinite(value) else math.inf
        return data.num_rows * loss, data.num_rows * as_vector(slope).astype(float)

    begin = as_vector(like).astype(float)
    options = {"maxiter": STEPS, "maxfun": 2 * EVALUATIONS}
    end = minimize(nats, begin, jac=True, method="L-BFGS-B", options=options)
    return from_vector(end.x - begin, like), int(end.nit)


def _halves(data: Data) -> tuple[Data, Data]:
    """Return every second row and the others, each of which stands for all."""
    rows = np.arange(data.num_rows)
    first, second = (data.take(each).weighted(np.full(len(each), 2.0)) for each in (rows[::2], rows[1::2]))
    return first, second
