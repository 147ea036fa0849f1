"""Newton's method for functions of some hundred weights, in float64: from far away, and to the last digit.

The steps are those of Levenberg and Marquardt: the curvature is scaled to a diagonal of 1, so that the units of the
weights do not matter, and damped as far as a step needs to lower the function (Nielsen 1999, section 3). Where it is
negative its absolute value is used, so that the steps lead down from there as well (Dauphin et al. 2014, section 4).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.linalg import LinAlgError
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

FLOOR = 1e-15
"""The smallest curvature, relative to a diagonal of 1: less is rounding."""
SINGULAR = 1e-12
"""The same where a matrix is factorised, which rounding must not make indefinite."""
NEGATIVE = -1e-9
"""The eigenvalue below which a curvature with a diagonal of 1 counts as negative, and not as 0."""
DAMPING = 1e-3
"""The damping of the first step, relative to a diagonal of 1."""
TRIALS = 40
"""How often a step that does not lower the function is damped further before the method ends."""
ENOUGH = 1e-4
"""The share of the decrease that the curvature promises by which a step has to lower the function."""
STALLS = 3
"""The number of steps without a smaller Newton decrement after which a minimum is as good as its gradient."""
SLOW = (0.3, 0.45)
"""The factors by which the decrement falls along a way without end, about 1 / e; near a minimum it falls faster."""
EXACT = 1e-6
"""The Newton decrement, in units of the function, at which a larger one in the next steps is rounding."""
WINDOW, HOPELESS = 20, 0.6
"""The number of steps in which the decrement has to fall to this share, where that is asked for."""
LAST = 3
"""The number of steps after a decrement that is small enough. In three steps an error falls to its eighth power."""
NEAR = 0.01
"""The Newton decrement, in units of the function, below which a step without damping is tried first."""


class Derivatives(NamedTuple):
    """A function at a point."""

    value: float
    slope: Float[np.ndarray, " d"]
    curvature: Float[np.ndarray, "d d"]
    """Its Hessian, or another matrix in place of it."""

    @classmethod
    def of(cls, value: Any, slope: Any, curvature: Any) -> "Derivatives":
        """Return the derivatives that are given as arrays of any kind."""
        return cls(float(value), np.asarray(slope), np.asarray(curvature))


class Minimum(NamedTuple):
    """The point at which Newton's method ends, and the function there."""

    u: Float[np.ndarray, " d"]
    value: float
    decrement: float
    """The Newton decrement ``g' H^-1 g / 2`` at u, in units of the function; infinite at a negative curvature."""
    slope: Float[np.ndarray, " d"]
    curvature: Float[np.ndarray, "d d"]
    steps: int
    """The number of steps taken."""


class _Spectrum:
    """The quadratic model at a point by the eigenvalues of the curvature, in coordinates in which its diagonal is 1."""

    def __init__(self, at: Derivatives, floor: float) -> None:
        self.scale = _scale(at)
        values, self.vectors = np.linalg.eigh(at.curvature * self.scale * self.scale[:, None])
        self.slopes, self.sizes = self.vectors.T @ (self.scale * at.slope), np.maximum(np.abs(values), floor)
        self.decrement = float((self.slopes**2 / self.sizes).sum()) / 2 if values[0] >= NEGATIVE else math.inf

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        """Return the damped step, and the decrease that the model promises."""
        damped = self.sizes + damping
        promised = float((self.slopes**2 / damped * (2 - self.sizes / damped)).sum()) / 2
        return -self.scale * (self.vectors @ (self.slopes / damped)), promised


class _Factor:
    """The quadratic model at a point whose curvature has no negative eigenvalues: a tenth of the cost of a spectrum."""

    def __init__(self, at: Derivatives, floor: float) -> None:
        self.scale, self.floor = _scale(at), max(floor, SINGULAR)
        self.curvature = at.curvature * self.scale * self.scale[:, None]
        self.slope = self.scale * at.slope
        self.decrement = self._step(0.0)[1]

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        """Return the damped step, and the decrease that the model promises."""
        step, promised = self._step(damping)
        return self.scale * step, promised

    def _step(self, damping: float) -> tuple[np.ndarray, float]:
        damping = max(damping, self.floor)
        damped = self.curvature + damping * np.eye(len(self.slope))
        try:
            step = -cho_solve(cho_factor(damped, lower=True, overwrite_a=True, check_finite=False), self.slope)
        except LinAlgError:  # rounding makes an eigenvalue negative
            return np.zeros_like(self.slope), math.inf
        return step, float(damping * step @ step - self.slope @ step) / 2


def _is_slow(decrements: list[float]) -> bool:
    """Return whether the decrement has fallen by a constant factor, as it does where there is no minimum."""
    if len(decrements) <= STALLS or decrements[-1 - STALLS] > NEAR:
        return False
    last = decrements[-1 - STALLS :]
    return all(SLOW[0] * before < after < SLOW[1] * before for before, after in pairwise(last))


def is_hopeless(decrements: list[float]) -> bool:
    """Return whether the decrement has hardly fallen in `WINDOW` steps: the way leads along a valley without end."""
    return len(decrements) > WINDOW and decrements[-1] >= HOPELESS * decrements[-1 - WINDOW]


def _scale(at: Derivatives) -> np.ndarray:
    diagonal = np.abs(np.diagonal(at.curvature))
    return 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))


def minimise(
    value: Callable[[np.ndarray], float],
    derivatives: Callable[[np.ndarray], Derivatives],
    u: Float[np.ndarray, " d"],
    *,
    max_steps: int,
    keep_going: Callable[[list[float]], bool] = lambda decrements: True,
    damping: float = DAMPING,
    floor: float = FLOOR,
    enough: float = 0.0,
    is_positive: bool = False,
) -> Minimum:
    """Minimise a function from u.

    Near a minimum the method ends where the Newton decrement no longer gets smaller: it is computed from gradients, so
    that the minimum is found to the precision of the gradient and not to its square root, as it would be by comparing
    values.

    Args:
        value: the function of a vector (d,).
        derivatives: its value, slope and curvature.
        u: where to begin.
        max_steps: the largest number of steps.
        keep_going: called with the decrements at all points so far; the method ends where it returns False.
        damping: the damping of the first step, relative to a curvature with a diagonal of 1.
        floor: the smallest eigenvalue of that curvature; smaller ones count as this.
        enough: the Newton decrement at which the method ends, after `LAST` steps more.
        is_positive: whether the curvature has no negative eigenvalues, as the Gauss-Newton matrix.

    Returns:
        The point with the smallest decrement among those that are near a minimum; the last point where none is.
    """
    with threadpool_limits(limits=1, user_api="blas"):  # for matrices of this size, several threads wait for each other
        here, growth, stalls = derivatives(u), 2.0, 0
        best = last = Minimum(u, here.value, math.inf, here.slope, here.curvature, 0)
        decrements: list[float] = []
        for taken in range(max_steps + 1):
            if not (np.isfinite(here.slope).all() and np.isfinite(here.curvature).all()):
                break
            model = _Factor(here, floor) if is_positive else _Spectrum(here, floor)
            decrements.append(model.decrement)
            last = Minimum(u, here.value, model.decrement, here.slope, here.curvature, taken)
            best, stalls = (last, 0) if model.decrement < best.decrement else (best, stalls + 1)
            if (
                taken == max_steps
                or (len(decrements) > LAST and decrements[-1 - LAST] <= enough)
                or (best.decrement <= EXACT and stalls >= STALLS)
                or _is_slow(decrements)
                or not keep_going(decrements)
            ):
                break
            is_near = model.decrement <= NEAR
            rounding, trial = (1e-13 * abs(here.value), 0.0) if is_near else (0.0, damping)
            for _ in range(TRIALS):
                step, promised = model.step(trial)
                new = value(u + step)
                if new <= here.value - ENOUGH * promised + rounding:
                    break
                if trial == damping:
                    damping, growth = max(damping * growth, 1e-12), growth * 2
                trial = damping
            else:
                break
            gain = min((here.value - new) / promised, 1.0) if promised > 0 else 1.0
            damping, growth = damping * max(0.1, 1 - (2 * gain - 1) ** 3), 2.0
            damping = 0.0 if damping < 1e-12 else damping
            u = u + step
            here = derivatives(u)
    return best if best.decrement <= max(NEAR, enough) else last
